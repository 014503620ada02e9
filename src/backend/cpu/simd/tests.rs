//! The vector methods against plain arithmetic, for every instruction set that is there.

use super::{Avx2, Avx512, Elem, Simd, math};
use crate::{backend::cpu::isa::Isa, op::Act};
use half::{bf16, f16};

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
    if isa.avx2 {
        // SAFETY: AVX2 and FMA were detected.
        f(|x, function| unsafe { function.run::<Avx2>(x) });
    }
    if isa.avx512 {
        // SAFETY: AVX-512 was detected.
        f(|x, function| unsafe { function.run::<Avx512>(x) });
    }
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
