//! Criterion registration of every kernel of a device.
