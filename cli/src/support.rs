//! `gristmill support`: the generated support pages.

use anyhow::{Context, Result, bail};
use gristmill::{
    OpKind, Registry, Select,
    conformance::{self, Expect, Filter, Path, Report, Status, Tier, support_matrix},
};
use std::{fmt::Write, path::PathBuf};

const BEGIN: &str = "<!-- support:begin -->";
const END: &str = "<!-- support:end -->";

/// Run the conformance suite on several devices and write the support matrix, and the short table
/// of the README.
#[derive(clap::Args)]
pub struct Args {
    /// The devices, with commas.
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    devices: Vec<String>,
    /// How much: smoke, full, soak.
    #[arg(long, default_value = "smoke", value_parser = crate::verify::tier)]
    tier: Tier,
    /// Where the matrix goes.
    #[arg(long, default_value = "docs/support.md")]
    out: PathBuf,
    /// The file whose table between the support marks is replaced.
    #[arg(long, default_value = "README.md")]
    readme: PathBuf,
    /// Print one line of JSON for each device.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let registry = Registry::builtin();
    let mut reports = Vec::new();
    for name in &args.devices {
        let device = registry.open_blocking(&Select::named(name)?)?;
        let filter = Filter::new(args.tier).decompose();
        let report = conformance::run(&device, &filter, &Expect::default(), &mut |_| {})?;
        let t = report.totals();
        let tier = args.tier.name();
        if args.json {
            crate::print_line(serde_json::json!({
                "device": report.device, "tier": tier,
                "passed": t.passed, "failed": t.failed, "refused": t.refused,
            }))?;
        } else {
            let [passed, failed, refused] = [t.passed, t.failed, t.refused];
            eprintln!("{name}, {tier}: {passed} passed, {failed} failed, {refused} refused");
        }
        reports.push(report);
    }
    if let Some(bad) = reports.iter().find(|r| !r.is_success()) {
        bail!("{} fails cases; see gristmill verify", bad.device);
    }
    std::fs::write(&args.out, support_matrix(&reports))
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    let name = args.readme.display();
    let page =
        std::fs::read_to_string(&args.readme).with_context(|| format!("cannot read {name}"))?;
    let (head, rest) = page
        .split_once(BEGIN)
        .with_context(|| format!("{name} has no {BEGIN}"))?;
    let (_, tail) = rest
        .split_once(END)
        .with_context(|| format!("{name} has no {END}"))?;
    let table = short(&reports, &registry);
    std::fs::write(&args.readme, format!("{head}{BEGIN}\n{table}{END}{tail}"))
        .with_context(|| format!("cannot write {name}"))?;
    Ok(())
}

/// One row for each op: how its cases run, and with how many element types.
fn short(reports: &[Report], registry: &Registry) -> String {
    let mut s = String::from("| op |");
    for r in reports {
        let _ = write!(s, " {} |", r.device);
    }
    s.push_str("\n| --- |");
    s.push_str(&" --- |".repeat(reports.len()));
    s.push('\n');
    for kind in OpKind::ALL.iter().filter(|k| **k != OpKind::Custom) {
        let _ = write!(s, "| `{kind}` |");
        for r in reports {
            let _ = write!(s, " {} |", cell(r, *kind));
        }
        s.push('\n');
    }
    let tier = reports.first().map_or("", |r| r.tier.name());
    let _ = writeln!(
        s,
        "\nCases of the {tier} tier of the conformance suite that run by a kernel of the device, in parts, or not."
    );
    for (backend, found) in pollster::block_on(registry.probe()) {
        if let Err(e) = found {
            let _ = writeln!(s, "\nNot run for this table: {backend} ({e}).");
        }
    }
    s
}

fn cell(report: &Report, kind: OpKind) -> String {
    let of = || report.outcomes.iter().filter(|o| o.op == kind);
    let mut cases: std::collections::BTreeMap<&str, Option<Path>> = Default::default();
    for o in of() {
        let ran = (o.status == Status::Passed).then_some(o.path);
        let best = cases.entry(o.case.as_str()).or_default();
        match (&best, ran) {
            (Some(Path::Native | Path::Packed), _) | (_, None) => {}
            _ => *best = ran,
        }
    }
    let count = |wanted: fn(&Option<Path>) -> bool| cases.values().filter(|p| wanted(p)).count();
    let native = count(|p| matches!(p, Some(Path::Native | Path::Packed)));
    let parts = count(|p| matches!(p, Some(Path::Parts)));
    let total = cases.len();
    match (native, parts) {
        _ if total == 0 => "-".to_owned(),
        (n, _) if n == total => format!("all {total}"),
        (0, 0) => "no".to_owned(),
        (n, 0) => format!("{n} of {total}"),
        (n, p) => format!("{n} of {total}, {p} in parts"),
    }
}
