// One invocation per element of y, or per two that share a word: the including shader defines
// `fn value(o: at_at) -> f32`.
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
#if PAIR
  let e = (group_id(wg, nwg) * 256u + li) * 2u;
  if (e >= p.n) { return; }
  let o = at(e);
  y_set2(o.y, vec2<f32>(value(o), value(at(e + 1u))));
#else
  let e = group_id(wg, nwg) * 256u + li;
  if (e >= p.n) { return; }
  let o = at(e);
  y_set(o.y, value(o));
#endif
}
