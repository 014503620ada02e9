//! What the operands of a case hold: pseudo-random, the same on every machine.

use crate::{
    element::{DType, Element},
    layout::TensorDesc,
    quant::QuantFormat,
    reference::encode_plain,
};

/// What an operand holds. Operands that are only written are not filled.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// Normal numbers with mean and standard deviation; for a quantized operand random blocks
    /// whose numbers are of that order.
    Normal(f64, f64),
    /// Uniform numbers of a half-open range.
    Uniform(f64, f64),
    /// Whole numbers of a half-open range.
    Ints(i64, i64),
    /// `first + i * step`.
    Steps(f64, f64),
    /// 0, 1, .. n - 1 in random order (of which as many as there are elements).
    Permutation(u32),
    /// These, repeated.
    Values(Vec<f64>),
    /// `kept` with the given probability, else `dropped`: masks.
    Coin {
        /// Probability.
        keep: f64,
        /// What a kept element holds.
        kept: f64,
        /// What another element holds.
        dropped: f64,
    },
    /// Normal numbers, every few of them a NaN, an infinity, a zero or a very small number.
    Special,
    /// Normal numbers; those of rows from `from` on of the second-last axis are NaN: what a cache
    /// holds beyond its length.
    Stale(u32),
    /// Random numbers passed through the format's encoder.
    Encoded,
    /// What another operand of the same buffer wrote there.
    Keep,
}

/// splitmix64 (Steele, Lea & Flood 2014).
pub(super) struct Random(u64);

impl Random {
    pub fn new(name: &str, stream: u64) -> Self {
        let mut h = 0xcbf2_9ce4_8422_2325u64;
        for b in name.bytes() {
            h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
        Random(h ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.unit() * n as f64) as u64
    }

    /// Box & Muller 1958.
    pub fn normal(&mut self) -> f64 {
        let r = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        r * (std::f64::consts::TAU * self.unit()).cos()
    }
}

impl Fill {
    /// Writes the cells of `desc`, whose offsets are `cells`, into `bytes`.
    pub(super) fn write(
        &self,
        desc: &TensorDesc,
        cells: &[usize],
        bytes: &mut [u8],
        random: &mut Random,
    ) -> Result<(), String> {
        if *self == Fill::Keep {
            return Ok(());
        }
        match desc.element {
            Element::Plain(d) => {
                let mut cell = Vec::with_capacity(8);
                let numbers = self.numbers(desc, random)?;
                for (&c, v) in cells.iter().zip(numbers) {
                    cell.clear();
                    encode_plain(d, v, &mut cell);
                    bytes[c..c + cell.len()].copy_from_slice(&cell);
                }
                Ok(())
            }
            Element::Quant(q) => {
                let spread = match *self {
                    Fill::Normal(_, spread) => spread,
                    Fill::Encoded => return encoded(q, cells, bytes, random),
                    Fill::Stale(_) => 1.0,
                    _ => return Err(format!("{self:?} does not fill {desc}")),
                };
                let unit = spread / typical(q);
                for &c in cells {
                    random_block(q, unit, random, &mut bytes[c..c + q.block_bytes()]);
                }
                if let Fill::Stale(from) = *self {
                    // A scale of 0xFFFF is a NaN.
                    let blocks = desc.dim_back(0) as usize / q.block_len();
                    let rows = desc.dim_back(1) as usize;
                    for (i, &c) in cells.iter().enumerate() {
                        if i / blocks.max(1) % rows.max(1) >= from as usize {
                            bytes[c..c + q.block_bytes()].fill(0xff);
                        }
                    }
                }
                Ok(())
            }
        }
    }

    fn numbers(&self, desc: &TensorDesc, random: &mut Random) -> Result<Vec<f64>, String> {
        let n = desc.elements() as usize;
        let mut draw = |f: &mut dyn FnMut(&mut Random) -> f64| -> Vec<f64> {
            (0..n).map(|_| f(random)).collect()
        };
        Ok(match self {
            Fill::Normal(mean, spread) => draw(&mut |r| mean + spread * r.normal()),
            Fill::Uniform(low, high) => draw(&mut |r| low + (high - low) * r.unit()),
            Fill::Ints(low, high) => {
                draw(&mut |r| (low + r.below((high - low).max(1) as u64) as i64) as f64)
            }
            Fill::Steps(first, step) => (0..n).map(|i| first + i as f64 * step).collect(),
            Fill::Permutation(m) => {
                let mut all: Vec<f64> = (0..*m).map(f64::from).collect();
                for i in (1..all.len()).rev() {
                    all.swap(i, random.below(i as u64 + 1) as usize);
                }
                if all.len() < n {
                    return Err(format!("{n} elements of a permutation of {m}"));
                }
                all.truncate(n);
                all
            }
            Fill::Values(list) => list.iter().copied().cycle().take(n).collect(),
            Fill::Coin {
                keep,
                kept,
                dropped,
            } => draw(&mut |r| if r.unit() < *keep { *kept } else { *dropped }),
            Fill::Special => {
                let odd = [
                    f64::NAN,
                    f64::INFINITY,
                    f64::NEG_INFINITY,
                    0.0,
                    -0.0,
                    1e-30,
                    -1e-7,
                ];
                draw(&mut |r| {
                    let v = r.normal();
                    match r.below(16) {
                        i @ 0..=6 => odd[i as usize],
                        _ => v,
                    }
                })
            }
            Fill::Stale(from) => {
                let (d, rows) = (desc.dim_back(0) as usize, desc.dim_back(1) as usize);
                let mut i = 0;
                draw(&mut |r| {
                    let row = i / d.max(1) % rows.max(1);
                    i += 1;
                    if row >= *from as usize {
                        f64::NAN
                    } else {
                        r.normal()
                    }
                })
            }
            Fill::Encoded => return Err(format!("{desc} has no encoder")),
            Fill::Keep => Vec::new(),
        })
    }
}

fn encoded(
    q: QuantFormat,
    cells: &[usize],
    bytes: &mut [u8],
    random: &mut Random,
) -> Result<(), String> {
    for &c in cells {
        let x: Vec<f32> = (0..q.block_len()).map(|_| random.normal() as f32).collect();
        q.encode(&x, &mut bytes[c..c + q.block_bytes()])
            .map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Where the scales of a block are.
enum Scales {
    /// f16 at these bytes.
    Half(&'static [usize]),
    /// f32 at byte 0.
    Single,
    /// An f16 in the high nibbles of the four words from byte 48 on.
    Nibbles,
    /// A power of two at byte 0.
    E8M0,
    /// Unsigned E4M3 in the first four bytes.
    E4M3,
}

fn scales(q: QuantFormat) -> Scales {
    use QuantFormat::*;
    match q {
        Q4_1 | Q5_1 | Q8_1 | Q4_K | Q5_K => Scales::Half(&[0, 2]),
        Q2_K => Scales::Half(&[80, 82]),
        Q3_K => Scales::Half(&[108]),
        Q6_K => Scales::Half(&[208]),
        TQ1_0 => Scales::Half(&[52]),
        TQ2_0 => Scales::Half(&[64]),
        Q8_K => Scales::Single,
        IQ1_M => Scales::Nibbles,
        MXFP4 => Scales::E8M0,
        NVFP4 => Scales::E4M3,
        _ => Scales::Half(&[0]),
    }
}

/// Random bytes with a scale of about `unit`.
fn random_block(q: QuantFormat, unit: f64, random: &mut Random, out: &mut [u8]) {
    for byte in out.iter_mut() {
        *byte = random.bits() as u8;
    }
    let mut scale = || unit * (0.5 + random.unit());
    let half = |v: f64| {
        let mut b = Vec::with_capacity(2);
        encode_plain(DType::F16, v, &mut b);
        [b[0], b[1]]
    };
    match scales(q) {
        Scales::Half(places) => {
            for &p in places {
                out[p..p + 2].copy_from_slice(&half(scale()));
            }
        }
        Scales::Single => {
            out[..4].copy_from_slice(&(scale() as f32).to_le_bytes());
            // The sums of 16 codes belong to the codes.
            for g in 0..16 {
                let sum: i16 = out[4 + 16 * g..20 + 16 * g]
                    .iter()
                    .map(|&b| i16::from(b as i8))
                    .sum();
                out[260 + 2 * g..262 + 2 * g].copy_from_slice(&sum.to_le_bytes());
            }
        }
        Scales::Nibbles => {
            let bits = u16::from_le_bytes(half(scale()));
            for i in 0..4 {
                let high = &mut out[48 + 2 * i + 1];
                *high = (*high & 0x0f) | (((bits >> (4 * i)) & 0xf) << 4) as u8;
            }
        }
        Scales::E8M0 => out[0] = (127.0 + scale().log2().round()) as u8,
        Scales::E4M3 => {
            for byte in &mut out[..4] {
                let mut b = Vec::with_capacity(1);
                encode_plain(DType::F8E4M3, scale(), &mut b);
                *byte = b[0] & 0x7f;
            }
        }
    }
}

/// Root mean square of the numbers of random blocks with a scale of about 1.
fn typical(q: QuantFormat) -> f64 {
    let mut random = Random::new(q.name(), 0);
    let (mut block, mut x) = (vec![0u8; q.block_bytes()], vec![0f32; q.block_len()]);
    let (mut sum, mut n) = (0.0, 0.0);
    for _ in 0..8 {
        random_block(q, 1.0, &mut random, &mut block);
        q.decode_block(&block, &mut x);
        sum += x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
        n += x.len() as f64;
    }
    (sum / n).sqrt().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_blocks_are_finite_and_of_the_size_asked_for() {
        for &q in QuantFormat::ALL {
            let desc = TensorDesc::new(q, &[4, q.block_len() as u32]).unwrap();
            let mut bytes = vec![0; desc.span_bytes() as usize];
            let cells = crate::reference::cell_offsets(&desc);
            let mut random = Random::new("test", 1);
            Fill::Normal(0.0, 0.5)
                .write(&desc, &cells, &mut bytes, &mut random)
                .unwrap();
            let mut x = vec![0f32; desc.elements() as usize];
            q.decode(&bytes, &mut x).unwrap();
            let rms = (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32).sqrt();
            assert!((0.2..1.1).contains(&rms), "{q}: {rms}");
        }
    }

    #[test]
    fn the_name_is_the_seed() {
        let draw = |name, stream| Random::new(name, stream).bits();
        assert_eq!(draw("a", 1), draw("a", 1));
        assert_ne!(draw("a", 1), draw("a", 2));
        assert_ne!(draw("a", 1), draw("b", 1));
    }
}
