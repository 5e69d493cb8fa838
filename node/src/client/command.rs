//! What a client has ordered, who waits for it, and what has been answered.

use bytes::Bytes;
use quorate_core::consensus::{ProposeError, ReadError};
use quorate_core::id::ReplicaId;
use quorate_core::request::Operation;
use tokio::sync::oneshot;

/// What is ordered.
#[derive(Clone)]
pub(super) enum What {
    Apply(Bytes),
    Query(Bytes),
    Close,
}

impl What {
    pub(super) fn len(&self) -> usize {
        match self {
            What::Apply(bytes) | What::Query(bytes) => bytes.len(),
            What::Close => 0,
        }
    }

    pub(super) fn operation(&self) -> Operation<'_> {
        match self {
            What::Apply(command) => Operation::Apply(command),
            What::Query(query) => Operation::Query(query),
            What::Close => Operation::Close,
        }
    }
}

/// Who waits for an answer. One who has gone needs none.
pub(super) enum Caller {
    Propose(oneshot::Sender<Result<Bytes, ProposeError>>),
    Read(oneshot::Sender<Result<Bytes, ReadError>>),
}

impl Caller {
    pub(super) fn tell(self, result: Result<Bytes, ProposeError>) {
        match self {
            Caller::Propose(caller) => drop(caller.send(result)),
            Caller::Read(caller) => drop(caller.send(result.map_err(|error| match error {
                ProposeError::Unreachable(reason) => ReadError::Unreachable(reason),
                ProposeError::Overloaded | ProposeError::DiskFull => ReadError::Overloaded,
                ProposeError::TooLarge { size, limit } => ReadError::TooLarge { size, limit },
                ProposeError::Refused(reason) => ReadError::Refused(reason),
                ProposeError::Stopped(reason) => ReadError::Stopped(reason),
                _ => ReadError::Timeout,
            }))),
        }
    }
}

/// What each replica has answered last.
#[derive(Default)]
pub(super) struct Votes(Vec<(ReplicaId, Result<Bytes, ProposeError>)>);

impl Votes {
    /// Whether `needed` replicas say `result`, now that `from` says so.
    pub(super) fn add(
        &mut self,
        from: ReplicaId,
        result: &Result<Bytes, ProposeError>,
        needed: usize,
    ) -> bool {
        if needed > 1 {
            self.0.retain(|(replica, _)| *replica != from);
            self.0.push((from, result.clone()));
        }
        let equal = self.0.iter().filter(|(_, other)| other == result).count();
        equal.max(1) >= needed
    }
}
