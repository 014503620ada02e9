//! Rows of a packed table by id.

use super::{
    Decoding,
    class::with_layout,
    class::{Layout, Scales, TILE},
    exact,
    run::Part,
    tile::Params,
};
use crate::{
    Op, Tensor,
    backend::cpu::{
        rows::Ctx,
        view::{Dst, Src},
    },
    error::Result,
    quant::QuantFormat,
};

/// y\[..\] = table\[ids\].
///
/// # Safety
/// `fits` accepted the op; its operands are alive and nobody else touches them.
pub(super) unsafe fn gather(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::GatherRows(op) = op else {
        return Ok(());
    };
    let (part, y) = (Part::new(&op.table)?, Dst::of(&op.y)?);
    // SAFETY: nobody writes the operands of a running op.
    let ids = unsafe { Src::of(&op.ids)?.integers() };
    let (rows, len) = (y.rows(), y.len());
    let zeros = vec![0.0f32; len];
    let decode = decoder(part.format());
    ctx.pool
        .parallel(ids.len(), op.y.desc().elements() * 4, |range| {
            let mut row = vec![0.0f32; len];
            let mut panel = vec![0.0f32; exact::KC * TILE];
            for i in range {
                let id = usize::try_from(ids[i]).ok().filter(|&id| id < part.rows());
                // SAFETY: `id` is a row of the table, `fits` saw the features; each row of y is written once.
                unsafe {
                    let values = match id {
                        Some(id) => {
                            let tile = part.tile(id / TILE);
                            decode(tile, part.params(), id, &mut panel, &mut row);
                            &row
                        }
                        None => &zeros,
                    };
                    y.store(rows.offset(i), 0, values);
                }
            }
        });
    Ok(())
}

/// Decodes a row.
type Decode = unsafe fn(*const u8, &Params, usize, &mut [f32], &mut [f32]);

/// [`decode`] of a format.
pub(super) fn decoder(format: QuantFormat) -> Decode {
    with_layout!(format, K, decode::<K>)
}

/// Row `id` of a table from the tile that holds it: units, of which one column is kept.
///
/// # Safety
/// The tile has the k of `row`; the CPU has the features of [`Decoding`].
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
unsafe fn decode<K: Layout>(
    tile: *const u8,
    params: &Params,
    id: usize,
    panel: &mut [f32],
    row: &mut [f32],
) {
    let unit = K::Scales::UNIT;
    for (u, out) in row.chunks_mut(unit).enumerate() {
        // SAFETY: a unit of the pack; the panel holds the longest.
        unsafe {
            let from = tile.add(u * K::BYTES);
            exact::unpack::<Decoding, K>(from, 1, params, panel.as_mut_ptr(), TILE);
        }
        for (o, v) in out.iter_mut().zip(panel.chunks_exact(TILE)) {
            *o = v[id % TILE];
        }
    }
}
