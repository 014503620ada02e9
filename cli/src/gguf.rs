//! A reader of GGUF containers, total on damaged files.
//!
//! The crates that read GGUF either reserve memory for counts taken from the
//! file before checking them, or refuse a whole file for a tensor type or a
//! metadata key that they do not know. This reader keeps the file mapped and
//! decodes on demand: opening it allocates one small record per tensor and
//! key, array values (vocabularies of 262144 strings) stay where they lie, and
//! a tensor type is a number that only the user of that tensor must know.
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use memmap2::Mmap;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// `GGML_MAX_DIMS`.
const MAX_DIMS: u32 = 4;
/// Arrays of arrays are legal; no file in use goes deeper than two.
const MAX_NESTING: u32 = 4;

/// Ids of metadata value types.
mod kind {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

/// One metadata value. Strings and arrays are ranges of the file.
#[derive(Debug, Clone)]
enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    String(Range<usize>),
    Array {
        kind: u32,
        len: u64,
        at: Range<usize>,
    },
}

/// Where a tensor lies and what it claims to be.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// The type id of ggml; may be one that nothing here knows.
    pub ggml_type: u32,
    /// Row-major shape, outermost first (GGUF stores the reverse).
    pub shape: Vec<usize>,
    /// Start of the data, from the start of the file.
    start: usize,
}

/// An open GGUF file.
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorInfo>,
    /// Where the tensor data begins.
    data: usize,
}

impl Gguf {
    /// Maps and indexes `path`.
    ///
    /// # Errors
    /// The file is absent, truncated, of another kind or version, big-endian,
    /// or says something about itself that cannot be.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        ensure!(
            file.metadata()?.is_file(),
            "{} is not a file",
            path.display()
        );
        // SAFETY: the map is private and read only, and every access goes through
        // a bounds-checked slice of the length mapped here. As for every program
        // that maps a model file, another process must not shorten it meanwhile.
        let map = unsafe { Mmap::map(&file) }
            .with_context(|| format!("cannot map {}", path.display()))?;
        let (metadata, tensors, data) =
            index(&map).with_context(|| format!("{}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            map,
            metadata,
            tensors,
            data,
        })
    }

    /// The file this was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor, in no order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, t)| (name.as_str(), t))
    }

    /// The tensor called `name`, if the file has it.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// Bytes of the file after its header: all tensors and what pads them.
    pub fn tensor_bytes(&self) -> u64 {
        self.map.len().saturating_sub(self.data) as u64
    }

    /// The first `len` bytes of `tensor`.
    ///
    /// # Errors
    /// The file ends before.
    pub fn bytes(&self, name: &str, tensor: &TensorInfo, len: usize) -> Result<&[u8]> {
        tensor
            .start
            .checked_add(len)
            .and_then(|end| self.map.get(tensor.start..end))
            .ok_or_else(|| {
                anyhow!(
                    "{}: truncated: tensor {name} needs bytes {}..{} of a file of {} bytes",
                    self.path.display(),
                    tensor.start,
                    tensor.start as u128 + len as u128,
                    self.map.len()
                )
            })
    }

    /// Whether the metadata has `key`.
    pub fn has(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    fn value(&self, key: &str) -> Result<&Value> {
        self.metadata
            .get(key)
            .ok_or_else(|| anyhow!("{}: the metadata key {key} is missing", self.path.display()))
    }

    fn wrong(&self, key: &str, want: &str) -> anyhow::Error {
        anyhow!(
            "{}: the metadata key {key} is not {want}",
            self.path.display()
        )
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn usize(&self, key: &str) -> Result<usize> {
        match self.value(key)? {
            Value::Int(i) => usize::try_from(*i).map_err(|_| self.wrong(key, "a usable size")),
            _ => Err(self.wrong(key, "an integer")),
        }
    }

    /// A number, integers included.
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn float(&self, key: &str) -> Result<f64> {
        match self.value(key)? {
            Value::Float(f) => Ok(*f),
            Value::Int(i) => Ok(*i as f64),
            _ => Err(self.wrong(key, "a number")),
        }
    }

    /// A truth value.
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn bool(&self, key: &str) -> Result<bool> {
        match self.value(key)? {
            Value::Bool(b) => Ok(*b),
            _ => Err(self.wrong(key, "a bool")),
        }
    }

    /// A string.
    ///
    /// # Errors
    /// The key is missing, holds something else, or is not UTF-8.
    pub fn str(&self, key: &str) -> Result<&str> {
        match self.value(key)? {
            Value::String(at) => {
                std::str::from_utf8(&self.map[at.clone()]).map_err(|_| self.wrong(key, "UTF-8"))
            }
            _ => Err(self.wrong(key, "a string")),
        }
    }

    fn array(&self, key: &str) -> Result<(u32, u64, Cursor<'_>)> {
        match self.value(key)? {
            Value::Array { kind, len, at } => Ok((
                *kind,
                *len,
                Cursor {
                    data: &self.map[..at.end],
                    at: at.start,
                },
            )),
            _ => Err(self.wrong(key, "an array")),
        }
    }

    /// The strings of an array, borrowed from the file.
    ///
    /// # Errors
    /// The key is missing, holds something else, or an element is not UTF-8.
    pub fn strings(&self, key: &str) -> Result<Vec<&str>> {
        let (kind, len, mut c) = self.array(key)?;
        ensure!(kind == kind::STRING, self.wrong(key, "an array of strings"));
        (0..len)
            .map(|_| {
                let at = c.string()?;
                std::str::from_utf8(&self.map[at]).map_err(|_| self.wrong(key, "UTF-8"))
            })
            .collect()
    }

    /// The numbers of an array; bools count as 0 and 1.
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn floats(&self, key: &str) -> Result<Vec<f64>> {
        let (kind, len, mut c) = self.array(key)?;
        (0..len)
            .map(|_| match c.value(kind, 0)? {
                Value::Float(f) => Ok(f),
                Value::Int(i) => Ok(i as f64),
                Value::Bool(b) => Ok(f64::from(u8::from(b))),
                _ => Err(self.wrong(key, "an array of numbers")),
            })
            .collect()
    }
}

/// Metadata, tensors, and where the tensor data begins.
type Index = (HashMap<String, Value>, HashMap<String, TensorInfo>, usize);

/// Reads everything before the tensor data.
fn index(data: &[u8]) -> Result<Index> {
    let mut c = Cursor { data, at: 0 };
    if c.take(4).ok() != Some(MAGIC) {
        bail!("not a GGUF file");
    }
    let version = c.u32()?;
    if version.swap_bytes() < 0x1_0000 && version >= 0x1_0000 {
        bail!("a big-endian GGUF file; convert it to little-endian");
    }
    ensure!(
        (2..=3).contains(&version),
        "GGUF version {version}; versions 2 and 3 are read"
    );
    let tensor_count = c.u64()?;
    let key_count = c.u64()?;

    let mut metadata = HashMap::new();
    for _ in 0..key_count {
        let key = c.name("metadata key")?;
        let kind = c.u32()?;
        let value = c
            .value(kind, 0)
            .with_context(|| format!("metadata key {key}"))?;
        if metadata.contains_key(&key) {
            bail!("the metadata key {key} appears twice");
        }
        metadata.insert(key, value);
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Int(a)) if u64::try_from(*a).is_ok_and(u64::is_power_of_two) => *a as u64,
        Some(_) => bail!("general.alignment is not a power of two"),
    };

    let mut tensors: HashMap<String, TensorInfo> = HashMap::new();
    for _ in 0..tensor_count {
        let name = c.name("tensor name")?;
        let dims = c.u32()?;
        ensure!(
            dims <= MAX_DIMS,
            "tensor {name} has {dims} dimensions; at most {MAX_DIMS}"
        );
        let mut shape = Vec::new();
        let mut elements = 1u64;
        for _ in 0..dims {
            let d = c.u64()?;
            elements = elements
                .checked_mul(d)
                .filter(|&e| e <= i64::MAX as u64)
                .ok_or_else(|| anyhow!("tensor {name} is larger than any memory"))?;
            shape.push(usize::try_from(d)?);
        }
        shape.reverse();
        let ggml_type = c.u32()?;
        let offset = c.u64()?;
        ensure!(
            offset % alignment == 0,
            "tensor {name} starts at {offset}, not at a multiple of {alignment}"
        );
        let start = usize::try_from(offset)?;
        if tensors.contains_key(&name) {
            bail!("tensor {name} appears twice");
        }
        tensors.insert(
            name,
            TensorInfo {
                ggml_type,
                shape,
                start,
            },
        );
    }

    let base = (c.at as u64)
        .checked_next_multiple_of(alignment)
        .and_then(|b| usize::try_from(b).ok())
        .ok_or_else(|| anyhow!("general.alignment is larger than the file"))?;
    for (name, t) in &mut tensors {
        t.start = t
            .start
            .checked_add(base)
            .filter(|&s| s <= data.len())
            .ok_or_else(|| anyhow!("truncated: tensor {name} starts after the end of the file"))?;
    }
    Ok((metadata, tensors, base))
}

/// A bounds-checked position in the file.
struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(len);
        let bytes = end
            .and_then(|end| self.data.get(self.at..end))
            .ok_or_else(|| {
                anyhow!(
                    "truncated: {len} bytes wanted at byte {} of {}",
                    self.at,
                    self.data.len()
                )
            })?;
        self.at += len;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The range of a length-prefixed string.
    fn string(&mut self) -> Result<Range<usize>> {
        let len = usize::try_from(self.u64()?)?;
        let start = self.at;
        self.take(len)?;
        Ok(start..self.at)
    }

    fn name(&mut self, what: &str) -> Result<String> {
        let at = self.string()?;
        let name = std::str::from_utf8(&self.data[at]);
        Ok(name
            .map_err(|_| anyhow!("a {what} is not UTF-8"))?
            .to_owned())
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value> {
        Ok(match kind {
            kind::U8 => Value::Int(u8::from_le_bytes(self.array()?).into()),
            kind::I8 => Value::Int(i8::from_le_bytes(self.array()?).into()),
            kind::U16 => Value::Int(u16::from_le_bytes(self.array()?).into()),
            kind::I16 => Value::Int(i16::from_le_bytes(self.array()?).into()),
            kind::U32 => Value::Int(self.u32()?.into()),
            kind::I32 => Value::Int(i32::from_le_bytes(self.array()?).into()),
            kind::U64 => Value::Int(self.u64()?.into()),
            kind::I64 => Value::Int(i64::from_le_bytes(self.array()?).into()),
            kind::F32 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            kind::F64 => Value::Float(f64::from_le_bytes(self.array()?)),
            kind::BOOL => Value::Bool(self.array::<1>()?[0] != 0),
            kind::STRING => Value::String(self.string()?),
            kind::ARRAY => {
                ensure!(
                    depth < MAX_NESTING,
                    "arrays nested deeper than {MAX_NESTING}"
                );
                let kind = self.u32()?;
                let len = self.u64()?;
                let start = self.at;
                match width(kind) {
                    Some(width) => {
                        let len = usize::try_from(len)?.checked_mul(width);
                        self.take(len.ok_or_else(|| anyhow!("an array larger than any memory"))?)?;
                    }
                    None => {
                        for _ in 0..len {
                            self.value(kind, depth + 1)?;
                        }
                    }
                }
                Value::Array {
                    kind,
                    len,
                    at: start..self.at,
                }
            }
            other => bail!("unknown metadata value type {other}"),
        })
    }
}

/// Bytes of one value of a fixed-size kind.
fn width(kind: u32) -> Option<usize> {
    match kind {
        kind::U8 | kind::I8 | kind::BOOL => Some(1),
        kind::U16 | kind::I16 => Some(2),
        kind::U32 | kind::I32 | kind::F32 => Some(4),
        kind::U64 | kind::I64 | kind::F64 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
