//! `{"element": "q4_k", "shape": [N, K]}`, with `"strides"` in cells when they are not those of
//! [`TensorDesc::new`].

use super::TensorDesc;
use crate::element::Element;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    element: Element,
    shape: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    strides: Option<Vec<i64>>,
}

impl Serialize for TensorDesc {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Plain {
            element: self.element,
            shape: self.shape().to_vec(),
            strides: (*self != self.contiguous()).then(|| self.strides().to_vec()),
        }
        .serialize(s)
    }
}

impl<'de> Deserialize<'de> for TensorDesc {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let p = Plain::deserialize(d)?;
        match &p.strides {
            Some(strides) => TensorDesc::strided(p.element, &p.shape, strides),
            None => TensorDesc::new(p.element, &p.shape),
        }
        .map_err(D::Error::custom)
    }
}
