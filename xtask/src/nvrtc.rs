//! The CUDA compiler library, loaded at run time.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

use anyhow::{Context, Result, ensure};

type Program = *mut c_void;

/// The few functions of libnvrtc that a compilation takes.
pub struct Nvrtc {
    // Raw copies of the symbols; the library is never unloaded.
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ptx_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    ptx: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    error: unsafe extern "C" fn(c_int) -> *const c_char,
}

impl Nvrtc {
    pub fn open(path: &Path) -> Result<Nvrtc> {
        // SAFETY: loading runs the library's own initializers; it is the pinned libnvrtc, which has no demands on the caller.
        let library = unsafe { libloading::Library::new(path) }
            .with_context(|| format!("cannot load {}", path.display()))?;
        // Function pointers into it are kept for the rest of the process.
        let library = Box::leak(Box::new(library));
        macro_rules! symbol {
            ($name:literal) => {{
                // SAFETY: the signatures of the struct's fields are those of nvrtc.h.
                *unsafe { library.get($name.as_bytes()) }
                    .with_context(|| format!("{} lacks {}", path.display(), $name))?
            }};
        }
        Ok(Nvrtc {
            create: symbol!("nvrtcCreateProgram"),
            destroy: symbol!("nvrtcDestroyProgram"),
            compile: symbol!("nvrtcCompileProgram"),
            log_size: symbol!("nvrtcGetProgramLogSize"),
            log: symbol!("nvrtcGetProgramLog"),
            ptx_size: symbol!("nvrtcGetPTXSize"),
            ptx: symbol!("nvrtcGetPTX"),
            error: symbol!("nvrtcGetErrorString"),
        })
    }

    /// PTX text of `dir/name.cu` for `compute_{target}`.
    pub fn compile(&self, dir: &Path, name: &str, target: &str) -> Result<String> {
        let file = format!("{name}.cu");
        let source = std::fs::read_to_string(dir.join(&file))
            .with_context(|| format!("cannot read kernels/{file}"))?;
        let (source, c_file) = (CString::new(source)?, CString::new(file.as_str())?);
        let options = [
            CString::new(format!("--gpu-architecture=compute_{target}"))?,
            CString::new("--std=c++17")?,
            CString::new(format!("--include-path={}", dir.display()))?,
        ];
        let options: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: all strings are NUL-terminated and outlive the call; no headers are passed.
        self.ok(unsafe {
            (self.create)(
                &mut program,
                source.as_ptr(),
                c_file.as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            )
        })?;
        // SAFETY: `program` was just created; the options outlive the call.
        let code = unsafe { (self.compile)(program, options.len() as c_int, options.as_ptr()) };
        let text = if code == 0 {
            self.text(program, self.ptx_size, self.ptx)
        } else {
            let log = self
                .text(program, self.log_size, self.log)
                .unwrap_or_default();
            Err(anyhow::anyhow!(
                "kernels/{file} for compute_{target}: {}\n{log}",
                self.message(code)
            ))
        };
        // SAFETY: `program` is live and not used after this.
        self.ok(unsafe { (self.destroy)(&mut program) })?;
        text
    }

    fn text(
        &self,
        program: Program,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ) -> Result<String> {
        let mut bytes = 0usize;
        // SAFETY: `program` is live.
        self.ok(unsafe { size(program, &mut bytes) })?;
        let mut buffer = vec![0u8; bytes + 1];
        // SAFETY: the buffer holds the size just asked for, which counts the terminating NUL.
        self.ok(unsafe { get(program, buffer.as_mut_ptr().cast()) })?;
        Ok(CStr::from_bytes_until_nul(&buffer)?.to_str()?.to_owned())
    }

    fn message(&self, code: c_int) -> String {
        // SAFETY: nvrtcGetErrorString returns a static string for every code.
        unsafe { CStr::from_ptr((self.error)(code)) }
            .to_string_lossy()
            .into_owned()
    }

    fn ok(&self, code: c_int) -> Result<()> {
        ensure!(code == 0, "NVRTC: {}", self.message(code));
        Ok(())
    }
}
