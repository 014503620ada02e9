//! Reading, checking and writing capture files.

use super::{at, file_error, labels};
use crate::{
    device::Usage,
    element::{DType, Element},
    error::{Error, Result},
    layout::TensorDesc,
    op::{Arg, Op, Role},
    queue::Queue,
    tensor::{Buffer, Tensor},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::Path,
};

/// Version of the format.
const VERSION: &str = "1";
/// Prefix of expected results.
const EXPECTED: &str = "expected.";
/// Prefix of results that the capturing device gave.
const OBSERVED: &str = "observed.";

/// An operand: the name of a stored tensor, or a view of one.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Operand {
    /// All of a stored plain tensor, contiguous.
    Whole(String),
    /// A view.
    View(View),
}

// Not derived: a derived one forgets what is wrong with a view.
impl<'de> Deserialize<'de> for Operand {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Operand;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a tensor or {\"tensor\": name, ..}")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Operand, E> {
                Ok(Operand::Whole(name.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Operand, A::Error> {
                View::deserialize(MapAccessDeserializer::new(map)).map(Operand::View)
            }
        }
        d.deserialize_any(Either)
    }
}

impl Operand {
    /// Name of the stored tensor.
    pub fn tensor(&self) -> &str {
        match self {
            Operand::Whole(name) => name,
            Operand::View(v) => &v.tensor,
        }
    }
}

/// A view of the bytes of a stored tensor. Operands that name one tensor share its memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Name of the stored tensor; an output may name one that is not stored, which starts as
    /// zeros.
    pub tensor: String,
    /// Element type, such as `f32` or `q4_k`. Default: that of the stored tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub element: Option<Element>,
    /// Shape in elements. Default: that of the stored tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<u32>>,
    /// Strides in elements, or in blocks for quantized formats. Default: contiguous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strides: Option<Vec<i64>>,
    /// Bytes from the start of the tensor to the first cell.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Plain numbers as they are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<u32>,
    /// Row-major bytes.
    pub bytes: Vec<u8>,
}

/// How far results may be from the expected ones: every bound that is given must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tolerance {
    /// Normalized squared error: sum of squared errors over sum of squared expected values.
    pub nmse: Option<f64>,
    /// Absolute part of the elementwise bound `|error| <= abs + rel * |expected|`.
    pub abs: Option<f64>,
    /// Relative part of the elementwise bound.
    pub rel: Option<f64>,
}

/// One op call.
#[derive(Clone, Debug, PartialEq)]
pub struct CallFile {
    /// The op over named operands.
    pub op: Op<Operand>,
    /// Tensors by name: inputs, and outputs that do not start as zeros.
    pub tensors: BTreeMap<String, Stored>,
    /// Expected results by operand label, row-major.
    pub expected: BTreeMap<String, Stored>,
    /// What the capturing device gave, by operand label.
    pub observed: BTreeMap<String, Stored>,
    /// Bound for the expected results.
    pub tolerance: Option<Tolerance>,
    /// Free text: device, driver, version.
    pub note: Option<String>,
}

impl CallFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::File`] for a file that cannot be read or is no capture.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = at(path, std::fs::read(path))?;
        Self::parse(&bytes).map_err(|why| file_error(path, why))
    }

    /// Parses the bytes of a file; total on any input.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (_, header) = SafeTensors::read_metadata(bytes)
            .map_err(|e| format!("not a safetensors file: {e}"))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let empty = HashMap::new();
        let meta = header.metadata().as_ref().unwrap_or(&empty);
        let op = meta
            .get("op")
            .ok_or("the metadata has no \"op\": not a capture (see docs/capture.md)")?;
        if let Some(version) = meta.get("gristmill").filter(|v| *v != VERSION) {
            return Err(format!(
                "is of version {version:?} of the format; this is a reader of {VERSION:?}"
            ));
        }
        let op = parse_op(op).map_err(|e| format!("metadata \"op\": {e}"))?;
        let tolerance = meta
            .get("tolerance")
            .map(|t| serde_json::from_str(t).map_err(|e| format!("metadata \"tolerance\": {e}")))
            .transpose()?;
        let mut call = CallFile {
            op,
            tensors: BTreeMap::new(),
            expected: BTreeMap::new(),
            observed: BTreeMap::new(),
            tolerance,
            note: meta.get("note").cloned(),
        };
        let written: Vec<String> = labels(&call.op)
            .into_iter()
            .filter(|(_, arg)| arg.role.writes())
            .map(|(label, _)| label)
            .collect();
        for (name, view) in file.iter() {
            let (map, key) = match (name.strip_prefix(EXPECTED), name.strip_prefix(OBSERVED)) {
                (Some(label), _) => (&mut call.expected, label),
                (_, Some(label)) => (&mut call.observed, label),
                _ => (&mut call.tensors, name),
            };
            if key.len() == name.len() {
                map.insert(key.to_owned(), stored(name, &view)?);
                continue;
            }
            if !written.iter().any(|l| l == key) {
                return Err(format!(
                    "tensor {name:?}: the op writes no operand {key:?}; it writes {}",
                    written.join(", ")
                ));
            }
            map.insert(key.to_owned(), result(name, &view)?);
        }
        call.question()?;
        Ok(call)
    }

    /// The op over tensor descriptions.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn question(&self) -> Result<Op<TensorDesc>, String> {
        let question = self
            .op
            .try_map(|arg, o| self.describe(arg, o))
            .map_err(|why| format!("{}: {why}", self.op.kind().name()))?;
        question.check().map_err(|e| e.to_string())?;
        let labels = labels(&question);
        let mut problem = None;
        let mut at = 0;
        question.visit(|_, d| {
            let label = &labels[at].0;
            for (prefix, results) in [(OBSERVED, &self.observed), (EXPECTED, &self.expected)] {
                if let Some(r) = results.get(label)
                    && r.shape != d.shape()
                {
                    problem = Some(format!(
                        "{prefix}{label} has shape {:?}, the operand is {d}",
                        r.shape
                    ));
                }
            }
            at += 1;
        });
        match problem {
            Some(why) => Err(why),
            None => Ok(question),
        }
    }

    fn describe(&self, arg: Arg, o: &Operand) -> Result<TensorDesc, String> {
        let (desc, offset, name) = self.resolve(o).map_err(|e| format!("{}: {e}", arg.name))?;
        match self.tensors.get(name) {
            Some(t) => {
                let end = offset.checked_add(desc.span_bytes());
                if end.is_none_or(|end| end > t.bytes.len() as u64) {
                    return Err(format!(
                        "{}: {desc} at byte {offset} reaches beyond tensor {name:?} of {} bytes",
                        arg.name,
                        t.bytes.len()
                    ));
                }
            }
            None if arg.role == Role::In => {
                return Err(format!("{}: the file has no tensor {name:?}", arg.name));
            }
            None => {}
        }
        if !offset.is_multiple_of(desc.element.align()) {
            return Err(format!(
                "{}: offset {offset} is not aligned to the {} bytes of {}",
                arg.name,
                desc.element.align(),
                desc.element
            ));
        }
        Ok(desc)
    }

    fn resolve<'a>(&self, o: &'a Operand) -> Result<(TensorDesc, u64, &'a str), String> {
        let whole = |name: &str| {
            self.tensors.get(name).ok_or_else(|| {
                format!("the file has no tensor {name:?} to take element type and shape from")
            })
        };
        let view = match o {
            Operand::Whole(name) => {
                let t = whole(name)?;
                let desc = TensorDesc::new(t.dtype, &t.shape).map_err(|e| e.to_string())?;
                return Ok((desc, 0, name));
            }
            Operand::View(v) => v,
        };
        let element = match view.element {
            Some(e) => e,
            None => whole(&view.tensor)?.dtype.into(),
        };
        let shape = match &view.shape {
            Some(s) => s.clone(),
            None => whole(&view.tensor)?.shape.clone(),
        };
        let desc = match &view.strides {
            Some(strides) => TensorDesc::strided(element, &shape, strides),
            None => TensorDesc::new(element, &shape),
        };
        Ok((desc.map_err(|e| e.to_string())?, view.offset, &view.tensor))
    }

    /// Uploads the tensors and names the op over them. Operands of one tensor share a buffer.
    ///
    /// # Errors
    /// As [`Queue::alloc`]; [`Error::InvalidTensor`] for a call that [`CallFile::question`]
    /// refuses.
    pub fn upload(&self, queue: &mut Queue) -> Result<Op<Tensor>> {
        let question = self
            .question()
            .map_err(|why| Error::InvalidTensor(why.into()))?;
        let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
        let mut spans = Vec::new();
        question.visit(|_, d| spans.push(d.span_bytes()));
        let mut i = 0;
        self.op.visit(|_, o| {
            let offset = match o {
                Operand::Whole(_) => 0,
                Operand::View(v) => v.offset,
            };
            let size = sizes.entry(o.tensor().to_owned()).or_default();
            *size = (*size).max(offset.saturating_add(spans[i]));
            i += 1;
        });
        let mut buffers: HashMap<String, Buffer> = HashMap::new();
        for (name, size) in sizes {
            let stored = self.tensors.get(&name);
            let bytes = stored.map_or(size, |t| t.bytes.len() as u64);
            let buffer = Buffer::new(queue.device(), bytes, Usage::Staging)?;
            if let (Some(t), Ok(len)) = (stored, u32::try_from(bytes)) {
                let all = Tensor::new(&buffer, 0, TensorDesc::new(DType::U8, &[len])?)?;
                queue.write_bytes(&all, &t.bytes)?;
            } else if stored.is_some() {
                return Err(Error::TooLarge {
                    what: "captured tensor",
                    asked: bytes,
                    max: u64::from(u32::MAX),
                });
            }
            buffers.insert(name, buffer);
        }
        self.op.try_map(|_, o| {
            let (desc, offset, name) = self
                .resolve(o)
                .map_err(|why| Error::InvalidTensor(why.into()))?;
            match buffers.get(name) {
                Some(buffer) => Tensor::new(buffer, offset, desc),
                None => Err(Error::InvalidTensor("operand without a tensor".into())),
            }
        })
    }

    /// Host bytes of every operand, as the reference takes them: description, bytes of the whole
    /// stored tensor (zeros for outputs that are not stored) and offset.
    ///
    /// # Errors
    /// [`Error::InvalidTensor`] for a call that [`CallFile::question`] refuses.
    pub fn host(&self) -> Result<Op<(TensorDesc, Vec<u8>, u64)>> {
        let wrong = |why: String| Error::InvalidTensor(why.into());
        self.question().map_err(wrong)?;
        self.op.try_map(|_, o| {
            let (desc, offset, name) = self.resolve(o).map_err(wrong)?;
            let need = offset.saturating_add(desc.span_bytes());
            let bytes = match self.tensors.get(name) {
                Some(t) => t.bytes.clone(),
                None => zeros(need)?,
            };
            Ok((desc, bytes, offset))
        })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut meta = HashMap::new();
        meta.insert("gristmill".to_owned(), VERSION.to_owned());
        meta.insert("op".to_owned(), at(path, serde_json::to_string(&self.op))?);
        if let Some(t) = &self.tolerance {
            meta.insert("tolerance".to_owned(), at(path, serde_json::to_string(t))?);
        }
        if let Some(note) = &self.note {
            meta.insert("note".to_owned(), note.clone());
        }
        let named = self
            .tensors
            .iter()
            .map(|(n, t)| (n.clone(), t))
            .chain(
                self.expected
                    .iter()
                    .map(|(n, t)| (format!("{EXPECTED}{n}"), t)),
            )
            .chain(
                self.observed
                    .iter()
                    .map(|(n, t)| (format!("{OBSERVED}{n}"), t)),
            );
        let views = named
            .map(|(name, t)| {
                let shape = t.shape.iter().map(|&d| d as usize).collect();
                let view = TensorView::new(safetensors_dtype(t.dtype), shape, &t.bytes);
                at(path, view).map(|v| (name, v))
            })
            .collect::<Result<Vec<_>>>()?;
        at(
            path,
            safetensors::serialize_to_file(views, Some(meta), path),
        )
    }
}

/// Zeros, or an error where the host has no room for them: sizes come from the file.
fn zeros(len: u64) -> Result<Vec<u8>> {
    let full = |_| Error::OutOfMemory {
        asked: len,
        free: None,
    };
    let n = usize::try_from(len).map_err(|_| Error::TooLarge {
        what: "captured tensor",
        asked: len,
        max: usize::MAX as u64,
    })?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(n).map_err(full)?;
    bytes.resize(n, 0);
    Ok(bytes)
}

/// The op of the metadata; errors name the op and the operand.
fn parse_op(text: &str) -> Result<Op<Operand>, String> {
    // The operands stay JSON at first, so that what is wrong with one can be said of it.
    let op: Op<serde_json::Value> =
        serde_json::from_str(text).map_err(|e| match serde_json::from_str(text) {
            Ok(Tag { op }) => format!("{op}: {e}"),
            Err(_) => e.to_string(),
        })?;
    op.try_map(|arg, o| {
        Operand::deserialize(o).map_err(|e| format!("{}: {}: {e}", op.kind().name(), arg.name))
    })
}

/// The name of an op alone.
#[derive(Deserialize)]
struct Tag {
    op: String,
}

/// A result to compare with; numpy's f64 is read as f32.
fn result(name: &str, view: &TensorView<'_>) -> Result<Stored, String> {
    if view.dtype() != Dtype::F64 {
        return stored(name, view);
    }
    let (numbers, _) = view.data().as_chunks::<8>();
    Ok(Stored {
        dtype: DType::F32,
        shape: shape(name, view)?,
        bytes: numbers
            .iter()
            .flat_map(|b| (f64::from_le_bytes(*b) as f32).to_le_bytes())
            .collect(),
    })
}

fn shape(name: &str, view: &TensorView<'_>) -> Result<Vec<u32>, String> {
    view.shape()
        .iter()
        .map(|&d| u32::try_from(d).map_err(|_| format!("tensor {name:?} has an axis above 2^32")))
        .collect()
}

fn stored(name: &str, view: &TensorView<'_>) -> Result<Stored, String> {
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F8_E4M3 => DType::F8E4M3,
        Dtype::F8_E5M2 => DType::F8E5M2,
        Dtype::I8 => DType::I8,
        Dtype::U8 | Dtype::BOOL => DType::U8,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::I64 => DType::I64,
        other => {
            return Err(format!(
                "tensor {name:?} is {other:?}; expected F32, F16, BF16, F8_E4M3, F8_E5M2, I8, U8, BOOL, I32, U32 or I64"
            ));
        }
    };
    Ok(Stored {
        dtype,
        shape: shape(name, view)?,
        bytes: view.data().to_vec(),
    })
}

fn safetensors_dtype(d: DType) -> Dtype {
    match d {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F8E4M3 => Dtype::F8_E4M3,
        DType::F8E5M2 => Dtype::F8_E5M2,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::I32 => Dtype::I32,
        DType::U32 => Dtype::U32,
        DType::I64 => Dtype::I64,
    }
}

#[cfg(test)]
mod tests;
