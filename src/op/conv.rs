//! [`Conv2d`] and [`Upsample`].

use super::{
    Act, Arg, Arguments, Epilogue, OpKind, Precision, Rules,
    check::{Checker, product},
    epilogue::{epilogue_setters, precision_setter},
};
use crate::{error::Result, layout::TensorDesc};

/// y = epilogue(x * w): cross-correlation of x`[B, C, H, W]` with w`[O, C / groups, Kh, Kw]`,
/// y`[B, O, Ho, Wo]` where `Ho = (H + 2 pad - dilation (Kh - 1) - 1) / stride + 1`; padding is
/// zeros. Any strides: channels-last tensors are permuted views.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(
    feature = "serde",
    serde(bound = "T: serde::Serialize + for<'a> serde::Deserialize<'a>")
)]
pub struct Conv2d<T> {
    /// Images.
    pub x: T,
    /// Filters.
    pub w: T,
    /// Result.
    pub y: T,
    /// Step of the filter, rows then columns.
    #[cfg_attr(feature = "serde", serde(default = "ones"))]
    pub stride: [u32; 2],
    /// Zeros added on each side, rows then columns.
    #[cfg_attr(feature = "serde", serde(default))]
    pub pad: [u32; 2],
    /// Distance of filter taps, rows then columns.
    #[cfg_attr(feature = "serde", serde(default = "ones"))]
    pub dilation: [u32; 2],
    /// Independent groups of channels; divides C and O.
    #[cfg_attr(feature = "serde", serde(default = "one_group"))]
    pub groups: u32,
    /// What follows; the bias is `[O]`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub epilogue: Epilogue<T>,
    /// Least precise arithmetic accepted.
    #[cfg_attr(feature = "serde", serde(default))]
    pub precision: Precision,
}

#[cfg(feature = "serde")]
fn ones() -> [u32; 2] {
    [1, 1]
}

#[cfg(feature = "serde")]
fn one_group() -> u32 {
    1
}

impl<T: Clone> Conv2d<T> {
    /// Stride 1, no padding, no dilation, one group.
    pub fn new(x: &T, w: &T, y: &T) -> Self {
        Conv2d {
            x: x.clone(),
            w: w.clone(),
            y: y.clone(),
            stride: [1, 1],
            pad: [0, 0],
            dilation: [1, 1],
            groups: 1,
            epilogue: Epilogue::default(),
            precision: Precision::default(),
        }
    }

    /// Step of the filter.
    #[must_use]
    pub fn stride(mut self, rows: u32, columns: u32) -> Self {
        self.stride = [rows, columns];
        self
    }

    /// Zeros added on each side.
    #[must_use]
    pub fn pad(mut self, rows: u32, columns: u32) -> Self {
        self.pad = [rows, columns];
        self
    }

    /// Distance of filter taps.
    #[must_use]
    pub fn dilation(mut self, rows: u32, columns: u32) -> Self {
        self.dilation = [rows, columns];
        self
    }

    /// Independent groups of channels.
    #[must_use]
    pub fn groups(mut self, groups: u32) -> Self {
        self.groups = groups;
        self
    }

    epilogue_setters!(T);

    precision_setter!();
}

impl<T> Arguments<T> for Conv2d<T> {
    const KIND: OpKind = OpKind::Conv2d;
    type With<U> = Conv2d<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Conv2d<U>, E> {
        Ok(Conv2d {
            x: f(Arg::input("x"), &self.x)?,
            w: f(Arg::input("w"), &self.w)?,
            epilogue: self.epilogue.try_map(f)?,
            y: f(self.epilogue.y(), &self.y)?,
            stride: self.stride,
            pad: self.pad,
            dilation: self.dilation,
            groups: self.groups,
            precision: self.precision,
        })
    }
}

impl Rules for Conv2d<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Conv2d);
        for (arg, d) in [("x", &self.x), ("w", &self.w), ("y", &self.y)] {
            c.float(arg, d)?;
            c.rank(arg, d, 4)?;
        }
        let (channels, outputs) = (self.x.dim(1), self.w.dim(0));
        c.require(
            self.groups > 0
                && channels.is_multiple_of(self.groups)
                && outputs.is_multiple_of(self.groups),
            "groups",
            || {
                format!(
                    "is {}, which does not divide {channels} and {outputs} channels",
                    self.groups
                )
            },
        )?;
        c.require(self.w.dim(1) == channels / self.groups, "w", || {
            format!(
                "is {}; expected [O, {}, Kh, Kw]",
                self.w,
                channels / self.groups
            )
        })?;
        let mut size = [0u32; 2];
        for i in 0..2 {
            let (len, taps) = (u64::from(self.x.dim(2 + i)), u64::from(self.w.dim(2 + i)));
            c.require(self.stride[i] > 0, "stride", || "is 0".to_owned())?;
            c.require(self.dilation[i] > 0, "dilation", || "is 0".to_owned())?;
            c.require(taps > 0, "w", || "has no taps".to_owned())?;
            let reach = u64::from(self.dilation[i]) * (taps - 1) + 1;
            let padded = len + 2 * u64::from(self.pad[i]);
            c.require(padded >= reach, "w", || {
                format!("reaches over {reach} positions but the padded input has {padded}")
            })?;
            size[i] = u32::try_from((padded - reach) / u64::from(self.stride[i]) + 1)
                .map_err(|_| c.fail("pad", "is too large"))?;
        }
        c.shape("y", &self.y, &[self.x.dim(0), outputs, size[0], size[1]])?;
        if !self.y.is_empty() {
            c.reduces("x", channels)?;
        }
        self.epilogue.check(c, &self.y, &[outputs])
    }
    fn flops(&self) -> u64 {
        let taps = self.w.shape().iter().skip(1).map(|&d| u64::from(d));
        product(taps.chain([2, self.y.elements()]))
    }
    fn in_place(&self, arg: &'static str) -> bool {
        matches!(arg, "residual" | "gate")
    }
}

/// y`[B, C, fH, gW]` = x`[B, C, H, W]` with each pixel repeated f x g times.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Upsample<T> {
    /// Images.
    pub x: T,
    /// Larger images; its height and width are whole multiples of x's.
    pub y: T,
}

impl<T: Clone> Upsample<T> {
    /// Repeats pixels.
    pub fn new(x: &T, y: &T) -> Self {
        Upsample {
            x: x.clone(),
            y: y.clone(),
        }
    }
}

impl<T> Arguments<T> for Upsample<T> {
    const KIND: OpKind = OpKind::Upsample;
    type With<U> = Upsample<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Upsample<U>, E> {
        Ok(Upsample {
            x: f(Arg::input("x"), &self.x)?,
            y: f(Arg::output("y"), &self.y)?,
        })
    }
}

impl Rules for Upsample<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Upsample);
        for (arg, d) in [("x", &self.x), ("y", &self.y)] {
            c.float(arg, d)?;
            c.rank(arg, d, 4)?;
        }
        let (x, y) = (self.x.shape(), self.y.shape());
        let whole = |small: u32, large: u32| match small {
            0 => large == 0,
            n => large.is_multiple_of(n),
        };
        let ok = x[..2] == y[..2] && whole(x[2], y[2]) && whole(x[3], y[3]);
        c.require(ok, "y", || {
            format!(
                "is {}; expected whole multiples of x, which is {}",
                self.y, self.x
            )
        })
    }
    fn flops(&self) -> u64 {
        0
    }
}
