//! Least-squares searches behind the encoders of formats without a closed-form encoding.
//!
//! All minimize the plain sum of squared errors of a block, measured with the values that the
//! decoder gives. A search has two stages: each group gets the real-valued scale (and minimum)
//! that suits it best; then the f16 super-scales, the integer scales of the groups and the codes
//! are adjusted to each other in turn, from several starting points.

use half::f16;

use super::bits::{max_by_abs, min_max, within_reach};

/// `v` rounded to the nearest integer of `lo..=hi`; NaN gives `lo`.
#[inline(always)]
fn round_within(v: f32, lo: f32, hi: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 drops the fraction; unlike `round`, it vectorizes
    // everywhere.
    const MAGIC: f32 = 12_582_912.0;
    (v.max(lo).min(hi) + MAGIC) - MAGIC
}

/// `v` rounded to f16, if that is finite.
fn to_f16(v: f32) -> Option<f32> {
    let v = f16::from_f32(v).to_f32();
    v.is_finite().then_some(v)
}

/// `a / b`, or 0 where that is not finite.
fn ratio(a: f32, b: f32) -> f32 {
    let r = a / b;
    if r.is_finite() { r } else { 0.0 }
}

/// The integers that the codes of a format stand for, before scaling.
pub(crate) trait Levels {
    const LOW: f32;
    const HIGH: f32;
    /// How far beyond and short of its end of the levels the largest element is tried,
    /// relative to that level.
    const SPAN: f32;
    /// The level nearest to `t`.
    fn nearest(t: f32) -> f32;
}

/// The levels `LOW..=HIGH`.
pub(crate) struct Uniform<const LOW: i8, const HIGH: i8>;

impl<const LOW: i8, const HIGH: i8> Levels for Uniform<LOW, HIGH> {
    const LOW: f32 = LOW as f32;
    const HIGH: f32 = HIGH as f32;
    const SPAN: f32 = if HIGH < 8 { 0.4 } else { 0.05 };

    #[inline(always)]
    fn nearest(t: f32) -> f32 {
        round_within(t, Self::LOW, Self::HIGH)
    }
}

/// Start scales per end of the levels: the largest element is put at `end * (1 +- SPAN)`.
const STARTS: i32 = 8;

/// 0, -1, 1, -2, 2, ... up to `n`. Of equal fits the first is kept, and the unshifted one has the
/// roundest scale: a constant block is often exact with it.
fn outward(n: i32) -> impl Iterator<Item = i32> {
    (0..=2 * n).map(|i| if i % 2 == 0 { i / 2 } else { -(i / 2) - 1 })
}

/// Calls `f` with each inverse scale to start from.
fn each_inverse_scale<L: Levels>(x: &[f32], mut f: impl FnMut(f32)) {
    let top = max_by_abs(x);
    for end in [L::LOW, L::HIGH] {
        for i in outward(STARTS) {
            let inverse = end * (1.0 + L::SPAN * i as f32 / STARTS as f32) / top;
            if inverse.is_finite() {
                f(inverse);
            }
        }
    }
}

/// Sums of the `K` terms that `f` makes of each element, in eight lanes so that it vectorizes.
/// The length of `x` is a multiple of 8.
#[inline(always)]
fn sums<const K: usize>(x: &[f32], f: impl Fn(f32) -> [f32; K]) -> [f32; K] {
    let mut lanes = [[0.0f32; 8]; K];
    for chunk in x.as_chunks::<8>().0 {
        for (j, &v) in chunk.iter().enumerate() {
            for (lanes, term) in lanes.iter_mut().zip(f(v)) {
                lanes[j] += term;
            }
        }
    }
    lanes.map(|l| l.iter().sum())
}

/// `sum(x * level)` and `sum(level^2)` of the levels nearest to `x * inverse`.
#[inline(always)]
fn moments<L: Levels>(x: &[f32], inverse: f32) -> [f32; 2] {
    sums(x, |v| {
        let l = L::nearest(v * inverse);
        [v * l, l * l]
    })
}

/// Squared error of `scale * level`.
#[inline(always)]
fn scaled_error<L: Levels>(x: &[f32], scale: f32) -> f32 {
    let inverse = ratio(1.0, scale);
    let [error] = sums(x, |v| {
        let e = v - scale * L::nearest(v * inverse);
        [e * e]
    });
    error
}

/// Writes the levels nearest to `x / scale`.
fn assign<L: Levels>(x: &[f32], scale: f32, levels: &mut [f32]) {
    let inverse = ratio(1.0, scale);
    for (l, v) in levels.iter_mut().zip(x) {
        *l = L::nearest(v * inverse);
    }
}

/// The real-valued scale of least error.
fn best_scale<L: Levels>(x: &[f32]) -> f32 {
    let mut best = (0.0, 0.0);
    each_inverse_scale::<L>(x, |inverse| {
        let [xl, ll] = moments::<L>(x, inverse);
        // The error is sum(x^2) less this gain.
        let gain = ratio(xl * xl, ll);
        if gain > best.0 {
            best = (gain, xl / ll);
        }
    });
    best.1
}

/// One f16 scale for a block of `N`: the scale and the levels.
///
/// `None` if the values are beyond the range of an f16 scale.
pub(crate) fn one_scale<L: Levels, const N: usize>(x: &[f32; N]) -> Option<(f32, [f32; N])> {
    within_reach(x)?;
    let mut best = (scaled_error::<L>(x, 0.0), 0.0);
    // Below the range of f16 the zero block is right, and has no start scales to confirm it.
    let mut fits = max_by_abs(x).abs() < 1e-9;
    each_inverse_scale::<L>(x, |inverse| {
        let [xl, ll] = moments::<L>(x, inverse);
        let Some(scale) = to_f16(xl / ll) else { return };
        let error = scaled_error::<L>(x, scale);
        fits |= error.is_finite();
        if error < best.0 {
            best = (error, scale);
        }
    });
    let mut levels = [0.0; N];
    assign::<L>(x, best.1, &mut levels);
    fits.then_some((best.1, levels))
}

/// A super-block of 256 with signed integer scales per group.
pub(crate) struct Symmetric {
    pub(crate) d: f32,
    /// Scale of each group; the first `256 / GROUP` are used.
    pub(crate) scales: [i8; 16],
    pub(crate) levels: [f32; 256],
}

/// Element = `d * scale * level` with a scale in `low..=high` per `GROUP` elements.
///
/// `None` if the values are beyond the range of an f16 `d`.
pub(crate) fn symmetric<L: Levels, const GROUP: usize>(
    x: &[f32; 256],
    low: i8,
    high: i8,
) -> Option<Symmetric> {
    within_reach(x)?;
    let (groups, _) = x.as_chunks::<GROUP>();
    let mut ideal = [0.0; 16];
    for (s, x) in ideal.iter_mut().zip(groups) {
        *s = best_scale::<L>(x);
    }
    let top = max_by_abs(&ideal);
    let (low, high) = (f32::from(low), f32::from(high));

    let mut best: Option<(f32, Symmetric)> = None;
    for end in [low, high] {
        for short in 0..4 {
            let mut start = ratio(top, end * (1.0 - short as f32 / 40.0));
            // Scales for this `d`, then the best `d` for them, until that gains nothing.
            let mut last = f32::INFINITY;
            while let Some(d) = to_f16(start) {
                let mut fit = Symmetric {
                    d,
                    scales: [0; 16],
                    levels: [0.0; 256],
                };
                let mut error = 0.0;
                let (mut xu, mut uu) = (0.0, 0.0);
                let (levels, _) = fit.levels.as_chunks_mut::<GROUP>();
                for (g, (x, levels)) in groups.iter().zip(levels).enumerate() {
                    let near = round_within(ratio(ideal[g], d), low, high);
                    let mut choice = (f32::INFINITY, 0.0);
                    for sc in [near, near - 1.0, near + 1.0] {
                        if sc >= low && sc <= high {
                            let e = scaled_error::<L>(x, d * sc);
                            if e < choice.0 {
                                choice = (e, sc);
                            }
                        }
                    }
                    error += choice.0;
                    fit.scales[g] = choice.1 as i8;
                    assign::<L>(x, d * choice.1, levels);
                    for (&v, &l) in x.iter().zip(levels.iter()) {
                        let u = choice.1 * l;
                        xu += v * u;
                        uu += u * u;
                    }
                }
                let gained = error < last;
                last = error;
                if best.as_ref().is_none_or(|b| error < b.0) && error.is_finite() {
                    best = Some((error, fit));
                }
                if !gained {
                    break;
                }
                start = ratio(xu, uu);
            }
        }
    }
    best.map(|b| b.1)
}

/// A super-block of 256 with an integer scale and minimum per group.
pub(crate) struct Affine {
    pub(crate) d: f32,
    pub(crate) dmin: f32,
    /// Scale and minimum of each group; the first `256 / GROUP` are used.
    pub(crate) scales: [(u8, u8); 16],
    pub(crate) codes: [u8; 256],
}

/// The real-valued `(scale, minimum)` of least error for `x = scale * q - minimum` with `q` in
/// `0..=top`. The scale is not negative; the minimum is not positive for `all_positive` data,
/// and not negative for other.
fn best_affine(x: &[f32], top: f32, all_positive: bool) -> (f32, f32) {
    let (low, high) = min_max(x);
    let low = if all_positive { low } else { low.min(0.0) };
    let range = high - low;
    if range <= 0.0 {
        return (0.0, -low);
    }
    let n = x.len() as f32;
    let [sum] = sums(x, |v| [v]);
    let step = if top < 8.0 { 0.1 } else { 0.15 };
    let mut best = (f32::INFINITY, 0.0, 0.0);
    for i in outward(10) {
        let inverse = (top + step * i as f32) / range;
        let [q1, q2, xq] = sums(x, |v| {
            let q = round_within((v - low) * inverse, 0.0, top);
            [q, q * q, v * q]
        });
        let mut scale = ratio(n * xq - sum * q1, n * q2 - q1 * q1);
        let mut min = ratio(scale * q1 - sum, n);
        if (min > 0.0) == all_positive || scale <= 0.0 {
            (scale, min) = (ratio(xq, q2).max(0.0), 0.0);
        }
        let error = affine_error(x, scale, min, top);
        if error < best.0 {
            best = (error, scale, min);
        }
    }
    (best.1, best.2)
}

/// Squared error of `scale * q - min`.
#[inline(always)]
fn affine_error(x: &[f32], scale: f32, min: f32, top: f32) -> f32 {
    let inverse = ratio(1.0, scale);
    let [error] = sums(x, |v| {
        let e = v - (scale * round_within((v + min) * inverse, 0.0, top) - min);
        [e * e]
    });
    error
}

/// Element = `d * scale * q - dmin * minimum` with `q` in `0..=top`, scale and minimum in
/// `0..=max` per `GROUP` elements. `dmin` is negative where all of `x` is positive: that spends
/// no codes between 0 and the least element.
///
/// `None` if the values are beyond the range of the f16 fields.
pub(crate) fn affine<const GROUP: usize>(x: &[f32; 256], top: u8, max: u8) -> Option<Affine> {
    within_reach(x)?;
    let (groups, _) = x.as_chunks::<GROUP>();
    let (top, max) = (f32::from(top), f32::from(max));
    let all_positive = x.iter().all(|v| *v > 0.0);
    let mut ideal = [(0.0, 0.0); 16];
    for (s, x) in ideal.iter_mut().zip(groups) {
        *s = best_affine(x, top, all_positive);
    }
    let scale = max_by_abs(&ideal.map(|s| s.0));
    let min = max_by_abs(&ideal.map(|s| s.1));

    let mut best: Option<(f32, Affine)> = None;
    for short in 0..4 {
        let end = max * (1.0 - short as f32 / 40.0);
        let mut start = (scale / end, min / end);
        let mut last = f32::INFINITY;
        while let (Some(d), Some(dmin)) = (to_f16(start.0), to_f16(start.1)) {
            let mut fit = Affine {
                d,
                dmin,
                scales: [(0, 0); 16],
                codes: [0; 256],
            };
            let mut error = 0.0;
            let mut normal = Normal::default();
            let (codes, _) = fit.codes.as_chunks_mut::<GROUP>();
            for (g, (x, codes)) in groups.iter().zip(codes).enumerate() {
                let sc0 = round_within(ratio(ideal[g].0, d), 0.0, max);
                let mn0 = round_within(ratio(ideal[g].1, dmin), 0.0, max);
                let mut choice = (f32::INFINITY, 0.0, 0.0);
                for sc in [sc0, sc0 - 1.0, sc0 + 1.0] {
                    for mn in [mn0, mn0 - 1.0, mn0 + 1.0] {
                        if sc.min(mn) >= 0.0 && sc.max(mn) <= max {
                            let e = affine_error(x, d * sc, dmin * mn, top);
                            if e < choice.0 {
                                choice = (e, sc, mn);
                            }
                        }
                    }
                }
                let (e, sc, mn) = choice;
                error += e;
                fit.scales[g] = (sc as u8, mn as u8);
                let inverse = ratio(1.0, d * sc);
                for (c, &v) in codes.iter_mut().zip(x) {
                    let q = round_within((v + dmin * mn) * inverse, 0.0, top);
                    *c = q as u8;
                    normal.add(v, sc * q, mn);
                }
            }
            let gained = error < last;
            last = error;
            if best.as_ref().is_none_or(|b| error < b.0) && error.is_finite() {
                best = Some((error, fit));
            }
            if !gained {
                break;
            }
            start = normal.solve();
        }
    }
    best.map(|b| b.1)
}

/// Normal equations of `x = d * u - dmin * v`.
#[derive(Default)]
struct Normal {
    uu: f64,
    uv: f64,
    vv: f64,
    xu: f64,
    xv: f64,
}

impl Normal {
    #[inline(always)]
    fn add(&mut self, x: f32, u: f32, v: f32) {
        let (x, u, v) = (f64::from(x), f64::from(u), f64::from(v));
        self.uu += u * u;
        self.uv += u * v;
        self.vv += v * v;
        self.xu += x * u;
        self.xv += x * v;
    }

    fn solve(&self) -> (f32, f32) {
        let det = self.uu * self.vv - self.uv * self.uv;
        let finite = |v: f64| if v.is_finite() { v as f32 } else { 0.0 };
        if det > 1e-9 * self.uu * self.vv {
            (
                finite((self.xu * self.vv - self.xv * self.uv) / det),
                finite((self.xu * self.uv - self.xv * self.uu) / det),
            )
        } else if self.uu > 0.0 {
            (finite(self.xu / self.uu), 0.0)
        } else {
            (0.0, finite(-self.xv / self.vv))
        }
    }
}
