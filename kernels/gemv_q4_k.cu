#include "gemv.cuh"
GEMV_Q(q4_k, Q4_K)
