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
    let threads = threads.max(1);
    Ceilings {
        f32_flops: best(Unit::F32, threads).unwrap_or(0.0),
        bf16_flops: best(Unit::Bf16, threads),
        int8_ops: best(Unit::Int8, threads),
        read_bytes: read_rate(threads),
    }
}

/// An arithmetic unit of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// f32 multiply-add.
    F32,
    /// bf16 dot product.
    Bf16,
    /// 8-bit dot product.
    Int8,
}

/// Operations per second of `threads` units at once, measured for the time of `window`; `None`
/// where there is no such instruction.
pub fn peak(unit: Unit, threads: usize, window: Duration) -> Option<f64> {
    let isa = Isa::detect();
    let threads = threads.max(1);
    match unit {
        Unit::F32 => Some(rate(threads, window, || f32_block(isa))),
        Unit::Bf16 => isa
            .avx512_bf16
            .then(|| rate(threads, window, || bf16_block(isa))),
        Unit::Int8 => isa
            .avx512_vnni
            .then(|| rate(threads, window, || int8_block(isa))),
    }
}

/// Sum over the threads of what `block` counts, per second.
fn rate(threads: usize, window: Duration, block: impl Fn() -> f64 + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let run = |_| {
        barrier.wait();
        let (start, mut count) = (Instant::now(), 0.0);
        while start.elapsed() < window {
            count += block();
        }
        count / start.elapsed().as_secs_f64()
    };
    on_threads((0..threads).collect(), &run).into_iter().sum()
}

/// The best of a few windows.
fn best(unit: Unit, threads: usize) -> Option<f64> {
    (0..5)
        .filter_map(|_| peak(unit, threads, Duration::from_millis(40)))
        .reduce(f64::max)
}

/// One run for each of `parts`, the first on the calling thread.
fn on_threads<P: Send>(parts: Vec<P>, run: &(dyn Fn(P) -> f64 + Sync)) -> Vec<f64> {
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else {
        return Vec::new();
    };
    std::thread::scope(|s| {
        let others: Vec<_> = parts.map(|p| s.spawn(move || run(p))).collect();
        let mut all = vec![run(first)];
        // A thread that panicked counts nothing.
        all.extend(others.into_iter().map(|t| t.join().unwrap_or(0.0)));
        all
    })
}

/// Bytes per second at which `threads` threads read `data` once, a part each, in two streams.
pub fn read(data: &[u64], threads: usize) -> f64 {
    let isa = Isa::detect();
    let threads = threads.max(1);
    let barrier = Barrier::new(threads);
    let run = |part: &[u64]| {
        barrier.wait();
        let start = Instant::now();
        black_box(read_part(isa, part));
        start.elapsed().as_secs_f64()
    };
    let part = (data.len() / threads / 32 * 32).max(1);
    let parts: Vec<&[u64]> = data.chunks_exact(part).take(threads).collect();
    if parts.len() < threads {
        return 0.0;
    }
    let slowest = on_threads(parts, &run).into_iter().fold(0.0, f64::max);
    (part * threads * 8) as f64 / slowest
}

/// Bytes per second at which `threads` threads overwrite `data` once, a part each, with stores
/// that bypass the caches where there are such.
pub fn store(data: &mut [u64], threads: usize) -> f64 {
    let threads = threads.max(1);
    let barrier = Barrier::new(threads);
    let run = |part: &mut [u64]| {
        barrier.wait();
        let start = Instant::now();
        store_part(part);
        start.elapsed().as_secs_f64()
    };
    let part = (data.len() / threads / 8 * 8).max(1);
    let parts: Vec<&mut [u64]> = data.chunks_exact_mut(part).take(threads).collect();
    if parts.len() < threads {
        return 0.0;
    }
    let slowest = on_threads(parts, &run).into_iter().fold(0.0, f64::max);
    (part * threads * 8) as f64 / slowest
}

#[cfg(target_arch = "x86_64")]
fn read_part(isa: Isa, part: &[u64]) -> u64 {
    if isa.avx512 {
        // SAFETY: AVX-512F was detected.
        return unsafe { x86::read_avx512(part) };
    }
    portable_read(part)
}

#[cfg(not(target_arch = "x86_64"))]
fn read_part(_: Isa, part: &[u64]) -> u64 {
    portable_read(part)
}

#[inline(always)]
fn portable_read(part: &[u64]) -> u64 {
    let (a, b) = part.split_at(part.len() / 2);
    let mut sums = [0u64; 32];
    for (x, y) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
        for i in 0..16 {
            sums[i] |= x[i];
            sums[16 + i] |= y[i];
        }
    }
    sums.iter().fold(0, |a, b| a | b)
}

#[cfg(target_arch = "x86_64")]
fn store_part(part: &mut [u64]) {
    use std::arch::x86_64::*;
    // SAFETY: any bits are a value of either type.
    let (first, lines, last) = unsafe { part.align_to_mut::<[__m128i; 4]>() };
    first.fill(1);
    for line in lines {
        for at in line {
            // SAFETY: SSE2 belongs to x86-64, and `at` is an aligned place of 16 bytes.
            unsafe { _mm_stream_si128(at, _mm_set1_epi64x(1)) };
        }
    }
    last.fill(1);
    // SAFETY: SSE belongs to x86-64.
    unsafe { _mm_sfence() };
}

#[cfg(not(target_arch = "x86_64"))]
fn store_part(part: &mut [u64]) {
    part.fill(black_box(1));
}

/// The best of a few reads of a buffer much larger than the caches.
fn read_rate(threads: usize) -> f64 {
    const BYTES: usize = 128 << 20;
    let data: Vec<u64> = (0..BYTES / 8).map(|i| i as u64).collect();
    (0..4).map(|_| read(&data, threads)).fold(0.0, f64::max)
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
    pub(super) fn read_avx512(part: &[u64]) -> u64 {
        let (a, b) = part.split_at(part.len() / 2);
        let mut sums = [_mm512_setzero_si512(); 8];
        for (x, y) in a.as_chunks::<32>().0.iter().zip(b.as_chunks::<32>().0) {
            for i in 0..4 {
                // SAFETY: 8 words from 8 i on are inside the 32 words of `x` and of `y`.
                let (x, y) = unsafe {
                    (
                        _mm512_loadu_si512(x.as_ptr().add(8 * i).cast()),
                        _mm512_loadu_si512(y.as_ptr().add(8 * i).cast()),
                    )
                };
                sums[i] = _mm512_or_si512(sums[i], x);
                sums[4 + i] = _mm512_or_si512(sums[4 + i], y);
            }
        }
        let all = sums.into_iter().reduce(|a, b| _mm512_or_si512(a, b));
        all.map_or(0, |all| _mm512_reduce_or_epi64(all) as u64)
    }

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
        let mut some = vec![0u64; 1 << 16];
        assert!(super::store(&mut some, 2) > 1e6 && some.iter().all(|&x| x == 1));
        assert!(super::read(&some, 2) > 1e6 && super::read(&some[..1], 2) == 0.0);
    }
}
