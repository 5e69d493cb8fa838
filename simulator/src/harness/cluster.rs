//! Replicas, and the messages between them.

use std::collections::BTreeSet;
use std::fmt;

use quorate_core::id::ReplicaId;
use quorate_core::protocol::{Message as _, Protocol};

use super::{Node, r};

/// Which messages are lost: sender, receiver and message.
type Loss<P> = Box<dyn Fn(ReplicaId, ReplicaId, &<P as Protocol>::Message) -> bool>;

/// Replicas, and the messages between them, which arrive when the test says so.
pub struct Cluster<P: Protocol> {
    /// The replicas, in the order of their ids.
    pub nodes: Vec<Node<P>>,
    /// Kinds of messages that are lost, until [`heal`](Cluster::heal).
    pub lost: BTreeSet<&'static str>,
    /// The kinds of the messages delivered, by rounds: all that is sent in a round arrives in the
    /// next, so that rounds count message delays.
    pub rounds: Vec<Vec<&'static str>>,
    blocked: BTreeSet<(ReplicaId, ReplicaId)>,
    losses: Vec<Loss<P>>,
}

impl<P: Protocol> fmt::Debug for Cluster<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("nodes", &self.nodes)
            .field("lost", &self.lost)
            .field("blocked", &self.blocked)
            .finish_non_exhaustive()
    }
}

impl<P: Protocol> Cluster<P> {
    /// `n` replicas without a past. What they send when they start is under way.
    pub fn new(n: usize, config: &P::Config) -> Self {
        let ids = ReplicaId::all(n);
        Cluster::of(ids.map(|id| Node::fresh(id.0, n, config)).collect())
    }

    /// The replicas given, in the order of their ids.
    pub fn of(nodes: Vec<Node<P>>) -> Self {
        Cluster {
            nodes,
            lost: BTreeSet::new(),
            rounds: Vec::new(),
            blocked: BTreeSet::new(),
            losses: Vec::new(),
        }
    }

    /// The same replicas; whether a broken invariant ends the test, in each of them.
    pub fn checking(mut self, checks: bool) -> Self {
        for node in &mut self.nodes {
            node.checks = checks;
        }
        self
    }

    /// Expects the invariants to hold in every replica.
    #[track_caller]
    pub fn assert_invariants(&self) {
        for node in &self.nodes {
            assert_eq!(node.protocol.check(), Ok(()), "in {}", node.me);
        }
    }

    /// Replica `id`.
    pub fn node(&mut self, id: u8) -> &mut Node<P> {
        &mut self.nodes[usize::from(id)]
    }

    /// Loses all messages from and to `id` from now on.
    pub fn isolate(&mut self, id: u8) {
        for other in ReplicaId::all(self.nodes.len()) {
            self.blocked.insert((r(id), other));
            self.blocked.insert((other, r(id)));
        }
    }

    /// Loses all messages from one replica to another from now on.
    pub fn block(&mut self, from: u8, to: u8) {
        self.blocked.insert((r(from), r(to)));
    }

    /// Whether all messages from one replica to another are lost.
    pub fn blocks(&self, from: ReplicaId, to: ReplicaId) -> bool {
        self.blocked.contains(&(from, to))
    }

    /// Loses, from now on, also the messages of which `loss` holds: sender, receiver, message.
    pub fn lose(&mut self, loss: impl Fn(ReplicaId, ReplicaId, &P::Message) -> bool + 'static) {
        self.losses.push(Box::new(loss));
    }

    /// Ends all isolation and loss.
    pub fn heal(&mut self) {
        self.blocked.clear();
        self.lost.clear();
        self.losses.clear();
    }

    /// Delivers all messages, and those that follow from them, until none is left.
    pub fn deliver(&mut self) {
        while self.deliver_round() {}
    }

    /// Delivers all messages that are under way; false if there is none.
    pub fn deliver_round(&mut self) -> bool {
        let mut messages = Vec::new();
        for node in &mut self.nodes {
            let from = node.me;
            let sent = node.take().into_iter();
            messages.extend(sent.map(|(to, message)| (from, to, message)));
        }
        if messages.is_empty() {
            return false;
        }
        let mut kinds = Vec::new();
        for (from, to, message) in messages {
            if !self.loses(from, to, &message) {
                kinds.push(message.kind());
                self.node(to.0).receive(from, message);
            }
        }
        self.rounds.push(kinds);
        true
    }

    fn loses(&self, from: ReplicaId, to: ReplicaId, message: &P::Message) -> bool {
        self.blocks(from, to)
            || self.lost.contains(message.kind())
            || self.losses.iter().any(|loss| loss(from, to, message))
    }

    /// The kinds of all messages delivered, in order. `rounds.clear()` counts anew.
    pub fn delivered(&self) -> Vec<&'static str> {
        self.rounds.concat()
    }

    /// How many messages of a kind have been delivered.
    pub fn count(&self, kind: &str) -> usize {
        self.rounds.iter().flatten().filter(|k| **k == kind).count()
    }

    /// A command proposed at `id`, and what follows from it.
    pub fn propose(&mut self, id: u8, text: &str) {
        self.node(id).propose(text);
        self.deliver();
    }

    /// Fires `timer`, which must be armed, at `id`, and delivers what follows from it.
    pub fn fire(&mut self, id: u8, timer: P::Timer) {
        self.node(id).fire(timer);
        self.deliver();
    }

    /// Replica `id` crashes, and comes back with what was durable.
    pub fn restart(&mut self, id: u8, config: &P::Config) {
        let node = self.nodes.remove(usize::from(id)).crash(config);
        self.nodes.insert(usize::from(id), node);
    }

    /// Carries out the fetch that `id` wants, if whom it asks has what it wants, and delivers
    /// what follows from it.
    pub fn fetch(&mut self, id: u8) {
        let Some(fetch) = self.node(id).fetch.take() else {
            return;
        };
        let blocked = self.blocks(fetch.from, r(id));
        let offer = self.node(fetch.from.0).offer.as_ref();
        if offer.is_some_and(|(at, _)| at.covers(&fetch.at_least)) && !blocked {
            self.transfer(fetch.from.0, id);
            self.deliver();
        }
    }

    /// Installs at `to` the snapshot that `from` offers, as a driver does after a fetch.
    pub fn transfer(&mut self, from: u8, to: u8) {
        let snapshot = self.node(from).offered().expect("a snapshot is offered");
        assert!(self.node(to).protocol.accepts(&snapshot));
        self.node(to).install(snapshot);
    }
}
