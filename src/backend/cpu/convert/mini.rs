//! 8-bit floats of OCP, to and from f32.

/// A small float with `M` bits of mantissa and exponent bias `bias`.
const fn minifloat(code: u8, mantissa: u32, bias: i32) -> f32 {
    let sign = if code & 0x80 != 0 { -1.0 } else { 1.0 };
    let e = ((code & 0x7f) as u32 >> mantissa) as i32;
    let m = (code as u32 & ((1 << mantissa) - 1)) as f32;
    let one = (1 << mantissa) as f32;
    // 2^(e - bias) (1 + m / one), or 2^(1 - bias) m / one; every factor is exact.
    let (exponent, value) = if e == 0 {
        (1 - bias, m / one)
    } else {
        (e - bias, 1.0 + m / one)
    };
    sign * value * f32::from_bits(((127 + exponent) as u32) << 23)
}

static E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = if i & 0x7f == 0x7f {
            f32::NAN
        } else {
            minifloat(i as u8, 3, 7)
        };
        i += 1;
    }
    table
};

static E5M2: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = match i & 0x7f {
            0x7c => {
                if i & 0x80 != 0 {
                    f32::NEG_INFINITY
                } else {
                    f32::INFINITY
                }
            }
            0x7d.. => f32::NAN,
            _ => minifloat(i as u8, 2, 15),
        };
        i += 1;
    }
    table
};

/// OCP E4M3 to f32.
#[inline]
pub(crate) fn e4m3_to_f32(code: u8) -> f32 {
    E4M3[code as usize]
}

/// OCP E5M2 to f32.
#[inline]
pub(crate) fn e5m2_to_f32(code: u8) -> f32 {
    E5M2[code as usize]
}

/// Magnitude bits of the nearest minifloat with `mantissa` bits of mantissa, ties to even, not
/// limited at the top.
#[inline]
fn round_to_minifloat(v: f32, mantissa: u32, bias: i32) -> u32 {
    let magnitude = v.abs();
    let smallest_normal = f32::from_bits(((128 - bias) as u32) << 23);
    if magnitude < smallest_normal {
        // Units of the smallest subnormal, 2^(1 - bias - mantissa): exact scaling, then ties even.
        let unit = f32::from_bits(((127 + bias - 1 + mantissa as i32) as u32) << 23);
        return (magnitude * unit).round_ties_even() as u32;
    }
    let bits = magnitude.to_bits();
    let drop = 23 - mantissa;
    let rounded = bits + ((1 << (drop - 1)) - 1) + (bits >> drop & 1);
    (rounded >> drop) - ((127 - bias as u32) << mantissa)
}

/// Nearest OCP E4M3; beyond 448, infinities included, the largest (OCP's saturating conversion).
#[inline]
pub(crate) fn f32_to_e4m3(v: f32) -> u8 {
    saturating(v, 3, 7, 0x7e)
}

/// Nearest OCP E5M2; beyond 57344, infinities included, the largest.
#[inline]
pub(crate) fn f32_to_e5m2(v: f32) -> u8 {
    saturating(v, 2, 15, 0x7b)
}

#[inline]
fn saturating(v: f32, mantissa: u32, bias: i32, largest: u8) -> u8 {
    let sign = (v.to_bits() >> 24 & 0x80) as u8;
    if v.is_nan() {
        sign | 0x7f
    } else if v.is_infinite() {
        sign | largest
    } else {
        sign | round_to_minifloat(v, mantissa, bias).min(largest.into()) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minifloats_round_trip_and_round_to_nearest_even() {
        type Case = (&'static [f32; 256], fn(f32) -> u8);
        for (table, encode) in
            [(&E4M3, f32_to_e4m3 as fn(f32) -> u8), (&E5M2, f32_to_e5m2)] as [Case; 2]
        {
            let mut finite: Vec<(f32, u8)> = Vec::new();
            for code in 0..=255u8 {
                let v = table[code as usize];
                if v.is_nan() {
                    assert!(table[encode(v) as usize].is_nan());
                } else if v.is_infinite() {
                    assert_eq!(encode(v), code - 1);
                } else {
                    assert_eq!(encode(v), code, "{v}");
                }
                if v.is_finite() && code < 0x80 {
                    finite.push((v, code));
                }
            }
            for pair in finite.windows(2) {
                let middle = (pair[0].0 + pair[1].0) / 2.0;
                let even = if pair[0].1 % 2 == 0 {
                    pair[0].1
                } else {
                    pair[1].1
                };
                assert_eq!(encode(middle), even, "{middle}");
                assert_eq!(encode(middle.next_down()), pair[0].1);
                assert_eq!(encode(middle.next_up()), pair[1].1);
                assert_eq!(encode(-middle), even | 0x80);
            }
        }
        assert_eq!(e4m3_to_f32(f32_to_e4m3(480.0)), 448.0);
        assert_eq!(e5m2_to_f32(f32_to_e5m2(-1e9)), -57344.0);
    }
}
