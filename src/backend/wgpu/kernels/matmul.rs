//! `MatMul` and `MatMulMany`: dot products for few rows of x, tiles for many. All compute in f32.

use super::{
    super::{
        caps::Caps,
        launch::{Launch, aligned, pairs},
        stream::State,
    },
    weights::{decoder, decodes},
};
use crate::{
    backend::first,
    device::Quality,
    element::{DType, Element},
    error::{Error, Refusal, Result},
    layout::TensorDesc,
    op::{Act, MatMul, Op, Weight},
    tensor::Tensor,
};

/// Most rows of x that the dot products take.
const VEC_ROWS: u32 = 8;

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    /// `matmul_vec.wgsl`.
    Vec { subgroup: bool },
    /// `matmul_tile.wgsl` with `t` x `t` results per thread and `s` threads on a side.
    Tile { t: u32, s: u32 },
}

const LARGE: Kernel = Kernel::Tile { t: 8, s: 16 };
const MEDIUM: Kernel = Kernel::Tile { t: 4, s: 16 };
const SMALL: Kernel = Kernel::Tile { t: 4, s: 8 };
const SUBGROUP: Kernel = Kernel::Vec { subgroup: true };
const SHARED: Kernel = Kernel::Vec { subgroup: false };

/// In the order of the kernel table.
const BEST_FIRST: [Kernel; 5] = [SUBGROUP, SHARED, LARGE, MEDIUM, SMALL];

/// `fits` of a kernel of `MatMul`.
macro_rules! entry {
    ($fits:ident, $run:ident, $kernel:expr) => {
        pub(crate) fn $fits(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
            match op {
                Op::MatMul(op) => fits($kernel, caps, op),
                _ => Err(Refusal::Op),
            }
        }

        pub(crate) fn $run(state: &mut State, op: &Op<Tensor>) -> Result<()> {
            match op {
                Op::MatMul(op) => run($kernel, state, op),
                other => Err(wrong_op(other)),
            }
        }
    };
}

entry!(fits_vec_subgroup, run_vec_subgroup, SUBGROUP);
entry!(fits_vec, run_vec, SHARED);
entry!(fits_tile128, run_tile128, LARGE);
entry!(fits_tile64, run_tile64, MEDIUM);
entry!(fits_tile32, run_tile32, SMALL);

/// `fits` of `MatMulMany`: each part by the kernel that its shape asks for.
pub(crate) fn fits_many(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::MatMulMany(op) = op else {
        return Err(Refusal::Op);
    };
    let mut worst = Quality::Tuned;
    for part in op.split() {
        worst = worst.min(choose(caps, &part)?.1);
    }
    Ok(worst)
}

/// Encodes the parts one after the other; they do not wait for each other on the device.
pub(crate) fn run_many(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let Op::MatMulMany(many) = op else {
        return Err(wrong_op(op));
    };
    for part in many.split() {
        let question = describe(&part)?;
        let (kernel, _) = choose(state.caps(), &question).map_err(|r| unsupported(op, r))?;
        run(kernel, state, &part)?;
    }
    Ok(())
}

/// The op over descriptions.
fn describe(op: &MatMul<Tensor>) -> Result<MatMul<TensorDesc>> {
    let whole = Op::from(op.clone());
    match whole.map(|_, t| t.desc()) {
        Op::MatMul(d) => Ok(d),
        other => Err(unsupported(&other, Refusal::Op)),
    }
}

fn choose(caps: &Caps, op: &MatMul<TensorDesc>) -> Result<(Kernel, Quality), Refusal> {
    first(BEST_FIRST, |kernel| fits(kernel, caps, op), Refusal::Op)
}

fn unsupported<T>(op: &Op<T>, refusal: Refusal) -> Error {
    Error::Unsupported {
        backend: super::super::device::BACKEND.into(),
        op: Some(op.kind()),
        refusal,
    }
}

fn wrong_op<T>(op: &Op<T>) -> Error {
    unsupported(op, Refusal::Op)
}

/// Floats that the generated accessors read as f32 and, if `d` is written, write.
fn float(arg: &'static str, d: &TensorDesc) -> Result<(), Refusal> {
    match d.plain() {
        Some(DType::F32 | DType::F16 | DType::BF16) => Ok(()),
        _ => Err(Refusal::Element {
            arg,
            element: d.element,
        }),
    }
}

fn fits(kernel: Kernel, caps: &Caps, op: &MatMul<TensorDesc>) -> Result<Quality, Refusal> {
    if matches!(op.w, Weight::Packed { .. }) {
        return Err(Refusal::Feature("prepacked weights"));
    }
    let w = op.w.tensor();
    decodes("w", w.element)?;
    for (arg, d) in [
        ("x", Some(&op.x)),
        ("y", Some(&op.y)),
        ("bias", op.epilogue.bias.as_ref()),
        ("gate", op.epilogue.gate.as_ref()),
        ("residual", op.epilogue.residual.as_ref()),
    ] {
        d.map_or(Ok(()), |d| float(arg, d))?;
    }
    // Rows may be dealt out to several dispatches, so one row is what must fit a binding.
    let (k, size) = (u64::from(op.k()), op.x.element.block_bytes() as u64);
    let w_bytes = match w.element {
        Element::Quant(q) => k / q.block_len() as u64 * q.block_bytes() as u64,
        Element::Plain(_) => k.saturating_mul(w_col(op)),
    };
    let x_bytes = k.saturating_mul(op.x.stride_back(0).max(1) as u64 * size);
    for (what, asked) in [
        ("bytes of a row of x", x_bytes),
        ("bytes of a row of w", w_bytes),
    ] {
        let max = caps.max_span();
        if asked > max {
            return Err(Refusal::Limit { what, asked, max });
        }
    }
    let (m, n) = (op.m(), op.n());
    match kernel {
        Kernel::Vec { subgroup } => {
            if subgroup && caps.subgroup.is_none() {
                return Err(Refusal::Feature("subgroup operations"));
            }
            if m > VEC_ROWS {
                return Err(Refusal::Limit {
                    what: "M",
                    asked: m.into(),
                    max: VEC_ROWS.into(),
                });
            }
            if w_form(op) == WForm::Strided {
                return Err(Refusal::Layout {
                    arg: "w",
                    why: "the rows must be contiguous along K",
                });
            }
            Ok(Quality::Tuned)
        }
        Kernel::Tile { t, s } => {
            if caps.workgroup_size < s * s {
                return Err(Refusal::Limit {
                    what: "threads of a workgroup",
                    asked: (s * s).into(),
                    max: caps.workgroup_size.into(),
                });
            }
            // A large tile pays only where it leaves enough of them to fill a device.
            let side = t * s;
            let tiles = u64::from(m.div_ceil(side)) * u64::from(n.div_ceil(side)) * op.batches();
            let few = tiles < 128;
            if kernel == LARGE && few {
                return Err(Refusal::Layout {
                    arg: "y",
                    why: "fewer than 128 tiles of 128 x 128",
                });
            }
            if kernel == MEDIUM && (m <= 32 || n <= 32) {
                return Err(Refusal::Layout {
                    arg: "y",
                    why: "M or N is below 33, half a tile of 64 x 64",
                });
            }
            Ok(if kernel == SMALL {
                Quality::Portable
            } else if few && caps.discrete {
                Quality::Slow
            } else {
                Quality::Tuned
            })
        }
    }
}

/// How the shader walks w.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WForm {
    Blocks = 0,
    Rows = 1,
    Strided = 2,
}

fn w_form(op: &MatMul<TensorDesc>) -> WForm {
    let w = op.w.tensor();
    match w.element {
        Element::Quant(_) => WForm::Blocks,
        Element::Plain(_) if w_col(op) == w.element.block_bytes() as u64 => WForm::Rows,
        Element::Plain(_) => WForm::Strided,
    }
}

/// Bytes from one k to the next.
fn w_col(op: &MatMul<TensorDesc>) -> u64 {
    let w = op.w.tensor();
    let (along, size) = (op.w.is_transposed() as usize, w.element.block_bytes());
    if w.dim_back(along) == 1 {
        size as u64
    } else {
        w.stride_back(along) as u64 * size as u64
    }
}

/// Bytes from one row (output column) to the next.
fn w_row(op: &MatMul<TensorDesc>) -> u64 {
    let w = op.w.tensor();
    let across = !op.w.is_transposed() as usize;
    w.stride_back(across) as u64 * w.element.block_bytes() as u64
}

/// Runs the op in as many parts as the bindings of its operands need.
fn run(kernel: Kernel, state: &mut State, op: &MatMul<Tensor>) -> Result<()> {
    let max = state.caps().max_span();
    let large = |t: &Tensor| t.desc().span_bytes() > max;
    let e = &op.epilogue;
    let by_m =
        large(&op.x) || large(&op.y) || [&e.gate, &e.residual].into_iter().flatten().any(large);
    let by_n = large(op.w.tensor());
    if !by_m && !by_n {
        return launch(kernel, state, op);
    }
    let d = op.y.desc();
    let batch_axis = (0..d.rank() - 2).find(|&a| d.dim(a) > 1);
    let (back, len) = match batch_axis {
        Some(axis) => (d.rank() - 1 - axis, d.dim(axis)),
        None if by_m && d.dim_back(1) > 1 => (1, d.dim_back(1)),
        None => (0, d.dim_back(0)),
    };
    if len < 2 {
        // One element of y is left and `fits` saw to it that its operands fit.
        return launch(kernel, state, op);
    }
    let middle = len / 2;
    for range in [0..middle, middle..len] {
        run(kernel, state, &part(op, back, range)?)?;
    }
    Ok(())
}

/// The part of the op that computes `range` of y's axis `back` (counted from the last).
fn part(op: &MatMul<Tensor>, back: usize, range: std::ops::Range<u32>) -> Result<MatMul<Tensor>> {
    let cut = |t: &Tensor, back: usize| -> Result<Tensor> {
        match t.desc().rank().checked_sub(back + 1) {
            // Axes that broadcast stay whole.
            Some(axis) if t.desc().dim(axis) > 1 => t.narrowed(axis, range.clone()),
            _ => Ok(t.clone()),
        }
    };
    let mut out = op.clone();
    out.y = cut(&op.y, back)?;
    for t in [&mut out.epilogue.gate, &mut out.epilogue.residual]
        .into_iter()
        .flatten()
    {
        *t = cut(t, back)?;
    }
    match back {
        0 => {
            let across = !op.w.is_transposed() as usize;
            if let Some(bias) = &mut out.epilogue.bias {
                *bias = cut(bias, 0)?;
            }
            match &mut out.w {
                Weight::Rows(w) | Weight::Transposed(w) => *w = cut(w, across)?,
                Weight::Packed { .. } => {}
            }
        }
        1 => out.x = cut(&op.x, 1)?,
        _ => {
            out.x = cut(&op.x, back)?;
            match &mut out.w {
                Weight::Rows(w) | Weight::Transposed(w) => *w = cut(w, back)?,
                Weight::Packed { .. } => {}
            }
        }
    }
    Ok(out)
}

/// Batch axes of x, w, y, gate and residual: length and strides (of w in bytes, else in elements),
/// innermost first, neighbours merged where every operand allows it.
fn batch_axes(op: &MatMul<TensorDesc>) -> Vec<(u32, [u64; 5])> {
    let stride = |d: Option<&TensorDesc>, back: usize| match d {
        Some(d) if d.dim_back(back) > 1 => d.stride_back(back) as u64,
        _ => 0,
    };
    let w = op.w.tensor();
    let mut out: Vec<(u32, [u64; 5])> = Vec::new();
    for back in 2..op.y.rank() {
        let len = op.y.dim_back(back);
        if len == 1 {
            continue;
        }
        let strides = [
            stride(Some(&op.x), back),
            stride(Some(w), back) * w.element.block_bytes() as u64,
            stride(Some(&op.y), back),
            stride(op.epilogue.gate.as_ref(), back),
            stride(op.epilogue.residual.as_ref(), back),
        ];
        match out.last_mut() {
            Some((inner, steps))
                if (0..5).all(|i| steps[i] * u64::from(*inner) == strides[i])
                    && inner.checked_mul(len).is_some() =>
            {
                *inner *= len;
            }
            _ => out.push((len, strides)),
        }
    }
    out
}

/// Index arithmetic in shaders has 32 bits; whatever fits a binding fits them.
fn small(v: u64) -> Result<u32> {
    u32::try_from(v).map_err(|_| Error::TooLarge {
        what: "stride",
        asked: v,
        max: u32::MAX.into(),
    })
}

fn launch(kernel: Kernel, state: &mut State, op: &MatMul<Tensor>) -> Result<()> {
    let d = describe(op)?;
    let (m, n, k) = (d.m(), d.n(), d.k());
    let batch = d.batches();
    let axes = batch_axes(&d);
    let w = op.w.tensor();
    let Some(format) = decoder(w.element()) else {
        return Err(unsupported(
            &Op::from(op.clone()),
            Refusal::Element {
                arg: "w",
                element: w.element(),
            },
        ));
    };
    let form = w_form(&d);
    let whole = k.is_multiple_of(8);
    let multiple = |bytes: u64| bytes.is_multiple_of(16);
    let w_vec = form == WForm::Rows
        && w.element().block_bytes() > 1
        && whole
        && aligned(w, 16)
        && multiple(w_row(&d))
        && axes.iter().all(|a| multiple(a.1[1]));
    let x_size = d.x.element.block_bytes() as u64;
    let x_step = if k > 1 { d.x.stride_back(0) } else { 1 };
    let x_row = if m > 1 { d.x.stride_back(1) as u64 } else { 0 };
    let x_form = if x_step != 1 {
        2
    } else if whole
        && aligned(&op.x, 16)
        && multiple(x_row * x_size)
        && axes.iter().all(|a| multiple(a.1[0] * x_size))
    {
        0
    } else {
        1
    };
    let e = &op.epilogue;
    let act = e.act.unwrap_or(Act::Identity);
    let act = Act::ALL.iter().position(|&a| a == act).unwrap_or(0);

    let (file, groups, pair) = match kernel {
        Kernel::Vec { .. } => {
            let rows = vec_rows(m);
            ("matmul_vec.wgsl", u64::from(n.div_ceil(rows)), false)
        }
        Kernel::Tile { t, s } => {
            let tiles = |len: u32| u64::from(len.div_ceil(t * s));
            let pair = d.y.element.block_bytes() == 2 && pairs(&op.y);
            ("matmul_tile.wgsl", tiles(m) * tiles(n), pair)
        }
    };
    let mut l = Launch::new(file)
        .def_text("FORMAT", format)
        .def_text("X_TYPE", d.x.element.name())
        .def("W_FORM", form as i64)
        .def("W_BYTES", w.element().block_bytes() as i64)
        .def("W_VEC", w_vec)
        .def("K8", whole)
        .def("X_FORM", x_form)
        .def("X_WORDS", x_size as i64 * 2)
        .def("NB", axes.len() as i64)
        .def("SCALE", e.scale.is_some())
        .def("BIAS", e.bias.is_some())
        .def("ACT", act as i64)
        .def("GATE", e.gate.is_some())
        .def("RESIDUAL", e.residual.is_some())
        .def("ACCUMULATE", e.accumulate);
    l = match kernel {
        Kernel::Vec { subgroup } => l
            .def("WG", vec_threads(k))
            .def("R", vec_rows(m))
            .def("M", m)
            .def("SUBGROUP", subgroup),
        Kernel::Tile { t, s } => l
            .def("T", t)
            .def("S", s)
            .def("BM", t * s)
            .def("BK", 8 * s / t)
            .def("Y_PAIRS", pair)
            .def("LONG_EPILOGUE", !e.is_identity()),
    };
    l = if x_form == 0 {
        l.input_vec("x", &op.x)
    } else {
        l.input("x", &op.x)
    };
    l = if w_vec {
        l.input_vec("w", w)
    } else {
        l.input("w", w)
    };
    l = l
        .output_as("y", &op.y, pair)
        .input_opt("bias", e.bias.as_ref())
        .input_opt("gate", e.gate.as_ref())
        .input_opt("residual", e.residual.as_ref())
        .u32("m", m)
        .u32("n", n)
        .u32("k", k)
        .u32("x_row", small(x_row)?)
        .u32("x_col", small(x_step as u64)?)
        .u32("w_row", small(w_row(&d))?)
        .u32("w_col", small(w_col(&d))?)
        .u32("y_row", small(d.y.stride_back(1) as u64)?)
        .u32("y_col", small(d.y.stride_back(0) as u64)?);
    if let Some(scale) = e.scale {
        l = l.f32("scale", scale);
    }
    if let Some(b) = &d.epilogue.bias {
        l = l.u32("bias_col", small(b.stride_back(0) as u64)?);
    }
    if let Some(g) = &d.epilogue.gate {
        l = l
            .u32("gate_row", small(g.stride_back(1) as u64)?)
            .u32("gate_col", small(g.stride_back(0) as u64)?);
    }
    if let Some(r) = &d.epilogue.residual {
        l = l
            .u32("residual_row", small(r.stride_back(1) as u64)?)
            .u32("residual_col", small(r.stride_back(0) as u64)?);
    }
    let lengths: Vec<u32> = axes.iter().map(|a| a.0).collect();
    l = l.list("dim", &lengths);
    for (i, name) in [
        "x_batch",
        "w_batch",
        "y_batch",
        "gate_batch",
        "residual_batch",
    ]
    .into_iter()
    .enumerate()
    {
        let steps: Vec<u32> = axes.iter().map(|a| small(a.1[i])).collect::<Result<_>>()?;
        l = l.list(name, &steps);
    }
    state.dispatch(l, groups * batch)
}

/// Rows of w per workgroup of the dot products.
fn vec_rows(m: u32) -> u32 {
    if m <= 4 { 4 } else { 2 }
}

/// Threads per workgroup of the dot products: enough groups of 8 k for each.
fn vec_threads(k: u32) -> u32 {
    match k {
        0..1024 => 32,
        1024..4096 => 64,
        _ => 128,
    }
}
