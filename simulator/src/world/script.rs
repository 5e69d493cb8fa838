//! Worlds that their owner steers.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::protocol::Protocol;
use quorate_core::replica::ReadToken;

use super::World;
use crate::client::{self, Ask, PER_CLIENT, Requested, Told};
use crate::conditions::Conditions;
use crate::config::SimulationConfig;
use crate::plan::{Direction, FOR_GOOD, Fault, Planned};
use crate::register::{self, Change, Command, CommandId, Outcome};

/// The number of the client that a script is: beyond those of simulated ones.
const SCRIPT: u64 = 200;

/// Something a script has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Submission(u64);

/// The answer to a [`Submission`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// When it came, in nanoseconds of virtual time.
    pub at: u64,
    /// Who gave it.
    pub by: ReplicaId,
    /// What a command did; `None` for a read, and for the opening of the session.
    pub outcome: Option<Outcome>,
    /// What a read found.
    pub value: Option<u64>,
}

/// What a script has asked for, and the answers.
#[derive(Debug, Default)]
pub(super) struct Script {
    submitted: u64,
    answers: BTreeMap<Submission, Answered>,
    /// The requests, to be sent again.
    requests: BTreeMap<Submission, Requested>,
}

impl Script {
    pub(super) fn told(&mut self, now: u64, by: ReplicaId, told: &Told) {
        let (number, outcome, value) = match told {
            Told::Answer(_, sequence, Ok(answer)) => (*sequence, Outcome::decode(answer), None),
            Told::Read(token, Ok(answer)) => {
                let value = register::decode_value(answer).flatten();
                (token.0 % PER_CLIENT, None, value)
            }
            Told::Answer(..) | Told::Read(..) => return,
        };
        let answered = Answered {
            at: now,
            by,
            outcome,
            value,
        };
        self.answers.entry(Submission(number)).or_insert(answered);
    }

    fn next(&mut self) -> Submission {
        self.submitted += 1;
        Submission(self.submitted)
    }
}

impl<P: Protocol> World<P> {
    /// A world without clients of its own and without faults but those its owner makes. All
    /// replicas are about to start.
    pub fn scripted(seed: u64, config: SimulationConfig<P>, conditions: Conditions) -> Self {
        let mut world = World::empty(seed, config, conditions);
        world.start_all();
        world
    }

    /// Lets `time` pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time.as_nanos() as u64;
        while self.queue.next_at().is_some_and(|at| at <= end) && self.step() {}
        self.now = self.now.max(end);
    }

    /// Lets things happen until `enough`, which is asked after each; false if that takes longer
    /// than `limit`.
    pub fn run_until(&mut self, limit: Duration, enough: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit.as_nanos() as u64;
        while !enough(self) {
            if self.queue.next_at().is_none_or(|at| at > end) || !self.step() {
                return false;
            }
        }
        true
    }

    /// Opens the script's session through `at`. Commands need it.
    pub fn open_session(&mut self, at: ReplicaId) -> Submission {
        self.request(at, |_| None)
    }

    /// Asks `at` to have a register changed.
    pub fn submit(&mut self, at: ReplicaId, key: u8, change: Change) -> Submission {
        self.request(at, |Submission(number)| {
            let id = CommandId(SCRIPT * PER_CLIENT + number);
            Some(Command { id, key, change })
        })
    }

    fn request(
        &mut self,
        at: ReplicaId,
        command: impl FnOnce(Submission) -> Option<Command>,
    ) -> Submission {
        let submission = self.script.next();
        let session = client::session(SCRIPT, 0);
        let command = command(submission).map(|command| command.encode());
        let scheme = self.config.signatures;
        let request = Requested::new((session, submission.0), command.as_deref(), scheme);
        self.script.requests.insert(submission, request.clone());
        self.ask_arrives(SCRIPT as usize, at, Ask::Request(request));
        submission
    }

    /// Asks `at` for what was submitted before, as a client does whose answer is late. An answer
    /// that has come is forgotten: [`World::answered`] tells the next.
    pub fn submit_again(&mut self, submission: Submission, at: ReplicaId) {
        self.script.answers.remove(&submission);
        if let Some(request) = self.script.requests.get(&submission).cloned() {
            self.ask_arrives(SCRIPT as usize, at, Ask::Request(request));
        }
    }

    /// Asks `at` to have a register changed, and lets things happen until it is told that this is
    /// done: how long that took. `None` if it takes longer than `limit`.
    pub fn latency(
        &mut self,
        at: ReplicaId,
        (key, change): (u8, Change),
        limit: Duration,
    ) -> Option<Duration> {
        let from = self.now;
        let submission = self.submit(at, key, change);
        self.run_until(limit, |world| world.answered(submission).is_some());
        let answered = self.answered(submission)?;
        Some(Duration::from_nanos(answered.at - from))
    }

    /// Asks `at` what a register holds.
    pub fn read(&mut self, at: ReplicaId, key: u8) -> Submission {
        let submission = self.script.next();
        let token = ReadToken(SCRIPT * PER_CLIENT + submission.0);
        self.ask_arrives(SCRIPT as usize, at, Ask::Read(token, register::query(key)));
        submission
    }

    /// The first answer to what was asked, if there is one.
    pub fn answered(&self, submission: Submission) -> Option<&Answered> {
        self.script.answers.get(&submission)
    }

    /// Stops a replica; it loses what is not durable, or part of it.
    pub fn crash(&mut self, replica: ReplicaId) {
        self.stop(replica);
    }

    /// Starts a replica that is down.
    pub fn restart(&mut self, replica: ReplicaId) {
        self.restart_if_down(replica);
    }

    /// Cuts one link, in one direction. Frames on their way are lost too.
    pub fn cut(&mut self, from: ReplicaId, to: ReplicaId) {
        self.network.cut(from, to);
        self.announce(16, format!("nothing passes from {from} to {to}"));
    }

    /// Cuts a replica off.
    pub fn isolate(&mut self, replica: ReplicaId) {
        self.network.isolate(replica, Direction::Both);
        self.announce(17, format!("{replica} is cut off"));
    }

    /// Cuts `side` and the others off from each other.
    pub fn split(&mut self, side: ReplicaSet) {
        self.network.split(side);
        self.announce(18, format!("{side:?} cut off from the others"));
    }

    /// Makes all links good.
    pub fn mend(&mut self) {
        self.network.mend();
        self.announce(19, String::from("all links are good"));
    }

    /// Has a fault begin, which lasts until [`World::end`] is told this number.
    pub fn begin(&mut self, fault: Fault) -> usize {
        let number = self.plan.faults.len();
        let planned = Planned {
            at: self.now,
            lasts: FOR_GOOD,
            fault,
        };
        self.plan.faults.push(planned);
        self.fault_begins(number);
        number
    }

    /// Ends a fault.
    pub fn end(&mut self, number: usize) {
        self.fault_ends(number);
    }

    fn announce(&mut self, word: u64, text: String) {
        self.trace.note(
            self.now,
            &[word, crate::trace::Hash::of(text.as_bytes())],
            || crate::trace::Happening::World(text),
        );
    }
}
