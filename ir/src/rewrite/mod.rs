//! Which meanings are equal.
