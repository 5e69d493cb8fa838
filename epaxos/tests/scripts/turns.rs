//! Who recovers, and when, beside others that cannot; and what waits for execution.

use std::time::Duration;

use quorate_epaxos::{Ballot, Config, Message};

use super::LONG;
use crate::common::{Cluster, EPaxosCluster as _, EPaxosNode as _, Node, id, r};

/// Whether r1 and r2 recover r0's command, which is gone, though r4's disk hangs and it has begun recoveries of its
/// own that nobody hears of; r3 is cut off from neither.
pub(crate) fn recovers_beside_one_whose_disk_hangs(config: &Config) -> bool {
    let mut cluster = Cluster::quiet(5, config);
    cluster.submit(0, "command", "k");
    for to in [1, 2, 3, 4] {
        cluster.pass(0, to, "pre_accept");
    }
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    cluster.node(4).syncs = false;
    let of = id(0, 1);
    // It is ahead of whatever the others begin.
    let ballot = Ballot {
        round: 1_000,
        replica: r(4),
    };
    cluster
        .node(4)
        .receive(r(4), Message::Recover { id: of, ballot });
    cluster.node(1).recover_instance(of);
    cluster.settle(&[1, 2, 3, 4]);
    cluster.all_decided(&[1, 2, 3], of)
}

/// What the others have executed of commands that were proposed together at one whose window is of one command.
pub(crate) fn executed_of_a_full_window(config: &Config) -> Vec<String> {
    let config = Config {
        max_window: 1,
        ..config.clone()
    };
    let mut cluster = Cluster::quiet(3, &config);
    cluster.submit(0, "a", "k");
    // The driver proposes the second again.
    for name in ["b", "b", "c"] {
        cluster.submit(0, name, "k");
    }
    cluster.deliver();
    cluster.node(1).executed()
}

/// Whether a replica that has recovered an instance often, and to no end, has its turn again while another begins a
/// recovery every 2.2 s.
pub(crate) fn has_its_turn(config: &Config) -> bool {
    let mut node = Node::fresh(1, 5, config);
    node.recover_instance(id(0, 1));
    let mut round = 1;
    let mut recovers_within = |time| {
        round += 1;
        let ballot = Ballot {
            round,
            replica: r(2),
        };
        node.take();
        let of = id(0, 1);
        node.receive(r(2), Message::Recover { id: of, ballot });
        node.pass(time);
        let own = |message: &Message| matches!(message, Message::Recover { .. });
        let recovers = node.take().iter().any(|(_, message)| own(message));
        round += u64::from(recovers);
        recovers
    };
    assert!((0..6).all(|_| recovers_within(10 * LONG)));
    (0..20).any(|_| recovers_within(Duration::from_millis(2_200)))
}

/// How long after it has heard of an instance a replica recovers it, of whose recoveries of others so many were
/// answered by nobody.
pub(crate) fn waits_after(unanswered: u64, config: &Config) -> Duration {
    let mut node = Node::fresh(1, 5, config);
    for slot in 1..=unanswered {
        node.recover_instance(id(0, slot));
        let until = node.now + 4 * config.retransmit;
        while let Some((timer, due)) = node.next_timer()
            && due <= until
        {
            node.fire(timer);
        }
    }
    let heard = node.now;
    node.recover_instance(id(2, 1));
    node.now.since(heard)
}

/// In which round a recovery begins anew that was rejected by one, and answered by nobody.
pub(crate) fn begins_anew_in(config: &Config) -> Option<u64> {
    let mut node = Node::fresh(4, 5, config);
    let of = id(0, 1);
    node.recover_instance(of);
    node.take();
    let ballot = Ballot {
        round: 8,
        replica: r(3),
    };
    node.receive(r(3), Message::Rejected { id: of, ballot });
    // Before a recovery of its own would be due again.
    node.pass(20 * config.recover_after);
    let begun = node.take().into_iter().filter_map(|(_, sent)| match sent {
        Message::Recover { ballot, .. } => Some(ballot.round),
        _ => None,
    });
    begun.max()
}
