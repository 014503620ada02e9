#include "gemv.cuh"
GEMV_DENSE(bf16, bf16)
