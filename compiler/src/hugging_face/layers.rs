//! Which layers of a model are MoE layers, by the many fields that say so.

use std::ops::Range;

use super::config::{Config, Found, integer, wrong, wrong_type};
use super::rules::Layers;
use crate::diagnostics::{Code, Diagnostic, quote};
use crate::spec::{Entry, Kind};

/// More layers than this no model has.
const MOST_LAYERS: u64 = 4096;

/// Why a layer is dense, and the field that says so.
type Why = Option<(String, Range<usize>)>;

/// What a field says, and where; `None` where the file does not have it.
type Said<T> = Option<(T, Range<usize>)>;

/// The MoE layers, as far as the config says; `None` where it does not say how many layers there are. The layer that was
/// asked for is one of them, or that is an error.
pub(super) fn moe_layers(config: &mut Config<'_>) -> Result<Option<Vec<u64>>, Diagnostic> {
    if let Some(layer) = config.layer.filter(|layer| *layer >= MOST_LAYERS) {
        return Err(Diagnostic::new(Code::OutOfRange, format!("layer {layer}, and {MOST_LAYERS} layers are the most")));
    }
    let rule = Rule::read(config)?;
    let count = config.integer(&["num_hidden_layers", "n_layers", "num_layers"])?;
    // Where blocks are listed one by one, their number is that of the list.
    let count = count.or_else(|| rule.listed());
    if let Some(count) = count.filter(|count| *count > MOST_LAYERS) {
        return Err(Diagnostic::new(Code::OutOfRange, format!("{count} layers, and {MOST_LAYERS} are the most")));
    }
    if let (Some(layer), Some(count)) = (config.layer, count)
        && layer >= count
    {
        let message = format!("there is no layer {layer}: the model has {count}, from 0 to {}", count.saturating_sub(1));
        return Err(Diagnostic::new(Code::OutOfRange, message).help("layers are counted from 0"));
    }
    let layers: Option<Vec<u64>> = count.map(|count| (0..count).filter(|layer| rule.why_dense(*layer).is_none()).collect());
    if let Some(layer) = config.layer
        && let Some((why, place)) = rule.why_dense(layer)
    {
        let diagnostic = Diagnostic::new(Code::DenseLayer, format!("layer {layer} is dense, not a MoE layer")).at(place, why);
        return Err(match &layers {
            Some(layers) => diagnostic.help(format!("MoE layers: {}", ranges(layers))),
            None => diagnostic,
        });
    }
    match layers {
        Some(layers) if layers.is_empty() => {
            let diagnostic = Diagnostic::new(Code::DenseLayer, "no layer of this model is a MoE layer");
            Err(match rule.why_dense(0) {
                Some((why, place)) => diagnostic.at(place, why),
                None => diagnostic,
            })
        }
        layers => Ok(layers),
    }
}

/// 3..60, 2, 4: runs of neighbours as ranges, of many runs the first few.
fn ranges(layers: &[u64]) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for layer in layers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *layer => *last = *layer,
            _ => runs.push((*layer, *layer)),
        }
    }
    const MOST: usize = 8;
    let mut text: Vec<String> =
        runs.iter().take(MOST).map(|(a, b)| if a == b { a.to_string() } else { format!("{a}..={b}") }).collect();
    if runs.len() > MOST {
        text.push("...".to_string());
    }
    if text.is_empty() { "none".to_string() } else { text.join(", ") }
}

/// What the config's fields say about every layer.
enum Rule {
    All,
    /// Layers below `first` are dense, then those that `every` does not divide.
    From {
        first: u64,
        every: u64,
        place: Range<usize>,
        why: String,
    },
    /// One entry a layer: dense, or not.
    Listed {
        dense: Vec<bool>,
        place: Range<usize>,
        why: String,
    },
    /// `layer + ahead` has this remainder when divided by `step`, and `layer` is in the range and not excepted.
    Step {
        step: u64,
        ahead: u64,
        remainder: u64,
        within: Range<u64>,
        except: Vec<u64>,
        place: Range<usize>,
        why: String,
    },
    /// Only these are MoE layers.
    Only {
        layers: Vec<u64>,
        place: Range<usize>,
    },
}

impl Rule {
    fn read(config: &mut Config<'_>) -> Result<Rule, Diagnostic> {
        if let Some(listed) = listed(config)? {
            return Ok(listed);
        }
        match config.model.layers {
            Layers::All => Ok(Rule::All),
            Layers::FirstDense => from(config, "first_k_dense_replace", Some("moe_layer_freq")),
            Layers::DenseCount => from(config, "num_dense_layers", None),
            Layers::SparseStep => {
                let Some((step, place)) = whole(config, "decoder_sparse_step")? else { return Ok(Rule::All) };
                let except = integers(config, "mlp_only_layers")?.map(|(layers, _)| layers).unwrap_or_default();
                let why = "decoder_sparse_step, or mlp_only_layers, leaves this layer out".to_string();
                step_rule(step, 1, 0, 0..MOST_LAYERS, except, place, why)
            }
            Layers::Interleaved => {
                if let Some((layers, place)) = integers(config, "moe_layers")? {
                    return Ok(Rule::Only { layers, place });
                }
                let Some((step, place)) = whole(config, "interleave_moe_layer_step")? else { return Ok(Rule::All) };
                step_rule(step, 1, 0, 0..MOST_LAYERS, Vec::new(), place, format!("every {step}th layer is a MoE layer"))
            }
            Layers::Period => {
                let period = config.required(&["expert_layer_period"], "the period of the MoE layers")?;
                let offset = config.integer(&["expert_layer_offset"])?.unwrap_or(0);
                let place = place(config, "expert_layer_period");
                let why = format!("one layer in {period} is a MoE layer, from layer {offset}");
                step_rule(period, 0, offset % period, 0..MOST_LAYERS, Vec::new(), place, why)
            }
            Layers::Range => {
                let first = config.integer(&["moe_layer_start_index"])?.unwrap_or(0);
                // -1 is the last layer, and so is an absent one.
                let last = match config.entry("moe_layer_end_index") {
                    Some(entry) if entry.value.kind == Kind::Integer("-1".to_string()) => MOST_LAYERS,
                    Some(_) => config.integer(&["moe_layer_end_index"])?.unwrap_or(MOST_LAYERS),
                    None => MOST_LAYERS,
                };
                let every = config.required(&["moe_layer_interval"], "the interval of the MoE layers")?;
                let place = place(config, "moe_layer_start_index");
                let why = format!("MoE layers start at {first}, one in {every}");
                step_rule(every, 1, 0, first..last.saturating_add(1), Vec::new(), place, why)
            }
            Layers::Blocks => blocks(config),
            Layers::SwitchSteps => {
                encoder(config);
                let step = match whole(config, "encoder_sparse_step")? {
                    Some(step) => Some(step),
                    None => match (whole(config, "num_layers")?, whole(config, "num_sparse_encoder_layers")?) {
                        (Some((layers, _)), Some((sparse, place))) => Some((layers / sparse, place)),
                        (_, _) => None,
                    },
                };
                let Some((step, place)) = step else { return Ok(Rule::All) };
                let why = format!("one layer of the encoder in {step} is a MoE layer, the second first");
                step_rule(step, 0, 1 % step.max(1), 0..MOST_LAYERS, Vec::new(), place, why)
            }
            Layers::NllbSteps => {
                encoder(config);
                let Some((step, place)) = whole(config, "encoder_sparse_step")? else { return Ok(Rule::All) };
                let why = format!("one layer of the encoder in {step} is a MoE layer");
                step_rule(step, 1, 0, 0..MOST_LAYERS, Vec::new(), place, why)
            }
        }
    }

    fn why_dense(&self, layer: u64) -> Why {
        match self {
            Rule::All => None,
            Rule::From { first, place, why, .. } if layer < *first => Some((why.clone(), place.clone())),
            Rule::From { every, place, .. } if !layer.is_multiple_of(*every) => {
                Some((format!("and of the others one in {every} is a MoE layer"), place.clone()))
            }
            Rule::From { .. } => None,
            Rule::Listed { dense, place, why } => {
                (dense.get(layer as usize) == Some(&true)).then(|| (why.clone(), place.clone()))
            }
            Rule::Step { step, ahead, remainder, within, except, place, why } => {
                let is_moe = (layer + ahead) % step == *remainder && within.contains(&layer) && !except.contains(&layer);
                (!is_moe).then(|| (why.clone(), place.clone()))
            }
            Rule::Only { layers, place } => {
                (!layers.contains(&layer)).then(|| ("the list of MoE layers does not have it".to_string(), place.clone()))
            }
        }
    }

    fn listed(&self) -> Option<u64> {
        match self {
            Rule::Listed { dense, .. } => Some(dense.len() as u64),
            Rule::All | Rule::From { .. } | Rule::Step { .. } | Rule::Only { .. } => None,
        }
    }
}

fn step_rule(
    step: u64,
    ahead: u64,
    remainder: u64,
    within: Range<u64>,
    except: Vec<u64>,
    place: Range<usize>,
    why: String,
) -> Result<Rule, Diagnostic> {
    if step == 0 {
        return Err(Diagnostic::new(Code::OutOfRange, "no layer is a MoE layer: their step is 0").at(place, "0"));
    }
    Ok(Rule::Step { step, ahead, remainder, within, except, place, why })
}

/// `mlp_layer_types` and a `moe_layer_freq` of one entry a layer, whatever the model.
fn listed(config: &Config<'_>) -> Result<Option<Rule>, Diagnostic> {
    for (name, is_dense) in [("mlp_layer_types", Kind::Text("dense".into())), ("moe_layer_freq", Kind::Integer("0".into()))] {
        let Some(entry) = config.entry(name) else { continue };
        let Kind::List(values) = &entry.value.kind else { continue };
        check_length(entry, values.len())?;
        let dense = values.iter().map(|value| value.kind == is_dense).collect();
        return Ok(Some(Rule::Listed { dense, place: entry.value.span.clone(), why: "dense in this list".to_string() }));
    }
    Ok(None)
}

/// `layers_block_type`, a list of words, or `hybrid_override_pattern`, a letter a layer: E is a MoE layer.
fn blocks(config: &Config<'_>) -> Result<Rule, Diagnostic> {
    let rule = |entry: &Entry, dense: Vec<bool>| {
        check_length(entry, dense.len())?;
        Ok(Rule::Listed { dense, place: entry.value.span.clone(), why: "another kind of block in this list".to_string() })
    };
    if let Some(entry) = config.entry("layers_block_type") {
        let Kind::List(values) = &entry.value.kind else {
            return Err(wrong_type(entry, &entry.value, "a list", &entry.value.kind));
        };
        return rule(entry, values.iter().map(|value| value.kind != Kind::Text("moe".into())).collect());
    }
    match config.entry("hybrid_override_pattern") {
        Some(entry) => match &entry.value.kind {
            Kind::Text(text) => rule(entry, text.chars().map(|letter| letter != 'E').collect()),
            kind => Err(wrong_type(entry, &entry.value, "a string", kind)),
        },
        None => Ok(Rule::All),
    }
}

fn check_length(entry: &Entry, length: usize) -> Result<(), Diagnostic> {
    match length as u64 > MOST_LAYERS {
        true => Err(wrong(Code::OutOfRange, entry, format!("{} has {length} entries", quote(&entry.key)), "too many layers")),
        false => Ok(()),
    }
}

/// The first layers are dense, and of the others one in `every` is not.
fn from(config: &mut Config<'_>, first: &str, every: Option<&str>) -> Result<Rule, Diagnostic> {
    let count = config.integer(&[first])?.unwrap_or(0);
    let every = match every {
        Some(name) => whole(config, name)?.map_or(1, |(every, _)| every),
        None => 1,
    };
    let place = place(config, first);
    Ok(Rule::From { first: count, every, place, why: format!("the first {count} layers are dense") })
}

/// These models have two stacks, whose layers are counted alike.
fn encoder(config: &mut Config<'_>) {
    if config.layer.is_some() {
        config.assumed.push("the layer is one of the encoder's: the decoder's has other tensor names".to_string());
    }
}

/// A number of at least 1 and its place, where the file has it.
fn whole(config: &Config<'_>, name: &str) -> Result<Said<u64>, Diagnostic> {
    match config.find(&[name])? {
        Found::Value(entry, value) => match integer(entry, value)? {
            0 => Err(wrong(Code::OutOfRange, entry, format!("{} is 0", quote(name)), "expected 1 or more")),
            number => Ok(Some((number, value.span.clone()))),
        },
        Found::Null | Found::Absent => Ok(None),
    }
}

/// A list of integers and its place, where the file has it.
fn integers(config: &Config<'_>, name: &str) -> Result<Said<Vec<u64>>, Diagnostic> {
    let Some(entry) = config.entry(name) else { return Ok(None) };
    let Kind::List(values) = &entry.value.kind else {
        return Err(wrong_type(entry, &entry.value, "a list", &entry.value.kind));
    };
    let layers = values.iter().map(|value| integer(entry, value)).collect::<Result<_, _>>()?;
    Ok(Some((layers, entry.value.span.clone())))
}

fn place(config: &Config<'_>, name: &str) -> Range<usize> {
    config.entry(name).map_or(0..0, |entry| entry.value.span.clone())
}
