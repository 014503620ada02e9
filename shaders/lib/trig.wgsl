// Cosine and sine of `quarter` quarter turns and the angle x, |x| <= pi / 4. The builtins may be as
// coarse as 2^-11; these polynomials (Cephes, Moshier) are exact to f32.
fn cos_sin_near(x: f32, quarter: u32) -> vec2<f32> {
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

// Cosine and sine of `phase` / 2^32 turns.
fn cos_sin_turn(phase: u32) -> vec2<f32> {
  let quarter = (phase + 0x20000000u) >> 30u;
  let rest = bitcast<i32>(phase - (quarter << 30u));
  // Half a quarter turn is pi / 4.
  return cos_sin_near(f32(rest) * 1.4629180792671596e-9, quarter);
}

// Cosine and sine of an angle; its quarter turns are taken off in three parts of pi / 2, the first
// two short enough that their multiples are exact to 2^16 turns (Cody and Waite). Angles beyond have
// no bits left for a turn: what they give is a cosine and a sine, but of some angle.
fn cos_sin(angle: f32) -> vec2<f32> {
  let turns = round(angle * 0.63661977);
  let rest = ((angle - turns * 1.5703125) - turns * 4.837512969970703e-4) - turns * 7.549789948768648e-8;
  let x = select(clamp(rest, -0.78539817, 0.78539817), rest, is_nan(rest));
  return cos_sin_near(x, u32(turns - 4.0 * floor(turns * 0.25)) & 3u);
}
