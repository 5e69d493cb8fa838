//! Why connections end, and what that is called at the other end.

use quinn::{Connection, ConnectionError, VarInt};
use quorate_core::id::ReplicaId;
use quorate_core::transport::TransportError;

/// A reason to close a connection, told to the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// The transport shuts down, or the client is done.
    Done,
    /// The key is none of the membership's.
    NotMember,
    /// The service turned the client away.
    NotAdmitted,
    /// What came is not frames.
    BadFrame,
    /// The client does not read what it asked for.
    SlowReader,
    /// The same peer has called again.
    Replaced,
    /// The replica with the lower number calls; it has understood that it should.
    CallBack,
    /// There are too many connections.
    Busy,
    /// The replica has other settings, which must be the same.
    Differs,
    /// The replica has lost what it had said to be durable.
    Forgot,
    /// This replica's disk cannot keep that the other one was met.
    Unready,
}

const ALL: [Close; 11] = [
    Close::Done,
    Close::NotMember,
    Close::NotAdmitted,
    Close::BadFrame,
    Close::SlowReader,
    Close::Replaced,
    Close::CallBack,
    Close::Busy,
    Close::Differs,
    Close::Forgot,
    Close::Unready,
];

impl Close {
    fn code(self) -> u32 {
        match self {
            Close::Done => 0,
            Close::NotMember => 1,
            Close::NotAdmitted => 2,
            Close::BadFrame => 3,
            Close::SlowReader => 4,
            Close::Replaced => 5,
            Close::CallBack => 6,
            Close::Busy => 7,
            Close::Differs => 8,
            Close::Forgot => 9,
            Close::Unready => 10,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Close::Done => "closed",
            Close::NotMember => "this key is not in the membership",
            Close::NotAdmitted => "this key is not admitted as a client",
            Close::BadFrame => "what came is not a frame",
            Close::SlowReader => "what was sent to this client is not read",
            Close::Replaced => "replaced by a later connection",
            Close::CallBack => "will call back",
            Close::Busy => "too many connections",
            Close::Differs => "configured otherwise",
            Close::Forgot => "this replica's data directory is older than what it has said",
            Close::Unready => "whoever comes cannot be remembered now",
        }
    }

    pub(crate) fn varint(self) -> VarInt {
        VarInt::from_u32(self.code())
    }

    pub(crate) fn apply(self, connection: &Connection) {
        connection.close(self.varint(), self.reason().as_bytes());
    }

    /// The reason the other end gave, if it gave one of these.
    pub(crate) fn received(error: &ConnectionError) -> Option<Close> {
        let ConnectionError::ApplicationClosed(close) = error else {
            return None;
        };
        ALL.into_iter()
            .find(|known| known.varint() == close.error_code)
    }
}

/// TLS alerts are QUIC error codes from 0x100 on [RFC9001 §4.8].
fn is_tls(code: quinn::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

/// What the caller of `to` is told about `error`.
pub(crate) fn to_transport_error(to: ReplicaId, error: &ConnectionError) -> TransportError {
    let refused = |reason: String| TransportError::NotAuthenticated { to, reason };
    match error {
        ConnectionError::TransportError(error) if is_tls(error.code) => {
            refused(error.reason.clone())
        }
        ConnectionError::ConnectionClosed(close) if is_tls(close.error_code) => refused(format!(
            "it ended the handshake: {} (another cluster or version, or not what it claims)",
            close.error_code
        )),
        error => match Close::received(error) {
            Some(Close::NotMember | Close::NotAdmitted) => refused(error.to_string()),
            Some(Close::Forgot) => TransportError::Forgotten {
                to,
                reason: String::from("it says that this replica's data directory is an older copy"),
            },
            _ => unreachable(to, error.to_string()),
        },
    }
}

/// `to` could not be reached, for this reason.
pub(crate) fn unreachable(to: ReplicaId, reason: impl Into<String>) -> TransportError {
    TransportError::Unreachable {
        to,
        reason: reason.into(),
    }
}
