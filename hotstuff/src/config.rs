//! Time-outs and limits, rules and leaders.

use std::fmt;
use std::time::Duration;

use quorate_core::codec::MESSAGE_LIMIT;
use quorate_core::config::above_zero;
use quorate_core::epoch::Setting;
use quorate_core::id::ReplicaId;
use serde::{Deserialize, Serialize};

use crate::blocks::View;
use crate::mutant::Mutant;
use crate::rules::{RuleSet, Rules, ThreeChain, TwoChain};

/// Who leads which view. The same in all replicas of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaders {
    /// Each replica leads a view, in turn, but for up to f of those that let their last turns
    /// pass, for as long as the chain says. [Diem21; Cohen22]
    #[default]
    Reputation,
    /// Each replica leads a view, in turn. [Yin19 §5]
    Rotate,
    /// Each replica leads so many views in a row, unless they are given up: then the next leads.
    Stable {
        /// How many.
        views: u64,
    },
    /// These lead a view each, in turn; a replica that is not named never does.
    Listed(Vec<ReplicaId>),
}

impl fmt::Display for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leaders::Reputation => f.write_str("reputation"),
            Leaders::Rotate => f.write_str("rotate"),
            Leaders::Stable { views } => write!(f, "stable views = {views}"),
            Leaders::Listed(list) => {
                f.write_str("listed")?;
                list.iter().try_for_each(|leader| write!(f, " {leader}"))
            }
        }
    }
}

impl Leaders {
    /// The leader of `view` among `n` replicas; whose turn it is, where that may rest.
    pub fn of(&self, view: View, n: usize) -> ReplicaId {
        let in_turn = |turn: u64| ReplicaId((turn % n.max(1) as u64) as u8);
        match self {
            Leaders::Reputation | Leaders::Rotate => in_turn(view.0),
            Leaders::Stable { views } => in_turn(view.0 / (*views).max(1)),
            Leaders::Listed(list) => {
                let place = view.0 % list.len().max(1) as u64;
                list.get(place as usize).copied().unwrap_or(in_turn(view.0))
            }
        }
    }

    /// Which turn of a leader `view` belongs to.
    pub(crate) fn turn(&self, view: View) -> u64 {
        match self {
            Leaders::Stable { views } => view.0 / (*views).max(1),
            Leaders::Reputation | Leaders::Rotate | Leaders::Listed(_) => view.0,
        }
    }

    /// The last view in a row that the leader of `view` has. Whoever gives up on a leader gives up
    /// all of them, so that nobody waits for it view by view.
    pub(crate) fn last_in_row(&self, view: View) -> View {
        match self {
            Leaders::Stable { views } => {
                let row = view.0 / (*views).max(1);
                View(row.saturating_add(1).saturating_mul((*views).max(1)) - 1)
            }
            Leaders::Reputation | Leaders::Rotate | Leaders::Listed(_) => view,
        }
    }
}

/// Time-outs, limits and rules of a HotStuff replica. `rules`, `leaders`, `checkpoint_every`,
/// `max_block_bytes` and `max_uncommitted` must be the same in all replicas of a cluster: nobody
/// votes for a block that goes by others. The rest should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// When to vote, lock and commit.
    pub rules: RuleSet,
    /// Who leads.
    pub leaders: Leaders,
    /// How long a view in which something is to be done may take before it is given up. Doubles
    /// with each view given up after more in a row, and with those that fail after more between
    /// two commits, than f liars account for; halves again with a commit after eight that do not.
    /// [Yin19 §4.4]
    #[serde(rename = "view_timeout_ms", with = "quorate_core::millis")]
    pub view_timeout: Duration,
    /// The longest that it grows to: messages that take up to a quarter of it are waited for in
    /// the end.
    #[serde(rename = "max_view_timeout_ms", with = "quorate_core::millis")]
    pub max_view_timeout: Duration,
    /// How long a leader of many views in a row may leave out a batch that this replica knows,
    /// while it has others ordered.
    #[serde(rename = "request_timeout_ms", with = "quorate_core::millis")]
    pub request_timeout: Duration,
    /// How often a replica tells another one what it has, for that one to send what it lacks.
    #[serde(rename = "status_every_ms", with = "quorate_core::millis")]
    pub status_every: Duration,
    /// K: a checkpoint is taken at each height that this divides.
    pub checkpoint_every: u64,
    /// A block takes in batches as long as it has no more bytes than this; one always fits.
    pub max_block_bytes: usize,
    /// How many blocks with requests may wait to be committed, and how many turns of leaders in a
    /// row may certify nothing, before nothing but an empty block may follow.
    pub max_uncommitted: u64,
    /// How many blocks are kept that are not committed, beside those that are needed: on the branch
    /// of the highest certificate, and such as this replica has voted for since.
    pub max_blocks: usize,
    /// How many bytes of them.
    pub max_blocks_bytes: usize,
    /// The most batches of one replica's clients that another keeps until they are committed.
    pub max_waiting_batches: usize,
    /// The most bytes of them; one always fits.
    pub max_waiting_bytes: usize,
    /// The most blocks given to another replica between two of this one's statuses.
    pub max_sync_blocks: usize,
    /// The most bytes of them, if that is not less than one block.
    pub max_sync_bytes: usize,
    /// The rule that is switched off.
    #[cfg(feature = "mutants")]
    #[serde(skip)]
    pub mutant: Option<Mutant>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            rules: RuleSet::default(),
            leaders: Leaders::default(),
            view_timeout: Duration::from_millis(500),
            max_view_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(2),
            status_every: Duration::from_millis(100),
            checkpoint_every: 256,
            max_block_bytes: 1 << 20,
            max_uncommitted: 64,
            max_blocks: 1024,
            max_blocks_bytes: 64 << 20,
            max_waiting_batches: 256,
            max_waiting_bytes: 16 << 20,
            max_sync_blocks: 64,
            max_sync_bytes: 1 << 20,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

impl Config {
    /// Limits so small that even a short run has checkpoints and state transfers: for simulation.
    ///
    /// Blocks must not be smaller: when one of four leaders is silent in each of its turns, no more
    /// than three of them are committed in a time-out, and what clients ask meanwhile must fit.
    pub fn cramped() -> Self {
        Config {
            checkpoint_every: 16,
            max_sync_blocks: 8,
            max_sync_bytes: 2_000,
            max_block_bytes: 4_000,
            max_blocks: 64,
            ..Config::default()
        }
    }

    /// What must be the same in all replicas: the rules that chains were committed by, who leads, where
    /// checkpoints are, and what a block must be like to be voted for.
    pub(crate) fn agreed(&self) -> Vec<Setting> {
        let Config {
            rules,
            leaders,
            view_timeout: _,
            max_view_timeout: _,
            request_timeout: _,
            status_every: _,
            checkpoint_every,
            max_block_bytes,
            max_uncommitted,
            max_blocks: _,
            max_blocks_bytes: _,
            max_waiting_batches: _,
            max_waiting_bytes: _,
            max_sync_blocks: _,
            max_sync_bytes: _,
            #[cfg(feature = "mutants")]
                mutant: _,
        } = self;
        vec![
            Setting::fixed("rules", rules),
            Setting::fixed("leaders", leaders),
            Setting::fixed("checkpoint_every", checkpoint_every),
            Setting::agreed("max_block_bytes", max_block_bytes),
            Setting::agreed("max_uncommitted", max_uncommitted),
        ]
    }

    /// Says what cannot work among `n` replicas, if anything.
    pub(crate) fn validate(&self, n: usize) -> Result<(), String> {
        if self.max_block_bytes > MESSAGE_LIMIT / 2 || self.max_sync_bytes > MESSAGE_LIMIT / 4 {
            return Err(format!(
                "max_block_bytes ({}) must be at most {}, and max_sync_bytes ({}) at most {}, for blocks to fit into messages",
                self.max_block_bytes,
                MESSAGE_LIMIT / 2,
                self.max_sync_bytes,
                MESSAGE_LIMIT / 4
            ));
        }
        if self.max_view_timeout < self.view_timeout {
            return Err(String::from(
                "max_view_timeout must be at least view_timeout",
            ));
        }
        if let Leaders::Listed(list) = &self.leaders
            && (list.is_empty() || list.iter().any(|leader| leader.index() >= n))
        {
            return Err(format!("leaders must be some of {n} replicas: {list:?}"));
        }
        if let Leaders::Stable { views } = self.leaders {
            above_zero(&[("leaders.stable.views", views)])?;
        }
        above_zero(&[
            ("view_timeout", self.view_timeout),
            ("request_timeout", self.request_timeout),
            ("status_every", self.status_every),
        ])?;
        above_zero(&[
            ("checkpoint_every", self.checkpoint_every),
            ("max_uncommitted", self.max_uncommitted),
        ])?;
        above_zero(&[
            ("max_block_bytes", self.max_block_bytes),
            ("max_blocks", self.max_blocks),
            ("max_blocks_bytes", self.max_blocks_bytes),
            ("max_waiting_batches", self.max_waiting_batches),
            ("max_waiting_bytes", self.max_waiting_bytes),
            ("max_sync_blocks", self.max_sync_blocks),
            ("max_sync_bytes", self.max_sync_bytes),
        ])
    }

    /// The rules to go by.
    pub(crate) fn rules(&self) -> Box<dyn Rules + Send> {
        let off = self.switched_off();
        match self.rules {
            RuleSet::ThreeChain => Box::new(ThreeChain { off }),
            RuleSet::TwoChain => Box::new(TwoChain { off }),
        }
    }

    /// Whether the rule is switched off.
    pub(crate) fn mutated(&self, mutant: Mutant) -> bool {
        self.switched_off() == Some(mutant)
    }

    #[cfg(feature = "mutants")]
    fn switched_off(&self) -> Option<Mutant> {
        self.mutant
    }

    #[cfg(not(feature = "mutants"))]
    fn switched_off(&self) -> Option<Mutant> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stable_leader_has_so_many_views_in_a_row() {
        let leaders = Leaders::Stable { views: 10 };
        for (view, leader, last) in [(1, 0, 9), (9, 0, 9), (10, 1, 19), (49, 0, 49)] {
            assert_eq!(leaders.of(View(view), 4), ReplicaId(leader));
            assert_eq!(leaders.last_in_row(View(view)), View(last));
        }
    }

    #[test]
    fn listed_leaders_lead_in_turn() {
        let leaders = Leaders::Listed(vec![ReplicaId(2), ReplicaId(0)]);
        let first: Vec<_> = (0..4).map(|view| leaders.of(View(view), 4).0).collect();
        assert_eq!(first, [2, 0, 2, 0]);
        let config = Config {
            leaders: Leaders::Listed(vec![ReplicaId(4)]),
            ..Config::default()
        };
        assert!(config.validate(4).is_err());
    }
}
