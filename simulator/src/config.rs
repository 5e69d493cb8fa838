//! What is simulated.

use std::time::Duration;

use quorate_core::crypto::Scheme;
use quorate_core::protocol::{FaultModel, Protocol};
use quorate_core::replica::Settings;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::adversary::TamperMaker;
use crate::hardships::{Hardships, limits};
use crate::plan::Faults;

/// The stream of the seed's generator that limits are drawn from.
const LIMITS: u64 = 3;

/// Whether a replica has come to rest, in the protocol's own terms; if not, what is missing. For
/// what executing the same does not show: an instance that is known and will never be committed.
pub type Settled<P> = fn(&P) -> Result<(), String>;

/// Draws a protocol's limits, and such of the driver's as go with them, each by itself.
pub type Limits<P> = fn(&mut ChaCha8Rng, &mut <P as Protocol>::Config, &mut Settings);

/// What is simulated, but for the seed.
#[derive(Debug)]
pub struct SimulationConfig<P: Protocol> {
    /// How many replicas there are.
    pub replicas: usize,
    /// The protocol's own configuration.
    pub protocol: P::Config,
    /// The driver's.
    pub settings: Settings,
    /// Which faults strike.
    pub faults: Faults,
    /// Which hardships are met besides.
    pub hardships: Hardships,
    /// Whether replicas refuse one that comes back with less than it said to be durable. Without, worlds show what
    /// a disk that was put back does.
    pub remembers: bool,
    /// Draws the limits of a seed, if [`Hardships::limits`] says so: called after the driver's were
    /// drawn.
    pub limits: Option<Limits<P>>,
    /// How many replicas lie at most, if the faults are such.
    pub liars: usize,
    /// How long those hold frames back at most: best a little less than the protocol's time-out.
    pub liar_patience: Duration,
    /// Lies that take knowledge of the protocol, beside those that do not.
    pub tamper: Option<TamperMaker<P>>,
    /// How replicas and clients sign. With [`Scheme::Forgeable`] worlds of protocols that sign are several
    /// times as fast as with Ed25519, and go the same way, unless a choice hangs on a digest of what is signed.
    pub signatures: Scheme,
    /// How many clients there are.
    pub clients: usize,
    /// How many of a hundred operations are on one register that all clients share; the others are
    /// on a register of the client's own. If not given, all are on three that all share.
    pub conflicts: Option<u32>,
    /// How many operations they do, all together.
    pub operations: u64,
    /// How long faults last, in virtual time. Clients spread their operations over it.
    pub fault_time: Duration,
    /// How long anything may wait once the faults have ended, in virtual time: each operation of a
    /// client for its answer, a write and a read through every replica among them, and, when all
    /// clients are done, the replicas until they have executed the same and come to rest. Clients
    /// give up no operation then. It does not bound the time for all operations together: a
    /// cluster that serves slowly is alive.
    pub recovery_limit: Duration,
    /// What must hold of each replica in the end beside that: what it says is missing.
    pub settled: Option<Settled<P>>,
    /// How many runs may be spent on a shorter plan for a failure; 0 leaves it as it is.
    pub shrink_runs: u32,
    /// Whether to keep a readable trace.
    pub record: bool,
}

// Derived, it would ask for `P: Clone`.
impl<P: Protocol> Clone for SimulationConfig<P> {
    fn clone(&self) -> Self {
        SimulationConfig {
            protocol: self.protocol.clone(),
            settings: self.settings.clone(),
            ..*self
        }
    }
}

impl<P: Protocol> SimulationConfig<P> {
    /// A cluster of `replicas` under all faults: 5 clients, 120 operations, 3 s of faults, 10 s
    /// of waiting at most after them; if the protocol survives lies, as many replicas may lie as
    /// it survives. The driver takes snapshots often, and proposes again what has waited 200 ms.
    /// No hardships: who calls this switches on what the protocol survives.
    pub fn new(replicas: usize, protocol: P::Config) -> Self {
        SimulationConfig {
            replicas,
            protocol,
            settings: Settings {
                retry_after: Duration::from_millis(200),
                snapshot_every_bytes: 1_500,
                ..Settings::default()
            },
            faults: Faults::All,
            hardships: Hardships::NONE,
            remembers: true,
            limits: None,
            liars: match P::FAULTS {
                FaultModel::Crash => 0,
                FaultModel::Byzantine => P::FAULTS.tolerated(replicas),
            },
            liar_patience: Duration::from_millis(200),
            tamper: None,
            signatures: Scheme::Forgeable,
            clients: 5,
            conflicts: None,
            operations: 120,
            fault_time: Duration::from_secs(3),
            recovery_limit: Duration::from_secs(10),
            settled: None,
            shrink_runs: 60,
            record: false,
        }
    }

    /// This, with the limits of a seed.
    pub(crate) fn limited(mut self, seed: u64) -> Self {
        if self.hardships.limits {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(LIMITS);
            limits::draw(&mut random, &mut self.settings);
            if let Some(draw) = self.limits {
                draw(&mut random, &mut self.protocol, &mut self.settings);
            }
        }
        self
    }
}
