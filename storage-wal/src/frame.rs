//! How a record lies in a segment: the table is in the README.

use crc32fast::Hasher;

/// The bytes of a frame besides its payload.
pub(crate) const FRAME_BYTES: usize = 24;

/// Frames start at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A record.
    Record = 1,
    /// The records that follow replace all earlier ones, if [`Kind::BaseEnd`] comes.
    Base = 2,
    /// What began with [`Kind::Base`] is complete.
    BaseEnd = 3,
    /// What began with [`Kind::Base`] will never be complete, and is void.
    BaseVoid = 4,
    /// Nothing but the word that all before it is durable.
    Mark = 5,
    /// The log goes on in the next segment.
    Seal = 6,
}

impl Kind {
    fn from_number(number: u32) -> Option<Kind> {
        use Kind::{Base, BaseEnd, BaseVoid, Mark, Record, Seal};
        [Record, Base, BaseEnd, BaseVoid, Mark, Seal]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }
}

/// What goes into every checksum of a segment beside the bytes, so that a frame of another
/// segment, or at another offset, is none.
#[derive(Clone, Debug)]
pub(crate) struct Place(Hasher);

impl Place {
    /// The segment of this number, in the log of this identity.
    pub(crate) fn new(log: u64, number: u64) -> Place {
        let mut hasher = Hasher::new();
        hasher.update(&log.to_le_bytes());
        hasher.update(&number.to_le_bytes());
        Place(hasher)
    }

    fn checksum(&self, offset: u64, header: &[u8]) -> u32 {
        let mut hasher = self.0.clone();
        hasher.update(&offset.to_le_bytes());
        hasher.update(header);
        hasher.finalize()
    }
}

/// A frame's header, its checksum correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// All before this offset of the segment was durable before the frame was written.
    pub(crate) synced: u64,
    length: usize,
    payload_checksum: u32,
}

/// A frame, its checksums correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) synced: u64,
    pub(crate) payload: &'a [u8],
    /// Where the next frame starts.
    pub(crate) end: usize,
}

/// The bytes that a frame with a payload of this length takes.
pub(crate) fn size(payload: usize) -> usize {
    (FRAME_BYTES + payload).next_multiple_of(ALIGNMENT)
}

/// Appends a frame to `buffer`, which is to be written at `offset`. The payload must be shorter
/// than 4 GiB.
pub(crate) fn encode(
    buffer: &mut Vec<u8>,
    place: &Place,
    offset: u64,
    synced: u64,
    kind: Kind,
    payload: &[u8],
) {
    let mut header = [0; FRAME_BYTES];
    header[4..8].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    header[8..12].copy_from_slice(&(kind as u32).to_le_bytes());
    header[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[16..24].copy_from_slice(&synced.to_le_bytes());
    let checksum = place.checksum(offset, &header[4..]);
    header[..4].copy_from_slice(&checksum.to_le_bytes());
    let end = buffer.len() + size(payload.len());
    buffer.extend_from_slice(&header);
    buffer.extend_from_slice(payload);
    buffer.resize(end, 0);
}

/// The frame header at `offset` of a segment, if there is one. The cheap checks come first, for
/// a search tries this at every offset.
fn header(segment: &[u8], place: &Place, offset: usize) -> Option<Header> {
    let bytes = segment.get(offset..)?.first_chunk::<FRAME_BYTES>()?;
    let kind = Kind::from_number(u32_at(bytes, 8)?)?;
    let header = Header {
        kind,
        synced: u64_at(bytes, 16)?,
        length: u32_at(bytes, 12)? as usize,
        payload_checksum: u32_at(bytes, 4)?,
    };
    let sound = header.synced <= offset as u64
        && place.checksum(offset as u64, &bytes[4..]) == u32_at(bytes, 0)?;
    sound.then_some(header)
}

/// The frame at `offset` of a segment, or why there is none.
pub(crate) fn decode<'a>(
    segment: &'a [u8],
    place: &Place,
    offset: usize,
) -> Result<Frame<'a>, &'static str> {
    let header = header(segment, place, offset).ok_or("there is no sound record header")?;
    let start = offset + FRAME_BYTES;
    let payload = start
        .checked_add(header.length)
        .and_then(|end| segment.get(start..end))
        .ok_or("a record reaches beyond the end of the file")?;
    if crc32fast::hash(payload) != header.payload_checksum {
        return Err("a record does not match its checksum");
    }
    Ok(Frame {
        kind: header.kind,
        synced: header.synced,
        payload,
        end: offset + size(header.length),
    })
}

/// Whether a frame header at or after `from` says that more than `limit` bytes of the segment
/// were durable when it was written.
pub(crate) fn claims_more_than(limit: u64, segment: &[u8], place: &Place, from: usize) -> bool {
    headers(segment, place, from).any(|header| header.synced > limit)
}

/// Whether there is any frame header at or after `from`.
pub(crate) fn any(segment: &[u8], place: &Place, from: usize) -> bool {
    headers(segment, place, from).next().is_some()
}

fn headers(segment: &[u8], place: &Place, from: usize) -> impl Iterator<Item = Header> {
    (from.next_multiple_of(ALIGNMENT)..segment.len())
        .step_by(ALIGNMENT)
        .filter_map(move |offset| header(segment, place, offset))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(place: &Place, offset: u64, payload: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; offset as usize];
        encode(&mut buffer, place, offset, 8, Kind::Record, payload);
        buffer
    }

    #[test]
    fn a_frame_decodes_where_it_was_written_and_nowhere_else() {
        let place = Place::new(7, 3);
        for payload in [&b""[..], b"x", b"eight by", b"a longer payload"] {
            let segment = encoded(&place, 16, payload);
            assert_eq!(segment.len(), 16 + size(payload.len()));
            let frame = decode(&segment, &place, 16).unwrap();
            assert_eq!((frame.kind, frame.payload), (Kind::Record, payload));
            assert_eq!((frame.synced, frame.end), (8, segment.len()));
            assert!(decode(&segment, &Place::new(7, 4), 16).is_err());
            assert!(decode(&segment, &Place::new(8, 3), 16).is_err());
            assert!(decode(&segment[8..], &place, 8).is_err());
        }
    }

    #[test]
    fn a_changed_bit_is_noticed_unless_it_pads() {
        let place = Place::new(7, 3);
        let segment = encoded(&place, 8, b"payload");
        for bit in 8 * 8..(8 + FRAME_BYTES + b"payload".len()) * 8 {
            let mut changed = segment.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&changed, &place, 8).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn headers_are_found_behind_damage() {
        let place = Place::new(7, 3);
        let mut segment = encoded(&place, 8, b"first");
        let second = segment.len() as u64;
        encode(&mut segment, &place, second, second, Kind::Mark, &[]);
        segment[8] ^= 1;
        assert!(any(&segment, &place, 0));
        assert!(claims_more_than(second - 1, &segment, &place, 8));
        assert!(!claims_more_than(second, &segment, &place, 8));
        assert!(!any(&segment, &Place::new(7, 2), 0));
    }
}
