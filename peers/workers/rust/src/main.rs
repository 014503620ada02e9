//! Matrix products of published Rust crates as a peer: see "Protocol" in ../../README.md.

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use gemm::{Parallelism, f16};
use rten_gemm::{
    BlockQuantizedGemm, BlockQuantizedMatrix, ComputeMode, GemmExecutor, GemmInputA, GemmInputB,
    GemmOptions,
};
use rten_tensor::{Contiguous, NdTensor, NdTensorView, prelude::*};
use std::{io::BufRead, mem::MaybeUninit, time::Instant};

/// A way to run the open case; the argument picks the copy of the weights.
type Run = Box<dyn FnMut(usize)>;

struct Case {
    runs: Vec<(&'static str, Run)>,
    copies: usize,
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let some: Vec<f32> = (0..n.min(1 << 16))
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 40) as f32 / 16_777_216.0 - 0.5
        })
        .collect();
    some.iter().copied().cycle().take(n).collect()
}

/// Weights of this many bytes are rotated over copies when few rows are multiplied.
fn copies(m: usize, bytes: usize) -> usize {
    if m <= 16 { (160 << 20) / bytes + 1 } else { 1 }
}

fn f32s(m: usize, n: usize, k: usize, threads: usize) -> Case {
    let copies = copies(m, n * k * 4);
    let x = numbers(m * k, 3);
    let w = std::rc::Rc::new(vec![numbers(n * k, 5); copies]);
    let (parallel, par) = match threads {
        1 => (Parallelism::None, Par::Seq),
        t => (Parallelism::Rayon(t), Par::rayon(t)),
    };
    let mut runs: Vec<(&'static str, Run)> = Vec::new();
    let (xs, ws, mut y) = (x.clone(), w.clone(), vec![0f32; m * n]);
    runs.push((
        "gemm",
        Box::new(move |i| {
            // SAFETY: the strides are those of row-major x[m, k], w[n, k]^T and y[m, n].
            unsafe {
                gemm::gemm(
                    m, n, k, y.as_mut_ptr(), 1, n as isize, false, xs.as_ptr(), 1, k as isize,
                    ws[i].as_ptr(), k as isize, 1, 0f32, 1f32, false, false, false, parallel,
                );
            }
        }),
    ));
    let (xs, ws, mut y) = (x.clone(), w.clone(), vec![0f32; m * n]);
    runs.push((
        "faer",
        Box::new(move |i| {
            let y = MatMut::from_row_major_slice_mut(&mut y, m, n);
            let x = MatRef::from_row_major_slice(&xs, m, k);
            let w = MatRef::from_row_major_slice(&ws[i], n, k).transpose();
            matmul(y, Accum::Replace, x, w, 1f32, par);
        }),
    ));
    let (xs, ws, mut y) = (x.clone(), w.clone(), vec![0f32; m * n]);
    let executor = GemmExecutor::<f32, f32, f32>::new();
    runs.push((
        "rten",
        Box::new(move |i| {
            let w = NdTensorView::from_data([n, k], &ws[i][..]);
            let w = GemmInputB::Unpacked(w.transposed());
            let x = GemmInputA::Unpacked(NdTensorView::from_data([m, k], &xs[..]));
            executor.gemm(&mut y, x, w, GemmOptions::default()).unwrap();
        }),
    ));
    let (xs, mut y) = (x, vec![0f32; m * n]);
    let executor = GemmExecutor::<f32, f32, f32>::new();
    let packed: Vec<_> = w
        .iter()
        .map(|w| executor.prepack_b(NdTensorView::from_data([n, k], &w[..]).transposed()))
        .collect();
    runs.push((
        "rten prepacked",
        Box::new(move |i| {
            let x = GemmInputA::Unpacked(NdTensorView::from_data([m, k], &xs[..]));
            let w = GemmInputB::Packed(&packed[i]);
            executor.gemm(&mut y, x, w, GemmOptions::default()).unwrap();
        }),
    ));
    Case { runs, copies }
}

fn f16s(m: usize, n: usize, k: usize, threads: usize) -> Case {
    let copies = copies(m, n * k * 2);
    let half = |v: Vec<f32>| -> Vec<f16> { v.into_iter().map(f16::from_f32).collect() };
    let (x, w) = (half(numbers(m * k, 3)), vec![half(numbers(n * k, 5)); copies]);
    let mut y = vec![f16::ZERO; m * n];
    let parallel = match threads {
        1 => Parallelism::None,
        t => Parallelism::Rayon(t),
    };
    let run: Run = Box::new(move |i| {
        // SAFETY: the strides are those of row-major x[m, k], w[n, k]^T and y[m, n].
        unsafe {
            gemm::gemm(
                m, n, k, y.as_mut_ptr(), 1, n as isize, false, x.as_ptr(), 1, k as isize,
                w[i].as_ptr(), k as isize, 1, f16::ZERO, f16::ONE, false, false, false, parallel,
            );
        }
    });
    Case {
        runs: vec![("gemm", run)],
        copies,
    }
}

fn int8(m: usize, n: usize, k: usize) -> Case {
    let copies = copies(m, n * k);
    let executor = GemmExecutor::<u8, i8, i32>::new();
    let x: Vec<u8> = numbers(m * k, 3).iter().map(|v| (v * 127.0 + 64.0) as u8).collect();
    let w: Vec<i8> = numbers(n * k, 5).iter().map(|v| (v * 127.0) as i8).collect();
    let mut y = vec![0i32; m * n];
    let packed: Vec<_> = (0..copies)
        .map(|_| executor.prepack_b(NdTensorView::from_data([n, k], &w[..]).transposed()))
        .collect();
    let run: Run = Box::new(move |i| {
        let x = GemmInputA::Unpacked(NdTensorView::from_data([m, k], &x[..]));
        let w = GemmInputB::Packed(&packed[i]);
        executor.gemm(&mut y, x, w, GemmOptions::default()).unwrap();
    });
    Case {
        runs: vec![("rten prepacked", run)],
        copies,
    }
}

/// 4-bit codes with one scale per 32: rten's own form of what Q4_0 is.
fn block_q4(m: usize, n: usize, k: usize) -> Case {
    let copies = copies(m, n * k * 9 / 16);
    let code = |[a, b, c]: [usize; 3]| (a * 31 + b * 7 + c * 3) as u8;
    let w: Vec<_> = (0..copies)
        .map(|_| NdTensor::<u8, 3>::from_fn([n, k / 32, 16], code))
        .collect();
    let scales = NdTensor::<f32, 2>::full([n, k / 32], 0.01);
    let x = numbers(m * k, 3);
    let mut y = vec![MaybeUninit::new(0f32); m * n];
    let product = BlockQuantizedGemm::new().with_compute(ComputeMode::Int8);
    let run: Run = Box::new(move |i| {
        let w = Contiguous::new(w[i].view()).unwrap();
        let w = BlockQuantizedMatrix::new(w, Contiguous::new(scales.view()).unwrap(), 4).unwrap();
        let x = NdTensorView::from_data([1, m, k], &x[..]);
        product.batched_gemm_uninit(&mut y, x, w).unwrap();
    });
    Case {
        runs: vec![("rten 4-bit", run)],
        copies,
    }
}

fn open(words: &[&str]) -> Option<Case> {
    let ["mm", threads, element, m, n, k] = *words else {
        return None;
    };
    let [threads, m, n, k] = [threads, m, n, k].map(|w| w.parse::<usize>().unwrap_or(0));
    if threads * m * n * k == 0 {
        return None;
    }
    match element {
        "f32" => Some(f32s(m, n, k, threads)),
        "f16" => Some(f16s(m, n, k, threads)),
        "i8" => Some(int8(m, n, k)),
        "q4_0" if m <= 4 && k.is_multiple_of(32) => Some(block_q4(m, n, k)),
        _ => None,
    }
}

fn main() {
    let mut case: Option<Case> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["version"] => println!("ok\tgemm 0.19.0 (x86-v4), faer 0.24.4, rten-gemm 0.27.0"),
            ["open", rest @ ..] => {
                drop(case.take());
                case = open(rest);
                match &case {
                    Some(c) => {
                        let names: Vec<&str> = c.runs.iter().map(|r| r.0).collect();
                        println!("ok\t{}", names.join("\t"));
                    }
                    None => println!("none"),
                }
            }
            ["run", variant, seconds] => {
                let (variant, seconds) =
                    (variant.parse().unwrap_or(usize::MAX), seconds.parse().unwrap_or(0.0));
                let Some(c) = &mut case else {
                    println!("none");
                    continue;
                };
                let copies = c.copies;
                let Some((_, run)) = c.runs.get_mut(variant) else {
                    println!("none");
                    continue;
                };
                let (start, mut samples) = (Instant::now(), String::from("ok"));
                for _ in 0..1000 {
                    let t = Instant::now();
                    (0..copies).for_each(&mut *run);
                    samples += &format!("\t{}", t.elapsed().as_secs_f64() * 1e3 / copies as f64);
                    if start.elapsed().as_secs_f64() >= seconds {
                        break;
                    }
                }
                println!("{samples}");
            }
            _ => println!("none"),
        }
    }
}
