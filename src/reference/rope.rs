//! [`Rope`].

use super::{Array, Nd, Output};
use crate::op::{Arg, Rope, RopeKind};

pub(super) fn rope(a: &Rope<Array>) -> Output {
    let x = Nd::of(&a.x);
    let positions = Nd::of(&a.positions);
    let factors = a.factors.as_ref().map(Nd::of);
    let (batch, heads, s, d) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
    let n = a.n_rot as usize;
    let (theta, magnitude) = (f64::from(a.theta), f64::from(a.magnitude));
    let mut values = x.v.clone();
    let mut magnitudes = vec![0.0; values.len()];
    for b in 0..batch {
        for h in 0..heads {
            for t in 0..s {
                let row = ((b * heads + h) * s + t) * d;
                for i in 0..n / 2 {
                    let at = match a.kind {
                        RopeKind::Sections(sections) => section(sections, i) * s + t,
                        _ if positions.shape.len() == 2 => b * s + t,
                        _ => t,
                    };
                    let mut angle = positions.v[at] * theta.powf(-2.0 * i as f64 / n as f64);
                    if let Some(f) = &factors {
                        angle /= f.v[i];
                    }
                    let (p, q) = match a.kind {
                        RopeKind::Interleaved => (row + 2 * i, row + 2 * i + 1),
                        _ => (row + i, row + i + n / 2),
                    };
                    let (sin, cos) = angle.sin_cos();
                    let (u, v) = (x.v[p], x.v[q]);
                    values[p] = magnitude * (u * cos - v * sin);
                    values[q] = magnitude * (u * sin + v * cos);
                    // The angle is rounded too, in proportion to its size.
                    let size = magnitude.abs() * (u.abs() + v.abs()) * (1.0 + angle.abs());
                    magnitudes[p] = size;
                    magnitudes[q] = size;
                }
            }
        }
    }
    Output {
        magnitudes,
        ..Output::exact(Arg::output("y"), a.x.desc.shape(), values)
    }
}

/// Section of pair `i`; the sections repeat.
fn section(sections: [u32; 4], i: usize) -> usize {
    let total: usize = sections.iter().map(|&n| n as usize).sum();
    let mut rest = i % total;
    for (number, &len) in sections.iter().enumerate() {
        if rest < len as usize {
            return number;
        }
        rest -= len as usize;
    }
    0
}
