//! Files with one of everything, cut and damaged.

use super::*;

fn string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

/// A file with one of everything: scalars, arrays, nested arrays, a known
/// and an unknown tensor type, a hyphenated key.
fn sample() -> Vec<u8> {
    let mut f = b"GGUF".to_vec();
    f.extend(3u32.to_le_bytes());
    f.extend(2u64.to_le_bytes());
    f.extend(7u64.to_le_bytes());
    string(&mut f, "general.architecture");
    f.extend(kind::STRING.to_le_bytes());
    string(&mut f, "llama");
    string(&mut f, "gpt-oss.block_count");
    f.extend(kind::U32.to_le_bytes());
    f.extend(7u32.to_le_bytes());
    string(&mut f, "eps");
    f.extend(kind::F32.to_le_bytes());
    f.extend(0.5f32.to_le_bytes());
    string(&mut f, "flag");
    f.extend(kind::BOOL.to_le_bytes());
    f.push(1);
    string(&mut f, "tokens");
    f.extend(kind::ARRAY.to_le_bytes());
    f.extend(kind::STRING.to_le_bytes());
    f.extend(3u64.to_le_bytes());
    for t in ["a", "", "é"] {
        string(&mut f, t);
    }
    string(&mut f, "scores");
    f.extend(kind::ARRAY.to_le_bytes());
    f.extend(kind::F32.to_le_bytes());
    f.extend(2u64.to_le_bytes());
    f.extend((-1.5f32).to_le_bytes());
    f.extend(2f32.to_le_bytes());
    string(&mut f, "nested");
    f.extend(kind::ARRAY.to_le_bytes());
    f.extend(kind::ARRAY.to_le_bytes());
    f.extend(1u64.to_le_bytes());
    f.extend(kind::I8.to_le_bytes());
    f.extend(2u64.to_le_bytes());
    f.extend([1, 2]);
    for (name, kind, offset) in [("w", 0u32, 0u64), ("odd", 777, 32)] {
        string(&mut f, name);
        f.extend(2u32.to_le_bytes());
        f.extend(2u64.to_le_bytes());
        f.extend(3u64.to_le_bytes());
        f.extend(kind.to_le_bytes());
        f.extend(offset.to_le_bytes());
    }
    f.resize(f.len().next_multiple_of(32), 0);
    f.extend((0..56).map(|i| i as u8));
    f
}

/// `name` keeps the files of tests that run at once apart.
fn open(name: &str, bytes: &[u8]) -> Result<Gguf> {
    let path =
        std::env::temp_dir().join(format!("gristmill-gguf-{}-{name}.gguf", std::process::id()));
    std::fs::write(&path, bytes)?;
    let gguf = Gguf::open(&path);
    std::fs::remove_file(&path)?;
    gguf
}

#[test]
fn reads_what_was_written() {
    let g = open("sample", &sample()).unwrap();
    assert_eq!(g.str("general.architecture").unwrap(), "llama");
    assert_eq!(g.usize("gpt-oss.block_count").unwrap(), 7);
    assert_eq!(g.float("eps").unwrap(), 0.5);
    assert!(g.bool("flag").unwrap());
    assert_eq!(g.strings("tokens").unwrap(), ["a", "", "é"]);
    assert_eq!(g.floats("scores").unwrap(), [-1.5, 2.0]);
    assert_eq!(g.tensor_bytes(), 56);
    let w = g.tensor("w").unwrap();
    assert_eq!(w.shape, [3, 2]);
    assert_eq!(g.bytes("w", w, 24).unwrap()[..3], [0, 1, 2]);
    let odd = g.tensor("odd").unwrap();
    assert_eq!(odd.ggml_type, 777);
    assert_eq!(g.bytes("odd", odd, 24).unwrap()[0], 32);
    let e = g.bytes("odd", odd, 25).unwrap_err().to_string();
    assert!(e.contains("truncated") && e.contains("odd"), "{e}");
}

#[test]
fn says_what_is_wrong_with_a_key() {
    let g = open("keys", &sample()).unwrap();
    for (error, want) in [
        (g.usize("absent").unwrap_err(), "absent is missing"),
        (g.usize("eps").unwrap_err(), "eps is not an integer"),
        (
            g.strings("scores").unwrap_err(),
            "scores is not an array of strings",
        ),
        (
            g.floats("nested").unwrap_err(),
            "nested is not an array of numbers",
        ),
        (g.floats("eps").unwrap_err(), "eps is not an array"),
    ] {
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[test]
fn every_truncation_of_the_header_is_an_error() {
    let whole = sample();
    let header = whole.len() - 56 - 32;
    for len in 0..header {
        let error = index(&whole[..len])
            .err()
            .unwrap_or_else(|| panic!("{len} bytes were accepted"));
        let error = format!("{error:#}");
        assert!(
            error.contains("truncated") || error.contains("not a GGUF"),
            "{error}"
        );
    }
}

#[test]
fn damaged_headers_end_without_a_panic() {
    let whole = sample();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + next() % 3 {
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
        }
        refused += usize::from(index(&bytes).is_err());
    }
    assert!(
        refused > 1000,
        "only {refused} damaged headers were refused"
    );
}

#[test]
fn refuses_impossible_claims() {
    let with = |at: usize, value: u64| {
        let mut f = sample();
        f[at..at + 8].copy_from_slice(&value.to_le_bytes());
        format!("{:#}", index(&f).err().unwrap())
    };
    assert!(with(8, u64::MAX).contains("truncated"));
    assert!(with(16, u64::MAX).contains("truncated"));
    assert!(with(24, u64::MAX).contains("truncated"));
    let mut f = sample();
    f[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert!(index(&f).err().unwrap().to_string().contains("big-endian"));
    f[4..8].copy_from_slice(&9u32.to_le_bytes());
    assert!(index(&f).err().unwrap().to_string().contains("version 9"));
    assert!(
        index(b"PK\x03\x04")
            .err()
            .unwrap()
            .to_string()
            .contains("not a GGUF")
    );
}
