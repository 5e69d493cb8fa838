//! What one sender may take of this node's processor before its frames reach the driver.

use std::time::Duration;

use tokio::time::Instant;

/// How much of a core one sender may have, as a divisor. A correct replica under full load needs
/// less, for the driver, which is one task, must step what was checked here.
const SHARE: u32 = 2;

/// How much it may have had at once.
const BURST: Duration = Duration::from_secs(1);

/// The longest wait at a time: a machine that stood still must not silence anybody for long.
const LONGEST: Duration = Duration::from_secs(1);

/// What a frame costs that nobody correct sends, whatever it took to find that out.
const REJECTED: Duration = Duration::from_millis(20);

/// The account of one sender. Who overdraws it waits, and is not read from meanwhile.
#[derive(Debug)]
pub(crate) struct Budget {
    spent: Duration,
    at: Instant,
    rejected: u64,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Budget {
            spent: Duration::ZERO,
            at: Instant::now(),
            rejected: 0,
        }
    }

    /// A frame took so long to be looked at. Gives how long its sender has to wait.
    pub(crate) fn spend(&mut self, took: Duration) -> Option<Duration> {
        let now = Instant::now();
        let earned = (now - self.at) / SHARE;
        self.at = now;
        self.spent = self.spent.saturating_sub(earned) + took;
        let over = self.spent.checked_sub(BURST)?;
        Some((over * SHARE).min(LONGEST)).filter(|wait| !wait.is_zero())
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
        let (mut budget, start) = (Budget::new(), Instant::now());
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
        let share = (during / SHARE + BURST).as_millis();
        assert!(passed.abs_diff(share) < 600, "{passed} for {share}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_within_its_share_never_waits() {
        let mut budget = Budget::new();
        for _ in 0..10_000 {
            tokio::time::advance(FRAME * SHARE).await;
            assert_eq!(budget.spend(FRAME), None);
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
