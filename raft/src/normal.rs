//! The failure-free path: proposals, replication, commit. [Ongaro14 §5.3, §5.4]

use std::collections::BTreeSet;

use quorate_core::id::{EntryId, ReplicaId, ReplicaSet, Slot, Time};
use quorate_core::protocol::{Commit, Dest};
use quorate_core::quorum::Quorum;
use quorate_core::request::Batch;
use quorate_core::under_way::UnderWay;

use crate::config::Config;
use crate::log::{Entry, Log, Position, Term};
use crate::message::{AppendEntries, Message};
use crate::mutant::Mutant;
use crate::progress::{InFlight, Progress};
use crate::read::LeaderReads;
use crate::record::Record;
use crate::replica::{Out, Raft, Role, Timer};
use crate::tenure::Tenure;

/// What a follower knows in its term.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    pub(crate) leader: Option<ReplicaId>,
    /// Through where this log was found equal to the leader's.
    pub(crate) matched: Slot,
    /// The last round heard of.
    pub(crate) round: u64,
    /// The leader is owed an echo of it at the end of the turn.
    pub(crate) echoes: bool,
    /// The leader is owed an acknowledgement at the end of the turn.
    pub(crate) owes: bool,
}

impl Follower {
    pub(crate) fn of(leader: Option<ReplicaId>) -> Self {
        Follower {
            leader,
            ..Follower::default()
        }
    }

    /// Has heard of a round; a new one is echoed. [OngaroThesis §6.4]
    pub(crate) fn hear_of(&mut self, round: u64) {
        if round > self.round {
            (self.round, self.echoes) = (round, true);
        }
    }
}

/// What a leader knows in its term. [Ongaro14 figure 2, "volatile state on leaders"]
#[derive(Debug)]
pub(crate) struct Leader {
    /// The slot of the entry with which it began the term.
    pub(crate) first: Slot,
    /// The commit index it has not from counting.
    pub(crate) knew: Slot,
    /// Through where each replica, itself included, has acknowledged its log. [Ongaro14 §5.3
    /// matchIndex]
    pub(crate) matched: Vec<Slot>,
    /// The last round that each has heard of. [OngaroThesis §6.4]
    pub(crate) echoed: Vec<u64>,
    pub(crate) progress: Vec<Progress>,
    /// The bytes of the entries beyond the commit index.
    pub(crate) uncommitted_bytes: usize,
    /// The entries that it has not acknowledged to itself.
    unwritten: InFlight,
    /// The requests in these.
    under_way: UnderWay,
    /// Uncommitted entries with requests of a follower's clients.
    forwarded: BTreeSet<(Slot, ReplicaId)>,
    /// Followers whose clients wait to learn of the commit index.
    pub(crate) waiting: ReplicaSet,
    /// What it has told itself: through where it has its log, and of which round it has heard.
    own: (Slot, u64),
    pub(crate) reads: LeaderReads,
    pub(crate) tenure: Tenure,
}

impl Leader {
    fn of(n: usize, log: &Log, commit: Slot, tenure: Tenure) -> Self {
        let next = log.last().slot.next();
        let mut leader = Leader {
            first: next,
            knew: commit,
            matched: vec![Slot::ZERO; n],
            echoed: vec![0; n],
            // "When a leader first comes to power, it initializes all nextIndex values to the
            // index just after the last one in its log." [Ongaro14 §5.3]
            progress: vec![Progress::probe(next); n],
            uncommitted_bytes: 0,
            unwritten: InFlight::default(),
            under_way: UnderWay::default(),
            forwarded: BTreeSet::new(),
            waiting: ReplicaSet::EMPTY,
            own: (Slot::ZERO, 0),
            reads: LeaderReads::default(),
            tenure,
        };
        leader.take_stock(log, commit);
        leader
    }

    /// Counts the entries beyond the commit index.
    fn take_stock(&mut self, log: &Log, commit: Slot) {
        (self.uncommitted_bytes, self.under_way) = (0, UnderWay::default());
        for (slot, entry) in log.iter_from(commit.next()) {
            self.uncommitted_bytes += entry.size();
            self.under_way.enter(slot, &entry.batch);
        }
    }
}

/// As a leader.
impl Raft {
    /// Takes power: all that is new goes to the others at the end of this turn, first of all the
    /// entry without requests that lets entries of older terms be committed, and reads served.
    /// [Ongaro14 §5.2, §8]
    pub(crate) fn become_leader(&mut self, now: Time, out: &mut Out) {
        let tenure = Tenure::new(self.patience(now), self.election.moves);
        let leader = Leader::of(self.n, &self.log, self.commit, tenure);
        self.role = Role::Leader(Box::new(leader));
        out.disarm(Timer::Election);
        out.arm(Timer::Heartbeat, now + self.config.heartbeat);
        self.append_as_leader(self.me, Batch::noop(), out);
    }

    /// Takes requests of this replica's clients: to the log, or to the leader. Without a leader
    /// they are dropped, and the driver proposes again. [OngaroThesis §6.2]
    pub(crate) fn propose(&mut self, batch: Batch, out: &mut Out) {
        match &self.role {
            Role::Leader(_) => self.append_within_bounds((self.me, self.commit), batch, out),
            Role::Follower(follower) => {
                if let Some(leader) = follower.leader {
                    let seen = self.commit;
                    out.send(Dest::One(leader), Message::Forward { seen, batch });
                }
            }
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
    }

    /// Takes requests of another replica's clients. Whoever does not lead drops them, rather
    /// than send them round in circles.
    pub(crate) fn forwarded(&mut self, from: (ReplicaId, Slot), batch: Batch, out: &mut Out) {
        if matches!(self.role, Role::Leader(_)) {
            self.append_within_bounds(from, batch, out);
        }
    }

    /// Appends requests, unless all of them are in the log already, and not committed as far as the
    /// proposer has seen: whoever asks again is told when they are.
    fn append_within_bounds(
        &mut self,
        (proposer, seen): (ReplicaId, Slot),
        batch: Batch,
        out: &mut Out,
    ) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let seen = match self.config.mutated(Mutant::DecidedForgotten) {
            true => self.commit,
            false => seen,
        };
        if let Some(slot) = leader.under_way.holding(&batch, seen)
            && !self.config.mutated(Mutant::AppendedWhileUnderWay)
        {
            if proposer != self.me {
                leader.forwarded.insert((slot, proposer));
            }
            return;
        }
        // Without a quorum, or without its own disk, the log must not grow for ever.
        let held = leader.uncommitted_bytes.max(leader.unwritten.bytes());
        let full = held >= self.config.max_uncommitted_bytes;
        if !batch.is_empty() && !full {
            self.append_as_leader(proposer, batch, out);
        }
    }

    fn append_as_leader(&mut self, proposer: ReplicaId, batch: Batch, out: &mut Out) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let term = self.term;
        let entry = Entry { term, batch };
        leader.uncommitted_bytes += entry.size();
        let after = self.log.last().slot;
        let slot = self.log.push(entry.clone());
        leader.unwritten.push(slot, entry.size());
        leader.under_way.enter(slot, &entry.batch);
        if self.config.mutated(Mutant::CountOwnBeforeSync)
            && let Some(own) = leader.matched.get_mut(self.me.index())
        {
            *own = slot;
        }
        if proposer != self.me {
            leader.forwarded.insert((slot, proposer));
        }
        let entries = vec![entry];
        out.persist(Record::Append { after, entries });
    }

    /// Sends each peer what it lacks, as far as the bounds allow. One that lacks nothing gets a
    /// message without entries if a round or the commit index is due.
    pub(crate) fn replicate(&mut self, out: &mut Out) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let waiting = std::mem::take(&mut leader.waiting);
        let news = News {
            term: self.term,
            commit: self.commit,
            snapshot: self.snapshot,
            round: leader.reads.round,
            log: &self.log,
            config: &self.config,
        };
        let peers = leader.progress.iter_mut().zip(&leader.matched);
        for (peer, (progress, matched)) in ReplicaId::all(self.n).zip(peers) {
            if peer == self.me {
                continue;
            }
            let learns = waiting.contains(peer) && progress.told_commit < news.commit;
            let due = learns || progress.told_round < news.round;
            let tell = |message| out.send(Dest::One(peer), message);
            let heard = leader.tenure.hears(peer);
            news.tell(progress, (*matched, heard), due, tell);
        }
    }

    /// The leader counts its own copy when it has acknowledged it to itself, which it can do only
    /// when the copy is durable. Others may be faster: an entry that it does not hold durably
    /// itself may be committed. [OngaroThesis §10.2.1]
    pub(crate) fn acknowledge_own(&mut self, out: &mut Out) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let (term, to) = (self.term, Dest::One(self.me));
        let (matched, round) = (self.log.last().slot, leader.reads.round);
        let (told, echoed) = std::mem::replace(&mut leader.own, (matched, round));
        if told != matched {
            out.send(to, Message::Accepted { term, matched });
        }
        if echoed != round {
            out.send(to, Message::Echo { term, round });
        }
    }

    /// Takes an acknowledgement of the current term. A late one changes nothing.
    pub(crate) fn accepted(&mut self, from: ReplicaId, matched: Slot, out: &mut Out) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let (Some(known), Some(progress)) = (
            leader.matched.get_mut(from.index()),
            leader.progress.get_mut(from.index()),
        ) else {
            return;
        };
        let beyond = matched > self.log.last().slot;
        if beyond && !self.config.mutated(Mutant::AcknowledgedBeyondLog) {
            return;
        }
        leader.tenure.hear(from);
        if from == self.me {
            leader.unwritten.acknowledged(matched);
        }
        progress.accepted(matched);
        if matched > *known {
            *known = matched;
            self.commit_by_counting(out);
        }
    }

    /// Takes a rejection of the current term: goes back to where the logs may agree, passing over
    /// whole terms. [Ongaro14 §5.3]
    pub(crate) fn rejected(&mut self, from: ReplicaId, previous: Slot, hint: Position) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if let (Some(matched), Some(progress)) = (
            leader.matched.get(from.index()),
            leader.progress.get_mut(from.index()),
        ) {
            leader.tenure.hear(from);
            progress.rejected(previous, *matched, self.log.last_agreeable(hint));
        }
    }

    /// "If there exists an N such that N > commitIndex, a majority of matchIndex\[i\] ≥ N, and
    /// log\[N\].term == currentTerm: set commitIndex = N." [Ongaro14 figure 2, §5.4.2]
    fn commit_by_counting(&mut self, out: &mut Out) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let Some(reached) = self.quorum().reached(&leader.matched) else {
            return;
        };
        let own_term = self.log.term_at(reached) == Some(self.term)
            || self.config.mutated(Mutant::CommitOlderTermByCounting);
        if reached <= self.commit || !own_term {
            return;
        }
        let committed = self.commit_through(reached, out);
        if let Role::Leader(leader) = &mut self.role {
            leader.uncommitted_bytes = leader.uncommitted_bytes.saturating_sub(committed);
            leader.wake(reached);
        }
    }
}

impl Leader {
    /// An entry is committed. Followers that asked for it may not know so for a while.
    fn decided(&mut self, slot: Slot, batch: &Batch) {
        match self.forwarded.first() {
            Some((first, _)) if *first == slot => self.under_way.remember(slot, batch),
            _ => self.under_way.leave(slot, batch),
        }
    }

    /// Notes who has clients that wait for an entry through `commit`. All others learn of the
    /// commit index with the next entries or heartbeat.
    fn wake(&mut self, commit: Slot) {
        while let Some((slot, proposer)) = self.forwarded.first().copied()
            && slot <= commit
        {
            self.forwarded.pop_first();
            self.waiting.insert(proposer);
        }
    }

    /// Everything through `commit` is in a snapshot that was installed here.
    pub(crate) fn skip_to(&mut self, log: &Log, commit: Slot) {
        self.knew = commit;
        self.take_stock(log, commit);
        self.wake(commit);
    }
}

/// What a leader has to tell its peers.
struct News<'a> {
    term: Term,
    commit: Slot,
    snapshot: Slot,
    round: u64,
    log: &'a Log,
    config: &'a Config,
}

impl News<'_> {
    /// Sends a peer that has acknowledged `matched` all entries it may have now; a message without
    /// entries, if one is `due` and there are none; the advice to fetch a snapshot, if what it
    /// lacks is compacted.
    fn tell(
        &self,
        progress: &mut Progress,
        (matched, heard): (Slot, bool),
        mut due: bool,
        mut send: impl FnMut(Message),
    ) {
        let last = self.log.last().slot;
        let known = (!progress.is_probing()).then_some(matched);
        let knows = (known, heard);
        loop {
            let more = progress.next <= last && progress.has_room(self.config);
            let previous = self.log.position(progress.next.previous());
            match previous {
                Some(previous) if more => {
                    let max = self.config.max_append_bytes;
                    let (entries, bytes) = self.log.entries(progress.next, max);
                    progress.sent(Slot(previous.slot.0 + entries.len() as u64), bytes);
                    send(self.append(previous, entries, knows));
                }
                Some(previous) if due => send(self.append(previous, Vec::new(), knows)),
                None if due => {
                    progress.must_fetch(self.log.compacted().slot, self.snapshot);
                    send(Message::SnapshotNeeded {
                        term: self.term,
                        through: self.log.compacted().slot,
                        round: self.round,
                        heard,
                    });
                }
                _ => return,
            }
            due = false;
            (progress.told_commit, progress.told_round) = (self.commit, self.round);
        }
    }

    fn append(
        &self,
        previous: Position,
        entries: Vec<Entry>,
        (known, heard): (Option<Slot>, bool),
    ) -> Message {
        Message::AppendEntries(AppendEntries {
            term: self.term,
            previous,
            entries,
            commit: self.commit,
            round: self.round,
            known,
            heard,
        })
    }
}

/// As a follower.
impl Raft {
    /// Takes entries or a heartbeat of the current term. [Ongaro14 §5.3]
    pub(crate) fn append_entries(
        &mut self,
        now: Time,
        from: ReplicaId,
        append: AppendEntries,
        out: &mut Out,
    ) {
        if !self.follow(now, (from, append.heard), out) {
            return;
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.hear_of(append.round);
        }
        if !self.agrees_at(append.previous) {
            return self.reject(from, &append, out);
        }
        let through = append.last();
        self.store(append.previous.slot, append.entries, out);
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        // The leader has all that is committed here.
        follower.matched = follower.matched.max(through).max(self.commit);
        follower.owes |= append.known.is_none_or(|known| follower.matched > known);
        // "If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new
        // entry)." [Ongaro14 figure 2]
        let commit = match self.config.mutated(Mutant::CommitWhatDiffers) {
            true => append.commit,
            false => append.commit.min(follower.matched),
        };
        self.commit_through(commit, out);
    }

    /// "If the follower does not find an entry in its log with the same index and term, then it
    /// refuses the new entries." What is committed here every leader has. [Ongaro14 §5.3]
    fn agrees_at(&self, previous: Position) -> bool {
        previous.slot <= self.commit
            || self.log.term_at(previous.slot) == Some(previous.term)
            || self.config.mutated(Mutant::AppendWithoutPreviousCheck)
                && previous.slot <= self.log.last().slot
    }

    fn reject(&self, leader: ReplicaId, append: &AppendEntries, out: &mut Out) {
        let slot = self.log.last_agreeable(append.previous).max(self.commit);
        let rejection = Message::Rejected {
            term: self.term,
            previous: append.previous.slot,
            hint: self.log.position(slot).unwrap_or_default(),
        };
        out.send(Dest::One(leader), rejection);
    }

    /// Appends what is new. "If an existing entry conflicts with a new one (same index but
    /// different terms), delete the existing entry and all that follow it": only then, for a
    /// message that was overtaken has nothing to say about what came after it.
    /// [Ongaro14 figure 2]
    fn store(&mut self, after: Slot, mut entries: Vec<Entry>, out: &mut Out) {
        let truncates_always = self.config.mutated(Mutant::AppendTruncatesAlways);
        let slots = (after.0 + 1..).map(Slot);
        let held = |(entry, slot): &(&Entry, Slot)| {
            if truncates_always {
                return *slot <= self.log.compacted().slot;
            }
            *slot <= self.commit || self.log.term_at(*slot) == Some(entry.term)
        };
        let known = entries.iter().zip(slots).take_while(held).count();
        if known == entries.len() && !truncates_always {
            return;
        }
        let after = Slot(after.0 + known as u64);
        entries.drain(..known);
        self.log.cut_from(after.next());
        for entry in &entries {
            self.log.push(entry.clone());
        }
        out.persist(Record::Append { after, entries });
    }

    /// Answers once a turn, however many messages came. The acknowledgement is a promise, and waits
    /// until all that it covers is durable; the echo waits for nothing. [Ongaro14 §5.3;
    /// OngaroThesis §6.4]
    pub(crate) fn acknowledge(&mut self, out: &mut Out) {
        let last = self.log.last().slot;
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        let owes = std::mem::take(&mut follower.owes);
        let echoes = std::mem::take(&mut follower.echoes);
        let Some(leader) = follower.leader.map(Dest::One) else {
            return;
        };
        let (term, round) = (self.term, follower.round);
        if echoes {
            out.send(leader, Message::Echo { term, round });
        }
        if owes {
            let matched = match self.config.mutated(Mutant::AcknowledgeWhatDiffers) {
                true => last,
                false => follower.matched.max(self.commit),
            };
            out.send(leader, Message::Accepted { term, matched });
        }
    }

    /// Hands over for execution all `through` a slot that has not been; returns how many bytes
    /// that is.
    fn commit_through(&mut self, through: Slot, out: &mut Out) -> usize {
        let mut bytes = 0;
        for (slot, entry) in self.log.iter_from(self.commit.next()) {
            if slot > through {
                break;
            }
            bytes += entry.size();
            out.commit(Commit {
                id: EntryId::single(slot),
                batch: entry.batch.clone(),
                checkpoint: false,
                agreed: None,
            });
            self.commit = slot;
            if let Role::Leader(leader) = &mut self.role {
                leader.decided(slot, &entry.batch);
            }
        }
        self.answer_remote_reads(out);
        bytes
    }
}
