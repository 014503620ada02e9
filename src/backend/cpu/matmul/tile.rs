//! Products of f32 rows, the core of the portable kernels of matmul, attention and convolution.

use crate::backend::cpu::isa::{Isa, fma};

/// `MT` x `NT` products at once: `out[i * stride + j] = x[i] . w[j]`, lanes of `L`. Each product
/// is `L` partial sums that add up in a fixed order.
#[inline(always)]
fn tile<const FMA: bool, const MT: usize, const NT: usize, const L: usize>(
    x: &[&[f32]],
    w: &[f32],
    k: usize,
    out: &mut [f32],
    stride: usize,
) {
    let xs: [&[f32]; MT] = std::array::from_fn(|i| &x[i][..k]);
    let ws: [&[f32]; NT] = std::array::from_fn(|j| &w[j * k..(j + 1) * k]);
    let mut acc = [[[0.0f32; L]; NT]; MT];
    let whole = k / L * L;
    let mut at = 0;
    while at < whole {
        let wv: [&[f32; L]; NT] = std::array::from_fn(|j| lane(ws[j], at));
        for i in 0..MT {
            let xv = lane::<L>(xs[i], at);
            for j in 0..NT {
                for l in 0..L {
                    acc[i][j][l] = fma::<FMA>(xv[l], wv[j][l], acc[i][j][l]);
                }
            }
        }
        at += L;
    }
    for i in 0..MT {
        for j in 0..NT {
            for (l, at) in (whole..k).enumerate() {
                acc[i][j][l] = fma::<FMA>(xs[i][at], ws[j][at], acc[i][j][l]);
            }
            let mut width = L / 2;
            while width > 0 {
                for l in 0..width {
                    acc[i][j][l] += acc[i][j][l + width];
                }
                width /= 2;
            }
            out[i * stride + j] = acc[i][j][0];
        }
    }
}

#[inline(always)]
fn lane<const L: usize>(row: &[f32], at: usize) -> &[f32; L] {
    // In bounds by the caller's loop; the compiler sees it.
    match row[at..at + L].first_chunk() {
        Some(chunk) => chunk,
        None => &[0.0; L],
    }
}

#[inline(always)]
fn body<const FMA: bool, const MT: usize, const NT: usize, const L: usize>(
    x: &[&[f32]],
    w: &[f32],
    k: usize,
    out: &mut [f32],
    stride: usize,
) {
    let n = w.len() / k;
    let mut i = 0;
    while i < x.len() {
        let m = if x.len() - i >= MT { MT } else { 1 };
        let mut j = 0;
        while j < n {
            let some = if n - j >= NT { NT } else { 1 };
            let (x, w) = (&x[i..], &w[j * k..]);
            let out = &mut out[i * stride + j..];
            match (m == 1, some == 1) {
                (false, false) => tile::<FMA, MT, NT, L>(x, w, k, out, stride),
                (false, true) => tile::<FMA, MT, 1, L>(x, w, k, out, stride),
                (true, false) => tile::<FMA, 1, NT, L>(x, w, k, out, stride),
                (true, true) => tile::<FMA, 1, 1, L>(x, w, k, out, stride),
            }
            j += some;
        }
        i += m;
    }
}

/// `out[i * stride + j] = x[i] . w[j]` for every row of `x` and each of the rows of `k` numbers
/// that `w` holds.
pub(crate) fn products(
    isa: Isa,
    x: &[&[f32]],
    w: &[f32],
    k: usize,
    out: &mut [f32],
    stride: usize,
) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn avx512(x: &[&[f32]], w: &[f32], k: usize, out: &mut [f32], stride: usize) {
            body::<true, 4, 4, 16>(x, w, k, out, stride);
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2(x: &[&[f32]], w: &[f32], k: usize, out: &mut [f32], stride: usize) {
            body::<true, 4, 2, 8>(x, w, k, out, stride);
        }
        if isa.avx512 {
            // SAFETY: the flag says that this machine has these instruction sets.
            return unsafe { avx512(x, w, k, out, stride) };
        }
        if isa.avx2 {
            // SAFETY: as above.
            return unsafe { avx2(x, w, k, out, stride) };
        }
    }
    if cfg!(target_arch = "aarch64") && isa.neon {
        return body::<true, 4, 4, 4>(x, w, k, out, stride);
    }
    body::<false, 4, 2, 4>(x, w, k, out, stride);
}

#[inline(always)]
fn dot_i8_body<const FMA: bool>(a: &[i8], b: &[i8]) -> i64 {
    // 2^16 products of at most 2^14 stay below 2^31.
    a.chunks(1 << 16)
        .zip(b.chunks(1 << 16))
        .map(|(a, b)| {
            let sum: i32 = a
                .iter()
                .zip(b)
                .map(|(&a, &b)| i32::from(a) * i32::from(b))
                .sum();
            i64::from(sum)
        })
        .sum()
}
crate::backend::cpu::isa::multiversion! {
    /// Exact product of two rows of i8.
    pub(crate) fn dot_i8 = dot_i8_body(a: &[i8], b: &[i8]) -> i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::isa::Level;

    #[test]
    fn products_of_small_integers_are_exact() {
        let all = Isa::detect();
        for isa in [all, all.masked(Level::Avx2), all.masked(Level::Portable)] {
            for (m, n, k) in [(1, 1, 1), (3, 5, 17), (4, 4, 64), (9, 7, 33), (5, 2, 3)] {
                let x: Vec<f32> = (0..m * k).map(|i| (i % 7) as f32 - 3.0).collect();
                let w: Vec<f32> = (0..n * k).map(|i| (i % 5) as f32 - 2.0).collect();
                let rows: Vec<&[f32]> = x.chunks(k).collect();
                let mut out = vec![f32::NAN; m * n];
                products(isa, &rows, &w, k, &mut out, n);
                for i in 0..m {
                    for j in 0..n {
                        let want: f32 = (0..k).map(|t| x[i * k + t] * w[j * k + t]).sum();
                        assert_eq!(out[i * n + j], want);
                    }
                }
            }
            let a = vec![-128i8; 200_000];
            assert_eq!(dot_i8(isa, &a, &a), 200_000 * 16384);
        }
    }
}
