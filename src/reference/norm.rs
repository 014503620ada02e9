//! [`Norm`].

use super::{Array, Nd, Output};
use crate::op::{Arg, Norm, NormKind};

pub(super) fn norm(a: &Norm<Array>) -> Vec<Output> {
    let x = Nd::of(&a.x);
    let residual = a.residual.as_ref().map(Nd::of);
    let h: Vec<f64> = match &residual {
        Some(r) => x.v.iter().zip(&r.v).map(|(a, b)| a + b).collect(),
        None => x.v.clone(),
    };
    let terms: Vec<f64> = match &residual {
        Some(r) => {
            x.v.iter()
                .zip(&r.v)
                .map(|(a, b)| a.abs() + b.abs())
                .collect()
        }
        None => h.iter().map(|v| v.abs()).collect(),
    };
    let weight = a.weight.as_ref().map(Nd::of);
    let bias = a.bias.as_ref().map(Nd::of);
    let (eps, offset) = (f64::from(a.eps), f64::from(a.weight_offset));
    let channels = x.shape.get(1).copied().unwrap_or(1);
    let spatial: usize = x.shape.iter().skip(2).product();
    let run = match a.kind {
        NormKind::Group { groups } => channels / groups as usize * spatial,
        _ => x.width(),
    };
    let mut values = Vec::with_capacity(h.len());
    let mut magnitudes = Vec::with_capacity(h.len());
    for (r, (row, terms)) in h
        .chunks(run.max(1))
        .zip(terms.chunks(run.max(1)))
        .enumerate()
    {
        let n = row.len() as f64;
        let centred = !matches!(a.kind, NormKind::Rms | NormKind::L2);
        let mean = if centred {
            row.iter().sum::<f64>() / n
        } else {
            0.0
        };
        let mean_abs = if centred {
            terms.iter().sum::<f64>() / n
        } else {
            0.0
        };
        let square: f64 = row.iter().map(|v| (v - mean) * (v - mean)).sum();
        let inverse = match a.kind {
            NormKind::L2 => 1.0 / square.sqrt().max(eps),
            _ => 1.0 / (square / n + eps).sqrt(),
        };
        for (i, (v, t)) in row.iter().zip(terms).enumerate() {
            let column = match a.kind {
                NormKind::Group { .. } => (r * run + i) / spatial.max(1) % channels,
                _ => i,
            };
            let w = weight.as_ref().map_or(1.0, |w| w.v[column] + offset);
            let b = bias.as_ref().map_or(0.0, |b| b.v[column]);
            values.push((v - mean) * inverse * w + b);
            magnitudes.push((t + mean_abs) * inverse * w.abs() + b.abs());
        }
    }
    let shape = a.x.desc.shape();
    let mut out = Vec::new();
    if a.sum.is_some() {
        out.push(Output {
            magnitudes: terms,
            ..Output::exact(Arg::output("sum"), shape, h)
        });
    }
    out.push(Output {
        magnitudes,
        ..Output::exact(Arg::output("y"), shape, values)
    });
    out
}
