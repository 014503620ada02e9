//! A model with its weights and caches on a device, one sequence at a time.

use std::sync::Arc;

use anyhow::{Result, ensure};
use gristmill::device::Graph;
use gristmill::{Device, Fallback, Op, Queue, Tensor};

use super::config::Config;
use super::step::{Arithmetic, Builder, Cache, Scratch, caches};
use super::weights::Weights;
use crate::gguf::Gguf;

/// Rows of the longest step of a prefill.
const CHUNK: u32 = 512;
/// Rows of logits that are computed at once when all are wanted.
const LOGIT_ROWS: u32 = 16;

/// What a model is loaded for.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// Positions that the caches hold.
    pub capacity: u32,
    /// How precise steps are.
    pub arithmetic: Arithmetic,
    /// How many of the likeliest tokens a step yields.
    pub candidates: u32,
    /// Whether [`Model::logits`] will be called.
    pub all_logits: bool,
    /// What happens to ops that the device lacks.
    pub fallback: Fallback,
}

/// A model on a device, and the sequence that it has seen.
pub struct Model {
    config: Config,
    weights: Weights,
    caches: Vec<Cache>,
    scratch: Scratch,
    queue: Queue,
    purpose: Purpose,
    /// Tokens in the caches.
    len: u32,
    decode: Decode,
}

/// The step of one row, as far as it is known.
enum Decode {
    Unknown,
    Ops(Vec<Op<Tensor>>),
    Graph(Box<dyn Graph>),
}

impl Model {
    /// Uploads the weights of `gguf`, whose hyper-parameters are `config`, to `device`. `progress` is told the bytes of each tensor.
    ///
    /// # Errors
    /// The file does not hold a whole model of a known kind, `purpose` exceeds the context of
    /// the model, or the device has no memory for it.
    pub fn load(
        gguf: &Gguf,
        config: Config,
        device: &Arc<dyn Device>,
        purpose: Purpose,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        ensure!(
            purpose.capacity <= config.context,
            "{} positions exceed this model's context of {}",
            purpose.capacity,
            config.context
        );
        let mut queue = Queue::new(device)?.fallback(purpose.fallback);
        let weights = Weights::load(gguf, &config, &mut queue, progress)?;
        let rows = CHUNK.min(purpose.capacity);
        let logits = if purpose.all_logits {
            LOGIT_ROWS.min(rows)
        } else {
            1
        };
        let candidates = purpose.candidates.clamp(1, config.vocab);
        let scratch = Scratch::new(&queue, &config, rows, logits, candidates)?;
        let caches = caches(&queue, &config, purpose.capacity, purpose.arithmetic.cache)?;
        Ok(Self {
            config,
            weights,
            caches,
            scratch,
            queue,
            purpose,
            len: 0,
            decode: Decode::Unknown,
        })
    }

    /// Hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Forgets the sequence.
    pub fn reset(&mut self) {
        self.len = 0;
    }

    /// Blocks until the device has done everything.
    ///
    /// # Errors
    /// What the device says.
    pub fn finish(&mut self) -> Result<()> {
        Ok(self.queue.finish()?)
    }

    /// Appends `tokens` to the sequence and finds the likeliest next ones.
    ///
    /// # Errors
    /// A token is outside the vocabulary, there are none or too many, or a device error.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<()> {
        ensure!(!tokens.is_empty(), "there are no tokens");
        self.run_chunks(tokens, &mut |model, rows, last| {
            if last {
                let b = model.builder();
                let mut ops = b.head(rows - 1, rows)?;
                ops.push(b.choose()?);
                model.run(&ops)?;
            }
            Ok(())
        })
    }

    /// Appends `tokens` and hands the logits of each, in order, to `each`: f32 `[n, vocabulary]`
    /// at a time.
    ///
    /// # Errors
    /// As [`Model::prefill`].
    pub fn logits(&mut self, tokens: &[u32], each: &mut dyn FnMut(&[f32])) -> Result<()> {
        let step = self.scratch.logits.shape()[0];
        self.run_chunks(tokens, &mut |model, rows, _| {
            for start in (0..rows).step_by(step as usize) {
                let end = rows.min(start + step);
                let ops = model.builder().head(start, end)?;
                model.run(&ops)?;
                let logits = model.scratch.logits.narrowed(0, 0..end - start)?;
                each(&model.queue.download::<f32>(&logits)?);
            }
            Ok(())
        })
    }

    /// Appends the candidate that stands first (see [`Model::candidates`]) and finds the
    /// likeliest tokens after it. The id does not leave the device.
    ///
    /// # Errors
    /// The caches are full, or a device error.
    pub fn decode(&mut self) -> Result<()> {
        self.expect_room(1)?;
        self.write_inputs(1)?;
        match &self.decode {
            Decode::Graph(graph) => self.queue.replay(&**graph)?,
            // The first run plans every op and compiles what a device compiles late; the second
            // is worth recording.
            Decode::Ops(ops) if self.queue.can_capture() => {
                self.queue.begin_capture()?;
                let encoded = ops.iter().try_for_each(|op| self.queue.run(op.clone()));
                let graph = self.queue.end_capture();
                encoded?;
                let graph = graph?;
                self.queue.replay(&*graph)?;
                self.decode = Decode::Graph(graph);
            }
            Decode::Ops(ops) => ops.iter().try_for_each(|op| self.queue.run(op.clone()))?,
            Decode::Unknown => {
                let b = self.builder();
                let mut ops = b.body(1, &self.scratch.candidate_ids)?;
                ops.extend(b.head(0, 1)?);
                ops.push(b.choose()?);
                self.run(&ops)?;
                self.decode = Decode::Ops(ops);
            }
        }
        self.len += 1;
        Ok(())
    }

    /// The id of the likeliest next token.
    ///
    /// # Errors
    /// What the device says.
    pub fn best(&mut self) -> Result<u32> {
        let first = self.scratch.candidate_ids.narrowed(0, 0..1)?;
        Ok(self.queue.download::<i32>(&first)?[0] as u32)
    }

    /// Ids and logits of the likeliest next tokens, falling.
    ///
    /// # Errors
    /// What the device says.
    pub fn candidates(&mut self) -> Result<(Vec<u32>, Vec<f32>)> {
        let ids = self.queue.download::<i32>(&self.scratch.candidate_ids)?;
        let logits = self.queue.download(&self.scratch.candidates)?;
        Ok((ids.into_iter().map(|i| i as u32).collect(), logits))
    }

    /// Puts `token` first among the candidates, for [`Model::decode`].
    ///
    /// # Errors
    /// What the device says.
    pub fn choose(&mut self, token: u32) -> Result<()> {
        let first = self.scratch.candidate_ids.narrowed(0, 0..1)?;
        Ok(self.queue.write(&first, &[token as i32])?)
    }

    fn builder(&self) -> Builder<'_> {
        Builder {
            config: &self.config,
            weights: &self.weights,
            caches: &self.caches,
            scratch: &self.scratch,
            arithmetic: self.purpose.arithmetic,
        }
    }

    fn run(&mut self, ops: &[Op<Tensor>]) -> Result<()> {
        for op in ops {
            self.queue.run(op.clone())?;
        }
        Ok(())
    }

    fn expect_room(&self, tokens: usize) -> Result<()> {
        let capacity = self.purpose.capacity;
        ensure!(
            self.len as usize + tokens <= capacity as usize,
            "context overflow: {} positions are taken and {tokens} more do not fit in {capacity}",
            self.len
        );
        Ok(())
    }

    /// Tells the device which positions the next `rows` rows have.
    fn write_inputs(&mut self, rows: u32) -> Result<()> {
        let end = self.len + rows;
        let inputs: Vec<i32> = std::iter::once(end)
            .chain(self.len..end)
            .map(|i| i as i32)
            .collect();
        let at = self.scratch.inputs.narrowed(0, 0..1 + rows)?;
        Ok(self.queue.write(&at, &inputs)?)
    }

    /// Runs `tokens` through the blocks, and `after` on each chunk: its rows, and whether it is
    /// the last.
    fn run_chunks(
        &mut self,
        tokens: &[u32],
        after: &mut dyn FnMut(&mut Self, u32, bool) -> Result<()>,
    ) -> Result<()> {
        self.expect_room(tokens.len())?;
        if let Some(bad) = tokens.iter().find(|&&t| t >= self.config.vocab) {
            anyhow::bail!(
                "token id {bad} is outside the vocabulary of {}",
                self.config.vocab
            );
        }
        let chunk = self.scratch.ids.shape()[0] as usize;
        let mut left = tokens;
        while !left.is_empty() {
            let (now, rest) = left.split_at(chunk.min(left.len()));
            left = rest;
            let rows = now.len() as u32;
            self.write_inputs(rows)?;
            let ids: Vec<i32> = now.iter().map(|&t| t as i32).collect();
            self.queue
                .write(&self.scratch.ids.narrowed(0, 0..rows)?, &ids)?;
            let ops = self.builder().body(rows, &self.scratch.ids)?;
            self.run(&ops)?;
            after(self, rows, left.is_empty())?;
            self.len += rows;
        }
        Ok(())
    }
}
