//! PBFT among replicas that lie, as many as it survives, and one more.

#[path = "byzantine/lies.rs"]
mod lies;
mod worlds;

use std::ops::Range;

use lies::Lies;
use quorate_pbft::{Mutant, Pbft};
use quorate_simulator::seeds::{assert_repeatable, assert_violated, from_first};
use quorate_simulator::{Faults, Rule, SimulationConfig, Summary};
use worlds::{REQUEST_TIMEOUT, world};

/// Liars go on when the network has healed, so that there may be one slow or silent primary after
/// the other.
fn config(replicas: usize, faults: Faults) -> SimulationConfig<Pbft> {
    SimulationConfig {
        liar_patience: REQUEST_TIMEOUT * 9 / 10,
        tamper: Some(Lies::of),
        ..world(replicas, faults)
    }
}

/// What is usual here.
fn seeds() -> u64 {
    worlds::seeds(20)
}

fn survive(config: &SimulationConfig<Pbft>, seeds: Range<u64>) -> Summary {
    let sum = quorate_simulator::seeds::survive(config, seeds);
    assert!(sum.lies > 0 && sum.leaders > 0, "{sum}");
    sum
}

#[test]
fn four_replicas_survive_one_that_lies() {
    survive(&config(4, Faults::Byzantine), from_first(seeds()));
}

#[test]
fn seven_replicas_survive_two_that_lie() {
    survive(&config(7, Faults::Byzantine), from_first(seeds() / 4));
}

#[test]
fn four_replicas_survive_one_that_lies_with_crashes_and_a_bad_network() {
    let sum = survive(&config(4, Faults::All), from_first(seeds()));
    assert!(sum.crashes_with_loss > 0 && sum.partitions > 0, "{sum}");
    assert!(sum.snapshots_installed > 0, "{sum}");
}

/// 3062: a replica did not catch up. It passes since replicas tell what is `Decided`; that this was
/// the cause has not been shown.
#[test]
fn seeds_that_failed_once_pass() {
    survive(&config(4, Faults::All), 3062..3063);
}

#[test]
fn seven_replicas_survive_two_that_lie_with_crashes_and_a_bad_network() {
    survive(&config(7, Faults::All), from_first(seeds() / 4));
}

#[test]
fn the_same_seed_gives_the_same_lies() {
    for seed in 0..3 {
        assert_repeatable(&config(4, Faults::All), seed);
    }
}

/// With more liars than PBFT survives the checkers must have something to say.
#[test]
fn two_liars_of_four_are_seen_to_do_harm() {
    let config = SimulationConfig {
        liars: 2,
        shrink_runs: 0,
        ..config(4, Faults::Byzantine)
    };
    let harm = [
        Rule::Agreement,
        Rule::EqualState,
        Rule::Linearizability,
        Rule::Durability,
    ];
    assert_violated(&config, 0..20, &harm);
}

/// Rules without which as many liars do harm as PBFT survives with them: the worlds see it.
#[test]
fn without_one_of_these_rules_a_liar_does_harm() {
    let harm = [
        Rule::Agreement,
        Rule::EqualState,
        Rule::Linearizability,
        Rule::Durability,
        Rule::Invariant,
    ];
    for mutant in [
        Mutant::WeakQuorum,
        Mutant::SecondDigestAccepted,
        Mutant::ExecutedAtPrepared,
        Mutant::PreparedDroppedInViewChange,
    ] {
        let mut config = SimulationConfig {
            shrink_runs: 0,
            ..config(4, Faults::All)
        };
        config.protocol.mutant = Some(mutant);
        println!("{mutant:?}:");
        assert_violated(&config, 0..60, &harm);
    }
}
