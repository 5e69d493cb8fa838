//! The requests of a client's session that have not been answered.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::consensus::ProposeError;
use quorate_core::crypto::Signer;
use quorate_core::id::ReplicaId;
use quorate_core::request::{Batch, BatchBuilder, GROUP_BYTES, Operation, Request, SessionId};
use quorate_core::session::WINDOW;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::back_off::BackOff;
use super::command::{Caller, Votes, What};
use crate::client_wire::Ask;

/// The sequence that opens a session.
const OPEN: u64 = 0;

/// How many bytes of requests that need no signature make a batch.
const BATCH: usize = 1 << 20;

/// How many bytes of requests may be sent and not answered; more waits here. A connection's queue
/// must hold them all at once, for a full one counts as a lost connection.
const IN_FLIGHT: usize = 16 << 20;

/// What a client must do, and wait for, to be safe from replicas that lie.
#[derive(Clone)]
pub(super) struct Trust {
    /// How many replicas must give the same answer.
    pub(super) needed: usize,
    /// Signs the requests, if the replicas demand it.
    pub(super) signer: Option<Signer>,
}

/// The commands of a session, and queries ordered like commands, from the caller to the answer.
pub(super) struct Commands {
    session: SessionId,
    trust: Trust,
    standing: Standing,
    /// How many sessions have been opened; who signs must say it to open another, and never says
    /// anything else of the same: the request that opens a session and speaks of more than had
    /// been opened before it would open it again when it has been forgotten.
    seen: Option<u64>,
    /// Whether that has been signed.
    said: bool,
    opening: Votes,
    /// The first sequence whose outcome is unknown for good.
    lost: Option<u64>,
    next: u64,
    /// By sequence, and so by deadline.
    waiting: BTreeMap<u64, Command>,
    /// The first sequence not yet sent over the connection that is up.
    first_unsent: u64,
    /// The bytes of commands sent over that connection and not answered.
    in_flight: usize,
    /// The sequences of each group that was signed and may be unanswered, since that connection is
    /// up.
    groups: VecDeque<Range<u64>>,
    /// When to send again what was refused.
    again: Option<Instant>,
    /// How long after the refusal.
    refused: BackOff,
}

/// Whether the session is open.
#[derive(PartialEq, Eq)]
enum Standing {
    Closed,
    Opening,
    Open,
}

struct Command {
    what: What,
    caller: Caller,
    deadline: Instant,
    /// How often it was sent, and when first.
    sent: u32,
    first_sent: Option<Instant>,
    votes: Votes,
}

/// How many groups of signed requests a client has under way: with one, the next would wait until
/// the last request of it is answered, and what replicas order at once would be half of what waits.
/// `docs/performance.md` compares.
const GROUPS: usize = 3;

/// How long to wait before a refused command is sent again the first time, and at most.
const REFUSED: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

impl Commands {
    pub(super) fn new(session: SessionId, trust: Trust) -> Self {
        Commands {
            session,
            trust,
            seen: None,
            said: false,
            opening: Votes::default(),
            lost: None,
            standing: Standing::Closed,
            next: OPEN + 1,
            waiting: BTreeMap::new(),
            first_unsent: OPEN + 1,
            in_flight: 0,
            groups: VecDeque::new(),
            again: None,
            refused: BackOff::new(REFUSED.0, REFUSED.1),
        }
    }

    /// The session, which changes when it has to be given up.
    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// Whether requests are signed.
    pub(super) fn signs(&self) -> bool {
        self.trust.signer.is_some()
    }

    /// Whether another command fits in the window.
    pub(super) fn has_room(&self) -> bool {
        let first = self.waiting.keys().next().copied();
        let first = first.into_iter().chain(self.lost).min();
        self.next - first.unwrap_or(self.next) < WINDOW / 2
    }

    /// Whether the session is to be given up: a command of unknown outcome may still be executed
    /// by those replicas only that have not executed too many after it, where order is free.
    pub(super) fn is_spent(&self) -> bool {
        self.waiting.is_empty() && !self.has_room()
    }

    /// `seen` sessions have been opened.
    pub(super) fn seen(&mut self, seen: u64) {
        if !self.said {
            self.seen = Some(seen);
        }
    }

    pub(super) fn add(&mut self, what: What, caller: Caller, deadline: Instant) {
        let command = Command {
            what,
            caller,
            deadline,
            sent: 0,
            first_sent: None,
            votes: Votes::default(),
        };
        self.waiting.insert(self.next, command);
        self.next += 1;
    }

    /// Closes the session, if it is open and nothing waits.
    pub(super) fn close(
        &mut self,
        caller: oneshot::Sender<Result<Bytes, ProposeError>>,
        deadline: Instant,
    ) {
        let caller = Caller::Propose(caller);
        match self.standing == Standing::Open && self.waiting.is_empty() {
            true => self.add(What::Close, caller, deadline),
            false => caller.tell(Ok(Bytes::new())),
        }
    }

    /// The sequence that has waited longest for its answer.
    pub(super) fn oldest(&self) -> Option<u64> {
        match self.standing {
            Standing::Open => self.waiting.keys().next().copied(),
            Standing::Closed | Standing::Opening => Some(OPEN),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The earliest deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().next().map(|command| command.deadline)
    }

    /// A new connection is up: all is to be sent over it.
    pub(super) fn renew(&mut self) {
        self.first_unsent = OPEN + 1;
        self.in_flight = 0;
        self.groups.clear();
        if self.standing == Standing::Opening {
            self.standing = Standing::Closed;
        }
    }

    /// When to call [`Commands::ask_again`].
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Something was refused, and may be taken later.
    fn refused(&mut self) {
        if self.again.is_none() {
            self.again = Some(Instant::now() + self.refused.wait());
            self.refused.double();
        }
    }

    /// Sends again what was refused a while ago.
    pub(super) fn ask_again(&mut self, now: Instant) {
        if self.again.is_some_and(|at| at <= now) {
            self.again = None;
            self.renew();
        }
    }

    /// Everything not yet sent over the connection that is up, or the request that opens the
    /// session if it is not known to be open.
    pub(super) fn unsent(&mut self) -> Vec<Ask> {
        if self.standing != Standing::Open {
            return self.open();
        }
        if self.is_held_back() {
            return Vec::new();
        }
        let mut first_unsent = self.next;
        for (sequence, command) in self.waiting.range(self.first_unsent..) {
            if self.in_flight >= IN_FLIGHT {
                first_unsent = *sequence;
                break;
            }
            self.in_flight += command.what.len();
        }
        let unsent = self.first_unsent..first_unsent;
        let asks = self.send(unsent.clone());
        if self.signs() && !unsent.is_empty() {
            self.groups.push_back(unsent);
        }
        self.first_unsent = first_unsent;
        asks
    }

    /// All that was sent and is not answered, to be asked of another replica as well.
    pub(super) fn late(&mut self) -> Vec<Ask> {
        match self.standing {
            Standing::Closed => Vec::new(),
            Standing::Opening => {
                self.standing = Standing::Closed;
                self.open()
            }
            Standing::Open => self.send(OPEN + 1..self.first_unsent),
        }
    }

    /// The commands in a range of sequences, in batches.
    fn send(&mut self, range: Range<u64>) -> Vec<Ask> {
        let answered = self.waiting.keys().next().copied().unwrap_or(self.next);
        let (session, limit, now) = (self.session, self.batch_bytes(), Instant::now());
        let mut batches = Vec::new();
        let mut builder = BatchBuilder::default();
        for (sequence, command) in self.waiting.range_mut(range) {
            command.sent += 1;
            command.first_sent.get_or_insert(now);
            if !builder.is_empty() && builder.size() + command.what.len() > limit {
                batches.push(std::mem::take(&mut builder).finish());
            }
            builder.push(Request {
                session,
                sequence: *sequence,
                answered,
                operation: command.what.operation(),
            });
        }
        if !builder.is_empty() {
            batches.push(builder.finish());
        }
        batches.into_iter().map(|batch| self.ask(batch)).collect()
    }

    /// A signature is worth the more, the more requests are under it: what comes while so many
    /// groups are on their way makes the next one.
    fn is_held_back(&mut self) -> bool {
        let waiting = &self.waiting;
        let is_under_way = |group: &Range<u64>| waiting.range(group.clone()).next().is_some();
        self.groups.retain(is_under_way);
        self.groups.len() >= GROUPS
    }

    fn batch_bytes(&self) -> usize {
        match self.trust.signer {
            Some(_) => GROUP_BYTES,
            None => BATCH,
        }
    }

    fn ask(&self, batch: Batch) -> Ask {
        Ask::Propose(match &self.trust.signer {
            Some(signer) => batch.signed(signer),
            None => batch,
        })
    }

    /// A command of this sequence and length waits no more.
    fn landed(&mut self, sequence: u64, bytes: usize) {
        if sequence < self.first_unsent {
            self.in_flight = self.in_flight.saturating_sub(bytes);
        }
    }

    fn open(&mut self) -> Vec<Ask> {
        let seen = match self.trust.signer {
            None => OPEN,
            Some(_) => match self.seen {
                Some(seen) => seen,
                None => return Vec::new(),
            },
        };
        if self.standing == Standing::Opening {
            return Vec::new();
        }
        (self.standing, self.said) = (Standing::Opening, true);
        let open = Request {
            session: self.session,
            sequence: OPEN,
            answered: seen,
            operation: Operation::Open,
        };
        vec![self.ask(Batch::of_one(open))]
    }

    /// When a command was sent, if it waits and was sent once only: of any other nobody knows which
    /// copy an answer is to.
    pub(super) fn sent_once(&self, (session, sequence): (u64, u64)) -> Option<Instant> {
        let command = self.waiting.get(&sequence)?;
        let once = session == self.session.number && command.sent == 1;
        command.first_sent.filter(|_| once)
    }

    /// Whether an answer is waited for: of a command, or the request that opens the session.
    pub(super) fn waits_for(&self, (session, sequence): (u64, u64)) -> bool {
        let opening = sequence == OPEN && self.standing == Standing::Opening;
        session == self.session.number && (opening || self.waiting.contains_key(&sequence))
    }

    /// Takes an answer. True if the session must be given up.
    ///
    /// Where replicas may lie, that one is overloaded is passed over, as if it were silent: what
    /// it asks for is to be asked again later, and so is what is not answered. A liar could have
    /// all that waits signed and sent over and over. To count f + 1 who say it would bring nothing:
    /// if the primary alone is overloaded no other has been asked, and if many are, to be asked
    /// earlier does not help them.
    pub(super) fn answer(
        &mut self,
        from: ReplicaId,
        (session, sequence): (u64, u64),
        result: Result<Bytes, ProposeError>,
    ) -> bool {
        if session != self.session.number {
            return false;
        }
        let overloaded = result.as_ref().is_err_and(ProposeError::is_overload);
        if self.trust.needed > 1 && overloaded {
            return false;
        }
        if sequence == OPEN {
            return self.opened(from, result);
        }
        let needed = self.trust.needed;
        let Some(command) = self.waiting.get_mut(&sequence) else {
            return false;
        };
        if overloaded && command.sent > 1 {
            // It may have been taken when it was sent before: only an answer can tell.
            self.refused();
            return false;
        }
        if !command.votes.add(from, &result, needed) {
            return false;
        }
        let result = match result {
            // Another replica, with another limit, may have taken it.
            Err(ProposeError::TooLarge { .. }) if command.sent > 1 && needed == 1 => {
                Err(ProposeError::Unknown)
            }
            result => result,
        };
        let mut expired = result == Err(ProposeError::SessionExpired);
        if let Some(command) = self.waiting.remove(&sequence) {
            expired |= matches!(command.what, What::Close) && result.is_ok();
            self.landed(sequence, command.what.len());
            command.caller.tell(result);
        }
        if !overloaded {
            self.refused.reset();
        }
        expired
    }

    /// Takes an answer to the request that opens the session.
    fn opened(&mut self, from: ReplicaId, result: Result<Bytes, ProposeError>) -> bool {
        if !self.opening.add(from, &result, self.trust.needed) {
            return false;
        }
        match result {
            Ok(_) => {
                self.standing = Standing::Open;
                self.refused.reset();
            }
            Err(error @ (ProposeError::Refused(_) | ProposeError::DiskFull)) => {
                self.end_all(&error);
            }
            // It was too late: there have been too many others since the count was taken.
            Err(ProposeError::SessionExpired) => return true,
            Err(_) => self.refused(),
        }
        false
    }

    fn end_all(&mut self, error: &ProposeError) {
        for command in std::mem::take(&mut self.waiting).into_values() {
            command.caller.tell(Err(error.clone()));
        }
        (self.standing, self.opening) = (Standing::Closed, Votes::default());
    }

    /// Starts over in another session: what was sent in this one has an unknown outcome, what was
    /// not is kept.
    pub(super) fn reopen(&mut self, session: SessionId) {
        let fresh = Commands::new(session, self.trust.clone());
        let old = std::mem::replace(self, fresh);
        for command in old.waiting.into_values() {
            if command.sent > 0 {
                command.caller.tell(Err(ProposeError::SessionExpired));
            } else {
                self.waiting.insert(self.next, command);
                self.next += 1;
            }
        }
    }

    /// Ends the commands whose deadline has passed; `reason` says why nothing could be sent.
    pub(super) fn expire(&mut self, now: Instant, reason: &str) {
        let expired = self.waiting.extract_if(.., |_, c| c.deadline <= now);
        for (sequence, command) in expired.collect::<Vec<_>>() {
            self.landed(sequence, command.what.len());
            let error = match command.sent {
                0 => ProposeError::Unreachable(String::from(reason)),
                _ => ProposeError::Unknown,
            };
            if error == ProposeError::Unknown {
                self.lost.get_or_insert(sequence);
            }
            command.caller.tell(Err(error));
        }
    }
}

#[cfg(test)]
mod tests;
