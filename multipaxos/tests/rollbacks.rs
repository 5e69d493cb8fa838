//! Multi-Paxos with disks that are put back to older copies, or emptied.

mod worlds;

use quorate_simulator::seeds::{
    assert_rollbacks_break, assert_rollbacks_survived, from_first, told,
};

/// How many seeds are tried of each size; `QUORATE_SEEDS` says another number.
fn seeds() -> u64 {
    told("QUORATE_SEEDS").unwrap_or(200).div_ceil(2)
}

#[test]
fn whoever_comes_back_with_less_is_refused_and_the_others_are_served() {
    for replicas in [3, 5] {
        assert_rollbacks_survived(
            worlds::config(replicas, quorate_multipaxos::ReadMode::Quorum),
            from_first(seeds()),
        );
    }
}

#[test]
fn whoever_comes_back_with_less_and_is_let_in_breaks_what_was_promised() {
    assert_rollbacks_break(
        worlds::config(3, quorate_multipaxos::ReadMode::Quorum),
        0..2_000,
    );
}
