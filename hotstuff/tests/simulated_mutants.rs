//! Safety rules switched off, in simulated worlds: some seed must show it, and as a violation of a
//! rule that the mutant truly endangers.
//!
//! `mutants.rs` has a script for each rule, also for those that no seed tried has broken.

#[path = "byzantine/lies.rs"]
mod lies;
mod worlds;

use lies::Lies;
use quorate_core::replica;
use quorate_hotstuff::{Hotstuff, Mutant, RuleSet};
use quorate_simulator::{Broken, Faults, Rule, SimulationConfig, simulate};

/// How many seeds a mutant may take to be found.
const SEEDS: u64 = 400;

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
fn promise_before_sync() {
    let mut config = config(RuleSet::ThreeChain, Faults::All);
    config.settings.mutant = Some(replica::Mutant::PromiseBeforeSync);
    assert_found(&config);
}

#[test]
fn weak_quorum() {
    assert_breaks(Mutant::WeakQuorum, RuleSet::ThreeChain, Faults::All);
}

#[test]
fn too_few_signers() {
    assert_breaks(Mutant::TooFewSigners, RuleSet::TwoChain, Faults::Byzantine);
}

#[test]
fn repeated_signer() {
    assert_breaks(Mutant::RepeatedSigner, RuleSet::TwoChain, Faults::Byzantine);
}

#[test]
fn unknown_signer() {
    assert_breaks(Mutant::UnknownSigner, RuleSet::TwoChain, Faults::Byzantine);
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
fn voted_forgotten_on_restart() {
    assert_breaks(
        Mutant::VotedForgottenOnRestart,
        RuleSet::TwoChain,
        Faults::Crash,
    );
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

#[test]
fn highest_unchecked() {
    assert_breaks(
        Mutant::HighestUnchecked,
        RuleSet::TwoChain,
        Faults::Byzantine,
    );
}

#[test]
fn two_chain_by_links_alone() {
    assert_breaks(Mutant::TwoChainByLinksAlone, RuleSet::TwoChain, Faults::All);
}

#[test]
fn commit_without_consecutive_views() {
    assert_breaks(
        Mutant::CommitWithoutConsecutiveViews,
        RuleSet::ThreeChain,
        Faults::All,
    );
}

#[test]
fn lock_ignored() {
    assert_breaks(Mutant::LockIgnored, RuleSet::ThreeChain, Faults::All);
}

#[test]
fn unverified_ancestor_trusted() {
    assert_breaks(
        Mutant::UnverifiedAncestorTrusted,
        RuleSet::ThreeChain,
        Faults::All,
    );
}

#[test]
fn votes_after_timeout() {
    assert_breaks(Mutant::VotesAfterTimeout, RuleSet::TwoChain, Faults::All);
}
