// f32 activations with f32, f16 or bf16 weights.
#include "matmul_simt.cuh"
MATMUL_SIMT(f32_f32, float, float, 128, 128, 8, 8)
MATMUL_SIMT(f32_f32, float, float, 64, 64, 4, 4)
MATMUL_SIMT(f32_f16, float, f16, 64, 64, 4, 4)
MATMUL_SIMT(f32_bf16, float, bf16, 64, 64, 4, 4)
