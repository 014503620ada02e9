//! The template that porters copy is a whole backend: it registers, runs what it lacks in parts or
//! on the host with the right numbers, and passes the conformance suite.
#![cfg(all(feature = "conformance", feature = "cpu"))]

#[rustfmt::skip]
#[path = "../examples/port_template/backend.rs"]
mod backend;

use gristmill::{
    conformance::{self, Expect, Filter, Status, Tier},
    reference::{self, Array},
    *,
};
use std::sync::Arc;

fn device() -> Arc<dyn Device> {
    let registry = Registry::builtin().with(backend::Template);
    let select = Select::named("template:0").unwrap();
    registry.open_blocking(&select).unwrap()
}

/// A ramp that changes sign, in -1..1.
fn wave(n: usize, step: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * step).sin()).collect()
}

/// What the reference says about the last operand.
fn expected(q: &mut Queue, op: impl Into<Op<Tensor>>) -> Vec<f64> {
    let arrays = op
        .into()
        .try_map(|_, t| {
            let desc = t.desc().contiguous();
            Ok::<_, Error>(Array::new(desc, q.download_bytes(t)?))
        })
        .unwrap();
    reference::eval(&arrays).unwrap().remove(0).values
}

fn compare(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() < 1e-4, "{i}: {g} is not {w}");
    }
}

#[test]
fn it_is_under_a_hundred_lines() {
    let source = include_str!("../examples/port_template/backend.rs");
    assert!(source.lines().count() < 100);
}

#[test]
fn it_registers_beside_the_others() {
    let registry = Registry::builtin().with(backend::Template);
    assert!(registry.backends().iter().any(|b| b.name() == "template"));
    assert!(registry.backends().iter().any(|b| b.name() == "cpu"));
    assert_eq!(device().info().id.to_string(), "template:0");
    let missing = Select::named("template:1").unwrap();
    let error = registry.open_blocking(&missing).unwrap_err().to_string();
    assert!(error.contains("template:1"), "{error}");
    let either = Select::named("template:1,template").unwrap();
    assert!(registry.open_blocking(&either).is_ok());
}

#[test]
fn a_quantized_product_runs_in_parts() {
    let device = device();
    let mut q = Queue::new(&device).unwrap();
    let (m, n, k) = (3, 5, 64);
    let format = QuantFormat::Q8_0;
    let mut blocks = vec![0; n * k / format.block_len() * format.block_bytes()];
    format.encode(&wave(n * k, 0.3), &mut blocks).unwrap();
    let x = q.upload(&wave(m * k, 0.1), &[m as u32, k as u32]).unwrap();
    let w = q
        .upload_weight(format, &[n as u32, k as u32], &blocks)
        .unwrap();
    let y = q.zeros(DType::F32, &[m as u32, n as u32]).unwrap();
    let op = MatMul::new(&x, w, &y);
    let want = expected(&mut q, op.clone());
    q.run(op).unwrap();
    compare(&q.download(&y).unwrap(), &want);
    match &q.routes().entries()[0].route {
        Route::Decomposed { parts, .. } => {
            let kinds: Vec<_> = parts.iter().map(Op::kind).collect();
            assert_eq!(kinds, [OpKind::Dequantize, OpKind::MatMul]);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn attention_runs_on_the_host() {
    let device = device();
    let mut q = Queue::new(&device).unwrap().fallback(Fallback::Host);
    let (qs, ks) = (&[1, 4, 3, 16][..], &[1, 2, 10, 16][..]);
    let query = q.upload(&wave(4 * 3 * 16, 0.21), qs).unwrap();
    let k = q.upload(&wave(2 * 10 * 16, 0.37), ks).unwrap();
    let v = q.upload(&wave(2 * 10 * 16, 0.11), ks).unwrap();
    let out = q.zeros(DType::F32, qs).unwrap();
    let op = Attention::dense(&query, &k, &v, 9, 0.25, &out).causal();
    let want = expected(&mut q, op.clone());
    q.run(op.clone()).unwrap();
    compare(&q.download(&out).unwrap(), &want);
    assert!(want.iter().any(|v| v.abs() > 0.01));
    let entry = &q.routes().entries()[0];
    assert!(matches!(entry.route, Route::Host { .. }), "{}", entry.route);

    // Without leave to use the host, the refusal names the op.
    let mut q = q.fallback(Fallback::Decompose);
    let error = q.run(op).unwrap_err().to_string();
    assert!(error.contains("template cannot run"), "{error}");
}

#[test]
fn it_passes_conformance() {
    let expect = Expect {
        unsupported: &[("attention*", "the template has no attention")],
        ..Expect::default()
    };
    let filter = Filter::new(Tier::Smoke).decompose();
    let report = conformance::run(&device(), &filter, &expect, &mut |_| {}).unwrap();
    let bad: Vec<_> = report.failures().collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let has = |op, f: fn(&Status) -> bool| {
        let mut all = report.outcomes.iter();
        all.any(|o| o.op == op && f(&o.status))
    };
    for op in [OpKind::MatMul, OpKind::Dequantize] {
        assert!(has(op, |s| matches!(s, Status::Passed)), "{op}");
    }
    assert!(has(OpKind::Rope, |s| matches!(s, Status::Refused(_))));
    assert!(has(OpKind::Attention, |s| matches!(
        s,
        Status::ExpectedRefusal(_)
    )));
    // A list of shortcomings that is not true is a failure.
    let expect = Expect {
        unsupported: &[("dequantize*", "it can")],
        ..Expect::default()
    };
    let filter = Filter::new(Tier::Smoke).op(OpKind::Dequantize);
    let report = conformance::run(&device(), &filter, &expect, &mut |_| {}).unwrap();
    assert!(!report.is_success());
}

#[test]
fn the_log_of_routes_is_bounded() {
    let device = device();
    let mut q = Queue::new(&device).unwrap().fallback(Fallback::Host);
    for n in (1..=RouteLog::MAX as u32 + 2).chain(1..3) {
        let x = q.zeros(DType::F32, &[n]).unwrap();
        q.run(Unary::new(Act::Exp, &x, &x)).unwrap();
    }
    assert_eq!(q.routes().entries().len(), RouteLog::MAX);
}
