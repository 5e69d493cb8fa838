//! A deterministic world for consensus protocols: virtual time, a network that loses, repeats and
//! delays, disks that forget what was not synced, replicas that crash and pause, clocks that run
//! at different rates, and checkers that hold the whole to its promises.
//!
//! [`simulate`] runs one seed and reports what became of it; everything in a run follows from
//! the seed. [`World::scripted`] gives a world to be steered by hand, and [`sequence_diagram`]
//! draws what happened.
//!
//! | to learn about | read |
//! |---|---|
//! | what strikes, and how plans are drawn and printed | `plan.rs`, `conditions.rs` |
//! | what does not end by itself, and what is narrow | `hardships.rs`, `hardships/` |
//! | the order of events, and a turn of a replica | `world.rs`, `world/turns.rs`, `host.rs` |
//! | the way of a frame | `World::transmit`, `network.rs` |
//! | replicas that lie | `adversary.rs`, `world/liars.rs` |
//! | what a crash leaves on a disk | `disk.rs` |
//! | what is checked: after every turn, and at the end | `check.rs`, `key_order.rs`, `world/ending.rs`, [`linearizability`] |
//! | how a failing plan is made shorter | `simulate.rs` |
//! | how tests run many seeds, and see that they were worth it | [`seeds`] |
//! | how tests steer single replicas by hand | [`harness`] |
//! | how tests have replicas tell a protocol's own lies | [`lies`] |

pub mod harness;
pub mod history;
pub mod lies;
pub mod linearizability;
pub mod register;
pub mod seeds;

mod adversary;
mod check;
mod client;
mod conditions;
mod config;
mod diagram;
mod disk;
mod hardships;
mod host;
mod key_order;
mod network;
mod plan;
mod queue;
mod report;
mod scenario;
mod simulate;
mod trace;
mod world;

pub use adversary::{Tamper, TamperMaker};
pub use conditions::{Conditions, Distances, Noise, Spread};
pub use config::{Limits, Settled, SimulationConfig};
pub use diagram::{Excerpt, sequence_diagram};
pub use hardships::{Hardships, UnknownHardship, limits::vary};
pub use plan::{Direction, FOR_GOOD, Fault, Faults, Plan, Planned, UnknownFaults, Victim};
pub use report::{Broken, Failure, Report, Rule, Summary};
pub use scenario::{Scenario, ScenarioFailed, UnknownScenario};
pub use simulate::{drawn, simulate};
pub use trace::{Fate, Happening, Line, Party};
pub use world::{Answered, Submission, World};
