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
    /// A read joins a round that is under way. [OngaroThesis §6.4]
    ReadJoinsRoundUnderWay,
    /// A follower answers a read when the leader has, not when it has executed so far.
    /// [OngaroThesis §6.4]
    ReadBeforeExecuted,
    /// A read that waits gives its place to the next.
    ReadGivesWayToNext,
    /// A follower's questions are counted from the same number after each restart.
    TicketsFromZero,
    /// A candidate counts votes that it was given with another log. [Ongaro14 §5.4.1]
    VoteForAnotherLogCounts,
    /// A candidate with the votes of the others leads before its own is durable.
    /// [OngaroThesis §10.2.1]
    LeadBeforeOwnVote,
    /// A voter votes for whoever asks. [Ongaro14 §5.2]
    VoteTwice,
    /// Answers of an earlier term count in this one. [Ongaro14 §5.1]
    StaleAnswersCount,
    /// The log written anew has the term without the vote. [Ongaro14 §5.2]
    RewriteForgetsVote,
    /// A leader counts its own copy of an entry before it is durable. [OngaroThesis §10.2.1]
    CountOwnBeforeSync,
    /// A follower executes what the leader has committed, whether it has the same in its log or not.
    /// [Ongaro14 figure 2]
    CommitWhatDiffers,
    /// A follower acknowledges its whole log, also what the leader has not compared.
    /// [Ongaro14 §5.3]
    AcknowledgeWhatDiffers,
    /// A follower goes on counting from what it had in common with the leader before.
    /// [Ongaro14 §5.3]
    AgreementOutlivesTerm,
    /// An acknowledgement of more than the leader has sent counts.
    AcknowledgedBeyondLog,
    /// Who installs a snapshot stays in its term. [Ongaro14 §7]
    SnapshotTermNotEntered,
    /// Entries beyond a snapshot stay, whether they go on from it or not. [Ongaro14 §7]
    LogKeptBehindSnapshot,
    /// A restart between the saving of a snapshot and the rewrite of the log keeps the old log.
    OldLogRecovered,
    /// A candidate that has waited enters another term while its vote is not durable.
    /// [Ongaro14 §5.2]
    CampaignWhileVoting,
    /// Who hears no leader campaigns without asking first. [OngaroThesis §9.6]
    CampaignUnasked,
    /// Who hears a leader would vote for another all the same. [OngaroThesis §9.6]
    PreVoteWithoutLoyalty,
    /// Who is told of a later term by who would not vote for it stays in its own.
    TermOfRefusalIgnored,
    /// What is asked for again is appended again, though it is in the log and not committed.
    AppendedWhileUnderWay,
    /// What is decided is ordered again for whoever has not heard of it yet.
    DecidedForgotten,
    /// A leader that no quorum answers leads on. [OngaroThesis §6.2]
    LeadUnheard,
    /// A leader whose disk hangs leads on.
    LeadWithoutDisk,
    /// A leader that does not hear a replica that others hear leads on.
    LeadWhereOneIsUnheard,
    /// A replica that its leader does not hear is content with hearing it.
    FollowUnheard,
    /// What a peer will need that fetches a snapshot is compacted meanwhile.
    CompactPastFetches,
}
