//! Attention tile by tile with a running softmax (Dao et al. 2022): one task is a tile of query
//! positions, all query heads that share a KV head, and a range of keys. Each key and value is
//! converted to f32 once per task.

use super::super::seqs::Cache;
use crate::backend::cpu::{
    matmul::x86::{
        epilogue::Floats,
        f32_gemm::{Source, Tile, pack},
    },
    x86::{Elem, Simd, math},
};

/// Keys per step.
pub(super) const KEYS: usize = 128;
/// Rows (positions times heads) that a task should have.
pub(super) const ROWS: usize = 96;

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

/// Results of tasks that saw a part of the keys: per row the sums `[width]`, the largest score
/// and the denominator.
#[derive(Clone, Copy)]
pub(super) struct Partials {
    pub start: *mut f32,
    pub width: usize,
}

// SAFETY: tasks write rows of their own.
unsafe impl Sync for Partials {}
// SAFETY: as above.
unsafe impl Send for Partials {}

impl Partials {
    /// Floats per row: the sums, the largest score, the denominator.
    pub fn step(self) -> usize {
        self.width + 2
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

    /// Columns of the values, padded to whole panels.
    pub fn padded<S: Simd>(&self) -> usize {
        self.dv.next_multiple_of(2 * S::LANES)
    }

    /// Floats of scratch that [`Problem::task`] needs for `rows` rows.
    pub fn scratch<S: Simd>(&self, rows: usize) -> usize {
        let buffer = 8 * self.dk.max(self.dv);
        rows * (self.dk + KEYS + self.padded::<S>() + 2)
            + KEYS * (self.dk + self.padded::<S>())
            + buffer
            + 64
    }

    /// Computes one task.
    ///
    /// # Safety
    /// The operands are alive, `scratch` has [`Problem::scratch`] floats, no other task has the
    /// same rows, and the CPU has the features of `S` and AVX2, FMA and F16C.
    #[inline(always)]
    pub unsafe fn task<S: Simd, W: Source>(
        &self,
        source: W,
        task: &Task,
        scratch: *mut f32,
        partials: Partials,
    ) {
        let columns = 2 * S::LANES;
        let (dk, width) = (self.dk, self.padded::<S>());
        let queries = &task.queries;
        let (n, rows) = (queries.len, queries.len * self.group);
        // SAFETY: the layout below adds up to `scratch`; rows and keys exist.
        unsafe {
            let q = scratch;
            let scores = q.add(rows * dk);
            let sums = scores.add(rows * KEYS);
            let top = sums.add(rows * width);
            let total = top.add(rows);
            let k_panel = total.add(rows);
            let v_panel = k_panel.add(KEYS * dk);
            let buffer = v_panel.add(KEYS * width);
            for r in 0..rows {
                self.load_query::<S>(queries, task.head, r, q.add(r * dk));
                *top.add(r) = f32::NEG_INFINITY;
                *total.add(r) = 0.0;
            }
            let mut i = 0;
            while i < rows * width {
                S::store(sums.add(i), S::zero());
                i += S::LANES;
            }
            let mut key = task.keys.0;
            while key < task.keys.1 {
                let keys = KEYS.min(task.keys.1 - key);
                let mut k_rows = [std::ptr::null(); KEYS];
                let mut paged_out = false;
                let mut wild = S::zero();
                for j in 0..keys {
                    k_rows[j] = row(&self.k, queries.sequence, task.head, key + j);
                    let v = row(&self.v, queries.sequence, task.head, key + j);
                    let to = v_panel.add(j * width);
                    wild = S::add(wild, self.load_value::<S, W>(source, v, to));
                    paged_out |= v.is_null();
                }
                for p in (0..keys).step_by(columns) {
                    let panel = k_panel.add(p * dk);
                    let some = &k_rows[p..keys.min(p + columns)];
                    pack::<S, W>(source, some, 0, dk, panel, buffer);
                    let (x, x_step, c, c_step) = (q, dk, scores.add(p), KEYS);
                    Tile {
                        x,
                        x_step,
                        panel,
                        panel_step: columns,
                        c,
                        c_step,
                    }
                    .run::<S>(rows, dk, true);
                }
                for r in 0..rows {
                    let line = scores.add(r * KEYS);
                    self.finish_scores::<S>(task, r, key, keys, line);
                    if paged_out {
                        for j in 0..keys {
                            if k_rows[j].is_null() {
                                *line.add(j) = f32::NEG_INFINITY;
                            }
                        }
                    }
                    soften::<S>(
                        line,
                        keys,
                        top.add(r),
                        total.add(r),
                        sums.add(r * width),
                        width,
                    );
                }
                if S::sum(wild).is_nan() {
                    // Some value is not finite: a key of weight 0 must not speak as 0 * NaN.
                    for r in 0..rows {
                        let line = scores.add(r * KEYS);
                        for j in (0..keys).filter(|&j| *line.add(j) != 0.0) {
                            let (to, v) = (sums.add(r * width), v_panel.add(j * width));
                            let weight = S::splat(*line.add(j));
                            for d in (0..width).step_by(S::LANES) {
                                let part = S::mul(S::load(v.add(d)), weight);
                                S::store(to.add(d), S::add(S::load(to.add(d)), part));
                            }
                        }
                    }
                    key += keys;
                    continue;
                }
                let mut p = 0;
                while p < width {
                    let (x, x_step, panel, panel_step) = (scores, KEYS, v_panel.add(p), width);
                    let (c, c_step) = (sums.add(p), width);
                    Tile {
                        x,
                        x_step,
                        panel,
                        panel_step,
                        c,
                        c_step,
                    }
                    .run::<S>(rows, keys, false);
                    p += columns;
                }
                key += keys;
            }
            match task.partial {
                None => {
                    for r in 0..rows {
                        let (m, l) = (*top.add(r), *total.add(r));
                        self.store::<S>(queries, task.head, r, sums.add(r * width), m, l);
                    }
                }
                Some(at) => {
                    for r in 0..n * self.group {
                        let to = partials.start.add((at + r) * partials.step());
                        std::ptr::copy_nonoverlapping(sums.add(r * width), to, width);
                        *to.add(width) = *top.add(r);
                        *to.add(width + 1) = *total.add(r);
                    }
                }
            }
        }
    }

    /// Row `r` of a task is position `r % len` of query head `head * group + r / len`.
    #[inline(always)]
    unsafe fn load_query<S: Simd>(&self, queries: &Segment, head: usize, r: usize, to: *mut f32) {
        let (h, i) = (
            head * self.group + r / queries.len,
            queries.i0 + r % queries.len,
        );
        let [sb, sh, ss] = self.q.strides;
        let at = queries.b * sb + h * sh + i * ss;
        // SAFETY: a row of q, and dk floats at `to`.
        unsafe {
            let mut d = 0;
            while d < self.dk {
                let n = (self.dk - d).min(S::LANES);
                let v = self.q.data.load::<S>(at + d, n);
                S::store_n(to.add(d), n, S::mul(v, S::splat(self.scale)));
                d += n;
            }
        }
    }

    /// One row of values as f32, padded with zeros; zeros for null. Returns lanes that are NaN
    /// where the row has a number that is not finite, else 0.
    #[inline(always)]
    unsafe fn load_value<S: Simd, W: Source>(
        &self,
        source: W,
        row: *const u8,
        to: *mut f32,
    ) -> S::F {
        let (dv, width) = (self.dv, self.padded::<S>());
        // SAFETY: a row of v, and width floats at `to`.
        unsafe {
            let mut wild = S::zero();
            let mut d = 0;
            if !row.is_null() {
                let from = source.row(row, 0, dv, to);
                while d + S::LANES <= dv {
                    let v = W::Direct::load::<S>(from.add(d));
                    wild = S::add(wild, S::mul(v, S::zero()));
                    S::store(to.add(d), v);
                    d += S::LANES;
                }
                if d < dv {
                    let v = W::Direct::load_n::<S>(from.add(d), dv - d);
                    wild = S::add(wild, S::mul(v, S::zero()));
                    S::store(to.add(d), v);
                    d += S::LANES;
                }
            }
            while d < width {
                S::store(to.add(d), S::zero());
                d += S::LANES;
            }
            wild
        }
    }

    /// From products to scores of row `r` and keys `key..key + keys`: softcap, ALiBi, masks.
    #[inline(always)]
    unsafe fn finish_scores<S: Simd>(
        &self,
        task: &Task,
        r: usize,
        key: usize,
        keys: usize,
        line: *mut f32,
    ) {
        let queries = &task.queries;
        let (h, i) = (task.head * self.group + r / queries.len, r % queries.len);
        let position = queries.position + i as i64;
        // SAFETY: a line has KEYS scores; masks and slopes have an element for each.
        unsafe {
            if let Some(cap) = self.softcap {
                let mut j = 0;
                while j < keys {
                    let s = S::mul(S::load(line.add(j)), S::splat(1.0 / cap));
                    S::store(line.add(j), S::mul(math::tanh::<S>(s), S::splat(cap)));
                    j += S::LANES;
                }
            }
            if let Some(slopes) = self.alibi {
                let slope = *slopes.add(h);
                for j in 0..keys {
                    *line.add(j) += slope * ((key + j) as i64 - position) as f32;
                }
            }
            if let Some(mask) = self.mask {
                let [sb, sh, ss] = mask.strides;
                let at = queries.b * sb + h * sh + (queries.i0 + i) * ss + key;
                if mask.boolean {
                    for j in 0..keys {
                        if *mask.data.start.add(at + j) == 0 {
                            *line.add(j) = f32::NEG_INFINITY;
                        }
                    }
                } else {
                    let mut j = 0;
                    while j < keys {
                        let n = (keys - j).min(S::LANES);
                        let v = mask.data.load::<S>(at + j, n);
                        S::store(line.add(j), S::add(S::load(line.add(j)), v));
                        j += n;
                    }
                }
            }
            if self.causal && key as i64 + keys as i64 - 1 > position {
                let from = (position + 1 - key as i64).clamp(0, keys as i64) as usize;
                for j in from..keys {
                    *line.add(j) = f32::NEG_INFINITY;
                }
            }
            if let Some(window) = self.window
                && (key as i64) <= position - window
            {
                let to = (position - window + 1 - key as i64).clamp(0, keys as i64) as usize;
                for j in 0..to {
                    *line.add(j) = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Divides the sums of row `r` by its denominator and stores them.
    #[inline(always)]
    unsafe fn store<S: Simd>(
        &self,
        queries: &Segment,
        head: usize,
        r: usize,
        sums: *const f32,
        top: f32,
        total: f32,
    ) {
        let (h, i) = (
            head * self.group + r / queries.len,
            queries.i0 + r % queries.len,
        );
        let [sb, sh, ss] = self.out.strides;
        let at = queries.b * sb + h * sh + i * ss;
        // SAFETY: a row of out, its sums, a sink for each head.
        unsafe {
            let factor = if top == f32::NEG_INFINITY {
                0.0
            } else {
                match self.sinks {
                    // Relative to the larger of the two, so that nothing overflows.
                    Some(sinks) => {
                        let sink = *sinks.add(h);
                        let most = top.max(sink);
                        let own = (top - most).exp();
                        own / (total * own + (sink - most).exp())
                    }
                    None => 1.0 / total,
                }
            };
            let mut d = 0;
            while d < self.dv {
                let n = (self.dv - d).min(S::LANES);
                let v = S::mul(S::load_n(sums.add(d), n), S::splat(factor));
                self.out.data.store::<S>(at + d, n, v);
                d += n;
            }
        }
    }

    /// Joins `parts` partial results of one tile of queries, from row `at` on with one tile after
    /// the other.
    ///
    /// # Safety
    /// As for [`Problem::task`]; the parts are complete.
    #[inline(always)]
    pub unsafe fn join<S: Simd>(
        &self,
        queries: &Segment,
        head: usize,
        at: usize,
        parts: usize,
        partials: Partials,
    ) {
        let (rows, width) = (queries.len * self.group, partials.width);
        // SAFETY: the rows of the parts exist; the first part's sums take those of the others.
        unsafe {
            for r in 0..rows {
                let first = partials.start.add((at + r) * partials.step());
                let mut top = f32::NEG_INFINITY;
                for p in 0..parts {
                    let part = first.add(p * rows * partials.step());
                    top = top.max(*part.add(width));
                }
                let mut total = 0.0;
                for p in 0..parts {
                    let part = first.add(p * rows * partials.step());
                    let own = *part.add(width);
                    let factor = if own == f32::NEG_INFINITY {
                        0.0
                    } else {
                        (own - top).exp()
                    };
                    total += factor * *part.add(width + 1);
                    let mut d = 0;
                    while d < width {
                        let v = S::mul(S::load(part.add(d)), S::splat(factor));
                        let v = if p == 0 {
                            v
                        } else {
                            S::add(v, S::load(first.add(d)))
                        };
                        S::store(first.add(d), v);
                        d += S::LANES;
                    }
                }
                self.store::<S>(queries, head, r, first, top, total);
            }
        }
    }
}

/// First byte of key `j` of a sequence in a KV head; null for a key on no page.
///
/// # Safety
/// `j` is below the capacity.
#[inline(always)]
unsafe fn row(cache: &Cache<'_>, sequence: usize, head: usize, j: usize) -> *const u8 {
    match cache.run(sequence, head, j).0 {
        // SAFETY: a row of the cache.
        Some(offset) => unsafe { cache.view.ptr().add(offset) },
        None => std::ptr::null(),
    }
}

/// Scores to weights relative to the largest score so far; sums and denominator follow it.
#[inline(always)]
unsafe fn soften<S: Simd>(
    line: *mut f32,
    keys: usize,
    top: *mut f32,
    total: *mut f32,
    sums: *mut f32,
    width: usize,
) {
    // SAFETY: a line has KEYS scores, the sums `width` floats.
    unsafe {
        let low = S::splat(f32::NEG_INFINITY);
        let floor = S::splat(f32::MIN);
        let mut most = S::splat(*top);
        let mut poison = S::zero();
        let mut j = 0;
        while j < keys {
            let n = (keys - j).min(S::LANES);
            let s = S::first_n(n, S::load(line.add(j)), low);
            S::store(line.add(j), s);
            // The larger of two is the second where one is NaN: a NaN may get lost in `most`, but
            // not in `poison`, where all that is finite or hidden counts zero.
            most = S::max(most, s);
            poison = S::add(poison, S::mul(S::max(floor, s), S::zero()));
            j += S::LANES;
        }
        let most = S::max_lane(most);
        let poisoned = S::sum(poison).is_nan();
        if poisoned {
            *total = f32::NAN;
            *top = top.read().max(0.0);
        }
        if poisoned || most == f32::NEG_INFINITY {
            // NaN whatever follows, or nothing visible yet: weights of zero.
            let mut j = 0;
            while j < keys {
                S::store(line.add(j), S::zero());
                j += S::LANES;
            }
            return;
        }
        let mut sum = S::zero();
        let mut j = 0;
        while j < keys {
            let p = math::exp::<S>(S::sub(S::load(line.add(j)), S::splat(most)));
            S::store(line.add(j), p);
            sum = S::add(sum, p);
            j += S::LANES;
        }
        let sum = S::sum(sum);
        if most > *top {
            let factor = (*top - most).exp();
            *total *= factor;
            let mut d = 0;
            while d < width {
                S::store(sums.add(d), S::mul(S::load(sums.add(d)), S::splat(factor)));
                d += S::LANES;
            }
            *top = most;
        }
        *total += sum;
    }
}
