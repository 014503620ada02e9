//! The NVIDIA driver API, as far as this backend calls it: the only module that names cudarc.
//!
//! cudarc supplies the types, the constants and, at compile time, the signatures: each entry of the table below is
//! checked against cudarc's binding of the same name. The calls go through function pointers of our own that return
//! `i32`, because cudarc's return a Rust enum: a code that a newer driver invented would be undefined behaviour, and a
//! missing library or symbol a panic, even inside `Drop`.

use std::ffi::{CStr, CString, c_char, c_int, c_uchar, c_uint, c_void};
use std::fmt;
use std::sync::Arc;

use super::args::{Args, Launch};
use super::error::{CudaError, code};
use cudarc::driver::sys;
pub(crate) use cudarc::driver::sys::CUdevice_attribute as Attribute;
use sys::{CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUmodule, CUstream};

/// Declares the driver functions: the table of pointers, the list of names, the loader, the signature check.
macro_rules! driver_api {
    ($($name:ident($($arg:ty),*);)*) => {
        /// One raw pointer per driver function; the library they come from is never unloaded.
        #[allow(non_snake_case)]
        pub(crate) struct Api {
            $($name: unsafe extern "C" fn($($arg),*) -> c_int,)*
        }

        /// Every symbol that must exist before the backend touches the driver.
        #[cfg(test)]
        pub(crate) const NEEDED: &[&str] = &[$(stringify!($name)),*];

        $(const _: unsafe fn($($arg),*) -> sys::CUresult = sys::$name;)*

        impl Api {
            /// All pointers, or the name of the first function that `library` lacks.
            pub(crate) fn load(library: &'static libloading::Library) -> Result<Api, &'static str> {
                Ok(Api {
                    $($name: {
                        // SAFETY: the signature is the one cudarc binds (checked above), with the result as the plain
                        // integer that it is in C; the library is never unloaded.
                        *unsafe { library.get::<unsafe extern "C" fn($($arg),*) -> c_int>(stringify!($name).as_bytes()) }
                            .map_err(|_| stringify!($name))?
                    },)*
                })
            }
        }
    };
}

driver_api! {
    cuInit(c_uint);
    cuDriverGetVersion(*mut c_int);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut CUdevice, c_int);
    cuDeviceGetName(*mut c_char, c_int, CUdevice);
    cuDeviceGetAttribute(*mut c_int, Attribute, CUdevice);
    cuDeviceTotalMem_v2(*mut usize, CUdevice);
    cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    cuDevicePrimaryCtxRelease_v2(CUdevice);
    cuCtxSetCurrent(CUcontext);
    cuCtxSynchronize();
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemAlloc_v2(*mut CUdeviceptr, usize);
    cuMemFree_v2(CUdeviceptr);
    cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
    cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
    cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream);
    cuMemsetD8Async(CUdeviceptr, c_uchar, usize, CUstream);
    cuStreamCreate(*mut CUstream, c_uint);
    cuStreamDestroy_v2(CUstream);
    cuStreamSynchronize(CUstream);
    cuEventCreate(*mut CUevent, c_uint);
    cuEventRecord(CUevent, CUstream);
    cuEventQuery(CUevent);
    cuEventSynchronize(CUevent);
    cuEventDestroy_v2(CUevent);
    cuModuleLoadDataEx(*mut CUmodule, *const c_void, c_uint, *mut sys::CUjit_option, *mut *mut c_void);
    cuModuleUnload(CUmodule);
    cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
    cuFuncGetAttribute(*mut c_int, sys::CUfunction_attribute, CUfunction);
    cuFuncSetAttribute(CUfunction, sys::CUfunction_attribute, c_int);
    cuLaunchKernel(CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void, *mut *mut c_void);
}

/// Calls a function of an [`Api`] and turns its code into a result. For use inside this module, whose wrappers keep
/// the driver's contract: handles are live (each wrapper owns its own and keeps what it belongs to alive), the context
/// is current (`bind`), pointers are to locals that outlive the call, and device ranges are what the caller of an
/// `unsafe fn` promises.
macro_rules! call {
    ($api:expr, $name:ident($($arg:expr),* $(,)?)) => {
        // SAFETY: the pointer is the driver's function of that name; the module keeps the contract stated above.
        check(stringify!($name), unsafe { ($api.$name)($($arg),*) })
    };
}

fn check(call: &'static str, code: c_int) -> Result<(), CudaError> {
    if code == 0 {
        Ok(())
    } else {
        Err(CudaError {
            call,
            code,
            log: None,
        })
    }
}

impl Api {
    /// `cuInit`.
    pub(crate) fn init(&self) -> Result<(), CudaError> {
        call!(self, cuInit(0))
    }

    /// Newest CUDA version the driver supports, 1000 * major + 10 * minor.
    pub(crate) fn version(&self) -> Result<i32, CudaError> {
        let mut version = 0;
        call!(self, cuDriverGetVersion(&mut version))?;
        Ok(version)
    }

    /// Number of devices.
    pub(crate) fn device_count(&self) -> Result<i32, CudaError> {
        let mut count = 0;
        call!(self, cuDeviceGetCount(&mut count))?;
        Ok(count)
    }

    /// Handle of device `ordinal`.
    pub(crate) fn device(&self, ordinal: i32) -> Result<CUdevice, CudaError> {
        let mut device = 0;
        call!(self, cuDeviceGet(&mut device, ordinal))?;
        Ok(device)
    }

    /// Name of a device.
    pub(crate) fn device_name(&self, device: CUdevice) -> Result<String, CudaError> {
        let mut name = [0u8; 256];
        // The buffer is longer than the length passed, so it ends in a zero whatever the driver writes.
        call!(self, cuDeviceGetName(name.as_mut_ptr().cast(), 255, device))?;
        Ok(CStr::from_bytes_until_nul(&name)
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default())
    }

    /// An integer property of a device.
    pub(crate) fn attribute(
        &self,
        device: CUdevice,
        attribute: Attribute,
    ) -> Result<i32, CudaError> {
        let mut value = 0;
        call!(self, cuDeviceGetAttribute(&mut value, attribute, device))?;
        Ok(value)
    }

    /// Memory of a device in bytes.
    pub(crate) fn total_memory(&self, device: CUdevice) -> Result<u64, CudaError> {
        let mut bytes = 0usize;
        call!(self, cuDeviceTotalMem_v2(&mut bytes, device))?;
        Ok(bytes as u64)
    }
}

/// The primary context of one device.
pub(crate) struct Context {
    api: &'static Api,
    raw: CUcontext,
    device: CUdevice,
}

// SAFETY: a context may be current in any number of threads; every call makes it current in its own first.
unsafe impl Send for Context {}
// SAFETY: as above; the driver locks internally.
unsafe impl Sync for Context {}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("device", &self.device)
            .finish()
    }
}

impl Context {
    /// Retains the primary context of a device.
    pub(crate) fn new(api: &'static Api, device: CUdevice) -> Result<Arc<Context>, CudaError> {
        let mut raw = std::ptr::null_mut();
        call!(api, cuDevicePrimaryCtxRetain(&mut raw, device))?;
        Ok(Arc::new(Context { api, raw, device }))
    }

    fn bind(&self) -> Result<&'static Api, CudaError> {
        call!(self.api, cuCtxSetCurrent(self.raw))?;
        Ok(self.api)
    }

    /// Free and total device memory in bytes.
    pub(crate) fn memory(&self) -> Result<(u64, u64), CudaError> {
        let api = self.bind()?;
        let (mut free, mut total) = (0usize, 0usize);
        call!(api, cuMemGetInfo_v2(&mut free, &mut total))?;
        Ok((free as u64, total as u64))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Nothing can be done about a failure here.
        let _ = call!(self.api, cuDevicePrimaryCtxRelease_v2(self.device));
    }
}

/// Device memory, freed on drop.
#[derive(Debug)]
pub(crate) struct Memory {
    context: Arc<Context>,
    ptr: CUdeviceptr,
    len: usize,
}

impl Memory {
    /// Uninitialized memory; the driver aligns it to 256 bytes.
    pub(crate) fn new(context: &Arc<Context>, len: usize) -> Result<Memory, CudaError> {
        let api = context.bind()?;
        let mut ptr = 0;
        // The driver refuses 0 bytes.
        call!(api, cuMemAlloc_v2(&mut ptr, len.max(1)))?;
        Ok(Memory {
            context: context.clone(),
            ptr,
            len,
        })
    }

    /// Device address.
    pub(crate) fn ptr(&self) -> u64 {
        self.ptr
    }

    /// Bytes asked for.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bind() {
            // Kernels that use the memory may still be queued on some stream.
            let _ = call!(api, cuCtxSynchronize());
            let _ = call!(api, cuMemFree_v2(self.ptr));
        }
    }
}

/// A compiled module.
#[derive(Debug)]
pub(crate) struct Module {
    context: Arc<Context>,
    raw: CUmodule,
}

// SAFETY: a module handle is an opaque token of its context, which is shared between threads.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// Compiles PTX for the device of `context`. The error carries the compiler's log.
    pub(crate) fn load(context: &Arc<Context>, ptx: &str) -> Result<Arc<Module>, CudaError> {
        const CALL: &str = "cuModuleLoadDataEx";
        let api = context.bind()?;
        let text = CString::new(ptx).map_err(|_| CudaError {
            call: CALL,
            code: 218,
            log: Some("the PTX text holds a NUL byte".into()),
        })?;
        let mut log = vec![0u8; 16 << 10];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // The driver takes the size as a value in the place of a pointer. One byte stays 0 as the terminator.
        let mut values = [
            log.as_mut_ptr().cast::<c_void>(),
            std::ptr::without_provenance_mut(log.len() - 1),
        ];
        let mut raw = std::ptr::null_mut();
        let loaded = call!(
            api,
            cuModuleLoadDataEx(
                &mut raw,
                text.as_ptr().cast(),
                options.len() as c_uint,
                options.as_mut_ptr(),
                values.as_mut_ptr()
            )
        );
        match loaded {
            Ok(()) => Ok(Arc::new(Module {
                context: context.clone(),
                raw,
            })),
            Err(error) => {
                let log = CStr::from_bytes_until_nul(&log)
                    .map(|l| l.to_string_lossy().into_owned())
                    .ok();
                Err(CudaError { log, ..error })
            }
        }
    }

    /// A kernel of the module; `dynamic_shared` is the most dynamic shared memory it will be launched with, in bytes.
    pub(crate) fn function(
        self: &Arc<Module>,
        name: &str,
        dynamic_shared: u32,
    ) -> Result<Function, CudaError> {
        const CALL: &str = "cuModuleGetFunction";
        let api = self.context.bind()?;
        let c_name = CString::new(name).map_err(|_| CudaError {
            call: CALL,
            code: 500,
            log: Some("the name holds a NUL byte".into()),
        })?;
        let mut raw = std::ptr::null_mut();
        call!(
            api,
            cuModuleGetFunction(&mut raw, self.raw, c_name.as_ptr())
        )
        .map_err(|error| CudaError {
            log: Some(format!("kernel {name}")),
            ..error
        })?;
        if dynamic_shared > 48 << 10 {
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            call!(
                api,
                cuFuncSetAttribute(raw, attribute, dynamic_shared as c_int)
            )
            .map_err(|error| CudaError {
                log: Some(format!(
                    "kernel {name}, {dynamic_shared} bytes of shared memory"
                )),
                ..error
            })?;
        }
        Ok(Function {
            raw,
            module: self.clone(),
        })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bind() {
            let _ = call!(api, cuModuleUnload(self.raw));
        }
    }
}

/// A kernel; keeps its module loaded.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    raw: CUfunction,
    module: Arc<Module>,
}

// SAFETY: a function handle is an opaque token of its module.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    /// Registers of a thread, and the bytes of local memory that it spills to.
    pub(crate) fn footprint(&self) -> Result<(u32, u32), CudaError> {
        let api = self.module.context.bind()?;
        let ask = |attribute| {
            let mut value = 0;
            call!(api, cuFuncGetAttribute(&mut value, attribute, self.raw))?;
            // Neither is ever negative.
            Ok::<u32, CudaError>(value.max(0) as u32)
        };
        Ok((
            ask(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            ask(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
        ))
    }
}

/// An in-order queue of work on a device.
#[derive(Debug)]
pub(crate) struct Stream {
    context: Arc<Context>,
    raw: CUstream,
}

// SAFETY: a stream handle may be used from any thread whose current context is the stream's.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver locks internally.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream that does not wait for the legacy default stream.
    pub(crate) fn new(context: &Arc<Context>) -> Result<Stream, CudaError> {
        const NON_BLOCKING: c_uint = 1;
        let api = context.bind()?;
        let mut raw = std::ptr::null_mut();
        call!(api, cuStreamCreate(&mut raw, NON_BLOCKING))?;
        Ok(Stream {
            context: context.clone(),
            raw,
        })
    }

    /// Queues a copy of host bytes to device memory. The bytes are read before this returns.
    ///
    /// # Safety
    /// `dst .. dst + data.len()` lies in a live allocation of this context.
    pub(crate) unsafe fn upload(&self, dst: u64, data: &[u8]) -> Result<(), CudaError> {
        if data.is_empty() {
            return Ok(());
        }
        let api = self.context.bind()?;
        // From pageable memory the driver copies to a staging area before it returns.
        call!(
            api,
            cuMemcpyHtoDAsync_v2(dst, data.as_ptr().cast(), data.len(), self.raw)
        )
    }

    /// Copies device memory to the host, after all that is queued.
    ///
    /// # Safety
    /// `src .. src + out.len()` lies in a live allocation of this context.
    pub(crate) unsafe fn download(&self, out: &mut [u8], src: u64) -> Result<(), CudaError> {
        if !out.is_empty() {
            let api = self.context.bind()?;
            call!(
                api,
                cuMemcpyDtoHAsync_v2(out.as_mut_ptr().cast(), src, out.len(), self.raw)
            )?;
        }
        self.synchronize()
    }

    /// Queues a copy inside device memory.
    ///
    /// # Safety
    /// Both ranges lie in live allocations of this context and do not overlap.
    pub(crate) unsafe fn copy(&self, dst: u64, src: u64, len: usize) -> Result<(), CudaError> {
        if len == 0 {
            return Ok(());
        }
        let api = self.context.bind()?;
        call!(api, cuMemcpyDtoDAsync_v2(dst, src, len, self.raw))
    }

    /// Queues setting bytes of device memory.
    ///
    /// # Safety
    /// `dst .. dst + len` lies in a live allocation of this context.
    pub(crate) unsafe fn fill(&self, dst: u64, byte: u8, len: usize) -> Result<(), CudaError> {
        if len == 0 {
            return Ok(());
        }
        let api = self.context.bind()?;
        call!(api, cuMemsetD8Async(dst, byte, len, self.raw))
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// `args` are the kernel's parameters in order and by size, and every address in them is good for what the kernel
    /// does with it until the stream has passed this launch.
    pub(crate) unsafe fn launch(
        &self,
        function: &Function,
        launch: Launch,
        args: &mut Args,
    ) -> Result<(), CudaError> {
        let api = self.context.bind()?;
        let mut params = args.addresses();
        let [x, y, z] = launch.grid;
        call!(
            api,
            cuLaunchKernel(
                function.raw,
                x,
                y,
                z,
                launch.block,
                1,
                1,
                launch.shared,
                self.raw,
                params.as_mut_ptr(),
                std::ptr::null_mut()
            )
        )
    }

    /// Blocks until all that is queued is done.
    pub(crate) fn synchronize(&self) -> Result<(), CudaError> {
        let api = self.context.bind()?;
        call!(api, cuStreamSynchronize(self.raw))
    }

    /// Marks this point of the stream.
    pub(crate) fn record(&self) -> Result<Event, CudaError> {
        const DISABLE_TIMING: c_uint = 2;
        let api = self.context.bind()?;
        let mut raw = std::ptr::null_mut();
        call!(api, cuEventCreate(&mut raw, DISABLE_TIMING))?;
        let event = Event {
            context: self.context.clone(),
            raw,
        };
        call!(api, cuEventRecord(event.raw, self.raw))?;
        Ok(event)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bind() {
            // Queued work still ends; the driver frees the stream after it.
            let _ = call!(api, cuStreamDestroy_v2(self.raw));
        }
    }
}

/// A point in a stream.
#[derive(Debug)]
pub(crate) struct Event {
    context: Arc<Context>,
    raw: CUevent,
}

// SAFETY: an event handle is an opaque token of its context.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Whether the stream has passed this point.
    pub(crate) fn is_done(&self) -> Result<bool, CudaError> {
        let api = self.context.bind()?;
        match call!(api, cuEventQuery(self.raw)) {
            Ok(()) => Ok(true),
            Err(error) if error.code == code::NOT_READY => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Blocks until the stream has passed this point.
    pub(crate) fn wait(&self) -> Result<(), CudaError> {
        let api = self.context.bind()?;
        call!(api, cuEventSynchronize(self.raw))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bind() {
            let _ = call!(api, cuEventDestroy_v2(self.raw));
        }
    }
}
