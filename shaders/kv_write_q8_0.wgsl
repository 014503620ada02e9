// cache[slots[b, s]] = x[b, h, s] for caches of Q8_0 blocks: one block per invocation.
#include "lib/slot.wgsl"
#include "lib/encode_q8_0.wgsl"

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
  encode_q8_0(at.x + unit * 32u * p.x_step, slot.y + unit * 34u);
}
