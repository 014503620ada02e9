//! The op set: one argument struct per op, generic over how operands are named.
//!
//! `Op<TensorDesc>` is the question ("could you?"), `Op<Tensor>` the order ("do it"). Shapes are
//! row-major and written `[.., M, K]`; `..` stands for any number of batch axes.
//!
//! Every float operand may be f32, f16 or bf16 unless an op says otherwise. Tensors of size zero
//! are legal: an op whose outputs are empty does nothing. An op that would reduce over an axis of
//! length zero is an error.

pub mod attention;
pub mod check;
pub mod conv;
pub mod copy;
pub mod custom;
pub mod decompose;
pub mod elementwise;
pub mod epilogue;
pub mod gather;
pub mod grouped_matmul;
pub mod kv_write;
pub mod matmul;
pub mod norm;
pub mod quantize;
pub mod reduce;
pub mod rope;
pub mod softmax;
pub mod topk;
pub mod weight;

pub use attention::{Attention, Kv, Scalar, Seqs};
pub use conv::{Conv2d, Upsample};
pub use copy::Copy;
pub use custom::Custom;
pub use elementwise::{Act, BinOp, Binary, Glu, Unary};
pub use epilogue::Epilogue;
pub use gather::GatherRows;
pub use grouped_matmul::{GroupedMatMul, Routing};
pub use kv_write::KvWrite;
pub use matmul::{MatMul, MatMulMany, Part};
pub use norm::{Norm, NormKind};
pub use quantize::{Dequantize, Quantize};
pub use reduce::{RedOp, Reduce};
pub use rope::{Rope, RopeKind};
pub use softmax::Softmax;
pub use topk::TopK;
pub use weight::{PackTag, Weight};

use crate::{error::Result, layout::TensorDesc};
use std::{
    convert::Infallible,
    fmt,
    hash::{Hash, Hasher},
};

/// How an op uses an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Read only.
    In,
    /// Written in full, never read.
    Out,
    /// Read and written, or written in part (an accumulator, a KV cache).
    InOut,
}

impl Role {
    /// True for [`Role::Out`] and [`Role::InOut`].
    pub const fn writes(self) -> bool {
        !matches!(self, Role::In)
    }
}

/// Name and role of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arg {
    /// The field's name, as in error messages and captures.
    pub name: &'static str,
    /// How the op uses it.
    pub role: Role,
}

impl Arg {
    /// An input.
    pub const fn input(name: &'static str) -> Self {
        Arg {
            name,
            role: Role::In,
        }
    }

    /// An output.
    pub const fn output(name: &'static str) -> Self {
        Arg {
            name,
            role: Role::Out,
        }
    }

    /// Read and written.
    pub const fn inout(name: &'static str) -> Self {
        Arg {
            name,
            role: Role::InOut,
        }
    }
}

/// The argument struct of one op.
pub trait Arguments<T>: Sized {
    /// Which op this is.
    const KIND: OpKind;
    /// The same op over operands of another kind.
    type With<U>;

    /// Replaces every operand, in a fixed order, stopping at the first error.
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Self::With<U>, E>;
}

/// Shape rules and work counts of one op.
pub trait Rules {
    /// Checks element types, shapes and attributes.
    ///
    /// # Errors
    /// [`Error::InvalidOp`](crate::Error::InvalidOp) naming the operand and what it should be.
    fn check(&self) -> Result<()>;

    /// Arithmetic operations (a multiply-add counts two).
    fn flops(&self) -> u64;

    /// Bytes that must move at least once, where that is not simply every operand once.
    fn bytes(&self) -> Option<u64> {
        None
    }

    /// True when output `y` may be exactly the input `arg` (same buffer, offset and layout).
    fn in_place(&self, _arg: &'static str) -> bool {
        false
    }
}

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $snake:literal),* $(,)?) => {
        /// Any op. `T` is [`TensorDesc`] in questions and [`Tensor`](crate::Tensor) in orders.
        #[non_exhaustive]
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(tag = "op", rename_all = "snake_case"))]
        #[cfg_attr(feature = "serde", serde(bound = "T: serde::Serialize + for<'a> serde::Deserialize<'a>"))]
        pub enum Op<T> {
            $($(#[$doc])* $name($name<T>),)*
        }

        /// The name of an op.
        #[non_exhaustive]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum OpKind {
            $($(#[$doc])* $name,)*
        }

        impl OpKind {
            /// Every op.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$name),*];

            /// Name as in captures, case names and kernel tables, e.g. `gather_rows`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(OpKind::$name => $snake,)*
                }
            }
        }

        impl<T> Op<T> {
            /// Which op this is.
            pub const fn kind(&self) -> OpKind {
                match self {
                    $(Op::$name(_) => OpKind::$name,)*
                }
            }

            /// Replaces every operand, in a fixed order, stopping at the first error.
            ///
            /// # Errors
            /// The first error that `f` returns.
            pub fn try_map<'a, U, E>(&'a self,
                mut f: impl FnMut(Arg, &'a T) -> Result<U, E>,
            ) -> Result<Op<U>, E> {
                Ok(match self {
                    $(Op::$name(a) => Op::$name(a.try_map(&mut f)?),)*
                })
            }
        }

        impl Op<TensorDesc> {
            fn rules(&self) -> &dyn Rules {
                match self {
                    $(Op::$name(a) => a,)*
                }
            }
        }

        $(
            impl<T> From<$name<T>> for Op<T> {
                fn from(args: $name<T>) -> Self {
                    Op::$name(args)
                }
            }
        )*
    };
}

ops! {
    /// Matrix multiplication.
    MatMul = "mat_mul",
    /// Several weights that share one input.
    MatMulMany = "mat_mul_many",
    /// Mixture-of-experts matrix multiplication.
    GroupedMatMul = "grouped_mat_mul",
    /// Scaled dot-product attention.
    Attention = "attention",
    /// Quantized weights to floats.
    Dequantize = "dequantize",
    /// Floats to quantized blocks.
    Quantize = "quantize",
    /// Writes new keys and values into a cache.
    KvWrite = "kv_write",
    /// Rows of a table by id.
    GatherRows = "gather_rows",
    /// Rotary position embedding.
    Rope = "rope",
    /// RMS, layer, group and L2 norms.
    Norm = "norm",
    /// Softmax along the last axis.
    Softmax = "softmax",
    /// Elementwise function of one operand.
    Unary = "unary",
    /// Elementwise function of two operands.
    Binary = "binary",
    /// Gated linear unit.
    Glu = "glu",
    /// Reduction along one axis.
    Reduce = "reduce",
    /// Largest k along the last axis.
    TopK = "top_k",
    /// Strided, casting copy.
    Copy = "copy",
    /// Two-dimensional convolution.
    Conv2d = "conv2d",
    /// Nearest-neighbour upsampling.
    Upsample = "upsample",
    /// A third party's op.
    Custom = "custom",
}

impl fmt::Display for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl<T> Op<T> {
    /// Replaces every operand, in a fixed order.
    pub fn map<'a, U>(&'a self, mut f: impl FnMut(Arg, &'a T) -> U) -> Op<U> {
        match self.try_map(|a, t| Ok::<U, Infallible>(f(a, t))) {
            Ok(op) => op,
            Err(never) => match never {},
        }
    }

    /// Visits every operand, in the order of [`Op::map`].
    pub fn visit<'a>(&'a self, mut f: impl FnMut(Arg, &'a T)) {
        self.map(&mut f);
    }
}

impl<T: Clone> Op<T> {
    /// Operands in the order of [`Op::map`].
    pub fn operands(&self) -> Vec<(Arg, T)> {
        let mut all = Vec::new();
        self.visit(|a, t| all.push((a, t.clone())));
        all
    }
}

impl Op<TensorDesc> {
    /// Checks element types, shapes and attributes.
    ///
    /// # Errors
    /// [`Error::InvalidOp`](crate::Error::InvalidOp) naming the operand and what it should be.
    pub fn check(&self) -> Result<()> {
        self.rules().check()
    }

    /// Arithmetic operations of the op (a multiply-add counts two). Lengths that live on the
    /// device count at their maximum; causal masking counts the visible half.
    pub fn flops(&self) -> u64 {
        self.rules().flops()
    }

    /// Bytes that must move between memory and processor at least once.
    pub fn bytes(&self) -> u64 {
        self.rules().bytes().unwrap_or_else(|| {
            let mut sum = 0u64;
            self.visit(|arg, d| {
                let times = if arg.role == Role::InOut { 2 } else { 1 };
                sum = sum.saturating_add(times * d.data_bytes());
            });
            sum
        })
    }

    /// True when an output may be exactly the input `arg`.
    pub fn in_place(&self, arg: &'static str) -> bool {
        self.rules().in_place(arg)
    }

    /// True when the op has nothing to do because all that it writes is empty.
    pub fn is_noop(&self) -> bool {
        let (mut outputs, mut empty) = (0, 0);
        self.visit(|arg, d| {
            if arg.role.writes() {
                outputs += 1;
                empty += d.is_empty() as usize;
            }
        });
        outputs > 0 && outputs == empty
    }
}

// Attributes hold f32, whose NaN never passes `check`, so equality is total for every op that a
// queue looks up; the hash uses the operands alone.
impl Eq for Op<TensorDesc> {}

impl Hash for Op<TensorDesc> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind().hash(state);
        self.visit(|_, d| d.hash(state));
    }
}

/// How far activations may be rounded before they are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Activations {
    /// To 8-bit integers with one scale per block of 32 values or finer along K.
    Q8,
    /// To f16 or bf16, whichever the weights or the hardware use.
    Half,
    /// Not at all: used as they are stored.
    #[default]
    Exact,
}

/// The least precise accumulator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Accumulator {
    /// f16 within one tile of K, f32 between tiles.
    F16,
    /// f32 throughout.
    #[default]
    F32,
}

/// Least precise arithmetic that the caller accepts. A kernel may do better, never worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct Precision {
    /// Rounding of activations.
    pub activations: Activations,
    /// Accumulator.
    pub accumulator: Accumulator,
}

impl Precision {
    /// Activations as stored, f32 accumulation. The default.
    pub const F32: Precision = Precision {
        activations: Activations::Exact,
        accumulator: Accumulator::F32,
    };
    /// Activations may be rounded to f16 or bf16, f32 accumulation.
    pub const HALF: Precision = Precision {
        activations: Activations::Half,
        accumulator: Accumulator::F32,
    };
    /// Activations may be rounded to 8 bits, f32 accumulation of block sums. Kernels that round
    /// activations and quantized weights to bf16 instead stay within its error.
    pub const Q8: Precision = Precision {
        activations: Activations::Q8,
        accumulator: Accumulator::F32,
    };

    /// True when arithmetic of precision `offered` is acceptable to a caller who asks for `self`.
    pub fn accepts(self, offered: Precision) -> bool {
        offered.activations >= self.activations && offered.accumulator >= self.accumulator
    }
}

/// Folds an operand that is present through the mapper of [`Arguments::try_map`].
pub(crate) fn map_opt<'a, T, U, E>(
    arg: Arg,
    t: &'a Option<T>,
    f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
) -> Result<Option<U>, E> {
    t.as_ref().map(|t| f(arg, t)).transpose()
}
