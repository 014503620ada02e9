//! [`Rope`]: rotary position embedding.

use super::{Arg, Arguments, OpKind, Rules, check::Checker, map_opt};
use crate::{element::DType, error::Result, layout::TensorDesc};

/// Which two numbers form a rotated pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum RopeKind {
    /// Pairs (i, i + n_rot / 2): NeoX, Qwen, Gemma, Llama in safetensors.
    HalfSplit,
    /// Pairs (2i, 2i + 1): the original paper, Llama in GGUF, ChatGLM.
    Interleaved,
    /// As `HalfSplit`, but pair i takes its position from the section it falls in (sections
    /// repeat): multi-modal rope. Positions have one row per section.
    Sections([u32; 4]),
}

/// y = x with pair i of the first `n_rot` numbers of each row rotated by the angle
/// `position * theta^(-2i / n_rot) / factors[i]` (Su et al. 2021), multiplied by `magnitude`;
/// numbers from `n_rot` on are copied.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(
    feature = "serde",
    serde(bound = "T: serde::Serialize + for<'a> serde::Deserialize<'a>")
)]
pub struct Rope<T> {
    /// Floats `[B, H, S, D]`.
    pub x: T,
    /// Floats of the same shape.
    pub y: T,
    /// i32 `[S]` or `[B, S]`; `[4, S]` for sections.
    pub positions: T,
    /// Pairing.
    pub kind: RopeKind,
    /// Base of the frequencies.
    pub theta: f32,
    /// How many numbers of each row rotate: even, at most D.
    pub n_rot: u32,
    /// f32 `[n_rot / 2]`: divisors of the frequencies (Llama 3, YaRN, LongRoPE; see
    /// [`yarn_factors`] and [`llama3_factors`]).
    #[cfg_attr(feature = "serde", serde(default))]
    pub factors: Option<T>,
    /// Factor on the rotated numbers (YaRN's attention scale).
    #[cfg_attr(feature = "serde", serde(default = "super::elementwise::one"))]
    pub magnitude: f32,
}

impl<T: Clone> Rope<T> {
    /// Rotates the first `n_rot` numbers of each row.
    pub fn new(kind: RopeKind, x: &T, positions: &T, theta: f32, n_rot: u32, y: &T) -> Self {
        Rope {
            x: x.clone(),
            y: y.clone(),
            positions: positions.clone(),
            kind,
            theta,
            n_rot,
            factors: None,
            magnitude: 1.0,
        }
    }

    /// Divides the frequencies.
    #[must_use]
    pub fn factors(mut self, factors: &T) -> Self {
        self.factors = Some(factors.clone());
        self
    }

    /// Scales the rotated numbers.
    #[must_use]
    pub fn magnitude(mut self, magnitude: f32) -> Self {
        self.magnitude = magnitude;
        self
    }
}

impl<T> Arguments<T> for Rope<T> {
    const KIND: OpKind = OpKind::Rope;
    type With<U> = Rope<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Rope<U>, E> {
        Ok(Rope {
            x: f(Arg::input("x"), &self.x)?,
            positions: f(Arg::input("positions"), &self.positions)?,
            factors: map_opt(Arg::input("factors"), &self.factors, f)?,
            y: f(Arg::output("y"), &self.y)?,
            kind: self.kind,
            theta: self.theta,
            n_rot: self.n_rot,
            magnitude: self.magnitude,
        })
    }
}

impl Rules for Rope<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Rope);
        c.float("x", &self.x)?;
        c.float("y", &self.y)?;
        c.rank("x", &self.x, 4)?;
        c.shape("y", &self.y, self.x.shape())?;
        let (b, s, d) = (self.x.dim(0), self.x.dim(2), self.x.dim(3));
        let n = self.n_rot;
        c.require(n <= d && n.is_multiple_of(2), "n_rot", || {
            format!("is {n}; expected an even number up to head_dim {d}")
        })?;
        c.require(self.theta.is_finite() && self.theta > 0.0, "theta", || {
            format!("is {}; expected a positive number", self.theta)
        })?;
        c.finite("magnitude", self.magnitude)?;
        let p = &self.positions;
        c.require(p.plain() == Some(DType::I32), "positions", || {
            format!("is {p}; expected i32")
        })?;
        if let RopeKind::Sections(sections) = self.kind {
            let pairs: u64 = sections.iter().map(|&n| u64::from(n)).sum();
            c.require(pairs > 0, "sections", || "are all 0".to_owned())?;
            c.shape("positions", p, &[4, s])?;
        } else {
            c.require(p.shape() == [s] || p.shape() == [b, s], "positions", || {
                format!("is {p}; expected [{s}] or [{b}, {s}]")
            })?;
        }
        if let Some(f) = &self.factors {
            c.require(f.plain() == Some(DType::F32), "factors", || {
                format!("is {f}; expected f32")
            })?;
            c.shape("factors", f, &[n / 2])?;
        }
        Ok(())
    }
    fn flops(&self) -> u64 {
        3 * self.x.elements()
    }
    fn in_place(&self, arg: &'static str) -> bool {
        arg == "x"
    }
}

/// Frequency divisors of Llama 3.1 and later: wavelengths beyond `original / low` are slowed by
/// `factor`, those below `original / high` are kept, between them a linear blend.
pub fn llama3_factors(
    n_rot: u32,
    theta: f32,
    factor: f32,
    low: f32,
    high: f32,
    original: u32,
) -> Vec<f32> {
    let (theta, factor) = (f64::from(theta), f64::from(factor));
    let (low, high) = (f64::from(low), f64::from(high));
    let original = f64::from(original);
    (0..n_rot / 2)
        .map(|i| {
            let freq = theta.powf(-2.0 * f64::from(i) / f64::from(n_rot));
            let turns = original * freq / std::f64::consts::TAU;
            let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - keep) / factor + keep)) as f32
        })
        .collect()
}

/// Frequency divisors and magnitude of YaRN (Peng et al. 2023): pairs that turn fewer than
/// `beta_slow` times over `original` positions are slowed by `factor`, those that turn more than
/// `beta_fast` times are kept, between them a ramp. The magnitude is `0.1 ln(factor) + 1`.
pub fn yarn_factors(
    n_rot: u32,
    theta: f32,
    factor: f32,
    beta_fast: f32,
    beta_slow: f32,
    original: u32,
) -> (Vec<f32>, f32) {
    let n = f64::from(n_rot);
    let pair_of = |turns: f64| {
        n * (f64::from(original) / (turns * std::f64::consts::TAU)).ln()
            / (2.0 * f64::from(theta).ln())
    };
    let first = pair_of(f64::from(beta_fast)).floor().max(0.0);
    let last = pair_of(f64::from(beta_slow)).ceil().min(n - 1.0);
    let factor = f64::from(factor);
    let factors = (0..n_rot / 2)
        .map(|i| {
            let ramp = ((f64::from(i) - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
            (1.0 / (ramp / factor + (1.0 - ramp))) as f32
        })
        .collect();
    (factors, (0.1 * factor.ln() + 1.0) as f32)
}
