//! Rules of EPaxos that can be switched off, to show that the tests would notice.

/// A safety rule of EPaxos, named by what a replica does without it.
///
/// Only the feature `mutants` lets a [`Config`](crate::Config) name one; without it every rule
/// holds, at no cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// One variable for the ballot joined and the ballot of the last acceptance, as in the
    /// original: having joined a recovery passes for having accepted in it. \[Sutra19\]
    SingleBallot,
    /// What a recovery finds accepted is proposed again without its dependencies.
    DependenciesDroppedInRecovery,
    /// A PreAccept is answered before it is durable.
    PreAcceptNotDurable,
    /// The slow path commits without an Accept, and so before a quorum could tell.
    CommitBeforeAccept,
    /// Validate finds no conflicts.
    ConflictsIgnoredInValidate,
    /// n - e - 1 equal answers pass for a fast quorum.
    FastQuorumTooSmall,
    /// The fast path does not ask that the answers equal the coordinator's dependencies.
    EqualityNotRequired,
    /// A component is executed although a member is not committed yet.
    ComponentMemberMissing,
    /// The order inside a component depends on the replica.
    OrderDependsOnReplica,
    /// Recoveries that wait do not hear of each other.
    WaitingLeftOut,
    /// Asked about an instance that is trimmed, a replica knows nothing of it.
    TrimmedForgotten,
    /// A restart begins the replica's own lane again from what is not trimmed.
    OwnSlotReused,
    /// A coordinator asks the others about any number of commands that are not durable.
    AskedBeyondOne,
    /// A restart takes the slot that an earlier life may have asked about for its next command.
    AskedSlotReused,
    /// After a restart, votes pass over what an earlier life may have asked about.
    AskedPassedOver,
    /// A coordinator that has restarted passes for one that has not committed, whoever answered it.
    DoubtForgotten,
    /// Accept compares the ballot joined with what is committed, not the ballot accepted in: a
    /// replica takes a command of a lower ballot than the one it has joined.
    AcceptIgnoresBallot,
    /// A floor is raised over what does not name it and may be committed: step 2 of the fence is
    /// left out.
    FloorOverOpen,
    /// Having installed a snapshot, a replica counts as trimmed what was trimmed where it is from,
    /// before it knows all that was committed there.
    HorizonIgnored,
    /// The floor that a replica tells counts before all that it told with it to be committed is
    /// known: step 3 of the fence is left out.
    FloorCountsAtOnce,
    /// A coordinator acts on what a fast quorum has answered before it has accepted that, durably.
    FastDecisionForgotten,
    /// The command of a coordinator in doubt is proposed although one of the quorum has not
    /// preaccepted it unchanged.
    DoubtBelieved,
    /// A recovery ends when one replica has joined a higher ballot, though the others are a quorum.
    OneRejectionEnds,
    /// A recovery that was rejected and gets no quorum goes on in its ballot.
    RejectedGoesOn,
    /// A replica whose recoveries no quorum answers begins each as soon as any other replica.
    UnheardInsists,
    /// A coordinator in doubt is a member of a recovery's quorum like any other, and ends none.
    DoubtWithoutEnd,
    /// A rewrite leaves out a command that was known when a Nop was accepted.
    CommandOutOfRecords,
    /// A snapshot is asked only of the first that said that it has trimmed what is lacking.
    OnePeerAsked,
    /// A snapshot that is not behind the fence is offered to nobody.
    OfferedBehindFenceOnly,
    /// All that a snapshot holds counts as trimmed where it is from.
    SnapshotTakenForTrimmed,
    /// Where too many snapshots wait to be behind the fence, the oldest is forgotten.
    OldestSnapshotForgotten,
    /// What is proposed again becomes another instance, although the first may still be executed.
    ProposedWhileUnderWay,
    /// What the driver proposes while execution is behind is dropped.
    FullWindowDrops,
    /// A replica leaves each recovery of another's as much time as one of its own after those that came to nothing.
    StandsBackAsLong,
    /// A replica that is far behind waits for each instance as long as if it had just heard of it.
    EachLookedAfterLate,
    /// Asked about several instances, a replica says no more than that the first is trimmed.
    TrimmedEndsAnswer,
}
