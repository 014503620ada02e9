//! The contract that a backend implements: [`Backend`], [`Device`], [`Stream`], [`RawBuffer`].
//!
//! A port has content in five functions: `alloc`, `write`, `read`, `supports` and `encode`.
//! Everything reaches a backend through [`Queue`](crate::Queue), which has validated it.

use crate::{
    error::{Error, Refusal, Result},
    layout::TensorDesc,
    op::{Op, OpKind, PackTag},
    tensor::{Buffer, Tensor},
};
use std::{
    any::Any, borrow::Cow, fmt, future::Future, ops::Range, pin::Pin, str::FromStr, sync::Arc,
};

/// `Send` where threads exist (everywhere but wasm32).
#[cfg(not(target_arch = "wasm32"))]
pub trait MaybeSend: Send {}
#[cfg(not(target_arch = "wasm32"))]
impl<T: Send + ?Sized> MaybeSend for T {}
/// `Send` where threads exist (everywhere but wasm32).
#[cfg(target_arch = "wasm32")]
pub trait MaybeSend {}
#[cfg(target_arch = "wasm32")]
impl<T: ?Sized> MaybeSend for T {}

/// `Sync` where threads exist (everywhere but wasm32).
#[cfg(not(target_arch = "wasm32"))]
pub trait MaybeSync: Sync {}
#[cfg(not(target_arch = "wasm32"))]
impl<T: Sync + ?Sized> MaybeSync for T {}
/// `Sync` where threads exist (everywhere but wasm32).
#[cfg(target_arch = "wasm32")]
pub trait MaybeSync {}
#[cfg(target_arch = "wasm32")]
impl<T: ?Sized> MaybeSync for T {}

/// A boxed future, `Send` where threads exist.
#[cfg(not(target_arch = "wasm32"))]
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// A boxed future, `Send` where threads exist.
#[cfg(target_arch = "wasm32")]
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Which device: `cpu:0`, `cuda:1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId {
    /// Name of the backend.
    pub backend: Cow<'static, str>,
    /// Number within the backend.
    pub index: u32,
}

impl DeviceId {
    /// Device `index` of `backend`.
    pub fn new(backend: impl Into<Cow<'static, str>>, index: u32) -> Self {
        DeviceId {
            backend: backend.into(),
            index,
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.backend, self.index)
    }
}

impl FromStr for DeviceId {
    type Err = Error;
    /// `cuda:1`, or `cuda` for its device 0.
    fn from_str(s: &str) -> Result<Self> {
        let (backend, index) = s.split_once(':').unwrap_or((s, "0"));
        let index = index.parse().map_err(|_| {
            Error::Selection(format!(
                "device {s:?}: expected a backend and a number, such as cuda:0"
            ))
        })?;
        if backend.is_empty() {
            return Err(Error::Selection(format!(
                "device {s:?}: expected a backend name, such as cpu or wgpu:0"
            )));
        }
        Ok(DeviceId::new(backend.to_owned(), index))
    }
}

/// What kind of hardware a device is, worst first; [`Select::Best`](crate::Select) takes the
/// greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// A GPU interface emulated on the CPU (lavapipe, SwiftShader, WARP).
    SoftwareGpu,
    /// The host's processor.
    Cpu,
    /// A GPU that shares the host's memory.
    IntegratedGpu,
    /// Another accelerator.
    Accelerator,
    /// A GPU with memory of its own.
    DiscreteGpu,
}

/// Hard limits of a device, in bytes.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest buffer.
    pub max_buffer: u64,
    /// Largest part of a buffer that one kernel can see at once.
    pub max_binding: u64,
}

impl Limits {
    /// Limits with `max_binding` equal to `max_buffer`.
    pub const fn new(max_buffer: u64) -> Self {
        Limits {
            max_buffer,
            max_binding: max_buffer,
        }
    }

    /// Sets [`Limits::max_binding`].
    #[must_use]
    pub const fn with_max_binding(mut self, bytes: u64) -> Self {
        self.max_binding = bytes;
        self
    }
}

/// Optional abilities of a device.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// `wait` and blocking reads work (false on the browser's main thread).
    pub can_block: bool,
    /// Device memory is host memory.
    pub unified_memory: bool,
    /// Steps can be captured and replayed.
    pub capture: bool,
    /// [`Device::import`] takes something.
    pub import: bool,
}

impl Caps {
    /// Caps of an ordinary native device: it can block.
    pub const BLOCKING: Caps = Caps {
        can_block: true,
        unified_memory: false,
        capture: false,
        import: false,
    };

    /// Sets [`Caps::unified_memory`].
    #[must_use]
    pub const fn with_unified_memory(mut self) -> Self {
        self.unified_memory = true;
        self
    }

    /// Sets [`Caps::import`].
    #[must_use]
    pub const fn with_import(mut self) -> Self {
        self.import = true;
        self
    }

    /// Sets [`Caps::capture`].
    #[must_use]
    pub const fn with_capture(mut self) -> Self {
        self.capture = true;
        self
    }
}

/// What a device is.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// Which device.
    pub id: DeviceId,
    /// Name for people.
    pub name: String,
    /// Kind of hardware.
    pub kind: DeviceKind,
    /// Free and total bytes of memory, where the device tells.
    pub memory: Option<(u64, u64)>,
    /// Instruction sets, shader features, driver version: words for people and logs.
    pub features: Vec<String>,
    /// Hard limits.
    pub limits: Limits,
    /// Optional abilities.
    pub caps: Caps,
}

impl DeviceInfo {
    /// A device without memory report and features.
    pub fn new(
        id: DeviceId,
        name: impl Into<String>,
        kind: DeviceKind,
        limits: Limits,
        caps: Caps,
    ) -> Self {
        DeviceInfo {
            id,
            name: name.into(),
            kind,
            memory: None,
            features: Vec::new(),
            limits,
            caps,
        }
    }
}

/// How good a native kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    /// Works; an emulation or a conversion in between.
    Slow,
    /// Written for any hardware of this backend.
    Portable,
    /// Written for this hardware.
    Tuned,
}

/// Answer to "could you run this op?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// Yes; `encode` will accept it.
    Native(Quality),
    /// No, and why.
    No(Refusal),
}

/// Name of a kernel, unique within its backend: `cpu-matmul-q4_k-avx512vnni`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelId(pub &'static str);

impl fmt::Display for KernelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What a buffer is for; a backend may place it accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// Written once, read often.
    Weights,
    /// Grown row by row, read often.
    KvCache,
    /// Intermediate values.
    Activations,
    /// Copied to and from the host often.
    Staging,
}

/// Options of [`Backend::open`].
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// CPU threads; default: the rayon pool's, which honours `RAYON_NUM_THREADS`.
    pub threads: Option<usize>,
}

/// Weights in a layout of a device's own.
#[derive(Clone)]
pub struct Packed {
    /// The bytes, which a device that imports host memory adopts without a copy.
    pub data: Arc<dyn AsRef<[u8]> + Send + Sync>,
    /// Names the layout.
    pub tag: PackTag,
}

impl Packed {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        (*self.data).as_ref()
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed")
            .field("bytes", &self.bytes().len())
            .field("tag", &self.tag)
            .finish()
    }
}

/// Memory from outside, for [`Device::import`].
#[non_exhaustive]
pub enum External {
    /// Host bytes (a memory-mapped file) that stay unchanged while `keep` lives.
    Host {
        /// Keeps the bytes alive and readable.
        keep: Arc<dyn AsRef<[u8]> + Send + Sync>,
    },
    /// An object of the backend's own API (a `wgpu::Buffer`, a raw CUDA allocation).
    Native(Box<dyn Any + Send + Sync>),
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            External::Host { .. } => "External::Host",
            External::Native(_) => "External::Native",
        })
    }
}

/// Names a submission; [`Stream::wait`] returns once everything up to it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A kind of hardware, and how to find and open it.
pub trait Backend: fmt::Debug + MaybeSend + MaybeSync + 'static {
    /// Short lower-case name: `cuda`.
    fn name(&self) -> &'static str;

    /// The devices of this machine. Never panics, whatever is or is not installed.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] with what is missing and what to do.
    fn probe(&self) -> BoxFuture<'_, Result<Vec<DeviceInfo>>>;

    /// Opens a device.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] when there is no such device.
    fn open<'a>(
        &'a self,
        id: &'a DeviceId,
        options: &'a OpenOptions,
    ) -> BoxFuture<'a, Result<Arc<dyn Device>>>;
}

/// An open device: memory, kernels and streams.
pub trait Device: fmt::Debug + MaybeSend + MaybeSync + 'static {
    /// What the device is.
    fn info(&self) -> &DeviceInfo;

    /// A buffer of zeros. `bytes` may be 0. Kernels that read past the end of a tensor (wide loads
    /// of 18-byte blocks) are the backend's own matter: it pads what it allocates.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when memory is full now, [`Error::TooLarge`] when it never fits.
    fn alloc(&self, bytes: u64, usage: Usage) -> Result<Arc<dyn RawBuffer>>;

    /// Could this device run `op`? The same answer holds for [`Stream::encode`].
    fn supports(&self, op: &Op<TensorDesc>) -> Support;

    /// A new ordered stream of work.
    ///
    /// # Errors
    /// What the driver says.
    fn stream(&self) -> Result<Box<dyn Stream>>;

    /// Kernels that can run `op`, best first. May be empty for a backend without names.
    fn kernels(&self, _op: &Op<TensorDesc>) -> Vec<KernelId> {
        Vec::new()
    }

    /// Every kernel of the backend, whether or not this hardware can run it.
    fn all_kernels(&self) -> Vec<(OpKind, KernelId)> {
        Vec::new()
    }

    /// Rearranges weights (`host` holds the bytes of the contiguous tensor `w`) for this device's
    /// kernels. `None`: the plain layout is the best there is.
    ///
    /// # Errors
    /// [`Error::InvalidTensor`] when `host` does not hold `w`.
    fn prepack(&self, _w: &TensorDesc, _host: &[u8]) -> Result<Option<Packed>> {
        Ok(None)
    }

    /// Adopts memory from outside without a copy.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what the device cannot adopt.
    fn import(&self, _external: External) -> Result<Arc<dyn RawBuffer>> {
        Err(Error::unsupported(
            self.info().id.backend.clone(),
            "importing memory",
        ))
    }

    /// For downcasts to the backend's own type.
    fn as_any(&self) -> &dyn Any;
}

/// Memory of a device.
pub trait RawBuffer: fmt::Debug + MaybeSend + MaybeSync + 'static {
    /// Size in bytes.
    fn len(&self) -> u64;

    /// True when the size is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For downcasts to the backend's own type.
    fn as_any(&self) -> &dyn Any;
}

/// An ordered queue of work on one device: what is encoded later sees what was encoded before.
pub trait Stream: MaybeSend {
    /// Copies `data` into `dst` from byte `offset` on, after all earlier work.
    ///
    /// # Errors
    /// What the driver says.
    fn write(&mut self, dst: &Buffer, offset: u64, data: &[u8]) -> Result<()>;

    /// Appends `op`, with the kernel of that name or the best one. May run at once or at
    /// [`Stream::submit`].
    ///
    /// # Errors
    /// What the driver says; [`Error::Unsupported`] for a kernel that does not take the op.
    ///
    /// # Safety
    /// `op` came through [`Queue::run`](crate::Queue::run): shapes, element types, bounds,
    /// alignment and overlap are checked, and the device supports it.
    unsafe fn encode(&mut self, op: &Op<Tensor>, kernel: Option<KernelId>) -> Result<()>;

    /// Starts everything encoded so far.
    ///
    /// # Errors
    /// What the driver says.
    fn submit(&mut self) -> Result<Ticket>;

    /// Bytes of `src` as they are after all earlier work; submits.
    fn read(&mut self, src: &Buffer, range: Range<u64>) -> BoxFuture<'static, Result<Vec<u8>>>;

    /// Blocks until `ticket` is done. Errors of the work itself surface here or at `read`.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] where blocking is impossible.
    fn wait(&mut self, _ticket: Ticket) -> Result<()> {
        Err(Error::WouldBlock)
    }

    /// Records what is encoded from now on instead of running it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without [`Caps::capture`].
    fn begin_capture(&mut self) -> Result<()> {
        Err(Error::unsupported("this device", "capturing a step"))
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without [`Caps::capture`].
    fn end_capture(&mut self) -> Result<Box<dyn Graph>> {
        Err(Error::unsupported("this device", "capturing a step"))
    }
}

/// A recorded step. It holds every buffer that it uses.
pub trait Graph: MaybeSend {
    /// Runs the step again on the stream that recorded it, with what its buffers hold now.
    ///
    /// # Errors
    /// What the driver says.
    fn replay(&self, on: &mut dyn Stream) -> Result<()>;
}
