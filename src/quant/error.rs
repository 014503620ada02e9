use super::QuantFormat;

/// Why a [`QuantFormat`] could not decode, encode or be named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// Encoded bytes that are not a whole number of blocks.
    #[error(
        "{format}: {bytes} bytes are not a whole number of {}-byte blocks",
        format.block_bytes()
    )]
    PartialBlock {
        /// Format of the bytes.
        format: QuantFormat,
        /// Length of the byte slice.
        bytes: usize,
    },
    /// Elements that are not a whole number of blocks.
    #[error(
        "{format}: {elements} elements are not a whole number of blocks of {}; \
         pad the row or use a format with shorter blocks",
        format.block_len()
    )]
    PartialRow {
        /// Format to encode to.
        format: QuantFormat,
        /// Length of the element slice.
        elements: usize,
    },
    /// The element slice does not fit the number of blocks.
    #[error(
        "{format}: {blocks} blocks hold {} elements, but the f32 slice has {elements}",
        blocks.saturating_mul(format.block_len())
    )]
    ElementCount {
        /// Format of the bytes.
        format: QuantFormat,
        /// Blocks in the byte slice.
        blocks: usize,
        /// Length of the element slice.
        elements: usize,
    },
    /// The byte slice does not fit the number of blocks.
    #[error(
        "{format}: {blocks} blocks take {} bytes, but the byte slice has {bytes}",
        blocks.saturating_mul(format.block_bytes())
    )]
    ByteCount {
        /// Format to encode to.
        format: QuantFormat,
        /// Blocks in the element slice.
        blocks: usize,
        /// Length of the byte slice.
        bytes: usize,
    },
    /// No encoder exists for the format.
    #[error("{format} can be decoded but not encoded; `QuantFormat::can_encode` tells which can")]
    NoEncoder {
        /// Format asked for.
        format: QuantFormat,
    },
    /// An element to encode is NaN or infinite.
    #[error("{format}: element {index} is not finite and no code stands for it")]
    NonFinite {
        /// Format to encode to.
        format: QuantFormat,
        /// Index of the first such element.
        index: usize,
    },
    /// The values of a block are too large for its scale field.
    #[error(
        "{format}: block {block} needs a scale beyond the range of its scale field; scale the tensor down"
    )]
    ScaleOverflow {
        /// Format to encode to.
        format: QuantFormat,
        /// Index of the block.
        block: usize,
    },
    /// No format has this name.
    #[error("unknown quantization format `{name}`; expected a ggml name such as Q4_K")]
    UnknownFormat {
        /// The name as given.
        name: String,
    },
}
