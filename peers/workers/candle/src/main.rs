//! candle as a peer: see "Protocol" in ../../README.md.

use candle_core::{
    DType, Device, Module, Result, Tensor,
    quantized::{GgmlDType, QMatMul, QStorage, QTensor},
};
use std::{borrow::Cow, io::BufRead, time::Instant};

enum Weights {
    Dense(Vec<Tensor>),
    Quantized(Vec<QMatMul>),
}

/// The open weights, kept from case to case.
struct Kept {
    key: (String, usize, usize),
    weights: Weights,
}

struct Case {
    x: Tensor,
    copies: usize,
}

fn quantized(element: &str) -> Option<GgmlDType> {
    Some(match element.to_lowercase().as_str() {
        "q4_0" => GgmlDType::Q4_0,
        "q4_1" => GgmlDType::Q4_1,
        "q5_0" => GgmlDType::Q5_0,
        "q5_1" => GgmlDType::Q5_1,
        "q8_0" => GgmlDType::Q8_0,
        "q2_k" => GgmlDType::Q2K,
        "q3_k" => GgmlDType::Q3K,
        "q4_k" => GgmlDType::Q4K,
        "q5_k" => GgmlDType::Q5K,
        "q6_k" => GgmlDType::Q6K,
        _ => return None,
    })
}

fn dense(element: &str) -> Option<DType> {
    Some(match element {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        _ => return None,
    })
}

fn weights(element: &str, n: usize, k: usize) -> Result<Option<Weights>> {
    let cpu = Device::Cpu;
    let copies = |bytes: usize| (160 << 20) / bytes + 1;
    if let Some(d) = dense(element) {
        let w = Tensor::randn(0f32, 0.05, (n, k), &cpu)?.to_dtype(d)?;
        let all = (0..copies(n * k * d.size_in_bytes())).map(|_| w.copy());
        return Ok(Some(Weights::Dense(all.collect::<Result<_>>()?)));
    }
    let Some(d) = quantized(element).filter(|d| k.is_multiple_of(d.block_size())) else {
        return Ok(None);
    };
    // A few encoded rows, repeated.
    let some = n.min(16);
    let w = QTensor::quantize(&Tensor::randn(0f32, 0.05, (some, k), &cpu)?, d)?;
    let one = w.data()?.to_vec();
    let bytes: Vec<u8> = one.iter().copied().cycle().take(one.len() / some * n).collect();
    let all = (0..copies(bytes.len())).map(|_| {
        let storage = QStorage::from_data(Cow::Owned(bytes.clone()), &cpu, d)?;
        QMatMul::from_qtensor(QTensor::new(storage, (n, k))?)
    });
    Ok(Some(Weights::Quantized(all.collect::<Result<_>>()?)))
}

fn open(words: &[&str], kept: &mut Option<Kept>) -> Result<Option<Case>> {
    let ["mm", _, element, m, n, k] = *words else {
        return Ok(None);
    };
    let [m, n, k] = [m, n, k].map(|w| w.parse::<usize>().unwrap_or(0));
    if m * n * k == 0 {
        return Ok(None);
    }
    let key = (element.to_owned(), n, k);
    if kept.as_ref().is_none_or(|kept| kept.key != key) {
        *kept = None;
        let Some(weights) = weights(element, n, k)? else {
            return Ok(None);
        };
        *kept = Some(Kept { key, weights });
    }
    let Some(Kept { weights, .. }) = kept else {
        return Ok(None);
    };
    let (element, copies) = match weights {
        Weights::Dense(w) => (w[0].dtype(), w.len()),
        Weights::Quantized(w) => (DType::F32, w.len()),
    };
    Ok(Some(Case {
        x: Tensor::randn(0f32, 1.0, (m, k), &Device::Cpu)?.to_dtype(element)?,
        copies: if m <= 16 { copies } else { 1 },
    }))
}

fn run(case: &Case, weights: &Weights, seconds: f64) -> Result<Vec<f64>> {
    let (start, mut samples) = (Instant::now(), Vec::new());
    while samples.is_empty() || (samples.len() < 1000 && start.elapsed().as_secs_f64() < seconds) {
        let t = Instant::now();
        let mut runs = 0;
        for i in 0..case.copies {
            match weights {
                Weights::Dense(w) => drop(case.x.matmul(&w[i].t()?)?),
                Weights::Quantized(w) => drop(w[i].forward(&case.x)?),
            }
            runs += 1;
            // A path so slow that one pass over the copies would take the row's time.
            if t.elapsed().as_secs_f64() > 0.5 {
                break;
            }
        }
        samples.push(t.elapsed().as_secs_f64() * 1e3 / f64::from(runs));
    }
    Ok(samples)
}

fn main() {
    let (mut kept, mut case) = (None, None);
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["version"] => println!("ok\tcandle-core 0.11.1 (target-cpu=native)"),
            ["open", rest @ ..] => {
                case = open(rest, &mut kept).unwrap_or_else(|e| {
                    eprintln!("candle: {line}: {e}");
                    None
                });
                println!("{}", if case.is_some() { "ok\tcandle" } else { "none" });
            }
            ["run", "0", seconds] => match (&case, &kept) {
                (Some(case), Some(kept)) => {
                    match run(case, &kept.weights, seconds.parse().unwrap_or(0.0)) {
                        Ok(samples) => {
                            let words: Vec<String> = samples.iter().map(f64::to_string).collect();
                            println!("ok\t{}", words.join("\t"));
                        }
                        Err(e) => {
                            eprintln!("candle: {e}");
                            println!("none");
                        }
                    }
                }
                _ => println!("none"),
            },
            _ => println!("none"),
        }
    }
}
