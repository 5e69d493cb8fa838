//! Multi-Paxos where faults do not end by themselves: replicas down for good, links cut for good,
//! bulk never answered, disks that hang.

mod worlds;

use quorate_core::id::ReplicaId;
use quorate_multipaxos::{MultiPaxos, QuorumRule, ReadMode};
use quorate_simulator::seeds::{assert_hardships, from_first, survive, told};
use quorate_simulator::{Faults, Hardships, SimulationConfig};
use worlds::with_drawn_limits;

/// How many seeds are tried of each kind; `QUORATE_SEEDS` says another number.
fn seeds() -> u64 {
    told("QUORATE_SEEDS").unwrap_or(200).div_ceil(2)
}

fn world(
    replicas: usize,
    (faults, hardships): (Faults, Hardships),
) -> SimulationConfig<MultiPaxos> {
    SimulationConfig {
        faults,
        hardships,
        shrink_runs: 0,
        ..with_drawn_limits(replicas, ReadMode::Quorum)
    }
}

fn survives(drawn: (Faults, Hardships)) {
    let sizes = [3, 5].into_iter();
    let sums = sizes.map(|replicas| survive(&world(replicas, drawn), from_first(seeds())));
    assert_hardships(&sums.sum(), drawn.1);
}

#[test]
fn the_rest_serve_without_those_that_are_lost() {
    let lost = Hardships {
        lost: true,
        ..Hardships::NONE
    };
    survives((Faults::Crash, lost));
}

#[test]
fn clients_are_served_with_links_cut_for_good() {
    let cuts = Hardships {
        hubs: true,
        ..Hardships::NONE
    };
    survives((Faults::Network, cuts));
}

#[test]
fn fetches_without_an_answer_and_disks_that_hang_are_survived() {
    let slow = Hardships {
        mute: true,
        hangs: true,
        ..Hardships::NONE
    };
    survives((Faults::Crash, slow));
}

/// All but disks that hang.
const SYNCING: Hardships = Hardships {
    hangs: false,
    ..Hardships::ALL
};

/// All but fetches without an answer.
const ANSWERED: Hardships = Hardships {
    mute: false,
    ..Hardships::ALL
};

#[test]
fn all_hardships_are_survived_together() {
    survives((Faults::All, Hardships::ALL));
}

/// One that answers no fetch helps another to lead, whom not all of those hear that could choose
/// without it.
#[test]
fn clients_are_served_at_those_who_hear_all_that_may_lead() {
    survives_seeds(5, SYNCING, &[220]);
}

fn survives_seeds(replicas: usize, hardships: Hardships, seeds: &[u64]) {
    let seeds = seeds.iter().copied();
    survive(&world(replicas, (Faults::All, hardships)), seeds);
}

/// A leader that answers no fetch is the only one that knows what is chosen in slots that it has
/// compacted, and the others hold them in lower ballots, with their windows full. They follow it, for
/// it is heard. In the first it chooses all the same.
#[test]
fn a_leader_that_answers_no_fetch_is_left_behind() {
    survives_seeds(5, Hardships::ALL, &[1, 107]);
    survives_seeds(3, Hardships::ALL, &[1209, 1537]);
}

/// Of those that the leader hears some have disks that hang, and others that have a quorum do not hear
/// it.
#[test]
fn a_leader_heard_by_disks_that_hang_makes_way() {
    survives_seeds(5, Hardships::ALL, &[16, 258]);
    survives_seeds(5, ANSWERED, &[24, 39, 52, 77]);
}

/// With the disk of one of three hung for good, the promise of the other comes in many parts, which
/// overtake each other. In the first it is elected all the same.
#[test]
fn a_candidate_beside_a_disk_that_hangs_is_elected() {
    survives_seeds(3, ANSWERED, &[47, 360, 1578]);
    survives_seeds(5, ANSWERED, &[26, 71]);
}

/// A replica whose disk hangs has no part in elections: its grant would let those campaign that need
/// its promise, which never comes, and its own ballots, which nobody else hears of, end campaigns.
#[test]
fn those_who_cannot_promise_grant_no_campaigns() {
    survives_seeds(5, Hardships::ALL, &[91, 273]);
    survives_seeds(5, ANSWERED, &[276]);
}

/// A leader that answers no fetch chooses all that it proposes, in a wide window, and nobody can execute
/// it: what it alone has executed it has compacted. In the second who should lead instead is told to
/// fetch more than anybody gives it.
#[test]
fn a_leader_that_nobody_can_follow_is_left_behind() {
    survives_seeds(3, Hardships::ALL, &[708]);
    survives_seeds(5, Hardships::ALL, &[557]);
}

/// The disk ends two saves at once that hung, of a snapshot of its own and of a fetched one: a third,
/// taken in between, was saved after the fetched one, and the log did not go on from it.
#[test]
fn a_replica_whose_saves_end_together_restarts() {
    survives_seeds(3, Hardships::ALL, &[3101]);
}

/// With a window of one, the only one that could lead had learnt a slot, and forgotten in a restart that the
/// one before was chosen: it gave up each campaign for what it held itself.
#[test]
fn who_has_learnt_a_slot_is_elected_after_a_restart() {
    survives_seeds(5, Hardships::ALL, &[2164]);
}

/// A leader that is preferred, and may be the one that is lost or hears too few.
#[test]
fn hardships_are_survived_with_a_preferred_leader() {
    for reads in [ReadMode::Quorum, ReadMode::Lease] {
        survive(
            &preferring(Hardships::ALL, reads),
            from_first(seeds().div_ceil(4)),
        );
    }
}

fn preferring(hardships: Hardships, reads: ReadMode) -> SimulationConfig<MultiPaxos> {
    let mut config = world(5, (Faults::All, hardships));
    config.protocol.preferred = Some(ReplicaId(1));
    config.protocol.reads = reads;
    config
}

/// The same as of 220 above: who answers no fetch helps another to lead than the preferred one.
#[test]
fn fetches_without_an_answer_are_survived_with_a_preferred_leader() {
    survive(&preferring(SYNCING, ReadMode::Quorum), 2..3);
}

/// Quorums of unlike size: what hardships take away must leave one to elect and one to choose.
#[test]
fn quorums_of_unlike_size_survive_fetches_without_an_answer() {
    let mute = Hardships {
        mute: true,
        ..Hardships::NONE
    };
    let mut config = world(5, (Faults::All, mute));
    config.protocol.quorums = QuorumRule::Flexible { q1: 4, q2: 2 };
    survive(&config, from_first(seeds().div_ceil(4)));
}
