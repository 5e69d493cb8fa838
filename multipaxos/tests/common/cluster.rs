//! Replicas and the messages between them.

use std::collections::BTreeSet;

use quorate_core::id::ReplicaId;
use quorate_core::protocol::{Input, Protocol, Recovered, Role};
use quorate_multipaxos::{Config, Timer};

use super::{Node, context, r, snapshot};

/// Replicas and the messages between them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    blocked: BTreeSet<(ReplicaId, ReplicaId)>,
    /// The kinds of the messages delivered.
    pub(crate) delivered: Vec<&'static str>,
}

impl Cluster {
    pub(crate) fn new(n: usize, config: &Config) -> Cluster {
        let node = |id: ReplicaId| {
            let context = context(id, n, id.0);
            Node::recover(context, config.clone(), Recovered::nothing()).expect("a good past")
        };
        Cluster::of(ReplicaId::all(n).map(node).collect())
    }

    pub(crate) fn of(nodes: Vec<Node>) -> Cluster {
        Cluster {
            nodes,
            blocked: BTreeSet::new(),
            delivered: Vec::new(),
        }
    }

    /// A cluster in which replica 0 has just been elected.
    pub(crate) fn led_by_0(n: usize, config: &Config) -> Cluster {
        let mut cluster = Cluster::new(n, config);
        cluster.elect(0);
        cluster
    }

    /// Lets `id` campaign, and expects it to win.
    pub(crate) fn elect(&mut self, id: u8) {
        self.node(id).wait_for_campaign();
        self.deliver();
        assert_eq!(self.node(id).role(), Role::Leader);
    }

    pub(crate) fn node(&mut self, id: u8) -> &mut Node {
        &mut self.nodes[usize::from(id)]
    }

    /// Drops all messages from and to `id` from now on.
    pub(crate) fn isolate(&mut self, id: u8) {
        for other in ReplicaId::all(self.nodes.len()) {
            self.blocked.insert((r(id), other));
            self.blocked.insert((other, r(id)));
        }
    }

    /// Ends all isolation.
    pub(crate) fn heal(&mut self) {
        self.blocked.clear();
    }

    /// Delivers all messages, and those that follow from them, until none is left.
    pub(crate) fn deliver(&mut self) {
        use quorate_core::protocol::Message as _;
        loop {
            let messages: Vec<_> = self
                .nodes
                .iter_mut()
                .flat_map(|node| {
                    let from = node.me;
                    let sent = node.take().into_iter();
                    sent.map(move |(to, message)| (from, to, message))
                })
                .collect();
            if messages.is_empty() {
                return;
            }
            for (from, to, message) in messages {
                if !self.blocked.contains(&(from, to)) {
                    self.delivered.push(message.kind());
                    self.node(to.0).receive(from, message);
                }
            }
        }
    }

    /// Replica `id`, to be replaced.
    pub(crate) fn restart(&mut self, id: u8, config: &Config) {
        let node = self
            .nodes
            .remove(usize::from(id))
            .crash(config.clone(), None);
        self.nodes.insert(usize::from(id), node);
    }

    /// The leader's heartbeat, and what follows from it.
    pub(crate) fn beat(&mut self, leader: u8) {
        self.node(leader).fire(Timer::Heartbeat);
        self.deliver();
    }

    /// A command proposed at `id`, and what follows from it.
    pub(crate) fn propose(&mut self, id: u8, text: &str) {
        self.node(id).propose(text);
        self.deliver();
    }

    /// Installs at `to` the snapshot that `from` offers, as the driver does after a fetch.
    pub(crate) fn transfer(&mut self, from: u8, to: u8) {
        let (at, anchor) = self
            .node(from)
            .offer
            .clone()
            .expect("a snapshot is offered");
        let snapshot = snapshot(at.slot().0, anchor);
        assert!(self.node(to).paxos.accepts(&snapshot));
        self.node(to).fetch = None;
        self.node(to).turn(Input::Installed(snapshot));
    }
}
