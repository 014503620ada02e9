//! Rewrites an op that a device lacks into smaller ones. Pure: questions in, questions out.

use super::Op;
use crate::layout::TensorDesc;

mod attention;
mod matmul;
mod small;

/// Where an operand of a rewritten op lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Operand number `0` of the original op, in the order of [`Op::operands`].
    Operand(usize),
    /// Temporary number `0` of the [`Plan`].
    Temp(usize),
}

/// An operand of a rewritten op: a view of an original operand or of a temporary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What it views.
    pub source: Source,
    /// Bytes from the start of what it views.
    pub byte_offset: u64,
    /// Element type, shape and strides of the view.
    pub desc: TensorDesc,
}

impl Slot {
    /// The same bytes under another description.
    #[must_use]
    pub fn with_desc(self, desc: TensorDesc) -> Slot {
        Slot { desc, ..self }
    }

    /// Part of an axis; `None` when the range does not fit.
    pub fn narrowed(self, axis: usize, start: u32, end: u32) -> Option<Slot> {
        let (desc, bytes) = self.desc.narrowed(axis, start, end).ok()?;
        Some(Slot {
            desc,
            byte_offset: self.byte_offset + bytes,
            ..self
        })
    }
}

/// The question that a rewritten op asks.
pub fn question(op: &Op<Slot>) -> Op<TensorDesc> {
    op.map(|_, slot| slot.desc)
}

/// An op in parts, run in order, with the temporaries they need.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Contiguous temporaries; what they hold before the first part is unspecified.
    pub temps: Vec<TensorDesc>,
    /// The parts.
    pub parts: Vec<Op<Slot>>,
}

impl Plan {
    /// The plan that is `op` itself.
    pub fn whole(op: &Op<TensorDesc>) -> Plan {
        let mut n = 0;
        let part = op.map(|_, &desc| {
            n += 1;
            Slot {
                source: Source::Operand(n - 1),
                byte_offset: 0,
                desc,
            }
        });
        Plan {
            temps: Vec::new(),
            parts: vec![part],
        }
    }

    /// Adds a contiguous temporary; `None` when the shape is not possible.
    pub fn temp(&mut self, element: impl Into<crate::Element>, shape: &[u32]) -> Option<Slot> {
        let desc = TensorDesc::new(element, shape).ok()?;
        self.temps.push(desc);
        Some(Slot {
            source: Source::Temp(self.temps.len() - 1),
            byte_offset: 0,
            desc,
        })
    }

    /// Appends a part.
    pub fn push(&mut self, op: impl Into<Op<Slot>>) {
        self.parts.push(op.into());
    }

    /// Operands of the plan's temporaries, largest total first: bytes needed at once.
    pub fn temp_bytes(&self) -> u64 {
        self.temps.iter().map(TensorDesc::span_bytes).sum()
    }
}

/// Rewrites one op, appending parts and temporaries to `plan`. `None` when there is no simpler
/// form; `plan` may then hold temporaries that nothing uses, so pass a scratch copy.
pub fn decompose(op: &Op<Slot>, plan: &mut Plan) -> Option<()> {
    match op {
        Op::MatMul(a) => matmul::mat_mul(a, plan),
        Op::MatMulMany(a) => matmul::many(a, plan),
        Op::Attention(a) => attention::attention(a, plan),
        Op::Glu(a) => small::glu(a, plan),
        Op::Norm(a) => small::norm(a, plan),
        Op::GatherRows(a) => small::gather_rows(a, plan),
        Op::Softmax(a) => small::softmax(a, plan),
        Op::Conv2d(a) => small::conv2d(a, plan),
        Op::KvWrite(_)
        | Op::GroupedMatMul(_)
        | Op::Dequantize(_)
        | Op::Quantize(_)
        | Op::Rope(_)
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Reduce(_)
        | Op::TopK(_)
        | Op::Copy(_)
        | Op::Upsample(_)
        | Op::Custom(_) => None,
    }
}

/// Rewrites until every part satisfies `native`; `Err` holds the first part that is neither
/// native nor reducible.
///
/// # Errors
/// The question that nothing can answer.
pub fn plan(
    op: &Op<TensorDesc>,
    native: &mut dyn FnMut(&Op<TensorDesc>) -> bool,
) -> Result<Plan, Box<Op<TensorDesc>>> {
    let mut done = Plan::default();
    let mut todo = Plan::whole(op).parts;
    while let Some(part) = todo.pop() {
        let asked = question(&part);
        if native(&asked) {
            done.parts.push(part);
            continue;
        }
        let mut trial = Plan {
            temps: done.temps.clone(),
            parts: Vec::new(),
        };
        // A rewrite that yields the very same question would never end.
        let smaller = decompose(&part, &mut trial).is_some()
            && trial.parts.iter().all(|p| question(p) != asked);
        if !smaller {
            return Err(Box::new(asked));
        }
        done.temps = trial.temps;
        todo.extend(trial.parts.into_iter().rev());
    }
    Ok(done)
}
