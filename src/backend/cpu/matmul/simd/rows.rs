//! The table rows, and what they take.

#[cfg(target_arch = "x86_64")]
use super::codes;
use super::{Level, epilogue::is_simd_float, run};
use crate::backend::cpu::rows::{Ctx, Env, Row, unsupported};
use crate::{
    DType, Element, KernelId, Op, Quality, Tensor, TensorDesc,
    error::{Refusal, Result},
    op::{Epilogue, MatMul, OpKind, Weight},
};
#[cfg(target_arch = "x86_64")]
use crate::{Precision, quant::QuantFormat};

/// What all these kernels need of one product.
fn fits(env: &Env, op: &MatMul<TensorDesc>, level: Level) -> Result<(), Refusal> {
    let Weight::Rows(w) = &op.w else {
        return Err(Refusal::Layout {
            arg: "w",
            why: "is not rows [N, K]",
        });
    };
    fits_operands(env, &op.x, &op.y, &op.epilogue, level)?;
    if !(is_simd_float(w.plain()) || w.element.quant().is_some()) {
        return Err(Refusal::Element {
            arg: "w",
            element: w.element,
        });
    }
    rows_of_one_piece("w", w)
}

/// Is the last axis contiguous?
fn rows_of_one_piece(arg: &'static str, t: &TensorDesc) -> Result<(), Refusal> {
    if t.is_row_contiguous() {
        Ok(())
    } else {
        Err(Refusal::Layout {
            arg,
            why: "the last axis is not contiguous",
        })
    }
}

/// What all these kernels need of the instruction sets and of everything but the weights.
pub(in crate::backend::cpu::matmul) fn fits_operands(
    env: &Env,
    x: &TensorDesc,
    y: &TensorDesc,
    epilogue: &Epilogue<TensorDesc>,
    level: Level,
) -> Result<(), Refusal> {
    let (has, name) = match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => (env.isa.avx2, "AVX2, FMA and F16C"),
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni => (env.isa.avx_vnni, "AVX2, FMA, F16C and AVX-VNNI"),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => (
            env.isa.avx512 && env.isa.avx512_vnni,
            "AVX-512 F, BW, DQ, VL and VNNI",
        ),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bits => (
            env.isa.avx512_bits,
            "AVX-512 F, BW, DQ, VL, VNNI and VBMI, and GFNI",
        ),
        #[cfg(target_arch = "x86_64")]
        Level::Amx => (env.isa.amx, "AMX with BF16 and INT8"),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => (env.isa.neon, "NEON"),
        #[cfg(target_arch = "aarch64")]
        Level::Dotprod => (env.isa.dotprod, "NEON with DOTPROD"),
    };
    if !has {
        return Err(Refusal::Feature(name));
    }
    let Epilogue {
        bias,
        gate,
        residual,
        ..
    } = epilogue;
    let floats = [
        ("x", Some(x)),
        ("y", Some(y)),
        ("bias", bias.as_ref()),
        ("gate", gate.as_ref()),
        ("residual", residual.as_ref()),
    ];
    for (arg, t) in floats {
        let Some(t) = t else { continue };
        if !is_simd_float(t.plain()) {
            return Err(Refusal::Element {
                arg,
                element: t.element,
            });
        }
        rows_of_one_piece(arg, t)?;
    }
    Ok(())
}

/// Products of 8-bit activations.
#[cfg(target_arch = "x86_64")]
fn fits_q8(env: &Env, op: &MatMul<TensorDesc>, level: Level) -> Result<Quality, Refusal> {
    fits(env, op, level)?;
    if !op.precision.accepts(Precision::Q8) {
        return Err(Refusal::Precision);
    }
    let element = op.w.logical().element;
    if element.quant().is_some_and(codes::has) {
        Ok(Quality::Tuned)
    } else {
        Err(Refusal::Element { arg: "w", element })
    }
}

/// Products in f32.
fn fits_f32(env: &Env, op: &MatMul<TensorDesc>, level: Level) -> Result<Quality, Refusal> {
    fits(env, op, level)?;
    Ok(Quality::Tuned)
}

/// The op as a single product.
fn one<T>(op: &Op<T>) -> Result<&MatMul<T>, Refusal> {
    match op {
        Op::MatMul(op) => Ok(op),
        _ => Err(Refusal::Op),
    }
}

/// Are the weights of `element`, or of any quantized format for `None`?
fn of_element(op: &MatMul<TensorDesc>, element: Option<Element>) -> Result<(), Refusal> {
    let w = op.w.logical().element;
    if element.map_or(w.quant().is_some(), |e| e == w) {
        Ok(())
    } else {
        Err(Refusal::Element {
            arg: "w",
            element: w,
        })
    }
}

unsafe fn run_one(ctx: &Ctx, op: &Op<Tensor>, q8: bool, level: Level) -> Result<()> {
    match op {
        // SAFETY: the caller's contract is the callee's.
        Op::MatMul(op) => unsafe { run(ctx, std::slice::from_ref(op), q8, level) },
        // SAFETY: as above.
        Op::MatMulMany(op) => unsafe { run(ctx, &op.split().collect::<Vec<_>>(), q8, level) },
        _ => Err(unsupported(op.kind(), Refusal::Op)),
    }
}

macro_rules! row {
    ($id:literal, q8 $format:ident, $level:ident) => {
        Row {
            id: KernelId($id),
            op: OpKind::MatMul,
            fits: |env, op| {
                let op = one(op)?;
                of_element(op, Some(Element::Quant(QuantFormat::$format)))?;
                fits_q8(env, op, Level::$level)
            },
            // SAFETY: the caller's contract is the callee's.
            run: |ctx, op| unsafe { run_one(ctx, op, true, Level::$level) },
        }
    };
    ($id:literal, f32 $element:expr, $level:ident) => {
        Row {
            id: KernelId($id),
            op: OpKind::MatMul,
            fits: |env, op| {
                let op = one(op)?;
                of_element(op, $element)?;
                fits_f32(env, op, Level::$level)
            },
            // SAFETY: the caller's contract is the callee's.
            run: |ctx, op| unsafe { run_one(ctx, op, false, Level::$level) },
        }
    };
    ($id:literal, many $fits:ident $q8:literal, $level:ident) => {
        Row {
            id: KernelId($id),
            op: OpKind::MatMulMany,
            fits: |env, op| {
                let Op::MatMulMany(op) = op else {
                    return Err(Refusal::Op);
                };
                for part in op.split() {
                    $fits(env, &part, Level::$level)?;
                }
                Ok(Quality::Tuned)
            },
            // SAFETY: the caller's contract is the callee's.
            run: |ctx, op| unsafe { run_one(ctx, op, $q8, Level::$level) },
        }
    };
}

/// Kernels, best first.
#[cfg(target_arch = "aarch64")]
pub(crate) const ROWS: &[Row] = &[
    row!("cpu-matmul-f32-neon", f32 Some(Element::Plain(DType::F32)), Neon),
    row!("cpu-matmul-f16-neon", f32 Some(Element::Plain(DType::F16)), Neon),
    row!("cpu-matmul-bf16-neon", f32 Some(Element::Plain(DType::BF16)), Neon),
    row!("cpu-matmul-quant-neon", f32 None, Neon),
    row!("cpu-matmul-many-f32-neon", many fits_f32 false, Neon),
];

/// Kernels, best first.
#[cfg(target_arch = "x86_64")]
pub(crate) const ROWS: &[Row] = &[
    row!("cpu-matmul-q4_0-avx512vnni", q8 Q4_0, Avx512),
    row!("cpu-matmul-q4_1-avx512vnni", q8 Q4_1, Avx512),
    row!("cpu-matmul-q5_0-avx512vnni", q8 Q5_0, Avx512),
    row!("cpu-matmul-q8_0-avx512vnni", q8 Q8_0, Avx512),
    row!("cpu-matmul-q4_k-avx512vnni", q8 Q4_K, Avx512),
    row!("cpu-matmul-q6_k-avx512vnni", q8 Q6_K, Avx512),
    row!("cpu-matmul-q4_0-avx2", q8 Q4_0, Avx2),
    row!("cpu-matmul-q4_1-avx2", q8 Q4_1, Avx2),
    row!("cpu-matmul-q5_0-avx2", q8 Q5_0, Avx2),
    row!("cpu-matmul-q8_0-avx2", q8 Q8_0, Avx2),
    row!("cpu-matmul-q4_k-avx2", q8 Q4_K, Avx2),
    row!("cpu-matmul-q6_k-avx2", q8 Q6_K, Avx2),
    row!("cpu-matmul-f32-avx512", f32 Some(Element::Plain(DType::F32)), Avx512),
    row!("cpu-matmul-f16-avx512", f32 Some(Element::Plain(DType::F16)), Avx512),
    row!("cpu-matmul-bf16-avx512", f32 Some(Element::Plain(DType::BF16)), Avx512),
    row!("cpu-matmul-quant-avx512", f32 None, Avx512),
    row!("cpu-matmul-f32-avx2", f32 Some(Element::Plain(DType::F32)), Avx2),
    row!("cpu-matmul-f16-avx2", f32 Some(Element::Plain(DType::F16)), Avx2),
    row!("cpu-matmul-bf16-avx2", f32 Some(Element::Plain(DType::BF16)), Avx2),
    row!("cpu-matmul-quant-avx2", f32 None, Avx2),
    row!("cpu-matmul-many-q8-avx512vnni", many fits_q8 true, Avx512),
    row!("cpu-matmul-many-q8-avx2", many fits_q8 true, Avx2),
    row!("cpu-matmul-many-f32-avx512", many fits_f32 false, Avx512),
    row!("cpu-matmul-many-f32-avx2", many fits_f32 false, Avx2),
];
