//! The conformance suite on every adapter of this machine, the smoke tier unless
//! `GRISTMILL_TIER` says otherwise. Without an adapter the test fails, unless
//! `GRISTMILL_ALLOW_NO_GPU=1`.
#![cfg(all(feature = "wgpu", feature = "conformance"))]

use gristmill::{
    Backend, Device, DeviceInfo, Error,
    backend::wgpu::{Mask, Wgpu, open_masked},
    conformance::{self, Expect, Filter, Report, Status, Tier},
};
use std::sync::Arc;

fn adapters() -> Vec<DeviceInfo> {
    match pollster::block_on(Wgpu.probe()) {
        Ok(found) => found,
        Err(Error::NotAvailable { why, .. })
            if std::env::var_os("GRISTMILL_ALLOW_NO_GPU").is_some() =>
        {
            eprintln!("no adapter, as allowed: {why}");
            Vec::new()
        }
        Err(e) => panic!("{e}"),
    }
}

fn filter() -> Filter {
    let tier = match std::env::var("GRISTMILL_TIER") {
        Ok(name) => name.parse().unwrap(),
        Err(_) => Tier::Smoke,
    };
    let filter = Filter::new(tier);
    match std::env::var("GRISTMILL_CASES") {
        Ok(pattern) => filter.name(pattern),
        Err(_) => filter,
    }
}

fn check(device: &Arc<dyn Device>) -> Report {
    let started = std::time::Instant::now();
    let report = conformance::run(device, &filter(), &Expect::default(), &mut |_| {}).unwrap();
    eprintln!("{:?} in {:.1?}", report.totals(), started.elapsed());
    assert!(report.is_success(), "{}", report.text());
    report
}

#[test]
fn every_adapter() {
    for info in adapters() {
        eprintln!("{}: {} {:?}", info.id, info.name, info.features);
        let device = pollster::block_on(open_masked(info.id.index, Mask::default())).unwrap();
        let report = check(&device);
        let ran = |o: &&conformance::Outcome| matches!(o.status, Status::Passed);
        assert!(report.outcomes.iter().any(|o| ran(&o)), "nothing ran");
    }
}

/// The same on lesser hardware: no f16, no subgroups, small bindings, and run-time checks in every
/// shader, which would show an index out of bounds as a wrong result.
#[test]
fn every_adapter_masked() {
    let mask = Mask {
        no_f16: true,
        no_subgroup: true,
        no_dp4a: true,
        max_binding: Some(1 << 20),
        checked: true,
    };
    for info in adapters() {
        eprintln!("{}: {} with {mask:?}", info.id, info.name);
        let device = pollster::block_on(open_masked(info.id.index, mask)).unwrap();
        check(&device);
    }
}

/// A thread that used a device ends after the device is gone: what drivers leave to be done at the
/// end of a thread must still be loaded then.
#[test]
fn threads_end_after_their_device() {
    for _ in 0..3 {
        let thread = std::thread::spawn(|| {
            for info in adapters() {
                let device =
                    pollster::block_on(open_masked(info.id.index, Mask::default())).unwrap();
                let mut queue = gristmill::Queue::new(&device).unwrap();
                let x = queue.upload(&[1.0f32; 8], &[8]).unwrap();
                assert_eq!(queue.download::<f32>(&x).unwrap(), [1.0; 8]);
            }
        });
        thread.join().unwrap();
    }
}
