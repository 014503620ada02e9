// y[i] = w[ids[i]] for rows of quantized blocks; zeros for ids outside the table.
#include "lib/quant_${FORMAT}.wgsl"
#include "lib/store8.wgsl"
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
  let j = at.unit * 8u;
  var v = mat2x4<f32>();
  if (at.here) { v = decode8(at.row * p.w_row + (j / BLOCK) * BLOCK_BYTES, (j % BLOCK) / 8u); }
  store8(at.y, j, v);
}
