//! Memory, captures and limits of the wgpu backend on whatever adapter there is; set
//! `GRISTMILL_ALLOW_NO_GPU=1` where there is none.
#![cfg(all(feature = "wgpu", feature = "cpu"))]

use gristmill::{
    Backend, Binary, Buffer, DType, Device, DeviceId, DeviceKind, Error, GatherRows, OpenOptions,
    Queue, Select, Tensor, TensorDesc, TopK, Usage, Weight,
    backend::wgpu::{Mask, Wgpu, open_masked},
    device::External,
};
use std::sync::Arc;

fn device() -> Option<Arc<dyn Device>> {
    masked(Mask::default())
}

fn masked(mask: Mask) -> Option<Arc<dyn Device>> {
    match pollster::block_on(open_masked(0, mask)) {
        Ok(device) => Some(device),
        Err(Error::NotAvailable { why, .. })
            if std::env::var_os("GRISTMILL_ALLOW_NO_GPU").is_some() =>
        {
            eprintln!("no adapter, as allowed: {why}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn writes_at_any_byte_and_reads_any_range() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let buffer = Buffer::new(&device, 61, Usage::Activations).unwrap();
    let mut want = vec![0u8; 61];
    let all = pollster::block_on(stream.read(&buffer, 0..61)).unwrap();
    assert_eq!(all, want, "fresh memory is zero");
    for (at, len) in [
        (0, 61),
        (1, 1),
        (3, 2),
        (5, 9),
        (2, 2),
        (60, 1),
        (7, 33),
        (58, 3),
        (4, 8),
    ] {
        let data: Vec<u8> = (0..len).map(|i| (at * 7 + i * 3 + 1) as u8).collect();
        stream.write(&buffer, at as u64, &data).unwrap();
        want[at..at + len].copy_from_slice(&data);
    }
    let all = pollster::block_on(stream.read(&buffer, 0..61)).unwrap();
    assert_eq!(all, want);
    for (from, to) in [(1u64, 2u64), (3, 61), (59, 60), (60, 61), (0, 4)] {
        let part = pollster::block_on(stream.read(&buffer, from..to)).unwrap();
        assert_eq!(part, want[from as usize..to as usize]);
    }
}

#[test]
fn tickets_are_waited_for() {
    let Some(device) = device() else { return };
    let mut stream = device.stream().unwrap();
    let buffer = Buffer::new(&device, 64, Usage::Activations).unwrap();
    let mut last = stream.submit().unwrap();
    for i in 0..300u32 {
        stream.write(&buffer, 1, &i.to_le_bytes()[..2]).unwrap();
        let ticket = stream.submit().unwrap();
        assert!(ticket > last);
        last = ticket;
    }
    stream.wait(last).unwrap();
    let bytes = pollster::block_on(stream.read(&buffer, 1..3)).unwrap();
    assert_eq!(bytes, 299u16.to_le_bytes());
}

#[test]
fn what_never_fits_is_an_error() {
    let Some(device) = device() else { return };
    let max = device.info().limits.max_buffer;
    let e = device.alloc(max + 16, Usage::Weights).unwrap_err();
    assert!(matches!(e, Error::TooLarge { .. }), "{e}");
    device.alloc(0, Usage::Weights).unwrap();
}

#[test]
fn absence_is_an_error() {
    let id = DeviceId::new("wgpu", 1000);
    let e = pollster::block_on(Wgpu.open(&id, &OpenOptions::default())).unwrap_err();
    assert!(matches!(e, Error::NotAvailable { .. }), "{e}");
}

#[test]
fn a_recorded_step_runs_again_on_what_its_buffers_hold() {
    let Some(device) = device() else { return };
    let mut queue = Queue::with_kernel(&device, None).unwrap();
    let a = queue.upload(&[1.0f32, 2.0, 3.0], &[3]).unwrap();
    let y = queue.upload(&[0.0f32; 3], &[3]).unwrap();
    queue.begin_capture().unwrap();
    queue.run(Binary::add(&a, &y, &y)).unwrap();
    queue.run(Binary::add(&a, &y, &y)).unwrap();
    assert!(
        queue.write(&a, &[9.0f32; 3]).is_err(),
        "no upload inside a capture"
    );
    assert!(
        queue.begin_capture().is_err(),
        "no capture inside a capture"
    );
    let step = queue.end_capture().unwrap();
    assert_eq!(
        queue.download::<f32>(&y).unwrap(),
        [0.0; 3],
        "nothing ran yet"
    );
    queue.replay(&*step).unwrap();
    assert_eq!(queue.download::<f32>(&y).unwrap(), [2.0, 4.0, 6.0]);
    queue.write(&a, &[1.0f32; 3]).unwrap();
    for _ in 0..200 {
        queue.replay(&*step).unwrap();
    }
    assert_eq!(queue.download::<f32>(&y).unwrap(), [402.0, 404.0, 406.0]);
    assert!(queue.end_capture().is_err(), "no capture is open");
}

#[test]
fn tables_beyond_one_binding_are_gathered_in_parts() {
    let mask = Mask {
        max_binding: Some(4096),
        ..Mask::default()
    };
    let Some(device) = masked(mask) else { return };
    let mut queue = Queue::with_kernel(&device, None).unwrap();
    let (rows, width) = (500u32, 20u32);
    let table: Vec<f32> = (0..rows * width).map(|i| i as f32).collect();
    let w = queue.upload(&table, &[rows, width]).unwrap();
    let ids = [0i32, 499, -1, 250, 500, 47, 48, 49];
    let at = queue.upload(&ids, &[8]).unwrap();
    let y = queue.upload(&vec![7.0f32; 160], &[8, width]).unwrap();
    queue
        .run(GatherRows::new(Weight::Rows(w), &at, &y))
        .unwrap();
    let want: Vec<f32> = ids
        .iter()
        .flat_map(|&id| {
            (0..20).map(move |j| {
                if (0..500).contains(&id) {
                    (id * 20 + j) as f32
                } else {
                    0.0
                }
            })
        })
        .collect();
    assert_eq!(queue.download::<f32>(&y).unwrap(), want);
}

#[test]
fn the_best_of_a_large_vocabulary() {
    let Some(device) = device() else { return };
    let mut queue = Queue::with_kernel(&device, None).unwrap();
    let n = 262_144u32;
    let hash = |i: u32| ((i.wrapping_mul(2_654_435_761) >> 8) % 65_521) as f32;
    let x: Vec<f32> = (0..n).map(hash).collect();
    let logits = queue.upload(&x, &[1, n]).unwrap();
    let mut want: Vec<u32> = (0..n).collect();
    want.sort_by(|&a, &b| x[b as usize].total_cmp(&x[a as usize]).then(a.cmp(&b)));
    for k in [1u32, 40] {
        let values = queue.zeros(DType::F32, &[1, k]).unwrap();
        let ids = queue.zeros(DType::I32, &[1, k]).unwrap();
        queue.run(TopK::new(&logits, &values, &ids)).unwrap();
        let got = queue.download::<i32>(&ids).unwrap();
        let best: Vec<i32> = want[..k as usize].iter().map(|&i| i as i32).collect();
        assert_eq!(got, best, "k = {k}");
        let values = queue.download::<f32>(&values).unwrap();
        assert!(values.iter().zip(&got).all(|(v, &i)| *v == x[i as usize]));
    }
}

#[test]
fn freed_buffers_do_not_linger_in_caches() {
    let Some(device) = device() else { return };
    let mut queue = Queue::with_kernel(&device, None).unwrap();
    // Each round would keep 64 MiB alive if a cached bind group held it.
    for round in 0..40 {
        let n = 8 << 20;
        let desc = TensorDesc::new(DType::F32, &[n]).unwrap();
        let a = queue.alloc(desc, Usage::Activations).unwrap();
        let one = queue.upload(&[round as f32], &[1]).unwrap();
        queue.run(Binary::add(&one, &one, &a)).unwrap();
        let (tail, skip) = desc.narrowed(0, n - 1, n).unwrap();
        let tail = Tensor::new(a.buffer(), skip, tail).unwrap();
        assert_eq!(queue.download::<f32>(&tail).unwrap(), [2.0 * round as f32]);
    }
}

#[test]
fn only_fitting_memory_is_imported() {
    let Some(device) = device() else { return };
    let wrong = External::Native(Box::new(5u32));
    assert!(matches!(
        device.import(wrong),
        Err(Error::Unsupported { .. })
    ));
}

#[test]
fn software_is_never_the_best_beside_a_processor() {
    let registry = gristmill::Registry::builtin();
    let device = registry.open_blocking(&Select::Best).unwrap();
    assert_ne!(device.info().kind, DeviceKind::SoftwareGpu);
}
