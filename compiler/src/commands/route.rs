//! `moec route`: routing health of recorded logits, or of hidden states and the router's weights. What is counted and how the
//! report looks is in the library's `routing`.

use std::io::Write;
use std::path::{Path, PathBuf};

use moec::diagnostics::{Code, Diagnostic, Report, Source, quote};
use moec::package::weights_alone;
use moec::routing::{self, Choice, Error, Keep, Layer, Options, Product, Reports, Tensors, Trace, Vectors};
use moec::spec::{Mode, Ratio, Spec, Tensor, Word};
use moec_runtime::{Checkpoint, Format, assemble};

use super::{Failure, Notes, load_preset, load_spec, open_checkpoint, report_weights, write_documents};
use crate::cli::{KeptRows, Route};
use crate::files::report_at;

/// Everything of a router but its experts.
const ROUTER: [Tensor; 5] =
    [Tensor::Router, Tensor::RouterBias, Tensor::CorrectionBias, Tensor::RouterInputScale, Tensor::PerExpertScale];

/// Reads a trace and reports on it.
pub(super) fn route(arguments: &Route, notes: Notes, out: &mut dyn Write) -> Result<(), Failure> {
    check_outputs(arguments)?;
    let given = match (&arguments.preset, &arguments.spec) {
        (Some(name), _) => Some(load_preset(name, notes)?),
        (None, Some(path)) => Some(load_spec(path, None, notes)?),
        (None, None) => None,
    };
    if let Some((spec, source)) = &given {
        check_router(spec, arguments).map_err(|diagnostic| report_at(source.name.as_ref(), diagnostic))?;
    }
    let is_hidden = !arguments.hidden.is_empty();
    let paths = if is_hidden { &arguments.hidden } else { &arguments.logits };
    let choice = Choice {
        tensor: arguments.tensor.as_deref(),
        layers: arguments.layer_pattern.clone().unwrap_or_default(),
        mask: arguments.mask.as_deref(),
        width: given.as_ref().map(|(spec, _)| if is_hidden { spec.hidden } else { spec.columns() }),
    };
    // A file that has the tokens under their usual name, weights and results beside them, is read as `moec run` reads it.
    let usual = Choice { tensor: Some("in.hidden"), ..choice.clone() };
    let in_usual_place = (is_hidden && arguments.tensor.is_none()).then(|| Trace::open(paths, &usual).ok()).flatten();
    let mut trace = match in_usual_place {
        Some(trace) => trace,
        None => Trace::open(paths, &choice)?,
    };
    choose_layers(&mut trace, arguments)?;
    let has_experts = given.is_some();
    let longest = trace.layers.iter().flat_map(|layer| &layer.tensors).map(|tensor| tensor.tokens).max().unwrap_or(0);
    let (spec, source) = match given {
        Some((spec, source)) => (spec, source),
        None => {
            let (spec, source) = without_spec(arguments, trace.width, longest)?;
            notes.warn(&source, moec::spec::warnings(&source))?;
            (spec, source)
        }
    };
    if let Some(ranks) = arguments.ranks.filter(|ranks| !spec.experts.is_multiple_of(*ranks as u64)) {
        let message = format!("{} experts cannot be on {ranks} devices, equally many on each", spec.experts);
        return Err(Diagnostic::new(Code::UsageConflict, message)
            .help("`--ranks` takes a divisor of the number of experts")
            .into());
    }
    let tensors = routers((&spec, &source), arguments, &trace, is_hidden, notes)?;
    let options = Options {
        batch: arguments.batch.unwrap_or(if has_experts { spec.tokens.max } else { longest }),
        target_drop: arguments.target_drop,
        top_k: arguments.top_k,
        keep: Keep { non_finite: arguments.keep.contains(&KeptRows::NonFinite), zero: arguments.keep.contains(&KeptRows::Zero) },
        has_experts,
        ranks: arguments.ranks,
    };
    say_of_trace(&trace, longest, arguments, &options, notes)?;
    let progress = notes.bytes("routing", trace.layers.iter().map(Layer::bytes).sum());
    let reports = routing::route(&spec, &trace, &tensors, &options, |bytes| progress.at(bytes));
    drop(progress);
    let reports = reports.map_err(|error| match error {
        Error::Trace(report) => report,
        Error::Selection(error) => Diagnostic::from(error).into(),
    })?;
    warn_of_rows(&reports, arguments, notes)?;
    let json = || {
        let text = serde_json::to_string_pretty(&reports).map(|text| text + "\n");
        text.map_err(|error| Diagnostic::new(Code::Bug, format!("the report has no JSON: {error}")))
    };
    let documents = [
        (&arguments.json, arguments.json.is_some().then(json).transpose()?),
        (&arguments.html, arguments.html.is_some().then(|| routing::html(&reports))),
    ];
    write_documents(documents, || routing::text(&reports), notes, out)
}

/// What is done with the trace that its files do not say.
fn say_of_trace(trace: &Trace, longest: u64, arguments: &Route, options: &Options, notes: Notes) -> Result<(), Report> {
    if let Some(doubt) = &trace.doubt {
        let help = "`--layer-pattern` has the place of the layer's number, and is `none` where there is none";
        notes.warn(&trace_file(arguments), vec![Diagnostic::new(Code::LayersUncertain, doubt).help(help)])?;
    }
    if trace.layers.len() > 1 {
        notes.say(&format!(
            "note: {} layers by the numbers in the tensors' names, each counted by itself; `--layer-pattern` says otherwise",
            trace.layers.len()
        ));
    }
    if longest > options.batch && arguments.batch.is_none() {
        notes.say(&format!(
            "note: tensors of {longest} tokens are cut into batches of {} (tokens.max in the spec); `--batch` says otherwise",
            options.batch
        ));
    }
    Ok(())
}

/// Rows that were left out although no mask says so.
fn warn_of_rows(reports: &Reports, arguments: &Route, notes: Notes) -> Result<(), Report> {
    let warning = |report: &routing::Report| {
        let layer = report.trace.layer.as_ref().map_or(String::new(), |layer| format!("layer {layer}: "));
        let said = report.trace.left_out.said()?;
        let rest = if report.trace.tokens == 0 { ", and no other is there" } else { "" };
        let message = format!("{layer}{said} of {}{rest}", report.trace.rows);
        let help = "`--mask` says which rows are padding; `--keep non-finite,zero` counts them as the layer routes them";
        Some(Diagnostic::new(Code::RowsLeftOut, message).help(help))
    };
    notes.warn(&trace_file(arguments), reports.layers.iter().filter_map(warning).collect())
}

/// The first file of the trace, which is not shown as text.
fn trace_file(arguments: &Route) -> Source {
    let path = arguments.logits.first().or(arguments.hidden.first());
    Source { name: path.map_or(String::new(), |path| path.display().to_string()), text: String::new() }
}

/// Leaves only the layers that were asked for.
fn choose_layers(trace: &mut Trace, arguments: &Route) -> Result<(), Diagnostic> {
    for number in &arguments.layer {
        if !trace.layers.iter().any(|layer| layer.number == Some(*number)) {
            let there: Vec<&str> = trace.layers.iter().filter_map(|layer| layer.name.as_deref()).collect();
            let help = match there.is_empty() {
                true => "no name says a layer; `--layer-pattern` has the place of its number".to_string(),
                false => format!("there are {}", there.join(", ")),
            };
            return Err(Diagnostic::new(Code::UsageConflict, format!("the trace has no layer {number}")).help(help));
        }
    }
    if !arguments.layer.is_empty() {
        trace.layers.retain(|layer| layer.number.is_some_and(|number| arguments.layer.contains(&number)));
    }
    Ok(())
}

/// The spec of a router of which the command line says all that is known. What experts compute is not asked for.
fn without_spec(arguments: &Route, experts: u64, longest: u64) -> Result<(Spec, Source), Report> {
    let top_k = arguments.top_k.unwrap_or(1);
    let value = |ratio: Ratio| ratio.numerator as f64 / ratio.denominator as f64;
    let renorm = if arguments.renorm == "none" { String::new() } else { format!("renorm = \"{}\"\n", arguments.renorm) };
    let capacity = arguments.capacity_factor.map_or(String::new(), |factor| {
        let priority = &arguments.priority;
        format!("[capacity]\nfactor = {:?}\ncount_k = true\nround = \"ceil\"\npriority = \"{priority}\"\n", value(factor))
    });
    let text = format!(
        "[moe]\nname = \"router\"\nhidden = 8\nexperts = {experts}\n[router]\ntop_k = {top_k}\nscore = \"{}\"\n{renorm}{capacity}\
         [expert]\nintermediate = 8\n[tokens]\nmax = {tokens}\nexpected = [{tokens}]\n[numerics]\ndtype = \"f32\"\n",
        arguments.score,
        tokens = longest.clamp(1, i32::MAX as u64),
    );
    let source = Source { name: "<command line>".to_string(), text };
    match moec::spec::parse(&source) {
        Ok(spec) => Ok((spec, source)),
        Err(diagnostics) => Err(Report { source, diagnostics }),
    }
}

fn check_outputs(arguments: &Route) -> Result<(), Diagnostic> {
    let dash = Some(PathBuf::from("-"));
    if arguments.json == dash && arguments.html == dash {
        let diagnostic = Diagnostic::new(Code::UsageConflict, "standard output is either the JSON or the page");
        return Err(diagnostic.help("name a file for one of them"));
    }
    Ok(())
}

/// Refuses what is not decided by logits of as many columns as there are experts.
fn check_router(spec: &Spec, arguments: &Route) -> Result<(), Diagnostic> {
    let router = &spec.router;
    let refused = |message: &str, help: &str| Err(Diagnostic::new(Code::NotSupportedYet, message).help(help));
    match router.mode {
        Mode::TokenChoice | Mode::ExpertChoice => {}
        Mode::Soft(_) => {
            let help = "a spec with `mode = \"token_choice\"` has soft routing beside it in its report";
            return refused("`moec route` of soft routing: its logits are of slots, and nothing is dropped", help);
        }
        Mode::Hash => {
            let help = "count the table's experts over the token ids";
            return refused("`moec route` of hash routing: token ids decide, not logits", help);
        }
    }
    if arguments.top_k.is_some() && router.mode == Mode::TokenChoice {
        let diagnostic = Diagnostic::new(Code::UsageConflict, "`--top-k` is for specs whose experts choose");
        return Err(diagnostic.help("`top_k` in the spec says how many experts a token picks"));
    }
    Ok(())
}

/// The tensors of the router of each layer.
fn routers(
    (spec, source): (&Spec, &Source),
    arguments: &Route,
    trace: &Trace,
    is_hidden: bool,
    notes: Notes,
) -> Result<Vec<Tensors>, Report> {
    let prefix = arguments.tensor_prefix.as_deref().unwrap_or("");
    let is_of_one = !prefix.contains("{N}");
    let mut routers = Vec::new();
    for layer in &trace.layers {
        let prefix = match layer.number {
            Some(number) => prefix.replace("{N}", &number.to_string()),
            None if is_of_one => prefix.to_string(),
            None => {
                let diagnostic = Diagnostic::new(Code::UsageConflict, "`{N}` in `--tensor-prefix`, and no tensor says its layer");
                return Err(diagnostic.help("`--layer-pattern` has the place of the layer's number").into());
            }
        };
        let weights = match &arguments.weights {
            Some(path) => Weights::read(path, (spec, source), arguments, &prefix, is_hidden, notes)?,
            None => Weights::default(),
        };
        let vectors = vectors(spec, arguments, &weights, (!is_hidden).then_some(trace))?;
        let product = is_hidden.then(|| weights.product(spec)).flatten();
        let has_own = product.is_some() || vectors.correction_bias.is_some() || vectors.per_expert_scale.is_some();
        if has_own && trace.layers.len() > 1 && is_of_one {
            let message = format!("{} layers are in the trace, and the router's tensors of one", trace.layers.len());
            let help = "`--tensor-prefix 'model.layers.{N}.mlp.'` names those of each, `--layer N` takes one layer";
            return Err(blame(arguments, Diagnostic::new(Code::UsageConflict, message).help(help)));
        }
        routers.push(Tensors { product, vectors });
    }
    Ok(routers)
}

/// The router's tensors, as they are assembled for a package, in f32.
#[derive(Default)]
struct Weights {
    found: Vec<(Tensor, Vec<f32>)>,
}

impl Weights {
    fn read(
        path: &Path,
        (spec, source): (&Spec, &Source),
        arguments: &Route,
        prefix: &str,
        is_hidden: bool,
        notes: Notes,
    ) -> Result<Weights, Report> {
        let needs = |tensor: &Tensor| match tensor {
            Tensor::CorrectionBias => !arguments.no_correction,
            Tensor::PerExpertScale => true,
            _ => is_hidden,
        };
        let tensors: Vec<Tensor> = ROUTER.into_iter().filter(needs).filter(|tensor| spec.weight(*tensor).is_some()).collect();
        let names: Vec<String> = tensors.iter().flat_map(|tensor| routing::stored_names(spec, *tensor, prefix)).collect();
        let manifest = weights_alone(spec, &tensors);
        let assembled = match Format::of_file(path) {
            Some(Format::Npy | Format::Npz) => {
                let arrays = routing::extract(path, &names).map_err(|why| {
                    let message = format!("cannot use {}: {why}", quote(&path.display().to_string()));
                    report_at(path, Diagnostic::new(Code::BadCheckpoint, message))
                })?;
                Checkpoint::read(&arrays).and_then(|checkpoint| assemble(&manifest, &checkpoint, prefix))
            }
            Some(_) | None => assemble(&manifest, &open_checkpoint(path, notes)?, prefix),
        };
        let wrong = |error: moec_runtime::Error| report_weights(path, Some((spec, source)), prefix, &error, error.clone().into());
        let (weights, conversions) = assembled.map_err(wrong)?;
        conversions.iter().for_each(|conversion| notes.say(&format!("note: {conversion}")));
        let named = manifest.buffers.iter().filter_map(|buffer| Tensor::from_word(&buffer.name));
        let values = weights.iter().map(|weight| weight.to_f64().into_iter().map(|x| x as f32).collect());
        Ok(Weights { found: named.zip(values).collect() })
    }

    fn get(&self, tensor: Tensor) -> Option<Vec<f32>> {
        self.found.iter().find(|(found, _)| *found == tensor).map(|(_, values)| values.clone())
    }

    fn product(&self, spec: &Spec) -> Option<Product> {
        Some(Product {
            weight: self.get(Tensor::Router)?,
            bias: self.get(Tensor::RouterBias),
            input_norm: spec.router.input_norm,
            input_scale: self.get(Tensor::RouterInputScale),
            dtype: spec.numerics.dtype,
        })
    }
}

/// The vectors that selection needs, from the weights or else from the trace.
fn vectors(spec: &Spec, arguments: &Route, weights: &Weights, trace: Option<&Trace>) -> Result<Vectors, Report> {
    let find = |tensor: Tensor| match (weights.get(tensor), trace) {
        (Some(vector), _) => Ok(Some(vector)),
        (None, Some(trace)) => trace.vector(&routing::stored_names(spec, tensor, ""), spec.candidates()),
        (None, None) => Ok(None),
    };
    let correction = spec.router.correction.is_some() && !arguments.no_correction;
    let correction_bias = if correction { find(Tensor::CorrectionBias)? } else { None };
    if correction && correction_bias.is_none() {
        let names = routing::stored_names(spec, Tensor::CorrectionBias, "");
        let message = format!("the router's correction bias ({}) is in no file", quote(&names.join(", ")));
        let diagnostic = Diagnostic::new(Code::BadCheckpoint, message)
            .help("`--weights` names a checkpoint that has it; `--no-correction` routes without it");
        return Err(blame(arguments, diagnostic));
    }
    let scales = spec.weight(Tensor::PerExpertScale).is_some();
    let per_expert_scale = if scales { find(Tensor::PerExpertScale)? } else { None };
    if scales && per_expert_scale.is_none() && routing::is_by_weight(spec) {
        let priority = spec.capacity.map_or("", |capacity| capacity.priority.word());
        let message = format!("{} is in no file, and priority {} needs it", Tensor::PerExpertScale.word(), quote(priority));
        let diagnostic = Diagnostic::new(Code::BadCheckpoint, message).help("`--weights` names a checkpoint that has it");
        return Err(blame(arguments, diagnostic));
    }
    Ok(Vectors { correction_bias, per_expert_scale })
}

fn blame(arguments: &Route, diagnostic: Diagnostic) -> Report {
    let path = arguments.weights.as_ref().or(arguments.logits.first()).or(arguments.hidden.first());
    report_at(path.map_or(Path::new(""), PathBuf::as_path), diagnostic)
}
