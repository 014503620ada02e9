//! `cargo bench --features bench --bench attention`; `GRISTMILL_DEVICE` picks a device.

use criterion::{Criterion, criterion_group, criterion_main};
use gristmill::bench::{BenchFilter, register_all};

fn attention(c: &mut Criterion) {
    register_all(c, &BenchFilter::case("attention/bench/*"));
}

criterion_group!(benches, attention);
criterion_main!(benches);
