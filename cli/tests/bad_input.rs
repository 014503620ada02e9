//! Wrong command lines and wrong files: a clear message, the right exit code, no panic, no hang.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn gristmill(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gristmill"))
        .args(args)
        .env_remove("GRISTMILL_DEVICE")
        .env_remove("GRISTMILL_KERNEL")
        .env_remove("GRISTMILL_CAPTURE")
        .output()
        .unwrap()
}

/// Runs, expects the exit code, and expects every word on standard error.
fn refused(args: &[&str], code: i32, words: &[&str]) {
    let out = gristmill(args);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{args:?}: {said}");
    for word in words {
        assert!(
            said.contains(word),
            "{args:?}: expected {word:?} in: {said}"
        );
    }
}

/// A folder of this test process.
fn folder() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("gristmill-bad-input-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn file(name: &str, bytes: &[u8]) -> String {
    let path = folder().join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_string_lossy().into_owned()
}

/// A capture of a copy of four numbers.
fn capture() -> Vec<u8> {
    let data: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let x = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![4], &data).unwrap();
    let op = r#"{"op": "copy", "x": "x", "y": {"tensor": "y", "element": "f32", "shape": [4]}}"#;
    let meta = [("op".to_owned(), op.to_owned())].into();
    safetensors::serialize([("x", x)], Some(meta)).unwrap()
}

#[test]
fn command_lines() {
    refused(&[], 2, &["Usage"]);
    refused(&["frobnicate"], 2, &["frobnicate"]);
    refused(&["verify", "--tier", "huge"], 2, &["smoke, full or soak"]);
    refused(&["verify", "--op", "matmul"], 2, &["mat_mul"]);
    refused(&["replay"], 2, &["FILE"]);
    refused(
        &["bench", "--device", "cpu", "--seconds", "-1"],
        2,
        &["--seconds"],
    );
}

#[test]
fn devices_and_kernels() {
    refused(&["verify", "--device", "npu"], 1, &["npu", "cpu"]);
    refused(&["verify", "--device", "cpu:7"], 1, &["cpu:7"]);
    refused(&["verify", "--device", "cpu:x"], 1, &["cuda:0"]);
    refused(
        &["verify", "--device", "cpu", "--filter", "no such case"],
        1,
        &["nothing matches"],
    );
    let out = Command::new(env!("CARGO_BIN_EXE_gristmill"))
        .args([
            "replay",
            "--device",
            "cpu",
            &file("ok.safetensors", &capture()),
        ])
        .env("GRISTMILL_KERNEL", "no-such-kernel")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("no-such-kernel"), "{said}");
}

#[test]
fn captures() {
    let good = capture();
    let out = gristmill(&[
        "replay",
        "--device",
        "cpu",
        &file("good.safetensors", &good),
    ]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(0), "{said}");
    assert!(String::from_utf8_lossy(&out.stdout).contains(": ok"));

    refused(
        &["replay", "--device", "cpu", "/no/such/file"],
        1,
        &["/no/such/file"],
    );
    for cut in [0, 7, 8, 20, good.len() - 1] {
        let name = file(&format!("cut-{cut}.safetensors"), &good[..cut]);
        refused(
            &["replay", "--device", "cpu", &name],
            1,
            &["not a safetensors file"],
        );
    }
    let mut garbled = good.clone();
    let at = garbled.windows(4).position(|w| w == b"copy").unwrap();
    garbled[at..at + 4].copy_from_slice(b"cxpy");
    let name = file("garbled.safetensors", &garbled);
    refused(&["replay", "--device", "cpu", &name], 1, &["cxpy"]);
}

#[test]
fn models() {
    let absent = Path::new("/no/such/model.gguf")
        .to_string_lossy()
        .into_owned();
    let generate = |model: &str, words: &[&str]| {
        let args = [
            "generate", "--device", "cpu", "--prompt", "a", "--model", model,
        ];
        refused(&args, 1, words);
    };
    generate(&absent, &["/no/such/model.gguf"]);
    generate(&file("empty.gguf", b""), &["empty.gguf"]);
    generate(
        &file("text.gguf", b"this is not a model at all, just text"),
        &["text.gguf"],
    );
    generate(
        &file("cut.gguf", b"GGUF\x03\0\0\0\xff\xff\xff\xff\0\0\0\0"),
        &["cut.gguf"],
    );
    // Counts far beyond the file must not be allocated.
    let mut huge = b"GGUF\x03\0\0\0".to_vec();
    huge.extend(u64::MAX.to_le_bytes());
    huge.extend(u64::MAX.to_le_bytes());
    generate(&file("huge.gguf", &huge), &["huge.gguf"]);
    refused(
        &[
            "logits",
            "--model",
            &absent,
            "--tokens",
            "1,x",
            "--out",
            "/tmp/none",
        ],
        2,
        &["--tokens"],
    );
}
