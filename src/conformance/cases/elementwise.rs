//! Unary, Binary, Glu.

use super::{FLOATS, List, after, by, desc, laid, normal, output, padded, permuted, strided};
use crate::{
    Act, BinOp, Binary, DType, Glu, TensorDesc, Unary,
    conformance::{Fill, Spec},
};

pub(super) fn add(list: &mut List) {
    let t = || normal(DType::F32, &[3, 37]);
    let y = output(DType::F32, &[3, 37]);
    list.smoke("unary/smoke", Unary::new(Act::Silu, &t(), &y));
    list.smoke("binary/smoke", Binary::add(&t(), &t(), &y));
    list.smoke("glu/smoke", Glu::new(Act::Silu, &t(), &t(), &y));
    unary(list);
    binary(list);
    glu(list);
}

/// Numbers in the domain of a function.
fn domain(act: Act) -> Fill {
    match act {
        Act::Log | Act::Sqrt | Act::Rsqrt | Act::Recip => Fill::Uniform(0.05, 9.0),
        Act::Sin | Act::Cos => Fill::Uniform(-20.0, 20.0),
        _ => Fill::Normal(0.0, 3.0),
    }
}

/// NaN, the ends of the range and zero. Gates are left out at minus infinity, where their formulas
/// multiply it by 0, and so is minus zero, which the affine step may turn into zero.
fn ends(act: Act) -> Fill {
    let gate = matches!(act, Act::Silu | Act::Gelu | Act::GeluTanh | Act::GeluQuick);
    let mut all = vec![f64::NAN, f64::INFINITY, 0.0, 1e-30, -1e-7, 2.5, -0.75];
    if !gate {
        all.push(f64::NEG_INFINITY);
    }
    Fill::Values(all)
}

fn unary(list: &mut List) {
    let pairs = [
        (DType::F32, DType::F32),
        (DType::F16, DType::F16),
        (DType::BF16, DType::BF16),
        (DType::F32, DType::F16),
        (DType::BF16, DType::F32),
    ];
    for &act in Act::ALL {
        for (x, y) in pairs {
            for shape in [&[1u32][..], &[5, 67]] {
                let op = Unary::new(act, &normal(x, shape).fill(domain(act)), &output(y, shape));
                list.full(format!("unary/{}/{x}-{y}/{}", act.name(), by(shape)), op);
            }
        }
        let both = normal(DType::F32, &[3, 43]).fill(domain(act)).shared(0, 4);
        list.full(
            format!("unary/{}/in_place", act.name()),
            Unary::new(act, &both, &both),
        );
        // Outside the domain NaN, at the ends infinity and zero. Sine and cosine of what no f32
        // reduction reaches are left out.
        if !matches!(act, Act::Sin | Act::Cos) {
            let x = normal(DType::F32, &[4, 33]).fill(ends(act));
            let op = Unary::new(act, &x, &output(DType::F32, &[4, 33]));
            list.full(format!("unary/special/{}", act.name()), op);
        }
        let wide = match act {
            Act::Exp => Fill::Uniform(-80.0, 80.0),
            Act::Sin | Act::Cos => Fill::Uniform(-200.0, 200.0),
            Act::Log | Act::Sqrt | Act::Rsqrt | Act::Recip => Fill::Uniform(1e-4, 1e6),
            _ => Fill::Uniform(-100.0, 100.0),
        };
        let x = normal(DType::F32, &[300]).fill(wide);
        let op = Unary::new(act, &x, &output(DType::F32, &[300]));
        list.full(format!("unary/{}/wide", act.name()), op);
    }
    for (name, x, y) in layouts() {
        let op = Unary {
            scale: 0.5,
            offset: -0.25,
            ..Unary::new(Act::Silu, &laid(x), &laid(y))
        };
        list.full(format!("unary/layout/{name}"), op);
    }
    for d in FLOATS {
        let x = normal(d, &[1025]);
        let y = output(d, &[1025]);
        list.full(
            format!("unary/affine/{d}"),
            Unary::affine(-1.5, 0.75, &x, &y),
        );
    }
    let op = Unary::new(
        Act::Relu,
        &normal(DType::F32, &[0, 4]),
        &output(DType::F32, &[0, 4]),
    );
    list.full("unary/empty", op);
}

/// Pairs of a view and the shape it is written to.
fn layouts() -> Vec<(&'static str, TensorDesc, TensorDesc)> {
    let f = DType::F32;
    vec![
        ("rank0", desc(f, &[]), desc(f, &[])),
        ("rows_apart", padded(f, &[4, 33], 7), desc(f, &[4, 33])),
        ("written_apart", desc(f, &[4, 33]), padded(f, &[4, 33], 7)),
        (
            "transposed",
            permuted(f, &[33, 4], &[1, 0]),
            desc(f, &[4, 33]),
        ),
        (
            "written_transposed",
            desc(f, &[4, 33]),
            permuted(f, &[33, 4], &[1, 0]),
        ),
        (
            "permuted",
            permuted(f, &[3, 5, 2, 7], &[2, 0, 3, 1]),
            desc(f, &[2, 3, 7, 5]),
        ),
        (
            "every_other",
            strided(f, &[4, 33], &[66, 2]),
            desc(f, &[4, 33]),
        ),
        ("row", desc(f, &[33]), desc(f, &[4, 33])),
        ("column", desc(f, &[4, 1]), desc(f, &[4, 33])),
        ("scalar", desc(f, &[1]), desc(f, &[2, 4, 33])),
        (
            "rank6",
            desc(f, &[2, 1, 3, 1, 2, 5]),
            desc(f, &[2, 2, 3, 2, 2, 5]),
        ),
        (
            "rank6_permuted",
            permuted(f, &[2, 3, 2, 2, 3, 4], &[5, 0, 3, 1, 4, 2]),
            desc(f, &[4, 2, 2, 3, 3, 2]),
        ),
    ]
}

fn binary(list: &mut List) {
    for &f in BinOp::ALL {
        let name = f.name();
        let divisor = |s: Spec| match f {
            BinOp::Div => s.fill(Fill::Uniform(0.1, 4.0)),
            _ => s,
        };
        for a in FLOATS {
            for b in FLOATS {
                for y in FLOATS {
                    let op = Binary::new(
                        f,
                        &normal(a, &[3, 41]),
                        &divisor(normal(b, &[3, 41])),
                        &output(y, &[3, 41]),
                    );
                    list.full(format!("binary/{name}/{a}-{b}-{y}"), op);
                }
            }
        }
        for (layout, x, y) in layouts() {
            let other = divisor(laid(y.contiguous()));
            let op = Binary::new(f, &laid(x), &other, &laid(y));
            list.full(format!("binary/{name}/left_{layout}"), op);
            let op = Binary::new(f, &laid(y.contiguous()), &divisor(laid(x)), &laid(y));
            list.full(format!("binary/{name}/right_{layout}"), op);
        }
        let shape = [4, 33];
        let special = || normal(DType::F32, &shape).fill(Fill::Special);
        let op = Binary::new(f, &special(), &special(), &output(DType::F32, &shape));
        list.full(format!("binary/special/{name}"), op);
        let d = desc(DType::F32, &shape);
        let both = laid(d).shared(0, 0);
        let other = divisor(laid(d));
        list.full(
            format!("binary/{name}/left_in_place"),
            Binary::new(f, &both, &other, &both),
        );
        let right = divisor(both.clone());
        list.full(
            format!("binary/{name}/right_in_place"),
            Binary::new(f, &laid(d), &right, &right),
        );
        list.full(format!("binary/{name}/with_itself"), {
            let again = Spec::new(d, Fill::Keep).shared(0, 0);
            Binary::new(f, &divisor(both), &again, &output(DType::F32, &shape))
        });
    }
    let d = desc(DType::F16, &[7, 9]);
    let b_at = after(2, &d) + 2;
    let y_at = after(b_at, &d) + 2;
    let op = Binary::add(
        &laid(d).shared(0, 2),
        &laid(d).shared(0, b_at),
        &laid(d).shared(0, y_at),
    );
    list.full("binary/one_buffer", op);
    let e = |shape: &[u32]| normal(DType::F32, shape);
    list.full(
        "binary/empty",
        Binary::add(&e(&[0, 3]), &e(&[1, 3]), &e(&[0, 3])),
    );
    list.full(
        "binary/large",
        Binary::mul(&e(&[65, 1025]), &e(&[1025]), &e(&[65, 1025])),
    );
}

fn glu(list: &mut List) {
    for &act in Act::ALL {
        for d in FLOATS {
            let x = || normal(d, &[3, 43]).fill(domain(act));
            let op = Glu::new(act, &x(), &normal(d, &[3, 43]), &output(d, &[3, 43]));
            list.full(format!("glu/{}/{d}", act.name()), op);
        }
    }
    for act in [Act::Silu, Act::Gelu, Act::GeluTanh] {
        for d in FLOATS {
            // Gate and up are the halves of one matrix.
            let half = strided(d, &[5, 24], &[48, 1]);
            let gate = laid(half).shared(0, 0);
            let up = laid(half).shared(0, 24 * d.size() as u64);
            let name = act.name();
            let op = Glu::new(act, &gate, &up, &output(d, &[5, 24]));
            list.full(format!("glu/halves/{name}/{d}"), op);
            let op = Glu::new(act, &gate, &up, &gate);
            list.full(format!("glu/in_place/{name}/{d}"), op);
            let op = Glu::new(
                act,
                &normal(DType::F32, &[2, 3, 11]),
                &normal(d, &[2, 3, 11]).at(d.size() as u64),
                &laid(padded(d, &[2, 3, 11], 2)).at(d.size() as u64),
            );
            list.full(format!("glu/mixed/{name}/{d}"), op);
        }
    }
    let e = || normal(DType::F32, &[0]);
    list.full("glu/empty", Glu::new(Act::Silu, &e(), &e(), &e()));
}
