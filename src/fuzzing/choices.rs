//! The bytes of an input, read as choices: whatever they are, they tell some story.

/// Reads an input from its beginning; behind its end all choices are zero.
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Choices<'a> {
        Choices(data)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Two bytes.
    pub(crate) fn short(&mut self) -> u64 {
        u64::from(self.byte()) | u64::from(self.byte()) << 8
    }

    /// Eight bytes.
    pub(crate) fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, byte| word | u64::from(self.byte()) << (8 * byte))
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let number = if end <= 256 { self.byte().into() } else { self.short() };
        number % end
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// As many bytes as there are, but no more than this.
    pub(crate) fn bytes(&mut self, max: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(max.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }
}
