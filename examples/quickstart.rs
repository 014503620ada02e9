//! Quantized weights times activations, then attention, on the best device of this machine, each
//! checked against plain arithmetic on the host. `GRISTMILL_DEVICE=wgpu` picks another device.

use gristmill::{
    Act, Attention, DType, MatMul, Op, Precision, QuantFormat, Queue, Registry, Select,
};
use std::time::Instant;

const M: usize = 8;
const N: usize = 1024;
const K: usize = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Registry::builtin().open_blocking(&Select::from_env()?)?;
    let mut queue = Queue::new(&device)?;
    println!("{} ({})", device.info().id, device.info().name);

    // y = silu(x . w^T + bias) with w in q4_0 blocks, as a GGUF file holds them.
    let format = QuantFormat::Q4_0;
    let dense = numbers(N * K, 1);
    let mut blocks = vec![0; N * K / format.block_len() * format.block_bytes()];
    format.encode(&dense, &mut blocks)?;
    let (x, bias) = (numbers(M * K, 2), numbers(N, 3));

    let w = queue.upload_weight(format, &[N as u32, K as u32], &blocks)?;
    let x_dev = queue.upload(&x, &[M as u32, K as u32])?;
    let bias_dev = queue.upload(&bias, &[N as u32])?;
    let y = queue.zeros(DType::F32, &[M as u32, N as u32])?;
    let op = MatMul::new(&x_dev, w, &y)
        .bias(&bias_dev)
        .act(Act::Silu)
        .precision(Precision::F32);
    println!(
        "route: {}",
        queue.plan(&Op::from(op.clone()).map(|_, t| t.desc()))?
    );
    queue.run(op.clone())?;
    queue.finish()?;
    let start = Instant::now();
    queue.run(op)?;
    queue.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    let flops = 2.0 * (M * N * K) as f64;
    println!(
        "matmul {M} x {N} x {K} {format}: {:.1} GFLOP/s",
        flops / seconds / 1e9
    );

    let mut stored = vec![0.0; N * K];
    format.decode(&blocks, &mut stored)?;
    let got = queue.download::<f32>(&y)?;
    let mut worst = 0.0f64;
    for m in 0..M {
        for n in 0..N {
            let pairs = x[m * K..][..K].iter().zip(&stored[n * K..][..K]);
            let acc: f64 = pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let t = acc + f64::from(bias[n]);
            worst = worst.max((t / (1.0 + (-t).exp()) - f64::from(got[m * N + n])).abs());
        }
    }
    println!("largest error against f64: {worst:.1e}");
    if worst > 1e-3 {
        return Err("the product is wrong".into());
    }

    // Four query heads over two KV heads, causal, one new token against 300 cached ones.
    let (heads, kv_heads, keys, dim) = (4, 2, 300, 64);
    let q = queue.upload(&numbers(heads * dim, 4), &[1, heads as u32, 1, dim as u32])?;
    let shape = [1, kv_heads as u32, keys as u32, dim as u32];
    let k = queue.upload(&numbers(kv_heads * keys * dim, 5), &shape)?;
    let ones = queue.upload(&vec![1.0f32; kv_heads * keys * dim], &shape)?;
    let out = queue.zeros(DType::F32, &[1, heads as u32, 1, dim as u32])?;
    queue.run(Attention::dense(&q, &k, &ones, keys as u32, 0.125, &out).causal())?;
    // The weights of a softmax sum to one, so values of one give one.
    let got = queue.download::<f32>(&out)?;
    let worst = got.iter().map(|v| (v - 1.0).abs()).fold(0.0, f32::max);
    println!("attention over {keys} keys: largest error {worst:.1e}");
    if worst > 1e-5 {
        return Err("attention is wrong".into());
    }
    Ok(())
}

/// Reproducible numbers in -1..1.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}
