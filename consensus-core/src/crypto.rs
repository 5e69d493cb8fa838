//! Keys, signatures with domain separation, digests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey, verify_batch};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::id::ReplicaId;

#[cfg(test)]
mod tests;
mod unchecked;

#[cfg(feature = "mutants")]
pub use unchecked::Unchecked;

/// An Ed25519 public key \[RFC8032\]: the identity of a replica or a client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The key as one to check with, unless it is none, or one under which anything is signed, or
    /// one that no seed makes: a multiple of the base point with a point of small order added.
    /// What is signed under such a key may be good alone and bad among others. \[Chalkias20\]
    fn checking(&self) -> Option<VerifyingKey> {
        let key = VerifyingKey::from_bytes(&self.0).ok()?;
        (!key.is_weak() && key.to_edwards().is_torsion_free()).then_some(key)
    }
}

/// An Ed25519 secret key \[RFC8032\]. Its `Debug` shows the public key only.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key with this seed, which must come from a source fit for keys.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        SecretKey(SigningKey::from_bytes(&seed))
    }

    /// The seed, to be stored where only its owner can read it.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

/// Text that is not 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is 64 hexadecimal digits, this has {length} characters{}", if *.length == 64 { ", not all of them digits" } else { "" })]
pub struct ParseKeyError {
    length: usize,
}

fn parse_hex(text: &str) -> Result<[u8; 32], ParseKeyError> {
    let error = ParseKeyError {
        length: text.chars().count(),
    };
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()
        .ok_or(error.clone())?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|d| d.iter().fold(0, |b, d| b << 4 | d))
        .collect();
    if digits.len() != 64 {
        return Err(error);
    }
    bytes.try_into().map_err(|_| error)
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        parse_hex(text).map(PublicKey)
    }
}

impl FromStr for SecretKey {
    type Err = ParseKeyError;

    /// Reads the seed.
    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        parse_hex(text).map(SecretKey::from_seed)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0[..4], f)
    }
}

/// A SHA-256 digest \[FIPS180\].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut digester = Digester::default();
        digester.update(bytes);
        digester.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0[..4], f)
    }
}

/// A digest in the making.
#[derive(Clone, Default)]
pub struct Digester(Sha256);

impl Digester {
    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken in.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl io::Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    r: [u8; 32],
    s: [u8; 32],
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.r[..4], f)
    }
}

impl Signature {
    /// The signature with this encoding.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        Signature {
            r: std::array::from_fn(|i| bytes[i]),
            s: std::array::from_fn(|i| bytes[32 + i]),
        }
    }

    /// The encoding.
    pub fn to_bytes(&self) -> [u8; 64] {
        std::array::from_fn(|i| if i < 32 { self.r[i] } else { self.s[i - 32] })
    }

    fn from_dalek(signature: &ed25519_dalek::Signature) -> Self {
        Signature {
            r: *signature.r_bytes(),
            s: *signature.s_bytes(),
        }
    }

    fn to_dalek(self) -> ed25519_dalek::Signature {
        ed25519_dalek::Signature::from_components(self.r, self.s)
    }
}

/// What a signature is for. Two kinds of statement never share a domain, so that a signature on
/// one is never taken for a signature on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain(pub &'static str);

/// A cluster, by a number drawn when it was set up. It is under every signature and in every
/// frame, so that nothing said in one cluster counts in another.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct GroupId(pub u64);

fn statement(group: GroupId, domain: Domain, bytes: &[u8]) -> Vec<u8> {
    let mut statement = Vec::with_capacity(domain.0.len() + bytes.len() + 20);
    statement.extend_from_slice(b"quorate/1\0");
    statement.extend_from_slice(domain.0.as_bytes());
    statement.push(0);
    statement.extend_from_slice(&group.0.to_le_bytes());
    statement.extend_from_slice(bytes);
    statement
}

/// The signature is not that key's on that statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match")]
pub struct BadSignature;

/// Signs for one replica or client, and counts.
#[derive(Clone, Debug)]
pub struct Signer {
    key: SecretKey,
    group: GroupId,
    made: Arc<AtomicU64>,
}

impl Signer {
    /// Signs with `key` in `group`.
    pub fn new(key: SecretKey, group: GroupId) -> Self {
        Signer {
            key,
            group,
            made: Arc::default(),
        }
    }

    /// The key that others check with.
    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// Signs `bytes` for `domain`.
    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        self.made.fetch_add(1, Ordering::Relaxed);
        let statement = statement(self.group, domain, bytes);
        Signature::from_dalek(&self.key.0.sign(&statement))
    }

    /// How many signatures have been made.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}

/// Who is in the cluster: a public key a replica.
#[derive(Clone, Debug)]
pub struct Members {
    group: GroupId,
    keys: Arc<[PublicKey]>,
    checking: Arc<[Option<VerifyingKey>]>,
}

impl Members {
    /// The members of `group`, in the order of their [`ReplicaId`].
    pub fn new(group: GroupId, keys: impl Into<Arc<[PublicKey]>>) -> Self {
        let keys = keys.into();
        Members {
            group,
            checking: keys.iter().map(PublicKey::checking).collect(),
            keys,
        }
    }

    /// The cluster's number.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// How many replicas there are.
    pub fn n(&self) -> usize {
        self.keys.len()
    }

    /// All replicas.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = ReplicaId> + ExactSizeIterator {
        ReplicaId::all(self.n())
    }

    /// The key of `replica`, if it is a member.
    pub fn key(&self, replica: ReplicaId) -> Option<PublicKey> {
        self.keys.get(replica.index()).copied()
    }

    /// The member that has `key`, if there is one.
    pub fn find(&self, key: PublicKey) -> Option<ReplicaId> {
        let index = self.keys.iter().position(|member| *member == key)?;
        Some(ReplicaId(index as u8))
    }

    fn checking(&self, replica: ReplicaId) -> Result<&VerifyingKey, BadSignature> {
        let key = self.checking.get(replica.index());
        key.and_then(Option::as_ref).ok_or(BadSignature)
    }
}

/// Which clients are let in.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Any client that proves some key.
    Anyone,
    /// These keys only.
    Keys(AdmittedKeys),
}

/// The keys of clients that are let in.
#[derive(Clone, Debug)]
pub struct AdmittedKeys(Arc<BTreeMap<PublicKey, Option<VerifyingKey>>>);

impl Admission {
    /// These keys only.
    pub fn of(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let keys = keys.into_iter().map(|key| (key, key.checking()));
        Admission::Keys(AdmittedKeys(Arc::new(keys.collect())))
    }

    /// No client at all.
    pub fn nobody() -> Self {
        Admission::of([])
    }

    /// Whether the client with this key is let in.
    pub fn admits(&self, key: PublicKey) -> bool {
        match self {
            Admission::Anyone => true,
            Admission::Keys(keys) => keys.0.contains_key(&key),
        }
    }
}

/// What a member is said to have signed.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The member.
    pub by: ReplicaId,
    /// What for.
    pub domain: Domain,
    /// The statement.
    pub bytes: &'a [u8],
    /// The signature.
    pub signature: &'a Signature,
}

/// Checks signatures of members and clients, and counts. Cheap to clone; clones count together,
/// and remember together what has been found good.
#[derive(Clone, Debug)]
pub struct Verifier {
    members: Members,
    admission: Admission,
    checked: Arc<AtomicU64>,
    known: Arc<Mutex<Known>>,
    #[cfg(feature = "mutants")]
    without: Option<Unchecked>,
}

/// How many digests make a generation of [`Known`].
const GENERATION: usize = 2048;

/// What has been found good, by digest: the last generation, and the one before it.
#[derive(Debug, Default)]
struct Known {
    recent: BTreeSet<Digest>,
    older: BTreeSet<Digest>,
}

impl Known {
    fn contains(&self, digest: &Digest) -> bool {
        self.recent.contains(digest) || self.older.contains(digest)
    }

    fn insert(&mut self, digest: Digest) {
        if self.recent.len() >= GENERATION {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(digest);
    }
}

impl Verifier {
    /// Checks for the members given, and admits no client.
    pub fn new(members: Members) -> Self {
        Verifier {
            members,
            admission: Admission::nobody(),
            checked: Arc::default(),
            known: Arc::default(),
            #[cfg(feature = "mutants")]
            without: None,
        }
    }

    /// Checks by `check`, unless what has this digest has passed a check of late: a certificate
    /// that comes with many messages is verified once. The digest must be over all that is
    /// checked, signatures included, and over what it is.
    pub fn once<E>(&self, digest: Digest, check: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(&digest) {
            return Ok(());
        }
        check()?;
        known().insert(digest);
        Ok(())
    }

    /// Takes requests of these clients.
    pub fn admitting(self, admission: Admission) -> Self {
        Verifier { admission, ..self }
    }

    /// The members.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Whose requests are taken.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Checks that `signature` is `replica`'s on `bytes` for `domain`.
    pub fn verify(
        &self,
        replica: ReplicaId,
        domain: Domain,
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        self.verify_all([Claim {
            by: replica,
            domain,
            bytes,
            signature,
        }])
    }

    /// Checks all claims at once, which takes about half the time of checking each.
    ///
    /// The outcome depends on the claims and their order only, so that all replicas come to the
    /// same one. Two or more are checked by one equation with weights drawn from the claims, which
    /// a signer may, with some trying, make true of a malformed signature of its own, though never
    /// of one for another key. \[Chalkias20\]
    pub fn verify_all<'a>(
        &self,
        claims: impl IntoIterator<Item = Claim<'a>>,
    ) -> Result<(), BadSignature> {
        let mut batch = Equation::default();
        for claim in claims {
            if self.overlooks(&claim) {
                continue;
            }
            let key = self.members.checking(claim.by)?;
            let statement = statement(self.members.group, claim.domain, claim.bytes);
            batch.add(key, statement, claim.signature);
        }
        self.checked
            .fetch_add(batch.keys.len() as u64, Ordering::Relaxed);
        batch.holds()
    }

    /// Checks what clients have signed, as [`Verifier::verify_all`] does.
    pub(crate) fn verify_clients(
        &self,
        domain: Domain,
        claims: &[(PublicKey, Vec<u8>, Signature)],
    ) -> Result<(), BadSignature> {
        let mut batch = Equation::default();
        for (key, bytes, signature) in claims {
            let key = self.checking(key)?;
            let statement = statement(self.members.group, domain, bytes);
            batch.add(&key, statement, signature);
        }
        self.checked
            .fetch_add(batch.keys.len() as u64, Ordering::Relaxed);
        batch.holds()
    }

    /// A client's key as one to check with. Looked at once: where the clients are known, when they
    /// become so, and otherwise when they come.
    fn checking(&self, key: &PublicKey) -> Result<VerifyingKey, BadSignature> {
        if let Admission::Keys(keys) = &self.admission
            && let Some(checking) = keys.0.get(key)
        {
            return checking.ok_or(BadSignature);
        }
        let mut name = Digester::default();
        name.update(b"client key\0");
        name.update(&key.0);
        let good = || key.checking().map(drop).ok_or(BadSignature);
        self.once(name.finish(), good)?;
        VerifyingKey::from_bytes(&key.0).map_err(|_| BadSignature)
    }

    /// How many signatures have been checked.
    pub fn checked(&self) -> u64 {
        self.checked.load(Ordering::Relaxed)
    }
}

/// Signatures that are checked together.
#[derive(Default)]
struct Equation {
    keys: Vec<VerifyingKey>,
    statements: Vec<Vec<u8>>,
    signatures: Vec<ed25519_dalek::Signature>,
}

impl Equation {
    fn add(&mut self, key: &VerifyingKey, statement: Vec<u8>, signature: &Signature) {
        self.keys.push(*key);
        self.statements.push(statement);
        self.signatures.push(signature.to_dalek());
    }

    fn holds(&self) -> Result<(), BadSignature> {
        let checked = match (&self.keys[..], &self.statements[..], &self.signatures[..]) {
            ([], ..) => return Ok(()),
            ([key], [statement], [signature]) => key.verify_strict(statement, signature),
            (keys, statements, signatures) => {
                let statements: Vec<&[u8]> = statements.iter().map(Vec::as_slice).collect();
                verify_batch(&statements, signatures, keys)
            }
        };
        checked.map_err(|_| BadSignature)
    }
}
