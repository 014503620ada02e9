// y = softmax(scale * x + mask): one workgroup per row. MASK: 0 none, 1 bytes where 0 hides, 2
// floats to add.
#include "lib/reduce.wgsl"

fn score(row: row_at_at, j: u32) -> f32 {
  let v = x_get(row.x + j * p.x_step) * p.scale;
#if MASK == 1
  return select(v, neg_inf(), mask_get(row.mask + j * p.mask_step) == 0u);
#elif MASK == 2
  return v + mask_get(row.mask + j * p.mask_step);
#else
  return v;
#endif
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
#if PAIR
  let unit = 2u;
#else
  let unit = 1u;
#endif
  var top = neg_inf();
  for (var j = li * unit; j < p.width; j += ${WG}u * unit) {
    for (var u = 0u; u < unit; u++) { top = max_nan(top, score(row, j + u)); }
  }
  top = max_all(top, li);
  // A row of nothing but -inf is 0; any finite top avoids -inf - -inf.
  let hidden = bitcast<u32>(top) == 0xff800000u;
  if (hidden) { top = 0.0; }
  var total = 0.0;
  for (var j = li * unit; j < p.width; j += ${WG}u * unit) {
    for (var u = 0u; u < unit; u++) { total += exp(score(row, j + u) - top); }
  }
  total = sum_all(total, li);
  let scale = select(1.0 / total, 0.0, hidden);
  for (var j = li * unit; j < p.width; j += ${WG}u * unit) {
#if PAIR
    let v = vec2<f32>(exp(score(row, j) - top), exp(score(row, j + 1u) - top));
    y_set2(row.y + j * p.y_step, v * scale);
#else
    y_set(row.y + j * p.y_step, exp(score(row, j) - top) * scale);
#endif
  }
}
