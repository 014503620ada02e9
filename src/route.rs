//! How an op runs on a device: natively, in parts, or on the host.

use crate::{
    device::{Device, KernelId, Quality, Support},
    error::{Error, Refusal, Result},
    layout::TensorDesc,
    op::{
        Op, OpKind,
        decompose::{self, Plan},
    },
};
use std::fmt;

/// What a queue may do with an op that its device lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fallback {
    /// Refuse.
    Deny,
    /// Rewrite it into ops that the device has.
    #[default]
    Decompose,
    /// That, or else read the operands back and compute on the host's CPU backend.
    Host,
}

/// How an op will run.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// By one kernel of the device.
    Native {
        /// How good it is.
        quality: Quality,
        /// Its name, where the device names kernels.
        kernel: Option<KernelId>,
    },
    /// In parts, each native.
    Decomposed {
        /// The parts, in order.
        parts: Vec<Op<TensorDesc>>,
        /// Bytes of temporaries.
        temp_bytes: u64,
        /// Why there is no native kernel.
        refusal: Refusal,
    },
    /// On the host: operands travel there and results back.
    Host {
        /// Why there is no native kernel.
        refusal: Refusal,
    },
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Native { quality, kernel } => match kernel {
                Some(k) => write!(f, "native ({quality:?}, {k})"),
                None => write!(f, "native ({quality:?})"),
            },
            Route::Decomposed { parts, refusal, .. } => {
                write!(f, "in {} parts because {refusal}:", parts.len())?;
                parts.iter().try_for_each(|p| write!(f, " {}", p.kind()))
            }
            Route::Host { refusal } => write!(f, "on the host because {refusal}"),
        }
    }
}

/// One op that did not run natively.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteEntry {
    /// The question.
    pub op: Op<TensorDesc>,
    /// The route that it took.
    pub route: Route,
}

/// Every distinct op that did not run natively, each once, in the order of first use; the first
/// [`RouteLog::MAX`] of them.
#[derive(Clone, Debug, Default)]
pub struct RouteLog(Vec<RouteEntry>);

impl RouteLog {
    /// Most entries that are kept: shapes may differ in every step of a long run.
    pub const MAX: usize = 1024;

    pub(crate) fn push(&mut self, op: &Op<TensorDesc>, route: &Route) {
        if self.0.len() < Self::MAX && self.0.iter().all(|e| e.op != *op) {
            self.0.push(RouteEntry {
                op: op.clone(),
                route: route.clone(),
            });
        }
    }

    /// The entries.
    pub fn entries(&self) -> &[RouteEntry] {
        &self.0
    }
}

/// A route with everything that running it needs.
#[derive(Debug)]
pub(crate) struct Planned {
    pub route: Route,
    /// Parts with their operands and kernels, when decomposed.
    pub plan: Plan,
    pub kernels: Vec<Option<KernelId>>,
}

/// Picks kernels: the best, or those whose name contains a substring.
#[derive(Clone, Debug, Default)]
pub(crate) struct Force(Option<String>);

impl Force {
    /// # Errors
    /// [`Error::Selection`] when the substring is in no kernel's name.
    pub(crate) fn new(device: &dyn Device, name: Option<&str>) -> Result<Self> {
        let Some(name) = name.filter(|n| !n.is_empty()) else {
            return Ok(Force(None));
        };
        let all = device.all_kernels();
        if !all.iter().any(|(_, id)| id.0.contains(name)) {
            return Err(Error::Selection(format!(
                "no kernel of {} has {name:?} in its name; `gristmill devices --kernels` lists them",
                device.info().id
            )));
        }
        Ok(Force(Some(name.to_owned())))
    }

    /// The kernel to ask for; ops that no forced kernel computes are free.
    ///
    /// # Errors
    /// [`Refusal::Kernel`] when kernels of that name compute this op, but not these operands.
    fn pick(&self, device: &dyn Device, op: &Op<TensorDesc>) -> Result<Option<KernelId>, Refusal> {
        let Some(name) = &self.0 else {
            return Ok(device.kernels(op).first().copied());
        };
        let matches = |id: &KernelId| id.0.contains(name.as_str());
        if let Some(id) = device.kernels(op).into_iter().find(matches) {
            return Ok(Some(id));
        }
        let kind: OpKind = op.kind();
        let exists = device
            .all_kernels()
            .iter()
            .any(|(k, id)| *k == kind && matches(id));
        if exists {
            return Err(Refusal::Kernel(name.clone()));
        }
        Ok(device.kernels(op).first().copied())
    }
}

/// Plans the route of a checked op.
///
/// # Errors
/// [`Error::Unsupported`] naming the first part that nothing can run.
pub(crate) fn plan(
    device: &dyn Device,
    op: &Op<TensorDesc>,
    fallback: Fallback,
    force: &Force,
) -> Result<Planned> {
    let unsupported = |kind: OpKind, refusal: Refusal| Error::Unsupported {
        backend: device.info().id.backend.clone(),
        op: Some(kind),
        refusal,
    };
    let native = |op: &Op<TensorDesc>| match device.supports(op) {
        Support::Native(quality) => force.pick(device, op).map(|kernel| (quality, kernel)),
        Support::No(refusal) => Err(refusal),
    };
    let refusal = match native(op) {
        Ok((quality, kernel)) => {
            return Ok(Planned {
                route: Route::Native { quality, kernel },
                plan: Plan::default(),
                kernels: vec![kernel],
            });
        }
        Err(refusal) => refusal,
    };
    if fallback == Fallback::Deny {
        return Err(unsupported(op.kind(), refusal));
    }
    match decompose::plan(op, &mut |part| native(part).is_ok()) {
        Ok(plan) => {
            let parts: Vec<_> = plan.parts.iter().map(decompose::question).collect();
            let kernels = parts
                .iter()
                .map(|p| native(p).ok().and_then(|(_, kernel)| kernel))
                .collect();
            let route = Route::Decomposed {
                parts,
                temp_bytes: plan.temp_bytes(),
                refusal,
            };
            Ok(Planned {
                route,
                plan,
                kernels,
            })
        }
        Err(stuck) => {
            let on_host = fallback == Fallback::Host && op.kind() != OpKind::Custom;
            if !on_host {
                let why = match native(&stuck) {
                    Err(why) => why,
                    Ok(_) => refusal,
                };
                return Err(unsupported(stuck.kind(), why));
            }
            if !device.info().caps.can_block {
                return Err(Error::WouldBlock);
            }
            Ok(Planned {
                route: Route::Host { refusal },
                plan: Plan::default(),
                kernels: Vec::new(),
            })
        }
    }
}
