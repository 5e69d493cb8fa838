//! What replicas tell each other.

use quorate_core::crypto::Verifier;
use quorate_core::id::{ReplicaId, ReplicaSet, Slot};
use quorate_core::protocol::{self, Invalid};
use quorate_core::request::Batch;
use serde::{Deserialize, Serialize};

use crate::log::{Entry, Position, Term};

/// A message of Raft. [Ongaro14 figure 2], with what the crate's README says of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Who hears no leader asks whether it would have a vote. [OngaroThesis §9.6]
    PreVote {
        /// The term that it would campaign for: none that anybody enters for being asked.
        term: Term,
        /// The end of its log. [Ongaro14 §5.4.1]
        last: Position,
        /// Whom it has heard since it asked before.
        hears: ReplicaSet,
    },
    /// The answer.
    PreVoteReply {
        /// The term of who answers.
        term: Term,
        /// The term asked about.
        asked: Term,
        /// Whether the vote would be given.
        granted: bool,
    },
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
        /// The end of the log that the candidate has asked with: the vote is for no other.
        last: Position,
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
    },
    /// The sender, in the term, has heard of the leader's round. [OngaroThesis §6.4]
    Echo {
        /// The sender's term.
        term: Term,
        /// The last round heard of.
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
    },
    /// The leader no longer has what the receiver lacks: it must fetch a snapshot.
    /// [Ongaro14 §7]
    SnapshotNeeded {
        /// The leader's term.
        term: Term,
        /// How far the snapshot must reach.
        through: Slot,
        /// The leader's last round.
        round: u64,
        /// Whether the leader has heard the receiver of late.
        heard: bool,
    },
    /// A follower tells its leader of a replica that hears no leader and asks for votes.
    Unheard {
        /// The sender's term.
        term: Term,
        /// Who asks.
        replica: ReplicaId,
    },
    /// The leader hands over: the receiver is to campaign at once. [OngaroThesis §3.10]
    TimeoutNow {
        /// The leader's term.
        term: Term,
        /// How often in a row leaders have made way for one that another replica hears.
        moves: u32,
    },
    /// Requests that came in at a follower. [OngaroThesis §6.2]
    Forward {
        /// What the sender has seen decided: all slots through this one.
        seen: Slot,
        /// The requests.
        batch: Batch,
    },
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
    /// The leader's last round: of heartbeats, and of reads. [OngaroThesis §6.4]
    pub round: u64,
    /// Through where the leader knows that the receiver agrees, durably: beyond that the receiver
    /// acknowledges again. None while the leader asks where the logs agree.
    pub known: Option<Slot>,
    /// Whether the leader has heard the receiver of late.
    pub heard: bool,
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
    /// The sender's term. Messages that mean the same in every term have none, nor do those that
    /// ask about a term that nobody has entered.
    pub fn term(&self) -> Option<Term> {
        match self {
            Message::RequestVote { term, .. }
            | Message::Vote { term, .. }
            | Message::Accepted { term, .. }
            | Message::Echo { term, .. }
            | Message::Rejected { term, .. }
            | Message::SnapshotNeeded { term, .. }
            | Message::Unheard { term, .. }
            | Message::TimeoutNow { term, .. } => Some(*term),
            Message::AppendEntries(append) => Some(append.term),
            Message::PreVote { .. }
            | Message::PreVoteReply { .. }
            | Message::Forward { .. }
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. } => None,
        }
    }

    fn highest_slot(&self) -> Slot {
        match self {
            Message::PreVote { last, .. }
            | Message::RequestVote { last, .. }
            | Message::Vote { last, .. } => last.slot,
            Message::AppendEntries(append) => append.previous.slot.max(append.commit),
            Message::Accepted { matched, .. } => *matched,
            Message::Rejected { previous, hint, .. } => hint.slot.max(*previous),
            Message::SnapshotNeeded { through, .. } => *through,
            Message::ReadIndexReply { index, .. } => *index,
            Message::Forward { seen, .. } => *seen,
            Message::PreVoteReply { .. }
            | Message::Echo { .. }
            | Message::Unheard { .. }
            | Message::TimeoutNow { .. }
            | Message::ReadIndex { .. } => Slot::ZERO,
        }
    }

    fn highest_term(&self) -> Option<Term> {
        match self {
            Message::PreVote { term, .. } => Some(*term),
            Message::PreVoteReply { term, asked, .. } => Some(*term.max(asked)),
            _ => self.term(),
        }
    }

    fn fault(&self) -> Option<&'static str> {
        if self.highest_term().is_some_and(|term| term.0 > HIGHEST)
            || self.highest_slot().0 > HIGHEST
        {
            return Some("a term or slot is out of reach");
        }
        match self {
            Message::AppendEntries(append) if !append.is_a_log() => {
                Some("the terms of the entries do not follow each other")
            }
            Message::PreVote { term, last, .. } | Message::RequestVote { term, last }
                if last.term >= *term =>
            {
                Some("the candidate's log is of its own term or a later one")
            }
            _ => None,
        }
    }
}

impl protocol::Message for Message {
    fn kind(&self) -> &'static str {
        match self {
            Message::PreVote { .. } => "pre_vote",
            Message::PreVoteReply { .. } => "pre_vote_reply",
            Message::RequestVote { .. } => "request_vote",
            Message::Vote { .. } => "vote",
            Message::AppendEntries(append) if append.entries.is_empty() => "heartbeat",
            Message::AppendEntries(_) => "append_entries",
            Message::Accepted { .. } => "accepted",
            Message::Echo { .. } => "echo",
            Message::Rejected { .. } => "rejected",
            Message::SnapshotNeeded { .. } => "snapshot_needed",
            Message::Unheard { .. } => "unheard",
            Message::TimeoutNow { .. } => "timeout_now",
            Message::Forward { .. } => "forward",
            Message::ReadIndex { .. } => "read_index",
            Message::ReadIndexReply { .. } => "read_index_reply",
        }
    }

    fn is_promise(&self) -> bool {
        match self {
            // Nobody is in the term asked about, and whoever would vote may still not.
            Message::PreVote { .. } | Message::PreVoteReply { .. } => false,
            // A candidate that forgets its campaign may campaign again in the same term, with a
            // shorter log: a vote says for which log it is, and counts for that alone. It does not
            // lead before its vote for itself is durable, and forgets the term no more.
            Message::RequestVote { .. } => false,
            // A voter that forgets its vote may vote for another in the term. [Ongaro14 §5.2]
            Message::Vote { granted, .. } => *granted,
            // The leader counts on the copy. [Ongaro14 §5.3]
            Message::Accepted { .. } => true,
            // A leader may forget entries that it has sent: its vote for itself was durable
            // before it led, so it never leads this term again, and nobody can put other entries
            // into the same slots and term. Its own copies count only when it has acknowledged
            // them to itself. [OngaroThesis §10.2.1]
            Message::AppendEntries(_) | Message::SnapshotNeeded { .. } => false,
            // Says what has been so far: that no vote of this replica in a later term has left. That
            // stays true whatever it forgets, for a vote leaves when it is durable, and its term with
            // it. [OngaroThesis §6.4]
            Message::Echo { .. } => false,
            // Says what is not there, and binds nobody.
            Message::Rejected { .. } => false,
            // Hearsay. Whoever campaigns does so in its own name.
            Message::Unheard { .. } | Message::TimeoutNow { .. } => false,
            Message::Forward { .. }
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. } => false,
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
