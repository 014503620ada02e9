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
            for task in range {
                let (image, first) = (task / per_image, task % per_image * POSITIONS);
                let (b, g) = (image / groups, image % groups);
                let count = POSITIONS.min(out_h * out_w - first);
                for (i, patch) in patches.chunks_exact_mut(k).take(count).enumerate() {
                    let (oy, ox) = ((first + i) / out_w, (first + i) % out_w);
                    let mut taps = patch.iter_mut();
                    for c in g * per_group..(g + 1) * per_group {
                        for dy in 0..kh {
                            let iy = (oy * stride[0] + dy * dilation[0]).wrapping_sub(pad[0]);
                            for dx in 0..kw {
                                let ix = (ox * stride[1] + dx * dilation[1]).wrapping_sub(pad[1]);
                                let Some(tap) = taps.next() else { break };
                                if iy >= height || ix >= width {
                                    *tap = 0.0;
                                    continue;
                                }
                                let at = b * xs[0] + c * xs[1] + iy * xs[2] + ix * xs[3];
                                // SAFETY: a cell of x.
                                unsafe { x.load(at, 0, std::slice::from_mut(tap)) };
                            }
                        }
                    }
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
