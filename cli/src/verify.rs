//! `gristmill verify`: the conformance suite on one device.

use crate::{device::DeviceArg, print_line};
use anyhow::{Context, Result, bail};
use gristmill::{
    Device, OpKind,
    conformance::{self, Expect, Filter, Report, Tier, matches},
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{path::PathBuf, sync::Arc};

/// Check every kernel of a device against the f64 reference. The last line is
/// `N passed, M failed, K refused`; the exit code is 0 only when M is 0.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArg,
    /// How much: smoke (seconds), full (minutes), soak.
    #[arg(long, default_value = "smoke", value_parser = tier)]
    tier: Tier,
    /// Only cases whose name contains this, or matches it as a pattern with `*` and `?`.
    #[arg(long)]
    filter: Option<String>,
    /// Only cases of this op, such as mat_mul.
    #[arg(long, value_parser = op)]
    op: Option<OpKind>,
    /// Only kernels whose name contains this, or matches it as a pattern.
    #[arg(long, env = "GRISTMILL_KERNEL", hide_env_values = true)]
    kernel: Option<String>,
    /// Also run refused ops in parts, where they have parts.
    #[arg(long)]
    decompose: bool,
    /// Write a Markdown report to this file.
    #[arg(long, value_name = "FILE.md")]
    markdown: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// A tier by its name.
pub fn tier(s: &str) -> Result<Tier, String> {
    [Tier::Smoke, Tier::Full, Tier::Soak]
        .into_iter()
        .find(|t| t.name() == s)
        .ok_or_else(|| "expected smoke, full or soak".to_owned())
}

/// An op by its name.
pub fn op(s: &str) -> Result<OpKind, String> {
    let all = OpKind::ALL;
    all.iter().copied().find(|k| k.name() == s).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|k| k.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// A pattern of kernel names is an error where no kernel of the device matches it.
pub fn known(pattern: Option<&str>, device: &Arc<dyn Device>) -> Result<()> {
    let Some(pattern) = pattern else {
        return Ok(());
    };
    if device
        .all_kernels()
        .iter()
        .any(|(_, k)| matches(pattern, k.0))
    {
        return Ok(());
    }
    bail!(
        "no kernel of {} matches {pattern:?}; `gristmill devices --kernels` lists them",
        device.info().id
    )
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    known(args.kernel.as_deref(), &device)?;
    let filter = Filter {
        tier: args.tier,
        name: args.filter.clone(),
        op: args.op,
        kernel: args.kernel.clone(),
        decompose: args.decompose,
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {wide_msg}")?;
    let bar = ProgressBar::new(0).with_style(style);
    let report = conformance::run(&device, &filter, &Expect::default(), &mut |p| {
        bar.set_length(p.total as u64);
        bar.set_position(p.done as u64);
        bar.set_message(p.case.to_owned());
    })?;
    bar.finish_and_clear();
    if report.outcomes.is_empty() {
        bail!(
            "nothing matches: no case of the {} tier passes the filters",
            args.tier.name()
        );
    }
    if let Some(path) = &args.markdown {
        std::fs::write(path, report.markdown())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        print_line(report.json())?;
    } else {
        let t = report.totals();
        print_line(format_args!(
            "{}{} passed, {} failed, {} refused",
            report.text(),
            t.passed,
            t.failed,
            t.refused
        ))?;
    }
    verdict(&report)
}

fn verdict(report: &Report) -> Result<()> {
    match report.totals().failed {
        0 => Ok(()),
        n => bail!("{n} failed on {}", report.device),
    }
}
