//! Conv2d, Upsample.

use super::{FLOATS, List, PRECISIONS, by, laid, normal, output, padded, permuted};
use crate::{
    Act, Conv2d, DType, Upsample,
    conformance::{Fill, Spec},
};

/// Sizes of one case.
#[derive(Clone, Copy)]
struct Shape {
    x: [u32; 4],
    outputs: u32,
    taps: [u32; 2],
    stride: [u32; 2],
    pad: [u32; 2],
    dilation: [u32; 2],
    groups: u32,
}

impl Shape {
    fn new(x: [u32; 4], outputs: u32, taps: [u32; 2]) -> Self {
        Shape {
            x,
            outputs,
            taps,
            stride: [1, 1],
            pad: [0, 0],
            dilation: [1, 1],
            groups: 1,
        }
    }

    fn w(&self) -> [u32; 4] {
        [
            self.outputs,
            self.x[1] / self.groups,
            self.taps[0],
            self.taps[1],
        ]
    }

    fn y(&self) -> [u32; 4] {
        let size = |i: usize| {
            let reach = self.dilation[i] * (self.taps[i] - 1) + 1;
            (self.x[2 + i] + 2 * self.pad[i] - reach) / self.stride[i] + 1
        };
        [self.x[0], self.outputs, size(0), size(1)]
    }

    fn op(&self, x: Spec, w: Spec, y: Spec) -> Conv2d<Spec> {
        Conv2d::new(&x, &w, &y)
            .stride(self.stride[0], self.stride[1])
            .pad(self.pad[0], self.pad[1])
            .dilation(self.dilation[0], self.dilation[1])
            .groups(self.groups)
    }

    fn of(&self, x: DType, w: DType, y: DType) -> Conv2d<Spec> {
        self.op(
            normal(x, &self.x),
            normal(w, &self.w()),
            output(y, &self.y()),
        )
    }
}

pub(super) fn add(list: &mut List) {
    let mut s = Shape::new([1, 3, 6, 5], 4, [3, 3]);
    s.pad = [1, 1];
    list.smoke("conv2d/smoke", s.of(DType::F32, DType::F32, DType::F32));
    let x = normal(DType::F32, &s.x);
    list.smoke(
        "upsample/smoke",
        Upsample::new(&x, &output(DType::F32, &[1, 3, 12, 15])),
    );
    geometry(list);
    types(list);
    upsample(list);
}

fn geometry(list: &mut List) {
    let f = DType::F32;
    for taps in [[1, 1], [3, 3], [2, 5], [7, 7], [1, 3]] {
        for stride in [[1, 1], [2, 2], [1, 3]] {
            for pad in [[0, 0], [1, 1], [3, 2]] {
                for dilation in [[1, 1], [2, 1]] {
                    let mut s = Shape::new([2, 4, 13, 11], 6, taps);
                    (s.stride, s.pad, s.dilation) = (stride, pad, dilation);
                    let [a, b] = taps;
                    list.full(
                        format!(
                            "conv2d/geometry/{a}x{b}/stride{}pad{}dilation{}",
                            by(&stride),
                            by(&pad),
                            by(&dilation)
                        ),
                        s.of(f, f, f),
                    );
                }
            }
        }
    }
    for (channels, outputs, groups) in [
        (4, 4, 4),
        (4, 8, 4),
        (6, 9, 3),
        (8, 8, 2),
        (1, 1, 1),
        (5, 7, 1),
        (33, 17, 1),
    ] {
        for taps in [[1, 1], [3, 3]] {
            let mut s = Shape::new([1, channels, 9, 10], outputs, taps);
            (s.groups, s.pad) = (groups, [1, 1]);
            list.full(
                format!("conv2d/groups/c{channels}o{outputs}g{groups}/{}", by(&taps)),
                s.of(f, f, f),
            );
        }
    }
    for (height, width) in [(1, 1), (1, 9), (3, 3), (16, 16), (17, 33)] {
        let mut s = Shape::new([1, 8, height, width], 16, [3, 3]);
        s.pad = [1, 1];
        list.full(format!("conv2d/size/{height}x{width}"), s.of(f, f, f));
    }
    // As wide as the blocks of Stable Diffusion, in small images.
    for (channels, outputs, taps, stride) in [
        (32, 64, 3, 1),
        (64, 64, 3, 2),
        (96, 32, 1, 1),
        (4, 64, 3, 1),
        (64, 4, 3, 1),
    ] {
        let mut s = Shape::new([1, channels, 8, 8], outputs, [taps, taps]);
        (s.stride, s.pad) = ([stride, stride], [taps / 2, taps / 2]);
        for (precision, word) in PRECISIONS {
            list.full(
                format!("conv2d/wide/c{channels}o{outputs}k{taps}s{stride}/{word}"),
                s.of(f, DType::F16, f).precision(precision),
            );
        }
    }
}

fn types(list: &mut List) {
    let mut s = Shape::new([2, 5, 9, 8], 7, [3, 3]);
    (s.pad, s.stride) = ([1, 1], [2, 1]);
    for x in FLOATS {
        for w in FLOATS {
            for y in FLOATS {
                list.full(format!("conv2d/type/{x}-{w}-{y}"), s.of(x, w, y));
            }
        }
    }
    let f = DType::F32;
    let y = || normal(f, &s.y());
    let op = || s.of(f, f, f);
    let bias = || normal(f, &[7]);
    for (name, op) in [
        ("bias", op().bias(&bias())),
        ("bias_silu", op().bias(&bias()).act(Act::Silu)),
        ("scale", op().scale(0.25)),
        ("residual", op().bias(&bias()).residual(&y())),
        ("gate", op().act(Act::Gelu).gate(&y())),
        ("accumulate", op().accumulate()),
        (
            "all",
            op().scale(0.5)
                .bias(&bias())
                .act(Act::Relu)
                .gate(&y())
                .residual(&y()),
        ),
    ] {
        list.full(format!("conv2d/epilogue/{name}"), op);
    }
    let both = y().shared(0, 0);
    let mut in_place = op().residual(&both);
    in_place.y = both;
    list.full("conv2d/epilogue/residual_in_place", in_place);
    let last = |shape: [u32; 4]| {
        let [b, c, h, w] = shape;
        laid(permuted(f, &[b, h, w, c], &[0, 3, 1, 2]))
    };
    list.full(
        "conv2d/layout/channels_last",
        s.op(last(s.x), last(s.w()), last(s.y())),
    );
    list.full(
        "conv2d/layout/x_channels_last",
        s.op(last(s.x), normal(f, &s.w()), y()),
    );
    let apart = |shape: [u32; 4]| laid(padded(f, &shape, 3)).at(4);
    list.full(
        "conv2d/layout/apart",
        s.op(apart(s.x), apart(s.w()), apart(s.y())),
    );
    let odd = normal(f, &s.x).fill(Fill::Special);
    let mut one = s;
    one.taps = [1, 1];
    list.full(
        "conv2d/special",
        one.op(odd, normal(f, &one.w()), output(f, &one.y())),
    );
    let mut none = s;
    none.x[0] = 0;
    list.full("conv2d/empty", none.of(f, f, f));
}

fn upsample(list: &mut List) {
    for d in FLOATS {
        for (f, g) in [(1, 1), (2, 2), (1, 3), (4, 2)] {
            let (x, y) = ([2, 3, 5, 7], [2, 3, 5 * f, 7 * g]);
            let op = Upsample::new(&normal(d, &x), &output(d, &y));
            list.full(format!("upsample/{d}/{f}x{g}"), op);
        }
        let op = Upsample::new(
            &normal(DType::F32, &[1, 2, 3, 3]),
            &output(d, &[1, 2, 6, 6]).at(d.size() as u64),
        );
        list.full(format!("upsample/f32-{d}"), op);
    }
    let f = DType::F32;
    let x = laid(permuted(f, &[2, 5, 7, 3], &[0, 3, 1, 2]));
    let y = laid(permuted(f, &[2, 10, 14, 3], &[0, 3, 1, 2]));
    list.full("upsample/channels_last", Upsample::new(&x, &y));
    let op = Upsample::new(&normal(f, &[0, 3, 2, 2]), &output(f, &[0, 3, 4, 4]));
    list.full("upsample/empty", op);
}
