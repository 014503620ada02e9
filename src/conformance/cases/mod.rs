//! The case list: plain loops, one file per op family.

mod attention;
mod bench;
mod conv;
mod copy;
mod elementwise;
mod epilogue;
mod grouped;
mod kv;
mod layouts;
mod matmul;
mod models;
mod norm;
mod rope;
mod rows;

use super::{
    case::{Case, Spec, Tier},
    fill::Fill,
};
use crate::{
    element::{DType, Element},
    layout::{LayoutError, TensorDesc},
    op::{Op, Precision},
    quant::QuantFormat,
};

/// Every case up to `tier`, each under a name of its own.
pub fn cases(tier: Tier) -> Vec<Case> {
    let mut list = List(Vec::new());
    matmul::add(&mut list);
    layouts::add(&mut list);
    epilogue::add(&mut list);
    grouped::add(&mut list);
    attention::add(&mut list);
    kv::add(&mut list);
    elementwise::add(&mut list);
    norm::add(&mut list);
    rope::add(&mut list);
    rows::add(&mut list);
    copy::add(&mut list);
    conv::add(&mut list);
    models::add(&mut list);
    bench::add(&mut list);
    list.0.retain(|c| c.tier <= tier);
    list.0
}

/// Collects cases.
struct List(Vec<Case>);

impl List {
    fn smoke(&mut self, name: impl Into<String>, op: impl Into<Op<Spec>>) {
        self.0.push(Case::new(name, op).tier(Tier::Smoke));
    }

    fn full(&mut self, name: impl Into<String>, op: impl Into<Op<Spec>>) {
        self.0.push(Case::new(name, op));
    }

    fn soak(&mut self, name: impl Into<String>, op: impl Into<Op<Spec>>) {
        self.0.push(Case::new(name, op).tier(Tier::Soak));
    }

    /// Worth timing; verified in the soak tier.
    fn bench(&mut self, name: impl Into<String>, op: impl Into<Op<Spec>>) {
        self.0.push(Case::new(name, op).tier(Tier::Soak).bench());
    }
}

/// The float types of activations.
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The precisions that a caller may ask for, with their names.
const PRECISIONS: [(Precision, &str); 3] = [
    (Precision::F32, "exact"),
    (Precision::HALF, "half"),
    (Precision::Q8, "q8"),
];

/// A description; the lists hold only shapes that exist.
fn desc(element: impl Into<Element>, shape: &[u32]) -> TensorDesc {
    valid(TensorDesc::new(element, shape))
}

/// A description with strides in cells.
fn strided(element: impl Into<Element>, shape: &[u32], strides: &[i64]) -> TensorDesc {
    valid(TensorDesc::strided(element, shape, strides))
}

/// A contiguous tensor seen with its axes in another order.
fn permuted(element: impl Into<Element>, stored: &[u32], order: &[usize]) -> TensorDesc {
    valid(desc(element, stored).permuted(order))
}

/// Rows that lie `gap` cells further apart than they are long.
fn padded(element: impl Into<Element>, shape: &[u32], gap: i64) -> TensorDesc {
    let element = element.into();
    let mut strides = vec![1i64; shape.len()];
    let mut step = 1i64;
    for a in (0..shape.len()).rev() {
        strides[a] = step;
        step *= if a + 1 == shape.len() {
            i64::from(shape[a]) / element.block_len() as i64 + gap
        } else {
            i64::from(shape[a])
        };
    }
    strided(element, shape, &strides)
}

/// A shape that does not exist becomes rank 6 of nothing, which no op takes; a test holds every
/// case to the rules of its op.
fn valid(d: Result<TensorDesc, LayoutError>) -> TensorDesc {
    match d.or_else(|_| TensorDesc::new(DType::U8, &[0; 6])) {
        Ok(d) => d,
        Err(e) => unreachable!("six empty axes are a shape: {e}"),
    }
}

/// An operand of standard normal numbers.
fn normal(element: impl Into<Element>, shape: &[u32]) -> Spec {
    Spec::new(desc(element, shape), Fill::Normal(0.0, 1.0))
}

/// Standard normal numbers in any layout.
fn laid(d: TensorDesc) -> Spec {
    Spec::new(d, Fill::Normal(0.0, 1.0))
}

/// An operand that is only written.
fn output(element: impl Into<Element>, shape: &[u32]) -> Spec {
    normal(element, shape)
}

/// i32 numbers.
fn ints(shape: &[u32], fill: Fill) -> Spec {
    Spec::new(desc(DType::I32, shape), fill)
}

/// Where an operand that starts at `offset` of a shared buffer ends, aligned for any element.
fn after(offset: u64, d: &TensorDesc) -> u64 {
    (offset + d.span_bytes()).next_multiple_of(8)
}

/// K of at least `least` that is whole blocks of `e`.
fn depth(e: Element, least: u32) -> u32 {
    least.next_multiple_of(e.block_len() as u32)
}

/// `2x3x4`.
fn by(shape: &[u32]) -> String {
    let words: Vec<String> = shape.iter().map(u32::to_string).collect();
    words.join("x")
}

/// Every quantized format.
fn formats() -> impl Iterator<Item = (QuantFormat, String, u32)> {
    QuantFormat::ALL
        .iter()
        .map(|&q| (q, Element::Quant(q).name(), q.block_len() as u32))
}
