// Operands of a convolution, and its epilogue.
#include "lib/act.wgsl"

// First row and column of x under the filter at an output pixel; padding wraps below zero.
fn corner(pixel: u32) -> vec2<u32> {
  let h = pixel / p.out_wide;
  let w = pixel % p.out_wide;
  return vec2<u32>(h * p.stride0 - p.pad0, w * p.stride1 - p.pad1);
}

// x under tap `tap` (rows, then columns) of the filter at `at`; zero outside.
fn pixel_of(base: u32, at: vec2<u32>, tap: vec2<u32>) -> f32 {
  let h = at.x + tap.x * p.dilation0;
  let w = at.y + tap.y * p.dilation1;
  // What wrapped below zero is beyond any size.
  if (h >= p.high || w >= p.wide) { return 0.0; }
  return x_get(base + h * p.x_s2 + w * p.x_s3);
}

// Element offset of an output pixel in y.
fn y_at(batch: u32, channel: u32, pixel: u32) -> u32 {
  return batch * p.y_s0 + channel * p.y_s1 + (pixel / p.out_wide) * p.y_s2 + (pixel % p.out_wide) * p.y_s3;
}

// t = act(acc * scale + bias) * gate + residual, or y + t.
fn epilogue(acc: f32, batch: u32, channel: u32, pixel: u32) -> f32 {
  var t = acc;
#if SCALE
  t *= p.scale;
#endif
#if BIAS
  t += bias_get(channel * p.bias_s0);
#endif
  t = act(t);
  let h = pixel / p.out_wide;
  let w = pixel % p.out_wide;
#if GATE
  t *= gate_get(batch * p.gate_s0 + channel * p.gate_s1 + h * p.gate_s2 + w * p.gate_s3);
#endif
#if RESIDUAL
  t += residual_get(batch * p.residual_s0 + channel * p.residual_s1 + h * p.residual_s2 + w * p.residual_s3);
#endif
#if ACCUMULATE
  t += y_get(y_at(batch, channel, pixel));
#endif
  return t;
}
