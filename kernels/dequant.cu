// Block-quantized rows to dense rows. A thread writes two runs of 8 weights.
#include "quant.cuh"

template <class F, class T>
GM_DEV void dequant(const u8* __restrict__ w, T* __restrict__ y, u32 rows, u32 k, u64 w_row_bytes, u64 ldy) {
  const u32 lanes = k / 16, idx = blockIdx.x * 256 + threadIdx.x;
  const u32 row = idx / lanes, t = idx - row * lanes;
  if (row >= rows) return;
  const u32 sub = t & 1, u = t >> 1, block = u / F::UNITS, unit = u % F::UNITS;
  Codes<2> c;
  F::template load<2>(w + row * w_row_bytes + (u64)block * F::BYTES, unit, sub, c);
  const bool vec = aligned16(y, ldy * sizeof(T));
  #pragma unroll
  for (int r = 0; r < 2; r++) {
    float v[8];
    codes_f32<F, 2>(c.q[r], v);
    #pragma unroll
    for (int i = 0; i < 8; i++) v[i] = F::AFFINE ? c.s[r] * v[i] + c.m[r] : c.s[r] * v[i];
    T* p = y + row * ldy + (u64)block * F::BLOCK + F::run(unit, r) + sub * 8;
    if (vec) store8(p, v);
    else {
      #pragma unroll
      for (int i = 0; i < 8; i++) from_f32(v[i], p[i]);
    }
  }
}
#define DEQUANT1(NAME, F, OUT, T) \
GM_KERNEL __launch_bounds__(256) gm_dequant_##NAME##_##OUT(const u8* __restrict__ w, T* __restrict__ y, u32 rows, u32 k, u64 w_row_bytes, u64 ldy) \
{ dequant<F, T>(w, y, rows, k, w_row_bytes, ldy); }
#define DEQUANT(NAME, F) DEQUANT1(NAME, F, f32, float) DEQUANT1(NAME, F, f16, f16) DEQUANT1(NAME, F, bf16, bf16)
DEQUANT(q4_0, Q4_0)
DEQUANT(q4_1, Q4_1)
DEQUANT(q5_0, Q5_0)
DEQUANT(q8_0, Q8_0)
DEQUANT(q4_k, Q4_K)
DEQUANT(q6_k, Q6_K)
