//! Requests under way through this node.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::crypto::{PublicKey, Signer};
use crate::id::Time;
use crate::request::{Batch, BatchBuilder, Group, Operation, Request, SessionId};

use super::settings::Settings;

/// The requests that this node has taken and not yet seen executed: those gathering for the next
/// batch, and the batches proposed.
#[derive(Debug, Default)]
pub(super) struct Pending {
    gathering: BatchBuilder,
    /// How many of those gathering were executed before they were proposed.
    overtaken: usize,
    batches: BTreeMap<u64, InFlight>,
    /// The batch of each request, by session and sequence.
    requests: BTreeMap<SessionId, BTreeMap<u64, u64>>,
    /// How many requests each client has under way, if it has any.
    clients: BTreeMap<PublicKey, usize>,
    count: usize,
    bytes: usize,
    next: u64,
    /// Nothing new is taken.
    closed: bool,
    /// No new commands are taken, only queries, and what closes sessions.
    queries_only: bool,
}

#[derive(Debug)]
struct InFlight {
    batch: Batch,
    /// Its bytes before it was signed.
    size: usize,
    left: usize,
    proposed: Time,
}

/// A client has little under way that has this part of what all may have.
const SPARED: usize = 256;

/// A client may have this part of what all may have under way before what it asks next waits: more
/// than one session has at any time.
const SHARES: usize = 4;

/// What became of a request that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It will be proposed.
    New,
    /// It is under way already.
    Known,
    /// There are too many.
    Full,
    /// The disk is full, or nearly so.
    DiskFull,
}

impl Pending {
    pub(super) fn add(&mut self, request: Request<'_>, settings: &Settings) -> Added {
        let size = match request.operation {
            Operation::Apply(bytes) | Operation::Query(bytes) => bytes.len(),
            Operation::Open | Operation::Close => 0,
        };
        match self.admit(&request, size, settings) {
            Added::New => {}
            refused => return refused,
        }
        self.gather(settings, |gathering| gathering.push(request));
        Added::New
    }

    /// Adds those requests of a group that are `new`. It was signed as a whole, and goes on as a
    /// whole if one of them is not under way yet. Gives those that are not taken, and why.
    pub(super) fn add_group<'a>(
        &mut self,
        group: &Group<'_>,
        new: &[Request<'a>],
        settings: &Settings,
    ) -> Vec<(Request<'a>, Added)> {
        let (mut added, mut refused) = (0, Vec::new());
        for request in new {
            match self.admit(request, group.size(), settings) {
                Added::New => added += 1,
                Added::Known => {}
                why @ (Added::Full | Added::DiskFull) => refused.push((*request, why)),
            }
        }
        if added > 0 {
            self.overtaken += group.len() - added;
            self.gather(settings, |gathering| gathering.push_group(group));
        }
        refused
    }

    /// Why one more request is not taken, if it is not.
    fn refusal(&self, request: &Request<'_>, size: usize, settings: &Settings) -> Option<Added> {
        let client = request.session.client;
        let full = self.count >= settings.max_pending || self.bytes >= settings.max_pending_bytes;
        if self.closed || (full && !self.is_spared(client, size, settings)) {
            return Some(Added::Full);
        }
        let command = matches!(request.operation, Operation::Apply(_) | Operation::Open);
        (self.queries_only && command).then_some(Added::DiskFull)
    }

    fn admit(&mut self, request: &Request<'_>, size: usize, settings: &Settings) -> Added {
        let session = request.session;
        let refusal = self.refusal(request, size, settings);
        if let Some(refusal) = refusal
            && !self.requests.contains_key(&session)
        {
            return refusal;
        }
        let requests = self.requests.entry(session).or_default();
        match requests.entry(request.sequence) {
            Entry::Occupied(_) => return Added::Known,
            Entry::Vacant(entry) => match refusal {
                Some(refusal) => return refusal,
                None => entry.insert(self.next),
            },
        };
        self.count += 1;
        *self.clients.entry(session.client).or_default() += 1;
        Added::New
    }

    /// How many requests of a client are under way.
    fn of(&self, client: PublicKey) -> usize {
        self.clients.get(&client).copied().unwrap_or(0)
    }

    /// Whether requests of a client may be added now, or should wait where they are: it has its
    /// share under way, or they are many bytes and there are many already.
    pub(super) fn may_take(&self, batch: &Batch, settings: &Settings) -> bool {
        let client = batch.groups().next().map(|group| group.session.client);
        let own = client.map_or(0, |client| self.of(client));
        let many = batch.size() > settings.max_pending_bytes / SPARED
            && self.bytes >= settings.max_pending_bytes / 2;
        own == 0 || (own < settings.max_pending / SHARES && !many)
    }

    /// Whether there is room beyond the bounds for a client that has little under way: one that has
    /// filled them is not to keep all others out.
    fn is_spared(&self, client: PublicKey, size: usize, settings: &Settings) -> bool {
        let room = self.count < settings.max_pending.saturating_mul(2)
            && self.bytes < settings.max_pending_bytes.saturating_mul(2);
        let own = self.of(client);
        room && size <= settings.max_pending_bytes / SPARED && own < settings.max_pending / SPARED
    }

    fn gather(&mut self, settings: &Settings, push: impl FnOnce(&mut BatchBuilder)) {
        let before = self.gathering.size();
        push(&mut self.gathering);
        self.bytes += self.gathering.size() - before;
        if self.gathering.size() >= settings.max_batch_bytes {
            self.close();
        }
    }

    /// Closes the gathering batch if it may be proposed now, and gives all closed batches that
    /// have not been proposed yet.
    ///
    /// With a `signer`, the requests of its own sessions are signed.
    pub(super) fn due(
        &mut self,
        now: Time,
        settings: &Settings,
        signer: Option<&Signer>,
    ) -> Vec<Batch> {
        let gathered = !self.gathering.is_empty();
        if gathered && self.batches.len() < settings.batches_in_flight() {
            self.close();
        }
        let unproposed = |flight: &&mut InFlight| flight.proposed == UNPROPOSED;
        self.batches
            .values_mut()
            .rev()
            .take_while(unproposed)
            .map(|flight| {
                flight.proposed = now;
                if let Some(signer) = signer {
                    flight.batch = flight.batch.signed(signer);
                }
                flight.batch.clone()
            })
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect()
    }

    fn close(&mut self) {
        // The next is likely to be of the same size.
        let next = BatchBuilder::with_capacity(self.gathering.size());
        let batch = std::mem::replace(&mut self.gathering, next).finish();
        let left = batch.len() - std::mem::take(&mut self.overtaken);
        if left == 0 {
            self.bytes = self.bytes.saturating_sub(batch.size());
        } else {
            let flight = InFlight {
                left,
                size: batch.size(),
                batch,
                proposed: UNPROPOSED,
            };
            self.batches.insert(self.next, flight);
        }
        self.next += 1;
    }

    /// All batches, the one that gathers closed.
    pub(super) fn batches(&mut self) -> Vec<Batch> {
        if !self.gathering.is_empty() {
            self.close();
        }
        let flights = self.batches.values();
        flights.map(|flight| flight.batch.clone()).collect()
    }

    /// Whether a request is under way.
    pub(super) fn has(&self, session: SessionId, sequence: u64) -> bool {
        let requests = self.requests.get(&session);
        requests.is_some_and(|requests| requests.contains_key(&sequence))
    }

    /// The batches to be proposed once more: those last proposed at `before` or earlier.
    pub(super) fn again(&mut self, now: Time, before: Time) -> Vec<Batch> {
        let old = |flight: &&mut InFlight| flight.proposed <= before;
        let again = |flight: &mut InFlight| {
            flight.proposed = now;
            flight.batch.clone()
        };
        self.batches.values_mut().filter(old).map(again).collect()
    }

    /// When the batch that waits longest was last proposed.
    pub(super) fn oldest(&self) -> Option<Time> {
        let proposed = self.batches.values().map(|flight| flight.proposed);
        proposed.filter(|time| *time != UNPROPOSED).min()
    }

    /// Notes that a request was executed; true if it was under way through this node.
    pub(super) fn executed(&mut self, session: SessionId, sequence: u64) -> bool {
        let Some(number) = self.forget(session, sequence) else {
            return false;
        };
        let Some(flight) = self.batches.get_mut(&number) else {
            self.overtaken += 1;
            return true;
        };
        flight.left -= 1;
        if flight.left == 0 {
            self.bytes = self.bytes.saturating_sub(flight.size);
            self.batches.remove(&number);
        }
        true
    }

    fn forget(&mut self, session: SessionId, sequence: u64) -> Option<u64> {
        let requests = self.requests.get_mut(&session)?;
        let number = requests.remove(&sequence)?;
        if requests.is_empty() {
            self.requests.remove(&session);
        }
        if let Entry::Occupied(mut own) = self.clients.entry(session.client) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
        self.count -= 1;
        Some(number)
    }

    /// Whether [`Pending::due`] has nothing to give.
    pub(super) fn is_quiet(&self, settings: &Settings) -> bool {
        let last = self.batches.values().next_back();
        if last.is_some_and(|flight| flight.proposed == UNPROPOSED) {
            return false;
        }
        self.gathering.is_empty() || self.batches.len() >= settings.batches_in_flight()
    }

    /// Whether nothing new is taken.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes nothing new from now on, or again.
    pub(super) fn close_to_new(&mut self, closed: bool) {
        self.closed = closed;
    }

    /// Takes no new commands from now on, or again; queries are taken, and what closes sessions.
    pub(super) fn take_queries_only(&mut self, queries_only: bool) {
        self.queries_only = queries_only;
    }

    /// How many requests are under way.
    pub(super) fn len(&self) -> usize {
        self.count
    }
}

/// Stands for "never".
const UNPROPOSED: Time = Time(u64::MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{GroupId, SecretKey};

    const SESSION: SessionId = SessionId {
        client: PublicKey([1; 32]),
        number: 1,
    };

    fn request(sequence: u64) -> Request<'static> {
        Request {
            session: SESSION,
            sequence,
            answered: 0,
            operation: Operation::Apply(b"command"),
        }
    }

    fn settings() -> Settings {
        Settings {
            max_pending: 4,
            max_batches_in_flight: Some(1),
            ..Settings::default()
        }
    }

    #[test]
    fn what_arrives_while_a_batch_is_under_way_makes_the_next() {
        let (mut pending, settings) = (Pending::default(), settings());
        assert_eq!(pending.add(request(1), &settings), Added::New);
        assert_eq!(pending.due(Time(1), &settings, None).len(), 1);
        pending.add(request(2), &settings);
        pending.add(request(3), &settings);
        assert!(pending.due(Time(2), &settings, None).is_empty());
        assert!(pending.executed(SESSION, 1));
        let batches = pending.due(Time(3), &settings, None);
        assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_request_under_way_is_not_added_again_and_the_rest_is_bounded() {
        let (mut pending, settings) = (Pending::default(), settings());
        for sequence in 1..=4 {
            assert_eq!(pending.add(request(sequence), &settings), Added::New);
        }
        assert_eq!(pending.add(request(2), &settings), Added::Known);
        assert_eq!(pending.add(request(5), &settings), Added::Full);
        pending.due(Time(1), &settings, None);
        assert!(pending.executed(SESSION, 3));
        assert!(!pending.executed(SESSION, 3));
        assert_eq!(pending.add(request(5), &settings), Added::New);
    }

    #[test]
    fn who_has_its_share_under_way_waits_and_others_do_not() {
        let settings = Settings {
            max_pending: 2 * SHARES,
            ..settings()
        };
        let mut pending = Pending::default();
        let ask = |client: u8, pending: &Pending| {
            let mut asked = request(9);
            asked.session.client = PublicKey([client; 32]);
            pending.may_take(&Batch::of_one(asked), &settings)
        };
        for sequence in 1..=2 {
            assert!(ask(1, &pending));
            pending.add(request(sequence), &settings);
        }
        assert!(!ask(1, &pending) && ask(2, &pending));
        pending.executed(SESSION, 1);
        assert!(ask(1, &pending));
    }

    #[test]
    fn one_client_that_fills_the_bounds_does_not_keep_others_out() {
        let settings = Settings {
            max_pending: 2 * SPARED,
            ..settings()
        };
        let mut pending = Pending::default();
        let mut fill = |client: u16| {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&client.to_le_bytes());
            let session = SessionId {
                client: PublicKey(key),
                number: 1,
            };
            let requests = (1..).map(|sequence| Request {
                session,
                ..request(sequence)
            });
            let mut added = requests.map(|request| pending.add(request, &settings));
            added.position(|added| added == Added::Full).unwrap()
        };
        assert_eq!(fill(1), settings.max_pending);
        // Another has a little, and all of them a bound.
        let others: Vec<usize> = (2..2 + SPARED as u16).map(&mut fill).collect();
        assert_eq!(others, [2; SPARED]);
        assert_eq!(fill(1000), 0);
    }

    #[test]
    fn a_request_executed_before_it_was_proposed_holds_nothing_up() {
        let (mut pending, settings) = (Pending::default(), settings());
        pending.add(request(1), &settings);
        assert!(pending.executed(SESSION, 1));
        assert!(pending.due(Time(1), &settings, None).is_empty());
        pending.add(request(2), &settings);
        pending.add(request(3), &settings);
        assert!(pending.executed(SESSION, 2));
        assert_eq!(pending.due(Time(2), &settings, None).len(), 1);
        assert!(pending.executed(SESSION, 3));
        assert_eq!((pending.oldest(), pending.bytes), (None, 0));
    }

    #[test]
    fn what_was_signed_together_goes_on_together_if_anything_in_it_is_new() {
        let (mut pending, settings) = (Pending::default(), settings());
        let client = Signer::new(SecretKey::from_seed([1; 32]), GroupId(1));
        let session = SessionId {
            client: client.public(),
            number: 1,
        };
        let requests = [1, 2, 3].map(|sequence| Request {
            session,
            ..request(sequence)
        });
        let mut builder = BatchBuilder::default();
        requests.iter().for_each(|request| builder.push(*request));
        let signed = builder.finish().signed(&client);
        let group = signed.groups().next().unwrap();
        assert!(
            pending
                .add_group(&group, &requests[1..], &settings)
                .is_empty()
        );
        assert!(
            pending
                .add_group(&group, &requests[1..], &settings)
                .is_empty()
        );
        assert_eq!(
            pending.due(Time(1), &settings, None),
            std::slice::from_ref(&signed)
        );
        assert_eq!(pending.len(), 2);
        assert!(!pending.executed(session, 1));
        assert!(pending.executed(session, 2) && pending.executed(session, 3));
        assert_eq!((pending.oldest(), pending.bytes), (None, 0));
    }

    #[test]
    fn full_batches_do_not_wait() {
        let settings = Settings {
            max_batch_bytes: 1,
            ..settings()
        };
        let mut pending = Pending::default();
        pending.add(request(1), &settings);
        pending.add(request(2), &settings);
        let batches = pending.due(Time(1), &settings, None);
        let firsts = batches
            .iter()
            .flat_map(|b| b.requests().map(|r| r.sequence));
        assert_eq!(firsts.collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn only_what_has_waited_is_proposed_again() {
        let (mut pending, settings) = (Pending::default(), settings());
        pending.add(request(1), &settings);
        assert_eq!(pending.oldest(), None);
        pending.due(Time(10), &settings, None);
        assert_eq!(pending.oldest(), Some(Time(10)));
        assert!(pending.again(Time(15), Time(9)).is_empty());
        assert_eq!(pending.again(Time(20), Time(10)).len(), 1);
        assert_eq!(pending.oldest(), Some(Time(20)));
        pending.executed(SESSION, 1);
        assert_eq!(pending.oldest(), None);
    }

    #[test]
    fn a_batch_that_is_full_is_not_quiet_before_it_is_proposed() {
        let (mut pending, mut settings) = (Pending::default(), settings());
        settings.max_batch_bytes = 1;
        pending.add(request(1), &settings);
        assert!(!pending.is_quiet(&settings));
        assert_eq!(pending.due(Time(1), &settings, None).len(), 1);
        assert!(pending.is_quiet(&settings));
    }
}
