//! An example engine on gristmill's public interface: decoder-only transformers from GGUF files.
//!
//! It is small enough to read in one sitting. [`config`] reads the hyper-parameters, [`weights`]
//! puts the tensors on the device, [`step`] writes one step as a list of ops, [`model`] runs
//! steps, and [`sampler`] chooses tokens. Between the token ids that go in and the one that comes
//! out, nothing leaves the device.

pub mod config;
pub mod fit;
pub mod model;
pub mod sampler;
pub mod step;
pub mod weights;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use gristmill::{DType, Device, DeviceInfo, DeviceKind, Fallback, Registry, Select};
use indicatif::{ProgressBar, ProgressStyle};

use crate::device::DeviceArg;
use crate::gguf::Gguf;
use config::Config;
use model::{Model, Purpose};
use step::Arithmetic;

/// Which model, where, and how precisely.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// The model file (GGUF).
    #[arg(long, value_name = "FILE.gguf")]
    model: PathBuf,
    #[command(flatten)]
    device: DeviceArg,
    /// Least precise arithmetic (default: q8 on the CPU, f32 elsewhere).
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// What to do with ops that the device lacks: refuse, run them in parts, or on the host.
    #[arg(long, value_enum, default_value = "deny")]
    fallback: Lacking,
}

/// What to do with ops that a device lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Lacking {
    /// Refuse.
    Deny,
    /// Run them in parts.
    Decompose,
    /// That, or else on the host.
    Host,
}

/// Least precise arithmetic that a run accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// Activations as they are, f32 accumulation and cache.
    F32,
    /// Activations may be rounded to 16 bits; f16 cache.
    F16,
    /// Activations may be rounded to 8 bits with a scale per block; f16 cache.
    Q8,
}

impl Precision {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Q8 => "q8",
        }
    }

    fn arithmetic(self) -> Arithmetic {
        use gristmill::Precision as Accept;
        let (matmul, attention, cache) = match self {
            Precision::F32 => (Accept::F32, Accept::F32, DType::F32),
            Precision::F16 => (Accept::HALF, Accept::HALF, DType::F16),
            Precision::Q8 => (Accept::Q8, Accept::HALF, DType::F16),
        };
        Arithmetic {
            matmul,
            attention,
            cache,
        }
    }
}

/// An open model file and the device to run it on.
pub struct Session {
    /// The file.
    pub gguf: Gguf,
    /// Its hyper-parameters.
    pub config: Config,
    /// The device.
    pub device: Arc<dyn Device>,
    /// The precision in force.
    pub precision: Precision,
    /// What happens to ops that the device lacks.
    pub fallback: Fallback,
}

impl ModelArgs {
    /// Opens the file and the device.
    ///
    /// # Errors
    /// The file is no model of a known kind, or there is no such device.
    pub fn open(&self) -> Result<Session> {
        let gguf = Gguf::open(&self.model)?;
        let config = Config::new(&gguf)?;
        let precision = |info: &DeviceInfo| {
            self.precision.unwrap_or(match info.kind {
                DeviceKind::Cpu => Precision::Q8,
                _ => Precision::F32,
            })
        };
        let fallback = match self.fallback {
            Lacking::Deny => Fallback::Deny,
            Lacking::Decompose => Fallback::Decompose,
            Lacking::Host => Fallback::Host,
        };
        let arithmetic = |info: &DeviceInfo| precision(info).arithmetic();
        let device = match self.device.select()? {
            Select::Best => fit::best(&gguf, &config, arithmetic, fallback)?,
            named => {
                let device = Registry::builtin().open_blocking(&named)?;
                let arithmetic = arithmetic(device.info());
                fit::runs(&gguf, &config, arithmetic, &device, fallback)?;
                device
            }
        };
        Ok(Session {
            precision: precision(device.info()),
            gguf,
            config,
            device,
            fallback,
        })
    }
}

impl Session {
    /// Loads the model, with a progress bar where standard error is a terminal.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load(&self, capacity: u32, candidates: u32, all_logits: bool) -> Result<Model> {
        let purpose = Purpose {
            capacity,
            arithmetic: self.precision.arithmetic(),
            candidates,
            all_logits,
            fallback: self.fallback,
        };
        let style = ProgressStyle::with_template("loading {bar:40} {bytes}/{total_bytes}")?;
        let bar = ProgressBar::new(self.gguf.tensor_bytes()).with_style(style);
        let config = self.config.clone();
        let model = Model::load(&self.gguf, config, &self.device, purpose, &mut |n| {
            bar.inc(n)
        });
        bar.finish_and_clear();
        model
    }
}
