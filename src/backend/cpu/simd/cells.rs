//! Eight cells of 32 bits in registers: how weights are rearranged, on every architecture.
//!
//! # Safety
//! The functions need AVX2, FMA and F16C on x86-64, NEON on AArch64, and pointers that are valid
//! for 32 bytes or for what the name says. No pointer needs alignment.

pub(crate) use arch::*;

/// Asks for the cache line at `p`, which may be anywhere: into the first level of cache when
/// `near`, else into the second.
#[inline(always)]
pub(crate) fn prefetch(p: *const u8, near: bool) {
    // SAFETY: prefetching reads nothing, whatever the address.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::*;
            if near {
                _mm_prefetch::<_MM_HINT_T0>(p.cast());
            } else {
                _mm_prefetch::<_MM_HINT_T1>(p.cast());
            }
        }
        // The intrinsic is not stable.
        #[cfg(target_arch = "aarch64")]
        if near {
            std::arch::asm!("prfm pldl1keep, [{p}]", p = in(reg) p,
                options(nomem, nostack, preserves_flags));
        } else {
            std::arch::asm!("prfm pldl2keep, [{p}]", p = in(reg) p,
                options(nomem, nostack, preserves_flags));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use std::arch::x86_64::*;

    pub(crate) type Cells = __m256i;

    #[inline(always)]
    pub(crate) unsafe fn zero() -> Cells {
        // SAFETY: see the module.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    pub(crate) unsafe fn load(p: *const u8) -> Cells {
        // SAFETY: see the module.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    /// 16 bytes and zeros.
    #[inline(always)]
    pub(crate) unsafe fn load_half(p: *const u8) -> Cells {
        // SAFETY: see the module.
        unsafe { _mm256_zextsi128_si256(_mm_loadu_si128(p.cast())) }
    }
    /// 8 bytes and zeros.
    #[inline(always)]
    pub(crate) unsafe fn load_quarter(p: *const u8) -> Cells {
        // SAFETY: see the module.
        unsafe { _mm256_zextsi128_si256(_mm_loadl_epi64(p.cast())) }
    }
    #[inline(always)]
    pub(crate) unsafe fn store(p: *mut u32, v: Cells) {
        // SAFETY: see the module.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    pub(crate) unsafe fn of_f32(v: __m256) -> Cells {
        // SAFETY: see the module.
        unsafe { _mm256_castps_si256(v) }
    }
    #[inline(always)]
    pub(crate) unsafe fn to_f32(v: Cells) -> __m256 {
        // SAFETY: see the module.
        unsafe { _mm256_castsi256_ps(v) }
    }
    #[inline(always)]
    pub(crate) unsafe fn or(a: Cells, b: Cells) -> Cells {
        // SAFETY: see the module.
        unsafe { _mm256_or_si256(a, b) }
    }
    /// `v << bits` per cell.
    #[inline(always)]
    pub(crate) unsafe fn shl(v: Cells, bits: u32) -> Cells {
        // SAFETY: see the module.
        unsafe { _mm256_sll_epi32(v, _mm_cvtsi32_si128(bits as i32)) }
    }
    /// The first eight bytes, one in each cell.
    #[cfg(test)]
    #[inline(always)]
    pub(crate) unsafe fn from_u8(v: Cells) -> Cells {
        // SAFETY: see the module.
        unsafe { _mm256_cvtepu8_epi32(_mm256_castsi256_si128(v)) }
    }
    /// The first eight halfwords, one in each cell.
    #[inline(always)]
    pub(crate) unsafe fn from_u16(v: Cells) -> Cells {
        // SAFETY: see the module.
        unsafe { _mm256_cvtepu16_epi32(_mm256_castsi256_si128(v)) }
    }

    /// Rows become columns.
    #[inline(always)]
    pub(crate) unsafe fn transpose8(r: [Cells; 8]) -> [Cells; 8] {
        // SAFETY: see the module.
        unsafe {
            let mut t = r;
            for i in 0..4 {
                t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
            }
            let mut u = t;
            for i in 0..2 {
                u[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
                u[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
                u[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
                u[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
            }
            let mut v = u;
            for i in 0..4 {
                v[i] = _mm256_permute2x128_si256::<0x20>(u[i], u[i + 4]);
                v[i + 4] = _mm256_permute2x128_si256::<0x31>(u[i], u[i + 4]);
            }
            v
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    use std::arch::aarch64::*;

    pub(crate) type Cells = [uint32x4_t; 2];

    #[inline(always)]
    pub(crate) unsafe fn zero() -> Cells {
        // SAFETY: see the module.
        unsafe { [vdupq_n_u32(0); 2] }
    }
    #[inline(always)]
    pub(crate) unsafe fn load(p: *const u8) -> Cells {
        // SAFETY: see the module.
        unsafe {
            [
                vreinterpretq_u32_u8(vld1q_u8(p)),
                vreinterpretq_u32_u8(vld1q_u8(p.add(16))),
            ]
        }
    }
    /// 16 bytes and zeros.
    #[inline(always)]
    pub(crate) unsafe fn load_half(p: *const u8) -> Cells {
        // SAFETY: see the module.
        unsafe { [vreinterpretq_u32_u8(vld1q_u8(p)), vdupq_n_u32(0)] }
    }
    /// 8 bytes and zeros.
    #[inline(always)]
    pub(crate) unsafe fn load_quarter(p: *const u8) -> Cells {
        // SAFETY: see the module.
        unsafe {
            let v = vcombine_u8(vld1_u8(p), vdup_n_u8(0));
            [vreinterpretq_u32_u8(v), vdupq_n_u32(0)]
        }
    }
    #[inline(always)]
    pub(crate) unsafe fn store(p: *mut u32, v: Cells) {
        // SAFETY: see the module.
        unsafe {
            vst1q_u32(p, v[0]);
            vst1q_u32(p.add(4), v[1]);
        }
    }
    #[inline(always)]
    pub(crate) unsafe fn of_f32(v: [float32x4_t; 2]) -> Cells {
        // SAFETY: see the module.
        unsafe { [vreinterpretq_u32_f32(v[0]), vreinterpretq_u32_f32(v[1])] }
    }
    #[inline(always)]
    pub(crate) unsafe fn to_f32(v: Cells) -> [float32x4_t; 2] {
        // SAFETY: see the module.
        unsafe { [vreinterpretq_f32_u32(v[0]), vreinterpretq_f32_u32(v[1])] }
    }
    /// The f16 at `p`. Its type is not stable, the instruction is plain NEON.
    #[inline(always)]
    pub(crate) unsafe fn f16_at(p: *const u8) -> f32 {
        let x: f32;
        // SAFETY: see the module.
        unsafe {
            std::arch::asm!(
                "ldr {o:h}, [{p}]",
                "fcvt {o:s}, {o:h}",
                o = out(vreg) x, p = in(reg) p,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        x
    }
    #[inline(always)]
    pub(crate) unsafe fn or(a: Cells, b: Cells) -> Cells {
        // SAFETY: see the module.
        unsafe { [vorrq_u32(a[0], b[0]), vorrq_u32(a[1], b[1])] }
    }
    /// `v << bits` per cell.
    #[inline(always)]
    pub(crate) unsafe fn shl(v: Cells, bits: u32) -> Cells {
        // SAFETY: see the module.
        unsafe {
            let bits = vdupq_n_s32(bits as i32);
            [vshlq_u32(v[0], bits), vshlq_u32(v[1], bits)]
        }
    }
    /// The first eight bytes, one in each cell.
    #[inline(always)]
    pub(crate) unsafe fn from_u8(v: Cells) -> Cells {
        // SAFETY: see the module.
        unsafe {
            let h = vmovl_u8(vget_low_u8(vreinterpretq_u8_u32(v[0])));
            [vmovl_u16(vget_low_u16(h)), vmovl_high_u16(h)]
        }
    }
    /// The first eight halfwords, one in each cell.
    #[inline(always)]
    pub(crate) unsafe fn from_u16(v: Cells) -> Cells {
        // SAFETY: see the module.
        unsafe {
            let h = vreinterpretq_u16_u32(v[0]);
            [vmovl_u16(vget_low_u16(h)), vmovl_high_u16(h)]
        }
    }

    /// Rows of four become columns.
    #[inline(always)]
    unsafe fn transpose4(r: [uint32x4_t; 4]) -> [uint32x4_t; 4] {
        // SAFETY: see the module.
        unsafe {
            let a = vreinterpretq_u64_u32(vtrn1q_u32(r[0], r[1]));
            let b = vreinterpretq_u64_u32(vtrn2q_u32(r[0], r[1]));
            let c = vreinterpretq_u64_u32(vtrn1q_u32(r[2], r[3]));
            let d = vreinterpretq_u64_u32(vtrn2q_u32(r[2], r[3]));
            [
                vreinterpretq_u32_u64(vtrn1q_u64(a, c)),
                vreinterpretq_u32_u64(vtrn1q_u64(b, d)),
                vreinterpretq_u32_u64(vtrn2q_u64(a, c)),
                vreinterpretq_u32_u64(vtrn2q_u64(b, d)),
            ]
        }
    }

    /// Rows become columns.
    #[inline(always)]
    pub(crate) unsafe fn transpose8(r: [Cells; 8]) -> [Cells; 8] {
        // SAFETY: see the module.
        unsafe {
            let a = transpose4([r[0][0], r[1][0], r[2][0], r[3][0]]);
            let b = transpose4([r[4][0], r[5][0], r[6][0], r[7][0]]);
            let c = transpose4([r[0][1], r[1][1], r[2][1], r[3][1]]);
            let d = transpose4([r[4][1], r[5][1], r[6][1], r[7][1]]);
            [
                [a[0], b[0]],
                [a[1], b[1]],
                [a[2], b[2]],
                [a[3], b[3]],
                [c[0], d[0]],
                [c[1], d[1]],
                [c[2], d[2]],
                [c[3], d[3]],
            ]
        }
    }
}
