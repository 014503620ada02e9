// Rotary position embedding. An angle is a fraction of a turn in 64 bits, so position * fraction
// is exact modulo one turn at any position.
#include "lib/trig.wgsl"

// High word of a * b.
fn mul_high(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu; let ah = a >> 16u;
  let bl = b & 0xffffu; let bh = b >> 16u;
  let low = al * bl;
  let m = ah * bl + (low >> 16u);
  let n = al * bh + (m & 0xffffu);
  return ah * bh + (m >> 16u) + (n >> 16u);
}

#if FACTORS
// t / f for a positive finite f, modulo one turn: long division of the 64 bits of t, and 24 more,
// by the 24-bit mantissa of f, byte by byte, then a shift by its exponent.
fn divide(t: vec2<u32>, f: f32) -> vec2<u32> {
  let bits = bitcast<u32>(f) & 0x7fffffffu;
  let e = i32(bits >> 23u);
  if (e == 0 || e == 255) { return vec2<u32>(0u); }
  let m = (bits & 0x7fffffu) | 0x800000u;
  var rest = 0u;
  var q = vec3<u32>(0u);
  for (var i = 0u; i < 11u; i++) {
    var digit = 0u;
    if (i < 4u) { digit = (t.y >> (24u - 8u * i)) & 0xffu; }
    else if (i < 8u) { digit = (t.x >> (56u - 8u * i)) & 0xffu; }
    let v = (rest << 8u) | digit;
    q = vec3<u32>((q.x << 8u) | (v / m), (q.y << 8u) | (q.x >> 24u), (q.z << 8u) | (q.y >> 24u));
    rest = v % m;
  }
  // q = t * 2^24 / m, so t / f = q * 2^(126 - e).
  var shift = e - 126;
  if (shift >= 96) { return vec2<u32>(0u); }
  while (shift >= 32) { q = vec3<u32>(q.y, q.z, 0u); shift -= 32; }
  while (shift <= -32) { q = vec3<u32>(0u, q.x, q.y); shift += 32; }
  if (shift > 0) {
    let s = u32(shift);
    q = vec3<u32>((q.x >> s) | (q.y << (32u - s)), (q.y >> s) | (q.z << (32u - s)), q.z >> s);
  } else if (shift < 0) {
    let s = u32(-shift);
    q = vec3<u32>(q.x << s, (q.y << s) | (q.x >> (32u - s)), (q.z << s) | (q.y >> (32u - s)));
  }
  return q.xy;
}
#endif

// Cosine and sine of pair i at the row whose positions start at `at`.
fn rotation(at: u32, i: u32) -> vec2<f32> {
  var place = at;
#if SECTIONS
  let s = i % (p.section0 + p.section1 + p.section2 + p.section3);
  var section = 3u;
  if (s < p.section0) { section = 0u; }
  else if (s < p.section0 + p.section1) { section = 1u; }
  else if (s < p.section0 + p.section1 + p.section2) { section = 2u; }
  place += section * p.section_step;
#endif
  // Two's complement wraps as the angle does, so negative positions need nothing of their own.
  let position = bitcast<u32>(positions_get(place));
  var t = vec2<u32>(turns_get(2u * i), turns_get(2u * i + 1u));
#if FACTORS
  let factor = factors_get(i * p.factor_step);
  t = divide(t, factor);
  let negative = factor < 0.0;
#endif
  var phase = t.y * position + mul_high(t.x, position);
  if ((position & 0x80000000u) != 0u) { phase -= t.x; }
#if FACTORS
  if (negative) { phase = 0u - phase; }
  if (is_nan(factor)) { return vec2<f32>(factor); }
#endif
  return cos_sin_turn(phase) * p.magnitude;
}

fn rotate(v: vec2<f32>, r: vec2<f32>) -> vec2<f32> {
  return vec2<f32>(v.x * r.x - v.y * r.y, v.x * r.y + v.y * r.x);
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
  let e = group_id(wg, nwg) * 256u + li;
  if (e >= p.n) { return; }
  let row = row_at(e / p.units);
  let unit = e % p.units;
  if (unit >= p.turning) {
    let j = 2u * p.half + 2u * (unit - p.turning);
    let a = x_get(row.x + j * p.x_step);
#if PAIR
    y_set2(row.y + j, vec2<f32>(a, x_get(row.x + (j + 1u) * p.x_step)));
#else
    y_set(row.y + j * p.y_step, a);
    if (j + 1u < p.width) {
      y_set(row.y + (j + 1u) * p.y_step, x_get(row.x + (j + 1u) * p.x_step));
    }
#endif
    return;
  }
  let i = 2u * unit;
  let more = i + 1u < p.half;
#if SPLIT
  let a0 = i;
  let a1 = i + p.half;
  let b0 = select(a0, i + 1u, more);
  let b1 = select(a1, i + 1u + p.half, more);
#else
  let a0 = 2u * i;
  let a1 = 2u * i + 1u;
  let b0 = select(a0, 2u * i + 2u, more);
  let b1 = select(a1, 2u * i + 3u, more);
#endif
  let a = rotate(vec2<f32>(x_get(row.x + a0 * p.x_step), x_get(row.x + a1 * p.x_step)), rotation(row.at, i));
  let b = rotate(
    vec2<f32>(x_get(row.x + b0 * p.x_step), x_get(row.x + b1 * p.x_step)),
    rotation(row.at, select(i, i + 1u, more)),
  );
#if PAIR && SPLIT
  y_set2(row.y + a0, vec2<f32>(a.x, b.x));
  y_set2(row.y + a1, vec2<f32>(a.y, b.y));
#elif PAIR
  y_set2(row.y + a0, a);
  if (more) { y_set2(row.y + b0, b); }
#else
  y_set(row.y + a0 * p.y_step, a.x);
  y_set(row.y + a1 * p.y_step, a.y);
  if (more) {
    y_set(row.y + b0 * p.y_step, b.x);
    y_set(row.y + b1 * p.y_step, b.y);
  }
#endif
}
