//! Cases of a size worth timing; the soak tier verifies them too.

use super::{FLOATS, List, formats, ints, normal, output};
use crate::{
    Act, Attention, DType, Dequantize, Element, GatherRows, Glu, KvWrite, MatMul, MatMulMany, Norm,
    Part, Precision, QuantFormat, Rope, RopeKind, Weight, conformance::Fill,
};

pub(super) fn add(list: &mut List) {
    matmul(list);
    attention(list);
    dequantize(list);
    step(list);
}

fn matmul(list: &mut List) {
    let quantized = [
        QuantFormat::Q4_0,
        QuantFormat::Q8_0,
        QuantFormat::Q4_K,
        QuantFormat::Q6_K,
        QuantFormat::IQ4_XS,
        QuantFormat::MXFP4,
    ];
    for e in FLOATS
        .into_iter()
        .map(Element::from)
        .chain(quantized.into_iter().map(Element::from))
    {
        for (m, n, k) in [
            (1, 4096, 4096),
            (8, 4096, 4096),
            (128, 2048, 2048),
            (512, 2048, 2048),
        ] {
            let quant = e.quant().is_some();
            let (precision, word) = match (quant, e == DType::F32.into()) {
                (true, _) => (Precision::Q8, "q8"),
                (_, true) => (Precision::F32, "exact"),
                _ => (Precision::HALF, "half"),
            };
            let op = MatMul::new(
                &normal(DType::F32, &[m, k]),
                Weight::Rows(normal(e, &[n, k])),
                &output(DType::F32, &[m, n]),
            )
            .precision(precision);
            list.bench(format!("mat_mul/bench/{e}/{word}/m{m}n{n}k{k}"), op);
        }
    }
}

fn attention(list: &mut List) {
    for (name, heads, kv_heads, d, sq, kv) in [
        ("decode", 32, 8, 128, 1, 4096),
        ("decode_mqa", 32, 1, 128, 1, 4096),
        ("prefill", 32, 8, 128, 512, 512),
        ("cross", 8, 8, 40, 1024, 77),
    ] {
        for e in [DType::F32, DType::F16] {
            let mut op = Attention::dense(
                &normal(DType::F32, &[1, heads, sq, d]),
                &normal(e, &[1, kv_heads, kv, d]),
                &normal(e, &[1, kv_heads, kv, d]),
                kv,
                1.0 / (d as f32).sqrt(),
                &output(DType::F32, &[1, heads, sq, d]),
            )
            .precision(Precision::HALF);
            op.causal = name != "cross";
            list.bench(format!("attention/bench/{name}/{e}/q{sq}kv{kv}d{d}"), op);
        }
    }
}

fn dequantize(list: &mut List) {
    for (q, name, b) in formats() {
        let shape = [1024, 1024 / b * b];
        let op = Dequantize::new(&normal(q, &shape), &output(DType::F32, &shape));
        list.bench(format!("dequantize/bench/{name}"), op);
    }
}

/// The ops of one decoder layer for one token, at Llama 3 8B's width.
fn step(list: &mut List) {
    let f = DType::F32;
    let (hidden, ff, heads, kv_heads, d, len) = (4096, 14336, 32, 8, 128, 1024);
    let w = |n: u32, k: u32| Weight::Rows(normal(QuantFormat::Q4_K, &[n, k]));
    let row = |n: u32| normal(f, &[1, n]);
    let rms = Norm::rms(&row(hidden), &normal(f, &[hidden]), 1e-5, &row(hidden))
        .residual(&row(hidden), &row(hidden));
    list.bench("step/norm", rms);
    let qkv = MatMulMany::new(
        &row(hidden),
        [hidden, kv_heads * d, kv_heads * d].map(|n| Part::new(w(n, hidden), &row(n))),
    );
    list.bench("step/qkv", qkv.precision(Precision::Q8));
    let shape = [1, heads, 1, d];
    let rope = Rope::new(
        RopeKind::Interleaved,
        &normal(f, &shape),
        &ints(&[1], Fill::Values(vec![1000.0])),
        5e5,
        d,
        &output(f, &shape),
    );
    list.bench("step/rope", rope);
    let new = || normal(f, &[1, kv_heads, 1, d]);
    let cache = || normal(DType::F16, &[1, kv_heads, len, d]);
    let slot = ints(&[1], Fill::Values(vec![1000.0]));
    list.bench(
        "step/kv_write",
        KvWrite::dense(&new(), &new(), &cache(), &cache(), &slot),
    );
    let attention = Attention::dense(
        &normal(f, &shape),
        &cache(),
        &cache(),
        1001,
        0.088_388_35,
        &output(f, &shape),
    );
    list.bench(
        "step/attention",
        attention.causal().precision(Precision::HALF),
    );
    let proj = MatMul::new(&row(hidden), w(hidden, hidden), &row(hidden)).residual(&row(hidden));
    list.bench("step/out", proj.precision(Precision::Q8));
    let gate_up = MatMulMany::new(
        &row(hidden),
        [ff, ff].map(|n| Part::new(w(n, hidden), &row(n))),
    );
    list.bench("step/gate_up", gate_up.precision(Precision::Q8));
    list.bench(
        "step/glu",
        Glu::new(Act::Silu, &row(ff), &row(ff), &row(ff)),
    );
    let down = MatMul::new(&row(ff), w(hidden, ff), &row(hidden)).residual(&row(hidden));
    list.bench("step/down", down.precision(Precision::Q8));
    let table = Weight::Rows(normal(QuantFormat::Q4_K, &[4096, hidden]));
    let ids = ints(&[1], Fill::Values(vec![1234.0]));
    list.bench("step/embed", GatherRows::new(table, &ids, &row(hidden)));
}
