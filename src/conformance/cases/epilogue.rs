//! What follows a product.

use super::{List, depth, desc, laid, normal, output, padded};
use crate::{
    Act, DType, Element, MatMul, QuantFormat, Weight,
    conformance::{Fill, Spec},
};

pub(super) fn add(list: &mut List) {
    combinations(list);
    activations(list);
    types(list);
}

/// Every combination of the parts, over weights in turn.
fn combinations(list: &mut List) {
    let weights = [
        Element::from(DType::F32),
        QuantFormat::Q4_0.into(),
        DType::F16.into(),
        QuantFormat::Q4_K.into(),
        QuantFormat::Q8_0.into(),
        DType::BF16.into(),
        QuantFormat::IQ4_XS.into(),
    ];
    let mut turn = 0;
    for bits in 0..16u32 {
        for (act, act_name) in [
            (None, "none"),
            (Some(Act::Silu), "silu"),
            (Some(Act::GeluTanh), "gelu_tanh"),
        ] {
            for residual in ["none", "other", "in_place"] {
                let [scale, bias, gate, accumulate] = [0, 1, 2, 3].map(|b| bits >> b & 1 == 1);
                if residual == "in_place" && accumulate {
                    continue;
                }
                let e = weights[turn % weights.len()];
                let m = [1, 5, 18][turn % 3];
                turn += 1;
                let (n, k) = (21, depth(e, 48));
                let yd = desc(DType::F32, &[m, n]);
                let mut y = laid(yd);
                let mut op = MatMul::new(
                    &normal(DType::F32, &[m, k]),
                    Weight::Rows(normal(e, &[n, k])),
                    &y,
                );
                if residual == "in_place" {
                    y = y.shared(0, 0);
                    op = MatMul { y: y.clone(), ..op }.residual(&y);
                } else if residual == "other" {
                    op = op.residual(&laid(yd));
                }
                if scale {
                    op = op.scale(0.37);
                }
                if bias {
                    op = op.bias(&normal(DType::F32, &[n]));
                }
                if let Some(a) = act {
                    op = op.act(a);
                }
                if gate {
                    op = op.gate(&laid(yd));
                }
                if accumulate {
                    op = op.accumulate();
                }
                let word = |on: bool, w: &'static str| if on { w } else { "" };
                let parts = [
                    word(scale, "+scale"),
                    word(bias, "+bias"),
                    word(gate, "+gate"),
                    word(accumulate, "+accumulate"),
                ]
                .concat();
                list.full(
                    format!("mat_mul/epilogue/{e}/m{m}/act_{act_name}{parts}/residual_{residual}"),
                    op,
                );
            }
        }
    }
}

fn activations(list: &mut List) {
    for &act in Act::ALL {
        let positive = matches!(act, Act::Log | Act::Sqrt | Act::Rsqrt | Act::Recip);
        for m in [1, 7] {
            let fill = if positive {
                Fill::Uniform(0.1, 1.0)
            } else {
                Fill::Normal(0.0, 1.0)
            };
            let op = MatMul::new(
                &normal(DType::F32, &[m, 40]).fill(fill.clone()),
                Weight::Rows(normal(DType::F32, &[13, 40]).fill(fill)),
                &output(DType::F32, &[m, 13]),
            )
            .scale(0.3)
            .act(act);
            list.full(format!("mat_mul/epilogue/act/{}/m{m}", act.name()), op);
        }
    }
}

/// Operands of other element types and layouts than y; parts that share a buffer.
fn types(list: &mut List) {
    for y in super::FLOATS {
        for other in super::FLOATS {
            for m in [1, 6] {
                let op = MatMul::new(
                    &normal(y, &[m, 64]),
                    Weight::Rows(normal(QuantFormat::Q8_0, &[19, 64])),
                    &output(y, &[m, 19]),
                )
                .bias(&normal(other, &[19]))
                .act(Act::Gelu)
                .gate(&laid(padded(other, &[m, 19], 7)))
                .residual(&laid(padded(other, &[m, 19], 2)).at(other.size() as u64));
                list.full(format!("mat_mul/epilogue/types/{y}-{other}/m{m}"), op);
            }
        }
        let yd = desc(y, &[4, 19]);
        let gate = laid(yd).shared(0, 0);
        let op = MatMul::new(
            &normal(y, &[4, 64]),
            Weight::Rows(normal(DType::F16, &[19, 64])),
            &gate,
        )
        .act(Act::Silu)
        .gate(&gate);
        list.full(format!("mat_mul/epilogue/gate_in_place/{y}"), op);
        // Gate and residual are one tensor.
        let both = laid(yd).shared(0, 0);
        let op = MatMul::new(
            &normal(y, &[4, 64]),
            Weight::Rows(normal(DType::F32, &[19, 64])),
            &laid(yd),
        )
        .gate(&both)
        .residual(&Spec::new(yd, Fill::Keep).shared(0, 0));
        list.full(format!("mat_mul/epilogue/gate_is_residual/{y}"), op);
    }
    // A bias and a residual that broadcast by stride 0.
    let row = super::strided(DType::F32, &[5, 19], &[0, 1]);
    let op = MatMul::new(
        &normal(DType::F32, &[5, 64]),
        Weight::Rows(normal(DType::F32, &[19, 64])),
        &output(DType::F32, &[5, 19]),
    )
    .bias(&laid(super::strided(DType::F32, &[19], &[0])))
    .residual(&laid(row));
    list.full("mat_mul/epilogue/broadcast", op);
    let batch = |e: DType| normal(e, &[2, 3, 5, 19]);
    let op = MatMul::new(
        &normal(DType::F32, &[2, 3, 5, 64]),
        Weight::Rows(normal(DType::F32, &[3, 19, 64])),
        &batch(DType::F32),
    )
    .bias(&normal(DType::F32, &[19]))
    .act(Act::Relu)
    .gate(&batch(DType::F16))
    .residual(&batch(DType::BF16));
    list.full("mat_mul/epilogue/batch", op);
    let op = MatMul::new(
        &normal(DType::I8, &[5, 64]).fill(Fill::Ints(-127, 128)),
        Weight::Rows(normal(DType::I8, &[19, 64]).fill(Fill::Ints(-127, 128))),
        &output(DType::F32, &[5, 19]),
    )
    .scale(1.0 / 4096.0)
    .bias(&normal(DType::F32, &[19]))
    .act(Act::Silu);
    list.full("mat_mul/epilogue/i8", op);
}
