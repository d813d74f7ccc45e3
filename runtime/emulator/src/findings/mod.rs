//! What a launch found and what it counted.

pub(crate) mod at;
pub(crate) mod counters;
pub(crate) mod finding;
pub(crate) mod json;
pub(crate) mod report;
