//! Exactly once: the replicated table of sessions.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::crypto::PublicKey;
use crate::request::{Request, SessionId};

/// How far a client may run ahead of its oldest request without an answer.
pub const WINDOW: u64 = 4096;

/// How many bytes of answers a session keeps, at most. A client that takes in what it is told
/// ([`Request::answered`]) never has that many outstanding. An answer larger than this is not kept.
pub const ANSWER_BYTES: usize = 1 << 20;

/// How many bytes of answers all sessions keep together: each its share, if there are many.
pub const ALL_ANSWER_BYTES: usize = 128 << 20;

/// What an answer takes beside its bytes, and is counted for it.
const ANSWER_OVERHEAD: usize = 64;

/// How many sessions are remembered, closed ones among them. One more has the one forgotten that
/// the client with the most of them has not used for the most openings.
pub const MAX_SESSIONS: usize = 16_384;

/// How many of them may be one client's. One more has another of its own forgotten.
pub const SESSIONS_PER_CLIENT: usize = MAX_SESSIONS / 4;

/// What has been executed for whom, with the answers. \[Ongaro14 §6.3\]
///
/// The table is replicated state: part of every snapshot, and equal on all replicas that have
/// executed the same entries. It does not depend on the order in which commands of one session
/// inside its [`WINDOW`] were executed, nor on that of commands of several sessions, for a protocol
/// that orders only what conflicts may execute them in either order. Opening and closing a session
/// conflict with everything, so that their effects on others (the age of sessions, which is
/// forgotten, how many bytes of answers each keeps) are at the same point of every replica's order.
///
/// Answers to queries are not kept: a query changes nothing, and one that is asked again is
/// answered again, from the state where it is ordered then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Table")]
pub struct Sessions {
    opened: u64,
    /// The highest [`Session::since`] of all that were forgotten of clients that have none now.
    forgotten: u64,
    table: BTreeMap<SessionId, Session>,
    clients: BTreeMap<PublicKey, Holder>,
    /// How many in the table are open.
    open: usize,
    #[serde(skip)]
    ages: Ages,
}

/// What is written of the sessions.
#[derive(Deserialize)]
struct Table {
    opened: u64,
    forgotten: u64,
    table: BTreeMap<SessionId, Session>,
    clients: BTreeMap<PublicKey, Holder>,
    open: usize,
}

impl From<Table> for Sessions {
    fn from(written: Table) -> Self {
        let Table {
            opened,
            forgotten,
            table,
            clients,
            open,
        } = written;
        Sessions {
            ages: Ages::of(&table, &clients),
            opened,
            forgotten,
            table,
            clients,
            open,
        }
    }
}

/// Who is to be forgotten next: follows from the table, and is kept so that an opening need not look
/// through all of it. A small batch of openings would stop every replica for seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ages {
    /// The sessions of each client, those that are closed first, and then those not used for longest:
    /// client, whether it is open, [`Session::used`], number.
    sessions: BTreeSet<(PublicKey, bool, u64, u64)>,
    /// How many each client has.
    counts: BTreeSet<(usize, PublicKey)>,
}

impl Ages {
    fn of(table: &BTreeMap<SessionId, Session>, clients: &BTreeMap<PublicKey, Holder>) -> Self {
        let sessions = table.iter().map(|(id, session)| session.age(*id));
        let counts = clients.iter().map(|(key, c)| (c.sessions, *key));
        Ages {
            sessions: sessions.collect(),
            counts: counts.collect(),
        }
    }

    fn oldest_of(&self, client: PublicKey) -> Option<SessionId> {
        let from = (client, false, 0, 0);
        let (key, .., number) = *self.sessions.range(from..).next()?;
        (key == client).then_some(SessionId { client, number })
    }

    fn of_the_most(&self) -> Option<PublicKey> {
        self.counts.last().map(|(_, key)| *key)
    }

    /// A client has another number of sessions than before; none is nothing.
    fn count(&mut self, client: PublicKey, before: usize, now: usize) {
        self.counts.remove(&(before, client));
        if now > 0 {
            self.counts.insert((now, client));
        }
    }
}

/// What is known of a client that has sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    sessions: usize,
    /// The highest [`Session::since`] of those that were forgotten. Kept apart from those of
    /// others, so that none can have the openings of another come too late.
    forgotten: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    /// How many sessions had been opened when this one was, itself included.
    since: u64,
    /// How many sessions had been opened when this one was last used.
    used: u64,
    /// Nothing is executed for it any more. It is remembered so that a late copy of the request
    /// that opened it does not open it again.
    closed: bool,
    /// The highest sequence executed.
    highest: u64,
    /// All through this one are executed, or too old to be.
    through: u64,
    /// What else is executed.
    beyond: BTreeSet<u64>,
    /// The client has all answers below this one.
    taken: u64,
    /// Answers below this one are not kept: they have reached the client, or were too many.
    answered: u64,
    answers: BTreeMap<u64, Bytes>,
    answer_bytes: usize,
}

impl Session {
    fn age(&self, id: SessionId) -> (PublicKey, bool, u64, u64) {
        (id.client, !self.closed, self.used, id.number)
    }

    /// Notes that it is used, and how many sessions have been opened by then.
    fn use_at(&mut self, id: SessionId, used: u64, ages: &mut Ages) {
        if self.used != used {
            ages.sessions.remove(&self.age(id));
            self.used = used;
            ages.sessions.insert(self.age(id));
        }
    }

    /// What has been executed is remembered apart from the answers: that a client has an answer
    /// does not mean that every replica has executed the request, where order is free.
    fn standing(&self, sequence: u64) -> Standing {
        if let Some(answer) = self.answers.get(&sequence) {
            return Standing::Executed(answer.clone());
        }
        match sequence <= self.through || self.beyond.contains(&sequence) {
            true => Standing::Dropped,
            false => Standing::New,
        }
    }

    /// Whether a query may be answered, for the first time or again: its client may wait for it.
    fn may_ask(&self, sequence: u64) -> bool {
        sequence >= self.taken && sequence > self.too_old()
    }

    fn too_old(&self) -> u64 {
        self.highest.saturating_sub(WINDOW)
    }

    /// Notes that a request was executed, whose client has all answers below `answered`.
    fn executed(&mut self, sequence: u64, answered: u64) {
        self.highest = self.highest.max(sequence);
        self.taken = self.taken.max(answered);
        self.beyond.insert(sequence);
        let too_old = self.too_old();
        self.through = self.through.max(too_old);
        while let Some(first) = self.beyond.first().copied()
            && first <= self.through + 1
        {
            self.beyond.pop_first();
            self.through = self.through.max(first);
        }
        self.answered = self.answered.max(self.taken).max(too_old + 1);
    }

    fn keep(&mut self, sequence: u64, answer: Bytes) {
        self.answer_bytes += ANSWER_OVERHEAD + answer.len();
        self.answers.insert(sequence, answer);
    }

    /// Forgets the answers that need not be kept, and the first ones that have more than `most`
    /// bytes together with all later ones. What is below a forgotten answer is not kept either, in
    /// whatever order it comes.
    fn trim(&mut self, most: usize) {
        while let Some((first, _)) = self.answers.first_key_value()
            && (*first < self.answered || self.answer_bytes > most)
            && let Some((sequence, answer)) = self.answers.pop_first()
        {
            self.answered = self.answered.max(sequence + 1);
            self.answer_bytes -= ANSWER_OVERHEAD + answer.len();
        }
    }

    fn close(&mut self, used: u64) {
        *self = Session {
            since: self.since,
            used,
            closed: true,
            ..Session::default()
        };
    }
}

/// What the table says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not executed yet.
    New,
    /// Executed, with this answer.
    Executed(Bytes),
    /// Below what is kept: it may have been executed, and must not be now.
    Dropped,
    /// The session is unknown, or closed.
    Expired,
}

impl Sessions {
    fn session(&self, session: SessionId) -> Option<&Session> {
        let session = self.table.get(&session);
        session.filter(|session| !session.closed)
    }

    /// Where a command stands.
    pub fn standing(&self, session: SessionId, sequence: u64) -> Standing {
        let session = self.session(session);
        session.map_or(Standing::Expired, |session| session.standing(sequence))
    }

    /// Where a query stands: it is new for as long as its client may wait for an answer.
    pub fn query_standing(&self, session: SessionId, sequence: u64) -> Standing {
        match self.session(session) {
            None => Standing::Expired,
            Some(session) if session.may_ask(sequence) => Standing::New,
            Some(_) => Standing::Dropped,
        }
    }

    /// Executes a command by `apply`, unless it must not be: then where it stands, which is never
    /// [`Standing::New`].
    pub fn execute(
        &mut self,
        request: &Request<'_>,
        apply: impl FnOnce() -> Bytes,
    ) -> Result<Bytes, Standing> {
        let (used, most) = (self.opened, self.answer_bytes_each());
        let session = self.table.get_mut(&request.session);
        let Some(session) = session.filter(|session| !session.closed) else {
            return Err(Standing::Expired);
        };
        match session.standing(request.sequence) {
            Standing::New => {
                let answer = apply();
                session.use_at(request.session, used, &mut self.ages);
                session.executed(request.sequence, request.answered);
                session.keep(request.sequence, answer.clone());
                session.trim(most);
                Ok(answer)
            }
            standing => Err(standing),
        }
    }

    /// Answers a query by `ask`, as often as it is ordered while its client may wait for it. All
    /// replicas that execute it at one point of the order give one answer, so that a client that
    /// must count equal ones gets as many as there are correct replicas, each time.
    pub fn query(
        &mut self,
        request: &Request<'_>,
        ask: impl FnOnce() -> Bytes,
    ) -> Result<Bytes, Standing> {
        let (used, most) = (self.opened, self.answer_bytes_each());
        let session = self.table.get_mut(&request.session);
        let Some(session) = session.filter(|session| !session.closed) else {
            return Err(Standing::Expired);
        };
        let may_ask = session.may_ask(request.sequence);
        // Whether it is answered depends on what was executed before, and nothing else may.
        session.use_at(request.session, used, &mut self.ages);
        session.executed(request.sequence, request.answered);
        session.trim(most);
        match may_ask {
            true => Ok(ask()),
            false => Err(Standing::Dropped),
        }
    }

    /// How many bytes of answers a session may keep. Between the openings and closings of sessions
    /// it is one number, so that it does not matter in which order others are executed there; and
    /// it changes only when the number of sessions has doubled or halved, which is rare.
    fn answer_bytes_each(&self) -> usize {
        let share = ALL_ANSWER_BYTES / self.open.max(1).next_power_of_two();
        share.min(ANSWER_BYTES)
    }

    /// Whether a session is open.
    pub fn is_open(&self, session: SessionId) -> bool {
        self.session(session).is_some()
    }

    /// How many sessions have been opened so far: what a request to open another must say.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Opens a session; opening it again changes nothing. `seen` is [`Sessions::opened`] of the
    /// replica that took the request, when it did, or that told the client.
    ///
    /// False if a session of this client younger than that has been forgotten, for it may have been
    /// this one, and if it was closed: a late copy of the request that opened it must not open it
    /// again, for late copies of its commands would then be executed twice. False, too, if nobody
    /// can have seen so many, for a late copy of that request would never be too late.
    pub fn open(&mut self, session: SessionId, seen: u64) -> bool {
        if let Some(known) = self.table.get(&session) {
            return !known.closed;
        }
        let client = self.clients.get(&session.client);
        let forgotten = client.map_or(0, |client| client.forgotten);
        if seen < forgotten.max(self.forgotten) || seen > self.opened {
            return false;
        }
        if client.is_some_and(|client| client.sessions >= SESSIONS_PER_CLIENT) {
            self.forget_one_of(session.client);
        } else if self.table.len() >= MAX_SESSIONS {
            self.forget_one_of_the_most();
        }
        self.opened += 1;
        self.open += 1;
        let count = &mut self.clients.entry(session.client).or_default().sessions;
        *count += 1;
        self.ages.count(session.client, *count - 1, *count);
        let new = Session {
            since: self.opened,
            used: self.opened,
            ..Session::default()
        };
        self.ages.sessions.insert(new.age(session));
        self.table.insert(session, new);
        if (self.open - 1).is_power_of_two() {
            self.trim();
        }
        true
    }

    /// The share of each has become smaller.
    fn trim(&mut self) {
        let most = self.answer_bytes_each();
        for session in self.table.values_mut() {
            session.trim(most);
        }
    }

    /// Forgets a session of the client that has the most: no other can make it forget one.
    fn forget_one_of_the_most(&mut self) {
        if let Some(key) = self.ages.of_the_most() {
            self.forget_one_of(key);
        }
    }

    /// Forgets the closed or else open session that a client has not used for longest.
    fn forget_one_of(&mut self, client: PublicKey) {
        let oldest = self.ages.oldest_of(client);
        let Some((id, forgotten)) = oldest.and_then(|id| Some((id, self.table.remove(&id)?)))
        else {
            return;
        };
        self.ages.sessions.remove(&forgotten.age(id));
        self.open -= usize::from(!forgotten.closed);
        if let Some(holder) = self.clients.get_mut(&client) {
            holder.sessions -= 1;
            self.ages
                .count(client, holder.sessions + 1, holder.sessions);
            holder.forgotten = holder.forgotten.max(forgotten.since);
            if holder.sessions == 0 {
                self.forgotten = self.forgotten.max(holder.forgotten);
                self.clients.remove(&client);
            }
        }
    }

    /// Closes a session, whose client has all answers. What is left of it takes next to nothing.
    pub fn close(&mut self, session: SessionId) {
        let (id, used) = (session, self.opened);
        if let Some(session) = self.table.get_mut(&id)
            && !session.closed
        {
            self.ages.sessions.remove(&session.age(id));
            session.close(used);
            self.ages.sessions.insert(session.age(id));
            self.open -= 1;
        }
    }

    /// How many bytes of answers are kept, with what they take beside.
    pub fn answer_bytes(&self) -> usize {
        self.table
            .values()
            .map(|session| session.answer_bytes)
            .sum()
    }

    /// How many sessions are remembered.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no session is remembered.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

#[cfg(test)]
mod tests;
