// f16 and bf16 on the tensor cores (compute capability 8.0 and later), f32 accumulation. BK = 64, so that a tile row
// of 8 chunks of 16 bytes is 128 bytes; chunk c of row r lies at c ^ (r & 7), which keeps ldmatrix free of bank
// conflicts. The aligned instances stage through cp.async (rows at multiples of 16 bytes), the "u" ones element by element.
#include "matmul.cuh"

template <class T, int BM, int BN, int WM, int WN, int STAGES, bool ALIGNED, bool NN>
GM_DEV void matmul_mma(MATMUL_PARAMS(T, T)) {
  constexpr int BK = 64, WARPS_M = BM / WM, WARPS_N = BN / WN, THREADS = WARPS_M * WARPS_N * 32, BYTES_A = BM * BK * 2, BYTES = (BM + BN) * BK * 2;
  constexpr int CB = NN ? BN / 8 : BK / 8;      // chunks in a stored row of the B tile
  constexpr int STRIDE = BN + 8;                // floats in a row of the finished tile
  static_assert(BM * STRIDE * 4 <= STAGES * BYTES, "the finished tile reuses the stages");
  extern __shared__ __align__(128) u8 smem[];
  const u32 s0 = smem_u32(smem), tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const u32 wm = (warp % WARPS_M) * WM, wn = (warp / WARPS_M) * WN, kt_n = gm_cdiv(k, BK);
  u32 im, in; tile_of(blockIdx.x, gm_cdiv(m, BM), gm_cdiv(n, BN), im, in);
  const u32 m0 = im * BM, n0 = in * BN;
  const T* a = A + blockIdx.z * bsa;
  const T* b = B + blockIdx.z * bsb;
  // A thread stages the same chunk column of every STEP-th row: one pointer and one swizzle for all of them.
  constexpr u32 STEP_A = THREADS / 8, STEP_B = THREADS / CB;
  static_assert(STEP_A % 8 == 0 && STEP_B % 8 == 0, "the swizzle repeats every 8 rows");
  const u32 ra = tid / 8, ca = tid & 7, rb = tid / CB, cb = tid % CB;
  const T* pa = a + (m0 + ra) * lda + ca * 8;
  const T* pb = NN ? b + rb * ldb + n0 + cb * 8 : b + (n0 + rb) * ldb + cb * 8;
  const u32 oa = (ra * 8 + (ca ^ (ra & 7))) * 16, ob = BYTES_A + (rb * CB + (cb ^ (rb & 7))) * 16;
  // One chunk of 8 elements to shared memory; those at and after `valid` become 0 and are not read.
  auto chunk = [&](u32 dst, const T* p, const T* base, u32 valid) {
    valid = gm_min(valid, 8);
    if (ALIGNED) cp_async16(dst, valid ? p : base, valid * 2);
    else {
      u32 h[4];
      #pragma unroll
      for (u32 j = 0; j < 4; j++) {
        const u32 lo = 2 * j < valid ? p[2 * j].bits : 0, hi = 2 * j + 1 < valid ? p[2 * j + 1].bits : 0;
        h[j] = lo | hi << 16;
      }
      asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" :: "r"(dst), "r"(h[0]), "r"(h[1]), "r"(h[2]), "r"(h[3]) : "memory");
    }
  };
  auto stage = [&](u32 slot, u32 k0) {
    const u32 da = s0 + slot * BYTES + oa, db = s0 + slot * BYTES + ob, ka = k0 + ca * 8;
    const u32 va = ka < k ? k - ka : 0;
    #pragma unroll (ALIGNED ? BM * 8 / THREADS : 1)
    for (u32 j = 0; j < BM * 8 / THREADS; j++)
      chunk(da + j * THREADS * 16, pa + (u64)(j * STEP_A) * lda + k0, a, m0 + ra + j * STEP_A < m ? va : 0);
    const u32 at = NN ? n0 + cb * 8 : k0 + cb * 8, end = NN ? n : k, vb = at < end ? end - at : 0;
    #pragma unroll (ALIGNED ? BN * 8 / THREADS : 1)
    for (u32 j = 0; j < BN * 8 / THREADS; j++) {
      const u32 r = (NN ? k0 : n0) + rb + j * STEP_B;
      chunk(db + j * THREADS * 16, pb + (NN ? (u64)(k0 + j * STEP_B) * ldb : (u64)(j * STEP_B) * ldb + k0), b, r < (NN ? k : n) ? vb : 0);
    }
  };
  float acc[WM / 16][WN / 8][4];
  #pragma unroll
  for (int i = 0; i < WM / 16; i++)
    #pragma unroll
    for (int j = 0; j < WN / 8; j++) { acc[i][j][0] = acc[i][j][1] = acc[i][j][2] = acc[i][j][3] = 0.0f; }
  #pragma unroll 1
  for (u32 s = 0; s < STAGES - 1; s++) { if (s < kt_n) stage(s, s * BK); cp_async_commit(); }
  u32 rd = 0, wr = STAGES - 1;
  #pragma unroll 1
  for (u32 kt = 0; kt < kt_n; kt++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    // The slot written here was last read before the barrier above.
    if (kt + STAGES - 1 < kt_n) stage(wr, (kt + STAGES - 1) * BK);
    cp_async_commit();
    const u32 a0 = s0 + rd * BYTES, b0 = a0 + BYTES_A;
    #pragma unroll
    for (int kk = 0; kk < BK / 16; kk++) {
      u32 af[WM / 16][4], bf[WN / 8][2];
      #pragma unroll
      for (int i = 0; i < WM / 16; i++) {
        const u32 r = wm + i * 16 + (lane & 15), c = kk * 2 + (lane >> 4);
        ldsm_x4(af[i][0], af[i][1], af[i][2], af[i][3], a0 + (r * 8 + (c ^ (r & 7))) * 16);
      }
      #pragma unroll
      for (int j = 0; j < WN / 16; j++) {
        if (NN) {
          const u32 r = kk * 16 + (lane & 15), c = (wn + j * 16) / 8 + (lane >> 4);
          ldsm_x4_t(bf[2 * j][0], bf[2 * j][1], bf[2 * j + 1][0], bf[2 * j + 1][1], b0 + (r * CB + (c ^ (r & 7))) * 16);
        } else {
          const u32 r = wn + j * 16 + (lane & 7) + ((lane >> 4) << 3), c = kk * 2 + ((lane >> 3) & 1);
          ldsm_x4(bf[2 * j][0], bf[2 * j][1], bf[2 * j + 1][0], bf[2 * j + 1][1], b0 + (r * 8 + (c ^ (r & 7))) * 16);
        }
      }
      #pragma unroll
      for (int i = 0; i < WM / 16; i++)
        #pragma unroll
        for (int j = 0; j < WN / 8; j++) mma16816(acc[i][j], af[i], bf[j], T());
    }
    rd = rd + 1 == STAGES ? 0 : rd + 1; wr = wr + 1 == STAGES ? 0 : wr + 1;
  }
  cp_async_wait<0>();
  __syncthreads();
  float* out = (float*)smem;
  #pragma unroll
  for (int i = 0; i < WM / 16; i++)
    #pragma unroll
    for (int j = 0; j < WN / 8; j++)
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        struct __align__(8) Two { float a, b; } v = {alpha * acc[i][j][2 * h], alpha * acc[i][j][2 * h + 1]};
        *(Two*)(out + (wm + i * 16 + (lane >> 2) + h * 8) * STRIDE + wn + j * 8 + (lane & 3) * 2) = v;
      }
  __syncthreads();
  store_block<THREADS, BM, BN>(out, STRIDE, C, m0, n0, m, n, ldc, bsc, bsg, bsr, GM_EPILOGUE_ARGS);
}
#define MATMUL_MMA1(NAME, T, L, NN, BM, BN, WM, WN, ST, SUF, AL, CTAS) \
GM_KERNEL __launch_bounds__((BM / WM) * (BN / WN) * 32, CTAS) gm_matmul_##NAME##_##L##_##BM##x##BN##_mma##SUF(MATMUL_PARAMS(T, T)) { matmul_mma<T, BM, BN, WM, WN, ST, AL, NN>(MATMUL_ARGS); }
#define MATMUL_MMA(NAME, T) \
MATMUL_MMA1(NAME, T, nt, false, 128, 128, 64, 32, 3, , true, 1) MATMUL_MMA1(NAME, T, nn, true, 128, 128, 64, 32, 3, , true, 1) \
MATMUL_MMA1(NAME, T, nt, false, 64, 64, 32, 32, 4, , true, 2) MATMUL_MMA1(NAME, T, nn, true, 64, 64, 32, 32, 4, , true, 2) \
MATMUL_MMA1(NAME, T, nt, false, 64, 64, 32, 32, 2, u, false, 2) MATMUL_MMA1(NAME, T, nn, true, 64, 64, 32, 32, 2, u, false, 2)
MATMUL_MMA(bf16_bf16, bf16)
MATMUL_MMA(f16_f16, f16)
