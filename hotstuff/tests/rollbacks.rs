//! HotStuff with disks that are put back to older copies, or emptied.

mod worlds;

use quorate_hotstuff::RuleSet;
use quorate_simulator::Faults;
use quorate_simulator::seeds::{assert_rollbacks_survived, from_first};

#[test]
fn whoever_comes_back_with_less_is_refused_and_the_others_are_served() {
    for rules in [RuleSet::ThreeChain, RuleSet::TwoChain] {
        let config = worlds::world(4, rules, Faults::Crash);
        assert_rollbacks_survived(config, from_first(worlds::seeds()));
    }
}
