//! Reads that this node has taken: how many, for how long, and which way they are answered.

use bytes::Bytes;

use crate::consensus::{ProposeError, ReadError, ReadLevel};
use crate::id::Time;
use crate::machine::StateMachine;
use crate::protocol::{FaultModel, Protocol, ReadAnswer, ReadId};
use crate::request::{Operation, Request};

use super::Replica;
use super::effects::ReadToken;
use super::pending::Added;
use super::reads::Query;
use super::settings::Mutant;

/// How many bytes of answers to queries of clients that were ordered a turn has at most, but for one
/// answer more: half of what may wait for one client. What is beyond is refused, and may be asked again.
const ORDERED_BYTES: usize = 32 << 20;

/// A read that is ordered like a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThroughLog {
    pub(super) token: ReadToken,
    began: Time,
}

impl<P: Protocol, S: StateMachine> Replica<P, S> {
    /// Takes a read. Its answer comes as [`Effects::reads`](super::Effects::reads), within about
    /// twice [`Settings::read_patience`](super::Settings::read_patience); an error is the answer.
    pub fn read(
        &mut self,
        token: ReadToken,
        query: Bytes,
        level: ReadLevel,
    ) -> Result<(), ReadError> {
        if level == ReadLevel::Local {
            let answer = self.execution.machine().query(&query);
            self.effects.reads.push((token, Ok(answer)));
            return Ok(());
        }
        let (size, limit) = (query.len(), self.settings.max_command_bytes);
        if size > limit {
            return Err(ReadError::TooLarge { size, limit });
        }
        let count = self.reads.len() + self.through_log.len();
        let bytes = self.reads.bytes().saturating_add(size);
        if count >= self.settings.max_pending || bytes > self.settings.max_pending_bytes {
            return Err(ReadError::Overloaded);
        }
        self.reads.add(Query { token, query });
        Ok(())
    }

    /// Forgets the reads whose askers are `gone`. What is to be ordered for them is not proposed
    /// again.
    pub fn forget_reads(&mut self, gone: impl Fn(ReadToken) -> bool) {
        self.reads.forget(&gone);
        self.forget_ordered(|read| gone(read.token));
    }

    fn forget_ordered(&mut self, forgotten: impl Fn(&ThroughLog) -> bool) -> Vec<ReadToken> {
        let all = self.through_log.iter();
        let forgotten: Vec<u64> = all
            .filter(|(_, read)| forgotten(read))
            .map(|(sequence, _)| *sequence)
            .collect();
        let forget = |sequence: u64| {
            self.pending.executed(self.reader, sequence);
            Some(self.through_log.remove(&sequence)?.token)
        };
        forgotten.into_iter().filter_map(forget).collect()
    }

    /// When the reads that wait longest are given up.
    pub(super) fn read_deadline(&self) -> Option<Time> {
        if self.settings.mutated(Mutant::ReadNeverGivenUp) {
            return None;
        }
        let ordered = self.through_log.values().next().map(|read| read.began);
        let began = self.reads.began().into_iter().chain(ordered).min();
        began.map(|began| began + self.settings.read_patience)
    }

    /// Gives up reads that no quorum confirms.
    pub(super) fn tick_reads(&mut self, now: Time) {
        if self.read_deadline().is_none_or(|at| at > now) {
            return;
        }
        let patience = self.settings.read_patience.as_nanos() as u64;
        let before = Time(now.0.saturating_sub(patience));
        let mut expired = self.forget_ordered(|read| read.began <= before);
        expired.extend(self.reads.expired(before).iter().map(|query| query.token));
        let unanswered = expired.into_iter().map(|t| (t, Err(ReadError::Timeout)));
        self.effects.reads.extend(unanswered);
    }

    pub(super) fn answer_reads(&mut self, now: Time, id: ReadId, answer: ReadAnswer) {
        for Query { token, query } in self.reads.take(id) {
            match answer {
                // What it would be answered later is as good.
                ReadAnswer::Ready if self.read_bytes >= self.settings.max_read_bytes => {
                    self.reads.postpone(Query { token, query });
                }
                ReadAnswer::Ready => {
                    let answer = self.execution.machine().query(&query);
                    self.read_bytes += answer.len();
                    self.effects.reads.push((token, Ok(answer)));
                }
                ReadAnswer::ThroughLog => self.read_through_log(now, token, &query),
            }
        }
    }

    /// A query has been ordered. It is answered where somebody waits for that only, and then so many
    /// bytes in a turn: a small batch may ask for any number of large answers. The state does not
    /// depend on them.
    pub(super) fn execute_query(&mut self, request: Request<'_>, query: &[u8], waiting: bool) {
        if request.session == self.reader {
            let read = self.through_log.remove(&request.sequence);
            return self.answer_ordered(read, query);
        }
        let wanted = waiting || P::FAULTS == FaultModel::Byzantine;
        let refused = wanted && self.ordered_bytes >= ORDERED_BYTES;
        let result = self.execution.query(&request, wanted && !refused);
        if wanted {
            self.ordered_bytes += result.as_ref().map_or(0, Bytes::len);
            let too_much = refused && result.is_ok();
            self.answer(
                &request,
                match too_much {
                    true => Err(ProposeError::Overloaded),
                    false => result,
                },
            );
        }
    }

    /// A read of this node's has been ordered. What it is answered in the next turn, having been
    /// ordered again, is as good.
    fn answer_ordered(&mut self, read: Option<ThroughLog>, query: &[u8]) {
        let Some(ThroughLog { token, .. }) = read else {
            return;
        };
        if self.read_bytes >= self.settings.max_read_bytes {
            let query = Bytes::copy_from_slice(query);
            return self.reads.postpone(Query { token, query });
        }
        let answer = self.execution.machine().query(query);
        self.read_bytes += answer.len();
        self.effects.reads.push((token, Ok(answer)));
    }

    fn read_through_log(&mut self, now: Time, token: ReadToken, query: &[u8]) {
        let sequence = self.reads_through_log;
        self.reads_through_log += 1;
        let request = Request {
            session: self.reader,
            sequence,
            answered: 0,
            operation: Operation::Query(query),
        };
        match self.pending.add(request, &self.settings) {
            Added::New | Added::Known => {
                let read = ThroughLog { token, began: now };
                self.through_log.insert(sequence, read);
            }
            Added::Full | Added::DiskFull => {
                self.effects.reads.push((token, Err(ReadError::Overloaded)));
            }
        }
    }
}
