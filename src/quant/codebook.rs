//! Exhaustive search behind the encoders of the codebook formats (IQ2, IQ3).
//!
//! For a given scale `s`, the grid point `p` of least error for the magnitudes `a` is the one of
//! largest gain `2 s <a, p> - s^2 <p, p>`. The products `<a, p>` do not depend on the scale, so
//! they are computed once. Every group then gets its best real-valued scale, and the super-scale,
//! the 4-bit scales next to the real-valued ones and the points are adjusted to each other in
//! turn. No point is left out, so that this costs some microseconds per element.

use half::f16;

use super::bits::abs_max;

/// What the search needs to know about a format.
pub(crate) struct Codebook<'a, const W: usize> {
    pub(crate) grid: &'a [[u8; W]],
    /// Elements per 4-bit scale.
    pub(crate) group: usize,
    /// The factor of the super-scale that a 4-bit scale stands for; ascending.
    pub(crate) factor: fn(u8) -> f32,
    /// Whether only sign bytes with an even number of set bits can be stored.
    pub(crate) even_signs: bool,
}

/// An encoded super-block of 256.
pub(crate) struct Fit {
    pub(crate) d: f32,
    /// 4-bit scale of each group.
    pub(crate) scales: [u8; 16],
    /// Grid index of every `W` elements.
    pub(crate) points: [u16; 64],
    /// Signs of every 8 elements, a set bit is negative.
    pub(crate) signs: [u8; 32],
}

impl<const W: usize> Codebook<'_, W> {
    /// `None` if the values are beyond the range of an f16 super-scale.
    pub(crate) fn fit(&self, x: &[f32; 256]) -> Option<Fit> {
        let mut a = x.map(f32::abs);
        let mut signs = [0u8; 32];
        for (k, (signs, x)) in signs.iter_mut().zip(x.as_chunks::<8>().0).enumerate() {
            *signs = (0..8).fold(0, |s, j| s | u8::from(x[j] < 0.0) << j);
            if self.even_signs && signs.count_ones() % 2 == 1 {
                // One sign has to be wrong: that of the least magnitude.
                let least = (0..8).fold(0, |m, j| if x[j].abs() < x[m].abs() { j } else { m });
                *signs ^= 1 << least;
                a[8 * k + least] *= -1.0;
            }
        }

        let norms: Vec<f32> = self.grid.iter().map(|p| self.dot(p, p)).collect();
        let products = self.products(&a);
        let per_group = self.group / W;
        let rows: Vec<&[f32]> = products.chunks_exact(self.grid.len()).collect();

        let widest = f32::from(self.grid.iter().flatten().copied().max()?);
        let mut ideal = [0.0f32; 16];
        let by_group = || rows.chunks_exact(per_group).zip(a.chunks_exact(self.group));
        for (s, (rows, a)) in ideal.iter_mut().zip(by_group()) {
            *s = ideal_scale(rows, &norms, abs_max(a) / widest);
        }
        let top = abs_max(&ideal);

        let mut best: Option<(f32, Fit)> = None;
        for start in 0..4 {
            let mut d = top / (self.factor)(15) * (1.0 + start as f32 / 50.0);
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
                    let (group_gain, sc) = self.best_scale(rows, &norms, d, ideal[g]);
                    gain += group_gain;
                    fit.scales[g] = sc;
                    let factor = (self.factor)(sc);
                    for (k, row) in rows.iter().enumerate() {
                        let p = best_point(row, &norms, d * factor);
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

    fn dot(&self, a: &[u8; W], b: &[u8; W]) -> f32 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f32::from(*a) * f32::from(*b))
            .sum()
    }

    /// `<a, p>` for every `W` elements (rows) and every grid point (columns).
    fn products(&self, a: &[f32; 256]) -> Vec<f32> {
        let n = self.grid.len();
        let columns: [Vec<f32>; W] =
            std::array::from_fn(|j| self.grid.iter().map(|p| f32::from(p[j])).collect());
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

    /// Largest gain of a group over the 4-bit scales around `ideal`, and its scale.
    fn best_scale(&self, rows: &[&[f32]], norms: &[f32], d: f32, ideal: f32) -> (f32, u8) {
        let above = (0..15)
            .find(|&sc| d * (self.factor)(sc) >= ideal)
            .unwrap_or(15);
        let mut best = (f32::NEG_INFINITY, 0);
        for sc in above.saturating_sub(2)..=(above + 1).min(15) {
            let gain = group_gain(rows, norms, d * (self.factor)(sc));
            if gain > best.0 {
                best = (gain, sc);
            }
        }
        best
    }
}

/// The real-valued scale of largest gain for a group whose largest magnitude is `reach` times
/// that of the grid.
fn ideal_scale(rows: &[&[f32]], norms: &[f32], reach: f32) -> f32 {
    let mut best = (f32::NEG_INFINITY, 0.0);
    // Most groups gain from clipping their largest elements; nearly constant ones are nearer to
    // the points of equal small values.
    let clipped = (0..16).map(|i| 1.1 - 0.045 * i as f32);
    let small = (1..12).map(|i| 1.1 * 1.2f32.powi(i));
    for s in clipped.chain(small).map(|f| f * reach) {
        let gain = group_gain(rows, norms, s);
        if gain > best.0 {
            best = (gain, s);
        }
    }
    best.1
}

fn group_gain(rows: &[&[f32]], norms: &[f32], s: f32) -> f32 {
    rows.iter().map(|row| best_gain(row, norms, s)).sum()
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

/// The point of largest gain.
fn best_point(row: &[f32], norms: &[f32], s: f32) -> usize {
    let mut best = (f32::NEG_INFINITY, 0);
    for (p, (&product, &norm)) in row.iter().zip(norms).enumerate() {
        let g = gain(product, norm, s);
        if g > best.0 {
            best = (g, p);
        }
    }
    best.1
}
