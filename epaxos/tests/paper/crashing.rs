//! Coordinators that crash at each step of the commit path, having reached each number of the
//! others. Whatever any of the living has heard of is committed soon after, and what the
//! coordinator had committed, and may have answered its client, stays as it was.

use std::time::Duration;

use quorate_core::id::{EntryId, Lane, Slot};
use quorate_epaxos::Config;

use crate::common::{Cluster, EPaxosCluster as _, EPaxosNode as _};

/// After the last fault, everything that a living replica knows of is committed at all that live
/// within this much virtual time.
const COMMITTED_WITHIN: Duration = Duration::from_secs(5);

/// Not its first, so that it asks about it before it is durable.
const COMMAND: EntryId = EntryId {
    lane: Lane(0),
    slot: Slot(2),
};

/// What the coordinator, r0, has sent last.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    PreAccept,
    Accept,
    Commit,
}

/// What becomes of it, and of how many others.
#[derive(Clone, Copy, Debug, PartialEq)]
enum After {
    /// It is gone for good, and so are as many others as f allows.
    Gone { others: usize },
    /// It comes back with what was durable; so many others are gone for good.
    Back { others: usize },
}

#[derive(Clone, Debug)]
struct Case {
    n: u8,
    /// Who has proposed a command that conflicts and that all but r0 have heard of: then the slow
    /// path is taken.
    rival: Option<u8>,
    step: Step,
    /// Whom the last message has reached.
    reached: Vec<u8>,
    /// Whether its own records of that step are durable.
    synced: bool,
    after: After,
    /// Whether only a fast quorum is asked.
    thrifty: bool,
    /// Whether all who live restart after it.
    all_restart: bool,
}

impl Case {
    fn config(&self) -> Config {
        Config {
            thrifty_after: if self.thrifty { 0 } else { u32::MAX },
            thrifty_requests: 1,
            ..Config::default()
        }
    }

    fn others(&self) -> impl Iterator<Item = u8> + use<> {
        1..self.n
    }

    /// Until the crash.
    fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::quiet(usize::from(self.n), &self.config());
        let all: Vec<u8> = (0..self.n).collect();
        cluster.submit(0, "earlier", "another");
        cluster.settle(&all);
        if let Some(rival) = self.rival {
            cluster.submit(rival, "rival", "k");
            for to in self.others().filter(|to| *to != rival) {
                cluster.pass(rival, to, "pre_accept");
            }
        }
        cluster.node(0).syncs = self.synced || self.step != Step::PreAccept;
        cluster.submit(0, "command", "k");
        for (step, message, answer) in [
            (Step::PreAccept, "pre_accept", "pre_accept_ok"),
            (Step::Accept, "accept", "accept_ok"),
            (Step::Commit, "commit", ""),
        ] {
            if step == Step::Accept && self.rival.is_none() {
                continue;
            }
            if step == self.step {
                for to in &self.reached {
                    let passed = cluster.pass(0, *to, message);
                    // Not all are asked, nor is what was not asked about accepted.
                    assert!(passed == 1 || self.thrifty, "{self:?}");
                }
                return cluster;
            }
            for to in self.others() {
                cluster.pass(0, to, message);
            }
            cluster.node(0).syncs = self.synced || self.next(step) != self.step;
            for from in self.others() {
                cluster.pass(from, 0, answer);
            }
        }
        cluster
    }

    fn next(&self, step: Step) -> Step {
        match (step, self.rival) {
            (Step::PreAccept, Some(_)) => Step::Accept,
            _ => Step::Commit,
        }
    }

    /// Who is gone for good, other than the coordinator: first those who know the most.
    fn gone(&self) -> Vec<u8> {
        let (After::Gone { others } | After::Back { others }) = self.after;
        let unreached = self.others().filter(|other| !self.reached.contains(other));
        let most = self.reached.iter().copied().chain(unreached);
        most.take(others).collect()
    }

    /// Runs it; how long it took until all was committed.
    fn run(&self) -> Duration {
        let mut cluster = self.cluster();
        let before = cluster.node(0).decided(COMMAND);
        let executed = cluster.node(0).executed();
        cluster.node(0).sent.clear();
        let gone = self.gone();
        let mut living: Vec<u8> = self.others().filter(|r| !gone.contains(r)).collect();
        if matches!(self.after, After::Back { .. }) {
            cluster.restart(0, &self.config());
            living.push(0);
        }
        for at in living.iter().filter(|_| self.all_restart) {
            cluster.node(*at).sent.clear();
            cluster.restart(*at, &self.config());
        }
        let mut took = Duration::ZERO;
        while let Some((who, what)) = uncommitted(&cluster, &living) {
            assert!(took < COMMITTED_WITHIN, "{self:?}: {what:?} at r{who}");
            cluster.pass_time(&living, STEP);
            took += STEP;
        }
        assert_eq!(cluster.breach(), None, "{self:?}");
        for at in &living {
            let now = cluster.node(*at).decided(COMMAND);
            let same = before.is_none() || now == before;
            assert!(same, "{self:?}: {before:?} became {now:?}");
            let order = commands(cluster.node(*at).executed());
            assert!(order.starts_with(&executed), "{self:?}: {order:?}");
            assert_eq!(order, commands(cluster.node(living[0]).executed()));
        }
        took
    }
}

const STEP: Duration = Duration::from_millis(20);

/// The commands among what was executed, without those that became Nop.
fn commands(executed: Vec<String>) -> Vec<String> {
    executed
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect()
}

/// Who of the living lacks the decision of what some of them have heard of.
fn uncommitted(cluster: &Cluster, living: &[u8]) -> Option<(u8, EntryId)> {
    let nodes = || living.iter().map(|at| &cluster.nodes[usize::from(*at)]);
    let known = nodes().flat_map(|node| node.protocol.instances());
    let mut known = known.map(|view| view.id);
    known.find_map(|id| {
        let lacks = nodes().find(|node| node.decided(id).is_none());
        lacks.map(|node| (node.me.0, id))
    })
}

/// The first k others, and the last k.
fn reached(n: u8) -> Vec<Vec<u8>> {
    let first = (0..n).map(|k| (1..=k).collect());
    let last = (1..n - 1).map(|k| (n - k..n).rev().collect());
    first.chain(last).collect()
}

/// All cases of one size; f of the replicas are down for good in the end, if it is not said otherwise.
fn cases(n: u8, thrifty: bool) -> Vec<Case> {
    let f = usize::from(n - 1) / 2;
    let mut cases = Vec::new();
    for (rival, step) in [
        (None, Step::PreAccept),
        (None, Step::Commit),
        (Some(1), Step::PreAccept),
        (Some(1), Step::Accept),
        (Some(1), Step::Commit),
        (Some(n - 1), Step::PreAccept),
        (Some(n - 1), Step::Accept),
        (Some(n - 1), Step::Commit),
    ] {
        for (reached, synced) in reached(n)
            .into_iter()
            .flat_map(|r| [(r.clone(), false), (r, true)])
        {
            for (after, all_restart) in [
                (After::Gone { others: 0 }, false),
                (After::Gone { others: f - 1 }, false),
                (After::Gone { others: f - 1 }, true),
                (After::Back { others: 0 }, false),
                (After::Back { others: f }, false),
                (After::Back { others: f }, true),
            ] {
                let reached = reached.clone();
                let case = Case {
                    n,
                    rival,
                    step,
                    reached,
                    synced,
                    after,
                    thrifty,
                    all_restart,
                };
                cases.push(case);
            }
        }
    }
    cases
}

fn run(n: u8) {
    let cases = [cases(n, false), cases(n, true)].concat();
    let longest = cases.iter().map(Case::run).max();
    println!(
        "{n} replicas, {} cases, the longest took {longest:?}",
        cases.len()
    );
}

#[test]
fn one_of_three_crashes_at_each_step_of_the_commit_path() {
    run(3);
}

#[test]
fn one_of_five_crashes_at_each_step_of_the_commit_path() {
    run(5);
}

#[test]
fn one_of_seven_crashes_at_each_step_of_the_commit_path() {
    run(7);
}
