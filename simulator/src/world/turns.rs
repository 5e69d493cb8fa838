//! Turns of replicas, and carrying out what they lead to.

use bytes::Bytes;
use quorate_core::id::{ReplicaId, Time};
use quorate_core::protocol::{Commit, Dest, Event as Told, Fetch, Message as _, Protocol};
use quorate_core::replica::{Halt, Replica};
use quorate_core::storage::{Append, Snapshot, Ticket};

use super::{Event, FetchFlight, Flight, World};
use crate::conditions::MILLISECOND;
use crate::disk::Lane;
use crate::host::{Item, Turn};
use crate::report::Rule;
use crate::trace::{Fate, Happening, Hash, Party};

/// How long a replica waits for a snapshot that does not come, in nanoseconds.
const FETCH_PATIENCE: u64 = 200 * MILLISECOND;

/// How often a slow answer to a fetch makes progress, and for how long: then it stalls.
const TRICKLE: u64 = 20 * MILLISECOND;
const TRICKLES: u64 = 2_000 * MILLISECOND;

impl<P: Protocol> World<P> {
    pub(super) fn start(&mut self, replica: ReplicaId) {
        if self.is_lost(self.member(replica)) {
            return;
        }
        self.begin_life(replica);
        let now = self.now;
        let host = &mut self.hosts[replica.index()];
        let (config, settings) = (&self.config.protocol, &self.config.settings);
        let started = host.recover(now, config, settings, &mut self.random);
        if let Err(halt) = started {
            if !self.is_correct(replica) {
                return;
            }
            return self.found((Rule::Invariant, format!("{replica} cannot start: {halt}")));
        }
        let Some(running) = &mut host.replica else {
            return;
        };
        // What its snapshot holds: starting may execute more, which the first turn will tell.
        host.place = self.checker.place(running.applied());
        running.start(Time::ZERO);
        if host.place.entries > 0 {
            self.summary.snapshots_recovered += 1;
        }
        let place = host.place.entries;
        self.trace
            .note(now, &[1, u64::from(replica.0)], || Happening::Local {
                party: Party::Replica(replica),
                text: format!("starts, with {place} entries executed"),
                notable: now > 0,
            });
        self.schedule_turn(replica);
    }

    pub(super) fn turn_is_due(&mut self, replica: ReplicaId, life: u64) {
        let now = self.now;
        let host = self.host(replica);
        if host.life != life || host.turn_at != Some(now) {
            return;
        }
        host.turn_at = None;
        if now < host.busy_until {
            return self.schedule_turn(replica);
        }
        let Some(turn) = host.turn(now) else { return };
        let busy = self.conditions.turn.draw(&mut self.random);
        self.host(replica).busy_until = now + busy;
        self.carry_out(replica, turn);
        self.schedule_timer(replica);
    }

    pub(super) fn timer_is_due(&mut self, replica: ReplicaId, life: u64) {
        let now = self.now;
        let host = self.host(replica);
        if host.life == life && host.timer_at == Some(now) {
            host.timer_at = None;
            self.schedule_turn(replica);
        }
    }

    fn schedule_timer(&mut self, replica: ReplicaId) {
        let now = self.now;
        let host = self.host(replica);
        let Some(deadline) = host.replica.as_ref().and_then(Replica::deadline) else {
            return;
        };
        let at = host.clock.reaches(deadline).max(now);
        if host.timer_at.is_none_or(|earlier| at < earlier) {
            host.timer_at = Some(at);
            let life = host.life;
            self.queue.schedule(at, Event::Timer(replica, life));
        }
    }

    fn carry_out(&mut self, replica: ReplicaId, turn: Turn<P>) {
        let Turn {
            effects,
            refused,
            installed,
            finding,
        } = turn;
        if let Some(finding) = finding.filter(|_| self.is_correct(replica)) {
            self.found(finding);
        }
        if let Some(halt) = effects.halt {
            return self.halted(replica, &halt);
        }
        if !effects.send.is_empty() || !effects.answers.is_empty() || !effects.reads.is_empty() {
            self.speaks(replica);
        }
        self.executed(replica, installed, &effects.executed);
        self.happened(replica, &effects.events);
        self.give_to_disk(replica, effects.append, effects.save);
        for (to, message) in &effects.send {
            self.transmit(replica, *to, message);
        }
        for fetch in effects.fetch {
            self.fetch(replica, &fetch);
        }
        if let Some(offer) = effects.offer {
            self.host(replica).offer = Some(offer);
        }
        self.answer(replica, effects.answers, effects.reads, refused);
    }

    fn halted(&mut self, replica: ReplicaId, halt: &Halt) {
        match halt {
            Halt::Storage(_) => {
                self.summary.disk_failures += 1;
                self.stop(replica);
                self.restart_unless_kept_down(replica);
            }
            // Its machines hear of what they have not done, and need not bear it.
            _ if !self.is_correct(replica) => self.stop(replica),
            _ => self.found((Rule::Invariant, format!("{replica} halted: {halt}"))),
        }
    }

    fn executed(&mut self, replica: ReplicaId, installed: bool, commits: &[Commit]) {
        if !self.is_correct(replica) {
            return;
        }
        let host = &mut self.hosts[replica.index()];
        let before = host.place.entries;
        for commit in commits {
            let place = &mut host.place;
            let found = self.checker.executed(replica, place, installed, commit);
            let id = (u64::from(commit.id.lane.0), commit.id.slot.0);
            let words = [2, u64::from(replica.0), id.0, id.1];
            self.trace.note(self.now, &words, || Happening::Local {
                party: Party::Replica(replica),
                text: format!("executes {:?}: {:?}", commit.id, commit.batch),
                notable: false,
            });
            if let Err(finding) = found {
                return self.found(finding);
            }
        }
        if !installed {
            return;
        }
        let Some(running) = &host.replica else { return };
        host.place = self.checker.place(running.applied());
        if host.place.entries > before + commits.len() {
            self.summary.snapshots_installed += 1;
            self.note(
                replica,
                &[3, u64::from(replica.0)],
                true,
                "installs a fetched snapshot",
            );
        }
    }

    fn happened(&mut self, replica: ReplicaId, events: &[Told]) {
        for event in events {
            let (text, regime) = match event {
                Told::Campaign { regime } => {
                    self.summary.campaigns += 1;
                    (format!("campaigns for {regime}"), *regime)
                }
                Told::RegimeChanged { regime, leader } => {
                    if let Some(leader) = leader.as_ref().filter(|_| self.is_correct(replica)) {
                        let led = self.checker.led(*regime, *leader);
                        self.check(led);
                    }
                    let text = match leader {
                        Some(leader) if *leader == replica => format!("leads in {regime}"),
                        Some(leader) => format!("follows {leader} in {regime}"),
                        None => format!("is in {regime}"),
                    };
                    (text, *regime)
                }
                Told::Equivocation { by, regime } => {
                    let text = format!("has caught {by} signing twice in {regime}");
                    if self.is_correct(*by) && self.is_correct(replica) {
                        self.found((Rule::Invariant, format!("{replica} {text}")));
                    }
                    (text, *regime)
                }
                Told::HandsOver { regime, to } => (format!("hands over to {to}"), *regime),
                Told::DiskBehind { bytes } => {
                    let text = format!("waits for its disk with {bytes} bytes");
                    (text, *bytes as u64)
                }
                Told::DiskCaughtUp => (String::from("has a disk that has caught up"), 0),
                Told::Decided { path } => (format!("decides, {path:?}"), 1 + *path as u64),
                Told::Recovery => (String::from("recovers"), 0),
                Told::Component { size } => (format!("executes {size} at once"), *size as u64),
            };
            self.note(replica, &[4, u64::from(replica.0), regime], true, &text);
        }
    }

    fn give_to_disk(
        &mut self,
        replica: ReplicaId,
        append: Option<Append>,
        saves: Vec<(Ticket, Snapshot)>,
    ) {
        if let Some(append) = append {
            self.host(replica).disk.append(append);
            self.begin_sync(replica, Lane::Appends);
        }
        for (ticket, snapshot) in saves {
            let fetched = self.host(replica).installing == Some(ticket);
            if !fetched && self.is_correct(replica) {
                self.summary.snapshots_taken += 1;
                let id = &snapshot.id;
                let equal = self.checker.state(replica, &id.at, id.digest);
                self.check(equal);
            }
            self.host(replica).disk.save(ticket, snapshot);
            self.begin_sync(replica, Lane::Saves);
        }
    }

    pub(super) fn begin_sync(&mut self, replica: ReplicaId, lane: Lane) {
        let host = &mut self.hosts[replica.index()];
        let (life, hung) = (host.life, host.disk.hung());
        let begun = host.disk.sync(lane, &mut self.random);
        self.summary.syncs_hung += host.disk.hung().saturating_sub(hung);
        if let Some((takes, ticket)) = begun {
            self.after(takes, Event::Synced(replica, life, lane, ticket));
        }
    }

    pub(super) fn synced(&mut self, replica: ReplicaId, life: u64, lane: Lane, ticket: Ticket) {
        if self.host(replica).life != life {
            return;
        }
        let words = [5, u64::from(replica.0), lane as u64, ticket.0];
        self.note(replica, &words, false, "has synced");
        self.host(replica).disk.synced(lane, ticket);
        self.arrive(
            replica,
            match lane {
                Lane::Appends => Item::Durable(ticket),
                Lane::Saves => Item::Saved(ticket),
            },
        );
        self.begin_sync(replica, lane);
    }

    /// The one way from a replica's effects to the network: what lies, loses or changes messages
    /// stands here.
    fn transmit(&mut self, from: ReplicaId, to: Dest, message: &P::Message) {
        let others = ReplicaId::all(self.n());
        let me = self.member(from);
        if !self.is_correct(from) {
            for to in others.filter(|other| *other != me && goes(to, *other)) {
                for (frame, held) in self.lies(from, to, message) {
                    self.carry((me, to), frame, held);
                }
            }
            return;
        }
        let host = &mut self.hosts[from.index()];
        let Ok(frame) = host.envelope().seal(message) else {
            let kind = message.kind();
            return self.found((Rule::Invariant, format!("{from} cannot encode its {kind}")));
        };
        if let Some(running) = &mut host.replica {
            running.count_sent(to, message, frame.len());
        }
        for to in others.filter(|other| *other != me && goes(to, *other)) {
            self.carry((me, to), frame.clone(), 0);
        }
    }

    /// Puts a frame on its way, after it was `held` so long.
    fn carry(&mut self, (from, to): (ReplicaId, ReplicaId), frame: Bytes, held: u64) {
        let [first, again] = self.network.carry(from, to, &mut self.random);
        let flight = |frame| Flight {
            from,
            to,
            sent: self.now,
            frame,
        };
        let repeated = again.map(|delay| (held + delay, flight(frame.clone())));
        let flight = flight(frame);
        match first {
            Some(delay) => self.after(held + delay, Event::Frame(flight)),
            None => self.lost(&flight),
        }
        if let Some((delay, flight)) = repeated {
            self.summary.frames_repeated += 1;
            self.after(delay, Event::Frame(flight));
        }
    }

    fn lost(&mut self, flight: &Flight) {
        self.summary.frames_lost += 1;
        self.note_flight(6, flight, Fate::Lost);
    }

    fn note_flight(&mut self, word: u64, flight: &Flight, fate: Fate) {
        let (from, to) = (flight.from, flight.to);
        let content = Hash::of(&flight.frame);
        let words = [word, u64::from(from.0), u64::from(to.0), content];
        let host = &self.hosts[to.index()];
        self.trace.note(self.now, &words, || {
            let opened = host.open(from, &flight.frame);
            let (kind, text) = opened.map_or((String::from("?"), String::new()), |message| {
                (String::from(message.kind()), format!("{:?}", *message))
            });
            Happening::Message {
                from: Party::Replica(from),
                to: Party::Replica(to),
                kind,
                text,
                fate,
            }
        });
    }

    pub(super) fn frame_arrives(&mut self, flight: &Flight) {
        let hearers = self.hearers(flight.to, &flight.frame);
        let up = |machine: &ReplicaId| self.hosts[machine.index()].replica.is_some();
        let up = hearers.iter().any(up);
        if !up || self.network.is_cut(flight.from, flight.to) {
            return self.lost(flight);
        }
        let sent = flight.sent;
        self.note_flight(7, flight, Fate::Arrived { sent });
        for hearer in hearers {
            self.arrive(hearer, Item::Frame(flight.from, flight.frame.clone()));
        }
    }

    fn fetch(&mut self, by: ReplicaId, fetch: &Fetch) {
        let from = fetch.from;
        let life = self.host(by).life;
        let text = format!("asks {from} for a snapshot");
        self.note(by, &[8, u64::from(by.0), u64::from(from.0)], true, &text);
        let member = self.member(by);
        let delay = self.network.delay(member, from, &mut self.random);
        self.after(delay, Event::Fetch(FetchFlight { by, life, from }));
    }

    pub(super) fn fetch_arrives(&mut self, fetch: FetchFlight) {
        match self.is_mute(fetch.from) {
            None => self.answer_fetch(fetch),
            Some(after) => {
                self.summary.fetches_unanswered += 1;
                if let Some(after) = after {
                    self.answer_fetch_after(after, fetch);
                }
            }
        }
    }

    /// What is on its way for long is what was offered when it was asked for.
    fn answer_fetch_after(&mut self, after: u64, fetch: FetchFlight) {
        let event = match self.offered(fetch.from) {
            Some(offered) => Event::FetchCame(fetch, offered),
            None => Event::FetchAnswered(fetch),
        };
        self.after(after, event);
        self.fetch_trickles(fetch, self.now + after.min(TRICKLES));
    }

    /// An answer that takes long makes progress for a while.
    pub(super) fn fetch_trickles(&mut self, fetch: FetchFlight, until: u64) {
        let FetchFlight { by, from, life } = fetch;
        if self.host(by).life == life && self.now < until {
            self.arrive(by, Item::FetchProgressed(from));
            self.after(TRICKLE, Event::FetchTrickles(fetch, until));
        }
    }

    /// A snapshot has been on its way for long, and comes unless the link is cut.
    pub(super) fn fetch_comes(&mut self, fetch: FetchFlight, snapshot: Snapshot) {
        let passes = !self.network.is_cut(fetch.from, self.member(fetch.by));
        self.fetch_ends(fetch, passes.then_some(snapshot));
    }

    pub(super) fn answer_fetch(&mut self, fetch: FetchFlight) {
        let FetchFlight { by, from, .. } = fetch;
        let to = self.member(by);
        let reachable = !self.network.is_cut(to, from) && !self.network.is_cut(from, to);
        let snapshot = reachable.then(|| self.offered(from)).flatten();
        let delay = match snapshot {
            Some(_) => self.network.delay(from, to, &mut self.random),
            None => FETCH_PATIENCE,
        };
        self.after(delay, Event::Fetched(fetch, snapshot));
    }

    pub(super) fn fetch_ends(&mut self, fetch: FetchFlight, snapshot: Option<Snapshot>) {
        let FetchFlight { by, from, life } = fetch;
        if self.host(by).life != life {
            return;
        }
        let (word, found) = (u64::from(by.0), u64::from(snapshot.is_some()));
        if snapshot.is_some() {
            let arrow = || Happening::Message {
                from: Party::Replica(from),
                to: Party::Replica(by),
                kind: String::from("snapshot"),
                text: String::from("snapshot"),
                fate: Fate::Arrived { sent: self.now },
            };
            self.trace.note(self.now, &[9, word, found], arrow);
        }
        self.arrive(by, Item::Fetched(from, snapshot));
    }

    /// Stops a replica, as a crash does.
    pub(super) fn stop(&mut self, replica: ReplicaId) {
        let host = &mut self.hosts[replica.index()];
        if host.replica.is_none() {
            return;
        }
        host.stop();
        let lost = host.disk.crash(&mut self.random);
        self.summary.crashes += 1;
        self.summary.crashes_with_loss += u64::from(lost.pending > 0);
        self.summary.torn_crashes += u64::from(lost.kept > 0);
        let text = match lost.pending {
            0 => String::from("crashes"),
            pending => format!("crashes with {pending} writes not synced"),
        };
        let words = [
            10,
            u64::from(replica.0),
            lost.pending as u64,
            lost.kept as u64,
        ];
        self.note(replica, &words, true, &text);
    }
}

fn goes(to: Dest, other: ReplicaId) -> bool {
    match to {
        Dest::One(to) => to == other,
        Dest::Others | Dest::All => true,
    }
}
