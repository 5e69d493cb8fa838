//! What is checked, and how often: signatures are most of what PBFT costs. [Castro99 §4.4, §5]

use quorate_pbft::{Config, Message, Timer};

use crate::common::{
    Cluster, Node, PbftCluster, PbftNode, config, kinds, new_view, r, view_change,
};

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

/// A new view is large. Whoever says again and again that it has left an earlier one is shown it once a
/// round, as one whose status says that it is behind.
#[test]
fn a_new_view_is_shown_to_a_replica_once_a_round() {
    let mut node = Node::of_four(2, &config());
    let changes = [0, 1, 3].map(|from| view_change(from, 5, vec![]));
    let begin = Message::NewView(Box::new(new_view(5, changes.to_vec(), &[])));
    node.receive(r(1), begin);
    assert_eq!(node.view(), 5);
    let mut shown = Vec::new();
    for views in [1..3, 3..5] {
        node.fire(Timer::Status);
        let asked = views.map(|view| {
            let left = Message::ViewChange(view_change(3, view, vec![]));
            let sent = kinds(&node.answer(r(3), left));
            sent.iter().filter(|kind| **kind == "new_view").count()
        });
        shown.extend(asked);
    }
    assert_eq!(shown, [1, 0, 1, 0]);
}
