//! `Attention`: one pass over the keys per tile of rows, whole or dealt out to several
//! workgroups. All compute in f32.

use super::super::{
    caps::Caps,
    device::BACKEND,
    launch::{Launch, aligned, pairs},
    stream::State,
};
use crate::{
    device::Quality,
    element::DType,
    error::{Error, Refusal, Result},
    layout::TensorDesc,
    op::{Attention, Kv, Op, Scalar, Seqs},
    tensor::Tensor,
};

/// Largest head dim: the sums of values live in registers, and beyond this drivers take minutes to
/// compile the kernel.
const MAX_DIM: u32 = 256;

/// Most rows (queries x heads of a group) whose keys are dealt out.
const MAX_SPLIT_ROWS: u32 = 64;

/// Workgroups that a split tries for.
const SPLIT_GROUPS: u64 = 256;

/// Fewest tiles of keys that are worth a workgroup of their own.
const TILES_PER_SPLIT: u64 = 2;

/// Rows and keys of a tile, and rows per thread in the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    bq: u32,
    bk: u32,
    tq: u32,
}

impl Tile {
    /// Large tiles, smaller for wide heads, whose sums live in registers.
    fn prefill(dv: u32) -> Tile {
        let (bq, tq) = match dv {
            0..=128 => (64, 4),
            _ => (32, 2),
        };
        Tile { bq, bk: 32, tq }
    }

    /// Few rows, many keys.
    const DECODE: Tile = Tile {
        bq: 8,
        bk: 64,
        tq: 2,
    };

    /// Threads of a workgroup.
    fn threads(self) -> u32 {
        self.bq / self.tq * self.bk / 4
    }

    /// 16-byte vectors of workgroup memory for staged operands.
    fn stage(self) -> u32 {
        ((self.bq + self.bk + 4) * 4).max(self.bk * 8)
    }
}

pub(crate) fn fits_split(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let op = attention(op)?;
    legal(caps, op)?;
    if let Seqs::Ragged { .. } = op.seqs {
        return Err(Refusal::Feature("dealing out the keys of ragged sequences"));
    }
    let rows = u64::from(op.q.dim(2)) * u64::from(group(op));
    if rows > MAX_SPLIT_ROWS.into() {
        return Err(Refusal::Limit {
            what: "queries times heads per KV head",
            asked: rows,
            max: MAX_SPLIT_ROWS.into(),
        });
    }
    Ok(Quality::Tuned)
}

pub(crate) fn fits_tile(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    legal(caps, attention(op)?)?;
    Ok(Quality::Tuned)
}

pub(crate) fn run_split(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    run(state, op, Tile::DECODE, true)
}

pub(crate) fn run_tile(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let Op::Attention(a) = op else {
        return Err(unsupported(op));
    };
    run(state, op, Tile::prefill(a.kv.v().desc().dim(3)), false)
}

fn attention<T>(op: &Op<T>) -> Result<&Attention<T>, Refusal> {
    match op {
        Op::Attention(op) => Ok(op),
        _ => Err(Refusal::Op),
    }
}

fn unsupported<T>(op: &Op<T>) -> Error {
    Error::Unsupported {
        backend: BACKEND.into(),
        op: Some(op.kind()),
        refusal: Refusal::Op,
    }
}

/// Query heads that share a KV head.
fn group(op: &Attention<TensorDesc>) -> u32 {
    op.q.dim(1) / op.kv.k().dim(1).max(1)
}

fn legal(caps: &Caps, op: &Attention<TensorDesc>) -> Result<(), Refusal> {
    let (k, v) = (op.kv.k(), op.kv.v());
    for (arg, d) in [("q", &op.q), ("k", k), ("v", v), ("out", &op.out)] {
        let Some(DType::F32 | DType::F16 | DType::BF16) = d.plain() else {
            return Err(Refusal::Element {
                arg,
                element: d.element,
            });
        };
        if !d.is_row_contiguous() {
            return Err(Refusal::Layout {
                arg,
                why: "the last axis must be contiguous",
            });
        }
        let dim = d.dim(3);
        if !dim.is_multiple_of(4) {
            return Err(Refusal::Layout {
                arg,
                why: "the head dim must be a multiple of 4",
            });
        }
        if dim > MAX_DIM {
            return Err(Refusal::Limit {
                what: "head dim",
                asked: dim.into(),
                max: MAX_DIM.into(),
            });
        }
    }
    for (arg, d) in [("alibi", &op.alibi), ("sinks", &op.sinks)] {
        if d.is_some_and(|d| !d.is_contiguous()) {
            return Err(Refusal::Layout {
                arg,
                why: "must be contiguous",
            });
        }
    }
    let length = |arg, d: &TensorDesc| match d.plain() {
        Some(DType::U32 | DType::I32) => Ok(()),
        _ => Err(Refusal::Element {
            arg,
            element: d.element,
        }),
    };
    match &op.seqs {
        Seqs::Uniform {
            kv_len: Scalar::Device(t),
        } => length("kv_len", t)?,
        Seqs::Uniform { .. } => {}
        Seqs::Ragged { q_starts, kv_lens } => {
            length("q_starts", q_starts)?;
            length("kv_lens", kv_lens)?;
            for (arg, d) in [("q_starts", q_starts), ("kv_lens", kv_lens)] {
                if !d.is_contiguous() {
                    return Err(Refusal::Layout {
                        arg,
                        why: "must be contiguous",
                    });
                }
            }
        }
    }
    if let Kv::Paged { table, .. } = &op.kv {
        length("table", table)?;
    }
    let asked = op.kv.capacity();
    let max = 1 << 30;
    if asked > max {
        return Err(Refusal::Limit {
            what: "keys of the cache",
            asked,
            max,
        });
    }
    // Entries of a batch may be dealt out to several dispatches.
    let whole = !matches!((&op.seqs, &op.kv), (Seqs::Uniform { .. }, Kv::Dense { .. }));
    for (what, d) in [
        ("bytes of q", Some(&op.q)),
        ("bytes of k", Some(k)),
        ("bytes of v", Some(v)),
        ("bytes of out", Some(&op.out)),
        ("bytes of mask", op.mask.as_ref()),
    ] {
        let Some(d) = d else { continue };
        let one = match d.rank() == 4 && !whole && d.dim(0) > 1 {
            true => d.narrowed(0, 0, 1).map_or(*d, |(d, _)| d),
            false => *d,
        };
        caps.binds(what, &one)?;
    }
    Ok(())
}

/// Runs the op whole, or per entry of the batch where a binding cannot hold an operand.
fn run(state: &mut State, op: &Op<Tensor>, tile: Tile, split: bool) -> Result<()> {
    let Op::Attention(a) = op else {
        return Err(unsupported(op));
    };
    let max = state.caps().max_span();
    let large = [&a.q, a.kv.k(), a.kv.v(), &a.out]
        .into_iter()
        .chain(&a.mask)
        .any(|t| t.desc().span_bytes() > max);
    let batch = a.q.desc().dim(0);
    if !large || batch < 2 {
        return launch(state, a, tile, split);
    }
    for b in 0..batch {
        let cut = |t: &Tensor| match t.desc().rank() == 4 && t.desc().dim(0) > 1 {
            true => t.narrowed(0, b..b + 1),
            false => Ok(t.clone()),
        };
        let mut one = a.clone();
        one.q = cut(&a.q)?;
        one.out = cut(&a.out)?;
        one.mask = a.mask.as_ref().map(cut).transpose()?;
        if let Kv::Dense { k, v } = &a.kv {
            one.kv = Kv::Dense {
                k: cut(k)?,
                v: cut(v)?,
            };
        }
        launch(state, &one, tile, split)?;
    }
    Ok(())
}

/// Whether the operand needs a vector binding, and the expression that reads elements `e..e + 4`.
fn load4(name: &str, t: &Tensor) -> (bool, String) {
    let d = t.desc();
    let steps = |n: i64| (0..3).all(|a| d.dim(a) <= 1 || d.strides()[a] % n == 0);
    match d.plain() {
        Some(DType::F32) if aligned(t, 16) && steps(4) => {
            (true, format!("bitcast<vec4<f32>>({name}_vec(e >> 2u))"))
        }
        Some(DType::F16 | DType::BF16) if aligned(t, 4) && steps(2) => (
            false,
            format!("vec4<f32>({name}_get2(e), {name}_get2(e + 2u))"),
        ),
        _ => (
            false,
            format!(
                "vec4<f32>({name}_get(e), {name}_get(e + 1u), {name}_get(e + 2u), \
                 {name}_get(e + 3u))"
            ),
        ),
    }
}

/// Workgroups that share the keys of one tile of rows.
fn splits(op: &Attention<TensorDesc>, tile: Tile, groups: u64) -> u64 {
    let sq = u64::from(op.q.dim(2));
    let seen = op
        .window
        .map_or(u64::MAX, |w| u64::from(w).saturating_add(sq));
    let tiles = op.max_kv_len().min(seen).div_ceil(tile.bk.into());
    let wanted = SPLIT_GROUPS / groups.max(1);
    wanted.clamp(1, (tiles / TILES_PER_SPLIT).max(1))
}

/// Stride of an axis in elements, 0 where it has one entry. What fits a binding fits 32 bits.
fn step(d: &TensorDesc, axis: usize) -> u32 {
    match d.dim(axis) {
        0 | 1 => 0,
        _ => u32::try_from(d.strides()[axis]).unwrap_or(u32::MAX),
    }
}

fn launch(state: &mut State, op: &Attention<Tensor>, tile: Tile, split: bool) -> Result<()> {
    let whole = Op::from(op.clone());
    let Op::Attention(d) = whole.map(|_, t| t.desc()) else {
        return Err(unsupported(&whole));
    };
    let (k, v) = (op.kv.k(), op.kv.v());
    let (dk, dv, g) = (d.q.dim(3), d.kv.v().dim(3), group(&d));
    let (sq, hkv) = (d.q.dim(2), d.kv.k().dim(1));
    let ragged = matches!(op.seqs, Seqs::Ragged { .. });
    let batch = if ragged { d.kv.batch() } else { d.q.dim(0) };
    let rows = u64::from(sq) * u64::from(g);
    let row_tiles = rows.div_ceil(tile.bq.into());
    // Queries that no sequence owns are a sequence of their own.
    let groups = row_tiles * u64::from(hkv) * (u64::from(batch) + u64::from(ragged));
    let splits = if split { splits(&d, tile, groups) } else { 1 };
    let (len, len_type) = match &d.seqs {
        Seqs::Uniform {
            kv_len: Scalar::Host(_),
        } => (0, None),
        Seqs::Uniform {
            kv_len: Scalar::Device(t),
        }
        | Seqs::Ragged { kv_lens: t, .. } => match t.plain() {
            Some(DType::I32) => (2, Some("i32")),
            _ => (1, Some("u32")),
        },
    };
    let mask = match d.mask.as_ref().map(|m| m.plain()) {
        None => 0,
        Some(Some(DType::U8)) => 2,
        Some(_) => 1,
    };
    let out_pairs = d.out.element.block_bytes() == 2 && pairs(&op.out);
    let shape = |l: Launch| {
        l.def("DV", dv)
            .def("G", g)
            .u32("sq", sq)
            .u32("hkv", hkv)
            .u32("batch", batch)
            .u32("splits", splits as u32)
            .u32("out_batch", step(&d.out, 0))
            .u32("out_head", step(&d.out, 1))
            .u32("out_row", step(&d.out, 2))
    };
    let mut l = shape(Launch::new("attention.wgsl"))
        .def("DK", dk)
        .def("BQ", tile.bq)
        .def("BK", tile.bk)
        .def("TQ", tile.tq)
        .def("WG", tile.threads())
        .def("RP", tile.bq / (tile.threads() / 8))
        .def("STAGE", tile.stage())
        .def("CAUSAL", op.causal)
        .def("WINDOW", op.window.is_some())
        .def("SOFTCAP", op.softcap.is_some())
        .def("ALIBI", op.alibi.is_some())
        .def("SINKS", op.sinks.is_some())
        .def("MASK", mask)
        .def("LEN", len)
        .def_text("LEN_TYPE", len_type.unwrap_or_default())
        .def("RAGGED", ragged)
        .def("PAGED", matches!(op.kv, Kv::Paged { .. }))
        .def("SPLIT", splits > 1)
        .def("OUT_PAIRS", out_pairs);
    for (name, load, t) in [
        ("q", "Q_LOAD", &op.q),
        ("k", "K_LOAD", k),
        ("v", "V_LOAD", v),
    ] {
        let (vec, text) = load4(name, t);
        l = l.def_text(load, text);
        l = match vec {
            true => l.input_vec(name, t),
            false => l.input(name, t),
        };
    }
    for (names, d) in [
        (["q_batch", "q_head", "q_row"], &d.q),
        (["k_batch", "k_head", "k_row"], d.kv.k()),
        (["v_batch", "v_head", "v_row"], d.kv.v()),
    ] {
        for (axis, name) in names.into_iter().enumerate() {
            l = l.u32(name, step(d, axis));
        }
    }
    l = l
        .u32("row_tiles", row_tiles as u32)
        .u32("capacity", d.kv.capacity() as u32)
        .f32("scale", op.scale);
    match &op.seqs {
        Seqs::Uniform {
            kv_len: Scalar::Host(n),
        } => l = l.u32("len", *n),
        Seqs::Uniform {
            kv_len: Scalar::Device(t),
        } => l = l.input("kv_len", t),
        Seqs::Ragged { q_starts, kv_lens } => {
            l = l.input("starts", q_starts).input("lens", kv_lens);
        }
    }
    if let Some(window) = op.window {
        l = l.u32("window", window.min(i32::MAX as u32 / 2));
    }
    if let Some(cap) = op.softcap {
        l = l.f32("softcap", cap);
    }
    l = l.input_opt("alibi", op.alibi.as_ref());
    if let (Some(t), Some(m)) = (&op.mask, &d.mask) {
        let shape = [d.q.dim(0), d.q.dim(1), sq, d.kv.capacity() as u32];
        let m = m.broadcast_to(&shape)?;
        l = l
            .input("mask", t)
            .u32("mask_batch", step(&m, 0))
            .u32("mask_head", step(&m, 1))
            .u32("mask_row", step(&m, 2))
            .u32("mask_col", step(&m, 3));
    }
    if let (Kv::Paged { table, .. }, Kv::Paged { table: t, .. }) = (&op.kv, &d.kv) {
        l = l
            .input("table", table)
            .u32("table_row", step(t, 0))
            .u32("table_col", step(t, 1))
            .u32("pages", d.kv.k().dim(0))
            .u32("page", d.kv.k().dim(2));
    }
    if splits == 1 {
        l = l
            .input_opt("sinks", op.sinks.as_ref())
            .output_as("out", &op.out, out_pairs);
        return state.dispatch(l, groups);
    }
    let all_rows = rows * u64::from(hkv) * u64::from(batch);
    let part = state.scratch(0, all_rows * splits * u64::from(dv + 2) * 4)?;
    state.dispatch(l.scratch("part", &part, DType::F32), groups * splits)?;
    let l = shape(Launch::new("attention_combine.wgsl"))
        .def("SINKS", op.sinks.is_some())
        .scratch("part", &part, DType::F32)
        .input_opt("sinks", op.sinks.as_ref())
        .output("out", &op.out);
    state.dispatch(l, all_rows)
}

#[cfg(test)]
mod tests {
    use super::Tile;

    #[test]
    fn tiles_fit_the_smallest_workgroups() {
        let tiles = [Tile::prefill(64), Tile::prefill(256), Tile::DECODE];
        for t in tiles {
            let vectors = t.stage() + t.bk / 4 * t.bq;
            assert!(16 * vectors + 4 * 2 * t.bq + 16 <= 16 << 10, "{t:?}");
            assert!(t.threads() <= 256, "{t:?}");
            // The second product deals rows to groups of 8 threads without a rest.
            assert_eq!(t.bq % (t.threads() / 8), 0, "{t:?}");
        }
    }
}
