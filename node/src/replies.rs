//! Who waits for which answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_core::replica::{Answer, ReadToken};
use quorate_core::request::SessionId;
use quorate_core::transport::FrameSink;
use tokio::time::Instant;

use crate::budget::{Budget, WISHES};
use crate::client_wire::{self, Reply};

/// A client's connection, counted from the node's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

struct Connection {
    sink: Arc<dyn FrameSink>,
    gathered: Vec<Reply>,
    /// Reads under way, and the bytes of those answered in this turn.
    reads: usize,
    read_bytes: usize,
    /// How many bytes the next answer to a read is expected to have, by the largest of late.
    expected: usize,
    /// What its wishes have cost, and until when more of them wait.
    budget: Budget,
    resting: Option<Instant>,
    /// The one used last comes last.
    sessions: Vec<SessionId>,
}

/// The connections of clients, and what is waited for on each. Replies of a turn leave in one
/// frame a connection.
#[derive(Default)]
pub(crate) struct Replies {
    connections: BTreeMap<ConnectionId, Connection>,
    sessions: BTreeMap<SessionId, ConnectionId>,
    reads: BTreeMap<ReadToken, (ConnectionId, u64)>,
    next_read: u64,
    waiting: Vec<ConnectionId>,
    /// Those whose wishes wait.
    resting: Vec<ConnectionId>,
    /// The bytes of all reads answered in this turn, and what all wishes have taken.
    read_bytes: usize,
    took: Duration,
}

/// What an answer to a question for status costs at least, with all that is sent for it.
pub(crate) const STATUS: Duration = Duration::from_micros(100);

/// How long the wishes of clients may take in a turn, but for one more: all others wait for it.
const TURN: Duration = Duration::from_millis(1);

/// How many bytes of answers to reads may be under way to one client. What it asks beyond that
/// waits, with all that it asks after it: a client that reads is slowed down, and not cut off.
const READ_BYTES: usize = 8 << 20;

/// How many bytes an answer is expected to have before there was one.
const EXPECTED_FIRST: usize = 256 << 10;

/// And at least, ever.
const EXPECTED_LEAST: usize = 1 << 10;

/// How many bytes of reads are answered in a turn, but for one answer more: so much takes about a
/// millisecond, for which all others wait.
const TURN_BYTES: usize = 2 << 20;

/// How many sessions of one connection are answered. A client uses one at a time, and needs no more
/// answers to the one before when it opens the next.
const MAX_SESSIONS: usize = 64;

impl Replies {
    pub(crate) fn connected(&mut self, id: ConnectionId, sink: Arc<dyn FrameSink>) {
        let connection = Connection {
            sink,
            gathered: Vec::new(),
            reads: 0,
            read_bytes: 0,
            expected: EXPECTED_FIRST,
            budget: Budget::new(WISHES),
            resting: None,
            sessions: Vec::new(),
        };
        self.connections.insert(id, connection);
    }

    /// Forgets a connection, and the reads it asked for, which are given.
    pub(crate) fn disconnected(&mut self, id: ConnectionId) -> BTreeSet<ReadToken> {
        let Some(connection) = self.connections.remove(&id) else {
            return BTreeSet::new();
        };
        for session in connection.sessions {
            if self.sessions.get(&session) == Some(&id) {
                self.sessions.remove(&session);
            }
        }
        let asked = self.reads.extract_if(.., |_, (asker, _)| *asker == id);
        asked.map(|(token, _)| token).collect()
    }

    /// Answers to `session` go to this connection from now on. If it has too many, the one that it
    /// has not used for longest is forgotten: a client that stays connected may open sessions
    /// without end.
    pub(crate) fn bind(&mut self, id: ConnectionId, session: SessionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let bound = &mut connection.sessions;
        if let Some(place) = bound.iter().rposition(|known| *known == session) {
            bound.remove(place);
        } else if bound.len() >= MAX_SESSIONS {
            let oldest = bound.remove(0);
            if self.sessions.get(&oldest) == Some(&id) {
                self.sessions.remove(&oldest);
            }
        }
        bound.push(session);
        self.sessions.insert(session, id);
    }

    /// Whether a read of this connection may be taken: it is under way then, until
    /// [`Replies::read`] or [`Replies::unread`].
    pub(crate) fn admit_read(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else {
            return true;
        };
        if connection.resting.is_some() {
            return false;
        }
        let ready = connection.sink.backlog() + connection.read_bytes;
        let expected = connection.expected.saturating_mul(connection.reads + 1);
        let nothing = ready == 0 && connection.reads == 0;
        let admitted = nothing || ready.saturating_add(expected) <= READ_BYTES;
        connection.reads += usize::from(admitted);
        admitted
    }

    /// Whether a question for status may be taken.
    pub(crate) fn admit_status(&self, id: ConnectionId) -> bool {
        let connection = self.connections.get(&id);
        connection.is_none_or(|connection| connection.resting.is_none())
    }

    /// Whether other wishes should wait for the next turn.
    pub(crate) fn has_answered_enough(&self) -> bool {
        self.read_bytes >= TURN_BYTES || self.took >= TURN
    }

    pub(crate) fn is_connected(&self, id: ConnectionId) -> bool {
        self.connections.contains_key(&id)
    }

    /// A wish of this connection has taken so long: what it wishes next may have to wait.
    pub(crate) fn charge(&mut self, id: ConnectionId, took: Duration) {
        self.took += took;
        if let Some(connection) = self.connections.get_mut(&id)
            && let Some(wait) = connection.budget.spend(took)
        {
            connection.resting = Some(Instant::now() + wait);
            self.resting.push(id);
        }
    }

    /// Lets those wish again whose wait is over.
    pub(crate) fn wake(&mut self) {
        if self.resting.is_empty() {
            return;
        }
        let (now, connections) = (Instant::now(), &mut self.connections);
        self.resting.retain(|id| {
            let Some(connection) = connections.get_mut(id) else {
                return false;
            };
            let rests = connection.resting.is_some_and(|until| until > now);
            if !rests {
                connection.resting = None;
            }
            rests
        });
    }

    /// A read is answered, by so many bytes.
    pub(crate) fn read(&mut self, id: ConnectionId, reply: Reply, bytes: usize) {
        self.read_bytes += bytes;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.read_bytes += bytes;
            let faded = connection.expected - connection.expected / 8;
            connection.expected = faded.max(bytes).max(EXPECTED_LEAST);
        }
        // A byte that is encoded, encrypted and sent costs about a nanosecond, elsewhere.
        self.charge(id, Duration::from_nanos(bytes as u64));
        self.unread(id);
        self.reply(id, reply);
    }

    /// A read is not to be answered.
    pub(crate) fn unread(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.reads = connection.reads.saturating_sub(1);
        }
    }

    /// Names a read of this connection.
    pub(crate) fn expect_read(&mut self, id: ConnectionId, number: u64) -> ReadToken {
        let token = ReadToken(self.next_read);
        self.next_read += 1;
        self.reads.insert(token, (id, number));
        token
    }

    /// The connection that asked for a read, and its number there.
    pub(crate) fn reader(&mut self, token: ReadToken) -> Option<(ConnectionId, u64)> {
        self.reads.remove(&token)
    }

    pub(crate) fn answer(&mut self, answer: Answer) {
        let Some(id) = self.sessions.get(&answer.session).copied() else {
            return;
        };
        let reply = Reply::Answer {
            session: answer.session.number,
            sequence: answer.sequence,
            result: answer.result,
        };
        self.reply(id, reply);
    }

    pub(crate) fn reply(&mut self, id: ConnectionId, reply: Reply) {
        if let Some(connection) = self.connections.get_mut(&id) {
            if connection.gathered.is_empty() {
                self.waiting.push(id);
            }
            connection.gathered.push(reply);
        }
    }

    /// Tells every client.
    pub(crate) fn tell_all(&mut self, reply: &Reply) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.reply(id, reply.clone());
        }
    }

    /// Sends what has gathered.
    pub(crate) fn flush(&mut self) {
        (self.read_bytes, self.took) = (0, Duration::ZERO);
        for id in std::mem::take(&mut self.waiting) {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.read_bytes = 0;
            let replies = std::mem::take(&mut connection.gathered);
            match client_wire::seal(&replies) {
                // A client that does not read loses its connection, and asks again on the next.
                Ok(frames) => drop(frames.into_iter().all(|f| connection.sink.send(f))),
                Err(error) => tracing::error!(%error, "cannot encode replies"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use quorate_core::crypto::SecretKey;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<u64>>);

    impl Heard {
        fn take(&self) -> Vec<u64> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl FrameSink for Heard {
        fn send(&self, frame: Bytes) -> bool {
            for reply in client_wire::open(&frame).unwrap() {
                match reply {
                    Reply::Answer { session, .. } => self.0.lock().unwrap().push(session),
                    other => panic!("{other:?}"),
                }
            }
            true
        }
    }

    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);

    fn session(number: usize) -> SessionId {
        let client = SecretKey::from_seed([1; 32]).public();
        let number = number as u64;
        SessionId { client, number }
    }

    fn connect(replies: &mut Replies, id: ConnectionId) -> Arc<Heard> {
        let heard = Arc::new(Heard::default());
        replies.connected(id, heard.clone());
        heard
    }

    fn answer(replies: &mut Replies, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            replies.answer(Answer {
                session: session(number),
                sequence: 0,
                result: Ok(Bytes::new()),
            });
        }
        replies.flush();
    }

    #[test]
    fn a_connection_may_use_sessions_without_end_and_the_least_recently_used_is_forgotten() {
        let mut replies = Replies::default();
        let heard = connect(&mut replies, A);
        for number in 0..3 * MAX_SESSIONS {
            replies.bind(A, session(number));
            replies.bind(A, session(0));
            answer(&mut replies, [number]);
            assert_eq!(heard.take(), [number as u64]);
        }
        assert_eq!(replies.sessions.len(), MAX_SESSIONS);
        answer(&mut replies, 0..3 * MAX_SESSIONS);
        let kept = 2 * MAX_SESSIONS + 1..3 * MAX_SESSIONS;
        let kept: Vec<u64> = [0].into_iter().chain(kept).map(|n| n as u64).collect();
        assert_eq!(heard.take(), kept);
        replies.disconnected(A);
        assert!(replies.sessions.is_empty());
    }

    /// Takes frames, and tells how much of them was not taken from it.
    #[derive(Default)]
    struct Slow(Mutex<usize>);

    impl FrameSink for Slow {
        fn send(&self, frame: Bytes) -> bool {
            *self.0.lock().unwrap() += frame.len();
            true
        }

        fn backlog(&self) -> usize {
            *self.0.lock().unwrap()
        }
    }

    /// Takes as many reads as are admitted, and gives how many that were.
    fn admitted(replies: &mut Replies) -> usize {
        (0..10_000).take_while(|_| replies.admit_read(A)).count()
    }

    fn answer_reads(replies: &mut Replies, count: usize, bytes: usize) {
        for number in 0..count {
            let answer = Reply::Read(number as u64, Ok(Bytes::from(vec![0; bytes])));
            replies.read(A, answer, bytes);
        }
        replies.flush();
    }

    #[tokio::test(start_paused = true)]
    async fn reads_under_way_are_bounded_in_bytes_and_go_on_when_their_answers_are_taken() {
        let (mut replies, slow) = (Replies::default(), Arc::new(Slow::default()));
        replies.connected(A, slow.clone());
        let mut most = 0;
        let mut left: usize = 100;
        while left > 0 {
            // It has had more than its share, and waits.
            tokio::time::advance(Duration::from_secs(1)).await;
            replies.wake();
            let count = admitted(&mut replies).min(left);
            // Reads that were admitted and not asked for are not under way.
            answer_reads(&mut replies, count, 1 << 20);
            let over = replies.connections[&A].reads;
            (0..over).for_each(|_| replies.unread(A));
            left -= count;
            most = most.max(slow.backlog());
            // The client takes one answer.
            *slow.0.lock().unwrap() = slow.backlog().saturating_sub((1 << 20) + 100);
        }
        let first = (READ_BYTES / EXPECTED_FIRST) << 20;
        assert!(most <= first + READ_BYTES, "{most}");
    }

    #[test]
    fn one_who_takes_nothing_has_no_read_admitted_beyond_the_bound() {
        let (mut replies, slow) = (Replies::default(), Arc::new(Slow::default()));
        replies.connected(A, slow);
        let first = admitted(&mut replies);
        assert_eq!(first, READ_BYTES / EXPECTED_FIRST);
        answer_reads(&mut replies, first, 1 << 20);
        assert_eq!(admitted(&mut replies), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_wishes_for_much_waits_and_others_do_not() {
        let mut replies = Replies::default();
        let _heard = (connect(&mut replies, A), connect(&mut replies, B));
        let (start, mut had) = (Instant::now(), Duration::ZERO);
        while start.elapsed() < Duration::from_secs(10) {
            replies.wake();
            if replies.admit_status(A) {
                replies.charge(A, Duration::from_millis(1));
                had += Duration::from_millis(1);
            }
            replies.flush();
            assert!(replies.admit_status(B) && replies.admit_read(B));
            replies.unread(B);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(had < start.elapsed() / 7, "{had:?}");
        assert!(had > start.elapsed() / 10, "{had:?}");
    }

    #[test]
    fn small_answers_let_many_reads_share_a_turn() {
        let mut replies = Replies::default();
        let _heard = connect(&mut replies, A);
        for _ in 0..100 {
            let count = admitted(&mut replies).min(1000);
            for number in 0..count {
                let answer = Reply::Read(number as u64, Ok(Bytes::new()));
                replies.read(A, answer, 0);
            }
            let over = replies.connections[&A].reads;
            (0..over).for_each(|_| replies.unread(A));
            replies.connections.get_mut(&A).unwrap().gathered.clear();
        }
        assert_eq!(admitted(&mut replies), READ_BYTES / EXPECTED_LEAST);
    }

    #[test]
    fn a_session_that_two_connections_use_in_turn_is_one_of_each() {
        let mut replies = Replies::default();
        let (a, b) = (connect(&mut replies, A), connect(&mut replies, B));
        for _ in 0..2 * MAX_SESSIONS {
            replies.bind(A, session(0));
            replies.bind(B, session(0));
        }
        for number in 1..=MAX_SESSIONS {
            replies.bind(A, session(number));
        }
        // What A forgets is B's by now.
        answer(&mut replies, [0]);
        assert_eq!((a.take(), b.take()), (vec![], vec![0]));
        assert_eq!(replies.connections[&B].sessions, [session(0)]);
    }
}
