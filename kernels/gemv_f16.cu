#include "gemv.cuh"
GEMV_DENSE(f16, f16)
