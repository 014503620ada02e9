//! The WGSL that a launch generates around a shader: parameters, bindings, and functions that
//! read and write each operand by element index, whatever its type and wherever it starts.

use crate::{
    element::{DType, Element},
    quant::QuantFormat,
};
use std::fmt::Write;

/// How a binding is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum View {
    /// `array<u32>`.
    Words,
    /// `array<vec4<u32>>`, for 16-byte loads.
    Vectors,
    /// `array<atomic<u32>>`: several invocations may write parts of one word.
    Atomic,
}

/// One storage binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub view: View,
    pub read_only: bool,
}

impl Binding {
    /// Declaration as binding `index` of group 0; the variable is `b{index}`.
    pub(crate) fn declare(self, index: usize, out: &mut String) {
        let access = if self.read_only { "read" } else { "read_write" };
        let ty = match self.view {
            View::Words => "u32",
            View::Vectors => "vec4<u32>",
            View::Atomic => "atomic<u32>",
        };
        let _ = writeln!(
            out,
            "@group(0) @binding({index}) var<storage, {access}> b{index}: array<{ty}>;"
        );
    }

    /// Expression that reads word `at`.
    fn read(self, index: usize, at: &str) -> String {
        match self.view {
            View::Words => format!("b{index}[{at}]"),
            View::Vectors => format!("b{index}[({at}) >> 2u][({at}) & 3u]"),
            View::Atomic => format!("atomicLoad(&b{index}[{at}])"),
        }
    }

    /// Statement that writes word `at`.
    fn write(self, index: usize, at: &str, value: &str) -> String {
        match self.view {
            View::Words => format!("b{index}[{at}] = {value};"),
            View::Vectors => format!("b{index}[({at}) >> 2u][({at}) & 3u] = {value};"),
            View::Atomic => format!("atomicStore(&b{index}[{at}], {value});"),
        }
    }
}

/// The functions of operand `name` of type `element` in binding `index`.
///
/// For f32, f16, bf16: `name_get(i) -> f32`, `name_get2(i) -> vec2<f32>` of elements i and i + 1
/// (16-bit types: from an even element of the buffer). For i32, u32, i8, u8: `name_get(i)` as
/// i32 or u32. For i64: `name_get(i) -> vec2<u32>`, low word first. For f8: `name_get(i) -> f32`.
/// Written operands have `name_set(i, v)` likewise, and `name_set2(i, v)` for floats.
/// For quantized types: `name_u8(b)`, `name_u16(b)`, `name_u32(b)` at byte b of the tensor; the
/// latter two need an even place unless the block has an odd size; when written,
/// `name_set_u16(b, v)` at an even place.
/// For all: `name_word(i)`, word i of the tensor, and with [`View::Vectors`] `name_vec(i)`, its
/// 16-byte vector i; both need a tensor that starts at such a boundary.
pub(crate) fn accessors(
    name: &str,
    element: Element,
    index: usize,
    binding: Binding,
    writes: bool,
    out: &mut String,
) {
    let at = format!("(p.{name}_off + i)");
    let rd = |at: &str| binding.read(index, at);
    let wr = |at: &str, v: &str| binding.write(index, at, v);
    let mut put = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    let per_word = match element {
        Element::Plain(d) => 4 / d.size().min(4),
        Element::Quant(_) => 4,
    };
    let base = match element {
        Element::Plain(DType::I64) => format!("p.{name}_off * 2u"),
        _ => format!("p.{name}_off / {per_word}u"),
    };
    put(format!(
        "fn {name}_word(i: u32) -> u32 {{ return {}; }}",
        rd(&format!("({base} + i)"))
    ));
    if binding.view == View::Vectors {
        put(format!(
            "fn {name}_vec(i: u32) -> vec4<u32> {{ return b{index}[(({base}) >> 2u) + i]; }}"
        ));
    }
    let plain = match element {
        Element::Plain(d) => d,
        Element::Quant(q) => {
            put(bytes(name, q, &rd));
            if writes && binding.view == View::Atomic {
                put(format!(
                    "fn {name}_set_u16(b: u32, v: u32) {{ let j = p.{name}_off + b; \
                     let s = (j & 2u) * 8u; atomicAnd(&b{index}[j >> 2u], ~(0xffffu << s)); \
                     atomicOr(&b{index}[j >> 2u], v << s); }}"
                ));
            }
            return;
        }
    };
    match plain {
        DType::F32 => {
            put(format!(
                "fn {name}_get(i: u32) -> f32 {{ return bitcast<f32>({}); }}\n\
                 fn {name}_get2(i: u32) -> vec2<f32> {{ return vec2<f32>({name}_get(i), {name}_get(i + 1u)); }}",
                rd(&at)
            ));
            if writes {
                put(format!(
                    "fn {name}_set(i: u32, v: f32) {{ {} }}\n\
                     fn {name}_set2(i: u32, v: vec2<f32>) {{ {name}_set(i, v.x); {name}_set(i + 1u, v.y); }}",
                    wr(&at, "bitcast<u32>(v)")
                ));
            }
        }
        DType::F16 | DType::BF16 => {
            let t = plain.name();
            put(format!(
                "fn {name}_get2(i: u32) -> vec2<f32> {{ return unpack_{t}({}); }}\n\
                 fn {name}_get(i: u32) -> f32 {{ let j = {at}; return unpack_{t}({} >> ((j & 1u) * 16u)).x; }}",
                rd(&format!("({at} >> 1u)")),
                rd("(j >> 1u)"),
            ));
            if writes {
                put(format!(
                    "fn {name}_set2(i: u32, v: vec2<f32>) {{ {} }}",
                    wr(&format!("({at} >> 1u)"), &format!("pack_{t}(v)"))
                ));
                if binding.view == View::Atomic {
                    put(part(name, index, &at, "f32", &format!("{t}_bits(v)"), 2));
                }
            }
        }
        DType::I32 | DType::U32 => {
            let t = plain.name();
            put(format!(
                "fn {name}_get(i: u32) -> {t} {{ return bitcast<{t}>({}); }}",
                rd(&at)
            ));
            if writes {
                put(format!(
                    "fn {name}_set(i: u32, v: {t}) {{ {} }}",
                    wr(&at, "bitcast<u32>(v)")
                ));
            }
        }
        DType::I64 => {
            put(format!(
                "fn {name}_get(i: u32) -> vec2<u32> {{ let j = {at} * 2u; return vec2<u32>({}, {}); }}",
                rd("j"),
                rd("(j + 1u)")
            ));
            if writes {
                put(format!(
                    "fn {name}_set(i: u32, v: vec2<u32>) {{ let j = {at} * 2u; {} {} }}",
                    wr("j", "v.x"),
                    wr("(j + 1u)", "v.y")
                ));
            }
        }
        DType::I8 | DType::U8 | DType::F8E4M3 | DType::F8E5M2 => {
            let byte = format!("(({} >> ((j & 3u) * 8u)) & 0xffu)", rd("(j >> 2u)"));
            let (t, value) = match plain {
                DType::I8 => ("i32", format!("bitcast<i32>({byte} << 24u) >> 24u")),
                DType::U8 => ("u32", byte),
                other => ("f32", format!("unpack_{}({byte})", other.name())),
            };
            put(format!(
                "fn {name}_get(i: u32) -> {t} {{ let j = {at}; return {value}; }}"
            ));
            if writes && binding.view == View::Atomic {
                let bits = match t {
                    "f32" => format!("{}_bits(v)", plain.name()),
                    _ => "(bitcast<u32>(v) & 0xffu)".to_owned(),
                };
                put(part(name, index, &at, t, &bits, 1));
            }
        }
    }
}

/// `name_set` of a type smaller than a word: clears its bits, then sets them. Neighbours in the
/// same word may do the same at the same time, since nobody touches another's bits.
fn part(name: &str, index: usize, at: &str, ty: &str, bits: &str, size: u32) -> String {
    let per_word = 4 / size;
    let (shift, mask) = (
        format!("((j & {}u) * {}u)", per_word - 1, size * 8),
        (1u64 << (size * 8)) - 1,
    );
    let word = per_word.trailing_zeros();
    format!(
        "fn {name}_set(i: u32, v: {ty}) {{ let j = {at}; let s = {shift}; \
         atomicAnd(&b{index}[j >> {word}u], ~({mask}u << s)); \
         atomicOr(&b{index}[j >> {word}u], {bits} << s); }}"
    )
}

/// Byte access of quantized blocks.
fn bytes(name: &str, format: QuantFormat, rd: &dyn Fn(&str) -> String) -> String {
    let at = format!("let j = p.{name}_off + b;");
    let u8s = format!(
        "fn {name}_u8(b: u32) -> u32 {{ {at} return ({} >> ((j & 3u) * 8u)) & 0xffu; }}\n",
        rd("(j >> 2u)")
    );
    if !format.block_bytes().is_multiple_of(2) {
        return format!(
            "{u8s}fn {name}_u16(b: u32) -> u32 {{ return {name}_u8(b) | ({name}_u8(b + 1u) << 8u); }}\n\
             fn {name}_u32(b: u32) -> u32 {{ {at} let s = (j & 3u) * 8u; let w = {}; \
             if (s == 0u) {{ return w; }} return (w >> s) | ({} << (32u - s)); }}",
            rd("(j >> 2u)"),
            rd("((j >> 2u) + 1u)"),
        );
    }
    format!(
        "{u8s}fn {name}_u16(b: u32) -> u32 {{ {at} return ({} >> ((j & 2u) * 8u)) & 0xffffu; }}\n\
         fn {name}_u32(b: u32) -> u32 {{ {at} let w = {}; \
         if ((j & 2u) == 0u) {{ return w; }} return (w >> 16u) | ({} << 16u); }}",
        rd("(j >> 2u)"),
        rd("(j >> 2u)"),
        rd("((j >> 2u) + 1u)"),
    )
}
