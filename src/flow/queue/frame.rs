//! A frame: what a lane is made of.
//!
//! ```text
//! bytes  0..4   checksum of all that follows: CRC-32C, begun with the word of length and kind, so
//!               that the rest begins on a multiple of eight and is summed up eight bytes at a time
//! bytes  4..8   length of the payload in bytes (low 28 bits), kind (high 4)
//! bytes  8..16  offset of this frame in its lane, counted from the lane's beginning: a frame of an
//!               earlier lap never passes for one of this
//! bytes 16..24  records of this lane up to and including this frame: none is lost or doubled unseen
//! bytes 24..    payload, padded with zeroes to a multiple of 8
//! ```

/// Bytes before the payload.
pub(crate) const HEAD: usize = 24;

/// Frames begin on multiples of this.
pub(crate) const ALIGN: usize = 8;

/// The longest payload.
pub(crate) const PAYLOAD_MAX: usize = (1 << 28) - 1;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A record of a job for the output. What ends the job follows it.
    Result = 1,
    /// A record of a job for the dead letters, likewise.
    DeadLetter = 2,
    /// A job has ended, and has succeeded. The payload is a [`JobEnd`].
    JobDone = 3,
    /// A job has ended, and has failed for good. The payload is a [`JobEnd`].
    JobFailed = 4,
    /// A record for the output that belongs to no job.
    Alone = 5,
}

impl Kind {
    fn from_bits(bits: u32) -> Option<Kind> {
        match bits {
            1 => Some(Kind::Result),
            2 => Some(Kind::DeadLetter),
            3 => Some(Kind::JobDone),
            4 => Some(Kind::JobFailed),
            5 => Some(Kind::Alone),
            _ => None,
        }
    }

    /// Records are what is counted as published and written.
    pub(crate) fn is_record(self) -> bool {
        matches!(self, Kind::Result | Kind::DeadLetter | Kind::Alone)
    }
}

/// Which job has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JobEnd {
    pub seq: u64,
    pub round: u64,
    /// Where the first frame of the job stands in the lane: so a reader that has lost its way knows
    /// whether it has met the whole job or its rest.
    pub begin: u64,
}

impl JobEnd {
    pub(crate) const BYTES: usize = 24;

    pub(crate) fn to_bytes(self) -> [u8; JobEnd::BYTES] {
        let mut bytes = [0; JobEnd::BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip([self.seq, self.round, self.begin]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What a payload says; `None` if it is none of ours.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<JobEnd> {
        let mut words = bytes.chunks_exact(8).map(|word| word.try_into().map(u64::from_le_bytes));
        let mut next = || words.next()?.ok();
        let end = JobEnd { seq: next()?, round: next()?, begin: next()? };
        (bytes.len() == JobEnd::BYTES).then_some(end)
    }
}

/// A frame's head, read or to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub kind: Kind,
    /// Bytes of the payload.
    pub len: usize,
    pub offset: u64,
    pub records: u64,
    checksum: u32,
}

/// Bytes that a frame with such a payload takes in its lane.
pub(crate) const fn size(payload: usize) -> usize {
    (HEAD + payload).next_multiple_of(ALIGN)
}

impl Head {
    /// What these bytes say; `None` if no frame of ours begins like this.
    pub(crate) fn from_bytes(bytes: &[u8; HEAD]) -> Option<Head> {
        let half = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 4)) << 32;
        let kind_and_len = half(4);
        Some(Head {
            checksum: half(0),
            kind: Kind::from_bits(kind_and_len >> 28)?,
            len: (kind_and_len as usize) & PAYLOAD_MAX,
            offset: word(8),
            records: word(16),
        })
    }

    /// Is this the frame that the head was made for? All of it, from the head to the padding.
    pub(crate) fn fits(&self, frame: &[u8]) -> bool {
        frame.len() == size(self.len)
            && sum(kind_and_len(self.kind, self.len), frame) == self.checksum
    }
}

/// Writes the head of a frame whose payload and padding are there.
pub(crate) fn seal(frame: &mut [u8], kind: Kind, len: usize, offset: u64, records: u64) {
    assert!(len <= PAYLOAD_MAX, "a payload is checked before it is published");
    assert_eq!(frame.len(), size(len), "a frame is as long as its payload says");
    let kind_and_len = kind_and_len(kind, len);
    frame[4..8].copy_from_slice(&kind_and_len.to_le_bytes());
    frame[8..16].copy_from_slice(&offset.to_le_bytes());
    frame[16..24].copy_from_slice(&records.to_le_bytes());
    let sum = sum(kind_and_len, frame);
    frame[..4].copy_from_slice(&sum.to_le_bytes());
}

fn kind_and_len(kind: Kind, len: usize) -> u32 {
    (kind as u32) << 28 | len as u32
}

fn sum(kind_and_len: u32, frame: &[u8]) -> u32 {
    crc32c::crc32c_append(kind_and_len, &frame[8..])
}

/// A whole frame.
#[cfg(test)]
pub(crate) fn of(kind: Kind, offset: u64, records: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; HEAD];
    frame.extend_from_slice(payload);
    frame.resize(size(payload.len()), 0);
    seal(&mut frame, kind, payload.len(), offset, records);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(frame: &[u8]) -> Option<Head> {
        Head::from_bytes(frame[..HEAD].try_into().expect("a head"))
    }

    #[test]
    fn a_head_reads_back_as_it_was_written() {
        let frame = of(Kind::JobFailed, 1 << 40, 17, b"payload");
        let read = head(&frame).expect("a head");
        assert_eq!(
            (read.kind, read.len, read.offset, read.records),
            (Kind::JobFailed, 7, 1 << 40, 17)
        );
        assert!(read.fits(&frame));
        assert!(!read.fits(&frame[..24]));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut frame = of(Kind::Result, 4096, 3, b"some payload");
        for bit in 0..frame.len() * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            assert!(!head(&frame).is_some_and(|head| head.fits(&frame)), "bit {bit}");
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(head(&frame).is_some_and(|head| head.fits(&frame)));
    }

    #[test]
    fn frames_are_padded_to_eight_bytes() {
        assert_eq!(size(0), 24);
        assert_eq!(size(1), 32);
        assert_eq!(size(8), 32);
        assert_eq!(size(105), 136);
    }
}
