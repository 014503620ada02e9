//! Blocks of rows and steps of keys: what lies where in a task's memory, and which keys rows see.

use super::{
    lanes::Lanes,
    problem::{Problem, Task},
};

/// Keys per step.
pub(super) const KEYS: usize = 96;

/// Where the parts of a task lie in scratch memory: `NR` vectors of rows are a block.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Rows per block.
    pub lanes: usize,
    pub blocks: usize,
    /// Floats of a block's queries, sums, and all that it keeps.
    pub queries: usize,
    pub sums: usize,
    pub block: usize,
}

impl Layout {
    pub fn new(rows: usize, lanes: usize, queries: usize, dv: usize) -> Layout {
        Layout {
            lanes,
            blocks: rows.div_ceil(lanes),
            queries: queries * lanes,
            sums: dv * lanes,
            block: (queries + dv + 4) * lanes,
        }
    }
}

/// Rows of one block, their softmax and sums.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Queries.
    pub q: *mut f32,
    /// `[dv][lanes]`.
    pub sums: *mut f32,
    /// What weights are relative to, in powers of two.
    pub top: *mut f32,
    /// Sums of weights.
    pub total: *mut f32,
    /// Positions relative to the task's first.
    pub places: *mut f32,
    /// Slopes of the position bias.
    pub slopes: *mut f32,
}

impl Block {
    /// # Safety
    /// `memory` has all blocks of the layout.
    pub unsafe fn of(l: Layout, memory: *mut f32, i: usize) -> Block {
        // SAFETY: inside the block.
        unsafe {
            let q = memory.add(i * l.block);
            let sums = q.add(l.queries);
            let top = sums.add(l.sums);
            Block {
                q,
                sums,
                top,
                total: top.add(l.lanes),
                places: top.add(2 * l.lanes),
                slopes: top.add(3 * l.lanes),
            }
        }
    }

    /// Ready for the first keys; the queries are loaded by others.
    ///
    /// # Safety
    /// The block lies in memory; the CPU has the features of `S`.
    #[inline(always)]
    pub unsafe fn clear<S: Lanes>(self, p: &Problem<'_>, task: &Task, l: Layout, i: usize) {
        // SAFETY: inside the block.
        unsafe {
            let mut at = 0;
            while at < l.sums {
                S::store(self.sums.add(at), S::zero());
                at += S::LANES;
            }
            let mut at = 0;
            while at < l.lanes {
                S::store(self.top.add(at), S::splat(f32::NEG_INFINITY));
                S::store(self.total.add(at), S::zero());
                at += S::LANES;
            }
            p.lane_places(task, i * l.lanes, l.lanes, self.slopes, self.places);
        }
    }
}

/// The keys of one step: `n` from `first` on, and which of them are on no page.
pub(super) struct Step {
    pub first: usize,
    pub n: usize,
    pub lost: Option<[bool; KEYS]>,
}

/// Keys of a step, counted from its first, that a block needs.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub from: usize,
    pub to: usize,
    /// All rows see all of them.
    pub whole: bool,
}

impl Step {
    /// What rows `r0..r1` of the task need, in multiples of `step` keys.
    pub fn span(&self, p: &Problem<'_>, task: &Task, r0: usize, r1: usize, step: usize) -> Span {
        // Position of a row, counted from the first key of this step.
        let at = |r: usize| task.queries.position + (r / p.group) as i64 - self.first as i64;
        let n = self.n as i64;
        let (mut to, mut from) = (n, 0);
        let mut whole = self.lost.is_none() && self.n.is_multiple_of(step);
        if p.causal {
            to = (at(r1 - 1) + 1).clamp(0, n);
            whole &= at(r0) + 1 >= to && (to as usize).is_multiple_of(step);
        }
        if let Some(w) = p.window {
            from = (at(r0) - w + 1).clamp(0, n);
            whole &= at(r1 - 1) - w < from && (from as usize).is_multiple_of(step);
        }
        Span {
            from: from as usize / step * step,
            to: (to as usize).next_multiple_of(step),
            whole,
        }
    }
}
