//! The claims of the Raft paper, one a test. [Ongaro14], by section.

mod common;

mod paper {
    mod commit;
    mod elections;
    mod logs;
    mod safety;
    mod terms;
}
