//! Norm: one workgroup per normalized row (or group of channels).

use super::{
    super::{
        launch::{Launch, pairs},
        stream::State,
        walk::Walk,
    },
    is_half, op_args,
};
use crate::{
    error::Result,
    layout::TensorDesc,
    op::{NormKind, Op},
    tensor::Tensor,
};

/// Strides of x's shape split into rows (which are normalized apart) and what lies inside one.
struct Split {
    rows: Vec<u32>,
    inner: Vec<u32>,
    groups: u32,
}

impl Split {
    fn new(kind: NormKind, shape: &[u32]) -> Self {
        match kind {
            NormKind::Group { groups } => {
                let channels = shape[1] / groups.max(1);
                let mut inner = vec![channels];
                inner.extend_from_slice(&shape[2..]);
                Split {
                    rows: vec![shape[0], groups],
                    inner,
                    groups,
                }
            }
            _ => {
                let last = shape.len() - 1;
                Split {
                    rows: shape[..last].to_vec(),
                    inner: vec![shape[last]],
                    groups: 0,
                }
            }
        }
    }

    /// Strides of an operand along the rows and inside one.
    fn strides(&self, d: &TensorDesc) -> (Vec<i64>, Vec<i64>) {
        let s = d.strides();
        if self.groups > 0 {
            let step = s[1] * i64::from(self.inner[0]);
            (vec![s[0], step], s[1..].to_vec())
        } else {
            let last = s.len() - 1;
            (s[..last].to_vec(), vec![s[last]])
        }
    }
}

pub(crate) fn run(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Norm);
    let split = Split::new(a.kind, a.x.shape());
    let width: u64 = split.inner.iter().map(|&d| u64::from(d)).product();
    let mut operands = vec![("x", &a.x), ("y", &a.y)];
    operands.extend(a.residual.as_ref().map(|t| ("residual", t)));
    operands.extend(a.sum.as_ref().map(|t| ("sum", t)));
    let strides: Vec<_> = operands
        .iter()
        .map(|(name, t)| (*name, split.strides(&t.desc())))
        .collect();
    let rows: Vec<_> = strides.iter().map(|(n, s)| (*n, s.0.as_slice())).collect();
    let inner: Vec<_> = strides.iter().map(|(n, s)| (*n, s.1.as_slice())).collect();
    let written = [Some(&a.y), a.sum.as_ref()];
    let pair = split.groups == 0
        && written.into_iter().flatten().all(pairs)
        && written.into_iter().flatten().any(|t| is_half(&t.desc()));
    let wg = if width <= 256 { 64 } else { 256 };
    let kind = match a.kind {
        NormKind::Rms => 0,
        NormKind::L2 => 1,
        NormKind::Layer | NormKind::Group { .. } => 2,
    };
    let channel_stride = |t: Option<&Tensor>| t.map_or(0, |t| t.desc().strides()[0] as u32);
    let mut l = Launch::new("norm.wgsl")
        .def("WG", wg)
        .def("KIND", kind)
        .def("PAIR", pair)
        .def("WEIGHT", a.weight.is_some())
        .def("BIAS", a.bias.is_some())
        .def("RESIDUAL", a.residual.is_some())
        .def("SUM", a.sum.is_some())
        .input("x", &a.x)
        .input_opt("weight", a.weight.as_ref())
        .input_opt("bias", a.bias.as_ref())
        .input_opt("residual", a.residual.as_ref())
        .output_as("y", &a.y, pair);
    if let Some(sum) = &a.sum {
        l = l.output_as("sum", sum, pair);
    }
    let positions = width / u64::from(split.inner[0].max(1));
    let per_channel = if split.groups > 0 { positions } else { 1 };
    let l = l
        .walk("row_at", &Walk::new(&split.rows, &rows))
        .walk("inner_at", &Walk::new(&split.inner, &inner))
        .u32("width", width as u32)
        // Channel of element j of row r: (r % groups) * channels + j / positions.
        .u32("norm_groups", split.groups.max(1))
        .u32(
            "channels",
            if split.groups > 0 { split.inner[0] } else { 0 },
        )
        .u32("positions", per_channel as u32)
        .u32("weight_step", channel_stride(a.weight.as_ref()))
        .u32("bias_step", channel_stride(a.bias.as_ref()))
        .f32("weight_offset", a.weight_offset)
        .f32("eps", a.eps);
    let count: u64 = split.rows.iter().map(|&d| u64::from(d)).product();
    state.dispatch(l, count)
}
