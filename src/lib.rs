#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backend;
pub mod device;
pub mod element;
pub mod error;
pub mod layout;
pub mod op;
pub mod quant;
pub mod queue;
pub mod registry;
pub mod route;
pub mod tensor;

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "capture")]
pub mod capture;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "conformance")]
pub mod reference;

pub use device::{
    Backend, Caps, Device, DeviceId, DeviceInfo, DeviceKind, KernelId, Limits, OpenOptions,
    Quality, RawBuffer, Stream, Support, Usage,
};
pub use element::{DType, Element};
pub use error::{Error, Refusal, Result};
pub use layout::{LayoutError, MAX_RANK, TensorDesc};
pub use op::{
    Accumulator, Act, Activations, Attention, BinOp, Binary, Conv2d, Copy, Custom, Dequantize,
    Epilogue, GatherRows, Glu, GroupedMatMul, Kv, KvWrite, MatMul, MatMulMany, Norm, NormKind, Op,
    OpKind, PackTag, Part, Precision, Quantize, RedOp, Reduce, Rope, RopeKind, Routing, Scalar,
    Seqs, Softmax, TopK, Unary, Upsample, Weight,
};
pub use quant::QuantFormat;
pub use queue::Queue;
pub use registry::{Registry, Select};
pub use route::{Fallback, Route, RouteLog};
pub use tensor::{Buffer, HostElement, Tensor};

// `.ci/asan` runs these in the binary of the unit tests: the library is built once there.
#[cfg(all(test, gristmill_asan))]
extern crate self as gristmill;
#[cfg(all(test, gristmill_asan))]
#[path = "../tests/bad_input.rs"]
mod bad_input;
#[cfg(all(test, gristmill_asan))]
#[path = "../tests/conformance_cpu.rs"]
mod conformance_cpu;
#[cfg(all(test, gristmill_asan))]
#[path = "../tests/port_template.rs"]
mod port_template;
#[cfg(all(test, gristmill_asan))]
#[path = "../tests/properties.rs"]
mod properties;
