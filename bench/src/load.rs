//! The requests that the benches propose.

use quorate_core::crypto::{GroupId, SecretKey, Signer};
use quorate_core::protocol::FaultModel;
use quorate_core::request::{Batch, BatchBuilder, Operation, Request, SessionId};

/// Clients in a closed loop: their sessions take turns, and each request says that all but the
/// session's last few have been answered.
#[derive(Clone, Debug)]
pub struct Load {
    client: Signer,
    /// Whether its requests are signed.
    signs: bool,
    /// The last sequence used of each session; the first opens it.
    sequences: Vec<u64>,
    next: usize,
    /// How many requests of a session are under way at most.
    window: u64,
    command: Vec<u8>,
}

impl Load {
    /// `sessions` sessions, each with at most `window` commands of `command_bytes` under way,
    /// signed if `faults` makes clients sign.
    pub fn new(sessions: usize, window: u64, command_bytes: usize, faults: FaultModel) -> Self {
        Load {
            client: Signer::new(SecretKey::from_seed([99; 32]), GroupId(1)),
            signs: faults == FaultModel::Byzantine,
            sequences: vec![0; sessions],
            next: 0,
            window,
            command: vec![7; command_bytes],
        }
    }

    /// How many sessions there are: the first so many requests open them.
    pub fn sessions(&self) -> usize {
        self.sequences.len()
    }

    /// The next request, of the session whose turn it is.
    pub fn request(&mut self) -> Request<'_> {
        let index = self.next;
        self.next = (index + 1) % self.sequences.len();
        let sequence = self.sequences[index];
        self.sequences[index] += 1;
        Request {
            session: SessionId {
                client: self.client.public(),
                number: index as u64,
            },
            sequence,
            answered: sequence.saturating_sub(self.window),
            operation: match sequence {
                0 => Operation::Open,
                _ => Operation::Apply(&self.command),
            },
        }
    }

    /// The next `len` requests, as one batch.
    pub fn batch(&mut self, len: usize) -> Batch {
        let mut builder = BatchBuilder::default();
        for _ in 0..len {
            builder.push(self.request());
        }
        match self.signs {
            true => builder.finish().signed(&self.client),
            false => builder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_open_first_and_take_turns() {
        let mut load = Load::new(2, 1, 8, FaultModel::Crash);
        let batch = load.batch(5);
        let seen: Vec<_> = batch
            .requests()
            .map(|r| (r.session.number, r.sequence, r.answered))
            .collect();
        assert_eq!(
            seen,
            [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 2, 1)]
        );
        let opens = batch.requests().filter(|r| r.operation == Operation::Open);
        assert_eq!(opens.count(), load.sessions());
    }
}
