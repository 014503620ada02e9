//! The conformance suite on the first CUDA device, and cases where this backend's launches are at risk. Without a
//! driver the backend has to say so; with `GRISTMILL_REQUIRE_CUDA` set, that is a failure.
#![cfg(all(feature = "cuda", feature = "conformance"))]

use gristmill::{
    Act, BinOp, Binary, Copy, DType, Dequantize, Device, Element, Error, Glu, MatMul, MatMulMany,
    Part, Precision, QuantFormat, Registry, Select, TensorDesc, Unary, Weight,
    conformance::{self, Case, Expect, Fill, Filter, Report, Spec, Tier},
};
use std::sync::Arc;

fn device() -> Option<Arc<dyn Device>> {
    match Registry::builtin().open_blocking(&Select::named("cuda").unwrap()) {
        Ok(device) => Some(device),
        Err(error @ Error::NotAvailable { .. }) => {
            let text = error.to_string();
            assert!(
                std::env::var_os("GRISTMILL_REQUIRE_CUDA").is_none(),
                "a CUDA device is required here: {text}"
            );
            assert!(text.starts_with("cuda is not available: "), "{text}");
            eprintln!("nothing was run: {text}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn judge(report: &Report) {
    print!("{}", report.text());
    let bad: Vec<_> = report.failures().map(|o| format!("{o:?}")).collect();
    assert!(report.is_success(), "{}", bad.join("\n"));
    assert!(report.totals().passed > 0, "no case ran natively");
}

#[test]
fn every_kernel_computes_what_the_reference_does() {
    let Some(device) = device() else { return };
    let tier = match std::env::var("GRISTMILL_TIER").as_deref() {
        Ok("smoke") => Tier::Smoke,
        _ => Tier::Full,
    };
    let filter = Filter::new(tier);
    judge(&conformance::run(&device, &filter, &Expect::default(), &mut |_| {}).unwrap());
}

fn desc(element: impl Into<Element>, shape: &[u32]) -> TensorDesc {
    TensorDesc::new(element, shape).unwrap()
}

fn spec(element: impl Into<Element>, shape: &[u32]) -> Spec {
    Spec::new(desc(element, shape), Fill::Normal(0.0, 1.0))
}

/// The same shape inside a wider matrix: rows at an odd distance.
fn padded(element: DType, shape: &[u32], pad: u32) -> Spec {
    let mut wide = shape.to_vec();
    let last = wide.len() - 1;
    wide[last] += pad;
    let (view, _) = desc(element, &wide).narrowed(last, 0, shape[last]).unwrap();
    Spec::new(view, Fill::Normal(0.0, 1.0))
}

const QUANTS: [QuantFormat; 6] = [
    QuantFormat::Q4_0,
    QuantFormat::Q4_1,
    QuantFormat::Q5_0,
    QuantFormat::Q8_0,
    QuantFormat::Q4_K,
    QuantFormat::Q6_K,
];
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn quantized() -> Vec<Case> {
    let mut cases = Vec::new();
    for q in QUANTS {
        // An odd number of blocks, so that 2-byte aligned rows start at odd half-words.
        let k = 3 * q.block_len() as u32;
        for (p, precision) in [
            ("f32", Precision::F32),
            ("half", Precision::HALF),
            ("q8", Precision::Q8),
        ] {
            for (m, n) in [(1, 5), (2, 4), (3, 7), (8, 3), (13, 6), (33, 70)] {
                for x in FLOATS {
                    let y = if m % 2 == 0 { DType::F32 } else { x };
                    let w = Weight::Rows(spec(q, &[n, k]).at(if m == 3 { 2 } else { 0 }));
                    let mut op =
                        MatMul::new(&padded(x, &[m, k], m % 3), w, &padded(y, &[m, n], n % 2))
                            .precision(precision);
                    if n % 2 == 1 {
                        op = op
                            .bias(&spec(DType::F16, &[n]))
                            .act(Act::GeluTanh)
                            .scale(0.125);
                        op = op.gate(&spec(DType::BF16, &[m, n])).residual(&padded(
                            DType::F32,
                            &[m, n],
                            1,
                        ));
                    }
                    cases.push(Case::new(
                        format!("cuda/{q:?}/{p}/{}/m{m}n{n}", x.name()),
                        op,
                    ));
                }
            }
        }
        for y in FLOATS {
            let op = Dequantize::new(&spec(q, &[2, 3, k]).at(2), &padded(y, &[2, 3, k], 5));
            cases.push(Case::new(format!("cuda/{q:?}/dequantize/{}", y.name()), op));
        }
        let x = spec(DType::BF16, &[2, k]);
        let parts =
            [5, 9].map(|n| Part::new(Weight::Rows(spec(q, &[n, k])), &spec(DType::F32, &[2, n])));
        cases.push(Case::new(
            format!("cuda/{q:?}/many"),
            MatMulMany::new(&x, parts).precision(Precision::Q8),
        ));
    }
    cases
}

fn dense() -> Vec<Case> {
    let mut cases = Vec::new();
    for x in FLOATS {
        for w in FLOATS {
            for (p, precision) in [("f32", Precision::F32), ("half", Precision::HALF)] {
                for (m, n, k) in [
                    (1, 3, 1),
                    (1, 9, 131),
                    (4, 65, 64),
                    (17, 2, 33),
                    (65, 66, 72),
                    (130, 129, 40),
                ] {
                    let y = if n % 2 == 0 { DType::F32 } else { x };
                    let op = MatMul::new(
                        &padded(x, &[m, k], k % 2),
                        Weight::Rows(padded(w, &[n, k], m % 2)),
                        &padded(y, &[m, n], n % 3),
                    );
                    let op = op.precision(precision);
                    let op = if n == 65 {
                        op.bias(&spec(w, &[n])).act(Act::Silu).accumulate()
                    } else {
                        op
                    };
                    cases.push(Case::new(
                        format!("cuda/dense/{}/{}/{p}/m{m}n{n}k{k}", x.name(), w.name()),
                        op,
                    ));
                    let w = Weight::Transposed(padded(w, &[k, n], 1));
                    let op =
                        MatMul::new(&spec(x, &[m, k]), w, &spec(y, &[m, n])).precision(precision);
                    cases.push(Case::new(
                        format!("cuda/transposed/{}/{p}/m{m}n{n}k{k}", x.name()),
                        op,
                    ));
                }
                for (xs, ws, ys) in [
                    (vec![3, 5, 40], vec![12, 40], vec![3, 5, 12]),
                    (vec![2, 3, 20, 40], vec![3, 12, 40], vec![2, 3, 20, 12]),
                    (vec![20, 40], vec![4, 12, 40], vec![4, 20, 12]),
                    (vec![2, 1, 1, 40], vec![1, 3, 12, 40], vec![2, 3, 1, 12]),
                ] {
                    let op = MatMul::new(
                        &spec(x, &xs),
                        Weight::Rows(spec(w, &ws)),
                        &spec(DType::F32, &ys),
                    );
                    let name = format!("cuda/batched/{}/{}/{p}/{xs:?}", x.name(), w.name());
                    cases.push(Case::new(name, op.precision(precision)));
                }
            }
        }
    }
    cases
}

fn copies() -> Vec<Case> {
    let mut cases = Vec::new();
    for x in FLOATS {
        for y in FLOATS {
            for (n, spec_x) in [spec(x, &[7, 9]), padded(x, &[7, 9], 3), spec(x, &[9])]
                .into_iter()
                .enumerate()
            {
                cases.push(Case::new(
                    format!("cuda/copy/{}/{}/{n}", x.name(), y.name()),
                    Copy::new(&spec_x, &padded(y, &[7, 9], n as u32)),
                ));
            }
            let turned = Spec::new(
                desc(x, &[3, 9, 7]).permuted(&[2, 0, 1]).unwrap(),
                Fill::Normal(0.0, 1.0),
            );
            cases.push(Case::new(
                format!("cuda/copy/{}/{}/turned", x.name(), y.name()),
                Copy::new(&turned, &spec(y, &[7, 3, 9])),
            ));
        }
    }
    for raw in [DType::I8, DType::U8, DType::I32, DType::U32, DType::I64] {
        let x = Spec::new(
            desc(raw, &[5, 6]).transposed(0, 1).unwrap(),
            Fill::Ints(0, 100),
        );
        cases.push(Case::new(
            format!("cuda/copy/{}", raw.name()),
            Copy::new(&x, &spec(raw, &[6, 5])),
        ));
    }
    for q in QUANTS {
        let k = 2 * q.block_len() as u32;
        let (part, _) = desc(q, &[4, 2 * k]).narrowed(1, 0, k).unwrap();
        let x = Spec::new(part, Fill::Normal(0.0, 1.0));
        cases.push(Case::new(
            format!("cuda/copy/{q:?}"),
            Copy::new(&x, &spec(q, &[4, k])),
        ));
    }
    cases
}

fn elementwise() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, &act) in Act::ALL
        .iter()
        .enumerate()
        .filter(|(_, a)| !matches!(a, Act::Sin | Act::Cos))
    {
        let (x, y) = (FLOATS[i % 3], FLOATS[i / 3 % 3]);
        // Logarithms and roots want positive numbers.
        let fill = match act {
            Act::Log | Act::Sqrt | Act::Rsqrt | Act::Recip => Fill::Uniform(0.1, 4.0),
            _ => Fill::Normal(0.0, 2.0),
        };
        let input = padded(x, &[3, 50], i as u32 % 2).fill(fill);
        let name = format!("cuda/unary/{}", act.name());
        cases.push(Case::new(
            name.clone(),
            Unary::new(act, &input, &spec(y, &[3, 50])),
        ));
        let op = Unary {
            scale: 0.5,
            offset: 0.25,
            ..Unary::new(act, &input, &spec(DType::F32, &[3, 50]))
        };
        cases.push(Case::new(format!("{name}/affine"), op));
    }
    for (i, &function) in BinOp::ALL.iter().enumerate() {
        let shapes: [(&[u32], &[u32]); 4] = [
            (&[4, 9], &[4, 9]),
            (&[4, 9], &[9]),
            (&[4, 1], &[1, 9]),
            (&[2, 1, 4, 1], &[3, 1, 9]),
        ];
        for (n, (a, b)) in shapes.into_iter().enumerate() {
            let y: &[u32] = if n == 3 { &[2, 3, 4, 9] } else { &[4, 9] };
            let b = spec(FLOATS[n % 3], b).fill(Fill::Uniform(0.5, 2.0));
            let op = Binary::new(
                function,
                &spec(FLOATS[i % 3], a),
                &b,
                &spec(FLOATS[(i + n) % 3], y),
            );
            cases.push(Case::new(
                format!("cuda/binary/{}/{n}", function.name()),
                op,
            ));
        }
    }
    for act in [Act::Silu, Act::Gelu, Act::GeluTanh] {
        for t in FLOATS {
            let op = Glu::new(
                act,
                &padded(t, &[5, 17], 17),
                &spec(t, &[5, 17]),
                &padded(t, &[5, 17], 1),
            );
            cases.push(Case::new(
                format!("cuda/glu/{}/{}", act.name(), t.name()),
                op,
            ));
        }
    }
    cases
}

#[test]
fn functions_of_one_and_two_operands() {
    let Some(device) = device() else { return };
    let expect = Expect {
        complete: true,
        ..Expect::default()
    };
    let filter = Filter::new(Tier::Full);
    let mut quiet = |_: conformance::Progress<'_>| {};
    let cases = elementwise();
    let report = conformance::run_cases(&device, &cases, &filter, &expect, &mut quiet);
    judge(&pollster::block_on(report).unwrap());
}

/// Every case has a native kernel on every device that this backend opens.
#[test]
fn strides_types_epilogues_and_batches() {
    let Some(device) = device() else { return };
    let cases: Vec<Case> = [quantized(), dense(), copies()].concat();
    let expect = Expect {
        complete: true,
        ..Expect::default()
    };
    let filter = Filter::new(Tier::Full);
    let mut quiet = |_: conformance::Progress<'_>| {};
    let report = conformance::run_cases(&device, &cases, &filter, &expect, &mut quiet);
    judge(&pollster::block_on(report).unwrap());
}
