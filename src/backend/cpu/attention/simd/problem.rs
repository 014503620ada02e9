//! One op in the terms of the kernels: its operands, its tasks, and rows that go in and out.
//!
//! The rows of a task are the queries of all heads that share a KV head: row `r` is position
//! `r / group` in head `r % group`.

use super::{super::seqs::Cache, lanes::Lanes};
use crate::DType;
use crate::backend::cpu::{
    matmul::simd::epilogue::Floats,
    simd::{
        Eight, Elem, Simd,
        cells::{self, Cells},
    },
};
use half::{bf16, f16};

/// Most rows that are side by side in vectors.
const MOST_LANES: usize = 32;

/// Rows of a `[B, H, S, D]` float tensor: element strides of B, H and S.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub data: Floats,
    pub strides: [usize; 3],
}

/// A mask operand.
#[derive(Clone, Copy)]
pub(super) struct Mask {
    pub data: Floats,
    /// Bytes where 0 hides, instead of floats to add.
    pub boolean: bool,
    /// Element strides of B, Hq, Sq.
    pub strides: [usize; 3],
}

/// One op.
pub(super) struct Problem<'a> {
    pub q: Heads,
    pub out: Heads,
    pub k: Cache<'a>,
    pub v: Cache<'a>,
    pub group: usize,
    pub dk: usize,
    pub dv: usize,
    pub scale: f32,
    pub causal: bool,
    pub window: Option<i64>,
    pub softcap: Option<f32>,
    pub alibi: Option<*const f32>,
    pub sinks: Option<*const f32>,
    pub mask: Option<Mask>,
}

// SAFETY: the pointers lead into operands that the op keeps alive; tasks write rows of their own.
unsafe impl Sync for Problem<'_> {}

/// Queries that follow each other in one sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Batch entry of q.
    pub b: usize,
    /// First query.
    pub i0: usize,
    /// Queries.
    pub len: usize,
    /// Sequence of the cache.
    pub sequence: usize,
    /// Position of the first query.
    pub position: i64,
    /// Keys.
    pub kv_len: usize,
}

/// Some queries of a segment, the heads of one KV head, some keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    /// The queries: a part of a segment.
    pub queries: Segment,
    /// KV head.
    pub head: usize,
    /// Keys.
    pub keys: (usize, usize),
    /// Where the unfinished result goes, in rows of [`Partials`].
    pub partial: Option<usize>,
}

/// Results of tasks that saw a part of the keys: per row the sums `[dv]`, the largest score in
/// powers of two and the denominator.
#[derive(Clone, Copy)]
pub(super) struct Partials {
    pub start: *mut f32,
    pub dv: usize,
}

// SAFETY: tasks write rows of their own.
unsafe impl Sync for Partials {}
// SAFETY: as above.
unsafe impl Send for Partials {}

impl Partials {
    /// Floats per row.
    pub fn step(self) -> usize {
        self.dv + 2
    }

    /// Notes the largest score and the denominator of a row.
    ///
    /// # Safety
    /// The row exists and is the caller's own.
    pub unsafe fn finish(self, row: usize, top: f32, total: f32) {
        // SAFETY: the caller's contract.
        unsafe {
            let end = self.start.add(row * self.step() + self.dv);
            *end = top;
            *end.add(1) = total;
        }
    }
}

impl Problem<'_> {
    /// First key and one past the last that any of these queries sees.
    pub fn visible(&self, queries: &Segment) -> (usize, usize) {
        let last = queries.position + queries.len as i64 - 1;
        let end = if self.causal {
            (last + 1).clamp(0, queries.kv_len as i64) as usize
        } else {
            queries.kv_len
        };
        let first = self
            .window
            .map_or(0, |w| (queries.position - w + 1).max(0) as usize);
        (first.min(end), end)
    }

    /// True when scores need more than the product, the range of visible keys aside.
    pub fn has_terms(&self) -> bool {
        self.softcap.is_some() || self.alibi.is_some() || self.mask.is_some()
    }

    /// What queries are multiplied with as they are loaded. Scores are powers of two, but for
    /// those that further terms in natural units follow.
    pub fn query_factor(&self) -> f32 {
        if self.has_terms() {
            self.scale
        } else {
            self.scale * std::f32::consts::LOG2_E
        }
    }

    /// Query head and position of row `r`.
    #[inline(always)]
    pub fn place(&self, task: &Task, r: usize) -> (usize, usize) {
        (
            task.head * self.group + r % self.group,
            task.queries.i0 + r / self.group,
        )
    }

    /// Element offset of row `r` in q or out.
    #[inline(always)]
    pub fn offset(&self, strides: [usize; 3], task: &Task, r: usize) -> usize {
        let (h, i) = self.place(task, r);
        let [sb, sh, ss] = strides;
        task.queries.b * sb + h * sh + i * ss
    }

    /// What row `r` is multiplied with in the end, from its largest score in powers of two and
    /// its denominator.
    ///
    /// # Safety
    /// The sinks are alive.
    #[inline(always)]
    pub unsafe fn share(&self, task: &Task, r: usize, top: f32, total: f32) -> f32 {
        if total == 0.0 {
            return 0.0;
        }
        let Some(sinks) = self.sinks else {
            return 1.0 / total;
        };
        // SAFETY: there is a sink for each head.
        let sink = unsafe { *sinks.add(self.place(task, r).0) } * std::f32::consts::LOG2_E;
        // Relative to the larger of the two, so that nothing overflows.
        let most = top.max(sink);
        let own = (top - most).exp2();
        own / (total * own + (sink - most).exp2())
    }

    /// Stores row `r` from its sums.
    ///
    /// # Safety
    /// The row is the caller's own, `sums` has `dv` floats, the CPU has the features of `S`.
    #[inline(always)]
    pub unsafe fn store<S: Simd>(&self, task: &Task, r: usize, sums: *const f32, factor: f32) {
        let at = self.offset(self.out.strides, task, r);
        // SAFETY: a row of out and its sums.
        unsafe {
            let mut d = 0;
            while d < self.dv {
                let n = (self.dv - d).min(S::LANES);
                let v = S::mul(get::<S>(sums.add(d), n), S::splat(factor));
                if self.out.data.dtype == DType::F32 {
                    put::<S>(self.out.data.start.cast::<f32>().add(at + d), n, v);
                } else {
                    self.out.data.store::<S>(at + d, n, v);
                }
                d += n;
            }
        }
    }

    /// Joins `parts` partial results of one task's queries, from row `at` on with one tile after
    /// the other.
    ///
    /// # Safety
    /// As for the tasks; the parts are complete.
    #[inline(always)]
    pub unsafe fn join<S: Simd>(&self, task: &Task, at: usize, parts: usize, from: Partials) {
        let (rows, dv) = (task.queries.len * self.group, self.dv);
        // SAFETY: the rows of the parts exist; the first part's sums take those of the others.
        unsafe {
            for r in 0..rows {
                let first = from.start.add((at + r) * from.step());
                let part = |p: usize| first.add(p * rows * from.step());
                let mut top = f32::NEG_INFINITY;
                for p in 0..parts {
                    top = top.max(*part(p).add(dv));
                }
                let mut total = 0.0;
                for p in 0..parts {
                    let part = part(p);
                    let own = *part.add(dv);
                    let factor = if own == top { 1.0 } else { (own - top).exp2() };
                    total += factor * *part.add(dv + 1);
                    let mut d = 0;
                    while d < dv {
                        let n = (dv - d).min(S::LANES);
                        let v = S::mul(get::<S>(part.add(d), n), S::splat(factor));
                        let v = if p == 0 {
                            v
                        } else {
                            S::add(v, get::<S>(first.add(d), n))
                        };
                        put::<S>(first.add(d), n, v);
                        d += n;
                    }
                }
                self.store::<S>(task, r, first, self.share(task, r, top, total));
            }
        }
    }

    /// Slopes and positions (relative to the task's first) of rows `r0..r0 + n`, in lanes.
    ///
    /// # Safety
    /// Both have room for `n`.
    pub unsafe fn lane_places(
        &self,
        task: &Task,
        r0: usize,
        n: usize,
        slopes: *mut f32,
        at: *mut f32,
    ) {
        for i in 0..n {
            let r = r0 + i;
            // SAFETY: room for n; rows beyond the last take the slope of a head that exists.
            unsafe {
                *at.add(i) = (r / self.group) as f32;
                if let Some(all) = self.alibi {
                    *slopes.add(i) = *all.add(self.place(task, r).0);
                }
            }
        }
    }

    /// Loads rows `r0..r0 + lanes` of q into lanes: `to[dk][lanes]`. The last of the `rows` stands
    /// for those behind it.
    ///
    /// # Safety
    /// The operands are alive, `to` has room, the CPU has the features of [`Eight`].
    pub unsafe fn load_queries(
        &self,
        task: &Task,
        r0: usize,
        rows: usize,
        lanes: usize,
        to: *mut f32,
    ) {
        let from = self.lane_offsets(self.q.strides, task, r0, rows, 0);
        let (from, factor) = (&from[..lanes], self.query_factor());
        // SAFETY: rows of q; the caller's contract.
        unsafe { rows_to_lanes(self.q.data, from, self.dk, factor, to) };
    }

    /// Offsets of rows `r0..` of a tensor, `more` elements on; the last row stands for those
    /// behind it.
    fn lane_offsets(
        &self,
        strides: [usize; 3],
        task: &Task,
        r0: usize,
        rows: usize,
        more: usize,
    ) -> [usize; MOST_LANES] {
        let mut from = [0; MOST_LANES];
        for (i, from) in from.iter_mut().enumerate() {
            *from = self.offset(strides, task, (r0 + i).min(rows - 1)) + more;
        }
        from
    }

    /// Loads what the mask adds to keys `key..key + keys` of rows `r0..r0 + lanes`, as
    /// `to[keys][lanes]`. False when it hides all of them.
    ///
    /// # Safety
    /// As for [`Problem::load_queries`].
    pub unsafe fn load_mask(
        &self,
        mask: Mask,
        task: &Task,
        r0: usize,
        rows: usize,
        lanes: usize,
        key: usize,
        keys: usize,
        to: *mut f32,
    ) -> bool {
        let from = self.lane_offsets(mask.strides, task, r0, rows, key);
        let from = &from[..lanes];
        // SAFETY: rows of the mask; the caller's contract.
        unsafe {
            if mask.boolean {
                bytes_to_lanes(mask.data.start, from, keys, to);
            } else {
                rows_to_lanes(mask.data, from, keys, 1.0, to);
            }
            some_finite(to, keys * lanes)
        }
    }

    /// Stores rows `r0..rows` (at most `lanes`) from `sums[dv][lanes]`, into out or into
    /// `partials`; `top` and `total` are those of the lanes.
    ///
    /// # Safety
    /// As for [`Problem::load_queries`].
    pub unsafe fn store_lanes(
        &self,
        task: &Task,
        r0: usize,
        rows: usize,
        lanes: usize,
        sums: *const f32,
        top: *const f32,
        total: *const f32,
        partials: Partials,
    ) {
        let n = lanes.min(rows - r0);
        let (mut to, mut factors) = ([0; MOST_LANES], [1f32; MOST_LANES]);
        // SAFETY: n lanes exist; rows of out, or of the partial results.
        unsafe {
            let data = match task.partial {
                None => {
                    for i in 0..n {
                        to[i] = self.offset(self.out.strides, task, r0 + i);
                        factors[i] = self.share(task, r0 + i, *top.add(i), *total.add(i));
                    }
                    self.out.data
                }
                Some(at) => {
                    for i in 0..n {
                        let row = at + r0 + i;
                        to[i] = row * partials.step();
                        partials.finish(row, *top.add(i), *total.add(i));
                    }
                    Floats {
                        start: partials.start.cast(),
                        dtype: DType::F32,
                    }
                }
            };
            lanes_to_rows(sums, lanes, self.dv, &factors, data, &to[..n]);
        }
    }
}

/// [`Simd::load_n`], which is slower than a whole load even for all lanes.
#[inline(always)]
unsafe fn get<S: Simd>(p: *const f32, n: usize) -> S::F {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        if n == S::LANES {
            S::load(p)
        } else {
            S::load_n(p, n)
        }
    }
}

/// [`Simd::store_n`], which is slower than a whole store even for all lanes.
#[inline(always)]
unsafe fn put<S: Simd>(p: *mut f32, n: usize, v: S::F) {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        if n == S::LANES {
            S::store(p, v);
        } else {
            S::store_n(p, n, v);
        }
    }
}

/// Loads `len` elements of the rows at element offsets `from` as `to[len][from.len()]`, times
/// `factor`.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
unsafe fn rows_to_lanes(data: Floats, from: &[usize], len: usize, factor: f32, to: *mut f32) {
    #[inline(always)]
    unsafe fn rows<T: Elem>(
        start: *const T,
        from: &[usize],
        len: usize,
        factor: f32,
        to: *mut f32,
    ) {
        // SAFETY: len elements of each row exist; stores stay inside `to`.
        unsafe {
            let factor = Eight::splat(factor);
            for (l, eight) in from.as_chunks::<8>().0.iter().enumerate() {
                let to = to.add(l * 8);
                let mut rows = [cells::zero(); 8];
                let mut d = 0;
                while d + 8 <= len {
                    for i in 0..8 {
                        let v = T::load::<Eight>(start.add(eight[i] + d));
                        rows[i] = cells::of_f32(Eight::mul(v, factor));
                    }
                    put8(
                        cells::transpose8(rows),
                        8,
                        to.add(d * from.len()),
                        from.len(),
                    );
                    d += 8;
                }
                if d < len {
                    for i in 0..8 {
                        let v = T::load_n::<Eight>(start.add(eight[i] + d), len - d);
                        rows[i] = cells::of_f32(Eight::mul(v, factor));
                    }
                    put8(
                        cells::transpose8(rows),
                        len - d,
                        to.add(d * from.len()),
                        from.len(),
                    );
                }
            }
        }
    }
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match data.dtype {
            DType::F16 => rows::<f16>(data.start.cast(), from, len, factor, to),
            DType::BF16 => rows::<bf16>(data.start.cast(), from, len, factor, to),
            _ => rows::<f32>(data.start.cast(), from, len, factor, to),
        }
    }
}

/// As [`rows_to_lanes`] with -inf where a byte is 0 and 0 where it is not.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
unsafe fn bytes_to_lanes(start: *const u8, from: &[usize], len: usize, to: *mut f32) {
    // SAFETY: len bytes of each row exist; stores stay inside `to`.
    unsafe {
        let low = Eight::splat(f32::NEG_INFINITY);
        for (l, eight) in from.as_chunks::<8>().0.iter().enumerate() {
            let mut d = 0;
            while d < len {
                let n = (len - d).min(8);
                let mut rows = [cells::of_f32(low); 8];
                for i in 0..8 {
                    let mut bytes = [0u8; 8];
                    let row = start.add(eight[i] + d);
                    std::ptr::copy_nonoverlapping(row, bytes.as_mut_ptr(), n);
                    let wide = Eight::load_i8(bytes.as_ptr());
                    let square = Eight::mul(wide, wide);
                    let hide = Eight::where_le(square, Eight::zero(), low, Eight::zero());
                    rows[i] = cells::of_f32(hide);
                }
                put8(
                    cells::transpose8(rows),
                    n,
                    to.add(d * from.len() + l * 8),
                    from.len(),
                );
                d += n;
            }
        }
    }
}

/// The first `n` vectors, `step` floats apart.
#[inline(always)]
unsafe fn put8(rows: [Cells; 8], n: usize, to: *mut f32, step: usize) {
    // SAFETY: the caller's `to` has room.
    unsafe {
        if n == 8 {
            for i in 0..8 {
                cells::store(to.add(i * step).cast(), rows[i]);
            }
        } else {
            for (i, row) in rows.into_iter().enumerate().take(n) {
                cells::store(to.add(i * step).cast(), row);
            }
        }
    }
}

/// True unless all of `n` numbers, a multiple of 8, are -inf.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
unsafe fn some_finite(p: *const f32, n: usize) -> bool {
    // SAFETY: n numbers exist.
    unsafe {
        let low = Eight::splat(f32::NEG_INFINITY);
        for i in (0..n).step_by(8) {
            if Eight::any_not_le(Eight::load(p.add(i)), low) {
                return true;
            }
        }
        false
    }
}

/// Stores lane `i` of `sums[len][lanes]` times `factors[i]` as the row at element offset `to[i]`.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
unsafe fn lanes_to_rows(
    sums: *const f32,
    lanes: usize,
    len: usize,
    factors: &[f32; MOST_LANES],
    data: Floats,
    to: &[usize],
) {
    // SAFETY: whole vectors of lanes exist in `sums`; len elements of each row exist.
    unsafe {
        for (l, to) in to.chunks(8).enumerate() {
            let factor = Eight::load(factors.as_ptr().add(l * 8));
            let mut d = 0;
            while d < len {
                let n = (len - d).min(8);
                let mut rows = [cells::zero(); 8];
                for i in 0..n {
                    let v = Eight::load(sums.add((d + i) * lanes + l * 8));
                    rows[i] = cells::of_f32(Eight::mul(v, factor));
                }
                let turned = cells::transpose8(rows);
                for (i, to) in to.iter().enumerate() {
                    // Stores of a part of a vector are slow.
                    if n == 8 && data.dtype == DType::F32 {
                        cells::store(data.start.cast::<u32>().add(to + d), turned[i]);
                    } else {
                        data.store::<Eight>(to + d, n, cells::to_f32(turned[i]));
                    }
                }
                d += n;
            }
        }
    }
}
