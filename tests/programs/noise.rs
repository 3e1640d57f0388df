//! Bytes and texts that a program and its test make of the same number.

/// The numbers of a seed, one after the other (splitmix64).
pub struct Noise(pub u64);

/// What formats and lists are made of.
const NASTY: &[u8] = b"\n\r\0\"\\{},'\x1b\x7f\xff\xfe\xc3\x28\xed\xa0\x80 \t";

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// So many bytes: any, those of [`NASTY`], or those of a text.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        match self.below(3) {
            0 => (0..len).map(|_| self.next() as u8).collect(),
            1 => (0..len).map(|_| NASTY[self.below(NASTY.len() as u64) as usize]).collect(),
            // Perhaps a bit too long, and then its last character is torn.
            _ => self.text(len).into_bytes().into_iter().take(len).collect(),
        }
    }

    /// A text of so many characters, many of which have to be escaped somewhere.
    pub fn text(&mut self, len: usize) -> String {
        let character = |noise: &mut Noise| match noise.below(4) {
            0 => char::from(NASTY[noise.below(11) as usize]),
            1 => char::from_u32(noise.below(0x11_0000) as u32).unwrap_or('\u{2028}'),
            _ => char::from(b' ' + noise.below(95) as u8),
        };
        (0..len).map(|_| character(self)).collect()
    }
}
