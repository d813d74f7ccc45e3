//! Which layers of a model are MoE layers, by the many fields that say so.

use std::ops::Range;

use super::config::{Config, Found, integer, missing, wrong, wrong_type};
use super::layer::EXPERTS;
use super::rules::{Feature, Layers};
use crate::diagnostics::{Code, Diagnostic, quote};
use crate::spec::{Entry, Kind, Value};

/// More layers than this no model has.
const MOST_LAYERS: u64 = 4096;

/// Why a layer is dense, and the field that says so.
type Why = Option<(String, Range<usize>)>;

/// What a field says, and where; `None` where the file does not have it.
type Said<T> = Option<(T, Range<usize>)>;

/// Fields with one entry a layer, whatever the model.
const LISTS: [&str; 3] = ["mlp_layer_types", "is_moe_layer", "moe_layer_freq"];
/// A list of words, or a letter a layer, of models whose blocks are of several kinds.
const BLOCKS: [&str; 2] = ["layers_block_type", "hybrid_override_pattern"];

/// The MoE layers, as far as the config says; `None` where it does not say how many layers there are. The layer that was
/// asked for is one of them, or that is an error.
pub(super) fn moe_layers(config: &mut Config<'_>) -> Result<Option<Vec<u64>>, Diagnostic> {
    if let Some(layer) = config.layer.filter(|layer| *layer >= MOST_LAYERS) {
        return Err(Diagnostic::new(Code::OutOfRange, format!("layer {layer}, and {MOST_LAYERS} layers are the most")));
    }
    let lists = lists(config)?;
    let by_fields;
    let rule = match lists.first() {
        Some((_, rule)) => rule,
        None => {
            by_fields = Rule::read(config)?;
            &by_fields
        }
    };
    let mut count = config.integer(&["num_hidden_layers", "n_layers", "num_layers"])?;
    let predicted = predicted(config)?;
    one_entry_a_layer(&lists, count, predicted)?;
    agree(config, &lists, count.or_else(|| rule.listed()))?;
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
            Layers::Enumerated => {
                const FIRST: u64 = 3;
                config.assumed.push(format!("the first {FIRST} layers are dense: moe_layers_enum is not in the config"));
                Ok(Rule::From { first: FIRST, every: 1, place: 0..0, why: "dense where the config says nothing".to_string() })
            }
            Layers::Interleaved => {
                let step = config.integer_or(&["interleave_moe_layer_step"], 1)?;
                let place = place(config, "interleave_moe_layer_step");
                step_rule(step, 1, 0, 0..MOST_LAYERS, None, place, format!("every {step}th layer is a MoE layer"))
            }
            Layers::Period => {
                let period = config.required(&["expert_layer_period"], "the period of the MoE layers")?;
                let offset = config.integer_or(&["expert_layer_offset"], 0)?;
                // Its class makes a dense layer of one expert.
                if config.integer(EXPERTS)? == Some(1) {
                    let place = place(config, "num_experts");
                    return Ok(Rule::From {
                        first: MOST_LAYERS,
                        every: 1,
                        place,
                        why: "one expert is a dense layer".to_string(),
                    });
                }
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
            Layers::Blocks => Err(missing(&BLOCKS, "which layers are MoE layers")),
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

/// Every list that says of each layer whether it is a MoE layer; the first is what the model's code takes.
fn lists<'a>(config: &mut Config<'a>) -> Result<Vec<(&'a Entry, Rule)>, Diagnostic> {
    let of_model: &[&str] = match config.model.layers {
        Layers::Blocks => &BLOCKS,
        Layers::Enumerated => &["moe_layers_enum"],
        Layers::Interleaved => &["moe_layers"],
        Layers::All
        | Layers::FirstDense
        | Layers::DenseCount
        | Layers::SparseStep
        | Layers::Period
        | Layers::Range
        | Layers::SwitchSteps
        | Layers::NllbSteps => &[],
    };
    let mut lists = Vec::new();
    for name in LISTS.iter().chain(of_model) {
        if !lists.is_empty() && config.is_allowed(name) {
            continue;
        }
        let Some(entry) = config.entry(name) else { continue };
        let rule = match (&entry.value.kind, *name) {
            (Kind::List(values), "mlp_layer_types" | "is_moe_layer" | "moe_layer_freq") => {
                let dense = values.iter().map(|value| is_dense(entry, value)).collect::<Result<_, _>>()?;
                listed(entry, dense, "dense in this list")?
            }
            (_, "mlp_layer_types" | "is_moe_layer" | "moe_layer_freq") => continue,
            (Kind::Text(text), "moe_layers_enum") => {
                Rule::Only { layers: numbers(entry, text)?, place: entry.value.span.clone() }
            }
            (_, "layers_block_type" | "hybrid_override_pattern") => {
                listed(entry, blocks(entry)?, "another kind of block in this list")?
            }
            (_, _) => match integers(config, name)? {
                Some((layers, place)) => Rule::Only { layers, place },
                None => continue,
            },
        };
        lists.push((entry, rule));
    }
    Ok(lists)
}

fn listed(entry: &Entry, dense: Vec<bool>, why: &str) -> Result<Rule, Diagnostic> {
    check_length(entry, dense.len())?;
    Ok(Rule::Listed { dense, place: entry.value.span.clone(), why: why.to_string() })
}

/// A list has an entry for each of the model's layers; layers that predict further tokens (MTP) may have entries after those.
fn one_entry_a_layer(lists: &[(&Entry, Rule)], count: Option<u64>, predicted: u64) -> Result<(), Diagnostic> {
    let lengths = || lists.iter().filter_map(|(entry, rule)| Some((*entry, rule.listed()?)));
    let Some(count) = count.or_else(|| lengths().next().map(|(_, length)| length)) else { return Ok(()) };
    match lengths().find(|(_, length)| !(count..=count.saturating_add(predicted)).contains(length)) {
        None => Ok(()),
        Some((entry, length)) => {
            let message = format!("{} has {length} entries, and the model has {count} layers", quote(&entry.key));
            Err(wrong(Code::OutOfRange, entry, message, "one entry a layer"))
        }
    }
}

/// Every field that says which layers are MoE layers says the same of the layer that is asked for, or else of all of them.
fn agree(config: &mut Config<'_>, lists: &[(&Entry, Rule)], count: Option<u64>) -> Result<(), Diagnostic> {
    let Some(((first, rule), others)) = lists.split_first() else { return Ok(()) };
    let layers = match config.layer {
        // Not every field covers the layers that predict further tokens (MTP).
        Some(layer) if count.is_some_and(|count| layer >= count) => 0..0,
        Some(layer) => layer..layer + 1,
        None => 0..count.unwrap_or(0),
    };
    let counts = counts(config)?;
    for layer in layers {
        let is_dense = |rule: &Rule| rule.why_dense(layer).is_some();
        let by_first = is_dense(rule);
        let list = others.iter().find(|(_, other)| is_dense(other) != by_first).map(|(entry, _)| *entry);
        // A layer is dense where one of the counts says so.
        let count = match (by_first, counts.iter().find(|count| is_dense(&count.rule))) {
            (false, dense) => dense,
            (true, None) => counts.iter().find(|count| count.is_whole),
            (true, Some(_)) => None,
        };
        let Some(other) = list.or(count.map(|count| count.entry)) else { continue };
        let (here, there) = if by_first { ("dense", "a MoE layer") } else { ("a MoE layer", "dense") };
        let names = (quote(&first.key), quote(&other.key));
        let message =
            format!("{} and {} differ: layer {layer} is {here} by the first and {there} by the other", names.0, names.1);
        return Err(Diagnostic::new(Code::FieldsDisagree, message)
            .at(first.value.span.clone(), "this")
            .also(other.value.span.clone(), "or this")
            .help(format!("`--allow-unread {}` takes the first of them", other.key)));
    }
    Ok(())
}

/// A field that says in one number, or by exceptions, what a list says layer by layer.
struct Count<'a> {
    entry: &'a Entry,
    rule: Rule,
    /// Whether layers that it does not call dense are MoE layers; others only take layers out.
    is_whole: bool,
}

fn counts<'a>(config: &mut Config<'a>) -> Result<Vec<Count<'a>>, Diagnostic> {
    const FIELDS: [(&str, bool); 6] = [
        ("first_k_dense_replace", true),
        ("num_dense_layers", true),
        ("decoder_sparse_step", true),
        ("interleave_moe_layer_step", true),
        ("moe_layer_freq", false),
        ("mlp_only_layers", false),
    ];
    let mut counts = Vec::new();
    for (name, is_whole) in FIELDS {
        if config.is_allowed(name) {
            continue;
        }
        let Some(entry) = config.entry(name) else { continue };
        let (place, why) = (entry.value.span.clone(), String::new());
        let rule = match (name, &entry.value.kind) {
            ("moe_layer_freq", Kind::List(_)) => continue,
            ("mlp_only_layers", _) => step_rule(1, 0, 0, 0..MOST_LAYERS, integers(config, name)?, place, why)?,
            (_, _) => match (name, config.integer(&[name])?) {
                (_, None) => continue,
                ("first_k_dense_replace" | "num_dense_layers", Some(first)) => Rule::From { first, every: 1, place, why },
                ("moe_layer_freq", Some(every)) => step_rule(every, 0, 0, 0..MOST_LAYERS, None, place, why)?,
                (_, Some(step)) => step_rule(step, 1, 0, 0..MOST_LAYERS, None, place, why)?,
            },
        };
        counts.push(Count { entry, rule, is_whole });
    }
    Ok(counts)
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

/// The numbers of the MoE layers, `"3,4,5"`.
fn numbers(entry: &Entry, text: &str) -> Result<Vec<u64>, Diagnostic> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let layers = items.map(|item| item.parse::<u64>().map_err(|_| item)).collect::<Result<Vec<u64>, &str>>();
    let layers = layers.map_err(|item| {
        let message = format!("{} has {}, which is not the number of a layer", quote(&entry.key), quote(item));
        wrong(Code::WrongType, entry, message, "numbers with commas between them")
    })?;
    check_length(entry, layers.len())?;
    Ok(layers)
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
fn blocks(entry: &Entry) -> Result<Vec<bool>, Diagnostic> {
    match (&entry.value.kind, entry.key.as_str()) {
        (Kind::List(values), "layers_block_type") => {
            Ok(values.iter().map(|value| value.kind != Kind::Text("moe".into())).collect())
        }
        (Kind::Text(text), "hybrid_override_pattern") => Ok(text.chars().map(|letter| letter != 'E').collect()),
        (kind, "layers_block_type") => Err(wrong_type(entry, &entry.value, "a list", kind)),
        (kind, _) => Err(wrong_type(entry, &entry.value, "a string", kind)),
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
