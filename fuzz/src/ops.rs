//! Ops from arbitrary bytes: mostly well-formed, with faults mixed in. Shared by the fuzz targets
//! and the property tests.

use gristmill::{
    op::{Accumulator, Activations},
    *,
};

#[path = "tape.rs"]
mod tape;
pub use tape::{Mood, Tape};

const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];
const LENGTHS: &[u32] = &[1, 2, 3, 4, 5, 7, 8, 16, 17, 32, 40, 64, 0];
const HUGE: &[u32] = &[
    u32::MAX,
    u32::MAX - 31,
    1 << 31,
    1 << 24,
    65_536,
    4_294_901_760,
];

/// Makes ops.
#[derive(Debug)]
pub struct Maker<'a> {
    /// Decisions.
    pub tape: Tape<'a>,
    /// How far from sensible.
    pub mood: Mood,
}

impl Maker<'_> {
    fn fault(&mut self) -> bool {
        self.mood == Mood::Wild && self.tape.rarely(24)
    }

    /// Length of an axis.
    pub fn len(&mut self) -> u32 {
        if self.fault() {
            self.tape.pick(HUGE)
        } else {
            self.tape.pick(LENGTHS)
        }
    }

    fn few(&mut self) -> u32 {
        self.tape.pick(&[1, 2, 3, 4])
    }

    fn lens(&mut self, max: usize) -> Vec<u32> {
        (0..self.tape.below(max + 1)).map(|_| self.len()).collect()
    }

    /// Any float attribute.
    pub fn number(&mut self) -> f32 {
        if self.fault() {
            return f32::from_bits(self.tape.bits() as u32);
        }
        self.tape
            .pick(&[1.0, 0.5, -2.0, 0.0, 1e-6, 3.25, 1e30, 0.088_388_35])
    }

    fn float(&mut self) -> Element {
        self.tape.pick(FLOATS).into()
    }

    fn quant(&mut self) -> QuantFormat {
        self.tape.pick(QuantFormat::ALL)
    }

    /// Any element type.
    pub fn element(&mut self) -> Element {
        if self.tape.rarely(3) {
            self.quant().into()
        } else {
            self.tape.pick(DType::ALL).into()
        }
    }

    /// A tensor of that shape under some strides. Quantized last axes are rounded up to blocks.
    pub fn desc(&mut self, element: impl Into<Element>, shape: &[u32]) -> TensorDesc {
        let mut element = element.into();
        let mut shape = shape.to_vec();
        if self.fault() {
            element = self.element();
        }
        if self.fault() && !shape.is_empty() {
            let axis = self.tape.below(shape.len());
            shape[axis] = self.len();
        }
        if self.fault() {
            shape.truncate(self.tape.below(shape.len() + 1));
        }
        let plain = TensorDesc::new(element, &shape);
        let strided = match self.tape.below(8) {
            // The axes in another order in memory.
            1 => self.permuted(element, &shape),
            // A part of a larger tensor.
            2 => self.narrowed(element, &shape),
            // Repeated along some axes.
            3 => {
                let keep = self.tape.byte();
                let strides = plain.ok().map(|d| d.strides().to_vec());
                strides.and_then(|mut strides| {
                    let last = strides.len().saturating_sub(1);
                    for (axis, stride) in strides.iter_mut().enumerate() {
                        if keep >> axis & 1 == 1 && (axis != last || element.block_len() == 1) {
                            *stride = 0;
                        }
                    }
                    TensorDesc::strided(element, &shape, &strides).ok()
                })
            }
            4 if self.mood == Mood::Wild => {
                let strides: Vec<i64> = shape
                    .iter()
                    .map(|_| match self.tape.below(4) {
                        0 => self.tape.bits() as i64,
                        1 => i64::from(self.tape.byte()) << self.tape.below(60),
                        _ => i64::from(self.tape.byte()),
                    })
                    .collect();
                TensorDesc::strided(element, &shape, &strides).ok()
            }
            _ => None,
        };
        strided
            .or_else(|| TensorDesc::new(element, &shape).ok())
            .or_else(|| TensorDesc::new(DType::F32, &shape).ok())
            .or_else(|| TensorDesc::strided(DType::F32, &shape, &vec![0; shape.len()]).ok())
            .unwrap_or_else(|| TensorDesc::new(DType::F32, &[2]).expect("a small shape"))
    }

    fn permuted(&mut self, element: Element, shape: &[u32]) -> Option<TensorDesc> {
        let fixed = usize::from(element.block_len() > 1);
        let n = shape.len().checked_sub(fixed).filter(|&n| n > 1)?;
        let (a, b) = (self.tape.below(n), self.tape.below(n));
        let mut memory = shape.to_vec();
        memory.swap(a, b);
        let d = TensorDesc::new(element, &memory).ok()?;
        d.transposed(a, b).ok()
    }

    fn narrowed(&mut self, element: Element, shape: &[u32]) -> Option<TensorDesc> {
        if shape.is_empty() {
            return None;
        }
        let axis = self.tape.below(shape.len());
        let mut memory = shape.to_vec();
        memory[axis] = memory[axis].checked_add(element.block_len() as u32)?;
        let d = TensorDesc::new(element, &memory).ok()?;
        Some(d.narrowed(axis, 0, shape[axis]).ok()?.0)
    }

    fn index(&mut self, shape: &[u32]) -> TensorDesc {
        let d = self.tape.pick(&[DType::I32, DType::U32]);
        self.desc(d, shape)
    }

    fn option<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.tape.rarely(3).then(|| make(self))
    }

    fn precision(&mut self) -> Precision {
        Precision {
            activations: self
                .tape
                .pick(&[Activations::Exact, Activations::Half, Activations::Q8]),
            accumulator: self.tape.pick(&[Accumulator::F32, Accumulator::F16]),
        }
    }

    /// A weight's element type and a K that holds whole blocks of it.
    fn weight_element(&mut self) -> (Element, u32) {
        let element = if self.tape.rarely(2) {
            self.quant().into()
        } else {
            self.float()
        };
        let block = element.block_len() as u32;
        let k = if block > 1 {
            block * self.few()
        } else {
            self.len()
        };
        (element, k)
    }

    fn weight(&mut self, element: Element, shape: &[u32]) -> Weight<TensorDesc> {
        match self.tape.below(8) {
            6 => {
                let mut shape = shape.to_vec();
                let n = shape.len();
                if n > 1 {
                    shape.swap(n - 2, n - 1);
                }
                Weight::Transposed(self.desc(element, &shape))
            }
            7 => {
                let logical = self.desc(element, shape);
                let bytes = logical.data_bytes().min(u64::from(u32::MAX)) as u32;
                Weight::Packed {
                    data: self.desc(DType::U8, &[bytes]),
                    tag: PackTag(self.tape.bits()),
                    logical,
                }
            }
            _ => Weight::Rows(self.desc(element, shape)),
        }
    }

    fn epilogue(&mut self, y: &TensorDesc, bias: &[u32]) -> Epilogue<TensorDesc> {
        let mut e = Epilogue::default();
        if self.tape.rarely(2) {
            e.scale = self.option(Self::number);
            e.bias = self.option(|m| {
                let f = m.float();
                m.desc(f, bias)
            });
            e.act = self.option(|m| m.tape.pick(Act::ALL));
            e.gate = self.option(|m| {
                let f = m.float();
                m.desc(f, y.shape())
            });
            e.residual = self.option(|m| {
                let f = m.float();
                m.desc(f, y.shape())
            });
            e.accumulate = self.tape.rarely(4);
        }
        e
    }

    fn floats(&mut self, shape: &[u32]) -> TensorDesc {
        let f = self.float();
        self.desc(f, shape)
    }

    /// An op of any kind.
    pub fn op(&mut self) -> Op<TensorDesc> {
        let kind = self.tape.pick(OpKind::ALL);
        self.op_of(kind)
    }

    /// An op of that kind.
    pub fn op_of(&mut self, kind: OpKind) -> Op<TensorDesc> {
        match kind {
            OpKind::MatMul => self.mat_mul(),
            OpKind::MatMulMany => self.mat_mul_many(),
            OpKind::GroupedMatMul => self.grouped(),
            OpKind::Attention => self.attention(),
            OpKind::Dequantize => {
                let (q, shape) = self.blocks();
                let w = self.desc(q, &shape);
                Dequantize::new(&w, &self.floats(&shape)).into()
            }
            OpKind::Quantize => {
                let (q, shape) = self.blocks();
                let x = self.floats(&shape);
                Quantize::new(&x, &self.desc(q, &shape)).into()
            }
            OpKind::KvWrite => self.kv_write(),
            OpKind::GatherRows => {
                let (element, width) = self.weight_element();
                let rows = self.len();
                let table = self.weight(element, &[rows, width]);
                let mut shape = self.lens(3);
                let ids = self.index(&shape);
                shape.push(width);
                GatherRows::new(table, &ids, &self.floats(&shape)).into()
            }
            OpKind::Rope => self.rope(),
            OpKind::Norm => self.norm(),
            OpKind::Softmax => {
                let shape = self.lens(4);
                let x = self.floats(&shape);
                let mut op = Softmax::new(&x, &self.floats(&shape)).scale(self.number());
                op.mask = self.option(|m| m.mask(&shape));
                op.into()
            }
            OpKind::Unary => {
                let shape = self.lens(5);
                let x = self.broadcast(&shape);
                let act = self.tape.pick(Act::ALL);
                let y = self.floats(&shape);
                Unary {
                    scale: self.number(),
                    offset: self.number(),
                    ..Unary::new(act, &x, &y)
                }
                .into()
            }
            OpKind::Binary => {
                let shape = self.lens(5);
                let (a, b) = (self.broadcast(&shape), self.broadcast(&shape));
                let f = self.tape.pick(BinOp::ALL);
                Binary::new(f, &a, &b, &self.floats(&shape)).into()
            }
            OpKind::Glu => {
                let shape = self.lens(5);
                let act = self.tape.pick(Act::ALL);
                let (gate, up) = (self.floats(&shape), self.floats(&shape));
                Glu::new(act, &gate, &up, &self.floats(&shape)).into()
            }
            OpKind::Reduce => {
                let mut shape = self.lens(4);
                shape.push(self.len());
                let x = self.floats(&shape);
                let axis = self.tape.below(shape.len() + 1).min(255) as u8;
                if let Some(len) = shape.get_mut(usize::from(axis)) {
                    *len = 1;
                }
                let f = self.tape.pick(RedOp::ALL);
                let y = match f {
                    RedOp::ArgMax => self.desc(DType::I32, &shape),
                    _ => self.floats(&shape),
                };
                Reduce::new(f, &x, axis, &y).into()
            }
            OpKind::TopK => {
                let mut shape = self.lens(3);
                shape.push(self.len());
                let x = self.floats(&shape);
                if let Some(last) = shape.last_mut() {
                    *last = self.len().min(*last);
                }
                let values = self.floats(&shape);
                TopK::new(&x, &values, &self.desc(DType::I32, &shape)).into()
            }
            OpKind::Copy => {
                let mut shape = self.lens(4);
                let (from, mut to) = (self.element(), self.element());
                if from.quant().is_some() {
                    to = from;
                    shape.push(from.block_len() as u32 * self.few());
                } else if to.quant().is_some() {
                    to = from;
                }
                let mut x = shape.clone();
                if self.tape.rarely(3) && x.len() > 1 {
                    x[0] = 1;
                }
                let x = self.desc(from, &x);
                Copy::new(&x, &self.desc(to, &shape)).into()
            }
            OpKind::Conv2d => self.conv(),
            OpKind::Upsample => {
                let (b, c, h, w) = (self.few(), self.few(), self.len(), self.len());
                let x = self.floats(&[b, c, h, w]);
                let (f, g) = (self.few(), self.few());
                let y = [b, c, h.saturating_mul(f), w.saturating_mul(g)];
                Upsample::new(&x, &self.floats(&y)).into()
            }
            _ => Custom {
                name: "fuzz/op".into(),
                inputs: (0..self.tape.below(3))
                    .map(|_| {
                        let shape = self.lens(6);
                        let element = self.element();
                        self.desc(element, &shape)
                    })
                    .collect(),
                outputs: vec![self.floats(&[2])],
                params: vec![self.tape.byte()],
            }
            .into(),
        }
    }

    /// A shape that broadcasts to `shape`.
    fn broadcast(&mut self, shape: &[u32]) -> TensorDesc {
        let mut small = shape[self.tape.below(shape.len() + 1) / 2..].to_vec();
        for len in &mut small {
            if self.tape.rarely(4) {
                *len = 1;
            }
        }
        self.floats(&small)
    }

    fn mask(&mut self, shape: &[u32]) -> TensorDesc {
        if self.tape.rarely(2) {
            let d = self.broadcast(shape);
            return self.desc(DType::U8, d.shape());
        }
        self.broadcast(shape)
    }

    fn blocks(&mut self) -> (QuantFormat, Vec<u32>) {
        let q = self.quant();
        let mut shape = self.lens(3);
        shape.push(q.block_len() as u32 * self.few());
        (q, shape)
    }

    fn mat_mul(&mut self) -> Op<TensorDesc> {
        let (element, k) = self.weight_element();
        let (m, n) = (self.len(), self.len());
        let batch = if self.tape.rarely(3) {
            self.lens(3)
        } else {
            Vec::new()
        };
        let with = |tail: [u32; 2]| [&batch[..], &tail].concat();
        let mut w_shape = with([n, k]);
        if self.tape.rarely(2) {
            w_shape = vec![n, k];
        }
        let i8s = self.tape.rarely(12);
        let w = if i8s {
            Weight::Rows(self.desc(DType::I8, &w_shape))
        } else {
            self.weight(element, &w_shape)
        };
        let x_element = if i8s { DType::I8.into() } else { self.float() };
        let x = self.desc(x_element, &with([m, k]));
        let y = if i8s && self.tape.rarely(2) {
            self.desc(DType::I32, &with([m, n]))
        } else {
            self.floats(&with([m, n]))
        };
        let mut op = MatMul::new(&x, w, &y);
        op.epilogue = self.epilogue(&y, &[n]);
        op.precision = self.precision();
        op.into()
    }

    fn mat_mul_many(&mut self) -> Op<TensorDesc> {
        let (element, k) = self.weight_element();
        let m = self.len();
        let x = self.floats(&[m, k]);
        let parts: Vec<_> = (0..self.tape.below(4))
            .map(|_| {
                let n = self.len();
                let w = self.weight(element, &[n, k]);
                let y = self.floats(&[m, n]);
                let mut part = Part::new(w, &y);
                part.epilogue = self.epilogue(&y, &[n]);
                part
            })
            .collect();
        MatMulMany::new(&x, parts)
            .precision(self.precision())
            .into()
    }

    fn grouped(&mut self) -> Op<TensorDesc> {
        let (element, k) = self.weight_element();
        let (experts, rows, top, n) = (self.few(), self.len(), self.few(), self.len());
        let w = self.weight(element, &[experts, n, k]);
        let (x, y, routing) = if self.tape.rarely(2) {
            let offsets = self.index(&[experts.saturating_add(1)]);
            let x = self.floats(&[rows, k]);
            (x, self.floats(&[rows, n]), Routing::Offsets(offsets))
        } else {
            let ids = self.index(&[rows, top]);
            let x = if self.tape.rarely(2) {
                self.floats(&[rows, top, k])
            } else {
                self.floats(&[rows, k])
            };
            (x, self.floats(&[rows, top, n]), Routing::Ids(ids))
        };
        let mut op = GroupedMatMul::new(&x, w, routing, &y);
        op.epilogue = self.epilogue(&y, &[experts, n]);
        op.precision = self.precision();
        op.into()
    }

    fn cache(&mut self, b: u32, heads: u32, d: [u32; 2]) -> Kv<TensorDesc> {
        let element = self.tape.pick(&[
            Element::Plain(DType::F32),
            Element::Plain(DType::F16),
            Element::Plain(DType::BF16),
            Element::Quant(QuantFormat::Q8_0),
        ]);
        let rows = self.len();
        if self.tape.rarely(3) {
            let pages = self.few();
            let k = self.desc(element, &[pages, heads, rows, d[0]]);
            let v = self.desc(element, &[pages, heads, rows, d[1]]);
            let per_seq = self.few();
            let table = self.index(&[b, per_seq]);
            Kv::Paged { k, v, table }
        } else {
            let k = self.desc(element, &[b, heads, rows, d[0]]);
            let v = self.desc(element, &[b, heads, rows, d[1]]);
            Kv::Dense { k, v }
        }
    }

    fn head_dims(&mut self) -> [u32; 2] {
        let d = self.tape.pick(&[32u32, 8, 64, 1, 72, 128, 5]);
        let v = if self.tape.rarely(6) { self.len() } else { d };
        [d, v]
    }

    fn attention(&mut self) -> Op<TensorDesc> {
        let (b, hkv, group) = (self.few(), self.few(), self.few());
        let sq = self.len();
        let d = self.head_dims();
        let hq = hkv * group;
        let kv = self.cache(b, hkv, d);
        let ragged = self.tape.rarely(4);
        let qb = if ragged { 1 } else { b };
        let q = self.floats(&[qb, hq, sq, d[0]]);
        let out = self.floats(&[qb, hq, sq, d[1]]);
        let capacity = kv.capacity().min(u64::from(u32::MAX)) as u32;
        let kv_len: Scalar<TensorDesc> = match self.tape.below(4) {
            0 => Scalar::Device(self.index(&[1])),
            1 => Scalar::Host(self.len()),
            n => Scalar::Host(capacity / (n as u32 - 1)),
        };
        let mut op = Attention::new(&q, kv, kv_len, self.number(), &out);
        if ragged {
            let (starts, lens) = (self.index(&[b.saturating_add(1)]), self.index(&[b]));
            op = op.ragged(&starts, &lens);
        }
        op.causal = self.tape.rarely(2);
        op.window = self.option(Self::len);
        op.softcap = self.option(Self::number);
        op.alibi = self.option(|m| m.desc(DType::F32, &[hq]));
        op.sinks = self.option(|m| m.desc(DType::F32, &[hq]));
        if !ragged {
            op.mask = self.option(|m| m.mask(&[b, hq, sq, capacity]));
        }
        op.precision = self.precision();
        op.into()
    }

    fn kv_write(&mut self) -> Op<TensorDesc> {
        let (b, heads, s) = (self.few(), self.few(), self.len());
        let d = self.head_dims();
        let cache = self.cache(b, heads, d);
        let k = self.floats(&[b, heads, s, d[0]]);
        let v = self.floats(&[b, heads, s, d[1]]);
        let slots = self.index(&[b, s]);
        KvWrite::new(&k, &v, cache, &slots).into()
    }

    fn rope(&mut self) -> Op<TensorDesc> {
        let (b, h, s) = (self.few(), self.few(), self.len());
        let d = self.tape.pick(&[8u32, 64, 5, 128, 0, 1]);
        let x = self.floats(&[b, h, s, d]);
        let y = self.floats(&[b, h, s, d]);
        let kind = match self.tape.below(4) {
            0 => RopeKind::Interleaved,
            1 => RopeKind::Sections([self.len(), self.len(), self.few(), self.len()]),
            _ => RopeKind::HalfSplit,
        };
        let positions = match kind {
            RopeKind::Sections(_) => vec![4, s],
            _ if self.tape.rarely(2) => vec![b, s],
            _ => vec![s],
        };
        let positions = self.desc(DType::I32, &positions);
        let n_rot = if self.tape.rarely(3) {
            self.len()
        } else {
            d & !1
        };
        let theta = self.tape.pick(&[10_000.0, 500_000.0, 1.0, 0.0]);
        let mut op = Rope::new(kind, &x, &positions, theta, n_rot, &y);
        op.factors = self.option(|m| m.desc(DType::F32, &[n_rot / 2]));
        op.magnitude = self.number();
        op.into()
    }

    fn norm(&mut self) -> Op<TensorDesc> {
        let mut shape = self.lens(3);
        shape.push(self.len());
        let kind = match self.tape.below(4) {
            0 => NormKind::Layer,
            1 => NormKind::Group { groups: self.few() },
            2 => NormKind::L2,
            _ => NormKind::Rms,
        };
        let width = match kind {
            NormKind::Group { .. } => shape.get(1).copied().unwrap_or(1),
            _ => shape[shape.len() - 1],
        };
        let x = self.floats(&shape);
        let y = self.floats(&shape);
        let mut op = Norm::new(kind, &x, self.number(), &y);
        op.weight = self.option(|m| m.floats(&[width]));
        op.bias = self.option(|m| m.floats(&[width]));
        op.residual = self.option(|m| m.floats(&shape));
        op.sum = self.option(|m| m.floats(&shape));
        op.weight_offset = self.number();
        op.into()
    }

    fn conv(&mut self) -> Op<TensorDesc> {
        let (b, groups, per, h, w) = (self.few(), self.few(), self.few(), self.len(), self.len());
        let channels = groups * per;
        let outputs = groups * self.few();
        let taps = [self.few(), self.few()];
        let attr = |m: &mut Self| {
            if m.fault() {
                [m.len(), m.len()]
            } else {
                [m.few(), m.few()]
            }
        };
        let (stride, dilation, pad) = (attr(self), attr(self), attr(self));
        let size = |len: u32, i: usize| -> u32 {
            let reach = u64::from(dilation[i]) * u64::from(taps[i] - 1) + 1;
            let padded = u64::from(len) + 2 * u64::from(pad[i]);
            let steps = padded.saturating_sub(reach) / u64::from(stride[i].max(1));
            u32::try_from(steps + 1).unwrap_or(u32::MAX)
        };
        let x = self.floats(&[b, channels, h, w]);
        let filters = self.floats(&[outputs, per, taps[0], taps[1]]);
        let y = self.floats(&[b, outputs, size(h, 0), size(w, 1)]);
        let mut op = Conv2d::new(&x, &filters, &y);
        op.groups = groups;
        (op.stride, op.dilation, op.pad) = (stride, dilation, pad);
        op.epilogue = self.epilogue(&y, &[outputs]);
        op.precision = self.precision();
        op.into()
    }
}
