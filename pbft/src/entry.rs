//! What a slot holds: a batch, and the moment that its primary gives it.
//!
//! The primary proposes the moment with the batch, and one digest covers both: so the moment goes
//! wherever the digest goes, into certificates, view changes and records. [Castro99 §4.6]

use quorate_core::crypto::{Digest, Digester};
use quorate_core::id::{Slot, UnixTime};
use quorate_core::protocol::Agreed;
use quorate_core::request::Batch;
use serde::{Deserialize, Serialize};

/// What a primary says of the moment of a batch, for the application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// When the batch was given its slot, by the primary's clock.
    pub time: UnixTime,
    /// What the nonce is made from: drawn by the primary.
    pub salt: [u8; 16],
}

impl Moment {
    /// What the application of every replica is told in `slot`. The slot goes into the nonce, so
    /// that no two slots have the same, even if a primary repeats its salts.
    pub(crate) fn agreed_in(&self, slot: Slot) -> Agreed {
        let mut digester = Digester::default();
        digester.update(b"pbft/nonce");
        digester.update(&slot.0.to_le_bytes());
        digester.update(&self.salt);
        Agreed {
            time: self.time,
            nonce: digester.finish().0,
        }
    }
}

/// m: what the digest in a pre-prepare is of. The default is the null request. [Castro99 §4.2]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The requests.
    pub batch: Batch,
    /// Their moment.
    pub moment: Moment,
}

impl Entry {
    /// d: the digest of all of it.
    pub fn digest(&self) -> Digest {
        let mut digester = Digester::default();
        digester.update(&self.batch.digest().0);
        digester.update(&self.moment.time.0.to_le_bytes());
        digester.update(&self.moment.salt);
        digester.finish()
    }

    /// How many bytes the requests take.
    pub fn size(&self) -> usize {
        self.batch.size()
    }
}

/// Where a primary's moments come from: its clock, and a seed that nobody else has.
#[derive(Debug)]
pub(crate) struct Moments {
    seed: [u8; 32],
    drawn: u64,
    /// The time given last.
    pub(crate) last: UnixTime,
}

impl Moments {
    pub(crate) fn of(seed: [u8; 32]) -> Moments {
        Moments {
            seed,
            drawn: 0,
            last: UnixTime::default(),
        }
    }

    /// The next, at what the clock shows, or right after the last of this life.
    pub(crate) fn next(&mut self, clock: UnixTime) -> Moment {
        self.last = clock.max(self.last.next());
        self.drawn += 1;
        let mut digester = Digester::default();
        digester.update(b"pbft/salt");
        digester.update(&self.seed);
        digester.update(&self.drawn.to_le_bytes());
        let Digest(bytes) = digester.finish();
        let mut salt = [0; 16];
        salt.copy_from_slice(&bytes[..16]);
        Moment {
            time: self.last,
            salt,
        }
    }
}
