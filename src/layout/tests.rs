//! Views and their arithmetic.

use super::*;
use crate::quant::QuantFormat;

fn f32s(shape: &[u32]) -> TensorDesc {
    TensorDesc::new(DType::F32, shape).unwrap()
}

#[test]
fn spans_and_counts() {
    let d = f32s(&[3, 5]);
    assert_eq!((d.elements(), d.span_bytes(), d.data_bytes()), (15, 60, 60));
    let q = TensorDesc::new(QuantFormat::Q4_K, &[3, 512]).unwrap();
    assert_eq!((q.strides(), q.span_bytes()), (&[2i64, 1][..], 3 * 2 * 144));
    assert_eq!(f32s(&[0, 5]).span_bytes(), 0);
    assert!(TensorDesc::new(QuantFormat::Q4_K, &[3, 100]).is_err());
    assert!(TensorDesc::new(DType::F32, &[u32::MAX; 6]).is_err());
}

#[test]
fn views() {
    let d = f32s(&[4, 6]);
    let (n, off) = d.narrowed(1, 2, 5).unwrap();
    assert_eq!(
        (n.shape(), n.strides(), off),
        (&[4u32, 3][..], &[6i64, 1][..], 8)
    );
    assert!(n.reshaped(&[12]).is_err());
    assert_eq!(n.reshaped(&[2, 2, 3]).unwrap().strides(), &[12, 6, 1]);
    let t = d.transposed(0, 1).unwrap();
    assert!(!t.is_contiguous() && t.is_injective());
    let b = f32s(&[6]).broadcast_to(&[4, 6]).unwrap();
    assert_eq!(b.strides(), &[0, 1]);
    assert!(!b.is_injective());
    assert_eq!(b.data_bytes(), 24);
    let q = TensorDesc::new(QuantFormat::Q8_0, &[2, 4, 64]).unwrap();
    let (half, off) = q.narrowed(2, 32, 64).unwrap();
    assert_eq!((half.strides(), off), (&[8i64, 2, 1][..], 34));
    assert!(q.narrowed(2, 16, 64).is_err());
    assert_eq!(half.reshaped(&[8, 32]).unwrap().strides(), &[2, 1]);
}
