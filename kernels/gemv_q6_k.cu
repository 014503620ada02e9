#include "gemv.cuh"
GEMV_Q(q6_k, Q6_K)
