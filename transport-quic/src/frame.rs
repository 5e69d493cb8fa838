//! Frames on a stream: a length of four bytes, most significant first, then that many bytes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quorate_core::codec::MESSAGE_LIMIT;

/// The most bytes a frame may have: a message of the largest size, and its envelope.
pub const FRAME_LIMIT: usize = MESSAGE_LIMIT + (64 << 10);

/// Frames from this size on are handed to QUIC as they are; smaller ones are cheaper to copy
/// into one buffer than to write one by one.
const BY_REFERENCE: usize = 8 << 10;

/// What is reserved for a frame before its bytes have come, at most.
const RESERVE: usize = 64 << 10;

const LENGTH_BYTES: usize = 4;

/// A frame that claims more than [`FRAME_LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame claims {claimed} bytes, the limit is {FRAME_LIMIT}")]
pub(crate) struct Oversized {
    claimed: usize,
}

/// Appends what has to be written for `frames` to `chunks`, in as few chunks as is cheap.
pub(crate) fn encode(frames: &mut Vec<Bytes>, chunks: &mut Vec<Bytes>) {
    let copied = |frame: &Bytes| {
        let body = if frame.len() < BY_REFERENCE {
            frame.len()
        } else {
            0
        };
        LENGTH_BYTES + body
    };
    let mut buffer = BytesMut::with_capacity(frames.iter().map(copied).sum());
    for frame in frames.drain(..) {
        buffer.put_u32(frame.len() as u32);
        if frame.len() < BY_REFERENCE {
            buffer.extend_from_slice(&frame);
        } else {
            chunks.push(buffer.split().freeze());
            chunks.push(frame);
        }
    }
    if !buffer.is_empty() {
        chunks.push(buffer.freeze());
    }
}

/// Cuts what comes off a stream into frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    chunk: Bytes,
    length: Length,
    body: BytesMut,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Partial { bytes: usize, value: usize },
    Known(usize),
}

impl Default for Length {
    fn default() -> Self {
        Length::Partial { bytes: 0, value: 0 }
    }
}

impl Decoder {
    /// Takes in the next bytes; [`Decoder::next`] has used up all before.
    pub(crate) fn feed(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// The next frame, if all of it has come. One that lies within a chunk is not copied; one
    /// that does not is gathered in a buffer that grows with what has come, not with what is
    /// claimed.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Oversized> {
        let Some(length) = self.next_length()? else {
            return Ok(None);
        };
        if self.body.is_empty() && self.chunk.len() >= length {
            self.length = Length::default();
            return Ok(Some(self.chunk.split_to(length)));
        }
        if self.body.is_empty() && !self.chunk.is_empty() {
            self.body = BytesMut::with_capacity(length.min(RESERVE));
        }
        let missing = length - self.body.len();
        let part = self.chunk.split_to(missing.min(self.chunk.len()));
        self.body.extend_from_slice(&part);
        if self.body.len() < length {
            return Ok(None);
        }
        self.length = Length::default();
        Ok(Some(std::mem::take(&mut self.body).freeze()))
    }

    /// How many bytes the frame has of which a part has come, if that is known.
    pub(crate) fn claimed(&self) -> Option<usize> {
        match self.length {
            Length::Known(length) => Some(length),
            Length::Partial { .. } => None,
        }
    }

    fn next_length(&mut self) -> Result<Option<usize>, Oversized> {
        loop {
            match self.length {
                Length::Known(length) => return Ok(Some(length)),
                Length::Partial { bytes, value } if bytes == LENGTH_BYTES => {
                    if value > FRAME_LIMIT {
                        return Err(Oversized { claimed: value });
                    }
                    self.length = Length::Known(value);
                }
                Length::Partial { bytes, value } => {
                    if self.chunk.is_empty() {
                        return Ok(None);
                    }
                    self.length = Length::Partial {
                        bytes: bytes + 1,
                        value: value << 8 | usize::from(self.chunk.get_u8()),
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, tag: u8) -> Bytes {
        (0..length).map(|i| (i as u8) ^ tag).collect()
    }

    fn wire(frames: &[Bytes]) -> Vec<u8> {
        let mut chunks = Vec::new();
        encode(&mut frames.to_vec(), &mut chunks);
        chunks.concat()
    }

    fn decode(stream: &[u8], step: usize) -> Vec<Bytes> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for chunk in stream.chunks(step) {
            decoder.feed(Bytes::copy_from_slice(chunk));
            while let Some(frame) = decoder.next().unwrap() {
                frames.push(frame);
            }
        }
        frames
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_the_stream_is_cut() {
        let lengths = [0, 1, 3, 0, 200, BY_REFERENCE - 1, BY_REFERENCE, 70_000, 5];
        let frames: Vec<Bytes> = (0u8..).zip(lengths).map(|(t, l)| frame(l, t)).collect();
        let stream = wire(&frames);
        for step in [1, 2, 3, 5, 7, 1200, 65_536, stream.len()] {
            assert_eq!(decode(&stream, step), frames, "in steps of {step}");
        }
    }

    #[test]
    fn small_frames_are_written_together_and_large_ones_as_they_are() {
        let large = frame(BY_REFERENCE, 1);
        let mut frames = vec![frame(10, 0), frame(10, 2), large.clone(), frame(10, 3)];
        let mut chunks = Vec::new();
        encode(&mut frames, &mut chunks);
        let lengths: Vec<usize> = chunks.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [4 + 10 + 4 + 10 + 4, BY_REFERENCE, 4 + 10]);
        assert_eq!(chunks[1].as_ptr(), large.as_ptr());
    }

    #[test]
    fn a_frame_within_a_chunk_is_not_copied() {
        let stream = Bytes::from(wire(&[frame(9, 0)]));
        let mut decoder = Decoder::default();
        decoder.feed(stream.clone());
        let decoded = decoder.next().unwrap().unwrap();
        assert_eq!(decoded.as_ptr(), stream[LENGTH_BYTES..].as_ptr());
    }

    #[test]
    fn a_claim_over_the_limit_is_refused_before_anything_is_reserved() {
        let mut decoder = Decoder::default();
        decoder.feed(Bytes::from_static(&[0xff; 6]));
        let claimed = u32::MAX as usize;
        assert_eq!(decoder.next(), Err(Oversized { claimed }));
    }

    #[test]
    fn a_claim_within_the_limit_reserves_only_for_what_has_come() {
        let mut decoder = Decoder::default();
        let claim = (FRAME_LIMIT as u32).to_be_bytes();
        decoder.feed(Bytes::from([&claim[..], &[1, 2, 3]].concat()));
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.body.capacity() <= RESERVE);
    }
}
