//! How each kernel is chosen and launched, a file per family of ops.

pub(crate) mod attention;
pub(crate) mod conv;
pub(crate) mod copy;
pub(crate) mod elementwise;
pub(crate) mod gather;
pub(crate) mod image;
pub(crate) mod kv_write;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod reduce;
pub(crate) mod rope;
pub(crate) mod softmax;
pub(crate) mod topk;
pub(crate) mod weights;

use super::{caps::Caps, device::BACKEND};
use crate::{
    device::Quality,
    element::{DType, Element},
    error::{Error, Refusal, Result},
    layout::TensorDesc,
    op::{Act, Op},
};

/// Invocations of a workgroup of the simple kernels; every WebGPU device has them.
const WG: u32 = 256;

/// Workgroups for `n` invocations.
fn groups(n: u64) -> u64 {
    n.div_ceil(u64::from(WG))
}

/// The legality that most kernels need: every operand can be bound and counted in 32 bits.
pub(crate) fn plain_fits(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    caps.binds_all(op)?;
    let mut most = 0;
    op.visit(|_, d| most = most.max(d.elements()));
    counted(most)?;
    Ok(Quality::Portable)
}

/// Indices are 32 bits wide.
fn counted(elements: u64) -> Result<(), Refusal> {
    let max = u64::from(u32::MAX) - u64::from(WG) * 8;
    if elements > max {
        return Err(Refusal::Limit {
            what: "elements",
            asked: elements,
            max,
        });
    }
    Ok(())
}

/// Number of an activation in `lib/act.wgsl`: its place in [`Act::ALL`].
fn act_number(act: Act) -> i64 {
    Act::ALL.iter().position(|&a| a == act).unwrap_or(0) as i64
}

/// The error of a kernel that was handed another op than its row says.
fn mismatch() -> Error {
    Error::backend(BACKEND, "a kernel was handed an op that is not its own")
}

/// True for the types that are stored two to a word.
fn is_half(d: &TensorDesc) -> bool {
    matches!(d.element, Element::Plain(DType::F16 | DType::BF16))
}

/// Binds the arguments of one op, or fails.
macro_rules! op_args {
    ($op:expr, $kind:ident) => {
        match $op {
            crate::op::Op::$kind(args) => args,
            _ => return Err(super::mismatch()),
        }
    };
}
use op_args;
