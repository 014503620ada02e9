// cache[slots[b, s]] = x[b, h, s] for caches of floats.
#include "lib/slot.wgsl"

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
  let e = group_id(wg, nwg) * 256u + li;
  if (e >= p.n) { return; }
  let at = row_at(e / p.units);
  let unit = e % p.units;
  let slot = slot_of(at);
  if (!slot.kept) { return; }
#if PAIR
  let j = unit * 2u;
  y_set2(slot.y + j, vec2<f32>(x_get(at.x + j * p.x_step), x_get(at.x + (j + 1u) * p.x_step)));
#else
  y_set(slot.y + unit * p.y_step, x_get(at.x + unit * p.x_step));
#endif
}
