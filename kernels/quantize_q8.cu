// Activations to 8 bits: per 32 values of a row, d = max|x| / 127 and q = round(x / d).
// Planes: xq i8[m][k]; xinfo {f32 d; i16 sum of q[0..16]; i16 sum of q[16..32]}[m][k / 32].
// A NaN in a block makes its d NaN, so it reaches the result.
#include "gm.cuh"

template <class T>
GM_DEV void quantize_q8(const T* __restrict__ x, i8* __restrict__ xq, u32x2* __restrict__ xinfo, u32 m, u32 k, u64 ldx) {
  const u32 blocks = k / 32, b = blockIdx.x * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  const u32 row = b / blocks, at = b - row * blocks;
  if (row >= m) return;
  const float v = to_f32(x[row * ldx + (u64)at * 32 + lane]);
  u32 amax = gm_bits(v) & 0x7fffffffu;      // as integers NaN > Inf > every number
  #pragma unroll
  for (int o = 16; o; o >>= 1) { const u32 t = __shfl_xor_sync(0xffffffffu, amax, o); amax = t > amax ? t : amax; }
  const float a = gm_float(amax), d = a / 127.0f;
  // Dividing instead of multiplying by 1/d: 1/d overflows for a subnormal d.
  const float t = amax == 0 ? 0.0f : v / d;
  i32 q; asm("cvt.rni.s32.f32 %0, %1;" : "=r"(q) : "f"(t));
  q = q > 127 ? 127 : q < -127 ? -127 : q;
  i32 sum = q;
  #pragma unroll
  for (int o = 8; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
  const i32 hi = __shfl_xor_sync(0xffffffffu, sum, 16);
  xq[(u64)row * k + (u64)at * 32 + lane] = (i8)q;
  if (lane == 0) { u32x2 i = {gm_bits(d), ((u32)sum & 0xffffu) | (u32)hi << 16}; xinfo[(u64)row * blocks + at] = i; }
}
#define QUANTIZE_Q8(NAME, T) \
GM_KERNEL __launch_bounds__(128) gm_quantize_q8_##NAME(const T* __restrict__ x, i8* __restrict__ xq, u32x2* __restrict__ xinfo, u32 m, u32 k, u64 ldx) \
{ quantize_q8<T>(x, xq, xinfo, m, k, ldx); }
QUANTIZE_Q8(f32, float)
QUANTIZE_Q8(f16, f16)
QUANTIZE_Q8(bf16, bf16)
