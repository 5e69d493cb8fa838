//! Reads: what reaches the protocol is ordered like a command, for no replica's word is enough. A
//! client may do without, if 2f + 1 replicas answer it alike: `fast_reads` of `quorate-node`.
//! [Yin19 §3]

use quorate_core::protocol::{ReadAnswer, ReadId};

use crate::replica::{Hotstuff, Out};

impl Hotstuff {
    pub(crate) fn read(&self, id: ReadId, out: &mut Out) {
        out.answer(id, ReadAnswer::ThroughLog);
    }
}
