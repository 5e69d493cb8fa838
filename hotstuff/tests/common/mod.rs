//! The bench for HotStuff replicas: what is HotStuff's own in it.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test file uses its own part of the bench"
)]

use quorate_core::codec::{self, Codec};
use quorate_core::crypto::{Digest, Signature};
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::{Invalid, Message as _};
use quorate_hotstuff::{
    Block, BlockId, CheckpointCertificate, CheckpointVote, Config, Hotstuff, Leaders, Message,
    Proposal, QuorumCertificate, RuleSet, Timeout, TimeoutCertificate, TimeoutShare, Timer, View,
    Vote,
};
use quorate_simulator::harness;

pub(crate) use quorate_simulator::harness::{command, context, members, r, signer, state_of, text};

/// A HotStuff replica.
pub(crate) type Node = harness::Node<Hotstuff>;
/// HotStuff replicas, and the messages between them.
pub(crate) type Cluster = harness::Cluster<Hotstuff>;

/// 2f + 1 of four.
pub(crate) const QUORUM: [u8; 3] = [0, 1, 2];

/// Checkpoints come soon, all lead in turn, and the rules are the three-chain's.
pub(crate) fn config() -> Config {
    Config {
        rules: RuleSet::ThreeChain,
        leaders: Leaders::Rotate,
        checkpoint_every: 4,
        ..Config::default()
    }
}

/// The same, with the two-chain rules.
pub(crate) fn two_chain() -> Config {
    Config {
        rules: RuleSet::TwoChain,
        ..config()
    }
}

/// Whether a message from `from` is let in, in a cluster of four.
pub(crate) fn verify(from: u8, message: &Message) -> Result<(), Invalid> {
    message.verify(r(from), &harness::verifier(4))
}

/// The kinds of the messages, in order.
pub(crate) fn kinds(messages: &[Message]) -> Vec<&'static str> {
    messages.iter().map(Message::kind).collect()
}

/// A block with these commands, a batch each.
pub(crate) fn block(view: u64, parent: &BlockId, texts: &[&str]) -> Block {
    let payload = texts.iter().map(|text| command(text)).collect();
    Block::new(View(view), *parent, payload)
}

/// A branch: a block in each of these views, each with one command that names its view.
pub(crate) fn branch(from: &BlockId, views: &[u64]) -> Vec<Block> {
    let mut parent = *from;
    let blocks = views.iter().map(|view| {
        let block = block(*view, &parent, &[&format!("in {view}")]);
        parent = block.id();
        block
    });
    blocks.collect()
}

pub(crate) fn genesis() -> BlockId {
    BlockId::genesis()
}

pub(crate) fn vote(author: u8, block: &BlockId) -> Message {
    Message::Vote(Vote::signed(&signer(author), *block))
}

/// A certificate by a quorum of four; that of the genesis block is known.
pub(crate) fn certificate(block: &BlockId) -> QuorumCertificate {
    match *block == genesis() {
        true => QuorumCertificate::genesis(),
        false => certificate_by(block, &QUORUM),
    }
}

pub(crate) fn certificate_by(block: &BlockId, signers: &[u8]) -> QuorumCertificate {
    let signed = |author: &u8| (r(*author), Vote::signed(&signer(*author), *block).signature);
    let votes = signers.iter().map(signed).collect();
    QuorumCertificate::of(*block, votes, signers.len()).expect("a certificate")
}

/// The signatures in a certificate.
pub(crate) fn signatures(certificate: &QuorumCertificate) -> Vec<(ReplicaId, Signature)> {
    reencoded::<_, (BlockId, Vec<(ReplicaId, Signature)>)>(certificate).1
}

/// A certificate with what nobody may have signed.
pub(crate) fn forged(block: &BlockId, signatures: &[(ReplicaId, Signature)]) -> QuorumCertificate {
    reencoded(&(*block, signatures.to_vec()))
}

/// A certificate that these have given a view up, each with its highest certificate.
pub(crate) fn timeout_certificate(
    view: u64,
    highs: &[(u8, QuorumCertificate)],
) -> TimeoutCertificate {
    let share = |(author, high): &(u8, QuorumCertificate)| {
        let share = TimeoutShare::signed(&signer(*author), View(view), high.view());
        (r(*author), share, high.clone())
    };
    let shares = highs.iter().map(share).collect();
    TimeoutCertificate::of(View(view), shares, highs.len()).expect("a certificate")
}

/// A certificate that a quorum that had this highest certificate has given a view up.
pub(crate) fn given_up(view: u64, high: &BlockId) -> TimeoutCertificate {
    timeout_certificate(view, &QUORUM.map(|author| (author, certificate(high))))
}

pub(crate) fn timeout(author: u8, view: u64, high: &BlockId) -> Message {
    let highest = certificate(high);
    Message::Timeout(Box::new(Timeout {
        view: View(view),
        share: TimeoutShare::signed(&signer(author), View(view), highest.view()),
        highest,
        vote: None,
        entered: None,
    }))
}

/// A proposal by the leader of the block's view among four; views between its parent's and its own
/// have been given up by a quorum that had no more than the parent's certificate.
pub(crate) fn proposal(block: &Block) -> Message {
    proposal_by((block.view().0 % 4) as u8, block)
}

/// The same by another leader.
pub(crate) fn proposal_by(leader: u8, block: &Block) -> Message {
    let (view, parent) = (block.view().0, block.parent());
    let justified = view != parent.view.0 + 1;
    signed_by(
        leader,
        block,
        justified.then(|| given_up(view - 1, &parent)),
    )
}

pub(crate) fn proposal_with(block: &Block, timeout: Option<TimeoutCertificate>) -> Message {
    signed_by((block.view().0 % 4) as u8, block, timeout)
}

fn signed_by(leader: u8, block: &Block, timeout: Option<TimeoutCertificate>) -> Message {
    let certificate = certificate(&block.parent());
    let signed = Proposal::signed(&signer(leader), block.clone(), certificate, timeout);
    Message::Proposal(Box::new(signed))
}

/// The checkpoint certificate of a quorum of four.
pub(crate) fn checkpoint_certificate(block: &BlockId, state: Digest) -> CheckpointCertificate {
    let signed = |author: u8| {
        let vote = CheckpointVote::signed(&signer(author), *block, state);
        (r(author), vote.signature)
    };
    let signatures = QUORUM.map(signed).to_vec();
    CheckpointCertificate::of(*block, state, signatures, 3).expect("a certificate")
}

/// Reads as a `U` what a `T` is written as.
pub(crate) fn reencoded<T: Codec, U: Codec>(value: &T) -> U {
    let bytes = codec::encode(value).expect("an encoding");
    codec::decode("value", &bytes).expect("the same encoding")
}

/// The blocks voted for in these messages.
pub(crate) fn votes(messages: &[(ReplicaId, Message)]) -> Vec<BlockId> {
    let votes = messages.iter().filter_map(|(_, message)| match message {
        Message::Vote(vote) => Some(vote.block),
        _ => None,
    });
    votes.collect()
}

/// The proposals in these messages.
pub(crate) fn proposals(messages: &[(ReplicaId, Message)]) -> Vec<Proposal> {
    let proposals = messages.iter().filter_map(|(_, message)| match message {
        Message::Proposal(proposal) => Some((**proposal).clone()),
        _ => None,
    });
    proposals.collect()
}

/// Replicas without a past; without a rule, what they then do ends no test.
pub(crate) fn cluster(n: usize, config: &Config) -> Cluster {
    Cluster::new(n, config).checking(config.mutant.is_none())
}

/// What HotStuff's replicas are made as, and what they are asked.
pub(crate) trait HotstuffNode {
    /// Replica `me` of four, without a past; without a rule, what it then does ends no test.
    fn of_four(me: u8, config: &Config) -> Node;
    /// The replica takes proposals of these blocks.
    fn follow(&mut self, blocks: &[Block]);
    /// The replica takes a proposal: what it votes for then.
    fn votes_for(&mut self, proposal: Message) -> Vec<BlockId>;
    /// The replica learns of a certificate.
    fn learn(&mut self, block: &BlockId);
    /// The commands executed, empty blocks left out.
    fn commands(&self) -> Vec<String>;
    /// The view that it is in.
    fn view(&self) -> u64;
}

impl HotstuffNode for Node {
    fn of_four(me: u8, config: &Config) -> Node {
        let mut node = Node::fresh(me, 4, config);
        node.checks = config.mutant.is_none();
        node
    }

    fn follow(&mut self, blocks: &[Block]) {
        for block in blocks {
            let leader = r((block.view().0 % 4) as u8);
            self.receive(leader, proposal(block));
        }
        self.take();
    }

    fn votes_for(&mut self, proposal: Message) -> Vec<BlockId> {
        let Message::Proposal(inner) = &proposal else {
            panic!("not a proposal: {proposal:?}")
        };
        let leader = r((inner.block.view().0 % 4) as u8);
        self.take();
        self.receive(leader, proposal);
        votes(&self.take())
    }

    fn learn(&mut self, block: &BlockId) {
        self.receive(r(0), Message::Certified(certificate(block)));
    }

    fn commands(&self) -> Vec<String> {
        let mut executed = self.executed();
        executed.retain(|text| !text.is_empty());
        executed
    }

    fn view(&self) -> u64 {
        self.regime()
    }
}

/// What HotStuff's replicas do together.
pub(crate) trait HotstuffCluster {
    /// Every replica whose view has had its time says so, and what follows from it.
    fn time_out(&mut self);
    /// Every replica tells another of itself so many times, and what follows from it.
    fn tick(&mut self, times: usize);
}

impl HotstuffCluster for Cluster {
    fn time_out(&mut self) {
        for node in &mut self.nodes {
            if node.timers.contains_key(&Timer::View) {
                node.fire(Timer::View);
            }
        }
        self.deliver();
    }

    fn tick(&mut self, times: usize) {
        for _ in 0..times {
            for node in &mut self.nodes {
                node.fire(Timer::Status);
            }
            self.deliver();
            for to in 0..self.nodes.len() as u8 {
                self.fetch(to);
            }
        }
    }
}
