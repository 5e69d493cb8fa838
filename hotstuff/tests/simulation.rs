//! HotStuff in simulated worlds, whose replicas crash and whose network is bad.

mod worlds;

use quorate_hotstuff::{Config, Hotstuff, RuleSet};
use quorate_simulator::{Faults, Scenario, SimulationConfig, Summary, simulate};
use worlds::{first, seeds, survive, world};

const BOTH: [RuleSet; 2] = [RuleSet::ThreeChain, RuleSet::TwoChain];

fn assert_covered(sum: &Summary) {
    for (what, count) in [
        ("crashes with loss", sum.crashes_with_loss),
        ("torn writes", sum.torn_crashes),
        ("disk failures", sum.disk_failures),
        ("pauses", sum.pauses),
        ("partitions", sum.partitions),
        ("snapshots taken", sum.snapshots_taken),
        ("snapshots fetched", sum.snapshots_installed),
        ("restarts from snapshots", sum.snapshots_recovered),
        ("lost frames", sum.frames_lost),
        ("repeated frames", sum.frames_repeated),
    ] {
        assert!(count > 0, "the worlds saw no {what}: {sum}");
    }
}

#[test]
fn replicas_serve_without_faults() {
    for rules in BOTH {
        for replicas in [1, 4, 7] {
            survive(&world(replicas, rules, Faults::None), 0..2);
        }
    }
}

#[test]
fn four_replicas_survive_a_bad_network() {
    for rules in BOTH {
        let config = world(4, rules, Faults::Network);
        survive(&config, first()..first() + seeds());
    }
}

#[test]
fn four_replicas_survive_crashes() {
    for rules in BOTH {
        let config = world(4, rules, Faults::Crash);
        survive(&config, first()..first() + seeds());
    }
}

#[test]
fn four_replicas_survive_all_faults_but_lies() {
    for rules in BOTH {
        let mut config = world(4, rules, Faults::All);
        config.liars = 0;
        assert_covered(&survive(&config, first()..first() + seeds()));
    }
}

#[test]
fn seven_replicas_survive_all_faults_but_lies() {
    for rules in BOTH {
        let mut config = world(7, rules, Faults::All);
        config.liars = 0;
        survive(&config, first()..first() + seeds().div_ceil(4));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for rules in BOTH {
        let config = world(4, rules, Faults::All);
        let [one, other] = [(); 2].map(|()| simulate(4, &config));
        assert_eq!(one.trace_hash, other.trace_hash);
        assert_eq!(one.summary, other.summary);
    }
}

/// The pages of `docs/protocols/` show these.
#[test]
fn each_scenario_can_be_drawn() {
    for rules in BOTH {
        // Views have leaders without an election.
        let drawn = |scenario: &Scenario| *scenario != Scenario::Election;
        for scenario in Scenario::ALL.into_iter().filter(drawn) {
            let config = Config {
                rules,
                ..Config::cramped()
            };
            let config = SimulationConfig::<Hotstuff>::new(4, config);
            let diagram = scenario.diagram(1, &config, 60).unwrap();
            println!("{rules:?} {scenario}\n{diagram}");
            assert!(diagram.matches("->>").count() >= 2, "{scenario}: {diagram}");
        }
    }
}
