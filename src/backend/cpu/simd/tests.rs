//! The vector methods against plain arithmetic, for every instruction set that is there.

use super::*;
use crate::{backend::cpu::isa::Isa, op::Act};

/// `f` of each of `x`.
#[inline(always)]
unsafe fn map<S: Simd>(x: &[f32], f: unsafe fn(S::F) -> S::F) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    for (x, y) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
        // SAFETY: the chunk has that many elements; the caller saw the features.
        unsafe { S::store_n(y.as_mut_ptr(), x.len(), f(S::load_n(x.as_ptr(), x.len()))) };
    }
    y
}

fn each_set(f: impl Fn(fn(&[f32], Function) -> Vec<f32>)) {
    let isa = Isa::detect();
    #[cfg(target_arch = "x86_64")]
    {
        if isa.avx2 {
            // SAFETY: AVX2 and FMA were detected.
            f(|x, function| unsafe { function.run::<Avx2>(x) });
        }
        if isa.avx512 {
            // SAFETY: AVX-512 was detected.
            f(|x, function| unsafe { function.run::<Avx512>(x) });
        }
    }
    #[cfg(target_arch = "aarch64")]
    if isa.neon {
        // SAFETY: NEON was detected.
        f(|x, function| unsafe { function.run::<Neon>(x) });
    }
}

/// `check` for every instruction set that is there, compiled for it.
macro_rules! on_each_set {
    ($check:ident) => {{
        let isa = Isa::detect();
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2() {
                // SAFETY: the caller saw the features.
                unsafe { $check::<Avx2>() }
            }
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            unsafe fn avx512() {
                // SAFETY: the caller saw the features.
                unsafe { $check::<Avx512>() }
            }
            if isa.avx2 {
                // SAFETY: detected.
                unsafe { avx2() };
            }
            if isa.avx512_vnni {
                // SAFETY: detected.
                unsafe { avx512() };
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            #[target_feature(enable = "neon")]
            unsafe fn neon() {
                // SAFETY: the caller saw the features.
                unsafe { $check::<Neon<Widening>>() }
            }
            #[target_feature(enable = "neon,dotprod")]
            unsafe fn dotprod() {
                // SAFETY: the caller saw the features.
                unsafe { $check::<Neon<Sdot>>() }
            }
            if isa.neon {
                // SAFETY: detected.
                unsafe { neon() };
            }
            if isa.dotprod {
                // SAFETY: detected.
                unsafe { dotprod() };
            }
        }
    }};
}

#[inline(always)]
unsafe fn lanes<S: Simd>(v: S::F) -> Vec<f32> {
    let mut y = vec![0.0; S::LANES];
    // SAFETY: LANES elements; the caller saw the features.
    unsafe { S::store(y.as_mut_ptr(), v) };
    y
}

#[derive(Clone, Copy)]
enum Function {
    Exp,
    Tanh,
    Silu,
    Gelu,
    F16,
    Bf16,
}

impl Function {
    unsafe fn run<S: Simd>(self, x: &[f32]) -> Vec<f32> {
        unsafe fn silu<S: Simd>(x: S::F) -> S::F {
            // SAFETY: the caller saw the features.
            unsafe { math::act::<S>(Act::Silu, x) }
        }
        unsafe fn gelu<S: Simd>(x: S::F) -> S::F {
            // SAFETY: the caller saw the features.
            unsafe { math::act::<S>(Act::GeluTanh, x) }
        }
        unsafe fn through<S: Simd, T: Elem + Default>(x: S::F) -> S::F {
            let mut t = [T::default(); 16];
            // SAFETY: 16 elements; the caller saw the features.
            unsafe {
                T::store_n::<S>(t.as_mut_ptr(), S::LANES, x);
                let whole = T::load::<S>(t.as_ptr());
                S::first_n(3, whole, T::load_n::<S>(t.as_ptr(), S::LANES))
            }
        }
        // SAFETY: the caller saw the features.
        unsafe {
            match self {
                Function::Exp => map::<S>(x, math::exp::<S>),
                Function::Tanh => map::<S>(x, math::tanh::<S>),
                Function::Silu => map::<S>(x, silu::<S>),
                Function::Gelu => map::<S>(x, gelu::<S>),
                Function::F16 => map::<S>(x, through::<S, f16>),
                Function::Bf16 => map::<S>(x, through::<S, bf16>),
            }
        }
    }
}

fn line() -> Vec<f32> {
    (-110_000..110_000)
        .map(|i| i as f32 * 1e-3 + 1e-5)
        .collect()
}

#[test]
fn exp_is_within_two_ulp_and_right_at_the_ends() {
    each_set(|run| {
        let x = line();
        for (x, y) in x.iter().zip(run(&x, Function::Exp)) {
            let want = f64::from(*x).exp();
            if want > f64::from(f32::MAX) {
                assert_eq!(y, f32::INFINITY, "{x}");
                continue;
            }
            let ulp = f64::from((want as f32).next_up() - want as f32);
            assert!(
                (f64::from(y) - want).abs() <= 2.0 * ulp,
                "e^{x}: {y} is not {want}"
            );
        }
        let y = run(
            &[f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0, -0.0],
            Function::Exp,
        );
        assert_eq!(y[..2], [0.0, f32::INFINITY]);
        assert!(y[2].is_nan());
        assert_eq!(y[3..], [1.0, 1.0]);
    });
}

#[test]
fn activations_follow_their_formulas() {
    each_set(|run| {
        let x = line();
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let gelu = |x: f64| {
            0.5 * x
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        };
        let pairs: [(Function, &dyn Fn(f64) -> f64); 3] = [
            (Function::Tanh, &f64::tanh),
            (Function::Silu, &silu),
            (Function::Gelu, &gelu),
        ];
        for (function, want) in pairs {
            for (x, y) in x.iter().zip(run(&x, function)) {
                let want = want(f64::from(*x));
                let bound = 1e-6 * (1.0 + want.abs()).min(1.0 + f64::from(x.abs()));
                assert!(
                    (f64::from(y) - want).abs() <= bound,
                    "{x}: {y} is not {want}"
                );
            }
        }
    });
}

#[test]
fn halves_round_to_nearest_even_and_keep_nan() {
    each_set(|run| {
        let mut x: Vec<f32> = (0..400_000u32)
            .map(|i| f32::from_bits(i.wrapping_mul(10_739)))
            .collect();
        x.extend([
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::from_bits(0x7f80_0001),
            f32::MAX,
            -0.0,
        ]);
        for (x, y) in x.iter().zip(run(&x, Function::Bf16)) {
            let want = bf16::from_f32(*x).to_f32();
            assert!(
                y.to_bits() == want.to_bits() || y.is_nan() && want.is_nan(),
                "{x}: {y}, {want}"
            );
        }
        for (x, y) in x.iter().zip(run(&x, Function::F16)) {
            let want = f16::from_f32(*x).to_f32();
            assert!(
                y.to_bits() == want.to_bits() || y.is_nan() && want.is_nan(),
                "{x}: {y}, {want}"
            );
        }
    });
}

/// The first `n` of a type's elements, and nothing else, are read and written.
#[inline(always)]
unsafe fn partial<S: Simd, T: Elem + PartialEq + std::fmt::Debug>(of: impl Fn(f32) -> T) {
    let x: Vec<f32> = (0..S::LANES).map(|i| i as f32 - 2.5).collect();
    for n in 0..=S::LANES {
        // The allocation ends with the elements.
        let some: Box<[T]> = x[..n].iter().map(|&x| of(x)).collect();
        let mut out: Vec<T> = vec![of(99.0); S::LANES + 1];
        // SAFETY: n elements at both places; the caller saw the features.
        let v = unsafe {
            let v = T::load_n::<S>(some.as_ptr(), n);
            T::store_n::<S>(out.as_mut_ptr(), n, v);
            lanes::<S>(v)
        };
        assert_eq!(v[..n], x[..n]);
        assert!(v[n..].iter().all(|&v| v == 0.0), "{n}: {v:?}");
        assert_eq!(out[..n], some[..]);
        assert!(out[n..].iter().all(|v| *v == of(99.0)), "{n}: {out:?}");
    }
    let all: Vec<T> = x.iter().map(|&x| of(x)).collect();
    // SAFETY: LANES elements; the caller saw the features.
    assert_eq!(unsafe { lanes::<S>(T::load::<S>(all.as_ptr())) }, x);
}

#[test]
fn partial_loads_and_stores_touch_their_elements_alone() {
    #[inline(always)]
    unsafe fn check<S: Simd>() {
        // SAFETY: the caller saw the features.
        unsafe {
            partial::<S, f32>(|x| x);
            partial::<S, f16>(f16::from_f32);
            partial::<S, bf16>(bf16::from_f32);
        }
    }
    on_each_set!(check);
}

#[test]
fn arithmetic_is_that_of_f32() {
    #[inline(always)]
    unsafe fn check<S: Simd>() {
        let n = S::LANES;
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let pick = |list: &[f32]| -> Vec<f32> { (0..n).map(|i| list[i % list.len()]).collect() };
        let lists = [
            [1.5, -2.25, 0.0, 3.0e38, -7.5, 1.0e-40, 2.5, -0.5],
            [0.5, 3.5, -1.5, 2.5, 1.0 + f32::EPSILON, -3.0e38, inf, nan],
            [nan, 1.0, -inf, 4.0, 1.0 - f32::EPSILON, nan, -1.0, 0.0],
        ];
        let same = |got: Vec<f32>, want: &dyn Fn(usize) -> f32, what: &str| {
            for (i, got) in got.into_iter().enumerate() {
                let want = want(i);
                assert!(
                    got == want || got.is_nan() && want.is_nan(),
                    "{what}, lane {i}: {got} is not {want}"
                );
            }
        };
        for [a, b, c] in [[0, 1, 2], [1, 2, 0], [2, 0, 1]] {
            let (x, y, z) = (pick(&lists[a]), pick(&lists[b]), pick(&lists[c]));
            // SAFETY: LANES elements; the caller saw the features.
            unsafe {
                let load = |v: &Vec<f32>| S::load(v.as_ptr());
                let (a, b, c) = (load(&x), load(&y), load(&z));
                same(lanes::<S>(S::add(a, b)), &|i| x[i] + y[i], "add");
                same(lanes::<S>(S::sub(a, b)), &|i| x[i] - y[i], "sub");
                same(lanes::<S>(S::mul(a, b)), &|i| x[i] * y[i], "mul");
                same(lanes::<S>(S::div(a, b)), &|i| x[i] / y[i], "div");
                same(
                    lanes::<S>(S::fma(a, b, c)),
                    &|i| x[i].mul_add(y[i], z[i]),
                    "fma",
                );
                same(
                    lanes::<S>(S::max(a, b)),
                    &|i| if x[i] > y[i] { x[i] } else { y[i] },
                    "max",
                );
                same(
                    lanes::<S>(S::min(a, b)),
                    &|i| if x[i] < y[i] { x[i] } else { y[i] },
                    "min",
                );
                same(
                    lanes::<S>(S::round(a)),
                    &|i| x[i].round_ties_even(),
                    "round",
                );
                for k in 0..=n {
                    let want = |i| if i < k { x[i] } else { y[i] };
                    same(lanes::<S>(S::first_n(k, a, b)), &want, "first_n");
                }
                same(lanes::<S>(S::splat(x[0])), &|_| x[0], "splat");
            }
        }
        for power in -252i16..=254 {
            let x = pick(&[1.0, -1.75, 1.0e-3, 3.0]);
            // SAFETY: LANES elements; the caller saw the features.
            let got = unsafe {
                let n = S::splat(f32::from(power));
                lanes::<S>(S::scale2(S::load(x.as_ptr()), n))
            };
            let want = |i| (f64::from(x[i]) * f64::from(power).exp2()) as f32;
            same(got, &want, "scale2");
        }
        for at in 0..n {
            let mut x: Vec<f32> = (0..n).map(|i| -(i as f32) - 1.0).collect();
            x[at] = 64.0;
            // SAFETY: LANES elements; the caller saw the features.
            unsafe {
                let v = S::load(x.as_ptr());
                assert_eq!(S::sum(v), x.iter().sum::<f32>());
                assert_eq!(S::max_lane(v), 64.0);
            }
        }
    }
    on_each_set!(check);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn byte_products_are_exact() {
    #[inline(always)]
    unsafe fn check<S: Simd>() {
        let bytes = 4 * S::LANES;
        let top = if S::DOT_U8 { 255u32 } else { 127 };
        let mut seed = 1u32;
        let mut next = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        for round in 0..200 {
            let w: Vec<u8> = (0..bytes)
                .map(|_| {
                    if round == 0 {
                        top as u8
                    } else {
                        next(top + 1) as u8
                    }
                })
                .collect();
            let ws: Vec<i8> = (0..bytes)
                .map(|_| {
                    if round < 2 {
                        -127
                    } else {
                        (next(255) as i32 - 127) as i8
                    }
                })
                .collect();
            let x: Vec<i8> = (0..bytes)
                .map(|i| match round {
                    0 => 127,
                    1 if i % 2 == 0 => -127,
                    _ => (next(255) as i32 - 127) as i8,
                })
                .collect();
            // SAFETY: as many bytes as lanes hold; the caller saw the features.
            unsafe {
                let start = S::isplat([3u8, 0, 0, 0].as_ptr());
                let v = S::iload(x.as_ptr().cast());
                let got = lanes::<S>(S::to_f32(S::dot(start, S::iload(w.as_ptr()), v)));
                let signed = S::dot_signed(S::shl(start, 4), S::iload(ws.as_ptr().cast()), v);
                let signed = lanes::<S>(S::to_f32(signed));
                for lane in 0..S::LANES {
                    let four = 4 * lane..4 * lane + 4;
                    let sum: i32 = four
                        .clone()
                        .map(|i| i32::from(w[i]) * i32::from(x[i]))
                        .sum();
                    assert_eq!(got[lane], (sum + 3) as f32, "lane {lane}");
                    let sum: i32 = four.map(|i| i32::from(ws[i]) * i32::from(x[i])).sum();
                    assert_eq!(signed[lane], (sum + 48) as f32, "signed, lane {lane}");
                }
            }
        }
    }
    on_each_set!(check);
}

#[test]
fn cells_move_as_their_names_say() {
    let isa = Isa::detect();
    if !(isa.avx2 || isa.neon) {
        return;
    }
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
    #[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
    unsafe fn check() {
        let words: Vec<u32> = (0..64u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let out = |v: cells::Cells| {
            let mut out = [0u32; 8];
            // SAFETY: eight words; the caller saw the features.
            unsafe { cells::store(out.as_mut_ptr(), v) };
            out
        };
        // SAFETY: 32 bytes at each place; the caller saw the features.
        unsafe {
            let mut rows = [cells::zero(); 8];
            for i in 0..8 {
                rows[i] = cells::load(bytes.as_ptr().add(32 * i));
            }
            let turned = cells::transpose8(rows);
            for i in 0..8 {
                let want: [u32; 8] = std::array::from_fn(|j| words[8 * j + i]);
                assert_eq!(out(turned[i]), want);
            }
            let first = rows[0];
            let at = |n: usize| std::array::from_fn(|i| if i < n { words[i] } else { 0 });
            assert_eq!(out(cells::load_half(bytes.as_ptr())), at(4));
            assert_eq!(out(cells::load_quarter(bytes.as_ptr())), at(2));
            let want = std::array::from_fn(|i| u32::from(bytes[i]));
            assert_eq!(out(cells::from_u8(first)), want);
            let half = |i: usize| u32::from(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]));
            assert_eq!(out(cells::from_u16(first)), std::array::from_fn(half));
            for bits in [0, 8, 24] {
                let v = cells::or(cells::shl(first, bits), rows[1]);
                let want = std::array::from_fn(|i| words[i] << bits | words[8 + i]);
                assert_eq!(out(v), want);
            }
            let floats: Vec<f32> = (0..8).map(|i| i as f32 - 3.5).collect();
            let v = cells::of_f32(Eight::load(floats.as_ptr()));
            assert_eq!(out(v), std::array::from_fn(|i| floats[i].to_bits()));
        }
    }
    // SAFETY: the instruction sets were detected.
    unsafe { check() };
}

#[cfg(target_arch = "aarch64")]
#[test]
fn byte_products_are_exact() {
    use std::arch::aarch64::*;

    /// Bytes of w and x from `low` to 127: all pairs of the ends, then any.
    fn check(low: [i32; 2], dot: impl Fn(&[i8; 16], &[i8; 16]) -> [i32; 4]) {
        let mut seed = 1u32;
        let mut bytes = |low: i32, end: Option<bool>| -> [i8; 16] {
            std::array::from_fn(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let any = low + ((seed >> 8) % (128 - low) as u32) as i32;
                end.map_or(any, |high| if high { 127 } else { low }) as i8
            })
        };
        for round in 0..200 {
            let end = |bit: u32| (round < 4).then_some(round >> bit & 1 == 1);
            let (w, x) = (bytes(low[0], end(0)), bytes(low[1], end(1)));
            let want: [i32; 4] = std::array::from_fn(|lane| {
                (4 * lane..4 * lane + 4)
                    .map(|i| i32::from(w[i]) * i32::from(x[i]))
                    .sum::<i32>()
                    + 3
            });
            assert_eq!(dot(&w, &x), want, "{w:?} {x:?}");
        }
    }
    macro_rules! dot {
        ($d:ty, $dot:ident, $low:expr, $features:literal) => {{
            #[target_feature(enable = $features)]
            unsafe fn dot(w: &[i8; 16], x: &[i8; 16]) -> [i32; 4] {
                let mut out = [0; 4];
                // SAFETY: 16 bytes at each place; the caller saw the features.
                unsafe {
                    let (w, x) = (vld1q_s8(w.as_ptr()), vld1q_s8(x.as_ptr()));
                    let (w, x) = (vreinterpretq_s32_s8(w), vreinterpretq_s32_s8(x));
                    vst1q_s32(out.as_mut_ptr(), <$d>::$dot(vdupq_n_s32(3), w, x));
                }
                out
            }
            // SAFETY: called only where the features were detected.
            check($low, |w, x| unsafe { dot(w, x) });
        }};
        ($d:ty, $features:literal) => {
            dot!($d, dot, [0, -127], $features);
            dot!($d, dot_signed, [-128, -127], $features);
            dot!($d, dot_any, [-128, -128], $features);
        };
    }
    let isa = Isa::detect();
    if isa.neon {
        dot!(Widening, "neon");
    }
    if isa.dotprod {
        dot!(Sdot, "neon,dotprod");
    }
}
