//! Which weight formats have a decoder in `shaders/lib/`.

use crate::{
    element::{DType, Element},
    error::Refusal,
    quant::QuantFormat,
};

/// The `FORMAT` of `lib/quant_{FORMAT}.wgsl`.
pub(crate) fn decoder(element: Element) -> Option<&'static str> {
    Some(match element {
        Element::Plain(
            d @ (DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 | DType::F8E5M2),
        ) => d.name(),
        Element::Quant(QuantFormat::Q4_0) => "q4_0",
        Element::Quant(QuantFormat::Q4_1) => "q4_1",
        Element::Quant(QuantFormat::Q5_0) => "q5_0",
        Element::Quant(QuantFormat::Q5_1) => "q5_1",
        Element::Quant(QuantFormat::Q8_0) => "q8_0",
        Element::Quant(QuantFormat::Q2_K) => "q2_k",
        Element::Quant(QuantFormat::Q3_K) => "q3_k",
        Element::Quant(QuantFormat::Q4_K) => "q4_k",
        Element::Quant(QuantFormat::Q5_K) => "q5_k",
        Element::Quant(QuantFormat::Q6_K) => "q6_k",
        Element::Quant(QuantFormat::IQ4_NL) => "iq4_nl",
        Element::Quant(QuantFormat::IQ4_XS) => "iq4_xs",
        Element::Quant(QuantFormat::MXFP4) => "mxfp4",
        _ => return None,
    })
}

/// [`decoder`], or why not.
pub(crate) fn decodes(arg: &'static str, element: Element) -> Result<(), Refusal> {
    match decoder(element) {
        Some(_) => Ok(()),
        None => Err(Refusal::Element { arg, element }),
    }
}
