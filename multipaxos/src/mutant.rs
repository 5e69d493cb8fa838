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
    /// A candidate counts a promise of which it has the last part. [Lamport01 §3]
    PartOfPromiseCounted,
    /// What is known chosen gives way to what was accepted in a higher ballot. [Lamport01 §2.2]
    ChosenBeatenByBallot,
    /// A leader counts acceptances of another ballot. [Lamport01 §2.2 phase 2b]
    StaleAcceptanceCounted,
    /// A leader counts its own acceptance before it is durable. [Lamport01 §2.5]
    OwnAcceptanceCountedEarly,
    /// An acceptor takes proposals of lower ballots than it has promised. [Lamport01 §2.2 P1a]
    AcceptBelowPromise,
    /// An acceptance is acknowledged and not written. [Lamport01 §2.5]
    AcceptedNotWritten,
    /// An acceptor acknowledges what is beyond its window, and does not hold it.
    AcknowledgedBeyondWindow,
    /// The log written anew has no promise. [Lamport01 §2.5]
    RewriteForgetsPromise,
    /// The log written anew has nothing that is not chosen. [Lamport01 §2.5]
    RewriteForgetsUnchosen,
    /// In the log written anew all is chosen. [Lamport01 §2.2]
    RewriteCallsAllChosen,
    /// A leader that installs a snapshot leads on. [Chandra07 §5.5]
    InstalledLeaderLeadsOn,
    /// A replica that hears of no leader campaigns without asking whether others do.
    /// [OngaroThesis §9.6]
    CampaignWithoutPreVote,
    /// Whoever hears a leader, or has promised just now, grants a campaign. [OngaroThesis §9.6]
    GrantWhileLed,
    /// A replica that has just restarted grants campaigns. [OngaroThesis §9.6]
    GrantAfterRestart,
    /// The answer to an earlier question grants a campaign. [OngaroThesis §9.6]
    GrantOfEarlierQuestion,
    /// A leader hands over to the preferred replica without asking whether that could be elected.
    HandOverUnasked,
    /// A replica takes over from a leader that it does not follow.
    HandedOverByAnyLeader,
    /// A rejection of an earlier ballot ends a leadership. [vanRenesse15 §2]
    StaleRejectionCounted,
    /// A leader that nobody answers leads on. [Chandra07 §5.2]
    LeadUnheard,
    /// A candidate forgets parts of a promise that come before those which precede them.
    EarlyPartsForgotten,
    /// A candidate gives up when it hears of one that has compacted what it lacks.
    CampaignEndedByCompaction,
    /// A replica whose disk hangs grants campaigns and begins some, and rejects those of others.
    ElectWithoutDisk,
    /// What peers will need that fetch a snapshot is compacted meanwhile. [Chandra07 §5.5]
    CompactPastFetches,
    /// It is kept for them without bound.
    HeldWithoutBound,
    /// A leader takes requests without bound.
    UnchosenWithoutBound,
    /// Slots are proposed and accepted however far they are. [vanRenesse15 §2]
    WindowWithoutBound,
    /// What is asked for again is proposed again, though it is proposed and not chosen.
    ProposedWhileUnderWay,
    /// What is decided is ordered again for whoever has not heard of it yet.
    DecidedForgotten,
    /// A leader that is heard leads on, though nothing of what it proposes is chosen.
    LeadWithoutChoosing,
    /// A leader leads on that alone has executed what it has compacted.
    LeadAheadAlone,
    /// A leader trusts its lease to the end, whatever the clocks do. [Chandra07 §5.2]
    LeaseIgnoresDrift,
    /// A restart forgets that a lease may have been granted. [Chandra07 §5.2]
    LeaseForgottenOnRestart,
    /// An acceptor promises a ballot to others during a lease. [Chandra07 §5.2]
    PromiseDuringLease,
    /// A leader promises a ballot to others during its own lease. [Chandra07 §5.2]
    LeaderIgnoresOwnLease,
    /// A leader counts on a lease from when it was answered. [Chandra07 §5.2]
    LeaseFromAnswer,
    /// A leader reads before it has executed what it found in its election. [Chandra07 §5.2]
    ReadBeforeElectionPoint,
    /// A leader's read is settled by a round of heartbeats that was under way when it was asked.
    /// [OngaroThesis §6.4]
    ReadByEarlierRound,
    /// A round counts as heard that has not begun. [OngaroThesis §6.4]
    RoundHeardBeforeBegun,
    /// A quorum read waits for the lowest slot that it is told of. \[Charapko19\]
    ReadByLowestAnswer,
    /// Questions are counted from the same number after each restart.
    TicketsFromZero,
    /// A read that waits gives its place to the next.
    ReadGivesWayToNext,
    /// Asked again, a read begins anew. \[Charapko19\]
    ReadAskedAnew,
    /// A read does not wait for the slots that a quorum has accepted. \[Charapko19\]
    ReadWithoutWaiting,
}
