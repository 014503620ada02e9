//! What this machine's arithmetic units and memory can do at most, measured.

use super::isa::Isa;
use std::{
    hint::black_box,
    sync::Barrier,
    time::{Duration, Instant},
};

/// Measured limits of the processor with a number of threads at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// f32 multiply-adds, in operations per second (a multiply-add counts two).
    pub f32_flops: f64,
    /// bf16 dot products, where there is an instruction for them.
    pub bf16_flops: Option<f64>,
    /// 8-bit dot products, where there is an instruction for them.
    pub int8_ops: Option<f64>,
    /// Bytes per second read from memory.
    pub read_bytes: f64,
}

/// Measures the limits with `threads` threads; takes about a second.
pub fn ceilings(threads: usize) -> Ceilings {
    let isa = Isa::detect();
    let threads = threads.max(1);
    Ceilings {
        f32_flops: rate(threads, || f32_block(isa)),
        bf16_flops: isa.avx512_bf16.then(|| rate(threads, || bf16_block(isa))),
        int8_ops: isa.avx512_vnni.then(|| rate(threads, || int8_block(isa))),
        read_bytes: read_rate(threads),
    }
}

/// Sum over the threads of what `block` counts, per second; the best of a few windows.
fn rate(threads: usize, block: impl Fn() -> f64 + Sync) -> f64 {
    const WINDOW: Duration = Duration::from_millis(40);
    let mut best: f64 = 0.0;
    for _ in 0..5 {
        let barrier = Barrier::new(threads);
        let run = || {
            barrier.wait();
            let (start, mut count) = (Instant::now(), 0.0);
            while start.elapsed() < WINDOW {
                count += block();
            }
            count / start.elapsed().as_secs_f64()
        };
        best = best.max(on_threads(threads, &run));
    }
    best
}

fn on_threads(threads: usize, run: &(dyn Fn() -> f64 + Sync)) -> f64 {
    std::thread::scope(|s| {
        let others: Vec<_> = (1..threads).map(|_| s.spawn(run)).collect();
        let own = run();
        // A thread that panicked counts nothing.
        own + others
            .into_iter()
            .map(|t| t.join().unwrap_or(0.0))
            .sum::<f64>()
    })
}

/// Streams a buffer much larger than the caches, a part per thread, in two streams each.
fn read_rate(threads: usize) -> f64 {
    const BYTES: usize = 128 << 20;
    let data: Vec<u64> = (0..BYTES / 8).map(|i| i as u64).collect();
    let mut best: f64 = 0.0;
    for _ in 0..4 {
        let barrier = Barrier::new(threads);
        let next = std::sync::atomic::AtomicUsize::new(0);
        let run = || {
            let part = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let len = data.len() / threads;
            let mine = &data[part * len..][..len];
            barrier.wait();
            let start = Instant::now();
            let (a, b) = mine.split_at(len / 2);
            let mut sums = [0u64; 32];
            for (x, y) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
                for i in 0..16 {
                    sums[i] ^= x[i];
                    sums[16 + i] ^= y[i];
                }
            }
            black_box(sums);
            (len * 8) as f64 / start.elapsed().as_secs_f64()
        };
        best = best.max(on_threads(threads, &run));
    }
    best
}

/// Rounds of one block; each round is one operation on each of 12 accumulators.
#[cfg(target_arch = "x86_64")]
const ROUNDS: usize = 4096;

#[cfg(target_arch = "x86_64")]
fn f32_block(isa: Isa) -> f64 {
    if isa.avx512 {
        // SAFETY: AVX-512F was detected.
        unsafe { x86::f32_avx512() };
        (ROUNDS * 12 * 32) as f64
    } else if isa.avx2 {
        // SAFETY: AVX2 and FMA were detected.
        unsafe { x86::f32_avx2() };
        (ROUNDS * 12 * 16) as f64
    } else {
        portable_block()
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn f32_block(_: Isa) -> f64 {
    portable_block()
}

/// What the compiler makes of independent multiplications and additions.
fn portable_block() -> f64 {
    const LANES: usize = 64;
    const STEPS: usize = 4096;
    let (a, b) = (black_box(1.0001f32), black_box(0.5f32));
    let mut acc = [1.0f32; LANES];
    for _ in 0..STEPS {
        for x in &mut acc {
            *x = *x * a + b;
        }
    }
    black_box(acc);
    (STEPS * LANES * 2) as f64
}

#[cfg(target_arch = "x86_64")]
fn bf16_block(_: Isa) -> f64 {
    // SAFETY: the caller has detected AVX512-BF16.
    unsafe { x86::bf16_avx512() };
    (ROUNDS * 12 * 64) as f64
}

#[cfg(target_arch = "x86_64")]
fn int8_block(_: Isa) -> f64 {
    // SAFETY: the caller has detected AVX512-VNNI.
    unsafe { x86::int8_avx512() };
    (ROUNDS * 12 * 128) as f64
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_block(_: Isa) -> f64 {
    portable_block()
}

#[cfg(not(target_arch = "x86_64"))]
fn int8_block(_: Isa) -> f64 {
    portable_block()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{ROUNDS, black_box};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub(super) fn f32_avx512() {
        let (a, b) = (
            _mm512_set1_ps(black_box(1.0)),
            _mm512_set1_ps(black_box(0.0)),
        );
        let mut acc = [_mm512_set1_ps(1.0); 12];
        for _ in 0..ROUNDS {
            for x in &mut acc {
                *x = _mm512_fmadd_ps(*x, a, b);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn f32_avx2() {
        let (a, b) = (
            _mm256_set1_ps(black_box(1.0)),
            _mm256_set1_ps(black_box(0.0)),
        );
        let mut acc = [_mm256_set1_ps(1.0); 12];
        for _ in 0..ROUNDS {
            for x in &mut acc {
                *x = _mm256_fmadd_ps(*x, a, b);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16_avx512() {
        let ones = _mm512_cvtne2ps_pbh(
            _mm512_set1_ps(black_box(1.0)),
            _mm512_set1_ps(black_box(1.0)),
        );
        let mut acc = [_mm512_setzero_ps(); 12];
        for _ in 0..ROUNDS {
            for x in &mut acc {
                *x = _mm512_dpbf16_ps(*x, ones, ones);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn int8_avx512() {
        let ones = _mm512_set1_epi8(black_box(1));
        let mut acc = [_mm512_setzero_si512(); 12];
        for _ in 0..ROUNDS {
            for x in &mut acc {
                *x = _mm512_dpbusd_epi32(*x, ones, ones);
            }
        }
        black_box(acc);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn limits_are_positive() {
        let c = super::ceilings(1);
        assert!(c.f32_flops > 1e8 && c.read_bytes > 1e8, "{c:?}");
    }
}
