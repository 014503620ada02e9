//! [`Case`]: one op, its operands described, and how they lie in memory.

use super::fill::{Fill, Random};
use crate::{
    error::{Error, Result},
    layout::TensorDesc,
    op::{Op, Role},
    reference::{Array, cell_offsets},
};
use std::sync::Arc;

/// How much to run. Each tier contains those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Every op once or twice, in seconds.
    Smoke,
    /// Every feature, format and nasty shape, in minutes.
    #[default]
    Full,
    /// Shapes of real models at their real size.
    Soak,
}

impl Tier {
    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Smoke => "smoke",
            Tier::Full => "full",
            Tier::Soak => "soak",
        }
    }
}

impl std::str::FromStr for Tier {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        [Tier::Smoke, Tier::Full, Tier::Soak]
            .into_iter()
            .find(|t| t.name().eq_ignore_ascii_case(s))
            .ok_or_else(|| Error::Selection(format!("tier {s:?}: expected smoke, full or soak")))
    }
}

/// An operand of a case: what it looks like, what it holds, where it lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Element type, shape and strides.
    pub desc: TensorDesc,
    /// What it holds.
    pub fill: Fill,
    /// Operands of the same number live in one buffer; none: a buffer of its own.
    pub share: Option<u8>,
    /// Bytes from the place where an operand alone would start, which is aligned to 256.
    pub offset: u64,
}

impl Spec {
    /// In a buffer of its own, aligned.
    pub fn new(desc: TensorDesc, fill: Fill) -> Self {
        Spec {
            desc,
            fill,
            share: None,
            offset: 0,
        }
    }

    /// Shifted by `bytes`.
    #[must_use]
    pub fn at(mut self, bytes: u64) -> Self {
        self.offset = bytes;
        self
    }

    /// In buffer `number` of the case, shifted by `bytes`.
    #[must_use]
    pub fn shared(mut self, number: u8, bytes: u64) -> Self {
        self.share = Some(number);
        self.offset = bytes;
        self
    }

    /// Holding something else.
    #[must_use]
    pub fn fill(mut self, fill: Fill) -> Self {
        self.fill = fill;
        self
    }
}

/// One op to check.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Unique name, `op/what/shape`; also the seed of the random numbers.
    pub name: String,
    /// The first tier that runs it.
    pub tier: Tier,
    /// The op.
    pub op: Op<Spec>,
    /// Of a size worth timing.
    pub bench: bool,
}

/// Bytes before and after every operand that nothing may touch.
pub const GUARD: u64 = 256;

/// An operand placed in the buffers of a [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    /// Which buffer.
    pub buffer: usize,
    /// Where the first cell starts.
    pub byte_offset: u64,
    /// Element type, shape and strides.
    pub desc: TensorDesc,
}

/// The buffers of a case with their contents, and its op over them.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Contents before the op. What no operand holds is 0xFF: NaN as a float, so that reading it
    /// shows.
    pub buffers: Vec<Arc<Vec<u8>>>,
    /// For each buffer, the bytes that the op writes.
    pub writes: Vec<Vec<std::ops::Range<usize>>>,
    /// The op.
    pub op: Op<Placed>,
}

impl Case {
    /// A case of the full tier.
    pub fn new(name: impl Into<String>, op: impl Into<Op<Spec>>) -> Self {
        Case {
            name: name.into(),
            tier: Tier::Full,
            op: op.into(),
            bench: false,
        }
    }

    /// Sets the tier.
    #[must_use]
    pub fn tier(mut self, tier: Tier) -> Self {
        self.tier = tier;
        self
    }

    /// Marks it as worth timing.
    #[must_use]
    pub fn bench(mut self) -> Self {
        self.bench = true;
        self
    }

    /// What a device is asked.
    pub fn question(&self) -> Op<TensorDesc> {
        self.op.map(|_, s| s.desc)
    }

    /// Lays out and fills the buffers.
    ///
    /// # Errors
    /// [`Error::InvalidTensor`] for a fill that does not suit an operand's element type.
    pub fn materialize(&self) -> Result<Memory> {
        let mut shared: Vec<(u8, usize)> = Vec::new();
        let mut sizes: Vec<u64> = Vec::new();
        let op = self.op.map(|_, s| {
            let known = s
                .share
                .and_then(|n| shared.iter().find(|(m, _)| *m == n).map(|(_, b)| *b));
            let buffer = known.unwrap_or_else(|| {
                sizes.push(0);
                if let Some(n) = s.share {
                    shared.push((n, sizes.len() - 1));
                }
                sizes.len() - 1
            });
            let end = GUARD + s.offset + s.desc.span_bytes() + GUARD;
            sizes[buffer] = sizes[buffer].max(end.next_multiple_of(16));
            Placed {
                buffer,
                byte_offset: GUARD + s.offset,
                desc: s.desc,
            }
        });
        let mut buffers: Vec<Vec<u8>> = sizes.iter().map(|&n| vec![0xff; n as usize]).collect();
        let mut writes = vec![Vec::new(); buffers.len()];
        let mut places = Vec::new();
        op.visit(|_, p| places.push(*p));
        let (mut number, mut failed) = (0usize, None);
        self.op.visit(|arg, s| {
            let place = places[number];
            let mut random = Random::new(&self.name, number as u64);
            let cells = cell_offsets(&s.desc);
            let bytes = &mut buffers[place.buffer][place.byte_offset as usize..];
            if arg.role != Role::Out
                && let Err(e) = s.fill.write(&s.desc, &cells, bytes, &mut random)
            {
                failed.get_or_insert(Error::InvalidTensor(
                    format!("{}: {}: {e}", self.name, arg.name).into(),
                ));
            }
            if arg.role.writes() {
                let size = s.desc.element.block_bytes();
                let start = place.byte_offset as usize;
                let ranges: &mut Vec<std::ops::Range<usize>> = &mut writes[place.buffer];
                for c in cells {
                    match ranges.last_mut() {
                        Some(last) if last.end == start + c => last.end += size,
                        _ => ranges.push(start + c..start + c + size),
                    }
                }
            }
            number += 1;
        });
        match failed {
            Some(e) => Err(e),
            None => Ok(Memory {
                buffers: buffers.into_iter().map(Arc::new).collect(),
                writes,
                op,
            }),
        }
    }
}

impl Memory {
    /// The op over host arrays, as the reference takes it.
    pub fn arrays(&self) -> Op<Array> {
        self.op.map(|_, p| Array {
            desc: p.desc,
            bytes: self.buffers[p.buffer].clone(),
            byte_offset: p.byte_offset,
        })
    }
}

/// True when `name` contains `pattern`, or, for a pattern with `*` (any run of characters) or `?`
/// (any one), when the whole name matches.
pub fn matches(pattern: &str, name: &str) -> bool {
    fn glob(p: &[u8], s: &[u8]) -> bool {
        let (mut i, mut j) = (0, 0);
        // The last `*`, and where what it stands for ends.
        let mut star = None;
        while j < s.len() {
            match p.get(i) {
                Some(b'*') => {
                    star = Some((i, j));
                    i += 1;
                }
                Some(&c) if c == b'?' || c == s[j] => (i, j) = (i + 1, j + 1),
                _ => {
                    let Some((at, end)) = star else { return false };
                    star = Some((at, end + 1));
                    (i, j) = (at + 1, end + 1);
                }
            }
        }
        p[i..].iter().all(|&c| c == b'*')
    }
    if pattern.contains(['*', '?']) {
        glob(pattern.as_bytes(), name.as_bytes())
    } else {
        name.contains(pattern)
    }
}
