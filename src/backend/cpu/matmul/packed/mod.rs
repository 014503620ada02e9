//! Quantized weights in tiles of 16 rows, packed at load: one layout family for every GGUF format,
//! read as it is by few rows of x and as panels by many.

mod acts;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod class;
mod exact;
mod gather;
mod jobs;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod panel;
#[cfg(target_arch = "x86_64")]
mod round;
mod run;
mod task;
mod tile;

use super::simd::{Level, fits_operands};
use crate::{
    KernelId, Op, Precision, Quality, TensorDesc,
    backend::cpu::{
        isa::Isa,
        memory::Filled,
        parts::{self, Traits},
        rows::{Ctx, Env, Row},
    },
    device::Packed,
    error::{Error, Refusal, Result},
    op::{MatMul, OpKind, PackTag, Weight},
    quant::QuantFormat,
};
use jobs::run_op;
use pack::Shape;
use run::Mode;
use std::sync::Arc;

/// Changes with the layout of any format.
const VERSION: u32 = 1;

fn tag(format: QuantFormat) -> PackTag {
    PackTag::new("cpu", format.name(), VERSION)
}

/// What a pack of this module holds.
#[derive(Clone, Copy, Debug)]
struct Pack {
    shape: Shape,
    traits: Traits,
}

impl Pack {
    /// The shape of the pack of a contiguous `[.., N, K]` weight.
    fn shape(w: &TensorDesc) -> Option<Shape> {
        let format = w.element.quant()?;
        if w.rank() < 2 || w.is_empty() || !w.is_contiguous() {
            return None;
        }
        let dims = w.shape();
        let lead = dims.len() - 2;
        Some(Shape {
            format,
            batches: dims[..lead].iter().map(|&d| d as usize).product(),
            n: dims[lead] as usize,
            k: dims[lead + 1] as usize,
        })
    }

    /// The pack of `logical` that `tag` names; `None`: it is not one of these.
    fn of(logical: &TensorDesc, tag: PackTag) -> Option<Pack> {
        let shape = Pack::shape(logical)?;
        (tag == self::tag(shape.format)).then(|| Pack {
            shape,
            traits: parts::traits(shape.format),
        })
    }
}

/// Packs the contiguous quantized `w`; `None` where no kernel takes packs.
pub(super) fn prepack(ctx: &Ctx, w: &TensorDesc, host: &[u8]) -> Result<Option<Packed>> {
    if !(ctx.env.isa.avx2 || ctx.env.isa.neon) {
        return Ok(None);
    }
    let Some(shape) = Pack::shape(w) else {
        return Ok(None);
    };
    let too_large = || Error::TooLarge {
        what: "prepacked weight",
        asked: w.span_bytes(),
        max: isize::MAX as u64,
    };
    let bytes = shape.bytes().ok_or_else(too_large)?;
    let data = Filled::new(bytes as u64, |out| {
        pack::pack(&ctx.pool, ctx.env.isa, shape, host, out);
    })?;
    Ok(Some(Packed {
        data: Arc::new(data),
        tag: tag(shape.format),
    }))
}

/// Is the weight a pack of this module?
fn fits_pack(arg: &'static str, w: &Weight<TensorDesc>) -> Result<(), Refusal> {
    let Weight::Packed { data, tag, logical } = w else {
        return Err(Refusal::Layout {
            arg,
            why: "is not a pack of quantized weights",
        });
    };
    let bytes = Pack::of(logical, *tag).and_then(|p| p.shape.bytes());
    if bytes.is_some_and(|b| b as u64 == data.data_bytes()) {
        Ok(())
    } else {
        Err(Refusal::Layout {
            arg,
            why: "the pack is not of this kernel",
        })
    }
}

/// Does the caller accept the rounding? That of both sides to bf16 stays below that of x to bytes.
fn precision(mode: Mode, accepted: Precision) -> Result<(), Refusal> {
    if mode == Mode::F32 || accepted.accepts(Precision::Q8) {
        Ok(())
    } else {
        Err(Refusal::Precision)
    }
}

fn fits(env: &Env, op: &MatMul<TensorDesc>, mode: Mode, level: Level) -> Result<Quality, Refusal> {
    fits_pack("w", &op.w)?;
    fits_operands(env, &op.x, &op.y, &op.epilogue, level)?;
    precision(mode, op.precision)?;
    enough_rows(mode, u64::from(op.x.dim_back(1)), 1)?;
    Ok(Quality::Tuned)
}

/// Panels of bf16 pay for many rows of x, on average for each of some matrices.
fn enough_rows(mode: Mode, rows: u64, matrices: u64) -> Result<(), Refusal> {
    let least = match mode {
        Mode::Q8 | Mode::F32 => 0,
        #[cfg(target_arch = "x86_64")]
        Mode::Bf16 => amx::LEAST,
    };
    if rows < least * matrices {
        return Err(Refusal::Layout {
            arg: "x",
            why: "has few rows; they are multiplied with the weights as those stream by",
        });
    }
    Ok(())
}

/// Does the row of an op of any kind fit?
fn fits_op(env: &Env, op: &Op<TensorDesc>, mode: Mode, level: Level) -> Result<Quality, Refusal> {
    match op {
        Op::MatMul(op) => fits(env, op, mode, level),
        Op::MatMulMany(op) => {
            for part in op.split() {
                fits(env, &part, mode, level)?;
            }
            Ok(Quality::Tuned)
        }
        Op::GroupedMatMul(op) => {
            fits_pack("w", &op.w)?;
            fits_operands(env, &op.x, &op.y, &op.epilogue, level)?;
            precision(mode, op.precision)?;
            let rows = op.y.elements() / u64::from(op.y.dim_back(0)).max(1);
            enough_rows(mode, rows, u64::from(op.w.logical().dim(0)))?;
            Ok(Quality::Tuned)
        }
        _ => Err(Refusal::Op),
    }
}

fn fits_gather(env: &Env, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::GatherRows(op) = op else {
        return Err(Refusal::Op);
    };
    fits_pack("table", &op.table)?;
    if env.isa.avx2 || env.isa.neon {
        Ok(Quality::Tuned)
    } else {
        Err(Refusal::Feature("AVX2, FMA and F16C, or NEON"))
    }
}

macro_rules! row {
    ($id:literal, $op:ident $mode:ident $level:ident) => {
        Row {
            id: KernelId($id),
            op: OpKind::$op,
            fits: |env, op| fits_op(env, op, Mode::$mode, Level::$level),
            // SAFETY: the caller's contract is the callee's.
            run: |ctx, op| unsafe { run_op(ctx, op, Mode::$mode, Level::$level) },
        }
    };
}

/// What decodes rows.
#[cfg(target_arch = "x86_64")]
type Decoding = avx2::Avx2;
/// What decodes rows.
#[cfg(target_arch = "aarch64")]
type Decoding = neon::Four<crate::backend::cpu::simd::Widening>;

/// Kernels on packed weights, best first.
#[cfg(target_arch = "aarch64")]
pub(crate) const ROWS: &[Row] = &[
    row!("cpu-matmul-packed-q8-neondotprod", MatMul Q8 Dotprod),
    row!("cpu-matmul-packed-q8-neon", MatMul Q8 Neon),
    row!("cpu-matmul-packed-f32-neon", MatMul F32 Neon),
    row!("cpu-matmul-many-packed-q8-neondotprod", MatMulMany Q8 Dotprod),
    row!("cpu-matmul-many-packed-q8-neon", MatMulMany Q8 Neon),
    row!("cpu-matmul-many-packed-f32-neon", MatMulMany F32 Neon),
    row!("cpu-grouped-matmul-packed-q8-neondotprod", GroupedMatMul Q8 Dotprod),
    row!("cpu-grouped-matmul-packed-q8-neon", GroupedMatMul Q8 Neon),
    row!("cpu-grouped-matmul-packed-f32-neon", GroupedMatMul F32 Neon),
    Row {
        id: KernelId("cpu-gather-rows-packed-neon"),
        op: OpKind::GatherRows,
        fits: fits_gather,
        run: gather::gather,
    },
];

/// Kernels on packed weights, best first.
#[cfg(target_arch = "x86_64")]
pub(crate) const ROWS: &[Row] = &[
    row!("cpu-matmul-packed-bf16-amx", MatMul Bf16 Amx),
    row!("cpu-matmul-packed-q8-avx512gfni", MatMul Q8 Avx512Bits),
    row!("cpu-matmul-packed-q8-avx512vnni", MatMul Q8 Avx512),
    row!("cpu-matmul-packed-q8-avxvnni", MatMul Q8 AvxVnni),
    row!("cpu-matmul-packed-q8-avx2", MatMul Q8 Avx2),
    row!("cpu-matmul-packed-f32-avx512", MatMul F32 Avx512),
    row!("cpu-matmul-packed-f32-avx2", MatMul F32 Avx2),
    row!("cpu-matmul-many-packed-bf16-amx", MatMulMany Bf16 Amx),
    row!("cpu-matmul-many-packed-q8-avx512gfni", MatMulMany Q8 Avx512Bits),
    row!("cpu-matmul-many-packed-q8-avx512vnni", MatMulMany Q8 Avx512),
    row!("cpu-matmul-many-packed-q8-avxvnni", MatMulMany Q8 AvxVnni),
    row!("cpu-matmul-many-packed-q8-avx2", MatMulMany Q8 Avx2),
    row!("cpu-matmul-many-packed-f32-avx512", MatMulMany F32 Avx512),
    row!("cpu-matmul-many-packed-f32-avx2", MatMulMany F32 Avx2),
    row!("cpu-grouped-matmul-packed-bf16-amx", GroupedMatMul Bf16 Amx),
    row!("cpu-grouped-matmul-packed-q8-avx512gfni", GroupedMatMul Q8 Avx512Bits),
    row!("cpu-grouped-matmul-packed-q8-avx512vnni", GroupedMatMul Q8 Avx512),
    row!("cpu-grouped-matmul-packed-q8-avxvnni", GroupedMatMul Q8 AvxVnni),
    row!("cpu-grouped-matmul-packed-q8-avx2", GroupedMatMul Q8 Avx2),
    row!("cpu-grouped-matmul-packed-f32-avx512", GroupedMatMul F32 Avx512),
    row!("cpu-grouped-matmul-packed-f32-avx2", GroupedMatMul F32 Avx2),
    Row {
        id: KernelId("cpu-gather-rows-packed-avx2"),
        op: OpKind::GatherRows,
        fits: fits_gather,
        run: gather::gather,
    },
];

#[cfg(all(test, feature = "conformance"))]
mod tests;
