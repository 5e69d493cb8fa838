//! PBFT among replicas that lie, as many as it survives, and one more.

#[path = "byzantine/lies.rs"]
mod lies;

use std::time::Duration;

use lies::Lies;
use quorate_pbft::{Config, Mutant, Pbft};
use quorate_simulator::{Faults, Rule, SimulationConfig, Summary, simulate};

/// How many seeds are tried for clusters of four; `QUORATE_PBFT_SEEDS` says another
/// number, for a world with signatures costs a hundred times one without.
#[expect(
    clippy::disallowed_methods,
    reason = "how long to test is the tester's"
)]
fn seeds() -> u64 {
    let given = std::env::var("QUORATE_PBFT_SEEDS").ok();
    given.and_then(|seeds| seeds.parse().ok()).unwrap_or(20)
}

const REQUEST_TIMEOUT: Duration = Duration::from_millis(300);

/// The first seed; `QUORATE_FIRST_SEED` says another.
#[expect(
    clippy::disallowed_methods,
    reason = "how long to test is the tester's"
)]
fn first() -> u64 {
    let given = std::env::var("QUORATE_FIRST_SEED").ok();
    given.and_then(|seed| seed.parse().ok()).unwrap_or(0)
}

/// Small windows, so that checkpoints are taken and states fetched often. Liars go on when the
/// network has healed, so that there may be one slow or silent primary after the other.
fn config(replicas: usize, faults: Faults) -> SimulationConfig<Pbft> {
    let protocol = Config {
        request_timeout: REQUEST_TIMEOUT,
        checkpoint_every: 8,
        window: 16,
        max_early_messages: 32,
        max_resent_slots: 8,
        max_resent_bytes: 600,
        ..Config::default()
    };
    SimulationConfig {
        faults,
        liar_patience: REQUEST_TIMEOUT * 9 / 10,
        tamper: Some(Lies::of),
        ..SimulationConfig::new(replicas, protocol)
    }
}

fn survive(config: &SimulationConfig<Pbft>, seeds: impl Iterator<Item = u64>) -> Summary {
    let mut sum = Summary::default();
    for seed in seeds {
        let report = simulate(seed, config);
        if let Some(failure) = report.failure {
            panic!("seed {seed}: {failure}");
        }
        sum.add(&report.summary);
    }
    println!(
        "{} replicas, faults {}: {sum}",
        config.replicas, config.faults
    );
    assert!(sum.lies > 0 && sum.leaders > 0, "{sum}");
    sum
}

#[test]
fn four_replicas_survive_one_that_lies() {
    survive(&config(4, Faults::Byzantine), first()..first() + seeds());
}

#[test]
fn seven_replicas_survive_two_that_lie() {
    survive(
        &config(7, Faults::Byzantine),
        first()..first() + seeds() / 4,
    );
}

#[test]
fn four_replicas_survive_one_that_lies_with_crashes_and_a_bad_network() {
    let sum = survive(&config(4, Faults::All), first()..first() + seeds());
    assert!(sum.crashes_with_loss > 0 && sum.partitions > 0, "{sum}");
    assert!(sum.snapshots_installed > 0, "{sum}");
}

/// 3062: a replica did not catch up. It passes since replicas tell what is `Decided`; that this was
/// the cause has not been shown.
#[test]
fn seeds_that_failed_once_pass() {
    survive(&config(4, Faults::All), 3062..=3062);
}

#[test]
fn seven_replicas_survive_two_that_lie_with_crashes_and_a_bad_network() {
    survive(&config(7, Faults::All), first()..first() + seeds() / 4);
}

#[test]
fn the_same_seed_gives_the_same_lies() {
    for seed in 0..3 {
        let config = config(4, Faults::All);
        let [one, other] = [(); 2].map(|()| simulate(seed, &config));
        assert_eq!(one.trace_hash, other.trace_hash);
        assert_eq!(one.summary, other.summary);
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
    let mut broken = (0..20).filter_map(|seed| simulate(seed, &config).failure);
    let harm = [
        Rule::Agreement,
        Rule::EqualState,
        Rule::Linearizability,
        Rule::Durability,
    ];
    assert!(broken.any(|failure| harm.contains(&failure.broken.rule)));
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
        let mut broken = (0..60).filter_map(|seed| simulate(seed, &config).failure);
        assert!(
            broken.any(|failure| harm.contains(&failure.broken.rule)),
            "no harm without {mutant:?}"
        );
    }
}
