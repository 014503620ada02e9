// Eight consecutive elements of y, j the first, in the row that starts at `row`.
fn store8(row: u32, j: u32, v: mat2x4<f32>) {
#for e in 0..4
#if PAIR
  y_set2(row + j + ${2 * e}u, vec2<f32>(v[${e / 2}][${2 * e % 4}], v[${e / 2}][${2 * e % 4 + 1}]));
#else
  y_set(row + (j + ${2 * e}u) * p.y_step, v[${e / 2}][${2 * e % 4}]);
  y_set(row + (j + ${2 * e + 1}u) * p.y_step, v[${e / 2}][${2 * e % 4 + 1}]);
#endif
#endfor
}
