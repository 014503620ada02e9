//! The committed PTX, and the kernels loaded from it.

use super::driver::{Context, Function, Module};
use super::error::CudaError;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// PTX of `kernels/ptx`: name, lowest compute capability (10 * major + minor), text.
pub(super) struct Source {
    /// File name without `.ptx`.
    pub(super) name: &'static str,
    /// The module.
    pub(super) text: &'static str,
}

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        &[$(Source {
            name: $name,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/ptx/", $name, ".ptx")),
        }),*]
    };
}

/// Every module. A module is compiled by the driver as a whole when one of its kernels is first used, so each holds
/// one family.
pub(super) const SOURCES: &[Source] = sources![
    "cast.75",
    "copy.75",
    "dequant.75",
    "elementwise.75",
    "gemv_bf16.75",
    "gemv_f16.75",
    "gemv_f32.75",
    "gemv_q4_0.75",
    "gemv_q4_1.75",
    "gemv_q4_k.75",
    "gemv_q5_0.75",
    "gemv_q6_k.75",
    "gemv_q8_0.75",
    "matmul_f32.75",
    "matmul_half.75",
    "matmul_mma.80",
    "quantize_q8.75",
];

/// Module of each kernel, from the `.entry` lines of the PTX.
pub(super) fn index() -> &'static HashMap<&'static str, usize> {
    static INDEX: OnceLock<HashMap<&'static str, usize>> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut all = HashMap::new();
        for (at, source) in SOURCES.iter().enumerate() {
            for line in source.text.lines() {
                if let Some(name) = line.strip_prefix(".visible .entry ") {
                    all.insert(name.trim_end_matches('('), at);
                }
            }
        }
        all
    })
}

/// Loaded modules and kernels of one device.
#[derive(Debug)]
pub(super) struct Modules {
    context: Arc<Context>,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    modules: HashMap<usize, Arc<Module>>,
    functions: HashMap<&'static str, Function>,
}

impl Modules {
    pub(super) fn new(context: &Arc<Context>) -> Modules {
        Modules {
            context: context.clone(),
            loaded: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        // The maps are whole between any two statements, so a panic elsewhere leaves them usable.
        self.loaded
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A kernel by name; `shared` is the dynamic shared memory of its launches. The first use of a module compiles it.
    pub(super) fn function(&self, name: &str, shared: u32) -> Result<Function, CudaError> {
        let mut loaded = self.lock();
        if let Some(function) = loaded.functions.get(name) {
            return Ok(function.clone());
        }
        let Some((&name, &at)) = index().get_key_value(name) else {
            return Err(CudaError {
                call: "looking up a kernel",
                code: 500,
                log: Some(format!("no PTX holds {name}")),
            });
        };
        let module = match loaded.modules.get(&at) {
            Some(module) => module.clone(),
            None => {
                let source = &SOURCES[at];
                let start = std::time::Instant::now();
                let module =
                    Module::load(&self.context, source.text).map_err(|error| CudaError {
                        log: Some(format!(
                            "module {}: {}",
                            source.name,
                            error.log.as_deref().unwrap_or_default()
                        )),
                        ..error
                    })?;
                log::debug!("compiled {} in {:?}", source.name, start.elapsed());
                loaded.modules.insert(at, module.clone());
                module
            }
        };
        let function = module.function(name, shared)?;
        if log::log_enabled!(log::Level::Debug)
            && let Ok((registers, local)) = function.footprint()
        {
            log::debug!("{name}: {registers} registers, {local} bytes of local memory");
        }
        loaded.functions.insert(name, function.clone());
        Ok(function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_committed_file_is_a_module_and_names_are_unique() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/ptx");
        let files: BTreeSet<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| {
                e.unwrap()
                    .file_name()
                    .into_string()
                    .unwrap()
                    .trim_end_matches(".ptx")
                    .to_owned()
            })
            .collect();
        let listed: BTreeSet<String> = SOURCES.iter().map(|s| s.name.to_owned()).collect();
        assert_eq!(files, listed);
        let entries: usize = SOURCES
            .iter()
            .map(|s| s.text.matches(".visible .entry ").count())
            .sum();
        assert_eq!(entries, index().len(), "a kernel name occurs twice");
    }

    /// Needs a GPU; `GRISTMILL_REQUIRE_CUDA` makes its absence a failure.
    #[test]
    fn the_driver_compiles_every_module_and_no_kernel_spills() {
        use crate::backend::cuda::{driver::Attribute, preflight::driver};
        let driver = match driver() {
            Ok(driver) => driver,
            Err(why) => {
                assert!(
                    std::env::var_os("GRISTMILL_REQUIRE_CUDA").is_none(),
                    "{why}"
                );
                eprintln!("nothing was compiled: {why}");
                return;
            }
        };
        let device = driver.api.device(0).unwrap();
        let context = Context::new(&driver.api, device).unwrap();
        let modules = Modules::new(&context);
        let mut names: Vec<_> = index().iter().collect();
        names.sort_by_key(|(name, at)| (**at, **name));
        let capability = |kind| driver.api.attribute(device, kind).unwrap();
        let cc = 10 * capability(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
            + capability(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
        // The name ends in the lowest capability that compiles the module.
        names.retain(|(_, at)| {
            let (_, target) = SOURCES[**at].name.rsplit_once('.').unwrap();
            target.parse::<i32>().unwrap() <= cc
        });
        let mut spilled = Vec::new();
        for (name, at) in names {
            let function = modules.function(name, 0).unwrap();
            let (registers, local) = function.footprint().unwrap();
            println!(
                "{:<16} {name:<44} {registers:>4} {local:>5}",
                SOURCES[*at].name
            );
            if local > 0 {
                spilled.push(name);
            }
        }
        assert!(spilled.is_empty(), "{spilled:?} use local memory");
    }

    #[test]
    fn modules_load_on_the_oldest_driver_and_carry_no_hidden_state() {
        for s in SOURCES {
            assert!(s.text.contains("\n.version 8.0\n"), "{}", s.name);
            let (_, target) = s.name.rsplit_once('.').unwrap();
            assert!(
                s.text.contains(&format!("\n.target sm_{target}\n")),
                "{}",
                s.name
            );
            assert!(
                !s.text.contains(".local ") && !s.text.contains("call.uni"),
                "{}",
                s.name
            );
            assert!(!s.text.contains('\0'), "{}", s.name);
        }
    }
}
