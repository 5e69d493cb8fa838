//! The claims of the EPaxos papers, one a test, by subject.

mod common;
mod scripts;

mod paper {
    mod checkpoints;
    mod committing;
    mod crashing;
    mod executing;
    mod orders;
    mod recovering;
    mod restarts;
    mod thrifty;
    mod waiting;
}
