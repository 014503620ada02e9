//! Conv2d: a tiled product of filters and gathered pixels, or one sum per invocation where the
//! groups are too small for tiles.

use super::{
    super::{
        caps::Caps,
        launch::{Launch, pairs},
        stream::State,
    },
    act_number, groups, is_half, op_args, plain_fits,
};
use crate::{
    device::Quality,
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{Act, Conv2d, Op},
    tensor::Tensor,
};

/// Output channels and pixels of one tile; the shader has them too.
const TILE: u32 = 64;

/// Fewer output channels per group than this waste most of a tile.
const LEAST_CHANNELS: u32 = 8;

pub(crate) fn fits_tile(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::Conv2d(a) = op else {
        return Err(Refusal::Op);
    };
    if a.w.dim(0) / a.groups.max(1) < LEAST_CHANNELS {
        return Err(Refusal::Layout {
            arg: "w",
            why: "fewer than 8 output channels in a group",
        });
    }
    plain_fits(caps, op).map(|_| Quality::Tuned)
}

/// Operands and parameters of both kernels.
fn launch(file: &'static str, a: &Conv2d<Tensor>, pair: bool) -> Launch {
    let (x, w, y, e) = (a.x.desc(), a.w.desc(), a.y.desc(), &a.epilogue);
    let list = |d: &TensorDesc| -> Vec<u32> { d.strides().iter().map(|&s| s as u32).collect() };
    let mut l = Launch::new(file)
        .def("PAIR", pair)
        .def("ACT", act_number(e.act.unwrap_or(Act::Identity)))
        .def("SCALE", e.scale.is_some())
        .def("BIAS", e.bias.is_some())
        .def("GATE", e.gate.is_some())
        .def("RESIDUAL", e.residual.is_some())
        .def("ACCUMULATE", e.accumulate)
        .input("x", &a.x)
        .input("w", &a.w)
        .input_opt("bias", e.bias.as_ref())
        .input_opt("gate", e.gate.as_ref())
        .input_opt("residual", e.residual.as_ref())
        .output_as("y", &a.y, pair)
        .list("x_s", &list(&x))
        .list("w_s", &list(&w))
        .list("y_s", &list(&y))
        .u32("high", x.dim(2))
        .u32("wide", x.dim(3))
        .u32("out_high", y.dim(2))
        .u32("out_wide", y.dim(3))
        .u32("conv_groups", a.groups)
        .u32("in_channels", w.dim(1))
        .u32("out_channels", w.dim(0) / a.groups.max(1))
        .u32("taps_high", w.dim(2))
        .u32("taps_wide", w.dim(3))
        .list("stride", &a.stride)
        .list("pad", &a.pad)
        .list("dilation", &a.dilation)
        .f32("scale", e.scale.unwrap_or(1.0));
    for (name, t) in [
        ("gate_s", &e.gate),
        ("residual_s", &e.residual),
        ("bias_s", &e.bias),
    ] {
        if let Some(t) = t {
            l = l.list(name, &list(&t.desc()));
        }
    }
    l
}

pub(crate) fn run_tile(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Conv2d);
    let y = a.y.desc();
    let pair = is_half(&y) && pairs(&a.y);
    let channels = (y.dim(1) / a.groups.max(1)).div_ceil(TILE);
    let pixels = (u64::from(y.dim(2)) * u64::from(y.dim(3))).div_ceil(u64::from(TILE));
    let l = launch("conv2d_tile.wgsl", a, pair)
        .u32("channel_tiles", channels)
        .u32("pixel_tiles", pixels as u32);
    let count = u64::from(y.dim(0)) * u64::from(a.groups) * u64::from(channels) * pixels;
    state.dispatch(l, count)
}

pub(crate) fn run_direct(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Conv2d);
    let y = a.y.desc();
    let pair = is_half(&y) && pairs(&a.y);
    let n = y.elements();
    let l = launch("conv2d_direct.wgsl", a, pair).u32("n", n as u32);
    state.dispatch(l, groups(if pair { n / 2 } else { n }))
}
