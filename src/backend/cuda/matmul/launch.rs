//! The launches of a MatMul.

use super::super::{
    args::{Args, Launch},
    copy,
    dequantize::{self, unsupported, wrong_op},
    geometry::for_each,
    rows::{DeviceEnv, Format, Scratch, Sink, View, float, question, type_code},
};
use super::{
    Algo, Kind, act_code, converted, gemv, operands,
    problem::{GATE, GRID_Z, OPERANDS, Problem, RESIDUAL, W, X, Y},
    target,
};
use crate::{
    element::DType,
    error::Result,
    op::{MatMul, Op, OpKind},
};

/// Values of 32 in a block of 8-bit activations.
const Q8_BLOCK: u64 = 32;
/// Bytes of dequantized weights at a time.
pub(super) const W_CHUNK: u64 = 128 << 20;
/// Columns of y that such a piece is a multiple of.
const W_CHUNK_ROWS: u64 = 128;

pub(in super::super) fn run_gemv_q8(sink: &mut dyn Sink, op: &Op<View>) -> Result<()> {
    run(Algo::GemvQ8, sink, op)
}

pub(in super::super) fn run_gemv_f32(sink: &mut dyn Sink, op: &Op<View>) -> Result<()> {
    run(Algo::GemvF32, sink, op)
}

pub(in super::super) fn run_mma(sink: &mut dyn Sink, op: &Op<View>) -> Result<()> {
    run(Algo::Mma, sink, op)
}

pub(in super::super) fn run_simt(sink: &mut dyn Sink, op: &Op<View>) -> Result<()> {
    run(Algo::Simt, sink, op)
}

fn run(algo: Algo, sink: &mut dyn Sink, op: &Op<View>) -> Result<()> {
    match op {
        Op::MatMul(op) => run_matmul(algo, sink, op),
        _ => Err(wrong_op(OpKind::MatMul)),
    }
}

pub(super) fn run_matmul(algo: Algo, sink: &mut dyn Sink, op: &MatMul<View>) -> Result<()> {
    let refuse = |refusal| unsupported(OpKind::MatMul, refusal);
    let mut asked = question(op);
    let kind = operands(&asked).map_err(refuse)?;
    let from = float("x", &asked.x).map_err(refuse)?;
    let to = target(algo, from, kind);
    let mut x = op.x;
    if to != from {
        let desc = converted(&asked.x, to).map_err(refuse)?;
        let address = sink.scratch(Scratch::X, desc.span_bytes())?;
        let compact = View { address, desc };
        copy::convert(sink, x, compact)?;
        (x, asked.x) = (compact, desc);
    }
    let problem = Problem::new(&asked, gemv(algo)).map_err(refuse)?;
    let e = &op.epilogue;
    let residual = e.residual.or(e.accumulate.then_some(op.y));
    let code = |v: &Option<View>| v.map_or(0, |v| v.desc.plain().map_or(0, type_code));
    let w = match kind {
        Kind::Quant(format) => dequantize::aligned(sink, format, *op.w.tensor())?,
        Kind::Float(_) => op.w.tensor().address,
    };
    let job = Job {
        algo,
        x: to,
        w: kind,
        transposed: op.w.is_transposed(),
        bias: e.bias.map_or(0, |b| b.address),
        address: [
            x.address,
            w,
            op.y.address,
            e.gate.map_or(0, |g| g.address),
            residual.map_or(0, |r| r.address),
        ],
        size: [
            to.size() as u64,
            match kind {
                Kind::Quant(_) => 1,
                Kind::Float(w) => w.size() as u64,
            },
            size(&op.y),
            e.gate.as_ref().map_or(0, size),
            residual.as_ref().map_or(0, size),
        ],
        bias_size: e.bias.as_ref().map_or(0, size),
        alpha: e.scale.unwrap_or(1.0),
        act: act_code(e.act).map_err(refuse)?,
        types: code(&Some(op.y)) | code(&e.bias) << 4 | code(&e.gate) << 8 | code(&residual) << 12,
    };
    match (gemv(algo), kind) {
        (true, _) => job.gemv(sink, &problem),
        (false, Kind::Float(w)) => job.tiled(sink, &problem, w),
        (false, Kind::Quant(format)) => job.dequantized(sink, &problem, format),
    }
}

fn size(v: &View) -> u64 {
    v.desc.element.block_bytes() as u64
}

/// Everything about an op but its sizes and strides.
#[derive(Clone, Copy)]
struct Job {
    algo: Algo,
    x: DType,
    w: Kind,
    transposed: bool,
    bias: u64,
    /// Addresses; 0 for an operand that is not there.
    address: [u64; OPERANDS],
    /// Bytes of a unit of each operand.
    size: [u64; OPERANDS],
    bias_size: u64,
    alpha: f32,
    act: u32,
    types: u32,
}

impl Job {
    /// Addresses at an offset in units; what is not there stays null.
    fn at(&self, offset: [u64; OPERANDS]) -> [u64; OPERANDS] {
        std::array::from_fn(|i| {
            if self.address[i] == 0 {
                0
            } else {
                self.address[i] + offset[i] * self.size[i]
            }
        })
    }

    /// GM_EPILOGUE_PARAMS.
    fn epilogue(&self, args: Args, at: [u64; OPERANDS], p: &Problem) -> Args {
        args.ptr(self.bias)
            .ptr(at[GATE])
            .ptr(at[RESIDUAL])
            .u64(p.ld[GATE])
            .u64(p.ld[RESIDUAL])
            .f32(self.alpha)
            .u32(self.act)
            .u32(self.types)
    }

    fn gemv(&self, sink: &mut dyn Sink, p: &Problem) -> Result<()> {
        let rows = gemv_rows(p.m);
        let name = match self.w {
            Kind::Quant(f) => f.name,
            Kind::Float(d) => d.name(),
        };
        let launch = Launch {
            grid: [p.n.div_ceil(GEMV_W_ROWS), p.m.div_ceil(rows), 1],
            block: GEMV_THREADS,
            shared: 0,
        };
        for_each(&p.outer, &mut |offset| {
            let at = self.at(offset);
            if self.algo == Algo::GemvF32 {
                let args = Args::new()
                    .ptr(at[W])
                    .ptr(at[X])
                    .ptr(at[Y])
                    .u64(p.ld[W])
                    .u32(p.m)
                    .u32(p.n)
                    .u32(p.k)
                    .u64(p.ld[X])
                    .u64(p.ld[Y]);
                return sink.launch(
                    &format!("gm_gemv_{name}_f32_m{rows}"),
                    launch,
                    self.epilogue(args, at, p),
                );
            }
            let (m, k) = (u64::from(p.m), u64::from(p.k));
            let xq = sink.scratch(Scratch::X, m * k)?;
            let info = sink.scratch(Scratch::XInfo, m * k / Q8_BLOCK * 8)?;
            let blocks = m * k / Q8_BLOCK;
            let quantize = Launch {
                grid: [blocks.div_ceil(4) as u32, 1, 1],
                block: 128,
                shared: 0,
            };
            let args = Args::new()
                .ptr(at[X])
                .ptr(xq)
                .ptr(info)
                .u32(p.m)
                .u32(p.k)
                .u64(p.ld[X]);
            sink.launch(&format!("gm_quantize_q8_{}", self.x.name()), quantize, args)?;
            let args = Args::new()
                .ptr(at[W])
                .ptr(xq)
                .ptr(info)
                .ptr(at[Y])
                .u64(p.ld[W])
                .u32(p.m)
                .u32(p.n)
                .u32(p.k)
                .u64(p.ld[Y]);
            sink.launch(
                &format!("gm_gemv_{name}_q8_m{rows}"),
                launch,
                self.epilogue(args, at, p),
            )
        })
    }

    /// Weights of floats `w`.
    fn tiled(&self, sink: &mut dyn Sink, p: &Problem, w: DType) -> Result<()> {
        for_each(&p.outer, &mut |offset| {
            let mut from = 0;
            while from < p.z.len {
                let len = (p.z.len - from).min(GRID_Z);
                let at = self.at(std::array::from_fn(|i| {
                    offset[i] + u64::from(from) * p.z.strides[i]
                }));
                let tile = Tile::pick(
                    self.algo,
                    self.x,
                    w,
                    sink.env(),
                    p,
                    len,
                    self.aligned(at, p),
                );
                let args = Args::new()
                    .ptr(at[X])
                    .ptr(at[W])
                    .ptr(at[Y])
                    .u32(p.m)
                    .u32(p.n)
                    .u32(p.k)
                    .u64(p.ld[X])
                    .u64(p.ld[W])
                    .u64(p.ld[Y]);
                let args = p.z.strides.iter().fold(args, |args, s| args.u64(*s));
                let name = tile.kernel(self.x, w, self.transposed);
                sink.launch(
                    &name,
                    tile.launch(p.m, p.n, len),
                    self.epilogue(args, at, p),
                )?;
                from += len;
            }
            Ok(())
        })
    }

    /// Whether the rows of x and w start at multiples of 16 bytes.
    fn aligned(&self, at: [u64; OPERANDS], p: &Problem) -> bool {
        [X, W].into_iter().all(|i| {
            [at[i], p.ld[i] * self.size[i], p.z.strides[i] * self.size[i]]
                .iter()
                .all(|v| v.is_multiple_of(16))
        })
    }

    /// Quantized weights for the tiled kernels: decoded a piece at a time into the type of x.
    fn dequantized(&self, sink: &mut dyn Sink, p: &Problem, format: Format) -> Result<()> {
        let bytes = u64::from(p.k) * self.x.size() as u64;
        let piece = (W_CHUNK / bytes.max(1) / W_CHUNK_ROWS * W_CHUNK_ROWS)
            .max(W_CHUNK_ROWS)
            .min(p.n.into()) as u32;
        let mut done = 0;
        while done < p.n {
            let rows = piece.min(p.n - done);
            let scratch = sink.scratch(Scratch::W, u64::from(rows) * bytes)?;
            let w = self.address[W] + u64::from(done) * p.ld[W];
            let decode = dequantize::Rows {
                w,
                y: scratch,
                rows,
                k: p.k,
                w_stride: p.ld[W],
                y_stride: p.k.into(),
            };
            dequantize::rows(sink, format, self.x, decode)?;
            let mut part = *self;
            part.address = self.at([0, 0, done.into(), done.into(), done.into()]);
            part.address[W] = scratch;
            part.size[W] = self.x.size() as u64;
            if part.bias != 0 {
                part.bias += u64::from(done) * self.bias_size;
            }
            let mut sizes = p.clone();
            sizes.n = rows;
            sizes.ld[W] = p.k.into();
            part.tiled(sink, &sizes, self.x)?;
            done += rows;
        }
        Ok(())
    }
}

/// Threads of a GEMV CTA and the rows of w it owns (kernels/gemv.cuh).
const GEMV_THREADS: u32 = 128;
const GEMV_W_ROWS: u32 = 2;

/// Rows of x of the GEMV kernel that is taken for `m` rows.
fn gemv_rows(m: u32) -> u32 {
    match m {
        0 | 1 => 1,
        2 => 2,
        3 | 4 => 4,
        _ => 8,
    }
}

/// Tile of a tiled kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    /// Rows and columns.
    side: u32,
    threads: u32,
    /// Dynamic shared memory in bytes.
    shared: u32,
    /// Part of the kernel's name.
    suffix: &'static str,
}

const MMA_128: Tile = Tile {
    side: 128,
    threads: 256,
    shared: 3 * 256 * 128,
    suffix: "mma",
};
const MMA_64: Tile = Tile {
    side: 64,
    threads: 128,
    shared: 4 * 128 * 128,
    suffix: "mma",
};
const MMA_64_UNALIGNED: Tile = Tile {
    side: 64,
    threads: 128,
    shared: 2 * 128 * 128,
    suffix: "mmau",
};
const SIMT_128: Tile = Tile {
    side: 128,
    threads: 256,
    shared: 0,
    suffix: "simt",
};
const SIMT_64: Tile = Tile {
    side: 64,
    threads: 256,
    shared: 0,
    suffix: "simt",
};

impl Tile {
    /// The large tile where it still gives every multiprocessor work.
    fn pick(
        algo: Algo,
        x: DType,
        w: DType,
        env: DeviceEnv,
        p: &Problem,
        z: u32,
        aligned: bool,
    ) -> Tile {
        let large = MMA_128.ctas(p.m, p.n) * u64::from(z) >= env.sms.into();
        match algo {
            Algo::Mma if !aligned => MMA_64_UNALIGNED,
            Algo::Mma if large && MMA_128.shared <= env.shared => MMA_128,
            Algo::Mma => MMA_64,
            _ if large && (x, w) == (DType::F32, DType::F32) => SIMT_128,
            _ => SIMT_64,
        }
    }

    fn ctas(self, m: u32, n: u32) -> u64 {
        u64::from(m.div_ceil(self.side)) * u64::from(n.div_ceil(self.side))
    }

    fn launch(self, m: u32, n: u32, z: u32) -> Launch {
        // 2^31 CTAs of 64 x 64 would be a result of 2^43 elements; no device holds one.
        Launch {
            grid: [self.ctas(m, n) as u32, 1, z],
            block: self.threads,
            shared: self.shared,
        }
    }

    fn kernel(self, x: DType, w: DType, transposed: bool) -> String {
        let (side, layout) = (self.side, if transposed { "nn" } else { "nt" });
        format!(
            "gm_matmul_{}_{}_{layout}_{side}x{side}_{}",
            x.name(),
            w.name(),
            self.suffix
        )
    }
}

#[cfg(test)]
pub(in super::super) fn kernel_names(out: &mut std::collections::BTreeSet<String>) {
    let floats = [DType::F32, DType::F16, DType::BF16];
    for x in floats {
        out.insert(format!("gm_quantize_q8_{}", x.name()));
    }
    for rows in [1, 2, 4, 8] {
        for f in super::super::rows::FORMATS {
            out.insert(format!("gm_gemv_{}_f32_m{rows}", f.name));
            out.insert(format!("gm_gemv_{}_q8_m{rows}", f.name));
        }
        for w in floats {
            out.insert(format!("gm_gemv_{}_f32_m{rows}", w.name()));
        }
    }
    for transposed in [false, true] {
        for half in [DType::F16, DType::BF16] {
            for tile in [MMA_128, MMA_64, MMA_64_UNALIGNED] {
                out.insert(tile.kernel(half, half, transposed));
            }
            out.insert(SIMT_64.kernel(half, half, transposed));
        }
        for w in floats {
            out.insert(SIMT_64.kernel(DType::F32, w, transposed));
        }
        out.insert(SIMT_128.kernel(DType::F32, DType::F32, transposed));
    }
}
