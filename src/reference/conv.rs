//! [`Conv2d`] and [`Upsample`].

use super::{
    Array, Nd, Output,
    matmul::{Collect, Post, SIX_SIGMA, Term, y_arg},
};
use crate::op::{Activations, Arg, Conv2d, Upsample};

pub(super) fn conv2d(a: &Conv2d<Array>) -> Output {
    let (x, w) = (Nd::of(&a.x), Nd::of(&a.w));
    let post = Post::new(&a.epilogue, &a.y);
    let y: Vec<usize> = a.y.desc.shape().iter().map(|&d| d as usize).collect();
    let (height, width) = (x.shape[2], x.shape[3]);
    let (per_group, kh, kw) = (w.shape[1], w.shape[2], w.shape[3]);
    let outputs_per_group = y[1] / a.groups as usize;
    let [stride, pad, dilation] =
        [a.stride, a.pad, a.dilation].map(|p| [p[0] as usize, p[1] as usize]);
    // A filter's window crosses rows, so 8-bit blocks are judged by the largest pixel.
    let unit = match a.precision.activations {
        Activations::Exact => (0.0, 0.0),
        Activations::Half => (1.0 / 256.0, 0.0),
        Activations::Q8 => (0.0, 1.0 / 254.0),
    };
    let amax = x.v.iter().fold(0f64, |m, v| m.max(v.abs()));
    let mut out = Collect::zeros(y.iter().product());
    let mut at = 0;
    for b in 0..y[0] {
        for o in 0..y[1] {
            let first = o / outputs_per_group.max(1) * per_group;
            for i in 0..y[2] {
                for j in 0..y[3] {
                    let (mut sum, mut mag, mut sq) = (0.0, 0.0, 0.0);
                    for c in 0..per_group {
                        for p in 0..kh {
                            let Some(r) = (i * stride[0] + p * dilation[0])
                                .checked_sub(pad[0])
                                .filter(|&r| r < height)
                            else {
                                continue;
                            };
                            for q in 0..kw {
                                let Some(s) = (j * stride[1] + q * dilation[1])
                                    .checked_sub(pad[1])
                                    .filter(|&s| s < width)
                                else {
                                    continue;
                                };
                                let v =
                                    x.v[((b * x.shape[1] + first + c) * height + r) * width + s];
                                let f = w.v[((o * per_group + c) * kh + p) * kw + q];
                                sum += v * f;
                                mag += (v * f).abs();
                                let e = (unit.0 * v.abs() + unit.1 * amax) * f;
                                sq += e * e;
                            }
                        }
                    }
                    let acc = Term {
                        value: sum,
                        magnitude: mag,
                        slack: SIX_SIGMA * sq.sqrt(),
                    };
                    out.set(at, post.apply(acc, at, Some(o)));
                    at += 1;
                }
            }
        }
    }
    out.output(y_arg(&a.epilogue), a.y.desc.shape())
}

pub(super) fn upsample(a: &Upsample<Array>) -> Output {
    let x = Nd::of(&a.x);
    let y: Vec<usize> = a.y.desc.shape().iter().map(|&d| d as usize).collect();
    let (f, g) = (
        y[2].checked_div(x.shape[2]).unwrap_or(1),
        y[3].checked_div(x.shape[3]).unwrap_or(1),
    );
    let mut values = Vec::with_capacity(y.iter().product());
    for plane in 0..y[0] * y[1] {
        for i in 0..y[2] {
            for j in 0..y[3] {
                values.push(x.v[(plane * x.shape[2] + i / f) * x.shape[3] + j / g]);
            }
        }
    }
    Output::exact(Arg::output("y"), a.y.desc.shape(), values)
}
