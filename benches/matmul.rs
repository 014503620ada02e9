//! `cargo bench --features bench --bench matmul`; `GRISTMILL_DEVICE` picks a device.

use criterion::{Criterion, criterion_group, criterion_main};
use gristmill::bench::{BenchFilter, register_all};

fn matmul(c: &mut Criterion) {
    register_all(c, &BenchFilter::case("mat_mul/bench/*"));
}

criterion_group!(benches, matmul);
criterion_main!(benches);
