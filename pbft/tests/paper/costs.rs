//! What is checked, and how often: signatures are most of what PBFT costs. [Castro99 §4.4, §5]

use quorate_pbft::Config;

use crate::common::{Cluster, PbftCluster};

/// How many signatures the replicas have checked.
fn checked(cluster: &Cluster) -> u64 {
    let nodes = cluster.nodes.iter();
    nodes.map(|node| node.context.verifier.checked()).sum()
}

/// With so many slots prepared since the last checkpoint, four replicas, and the old primary down.
fn checked_by_a_view_change(slots: u64) -> u64 {
    let mut cluster = Cluster::new(4, &Config::default());
    for slot in 1..=slots {
        cluster.propose(0, &slot.to_string());
    }
    cluster.isolate(0);
    let before = checked(&cluster);
    cluster.change_view(&[1, 2, 3], "after");
    for id in [1, 2, 3] {
        assert_eq!(cluster.node(id).committed(), slots + 1);
        assert_eq!(cluster.node(id).regime(), 1);
    }
    checked(&cluster) - before
}

/// What was checked when it came is not checked again when it is shown: of a view change its sender's
/// signature, of a new view its primary's, and the pre-prepares and prepares that are new.
#[test]
fn a_view_change_checks_what_is_new_and_nothing_twice() {
    let slots = 250;
    let spent = checked_by_a_view_change(slots) - checked_by_a_view_change(0);
    // Each slot is agreed on again: a pre-prepare at two backups, two prepares at two others each.
    assert_eq!(spent, slots * (2 + 2 * 2));
}
