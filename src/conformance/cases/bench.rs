//! Cases of a size worth timing; the soak tier verifies them too.

use super::{FLOATS, List, desc, formats, ints, normal, output};
use crate::{
    Act, Attention, Binary, Conv2d, Copy, DType, Dequantize, Element, GatherRows, Glu, KvWrite,
    MatMul, MatMulMany, Norm, Part, Precision, QuantFormat, Quantize, RedOp, Reduce, Rope,
    RopeKind, Softmax, TopK, Unary, Upsample, Weight,
    conformance::{Fill, Spec},
};

pub(super) fn add(list: &mut List) {
    matmul(list);
    attention(list);
    dequantize(list);
    step(list);
    small(list);
    images(list);
}

/// Formats whose every shape is timed; the others have the common ones.
const WIDELY_USED: [QuantFormat; 6] = [
    QuantFormat::Q4_0,
    QuantFormat::Q8_0,
    QuantFormat::Q4_K,
    QuantFormat::Q6_K,
    QuantFormat::IQ4_XS,
    QuantFormat::MXFP4,
];

/// [M, N, K] for every element type.
const COMMON: [(u32, u32, u32); 3] = [(1, 4096, 4096), (8, 4096, 4096), (128, 2048, 2048)];
/// [M, N, K] of decoding, of small batches and of prompts in models from 135M to 8B.
const SHAPES: [(u32, u32, u32); 10] = [
    (512, 2048, 2048),
    (4, 4096, 4096),
    (16, 4096, 4096),
    (1, 14336, 4096),
    (1, 4096, 14336),
    (16, 2048, 2048),
    (1, 1536, 576),
    (16, 576, 1536),
    (128, 1536, 576),
    (512, 576, 1536),
];

fn matmul(list: &mut List) {
    let formats = formats().map(|(q, ..)| Element::from(q));
    for e in FLOATS.into_iter().map(Element::from).chain(formats) {
        let quant = e.quant();
        let rare = quant.is_some_and(|q| !WIDELY_USED.contains(&q));
        let (precision, word) = match (quant, e == DType::F32.into()) {
            (Some(_), _) => (Precision::Q8, "q8"),
            (_, true) => (Precision::F32, "exact"),
            _ => (Precision::HALF, "half"),
        };
        let shapes = COMMON.iter().chain(if rare { &[][..] } else { &SHAPES });
        for &(m, n, k) in shapes {
            if quant.is_some_and(|q| !(k as usize).is_multiple_of(q.block_len())) {
                continue;
            }
            let op = MatMul::new(
                &normal(DType::F32, &[m, k]),
                Weight::Rows(normal(e, &[n, k])),
                &output(DType::F32, &[m, n]),
            )
            .precision(precision);
            list.bench(format!("mat_mul/bench/{e}/{word}/m{m}n{n}k{k}"), op);
        }
    }
    let int8 = |shape: &[u32]| Spec::new(desc(DType::I8, shape), Fill::Ints(-127, 128));
    for (m, n, k) in COMMON.into_iter().chain(SHAPES) {
        let op = MatMul::new(
            &int8(&[m, k]),
            Weight::Rows(int8(&[n, k])),
            &output(DType::I32, &[m, n]),
        );
        list.bench(format!("mat_mul/bench/i8/exact/m{m}n{n}k{k}"), op);
    }
}

fn attention(list: &mut List) {
    for (name, heads, kv_heads, d, sq, kv) in [
        ("decode", 32, 8, 128u32, 1, 4096),
        ("decode", 32, 8, 128, 1, 16384),
        ("decode_mqa", 32, 1, 128, 1, 4096),
        ("prefill", 32, 8, 64, 512, 512),
        ("prefill", 32, 8, 128, 512, 512),
        ("prefill", 16, 4, 256, 512, 512),
        ("self", 2, 2, 40, 4096, 4096),
        ("cross", 8, 8, 40, 1024, 77),
    ] {
        let elements: [Element; 4] = [
            DType::F32.into(),
            DType::F16.into(),
            DType::BF16.into(),
            QuantFormat::Q8_0.into(),
        ];
        for e in elements {
            let quant = e.quant().is_some();
            if quant && !d.is_multiple_of(32) {
                continue;
            }
            let mut op = Attention::dense(
                &normal(DType::F32, &[1, heads, sq, d]),
                &normal(e, &[1, kv_heads, kv, d]),
                &normal(e, &[1, kv_heads, kv, d]),
                kv,
                1.0 / (d as f32).sqrt(),
                &output(DType::F32, &[1, heads, sq, d]),
            )
            .precision(if quant {
                Precision::Q8
            } else {
                Precision::HALF
            });
            op.causal = !matches!(name, "cross" | "self");
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

/// The ops between the big ones, for 512 tokens.
fn small(list: &mut List) {
    let f = DType::F32;
    let (rows, hidden, ff, heads, d) = (512, 4096, 14336, 32, 128);
    let of = |e: DType, n: u32| normal(e, &[rows, n]);
    let x = || of(f, hidden);
    list.bench(
        "small/norm_rms",
        Norm::rms(&x(), &normal(f, &[hidden]), 1e-5, &x()),
    );
    list.bench("small/softmax", Softmax::new(&x(), &x()));
    list.bench("small/silu", Unary::new(Act::Silu, &x(), &x()));
    list.bench("small/gelu", Unary::new(Act::Gelu, &x(), &x()));
    list.bench("small/add", Binary::add(&x(), &x(), &x()));
    list.bench(
        "small/glu",
        Glu::new(Act::Silu, &of(f, ff), &of(f, ff), &of(f, ff)),
    );
    let sums = normal(f, &[rows, 1]);
    list.bench("small/reduce_sum", Reduce::new(RedOp::Sum, &x(), 1, &sums));
    for to in [DType::F32, DType::F16, DType::BF16] {
        list.bench(
            format!("small/copy_to_{to}"),
            Copy::new(&x(), &of(to, hidden)),
        );
    }
    list.bench(
        "small/copy_from_f16",
        Copy::new(&of(DType::F16, hidden), &x()),
    );
    let turned = super::laid(super::permuted(f, &[hidden, rows], &[1, 0]));
    list.bench("small/transpose", Copy::new(&turned, &x()));
    let by_head = || super::laid(super::permuted(f, &[1, rows, heads, d], &[0, 2, 1, 3]));
    let positions = ints(&[rows], Fill::Values((0..rows).map(f64::from).collect()));
    for kind in [RopeKind::Interleaved, RopeKind::HalfSplit] {
        let op = Rope::new(kind, &by_head(), &positions, 5e5, d, &by_head());
        list.bench(format!("small/rope/{kind:?}"), op);
    }
    let logits = normal(f, &[128_256]);
    for k in [1, 40] {
        let op = TopK::new(
            &logits,
            &normal(f, &[k]),
            &ints(&[k], Fill::Values(vec![0.0])),
        );
        list.bench(format!("small/top_{k}"), op);
    }
    for q in [QuantFormat::Q8_0, QuantFormat::Q4_0] {
        let op = Quantize::new(&x(), &output(q, &[rows, hidden]));
        list.bench(format!("small/quantize_{q}"), op);
    }
    for (table, name) in [
        (DType::F16.into(), "f16"),
        (Element::from(QuantFormat::Q4_K), "q4_k"),
    ] {
        let table = Weight::Rows(normal(table, &[8192, hidden]));
        let ids = (0..rows).map(|i| f64::from(i * 7919 % 8192)).collect();
        let op = GatherRows::new(table, &ints(&[rows], Fill::Values(ids)), &x());
        list.bench(format!("small/gather_{name}"), op);
    }
}

/// Layers of a Stable Diffusion U-Net and its decoder.
fn images(list: &mut List) {
    let f = DType::F32;
    for (name, c, o, size, taps, stride) in [
        ("unet_64", 320, 320, 64, 3, 1),
        ("unet_32", 640, 640, 32, 3, 1),
        ("unet_8", 1280, 1280, 8, 3, 1),
        ("unet_down", 320, 320, 64, 3, 2),
        ("project", 320, 320, 64, 1, 1),
        ("decoder_256", 256, 128, 256, 3, 1),
    ] {
        let out = size / stride;
        let op = Conv2d::new(
            &normal(f, &[1, c, size, size]),
            &normal(f, &[o, c, taps, taps]),
            &output(f, &[1, o, out, out]),
        );
        let op = op.stride(stride, stride).pad(taps / 2, taps / 2);
        list.bench(format!("conv2d/bench/{name}"), op);
    }
    let (x, y) = (normal(f, &[1, 320, 32, 32]), output(f, &[1, 320, 64, 64]));
    list.bench("upsample/bench", Upsample::new(&x, &y));
    let x = || normal(f, &[1, 320, 64, 64]);
    let w = || normal(f, &[320]);
    list.bench(
        "norm/bench/group",
        Norm::group(32, &x(), &w(), 1e-5, &x()).bias(&w()),
    );
}
