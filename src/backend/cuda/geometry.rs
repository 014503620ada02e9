//! Index arithmetic of launches: axes that several operands walk together, and grids. Pure.

use super::args::Launch;

/// One axis that N operands walk together: its length, and each operand's stride in that operand's own unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis<const N: usize> {
    pub(super) len: u32,
    pub(super) strides: [u64; N],
}

/// Drops axes of length 1 and joins neighbours that every operand walks in one stride; outermost first.
pub(super) fn collapse<const N: usize>(axes: impl IntoIterator<Item = Axis<N>>) -> Vec<Axis<N>> {
    let mut out: Vec<Axis<N>> = Vec::new();
    for axis in axes.into_iter().filter(|a| a.len != 1) {
        if let Some(last) = out.last_mut() {
            let joined = last.len.checked_mul(axis.len);
            let one_stride = (0..N)
                .all(|i| Some(last.strides[i]) == axis.strides[i].checked_mul(axis.len.into()));
            if let (Some(len), true) = (joined, one_stride) {
                *last = Axis { len, ..axis };
                continue;
            }
        }
        out.push(axis);
    }
    out
}

/// Number of index tuples.
pub(super) fn count<const N: usize>(axes: &[Axis<N>]) -> u64 {
    axes.iter().map(|a| u64::from(a.len)).product()
}

/// Calls `f` with every operand's offset, in row-major order, stopping at the first error.
pub(super) fn for_each<const N: usize, E>(
    axes: &[Axis<N>],
    f: &mut dyn FnMut([u64; N]) -> Result<(), E>,
) -> Result<(), E> {
    fn walk<const N: usize, E>(
        axes: &[Axis<N>],
        at: [u64; N],
        f: &mut dyn FnMut([u64; N]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some((axis, rest)) = axes.split_first() else {
            return f(at);
        };
        (0..u64::from(axis.len)).try_for_each(|i| {
            let mut next = at;
            next.iter_mut()
                .zip(axis.strides)
                .for_each(|(n, s)| *n += i * s);
            walk(rest, next, f)
        })
    }
    walk(axes, [0; N], f)
}

/// A one-dimensional launch of at least `threads` threads, 256 a CTA.
pub(super) fn linear(threads: u64) -> Launch {
    // Callers keep `threads` below 2^32, so the CTA count fits.
    Launch {
        grid: [threads.div_ceil(256) as u32, 1, 1],
        block: 256,
        shared: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(len: u32, x: u64, y: u64) -> Axis<2> {
        Axis {
            len,
            strides: [x, y],
        }
    }

    #[test]
    fn neighbours_join_only_when_all_operands_agree() {
        assert_eq!(
            collapse([axis(3, 20, 20), axis(4, 5, 5), axis(5, 1, 1)]),
            [axis(60, 1, 1)]
        );
        assert_eq!(
            collapse([axis(3, 24, 20), axis(4, 5, 5), axis(5, 1, 1)]),
            [axis(3, 24, 20), axis(20, 1, 1)]
        );
        assert_eq!(collapse([axis(3, 0, 4), axis(4, 0, 1)]), [axis(12, 0, 1)]);
        assert_eq!(
            collapse([axis(1, 7, 9), axis(4, 2, 1), axis(1, 5, 5)]),
            [axis(4, 2, 1)]
        );
        assert_eq!(collapse([axis(1, 7, 9)]), []);
        let long = u32::MAX;
        assert_eq!(
            collapse([axis(long, 2, 2), axis(2, 1, 1)]).len(),
            2,
            "the product does not fit 32 bits"
        );
    }

    #[test]
    fn every_offset_is_visited_once_in_order() {
        let mut seen = Vec::new();
        for_each::<2, ()>(&[axis(2, 10, 100), axis(3, 1, 0)], &mut |o| {
            seen.push(o);
            Ok(())
        })
        .unwrap();
        assert_eq!(
            seen,
            [[0, 0], [1, 0], [2, 0], [10, 100], [11, 100], [12, 100]]
        );
        assert_eq!(count(&[axis(2, 10, 100), axis(3, 1, 0)]), 6);
        let stop = for_each::<2, &str>(&[axis(9, 1, 1)], &mut |o| {
            if o[0] == 2 { Err("stop") } else { Ok(()) }
        });
        assert_eq!(stop, Err("stop"));
    }

    #[test]
    fn a_linear_launch_covers_every_thread_and_at_most_one_cta_more() {
        for n in [1u64, 255, 256, 257, 1000, u32::MAX.into()] {
            let ctas = u64::from(linear(n).grid[0]);
            assert!(ctas * 256 >= n && (ctas - 1) * 256 < n, "{n}");
        }
    }
}
