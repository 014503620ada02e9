// y = norm(h) * (weight + weight_offset) + bias with h = x + residual: one workgroup per row.
// In place is safe: an invocation visits the same elements in every pass, and writes in the last.
#include "lib/reduce.wgsl"

fn h_at(row: row_at_at, j: u32) -> f32 {
  let i = inner_at(j);
#if RESIDUAL
  return x_get(row.x + i.x) + residual_get(row.residual + i.residual);
#else
  return x_get(row.x + i.x);
#endif
}

fn affine(v: f32, channel: u32) -> f32 {
  var r = v;
#if WEIGHT
  r *= weight_get(channel * p.weight_step) + p.weight_offset;
#endif
#if BIAS
  r += bias_get(channel * p.bias_step);
#endif
  return r;
}

@compute @workgroup_size(${WG})
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
  let r = group_id(wg, nwg);
  if (r >= p.groups) { return; }
  let row = row_at(r);
  let first = (r % p.norm_groups) * p.channels;
#if PAIR
  let unit = 2u;
#else
  let unit = 1u;
#endif
  var mean = 0.0;
#if KIND == 2
  var total = 0.0;
  for (var j = li * unit; j < p.width; j += ${WG}u * unit) {
    total += h_at(row, j);
#if PAIR
    total += h_at(row, j + 1u);
#endif
  }
  mean = sum_all(total, li) / f32(p.width);
#endif
  var squares = 0.0;
  for (var j = li * unit; j < p.width; j += ${WG}u * unit) {
    let a = h_at(row, j) - mean;
    squares += a * a;
#if PAIR
    let b = h_at(row, j + 1u) - mean;
    squares += b * b;
#endif
  }
  squares = sum_all(squares, li);
#if KIND == 1
  let scale = 1.0 / max(sqrt(squares), p.eps);
#else
  let scale = 1.0 / sqrt(squares / f32(p.width) + p.eps);
#endif
  for (var j = li * unit; j < p.width; j += ${WG}u * unit) {
    let i = inner_at(j);
    let a = h_at(row, j);
    let c = first + j / p.positions;
#if PAIR
    let b = h_at(row, j + 1u);
#if SUM
    sum_set2(row.sum + i.sum, vec2<f32>(a, b));
#endif
    y_set2(row.y + i.y, vec2<f32>(affine((a - mean) * scale, c), affine((b - mean) * scale, c + 1u)));
#else
#if SUM
    sum_set(row.sum + i.sum, a);
#endif
    y_set(row.y + i.y, affine((a - mean) * scale, c));
#endif
  }
}
