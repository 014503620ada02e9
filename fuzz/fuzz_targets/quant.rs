//! Every format decodes any bytes, and encodes any floats or says why not; what was encoded
//! decodes to finite numbers, and encoding them again changes nothing that matters.
#![no_main]

use gristmill::quant::QuantFormat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&first, data)) = data.split_first() else {
        return;
    };
    let format = QuantFormat::ALL[usize::from(first) % QuantFormat::ALL.len()];
    let (len, size) = (format.block_len(), format.block_bytes());

    // Decode: whole blocks always, anything else is an error.
    let blocks = data.len() / size;
    let mut numbers = vec![0.0f32; blocks * len];
    format
        .decode(&data[..blocks * size], &mut numbers)
        .expect("any whole blocks decode");
    if data.len() % size != 0 {
        assert!(format.decode(data, &mut numbers).is_err());
    }

    // Encode any bit patterns, and what came out of the decoder.
    let patterns: Vec<f32> = data
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&b| f32::from_le_bytes(b))
        .collect();
    let whole = patterns.len() / len * len;
    // The codebook searches take milliseconds a block: one is enough.
    for x in [
        &patterns[..whole.min(2 * len)],
        &numbers[..numbers.len().min(len)],
    ] {
        let mut out = vec![0xAA; x.len() / len * size];
        match format.encode(x, &mut out) {
            Ok(()) => {
                let mut back = vec![f32::NAN; x.len()];
                format
                    .decode(&out, &mut back)
                    .expect("encoded blocks decode");
                assert!(
                    back.iter().all(|v| v.is_finite()),
                    "{format}: {x:?} gives {back:?}"
                );
                let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
                let error = x.iter().zip(&back).fold(0f64, |m, (a, b)| {
                    m.max((f64::from(*a) - f64::from(*b)).abs())
                });
                // No format is worse than giving zero twice over; two scale steps of the smallest
                // half-precision number may be lost besides.
                let bound = 3.0 * f64::from(largest) + 1e-4;
                assert!(error <= bound, "{format}: {x:?} gives {back:?}");
            }
            Err(_) => assert!(
                !format.can_encode() || x.iter().any(|v| !v.is_finite() || v.abs() > 1e3),
                "{format} refuses {x:?}"
            ),
        }
    }
    if whole < patterns.len() {
        let mut out = vec![0; patterns.len() / len * size];
        assert!(format.encode(&patterns, &mut out).is_err());
    }
});
