// matmul.cuh: what the tiled matmuls share: C[m, n] = epilogue(A[m, k] . B) per batch entry, B as [n, k] ("nt",
// weights as stored) or [k, n] ("nn"). Leading dimensions and batch strides count elements; a batch stride of 0
// broadcasts. grid.x = tiles of m times tiles of n, grid.z = batch.
#pragma once
#include "gm.cuh"

#define MATMUL_PARAMS(TA, TB) \
  const TA* __restrict__ A, const TB* __restrict__ B, void* C, u32 m, u32 n, u32 k, u64 lda, u64 ldb, u64 ldc, \
  u64 bsa, u64 bsb, u64 bsc, u64 bsg, u64 bsr, GM_EPILOGUE_PARAMS
#define MATMUL_ARGS A, B, C, m, n, k, lda, ldb, ldc, bsa, bsb, bsc, bsg, bsr, GM_EPILOGUE_ARGS

// Tiles in bands of 8 tile rows, so that CTAs that run together share rows of A and of B in L2.
GM_DEV void tile_of(u32 id, u32 tm, u32 tn, u32& im, u32& in) {
  const u32 band = id / (8 * tn), first = band * 8, h = gm_min(8, tm - first), at = id - band * 8 * tn;
  im = first + at % h; in = at / h;
}

// A finished block of ROWS x COLS sums (already times alpha) in shared memory to C at (row0, col0). A thread takes two
// columns; the loop stays rolled, and the activation is a pass of its own, so that its code is there once.
template <int THREADS, int ROWS, int COLS>
GM_DEV void store_block(float* s, u32 stride, void* C, u32 row0, u32 col0, u32 m, u32 n, u64 ldc, u64 bsc, u64 bsg, u64 bsr, GM_EPILOGUE_PARAMS) {
  const u64 z = blockIdx.z;
  const u32 ty = GM_TYPE_Y(types), size = ty == GM_T_F32 ? 4 : 2;
  if (bias || act) {
    #pragma unroll 1
    for (u32 i = threadIdx.x; i < ROWS * COLS; i += THREADS) {
      const u32 at = i / COLS * stride + i % COLS, col = col0 + i % COLS;
      const float b = bias && col < n ? ld_typed(bias, col, GM_TYPE_BIAS(types)) : 0.0f;
      s[at] = gm_act(s[at] + b, act);
    }
    __syncthreads();
  }
  u8* c = (u8*)C + z * bsc * size;
  const bool pair = ((((u64)c) | (ldc * size)) & (2 * size - 1)) == 0;
  #pragma unroll 1
  for (u32 i = threadIdx.x; i < ROWS * COLS / 2; i += THREADS) {
    const u32 lr = i / (COLS / 2), lc = i % (COLS / 2) * 2, row = row0 + lr, col = col0 + lc;
    if (row >= m || col >= n) continue;
    const bool two = col + 1 < n;
    float a = s[lr * stride + lc], b = s[lr * stride + lc + 1];
    if (gate) {
      const u64 g = z * bsg + row * ldg + col;
      a *= ld_typed(gate, g, GM_TYPE_GATE(types)); if (two) b *= ld_typed(gate, g + 1, GM_TYPE_GATE(types));
    }
    if (res) {
      const u64 r = z * bsr + row * ldr + col;
      a += ld_typed(res, r, GM_TYPE_RES(types)); if (two) b += ld_typed(res, r + 1, GM_TYPE_RES(types));
    }
    const u64 at = row * ldc + col;
    if (two && pair) {
      if (ty == GM_T_F32) { u32x2 v = {gm_bits(a), gm_bits(b)}; *(u32x2*)(c + at * 4) = v; }
      else *(u32*)(c + at * 2) = ty == GM_T_F16 ? pack2(a, b, f16()) : pack2(a, b, bf16());
    } else { st_typed(c, at, ty, a); if (two) st_typed(c, at + 1, ty, b); }
  }
}
