// Convolution as the product of filters [channels, K] and gathered pixels [K, pixels] with
// K = input channels x taps: 64 x 64 outputs per workgroup, 4 x 4 per invocation, 16 of K at a
// time in workgroup memory.
#include "lib/conv_io.wgsl"

const BK: u32 = 16u;
// By k, then by channel or pixel.
var<workgroup> filters: array<f32, 1024>;
var<workgroup> pixels: array<f32, 1024>;

// Input channel, row and column of the filter of one k.
fn tap_of(k: u32) -> vec3<u32> {
  let taps = p.taps_high * p.taps_wide;
  let t = k % taps;
  return vec3<u32>(k / taps, t / p.taps_wide, t % p.taps_wide);
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
  var tile = group_id(wg, nwg);
  if (tile >= p.groups) { return; }
  let pixel0 = (tile % p.pixel_tiles) * 64u;
  tile = tile / p.pixel_tiles;
  let channel0 = (tile % p.channel_tiles) * 64u;
  tile = tile / p.channel_tiles;
  let part = tile % p.conv_groups;
  let batch = tile / p.conv_groups;
  let pixel_count = p.out_high * p.out_wide;
  let depth = p.in_channels * p.taps_high * p.taps_wide;
  // This invocation gathers one pixel of four k, and one k of four filters.
  let pixel = min(pixel0 + (li & 63u), pixel_count - 1u);
  let at = corner(pixel);
  let x_base = batch * p.x_s0 + part * p.in_channels * p.x_s1;
  let w_base = part * p.out_channels * p.w_s0;

  let row = (li >> 4u) * 4u;
  let column = (li & 15u) * 2u;
  var acc: array<vec4<f32>, 4>;
  for (var i = 0u; i < 4u; i++) { acc[i] = vec4<f32>(0.0); }
  for (var k0 = 0u; k0 < depth; k0 += BK) {
#for i in 0..4
    {
      let k = k0 + (li >> 6u) + ${4 * i}u;
      var v = 0.0;
      if (k < depth) {
        let tap = tap_of(k);
        v = pixel_of(x_base + tap.x * p.x_s1, at, tap.yz);
      }
      pixels[((li >> 6u) + ${4 * i}u) * 64u + (li & 63u)] = v;
    }
#endfor
    {
      let k = k0 + (li & 15u);
      let tap = tap_of(min(k, depth - 1u));
      let w_tap = w_base + tap.x * p.w_s1 + tap.y * p.w_s2 + tap.z * p.w_s3;
#for i in 0..4
      {
        let c = (li >> 4u) + ${16 * i}u;
        var v = 0.0;
        if (k < depth && channel0 + c < p.out_channels) { v = w_get(w_tap + (channel0 + c) * p.w_s0); }
        filters[(li & 15u) * 64u + c] = v;
      }
#endfor
    }
    workgroupBarrier();
#for k in 0..16
    {
      let v = vec4<f32>(
        pixels[${64 * k}u + column], pixels[${64 * k + 1}u + column],
        pixels[${64 * k + 32}u + column], pixels[${64 * k + 33}u + column],
      );
#for i in 0..4
      acc[${i}] += filters[${64 * k + i}u + row] * v;
#endfor
    }
#endfor
    workgroupBarrier();
  }
#for i in 0..4
  {
    let c = channel0 + row + ${i}u;
    let channel = part * p.out_channels + c;
#for j in 0..2
    {
      let q = pixel0 + column + ${32 * j}u;
#if PAIR
      if (c < p.out_channels && q < pixel_count) {
        y_set2(y_at(batch, channel, q), vec2<f32>(
          epilogue(acc[${i}][${2 * j}], batch, channel, q),
          epilogue(acc[${i}][${2 * j + 1}], batch, channel, q + 1u),
        ));
      }
#else
      if (c < p.out_channels && q < pixel_count) {
        y_set(y_at(batch, channel, q), epilogue(acc[${i}][${2 * j}], batch, channel, q));
      }
      if (c < p.out_channels && q + 1u < pixel_count) {
        y_set(y_at(batch, channel, q + 1u), epilogue(acc[${i}][${2 * j + 1}], batch, channel, q + 1u));
      }
#endif
    }
#endfor
  }
#endfor
}
