//! The store as bytes.
//!
//! Layout: version (1 byte), number of entries (8), then each entry in ascending order of keys:
//! length of the key (4), length of the value (4), revision (8), key, value; integers
//! little-endian. Nothing follows.

use std::collections::BTreeMap;
use std::io::{self, Read as _};

use bytes::Bytes;
use quorate_core::machine::RestoreError;

use crate::command::{KEY_LIMIT, VALUE_LIMIT};
use crate::store::Current;

const VERSION: u8 = 1;
const HEADER: usize = 4 + 4 + 8;

pub(crate) fn write(entries: &BTreeMap<Bytes, Current>, to: &mut dyn io::Write) -> io::Result<()> {
    to.write_all(&[VERSION])?;
    to.write_all(&(entries.len() as u64).to_le_bytes())?;
    for (key, current) in entries {
        // Lengths are within the limits, which fit into four bytes.
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&(current.value.len() as u32).to_le_bytes());
        header[8..].copy_from_slice(&current.revision.to_le_bytes());
        to.write_all(&header)?;
        to.write_all(key)?;
        to.write_all(&current.value)?;
    }
    Ok(())
}

pub(crate) fn read(from: &mut dyn io::Read) -> Result<BTreeMap<Bytes, Current>, RestoreError> {
    let [version] = array(from).map_err(RestoreError::new)?;
    if version != VERSION {
        let reason = format!("format version {version}, this program knows {VERSION}");
        return Err(RestoreError::new(reason));
    }
    let count = u64::from_le_bytes(array(from).map_err(RestoreError::new)?);
    let mut entries = BTreeMap::new();
    for index in 0..count {
        let (key, current) = entry(from).map_err(|reason| at(index, count, &reason))?;
        let ascends = entries
            .last_key_value()
            .is_none_or(|(last, _): (&Bytes, &Current)| *last < key);
        if !ascends {
            return Err(at(index, count, "its key is not above the one before"));
        }
        entries.insert(key, current);
    }
    if from.take(1).read_to_end(&mut Vec::new())? != 0 {
        return Err(RestoreError::new("bytes follow the last entry"));
    }
    Ok(entries)
}

fn entry(from: &mut dyn io::Read) -> Result<(Bytes, Current), String> {
    let key_length = u32::from_le_bytes(array(from)?);
    let value_length = u32::from_le_bytes(array(from)?);
    let revision = u64::from_le_bytes(array(from)?);
    if revision == 0 {
        return Err(String::from("its revision is 0"));
    }
    let key = bytes(from, "key", key_length, KEY_LIMIT)?;
    let value = bytes(from, "value", value_length, VALUE_LIMIT)?;
    Ok((key, Current { value, revision }))
}

fn at(index: u64, count: u64, reason: &str) -> RestoreError {
    RestoreError::new(format!("entry {} of {count}: {reason}", index + 1))
}

fn array<const N: usize>(from: &mut dyn io::Read) -> Result<[u8; N], String> {
    let mut array = [0; N];
    fill(&mut array, from)?;
    Ok(array)
}

fn fill(buffer: &mut [u8], from: &mut dyn io::Read) -> Result<(), String> {
    from.read_exact(buffer).map_err(|error| error.to_string())
}

fn bytes(from: &mut dyn io::Read, what: &str, length: u32, limit: usize) -> Result<Bytes, String> {
    let length = length as usize;
    if length > limit {
        return Err(format!("its {what} has {length} bytes, more than {limit}"));
    }
    let mut bytes = vec![0; length];
    fill(&mut bytes, from)?;
    Ok(bytes.into())
}
