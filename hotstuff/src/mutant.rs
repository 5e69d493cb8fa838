//! Rules of HotStuff that can be switched off, to show that the tests would notice.

/// A rule of HotStuff, named by what a replica does without it.
///
/// Only the feature `mutants` lets a [`Config`](crate::Config) name one; without it every rule
/// holds, at no cost. Rules of [`verify`](quorate_core::protocol::Message::verify), which has no
/// configuration, are switched off for a thread, by `Mutant::verify_without`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A vote counts as often as it comes. [Yin19 §4.2]
    DuplicateVotesCounted,
    /// f + 1 votes are enough where 2f + 1 are needed. [Yin19 §3]
    WeakQuorum,
    /// A vote's view is not under its signature, so that a certificate may claim any. Of
    /// verification. [Yin19 §4.2]
    ViewNotSigned,
    /// A certificate may have too few signers. Of verification.
    TooFewSigners,
    /// A certificate may have a signer twice. Of verification.
    RepeatedSigner,
    /// A certificate may have signers that are no members. Of verification.
    UnknownSigner,
    /// A three-chain commits whatever its views are. [Yin19 §5]
    CommitWithoutConsecutiveViews,
    /// A two-chain commits whatever its views are, as long as its blocks are parent and child: the
    /// commit rule of Fast-HotStuff as first published, with the hole that Twins found in it.
    /// [Gelashvili21 §4]
    TwoChainByLinksAlone,
    /// A replica votes for no block that does not extend its lock, whatever is certified since.
    /// [Yin19 §4.4]
    NoLivenessArm,
    /// The lock is whatever was certified last. [Yin19 §4.4]
    LockNotMonotonic,
    /// The lock is ignored. [Yin19 §4.4]
    LockIgnored,
    /// A replica votes again in a view in which it has voted. [Yin19 §5]
    VotesAgain,
    /// A restart forgets the votes. [Yin19 §5]
    VotedForgottenOnRestart,
    /// A restart forgets lock and highest certificate. [Yin19 §5]
    LockForgottenOnRestart,
    /// A restart forgets the proposals.
    ProposedForgottenOnRestart,
    /// A replica votes in a view that it has timed out. [Gelashvili21 §4]
    VotesAfterTimeout,
    /// A time-out certificate may carry a certificate that is not the highest that its signers
    /// have, and a vote does not ask for it. [Gelashvili21 §4]
    HighestUnchecked,
    /// Blocks that were asked for are believed without being those asked for.
    UnverifiedAncestorTrusted,
    /// Any snapshot is believed.
    SnapshotWithoutCertificate,
    /// A state is believed by whatever signatures it comes with, be it one. Of verification.
    StateByOneWord,
    /// A leader proposes batches that are in the branch already.
    BranchNotLookedAt,
    /// What is told again is ordered again, though it was committed beyond what its sender had seen.
    LateCopiesOrderedAgain,
    /// What this replica's clients ask is dropped where others would have no room for it.
    OwnRequestsDropped,
    /// Requests go to the leader alone.
    RequestsToLeaderOnly,
    /// A leader that let a time-out pass with the votes for the block before its view is waited for
    /// again in its view.
    SilentLeaderWaitedForTwice,
    /// The time-out shrinks with a certified view even if that had been given up.
    TimeoutShrinksTooLate,
    /// The time-out grows with each view given up, be it liars' doing.
    TimeoutGrowsWithLiars,
    /// The time-out grows with views given up in a row alone, not with those that nothing was committed in.
    TimeoutGrowsByRowsAlone,
    /// The time-out shrinks though nothing is committed.
    TimeoutShrinksUncommitted,
    /// The time-out never shrinks.
    TimeoutNeverShrinks,
    /// A replica that has given up a view says so again when a time-out as long as the last has
    /// passed, and not to whoever shows that it waits.
    TimeoutsSaidAgainSlowly,
    /// A leader that has not heard of a request is not told by those who have.
    LeaderNotTold,
    /// A replica takes those for leaders whom its own commits make leaders, not the block that a
    /// view extends. \[Cohen22\]
    LeadersByOwnCommits,
    /// Who has failed to deliver rests for good. Switched off as rules of verification are.
    RestForGood,
    /// All who have failed to deliver rest, be they more than f. Switched off as rules of
    /// verification are.
    AllMayRest,
    /// A replica votes for a block that says what it likes of how leaders stand. \[Cohen22\]
    StandingUnchecked,
    /// A replica votes for a block with more bytes than it may have.
    BlockSizeUnchecked,
    /// Of what a replica has signed only the last is compared with what comes.
    LaterStatementsAlone,
    /// Blocks that lead nowhere are counted, and their bytes are not.
    BlockBytesUnbounded,
    /// Blocks that this replica has voted for since the highest certificate are dropped when there
    /// are many.
    OpenBlocksDropped,
}

#[cfg(feature = "mutants")]
mod verification {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static OFF: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    impl Mutant {
        /// Switches a rule of verification off in this thread, or all on again.
        pub fn verify_without(mutant: Option<Mutant>) {
            OFF.set(mutant);
        }

        /// Whether this rule of verification is switched off.
        pub(crate) fn is_off(self) -> bool {
            OFF.get() == Some(self)
        }
    }
}

#[cfg(not(feature = "mutants"))]
impl Mutant {
    /// Whether this rule of verification is switched off: never, in a build that is not a test's.
    pub(crate) fn is_off(self) -> bool {
        false
    }
}
