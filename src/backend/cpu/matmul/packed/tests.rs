//! Packs decode to the bits of their formats; every row by name against the f64 reference.

use super::*;
use crate::{
    Act, DType, Element, GatherRows, GroupedMatMul, MatMulMany, Part, Routing,
    backend::cpu::{
        pool::Pool,
        rows::{levels, run_simd_rows},
    },
    conformance::{Case, Fill, Spec},
};

fn spec(element: impl Into<Element>, shape: &[u32]) -> Spec {
    Spec::new(
        TensorDesc::new(element, shape).unwrap(),
        Fill::Normal(0.0, 1.0),
    )
}

/// Experts by ids with rows that have none, and by offsets; strided y, and a bias for each.
fn grouped(format: QuantFormat, name: &str, precision: Precision) -> Vec<Case> {
    let f32s = |shape: &[u32]| spec(DType::F32, shape);
    let (k, n) = (2 * format.block_len().max(32) as u32, 40);
    let w = || Weight::Rows(spec(format, &[5, n, k]));
    let numbers =
        |shape: &[u32], fill| Spec::new(TensorDesc::new(DType::I32, shape).unwrap(), fill);
    let ids = numbers(&[70, 2], Fill::Ints(-1, 5));
    let y = TensorDesc::strided(DType::F32, &[70, 2, n], &[100, 50, 1]).unwrap();
    let y = Spec::new(y, Fill::Normal(0.0, 1.0));
    let by_ids = GroupedMatMul::new(&f32s(&[70, k]), w(), Routing::Ids(ids), &y)
        .bias(&f32s(&[5, n]))
        .residual(&f32s(&[70, 2, n]))
        .precision(precision);
    let offsets = numbers(&[6], Fill::Values(vec![0.0, 1.0, 1.0, 12.0, 15.0, 19.0]));
    let (x, y) = (f32s(&[20, k]), f32s(&[20, n]));
    let by_offsets =
        GroupedMatMul::new(&x, w(), Routing::Offsets(offsets), &y).precision(precision);
    vec![
        Case::new(format!("{name}/ids"), by_ids),
        Case::new(format!("{name}/offsets"), by_offsets),
    ]
}

fn gather(format: QuantFormat) -> Case {
    let k = 3 * format.block_len() as u32;
    let ids = Spec::new(
        TensorDesc::new(DType::I32, &[2, 9]).unwrap(),
        Fill::Ints(-1, 21),
    );
    let y = spec(DType::F32, &[2, 9, k]);
    let table = Weight::Rows(spec(format, &[21, k]));
    Case::new(format!("{format}/gather"), GatherRows::new(table, &ids, &y))
}

fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    let f32s = |shape: &[u32]| spec(DType::F32, shape);
    for &format in QuantFormat::ALL {
        for precision in [Precision::F32, Precision::Q8] {
            let name = format!("{format}/{:?}", precision.activations);
            let block = format.block_len() as u32;
            let mut add = |what: String, op: MatMul<Spec>| {
                list.push(Case::new(format!("{name}/{what}"), op.precision(precision)));
            };
            for m in [1, 2, 3, 4, 7, 8, 9, 13, 37, 67] {
                // Three tiles; three and two; two and two.
                let n = match m {
                    37 => 58,
                    _ if m % 2 == 0 => 33,
                    _ => 70,
                };
                // An odd number of blocks, and more than one panel of k.
                let k = block
                    * if m % 3 == 0 {
                        1
                    } else {
                        640 / block.min(256) * 2 + 1
                    };
                let w = Weight::Rows(spec(format, &[n, k]));
                add(
                    format!("m{m}"),
                    MatMul::new(&f32s(&[m, k]), w, &f32s(&[m, n])),
                );
            }
            for m in [3, 11, 26] {
                let k = block.max(32) * 2;
                let (x, y) = (spec(DType::F16, &[2, m, k]), spec(DType::BF16, &[2, m, 21]));
                let op = MatMul::new(&x, Weight::Rows(spec(format, &[2, 21, k])), &y)
                    .scale(0.5)
                    .bias(&spec(DType::F16, &[21]))
                    .act(Act::Silu)
                    .gate(&spec(DType::BF16, &[2, m, 21]))
                    .residual(&f32s(&[2, m, 21]));
                add(format!("epilogue/m{m}"), op);
                // x has one axis that w lacks, and the other way round.
                let (x, y) = (f32s(&[3, 1, m, k]), f32s(&[3, 2, m, 9]));
                let op = MatMul::new(&x, Weight::Rows(spec(format, &[2, 9, k])), &y);
                add(format!("broadcast/m{m}"), op.accumulate());
            }
            list.extend(grouped(format, &name, precision));
        }
        list.push(gather(format));
    }
    for precision in [Precision::F32, Precision::Q8] {
        for m in [1, 11, 40] {
            let part = |q: QuantFormat, n| {
                Part::new(Weight::Rows(spec(q, &[n, 512])), &f32s(&[m, n])).scale(0.25)
            };
            let parts = [
                part(QuantFormat::Q4_K, 48),
                part(QuantFormat::Q6_K, 7),
                part(QuantFormat::Q8_0, 130),
                part(QuantFormat::IQ2_S, 16),
            ];
            let op = MatMulMany::new(&f32s(&[m, 512]), parts).precision(precision);
            list.push(Case::new(
                format!("many/{:?}/m{m}", precision.activations),
                op,
            ));
        }
    }
    list
}

#[test]
fn every_row_agrees_with_the_reference() {
    let cases = cases();
    for level in levels(true) {
        let (isa, report) = run_simd_rows(level, &cases);
        for row in ROWS {
            let expected = match row.id.0.rsplit('-').next() {
                Some("avx2") => isa.avx2,
                Some("avxvnni") => isa.avx_vnni,
                Some("amx") => isa.amx,
                Some("neon") => isa.neon,
                Some("neondotprod") => isa.dotprod,
                _ => isa.avx512_vnni,
            };
            let ran = report
                .outcomes
                .iter()
                .any(|o| o.kernel.as_deref() == Some(row.id.0));
            assert_eq!(ran, expected, "{} at {level:?}", row.id);
        }
    }
}

/// Bytes of a generator: every pattern of codes and scales.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

#[test]
fn packs_decode_to_the_bits_of_the_format() {
    if !(Isa::detect().avx2 || Isa::detect().neon) {
        return;
    }
    for &format in QuantFormat::ALL {
        let (n, blocks) = (37, 5);
        let (k, row) = (blocks * format.block_len(), blocks * format.block_bytes());
        let bytes = noise(2 * n * row);
        let desc = TensorDesc::new(format, &[2, n as u32, k as u32]).unwrap();
        let shape = Pack::shape(&desc).unwrap();
        for isa in [Isa::detect(), Isa::default()] {
            let pool = Pool::new(Pool::open(Some(2)).unwrap());
            let mut data = vec![0; shape.bytes().unwrap()];
            pack::pack(&pool, isa, shape, &bytes, &mut data);
            let traits = parts::traits(format);
            let params = tile::Params {
                table: traits.table,
                zero: f32::from(traits.zero),
                factor: traits.factor,
            };
            let (mut want, mut got) = (vec![0f32; k], vec![0f32; k]);
            let mut panel = vec![0f32; exact::KC * class::TILE];
            for i in 0..2 * n {
                format.decode(&bytes[i * row..][..row], &mut want).unwrap();
                let tile = i / n * shape.tiles() + i % n / class::TILE;
                let at = tile * shape.tile_bytes();
                let (tile, decode) = (data[at..].as_ptr(), gather::decoder(format));
                // SAFETY: a tile of the pack.
                unsafe { decode(tile, &params, i % n, &mut panel, &mut got) };
                for (j, (w, g)) in want.iter().zip(&got).enumerate() {
                    let same = w.to_bits() == g.to_bits() || w.is_nan() && g.is_nan();
                    assert!(same, "{format} row {i}, {j}: {g}, not {w}");
                }
            }
        }
    }
}
