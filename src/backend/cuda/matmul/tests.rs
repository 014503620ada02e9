use super::super::args::Launch;
use super::super::rows::testing::{Recorder, env, recorder, view};
use super::super::rows::{FORMATS, ROWS};
use super::launch::W_CHUNK;
use super::*;
use crate::quant::QuantFormat;

fn mat(x: View, w: View, y: View) -> MatMul<View> {
    MatMul::new(&x, Weight::Rows(w), &y)
}

/// The row that is taken, and what it launches.
fn launched(cc: u32, op: MatMul<View>) -> (&'static str, Recorder) {
    let op = Op::MatMul(op);
    let asked = super::super::rows::question_of(&op);
    asked.check().unwrap();
    let (row, _) = crate::backend::select(ROWS, &env(cc), &asked, None).unwrap();
    let mut sink = recorder(cc);
    (row.run)(&mut sink, &op).unwrap();
    (row.id.0, sink)
}

fn names(sink: &Recorder) -> Vec<&str> {
    sink.launches
        .iter()
        .map(|(name, _, _)| name.as_str())
        .collect()
}

const XA: u64 = 1 << 20;
const WA: u64 = 1 << 24;
const YA: u64 = 1 << 30;

#[test]
fn decode_takes_the_gemv_of_its_format_and_precision() {
    for f in FORMATS {
        let (x, w, y) = (
            view(DType::F32, &[1, 512], XA),
            view(f.quant, &[33, 512], WA),
            view(DType::F32, &[1, 33], YA),
        );
        let (row, sink) = launched(75, mat(x, w, y));
        assert_eq!(row, "cuda-matmul-gemv-f32");
        assert_eq!(names(&sink), [format!("gm_gemv_{}_f32_m1", f.name)]);
        assert_eq!(
            sink.launches[0].1,
            Launch {
                grid: [17, 1, 1],
                block: 128,
                shared: 0
            }
        );
        let (w, y) = (
            view(f.quant, &[4096, 512], WA),
            view(DType::F32, &[1, 4096], YA),
        );
        let (row, sink) = launched(75, mat(x, w, y).precision(Precision::Q8));
        assert_eq!(row, "cuda-matmul-gemv-q8");
        assert_eq!(
            names(&sink),
            [
                "gm_quantize_q8_f32".to_owned(),
                format!("gm_gemv_{}_q8_m1", f.name)
            ]
        );
        assert_eq!(
            sink.launches[0].1.grid,
            [4, 1, 1],
            "16 blocks of 32, 4 a CTA"
        );
    }
}

#[test]
fn sizes_choose_between_kernels_that_fit() {
    let of = |w: DType, q8: Option<QuantFormat>, [m, n, k]: [u32; 3]| {
        let (x, y) = (view(w, &[m, k], XA), view(DType::F32, &[m, n], YA));
        let op = match q8 {
            Some(quant) => mat(x, view(quant, &[n, k], WA), y).precision(Precision::Q8),
            None => mat(x, view(w, &[n, k], WA), y),
        };
        launched(80, op).0
    };
    let q = Some(QuantFormat::Q4_K);
    assert_eq!(of(DType::F32, q, [1, 2048, 2048]), "cuda-matmul-gemv-q8");
    // Small weights do not earn back a launch; too many rows for the other kernel leave no choice.
    assert_eq!(of(DType::F32, q, [16, 576, 512]), "cuda-matmul-gemv-f32");
    assert_eq!(of(DType::F32, q, [17, 576, 512]), "cuda-matmul-gemv-q8");
    // Large weights are not read twice, where there is another kernel.
    let bf16 = DType::BF16;
    assert_eq!(of(bf16, None, [8, 4096, 4096]), "cuda-matmul-gemv-f32");
    assert_eq!(of(bf16, None, [9, 4096, 4096]), "cuda-matmul-mma");
    assert_eq!(of(bf16, None, [16, 2048, 2048]), "cuda-matmul-gemv-f32");
    assert_eq!(
        of(DType::F32, None, [16, 4096, 4096]),
        "cuda-matmul-gemv-f32"
    );
}

#[test]
fn rows_of_x_choose_the_kernel_and_its_grid() {
    let of = |m: u32| {
        let (x, y) = (
            view(DType::F32, &[m, 64], XA),
            view(DType::F32, &[m, 7], YA),
        );
        let (_, sink) = launched(80, mat(x, view(QuantFormat::Q8_0, &[7, 64], WA), y));
        (sink.launches[0].0.clone(), sink.launches[0].1.grid)
    };
    assert_eq!(of(1), ("gm_gemv_q8_0_f32_m1".into(), [4, 1, 1]));
    assert_eq!(of(2), ("gm_gemv_q8_0_f32_m2".into(), [4, 1, 1]));
    assert_eq!(of(3), ("gm_gemv_q8_0_f32_m4".into(), [4, 1, 1]));
    assert_eq!(of(5), ("gm_gemv_q8_0_f32_m8".into(), [4, 1, 1]));
    assert_eq!(of(9), ("gm_gemv_q8_0_f32_m8".into(), [4, 2, 1]));
    assert_eq!(
        of(17).0,
        "gm_dequant_q8_0_f32",
        "many rows: decode, then the tiled kernel"
    );
}

#[test]
fn prefill_of_quantized_weights_follows_the_precision_asked() {
    let (x, w) = (
        view(DType::F32, &[300, 512], XA),
        view(QuantFormat::Q4_K, &[200, 512], WA),
    );
    let y = view(DType::F32, &[300, 200], YA);
    let (row, sink) = launched(90, mat(x, w, y));
    assert_eq!(row, "cuda-matmul-simt");
    assert_eq!(
        names(&sink),
        ["gm_dequant_q4_k_f32", "gm_matmul_f32_f32_nt_64x64_simt"]
    );
    let (row, sink) = launched(90, mat(x, w, y).precision(Precision::HALF));
    assert_eq!(row, "cuda-matmul-mma");
    assert_eq!(
        names(&sink),
        [
            "gm_cast_f32_bf16",
            "gm_dequant_q4_k_bf16",
            "gm_matmul_bf16_bf16_nt_64x64_mma"
        ]
    );
    let (row, _) = launched(75, mat(x, w, y).precision(Precision::HALF));
    assert_eq!(row, "cuda-matmul-simt", "no bf16 tensor cores before 8.0");
}

#[test]
fn dense_pairs_take_the_exact_kernel_or_the_rounding_one_where_accepted() {
    let (m, n, k) = (40, 24, 64);
    let of = |cc: u32, x: DType, w: DType, p: Precision| {
        let op = mat(
            view(x, &[m, k], XA),
            view(w, &[n, k], WA),
            view(DType::F32, &[m, n], YA),
        )
        .precision(p);
        let (row, sink) = launched(cc, op);
        (
            row,
            sink.launches
                .iter()
                .map(|l| l.0.clone())
                .collect::<Vec<_>>()
                .join(" "),
        )
    };
    let (f32, f16, bf16) = (DType::F32, DType::F16, DType::BF16);
    assert_eq!(
        of(80, bf16, bf16, Precision::F32).1,
        "gm_matmul_bf16_bf16_nt_64x64_mma"
    );
    assert_eq!(
        of(75, bf16, bf16, Precision::F32).1,
        "gm_matmul_bf16_bf16_nt_64x64_simt"
    );
    assert_eq!(
        of(120, f32, bf16, Precision::F32).1,
        "gm_matmul_f32_bf16_nt_64x64_simt"
    );
    assert_eq!(
        of(120, f32, f16, Precision::HALF).1,
        "gm_cast_f32_f16 gm_matmul_f16_f16_nt_64x64_mma"
    );
    assert_eq!(
        of(86, f16, bf16, Precision::F32).1,
        "gm_cast_f16_f32 gm_matmul_f32_bf16_nt_64x64_simt"
    );
    assert_eq!(
        of(86, f32, f32, Precision::HALF).1,
        "gm_matmul_f32_f32_nt_64x64_simt"
    );
}

#[test]
fn large_results_take_the_large_tile() {
    let op = |t: DType| {
        mat(
            view(t, &[2048, 64], XA),
            view(t, &[2048, 64], WA),
            view(t, &[2048, 2048], YA),
        )
    };
    let (_, sink) = launched(90, op(DType::BF16));
    assert_eq!(sink.launches[0].0, "gm_matmul_bf16_bf16_nt_128x128_mma");
    assert_eq!(
        sink.launches[0].1,
        Launch {
            grid: [256, 1, 1],
            block: 256,
            shared: 98_304
        }
    );
    let (_, sink) = launched(75, op(DType::F32));
    assert_eq!(sink.launches[0].0, "gm_matmul_f32_f32_nt_128x128_simt");
}

#[test]
fn odd_addresses_and_strides_take_the_unaligned_kernel() {
    let op = |k: u32, shift: u64| {
        mat(
            view(DType::F16, &[40, k], XA + shift),
            view(DType::F16, &[40, k], WA),
            view(DType::F16, &[40, 40], YA),
        )
    };
    assert!(names(&launched(80, op(64, 0)).1)[0].ends_with("_mma"));
    assert!(names(&launched(80, op(65, 0)).1)[0].ends_with("_mmau"));
    assert!(names(&launched(80, op(64, 2)).1)[0].ends_with("_mmau"));
}

#[test]
fn batches_that_share_weights_become_rows_and_others_grid_z() {
    let w = view(DType::F32, &[24, 32], WA);
    let (_, sink) = launched(
        80,
        mat(
            view(DType::F32, &[3, 5, 32], XA),
            w,
            view(DType::F32, &[3, 5, 24], YA),
        ),
    );
    assert_eq!(names(&sink), ["gm_gemv_f32_f32_m8"]);
    assert_eq!(sink.launches[0].1.grid, [12, 2, 1]);
    let w = view(DType::F32, &[3, 24, 32], WA);
    let (_, sink) = launched(
        80,
        mat(
            view(DType::F32, &[2, 3, 50, 32], XA),
            w,
            view(DType::F32, &[2, 3, 50, 24], YA),
        ),
    );
    assert_eq!(
        sink.launches.len(),
        2,
        "x walks two axes, w one: a launch for each index of the outer one"
    );
    assert_eq!(sink.launches[1].1.grid, [1, 1, 3]);
    let v = sink.launches[1].2.values();
    assert_eq!(v[..3], [XA + 3 * 50 * 32 * 4, WA, YA + 3 * 50 * 24 * 4]);
    assert_eq!(
        v[9..12],
        [50 * 32, 24 * 32, 50 * 24],
        "batch strides of x, w, y"
    );
}

#[test]
fn transposed_weights_are_read_in_place() {
    let (x, y) = (
        view(DType::F32, &[2, 32], XA),
        view(DType::F32, &[2, 24], YA),
    );
    let op = MatMul::new(&x, Weight::Transposed(view(DType::F32, &[32, 24], WA)), &y);
    let (row, sink) = launched(75, op);
    assert_eq!(
        (row, names(&sink)),
        ("cuda-matmul-simt", vec!["gm_matmul_f32_f32_nn_64x64_simt"])
    );
}

#[test]
fn the_epilogue_reaches_the_kernel_in_order() {
    let (x, w) = (
        view(DType::F32, &[2, 32], XA),
        view(QuantFormat::Q4_0, &[24, 32], WA),
    );
    let y = view(DType::BF16, &[2, 24], YA);
    let (bias, gate) = (
        view(DType::F16, &[24], 7 << 20),
        view(DType::F32, &[2, 24], 8 << 20),
    );
    let op = mat(x, w, y)
        .bias(&bias)
        .act(Act::Silu)
        .gate(&gate)
        .scale(0.5)
        .accumulate();
    let (_, sink) = launched(75, op);
    let v = sink.launches[0].2.values();
    let half = u64::from(0.5f32.to_bits());
    assert_eq!(
        v[9..],
        [7 << 20, 8 << 20, YA, 24, 24, half, 2, 2 | 1 << 4 | 2 << 12]
    );
}

#[test]
fn wide_layers_are_decoded_piece_by_piece() {
    let (n, k) = (40_000u32, 2048u32);
    let (x, w) = (
        view(DType::F32, &[64, k], XA),
        view(QuantFormat::Q6_K, &[n, k], WA),
    );
    let (y, bias) = (
        view(DType::F32, &[64, n], YA),
        view(DType::F32, &[n], 7 << 20),
    );
    let (_, sink) = launched(75, mat(x, w, y).bias(&bias));
    let rows: Vec<u64> = sink
        .launches
        .iter()
        .step_by(2)
        .map(|l| l.2.values()[2])
        .collect();
    assert_eq!(rows.iter().sum::<u64>(), u64::from(n));
    assert!(rows.len() > 1 && rows.iter().all(|r| r * u64::from(k) * 4 <= W_CHUNK));
    let second = sink.launches[3].2.values();
    assert_eq!(second[2], YA + rows[0] * 4);
    assert_eq!(second[14], (7 << 20) + rows[0] * 4, "the bias moves along");
    assert_eq!(
        sink.launches[2].2.values()[0],
        WA + rows[0] * u64::from(k / 256) * 210
    );
}

#[test]
fn refusals_are_structured() {
    let refusal = |op: MatMul<View>| {
        let asked = Op::MatMul(question(&op));
        crate::backend::select(ROWS, &env(90), &asked, None).unwrap_err()
    };
    let (x, y) = (
        view(DType::F32, &[2, 256], XA),
        view(DType::F32, &[2, 8], YA),
    );
    let w = view(QuantFormat::IQ2_XXS, &[8, 256], WA);
    assert_eq!(
        refusal(mat(x, w, y)),
        Refusal::Element {
            arg: "w",
            element: QuantFormat::IQ2_XXS.into()
        }
    );
    let w = view(DType::F32, &[8, 256], WA);
    assert!(matches!(
        refusal(mat(x, w, y).act(Act::Sin)),
        Refusal::Feature(_)
    ));
    let columns = View {
        desc: view(DType::F32, &[256, 2], XA)
            .desc
            .transposed(0, 1)
            .unwrap(),
        ..x
    };
    assert!(matches!(
        refusal(mat(columns, w, y)),
        Refusal::Layout { arg: "x", .. }
    ));
    let i8s = view(DType::I8, &[2, 256], XA);
    assert!(matches!(
        refusal(mat(i8s, view(DType::I8, &[8, 256], WA), y)),
        Refusal::Element { .. }
    ));
}

#[test]
fn several_products_of_one_x_run_as_one_op() {
    let x = view(DType::F32, &[1, 256], XA);
    let parts = [QuantFormat::Q4_K, QuantFormat::Q6_K].map(|q| {
        crate::op::Part::new(
            Weight::Rows(view(q, &[16, 256], WA)),
            &view(DType::F32, &[1, 16], YA),
        )
    });
    let op = MatMulMany::new(&x, parts);
    fits_many(&env(75), &question(&op).into()).unwrap();
    let mut sink = recorder(75);
    run_many(&mut sink, &op.into()).unwrap();
    assert_eq!(names(&sink), ["gm_gemv_q4_k_f32_m1", "gm_gemv_q6_k_f32_m1"]);
}

#[test]
fn a_part_without_columns_launches_nothing() {
    let parts = [0, 16].map(|n| {
        crate::op::Part::new(
            Weight::Rows(view(DType::F32, &[n, 64], WA)),
            &view(DType::F32, &[1, n], YA),
        )
    });
    let op = MatMulMany::new(&view(DType::F32, &[1, 64], XA), parts);
    let mut sink = recorder(75);
    run_many(&mut sink, &op.into()).unwrap();
    assert_eq!(names(&sink), ["gm_gemv_f32_f32_m1"]);
}

/// What is offered must not depend on anything but the environment and the question.
#[test]
fn the_choice_is_a_pure_function_of_device_and_op() {
    let (x, w, y) = (
        view(DType::BF16, &[64, 64], XA),
        view(DType::BF16, &[64, 64], WA),
        view(DType::F32, &[64, 64], YA),
    );
    let taken = |cc| launched(cc, mat(x, w, y)).0;
    assert_eq!(
        [75, 80, 86, 90, 120].map(taken),
        [
            "cuda-matmul-simt",
            "cuda-matmul-mma",
            "cuda-matmul-mma",
            "cuda-matmul-mma",
            "cuda-matmul-mma"
        ]
    );
}
