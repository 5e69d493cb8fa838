//! Exactly once: the replicated table of sessions.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::request::{Request, SessionId};

/// How far a client may run ahead of its oldest request without an answer.
pub const WINDOW: u64 = 4096;

/// How many bytes of answers a session keeps, though always the last one. A client that takes in
/// what it is told ([`Request::answered`]) never has that many outstanding.
pub const ANSWER_BYTES: usize = 1 << 20;

/// How many sessions are kept. Opening one more forgets the one unused for the most openings.
pub const MAX_SESSIONS: usize = 16_384;

/// What has been executed for whom, with the answers. \[Ongaro14 §6.3\]
///
/// The table is replicated state: part of every snapshot, and equal on all replicas that have
/// executed the same entries. It does not depend on the order in which commands of one session
/// inside its [`WINDOW`] were executed, for a protocol that orders only what conflicts may
/// execute them in either order. Opening a session conflicts with everything, so that its effects
/// on others (the age of sessions, and which is forgotten) are at the same point of every
/// replica's order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    opened: u64,
    /// The highest [`Session::since`] of all that were forgotten.
    forgotten: u64,
    table: BTreeMap<SessionId, Session>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    /// How many sessions had been opened when this one was, itself included.
    since: u64,
    /// How many sessions had been opened when this one was last used.
    used: u64,
    /// The highest sequence executed.
    highest: u64,
    /// All through this one are executed, or too old to be.
    through: u64,
    /// What else is executed.
    beyond: BTreeSet<u64>,
    /// Answers below this one are not kept: they have reached the client, or were too many.
    answered: u64,
    answers: BTreeMap<u64, Bytes>,
    answer_bytes: usize,
}

impl Session {
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

    /// Records an answer, and that the client has all answers below `answered`.
    fn executed(&mut self, sequence: u64, answered: u64, answer: Bytes) {
        self.highest = self.highest.max(sequence);
        self.answered = self.answered.max(answered);
        self.answer_bytes += answer.len();
        self.answers.insert(sequence, answer);
        self.beyond.insert(sequence);
        let too_old = self.highest.saturating_sub(WINDOW);
        self.through = self.through.max(too_old);
        while let Some(first) = self.beyond.first().copied()
            && first <= self.through + 1
        {
            self.beyond.pop_first();
            self.through = self.through.max(first);
        }
        self.answered = self.answered.max(too_old + 1);
        while let Some((first, _)) = self.answers.first_key_value()
            && (*first < self.answered || self.keeps_too_much())
        {
            self.forget_first_answer();
        }
    }

    fn keeps_too_much(&self) -> bool {
        self.answer_bytes > ANSWER_BYTES && self.answers.len() > 1
    }

    /// What is below a forgotten answer is not kept either, in whatever order it comes.
    fn forget_first_answer(&mut self) {
        if let Some((sequence, answer)) = self.answers.pop_first() {
            self.answered = self.answered.max(sequence + 1);
            self.answer_bytes -= answer.len();
        }
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
    /// The session is unknown.
    Expired,
}

impl Sessions {
    /// Where a request stands.
    pub fn standing(&self, session: SessionId, sequence: u64) -> Standing {
        let session = self.table.get(&session);
        session.map_or(Standing::Expired, |session| session.standing(sequence))
    }

    /// Executes a request by `apply`, unless it must not be: then where it stands, which is never
    /// [`Standing::New`].
    pub fn execute(
        &mut self,
        request: &Request<'_>,
        apply: impl FnOnce() -> Bytes,
    ) -> Result<Bytes, Standing> {
        let used = self.opened;
        let Some(session) = self.table.get_mut(&request.session) else {
            return Err(Standing::Expired);
        };
        match session.standing(request.sequence) {
            Standing::New => {
                let answer = apply();
                session.used = used;
                session.executed(request.sequence, request.answered, answer.clone());
                Ok(answer)
            }
            standing => Err(standing),
        }
    }

    /// Whether a session is open.
    pub fn is_open(&self, session: SessionId) -> bool {
        self.table.contains_key(&session)
    }

    /// How many sessions have been opened so far: what a request to open another must say.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Opens a session; opening it again changes nothing. `seen` is [`Sessions::opened`] of the
    /// replica that took the request, when it did, or that told the client.
    ///
    /// False if a session younger than that has been forgotten, for it may have been this one:
    /// a late copy of the request that opened it must not open it again, for late copies of its
    /// commands would then be executed twice. False, too, if nobody can have seen so many, for a
    /// late copy of that request would never be too late.
    pub fn open(&mut self, session: SessionId, seen: u64) -> bool {
        if self.table.contains_key(&session) {
            return true;
        }
        if seen < self.forgotten || seen > self.opened {
            return false;
        }
        self.opened += 1;
        if self.table.len() >= MAX_SESSIONS {
            let oldest = self.table.iter().min_by_key(|(id, s)| (s.used, **id));
            if let Some(id) = oldest.map(|(id, _)| *id)
                && let Some(forgotten) = self.table.remove(&id)
            {
                self.forgotten = self.forgotten.max(forgotten.since);
            }
        }
        let new = Session {
            since: self.opened,
            used: self.opened,
            ..Session::default()
        };
        self.table.insert(session, new);
        true
    }

    /// How many sessions are open.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::PublicKey;
    use crate::request::Operation;

    fn id(number: u64) -> SessionId {
        SessionId {
            client: PublicKey([1; 32]),
            number,
        }
    }

    fn answer(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn execute(
        sessions: &mut Sessions,
        number: u64,
        sequence: u64,
        answered: u64,
        text: &'static str,
    ) {
        let request = Request {
            session: id(number),
            sequence,
            answered,
            operation: Operation::Apply(b""),
        };
        assert_eq!(
            sessions.execute(&request, || answer(text)),
            Ok(answer(text))
        );
        let again = sessions.execute(&request, || answer("again"));
        assert_ne!(again, Ok(answer("again")), "{request:?}");
    }

    #[test]
    fn a_request_is_new_once() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.standing(id(1), 1), Standing::Expired);
        assert!(sessions.open(id(1), 0));
        assert_eq!(sessions.standing(id(1), 1), Standing::New);
        execute(&mut sessions, 1, 1, 0, "one");
        assert!(sessions.open(id(1), 0));
        assert_eq!(
            sessions.standing(id(1), 1),
            Standing::Executed(answer("one"))
        );
    }

    #[test]
    fn order_inside_the_window_does_not_matter() {
        let run = |order: [(u64, u64); 3]| {
            let mut sessions = Sessions::default();
            assert!(sessions.open(id(1), 0));
            for (sequence, answered) in order {
                execute(&mut sessions, 1, sequence, answered, "x");
            }
            sessions
        };
        let one = run([(1, 0), (2, 1), (3, 2)]);
        assert_eq!(one, run([(3, 2), (1, 0), (2, 1)]));
        assert_eq!(one.standing(id(1), 1), Standing::Dropped);
        assert_eq!(one.standing(id(1), 2), Standing::Executed(answer("x")));
    }

    #[test]
    fn answers_are_kept_for_a_window() {
        let mut sessions = Sessions::default();
        assert!(sessions.open(id(1), 0));
        for sequence in 1..=WINDOW + 10 {
            execute(&mut sessions, 1, sequence, 0, "x");
        }
        assert_eq!(sessions.standing(id(1), 10), Standing::Dropped);
        assert_eq!(
            sessions.standing(id(1), 11),
            Standing::Executed(answer("x"))
        );
    }

    #[test]
    fn answers_that_are_too_large_are_dropped_in_any_order_alike() {
        let large = Bytes::from(vec![b'x'; ANSWER_BYTES / 2 + 1]);
        let run = |order: [u64; 3]| {
            let mut sessions = Sessions::default();
            assert!(sessions.open(id(1), 0));
            for sequence in order {
                let request = Request {
                    session: id(1),
                    sequence,
                    answered: 0,
                    operation: Operation::Apply(b""),
                };
                let answer = if sequence == 1 {
                    answer("x")
                } else {
                    large.clone()
                };
                assert_eq!(sessions.execute(&request, || answer.clone()), Ok(answer));
            }
            sessions
        };
        let one = run([1, 2, 3]);
        for order in [[1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
            assert_eq!(one, run(order), "{order:?}");
        }
        assert_eq!(one.standing(id(1), 1), Standing::Dropped);
        assert_eq!(one.standing(id(1), 2), Standing::Dropped);
        assert_eq!(one.standing(id(1), 3), Standing::Executed(large));
    }

    #[test]
    fn the_session_longest_unused_is_forgotten() {
        let mut sessions = Sessions::default();
        for number in 0..MAX_SESSIONS as u64 {
            assert!(sessions.open(id(number), number));
        }
        execute(&mut sessions, 0, 1, 0, "x");
        assert!(sessions.open(id(u64::MAX), sessions.opened()));
        assert_eq!(sessions.len(), MAX_SESSIONS);
        assert_eq!(sessions.standing(id(1), 1), Standing::Expired);
        assert_ne!(sessions.standing(id(0), 2), Standing::Expired);
    }

    #[test]
    fn a_late_copy_of_an_opening_does_not_bring_a_forgotten_session_back() {
        let mut sessions = Sessions::default();
        assert!(sessions.open(id(0), 0));
        execute(&mut sessions, 0, 1, 0, "x");
        for number in 1..=MAX_SESSIONS as u64 {
            assert!(sessions.open(id(number), sessions.opened()));
        }
        assert_eq!(sessions.standing(id(0), 1), Standing::Expired);
        assert!(!sessions.open(id(0), 0));
        assert_eq!(sessions.standing(id(0), 1), Standing::Expired);
        assert!(sessions.open(id(u64::MAX), sessions.opened()));
    }
}
