//! Files as they are documented, and files that are not.

use super::*;
use crate::op::{MatMul, Weight};

fn call() -> CallFile {
    let view = |tensor: &str, element: Element, shape: &[u32]| {
        Operand::View(View {
            tensor: tensor.to_owned(),
            element: Some(element),
            shape: Some(shape.to_vec()),
            strides: None,
            offset: 0,
        })
    };
    let x = Operand::Whole("x".to_owned());
    let w = view("w", crate::QuantFormat::Q8_0.into(), &[2, 32]);
    let y = view("y", DType::F32.into(), &[3, 2]);
    let store = |dtype, shape: &[u32], len| Stored {
        dtype,
        shape: shape.to_vec(),
        bytes: vec![0; len],
    };
    CallFile {
        op: MatMul::new(&x, Weight::Rows(w), &y).into(),
        tensors: BTreeMap::from([
            ("x".to_owned(), store(DType::F32, &[3, 32], 384)),
            ("w".to_owned(), store(DType::U8, &[68], 68)),
        ]),
        expected: BTreeMap::from([("y".to_owned(), store(DType::F32, &[3, 2], 24))]),
        observed: BTreeMap::new(),
        tolerance: Some(Tolerance {
            nmse: Some(1e-6),
            ..Tolerance::default()
        }),
        note: None,
    }
}

#[test]
fn files_come_back() {
    let dir = std::env::temp_dir().join(format!("gristmill-capture-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("call.safetensors");
    call().write(&path).unwrap();
    assert_eq!(CallFile::read(&path).unwrap(), call());
    let bytes = std::fs::read(&path).unwrap();
    for cut in 0..bytes.len() {
        assert!(CallFile::parse(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn wrong_calls_are_explained() {
    let mut short = call();
    short.tensors.get_mut("w").unwrap().bytes.truncate(67);
    assert!(short.question().unwrap_err().contains("reaches beyond"));
    let mut missing = call();
    missing.tensors.remove("x");
    assert!(missing.question().unwrap_err().contains("no tensor \"x\""));
    let mut shape = call();
    shape.expected.get_mut("y").unwrap().shape = vec![2, 3];
    assert!(shape.question().unwrap_err().contains("expected.y"));
}

/// A file as a person would write it: the op as JSON, some more metadata and tensors.
fn written(op: &str, meta: &[(&str, &str)], tensors: &[(&str, Dtype)]) -> Vec<u8> {
    let bytes = [0; 64];
    let all = [("op", op)].into_iter().chain(meta.iter().copied());
    let meta = all.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let views = [("x", Dtype::F32)]
        .iter()
        .chain(tensors)
        .map(|&(name, dtype)| {
            let data = &bytes[..8 * dtype.bitsize() / 8];
            (name, TensorView::new(dtype, vec![2, 4], data).unwrap())
        });
    safetensors::serialize(views, Some(meta)).unwrap()
}

#[test]
fn files_of_a_person() {
    const UNARY: &str = r#"{"op": "unary", "act": "silu", "x": "x",
        "y": {"tensor": "y", "element": "f32", "shape": [2, 4]}}"#;
    let parse = |op: &str, meta: &[_], tensors: &[_]| CallFile::parse(&written(op, meta, tensors));
    let refused = |op: &str, meta: &[_], tensors: &[_], words: &[&str]| {
        let said = parse(op, meta, tensors).unwrap_err();
        for word in words {
            assert!(said.contains(word), "{said:?} does not say {word:?}");
        }
    };
    parse(UNARY, &[("gristmill", "1")], &[]).unwrap();
    refused(UNARY, &[("gristmill", "2")], &[], &["version \"2\""]);
    // numpy's default element type is good enough for results.
    let wide = parse(UNARY, &[], &[("expected.y", Dtype::F64)]).unwrap();
    assert_eq!(wide.expected["y"].dtype, DType::F32);
    assert_eq!(wide.expected["y"].bytes.len(), 32);
    // What is judged is written.
    refused(
        UNARY,
        &[],
        &[("expected.x", Dtype::F32)],
        &["writes", "\"x\""],
    );
    // Every key has a meaning, and errors say where.
    for (from, to, words) in [
        (
            "silu\"",
            "silu\", \"scales\": 2",
            &["unary", "`scales`"][..],
        ),
        ("\"x\": \"x\"", "\"x\": 3", &["unary: x", "`3`"]),
        ("[2, 4]", "[2, -4]", &["unary: y", "`-4`"]),
        ("\"f32\"", "\"float32\"", &["unary: y", "float32"]),
        ("\"shape\"", "\"shapes\"", &["unary: y", "`shapes`"]),
        ("\"x\": \"x\"", "\"x\": \"z\"", &["unary: x", "\"z\""]),
        ("\"x\": \"x\",", "", &["unary", "`x`"]),
    ] {
        assert!(UNARY.contains(from));
        refused(&UNARY.replacen(from, to, 1), &[], &[], words);
    }
    for (op, word) in [
        (
            r#"{"op": "mat_mul", "x": "x", "w": {"rows": "x"}, "y": "x", "epilogue": {"activation": "silu"}}"#,
            "`activation`",
        ),
        (
            r#"{"op": "mat_mul", "x": "x", "w": {"rows": "x"}, "y": "x", "precision": {"activation": "q8"}}"#,
            "`activation`",
        ),
        (
            r#"{"op": "mat_mul_many", "x": "x", "parts": [{"w": {"rows": "x"}, "y": "x", "bias": "x"}]}"#,
            "`bias`",
        ),
        (
            r#"{"op": "kv_write", "k": "x", "v": "x", "slots": "x", "kv": {"dense": {"k": "x", "v": "x", "table": "x"}}}"#,
            "`table`",
        ),
        (
            r#"{"op": "norm", "x": "x", "y": "x", "eps": 0, "kind": {"group": {"groups": 1, "size": 2}}}"#,
            "`size`",
        ),
    ] {
        refused(op, &[], &[], &[word]);
    }
}

/// A file of a few bytes may describe a result that no memory holds.
#[test]
fn huge_results_are_an_error() {
    let view = |tensor: &str, strides| {
        Operand::View(View {
            tensor: tensor.to_owned(),
            element: Some(DType::F32.into()),
            shape: Some(vec![u32::MAX, 1 << 20]),
            strides,
            offset: 0,
        })
    };
    let mut huge = call();
    huge.expected.clear();
    huge.op = crate::Copy::new(&view("x", Some(vec![0, 0])), &view("y", None)).into();
    huge.question().unwrap();
    assert!(matches!(huge.host(), Err(Error::OutOfMemory { .. })));
}
