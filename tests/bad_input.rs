//! Bad input is answered by an error that names the op and the operand, never by a panic; empty
//! tensors are legal; NaN and infinities give the documented numbers.
#![cfg(feature = "cpu")]

use gristmill::{device::KernelId, *};
use std::sync::Arc;

fn cpu() -> Arc<dyn Device> {
    let select = Select::named("cpu").unwrap();
    Registry::builtin().open_blocking(&select).unwrap()
}

fn queue() -> Queue {
    Queue::new(&cpu()).unwrap()
}

/// A tensor of zeros.
fn t(q: &Queue, element: impl Into<Element>, shape: &[u32]) -> Tensor {
    q.zeros(element, shape).unwrap()
}

fn f(q: &Queue, shape: &[u32]) -> Tensor {
    t(q, DType::F32, shape)
}

fn ints(q: &Queue, shape: &[u32]) -> Tensor {
    t(q, DType::I32, shape)
}

/// The error of `op` holds every word.
#[track_caller]
fn refused(q: &mut Queue, op: impl Into<Op<Tensor>>, words: &[&str]) {
    let op = op.into();
    let kind = op.kind();
    let error = q.run(op).expect_err("bad input was accepted").to_string();
    for word in words.iter().chain([&kind.name()]) {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

/// The error of a call that is no op.
#[track_caller]
fn says<T>(result: Result<T>, words: &[&str]) {
    let Err(error) = result else {
        panic!("bad input was accepted; expected an error that says {words:?}");
    };
    let error = error.to_string();
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn products() {
    let q = &mut queue();
    let (x, w, y) = (f(q, &[4, 8]), f(q, &[6, 8]), f(q, &[4, 6]));
    let k9 = f(q, &[6, 9]);
    refused(q, MatMul::new(&x, &k9, &y), &["w: has K = 9", "K = 8"]);
    let y5 = f(q, &[4, 5]);
    refused(q, MatMul::new(&x, &w, &y5), &["y: is f32[4, 5]", "4, 6]"]);
    let xi = ints(q, &[4, 8]);
    refused(q, MatMul::new(&xi, &w, &y), &["x: is i32", "floats"]);
    let x8 = t(q, DType::I8, &[4, 8]);
    refused(q, MatMul::new(&x8, &w, &y), &["w: is f32", "i8"]);
    let (xk, wq) = (f(q, &[4, 32]), t(q, QuantFormat::Q8_0, &[32, 32]));
    let transposed = Weight::Transposed(wq);
    let y32 = f(q, &[4, 32]);
    refused(
        q,
        MatMul::new(&xk, transposed, &y32),
        &["w: ", "never transposed"],
    );
    let bias = f(q, &[5]);
    refused(
        q,
        MatMul::new(&x, &w, &y).bias(&bias),
        &["bias: is f32[5]", "[6]"],
    );
    refused(q, MatMul::new(&x, &w, &y).gate(&y5), &["gate: ", "[4, 6]"]);
    let yi = ints(q, &[4, 6]);
    refused(
        q,
        MatMul::new(&x, &w, &y).residual(&yi),
        &["residual: is i32"],
    );
    refused(
        q,
        MatMul::new(&x, &w, &y).scale(f32::NAN),
        &["scale: ", "finite"],
    );
    let (xb, yb) = (f(q, &[3, 4, 8]), f(q, &[2, 4, 6]));
    refused(
        q,
        MatMul::new(&xb, &w, &yb),
        &["x: has batch axes [3]", "[2]"],
    );
    let row = f(q, &[8]);
    refused(q, MatMul::new(&row, &w, &y), &["x: ", "rank 2"]);
    let (x0, w0) = (f(q, &[4, 0]), f(q, &[6, 0]));
    refused(q, MatMul::new(&x0, &w0, &y), &["x: ", "length 0"]);
    let packed = Weight::Packed {
        data: t(q, DType::U8, &[10]),
        tag: PackTag(1),
        logical: w.desc(),
    };
    says(q.run(MatMul::new(&x, packed, &y)), &["mat_mul"]);

    refused(q, MatMulMany::new(&x, []), &["parts: is empty"]);
    let bad = [Part::new(&w, &y), Part::new(&k9, &y5)];
    says(q.run(MatMulMany::new(&x, bad)), &["w: has K = 9"]);

    let (w3, ids) = (f(q, &[3, 6, 8]), ints(q, &[4, 2]));
    let y3 = f(q, &[4, 2, 6]);
    let routing = |ids: &Tensor| Routing::Ids(ids.clone());
    refused(
        q,
        GroupedMatMul::new(&x, &w, routing(&ids), &y3),
        &["w: ", "rank 3"],
    );
    let float_ids = f(q, &[4, 2]);
    let op = GroupedMatMul::new(&x, &w3, routing(&float_ids), &y3);
    refused(q, op, &["ids: is f32", "i32 or u32"]);
    let op = GroupedMatMul::new(&x, &w3, Routing::Offsets(ints(q, &[3])), &y);
    refused(q, op, &["offsets: ", "[4]"]);
}

#[test]
fn overlaps() {
    let q = &mut queue();
    let whole = f(q, &[8, 8]);
    let w = f(q, &[8, 8]);
    let x = whole.narrowed(0, 0..4).unwrap();
    let y = whole.narrowed(0, 3..7).unwrap();
    refused(
        q,
        MatMul::new(&x, &w, &y),
        &["y: overlaps x", "buffer of its own"],
    );
    let y = whole.narrowed(0, 4..8).unwrap();
    q.run(MatMul::new(&x, &w, &y)).unwrap();
    let shifted = whole.narrowed(0, 2..6).unwrap();
    refused(
        q,
        Unary::new(Act::Silu, &shifted, &y),
        &["y: overlaps x", "exactly the same view"],
    );
    q.run(Unary::new(Act::Silu, &y, &y)).unwrap();
    let flipped = whole.transposed(0, 1).unwrap();
    refused(q, Copy::new(&whole, &flipped), &["y: overlaps x"]);
    let repeated = f(q, &[8]).broadcast_to(&[4, 8]).unwrap();
    refused(
        q,
        Copy::new(&x, &repeated),
        &["y: is written", "names cells twice"],
    );
    // One product's residual must not be another one's result.
    let (a, b) = (f(q, &[4, 8]), f(q, &[4, 8]));
    let own = [
        Part::new(&w, &a).residual(&a),
        Part::new(&w, &b).residual(&b),
    ];
    q.run(MatMulMany::new(&x, own)).unwrap();
    for (first, second) in [(&a, &b), (&b, &a)] {
        let crossed = [Part::new(&w, first), Part::new(&w, second).residual(first)];
        refused(q, MatMulMany::new(&x, crossed), &["overlaps residual"]);
        let crossed = [Part::new(&w, first).residual(second), Part::new(&w, second)];
        refused(q, MatMulMany::new(&x, crossed), &["overlaps residual"]);
    }
}

#[test]
fn attention() {
    let q = &mut queue();
    let (query, k, out) = (
        f(q, &[1, 4, 2, 8]),
        f(q, &[1, 2, 9, 8]),
        f(q, &[1, 4, 2, 8]),
    );
    let ok = Attention::dense(&query, &k, &k, 5, 1.0, &out);
    q.run(ok.clone()).unwrap();
    let k3 = f(q, &[1, 3, 9, 8]);
    let op = Attention::dense(&query, &k3, &k3, 5, 1.0, &out);
    refused(q, op, &["q: has 4 heads", "3 KV heads"]);
    let k16 = f(q, &[1, 2, 9, 16]);
    let op = Attention::dense(&query, &k16, &k, 5, 1.0, &out);
    refused(q, op, &["k: has head_dim 16", "q has 8"]);
    let op = Attention::dense(&query, &k, &k, 10, 1.0, &out);
    refused(q, op, &["kv_len: is 10", "9 rows"]);
    let op = Attention::dense(&query, &k, &k, 5, f32::INFINITY, &out);
    refused(q, op, &["scale: "]);
    refused(q, ok.clone().window(0), &["window: is 0"]);
    refused(q, ok.clone().softcap(0.0), &["softcap: is 0"]);
    let mask = f(q, &[3, 9]);
    refused(q, ok.clone().mask(&mask), &["mask: ", "broadcast"]);
    let mask = ints(q, &[2, 9]);
    refused(q, ok.clone().mask(&mask), &["mask: is i32"]);
    let slopes = f(q, &[3]);
    refused(q, ok.clone().alibi(&slopes), &["alibi: ", "[4]"]);
    refused(q, ok.clone().sinks(&slopes), &["sinks: ", "[4]"]);
    let (starts, lens) = (ints(q, &[2]), ints(q, &[1]));
    let mask = f(q, &[2, 9]);
    let op = ok.clone().ragged(&starts, &lens).mask(&mask);
    refused(q, op, &["mask: ", "ragged"]);
    let op = ok.clone().ragged(&lens, &lens);
    refused(q, op, &["q_starts: ", "[2]"]);
    let empty = f(q, &[1, 2, 0, 8]);
    let op = Attention::dense(&query, &empty, &empty, 0, 1.0, &out);
    refused(q, op, &["k: ", "capacity of 0"]);
    let k4 = t(q, QuantFormat::Q4_0, &[1, 2, 9, 32]);
    let (q32, o32) = (f(q, &[1, 4, 2, 32]), f(q, &[1, 4, 2, 32]));
    let op = Attention::dense(&q32, &k4, &k4, 5, 1.0, &o32);
    refused(q, op, &["k: is q4_0", "q8_0"]);
    let op = Attention::dense(&query, &k, &k, &lens, 1.0, &query);
    refused(q, op, &["out: overlaps q"]);

    let (new, slots) = (f(q, &[1, 2, 3, 8]), ints(q, &[3]));
    q.run(KvWrite::dense(&new, &new, &k, &f(q, &[1, 2, 9, 8]), &slots))
        .unwrap();
    refused(
        q,
        KvWrite::dense(&new, &new, &k, &k, &slots),
        &["k_cache: overlaps v_cache"],
    );
    refused(
        q,
        KvWrite::dense(&new, &new, &k3, &k3, &slots),
        &["k: ", "heads"],
    );
    let wrong = f(q, &[3]);
    refused(
        q,
        KvWrite::dense(&new, &new, &k, &k, &wrong),
        &["slots: is f32"],
    );
    let short = ints(q, &[2]);
    refused(
        q,
        KvWrite::dense(&new, &new, &k, &k, &short),
        &["slots: ", "[1, 3]"],
    );
}

#[test]
fn rows_and_elements() {
    let q = &mut queue();
    let (x, y) = (f(q, &[4, 8]), f(q, &[4, 8]));
    refused(q, Dequantize::new(&x, &y), &["w: is f32", "Copy"]);
    let blocks = t(q, QuantFormat::Q8_0, &[4, 32]);
    refused(q, Dequantize::new(&blocks, &y), &["y: ", "[4, 32]"]);
    refused(q, Quantize::new(&x, &y), &["y: is f32", "encoder"]);
    refused(q, Copy::new(&blocks, &y), &["y: ", "Dequantize"]);
    let wide = f(q, &[5, 8]);
    refused(q, Copy::new(&wide, &y), &["x: ", "broadcast"]);
    refused(q, Unary::new(Act::Exp, &wide, &y), &["x: ", "broadcast"]);
    refused(q, Unary::affine(f32::NAN, 0.0, &x, &y), &["scale: "]);
    refused(q, Binary::add(&x, &wide, &y), &["b: ", "broadcast"]);
    refused(q, Glu::new(Act::Silu, &x, &wide, &y), &["up: ", "[4, 8]"]);
    refused(q, Softmax::new(&x, &wide), &["y: ", "[4, 8]"]);
    let (point, other) = (f(q, &[]), f(q, &[]));
    refused(q, Softmax::new(&point, &other), &["x: ", "rank 1"]);
    let mask = f(q, &[3]);
    refused(q, Softmax::new(&x, &y).mask(&mask), &["mask: "]);

    let table = f(q, &[10, 8]);
    refused(q, GatherRows::new(&table, &x, &y), &["ids: is f32"]);
    let ids = ints(q, &[4]);
    let flipped = Weight::Transposed(table);
    refused(
        q,
        GatherRows::new(flipped, &ids, &y),
        &["table: ", "not transposed"],
    );

    let (h, r, pos) = (f(q, &[1, 2, 3, 8]), f(q, &[1, 2, 3, 8]), ints(q, &[3]));
    let rope = |n, theta| Rope::new(RopeKind::HalfSplit, &h, &pos, theta, n, &r);
    refused(q, rope(7, 1e4), &["n_rot: is 7", "even"]);
    refused(q, rope(10, 1e4), &["n_rot: is 10", "head_dim 8"]);
    refused(q, rope(8, 0.0), &["theta: "]);
    let factors = f(q, &[3]);
    refused(q, rope(8, 1e4).factors(&factors), &["factors: ", "[4]"]);
    let unsigned = t(q, DType::U32, &[3]);
    let op = Rope::new(RopeKind::HalfSplit, &h, &unsigned, 1e4, 8, &r);
    refused(q, op, &["positions: is u32", "i32"]);
    let op = Rope::new(RopeKind::Sections([0; 4]), &h, &pos, 1e4, 8, &r);
    refused(q, op, &["sections: "]);

    let weight = f(q, &[8]);
    refused(q, Norm::rms(&x, &weight, -1.0, &y), &["eps: is -1"]);
    refused(q, Norm::rms(&x, &mask, 1e-5, &y), &["weight: ", "[8]"]);
    let channels = f(q, &[8]);
    let op = Norm::group(3, &x, &channels, 1e-5, &y);
    refused(q, op, &["groups: is 3", "8 channels"]);
    let mut op = Norm::rms(&x, &weight, 1e-5, &y);
    op.sum = Some(f(q, &[4, 8]));
    refused(q, op, &["sum: needs a residual"]);

    let sums = f(q, &[4, 1]);
    refused(q, Reduce::new(RedOp::Sum, &x, 2, &sums), &["axis: is 2"]);
    refused(
        q,
        Reduce::new(RedOp::ArgMax, &x, 1, &sums),
        &["y: is f32", "i32"],
    );
    let none = f(q, &[4, 0]);
    refused(
        q,
        Reduce::new(RedOp::Max, &none, 1, &sums),
        &["x: ", "length 0"],
    );
    let (values, many) = (f(q, &[4, 9]), ints(q, &[4, 9]));
    refused(q, TopK::new(&x, &values, &many), &["ids: asks for 9 of 8"]);
    let unsigned = t(q, DType::U32, &[4, 8]);
    refused(q, TopK::new(&x, &y, &unsigned), &["ids: is u32"]);
}

#[test]
fn images() {
    let q = &mut queue();
    let (x, w, y) = (
        f(q, &[1, 4, 6, 6]),
        f(q, &[8, 4, 3, 3]),
        f(q, &[1, 8, 4, 4]),
    );
    let conv = Conv2d::new(&x, &w, &y);
    q.run(conv.clone()).unwrap();
    refused(q, conv.clone().stride(0, 1), &["stride: is 0"]);
    refused(q, conv.clone().dilation(1, 0), &["dilation: is 0"]);
    refused(q, conv.clone().groups(0), &["groups: is 0"]);
    refused(q, conv.clone().groups(3), &["groups: is 3"]);
    refused(q, conv.clone().groups(2), &["w: ", "[O, 2, Kh, Kw]"]);
    refused(
        q,
        conv.clone().dilation(3, 3),
        &["w: reaches over 7", "has 6"],
    );
    refused(q, conv.clone().pad(u32::MAX, 0), &["pad: "]);
    refused(q, conv.clone().pad(1, 1), &["y: ", "[1, 8, 6, 6]"]);
    refused(
        q,
        Upsample::new(&x, &f(q, &[1, 4, 9, 12])),
        &["y: ", "whole multiples"],
    );
}

#[test]
fn unknown_names() {
    let q = &mut queue();
    let x = f(q, &[2]);
    let op = Custom {
        name: "nobody/knows".into(),
        inputs: vec![x.clone()],
        outputs: vec![f(q, &[2])],
        params: Vec::new(),
    };
    refused(q, op, &["cpu cannot run"]);
    let kernel = KernelId("cpu-no-such-kernel");
    says(
        q.run_with(Copy::new(&x, &f(q, &[2])), kernel),
        &["copy", "cpu-no-such-kernel"],
    );
    says(
        Queue::with_kernel(&cpu(), Some("no-such")),
        &["no-such", "--kernels"],
    );
    let open = |list: &str| Registry::builtin().open_blocking(&Select::named(list)?);
    says(open("tpu"), &["\"tpu\"", "cpu"]);
    says(open("cpu:one"), &["cpu:one", "cuda:0"]);
    says(open(":0"), &["expected a backend name"]);
    says(open("cpu:7"), &["cpu"]);
    says(
        Registry::empty().open_blocking(&Select::Best),
        &["no device"],
    );
}

#[test]
fn views_and_memory() {
    let q = &mut queue();
    let x = f(q, &[4, 8]);
    let view = |shape: &[u32], offset| {
        Tensor::new(x.buffer(), offset, TensorDesc::new(DType::F32, shape)?)
    };
    says(view(&[4, 9], 0), &["f32[4, 9]", "144 bytes", "128"]);
    says(view(&[4, 8], 4), &["at byte 4"]);
    says(view(&[1], 2), &["at byte 2", "aligned to 4"]);
    says(view(&[1], u64::MAX - 3), &["needs 4 bytes"]);
    says(view(&[1; 7], 0), &["rank 7"]);
    says(view(&[u32::MAX; 6], 0), &["2^56"]);
    says(x.narrowed(2, 0..1), &["axis 2", "rank 2"]);
    says(x.narrowed(1, 4..9), &["4..9", "length 8"]);
    says(x.reshaped(&[5, 7]), &["[4, 8]", "[5, 7]"]);
    says(
        x.transposed(0, 1).unwrap().reshaped(&[32]),
        &["without a copy"],
    );
    says(x.broadcast_to(&[3, 4, 9]), &["[3, 4, 9]"]);
    let strided = |s: &[i64]| TensorDesc::strided(DType::F32, &[2, 2], s).map_err(Error::from);
    says(strided(&[-1, 1]), &["axis 0", "negative"]);
    says(strided(&[1]), &["2 shape entries", "1 strides"]);
    says(strided(&[i64::MAX, 1]), &["overflows"]);
    let blocks = t(q, QuantFormat::Q4_K, &[4, 512]);
    says(blocks.narrowed(1, 128..512), &["q4_k", "256"]);
    says(blocks.transposed(0, 1), &["q4_k"]);
    says(blocks.permuted(&[1, 0]), &["q4_k"]);
    says(
        q.zeros(QuantFormat::Q4_K, &[100]),
        &["whole number of q4_k"],
    );

    says(q.upload(&[1.0f32; 5], &[2, 3]), &["24 bytes", "20"]);
    says(
        q.upload_weight(DType::F32, &[2, 2], &[0; 3]),
        &["16 bytes", "3"],
    );
    says(q.write(&x, &[1i32; 32]), &["f32[4, 8]", "i32"]);
    says(q.write(&x, &[1.0f32; 31]), &["128 bytes", "124"]);
    says(
        q.write(&x.transposed(0, 1).unwrap(), &[1.0f32; 32]),
        &["strided"],
    );
    says(q.download::<u32>(&x), &["f32[4, 8]", "u32"]);

    for shape in [&[u32::MAX, 1 << 20][..], &[1 << 20, 1 << 20]] {
        let error = q.zeros(DType::F32, shape).unwrap_err();
        assert!(
            matches!(error, Error::OutOfMemory { .. } | Error::TooLarge { .. }),
            "{error}"
        );
    }
    let point = f(q, &[1, 1]).broadcast_to(&[u32::MAX, 1 << 20]).unwrap();
    let error = q.download::<f32>(&point).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
}

#[test]
fn another_device() {
    let (q, other) = (&mut queue(), &mut queue());
    let (mine, theirs) = (f(q, &[4]), f(other, &[4]));
    refused(
        q,
        Copy::new(&theirs, &mine),
        &["x: belongs to another device"],
    );
    refused(
        q,
        Copy::new(&mine, &theirs),
        &["y: belongs to another device"],
    );
    says(q.download::<f32>(&theirs), &["read: ", "another device"]);
    says(
        q.write(&theirs, &[0.0f32; 4]),
        &["write: ", "another device"],
    );
}

#[test]
fn nothing_to_do() {
    let q = &mut queue();
    let (x, w, y) = (f(q, &[0, 8]), f(q, &[6, 8]), f(q, &[0, 6]));
    q.run(MatMul::new(&x, &w, &y)).unwrap();
    assert!(q.download::<f32>(&y).unwrap().is_empty());
    // Nothing is summed where nothing is written.
    let (x, w) = (f(q, &[0, 0]), f(q, &[6, 0]));
    q.run(MatMul::new(&x, &w, &y)).unwrap();
    let (query, k) = (f(q, &[1, 4, 0, 8]), f(q, &[1, 2, 0, 8]));
    q.run(Attention::dense(
        &query,
        &k,
        &k,
        0,
        1.0,
        &f(q, &[1, 4, 0, 8]),
    ))
    .unwrap();
    let none = f(q, &[3, 0]);
    q.run(Softmax::new(&none, &none)).unwrap();
    q.run(Unary::new(Act::Exp, &none, &none)).unwrap();
    q.run(Norm::new(NormKind::Rms, &none, 1e-5, &none)).unwrap();
    q.run(GatherRows::new(
        &f(q, &[5, 4]),
        &ints(q, &[0]),
        &f(q, &[0, 4]),
    ))
    .unwrap();
    let heads = f(q, &[1, 0, 2, 8]);
    let kv = f(q, &[1, 0, 3, 8]);
    let op = Attention::dense(&heads, &kv, &kv, 3, 1.0, &f(q, &[1, 0, 2, 8]));
    q.plan(&Op::from(op.clone()).map(|_, t| t.desc())).ok();
    q.run(op).unwrap();
    let narrow = f(q, &[4]).narrowed(0, 4..4).unwrap();
    assert!(q.download::<f32>(&narrow).unwrap().is_empty());
    q.write::<f32>(&narrow, &[]).unwrap();
}

#[test]
fn nan_and_infinity() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let q = &mut queue();
    let x = q.upload(&[1.0f32, nan, -inf, 3.0], &[4]).unwrap();
    let (y, id) = (f(q, &[1]), ints(q, &[1]));
    for function in [RedOp::Max, RedOp::Min, RedOp::Sum, RedOp::Mean] {
        q.run(Reduce::new(function, &x, 0, &y)).unwrap();
        assert!(q.download::<f32>(&y).unwrap()[0].is_nan(), "{function:?}");
    }
    q.run(Reduce::new(RedOp::ArgMax, &x, 0, &id)).unwrap();
    assert_eq!(q.download::<i32>(&id).unwrap(), [1]);
    let (values, ids) = (f(q, &[4]), ints(q, &[4]));
    q.run(TopK::new(&x, &values, &ids)).unwrap();
    assert_eq!(q.download::<i32>(&ids).unwrap(), [1, 3, 0, 2]);

    let big = q.upload(&[nan, inf, -inf, -2.9], &[4]).unwrap();
    q.run(Copy::new(&big, &ids)).unwrap();
    assert_eq!(
        q.download::<i32>(&ids).unwrap(),
        [0, i32::MAX, i32::MIN, -2]
    );
    let (a, b) = (q.upload(&[nan, 1.0], &[2]), q.upload(&[0.0, nan], &[2]));
    let pair = f(q, &[2]);
    for function in [BinOp::Max, BinOp::Min] {
        let (a, b) = (a.as_ref().unwrap(), b.as_ref().unwrap());
        q.run(Binary::new(function, a, b, &pair)).unwrap();
        assert!(q.download::<f32>(&pair).unwrap().iter().all(|v| v.is_nan()));
    }

    // A row that is all -inf gives zeros; its neighbour is untouched by it.
    let rows = q.upload(&[-inf, -inf, 0.0, 0.0], &[2, 2]).unwrap();
    let p = f(q, &[2, 2]);
    q.run(Softmax::new(&rows, &p)).unwrap();
    assert_eq!(q.download::<f32>(&p).unwrap(), [0.0, 0.0, 0.5, 0.5]);

    // A bad row of x spoils its own results alone.
    let k = 40;
    let mut numbers = vec![1.0f32; 3 * k];
    (numbers[k + 3], numbers[2 * k + 1]) = (nan, inf);
    let x = q.upload(&numbers, &[3, k as u32]).unwrap();
    let w = q.upload(&vec![0.5f32; 2 * k], &[2, k as u32]).unwrap();
    let y = f(q, &[3, 2]);
    q.run(MatMul::new(&x, &w, &y)).unwrap();
    let y = q.download::<f32>(&y).unwrap();
    assert_eq!(y[..2], [20.0, 20.0]);
    assert!(y[2].is_nan() && y[3].is_nan());
    assert_eq!(y[4..], [inf, inf]);

    // Hidden keys have no say, whatever they hold; without keys the result is 0.
    let (d, rows) = (8, 4);
    let mut keys = vec![nan; rows * d];
    keys[..2 * d].fill(1.0);
    let query = q.upload(&vec![1.0f32; d], &[1, 1, 1, d as u32]).unwrap();
    let k = q.upload(&keys, &[1, 1, rows as u32, d as u32]).unwrap();
    let out = f(q, &[1, 1, 1, d as u32]);
    q.run(Attention::dense(&query, &k, &k, 2, 1.0, &out))
        .unwrap();
    assert_eq!(q.download::<f32>(&out).unwrap(), [1.0; 8]);
    q.run(Attention::dense(&query, &k, &k, 0, 1.0, &out))
        .unwrap();
    assert_eq!(q.download::<f32>(&out).unwrap(), [0.0; 8]);
    let hide = q.upload(&[0u8; 4], &[1, 4]).unwrap();
    q.run(Attention::dense(&query, &k, &k, 4, 1.0, &out).mask(&hide))
        .unwrap();
    assert_eq!(q.download::<f32>(&out).unwrap(), [0.0; 8]);
}

/// A head size that no kernel takes is refused in words where nothing may stand in for it.
#[cfg(feature = "wgpu")]
#[test]
fn unsupported_head_size() {
    let device = match Registry::builtin().open_blocking(&Select::named("wgpu").unwrap()) {
        Ok(device) => device,
        Err(e) => {
            assert!(matches!(e, Error::NotAvailable { .. }), "{e}");
            return;
        }
    };
    let q = &mut Queue::new(&device).unwrap().fallback(Fallback::Deny);
    let (query, out) = (f(q, &[1, 1, 1, 1001]), f(q, &[1, 1, 1, 1001]));
    let k = f(q, &[1, 1, 4, 1001]);
    let op = Attention::dense(&query, &k, &k, 4, 1.0, &out);
    refused(
        q,
        op,
        &["wgpu cannot run attention", "head dim", "Fallback::Host"],
    );
}
