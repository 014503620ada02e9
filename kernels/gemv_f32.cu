#include "gemv.cuh"
GEMV_DENSE(f32, float)
