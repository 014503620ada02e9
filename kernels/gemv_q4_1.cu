#include "gemv.cuh"
GEMV_Q(q4_1, Q4_1)
