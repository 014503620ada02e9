//! Elementary functions over vectors.

use super::Simd;
use crate::op::Act;

/// e^x within 1 ulp or so; 0 at -inf, inf at +inf, NaN at NaN, subnormal results kept.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // Coefficients: Taylor of e^r on |r| <= ln 2 / 2 to degree 7, whose remainder is below 2^-27.
    const C: [f32; 8] = [
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    // ln 2 in two parts; the first has trailing zeros, so that n * LN2_HI is exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        let x = S::max(S::splat(-104.5), S::min(S::splat(89.0), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-LN2_HI), x);
        let r = S::fma(n, S::splat(-LN2_LO), r);
        let mut p = S::splat(C[0]);
        let mut i = 1;
        while i < C.len() {
            p = S::fma(p, r, S::splat(C[i]));
            i += 1;
        }
        S::scale2(p, n)
    }
}

/// 1 / (1 + e^-x).
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        let e = exp::<S>(S::sub(S::zero(), x));
        S::div(S::splat(1.0), S::add(S::splat(1.0), e))
    }
}

/// tanh x = 2 sigmoid(2 x) - 1: absolute error of an ulp of 1.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        let s = sigmoid::<S>(S::add(x, x));
        S::fma(s, S::splat(2.0), S::splat(-1.0))
    }
}

/// True when [`act`] computes the function.
pub(crate) fn has_act(f: Act) -> bool {
    matches!(
        f,
        Act::Identity
            | Act::Silu
            | Act::GeluTanh
            | Act::GeluQuick
            | Act::Relu
            | Act::ReluSquared
            | Act::Sigmoid
    )
}

/// The activation, one of those that [`has_act`] names; any other is left out.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(crate) unsafe fn act<S: Simd>(f: Act, x: S::F) -> S::F {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match f {
            Act::Silu => S::mul(x, sigmoid::<S>(x)),
            Act::GeluQuick => S::mul(x, sigmoid::<S>(S::mul(x, S::splat(1.702)))),
            Act::GeluTanh => {
                // 0.5 x (1 + tanh u) = x sigmoid(2 u)
                let x2 = S::mul(x, x);
                let c = S::splat(2.0 * 0.797_884_6);
                let inner = S::fma(x2, S::splat(0.044_715), S::splat(1.0));
                S::mul(x, sigmoid::<S>(S::mul(c, S::mul(x, inner))))
            }
            // max(0, NaN) must stay NaN: the second operand wins.
            Act::Relu => S::max(S::zero(), x),
            Act::ReluSquared => {
                let r = S::max(S::zero(), x);
                S::mul(r, r)
            }
            Act::Sigmoid => sigmoid::<S>(x),
            _ => x,
        }
    }
}
