//! What replicas tell each other.

use quorate_core::crypto::Verifier;
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::{self, Invalid};
use quorate_core::request::Batch;
use serde::{Deserialize, Serialize};

use crate::log::{Ballot, Proposal, Report};
use crate::progress::Slots;

/// A message of Multi-Paxos, with what `docs/protocols/multipaxos.md` says of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Phase 1a: a candidate asks for promises, once for all slots. [Lamport01 §2.2, §3]
    Prepare(Prepare),
    /// Phase 1b: the answer, or a part of it.
    Promise(Promise),
    /// Phase 2a: the leader's proposals; without any, its heartbeat. [Lamport01 §2.2, §3]
    Accept(Accept),
    /// Phase 2b: the sender has accepted proposals, durably.
    Accepted(Acceptance),
    /// The sender has heard of a round of heartbeats, and has promised no higher ballot. It names
    /// no slots.
    Echo(Acceptance),
    /// The sender has promised a higher ballot. [Lamport01 §2.2; vanRenesse15 §2, preempted]
    Rejected {
        /// The ballot of the message that is rejected.
        ballot: Ballot,
        /// The ballot promised.
        promised: Ballot,
    },
    /// The sender lacks the values of chosen slots. [vanRenesse15 §4]
    Learn {
        /// The first that it lacks.
        from: Slot,
    },
    /// The answer: values that are chosen, in slots that follow each other.
    Chosen {
        /// The slots with their values.
        proposals: Vec<Proposal>,
    },
    /// The answer, if they are compacted: the receiver must fetch a snapshot. [Chandra07 §5.5]
    SnapshotNeeded {
        /// How far the snapshot must reach.
        through: Slot,
    },
    /// Requests that came in at a follower.
    Forward {
        /// What the sender has seen decided: all slots through this one.
        seen: Slot,
        /// The requests.
        batch: Batch,
    },
    /// The sender waits until all slots through this one are chosen, and wants to be told. The
    /// leader fills them if they are empty: a quorum read has seen something there that no
    /// leader has proposed since.
    Await {
        /// The last of the slots.
        through: Slot,
    },
    /// A quorum read: which is the last slot in which you have accepted anything? \[Charapko19\]
    ReadQuery {
        /// Names the question.
        ticket: u64,
    },
    /// The answer.
    ReadQueryReply {
        /// The question.
        ticket: u64,
        /// The slot.
        accepted: Slot,
    },
    /// A follower asks the leader, which may have a lease, how far it must have executed to read.
    ReadIndex {
        /// Names the question.
        ticket: u64,
    },
    /// The answer.
    ReadIndexReply {
        /// The question.
        ticket: u64,
        /// Everything chosen when it was asked is in the slots through this one.
        index: Slot,
    },
    /// The leader of a ballot has stepped down for good in favour of the receiver.
    HandOver {
        /// Its ballot.
        ballot: Ballot,
    },
    /// The leader of a ballot would hand over to the receiver, if that can be elected.
    Offer {
        /// Its ballot.
        ballot: Ballot,
    },
    /// It can: a phase 1 quorum has said so.
    Willing {
        /// The ballot whose leader has offered.
        ballot: Ballot,
    },
    /// The sender hears of no leader: would a campaign of its be in nobody's way?
    /// [OngaroThesis §9.6]
    PreVote {
        /// Names the question.
        ticket: u64,
        /// Through where the sender has executed.
        executed: Slot,
        /// The ballot whose leader has offered to hand over: it is in nobody's way either.
        instead_of: Option<Ballot>,
    },
    /// The answer, of one that hears of no leader either.
    PreVoteGranted {
        /// The question.
        ticket: u64,
    },
    /// A replica tells itself that its promise is durable.
    Promised {
        /// The ballot promised.
        ballot: Ballot,
    },
}

/// Phase 1a, for all slots from one on. [Lamport01 §3]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// The candidate's ballot.
    pub ballot: Ballot,
    /// The first slot not known chosen by the candidate, or not yet told of by the receiver.
    pub from: Slot,
    /// The ballot whose leader has handed over: a lease granted to it binds nobody any more.
    pub released: Option<Ballot>,
}

/// Phase 1b: the sender accepts nothing in lower ballots any more, and this is what it has
/// accepted in the slots from one through another. That stays true as long as the promise does,
/// so that parts told at different times fit together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The ballot promised.
    pub ballot: Ballot,
    /// The first slot that this part tells of.
    pub from: Slot,
    /// The last.
    pub through: Slot,
    /// There is nothing beyond.
    pub last: bool,
    /// What was accepted, in the order of slots.
    pub accepted: Vec<Report>,
    /// All slots through this one are known chosen, with the values told of if they are.
    pub chosen: Slot,
    /// All slots through this one are compacted: they can only be had in a snapshot.
    pub compacted: Slot,
}

/// Phase 2a, for any number of slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// The proposals, in the order of slots.
    pub proposals: Vec<Proposal>,
    /// All slots through this one are chosen; those that the leader has proposed in this ballot
    /// with the values that it has proposed.
    pub chosen: Slot,
    /// The last round of heartbeats that has begun.
    pub round: u64,
}

/// Phase 2b.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The ballot of the proposals.
    pub ballot: Ballot,
    /// Their slots.
    pub slots: Slots,
    /// The last round of heartbeats heard of in this ballot, in which nothing higher was promised.
    /// With leases it means that nothing is promised to others until the lease is over.
    pub round: u64,
    /// Through where the sender has executed.
    pub executed: Slot,
}

/// No cluster lives to see a round or slot beyond this, and sums with it do not overflow.
const HIGHEST: u64 = u64::MAX >> 10;

impl Message {
    /// The sender's ballot, in messages that only a ballot's owner sends.
    fn own_ballot(&self) -> Option<Ballot> {
        match self {
            Message::Prepare(prepare) => Some(prepare.ballot),
            Message::Accept(accept) => Some(accept.ballot),
            Message::HandOver { ballot } | Message::Offer { ballot } => Some(*ballot),
            _ => None,
        }
    }

    fn highest_ballot(&self) -> Ballot {
        match self {
            Message::Prepare(prepare) => {
                prepare.ballot.max(prepare.released.unwrap_or(Ballot::ZERO))
            }
            Message::Promise(promise) => promise.ballot,
            Message::Accept(accept) => accept.ballot,
            Message::Accepted(acceptance) | Message::Echo(acceptance) => acceptance.ballot,
            Message::Rejected { ballot, promised } => *promised.max(ballot),
            Message::HandOver { ballot }
            | Message::Offer { ballot }
            | Message::Willing { ballot }
            | Message::Promised { ballot } => *ballot,
            Message::PreVote { instead_of, .. } => instead_of.unwrap_or(Ballot::ZERO),
            Message::Learn { .. }
            | Message::Chosen { .. }
            | Message::SnapshotNeeded { .. }
            | Message::Forward { .. }
            | Message::Await { .. }
            | Message::ReadQuery { .. }
            | Message::ReadQueryReply { .. }
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. }
            | Message::PreVoteGranted { .. } => Ballot::ZERO,
        }
    }

    fn highest_slot(&self) -> Slot {
        let last = |proposals: &[Proposal]| proposals.last().map_or(Slot::ZERO, |last| last.slot);
        match self {
            Message::Prepare(prepare) => prepare.from,
            Message::Promise(promise) => {
                let reported = promise.accepted.last().map_or(Slot::ZERO, |r| r.slot);
                let ends = [
                    promise.from,
                    promise.through,
                    promise.chosen,
                    promise.compacted,
                ];
                ends.into_iter().fold(reported, Slot::max)
            }
            Message::Accept(accept) => last(&accept.proposals).max(accept.chosen),
            Message::Accepted(acceptance) | Message::Echo(acceptance) => {
                acceptance.slots.highest().max(acceptance.executed)
            }
            Message::Learn { from } => *from,
            Message::Chosen { proposals } => last(proposals),
            Message::SnapshotNeeded { through } | Message::Await { through } => *through,
            Message::ReadQueryReply { accepted, .. } => *accepted,
            Message::ReadIndexReply { index, .. } => *index,
            Message::Forward { seen, .. } => *seen,
            Message::PreVote { executed, .. } => *executed,
            Message::PreVoteGranted { .. }
            | Message::Rejected { .. }
            | Message::ReadQuery { .. }
            | Message::ReadIndex { .. }
            | Message::Offer { .. }
            | Message::Willing { .. }
            | Message::Promised { .. }
            | Message::HandOver { .. } => Slot::ZERO,
        }
    }

    fn fault(&self, from: ReplicaId, n: usize) -> Option<&'static str> {
        if self.highest_ballot().round > HIGHEST || self.highest_slot().0 > HIGHEST {
            return Some("a round or slot is out of reach");
        }
        if self.own_ballot().is_some_and(|own| own.replica != from) {
            return Some("the ballot is another's");
        }
        if self.highest_ballot().replica.index() >= n {
            return Some("the ballot is nobody's");
        }
        match self {
            Message::Promise(promise) => promise.fault(),
            Message::Echo(echo) => (!echo.slots.is_empty()).then_some("an echo accepts nothing"),
            Message::Accept(Accept { proposals, .. }) | Message::Chosen { proposals } => {
                let slots = proposals.iter().map(|proposal| proposal.slot);
                (!is_ascending(slots)).then_some("the slots are not in order")
            }
            _ => None,
        }
    }
}

impl Promise {
    fn fault(&self) -> Option<&'static str> {
        let reports = self.accepted.iter();
        let within = |slot: Slot| self.from <= slot && slot <= self.through;
        if !is_ascending(reports.clone().map(|report| report.slot)) {
            return Some("the slots are not in order");
        }
        if !reports.clone().all(|report| within(report.slot)) {
            return Some("a slot is not among those told of");
        }
        let later = |report: &Report| report.ballot > self.ballot && report.slot > self.chosen;
        reports
            .clone()
            .any(later)
            .then_some("a value of a ballot not yet promised")
    }
}

/// The first slot is 1; a slot is named once.
fn is_ascending(slots: impl Iterator<Item = Slot>) -> bool {
    let mut last = Slot::ZERO;
    slots.into_iter().all(|slot| {
        let ascends = slot > last;
        last = slot;
        ascends
    })
}

impl protocol::Message for Message {
    fn kind(&self) -> &'static str {
        match self {
            Message::Prepare(_) => "prepare",
            Message::Promise(_) => "promise",
            Message::Accept(accept) if accept.proposals.is_empty() => "heartbeat",
            Message::Accept(_) => "accept",
            Message::Accepted(_) => "accepted",
            Message::Echo(_) => "echo",
            Message::Rejected { .. } => "rejected",
            Message::Learn { .. } => "learn",
            Message::Chosen { .. } => "chosen",
            Message::SnapshotNeeded { .. } => "snapshot_needed",
            Message::Forward { .. } => "forward",
            Message::Await { .. } => "await",
            Message::ReadQuery { .. } => "read_query",
            Message::ReadQueryReply { .. } => "read_query_reply",
            Message::ReadIndex { .. } => "read_index",
            Message::ReadIndexReply { .. } => "read_index_reply",
            Message::HandOver { .. } => "hand_over",
            Message::Offer { .. } => "offer",
            Message::Willing { .. } => "willing",
            Message::PreVote { .. } => "pre_vote",
            Message::PreVoteGranted { .. } => "pre_vote_granted",
            Message::Promised { .. } => "promised",
        }
    }

    fn is_promise(&self) -> bool {
        match self {
            // A candidate that forgets its ballot may use it again, and propose other values in
            // it. [Lamport01 §2.5]
            Message::Prepare(_) => true,
            // An acceptor that forgets its promise may accept in a lower ballot.
            Message::Promise(_) => true,
            // The leader counts on the copy.
            Message::Accepted(_) => true,
            // Tells when the promise is durable.
            Message::Promised { .. } => true,
            // Says what is promised now, which only rises; nobody counts on its being remembered.
            Message::Echo(_) => false,
            // A leader may forget what it has proposed: its ballot was durable before it led, so
            // it never proposes in it again. Its own acceptance counts only when it has sent it to
            // itself.
            Message::Accept(_) => false,
            // Says what the sender will not do, or what can be had elsewhere.
            Message::Rejected { .. } | Message::SnapshotNeeded { .. } => false,
            // What is chosen stays so, whoever forgets it.
            Message::Chosen { .. } | Message::ReadIndexReply { .. } => false,
            // A slot too many makes a read wait, and no more.
            Message::ReadQueryReply { .. } => false,
            // Who restarts does not lead.
            Message::HandOver { .. } => false,
            // Says what has been heard, and binds nobody.
            Message::PreVoteGranted { .. } | Message::Willing { .. } => false,
            Message::Offer { .. } => false,
            Message::PreVote { .. }
            | Message::Learn { .. }
            | Message::Forward { .. }
            | Message::Await { .. }
            | Message::ReadQuery { .. }
            | Message::ReadIndex { .. } => false,
        }
    }

    fn verify(&self, from: ReplicaId, verifier: &Verifier) -> Result<(), Invalid> {
        match self.fault(from, verifier.members().n()) {
            None => Ok(()),
            Some(reason) => Err(Invalid {
                from,
                kind: self.kind(),
                reason: String::from(reason),
            }),
        }
    }
}
