//! The bench for PBFT replicas: what is PBFT's own in it.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test file uses its own part of the bench"
)]

mod statements;

use std::time::Duration;

use quorate_core::crypto::Digest;
use quorate_core::id::Slot;
use quorate_core::protocol::{Invalid, Message as _};
use quorate_pbft::{Config, Message, Pbft, Timer};
use quorate_simulator::harness;

pub(crate) use quorate_simulator::harness::{command, context, members, r, signer, state_of, text};
pub(crate) use statements::*;

/// A PBFT replica.
pub(crate) type Node = harness::Node<Pbft>;
/// PBFT replicas, and the messages between them.
pub(crate) type Cluster = harness::Cluster<Pbft>;

/// Small windows, so that checkpoints come soon.
pub(crate) fn config() -> Config {
    Config {
        checkpoint_every: 4,
        window: 8,
        // What tests write is of the time when the replicas start.
        max_clock_skew: Duration::from_secs(3600),
        ..Config::default()
    }
}

/// Whether a message from `from` is let in, in a cluster of four.
pub(crate) fn verify(from: u8, message: &Message) -> Result<(), Invalid> {
    message.verify(r(from), &harness::verifier(4))
}

/// The votes for a slot in messages of a kind.
pub(crate) fn digest_voted(messages: &[Message], slot: u64) -> Option<Digest> {
    messages.iter().find_map(|message| match message {
        Message::Prepare { votes, .. } => {
            let vote = votes.iter().find(|vote| vote.slot == Slot(slot));
            vote.map(|vote| vote.digest)
        }
        _ => None,
    })
}

/// The kinds of the messages, in order.
pub(crate) fn kinds(messages: &[Message]) -> Vec<&'static str> {
    messages.iter().map(Message::kind).collect()
}

/// Replicas without a past; without a rule, what they then do ends no test.
pub(crate) fn cluster(n: usize, config: &Config) -> Cluster {
    Cluster::new(n, config).checking(config.mutant.is_none())
}

/// What PBFT's replicas are made as, and what they are asked.
pub(crate) trait PbftNode {
    /// Replica `me` of four, without a past; without a rule, what it then does ends no test.
    fn of_four(me: u8, config: &Config) -> Node;
    /// Lets the time pass until the replica leaves its view; gives how long that took.
    fn wait_for_view_change(&mut self) -> Duration;
    /// The view that it is in.
    fn view(&self) -> u64;
}

impl PbftNode for Node {
    fn of_four(me: u8, config: &Config) -> Node {
        let mut node = Node::fresh(me, 4, config);
        node.checks = config.mutant.is_none();
        node
    }

    fn wait_for_view_change(&mut self) -> Duration {
        let (start, view) = (self.now, self.view());
        while self.view() == view {
            let waits = self.timers.contains_key(&Timer::NewView);
            self.fire(if waits {
                Timer::NewView
            } else {
                Timer::Request
            });
        }
        self.now.since(start)
    }

    fn view(&self) -> u64 {
        self.regime()
    }
}

/// What PBFT's replicas do together.
pub(crate) trait PbftCluster {
    /// Every replica tells of itself so many times, and what follows from it.
    fn tick(&mut self, times: usize);
    /// The replicas given lose patience with their primary, whom they have told of a command.
    fn change_view(&mut self, impatient: &[u8], text: &str);
}

impl PbftCluster for Cluster {
    fn tick(&mut self, times: usize) {
        for _ in 0..times {
            for node in &mut self.nodes {
                node.fire(Timer::Status);
            }
            self.deliver();
            for to in 0..self.nodes.len() as u8 {
                self.fetch(to);
            }
        }
    }

    fn change_view(&mut self, impatient: &[u8], text: &str) {
        for id in impatient {
            self.node(*id).propose(text);
        }
        for id in impatient {
            self.node(*id).wait_for_view_change();
        }
        self.deliver();
    }
}
