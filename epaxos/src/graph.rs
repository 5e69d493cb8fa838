//! The graph of committed instances, and the order in which they are executed.
//!
//! EPaxos executes strongly connected components of the dependency graph in reverse topological
//! order, inside a component by id, and nothing before all that it depends on transitively is
//! committed \[Moraru13 §4.3.2\]. The textbook way, to search anew from every committed instance,
//! visits the same instances over and over while a dependency is missing, and recursion overflows
//! the stack on long chains. This one looks at each edge about once, whatever the order in which
//! instances commit.
//!
//! # How
//!
//! It is the path-based search for components \[Gabow00\], run on many paths at once, each of which
//! stops where it meets something uncommitted and goes on from there.
//!
//! - Committed instances that are not executed are grouped into *components*: instances known to
//!   reach each other. A component grows until it is a strongly connected one.
//! - A component takes the edges of its members one at a time. An edge into itself, or to an
//!   executed instance, is done with. At any other the component *waits* for the instance that the
//!   edge leads to, which is uncommitted, or in another component that waits itself. So each
//!   component waits for at most one instance, and following what is waited for ends at something
//!   uncommitted: a forest.
//! - Where following it would end at the component itself, all on the way reach each other, and
//!   become one component, with one set of edges.
//! - A component without edges left is strongly connected, and all it depends on is executed: it is
//!   executed, and those that wait for a member of it go on with their next edge.
//!
//! What executes is exactly a strongly connected component of the whole graph: its members reach
//! each other, and whoever else could belong to it would have been reached, since all edges were
//! taken. So all replicas execute the same components, whatever order they learnt of commits in.
//!
//! Edges are taken from the highest slot down. Where commands depend on all through a slot, the
//! highest of them depends on the lower ones in turn, and when it is executed so are they: then the
//! rest of the span is done with by one comparison, as are consecutive members of the component
//! itself. From the lowest up, every command would wait for every other.
//!
//! To find out whether following what is waited for comes back, one can walk from the instance
//! waited for towards the end, or from the component through all that wait for it. Both walks are
//! made, a step each in turn, until one comes to an end: the cost is the lesser of the two. A
//! component that nobody waits for needs no walk.

use std::collections::{BTreeMap, VecDeque};

use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, Slot};

use crate::dependencies::Dependencies;

/// The graph of committed instances that are not executed, and what has been executed.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    executed: Frontier,
    /// The same, as spans: what an edge leads to may be far above the frontier.
    past: Dependencies,
    nodes: Nodes,
    /// Where committed instances that are not executed are.
    places: BTreeMap<EntryId, usize>,
    /// Uncommitted instances, with the components that wait for them.
    awaited: BTreeMap<EntryId, Vec<usize>>,
    /// Components that wait for nothing, and have edges to take.
    ready: VecDeque<usize>,
    done: Components,
    work: u64,
}

/// Executed components, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Components {
    ids: Vec<EntryId>,
    /// Where in `ids` each ends.
    ends: Vec<usize>,
}

impl Components {
    /// The components, in the order in which they are to be executed; each in the order in which
    /// its instances are.
    pub fn iter(&self) -> impl Iterator<Item = &[EntryId]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins
            .zip(self.ends.iter().copied())
            .filter_map(|(begin, end)| self.ids.get(begin..end))
    }

    /// All instances, in the order in which they are to be executed.
    pub fn ids(&self) -> &[EntryId] {
        &self.ids
    }

    /// How many components there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl Graph {
    /// The graph of a replica that has executed what a snapshot holds.
    ///
    /// A snapshot must hold the whole of a component or nothing of it: with half of one gone, the
    /// others would no longer be strongly connected, and their order another one. The driver takes
    /// snapshots between the commits of one step and those of another, and all of a component's
    /// are in one step.
    pub fn new(executed: Frontier) -> Self {
        Graph {
            past: Dependencies::from(&executed),
            executed,
            ..Graph::default()
        }
    }

    /// Takes in a committed instance; a Nop depends on nothing. False if it is known already.
    pub fn commit(&mut self, id: EntryId, dependencies: Dependencies) -> bool {
        if self.executed.contains(id) || self.places.contains_key(&id) {
            return false;
        }
        let waiters = self.awaited.remove(&id).unwrap_or_default();
        let place = self.nodes.add(id, dependencies, waiters);
        self.places.insert(id, place);
        self.ready.push_back(place);
        true
    }

    /// What can be executed now and was not given before, which counts as executed from here on.
    /// Dependencies come first, and all replicas give the same components.
    pub fn executable(&mut self) -> Components {
        while let Some(component) = self.ready.pop_front() {
            self.advance(component);
        }
        std::mem::take(&mut self.done)
    }

    /// What has been executed.
    pub fn executed(&self) -> &Frontier {
        &self.executed
    }

    /// Whether an instance is committed, as far as this graph was told.
    pub fn is_committed(&self, id: EntryId) -> bool {
        self.executed.contains(id) || self.places.contains_key(&id)
    }

    /// How many instances are committed and not executed: how far execution has fallen behind.
    pub fn pending(&self) -> usize {
        self.places.len()
    }

    /// The uncommitted instances that pending ones depend on, at most `limit`, the lowest slots
    /// first: whatever is not committed of what has to be. Takes time in the number of pending
    /// instances, and of those that they depend on.
    pub fn blockers(&self, limit: usize) -> Vec<EntryId> {
        let edges = self.nodes.all().flat_map(|node| node.edges.spans());
        let wanted = Dependencies::from_spans(edges.copied().collect());
        let mut blockers = Vec::new();
        for span in wanted.spans() {
            let first = span.first.max(self.executed.through(span.lane).next());
            let ids = (first.0..=span.last.0).map(|slot| EntryId {
                lane: span.lane,
                slot: Slot(slot),
            });
            blockers.extend(ids.filter(|id| !self.is_committed(*id)).take(limit));
        }
        blockers.sort_unstable_by_key(|id| (id.slot, id.lane));
        blockers.truncate(limit);
        blockers
    }

    /// A snapshot at `at` has become the state. It holds whole components. What is pending is
    /// looked at again.
    pub fn install(&mut self, at: &Frontier) {
        let mut remaining: BTreeMap<usize, Vec<EntryId>> = BTreeMap::new();
        for (id, place) in &self.places {
            if !at.contains(*id) {
                let component = self.nodes.find(*place);
                remaining.entry(component).or_default().push(*id);
            }
        }
        let mut before = std::mem::take(&mut self.nodes);
        self.executed = at.clone();
        self.past = Dependencies::from(at);
        self.places.clear();
        self.awaited.clear();
        self.ready.clear();
        for (component, ids) in remaining {
            let edges = std::mem::take(&mut before.at_mut(component).edges);
            self.restore(&ids, edges);
        }
    }

    /// Puts a component back that nobody waits for, and that waits for nothing.
    fn restore(&mut self, ids: &[EntryId], edges: Dependencies) {
        let places: Vec<usize> = ids
            .iter()
            .map(|id| self.nodes.add(*id, Dependencies::none(), Vec::new()))
            .collect();
        self.places
            .extend(ids.iter().copied().zip(places.iter().copied()));
        if let Some(component) = self.nodes.join(&places) {
            self.nodes.at_mut(component).edges = edges;
            self.ready.push_back(component);
        }
    }

    /// How many steps have been made: edges taken and joined, walks and wake-ups. For tests that hold the work
    /// to a bound, and for those who look where time goes.
    pub fn work(&self) -> u64 {
        self.work
    }

    /// Takes the edges of a component until it has to wait, or there are none.
    fn advance(&mut self, mut component: usize) {
        while let Some(id) = self.nodes.at(component).edges.last() {
            self.work += 1;
            if let Some(executed) = self.past.span_of(id) {
                self.nodes.at_mut(component).edges.cut_last(executed.first);
                continue;
            }
            let Some(place) = self.places.get(&id).copied() else {
                self.nodes.at_mut(component).waits_for = Some(id);
                self.awaited.entry(id).or_default().push(component);
                return;
            };
            let other = self.nodes.find(place);
            if other == component {
                let inside = self.run(component, id);
                self.nodes.at_mut(component).edges.cut_last(inside);
            } else if self.comes_back(component, other) {
                component = self.contract(component, other);
            } else {
                self.nodes.at_mut(component).waits_for = Some(id);
                self.nodes.at_mut(other).waiters.push(component);
                return;
            }
        }
        self.execute(component);
    }

    /// The first of the consecutive slots that end with `id` and are all members of `component`.
    fn run(&mut self, component: usize, mut id: EntryId) -> Slot {
        let mut first = id.slot;
        let mut passed = Vec::new();
        while let Some(place) = self.places.get(&id).copied()
            && self.nodes.find(place) == component
        {
            self.work += 1;
            passed.push(place);
            first = self.nodes.at(place).run;
            id.slot = first.previous();
        }
        for place in passed {
            self.nodes.at_mut(place).run = first;
        }
        first
    }

    /// The component that `component` waits for, unless that is uncommitted.
    fn next(&mut self, component: usize) -> Option<usize> {
        let id = self.nodes.at(component).waits_for?;
        let place = self.places.get(&id).copied()?;
        Some(self.nodes.find(place))
    }

    /// Whether following what `other` waits for leads to `component`.
    fn comes_back(&mut self, component: usize, other: usize) -> bool {
        let mut up = other;
        // Components whose waiters are being looked at, each with how many have been.
        let mut down = vec![(component, 0)];
        loop {
            self.work += 1;
            let Some((waited_for, seen)) = down.last_mut() else {
                return false;
            };
            let waiter = self.nodes.at(*waited_for).waiters.get(*seen).copied();
            *seen += 1;
            let inside = *waited_for;
            match waiter.map(|waiter| self.nodes.find(waiter)) {
                None => drop(down.pop()),
                Some(waiter) if waiter == other => return true,
                // It has become a member of what it waited for.
                Some(waiter) if waiter == inside => {}
                Some(waiter) => down.push((waiter, 0)),
            }
            match self.next(up) {
                None => return false,
                Some(next) if next == component => return true,
                Some(next) => up = next,
            }
        }
    }

    /// Makes one component of all on the way from `other` to `component`; returns it.
    fn contract(&mut self, component: usize, other: usize) -> usize {
        let mut path = vec![component];
        let mut on_the_way = Some(other);
        while let Some(place) = on_the_way.filter(|place| *place != component) {
            self.work += 1;
            path.push(place);
            on_the_way = self.next(place);
        }
        let mut spans = Vec::new();
        let mut waiters = Vec::new();
        for place in &path {
            let node = self.nodes.at_mut(*place);
            node.waits_for = None;
            spans.extend_from_slice(std::mem::take(&mut node.edges).spans());
            let mut fewer = std::mem::take(&mut node.waiters);
            if waiters.len() < fewer.len() {
                std::mem::swap(&mut waiters, &mut fewer);
            }
            self.work += fewer.len() as u64;
            waiters.append(&mut fewer);
        }
        self.work += spans.len() as u64;
        let joined = self.nodes.join(&path).unwrap_or(component);
        let node = self.nodes.at_mut(joined);
        node.edges = Dependencies::from_spans(spans);
        node.waiters = waiters;
        joined
    }

    /// Executes a component that has no edges left: all it depends on is executed.
    fn execute(&mut self, component: usize) {
        let waiters = std::mem::take(&mut self.nodes.at_mut(component).waiters);
        for waiter in waiters {
            self.work += 1;
            let waiter = self.nodes.find(waiter);
            if waiter != component {
                self.nodes.at_mut(waiter).waits_for = None;
                self.ready.push_back(waiter);
            }
        }
        let begin = self.done.ids.len();
        self.nodes.remove(component, &mut self.done.ids);
        self.done.ends.push(self.done.ids.len());
        let members = self.done.ids.get_mut(begin..).unwrap_or_default();
        members.sort_unstable();
        for id in members {
            self.places.remove(id);
            self.executed.insert(*id);
            self.past.insert(*id);
        }
    }
}

/// An instance; one of each component stands for it.
#[derive(Clone, Debug)]
struct Node {
    id: EntryId,
    /// A member nearer to the one that stands for the component; itself, if it is that one.
    towards: usize,
    /// The next member, in a ring of all.
    next: usize,
    /// Of the one that stands for a component: how many members there are.
    size: usize,
    /// All slots of the lane from this one through the instance's own are members.
    run: Slot,
    /// The component's edges that have not been taken, and the one it waits at.
    edges: Dependencies,
    /// What the component waits for.
    waits_for: Option<EntryId>,
    /// Those that wait for a member, or did before they became members themselves.
    waiters: Vec<usize>,
}

/// Instances by place, grouped into components by union-find \[Tarjan75\]. A place is used again
/// once its component was removed, when nothing names it any more.
#[derive(Clone, Debug, Default)]
struct Nodes {
    nodes: Vec<Node>,
    free: Vec<usize>,
}

impl Nodes {
    /// A component of one instance; returns its place.
    fn add(&mut self, id: EntryId, edges: Dependencies, waiters: Vec<usize>) -> usize {
        let place = self.free.pop().unwrap_or(self.nodes.len());
        let node = Node {
            id,
            towards: place,
            next: place,
            size: 1,
            run: id.slot,
            edges,
            waits_for: None,
            waiters,
        };
        match self.nodes.get_mut(place) {
            Some(used) => *used = node,
            None => self.nodes.push(node),
        }
        place
    }

    /// All instances. A removed one has no edges.
    fn all(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    fn at(&self, place: usize) -> &Node {
        &self.nodes[place]
    }

    fn at_mut(&mut self, place: usize) -> &mut Node {
        &mut self.nodes[place]
    }

    /// The place that stands for the component of `place`.
    fn find(&mut self, mut place: usize) -> usize {
        loop {
            let towards = self.at(place).towards;
            if towards == place {
                return place;
            }
            let further = self.at(towards).towards;
            self.at_mut(place).towards = further;
            place = further;
        }
    }

    /// Makes one component of several, each named by the place that stands for it; returns the
    /// place that stands for it, whose edges and waiters are its own only.
    fn join(&mut self, components: &[usize]) -> Option<usize> {
        let largest = components.iter().copied();
        let largest = largest.max_by_key(|place| self.at(*place).size)?;
        for place in components.iter().copied().filter(|place| *place != largest) {
            let (size, next) = (self.at(place).size, self.at(place).next);
            let into = self.at_mut(largest);
            into.size += size;
            // Two rings become one where the successors change places.
            let after = std::mem::replace(&mut into.next, next);
            let joined = self.at_mut(place);
            joined.next = after;
            joined.towards = largest;
        }
        Some(largest)
    }

    /// Removes a component, and appends the ids of its members.
    fn remove(&mut self, component: usize, ids: &mut Vec<EntryId>) {
        let mut place = component;
        loop {
            let node = self.at(place);
            let next = node.next;
            ids.push(node.id);
            self.free.push(place);
            if next == component {
                return;
            }
            place = next;
        }
    }
}

#[cfg(test)]
mod tests;
