//! How each kernel is chosen and launched.
