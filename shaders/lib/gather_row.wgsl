// Which row of the table an invocation reads: `row` counts from the first row of this part.
struct Place {
  row: u32,
  // The row lies in this part.
  here: bool,
  // The id names no row, and this part has to say so.
  zero: bool,
  y: u32,
  unit: u32,
}

fn place(e: u32) -> Place {
  let at = row_at(e / p.units);
  // A negative id is a large number, outside like any other.
  let id = bitcast<u32>(ids_get(at.ids));
  // Parentheses, or `<` to `>` would read as a list of types.
  let here = (id >= p.first_row) && (id < p.end_row);
  let zero = (id >= p.rows) && (p.outside == 1u);
  return Place(id - p.first_row, here, zero, at.y, e % p.units);
}
