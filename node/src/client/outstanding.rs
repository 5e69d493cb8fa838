//! What a client has asked and not been answered.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::consensus::{ProposeError, ReadError, ReadLevel};
use quorate_core::request::{Batch, BatchBuilder, Operation, Request, SessionId};
use quorate_core::session::WINDOW;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Report;
use crate::client_wire::Ask;

/// The sequence that opens a session.
const OPEN: u64 = 0;

/// How many bytes of requests make a batch.
const BATCH: usize = 1 << 20;

/// How many bytes of commands may be sent and not answered; more waits here. A connection's queue
/// must hold them all at once, for a full one counts as a lost connection.
const IN_FLIGHT: usize = 16 << 20;

/// The commands of a session, from the caller to the answer.
pub(super) struct Commands {
    session: SessionId,
    standing: Standing,
    next: u64,
    /// By sequence, and so by deadline.
    waiting: BTreeMap<u64, Command>,
    /// The first sequence not yet sent over the connection that is up.
    first_unsent: u64,
    /// The bytes of commands sent over that connection and not answered.
    in_flight: usize,
    /// When to send again what was refused.
    again: Option<Instant>,
}

/// Whether the session is open.
#[derive(PartialEq, Eq)]
enum Standing {
    Closed,
    Opening,
    Open,
}

struct Command {
    command: Bytes,
    caller: oneshot::Sender<Result<Bytes, ProposeError>>,
    deadline: Instant,
    /// How often it was sent.
    sent: u32,
}

/// How long to wait before a refused command is sent again.
const REFUSED: Duration = Duration::from_millis(50);

impl Commands {
    pub(super) fn new(session: SessionId) -> Self {
        Commands {
            session,
            standing: Standing::Closed,
            next: OPEN + 1,
            waiting: BTreeMap::new(),
            first_unsent: OPEN + 1,
            in_flight: 0,
            again: None,
        }
    }

    /// Whether another command fits in the window.
    pub(super) fn has_room(&self) -> bool {
        let first = self.waiting.keys().next().copied().unwrap_or(self.next);
        self.next - first < WINDOW / 2
    }

    pub(super) fn add(
        &mut self,
        command: Bytes,
        caller: oneshot::Sender<Result<Bytes, ProposeError>>,
        deadline: Instant,
    ) {
        let command = Command {
            command,
            caller,
            deadline,
            sent: 0,
        };
        self.waiting.insert(self.next, command);
        self.next += 1;
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
        if self.standing == Standing::Opening {
            self.standing = Standing::Closed;
        }
    }

    /// When to call [`Commands::ask_again`].
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
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
        let answered = self.waiting.keys().next().copied().unwrap_or(self.next);
        let session = self.session;
        let mut asks = Vec::new();
        let mut builder = BatchBuilder::default();
        let mut first_unsent = self.next;
        for (sequence, command) in self.waiting.range_mut(self.first_unsent..) {
            if self.in_flight >= IN_FLIGHT {
                first_unsent = *sequence;
                break;
            }
            self.in_flight += command.command.len();
            command.sent += 1;
            builder.push(Request {
                session,
                sequence: *sequence,
                answered,
                operation: Operation::Apply(&command.command),
            });
            if builder.size() >= BATCH {
                asks.push(Ask::Propose(std::mem::take(&mut builder).finish()));
            }
        }
        if !builder.is_empty() {
            asks.push(Ask::Propose(builder.finish()));
        }
        self.first_unsent = first_unsent;
        asks
    }

    /// A command of this sequence and length waits no more.
    fn landed(&mut self, sequence: u64, bytes: usize) {
        if sequence < self.first_unsent {
            self.in_flight = self.in_flight.saturating_sub(bytes);
        }
    }

    fn open(&mut self) -> Vec<Ask> {
        if self.standing == Standing::Opening {
            return Vec::new();
        }
        self.standing = Standing::Opening;
        let open = Request {
            session: self.session,
            sequence: OPEN,
            answered: OPEN,
            operation: Operation::Open,
        };
        vec![Ask::Propose(Batch::of_one(open))]
    }

    /// Takes an answer. True if the session must be given up.
    pub(super) fn answer(
        &mut self,
        session: u64,
        sequence: u64,
        result: Result<Bytes, ProposeError>,
    ) -> bool {
        if session != self.session.number {
            return false;
        }
        if sequence == OPEN {
            match result {
                Ok(_) => self.standing = Standing::Open,
                Err(_) => self.again = Some(Instant::now() + REFUSED),
            }
            return false;
        }
        let Some(command) = self.waiting.get_mut(&sequence) else {
            return false;
        };
        if result == Err(ProposeError::Overloaded) && command.sent > 1 {
            // It may have been taken when it was sent before: only an answer can tell.
            self.again.get_or_insert(Instant::now() + REFUSED);
            return false;
        }
        let result = match result {
            // Another replica, with another limit, may have taken it.
            Err(ProposeError::TooLarge { .. }) if command.sent > 1 => Err(ProposeError::Unknown),
            result => result,
        };
        let expired = result == Err(ProposeError::SessionExpired);
        if let Some(command) = self.waiting.remove(&sequence) {
            self.landed(sequence, command.command.len());
            drop(command.caller.send(result));
        }
        expired
    }

    /// Starts over in another session: what was sent in this one has an unknown outcome, what was
    /// not is kept.
    pub(super) fn reopen(&mut self, session: SessionId) {
        let old = std::mem::replace(self, Commands::new(session));
        for command in old.waiting.into_values() {
            if command.sent > 0 {
                drop(command.caller.send(Err(ProposeError::SessionExpired)));
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
            self.landed(sequence, command.command.len());
            let error = match command.sent {
                0 => ProposeError::Unreachable(String::from(reason)),
                _ => ProposeError::Unknown,
            };
            drop(command.caller.send(Err(error)));
        }
    }
}

/// Questions that change nothing, and may be asked again at will.
#[derive(Default)]
pub(super) struct Questions {
    next: u64,
    /// By number, and so by deadline.
    waiting: BTreeMap<u64, Question>,
    /// The first number not yet sent over the connection that is up.
    first_unsent: u64,
}

struct Question {
    kind: Kind,
    deadline: Instant,
    sent: bool,
}

/// What is asked, and who waits for the answer.
pub(super) enum Kind {
    Read(Bytes, ReadLevel, oneshot::Sender<Result<Bytes, ReadError>>),
    Status(bool, oneshot::Sender<Result<Report, ReadError>>),
}

impl Questions {
    pub(super) fn add(&mut self, kind: Kind, deadline: Instant) {
        self.waiting.insert(
            self.next,
            Question {
                kind,
                deadline,
                sent: false,
            },
        );
        self.next += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let first = self.waiting.values().next();
        first.map(|question| question.deadline)
    }

    pub(super) fn renew(&mut self) {
        self.first_unsent = 0;
    }

    pub(super) fn unsent(&mut self) -> Vec<Ask> {
        let unsent = self.waiting.range_mut(self.first_unsent..);
        self.first_unsent = self.next;
        let ask = |(number, question): (&u64, &mut Question)| {
            question.sent = true;
            match &question.kind {
                Kind::Read(query, level, _) => Ask::Read(*number, *level, query.clone()),
                Kind::Status(digest, _) => Ask::Status(*number, *digest),
            }
        };
        unsent.map(ask).collect()
    }

    pub(super) fn read(&mut self, number: u64, result: Result<Bytes, ReadError>) {
        if let Some(Question { kind, .. }) = self.waiting.remove(&number)
            && let Kind::Read(.., caller) = kind
        {
            drop(caller.send(result));
        }
    }

    pub(super) fn status(&mut self, number: u64, report: Report) {
        if let Some(Question { kind, .. }) = self.waiting.remove(&number)
            && let Kind::Status(_, caller) = kind
        {
            drop(caller.send(Ok(report)));
        }
    }

    /// Ends the questions whose deadline has passed; `reason` says why nothing could be sent.
    pub(super) fn expire(&mut self, now: Instant, reason: &str) {
        for (_, question) in self.waiting.extract_if(.., |_, q| q.deadline <= now) {
            let error = match question.sent {
                true => ReadError::Timeout,
                false => ReadError::Unreachable(String::from(reason)),
            };
            match question.kind {
                Kind::Read(.., caller) => drop(caller.send(Err(error))),
                Kind::Status(_, caller) => drop(caller.send(Err(error))),
            }
        }
    }
}
