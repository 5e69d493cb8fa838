//! What one sender may take of this node's processor: of any core before its frames reach the
//! driver, and of the driver's for what it wishes to be told.

use std::time::Duration;

use tokio::time::Instant;

/// How much of a core a sender may have, as a divisor, and how much it may have had at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    divisor: u32,
    burst: Duration,
}

/// Before the driver, which is one task and must step what was checked here. What a correct replica
/// needs under full load has not been measured.
pub(crate) const GATE: Share = Share {
    divisor: 2,
    burst: Duration::from_secs(1),
};

/// Of the driver, for a client's reads and questions for status, while others wait.
pub(crate) const WISHES: Share = Share {
    divisor: 8,
    burst: Duration::from_millis(20),
};

/// The longest wait at a time.
const LONGEST: Duration = Duration::from_secs(1);

/// The most that one frame or wish is charged: how long it took shows the clock, and a machine that
/// stood still meanwhile must not silence anybody for it.
const DEAREST: Duration = Duration::from_millis(100);

/// What a frame costs that nobody correct sends, whatever it took to find that out.
const REJECTED: Duration = Duration::from_millis(20);

/// The account of one sender. Who overdraws it waits, and is not read from meanwhile.
#[derive(Debug)]
pub(crate) struct Budget {
    share: Share,
    spent: Duration,
    at: Instant,
    rejected: u64,
}

impl Budget {
    pub(crate) fn new(share: Share) -> Self {
        Budget {
            share,
            spent: Duration::ZERO,
            at: Instant::now(),
            rejected: 0,
        }
    }

    /// A frame took so long to be looked at. Gives how long its sender has to wait.
    pub(crate) fn spend(&mut self, took: Duration) -> Option<Duration> {
        let now = Instant::now();
        let earned = (now - self.at) / self.share.divisor;
        self.at = now;
        self.spent = self.spent.saturating_sub(earned) + took.min(DEAREST);
        let over = self.spent.checked_sub(self.share.burst)?;
        let wait = over * self.share.divisor;
        Some(wait.min(LONGEST)).filter(|wait| !wait.is_zero())
    }

    /// A frame was rejected, after so long. Gives how long its sender has to wait, and how many
    /// there have been if that is worth a line in the log: ever more rarely.
    pub(crate) fn reject(&mut self, took: Duration) -> (Option<Duration>, Option<u64>) {
        self.rejected += 1;
        let wait = self.spend(took + REJECTED);
        (wait, Some(self.rejected).filter(|n| n.is_power_of_two()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(1);

    /// How many frames of a kind pass in so long, if their sender waits as it is told.
    async fn pass(
        during: Duration,
        mut spend: impl FnMut(&mut Budget) -> Option<Duration>,
    ) -> u128 {
        let (mut budget, start) = (Budget::new(GATE), Instant::now());
        for passed in 0.. {
            if start.elapsed() >= during {
                return passed;
            }
            tokio::time::advance(FRAME).await;
            if let Some(wait) = spend(&mut budget) {
                tokio::time::sleep(wait).await;
            }
        }
        0
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_at_full_speed_has_its_share_and_a_burst() {
        let during = Duration::from_secs(20);
        let passed = pass(during, |budget| budget.spend(FRAME)).await;
        let share = (during / GATE.divisor + GATE.burst).as_millis();
        assert!(passed.abs_diff(share) < 600, "{passed} for {share}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_within_its_share_never_waits() {
        let mut budget = Budget::new(GATE);
        for _ in 0..10_000 {
            tokio::time::advance(FRAME * GATE.divisor).await;
            assert_eq!(budget.spend(FRAME), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_stood_still_silences_nobody() {
        let mut budget = Budget::new(GATE);
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(10)).await;
            assert_eq!(budget.spend(Duration::from_secs(10)), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_rejected_is_dear_and_fills_no_log() {
        let mut lines = 0;
        let passed = pass(Duration::from_secs(60), |budget| {
            let (wait, line) = budget.reject(FRAME / 100);
            lines += u32::from(line.is_some());
            wait
        });
        let passed = passed.await;
        assert!(passed < 60 * 30, "{passed}");
        assert!(lines <= 12, "{lines}");
    }
}
