//! The one place that knows how values become bytes.
//!
//! `bincode` 2 is complete but no longer developed (RUSTSEC-2025-0141); nothing outside this file
//! names it, so replacing it is one file's work. Every decode has a limit on the bytes it may
//! claim, and refuses input that it does not use up.

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of every format made here: wire frames, records and snapshots carry it.
pub const FORMAT_VERSION: u8 = 1;

/// The most bytes a message or record may take, encoded.
pub const MESSAGE_LIMIT: usize = 16 << 20;

/// The most bytes the session table of a snapshot may take, encoded. No less than what it can grow
/// to, for a snapshot that was written must be readable; what a peer offers is bounded by its
/// transport, and checked by its digest first.
pub const TABLE_LIMIT: usize = usize::MAX >> 1;

/// A value that goes over the wire or to disk.
pub trait Codec: Serialize + DeserializeOwned {}

impl<T: Serialize + DeserializeOwned> Codec for T {}

/// Bytes that are not an encoding of what was expected.
#[derive(Debug, thiserror::Error)]
#[error("malformed {what}: {reason}")]
pub struct DecodeError {
    what: &'static str,
    reason: String,
}

impl DecodeError {
    /// `what` was expected, and `reason` says what is wrong with the bytes.
    pub fn new(what: &'static str, reason: impl Into<String>) -> Self {
        DecodeError {
            what,
            reason: reason.into(),
        }
    }
}

/// A value that cannot be encoded: only one that claims an unknown length, or more than memory
/// has.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode: {0}")]
pub struct EncodeError(bincode::error::EncodeError);

fn limited<const LIMIT: usize>() -> Configuration<LittleEndian, Varint, Limit<LIMIT>> {
    config::standard().with_limit::<LIMIT>()
}

/// Appends the encoding of `value` to `buffer`; returns how many bytes that took.
pub fn encode_into<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> Result<usize, EncodeError> {
    bincode::serde::encode_into_std_write(value, buffer, config::standard()).map_err(EncodeError)
}

/// The encoding of `value`.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let mut buffer = Vec::new();
    encode_into(value, &mut buffer)?;
    Ok(buffer)
}

/// Decodes a message or record: all of `bytes`, at most [`MESSAGE_LIMIT`].
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    decode_limited::<T, MESSAGE_LIMIT>(what, bytes)
}

/// Decodes all of `bytes`, claiming at most `LIMIT`.
pub fn decode_limited<T: DeserializeOwned, const LIMIT: usize>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, DecodeError> {
    let decoded = bincode::serde::decode_from_slice(bytes, limited::<LIMIT>());
    whole(what, bytes, decoded)
}

/// Decodes all of `bytes`, at most [`MESSAGE_LIMIT`], into a value that refers to them.
pub fn decode_borrowed<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, DecodeError> {
    let decoded = bincode::serde::borrow_decode_from_slice(bytes, limited::<MESSAGE_LIMIT>());
    whole(what, bytes, decoded)
}

fn whole<T>(
    what: &'static str,
    bytes: &[u8],
    decoded: Result<(T, usize), bincode::error::DecodeError>,
) -> Result<T, DecodeError> {
    let (value, used) = decoded.map_err(|error| DecodeError::new(what, error.to_string()))?;
    if used != bytes.len() {
        let reason = format!("{} bytes left over", bytes.len() - used);
        return Err(DecodeError::new(what, reason));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_decodes() {
        let value = (7u64, String::from("slot"), vec![1u8, 2, 3]);
        let bytes = encode(&value).unwrap();
        assert_eq!(
            decode::<(u64, String, Vec<u8>)>("value", &bytes).unwrap(),
            value
        );
    }

    #[test]
    fn left_over_and_missing_bytes_are_refused() {
        let mut bytes = encode(&300u64).unwrap();
        bytes.push(0);
        assert!(decode::<u64>("number", &bytes).is_err());
        assert!(decode::<u64>("number", &bytes[..1]).is_err());
    }

    #[test]
    fn what_is_borrowed_is_the_same_and_as_strict() {
        let mut bytes = encode(&(7u64, vec![1u8, 2])).unwrap();
        let (number, list): (u64, &[u8]) = decode_borrowed("pair", &bytes).unwrap();
        assert_eq!((number, list), (7, &[1u8, 2][..]));
        assert!(decode_borrowed::<(u64, &[u8])>("pair", &bytes[..3]).is_err());
        bytes.push(0);
        assert!(decode_borrowed::<(u64, &[u8])>("pair", &bytes).is_err());
    }

    #[test]
    fn a_claimed_length_beyond_the_limit_is_refused_before_it_is_allocated() {
        let mut bytes = Vec::new();
        encode_into(&(1u64 << 40), &mut bytes).unwrap();
        let error = decode::<Vec<u8>>("payload", &bytes).unwrap_err();
        assert!(error.to_string().contains("malformed payload"));
    }
}
