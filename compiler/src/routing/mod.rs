//! Routing health: what a router does with recorded logits, and what another capacity or mode would do with them.
//!
//! ```text
//! trace ─▶ select ─▶ ranks ─▶ sweep ─▶ report ─▶ text, html
//! ```
//!
//! A trace is read once, in chunks ([`Trace`]). `select` picks each token's experts exactly as the graph's interpreter does;
//! `ranks` finds each pair's place in the queue of its expert; from these places `sweep` knows what every capacity drops, and
//! nothing is routed again. `choice` lets the experts choose instead, `placement` lays them on several
//! devices. No kernel runs here.

mod advice;
mod choice;
mod figures;
mod html;
mod largest;
mod left_out;
mod logits;
mod mask;
mod measure;
mod mode;
mod names;
mod observe;
mod placement;
mod ranks;
mod report;
mod rows;
mod score;
mod select;
mod sweep;
mod text;
mod trace;

use std::path::Path;

pub use html::html;
pub use left_out::Keep;
pub use logits::Product;
pub use names::LayerRule;
pub use report::{Cause, Report, Reports};
pub use select::Vectors;
pub use sweep::Band;
pub use text::text;
pub use trace::{Choice, Layer, Recorded, Trace};

use crate::diagnostics;
use crate::reference::ReferenceError;
use crate::spec::{CapacitySize, Mode, Priority, Ratio, Spec};
use left_out::LeftOut;
use measure::{Read, report};
use observe::Observer;
use rows::Rows;

/// How a trace is looked at.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens of a batch, at most: longer tensors are cut, between rows of `[B, S, E]`.
    pub batch: u64,
    /// The share of pairs that the recommended capacity may drop.
    pub target_drop: Ratio,
    /// K of the tokens that choose beside experts that do; `None`: as many as a token has experts in the mean.
    pub top_k: Option<u64>,
    /// Rows that count although they are not finite, or all zero.
    pub keep: Keep,
    /// Whether the spec says how wide experts are, so that their work can be compared with that around them.
    pub has_experts: bool,
    /// Devices that the experts are to lie on, equally many on each: their number divides that of the experts.
    pub ranks: Option<usize>,
}

/// What the router of one layer has besides the spec.
#[derive(Clone, Debug, Default)]
pub struct Tensors {
    /// What makes logits of hidden states; `None`: the trace has logits.
    pub product: Option<Product>,
    /// What selection may need.
    pub vectors: Vectors,
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

/// Reads the trace, logits or hidden states, and reports on the spec's routing, layer by layer. `tensors` are those of each
/// layer's router. `progress` is told the bytes that were read, now and then.
///
/// # Errors
/// [`Error::Trace`] where the file cannot be read any more, or a row of it is none of the router's; [`Error::Selection`] where the
/// interpreter, which decides near ties, refuses the graph: a bug in moec.
pub fn route(
    spec: &Spec,
    trace: &Trace,
    tensors: &[Tensors],
    options: &Options,
    mut progress: impl FnMut(u64),
) -> Result<Reports, Error> {
    let choosing = tokens_that_choose(spec, options.top_k);
    let none = Tensors::default();
    let mut bytes_read = 0;
    let mut progress = |bytes: u64| {
        bytes_read += bytes;
        progress(bytes_read);
    };
    let mut layers = Vec::new();
    for (at, layer) in trace.layers.iter().enumerate() {
        let router = tensors.get(at).unwrap_or(&none);
        let mut observer = Observer::new(&choosing, &router.vectors, options.batch.max(1), LeftOut::of(options.keep))?;
        let (mut rows, mut made) = (Rows::default(), Rows::default());
        for tensor in &layer.tensors {
            observer.begin(tensor.tokens, tensor.sequence_tokens);
            trace.read(tensor, &mut rows, |rows, bytes| {
                match &router.product {
                    Some(product) => {
                        logits::logits(product, spec.columns() as usize, rows, &mut made);
                        observer.take(&made)?;
                    }
                    None => observer.take(rows)?,
                }
                progress(bytes);
                Ok::<(), Error>(())
            })?;
        }
        let read = Read {
            source: if router.product.is_some() { "hidden" } else { "logits" },
            layer: layer.name.clone(),
            files: layer.file_count(),
            tensors: layer.tensors.iter().map(|tensor| tensor.name.as_str()).collect(),
            skipped_tensors: trace.skipped,
            rows: layer.rows(),
            target: options.target_drop,
            has_experts: options.has_experts,
            ranks: options.ranks,
        };
        layers.push(report(spec, &observer, &read));
    }
    Ok(Reports { layers })
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
    spec.capacity.is_some_and(|capacity| capacity.priority == Priority::Score && !capacity.renorm_after_drop)
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
    crate::tensor_file::extract(path, names).map_err(|error| error.why)
}

/// The JSON Schema of a report.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(report::Written).to_value()
}
