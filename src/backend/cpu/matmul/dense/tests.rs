//! Every row by name against the f64 reference: types, storage, odd sizes, strides, batches,
//! experts and epilogues, on the instruction sets that this machine has.

use super::ROWS;
use crate::{
    Act, DType, GatherRows, GroupedMatMul, MatMul, MatMulMany, Part, Precision, Routing,
    TensorDesc, Weight,
    backend::cpu::rows::{levels, run_simd_rows},
    conformance::{Case, Fill, Spec},
};

fn fill(t: DType) -> Fill {
    match t {
        DType::I8 => Fill::Ints(-128, 128),
        _ => Fill::Normal(0.0, 1.0),
    }
}

fn spec(t: DType, shape: &[u32]) -> Spec {
    Spec::new(TensorDesc::new(t, shape).unwrap(), fill(t))
}

fn strided(t: DType, shape: &[u32], strides: &[i64]) -> Spec {
    Spec::new(TensorDesc::strided(t, shape, strides).unwrap(), fill(t))
}

/// x, w and y that are multiplied, and the precisions that differ.
fn types() -> Vec<(DType, DType, DType, Precision)> {
    use DType::{BF16, F16, F32, I8, I32};
    let mut list = Vec::new();
    for w in [F32, F16, BF16] {
        list.push((F32, w, F32, Precision::F32));
        list.push((F16, w, BF16, Precision::F32));
    }
    list.push((BF16, BF16, F32, Precision::F32));
    list.push((F32, BF16, F32, Precision::HALF));
    list.push((F16, BF16, F16, Precision::HALF));
    list.push((I8, I8, I32, Precision::F32));
    list.push((I8, I8, F32, Precision::F32));
    list
}

fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for (x, w, y, precision) in types() {
        let name = format!("{x}-{w}-{y}/{:?}", precision.activations);
        let mut add = |what: String, op: MatMul<Spec>| {
            list.push(Case::new(format!("{name}/{what}"), op.precision(precision)));
        };
        for m in [1, 2, 5, 6, 7, 11, 12, 13, 25, 41, 78] {
            let n = [33, 64, 70, 129][m as usize % 4];
            // Odd tails of words and lines, and more than one block of k.
            let k = [1, 37, 333, 1100][m as usize / 2 % 4] + m % 3;
            let (xs, ys) = (spec(x, &[m, k]), spec(y, &[m, n]));
            let rows = Weight::Rows(spec(w, &[n, k]));
            add(format!("rows/m{m}"), MatMul::new(&xs, rows, &ys));
            let columns = Weight::Transposed(spec(w, &[k, n]));
            add(format!("columns/m{m}"), MatMul::new(&xs, columns, &ys));
        }
        wild(&mut add, (x, w, y));
        for m in [3, 9, 100] {
            let (n, k) = (45, 130);
            let (wide, far) = (i64::from(k) + 6, i64::from(n) + 3);
            let xs = strided(x, &[m, k], &[wide, 1]);
            let ys = strided(y, &[m, n], &[far, 1]);
            let ws = strided(w, &[n, k], &[wide, 1]);
            add(
                format!("strided/m{m}"),
                MatMul::new(&xs, Weight::Rows(ws), &ys),
            );
            let ws = strided(w, &[k, n], &[far, 1]);
            add(
                format!("strided-columns/m{m}"),
                MatMul::new(&xs, Weight::Transposed(ws), &ys),
            );
            // Columns of y that are side by side in memory, said as rows.
            let ws = strided(w, &[n, k], &[1, far]);
            add(
                format!("turned/m{m}"),
                MatMul::new(&xs, Weight::Rows(ws), &ys),
            );
            // Batches that share w, and axes that x or w lacks.
            let shared = MatMul::new(
                &spec(x, &[3, m, k]),
                Weight::Rows(spec(w, &[n, k])),
                &spec(y, &[3, m, n]),
            );
            add(format!("shared/m{m}"), shared);
            let (xs, ys) = (spec(x, &[3, 1, m, k]), spec(y, &[3, 2, m, n]));
            let op = MatMul::new(&xs, Weight::Rows(spec(w, &[2, n, k])), &ys);
            add(format!("broadcast/m{m}"), op);
            let (xs, ys) = (spec(x, &[2, m, k]), spec(y, &[3, 2, m, n]));
            let op = MatMul::new(&xs, Weight::Rows(spec(w, &[3, 1, n, k])), &ys);
            add(format!("broadcast-x/m{m}"), op);
            if y != DType::I32 {
                let all = [2, m, n];
                let op = MatMul::new(
                    &spec(x, &[2, m, k]),
                    Weight::Rows(spec(w, &[n, k])),
                    &spec(y, &all),
                )
                .scale(0.5)
                .bias(&spec(DType::F16, &[n]))
                .act(Act::Silu)
                .gate(&spec(DType::BF16, &all))
                .residual(&spec(DType::F32, &all))
                .accumulate();
                add(format!("epilogue/m{m}"), op);
            }
        }
        experts(&mut list, &name, (x, w, y), precision);
        for m in [2, 6, 30, 60] {
            let part = |n: u32| Part::new(Weight::Rows(spec(w, &[n, 96])), &spec(y, &[m, n]));
            let mut parts = vec![part(48), part(7)];
            parts.push(Part::new(
                Weight::Transposed(spec(w, &[96, 65])),
                &spec(y, &[m, 65]),
            ));
            let op = MatMulMany::new(&spec(x, &[m, 96]), parts).precision(precision);
            list.push(Case::new(format!("{name}/many/m{m}"), op));
        }
    }
    for w in [DType::F32, DType::F16, DType::BF16] {
        for (n, k) in [(33, 37), (97, 64), (20, 1)] {
            let ids = Spec::new(
                TensorDesc::new(DType::I32, &[2, 9]).unwrap(),
                Fill::Ints(-1, i64::from(n) + 1),
            );
            for y in [DType::F32, w] {
                let table = Weight::Rows(spec(w, &[n, k]));
                let op = GatherRows::new(table, &ids, &spec(y, &[2, 9, k]));
                list.push(Case::new(format!("{w}/gather/{n}x{k}/{y}"), op));
            }
        }
    }
    // More lines of x than are laid out at once.
    for (x, w, k) in [
        (DType::F32, DType::F32, 60_000),
        (DType::F16, DType::F16, 1_100),
        (DType::I8, DType::I8, 131_071),
    ] {
        let op = MatMul::new(
            &spec(x, &[230, k]),
            Weight::Rows(spec(w, &[9, k])),
            &spec(DType::F32, &[230, 9]),
        );
        list.push(Case::new(format!("{x}/long"), op));
    }
    list
}

/// Numbers that are not finite, and some whose sums are not, in a few rows or columns.
fn wild(add: &mut impl FnMut(String, MatMul<Spec>), (x, w, y): (DType, DType, DType)) {
    if w == DType::I8 {
        return;
    }
    let (m, n, k) = (53, 40, 70);
    // One odd number in several rows.
    let odd = |v: f64| {
        let mut list: Vec<f64> = (0..211).map(|i| f64::from(i % 13) - 6.0).collect();
        list[97] = v;
        Fill::Values(list)
    };
    for v in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
        let (xs, ys) = (spec(x, &[m, k]), spec(y, &[m, n]));
        let rows = Weight::Rows(spec(w, &[n, k]));
        let op = MatMul::new(&xs.clone().fill(odd(v)), rows, &ys).accumulate();
        add(format!("wild/x/{v}"), op);
        let columns = Weight::Transposed(spec(w, &[k, n]).fill(odd(v)));
        add(format!("wild/w/{v}"), MatMul::new(&xs, columns, &ys));
    }
    if (x, w) == (DType::F32, DType::F32) {
        // The nearest bf16 is infinite.
        let (xs, ys) = (spec(x, &[m, k]), spec(y, &[m, n]));
        let small = Weight::Rows(spec(w, &[n, k]).fill(Fill::Uniform(-1e-6, 1e-6)));
        let op = MatMul::new(&xs.fill(odd(f64::from(f32::MAX))), small, &ys);
        add("wild/large".into(), op);
    }
}

fn experts(list: &mut Vec<Case>, name: &str, (x, w, y): (DType, DType, DType), p: Precision) {
    let (experts, n, k, rows, top) = (5, 40, 70, 23, 2);
    let ids = Spec::new(
        TensorDesc::new(DType::I32, &[rows, top]).unwrap(),
        Fill::Ints(-1, i64::from(experts) + 1),
    );
    for each in [false, true] {
        let xs = if each {
            spec(x, &[rows, top, k])
        } else {
            spec(x, &[rows, k])
        };
        let ys = spec(y, &[rows, top, n]);
        let weights = Weight::Rows(spec(w, &[experts, n, k]));
        let mut op = GroupedMatMul::new(&xs, weights, Routing::Ids(ids.clone()), &ys);
        if y != DType::I32 {
            op = op
                .bias(&spec(DType::F32, &[experts, n]))
                .residual(&spec(DType::F32, &[rows, top, n]));
        }
        list.push(Case::new(format!("{name}/experts/{each}"), op.precision(p)));
    }
    let rows = 160;
    let ids = Spec::new(
        TensorDesc::new(DType::I32, &[rows, top]).unwrap(),
        Fill::Ints(-1, i64::from(experts) + 1),
    );
    let weights = Weight::Rows(spec(w, &[experts, n, k]));
    let (xs, ys) = (spec(x, &[rows, k]), spec(y, &[rows, top, n]));
    let op = GroupedMatMul::new(&xs, weights, Routing::Ids(ids), &ys);
    list.push(Case::new(format!("{name}/experts/many"), op.precision(p)));
    let rows = 23;
    let offsets = Spec::new(
        TensorDesc::new(DType::U32, &[experts + 1]).unwrap(),
        Fill::Values(vec![0.0, 3.0, 3.0, 17.0, 18.0, 21.0]),
    );
    let weights = Weight::Transposed(spec(w, &[experts, k, n]));
    let op = GroupedMatMul::new(
        &spec(x, &[rows, k]),
        weights,
        Routing::Offsets(offsets),
        &spec(y, &[rows, n]),
    );
    list.push(Case::new(
        format!("{name}/experts/offsets"),
        op.precision(p),
    ));
}

#[test]
fn every_row_agrees_with_the_reference() {
    let cases = cases();
    for level in levels(false) {
        let (isa, report) = run_simd_rows(level, &cases);
        for row in ROWS {
            let id = row.id.0;
            let expected = match id.rsplit('-').next() {
                Some("avx2") => isa.avx2,
                Some("avx512") => isa.avx512,
                Some("avx512bf16") => isa.avx512_bf16,
                Some("amx") => isa.amx,
                Some("neon") => isa.neon,
                Some("neondotprod") => isa.dotprod,
                Some("neonbf16" | "neonbfmmla") => isa.bf16,
                Some("neoni8mm") => isa.i8mm,
                _ => isa.avx512_vnni,
            };
            let ran = report
                .outcomes
                .iter()
                .any(|o| o.kernel.as_deref() == Some(id));
            assert_eq!(ran, expected, "{id} at {level:?}");
        }
    }
}
