//! The claims of the Paxos papers, one a test, by subject.

mod common;

mod paper {
    mod bounds;
    mod checkpoints;
    mod choosing;
    mod crashing;
    mod elections;
    mod learning;
    mod prevotes;
    mod promises;
    mod quorums;
    mod reads;
}
