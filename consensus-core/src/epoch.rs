//! What all replicas must agree on beside the log: who they are, which protocol they run, and those
//! of its settings that safety hangs on.
//!
//! Nobody votes on it: each replica takes it from its own configuration. So it is compared: with
//! what the data directory was last used under, and with every other replica before a word is
//! exchanged. Two that differ in it never work together, and each says in what they differ.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use crate::crypto::{Admission, Digest, GroupId, PublicKey};

mod difference;

pub use difference::{Difference, Differences};

/// The first line of the text of an epoch.
const TITLE: &str = "quorate epoch 0";

/// The most bytes of an epoch's text that are taken from elsewhere: 64 members and hundreds of clients.
pub const TEXT_LIMIT: usize = 64 << 10;

/// The most bytes of a line of it: what two replicas differ in is shown in logs.
const LINE_LIMIT: usize = 512;

/// Whether a term may be another one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is part of what the log means: never.
    Never,
    /// Only while no replica runs.
    AllStopped,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Change::Never => "fixed",
            Change::AllStopped => "agreed",
        }
    }

    fn named(name: &str) -> Option<Change> {
        let all = [Change::Never, Change::AllStopped];
        all.into_iter().find(|change| change.name() == name)
    }
}

/// A setting that all replicas must have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    name: &'static str,
    term: Term,
}

impl Setting {
    /// One that can never be another, because what is in the log rests on it.
    pub fn fixed(name: &'static str, value: impl Display) -> Self {
        Setting {
            name,
            term: Term::new(Change::Never, value),
        }
    }

    /// One that can be another once all replicas have ended.
    pub fn agreed(name: &'static str, value: impl Display) -> Self {
        Setting {
            name,
            term: Term::new(Change::AllStopped, value),
        }
    }
}

/// One of the things agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    change: Change,
    value: String,
}

impl Term {
    fn new(change: Change, value: impl Display) -> Self {
        Term {
            change,
            value: value.to_string(),
        }
    }
}

/// What all replicas agree on, as one of them has it. Its text is the same on all machines, sorted
/// by name, for people to read too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch(BTreeMap<String, Term>);

impl Epoch {
    /// What `members`, in this order, agree on who run `protocol` as `group`.
    pub fn first(group: GroupId, protocol: &str, members: &[PublicKey]) -> Self {
        let mut epoch = Epoch(BTreeMap::new());
        epoch.add(
            "group",
            Term::new(Change::Never, format_args!("{:016x}", group.0)),
        );
        epoch.add("protocol", Term::new(Change::Never, protocol));
        for (number, key) in members.iter().enumerate() {
            // Two digits, for the order of names to be that of numbers.
            epoch.add(
                &format!("member.{number:02}"),
                Term::new(Change::Never, key),
            );
        }
        epoch
    }

    /// These settings as well, each named after `table`, where it stands in the configuration.
    pub fn with(mut self, table: &str, settings: Vec<Setting>) -> Self {
        for Setting { name, term } in settings {
            self.add(&format!("{table}.{name}"), term);
        }
        self
    }

    /// Who may command as well, where every replica checks that.
    pub fn admitting(mut self, admission: &Admission) -> Self {
        match admission.keys() {
            None => self.add("clients", Term::new(Change::AllStopped, "anyone")),
            Some(keys) => {
                for key in keys {
                    self.add(
                        &format!("client.{key}"),
                        Term::new(Change::AllStopped, "admitted"),
                    );
                }
            }
        }
        self
    }

    fn add(&mut self, name: &str, term: Term) {
        self.0.insert(String::from(name), term);
    }

    /// The digest of its text: equal if, and only if, all is agreed on.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_string().as_bytes())
    }

    /// Reads a text; none if it is not exactly what would be written.
    pub fn parse(text: &str) -> Option<Epoch> {
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return None;
        }
        let terms = lines.map(|line| {
            let (change, rest) = line.split_once(' ')?;
            let (name, value) = rest.split_once(' ')?;
            // It is shown to people, in logs.
            let printable = line
                .bytes()
                .all(|byte| byte == b' ' || byte.is_ascii_graphic());
            let change = Change::named(change).filter(|_| printable && line.len() <= LINE_LIMIT)?;
            Some((String::from(name), Term::new(change, value)))
        });
        let epoch = Epoch(terms.collect::<Option<_>>()?);
        (epoch.to_string() == text).then_some(epoch)
    }

    /// In what `there` differs from this.
    pub fn differences(&self, there: &Epoch) -> Differences {
        let names: Vec<&String> = self.0.keys().chain(there.0.keys()).collect();
        let mut differences: Vec<Difference> = names
            .into_iter()
            .filter(|name| self.0.get(*name) != there.0.get(*name))
            .map(|name| {
                let (here, there) = (self.0.get(name), there.0.get(name));
                let fixed = |term: &Term| term.change == Change::Never;
                Difference {
                    name: name.clone(),
                    here: here.map(|term| term.value.clone()),
                    there: there.map(|term| term.value.clone()),
                    fixed: here.into_iter().chain(there).any(fixed),
                }
            })
            .collect();
        differences.sort_by(|a, b| a.name.cmp(&b.name));
        differences.dedup();
        Differences(differences)
    }
}

impl Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TITLE}")?;
        for (name, Term { change, value }) in &self.0 {
            writeln!(f, "{} {name} {value}", change.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey([number; 32])
    }

    fn epoch(members: &[u8]) -> Epoch {
        let members: Vec<PublicKey> = members.iter().map(|number| key(*number)).collect();
        Epoch::first(GroupId(7), "raft", &members)
    }

    fn with(epoch: Epoch, settings: Vec<Setting>) -> Epoch {
        epoch.with("protocols.raft", settings)
    }

    fn names(one: &Epoch, other: &Epoch) -> Vec<String> {
        let differences = one.differences(other);
        differences.iter().map(|d| d.name.clone()).collect()
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let epoch = with(epoch(&[1, 2, 3]), vec![Setting::agreed("lease_ms", 300)])
            .admitting(&Admission::of([key(9)]));
        let text = epoch.to_string();
        assert_eq!(Epoch::parse(&text), Some(epoch));
        for at in 0..text.len() {
            let cut = &text[..at];
            assert!(Epoch::parse(cut).is_none() || cut.ends_with('\n'), "{cut}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] = 7;
            assert_eq!(
                Epoch::parse(&String::from_utf8(bytes).unwrap()),
                None,
                "{at}"
            );
        }
        assert_eq!(Epoch::parse("quorate epoch 1\n"), None);
        assert_eq!(Epoch::parse(&text.replacen("agreed", "maybe", 1)), None);
    }

    #[test]
    fn members_count_by_key_and_place() {
        let three = epoch(&[1, 2, 3]);
        assert_eq!(three.digest(), epoch(&[1, 2, 3]).digest());
        assert_eq!(names(&three, &epoch(&[1])), ["member.01", "member.02"]);
        assert_eq!(
            names(&three, &epoch(&[2, 1, 3])),
            ["member.00", "member.01"]
        );
        assert_eq!(names(&three, &epoch(&[1, 2, 3, 4])), ["member.03"]);
        for other in [&[1][..], &[2, 1, 3], &[1, 2, 3, 4]] {
            assert_ne!(three.digest(), epoch(other).digest());
            assert!(!three.differences(&epoch(other)).may_be_accepted());
        }
    }

    #[test]
    fn a_setting_that_differs_is_named_with_both_values() {
        let here = with(epoch(&[1]), vec![Setting::agreed("lease_ms", 300)]);
        let there = with(epoch(&[1]), vec![Setting::agreed("lease_ms", 400)]);
        assert_eq!(here.differences(&here).to_string(), "nothing");
        let said = here.differences(&there).to_string();
        assert_eq!(said, "protocols.raft.lease_ms is 300 here and 400 there");
        let said = here.differences(&epoch(&[1])).to_string();
        assert_eq!(said, "protocols.raft.lease_ms is 300 here and absent there");
    }

    #[test]
    fn what_may_be_accepted_is_said_by_both_sides() {
        let one = |setting| with(epoch(&[1]), vec![setting]);
        let cases = [
            (
                Setting::agreed("reads", "quorum"),
                Setting::agreed("reads", "lease"),
                true,
            ),
            (Setting::fixed("q", 1), Setting::fixed("q", 2), false),
            (Setting::agreed("q", 1), Setting::fixed("q", 1), false),
        ];
        for (here, there, may) in cases {
            let differences = one(here).differences(&one(there));
            assert_eq!(differences.may_be_accepted(), may, "{differences}");
        }
        let clients = |key| epoch(&[1]).admitting(&Admission::of([key]));
        assert!(
            clients(key(8))
                .differences(&clients(key(9)))
                .may_be_accepted()
        );
        let anyone = epoch(&[1]).admitting(&Admission::Anyone);
        assert_eq!(names(&anyone, &epoch(&[1])), ["clients"]);
    }

    #[test]
    fn a_long_list_of_differences_is_cut() {
        let all: Vec<u8> = (0..64).collect();
        let said = epoch(&all).differences(&epoch(&[])).to_string();
        assert!(said.ends_with("; and 48 more"), "{said}");
    }

    #[test]
    fn a_line_of_more_than_the_limit_is_not_taken() {
        for (length, taken) in [(LINE_LIMIT, true), (LINE_LIMIT + 1, false)] {
            let value = "x".repeat(length - "agreed a.b ".len());
            let epoch = epoch(&[1]).with("a", vec![Setting::agreed("b", value)]);
            assert_eq!(
                Epoch::parse(&epoch.to_string()).is_some(),
                taken,
                "{length}"
            );
        }
    }

    #[test]
    fn a_cluster_of_64_fits_into_what_is_taken() {
        let all: Vec<u8> = (0..64).collect();
        let clients = (0..250).map(key);
        let epoch = epoch(&all).admitting(&Admission::of(clients));
        assert!(epoch.to_string().len() < TEXT_LIMIT);
    }
}
