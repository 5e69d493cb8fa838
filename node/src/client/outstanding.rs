//! What a client has asked and not been answered.

use std::collections::BTreeMap;

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

/// How many bytes of requests make a frame.
const FRAME: usize = 1 << 20;

/// The commands of a session, from the caller to the answer.
pub(super) struct Commands {
    session: SessionId,
    opened: bool,
    next: u64,
    waiting: BTreeMap<u64, Command>,
}

struct Command {
    command: Bytes,
    caller: oneshot::Sender<Result<Bytes, ProposeError>>,
    deadline: Instant,
    /// Over how many connections it was sent.
    sent: u32,
    /// It was sent over the connection that is up now.
    fresh: bool,
}

impl Commands {
    pub(super) fn new(session: SessionId) -> Self {
        Commands {
            session,
            opened: false,
            next: OPEN + 1,
            waiting: BTreeMap::new(),
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
            fresh: false,
        };
        self.waiting.insert(self.next, command);
        self.next += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The earliest deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|command| command.deadline).min()
    }

    /// A new connection is up: all is to be sent over it.
    pub(super) fn renew(&mut self) {
        for command in self.waiting.values_mut() {
            command.fresh = false;
        }
    }

    /// Everything not yet sent over the connection that is up, or the request that opens the
    /// session if it is not known to be open.
    pub(super) fn to_send(&mut self) -> Vec<Ask> {
        if !self.opened {
            let open = self.request(OPEN, OPEN, Operation::Open);
            return vec![Ask::Propose(Batch::of_one(open))];
        }
        let answered = self.waiting.keys().next().copied().unwrap_or(self.next);
        let session = self.session;
        let mut asks = Vec::new();
        let mut builder = BatchBuilder::default();
        // What has not been sent is at the end, save after a new connection.
        for (sequence, command) in self.waiting.iter_mut().filter(|(_, c)| !c.fresh) {
            command.fresh = true;
            command.sent += 1;
            builder.push(Request {
                session,
                sequence: *sequence,
                answered,
                operation: Operation::Apply(&command.command),
            });
            if builder.size() >= FRAME {
                asks.push(Ask::Propose(std::mem::take(&mut builder).finish()));
            }
        }
        if !builder.is_empty() {
            asks.push(Ask::Propose(builder.finish()));
        }
        asks
    }

    fn request<'a>(&self, sequence: u64, answered: u64, operation: Operation<'a>) -> Request<'a> {
        Request {
            session: self.session,
            sequence,
            answered,
            operation,
        }
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
            self.opened |= result.is_ok();
            return false;
        }
        let Some(command) = self.waiting.get_mut(&sequence) else {
            return false;
        };
        if result == Err(ProposeError::Overloaded) && command.sent > 1 {
            // Over an earlier connection it may have been taken: only an answer can tell.
            return false;
        }
        let expired = result == Err(ProposeError::SessionExpired);
        if let Some(command) = self.waiting.remove(&sequence) {
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
        for (_, command) in self.waiting.extract_if(.., |_, c| c.deadline <= now) {
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
    waiting: BTreeMap<u64, Question>,
}

struct Question {
    kind: Kind,
    deadline: Instant,
    fresh: bool,
}

/// What is asked, and who waits for the answer.
pub(super) enum Kind {
    Read(
        Bytes,
        ReadLevel,
        oneshot::Sender<Result<Bytes, ReadError>>,
    ),
    Status(bool, oneshot::Sender<Result<Report, ReadError>>),
}

impl Questions {
    pub(super) fn add(&mut self, kind: Kind, deadline: Instant) {
        let question = Question {
            kind,
            deadline,
            fresh: false,
        };
        self.waiting.insert(self.next, question);
        self.next += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|question| question.deadline).min()
    }

    pub(super) fn renew(&mut self) {
        for question in self.waiting.values_mut() {
            question.fresh = false;
        }
    }

    pub(super) fn to_send(&mut self) -> Vec<Ask> {
        let fresh = self.waiting.iter_mut().filter(|(_, q)| !q.fresh);
        fresh
            .map(|(number, question)| {
                question.fresh = true;
                match &question.kind {
                    Kind::Read(query, level, _) => Ask::Read(*number, *level, query.clone()),
                    Kind::Status(digest, _) => Ask::Status(*number, *digest),
                }
            })
            .collect()
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

    pub(super) fn expire(&mut self, now: Instant, error: &ReadError) {
        for (_, question) in self.waiting.extract_if(.., |_, q| q.deadline <= now) {
            match question.kind {
                Kind::Read(.., caller) => drop(caller.send(Err(error.clone()))),
                Kind::Status(_, caller) => drop(caller.send(Err(error.clone()))),
            }
        }
    }
}
