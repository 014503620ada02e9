//! MatMul: kernels/gemv*.cu for few rows of x, kernels/matmul*.cu for many, with x or w converted on the device where
//! the kernels want another type.

mod launch;
mod problem;

#[cfg(test)]
mod tests;

use super::copy;
use super::dequantize::{unsupported, wrong_op};
use super::rows::{DeviceEnv, Format, Sink, View, float, format, question, row_contiguous};
use crate::{
    backend::first,
    device::Quality,
    element::{DType, Element},
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{Act, Activations, MatMul, MatMulMany, Op, OpKind, Precision, Weight},
};

#[cfg(test)]
pub(super) use launch::kernel_names;
use launch::run_matmul;
pub(super) use launch::{run_gemv_f32, run_gemv_q8, run_mma, run_simt};
use problem::{Problem, W};

/// Rows of x up to which the GEMV kernels are used: they read w once per 8 of them.
const GEMV_ROWS_Q8: u32 = 32;
const GEMV_ROWS_F32: u32 = 16;
/// Rows of x that the GEMV kernels compute while they read w once.
const GEMV_PASS: u32 = 8;
/// Numbers of w below which the launch that rounds x to 8 bits costs more than reading fewer bytes of it saves.
const SMALL_W: u64 = 1 << 20;
/// Numbers of w of f16 or bf16 above which reading it twice costs more than the tensor cores' kernel, which is made for
/// many rows.
const LARGE_W: u64 = 1 << 23;
/// Launches that one op may take; beyond it the GEMV kernels leave the op to those that batch inside a launch.
const MAX_LAUNCHES_GEMV: u64 = 16;
const MAX_LAUNCHES: u64 = 4096;

/// How a MatMul is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algo {
    /// GEMV on 8-bit activations, quantized weights.
    GemvQ8,
    /// GEMV on f32 activations, any weights.
    GemvF32,
    /// Tensor cores on f16 or bf16.
    Mma,
    /// FP32 units.
    Simt,
}

/// What the weights are to a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Quant(Format),
    Float(DType),
}

pub(super) fn fits_gemv_q8(env: &DeviceEnv, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    fits(Algo::GemvQ8, env, op)
}

pub(super) fn fits_gemv_f32(env: &DeviceEnv, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    fits(Algo::GemvF32, env, op)
}

pub(super) fn fits_mma(env: &DeviceEnv, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    fits(Algo::Mma, env, op)
}

pub(super) fn fits_simt(env: &DeviceEnv, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    fits(Algo::Simt, env, op)
}

/// Best first; the last takes the most.
const ALGOS: [Algo; 4] = [Algo::GemvQ8, Algo::GemvF32, Algo::Mma, Algo::Simt];

fn fits(algo: Algo, env: &DeviceEnv, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    match op {
        Op::MatMul(op) => fits_matmul(algo, env, op),
        _ => Err(Refusal::Op),
    }
}

fn fits_matmul(algo: Algo, env: &DeviceEnv, op: &MatMul<TensorDesc>) -> Result<Quality, Refusal> {
    let kind = operands(op)?;
    let x = float("x", &op.x)?;
    let problem = Problem::new(op, gemv(algo))?;
    match (algo, kind) {
        (Algo::GemvQ8, Kind::Float(_)) => {
            return Err(Refusal::Element {
                arg: "w",
                element: op.w.logical().element,
            });
        }
        (Algo::GemvQ8, Kind::Quant(_)) if !op.precision.accepts(Precision::Q8) => {
            return Err(Refusal::Precision);
        }
        (Algo::Mma, kind) => {
            if env.cc < 80 {
                return Err(Refusal::Feature(
                    "bf16 tensor cores (compute capability 8.0)",
                ));
            }
            if target(algo, x, kind) != x && op.precision.activations > Activations::Half {
                return Err(Refusal::Precision);
            }
            if matches!(kind, Kind::Quant(_)) && op.precision.activations > Activations::Half {
                return Err(Refusal::Precision);
            }
            if kind == Kind::Float(DType::F32) {
                return Err(Refusal::Element {
                    arg: "w",
                    element: DType::F32.into(),
                });
            }
        }
        _ => {}
    }
    if gemv(algo) {
        let max = if algo == Algo::GemvQ8 {
            GEMV_ROWS_Q8
        } else {
            GEMV_ROWS_F32
        };
        if problem.m > max {
            return Err(Refusal::Limit {
                what: "number of rows of x",
                asked: problem.m.into(),
                max: max.into(),
            });
        }
        if op.w.is_transposed() {
            return Err(Refusal::Layout {
                arg: "w",
                why: "must be [N, K] rows",
            });
        }
    } else if let (Kind::Quant(_), true) = (kind, problem.walks(W)) {
        return Err(Refusal::Layout {
            arg: "w",
            why: "quantized weights with batch axes and many rows of x",
        });
    }
    let (launches, max) = (
        problem.launches(),
        if gemv(algo) {
            MAX_LAUNCHES_GEMV
        } else {
            MAX_LAUNCHES
        },
    );
    if launches > max {
        return Err(Refusal::Limit {
            what: "number of batches with a launch each",
            asked: launches,
            max,
        });
    }
    let to = target(algo, x, kind);
    if to != x && algo != Algo::GemvQ8 {
        copy::fits_convert(&op.x, &converted(&op.x, to)?)?;
    }
    let w = u64::from(problem.n) * u64::from(problem.k);
    let takes_less = match (algo, kind) {
        (Algo::GemvQ8, _) if w < SMALL_W => Some(Algo::GemvF32),
        (Algo::GemvF32, Kind::Float(DType::F16 | DType::BF16))
            if problem.m > GEMV_PASS && w > LARGE_W =>
        {
            Some(Algo::Mma)
        }
        _ => None,
    };
    if takes_less.is_some_and(|other| fits_matmul(other, env, op).is_ok()) {
        return Ok(Quality::Slow);
    }
    Ok(match algo {
        Algo::GemvQ8 | Algo::GemvF32 | Algo::Mma => Quality::Tuned,
        Algo::Simt => Quality::Portable,
    })
}

fn gemv(algo: Algo) -> bool {
    matches!(algo, Algo::GemvQ8 | Algo::GemvF32)
}

/// Checks that hold for every kernel; returns what w is.
fn operands(op: &MatMul<TensorDesc>) -> Result<Kind, Refusal> {
    let kind = match &op.w {
        Weight::Rows(w) if matches!(w.element, Element::Quant(_)) => Kind::Quant(format("w", w)?),
        Weight::Rows(w) | Weight::Transposed(w) => {
            row_contiguous("w", w)?;
            Kind::Float(float("w", w)?)
        }
        _ => {
            return Err(Refusal::Layout {
                arg: "w",
                why: "is packed for another device",
            });
        }
    };
    row_contiguous("x", &op.x)?;
    float("y", &op.y)?;
    row_contiguous("y", &op.y)?;
    let e = &op.epilogue;
    for (arg, t) in [
        ("gate", &e.gate),
        ("residual", &e.residual),
        ("bias", &e.bias),
    ] {
        if let Some(t) = t {
            float(arg, t)?;
            row_contiguous(arg, t)?;
        }
    }
    if e.accumulate && e.residual.is_some() {
        return Err(Refusal::Feature(
            "accumulating into y together with a residual",
        ));
    }
    act_code(e.act)?;
    Ok(kind)
}

/// GM_ACT_* of kernels/gm.cuh.
fn act_code(act: Option<Act>) -> Result<u32, Refusal> {
    Ok(match act {
        None | Some(Act::Identity) => 0,
        Some(Act::Relu) => 1,
        Some(Act::Silu) => 2,
        Some(Act::GeluTanh) => 3,
        Some(Act::Gelu) => 4,
        Some(Act::GeluQuick) => 5,
        Some(Act::Sigmoid) => 6,
        Some(Act::Tanh) => 7,
        Some(Act::ReluSquared) => 8,
        Some(_) => {
            return Err(Refusal::Feature(
                "this activation in the epilogue of a matmul",
            ));
        }
    })
}

/// The type that x travels in.
fn target(algo: Algo, x: DType, w: Kind) -> DType {
    match (algo, w) {
        (Algo::GemvQ8, _) => x,
        (Algo::Mma, Kind::Float(w)) => w,
        (Algo::Mma, Kind::Quant(_)) => match x {
            DType::F32 => DType::BF16,
            half => half,
        },
        // f16 with f16 and bf16 with bf16 have a kernel; every other pair is exact with x in f32.
        (Algo::Simt, Kind::Float(w)) if x == w => x,
        _ => DType::F32,
    }
}

fn converted(x: &TensorDesc, to: DType) -> Result<TensorDesc, Refusal> {
    x.with_element(to).map_err(|_| Refusal::Layout {
        arg: "x",
        why: "is too large in the type that the kernel reads",
    })
}

pub(super) fn fits_many(env: &DeviceEnv, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::MatMulMany(op) = op else {
        return Err(Refusal::Op);
    };
    let mut worst = Quality::Tuned;
    for part in op.split() {
        worst = worst.min(best(env, &part)?.1);
    }
    Ok(worst)
}

fn best(env: &DeviceEnv, op: &MatMul<TensorDesc>) -> Result<(Algo, Quality), Refusal> {
    first(ALGOS, |algo| fits_matmul(algo, env, op), Refusal::Op)
}

pub(super) fn run_many(sink: &mut dyn Sink, op: &Op<View>) -> Result<()> {
    let Op::MatMulMany(op) = op else {
        return Err(wrong_op(OpKind::MatMulMany));
    };
    for part in MatMulMany::split(op) {
        // The driver refuses a grid without CTAs.
        if part.y.desc.is_empty() {
            continue;
        }
        let (algo, _) = best(&sink.env(), &question(&part))
            .map_err(|refusal| unsupported(OpKind::MatMulMany, refusal))?;
        run_matmul(algo, sink, &part)?;
    }
    Ok(())
}
