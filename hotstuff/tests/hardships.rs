//! HotStuff where faults do not end by themselves: replicas down for good, links cut for good, bulk
//! never answered, disks that hang, and limits of which each exceeds each.

mod worlds;

use quorate_core::replica::Settings;
use quorate_hotstuff::{Config, Hotstuff, RuleSet};
use quorate_simulator::seeds::{assert_hardships, from_first};
use quorate_simulator::{Faults, Hardships, SimulationConfig, Summary, vary};
use rand_chacha::ChaCha8Rng;
use worlds::{seeds, survive};

const BOTH: [RuleSet; 2] = [RuleSet::ThreeChain, RuleSet::TwoChain];

/// Draws each limit by itself, down to the smallest.
fn limits(random: &mut ChaCha8Rng, config: &mut Config, _: &mut Settings) {
    vary(random, &mut config.checkpoint_every, &[1, 2, 5, 40]);
    vary(random, &mut config.max_block_bytes, &[1, 300, 2_000]);
    vary(random, &mut config.max_uncommitted, &[1, 2, 5]);
    vary(random, &mut config.max_blocks, &[1, 3, 10]);
    vary(random, &mut config.max_waiting_batches, &[1, 2, 8]);
    vary(random, &mut config.max_waiting_bytes, &[1, 500, 5_000]);
    vary(random, &mut config.max_sync_blocks, &[1, 2, 20]);
    vary(random, &mut config.max_sync_bytes, &[1, 300, 10_000]);
    // Last, so that what was drawn before it stays what it was.
    vary(random, &mut config.max_blocks_bytes, &[1, 500, 5_000]);
}

fn world(
    replicas: usize,
    rules: RuleSet,
    (faults, hardships): (Faults, Hardships),
) -> SimulationConfig<Hotstuff> {
    SimulationConfig {
        hardships,
        limits: Some(limits),
        shrink_runs: 0,
        ..worlds::world(replicas, rules, faults)
    }
}

fn survives(replicas: usize, drawn: (Faults, Hardships), seeds: u64) {
    for rules in BOTH {
        let sum: Summary = survive(&world(replicas, rules, drawn), from_first(seeds));
        assert_hardships(&sum, drawn.1);
    }
}

#[test]
fn four_replicas_serve_without_one_that_is_lost() {
    let hardships = Hardships {
        lost: true,
        ..Hardships::NONE
    };
    survives(4, (Faults::Crash, hardships), seeds());
}

/// Seed 8: two replicas restarted with snapshots that nobody else had, taken between checkpoints, in
/// place of the proved one, which the third needed while the fourth was lost.
#[test]
fn a_state_that_is_proved_can_be_had_after_those_who_have_it_restarted() {
    let hardships = Hardships {
        lost: true,
        ..Hardships::NONE
    };
    for rules in BOTH {
        survive(&world(4, rules, (Faults::Crash, hardships)), [8]);
    }
}

/// Seed 5: two had put a checkpoint that they alone had in the place of the last proved one, so that
/// the third could be given neither; and without it they could prove no other.
#[test]
fn a_state_that_two_have_is_given_to_the_third() {
    let hardships = Hardships {
        mute: false,
        ..Hardships::ALL
    };
    for rules in BOTH {
        survive(&world(4, rules, (Faults::All, hardships)), [5]);
    }
}

#[test]
fn four_replicas_serve_with_links_cut_for_good() {
    let hardships = Hardships {
        cuts: true,
        ..Hardships::NONE
    };
    survives(4, (Faults::Network, hardships), seeds());
}

#[test]
fn four_replicas_serve_though_fetches_are_not_answered_and_disks_hang() {
    let hardships = Hardships {
        mute: true,
        hangs: true,
        ..Hardships::NONE
    };
    for rules in BOTH {
        let config = world(4, rules, (Faults::Crash, hardships));
        let sum = survive(&config, from_first(seeds()));
        // Few fetch a state here; those of all hardships together do.
        let mute = false;
        assert_hardships(&sum, Hardships { mute, ..hardships });
    }
}

#[test]
fn four_replicas_serve_within_narrow_limits() {
    let hardships = Hardships {
        limits: true,
        ..Hardships::NONE
    };
    survives(4, (Faults::All, hardships), seeds());
}

/// With one to spare, a link is cut for good only where no replica is taken.
#[test]
fn four_replicas_survive_all_hardships() {
    for rules in BOTH {
        let drawn = (Faults::All, Hardships::ALL);
        let sum = survive(&world(4, rules, drawn), from_first(seeds()));
        let cuts = false;
        assert_hardships(&sum, Hardships { cuts, ..drawn.1 });
    }
}

/// Seed 0: with room for one batch in three views, two in five that were ordered had been committed before:
/// what its replica tells again every 20 ms was taken for new where it came late, and a read waited for 10 s.
#[test]
fn what_is_told_again_every_few_milliseconds_leaves_room_for_what_is_new() {
    let drawn = (Faults::All, Hardships::ALL);
    for rules in BOTH {
        survive(&world(7, rules, drawn), [0]);
    }
}

/// Seed 3: with a share of one batch, what a replica asked for 10 s, again and again, was dropped each time for what it
/// had asked since. Seed 14 had three views for each batch, and as many reads as the replicas were asked again.
#[test]
fn what_is_asked_first_is_ordered_first_though_others_have_room_for_little() {
    let drawn = (Faults::All, Hardships::ALL);
    for rules in BOTH {
        survive(&world(7, rules, drawn), [3, 14]);
    }
}

#[test]
fn seven_replicas_survive_all_hardships() {
    let seeds = seeds().div_ceil(4).max(2);
    for rules in BOTH {
        let drawn = (Faults::All, Hardships::ALL);
        survive(&world(7, rules, drawn), from_first(seeds));
    }
}
