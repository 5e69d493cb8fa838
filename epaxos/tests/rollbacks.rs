//! EPaxos with disks that are put back to older copies, or emptied.

mod worlds;

use quorate_simulator::seeds::{assert_hardships, assert_violated, from_first, survive, told};
use quorate_simulator::{Hardships, Rule, SimulationConfig};

const ROLLBACKS: Hardships = Hardships {
    rollbacks: true,
    ..Hardships::NONE
};

/// How many seeds are tried of each kind; `QUORATE_EPAXOS_SEEDS` says another number.
fn seeds() -> u64 {
    told("QUORATE_EPAXOS_SEEDS").unwrap_or(200).div_ceil(2)
}

#[test]
fn whoever_comes_back_with_less_is_refused_and_the_others_are_served() {
    for replicas in [3, 5] {
        let config = SimulationConfig {
            hardships: ROLLBACKS,
            ..worlds::config(replicas)
        };
        assert_hardships(&survive(&config, from_first(seeds())), ROLLBACKS);
    }
}

/// Where nobody remembers, what was acknowledged is lost, or decided again otherwise.
#[test]
fn whoever_comes_back_with_less_and_is_let_in_breaks_what_was_promised() {
    let config = SimulationConfig {
        hardships: ROLLBACKS,
        remembers: false,
        shrink_runs: 0,
        ..worlds::config(3)
    };
    let expected = [Rule::Agreement, Rule::Durability, Rule::Linearizability];
    assert_violated(&config, 0..2_000, &expected);
}
