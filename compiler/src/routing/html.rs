//! stub
use super::Report;
/// Page.
pub fn html(_: &Report) -> String { String::new() }
