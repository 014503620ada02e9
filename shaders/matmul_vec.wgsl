// Products with few rows of x: a workgroup computes R columns of y for all M rows. Each thread
// takes groups of 8 k, so weights are read once, side by side; sums meet in workgroup memory.
//
// Defined by the host: FORMAT of w; WG threads, R rows of w, M rows of x (1..8), SUBGROUP; and
// what lib/matmul_io.wgsl needs.

#include "lib/quant_${FORMAT}.wgsl"
#include "lib/matmul_io.wgsl"

const SUMS: u32 = ${R * M}u;
var<workgroup> part: array<f32, ${R * M * WG}>;

@compute @workgroup_size(${WG})
fn main(
    @builtin(local_invocation_index) li: u32,
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
#if SUBGROUP
    @builtin(subgroup_id) sid: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(num_subgroups) subgroups: u32,
#endif
) {
    let group = group_id(wg, nwg);
    if (group >= p.groups) {
        return;
    }
    let tiles = (p.n + ${R - 1}u) / ${R}u;
    let at = base(group / tiles);
    let n0 = (group % tiles) * ${R}u;
    // Rows beyond N repeat the last one and are not stored.
#for r in 0..R
    let w${r} = at.w + min(n0 + ${r}u, p.n - 1u) * p.w_row;
#for m in 0..M
    var a${r}_${m} = 0.0;
#endfor
#endfor
    for (var k = li * 8u; k < p.k; k += ${WG * 8}u) {
#for m in 0..M
        let v${m} = x8(at.x + ${m}u * p.x_row, k);
#endfor
#for r in 0..R
        {
            let u = w8(w${r}, k);
#for m in 0..M
            a${r}_${m} += dot(u[0], v${m}[0]) + dot(u[1], v${m}[1]);
#endfor
        }
#endfor
    }
#if SUBGROUP
    // Subgroups may be of any size, and one kernel may run at several.
#for r in 0..R
#for m in 0..M
    let s${r}_${m} = subgroupAdd(a${r}_${m});
#endfor
#endfor
    if (lane == 0u) {
#for r in 0..R
#for m in 0..M
        part[sid * SUMS + ${r * M + m}u] = s${r}_${m};
#endfor
#endfor
    }
    workgroupBarrier();
    for (var i = li; i < SUMS; i += ${WG}u) {
        var sum = 0.0;
        for (var s = 0u; s < subgroups; s++) {
            sum += part[s * SUMS + i];
        }
        finish(sum, at, n0, i);
    }
#else
#for r in 0..R
#for m in 0..M
    part[${(r * M + m) * WG}u + li] = a${r}_${m};
#endfor
#endfor
    workgroupBarrier();
    for (var o = ${WG / 2}u; o > 0u; o >>= 1u) {
        if (li < o) {
#for i in 0..R * M
            part[${i * WG}u + li] += part[${i * WG}u + li + o];
#endfor
        }
        workgroupBarrier();
    }
    for (var i = li; i < SUMS; i += ${WG}u) {
        finish(part[i * ${WG}u], at, n0, i);
    }
#endif
}

fn finish(sum: f32, at: Base, n0: u32, i: u32) {
    let m = i % ${M}u;
    let n = n0 + i / ${M}u;
    if (n < p.n) {
        y_set(at.y + m * p.y_row + n * p.y_col, epilogue(sum, at, m, n));
    }
}
