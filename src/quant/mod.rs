//! Block-quantized weight formats of GGUF: geometry, scalar decode, and encode where one is defined.
//!
//! Every format is one file of this module and one line of the table below. The scalar decoders
//! are the definition that every backend is compared with: they evaluate each formula in `f32`,
//! round every product, and never contract to fused multiply-add, so their results are
//! bit-identical on all machines and equal to those of ggml.
//!
//! ```
//! use gristmill::quant::QuantFormat;
//!
//! let format: QuantFormat = "q8_0".parse()?;
//! let x: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin()).collect();
//! let mut bytes = vec![0; x.len() / format.block_len() * format.block_bytes()];
//! format.encode(&x, &mut bytes)?;
//! let mut y = vec![0.0; x.len()];
//! format.decode(&bytes, &mut y)?;
//! assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 0.005));
//! # Ok::<(), gristmill::quant::QuantError>(())
//! ```

pub(crate) mod bits;
mod codebook;
mod error;
pub(crate) mod grids;
mod search;

pub use error::QuantError;

/// Decodes whole blocks: bytes in, elements out. The lengths agree when it is called.
type DecodeFn = fn(&[u8], &mut [f32]);

/// Encodes whole blocks of finite elements. `Err(i)`: block `i` has no finite scale.
type EncodeFn = fn(&[f32], &mut [u8]) -> Result<(), usize>;

/// One entry of the format table.
pub(crate) struct Format {
    pub(crate) name: &'static str,
    pub(crate) gguf_id: u32,
    /// Elements per block.
    pub(crate) block_len: usize,
    pub(crate) block_bytes: usize,
    pub(crate) decode: DecodeFn,
    pub(crate) encode: Option<EncodeFn>,
}

/// Runs `f` over each block; generic, so that the block decoder is inlined into the loop.
#[inline(always)]
fn decode_blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    f: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (outs, _) = out.as_chunks_mut::<LEN>();
    for (block, out) in blocks.iter().zip(outs) {
        f(block, out);
    }
}

/// Runs `f` over each block; `f` answers `None` when the scale of its block is not finite.
#[inline(always)]
fn encode_blocks<const LEN: usize, const BYTES: usize>(
    x: &[f32],
    out: &mut [u8],
    f: impl Fn(&[f32; LEN], &mut [u8; BYTES]) -> Option<()>,
) -> Result<(), usize> {
    let (blocks, _) = x.as_chunks::<LEN>();
    let (outs, _) = out.as_chunks_mut::<BYTES>();
    for (i, (block, out)) in blocks.iter().zip(outs).enumerate() {
        f(block, out).ok_or(i)?;
    }
    Ok(())
}

macro_rules! formats {
    ($($(#[$doc:meta])* $variant:ident = $module:ident;)*) => {
        $(pub(crate) mod $module;)*

        /// Block-quantized GGUF weight format.
        #[non_exhaustive]
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub enum QuantFormat {
            $($(#[$doc])* $variant,)*
        }

        /// As the decoder of the format's table entry, which is the same code: inlined, so that
        /// a caller that is compiled for more instruction sets gets a decoder for them.
        #[cfg(feature = "cpu")]
        #[inline(always)]
        pub(crate) fn decode_inline(format: QuantFormat, bytes: &[u8], out: &mut [f32]) {
            match format {
                $(QuantFormat::$variant => {
                    let (blocks, _) = bytes.as_chunks::<{ $module::FORMAT.block_bytes }>();
                    let (outs, _) = out.as_chunks_mut::<{ $module::FORMAT.block_len }>();
                    for (block, out) in blocks.iter().zip(outs) {
                        $module::decode(block, out);
                    }
                })*
            }
        }

        /// As the encoder of the format's table entry, inlined like the decoder where it is a
        /// closed formula.
        #[cfg(feature = "cpu")]
        #[inline(always)]
        pub(crate) fn encode_inline(
            format: QuantFormat,
            x: &[f32],
            out: &mut [u8],
        ) -> Result<(), usize> {
            match format {
                $(QuantFormat::$variant => {
                    let (blocks, _) = x.as_chunks::<{ $module::FORMAT.block_len }>();
                    let (outs, _) = out.as_chunks_mut::<{ $module::FORMAT.block_bytes }>();
                    for (i, (block, out)) in blocks.iter().zip(outs).enumerate() {
                        $module::encode(block, out).ok_or(i)?;
                    }
                })*
            }
            Ok(())
        }

        impl QuantFormat {
            /// Every format, in the order of the table.
            pub const ALL: &'static [QuantFormat] = &[$(QuantFormat::$variant),*];

            const fn format(self) -> &'static Format {
                match self {
                    $(QuantFormat::$variant => &$module::FORMAT,)*
                }
            }
        }
    };
}

formats! {
    /// 4-bit codes, one scale per 32.
    Q4_0 = q4_0;
    /// 4-bit codes, scale and minimum per 32.
    Q4_1 = q4_1;
    /// 5-bit codes, one scale per 32.
    Q5_0 = q5_0;
    /// 5-bit codes, scale and minimum per 32.
    Q5_1 = q5_1;
    /// 8-bit codes, one scale per 32.
    Q8_0 = q8_0;
    /// 8-bit codes, scale and scaled sum per 32; for activations, never in files.
    Q8_1 = q8_1;
    /// 2-bit codes, 4-bit scales and minima per 16 in a super-block of 256.
    Q2_K = q2_k;
    /// 3-bit codes, 6-bit scales per 16 in a super-block of 256.
    Q3_K = q3_k;
    /// 4-bit codes, 6-bit scales and minima per 32 in a super-block of 256.
    Q4_K = q4_k;
    /// 5-bit codes, 6-bit scales and minima per 32 in a super-block of 256.
    Q5_K = q5_k;
    /// 6-bit codes, 8-bit scales per 16 in a super-block of 256.
    Q6_K = q6_k;
    /// 8-bit codes, f32 scale and sums of 16 per 256; for activations, never in files.
    Q8_K = q8_k;
    /// Codebook of 256 x 8 magnitudes, 7-bit sign indices, 4-bit scales per 32.
    IQ2_XXS = iq2_xxs;
    /// Codebook of 512 x 8 magnitudes, 7-bit sign indices, 4-bit scales per 16.
    IQ2_XS = iq2_xs;
    /// Codebook of 1024 x 8 magnitudes, plain signs, 4-bit scales per 16.
    IQ2_S = iq2_s;
    /// Codebook of 256 x 4 magnitudes, 7-bit sign indices, 4-bit scales per 32.
    IQ3_XXS = iq3_xxs;
    /// Codebook of 512 x 4 magnitudes, plain signs, 4-bit scales per 32.
    IQ3_S = iq3_s;
    /// Codebook of 2048 x 8 ternary values, 3-bit scales and a shift per 32.
    IQ1_S = iq1_s;
    /// Codebook of 2048 x 8 ternary values, 3-bit scales per 16, a shift per 8.
    IQ1_M = iq1_m;
    /// 4-bit codes into a non-linear table, one scale per 32.
    IQ4_NL = iq4_nl;
    /// 4-bit codes into a non-linear table, 6-bit scales per 32 in a super-block of 256.
    IQ4_XS = iq4_xs;
    /// Ternary, five values per byte, one scale per 256.
    TQ1_0 = tq1_0;
    /// Ternary, four values per byte, one scale per 256.
    TQ2_0 = tq2_0;
    /// E2M1 values, E8M0 scale per 32 (nibble order of GGUF, not of OCP).
    MXFP4 = mxfp4;
    /// E2M1 values, unsigned E4M3 scale per 16, blocks of 64.
    NVFP4 = nvfp4;
    /// One sign bit per value, one scale per 128.
    Q1_0 = q1_0;
    /// 2-bit codes for -1, 0, 1, 2, one scale per 64.
    Q2_0 = q2_0;
}

impl QuantFormat {
    /// Name as ggml writes it, for example `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.format().name
    }

    /// Elements per block. A row of a tensor is a whole number of blocks.
    pub const fn block_len(self) -> usize {
        self.format().block_len
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        self.format().block_bytes
    }

    /// Type id in GGUF files (`enum ggml_type`).
    pub const fn gguf_id(self) -> u32 {
        self.format().gguf_id
    }

    /// The format with this GGUF type id; `None` for ids of plain types and of removed formats.
    pub fn from_gguf_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|f| f.gguf_id() == id)
    }

    /// Decodes exactly one block, without the checks of [`decode`](Self::decode).
    ///
    /// `block` has [`block_bytes`](Self::block_bytes) bytes and `out` has
    /// [`block_len`](Self::block_len) elements. Other lengths fail a debug assertion; in release
    /// builds, only the blocks that are whole on both sides are decoded.
    pub fn decode_block(self, block: &[u8], out: &mut [f32]) {
        debug_assert_eq!(block.len(), self.block_bytes());
        debug_assert_eq!(out.len(), self.block_len());
        (self.format().decode)(block, out);
    }

    /// Decodes whole blocks to `f32`. Any byte content decodes; non-finite scales give non-finite
    /// elements.
    ///
    /// # Errors
    /// [`QuantError::PartialBlock`] if `bytes` is not a whole number of blocks,
    /// [`QuantError::ElementCount`] if `out` does not have `block_len` elements for each.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
        if !bytes.len().is_multiple_of(self.block_bytes()) {
            return Err(QuantError::PartialBlock {
                format: self,
                bytes: bytes.len(),
            });
        }
        let blocks = bytes.len() / self.block_bytes();
        if blocks.checked_mul(self.block_len()) != Some(out.len()) {
            return Err(QuantError::ElementCount {
                format: self,
                blocks,
                elements: out.len(),
            });
        }
        (self.format().decode)(bytes, out);
        Ok(())
    }

    /// Whether [`encode`](Self::encode) is defined for this format.
    pub fn can_encode(self) -> bool {
        self.format().encode.is_some()
    }

    /// Encodes `x` as whole blocks.
    ///
    /// Formats whose encoding ggml defines by a closed formula (`Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`,
    /// `Q8_0`, `Q8_1`, `Q8_K`, `TQ1_0`, `TQ2_0`, `MXFP4`, `Q1_0`, `Q2_0`) give the same bytes; the
    /// others search for codes and scales of least squared error, all elements weighing the same.
    /// The codebook formats (`IQ1_*`, `IQ2_*`, `IQ3_*`) try every point of their grids, which
    /// takes microseconds per element.
    ///
    /// # Errors
    /// [`QuantError::NoEncoder`] if [`can_encode`](Self::can_encode) is false,
    /// [`QuantError::PartialRow`] if `x` is not a whole number of blocks,
    /// [`QuantError::ByteCount`] if `out` does not have `block_bytes` bytes for each,
    /// [`QuantError::NonFinite`] if an element is NaN or infinite, and
    /// [`QuantError::ScaleOverflow`] if a block needs a scale beyond the range of its field.
    pub fn encode(self, x: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
        let encode = self.format().encode;
        self.encode_by(x, out, encode)
    }

    /// [`encode`](Self::encode) by another function, which is called with what it may expect.
    pub(crate) fn encode_by(
        self,
        x: &[f32],
        out: &mut [u8],
        encode: Option<impl FnOnce(&[f32], &mut [u8]) -> Result<(), usize>>,
    ) -> Result<(), QuantError> {
        let format = self;
        let encode = encode.ok_or(QuantError::NoEncoder { format })?;
        if !x.len().is_multiple_of(self.block_len()) {
            return Err(QuantError::PartialRow {
                format,
                elements: x.len(),
            });
        }
        let blocks = x.len() / self.block_len();
        if blocks.checked_mul(self.block_bytes()) != Some(out.len()) {
            return Err(QuantError::ByteCount {
                format,
                blocks,
                bytes: out.len(),
            });
        }
        // All at once, without a branch for each, and only then which.
        let finite = x.iter().fold(true, |all, v| all & v.is_finite());
        if !finite && let Some(index) = x.iter().position(|v| !v.is_finite()) {
            return Err(QuantError::NonFinite { format, index });
        }
        encode(x, out).map_err(|block| QuantError::ScaleOverflow { format, block })
    }
}

impl std::fmt::Display for QuantFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for QuantFormat {
    type Err = QuantError;

    /// Case-insensitive.
    fn from_str(s: &str) -> Result<Self, QuantError> {
        Self::ALL
            .iter()
            .copied()
            .find(|f| f.name().eq_ignore_ascii_case(s))
            .ok_or_else(|| QuantError::UnknownFormat { name: s.to_owned() })
    }
}

#[cfg(test)]
mod tests;
