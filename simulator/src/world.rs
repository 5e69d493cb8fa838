//! A simulated cluster with its clients, in virtual time.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::ledger::Ledger;
use quorate_core::protocol::{Protocol, Role, Status};
use quorate_core::replica::Replica;
use quorate_core::storage::{Snapshot, Ticket};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::adversary::Adversary;
use crate::check::Checker;
use crate::client::{Ask, Client, Records, Told};
use crate::conditions::Conditions;
use crate::config::SimulationConfig;
use crate::disk::Lane;
use crate::history::Operation;
use crate::host::{self, Host, Item};
use crate::network::Network;
use crate::plan::{Fault, Plan};
use crate::queue::Queue;
use crate::register::Register;
use crate::report::{Broken, Finding, Summary};
use crate::trace::{Happening, Line, Party, Trace};

mod clients;
mod ending;
mod faults;
mod liars;
mod lives;
mod script;
mod turns;

use lives::Past;
pub use script::{Answered, Submission};

/// Something that happens.
#[derive(Debug)]
enum Event {
    /// A replica looks at what has arrived.
    Turn(ReplicaId, u64),
    /// A replica's timers are due.
    Timer(ReplicaId, u64),
    /// A frame reaches the other end.
    Frame(Flight),
    /// A wish for a snapshot reaches the peer.
    Fetch(FetchFlight),
    /// A peer that is slow to answer a wish for a snapshot does so.
    FetchAnswered(FetchFlight),
    /// Some of an answer to a fetch comes, that takes until then.
    FetchTrickles(FetchFlight, u64),
    /// A snapshot comes that a peer has sent slowly.
    FetchCame(FetchFlight, Snapshot),
    /// A fetch has ended.
    Fetched(FetchFlight, Option<Snapshot>),
    /// A sync has ended.
    Synced(ReplicaId, u64, Lane, Ticket),
    /// A client's wish reaches a replica.
    Ask(usize, ReplicaId, Ask),
    /// An answer reaches a client.
    Told(usize, ReplicaId, Told),
    /// A client wakes up from what it was waiting for.
    Wake(usize, u64),
    FaultBegins(usize),
    FaultEnds(usize),
    /// The faults stop.
    Heal,
}

#[derive(Debug)]
struct Flight {
    from: ReplicaId,
    to: ReplicaId,
    sent: u64,
    frame: Bytes,
}

#[derive(Clone, Copy, Debug)]
struct FetchFlight {
    by: ReplicaId,
    life: u64,
    from: ReplicaId,
}

/// A fault that has begun and not ended.
#[derive(Clone, Copy, Debug)]
struct Active {
    fault: Fault,
    victims: ReplicaSet,
}

/// A simulated cluster with its clients, in virtual time.
///
/// [`World::new`] gives a world that runs by itself, [`World::scripted`] one without clients and
/// faults, for its owner to steer. Everything in it follows from its seed.
#[derive(Debug)]
pub struct World<P: Protocol> {
    config: SimulationConfig<P>,
    conditions: Conditions,
    random: ChaCha8Rng,
    queue: Queue<Event>,
    now: u64,
    /// The machines: one for each replica, and a second one for each that lies.
    hosts: Vec<Host<P>>,
    adversaries: BTreeMap<ReplicaId, Adversary<P>>,
    network: Network,
    plan: Plan,
    active: BTreeMap<usize, Active>,
    past: Past,
    healed_at: Option<u64>,
    /// Where clients are to be served, once the faults have ended.
    served: ReplicaSet,
    clients: Vec<Client>,
    unfinished: usize,
    last_finished_at: u64,
    records: Records,
    script: script::Script,
    checker: Checker,
    broken: Option<Broken>,
    summary: Summary,
    trace: Trace,
}

impl<P: Protocol> World<P> {
    /// The world of `seed`, struck by the faults of `plan`.
    pub fn new(seed: u64, config: SimulationConfig<P>, conditions: Conditions, plan: Plan) -> Self {
        let mut world = World::empty(seed, config.limited(seed), conditions);
        world.plan = plan;
        world.add_liars(seed);
        world.set_clocks();
        world.schedule_faults();
        world.begin_clients();
        world.start_all();
        world
    }

    fn empty(seed: u64, config: SimulationConfig<P>, conditions: Conditions) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let machines = (config.replicas, config.signatures);
        let hosts = host::cluster(machines, &conditions, &mut random);
        World {
            network: Network::new(config.replicas, &conditions),
            trace: Trace::new(config.record),
            config,
            conditions,
            random,
            queue: Queue::new(),
            now: 0,
            hosts,
            adversaries: BTreeMap::new(),
            plan: Plan::default(),
            active: BTreeMap::new(),
            past: Past::default(),
            healed_at: None,
            served: ReplicaSet::EMPTY,
            clients: Vec::new(),
            unfinished: 0,
            last_finished_at: 0,
            records: Records::default(),
            script: script::Script::default(),
            checker: Checker::new(P::ORDER),
            broken: None,
            summary: Summary::default(),
        }
    }

    fn start_all(&mut self) {
        for machine in self.all_machines() {
            self.start(machine);
        }
    }

    /// Runs to the end: until all is done, or a rule is broken.
    pub fn run(&mut self) {
        while self.broken.is_none() && !self.is_done() && self.step() {
            self.check_deadline();
        }
        self.check_end();
    }

    /// Lets the next thing happen; false if there is none, or a rule is broken.
    pub fn step(&mut self) -> bool {
        if self.broken.is_some() {
            return false;
        }
        let Some((at, event)) = self.queue.pop() else {
            return false;
        };
        debug_assert!(at >= self.now);
        self.now = at;
        self.summary.events += 1;
        match event {
            Event::Turn(replica, life) => self.turn_is_due(replica, life),
            Event::Timer(replica, life) => self.timer_is_due(replica, life),
            Event::Frame(flight) => self.frame_arrives(&flight),
            Event::Fetch(fetch) => self.fetch_arrives(fetch),
            Event::FetchAnswered(fetch) => self.answer_fetch(fetch),
            Event::FetchTrickles(fetch, until) => self.fetch_trickles(fetch, until),
            Event::FetchCame(fetch, snapshot) => self.fetch_comes(fetch, snapshot),
            Event::Fetched(fetch, snapshot) => self.fetch_ends(fetch, snapshot),
            Event::Synced(replica, life, lane, ticket) => self.synced(replica, life, lane, ticket),
            Event::Ask(client, replica, ask) => self.ask_arrives(client, replica, ask),
            Event::Told(client, replica, told) => self.told_arrives(client, replica, &told),
            Event::Wake(client, waiting) => self.client_wakes(client, waiting),
            Event::FaultBegins(number) => self.fault_begins(number),
            Event::FaultEnds(number) => self.fault_ends(number),
            Event::Heal => self.heal(),
        }
        true
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.queue.schedule(self.now + delay, event);
    }

    fn n(&self) -> usize {
        self.config.replicas
    }

    /// How many replicas there are, up or down.
    pub fn size(&self) -> usize {
        self.n()
    }

    fn host(&mut self, replica: ReplicaId) -> &mut Host<P> {
        &mut self.hosts[replica.index()]
    }

    /// Has `replica` look at `item` in its next turn.
    fn arrive(&mut self, replica: ReplicaId, item: Item) {
        let host = self.host(replica);
        if host.replica.is_some() {
            host.inbox.push(item);
            self.schedule_turn(replica);
        }
    }

    fn schedule_turn(&mut self, replica: ReplicaId) {
        let now = self.now;
        let host = self.host(replica);
        if host.turn_at.is_none() {
            let (at, life) = (now.max(host.busy_until), host.life);
            host.turn_at = Some(at);
            self.queue.schedule(at, Event::Turn(replica, life));
        }
    }

    /// Notes that a rule is broken; the first one counts.
    fn found(&mut self, finding: Finding) {
        let (rule, detail) = finding;
        let at = self.now;
        self.trace.note(at, &[99], || {
            Happening::World(format!("{rule} violated: {detail}"))
        });
        self.broken.get_or_insert(Broken { rule, at, detail });
    }

    fn check(&mut self, result: Result<(), Finding>) {
        if let Err(finding) = result {
            self.found(finding);
        }
    }

    fn note(&mut self, replica: ReplicaId, words: &[u64], notable: bool, text: &str) {
        let local = || Happening::Local {
            party: Party::Replica(replica),
            text: String::from(text),
            notable,
        };
        self.trace.note(self.now, words, local);
    }

    /// The rule that was broken first, if one was.
    pub fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    /// The instant, in nanoseconds of virtual time.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// A replica, unless it is down.
    pub fn replica(&self, replica: ReplicaId) -> Option<&Replica<P, Register>> {
        self.hosts.get(replica.index())?.replica.as_ref()
    }

    /// What a replica has spent in all its lives.
    pub fn ledger(&self, replica: ReplicaId) -> Option<Ledger> {
        Some(self.hosts.get(replica.index())?.ledger())
    }

    /// What all replicas have spent.
    pub fn total_ledger(&self) -> Ledger {
        let mut sum = Ledger::default();
        self.hosts.iter().for_each(|host| sum.add(&host.ledger()));
        sum
    }

    /// The replica that says it leads, in the newest regime if several do.
    pub fn leader(&self) -> Option<ReplicaId> {
        let statuses = self.hosts.iter().filter_map(|host| host.replica.as_ref());
        let leads = |status: &Status| status.role == Role::Leader;
        let leaders = statuses.map(Replica::status).filter(leads);
        leaders.max_by_key(|status| status.regime).map(|s| s.me)
    }

    /// What has happened so far, counted.
    pub fn summary(&self) -> Summary {
        let spent = self.total_ledger();
        let sent = spent.total_sent();
        Summary {
            entries: self.checker.entries() as u64,
            leaders: self.checker.leaders() as u64,
            messages: sent.messages,
            bytes: sent.bytes,
            syncs: spent.syncs,
            lies: self.count_lies(),
            virtual_time: self.now,
            ..self.summary
        }
    }

    /// The hash of all that has happened.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// All that has happened, if it was recorded.
    pub fn trace(&self) -> &[Line] {
        self.trace.lines()
    }

    /// What clients did and saw, and the trace.
    pub(crate) fn into_records(self) -> (Vec<Operation>, Vec<Line>) {
        (self.records.history, self.trace.into_lines())
    }
}
