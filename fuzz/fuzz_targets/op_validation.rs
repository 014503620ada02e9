//! Arbitrary ops: the check, the work counts, planning and the description in JSON never panic and
//! never take long; what is accepted and small then runs on the CPU with every kernel that claims
//! it.
#![no_main]

use gristmill::{op::decompose, *};
use gristmill_fuzz::{
    ops::{Maker, Mood, Tape},
    work::{self, CPU},
};
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

thread_local! {
    static QUEUE: RefCell<(Queue, usize)> = RefCell::new((queue(), 0));
}

fn queue() -> Queue {
    Queue::with_kernel(&CPU, None).expect("a queue of the CPU")
}

fuzz_target!(|data: &[u8]| {
    let mut maker = Maker {
        tape: Tape(data),
        mood: Mood::Tame,
    };
    if maker.tape.rarely(3) {
        maker.mood = Mood::Wild;
    }
    let mut op = maker.op();
    let mut tape = maker.tape;
    if tape.rarely(4) {
        op = work::pack(op, &mut tape);
    }
    let _ = (op.flops(), op.bytes(), op.is_noop());
    let _ = format!("{op:?}");
    if op.check().is_err() {
        return;
    }
    let _ = CPU.supports(&op);
    // Every split that planning can come to, down to where nothing is native.
    for native in [0, 1, 2] {
        let plan = decompose::plan(&op, &mut |q| match native {
            0 => false,
            1 => matches!(q, Op::MatMul(m) if m.epilogue.is_identity()),
            _ => q.kind() != op.kind(),
        });
        if let Ok(plan) = plan {
            let _ = plan.temp_bytes();
            // Parts of an op with nothing to do never run, and may reduce over nothing.
            for part in plan.parts.iter().filter(|_| !op.is_noop()) {
                decompose::question(part).check().expect("parts are valid");
            }
        }
    }
    if !work::is_small(&op) {
        return;
    }
    QUEUE.with_borrow_mut(|(queue, runs)| {
        // Plans are kept for every distinct op; a fuzzer has only those.
        *runs += 1;
        if *runs % 1024 == 0 {
            *queue = self::queue();
        }
        let Ok(order) = work::order(queue, &op, &mut tape) else {
            return;
        };
        let _ = queue.run(order.clone());
        for kernel in CPU.kernels(&op) {
            if let Err(e) = queue.run_with(order.clone(), kernel) {
                assert!(
                    matches!(e, Error::InvalidOp { .. } | Error::InvalidTensor(_)),
                    "{kernel} claims {op:?} but says {e}"
                );
            }
        }
    });
});
