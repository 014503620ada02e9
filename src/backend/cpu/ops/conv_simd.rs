//! Conv2d as an implicit matrix product: a panel holds the taps of some output positions, as
//! `[k][positions]`, and a register tile of multiply-adds runs over the filters. The image is
//! never unrolled in memory.

#[cfg(target_arch = "aarch64")]
use crate::backend::cpu::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd::{Avx2, Avx512};
use crate::{
    backend::cpu::{
        matmul::{epilogue::Finish, simd::f32_gemm::Tile},
        rows::{Ctx, Row},
        simd::{Scratch, Simd},
        view::Src,
    },
    device::{KernelId, Quality},
    error::{Refusal, Result},
    op::{Conv2d, Op, OpKind},
    tensor::Tensor,
};
use std::{borrow::Cow, cell::RefCell};

/// Taps per panel, about: a panel stays in the first cache levels.
const KC: usize = 256;
/// Most panels of positions that share one pass over the filters.
const PANELS: usize = 3;
/// Most sums of a task, in floats.
const SUMS: usize = 1 << 15;
/// Rows of the register tile.
const TILE_ROWS: usize = 6;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Kernels, best first.
pub(crate) const ROWS: &[Row] = &[
    #[cfg(target_arch = "x86_64")]
    Row {
        id: KernelId("cpu-conv2d-avx512"),
        op: OpKind::Conv2d,
        fits: |env, _| fits(env.isa.avx512, "AVX-512 F, BW, DQ and VL"),
        // SAFETY: the caller's contract is the callee's, and `fits` saw the instruction set.
        run: |ctx, op| unsafe { conv2d::<Avx512>(ctx, op) },
    },
    #[cfg(target_arch = "aarch64")]
    Row {
        id: KernelId("cpu-conv2d-neon"),
        op: OpKind::Conv2d,
        fits: |env, _| fits(env.isa.neon, "NEON"),
        // SAFETY: as above.
        run: |ctx, op| unsafe { conv2d::<Neon>(ctx, op) },
    },
    #[cfg(target_arch = "x86_64")]
    Row {
        id: KernelId("cpu-conv2d-avx2"),
        op: OpKind::Conv2d,
        fits: |env, _| fits(env.isa.avx2, "AVX2, FMA and F16C"),
        // SAFETY: as above.
        run: |ctx, op| unsafe { conv2d::<Avx2>(ctx, op) },
    },
];

fn fits(has: bool, what: &'static str) -> Result<Quality, Refusal> {
    if has {
        Ok(Quality::Tuned)
    } else {
        Err(Refusal::Feature(what))
    }
}

/// One op: sizes, and where a filter's taps lie in the image.
struct Problem<'a> {
    x: Src<'a>,
    /// Byte strides of x.
    x_steps: [usize; 4],
    height: usize,
    width: usize,
    taps: [usize; 2],
    stride: [usize; 2],
    pad: [usize; 2],
    dilation: [usize; 2],
    out_width: usize,
}

/// Positions that follow each other in one output row and one panel.
#[derive(Clone, Copy)]
struct Segment {
    /// First one, counted from the first of the task.
    at: usize,
    len: usize,
    row: usize,
    column: usize,
}

impl Problem<'_> {
    /// Positions `first..first + count` as segments; no segment crosses a multiple of `columns`.
    fn segments(&self, first: usize, count: usize, columns: usize) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut at = 0;
        while at < count {
            let (row, column) = ((first + at) / self.out_width, (first + at) % self.out_width);
            let len = (count - at)
                .min(self.out_width - column)
                .min(columns - at % columns);
            segments.push(Segment {
                at,
                len,
                row,
                column,
            });
            at += len;
        }
        segments
    }

    /// Writes the taps of filter rows `lines` (channel times filter height) to the panels:
    /// `panel[p][tap][columns]`, `step` floats from panel to panel.
    ///
    /// # Safety
    /// Nobody writes x now; the panels have room for the taps and all positions.
    unsafe fn pack<const COLUMNS: usize>(
        &self,
        origin: usize,
        lines: std::ops::Range<usize>,
        segments: &[Segment],
        panel: *mut f32,
        step: usize,
        buffer: &mut Vec<f32>,
    ) {
        let ([kh, kw], sx, dx) = (self.taps, self.stride[1], self.dilation[1]);
        for (i, line) in lines.enumerate() {
            let (channel, dy) = (line / kh, line % kh);
            for s in segments {
                // SAFETY: the segment's lanes of the first tap of this line.
                let to =
                    unsafe { panel.add(s.at / COLUMNS * step + i * kw * COLUMNS + s.at % COLUMNS) };
                let y = (s.row * self.stride[0] + dy * self.dilation[0]).wrapping_sub(self.pad[0]);
                // The stretch of x under the segment, in coordinates that count the padding.
                let reach = (s.len - 1) * sx + (kw - 1) * dx + 1;
                let left = s.column * sx;
                let from = left.clamp(self.pad[1], self.pad[1] + self.width);
                let end = (left + reach).clamp(self.pad[1], self.pad[1] + self.width);
                if y >= self.height || from >= end {
                    for tap in 0..kw {
                        // SAFETY: lanes of the panel.
                        unsafe { to.add(tap * COLUMNS).write_bytes(0, s.len) };
                    }
                    continue;
                }
                let offset = origin + channel * self.x_steps[1] + y * self.x_steps[2];
                buffer.resize(reach, 0.0);
                let whole = end - from == reach;
                // SAFETY: a stretch of a row of x, whose writers are kept away.
                let stretch: &[f32] = unsafe {
                    if whole {
                        self.x.load_or_borrow(offset, from - self.pad[1], buffer)
                    } else {
                        buffer.fill(0.0);
                        let inside = &mut buffer[from - left..end - left];
                        self.x.load(offset, from - self.pad[1], inside);
                        buffer
                    }
                };
                for tap in 0..kw {
                    let cells = &stretch[tap * dx..];
                    // SAFETY: lanes of the panel, and `reach` covers every tap.
                    unsafe {
                        let to = to.add(tap * COLUMNS);
                        if sx == 1 && s.len == COLUMNS {
                            to.cast::<[f32; COLUMNS]>()
                                .write(cells.as_ptr().cast::<[f32; COLUMNS]>().read());
                        } else if sx == 1 {
                            to.copy_from_nonoverlapping(cells.as_ptr(), s.len);
                        } else {
                            for j in 0..s.len {
                                to.add(j).write(cells[j * sx]);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The filters as f32 `[outputs][k]`, without a copy where they are that.
///
/// # Safety
/// Nobody writes them while the result lives.
unsafe fn filters(w: &Tensor) -> Result<Cow<'_, [f32]>> {
    let (src, desc) = (Src::of(w)?, w.desc());
    if desc.plain() == Some(crate::DType::F32) && desc.is_contiguous() {
        let len = desc.elements() as usize;
        // SAFETY: that many contiguous elements; the caller keeps writers away.
        let all = unsafe { std::slice::from_raw_parts(src.ptr().cast::<f32>(), len) };
        return Ok(Cow::Borrowed(all));
    }
    // SAFETY: the caller's condition.
    Ok(Cow::Owned(unsafe { src.to_vec() }))
}

unsafe fn conv2d<S: Simd>(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Conv2d(op) = op else { return Ok(()) };
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        if S::LANES == 16 {
            run::<S, 32>(ctx, op)
        } else {
            run::<S, 16>(ctx, op)
        }
    }
}

unsafe fn run<S: Simd, const COLUMNS: usize>(ctx: &Ctx, op: &Conv2d<Tensor>) -> Result<()> {
    let dims = |t: &Tensor| [0, 1, 2, 3].map(|a| t.desc().dim(a) as usize);
    let [batch, _, height, width] = dims(&op.x);
    let [outputs, per_group, kh, kw] = dims(&op.w);
    let [_, _, out_height, out_width] = dims(&op.y);
    let sizes = |v: [u32; 2]| v.map(|n| n as usize);
    let p = Problem {
        x: Src::of(&op.x)?,
        x_steps: [0, 1, 2, 3].map(|a| op.x.desc().stride_bytes(a) as usize),
        height,
        width,
        taps: [kh, kw],
        stride: sizes(op.stride),
        pad: sizes(op.pad),
        dilation: sizes(op.dilation),
        out_width,
    };
    let groups = op.groups as usize;
    let (per_output, k) = (outputs / groups, per_group * kh * kw);
    // SAFETY: nobody writes the operands of a running op.
    let (filters, finish) = unsafe {
        (
            filters(&op.w)?,
            Finish::of(ctx.env.isa, &op.epilogue, &op.y)?,
        )
    };

    // A task: some panels of positions, some outputs. Positions are packed once per task, so
    // outputs are split only where there are too few positions for the threads.
    let (positions, images) = (out_height * out_width, batch * groups);
    let wanted = ctx.pool.threads() * 3;
    let panels = (positions * images)
        .div_ceil(COLUMNS * wanted)
        .clamp(1, PANELS);
    let block = COLUMNS * panels;
    let blocks = positions.div_ceil(block);
    let some = per_output
        .div_ceil(wanted.div_ceil(images * blocks))
        .max(8 * TILE_ROWS)
        .next_multiple_of(TILE_ROWS)
        .min(SUMS / block)
        .min(per_output);
    let splits = per_output.div_ceil(some);
    // Whole filter rows, so that a stretch of x is read once for all its taps.
    let lines = (KC / kw).max(1);
    let work = (2 * op.y.desc().elements()).saturating_mul(k as u64) / 64;
    let task = |task: usize| {
        let (image, rest) = (task / (blocks * splits), task % (blocks * splits));
        let (first, o0) = (rest / splits * block, rest % splits * some);
        let (b, g) = (image / groups, image % groups);
        let (count, m) = (block.min(positions - first), some.min(per_output - o0));
        let segments = p.segments(first, count, COLUMNS);
        let used = count.div_ceil(COLUMNS);
        let step = lines * kw * COLUMNS;
        let origin = b * p.x_steps[0] + g * per_group * p.x_steps[1];
        let filter = filters[(g * per_output + o0) * k..].as_ptr();
        SCRATCH.with_borrow_mut(|scratch| {
            let sums = scratch.take(m * block + step * panels);
            // SAFETY: the scratch has room for sums and panels; filters and positions of the
            // task exist; `fits` saw the instruction set; tasks own the cells that they store.
            unsafe {
                let panel = sums.add(m * block);
                // Lanes beyond the last position are computed and not stored.
                panel.write_bytes(0, step * used);
                let mut buffer = Vec::new();
                let all = per_group * kh;
                if all * kw == 0 {
                    sums.write_bytes(0, m * block);
                }
                for line in (0..all).step_by(lines) {
                    let end = (line + lines).min(all);
                    p.pack::<COLUMNS>(origin, line..end, &segments, panel, step, &mut buffer);
                    for i in 0..used {
                        let tile = Tile {
                            x: filter.add(line * kw),
                            x_step: k,
                            panel: panel.add(i * step),
                            panel_step: COLUMNS,
                            c: sums.add(i * COLUMNS),
                            c_step: block,
                        };
                        tile.run::<S>(m, (end - line) * kw, line == 0);
                    }
                }
                for o in 0..m {
                    let plane = b * outputs + g * per_output + o0 + o;
                    let acc = std::slice::from_raw_parts_mut(sums.add(o * block), count);
                    finish.store_positions(plane, first, acc);
                }
            }
        });
    };
    ctx.pool
        .parallel(images * blocks * splits, work, |range| range.for_each(task));
    Ok(())
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use crate::{
        backend::cpu::rows::{levels, run_simd_rows},
        conformance::{Tier, cases},
        op::OpKind,
    };

    #[test]
    fn every_row_agrees_with_the_reference() {
        let cases: Vec<_> = cases(Tier::Full)
            .into_iter()
            .filter(|c| c.op.kind() == OpKind::Conv2d)
            .collect();
        for level in levels(false) {
            let (isa, report) = run_simd_rows(level, &cases);
            let rows = [isa.avx2, isa.avx512, isa.neon]
                .iter()
                .filter(|has| **has)
                .count();
            // Cases without numbers run no kernel.
            assert!(report.totals().passed > rows * cases.len() / 2);
        }
    }
}
