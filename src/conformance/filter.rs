//! What to run, and what is known to be missing.

use super::{
    case::{Case, Tier, matches},
    report::Status,
};
use crate::{device::KernelId, op::OpKind};

/// Which cases and kernels to run.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Cases up to this tier.
    pub tier: Tier,
    /// Part of the case's name, or a pattern with `*` and `?`.
    pub name: Option<String>,
    /// One op.
    pub op: Option<OpKind>,
    /// Part of the kernel's name, or a pattern.
    pub kernel: Option<String>,
    /// Run ops that the device refuses in parts, where they have parts.
    pub decompose: bool,
}

impl Filter {
    /// Every case of a tier.
    pub fn new(tier: Tier) -> Self {
        Filter {
            tier,
            ..Filter::default()
        }
    }

    /// Only cases whose name matches.
    #[must_use]
    pub fn name(mut self, pattern: impl Into<String>) -> Self {
        self.name = Some(pattern.into());
        self
    }

    /// Only cases of one op.
    #[must_use]
    pub fn op(mut self, op: OpKind) -> Self {
        self.op = Some(op);
        self
    }

    /// Only kernels whose name matches.
    #[must_use]
    pub fn kernel(mut self, pattern: impl Into<String>) -> Self {
        self.kernel = Some(pattern.into());
        self
    }

    /// Also runs refused ops in parts.
    #[must_use]
    pub fn decompose(mut self) -> Self {
        self.decompose = true;
        self
    }

    /// Does a case pass, its tier aside?
    pub fn accepts(&self, case: &Case) -> bool {
        self.op.is_none_or(|op| case.op.kind() == op)
            && self.name.as_ref().is_none_or(|p| matches(p, &case.name))
    }

    pub(super) fn accepts_kernel(&self, kernel: Option<KernelId>) -> bool {
        match (&self.kernel, kernel) {
            (None, _) => true,
            (Some(p), Some(id)) => matches(p, id.0),
            (Some(_), None) => false,
        }
    }
}

/// Expected shortcomings as data: (pattern, reason). A pattern is matched with the case's name and
/// with `kernel@case`, as [`matches()`] does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expect<'a> {
    /// Cases that must be refused; running one is a failure.
    pub unsupported: &'a [(&'a str, &'a str)],
    /// Cases that must fail; passing is a failure.
    pub failing: &'a [(&'a str, &'a str)],
    /// Every other refusal is a failure.
    pub complete: bool,
}

impl Expect<'_> {
    fn find<'a>(list: &[(&'a str, &'a str)], case: &str, kernel: Option<&str>) -> Option<&'a str> {
        let full = kernel.map(|k| format!("{k}@{case}"));
        list.iter()
            .find(|(p, _)| matches(p, case) || full.as_ref().is_some_and(|f| matches(p, f)))
            .map(|(_, reason)| *reason)
    }

    pub(super) fn judge(&self, case: &str, kernel: Option<&str>, status: Status) -> Status {
        let refusal = Expect::find(self.unsupported, case, kernel);
        let failure = Expect::find(self.failing, case, kernel);
        match status {
            Status::Refused(why) => match refusal {
                Some(reason) => Status::ExpectedRefusal(reason.to_owned()),
                None if self.complete => {
                    Status::Failed(format!("refused, which is not expected: {why}"))
                }
                None => Status::Refused(why),
            },
            Status::Passed if refusal.is_some() => Status::UnexpectedPass(format!(
                "runs, but is listed as unsupported: {}",
                refusal.unwrap_or_default()
            )),
            Status::Passed if failure.is_some() => Status::UnexpectedPass(format!(
                "passes, but is listed as failing: {}",
                failure.unwrap_or_default()
            )),
            Status::Failed(why) => match failure {
                Some(reason) => Status::ExpectedFailure(format!("{reason} ({why})")),
                None => Status::Failed(why),
            },
            other => other,
        }
    }
}
