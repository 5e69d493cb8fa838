//! Queries that every replica answers at once, from what it has executed.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_core::consensus::ReadError;
use quorate_core::id::{ReplicaId, ReplicaSet};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::client_wire::Ask;

/// A query, who waits for its answer, and until when.
pub(super) type Unanswered = (Bytes, oneshot::Sender<Result<Bytes, ReadError>>, Instant);

/// An answer, with the number of entries executed before it was given.
type Answer = (u64, Bytes);

/// The queries that wait for equal answers.
pub(super) struct Peeks {
    /// How many replicas must give the same answer at the same point.
    needed: usize,
    next: u64,
    /// By number, and so by when they are due.
    waiting: BTreeMap<u64, Peek>,
}

struct Peek {
    query: Bytes,
    caller: oneshot::Sender<Result<Bytes, ReadError>>,
    deadline: Instant,
    /// When it is no longer waited for that enough replicas answer.
    due: Instant,
    asked: ReplicaSet,
    answers: BTreeMap<ReplicaId, Answer>,
}

impl Peeks {
    pub(super) fn new(needed: usize) -> Self {
        Peeks {
            needed,
            next: 0,
            waiting: BTreeMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// When to call [`Peeks::give_up`].
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().next().map(|peek| peek.due)
    }

    pub(super) fn add(
        &mut self,
        query: Bytes,
        caller: oneshot::Sender<Result<Bytes, ReadError>>,
        (due, deadline): (Instant, Instant),
    ) {
        let peek = Peek {
            query,
            caller,
            deadline,
            due,
            asked: ReplicaSet::EMPTY,
            answers: BTreeMap::new(),
        };
        self.waiting.insert(self.next, peek);
        self.next += 1;
    }

    /// What is yet to be asked of a replica.
    pub(super) fn unasked(&mut self, replica: ReplicaId) -> Vec<Ask> {
        let unasked = self.waiting.iter_mut();
        let unasked = unasked.filter(|(_, peek)| !peek.asked.contains(replica));
        let ask = |(number, peek): (&u64, &mut Peek)| {
            peek.asked.insert(replica);
            Ask::Peek(*number, peek.query.clone())
        };
        unasked.map(ask).collect()
    }

    /// A replica is connected anew: what it was asked before may be lost.
    pub(super) fn ask_again(&mut self, replica: ReplicaId) {
        for peek in self.waiting.values_mut() {
            peek.asked.remove(replica);
        }
    }

    /// Takes an answer; if enough are equal, it is the caller's.
    pub(super) fn answer(&mut self, from: ReplicaId, number: u64, answer: Answer) {
        let Some(peek) = self.waiting.get_mut(&number) else {
            return;
        };
        let equal = peek.answers.iter();
        let equal = equal.filter(|(replica, other)| **replica != from && **other == answer);
        if equal.count() + 1 < self.needed {
            peek.answers.insert(from, answer);
        } else if let Some(peek) = self.waiting.remove(&number) {
            drop(peek.caller.send(Ok(answer.1)));
        }
    }

    /// Takes out the queries that so many replicas answer differently that no answer can become
    /// the one of enough.
    pub(super) fn split(&mut self, n: usize) -> Vec<Unanswered> {
        let needed = self.needed;
        self.take(|peek| {
            let most = peek.answers.values().map(|answer| {
                let equal = peek.answers.values().filter(|other| *other == answer);
                equal.count()
            });
            most.max().unwrap_or(0) + n - peek.answers.len() < needed
        })
    }

    /// Takes out the queries that enough replicas have had the time to answer, and have not.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<Unanswered> {
        self.take(|peek| peek.due <= now)
    }

    fn take(&mut self, when: impl Fn(&Peek) -> bool) -> Vec<Unanswered> {
        let taken = self.waiting.extract_if(.., |_, peek| when(peek));
        taken
            .map(|(_, peek)| (peek.query, peek.caller, peek.deadline))
            .collect()
    }
}
