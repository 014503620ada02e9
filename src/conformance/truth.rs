//! What a case should give, and whether a device gave it.

use super::{
    case::Memory,
    tolerance::{self, Verdict},
};
use crate::{
    element::Element,
    op::Op,
    quant::QuantFormat,
    reference::{Array, Nd, Output},
};
use std::{ops::Range, sync::Arc};

/// What an encoder was given, where the op is one.
pub(super) fn encoder_input(op: &Op<Array>) -> Option<Vec<f64>> {
    match op {
        Op::Quantize(a) => Some(Nd::of(&a.x).v),
        _ => None,
    }
}

/// What a case should give.
pub(super) struct Truth {
    pub want: Vec<Output>,
    /// What an encoder was given.
    pub encoded: Option<Vec<f64>>,
}

impl Truth {
    /// Every byte outside the outputs is as it was, every number within them as it should be.
    pub fn judge(&self, memory: &Memory, after: &[Vec<u8>], c: f64) -> Verdict {
        for (b, ((before, now), writes)) in memory
            .buffers
            .iter()
            .zip(after)
            .zip(&memory.writes)
            .enumerate()
        {
            if let Some(at) = first_change(before, now, writes) {
                return Verdict {
                    worst: f64::INFINITY,
                    nmse: 0.0,
                    failure: Some(format!(
                        "byte {at} of buffer {b}, which no output holds, was changed ({})",
                        inhabitants(memory, b)
                    )),
                };
            }
        }
        let mut total = Verdict::default();
        let mut outputs = self.want.iter();
        memory.op.visit(|arg, p| {
            if !arg.role.writes() {
                return;
            }
            let Some(want) = outputs.next() else { return };
            let got = Nd::of(&Array {
                desc: p.desc,
                bytes: Arc::new(after[p.buffer].clone()),
                byte_offset: p.byte_offset,
            });
            let verdict = match (&self.encoded, p.desc.element) {
                (Some(x), Element::Quant(q)) => {
                    tolerance::compare_encoded(x, want, &got.v, is_search(q))
                }
                (_, element) => tolerance::compare(want, &got.v, element, c),
            };
            total.worst = total.worst.max(verdict.worst);
            total.nmse = total.nmse.max(verdict.nmse);
            if total.failure.is_none() {
                total.failure = verdict.failure;
            }
        });
        total
    }
}

/// Formats whose encoder searches, rather than follows a closed formula.
fn is_search(q: QuantFormat) -> bool {
    use QuantFormat::*;
    !matches!(
        q,
        Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q8_1 | Q8_K | TQ1_0 | TQ2_0 | MXFP4 | Q1_0 | Q2_0
    )
}

fn first_change(before: &[u8], after: &[u8], writes: &[Range<usize>]) -> Option<usize> {
    let mut sorted: Vec<_> = writes.to_vec();
    sorted.sort_by_key(|r| r.start);
    let mut at = 0;
    for r in sorted.iter().chain([&(before.len()..before.len())]) {
        if at < r.start
            && let Some(i) = (at..r.start).find(|&i| before[i] != after[i])
        {
            return Some(i);
        }
        at = at.max(r.end);
    }
    None
}

/// The operands of a buffer, in words.
fn inhabitants(memory: &Memory, buffer: usize) -> String {
    let mut words = Vec::new();
    memory.op.visit(|arg, p| {
        if p.buffer == buffer {
            let (start, end) = (p.byte_offset, p.byte_offset + p.desc.span_bytes());
            words.push(format!("{} is at {start}..{end}", arg.name));
        }
    });
    words.join(", ")
}
