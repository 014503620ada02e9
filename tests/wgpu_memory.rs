//! Memory of the wgpu backend on whatever adapter there is; set `GRISTMILL_ALLOW_NO_GPU=1` where
//! there is none.
#![cfg(feature = "wgpu")]

use gristmill::{
    Backend, Buffer, Device, DeviceId, Error, OpenOptions, Usage,
    backend::wgpu::{Mask, Wgpu, open_masked},
};
use std::sync::Arc;

fn device() -> Option<Arc<dyn Device>> {
    match pollster::block_on(open_masked(0, Mask::default())) {
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
