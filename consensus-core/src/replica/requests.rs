//! Taking requests.

use bytes::Bytes;

use crate::consensus::ProposeError;
use crate::machine::StateMachine;
use crate::protocol::{FaultModel, Protocol};
use crate::request::{Batch, Group, Operation, Request};
use crate::session::Standing;

use super::pending::Added;
use super::{Answer, Replica};

impl<P: Protocol, S: StateMachine> Replica<P, S> {
    /// Takes requests. Their answers come as
    /// [`Effects::answers`](super::Effects::answers).
    ///
    /// Requests that were signed together stay together; where replicas may lie, the signature
    /// must have been checked ([`Group::verify`]).
    pub fn propose(&mut self, group: &Group<'_>) {
        if group.signature.is_some() && P::FAULTS == FaultModel::Byzantine {
            return self.propose_whole(group);
        }
        for request in group.requests() {
            if let Err(error) = self.propose_one(request) {
                self.refuse(&request, error);
            }
        }
    }

    /// Answers what is under way and the state that was installed holds: nobody orders it again.
    /// Queries are not in a state.
    pub(super) fn settle_installed(&mut self) {
        for batch in self.pending.batches() {
            for request in batch.requests() {
                let (session, sequence) = (request.session, request.sequence);
                let is_query = matches!(request.operation, Operation::Query(_));
                if is_query || !self.pending.has(session, sequence) {
                    continue;
                }
                match self.is_new(&request) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => self.refuse(&request, error),
                }
                self.pending.executed(session, sequence);
            }
        }
    }

    /// Whether these requests should be taken now, and not wait until others of their client have
    /// been executed. Nothing rests on it: what is taken all the same is bounded too.
    pub fn may_take(&self, batch: &Batch) -> bool {
        self.pending.may_take(batch, &self.settings)
    }

    fn propose_one(&mut self, request: Request<'_>) -> Result<(), ProposeError> {
        if !self.is_new(&request)? {
            return Ok(());
        }
        let request = self.execution.taken(request);
        match self.pending.add(request, &self.settings) {
            Added::New | Added::Known => Ok(()),
            Added::Full => Err(ProposeError::Overloaded),
            Added::DiskFull => Err(ProposeError::DiskFull),
        }
    }

    fn propose_whole(&mut self, group: &Group<'_>) {
        let mut new = Vec::with_capacity(group.len());
        let (size, limit) = (group.size(), self.settings.max_group_bytes());
        for request in group.requests() {
            match self.is_new(&request) {
                _ if size > limit => self.refuse(&request, ProposeError::TooLarge { size, limit }),
                Ok(true) => new.push(request),
                Ok(false) => {}
                Err(error) => self.refuse(&request, error),
            }
        }
        for (request, why) in self.pending.add_group(group, &new, &self.settings) {
            self.refuse(
                &request,
                match why {
                    Added::DiskFull => ProposeError::DiskFull,
                    _ => ProposeError::Overloaded,
                },
            );
        }
    }

    /// Whether a request is yet to be executed; if it has been, its answer is given.
    fn is_new(&mut self, request: &Request<'_>) -> Result<bool, ProposeError> {
        let size = match request.operation {
            Operation::Apply(bytes) | Operation::Query(bytes) => bytes.len(),
            Operation::Open | Operation::Close => 0,
        };
        if size > self.settings.max_command_bytes {
            let limit = self.settings.max_command_bytes;
            return Err(ProposeError::TooLarge { size, limit });
        }
        match self.execution.standing(request) {
            Standing::Executed(answer) => {
                self.answer(request, Ok(answer));
                Ok(false)
            }
            Standing::Dropped => Err(ProposeError::AnswerDropped),
            // The session may have been opened by entries not executed here yet.
            Standing::Expired | Standing::New => Ok(true),
        }
    }

    fn refuse(&mut self, request: &Request<'_>, error: ProposeError) {
        self.answer(request, Err(error));
    }

    pub(super) fn answer(&mut self, request: &Request<'_>, result: Result<Bytes, ProposeError>) {
        self.effects.answers.push(Answer {
            session: request.session,
            sequence: request.sequence,
            result,
        });
    }
}
