//! Which layers of a model are MoE layers, by the many fields that say so.

use std::ops::Range;

use super::config::{Config, Found, integer, wrong, wrong_type};
use super::rules::{Feature, Layers};
use crate::diagnostics::{Code, Diagnostic, quote};
use crate::spec::{Entry, Kind, Value};

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
    let mut count = config.integer(&["num_hidden_layers", "n_layers", "num_layers"])?;
    let predicted = predicted(config)?;
    if let (Some(layer), Some(layers)) = (config.layer, count)
        && (layers..layers.saturating_add(predicted)).contains(&layer)
    {
        prediction(config, layer)?;
        count = Some(layer + 1);
    }
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
        except: Said<Vec<u64>>,
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
                let step = config.integer_or(&["decoder_sparse_step"], 1)?;
                let place = place(config, "decoder_sparse_step");
                let except = integers(config, "mlp_only_layers")?;
                let why = format!("decoder_sparse_step = {step}: every such layer is a MoE layer, and no other");
                step_rule(step, 1, 0, 0..MOST_LAYERS, except, place, why)
            }
            Layers::Enumerated => enumerated(config),
            Layers::Interleaved => {
                // The list says what the step would.
                config.entry("interleave_moe_layer_step");
                if let Some((layers, place)) = integers(config, "moe_layers")? {
                    return Ok(Rule::Only { layers, place });
                }
                let step = config.integer_or(&["interleave_moe_layer_step"], 1)?;
                let place = place(config, "interleave_moe_layer_step");
                step_rule(step, 1, 0, 0..MOST_LAYERS, None, place, format!("every {step}th layer is a MoE layer"))
            }
            Layers::Period => {
                let period = config.required(&["expert_layer_period"], "the period of the MoE layers")?;
                let offset = config.integer_or(&["expert_layer_offset"], 0)?;
                let place = place(config, "expert_layer_period");
                let why = format!("one layer in {period} is a MoE layer, from layer {offset}");
                step_rule(period, 0, offset % period, 0..MOST_LAYERS, None, place, why)
            }
            Layers::Range => {
                let first = config.integer_or(&["moe_layer_start_index"], 0)?;
                // -1 is the last layer, and so is an absent one.
                let last = match config.entry("moe_layer_end_index") {
                    Some(entry) if entry.value.kind == Kind::Integer("-1".to_string()) => MOST_LAYERS,
                    Some(_) => config.integer(&["moe_layer_end_index"])?.unwrap_or(MOST_LAYERS),
                    None => MOST_LAYERS,
                };
                let every = config.required(&["moe_layer_interval"], "the interval of the MoE layers")?;
                let place = place(config, "moe_layer_start_index");
                let why = format!("MoE layers start at {first}, one in {every}");
                step_rule(every, 1, 0, first..last.saturating_add(1), None, place, why)
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
                let Some((step, place)) = step else {
                    config.assumed.push("every layer is a MoE layer: encoder_sparse_step is not in the config".to_string());
                    return Ok(Rule::All);
                };
                let why = format!("one layer of the encoder in {step} is a MoE layer, the second first");
                step_rule(step, 0, 1 % step.max(1), 0..MOST_LAYERS, None, place, why)
            }
            Layers::NllbSteps => {
                encoder(config);
                let step = config.integer_or(&["encoder_sparse_step"], 4)?;
                let place = place(config, "encoder_sparse_step");
                let why = format!("one layer of the encoder in {step} is a MoE layer");
                step_rule(step, 1, 0, 0..MOST_LAYERS, None, place, why)
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
            Rule::Step { except: Some((except, place)), .. } if except.contains(&layer) => {
                Some(("this list has the layer".to_string(), place.clone()))
            }
            Rule::Step { step, ahead, remainder, within, place, why, .. } => {
                let is_moe = (layer + ahead) % step == *remainder && within.contains(&layer);
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
    except: Said<Vec<u64>>,
    place: Range<usize>,
    why: String,
) -> Result<Rule, Diagnostic> {
    if step == 0 {
        return Err(Diagnostic::new(Code::OutOfRange, "no layer is a MoE layer: their step is 0").at(place, "0"));
    }
    Ok(Rule::Step { step, ahead, remainder, within, except, place, why })
}

/// `mlp_layer_types`, `is_moe_layer` and a `moe_layer_freq` of one entry a layer, whatever the model.
fn listed(config: &mut Config<'_>) -> Result<Option<Rule>, Diagnostic> {
    const LISTS: [&str; 3] = ["mlp_layer_types", "is_moe_layer", "moe_layer_freq"];
    for name in LISTS {
        let Some(entry) = config.entry(name) else { continue };
        let Kind::List(values) = &entry.value.kind else { continue };
        check_length(entry, values.len())?;
        superseded(config);
        let dense = values.iter().map(|value| is_dense(entry, value)).collect::<Result<_, _>>()?;
        return Ok(Some(Rule::Listed { dense, place: entry.value.span.clone(), why: "dense in this list".to_string() }));
    }
    Ok(None)
}

/// Fields that say in fewer words what a list has said; the list is what the model's code takes.
fn superseded(config: &mut Config<'_>) {
    const FIELDS: [&str; 9] = [
        "is_moe_layer",
        "moe_layer_freq",
        "moe_layers_enum",
        "first_k_dense_replace",
        "num_dense_layers",
        "decoder_sparse_step",
        "mlp_only_layers",
        "moe_every_n_layer",
        "moe_layer_offset",
    ];
    for field in FIELDS {
        config.entry(field);
    }
}

/// Whether an entry of a list says that its layer is dense. A word that no model writes is not guessed at.
fn is_dense(entry: &Entry, value: &Value) -> Result<bool, Diagnostic> {
    match &value.kind {
        Kind::Text(word) if word == "dense" => Ok(true),
        Kind::Text(word) if ["sparse", "moe", "hash_moe"].contains(&word.as_str()) => Ok(false),
        Kind::Text(word) => {
            let message = format!("{} has the word {}, which is not known", quote(&entry.key), quote(word));
            let known = "expected \"dense\", \"sparse\", \"moe\" or \"hash_moe\"";
            Err(Diagnostic::new(Code::UnknownWord, message).at(value.span.clone(), known))
        }
        Kind::Bool(is_moe) => Ok(!is_moe),
        Kind::Integer(number) if number == "0" || number == "1" => Ok(number == "0"),
        kind => Err(wrong_type(entry, value, "a word, a boolean, or 0 or 1 for each layer", kind)),
    }
}

/// The MoE layers one by one, `"3,4,5"` or `[3, 4, 5]`; where there is no such field the first three layers are dense.
fn enumerated(config: &mut Config<'_>) -> Result<Rule, Diagnostic> {
    const FIRST: u64 = 3;
    let Some(entry) = config.entry("moe_layers_enum") else {
        config.assumed.push(format!("the first {FIRST} layers are dense: moe_layers_enum is not in the config"));
        return Ok(Rule::From { first: FIRST, every: 1, place: 0..0, why: "dense where the config says nothing".to_string() });
    };
    let Kind::Text(text) = &entry.value.kind else {
        let said = integers(config, "moe_layers_enum")?;
        return Ok(said.map_or(Rule::All, |(layers, place)| Rule::Only { layers, place }));
    };
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let layers = items.map(|item| item.parse::<u64>().map_err(|_| item)).collect::<Result<Vec<u64>, &str>>();
    let layers = layers.map_err(|item| {
        let message = format!("{} has {}, which is not the number of a layer", quote("moe_layers_enum"), quote(item));
        wrong(Code::WrongType, entry, message, "numbers with commas between them")
    })?;
    check_length(entry, layers.len())?;
    Ok(Rule::Only { layers, place: entry.value.span.clone() })
}

/// How many layers there are after the last that predict further tokens (MTP), of which some models number the first as the
/// layer after the last.
fn predicted(config: &mut Config<'_>) -> Result<u64, Diagnostic> {
    const COUNTS: [&str; 4] = ["num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules", "mtp_num_hidden_layers"];
    let mut most = 0;
    for name in COUNTS {
        most = most.max(config.integer(&[name])?.unwrap_or(0));
    }
    Ok(most)
}

/// A layer that predicts further tokens is a MoE layer with the names of the others where the row says so.
fn prediction(config: &mut Config<'_>, layer: u64) -> Result<(), Diagnostic> {
    if !config.model.features.contains(&Feature::NumberedPrediction) {
        let message =
            format!("layer {layer} predicts further tokens (MTP), and where `{}` stores it is not known", config.model_type);
        return Err(Diagnostic::new(Code::DenseLayer, message).help("the layers before it are imported as they are numbered"));
    }
    config.assumed.push(format!("layer {layer} predicts further tokens (MTP): its block is taken to be that of the MoE layers"));
    Ok(())
}

/// `layers_block_type`, a list of words, or `hybrid_override_pattern`, a letter a layer: E is a MoE layer.
fn blocks(config: &mut Config<'_>) -> Result<Rule, Diagnostic> {
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
    let count = config.integer_or(&[first], 0)?;
    let every = match every {
        Some(name) => whole(config, name)?.map_or(1, |(every, _)| every),
        None => 1,
    };
    let place = place(config, first);
    Ok(Rule::From { first: count, every, place, why: format!("the first {count} layers are dense") })
}

/// These models have two stacks, whose layers are counted alike.
fn encoder(config: &mut Config<'_>) {
    for of_decoder in ["decoder_sparse_step", "num_sparse_decoder_layers"] {
        config.entry(of_decoder);
    }
    if config.layer.is_some() {
        config.assumed.push("the layer is one of the encoder's: the decoder's has other tensor names".to_string());
    }
}

/// A number of at least 1 and its place, where the file has it.
fn whole(config: &mut Config<'_>, name: &str) -> Result<Said<u64>, Diagnostic> {
    match config.find(&[name])? {
        Found::Value(entry, value) => match integer(entry, value)? {
            0 => Err(wrong(Code::OutOfRange, entry, format!("{} is 0", quote(name)), "expected 1 or more")),
            number => Ok(Some((number, value.span.clone()))),
        },
        Found::Null | Found::Absent => Ok(None),
    }
}

/// A list of integers and its place, where the file has it.
fn integers(config: &mut Config<'_>, name: &str) -> Result<Said<Vec<u64>>, Diagnostic> {
    let Some(entry) = config.entry(name) else { return Ok(None) };
    let Kind::List(values) = &entry.value.kind else {
        return Err(wrong_type(entry, &entry.value, "a list", &entry.value.kind));
    };
    let layers = values.iter().map(|value| integer(entry, value)).collect::<Result<_, _>>()?;
    Ok(Some((layers, entry.value.span.clone())))
}

fn place(config: &mut Config<'_>, name: &str) -> Range<usize> {
    config.entry(name).map_or(0..0, |entry| entry.value.span.clone())
}
