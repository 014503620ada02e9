// y[i] = w[ids[i]] for rows of floats; zeros for ids outside the table.
#include "lib/gather_row.wgsl"

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
  let e = group_id(wg, nwg) * 256u + li;
  if (e >= p.n) { return; }
  let at = place(e);
  if (!at.here && !at.zero) { return; }
  let row = select(0u, at.row, at.here) * p.w_row;
#if PAIR
  let j = at.unit * 2u;
  var v = vec2<f32>(0.0);
  if (at.here) { v = vec2<f32>(w_get(row + j * p.w_step), w_get(row + (j + 1u) * p.w_step)); }
  y_set2(at.y + j, v);
#else
  var v = 0.0;
  if (at.here) { v = w_get(row + at.unit * p.w_step); }
  y_set(at.y + at.unit * p.y_step, v);
#endif
}
