//! `gristmill bench`: how fast the kernels of a device are, beside what the machine can do.

use crate::{device::DeviceArg, print_line, verify};
use anyhow::{Context, Result, bail};
use gristmill::{
    Activations, Copy, DType, Device, DeviceKind, Op, OpKind, Queue, TensorDesc,
    backend::cpu::ceilings,
    bench::{Choice, Measurement, Prepared},
    conformance::{Case, Tier, cases, matches},
};
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// Time the kernels of a device, with the machine's limits measured in the same run.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArg,
    /// Only this op, such as mat_mul.
    #[arg(long, value_parser = crate::verify::op)]
    op: Option<OpKind>,
    /// Only cases whose name contains this, or matches it as a pattern with `*` and `?`.
    #[arg(long)]
    filter: Option<String>,
    /// Every kernel that takes a case, not only the one that would be picked.
    #[arg(long)]
    all_kernels: bool,
    /// Fail when the kernel that is picked for a case is more than 5% slower than another that
    /// takes it.
    #[arg(long)]
    assert_best: bool,
    /// Every kernel whose name contains this, or matches it as a pattern.
    #[arg(long, env = "GRISTMILL_KERNEL", hide_env_values = true)]
    kernel: Option<String>,
    /// Seconds per kernel and case.
    #[arg(long, default_value_t = 0.3, allow_negative_numbers = true, value_parser = seconds)]
    seconds: f64,
    /// Where the roofline picture goes.
    #[arg(long, value_name = "FILE.svg", default_value = "roofline.svg")]
    svg: PathBuf,
    /// Print JSON: a line of the machine's limits, then one for each measurement; with
    /// --assert-best, one for each pick.
    #[arg(long)]
    json: bool,
}

fn seconds(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(n) if n > 0.0 && n <= 60.0 => Ok(n),
        _ => Err("a number above 0, up to 60, is expected".to_owned()),
    }
}

/// What the machine can do at most, in operations and bytes per second.
struct Limits {
    f32_flops: f64,
    bf16_flops: f64,
    int8_ops: f64,
    bytes: f64,
    /// How they were measured.
    note: &'static str,
}

/// One kernel on one case.
struct Row {
    case: String,
    kernel: String,
    m: Measurement,
    peak: f64,
}

impl Row {
    fn gflops(&self) -> f64 {
        self.m.flops_per_second() / 1e9
    }

    fn gbytes(&self) -> f64 {
        self.m.bytes_per_second() / 1e9
    }

    /// The time that the limits allow over the time taken.
    fn of_limit(&self, limits: &Limits) -> f64 {
        let least = (self.m.flops as f64 / self.peak).max(self.m.bytes as f64 / limits.bytes);
        100.0 * least / self.m.median.as_secs_f64()
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    verify::known(args.kernel.as_deref(), &device)?;
    let kernels = device.all_kernels();
    let chosen: Vec<Case> = cases(Tier::Soak)
        .into_iter()
        .filter(|c| c.bench)
        .filter(|c| args.op.is_none_or(|op| c.op.kind() == op))
        .filter(|c| args.filter.as_ref().is_none_or(|p| matches(p, &c.name)))
        .filter(|c| {
            args.kernel.as_ref().is_none_or(|p| {
                let mut of = kernels.iter().filter(|(kind, _)| *kind == c.op.kind());
                of.any(|(_, id)| matches(p, id.0))
            })
        })
        .collect();
    if chosen.is_empty() {
        bail!("no bench case passes the filters");
    }
    if args.assert_best {
        return assert_best(&device, &chosen, args);
    }
    let limits = limits(&device)?;
    print_limits(&device, &limits, args.json)?;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {wide_msg}")?;
    let bar = ProgressBar::new(chosen.len() as u64).with_style(style);
    let budget = Duration::from_secs_f64(args.seconds);
    let mut rows = Vec::new();
    for case in &chosen {
        bar.set_message(case.name.clone());
        let question = case.question();
        let failed = || format!("{} on {}", case.name, device.info().id);
        if let Some(mut prepared) = Prepared::new(&device, case).with_context(failed)? {
            let mut choices = prepared.choices();
            match &args.kernel {
                Some(pattern) => {
                    choices.retain(|c| c.kernel.is_some_and(|k| matches(pattern, k.0)))
                }
                None if args.all_kernels => {}
                None => choices.truncate(1),
            }
            for choice in choices {
                let row = Row {
                    case: case.name.clone(),
                    kernel: choice.to_string(),
                    m: prepared.measure(&choice, budget).with_context(failed)?,
                    peak: peak(&question, &limits),
                };
                bar.suspend(|| print(&row, &limits, args.json))?;
                rows.push(row);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if rows.is_empty() {
        let by = args.kernel.as_deref().unwrap_or("its kernels");
        bail!(
            "{} runs none of the {} cases by {by}",
            device.info().id,
            chosen.len()
        );
    }
    roofline(&args.svg, &device, &rows, &limits)
        .with_context(|| format!("cannot write {}", args.svg.display()))?;
    eprintln!("roofline: {}", args.svg.display());
    Ok(())
}

/// How much slower than another the picked kernel may be.
const SLACK: f64 = 1.05;
/// A kernel that looks too slow is measured this often again, each time for longer.
const AGAIN: u32 = 3;

/// Fails when a kernel that is picked is not the fastest of those that take the same question.
fn assert_best(device: &Arc<dyn Device>, chosen: &[Case], args: &Args) -> Result<()> {
    let budget = Duration::from_secs_f64(args.seconds);
    let (mut questions, mut worse) = (0, Vec::new());
    for case in chosen {
        let failed = || format!("{} on {}", case.name, device.info().id);
        let Some(mut prepared) = Prepared::new(device, case).with_context(failed)? else {
            continue;
        };
        let all = prepared.choices();
        // Plain and prepacked weights are two questions.
        for packed in [false, true] {
            let list: Vec<Choice> = all.iter().copied().filter(|c| c.packed == packed).collect();
            let Some(picked) = list.first().map(Choice::to_string) else {
                continue;
            };
            questions += 1;
            let mut found = None;
            for again in 0..=AGAIN {
                let medians = prepared
                    .race(&list, budget * (again + 1))
                    .with_context(failed)?;
                let times: Vec<(f64, &Choice)> = medians
                    .iter()
                    .zip(&list)
                    .filter_map(|(m, c)| Some((m.as_ref()?.as_secs_f64(), c)))
                    .collect();
                let best = times.iter().min_by(|a, b| a.0.total_cmp(&b.0));
                found = match (times.first(), best) {
                    (Some((own, _)), Some((least, best))) if *own > SLACK * least => {
                        Some((own / least, **best))
                    }
                    _ => None,
                };
                if found.is_none() {
                    break;
                }
            }
            let names = list.len();
            let verdict = match &found {
                None => format!("best of {names}"),
                Some((times, best)) => format!("{times:.2} x the time of {best}"),
            };
            let line = format!("{:<52} {picked:<40} {verdict}", case.name);
            match args.json {
                true => print_line(json!({
                    "case": case.name, "picked": picked, "kernels": names,
                    "best": found.map_or(picked.clone(), |(_, best)| best.to_string()),
                    "times": found.map_or(1.0, |(times, _)| times),
                }))?,
                false => print_line(&line)?,
            }
            if found.is_some() {
                worse.push(line);
            }
        }
    }
    if questions == 0 {
        bail!("{} runs none of the cases natively", device.info().id);
    }
    if !worse.is_empty() {
        bail!(
            "{} of {questions} picks are more than 5% slower than another kernel:\n{}",
            worse.len(),
            worse.join("\n")
        );
    }
    eprintln!("{questions} picks, each the best");
    Ok(())
}

fn print_limits(device: &Arc<dyn Device>, limits: &Limits, as_json: bool) -> Result<()> {
    let (id, name) = (device.info().id.to_string(), &device.info().name);
    let [f32, bf16, int8, memory] = [
        limits.f32_flops,
        limits.bf16_flops,
        limits.int8_ops,
        limits.bytes,
    ]
    .map(|rate| rate / 1e9);
    if as_json {
        return print_line(json!({
            "device": id, "name": name, "f32_gflops": f32, "bf16_gflops": bf16,
            "int8_gops": int8, "memory_gbytes": memory, "measured": limits.note,
        }));
    }
    print_line(format_args!(
        "{id} ({name}): f32 {f32:.0} GFLOP/s, bf16 {bf16:.0}, int8 {int8:.0}, memory {memory:.1} GB/s ({})",
        limits.note
    ))?;
    print_line(format_args!(
        "{:<52} {:<40} {:>10} {:>9} {:>8} {:>7}",
        "case", "kernel", "ms", "GFLOP/s", "GB/s", "limit"
    ))
}

fn print(row: &Row, limits: &Limits, as_json: bool) -> Result<()> {
    if as_json {
        return print_line(json!({
            "case": row.case, "kernel": row.kernel, "ms": row.m.median.as_secs_f64() * 1e3,
            "gflops": row.gflops(), "gbytes": row.gbytes(), "of_limit": row.of_limit(limits),
        }));
    }
    print_line(format_args!(
        "{:<52} {:<40} {:>10.4} {:>9.1} {:>8.1} {:>6.0}%",
        row.case,
        row.kernel,
        row.m.median.as_secs_f64() * 1e3,
        row.gflops(),
        row.gbytes(),
        row.of_limit(limits)
    ))
}

/// The arithmetic that the caller accepts decides which unit is the limit.
fn peak(op: &Op<TensorDesc>, limits: &Limits) -> f64 {
    let accepted = match op {
        Op::MatMul(a) => Some((a.precision.activations, *a.w.logical())),
        Op::GroupedMatMul(a) => Some((a.precision.activations, *a.w.logical())),
        Op::MatMulMany(a) => a
            .parts
            .first()
            .map(|p| (a.precision.activations, *p.w.logical())),
        _ => None,
    };
    match accepted {
        Some((Activations::Q8, w)) if w.plain().is_none() => limits.int8_ops,
        Some((_, w)) if w.plain() == Some(DType::I8) => limits.int8_ops,
        Some((Activations::Q8 | Activations::Half, w)) if w.plain() == Some(DType::BF16) => {
            limits.bf16_flops
        }
        _ => limits.f32_flops,
    }
}

fn limits(device: &Arc<dyn Device>) -> Result<Limits> {
    if device.info().kind == DeviceKind::Cpu {
        let c = ceilings::ceilings(rayon::current_num_threads());
        return Ok(Limits {
            f32_flops: c.f32_flops,
            bf16_flops: c.bf16_flops.unwrap_or(c.f32_flops),
            int8_ops: c.int8_ops.unwrap_or(c.f32_flops),
            bytes: c.read_bytes,
            note: "the arithmetic units and a plain read",
        });
    }
    // No probe of the units themselves: a large copy, and the best f32 product of a large size.
    let mut queue = Queue::new(device)?;
    let n = (device.info().limits.max_binding / 4).min(32 << 20) as u32;
    let (x, y) = (
        queue.zeros(DType::F32, &[n])?,
        queue.zeros(DType::F32, &[n])?,
    );
    let bytes = best_rate(&mut queue, Copy::new(&x, &y).into(), 8.0 * f64::from(n))?;
    let size = if device.info().kind == DeviceKind::SoftwareGpu {
        256
    } else {
        4096
    };
    let a = queue.zeros(DType::F32, &[size, size])?;
    let (b, c) = (
        queue.zeros(DType::F32, &[size, size])?,
        queue.zeros(DType::F32, &[size, size])?,
    );
    let flops = best_rate(
        &mut queue,
        gristmill::MatMul::new(&a, &b, &c).into(),
        2.0 * f64::from(size).powi(3),
    )?;
    Ok(Limits {
        f32_flops: flops,
        bf16_flops: flops,
        int8_ops: flops,
        bytes,
        note: "this backend's own large copy and f32 product",
    })
}

fn best_rate(queue: &mut Queue, op: Op<gristmill::Tensor>, amount: f64) -> Result<f64> {
    queue.run(op.clone())?;
    queue.finish()?;
    let mut best: f64 = 0.0;
    for _ in 0..5 {
        let start = Instant::now();
        queue.run(op.clone())?;
        queue.finish()?;
        best = best.max(amount / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// GFLOP/s over operations per byte, both logarithmic, under the roofs.
fn roofline(path: &Path, device: &Arc<dyn Device>, rows: &[Row], limits: &Limits) -> Result<()> {
    let points: Vec<(f64, f64, &Row)> = rows
        .iter()
        .filter(|r| r.m.flops > 0 && r.m.bytes > 0)
        .map(|r| (r.m.flops as f64 / r.m.bytes as f64, r.gflops(), r))
        .collect();
    let top = limits.int8_ops.max(limits.f32_flops) / 1e9 * 2.0;
    let low = points.iter().map(|p| p.1).fold(top, f64::min) / 2.0;
    let left = points.iter().map(|p| p.0).fold(0.25, f64::min) / 2.0;
    let right = points.iter().map(|p| p.0).fold(256.0, f64::max) * 2.0;
    let root = SVGBackend::new(path, (960, 640)).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("{} ({})", device.info().id, device.info().name);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((left..right).log_scale(), (low..top).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(format!(
            "operations per byte; memory {:.1} GB/s",
            limits.bytes / 1e9
        ))
        .y_desc("GFLOP/s")
        .draw()?;
    let roofs = [
        ("f32", limits.f32_flops, BLACK),
        ("bf16", limits.bf16_flops, BLUE),
        ("int8", limits.int8_ops, RED),
    ];
    for (name, flops, color) in roofs {
        // From where the picture begins to the ridge, and on.
        let start = (low * 1e9 / limits.bytes).max(left);
        let ridge = flops / limits.bytes;
        let line = [start, ridge.clamp(start, right), right];
        let line = line.map(|x| (x, (x * limits.bytes).min(flops) / 1e9));
        chart
            .draw_series(LineSeries::new(line, &color))?
            .label(format!("{name} {:.0} GFLOP/s", flops / 1e9))
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color));
    }
    let kinds: Vec<OpKind> = OpKind::ALL.to_vec();
    for (i, kind) in kinds.iter().enumerate() {
        let color = Palette99::pick(i).to_rgba();
        let of: Vec<_> = points
            .iter()
            .filter(|p| p.2.case.starts_with(&format!("{}/", kind.name())))
            .map(|p| Circle::new((p.0, p.1), 4, color.filled()))
            .collect();
        if !of.is_empty() {
            chart
                .draw_series(of)?
                .label(kind.name())
                .legend(move |(x, y)| Circle::new((x + 8, y), 4, color.filled()));
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    root.present()?;
    Ok(())
}
