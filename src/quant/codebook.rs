//! Exhaustive search behind the encoders of the codebook formats (IQ1, IQ2, IQ3).
//!
//! For a given scale `s`, the grid point `p` of least error for the elements `a` is the one of
//! largest gain `2 s <a, p> - s^2 <p, p>`. The products `<a, p>` do not depend on the scale, so
//! they are computed once. Every group then gets its best real-valued scale, and the super-scale,
//! the 4-bit scales next to the real-valued ones and the points are adjusted to each other in
//! turn. No point is left out, so that this costs some microseconds per element.

use half::f16;

use super::bits::{abs_max, within_reach};

/// What the search needs to know about a format.
pub(crate) struct Codebook<const W: usize> {
    /// The `W` values of a point, before scaling.
    pub(crate) point: fn(usize) -> [f32; W],
    /// Number of points.
    pub(crate) points: usize,
    /// Points per bank; all points of a group come from one bank.
    pub(crate) bank: usize,
    /// Elements per group, which shares a scale.
    pub(crate) group: usize,
    /// Number of scales.
    pub(crate) scales: u8,
    /// The factor of the super-scale that a scale stands for; ascending.
    pub(crate) factor: fn(u8) -> f32,
    pub(crate) signs: Signs,
}

/// Where the signs of the elements are.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Signs {
    /// One byte per 8 elements.
    Bytes,
    /// As bytes, with an even number of set bits.
    EvenBytes,
    /// In the points.
    Points,
}

/// An encoded super-block of 256.
pub(crate) struct Fit {
    pub(crate) d: f32,
    /// Scale of each group.
    pub(crate) scales: [u8; 16],
    /// Point of every `W` elements.
    pub(crate) points: [u16; 64],
    /// Signs of every 8 elements where they are bytes; a set bit is negative.
    pub(crate) signs: [u8; 32],
}

impl<const W: usize> Codebook<W> {
    /// `None` if the values are beyond the range of an f16 super-scale.
    pub(crate) fn fit(&self, x: &[f32; 256]) -> Option<Fit> {
        within_reach(x)?;
        let (a, signs) = self.split_signs(x);
        let points: Vec<[f32; W]> = (0..self.points).map(self.point).collect();
        let norms: Vec<f32> = points
            .iter()
            .map(|p| p.iter().map(|v| v * v).sum())
            .collect();
        let widest = points.iter().fold(0.0, |m: f32, p| m.max(abs_max(p)));
        let products = products(&points, &a);
        let per_group = self.group / W;
        let rows: Vec<&[f32]> = products.chunks_exact(self.points).collect();

        let mut ideal = [0.0f32; 16];
        let mut banks = [0usize; 16];
        for (g, a) in a.chunks_exact(self.group).enumerate() {
            let rows = &rows[g * per_group..][..per_group];
            let mut best = f32::NEG_INFINITY;
            for first in (0..self.points).step_by(self.bank) {
                let bank = Bank {
                    rows,
                    norms: &norms,
                    first,
                    len: self.bank,
                };
                let (gain, s) = bank.ideal_scale(abs_max(a) / widest);
                if gain > best {
                    (best, ideal[g], banks[g]) = (gain, s, first);
                }
            }
        }
        let top = abs_max(&ideal);

        let mut best: Option<(f32, Fit)> = None;
        for start in 0..4 {
            let mut d = top / (self.factor)(self.scales - 1) * (1.0 + start as f32 / 50.0);
            let mut last = f32::NEG_INFINITY;
            loop {
                d = f16::from_f32(d).to_f32();
                if !d.is_finite() {
                    break;
                }
                let mut fit = Fit {
                    d,
                    scales: [0; 16],
                    points: [0; 64],
                    signs,
                };
                let (mut gain, mut xu, mut uu) = (0.0, 0.0, 0.0);
                for (g, rows) in rows.chunks_exact(per_group).enumerate() {
                    let bank = Bank {
                        rows,
                        norms: &norms,
                        first: banks[g],
                        len: self.bank,
                    };
                    let (group_gain, sc) = self.best_scale(&bank, d, ideal[g]);
                    gain += group_gain;
                    fit.scales[g] = sc;
                    let factor = (self.factor)(sc);
                    for (k, row) in rows.iter().enumerate() {
                        let p = bank.best_point(row, d * factor);
                        fit.points[g * per_group + k] = p as u16;
                        xu += factor * row[p];
                        uu += factor * factor * norms[p];
                    }
                }
                let gained = gain > last;
                last = gain;
                if gain.is_finite() && best.as_ref().is_none_or(|b| gain > b.0) {
                    best = Some((gain, fit));
                }
                if !gained {
                    break;
                }
                d = xu / uu;
            }
        }
        best.map(|b| b.1)
    }

    /// The elements to be met by points, and the sign bytes.
    fn split_signs(&self, x: &[f32; 256]) -> ([f32; 256], [u8; 32]) {
        let mut signs = [0u8; 32];
        if self.signs == Signs::Points {
            return (*x, signs);
        }
        let mut a = x.map(f32::abs);
        for (k, (signs, x)) in signs.iter_mut().zip(x.as_chunks::<8>().0).enumerate() {
            *signs = (0..8).fold(0, |s, j| s | u8::from(x[j] < 0.0) << j);
            if self.signs == Signs::EvenBytes && signs.count_ones() % 2 == 1 {
                // One sign has to be wrong: that of the least magnitude.
                let least = (0..8).fold(0, |m, j| if x[j].abs() < x[m].abs() { j } else { m });
                *signs ^= 1 << least;
                a[8 * k + least] *= -1.0;
            }
        }
        (a, signs)
    }

    /// Largest gain of a group over the scales around `ideal`, and its scale.
    fn best_scale(&self, bank: &Bank, d: f32, ideal: f32) -> (f32, u8) {
        let last = self.scales - 1;
        let above = (0..last)
            .find(|&sc| d * (self.factor)(sc) >= ideal)
            .unwrap_or(last);
        let mut best = (f32::NEG_INFINITY, 0);
        for sc in above.saturating_sub(2)..=(above + 1).min(last) {
            let gain = bank.gain(d * (self.factor)(sc));
            if gain > best.0 {
                best = (gain, sc);
            }
        }
        best
    }
}

/// `<a, p>` for every `W` elements (rows) and every point (columns).
fn products<const W: usize>(points: &[[f32; W]], a: &[f32; 256]) -> Vec<f32> {
    let n = points.len();
    let columns: [Vec<f32>; W] = std::array::from_fn(|j| points.iter().map(|p| p[j]).collect());
    let mut products = vec![0.0; 256 / W * n];
    for (row, a) in products.chunks_exact_mut(n).zip(a.as_chunks::<W>().0) {
        for (column, &a) in columns.iter().zip(a) {
            for (r, c) in row.iter_mut().zip(column) {
                *r += a * c;
            }
        }
    }
    products
}

/// The products of one group with the points of one bank.
struct Bank<'a> {
    rows: &'a [&'a [f32]],
    norms: &'a [f32],
    first: usize,
    len: usize,
}

impl Bank<'_> {
    /// The real-valued scale of largest gain, after that gain, for a group whose largest magnitude
    /// is `reach` times that of the points.
    fn ideal_scale(&self, reach: f32) -> (f32, f32) {
        let mut best = (f32::NEG_INFINITY, 0.0);
        // Most groups gain from clipping their largest elements; nearly constant ones are nearer
        // to the points of equal small values.
        let clipped = (0..16).map(|i| 1.1 - 0.045 * i as f32);
        let small = (1..12).map(|i| 1.1 * 1.2f32.powi(i));
        for s in clipped.chain(small).map(|f| f * reach) {
            let gain = self.gain(s);
            if gain > best.0 {
                best = (gain, s);
            }
        }
        best
    }

    /// Gain of the group with the best point for each of its rows.
    fn gain(&self, s: f32) -> f32 {
        let points = self.first..self.first + self.len;
        let norms = &self.norms[points.clone()];
        self.rows
            .iter()
            .map(|row| best_gain(&row[points.clone()], norms, s))
            .sum()
    }

    /// The point of largest gain for a row.
    fn best_point(&self, row: &[f32], s: f32) -> usize {
        let mut best = (f32::NEG_INFINITY, self.first);
        let pairs = row.iter().zip(self.norms).enumerate();
        for (p, (&product, &norm)) in pairs.skip(self.first).take(self.len) {
            let g = gain(product, norm, s);
            if g > best.0 {
                best = (g, p);
            }
        }
        best.1
    }
}

#[inline(always)]
fn gain(product: f32, norm: f32, s: f32) -> f32 {
    s * (2.0 * product - s * norm)
}

/// Largest gain over all points, in eight lanes so that it vectorizes.
fn best_gain(row: &[f32], norms: &[f32], s: f32) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    for (row, norms) in row.as_chunks::<8>().0.iter().zip(norms.as_chunks::<8>().0) {
        for j in 0..8 {
            let g = gain(row[j], norms[j], s);
            lanes[j] = if g > lanes[j] { g } else { lanes[j] };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}
