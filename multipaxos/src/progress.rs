//! What a leader knows of each slot under way and of each peer. [vanRenesse15 §2, where a
//! commander keeps it]

use std::collections::VecDeque;
use std::time::Duration;

use quorate_core::id::{Slot, Time};
use quorate_core::quorum::Tally;
use serde::{Deserialize, Serialize};

/// Slots, as ranges: first and last of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots(Vec<(Slot, Slot)>);

impl Slots {
    /// The slots from `first` through `last`; none if there are none.
    pub fn between(first: Slot, last: Slot) -> Slots {
        match first <= last {
            true => Slots(vec![(first, last)]),
            false => Slots::default(),
        }
    }

    /// Adds `slot`. Slots that come one after the other make one range.
    pub fn push(&mut self, slot: Slot) {
        match self.0.last_mut() {
            Some((_, last)) if slot == last.next() => *last = slot,
            Some((first, last)) if (*first..=*last).contains(&slot) => {}
            _ => self.0.push((slot, slot)),
        }
    }

    /// First and last slot of each range.
    pub fn ranges(&self) -> &[(Slot, Slot)] {
        &self.0
    }

    /// Whether there are no slots.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The highest slot; [`Slot::ZERO`] if there is none.
    pub(crate) fn highest(&self) -> Slot {
        let all = self.0.iter().map(|(first, last)| *first.max(last));
        all.max().unwrap_or_default()
    }
}

/// A slot that is proposed and not known to be executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    /// Who has accepted the proposal.
    pub(crate) acceptors: Tally,
    /// When it was sent last.
    pub(crate) sent: Time,
}

/// The rounds of heartbeats: when each began, and which a quorum has heard of.
#[derive(Clone, Debug)]
pub(crate) struct Rounds {
    /// The last round begun.
    pub(crate) last: u64,
    /// Rounds that are not known to have reached a quorum, with when they began.
    begun: VecDeque<(u64, Time)>,
    /// When the last round began of which a quorum has heard.
    pub(crate) confirmed: Option<Time>,
    /// That round.
    pub(crate) heard: u64,
}

impl Rounds {
    pub(crate) fn new() -> Self {
        Rounds {
            last: 0,
            begun: VecDeque::new(),
            confirmed: None,
            heard: 0,
        }
    }

    pub(crate) fn begin(&mut self, now: Time) {
        self.last += 1;
        self.begun.push_back((self.last, now));
    }

    /// A quorum has heard of all rounds through `round`.
    pub(crate) fn confirm(&mut self, round: u64) {
        while let Some((begun, at)) = self.begun.front().copied()
            && begun <= round
        {
            self.begun.pop_front();
            self.confirmed = Some(at);
            self.heard = begun;
        }
    }

    /// Whether a round is on its way.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.begun.is_empty()
    }
}

/// How long a leader has chosen nothing, though it has proposed something: whoever hears it need not
/// be able to accept. Or how long those who hear it have executed nothing. Counted in heartbeats, so that a leader that was paused hears what has arrived
/// meanwhile before it judges.
#[derive(Clone, Debug)]
pub(crate) struct Standstill {
    /// Through where it had executed at the last heartbeat.
    executed: Slot,
    lasts: Duration,
    patience: Duration,
}

impl Standstill {
    pub(crate) fn borne_for(patience: Duration) -> Self {
        Standstill {
            executed: Slot::ZERO,
            lasts: Duration::ZERO,
            patience,
        }
    }

    /// A heartbeat is due, so long after the last: whether it has lasted too long.
    pub(crate) fn is_too_long(&mut self, executed: Slot, waits: bool, beat: Duration) -> bool {
        self.lasts = match waits && executed == self.executed {
            true => self.lasts + beat,
            false => Duration::ZERO,
        };
        self.executed = executed;
        self.lasts > self.patience
    }
}

/// What a leader knows of one replica, itself included.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// How far it has executed, as it said last.
    pub(crate) executed: Slot,
    /// The watermark that it was told last.
    pub(crate) told: Slot,
    /// Through where it waits to be told that slots are chosen; [`Slot::ZERO`] if it does not.
    pub(crate) awaits: Slot,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_follow_each_other_are_one_range() {
        let mut slots = Slots::default();
        for slot in [4, 5, 5, 6, 9, 7] {
            slots.push(Slot(slot));
        }
        let ranges = [(4, 6), (9, 9), (7, 7)].map(|(a, b)| (Slot(a), Slot(b)));
        assert_eq!(slots.ranges(), ranges);
        assert_eq!(slots.highest(), Slot(9));
        assert!(Slots::between(Slot(3), Slot(2)).is_empty());
    }

    #[test]
    fn the_last_round_that_a_quorum_heard_of_counts() {
        let mut rounds = Rounds::new();
        for millis in [10, 20, 30] {
            rounds.begin(Time(millis));
        }
        rounds.confirm(2);
        assert_eq!(rounds.confirmed, Some(Time(20)));
        assert!(rounds.is_waiting());
        rounds.confirm(1);
        assert_eq!(rounds.confirmed, Some(Time(20)), "a late answer");
        rounds.confirm(3);
        assert!(!rounds.is_waiting());
    }
}
