//! What replicas tell each other.

use quorate_core::crypto::Verifier;
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::{self, Invalid};
use quorate_core::request::Batch;
use serde::{Deserialize, Serialize};

use crate::log::{Entry, Position, Term};

/// A message of Raft. [Ongaro14 figure 2], with what the crate's README says of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A candidate asks for a vote. [Ongaro14 §5.2]
    RequestVote {
        /// The candidate's term.
        term: Term,
        /// The end of the candidate's log. [Ongaro14 §5.4.1]
        last: Position,
    },
    /// The answer.
    Vote {
        /// The voter's term.
        term: Term,
        /// Whether the candidate has the vote.
        granted: bool,
    },
    /// The leader's entries; without any, its heartbeat. [Ongaro14 §5.3]
    AppendEntries(AppendEntries),
    /// The sender's log agrees with the leader's, durably, through a slot.
    Accepted {
        /// The sender's term.
        term: Term,
        /// Through where it agrees.
        matched: Slot,
        /// The last round of reads heard of in this term. [OngaroThesis §6.4]
        round: u64,
    },
    /// The sender's log disagrees with the leader's, or the leader is none any more.
    Rejected {
        /// The sender's term.
        term: Term,
        /// The slot asked about, for the leader to know a late answer.
        previous: Slot,
        /// The last position at which the logs may agree. [Ongaro14 §5.3]
        hint: Position,
        /// The last round of reads heard of in this term.
        round: u64,
    },
    /// The leader no longer has what the receiver lacks: it must fetch a snapshot.
    /// [Ongaro14 §7]
    SnapshotNeeded {
        /// The leader's term.
        term: Term,
        /// How far the snapshot must reach.
        through: Slot,
        /// The leader's last round of reads.
        round: u64,
    },
    /// Requests that came in at a follower. [OngaroThesis §6.2]
    Forward(Batch),
    /// A follower asks how far it must have executed to read. [OngaroThesis §6.4]
    ReadIndex {
        /// Names the question.
        ticket: u64,
    },
    /// The answer.
    ReadIndexReply {
        /// The question.
        ticket: u64,
        /// Everything committed when it was asked is in the slots through this one.
        index: Slot,
    },
}

/// A leader's entries. [Ongaro14 figure 2]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: Term,
    /// The entry before the first of `entries`.
    pub previous: Position,
    /// The entries.
    pub entries: Vec<Entry>,
    /// The leader's commit index.
    pub commit: Slot,
    /// The leader's last round of reads. [OngaroThesis §6.4]
    pub round: u64,
}

impl AppendEntries {
    /// The slot of the last entry, or of the previous one.
    pub fn last(&self) -> Slot {
        Slot(self.previous.slot.0 + self.entries.len() as u64)
    }

    /// Terms along a log never decrease, and the leader's is the highest.
    fn is_a_log(&self) -> bool {
        let mut term = self.previous.term;
        let ordered = self.entries.iter().all(|entry| {
            let follows = entry.term >= term;
            term = entry.term;
            follows
        });
        ordered && term <= self.term
    }
}

/// No cluster lives to see a term or slot beyond this, and sums with it do not overflow.
pub(crate) const HIGHEST: u64 = u64::MAX / 4;

impl Message {
    /// The sender's term. Messages that mean the same in every term have none.
    pub fn term(&self) -> Option<Term> {
        match self {
            Message::RequestVote { term, .. }
            | Message::Vote { term, .. }
            | Message::Accepted { term, .. }
            | Message::Rejected { term, .. }
            | Message::SnapshotNeeded { term, .. } => Some(*term),
            Message::AppendEntries(append) => Some(append.term),
            Message::Forward(_) | Message::ReadIndex { .. } | Message::ReadIndexReply { .. } => {
                None
            }
        }
    }

    fn highest_slot(&self) -> Slot {
        match self {
            Message::RequestVote { last, .. } => last.slot,
            Message::AppendEntries(append) => append.previous.slot.max(append.commit),
            Message::Accepted { matched, .. } => *matched,
            Message::Rejected { previous, hint, .. } => hint.slot.max(*previous),
            Message::SnapshotNeeded { through, .. } => *through,
            Message::ReadIndexReply { index, .. } => *index,
            Message::Vote { .. } | Message::Forward(_) | Message::ReadIndex { .. } => Slot::ZERO,
        }
    }

    fn fault(&self) -> Option<&'static str> {
        if self.term().is_some_and(|term| term.0 > HIGHEST) || self.highest_slot().0 > HIGHEST {
            return Some("a term or slot is out of reach");
        }
        match self {
            Message::AppendEntries(append) if !append.is_a_log() => {
                Some("the terms of the entries do not follow each other")
            }
            Message::RequestVote { term, last } if last.term >= *term => {
                Some("the candidate's log is of its own term or a later one")
            }
            _ => None,
        }
    }
}

impl protocol::Message for Message {
    fn kind(&self) -> &'static str {
        match self {
            Message::RequestVote { .. } => "request_vote",
            Message::Vote { .. } => "vote",
            Message::AppendEntries(append) if append.entries.is_empty() => "heartbeat",
            Message::AppendEntries(_) => "append_entries",
            Message::Accepted { .. } => "accepted",
            Message::Rejected { .. } => "rejected",
            Message::SnapshotNeeded { .. } => "snapshot_needed",
            Message::Forward(_) => "forward",
            Message::ReadIndex { .. } => "read_index",
            Message::ReadIndexReply { .. } => "read_index_reply",
        }
    }

    fn is_promise(&self) -> bool {
        match self {
            // A candidate that forgets its campaign may campaign again in the same term with a
            // shorter log, and would count votes that were given to the longer one.
            Message::RequestVote { .. } => true,
            // A voter that forgets its vote may vote for another in the term. [Ongaro14 §5.2]
            Message::Vote { granted, .. } => *granted,
            // The leader counts on the copy. [Ongaro14 §5.3]
            Message::Accepted { .. } => true,
            // A leader may forget entries that it has sent: its vote for itself was durable
            // before it led, so it never leads this term again, and nobody can put other entries
            // into the same slots and term. Its own copies count only when it has acknowledged
            // them to itself. [OngaroThesis §10.2.1]
            Message::AppendEntries(_) | Message::SnapshotNeeded { .. } => false,
            // Says what is not there, and binds nobody.
            Message::Rejected { .. } => false,
            Message::Forward(_) | Message::ReadIndex { .. } | Message::ReadIndexReply { .. } => {
                false
            }
        }
    }

    fn verify(&self, from: ReplicaId, _verifier: &Verifier) -> Result<(), Invalid> {
        match self.fault() {
            None => Ok(()),
            Some(reason) => Err(Invalid {
                from,
                kind: self.kind(),
                reason: String::from(reason),
            }),
        }
    }
}
