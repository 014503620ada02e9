//! Functions of f32 that compile to vector code, and loops over slices in the best instruction
//! set. Errors are a few units in the last place where no other is named.

use super::isa::{Isa, fma, multiversion};
use crate::op::{Act, BinOp};

/// e^x. Range reduction by ln 2 in two parts, then the Taylor series to the seventh power: its
/// remainder on [-ln 2 / 2, ln 2 / 2] is below 2^-27.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // 2^23 * 1.5: adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 = HI + LO, HI with so few bits that its multiples are exact.
    const HI: f32 = 0.693_359_4;
    const LO: f32 = -2.121_944_4e-4;
    // Beyond these the result is 0 or infinite anyway. A NaN passes.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let t = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = t - ROUND;
    let r = fma::<FMA>(n, -LO, fma::<FMA>(n, -HI, x));
    let mut p = 1.0 / 5040.0;
    p = fma::<FMA>(p, r, 1.0 / 720.0);
    p = fma::<FMA>(p, r, 1.0 / 120.0);
    p = fma::<FMA>(p, r, 1.0 / 24.0);
    p = fma::<FMA>(p, r, 1.0 / 6.0);
    p = fma::<FMA>(p, r, 0.5);
    p = fma::<FMA>(p, r, 1.0);
    p = fma::<FMA>(p, r, 1.0);
    // 2^n in two factors: n reaches from -150 to 128, beyond the exponents of one number.
    let n = (t.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let two_to = |e: i32| f32::from_bits((e.wrapping_add(127) as u32) << 23);
    p * two_to(half) * two_to(n.wrapping_sub(half))
}

/// e^x in f64 to about 1e-10, for x <= 0; 0 below -700.
#[inline(always)]
fn exp64(x: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let x = if x < -700.0 { -700.0 } else { x };
    let t = x * std::f64::consts::LOG2_E + ROUND;
    let r = x - (t - ROUND) * std::f64::consts::LN_2;
    let mut p = 1.0 / 362_880.0;
    for c in [
        1.0 / 40_320.0,
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = p * r + c;
    }
    p * f64::from_bits((t.to_bits().wrapping_add(1023)) << 52)
}

/// Phi(x), the normal distribution, as erfc(-x / sqrt 2) / 2. For z >= 0,
/// erfc(z) = t exp(P(t) - z^2) with t = 2 / (2 + z), P the Chebyshev interpolant of degree 14 of
/// ln(erfc(z) exp(z^2) / t) on [0, 1]: relative error below 1e-9. In f64, since z^2 multiplies
/// the error of z.
#[inline(always)]
fn normal_cdf(x: f32) -> f64 {
    const P: [f64; 15] = [
        -0.671_794_084_160_357_6,
        0.672_643_220_546_005_2,
        0.047_343_320_367_396_705,
        -0.046_895_482_160_921_35,
        -0.009_872_980_459_533_55,
        0.008_823_558_177_115_009,
        0.001_761_339_366_150_208_7,
        -0.002_339_277_722_273_235,
        -0.000_156_134_277_789_104_1,
        0.000_657_953_844_722_707_1,
        -7.119_730_568_790_616e-5,
        -0.000_154_633_787_702_725_5,
        4.179_589_118_945_08e-5,
        2.072_307_012_884_834_7e-5,
        -8.121_253_584_377_596e-6,
    ];
    let z = f64::from(x.abs()) * std::f64::consts::FRAC_1_SQRT_2;
    let t = 2.0 / (2.0 + z);
    let u = 2.0 * t - 1.0;
    let mut p = P[14];
    let mut i = 14;
    while i > 0 {
        i -= 1;
        p = p * u + P[i];
    }
    let tail = 0.5 * t * exp64(p - z * z);
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// tanh x: below 0.625 an odd polynomial (Chebyshev interpolation of tanh x / x), above
/// 1 - 2 / (e^2x + 1).
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let s = x * x;
    let mut p = -0.006_104_948;
    p = fma::<FMA>(p, s, 0.021_003_641);
    p = fma::<FMA>(p, s, -0.053_852_497);
    p = fma::<FMA>(p, s, 0.133_327_82);
    p = fma::<FMA>(p, s, -0.333_333_3);
    let small = fma::<FMA>(p * s, x, x);
    let large = 1.0 - 2.0 / (exp::<FMA>(2.0 * x.abs()) + 1.0);
    // `copysign` keeps the NaN of `large`.
    if x.abs() < 0.625 {
        small
    } else {
        large.copysign(x)
    }
}

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// Where x times a sigmoid has long been -0: -inf times 0 would be no number. A NaN passes.
#[inline(always)]
fn floor(v: f32) -> f32 {
    if v < -500.0 { -500.0 } else { v }
}

#[inline(always)]
fn softplus(x: f32) -> f32 {
    // ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|), which cannot overflow; a NaN passes.
    let top = if x < 0.0 { 0.0 } else { x };
    top + (-x.abs()).exp().ln_1p()
}

#[inline(always)]
fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for v in x {
        *v = f(*v);
    }
}

#[inline(always)]
fn act_body<const FMA: bool>(act: Act, x: &mut [f32]) {
    match act {
        Act::Identity => {}
        Act::Silu => map(x, |v| {
            let v = floor(v);
            v / (1.0 + exp::<FMA>(-v))
        }),
        Act::Gelu => map(x, |v| (f64::from(floor(v)) * normal_cdf(v)) as f32),
        // 0.5 (1 + tanh u) = 1 / (1 + e^-2u), without the cancellation.
        Act::GeluTanh => map(x, |v| {
            const TWICE: f32 = 1.595_769_1;
            let v = floor(v);
            let u = TWICE * fma::<FMA>(0.044_715 * v * v, v, v);
            v / (1.0 + exp::<FMA>(-u))
        }),
        Act::GeluQuick => map(x, |v| {
            let v = floor(v);
            v / (1.0 + exp::<FMA>(-1.702 * v))
        }),
        // A NaN passes all comparisons.
        Act::Relu => map(x, |v| if v < 0.0 { 0.0 } else { v }),
        Act::ReluSquared => map(x, |v| if v < 0.0 { 0.0 } else { v * v }),
        Act::Sigmoid => map(x, sigmoid::<FMA>),
        Act::Tanh => map(x, tanh::<FMA>),
        Act::Softplus => map(x, softplus),
        Act::Exp => map(x, exp::<FMA>),
        Act::Log => map(x, f32::ln),
        Act::Neg => map(x, |v| -v),
        Act::Abs => map(x, f32::abs),
        Act::Square => map(x, |v| v * v),
        Act::Sqrt => map(x, f32::sqrt),
        // -0 counts as 0, which adding 0 makes of it.
        Act::Rsqrt => map(x, |v| 1.0 / (v + 0.0).sqrt()),
        Act::Recip => map(x, |v| 1.0 / (v + 0.0)),
        Act::Sin => map(x, f32::sin),
        Act::Cos => map(x, f32::cos),
    }
}
multiversion! {
    /// x = act(x).
    pub(crate) fn act = act_body(act: Act, x: &mut [f32])
}

#[inline(always)]
fn affine_body<const FMA: bool>(scale: f32, offset: f32, x: &mut [f32]) {
    map(x, |v| fma::<FMA>(v, scale, offset));
}
multiversion! {
    /// x = scale * x + offset.
    pub(crate) fn affine = affine_body(scale: f32, offset: f32, x: &mut [f32])
}

#[inline(always)]
fn zip(a: &mut [f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    for (a, &b) in a.iter_mut().zip(b) {
        *a = f(*a, b);
    }
}

#[inline(always)]
fn binary_body<const FMA: bool>(function: BinOp, a: &mut [f32], b: &[f32]) {
    match function {
        BinOp::Add => zip(a, b, |a, b| a + b),
        BinOp::Sub => zip(a, b, |a, b| a - b),
        BinOp::Mul => zip(a, b, |a, b| a * b),
        BinOp::Div => zip(a, b, |a, b| a / b),
        BinOp::Max => zip(a, b, larger),
        BinOp::Min => zip(a, b, smaller),
    }
}
multiversion! {
    /// a = a op b.
    pub(crate) fn binary = binary_body(function: BinOp, a: &mut [f32], b: &[f32])
}

/// The larger; NaN if either is NaN.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// The smaller; NaN if either is NaN.
#[inline(always)]
pub(crate) fn smaller(a: f32, b: f32) -> f32 {
    if a < b || a.is_nan() { a } else { b }
}

/// Independent partial sums: enough to hide the latency of an addition.
const LANES: usize = 64;
/// Elements per partial sum in f32; longer sums add up in f64.
const RUN: usize = 4096;

#[inline(always)]
fn lanes(x: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    let mut total = 0.0;
    for run in x.chunks(RUN) {
        let mut acc = [0.0f32; LANES];
        let (whole, rest) = run.as_chunks::<LANES>();
        for chunk in whole {
            for (a, &v) in acc.iter_mut().zip(chunk) {
                *a = f(*a, v);
            }
        }
        for (a, &v) in acc.iter_mut().zip(rest) {
            *a = f(*a, v);
        }
        total += acc.iter().map(|&a| f64::from(a)).sum::<f64>();
    }
    total
}

#[inline(always)]
fn sum_body<const FMA: bool>(x: &[f32]) -> f64 {
    lanes(x, |a, v| a + v)
}
multiversion! {
    /// Sum of x.
    pub(crate) fn sum = sum_body(x: &[f32]) -> f64
}

#[inline(always)]
fn sum_squares_body<const FMA: bool>(x: &[f32], mean: f32) -> f64 {
    lanes(x, |a, v| fma::<FMA>(v - mean, v - mean, a))
}
multiversion! {
    /// Sum of (x - mean)^2.
    pub(crate) fn sum_squares = sum_squares_body(x: &[f32], mean: f32) -> f64
}

#[inline(always)]
fn max_body<const FMA: bool>(x: &[f32]) -> f32 {
    let mut acc = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (a, &v) in acc.iter_mut().zip(chunk) {
            *a = if v > *a { v } else { *a };
        }
    }
    for (a, &v) in acc.iter_mut().zip(rest) {
        *a = if v > *a { v } else { *a };
    }
    acc.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v))
}
multiversion! {
    /// The largest; NaNs do not count; -inf for none.
    pub(crate) fn max = max_body(x: &[f32]) -> f32
}

#[inline(always)]
fn exp_sub_body<const FMA: bool>(x: &mut [f32], top: f32) -> f64 {
    map(x, |v| exp::<FMA>(v - top));
    sum_body::<FMA>(x)
}
multiversion! {
    /// x = e^(x - top); returns the sum.
    pub(crate) fn exp_sub = exp_sub_body(x: &mut [f32], top: f32) -> f64
}

#[inline(always)]
fn weigh_body<const FMA: bool>(
    h: &mut [f32],
    mean: f32,
    factor: f32,
    weight: &[f32],
    bias: &[f32],
) {
    match (weight.is_empty(), bias.is_empty()) {
        (true, true) => map(h, |v| (v - mean) * factor),
        (false, true) => zip(h, weight, |v, w| (v - mean) * factor * w),
        (true, false) => zip(h, bias, |v, b| (v - mean) * factor + b),
        (false, false) => {
            for ((v, &w), &b) in h.iter_mut().zip(weight).zip(bias) {
                *v = fma::<FMA>((*v - mean) * factor, w, b);
            }
        }
    }
}
multiversion! {
    /// h = (h - mean) * factor * weight + bias; an empty weight or bias is none.
    pub(crate) fn weigh = weigh_body(h: &mut [f32], mean: f32, factor: f32, weight: &[f32], bias: &[f32])
}

#[inline(always)]
fn sin_cos_body<const FMA: bool>(angles: &[f64], sin: &mut [f32], cos: &mut [f32]) {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // pi / 2 = HI + LO, HI with 33 bits: its multiples up to 2^20 are exact.
    const HI: f64 = 1.570_796_326_734_125_6;
    const LO: f64 = 6.077_100_506_506_192e-11;
    for ((&a, s), c) in angles.iter().zip(sin).zip(cos) {
        let t = a * std::f64::consts::FRAC_2_PI + ROUND;
        let n = t - ROUND;
        let r = (a - n * HI) - n * LO;
        let q = t.to_bits();
        // Taylor series: the remainders on [-pi / 4, pi / 4] are below 1e-9.
        let z = r * r;
        let sine = r
            * (1.0
                + z * (-1.0 / 6.0
                    + z * (1.0 / 120.0 + z * (-1.0 / 5040.0 + z * (1.0 / 362_880.0)))));
        let cosine = 1.0
            + z * (-0.5
                + z * (1.0 / 24.0
                    + z * (-1.0 / 720.0 + z * (1.0 / 40_320.0 + z * (-1.0 / 3_628_800.0)))));
        let (x, y) = if q & 1 == 0 {
            (sine, cosine)
        } else {
            (cosine, -sine)
        };
        let sign = if q & 2 == 0 { 1.0 } else { -1.0 };
        *s = (sign * x) as f32;
        *c = (sign * y) as f32;
    }
}
multiversion! {
    /// Sines and cosines of angles below 10^9 in size, to about 1e-9 plus the rounding to f32.
    pub(crate) fn sin_cos = sin_cos_body(angles: &[f64], sin: &mut [f32], cos: &mut [f32])
}

/// x = act(scale * x + offset), skipping what does nothing.
pub(crate) fn act_affine(isa: Isa, scale: f32, offset: f32, function: Act, x: &mut [f32]) {
    if scale != 1.0 || offset != 0.0 {
        affine(isa, scale, offset, x);
    }
    act(isa, function, x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::isa::Level;

    fn isas() -> [Isa; 3] {
        let all = Isa::detect();
        [all, all.masked(Level::Avx2), all.masked(Level::Portable)]
    }

    fn ulps(got: f32, want: f64) -> f64 {
        let near = want as f32;
        if got == near || got.is_nan() && want.is_nan() {
            return 0.0;
        }
        let ulp = f64::from(near.abs().next_up() - near.abs()).max(1e-45);
        (f64::from(got) - want).abs() / ulp
    }

    fn check(function: Act, want: impl Fn(f64) -> f64, range: f32, bound: f64) {
        for isa in isas() {
            let x: Vec<f32> = (-20_000..=20_000)
                .map(|i| i as f32 * (range / 20_000.0))
                .chain([f32::NAN, 0.0, -0.0, 1e-30, -1e-30])
                .collect();
            let mut y = x.clone();
            act(isa, function, &mut y);
            for (&x, &y) in x.iter().zip(&y) {
                let e = ulps(y, want(f64::from(x)));
                assert!(e <= bound, "{function:?}({x}) = {y}, {e} ulp, {isa:?}");
            }
        }
    }

    #[test]
    fn functions_are_accurate() {
        check(Act::Exp, f64::exp, 110.0, 2.0);
        check(Act::Tanh, f64::tanh, 12.0, 2.5);
        check(Act::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 80.0, 3.0);
        check(Act::Silu, |x| x / (1.0 + (-x).exp()), 80.0, 4.0);
        check(
            Act::Softplus,
            |x| x.max(0.0) + (-x.abs()).exp().ln_1p(),
            80.0,
            2.0,
        );
        // By parts: erfc has no counterpart in std; its series suffices for small arguments.
        let phi = |x: f64| {
            let z = x / 2f64.sqrt();
            let (mut term, mut sum) = (z, z);
            for n in 1..120 {
                term *= -z * z / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            0.5 + sum / std::f64::consts::PI.sqrt()
        };
        check(Act::Gelu, |x| x * phi(x), 3.0, 1.0);
    }

    #[test]
    fn infinities() {
        for isa in isas() {
            let mut x = [f32::INFINITY, f32::NEG_INFINITY];
            act(isa, Act::Exp, &mut x);
            assert_eq!(x, [f32::INFINITY, 0.0]);
            let mut x = [f32::INFINITY, f32::NEG_INFINITY];
            act(isa, Act::Tanh, &mut x);
            assert_eq!(x, [1.0, -1.0]);
            for function in [Act::Silu, Act::Gelu, Act::GeluTanh, Act::GeluQuick] {
                let mut x = [f32::INFINITY, f32::NEG_INFINITY, f32::MIN, 30.0, f32::NAN];
                act(isa, function, &mut x);
                assert_eq!(x[..4], [f32::INFINITY, 0.0, 0.0, 30.0], "{function:?}");
                assert!(x[4].is_nan());
            }
            let mut a = [f32::NAN, 1.0, 1.0, 2.0];
            binary(isa, BinOp::Max, &mut a, &[1.0, f32::NAN, 3.0, 1.0]);
            assert!(a[0].is_nan() && a[1].is_nan() && a[2..] == [3.0, 2.0]);
        }
    }

    #[test]
    fn sines() {
        for isa in isas() {
            let angles: Vec<f64> = (0..20_000)
                .map(|i| f64::from(i) * 61.7 - 300_000.0)
                .collect();
            let (mut s, mut c) = (vec![0.0; angles.len()], vec![0.0; angles.len()]);
            sin_cos(isa, &angles, &mut s, &mut c);
            for (i, a) in angles.iter().enumerate() {
                assert!((f64::from(s[i]) - a.sin()).abs() < 1e-7, "{a}");
                assert!((f64::from(c[i]) - a.cos()).abs() < 1e-7, "{a}");
            }
        }
    }

    #[test]
    fn sums() {
        for isa in isas() {
            for n in [0usize, 1, 63, 64, 65, 5000] {
                let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.25).collect();
                assert_eq!(sum(isa, &x), (0..n).map(|i| i as f64 * 0.25).sum::<f64>());
                assert_eq!(
                    max(isa, &x),
                    if n == 0 {
                        f32::NEG_INFINITY
                    } else {
                        (n - 1) as f32 * 0.25
                    }
                );
            }
        }
    }
}
