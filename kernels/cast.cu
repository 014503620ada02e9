// Dense rows from one float type to another. A thread converts 8 elements.
#include "gm.cuh"

template <class S, class T>
GM_DEV void cast(const S* __restrict__ x, T* __restrict__ y, u32 rows, u32 cols, u64 ldx, u64 ldy) {
  const u32 lanes = gm_cdiv(cols, 8), idx = blockIdx.x * 256 + threadIdx.x;
  const u32 row = idx / lanes, at = (idx - row * lanes) * 8;
  if (row >= rows) return;
  const S* s = x + row * ldx + at;
  T* d = y + row * ldy + at;
  if (at + 8 <= cols && aligned16(x, ldx * sizeof(S)) && aligned16(y, ldy * sizeof(T))) {
    float v[8];
    load8(s, v); store8(d, v);
  } else {
    const u32 n = gm_min(8, cols - at);
    #pragma unroll 1
    for (u32 i = 0; i < n; i++) from_f32(to_f32(s[i]), d[i]);
  }
}
#define CAST(SN, S, TN, T) \
GM_KERNEL __launch_bounds__(256) gm_cast_##SN##_##TN(const S* __restrict__ x, T* __restrict__ y, u32 rows, u32 cols, u64 ldx, u64 ldy) \
{ cast<S, T>(x, y, rows, cols, ldx, ldy); }
CAST(f32, float, f16, f16)
CAST(f32, float, bf16, bf16)
CAST(f16, f16, f32, float)
CAST(f16, f16, bf16, bf16)
CAST(bf16, bf16, f32, float)
CAST(bf16, bf16, f16, f16)
