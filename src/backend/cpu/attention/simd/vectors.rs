//! AVX-512 vectors taken apart and put together.

use std::arch::x86_64::*;

/// The quarters `FIRST` and `SECOND` of two vectors, added.
#[inline(always)]
pub(super) unsafe fn fold<const FIRST: i32, const SECOND: i32>(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller has the features.
    unsafe {
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<FIRST>(a, b),
            _mm512_shuffle_f32x4::<SECOND>(a, b),
        )
    }
}

/// Quarters of four vectors, transposed as matrices of 4 by 4 and stored to rows `to`.
#[inline(always)]
pub(super) unsafe fn store_turned(x: [__m512; 4], to: [*mut f32; 4]) {
    // SAFETY: 16 floats at each.
    unsafe {
        let low = [
            _mm512_unpacklo_ps(x[0], x[1]),
            _mm512_unpacklo_ps(x[2], x[3]),
        ];
        let high = [
            _mm512_unpackhi_ps(x[0], x[1]),
            _mm512_unpackhi_ps(x[2], x[3]),
        ];
        // The last rows may stand for others, so the first come last.
        _mm512_storeu_ps(to[3], _mm512_shuffle_ps::<0xee>(high[0], high[1]));
        _mm512_storeu_ps(to[2], _mm512_shuffle_ps::<0x44>(high[0], high[1]));
        _mm512_storeu_ps(to[1], _mm512_shuffle_ps::<0xee>(low[0], low[1]));
        _mm512_storeu_ps(to[0], _mm512_shuffle_ps::<0x44>(low[0], low[1]));
    }
}

/// 32 bytes at `a` and 32 at `b`.
#[inline(always)]
pub(super) unsafe fn side_by_side(a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: so many bytes at both.
    unsafe {
        let low = _mm512_castsi256_si512(_mm256_loadu_si256(a.cast()));
        _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(b.cast()))
    }
}

/// The largest of each vector, in all lanes of the quarter of its number.
#[inline(always)]
pub(super) unsafe fn largest(x: [__m512; 4]) -> __m512 {
    // SAFETY: the caller has the features.
    unsafe {
        let ab = _mm512_max_ps(
            _mm512_shuffle_f32x4::<0x88>(x[0], x[1]),
            _mm512_shuffle_f32x4::<0xdd>(x[0], x[1]),
        );
        let cd = _mm512_max_ps(
            _mm512_shuffle_f32x4::<0x88>(x[2], x[3]),
            _mm512_shuffle_f32x4::<0xdd>(x[2], x[3]),
        );
        let all = _mm512_max_ps(
            _mm512_shuffle_f32x4::<0x88>(ab, cd),
            _mm512_shuffle_f32x4::<0xdd>(ab, cd),
        );
        let all = _mm512_max_ps(all, _mm512_permute_ps::<0b10_11_00_01>(all));
        _mm512_max_ps(all, _mm512_permute_ps::<0b01_00_11_10>(all))
    }
}

/// Numbers of 16 bits as two bytes, the high one rounded to nearest: `256 high + low`.
#[inline(always)]
pub(super) unsafe fn halves(x: __m512i) -> [__m512i; 2] {
    // SAFETY: the caller has the features.
    unsafe {
        let high = _mm512_srai_epi16::<8>(_mm512_add_epi16(x, _mm512_set1_epi16(128)));
        [high, _mm512_sub_epi16(x, _mm512_slli_epi16::<8>(high))]
    }
}
