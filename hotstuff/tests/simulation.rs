//! HotStuff in simulated worlds, whose replicas crash and whose network is bad.

mod worlds;

use std::time::Duration;

use quorate_hotstuff::{Config, Hotstuff, RuleSet};
use quorate_simulator::seeds::{
    assert_covered, assert_repeatable, assert_same_with_ed25519, from_first,
};
use quorate_simulator::{Conditions, Faults, Plan, Scenario, SimulationConfig, World};
use worlds::{seeds, survive, world};

const BOTH: [RuleSet; 2] = [RuleSet::ThreeChain, RuleSet::TwoChain];

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
        survive(&config, from_first(seeds()));
    }
}

#[test]
fn four_replicas_survive_crashes() {
    for rules in BOTH {
        let config = world(4, rules, Faults::Crash);
        survive(&config, from_first(seeds()));
    }
}

#[test]
fn four_replicas_survive_all_faults_but_lies() {
    for rules in BOTH {
        let mut config = world(4, rules, Faults::All);
        config.liars = 0;
        assert_covered(&survive(&config, from_first(seeds())), &[]);
    }
}

#[test]
fn seven_replicas_survive_all_faults_but_lies() {
    for rules in BOTH {
        let mut config = world(7, rules, Faults::All);
        config.liars = 0;
        survive(&config, from_first(seeds().div_ceil(4)));
    }
}

/// What `quorate simulate` runs: the default time-out, and nothing may wait longer than 10 s.
fn as_simulated(replicas: usize) -> SimulationConfig<Hotstuff> {
    SimulationConfig {
        shrink_runs: 0,
        ..SimulationConfig::new(replicas, Config::cramped())
    }
}

#[test]
fn worlds_go_the_same_way_with_signatures_that_nobody_can_forge() {
    assert_same_with_ed25519(&as_simulated(4), 0..5);
}

/// Seeds that did not serve again in time: a liar that led a view in four, and let two time-outs
/// pass in each of its turns, left room for fewer requests than the clients had.
#[test]
fn a_leader_that_is_silent_in_its_turns_does_not_starve_the_clients() {
    let kept = [35, 50, 71, 98, 103, 166, 268, 274, 281];
    survive(&as_simulated(4), kept);
}

/// 142 failed when there was a bound on the time for all operations together: two liars that lead
/// adjacent views cost a time-out and one of twice its length in each lap of seven. The others
/// were as slow: they needed more than 10 s for what is left after the faults. Since leaders that
/// do not deliver are passed over, none does.
#[test]
fn leaders_that_lie_one_after_the_other_do_not_slow_the_clients() {
    let config = as_simulated(7);
    let limit = config.fault_time + config.recovery_limit;
    for seed in [40, 61, 94, 142] {
        let took = Duration::from_nanos(survive(&config, [seed]).virtual_time);
        assert!(took <= limit, "{seed}: {took:?}");
    }
}

/// The time-out, 50 or 150 ms, is too short for a view, where a message takes 100 ms: it must grow.
/// `mutants.rs` shows what becomes of it without the rule that views certified too late do not count.
#[test]
fn a_timeout_too_short_grows_until_views_are_long_enough() {
    let serves = |rules, timeout| {
        let mut config = SimulationConfig {
            operations: 20,
            ..world(4, rules, Faults::None)
        };
        config.protocol.view_timeout = Duration::from_millis(timeout);
        let conditions = Conditions::unit_delay(Duration::from_millis(100));
        let mut world = World::new(1, config, conditions, Plan::default());
        world.run();
        world.broken().is_none()
    };
    for rules in BOTH {
        assert!(serves(rules, 50), "{rules:?}");
        assert!(serves(rules, 150), "{rules:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for rules in BOTH {
        assert_repeatable(&world(4, rules, Faults::All), 4);
    }
}

/// The pages of `docs/protocols/` show these.
#[test]
fn each_scenario_can_be_drawn() {
    for rules in BOTH {
        for scenario in Scenario::ROTATING {
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
