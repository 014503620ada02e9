// y[.., h, w] = x[.., h / times_high, w / times_wide]
fn pixel(e: u32, plane: u32) -> f32 {
  let w = e % p.wide;
  let h = (e / p.wide) % p.high;
  return x_get(plane + (h / p.times_high) * p.x_row + (w / p.times_wide) * p.x_step);
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
#if PAIR
  let e = (group_id(wg, nwg) * 256u + li) * 2u;
#else
  let e = group_id(wg, nwg) * 256u + li;
#endif
  if (e >= p.n) { return; }
  let o = at(e);
#if PAIR
  y_set2(o.y, vec2<f32>(pixel(e, o.x), pixel(e + 1u, o.x)));
#else
  y_set(o.y, pixel(e, o.x));
#endif
}
