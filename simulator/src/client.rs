//! Simulated clients: one operation at a time each, retried elsewhere when no answer comes.
//!
//! Where replicas may lie, a client believes only what so many have said that one of them is
//! correct ([`FaultModel::replies`](quorate_core::protocol::FaultModel::replies)): it asks its
//! replica first and all of them after a time-out, and reads from all at once.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use quorate_core::consensus::{ProposeError, ReadError};
use quorate_core::crypto::{Admission, PublicKey, Scheme, SecretKey, Signer};
use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::replica::ReadToken;
use quorate_core::request::{Batch, Operation, Request, SessionId};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::conditions::MILLISECOND;
use crate::history;
use crate::host::GROUP;
use crate::register::{self, Change, Command, CommandId, Outcome};

/// How many registers clients use that share all of them.
const KEYS: u8 = 3;

/// The register that clients share which have registers of their own: beyond those.
const SHARED: u8 = u8::MAX;

/// How often an operation is sent at most before the client gives up, unless it is stubborn.
const TRIES: u32 = 6;

/// The number of clients that a read's token has room for, and the number of commands of each.
pub(crate) const PER_CLIENT: u64 = 1 << 32;

/// What a client asks a replica for.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// To order a request.
    Request(Requested),
    /// To read.
    Read(ReadToken, Bytes),
}

/// A request as its client sends it, alone and signed. Only protocols that replicas may lie in
/// look at the signature.
#[derive(Clone, Debug)]
pub(crate) struct Requested {
    pub(crate) sequence: u64,
    pub(crate) batch: Batch,
}

impl Requested {
    /// A command; without one, the request that opens the session.
    pub(crate) fn new(
        (session, sequence): (SessionId, u64),
        command: Option<&[u8]>,
        scheme: Scheme,
    ) -> Self {
        let request = Request {
            session,
            sequence,
            answered: if command.is_some() { sequence } else { 0 },
            operation: command.map_or(Operation::Open, Operation::Apply),
        };
        Requested {
            sequence,
            batch: Batch::of_one(request).signed(&SIGNER.clone().by(scheme)),
        }
    }
}

/// All simulated clients have one key; their sessions tell them apart.
static SIGNER: LazyLock<Signer> =
    LazyLock::new(|| Signer::new(SecretKey::from_seed([0xc1; 32]), GROUP));

static CLIENT: LazyLock<PublicKey> = LazyLock::new(|| SIGNER.public());

static ADMITTED: LazyLock<Admission> = LazyLock::new(|| Admission::of([*CLIENT]));

/// The clients that replicas admit.
pub(crate) fn admitted() -> Admission {
    ADMITTED.clone()
}

/// What a replica tells a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The answer to a request.
    Answer(SessionId, u64, Result<Bytes, ProposeError>),
    /// The answer to a read.
    Read(ReadToken, Result<Bytes, ReadError>),
}

/// What a client does next.
#[derive(Debug)]
pub(crate) enum Action {
    /// Sends, and wakes up after so many nanoseconds if nothing has changed.
    Send(ReplicaSet, Ask, u64),
    /// Wakes up after so many nanoseconds.
    Wait(u64),
    /// Has nothing more to do.
    Finished,
    /// Goes on as before.
    Nothing,
}

/// What all clients have done together.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// The operations that have ended.
    pub(crate) history: Vec<history::Operation>,
    /// The commands that were answered.
    pub(crate) acknowledged: Vec<CommandId>,
    /// The next unused name of a process.
    pub(crate) processes: u64,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    number: u64,
    /// Its present name in the history.
    process: u64,
    n: usize,
    /// How many replicas must say the same to be believed.
    needed: usize,
    at: ReplicaId,
    /// The replicas that it tries.
    tries_at: ReplicaSet,
    /// Whether it stays at its replica: it probes that the replica serves.
    probe: bool,
    /// Whether it never gives up and takes no refusal: where there are no faults, an operation
    /// without an answer must be seen to wait.
    stubborn: bool,
    /// The longest wait between operations, in nanoseconds.
    pub(crate) idle: u64,
    left: u64,
    sessions: u64,
    sequence: u64,
    tries: u32,
    /// Tells apart what it waits for: a later wake-up is for something else.
    pub(crate) waiting: u64,
    doing: Doing,
    /// Who has said what about the operation under way, as long as it is not believed.
    tally: Vec<(Told, ReplicaSet)>,
    pub(crate) signatures: Scheme,
    /// How many of a hundred operations are on [`SHARED`], if it has a register of its own.
    pub(crate) conflicts: Option<u32>,
    /// What it last saw in the registers.
    seen: BTreeMap<u8, u64>,
}

#[derive(Debug)]
enum Doing {
    Opening {
        since: u64,
    },
    Thinking,
    Operating {
        key: u8,
        call: Call,
        invoke: u64,
        ask: Ask,
    },
    Finished,
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Change(Change),
    Get,
}

/// What an answer means for the operation that waits for one.
enum Meaning {
    /// The operation goes on: the answer is another's, or not the last word.
    Nothing,
    /// It has ended like this.
    Ended(history::Outcome),
    /// Whether it has happened will never be known.
    NeverKnown,
}

impl Client {
    /// A client of `n` replicas that believes what `needed` of them say.
    pub(crate) fn new(
        number: usize,
        (n, needed): (usize, usize),
        operations: u64,
        idle: u64,
    ) -> Self {
        Client {
            number: number as u64,
            process: number as u64,
            n,
            needed,
            at: ReplicaId((number % n) as u8),
            tries_at: ReplicaId::all(n).collect(),
            probe: false,
            stubborn: false,
            idle,
            left: operations,
            sessions: 0,
            sequence: 0,
            tries: 0,
            waiting: 0,
            doing: Doing::Opening { since: 0 },
            tally: Vec::new(),
            signatures: Scheme::default(),
            conflicts: None,
            seen: BTreeMap::new(),
        }
    }

    /// A client that writes and reads once each, through `at`, and insists.
    pub(crate) fn probe(number: usize, sizes: (usize, usize), at: ReplicaId) -> Self {
        Client {
            at,
            probe: true,
            stubborn: true,
            ..Client::new(number, sizes, 2, 0)
        }
    }

    /// The faults have ended: hurries up, and insists on answers from now on, from one of
    /// `connected`.
    pub(crate) fn insist(&mut self, connected: ReplicaSet) {
        self.tries_at = connected;
        self.idle = self.idle.min(20 * MILLISECOND);
        self.stubborn = true;
    }

    /// Since when it has waited for an answer, if it does, and to what.
    pub(crate) fn waits(&self) -> Option<(u64, &'static str)> {
        match &self.doing {
            Doing::Opening { since } => Some((*since, "its session")),
            Doing::Operating { call, invoke, .. } => Some((
                *invoke,
                match call {
                    Call::Get => "a read",
                    Call::Change(_) => "a write",
                },
            )),
            Doing::Thinking | Doing::Finished => None,
        }
    }

    fn session(&self) -> SessionId {
        session(self.number, self.sessions)
    }

    /// The client that owns a session.
    pub(crate) fn of_session(session: SessionId) -> usize {
        (session.number / PER_CLIENT) as usize
    }

    /// The client that asked for a read.
    pub(crate) fn of_token(token: ReadToken) -> usize {
        (token.0 / PER_CLIENT) as usize
    }

    /// Its time has come, or its patience has ended. `records` takes the operation it gives up.
    pub(crate) fn wake(
        &mut self,
        now: u64,
        random: &mut ChaCha8Rng,
        records: &mut Records,
    ) -> Action {
        match &self.doing {
            Doing::Finished => Action::Nothing,
            Doing::Opening { .. } => self.send(random),
            Doing::Thinking => self.begin(now, random),
            Doing::Operating { .. } if self.tries_again(random) => self.send(random),
            Doing::Operating { .. } => {
                self.give_up(records);
                self.think(random)
            }
        }
    }

    fn tries_again(&self, random: &mut ChaCha8Rng) -> bool {
        self.stubborn || self.tries < random.random_range(1..=TRIES)
    }

    fn begin(&mut self, now: u64, random: &mut ChaCha8Rng) -> Action {
        if self.left == 0 {
            self.doing = Doing::Finished;
            return Action::Finished;
        }
        self.left -= 1;
        self.sequence += 1;
        self.tries = 0;
        self.tally.clear();
        let key = self.draw_key(random);
        let id = self.command();
        let value = id.0;
        let call = match random.random_range(0..100) {
            _ if self.probe && self.left == 1 => Call::Change(Change::Put(value)),
            _ if self.probe => Call::Get,
            0..35 => Call::Get,
            35..75 => Call::Change(Change::Put(value)),
            75..92 => Call::Change(Change::Cas {
                expected: self.seen.get(&key).copied(),
                value,
            }),
            _ => Call::Change(Change::Delete),
        };
        let ask = match call {
            Call::Get => Ask::Read(ReadToken(id.0), register::query(key)),
            Call::Change(change) => {
                let command = Command { id, key, change };
                Ask::Request(self.request(Some(&command.encode())))
            }
        };
        self.doing = Doing::Operating {
            key,
            call,
            invoke: now,
            ask,
        };
        self.send(random)
    }

    fn draw_key(&self, random: &mut ChaCha8Rng) -> u8 {
        match self.conflicts {
            None => random.random_range(0..KEYS),
            Some(percent) if random.random_range(0..100) < percent => SHARED,
            Some(_) => self.number as u8,
        }
    }

    fn saw(&mut self, key: u8, value: Option<u64>) {
        match value {
            Some(value) => self.seen.insert(key, value),
            None => self.seen.remove(&key),
        };
    }

    fn request(&self, command: Option<&[u8]>) -> Requested {
        Requested::new((self.session(), self.sequence), command, self.signatures)
    }

    /// Sends what it is doing; from the second time on to another replica.
    fn send(&mut self, random: &mut ChaCha8Rng) -> Action {
        let ask = match &self.doing {
            Doing::Operating { ask, .. } => ask.clone(),
            _ => Ask::Request(self.request(None)),
        };
        if self.tries > 0 && !self.probe {
            let step = random.random_range(1..=self.n);
            let from = self.at.index() + step;
            let tried = (from..from + self.n).map(|place| ReplicaId((place % self.n) as u8));
            let mut tried = tried.filter(|replica| self.tries_at.contains(*replica));
            self.at = tried.next().unwrap_or(self.at);
        }
        let to = self.recipients(&ask);
        self.tries += 1;
        self.waiting += 1;
        let patience = random.random_range(150..=500) * MILLISECOND;
        Action::Send(to, ask, patience)
    }

    fn recipients(&self, ask: &Ask) -> ReplicaSet {
        let alone = match ask {
            _ if self.needed == 1 => true,
            Ask::Request(_) => self.probe || self.tries == 0,
            Ask::Read(..) => false,
        };
        match alone {
            true => [self.at].into_iter().collect(),
            false => ReplicaId::all(self.n).collect(),
        }
    }

    /// Whether what a replica says is to be believed, now that it has said it too. A probe wants
    /// to hear it from its own replica as well.
    fn believes(&mut self, from: ReplicaId, told: &Told) -> bool {
        if self.needed == 1 {
            return true;
        }
        let concerns = match told {
            // That one replica has no room says nothing about the others.
            Told::Answer(_, _, Err(error)) if error.is_overload() => false,
            Told::Read(_, Err(_)) => false,
            Told::Answer(session, sequence, _) => {
                *session == self.session() && *sequence == self.sequence
            }
            Told::Read(token, Ok(_)) => self.asked(*token),
        };
        if !concerns {
            return false;
        }
        let known = self.tally.iter().position(|(other, _)| other == told);
        let place = known.unwrap_or(self.tally.len());
        if known.is_none() {
            self.tally.push((told.clone(), ReplicaSet::EMPTY));
        }
        self.tally.get_mut(place).is_some_and(|(_, by)| {
            by.insert(from);
            by.len() >= self.needed && (!self.probe || by.contains(self.at))
        })
    }

    fn think(&mut self, random: &mut ChaCha8Rng) -> Action {
        self.doing = Doing::Thinking;
        self.tries = 0;
        self.waiting += 1;
        // In bursts, so that crashes find work under way.
        let idle = match random.random_range(0..4) {
            0 => 4 * self.idle,
            _ => self.idle.min(MILLISECOND),
        };
        Action::Wait(random.random_range(0..=idle))
    }

    fn give_up(&mut self, records: &mut Records) {
        self.end(records, history::Outcome::Info);
        self.process = records.processes;
        records.processes += 1;
    }

    fn end(&mut self, records: &mut Records, outcome: history::Outcome) {
        let Doing::Operating {
            key, call, invoke, ..
        } = &self.doing
        else {
            return;
        };
        records.history.push(history::Operation {
            process: self.process,
            key: format!("k{key}"),
            call: call.recorded(),
            invoke: *invoke,
            outcome,
        });
    }

    /// A replica has answered.
    pub(crate) fn told(
        &mut self,
        now: u64,
        (from, told): (ReplicaId, &Told),
        random: &mut ChaCha8Rng,
        records: &mut Records,
    ) -> Action {
        if !self.believes(from, told) {
            return Action::Nothing;
        }
        let Doing::Operating { key, call, .. } = self.doing else {
            return self.told_opening(told, random);
        };
        match self.meaning(now, (key, call), told) {
            Meaning::Nothing => Action::Nothing,
            Meaning::Ended(outcome) => {
                if let Call::Change(change) = call {
                    self.acknowledged(key, change, &outcome, records);
                }
                self.end(records, outcome);
                self.think(random)
            }
            Meaning::NeverKnown => {
                self.give_up(records);
                self.open_another(now, random)
            }
        }
    }

    /// What a believed answer means for the operation under way.
    fn meaning(&mut self, now: u64, (key, call): (u8, Call), told: &Told) -> Meaning {
        let ended =
            |outcome: Option<history::Outcome>| outcome.map_or(Meaning::NeverKnown, Meaning::Ended);
        match (call, told) {
            (Call::Change(_), Told::Answer(session, sequence, result))
                if *session == self.session() && *sequence == self.sequence =>
            {
                match result {
                    Ok(answer) => ended(changed(now, answer)),
                    Err(error) if error.is_overload() && self.tries == 1 && !self.stubborn => {
                        let returned = Some(now);
                        Meaning::Ended(history::Outcome::Fail { returned })
                    }
                    // An earlier try may have happened, or may yet.
                    Err(error) if error.is_overload() => Meaning::Nothing,
                    Err(_) => Meaning::NeverKnown,
                }
            }
            (Call::Get, Told::Read(token, Ok(answer))) if self.asked(*token) => {
                let value = register::decode_value(answer);
                if let Some(value) = value {
                    self.saw(key, value);
                }
                ended(value.map(|value| answered(now, history::Answer::Value(value.map(text)))))
            }
            _ => Meaning::Nothing,
        }
    }

    fn acknowledged(
        &mut self,
        key: u8,
        change: Change,
        outcome: &history::Outcome,
        records: &mut Records,
    ) {
        if matches!(outcome, history::Outcome::Ok { .. }) {
            records.acknowledged.push(self.command());
            match change {
                Change::Put(value) => self.saw(key, Some(value)),
                Change::Delete => self.saw(key, None),
                Change::Cas { .. } => {}
            }
        }
    }

    /// The name of the operation under way.
    fn command(&self) -> CommandId {
        CommandId(self.number * PER_CLIENT + self.sequence)
    }

    fn asked(&self, token: ReadToken) -> bool {
        token.0 == self.command().0
    }

    fn told_opening(&mut self, told: &Told, random: &mut ChaCha8Rng) -> Action {
        match (&self.doing, told) {
            (Doing::Opening { .. }, Told::Answer(session, _, Ok(_)))
                if *session == self.session() =>
            {
                self.think(random)
            }
            _ => Action::Nothing,
        }
    }

    /// The session has expired: begins another.
    fn open_another(&mut self, now: u64, random: &mut ChaCha8Rng) -> Action {
        self.sessions += 1;
        self.sequence += 1;
        self.tries = 0;
        self.tally.clear();
        self.doing = Doing::Opening { since: now };
        self.send(random)
    }
}

/// The `count`th session of a client.
pub(crate) fn session(client: u64, count: u64) -> SessionId {
    SessionId {
        client: *CLIENT,
        number: client * PER_CLIENT + count,
    }
}

fn text(value: u64) -> String {
    value.to_string()
}

fn answered(returned: u64, answer: history::Answer) -> history::Outcome {
    history::Outcome::Ok { returned, answer }
}

fn changed(now: u64, answer: &[u8]) -> Option<history::Outcome> {
    let answer = match Outcome::decode(answer)? {
        Outcome::Done => history::Answer::Value(None),
        Outcome::Deleted(flag) | Outcome::Swapped(flag) => history::Answer::Flag(flag),
        Outcome::Malformed => return None,
    };
    Some(answered(now, answer))
}

impl Call {
    fn recorded(self) -> history::Call {
        match self {
            Call::Get => history::Call::Get,
            Call::Change(Change::Delete) => history::Call::Delete,
            Call::Change(Change::Put(value)) => history::Call::Put { value: text(value) },
            Call::Change(Change::Cas { expected, value }) => history::Call::Cas {
                expected: expected.map(text),
                value: text(value),
            },
        }
    }
}

#[cfg(test)]
mod tests;
