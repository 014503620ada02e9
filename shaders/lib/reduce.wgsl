// Reductions over the WG invocations of a workgroup, in a fixed order. Every invocation must
// take part and gets the result.
var<workgroup> reduce_part: array<f32, ${WG}>;

fn sum_all(v: f32, li: u32) -> f32 {
  reduce_part[li] = v;
  workgroupBarrier();
  for (var s = ${WG / 2}u; s > 0u; s = s >> 1u) {
    if (li < s) { reduce_part[li] += reduce_part[li + s]; }
    workgroupBarrier();
  }
  let r = reduce_part[0];
  workgroupBarrier();
  return r;
}

fn max_all(v: f32, li: u32) -> f32 {
  reduce_part[li] = v;
  workgroupBarrier();
  for (var s = ${WG / 2}u; s > 0u; s = s >> 1u) {
    if (li < s) { reduce_part[li] = max_nan(reduce_part[li], reduce_part[li + s]); }
    workgroupBarrier();
  }
  let r = reduce_part[0];
  workgroupBarrier();
  return r;
}

fn min_all(v: f32, li: u32) -> f32 {
  return -max_all(-v, li);
}
