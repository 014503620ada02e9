//! [`Attention`].

use super::{
    Array, Nd, Output,
    matmul::{Collect, SIX_SIGMA, Term, rounding},
    softmax::mask_terms,
};
use crate::op::{Activations, Arg, Attention, Kv, Scalar, Seqs};

/// Which row of the decoded k and v holds key j of sequence b under KV head h, in rows.
struct Cache {
    k: Nd,
    v: Nd,
    table: Option<Nd>,
}

impl Cache {
    fn new(kv: &Kv<Array>) -> Cache {
        Cache {
            k: Nd::of(kv.k()),
            v: Nd::of(kv.v()),
            table: match kv {
                Kv::Paged { table, .. } => Some(Nd::of(table)),
                _ => None,
            },
        }
    }

    fn row(&self, b: usize, h: usize, j: usize) -> Option<usize> {
        let (heads, page) = (self.k.shape[1], self.k.shape[2]);
        match &self.table {
            None => Some((b * heads + h) * page + j),
            Some(t) => {
                let number = t.v[b * t.shape[1] + j / page] as i64;
                let number = usize::try_from(number).ok()?;
                (number < self.k.shape[0]).then_some((number * heads + h) * page + j % page)
            }
        }
    }

    fn capacity(&self) -> usize {
        self.k.shape[2] * self.table.as_ref().map_or(1, |t| t.shape[1])
    }
}

/// One query: its place and its sequence.
struct Query {
    sequence: usize,
    position: i64,
    kv_len: usize,
}

/// Sequence, position and length of every query of batch entry `b`; none for a query of a packed
/// batch that no sequence owns.
fn queries(seqs: &Seqs<Array>, b: usize, sq: usize, capacity: usize) -> Vec<Option<Query>> {
    match seqs {
        Seqs::Uniform { kv_len } => {
            let n = match kv_len {
                Scalar::Host(n) => i64::from(*n),
                Scalar::Device(t) => Nd::of(t).ints().first().copied().unwrap_or(0),
            };
            let kv_len = n.clamp(0, capacity as i64) as usize;
            (0..sq)
                .map(|i| {
                    Some(Query {
                        sequence: b,
                        position: kv_len as i64 - sq as i64 + i as i64,
                        kv_len,
                    })
                })
                .collect()
        }
        Seqs::Ragged { q_starts, kv_lens } => {
            let (starts, lens) = (Nd::of(q_starts).ints(), Nd::of(kv_lens).ints());
            (0..sq as i64)
                .map(|i| {
                    let s = (0..lens.len()).find(|&s| starts[s] <= i && i < starts[s + 1])?;
                    let kv_len = lens[s].clamp(0, capacity as i64);
                    Some(Query {
                        sequence: s,
                        position: kv_len - (starts[s + 1] - starts[s]) + (i - starts[s]),
                        kv_len: kv_len as usize,
                    })
                })
                .collect()
        }
    }
}

pub(super) fn attention(a: &Attention<Array>) -> Output {
    let q = Nd::of(&a.q);
    let cache = Cache::new(&a.kv);
    let (batch, heads, sq, dk) = (q.shape[0], q.shape[1], q.shape[2], q.shape[3]);
    let dv = cache.v.shape[3];
    let capacity = cache.capacity();
    let group = heads / cache.k.shape[1].max(1);
    let alibi = a.alibi.as_ref().map(Nd::of);
    let sinks = a.sinks.as_ref().map(Nd::of);
    let mask = a.mask.as_ref().map(|m| {
        let shape = [batch as u32, heads as u32, sq as u32, capacity as u32];
        mask_terms(m, &shape)
    });
    let scale = f64::from(a.scale);
    let half = a.precision.activations != Activations::Exact;
    let mut out = Collect::zeros(batch * heads * sq * dv);
    let mut e = Vec::new();
    for b in 0..batch {
        let all = queries(&a.seqs, b, sq, capacity);
        for h in 0..heads {
            for (i, query) in all.iter().enumerate() {
                let Some(query) = query else { continue };
                let at = (b * heads + h) * sq + i;
                let row = &q.v[at * dk..][..dk];
                rounding(a.precision, row, &mut e);
                // (row of the cache, score), and the largest error scales of the scores.
                let mut scores: Vec<(usize, f64)> = Vec::new();
                let (mut spread, mut rounded) = (0f64, 0f64);
                for j in 0..query.kv_len {
                    let behind = query.position - j as i64;
                    let hidden = (a.causal && behind < 0)
                        || a.window.is_some_and(|w| behind >= i64::from(w));
                    let added = mask.as_ref().map_or(0.0, |m| m.v[at * capacity + j]);
                    let place = cache.row(query.sequence, h / group.max(1), j);
                    let Some(place) = place.filter(|_| !hidden && added != f64::NEG_INFINITY)
                    else {
                        continue;
                    };
                    let key = &cache.k.v[place * dk..][..dk];
                    let (mut s, mut mag, mut sq) = (0.0, 0.0, 0.0);
                    for (x, y) in row.iter().zip(key) {
                        s += x * y;
                        mag += (x * y).abs();
                    }
                    for (x, y) in e.iter().zip(key) {
                        sq += (x * y) * (x * y);
                    }
                    s *= scale;
                    mag *= scale.abs();
                    if let Some(cap) = a.softcap {
                        let cap = f64::from(cap);
                        s = cap * (s / cap).tanh();
                        mag = mag.max(cap * 0.1);
                    }
                    if let Some(slopes) = &alibi {
                        let bias = slopes.v[h] * (j as f64 - query.position as f64);
                        s += bias;
                        mag += bias.abs();
                    }
                    s += added;
                    mag += added.abs();
                    spread = spread.max(mag);
                    // Keys of a half or 8-bit product may be rounded as the queries are.
                    rounded = rounded.max(SIX_SIGMA * scale.abs() * (2.0 * sq).sqrt());
                    scores.push((place, s));
                }
                let sink = sinks.as_ref().map(|s| s.v[h]);
                let top = scores
                    .iter()
                    .map(|s| s.1)
                    .chain(sink)
                    .fold(f64::NEG_INFINITY, f64::max);
                // Nothing to see: the row stays 0.
                if scores.is_empty() || scores.iter().all(|s| s.1 == f64::NEG_INFINITY) {
                    continue;
                }
                let weights: Vec<f64> = scores.iter().map(|s| (s.1 - top).exp()).collect();
                let sum: f64 = weights.iter().sum::<f64>() + sink.map_or(0.0, |s| (s - top).exp());
                for c in 0..dv {
                    let (mut value, mut mag, mut sq) = (0.0, 0.0, 0.0);
                    for ((place, _), w) in scores.iter().zip(&weights) {
                        let t = w / sum * cache.v.v[place * dv + c];
                        value += t;
                        mag += t.abs();
                        sq += t * t;
                    }
                    let slack = if half {
                        2.0 * rounded * (sq.sqrt() + rounded * mag)
                            + SIX_SIGMA / 256.0 * (sq * 2.0).sqrt()
                    } else {
                        0.0
                    };
                    out.set(
                        at * dv + c,
                        Term {
                            value,
                            magnitude: mag * (1.0 + spread),
                            slack,
                        },
                    );
                }
            }
        }
    }
    out.output(Arg::output("out"), a.out.desc.shape())
}
