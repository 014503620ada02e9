//! The x86 rows against the f64 reference: cache types, shapes, masks, splits.

use super::ROWS;
use crate::{
    Attention, DType, Element, Kv, Precision, Scalar, TensorDesc,
    backend::cpu::rows::{levels, run_simd_rows},
    conformance::{Case, Fill, Spec},
    quant::QuantFormat,
};

fn spec(element: impl Into<Element>, shape: &[u32]) -> Spec {
    Spec::new(
        TensorDesc::new(element, shape).unwrap(),
        Fill::Normal(0.0, 1.0),
    )
}

fn ints(values: &[f64]) -> Spec {
    let desc = TensorDesc::new(DType::I32, &[values.len() as u32]).unwrap();
    Spec::new(desc, Fill::Values(values.to_vec()))
}

/// `[B, H, S, D]` with S before H in memory, as a projection leaves it.
fn by_token(element: DType, [b, h, s, d]: [u32; 4]) -> Spec {
    let (h64, s64, d64) = (i64::from(h), i64::from(s), i64::from(d));
    let strides = [s64 * h64 * d64, d64, h64 * d64, 1];
    Spec::new(
        TensorDesc::strided(element, &[b, h, s, d], &strides).unwrap(),
        Fill::Normal(0.0, 1.0),
    )
}

fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    let f32s = |shape: &[u32]| spec(DType::F32, shape);
    let caches = [
        Element::Plain(DType::F32),
        Element::Plain(DType::F16),
        Element::Plain(DType::BF16),
        Element::Quant(QuantFormat::Q8_0),
    ];
    for kv in caches {
        let mut add = |what: &str, op: Attention<Spec>| {
            let name = format!("{}/{what}", kv.name());
            let half = op.clone().precision(Precision::HALF);
            list.push(Case::new(format!("{name}/half"), half));
            list.push(Case::new(name, op));
        };
        // (B, Hq, Hkv, Sq, capacity, kv_len, D)
        for (b, hq, hkv, sq, cap, len, d) in [
            (1, 1, 1, 1, 1, 1, 32u32),
            (2, 6, 2, 1, 40, 33, 64),
            (1, 4, 1, 70, 70, 70, 32),
            (1, 9, 3, 150, 200, 170, 64),
            (1, 8, 2, 3, 1100, 1090, 128),
            (1, 2, 2, 5, 300, 0, 32),
            (1, 2, 1, 9, 300, 4, 96),
            (1, 2, 1, 60, 120, 110, 40),
            (1, 2, 2, 40, 300, 290, 160),
            (1, 16, 2, 1, 200, 190, 64),
            (1, 5, 1, 1, 700, 640, 96),
            (1, 8, 2, 2, 1100, 1090, 128),
            (1, 1, 1, 1, 600, 577, 256),
        ] {
            if !d.is_multiple_of(kv.block_len() as u32) {
                continue;
            }
            let (q, out) = (f32s(&[b, hq, sq, d]), f32s(&[b, hq, sq, d]));
            let cache = spec(kv, &[b, hkv, cap, d]).fill(Fill::Normal(0.0, 1.0));
            let op = Attention::dense(&q, &cache, &cache.clone(), len, 0.2, &out);
            let name = format!("{b}x{hq}/{hkv}x{sq}of{len}x{d}");
            add(&name, op.clone());
            add(&format!("{name}/causal"), op.clone().causal());
            add(&format!("{name}/window"), op.clone().causal().window(7));
            add(&format!("{name}/back"), op.clone().window(150).softcap(3.0));
            let sinks = Spec::new(
                TensorDesc::new(DType::F32, &[hq]).unwrap(),
                Fill::Normal(1.0, 2.0),
            );
            add(
                &format!("{name}/sinks"),
                op.clone().causal().sinks(&sinks).alibi(&sinks),
            );
            let hide = Fill::Coin {
                keep: 0.6,
                kept: 1.0,
                dropped: 0.0,
            };
            let mask = spec(DType::U8, &[hq, sq, cap]).fill(hide);
            add(&format!("{name}/hide"), op.clone().mask(&mask));
            add(
                &format!("{name}/add"),
                op.mask(&spec(DType::F16, &[b, 1, sq, cap])),
            );
        }
        // Key positions beyond the length hold NaN and are never touched.
        if kv.quant().is_none() {
            let q = by_token(DType::F16, [1, 6, 20, 80]);
            let out = by_token(DType::BF16, [1, 6, 20, 80]);
            let stale = spec(kv, &[1, 2, 64, 80]).fill(Fill::Stale(41));
            let op = Attention::dense(
                &q,
                &stale,
                &stale.clone(),
                Scalar::Device(ints(&[41.0])),
                0.1,
                &out,
            );
            add("stale", op.causal());
        }
        // v narrower than k.
        let (q, out) = (f32s(&[1, 4, 11, 96]), f32s(&[1, 4, 11, 64]));
        let op = Attention::dense(
            &q,
            &spec(kv, &[1, 1, 50, 96]),
            &spec(kv, &[1, 1, 50, 64]),
            50,
            0.1,
            &out,
        );
        add("narrow", op.causal());
        let table = Spec::new(
            TensorDesc::new(DType::I32, &[2, 5]).unwrap(),
            Fill::Values(vec![3.0, 0.0, 6.0, 9.0, 1.0, 5.0, -1.0, 2.0, 4.0, 7.0]),
        );
        let pool = spec(kv, &[8, 2, 16, 32]);
        let paged = || Kv::Paged {
            k: pool.clone(),
            v: spec(kv, &[8, 2, 16, 32]),
            table: table.clone(),
        };
        let q = f32s(&[2, 4, 6, 32]);
        add(
            "paged",
            Attention::new(&q, paged(), 77, 0.2, &f32s(&[2, 4, 6, 32])).causal(),
        );
        let q = f32s(&[2, 4, 2, 32]);
        add(
            "paged few",
            Attention::new(&q, paged(), 77, 0.2, &f32s(&[2, 4, 2, 32])).causal(),
        );
        // Pages that tiles of keys do not end with, one of them not in the pool.
        let pages = (0..60).map(|i| f64::from(if i == 9 { -1 } else { i * 7 % 59 }));
        let table = Spec::new(
            TensorDesc::new(DType::I32, &[2, 30]).unwrap(),
            Fill::Values(pages.collect()),
        );
        let small = Kv::Paged {
            k: spec(kv, &[59, 2, 6, 64]),
            v: spec(kv, &[59, 2, 6, 64]),
            table,
        };
        let q = f32s(&[2, 6, 1, 64]);
        let op = Attention::new(&q, small, 171, 0.2, &f32s(&[2, 6, 1, 64]));
        add("small pages", op.causal());
        // Heads side by side for each key, as some engines keep them.
        let wide = TensorDesc::strided(kv, &[1, 2, 150, 64], &[150 * 128, 64, 128, 1]).unwrap();
        let wide = || Spec::new(wide, Fill::Normal(0.0, 1.0));
        let q = f32s(&[1, 8, 1, 64]);
        let op = Attention::dense(&q, &wide(), &wide(), 150, 0.2, &f32s(&[1, 8, 1, 64]));
        add("wide", op.causal());
        let q = f32s(&[1, 4, 30, 32]);
        let op = Attention::new(&q, paged(), 0, 0.2, &f32s(&[1, 4, 30, 32]));
        add(
            "ragged",
            op.causal()
                .ragged(&ints(&[2.0, 13.0, 28.0]), &ints(&[80.0, 40.0])),
        );
    }
    list
}

#[test]
fn all_rows_agree_with_the_reference() {
    let cases = cases();
    for level in levels(false) {
        let (isa, report) = run_simd_rows(level, &cases);
        for row in ROWS {
            let ran = report
                .outcomes
                .iter()
                .filter(|o| o.kernel.as_deref() == Some(row.id.0));
            let ran = ran.count();
            if row.id.0.ends_with("amx") {
                // Few rows are left to others.
                assert_eq!(ran > cases.len() / 8, isa.amx, "{} at {level:?}", row.id);
                continue;
            }
            if row.id.0.ends_with("fp16") {
                // Few rows by caches of f16.
                let some = ran > cases.len() / 20;
                assert_eq!(some, isa.avx512_fp16, "{} at {level:?}", row.id);
                continue;
            }
            let expected = match row.id.0.rsplit('-').next() {
                Some("avx2") if isa.avx2 => cases.len(),
                Some("avx512") if isa.avx512 => cases.len(),
                Some("neon") if isa.neon => cases.len(),
                Some("avx512bf16") if isa.avx512_bf16 => cases.len() / 2,
                _ => 0,
            };
            assert_eq!(ran, expected, "{} at {level:?}", row.id);
        }
    }
}

/// Scales of a q8_0 cache and queries that are not finite: hidden keys do not show, and what shows
/// is what the exact row computes.
#[cfg(target_arch = "x86_64")]
#[test]
fn infinite_blocks_and_queries_are_as_in_the_exact_row() {
    use crate::{KernelId, Queue, Registry, Select};
    let select = Select::named("cpu").unwrap();
    let device = Registry::builtin().open_blocking(&select).unwrap();
    let mut queue = Queue::new(&device).unwrap();
    let (heads, keys, d) = (4u32, 150u32, 64u32);
    let wave = |n: u32| -> Vec<f32> { (0..n).map(|i| (i as f32 * 0.37).sin()).collect() };
    let block = QuantFormat::Q8_0.block_bytes();
    let mut cache = vec![0; (keys * d) as usize / 32 * block];
    QuantFormat::Q8_0
        .encode(&wave(keys * d), &mut cache)
        .unwrap();
    let shape = [1, 1, keys, d];
    let exact = KernelId("cpu-attention-avx512");
    let tiles = KernelId("cpu-attention-amx");
    // Which key is not finite, how many are seen, a query that is not; whether the key's values or
    // the key itself.
    for (wild, seen, query, key) in [
        (149, 149, 1.0, false),
        (70, 150, 1.0, false),
        (149, 149, 1.0, true),
        (70, 150, 1.0, true),
        (150, 150, f32::INFINITY, false),
    ] {
        let (mut k, mut v) = (cache.clone(), cache.clone());
        if wild < keys {
            let at = (wild * d) as usize / 32 * block;
            let of = if key { &mut k } else { &mut v };
            of[at..at + 2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
        }
        let mut q = wave(heads * d);
        q[5] *= query;
        let mut upload = |bytes: &[u8]| {
            let t = queue.zeros(QuantFormat::Q8_0, &shape).unwrap();
            queue.write_bytes(&t, bytes).unwrap();
            t
        };
        let (k, v) = (upload(&k), upload(&v));
        let q = queue.upload(&q, &[1, heads, 1, d]).unwrap();
        // All but the last key where one is hidden.
        let shown: Vec<u8> = (0..keys).map(|j| u8::from(j < seen)).collect();
        let mask = queue.upload(&shown, &[1, 1, keys]).unwrap();
        let mut results = Vec::new();
        for kernel in [exact, tiles] {
            let out = queue.zeros(DType::F32, &[1, heads, 1, d]).unwrap();
            let op = Attention::dense(&q, &k, &v, keys, 0.1, &out)
                .mask(&mask)
                .precision(Precision::HALF);
            if let Err(why) = queue.run_with(op, kernel) {
                eprintln!("not compared: {why}");
                return;
            }
            results.push(queue.download::<f32>(&out).unwrap());
        }
        for (a, b) in results[0].iter().zip(&results[1]) {
            let close = (a - b).abs() <= 1e-3 * (1.0 + a.abs());
            assert!(close || a.is_nan() && b.is_nan() || a == b, "{a} {b}");
        }
        assert_eq!(results[0][0].is_finite(), wild == 149, "{query}");
    }
}

/// Queries, keys and values of f16 near the ends of its range, and beyond: what sums in f16 give is
/// what the exact row computes.
#[cfg(target_arch = "x86_64")]
#[test]
fn sums_in_f16_stay_in_its_range() {
    use crate::{KernelId, Queue, Registry, Select};
    let select = Select::named("cpu").unwrap();
    let device = Registry::builtin().open_blocking(&select).unwrap();
    let mut queue = Queue::new(&device).unwrap();
    let kernels = ["cpu-attention-avx512", "cpu-attention-avx512fp16"].map(KernelId);
    // Scales of q, k and v, and a number that is not finite among the keys and among the values.
    let cases = [
        (1.0, 1.0, 1.0, None, None),
        (1e-6, 6e4, 6e4, None, None),
        (2e3, 1e-3, 1e-4, None, None),
        (1e-30, 1.0, 1e-7, None, None),
        (3e38, 6e4, 1.0, None, None),
        (1.0, 1.0, 1.0, Some(f32::NAN), None),
        (1.0, 1.0, 1.0, None, Some(f32::INFINITY)),
        (1.0, 1.0, 6e4, Some(f32::NEG_INFINITY), None),
        (f32::INFINITY, 1.0, 1.0, None, None),
    ];
    for (case, (q, k, v, wild_key, wild_value)) in cases.into_iter().enumerate() {
        // Heads of whole vectors and not; three rows, five and eight.
        for (heads, keys, d) in [(3u32, 150u32, 64u32), (5, 37, 80), (8, 200, 160)] {
            let wave = |n: u32, scale: f32| -> Vec<f32> {
                (0..n).map(|i| (i as f32 * 0.37).sin() * scale).collect()
            };
            let mut cache = |scale: f32, wild: Option<f32>| {
                let mut x = wave(keys * d, scale);
                x[(7 * d) as usize] = wild.unwrap_or(x[0]);
                let from = queue.upload(&x, &[1, 1, keys, d]).unwrap();
                let to = queue.zeros(DType::F16, &[1, 1, keys, d]).unwrap();
                queue.run(crate::Copy::new(&from, &to)).unwrap();
                to
            };
            let (k, v) = (cache(k, wild_key), cache(v, wild_value));
            let q = queue
                .upload(&wave(heads * d, q), &[1, heads, 1, d])
                .unwrap();
            let mut results = Vec::new();
            for kernel in kernels {
                let out = queue.zeros(DType::F32, &[1, heads, 1, d]).unwrap();
                let op = Attention::dense(&q, &k, &v, keys, 0.1, &out).precision(Precision::HALF);
                if let Err(why) = queue.run_with(op, kernel) {
                    eprintln!("not compared: {why}");
                    return;
                }
                results.push(queue.download::<f32>(&out).unwrap());
            }
            let top = results[0].iter().fold(0f32, |m, x| m.max(x.abs()));
            for (a, b) in results[0].iter().zip(&results[1]) {
                let close = (a - b).abs() <= 5e-3 * top;
                let same = close || a.is_nan() && b.is_nan() || a == b;
                assert!(same, "case {case}, {heads} x {keys} x {d}: {a} {b}");
            }
        }
    }
}
