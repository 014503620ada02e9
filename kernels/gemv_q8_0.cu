#include "gemv.cuh"
GEMV_Q(q8_0, Q8_0)
