//! The forward pass in f64, one token sequence at a time, written from the model papers.

use super::*;

/// w . x for a row-major `[n, k]` matrix.
fn product(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks(x.len())
        .map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum())
        .collect()
}

fn rms(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let scale = (mean + f64::from(EPS as f32)).sqrt().recip();
    x.iter().zip(weight).map(|(v, w)| v * scale * w).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn activation(family: Family, x: f64) -> f64 {
    match family {
        Family::Gemma3 => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        _ => x / (1.0 + (-x).exp()),
    }
}

impl Tiny {
    /// Rotates one head at `position`. Files of the llama family hold pairs as neighbours.
    fn rotate(&self, head: &mut [f64], position: f64, theta: f64) {
        let half = HEAD_DIM / 2;
        for i in 0..half {
            let mut angle = position * theta.powf(-2.0 * i as f64 / HEAD_DIM as f64);
            let (a, b) = match self.family {
                Family::Llama => {
                    angle /= self.get("rope_freqs.weight")[i];
                    (2 * i, 2 * i + 1)
                }
                _ => (i, i + half),
            };
            let (x, y) = (head[a], head[b]);
            head[a] = x * angle.cos() - y * angle.sin();
            head[b] = x * angle.sin() + y * angle.cos();
        }
    }

    /// Logits after each token.
    pub fn forward(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let gemma = self.family == Family::Gemma3;
        let scale = if gemma {
            f64::from((WIDTH as f32).sqrt())
        } else {
            1.0
        };
        let table = self.get("token_embd.weight");
        let mut rows: Vec<Vec<f64>> = tokens
            .iter()
            .map(|&t| &table[t as usize * WIDTH..][..WIDTH])
            .map(|row| row.iter().map(|v| v * scale).collect())
            .collect();
        for i in 0..self.layers {
            self.block(i, &mut rows);
        }
        let head = match self.family {
            Family::Qwen2 => self.get("output.weight"),
            _ => table,
        };
        let norm = self.get("output_norm.weight");
        rows.iter().map(|x| product(head, &rms(x, norm))).collect()
    }

    fn block(&self, i: usize, rows: &mut [Vec<f64>]) {
        let gemma = self.family == Family::Gemma3;
        let get = |what: &str| self.get(&format!("blk.{i}.{what}"));
        let local = gemma && !(i + 1).is_multiple_of(EVERY);
        let (theta, divisor) = match local {
            true => (1e4, 1.0),
            false => (self.theta(), self.rope_divisor),
        };

        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for (position, x) in rows.iter().enumerate() {
            let h = rms(x, get("attn_norm.weight"));
            for (part, to) in [("q", &mut q), ("k", &mut k), ("v", &mut v)] {
                let mut y = product(get(&format!("attn_{part}.weight")), &h);
                if self.family == Family::Qwen2 {
                    add(&mut y, get(&format!("attn_{part}.bias")));
                }
                if part != "v" {
                    for head in y.chunks_mut(HEAD_DIM) {
                        if gemma {
                            let normed = rms(head, get(&format!("attn_{part}_norm.weight")));
                            head.copy_from_slice(&normed);
                        }
                        self.rotate(head, position as f64 / divisor, theta);
                    }
                }
                to.push(y);
            }
        }

        for (position, x) in rows.iter_mut().enumerate() {
            let mut out = Vec::with_capacity(HEADS * HEAD_DIM);
            for head in 0..HEADS {
                let kv = head / (HEADS / KV_HEADS) * HEAD_DIM;
                let q = &q[position][head * HEAD_DIM..][..HEAD_DIM];
                let first = if local {
                    (position + 1).saturating_sub(WINDOW)
                } else {
                    0
                };
                let scores: Vec<f64> = k[first..=position]
                    .iter()
                    .map(|k| q.iter().zip(&k[kv..]).map(|(a, b)| a * b).sum::<f64>())
                    .map(|s| (s / (HEAD_DIM as f64).sqrt()).exp())
                    .collect();
                let sum: f64 = scores.iter().sum();
                for e in 0..HEAD_DIM {
                    let value = v[first..=position].iter().map(|v| v[kv + e]);
                    out.push(scores.iter().zip(value).map(|(s, v)| s / sum * v).sum());
                }
            }
            let mut y = product(get("attn_output.weight"), &out);
            if gemma {
                y = rms(&y, get("post_attention_norm.weight"));
            }
            add(x, &y);

            let h = rms(x, get("ffn_norm.weight"));
            let gate = product(get("ffn_gate.weight"), &h);
            let up = product(get("ffn_up.weight"), &h);
            let both = gate.iter().zip(&up);
            let both: Vec<f64> = both.map(|(g, u)| activation(self.family, *g) * u).collect();
            let mut y = product(get("ffn_down.weight"), &both);
            if gemma {
                y = rms(&y, get("post_ffw_norm.weight"));
            }
            add(x, &y);
        }
    }

    /// The likeliest continuation, up to `count` tokens or the end token.
    pub fn greedy(&self, prompt: &[u32], count: usize) -> Vec<u32> {
        let mut all = prompt.to_vec();
        while all.len() < prompt.len() + count {
            let logits = self.forward(&all).pop().unwrap();
            let best = (0..VOCAB)
                .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
                .unwrap() as u32;
            if best == END {
                break;
            }
            all.push(best);
        }
        all.split_off(prompt.len())
    }
}
