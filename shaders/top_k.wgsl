// The k best of one chunk of a row: the ranks wait in workgroup memory, and each round takes the
// first of the greatest. FIRST: the candidates are the row itself, else the places that the last
// pass found. LAST: one chunk, so the results go out; else their places go to the next pass.
//
// Candidates of equal rank stand in the order of their places, within a chunk because it is
// sorted so, and between chunks because chunks are; so the lowest candidate is the lowest place.
#include "lib/rank.wgsl"

const NONE: u32 = 0xffffffffu;
var<workgroup> ranks: array<u32, ${CHUNK}>;

@compute @workgroup_size(${WG})
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
  let group = group_id(wg, nwg);
  if (group >= p.groups) { return; }
  let r = group / p.chunks;
  let row = row_at(r);
  let start = (group % p.chunks) * ${CHUNK}u;
  let n = min(p.count - start, ${CHUNK}u);
  // Best of this invocation's candidates li, li + WG, ..; found again only after it was taken.
  var top = 0u;
  var place = NONE;
  for (var j = li; j < n; j += ${WG}u) {
#if FIRST
    let v = rank_of(x_get(row.x + (start + j) * p.x_step));
#else
    let id = found_get(r * p.count + start + j);
    var v = 0u;
    if (id != NONE) { v = rank_of(x_get(row.x + id * p.x_step)); }
#endif
    ranks[j] = v;
    if (place == NONE || v > top) { top = v; place = j; }
  }
  for (var i = 0u; i < p.k; i++) {
    let best = first_all(top, place, li);
    var id = NONE;
    if (best.y != NONE && best.x != 0u) {
#if FIRST
      id = start + best.y;
#else
      id = found_get(r * p.count + start + best.y);
#endif
    }
#if LAST
    if (li == 0u && id != NONE) {
      values_set(row.values + i * p.values_step, x_get(row.x + id * p.x_step));
      ids_set(row.ids + i * p.ids_step, bitcast<i32>(id));
    }
#else
    if (li == 0u) { next_set((r * p.chunks + start / ${CHUNK}u) * p.k + i, id); }
#endif
    // Rank 0 belongs to no number (-inf is above it), so it marks what was taken.
    if (best.y == place && place != NONE) {
      ranks[place] = 0u;
      top = 0u;
      place = NONE;
      for (var j = li; j < n; j += ${WG}u) {
        let v = ranks[j];
        if (place == NONE || v > top) { top = v; place = j; }
      }
    }
  }
}
