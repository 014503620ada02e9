// matmul.cuh: what the tiled matmuls share: C[m, n] = epilogue(A[m, k] . B) per batch entry, B as [n, k] ("nt",
// weights as stored) or [k, n] ("nn"). Leading dimensions and batch strides count elements; a batch stride of 0
// broadcasts. grid.x = tiles of m times tiles of n, grid.z = batch.
#pragma once
#include "gm.cuh"

#define MATMUL_PARAMS(TA, TB) \
  const TA* __restrict__ A, const TB* __restrict__ B, void* C, const float* bias, const void* res, u32 m, u32 n, u32 k, \
  u64 lda, u64 ldb, u64 ldc, u64 ldr, u64 bsa, u64 bsb, u64 bsc, u64 bsr, float alpha, u32 act, u32 c_f32
#define MATMUL_ARGS A, B, C, bias, res, m, n, k, lda, ldb, ldc, ldr, bsa, bsb, bsc, bsr, alpha, act, c_f32

// Tiles in bands of 8 tile rows, so that CTAs that run together share rows of A and of B in L2.
GM_DEV void tile_of(u32 id, u32 tm, u32 tn, u32& im, u32& in) {
  const u32 band = id / (8 * tn), first = band * 8, h = gm_min(8, tm - first), at = id - band * 8 * tn;
  im = first + at % h; in = at / h;
}

// A finished block of ROWS x COLS sums (already times alpha) in shared memory to C at (row0, col0). Rolled loops, and
// bias and activation in a pass of their own, so that the activation is in the code once and not once per sum.
template <int THREADS, int ROWS, int COLS>
GM_DEV void finish_block(float* s, u32 stride, const float* bias, u32 col0, u32 n, u32 act) {
  if (!bias && !act) return;
  #pragma unroll 1
  for (u32 i = threadIdx.x; i < ROWS * COLS; i += THREADS) {
    const u32 lr = i / COLS, lc = i % COLS, col = col0 + lc;
    float v = s[lr * stride + lc];
    if (bias && col < n) v += bias[col];
    s[lr * stride + lc] = gm_act(v, act);
  }
  __syncthreads();
}
template <int THREADS, int ROWS, int COLS, class T>
GM_DEV void store_block_as(const float* s, u32 stride, T* c, const T* res, u32 row0, u32 col0, u32 m, u32 n, u64 ldc, u64 ldr) {
  const bool pair = ((((u64)c) | (ldc * sizeof(T))) & (2 * sizeof(T) - 1)) == 0;
  #pragma unroll 1
  for (u32 i = threadIdx.x; i < ROWS * COLS / 2; i += THREADS) {
    const u32 lr = i / (COLS / 2), lc = i % (COLS / 2) * 2, row = row0 + lr, col = col0 + lc;
    if (row >= m || col >= n) continue;
    const bool two = col + 1 < n;
    float a = s[lr * stride + lc], b = s[lr * stride + lc + 1];
    if (res) { const T* p = res + row * ldr + col; a += to_f32(p[0]); if (two) b += to_f32(p[1]); }
    T* p = c + row * ldc + col;
    T va, vb; from_f32(a, va); from_f32(b, vb);
    struct __align__(2 * sizeof(T)) Two { T a, b; } v = {va, vb};
    if (two && pair) *(Two*)p = v; else { p[0] = va; if (two) p[1] = vb; }
  }
}
template <int THREADS, int ROWS, int COLS, class T>
GM_DEV void store_block(float* s, u32 stride, void* C, const float* bias, const void* res, u32 row0, u32 col0, u32 m, u32 n, u64 ldc, u64 ldr, u64 bsc, u64 bsr, u32 act, u32 c_f32, T) {
  const u64 z = blockIdx.z;
  finish_block<THREADS, ROWS, COLS>(s, stride, bias, col0, n, act);
  if (c_f32) store_block_as<THREADS, ROWS, COLS, float>(s, stride, (float*)C + z * bsc, res ? (const float*)res + z * bsr : 0, row0, col0, m, n, ldc, ldr);
  else store_block_as<THREADS, ROWS, COLS, T>(s, stride, (T*)C + z * bsc, res ? (const T*)res + z * bsr : 0, row0, col0, m, n, ldc, ldr);
}
// A type whose only result type is f32.
template <int THREADS, int ROWS, int COLS>
GM_DEV void store_block(float* s, u32 stride, void* C, const float* bias, const void* res, u32 row0, u32 col0, u32 m, u32 n, u64 ldc, u64 ldr, u64 bsc, u64 bsr, u32 act, u32, float) {
  const u64 z = blockIdx.z;
  finish_block<THREADS, ROWS, COLS>(s, stride, bias, col0, n, act);
  store_block_as<THREADS, ROWS, COLS, float>(s, stride, (float*)C + z * bsc, res ? (const float*)res + z * bsr : 0, row0, col0, m, n, ldc, ldr);
}
