//! Arbitrary capture files: parsing is total; what parses and is small uploads, runs on the CPU
//! and evaluates in the reference.
#![no_main]

use gristmill::{
    Queue,
    capture::CallFile,
    reference::{self, Array},
};
use gristmill_fuzz::work::{self, CPU};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

/// Fixes up the length field, which a fuzzer would rarely guess: the header reaches to the last
/// `}` that another `}` or a letter comes before.
fn framed(data: &[u8]) -> Vec<u8> {
    let end = data.iter().rposition(|&b| b == b'}').map_or(0, |i| i + 1);
    let mut file = (end as u64).to_le_bytes().to_vec();
    file.extend_from_slice(data);
    file
}

fuzz_target!(|data: &[u8]| {
    let framed = framed(data);
    for bytes in [data, &framed] {
        let Ok(call) = CallFile::parse(bytes) else {
            continue;
        };
        let question = call.question().expect("parsed calls are checked");
        if !work::is_small(&question) || bytes.len() > 1 << 16 {
            continue;
        }
        if let Ok(host) = call.host() {
            let arrays = host.map(|_, (desc, bytes, byte_offset)| Array {
                desc: *desc,
                bytes: Arc::new(bytes.clone()),
                byte_offset: *byte_offset,
            });
            let _ = reference::eval(&arrays);
        }
        let mut queue = Queue::with_kernel(&CPU, None).expect("a queue of the CPU");
        if let Ok(order) = call.upload(&mut queue) {
            let _ = queue.run(order);
        }
    }
});
