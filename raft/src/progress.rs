//! How far each peer has come, as its leader knows it. [Ongaro14 figure 2, "volatile state on
//! leaders"; OngaroThesis §10.2.1]

use std::collections::VecDeque;

use quorate_core::id::Slot;

use crate::config::Config;

/// What the leader sends a peer next.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// The next slot to send. [Ongaro14 §5.3 nextIndex]
    pub(crate) next: Slot,
    flow: Flow,
    /// The commit index the peer was last told.
    pub(crate) told_commit: Slot,
    /// The round the peer was last asked to confirm.
    pub(crate) told_round: u64,
    /// Where the snapshot ends that the peer was told to fetch, until it has the log so far.
    fetches: Option<Slot>,
}

#[derive(Clone, Debug)]
enum Flow {
    /// Where the logs agree is not known: one message with entries at a time, until it is.
    Probe {
        /// Entries were sent, and have not been answered.
        sent: bool,
    },
    /// Messages follow each other without waiting; `next` runs ahead of what is acknowledged.
    Pipeline(InFlight),
}

/// What was sent, or given to the disk, and is not acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    /// For each message its last slot, and the bytes of its entries.
    messages: VecDeque<(Slot, usize)>,
    bytes: usize,
}

impl InFlight {
    /// Entries through `last`, of `bytes` bytes together, are under way.
    pub(crate) fn push(&mut self, last: Slot, bytes: usize) {
        self.messages.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// All through `matched` is acknowledged.
    pub(crate) fn acknowledged(&mut self, matched: Slot) {
        while let Some((last, bytes)) = self.messages.front().copied()
            && last <= matched
        {
            self.messages.pop_front();
            self.bytes -= bytes;
        }
    }

    /// How many bytes are under way.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Progress {
    /// A peer that is first asked whether it has the entry before `next`.
    pub(crate) fn probe(next: Slot) -> Self {
        Progress {
            next,
            flow: Flow::Probe { sent: false },
            told_commit: Slot::ZERO,
            told_round: 0,
            fetches: None,
        }
    }

    /// Whether it is not known where the logs agree.
    pub(crate) fn is_probing(&self) -> bool {
        matches!(self.flow, Flow::Probe { .. })
    }

    /// The peer lacks what is compacted, and is told to fetch the snapshot that ends at `snapshot`.
    /// Told again, it is still the first that it fetches, unless that is of no use any more.
    pub(crate) fn must_fetch(&mut self, compacted: Slot, snapshot: Slot) {
        let useful = self.fetches.filter(|slot| *slot >= compacted);
        self.fetches = useful.or(Some(snapshot));
    }

    /// Where the snapshot ends that the peer fetches: what follows it will need.
    pub(crate) fn fetches(&self) -> Option<Slot> {
        self.fetches
    }

    /// Whether entries may be sent now.
    pub(crate) fn has_room(&self, config: &Config) -> bool {
        match &self.flow {
            Flow::Probe { sent } => !sent,
            Flow::Pipeline(in_flight) => {
                in_flight.messages.len() < config.max_inflight_messages
                    && in_flight.bytes < config.max_inflight_bytes
            }
        }
    }

    /// Entries through `last`, of `bytes` bytes together, have been sent.
    pub(crate) fn sent(&mut self, last: Slot, bytes: usize) {
        match &mut self.flow {
            Flow::Probe { sent } => *sent = true,
            Flow::Pipeline(in_flight) => {
                in_flight.push(last, bytes);
                self.next = last.next();
            }
        }
    }

    /// The peer has the leader's log through `matched`.
    pub(crate) fn accepted(&mut self, matched: Slot) {
        match &mut self.flow {
            Flow::Probe { .. } if matched >= self.next.previous() => {
                self.flow = Flow::Pipeline(InFlight::default());
            }
            Flow::Probe { .. } => {}
            Flow::Pipeline(in_flight) => in_flight.acknowledged(matched),
        }
        self.fetches = self.fetches.filter(|slot| *slot > matched);
        self.next = self.next.max(matched.next());
    }

    /// The peer, which has the leader's log through `matched`, does not have the entry in
    /// `previous`, and `agreeable` is the last slot in which it may have the leader's entry.
    ///
    /// An answer that was overtaken changes nothing: to a question about a slot that has since
    /// been acknowledged, or to another question than the one a probe is asking.
    pub(crate) fn rejected(&mut self, previous: Slot, matched: Slot, agreeable: Slot) {
        let late = match self.flow {
            Flow::Probe { .. } => previous.next() != self.next,
            Flow::Pipeline(_) => previous >= self.next,
        };
        if late || previous <= matched {
            return;
        }
        self.next = agreeable.next().min(previous).max(matched.next());
        self.flow = Flow::Probe { sent: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            max_inflight_messages: 2,
            max_inflight_bytes: 100,
            ..Config::default()
        }
    }

    fn pipeline(next: u64) -> Progress {
        let mut progress = Progress::probe(Slot(next));
        progress.accepted(Slot(next - 1));
        progress
    }

    #[test]
    fn a_probe_waits_for_its_answer() {
        let mut progress = Progress::probe(Slot(8));
        assert!(progress.has_room(&config()));
        progress.sent(Slot(9), 10);
        assert_eq!(progress.next, Slot(8));
        assert!(!progress.has_room(&config()));
        progress.accepted(Slot(5));
        assert!(!progress.has_room(&config()), "a late acknowledgement");
        progress.accepted(Slot(9));
        assert_eq!(progress.next, Slot(10));
        assert!(progress.has_room(&config()));
    }

    #[test]
    fn messages_and_bytes_in_flight_are_bounded() {
        let mut progress = pipeline(5);
        progress.sent(Slot(5), 1);
        assert!(progress.has_room(&config()));
        progress.sent(Slot(6), 1);
        assert!(!progress.has_room(&config()), "two messages");
        progress.accepted(Slot(6));
        progress.sent(Slot(7), 100);
        assert!(!progress.has_room(&config()), "a hundred bytes");
        progress.accepted(Slot(7));
        assert!(progress.has_room(&config()));
        assert_eq!(progress.next, Slot(8));
    }

    #[test]
    fn a_rejection_moves_back_but_never_into_what_is_acknowledged() {
        let mut progress = pipeline(10);
        progress.sent(Slot(12), 1);
        progress.rejected(Slot(12), Slot(9), Slot(3));
        assert_eq!(progress.next, Slot(10));
        let mut progress = Progress::probe(Slot(10));
        progress.rejected(Slot(9), Slot(0), Slot(20));
        assert_eq!(progress.next, Slot(9), "always further back than before");
        progress.rejected(Slot(8), Slot(0), Slot(2));
        assert_eq!(progress.next, Slot(3));
    }

    #[test]
    fn a_late_rejection_changes_nothing() {
        let mut progress = pipeline(10);
        progress.sent(Slot(12), 1);
        progress.rejected(Slot(9), Slot(9), Slot(3));
        assert_eq!(progress.next, Slot(13));
        let mut progress = Progress::probe(Slot(10));
        progress.rejected(Slot(11), Slot(0), Slot(3));
        assert_eq!(progress.next, Slot(10));
    }
}
