//! From a Hugging Face `config.json` to the text of a spec, and from a checkpoint's header to whether it fits.
//! What a spec means is not known here: the text goes through the spec's reader like any other.
//!
//! ```
//! use moec::diagnostics::Source;
//! use moec::hugging_face;
//!
//! let text = r#"{"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_local_experts": 8,
//!                "num_experts_per_tok": 2, "hidden_act": "silu", "num_hidden_layers": 32}"#;
//! let config = Source { name: "config.json".into(), text: text.into() };
//! let block = hugging_face::import(&config, Some(3)).expect("a Mixtral");
//! let spec = block.spec(None);
//! assert!(spec.contains("router = \"model.layers.3.block_sparse_moe.gate.weight\""));
//! ```

mod account;
mod check;
mod config;
mod defaults;
mod document;
mod fields;
mod files;
mod layer;
mod layers;
mod models;
mod presets;
mod rules;
mod sizes;
mod stored;
mod unused;

pub use account::Unread;
pub use check::{Checked, check};
pub use presets::{preset, presets};

use std::collections::BTreeSet;

use self::config::Config;
use self::document::Document;
use self::files::{FILES, Files, WRAPPERS};
use self::models::{MODELS, REFUSED};
use self::rules::Model;
use self::sizes::Sizes;
use self::stored::Stored;
use crate::diagnostics::{Code, Diagnostic, Source, nearest, quote};
use crate::spec::{self, Entry, Kind, Word};

/// One MoE layer of a config.
pub struct Block {
    files: &'static Files,
    /// What stands before every name in published files, and in transformers' modules.
    prefixes: [&'static str; 2],
    document: Document,
    sizes: Sizes,
    /// The tensors: of each part of the layer, the ways in which files have it, the published one first.
    slots: Vec<Vec<Vec<Stored>>>,
    /// The layer that was asked for, and the model's first MoE layer where the config says which it is.
    layer: Option<u64>,
    first_layer: Option<u64>,
    assumed: Vec<String>,
    unread: Unread,
    origin: String,
}

/// Reads a config. `layer`, counted from 0, is the one that is meant; without it, the layers must be alike, and the
/// tensor names of the spec are those below the layer's prefix.
///
/// # Errors
/// The text is no JSON, its model is not known, a field is missing, or one is there that no rule reads; without `layer`, the
/// layers differ; with it, that layer has no experts.
pub fn import(source: &Source, layer: Option<u64>) -> Result<Block, Diagnostic> {
    import_allowing(source, layer, &[])
}

/// The same, where fields of these names may say something of the layer that no rule reads.
///
/// # Errors
/// As [`import`], but for the fields of `unread`.
pub fn import_allowing(source: &Source, layer: Option<u64>, unread: &[String]) -> Result<Block, Diagnostic> {
    let text = python_numbers(&source.text);
    let entries = spec::json_entries(&text)?;
    let scopes = config::scopes(&entries);
    let found = find_model(&scopes)?;
    let mut config = Config::new(scopes, &found, layer, unread);
    if let Some(generation) = generation(&mut config) {
        config.assumed.push(generation);
    }
    if config::has_thinker(&entries) {
        config.assumed.push("the layer is one of the thinker's: the talker has a config and tensor names of its own".to_string());
    }
    let first_layer = layers::moe_layers(&mut config)?.and_then(|layers| layers.first().copied());
    let name = name(&mut config, &source.name);
    let parts = layer::parts(&mut config, &name)?;
    let Rows { model_type, files, prefixes, .. } = found;
    if let Some(wrapper) = found.wrapper {
        let what =
            format!("what stands before the names is that of `{model_type}` alone: where {} has it is not known", quote(wrapper));
        config.assumed.push(what);
    }
    let ways = |ways: &[&[Stored]]| ways.iter().map(|way| way.to_vec()).collect::<Vec<_>>();
    let mut slots = vec![vec![vec![stored::plain(spec::Tensor::Router, files.router)]], ways(files.experts)];
    if parts.shared {
        slots.push(ways(files.shared));
    }
    slots.extend(parts.stored.into_iter().map(|stored| vec![vec![stored]]));
    let unread = account::account(&config, &entries, &parts.document)?;
    Ok(Block {
        files,
        prefixes,
        document: parts.document,
        sizes: parts.sizes,
        slots,
        layer,
        first_layer,
        assumed: config.assumed,
        unread,
        origin: format!("{name}: a MoE layer of `{model_type}`, from its Hugging Face config"),
    })
}

impl Block {
    /// What was taken that the config does not say, a sentence each.
    pub fn assumed(&self) -> &[String] {
        &self.assumed
    }

    /// Fields of the config that no rule reads.
    pub fn unread(&self) -> &Unread {
        &self.unread
    }

    /// The spec: as published checkpoints store the tensors, or as a checkpoint that was checked has them.
    pub fn spec(&self, checked: Option<&Checked>) -> String {
        let prefix = match (self.layer, checked) {
            (None, _) => String::new(),
            (Some(_), Some(checked)) => checked.prefix.clone(),
            (Some(layer), None) => self.published_prefix(layer),
        };
        let mut document = self.document.clone();
        let published = || self.slots.iter().filter_map(|ways| ways.first()).flatten().copied().collect();
        let mut stored: Vec<Stored> = checked.map_or_else(published, |checked| checked.chosen.clone());
        stored.sort_by_key(|stored| stored.tensor);
        for stored in stored {
            let names: Vec<String> = stored.names.iter().map(|name| format!("{prefix}{name}")).collect();
            let experts = stored.flattened.then_some(self.sizes.experts);
            document.stored(stored.tensor.word(), &names, stored.layout.word(), experts);
        }
        document.to_toml(&self.comments(checked))
    }

    fn comments(&self, checked: Option<&Checked>) -> Vec<String> {
        let mut comments = vec![self.origin.clone()];
        if self.layer.is_none() {
            let published = self.first_layer.map(|layer| self.published_prefix(layer));
            let prefix = checked.map(|checked| checked.prefix.clone()).or(published);
            let below = prefix.map_or(String::new(), |prefix| format!(", such as {}", quote(&prefix)));
            comments.push(format!("Tensor names are those below the layer's prefix{below}."));
        }
        if checked.is_none() {
            let published = "Tensor names are the published ones; `moec import --check` takes those that a file has.";
            let usual = "Tensor names are held against no published file; `moec import --check` takes those that a file has.";
            comments.push(if self.files.published { published } else { usual }.to_string());
        }
        comments.extend(self.assumed.iter().map(|assumed| format!("Assumed: {assumed}.")));
        comments.extend(self.unread.allowed.iter().map(|field| format!("Left out as asked: {field}.")));
        comments
    }

    /// What stands before a tensor's name in a published checkpoint.
    fn published_prefix(&self, layer: u64) -> String {
        self.prefixes[0].replace("{N}", &layer.to_string())
    }

    /// What may stand before the names of a layer's tensors, the published one first.
    fn prefixes_of(&self, layer: u64) -> impl Iterator<Item = String> {
        let prefixes = self.prefixes.iter().chain(&self.files.prefixes);
        prefixes.map(move |prefix| prefix.replace("{N}", &layer.to_string()))
    }

    /// Every name that a tensor of the layer may have, below the prefix.
    fn stored_names(&self) -> impl Iterator<Item = &'static str> {
        self.slots.iter().flatten().flatten().flat_map(|stored| stored.names.iter().copied())
    }
}

/// What the spec's reader says of an imported text: nothing, or what the pipeline does not carry yet, or mistakes that the
/// config must have had.
///
/// # Errors
/// The mistakes: what a reader of specs refuses for another reason than that it is not supported yet.
pub fn not_carried(spec: &Source) -> Result<Vec<String>, Vec<Diagnostic>> {
    let Err(diagnostics) = spec::parse(spec) else { return Ok(Vec::new()) };
    let (later, mistakes): (Vec<_>, Vec<_>) = diagnostics.into_iter().partition(|d| d.code == Code::NotSupportedYet);
    match mistakes.is_empty() {
        true => Ok(later.into_iter().map(|diagnostic| diagnostic.message).collect()),
        false => Err(mistakes),
    }
}

/// The model types that [`import`] knows.
pub fn model_types() -> impl Iterator<Item = &'static str> + Clone {
    MODELS.iter().flat_map(|model| model.types.iter().copied())
}

/// What the tables say of a config's model.
pub(super) struct Rows<'a> {
    /// The `model_type` that decided.
    model_type: &'a str,
    model: &'static Model,
    files: &'static Files,
    prefixes: [&'static str; 2],
    /// A `model_type` around it that is in no table.
    wrapper: Option<&'a str>,
}

/// The rows of the config's `model_type`: that of the text model in a multimodal wrapper, else the file's.
fn find_model<'a>(scopes: &[&'a [Entry]]) -> Result<Rows<'a>, Diagnostic> {
    let given = scopes.iter().flat_map(|scope| scope.iter()).filter(|entry| entry.key == "model_type");
    let given: Vec<(&str, &Entry)> = given
        .filter_map(|entry| if let Kind::Text(text) = &entry.value.kind { Some((text.as_str(), entry)) } else { None })
        .filter(|(text, _)| !text.is_empty())
        .collect();
    let row = |word: &str| {
        let mut rows = MODELS.iter().filter(|model| model.types.contains(&word));
        rows.find(|model| model.told_by.is_none_or(|told| told.tells(word, scopes))).map(|model| (model, word.len()))
    };
    // The innermost decides: a text model that is in no table is not its wrapper.
    let Some((word, entry)) = given.first() else {
        let diagnostic = Diagnostic::new(Code::FieldMissing, "the file has no `model_type`: it is not a Hugging Face config");
        return Err(diagnostic.help("config.json lies beside the checkpoint; a spec is given to `moec check`"));
    };
    let plain = word.strip_suffix("_text").unwrap_or(word);
    if let Some((model, length)) = row(word).or_else(|| row(plain)) {
        let of = |types: &[&str]| types.contains(word) || types.contains(&plain);
        let Some(files) = FILES.iter().find(|files| of(files.types)) else {
            return Err(Diagnostic::new(Code::Bug, format!("no tensor names of {}", quote(word))));
        };
        let wrapper = WRAPPERS.iter().find(|wrapper| given.iter().any(|(word, _)| wrapper.types.contains(word)));
        let prefixes = wrapper.map_or(files.prefixes, |wrapper| wrapper.prefixes);
        let is_known = |outer: &str| {
            let plain_outer = outer.strip_suffix("_text").unwrap_or(outer);
            plain_outer == plain || row(outer).is_some_and(|(known, _)| std::ptr::eq(known, model))
        };
        let outermost = given.last().map(|(outer, _)| *outer).filter(|outer| wrapper.is_none() && !is_known(outer));
        return Ok(Rows { model_type: &word[..length], model, files, prefixes, wrapper: outermost });
    }
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| refused == word || *refused == plain) {
        let message = format!("a spec cannot say what {} does", quote(word));
        return Err(Diagnostic::new(Code::NotExpressible, message).at(entry.value.span.clone(), *why));
    }
    let list = model_types().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
    let diagnostic = Diagnostic::new(Code::UnknownModelType, format!("the model type {} is not known", quote(word)));
    let label = nearest(word, model_types()).map_or("unknown".to_string(), |near| format!("did you mean `{near}`?"));
    Err(diagnostic.at(entry.value.span.clone(), label).help(format!("known: {list}")))
}

/// Of a `model_type` with two generations, which one was taken where the class in `architectures` does not say so.
fn generation(config: &mut Config<'_>) -> Option<String> {
    let (model, model_type) = (config.model, config.model_type);
    let told = MODELS.iter().filter(|row| row.types.contains(&model_type)).find_map(|row| row.told_by)?;
    if model.told_by.is_none() {
        let fields = told.fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(" nor ");
        return Some(format!(
            "`{model_type}` is of the first generation, softmax without a bias: the config has neither {fields}"
        ));
    }
    let classes = config.entry("architectures");
    if told.types.contains(&model_type) || told.architectures.iter().any(|name| config::names_class(classes, name)) {
        return None;
    }
    let field = told.fields.iter().find(|field| config.entry(field).is_some())?;
    Some(format!("`{model_type}` is of the second generation: the config has `{field}`"))
}

/// The layer's name: the model's where the config has one, else the file's, else the model type.
fn name(config: &mut Config<'_>, file: &str) -> String {
    let path = match config.entry("_name_or_path").map(|entry| &entry.value.kind) {
        Some(Kind::Text(path)) => path.as_str(),
        Some(_) | None => "",
    };
    let stem = file.rsplit(['/', '\\']).next().unwrap_or_default().trim_end_matches(".json").trim_end_matches(".config");
    let is_legal = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let legal = |text: &str| text.chars().filter(is_legal).take(64).collect::<String>();
    let candidates =
        [path.rsplit('/').next().unwrap_or_default(), if stem == "config" || stem.starts_with('<') { "" } else { stem }];
    candidates.into_iter().map(legal).find(|name| !name.is_empty()).unwrap_or_else(|| legal(config.model_type))
}

/// Python writes `NaN` and `Infinity`, which JSON has not: other values of the same length stand for them, so that places stay.
fn python_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(first) = rest.chars().next() {
        let spelt = [("Infinity", "1e999999"), ("NaN", "{ }")].into_iter().find(|(word, _)| !in_string && rest.starts_with(word));
        let step = match (first, spelt) {
            (_, Some((word, _))) => word.len(),
            ('\\', None) if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            ('"', None) => {
                in_string = !in_string;
                1
            }
            (first, None) => first.len_utf8(),
        };
        out.push_str(spelt.map_or(&rest[..step], |(_, other)| other));
        rest = &rest[step..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_model_type_is_in_two_rows() {
        let mut types: Vec<&str> = model_types().chain(REFUSED.iter().map(|(word, _)| *word)).collect();
        let count = types.len();
        types.sort_unstable();
        types.dedup();
        // Of two generations the later one has a row of its own.
        assert_eq!(types.len() + MODELS.iter().filter(|model| model.told_by.is_some()).count(), count);
    }

    #[test]
    fn every_model_type_has_names_once() {
        let mut named: Vec<&str> = FILES.iter().flat_map(|files| files.types.iter().copied()).collect();
        named.sort_unstable();
        // Of two generations each has a row.
        let known: BTreeSet<&str> = model_types().collect();
        let known: Vec<&str> = known.into_iter().collect();
        assert_eq!(named, known);
    }

    #[test]
    fn numbers_of_python_keep_their_places() {
        let text = r#"{"a": [Infinity, -Infinity, NaN], "NaN\"": "é\\"}"#;
        let json = python_numbers(text);
        assert_eq!(json.len(), text.len());
        assert_eq!(json, r#"{"a": [1e999999, -1e999999, { }], "NaN\"": "é\\"}"#);
        assert!(spec::json_entries(&json).is_ok());
    }
}
