// Reduction along one axis: one workgroup per result. FUNCTION: sum, mean, max, min, arg max.
#if FUNCTION == 4
#include "lib/rank.wgsl"
#else
#include "lib/reduce.wgsl"
#endif

@compute @workgroup_size(${WG})
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
  let r = group_id(wg, nwg);
  if (r >= p.groups) { return; }
  let row = row_at(r);
#if FUNCTION == 4
  var top = 0u;
  var place = 0xffffffffu;
  for (var j = li; j < p.width; j += ${WG}u) {
    let v = rank_of(x_get(row.x + j * p.x_step));
    if (place == 0xffffffffu || v > top) { top = v; place = j; }
  }
  let found = first_all(top, place, li);
  if (li == 0u) { y_set(row.y, bitcast<i32>(found.y)); }
#else
#if FUNCTION <= 1
  var v = 0.0;
  for (var j = li; j < p.width; j += ${WG}u) { v += x_get(row.x + j * p.x_step); }
  v = sum_all(v, li);
#elif FUNCTION == 2
  var v = neg_inf();
  for (var j = li; j < p.width; j += ${WG}u) { v = max_nan(v, x_get(row.x + j * p.x_step)); }
  v = max_all(v, li);
#else
  var v = pos_inf();
  for (var j = li; j < p.width; j += ${WG}u) { v = min_nan(v, x_get(row.x + j * p.x_step)); }
  v = min_all(v, li);
#endif
#if FUNCTION == 1
  v = v / f32(p.width);
#endif
  if (li == 0u) { y_set(row.y, v); }
#endif
}
