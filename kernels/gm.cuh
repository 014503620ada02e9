// gm.cuh: the device prelude of every kernel. It includes nothing, so NVRTC needs no include path to a
// toolkit and no vendor header takes part in the build.
#pragma once
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef int i32;
// Not `static`: internal linkage would put a file hash into the names of shared arrays.
#define GM_DEV __device__ __forceinline__
#define GM_KERNEL extern "C" __global__ void

struct __align__(8) u32x2 { u32 x, y; };
struct __align__(16) u32x4 { u32 x, y, z, w; };
struct __align__(16) f32x4 { float x, y, z, w; };
// Storage types: distinct structs, so that overloads pick the conversion.
struct f16 { u16 bits; };
struct bf16 { u16 bits; };

GM_DEV u32 gm_min(u32 a, u32 b) { return a < b ? a : b; }
GM_DEV u32 gm_cdiv(u32 a, u32 b) { return (a + b - 1) / b; }
GM_DEV u32 gm_bits(float f) { return __float_as_uint(f); }
GM_DEV float gm_float(u32 u) { return __uint_as_float(u); }

// ---- scalar conversions: round to nearest even, NaN stays NaN ------------------------------------------
GM_DEV float f16_bits_to_f32(u16 h) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h)); return f; }
GM_DEV u16 f32_to_f16_bits(float f) { u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h; }
GM_DEV u16 f32_to_bf16_bits(float f) {
  const u32 u = gm_bits(f);
  const u32 r = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return (u16)((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : r);
}
GM_DEV float to_f32(float v) { return v; }
GM_DEV float to_f32(f16 v) { return f16_bits_to_f32(v.bits); }
GM_DEV float to_f32(bf16 v) { return gm_float((u32)v.bits << 16); }
GM_DEV void from_f32(float f, float& v) { v = f; }
GM_DEV void from_f32(float f, f16& v) { v.bits = f32_to_f16_bits(f); }
GM_DEV void from_f32(float f, bf16& v) { v.bits = f32_to_bf16_bits(f); }
// Two values in one word, the first in the low half.
GM_DEV u32 pack2(float a, float b, f16) { return (u32)f32_to_f16_bits(a) | ((u32)f32_to_f16_bits(b) << 16); }
GM_DEV u32 pack2(float a, float b, bf16) {
#if __CUDA_ARCH__ >= 800
  u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a)); return r;
#else
  return (u32)f32_to_bf16_bits(a) | ((u32)f32_to_bf16_bits(b) << 16);
#endif
}
GM_DEV void unpack2(u32 v, float& a, float& b, f16) { a = f16_bits_to_f32((u16)v); b = f16_bits_to_f32((u16)(v >> 16)); }
GM_DEV void unpack2(u32 v, float& a, float& b, bf16) { a = gm_float(v << 16); b = gm_float(v & 0xffff0000u); }

// ---- groups of 8 consecutive elements ------------------------------------------------------------------
// The address must be a multiple of 16 bytes.
GM_DEV void load8(const float* p, float (&v)[8]) {
  const f32x4 a = ((const f32x4*)p)[0], b = ((const f32x4*)p)[1];
  v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w; v[4] = b.x; v[5] = b.y; v[6] = b.z; v[7] = b.w;
}
template <class T> GM_DEV void load8(const T* p, float (&v)[8]) {
  const u32x4 a = *(const u32x4*)p;
  unpack2(a.x, v[0], v[1], T()); unpack2(a.y, v[2], v[3], T()); unpack2(a.z, v[4], v[5], T()); unpack2(a.w, v[6], v[7], T());
}
GM_DEV void store8(float* p, const float (&v)[8]) {
  f32x4 a = {v[0], v[1], v[2], v[3]}, b = {v[4], v[5], v[6], v[7]};
  ((f32x4*)p)[0] = a; ((f32x4*)p)[1] = b;
}
template <class T> GM_DEV void store8(T* p, const float (&v)[8]) {
  u32x4 a = {pack2(v[0], v[1], T()), pack2(v[2], v[3], T()), pack2(v[4], v[5], T()), pack2(v[6], v[7], T())};
  *(u32x4*)p = a;
}
GM_DEV bool aligned16(const void* p, u64 stride_bytes) { return ((((u64)p) | stride_bytes) & 15) == 0; }
// Four floats; `vec` says that the address is a multiple of 16 bytes.
GM_DEV void load4(const float* p, bool vec, float (&v)[4]) {
  if (vec) { const f32x4 a = *(const f32x4*)p; v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w; }
  else { v[0] = p[0]; v[1] = p[1]; v[2] = p[2]; v[3] = p[3]; }
}

// ---- integer helpers -----------------------------------------------------------------------------------
GM_DEV u32 prmt(u32 a, u32 b, u32 sel) { u32 r; asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(sel)); return r; }
GM_DEV u32 funnel_r(u32 lo, u32 hi, u32 sh) { u32 r; asm("shf.r.wrap.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(lo), "r"(hi), "r"(sh)); return r; }
GM_DEV i32 dp4a_uu_s(u32 a, u32 b, i32 c) { i32 d; asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c)); return d; }
GM_DEV i32 dp4a_ss(u32 a, u32 b, i32 c) { i32 d; asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c)); return d; }
// Byte `j` of `v` as a float plus 2^23: no int-to-float conversion, which runs at a quarter of the rate.
template <int J> GM_DEV float byte_plus_2p23(u32 v) { return gm_float(prmt(v, 0x4b000000u, 0x7440u | J)); }

// ---- reductions ----------------------------------------------------------------------------------------
GM_DEV float warp_sum(float v) {
  #pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

// ---- operands whose type is known at run time ------------------------------------------------------------
#define GM_T_F32 0
#define GM_T_F16 1
#define GM_T_BF16 2
GM_DEV float ld_typed(const void* p, u64 i, u32 type) {
  if (type == GM_T_F32) return ((const float*)p)[i];
  const u16 h = ((const u16*)p)[i];
  return type == GM_T_F16 ? f16_bits_to_f32(h) : gm_float((u32)h << 16);
}
GM_DEV void st_typed(void* p, u64 i, u32 type, float v) {
  if (type == GM_T_F32) ((float*)p)[i] = v;
  else ((u16*)p)[i] = type == GM_T_F16 ? f32_to_f16_bits(v) : f32_to_bf16_bits(v);
}

// ---- epilogue: y = act(alpha * acc + bias[n]) * gate + residual ------------------------------------------
// bias, gate and res may be null. `types` holds four bits each for y, bias, gate and res, from the lowest. res may be
// y itself (accumulation): a thread reads a place before it writes it.
#define GM_EPILOGUE_PARAMS const void* bias, const void* gate, const void* res, u64 ldg, u64 ldr, float alpha, u32 act, u32 types
#define GM_EPILOGUE_ARGS bias, gate, res, ldg, ldr, alpha, act, types
#define GM_TYPE_Y(types) ((types) & 15u)
#define GM_TYPE_BIAS(types) ((types) >> 4 & 15u)
#define GM_TYPE_GATE(types) ((types) >> 8 & 15u)
#define GM_TYPE_RES(types) ((types) >> 12 & 15u)
#define GM_ACT_NONE 0
#define GM_ACT_RELU 1
#define GM_ACT_SILU 2
#define GM_ACT_GELU_TANH 3
#define GM_ACT_GELU_ERF 4
#define GM_ACT_GELU_QUICK 5
#define GM_ACT_SIGMOID 6
#define GM_ACT_TANH 7
#define GM_ACT_RELU_SQUARED 8
GM_DEV float gm_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
GM_DEV float gm_act(float x, u32 act) {
  switch (act) {
    case GM_ACT_RELU: return x < 0.0f ? 0.0f : x;
    case GM_ACT_RELU_SQUARED: return x < 0.0f ? 0.0f : x * x;
    case GM_ACT_SILU: return x / (1.0f + expf(-x));
    // 0.5 x (1 + tanh u) = x / (1 + exp(-2u))
    case GM_ACT_GELU_TANH: return x / (1.0f + expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
    case GM_ACT_GELU_ERF: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case GM_ACT_GELU_QUICK: return x / (1.0f + expf(-1.702f * x));
    case GM_ACT_SIGMOID: return gm_sigmoid(x);
    case GM_ACT_TANH: return tanhf(x);
    default: return x;
  }
}

// ---- shared memory, tensor cores (compute capability 8.0 and later) --------------------------------------
GM_DEV u32 smem_u32(const void* p) { return (u32)__cvta_generic_to_shared(p); }
#if __CUDA_ARCH__ >= 800
GM_DEV void ldsm_x4(u32& a, u32& b, u32& c, u32& d, u32 addr) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(addr) : "memory");
}
// Each 8 x 8 matrix transposed on the way.
GM_DEV void ldsm_x4_t(u32& a, u32& b, u32& c, u32& d, u32 addr) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(addr) : "memory");
}
GM_DEV void mma16816(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], bf16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
GM_DEV void mma16816(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2], f16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// 16 bytes to shared memory, of which the first `bytes` are read and the rest are zero.
GM_DEV void cp_async16(u32 dst, const void* src, u32 bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" :: "r"(dst), "l"(src), "r"(bytes) : "memory");
}
GM_DEV void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> GM_DEV void cp_async_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }
#endif
