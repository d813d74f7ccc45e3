//! Every field of a config is accounted for: a rule has read it, or it agrees with the layer, or it does not matter, or it is
//! named. What the fields are is in `fields`.

use std::collections::BTreeSet;

use super::config::{Config, named};
use super::document::Document;
use super::fields::{INERT, Inert, MEANINGS, Means, concerns_layer, is_of_experts};
use super::layer::{TOP_K, known_activation};
use super::rules::{Shared, TopK};
use crate::diagnostics::{Code, Diagnostic, quote};
use crate::spec::{Entry, Kind, Value};

/// What no rule has read.
#[derive(Clone, Debug, Default)]
pub struct Unread {
    /// Fields that concern the layer and that `--allow-unread` names, with their values.
    pub allowed: Vec<String>,
    /// Fields of which nothing is known, and whose names do not concern the layer, or that say nothing.
    pub others: Vec<String>,
    /// What `--allow-unread` names and need not, and why.
    pub needless: Vec<String>,
}

/// What is wrong with a field.
struct Fault<'a> {
    path: String,
    entry: &'a Entry,
    why: String,
}

/// Accounts for every entry of the file. A field that concerns the layer and that nothing has read is an error.
pub(super) fn account(config: &Config<'_>, entries: &[Entry], layer: &Document) -> Result<Unread, Diagnostic> {
    let mut unread = Unread::default();
    let mut faults = Vec::new();
    walk(config, entries, "", Table::Searched, layer, &mut unread, &mut faults)?;
    // Tables of one list are wrong alike.
    let mut paths = BTreeSet::new();
    faults.retain(|fault| paths.insert(fault.path.clone()));
    let mut said = BTreeSet::new();
    unread.allowed.retain(|field| said.insert(field.clone()));
    unread.needless = config.allowed.iter().filter_map(|name| needless(config, entries, name, &unread.allowed)).collect();
    let mut faults = faults.into_iter();
    let Some(first) = faults.next() else { return Ok(unread) };
    let message = format!("{} {}", quote(&first.path), first.why);
    let mut diagnostic = Diagnostic::new(Code::UnreadField, message).at(first.entry.value.span.clone(), "not followed");
    let mut flags = format!("--allow-unread {}", first.path);
    for fault in faults {
        diagnostic =
            diagnostic.also(fault.entry.value.span.clone(), "nor this").note(format!("{} {}", quote(&fault.path), fault.why));
        flags.push_str(&format!(" --allow-unread {}", fault.path));
    }
    Err(diagnostic.help(format!("if it changes nothing in this layer, `{flags}` leaves it out")))
}

/// What a table's own name says of the keys in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    /// Fields were looked for in it.
    Searched,
    /// The same, and it concerns the layer: what is not known counts.
    FeedForward,
    /// Nothing: what concerns the layer counts.
    Beside,
    /// It concerns the layer, or a rule has read it: every key counts.
    OfLayer,
    /// It does not matter: only what concerns experts counts.
    Inert,
}

fn walk<'a>(
    config: &Config<'_>,
    entries: &'a [Entry],
    path: &str,
    table: Table,
    layer: &Document,
    unread: &mut Unread,
    faults: &mut Vec<Fault<'a>>,
) -> Result<(), Diagnostic> {
    for entry in entries {
        let name = format!("{path}{}", entry.key);
        let means = meaning(table, &entry.key);
        let group = inert(&entry.key).filter(|_| table != Table::OfLayer && means.is_none());
        if is_other_layer(config, path, &entry.key) || group.is_some_and(|group| group.closed) {
            continue;
        }
        let (inner, is_read) = (tables_of(&entry.value), config.is_read(entry));
        if !inner.is_empty() && (is_read || means.is_none()) {
            let inside = match group {
                _ if inner.iter().any(|inner| config.is_scope(inner)) => {
                    if concerns_layer(&entry.key) {
                        Table::FeedForward
                    } else {
                        Table::Searched
                    }
                }
                Some(_) => Table::Inert,
                None if is_read || is_of_layer(table, &entry.key) => Table::OfLayer,
                None if table == Table::Inert => Table::Inert,
                None => Table::Beside,
            };
            for inner in inner {
                walk(config, inner, &format!("{name}."), inside, layer, unread, faults)?;
            }
            continue;
        }
        if is_read || group.is_some() {
            continue;
        }
        let text = text_of(&entry.value.kind);
        let is_allowed = is_allowed(config, &name, &entry.key);
        let fault = match means.map(|means| disagreement(config, means, entry, layer)) {
            Some(Err(missing)) if !is_allowed => {
                return Err(missing.help(format!("if it changes nothing in this layer, `--allow-unread {name}` leaves it out")));
            }
            Some(Err(missing)) => Some(missing.message),
            Some(Ok(fault)) => fault,
            None if is_of_layer(table, &entry.key) && !says_nothing(&entry.value.kind) => {
                Some("is a field that no rule of this model type reads".to_string())
            }
            None => {
                if table == Table::Searched {
                    unread.others.push(format!("{name} = {text}"));
                }
                None
            }
        };
        match fault {
            Some(_) if is_allowed => unread.allowed.push(format!("{name} = {text}")),
            Some(why) => faults.push(Fault { path: name, entry, why }),
            None => {}
        }
    }
    Ok(())
}

/// Whether `--allow-unread` names the field or a table around it.
fn is_allowed(config: &Config<'_>, path: &str, key: &str) -> bool {
    let is_at = |allowed: &str| path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    config.allowed.iter().any(|allowed| allowed == key || is_at(allowed))
}

/// The table that a value is, or those in a list, however deep.
fn tables_of(value: &Value) -> Vec<&[Entry]> {
    match &value.kind {
        Kind::Table(entries) => vec![entries.as_slice()],
        Kind::List(values) => values.iter().flat_map(tables_of).collect(),
        Kind::Text(_) | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::Other(_) => Vec::new(),
    }
}

/// Whether a name concerns the layer in such a table.
fn is_of_layer(table: Table, key: &str) -> bool {
    match table {
        Table::Searched | Table::Beside => concerns_layer(key),
        Table::FeedForward | Table::OfLayer => true,
        Table::Inert => is_of_experts(key),
    }
}

/// Why a field that `--allow-unread` names would not have been in the way.
fn needless(config: &Config<'_>, entries: &[Entry], name: &str, allowed: &[String]) -> Option<String> {
    let is_of = |path: &str| path == name || path.ends_with(&format!(".{name}")) || path.starts_with(&format!("{name}."));
    if allowed.iter().any(|field| field.split(" = ").next().is_some_and(is_of)) {
        return None;
    }
    let key = name.rsplit('.').next().unwrap_or(name);
    let why = match (find(entries, key), inert(key)) {
        (None, _) => "it is not in the config",
        (Some(entry), _) if config.is_read(entry) => "it is read",
        (Some(_), Some(group)) => group.why,
        (Some(_), None) => "it agrees with the layer, or says nothing",
    };
    Some(format!("{name}: {why}"))
}

/// The field of this name in the table, or in one inside it.
fn find<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Entry> {
    let here = entries.iter().find(|entry| entry.key == key);
    here.or_else(|| entries.iter().flat_map(|entry| tables_of(&entry.value)).find_map(|inner| find(inner, key)))
}

fn inert(name: &str) -> Option<&'static Inert> {
    INERT.iter().find(|group| group.has(name))
}

/// What a field means in such a table: in that of another part of the model, a width is that part's.
fn meaning(table: Table, name: &str) -> Option<Means> {
    let (_, means) = MEANINGS.iter().find(|(names, _)| names.contains(&name))?;
    let is_meant = match table {
        Table::Searched | Table::FeedForward | Table::Beside => true,
        Table::OfLayer => *means != Means::OfGeneration,
        Table::Inert => is_of_experts(name),
    };
    is_meant.then_some(*means)
}

/// Whether a table of `per_layer_config` is that of a layer other than the one that was asked for.
fn is_other_layer(config: &Config<'_>, path: &str, key: &str) -> bool {
    let number = path.ends_with("per_layer_config.").then(|| key.parse::<u64>().ok()).flatten();
    matches!((number, config.layer), (Some(number), Some(layer)) if number != layer)
}

/// What a value is that sets nothing. `false`, `0` and `"none"` do: what they turn off, the layer may have.
fn says_nothing(kind: &Kind) -> bool {
    match kind {
        Kind::Text(word) => word.is_empty(),
        Kind::List(values) => values.iter().all(|value| says_nothing(&value.kind)),
        Kind::Table(entries) => entries.is_empty(),
        Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) => false,
        Kind::Other(_) => true,
    }
}

/// What a value is that turns a field off, or that says nothing.
fn is_off(kind: &Kind) -> bool {
    match kind {
        Kind::Bool(on) => !on,
        Kind::Integer(number) | Kind::Float(number) => number.parse::<f64>() == Ok(0.0),
        Kind::Text(word) => word.is_empty() || word == "none",
        Kind::List(values) => values.iter().all(|value| is_off(&value.kind)),
        Kind::Table(entries) => entries.is_empty(),
        Kind::Other(_) => true,
    }
}

fn text_of(kind: &Kind) -> String {
    match kind {
        Kind::Bool(on) => on.to_string(),
        Kind::Integer(number) | Kind::Float(number) => number.clone(),
        Kind::Text(word) => quote(word),
        Kind::List(values) => format!("a list of {}", values.len()),
        Kind::Table(_) => "a table".to_string(),
        Kind::Other(name) => (*name).to_string(),
    }
}

/// Why the field does not agree with the layer; `None` where it does, and where it is null. A list without an entry for the
/// layer is an error, as it is where a rule reads it.
fn disagreement(config: &Config<'_>, means: Means, entry: &Entry, layer: &Document) -> Result<Option<String>, Diagnostic> {
    let values: Vec<&Value> = match (&entry.value.kind, config.layer) {
        (Kind::List(values), asked) if means == Means::DenseLayers => {
            let is_dense = |value: &Value| asked.is_none_or(|layer| is_value(&value.kind, &layer.to_string()));
            return Ok(values.iter().find(|value| is_dense(value)).map(|value| {
                let number = text_of(&value.kind);
                format!("has {number}, and no rule of `{}` says that layer {number} is dense", config.model_type)
            }));
        }
        (Kind::List(values), None) if !values.is_empty() => values.iter().collect(),
        (_, _) => vec![config.of_layer(entry)?],
    };
    let wrong = values.into_iter().filter(|value| !matches!(value.kind, Kind::Other(_)));
    let mut wrong = wrong.filter_map(|value| {
        let expected = expected(config, means, &value.kind, layer)?;
        Some(format!("is {}, and the layer of `{}` has {expected}", text_of(&value.kind), config.model_type))
    });
    Ok(wrong.next())
}

/// What the layer has, where the value says something else.
fn expected(config: &Config<'_>, means: Means, value: &Kind, layer: &Document) -> Option<String> {
    let key = |table: &str, key: &str, absent: &str| layer.value(table, key).unwrap_or(absent).to_string();
    let unless = |agrees: bool, said: String| (!agrees).then_some(said);
    let flag = |has: bool, what: &str| match value {
        Kind::Bool(on) => unless(*on == has, if has { what.to_string() } else { format!("no {what}") }),
        _ => Some(if has { what.to_string() } else { format!("no {what}") }),
    };
    match means {
        Means::Key(table, name, absent) => {
            let has = key(table, name, absent);
            let agrees = is_value(value, &has) || (layer.value(table, name).is_none() && is_off(value));
            unless(agrees, format!("{table}.{name} = {}", if has.is_empty() { "none" } else { &has }))
        }
        Means::Switch(table, name, off) => flag(key(table, name, off) != off, &format!("{table}.{name}")),
        Means::Activation => {
            let has = (key("expert", "activation", ""), key("expert", "alpha", "1.0"));
            let said = match value {
                Kind::Text(word) => known_activation(word),
                Kind::Table(inner) => {
                    named(inner).filter(|(_, rest)| rest.is_empty()).and_then(|(word, _)| known_activation(word))
                }
                _ => None,
            };
            // The code of those with a limit has one activation, whatever the field says.
            let is_same = said.is_some_and(|(word, alpha)| word == has.0 && alpha.is_none_or(|a| has.1 == format!("{a:?}")));
            unless(is_same, format!("expert.activation = {}", has.0))
        }
        Means::Renorm => {
            let sums = key("router", "renorm", "none") != "none";
            let is_softmax_of_selected = key("router", "order", "") == "topk_score" && key("router", "score", "") == "softmax";
            if is_softmax_of_selected || key("router", "joint_shared", "0") != "0" {
                flag(true, "weights of the sum 1")
            } else {
                flag(sums, "router.renorm")
            }
        }
        Means::Scale => {
            let factor = |table, name| key(table, name, "1.0").parse::<f64>().unwrap_or(1.0);
            let has = factor("router", "scale") * factor("moe", "routed_output_scale");
            unless(is_value(value, &format!("{has:?}")), format!("the factor {has:?}"))
        }
        Means::SharedCount => {
            let width = key("shared", "intermediate", "0").parse::<u64>().unwrap_or(0);
            let one = key("expert", "intermediate", "1").parse::<u64>().unwrap_or(1).max(1);
            let count = match config.model.shared {
                Shared::Count(_) => width / one,
                Shared::Joint(_) => key("shared", "count", "0").parse().unwrap_or(0),
                // A width says nothing of a count, and there is one network.
                Shared::None | Shared::Width(_) | Shared::Wide { .. } | Shared::Gated(_) | Shared::One => width.min(1),
            };
            unless(is_value(value, &count.to_string()), format!("{count} shared experts"))
        }
        Means::IsScore(word) => flag(key("router", "score", "") == word, &format!("score = \"{word}\"")),
        Means::Method => {
            let (groups, corrected) = (key("router", "groups", "1") != "1", key("router", "correction_on", "none") != "none");
            let agrees = match value {
                Kind::Text(word) if word == "greedy" => !groups && !corrected,
                Kind::Text(word) if word == "group_limited_greedy" => !corrected && key("router", "group_score", "") == "max",
                Kind::Text(word) if word == "noaux_tc" => corrected,
                _ => false,
            };
            unless(agrees, "another selection".to_string())
        }
        Means::OfGeneration => {
            let has = key("router", "top_k", "");
            let is_given = matches!(config.model.top_k, TopK::Fixed(_)) || TOP_K.iter().any(|name| config.has(name));
            // More than there are experts is no K.
            let experts = key("moe", "experts", "0").parse::<f64>().unwrap_or(0.0);
            let is_more = matches!(value, Kind::Integer(number) if number.parse::<f64>().is_ok_and(|number| number > experts));
            unless(is_given || is_more || is_value(value, &has), format!("router.top_k = {has} by default"))
        }
        Means::DenseLayers => Some("no rule for values other than a list".to_string()),
        Means::Only(values) => unless(
            values.iter().any(|one| is_value(value, one)),
            format!("no rule for values other than {}", values.join(" or ")),
        ),
    }
}

/// Whether the value is spelt so, numbers by their value.
fn is_value(value: &Kind, text: &str) -> bool {
    match value {
        Kind::Integer(number) | Kind::Float(number) => match (number.parse::<f64>(), text.parse::<f64>()) {
            (Ok(number), Ok(text)) => number == text,
            (_, _) => false,
        },
        Kind::Bool(on) => on.to_string() == text,
        Kind::Text(word) => word == text,
        Kind::List(_) | Kind::Table(_) | Kind::Other(_) => false,
    }
}
