#include "lib/divide.wgsl"

// Block of 32 numbers of x from element `x`, x_step apart, to the 34 bytes at byte `y`:
// d = max|x| / 127 as f16, then round(x * (1 / d)) half away from zero, with d before it is rounded.
// Both quotients are the nearest f32, as on the host, so that ties fall the same way.
fn encode_q8_0(x: u32, y: u32) {
  var top = 0.0;
  for (var i = 0u; i < 32u; i++) { top = max(top, abs(x_get(x + i * p.x_step))); }
  let d = divide_exact(top, 127.0);
  let inverse = select(divide_exact(1.0, d), 0.0, d == 0.0);
  y_set_u16(y, f16_bits(d));
  for (var i = 0u; i < 32u; i += 2u) {
    let v = vec2<f32>(x_get(x + i * p.x_step), x_get(x + (i + 1u) * p.x_step)) * inverse;
    let q = vec2<i32>(sign(v) * floor(abs(v) + 0.5));
    y_set_u16(y + 2u + i, (bitcast<u32>(q.x) & 0xffu) | ((bitcast<u32>(q.y) & 0xffu) << 8u));
  }
}
