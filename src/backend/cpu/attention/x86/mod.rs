//! Attention for AVX2 and AVX-512: the table rows, and how one op becomes tasks.

mod flash;

use self::flash::{Heads, Mask, Partials, Problem, ROWS as TILE, Segment, Task};
use super::seqs::{self, Cache};
use crate::backend::cpu::{
    matmul::x86::{
        epilogue::{Floats, is_simd_float},
        f32_gemm::{Blocks, Plain},
    },
    rows::{Ctx, Env, Row},
    view::Src,
    x86::{Avx2, Avx512, Scratch, Simd},
};
use crate::{
    DType, Element, KernelId, Op, Quality, Tensor, TensorDesc,
    error::{Error, Refusal, Result},
    op::{Arguments, Attention, OpKind},
    quant::QuantFormat,
};
use half::{bf16, f16};
use std::{cell::RefCell, marker::PhantomData};

/// Fewest keys of a task that sees a part of them.
const SPLIT: usize = 256;

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Avx2,
    Avx512,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static PARTIALS: RefCell<Scratch> = RefCell::default();
}

fn heads(t: &Tensor) -> Result<Heads> {
    let d = t.desc();
    let Some(dtype) = d.plain() else {
        return Err(Error::InvalidTensor("expected a plain type".into()));
    };
    let s = d.strides();
    Ok(Heads {
        data: Floats {
            start: Src::of(t)?.ptr().cast_mut(),
            dtype,
        },
        strides: [s[0] as usize, s[1] as usize, s[2] as usize],
    })
}

fn mask(t: &Tensor, shape: &[u32]) -> Result<Mask> {
    let view = Src::of(t)?.broadcast(shape)?;
    let d = view.desc();
    let s = d.strides();
    Ok(Mask {
        data: Floats {
            start: view.ptr().cast_mut(),
            dtype: d.plain().unwrap_or(DType::U8),
        },
        boolean: d.plain() == Some(DType::U8),
        strides: [s[0] as usize, s[1] as usize, s[2] as usize],
    })
}

/// Partial results of one tile of queries that must be joined.
struct Join {
    queries: Segment,
    head: usize,
    at: usize,
    parts: usize,
}

/// Tiles of queries, split along the keys where there are too few for the threads; and the
/// number of rows of partial results.
fn tasks(
    p: &Problem<'_>,
    segments: &[Segment],
    heads: usize,
    threads: usize,
) -> (Vec<Task>, Vec<Join>, usize) {
    let tile = (TILE / p.group).max(1);
    let tiles: usize = segments.iter().map(|s| s.len.div_ceil(tile)).sum::<usize>() * heads;
    let wanted = if threads == 1 {
        1
    } else {
        (threads * 3).div_ceil(tiles.max(1))
    };
    let (mut tasks, mut joins, mut rows) = (Vec::new(), Vec::new(), 0);
    for s in segments {
        // The last tiles see the most keys: they start first.
        for first in (0..s.len).step_by(tile).rev() {
            let queries = Segment {
                i0: s.i0 + first,
                len: tile.min(s.len - first),
                position: s.position + first as i64,
                ..*s
            };
            let (lo, hi) = p.visible(&queries);
            let parts = wanted.min((hi - lo) / SPLIT).max(1);
            let step = (hi - lo).div_ceil(parts).max(1);
            for head in 0..heads {
                if parts == 1 {
                    tasks.push(Task {
                        queries,
                        head,
                        keys: (lo, hi),
                        partial: None,
                    });
                    continue;
                }
                joins.push(Join {
                    queries,
                    head,
                    at: rows,
                    parts,
                });
                for part in 0..parts {
                    let from = (lo + part * step).min(hi);
                    let keys = (from, (from + step).min(hi));
                    tasks.push(Task {
                        queries,
                        head,
                        keys,
                        partial: Some(rows),
                    });
                    rows += queries.len * p.group;
                }
            }
        }
    }
    (tasks, joins, rows)
}

#[inline(always)]
unsafe fn task<S: Simd>(
    p: &Problem<'_>,
    element: Element,
    task: &Task,
    scratch: &mut Scratch,
    partials: Partials,
) {
    let at = scratch.take(p.scratch::<S>(task.queries.len * p.group));
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match element {
            Element::Plain(DType::F32) => {
                p.task::<S, _>(Plain::<f32>(PhantomData), task, at, partials)
            }
            Element::Plain(DType::F16) => {
                p.task::<S, _>(Plain::<f16>(PhantomData), task, at, partials)
            }
            Element::Plain(DType::BF16) => {
                p.task::<S, _>(Plain::<bf16>(PhantomData), task, at, partials)
            }
            Element::Quant(q) => p.task::<S, _>(Blocks(q), task, at, partials),
            Element::Plain(_) => {}
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn task_avx2(p: &Problem<'_>, e: Element, t: &Task, s: &mut Scratch, to: Partials) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { task::<Avx2>(p, e, t, s, to) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn task_avx512(p: &Problem<'_>, e: Element, t: &Task, s: &mut Scratch, to: Partials) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { task::<Avx512>(p, e, t, s, to) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn join(p: &Problem<'_>, j: &Join, partials: Partials) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { p.join::<Avx2>(&j.queries, j.head, j.at, j.parts, partials) }
}

/// Zeros for these queries, which no sequence owns.
unsafe fn clear(op: &Attention<Tensor>, queries: &[usize]) -> Result<()> {
    let out = heads(&op.out)?;
    let shape = op.out.shape();
    for i in queries {
        for h in 0..shape[1] as usize {
            let size = out.data.dtype.size();
            let at = (h * out.strides[1] + i * out.strides[2]) * size;
            // SAFETY: a row of out; zero bytes are the number zero.
            unsafe {
                out.data
                    .start
                    .add(at)
                    .write_bytes(0, shape[3] as usize * size)
            };
        }
    }
    Ok(())
}

unsafe fn run(ctx: &Ctx, op: &Attention<Tensor>, level: Level) -> Result<()> {
    let question = op.try_map(&mut |_, t: &Tensor| Ok::<_, Error>(t.desc()))?;
    let (q, kv) = (question.q, question.kv);
    let (hq, hkv) = (q.dim(1) as usize, kv.k().dim(1) as usize);
    // SAFETY: nobody writes the operands now, by the caller's contract.
    let (sequences, unowned, [k, v]) = unsafe {
        let (sequences, unowned) = seqs::sequences(op)?;
        (sequences, unowned, Cache::of(&op.kv)?)
    };
    // SAFETY: as above; the queries are those of the op.
    unsafe { clear(op, &unowned)? };
    let segments: Vec<Segment> = sequences
        .iter()
        .map(|s| Segment {
            b: s.batch,
            i0: s.first,
            len: s.queries,
            sequence: s.kv,
            position: s.position(0),
            kv_len: s.keys,
        })
        .collect();
    let floats = |t: &Option<Tensor>| -> Result<Option<*const f32>> {
        t.as_ref()
            .map(|t| Src::of(t).map(|s| s.ptr().cast()))
            .transpose()
    };
    let shape = [
        q.dim(0),
        q.dim(1),
        q.dim(2),
        u32::try_from(kv.capacity()).unwrap_or(u32::MAX),
    ];
    let p = Problem {
        q: heads(&op.q)?,
        out: heads(&op.out)?,
        k,
        v,
        group: hq / hkv,
        dk: q.dim(3) as usize,
        dv: kv.v().dim(3) as usize,
        scale: op.scale,
        causal: op.causal,
        window: op.window.map(i64::from),
        softcap: op.softcap,
        alibi: floats(&op.alibi)?,
        sinks: floats(&op.sinks)?,
        mask: op.mask.as_ref().map(|t| mask(t, &shape)).transpose()?,
    };
    let element = kv.k().element;
    let (tasks, joins, rows) = tasks(&p, &segments, hkv, ctx.pool.threads());
    let work: usize = tasks
        .iter()
        .map(|t| t.queries.len * p.group * (t.keys.1 - t.keys.0) * (p.dk + p.dv))
        .sum();
    PARTIALS.with_borrow_mut(|memory| {
        let width = match level {
            Level::Avx2 => p.padded::<Avx2>(),
            Level::Avx512 => p.padded::<Avx512>(),
        };
        let mut partials = Partials {
            start: std::ptr::null_mut(),
            width,
        };
        partials.start = memory.take(rows * partials.step());
        ctx.pool.parallel(tasks.len(), work as u64 / 20, |range| {
            SCRATCH.with_borrow_mut(|scratch| {
                for task in &tasks[range] {
                    // SAFETY: `fits` saw the instruction sets; tasks write rows of their own.
                    unsafe {
                        match level {
                            Level::Avx2 => task_avx2(&p, element, task, scratch, partials),
                            Level::Avx512 => task_avx512(&p, element, task, scratch, partials),
                        }
                    }
                }
            });
        });
        for j in &joins {
            // SAFETY: as above; all parts are complete.
            unsafe { join(&p, j, partials) };
        }
    });
    Ok(())
}

fn fits(env: &Env, op: &Op<TensorDesc>, level: Level) -> Result<Quality, Refusal> {
    let Op::Attention(op) = op else {
        return Err(Refusal::Op);
    };
    let has = match level {
        Level::Avx2 => env.isa.avx2,
        Level::Avx512 => env.isa.avx512,
    };
    if !has {
        return Err(Refusal::Feature(match level {
            Level::Avx2 => "AVX2, FMA and F16C",
            Level::Avx512 => "AVX-512 F, BW, DQ and VL",
        }));
    }
    let (k, v) = (op.kv.k(), op.kv.v());
    for (arg, t) in [("q", &op.q), ("out", &op.out), ("k", k), ("v", v)] {
        let cache = arg == "k" || arg == "v";
        let known =
            is_simd_float(t.plain()) || cache && t.element == Element::Quant(QuantFormat::Q8_0);
        if !known || arg == "v" && v.element != k.element {
            return Err(Refusal::Element {
                arg,
                element: t.element,
            });
        }
        if !t.is_row_contiguous() {
            return Err(Refusal::Layout {
                arg,
                why: "the last axis is not contiguous",
            });
        }
    }
    for (arg, t) in [("alibi", &op.alibi), ("sinks", &op.sinks)] {
        if t.as_ref().is_some_and(|t| !t.is_row_contiguous()) {
            return Err(Refusal::Layout {
                arg,
                why: "is not contiguous",
            });
        }
    }
    if let Some(mask) = &op.mask {
        if !(is_simd_float(mask.plain()) || mask.plain() == Some(DType::U8)) {
            return Err(Refusal::Element {
                arg: "mask",
                element: mask.element,
            });
        }
        let whole = u64::from(mask.dim_back(0)) == op.kv.capacity();
        if !whole || !mask.is_row_contiguous() {
            return Err(Refusal::Layout {
                arg: "mask",
                why: "the last axis is not whole and contiguous",
            });
        }
    }
    Ok(Quality::Tuned)
}

macro_rules! row {
    ($id:literal, $level:ident) => {
        Row {
            id: KernelId($id),
            op: OpKind::Attention,
            fits: |env, op| fits(env, op, Level::$level),
            run: |ctx, op| match op {
                // SAFETY: the caller's contract is the callee's.
                Op::Attention(op) => unsafe { run(ctx, op, Level::$level) },
                _ => Err(Error::Unsupported {
                    backend: "cpu".into(),
                    op: Some(op.kind()),
                    refusal: Refusal::Op,
                }),
            },
        }
    };
}

/// Kernels of x86-64, best first.
pub(crate) const ROWS: &[Row] = &[
    row!("cpu-attention-avx512", Avx512),
    row!("cpu-attention-avx2", Avx2),
];

#[cfg(all(test, feature = "conformance"))]
mod tests;
