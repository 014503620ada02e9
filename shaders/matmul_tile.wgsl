// Products in tiles: BM x BM of y per workgroup, T x T per thread, K in steps of BK through
// workgroup memory, where quantized weights arrive decoded. Every thread loads 8 consecutive k of
// one row of x and of one row of w per step.
//
// Defined by the host: FORMAT of w; T; S threads on a side, BM = T * S, BK = 8 * S / T; Y_PAIRS
// when y is written two 16-bit elements at a time; LONG_EPILOGUE unless y is the product itself; and
// what lib/matmul_io.wgsl needs.

#include "lib/quant_${FORMAT}.wgsl"
#include "lib/matmul_io.wgsl"

// [k / 4][row], four k to a vector. The rows that a thread reads lie S apart: place c + S * j
// holds row T * c + j of w, so that a thread owns T neighbouring columns of y.
var<workgroup> sx: array<vec4<f32>, ${BM * BK / 4}>;
var<workgroup> sw: array<vec4<f32>, ${BM * BK / 4}>;

@compute @workgroup_size(${S * S})
fn main(
    @builtin(local_invocation_index) li: u32,
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
) {
    let group = group_id(wg, nwg);
    if (group >= p.groups) {
        return;
    }
    let tiles_m = (p.m + ${BM - 1}u) / ${BM}u;
    let tiles = tiles_m * ((p.n + ${BM - 1}u) / ${BM}u);
    let tile = group % tiles;
    let at = base(group / tiles);
    let m0 = (tile % tiles_m) * ${BM}u;
    let n0 = (tile / tiles_m) * ${BM}u;
    let tx = li % ${S}u;
    let ty = li / ${S}u;

    // What this thread loads: place and group of 8 k.
    let place = li % ${BM}u;
    let part = li / ${BM}u;
    let row_n = n0 + (place % ${S}u) * ${T}u + place / ${S}u;
    let x_row = at.x + min(m0 + place, p.m - 1u) * p.x_row;
    let w_row = at.w + min(row_n, p.n - 1u) * p.w_row;

#for i in 0..T
#for j in 0..T
    var c${i}_${j} = 0.0;
#endfor
#endfor
    for (var k0 = 0u; k0 < p.k; k0 += ${BK}u) {
        let k = k0 + part * 8u;
        var u = mat2x4<f32>();
        var v = mat2x4<f32>();
        if (k < p.k) {
            u = x8(x_row, k);
            v = w8(w_row, k);
        }
        sx[part * ${2 * BM}u + place] = u[0];
        sx[part * ${2 * BM}u + ${BM}u + place] = u[1];
        sw[part * ${2 * BM}u + place] = v[0];
        sw[part * ${2 * BM}u + ${BM}u + place] = v[1];
        workgroupBarrier();
        for (var q = 0u; q < ${BK / 4 * BM}u; q += ${BM}u) {
#for i in 0..T
            let a${i} = sx[q + ty + ${i * S}u];
#endfor
#for j in 0..T
            let b${j} = sw[q + tx + ${j * S}u];
#endfor
#for e in 0..4
#for i in 0..T
#for j in 0..T
            c${i}_${j} = fma(a${i}[${e}], b${j}[${e}], c${i}_${j});
#endfor
#endfor
#endfor
        }
        workgroupBarrier();
    }

    let n = n0 + tx * ${T}u;
#if LONG_EPILOGUE
    // One copy of the epilogue in a loop; unrolled it would be most of the kernel.
    var c = array<f32, ${T * T}>(
#for i in 0..T
#for j in 0..T
        c${i}_${j},
#endfor
#endfor
    );
    for (var i = 0u; i < ${T}u; i++) {
        let m = m0 + ty + i * ${S}u;
        let to = at.y + m * p.y_row;
        if (m >= p.m) {
            break;
        }
#if Y_PAIRS
        for (var j = 0u; j < ${T}u && n + j < p.n; j += 2u) {
            y_set2(to + n + j, vec2<f32>(
                epilogue(c[i * ${T}u + j], at, m, n + j),
                epilogue(c[i * ${T}u + j + 1u], at, m, n + j + 1u),
            ));
        }
#else
        for (var j = 0u; j < ${T}u && n + j < p.n; j++) {
            y_set(to + (n + j) * p.y_col, epilogue(c[i * ${T}u + j], at, m, n + j));
        }
#endif
    }
#else
#for i in 0..T
    if (m0 + ty + ${i * S}u < p.m) {
        let to = at.y + (m0 + ty + ${i * S}u) * p.y_row;
#if Y_PAIRS
#for j in 0..T / 2
        if (n + ${2 * j}u < p.n) {
            y_set2(to + n + ${2 * j}u, vec2<f32>(c${i}_${2 * j}, c${i}_${2 * j + 1}));
        }
#endfor
#else
#for j in 0..T
        if (n + ${j}u < p.n) {
            y_set(to + (n + ${j}u) * p.y_col, c${i}_${j});
        }
#endfor
#endif
    }
#endfor
#endif
}
