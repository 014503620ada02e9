//! Finding the driver, without ever panicking: no driver, a partial library, an old driver and a machine without a
//! GPU are each an answer with a way out.

use super::driver::Api;
use super::error::{CudaError, code};
use libloading::Library;
use std::sync::{Mutex, OnceLock};

/// Oldest driver, as the CUDA version it supports: the committed PTX is of ISA 8.0.
const MIN_VERSION: i32 = 12_000;

/// Names of the driver library, the one an installed driver provides first: in a toolkit's stub folder the plain name
/// is a library without a driver behind it.
const NAMES: &[&str] = if cfg!(windows) {
    &["nvcuda.dll"]
} else {
    &["libcuda.so.1", "libcuda.so"]
};

/// A driver that is there, is new enough and sees a GPU.
pub(crate) struct Driver {
    /// Its functions.
    pub(crate) api: Api,
    /// CUDA version it supports, 1000 * major + 10 * minor.
    pub(crate) version: i32,
    /// Number of devices, at least 1.
    pub(crate) devices: u32,
}

/// The driver of this machine. A success is kept for the rest of the process; a failure is looked into again at the
/// next call, since a driver may be installed meanwhile.
///
/// # Errors
/// What is missing and what to do, for people.
pub(crate) fn driver() -> Result<&'static Driver, String> {
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    static LOOKING: Mutex<()> = Mutex::new(());
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    // One thread at a time: a library that fails the checks stays loaded, and once is enough.
    let _one = LOOKING
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    match DRIVER.get() {
        Some(driver) => Ok(driver),
        None => open(NAMES).map(|driver| DRIVER.get_or_init(|| driver)),
    }
}

/// Opens and checks the first library of `names` that loads.
///
/// # Errors
/// What is missing and what to do, for people.
fn open(names: &[&str]) -> Result<Driver, String> {
    // SAFETY: loading runs the library's initializers; the NVIDIA driver's have no demands on the caller.
    let library = names.iter().find_map(|name| unsafe { Library::new(*name) }.ok()).ok_or_else(|| {
        format!(
            "no NVIDIA driver library ({}) was found; install the NVIDIA driver, version 525 or newer (in a container: \
             run it with the NVIDIA container toolkit, e.g. --gpus all)",
            names.join(", ")
        )
    })?;
    // Function pointers into it are kept for the rest of the process.
    let library: &'static Library = Box::leak(Box::new(library));
    let api = Api::load(library).map_err(|name| {
        format!("the NVIDIA driver library lacks {name}; install the NVIDIA driver, version 525 or newer")
    })?;
    api.init().map_err(|error| explain_init(&error))?;
    let version = api
        .version()
        .map_err(|error| format!("the NVIDIA driver does not tell its version: {error}"))?;
    if version < MIN_VERSION {
        return Err(format!(
            "the NVIDIA driver supports CUDA {}; 12.0 is needed: install driver version 525 or newer",
            version_text(version)
        ));
    }
    let devices = api.device_count().map_err(|error| explain_init(&error))?;
    match u32::try_from(devices) {
        Ok(devices) if devices > 0 => Ok(Driver {
            api,
            version,
            devices,
        }),
        _ => Err(NO_DEVICE.to_owned()),
    }
}

const NO_DEVICE: &str = "the NVIDIA driver sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES";

fn explain_init(error: &CudaError) -> String {
    match error.code {
        code::NO_DEVICE => NO_DEVICE.to_owned(),
        code::STUB_LIBRARY => "the CUDA toolkit's stub library was found in place of the driver; take the toolkit's `stubs` \
                               folder out of the library path and install the NVIDIA driver"
            .to_owned(),
        _ => format!("the NVIDIA driver does not start: {error}; check nvidia-smi, and reboot after a driver update"),
    }
}

/// "12.4" of 12040.
pub(crate) fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::driver::NEEDED;
    use std::{fs, path::PathBuf, process::Command};

    /// A library with these driver functions: `init` is what cuInit answers, all others succeed.
    struct Fake<'a> {
        name: &'a str,
        functions: &'a [&'a str],
        init: i32,
        version: i32,
        devices: i32,
    }

    fn build(fake: &Fake) -> (tempdir::Dir, String) {
        let dir = tempdir::Dir::new(fake.name);
        let mut text = String::new();
        for name in fake.functions {
            let body = match *name {
                "cuInit" => format!("() -> i32 {{ {} }}", fake.init),
                "cuDriverGetVersion" => format!(
                    "(out: *mut i32) -> i32 {{ unsafe {{ *out = {} }}; 0 }}",
                    fake.version
                ),
                "cuDeviceGetCount" => format!(
                    "(out: *mut i32) -> i32 {{ unsafe {{ *out = {} }}; 0 }}",
                    fake.devices
                ),
                _ => "() -> i32 { 0 }".to_owned(),
            };
            text += &format!("#[unsafe(no_mangle)] pub extern \"C\" fn {name}{body}\n");
        }
        let (source, library) = (dir.0.join("fake.rs"), dir.0.join("libfake.so"));
        fs::write(&source, text).unwrap();
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let out = Command::new(rustc)
            .args([
                "--edition",
                "2024",
                "--crate-type",
                "cdylib",
                "--crate-name",
                "fake",
                "-A",
                "non_snake_case",
                "-o",
            ])
            .args([&library, &source])
            .output()
            .expect("rustc builds the stand-in driver");
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let path = library.to_str().unwrap().to_owned();
        (dir, path)
    }

    mod tempdir {
        use super::*;
        /// A folder that is gone with its owner.
        pub(super) struct Dir(pub(super) PathBuf);
        impl Dir {
            pub(super) fn new(name: &str) -> Dir {
                let dir =
                    std::env::temp_dir().join(format!("gristmill-{name}-{}", std::process::id()));
                fs::create_dir_all(&dir).unwrap();
                Dir(dir)
            }
        }
        impl Drop for Dir {
            fn drop(&mut self) {
                let _ = fs::remove_dir_all(&self.0);
            }
        }
    }

    fn answer(fake: &Fake) -> Result<Driver, String> {
        let (_dir, path) = build(fake);
        open(&[&path])
    }

    const WHOLE: Fake = Fake {
        name: "whole",
        functions: NEEDED,
        init: 0,
        version: 12_040,
        devices: 2,
    };

    #[test]
    fn a_whole_driver_is_accepted() {
        let driver = answer(&WHOLE).map_err(|e| panic!("{e}")).unwrap();
        assert_eq!((driver.version, driver.devices), (12_040, 2));
    }

    #[test]
    fn no_library_names_what_was_looked_for() {
        let why = open(&["libno-such-driver.so.1"]).err().unwrap();
        assert!(
            why.contains("libno-such-driver.so.1") && why.contains("525"),
            "{why}"
        );
    }

    #[test]
    fn every_single_missing_function_would_be_noticed() {
        // One library with all but the last function: the loader asks for them in this order, so it has asked for all.
        let (last, others) = NEEDED.split_last().unwrap();
        let why = answer(&Fake {
            name: "partial",
            functions: others,
            ..WHOLE
        })
        .err()
        .unwrap();
        assert!(why.contains(last) && why.contains("525"), "{why}");
    }

    #[test]
    fn unknown_codes_are_numbers_and_not_undefined_behaviour() {
        let why = answer(&Fake {
            name: "unknown",
            init: 12_345,
            ..WHOLE
        })
        .err()
        .unwrap();
        assert!(why.contains("12345"), "{why}");
    }

    #[test]
    fn stub_no_device_and_old_driver_each_say_what_to_do() {
        let stub = answer(&Fake {
            name: "stub",
            init: 34,
            ..WHOLE
        })
        .err()
        .unwrap();
        assert!(stub.contains("stub"), "{stub}");
        let none = answer(&Fake {
            name: "nodevice",
            init: 100,
            ..WHOLE
        })
        .err()
        .unwrap();
        assert!(none.contains("no GPU"), "{none}");
        let zero = answer(&Fake {
            name: "zero",
            devices: 0,
            ..WHOLE
        })
        .err()
        .unwrap();
        assert_eq!(zero, none);
        let old = answer(&Fake {
            name: "old",
            version: 11_080,
            ..WHOLE
        })
        .err()
        .unwrap();
        assert!(old.contains("11.8") && old.contains("525"), "{old}");
    }

    #[test]
    fn cudarc_is_named_in_one_module_and_its_functions_are_only_compared_with() {
        let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/backend/cuda")];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = fs::read_to_string(&path).unwrap();
                let code: String = text
                    .lines()
                    .filter(|l| !l.trim_start().starts_with("//"))
                    .collect::<Vec<_>>()
                    .join("\n");
                let name = path.file_name().unwrap().to_str().unwrap();
                let needle = ["cuda", "rc::"].concat();
                assert_eq!(code.contains(&needle), name == "driver.rs", "{name}");
                // A call of cudarc's binding would be `sys::cuX(`; the table covers every
                // function by construction.
                let call = ["sys::", "cu"].concat();
                assert!(!code.contains(&call), "{name} calls a cudarc binding");
                seen += 1;
            }
        }
        assert!(seen > 10, "the folder of the backend was not found");
    }
}
