//! Hand-computed values, op by op.
