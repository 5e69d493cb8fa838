//! Who waits for which answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_core::id::ReplicaId;
use quorate_core::replica::{Answer, ReadToken};
use quorate_core::request::SessionId;
use quorate_core::transport::FrameSink;

use crate::client_wire::{self, Reply};

/// A client's connection, counted from the node's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

struct Connection {
    sink: Arc<dyn FrameSink>,
    gathered: Vec<Reply>,
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
}

/// How many sessions one connection may use.
const MAX_SESSIONS: usize = 64;

impl Replies {
    pub(crate) fn connected(&mut self, id: ConnectionId, sink: Arc<dyn FrameSink>) {
        let connection = Connection {
            sink,
            gathered: Vec::new(),
            sessions: Vec::new(),
        };
        self.connections.insert(id, connection);
    }

    pub(crate) fn disconnected(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        for session in connection.sessions {
            if self.sessions.get(&session) == Some(&id) {
                self.sessions.remove(&session);
            }
        }
    }

    /// Answers to `session` go to this connection from now on. False if it has too many.
    pub(crate) fn bind(&mut self, id: ConnectionId, session: SessionId) -> bool {
        if self.sessions.get(&session) == Some(&id) {
            return true;
        }
        match self.connections.get_mut(&id) {
            Some(connection) if connection.sessions.len() < MAX_SESSIONS => {
                connection.sessions.push(session);
                self.sessions.insert(session, id);
                true
            }
            _ => false,
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

    /// Tells every client who leads.
    pub(crate) fn leader(&mut self, leader: ReplicaId) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.reply(id, Reply::Leader(leader));
        }
    }

    /// Sends what has gathered.
    pub(crate) fn flush(&mut self) {
        for id in std::mem::take(&mut self.waiting) {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            let replies = std::mem::take(&mut connection.gathered);
            match client_wire::seal(&replies) {
                // A client that does not read loses its connection, and asks again on the next.
                Ok(frames) => drop(frames.into_iter().all(|f| connection.sink.send(f))),
                Err(error) => tracing::error!(%error, "cannot encode replies"),
            }
        }
    }
}
