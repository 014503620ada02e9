// gemv.cuh: y[m, n] = epilogue(x[m, k] . w[n, k]^T) for few rows of x. A CTA of 4 warps owns R rows of w and
// M rows of x (grid.x over n, grid.y over m) and splits k over its 128 lanes, so small n still fills the device.
// The order of every sum is fixed by the launch: same bits on every run.
#pragma once
#include "quant.cuh"
#define GEMV_THREADS 128
// CTAs an SM must hold: 64, 80 and 128 registers a thread. Left to itself ptxas aims lower and spills.
#define GEMV_CTAS(M) (M == 1 ? 8 : M == 2 ? 6 : 4)

template <int R, int M>
GM_DEV void gemv_finish(float (&acc)[R][M], void* y, u32 m, u32 n, u64 ldy, GM_EPILOGUE_PARAMS) {
  __shared__ float red[GEMV_THREADS / 32][R * M];
  const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  #pragma unroll
  for (int r = 0; r < R; r++)
    #pragma unroll
    for (int i = 0; i < M; i++) {
      const float s = warp_sum(acc[r][i]);
      if (lane == 0) red[warp][r * M + i] = s;
    }
  __syncthreads();
  if (threadIdx.x >= R * M) return;
  const u32 t = threadIdx.x, row = blockIdx.x * R + t / M, col = blockIdx.y * M + t % M;
  if (row >= n || col >= m) return;
  float s = 0.0f;
  #pragma unroll
  for (int w = 0; w < GEMV_THREADS / 32; w++) s += red[w][t];
  s = alpha * s;
  if (bias) s += ld_typed(bias, row, GM_TYPE_BIAS(types));
  s = gm_act(s, act);
  if (gate) s *= ld_typed(gate, col * ldg + row, GM_TYPE_GATE(types));
  if (res) s += ld_typed(res, col * ldr + row, GM_TYPE_RES(types));
  st_typed(y, col * ldy + row, GM_TYPE_Y(types), s);
}

// Quantized weights, activations in f32: a lane takes 8 weights at a time, so that a warp reads x in whole lines.
template <class F, int R, int M>
GM_DEV void gemv_q_f32(const u8* __restrict__ w, const float* __restrict__ x, void* y, u64 w_row_bytes, u32 m, u32 n, u32 k, u64 ldx, u64 ldy, GM_EPILOGUE_PARAMS) {
  const u32 row0 = blockIdx.x * R, m0 = blockIdx.y * M, lanes = k / 8;
  const bool vec = aligned16(x, ldx * 4);
  const u8* wr[R];
  const float* xr[M];
  float acc[R][M];
  #pragma unroll
  for (int r = 0; r < R; r++) wr[r] = w + gm_min(row0 + r, n - 1) * w_row_bytes;
  #pragma unroll
  for (int i = 0; i < M; i++) xr[i] = x + gm_min(m0 + i, m - 1) * ldx;
  #pragma unroll
  for (int r = 0; r < R; r++)
    #pragma unroll
    for (int i = 0; i < M; i++) acc[r][i] = 0.0f;
  #pragma unroll (M <= 2 ? 2 : 1)
  for (u32 t = threadIdx.x; t < lanes; t += GEMV_THREADS) {
    const u32 sub = t & 3, u = t >> 2, block = u / F::UNITS, unit = u % F::UNITS;
    float wf[R][2][4], s[R][2];
    #pragma unroll
    for (int r = 0; r < R; r++) {
      Codes<1> c;
      F::template load<1>(wr[r] + (u64)block * F::BYTES, unit, sub, c);
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        codes_f32<F, 1>(c.q[h], wf[r][h]);
        s[r][h] = c.s[h];
        if (F::AFFINE) {
          #pragma unroll
          for (int j = 0; j < 4; j++) wf[r][h][j] = c.s[h] * wf[r][h][j] + c.m[h];
        }
      }
    }
    const u32 at0 = block * F::BLOCK + F::run(unit, 0) + sub * 4, at1 = block * F::BLOCK + F::run(unit, 1) + sub * 4;
    #pragma unroll
    for (int i = 0; i < M; i++) {
      float x0[4], x1[4];
      load4(xr[i] + at0, vec, x0); load4(xr[i] + at1, vec, x1);
      #pragma unroll
      for (int r = 0; r < R; r++) {
        float p = wf[r][0][0] * x0[0], q = wf[r][1][0] * x1[0];
        #pragma unroll
        for (int j = 1; j < 4; j++) { p += wf[r][0][j] * x0[j]; q += wf[r][1][j] * x1[j]; }
        if (F::AFFINE) acc[r][i] += p + q; else acc[r][i] += s[r][0] * p + s[r][1] * q;
      }
    }
  }
  gemv_finish<R, M>(acc, y, m, n, ldy, GM_EPILOGUE_ARGS);
}

// Quantized weights, activations in 8 bits (planes of quantize_q8.cu): a lane takes a unit of 32 weights.
template <class F, int R, int M>
GM_DEV void gemv_q_q8(const u8* __restrict__ w, const i8* __restrict__ xq, const u32x2* __restrict__ xinfo, void* y, u64 w_row_bytes, u32 m, u32 n, u32 k, u64 ldy, GM_EPILOGUE_PARAMS) {
  const u32 row0 = blockIdx.x * R, m0 = blockIdx.y * M, units = k / 32;
  const u8* wr[R];
  u32 xrow[M];
  float acc[R][M];
  #pragma unroll
  for (int r = 0; r < R; r++) wr[r] = w + gm_min(row0 + r, n - 1) * w_row_bytes;
  #pragma unroll
  for (int i = 0; i < M; i++) xrow[i] = gm_min(m0 + i, m - 1);
  #pragma unroll
  for (int r = 0; r < R; r++)
    #pragma unroll
    for (int i = 0; i < M; i++) acc[r][i] = 0.0f;
  #pragma unroll 1
  for (u32 t = threadIdx.x; t < units; t += GEMV_THREADS) {
    const u32 block = t / F::UNITS, unit = t % F::UNITS;
    Codes<4> c[R];
    #pragma unroll
    for (int r = 0; r < R; r++) F::template load<4>(wr[r] + (u64)block * F::BYTES, unit, 0, c[r]);
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      const u32 at = block * F::BLOCK + F::run(unit, h);
      #pragma unroll
      for (int i = 0; i < M; i++) {
        const u32x4 xv = *(const u32x4*)(xq + (u64)xrow[i] * k + at);
        const u32x2 info = xinfo[(u64)xrow[i] * (k / 32) + at / 32];
        const i32 sum = at & 16 ? (i32)info.y >> 16 : (i32)(info.y << 16) >> 16;
        const float d = gm_float(info.x);
        #pragma unroll
        for (int r = 0; r < R; r++) {
          i32 p;
          if (F::SIGNED) p = dp4a_ss(c[r].q[h][3], xv.w, dp4a_ss(c[r].q[h][2], xv.z, dp4a_ss(c[r].q[h][1], xv.y, dp4a_ss(c[r].q[h][0], xv.x, 0))));
          else p = dp4a_uu_s(c[r].q[h][3], xv.w, dp4a_uu_s(c[r].q[h][2], xv.z, dp4a_uu_s(c[r].q[h][1], xv.y, dp4a_uu_s(c[r].q[h][0], xv.x, 0))));
          p -= F::ZERO * sum;
          float v = c[r].s[h] * (float)p;
          if (F::AFFINE) v += c[r].m[h] * (float)sum;
          acc[r][i] += d * v;
        }
      }
    }
  }
  gemv_finish<R, M>(acc, y, m, n, ldy, GM_EPILOGUE_ARGS);
}

// Dense weights, activations in f32. 16-byte loads where the rows allow them, one element at a time for the rest.
template <class T, int R, int M>
GM_DEV void gemv_dense(const T* __restrict__ w, const float* __restrict__ x, void* y, u64 ldw, u32 m, u32 n, u32 k, u64 ldx, u64 ldy, GM_EPILOGUE_PARAMS) {
  const u32 row0 = blockIdx.x * R, m0 = blockIdx.y * M;
  const bool vec = aligned16(x, ldx * 4) && aligned16(w, ldw * sizeof(T));
  const u32 kv = vec ? k & ~7u : 0;
  const T* wr[R];
  const float* xr[M];
  float acc[R][M];
  #pragma unroll
  for (int r = 0; r < R; r++) wr[r] = w + gm_min(row0 + r, n - 1) * ldw;
  #pragma unroll
  for (int i = 0; i < M; i++) xr[i] = x + gm_min(m0 + i, m - 1) * ldx;
  #pragma unroll
  for (int r = 0; r < R; r++)
    #pragma unroll
    for (int i = 0; i < M; i++) acc[r][i] = 0.0f;
  #pragma unroll 1
  for (u32 at = threadIdx.x * 8; at < kv; at += GEMV_THREADS * 8) {
    float wf[R][8];
    #pragma unroll
    for (int r = 0; r < R; r++) load8(wr[r] + at, wf[r]);
    #pragma unroll
    for (int i = 0; i < M; i++) {
      float xv[8];
      load8(xr[i] + at, xv);
      #pragma unroll
      for (int r = 0; r < R; r++)
        #pragma unroll
        for (int j = 0; j < 8; j++) acc[r][i] += wf[r][j] * xv[j];
    }
  }
  #pragma unroll 1
  for (u32 at = kv + threadIdx.x; at < k; at += GEMV_THREADS) {
    #pragma unroll
    for (int r = 0; r < R; r++) {
      const float wv = to_f32(wr[r][at]);
      #pragma unroll
      for (int i = 0; i < M; i++) acc[r][i] += wv * xr[i][at];
    }
  }
  gemv_finish<R, M>(acc, y, m, n, ldy, GM_EPILOGUE_ARGS);
}

#define GEMV_Q_F32(NAME, F, R, M) \
GM_KERNEL __launch_bounds__(GEMV_THREADS, GEMV_CTAS(M)) gm_gemv_##NAME##_f32_m##M(const u8* __restrict__ w, const float* __restrict__ x, void* y, \
  u64 w_row_bytes, u32 m, u32 n, u32 k, u64 ldx, u64 ldy, GM_EPILOGUE_PARAMS) \
{ gemv_q_f32<F, R, M>(w, x, y, w_row_bytes, m, n, k, ldx, ldy, GM_EPILOGUE_ARGS); }
#define GEMV_Q_Q8(NAME, F, R, M) \
GM_KERNEL __launch_bounds__(GEMV_THREADS, GEMV_CTAS(M)) gm_gemv_##NAME##_q8_m##M(const u8* __restrict__ w, const i8* __restrict__ xq, const u32x2* __restrict__ xinfo, void* y, \
  u64 w_row_bytes, u32 m, u32 n, u32 k, u64 ldy, GM_EPILOGUE_PARAMS) \
{ gemv_q_q8<F, R, M>(w, xq, xinfo, y, w_row_bytes, m, n, k, ldy, GM_EPILOGUE_ARGS); }
// Two rows of w a CTA: two independent weight streams a lane and x read once for both.
#define GEMV_Q(NAME, F) \
GEMV_Q_F32(NAME, F, 2, 1) GEMV_Q_F32(NAME, F, 2, 2) GEMV_Q_F32(NAME, F, 2, 4) GEMV_Q_F32(NAME, F, 2, 8) \
GEMV_Q_Q8(NAME, F, 2, 1) GEMV_Q_Q8(NAME, F, 2, 2) GEMV_Q_Q8(NAME, F, 2, 4) GEMV_Q_Q8(NAME, F, 2, 8)
#define GEMV_DENSE1(NAME, T, R, M) \
GM_KERNEL __launch_bounds__(GEMV_THREADS, GEMV_CTAS(M)) gm_gemv_##NAME##_f32_m##M(const T* __restrict__ w, const float* __restrict__ x, void* y, \
  u64 ldw, u32 m, u32 n, u32 k, u64 ldx, u64 ldy, GM_EPILOGUE_PARAMS) \
{ gemv_dense<T, R, M>(w, x, y, ldw, m, n, k, ldx, ldy, GM_EPILOGUE_ARGS); }
#define GEMV_DENSE(NAME, T) GEMV_DENSE1(NAME, T, 2, 1) GEMV_DENSE1(NAME, T, 2, 2) GEMV_DENSE1(NAME, T, 2, 4) GEMV_DENSE1(NAME, T, 2, 8)
