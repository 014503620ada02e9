//! [`Report`]: what came out, for people, programs and documents.

use super::case::{Case, Tier};
use crate::{
    device::DeviceInfo,
    layout::TensorDesc,
    op::{Kv, Op, OpKind},
};
use std::fmt::Write;

/// How an op was put to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// By one kernel.
    Native,
    /// By one kernel, with weights in the device's own layout.
    Packed,
    /// In parts.
    Parts,
    /// Not at all.
    None,
}

impl Path {
    const fn name(self) -> &'static str {
        match self {
            Path::Native => "native",
            Path::Packed => "packed",
            Path::Parts => "parts",
            Path::None => "none",
        }
    }
}

/// What became of one case on one kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// Within the bounds.
    Passed,
    /// Not; in words.
    Failed(String),
    /// The device refuses the op; its reason.
    Refused(String),
    /// Listed as failing, and fails.
    ExpectedFailure(String),
    /// Listed as unsupported, and refused.
    ExpectedRefusal(String),
    /// Listed as failing or unsupported, but passes: a failure of the list.
    UnexpectedPass(String),
}

impl Status {
    /// True for what must be looked at.
    pub fn is_bad(&self) -> bool {
        matches!(self, Status::Failed(_) | Status::UnexpectedPass(_))
    }

    const fn name(&self) -> &'static str {
        match self {
            Status::Passed => "passed",
            Status::Failed(_) => "failed",
            Status::Refused(_) => "refused",
            Status::ExpectedFailure(_) => "expected_failure",
            Status::ExpectedRefusal(_) => "expected_refusal",
            Status::UnexpectedPass(_) => "unexpected_pass",
        }
    }

    fn why(&self) -> Option<&str> {
        match self {
            Status::Passed => None,
            Status::Failed(s)
            | Status::Refused(s)
            | Status::ExpectedFailure(s)
            | Status::ExpectedRefusal(s)
            | Status::UnexpectedPass(s) => Some(s),
        }
    }
}

/// One case on one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The case.
    pub case: String,
    /// Its op.
    pub op: OpKind,
    /// The element types that decide which kernel runs, e.g. `w q4_k`.
    pub elements: String,
    /// How it ran.
    pub path: Path,
    /// The kernel; none: the device's choice.
    pub kernel: Option<String>,
    /// What became of it.
    pub status: Status,
    /// Largest error as a fraction of its bound.
    pub error: f64,
    /// Squared error over squared reference.
    pub nmse: f64,
}

impl Outcome {
    pub(super) fn new(
        case: &Case,
        question: &Op<TensorDesc>,
        path: Path,
        kernel: Option<String>,
        status: Status,
    ) -> Self {
        Outcome {
            case: case.name.clone(),
            op: question.kind(),
            elements: elements(question),
            path,
            kernel,
            status,
            error: 0.0,
            nmse: 0.0,
        }
    }
}

/// The operands that decide which kernel runs, in words.
fn elements(op: &Op<TensorDesc>) -> String {
    match op {
        Op::MatMul(a) => a.w.logical().element.name(),
        Op::GroupedMatMul(a) => a.w.logical().element.name(),
        Op::MatMulMany(a) => a
            .parts
            .first()
            .map_or(String::new(), |p| p.w.logical().element.name()),
        Op::Attention(a) => {
            let place = match a.kv {
                Kv::Dense { .. } => "dense",
                Kv::Paged { .. } => "paged",
            };
            format!("{place} {}", a.kv.k().element)
        }
        Op::Dequantize(a) => a.w.element.name(),
        Op::Quantize(a) => a.y.element.name(),
        Op::KvWrite(a) => a.kv.k().element.name(),
        Op::GatherRows(a) => a.table.logical().element.name(),
        Op::Copy(a) => format!("{} to {}", a.x.element, a.y.element),
        _ => {
            let mut first = String::new();
            op.visit(|_, d| {
                if first.is_empty() {
                    first = d.element.name();
                }
            });
            first
        }
    }
}

/// Everything that a run found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The device, e.g. `cpu:0`.
    pub device: String,
    /// Its name for people.
    pub device_name: String,
    /// The tier.
    pub tier: Tier,
    /// Cases that the filter let through.
    pub cases: usize,
    /// One for each case and kernel.
    pub outcomes: Vec<Outcome>,
}

/// Outcomes by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Within the bounds.
    pub passed: usize,
    /// Failures, unexpected passes included.
    pub failed: usize,
    /// Refusals, expected ones included.
    pub refused: usize,
    /// Expected failures.
    pub expected: usize,
}

impl Report {
    pub(super) fn new(info: &DeviceInfo, tier: Tier) -> Self {
        Report {
            device: info.id.to_string(),
            device_name: info.name.clone(),
            tier,
            cases: 0,
            outcomes: Vec::new(),
        }
    }

    /// Outcomes by kind.
    pub fn totals(&self) -> Totals {
        let mut t = Totals::default();
        for o in &self.outcomes {
            match o.status {
                Status::Passed => t.passed += 1,
                Status::Failed(_) | Status::UnexpectedPass(_) => t.failed += 1,
                Status::Refused(_) | Status::ExpectedRefusal(_) => t.refused += 1,
                Status::ExpectedFailure(_) => t.expected += 1,
            }
        }
        t
    }

    /// True when nothing failed and something passed.
    pub fn is_success(&self) -> bool {
        let t = self.totals();
        t.failed == 0 && t.passed > 0
    }

    /// What must be looked at.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|o| o.status.is_bad())
    }

    /// Totals, every failure, and refusals by op and reason.
    pub fn text(&self) -> String {
        let mut s = String::new();
        for o in self.failures() {
            let kernel = o.kernel.as_deref().unwrap_or("default");
            let why = o.status.why().unwrap_or_default();
            let _ = writeln!(s, "FAILED {} [{} {kernel}]: {why}", o.case, o.path.name());
        }
        for (op, why, n) in self.refusals() {
            let _ = writeln!(s, "refused {n:4} x {op}: {why}");
        }
        let t = self.totals();
        let _ = writeln!(
            s,
            "{} ({}), {}: {} cases, {} passed, {} failed, {} expected to fail, {} refused",
            self.device,
            self.device_name,
            self.tier.name(),
            self.cases,
            t.passed,
            t.failed,
            t.expected,
            t.refused
        );
        s
    }

    /// Distinct refusals with their counts.
    fn refusals(&self) -> Vec<(OpKind, String, usize)> {
        let mut list: Vec<(OpKind, String, usize)> = Vec::new();
        for o in &self.outcomes {
            if let Status::Refused(why) | Status::ExpectedRefusal(why) = &o.status {
                match list.iter_mut().find(|l| l.0 == o.op && l.1 == *why) {
                    Some(l) => l.2 += 1,
                    None => list.push((o.op, why.clone(), 1)),
                }
            }
        }
        list
    }

    /// One JSON object: device, totals, and every outcome.
    pub fn json(&self) -> String {
        let t = self.totals();
        let outcomes: Vec<serde_json::Value> = self
            .outcomes
            .iter()
            .map(|o| {
                serde_json::json!({
                    "case": o.case,
                    "op": o.op.name(),
                    "elements": o.elements,
                    "path": o.path.name(),
                    "kernel": o.kernel,
                    "status": o.status.name(),
                    "why": o.status.why(),
                    // JSON has no infinities.
                    "error_over_bound": o.error.is_finite().then_some(o.error),
                    "nmse": o.nmse.is_finite().then_some(o.nmse),
                })
            })
            .collect();
        serde_json::json!({
            "device": self.device,
            "device_name": self.device_name,
            "tier": self.tier.name(),
            "cases": self.cases,
            "passed": t.passed,
            "failed": t.failed,
            "refused": t.refused,
            "expected_failures": t.expected,
            "outcomes": outcomes,
        })
        .to_string()
    }

    /// Totals by op and kernel as a Markdown table.
    pub fn markdown(&self) -> String {
        let mut rows: Vec<(OpKind, String, [usize; 3], f64, f64)> = Vec::new();
        for o in &self.outcomes {
            let mut name = o.kernel.clone().unwrap_or_else(|| match o.path {
                Path::Parts => "in parts".to_owned(),
                Path::None => "refused".to_owned(),
                _ => "default".to_owned(),
            });
            if o.path == Path::Packed {
                name += " (packed)";
            }
            let i = match rows.iter().position(|r| r.0 == o.op && r.1 == name) {
                Some(i) => i,
                None => {
                    rows.push((o.op, name, [0; 3], 0.0, 0.0));
                    rows.len() - 1
                }
            };
            let row = &mut rows[i];
            match o.status {
                Status::Passed => {
                    row.2[0] += 1;
                    row.3 = row.3.max(o.error);
                    row.4 = row.4.max(o.nmse);
                }
                Status::Refused(_) | Status::ExpectedRefusal(_) => row.2[2] += 1,
                _ => row.2[1] += 1,
            }
        }
        rows.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let mut s = format!(
            "{} ({}), tier {}\n\n| op | kernel | passed | failed | refused | worst error / bound | worst NMSE |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |\n",
            self.device,
            self.device_name,
            self.tier.name()
        );
        for (op, kernel, [passed, failed, refused], error, nmse) in rows {
            let _ = writeln!(
                s,
                "| {op} | {kernel} | {passed} | {failed} | {refused} | {error:.2} | {nmse:.1e} |"
            );
        }
        s
    }
}
