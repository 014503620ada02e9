// Cosine and sine of `phase` / 2^32 turns. The builtins may be as coarse as 2^-11; these
// polynomials (Cephes, Moshier) are exact to f32.
fn cos_sin_turn(phase: u32) -> vec2<f32> {
  let quarter = (phase + 0x20000000u) >> 30u;
  let rest = bitcast<i32>(phase - (quarter << 30u));
  // Half a quarter turn is pi / 4.
  let x = f32(rest) * 1.4629180792671596e-9;
  let z = x * x;
  let s = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * x + x;
  let c = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z
    - 0.5 * z + 1.0;
  let swap = (quarter & 1u) == 1u;
  let cos_part = select(c, s, swap);
  let sin_part = select(s, c, swap);
  return vec2<f32>(
    select(cos_part, -cos_part, quarter == 1u || quarter == 2u),
    select(sin_part, -sin_part, quarter == 2u || quarter == 3u),
  );
}
