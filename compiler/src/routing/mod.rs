//! Routing health: what a router does with recorded logits, and what another capacity or mode would do with them.
//!
//! ```text
//! trace ─▶ select ─▶ ranks ─▶ sweep ─▶ report ─▶ text, html
//! ```
//!
//! A trace is read once, in chunks ([`Trace`]). `select` picks each token's experts exactly as the graph's interpreter does;
//! `ranks` finds each pair's place in the queue of its expert; from these places `sweep` knows what every capacity drops, and
//! nothing is routed again. `choice` lets the experts choose instead. No kernel runs here.

mod choice;
mod html;
mod logits;
mod observe;
mod plot;
mod ranks;
mod report;
mod score;
mod select;
mod sweep;
mod text;
mod trace;

use std::path::Path;

pub use html::html;
pub use logits::Product;
pub use report::Report;
pub use select::Vectors;
pub use sweep::Band;
pub use text::text;
pub use trace::{Recorded, Trace};

use crate::diagnostics;
use crate::reference::ReferenceError;
use crate::spec::{CapacitySize, Mode, Ratio, Spec};
use observe::Observer;
use report::{Read, report};
use trace::Rows;

/// How a trace is looked at.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens of a batch, at most: longer tensors are cut, between rows of `[B, S, E]`.
    pub batch: u64,
    /// The share of pairs that the recommended capacity may drop.
    pub target_drop: Ratio,
    /// K of the tokens that choose beside experts that do; `None`: as many as a token has experts in the mean.
    pub top_k: Option<u64>,
}

/// Why there is no report.
#[derive(Debug)]
pub enum Error {
    /// The trace cannot be read.
    Trace(diagnostics::Report),
    /// A bug: the graph came from a spec.
    Selection(ReferenceError),
}

impl From<diagnostics::Report> for Error {
    fn from(report: diagnostics::Report) -> Error {
        Error::Trace(report)
    }
}

impl From<ReferenceError> for Error {
    fn from(error: ReferenceError) -> Error {
        Error::Selection(error)
    }
}

/// Reads the trace, logits or with `product` hidden states, and reports on the spec's routing. `progress` is told the bytes
/// that were read, now and then.
///
/// # Errors
/// [`Error`].
pub fn route(
    spec: &Spec,
    trace: &Trace,
    product: Option<&Product>,
    vectors: &Vectors,
    options: &Options,
    mut progress: impl FnMut(u64),
) -> Result<Report, Error> {
    let choosing = tokens_that_choose(spec, options.top_k);
    let mut observer = Observer::new(&choosing, vectors, options.batch.max(1))?;
    let (mut bytes, mut rows, mut made) = (Vec::new(), Rows::default(), Rows::default());
    let mut bytes_read = 0;
    for tensor in &trace.tensors {
        observer.begin(tensor.tokens, tensor.row_tokens);
        let mut first = 0;
        while first < tensor.tokens {
            let count = trace.chunk_rows().min(tensor.tokens - first);
            trace.read(tensor, first, count, &mut bytes, &mut rows)?;
            match product {
                Some(product) => {
                    logits::logits(product, spec.columns() as usize, &rows, &mut made);
                    observer.take(&made)?;
                }
                None => observer.take(&rows)?,
            }
            first += count;
            bytes_read += bytes.len() as u64;
            progress(bytes_read);
        }
    }
    let read = Read {
        source: if product.is_some() { "hidden" } else { "logits" },
        files: trace.file_count(),
        tensors: trace.tensors.len(),
        skipped_tensors: trace.skipped,
    };
    Ok(report(spec, &observer, &read, options.target_drop))
}

/// The spec, or where its experts choose, one whose tokens do, with the same C: what capacities are swept for.
fn tokens_that_choose(spec: &Spec, top_k: Option<u64>) -> Spec {
    let mut choosing = spec.clone();
    if spec.router.mode == Mode::ExpertChoice {
        // E C / S.
        let mean = match spec.capacity.map(|capacity| capacity.size) {
            Some(CapacitySize::Factor { factor, .. }) => sweep::value(factor),
            Some(CapacitySize::Fraction { fraction, .. }) => sweep::value(fraction) * spec.experts as f64,
            Some(CapacitySize::Tokens(_)) | None => 1.0,
        };
        choosing.router.mode = Mode::TokenChoice;
        choosing.router.top_k = top_k.unwrap_or(mean.round() as u64).clamp(1, spec.experts);
    }
    choosing
}

/// Whether weights decide which pairs the spec's capacity keeps.
pub fn is_by_weight(spec: &Spec) -> bool {
    spec.capacity.is_some_and(|capacity| select::is_by_weight(capacity.priority) && !capacity.renorm_after_drop)
}

/// What tensors of this spec are looked for in a file, with what stands before their names.
pub fn stored_names(spec: &Spec, tensor: crate::spec::Tensor, prefix: &str) -> Vec<String> {
    spec.weight(tensor).map_or(Vec::new(), |weight| weight.names.iter().map(|name| format!("{prefix}{name}")).collect())
}

/// A tensor file with nothing but these tensors of another, so that a large checkpoint need not be read whole. Names that the
/// file does not have are left out.
///
/// # Errors
/// The file cannot be read.
pub fn extract(path: &Path, names: &[String]) -> Result<Vec<u8>, String> {
    crate::tensor_file::extract(path, names)
}
