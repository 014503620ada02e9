//! The rows of the table, and what each must reach.

use crate::case::Case;
use gristmill::{DType, Element, QuantFormat};
use std::fmt;

/// A limit of the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// f32 multiply-adds.
    F32,
    /// bf16 dot products.
    Bf16,
    /// 8-bit dot products.
    Int8,
    /// A plain read of the same bytes.
    Read,
    /// The slower of reading the bytes and the 8-bit (or f32, bf16) arithmetic.
    ReadOr(&'static Limit),
    /// Plain stores of the same bytes.
    Store,
    /// None is known.
    None,
}

/// What a row must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// So many times the speed of the best peer.
    Peer(f64),
    /// This part of the limit.
    Limit(f64),
    /// So many times the speed of the best peer whose weights are not prepacked.
    PeerUnpacked(f64),
    /// One of the two.
    Either(&'static Bar, &'static Bar),
    /// So many times the speed of one thread.
    Scaling(f64),
    /// At most so many times the time of reading the file.
    TimesRead(f64),
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bar::Peer(x) => write!(f, "{x} x the best peer"),
            Bar::PeerUnpacked(x) => write!(f, "{x} x the best peer without packed weights"),
            Bar::Limit(x) => write!(f, "{:.0}% of the limit", x * 100.0),
            Bar::Either(a, b) => write!(f, "{a} or {b}"),
            Bar::Scaling(x) => write!(f, "{x} x one thread"),
            Bar::TimesRead(x) => write!(f, "{x} x the time of a warm read"),
        }
    }
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Unique name, words between slashes.
    pub name: String,
    /// Heading in the documents.
    pub section: &'static str,
    pub case: Case,
    pub threads: usize,
    /// Compare with our own run on one thread, not with peers.
    pub scaling: bool,
    pub limit: Limit,
    pub bars: Vec<Bar>,
}

/// Models of the end-to-end rows: name, file, the bars of a prompt and of single tokens.
const MODELS: [(&str, &str, Bar, Bar); 3] = [
    (
        "smollm2-135m-q4_1",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        Bar::Peer(7.0),
        Bar::Either(&Bar::Peer(1.9), &Bar::Limit(0.88)),
    ),
    (
        "gemma3-270m-q4_k_m",
        "gemma-3-270m-q4_k_m.gguf",
        Bar::Peer(2.5),
        Bar::Either(&Bar::Peer(1.7), &Bar::Limit(0.88)),
    ),
    (
        "qwen2.5-0.5b-q4_k_m",
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        Bar::Peer(3.0),
        Bar::Either(&Bar::Peer(1.8), &Bar::Limit(0.88)),
    ),
];

/// [N, K] of the dense rows.
const SHAPES: [(u32, u32); 6] = [
    (4096, 4096),
    (14336, 4096),
    (4096, 14336),
    (2048, 2048),
    (576, 576),
    (1536, 576),
];

/// Every row, in the order of the documents.
pub fn rows() -> Vec<Row> {
    let mut list = Vec::new();
    dense(&mut list);
    quantized(&mut list);
    attention(&mut list);
    dequantize(&mut list);
    models(&mut list);
    scaling(&mut list);
    list
}

fn row(name: String, section: &'static str, case: Case, limit: Limit, bars: &[Bar]) -> Row {
    Row {
        name,
        section,
        case,
        threads: 2,
        scaling: false,
        limit,
        bars: bars.to_vec(),
    }
}

fn dense(list: &mut Vec<Row>) {
    for (w, section, unit) in [
        (DType::F32, "Dense f32", &Limit::F32),
        (DType::BF16, "Dense bf16", &Limit::Bf16),
        (DType::F16, "Dense f16", &Limit::F32),
        (DType::I8, "Dense int8", &Limit::Int8),
    ] {
        for (n, k) in SHAPES {
            for m in [1, 4, 16, 128, 512] {
                let case = |packed| Case::MatMul {
                    w: w.into(),
                    m,
                    n,
                    k,
                    packed,
                };
                let bars: &[Bar] = match (w, m) {
                    (DType::F32, 1) => &[Bar::Limit(0.88)],
                    (DType::F32 | DType::BF16, 4 | 16) => &[Bar::Limit(0.70)],
                    // A tie within 3% counts.
                    (DType::F32, 512) => &[Bar::Peer(0.97), Bar::Limit(0.90)],
                    (DType::F32, 128) => &[Bar::Peer(0.97)],
                    (DType::BF16, 128 | 512) => &[Bar::Peer(1.0), Bar::Limit(0.88)],
                    (DType::F16, 128 | 512) => &[Bar::Limit(0.88)],
                    (DType::I8, 128 | 512) => &[Bar::Peer(1.0)],
                    _ => &[],
                };
                let limit = match m {
                    1 => Limit::Read,
                    4 | 16 => Limit::ReadOr(unit),
                    _ => *unit,
                };
                let name = format!("dense/{w}/m{m}n{n}k{k}");
                list.push(row(name, section, case(true), limit, bars));
                if w == DType::F32 && m == 128 {
                    let name = format!("dense/{w}/rows/m{m}n{n}k{k}");
                    let bars = &[Bar::PeerUnpacked(1.2)];
                    list.push(row(name, section, case(false), limit, bars));
                }
            }
        }
    }
}

/// Bits of 4 and more per weight.
fn wide(q: QuantFormat) -> bool {
    q.block_bytes() * 8 >= q.block_len() * 4
}

/// One scale per 16 values, and the formats that cost as much.
fn fine(q: QuantFormat) -> bool {
    use QuantFormat::*;
    matches!(q, Q2_K | Q3_K | Q6_K | IQ2_XS | IQ2_S | IQ1_M | NVFP4)
}

fn quantized(list: &mut Vec<Row>) {
    let files = |q: &&QuantFormat| !matches!(q, QuantFormat::Q8_1 | QuantFormat::Q8_K);
    for &q in QuantFormat::ALL.iter().filter(files) {
        let mut add = |m: u32, n, k, threads| {
            let section = if m == 1 {
                "Quantized, one row"
            } else {
                "Quantized, many rows"
            };
            let bars: &[Bar] = match (m, threads) {
                (1, 1) if wide(q) => &[Bar::Limit(0.80)],
                (1, _) if wide(q) => &[Bar::Limit(0.85)],
                (1, _) => &[Bar::Either(&Bar::Peer(2.5), &Bar::Limit(0.85))],
                (8, _) => &[Bar::Limit(0.75)],
                (4 | 16, _) => &[Bar::Limit(0.70)],
                _ if fine(q) => &[Bar::Limit(0.55), Bar::Peer(1.3)],
                _ => &[Bar::Limit(0.65), Bar::Peer(1.3)],
            };
            let limit = match m {
                1 => Limit::Read,
                4..=16 => Limit::ReadOr(&Limit::Int8),
                _ => Limit::Int8,
            };
            let case = Case::MatMul {
                w: q.into(),
                m,
                n,
                k,
                packed: true,
            };
            let suffix = if threads == 1 { "/1t" } else { "" };
            let name = format!("quant/{}/m{m}n{n}k{k}{suffix}", q.name());
            list.push(Row {
                threads,
                ..row(name, section, case, limit, bars)
            });
        };
        add(1, 4096, 4096, 1);
        let common = matches!(
            q,
            QuantFormat::Q4_0 | QuantFormat::Q8_0 | QuantFormat::Q4_K | QuantFormat::Q6_K
        );
        let many: &[u32] = if common {
            &[1, 4, 8, 16, 128, 512]
        } else {
            &[1, 8, 128, 512]
        };
        for &m in many {
            add(m, 4096, 4096, 2);
        }
        if common {
            for m in [1, 8, 512] {
                add(m, 14336, 4096, 2);
            }
        }
        if matches!(q, QuantFormat::Q4_0 | QuantFormat::Q4_1 | QuantFormat::Q8_0) {
            for m in [1, 8, 128, 512] {
                add(m, 1536, 576, 2);
            }
        }
    }
}

fn attention(list: &mut Vec<Row>) {
    let section = "Attention";
    let q8: Element = QuantFormat::Q8_0.into();
    for (d, s) in [
        (64, 512),
        (64, 2048),
        (128, 512),
        (128, 2048),
        (256, 512),
        (256, 2048),
    ] {
        for kv in [DType::F16.into(), DType::BF16.into(), q8, DType::F32.into()] {
            let exact = kv == DType::F32.into();
            if exact && d != 128 {
                continue;
            }
            let case = Case::Attention {
                kv,
                half: !exact,
                b: 1,
                heads: 32,
                kv_heads: 8,
                dk: d,
                dv: d,
                sq: s,
                skv: s,
                causal: true,
            };
            let name = format!("attention/prefill/{kv}/d{d}s{s}");
            let bars: &[Bar] = if exact { &[] } else { &[Bar::Limit(0.75)] };
            list.push(row(name, section, case, Limit::F32, bars));
        }
    }
    for (skv, name) in [(4096, "sd_self"), (77, "sd_cross")] {
        for kv in [DType::F32, DType::BF16] {
            let exact = kv == DType::F32;
            let case = Case::Attention {
                kv: kv.into(),
                half: !exact,
                b: 2,
                heads: 8,
                kv_heads: 8,
                dk: 40,
                dv: 40,
                sq: 4096,
                skv,
                causal: false,
            };
            let bar = Bar::Peer(if exact { 1.4 } else { 1.2 });
            let name = format!("attention/{name}/{kv}/q4096kv{skv}d40");
            list.push(row(name, section, case, Limit::F32, &[bar]));
        }
    }
    for skv in [4096, 16384] {
        for kv in [DType::F16.into(), q8] {
            for threads in [1, 2] {
                let case = Case::Attention {
                    kv,
                    half: true,
                    b: 1,
                    heads: 32,
                    kv_heads: 8,
                    dk: 128,
                    dv: 128,
                    sq: 1,
                    skv,
                    causal: false,
                };
                let suffix = if threads == 1 { "/1t" } else { "" };
                let name = format!("attention/decode/{kv}/kv{skv}d128{suffix}");
                let bars = &[Bar::Limit(0.75)];
                list.push(Row {
                    threads,
                    ..row(name, section, case, Limit::Read, bars)
                });
            }
        }
    }
    for (name, heads, kv_heads, dk, dv, sq, skv) in [
        ("mla_prefill", 16, 16, 192, 128, 512, 512),
        ("mla_decode", 16, 1, 576, 512, 1, 4096),
    ] {
        let case = Case::Attention {
            kv: DType::F16.into(),
            half: true,
            b: 1,
            heads,
            kv_heads,
            dk,
            dv,
            sq,
            skv,
            causal: sq > 1,
        };
        let limit = if sq > 1 {
            Limit::F32
        } else {
            Limit::ReadOr(&Limit::F32)
        };
        let name = format!("attention/{name}/f16/q{sq}kv{skv}d{dk}_{dv}");
        list.push(row(name, section, case, limit, &[]));
    }
}

fn dequantize(list: &mut Vec<Row>) {
    let files = |q: &&QuantFormat| !matches!(q, QuantFormat::Q8_1 | QuantFormat::Q8_K);
    for &w in QuantFormat::ALL.iter().filter(files) {
        for y in [DType::F32, DType::BF16] {
            let case = Case::Dequantize {
                w,
                y,
                rows: 2048,
                k: 4096,
            };
            let bar = Bar::Either(&Bar::Limit(0.80), &Bar::Peer(1.5));
            let name = format!("dequantize/{}/{y}/1t", w.name());
            list.push(Row {
                threads: 1,
                ..row(name, "Dequantize", case, Limit::Store, &[bar])
            });
        }
    }
}

fn models(list: &mut Vec<Row>) {
    for (name, file, pp, tg) in MODELS {
        let model = |prompt| Case::Model { file, prompt };
        list.push(row(
            format!("model/{name}/pp512"),
            "Whole models",
            model(true),
            Limit::None,
            &[pp],
        ));
        list.push(row(
            format!("model/{name}/tg128"),
            "Whole models",
            model(false),
            Limit::Read,
            &[tg],
        ));
    }
    let (name, file, ..) = MODELS[2];
    list.push(row(
        format!("model/{name}/load"),
        "Whole models",
        Case::Load { file },
        Limit::None,
        &[Bar::TimesRead(1.5)],
    ));
}

fn scaling(list: &mut Vec<Row>) {
    let mut add = |name: &str, case: Case, bar: f64| {
        list.push(Row {
            scaling: true,
            ..row(
                format!("threads/{name}"),
                "One thread to two",
                case,
                Limit::None,
                &[Bar::Scaling(bar)],
            )
        });
    };
    let elements: [Element; 7] = [
        DType::F32.into(),
        DType::BF16.into(),
        DType::F16.into(),
        DType::I8.into(),
        QuantFormat::Q4_0.into(),
        QuantFormat::Q4_K.into(),
        QuantFormat::Q6_K.into(),
    ];
    for w in elements {
        let case = Case::MatMul {
            w,
            m: 512,
            n: 4096,
            k: 4096,
            packed: true,
        };
        add(&format!("{w}/m512n4096k4096"), case, 1.9);
    }
    for kv in [DType::F16, DType::F32] {
        let case = Case::Attention {
            kv: kv.into(),
            half: kv == DType::F16,
            b: 1,
            heads: 32,
            kv_heads: 8,
            dk: 128,
            dv: 128,
            sq: 2048,
            skv: 2048,
            causal: true,
        };
        add(&format!("attention/{kv}/d128s2048"), case, 1.9);
    }
    for (name, file, ..) in MODELS {
        add(
            &format!("{name}/pp512"),
            Case::Model { file, prompt: true },
            1.9,
        );
        let case = Case::Model {
            file,
            prompt: false,
        };
        add(&format!("{name}/tg128"), case, 1.5);
    }
}
