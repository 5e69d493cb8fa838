//! Rules of PBFT that can be switched off, to show that the tests would notice.

/// A rule of PBFT, named by what a replica does without it.
///
/// Only the feature `mutants` lets a [`Config`](crate::Config) name one; without it every rule
/// holds, at no cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A view change leaves out the prepared certificates. [Castro99 §4.4]
    PreparedDroppedInViewChange,
    /// Of two prepared certificates for a slot, the one of the older view wins. [Castro99 §4.4]
    OlderCertificateMasksNewer,
    /// A new view begins after the lowest of the checkpoints shown, not the highest.
    /// [Castro99 §4.4]
    LowWatermarkFromLowestCheckpoint,
    /// What comes too early is dropped, and not asked for again. [Castro99 §4.3]
    EarlyMessagesDropped,
    /// A backup takes a new view as the primary says it is. [Castro99 §4.4]
    NewViewNotRecomputed,
    /// A primary gives a batch that has a slot already another one.
    InFlightOrderedAgain,
    /// A primary that is told of a batch that has been decided gives it another slot.
    DecidedOrderedAgain,
    /// A batch is executed when it is prepared. [Castro99 §4.2]
    ExecutedAtPrepared,
    /// f + 1 replicas are enough where 2f + 1 are needed. [Castro99 §4.2]
    WeakQuorum,
    /// A restart forgets which pre-prepares were accepted. [Castro99 §4.2]
    AcceptedForgottenOnRestart,
    /// A restart forgets the view. [Castro99 §4.4]
    ViewForgottenOnRestart,
    /// A second pre-prepare for a view and slot replaces the first. [Castro99 §4.2]
    SecondDigestAccepted,
    /// View changes for views long left pull a replica along. [Castro99 §4.5.2]
    StaleViewChangesCounted,
    /// A backup accepts whatever time a primary gives a batch. [Castro99 §4.6]
    TimeNotChecked,
    /// A primary that restarts gives no time before the last in its log. [Castro99 §4.6]
    TimeOfLogKept,
    /// A slot of an earlier view that is executed in a new one ends the back-off. [Castro99 §4.5.2]
    OldSlotsEndBackOff,
    /// A replica that is heard again cuts no wait short.
    BackOffKept,
    /// A primary goes by its own checkpoints, not by how far who tells it of a batch has come.
    TellerNotAsked,
    /// The batches between the watermarks have any number of bytes.
    WindowOfAnySize,
    /// The state at a checkpoint is asked of one signer only. [Castro02 §5.3]
    OneSourceOfStates,
    /// A primary that is not heard at all has as much time to begin its view as any other.
    SilentAwaited,
    /// A replica that is behind asks for another primary.
    BehindCampaigns,
    /// A replica that others are ahead of does not ask for another primary, however long ago it has come
    /// to where they were when what it waits for was due.
    AlwaysBehind,
    /// What a primary has executed of others says nothing for it when a batch waits for long.
    /// [Castro99 §4.4]
    OthersCountNot,
    /// A primary that has others' requests executed may leave one out for as long as it does.
    /// [Clement09 §4]
    OthersCountForEver,
    /// A batch that comes to the front has been waited for since the one before it came there.
    /// [Castro99 §4.4]
    FrontKeepsTime,
    /// The primary is told of more than it has room for, which it drops.
    ToldWithoutRoom,
    /// Who comes on by what it is sent again is sent more only when it has stopped. [Castro02 §5.2]
    HelpPauses,
    /// Who starts from a state that is not stable yet has none to give until it is. [Castro99 §4.3]
    RestoredNotOffered,
    /// Any snapshot is believed. [Castro99 §4.3]
    SnapshotWithoutCertificate,
}
