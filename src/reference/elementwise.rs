//! [`Unary`], [`Binary`], [`Glu`].

use super::{Array, Nd, Output};
use crate::op::{Act, Arg, BinOp, Binary, Glu, Unary};

/// Error function: its Taylor series where that converges fast, else the continued fraction of
/// erfc (Abramowitz & Stegun 7.1.6 and 7.1.14).
pub(super) fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a.is_nan() {
        return x;
    }
    if a > 6.0 {
        return 1f64.copysign(x);
    }
    let r = if a < 2.5 {
        let (mut term, mut sum) = (a, a);
        let mut n = 0.0;
        while term > sum * 1e-17 && n < 200.0 {
            term *= 2.0 * a * a / (2.0 * n + 3.0);
            sum += term;
            n += 1.0;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-a * a).exp() * sum
    } else {
        let mut f = a;
        for k in (1..=80).rev() {
            f = a + f64::from(k) / 2.0 / f;
        }
        1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * f)
    };
    r.copysign(x)
}

/// The function and the largest slope near x, by which it stretches an error of x.
pub(super) fn act(f: Act, x: f64) -> (f64, f64) {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    // x * sigmoid-like gates are 0 at -inf, where the product is 0 * inf.
    let gated = |x: f64, g: f64| if g == 0.0 { 0.0 * x.signum() } else { x * g };
    match f {
        Act::Identity => (x, 1.0),
        Act::Silu => (gated(x, sigmoid(x)), 1.1),
        Act::Gelu => (
            gated(x, 0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2))),
            1.13,
        ),
        Act::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            (gated(x, 0.5 * (1.0 + inner.tanh())), 1.13)
        }
        Act::GeluQuick => (gated(x, sigmoid(1.702 * x)), 1.1),
        Act::Relu => (if x.is_nan() { x } else { x.max(0.0) }, 1.0),
        Act::ReluSquared => {
            let r = if x.is_nan() { x } else { x.max(0.0) };
            (r * r, 2.0 * r)
        }
        Act::Sigmoid => (sigmoid(x), 0.25),
        Act::Tanh => (x.tanh(), 1.0),
        Act::Softplus if x.is_nan() => (x, 1.0),
        Act::Softplus => (x.max(0.0) + (-x.abs()).exp().ln_1p(), 1.0),
        Act::Exp => (x.exp(), x.exp()),
        Act::Log => (x.ln(), 1.0 / x.abs()),
        Act::Neg => (-x, 1.0),
        Act::Abs => (x.abs(), 1.0),
        Act::Square => (x * x, 2.0 * x.abs()),
        Act::Sqrt => (x.sqrt(), 0.5 / x.abs().sqrt()),
        Act::Rsqrt => (1.0 / x.sqrt(), 0.5 * x.abs().powf(-1.5)),
        Act::Recip => (1.0 / x, 1.0 / (x * x)),
        Act::Sin => (x.sin(), 1.0),
        Act::Cos => (x.cos(), 1.0),
    }
}

/// Softplus of an infinity is 0 or infinity, which `x - x` above would turn into NaN.
pub(super) fn act_value(f: Act, x: f64) -> (f64, f64) {
    if f == Act::Softplus && x.is_infinite() {
        return (x.max(0.0), 1.0);
    }
    act(f, x)
}

pub(super) fn unary(a: &Unary<Array>) -> Output {
    let x = Nd::broadcast(&a.x, a.y.desc.shape());
    let (scale, offset) = (f64::from(a.scale), f64::from(a.offset));
    let (mut values, mut magnitudes) = (Vec::new(), Vec::new());
    for &x in &x.v {
        let (y, slope) = act_value(a.act, x * scale + offset);
        let terms = (x * scale).abs() + offset.abs();
        values.push(y);
        magnitudes.push(y.abs() + slope * terms);
    }
    let plain = a.act == Act::Identity && a.scale == 1.0 && a.offset == 0.0;
    let exact = plain || matches!(a.act, Act::Relu | Act::Neg | Act::Abs);
    let rounded = a.scale != 1.0 || a.offset != 0.0;
    if exact && !rounded {
        magnitudes.clear();
    }
    Output {
        magnitudes,
        ..Output::exact(Arg::output("y"), a.y.desc.shape(), values)
    }
}

pub(super) fn binary(a: &Binary<Array>) -> Output {
    let shape = a.y.desc.shape();
    let (l, r) = (Nd::broadcast(&a.a, shape), Nd::broadcast(&a.b, shape));
    let pairs = l.v.iter().zip(&r.v);
    let values: Vec<f64> = pairs
        .map(|(&a_, &b_)| match a.function {
            BinOp::Add => a_ + b_,
            BinOp::Sub => a_ - b_,
            BinOp::Mul => a_ * b_,
            BinOp::Div => a_ / b_,
            BinOp::Max if a_.is_nan() || b_.is_nan() => f64::NAN,
            BinOp::Min if a_.is_nan() || b_.is_nan() => f64::NAN,
            BinOp::Max => a_.max(b_),
            BinOp::Min => a_.min(b_),
        })
        .collect();
    let magnitudes = match a.function {
        BinOp::Max | BinOp::Min => Vec::new(),
        _ => values.iter().map(|v| v.abs()).collect(),
    };
    Output {
        magnitudes,
        ..Output::exact(Arg::output("y"), shape, values)
    }
}

pub(super) fn glu(a: &Glu<Array>) -> Output {
    let (gate, up) = (Nd::of(&a.gate), Nd::of(&a.up));
    let (mut values, mut magnitudes) = (Vec::new(), Vec::new());
    for (&g, &u) in gate.v.iter().zip(&up.v) {
        let (t, slope) = act_value(a.act, g);
        values.push(t * u);
        magnitudes.push((t.abs() + slope * g.abs()) * u.abs());
    }
    Output {
        magnitudes,
        ..Output::exact(Arg::output("y"), a.y.desc.shape(), values)
    }
}
