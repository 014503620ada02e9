//! How one op becomes tasks.

use super::problem::{Problem, Segment, Task};

/// Fewest keys of a task that sees a part of them.
const SPLIT: usize = 256;
/// Most rows of a task.
const MOST_ROWS: usize = 256;
/// Numbers of queries and sums that a task should keep in the cache.
const MOST_NUMBERS: usize = 3 << 15;
/// Partial results of the same queries that must be joined.
pub(super) struct Join {
    /// The queries.
    pub task: Task,
    /// Row of the first.
    pub at: usize,
    pub parts: usize,
}

/// Tiles of queries, split along the keys where there are too few for the threads; and the
/// number of rows of partial results.
pub(super) fn tasks(
    p: &Problem<'_>,
    segments: &[Segment],
    heads: usize,
    threads: usize,
) -> (Vec<Task>, Vec<Join>, usize) {
    let most = (MOST_NUMBERS / (p.dk + p.dv)).clamp(32, MOST_ROWS);
    let positions: usize = segments.iter().map(|s| s.len).sum();
    // Enough tasks for the threads, as long as they fill the vectors.
    let rows = (positions * p.group * heads / (threads * 4)).clamp(32, most) / 32 * 32;
    let tile = (rows / p.group).max(1);
    let tiles: usize = segments.iter().map(|s| s.len.div_ceil(tile)).sum::<usize>() * heads;
    let wanted = match (threads, tiles) {
        (1, _) | (_, 0) => 1,
        _ if tiles >= threads * 3 || tiles.is_multiple_of(threads) => 1,
        _ => (threads * 3).div_ceil(tiles),
    };
    let (mut tasks, mut joins, mut rows) = (Vec::new(), Vec::new(), 0);
    for s in segments {
        // The last tiles see the most keys: they start first.
        for first in (0..s.len).step_by(tile).rev() {
            let queries = Segment {
                i0: s.i0 + first,
                len: tile.min(s.len - first),
                position: s.position + first as i64,
                ..*s
            };
            let (lo, hi) = p.visible(&queries);
            let parts = wanted.min((hi - lo) / SPLIT).max(1);
            let step = (hi - lo).div_ceil(parts).max(1);
            for head in 0..heads {
                let whole = Task {
                    queries,
                    head,
                    keys: (lo, hi),
                    partial: None,
                };
                if parts == 1 {
                    tasks.push(whole);
                    continue;
                }
                joins.push(Join {
                    task: whole,
                    at: rows,
                    parts,
                });
                for part in 0..parts {
                    let from = (lo + part * step).min(hi);
                    tasks.push(Task {
                        keys: (from, (from + step).min(hi)),
                        partial: Some(rows),
                        ..whole
                    });
                    rows += queries.len * p.group;
                }
            }
        }
    }
    (tasks, joins, rows)
}
