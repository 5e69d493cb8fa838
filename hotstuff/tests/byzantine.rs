//! HotStuff among replicas that lie, as many as it survives, and one more.

#[path = "byzantine/lies.rs"]
mod lies;
mod worlds;

use lies::Lies;
use quorate_hotstuff::{Hotstuff, Leaders, RuleSet};
use quorate_simulator::seeds::{assert_violated, from_first};
use quorate_simulator::{Faults, SimulationConfig, Summary};
use worlds::{HARM, seeds};

fn world(replicas: usize, rules: RuleSet, faults: Faults) -> SimulationConfig<Hotstuff> {
    SimulationConfig {
        tamper: Some(Lies::of),
        ..worlds::world(replicas, rules, faults)
    }
}

fn survive(config: &SimulationConfig<Hotstuff>, seeds: u64) -> Summary {
    let sum = worlds::survive(config, from_first(seeds));
    assert!(sum.lies > 0, "{sum}");
    sum
}

#[test]
fn four_replicas_survive_one_that_lies_under_the_three_chain_rules() {
    survive(&world(4, RuleSet::ThreeChain, Faults::Byzantine), seeds());
}

#[test]
fn four_replicas_survive_one_that_lies_under_the_two_chain_rules() {
    survive(&world(4, RuleSet::TwoChain, Faults::Byzantine), seeds());
}

#[test]
fn four_replicas_survive_one_that_lies_with_all_faults_under_the_three_chain_rules() {
    let sum = survive(&world(4, RuleSet::ThreeChain, Faults::All), seeds());
    assert!(sum.crashes_with_loss > 0 && sum.partitions > 0, "{sum}");
}

#[test]
fn four_replicas_survive_one_that_lies_with_all_faults_under_the_two_chain_rules() {
    let sum = survive(&world(4, RuleSet::TwoChain, Faults::All), seeds());
    assert!(sum.crashes_with_loss > 0 && sum.partitions > 0, "{sum}");
}

#[test]
fn seven_replicas_survive_two_that_lie_with_all_faults() {
    for rules in [RuleSet::ThreeChain, RuleSet::TwoChain] {
        survive(&world(7, rules, Faults::All), seeds().div_ceil(4));
    }
}

#[test]
fn leaders_that_stay_survive_one_that_lies_with_all_faults() {
    for rules in [RuleSet::ThreeChain, RuleSet::TwoChain] {
        let mut config = world(4, rules, Faults::All);
        config.protocol.leaders = Leaders::Stable { views: 40 };
        survive(&config, seeds().div_ceil(2));
    }
}

/// With more liars than HotStuff survives the checkers must have something to say.
#[test]
fn two_liars_of_four_are_seen_to_do_harm() {
    let config = SimulationConfig {
        liars: 2,
        shrink_runs: 0,
        ..world(4, RuleSet::TwoChain, Faults::Byzantine)
    };
    assert_violated(&config, 0..20, &HARM);
}
