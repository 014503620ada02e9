// matmul_simt.cuh: tiled matmul on the FP32 units, any element types, any sizes and alignments. 256 threads, tiles
// of BM x BN x 16, a thread owns TM x TN sums in blocks of 4 x 4. The next tile travels in registers meanwhile.
#pragma once
#include "matmul.cuh"
#define SIMT_THREADS 256
#define SIMT_BK 16

// Up to 4 consecutive elements; those at and after `valid` are 0 and not read. `vec`: the address is aligned to 4
// elements. Predicated loads without a branch leave NVRTC fewer merged values, whose numbering varies from run to run.
GM_DEV void load4z(const float* p, u32 valid, bool vec, float (&v)[4]) {
  const u32 whole = vec && valid >= 4 ? 1 : 0, one = whole ? 0 : valid;
  asm volatile("{\n.reg .pred w, a, b, c, d;\n"
    "setp.ne.u32 w, %5, 0;\nsetp.gt.u32 a, %6, 0;\nsetp.gt.u32 b, %6, 1;\nsetp.gt.u32 c, %6, 2;\nsetp.gt.u32 d, %6, 3;\n"
    "mov.f32 %0, 0f00000000;\nmov.f32 %1, 0f00000000;\nmov.f32 %2, 0f00000000;\nmov.f32 %3, 0f00000000;\n"
    "@w ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];\n"
    "@a ld.global.nc.f32 %0, [%4];\n@b ld.global.nc.f32 %1, [%4+4];\n@c ld.global.nc.f32 %2, [%4+8];\n@d ld.global.nc.f32 %3, [%4+12];\n}"
    // The outputs are written before the inputs are done with: safe, as registers of different types never coincide.
    : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3]) : "l"(p), "r"(whole), "r"(one));
}
template <class T> GM_DEV void load4z(const T* p, u32 valid, bool vec, float (&v)[4]) {
  const u32 whole = vec && valid >= 4 ? 1 : 0, one = whole ? 0 : valid;
  u16 h[4];
  asm volatile("{\n.reg .pred w, a, b, c, d;\n"
    "setp.ne.u32 w, %5, 0;\nsetp.gt.u32 a, %6, 0;\nsetp.gt.u32 b, %6, 1;\nsetp.gt.u32 c, %6, 2;\nsetp.gt.u32 d, %6, 3;\n"
    "mov.b16 %0, 0;\nmov.b16 %1, 0;\nmov.b16 %2, 0;\nmov.b16 %3, 0;\n"
    "@w ld.global.nc.v4.u16 {%0, %1, %2, %3}, [%4];\n"
    "@a ld.global.nc.u16 %0, [%4];\n@b ld.global.nc.u16 %1, [%4+2];\n@c ld.global.nc.u16 %2, [%4+4];\n@d ld.global.nc.u16 %3, [%4+6];\n}"
    : "=h"(h[0]), "=h"(h[1]), "=h"(h[2]), "=h"(h[3]) : "l"(p), "r"(whole), "r"(one));
  #pragma unroll
  for (int j = 0; j < 4; j++) { T t; t.bits = h[j]; v[j] = to_f32(t); }
}
template <class T> GM_DEV bool aligned4(const T* p, u64 ld, u64 bs) { return ((((u64)p) | ((ld | bs) * sizeof(T))) & (4 * sizeof(T) - 1)) == 0; }

template <class TA, class TB, int BM, int BN, int TM, int TN, bool NN>
GM_DEV void matmul_simt(MATMUL_PARAMS(TA, TB)) {
  constexpr int NA = BM * SIMT_BK / 4 / SIMT_THREADS, NB = BN * SIMT_BK / 4 / SIMT_THREADS, SA = BM + 4, SB = BN + 4, QM = BM / (TM / 4), QN = BN / (TN / 4);
  static_assert((BM / TM) * (BN / TN) == SIMT_THREADS && NA > 0 && NB > 0, "tile");
  constexpr int WORDS = SIMT_BK * (SA + SB) > QM * QN ? SIMT_BK * (SA + SB) : QM * QN;
  __shared__ __align__(16) float smem[WORDS];
  float *sa = smem, *sb = smem + SIMT_BK * SA;
  const u32 tid = threadIdx.x, tm = gm_cdiv(m, BM), tn = gm_cdiv(n, BN);
  u32 im, in; tile_of(blockIdx.x, tm, tn, im, in);
  const u32 m0 = im * BM, n0 = in * BN, tx = tid % (BN / TN), ty = tid / (BN / TN);
  const TA* a = A + blockIdx.z * bsa;
  const TB* b = B + blockIdx.z * bsb;
  const bool va = aligned4(A, lda, bsa), vb = aligned4(B, ldb, bsb);
  float pa[NA][4], pb[NB][4], acc[TM][TN];
  auto fetch = [&](u32 k0) {
    #pragma unroll
    for (int i = 0; i < NA; i++) {
      const u32 it = tid + i * SIMT_THREADS, r = m0 + it / 4, c = k0 + (it & 3) * 4;
      load4z(a + r * lda + c, r < m && c < k ? k - c : 0, va, pa[i]);
    }
    #pragma unroll
    for (int i = 0; i < NB; i++) {
      const u32 it = tid + i * SIMT_THREADS;
      if (NN) {
        const u32 r = k0 + it / (BN / 4), c = n0 + it % (BN / 4) * 4;
        load4z(b + r * ldb + c, r < k && c < n ? n - c : 0, vb, pb[i]);
      } else {
        const u32 r = n0 + it / 4, c = k0 + (it & 3) * 4;
        load4z(b + r * ldb + c, r < n && c < k ? k - c : 0, vb, pb[i]);
      }
    }
  };
  #pragma unroll
  for (int i = 0; i < TM; i++)
    #pragma unroll
    for (int j = 0; j < TN; j++) acc[i][j] = 0.0f;
  fetch(0);
  #pragma unroll 1
  for (u32 k0 = 0; k0 < k; k0 += SIMT_BK) {
    #pragma unroll
    for (int i = 0; i < NA; i++) {
      const u32 it = tid + i * SIMT_THREADS;
      #pragma unroll
      for (int j = 0; j < 4; j++) sa[((it & 3) * 4 + j) * SA + it / 4] = pa[i][j];
    }
    #pragma unroll
    for (int i = 0; i < NB; i++) {
      const u32 it = tid + i * SIMT_THREADS;
      #pragma unroll
      for (int j = 0; j < 4; j++) {
        if (NN) sb[it / (BN / 4) * SB + it % (BN / 4) * 4 + j] = pb[i][j];
        else sb[((it & 3) * 4 + j) * SB + it / 4] = pb[i][j];
      }
    }
    __syncthreads();
    if (k0 + SIMT_BK < k) fetch(k0 + SIMT_BK);
    #pragma unroll 4
    for (int kk = 0; kk < SIMT_BK; kk++) {
      float fa[TM], fb[TN];
      #pragma unroll
      for (int i = 0; i < TM; i += 4) { const f32x4 v = *(const f32x4*)(sa + kk * SA + (i / 4) * QM + ty * 4); fa[i] = v.x; fa[i + 1] = v.y; fa[i + 2] = v.z; fa[i + 3] = v.w; }
      #pragma unroll
      for (int j = 0; j < TN; j += 4) { const f32x4 v = *(const f32x4*)(sb + kk * SB + (j / 4) * QN + tx * 4); fb[j] = v.x; fb[j + 1] = v.y; fb[j + 2] = v.z; fb[j + 3] = v.w; }
      #pragma unroll
      for (int i = 0; i < TM; i++)
        #pragma unroll
        for (int j = 0; j < TN; j++) acc[i][j] += fa[i] * fb[j];
    }
    __syncthreads();
  }
  // One QM x QN block of the tile at a time through the shared memory of the operands.
  #pragma unroll
  for (int i = 0; i < TM; i += 4)
    #pragma unroll
    for (int j = 0; j < TN; j += 4) {
      #pragma unroll
      for (int r = 0; r < 4; r++) { const f32x4 v = {alpha * acc[i + r][j], alpha * acc[i + r][j + 1], alpha * acc[i + r][j + 2], alpha * acc[i + r][j + 3]}; *(f32x4*)(smem + (ty * 4 + r) * QN + tx * 4) = v; }
      __syncthreads();
      store_block<SIMT_THREADS, QM, QN>(smem, QN, C, m0 + (i / 4) * QM, n0 + (j / 4) * QN, m, n, ldc, bsc, bsg, bsr, GM_EPILOGUE_ARGS);
      __syncthreads();
    }
}
#define MATMUL_SIMT(NAME, TA, TB, BM, BN, TM, TN) \
GM_KERNEL __launch_bounds__(SIMT_THREADS) gm_matmul_##NAME##_nt_##BM##x##BN##_simt(MATMUL_PARAMS(TA, TB)) { matmul_simt<TA, TB, BM, BN, TM, TN, false>(MATMUL_ARGS); } \
GM_KERNEL __launch_bounds__(SIMT_THREADS) gm_matmul_##NAME##_nn_##BM##x##BN##_simt(MATMUL_PARAMS(TA, TB)) { matmul_simt<TA, TB, BM, BN, TM, TN, true>(MATMUL_ARGS); }
