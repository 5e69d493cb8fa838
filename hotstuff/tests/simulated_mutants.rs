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
use quorate_simulator::{Broken, Faults, Rule, SimulationConfig, simulate};

/// How many seeds a mutant may take to be found.
const SEEDS: u64 = 60;

/// What harm is.
const HARM: [Rule; 5] = [
    Rule::Agreement,
    Rule::EqualState,
    Rule::Linearizability,
    Rule::Durability,
    Rule::Invariant,
];

fn config(rules: RuleSet, faults: Faults) -> SimulationConfig<Hotstuff> {
    SimulationConfig {
        shrink_runs: 0,
        tamper: Some(Lies::of),
        ..worlds::world(4, rules, faults)
    }
}

#[track_caller]
fn assert_found(config: &SimulationConfig<Hotstuff>) {
    let broken = |seed| Some((seed, simulate(seed, config).failure?.broken));
    let shows = |(_, broken): &(u64, Broken)| HARM.contains(&broken.rule);
    match (0..SEEDS).filter_map(broken).find(shows) {
        Some((seed, broken)) => println!("seed {seed}: {broken}"),
        None => panic!("{SEEDS} seeds, and none of them does harm"),
    }
}

#[track_caller]
fn assert_breaks(mutant: Mutant, rules: RuleSet, faults: Faults) {
    let mut config = config(rules, faults);
    config.protocol.mutant = Some(mutant);
    Mutant::verify_without(Some(mutant));
    assert_found(&config);
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
