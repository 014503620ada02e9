//! Decoders and encoders against vectors made with the formats' own libraries.
//!
//! `tests/data/goldens` holds a few blocks of each format. Where the full set lies beside the
//! checkout (`../shared/goldens/gguf`), the same checks run on it too.

use std::path::{Path, PathBuf};

use gristmill::quant::QuantFormat;
use safetensors::{Dtype, SafeTensors};

/// Formats whose encoding is one formula, so that the bytes must be equal.
const CLOSED_FORM: &[QuantFormat] = &[
    QuantFormat::Q4_0,
    QuantFormat::Q4_1,
    QuantFormat::Q5_0,
    QuantFormat::Q5_1,
    QuantFormat::Q8_0,
    QuantFormat::TQ1_0,
    QuantFormat::TQ2_0,
    QuantFormat::MXFP4,
    QuantFormat::Q1_0,
];

/// The committed vectors, and the full ones if present.
fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let full = root.join("../shared/goldens/gguf");
    let mut all = vec![root.join("tests/data/goldens")];
    if full.is_dir() {
        all.push(full);
    }
    all
}

fn read(dir: &Path, format: QuantFormat) -> Vec<u8> {
    let path = dir.join(format!("{format}.safetensors"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn bytes(file: &SafeTensors, name: &str) -> Vec<u8> {
    let t = file.tensor(name).unwrap();
    assert_eq!(t.dtype(), Dtype::U8, "{name}");
    t.data().to_vec()
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let t = file.tensor(name).unwrap();
    assert_eq!(t.dtype(), Dtype::F32, "{name}");
    t.data()
        .as_chunks()
        .0
        .iter()
        .copied()
        .map(f32::from_le_bytes)
        .collect()
}

fn has(file: &SafeTensors, name: &str) -> bool {
    file.names().contains(&name)
}

/// Decodes `blocks` and compares every bit with `expected`.
fn check_decode(format: QuantFormat, file: &SafeTensors, blocks: &str, expected: &str) {
    let (blocks_data, want) = (bytes(file, blocks), floats(file, expected));
    assert!(!want.is_empty(), "{format} {blocks}");
    let mut got = vec![f32::NAN; want.len()];
    format.decode(&blocks_data, &mut got).unwrap();
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert_eq!(
            g.to_bits(),
            w.to_bits(),
            "{format} {blocks}, block {}, element {}: {g:e} instead of {w:e}",
            i / format.block_len(),
            i % format.block_len()
        );
    }
    let (len, size) = (format.block_len(), format.block_bytes());
    let mut one = vec![f32::NAN; len];
    format.decode_block(&blocks_data[blocks_data.len() - size..], &mut one);
    assert_eq!(one, want[want.len() - len..], "{format} last block alone");
}

#[test]
fn decode_is_bit_exact() {
    for dir in sources() {
        println!("decode: vectors of {}", dir.display());
        for &format in QuantFormat::ALL {
            let data = read(&dir, format);
            let file = SafeTensors::deserialize(&data).unwrap();
            check_decode(format, &file, "bytes", "f32");
            check_decode(format, &file, "edge_bytes", "edge_f32");
            if has(&file, "outofspec_bytes") {
                check_decode(format, &file, "outofspec_bytes", "outofspec_f32_ggml");
            }
        }
    }
}

#[test]
fn geometry_and_ids_match() {
    for &format in QuantFormat::ALL {
        let data = read(&sources()[0], format);
        let (_, header) = SafeTensors::read_metadata(&data).unwrap();
        let meta = header.metadata().as_ref().unwrap();
        let field = |name: &str| meta[name].parse::<usize>().unwrap();
        assert_eq!(format.block_len(), field("block_elems"), "{format}");
        assert_eq!(format.block_bytes(), field("block_bytes"), "{format}");
        assert_eq!(format.gguf_id() as usize, field("ggml_type_id"), "{format}");
    }
}

#[test]
fn closed_form_encoders_give_the_same_bytes() {
    for dir in sources() {
        println!("encode: vectors of {}", dir.display());
        for &format in CLOSED_FORM {
            let data = read(&dir, format);
            let file = SafeTensors::deserialize(&data).unwrap();
            let x = floats(&file, "quant_input");
            let name = ["quant_bytes_gguf_py", "quant_bytes_libgguf"]
                .into_iter()
                .find(|n| has(&file, n))
                .unwrap();
            let want = bytes(&file, name);
            let mut got = vec![0xAA; want.len()];
            format.encode(&x, &mut got).unwrap();
            let size = format.block_bytes();
            for (i, (g, w)) in got.chunks(size).zip(want.chunks(size)).enumerate() {
                assert_eq!(g, w, "{format}, block {i}");
            }
        }
    }
}

/// Searching encoders need not give the bytes of ggml, but must be as near to the input.
#[test]
fn searching_encoders_reach_the_reference_error() {
    let mut failures = Vec::new();
    for dir in sources() {
        println!("search: vectors of {}", dir.display());
        for &format in QuantFormat::ALL {
            let data = read(&dir, format);
            let file = SafeTensors::deserialize(&data).unwrap();
            if !has(&file, "quant_row_rmse") {
                continue;
            }
            let x = floats(&file, "quant_input");
            let limits = floats(&file, "quant_row_rmse");
            let mut encoded = vec![0xAA; x.len() / format.block_len() * format.block_bytes()];
            format.encode(&x, &mut encoded).unwrap();
            let mut y = vec![f32::NAN; x.len()];
            format.decode(&encoded, &mut y).unwrap();
            let width = x.len() / limits.len();
            let mut worst = 0.0f64;
            for (row, limit) in limits.iter().enumerate() {
                let at = row * width..(row + 1) * width;
                let sum: f64 = x[at.clone()]
                    .iter()
                    .zip(&y[at])
                    .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
                    .sum();
                let rmse = (sum / width as f64).sqrt();
                let limit = f64::from(*limit);
                if rmse > 1.02 * limit + 1e-7 {
                    failures.push(format!(
                        "{format}, row {row}: RMSE {rmse:e}, reference {limit:e}"
                    ));
                }
                if limit > 1e-6 {
                    worst = worst.max(rmse / limit);
                }
            }
            println!("{format}: worst row at {worst:.4} of the reference RMSE");
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
