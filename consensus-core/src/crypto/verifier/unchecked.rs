//! Rules of verification that only tests switch off.

use super::{Claim, Verifier};
#[cfg(feature = "mutants")]
use super::{Domain, Equation, statement};

/// A rule of a [`Verifier`], named by what passes without it.
#[cfg(feature = "mutants")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unchecked {
    /// Whatever is said to be signed in this domain passes.
    Domain(Domain),
    /// What any member has signed passes as whosever it is said to be.
    Signer,
}

impl Verifier {
    /// Switches a rule off.
    #[cfg(feature = "mutants")]
    pub fn without(self, rule: Unchecked) -> Self {
        let without = Some(rule);
        Verifier { without, ..self }
    }

    /// Whether `claim` passes because a rule is switched off.
    #[cfg(feature = "mutants")]
    pub(super) fn overlooks(&self, claim: &Claim<'_>) -> bool {
        let by_any = || {
            let mut keys = self.members.ids().flat_map(|id| self.members.checking(id));
            let statement = || statement(self.members.group, claim.domain, claim.bytes);
            keys.any(|key| {
                let mut one = Equation::new(self.scheme);
                one.add(key, statement(), claim.signature);
                one.holds().is_ok()
            })
        };
        match self.without {
            Some(Unchecked::Domain(domain)) => domain == claim.domain,
            Some(Unchecked::Signer) => by_any(),
            None => false,
        }
    }

    /// Whether `claim` passes because a rule is switched off: never, in a build that is not a
    /// test's.
    #[cfg(not(feature = "mutants"))]
    pub(super) fn overlooks(&self, _claim: &Claim<'_>) -> bool {
        false
    }
}
