//! The reference: f64, naive, one function per op; used by tests, conformance and `verify` alone.
