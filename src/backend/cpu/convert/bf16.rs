//! bf16 to and from f32.

use crate::backend::cpu::isa::{Isa, multiversion};

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
fn round_body<const FMA: bool>(x: &[f32], out: &mut [u16]) {
    for (o, &v) in out.iter_mut().zip(x) {
        *o = bf16_bits(v);
    }
}
multiversion! {
    /// As [`f32_to_bf16`], in integers.
    fn round = round_body(x: &[f32], out: &mut [u16])
}

/// f32 to bits of bf16, to nearest even.
pub(crate) fn f32_to_bf16(isa: Isa, x: &[f32], out: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if isa.avx512_bf16 {
        // SAFETY: the flag says that this machine has these instruction sets.
        return unsafe { by_instruction::<false>(x, out) };
    }
    round(isa, x, out);
}

/// As [`f32_to_bf16`], past the caches where the processor and the place of `out` allow it.
pub(super) fn f32_to_bf16_streamed(isa: Isa, x: &[f32], out: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if isa.avx512_bf16 && out.as_ptr().addr().is_multiple_of(64) {
        // SAFETY: the flag says that this machine has these instruction sets.
        return unsafe { by_instruction::<true>(x, out) };
    }
    f32_to_bf16(isa, x, out);
}

/// As [`f32_to_bf16`], by the instruction for it, which takes subnormal numbers for zero: those go
/// another way. `FAR`: past the caches; `out` starts a cache line.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
fn by_instruction<const FAR: bool>(x: &[f32], out: &mut [u16]) {
    use std::arch::x86_64::*;
    const SUBNORMAL: i32 = 0x20;
    let (some, last) = x.as_chunks::<32>();
    let (out, last_out) = out.split_at_mut(32 * some.len());
    for (x, out) in some.iter().zip(out.as_chunks_mut::<32>().0) {
        // SAFETY: 32 numbers of each.
        unsafe {
            let a = _mm512_loadu_ps(x.as_ptr());
            let b = _mm512_loadu_ps(x[16..].as_ptr());
            let small =
                _mm512_fpclass_ps_mask::<SUBNORMAL>(a) | _mm512_fpclass_ps_mask::<SUBNORMAL>(b);
            if small == 0 {
                let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
                let to = out.as_mut_ptr().cast();
                if FAR {
                    _mm512_stream_si512(to, both);
                } else {
                    _mm512_storeu_si512(to, both);
                }
                continue;
            }
        }
        round_body::<true>(x, out);
    }
    round_body::<true>(last, last_out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

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
            let mut all = [0; 67];
            f32_to_bf16(Isa::detect(), &[v; 67], &mut all);
            assert_eq!(all, [bf16_bits(v); 67], "{v:e}");
            assert!(
                bf16_bits(v) == want.to_bits()
                    || v.is_nan() && bf16::from_bits(bf16_bits(v)).is_nan()
            );
        }
    }
}
