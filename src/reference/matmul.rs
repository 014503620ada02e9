//! [`MatMul`], [`GroupedMatMul`] and the epilogue that they share with convolution.

use super::{Array, Nd, Output, elementwise::act_value};
use crate::{
    error::{Error, Result},
    layout::TensorDesc,
    op::{
        Accumulator, Activations, Arg, Epilogue, GroupedMatMul, MatMul, Precision, Routing, Weight,
    },
};

/// Six standard deviations of a rounding error that is uniform in +-1.
pub(super) const SIX_SIGMA: f64 = 3.47;

/// Unit roundoff of bf16, the coarser of the two half types.
const U_HALF: f64 = 1.0 / 256.0;

/// Largest error of each activation of a row that `precision` accepts.
pub(super) fn rounding(precision: Precision, row: &[f64], out: &mut Vec<f64>) {
    out.clear();
    match precision.activations {
        Activations::Exact => {}
        Activations::Half => out.extend(row.iter().map(|x| x.abs() * U_HALF)),
        Activations::Q8 => {
            for block in row.chunks(32) {
                let amax = block.iter().fold(0f64, |m, x| m.max(x.abs()));
                // Half a step of amax / 127, and what rounding the scale to f16 adds.
                out.extend(block.iter().map(|x| amax / 254.0 + x.abs() / 2048.0));
            }
        }
    }
}

/// Sum, sum of absolute terms and squared rounding error of one dot product.
fn dot(x: &[f64], e: &[f64], w: &[f64]) -> [f64; 3] {
    let (mut sum, mut mag, mut sq) = (0.0, 0.0, 0.0);
    for (&x, &w) in x.iter().zip(w) {
        let t = x * w;
        sum += t;
        mag += t.abs();
    }
    for (&e, &w) in e.iter().zip(w) {
        sq += (e * w) * (e * w);
    }
    [sum, mag, sq]
}

/// Factor on the squared error where the weights may be rounded as well: quantized weights that
/// are multiplied as half precision numbers.
fn weight_rounding(precision: Precision, w: &TensorDesc) -> f64 {
    let half = precision.activations != Activations::Exact;
    if half && w.element.quant().is_some() {
        2.0
    } else {
        1.0
    }
}

/// What f16 accumulation within a tile of K may add, relative to the sum of absolute terms.
fn accumulator_slack(precision: Precision) -> f64 {
    match precision.accumulator {
        Accumulator::F16 => 4.0 / 2048.0,
        Accumulator::F32 => 0.0,
    }
}

/// An epilogue with its operands decoded.
pub(super) struct Post {
    scale: f64,
    bias: Option<Nd>,
    act: Option<crate::op::Act>,
    gate: Option<Nd>,
    residual: Option<Nd>,
    old: Option<Nd>,
}

/// A number with what its tolerance scales with.
#[derive(Clone, Copy, Default)]
pub(super) struct Term {
    pub value: f64,
    pub magnitude: f64,
    pub slack: f64,
}

impl Post {
    pub(super) fn new(e: &Epilogue<Array>, y: &Array) -> Post {
        Post {
            scale: f64::from(e.scale.unwrap_or(1.0)),
            bias: e.bias.as_ref().map(Nd::of),
            act: e.act,
            gate: e.gate.as_ref().map(Nd::of),
            residual: e.residual.as_ref().map(Nd::of),
            old: e.accumulate.then(|| Nd::of(y)),
        }
    }

    /// Number `at` of y, whose bias is number `bias` (none: no bias reaches it).
    pub(super) fn apply(&self, acc: Term, at: usize, bias: Option<usize>) -> Term {
        let mut t = Term {
            value: acc.value * self.scale,
            magnitude: acc.magnitude * self.scale.abs(),
            slack: acc.slack * self.scale.abs(),
        };
        if let (Some(b), Some(i)) = (&self.bias, bias) {
            t.value += b.v[i];
            t.magnitude += b.v[i].abs();
        }
        if let Some(f) = self.act {
            let (value, slope) = act_value(f, t.value);
            t = Term {
                value,
                magnitude: value.abs() + slope * t.magnitude,
                slack: slope * t.slack,
            };
        }
        if let Some(g) = &self.gate {
            t.value *= g.v[at];
            t.magnitude *= g.v[at].abs();
            t.slack *= g.v[at].abs();
        }
        for added in [&self.residual, &self.old].into_iter().flatten() {
            t.value += added.v[at];
            t.magnitude += added.v[at].abs();
        }
        t
    }
}

/// Collects terms into an output.
pub(super) struct Collect {
    pub values: Vec<f64>,
    pub magnitudes: Vec<f64>,
    pub slack: Vec<f64>,
}

impl Collect {
    pub(super) fn zeros(n: usize) -> Self {
        Collect {
            values: vec![0.0; n],
            magnitudes: vec![0.0; n],
            slack: vec![0.0; n],
        }
    }

    pub(super) fn set(&mut self, i: usize, t: Term) {
        self.values[i] = t.value;
        self.magnitudes[i] = t.magnitude;
        self.slack[i] = t.slack;
    }

    pub(super) fn output(self, arg: Arg, shape: &[u32]) -> Output {
        Output {
            arg,
            shape: shape.to_vec(),
            values: self.values,
            magnitudes: self.magnitudes,
            slack: self.slack,
        }
    }
}

/// Role of y under an epilogue.
pub(super) fn y_arg<T>(e: &Epilogue<T>) -> Arg {
    if e.accumulate {
        Arg::inout("y")
    } else {
        Arg::output("y")
    }
}

/// The `[.., N, K]` numbers of a weight and the description of what is stored.
fn weight(w: &Weight<Array>) -> Result<(Nd, TensorDesc)> {
    match w {
        Weight::Rows(t) => Ok((Nd::of(t), t.desc)),
        Weight::Transposed(t) => {
            let rank = t.desc.rank();
            let desc = t.desc.transposed(rank - 2, rank - 1)?;
            let rows = Array { desc, ..t.clone() };
            Ok((Nd::of(&rows), desc))
        }
        Weight::Packed { .. } => Err(Error::unsupported(
            "the reference",
            "a weight that a device prepacked",
        )),
    }
}

/// Number of the matrix that batch `b` of `batch` reads from an operand with axes `own`.
fn batch_index(batch: &[usize], own: &[usize], b: usize) -> usize {
    let (mut rest, mut index, mut step) = (b, 0, 1);
    for back in 0..batch.len() {
        let len = batch[batch.len() - 1 - back];
        let i = rest % len;
        rest /= len;
        if back < own.len() {
            let have = own[own.len() - 1 - back];
            index += if have == 1 { 0 } else { i * step };
            step *= have;
        }
    }
    index
}

pub(super) fn mat_mul(a: &MatMul<Array>) -> Result<Output> {
    let x = Nd::of(&a.x);
    let (w, desc) = weight(&a.w)?;
    let post = Post::new(&a.epilogue, &a.y);
    let shape: Vec<usize> = a.y.desc.shape().iter().map(|&d| d as usize).collect();
    let lead = shape.len() - 2;
    let (m, n, k) = (shape[lead], shape[lead + 1], x.width());
    let batches: usize = shape[..lead].iter().product();
    let mut out = Collect::zeros(batches * m * n);
    let (twice, f16) = (
        weight_rounding(a.precision, &desc),
        accumulator_slack(a.precision),
    );
    let mut e = Vec::new();
    for b in 0..batches {
        let xb = batch_index(&shape[..lead], &x.shape[..x.shape.len() - 2], b);
        let wb = batch_index(&shape[..lead], &w.shape[..w.shape.len() - 2], b);
        for i in 0..m {
            let row = &x.v[(xb * m + i) * k..][..k];
            rounding(a.precision, row, &mut e);
            for j in 0..n {
                let [value, magnitude, sq] = dot(row, &e, &w.v[(wb * n + j) * k..][..k]);
                let acc = Term {
                    value,
                    magnitude,
                    slack: SIX_SIGMA * (sq * twice).sqrt() + f16 * magnitude,
                };
                let at = (b * m + i) * n + j;
                out.set(at, post.apply(acc, at, Some(j)));
            }
        }
    }
    Ok(out.output(y_arg(&a.epilogue), a.y.desc.shape()))
}

pub(super) fn grouped(a: &GroupedMatMul<Array>) -> Result<Output> {
    let x = Nd::of(&a.x);
    let (w, desc) = weight(&a.w)?;
    let post = Post::new(&a.epilogue, &a.y);
    let (experts, n, k) = (w.shape[0], w.shape[1], w.shape[2]);
    let rows = (a.y.desc.elements() as usize).checked_div(n).unwrap_or(0);
    let expert_of: Vec<Option<usize>> = match &a.routing {
        Routing::Ids(ids) => Nd::of(ids)
            .ints()
            .into_iter()
            .map(|id| usize::try_from(id).ok().filter(|&e| e < experts))
            .collect(),
        Routing::Offsets(offsets) => {
            let o = Nd::of(offsets).ints();
            (0..rows as i64)
                .map(|r| (0..experts).find(|&e| o[e] <= r && r < o[e + 1]))
                .collect()
        }
    };
    let shared = match &a.routing {
        Routing::Ids(ids) if a.x.desc.rank() == 2 => ids.desc.dim(1) as usize,
        _ => 1,
    };
    let (twice, f16) = (
        weight_rounding(a.precision, &desc),
        accumulator_slack(a.precision),
    );
    let mut out = Collect::zeros(rows * n);
    let mut e = Vec::new();
    for r in 0..rows {
        let row = &x.v[r / shared * k..][..k];
        rounding(a.precision, row, &mut e);
        for j in 0..n {
            let at = r * n + j;
            let Some(expert) = expert_of[r] else {
                out.set(at, post.nothing(at));
                continue;
            };
            let [value, magnitude, sq] = dot(row, &e, &w.v[(expert * n + j) * k..][..k]);
            let acc = Term {
                value,
                magnitude,
                slack: SIX_SIGMA * (sq * twice).sqrt() + f16 * magnitude,
            };
            out.set(at, post.apply(acc, at, Some(expert * n + j)));
        }
    }
    Ok(out.output(y_arg(&a.epilogue), a.y.desc.shape()))
}

impl Post {
    /// A row that belongs to no expert: zeros before gate and residual.
    fn nothing(&self, at: usize) -> Term {
        let mut t = Term::default();
        for added in [&self.residual, &self.old].into_iter().flatten() {
            t.value += added.v[at];
            t.magnitude += added.v[at].abs();
        }
        t
    }
}
