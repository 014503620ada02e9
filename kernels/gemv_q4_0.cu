#include "gemv.cuh"
GEMV_Q(q4_0, Q4_0)
