//! When an answer is late.

use std::time::Duration;

use tokio::time::Instant;

/// No answer is late before this, whatever the round trip: a node that takes a snapshot or waits
/// for its disk is not to be doubted at once.
pub(super) const SOONEST: Duration = Duration::from_millis(50);

/// An answer is late after so many times the smoothed round trip.
const ROUND_TRIPS: u32 = 4;

/// How long to wait for any answer before another replica is asked as well.
///
/// The round trip is smoothed as TCP's is, and measured by requests that were sent once only
/// \[Karn87\]. A wait in vain doubles the next, until there is another measurement: where all
/// answers are slow, few requests are sent twice.
pub(super) struct Lateness {
    round_trip: Option<Duration>,
    wait: Duration,
    due: Instant,
}

impl Lateness {
    pub(super) fn new() -> Self {
        Lateness {
            round_trip: None,
            wait: SOONEST,
            due: Instant::now() + SOONEST,
        }
    }

    /// When the next answer is late.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Something was answered, or something waits again.
    pub(super) fn begin(&mut self) {
        self.due = Instant::now() + self.wait;
    }

    /// It was late.
    pub(super) fn in_vain(&mut self) {
        self.wait = self.wait.saturating_mul(2).min(Duration::from_secs(3600));
        self.begin();
    }

    /// An answer has taken so long.
    pub(super) fn measured(&mut self, round_trip: Duration) {
        let smoothed = match self.round_trip {
            Some(before) => before - before / 8 + round_trip / 8,
            None => round_trip,
        };
        self.round_trip = Some(smoothed);
        self.wait = smoothed.saturating_mul(ROUND_TRIPS).max(SOONEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(lateness: &Lateness) -> u128 {
        lateness.wait.as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_some_round_trips_and_doubles_until_the_next_is_measured() {
        let mut lateness = Lateness::new();
        assert_eq!(millis(&lateness), 50);
        lateness.in_vain();
        lateness.in_vain();
        assert_eq!(millis(&lateness), 200);
        assert_eq!(lateness.due(), Instant::now() + Duration::from_millis(200));
        lateness.measured(Duration::from_millis(1));
        assert_eq!(millis(&lateness), 50);
        for _ in 0..100 {
            lateness.measured(Duration::from_millis(300));
        }
        assert!(millis(&lateness).abs_diff(1200) < 20);
    }
}
