//! The claims of the PBFT papers, one a test. [Castro99], by section.

mod common;

mod paper {
    mod agreed_time;
    mod certificates;
    mod checkpoints;
    mod costs;
    mod liveness;
    mod normal_case;
    mod patience;
    mod primary;
    mod replies;
    mod view_changes;
}
