// Attention in one pass over the keys with a running maximum and sum (Milakov and Gimelshein
// 2018, Dao et al. 2022). A workgroup takes BQ rows of one KV head, a row being a query of one of
// the G heads that share it (row = query * G + head), and walks its keys BK at a time. With SPLIT
// the keys are dealt out to several workgroups, whose maxima, sums and sums of values are combined
// by attention_combine.wgsl.
//
// Defined by the host: DK, DV head dims, multiples of 4; G; BQ, BK; TQ rows per thread in the
// scores; WG = BQ / TQ * BK / 4 threads; RP = BQ / (WG / 8) rows per thread in the sums of values;
// CAUSAL, WINDOW, SOFTCAP, ALIBI, SINKS; MASK (0 none, 1 added, 2 boolean); LEN (0 on the host, 1
// u32, 2 i32); RAGGED; PAGED; SPLIT; OUT_PAIRS; {Q,K,V}_LOAD, which read elements e..e+4.

fn q_load4(e: u32) -> vec4<f32> {
    return ${Q_LOAD};
}

fn k_load4(e: u32) -> vec4<f32> {
    return ${K_LOAD};
}

fn v_load4(e: u32) -> vec4<f32> {
    return ${V_LOAD};
}

// Below every finite score that a model makes; hidden keys score this.
const HIDDEN: f32 = -3.0e38;

// Threads along the keys of a tile; each owns 4 neighbours.
const NX: u32 = ${BK / 4}u;
// Threads along the rows.
const NY: u32 = ${BQ / TQ}u;
// Padded rows of the staged [dim / 4][row], so that neighbours fall into different banks.
const QS: u32 = ${BQ + 2}u;
const KS: u32 = ${BK + 2}u;

// Q and K tiles of 16 dims, or a V tile of 32.
var<workgroup> stage: array<vec4<f32>, ${STAGE}>;
// Weights [key / 4][row]; before that the maxima, after the last tile the sums of each thread.
var<workgroup> weights: array<vec4<f32>, ${BK / 4 * BQ}>;
var<workgroup> row_max: array<f32, ${BQ}>;
var<workgroup> row_scale: array<f32, ${BQ}>;
#if LEN || RAGGED
// First query, number of queries, number of keys.
var<workgroup> sequence: vec3<i32>;
#endif

#if PAGED
// Page of key j; p.pages or more when there is none.
fn page_of(b: u32, j: u32) -> u32 {
    return bitcast<u32>(table_get(b * p.table_row + j / p.page * p.table_col));
}
#endif

#if LEN
fn keys(v: ${LEN_TYPE}) -> i32 {
#if LEN == 1
    return i32(min(v, p.capacity));
#else
    return clamp(v, 0, i32(p.capacity));
#endif
}
#endif

@compute @workgroup_size(${WG})
fn main(
    @builtin(local_invocation_index) li: u32,
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(num_workgroups) nwg: vec3<u32>,
) {
    var id = group_id(wg, nwg);
    if (id >= p.groups) {
        return;
    }
    let split = id % p.splits;
    id /= p.splits;
    let r0 = id % p.row_tiles * ${BQ}u;
    id /= p.row_tiles;
    let h = id % p.hkv;
    let b = id / p.hkv;

#if RAGGED
    // One sequence more than there are owns the queries that no other owns.
    if (li == 0u) {
        let all = i32(p.sq);
        let begin = clamp(i32(starts_get(b)), 0, all);
        if (b == p.batch) {
            sequence = vec3<i32>(begin, all - begin, 0);
        } else {
            let end = clamp(i32(starts_get(b + 1u)), begin, all);
            sequence = vec3<i32>(begin, end - begin, keys(lens_get(b)));
        }
    }
    let mine = workgroupUniformLoad(&sequence);
    let start = u32(mine.x);
    let sq = u32(mine.y);
    let len = mine.z;
    let rows = sq * ${G}u;
    if (r0 >= rows) {
        return;
    }
#else
#if LEN
    if (li == 0u) {
        sequence = vec3<i32>(0, 0, keys(kv_len_get(0u)));
    }
    let len = workgroupUniformLoad(&sequence).z;
#else
    let len = i32(p.len);
#endif
    let sq = p.sq;
    let rows = sq * ${G}u;
#endif
    // Position of query i is first + i.
    let first = len - i32(sq);
    var low = 0;
    var high = len;
#if WINDOW
    low = max(first + i32(r0 / ${G}u) - i32(p.window) + 1, 0);
#endif
#if CAUSAL
    high = clamp(first + i32((min(r0 + ${BQ}u, rows) - 1u) / ${G}u) + 1, 0, len);
#endif
    var tile = low / ${BK};
    var tiles_end = max((high + ${BK - 1}) / ${BK}, tile);
#if SPLIT
    let each = (tiles_end - tile + i32(p.splits) - 1) / i32(p.splits);
    tile = min(tile + each * i32(split), tiles_end);
    tiles_end = min(tile + each, tiles_end);
#endif

    let tx = li % NX;
    let ty = li / NX;
    // In the second product: 4 dims by rows vy, vy + ${WG / 8}, ..
    let vx = li % 8u;
    let vy = li / 8u;
#if RAGGED
    let q_base = start * p.q_row;
    let out_base = start * p.out_row;
#else
    let q_base = b * p.q_batch;
    let out_base = b * p.out_batch;
#endif
#if PAGED
    let k_base = h * p.k_head;
    let v_base = h * p.v_head;
#else
    let k_base = b * p.k_batch + h * p.k_head;
    let v_base = b * p.v_batch + h * p.v_head;
#endif

#for i in 0..TQ
    let row${i} = r0 + ty + ${i}u * NY;
    let pos${i} = first + i32(row${i} / ${G}u);
    var sum${i} = 0.0;
#if ALIBI
    let slope${i} = alibi_get(h * ${G}u + row${i} % ${G}u);
#endif
#if MASK
    let mask${i} = b * p.mask_batch + (h * ${G}u + row${i} % ${G}u) * p.mask_head
        + min(row${i} / ${G}u, sq - 1u) * p.mask_row;
#endif
#endfor
#for c in 0..(DV + 31) / 32
#for i in 0..RP
    var o${c}_${i} = vec4<f32>();
#endfor
#endfor
    for (var r = li; r < ${BQ}u; r += ${WG}u) {
        row_max[r] = HIDDEN;
    }

    for (; tile < tiles_end; tile++) {
        let j0 = tile * ${BK};
#for i in 0..TQ
#for e in 0..4
        var s${i}_${e} = 0.0;
#endfor
#endfor
        for (var d0 = 0u; d0 < ${DK}u; d0 += 16u) {
            workgroupBarrier();
            for (var i = li; i < ${BQ * 4}u; i += ${WG}u) {
                let r = i / 4u;
                let d = d0 + i % 4u * 4u;
                let row = r0 + r;
                var v = vec4<f32>();
                if (row < rows && d < ${DK}u) {
                    v = q_load4(q_base + (h * ${G}u + row % ${G}u) * p.q_head
                        + row / ${G}u * p.q_row + d);
                }
                stage[i % 4u * QS + r] = v;
            }
            for (var i = li; i < ${BK * 4}u; i += ${WG}u) {
                let j = i / 4u;
                let d = d0 + i % 4u * 4u;
                var v = vec4<f32>();
                if (j0 + i32(j) < len && d < ${DK}u) {
#if PAGED
                    let at = u32(j0) + j;
                    let page = page_of(b, at);
                    if (page < p.pages) {
                        v = k_load4(k_base + page * p.k_batch + at % p.page * p.k_row + d);
                    }
#else
                    v = k_load4(k_base + (u32(j0) + j) * p.k_row + d);
#endif
                }
                stage[4u * QS + i % 4u * KS + j % 4u * NX + j / 4u] = v;
            }
            workgroupBarrier();
            for (var d = 0u; d < 4u; d++) {
#for i in 0..TQ
                let a${i} = stage[d * QS + ty + ${i}u * NY];
#endfor
#for e in 0..4
                let b${e} = stage[4u * QS + d * KS + ${e}u * NX + tx];
#endfor
#for c in 0..4
#for i in 0..TQ
#for e in 0..4
                s${i}_${e} = fma(a${i}[${c}], b${e}[${c}], s${i}_${e});
#endfor
#endfor
#endfor
            }
        }

        // Scores, and the largest of each row.
        let j = j0 + i32(tx) * 4;
#for i in 0..TQ
        var top${i} = HIDDEN;
#for e in 0..4
        {
            var s = s${i}_${e} * p.scale;
            let jj = j + ${e};
            var seen = jj < len;
#if SOFTCAP
            s = p.softcap * tanh(clamp(s / p.softcap, -15.0, 15.0));
#endif
#if ALIBI
            s += slope${i} * f32(jj - pos${i});
#endif
#if CAUSAL
            seen = seen && jj <= pos${i};
#endif
#if WINDOW
            seen = seen && pos${i} - jj < i32(p.window);
#endif
#if PAGED
            if (seen) {
                seen = page_of(b, u32(jj)) < p.pages;
            }
#endif
#if MASK
            if (seen) {
                let at = mask${i} + u32(jj) * p.mask_col;
#if MASK == 1
                s += mask_get(at);
#else
                seen = mask_get(at) != 0u;
#endif
            }
#endif
            s = select(HIDDEN, s, seen);
            s${i}_${e} = s;
            top${i} = max(top${i}, s);
        }
#endfor
        weights[tx * ${BQ}u + ty + ${i}u * NY].x = top${i};
#endfor
        workgroupBarrier();
        for (var r = li; r < ${BQ}u; r += ${WG}u) {
            let old = row_max[r];
            var top = old;
            for (var x = 0u; x < NX; x++) {
                top = max(top, weights[x * ${BQ}u + r].x);
            }
            row_max[r] = top;
            row_scale[r] = exp(old - top);
        }
        workgroupBarrier();
#for i in 0..TQ
        {
            let r = ty + ${i}u * NY;
            let top = row_max[r];
            let s = vec4<f32>(s${i}_0, s${i}_1, s${i}_2, s${i}_3);
            let w = select(exp(s - top), vec4<f32>(), s <= vec4<f32>(HIDDEN));
            sum${i} = sum${i} * row_scale[r] + (w.x + w.y + w.z + w.w);
            weights[tx * ${BQ}u + r] = w;
        }
#endfor
#for i in 0..RP
        let f${i} = row_scale[vy + ${i * (WG / 8)}u];
#endfor
#for c in 0..(DV + 31) / 32
#if c > 0
        workgroupBarrier();
#endif
        for (var i = li; i < ${BK * 8}u; i += ${WG}u) {
            let d = ${c * 32}u + i % 8u * 4u;
            var v = vec4<f32>();
            if (j0 + i32(i / 8u) < len && d < ${DV}u) {
#if PAGED
                    let at = u32(j0) + i / 8u;
                    let page = page_of(b, at);
                    if (page < p.pages) {
                        v = v_load4(v_base + page * p.v_batch + at % p.page * p.v_row + d);
                    }
#else
                    v = v_load4(v_base + (u32(j0) + i / 8u) * p.v_row + d);
#endif
            }
            stage[i] = v;
        }
        workgroupBarrier();
#for i in 0..RP
        o${c}_${i} *= f${i};
#endfor
        for (var x = 0u; x < NX; x++) {
#for e in 0..4
            let v${e} = stage[x * 32u + ${e * 8}u + vx];
#endfor
#for i in 0..RP
            {
                let w = weights[x * ${BQ}u + vy + ${i * (WG / 8)}u];
                o${c}_${i} += w.x * v0 + w.y * v1 + w.z * v2 + w.w * v3;
            }
#endfor
        }
#endfor
        // The next tile's first barrier stands between these reads and its writes to `stage`; its
        // scores are separated from `weights` by the barriers of its own first product.
    }

    workgroupBarrier();
#for i in 0..TQ
    weights[tx * ${BQ}u + ty + ${i}u * NY].x = sum${i};
#endfor
    workgroupBarrier();
    for (var r = li; r < ${BQ}u; r += ${WG}u) {
        var sum = 0.0;
        for (var x = 0u; x < NX; x++) {
            sum += weights[x * ${BQ}u + r].x;
        }
#if SPLIT
        let row = r0 + r;
        if (row < rows) {
            let at = (((b * p.hkv + h) * rows + row) * p.splits + split) * ${DV + 2}u;
            part_set(at, row_max[r]);
            part_set(at + 1u, sum);
        }
#else
        var f = 1.0;
#if SINKS
        let sink = sinks_get(h * ${G}u + (r0 + r) % ${G}u);
        let top = max(row_max[r], sink);
        f = exp(row_max[r] - top);
        sum = sum * f + exp(sink - top);
#endif
        row_scale[r] = select(f / sum, 0.0, sum == 0.0);
#endif
    }
#if SPLIT == 0
    workgroupBarrier();
#endif
#for i in 0..RP
    {
        let r = vy + ${i * (WG / 8)}u;
        let row = r0 + r;
        if (row < rows) {
#if SPLIT
            let to = (((b * p.hkv + h) * rows + row) * p.splits + split) * ${DV + 2}u + 2u;
#else
            let to = out_base + (h * ${G}u + row % ${G}u) * p.out_head
                + row / ${G}u * p.out_row;
            let f = row_scale[r];
#endif
#for c in 0..(DV + 31) / 32
            {
                let d = ${c * 32}u + vx * 4u;
                if (d < ${DV}u) {
#if SPLIT
                    part_set(to + d, o${c}_${i}.x);
                    part_set(to + d + 1u, o${c}_${i}.y);
                    part_set(to + d + 2u, o${c}_${i}.z);
                    part_set(to + d + 3u, o${c}_${i}.w);
#else
                    store4(to + d, o${c}_${i} * f);
#endif
                }
            }
#endfor
        }
    }
#endfor
}
#if SPLIT == 0

fn store4(to: u32, v: vec4<f32>) {
#if OUT_PAIRS
    out_set2(to, v.xy);
    out_set2(to + 2u, v.zw);
#else
    out_set(to, v.x);
    out_set(to + 1u, v.y);
    out_set(to + 2u, v.z);
    out_set(to + 3u, v.w);
#endif
}
#endif
