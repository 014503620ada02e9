//! The table rows.

use super::{
    arch, gather,
    kernel::{Math, Tier},
    ops, pack,
};
use crate::backend::cpu::{
    matmul::simd::{MAX_M, epilogue::is_simd_float},
    rows::{Env, Row},
};
use crate::{
    DType, KernelId, Op, Precision, Quality, TensorDesc,
    error::Refusal,
    op::{Epilogue, OpKind, Weight},
};

/// Largest k of which every sum of products of i8 is an i32.
const MAX_K_OF_I8: u32 = (1 << 17) - 1;

/// A product as far as `fits` goes.
struct Question<'a> {
    x: &'a TensorDesc,
    w: &'a Weight<TensorDesc>,
    y: &'a TensorDesc,
    epilogue: &'a Epilogue<TensorDesc>,
    precision: Precision,
}

fn feature(env: &Env, tier: Tier, math: Math) -> Result<(), Refusal> {
    let (has, name) = arch::feature(env.isa, tier, math);
    if has {
        Ok(())
    } else {
        Err(Refusal::Feature(name))
    }
}

impl Question<'_> {
    fn fits(&self, tier: Tier, math: Math) -> Result<(), Refusal> {
        let element = |arg, t: &TensorDesc| Refusal::Element {
            arg,
            element: t.element,
        };
        let x_fits = match math {
            Math::I8 => self.x.plain() == Some(DType::I8),
            _ => is_simd_float(self.x.plain()),
        };
        if !x_fits {
            return Err(element("x", self.x));
        }
        if math == Math::Bf16
            && self.x.plain() != Some(DType::BF16)
            && !self.precision.accepts(Precision::HALF)
        {
            return Err(Refusal::Precision);
        }
        let integers = self.y.plain() == Some(DType::I32) && math == Math::I8;
        if !(is_simd_float(self.y.plain()) || integers && self.epilogue.is_identity()) {
            return Err(element("y", self.y));
        }
        if math == Math::I8 && self.w.k() > MAX_K_OF_I8 {
            return Err(Refusal::Limit {
                what: "k",
                asked: u64::from(self.w.k()),
                max: u64::from(MAX_K_OF_I8),
            });
        }
        let Epilogue {
            bias,
            gate,
            residual,
            ..
        } = self.epilogue;
        for (arg, t) in [("bias", bias), ("gate", gate), ("residual", residual)] {
            if let Some(t) = t.as_ref().filter(|t| !is_simd_float(t.plain())) {
                return Err(element(arg, t));
            }
        }
        for (arg, t) in [
            ("x", Some(self.x)),
            ("y", Some(self.y)),
            ("bias", bias.as_ref()),
            ("gate", gate.as_ref()),
            ("residual", residual.as_ref()),
        ] {
            if t.is_some_and(|t| !t.is_row_contiguous()) {
                return Err(Refusal::Layout {
                    arg,
                    why: "the last axis is not contiguous",
                });
            }
        }
        self.weights_fit(tier)
    }

    fn weights_fit(&self, tier: Tier) -> Result<(), Refusal> {
        match self.w {
            Weight::Packed { data, tag, logical } => {
                if pack::reads(tier, *tag, logical, data.elements()) {
                    Ok(())
                } else {
                    Err(Refusal::Layout {
                        arg: "w",
                        why: "is packed for another kernel",
                    })
                }
            }
            Weight::Rows(_) | Weight::Transposed(_) => {
                let (n, k) = ops::steps(self.w);
                if n == 1 || k == 1 {
                    Ok(())
                } else {
                    Err(Refusal::Layout {
                        arg: "w",
                        why: "neither axis of the matrix is contiguous",
                    })
                }
            }
        }
    }

    /// Few rows of floats by rows of weights are left to the kernels that stream them, few rows
    /// of anything to dot products rather than tiles of AMX, or to f32 rather than what is split
    /// into terms.
    fn streams(&self, tier: Tier, math: Math) -> bool {
        let shared = self.w.batch().iter().all(|&d| d == 1);
        let rows = if shared {
            self.y.elements() / u64::from(self.w.n()).max(1)
        } else {
            u64::from(self.x.dim_back(1))
        };
        let by_rows = matches!(self.w, Weight::Rows(w) if w.is_row_contiguous());
        let streams = by_rows && self.x.plain() != Some(DType::I8);
        rows <= MAX_M as u64 && streams || rows < tier.least_rows(math, self.w.logical().plain())
    }
}

/// The products of an op.
fn fits(
    env: &Env,
    op: &Op<TensorDesc>,
    tier: Tier,
    math: Math,
    weights: &[DType],
) -> Result<Quality, Refusal> {
    feature(env, tier, math)?;
    let check = |q: &Question<'_>| -> Result<(), Refusal> {
        let w = q.w.logical();
        if !w.plain().is_some_and(|d| weights.contains(&d)) {
            return Err(Refusal::Element {
                arg: "w",
                element: w.element,
            });
        }
        q.fits(tier, math)
    };
    const FEW: Refusal = Refusal::Layout {
        arg: "x",
        why: "has few rows; they are multiplied with the weights as those stream by",
    };
    match op {
        Op::MatMul(op) => {
            let q = Question {
                x: &op.x,
                w: &op.w,
                y: &op.y,
                epilogue: &op.epilogue,
                precision: op.precision,
            };
            check(&q)?;
            if q.streams(tier, math) {
                return Err(FEW);
            }
        }
        Op::MatMulMany(op) => {
            let mut streams = true;
            for part in &op.parts {
                let q = Question {
                    x: &op.x,
                    w: &part.w,
                    y: &part.y,
                    epilogue: &part.epilogue,
                    precision: op.precision,
                };
                check(&q)?;
                streams &= q.streams(tier, math);
            }
            if streams {
                return Err(FEW);
            }
        }
        Op::GroupedMatMul(op) => {
            check(&Question {
                x: &op.x,
                w: &op.w,
                y: &op.y,
                epilogue: &op.epilogue,
                precision: op.precision,
            })?;
            let w = op.w.logical();
            let columns = u64::from(op.w.n()) * u64::from(w.dim(0));
            let rows = op.y.elements() / columns.max(1);
            // Experts get as many on average.
            if math == Math::F32 && rows < tier.least_rows(math, w.plain()) {
                return Err(FEW);
            }
            let flat = [
                Some(&op.y),
                op.epilogue.gate.as_ref(),
                op.epilogue.residual.as_ref(),
            ];
            let uniform = |t: &&TensorDesc| {
                crate::backend::cpu::view::Rows::new(t, 1)
                    .uniform()
                    .is_some()
            };
            if !flat.iter().flatten().all(uniform) {
                return Err(Refusal::Layout {
                    arg: "y",
                    why: "its rows are not evenly spaced",
                });
            }
        }
        _ => return Err(Refusal::Op),
    }
    if arch::is_slow(env.isa, tier, math) {
        return Ok(Quality::Slow);
    }
    Ok(Quality::Tuned)
}

macro_rules! row {
    ($id:literal, $op:ident, $tier:ident, $math:ident, $weights:expr) => {
        Row {
            id: KernelId($id),
            op: OpKind::$op,
            fits: |env, op| match op {
                Op::$op(_) => fits(env, op, Tier::$tier, Math::$math, $weights),
                _ => Err(Refusal::Op),
            },
            // SAFETY: the caller's contract is the callee's.
            run: |ctx, op| unsafe { ops::run(ctx, op, Tier::$tier, Math::$math) },
        }
    };
}

const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// Kernels, best first.
#[cfg(target_arch = "aarch64")]
#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    row!("cpu-matmul-panels-bf16-neonbfmmla", MatMul, Mmla, Bf16, &[DType::BF16]),
    row!("cpu-matmul-panels-i8-neoni8mm", MatMul, Mmla, I8, &[DType::I8]),
    row!("cpu-matmul-panels-bf16-neonbf16", MatMul, Neon, Bf16, &[DType::BF16]),
    row!("cpu-matmul-panels-i8-neondotprod", MatMul, Dotprod, I8, &[DType::I8]),
    row!("cpu-matmul-panels-f32-neon", MatMul, Neon, F32, &[DType::F32]),
    row!("cpu-matmul-panels-f16-neon", MatMul, Neon, F32, &[DType::F16]),
    row!("cpu-matmul-panels-bf16-neon", MatMul, Neon, F32, &[DType::BF16]),
    row!("cpu-matmul-panels-i8-neon", MatMul, Neon, I8, &[DType::I8]),
    row!("cpu-matmul-many-panels-bf16-neonbfmmla", MatMulMany, Mmla, Bf16, &[DType::BF16]),
    row!("cpu-matmul-many-panels-i8-neoni8mm", MatMulMany, Mmla, I8, &[DType::I8]),
    row!("cpu-matmul-many-panels-bf16-neonbf16", MatMulMany, Neon, Bf16, &[DType::BF16]),
    row!("cpu-matmul-many-panels-i8-neondotprod", MatMulMany, Dotprod, I8, &[DType::I8]),
    row!("cpu-matmul-many-panels-float-neon", MatMulMany, Neon, F32, FLOATS),
    row!("cpu-matmul-many-panels-i8-neon", MatMulMany, Neon, I8, &[DType::I8]),
    row!("cpu-grouped-matmul-panels-bf16-neonbfmmla", GroupedMatMul, Mmla, Bf16, &[DType::BF16]),
    row!("cpu-grouped-matmul-panels-i8-neoni8mm", GroupedMatMul, Mmla, I8, &[DType::I8]),
    row!("cpu-grouped-matmul-panels-bf16-neonbf16", GroupedMatMul, Neon, Bf16, &[DType::BF16]),
    row!("cpu-grouped-matmul-panels-i8-neondotprod", GroupedMatMul, Dotprod, I8, &[DType::I8]),
    row!("cpu-grouped-matmul-panels-float-neon", GroupedMatMul, Neon, F32, FLOATS),
    row!("cpu-grouped-matmul-panels-i8-neon", GroupedMatMul, Neon, I8, &[DType::I8]),
    gather::ROW,
];

/// Kernels, best first.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    row!("cpu-matmul-panels-bf16-amx", MatMul, Amx, Bf16, &[DType::BF16]),
    row!("cpu-matmul-panels-i8-amx", MatMul, Amx, I8, &[DType::I8]),
    row!("cpu-matmul-panels-bf16-avx512bf16", MatMul, Avx512, Bf16, &[DType::BF16]),
    row!("cpu-matmul-panels-f32-amx", MatMul, Amx, F32, &[DType::F32]),
    row!("cpu-matmul-panels-f16-amx", MatMul, Amx, F32, &[DType::F16]),
    row!("cpu-matmul-panels-bf16terms-amx", MatMul, Amx, F32, &[DType::BF16]),
    row!("cpu-matmul-panels-i8-avx512vnni", MatMul, Avx512, I8, &[DType::I8]),
    row!("cpu-matmul-panels-f32-avx512", MatMul, Avx512, F32, &[DType::F32]),
    row!("cpu-matmul-panels-f16-avx512", MatMul, Avx512, F32, &[DType::F16]),
    row!("cpu-matmul-panels-bf16-avx512", MatMul, Avx512, F32, &[DType::BF16]),
    row!("cpu-matmul-panels-i8-avx2", MatMul, Avx2, I8, &[DType::I8]),
    row!("cpu-matmul-panels-f32-avx2", MatMul, Avx2, F32, &[DType::F32]),
    row!("cpu-matmul-panels-f16-avx2", MatMul, Avx2, F32, &[DType::F16]),
    row!("cpu-matmul-panels-bf16-avx2", MatMul, Avx2, F32, &[DType::BF16]),
    row!("cpu-matmul-many-panels-bf16-amx", MatMulMany, Amx, Bf16, &[DType::BF16]),
    row!("cpu-matmul-many-panels-i8-amx", MatMulMany, Amx, I8, &[DType::I8]),
    row!("cpu-matmul-many-panels-bf16-avx512bf16", MatMulMany, Avx512, Bf16, &[DType::BF16]),
    row!("cpu-matmul-many-panels-float-amx", MatMulMany, Amx, F32, FLOATS),
    row!("cpu-matmul-many-panels-i8-avx512vnni", MatMulMany, Avx512, I8, &[DType::I8]),
    row!("cpu-matmul-many-panels-float-avx512", MatMulMany, Avx512, F32, FLOATS),
    row!("cpu-matmul-many-panels-i8-avx2", MatMulMany, Avx2, I8, &[DType::I8]),
    row!("cpu-matmul-many-panels-float-avx2", MatMulMany, Avx2, F32, FLOATS),
    row!("cpu-grouped-matmul-panels-bf16-amx", GroupedMatMul, Amx, Bf16, &[DType::BF16]),
    row!("cpu-grouped-matmul-panels-i8-amx", GroupedMatMul, Amx, I8, &[DType::I8]),
    row!("cpu-grouped-matmul-panels-bf16-avx512bf16", GroupedMatMul, Avx512, Bf16, &[DType::BF16]),
    row!("cpu-grouped-matmul-panels-float-amx", GroupedMatMul, Amx, F32, FLOATS),
    row!("cpu-grouped-matmul-panels-i8-avx512vnni", GroupedMatMul, Avx512, I8, &[DType::I8]),
    row!("cpu-grouped-matmul-panels-float-avx512", GroupedMatMul, Avx512, F32, FLOATS),
    row!("cpu-grouped-matmul-panels-i8-avx2", GroupedMatMul, Avx2, I8, &[DType::I8]),
    row!("cpu-grouped-matmul-panels-float-avx2", GroupedMatMul, Avx2, F32, FLOATS),
    gather::ROW,
];
