// y = the numbers that the blocks of w stand for: eight per invocation.
#include "lib/quant_${FORMAT}.wgsl"
#include "lib/store8.wgsl"

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
  let e = group_id(wg, nwg) * 256u + li;
  if (e >= p.n) { return; }
  let row = row_at(e / p.units);
  let j = (e % p.units) * 8u;
  store8(row.y, j, decode8(row.w + (j / BLOCK) * BLOCK_BYTES, (j % BLOCK) / 8u));
}
