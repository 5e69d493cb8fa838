//! Retransmission. "Replica i multicasts a status message, which summarizes its state, and other
//! replicas that receive it send what they have said before and i lacks." Nothing else repeats
//! anything. [Castro02 §5.2]

use std::collections::BTreeMap;

use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::Dest;

use crate::log::View;
use crate::message::{MAX_FETCHED_BODIES, Message, Status};
use crate::mutant::Mutant;
use crate::replica::{Out, Pbft, Timer};

/// What others have told of themselves.
#[derive(Debug)]
pub(crate) struct Peers {
    known: Vec<Peer>,
    /// How many statuses this replica has sent since it started.
    rounds: usize,
    /// What it had executed by the last of them.
    executed: Slot,
    /// The next is far: there was nothing to do.
    quiet: bool,
}

/// How much rarer the statuses of a replica are that has nothing to do and hears of nothing.
pub(crate) const QUIET: u32 = 8;

/// For how many rounds it matters what a replica last said.
const RECENT: u32 = 2;

#[derive(Clone, Debug, Default)]
struct Peer {
    executed: Slot,
    complete: Slot,
    /// What it last said, and how many rounds ago.
    said: Option<(Said, u32)>,
    /// How often it has said the same since it came on by itself.
    stuck: u32,
    /// Through which slot it was last sent again what it lacked.
    resent: Slot,
    /// It has had its answer for this round: nobody can ask for more.
    answered: bool,
    /// It has been shown in this round how the view began.
    shown: bool,
    /// The bytes of the batches that it has been given in this round.
    given: usize,
}

/// What all replicas say that have nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    view: View,
    active: bool,
    stable: Slot,
    executed: Slot,
    busy: bool,
}

impl Said {
    fn by(status: &Status) -> Said {
        Said {
            view: status.view,
            active: status.active,
            stable: status.stable,
            executed: status.executed,
            busy: status.busy,
        }
    }
}

impl Peers {
    pub(crate) fn of(n: usize) -> Peers {
        Peers {
            known: vec![Peer::default(); n],
            rounds: 0,
            executed: Slot::ZERO,
            quiet: false,
        }
    }

    /// How many statuses this replica has sent since it started.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds
    }

    fn begin_round(&mut self) {
        self.rounds = self.rounds.wrapping_add(1);
        for peer in &mut self.known {
            (peer.answered, peer.shown, peer.given) = (false, false, 0);
            peer.said = peer.said.map(|(said, age)| (said, age.saturating_add(1)));
        }
    }

    /// Whether all who have said anything lately say the same.
    fn agree(&self, own: Said) -> bool {
        let said = self.known.iter().filter_map(|peer| peer.said);
        let mut recent = said.filter(|(_, age)| *age <= RECENT);
        recent.all(|(said, _)| said == own)
    }

    /// Through where so many others say that they have executed.
    pub(crate) fn executed_by(&self, count: usize) -> Slot {
        let said = self.known.iter().filter_map(|peer| peer.said);
        let mut executed: Vec<Slot> = said.map(|(said, _)| said.executed).collect();
        executed.sort_unstable_by(|one, other| other.cmp(one));
        let last = executed.get(count.saturating_sub(1));
        last.copied().unwrap_or(Slot::ZERO)
    }

    /// Through where a replica says that it has executed.
    pub(crate) fn executed_of(&self, replica: ReplicaId) -> Slot {
        let said = self.known.get(replica.index()).and_then(|peer| peer.said);
        said.map_or(Slot::ZERO, |(said, _)| said.executed)
    }

    /// A replica was sent again what it lacked through this slot.
    fn note_resent(&mut self, to: ReplicaId, through: Slot) {
        if let Some(peer) = self.known.get_mut(to.index()) {
            peer.resent = through;
        }
    }

    /// Whether a replica may be shown how the view began: once a round.
    pub(crate) fn may_be_shown(&mut self, to: ReplicaId) -> bool {
        let peer = self.known.get_mut(to.index());
        peer.is_some_and(|peer| !std::mem::replace(&mut peer.shown, true))
    }

    /// Takes a status; gives how often the replica has said the same, unless it has had its answer. One
    /// that has come on by what it was sent again, and no further, needs more of it.
    fn heard(&mut self, from: ReplicaId, status: &Status, pauses: bool) -> Option<u32> {
        let peer = self.known.get_mut(from.index())?;
        peer.said = Some((Said::by(status), 0));
        if std::mem::replace(&mut peer.answered, true) {
            return None;
        }
        let same = (peer.executed, peer.complete) == (status.executed, status.complete);
        (peer.executed, peer.complete) = (status.executed, status.complete);
        let helped = status.executed.min(status.complete) <= peer.resent;
        peer.stuck = match same {
            true => peer.stuck.saturating_add(1),
            false if helped && !pauses => peer.stuck,
            false => 0,
        };
        Some(peer.stuck)
    }
}

impl Pbft {
    pub(crate) fn status_is_due(&mut self, now: Time, out: &mut Out) {
        self.peers.begin_round();
        let status = self.own_status();
        self.peers.quiet = self.is_quiet(&status);
        let rarer = if self.peers.quiet { QUIET } else { 1 };
        out.arm(Timer::Status, now + self.config.status_every * rarer);
        out.send(Dest::Others, Message::Status(status));
        self.ask_for_all_bodies(out);
        if std::mem::replace(&mut self.peers.executed, self.executed) == self.executed {
            self.fetch_state(out);
        }
    }

    /// Something may have happened: a replica that was quiet tells of itself as often as others.
    pub(crate) fn end_quiet(&mut self, now: Time, out: &mut Out) {
        if self.peers.quiet && !self.is_quiet(&self.own_status()) {
            self.peers.quiet = false;
            out.arm(Timer::Status, now + self.config.status_every);
        }
    }

    /// Whether there is nothing to ask for: all is done here that this replica knows of, and
    /// nobody says anything else. Who lacks what others have says so, and is heard.
    fn is_quiet(&self, status: &Status) -> bool {
        status.active && !status.busy && self.peers.agree(Said::by(status))
    }

    /// Whether there is anything to be executed, made stable or waited for.
    fn is_busy(&self) -> bool {
        self.log.last() > self.executed
            || !self.waiting.is_empty()
            || self.checkpoints.own().next().is_some()
            || self.checkpoints.last_certified().is_some()
    }

    fn own_status(&self) -> Status {
        Status {
            view: self.view,
            active: self.is_active(),
            stable: self.log.low(),
            executed: self.executed,
            complete: self.complete(),
            busy: self.is_busy(),
            view_changes: self.view_changes_known(),
        }
    }

    /// Through where all that the view has to say is executed and has prepared in it. A view that
    /// has not begun has nothing to say.
    fn complete(&self) -> Slot {
        if !self.is_active() {
            return self.executed;
        }
        let start = self.log.low().max(self.settled.0);
        let done = |(slot, instance): &(Slot, &crate::log::Instance)| {
            let prepared = instance.prepared().is_some_and(|p| p.view() == self.view);
            *slot <= self.executed && prepared
        };
        let complete = self.log.iter_from(start.next()).take_while(done);
        complete.last().map_or(start, |(slot, _)| slot)
    }

    /// Sends a replica what it lacks: mostly when it has said the same twice, for it may be on its
    /// way. What anyone can show, the primary shows first.
    pub(crate) fn status(&mut self, from: ReplicaId, status: &Status, out: &mut Out) {
        let pauses = self.config.mutated(Mutant::HelpPauses);
        let Some(stuck) = self.peers.heard(from, status, pauses) else {
            return;
        };
        if self.owes_view_change(&status.view_changes) {
            out.send(Dest::One(from), Message::ViewChange(self.own_view_change()));
        }
        let behind = status.view < self.view || status.view == self.view && !status.active;
        let answers = self.leads() || stuck > 1;
        if behind && answers {
            self.show_new_view(from, out);
        }
        if self.config.mutated(Mutant::EarlyMessagesDropped) {
            return;
        }
        let gone = status.executed < self.log.low();
        if (gone || stuck > 0)
            && status.stable < self.log.low()
            && let Some(stable) = &self.stable
        {
            out.send(Dest::One(from), Message::Stable(stable.clone()));
        }
        if stuck > 0 {
            for (slot, digest) in self.checkpoints.own().filter(|(s, _)| *s > status.stable) {
                let vote = self.own_checkpoint(slot, digest);
                out.send(Dest::One(from), Message::Checkpoint(vote));
            }
            self.tell_decided(from, status.executed, out);
            let shows = stuck > 1 || self.leads();
            let after = status.executed.min(status.complete);
            let limit = self.config.max_resent_slots;
            self.send_again(Dest::One(from), (after, limit), shows, out);
            let through = Slot(after.0.saturating_add(limit as u64));
            self.peers.note_resent(from, through.min(self.log.last()));
        }
    }

    /// Tells a replica what is decided in the slots after the last that it has executed.
    fn tell_decided(&self, to: ReplicaId, after: Slot, out: &mut Out) {
        let later = self.log.iter_from(after.next());
        let executed = later.take_while(|(slot, _)| *slot <= self.executed);
        let decided = executed.filter_map(|(slot, i)| Some((slot, i.committed()?)));
        let decided: Vec<(Slot, Digest)> = decided.take(self.config.max_resent_slots).collect();
        if !decided.is_empty() {
            out.send(Dest::One(to), Message::Decided(decided));
        }
    }

    /// After a restart, says again what this replica has said, to itself too: what it had counted
    /// of its own is lost.
    pub(crate) fn say_again(&mut self, out: &mut Out) {
        for (slot, digest) in self.checkpoints.own() {
            let vote = self.own_checkpoint(slot, digest);
            out.send(Dest::All, Message::Checkpoint(vote));
        }
        if !self.is_active() {
            out.send(Dest::All, Message::ViewChange(self.own_view_change()));
        }
        let all = (self.executed, self.config.window as usize);
        self.send_again(Dest::All, all, false, out);
    }

    /// Sends again what this replica has said of so many slots after one: the pre-prepares, if it
    /// `shows` them, its prepares in this view, and the commit of the latest view in which each
    /// has prepared.
    fn send_again(&self, to: Dest, (after, limit): (Slot, usize), shows: bool, out: &mut Out) {
        let mut bytes = 0;
        let mut prepares = Vec::new();
        let mut commits: BTreeMap<View, Vec<(Slot, Digest)>> = BTreeMap::new();
        for (slot, instance) in self.log.iter_from(after.next()).take(limit) {
            if let Some(certificate) = instance.prepared() {
                let votes = commits.entry(certificate.view()).or_default();
                votes.push((slot, certificate.digest()));
            }
            let accepted = instance.accepted_in(self.view).filter(|_| self.is_active());
            let Some((proposal, entry)) =
                accepted.and_then(|proposal| Some((proposal, instance.body(&proposal.digest)?)))
            else {
                continue;
            };
            if shows && (bytes == 0 || bytes + entry.size() <= self.config.max_resent_bytes) {
                bytes += entry.size().max(1);
                let (proposal, entry) = (proposal.clone(), entry.clone());
                out.send(to, Message::PrePrepare { proposal, entry });
            }
            if !self.leads() {
                prepares.push(self.own_prepare(slot, proposal.digest));
            }
        }
        let view = self.view;
        if !prepares.is_empty() {
            let votes = prepares;
            out.send(to, Message::Prepare { view, votes });
        }
        for (view, votes) in commits {
            out.send(to, Message::Commit { view, votes });
        }
    }

    /// Asks one replica for the batches that a slot refers to and that are missing here.
    pub(crate) fn ask_for_bodies(&self, slot: Slot, out: &mut Out) {
        let instance = self.log.slot(slot).into_iter();
        let wanted = instance.flat_map(|i| i.missing().map(|digest| (slot, digest)));
        self.ask_for(wanted.collect(), out);
    }

    fn ask_for_all_bodies(&self, out: &mut Out) {
        let slots = self.log.iter();
        let wanted = slots.flat_map(|(slot, i)| i.missing().map(move |digest| (slot, digest)));
        self.ask_for(wanted.take(MAX_FETCHED_BODIES).collect(), out);
    }

    /// Asks one replica after the other, another each round.
    fn ask_for(&self, wanted: Vec<(Slot, Digest)>, out: &mut Out) {
        let mut others = ReplicaId::all(self.n).filter(|replica| *replica != self.me);
        let attempt = self.peers.rounds % self.n.saturating_sub(1).max(1);
        if let Some(other) = others.nth(attempt)
            && !wanted.is_empty()
        {
            out.send(Dest::One(other), Message::FetchBodies(wanted));
        }
    }

    /// Gives batches that are asked for, within what one replica may have in a round.
    pub(crate) fn give_bodies(
        &mut self,
        from: ReplicaId,
        wanted: &[(Slot, Digest)],
        out: &mut Out,
    ) {
        let Some(peer) = self.peers.known.get_mut(from.index()) else {
            return;
        };
        for (slot, digest) in wanted {
            let held = self.log.slot(*slot).and_then(|i| i.body(digest));
            let Some(entry) = held.cloned() else { continue };
            let given = peer.given + entry.size();
            if peer.given == 0 || given <= self.config.max_resent_bytes {
                peer.given = given;
                let slot = *slot;
                out.send(Dest::One(from), Message::Body { slot, entry });
            }
        }
    }
}
