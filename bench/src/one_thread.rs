//! A cluster in one thread.

use quorate_core::crypto::{Admission, GroupId, Members, PublicKey, SecretKey, Signer, Verifier};
use quorate_core::id::{ReplicaId, Time, UnixTime};
use quorate_core::protocol::{Context, Dest, FaultModel, Protocol, Role, Status};

/// A replica, and as much of a node as is to be measured.
pub trait Host {
    /// What hosts hand each other.
    type Frame;

    /// Begins; the turn is ended by [`Host::end_turn`].
    fn start(&mut self, now: Time);

    /// Takes a frame.
    fn deliver(&mut self, now: Time, from: ReplicaId, frame: Self::Frame);

    /// Fires the timers that are due.
    fn tick(&mut self, now: Time);

    /// When [`Host::tick`] has something to do.
    fn deadline(&self) -> Option<Time>;

    /// Ends the turn, and gives what it has for others to `send`.
    fn end_turn(&mut self, now: Time, send: &mut impl FnMut(ReplicaId, Self::Frame));

    /// Where the replica stands.
    fn status(&self) -> Status;

    /// How many requests have been handed over for execution here.
    fn executed(&self) -> u64;
}

/// Hosts that hand each other frames in one thread. Their clock stands still once they have a
/// leader, so that no timer is ever due.
#[derive(Debug)]
pub struct OneThread<H: Host> {
    hosts: Vec<H>,
    inboxes: Vec<Vec<(ReplicaId, H::Frame)>>,
    /// An empty inbox, to be swapped with the one that is being delivered.
    spare: Vec<(ReplicaId, H::Frame)>,
    now: Time,
    proposer: ReplicaId,
}

/// How many timers may fire before there is a leader.
const MAX_FIRED: usize = 1000;

impl<H: Host> OneThread<H> {
    /// Starts `hosts`, which are in the order of their ids, and lets time pass until they have a
    /// leader, or are a protocol's that needs none.
    ///
    /// # Panics
    ///
    /// If they do not agree on a leader after a thousand timers.
    pub fn new(hosts: Vec<H>) -> Self {
        let mut thread = OneThread {
            inboxes: hosts.iter().map(|_| Vec::new()).collect(),
            spare: Vec::new(),
            now: Time::ZERO,
            proposer: ReplicaId(0),
            hosts,
        };
        for index in 0..thread.hosts.len() {
            thread.hosts[index].start(Time::ZERO);
            thread.turn(index);
        }
        thread.settle();
        for _ in 0..MAX_FIRED {
            if let Some(proposer) = thread.agreed_proposer() {
                thread.proposer = proposer;
                return thread;
            }
            thread.pass_time();
        }
        panic!("no leader after {MAX_FIRED} timers");
    }

    /// Who takes proposals best, if all hosts agree on it.
    fn agreed_proposer(&self) -> Option<ReplicaId> {
        let standing = |host: &H| {
            let status = host.status();
            (status.role == Role::Peer, status.leader)
        };
        let first = standing(self.hosts.first()?);
        if self.hosts.iter().any(|host| standing(host) != first) {
            return None;
        }
        match first {
            (true, _) => Some(ReplicaId(0)),
            (false, leader) => leader,
        }
    }

    fn pass_time(&mut self) {
        let deadlines = self.hosts.iter().filter_map(Host::deadline);
        if let Some(next) = deadlines.min() {
            self.now = self.now.max(next);
        }
        for index in 0..self.hosts.len() {
            self.hosts[index].tick(self.now);
            self.turn(index);
        }
        self.settle();
    }

    /// Has the leader (or one of equals) `propose` in one turn, and runs until no frame is under
    /// way.
    pub fn propose(&mut self, propose: impl FnOnce(&mut H, Time)) {
        let index = self.proposer.index();
        propose(&mut self.hosts[index], self.now);
        self.turn(index);
        self.settle();
    }

    /// The replica that proposes.
    pub fn proposer(&self) -> &H {
        &self.hosts[self.proposer.index()]
    }

    /// All replicas.
    pub fn hosts(&self) -> &[H] {
        &self.hosts
    }

    fn settle(&mut self) {
        while self.inboxes.iter().any(|inbox| !inbox.is_empty()) {
            for index in 0..self.hosts.len() {
                if !self.inboxes[index].is_empty() {
                    self.turn(index);
                }
            }
        }
    }

    /// A host takes all that has come for it as one turn.
    fn turn(&mut self, index: usize) {
        let (host, inboxes) = (&mut self.hosts[index], &mut self.inboxes);
        std::mem::swap(&mut self.spare, &mut inboxes[index]);
        for (from, frame) in self.spare.drain(..) {
            host.deliver(self.now, from, frame);
        }
        let me = ReplicaId(index as u8);
        host.end_turn(self.now, &mut |to, frame| {
            inboxes[to.index()].push((me, frame));
        });
    }
}

/// The replicas of the smallest cluster in which one may fail, with keys that are the same in
/// every run.
pub fn contexts<P: Protocol>() -> Vec<Context> {
    let n = match P::FAULTS {
        FaultModel::Crash => 3,
        FaultModel::Byzantine => 4,
    };
    let secret = |id: ReplicaId| SecretKey::from_seed([id.0 + 1; 32]);
    let keys: Vec<PublicKey> = ReplicaId::all(n).map(|id| secret(id).public()).collect();
    let members = Members::new(GroupId(1), keys);
    let context = |me: ReplicaId| Context {
        me,
        signer: Signer::new(secret(me), members.group()),
        verifier: Verifier::new(members.clone()).admitting(Admission::Anyone),
        members: members.clone(),
        seed: [me.0; 32],
        wall_clock: UnixTime(0),
    };
    ReplicaId::all(n).map(context).collect()
}

/// Gives `message` to all it is for but `me`, cloned only where there are several.
pub(crate) fn spread<M: Clone>(
    (me, n): (ReplicaId, usize),
    to: Dest,
    message: M,
    mut send: impl FnMut(ReplicaId, M),
) {
    let others = match to {
        Dest::One(to) => return send(to, message),
        Dest::Others | Dest::All => ReplicaId::all(n).filter(|id| *id != me),
    };
    let mut others = others.peekable();
    while let Some(to) = others.next() {
        if others.peek().is_none() {
            return send(to, message);
        }
        send(to, message.clone());
    }
}
