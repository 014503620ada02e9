//! The shader files, compiled in.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// Text of a file in `shaders/`.
        pub(crate) fn source(name: &str) -> Option<&'static str> {
            match name {
                $($name => Some(include_str!(concat!("../../../shaders/", $name))),)*
                _ => None,
            }
        }
    };
}

files! {
    "lib/act.wgsl",
    "lib/codebook_iq4.wgsl",
    "lib/conv_io.wgsl",
    "lib/divide.wgsl",
    "lib/each.wgsl",
    "lib/encode_q8_0.wgsl",
    "lib/gather_row.wgsl",
    "lib/matmul_io.wgsl",
    "lib/num.wgsl",
    "lib/quant_bf16.wgsl",
    "lib/quant_bytes.wgsl",
    "lib/quant_f16.wgsl",
    "lib/quant_f32.wgsl",
    "lib/quant_f8e4m3.wgsl",
    "lib/quant_f8e5m2.wgsl",
    "lib/quant_half.wgsl",
    "lib/quant_iq4_nl.wgsl",
    "lib/quant_iq4_xs.wgsl",
    "lib/quant_mxfp4.wgsl",
    "lib/quant_q2_k.wgsl",
    "lib/quant_q3_k.wgsl",
    "lib/quant_q4_0.wgsl",
    "lib/quant_q4_1.wgsl",
    "lib/quant_q4_k.wgsl",
    "lib/quant_q5_0.wgsl",
    "lib/quant_q5_1.wgsl",
    "lib/quant_q5_k.wgsl",
    "lib/quant_q6_k.wgsl",
    "lib/quant_q8_0.wgsl",
    "lib/rank.wgsl",
    "lib/reduce.wgsl",
    "lib/slot.wgsl",
    "lib/store8.wgsl",
    "lib/trig.wgsl",
    "attention.wgsl",
    "attention_combine.wgsl",
    "binary.wgsl",
    "conv2d_direct.wgsl",
    "conv2d_tile.wgsl",
    "copy.wgsl",
    "dequantize.wgsl",
    "gather.wgsl",
    "gather_blocks.wgsl",
    "glu.wgsl",
    "kv_write.wgsl",
    "kv_write_q8_0.wgsl",
    "matmul_tile.wgsl",
    "matmul_vec.wgsl",
    "norm.wgsl",
    "poke.wgsl",
    "quantize_q8_0.wgsl",
    "reduce.wgsl",
    "rope.wgsl",
    "softmax.wgsl",
    "top_k.wgsl",
    "unary.wgsl",
    "upsample.wgsl",
}
