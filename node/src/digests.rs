//! Digests of the whole state, for whoever asks: one at a time, once for all who ask at the same
//! point, and rarely. The state is written on the driver's task, and hashed elsewhere.

use std::time::Duration;

use quorate_core::crypto::Digest;
use quorate_core::replica::Halt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::client_wire::Report;
use crate::replies::ConnectionId;

/// No digest is made sooner after another.
const SOONEST: Duration = Duration::from_millis(100);

/// And so many times as long as the last took is left to other work.
const REST: u32 = 9;

/// How many may wait on one connection, and of the node's own; one more has no digest.
const WAITING: usize = 16;

/// Who wants a digest.
pub(crate) enum Asker {
    /// A client, and its question's number.
    Client(ConnectionId, u64),
    /// The application.
    Own(oneshot::Sender<Result<(u64, Digest), Halt>>),
}

impl Asker {
    fn connection(&self) -> Option<ConnectionId> {
        match self {
            Asker::Client(id, _) => Some(*id),
            Asker::Own(_) => None,
        }
    }
}

/// Who waits for a digest, and the last that was made.
pub(crate) struct Digests {
    waiting: Vec<Asker>,
    /// Those whose digest is being made, when that began, and what goes with it.
    making: Option<(Vec<Asker>, Instant, Report)>,
    last: Option<Report>,
    next: Instant,
}

impl Digests {
    pub(crate) fn new() -> Self {
        Digests {
            waiting: Vec::new(),
            making: None,
            last: None,
            next: Instant::now(),
        }
    }

    /// Takes an asker, unless too many wait there.
    pub(crate) fn ask(&mut self, asker: Asker) -> Result<(), Asker> {
        let connection = asker.connection();
        let there = self.waiting.iter().filter(|a| a.connection() == connection);
        if there.count() >= WAITING {
            return Err(asker);
        }
        self.waiting.push(asker);
        Ok(())
    }

    /// A client has gone.
    pub(crate) fn forget(&mut self, id: ConnectionId) {
        self.waiting.retain(|asker| asker.connection() != Some(id));
    }

    /// When the next is to be made, if somebody waits and none is being made.
    pub(crate) fn due(&self) -> Option<Instant> {
        let idle = self.making.is_none() && !self.waiting.is_empty();
        idle.then_some(self.next)
    }

    /// Those who wait, if the last digest is still that of the state: so many entries executed.
    pub(crate) fn answered(&mut self, executed: u64) -> Option<(Vec<Asker>, Report)> {
        let last = self.last.as_ref().filter(|last| last.executed == executed);
        let report = last.filter(|_| !self.waiting.is_empty())?.clone();
        Some((std::mem::take(&mut self.waiting), report))
    }

    /// The digest of the state is being made, that goes with `report`. It was `begun` when the state
    /// was about to be written, for which all others wait.
    pub(crate) fn begin(&mut self, report: Report, begun: Instant) {
        let askers = std::mem::take(&mut self.waiting);
        self.making = Some((askers, begun, report));
    }

    /// The digest is made: gives who waited for it.
    pub(crate) fn made(&mut self, digest: Digest) -> Option<(Vec<Asker>, Report)> {
        let (askers, begun, report) = self.making.take()?;
        let report = Report {
            digest: Some(digest),
            ..report
        };
        self.next = Instant::now() + SOONEST.max(begun.elapsed() * REST);
        self.last = Some(report.clone());
        Some((askers, report))
    }

    /// The state cannot be written: gives who waits.
    pub(crate) fn failed(&mut self) -> Vec<Asker> {
        self.next = Instant::now() + SOONEST;
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use quorate_core::id::ReplicaId;
    use quorate_core::protocol::{Role, Status};

    use super::*;

    fn report(executed: u64) -> Report {
        Report {
            status: Status {
                protocol: Cow::Borrowed("test"),
                me: ReplicaId(0),
                role: Role::Peer,
                regime: 0,
                leader: None,
                committed: executed,
            },
            executed,
            digest: None,
            sent: quorate_core::ledger::Traffic::default(),
        }
    }

    fn ask(digests: &mut Digests, connection: u64, number: u64) -> bool {
        let asker = Asker::Client(ConnectionId(connection), number);
        digests.ask(asker).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_of_wishes_costs_one_digest() {
        let mut digests = Digests::new();
        let taken = (0..200_000).filter(|number| ask(&mut digests, 1, *number));
        assert_eq!(taken.count(), WAITING);
        assert!(ask(&mut digests, 2, 0), "another is not kept out");
        assert_eq!(digests.due(), Some(Instant::now()));
        digests.begin(report(7), Instant::now());
        assert!(ask(&mut digests, 3, 0));
        assert_eq!(digests.due(), None, "one at a time");
        tokio::time::advance(Duration::from_millis(50)).await;
        let (askers, made) = digests.made(Digest::of(b"7")).unwrap();
        assert_eq!((askers.len(), made.executed), (WAITING + 1, 7));
        assert_eq!(made.digest, Some(Digest::of(b"7")));
        // Who asks at the same point has the same, at once.
        let (askers, again) = digests.answered(7).unwrap();
        assert_eq!((askers.len(), again.digest), (1, made.digest));
    }

    #[tokio::test(start_paused = true)]
    async fn most_of_the_time_is_left_to_other_work() {
        let mut digests = Digests::new();
        let start = Instant::now();
        let mut made = 0;
        while start.elapsed() < Duration::from_secs(10) {
            ask(&mut digests, 1, made);
            assert!(digests.answered(made).is_none(), "the state has changed");
            tokio::time::sleep_until(digests.due().unwrap()).await;
            digests.begin(report(made), Instant::now());
            tokio::time::advance(Duration::from_millis(100)).await;
            assert!(digests.made(Digest::of(b"")).is_some());
            made += 1;
        }
        assert!(made <= 11, "{made}");
        ask(&mut digests, 1, 0);
        digests.forget(ConnectionId(1));
        assert_eq!(digests.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_in_which_the_state_is_written_counts() {
        let mut digests = Digests::new();
        ask(&mut digests, 1, 0);
        let begun = Instant::now();
        let writing = Duration::from_millis(200);
        tokio::time::advance(writing).await;
        digests.begin(report(1), begun);
        assert!(digests.made(Digest::of(b"")).is_some());
        ask(&mut digests, 1, 1);
        assert_eq!(digests.due(), Some(Instant::now() + writing * REST));
    }
}
