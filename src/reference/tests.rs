//! Values worked out by hand, op by op.

use super::*;
use crate::{
    Act, Attention, BinOp, Binary, Conv2d, Copy, DType, Dequantize, Epilogue, GatherRows, Glu,
    GroupedMatMul, Kv, KvWrite, MatMul, MatMulMany, Norm, NormKind, Part, Precision, QuantFormat,
    Quantize, RedOp, Reduce, Rope, RopeKind, Routing, Softmax, TopK, Unary, Upsample, Weight,
};

fn typed(d: DType, shape: &[u32], v: &[f64]) -> Array {
    let mut bytes = Vec::new();
    v.iter().for_each(|&v| encode_plain(d, v, &mut bytes));
    Array::new(TensorDesc::new(d, shape).unwrap(), bytes)
}

fn f(shape: &[u32], v: &[f64]) -> Array {
    typed(DType::F32, shape, v)
}

fn ids(v: &[f64]) -> Array {
    typed(DType::I32, &[v.len() as u32], v)
}

fn zeros(shape: &[u32]) -> Array {
    let n: u32 = shape.iter().product();
    f(shape, &vec![0.0; n as usize])
}

fn values(op: impl Into<Op<Array>>) -> Vec<f64> {
    eval(&op.into()).unwrap().remove(0).values
}

fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{got:?} {want:?}");
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() < 1e-6, "{got:?} {want:?}");
    }
}

#[test]
fn numbers_round_and_decode() {
    assert_eq!(round_to(DType::F16, 65519.9), 65504.0);
    assert_eq!(round_to(DType::F16, 65520.0), f64::INFINITY);
    // Halfway: to the even neighbour, up and down.
    assert_eq!(round_to(DType::F16, 2049.0), 2048.0);
    assert_eq!(round_to(DType::F16, 2051.0), 2052.0);
    assert_eq!(round_to(DType::BF16, 257.0), 256.0);
    assert_eq!(round_to(DType::F16, 2f64.powi(-25)), 0.0);
    assert_eq!(round_to(DType::F8E4M3, 1e9), 448.0);
    assert_eq!(round_to(DType::F8E5M2, -1e9), -57344.0);
    assert_eq!(round_to(DType::I8, -129.9), -128.0);
    assert_eq!(round_to(DType::U8, f64::NAN), 0.0);
    assert_eq!(decode_plain(DType::F8E4M3, &[0x7e]), 448.0);
    assert_eq!(decode_plain(DType::F8E4M3, &[0x01]), 2f64.powi(-9));
    assert_eq!(decode_plain(DType::F8E5M2, &[0x7c]), f64::INFINITY);
    assert_eq!(decode_plain(DType::F8E5M2, &[0xc0]), -2.0);
    for d in [DType::F8E4M3, DType::F8E5M2] {
        for b in 0..=255u8 {
            let v = decode_plain(d, &[b]);
            if v.is_finite() {
                let mut out = Vec::new();
                encode_plain(d, v, &mut out);
                assert_eq!(out, [b], "{d} {v}");
            }
        }
    }
}

#[test]
fn erf_at_known_points() {
    close(
        &[0.0, 0.5, 1.0, 2.0, 2.6, 3.0, -1.0].map(elementwise::erf),
        &[
            0.0,
            0.520_499_877_813,
            0.842_700_792_949,
            0.995_322_265_019,
            0.999_763_965_583,
            0.999_977_909_503,
            -0.842_700_792_949,
        ],
    );
}

#[test]
fn mat_mul_and_epilogue() {
    let x = f(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let w = f(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, -1.0]);
    let y = f(&[2, 3], &[10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
    let op = MatMul::new(&x, &w, &y);
    let out = eval(&op.clone().into()).unwrap().remove(0);
    close(&out.values, &[1.0, 2.0, -1.0, 3.0, 4.0, -1.0]);
    close(&out.magnitudes, &[1.0, 2.0, 3.0, 3.0, 4.0, 7.0]);
    let wt = f(&[2, 3], &[1.0, 0.0, 1.0, 0.0, 1.0, -1.0]);
    close(
        &values(MatMul::new(&x, Weight::Transposed(wt), &y)),
        &[1.0, 2.0, -1.0, 3.0, 4.0, -1.0],
    );
    let op = op
        .scale(2.0)
        .bias(&f(&[3], &[1.0, -9.0, 0.0]))
        .act(Act::Relu)
        .gate(&f(&[2, 3], &[2.0; 6]))
        .residual(&f(&[2, 3], &[0.5; 6]))
        .accumulate();
    close(&values(op), &[16.5, 20.5, 30.5, 54.5, 50.5, 60.5]);
}

#[test]
fn batches_broadcast() {
    let x = f(&[2, 1, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    let w = f(&[3, 1, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let op = MatMul::new(&x, &w, &zeros(&[2, 3, 1, 1]));
    close(&values(op), &[1.0, 2.0, 3.0, 3.0, 4.0, 7.0]);
}

#[test]
fn accepted_rounding_gives_slack() {
    let x = f(&[1, 2], &[254.0, 1.0]);
    let w = f(&[1, 2], &[0.0, 3.0]);
    let op = MatMul::new(&x, &w, &zeros(&[1, 1]));
    let slack = |p| {
        eval(&op.clone().precision(p).into())
            .unwrap()
            .remove(0)
            .slack
    };
    assert_eq!(slack(Precision::F32), [0.0]);
    // A block step of 254 / 254 and the scale's own rounding, times 3.
    close(&slack(Precision::Q8), &[3.47 * 3.0 * (1.0 + 1.0 / 2048.0)]);
    close(&slack(Precision::HALF), &[3.47 * 3.0 / 256.0]);
}

#[test]
fn many_and_grouped() {
    let x = f(&[1, 2], &[1.0, 2.0]);
    let part = |w: &[f64]| Part::new(&f(&[1, 2], w), &zeros(&[1, 1]));
    let op = MatMulMany::new(&x, [part(&[1.0, 1.0]), part(&[2.0, 0.0]).scale(3.0)]);
    let out = eval(&op.into()).unwrap();
    close(&[out[0].values[0], out[1].values[0]], &[3.0, 6.0]);

    let x = f(&[2, 1], &[1.0, 2.0]);
    let w = f(&[2, 1, 1], &[10.0, 100.0]);
    let routing = Routing::Ids(typed(DType::I32, &[2, 2], &[1.0, 0.0, -1.0, 2.0]));
    let op = GroupedMatMul::new(&x, &w, routing, &zeros(&[2, 2, 1]));
    close(&values(op.clone()), &[100.0, 10.0, 0.0, 0.0]);
    let biased = GroupedMatMul {
        epilogue: Epilogue {
            bias: Some(f(&[2, 1], &[1.0, 2.0])),
            residual: Some(f(&[2, 2, 1], &[0.5; 4])),
            ..Epilogue::default()
        },
        ..op
    };
    close(&values(biased), &[102.5, 11.5, 0.5, 0.5]);
    let x = f(&[3, 1], &[1.0, 2.0, 3.0]);
    let routing = Routing::Offsets(ids(&[0.0, 1.0, 2.0]));
    let op = GroupedMatMul::new(&x, &w, routing, &zeros(&[3, 1]));
    close(&values(op), &[10.0, 200.0, 0.0]);
}

/// One head of size 1: scores are q * k.
fn attend(q: &[f64], k: &[f64], v: &[f64], kv_len: u32) -> Attention<Array> {
    let shape = |n: usize| [1, 1, n as u32, 1];
    Attention::dense(
        &f(&shape(q.len()), q),
        &f(&shape(k.len()), k),
        &f(&shape(v.len()), v),
        kv_len,
        1.0,
        &zeros(&shape(q.len())),
    )
}

#[test]
fn attention_by_hand() {
    let ln2 = f64::from(2f32.ln());
    // Weights 1 : 2 : 4.
    let k = [0.0, ln2, 2.0 * ln2];
    let v = [7.0, 14.0, 28.0];
    let op = |q: &[f64], n| attend(q, &k, &v, n);
    close(&values(op(&[1.0], 3)), &[(7.0 + 28.0 + 112.0) / 7.0]);
    close(&values(op(&[1.0], 2)), &[35.0 / 3.0]);
    close(&values(op(&[1.0], 0)), &[0.0]);
    close(&values(op(&[1.0, 1.0], 3).causal()), &[35.0 / 3.0, 21.0]);
    // The last two keys, the query's own position included.
    close(&values(op(&[1.0], 3).causal().window(2)), &[140.0 / 6.0]);
    close(
        &values(op(&[1.0], 3).sinks(&f(&[1], &[0.0]))),
        &[147.0 / 8.0],
    );
    let mask = typed(DType::U8, &[3], &[0.0, 1.0, 1.0]);
    close(&values(op(&[1.0], 3).mask(&mask)), &[140.0 / 6.0]);
    let mask = f(&[1, 3], &[2.0 * ln2, ln2, 0.0]);
    close(&values(op(&[1.0], 3).mask(&mask)), &[49.0 / 3.0]);
    let alibi = f(&[1], &[ln2]);
    // Position 2: biases -2, -1, 0 times ln 2 give weights 1/4 : 1 : 4.
    close(&values(op(&[1.0], 3).alibi(&alibi)), &[127.75 / 5.25]);
    let capped = values(attend(&[1.0], &[100.0, 0.0], &[1.0, 0.0], 2).softcap(1.0));
    close(&capped, &[1.0 / (1.0 + (-1f64).exp())]);
    // More queries than keys: the first sees nothing.
    close(&values(op(&[1.0, 1.0], 1).causal()), &[0.0, 7.0]);
}

#[test]
fn attention_heads_pages_and_sequences() {
    // Two query heads share KV head 0, two share head 1.
    let one = |v: &[f64]| f(&[1, v.len() as u32, 1, 1], v);
    let op = Attention::dense(
        &one(&[1.0; 4]),
        &one(&[1.0, 1.0]),
        &one(&[5.0, 6.0]),
        1,
        1.0,
        &one(&[0.0; 4]),
    );
    close(&values(op), &[5.0, 5.0, 6.0, 6.0]);
    // Keys 0, 1 on page 1, key 2 on page 0; a page number outside hides.
    let pool = f(&[2, 1, 2, 1], &[40.0, 99.0, 10.0, 20.0]);
    let paged = |table: &[f64]| {
        let kv = Kv::Paged {
            k: f(&[2, 1, 2, 1], &[0.0; 4]),
            v: pool.clone(),
            table: typed(DType::I32, &[1, 2], table),
        };
        Attention::new(&f(&[1, 1, 1, 1], &[1.0]), kv, 3, 1.0, &zeros(&[1, 1, 1, 1]))
    };
    close(&values(paged(&[1.0, 0.0])), &[70.0 / 3.0]);
    close(&values(paged(&[1.0, 7.0])), &[15.0]);
    close(&values(paged(&[-1.0, 0.0])), &[40.0]);
    // Two sequences of one and two queries.
    let cache = |v: &[f64]| f(&[2, 1, 2, 1], v);
    let op = Attention::dense(
        &f(&[1, 1, 3, 1], &[1.0; 3]),
        &cache(&[0.0; 4]),
        &cache(&[1.0, 99.0, 2.0, 4.0]),
        0,
        1.0,
        &zeros(&[1, 1, 3, 1]),
    )
    .ragged(&ids(&[0.0, 1.0, 3.0]), &ids(&[1.0, 2.0]))
    .causal();
    close(&values(op), &[1.0, 2.0, 3.0]);
}

#[test]
fn caches_are_written_by_slot() {
    let new = f(&[1, 1, 2, 1], &[5.0, 6.0]);
    let cache = f(&[1, 1, 3, 1], &[1.0, 2.0, 3.0]);
    let op = KvWrite::dense(&new, &new, &cache, &cache, &ids(&[2.0, -1.0]));
    let out = eval(&op.into()).unwrap();
    close(&out[0].values, &[1.0, 2.0, 5.0]);
    close(&out[1].values, &[1.0, 2.0, 5.0]);
    // Page 1, row 1 of pages of 2.
    let pool = zeros(&[2, 1, 2, 1]);
    let kv = Kv::Paged {
        k: pool.clone(),
        v: pool,
        table: typed(DType::I32, &[1, 1], &[0.0]),
    };
    let op = KvWrite::new(&new, &new, kv, &ids(&[3.0, 0.0]));
    close(&values(op), &[6.0, 0.0, 0.0, 5.0]);
    // q8_0: 127 steps of 1, 0.4 rounds to 0, 1.6 to 2.
    let mut row = vec![0.0; 32];
    (row[0], row[1], row[2]) = (127.0, 0.4, -1.6);
    let new = f(&[1, 1, 1, 32], &row);
    let empty = TensorDesc::new(QuantFormat::Q8_0, &[1, 1, 1, 32]).unwrap();
    let cache = Array::new(empty, vec![0; 34]);
    let out = values(KvWrite::dense(&new, &new, &cache, &cache, &ids(&[0.0])));
    close(&out[..4], &[127.0, 0.0, -2.0, 0.0]);
}

#[test]
fn rows_of_tables_and_blocks() {
    let mut block = vec![0u8; 34];
    block[..2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
    (block[2], block[33]) = (4, 0xfe);
    let d = TensorDesc::new(QuantFormat::Q8_0, &[1, 32]).unwrap();
    let w = Array::new(d, block);
    let out = values(Dequantize::new(&w, &zeros(&[1, 32])));
    close(&[out[0], out[1], out[31]], &[2.0, 0.0, -1.0]);
    let got = values(GatherRows::new(&w, &ids(&[1.0, 0.0]), &zeros(&[2, 32])));
    close(&[got[0], got[32]], &[0.0, 2.0]);
    let x: Vec<f64> = (0..32).map(|i| f64::from(i) - 15.0).collect();
    let out = values(Quantize::new(&f(&[1, 32], &x), &w));
    assert!(x.iter().zip(&out).all(|(a, b)| (a - b).abs() < 0.07));
}

#[test]
fn rotations() {
    let x = f(&[1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let y = zeros(&[1, 1, 1, 4]);
    let p = ids(&[2.0]);
    let rope = |kind, n| Rope::new(kind, &x, &p, 4.0, n, &y);
    // Angles 2 * 4^0 = 2 and 2 * 4^(-1/2) = 1.
    let (s2, c2) = 2f64.sin_cos();
    let (s1, c1) = 1f64.sin_cos();
    close(
        &values(rope(RopeKind::HalfSplit, 4)),
        &[
            c2 - 3.0 * s2,
            2.0 * c1 - 4.0 * s1,
            s2 + 3.0 * c2,
            2.0 * s1 + 4.0 * c1,
        ],
    );
    close(
        &values(rope(RopeKind::Interleaved, 4)),
        &[
            c2 - 2.0 * s2,
            s2 + 2.0 * c2,
            3.0 * c1 - 4.0 * s1,
            3.0 * s1 + 4.0 * c1,
        ],
    );
    close(
        &values(rope(RopeKind::HalfSplit, 2).magnitude(2.0)),
        &[2.0 * (c2 - 2.0 * s2), 2.0 * (s2 + 2.0 * c2), 3.0, 4.0],
    );
    let halved = rope(RopeKind::HalfSplit, 2).factors(&f(&[1], &[2.0]));
    close(&values(halved), &[c1 - 2.0 * s1, s1 + 2.0 * c1, 3.0, 4.0]);
    // Pair 0 of section 0 at position 2, pair 1 of section 1 at position 0.
    let mut sections = rope(RopeKind::Sections([1, 1, 0, 0]), 4);
    sections.positions = typed(DType::I32, &[4, 1], &[2.0, 0.0, 0.0, 0.0]);
    close(&values(sections), &[c2 - 3.0 * s2, 2.0, s2 + 3.0 * c2, 4.0]);
}

#[test]
fn norms() {
    let x = f(&[1, 2], &[3.0, 4.0]);
    let y = zeros(&[1, 2]);
    let norm = |kind| Norm::new(kind, &x, 0.0, &y);
    let rms = 12.5f64.sqrt();
    close(&values(norm(NormKind::Rms)), &[3.0 / rms, 4.0 / rms]);
    close(&values(norm(NormKind::L2)), &[0.6, 0.8]);
    close(&values(norm(NormKind::Layer)), &[-1.0, 1.0]);
    let op = norm(NormKind::Layer)
        .weight(&f(&[2], &[1.0, 2.0]))
        .weight_offset(1.0)
        .bias(&f(&[2], &[10.0, 20.0]));
    close(&values(op), &[8.0, 23.0]);
    let op = norm(NormKind::L2).residual(&f(&[1, 2], &[0.0, -4.0]), &zeros(&[1, 2]));
    let out = eval(&op.into()).unwrap();
    assert_eq!((out[0].arg.name, out[1].arg.name), ("sum", "y"));
    close(&out[0].values, &[3.0, 0.0]);
    close(&out[1].values, &[1.0, 0.0]);
    let planes = f(&[1, 2, 2], &[1.0, 3.0, 10.0, 30.0]);
    let op = Norm::group(2, &planes, &f(&[2], &[1.0, 5.0]), 0.0, &planes);
    close(&values(op), &[-1.0, 1.0, -5.0, 5.0]);
    let op = Norm::new(NormKind::Group { groups: 1 }, &planes, 0.0, &planes);
    let (mean, sd) = (11.0, (f64::from(100 + 64 + 1 + 361) / 4.0).sqrt());
    close(
        &values(op),
        &[1.0, 3.0, 10.0, 30.0].map(|v| (v - mean) / sd),
    );
}

#[test]
fn softmax_and_masks() {
    let ln3 = f64::from(3f32.ln());
    let x = f(&[2, 2], &[0.0, ln3, f64::NEG_INFINITY, f64::NEG_INFINITY]);
    let y = zeros(&[2, 2]);
    close(&values(Softmax::new(&x, &y)), &[0.25, 0.75, 0.0, 0.0]);
    close(
        &values(Softmax::new(&x, &y).scale(2.0)),
        &[0.1, 0.9, 0.0, 0.0],
    );
    let mask = typed(DType::U8, &[2], &[1.0, 0.0]);
    close(
        &values(Softmax::new(&x, &y).mask(&mask)),
        &[1.0, 0.0, 0.0, 0.0],
    );
    let nan = f(&[1, 2], &[f64::NAN, 1.0]);
    assert!(values(Softmax::new(&nan, &zeros(&[1, 2])))[1].is_nan());
}

#[test]
fn functions_of_one_and_two() {
    let one = |act, x: f64| values(Unary::new(act, &f(&[1], &[x]), &zeros(&[1])))[0];
    for (act, x, want) in [
        (Act::Identity, 2.0, 2.0),
        (Act::Silu, 1.0, 0.731_058_578_6),
        (Act::Gelu, 1.0, 0.841_344_746_1),
        (Act::GeluTanh, 1.0, 0.841_191_990_6),
        (Act::GeluQuick, 1.0, 0.845_795_794_6),
        (Act::Relu, -1.0, 0.0),
        (Act::ReluSquared, 3.0, 9.0),
        (Act::Sigmoid, 0.0, 0.5),
        (Act::Tanh, 1.0, 0.761_594_155_9),
        (Act::Softplus, 0.0, std::f64::consts::LN_2),
        (Act::Exp, 1.0, std::f64::consts::E),
        (Act::Log, 1.0, 0.0),
        (Act::Neg, 1.0, -1.0),
        (Act::Abs, -1.5, 1.5),
        (Act::Square, -3.0, 9.0),
        (Act::Sqrt, 2.25, 1.5),
        (Act::Rsqrt, 4.0, 0.5),
        (Act::Recip, 4.0, 0.25),
        (Act::Sin, 1.0, 0.841_470_984_8),
        (Act::Cos, 1.0, 0.540_302_305_8),
    ] {
        close(&[one(act, x)], &[want]);
    }
    assert!(Act::ALL.iter().all(|&a| one(a, f64::NAN).is_nan()));
    assert_eq!(one(Act::Silu, f64::NEG_INFINITY), 0.0);
    assert_eq!(one(Act::Softplus, f64::INFINITY), f64::INFINITY);
    let affine = Unary::affine(2.0, 1.0, &f(&[1], &[3.0]), &zeros(&[2]));
    close(&values(affine), &[7.0, 7.0]);

    let two = |op, a: f64, b: f64| {
        values(Binary::new(
            op,
            &f(&[1], &[a]),
            &f(&[1], &[b]),
            &zeros(&[1]),
        ))[0]
    };
    for (op, want) in [
        (BinOp::Add, 5.0),
        (BinOp::Sub, 1.0),
        (BinOp::Mul, 6.0),
        (BinOp::Div, 1.5),
        (BinOp::Max, 3.0),
        (BinOp::Min, 2.0),
    ] {
        close(&[two(op, 3.0, 2.0)], &[want]);
        assert!(two(op, f64::NAN, 2.0).is_nan() && two(op, 2.0, f64::NAN).is_nan());
    }
    let row = f(&[2], &[1.0, 2.0]);
    let column = f(&[2, 1], &[10.0, 20.0]);
    let sum = Binary::add(&row, &column, &zeros(&[2, 2]));
    close(&values(sum), &[11.0, 12.0, 21.0, 22.0]);
    let glu = Glu::new(Act::Relu, &row, &f(&[2], &[3.0, -4.0]), &zeros(&[2]));
    close(&values(glu), &[3.0, -8.0]);
}

#[test]
fn reductions_and_order() {
    let x = f(&[2, 3], &[1.0, 5.0, 5.0, -2.0, 0.0, -7.0]);
    let rows = |op| values(Reduce::new(op, &x, 1, &zeros(&[2, 1])));
    close(&rows(RedOp::Sum), &[11.0, -9.0]);
    close(&rows(RedOp::Mean), &[11.0 / 3.0, -3.0]);
    close(&rows(RedOp::Max), &[5.0, 0.0]);
    close(&rows(RedOp::Min), &[1.0, -7.0]);
    let arg = |x: &Array| {
        let y = typed(
            DType::I32,
            &[x.desc.dim(0), 1],
            &vec![0.0; x.desc.dim(0) as usize],
        );
        values(Reduce::new(RedOp::ArgMax, x, 1, &y))
    };
    assert_eq!(arg(&x), [1.0, 1.0]);
    let nan = f(&[1, 3], &[9.0, f64::NAN, f64::NAN]);
    assert_eq!(arg(&nan), [1.0]);
    assert!(values(Reduce::new(RedOp::Min, &nan, 1, &zeros(&[1, 1])))[0].is_nan());
    close(
        &values(Reduce::new(RedOp::Sum, &x, 0, &zeros(&[1, 3]))),
        &[-1.0, 5.0, -2.0],
    );

    let x = f(&[1, 4], &[2.0, 7.0, f64::NAN, 7.0]);
    let ids = typed(DType::I32, &[1, 3], &[0.0; 3]);
    let out = eval(&TopK::new(&x, &zeros(&[1, 3]), &ids).into()).unwrap();
    assert!(out[0].values[0].is_nan());
    close(&out[0].values[1..], &[7.0, 7.0]);
    assert_eq!(out[1].values, [2.0, 1.0, 3.0]);
}

#[test]
fn copies_cast_and_turn() {
    let x = f(&[4], &[1.9, -1.9, 300.0, f64::NAN]);
    let y = typed(DType::I8, &[4], &[0.0; 4]);
    assert_eq!(values(Copy::new(&x, &y)), [1.0, -1.0, 127.0, 0.0]);
    let mut turned = f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    turned.desc = turned.desc.transposed(0, 1).unwrap();
    close(
        &values(Copy::new(&turned, &zeros(&[3, 2]))),
        &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0],
    );
}

#[test]
fn convolutions() {
    let x = f(
        &[1, 1, 3, 3],
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
    );
    let w = f(&[1, 1, 2, 2], &[1.0, 0.0, 0.0, 10.0]);
    let op = Conv2d::new(&x, &w, &zeros(&[1, 1, 2, 2]));
    close(&values(op), &[51.0, 62.0, 84.0, 95.0]);
    let op = Conv2d::new(&x, &w, &zeros(&[1, 1, 1, 1])).dilation(2, 2);
    close(&values(op), &[91.0]);
    let op = Conv2d::new(&x, &w, &zeros(&[1, 1, 2, 2]))
        .stride(2, 2)
        .pad(1, 1);
    let bias = op.bias(&f(&[1], &[0.5]));
    // The corners that padding leaves: only the last tap, or both.
    close(&values(bias), &[10.5, 30.5, 70.5, 95.5]);
    let two = f(&[1, 2, 1, 1], &[3.0, 4.0]);
    let taps = f(&[2, 1, 1, 1], &[10.0, 100.0]);
    let op = Conv2d::new(&two, &taps, &zeros(&[1, 2, 1, 1])).groups(2);
    close(&values(op), &[30.0, 400.0]);
    let op = Upsample::new(&f(&[1, 1, 1, 2], &[1.0, 2.0]), &zeros(&[1, 1, 2, 4]));
    close(&values(op), &[1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
}

#[test]
fn bad_operands_are_errors() {
    let mut x = f(&[1, 4], &[0.0; 4]);
    x.byte_offset = 4;
    let op = Op::from(MatMul::new(&x, &zeros(&[2, 4]), &zeros(&[1, 2])));
    assert!(matches!(eval(&op), Err(Error::InvalidTensor(_))));
    let op = Op::from(MatMul::new(
        &zeros(&[1, 3]),
        &zeros(&[2, 4]),
        &zeros(&[1, 2]),
    ));
    assert!(matches!(eval(&op), Err(Error::InvalidOp { .. })));
}
