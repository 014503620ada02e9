#include "gemv.cuh"
GEMV_Q(q5_0, Q5_0)
