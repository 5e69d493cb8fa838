//! Messages that came before their view has begun here, or before the watermarks have moved to
//! where they speak of. Castro and Liskov drop them, and let retransmission bring them back; kept,
//! they spare that. [Castro99 §4.3]

use std::collections::VecDeque;

use quorate_core::id::ReplicaId;

use crate::config::Config;
use crate::message::Message;

/// What has come early, by sender: nobody can use up another's share.
#[derive(Debug)]
pub(crate) struct Early {
    senders: Vec<Share>,
}

#[derive(Clone, Debug, Default)]
struct Share {
    messages: VecDeque<Message>,
    bytes: usize,
}

/// About what a message takes besides batches.
const OVERHEAD: usize = 160;

fn size(message: &Message) -> usize {
    let content = match message {
        Message::PrePrepare { entry, .. } => entry.size(),
        Message::Prepare { votes, .. } => size_of_val(votes.as_slice()),
        Message::Commit { votes, .. } => size_of_val(votes.as_slice()),
        _ => 0,
    };
    content + OVERHEAD
}

impl Early {
    pub(crate) fn of(n: usize) -> Early {
        Early {
            senders: vec![Share::default(); n],
        }
    }

    /// Keeps a message, if there is room in its sender's share.
    pub(crate) fn keep(&mut self, from: ReplicaId, message: Message, config: &Config) {
        let Some(share) = self.senders.get_mut(from.index()) else {
            return;
        };
        let bytes = share.bytes + size(&message);
        if share.messages.len() < config.max_early_messages && bytes <= config.max_early_bytes {
            share.bytes = bytes;
            share.messages.push_back(message);
        }
    }

    /// Takes all, to be looked at again.
    pub(crate) fn take(&mut self) -> Vec<(ReplicaId, Message)> {
        let mut all = Vec::new();
        for (from, share) in ReplicaId::all(self.senders.len()).zip(&mut self.senders) {
            share.bytes = 0;
            all.extend(share.messages.drain(..).map(|message| (from, message)));
        }
        all
    }
}
