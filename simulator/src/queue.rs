//! What is to happen, in order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A queue of events by virtual time. Events of the same instant come in the order in which they
/// were scheduled.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Scheduled<E>>,
    scheduled: u64,
}

#[derive(Debug)]
struct Scheduled<E> {
    at: u64,
    number: u64,
    event: E,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Queue {
            heap: BinaryHeap::new(),
            scheduled: 0,
        }
    }

    /// Has `event` happen at `at`.
    pub(crate) fn schedule(&mut self, at: u64, event: E) {
        self.heap.push(Scheduled {
            at,
            number: self.scheduled,
            event,
        });
        self.scheduled += 1;
    }

    /// When the next event happens.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|next| next.at)
    }

    /// Takes the next event.
    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        self.heap.pop().map(|next| (next.at, next.event))
    }
}

impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Scheduled<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_in_the_order_scheduled() {
        let mut queue = Queue::new();
        for (at, event) in [(5, "b"), (3, "a"), (5, "c"), (9, "d")] {
            queue.schedule(at, event);
        }
        assert_eq!(queue.next_at(), Some(3));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(3, "a"), (5, "b"), (5, "c"), (9, "d")]);
    }
}
