//! Rows of numbers to and from f32.

use super::isa::{Isa, Level, multiversion};
use crate::{
    element::DType,
    quant::{QuantError, QuantFormat},
};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use std::sync::LazyLock;

/// The conversions are exact or correctly rounded, so that every instruction set gives the same
/// bits: they use all of this machine, whatever the ceiling for kernels is.
static NATIVE: LazyLock<Isa> = LazyLock::new(Isa::detect);

/// Loads `out.len()` cells of type `d` that are `step` bytes apart.
///
/// # Safety
/// The cells are readable and aligned to their type.
#[inline]
pub(crate) unsafe fn load(d: DType, from: *const u8, step: usize, out: &mut [f32]) {
    let n = out.len();
    // SAFETY: the caller vouches for the cells.
    unsafe {
        if step == 0 && n > 1 {
            let (first, rest) = out.split_at_mut(1);
            load(d, from, d.size(), first);
            rest.fill(first[0]);
            return;
        }
        if step == d.size() {
            match d {
                DType::F32 => {
                    std::ptr::copy_nonoverlapping(from.cast::<f32>(), out.as_mut_ptr(), n);
                    return;
                }
                DType::F16 => {
                    f16_to_f32(std::slice::from_raw_parts(from.cast::<f16>(), n), out);
                    return;
                }
                DType::BF16 => {
                    bf16_to_f32(
                        *NATIVE,
                        std::slice::from_raw_parts(from.cast::<u16>(), n),
                        out,
                    );
                    return;
                }
                _ => {}
            }
        }
        macro_rules! each {
            ($t:ty, $f:expr) => {
                for (i, o) in out.iter_mut().enumerate() {
                    *o = $f(from.add(i * step).cast::<$t>().read());
                }
            };
        }
        match d {
            DType::F32 => each!(f32, |v| v),
            DType::F16 => each!(f16, f16::to_f32),
            DType::BF16 => each!(bf16, bf16::to_f32),
            DType::F8E4M3 => each!(u8, e4m3_to_f32),
            DType::F8E5M2 => each!(u8, e5m2_to_f32),
            DType::I8 => each!(i8, f32::from),
            DType::U8 => each!(u8, f32::from),
            DType::I32 => each!(i32, |v| v as f32),
            DType::U32 => each!(u32, |v| v as f32),
            DType::I64 => each!(i64, |v| v as f32),
        }
    }
}

/// Stores `values` to cells of type `d` that are `step` bytes apart.
///
/// # Safety
/// The cells are writable, aligned to their type, and nobody else touches them.
#[inline]
pub(crate) unsafe fn store(d: DType, to: *mut u8, step: usize, values: &[f32]) {
    let n = values.len();
    // SAFETY: the caller vouches for the cells.
    unsafe {
        if step == d.size() {
            match d {
                DType::F32 => {
                    std::ptr::copy_nonoverlapping(values.as_ptr(), to.cast::<f32>(), n);
                    return;
                }
                DType::F16 => {
                    f32_to_f16(values, std::slice::from_raw_parts_mut(to.cast::<f16>(), n));
                    return;
                }
                DType::BF16 => {
                    let out = std::slice::from_raw_parts_mut(to.cast::<u16>(), n);
                    f32_to_bf16(*NATIVE, values, out);
                    return;
                }
                _ => {}
            }
        }
        macro_rules! each {
            ($t:ty, $f:expr) => {
                for (i, &v) in values.iter().enumerate() {
                    to.add(i * step).cast::<$t>().write($f(v));
                }
            };
        }
        match d {
            DType::F32 => each!(f32, |v| v),
            DType::F16 => each!(f16, f16::from_f32),
            DType::BF16 => each!(u16, bf16_bits),
            DType::F8E4M3 => each!(u8, f32_to_e4m3),
            DType::F8E5M2 => each!(u8, f32_to_e5m2),
            DType::I8 => each!(i8, |v| v as i8),
            DType::U8 => each!(u8, |v| v as u8),
            DType::I32 => each!(i32, |v| v as i32),
            DType::U32 => each!(u32, |v| v as u32),
            DType::I64 => each!(i64, |v| v as i64),
        }
    }
}

#[inline(always)]
fn decode_body<const FMA: bool>(format: QuantFormat, bytes: &[u8], out: &mut [f32]) {
    crate::quant::decode_inline(format, bytes, out);
}
multiversion! {
    /// As [`decode`], compiled for the instruction sets of `isa`.
    fn decode_for = decode_body(format: QuantFormat, bytes: &[u8], out: &mut [f32])
}

/// Whole blocks to f32. The products are rounded one by one, so that every instruction set gives
/// the same bits.
#[inline]
pub(crate) fn decode(format: QuantFormat, bytes: &[u8], out: &mut [f32]) {
    use QuantFormat::*;
    debug_assert_eq!(
        bytes.len() / format.block_bytes() * format.block_len(),
        out.len()
    );
    let isa = match format {
        // Codes into tables of 16 values become gathers, which are slower than scalar loads.
        IQ4_NL | IQ4_XS | MXFP4 | NVFP4 => NATIVE.masked(Level::Avx2),
        _ => *NATIVE,
    };
    decode_for(isa, format, bytes, out);
}

#[inline(always)]
fn encode_body<const FMA: bool>(
    format: QuantFormat,
    x: &[f32],
    out: &mut [u8],
) -> Result<(), usize> {
    crate::quant::encode_inline(format, x, out)
}
multiversion! {
    /// Whole blocks of finite numbers, compiled for the instruction sets of `isa`.
    fn encode_for = encode_body(format: QuantFormat, x: &[f32], out: &mut [u8]) -> Result<(), usize>
}

/// [`QuantFormat::encode`], with the same bytes on every instruction set.
pub(crate) fn encode(format: QuantFormat, x: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    let run = |x: &[f32], out: &mut [u8]| encode_for(*NATIVE, format, x, out);
    format.encode_by(x, out, format.can_encode().then_some(run))
}

/// Copies to memory that is not read soon, past the caches where the processor can.
///
/// # Safety
/// The `bytes.len()` bytes at `to` are writable, aligned to 2 bytes, and nobody else touches them.
pub(crate) unsafe fn stream(bytes: &[u8], to: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        let head = to.align_offset(32).min(bytes.len());
        let (first, rest) = bytes.split_at(head);
        let (lines, last) = rest.as_chunks::<32>();
        // SAFETY: the three parts lie one after the other, and the middle starts at a multiple of
        // 32 bytes; SSE2 belongs to x86-64.
        unsafe {
            std::ptr::copy_nonoverlapping(first.as_ptr(), to, first.len());
            let middle = to.add(head);
            for (i, line) in lines.iter().enumerate() {
                let from = line.as_ptr().cast::<__m128i>();
                let at = middle.add(32 * i).cast::<__m128i>();
                _mm_stream_si128(at, _mm_loadu_si128(from));
                _mm_stream_si128(at.add(1), _mm_loadu_si128(from.add(1)));
            }
            let end = middle.add(32 * lines.len());
            std::ptr::copy_nonoverlapping(last.as_ptr(), end, last.len());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
    }
}

/// Makes what [`stream`] wrote visible before what follows.
pub(crate) fn stream_end() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE belongs to x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// f16 to f32 (hardware conversion where there is one).
pub(crate) fn f16_to_f32(x: &[f16], out: &mut [f32]) {
    x.convert_to_f32_slice(out);
}

/// f32 to f16, to nearest even.
pub(crate) fn f32_to_f16(x: &[f32], out: &mut [f16]) {
    out.convert_from_f32_slice(x);
}

#[inline(always)]
fn bf16_to_f32_body<const FMA: bool>(x: &[u16], out: &mut [f32]) {
    for (o, &v) in out.iter_mut().zip(x) {
        *o = f32::from_bits(u32::from(v) << 16);
    }
}
multiversion! {
    /// Bits of bf16 to f32.
    pub(crate) fn bf16_to_f32 = bf16_to_f32_body(x: &[u16], out: &mut [f32])
}

/// Bits of the nearest bf16; a NaN stays one.
#[inline(always)]
pub(crate) fn bf16_bits(v: f32) -> u16 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let nan = bits | 0x0040_0000;
    ((if v.is_nan() { nan } else { rounded }) >> 16) as u16
}

#[inline(always)]
fn f32_to_bf16_body<const FMA: bool>(x: &[f32], out: &mut [u16]) {
    for (o, &v) in out.iter_mut().zip(x) {
        *o = bf16_bits(v);
    }
}
multiversion! {
    /// f32 to bits of bf16, to nearest even.
    pub(crate) fn f32_to_bf16 = f32_to_bf16_body(x: &[f32], out: &mut [u16])
}

/// A small float with `M` bits of mantissa and exponent bias `bias`.
const fn minifloat(code: u8, mantissa: u32, bias: i32) -> f32 {
    let sign = if code & 0x80 != 0 { -1.0 } else { 1.0 };
    let e = ((code & 0x7f) as u32 >> mantissa) as i32;
    let m = (code as u32 & ((1 << mantissa) - 1)) as f32;
    let one = (1 << mantissa) as f32;
    // 2^(e - bias) (1 + m / one), or 2^(1 - bias) m / one; every factor is exact.
    let (exponent, value) = if e == 0 {
        (1 - bias, m / one)
    } else {
        (e - bias, 1.0 + m / one)
    };
    sign * value * f32::from_bits(((127 + exponent) as u32) << 23)
}

static E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = if i & 0x7f == 0x7f {
            f32::NAN
        } else {
            minifloat(i as u8, 3, 7)
        };
        i += 1;
    }
    table
};

static E5M2: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = match i & 0x7f {
            0x7c => {
                if i & 0x80 != 0 {
                    f32::NEG_INFINITY
                } else {
                    f32::INFINITY
                }
            }
            0x7d.. => f32::NAN,
            _ => minifloat(i as u8, 2, 15),
        };
        i += 1;
    }
    table
};

/// OCP E4M3 to f32.
#[inline]
pub(crate) fn e4m3_to_f32(code: u8) -> f32 {
    E4M3[code as usize]
}

/// OCP E5M2 to f32.
#[inline]
pub(crate) fn e5m2_to_f32(code: u8) -> f32 {
    E5M2[code as usize]
}

/// Magnitude bits of the nearest minifloat with `mantissa` bits of mantissa, ties to even, not
/// limited at the top.
#[inline]
fn round_to_minifloat(v: f32, mantissa: u32, bias: i32) -> u32 {
    let magnitude = v.abs();
    let smallest_normal = f32::from_bits(((128 - bias) as u32) << 23);
    if magnitude < smallest_normal {
        // Units of the smallest subnormal, 2^(1 - bias - mantissa): exact scaling, then ties even.
        let unit = f32::from_bits(((127 + bias - 1 + mantissa as i32) as u32) << 23);
        return (magnitude * unit).round_ties_even() as u32;
    }
    let bits = magnitude.to_bits();
    let drop = 23 - mantissa;
    let rounded = bits + ((1 << (drop - 1)) - 1) + (bits >> drop & 1);
    (rounded >> drop) - ((127 - bias as u32) << mantissa)
}

/// Nearest OCP E4M3; beyond 448, infinities included, the largest (OCP's saturating conversion).
#[inline]
pub(crate) fn f32_to_e4m3(v: f32) -> u8 {
    saturating(v, 3, 7, 0x7e)
}

/// Nearest OCP E5M2; beyond 57344, infinities included, the largest.
#[inline]
pub(crate) fn f32_to_e5m2(v: f32) -> u8 {
    saturating(v, 2, 15, 0x7b)
}

#[inline]
fn saturating(v: f32, mantissa: u32, bias: i32, largest: u8) -> u8 {
    let sign = (v.to_bits() >> 24 & 0x80) as u8;
    if v.is_nan() {
        sign | 0x7f
    } else if v.is_infinite() {
        sign | largest
    } else {
        sign | round_to_minifloat(v, mantissa, bias).min(largest.into()) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_decodes_to_the_bits_of_the_formats() {
        let mut seed = 1u32;
        for &format in QuantFormat::ALL {
            let blocks = 37;
            let bytes: Vec<u8> = (0..blocks * format.block_bytes())
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            let mut want = vec![0.0; blocks * format.block_len()];
            format.decode(&bytes, &mut want).unwrap();
            let same = |got: &[f32]| {
                let mut pairs = got.iter().zip(&want);
                pairs.all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
            };
            let mut got = vec![0.0; want.len()];
            for level in [Level::Portable, Level::Avx2, Level::Avx512] {
                got.fill(1.0);
                decode_for(NATIVE.masked(level), format, &bytes, &mut got);
                assert!(same(&got), "{} at {level:?}", format.name());
            }
            got.fill(1.0);
            decode(format, &bytes, &mut got);
            assert!(same(&got), "{}", format.name());
        }
    }

    #[test]
    fn every_instruction_set_encodes_to_the_same_bytes() {
        let mut seed = 7u32;
        for &format in QuantFormat::ALL {
            // Those that search take their time, and are not compiled anew.
            let blocks = 3;
            let x: Vec<f32> = (0..blocks * format.block_len())
                .map(|i| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Zeros, ties and a block of zeros among them.
                    let v = (seed >> 20) as f32 / 256.0 - 8.0;
                    if i / format.block_len() == 1 { 0.0 } else { v }
                })
                .collect();
            let mut want = vec![0; blocks * format.block_bytes()];
            format.encode(&x, &mut want).unwrap();
            for level in [Level::Portable, Level::Avx2, Level::Avx512] {
                let mut got = vec![0xaa; want.len()];
                encode_for(NATIVE.masked(level), format, &x, &mut got).unwrap();
                assert_eq!(got, want, "{} at {level:?}", format.name());
            }
            let mut bad = x.clone();
            bad[format.block_len() + 1] = f32::NAN;
            assert_eq!(
                encode(format, &bad, &mut want),
                format.encode(&bad, &mut vec![0; want.len()]),
            );
        }
    }

    #[test]
    fn streamed_bytes_arrive_and_no_others() {
        let from: Vec<u8> = (0..300).map(|i| i as u8 | 1).collect();
        for (start, n) in [
            (0, 0),
            (1, 7),
            (2, 31),
            (3, 64),
            (32, 96),
            (33, 250),
            (40, 256),
        ] {
            let mut to = vec![0u8; 320];
            // SAFETY: the bytes are inside `to`.
            unsafe { stream(&from[..n], to.as_mut_ptr().add(start)) };
            stream_end();
            assert!(to[..start].iter().all(|&b| b == 0));
            assert_eq!(to[start..start + n], from[..n]);
            assert!(to[start + n..].iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn bf16_matches_half() {
        let mut seed = 1u32;
        for i in 0..200_000u32 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let v = f32::from_bits(if i < 1000 {
                i.wrapping_mul(0x0040_0001)
            } else {
                seed
            });
            let want = bf16::from_f32(v);
            assert!(
                bf16_bits(v) == want.to_bits()
                    || v.is_nan() && bf16::from_bits(bf16_bits(v)).is_nan()
            );
        }
    }

    #[test]
    fn minifloats_round_trip_and_round_to_nearest_even() {
        type Case = (&'static [f32; 256], fn(f32) -> u8);
        for (table, encode) in
            [(&E4M3, f32_to_e4m3 as fn(f32) -> u8), (&E5M2, f32_to_e5m2)] as [Case; 2]
        {
            let mut finite: Vec<(f32, u8)> = Vec::new();
            for code in 0..=255u8 {
                let v = table[code as usize];
                if v.is_nan() {
                    assert!(table[encode(v) as usize].is_nan());
                } else if v.is_infinite() {
                    assert_eq!(encode(v), code - 1);
                } else {
                    assert_eq!(encode(v), code, "{v}");
                }
                if v.is_finite() && code < 0x80 {
                    finite.push((v, code));
                }
            }
            for pair in finite.windows(2) {
                let middle = (pair[0].0 + pair[1].0) / 2.0;
                let even = if pair[0].1 % 2 == 0 {
                    pair[0].1
                } else {
                    pair[1].1
                };
                assert_eq!(encode(middle), even, "{middle}");
                assert_eq!(encode(middle.next_down()), pair[0].1);
                assert_eq!(encode(middle.next_up()), pair[1].1);
                assert_eq!(encode(-middle), even | 0x80);
            }
        }
        assert_eq!(e4m3_to_f32(f32_to_e4m3(480.0)), 448.0);
        assert_eq!(e5m2_to_f32(f32_to_e5m2(-1e9)), -57344.0);
    }
}
