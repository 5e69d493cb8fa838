//! Messages that are never lost, and take up to some seconds each: more than the first time-out allows.
//! The time-out must grow until blocks are committed, whatever each single message takes.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{HotstuffNode, Node};
use quorate_core::id::{ReplicaId, Time};
use quorate_hotstuff::{Config, Leaders, Message, Mutant, RuleSet, Timer};

/// How long most messages take.
const SHORT: Duration = Duration::from_millis(10);

/// The first time-out.
const FIRST: Duration = Duration::from_millis(500);

/// Which proposals are late: those of each `every`th view, which reach one replica in time, another with each, and
/// the others after `longest`. What else is sent takes `usual`.
#[derive(Clone, Copy)]
struct Delays {
    every: u64,
    longest: Duration,
    usual: Duration,
}

impl Delays {
    /// Each message takes as long.
    fn all(usual: Duration) -> Delays {
        Delays {
            every: u64::MAX,
            longest: usual,
            usual,
        }
    }

    /// The proposals of each `every`th view take `longest`.
    fn proposals(every: u64, longest: Duration) -> Delays {
        Delays {
            every,
            longest,
            usual: SHORT,
        }
    }
}

/// Correct replicas that have always something to do, and a network that decides how long each message takes.
struct World {
    nodes: Vec<Node>,
    now: Time,
    delays: Delays,
    flights: BTreeMap<(Time, u64), (ReplicaId, ReplicaId, Message)>,
    sent: u64,
    proposed: usize,
    /// When each replica has last had a proposal in time that others had late.
    served: Vec<u64>,
    /// The view of each replica, and how long it waits for it.
    views: Vec<(u64, Duration)>,
}

impl World {
    fn new(n: usize, config: &Config, delays: Delays) -> World {
        let mut world = World {
            nodes: (0..n as u8).map(|id| Node::fresh(id, n, config)).collect(),
            now: Time::ZERO,
            delays,
            flights: BTreeMap::new(),
            sent: 0,
            proposed: 0,
            served: vec![0; n],
            views: vec![(0, Duration::ZERO); n],
        };
        world.settle();
        world
    }

    fn executed(&self) -> usize {
        let executed = self.nodes.iter().map(|node| {
            let full = node.commits.iter().filter(|c| !c.batch.is_empty());
            full.count()
        });
        executed.max().unwrap_or(0)
    }

    /// The longest that any replica waits in its view.
    fn patience(&self) -> Duration {
        let all = self.views.iter().map(|(_, patience)| *patience);
        all.max().unwrap_or_default()
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
                let node = &mut self.nodes[to.index()];
                node.now = self.now;
                node.receive(from, message);
            } else {
                let (timer, _) = self.nodes[place].next_timer().expect("it is due");
                self.nodes[place].fire(timer);
            }
            self.settle();
        }
        self.now = until;
    }

    fn settle(&mut self) {
        if self.executed() == self.proposed {
            let place = self.proposed % self.nodes.len();
            let node = &mut self.nodes[place];
            node.now = self.now;
            node.propose(&self.proposed.to_string());
            self.proposed += 1;
        }
        for place in 0..self.nodes.len() {
            let node = &self.nodes[place];
            let timer = node.timers.get(&Timer::View);
            if let Some(at) = timer.filter(|_| node.view() > self.views[place].0) {
                self.views[place] = (node.view(), at.since(self.now));
            }
            let from = node.me;
            let sent = self.nodes[place].take();
            let late = self.late(from, &sent);
            for (to, message) in sent {
                self.sent += 1;
                let takes = match &message {
                    Message::Proposal(_) if late.contains(&to) => self.delays.longest,
                    _ if from == to => Duration::ZERO,
                    _ => self.delays.usual,
                };
                let at = (self.now + takes, self.sent);
                self.flights.insert(at, (from, to, message));
            }
        }
    }

    /// Whom the proposal among what is sent reaches late: all but one, another each time.
    fn late(&mut self, from: ReplicaId, sent: &[(ReplicaId, Message)]) -> Vec<ReplicaId> {
        let views = sent.iter().filter_map(|(_, message)| match message {
            Message::Proposal(proposal) => Some(proposal.block.view().0),
            _ => None,
        });
        let every = self.delays.every;
        let Some(view) = views.max().filter(|view| view % every == 1) else {
            return Vec::new();
        };
        self.served[from.index()] = view;
        let others: Vec<ReplicaId> = ReplicaId::all(self.nodes.len())
            .filter(|id| *id != from)
            .collect();
        let first = others
            .iter()
            .copied()
            .min_by_key(|id| self.served[id.index()]);
        if let Some(first) = first {
            self.served[first.index()] = view;
        }
        others.into_iter().filter(|id| Some(*id) != first).collect()
    }
}

fn configs() -> impl Iterator<Item = Config> {
    let both = [RuleSet::TwoChain, RuleSet::ThreeChain];
    both.into_iter().flat_map(|rules| {
        [Leaders::Rotate, Leaders::Reputation].map(|leaders| Config {
            rules,
            leaders,
            ..Config::default()
        })
    })
}

/// How many commands are executed in `time`, three at most.
fn executed(n: usize, config: &Config, delays: Delays, time: Duration) -> usize {
    let mut world = World::new(n, config, delays);
    let end = world.now + time;
    while world.now < end && world.executed() < 3 {
        world.run_for(Duration::from_millis(100));
    }
    let (rules, leaders, executed) = (config.rules, &config.leaders, world.executed());
    let views: Vec<u64> = world.nodes.iter().map(Node::view).collect();
    let patience = world.patience();
    let now = world.now;
    println!(
        "{n}, {rules:?}, {leaders}: {executed} by {now:?} in {views:?}, {patience:?} patience"
    );
    executed
}

/// A view certified in time now and then commits nothing, and says nothing of the next.
#[test]
fn the_timeout_grows_until_blocks_are_committed_whatever_each_message_takes() {
    let time = Duration::from_secs(120);
    let every_second = Delays::proposals(2, Duration::from_secs(3));
    for config in configs() {
        assert!(executed(4, &config, every_second, time) > 0);
    }
    assert_eq!(without(Mutant::TimeoutGrowsByRowsAlone, 4, every_second), 0);
}

/// Two of three views certified in time commit nothing under the three-chain rules, and must not have the
/// time-out shrink as often as it grows.
#[test]
fn the_timeout_does_not_shrink_while_nothing_is_committed() {
    let every_third = Delays::proposals(3, Duration::from_secs(3));
    for config in configs() {
        assert!(executed(7, &config, every_third, Duration::from_secs(120)) > 0);
    }
    assert_eq!(
        without(Mutant::TimeoutShrinksUncommitted, 7, every_third),
        0
    );
}

fn without(mutant: Mutant, n: usize, delays: Delays) -> usize {
    let config = Config {
        rules: RuleSet::ThreeChain,
        leaders: Leaders::Rotate,
        mutant: Some(mutant),
        ..Config::default()
    };
    executed(n, &config, delays, Duration::from_secs(120))
}

/// The bound on what a message takes is known to nobody; a quarter of the longest time-out is not beyond it:
/// a view is a proposal and its votes, and replicas begin it a message apart.
#[test]
fn blocks_are_committed_whatever_all_messages_take_up_to_a_quarter_of_the_longest_timeout() {
    for config in configs() {
        for longest in [800, 3_000, 7_500].map(Duration::from_millis) {
            let time = longest * 60 + Duration::from_secs(60);
            assert!(executed(4, &config, Delays::all(longest), time) > 0);
        }
    }
}

/// Nor do they grow beyond the longest: then nothing is promised.
#[test]
fn nothing_may_be_committed_where_messages_take_longer_than_the_longest_timeout() {
    let every_second = Delays::proposals(2, Duration::from_secs(3));
    for config in configs() {
        let [long, short] = [3_500, 2_000].map(|longest| Config {
            max_view_timeout: Duration::from_millis(longest),
            ..config.clone()
        });
        assert!(executed(4, &long, every_second, Duration::from_secs(120)) > 0);
        assert_eq!(
            executed(4, &short, every_second, Duration::from_secs(120)),
            0
        );
    }
}

/// When messages are fast again, so is the time-out, within as many views as it takes to halve it so often.
#[test]
fn the_timeout_is_what_it_was_soon_after_the_delays_have_ended() {
    for config in configs() {
        let mut world = World::new(4, &config, Delays::all(Duration::from_secs(3)));
        world.run_for(Duration::from_secs(120));
        let (grown, view) = (world.patience(), world.views[0].0);
        assert!(grown >= 8 * FIRST, "{grown:?}");
        world.delays = Delays::all(SHORT);
        while world.patience() > FIRST {
            world.run_for(SHORT);
            let views = world.views[0].0 - view;
            assert!(views < 80, "{:?} after {views}", world.patience());
        }
        println!("{grown:?} for {} views", world.views[0].0 - view);
    }
}
