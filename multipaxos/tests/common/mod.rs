//! The bench for Multi-Paxos replicas: what is Multi-Paxos's own in it.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test file uses its own part of the bench"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::{Event, Role};
use quorate_core::request::Batch;
use quorate_multipaxos::{
    Accept, Acceptance, Config, Message, MultiPaxos, Prepare, Promise, Proposal, Record, Report,
    Slots, Timer,
};
use quorate_simulator::harness;

pub(crate) use quorate_multipaxos::Ballot;
pub(crate) use quorate_simulator::harness::{command, context, r, snapshot, text};

/// A Multi-Paxos replica.
pub(crate) type Node = harness::Node<MultiPaxos>;
/// Multi-Paxos replicas, and the messages between them.
pub(crate) type Cluster = harness::Cluster<MultiPaxos>;

/// The ballot of `replica` in `round`.
pub(crate) fn b(round: u64, replica: u8) -> Ballot {
    let replica = r(replica);
    Ballot { round, replica }
}

pub(crate) fn proposal(slot: u64, text: &str) -> Proposal {
    Proposal {
        slot: Slot(slot),
        batch: value(text),
    }
}

/// A batch of one command, or the no-op for an empty one.
pub(crate) fn value(text: &str) -> Batch {
    match text {
        "" => Batch::noop(),
        _ => command(text),
    }
}

/// Records of a replica that has promised a ballot, and accepted values in slots and ballots.
pub(crate) fn records(promised: Ballot, accepted: &[(u64, Ballot, &str)]) -> Vec<Record> {
    let mut records = vec![Record::Promised(promised)];
    for (slot, ballot, text) in accepted {
        records.push(Record::Accepted {
            ballot: *ballot,
            proposals: vec![proposal(*slot, text)],
            chosen: Slot::ZERO,
        });
    }
    records
}

pub(crate) fn prepare(ballot: Ballot, from: u64) -> Message {
    Message::Prepare(Prepare {
        ballot,
        from: Slot(from),
        released: None,
    })
}

/// A promise with values accepted in slots and ballots, and nothing known chosen.
pub(crate) fn promise(ballot: Ballot, accepted: &[(u64, Ballot, &str)]) -> Message {
    promise_from(ballot, 0, accepted)
}

/// A promise of a replica that knows all slots `through` one to be chosen.
pub(crate) fn promise_from(
    ballot: Ballot,
    through: u64,
    accepted: &[(u64, Ballot, &str)],
) -> Message {
    let report = |(slot, ballot, text): &(u64, Ballot, &str)| Report {
        slot: Slot(*slot),
        ballot: *ballot,
        batch: value(text),
    };
    let accepted: Vec<Report> = accepted.iter().map(report).collect();
    Message::Promise(Promise {
        ballot,
        from: Slot(1),
        through: accepted.last().map_or(Slot(1), |report| report.slot),
        last: true,
        accepted,
        chosen: Slot(through),
        compacted: Slot::ZERO,
    })
}

pub(crate) fn accept(ballot: Ballot, proposals: &[(u64, &str)], chosen: u64) -> Message {
    let values = proposals.iter();
    Message::Accept(Accept {
        ballot,
        proposals: values.map(|(slot, text)| proposal(*slot, text)).collect(),
        chosen: Slot(chosen),
        round: 0,
    })
}

pub(crate) fn heartbeat(ballot: Ballot, chosen: u64, round: u64) -> Message {
    Message::Accept(Accept {
        ballot,
        proposals: Vec::new(),
        chosen: Slot(chosen),
        round,
    })
}

/// An acceptance of the slots given.
pub(crate) fn accepted(ballot: Ballot, slots: &[u64]) -> Message {
    echo(ballot, slots, 0, 0)
}

/// What tells a leader that it was heard, and which slots were accepted if any.
pub(crate) fn echo(ballot: Ballot, slots: &[u64], round: u64, executed: u64) -> Message {
    let mut ranges = Slots::default();
    for slot in slots {
        ranges.push(Slot(*slot));
    }
    let acceptance = Acceptance {
        ballot,
        slots: ranges,
        round,
        executed: Slot(executed),
    };
    match slots {
        [] => Message::Echo(acceptance),
        _ => Message::Accepted(acceptance),
    }
}

pub(crate) fn rejected(ballot: Ballot, promised: Ballot) -> Message {
    Message::Rejected { ballot, promised }
}

/// What the replicas of Multi-Paxos are made as, and what they are asked.
pub(crate) trait PaxosNode {
    /// Replica `me` of `n` that has promised a ballot, and accepted values.
    fn acceptor(me: u8, n: usize, promised: Ballot, accepted: &[(u64, Ballot, &str)]) -> Node;
    /// Replica 0 of `n`, which has just begun phase 1 in `round`, and had accepted values.
    fn candidate(n: usize, round: u64, accepted: &[(u64, Ballot, &str)]) -> Node;
    /// Replica 0 of `n`, which has just been elected in `round`: nobody had accepted anything.
    fn leader(n: usize, round: u64) -> Node;
    /// Lets the time pass until the replica campaigns, as all others let it; gives how long that
    /// took.
    fn wait_for_campaign(&mut self) -> Duration;
    /// All who were asked whether a campaign would be in anybody's way say that it would not.
    fn be_granted_pre_votes(&mut self);
    /// Takes the proposals that have been sent to `to`: slots and values.
    fn proposed(&mut self, to: ReplicaId) -> Vec<(u64, String)>;
    /// The ballot that the replica is in.
    fn ballot(&self) -> Ballot;
    /// The ballot that is durably promised.
    fn durable_promise(&self) -> Ballot;
    /// What is durably accepted: slots, ballots and values, in the order of slots.
    fn durable_log(&self) -> Vec<(u64, Ballot, String)>;
}

fn campaigns(node: &Node) -> usize {
    let campaign = |event: &&Event| matches!(event, Event::Campaign { .. });
    node.events.iter().filter(campaign).count()
}

impl PaxosNode for Node {
    fn acceptor(me: u8, n: usize, promised: Ballot, accepted: &[(u64, Ballot, &str)]) -> Node {
        Node::with(me, n, &Config::default(), records(promised, accepted))
    }

    fn candidate(n: usize, round: u64, accepted: &[(u64, Ballot, &str)]) -> Node {
        let mut node = Node::acceptor(0, n, b(round - 1, 0), accepted);
        node.wait_for_campaign();
        assert_eq!((node.role(), node.ballot()), (Role::Candidate, b(round, 0)));
        node
    }

    fn leader(n: usize, round: u64) -> Node {
        let mut node = Node::candidate(n, round, &[]);
        for peer in ReplicaId::all(n).skip(1).take(n / 2) {
            node.receive(peer, promise(b(round, 0), &[]));
        }
        assert_eq!(node.role(), Role::Leader);
        node
    }

    fn wait_for_campaign(&mut self) -> Duration {
        let (before, start) = (campaigns(self), self.now);
        while campaigns(self) == before {
            self.fire(Timer::Election);
            self.be_granted_pre_votes();
        }
        self.now.since(start)
    }

    fn be_granted_pre_votes(&mut self) {
        let asked = |message: &Message| match message {
            Message::PreVote { ticket, .. } => Some(*ticket),
            _ => None,
        };
        let sent = self.take();
        let (questions, rest): (Vec<_>, Vec<_>) = sent
            .into_iter()
            .partition(|(_, message)| asked(message).is_some());
        self.sent = rest;
        for (peer, message) in questions {
            if let Some(ticket) = asked(&message) {
                self.receive(peer, Message::PreVoteGranted { ticket });
            }
        }
    }

    fn proposed(&mut self, to: ReplicaId) -> Vec<(u64, String)> {
        let sent = self.take().into_iter();
        let accepts = sent.filter_map(|(peer, message)| match message {
            Message::Accept(accept) if peer == to => Some(accept.proposals),
            _ => None,
        });
        let proposals = accepts.flatten();
        proposals.map(|p| (p.slot.0, text(&p.batch))).collect()
    }

    fn ballot(&self) -> Ballot {
        let regime = self.regime();
        b(regime >> 6, (regime & 63) as u8)
    }

    fn durable_promise(&self) -> Ballot {
        let ballots = self.durable.iter().filter_map(|record| match record {
            Record::Promised(ballot) | Record::Accepted { ballot, .. } => Some(*ballot),
            Record::Start(_) | Record::Chosen(_) => None,
        });
        ballots.max().unwrap_or(Ballot::ZERO)
    }

    fn durable_log(&self) -> Vec<(u64, Ballot, String)> {
        let mut log = BTreeMap::new();
        for record in &self.durable {
            let (ballot, proposals) = match record {
                Record::Accepted {
                    ballot, proposals, ..
                } => (*ballot, proposals),
                Record::Chosen(proposals) => (Ballot::ZERO, proposals),
                Record::Start(_) | Record::Promised(_) => continue,
            };
            for proposal in proposals {
                log.insert(proposal.slot.0, (ballot, text(&proposal.batch)));
            }
        }
        let held = log.into_iter();
        held.map(|(slot, (ballot, text))| (slot, ballot, text))
            .collect()
    }
}

/// What the replicas of Multi-Paxos do together.
pub(crate) trait PaxosCluster {
    /// A cluster in which replica 0 has just been elected.
    fn led_by_0(n: usize, config: &Config) -> Cluster;
    /// Lets `id` campaign, and expects it to win.
    fn elect(&mut self, id: u8);
    /// The leader's heartbeat, and what follows from it.
    fn beat(&mut self, leader: u8);
}

impl PaxosCluster for Cluster {
    fn led_by_0(n: usize, config: &Config) -> Cluster {
        let mut cluster = Cluster::new(n, config);
        cluster.elect(0);
        cluster
    }

    fn elect(&mut self, id: u8) {
        self.node(id).wait_for_campaign();
        self.deliver();
        assert_eq!(self.node(id).role(), Role::Leader);
    }

    fn beat(&mut self, leader: u8) {
        self.fire(leader, Timer::Heartbeat);
    }
}
