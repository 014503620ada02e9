// Operands of y = epilogue(x . w^T): rows of 8 consecutive k, zero beyond K; where each matrix of
// a batch starts; and the epilogue.
//
// Defined by the host: W_FORM 0 blocks, 1 plain rows, 2 plain with any strides; W_BYTES per
// element of a plain w; K8 when K is a multiple of 8; X_FORM 0 rows of whole 16-byte vectors, 1
// rows, 2 any strides; X_WORDS per 8 elements of x; NB batch axes.
// Strides of w are bytes, all others elements.

#include "lib/act.wgsl"

// Starts of the matrices of one batch.
struct Base {
    x: u32,
    w: u32,
    y: u32,
    gate: u32,
    residual: u32,
}

fn base(batch: u32) -> Base {
    var at = Base(0u, 0u, 0u, 0u, 0u);
#if NB
    var rest = batch;
#for a in 0..NB
    {
        let i = rest % p.dim${a};
        rest /= p.dim${a};
        at.x += i * p.x_batch${a};
        at.w += i * p.w_batch${a};
        at.y += i * p.y_batch${a};
        at.gate += i * p.gate_batch${a};
        at.residual += i * p.residual_batch${a};
    }
#endfor
#endif
    return at;
}

// Elements k..k+8 of the row of w that starts at byte `row`.
fn w8(row: u32, k: u32) -> mat2x4<f32> {
#if W_FORM == 0
    return decode8(row + (k / BLOCK) * BLOCK_BYTES, (k % BLOCK) / 8u);
#elif W_FORM == 1 && K8
    return decode8(row + k * ${W_BYTES}u, 0u);
#else
#if W_FORM == 1
    if (k + 8u <= p.k) {
        return decode8(row + k * ${W_BYTES}u, 0u);
    }
    let step = ${W_BYTES}u;
#else
    let step = p.w_col;
#endif
    var v = mat2x4<f32>();
#for e in 0..8
    if (k + ${e}u < p.k) {
        v[${e / 4}][${e % 4}] = decode1(row + (k + ${e}u) * step);
    }
#endfor
    return v;
#endif
}

// Elements k..k+8 of the row of x that starts at element `row`.
fn x8(row: u32, k: u32) -> mat2x4<f32> {
#if X_FORM == 0 && X_WORDS == 8
    let i = (row + k) >> 2u;
    return mat2x4<f32>(bitcast<vec4<f32>>(x_vec(i)), bitcast<vec4<f32>>(x_vec(i + 1u)));
#elif X_FORM == 0
    let v = x_vec((row + k) >> 3u);
    return mat2x4<f32>(
        vec4<f32>(unpack_${X_TYPE}(v.x), unpack_${X_TYPE}(v.y)),
        vec4<f32>(unpack_${X_TYPE}(v.z), unpack_${X_TYPE}(v.w)),
    );
#else
#if X_FORM == 1
    let i = row + k;
    let step = 1u;
#else
    let i = row + k * p.x_col;
    let step = p.x_col;
#endif
    var v = mat2x4<f32>();
#for e in 0..8
#if K8
    v[${e / 4}][${e % 4}] = x_get(i + ${e}u * step);
#else
    if (k + ${e}u < p.k) {
        v[${e / 4}][${e % 4}] = x_get(i + ${e}u * step);
    }
#endif
#endfor
    return v;
#endif
}

// t = act(acc * scale + bias) * gate + residual, then y = t or y + t.
fn epilogue(acc: f32, at: Base, m: u32, n: u32) -> f32 {
    var t = acc;
#if SCALE
    t *= p.scale;
#endif
#if BIAS
    t += bias_get(n * p.bias_col);
#endif
    t = act(t);
#if GATE
    t *= gate_get(at.gate + m * p.gate_row + n * p.gate_col);
#endif
#if RESIDUAL
    t += residual_get(at.residual + m * p.residual_row + n * p.residual_col);
#endif
#if ACCUMULATE
    t += y_get(at.y + m * p.y_row + n * p.y_col);
#endif
    return t;
}
