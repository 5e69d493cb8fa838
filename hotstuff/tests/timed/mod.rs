//! Replicas on the bench, messages that take time, and liars that a test speaks for.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::id::{ReplicaId, Time};
use quorate_hotstuff::{Config, Message, QuorumCertificate, Timeout, TimeoutShare, View};

use crate::common::{HotstuffNode, Node, r, signer};

/// Correct replicas that have always something to do, and liars that are silent but for their
/// time-outs, which they send as soon as any correct replica enters a view.
pub(crate) struct Timed {
    n: usize,
    liars: Vec<u8>,
    nodes: Vec<Node>,
    delay: Duration,
    now: Time,
    /// What is under way, by when it arrives.
    flights: BTreeMap<(Time, u64), (ReplicaId, ReplicaId, Message)>,
    sent: u64,
    /// The latest view of any correct replica, which the liars know.
    view: u64,
    /// The highest certificate that they have seen.
    highest: QuorumCertificate,
    proposed: usize,
    /// Of each correct replica, how many of its commits were looked at, and how many of those had
    /// commands.
    executed: Vec<(usize, usize)>,
}

impl Timed {
    pub(crate) fn new(n: usize, liars: &[u8], config: &Config, delay: Duration) -> Timed {
        let correct = (0..n as u8).filter(|id| !liars.contains(id));
        let mut world = Timed {
            n,
            liars: liars.to_vec(),
            nodes: correct.map(|id| Node::fresh(id, n, config)).collect(),
            delay,
            now: Time::ZERO,
            flights: BTreeMap::new(),
            sent: 0,
            view: 0,
            highest: QuorumCertificate::genesis(),
            proposed: 0,
            executed: vec![(0, 0); n - liars.len()],
        };
        world.settle();
        world
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// The latest view that a correct replica is in.
    pub(crate) fn view(&self) -> u64 {
        self.nodes.iter().map(Node::view).max().unwrap_or(0)
    }

    /// What happens next: a message arrives, or a timer is due.
    pub(crate) fn step(&mut self) {
        let arrives = self.flights.first_key_value().map(|((at, _), _)| *at);
        let timers = self.nodes.iter().enumerate();
        let due = timers.filter_map(|(place, node)| Some((node.next_timer()?, place)));
        let due = due.min_by_key(|((_, at), place)| (*at, *place));
        match due {
            Some(((timer, at), place)) if arrives.is_none_or(|arrives| at < arrives) => {
                self.now = at;
                self.nodes[place].fire(timer);
            }
            _ => {
                let Some(((at, _), (from, to, message))) = self.flights.pop_first() else {
                    return;
                };
                self.now = at;
                if let Some(node) = self.nodes.iter_mut().find(|node| node.me == to) {
                    node.now = at;
                    node.receive(from, message);
                }
            }
        }
        self.settle();
    }

    /// Sends what is to be sent, and sees to it that there is always something to do.
    fn settle(&mut self) {
        for (node, (seen, executed)) in self.nodes.iter().zip(&mut self.executed) {
            let new = node.commits.iter().skip(*seen);
            *executed += new.filter(|commit| !commit.batch.is_empty()).count();
            *seen = node.commits.len();
        }
        let executed = self.executed.iter().map(|(_, executed)| *executed);
        if executed.max() == Some(self.proposed) {
            let place = self.proposed % self.nodes.len();
            let text = format!("{}", self.proposed);
            self.proposed += 1;
            self.nodes[place].now = self.now;
            self.nodes[place].propose(&text);
        }
        for place in 0..self.nodes.len() {
            let from = self.nodes[place].me;
            for (to, message) in self.nodes[place].take() {
                self.learn(&message);
                self.send(self.delay, from, to, message);
            }
        }
        self.lie();
    }

    fn send(&mut self, delay: Duration, from: ReplicaId, to: ReplicaId, message: Message) {
        self.sent += 1;
        let at = (self.now + delay, self.sent);
        self.flights.insert(at, (from, to, message));
    }

    fn learn(&mut self, message: &Message) {
        let certificate = match message {
            Message::Proposal(proposal) => &proposal.certificate,
            Message::Timeout(timeout) => &timeout.highest,
            Message::Certified(certificate) => certificate,
            _ => return,
        };
        if certificate.view() > self.highest.view() {
            self.highest = certificate.clone();
        }
    }

    /// Each liar gives up the latest view, at once, and knows what correct replicas know.
    fn lie(&mut self) {
        if self.view() <= self.view {
            return;
        }
        self.view = self.view();
        let view = View(self.view);
        for liar in self.liars.clone() {
            let share = TimeoutShare::signed(&signer(liar), view, self.highest.view());
            let timeout = Message::Timeout(Box::new(Timeout {
                view,
                share,
                highest: self.highest.clone(),
                vote: None,
                entered: None,
            }));
            for to in ReplicaId::all(self.n) {
                self.send(Duration::ZERO, r(liar), to, timeout.clone());
            }
        }
    }
}
