//! In what two replicas differ that should agree.

use std::fmt;

/// How many differences are told one by one.
const TOLD: usize = 16;

/// Something that is not the same in two epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it is.
    pub name: String,
    /// Its value here, if it has one.
    pub here: Option<String>,
    /// Its value there, if it has one.
    pub there: Option<String>,
    /// Whether one side says that it can never be another.
    pub fixed: bool,
}

/// All that is not the same in two epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differences(pub(super) Vec<Difference>);

impl Differences {
    /// Each of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Difference> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one may take the place of the other while no replica runs.
    pub fn may_be_accepted(&self) -> bool {
        self.0.iter().all(|difference| !difference.fixed)
    }

    /// Those that can never be.
    pub fn fixed(&self) -> Differences {
        let fixed = self.0.iter().filter(|difference| difference.fixed);
        Differences(fixed.cloned().collect())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value =
            |value: &Option<String>| value.clone().unwrap_or_else(|| String::from("absent"));
        let (here, there) = (value(&self.here), value(&self.there));
        write!(f, "{} is {here} here and {there} there", self.name)
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        for (index, difference) in self.0.iter().take(TOLD).enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{difference}")?;
        }
        match self.0.len().saturating_sub(TOLD) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}
