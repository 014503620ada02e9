//! Ops as products.

use super::{
    gemm::{self, Product, Rows, Weights},
    kernel::{self, Kernel, Math, Tier},
    pack::matrix_bytes,
    panel::Matrix,
};
use crate::backend::cpu::{
    matmul::{
        epilogue::Finish,
        portable,
        simd::epilogue::{Floats, Matrix as Floats2, Output},
    },
    rows::Ctx,
    view::{self, Dst, Src},
};
use crate::{
    DType, Op, Tensor, TensorDesc,
    error::{Error, Result},
    op::{Act, Epilogue, GroupedMatMul, MatMul, Routing, Weight},
};
use rustc_hash::FxHashMap;

fn plain(t: &TensorDesc) -> Result<DType> {
    t.plain()
        .ok_or_else(|| Error::InvalidTensor("expected a plain type".into()))
}

fn missing() -> Error {
    Error::unsupported("cpu", "a type that the kernel does not take")
}

/// Numbers from column to column of y and from k to k in a weight that is not packed; axes of one
/// number take the step that suits.
pub(super) fn steps(w: &Weight<TensorDesc>) -> (usize, usize) {
    let t = w.logical();
    let (n, k) = if w.is_transposed() { (0, 1) } else { (1, 0) };
    let step = |back: usize, other: usize| {
        let len = t.dim_back(back);
        let lone = len <= 1 && (back == k || t.stride_back(other) != 1);
        if lone {
            1
        } else {
            t.stride_back(back) as usize
        }
    };
    (step(n, k), step(k, n))
}

/// The weights of one op.
struct Side {
    kernel: &'static Kernel,
    start: *const u8,
    /// Steps and what fills panels, unless packed.
    plain: Option<((usize, usize), kernel::Fill)>,
    n: usize,
    k: usize,
    dtype: DType,
}

impl Side {
    fn of(x: DType, w: &Weight<Tensor>, tier: Tier, math: Math) -> Result<Side> {
        let desc = w.try_map("w", &mut |_, t: &Tensor| Ok::<_, Error>(t.desc()))?;
        let dtype = plain(desc.logical())?;
        let packed = matches!(w, Weight::Packed { .. });
        Ok(Side {
            kernel: kernel::select(tier, math, (x, dtype), packed).ok_or_else(missing)?,
            start: Src::of(w.tensor())?.ptr(),
            plain: if packed {
                None
            } else {
                let fill = kernel::fill(tier, math, dtype).ok_or_else(missing)?;
                Some((steps(&desc), fill))
            },
            n: desc.n() as usize,
            k: desc.k() as usize,
            dtype,
        })
    }

    /// The matrix at byte `at` of the logical weight as it is stored: strided if plain, else
    /// contiguous.
    fn matrix(&self, at: usize) -> Weights {
        match self.plain {
            // SAFETY: an offset inside the operand.
            Some(((n_step, k_step), fill)) => unsafe {
                let start = self.start.add(at);
                Weights::Plain(
                    Matrix {
                        start,
                        n_step,
                        k_step,
                    },
                    fill,
                )
            },
            None => {
                let index = at / (self.n * self.k * self.dtype.size()).max(1);
                let bytes = matrix_bytes(self.kernel, self.n, self.k);
                // SAFETY: `fits` saw that the pack holds all matrices.
                Weights::Packed(unsafe { self.start.add(index * bytes) })
            }
        }
    }
}

/// Rows of an operand of y's shape: the first, and where the others are.
struct Cells {
    data: Floats,
    rows: view::Rows,
    stride: usize,
}

impl Cells {
    fn of(t: &Tensor) -> Result<Cells> {
        let dst = Dst::of(t)?;
        let desc = t.desc();
        Ok(Cells {
            data: Floats {
                start: dst.ptr(),
                dtype: plain(&desc)?,
            },
            rows: dst.rows(),
            stride: desc.stride_back(1) as usize,
        })
    }

    /// Matrix `b` of `m` rows; for `None` all rows as one matrix, which [`Cells::uniform`] allows.
    fn matrix(&self, b: Option<(usize, usize)>) -> Floats2 {
        let size = self.data.dtype.size();
        let whole = Floats2 {
            data: self.data,
            stride: self.stride,
        };
        match b {
            // SAFETY: a row of the operand.
            Some((b, m)) => unsafe { whole.offset(self.rows.offset(b * m) / size) },
            None => Floats2 {
                stride: self.rows.uniform().unwrap_or(0) / size,
                ..whole
            },
        }
    }
}

/// Where the products of an op go.
struct Ends<'a> {
    y: Cells,
    gate: Option<Cells>,
    residual: Option<Cells>,
    bias: Option<Floats>,
    epilogue: &'a Epilogue<Tensor>,
    isa: crate::backend::cpu::isa::Isa,
}

impl<'a> Ends<'a> {
    fn of(ctx: &Ctx, y: &Tensor, epilogue: &'a Epilogue<Tensor>) -> Result<Ends<'a>> {
        let cells = |t: &Option<Tensor>| t.as_ref().map(Cells::of).transpose();
        Ok(Ends {
            y: Cells::of(y)?,
            gate: cells(&epilogue.gate)?,
            residual: cells(&epilogue.residual)?,
            bias: match &epilogue.bias {
                Some(t) => Some(Cells::of(t)?.data),
                None => None,
            },
            epilogue,
            isa: ctx.env.isa,
        })
    }

    /// Are all rows one matrix?
    fn uniform(&self) -> bool {
        let all = [Some(&self.y), self.gate.as_ref(), self.residual.as_ref()];
        all.into_iter()
            .flatten()
            .all(|c| c.rows.uniform().is_some())
    }

    /// Those of matrix `b` of `m` rows, or of all rows; the bias from `bias` numbers on.
    fn output(&self, b: Option<(usize, usize)>, bias: usize) -> Output {
        Output {
            y: self.y.matrix(b),
            scale: self.epilogue.scale.unwrap_or(1.0),
            bias: self.bias.map(|data| {
                let whole = Floats2 { data, stride: 0 };
                // SAFETY: an offset inside the bias.
                unsafe { whole.offset(bias) }.data
            }),
            act: self.epilogue.act.unwrap_or(Act::Identity),
            isa: self.isa,
            gate: self.gate.as_ref().map(|c| c.matrix(b)),
            residual: self.residual.as_ref().map(|c| c.matrix(b)),
            accumulate: self.epilogue.accumulate,
        }
    }
}

/// Runs products that share x.
///
/// # Safety
/// The queue checked the ops, `fits` accepted them, and nobody else touches the operands.
pub(super) unsafe fn many(ctx: &Ctx, ops: &[MatMul<Tensor>], tier: Tier, math: Math) -> Result<()> {
    let Some(first) = ops.first() else {
        return Ok(());
    };
    let x = first.x.desc();
    let mut starts = Vec::new();
    let mut known: FxHashMap<(&[u32], usize), usize> = FxHashMap::default();
    let mut products = Vec::new();
    let (mut per_word, mut terms) = (1, 1);
    for op in ops.iter().filter(|op| !op.y.desc().is_empty()) {
        let side = Side::of(plain(&op.x.desc())?, &op.w, tier, math)?;
        let ends = Ends::of(ctx, &op.y, &op.epilogue)?;
        per_word = side.kernel.per_word;
        terms = side.kernel.terms.as_ref().map_or(1, |t| t.x);
        let y = op.y.shape();
        let (batch, m) = (&y[..y.len() - 2], y[y.len() - 2] as usize);
        let logical = *op
            .w
            .try_map("w", &mut |_, t: &Tensor| Ok::<_, Error>(t.desc()))?
            .logical();
        let over = |d: &TensorDesc| -> Result<view::Rows> {
            let mut shape = batch.to_vec();
            shape.extend_from_slice(&d.shape()[d.rank() - 2..]);
            Ok(view::Rows::new(&d.broadcast_to(&shape)?, 2))
        };
        let (xb, wb) = (over(&x)?, over(&logical)?);
        let step = x.stride_bytes(x.rank() - 2) as usize;
        let count = xb.count();
        let shared = (1..count).all(|b| wb.offset(b) == wb.offset(0));
        let mut product = |rows, w, out| {
            products.push(Product {
                kernel: side.kernel,
                w: side.matrix(w),
                size: side.dtype.size(),
                n: side.n,
                rows,
                scatter: None,
                out,
            });
        };
        if shared && ends.uniform() {
            // All rows at once; x repeated where it is broadcast, once for all products.
            let first = *known.entry((batch, usize::MAX)).or_insert_with(|| {
                let first = starts.len();
                starts.extend(
                    (0..count)
                        .flat_map(|b| (0..m).map(move |i| (b, i)))
                        .map(|(b, i)| xb.offset(b) + i * step),
                );
                first
            });
            product(first..first + count * m, wb.offset(0), ends.output(None, 0));
            continue;
        }
        for b in 0..count {
            let at = xb.offset(b);
            let first = *known.entry((&[], at)).or_insert_with(|| {
                starts.extend((0..m).map(|i| at + i * step));
                starts.len() - m
            });
            product(first..first + m, wb.offset(b), ends.output(Some((b, m)), 0));
        }
    }
    let rows = Rows {
        x: Src::of(&first.x)?.ptr(),
        starts: &starts,
        k: x.dim_back(0) as usize,
        lines: kernel::lines(tier, math, plain(&x)?).ok_or_else(missing)?,
        per_word,
        terms,
    };
    // SAFETY: the caller's contract.
    unsafe { gemm::run(&ctx.pool, &rows, &products) };
    Ok(())
}

/// Runs the products of experts.
///
/// # Safety
/// As for [`many`].
pub(super) unsafe fn grouped(
    ctx: &Ctx,
    op: &GroupedMatMul<Tensor>,
    tier: Tier,
    math: Math,
) -> Result<()> {
    if op.y.desc().is_empty() {
        return Ok(());
    }
    let side = Side::of(plain(&op.x.desc())?, &op.w, tier, math)?;
    let ends = Ends::of(ctx, &op.y, &op.epilogue)?;
    let logical = *op
        .w
        .try_map("w", &mut |_, t: &Tensor| Ok::<_, Error>(t.desc()))?
        .logical();
    let experts = logical.dim(0) as usize;
    // SAFETY: nobody writes the routing.
    let owners = unsafe { portable::owners(op, experts)? };
    let x = op.x.desc();
    let top = match &op.routing {
        Routing::Ids(ids) => ids.shape()[1] as usize,
        Routing::Offsets(_) => 1,
    };
    let start = |row: usize| {
        let own = if x.rank() == 3 {
            row % top * x.stride_bytes(1) as usize
        } else {
            0
        };
        row / top * x.stride_bytes(0) as usize + own
    };
    let mut lists: Vec<Vec<usize>> = vec![Vec::new(); experts];
    let mut lost = Vec::new();
    for (row, owner) in owners.into_iter().enumerate() {
        match owner {
            Some(e) => lists[e].push(row),
            None => lost.push(row),
        }
    }
    let bias_step = match &op.epilogue.bias {
        Some(t) => t.desc().stride_back(1) as usize,
        None => 0,
    };
    let mut starts = Vec::new();
    let mut products = Vec::new();
    for (e, list) in lists.iter().enumerate().filter(|(_, l)| !l.is_empty()) {
        let first = starts.len();
        starts.extend(list.iter().map(|&row| start(row)));
        products.push(Product {
            kernel: side.kernel,
            w: side.matrix(e * logical.stride_bytes(0) as usize),
            size: side.dtype.size(),
            n: side.n,
            rows: first..starts.len(),
            scatter: Some(list),
            out: ends.output(None, e * bias_step),
        });
    }
    let rows = Rows {
        x: Src::of(&op.x)?.ptr(),
        starts: &starts,
        k: side.k,
        lines: kernel::lines(tier, math, plain(&x)?).ok_or_else(missing)?,
        per_word: side.kernel.per_word,
        terms: side.kernel.terms.as_ref().map_or(1, |t| t.x),
    };
    // SAFETY: the caller's contract.
    unsafe {
        gemm::run(&ctx.pool, &rows, &products);
        if !lost.is_empty() {
            let finish = Finish::of(ctx.env.isa, &op.epilogue, &op.y)?;
            for row in lost {
                finish.store_zeros(row);
            }
        }
    }
    Ok(())
}

/// # Safety
/// As for [`many`].
pub(super) unsafe fn run(ctx: &Ctx, op: &Op<Tensor>, tier: Tier, math: Math) -> Result<()> {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match op {
            Op::MatMul(op) => many(ctx, std::slice::from_ref(op), tier, math),
            Op::MatMulMany(op) => many(ctx, &op.split().collect::<Vec<_>>(), tier, math),
            Op::GroupedMatMul(op) => grouped(ctx, op, tier, math),
            _ => Err(missing()),
        }
    }
}
