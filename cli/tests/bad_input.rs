//! Wrong command lines and wrong files: a clear message, the right exit code, no panic, no hang.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
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
    judge(&gristmill(args), args, code, words);
}

/// The same with one environment variable set.
fn refused_with(var: (&str, &str), args: &[&str], code: i32, words: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
    let out = command.args(args).env(var.0, var.1).output().unwrap();
    judge(&out, args, code, words);
}

fn judge(out: &Output, args: &[&str], code: i32, words: &[&str]) {
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
    one_input(r#"{"op": "copy", "x": "x", "y": {"tensor": "y", "element": "f32", "shape": [4]}}"#)
}

/// A capture of `op` over four numbers, x.
fn one_input(op: &str) -> Vec<u8> {
    let data: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let x = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![4], &data).unwrap();
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
    // A kernel that does not exist is said to, not passed over.
    let capture = file("ok.safetensors", &capture());
    let var = ("GRISTMILL_KERNEL", "no-such-kernel");
    let words = &["no-such-kernel", "devices --kernels"];
    refused_with(var, &["replay", "--device", "cpu", &capture], 1, words);
    refused_with(var, &["verify", "--device", "cpu"], 1, words);
    let bench = ["bench", "--device", "cpu", "--op", "copy"];
    refused_with(var, &bench, 1, words);
    refused_with(("GRISTMILL_DEVICE", "npu"), &["devices"], 1, &["npu"]);
}

/// Who reads the results may stop doing so at any time.
#[test]
fn closed_pipes() {
    for args in [
        &["devices", "--json"][..],
        &["devices", "--kernels"],
        &["verify", "--device", "cpu", "--op", "copy"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
        command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        judge(&child.wait_with_output().unwrap(), args, 1, &["error: "]);
    }
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

/// A capture of y = x . w^T with eight rows of one q8_0 block and x rounded to 8 bits at will, and
/// the result that f64 arithmetic gives, off by `error`.
fn product(error: f64, tolerance: Option<&str>) -> Vec<u8> {
    use safetensors::{Dtype, tensor::TensorView};
    let x: Vec<f32> = (0..32).map(|i| (0.7 * i as f32).sin()).collect();
    let code = |row: i32, i: i32| ((row * 37 + i * 11) % 255 - 127) as i8;
    let mut w = Vec::new();
    let mut y = Vec::new();
    for row in 0..8 {
        w.extend([0x00, 0x2c]); // scale 0.0625 as f16
        w.extend((0..32).map(|i| code(row, i) as u8));
        let exact: f64 = (0..32)
            .map(|i| f64::from(x[i as usize]) * f64::from(code(row, i)) * 0.0625)
            .sum();
        y.extend((exact + error).to_le_bytes());
    }
    let x: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let op = r#"{"op": "mat_mul", "x": "x", "precision": {"activations": "q8"},
        "w": {"rows": {"tensor": "w", "element": "q8_0", "shape": [8, 32]}},
        "y": {"tensor": "y", "element": "f32", "shape": [1, 8]}}"#;
    let mut meta = vec![("op".to_owned(), op.to_owned())];
    meta.extend(tolerance.map(|t| ("tolerance".to_owned(), t.to_owned())));
    let tensors = [
        ("x", Dtype::F32, vec![1, 32], &x),
        ("w", Dtype::U8, vec![8, 34], &w),
        ("expected.y", Dtype::F64, vec![1, 8], &y),
    ];
    let views = tensors.map(|(n, d, shape, b)| (n, TensorView::new(d, shape, b).unwrap()));
    safetensors::serialize(views, Some(meta.into_iter().collect())).unwrap()
}

#[test]
fn verdicts() {
    let replay = |name: &str, bytes: &[u8]| {
        let out = gristmill(&["replay", "--device", "cpu", &file(name, bytes)]);
        let said = [out.stdout, out.stderr].map(|s| String::from_utf8_lossy(&s).into_owned());
        (out.status.code(), said.concat())
    };
    // Without a tolerance the bound knows what the call accepts; an empty tolerance is none.
    for tolerance in [None, Some("{}"), Some(r#"{"nmse": 1e-3}"#)] {
        let (code, said) = replay("right.safetensors", &product(0.0, tolerance));
        assert_eq!(code, Some(0), "{tolerance:?}: {said}");
        assert!(said.contains("the expected output"), "{said}");
        let (code, said) = replay("wrong.safetensors", &product(9.0, tolerance));
        assert_eq!(code, Some(1), "{tolerance:?}: {said}");
        assert!(said.contains("FAILED"), "{said}");
    }
    // Few bytes, endless work: said before it starts. The file is named once.
    let sum = r#"{"op": "reduce", "function": "sum", "axis": 0,
        "x": {"tensor": "x", "shape": [4294967295, 1048576], "strides": [0, 0]},
        "y": {"tensor": "y", "element": "f32", "shape": [1, 1048576]}}"#;
    let (code, said) = replay("endless.safetensors", &one_input(sum));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the f64 reference would take"), "{said}");
    assert_eq!(said.matches("endless.safetensors").count(), 1, "{said}");
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
    generate(&folder().to_string_lossy(), &["is not a file"]);
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
