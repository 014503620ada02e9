use proptest::prelude::*;

use super::*;

/// Error of an encoder relative to the largest magnitude of the block.
enum Bound {
    /// Of every element: half a step of the codes, the clipping of the end, the f16 scales.
    Element(f32),
    /// Root of the mean square: a search may give up one element for the others.
    Rms(f32),
}

fn error_bound(format: QuantFormat) -> Bound {
    use Bound::*;
    use QuantFormat::*;
    match format {
        Q4_0 | Q5_1 => Element(0.13),
        Q4_1 | Q5_0 => Element(0.07),
        Q8_0 | Q8_1 | Q8_K => Element(0.005),
        // The scale may put the largest magnitude at 8, where the codes end at 6.
        MXFP4 => Element(0.26),
        TQ1_0 | TQ2_0 | Q2_0 => Element(0.51),
        Q1_0 => Element(1.01),
        Q2_K => Rms(0.2),
        Q3_K => Rms(0.15),
        Q4_K | IQ4_NL | IQ4_XS => Rms(0.08),
        Q5_K => Rms(0.04),
        Q6_K => Rms(0.02),
        NVFP4 => Rms(0.1),
        IQ3_XXS | IQ3_S => Rms(0.2),
        IQ2_XXS | IQ2_XS | IQ2_S => Rms(0.3),
        IQ1_S | IQ1_M => Rms(0.4),
    }
}

fn any_format() -> impl Strategy<Value = QuantFormat> {
    prop::sample::select(QuantFormat::ALL)
}

fn encoders() -> impl Iterator<Item = QuantFormat> {
    QuantFormat::ALL.iter().copied()
}

proptest! {
    #[test]
    fn any_bytes_decode(format in any_format(), seed in prop::collection::vec(any::<u8>(), 292), blocks in 0usize..4) {
        let bytes: Vec<u8> = seed.iter().copied().cycle().take(blocks * format.block_bytes()).collect();
        let len = blocks * format.block_len();
        let (mut a, mut b) = (vec![0.0; len], vec![1.0; len]);
        format.decode(&bytes, &mut a).unwrap();
        for (block, out) in bytes.chunks(format.block_bytes()).zip(b.chunks_mut(format.block_len())) {
            format.decode_block(block, out);
        }
        // Every element is written, and a block does not depend on its neighbours.
        prop_assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

proptest! {
    // The codebook searches take milliseconds per block.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn decode_inverts_encode_within_the_bound(
        x in prop::collection::vec(-1.0f32..1.0, 256),
        magnitude in prop::sample::select(vec![0.05f32, 1.0, 300.0]),
        offset in prop::sample::select(vec![0.0f32, 0.7, -3.0]),
    ) {
        let x: Vec<f32> = x.iter().map(|v| (v + offset) * magnitude).collect();
        for format in encoders() {
            let len = format.block_len();
            let mut bytes = vec![0; 256 / len * format.block_bytes()];
            format.encode(&x, &mut bytes).unwrap();
            let mut y = vec![f32::NAN; 256];
            format.decode(&bytes, &mut y).unwrap();
            for (x, y) in x.chunks(len).zip(y.chunks(len)) {
                let errors = x.iter().zip(y).map(|(x, y)| (x - y).abs());
                let (error, bound) = match error_bound(format) {
                    Bound::Element(b) => (errors.fold(0.0, f32::max), b),
                    Bound::Rms(b) => ((errors.map(|e| e * e).sum::<f32>() / len as f32).sqrt(), b),
                };
                let relative = error / bits::abs_max(x);
                prop_assert!(relative <= bound, "{}: {} over {}", format, relative, bound);
            }
        }
    }

    /// Magnitudes from subnormal to the largest f32: an error or finite elements, never a panic.
    #[test]
    fn any_finite_input_encodes_or_is_refused(
        x in prop::collection::vec(-1.0f32..1.0, 256),
        exponents in prop_oneof![
            prop::collection::vec(-149i32..128, 8),
            prop::collection::vec(-20i32..16, 8),
            prop::collection::vec(10i32..28, 8),
        ],
    ) {
        let scale = |i: usize| 2f64.powi(exponents[i / 32]);
        let x: Vec<f32> =
            x.iter().enumerate().map(|(i, v)| (f64::from(*v) * scale(i)) as f32).collect();
        for format in encoders() {
            let mut bytes = vec![0; 256 / format.block_len() * format.block_bytes()];
            match format.encode(&x, &mut bytes) {
                Ok(()) => {
                    let mut y = vec![f32::NAN; 256];
                    format.decode(&bytes, &mut y).unwrap();
                    prop_assert!(y.iter().all(|v| v.is_finite()), "{}", format);
                    // What is accepted is kept, not flushed or clipped away.
                    let len = format.block_len();
                    // Q1_0 has only the mean magnitude.
                    let least = if format == QuantFormat::Q1_0 { 0.007 } else { 0.05 };
                    for (x, y) in x.chunks(len).zip(y.chunks(len)) {
                        let (x, y) = (bits::abs_max(x), bits::abs_max(y));
                        prop_assert!(x < 0.01 || (least * x..2.0 * x).contains(&y), "{}: {} for {}", format, y, x);
                    }
                }
                Err(QuantError::ScaleOverflow { block, .. }) => {
                    let at = block * format.block_len();
                    prop_assert!(bits::abs_max(&x[at..at + format.block_len()]) > 2000.0);
                }
                Err(e) => prop_assert!(false, "{}", e),
            }
        }
    }
}

#[test]
fn zeros_stay_zero() {
    for format in encoders().filter(|f| *f != QuantFormat::Q1_0) {
        let mut bytes = vec![0xAA; format.block_bytes()];
        format
            .encode(&vec![0.0; format.block_len()], &mut bytes)
            .unwrap();
        let mut y = vec![f32::NAN; format.block_len()];
        format.decode(&bytes, &mut y).unwrap();
        assert!(y.iter().all(|v| *v == 0.0), "{format}");
    }
}

#[test]
fn q8_sums_are_the_sums_of_the_codes() {
    let x: Vec<f32> = (0..256)
        .map(|i| ((i * i) as f32 * 0.11).sin() + 0.3)
        .collect();
    let mut bytes = [0; 292];
    QuantFormat::Q8_K.encode(&x, &mut bytes).unwrap();
    for g in 0..16 {
        let sum: i32 = bytes[4 + 16 * g..][..16]
            .iter()
            .map(|&q| i32::from(q as i8))
            .sum();
        let stored = i16::from_le_bytes([bytes[260 + 2 * g], bytes[261 + 2 * g]]);
        assert_eq!(sum, i32::from(stored), "group {g}");
    }
    let mut bytes = [0; 36];
    QuantFormat::Q8_1.encode(&x[..32], &mut bytes).unwrap();
    let sum: f32 = bytes[4..].iter().map(|&q| f32::from(q as i8)).sum();
    let want = bits::f16_at(&bytes, 0) * sum;
    assert!((bits::f16_at(&bytes, 2) - want).abs() <= want.abs() * 2e-3);
}

#[test]
fn wrong_lengths_are_errors() {
    for &format in QuantFormat::ALL {
        let (len, size) = (format.block_len(), format.block_bytes());
        let mut out = vec![0.0; 2 * len];
        assert_eq!(
            format.decode(&vec![0; size + 1], &mut out),
            Err(QuantError::PartialBlock {
                format,
                bytes: size + 1
            })
        );
        assert_eq!(
            format.decode(&vec![0; size], &mut out),
            Err(QuantError::ElementCount {
                format,
                blocks: 1,
                elements: 2 * len
            })
        );
        assert_eq!(format.decode(&[], &mut []), Ok(()));
        let mut bytes = vec![0; 2 * size];
        assert!(format.can_encode(), "{format}");
        assert_eq!(
            format.encode(&out[1..], &mut bytes),
            Err(QuantError::PartialRow {
                format,
                elements: 2 * len - 1
            })
        );
        assert_eq!(
            format.encode(&out[..len], &mut bytes),
            Err(QuantError::ByteCount {
                format,
                blocks: 1,
                bytes: 2 * size
            })
        );
        out[len + 3] = f32::NAN;
        assert_eq!(
            format.encode(&out, &mut bytes),
            Err(QuantError::NonFinite {
                format,
                index: len + 3
            })
        );
    }
}

#[test]
fn scale_overflow_is_an_error() {
    let mut x = vec![0.0; 64];
    x[40] = 1e7;
    let mut bytes = vec![0; 68];
    let format = QuantFormat::Q8_0;
    assert_eq!(
        format.encode(&x, &mut bytes),
        Err(QuantError::ScaleOverflow { format, block: 1 })
    );
}

#[test]
fn names_and_ids_round_trip() {
    for &format in QuantFormat::ALL {
        assert_eq!(format.name().parse(), Ok(format));
        assert_eq!(format.name().to_lowercase().parse(), Ok(format));
        assert_eq!(format.to_string(), format.name());
        assert_eq!(format.name(), format!("{format:?}"));
        assert_eq!(QuantFormat::from_gguf_id(format.gguf_id()), Some(format));
    }
    // Plain, removed and unknown types.
    for id in [0, 1, 4, 5, 24, 30, 31, 36, 38, 43, u32::MAX] {
        assert_eq!(QuantFormat::from_gguf_id(id), None);
    }
    let error = "Q9_9".parse::<QuantFormat>().unwrap_err();
    assert!(error.to_string().contains("`Q9_9`"));
}

#[test]
fn positive_blocks_spend_no_codes_below_their_least_element() {
    let x: Vec<f32> = (0..256)
        .map(|i| 2.5 + (i as f32 * 0.7).sin() * 0.5)
        .collect();
    for (format, step) in [
        (QuantFormat::Q2_K, 1.0 / 3.0),
        (QuantFormat::Q4_K, 1.0 / 15.0),
    ] {
        let mut bytes = vec![0; format.block_bytes()];
        format.encode(&x, &mut bytes).unwrap();
        let mut y = vec![f32::NAN; 256];
        format.decode(&bytes, &mut y).unwrap();
        let worst = x
            .iter()
            .zip(&y)
            .fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
        assert!(worst < 0.75 * step, "{format}: {worst}, step {step}");
    }
}

#[test]
fn negative_outliers_beyond_the_scale_are_refused() {
    for &format in QuantFormat::ALL {
        // These have scales of f32 and E8M0.
        if matches!(format, QuantFormat::Q8_K | QuantFormat::MXFP4) {
            continue;
        }
        let mut x = vec![0.0; format.block_len()];
        x[5] = -1e10;
        let mut bytes = vec![0; format.block_bytes()];
        let refused = Err(QuantError::ScaleOverflow { format, block: 0 });
        assert_eq!(format.encode(&x, &mut bytes), refused);
    }
}
