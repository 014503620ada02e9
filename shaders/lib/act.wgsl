// fn act(x: f32) -> f32: the activation whose place in `Act` is the definition ACT.
#if ACT >= 18
#include "lib/trig.wgsl"
#endif

// Complementary error function with a relative error below 1.2e-7 everywhere (Press et al.,
// Numerical Recipes, section 6.2).
fn erfc(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * abs(z));
    var s = 0.17087277;
    s = s * t - 0.82215223;
    s = s * t + 1.48851587;
    s = s * t - 1.13520398;
    s = s * t + 0.27886807;
    s = s * t - 0.18628806;
    s = s * t + 0.09678418;
    s = s * t + 0.37409196;
    s = s * t + 1.00002368;
    s = s * t - 1.26551223;
    let r = t * exp(s - z * z);
    return select(r, 2.0 - r, z < 0.0);
}

// Drivers' tanh may overflow, and cancels near 0, where this is a polynomial (Cephes, Moshier).
fn tanh_safe(x: f32) -> f32 {
    let z = x * x;
    if (z < 0.390625) {
        var s = -5.70498872745e-3;
        s = s * z + 2.06390887954e-2;
        s = s * z - 5.37397155531e-2;
        s = s * z + 1.33314422036e-1;
        s = s * z - 3.33332819422e-1;
        return x + x * z * s;
    }
    let r = 1.0 - 2.0 / (exp(min(2.0 * abs(x), 30.0)) + 1.0);
    return select(select(r, -r, x < 0.0), x, is_nan(x));
}

// x / (1 + e^-kx) without the overflow of e^-kx, and 0 for x of minus infinity.
fn swish(x: f32, k: f32) -> f32 {
    let e = exp(-abs(k * x));
    return select(x / (1.0 + e), select(x * e, 0.0, e == 0.0) / (1.0 + e), x < 0.0);
}

// Drivers turn a comparison with 0 and a choice into max, which forgets NaN.
fn relu(x: f32) -> f32 {
    return select(select(x, 0.0, x < 0.0), x, is_nan(x));
}

fn act(x: f32) -> f32 {
#if ACT == 0
    return x;
#elif ACT == 1
    return swish(x, 1.0);
#elif ACT == 2
    let half = 0.5 * erfc(x * -0.70710678);
    return select(x * half, 0.0, half == 0.0);
#elif ACT == 3
    let twice = 1.0 + tanh_safe(0.79788456 * (x + 0.044715 * x * x * x));
    return select(0.5 * x * twice, 0.0, twice == 0.0);
#elif ACT == 4
    return swish(x, 1.702);
#elif ACT == 5
    return relu(x);
#elif ACT == 6
    let r = relu(x);
    return r * r;
#elif ACT == 7
    let e = exp(-abs(x));
    return select(1.0, e, x < 0.0) / (1.0 + e);
#elif ACT == 8
    return tanh_safe(x);
#elif ACT == 9
    // log(1 + e) loses small e.
    let e = exp(-abs(x));
    return relu(x) + select(log(1.0 + e), e * (1.0 - 0.5 * e), e < 1e-3);
#elif ACT == 10
    return exp(x);
#elif ACT == 11
    return log(x);
#elif ACT == 12
    return -x;
#elif ACT == 13
    return abs(x);
#elif ACT == 14
    return x * x;
#elif ACT == 15
    return sqrt(x);
#elif ACT == 16
    return inverseSqrt(x);
#elif ACT == 17
    return 1.0 / x;
#elif ACT == 18
    return cos_sin(x).y;
#elif ACT == 19
    return cos_sin(x).x;
#endif
}
