//! One replica of four lies, the network loses, repeats and reorders, and replicas restart: the
//! others agree on every slot, and serve once the network is good and the liar silent.

mod common;

use std::collections::BTreeMap;

use common::{Node, PbftNode, command, config, prepare_signature, proposal_by, r, signer};
use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::{Input, Message as _, Protocol, SnapshotRef};
use quorate_pbft::{
    CheckpointCertificate, Config, Entry, Message, Mutant, NewView, Timer, View, ViewChange,
};
use quorate_simulator::seeds::told;

/// Numbers that follow from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

const LIAR: u8 = 0;

struct World {
    chance: Chance,
    config: Config,
    nodes: Vec<Node>,
    pool: Vec<(ReplicaId, ReplicaId, Message)>,
    /// What was executed, in which slot.
    agreed: BTreeMap<Slot, Digest>,
    /// Where two correct replicas have executed different batches.
    disagreement: Option<Slot>,
    proposed: u64,
    restarts: u64,
    lies: u64,
    /// The digests that the liar last proposed instead of what it should.
    told: BTreeMap<Slot, Digest>,
}

impl World {
    fn new(seed: u64, config: &Config) -> World {
        World {
            chance: Chance(seed),
            config: config.clone(),
            nodes: (0..4).map(|id| Node::of_four(id, config)).collect(),
            disagreement: None,
            pool: Vec::new(),
            agreed: BTreeMap::new(),
            proposed: 0,
            restarts: 0,
            lies: 0,
            told: BTreeMap::new(),
        }
    }

    /// Takes what `id` has said and done.
    fn gather(&mut self, id: u8) {
        let node = &mut self.nodes[usize::from(id)];
        for commit in node.commits.drain(..) {
            let (slot, digest) = (commit.id.slot, commit.batch.digest());
            if id != LIAR && *self.agreed.entry(slot).or_insert(digest) != digest {
                self.disagreement = Some(slot);
            }
        }
        for (to, message) in node.take() {
            let message = match id {
                LIAR => self.lie(message),
                _ => Some(message),
            };
            self.pool
                .extend(message.map(|message| (r(id), to, message)));
        }
    }

    /// What the liar sends to one replica instead of what it should.
    fn lie(&mut self, message: Message) -> Option<Message> {
        if !self.chance.one_in(3) {
            return Some(message);
        }
        self.lies += 1;
        let other = command(&format!("lie {}", self.chance.below(3)));
        let told = |slot: Slot, told: &BTreeMap<Slot, Digest>| {
            told.get(&slot).copied().unwrap_or(Digest::of(b"a lie"))
        };
        Some(match message {
            Message::PrePrepare { proposal, entry } if proposal.view.primary(4) == r(LIAR) => {
                let (view, slot) = (proposal.view.0, proposal.slot.0);
                let batch = other;
                let entry = Entry { batch, ..entry };
                self.told.insert(proposal.slot, entry.digest());
                Message::PrePrepare {
                    proposal: proposal_by(LIAR, view, slot, entry.digest()),
                    entry,
                }
            }
            Message::Prepare { view, mut votes } => {
                for vote in &mut votes {
                    vote.digest = told(vote.slot, &self.told);
                    vote.signature = prepare_signature(LIAR, view.0, vote.slot.0, &vote.digest);
                }
                Message::Prepare { view, votes }
            }
            Message::Commit { view, mut votes } => {
                for (slot, digest) in &mut votes {
                    *digest = told(*slot, &self.told);
                }
                Message::Commit { view, votes }
            }
            Message::Checkpoint(vote) => {
                let digest = Digest::of(b"a lie");
                Message::Checkpoint(common::checkpoint(LIAR, vote.slot.0, digest))
            }
            Message::ViewChange(change) => Message::ViewChange(ViewChange::signed(
                &signer(LIAR),
                (View(change.view.0 + self.chance.below(2)), r(LIAR)),
                change.stable.filter(|_| change.prepared.is_empty()),
                Vec::new(),
            )),
            Message::NewView(new_view) if new_view.view.primary(4) == r(LIAR) => {
                let mut proposals = new_view.proposals.clone();
                proposals.pop();
                let changes = new_view.view_changes.clone();
                let forged = NewView::signed(&signer(LIAR), new_view.view, changes, proposals);
                Message::NewView(Box::new(forged))
            }
            _ => return None,
        })
    }

    fn deliver(&mut self, index: usize) {
        let (from, to, message) = self.pool.swap_remove(index);
        let verifier = &self.nodes[to.index()].context.verifier;
        if message.verify(from, verifier).is_err() {
            return;
        }
        self.nodes[to.index()].receive(from, message);
        self.gather(to.0);
    }

    fn fire(&mut self, id: u8, timer: Timer) {
        let node = &mut self.nodes[usize::from(id)];
        if node.timers.contains_key(&timer) {
            node.fire(timer);
        }
        self.gather(id);
    }

    fn propose(&mut self, id: u8) {
        self.proposed += 1;
        let text = format!("command {}", self.proposed);
        self.nodes[usize::from(id)].propose(&text);
        self.gather(id);
    }

    /// Carries out the fetch that `id` wants, unless it asks the liar.
    fn fetch(&mut self, id: u8) {
        let Some(fetch) = self.nodes[usize::from(id)].fetch.take() else {
            return;
        };
        let source = &self.nodes[fetch.from.index()];
        let offer = source
            .offer
            .clone()
            .filter(|(at, _)| at.covers(&fetch.at_least));
        let Some((at, anchor)) = offer.filter(|_| fetch.from != r(LIAR)) else {
            return;
        };
        let proof: CheckpointCertificate =
            quorate_core::codec::decode("anchor", &anchor).expect("a certificate");
        let digest = proof.digest();
        let snapshot = SnapshotRef { at, digest, anchor };
        let node = &mut self.nodes[usize::from(id)];
        if node.protocol.status().committed < snapshot.at.slot().0 {
            assert!(node.protocol.accepts(&snapshot));
            node.install(snapshot);
        }
        self.gather(id);
    }

    fn restart(&mut self, id: u8) {
        self.restarts += 1;
        let node = self.nodes.remove(usize::from(id));
        self.nodes.insert(usize::from(id), node.crash(&self.config));
        self.gather(id);
    }

    fn bad_times(&mut self) {
        for _ in 0..600 {
            if self.disagreement.is_some() {
                return;
            }
            let id = self.chance.below(4) as u8;
            match self.chance.below(40) {
                0 | 1 => self.propose(id),
                2 => self.fire(id, Timer::Request),
                3 if self.chance.one_in(3) => self.fire(id, Timer::NewView),
                4..=6 => self.fire(id, Timer::Status),
                7 => self.fetch(id),
                8 if self.chance.one_in(4) => self.restart(id),
                _ if self.pool.is_empty() => {}
                _ => {
                    let index = self.chance.below(self.pool.len() as u64) as usize;
                    if self.chance.one_in(12) {
                        self.pool.swap_remove(index);
                    } else {
                        if self.chance.one_in(12) {
                            self.pool.push(self.pool[index].clone());
                        }
                        self.deliver(index);
                    }
                }
            }
            // What is too old is lost.
            let excess = self.pool.len().saturating_sub(400);
            self.pool.drain(..excess);
        }
    }

    /// The network is good, the liar is silent: the others execute a new command, and all they
    /// have executed is the same.
    fn good_times(&mut self) -> bool {
        self.proposed += 1;
        let last = command(&format!("command {}", self.proposed)).digest();
        for round in 0..60 {
            for id in 1..4 {
                let node = &mut self.nodes[usize::from(id)];
                // What the driver would propose again.
                if round % 5 == 0 && !self.agreed.values().any(|digest| *digest == last) {
                    node.propose(&format!("command {}", self.proposed));
                }
                node.turn(Input::EndOfTurn);
                self.fire(id, Timer::Status);
                self.fire(id, Timer::Request);
                if round % 3 == 2 {
                    self.fire(id, Timer::NewView);
                }
                self.fetch(id);
            }
            while !self.pool.is_empty() {
                let (from, to, message) = self.pool.remove(0);
                if from != r(LIAR) && to != r(LIAR) {
                    self.nodes[to.index()].receive(from, message);
                    self.gather(to.0);
                }
            }
            let executed = self.agreed.values().any(|digest| *digest == last);
            let same = self.nodes[1..]
                .windows(2)
                .all(|pair| pair[0].state == pair[1].state);
            if executed && same {
                return true;
            }
        }
        false
    }
}

/// How many worlds are tried; `QUORATE_PBFT_SEEDS` says another number.
fn seeds() -> u64 {
    told("QUORATE_PBFT_SEEDS").unwrap_or(60)
}

#[test]
fn correct_replicas_agree_whatever_one_says() {
    let (mut executed, mut views, mut restarts, mut lies) = (0, 0, 0, 0);
    for seed in 0..seeds() {
        let mut world = World::new(seed, &config());
        world.bad_times();
        assert!(world.good_times(), "seed {seed}: {:#?}", states(&world));
        assert_eq!(world.disagreement, None, "seed {seed}");
        executed += world.agreed.len();
        views += world.nodes[1].view();
        (restarts, lies) = (restarts + world.restarts, lies + world.lies);
    }
    println!("{executed} slots, {views} views, {restarts} restarts, {lies} lies");
    assert!(executed > 0 && views > 0 && restarts > 0 && lies > 0);
}

/// The same worlds show what happens without a rule. What a batch executed too early does is rare
/// here: `byzantine.rs` has worlds that show it.
#[test]
fn replicas_without_a_rule_of_safety_come_to_disagree() {
    for mutant in [Mutant::WeakQuorum, Mutant::PreparedDroppedInViewChange] {
        let config = Config {
            mutant: Some(mutant),
            ..config()
        };
        let disagrees = |seed: &u64| {
            let mut world = World::new(*seed, &config);
            world.bad_times();
            world.disagreement.is_some()
        };
        let seed = (0..400).find(disagrees);
        println!("{mutant:?}: seed {seed:?}");
        assert!(seed.is_some(), "no harm from {mutant:?}");
    }
}

fn states(world: &World) -> Vec<(u64, u64, String)> {
    let nodes = world.nodes.iter();
    nodes
        .map(|node| {
            let status = node.protocol.status();
            (
                status.regime,
                status.committed,
                format!("{:?}", status.role),
            )
        })
        .collect()
}
