//! Attention.

mod places;

use super::{FLOATS, List, PRECISIONS, desc, ints, laid, normal, output, strided};
use crate::{
    Attention, DType, Element, Kv, Precision, QuantFormat, Scalar, TensorDesc,
    conformance::{Fill, Spec},
};

/// A case in numbers; the loops below change a few of them at a time.
#[derive(Clone, Copy)]
struct Shape {
    batch: u32,
    heads: u32,
    kv_heads: u32,
    sq: u32,
    kv_len: u32,
    capacity: u32,
    dk: u32,
    dv: u32,
    q: DType,
    kv: Element,
    precision: Precision,
}

impl Shape {
    fn new(sq: u32, kv_len: u32, d: u32) -> Self {
        Shape {
            batch: 1,
            heads: 4,
            kv_heads: 2,
            sq,
            kv_len,
            capacity: kv_len.max(1),
            dk: d,
            dv: d,
            q: DType::F32,
            kv: DType::F32.into(),
            precision: Precision::F32,
        }
    }

    fn k(&self) -> [u32; 4] {
        [self.batch, self.kv_heads, self.capacity, self.dk]
    }

    fn v(&self) -> [u32; 4] {
        [self.batch, self.kv_heads, self.capacity, self.dv]
    }

    fn scores(&self) -> [u32; 4] {
        [self.batch, self.heads, self.sq, self.capacity]
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dk as f32).sqrt()
    }

    fn query(&self) -> Spec {
        normal(self.q, &[self.batch, self.heads, self.sq, self.dk])
    }

    fn out(&self) -> Spec {
        output(self.q, &[self.batch, self.heads, self.sq, self.dv])
    }

    fn over(&self, kv: Kv<Spec>) -> Attention<Spec> {
        Attention::new(&self.query(), kv, self.kv_len, self.scale(), &self.out())
            .precision(self.precision)
    }

    fn dense(&self) -> Attention<Spec> {
        self.over(Kv::Dense {
            k: normal(self.kv, &self.k()),
            v: normal(self.kv, &self.v()),
        })
    }

    /// Pages of `page` rows in random order; a few more pages than needed.
    fn paged(&self, page: u32) -> Attention<Spec> {
        let per_sequence = self.kv_len.div_ceil(page).max(1);
        let pages = self.batch * per_sequence + 3;
        let pool = |d: u32| normal(self.kv, &[pages, self.kv_heads, page, d]);
        self.over(Kv::Paged {
            k: pool(self.dk),
            v: pool(self.dv),
            table: ints(&[self.batch, per_sequence], Fill::Permutation(pages)),
        })
    }
}

pub(super) fn add(list: &mut List) {
    for (sq, kv) in [(1, 33), (7, 40)] {
        let mut s = Shape::new(sq, kv, 64);
        s.capacity = 48;
        list.smoke(format!("attention/smoke/q{sq}kv{kv}"), s.dense().causal());
    }
    list.smoke(
        "attention/smoke/paged",
        Shape::new(2, 20, 32).paged(16).causal(),
    );
    lengths(list);
    types(list);
    features(list);
    masks(list);
    places::add(list);
    nasty(list);
}

const HEADS: [(u32, u32); 13] = [
    (8, 8),
    (16, 16),
    (32, 32),
    (40, 40),
    (64, 64),
    (72, 72),
    (80, 80),
    (96, 96),
    (128, 128),
    (160, 160),
    (256, 256),
    (192, 128),
    (576, 512),
];

/// Head sizes against odd lengths, decode and prefill, with and without causality.
fn lengths(list: &mut List) {
    for (dk, dv) in HEADS {
        for sq in [1, 2, 7, 33] {
            for (i, kv) in [1, 7, 113, 127, 129, 300].into_iter().enumerate() {
                let mut s = Shape::new(sq, kv, dk);
                s.dv = dv;
                s.capacity = kv + [0, 3, 17][i % 3];
                let wide = dk > 256;
                if wide {
                    (s.heads, s.kv_heads) = (4, 1);
                }
                if wide && sq == 33 && kv > 130 {
                    continue;
                }
                let causal = (i + sq as usize).is_multiple_of(2);
                let op = if causal {
                    s.dense().causal()
                } else {
                    s.dense()
                };
                let word = if causal { "causal" } else { "full" };
                list.full(
                    format!("attention/length/{word}/d{dk}-{dv}/q{sq}kv{kv}"),
                    op,
                );
            }
        }
    }
    for (heads, kv_heads) in [
        (1, 1),
        (3, 3),
        (6, 2),
        (8, 1),
        (8, 8),
        (12, 4),
        (32, 8),
        (28, 4),
        (32, 2),
    ] {
        for (batch, sq, kv) in [(1, 1, 65), (2, 5, 40), (3, 1, 130)] {
            let mut s = Shape::new(sq, kv, 64);
            (s.heads, s.kv_heads, s.batch) = (heads, kv_heads, batch);
            list.full(
                format!("attention/heads/{heads}-{kv_heads}/b{batch}q{sq}kv{kv}"),
                s.dense().causal(),
            );
        }
    }
    // Long enough for split-KV decoding.
    for kv in [1000, 1024, 2047] {
        for (heads, kv_heads, d) in [(4, 1, 64), (8, 2, 128)] {
            let mut s = Shape::new(1, kv, d);
            (s.heads, s.kv_heads) = (heads, kv_heads);
            list.full(format!("attention/long/d{d}/kv{kv}"), s.dense().causal());
        }
    }
}

fn types(list: &mut List) {
    let caches = [
        Element::from(DType::F32),
        DType::F16.into(),
        DType::BF16.into(),
        QuantFormat::Q8_0.into(),
    ];
    for kv in caches {
        for q in FLOATS {
            for (precision, word) in PRECISIONS {
                for (sq, len, d) in [(1, 129, 64), (9, 65, 128), (34, 70, 32)] {
                    let mut s = Shape::new(sq, len, d);
                    (s.q, s.kv, s.precision) = (q, kv, precision);
                    list.full(
                        format!("attention/type/{kv}/{q}/{word}/q{sq}kv{len}d{d}"),
                        s.dense().causal(),
                    );
                }
            }
        }
        // Keys and values, queries and results of different types.
        let s = Shape::new(3, 40, 64);
        let mut op = s.over(Kv::Dense {
            k: normal(kv, &s.k()),
            v: normal(DType::F16, &s.v()),
        });
        op.out = output(DType::F16, &[1, 4, 3, 64]);
        list.full(format!("attention/type/mixed/{kv}"), op);
    }
}

/// Softcap, ALiBi, sinks and windows, in all combinations.
fn features(list: &mut List) {
    for bits in 0..16u32 {
        for window in [None, Some(1), Some(5), Some(40)] {
            for (sq, kv, d) in [(1, 50, 64), (12, 33, 40)] {
                let [causal, softcap, alibi, sinks] = [0, 1, 2, 3].map(|b| bits >> b & 1 == 1);
                let s = Shape::new(sq, kv, d);
                let mut op = s.dense();
                op.causal = causal;
                op.window = window;
                if softcap {
                    op = op.softcap(2.0);
                }
                if alibi {
                    let slopes = Fill::Values(vec![0.25, 0.0625, 0.015625, 0.5]);
                    op = op.alibi(&normal(DType::F32, &[s.heads]).fill(slopes));
                }
                if sinks {
                    op = op.sinks(&normal(DType::F32, &[s.heads]));
                }
                let word = |on: bool, w: &'static str| if on { w } else { "" };
                let parts = [
                    word(causal, "+causal"),
                    word(softcap, "+softcap"),
                    word(alibi, "+alibi"),
                    word(sinks, "+sinks"),
                ]
                .concat();
                let w = window.map_or(0, |w| w);
                list.full(
                    format!("attention/feature/window{w}{parts}/q{sq}kv{kv}d{d}"),
                    op,
                );
            }
        }
    }
}

fn masks(list: &mut List) {
    for (sq, kv, capacity) in [(1, 40, 40), (6, 33, 48)] {
        let mut s = Shape::new(sq, kv, 64);
        (s.batch, s.capacity) = (2, capacity);
        let [b, h, q, c] = s.scores();
        let shapes: [&[u32]; 6] = [
            &[b, h, q, c],
            &[b, 1, q, c],
            &[1, h, q, c],
            &[q, c],
            &[c],
            &[b, 1, 1, c],
        ];
        for (i, shape) in shapes.into_iter().enumerate() {
            if shapes[..i].contains(&shape) {
                continue;
            }
            for element in [DType::F32, DType::F16, DType::BF16, DType::U8] {
                let (kept, dropped) = match element {
                    DType::U8 => (1.0, 0.0),
                    _ => (0.0, f64::NEG_INFINITY),
                };
                let coin = Fill::Coin {
                    keep: 0.6,
                    kept,
                    dropped,
                };
                let name = format!("attention/mask/{element}/{}/q{sq}", super::by(shape));
                let mask = normal(element, shape).fill(coin);
                list.full(name.clone(), s.dense().mask(&mask));
                if element != DType::U8 {
                    let op = s.dense().mask(&normal(element, shape)).causal();
                    list.full(format!("{name}/numbers"), op);
                }
            }
        }
        // Every key hidden; then every key of some rows.
        for (name, fill) in [
            ("all", Fill::Values(vec![0.0])),
            (
                "rows",
                Fill::Values([vec![0.0; c as usize], vec![1.0; c as usize]].concat()),
            ),
        ] {
            let mask = normal(DType::U8, &[b, h, q, c]).fill(fill);
            let op = s.dense().mask(&mask);
            list.full(format!("attention/mask/hidden_{name}/q{sq}"), op.clone());
            let sinks = normal(DType::F32, &[s.heads]);
            list.full(
                format!("attention/mask/hidden_{name}_sinks/q{sq}"),
                op.sinks(&sinks),
            );
        }
        let all = normal(DType::F32, &[q, c]).fill(Fill::Values(vec![f64::NEG_INFINITY]));
        list.full(
            format!("attention/mask/hidden_add/q{sq}"),
            s.dense().mask(&all),
        );
        let apart = strided(DType::F32, &[q, c], &[i64::from(c) + 9, 1]);
        let op = s.dense().mask(&laid(apart).at(4));
        list.full(format!("attention/mask/strided/q{sq}"), op);
    }
}

fn nasty(list: &mut List) {
    for (sq, kv) in [(1, 20), (5, 17)] {
        let s = Shape::new(sq, kv, 64);
        // Lengths on the device: in range, beyond the capacity, nothing, negative.
        for (name, n) in [
            ("some", 13.0),
            ("beyond", 1e6),
            ("none", 0.0),
            ("negative", -3.0),
        ] {
            let mut op = s.dense().causal();
            op.seqs = crate::Seqs::Uniform {
                kv_len: Scalar::Device(ints(&[1], Fill::Values(vec![n]))),
            };
            list.full(format!("attention/device_length/{name}/q{sq}"), op);
        }
        let mut none = s;
        (none.kv_len, none.capacity) = (0, 8);
        list.full(format!("attention/nothing/q{sq}"), none.dense());
        let sinks = normal(DType::F32, &[4]);
        list.full(
            format!("attention/nothing_sinks/q{sq}"),
            none.dense().sinks(&sinks),
        );
        // What lies beyond the length must not matter, whatever it is.
        for kv_type in [
            Element::from(DType::F32),
            DType::F16.into(),
            DType::BF16.into(),
            QuantFormat::Q8_0.into(),
        ] {
            let mut stale = s;
            (stale.capacity, stale.kv) = (kv + 30, kv_type);
            let old = |d: TensorDesc| Spec::new(d, Fill::Stale(kv));
            let op = stale.over(Kv::Dense {
                k: old(desc(kv_type, &stale.k())),
                v: old(desc(kv_type, &stale.v())),
            });
            list.full(format!("attention/stale/{kv_type}/q{sq}"), op.causal());
        }
        // Large scores: exp must not overflow.
        let mut op = s.dense();
        op.scale = 40.0;
        list.full(format!("attention/large_scores/q{sq}"), op.causal());
        let mut op = s.dense();
        op.scale = 0.0;
        list.full(format!("attention/zero_scale/q{sq}"), op);
        let mut op = s.dense().causal();
        op.q = op.q.fill(Fill::Special);
        list.full(format!("attention/special/q{sq}"), op);
    }
    // More queries than keys: the first rows see nothing.
    list.full(
        "attention/nothing/early_rows",
        Shape::new(9, 4, 64).dense().causal(),
    );
    let mut s = Shape::new(4, 10, 64);
    s.batch = 0;
    list.full("attention/empty/batch", s.dense());
    let mut s = Shape::new(0, 10, 64);
    s.capacity = 10;
    list.full("attention/empty/queries", s.dense());
}
