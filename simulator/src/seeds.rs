//! Many worlds of one configuration, a seed each: which are tried, what is expected of them, and
//! that they were worth trying.
//!
//! Everything here panics where a test's expectation does not hold: it is made for tests alone.

#![expect(
    clippy::panic,
    reason = "tests alone call it, and what they expect is what they test"
)]

use std::ops::Range;

use quorate_core::crypto::Scheme;
use quorate_core::protocol::Protocol;

use crate::config::SimulationConfig;
use crate::hardships::Hardships;
use crate::plan::Faults;
use crate::report::{Rule, Summary};
use crate::simulate::simulate;

/// Sizes of clusters other than those that are tried most, each with faults that it survives.
pub const OTHER_SIZES: [(usize, Faults); 5] = [
    (1, Faults::Crash),
    (2, Faults::All),
    (4, Faults::All),
    (7, Faults::Network),
    (3, Faults::None),
];

/// The number that a variable of the environment says; `None` if it is not set. A tester who
/// mistypes it must not be told that all is well after another number of worlds.
#[expect(
    clippy::disallowed_methods,
    reason = "how long to test is the tester's"
)]
pub fn told(variable: &str) -> Option<u64> {
    let said = std::env::var(variable).ok()?;
    match said.parse() {
        Ok(number) => Some(number),
        Err(error) => panic!("{variable} is {said:?}: {error}"),
    }
}

/// So many seeds, from the one that `QUORATE_FIRST_SEED` says, or else from 0.
pub fn from_first(count: u64) -> Range<u64> {
    let first = told("QUORATE_FIRST_SEED").unwrap_or(0);
    first..first + count
}

/// Runs the worlds of `seeds`, none of which may fail: what happened in all of them together.
#[track_caller]
pub fn survive<P: Protocol>(
    config: &SimulationConfig<P>,
    seeds: impl IntoIterator<Item = u64>,
) -> Summary {
    let survived = |seed| {
        let report = simulate(seed, config);
        if let Some(failure) = report.failure {
            panic!("seed {seed}: {failure}");
        }
        report.summary
    };
    let mut seeds = seeds.into_iter().peekable();
    assert!(seeds.peek().is_some(), "no seed is to be tried");
    let sum: Summary = seeds.map(survived).sum();
    println!(
        "{}, {} replicas, faults {}, hardships {}: {sum}",
        P::NAME,
        config.replicas,
        config.faults,
        config.hardships
    );
    sum
}

/// Expects that the worlds met every kind of crash and of network fault, and that replicas came back
/// and caught up in all ways; and `also` these, each with what it is called. Worlds that meet no
/// fault are survived by anything.
#[track_caller]
pub fn assert_covered(sum: &Summary, also: &[(&str, u64)]) {
    let always = [
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
    ];
    for (what, count) in always.iter().chain(also) {
        assert!(*count > 0, "the worlds saw no {what}: {sum}");
    }
}

/// Expects that the worlds met the hardships that they were to meet.
#[track_caller]
pub fn assert_hardships(sum: &Summary, hardships: Hardships) {
    let all = [
        (hardships.lost, "lost replicas", sum.lost),
        (hardships.cuts, "links cut for good", sum.links_cut),
        (hardships.mute, "unanswered fetches", sum.fetches_unanswered),
        (hardships.hangs, "hung syncs", sum.syncs_hung),
        (hardships.full, "full disks", sum.disks_full),
        (hardships.clocks, "wrong clocks", sum.wrong_clocks),
        (hardships.rollbacks, "refused replicas", sum.refused),
    ];
    for (on, what, count) in all {
        assert!(!on || count > 0, "the worlds saw no {what}: {sum:?}");
    }
}

/// Expects that one of the worlds of `seeds` violates one of the rules of `expected`.
#[track_caller]
pub fn assert_violated<P: Protocol>(
    config: &SimulationConfig<P>,
    seeds: Range<u64>,
    expected: &[Rule],
) {
    let broken = |seed| Some((seed, simulate(seed, config).failure?.broken));
    let mut all = seeds.clone().filter_map(broken);
    match all.find(|(_, broken)| expected.contains(&broken.rule)) {
        Some((seed, broken)) => println!("seed {seed}: {broken}"),
        None => panic!("of the seeds {seeds:?} none violates any of {expected:?}"),
    }
}

/// These worlds, with disks that are put back to older copies, or emptied, and nothing hard besides.
fn rolled_back<P: Protocol>(config: SimulationConfig<P>) -> SimulationConfig<P> {
    let hardships = Hardships {
        rollbacks: true,
        ..Hardships::NONE
    };
    SimulationConfig {
        hardships,
        ..config
    }
}

/// Expects that whoever comes back with less is refused, and that the others are served.
#[track_caller]
pub fn assert_rollbacks_survived<P: Protocol>(config: SimulationConfig<P>, seeds: Range<u64>) {
    let config = rolled_back(config);
    assert_hardships(&survive(&config, seeds), config.hardships);
}

/// Expects that where nobody remembers, what was acknowledged is lost, or decided again otherwise.
#[track_caller]
pub fn assert_rollbacks_break<P: Protocol>(config: SimulationConfig<P>, seeds: Range<u64>) {
    let config = SimulationConfig {
        remembers: false,
        shrink_runs: 0,
        ..rolled_back(config)
    };
    let expected = [Rule::Agreement, Rule::Durability, Rule::Linearizability];
    assert_violated(&config, seeds, &expected);
}

/// Expects that everything in the world of a seed follows from it: a second run is the same, and
/// that of the next seed another.
#[track_caller]
pub fn assert_repeatable<P: Protocol>(config: &SimulationConfig<P>, seed: u64) {
    let [one, again, next] = [seed, seed, seed + 1].map(|seed| simulate(seed, config));
    assert_eq!(one.trace_hash, again.trace_hash);
    assert_eq!(one.summary, again.summary);
    assert_eq!(one.history, again.history);
    assert_ne!(one.trace_hash, next.trace_hash);
}

/// Expects that worlds go the same way with signatures that nobody can forge.
#[track_caller]
pub fn assert_same_with_ed25519<P: Protocol>(config: &SimulationConfig<P>, seeds: Range<u64>) {
    let ed25519 = SimulationConfig {
        signatures: Scheme::Ed25519,
        ..config.clone()
    };
    for seed in seeds {
        let [usual, signed] = [config, &ed25519].map(|config| simulate(seed, config));
        assert_ne!(usual.trace_hash, signed.trace_hash, "seed {seed}");
        assert_eq!(usual.summary, signed.summary, "seed {seed}");
        assert_eq!(usual.history, signed.history, "seed {seed}");
    }
}
