//! Rows of GGUF blocks into tiles.

use super::{
    class::with_layout,
    class::{BLOCK, Layout, Scales, TILE},
};
use crate::{
    backend::cpu::{
        isa::multiversion,
        parts::{self, Head},
        pool::Pool,
    },
    quant::QuantFormat,
};

/// Most k of a unit.
const UNIT: usize = 256;
/// Most blocks of a unit.
const MOST: usize = 4;

/// A stack of `batches` matrices `[n, k]` of one format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub format: QuantFormat,
    pub batches: usize,
    pub n: usize,
    pub k: usize,
}

impl Shape {
    /// Tiles of a matrix.
    pub fn tiles(&self) -> usize {
        self.n.div_ceil(TILE)
    }

    /// Bytes of a tile.
    pub fn tile_bytes(&self) -> usize {
        with_layout!(self.format, K, {
            self.k.div_ceil(<K as Layout>::Scales::UNIT) * <K as Layout>::BYTES
        })
    }

    /// Bytes of the pack; `None` where they cannot be counted.
    pub fn bytes(&self) -> Option<usize> {
        let units = self.k.checked_add(UNIT)? / BLOCK;
        let most = units.checked_mul(BLOCK * TILE)?.checked_mul(self.tiles())?;
        most.checked_mul(self.batches.checked_mul(2)?)?;
        Some(self.batches * self.tiles() * self.tile_bytes())
    }
}

/// Where tiles are written, each by one task.
struct Out(*mut u8);
// SAFETY: tasks write tiles of their own.
unsafe impl Sync for Out {}

/// Packs the contiguous rows of `shape` at `rows` into `out`, which holds zeros.
pub(super) fn pack(pool: &Pool, isa: super::Isa, shape: Shape, rows: &[u8], out: &mut [u8]) {
    let format = shape.format;
    let row_bytes = shape.k / format.block_len() * format.block_bytes();
    let (tiles, tile_bytes) = (shape.tiles(), shape.tile_bytes());
    debug_assert_eq!(out.len(), shape.batches * tiles * tile_bytes);
    let to = Out(out.as_mut_ptr());
    let count = shape.batches * tiles;
    let work = rows.len() as u64 / 2;
    pool.parallel(count, work, |range| {
        let to = &to;
        let mut codes = Box::new([[0u8; UNIT]; TILE]);
        for i in range {
            let (batch, tile) = (i / tiles, i % tiles);
            let first = (batch * shape.n + tile * TILE) * row_bytes;
            let valid = TILE.min(shape.n - tile * TILE);
            let rows = &rows[first..first + valid * row_bytes];
            // SAFETY: tile `i` of `out`, which this task alone writes.
            let out =
                unsafe { std::slice::from_raw_parts_mut(to.0.add(i * tile_bytes), tile_bytes) };
            with_layout!(format, K, {
                pack_tile::<K>(isa, format, rows, row_bytes, &mut codes, out)
            });
        }
    });
}

fn pack_tile<K: Layout>(
    isa: super::Isa,
    format: QuantFormat,
    rows: &[u8],
    row_bytes: usize,
    codes: &mut [[u8; UNIT]; TILE],
    out: &mut [u8],
) {
    let (block_len, block_bytes) = (format.block_len(), format.block_bytes());
    let unit_bytes = K::Scales::UNIT / block_len * block_bytes;
    for row in codes.iter_mut() {
        row.fill(0);
    }
    for (u, out) in out.chunks_exact_mut(K::BYTES).enumerate() {
        let (head, planes) = out.split_at_mut(K::Scales::HEAD);
        let start = u * unit_bytes;
        let end = (start + unit_bytes).min(row_bytes);
        for (r, (row, codes)) in rows.chunks_exact(row_bytes).zip(&mut *codes).enumerate() {
            if end - start < unit_bytes {
                codes.fill(0);
            }
            let heads = read_unit(isa, format, &row[start..end], codes);
            for (j, parts) in heads.iter().enumerate().take((end - start) / block_bytes) {
                K::Scales::write(parts, j, r, head);
            }
        }
        let all = planes.chunks_exact_mut(BLOCK * TILE * K::BITS / 8);
        for (b, out) in all.enumerate() {
            pack_block(isa, codes, b, K::BITS, out);
        }
    }
}

multiversion! {
    /// Codes and heads of the blocks of one row in a unit.
    fn read_unit = read_unit_body(format: QuantFormat, blocks: &[u8], codes: &mut [u8; UNIT]) -> [Head; MOST]
}

#[inline(always)]
fn read_unit_body<const FMA: bool>(
    format: QuantFormat,
    blocks: &[u8],
    codes: &mut [u8; UNIT],
) -> [Head; MOST] {
    let blocks = blocks.chunks_exact(format.block_bytes());
    let codes = codes.chunks_exact_mut(format.block_len());
    let mut heads = [Head::EMPTY; MOST];
    for ((head, block), codes) in heads.iter_mut().zip(blocks).zip(codes) {
        *head = parts::read(format, block, codes);
    }
    heads
}

multiversion! {
    /// The 32 codes from `32 block` on of all rows as planes.
    fn pack_block = pack_block_body(codes: &[[u8; UNIT]; TILE], block: usize, bits: usize, out: &mut [u8])
}

#[inline(always)]
fn pack_block_body<const FMA: bool>(
    codes: &[[u8; UNIT]; TILE],
    block: usize,
    bits: usize,
    out: &mut [u8],
) {
    let mut groups = [[0u8; 64]; 8];
    for (r, row) in codes.iter().enumerate() {
        for (g, group) in groups.iter_mut().enumerate() {
            group[4 * r..4 * r + 4].copy_from_slice(&row[BLOCK * block + 4 * g..][..4]);
        }
    }
    match bits {
        1 => plane::<1>(&groups, 0, out),
        2 => plane::<2>(&groups, 0, out),
        3 => {
            plane::<2>(&groups, 0, &mut out[..128]);
            plane::<1>(&groups, 2, &mut out[128..]);
        }
        4 => plane::<4>(&groups, 0, out),
        5 => {
            plane::<4>(&groups, 0, &mut out[..256]);
            plane::<1>(&groups, 4, &mut out[256..]);
        }
        6 => {
            plane::<4>(&groups, 0, &mut out[..256]);
            plane::<2>(&groups, 4, &mut out[256..]);
        }
        _ => {
            for (out, group) in out.chunks_exact_mut(64).zip(&groups) {
                out.copy_from_slice(group);
            }
        }
    }
}

/// `BITS` bits of all codes, from bit `from` on.
#[inline(always)]
fn plane<const BITS: usize>(groups: &[[u8; 64]; 8], from: usize, out: &mut [u8]) {
    let mask = ((1u32 << BITS) - 1) as u8;
    let per = 8 / BITS;
    for (out, groups) in out.chunks_exact_mut(64).zip(groups.chunks_exact(per)) {
        let mut line = [0u8; 64];
        for (i, group) in groups.iter().enumerate() {
            for (o, g) in line.iter_mut().zip(group) {
                *o |= (g >> from & mask) << (i * BITS);
            }
        }
        out.copy_from_slice(&line);
    }
}
