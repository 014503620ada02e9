//! Can a device run this model's step? Asked before a byte of weights is read.

use std::collections::BTreeSet;
use std::sync::Arc;

use gristmill::{
    Attention, DType, Device, DeviceInfo, Error, Fallback, GatherRows, Glu, KvWrite, MatMul, Norm,
    Op, Queue, Registry, Result, Rope, TensorDesc, TopK,
};

use super::config::Config;
use super::step::Arithmetic;
use super::weights;
use crate::gguf::Gguf;

/// Rows of the questions: a token at a time, and a prompt.
const ROWS: [u32; 2] = [1, 64];
/// Cached positions of the questions.
const KEYS: u32 = 256;

/// The best device that runs every op of the model's step under `fallback`.
///
/// # Errors
/// No device does; the reasons of each.
pub fn best(
    gguf: &Gguf,
    config: &Config,
    arithmetic: impl Fn(&DeviceInfo) -> Arithmetic,
    fallback: Fallback,
) -> Result<Arc<dyn Device>> {
    let registry = Registry::builtin();
    let mut reasons = Vec::new();
    let mut found = Vec::new();
    for (_, devices) in pollster::block_on(registry.probe()) {
        match devices {
            Ok(devices) => found.extend(devices),
            Err(e) => reasons.push(e.to_string()),
        }
    }
    found.sort_by_key(|info| std::cmp::Reverse(info.kind));
    for info in found {
        let select = gristmill::Select::Named(vec![info.id.clone()]);
        let fits = registry.open_blocking(&select).and_then(|device| {
            runs(gguf, config, arithmetic(&info), &device, fallback)?;
            Ok(device)
        });
        match fits {
            Ok(device) => return Ok(device),
            Err(e) => {
                log::warn!("{} is passed over: {e}", info.id);
                reasons.push(format!("{}: {e}", info.id));
            }
        }
    }
    Err(Error::not_available("every backend", reasons.join("; ")))
}

/// Asks for every kind of op that a step has, with the shapes and weight formats of the model.
///
/// # Errors
/// The first op that the device cannot run.
pub fn runs(
    gguf: &Gguf,
    config: &Config,
    arithmetic: Arithmetic,
    device: &Arc<dyn Device>,
    fallback: Fallback,
) -> Result<()> {
    let queue = Queue::new(device)?.fallback(fallback);
    for rows in ROWS {
        for op in questions(gguf, config, arithmetic, rows)? {
            queue.plan(&op)?;
        }
    }
    Ok(())
}

fn questions(gguf: &Gguf, c: &Config, a: Arithmetic, rows: u32) -> Result<Vec<Op<TensorDesc>>> {
    let f32s = |shape: &[u32]| TensorDesc::new(DType::F32, shape);
    let ints = |shape: &[u32]| TensorDesc::new(DType::I32, shape);
    let mut ops: Vec<Op<TensorDesc>> = Vec::new();
    // Every distinct matrix of a projection, by format and shape.
    let mut seen = BTreeSet::new();
    for (name, t) in gguf.tensors() {
        let [n, k] = t.shape[..] else { continue };
        let Some(element) = weights::element(t.ggml_type) else {
            continue;
        };
        let (Ok(n), Ok(k)) = (u32::try_from(n), u32::try_from(k)) else {
            continue;
        };
        let w = TensorDesc::new(element, &[n, k])?;
        if seen.insert((element, n, k)) {
            let product = MatMul::new(&f32s(&[rows, k])?, &w, &f32s(&[rows, n])?);
            ops.push(product.precision(a.matmul).into());
        }
        if name == "token_embd.weight" {
            ops.push(GatherRows::new(&w, &ints(&[rows])?, &f32s(&[rows, k])?).into());
        }
    }
    let x = f32s(&[rows, c.width])?;
    ops.push(Norm::rms(&x, &f32s(&[c.width])?, c.eps, &x).into());
    // Heads are views of rows that hold all of them.
    let heads = |n: u32, dim: u32| -> Result<TensorDesc> {
        Ok(f32s(&[1, rows, n, dim])?.permuted(&[0, 2, 1, 3])?)
    };
    let (q, out) = (heads(c.heads, c.key_dim)?, heads(c.heads, c.value_dim)?);
    let (k, v) = (
        heads(c.kv_heads, c.key_dim)?,
        heads(c.kv_heads, c.value_dim)?,
    );
    let positions = ints(&[rows])?;
    ops.push(Rope::new(c.rope, &q, &positions, c.theta, c.n_rot, &q).into());
    let cache = |dim: u32| TensorDesc::new(a.cache, &[1, c.kv_heads, KEYS, dim]);
    let (k_cache, v_cache) = (cache(c.key_dim)?, cache(c.value_dim)?);
    ops.push(KvWrite::dense(&k, &v, &k_cache, &v_cache, &positions).into());
    let attention = Attention::dense(&q, &k_cache, &v_cache, &ints(&[1])?, c.score_scale, &out)
        .causal()
        .precision(a.attention);
    if let Some(window) = &c.window {
        ops.push(attention.clone().window(window.len).into());
    }
    ops.push(attention.into());
    let ffn = f32s(&[rows, c.ffn])?;
    ops.push(Glu::new(c.act, &ffn, &ffn, &ffn).into());
    ops.push(TopK::new(&f32s(&[c.vocab])?, &f32s(&[1])?, &ints(&[1])?).into());
    Ok(ops)
}
