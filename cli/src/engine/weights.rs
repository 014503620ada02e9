//! The tensors of a model, on the device.

use anyhow::{Context, Result, bail, ensure};
use gristmill::quant::QuantFormat;
use gristmill::{
    DType, Device, Element, GatherRows, Op, Queue, Support, Tensor, TensorDesc, Weight,
};

use super::config::Config;
use crate::gguf::Gguf;

/// A projection with its optional bias.
pub struct Linear {
    /// `[N, K]`.
    pub w: Weight<Tensor>,
    /// `[N]`.
    pub bias: Option<Tensor>,
}

/// One transformer block.
pub struct Layer {
    /// Before attention.
    pub attn_norm: Tensor,
    /// Queries.
    pub q: Linear,
    /// Keys.
    pub k: Linear,
    /// Values.
    pub v: Linear,
    /// Per-head norms of queries and keys.
    pub qk_norm: Option<(Tensor, Tensor)>,
    /// Attention's output projection.
    pub o: Linear,
    /// After attention, before the sum.
    pub post_attn_norm: Option<Tensor>,
    /// Before the feed-forward network.
    pub ffn_norm: Tensor,
    /// The half of the network that goes through the activation.
    pub gate: Linear,
    /// The half that it multiplies.
    pub up: Linear,
    /// Back to the residual stream.
    pub down: Linear,
    /// After the feed-forward network, before the sum.
    pub post_ffn_norm: Option<Tensor>,
}

/// All of them.
pub struct Weights {
    /// Token embeddings `[vocabulary, width]`, for lookups.
    pub embedding: Weight<Tensor>,
    /// The same table or another one, for logits.
    pub head: Weight<Tensor>,
    /// Before the logits.
    pub output_norm: Tensor,
    /// Divisors of the rope frequencies on layers without a window.
    pub rope_factors: Option<Tensor>,
    /// Transformer blocks.
    pub layers: Vec<Layer>,
}

impl Weights {
    /// Uploads everything that `config` needs. `progress` is told the bytes of each tensor.
    ///
    /// # Errors
    /// A tensor is missing, has another shape, an unknown type or lies beyond the end of the
    /// file; or the device is out of memory.
    pub fn load(
        gguf: &Gguf,
        config: &Config,
        queue: &mut Queue,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let mut from = Loader {
            gguf,
            queue,
            progress,
        };
        let c = config;
        let mut layers = Vec::new();
        for i in 0..c.layers {
            let name = |what: &str| format!("blk.{i}.{what}");
            let (q_rows, kv_rows) = (c.heads * c.key_dim, c.kv_heads * c.key_dim);
            let v_rows = c.kv_heads * c.value_dim;
            let qk_norm = match from.vector_if(&name("attn_q_norm.weight"), c.key_dim)? {
                Some(q) => Some((q, from.vector(&name("attn_k_norm.weight"), c.key_dim)?)),
                None => None,
            };
            layers.push(Layer {
                attn_norm: from.vector(&name("attn_norm.weight"), c.width)?,
                q: from.linear(&name("attn_q"), q_rows, c.width)?,
                k: from.linear(&name("attn_k"), kv_rows, c.width)?,
                v: from.linear(&name("attn_v"), v_rows, c.width)?,
                qk_norm,
                o: from.linear(&name("attn_output"), c.width, c.heads * c.value_dim)?,
                post_attn_norm: from.vector_if(&name("post_attention_norm.weight"), c.width)?,
                ffn_norm: from.vector(&name("ffn_norm.weight"), c.width)?,
                gate: from.linear(&name("ffn_gate"), c.ffn, c.width)?,
                up: from.linear(&name("ffn_up"), c.ffn, c.width)?,
                down: from.linear(&name("ffn_down"), c.width, c.ffn)?,
                post_ffn_norm: from.vector_if(&name("post_ffw_norm.weight"), c.width)?,
            });
        }
        let output_norm = from.vector("output_norm.weight", c.width)?;
        let rope_factors = from.rope_factors(c)?;
        let table = [c.vocab, c.width];
        let (embedding, head) = if gguf.tensor("output.weight").is_some() {
            let embedding = from.table("token_embd.weight", table)?;
            (embedding, from.matrix("output.weight", table)?)
        } else {
            let head = from.matrix("token_embd.weight", table)?;
            let embedding = if from.gathers(&head, c)? {
                head.clone()
            } else {
                from.table("token_embd.weight", table)?
            };
            (embedding, head)
        };
        Ok(Self {
            embedding,
            head,
            output_norm,
            rope_factors,
            layers,
        })
    }
}

/// The element type that a type id of ggml names.
pub fn element(id: u32) -> Option<Element> {
    match id {
        0 => Some(DType::F32.into()),
        1 => Some(DType::F16.into()),
        30 => Some(DType::BF16.into()),
        id => QuantFormat::from_gguf_id(id).map(Element::from),
    }
}

struct Loader<'a> {
    gguf: &'a Gguf,
    queue: &'a mut Queue,
    progress: &'a mut dyn FnMut(u64),
}

impl<'a> Loader<'a> {
    /// Type and bytes of a tensor that must have this shape.
    fn find(&mut self, name: &str, shape: &[u32]) -> Result<(Element, &'a [u8])> {
        let file = self.gguf.path().display();
        let t = self
            .gguf
            .tensor(name)
            .with_context(|| format!("{file}: the tensor {name} is missing"))?;
        ensure!(
            t.shape.len() == shape.len()
                && t.shape.iter().zip(shape).all(|(&a, &b)| a == b as usize),
            "{file}: the tensor {name} is {:?}, not {shape:?}",
            t.shape
        );
        let Some(element) = element(t.ggml_type) else {
            bail!(
                "{file}: the tensor {name} has type {} of ggml, which is not supported",
                t.ggml_type
            );
        };
        let desc = TensorDesc::new(element, shape)
            .with_context(|| format!("{file}: the tensor {name}"))?;
        let bytes = self
            .gguf
            .bytes(name, t, usize::try_from(desc.data_bytes())?)?;
        (self.progress)(bytes.len() as u64);
        Ok((element, bytes))
    }

    /// A matrix in whatever layout the device multiplies best.
    fn matrix(&mut self, name: &str, shape: [u32; 2]) -> Result<Weight<Tensor>> {
        let (element, bytes) = self.find(name, &shape)?;
        let weight = self.queue.upload_weight(element, &shape, bytes);
        weight.with_context(|| format!("the tensor {name}"))
    }

    /// A matrix as it lies in the file.
    fn table(&mut self, name: &str, shape: [u32; 2]) -> Result<Weight<Tensor>> {
        let (element, bytes) = self.find(name, &shape)?;
        let table = self.queue.upload_bytes(element, &shape, bytes);
        Ok(Weight::Rows(
            table.with_context(|| format!("the tensor {name}"))?,
        ))
    }

    fn linear(&mut self, name: &str, n: u32, k: u32) -> Result<Linear> {
        Ok(Linear {
            w: self.matrix(&format!("{name}.weight"), [n, k])?,
            bias: self.vector_if(&format!("{name}.bias"), n)?,
        })
    }

    fn vector(&mut self, name: &str, len: u32) -> Result<Tensor> {
        let (element, bytes) = self.find(name, &[len])?;
        ensure!(
            element.plain().is_some(),
            "{}: the tensor {name} is {element}; a vector of floats was expected",
            self.gguf.path().display()
        );
        let vector = self.queue.upload_bytes(element, &[len], bytes);
        vector.with_context(|| format!("the tensor {name}"))
    }

    fn vector_if(&mut self, name: &str, len: u32) -> Result<Option<Tensor>> {
        match self.gguf.tensor(name) {
            Some(_) => self.vector(name, len).map(Some),
            None => Ok(None),
        }
    }

    /// Llama 3.1 and later carry the divisors as a tensor; linear scaling is one number.
    fn rope_factors(&mut self, c: &Config) -> Result<Option<Tensor>> {
        let pairs = c.n_rot / 2;
        let name = "rope_freqs.weight";
        if self.gguf.tensor(name).is_some() {
            let (element, bytes) = self.find(name, &[pairs])?;
            ensure!(
                element == Element::from(DType::F32),
                "the tensor {name} is {element}, not f32"
            );
            return Ok(Some(self.queue.upload_bytes(element, &[pairs], bytes)?));
        }
        if c.rope_divisor == 1.0 {
            return Ok(None);
        }
        let factors = vec![c.rope_divisor; pairs as usize];
        Ok(Some(self.queue.upload(&factors, &[pairs])?))
    }

    /// Whether the device can look rows up in `table` as it lies there.
    fn gathers(&self, table: &Weight<Tensor>, c: &Config) -> Result<bool> {
        if let Weight::Rows(_) = table {
            return Ok(true);
        }
        let ids = TensorDesc::new(DType::I32, &[1])?;
        let y = TensorDesc::new(DType::F32, &[1, c.width])?;
        let table = table.try_map("table", &mut |_, t| Ok::<_, anyhow::Error>(t.desc()))?;
        let device: &dyn Device = &**self.queue.device();
        let question = Op::from(GatherRows::new(table, &ids, &y));
        Ok(matches!(device.supports(&question), Support::Native(_)))
    }
}
