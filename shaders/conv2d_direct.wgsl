// Convolution, one output per invocation (two where they share a word): for groups of few
// channels, where there is nothing to share between outputs.
#include "lib/conv_io.wgsl"

fn output(e: u32) -> f32 {
  let pixels = p.out_high * p.out_wide;
  let pixel = e % pixels;
  let channels = p.conv_groups * p.out_channels;
  let channel = (e / pixels) % channels;
  let batch = e / pixels / channels;
  let first = (channel / p.out_channels) * p.in_channels;
  let at = corner(pixel);
  var acc = 0.0;
  for (var c = 0u; c < p.in_channels; c++) {
    let base = batch * p.x_s0 + (first + c) * p.x_s1;
    for (var h = 0u; h < p.taps_high; h++) {
      for (var w = 0u; w < p.taps_wide; w++) {
        let weight = w_get(channel * p.w_s0 + c * p.w_s1 + h * p.w_s2 + w * p.w_s3);
        acc += weight * pixel_of(base, at, vec2<u32>(h, w));
      }
    }
  }
  return epilogue(acc, batch, channel, pixel);
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
#if PAIR
  let e = (group_id(wg, nwg) * 256u + li) * 2u;
#else
  let e = group_id(wg, nwg) * 256u + li;
#endif
  if (e >= p.n) { return; }
  let pixels = p.out_high * p.out_wide;
  let channels = p.conv_groups * p.out_channels;
  let y = y_at(e / pixels / channels, (e / pixels) % channels, e % pixels);
#if PAIR
  y_set2(y, vec2<f32>(output(e), output(e + 1u)));
#else
  y_set(y, output(e));
#endif
}
