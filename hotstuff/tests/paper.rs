//! The claims of the HotStuff papers, one a test. [Yin19] and [Gelashvili21], by section.

mod common;

mod paper {
    mod certificates;
    mod chains;
    mod checkpoints;
    mod crashes;
    mod leaders;
    mod pacemaker;
    mod requests;
    mod restarts;
    mod sync;
}
