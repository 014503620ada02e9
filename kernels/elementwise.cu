// y = act(scale * a + offset) op b over the row-major index space of up to 6 axes, types known at run time. Axis 0 is
// the outermost; strides count elements and may be 0 in a and b. One thread an element, neighbours along the last axis.
// y may be a or b itself: a thread reads its places before it writes.
#include "gm.cuh"

#define GM_OP_FIRST 0
#define GM_OP_ADD 1
#define GM_OP_SUB 2
#define GM_OP_MUL 3
#define GM_OP_DIV 4
#define GM_OP_MAX 5
#define GM_OP_MIN 6
#define GM_ACT_SOFTPLUS 9
#define GM_ACT_EXP 10
#define GM_ACT_LOG 11
#define GM_ACT_NEG 12
#define GM_ACT_ABS 13
#define GM_ACT_SQUARE 14
#define GM_ACT_SQRT 15
#define GM_ACT_RSQRT 16
#define GM_ACT_RECIP 17

GM_DEV float act_any(float x, u32 act) {
  switch (act) {
    // Beyond 20 the summand 1 is below half a unit in the last place of e^x.
    case GM_ACT_SOFTPLUS: return x > 20.0f ? x : log1pf(expf(x));
    case GM_ACT_EXP: return expf(x);
    case GM_ACT_LOG: return logf(x);
    case GM_ACT_NEG: return -x;
    case GM_ACT_ABS: return fabsf(x);
    case GM_ACT_SQUARE: return x * x;
    case GM_ACT_SQRT: return sqrtf(x);
    case GM_ACT_RSQRT: return 1.0f / sqrtf(x);
    case GM_ACT_RECIP: return 1.0f / x;
    default: return gm_act(x, act);
  }
}
GM_DEV float combine(float a, float b, u32 op) {
  switch (op) {
    case GM_OP_ADD: return a + b;
    case GM_OP_SUB: return a - b;
    case GM_OP_MUL: return a * b;
    case GM_OP_DIV: return a / b;
    case GM_OP_MAX: return a != a || a > b ? a : b;
    default: return a != a || a < b ? a : b;
  }
}
GM_DEV void element(const void* a, const void* b, void* y, u64 ia, u64 ib, u64 iy, u32 op, u32 act, u32 affine, float scale, float offset, u32 types) {
  float v = ld_typed(a, ia, types & 15u);
  if (affine) v = scale * v + offset;
  v = act_any(v, act);
  if (op) v = combine(v, ld_typed(b, ib, types >> 4 & 15u), op);
  st_typed(y, iy, types >> 8 & 15u, v);
}
#define ELEMENT_PARAMS u32 op, u32 act, u32 affine, float scale, float offset, u32 types
#define ELEMENT_ARGS op, act, affine, scale, offset, types

// One axis, two axes, up to six: the first spare the divisions.
GM_KERNEL __launch_bounds__(256) gm_elementwise_1(const void* a, const void* b, void* y, u32 n, u64 a0, u64 b0, u64 y0, ELEMENT_PARAMS) {
  const u32 i = blockIdx.x * 256 + threadIdx.x;
  if (i < n) element(a, b, y, i * a0, i * b0, i * y0, ELEMENT_ARGS);
}
GM_KERNEL __launch_bounds__(256) gm_elementwise_2(const void* a, const void* b, void* y, u32 n, u32 d1, u64 a0, u64 a1, u64 b0, u64 b1, u64 y0, u64 y1, ELEMENT_PARAMS) {
  const u32 i = blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  const u32 r = i / d1, c = i - r * d1;
  element(a, b, y, r * a0 + c * a1, r * b0 + c * b1, r * y0 + c * y1, ELEMENT_ARGS);
}
GM_KERNEL __launch_bounds__(256) gm_elementwise_6(const void* a, const void* b, void* y, u32 n, u32 d1, u32 d2, u32 d3, u32 d4, u32 d5,
  u64 a0, u64 a1, u64 a2, u64 a3, u64 a4, u64 a5, u64 b0, u64 b1, u64 b2, u64 b3, u64 b4, u64 b5, u64 y0, u64 y1, u64 y2, u64 y3, u64 y4, u64 y5, ELEMENT_PARAMS) {
  u32 i = blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  u32 q; u64 ia, ib, iy;
  q = i / d5; i -= q * d5; ia = i * a5; ib = i * b5; iy = i * y5; i = q;
  q = i / d4; i -= q * d4; ia += i * a4; ib += i * b4; iy += i * y4; i = q;
  q = i / d3; i -= q * d3; ia += i * a3; ib += i * b3; iy += i * y3; i = q;
  q = i / d2; i -= q * d2; ia += i * a2; ib += i * b2; iy += i * y2; i = q;
  q = i / d1; i -= q * d1; ia += i * a1; ib += i * b1; iy += i * y1; i = q;
  element(a, b, y, ia + i * a0, ib + i * b0, iy + i * y0, ELEMENT_ARGS);
}
