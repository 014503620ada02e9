// y = x with conversion. FROM and TO: 0 floats as f32, 1 signed as i32, 2 unsigned as u32, 3 i64
// as two words. Integers saturate at LEAST..MOST.

#if TO == 1
alias Value = i32;
#elif TO == 2
alias Value = u32;
#elif TO == 3
alias Value = vec2<u32>;
#else
alias Value = f32;
#endif

#if FROM == 0 && TO > 0
// Magnitude of a float as 64 bits, toward zero, saturated. NaN is 0.
fn magnitude(v: f32) -> vec2<u32> {
  let bits = bitcast<u32>(v) & 0x7fffffffu;
  if (bits > 0x7f800000u || bits < 0x3f800000u) { return vec2<u32>(0u); }
  let e = (bits >> 23u) - 127u;
  if (e >= 64u) { return vec2<u32>(0xffffffffu); }
  let m = (bits & 0x7fffffu) | 0x800000u;
  if (e <= 23u) { return vec2<u32>(m >> (23u - e), 0u); }
  let s = e - 23u;
  if (s < 32u) { return vec2<u32>(m << s, m >> (32u - s)); }
  return vec2<u32>(0u, m << (s - 32u));
}
#endif

#if FROM == 3 && TO == 0
// 64 bits to the nearest f32, ties to even.
fn wide_to_float(v: vec2<u32>) -> f32 {
  let negative = (v.y & 0x80000000u) != 0u;
  var a = v;
  if (negative) { a = vec2<u32>(0u - v.x, ~v.y + select(0u, 1u, v.x == 0u)); }
  if (a.y == 0u) {
    let small = f32_of(a.x);
    return select(small, -small, negative);
  }
  // Leading bit first: 24 bits are kept, 40 decide the rounding.
  let top = firstLeadingBit(a.y);
  let up = 31u - top;
  if (up > 0u) { a = vec2<u32>(a.x << up, (a.y << up) | (a.x >> (32u - up))); }
  var m = a.y >> 8u;
  let rest = a.y & 0xffu;
  if (rest > 0x80u || (rest == 0x80u && (a.x != 0u || (m & 1u) == 1u))) { m += 1u; }
  // The leading bit, and a carry out of 24 bits, move into the exponent as they should.
  let bits = ((top + 158u) << 23u) + m;
  return bitcast<f32>(select(bits, bits | 0x80000000u, negative));
}

// u32 to the nearest f32, ties to even; drivers may round `f32(u32)` otherwise.
fn f32_of(v: u32) -> f32 {
  if (v < 0x1000000u) { return f32(v); }
  let s = firstLeadingBit(v) - 23u;
  var m = v >> s;
  let rest = v & ((1u << s) - 1u);
  let tie = 1u << (s - 1u);
  if (rest > tie || (rest == tie && (m & 1u) == 1u)) { m += 1u; }
  return bitcast<f32>(((s + 149u) << 23u) + m);
}
#endif

fn value(o: at_at) -> Value {
  let v = x_get(o.x);
#if SAME || (FROM == 0 && TO == 0)
  return v;
#elif FROM == 0
  let a = magnitude(v);
  let negative = v < 0.0;
#if TO == 1
  if (negative) {
    if (a.y != 0u || a.x > ${0 - LEAST}u) { return i32(${LEAST + 1}) - 1; }
    return bitcast<i32>(0u - a.x);
  }
  if (a.y != 0u || a.x > ${MOST}u) { return ${MOST}; }
  return bitcast<i32>(a.x);
#elif TO == 2
  if (negative) { return 0u; }
  return select(min(a.x, ${MOST}u), ${MOST}u, a.y != 0u);
#else
  let over = (a.y & 0x80000000u) != 0u;
  if (negative) {
    if (over) { return vec2<u32>(0u, 0x80000000u); }
    return vec2<u32>(0u - a.x, ~a.y + select(0u, 1u, a.x == 0u));
  }
  return select(a, vec2<u32>(0xffffffffu, 0x7fffffffu), over);
#endif
#elif TO == 0
#if FROM == 3
  return wide_to_float(v);
#else
  return f32(v);
#endif
#elif TO == 3
#if FROM == 1
  return vec2<u32>(bitcast<u32>(v), bitcast<u32>(v >> 31u));
#else
  return vec2<u32>(v, 0u);
#endif
#elif FROM == 3
  let negative = (v.y & 0x80000000u) != 0u;
#if TO == 1
  if (v.y == 0u && v.x <= ${MOST}u) { return bitcast<i32>(v.x); }
  if (v.y == 0xffffffffu && bitcast<i32>(v.x) < 0 && bitcast<i32>(v.x) >= i32(${LEAST + 1}) - 1) { return bitcast<i32>(v.x); }
  return select(${MOST}, i32(${LEAST + 1}) - 1, negative);
#else
  if (negative) { return 0u; }
  return select(min(v.x, ${MOST}u), ${MOST}u, v.y != 0u);
#endif
#elif FROM == 1 && TO == 1
  return clamp(v, i32(${LEAST + 1}) - 1, ${MOST});
#elif FROM == 1
  return min(u32(max(v, 0)), ${MOST}u);
#elif TO == 1
  return bitcast<i32>(min(v, ${MOST}u));
#else
  return min(v, ${MOST}u);
#endif
}

#include "lib/each.wgsl"
