// Replaces the bits of one word that `mask` selects: writes that do not end at word boundaries.
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) wg: vec3<u32>) {
  w_set(p.at, (w_get(p.at) & ~p.mask) | (p.bits & p.mask));
}
