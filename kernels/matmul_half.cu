// f16 and bf16 on the FP32 units, for devices before compute capability 8.0.
#include "matmul_simt.cuh"
MATMUL_SIMT(f16_f16, f16, f16, 64, 64, 4, 4)
MATMUL_SIMT(bf16_bf16, bf16, bf16, 64, 64, 4, 4)
