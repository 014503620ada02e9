//! Row-major walks over strided operands: how a kernel that sees one number per invocation finds
//! its elements.

use crate::layout::{MAX_RANK, TensorDesc};
use std::fmt::Write;

/// A shape and the strides of each operand along it, in as few axes as possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    names: Vec<&'static str>,
    shape: Vec<u32>,
    /// By operand, then by axis.
    strides: Vec<Vec<u32>>,
}

/// Ranks that shaders are compiled for.
const RANKS: [usize; 3] = [1, 3, MAX_RANK];

impl Walk {
    /// A walk over `shape` by operands with these strides, axis by axis, in elements.
    pub(crate) fn new(shape: &[u32], operands: &[(&'static str, &[i64])]) -> Self {
        let (mut dims, mut steps): (Vec<u32>, Vec<Vec<u32>>) =
            (Vec::new(), vec![Vec::new(); operands.len()]);
        for axis in 0..shape.len() {
            if shape[axis] == 1 {
                continue;
            }
            // A stride beyond 32 bits belongs to a tensor that no binding holds.
            let step = |o: usize| operands[o].1.get(axis).map_or(0, |&s| s as u32);
            let joins = dims.last().is_some_and(|_| {
                (0..operands.len()).all(|o| {
                    steps[o].last().copied().map(u64::from)
                        == Some(u64::from(step(o)) * u64::from(shape[axis]))
                })
            });
            match dims.last_mut() {
                Some(last) if joins => {
                    *last *= shape[axis];
                    for (o, steps) in steps.iter_mut().enumerate() {
                        if let Some(s) = steps.last_mut() {
                            *s = step(o);
                        }
                    }
                }
                _ => {
                    dims.push(shape[axis]);
                    for (o, steps) in steps.iter_mut().enumerate() {
                        steps.push(step(o));
                    }
                }
            }
        }
        let rank = RANKS
            .into_iter()
            .find(|&r| r >= dims.len())
            .unwrap_or(MAX_RANK);
        let pad = rank - dims.len();
        let front = |v: Vec<u32>, fill| [vec![fill; pad], v].concat();
        Walk {
            names: operands.iter().map(|o| o.0).collect(),
            shape: front(dims, 1),
            strides: steps.into_iter().map(|s| front(s, 0)).collect(),
        }
    }

    /// A walk over `shape` by operands that broadcast to it.
    pub(crate) fn over(shape: &[u32], operands: &[(&'static str, &TensorDesc)]) -> Self {
        let strides: Vec<(&'static str, Vec<i64>)> = operands
            .iter()
            .map(|(name, d)| (*name, broadcast(d, shape.len())))
            .collect();
        let views: Vec<(&'static str, &[i64])> =
            strides.iter().map(|(n, s)| (*n, s.as_slice())).collect();
        Self::new(shape, &views)
    }

    /// A walk over all axes of `shape` but the last.
    pub(crate) fn rows(shape: &[u32], operands: &[(&'static str, &TensorDesc)]) -> Self {
        let rank = shape.len().saturating_sub(1);
        let strides: Vec<(&'static str, Vec<i64>)> = operands
            .iter()
            .map(|(name, d)| {
                let mut s = broadcast(d, shape.len());
                s.truncate(rank);
                (*name, s)
            })
            .collect();
        let views: Vec<(&'static str, &[i64])> =
            strides.iter().map(|(n, s)| (*n, s.as_slice())).collect();
        Self::new(&shape[..rank], &views)
    }

    /// Parameters of the function that [`Walk::function`] writes.
    pub(super) fn params(&self, name: &'static str) -> Vec<(String, u32)> {
        let mut out = Vec::with_capacity(self.shape.len() * (self.names.len() + 1));
        for (axis, &n) in self.shape.iter().enumerate().skip(1) {
            out.push((format!("{name}_n{axis}"), n));
        }
        for (operand, steps) in self.names.iter().zip(&self.strides) {
            for (axis, &s) in steps.iter().enumerate() {
                out.push((format!("{name}_{operand}{axis}"), s));
            }
        }
        out
    }

    /// WGSL of the walk.
    pub(super) fn function(&self, name: &'static str, out: &mut String) {
        let _ = writeln!(out, "struct {name}_at {{");
        for operand in &self.names {
            let _ = writeln!(out, "  {operand}: u32,");
        }
        let _ = writeln!(
            out,
            "}}\nfn {name}(e: u32) -> {name}_at {{\n  var r = e; var c = 0u; var o: {name}_at;"
        );
        for axis in (0..self.shape.len()).rev() {
            if axis == 0 {
                out.push_str("  c = r;");
            } else {
                let _ = write!(out, "  c = r % p.{name}_n{axis}; r = r / p.{name}_n{axis};");
            }
            for operand in &self.names {
                let _ = write!(out, " o.{operand} += c * p.{name}_{operand}{axis};");
            }
            out.push('\n');
        }
        out.push_str("  return o;\n}\n");
    }
}

/// Strides of `d` broadcast to `rank` axes (numpy's rule); 0 where it repeats.
fn broadcast(d: &TensorDesc, rank: usize) -> Vec<i64> {
    let skip = rank - d.rank().min(rank);
    (0..rank)
        .map(|axis| match axis.checked_sub(skip) {
            Some(own) if d.dim(own) != 1 => d.strides()[own],
            _ => 0,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Walk;
    use crate::{DType, TensorDesc};

    #[test]
    fn contiguous_axes_join() {
        let d = TensorDesc::new(DType::F32, &[2, 1, 3, 4]).unwrap();
        let w = Walk::over(d.shape(), &[("x", &d), ("y", &d)]);
        assert_eq!((w.shape, w.strides), (vec![24], vec![vec![1], vec![1]]));
    }

    #[test]
    fn broadcasts_keep_their_axes() {
        let y = TensorDesc::new(DType::F32, &[2, 3, 4]).unwrap();
        let row = TensorDesc::new(DType::F32, &[4]).unwrap();
        let w = Walk::over(y.shape(), &[("a", &row), ("y", &y)]);
        assert_eq!(w.shape, [1, 6, 4]);
        assert_eq!(w.strides, [vec![0, 0, 1], vec![0, 4, 1]]);
        let rows = Walk::rows(y.shape(), &[("a", &row), ("y", &y)]);
        assert_eq!(
            (rows.shape, rows.strides),
            (vec![6], vec![vec![0], vec![4]])
        );
    }

    #[test]
    fn scalars_walk_too() {
        let d = TensorDesc::new(DType::F32, &[]).unwrap();
        let w = Walk::over(d.shape(), &[("x", &d)]);
        assert_eq!((w.shape, w.strides), (vec![1], vec![vec![0]]));
    }
}
