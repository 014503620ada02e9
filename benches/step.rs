//! `cargo bench --features bench --bench step`; `GRISTMILL_DEVICE` picks a device.

use criterion::{Criterion, criterion_group, criterion_main};
use gristmill::bench::{BenchFilter, register_all};

fn step(c: &mut Criterion) {
    register_all(c, &BenchFilter::case("step/*"));
}

criterion_group!(benches, step);
criterion_main!(benches);
