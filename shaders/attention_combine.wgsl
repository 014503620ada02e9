// Combines the parts of attention.wgsl: one workgroup per row, its threads along the dims.
//
// Defined by the host: DV; G; SINKS.

const HIDDEN: f32 = -3.0e38;

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) li: u32,
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
) {
    let rows = p.sq * ${G}u;
    let id = group_id(wg, nwg);
    if (id >= p.groups) {
        return;
    }
    let row = id % rows;
    let h = id / rows % p.hkv;
    let b = id / rows / p.hkv;
    let head = h * ${G}u + row % ${G}u;
    let parts = id * p.splits * ${DV + 2}u;

    var top = HIDDEN;
    for (var s = 0u; s < p.splits; s++) {
        top = max(top, part_get(parts + s * ${DV + 2}u));
    }
    var sum = 0.0;
#if SINKS
    let sink = sinks_get(head);
    top = max(top, sink);
    sum = exp(sink - top);
#endif
    for (var s = 0u; s < p.splits; s++) {
        let at = parts + s * ${DV + 2}u;
        sum += part_get(at + 1u) * exp(part_get(at) - top);
    }
    let f = select(1.0 / sum, 0.0, sum == 0.0);
    let to = b * p.out_batch + head * p.out_head + row / ${G}u * p.out_row;
    for (var d = li; d < ${DV}u; d += 64u) {
        var v = 0.0;
        for (var s = 0u; s < p.splits; s++) {
            let at = parts + s * ${DV + 2}u;
            v += part_get(at + 2u + d) * exp(part_get(at) - top);
        }
        out_set(to + d, v * f);
    }
}
