//! Conv2d: patches of x as rows, filters as rows, and the products of the two.

use crate::{
    backend::cpu::{
        matmul::{epilogue::Finish, tile},
        rows::Ctx,
        view::Src,
    },
    error::Result,
    op::Op,
    tensor::Tensor,
};

/// Output positions per task.
const POSITIONS: usize = 32;

pub(super) unsafe fn conv2d(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Conv2d(op) = op else { return Ok(()) };
    let isa = ctx.env.isa;
    let x = Src::of(&op.x)?;
    let dims = |t: &Tensor| [0, 1, 2, 3].map(|a| t.desc().dim(a) as usize);
    let [batch, _, height, width] = dims(&op.x);
    let [outputs, per_group, kh, kw] = dims(&op.w);
    let [_, _, out_h, out_w] = dims(&op.y);
    let xs = [0, 1, 2, 3].map(|a| op.x.desc().stride_bytes(a) as usize);
    let groups = op.groups as usize;
    let group_outputs = outputs / groups;
    let k = per_group * kh * kw;
    // SAFETY: nobody writes the operands of a running op.
    let (filters, finish) = unsafe {
        (
            Src::of(&op.w)?.to_vec(),
            Finish::of(isa, &op.epilogue, &op.y)?,
        )
    };
    let [stride, pad, dilation] = [op.stride, op.pad, op.dilation].map(|v| v.map(|n| n as usize));
    let per_image = (out_h * out_w).div_ceil(POSITIONS);
    let work = (2 * op.y.desc().elements()).saturating_mul(k as u64) / 24;
    ctx.pool
        .parallel(batch * groups * per_image, work, |range| {
            let mut patches = vec![0.0f32; POSITIONS * k];
            let mut out = vec![0.0f32; POSITIONS * group_outputs];
            let mut line = Vec::new();
            for task in range {
                let (image, first) = (task / per_image, task % per_image * POSITIONS);
                let (b, g) = (image / groups, image % groups);
                let count = POSITIONS.min(out_h * out_w - first);
                // Positions of one output row at a time: their taps in a row of x are one stretch.
                let mut done = 0;
                while done < count {
                    let (oy, ox) = ((first + done) / out_w, (first + done) % out_w);
                    let n = (count - done).min(out_w - ox);
                    let reach = (n - 1) * stride[1] + (kw - 1) * dilation[1] + 1;
                    // Stretch of the row, in coordinates that count the padding, without the padding.
                    let left = ox * stride[1];
                    let from = left.clamp(pad[1], pad[1] + width);
                    let to = (left + reach).clamp(pad[1], pad[1] + width);
                    line.clear();
                    line.resize(reach, 0.0);
                    for (c, dy) in (0..per_group).flat_map(|c| (0..kh).map(move |dy| (c, dy))) {
                        let iy = (oy * stride[0] + dy * dilation[0]).wrapping_sub(pad[0]);
                        let inside = iy < height && from < to;
                        if inside {
                            let at = b * xs[0] + (g * per_group + c) * xs[1] + iy * xs[2];
                            // SAFETY: a stretch of a row of x.
                            unsafe { x.load(at, from - pad[1], &mut line[from - left..to - left]) };
                        }
                        let tap = (c * kh + dy) * kw;
                        for i in 0..n {
                            let patch = &mut patches[(done + i) * k + tap..][..kw];
                            if inside {
                                let cells = line[i * stride[1]..].iter().step_by(dilation[1]);
                                patch.iter_mut().zip(cells).for_each(|(p, &v)| *p = v);
                            } else {
                                patch.fill(0.0);
                            }
                        }
                    }
                    done += n;
                }
                let rows: Vec<&[f32]> = patches.chunks_exact(k).take(count).collect();
                let filters = &filters[g * group_outputs * k..(g + 1) * group_outputs * k];
                // Outputs lie in memory channel by channel, so filters are the rows of the product.
                let filter_rows: Vec<&[f32]> = filters.chunks_exact(k).collect();
                let patches = &patches[..rows.len() * k];
                tile::products(isa, &filter_rows, patches, k, &mut out, count);
                for (o, acc) in out.chunks_exact_mut(count).take(group_outputs).enumerate() {
                    let channel = g * group_outputs + o;
                    // SAFETY: these cells belong to this task.
                    unsafe { finish.store_positions(b * outputs + channel, first, acc) };
                }
            }
        });
    Ok(())
}
