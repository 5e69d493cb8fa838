//! Keys, signatures with domain separation, digests.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

mod scheme;
mod verifier;

pub use scheme::Scheme;
#[cfg(feature = "mutants")]
pub use verifier::Unchecked;
pub use verifier::{Admission, AdmittedKeys, Claim, Members, Verifier};

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

/// An Ed25519 secret key \[RFC8032\]. Its `Debug` shows the public key only, and its memory is wiped
/// when it is dropped.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key with this seed, which must come from a source fit for keys.
    pub fn from_seed(seed: impl Into<Zeroizing<[u8; 32]>>) -> Self {
        SecretKey(SigningKey::from_bytes(&seed.into()))
    }

    /// The seed, to be stored where only its owner can read it.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
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
#[error("64 hexadecimal digits are expected, this has {length} characters{}", if *.length == 64 { ", not all of them digits" } else { "" })]
pub struct ParseKeyError {
    length: usize,
}

/// Reads 64 digits, and leaves no copy of them behind.
fn parse_hex(text: &str) -> Result<Zeroizing<[u8; 32]>, ParseKeyError> {
    let length = text.chars().count();
    if length != 64 {
        return Err(ParseKeyError { length });
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (place, digit) in text.chars().enumerate() {
        let digit = digit.to_digit(16).ok_or(ParseKeyError { length })? as u8;
        let byte = bytes.get_mut(place / 2).ok_or(ParseKeyError { length })?;
        *byte = *byte << 4 | digit;
    }
    Ok(bytes)
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        parse_hex(text).map(|bytes| PublicKey(*bytes))
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

impl FromStr for Digest {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        parse_hex(text).map(|bytes| Digest(*bytes))
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
    scheme: Scheme,
    made: Arc<AtomicU64>,
}

impl Signer {
    /// Signs with `key` in `group`.
    pub fn new(key: SecretKey, group: GroupId) -> Self {
        Signer {
            key,
            group,
            scheme: Scheme::default(),
            made: Arc::default(),
        }
    }

    /// Signs by `scheme`.
    pub fn by(self, scheme: Scheme) -> Self {
        Signer { scheme, ..self }
    }

    /// The key that others check with.
    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// Signs `bytes` for `domain`.
    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        self.made.fetch_add(1, Ordering::Relaxed);
        let statement = statement(self.group, domain, bytes);
        self.scheme.sign(&self.key.0, &statement)
    }

    /// How many signatures have been made.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ReplicaId;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32])
    }

    fn verifier(group: u64) -> Verifier {
        let keys = [key(0).public(), key(1).public()];
        Verifier::new(Members::new(GroupId(group), keys))
    }

    #[test]
    fn a_signature_counts_for_its_signer_domain_group_and_bytes_only() {
        let signer = Signer::new(key(1), GroupId(7));
        let signature = signer.sign(Domain("vote"), b"view 3");
        let check = |group, replica, domain, bytes: &[u8]| {
            verifier(group).verify(ReplicaId(replica), Domain(domain), bytes, &signature)
        };
        assert_eq!(check(7, 1, "vote", b"view 3"), Ok(()));
        assert_eq!(check(8, 1, "vote", b"view 3"), Err(BadSignature));
        assert_eq!(check(7, 0, "vote", b"view 3"), Err(BadSignature));
        assert_eq!(check(7, 2, "vote", b"view 3"), Err(BadSignature));
        assert_eq!(check(7, 1, "voteview", b" 3"), Err(BadSignature));
        assert_eq!(check(7, 1, "vote", b"view 4"), Err(BadSignature));
        assert_eq!(signer.made(), 1);
    }

    #[test]
    fn what_anybody_can_forge_counts_only_where_that_is_the_scheme() {
        let signers = [0, 1].map(|n| Signer::new(key(n), GroupId(7)));
        let forgeable = signers.clone().map(|signer| signer.by(Scheme::Forgeable));
        let lax = || verifier(7).by(Scheme::Forgeable);
        let check = |verifier: Verifier, signer: &Signer, bytes: &[u8]| {
            let signature = signer.sign(Domain("vote"), b"view 3");
            verifier.verify(ReplicaId(1), Domain("vote"), bytes, &signature)
        };
        assert_eq!(check(lax(), &forgeable[1], b"view 3"), Ok(()));
        assert_eq!(check(lax(), &forgeable[1], b"view 4"), Err(BadSignature));
        assert_eq!(check(lax(), &forgeable[0], b"view 3"), Err(BadSignature));
        assert_eq!(check(lax(), &signers[1], b"view 3"), Err(BadSignature));
        assert_eq!(
            check(verifier(7), &forgeable[1], b"view 3"),
            Err(BadSignature)
        );
    }

    #[test]
    fn what_was_found_good_is_not_checked_again_while_it_is_remembered() {
        let verifier = verifier(7);
        let digest = |n: usize| Digest::of(&n.to_le_bytes());
        assert_eq!(verifier.once(digest(0), || Err("bad")), Err("bad"));
        assert_eq!(verifier.clone().once(digest(0), || Ok::<_, ()>(())), Ok(()));
        assert_eq!(verifier.once(digest(0), || Err("bad")), Ok(()));
        for n in 1..=2 * verifier::GENERATION {
            assert_eq!(verifier.once(digest(n), || Ok::<_, ()>(())), Ok(()));
        }
        assert_eq!(verifier.once(digest(0), || Err("bad")), Err("bad"));
    }

    #[test]
    fn a_claim_found_good_is_checked_once_for_its_signer_domain_bytes_and_signature() {
        let verifier = verifier(7);
        let signers = [0, 1].map(|n| Signer::new(key(n), GroupId(7)));
        let [by_0, by_1] = signers
            .each_ref()
            .map(|s| s.sign(Domain("vote"), b"view 3"));
        let check = |by, domain, bytes: &[u8], signature: &Signature| {
            verifier.clone().verify_once(Claim {
                by: ReplicaId(by),
                domain: Domain(domain),
                bytes,
                signature,
            })
        };
        for _ in 0..3 {
            assert_eq!(check(0, "vote", b"view 3", &by_0), Ok(()));
            assert_eq!(check(1, "vote", b"view 3", &by_1), Ok(()));
        }
        assert_eq!(verifier.checked(), 2);
        assert_eq!(check(1, "vote", b"view 3", &by_0), Err(BadSignature));
        assert_eq!(check(0, "vote", b"view 3", &by_1), Err(BadSignature));
        assert_eq!(check(0, "other", b"view 3", &by_0), Err(BadSignature));
        assert_eq!(check(0, "vote", b"view 4", &by_0), Err(BadSignature));
        assert_eq!(check(2, "vote", b"view 3", &by_0), Err(BadSignature));
    }

    /// A liar can make a replica forget what the liar has signed, and nothing else.
    #[test]
    fn nobody_can_have_anothers_claims_forgotten() {
        let verifier = verifier(7);
        let claims = |signer: &Signer, by: u8, n: usize| {
            let bytes = n.to_le_bytes();
            let signature = signer.sign(Domain("vote"), &bytes);
            let claim = Claim {
                by: ReplicaId(by),
                domain: Domain("vote"),
                bytes: &bytes,
                signature: &signature,
            };
            assert_eq!(verifier.verify_once(claim), Ok(()));
        };
        let (honest, liar) = (
            Signer::new(key(0), GroupId(7)),
            Signer::new(key(1), GroupId(7)),
        );
        claims(&honest, 0, 0);
        for n in 0..=2 * verifier::GENERATION {
            claims(&liar, 1, n);
        }
        let checked = verifier.checked();
        claims(&honest, 0, 0);
        assert_eq!(verifier.checked(), checked);
        claims(&liar, 1, 0);
        assert_eq!(verifier.checked(), checked + 1);
    }

    #[test]
    fn what_this_replica_has_signed_needs_no_check() {
        let verifier = verifier(7);
        let signature = Signer::new(key(0), GroupId(7)).sign(Domain("vote"), b"view 3");
        let claim = Claim {
            by: ReplicaId(0),
            domain: Domain("vote"),
            bytes: b"view 3",
            signature: &signature,
        };
        verifier.know(claim);
        assert_eq!(verifier.verify_once(claim), Ok(()));
        assert_eq!(verifier.checked(), 0);
    }

    #[test]
    fn one_bad_signature_among_good_ones_is_found() {
        let signers = [0, 1].map(|n| Signer::new(key(n), GroupId(7)));
        let good = signers
            .each_ref()
            .map(|s| s.sign(Domain("vote"), b"view 3"));
        let bad = signers[1].sign(Domain("vote"), b"view 4");
        let check = |signatures: [&Signature; 2]| {
            let by = [ReplicaId(0), ReplicaId(1)];
            verifier(7).verify_all(by.into_iter().zip(signatures).map(|(by, signature)| Claim {
                by,
                domain: Domain("vote"),
                bytes: b"view 3",
                signature,
            }))
        };
        assert_eq!(check([&good[0], &good[1]]), Ok(()));
        assert_eq!(check([&good[0], &bad]), Err(BadSignature));
        assert_eq!(check([&good[1], &good[0]]), Err(BadSignature));
    }

    #[test]
    fn a_key_under_which_anything_is_signed_is_none() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(PublicKey(identity).checking().is_none());
        assert!(key(1).public().checking().is_some());
    }

    /// A key that is a multiple of the base point with a point of order two added, and a signature
    /// that its owner makes to be good under it, taken alone.
    fn crooked(bytes: &[u8]) -> (PublicKey, Signature) {
        use curve25519_dalek::Scalar;
        use sha2::Sha512;
        let mut order_two = [0xff; 32];
        (order_two[0], order_two[31]) = (0xec, 0x7f);
        let order_two = VerifyingKey::from_bytes(&order_two).unwrap().to_edwards();
        let secret = SigningKey::from_bytes(&[9; 32]);
        let public = (secret.verifying_key().to_edwards() + order_two).compress();
        let found = (0..=255).find_map(|nonce| {
            let nonce = SigningKey::from_bytes(&[nonce; 32]);
            let r = (nonce.verifying_key().to_edwards() + order_two).compress();
            let mut digester = Sha512::default();
            digester.update(r.as_bytes());
            digester.update(public.as_bytes());
            digester.update(bytes);
            let k = Scalar::from_bytes_mod_order_wide(&digester.finalize().into());
            let s = nonce.to_scalar() + k * secret.to_scalar();
            let odd = k.as_bytes()[0] & 1 == 1;
            odd.then(|| Signature {
                r: r.to_bytes(),
                s: s.to_bytes(),
            })
        });
        (PublicKey(public.to_bytes()), found.unwrap())
    }

    /// Otherwise its owner could make a correct replica propose what the others reject.
    #[test]
    fn what_a_client_signs_is_good_alone_and_among_others_or_not_at_all() {
        let honest = Signer::new(key(5), GroupId(7));
        let domain = Domain("requests");
        let good = (
            honest.public(),
            b"good".to_vec(),
            honest.sign(domain, b"good"),
        );
        for admission in [None, Some(())] {
            for n in 0..16u8 {
                let bytes = vec![n];
                let (client, signature) = crooked(&statement(GroupId(7), domain, &bytes));
                let crooked = (client, bytes, signature);
                let admission = match admission {
                    None => Admission::Anyone,
                    Some(()) => Admission::of([client, honest.public()]),
                };
                let verifier = verifier(7).admitting(admission);
                let alone = verifier.verify_clients(domain, std::slice::from_ref(&crooked));
                let among = verifier.verify_clients(domain, &[good.clone(), crooked]);
                assert_eq!(alone, among, "message {n}");
            }
        }
    }

    #[test]
    fn keys_are_written_and_read_in_hexadecimal() {
        let public = key(3).public();
        assert_eq!(public.to_string().parse(), Ok(public));
        assert!("12".parse::<PublicKey>().is_err());
        assert!("g".repeat(64).parse::<PublicKey>().is_err());
        assert!("é".repeat(64).parse::<PublicKey>().is_err());
    }

    #[test]
    fn debug_output_does_not_show_a_secret() {
        let seed = "03".repeat(32);
        assert!(!format!("{:?}", key(3)).contains(&seed));
    }

    #[test]
    fn a_digest_is_that_of_all_bytes() {
        let mut digester = Digester::default();
        digester.update(b"ab");
        digester.update(b"c");
        assert_eq!(digester.finish(), Digest::of(b"abc"));
        assert!(Digest::of(b"abc").to_string().starts_with("ba7816bf"));
    }
}
