//! Reads: every one is ordered like a command, for no replica's word is enough. [Yin19 §3]

use quorate_core::protocol::{ReadAnswer, ReadId};

use crate::replica::{Hotstuff, Out};

impl Hotstuff {
    pub(crate) fn read(&self, id: ReadId, out: &mut Out) {
        out.answer(id, ReadAnswer::ThroughLog);
    }
}
