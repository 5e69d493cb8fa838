//! The claims of the Raft paper and of the dissertation, one a test, by section.

mod common;

mod paper {
    mod commit;
    mod elections;
    mod logs;
    mod prevotes;
    mod safety;
    mod tenure;
    mod terms;
}
