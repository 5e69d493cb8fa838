//! What a client has asked of one replica, changes nothing, and is not answered yet.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_core::consensus::{ReadError, ReadLevel};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Report;
use crate::client_wire::Ask;

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
