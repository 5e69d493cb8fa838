//! A primary that lies orders all requests but one, and keeps backups behind so that they take what they
//! wait for to be what they have yet to catch up with.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Node, PbftNode, command, r};
use quorate_core::id::{ReplicaId, Time};
use quorate_core::request::Batch;
use quorate_pbft::{Config, Message};

const DELAY: Duration = Duration::from_millis(1);

/// By how many slots the liar lets the slower backups lag.
const LAG: u64 = 3;

/// Four replicas. Replica 0, the first primary, is the liar: it does all that it should, but that it
/// takes no notice of one batch, and lets only backup 1 execute at once. To backups 2 and 3 it tells its
/// commits when that has executed so many slots more; so it does with its pre-prepares to backup 3, as
/// long as backup 1 prepares.
struct World {
    nodes: Vec<Node>,
    left_out: Batch,
    now: Time,
    flights: BTreeMap<(Time, u64), (ReplicaId, ReplicaId, Message)>,
    sent: u64,
    /// What the liar holds back.
    held: Vec<(ReplicaId, Message)>,
}

impl World {
    fn new(config: &Config, left_out: &str) -> World {
        let mut world = World {
            nodes: (0..4).map(|id| Node::of_four(id, config)).collect(),
            left_out: command(left_out),
            now: Time::ZERO,
            flights: BTreeMap::new(),
            sent: 0,
            held: Vec::new(),
        };
        world.gather();
        world
    }

    fn propose(&mut self, id: u8, text: &str) {
        let node = &mut self.nodes[usize::from(id)];
        node.now = self.now;
        node.propose(text);
        self.gather();
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let arrives = self.flights.first_key_value().map(|((at, _), _)| *at);
            let timers = self.nodes.iter().enumerate();
            let timers = timers.filter_map(|(place, node)| Some((node.next_timer()?.1, place)));
            let (due, place) = timers.min().expect("statuses are always due");
            let next = arrives.map_or(due, |arrives| arrives.min(due));
            if next > until {
                break;
            }
            self.now = next;
            if arrives.is_some_and(|arrives| arrives <= due) {
                let (_, (from, to, message)) = self.flights.pop_first().expect("it arrives");
                self.arrive(from, to, message);
            } else {
                let (timer, _) = self.nodes[place].next_timer().expect("it is due");
                self.nodes[place].fire(timer);
            }
            self.gather();
        }
        self.now = until;
    }

    fn arrive(&mut self, from: ReplicaId, to: ReplicaId, message: Message) {
        let ignored = matches!(&message, Message::Forward { batch, .. } if *batch == self.left_out);
        if to == r(0) && ignored {
            return;
        }
        let node = &mut self.nodes[to.index()];
        node.now = self.now;
        node.receive(from, message);
    }

    fn gather(&mut self) {
        for place in 0..self.nodes.len() {
            let from = self.nodes[place].me;
            for (to, message) in self.nodes[place].take() {
                match (from, &message) {
                    (ReplicaId(0), Message::Decided(_)) => {}
                    (ReplicaId(0), _) => self.held.push((to, message)),
                    _ => self.send(from, to, message),
                }
            }
        }
        for (to, message) in std::mem::take(&mut self.held) {
            match self.is_held(to, &message) {
                true => self.held.push((to, message)),
                false => self.send(r(0), to, message),
            }
        }
    }

    fn is_held(&self, to: ReplicaId, message: &Message) -> bool {
        let first = &self.nodes[1];
        let slot = match message {
            Message::Commit { votes, .. } if to >= r(2) => votes.last().map(|(slot, _)| *slot),
            Message::PrePrepare { proposal, .. } if to == r(3) && first.view() == 0 => {
                Some(proposal.slot)
            }
            _ => None,
        };
        slot.is_some_and(|slot| slot.0 + LAG > first.committed())
    }

    fn send(&mut self, from: ReplicaId, to: ReplicaId, message: Message) {
        self.sent += 1;
        let at = (self.now + DELAY, self.sent);
        self.flights.insert(at, (from, to, message));
    }

    fn is_executed(&self, id: u8, text: &str) -> bool {
        let executed = self.nodes[usize::from(id)].executed();
        executed.iter().any(|done| done == text)
    }
}

/// Whether all have executed what the primary leaves out within a minute, in which it has other requests
/// ordered.
fn is_found_out() -> bool {
    let config = Config {
        max_clock_skew: Duration::from_secs(3600),
        ..Config::default()
    };
    let mut world = World::new(&config, "left out");
    for id in 1..4 {
        world.propose(id, "left out");
    }
    (0..600).any(|number: u64| {
        world.propose(0, &number.to_string());
        world.run_for(Duration::from_millis(100));
        (1..4).all(|id| world.is_executed(id, "left out"))
    })
}

/// [Clement09 §4]: such a primary is found out, however it has its backups lag. What keeps one
/// backup behind for ever without the rule: `who_is_kept_behind_asks_for_another_primary_all_the_same`.
#[test]
fn a_primary_that_leaves_a_request_out_and_keeps_backups_behind_is_found_out() {
    assert!(is_found_out());
}
