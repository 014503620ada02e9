// Floats as integers of the same order, equal zeros, NaN above all.
fn rank_of(v: f32) -> u32 {
  let b = bitcast<u32>(v);
  if ((b & 0x7fffffffu) > 0x7f800000u) { return 0xffffffffu; }
  if ((b & 0x7fffffffu) == 0u) { return 0x80000000u; }
  return select(b | 0x80000000u, ~b, (b & 0x80000000u) != 0u);
}

var<workgroup> first_rank: array<u32, ${WG}>;
var<workgroup> first_place: array<u32, ${WG}>;

// Place of the greatest rank over the WG invocations of a workgroup, the lowest of equals. Every
// invocation must take part and gets the result.
fn first_all(rank: u32, place: u32, li: u32) -> vec2<u32> {
  first_rank[li] = rank;
  first_place[li] = place;
  workgroupBarrier();
  for (var s = ${WG / 2}u; s > 0u; s = s >> 1u) {
    if (li < s) {
      let r = first_rank[li + s];
      let q = first_place[li + s];
      if (r > first_rank[li] || (r == first_rank[li] && q < first_place[li])) {
        first_rank[li] = r;
        first_place[li] = q;
      }
    }
    workgroupBarrier();
  }
  let found = vec2<u32>(first_rank[0], first_place[0]);
  workgroupBarrier();
  return found;
}
