//! Plain element types to and from f64.

use crate::element::DType;

/// Geometry of a binary floating-point type: fraction bits, exponent of the least normal number,
/// largest finite number.
struct Float {
    fraction: i32,
    least: i32,
    max: f64,
    /// Beyond `max`: infinity, or the largest finite number.
    saturates: bool,
}

fn float(dtype: DType) -> Option<Float> {
    let (fraction, least, max, saturates) = match dtype {
        DType::F32 => (23, -126, f64::from(f32::MAX), false),
        DType::F16 => (10, -14, 65504.0, false),
        DType::BF16 => (7, -126, f64::from_bits(0x47EF_E000_0000_0000), false),
        DType::F8E4M3 => (3, -6, 448.0, true),
        DType::F8E5M2 => (2, -14, 57344.0, true),
        _ => return None,
    };
    Some(Float {
        fraction,
        least,
        max,
        saturates,
    })
}

/// Integer range of a type.
fn range(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::I8 => (-128.0, 127.0),
        DType::U8 => (0.0, 255.0),
        DType::I32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
        DType::U32 => (0.0, f64::from(u32::MAX)),
        _ => (i64::MIN as f64, i64::MAX as f64),
    }
}

/// `v` as `dtype` stores it: floats round to nearest even, beyond the largest finite number they
/// become infinite (8-bit floats saturate); integers truncate and saturate, NaN gives 0.
pub fn round_to(dtype: DType, v: f64) -> f64 {
    let Some(f) = float(dtype) else {
        if v.is_nan() {
            return 0.0;
        }
        let (low, high) = range(dtype);
        return v.trunc().clamp(low, high);
    };
    if v == 0.0 || v.is_nan() {
        return v;
    }
    if v.is_infinite() {
        return if f.saturates { f.max.copysign(v) } else { v };
    }
    // Subnormals of f64 are far below every type here and round to 0.
    let exponent = ((v.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let ulp = 2f64.powi(exponent.max(f.least) - f.fraction);
    let r = (v / ulp).round_ties_even() * ulp;
    if r.abs() <= f.max {
        r
    } else if f.saturates {
        f.max.copysign(v)
    } else {
        f64::INFINITY.copysign(v)
    }
}

/// The number in the first [`DType::size`] bytes of `b` (missing bytes read as 0).
pub fn decode_plain(dtype: DType, b: &[u8]) -> f64 {
    let mut word = [0u8; 8];
    let size = dtype.size().min(b.len());
    word[..size].copy_from_slice(&b[..size]);
    let bits = u64::from_le_bytes(word);
    match dtype {
        DType::F32 => f64::from(f32::from_bits(bits as u32)),
        DType::F16 => f64::from(half::f16::from_bits(bits as u16).to_f32()),
        DType::BF16 => f64::from(f32::from_bits((bits as u32) << 16)),
        DType::F8E4M3 => fp8(bits as u8, 3, 7, true),
        DType::F8E5M2 => fp8(bits as u8, 2, 15, false),
        DType::I8 => f64::from(bits as i8),
        DType::U8 => bits as f64,
        DType::I32 => f64::from(bits as i32),
        DType::U32 => bits as f64,
        DType::I64 => bits as i64 as f64,
    }
}

/// An 8-bit float (OCP 8-bit floating point specification 1.0).
fn fp8(bits: u8, fraction: u32, bias: i32, finite: bool) -> f64 {
    let sign = if bits & 0x80 != 0 { -1.0 } else { 1.0 };
    let exponent = i32::from((bits & 0x7f) >> fraction);
    let mantissa = f64::from(u32::from(bits) & ((1 << fraction) - 1));
    let unit = 2f64.powi(-(fraction as i32));
    let all_ones = exponent == (0x7f >> fraction);
    if finite && bits & 0x7f == 0x7f {
        return f64::NAN;
    }
    if !finite && all_ones {
        return if mantissa == 0.0 {
            sign * f64::INFINITY
        } else {
            f64::NAN
        };
    }
    if exponent == 0 {
        sign * mantissa * unit * 2f64.powi(1 - bias)
    } else {
        sign * (1.0 + mantissa * unit) * 2f64.powi(exponent - bias)
    }
}

/// Appends `v`, rounded as [`round_to`] does.
pub fn encode_plain(dtype: DType, v: f64, out: &mut Vec<u8>) {
    let r = round_to(dtype, v);
    match dtype {
        DType::F32 => out.extend((r as f32).to_le_bytes()),
        DType::F16 => out.extend(half::f16::from_f32(r as f32).to_le_bytes()),
        DType::BF16 => out.extend(half::bf16::from_f32(r as f32).to_le_bytes()),
        DType::F8E4M3 | DType::F8E5M2 => {
            if r.is_nan() {
                out.push(0x7f);
                return;
            }
            // 256 candidates: the exact one is among them.
            let sign = if r.is_sign_negative() { 0x80u8 } else { 0 };
            let found = (0..0x80u8).find(|&b| decode_plain(dtype, &[b]) == r.abs());
            out.push(sign | found.unwrap_or(0));
        }
        DType::I8 => out.extend((r as i8).to_le_bytes()),
        DType::U8 => out.push(r as u8),
        DType::I32 => out.extend((r as i32).to_le_bytes()),
        DType::U32 => out.extend((r as u32).to_le_bytes()),
        DType::I64 => out.extend((r as i64).to_le_bytes()),
    }
}
