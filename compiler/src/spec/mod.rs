//! The spec: its text in, the typed model or every mistake out.
//! What a layer means (the graph) is not here: this room knows keys, places and limits.
//!
//! ```
//! use moec::diagnostics::Source;
//!
//! let text = include_str!("../../../examples/specs/tiny.toml").to_string();
//! let source = Source { name: "tiny.toml".into(), text };
//! let spec = moec::spec::parse(&source).expect("a correct spec");
//! assert_eq!(spec.router.top_k, 2);
//! ```

mod aliases;
mod capacity;
mod check;
mod json;
mod keys;
mod lints;
mod model;
mod places;
mod recipe;
mod resolve;
mod schema;
mod section;
mod source;
mod tree;
mod weights;

use std::path::Path;

pub use capacity::{Capacity, CapacityGroup, CapacitySize, Dropped, Pad, Priority, Ratio, Round};
pub use lints::{drop_floor, least_drop};
pub use model::{
    Activation, Apply, AuxGroup, AuxLoss, Clamp, ClampPlace, Correction, DType, EpsMode, Expert, Gating, GroupMask, GroupScore,
    Groups, HashOob, Host, InputNorm, Mode, Norm, Numerics, Order, Pack, Renorm, Router, RouterDType, Score, Select, Shared,
    SharedCombine, SharedGate, Soft, SoftNorm, Spec, Tokens, Training, Word,
};
#[cfg(test)]
pub(crate) use places::has_key;
pub(crate) use places::{Blamed, located};
pub use schema::json_schema;
pub use source::{MAX_BYTES, MAX_DEPTH, MAX_PARTS, read, read_text};
pub(crate) use tree::{Entry, Kind, Value};
pub use weights::{EXPERT_INDEX, Layout, Tensor, Weight};

use crate::diagnostics::{Code, Diagnostic, Report, Source};

/// Reads a spec: every key known, in range and carried by the pipeline, or all that is wrong with it.
///
/// # Errors
/// Every mistake with its place, in the order of the text; of a syntax error the first alone.
pub fn parse(source: &Source) -> Result<Spec, Vec<Diagnostic>> {
    let one = |diagnostic| vec![diagnostic];
    let entries = entries(source).map_err(one)?;
    let mut wrong = Vec::new();
    let sections = resolve::sections(&entries, &mut wrong);
    check::check(&sections, &mut wrong);
    if wrong.is_empty() { resolve::spec(&sections).map_err(one) } else { Err(in_order(wrong)) }
}

/// What a correct spec says that is probably not meant: warnings, and errors where its `[lints]` denies them. A spec that
/// [`parse`] refuses has none.
pub fn warnings(source: &Source) -> Vec<Diagnostic> {
    let mut wrong = Vec::new();
    let sections = resolve::sections(&entries(source).unwrap_or_default(), &mut wrong);
    check::check(&sections, &mut wrong);
    match resolve::spec(&sections) {
        Ok(spec) if wrong.is_empty() => in_order(lints::lint(&sections, &spec)),
        Ok(_) | Err(_) => Vec::new(),
    }
}

/// Whether the `[lints]` of a spec says that this warning is meant.
pub fn allows(source: &Source, code: Code) -> bool {
    let sections = resolve::sections(&entries(source).unwrap_or_default(), &mut Vec::new());
    lints::level(&sections, code) == Some("allow")
}

/// What is wrong with a spec that [lacks its vocabulary](Spec::lacks_vocabulary) where there is no checkpoint to take it from.
pub fn vocabulary_missing(source: &Source) -> Diagnostic {
    let missing = Diagnostic::new(Code::MissingKey, "router.mode = \"hash\" lacks `vocabulary`")
        .help("vocabulary = the number of token ids, the rows of weights.hash_table; `moec run --weights` finds it there");
    located(missing, source, &[("router.mode", "looks experts up by token id")])
}

/// The entries of a spec in either spelling, under its limits.
fn entries(source: &Source) -> Result<Vec<Entry>, Diagnostic> {
    let format = source::format_of(source);
    source::check_text(&source.text, format)?;
    match format {
        source::Format::Toml => tree::from_toml(&source.text),
        source::Format::Json => json::from_json(&source.text),
    }
}

/// The entries of a JSON object with their places, under the limits of a spec.
pub(crate) fn json_entries(text: &str) -> Result<Vec<Entry>, Diagnostic> {
    source::check_text(text, source::Format::Json)?;
    json::from_json(text)
}

/// The spec in a file, or on standard input where `path` is `-`, together with its text for later diagnostics.
///
/// # Errors
/// What [`read`] and [`parse`] refuse, with the text.
pub fn load(path: &Path) -> Result<(Spec, Source), Report> {
    let source = read(path)?;
    match parse(&source) {
        Ok(spec) => Ok((spec, source)),
        Err(diagnostics) => Err(Report { source, diagnostics }),
    }
}

/// Diagnostics in the order of the text.
fn in_order(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by_key(|diagnostic| (diagnostic.start(), diagnostic.code));
    diagnostics
}
