// Numbers as bits. Everything works on bit patterns, because drivers may assume that floats are
// never NaN or infinite, and may round `pack2x16float` toward zero.

// Workgroup number of a launch that was spread over x and y.
fn group_id(wg: vec3<u32>, nwg: vec3<u32>) -> u32 {
  return wg.y * nwg.x + wg.x;
}

fn is_nan(v: f32) -> bool {
  return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u;
}

fn quiet_nan() -> f32 {
  var bits = 0x7fc00000u;
  return bitcast<f32>(bits);
}

fn neg_inf() -> f32 {
  var bits = 0xff800000u;
  return bitcast<f32>(bits);
}

fn pos_inf() -> f32 {
  var bits = 0x7f800000u;
  return bitcast<f32>(bits);
}

// Larger of two; NaN if either is.
fn max_nan(a: f32, b: f32) -> f32 {
  return select(select(max(a, b), b, is_nan(b)), a, is_nan(a));
}

fn min_nan(a: f32, b: f32) -> f32 {
  return select(select(min(a, b), b, is_nan(b)), a, is_nan(a));
}

fn unpack_f16(w: u32) -> vec2<f32> {
  return unpack2x16float(w);
}

fn unpack_bf16(w: u32) -> vec2<f32> {
  return vec2<f32>(bitcast<f32>(w << 16u), bitcast<f32>(w & 0xffff0000u));
}

// Nearest even, with subnormals, infinities and NaN.
fn f16_bits(v: f32) -> u32 {
  let b = bitcast<u32>(v);
  let sign = (b >> 16u) & 0x8000u;
  let a = b & 0x7fffffffu;
  if (a > 0x7f800000u) { return sign | 0x7e00u; }
  if (a >= 0x477ff000u) { return sign | 0x7c00u; }
  if (a >= 0x38800000u) {
    let r = a - 0x38000000u;
    return sign | ((r + 0xfffu + ((r >> 13u) & 1u)) >> 13u);
  }
  return sign | small_bits(a, 126u);
}

fn bf16_bits(v: f32) -> u32 {
  let b = bitcast<u32>(v);
  if ((b & 0x7fffffffu) > 0x7f800000u) { return (b >> 16u) | 0x40u; }
  return (b + 0x7fffu + ((b >> 16u) & 1u)) >> 16u;
}

fn pack_f16(v: vec2<f32>) -> u32 {
  return f16_bits(v.x) | (f16_bits(v.y) << 16u);
}

fn pack_bf16(v: vec2<f32>) -> u32 {
  return bf16_bits(v.x) | (bf16_bits(v.y) << 16u);
}

// OCP E4M3: bias 7, no infinity, all ones is NaN.
fn unpack_f8e4m3(b: u32) -> f32 {
  let e = (b >> 3u) & 15u;
  let m = b & 7u;
  var v = f32(m) * 0.001953125;
  if (e > 0u) { v = bitcast<f32>(((e + 120u) << 23u) | (m << 20u)); }
  if ((b & 0x7fu) == 0x7fu) { v = quiet_nan(); }
  return bitcast<f32>(bitcast<u32>(v) | ((b & 0x80u) << 24u));
}

// OCP E5M2 is the upper half of an f16.
fn unpack_f8e5m2(b: u32) -> f32 {
  return unpack2x16float(b << 8u).x;
}

// Nearest even; what is beyond the largest number, 448, saturates.
fn f8e4m3_bits(v: f32) -> u32 {
  let b = bitcast<u32>(v);
  let sign = (b >> 24u) & 0x80u;
  let a = b & 0x7fffffffu;
  if (a > 0x7f800000u) { return sign | 0x7fu; }
  // 464 would round to 480, which is the code of NaN.
  if (a >= 0x43e80000u) { return sign | 0x7eu; }
  if (a >= 0x3c800000u) {
    let r = a - 0x3c000000u;
    return sign | ((r + 0x7ffffu + ((r >> 20u) & 1u)) >> 20u);
  }
  return sign | small_bits(a, 141u);
}

// Nearest even; what is beyond the largest number, 57344, saturates.
fn f8e5m2_bits(v: f32) -> u32 {
  let b = bitcast<u32>(v);
  let sign = (b >> 24u) & 0x80u;
  let a = b & 0x7fffffffu;
  if (a > 0x7f800000u) { return sign | 0x7eu; }
  if (a >= 0x47700000u) { return sign | 0x7bu; }
  if (a >= 0x38800000u) {
    let r = a - 0x38000000u;
    return sign | ((r + 0xfffffu + ((r >> 21u) & 1u)) >> 21u);
  }
  return sign | small_bits(a, 134u);
}

// A number below the smallest normal one, in steps of 2^(base - 150), nearest even: `base` minus
// its exponent is how far its mantissa moves.
fn small_bits(a: u32, base: u32) -> u32 {
  let e = a >> 23u;
  if (e + 24u < base) { return 0u; }
  let m = (a & 0x7fffffu) | 0x800000u;
  let s = base - e;
  let q = m >> s;
  let rest = m & ((1u << s) - 1u);
  let tie = 1u << (s - 1u);
  return q + select(0u, 1u, rest > tie || (rest == tie && (q & 1u) == 1u));
}
