//! Reads: what reaches the protocol is ordered like a command. The read-only optimisation, in which
//! 2f + 1 replicas answer from what they have executed, is the client's, who counts the answers:
//! `fast_reads` of `quorate-node`. [Castro99 §5.1]

use quorate_core::protocol::{ReadAnswer, ReadId};

use crate::replica::{Out, Pbft};

impl Pbft {
    pub(crate) fn read(&self, id: ReadId, out: &mut Out) {
        out.answer(id, ReadAnswer::ThroughLog);
    }
}
