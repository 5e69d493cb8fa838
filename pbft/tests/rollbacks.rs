//! PBFT with disks that are put back to older copies, or emptied.

mod worlds;

use std::ops::Range;

use quorate_simulator::Faults;
use quorate_simulator::seeds::assert_rollbacks_survived;

fn survived(seeds: Range<u64>) {
    assert_rollbacks_survived(worlds::world(4, Faults::Crash), seeds);
}

#[test]
fn whoever_comes_back_with_less_is_refused_and_the_others_are_served() {
    survived(5..5 + worlds::seeds(20));
}

#[test]
#[ignore = "not mended: of the three that are left one has executed eight slots more than the others, \
            which get nothing of them; not traced yet"]
fn who_is_ahead_alone_is_caught_up_with() {
    survived(4..5);
}
