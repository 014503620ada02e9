//! `gristmill replay`: captured op calls on any device.

use crate::{device::DeviceArg, print_line};
use anyhow::{Context, Error, Result, bail};
use gristmill::{
    Element, Fallback, Op, OpKind, Precision, Queue, Tensor, TensorDesc,
    capture::{self, CallFile, Stored, Tolerance},
    conformance::tolerance,
    op::Arg,
    reference::{self, Array, Output},
};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Run captured op calls and compare the results with what they should be: the expected outputs
/// of the file within its tolerance, else the f64 reference within the bound of the conformance
/// suite. docs/capture.md describes the files.
#[derive(clap::Args)]
pub struct Args {
    /// The captures.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    device: DeviceArg,
    /// Replace the precision of the captured calls.
    #[arg(long, value_enum)]
    precision: Option<Level>,
    /// What to do with ops that the device lacks.
    #[arg(long, value_enum, default_value = "decompose")]
    fallback: Route,
    /// One line of JSON for each file.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Level {
    /// Activations as they are.
    F32,
    /// Activations may be rounded to 16 bits.
    F16,
    /// Activations may be rounded to 8 bits.
    Q8,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Route {
    /// Refuse.
    Deny,
    /// Run the op in parts.
    Decompose,
    /// That, or else on the host.
    Host,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let fallback = match args.fallback {
        Route::Deny => Fallback::Deny,
        Route::Decompose => Fallback::Decompose,
        Route::Host => Fallback::Host,
    };
    let forced = std::env::var_os(gristmill::queue::KERNEL_VAR);
    let forced = forced.as_ref().map(|name| name.to_string_lossy());
    let mut queue = Queue::with_kernel(&device, forced.as_deref())?.fallback(fallback);
    let mut failed = 0;
    for path in &args.files {
        let done = replay(path, args.precision, &mut queue);
        let name = path.display();
        let bad = match &done {
            Ok(results) => results.iter().any(|r| r.failure.is_some()),
            Err(_) => true,
        };
        failed += usize::from(bad);
        if args.json {
            let line = match &done {
                Ok(r) => {
                    json!({"file": name.to_string(), "passed": !bad, "outputs": r.iter().map(Measured::json).collect::<Vec<_>>()})
                }
                Err(e) => {
                    json!({"file": name.to_string(), "passed": false, "error": format!("{e:#}")})
                }
            };
            print_line(line)?;
            continue;
        }
        match done {
            Ok(results) => results
                .iter()
                .try_for_each(|r| print_line(format_args!("{name}: {}", r.line())))?,
            Err(e) => eprintln!("error: {name}: {e:#}"),
        }
    }
    let passed = args.files.len() - failed;
    eprintln!("{passed} passed, {failed} failed on {}", device.info().id);
    if failed > 0 {
        bail!("{failed} of {} captures failed", args.files.len());
    }
    Ok(())
}

/// What results are compared with where the file says.
const EXPECTED: &str = "the expected output";

/// How one written operand compares.
struct Measured {
    label: String,
    against: &'static str,
    nmse: f64,
    max_abs: f64,
    /// Largest error as a fraction of its bound.
    of_bound: f64,
    failure: Option<String>,
    /// Normalized squared difference from what the capturing device gave.
    observed: Option<f64>,
}

impl Measured {
    fn line(&self) -> String {
        let verdict = match &self.failure {
            None => "ok".to_owned(),
            Some(why) => format!("FAILED: {why}"),
        };
        let observed = match self.observed {
            Some(o) => format!(", nmse {o:.2e} against the capturing device"),
            None => String::new(),
        };
        format!(
            "{} against {}: nmse {:.2e}, max abs {:.2e}, {:.0}% of the bound{observed}: {verdict}",
            self.label,
            self.against,
            self.nmse,
            self.max_abs,
            100.0 * self.of_bound
        )
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "output": self.label, "against": self.against, "nmse": self.nmse,
            "max_abs": self.max_abs, "of_bound": self.of_bound, "observed_nmse": self.observed,
            "failure": self.failure,
        })
    }
}

fn replay(path: &Path, precision: Option<Level>, queue: &mut Queue) -> Result<Vec<Measured>> {
    let mut call = CallFile::parse(&std::fs::read(path)?).map_err(Error::msg)?;
    if let Some(level) = precision {
        set_precision(&mut call.op, level);
    }
    let question = call.question().map_err(Error::msg)?;
    // An empty tolerance is none.
    let tolerance = call.tolerance.filter(|t| *t != Tolerance::default());
    let all_expected = capture::labels(&question)
        .iter()
        .all(|(l, arg)| !arg.role.writes() || call.expected.contains_key(l));
    // Where something is not expected explicitly the reference says what should be there, and
    // where no tolerance is given, how far from it a result may be.
    let has_reference = question.kind() != OpKind::Custom;
    let refer = match fits_reference(&question) {
        Err(why) if has_reference && !all_expected => return Err(why),
        fits => fits.is_ok() && has_reference && !(all_expected && tolerance.is_some()),
    };
    let order = call.upload(queue)?;
    queue.run(order.clone())?;
    queue.finish()?;
    let labels = capture::labels(&order);
    let mut written: Vec<(String, Arg, Tensor)> = Vec::new();
    for ((label, arg), (_, t)) in labels.into_iter().zip(order.operands()) {
        if arg.role.writes() {
            written.push((label, arg, t));
        }
    }
    let truth = match refer.then(|| reference_of(&call)) {
        Some(Err(why)) if !all_expected => return Err(why),
        Some(Ok(truth)) => truth,
        _ => Vec::new(),
    };
    let mut results = Vec::new();
    for (i, (label, arg, t)) in written.iter().enumerate() {
        let got = numbers(t.desc().contiguous(), queue.download_bytes(t)?);
        let observed = call
            .observed
            .get(label)
            .map(|o| nmse(&stored_numbers(o), &got));
        let mut m = match (call.expected.get(label), truth.get(i)) {
            (Some(e), Some(bound)) if tolerance.is_none() => {
                let want = around(e, bound, t.element());
                Measured {
                    against: EXPECTED,
                    nmse: nmse(&want.values, &got),
                    ..against_reference(&want, &got, t.element(), &question)
                }
            }
            (Some(e), _) => against_expected(e, &got, tolerance, &question, *arg, t.element()),
            (None, Some(want)) => against_reference(want, &got, t.element(), &question),
            (None, None) => bail!("there is no reference for {label}; add expected.{label}"),
        };
        m.label = label.clone();
        m.observed = observed;
        results.push(m);
    }
    Ok(results)
}

/// Is the reference within reach of this machine? It takes its time, and a file of a few bytes may
/// describe operands that no memory holds.
fn fits_reference(question: &Op<TensorDesc>) -> Result<()> {
    const ADVICE: &str = "give expected results and a tolerance";
    let mut numbers = 0u64;
    question.visit(|_, d| numbers = numbers.saturating_add(d.elements()));
    let work = question.flops().max(numbers);
    if work > 10u64.pow(13) {
        bail!(
            "the f64 reference would take {:.1e} operations, more than 1e13; {ADVICE}",
            work as f64
        );
    }
    // Offsets, numbers, magnitudes and slack.
    let bytes = numbers.saturating_mul(32);
    let room = usize::try_from(bytes).is_ok_and(|n| Vec::<u8>::new().try_reserve_exact(n).is_ok());
    if !room {
        bail!("the f64 reference would take {bytes} bytes of memory; {ADVICE}");
    }
    Ok(())
}

fn reference_of(call: &CallFile) -> Result<Vec<Output>> {
    let host = call.host()?;
    let arrays: Op<Array> = host.map(|_, (desc, bytes, offset)| Array {
        desc: *desc,
        bytes: std::sync::Arc::new(bytes.clone()),
        byte_offset: *offset,
    });
    reference::eval(&arrays).context("the reference")
}

fn against_reference(
    want: &Output,
    got: &[f64],
    element: Element,
    question: &Op<TensorDesc>,
) -> Measured {
    let verdict = tolerance::compare(want, got, element, tolerance::coefficient(question));
    Measured {
        label: String::new(),
        against: "the f64 reference",
        nmse: verdict.nmse,
        max_abs: max_abs(&want.values, got),
        of_bound: verdict.worst,
        failure: verdict.failure,
        observed: None,
    }
}

/// The bound of the reference around an expected result, which may itself be rounded: to its own
/// element type, or before that to the one of the output.
fn around(expected: &Stored, bound: &Output, element: Element) -> Output {
    let values = stored_numbers(expected);
    let (own, stored) = (
        element.plain().map_or(0.0, |d| d.epsilon()),
        expected.dtype.epsilon(),
    );
    let exact = bound.magnitudes.is_empty() && bound.slack.is_empty();
    let unit = if exact && stored <= own {
        0.0
    } else {
        stored.max(own)
    };
    let slack = match unit > 0.0 {
        true => values
            .iter()
            .enumerate()
            .map(|(i, v)| bound.slack.get(i).unwrap_or(&0.0) + unit * v.abs())
            .collect(),
        false => bound.slack.clone(),
    };
    Output {
        values,
        slack,
        ..bound.clone()
    }
}

fn against_expected(
    expected: &Stored,
    got: &[f64],
    bound: Option<Tolerance>,
    question: &Op<TensorDesc>,
    arg: Arg,
    element: Element,
) -> Measured {
    let want = stored_numbers(expected);
    let error = nmse(&want, got);
    let mut failure = None;
    let mut worst: f64 = 0.0;
    let mut require = |measure: f64, limit: f64, what: String| {
        let part = if measure == 0.0 { 0.0 } else { measure / limit };
        worst = worst.max(part);
        if (measure.is_nan() || measure > limit) && failure.is_none() {
            failure = Some(what);
        }
    };
    // Without a tolerance, where there is no reference: what the output's element type and the
    // op's arithmetic allow.
    let unit = element.plain().map_or(0.0, |d| d.epsilon());
    let c = tolerance::coefficient(question);
    let bound = bound.unwrap_or(Tolerance {
        nmse: Some((c + unit).powi(2)),
        abs: None,
        rel: None,
    });
    if let Some(limit) = bound.nmse {
        require(
            error,
            limit,
            format!("nmse {error:.2e} is above {limit:.2e}"),
        );
    }
    if bound.abs.is_some() || bound.rel.is_some() {
        let (abs, rel) = (bound.abs.unwrap_or(0.0), bound.rel.unwrap_or(0.0));
        for (i, (&w, &g)) in want.iter().zip(got).enumerate() {
            if w == g || (w.is_nan() && g.is_nan()) {
                continue;
            }
            let limit = abs + rel * w.abs();
            require(
                (w - g).abs(),
                limit,
                format!("{}[{i}] is {g}, expected {w} within {limit:.2e}", arg.name),
            );
        }
    }
    Measured {
        label: String::new(),
        against: EXPECTED,
        nmse: error,
        max_abs: max_abs(&want, got),
        of_bound: worst,
        failure,
        observed: None,
    }
}

fn numbers(desc: TensorDesc, bytes: Vec<u8>) -> Vec<f64> {
    Array::new(desc, bytes).numbers()
}

fn stored_numbers(s: &Stored) -> Vec<f64> {
    match TensorDesc::new(s.dtype, &s.shape) {
        Ok(desc) => numbers(desc, s.bytes.clone()),
        Err(_) => Vec::new(),
    }
}

/// Squared error over squared reference; places that are equal (infinities, NaN in both) count
/// as no error.
fn nmse(want: &[f64], got: &[f64]) -> f64 {
    if want.len() != got.len() {
        return f64::INFINITY;
    }
    let (mut errors, mut squares) = (0.0, 0.0);
    for (&w, &g) in want.iter().zip(got) {
        if w == g || (w.is_nan() && g.is_nan()) {
            squares += if w.is_finite() { w * w } else { 0.0 };
            continue;
        }
        errors += (w - g).powi(2);
        squares += w * w;
    }
    match (errors, squares) {
        (0.0, _) => 0.0,
        (e, s) => e / s.max(f64::MIN_POSITIVE),
    }
}

fn max_abs(want: &[f64], got: &[f64]) -> f64 {
    let pairs = want.iter().zip(got).filter(|(w, g)| w != g);
    pairs.map(|(w, g)| (w - g).abs()).fold(0.0, f64::max)
}

fn set_precision<T>(op: &mut Op<T>, level: Level) {
    let precision = match level {
        Level::F32 => Precision::F32,
        Level::F16 => Precision::HALF,
        Level::Q8 => Precision::Q8,
    };
    match op {
        Op::MatMul(a) => a.precision = precision,
        Op::MatMulMany(a) => a.precision = precision,
        Op::GroupedMatMul(a) => a.precision = precision,
        Op::Attention(a) => a.precision = precision,
        Op::Conv2d(a) => a.precision = precision,
        _ => {}
    }
}
