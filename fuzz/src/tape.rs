//! Decisions from arbitrary bytes.

/// A tape of decisions. Past its end every choice is the first one, so any bytes make an op.
#[derive(Debug)]
pub struct Tape<'a>(pub &'a [u8]);

impl Tape<'_> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&b, rest)) => {
                self.0 = rest;
                b
            }
            None => 0,
        }
    }

    /// A number below `n`; `n` is at most 256.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    /// True about once in `n` times.
    pub fn rarely(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    /// One of `all`.
    pub fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }
}

/// How far from sensible an op may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Small and well-formed.
    Tame,
    /// Anything: huge axes, wrong types, strides that overflow.
    Wild,
}
