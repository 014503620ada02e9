//! Errors and refusals.

use crate::{element::Element, layout::LayoutError, op::OpKind};
use std::{borrow::Cow, fmt};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, by what the caller can do about it.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device has no way to run the op; `refusal` says why, and a larger
    /// [`Fallback`](crate::Fallback) may help.
    #[error("{backend} cannot run {}: {refusal}{}", op.map_or("this call".to_owned(), |o| o.to_string()), way_out(backend, *op, refusal))]
    Unsupported {
        /// Name of the backend.
        backend: Cow<'static, str>,
        /// The op, if it is one op's refusal.
        op: Option<OpKind>,
        /// The reason.
        refusal: Refusal,
    },
    /// The caller's arguments do not fit together.
    #[error("{op}: {arg}: {why}")]
    InvalidOp {
        /// The op.
        op: OpKind,
        /// The operand or attribute at fault.
        arg: &'static str,
        /// What is wrong and what is expected.
        why: Cow<'static, str>,
    },
    /// A shape, view or host slice that does not fit.
    #[error("invalid tensor: {0}")]
    InvalidTensor(Cow<'static, str>),
    /// Memory is full now; freeing tensors may help.
    #[error("out of device memory: {asked} bytes asked{}", free.map_or(String::new(), |f| format!(", {f} free")))]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes free, where the device tells.
        free: Option<u64>,
    },
    /// Never fits on this device.
    #[error("{what} of {asked} is above this device's limit of {max}")]
    TooLarge {
        /// Which limit.
        what: &'static str,
        /// Amount asked for.
        asked: u64,
        /// The limit.
        max: u64,
    },
    /// The backend has no device here (no driver, no adapter, feature not compiled in).
    #[error("{backend} is not available: {why}")]
    NotAvailable {
        /// Name of the backend.
        backend: Cow<'static, str>,
        /// What is missing and what to do.
        why: Cow<'static, str>,
    },
    /// The device is gone; everything on it is lost.
    #[error("device lost: {why}")]
    DeviceLost {
        /// What the driver said.
        why: String,
    },
    /// The call would have to block where blocking is impossible (the browser's main thread).
    #[error("this call would block, which this device cannot do; await the async form")]
    WouldBlock,
    /// A selection string or environment variable that names nothing.
    #[error("{0}")]
    Selection(String),
    /// A file that cannot be read or written, or does not hold what it should.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A failure inside a backend; the driver's own error is the source.
    #[error("{backend}: {source}")]
    Backend {
        /// Name of the backend.
        backend: Cow<'static, str>,
        /// The underlying error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// [`Error::InvalidOp`].
    pub fn invalid(op: OpKind, arg: &'static str, why: impl Into<Cow<'static, str>>) -> Self {
        Error::InvalidOp {
            op,
            arg,
            why: why.into(),
        }
    }

    /// A whole feature (not an op) that a backend lacks.
    pub fn unsupported(backend: impl Into<Cow<'static, str>>, feature: &'static str) -> Self {
        Error::Unsupported {
            backend: backend.into(),
            op: None,
            refusal: Refusal::Feature(feature),
        }
    }

    /// [`Error::NotAvailable`].
    pub fn not_available(
        backend: impl Into<Cow<'static, str>>,
        why: impl Into<Cow<'static, str>>,
    ) -> Self {
        Error::NotAvailable {
            backend: backend.into(),
            why: why.into(),
        }
    }

    /// [`Error::Backend`].
    pub fn backend(
        backend: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Error::Backend {
            backend: backend.into(),
            source: source.into(),
        }
    }
}

/// What the caller of an op that is refused can do instead.
fn way_out(backend: &str, op: Option<OpKind>, refusal: &Refusal) -> &'static str {
    match (op, refusal) {
        (None, _) => "",
        (Some(OpKind::Custom), _) => "; only a backend that knows its name runs it",
        (_, Refusal::Kernel(_)) => "; `gristmill devices --kernels` lists the kernels of each op",
        (_, Refusal::Precision) => "; accept a lower precision",
        _ if backend == "cpu" || cfg!(not(feature = "cpu")) => "",
        _ => "; Fallback::Host (--fallback host) runs it on the CPU",
    }
}

impl From<LayoutError> for Error {
    fn from(e: LayoutError) -> Self {
        Error::InvalidTensor(e.to_string().into())
    }
}

/// Why a kernel, or a whole device, does not take an op.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no kernel for this op.
    Op,
    /// An operand's element type.
    Element {
        /// The operand.
        arg: &'static str,
        /// Its element type.
        element: Element,
    },
    /// An operand's shape or strides.
    Layout {
        /// The operand.
        arg: &'static str,
        /// What is needed.
        why: &'static str,
    },
    /// A limit of the device or the kernel.
    Limit {
        /// Which limit.
        what: &'static str,
        /// Amount asked for.
        asked: u64,
        /// The limit.
        max: u64,
    },
    /// An argument, instruction set or device feature that is missing.
    Feature(&'static str),
    /// The precision that the caller demands is above what the kernel computes in.
    Precision,
    /// A forced kernel name that matches none of the op's kernels.
    Kernel(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Op => write!(f, "no kernel for this op"),
            Refusal::Element { arg, element } => write!(f, "no kernel takes {arg} as {element}"),
            Refusal::Layout { arg, why } => write!(f, "{arg}: {why}"),
            Refusal::Limit { what, asked, max } => {
                write!(f, "{what} is {asked}, the limit is {max}")
            }
            Refusal::Feature(what) => write!(f, "{what} is not supported"),
            Refusal::Precision => write!(f, "the precision asked for is above this kernel's"),
            Refusal::Kernel(name) => write!(f, "no kernel of this op matches {name:?}"),
        }
    }
}
