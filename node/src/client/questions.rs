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
    /// How often it was sent, and when first.
    sent: u32,
    first_sent: Option<Instant>,
}

/// What is asked, and who waits for the answer.
pub(super) enum Kind {
    Read(Bytes, ReadLevel, oneshot::Sender<Result<Bytes, ReadError>>),
    Status(bool, oneshot::Sender<Result<Report, ReadError>>),
}

impl Question {
    fn ask(&mut self, number: u64, now: Instant) -> Ask {
        self.sent += 1;
        self.first_sent.get_or_insert(now);
        match &self.kind {
            Kind::Read(query, level, _) => Ask::Read(number, *level, query.clone()),
            Kind::Status(digest, _) => Ask::Status(number, *digest),
        }
    }

    fn is_for_any(&self) -> bool {
        matches!(self.kind, Kind::Read(_, ReadLevel::Linearizable, _))
    }
}

impl Questions {
    pub(super) fn add(&mut self, kind: Kind, deadline: Instant) {
        self.waiting.insert(
            self.next,
            Question {
                kind,
                deadline,
                sent: 0,
                first_sent: None,
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
        let (first, now) = (self.first_unsent, Instant::now());
        self.first_unsent = self.next;
        let unsent = self.waiting.range_mut(first..);
        unsent.map(|(n, question)| question.ask(*n, now)).collect()
    }

    /// The reads that were sent and are not answered, to be asked of another replica as well: not
    /// those that are about one replica.
    pub(super) fn late(&mut self) -> Vec<Ask> {
        let now = Instant::now();
        let sent = self.waiting.range_mut(..self.first_unsent);
        let late = sent.filter(|(_, question)| question.is_for_any());
        late.map(|(n, question)| question.ask(*n, now)).collect()
    }

    /// When a read was sent that any replica may answer, if it waits and was sent once only.
    pub(super) fn sent_once(&self, number: u64) -> Option<Instant> {
        let question = self.waiting.get(&number)?;
        let once = question.sent == 1 && question.is_for_any();
        question.first_sent.filter(|_| once)
    }

    /// Whether a read waits that any replica may answer.
    pub(super) fn waits_for(&self, number: u64) -> bool {
        let question = self.waiting.get(&number);
        question.is_some_and(Question::is_for_any)
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
                0 => ReadError::Unreachable(String::from(reason)),
                _ => ReadError::Timeout,
            };
            match question.kind {
                Kind::Read(.., caller) => drop(caller.send(Err(error))),
                Kind::Status(_, caller) => drop(caller.send(Err(error))),
            }
        }
    }
}
