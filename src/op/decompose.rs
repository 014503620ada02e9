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
        self.temps
            .iter()
            .fold(0, |sum, t| sum.saturating_add(t.span_bytes()))
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
        Op::Conv2d(a) => small::conv2d(a, plan),
        Op::KvWrite(_)
        | Op::GroupedMatMul(_)
        | Op::Dequantize(_)
        | Op::Quantize(_)
        | Op::Rope(_)
        | Op::Softmax(_)
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
/// native nor reducible. An op with nothing to do has no parts.
///
/// # Errors
/// The question that nothing can answer.
pub fn plan(
    op: &Op<TensorDesc>,
    native: &mut dyn FnMut(&Op<TensorDesc>) -> bool,
) -> Result<Plan, Box<Op<TensorDesc>>> {
    let mut done = Plan::default();
    if op.is_noop() {
        return Ok(done);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        element::DType,
        op::{Act, Attention, GatherRows, Glu, MatMul, MatMulMany, Norm, OpKind, Part, Scalar},
        quant::QuantFormat,
    };

    fn f32s(shape: &[u32]) -> TensorDesc {
        TensorDesc::new(DType::F32, shape).unwrap()
    }

    /// Kinds of the parts when a device has just f32 row products without epilogue, and `extra`.
    fn kinds(op: impl Into<Op<TensorDesc>>, extra: &[OpKind]) -> Option<Vec<OpKind>> {
        let op = op.into();
        op.check().unwrap();
        let plain = plan(&op, &mut |q| match q {
            Op::MatMul(m) => {
                m.epilogue.is_identity()
                    && matches!(m.w, crate::Weight::Rows(w) if w.plain() == Some(DType::F32))
            }
            other => extra.contains(&other.kind()),
        });
        let plan = plain.ok()?;
        for part in &plan.parts {
            question(part).check().unwrap();
        }
        Some(plan.parts.iter().map(Op::kind).collect())
    }

    #[test]
    fn epilogues_and_formats_come_apart() {
        use OpKind::{Binary, Copy, Dequantize, MatMul as Mm, Unary};
        let (x, y) = (f32s(&[3, 256]), f32s(&[3, 8]));
        let w = TensorDesc::new(QuantFormat::Q4_K, &[8, 256]).unwrap();
        let all = [Binary, Copy, Dequantize, Unary];
        assert_eq!(
            kinds(MatMul::new(&x, &w, &y), &all).unwrap(),
            [Dequantize, Mm]
        );
        let op = MatMul::new(&x, &w, &y).bias(&f32s(&[8])).act(Act::Silu);
        assert_eq!(
            kinds(op, &all).unwrap(),
            [Dequantize, Mm, Binary, Unary, Copy]
        );
        let many = MatMulMany::new(&x, [Part::new(&w, &y), Part::new(&w, &y)]);
        assert_eq!(kinds(many, &all).unwrap(), [Dequantize, Mm, Dequantize, Mm]);
        assert_eq!(kinds(MatMul::new(&x, &w, &y), &[]), None);
    }

    #[test]
    fn attention_rows_see_their_own_keys() {
        use OpKind::{Copy, MatMul as Mm, Softmax, Unary};
        let (q, k) = (f32s(&[2, 4, 3, 8]), f32s(&[2, 2, 9, 8]));
        let op = Attention::dense(&q, &k, &k, 7, 0.5, &q);
        let all = [Copy, Softmax, Unary];
        assert_eq!(
            kinds(op.clone(), &all).unwrap(),
            [Mm, Unary, Copy, Softmax, Copy, Mm]
        );
        assert_eq!(kinds(op.clone().causal(), &all).unwrap().len(), 3 * 6);
        let device_len = Scalar::Device(TensorDesc::new(DType::I32, &[1]).unwrap());
        assert_eq!(
            kinds(Attention::dense(&q, &k, &k, device_len, 0.5, &q), &all),
            None
        );
    }

    #[test]
    fn small_ops_come_apart() {
        use OpKind::{Binary, Copy, Dequantize, Reduce, Unary};
        let x = f32s(&[2, 6, 5]);
        let all = [Binary, Copy, Reduce, Unary];
        assert!(kinds(Norm::rms(&x, &f32s(&[5]), 1e-5, &x), &all).is_some());
        assert!(kinds(Norm::group(3, &x, &f32s(&[6]), 1e-5, &x), &all).is_some());
        assert_eq!(
            kinds(Glu::new(Act::Silu, &x, &x, &x), &all).unwrap(),
            [Unary, Binary]
        );
        let table = TensorDesc::new(QuantFormat::Q8_0, &[10, 32]).unwrap();
        let ids = TensorDesc::new(DType::I32, &[4]).unwrap();
        let gather = GatherRows::new(&table, &ids, &f32s(&[4, 32]));
        // The gather of f32 rows itself is not on this device.
        assert_eq!(kinds(gather, &[Dequantize]), None);
    }
}
