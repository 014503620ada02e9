//! Layers of published models at their real width. What is large runs in the soak tier.

use super::{List, PRECISIONS, ints, normal, output};
use crate::{
    Act, Attention, Conv2d, DType, Element, GroupedMatMul, Kv, MatMul, Norm, QuantFormat, Rope,
    RopeKind, Routing, Weight, conformance::Fill,
};

/// A linear layer: model, layer, N, K.
const LINEAR: &[(&str, &str, u32, u32)] = &[
    ("smollm2_135m", "q", 576, 576),
    ("smollm2_135m", "k", 192, 576),
    ("smollm2_135m", "gate", 1536, 576),
    ("smollm2_135m", "down", 576, 1536),
    ("qwen2_0_5b", "q", 896, 896),
    ("qwen2_0_5b", "k", 128, 896),
    ("qwen2_0_5b", "down", 896, 4864),
    ("gemma3_1b", "q", 1024, 1152),
    ("gemma3_1b", "gate", 6912, 1152),
    ("gemma3_1b", "down", 1152, 6912),
    ("llama3_8b", "q", 4096, 4096),
    ("llama3_8b", "k", 1024, 4096),
    ("llama3_8b", "gate", 14336, 4096),
    ("llama3_8b", "down", 4096, 14336),
    ("glm4_9b", "k", 256, 4096),
    ("glm4_9b", "gate", 13696, 4096),
    ("deepseek_v2_lite", "kv_a", 576, 2048),
    ("deepseek_v2_lite", "kv_b", 4096, 512),
    ("deepseek_v2_lite", "expert", 1408, 2048),
    ("sd15", "q", 320, 320),
    ("sd15", "cross_k", 320, 768),
    ("sd15", "geglu", 2560, 320),
];

/// Model, query heads, KV heads, Dk, Dv, queries, keys, causal.
type Heads = (&'static str, u32, u32, u32, u32, u32, u32, bool);

/// Attention of real models.
const HEADS: &[Heads] = &[
    ("smollm2_135m", 9, 3, 64, 64, 1, 200, true),
    ("smollm2_135m", 9, 3, 64, 64, 30, 30, true),
    ("qwen2_0_5b", 14, 2, 64, 64, 1, 300, true),
    ("gemma3_1b", 4, 1, 256, 256, 1, 600, true),
    ("llama3_8b", 32, 8, 128, 128, 1, 257, true),
    ("llama3_8b", 32, 8, 128, 128, 20, 40, true),
    ("glm4_9b", 32, 2, 128, 128, 1, 130, true),
    ("deepseek_v2_lite", 16, 16, 192, 128, 9, 33, true),
    ("deepseek_v2_lite_absorbed", 16, 1, 576, 512, 1, 100, true),
    ("sd15_self_64", 8, 8, 40, 40, 64, 256, false),
    ("sd15_cross", 8, 8, 80, 80, 64, 77, false),
    ("sd15_self_8", 8, 8, 160, 160, 64, 64, false),
    ("siglip", 16, 16, 72, 72, 33, 196, false),
];

pub(super) fn add(list: &mut List) {
    linear(list);
    for &(model, hq, hkv, dk, dv, sq, kv, causal) in HEADS {
        for e in [DType::F16, DType::F32] {
            let mut op = Attention::dense(
                &normal(DType::F32, &[1, hq, sq, dk]),
                &normal(e, &[1, hkv, kv, dk]),
                &normal(e, &[1, hkv, kv, dv]),
                kv,
                1.0 / (dk as f32).sqrt(),
                &output(DType::F32, &[1, hq, sq, dv]),
            );
            op.causal = causal;
            if model == "gemma3_1b" {
                op = op.window(512);
            }
            list.full(format!("attention/model/{model}/{e}/q{sq}kv{kv}"), op);
        }
    }
    blocks(list);
}

fn linear(list: &mut List) {
    let elements = [
        Element::from(DType::F16),
        QuantFormat::Q8_0.into(),
        QuantFormat::Q4_0.into(),
        QuantFormat::Q4_K.into(),
        QuantFormat::Q6_K.into(),
    ];
    for &(model, layer, n, k) in LINEAR {
        for e in elements {
            if !(k as usize).is_multiple_of(e.block_len()) {
                continue;
            }
            for m in [1, 7] {
                for (precision, word) in PRECISIONS {
                    let op = MatMul::new(
                        &normal(DType::F32, &[m, k]),
                        Weight::Rows(normal(e, &[n, k])),
                        &output(DType::F32, &[m, n]),
                    )
                    .precision(precision);
                    let name = format!("mat_mul/model/{model}/{layer}/{e}/{word}/m{m}");
                    if n * k <= 600_000 && m == 1 {
                        list.full(name, op);
                    } else {
                        list.soak(name, op);
                    }
                }
            }
        }
    }
}

fn blocks(list: &mut List) {
    let f = DType::F32;
    // 64 experts, top 6.
    for e in [QuantFormat::Q4_K, QuantFormat::Q8_0] {
        let op = GroupedMatMul::new(
            &normal(f, &[3, 2048]),
            Weight::Rows(normal(e, &[64, 1408, 2048])),
            Routing::Ids(ints(&[3, 6], Fill::Permutation(64))),
            &output(f, &[3, 6, 1408]),
        );
        let name = Element::Quant(e).name();
        list.soak(format!("grouped_mat_mul/model/deepseek_v2_lite/{name}"), op);
    }
    for (model, n, offset) in [
        ("llama3_8b", 4096, 0.0),
        ("smollm2_135m", 576, 0.0),
        ("gemma3_1b", 1152, 1.0),
        ("deepseek_r1", 7168, 0.0),
    ] {
        let t = || normal(f, &[4, n]);
        let op = Norm::rms(&t(), &normal(f, &[n]), 1e-6, &t())
            .weight_offset(offset)
            .residual(&t(), &t());
        list.full(format!("norm/model/{model}"), op);
    }
    for (model, kind, heads, d, n_rot, theta) in [
        ("llama3_8b", RopeKind::HalfSplit, 32, 128, 128, 5e5),
        ("llama3_8b_gguf", RopeKind::Interleaved, 32, 128, 128, 5e5),
        ("glm4_9b", RopeKind::Interleaved, 32, 128, 64, 1e4),
        ("deepseek", RopeKind::Interleaved, 16, 64, 64, 1e4),
        ("gemma3_1b", RopeKind::HalfSplit, 4, 256, 256, 1e6),
        ("qwen2_0_5b", RopeKind::HalfSplit, 14, 64, 64, 1e6),
    ] {
        let shape = [1, heads, 5, d];
        let positions = ints(&[5], Fill::Steps(1000.0, 1.0));
        let op = Rope::new(
            kind,
            &normal(f, &shape),
            &positions,
            theta,
            n_rot,
            &output(f, &shape),
        );
        list.full(format!("rope/model/{model}"), op);
    }
    for (layer, c, o, size, taps, stride) in [
        ("conv_in", 4, 320, 16, 3, 1),
        ("res_320", 320, 320, 16, 3, 1),
        ("down_320", 320, 320, 16, 3, 2),
        ("res_1280", 1280, 1280, 8, 3, 1),
        ("shortcut", 640, 320, 16, 1, 1),
        ("vae_out", 128, 3, 32, 3, 1),
    ] {
        let to = (size - 1) / stride + 1;
        let op = Conv2d::new(
            &normal(DType::F16, &[1, c, size, size]),
            &normal(DType::F16, &[o, c, taps, taps]).fill(Fill::Normal(0.0, 0.05)),
            &output(DType::F16, &[1, o, to, to]),
        )
        .stride(stride, stride)
        .pad(taps / 2, taps / 2)
        .bias(&normal(DType::F16, &[o]))
        .act(Act::Silu);
        list.soak(format!("conv2d/model/sd15/{layer}"), op);
    }
    for (name, c, size) in [("sd15_320", 320, 16), ("sd15_1280", 1280, 8)] {
        let x = normal(DType::F16, &[1, c, size, size]);
        let op = Norm::group(
            32,
            &x,
            &normal(DType::F16, &[c]),
            1e-5,
            &output(DType::F16, &[1, c, size, size]),
        );
        list.full(
            format!("norm/model/{name}"),
            op.bias(&normal(DType::F16, &[c])),
        );
    }
    // Pages of 16 as vLLM keeps them, at Llama 3's width.
    let pool = || normal(DType::F16, &[40, 8, 16, 128]);
    let kv = Kv::Paged {
        k: pool(),
        v: pool(),
        table: ints(&[2, 18], Fill::Permutation(40)),
    };
    let op = Attention::new(
        &normal(f, &[2, 32, 1, 128]),
        kv,
        283,
        0.088_388_35,
        &output(f, &[2, 32, 1, 128]),
    );
    list.full("attention/model/llama3_8b/paged", op.causal());
}
