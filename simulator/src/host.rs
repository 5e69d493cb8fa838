//! A simulated machine: a replica, its clock, its disk, and what waits to be looked at.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::crypto::{GroupId, Members, Scheme, SecretKey, Signer, Verifier};
use quorate_core::id::{ReplicaId, ReplicaSet, Time, UnixTime};
use quorate_core::ledger::Ledger;
use quorate_core::protocol::{Context, FaultModel, Protocol, Verified};
use quorate_core::replica::{Effects, Halt, ReadToken, Replica, Settings};
use quorate_core::storage::{Snapshot, StorageError, Ticket};
use quorate_core::wire::Envelope;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::check::Place;
use crate::client::{self, Ask, Told};
use crate::conditions::Conditions;
use crate::disk::Disk;
use crate::register::Register;
use crate::report::{Finding, Rule};

/// The cluster's number; a world has one cluster.
pub(crate) const GROUP: GroupId = GroupId(1);

/// When worlds begin.
const EPOCH: UnixTime = UnixTime(1_700_000_000_000_000_000);

/// A clock that started at an instant and runs too fast or too slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: u64,
    /// Thousandths of a second it counts in a second.
    rate: u64,
}

impl Clock {
    fn new(started: u64, rate: u64) -> Self {
        Clock { started, rate }
    }

    /// What it shows.
    pub(crate) fn read(&self, now: u64) -> Time {
        let elapsed = u128::from(now - self.started);
        Time((elapsed * u128::from(self.rate) / 1000) as u64)
    }

    /// When it will have reached `time`.
    pub(crate) fn reaches(&self, time: Time) -> u64 {
        let elapsed = (u128::from(time.0) * 1000).div_ceil(u128::from(self.rate));
        self.started
            .saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

/// What has arrived at a replica.
#[derive(Debug)]
pub(crate) enum Item {
    Frame(ReplicaId, Bytes),
    Ask(Ask),
    Durable(Ticket),
    Saved(Ticket),
    FetchProgressed(ReplicaId),
    Fetched(ReplicaId, Option<Snapshot>),
    DiskFailed,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Host<P: Protocol> {
    pub(crate) id: ReplicaId,
    pub(crate) replica: Option<Replica<P, Register>>,
    pub(crate) disk: Disk,
    /// Counts crashes: what was scheduled for an earlier life is void.
    pub(crate) life: u64,
    pub(crate) clock: Clock,
    pub(crate) inbox: Vec<Item>,
    /// When the next turn is, if one is scheduled.
    pub(crate) turn_at: Option<u64>,
    /// The earliest wake-up that is scheduled for timers.
    pub(crate) timer_at: Option<u64>,
    /// Until when it is busy with its last turn, or paused.
    pub(crate) busy_until: u64,
    /// The snapshot that peers may fetch.
    pub(crate) offer: Option<Arc<Snapshot>>,
    /// The next place in the world's order.
    pub(crate) place: Place,
    /// The fetched snapshot that is being saved.
    pub(crate) installing: Option<Ticket>,
    /// The reads that its replica has under way.
    reading: BTreeSet<ReadToken>,
    /// Whose frames may be anything.
    pub(crate) distrusts: ReplicaSet,
    /// What earlier lives have spent.
    spent: Ledger,
    members: Members,
    key: SecretKey,
    scheme: Scheme,
    verifier: Verifier,
    envelope: Envelope,
    rate: u64,
    /// What its wall clock shows at the beginning of the world.
    wall_clock: UnixTime,
    /// How many milliseconds its wall clock is ahead of that, from the next start on.
    pub(crate) clock_error: i64,
}

/// What a turn led to.
pub(crate) struct Turn<P: Protocol> {
    pub(crate) effects: Effects<P>,
    /// Requests and reads refused on the spot.
    pub(crate) refused: Vec<Told>,
    /// Whether a fetched snapshot may have become the state.
    pub(crate) installed: bool,
    pub(crate) finding: Option<Finding>,
}

impl<P: Protocol> Default for Turn<P> {
    fn default() -> Self {
        Turn {
            effects: Effects::default(),
            refused: Vec::new(),
            installed: false,
            finding: None,
        }
    }
}

/// The machines of a cluster of `n`.
pub(crate) fn cluster<P: Protocol>(
    (n, scheme): (usize, Scheme),
    conditions: &Conditions,
    random: &mut ChaCha8Rng,
) -> Vec<Host<P>> {
    let keys: Vec<SecretKey> = ReplicaId::all(n)
        .map(|id| SecretKey::from_seed([id.0 + 1; 32]))
        .collect();
    let public: Vec<_> = keys.iter().map(SecretKey::public).collect();
    let members = Members::new(GROUP, public);
    // From a stream of their own: what else a seed draws does not depend on them.
    let mut clocks = random.clone();
    let hosts = ReplicaId::all(n).zip(keys).map(|(id, key)| {
        let rate = 1000 - conditions.drift + random.random_range(0..=2 * conditions.drift);
        let mut host = machine((id, key), members.clone(), conditions, rate);
        host.sign_by(scheme);
        host.wall_clock = EPOCH + Duration::from_nanos(clocks.random_range(0..=conditions.skew));
        host
    });
    hosts.collect()
}

/// A second machine with the key of the first, which has nothing on its disk yet.
pub(crate) fn second<P: Protocol>(first: &Host<P>, conditions: &Conditions) -> Host<P> {
    let (id, key) = (first.id, first.key.clone());
    let mut second = machine((id, key), first.members.clone(), conditions, first.rate);
    second.wall_clock = first.wall_clock;
    second.sign_by(first.scheme);
    second
}

fn machine<P: Protocol>(
    (id, key): (ReplicaId, SecretKey),
    members: Members,
    conditions: &Conditions,
    rate: u64,
) -> Host<P> {
    Host {
        id,
        replica: None,
        disk: Disk::new(conditions),
        life: 0,
        clock: Clock::new(0, rate),
        inbox: Vec::new(),
        turn_at: None,
        timer_at: None,
        busy_until: 0,
        offer: None,
        place: Place::default(),
        installing: None,
        reading: BTreeSet::new(),
        distrusts: ReplicaSet::EMPTY,
        spent: Ledger::default(),
        verifier: Verifier::new(members.clone()),
        members,
        key,
        scheme: Scheme::default(),
        envelope: Envelope::new(GROUP, 0),
        rate,
        wall_clock: EPOCH,
        clock_error: 0,
    }
}

impl<P: Protocol> Host<P> {
    fn sign_by(&mut self, scheme: Scheme) {
        self.scheme = scheme;
        self.verifier = self.verifier();
    }

    /// One that remembers nothing yet.
    fn verifier(&self) -> Verifier {
        let verifier = Verifier::new(self.members.clone()).by(self.scheme);
        verifier.admitting(client::admitted())
    }

    /// Makes the replica from what its disk holds. It has yet to start.
    pub(crate) fn recover(
        &mut self,
        now: u64,
        config: &P::Config,
        settings: &Settings,
        random: &mut ChaCha8Rng,
    ) -> Result<(), Halt> {
        self.verifier = self.verifier();
        let context = self.context(random.random(), now);
        let stored = self.disk.stored();
        let machine = Register::default();
        let replica = Replica::recover(context, config.clone(), settings.clone(), machine, stored);
        self.clock = Clock::new(now, self.rate);
        self.replica = Some(replica?);
        Ok(())
    }

    /// Who it is, its key, and what its wall clock shows `now`.
    pub(crate) fn context(&self, seed: [u8; 32], now: u64) -> Context {
        Context {
            me: self.id,
            members: self.members.clone(),
            signer: Signer::new(self.key.clone(), GROUP).by(self.scheme),
            verifier: self.verifier.clone(),
            seed,
            wall_clock: self.shown(now),
        }
    }

    /// What its wall clock shows.
    fn shown(&self, now: u64) -> UnixTime {
        let right = self.wall_clock + Duration::from_nanos(now);
        let error = self.clock_error.saturating_mul(1_000_000);
        UnixTime(right.0.saturating_add_signed(error))
    }

    /// Stops the replica; what was scheduled for it is void.
    pub(crate) fn stop(&mut self) {
        if let Some(replica) = self.replica.take() {
            self.spent.add(&replica.ledger());
        }
        self.life += 1;
        self.inbox.clear();
        self.turn_at = None;
        self.timer_at = None;
        self.busy_until = 0;
        self.offer = None;
        self.installing = None;
        self.reading.clear();
    }

    /// What the replica has spent in all its lives.
    pub(crate) fn ledger(&self) -> Ledger {
        let mut sum = self.spent.clone();
        if let Some(replica) = &self.replica {
            sum.add(&replica.ledger());
        }
        sum.syncs += self.disk.syncs();
        sum
    }

    /// How its frames are enclosed.
    pub(crate) fn envelope(&self) -> Envelope {
        self.envelope
    }

    /// Opens a frame that came to this machine, for those who read traces.
    pub(crate) fn open(&self, from: ReplicaId, frame: &[u8]) -> Option<Verified<P::Message>> {
        self.envelope.open(from, frame, &self.verifier).ok()
    }

    /// Takes all that has arrived in one turn.
    pub(crate) fn turn(&mut self, now: u64) -> Option<Turn<P>> {
        let replica = self.replica.as_mut()?;
        let time = self.clock.read(now);
        replica.short_of_room(self.disk.full);
        let mut turn = Turn::default();
        let mut fetched = Vec::new();
        for item in self.inbox.drain(..) {
            match item {
                Item::Frame(from, frame) => {
                    match self.envelope.open(from, &frame, &self.verifier) {
                        Ok(message) => replica.message(time, message),
                        Err(_) if self.distrusts.contains(from) => {}
                        Err(rejected) => {
                            turn.finding = Some((Rule::Invariant, rejected.to_string()));
                        }
                    }
                }
                Item::Ask(Ask::Read(token, _)) if is_known::<P>(&self.reading, token) => {}
                Item::Ask(ask) => {
                    if let Ask::Read(token, _) = &ask {
                        self.reading.insert(*token);
                    }
                    turn.refused.extend(put(replica, &self.verifier, ask));
                }
                Item::Durable(ticket) => replica.durable(ticket),
                Item::Saved(ticket) => {
                    turn.installed |= self.installing.take_if(|t| *t <= ticket).is_some();
                    replica.saved(time, ticket);
                }
                Item::FetchProgressed(from) => replica.fetch_progressed(time, from),
                Item::Fetched(from, snapshot) => {
                    let id = snapshot.as_ref().map(|snapshot| snapshot.id.clone());
                    fetched.extend(id);
                    replica.fetched(time, from, snapshot);
                }
                Item::DiskFailed => replica.storage_failed(disk_error()),
            }
        }
        replica.tick(time);
        turn.effects = replica.end_turn(time);
        let refused = turn.refused.iter().filter_map(|told| match told {
            Told::Read(token, _) => Some(*token),
            Told::Answer(..) => None,
        });
        let answered = turn.effects.reads.iter().map(|(token, _)| *token);
        for token in refused.chain(answered) {
            self.reading.remove(&token);
        }
        let saves = &turn.effects.save;
        let save = saves.iter().find(|(_, saved)| fetched.contains(&saved.id));
        self.installing = save.map(|(ticket, _)| *ticket).or(self.installing);
        if let Some(command) = replica.machine().repeated() {
            let detail = format!("{} applied {command:?} twice", self.id);
            turn.finding.get_or_insert((Rule::ExactlyOnce, detail));
        }
        if let Some(disorder) = replica.machine().disorder() {
            let detail = format!("{}: {disorder}", self.id);
            turn.finding.get_or_insert((Rule::Invariant, detail));
        }
        Some(turn)
    }
}

/// Whether a read is under way. Where replicas may lie, every replica orders each read that it is asked:
/// asked again, it would order the same again, as it does for nobody else. What a real client asks through
/// the log is a request of its session, and taken once.
fn is_known<P: Protocol>(reading: &BTreeSet<ReadToken>, token: ReadToken) -> bool {
    P::FAULTS == FaultModel::Byzantine && reading.contains(&token)
}

/// Gives the replica a client's wish; the answer, if it is refused at once.
fn put<P: Protocol>(
    replica: &mut Replica<P, Register>,
    verifier: &Verifier,
    ask: Ask,
) -> Option<Told> {
    match ask {
        Ask::Request(request) => {
            let trusted = P::FAULTS == FaultModel::Crash;
            for group in request.batch.groups() {
                if trusted || group.verify(verifier).is_ok() {
                    replica.propose(&group);
                }
            }
            None
        }
        Ask::Read(token, query) => {
            let level = quorate_core::consensus::ReadLevel::Linearizable;
            let refused = replica.read(token, query, level).err()?;
            Some(Told::Read(token, Err(refused)))
        }
    }
}

fn disk_error() -> StorageError {
    StorageError::Io {
        action: "sync",
        path: String::from("the simulated disk"),
        reason: String::from("it has failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_has_reached_a_time_when_it_is_said_to_and_not_before() {
        for rate in [950, 1000, 1007, 1050] {
            let clock = Clock::new(17, rate);
            for time in [0, 1, 999, 1_000_003] {
                let at = clock.reaches(Time(time));
                assert!(clock.read(at) >= Time(time));
                assert!(at == 17 || clock.read(at - 1) < Time(time));
            }
        }
    }
}
