//! What the clients do, as a function of the seed alone.

use bytes::Bytes;
use clap::Args;
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

    /// Keys, chosen from uniformly
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) keys: u32,

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
    keys: u32,
    read_share: f64,
    random: ChaCha8Rng,
    writes: u64,
}

impl Workload {
    /// How many connections the clients share.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.min(self.clients)
    }

    /// What client number `client` does.
    pub(crate) fn script(&self, client: u32) -> Script {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(u64::from(client));
        Script {
            client,
            keys: self.keys,
            read_share: self.read_share,
            random,
            writes: 0,
        }
    }
}

impl Script {
    /// The next operation.
    pub(crate) fn next(&mut self) -> Next {
        let key = self.random.random_range(0..self.keys);
        if self.read_share > 0.0 && self.random.random_bool(self.read_share) {
            return Next::Get { key };
        }
        let value = ValueId::new(self.client, self.writes);
        self.writes += 1;
        Next::Put { key, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        Workload {
            clients: 2,
            connections: 4,
            keys: 10,
            value_size: 40,
            read_share: 0.5,
            seed: 7,
        }
    }

    fn first(client: u32) -> Vec<Next> {
        let mut script = workload().script(client);
        (0..100).map(|_| script.next()).collect()
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
