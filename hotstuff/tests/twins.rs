//! Twins: one replica of four runs twice with one key, and the network, the leaders and the loss of
//! time-outs are enumerated view by view. Whatever it does, the three others agree, and go on when
//! the network is whole again. (Bano and others, *Twins: BFT Systems Made Robust*, OPODIS 2021.)
//!
//! A scenario says for each of seven views who leads, into which two sides the five machines fall
//! (proposals, votes and certificates of the view stay on their side), and whose time-outs of the
//! view arrive: so a quorum may give a view up without having heard of what was certified in it.
//! Blocks that are asked for always arrive.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::{HotstuffNode, Node, config, context, r};
use quorate_core::crypto::{Digest, Verifier};
use quorate_core::id::ReplicaId;
use quorate_core::protocol::{Input, Protocol, Recovered, Verified};
use quorate_hotstuff::{Config, Leaders, Message, Mutant, RuleSet, Timer, View};
use quorate_simulator::harness::verifier;
use quorate_simulator::seeds::told;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// How many views are the adversary's.
const VIEWS: usize = 7;

/// The replica that each machine is: the first two are twins. Which replica has the double makes no
/// difference, for replicas differ in nothing but when they lead, and all leaders are tried.
const MACHINES: [u8; 5] = [0, 0, 1, 2, 3];

/// A view as its adversary wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Plan {
    leader: u8,
    /// The machines on one side, a bit each; the first machine is always among them.
    side: u8,
    /// The machines whose time-outs arrive, a bit each.
    timeouts: u8,
}

impl Plan {
    fn has(bits: u8, machine: usize) -> bool {
        bits & (1 << machine) != 0
    }

    fn together(self, one: usize, other: usize) -> bool {
        Plan::has(self.side, one) == Plan::has(self.side, other)
    }

    /// All: who leads, two sides, and the time-outs of three or more replicas.
    fn all() -> Vec<Plan> {
        let replicas = |bits: u8| {
            let machines = (0..MACHINES.len()).filter(move |m| Plan::has(bits, *m));
            machines.map(|m| MACHINES[m]).collect::<BTreeSet<u8>>()
        };
        let mut plans = Vec::new();
        for leader in 0..4 {
            for side in (0u8..32).filter(|side| side & 1 == 1) {
                for timeouts in (0u8..32).filter(|bits| replicas(*bits).len() >= 3) {
                    plans.push(Plan {
                        leader,
                        side,
                        timeouts,
                    });
                }
            }
        }
        plans
    }
}

struct World {
    machines: Vec<Node>,
    /// One for all, so that what several machines are sent is checked once.
    verifier: Verifier,
    plans: [Plan; VIEWS],
    /// What was committed at each height by those who are one, and by which of them first.
    agreed: BTreeMap<u64, (Digest, usize)>,
    disagreement: Option<u64>,
    /// All messages arrive.
    whole: bool,
}

impl World {
    fn new(config: &Config, plans: [Plan; VIEWS]) -> World {
        let planned = plans.iter().map(|plan| r(plan.leader));
        let later = (0..64).map(|view| r(view % 4));
        let listed = [r(0)].into_iter().chain(planned).chain(later);
        let config = Config {
            leaders: match config.leaders {
                Leaders::Reputation => Leaders::Reputation,
                _ => Leaders::Listed(listed.collect()),
            },
            max_block_bytes: 1,
            checkpoint_every: 1 << 20,
            request_timeout: Duration::from_secs(1 << 20),
            ..config.clone()
        };
        let machine = |id: &u8| {
            let context = context(r(*id), 4, *id);
            let past = Recovered::nothing();
            let mut node = Node::recover(context, config.clone(), past).expect("a good past");
            node.checks = false;
            node
        };
        let mut world = World {
            machines: MACHINES.iter().map(machine).collect(),
            verifier: verifier(4),
            plans,
            agreed: BTreeMap::new(),
            disagreement: None,
            whole: false,
        };
        for machine in 0..MACHINES.len() {
            for number in 0..2 {
                world.machines[machine].propose(&format!("{number} of {machine}"));
            }
        }
        world
    }

    /// Whether the adversary lets a message pass.
    fn passes(&self, from: usize, to: usize, message: &Message) -> bool {
        if self.whole {
            return true;
        }
        let plan = |view: View| self.plans.get((view.0 as usize).wrapping_sub(1));
        let together = |view| plan(view).is_none_or(|plan| plan.together(from, to));
        match message {
            Message::Proposal(proposal) => together(proposal.block.view()),
            Message::Vote(vote) => together(vote.block.view),
            Message::Certified(certificate) => together(certificate.view()),
            Message::Timeout(timeout) => {
                plan(timeout.view).is_none_or(|plan| Plan::has(plan.timeouts, from))
            }
            // Each machine has requests of its own, so that twins propose different blocks.
            Message::Forward { .. } => false,
            _ => true,
        }
    }

    /// Delivers all messages, and those that follow, until none is left.
    fn deliver(&mut self) {
        loop {
            let mut flights: Vec<(usize, ReplicaId, Message)> = Vec::new();
            for (machine, node) in self.machines.iter_mut().enumerate() {
                let sent = node.take().into_iter();
                flights.extend(sent.map(|(to, message)| (machine, to, message)));
            }
            if flights.is_empty() {
                return;
            }
            let mut last: Option<(usize, Verified<Message>)> = None;
            for (from, to, message) in flights {
                let known = last.take_if(|(sender, known)| *sender == from && **known == message);
                let verified = known.map(|(_, known)| known);
                let verified = verified.or_else(|| self.verified(from, message));
                last = verified.map(|verified| (from, verified));
                let Some((_, verified)) = &last else {
                    continue;
                };
                for receiver in (0..MACHINES.len()).filter(|m| r(MACHINES[*m]) == to) {
                    if self.passes(from, receiver, verified) {
                        self.machines[receiver].turn(Input::Message(verified.clone()));
                    }
                }
            }
            self.compare();
        }
    }

    /// Without a rule, machines may say what nobody lets in.
    fn verified(&self, from: usize, message: Message) -> Option<Verified<Message>> {
        Verified::new(r(MACHINES[from]), message, &self.verifier).ok()
    }

    /// Those who are one must commit the same, and find nothing wrong with themselves.
    fn compare(&mut self) {
        for machine in 2..MACHINES.len() {
            let node = &mut self.machines[machine];
            let broken = node.protocol.check().is_err();
            for commit in std::mem::take(&mut node.commits) {
                let (height, digest) = (commit.id.slot.0, commit.batch.digest());
                let (known, _) = *self.agreed.entry(height).or_insert((digest, machine));
                if known != digest {
                    self.disagreement.get_or_insert(height);
                }
            }
            if broken {
                self.disagreement.get_or_insert(0);
            }
        }
    }

    /// All whose view has had its time say so.
    fn time_out(&mut self) {
        for node in &mut self.machines {
            if node.timers.contains_key(&Timer::View) {
                node.fire(Timer::View);
            }
        }
        self.deliver();
    }

    fn committed(&self) -> Vec<u64> {
        self.machines[2..].iter().map(Node::committed).collect()
    }

    /// The adversary's views, and two rounds more.
    fn run(&mut self) {
        self.deliver();
        for _ in 0..VIEWS + 2 {
            self.time_out();
        }
    }

    /// Once all messages arrive, those who are one commit all that they wait for.
    fn recovers(&mut self) -> bool {
        self.whole = true;
        let from = self.committed().into_iter().max().unwrap_or(0);
        self.machines[2].propose("afterwards");
        for _ in 0..60 {
            for node in &mut self.machines {
                node.fire(Timer::Status);
            }
            self.time_out();
            if self.committed().iter().all(|height| *height > from) {
                return true;
            }
        }
        false
    }
}

/// How many scenarios are drawn for each rule set; `QUORATE_HOTSTUFF_TWINS` says another number.
fn scenarios() -> u64 {
    told("QUORATE_HOTSTUFF_TWINS").unwrap_or(40)
}

/// The plans that every view chooses from where all choices are tried, as many of them as
/// `QUORATE_HOTSTUFF_TWINS_PLANS` says: with k of them there are k⁷ scenarios.
///
/// The machines are the twins 0 and 1, and replicas 1 to 3, from the lowest bit on. Two sides of
/// five machines are at most one quorum; up to the names of the twins and of the replicas that are
/// one, what is left to choose is who leads, who has the quorum, and whose time-outs are lost.
fn plans() -> Vec<Plan> {
    let plans = [
        // Twins lead both sides: the second has a quorum, whose time-outs all arrive.
        (0, 0b0_0101, 0b1_1101),
        // One leads all, and a quorum without the last replica gives the view up.
        (1, 0b1_1111, 0b0_1110),
        // Twins lead both sides: the first has a quorum, and one that has heard nothing of what
        // it has certified gives the view up with others.
        (0, 0b0_1101, 0b1_1010),
        // One leads a quorum with a twin in it, and all give the view up.
        (2, 0b0_1101, 0b1_1111),
        // One leads the side that is no quorum.
        (1, 0b0_0101, 0b1_1110),
        // One leads a quorum with the other twin in it.
        (3, 0b0_0101, 0b1_1001),
    ];
    let count = told("QUORATE_HOTSTUFF_TWINS_PLANS").unwrap_or(3) as usize;
    let plan = |(leader, side, timeouts)| Plan {
        leader,
        side,
        timeouts,
    };
    plans.into_iter().map(plan).take(count).collect()
}

/// The plans of scenario `number` of all that choose from `plans`, view by view.
fn chosen(mut number: usize, plans: &[Plan]) -> [Plan; VIEWS] {
    [(); VIEWS].map(|()| {
        let plan = plans[number % plans.len()];
        number /= plans.len();
        plan
    })
}

fn drawn(seed: u64, all: &[Plan]) -> [Plan; VIEWS] {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    [(); VIEWS].map(|()| all[random.random_range(0..all.len())])
}

fn of(rules: RuleSet) -> Config {
    Config { rules, ..config() }
}

fn survives(config: &Config, plans: [Plan; VIEWS]) -> (bool, usize) {
    let mut world = World::new(config, plans);
    let (rules, leaders) = (config.rules, &config.leaders);
    let what = || format!("{rules:?}, {leaders:?}: {plans:#?}");
    world.run();
    assert_eq!(world.disagreement, None, "{}", what());
    let early = world.agreed.len();
    assert!(world.recovers(), "no progress: {}", what());
    assert_eq!(world.disagreement, None, "{}", what());
    (early > 0, world.agreed.len())
}

/// A sample, by seed, of all scenarios: 4 leaders, 16 ways to fall into two sides, and all choices
/// of time-outs that let a view end, in each of seven views.
#[test]
fn those_who_are_one_agree_whatever_twins_say() {
    let all = Plan::all();
    for rules in [RuleSet::ThreeChain, RuleSet::TwoChain] {
        let (mut met, mut early, mut blocks) = (BTreeSet::new(), 0, 0);
        for seed in 0..scenarios() {
            let plans = drawn(seed, &all);
            met.extend(plans.map(|plan| (plan.leader, plan.side)));
            let (committed, agreed) = survives(&of(rules), plans);
            (early, blocks) = (early + u64::from(committed), blocks + agreed);
        }
        println!(
            "{rules:?}: {} scenarios, {} of 64 leaders and sides, {early} with commits in the \
             adversary's views, {blocks} blocks",
            scenarios(),
            met.len()
        );
        assert!(met.len() > 32 && early > 0);
    }
}

/// The same where who leads is not the adversary's choice but what the chain shows, which twins can
/// show differently to either side.
#[test]
fn those_who_are_one_agree_where_the_chain_says_who_leads() {
    let all = Plan::all();
    for rules in [RuleSet::ThreeChain, RuleSet::TwoChain] {
        let config = Config {
            leaders: Leaders::Reputation,
            ..of(rules)
        };
        let (mut early, mut blocks) = (0, 0);
        for seed in 0..scenarios() {
            let (committed, agreed) = survives(&config, drawn(seed, &all));
            (early, blocks) = (early + u64::from(committed), blocks + agreed);
        }
        println!(
            "{rules:?}: {} scenarios, {early} with commits in the adversary's views, {blocks} blocks",
            scenarios()
        );
        assert!(early > 0);
    }
}

/// All ways to choose among a few plans in each of seven views.
fn all_survive(rules: RuleSet) {
    let plans = plans();
    let all = plans.len().pow(VIEWS as u32);
    let (mut early, mut blocks) = (0, 0);
    for number in 0..all {
        let (committed, agreed) = survives(&of(rules), chosen(number, &plans));
        (early, blocks) = (early + usize::from(committed), blocks + agreed);
    }
    println!(
        "{rules:?}: all {all} scenarios of {} plans, {early} with commits in the adversary's \
         views, {blocks} blocks",
        plans.len()
    );
    assert!(early > 0);
}

#[test]
fn those_who_are_one_agree_in_all_scenarios_of_a_few_plans_under_the_three_chain_rules() {
    all_survive(RuleSet::ThreeChain);
}

#[test]
fn those_who_are_one_agree_in_all_scenarios_of_a_few_plans_under_the_two_chain_rules() {
    all_survive(RuleSet::TwoChain);
}

/// The same scenarios show what happens without a rule.
#[test]
fn without_a_rule_some_scenario_makes_them_disagree() {
    let all = Plan::all();
    for (rules, mutant) in [
        (RuleSet::TwoChain, Mutant::VotesAgain),
        (RuleSet::TwoChain, Mutant::TwoChainByLinksAlone),
        (RuleSet::ThreeChain, Mutant::VotesAgain),
    ] {
        let config = Config {
            mutant: Some(mutant),
            ..of(rules)
        };
        let disagrees = |seed: &u64| {
            let mut world = World::new(&config, drawn(*seed, &all));
            world.run();
            world.disagreement.is_some()
        };
        let seed = (0..400).find(disagrees);
        println!("{rules:?} without {mutant:?}: scenario {seed:?}");
        assert!(seed.is_some(), "no harm from {mutant:?}");
    }
}

#[test]
fn a_machine_that_is_none_of_the_twins_is_one() {
    let plans = [Plan {
        leader: 1,
        side: 0b1_1111,
        timeouts: 0b1_1111,
    }; VIEWS];
    let mut world = World::new(&of(RuleSet::TwoChain), plans);
    world.run();
    assert!(world.committed().iter().all(|height| *height > 0));
    assert!(world.machines[2].view() > 1);
}
