// quant.cuh: one decoder per block-quantized weight format.
//
// Every decoder speaks of *units* of 32 weights that share 16-byte loads: two runs of 16 consecutive weights
// (run 0 and run 1), each with one scale. A lane takes W words (4 codes a word) of each run, starting at word
// sub * W, so a unit is shared by 4 / W lanes. The weight behind code q of run r is
//     s[r] * (q - ZERO) + m[r]        (m is 0 and unused unless AFFINE)
// with q a byte, signed when SIGNED. `run(unit, r)` is the offset of a run inside its block.
// The layouts are those of GGUF (ggml).
#pragma once
#include "gm.cuh"

template <int W> struct Codes { u32 q[2][W]; float s[2]; float m[2]; };

GM_DEV float ld_f16(const u8* p) { return f16_bits_to_f32(*(const u16*)p); }
// W words from a 2-byte aligned address through 4-byte loads. At an odd half-word the first load starts two
// bytes early (still inside the allocation, whose base is 4-byte aligned) and the last half-word completes it;
// at an even one the shift is 0 and drops it.
template <int W> GM_DEV void ld_words2(const u8* p, u32 (&v)[W]) {
  const u32 odd = (u32)(u64)p & 2u;
  const u32* a = (const u32*)(p - odd);
  u32 w[W + 1];
  #pragma unroll
  for (int i = 0; i < W; i++) w[i] = a[i];
  w[W] = *(const u16*)(p + 4 * W - 2);
  #pragma unroll
  for (int i = 0; i < W; i++) v[i] = funnel_r(w[i], w[i + 1], odd * 8);
}
template <int W> GM_DEV void ld_words4(const u8* p, u32 (&v)[W]) {
  #pragma unroll
  for (int i = 0; i < W; i++) v[i] = ((const u32*)p)[i];
}
// p is a multiple of 4 * W bytes.
GM_DEV void ld_words16(const u8* p, u32 (&v)[1]) { v[0] = *(const u32*)p; }
GM_DEV void ld_words16(const u8* p, u32 (&v)[2]) { const u32x2 a = *(const u32x2*)p; v[0] = a.x; v[1] = a.y; }
GM_DEV void ld_words16(const u8* p, u32 (&v)[4]) { const u32x4 a = *(const u32x4*)p; v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w; }
template <int W> GM_DEV void split_nibbles(const u32 (&v)[W], Codes<W>& c) {
  #pragma unroll
  for (int i = 0; i < W; i++) { c.q[0][i] = v[i] & 0x0f0f0f0fu; c.q[1][i] = (v[i] >> 4) & 0x0f0f0f0fu; }
}

// d f16, 16 bytes of nibbles: d * (n - 8)
struct Q4_0 {
  enum { BLOCK = 32, BYTES = 18, UNITS = 1, ZERO = 8, AFFINE = 0, SIGNED = 0 };
  static GM_DEV u32 run(u32, u32 r) { return 16 * r; }
  template <int W> static GM_DEV void load(const u8* b, u32, u32 sub, Codes<W>& c) {
    u32 v[W]; ld_words2<W>(b + 2 + sub * W * 4, v); split_nibbles<W>(v, c);
    c.s[0] = c.s[1] = ld_f16(b);
  }
};
// d f16, m f16, 16 bytes of nibbles: d * n + m
struct Q4_1 {
  enum { BLOCK = 32, BYTES = 20, UNITS = 1, ZERO = 0, AFFINE = 1, SIGNED = 0 };
  static GM_DEV u32 run(u32, u32 r) { return 16 * r; }
  template <int W> static GM_DEV void load(const u8* b, u32, u32 sub, Codes<W>& c) {
    u32 v[W]; ld_words4<W>(b + 4 + sub * W * 4, v); split_nibbles<W>(v, c);
    const u32 dm = *(const u32*)b;
    c.s[0] = c.s[1] = f16_bits_to_f32((u16)dm); c.m[0] = c.m[1] = f16_bits_to_f32((u16)(dm >> 16));
  }
};
// d f16, 32 fifth bits, 16 bytes of nibbles: d * ((n | bit << 4) - 16)
struct Q5_0 {
  enum { BLOCK = 32, BYTES = 22, UNITS = 1, ZERO = 16, AFFINE = 0, SIGNED = 0 };
  static GM_DEV u32 run(u32, u32 r) { return 16 * r; }
  // Four bits to bit 4 of four bytes: the multiplier adds copies shifted by 7, 14 and 21.
  static GM_DEV u32 fifth(u32 four) { return (four * 0x02040810u) & 0x10101010u; }
  template <int W> static GM_DEV void load(const u8* b, u32, u32 sub, Codes<W>& c) {
    u32 v[W]; ld_words2<W>(b + 6 + sub * W * 4, v); split_nibbles<W>(v, c);
    const u32 qh = (u32)*(const u16*)(b + 2) | (u32)*(const u16*)(b + 4) << 16;
    #pragma unroll
    for (int i = 0; i < W; i++) {
      const u32 at = 4 * (sub * W + i);
      c.q[0][i] |= fifth((qh >> at) & 15u); c.q[1][i] |= fifth((qh >> (16 + at)) & 15u);
    }
    c.s[0] = c.s[1] = ld_f16(b);
  }
};
// d f16, 32 signed bytes: d * q
struct Q8_0 {
  enum { BLOCK = 32, BYTES = 34, UNITS = 1, ZERO = 0, AFFINE = 0, SIGNED = 1 };
  static GM_DEV u32 run(u32, u32 r) { return 16 * r; }
  template <int W> static GM_DEV void load(const u8* b, u32, u32 sub, Codes<W>& c) {
    ld_words2<W>(b + 2 + sub * W * 4, c.q[0]); ld_words2<W>(b + 18 + sub * W * 4, c.q[1]);
    c.s[0] = c.s[1] = ld_f16(b);
  }
};
// d, dmin f16, eight 6-bit (scale, min) pairs in 12 bytes, 128 bytes of nibbles: d*sc*n - dmin*mn.
// Sub-blocks 2p and 2p+1 are the low and high nibbles of the same 32 bytes.
struct Q4_K {
  enum { BLOCK = 256, BYTES = 144, UNITS = 8, ZERO = 0, AFFINE = 1, SIGNED = 0 };
  static GM_DEV u32 run(u32 u, u32 r) { return 64 * (u >> 1) + 32 * r + 16 * (u & 1); }
  template <int W> static GM_DEV void load(const u8* b, u32 u, u32 sub, Codes<W>& c) {
    const u32x4 h = *(const u32x4*)b;
    u32 v[W]; ld_words16(b + 16 + 32 * (u >> 1) + 16 * (u & 1) + sub * W * 4, v); split_nibbles<W>(v, c);
    const float d = f16_bits_to_f32((u16)h.x), dmin = f16_bits_to_f32((u16)(h.x >> 16));
    const u32 p = u >> 1;                     // sub-blocks 2p and 2p + 1
    #pragma unroll
    for (int r = 0; r < 2; r++) {
      const u32 sh = 8 * ((2 * p + r) & 3), lo = h.y >> sh, mi = h.z >> sh, hi = h.w >> sh;
      const u32 sc = p < 2 ? lo & 63u : (hi & 15u) | (lo >> 2 & 0x30u);
      const u32 mn = p < 2 ? mi & 63u : (hi >> 4 & 15u) | (mi >> 2 & 0x30u);
      c.s[r] = d * (float)sc; c.m[r] = -(dmin * (float)mn);
    }
  }
};
// 128 low nibble bytes, 64 bytes of high bit pairs, 16 signed scales, d f16: d * sc * (q - 32)
struct Q6_K {
  enum { BLOCK = 256, BYTES = 210, UNITS = 8, ZERO = 32, AFFINE = 0, SIGNED = 0 };
  // u = 4 H + 2 a + h: half H of the block, 32-column a, 16-half h; run r is group g = a + 2 r.
  static GM_DEV u32 run(u32 u, u32 r) { return 128 * (u >> 2) + 32 * ((u >> 1) & 1) + 16 * (u & 1) + 64 * r; }
  template <int W> static GM_DEV void load(const u8* b, u32 u, u32 sub, Codes<W>& c) {
    const u32 H = u >> 2, a = (u >> 1) & 1, h = u & 1;
    u32 v[W], t[W];
    ld_words2<W>(b + 64 * H + 32 * a + 16 * h + sub * W * 4, v); split_nibbles<W>(v, c);
    ld_words2<W>(b + 128 + 32 * H + 16 * h + sub * W * 4, t);
    #pragma unroll
    for (int i = 0; i < W; i++) {
      c.q[0][i] |= (t[i] >> (2 * a) & 0x03030303u) << 4; c.q[1][i] |= (t[i] >> (2 * a + 4) & 0x03030303u) << 4;
    }
    const float d = ld_f16(b + 208);
    const i8* sc = (const i8*)(b + 192 + 8 * H + 2 * a + h);
    c.s[0] = d * (float)sc[0]; c.s[1] = d * (float)sc[4];
  }
};

// The codes of one run as floats, already minus ZERO (exact).
template <class F, int W> GM_DEV void codes_f32(const u32 (&q)[W], float (&f)[4 * W]) {
  const float zero = 8388608.0f + (F::SIGNED ? 128.0f : (float)F::ZERO);
  #pragma unroll
  for (int i = 0; i < W; i++) {
    const u32 v = F::SIGNED ? q[i] ^ 0x80808080u : q[i];
    f[4 * i + 0] = byte_plus_2p23<0>(v) - zero; f[4 * i + 1] = byte_plus_2p23<1>(v) - zero;
    f[4 * i + 2] = byte_plus_2p23<2>(v) - zero; f[4 * i + 3] = byte_plus_2p23<3>(v) - zero;
  }
}
