//! The one way in which kernels are launched.
//!
//! ```ignore
//! let l = Launch::new("unary.wgsl")
//!     .def("ACT", 3)                      // ${ACT}, #if ACT == 3
//!     .input("x", &op.x)                  // x_get(i), x_get2(i), x_word(i); p.x_off
//!     .output("y", &op.y)                 // y_set(i, v): any element, any alignment
//!     .u32("n", n)                        // p.n
//!     .f32("scale", op.scale);            // p.scale
//! encoder.dispatch(&l, groups)?;
//! ```
//!
//! The shader file holds `@compute @workgroup_size(..) fn main(..)` and whatever it needs;
//! everything that names operands and parameters is generated before it (see
//! [`accessors`](super::accessors)): `struct Params` with its uniform `p`, one storage binding per
//! buffer, and the functions `x_get`, `y_set`, ... Indices `i` count elements from the start of
//! the tensor (bytes for quantized tensors), so strides and shapes are parameters of the
//! kernel's own. `lib/num.wgsl` (16-bit packing, NaN tests) is always there.
//!
//! * Workgroups are a single number, spread over x and y: a shader starts with
//!   `let group = group_id(wg, nwg); if (group >= p.groups) { return; }` where `wg` is the builtin
//!   `workgroup_id` and `nwg` `num_workgroups`. The test is uniform, so barriers may follow.
//! * [`Launch::output`] writes single elements of 16- and 8-bit types through atomics, right for
//!   every view. [`Launch::output_pairs`] writes whole words (`y_set2`) and is for kernels that
//!   know that each invocation owns its words ([`pairs`] tells).
//! * [`Launch::input_vec`] declares `array<vec4<u32>>` and adds `x_vec(i)`; x_get and the rest keep
//!   working. Only use `x_vec` when the tensor starts at a multiple of 16 bytes ([`aligned`]).
//! * Buffers are bound whole where the device can, so that a bind group serves every offset.
//!   Operands in one buffer share a binding; a buffer that is written in a dispatch is
//!   `read_write` in all its bindings. In-place operands thus need nothing special, except that an
//!   invocation must read what it needs before another one may overwrite it.
//! * A tensor beyond [`Caps::max_span`] cannot be bound: `fits` refuses it
//!   ([`Caps::binds_all`]), or the kernel runs in parts: [`Launch::input_part`] and
//!   [`Caps::row_parts`].
//! * `encoder.scratch(i, bytes)` is memory between the dispatches of one op: bind it with
//!   [`Launch::scratch`]. Slot i of one op is reused by the next.

use super::{
    accessors::{Binding, View, accessors},
    caps::Caps,
    device::{BACKEND, Core},
    memory::{PAD, WgpuBuffer},
    pipeline::{PARAM_BYTES, Pipeline, Slice},
    shaders,
    template::{Def, Defs, render},
    walk::Walk,
};
use crate::{
    element::{DType, Element},
    error::{Error, Result},
    layout::TensorDesc,
    tensor::Tensor,
};
use std::{borrow::Cow, fmt::Write, ops::Range, sync::Arc};

/// A kernel with its operands and parameters.
pub(crate) struct Launch {
    file: &'static str,
    defs: Defs,
    operands: Vec<Operand>,
    params: Vec<(Cow<'static, str>, &'static str, u32)>,
    /// Generated functions; what they say follows from the names of the parameters.
    functions: String,
    error: Option<Error>,
}

/// A tensor or scratch memory in a launch.
struct Operand {
    name: &'static str,
    element: Element,
    view: View,
    writes: bool,
    id: u64,
    buffer: wgpu::Buffer,
    /// Bytes that the shader may touch.
    range: Range<u64>,
}

/// Memory between the dispatches of one op.
#[derive(Clone, Debug)]
pub(crate) struct Scratch(pub(super) Arc<WgpuBuffer>);

impl Launch {
    /// A kernel of that file in `shaders/`.
    pub(crate) fn new(file: &'static str) -> Self {
        Launch {
            file,
            defs: Vec::new(),
            operands: Vec::new(),
            params: Vec::new(),
            functions: String::new(),
            error: None,
        }
    }

    /// Defines a number for the template; each value compiles a pipeline of its own.
    pub(crate) fn def(mut self, name: &'static str, value: impl Into<i64>) -> Self {
        self.defs.push((name.into(), Def::Int(value.into())));
        self
    }

    /// Defines a text for the template (a type, the name of a file).
    pub(crate) fn def_text(
        mut self,
        name: &'static str,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.defs.push((name.into(), Def::Text(value.into())));
        self
    }

    /// An operand that is only read.
    pub(crate) fn input(self, name: &'static str, t: &Tensor) -> Self {
        self.tensor(name, t, t.byte_range(), View::Words, false)
    }

    /// As `input` where there is one.
    pub(crate) fn input_opt(self, name: &'static str, t: Option<&Tensor>) -> Self {
        match t {
            Some(t) => self.input(name, t),
            None => self,
        }
    }

    /// An operand that is only read, with 16-byte loads.
    pub(crate) fn input_vec(self, name: &'static str, t: &Tensor) -> Self {
        self.tensor(name, t, t.byte_range(), View::Vectors, false)
    }

    /// Bytes `range` of an operand that is only read; indices count from the start of the range.
    pub(crate) fn input_part(
        self,
        name: &'static str,
        t: &Tensor,
        range: Range<u64>,
        vec: bool,
    ) -> Self {
        let at = t.byte_offset();
        let view = if vec { View::Vectors } else { View::Words };
        self.tensor(name, t, at + range.start..at + range.end, view, false)
    }

    /// An operand that is written (and may be read) element by element.
    pub(crate) fn output(self, name: &'static str, t: &Tensor) -> Self {
        let view = match t.element() {
            Element::Plain(d) if d.size() < 4 => View::Atomic,
            Element::Plain(_) => View::Words,
            Element::Quant(_) => View::Atomic,
        };
        self.tensor(name, t, t.byte_range(), view, true)
    }

    /// An operand that is written (and may be read) in whole words, with `y_set2` for 16-bit
    /// types.
    pub(crate) fn output_pairs(self, name: &'static str, t: &Tensor) -> Self {
        self.tensor(name, t, t.byte_range(), View::Words, true)
    }

    /// As `output`, or `output_pairs` if `pairs`.
    pub(crate) fn output_as(self, name: &'static str, t: &Tensor, pairs: bool) -> Self {
        if pairs {
            self.output_pairs(name, t)
        } else {
            self.output(name, t)
        }
    }

    /// Scratch memory as numbers of `dtype` (f32, u32 or i32), read and written.
    pub(crate) fn scratch(self, name: &'static str, s: &Scratch, dtype: DType) -> Self {
        self.host_made(name, s, dtype, true)
    }

    /// Scratch memory or a table as numbers of `dtype` (f32, u32 or i32), only read.
    pub(crate) fn scratch_in(self, name: &'static str, s: &Scratch, dtype: DType) -> Self {
        self.host_made(name, s, dtype, false)
    }

    fn host_made(mut self, name: &'static str, s: &Scratch, dtype: DType, writes: bool) -> Self {
        self.operands.push(Operand {
            name,
            element: dtype.into(),
            view: View::Words,
            writes,
            id: s.0.id,
            buffer: s.0.buffer.clone(),
            range: 0..s.0.len,
        });
        self.u32_named(format!("{name}_off"), 0)
    }

    /// Words of a buffer, read and written.
    pub(super) fn words(mut self, name: &'static str, b: &WgpuBuffer, range: Range<u64>) -> Self {
        self.operands.push(Operand {
            name,
            element: DType::U32.into(),
            view: View::Words,
            writes: true,
            id: b.id,
            buffer: b.buffer.clone(),
            range,
        });
        self.u32_named(format!("{name}_off"), 0)
    }

    fn tensor(
        mut self,
        name: &'static str,
        t: &Tensor,
        range: Range<u64>,
        view: View,
        writes: bool,
    ) -> Self {
        match WgpuBuffer::of(t.buffer()) {
            Ok(b) => self.operands.push(Operand {
                name,
                element: t.element(),
                view,
                writes,
                id: b.id,
                buffer: b.buffer.clone(),
                range,
            }),
            Err(e) => self.error = Some(e),
        }
        self.u32_named(format!("{name}_off"), 0)
    }

    /// A parameter `p.name: u32`.
    pub(crate) fn u32(self, name: &'static str, value: u32) -> Self {
        self.u32_named(name, value)
    }

    /// A parameter `p.name: f32`.
    pub(crate) fn f32(mut self, name: &'static str, value: f32) -> Self {
        self.params.push((name.into(), "f32", value.to_bits()));
        self
    }

    /// Parameters `p.name0`, `p.name1`, ..
    pub(crate) fn list(mut self, name: &'static str, values: &[u32]) -> Self {
        for (i, &v) in values.iter().enumerate() {
            self = self.u32_named(format!("{name}{i}"), v);
        }
        self
    }

    /// A function `name(e: u32)` that turns a row-major index into the element offset of every
    /// operand of the walk: `let at = name(e);`, then `x_get(at.x)`, `y_set(at.y, v)`.
    pub(crate) fn walk(mut self, name: &'static str, walk: &Walk) -> Self {
        walk.function(name, &mut self.functions);
        for (param, value) in walk.params(name) {
            self = self.u32_named(param, value);
        }
        self
    }

    fn u32_named(mut self, name: impl Into<Cow<'static, str>>, value: u32) -> Self {
        self.params.push((name.into(), "u32", value));
        self
    }

    fn set_param(&mut self, name: &str, value: u32) {
        if let Some(param) = self.params.iter_mut().find(|p| p.0 == name) {
            param.2 = value;
        }
    }
}

/// A launch that is ready to be recorded.
pub(super) struct Ready {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) slices: Vec<(Slice, wgpu::Buffer)>,
    pub(super) params: Vec<u8>,
    pub(super) grid: [u32; 2],
}

/// A binding while it is being put together.
struct Bound {
    slice: Slice,
    buffer: wgpu::Buffer,
    binding: Binding,
}

impl Launch {
    /// Resolves bindings and offsets and finds the pipeline.
    pub(super) fn prepare(mut self, core: &Core, groups: u64) -> Result<Ready> {
        if let Some(e) = self.error.take() {
            return Err(e);
        }
        let grid = spread(groups, core.caps.groups_per_axis)?;
        let (bound, places) = self.bind(&core.caps)?;
        self.params.push(("groups".into(), "u32", grid[2]));
        let mut params = Vec::with_capacity(self.params.len() * 4);
        for (_, _, value) in &self.params {
            params.extend_from_slice(&value.to_le_bytes());
        }
        if params.len() as u64 > PARAM_BYTES {
            return Err(limit(
                "bytes of kernel parameters",
                params.len() as u64,
                PARAM_BYTES,
            ));
        }
        let most = u64::from(core.caps.storage_bindings);
        if bound.len() as u64 > most {
            return Err(limit("storage bindings", bound.len() as u64, most));
        }
        let read_only: Vec<bool> = bound.iter().map(|b| b.binding.read_only).collect();
        let key = self.key(&bound, &places);
        let pipeline = core.pipeline(&key, &read_only, || self.text(&bound, &places))?;
        Ok(Ready {
            pipeline,
            slices: bound.into_iter().map(|b| (b.slice, b.buffer)).collect(),
            params,
            grid: [grid[0], grid[1]],
        })
    }

    /// Groups operands into bindings; returns them and the binding of each operand.
    fn bind(&mut self, caps: &Caps) -> Result<(Vec<Bound>, Vec<usize>)> {
        let mut bound: Vec<Bound> = Vec::with_capacity(self.operands.len());
        let mut places = Vec::with_capacity(self.operands.len());
        for operand in &self.operands {
            let slice = slice(operand, caps)?;
            let merged = bound.iter().position(|b| {
                b.slice.buffer == slice.buffer
                    && mergeable(b.binding.view, operand.view)
                    && union(&b.slice, &slice).size <= caps.max_binding
            });
            places.push(match merged {
                Some(i) => {
                    let b = &mut bound[i];
                    b.slice = union(&b.slice, &slice);
                    b.binding.view = b.binding.view.max(operand.view);
                    b.binding.read_only &= !operand.writes;
                    i
                }
                None => {
                    bound.push(Bound {
                        slice,
                        buffer: operand.buffer.clone(),
                        binding: Binding {
                            view: operand.view,
                            read_only: !operand.writes,
                        },
                    });
                    bound.len() - 1
                }
            });
        }
        // One buffer may not be read-only in one binding and writable in another.
        for i in 0..bound.len() {
            let written = bound
                .iter()
                .any(|b| b.slice.buffer == bound[i].slice.buffer && !b.binding.read_only);
            bound[i].binding.read_only &= !written;
        }
        for i in 0..places.len() {
            let operand = &self.operands[i];
            let bytes = operand.range.start - bound[places[i]].slice.offset;
            let unit = match operand.element {
                Element::Plain(d) => d.size() as u64,
                Element::Quant(_) => 1,
            };
            let off = u32::try_from(bytes / unit)
                .map_err(|_| limit("element offset", bytes / unit, u64::from(u32::MAX)))?;
            let name = format!("{}_off", operand.name);
            self.set_param(&name, off);
        }
        Ok((bound, places))
    }

    /// What the shader text depends on.
    fn key(&self, bound: &[Bound], places: &[usize]) -> String {
        let mut key = String::with_capacity(128);
        key.push_str(self.file);
        for (name, def) in &self.defs {
            let _ = write!(key, " {name}={def}");
        }
        for (operand, &place) in self.operands.iter().zip(places) {
            let rw = if operand.writes { "=" } else { ":" };
            let _ = write!(
                key,
                " {}{rw}{}@{place}",
                operand.name,
                operand.element.name()
            );
        }
        for b in bound {
            let _ = write!(
                key,
                " {}{}",
                if b.binding.read_only { 'r' } else { 'w' },
                b.binding.view as u8
            );
        }
        for (name, ty, _) in &self.params {
            key.push(' ');
            key.push_str(name);
            key.push_str(&ty[..1]);
        }
        key
    }

    /// The whole shader.
    fn text(&self, bound: &[Bound], places: &[usize]) -> Result<String> {
        let mut out = String::with_capacity(8192);
        out.push_str("struct Params {\n");
        for (name, ty, _) in &self.params {
            let _ = writeln!(out, "  {name}: {ty},");
        }
        out.push_str("}\n@group(0) @binding(0) var<uniform> p: Params;\n");
        for (i, b) in bound.iter().enumerate() {
            b.binding.declare(i + 1, &mut out);
        }
        for (operand, &place) in self.operands.iter().zip(places) {
            accessors(
                operand.name,
                operand.element,
                place + 1,
                bound[place].binding,
                operand.writes,
                &mut out,
            );
        }
        out.push_str(&self.functions);
        for file in ["lib/num.wgsl", self.file] {
            let text = render(file, &self.defs, &shaders::source)
                .map_err(|e| Error::backend(BACKEND, e))?;
            out.push_str(&text);
        }
        Ok(out)
    }
}

fn limit(what: &'static str, asked: u64, max: u64) -> Error {
    Error::TooLarge { what, asked, max }
}

/// Spreads workgroups over x and y; the third number is the count.
fn spread(groups: u64, per_axis: u32) -> Result<[u32; 3]> {
    let axis = u64::from(per_axis.max(1));
    let most = (axis * axis).min(u64::from(u32::MAX));
    if groups > most {
        return Err(limit("workgroups", groups, most));
    }
    let x = groups.min(axis);
    let y = groups.div_ceil(x.max(1));
    Ok([x as u32, y as u32, groups as u32])
}

/// May two views share a declaration? Vectors have no atomics.
fn mergeable(a: View, b: View) -> bool {
    !matches!(
        (a, b),
        (View::Atomic, View::Vectors) | (View::Vectors, View::Atomic)
    )
}

/// The smallest slice that holds both.
fn union(a: &Slice, b: &Slice) -> Slice {
    let offset = a.offset.min(b.offset);
    let end = (a.offset + a.size).max(b.offset + b.size);
    Slice {
        buffer: a.buffer,
        offset,
        size: end - offset,
    }
}

/// What of its buffer an operand binds: all, or where that is too much an aligned part.
fn slice(operand: &Operand, caps: &Caps) -> Result<Slice> {
    let whole = operand.buffer.size();
    if whole <= caps.max_binding {
        return Ok(Slice {
            buffer: operand.id,
            offset: 0,
            size: whole,
        });
    }
    let offset =
        operand.range.start / u64::from(caps.storage_align) * u64::from(caps.storage_align);
    let size = (operand.range.end - offset).max(1).next_multiple_of(PAD);
    if size > caps.max_binding {
        return Err(limit("binding", size, caps.max_binding));
    }
    Ok(Slice {
        buffer: operand.id,
        offset,
        size,
    })
}

/// True when elements 2i and 2i + 1 of every row of `t` lie in one word that no other row touches,
/// so that a kernel may write it in pairs: a type of 16 bits, even rows, even strides, an even
/// start. Always true for types of 4 bytes with even rows.
pub(crate) fn pairs(t: &Tensor) -> bool {
    pairs_desc(&t.desc()) && t.byte_offset().is_multiple_of(4)
}

fn pairs_desc(d: &TensorDesc) -> bool {
    let last = d.rank().saturating_sub(1);
    let even = |i: usize| d.dim(i) <= 1 || d.strides()[i] % 2 == 0;
    d.rank() > 0 && d.dim(last).is_multiple_of(2) && d.strides()[last] == 1 && (0..last).all(even)
}

/// True when `t` starts at a multiple of `bytes`.
pub(crate) fn aligned(t: &Tensor, bytes: u64) -> bool {
    t.byte_offset().is_multiple_of(bytes)
}

impl Caps {
    /// Splits `rows` of `row_bytes` each into ranges that one binding holds.
    pub(crate) fn row_parts(&self, rows: u32, row_bytes: u64) -> Vec<Range<u32>> {
        let per = (self.max_span() / row_bytes.max(1)).clamp(1, u64::from(u32::MAX)) as u32;
        (0..rows)
            .step_by(per as usize)
            .map(|at| at..at.saturating_add(per).min(rows))
            .collect()
    }
}
