//! The conformance suite: what every device, of this crate or of a third party, must compute.
//!
//! A [`Case`] is one op with its operands described; [`cases`] lists them by [`Tier`], [`run()`]
//! drives a device through the public [`Queue`](crate::Queue) alone, compares every kernel that
//! the device names for the op with the f64 [`reference`](crate::reference), and reports.
//!
//! ```no_run
//! use gristmill::{Registry, Select, conformance::{self, Expect, Filter, Tier}};
//! # fn main() -> gristmill::Result<()> {
//! let device = Registry::builtin().open_blocking(&Select::named("cpu")?)?;
//! let filter = Filter::new(Tier::Smoke).name("mat_mul/*");
//! let report = conformance::run(&device, &filter, &Expect::default(), &mut |_| {})?;
//! print!("{}", report.text());
//! assert!(report.is_success());
//! # Ok(())
//! # }
//! ```

mod case;
mod cases;
mod fill;
mod filter;
mod report;
mod run;
mod support;
pub mod tolerance;
mod truth;

pub use case::{Case, Memory, Placed, Spec, Tier, matches};
pub use cases::cases;
pub use fill::Fill;
pub use filter::{Expect, Filter};
pub use report::{Outcome, Path, Report, Status};
pub use run::{Progress, run, run_async, run_cases};
pub use support::support_matrix;

#[cfg(feature = "bench")]
pub(crate) use run::{pack, tensors, whole};

#[cfg(test)]
mod tests;
