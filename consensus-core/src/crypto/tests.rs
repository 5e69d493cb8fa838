use super::*;

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
fn what_was_found_good_is_not_checked_again_while_it_is_remembered() {
    let verifier = verifier(7);
    let digest = |n: usize| Digest::of(&n.to_le_bytes());
    assert_eq!(verifier.once(digest(0), || Err("bad")), Err("bad"));
    assert_eq!(verifier.clone().once(digest(0), || Ok::<_, ()>(())), Ok(()));
    assert_eq!(verifier.once(digest(0), || Err("bad")), Ok(()));
    for n in 1..=2 * GENERATION {
        assert_eq!(verifier.once(digest(n), || Ok::<_, ()>(())), Ok(()));
    }
    assert_eq!(verifier.once(digest(0), || Err("bad")), Err("bad"));
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
