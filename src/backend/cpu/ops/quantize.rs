//! Quantize, Dequantize.

use crate::{
    backend::cpu::{
        convert,
        rows::Ctx,
        view::{Dst, Lines, Src},
    },
    element::Element,
    error::{Error, Result},
    op::{Op, OpKind},
    quant::{QuantError, QuantFormat},
    tensor::Tensor,
};
use std::sync::Mutex;

/// Numbers per stretch: a multiple of every block length.
const STRETCH: usize = 1024;
/// Results of so many bytes are written past the caches.
const STREAMED: u64 = 16 << 20;

/// The first error of an op whose work is spread over threads: that of the lowest row, so that
/// the same input gives the same message.
#[derive(Default)]
pub(super) struct Failure(Mutex<Option<(usize, QuantError)>>);

impl Failure {
    pub fn note(&self, row: usize, why: QuantError) {
        if let Ok(mut first) = self.0.lock()
            && first.as_ref().is_none_or(|(r, _)| row < *r)
        {
            *first = Some((row, why));
        }
    }

    /// The error, naming the operand.
    pub fn into_result(self, op: OpKind, arg: &'static str) -> Result<()> {
        match self.0.into_inner() {
            Ok(Some((row, why))) => Err(Error::invalid(op, arg, format!("row {row}: {why}"))),
            _ => Ok(()),
        }
    }
}

pub(super) unsafe fn dequantize(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Dequantize(op) = op else {
        return Ok(());
    };
    let (w, y) = (Src::of(&op.w)?, Dst::of(&op.y)?);
    let (wr, yr, len) = (w.rows(), y.rows(), w.len());
    let per_row = len.div_ceil(STRETCH);
    let work = op.y.desc().elements() / 4;
    // What no cache holds anyway goes past them.
    let large = op.y.desc().is_contiguous() && op.y.desc().data_bytes() >= STREAMED;
    ctx.pool.parallel(wr.count() * per_row, work, |range| {
        let Lines(buf) = &mut Lines([0.0; STRETCH]);
        for i in range {
            let (row, start) = (i / per_row, i % per_row * STRETCH);
            let n = STRETCH.min(len - start);
            let (from, to) = (wr.offset(row), yr.offset(row));
            // SAFETY: a stretch of both rows, each once; a row is whole blocks, so a stretch is.
            unsafe {
                if large {
                    if let (Element::Quant(q), Some(out)) =
                        (w.desc().element, y.borrow(to, start, n))
                    {
                        let from = w.ptr().add(from + start / q.block_len() * q.block_bytes());
                        let bytes = n / q.block_len() * q.block_bytes();
                        let bytes = std::slice::from_raw_parts(from, bytes);
                        convert::decode_far(q, bytes, out);
                        continue;
                    }
                    let buf = &mut buf[..n];
                    w.load(from, start, buf);
                    let Element::Plain(d) = y.desc().element else {
                        continue;
                    };
                    convert::store_far(d, y.ptr().add(to + start * d.size()), buf);
                    continue;
                }
                match y.borrow(to, start, n) {
                    Some(out) => w.load(from, start, out),
                    None => {
                        w.load(from, start, &mut buf[..n]);
                        y.store(to, start, &buf[..n]);
                    }
                }
            }
        }
        if large {
            convert::stream_end();
        }
    });
    Ok(())
}

/// Encodes `x`, whole blocks, to the bytes at `to`.
///
/// # Safety
/// The bytes of the blocks are writable and nobody else touches them.
pub(super) unsafe fn encode(format: QuantFormat, x: &[f32], to: *mut u8) -> Result<(), QuantError> {
    let bytes = x.len() / format.block_len() * format.block_bytes();
    // SAFETY: the caller's condition.
    convert::encode(format, x, unsafe {
        std::slice::from_raw_parts_mut(to, bytes)
    })
}

pub(super) unsafe fn quantize(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Quantize(op) = op else { return Ok(()) };
    let (x, y) = (Src::of(&op.x)?, Dst::of(&op.y)?);
    let Element::Quant(format) = op.y.element() else {
        return Ok(());
    };
    let (xr, yr, len) = (x.rows(), y.rows(), x.len());
    let per_row = len.div_ceil(STRETCH);
    let failure = Failure::default();
    let work = op.x.desc().elements().saturating_mul(4);
    ctx.pool.parallel(xr.count() * per_row, work, |range| {
        let Lines(buf) = &mut Lines([0.0; STRETCH]);
        for i in range {
            let (row, start) = (i / per_row, i % per_row * STRETCH);
            let buf = &mut buf[..STRETCH.min(len - start)];
            let skip = start / format.block_len() * format.block_bytes();
            // SAFETY: a stretch of both rows, each once.
            unsafe {
                let x = x.load_or_borrow(xr.offset(row), start, buf);
                if let Err(why) = encode(format, x, y.ptr().add(yr.offset(row) + skip)) {
                    failure.note(row, why);
                }
            }
        }
    });
    failure.into_result(OpKind::Quantize, "x")
}
