//! The state of a replica, and `step`. [Castro99 §4]

use quorate_core::crypto::{Digest, Signer, Verifier};
use quorate_core::id::{ReplicaId, Slot, Time, UnixTime};
use quorate_core::output::Output;
use quorate_core::protocol::{Event, Input};
use quorate_core::quorum::Byzantine;

use crate::certificate::CheckpointCertificate;
use crate::checkpoint::Checkpoints;
use crate::config::Config;
use crate::early::Early;
use crate::entry::Moments;
use crate::log::{Log, View};
use crate::message::{Message, NewView, PrepareVote, ViewChange};
use crate::mutant::Mutant;
use crate::ordered::Ordered;
use crate::patience::Patience;
use crate::queue::Queue;
use crate::status::Peers;
use crate::waiting::Waiting;

/// PBFT, as one replica runs it.
#[derive(Debug)]
pub struct Pbft {
    pub(crate) me: ReplicaId,
    pub(crate) n: usize,
    pub(crate) config: Config,
    pub(crate) signer: Signer,
    pub(crate) verifier: Verifier,
    /// What this machine's wall clock showed when the replica started.
    pub(crate) wall_clock: UnixTime,

    // Durable: every change goes into a record in the same step.
    pub(crate) view: View,
    /// How the view began; without it, a view above 0 has not begun.
    pub(crate) new_view: Option<Box<NewView>>,
    /// What lies between the watermarks.
    pub(crate) log: Log,
    /// The last stable checkpoint: the low watermark, with its proof.
    pub(crate) stable: Option<CheckpointCertificate>,

    /// All through it has been handed over for execution, by this replica or inside a snapshot.
    pub(crate) executed: Slot,
    /// Where the newest durable snapshot ends.
    pub(crate) snapshot: Slot,
    /// Where the state ends that this replica started from, if that was not stable and has not been
    /// offered yet.
    pub(crate) restored: Option<Slot>,
    pub(crate) checkpoints: Checkpoints,
    /// min-s and max-s of the new view: it has said what the slots between hold, what lies before
    /// is in a checkpoint, and its primary may give out those after. [Castro99 §4.4]
    pub(crate) settled: (Slot, Slot),
    pub(crate) primary: Primary,
    /// Votes to be sent at the end of the turn.
    pub(crate) votes: Votes,
    pub(crate) ordered: Ordered,
    pub(crate) waiting: Waiting,
    pub(crate) early: Early,
    /// The view change for the highest view, of each replica.
    pub(crate) view_changes: Vec<Option<ViewChange>>,
    pub(crate) patience: Patience,
    pub(crate) peers: Peers,
    /// The records must be written anew.
    pub(crate) rewrite_due: bool,
    /// The view and primary that the last event told of.
    pub(crate) announced: (View, Option<ReplicaId>),
}

/// What only a primary has.
#[derive(Debug)]
pub(crate) struct Primary {
    /// The slot that it gives out next.
    pub(crate) next: Slot,
    /// Batches that have no slot yet.
    pub(crate) queue: Queue,
    pub(crate) moments: Moments,
    /// The last new view that it has made.
    pub(crate) made: Option<Box<NewView>>,
}

impl Primary {
    pub(crate) fn of(n: usize, seed: [u8; 32]) -> Primary {
        Primary {
            next: Slot::ZERO,
            queue: Queue::of(n),
            moments: Moments::of(seed),
            made: None,
        }
    }

    pub(crate) fn has_made(&self, view: View) -> bool {
        self.made.as_ref().is_some_and(|made| made.view == view)
    }
}

/// Votes of one turn go together.
#[derive(Debug, Default)]
pub(crate) struct Votes {
    pub(crate) prepares: Vec<PrepareVote>,
    pub(crate) commits: Vec<(Slot, Digest)>,
}

/// PBFT's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A request has been waited for long enough. [Castro99 §4.4]
    Request,
    /// The primary of the next view has had time to begin it. [Castro99 §4.5.2]
    NewView,
    /// The others are to be told what is here. [Castro02 §5.2]
    Status,
}

pub(crate) type Out = Output<Pbft>;

impl Pbft {
    pub(crate) fn dispatch(&mut self, now: Time, input: Input<Pbft>, out: &mut Out) {
        match input {
            Input::Start => self.start(now, out),
            Input::Message(message) => {
                let (from, message) = message.into_parts();
                if from != self.me {
                    self.hear(now, from, out);
                }
                self.receive(now, from, message, out);
            }
            Input::Timer(Timer::Request) => self.request_timed_out(now, out),
            Input::Timer(Timer::NewView) => self.new_view_timed_out(out),
            Input::Timer(Timer::Status) => self.status_is_due(now, out),
            Input::Propose { batch, keys: _ } => self.propose(now, batch, out),
            Input::Read { id, keys: _ } => self.read(id, out),
            Input::EndOfTurn => {
                self.propose_queued(now, out);
                self.send_votes(out);
            }
            Input::Snapshotted(snapshot) => self.snapshotted(now, &snapshot, out),
            Input::Installed(snapshot) => self.installed(now, &snapshot, out),
        }
        self.waiting.settle(now, &self.config);
        self.tell_primary(now, out);
        self.watch(out);
        self.end_quiet(now, out);
        self.announce(out);
    }

    fn start(&mut self, now: Time, out: &mut Out) {
        if std::mem::take(&mut self.rewrite_due) {
            self.rewrite(out);
        }
        self.offer_snapshot(out);
        self.say_again(out);
        out.arm(Timer::Status, now + self.config.status_every);
    }

    pub(crate) fn receive(&mut self, now: Time, from: ReplicaId, message: Message, out: &mut Out) {
        match message {
            Message::Forward { batch, relayed } => self.forwarded(now, from, (batch, relayed), out),
            Message::PrePrepare { proposal, entry } => {
                self.pre_prepare(now, from, (proposal, entry), out);
            }
            Message::Prepare { view, votes } => self.prepare(from, view, votes, out),
            Message::Commit { view, votes } => self.commit(from, view, votes, out),
            Message::Decided(slots) => self.decided(from, slots, out),
            Message::Checkpoint(vote) => self.checkpoint(now, from, &vote, out),
            Message::Stable(certificate) => self.certified(now, certificate, out),
            Message::ViewChange(change) => self.view_change(now, change, out),
            Message::NewView(new_view) => self.begin_view(now, new_view, out),
            Message::Status(status) => self.status(from, &status, out),
            Message::FetchBodies(wanted) => self.give_bodies(from, &wanted, out),
            Message::Body { slot, entry } => self.body(slot, entry.digest(), &entry, out),
        }
    }

    /// Looks again at what came early. What still is, is kept again.
    pub(crate) fn replay_early(&mut self, now: Time, out: &mut Out) {
        for (from, message) in self.early.take() {
            self.receive(now, from, message, out);
        }
    }

    /// What the wall clock shows here.
    pub(crate) fn wall_clock_at(&self, now: Time) -> UnixTime {
        self.wall_clock + now.since(Time::ZERO)
    }

    /// Whether the current view has begun. The first one always has.
    pub(crate) fn is_active(&self) -> bool {
        self.view == View::default() || self.new_view.is_some()
    }

    /// Whether this replica is the primary of a view that has begun.
    pub(crate) fn leads(&self) -> bool {
        self.is_active() && self.view.primary(self.n) == self.me
    }

    /// The primary, if the view has begun.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        self.is_active().then(|| self.view.primary(self.n))
    }

    /// 2f + 1: any two of these have a correct replica in common. [Castro99 §4.2]
    pub(crate) fn strong(&self) -> usize {
        if self.config.mutated(Mutant::WeakQuorum) {
            return self.weak();
        }
        Byzantine::of(self.n).strong().size()
    }

    /// f + 1: one of these is correct.
    pub(crate) fn weak(&self) -> usize {
        Byzantine::of(self.n).weak().size()
    }

    fn announce(&mut self, out: &mut Out) {
        let known = (self.view, self.leader());
        if known != self.announced {
            self.announced = known;
            out.event(Event::RegimeChanged {
                regime: self.view.0,
                leader: known.1,
            });
        }
    }
}
