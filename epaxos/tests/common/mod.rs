//! What the tests of EPaxos share, on top of the simulator's harness.
#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::id::{EntryId, Lane, ReplicaId, Slot};
use quorate_core::machine::Keys;
use quorate_core::protocol::Message as _;
use quorate_epaxos::dependencies::Dependencies;
use quorate_epaxos::{Config, EPaxos, Message, Phase, View};
use quorate_simulator::harness::{self, text};

pub(crate) use quorate_simulator::harness::r;

pub(crate) type Node = harness::Node<EPaxos>;
pub(crate) type Cluster = harness::Cluster<EPaxos>;

/// The instance of a lane and slot.
pub(crate) fn id(lane: u8, slot: u64) -> EntryId {
    EntryId {
        lane: Lane(lane),
        slot: Slot(slot),
    }
}

/// A set of instances.
pub(crate) fn set(ids: &[(u8, u64)]) -> Dependencies {
    ids.iter().map(|(lane, slot)| id(*lane, *slot)).collect()
}

/// What a command writes that changes a register.
pub(crate) fn writes(key: &str) -> Keys {
    Keys::Some {
        reads: Vec::new(),
        writes: vec![Bytes::copy_from_slice(key.as_bytes())],
    }
}

/// What a command reads.
pub(crate) fn reads(key: &str) -> Keys {
    Keys::Some {
        reads: vec![Bytes::copy_from_slice(key.as_bytes())],
        writes: Vec::new(),
    }
}

/// A decision, as tests compare it: the command's text, or `None` for a Nop, and dependencies.
pub(crate) type Decided = (Option<String>, Dependencies);

pub(crate) fn decided(view: &View) -> Option<Decided> {
    let command = view.command.as_ref().filter(|_| !view.nop);
    let command = command.map(|command| text(command.batch()));
    (view.phase == Phase::Committed).then(|| (command, view.dependencies.clone()))
}

/// What the replicas of EPaxos are asked.
pub(crate) trait EPaxosNode {
    /// What it knows decided of an instance.
    fn decided(&self, id: EntryId) -> Option<Decided>;
    /// How far an instance has come.
    fn phase(&self, id: EntryId) -> Phase;
    /// The instances handed over for execution, in that order.
    fn order(&self) -> Vec<EntryId>;
    /// The instances that it has asked `peer` about since what it sent was taken last.
    fn asked(&mut self, peer: u8) -> Vec<EntryId>;
    /// Lets it hear of an instance, and the time pass until it recovers it. What it sends
    /// before that is lost.
    fn recover_instance(&mut self, id: EntryId);
}

impl EPaxosNode for Node {
    fn decided(&self, id: EntryId) -> Option<Decided> {
        self.protocol.instance(id).as_ref().and_then(decided)
    }

    fn phase(&self, id: EntryId) -> Phase {
        let instance = self.protocol.instance(id);
        instance.map_or(Phase::Initial, |instance| instance.phase)
    }

    fn order(&self) -> Vec<EntryId> {
        self.commits.iter().map(|commit| commit.id).collect()
    }

    fn asked(&mut self, peer: u8) -> Vec<EntryId> {
        let sent = self.sent_to(r(peer)).into_iter();
        let asked = sent.filter_map(|message| match message {
            Message::PreAccept { id, .. } => Some(id),
            _ => None,
        });
        asked.collect()
    }

    fn recover_instance(&mut self, id: EntryId) {
        let peer = ReplicaId::all(self.context.n()).find(|peer| *peer != self.me);
        let preaccepted = 0;
        self.receive(peer.expect("a peer"), Message::Waiting { id, preaccepted });
        let recovers = |(_, message): &(ReplicaId, Message)| matches!(message, Message::Recover { id: other, .. } if *other == id);
        while !self.sent.iter().any(recovers) {
            self.sent.clear();
            let (timer, _) = self.next_timer().expect("a timer is armed");
            self.fire(timer);
        }
        self.sent.retain(
            |(_, message)| matches!(message, Message::Recover { id: other, .. } if *other == id),
        );
    }
}

/// What the replicas of EPaxos do together. After every delivery, \[Ryabinin25\]'s invariants
/// are checked.
pub(crate) trait EPaxosCluster {
    /// Replicas that have nothing to tell each other yet.
    fn quiet(n: usize, config: &Config) -> Cluster;
    /// Proposes a command that writes `key` at `at`; nothing is delivered.
    fn submit(&mut self, at: u8, text: &str, key: &str);
    /// Delivers what `from` has sent to `to` of a kind, and keeps the rest; how many there were.
    fn pass(&mut self, from: u8, to: u8, kind: &str) -> usize;
    /// Delivers all that is under way among `among`, and what follows from it; the rest is lost.
    fn settle(&mut self, among: &[u8]);
    /// Lets time pass among `among`, delivering all between them.
    fn pass_time(&mut self, among: &[u8], time: Duration);
    /// The first breach of Agreement or Visibility that can be seen.
    fn breach(&self) -> Option<String>;
    /// Whether all of `among` know an instance decided.
    fn all_decided(&self, among: &[u8], id: EntryId) -> bool;
}

impl EPaxosCluster for Cluster {
    fn quiet(n: usize, config: &Config) -> Cluster {
        let mut cluster = Cluster::new(n, config);
        cluster.deliver();
        cluster.rounds.clear();
        cluster
    }

    fn submit(&mut self, at: u8, text: &str, key: &str) {
        self.node(at).propose_with(text, writes(key));
    }

    fn pass(&mut self, from: u8, to: u8, kind: &str) -> usize {
        let matches =
            |(peer, message): &(ReplicaId, Message)| *peer == r(to) && message.kind() == kind;
        let sent = self.node(from).take();
        let (passed, kept): (Vec<_>, Vec<_>) = sent.into_iter().partition(matches);
        self.node(from).sent = kept;
        let count = passed.len();
        for (_, message) in passed {
            self.node(to).receive(r(from), message);
            check(self, kind);
        }
        count
    }

    fn settle(&mut self, among: &[u8]) {
        loop {
            let mut messages = Vec::new();
            for from in among {
                let sent = self.node(*from).take().into_iter();
                messages.extend(sent.map(|(to, message)| (r(*from), to, message)));
            }
            messages.retain(|(_, to, _)| among.contains(&to.0));
            if messages.is_empty() {
                return;
            }
            for (from, to, message) in messages {
                let kind = message.kind();
                self.node(to.0).receive(from, message);
                check(self, kind);
            }
        }
    }

    fn pass_time(&mut self, among: &[u8], time: Duration) {
        const STEP: Duration = Duration::from_millis(20);
        let mut passed = Duration::ZERO;
        while passed < time {
            for at in among {
                self.node(*at).pass(STEP);
            }
            self.settle(among);
            passed += STEP;
        }
    }

    fn breach(&self) -> Option<String> {
        let mut decisions: BTreeMap<EntryId, (Decided, View)> = BTreeMap::new();
        for node in &self.nodes {
            for view in node.protocol.instances() {
                let Some(decision) = decided(&view) else {
                    continue;
                };
                let id = view.id;
                let known = decisions.entry(id).or_insert((decision.clone(), view));
                if known.0 != decision {
                    return Some(format!("{id:?} is {:?} and {decision:?}", known.0));
                }
            }
        }
        let commands: Vec<_> = decisions
            .values()
            .filter(|((command, _), _)| command.is_some())
            .map(|(_, view)| view)
            .collect();
        for (index, one) in commands.iter().enumerate() {
            for other in commands.iter().skip(index + 1) {
                let ordered =
                    one.dependencies.contains(other.id) || other.dependencies.contains(one.id);
                let conflict = one.command.as_ref().zip(other.command.as_ref());
                if !ordered && conflict.is_some_and(|(one, other)| one.conflicts(other)) {
                    return Some(format!("{:?} and {:?} are in no order", one.id, other.id));
                }
            }
        }
        None
    }

    fn all_decided(&self, among: &[u8], id: EntryId) -> bool {
        let nodes = self.nodes.iter().filter(|node| among.contains(&node.me.0));
        nodes.into_iter().all(|node| node.decided(id).is_some())
    }
}

/// After every step in which something may have been decided, unless a rule is switched off.
fn check(cluster: &Cluster, kind: &str) {
    let decides = ["commit", "pre_accept_ok", "accept_ok"].contains(&kind);
    if decides && cluster.nodes.iter().all(|node| node.checks) {
        assert_eq!(cluster.breach(), None);
    }
}
