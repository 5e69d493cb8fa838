//! What the clients do, as a function of the seed, and of nothing else but when a phase begins.
//!
//! That is a matter of time: how many operations a client has done by then differs from run to run.

use std::ops::Range;

use anyhow::{Result, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::arguments;

/// The bytes of a value that tell it from all others: the digits of its [`ValueId`].
const ID_DIGITS: usize = 16;

/// Bits of a [`ValueId`] that number the writes of one client.
const WRITE_BITS: u32 = 40;

/// What the clients do.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Workload {
    /// Clients, each of which has one operation under way at any time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub(crate) clients: u32,

    /// Connections that the clients share, at most one a client
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) connections: u32,

    /// To which replicas the connections go: with `spread`, a replica that does not lead forwards
    #[arg(long, value_enum, default_value_t = Placement::Leader)]
    pub(crate) placement: Placement,

    /// Keys, chosen from uniformly; with --conflicts, key 0 is the one that all clients share, and the
    /// others are divided evenly among the clients
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) keys: u32,

    /// How many of a hundred operations are on a key that all clients share, the others being on
    /// keys of their own; by default keys are chosen uniformly
    ///
    /// Of several rates, separated by commas, each has its phase: an equal part of the measured time.
    /// The warm-up has the first rate. When a phase begins is a matter of time; all else is determined
    /// by the seed. The clients' own keys are taken from --keys, so that these must be more than the
    /// clients.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(..=100))]
    pub(crate) conflicts: Vec<u32>,

    /// Bytes of each value written; the first 16 make it unique
    #[arg(long, value_name = "BYTES", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(ID_DIGITS as i64..=quorate_kv::VALUE_LIMIT as i64 / 2))]
    pub(crate) value_size: u32,

    /// Share of operations that are linearizable reads, from 0 to 1; the others are puts
    #[arg(long, value_name = "F", default_value_t = 0.0, value_parser = arguments::fraction)]
    pub(crate) read_share: f64,

    /// Determines keys and operations of every client
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// To which replicas the clients' connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Placement {
    /// All to the leader, also to a new one; to each replica in turn if the protocol has no leader
    Leader,
    /// To each replica in turn, and they stay there
    Spread,
}

impl Placement {
    /// What a report says of it.
    pub(crate) fn told(self) -> &'static str {
        match self {
            Placement::Leader => "at the leader if there is one",
            Placement::Spread => "spread over the replicas",
        }
    }
}

/// Which value: unique among all writes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ValueId(u64);

impl ValueId {
    /// The value of write number `write` of client number `client`.
    pub(crate) const fn new(client: u32, write: u64) -> Self {
        ValueId(((client as u64) << WRITE_BITS) | write)
    }

    fn digits(self) -> [u8; ID_DIGITS] {
        let mut digits = [b'0'; ID_DIGITS];
        for (place, digit) in digits.iter_mut().rev().enumerate() {
            let nibble = (self.0 >> (4 * place)) & 0xf;
            *digit = b"0123456789abcdef"[nibble as usize];
        }
        digits
    }

    /// The text that starts the value, and stands for it in a history.
    pub(crate) fn text(self) -> String {
        self.digits().map(char::from).iter().collect()
    }

    /// The value itself: the text, over and over, so that a mangled value shows.
    pub(crate) fn value(self, size: usize) -> Bytes {
        let digits = self.digits();
        let mut value = Vec::with_capacity(size.next_multiple_of(ID_DIGITS));
        while value.len() < size {
            value.extend_from_slice(&digits);
        }
        value.truncate(size);
        value.into()
    }

    /// Which value this is, if it is one of a run at all, whole and of the right size.
    pub(crate) fn recognise(value: &[u8], size: usize) -> Option<Self> {
        let text = std::str::from_utf8(value.get(..ID_DIGITS)?).ok()?;
        let id = ValueId(u64::from_str_radix(text, 16).ok()?);
        let digits = id.digits();
        let whole = |part: &[u8]| digits.starts_with(part);
        (value.len() == size && value.chunks(ID_DIGITS).all(whole)).then_some(id)
    }
}

/// The name of key number `key`.
pub(crate) fn key_name(key: u32) -> String {
    format!("key-{key:07}")
}

/// The next operation of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Write `value` to the key.
    Put { key: u32, value: ValueId },
    /// Read the key.
    Get { key: u32 },
}

/// What one client does, operation by operation.
#[derive(Debug)]
pub(crate) struct Script {
    client: u32,
    keys: Choice,
    read_share: f64,
    random: ChaCha8Rng,
    writes: u64,
}

/// How a client chooses keys.
#[derive(Debug)]
enum Choice {
    /// All are alike.
    Uniform { keys: u32 },
    /// One that all clients share, at these rates, and else one of its own.
    Conflicts { rates: Vec<u32>, own: Range<u32> },
}

/// The number of the key that all clients share.
const SHARED: u32 = 0;

impl Workload {
    /// Fails if there are too few keys for all clients to have one of their own.
    pub(crate) fn check(&self) -> Result<()> {
        self.choice(0).map(drop)
    }

    fn choice(&self, client: u32) -> Result<Choice> {
        let (keys, clients) = (self.keys, self.clients);
        if self.conflicts.is_empty() {
            return Ok(Choice::Uniform { keys });
        }
        if keys <= clients {
            bail!(
                "--conflicts takes a key for each of the {clients} clients and one that they share: --keys {keys} is too few"
            );
        }
        let each = (keys - 1) / clients;
        let first = SHARED + 1 + client * each;
        Ok(Choice::Conflicts {
            rates: self.conflicts.clone(),
            own: first..first + each,
        })
    }

    /// How many connections the clients share.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.min(self.clients)
    }

    /// What client number `client` does. Fails if it has no key of its own and needs one.
    pub(crate) fn script(&self, client: u32) -> Result<Script> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(u64::from(client));
        Ok(Script {
            client,
            keys: self.choice(client)?,
            read_share: self.read_share,
            random,
            writes: 0,
        })
    }
}

impl Script {
    /// The next operation, in phase number `phase`.
    pub(crate) fn next(&mut self, phase: usize) -> Next {
        let key = self.next_key(phase);
        if self.read_share > 0.0 && self.random.random_bool(self.read_share) {
            return Next::Get { key };
        }
        let value = ValueId::new(self.client, self.writes);
        self.writes += 1;
        Next::Put { key, value }
    }

    fn next_key(&mut self, phase: usize) -> u32 {
        match &self.keys {
            Choice::Uniform { keys } => self.random.random_range(0..*keys),
            Choice::Conflicts { rates, own } => {
                // Both are drawn at any rate, so that all that follows is the same whenever a phase
                // begins.
                let drawn = self.random.random_range(0..100);
                let own = self.random.random_range(own.clone());
                match rates.get(phase) {
                    Some(rate) if drawn < *rate => SHARED,
                    _ => own,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn workload() -> Workload {
        Workload {
            clients: 2,
            connections: 4,
            placement: Placement::Leader,
            keys: 10,
            conflicts: Vec::new(),
            value_size: 40,
            read_share: 0.5,
            seed: 7,
        }
    }

    fn first(client: u32) -> Vec<Next> {
        let mut script = workload().script(client).unwrap();
        (0..100).map(|_| script.next(0)).collect()
    }

    /// The keys of many operations of each of 3 clients, in one phase after the other.
    fn keys(conflicts: &[u32]) -> Vec<Vec<Vec<u32>>> {
        let workload = Workload {
            clients: 3,
            keys: 12,
            conflicts: conflicts.to_vec(),
            ..workload()
        };
        let client = |number| {
            let mut script = workload.script(number).unwrap();
            let mut phase = |phase| {
                let keys = (0..10_000).map(|_| match script.next(phase) {
                    Next::Put { key, .. } | Next::Get { key } => key,
                });
                keys.collect()
            };
            (0..conflicts.len()).map(&mut phase).collect()
        };
        (0..3).map(client).collect()
    }

    #[test]
    fn a_client_does_the_same_each_time_and_others_do_other_things() {
        assert_eq!(first(0), first(0));
        assert_ne!(first(0), first(1));
        let reads = first(1)
            .iter()
            .filter(|next| matches!(next, Next::Get { .. }))
            .count();
        assert!((20..80).contains(&reads), "{reads}");
    }

    #[test]
    fn where_nothing_conflicts_no_two_clients_share_a_key() {
        let mut owners = BTreeMap::new();
        for (client, keys) in keys(&[0]).into_iter().enumerate() {
            for key in keys.into_iter().flatten() {
                assert!((1..12).contains(&key), "{key}");
                assert_eq!(*owners.entry(key).or_insert(client), client, "{key}");
            }
        }
        assert_eq!(owners.len(), 9, "each of 3 clients has 3 of 11 keys");
    }

    #[test]
    fn where_all_conflict_there_is_one_key() {
        let keys = keys(&[100]);
        assert!(keys.iter().flatten().flatten().all(|key| *key == SHARED));
    }

    #[test]
    fn as_many_operations_conflict_as_are_asked_for_in_each_phase() {
        let rates = [2, 50, 0, 100, 2];
        for client in keys(&rates) {
            for (rate, keys) in rates.iter().zip(client) {
                let shared = keys.iter().filter(|key| **key == SHARED).count() as u32;
                assert!(shared.abs_diff(rate * 100) <= 200, "{rate} %: {shared}");
            }
        }
    }

    #[test]
    fn a_phase_changes_only_which_operations_conflict() {
        let workload = Workload {
            conflicts: vec![0, 50],
            ..workload()
        };
        let (mut without, mut with) = (workload.script(1).unwrap(), workload.script(1).unwrap());
        let mut conflicts = 0;
        for _ in 0..1_000 {
            match (without.next(0), with.next(1)) {
                (Next::Put { value, .. }, Next::Put { key, value: same }) if key == SHARED => {
                    assert_eq!(value, same);
                    conflicts += 1;
                }
                (Next::Get { .. }, Next::Get { key }) if key == SHARED => conflicts += 1,
                (without, with) => assert_eq!(without, with),
            }
        }
        assert!((400..600).contains(&conflicts), "{conflicts}");
    }

    #[test]
    fn every_client_needs_a_key_of_its_own_only_for_conflicts() {
        let with = |keys, conflicts: &[u32]| Workload {
            keys,
            conflicts: conflicts.to_vec(),
            ..workload()
        };
        assert!(with(1, &[]).check().is_ok());
        assert!(with(3, &[0]).check().is_ok());
        assert!(with(2, &[0]).check().is_err());
    }

    #[test]
    fn a_value_is_recognised_only_if_it_is_whole() {
        for size in [16, 17, 40, 256] {
            let id = ValueId::new(3, 77);
            let value = id.value(size);
            assert_eq!(value.len(), size);
            assert_eq!(ValueId::recognise(&value, size), Some(id));
            assert_eq!(ValueId::recognise(&value[1..], size), None);
            assert_eq!(ValueId::recognise(&value, size + 1), None);
            let mut mangled = value.to_vec();
            mangled[size - 1] ^= 1;
            assert_eq!(
                ValueId::recognise(&mangled, size).filter(|other| *other == id),
                None
            );
        }
        assert_eq!(ValueId::recognise(b"", 16), None);
    }
}
