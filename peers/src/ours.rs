//! Our side of a row, through the public interface.

use crate::{
    case::{COLD_KV, COLD_WEIGHTS, Case, shares_values},
    pin::{Pinned, pin},
};
use anyhow::{Context, Result, bail, ensure};
use gristmill::{
    Attention, DType, Dequantize, Device, Element, Fallback, MatMul, Op, Precision, Queue, Tensor,
    Weight, backend::cpu,
};
use std::{
    collections::HashMap,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// Our devices and the weights of the last cases.
pub struct Ours {
    devices: HashMap<usize, Arc<dyn Device>>,
    kept: Vec<(Key, Arc<Vec<Weight<Tensor>>>)>,
    /// Where the model files are.
    pub models: PathBuf,
    /// The `gristmill` command.
    pub command: PathBuf,
}

#[derive(Clone, Copy, PartialEq)]
struct Key {
    w: Element,
    n: u32,
    k: u32,
    packed: bool,
    threads: usize,
    copies: usize,
}

/// A case that is ready to run.
pub enum Open {
    Ops {
        queue: Queue,
        ops: Vec<Op<Tensor>>,
        kernel: String,
    },
    Command {
        command: Command,
        key: &'static str,
        /// Milliseconds = this / value, or value * 1000 where 0.
        tokens: f64,
    },
}

impl Ours {
    pub fn new(models: PathBuf, command: PathBuf) -> Self {
        Ours {
            devices: HashMap::new(),
            kept: Vec::new(),
            models,
            command,
        }
    }

    fn device(&mut self, threads: usize) -> Result<Arc<dyn Device>> {
        if let Some(d) = self.devices.get(&threads) {
            return Ok(d.clone());
        }
        let mut options = gristmill::OpenOptions::default();
        options.threads = Some(threads);
        let device = cpu::device(&options)?;
        self.devices.insert(threads, device.clone());
        Ok(device)
    }

    /// Makes a case ready.
    pub fn open(&mut self, case: &Case, threads: usize) -> Result<Open> {
        let device = self.device(threads)?;
        let mut queue = Queue::new(&device)?.fallback(Fallback::Deny);
        let ops = match *case {
            Case::MatMul { w, m, n, k, packed } => {
                let weights = self.weights(&mut queue, (w, n, k), m, packed, threads)?;
                let (x, y) = match w {
                    Element::Plain(DType::I8) => (DType::I8, DType::I32),
                    // As torch has it, whose rows these are.
                    Element::Plain(DType::BF16) => (DType::BF16, DType::BF16),
                    _ => (DType::F32, DType::F32),
                };
                let x = queue.upload_bytes(x, &[m, k], &bytes(x.into(), m, k)?)?;
                let y = queue.zeros(y, &[m, n])?;
                let precision = match w {
                    Element::Quant(_) => Precision::Q8,
                    Element::Plain(DType::F16 | DType::BF16) => Precision::HALF,
                    _ => Precision::F32,
                };
                let copies = if case.few_rows() { weights.len() } else { 1 };
                weights[..copies]
                    .iter()
                    .map(|w| MatMul::new(&x, w.clone(), &y).precision(precision).into())
                    .collect()
            }
            Case::Attention { .. } => {
                self.kept.clear();
                attention(&mut queue, case)?
            }
            Case::Dequantize { w, y, rows, k } => {
                self.kept.clear();
                let w = queue.upload_bytes(w, &[rows, k], &bytes(w.into(), rows, k)?)?;
                let y = queue.zeros(y, &[rows, k])?;
                vec![Dequantize::new(&w, &y).into()]
            }
            Case::Model { file, prompt } => {
                self.kept.clear();
                return self.model(file, threads, Some(prompt));
            }
            Case::Load { file } => {
                self.kept.clear();
                return self.model(file, threads, None);
            }
        };
        let question = ops
            .first()
            .map(|op: &Op<Tensor>| op.map(|_, t| t.desc()))
            .context("no op")?;
        let kernel = device.kernels(&question).first().map(|k| k.0.to_owned());
        let mut open = Open::Ops {
            queue,
            ops,
            kernel: kernel.unwrap_or_default(),
        };
        open.sample(0.0)?;
        Ok(open)
    }

    fn weights(
        &mut self,
        queue: &mut Queue,
        (w, n, k): (Element, u32, u32),
        m: u32,
        packed: bool,
        threads: usize,
    ) -> Result<Arc<Vec<Weight<Tensor>>>> {
        let one = bytes(w, n, k)?;
        let copies = match m <= crate::case::FEW_ROWS {
            true => (COLD_WEIGHTS / one.len() as u64 + 1) as usize,
            false => 1,
        };
        let key = Key {
            w,
            n,
            k,
            packed,
            threads,
            copies,
        };
        self.kept
            .retain(|(kept, _)| (kept.w, kept.n, kept.k) == (w, n, k));
        let fits = |kept: &Key| kept.copies >= copies && Key { copies, ..*kept } == key;
        if let Some((_, w)) = self.kept.iter().find(|(kept, _)| fits(kept)) {
            return Ok(w.clone());
        }
        let mut list = Vec::new();
        for _ in 0..copies {
            list.push(match packed {
                true => queue.upload_weight(w, &[n, k], &one)?,
                false => Weight::Rows(queue.upload_bytes(w, &[n, k], &one)?),
            });
        }
        let list = Arc::new(list);
        self.kept.push((key, list.clone()));
        Ok(list)
    }

    /// A model as `gristmill bench-model` runs it: a prompt, single tokens, or loading it.
    fn model(&self, file: &str, threads: usize, prompt: Option<bool>) -> Result<Open> {
        let path = self.models.join(file);
        ensure!(path.exists(), "{} is not there", path.display());
        ensure!(
            self.command.exists(),
            "{} is not built",
            self.command.display()
        );
        let mut command = Command::new(&self.command);
        command
            .env("RAYON_NUM_THREADS", threads.to_string())
            .args(["bench-model", "--json", "--device", "cpu", "--model"])
            .arg(path);
        let (arguments, key, tokens): (&[&str], _, _) = match prompt {
            Some(true) => (&["--pp", "512", "--tg", "1", "--repeat", "3"], "pp", 512.0),
            Some(false) => (&["--pp", "1", "--tg", "128", "--repeat", "2"], "tg", 128.0),
            None => (&["--pp", "1", "--tg", "1", "--repeat", "1"], "load", 0.0),
        };
        command.args(arguments);
        Ok(Open::Command {
            command,
            key,
            tokens,
        })
    }
}

fn attention(queue: &mut Queue, case: &Case) -> Result<Vec<Op<Tensor>>> {
    let Case::Attention {
        kv,
        half,
        b,
        heads,
        kv_heads,
        dk,
        dv,
        sq,
        skv,
        causal,
    } = *case
    else {
        bail!("no attention");
    };
    let q = bytes(DType::F32.into(), b * heads * sq, dk)?;
    let q = queue.upload_bytes(DType::F32, &[b, heads, sq, dk], &q)?;
    let out = queue.zeros(DType::F32, &[b, heads, sq, dv])?;
    let copies = match case.few_rows() {
        true => (COLD_KV / case.bytes() as u64 + 1).min(64),
        false => 1,
    };
    let shared = shares_values(dk, dv, kv_heads);
    let mut ops = Vec::new();
    for _ in 0..copies {
        let cache = |d: u32| bytes(kv, b * kv_heads * skv, d);
        let k = queue.upload_bytes(kv, &[b, kv_heads, skv, dk], &cache(dk)?)?;
        let v = match shared {
            true => k.narrowed(3, 0..dv)?,
            false => queue.upload_bytes(kv, &[b, kv_heads, skv, dv], &cache(dv)?)?,
        };
        let precision = match (half, kv) {
            (false, _) => Precision::F32,
            (true, Element::Quant(_)) => Precision::Q8,
            (true, _) => Precision::HALF,
        };
        let scale = 1.0 / (dk as f32).sqrt();
        let mut op = Attention::dense(&q, &k, &v, skv, scale, &out).precision(precision);
        op.causal = causal;
        ops.push(op.into());
    }
    Ok(ops)
}

impl Open {
    /// Milliseconds of single runs, for about `seconds`; at least one.
    pub fn sample(&mut self, seconds: f64) -> Result<Vec<f64>> {
        match self {
            Open::Ops { queue, ops, .. } => {
                let _pinned = Pinned::new();
                let (start, mut samples) = (Instant::now(), Vec::new());
                let budget = Duration::from_secs_f64(seconds);
                while samples.is_empty() || (samples.len() < 1000 && start.elapsed() < budget) {
                    let t = Instant::now();
                    let mut runs = 0;
                    for op in ops.iter() {
                        queue.run(op.clone())?;
                        runs += 1;
                        if t.elapsed() > Duration::from_millis(500) {
                            break;
                        }
                    }
                    queue.finish()?;
                    samples.push(t.elapsed().as_secs_f64() * 1e3 / f64::from(runs));
                }
                Ok(samples)
            }
            Open::Command {
                command,
                key,
                tokens,
            } => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                let mut child = command.spawn().context("gristmill bench-model")?;
                while child.try_wait()?.is_none() {
                    pin(child.id());
                    std::thread::sleep(Duration::from_millis(20));
                }
                let done = child.wait_with_output()?;
                let text = String::from_utf8_lossy(&done.stderr);
                ensure!(done.status.success(), "bench-model: {}", text.trim());
                let line: serde_json::Value = serde_json::from_slice(&done.stdout)?;
                let value = line[*key]
                    .as_f64()
                    .with_context(|| format!("no {key} in {line}"))?;
                Ok(vec![match *tokens > 0.0 {
                    true => *tokens / value * 1e3,
                    false => value * 1e3,
                }])
            }
        }
    }

    /// The kernel that runs it.
    pub fn kernel(&self) -> &str {
        match self {
            Open::Ops { kernel, .. } => kernel,
            Open::Command { .. } => "",
        }
    }
}

/// `rows` rows of `k` numbers: a few rows of small numbers, repeated.
fn bytes(e: Element, rows: u32, k: u32) -> Result<Vec<u8>> {
    let (rows, k) = (rows as usize, k as usize);
    let some = rows.min(4);
    let mut seed = 1u32;
    let x: Vec<f32> = (0..some * k)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / 1.6e8 - 0.05
        })
        .collect();
    let one: Vec<u8> = match e {
        Element::Plain(DType::F32) => bytemuck::cast_slice(&x).to_vec(),
        Element::Plain(DType::F16) => x
            .iter()
            .flat_map(|&v| half::f16::from_f32(v).to_le_bytes())
            .collect(),
        Element::Plain(DType::BF16) => x
            .iter()
            .flat_map(|&v| half::bf16::from_f32(v).to_le_bytes())
            .collect(),
        Element::Plain(DType::I8) => x.iter().map(|&v| (v * 2000.0) as i8 as u8).collect(),
        Element::Quant(q) => {
            let mut out = vec![0; x.len() / q.block_len() * q.block_bytes()];
            q.encode(&x, &mut out)?;
            out
        }
        other => bail!("no numbers of type {other}"),
    };
    let mut all = Vec::with_capacity(one.len() / some * rows);
    while all.len() < one.len() / some * rows {
        let rest = one.len() / some * rows - all.len();
        all.extend_from_slice(&one[..one.len().min(rest)]);
    }
    Ok(all)
}
