//! Exactly once: the replicated table of sessions.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::request::SessionId;

/// How far a client may run ahead of its oldest request without an answer.
pub const WINDOW: u64 = 4096;

/// How many sessions are kept. Opening one more forgets the one unused for the most openings.
pub const MAX_SESSIONS: usize = 16_384;

/// What has been executed for whom, with the answers. [Ongaro14 §6.3]
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
    table: BTreeMap<SessionId, Session>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    /// How many sessions had been opened when this one was last used.
    used: u64,
    /// The highest sequence executed.
    highest: u64,
    /// All answers below this one have reached the client.
    answered: u64,
    answers: BTreeMap<u64, Bytes>,
}

impl Session {
    /// The first sequence that may still be executed, or whose answer is still kept.
    fn floor(&self) -> u64 {
        self.answered.max((self.highest + 1).saturating_sub(WINDOW))
    }

    fn trim(&mut self) {
        let floor = self.floor();
        while let Some(entry) = self.answers.first_entry() {
            if *entry.key() >= floor {
                break;
            }
            entry.remove();
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
        let Some(session) = self.table.get(&session) else {
            return Standing::Expired;
        };
        if let Some(answer) = session.answers.get(&sequence) {
            return Standing::Executed(answer.clone());
        }
        if sequence < session.floor() {
            return Standing::Dropped;
        }
        Standing::New
    }

    /// Opens a session; opening it again changes nothing.
    pub fn open(&mut self, session: SessionId) {
        if self.table.contains_key(&session) {
            return;
        }
        self.opened += 1;
        if self.table.len() >= MAX_SESSIONS {
            let oldest = self.table.iter().min_by_key(|(id, s)| (s.used, **id));
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.table.remove(&id);
            }
        }
        let used = self.opened;
        self.table.insert(
            session,
            Session {
                used,
                ..Session::default()
            },
        );
    }

    /// Records that a request was executed with `answer`, and that the client has all answers
    /// below `answered`.
    pub fn executed(&mut self, session: SessionId, sequence: u64, answered: u64, answer: Bytes) {
        let used = self.opened;
        let Some(session) = self.table.get_mut(&session) else {
            return;
        };
        session.used = used;
        session.highest = session.highest.max(sequence);
        session.answered = session.answered.max(answered);
        session.answers.insert(sequence, answer);
        session.trim();
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

    fn id(number: u64) -> SessionId {
        SessionId {
            client: PublicKey([1; 32]),
            number,
        }
    }

    fn answer(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_request_is_new_once() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.standing(id(1), 1), Standing::Expired);
        sessions.open(id(1));
        assert_eq!(sessions.standing(id(1), 1), Standing::New);
        sessions.executed(id(1), 1, 0, answer("one"));
        sessions.open(id(1));
        assert_eq!(
            sessions.standing(id(1), 1),
            Standing::Executed(answer("one"))
        );
    }

    #[test]
    fn order_inside_the_window_does_not_matter() {
        let run = |order: [(u64, u64); 3]| {
            let mut sessions = Sessions::default();
            sessions.open(id(1));
            for (sequence, answered) in order {
                sessions.executed(id(1), sequence, answered, answer("x"));
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
        sessions.open(id(1));
        for sequence in 1..=WINDOW + 10 {
            sessions.executed(id(1), sequence, 0, answer("x"));
        }
        assert_eq!(sessions.standing(id(1), 10), Standing::Dropped);
        assert_eq!(
            sessions.standing(id(1), 11),
            Standing::Executed(answer("x"))
        );
    }

    #[test]
    fn the_session_longest_unused_is_forgotten() {
        let mut sessions = Sessions::default();
        for number in 0..MAX_SESSIONS as u64 {
            sessions.open(id(number));
        }
        sessions.executed(id(0), 1, 0, answer("x"));
        sessions.open(id(u64::MAX));
        assert_eq!(sessions.len(), MAX_SESSIONS);
        assert_eq!(sessions.standing(id(1), 1), Standing::Expired);
        assert_ne!(sessions.standing(id(0), 2), Standing::Expired);
    }
}
