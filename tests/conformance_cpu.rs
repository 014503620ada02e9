//! The conformance suite on this processor, with all its instruction sets and with fewer, so that
//! one machine tests the kernels of lesser ones. `GRISTMILL_TIER` picks the tier (smoke).
#![cfg(all(feature = "cpu", feature = "conformance"))]

use gristmill::{
    Device, OpenOptions,
    backend::cpu::{self, Level},
    conformance::{self, Expect, Filter, Tier},
};
use std::sync::Arc;

fn tier() -> Tier {
    match std::env::var("GRISTMILL_TIER").as_deref() {
        Ok("full") => Tier::Full,
        Ok("soak") => Tier::Soak,
        Ok("smoke") | Err(_) => Tier::Smoke,
        Ok(other) => panic!("GRISTMILL_TIER is {other:?}; expected smoke, full or soak"),
    }
}

fn verify(device: &Arc<dyn Device>, level: Level) {
    println!(
        "{}: {} [{}], ceiling {level:?}",
        device.info().id,
        device.info().name,
        device.info().features.join(", ")
    );
    let report = conformance::run(
        device,
        &Filter::new(tier()),
        &Expect::default(),
        &mut |_| {},
    )
    .unwrap();
    print!("{}", report.text());
    let bad: Vec<_> = report.failures().map(|o| format!("{o:?}")).collect();
    assert!(report.is_success(), "{}", bad.join("\n"));
    let totals = report.totals();
    assert!(totals.passed > 100, "only {} cases passed", totals.passed);
    assert_eq!(totals.refused, 0, "the processor takes every op");
}

#[test]
fn every_instruction_set() {
    verify(&cpu::device(&OpenOptions::default()).unwrap(), Level::Amx);
}

#[test]
#[cfg(target_arch = "aarch64")]
fn lesser_neon() {
    for level in [Level::Neon, Level::Dotprod] {
        let device = cpu::device_at(level, &OpenOptions::default()).unwrap();
        assert!(!device.info().features.iter().any(|f| f == "i8mm"));
        verify(&device, level);
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn lesser_avx() {
    for (level, without) in [
        (Level::Avx512, "amx"),
        (Level::AvxVnni, "avx512"),
        (Level::Avx2, "vnni"),
    ] {
        let device = cpu::device_at(level, &OpenOptions::default()).unwrap();
        assert!(!device.info().features.iter().any(|f| f.contains(without)));
        verify(&device, level);
    }
}

#[test]
fn portable() {
    let device = cpu::device_at(Level::Portable, &OpenOptions::default()).unwrap();
    assert!(device.info().features.is_empty());
    verify(&device, Level::Portable);
}
