//! The bench for Raft replicas: what is Raft's own in it.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test file uses its own part of the bench"
)]

use std::time::Duration;

use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::Role;
use quorate_raft::{AppendEntries, Config, Entry, Message, Position, Raft, Record, Term, Timer};
use quorate_simulator::harness;

pub(crate) use quorate_simulator::harness::{command, context, r, snapshot, text};

/// A Raft replica.
pub(crate) type Node = harness::Node<Raft>;
/// Raft replicas, and the messages between them.
pub(crate) type Cluster = harness::Cluster<Raft>;

/// Entries with the terms given, each with a command that says its term.
pub(crate) fn entries(terms: &[u64]) -> Vec<Entry> {
    let entry = |term: &u64| Entry {
        term: Term(*term),
        batch: command(&format!("of term {term}")),
    };
    terms.iter().map(entry).collect()
}

pub(crate) fn at(slot: u64, term: u64) -> Position {
    Position {
        term: Term(term),
        slot: Slot(slot),
    }
}

/// Records of a replica in `term` that has not voted in it, with a log of the terms given.
pub(crate) fn records(term: u64, log: &[u64]) -> Vec<Record> {
    vec![
        Record::Vote {
            term: Term(term),
            voted_for: None,
        },
        Record::Append {
            after: Slot::ZERO,
            entries: entries(log),
        },
    ]
}

pub(crate) fn heartbeat(term: u64, previous: Position, commit: u64) -> Message {
    append(term, previous, &[], commit)
}

pub(crate) fn append(term: u64, previous: Position, terms: &[u64], commit: u64) -> Message {
    Message::AppendEntries(AppendEntries {
        term: Term(term),
        previous,
        entries: entries(terms),
        commit: Slot(commit),
        round: 0,
        known: None,
        heard: true,
    })
}

pub(crate) fn request_vote(term: u64, last: Position) -> Message {
    Message::RequestVote {
        term: Term(term),
        last,
    }
}

/// A vote for who has asked with a log that ends with `last`.
pub(crate) fn vote(term: u64, last: Position, granted: bool) -> Message {
    Message::Vote {
        term: Term(term),
        last,
        granted,
    }
}

pub(crate) fn accepted(term: u64, matched: u64) -> Message {
    Message::Accepted {
        term: Term(term),
        matched: Slot(matched),
    }
}

pub(crate) fn echo(term: u64, round: u64) -> Message {
    let term = Term(term);
    Message::Echo { term, round }
}

/// What a replica asks that has heard nobody.
pub(crate) fn pre_vote(term: u64, last: Position) -> Message {
    pre_vote_hearing(term, last, &[])
}

/// What a replica asks that has heard these since it asked before.
pub(crate) fn pre_vote_hearing(term: u64, last: Position, hears: &[u8]) -> Message {
    Message::PreVote {
        term: Term(term),
        last,
        hears: hears.iter().map(|id| r(*id)).collect(),
    }
}

/// What a replica in `term` says to whether it would vote in the term `asked`.
pub(crate) fn pre_vote_reply(term: u64, asked: u64, granted: bool) -> Message {
    Message::PreVoteReply {
        term: Term(term),
        asked: Term(asked),
        granted,
    }
}

/// What Raft's replicas are made as, and what they are asked.
pub(crate) trait RaftNode {
    /// Replica `me` of `n` in `term`, which has not voted, with a log of the terms given.
    fn follower(me: u8, n: usize, term: u64, log: &[u64]) -> Node;
    /// Replica 0 of `n`, which has just become a candidate in `term`.
    fn candidate(n: usize, term: u64, log: &[u64]) -> Node;
    /// Replica 0 of `n`, which has just become the leader of `term`, its first entry not sent.
    fn leader(n: usize, term: u64, log: &[u64]) -> Node;
    /// Lets the time pass until the replica campaigns, which all whom it asks first agree to; gives
    /// how long that took.
    fn wait_for_campaign(&mut self) -> Duration;
    /// All whom the replica asks whether they would vote for it would.
    fn agree_to_campaign(&mut self);
    /// Takes the AppendEntries that have been sent to `to`.
    fn appends(&mut self, to: ReplicaId) -> Vec<AppendEntries>;
    /// The term that it is in.
    fn term(&self) -> u64;
    /// The log as its records make it, synced or not: the position it goes on from, and entries.
    fn log(&self) -> (Position, Vec<Entry>);
    /// The terms of the log's entries.
    fn log_terms(&self) -> Vec<u64>;
    /// The term and vote that are durable.
    fn durable_vote(&self) -> (u64, Option<ReplicaId>);
}

impl RaftNode for Node {
    fn follower(me: u8, n: usize, term: u64, log: &[u64]) -> Node {
        Node::with(me, n, &Config::default(), records(term, log))
    }

    fn candidate(n: usize, term: u64, log: &[u64]) -> Node {
        let mut node = Node::follower(0, n, term - 1, log);
        node.wait_for_campaign();
        assert_eq!((node.role(), node.term()), (Role::Candidate, term));
        node
    }

    fn leader(n: usize, term: u64, log: &[u64]) -> Node {
        let mut node = Node::candidate(n, term, log);
        let last = at(log.len() as u64, log.last().copied().unwrap_or(0));
        for voter in ReplicaId::all(n).skip(1).take(n / 2) {
            node.receive(voter, vote(term, last, true));
        }
        assert_eq!((node.role(), node.term()), (Role::Leader, term));
        node
    }

    fn wait_for_campaign(&mut self) -> Duration {
        let (term, start) = (self.term(), self.now);
        while self.term() == term {
            self.fire(Timer::Election);
            self.agree_to_campaign();
        }
        self.now.since(start)
    }

    fn agree_to_campaign(&mut self) {
        let sent = self.sent.len();
        self.sent
            .retain(|(_, message)| !matches!(message, Message::PreVote { .. }));
        if self.sent.len() == sent {
            return;
        }
        let (term, me) = (self.term(), self.me);
        for voter in ReplicaId::all(self.context.n()).filter(|id| *id != me) {
            self.receive(voter, pre_vote_reply(term, term + 1, true));
        }
    }

    fn appends(&mut self, to: ReplicaId) -> Vec<AppendEntries> {
        let sent = self.sent_to(to).into_iter();
        sent.filter_map(|message| match message {
            Message::AppendEntries(append) => Some(append),
            _ => None,
        })
        .collect()
    }

    fn term(&self) -> u64 {
        self.regime()
    }

    fn log(&self) -> (Position, Vec<Entry>) {
        let (mut start, mut log) = (Position::default(), Vec::new());
        for record in self.records() {
            match record {
                Record::Start(position) => start = *position,
                Record::Vote { .. } => {}
                Record::Append { after, entries } => {
                    log.truncate((after.0 - start.slot.0) as usize);
                    log.extend_from_slice(entries);
                }
            }
        }
        (start, log)
    }

    fn log_terms(&self) -> Vec<u64> {
        self.log().1.iter().map(|entry| entry.term.0).collect()
    }

    fn durable_vote(&self) -> (u64, Option<ReplicaId>) {
        let mut votes = self.durable.iter().filter_map(|record| match record {
            Record::Vote { term, voted_for } => Some((term.0, *voted_for)),
            _ => None,
        });
        votes.next_back().unwrap_or((0, None))
    }
}

/// What Raft's replicas do together.
pub(crate) trait RaftCluster {
    /// A cluster in which replica 0 has just been elected.
    fn led_by_0(n: usize, config: &Config) -> Cluster;
    /// Lets `id` campaign, and expects it to win.
    fn elect(&mut self, id: u8);
    /// The leader's heartbeat, and what follows from it.
    fn beat(&mut self, leader: u8);
}

impl RaftCluster for Cluster {
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
