//! Attention for AVX2, AVX-512 (BF16, FP16), AMX and NEON: the table rows and how they run.

#[cfg(target_arch = "x86_64")]
mod ahead;
mod arithmetic;
mod block;
#[cfg(target_arch = "x86_64")]
mod bytes;
mod decode;
mod flash;
#[cfg(target_arch = "x86_64")]
mod fp16;
#[cfg(target_arch = "x86_64")]
mod halves;
mod lanes;
mod numbers;
mod problem;
mod products;
mod split;
mod streams;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vectors;

#[cfg(target_arch = "x86_64")]
use self::{arithmetic::Arithmetic, bytes::Bytes, fp16::Fp16, halves::Halves, tiles::Tiles};
use self::{
    arithmetic::Exact,
    numbers::{Numbers, Plain, Q8},
    problem::{Heads, Mask, Partials, Problem, Segment, Task},
    split::{Join, tasks},
    streams::Streams,
};
use super::seqs::{self, Cache};
#[cfg(target_arch = "aarch64")]
use crate::backend::cpu::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd::{Avx2, Avx512};
use crate::backend::cpu::{
    matmul::simd::epilogue::{Floats, is_simd_float},
    rows::{Ctx, Env, Row, unsupported},
    simd::{Eight, Scratch},
    view::Src,
};
use crate::{
    DType, Element, KernelId, Op, Quality, Tensor, TensorDesc,
    error::{Error, Refusal, Result},
    op::{Arguments, Attention, OpKind},
    quant::QuantFormat,
};
use half::{bf16, f16};
use std::cell::RefCell;

/// Operations below which other threads are not asked.
const SERIAL: u64 = 1 << 18;

#[derive(Clone, Copy, PartialEq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with BF16, which rounds queries, keys, values and weights.
    #[cfg(target_arch = "x86_64")]
    Bf16,
    /// AVX-512 with FP16, for few rows over a cache of f16.
    #[cfg(target_arch = "x86_64")]
    Fp16,
    /// BF16 by AMX, for more rows than a vector has lanes; few rows of a sequence in f16 or by
    /// bytes where the cache holds them, else in f32.
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "aarch64")]
    Neon,
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

/// `$run::<N>(..)` for the numbers `N` of a cache.
macro_rules! of_cache {
    ($element:expr, $run:ident($($arg:expr),*)) => {
        match $element {
            Element::Plain(DType::F32) => $run::<Plain<f32>>($($arg),*),
            Element::Plain(DType::F16) => $run::<Plain<f16>>($($arg),*),
            Element::Plain(DType::BF16) => $run::<Plain<bf16>>($($arg),*),
            Element::Quant(_) => $run::<Q8>($($arg),*),
            Element::Plain(_) => {}
        }
    };
}

/// The entry of one instruction set: few rows stream keys and values, up to a vector of rows goes
/// through tiles of one vector, more rows through tiles of `$high` rows by `$wide` vectors.
macro_rules! task {
    (
        $name:ident, $features:literal, $s:ty, $products:ty, $of_many:ty,
        $lanes:literal, $half:literal, $quarter:literal, $high:literal x $wide:literal
    ) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<N: Numbers>(
            p: &Problem<'_>,
            t: &Task,
            scratch: &mut Scratch,
            to: Partials,
        ) {
            let rows = t.queries.len * p.group;
            // SAFETY: the caller's contract is the callee's.
            unsafe {
                if rows <= decode::most_rows($lanes) {
                    decode::task::<$s, Streams<$products, N, $lanes, $half, $quarter>, _>(
                        p, t, scratch, to,
                    );
                } else if rows <= $lanes {
                    let at = scratch.take(flash::scratch::<$s>(p, rows, $lanes, 1));
                    flash::task::<$s, $products, N, $lanes, 1>(p, t, at, to);
                } else {
                    let at = scratch.take(flash::scratch::<$s>(p, rows, $high, $wide));
                    flash::task::<$s, $of_many, N, $high, $wide>(p, t, at, to);
                }
            }
        }
    };
}

#[cfg(target_arch = "aarch64")]
task!(task_neon, "neon", Neon, Exact, Exact, 8, 4, 2, 4 x 3);
#[cfg(target_arch = "x86_64")]
task!(task_avx2, "avx2,fma,f16c", Avx2, Exact, Exact, 8, 4, 2, 4 x 2);
#[cfg(target_arch = "x86_64")]
task!(
    task_avx512,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c",
    Avx512, Exact, Exact, 16, 8, 4, 8 x 2
);
#[cfg(target_arch = "x86_64")]
task!(
    task_bf16,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c",
    Avx512, Halves, Halves, 16, 8, 4, 8 x 2
);
#[cfg(target_arch = "x86_64")]
task!(
    task_amx,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c",
    Avx512, Exact, Tiles, 16, 8, 4, 16 x 2
);

/// Few rows over a cache of f16; false, and nothing is done, where there are more or sums are not
/// finite.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,avx2,fma,f16c")]
unsafe fn task_fp16(p: &Problem<'_>, t: &Task, scratch: &mut Scratch, to: Partials) -> bool {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        t.queries.len * p.group <= decode::most_rows(16)
            && decode::task::<Avx512, Streams<Fp16, Plain<f16>, 16, 8, 4>, _>(p, t, scratch, to)
    }
}

/// Few rows over a q8_0 cache; false, and nothing is done, where there are more or the queries are
/// not finite.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn task_bytes(p: &Problem<'_>, t: &Task, scratch: &mut Scratch, to: Partials) -> bool {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match t.queries.len * p.group {
            0..=4 => decode::task::<Avx512, Bytes<4>, _>(p, t, scratch, to),
            5..=8 => decode::task::<Avx512, Bytes<8>, _>(p, t, scratch, to),
            _ => false,
        }
    }
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
unsafe fn join(p: &Problem<'_>, j: &Join, partials: Partials) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { p.join::<Eight>(&j.task, j.at, j.parts, partials) }
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
    let work: u64 = tasks
        .iter()
        .map(|t| (t.queries.len * p.group * (t.keys.1 - t.keys.0) * (p.dk + p.dv)) as u64)
        .sum();
    PARTIALS.with_borrow_mut(|memory| {
        let mut partials = Partials {
            start: std::ptr::null_mut(),
            dv: p.dv,
        };
        partials.start = memory.take(rows * partials.step());
        let one = |i: usize| {
            SCRATCH.with_borrow_mut(|scratch| {
                let task: &Task = &tasks[i];
                // SAFETY: `fits` saw the instruction sets; tasks write rows of their own.
                unsafe {
                    match level {
                        #[cfg(target_arch = "aarch64")]
                        Level::Neon => of_cache!(element, task_neon(&p, task, scratch, partials)),
                        #[cfg(target_arch = "x86_64")]
                        Level::Avx2 => of_cache!(element, task_avx2(&p, task, scratch, partials)),
                        #[cfg(target_arch = "x86_64")]
                        Level::Avx512 => {
                            of_cache!(element, task_avx512(&p, task, scratch, partials));
                        }
                        #[cfg(target_arch = "x86_64")]
                        Level::Bf16 => of_cache!(element, task_bf16(&p, task, scratch, partials)),
                        #[cfg(target_arch = "x86_64")]
                        Level::Fp16 => {
                            if !task_fp16(&p, task, scratch, partials) {
                                of_cache!(element, task_avx512(&p, task, scratch, partials));
                            }
                        }
                        #[cfg(target_arch = "x86_64")]
                        Level::Amx => {
                            let done = match element {
                                Element::Quant(_) => task_bytes(&p, task, scratch, partials),
                                Element::Plain(DType::F16) if ctx.env.isa.avx512_fp16 => {
                                    task_fp16(&p, task, scratch, partials)
                                }
                                Element::Plain(_) => false,
                            };
                            if !done {
                                of_cache!(element, task_amx(&p, task, scratch, partials));
                            }
                        }
                    }
                }
            });
        };
        if work < SERIAL {
            (0..tasks.len()).for_each(one);
        } else {
            ctx.pool.each(tasks.len(), one);
        }
        for j in &joins {
            // SAFETY: as above; all parts are complete.
            unsafe { join(&p, j, partials) };
        }
    });
    Ok(())
}

/// Most rows of a task.
#[cfg(target_arch = "x86_64")]
fn rows(op: &Attention<TensorDesc>) -> u64 {
    let group = op.q.dim(1) / op.kv.k().dim(1).max(1);
    u64::from(op.q.dim(2)) * u64::from(group)
}

/// Few rows, over a cache of f16?
#[cfg(target_arch = "x86_64")]
fn fp16_fits(op: &Attention<TensorDesc>) -> Result<(), Refusal> {
    let element = op.kv.k().element;
    if element != Element::Plain(DType::F16) {
        return Err(Refusal::Element { arg: "k", element });
    }
    if rows(op) > decode::most_rows(16) as u64 {
        return Err(Refusal::Layout {
            arg: "q",
            why: "has many rows, which share keys and values in cache",
        });
    }
    Ok(())
}

/// Are there rows and numbers enough for tiles?
#[cfg(target_arch = "x86_64")]
fn tiles_fit(op: &Attention<TensorDesc>) -> Result<(), Refusal> {
    let rows = rows(op);
    if rows <= decode::most_rows(16) as u64 && op.kv.k().element.quant().is_some() {
        return Ok(());
    }
    if rows <= 16 {
        return Err(Refusal::Layout {
            arg: "q",
            why: "has few rows; keys and values stream past them",
        });
    }
    if (op.q.dim(3) as usize) < <Tiles as Arithmetic<Avx512>>::LEAST {
        return Err(Refusal::Layout {
            arg: "q",
            why: "its heads are shorter than a tile",
        });
    }
    Ok(())
}

fn fits(env: &Env, op: &Op<TensorDesc>, level: Level) -> Result<Quality, Refusal> {
    let Op::Attention(op) = op else {
        return Err(Refusal::Op);
    };
    let (has, name) = match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => (env.isa.avx2, "AVX2, FMA and F16C"),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => (env.isa.avx512, "AVX-512 F, BW, DQ and VL"),
        #[cfg(target_arch = "x86_64")]
        Level::Bf16 => (env.isa.avx512_bf16, "AVX-512 BF16"),
        #[cfg(target_arch = "x86_64")]
        Level::Fp16 => (env.isa.avx512_fp16, "AVX-512 FP16"),
        #[cfg(target_arch = "x86_64")]
        Level::Amx => (env.isa.amx, "AMX with BF16 and INT8"),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => (env.isa.neon, "NEON"),
    };
    if !has {
        return Err(Refusal::Feature(name));
    }
    #[cfg(target_arch = "x86_64")]
    if matches!(level, Level::Bf16 | Level::Fp16 | Level::Amx)
        && !op.precision.accepts(crate::Precision::HALF)
    {
        return Err(Refusal::Precision);
    }
    #[cfg(target_arch = "x86_64")]
    if level == Level::Amx {
        tiles_fit(op)?;
    }
    #[cfg(target_arch = "x86_64")]
    if level == Level::Fp16 {
        fp16_fits(op)?;
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
    #[cfg(target_arch = "x86_64")]
    if level == Level::Bf16 && !env.isa.avx512_bf16_pays {
        return Ok(Quality::Slow);
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
                _ => Err(unsupported(op.kind(), Refusal::Op)),
            },
        }
    };
}

/// Kernels, best first.
pub(crate) const ROWS: &[Row] = &[
    #[cfg(target_arch = "aarch64")]
    row!("cpu-attention-neon", Neon),
    #[cfg(target_arch = "x86_64")]
    row!("cpu-attention-amx", Amx),
    #[cfg(target_arch = "x86_64")]
    row!("cpu-attention-avx512fp16", Fp16),
    #[cfg(target_arch = "x86_64")]
    row!("cpu-attention-avx512bf16", Bf16),
    #[cfg(target_arch = "x86_64")]
    row!("cpu-attention-avx512", Avx512),
    #[cfg(target_arch = "x86_64")]
    row!("cpu-attention-avx2", Avx2),
];

#[cfg(all(test, feature = "conformance"))]
mod tests;
