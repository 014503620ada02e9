//! How far a result may be from the reference, and why.
//!
//! The reference gives the exact value `v` of each number, the sum `m` of the absolute values of
//! the terms that rounding scales with, and `s`, six standard deviations of what the accepted
//! rounding of activations adds. A result `r` of element type t passes when
//!
//! `|r - v| <= c * m + s + u_t * |v| + tiny_t`
//!
//! where `u_t` is the unit roundoff of t, `tiny_t` the smallest normal number of t (subnormals may
//! be flushed) and `c` the [`coefficient`] of the op. Where `m` and `s` are both empty the result
//! must be `v` rounded to t. Results that are NaN or infinite must agree exactly.
//!
//! `c` in units of `u = 2^-24`, the unit roundoff of f32, in which every kernel accumulates:
//!
//! | op | c / u | because |
//! | --- | --- | --- |
//! | sums of n terms (MatMul, Conv2d, Reduce) | 4 + 2 sqrt(n) | n roundings, each at most u times the sum of absolute terms; independent ones add to u sqrt(n) (Higham & Mary 2019), times 2 for the tail. 4 for the epilogue |
//! | an activation in the epilogue, Unary, Glu | + 12 | exp, tanh and erf of 4 to 8 ulp; arguments are part of m |
//! | sin, cos, Rope | 64 | angles of relative error 16 u, through a power of theta, and range reduction; m counts the angle |
//! | Norm, Softmax over n | 12 + 2 sqrt(n) | a sum, a root or an exp, a division, three products |
//! | Attention, head size d, n keys | 32 + 4 sqrt(d) + 2 sqrt(n) | an error e of a score changes its weight by the factor 1 + e, twice with the normalization; m is scaled by the largest score |
//! | Binary | 4 | one operation; division may take 2.5 ulp |
//! | blocks (Dequantize, GatherRows) | 4 | scale times code minus minimum, contracted or not; m is the largest number of the block |
//!
//! An op that ran in parts rounds at each of them: c is four times as large there.
//!
//! On top of the bound for each number, where there is arithmetic, the root mean square of all
//! errors (from 64 numbers on) must stay below half the root mean square of `c * m + s`, plus that
//! of the output rounding: independent roundings spread over the bound, they do not sit at it.
//!
//! Encoders (Quantize, q8_0 caches) may decide near ties otherwise: Quantize must not
//! have more than 1.02 times the squared error of the format's own encoder (1.1 times where the
//! encoder is a search), and no number may be off by more than the encoder's largest error plus
//! 1 %.

use crate::{
    element::{DType, Element},
    layout::TensorDesc,
    op::{Act, BinOp, Epilogue, NormKind, Op, RedOp},
    reference::{Output, round_to},
};

/// Unit roundoff of f32.
const U: f64 = 1.0 / 16_777_216.0;

fn sum(n: f64) -> f64 {
    4.0 + 2.0 * n.sqrt()
}

fn act(a: Option<Act>) -> f64 {
    match a {
        None | Some(Act::Identity) => 0.0,
        Some(Act::Sin | Act::Cos) => 64.0,
        Some(_) => 12.0,
    }
}

fn product(k: u32, e: &Epilogue<TensorDesc>) -> f64 {
    sum(f64::from(k)) + act(e.act)
}

/// `c` of the module's table.
pub fn coefficient(op: &Op<TensorDesc>) -> f64 {
    let units = match op {
        Op::MatMul(a) => product(a.k(), &a.epilogue),
        Op::MatMulMany(a) => a
            .split()
            .map(|m| product(m.k(), &m.epilogue))
            .fold(0.0, f64::max),
        Op::GroupedMatMul(a) => product(a.w.k(), &a.epilogue),
        Op::Conv2d(a) => {
            let taps: u64 = a.w.shape()[1..].iter().map(|&d| u64::from(d)).product();
            sum(taps as f64) + act(a.epilogue.act)
        }
        Op::Attention(a) => {
            let (d, n) = (f64::from(a.q.dim(3)), a.max_kv_len() as f64);
            32.0 + 4.0 * d.sqrt() + 2.0 * n.sqrt()
        }
        Op::Norm(a) => {
            let n = match a.kind {
                NormKind::Group { groups } => {
                    a.x.elements() as f64 / f64::from(a.x.dim(0).max(1)) / f64::from(groups.max(1))
                }
                _ => f64::from(a.x.dim_back(0)),
            };
            12.0 + 2.0 * n.sqrt()
        }
        Op::Softmax(a) => 12.0 + 2.0 * f64::from(a.x.dim_back(0)).sqrt(),
        Op::Rope(_) => 64.0,
        Op::Unary(a) => 4.0 + act(Some(a.act)),
        Op::Glu(a) => 4.0 + act(Some(a.act)),
        Op::Binary(a) if a.function == BinOp::Div => 4.0,
        Op::Binary(_) => 1.0,
        Op::Reduce(a) if matches!(a.function, RedOp::Sum | RedOp::Mean) => {
            sum(f64::from(a.x.dim(a.axis as usize)))
        }
        _ => 4.0,
    };
    units * U
}

/// Smallest normal number of a float type; 0 for integers.
fn tiny(d: DType) -> f64 {
    match d {
        DType::F32 | DType::BF16 => f64::from(f32::MIN_POSITIVE),
        DType::F16 => 2f64.powi(-14) / 1024.0,
        DType::F8E4M3 => 2f64.powi(-9),
        DType::F8E5M2 => 2f64.powi(-16),
        _ => 0.0,
    }
}

/// Result of a comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Largest error as a fraction of its bound.
    pub worst: f64,
    /// Squared error over squared reference.
    pub nmse: f64,
    /// The first number that does not pass, in words.
    pub failure: Option<String>,
}

impl Verdict {
    fn fail(&mut self, why: impl FnOnce() -> String) {
        if self.failure.is_none() {
            self.failure = Some(why());
        }
        self.worst = self.worst.max(1.0);
    }
}

/// Compares what an operand of element type `element` holds with what it should.
pub fn compare(want: &Output, got: &[f64], element: Element, c: f64) -> Verdict {
    let name = want.arg.name;
    let mut out = Verdict::default();
    if got.len() != want.values.len() {
        out.fail(|| format!("{name} has {} numbers of {}", got.len(), want.values.len()));
        return out;
    }
    let plain = element.plain();
    let exact = want.magnitudes.is_empty() && want.slack.is_empty();
    let at = |list: &[f64], i: usize| list.get(i).copied().unwrap_or(0.0);
    let (mut errors, mut bounds, mut roundings, mut squares) = (0.0, 0.0, 0.0, 0.0);
    let mut counted = 0u32;
    for (i, (&v, &r)) in want.values.iter().zip(got).enumerate() {
        let rounded = plain.map_or(v, |d| round_to(d, v));
        // A number of a block that also holds an infinity is not itself without bound.
        let magnitude = match at(&want.magnitudes, i) {
            m if m.is_finite() => m,
            _ => f64::from(f32::MAX),
        };
        let arithmetic = c * magnitude + at(&want.slack, i);
        let unit = plain.map_or(0.0, |d| d.epsilon() * v.abs());
        let flush = plain.map_or(0.0, tiny);
        let bound = arithmetic * 1.01 + unit * 1.01 + flush;
        let place = || index_words(&want.shape, i);
        if rounded.is_nan() || v.is_infinite() || r.is_nan() {
            let same = (rounded.is_nan() && r.is_nan()) || rounded == r;
            if !same {
                out.fail(|| format!("{name}{} is {r}, expected {rounded}", place()));
            }
            continue;
        }
        if r == rounded {
            squares += v * v;
            counted += 1;
            bounds += arithmetic * arithmetic;
            roundings += unit * unit;
            errors += (r - v).abs().min(1e300).powi(2);
            if r.is_infinite() {
                errors = 0.0;
            }
            continue;
        }
        if exact || r.is_infinite() {
            let flushed = r == 0.0 && v.abs() < flush;
            let overflow =
                r.is_infinite() && plain.is_some_and(|d| round_to(d, v + bound.copysign(v)) == r);
            if !flushed && !overflow {
                out.fail(|| format!("{name}{} is {r}, expected exactly {rounded}", place()));
            }
            continue;
        }
        let error = (r - v).abs();
        if error > bound {
            out.fail(|| {
                format!(
                    "{name}{} is {r}, expected {v}: error {error:.3e}, bound {bound:.3e}",
                    place()
                )
            });
        }
        if bound > 0.0 {
            out.worst = out.worst.max(error / bound);
        }
        counted += 1;
        errors += error * error;
        bounds += arithmetic * arithmetic;
        roundings += unit * unit;
        squares += v * v;
    }
    out.nmse = if squares > 0.0 { errors / squares } else { 0.0 };
    // Slack alone is a choice between two codes, all or nothing, and spreads over no bound.
    if counted >= 64 && !(want.magnitudes.is_empty() && plain.is_none()) {
        let n = f64::from(counted);
        let rms = (errors / n).sqrt();
        let limit = 0.5 * (bounds / n).sqrt() + (roundings / n).sqrt() + plain.map_or(0.0, tiny);
        if rms > limit {
            out.fail(|| {
                format!("{name}: root mean square error {rms:.3e} of {counted} numbers, limit {limit:.3e}")
            });
        }
    }
    out
}

/// Judges an encoder: `x` the numbers, `want` the decoded blocks of the format's own encoder,
/// `got` those of the device. `search`: the format's encoder is a search.
pub fn compare_encoded(x: &[f64], want: &Output, got: &[f64], search: bool) -> Verdict {
    let mut out = Verdict::default();
    if got.len() != x.len() || want.values.len() != x.len() {
        out.fail(|| format!("{} numbers of {}", got.len(), x.len()));
        return out;
    }
    let squared = |v: &[f64]| -> f64 { v.iter().zip(x).map(|(a, b)| (a - b) * (a - b)).sum() };
    let (ours, theirs) = (squared(&want.values), squared(got));
    let power: f64 = x.iter().map(|v| v * v).sum();
    out.nmse = if power > 0.0 { theirs / power } else { 0.0 };
    let factor = if search { 1.1 } else { 1.02 };
    let limit = factor * ours + 1e-12 * power;
    out.worst = if limit > 0.0 { theirs / limit } else { 0.0 };
    if theirs.is_nan() || theirs > limit {
        out.fail(|| format!("squared error {theirs:.4e}, the format's encoder has {ours:.4e}"));
    }
    if !search {
        let top = |v: &[f64]| {
            v.iter()
                .zip(x)
                .map(|(a, b)| (a - b).abs())
                .fold(0f64, f64::max)
        };
        let (most, theirs) = (top(&want.values) * 1.01 + 1e-30, top(got));
        if theirs > most {
            out.fail(|| format!("largest error {theirs:.4e}, the format's encoder has {most:.4e}"));
        }
    }
    out
}

/// `[1, 4]` of flat index `i`.
fn index_words(shape: &[u32], mut i: usize) -> String {
    let mut index = vec![0usize; shape.len()];
    for (a, &d) in shape.iter().enumerate().rev() {
        index[a] = i % (d.max(1) as usize);
        i /= d.max(1) as usize;
    }
    format!("{index:?}")
}
