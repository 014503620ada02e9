//! [`Softmax`].

use super::{Array, Nd, Output};
use crate::{
    element::DType,
    op::{Arg, Softmax},
};

/// What a mask adds to each score: an u8 mask adds nothing or hides.
pub(super) fn mask_terms(mask: &Array, shape: &[u32]) -> Nd {
    let mut m = Nd::broadcast(mask, shape);
    if mask.desc.plain() == Some(DType::U8) {
        for v in &mut m.v {
            *v = if *v == 0.0 { f64::NEG_INFINITY } else { 0.0 };
        }
    }
    m
}

pub(super) fn softmax(a: &Softmax<Array>) -> Output {
    let x = Nd::of(&a.x);
    let shape = a.x.desc.shape();
    let mask = a.mask.as_ref().map(|m| mask_terms(m, shape));
    let n = x.width().max(1);
    let scale = f64::from(a.scale);
    let (mut values, mut magnitudes) = (Vec::new(), Vec::new());
    for (r, row) in x.v.chunks(n).enumerate() {
        // A hidden score is -inf whatever x holds there, NaN included.
        let s: Vec<f64> = row
            .iter()
            .enumerate()
            .map(|(i, &x)| match &mask {
                Some(m) if m.v[r * n + i] == f64::NEG_INFINITY => f64::NEG_INFINITY,
                Some(m) => x * scale + m.v[r * n + i],
                None => x * scale,
            })
            .collect();
        let top = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if top == f64::NEG_INFINITY && !s.iter().any(|v| v.is_nan()) {
            values.extend(std::iter::repeat_n(0.0, row.len()));
            magnitudes.extend(std::iter::repeat_n(0.0, row.len()));
            continue;
        }
        let e: Vec<f64> = s.iter().map(|&v| (v - top).exp()).collect();
        let sum: f64 = e.iter().sum();
        for (e, s) in e.iter().zip(&s) {
            let y = e / sum;
            values.push(y);
            // exp stretches the rounding of its argument.
            let stretch = if *e == 0.0 { 0.0 } else { s.abs() + top.abs() };
            magnitudes.push(y * (1.0 + stretch));
        }
    }
    Output {
        magnitudes,
        ..Output::exact(Arg::output("y"), shape, values)
    }
}
