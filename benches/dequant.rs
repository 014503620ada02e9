//! `cargo bench --features bench --bench dequant`; `GRISTMILL_DEVICE` picks a device.

use criterion::{Criterion, criterion_group, criterion_main};
use gristmill::bench::{BenchFilter, register_all};

fn dequant(c: &mut Criterion) {
    register_all(c, &BenchFilter::case("dequantize/bench/*"));
}

criterion_group!(benches, dequant);
criterion_main!(benches);
