//! Rows of numbers to and from f32.

mod bf16;
mod blocks;
#[cfg(target_arch = "x86_64")]
mod by_parts;
mod mini;

use super::isa::Isa;
use crate::element::DType;
use bf16::{bf16_bits, bf16_to_f32, f32_to_bf16, f32_to_bf16_streamed};
use half::{f16, slice::HalfFloatSliceExt};
use mini::{e4m3_to_f32, e5m2_to_f32, f32_to_e4m3, f32_to_e5m2};
use std::sync::LazyLock;

/// The conversions are exact or correctly rounded, so that every instruction set gives the same
/// bits: they use all of this machine, whatever the ceiling for kernels is.
static NATIVE: LazyLock<Isa> = LazyLock::new(Isa::detect);

pub(crate) use blocks::{decode, decode_far, encode};

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
            DType::BF16 => each!(half::bf16, half::bf16::to_f32),
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

/// Stores `values` to contiguous cells of type `d` that are not read soon, past the caches where
/// the processor can.
///
/// # Safety
/// As [`store`]; [`stream_end`] comes before anybody reads them.
pub(crate) unsafe fn store_far(d: DType, to: *mut u8, values: &[f32]) {
    let n = values.len();
    // SAFETY: the caller's.
    unsafe {
        match d {
            DType::F32 => stream(bytemuck::cast_slice(values), to),
            DType::BF16 => {
                let out = std::slice::from_raw_parts_mut(to.cast::<u16>(), n);
                f32_to_bf16_streamed(*NATIVE, values, out);
            }
            _ => store(d, to, d.size(), values),
        }
    }
}

/// Copies to memory that is not read soon, past the caches where the processor can.
///
/// # Safety
/// The `bytes.len()` bytes at `to` are writable, aligned to 2 bytes, and nobody else touches them.
unsafe fn stream(bytes: &[u8], to: *mut u8) {
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

/// Makes what [`store_far`] wrote visible before what follows.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
