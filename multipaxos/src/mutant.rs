//! Rules of Multi-Paxos that can be switched off, to show that the tests would notice.

/// A safety rule of Multi-Paxos, named by what a replica does without it.
///
/// Only the feature `mutants` lets a [`Config`](crate::Config) name one; without it every rule
/// holds, at no cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A new leader proposes, of the values it is told, that of the lowest ballot.
    /// [Lamport01 §2.2 P2c]
    ValueNotFromHighestBallot,
    /// A restart forgets the ballot promised, but for what accepting has shown of it.
    /// [Lamport01 §2.5]
    PromiseNotDurable,
    /// An acceptor takes a proposal of a higher ballot, and still those of lower ones.
    /// [vanRenesse15 §2]
    AcceptDoesNotRaisePromise,
    /// A candidate counts promises made to an earlier ballot. [Lamport01 §2.2]
    StalePromiseCounted,
    /// After a restart a replica campaigns in the ballot that it used last. [Lamport01 §2.5]
    BallotReusedAfterRestart,
    /// A candidate puts what it is told not into the slots named, but into those from the first
    /// that it lacks on, one after the other. [Lamport01 §3]
    PromisesMergedAtWrongOffset,
    /// What chooses is one replica smaller than intersection needs. [Howard16 §3]
    QuorumsDoNotIntersect,
    /// After a snapshot the log loses what is known chosen, executed or not. [Chandra07 §5.5]
    UnexecutedSlotsTrimmed,
    /// Asked for slots that are compacted, a replica answers from what is left: no-ops.
    /// [vanRenesse15 §4]
    CatchUpFromCompactedRange,
    /// A slot is executed before the one that precedes it. [Lamport01 §3]
    GapSkipped,
    /// A candidate forgets what it is told is chosen, beyond its window or beyond a gap.
    /// [Lamport01 §2.2]
    ChosenForgottenBeyondWindow,
    /// A restart keeps of its log what lies below a snapshot that was fetched before the log was
    /// rewritten. [Chandra07 §5.5]
    LogKeptBelowFetchedSnapshot,
    /// A Learn is answered with what was accepted, chosen or not. [vanRenesse15 §4]
    LearnAnsweredWithUnchosen,
    /// A quorum read is settled by a phase 2 quorum. \[Charapko19\]
    ReadByPhase2Quorum,
    /// A new leader puts a no-op into every slot in which it has accepted nothing itself.
    /// [Lamport01 §3]
    NoopOverChosenValue,
    /// A follower takes the watermark of a leader to confirm what it accepted of another.
    WatermarkConfirmsOlderBallot,
    /// A replica that hears of no leader campaigns without asking whether others do.
    /// [OngaroThesis §9.6]
    CampaignWithoutPreVote,
    /// A candidate forgets parts of a promise that come before those which precede them.
    EarlyPartsForgotten,
    /// A candidate gives up when it hears of one that has compacted what it lacks.
    CampaignEndedByCompaction,
    /// A leader that is heard leads on, though nothing of what it proposes is chosen.
    LeadWithoutChoosing,
    /// A leader trusts its lease to the end, whatever the clocks do. [Chandra07 §5.2]
    LeaseIgnoresDrift,
    /// A restart forgets that a lease may have been granted. [Chandra07 §5.2]
    LeaseForgottenOnRestart,
    /// A leader reads before it has executed what it found in its election. [Chandra07 §5.2]
    ReadBeforeElectionPoint,
    /// A leader's read is settled by a round of heartbeats that was under way when it was asked.
    /// [OngaroThesis §6.4]
    ReadByEarlierRound,
    /// A read does not wait for the slots that a quorum has accepted. \[Charapko19\]
    ReadWithoutWaiting,
}
