//! Rules of Raft that can be switched off, to show that the tests would notice.

/// A safety rule of Raft, named by what a replica does without it.
///
/// Only the feature `mutants` lets a [`Config`](crate::Config) name one; without it every rule
/// holds, at no cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A restart keeps the term and forgets the vote in it. [Ongaro14 §5.2]
    VoteForgottenOnRestart,
    /// A voter does not compare the candidate's log with its own. [Ongaro14 §5.4.1]
    VoteWithoutLogCheck,
    /// A leader commits entries of older terms by counting their copies. [Ongaro14 §5.4.2]
    CommitOlderTermByCounting,
    /// A quorum has one replica less than a majority. [Ongaro14 §5.2, §5.3]
    QuorumOfMajorityMinusOne,
    /// A follower cuts its log after the previous entry of every message, in conflict or not.
    /// [Ongaro14 §5.3]
    AppendTruncatesAlways,
    /// A follower takes entries without checking the one before them. [Ongaro14 §5.3]
    AppendWithoutPreviousCheck,
    /// Any replica answers reads from what it has executed. [OngaroThesis §6.4]
    ReadWithoutReadIndex,
    /// A leader confirms reads before it has committed in its own term. [OngaroThesis §6.4]
    ReadBeforeOwnTermCommit,
}
