// Where a row of keys or values goes in the cache. A slot outside the cache, such as -1, which is
// a large number here, drops the row.
struct Slot {
  kept: bool,
  y: u32,
}

fn slot_of(at: row_at_at) -> Slot {
  let slot = bitcast<u32>(slots_get(at.slots));
  let kept = slot < p.capacity;
  let s = select(0u, slot, kept);
  return Slot(kept, at.y + (s / p.page) * p.page_step + (s % p.page) * p.row_step);
}
