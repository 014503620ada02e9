//! Writing op calls as they happen.

use super::{CallFile, Operand, Stored, View, file_error, labels};
use crate::{
    element::{DType, Element},
    error::Result,
    layout::TensorDesc,
    op::Op,
    queue::Queue,
    tensor::{Buffer, Tensor},
};
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

/// Environment variable that names the folder for captures.
pub const CAPTURE_VAR: &str = "GRISTMILL_CAPTURE";

/// Alignment of the cut of a buffer that is stored, so that offsets stay aligned.
const CUT: u64 = 256;

/// Writes each distinct op call (same op, attributes, element types, shapes and strides) once:
/// its inputs, and what the device made of them.
#[derive(Debug)]
pub struct Recorder {
    dir: PathBuf,
    seen: HashSet<Op<TensorDesc>>,
    count: usize,
}

/// A call whose inputs are stored; `None` when an equal call was written before.
#[derive(Debug)]
pub(crate) struct Call(Option<CallFile>);

impl Recorder {
    /// Writes to `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) when the folder cannot be made.
    pub fn new(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir).map_err(|e| file_error(&dir, e))?;
        Ok(Recorder {
            dir,
            seen: HashSet::new(),
            count: 0,
        })
    }

    pub(crate) fn record_inputs(&mut self, queue: &mut Queue, op: &Op<Tensor>) -> Result<Call> {
        let question = op.map(|_, t| t.desc());
        if !self.seen.insert(question) {
            return Ok(Call(None));
        }
        // What each buffer must hold, as one range of bytes.
        let mut cuts: Vec<(Buffer, u64, u64)> = Vec::new();
        op.visit(|_, t| {
            let range = t.byte_range();
            let start = range.start / CUT * CUT;
            match cuts.iter_mut().find(|c| c.0.is_same(t.buffer())) {
                Some(c) => (c.1, c.2) = (c.1.min(start), c.2.max(range.end)),
                None => cuts.push((t.buffer().clone(), start, range.end)),
            }
        });
        let mut tensors = BTreeMap::new();
        for (i, (buffer, start, end)) in cuts.iter().enumerate() {
            let bytes = read(queue, buffer, *start, *end)?;
            let stored = Stored {
                dtype: DType::U8,
                shape: vec![u32::try_from(bytes.len()).unwrap_or(u32::MAX)],
                bytes,
            };
            tensors.insert(format!("buffer.{i}"), stored);
        }
        let named = op.map(|_, t| {
            let i = cuts
                .iter()
                .position(|c| c.0.is_same(t.buffer()))
                .unwrap_or_default();
            let desc = t.desc();
            Operand::View(View {
                tensor: format!("buffer.{i}"),
                element: Some(desc.element),
                shape: Some(desc.shape().to_vec()),
                strides: (!desc.is_contiguous()).then(|| desc.strides().to_vec()),
                offset: t.byte_offset() - cuts[i].1,
            })
        });
        let info = queue.device().info();
        Ok(Call(Some(CallFile {
            op: named,
            tensors,
            expected: BTreeMap::new(),
            observed: BTreeMap::new(),
            tolerance: None,
            note: Some(format!(
                "{} {} on {} ({})",
                env!("CARGO_PKG_NAME"),
                env!("CARGO_PKG_VERSION"),
                info.id,
                info.name
            )),
        })))
    }

    pub(crate) fn record_outputs(
        &mut self,
        queue: &mut Queue,
        op: &Op<Tensor>,
        call: Call,
    ) -> Result<()> {
        let Some(mut file) = call.0 else {
            return Ok(());
        };
        let written: Vec<(String, Tensor)> = labels(op)
            .into_iter()
            .zip(op.operands())
            .filter(|((_, arg), _)| arg.role.writes())
            .map(|((label, _), (_, t))| (label, t))
            .collect();
        for (label, t) in written {
            if let Element::Plain(dtype) = t.element() {
                let stored = Stored {
                    dtype,
                    shape: t.shape().to_vec(),
                    bytes: queue.download_bytes(&t)?,
                };
                file.observed.insert(label, stored);
            }
        }
        let name = format!(
            "{}-{:05}-{}.safetensors",
            std::process::id(),
            self.count,
            op.kind()
        );
        self.count += 1;
        file.write(&self.dir.join(name))
    }
}

fn read(queue: &mut Queue, buffer: &Buffer, start: u64, end: u64) -> Result<Vec<u8>> {
    if end <= start {
        return Ok(Vec::new());
    }
    let len = u32::try_from(end - start).map_err(|_| crate::Error::TooLarge {
        what: "captured tensor",
        asked: end - start,
        max: u64::from(u32::MAX),
    })?;
    let all = Tensor::new(buffer, start, TensorDesc::new(DType::U8, &[len])?)?;
    queue.download_bytes(&all)
}
