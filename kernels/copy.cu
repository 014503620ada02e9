// Strided copies: element i of the row-major index space of up to 6 axes goes from its place in x to its place in y.
// Axis 0 is the outermost; strides count elements and may be 0 in x. One thread an element, neighbours along the
// last axis.
#include "gm.cuh"

struct raw8 { u8 v; };
struct raw16 { u16 v; };
struct raw32 { u32 v; };
struct raw64 { u64 v; };
template <class S, class T> GM_DEV void convert(S s, T& t) { from_f32(to_f32(s), t); }
// One type on both sides: the bits as they are, so that no NaN changes.
GM_DEV void convert(raw8 s, raw8& t) { t = s; }
GM_DEV void convert(raw16 s, raw16& t) { t = s; }
GM_DEV void convert(raw32 s, raw32& t) { t = s; }
GM_DEV void convert(raw64 s, raw64& t) { t = s; }

#define COPY(NAME, S, T) \
GM_KERNEL __launch_bounds__(256) gm_copy_##NAME(const S* x, T* y, u32 n, u32 d1, u32 d2, u32 d3, u32 d4, u32 d5, \
  u64 x0, u64 x1, u64 x2, u64 x3, u64 x4, u64 x5, u64 y0, u64 y1, u64 y2, u64 y3, u64 y4, u64 y5) { \
  u32 i = blockIdx.x * 256 + threadIdx.x; \
  if (i >= n) return; \
  u32 q; u64 ax, ay; \
  q = i / d5; i -= q * d5; ax = i * x5; ay = i * y5; i = q; \
  q = i / d4; i -= q * d4; ax += i * x4; ay += i * y4; i = q; \
  q = i / d3; i -= q * d3; ax += i * x3; ay += i * y3; i = q; \
  q = i / d2; i -= q * d2; ax += i * x2; ay += i * y2; i = q; \
  q = i / d1; i -= q * d1; ax += i * x1; ay += i * y1; i = q; \
  ax += i * x0; ay += i * y0; \
  T t; convert(x[ax], t); y[ay] = t; \
}
COPY(f32_f16, float, f16)
COPY(f32_bf16, float, bf16)
COPY(f16_f32, f16, float)
COPY(f16_bf16, f16, bf16)
COPY(bf16_f32, bf16, float)
COPY(bf16_f16, bf16, f16)
COPY(raw8, raw8, raw8)
COPY(raw16, raw16, raw16)
COPY(raw32, raw32, raw32)
COPY(raw64, raw64, raw64)
