//! Safety rules switched off, in simulated worlds: some seed must show it, and as a violation of a
//! rule that the mutant truly endangers.
//!
//! `mutants.rs` has a script for each rule, also for those that no seed tried has broken: a forged
//! certificate, a forgotten vote, a commit across a gap of views need more luck than a few hundred
//! worlds have. `twins.rs` finds some of them.

#[path = "byzantine/lies.rs"]
mod lies;
mod worlds;

use lies::Lies;
use quorate_hotstuff::{Hotstuff, Mutant, RuleSet};
use quorate_simulator::seeds::assert_violated;
use quorate_simulator::{Faults, SimulationConfig};
use worlds::HARM;

/// How many seeds a mutant may take to be found.
const SEEDS: u64 = 60;

fn config(rules: RuleSet, faults: Faults) -> SimulationConfig<Hotstuff> {
    SimulationConfig {
        shrink_runs: 0,
        tamper: Some(Lies::of),
        ..worlds::world(4, rules, faults)
    }
}

#[track_caller]
fn assert_breaks(mutant: Mutant, rules: RuleSet, faults: Faults) {
    let mut config = config(rules, faults);
    config.protocol.mutant = Some(mutant);
    Mutant::verify_without(Some(mutant));
    assert_violated(&config, 0..SEEDS, &HARM);
    Mutant::verify_without(None);
}

#[test]
fn weak_quorum() {
    assert_breaks(Mutant::WeakQuorum, RuleSet::ThreeChain, Faults::All);
}

#[test]
fn view_not_signed() {
    assert_breaks(Mutant::ViewNotSigned, RuleSet::TwoChain, Faults::Byzantine);
}

#[test]
fn votes_again() {
    assert_breaks(Mutant::VotesAgain, RuleSet::TwoChain, Faults::Byzantine);
}

#[test]
fn lock_forgotten_on_restart() {
    assert_breaks(
        Mutant::LockForgottenOnRestart,
        RuleSet::TwoChain,
        Faults::Crash,
    );
}

#[test]
fn proposed_forgotten_on_restart() {
    assert_breaks(
        Mutant::ProposedForgottenOnRestart,
        RuleSet::ThreeChain,
        Faults::Crash,
    );
}
