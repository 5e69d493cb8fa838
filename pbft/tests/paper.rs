//! The claims of the PBFT papers, one a test. [Castro99], by section.

mod common;

mod paper {
    mod agreed_time;
    mod certificates;
    mod checkpoints;
    mod liveness;
    mod normal_case;
    mod view_changes;
}
