//! Captures: one op call in one safetensors file, to replay on any device.
//!
//! The format is documented in `docs/capture.md`, so that a capture can be written by hand from
//! any language that writes safetensors.

mod file;
mod record;

pub use file::{CallFile, Operand, Stored, Tolerance, View};
pub use record::{CAPTURE_VAR, Recorder};

use crate::{
    error::{Error, Result},
    op::{Arg, Op},
};
use std::collections::HashMap;

/// Names every operand: the argument's name, with `.1`, `.2`, .. on repetition (the weights and
/// results of a `mat_mul_many`).
pub fn labels<T>(op: &Op<T>) -> Vec<(String, Arg)> {
    let mut seen: HashMap<&'static str, usize> = HashMap::new();
    let mut all = Vec::new();
    op.visit(|arg, _| {
        let n = seen.entry(arg.name).or_default();
        all.push(match *n {
            0 => (arg.name.to_owned(), arg),
            n => (format!("{}.{n}", arg.name), arg),
        });
        *n += 1;
    });
    all
}

fn file_error(path: &std::path::Path, why: impl std::fmt::Display) -> Error {
    Error::File {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

/// [`Error::File`] from any displayable cause.
fn at<T, E: std::fmt::Display>(path: &std::path::Path, r: Result<T, E>) -> Result<T> {
    r.map_err(|e| file_error(path, e))
}
