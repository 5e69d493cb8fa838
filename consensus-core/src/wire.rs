//! The envelope around every message between replicas.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError, FORMAT_VERSION};
use crate::crypto::{GroupId, Verifier};
use crate::id::ReplicaId;
use crate::protocol::{Invalid, Message, Verified};

/// Room for most frames, so that few grow while they are written.
const FRAME: usize = 1024;

/// What every frame says before its message: which format, cluster and configuration it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    version: u8,
    group: GroupId,
    epoch: u64,
}

impl Envelope {
    /// The envelope of `group` in `epoch`.
    pub fn new(group: GroupId, epoch: u64) -> Self {
        Envelope {
            version: FORMAT_VERSION,
            group,
            epoch,
        }
    }

    /// Encloses `message`.
    pub fn seal<M: Message>(&self, message: &M) -> Result<Bytes, codec::EncodeError> {
        let mut frame = Vec::with_capacity(FRAME);
        codec::encode_into(&(self, message), &mut frame)?;
        Ok(frame.into())
    }

    /// Opens a frame that came from `from`, and verifies the message.
    pub fn open<M: Message>(
        &self,
        from: ReplicaId,
        frame: &[u8],
        verifier: &Verifier,
    ) -> Result<Verified<M>, Rejected> {
        if frame.first() != Some(&self.version) {
            let theirs = frame.first().copied().unwrap_or(0);
            return Err(Rejected::Version { from, theirs });
        }
        let (envelope, message): (Envelope, M) =
            codec::decode("frame", frame).map_err(|reason| Rejected::Malformed { from, reason })?;
        if envelope != *self {
            return Err(Rejected::Elsewhere { from });
        }
        Verified::new(from, message, verifier).map_err(Rejected::Invalid)
    }
}

/// Why a frame was not let in.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// The other end speaks another format.
    #[error(
        "{from} speaks format {theirs}, this is format {FORMAT_VERSION}: run the same release on all replicas"
    )]
    Version {
        /// Who sent it.
        from: ReplicaId,
        /// Its format.
        theirs: u8,
    },
    /// The bytes are not a frame.
    #[error("{from} sent a frame that cannot be read: {reason}")]
    Malformed {
        /// Who sent it.
        from: ReplicaId,
        /// What is wrong with it.
        reason: DecodeError,
    },
    /// It belongs to another cluster, or another epoch of this one.
    #[error("{from} sent a frame of another cluster or epoch")]
    Elsewhere {
        /// Who sent it.
        from: ReplicaId,
    },
    /// The message itself is not valid.
    #[error(transparent)]
    Invalid(Invalid),
}
