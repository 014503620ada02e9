//! Where keys, values and queries lie: in pages, in sequences of unequal lengths, with any strides.

use super::{
    super::{List, after, desc, ints, laid, normal, output, permuted, strided},
    Shape,
};
use crate::{
    DType, Element, Kv, QuantFormat,
    conformance::{Fill, Spec},
};

pub(super) fn add(list: &mut List) {
    paged(list);
    ragged(list);
    layouts(list);
}

fn paged(list: &mut List) {
    for page in [1, 16, 32, 64] {
        for kv in [
            Element::from(DType::F32),
            DType::F16.into(),
            DType::BF16.into(),
            QuantFormat::Q8_0.into(),
        ] {
            for (batch, sq, len) in [(1, 1, 100), (2, 5, 33), (3, 1, 64)] {
                if page == 1 && len > 64 {
                    continue;
                }
                let mut s = Shape::new(sq, len, 64);
                (s.batch, s.kv) = (batch, kv);
                list.full(
                    format!("attention/paged/{kv}/page{page}/b{batch}q{sq}kv{len}"),
                    s.paged(page).causal(),
                );
            }
        }
    }
    for (dk, dv) in [(128, 128), (80, 80), (256, 256), (192, 128), (576, 512)] {
        for sq in [1, 3] {
            let mut s = Shape::new(sq, 75, dk);
            s.dv = dv;
            list.full(
                format!("attention/paged/d{dk}-{dv}/q{sq}"),
                s.paged(16).causal(),
            );
        }
    }
    // A page number outside the pool hides its keys; features still count.
    let s = Shape::new(2, 60, 64);
    let odd = ints(&[1, 4], Fill::Values(vec![2.0, -1.0, 1000.0, 0.0]));
    let kv = || Kv::Paged {
        k: normal(DType::F32, &[5, 2, 16, 64]),
        v: normal(DType::F32, &[5, 2, 16, 64]),
        table: odd.clone(),
    };
    list.full("attention/paged/outside", s.over(kv()).causal());
    list.full(
        "attention/paged/outside_window",
        s.over(kv()).causal().window(20),
    );
    let sinks = normal(DType::F32, &[4]);
    list.full(
        "attention/paged/sinks",
        s.paged(16).sinks(&sinks).softcap(3.0),
    );
    let slopes = normal(DType::F32, &[4]).fill(Fill::Values(vec![0.5, 0.25]));
    list.full("attention/paged/alibi", s.paged(16).alibi(&slopes).causal());
    let mask = normal(DType::F32, &[1, 1, 2, 64]);
    list.full("attention/paged/mask", s.paged(16).mask(&mask));
    let unsigned = Spec::new(desc(DType::U32, &[1, 4]), Fill::Permutation(7));
    let op = s.over(Kv::Paged {
        k: normal(DType::F16, &[7, 2, 16, 64]),
        v: normal(DType::F16, &[7, 2, 16, 64]),
        table: unsigned,
    });
    list.full("attention/paged/u32", op.causal());
}

fn ragged(list: &mut List) {
    type Split = (&'static str, &'static [f64], &'static [f64]);
    let splits: [Split; 5] = [
        ("one", &[0.0, 9.0], &[33.0]),
        ("prefill", &[0.0, 3.0, 10.0, 17.0], &[3.0, 7.0, 20.0]),
        (
            "decode",
            &[0.0, 1.0, 2.0, 3.0, 4.0],
            &[5.0, 40.0, 1.0, 17.0],
        ),
        ("mixed", &[0.0, 6.0, 7.0, 7.0, 9.0], &[6.0, 31.0, 12.0, 2.0]),
        ("gaps", &[0.0, 2.0, 5.0], &[0.0, 11.0]),
    ];
    for (name, starts, lens) in splits {
        let (b, sq) = (lens.len() as u32, starts[starts.len() - 1] as u32);
        for kv in [
            Element::from(DType::F32),
            DType::F16.into(),
            QuantFormat::Q8_0.into(),
        ] {
            for causal in [true, false] {
                let s = Shape {
                    kv,
                    ..Shape::new(sq, 48, 64)
                };
                let word = if causal { "causal" } else { "full" };
                let q_starts = ints(&[b + 1], Fill::Values(starts.to_vec()));
                let kv_lens = ints(&[b], Fill::Values(lens.to_vec()));
                let mut op = s
                    .over(Kv::Dense {
                        k: normal(kv, &[b, 2, 48, 64]),
                        v: normal(kv, &[b, 2, 48, 64]),
                    })
                    .ragged(&q_starts, &kv_lens);
                op.causal = causal;
                list.full(format!("attention/ragged/dense/{name}/{kv}/{word}"), op);
                let pages = 3 * b + 2;
                let mut op = s
                    .over(Kv::Paged {
                        k: normal(kv, &[pages, 2, 16, 64]),
                        v: normal(kv, &[pages, 2, 16, 64]),
                        table: ints(&[b, 3], Fill::Permutation(pages)),
                    })
                    .ragged(&q_starts, &kv_lens);
                op.causal = causal;
                if causal {
                    op = op.window(9);
                }
                list.full(format!("attention/ragged/paged/{name}/{kv}/{word}"), op);
            }
        }
    }
    // Queries beyond the last start belong to nobody: their rows are 0.
    let s = Shape::new(8, 20, 64);
    let op = s
        .over(Kv::Dense {
            k: normal(DType::F32, &[2, 2, 20, 64]),
            v: normal(DType::F32, &[2, 2, 20, 64]),
        })
        .ragged(
            &ints(&[3], Fill::Values(vec![0.0, 2.0, 5.0])),
            &ints(&[2], Fill::Values(vec![9.0, 20.0])),
        );
    list.full("attention/ragged/unowned", op.causal());
}

fn layouts(list: &mut List) {
    for (sq, kv, d) in [(1, 50, 64), (9, 34, 80)] {
        let s = Shape::new(sq, kv, d);
        // [B, S, H, D] in memory, as a projection leaves it.
        let swapped =
            |e: Element, h: u32, n: u32, d: u32| permuted(e, &[1, n, h, d], &[0, 2, 1, 3]);
        let f = Element::from(DType::F32);
        let mut op = s.over(Kv::Dense {
            k: laid(swapped(f, 2, kv, d)),
            v: laid(swapped(f, 2, kv, d)),
        });
        op.q = laid(swapped(f, 4, sq, d));
        op.out = laid(swapped(f, 4, sq, d));
        list.full(
            format!("attention/layout/heads_inside/q{sq}d{d}"),
            op.causal(),
        );
        // Q, K and V are columns of one matrix.
        let width = i64::from(8 * d);
        let slice = |h: u32, n: u32| {
            strided(
                f,
                &[1, h, n, d],
                &[width * i64::from(n), i64::from(d), width, 1],
            )
        };
        let mut op = s.over(Kv::Dense {
            k: laid(slice(2, kv)).shared(0, 0),
            v: Spec::new(slice(2, kv), Fill::Normal(0.0, 1.0)).shared(0, u64::from(2 * d) * 4),
        });
        op.q = laid(slice(4, sq)).at(4);
        list.full(format!("attention/layout/columns/q{sq}d{d}"), op);
        let unaligned = |e: DType, name: &str, list: &mut List| {
            let one = e.size() as u64;
            let mut op = s.over(Kv::Dense {
                k: normal(e, &s.k()).at(one),
                v: normal(e, &s.v()).at(3 * one),
            });
            op.q = normal(e, &[1, 4, sq, d]).at(5 * one);
            op.out = output(e, &[1, 4, sq, d]).at(one);
            list.full(
                format!("attention/layout/offset_{name}/q{sq}d{d}"),
                op.causal(),
            );
        };
        unaligned(DType::F32, "f32", list);
        unaligned(DType::F16, "f16", list);
        unaligned(DType::BF16, "bf16", list);
        // Values transposed: [B, H, D, S] in memory.
        let op = s.over(Kv::Dense {
            k: normal(DType::F32, &s.k()),
            v: laid(permuted(f, &[1, 2, d, kv], &[0, 1, 3, 2])),
        });
        list.full(format!("attention/layout/values_transposed/q{sq}d{d}"), op);
        // One KV head repeated by stride 0, one sequence shared by two.
        let mut two = s;
        two.batch = 2;
        let same = |d: u32| strided(f, &[2, 2, kv, d], &[0, 0, i64::from(d), 1]);
        let op = two.over(Kv::Dense {
            k: laid(same(d)),
            v: laid(same(d)),
        });
        list.full(format!("attention/layout/repeated/q{sq}d{d}"), op.causal());
    }
    // Absorbed MLA: the values are the first 512 columns of the keys.
    for kv in [DType::F32, DType::F16, DType::BF16] {
        for (sq, len) in [(1, 77), (3, 40)] {
            let mut s = Shape::new(sq, len, 576);
            (s.dv, s.heads, s.kv_heads) = (512, 16, 1);
            let cache = desc(kv, &[1, 1, len, 576]);
            let values = strided(kv, &[1, 1, len, 512], cache.strides());
            let op = s.over(Kv::Dense {
                k: laid(cache).shared(0, 0),
                v: Spec::new(values, Fill::Keep).shared(0, 0),
            });
            list.full(format!("attention/layout/mla/{kv}/q{sq}"), op.causal());
        }
    }
    // Everything in one buffer.
    let s = Shape::new(3, 21, 64);
    let (q, k) = (desc(DType::F32, &[1, 4, 3, 64]), desc(DType::F32, &s.k()));
    let k_at = after(0, &q);
    let v_at = after(k_at, &k);
    let out_at = after(v_at, &k);
    let mut op = s.over(Kv::Dense {
        k: laid(k).shared(0, k_at),
        v: laid(k).shared(0, v_at),
    });
    op.q = laid(q).shared(0, 0);
    op.out = laid(q).shared(0, out_at);
    list.full("attention/layout/one_buffer", op);
}
