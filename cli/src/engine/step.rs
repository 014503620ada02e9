//! One step of a model as a list of ops.
//!
//! Everything that changes from step to step (token ids, positions, the number of keys) lies in
//! device tensors, so that the list of a given number of rows is always the same and may be
//! recorded once and replayed.

use gristmill::device::Usage;
use gristmill::{
    Attention, Binary, DType, GatherRows, Glu, KvWrite, MatMul, MatMulMany, Norm, Op, Part,
    Precision, Queue, Result, Rope, Tensor, TensorDesc, TopK, Unary,
};

use super::config::Config;
use super::weights::{Layer, Linear, Weights};

/// How precise a step is.
#[derive(Clone, Copy, Debug)]
pub struct Arithmetic {
    /// Least precise arithmetic of projections.
    pub matmul: Precision,
    /// Least precise arithmetic of attention.
    pub attention: Precision,
    /// Element type of cached keys and values.
    pub cache: DType,
}

/// Keys and values `[1, kv_heads, capacity, dim]` of one layer.
pub struct Cache {
    k: Tensor,
    v: Tensor,
}

/// Tensors that live through one step. Those with rows have as many as the longest step.
pub struct Scratch {
    /// i32 `[1 + rows]`: how many keys there are, then the position of each row.
    pub inputs: Tensor,
    /// i32 `[rows]`.
    pub ids: Tensor,
    /// f32 `[candidates]`, falling: what the last rows's logits were at `candidate_ids`.
    pub candidates: Tensor,
    /// i32 `[candidates]`. The first is where a step of one row takes its token from.
    pub candidate_ids: Tensor,
    /// f32 `[logit rows, vocabulary]`.
    pub logits: Tensor,
    x: Tensor,
    h: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Tensor,
    gate: Tensor,
    up: Tensor,
}

impl Scratch {
    /// Allocates for steps of up to `rows` rows, of which up to `logits` have their logits
    /// computed at once.
    pub fn new(queue: &Queue, c: &Config, rows: u32, logits: u32, candidates: u32) -> Result<Self> {
        let float = |columns: u32| queue.zeros(DType::F32, &[rows, columns]);
        Ok(Self {
            inputs: queue.zeros(DType::I32, &[1 + rows])?,
            ids: queue.zeros(DType::I32, &[rows])?,
            candidates: queue.zeros(DType::F32, &[candidates])?,
            candidate_ids: queue.zeros(DType::I32, &[candidates])?,
            logits: queue.zeros(DType::F32, &[logits, c.vocab])?,
            x: float(c.width)?,
            h: float(c.width)?,
            q: float(c.heads * c.key_dim)?,
            k: float(c.kv_heads * c.key_dim)?,
            v: float(c.kv_heads * c.value_dim)?,
            attended: float(c.heads * c.value_dim)?,
            gate: float(c.ffn)?,
            up: float(c.ffn)?,
        })
    }
}

/// Allocates the cache of every layer for `capacity` positions.
pub fn caches(queue: &Queue, c: &Config, capacity: u32, element: DType) -> Result<Vec<Cache>> {
    let part = |dim: u32| {
        let desc = TensorDesc::new(element, &[1, c.kv_heads, capacity, dim])?;
        queue.alloc(desc, Usage::KvCache)
    };
    (0..c.layers)
        .map(|_| {
            Ok(Cache {
                k: part(c.key_dim)?,
                v: part(c.value_dim)?,
            })
        })
        .collect()
}

/// Writes the ops of steps.
pub struct Builder<'a> {
    /// Hyper-parameters.
    pub config: &'a Config,
    /// Weights.
    pub weights: &'a Weights,
    /// One per layer.
    pub caches: &'a [Cache],
    /// Temporary tensors.
    pub scratch: &'a Scratch,
    /// Precision.
    pub arithmetic: Arithmetic,
}

/// `[rows, heads * dim]` as `[1, heads, rows, dim]`, which is how attention sees it.
fn by_head(t: &Tensor, heads: u32, dim: u32) -> Result<Tensor> {
    let rows = t.shape()[0];
    t.reshaped(&[1, rows, heads, dim])?.permuted(&[0, 2, 1, 3])
}

fn part(linear: &Linear, y: &Tensor) -> Part<Tensor> {
    let part = Part::new(linear.w.clone(), y);
    match &linear.bias {
        Some(bias) => part.bias(bias),
        None => part,
    }
}

impl Builder<'_> {
    /// Runs `rows` tokens through all blocks: their keys and values enter the caches, their
    /// hidden states stay in the residual stream. The tokens are `ids`.
    pub fn body(&self, rows: u32, ids: &Tensor) -> Result<Vec<Op<Tensor>>> {
        let s = self.scratch;
        let x = s.x.narrowed(0, 0..rows)?;
        let ids = ids.narrowed(0, 0..rows)?;
        let mut ops = Vec::new();
        ops.push(GatherRows::new(self.weights.embedding.clone(), &ids, &x).into());
        if let Some(scale) = self.config.embedding_scale {
            ops.push(Unary::affine(scale, 0.0, &x, &x).into());
        }
        for (i, (layer, cache)) in (0..).zip(self.weights.layers.iter().zip(self.caches)) {
            self.attention(&mut ops, rows, i, layer, cache)?;
            self.feed_forward(&mut ops, rows, layer)?;
        }
        Ok(ops)
    }

    /// x += attention(norm(x)).
    fn attention(
        &self,
        ops: &mut Vec<Op<Tensor>>,
        rows: u32,
        index: u32,
        layer: &Layer,
        cache: &Cache,
    ) -> Result<()> {
        let (c, s) = (self.config, self.scratch);
        let cut = |t: &Tensor| t.narrowed(0, 0..rows);
        let (x, h) = (cut(&s.x)?, cut(&s.h)?);
        let (q, k, v) = (cut(&s.q)?, cut(&s.k)?, cut(&s.v)?);
        let attended = cut(&s.attended)?;
        let kv_len = s.inputs.narrowed(0, 0..1)?;
        let positions = s.inputs.narrowed(0, 1..1 + rows)?;

        ops.push(Norm::rms(&x, &layer.attn_norm, c.eps, &h).into());
        let qkv = [part(&layer.q, &q), part(&layer.k, &k), part(&layer.v, &v)];
        ops.push(
            MatMulMany::new(&h, qkv)
                .precision(self.arithmetic.matmul)
                .into(),
        );

        let q = by_head(&q, c.heads, c.key_dim)?;
        let k = by_head(&k, c.kv_heads, c.key_dim)?;
        let v = by_head(&v, c.kv_heads, c.value_dim)?;
        let out = by_head(&attended, c.heads, c.value_dim)?;
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            ops.push(Norm::rms(&q, q_norm, c.eps, &q).into());
            ops.push(Norm::rms(&k, k_norm, c.eps, &k).into());
        }
        let window = c.window_of(index);
        for t in [&q, &k] {
            let theta = window.map_or(c.theta, |w| w.theta);
            let rope = Rope::new(c.rope, t, &positions, theta, c.n_rot, t);
            ops.push(match &self.weights.rope_factors {
                Some(factors) if window.is_none() => rope.factors(factors).into(),
                _ => rope.into(),
            });
        }
        // The cache row of a token is its position.
        ops.push(KvWrite::dense(&k, &v, &cache.k, &cache.v, &positions).into());
        let attention = Attention::dense(&q, &cache.k, &cache.v, &kv_len, c.score_scale, &out)
            .causal()
            .precision(self.arithmetic.attention);
        ops.push(match window {
            Some(w) => attention.window(w.len).into(),
            None => attention.into(),
        });
        self.project(
            ops,
            &attended,
            &layer.o,
            layer.post_attn_norm.as_ref(),
            &h,
            &x,
        );
        Ok(())
    }

    /// x += down(act(gate(norm(x))) * up(norm(x))).
    fn feed_forward(&self, ops: &mut Vec<Op<Tensor>>, rows: u32, layer: &Layer) -> Result<()> {
        let (c, s) = (self.config, self.scratch);
        let cut = |t: &Tensor| t.narrowed(0, 0..rows);
        let (x, h, gate, up) = (cut(&s.x)?, cut(&s.h)?, cut(&s.gate)?, cut(&s.up)?);
        ops.push(Norm::rms(&x, &layer.ffn_norm, c.eps, &h).into());
        let both = [part(&layer.gate, &gate), part(&layer.up, &up)];
        ops.push(
            MatMulMany::new(&h, both)
                .precision(self.arithmetic.matmul)
                .into(),
        );
        ops.push(Glu::new(c.act, &gate, &up, &gate).into());
        self.project(
            ops,
            &gate,
            &layer.down,
            layer.post_ffn_norm.as_ref(),
            &h,
            &x,
        );
        Ok(())
    }

    /// x += norm(y . w^T), where the norm may be absent; `h` holds the product if not.
    fn project(
        &self,
        ops: &mut Vec<Op<Tensor>>,
        y: &Tensor,
        linear: &Linear,
        norm: Option<&Tensor>,
        h: &Tensor,
        x: &Tensor,
    ) {
        let product = |to: &Tensor| {
            let m = MatMul::new(y, linear.w.clone(), to).precision(self.arithmetic.matmul);
            match &linear.bias {
                Some(bias) => m.bias(bias),
                None => m,
            }
        };
        match norm {
            None => ops.push(product(x).residual(x).into()),
            Some(norm) => {
                ops.push(product(h).into());
                ops.push(Norm::rms(h, norm, self.config.eps, h).into());
                ops.push(Binary::add(x, h, x).into());
            }
        }
    }

    /// Logits of rows `start..end` of the residual stream, into the first rows of the logits.
    pub fn head(&self, start: u32, end: u32) -> Result<Vec<Op<Tensor>>> {
        let s = self.scratch;
        let x = s.x.narrowed(0, start..end)?;
        let h = s.h.narrowed(0, 0..end - start)?;
        let logits = s.logits.narrowed(0, 0..end - start)?;
        let product = MatMul::new(&h, self.weights.head.clone(), &logits);
        Ok(vec![
            Norm::rms(&x, &self.weights.output_norm, self.config.eps, &h).into(),
            product.precision(self.arithmetic.matmul).into(),
        ])
    }

    /// The likeliest tokens after the first row of the logits.
    pub fn choose(&self) -> Result<Op<Tensor>> {
        let s = self.scratch;
        let logits = s.logits.narrowed(0, 0..1)?.reshaped(&[self.config.vocab])?;
        Ok(TopK::new(&logits, &s.candidates, &s.candidate_ids).into())
    }
}
