//! The device: what the processor is, its memory and its kernels.

use super::{
    isa::Isa,
    matmul,
    memory::Memory,
    pool::{Pool, Threads},
    rows::{self, Ctx, Env},
    stream::CpuStream,
};
use crate::{
    backend,
    device::{
        Caps, Device, DeviceId, DeviceInfo, DeviceKind, External, KernelId, Limits, OpenOptions,
        Packed, RawBuffer, Stream, Support, Usage,
    },
    error::{Error, Result},
    layout::TensorDesc,
    op::{Op, OpKind},
};
use std::{any::Any, sync::Arc};

#[derive(Debug)]
pub(crate) struct CpuDevice {
    info: DeviceInfo,
    env: Env,
    threads: Threads,
}

impl CpuDevice {
    pub fn open(isa: Isa, options: &OpenOptions) -> Result<Self> {
        let threads = Pool::open(options.threads)?;
        Ok(CpuDevice {
            info: info(isa),
            env: Env { isa },
            threads,
        })
    }

    fn ctx(&self) -> Ctx {
        Ctx {
            env: self.env,
            pool: Pool::new(self.threads.clone()),
        }
    }
}

/// What the processor is.
pub(crate) fn info(isa: Isa) -> DeviceInfo {
    let mut info = DeviceInfo::new(
        DeviceId::new("cpu", 0),
        name(),
        DeviceKind::Cpu,
        Limits::new(isize::MAX as u64 / 2),
        Caps::BLOCKING
            .with_unified_memory()
            .with_import()
            .with_capture(),
    );
    info.memory = memory();
    info.features = isa.words();
    info
}

/// The processor's name.
fn name() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        // The brand string: three leaves of 16 characters each, where the processor has them.
        use std::arch::x86_64::__cpuid;
        #[allow(
            unused_unsafe,
            reason = "safe since some version of the standard library"
        )]
        // SAFETY: every x86-64 processor has the instruction.
        let leaf = |n| unsafe { __cpuid(n) };
        if leaf(0x8000_0000).eax >= 0x8000_0004 {
            let mut brand = Vec::with_capacity(48);
            for n in 0x8000_0002..=0x8000_0004 {
                let r = leaf(n);
                for word in [r.eax, r.ebx, r.ecx, r.edx] {
                    brand.extend_from_slice(&word.to_le_bytes());
                }
            }
            let end = brand.iter().position(|&b| b == 0).unwrap_or(brand.len());
            let brand = String::from_utf8_lossy(&brand[..end]).trim().to_owned();
            if !brand.is_empty() {
                return brand;
            }
        }
    }
    let model = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| matches!(key.trim(), "model name" | "Hardware" | "Model"))
                .map(|(_, value)| value.trim().to_owned())
        });
    model.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Free and total bytes, where the system tells (Linux).
pub(crate) fn memory() -> Option<(u64, u64)> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = rest
            .trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        kib.checked_mul(1024)
    };
    Some((field("MemAvailable")?, field("MemTotal")?))
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, bytes: u64, usage: Usage) -> Result<Arc<dyn RawBuffer>> {
        let max = self.info.limits.max_buffer;
        if bytes > max {
            return Err(Error::TooLarge {
                what: "buffer",
                asked: bytes,
                max,
            });
        }
        let memory = match usage {
            Usage::Weights | Usage::KvCache => Memory::lasting(bytes)?,
            Usage::Activations | Usage::Staging => Memory::zeros(bytes)?,
        };
        Ok(Arc::new(memory))
    }

    fn supports(&self, op: &Op<TensorDesc>) -> Support {
        backend::supports(rows::all(), &self.env, op)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(CpuStream::new(self.ctx())))
    }

    fn kernels(&self, op: &Op<TensorDesc>) -> Vec<KernelId> {
        backend::fitting(rows::all(), &self.env, op)
            .map(|(row, _)| row.id)
            .collect()
    }

    fn all_kernels(&self) -> Vec<(OpKind, KernelId)> {
        rows::all().map(|row| (row.op, row.id)).collect()
    }

    fn prepack(&self, w: &TensorDesc, host: &[u8]) -> Result<Option<Packed>> {
        if !w.is_contiguous() || host.len() as u64 != w.span_bytes() {
            return Err(Error::InvalidTensor(
                format!(
                    "{w} takes {} contiguous bytes, the host slice has {}",
                    w.span_bytes(),
                    host.len()
                )
                .into(),
            ));
        }
        matmul::prepack(&self.ctx(), w, host)
    }

    fn import(&self, external: External) -> Result<Arc<dyn RawBuffer>> {
        match external {
            External::Host { keep } => Ok(Arc::new(Memory::import(keep)?)),
            External::Native(_) => Err(Error::unsupported(
                "cpu",
                "importing anything but host bytes",
            )),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
