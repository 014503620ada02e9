//! The kernel table of this backend, and what its rows share.

use super::args::{Args, Launch};
use super::{copy, dequantize, elementwise, matmul};
use crate::{
    backend::Row,
    device::KernelId,
    element::{DType, Element},
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{Arguments, Op, OpKind},
    quant::QuantFormat,
};

/// What the choice of a kernel depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceEnv {
    /// Compute capability, 10 * major + minor.
    pub(crate) cc: u32,
    /// Streaming multiprocessors.
    pub(crate) sms: u32,
    /// Shared memory that one CTA can have, in bytes.
    pub(crate) shared: u32,
}

/// An operand on the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct View {
    /// Address of the first cell.
    pub(crate) address: u64,
    /// Element type, shape and strides.
    pub(crate) desc: TensorDesc,
}

/// Temporary memory of a stream, by what it holds; free again when the op's launches are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scratch {
    /// Activations in another type.
    X,
    /// Scales and sums of 8-bit activations.
    XInfo,
    /// Weights in another type.
    W,
    /// Weights moved to an aligned address.
    Moved,
}

/// Where launches go: a stream, or a list in tests.
pub(crate) trait Sink {
    /// The device.
    fn env(&self) -> DeviceEnv;
    /// Address of at least `bytes` bytes, aligned to 256; what they held before is lost.
    fn scratch(&mut self, of: Scratch, bytes: u64) -> Result<u64>;
    /// Queues a copy between device addresses that do not overlap.
    fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<()>;
    /// Queues a kernel. The row that calls it owes the kernel's contract: parameters by order and size, addresses in
    /// bounds for the sizes passed.
    fn launch(&mut self, kernel: &str, launch: Launch, args: Args) -> Result<()>;
}

/// Queues the launches of an op.
pub(crate) type Run = fn(&mut dyn Sink, &Op<View>) -> Result<()>;

const fn row(
    id: &'static str,
    op: OpKind,
    fits: fn(&DeviceEnv, &Op<TensorDesc>) -> Result<crate::Quality, Refusal>,
    run: Run,
) -> Row<DeviceEnv, Run> {
    Row {
        id: KernelId(id),
        op,
        fits,
        run,
    }
}

/// Every kernel, best first.
pub(crate) const ROWS: &[Row<DeviceEnv, Run>] = &[
    row(
        "cuda-matmul-gemv-q8",
        OpKind::MatMul,
        matmul::fits_gemv_q8,
        matmul::run_gemv_q8,
    ),
    row(
        "cuda-matmul-gemv-f32",
        OpKind::MatMul,
        matmul::fits_gemv_f32,
        matmul::run_gemv_f32,
    ),
    row(
        "cuda-matmul-mma",
        OpKind::MatMul,
        matmul::fits_mma,
        matmul::run_mma,
    ),
    row(
        "cuda-matmul-simt",
        OpKind::MatMul,
        matmul::fits_simt,
        matmul::run_simt,
    ),
    row(
        "cuda-matmul-many",
        OpKind::MatMulMany,
        matmul::fits_many,
        matmul::run_many,
    ),
    row(
        "cuda-dequantize",
        OpKind::Dequantize,
        dequantize::fits,
        dequantize::run,
    ),
    row(
        "cuda-copy-rows",
        OpKind::Copy,
        copy::fits_rows,
        copy::run_rows,
    ),
    row(
        "cuda-copy-strided",
        OpKind::Copy,
        copy::fits_strided,
        copy::run_strided,
    ),
    row(
        "cuda-unary",
        OpKind::Unary,
        elementwise::fits,
        elementwise::run,
    ),
    row(
        "cuda-binary",
        OpKind::Binary,
        elementwise::fits,
        elementwise::run,
    ),
    row("cuda-glu", OpKind::Glu, elementwise::fits, elementwise::run),
];

/// The same op as a question.
pub(super) fn question<A: Arguments<View>>(args: &A) -> A::With<TensorDesc> {
    match args.try_map(&mut |_, view: &View| Ok::<_, std::convert::Infallible>(view.desc)) {
        Ok(question) => question,
        Err(never) => match never {},
    }
}

/// The same, of any op.
pub(super) fn question_of(op: &Op<View>) -> Op<TensorDesc> {
    op.map(|_, view| view.desc)
}

/// A weight format that the kernels decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) quant: QuantFormat,
    /// Name inside kernel names.
    pub(super) name: &'static str,
    /// What the address of a row must be a multiple of.
    pub(super) align: u64,
}

/// Formats with a decoder in kernels/quant.cuh.
pub(super) const FORMATS: &[Format] = &[
    Format {
        quant: QuantFormat::Q4_0,
        name: "q4_0",
        align: 2,
    },
    Format {
        quant: QuantFormat::Q4_1,
        name: "q4_1",
        align: 4,
    },
    Format {
        quant: QuantFormat::Q5_0,
        name: "q5_0",
        align: 2,
    },
    Format {
        quant: QuantFormat::Q8_0,
        name: "q8_0",
        align: 2,
    },
    Format {
        quant: QuantFormat::Q4_K,
        name: "q4_k",
        align: 16,
    },
    Format {
        quant: QuantFormat::Q6_K,
        name: "q6_k",
        align: 2,
    },
];

/// The decoder of `desc`, which is the operand `arg`.
pub(super) fn format(arg: &'static str, desc: &TensorDesc) -> Result<Format, Refusal> {
    let found = match desc.element {
        Element::Quant(quant) => FORMATS.iter().find(|f| f.quant == quant),
        Element::Plain(_) => None,
    };
    found.copied().ok_or(Refusal::Element {
        arg,
        element: desc.element,
    })
}

/// f32, f16 or bf16: what the kernels read and write.
pub(super) fn float(arg: &'static str, desc: &TensorDesc) -> Result<DType, Refusal> {
    match desc.element {
        Element::Plain(d @ (DType::F32 | DType::F16 | DType::BF16)) => Ok(d),
        element => Err(Refusal::Element { arg, element }),
    }
}

/// Number of a float type in kernel parameters (GM_T_* of kernels/gm.cuh).
pub(super) fn type_code(d: DType) -> u32 {
    match d {
        DType::F16 => 1,
        DType::BF16 => 2,
        _ => 0,
    }
}

/// A stride of a view; views have none below 0.
pub(super) fn stride(cells: i64) -> u64 {
    cells.max(0) as u64
}

/// The refusal of an operand whose last axis is not contiguous.
pub(super) fn row_contiguous(arg: &'static str, desc: &TensorDesc) -> Result<(), Refusal> {
    if desc.is_row_contiguous() {
        Ok(())
    } else {
        Err(Refusal::Layout {
            arg,
            why: "the last axis must be contiguous",
        })
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! A sink that writes down what it is asked.
    use super::*;

    pub(in crate::backend::cuda) struct Recorder {
        pub(in crate::backend::cuda) env: DeviceEnv,
        pub(in crate::backend::cuda) launches: Vec<(String, Launch, Args)>,
        pub(in crate::backend::cuda) copies: Vec<(u64, u64, u64)>,
        pub(in crate::backend::cuda) scratch: Vec<(Scratch, u64)>,
    }

    pub(in crate::backend::cuda) fn env(cc: u32) -> DeviceEnv {
        let (sms, shared) = match cc {
            75 => (40, 64 << 10),
            80 => (108, 163 << 10),
            86 => (84, 99 << 10),
            90 => (132, 227 << 10),
            _ => (170, 99 << 10),
        };
        DeviceEnv { cc, sms, shared }
    }

    pub(in crate::backend::cuda) fn recorder(cc: u32) -> Recorder {
        Recorder {
            env: env(cc),
            launches: Vec::new(),
            copies: Vec::new(),
            scratch: Vec::new(),
        }
    }

    impl Sink for Recorder {
        fn env(&self) -> DeviceEnv {
            self.env
        }
        fn scratch(&mut self, of: Scratch, bytes: u64) -> Result<u64> {
            self.scratch.push((of, bytes));
            Ok(0x1_0000_0000 * (2 + of as u64))
        }
        fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<()> {
            self.copies.push((to, from, bytes));
            Ok(())
        }
        fn launch(&mut self, kernel: &str, launch: Launch, args: Args) -> Result<()> {
            let at = crate::backend::cuda::modules::index().get(kernel);
            assert!(at.is_some(), "no PTX holds {kernel}");
            assert_eq!(
                args.sizes(),
                parameter_sizes(kernel),
                "parameters of {kernel}"
            );
            assert!(
                launch.grid.iter().all(|&g| g > 0)
                    && launch.grid[1] < 65_536
                    && launch.grid[2] < 65_536,
                "{launch:?}"
            );
            assert!(
                launch.block > 0 && launch.block <= 1024 && launch.shared <= self.env.shared,
                "{launch:?}"
            );
            self.launches.push((kernel.to_owned(), launch, args));
            Ok(())
        }
    }

    /// Parameter sizes in bytes, from the PTX.
    pub(in crate::backend::cuda) fn parameter_sizes(kernel: &str) -> Vec<usize> {
        let at = crate::backend::cuda::modules::index()[kernel];
        let text = crate::backend::cuda::modules::SOURCES[at].text;
        let from = text.find(&format!(".entry {kernel}(")).unwrap();
        let list = &text[from..from + text[from..].find("\n)").unwrap()];
        list.lines()
            .filter_map(|l| l.trim().strip_prefix(".param .")?.split_whitespace().next())
            .map(|t| t[1..].parse::<usize>().unwrap() / 8)
            .collect()
    }

    pub(in crate::backend::cuda) fn view(
        element: impl Into<Element>,
        shape: &[u32],
        address: u64,
    ) -> View {
        View {
            address,
            desc: TensorDesc::new(element, shape).unwrap(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kernel_of_the_ptx_belongs_to_a_row_and_the_other_way_round() {
        let mut named = BTreeSet::new();
        matmul::kernel_names(&mut named);
        dequantize::kernel_names(&mut named);
        copy::kernel_names(&mut named);
        elementwise::kernel_names(&mut named);
        let present: BTreeSet<String> = crate::backend::cuda::modules::index()
            .keys()
            .map(|s| (*s).to_owned())
            .collect();
        assert_eq!(named, present);
    }

    #[test]
    fn row_names_are_unique() {
        let names: BTreeSet<_> = ROWS.iter().map(|r| r.id).collect();
        assert_eq!(names.len(), ROWS.len());
        assert!(ROWS.iter().all(|r| r.id.0.starts_with("cuda-")));
    }
}
