//! Rope.

use super::{FLOATS, List, desc, ints, laid, normal, output, permuted};
use crate::{
    DType, Rope, RopeKind,
    conformance::Fill,
    op::rope::{llama3_factors, yarn_factors},
};

const KINDS: [(RopeKind, &str); 2] = [
    (RopeKind::HalfSplit, "half_split"),
    (RopeKind::Interleaved, "interleaved"),
];

pub(super) fn add(list: &mut List) {
    let x = |d: DType, shape: &[u32]| normal(d, shape);
    let op = Rope::new(
        RopeKind::HalfSplit,
        &x(DType::F32, &[1, 2, 3, 16]),
        &ints(&[3], Fill::Steps(5.0, 1.0)),
        1e4,
        16,
        &output(DType::F32, &[1, 2, 3, 16]),
    );
    list.smoke("rope/smoke", op);
    for (kind, name) in KINDS {
        for d in FLOATS {
            for (b, h, s, dim, n_rot) in [
                (1, 1, 1, 2, 2),
                (1, 4, 5, 64, 64),
                (2, 3, 7, 128, 128),
                (1, 2, 33, 128, 64),
                (1, 5, 1, 80, 32),
                (2, 2, 3, 96, 72),
                (1, 2, 3, 64, 0),
                (1, 1, 2, 256, 256),
            ] {
                let shape = [b, h, s, dim];
                let op = Rope::new(
                    kind,
                    &x(d, &shape),
                    &ints(&[s], Fill::Ints(0, 4096)),
                    1e4,
                    n_rot,
                    &output(d, &shape),
                );
                list.full(format!("rope/{name}/{d}/b{b}h{h}s{s}d{dim}r{n_rot}"), op);
            }
            let shape = [2, 3, 4, 64];
            let op = Rope::new(
                kind,
                &x(d, &shape),
                &ints(&[2, 4], Fill::Ints(0, 100)),
                5e5,
                64,
                &output(DType::F32, &shape),
            );
            list.full(format!("rope/{name}/{d}/positions_of_each"), op.clone());
            let (factors, magnitude) = yarn_factors(64, 1e4, 8.0, 32.0, 1.0, 4096);
            let fill = |f: Vec<f32>| Fill::Values(f.into_iter().map(f64::from).collect());
            let yarn = normal(DType::F32, &[32]).fill(fill(factors));
            list.full(
                format!("rope/{name}/{d}/yarn"),
                op.clone().factors(&yarn).magnitude(magnitude),
            );
            let llama = llama3_factors(64, 5e5, 8.0, 1.0, 4.0, 8192);
            let llama = normal(DType::F32, &[32]).fill(fill(llama));
            list.full(format!("rope/{name}/{d}/llama3"), op.factors(&llama));
            let both = x(d, &shape).shared(0, d.size() as u64);
            let positions = || ints(&[4], Fill::Steps(3.0, 1.0));
            let op = Rope::new(kind, &both, &positions(), 1e4, 48, &both);
            list.full(format!("rope/{name}/{d}/in_place"), op);
            let swapped = permuted(d, &[2, 4, 3, 64], &[0, 2, 1, 3]);
            let op = Rope::new(kind, &laid(swapped), &positions(), 1e4, 64, &laid(swapped));
            list.full(format!("rope/{name}/{d}/heads_inside"), op.clone());
            let mut part = op;
            part.y = laid(desc(d, &shape)).at(d.size() as u64);
            part.n_rot = 40;
            list.full(format!("rope/{name}/{d}/partial_copied"), part);
        }
        let far = ints(&[4], Fill::Values(vec![0.0, 131_071.0, -7.0, 8191.0]));
        let shape = [1, 2, 4, 64];
        let f = DType::F32;
        let op = Rope::new(kind, &x(f, &shape), &far, 1e6, 64, &output(f, &shape));
        list.full(format!("rope/{name}/far"), op);
        let none = [1, 2, 0, 64];
        let op = Rope::new(
            kind,
            &x(f, &none),
            &ints(&[0], Fill::Steps(0.0, 1.0)),
            1e4,
            64,
            &output(f, &none),
        );
        list.full(format!("rope/{name}/empty"), op);
    }
    for (name, sections) in [
        ("qwen2_vl", [16, 24, 24, 0]),
        ("repeating", [2, 3, 3, 0]),
        ("four", [8, 8, 8, 8]),
    ] {
        for d in FLOATS {
            let shape = [2, 3, 5, 128];
            let op = Rope::new(
                RopeKind::Sections(sections),
                &x(d, &shape),
                &ints(&[4, 5], Fill::Ints(0, 200)),
                1e6,
                128,
                &output(d, &shape),
            );
            list.full(format!("rope/sections/{name}/{d}"), op);
        }
    }
}
