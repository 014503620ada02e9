// a / b for positive numbers, rounded to nearest even: `/` may be off by 2.5 ulp, and residuals
// cannot be trusted where products and differences may be contracted. Long division of the
// mantissas, 7 bits at a time; what is not normal is left to `/`.
fn divide_exact(a: f32, b: f32) -> f32 {
  let x = bitcast<u32>(a);
  let y = bitcast<u32>(b);
  let ex = i32(x >> 23u);
  let ey = i32(y >> 23u);
  if (ex == 0 || ex >= 255 || ey == 0 || ey >= 255) { return a / b; }
  let mx = (x & 0x7fffffu) | 0x800000u;
  let my = (y & 0x7fffffu) | 0x800000u;
  var q = mx / my;
  var rest = mx % my;
  for (var i = 0u; i < 4u; i++) {
    let v = rest << 7u;
    q = (q << 7u) | (v / my);
    rest = v % my;
  }
  // q = mx / my * 2^28, of 28 or 29 bits; 24 are kept.
  let top = firstLeadingBit(q);
  let s = top - 23u;
  var m = q >> s;
  let tail = q & ((1u << s) - 1u);
  let tie = 1u << (s - 1u);
  if (tail > tie || (tail == tie && (rest != 0u || (m & 1u) == 1u))) { m += 1u; }
  let e = ex - ey + i32(top) + 98;
  if (e < 0 || e >= 253) { return a / b; }
  return bitcast<f32>((u32(e) << 23u) + m);
}
