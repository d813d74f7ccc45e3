//! Recorded tensors, read in chunks of rows: files larger than memory take no more of it than a small one. What the rows mean
//! is not known here: logits `[T, E]`, or hidden states `[T, H]`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::mask::{self, Mask};
use super::names::{LayerName, LayerRule, is_match, is_numbered, natural};
use super::rows::{Float, RowKind, Rows};
use crate::diagnostics::{Code, Diagnostic, Report, Source, quote};
use crate::tensor_file::{self, Stored, TensorFile, Unusable};

/// Files and, in order, the tensors of them that count.
#[derive(Debug)]
pub struct Trace {
    files: Vec<(PathBuf, TensorFile)>,
    /// One at least.
    pub layers: Vec<Layer>,
    /// Elements of a row.
    pub width: u64,
    /// Tensors of the files that were left out: another shape, integers, or a name that the pattern for layers does not mean.
    pub skipped: usize,
    /// What is not certain about the layers, in words: tensors that may be layers are taken for batches of one.
    pub doubt: Option<String>,
    mask: Option<Mask>,
}

/// The tensors of one layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What it is called, where the names say so: a number, or a name with one.
    pub name: Option<String>,
    /// The number in the names.
    pub number: Option<u64>,
    /// Its batches in the order of the files, and in each by name, numbers in a name by their value.
    pub tensors: Vec<Recorded>,
}

impl Layer {
    /// Rows of all its tensors.
    pub fn rows(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.tokens).sum()
    }

    /// Bytes of all its tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes()).sum()
    }

    /// How many files they are in.
    pub(super) fn file_count(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.file).collect::<BTreeSet<usize>>().len()
    }
}

/// One tensor: rows of one width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its name, with that of its file where there are several.
    pub name: String,
    /// Its rows.
    pub tokens: u64,
    /// S of `[B, S, width]`; `None`: the tensor is `[T, width]`.
    pub sequence_tokens: Option<u64>,
    /// Its first row among those of the layer.
    first: u64,
    file: usize,
    stored: Stored,
    float: Float,
}

impl Recorded {
    /// Bytes that it has when it is read.
    pub(super) fn bytes(&self) -> u64 {
        self.stored.bytes
    }
}

/// Which tensors of the files are meant, and as what.
#[derive(Clone, Debug, Default)]
pub struct Choice<'c> {
    /// Only tensors of this name; `*` stands for anything.
    pub tensor: Option<&'c str>,
    /// How the layers are told apart.
    pub layers: LayerRule,
    /// The mask: tensors of the trace by a name with `*` for anything, or else `FILE` or `FILE:TENSOR`.
    pub mask: Option<&'c str>,
    /// Elements of a row; what the tensors have where absent.
    pub width: Option<u64>,
}

impl Trace {
    /// Opens the files and finds the float tensors `[T, width]` and `[B, S, width]`. Only headers are read, and the mask.
    ///
    /// # Errors
    /// About the file at fault: it is no file of tensors, nothing in it has the width, or a tensor that was named has another
    /// shape. Of a mask: it is not there, has another number of elements than a layer has rows, or one that is not 0 or 1.
    pub fn open(paths: &[PathBuf], choice: &Choice<'_>) -> Result<Trace, Report> {
        let mut files = Vec::new();
        for path in paths {
            files.push((path.clone(), tensor_file::open(path).map_err(|error| unusable(path, error))?));
        }
        let masks = choice.mask.map_or(Ok(mask::Found::default()), |mask| mask::find(mask, &files))?;
        let is_meant = |file: usize, name: &str| {
            let is_mask = masks.in_trace.contains(&(file, name.to_string()));
            !is_mask && choice.tensor.is_none_or(|pattern| is_match(pattern, name))
        };
        let width = match choice.width {
            Some(width) => width,
            None => width(&files, is_meant)?,
        };
        let (mut found, mut skipped) = (Vec::new(), 0);
        for (at, (path, file)) in files.iter().enumerate() {
            let before = found.len();
            for (name, stored) in file.tensors.iter().filter(|(name, _)| is_meant(at, name)) {
                let layer = layer_name(&choice.layers, path, name);
                match (recorded(name, stored, width, at), layer) {
                    (Some(tensor), Some(layer)) => found.push((layer, tensor)),
                    (None, _) if choice.tensor.is_some_and(|pattern| !pattern.contains('*')) => {
                        let message = format!("tensor {} is {}", quote(name), described(stored));
                        let help = format!("expected floats [T, {width}] or [B, S, {width}]");
                        return Err(report(path, Diagnostic::new(Code::BadCheckpoint, message).help(help)));
                    }
                    (_, _) => skipped += 1,
                }
            }
            if found.len() == before {
                return Err(report(path, nothing_found(file, choice, width)));
            }
        }
        let doubt = doubt(&choice.layers, &found);
        let mut layers = layers(found);
        if files.len() > 1 {
            for tensor in layers.iter_mut().flat_map(|layer| &mut layer.tensors) {
                let (path, _) = &files[tensor.file];
                let file = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
                tensor.name = format!("{file}:{}", tensor.name);
            }
        }
        let mask = masks.read(&files, &layers)?;
        Ok(Trace { files, layers, width, skipped, doubt, mask })
    }

    /// A tensor `[width]` of one of the files, or one of that many elements, by the first of the names that is there.
    ///
    /// # Errors
    /// It has another number of elements, or cannot be read.
    pub fn vector(&self, names: &[String], width: u64) -> Result<Option<Vec<f32>>, Report> {
        for (path, file) in &self.files {
            let Some((name, stored)) = names.iter().find_map(|name| file.tensors.get_key_value(name)) else { continue };
            let float = Float::of(stored.dtype).filter(|_| elements(stored) == Some(width));
            let Some(float) = float else {
                let message = format!("tensor {} is {}, expected floats [{width}]", quote(name), described(stored));
                return Err(bad(path, message));
            };
            let mut rows = Rows { width: width as usize, ..Rows::default() };
            let read = file.read(stored, |reader| rows.read(reader, 1, float, &mut Vec::new()));
            let read = read.and_then(|read| read);
            read.map_err(|error| bad(path, format!("tensor {} cannot be read: {error}", quote(name))))?;
            return Ok(Some(rows.values[..width as usize].to_vec()));
        }
        Ok(None)
    }

    /// Reads a tensor of a layer from its first row to its last, a chunk at a time, and gives each to `take` with the number
    /// of its bytes. Rows that the mask leaves out are marked.
    ///
    /// # Errors
    /// The file cannot be read: it may have shrunk since it was opened. Or the error of `take`.
    pub(super) fn read<E: From<Report>>(
        &self,
        tensor: &Recorded,
        rows: &mut Rows,
        mut take: impl FnMut(&Rows, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        // What stays in the cache while it is worked on.
        const CHUNK_BYTES: u64 = 1 << 18;
        let chunk = (CHUNK_BYTES / (4 * self.width)).max(1);
        let (path, file) = &self.files[tensor.file];
        let failed = |first: u64, error: std::io::Error| {
            E::from(bad(path, format!("tensor {}: rows from {first} on cannot be read: {error}", quote(&tensor.name))))
        };
        rows.width = self.width as usize;
        let mut bytes = Vec::new();
        let read = file.read(&tensor.stored, |reader| {
            let mut first = 0;
            while first < tensor.tokens {
                let count = chunk.min(tensor.tokens - first);
                let read = rows.read(reader, count as usize, tensor.float, &mut bytes);
                read.map_err(|error| failed(first, error))?;
                if let Some(mask) = &self.mask {
                    let tokens = &mask.is_token[(tensor.first + first) as usize..];
                    let padding = rows.kinds.iter_mut().zip(tokens).filter(|(_, is_token)| !**is_token);
                    padding.for_each(|(kind, _)| *kind = RowKind::Padding);
                }
                take(rows, bytes.len() as u64)?;
                first += count;
            }
            Ok(())
        });
        read.map_err(|error| failed(0, error))?
    }
}

/// The layer of a tensor; `None`: the pattern does not mean it. A file for each layer says so in its own name.
fn layer_name(rule: &LayerRule, path: &Path, name: &str) -> Option<LayerName> {
    let whole = || {
        let stem = path.file_stem().map_or_else(|| path.to_string_lossy(), |stem| stem.to_string_lossy());
        format!("{stem}/{name}")
    };
    match rule {
        LayerRule::One => Some(LayerName { frame: String::new(), number: None }),
        LayerRule::Words => {
            let by_name = LayerName::by_words(name);
            let by_file = LayerName::by_words(&whole());
            Some(if by_name.number.is_none() && by_file.number.is_some() { by_file } else { by_name })
        }
        LayerRule::Pattern(pattern) => LayerName::by_pattern(pattern, name).or_else(|| LayerName::by_pattern(pattern, &whole())),
    }
}

/// The tensors by their layers, in order.
fn layers(found: Vec<(LayerName, Recorded)>) -> Vec<Layer> {
    let mut by_layer: BTreeMap<LayerName, Vec<Recorded>> = BTreeMap::new();
    for (mut layer, tensor) in found {
        // Without a number all names are of one layer.
        if layer.number.is_none() {
            layer.frame.clear();
        }
        by_layer.entry(layer).or_default().push(tensor);
    }
    let frames: BTreeSet<&String> = by_layer.keys().map(|name| &name.frame).collect();
    let is_alone = frames.len() == 1;
    let named: Vec<(Option<String>, LayerName)> =
        by_layer.keys().map(|name| (name.number.map(|_| name.label(is_alone)), name.clone())).collect();
    let several = named.len() > 1;
    let mut layers: Vec<Layer> = named
        .into_iter()
        .zip(by_layer.into_values())
        .map(|((label, name), mut tensors)| {
            tensors.sort_by(|a, b| a.file.cmp(&b.file).then_with(|| natural(&a.name).cmp(&natural(&b.name))));
            let mut first = 0;
            for tensor in &mut tensors {
                tensor.first = first;
                first += tensor.tokens;
            }
            let label = label.or_else(|| several.then(|| "without a number".to_string()));
            Layer { name: label, number: name.number, tensors }
        })
        .collect();
    layers.sort_by(|a, b| natural(a.name.as_deref().unwrap_or("")).cmp(&natural(b.name.as_deref().unwrap_or(""))));
    layers
}

/// What may be wrong with taking tensors for batches of one layer.
fn doubt(rule: &LayerRule, found: &[(LayerName, Recorded)]) -> Option<String> {
    let without: Vec<&(LayerName, Recorded)> = found.iter().filter(|(layer, _)| layer.number.is_none()).collect();
    let frames: BTreeSet<&str> = without.iter().map(|(layer, _)| layer.frame.as_str()).collect();
    let is_numbered = without.iter().any(|(_, tensor)| is_numbered(&tensor.name));
    let (first, last) = (without.first()?, without.last()?);
    let is_doubtful = *rule == LayerRule::Words && without.len() > 1 && (frames.len() > 1 || is_numbered);
    is_doubtful.then(|| {
        let (first, last) = (quote(&first.1.name), quote(&last.1.name));
        format!("{} tensors ({first} to {last}) are taken for batches of one layer: their names do not say", without.len())
    })
}

/// The one width that the float tensors have.
fn width(files: &[(PathBuf, TensorFile)], is_meant: impl Fn(usize, &str) -> bool) -> Result<u64, Report> {
    let mut widths: BTreeMap<u64, &str> = BTreeMap::new();
    for (at, (_, file)) in files.iter().enumerate() {
        for (name, stored) in file.tensors.iter().filter(|(name, _)| is_meant(at, name)) {
            if let ([_, width] | [_, _, width], Some(_)) = (&stored.shape[..], Float::of(stored.dtype)) {
                widths.entry(*width).or_insert(name);
            }
        }
    }
    let path = files.first().map_or(Path::new(""), |(path, _)| path);
    let mut each = widths.iter();
    match (each.next(), each.next()) {
        (Some((width @ 1.., _)), None) => Ok(*width),
        (Some((first, a)), Some((second, b))) => {
            let message =
                format!("how many experts there are is not certain: {} has {first} columns, {} {second}", quote(a), quote(b));
            Err(report(path, Diagnostic::new(Code::BadCheckpoint, message).help("`--tensor` says which tensors are logits")))
        }
        (_, _) => Err(bad(path, "no tensor is [T, E] or [B, S, E] floats".to_string())),
    }
}

fn recorded(name: &str, stored: &Stored, width: u64, file: usize) -> Option<Recorded> {
    let float = Float::of(stored.dtype)?;
    let (tokens, sequence_tokens) = match stored.shape[..] {
        [tokens, last] if last == width => (tokens, None),
        // A batch of empty rows is an empty batch.
        [rows, sequence_tokens, last] if last == width => (rows.checked_mul(sequence_tokens)?, Some(sequence_tokens)),
        _ => return None,
    };
    Some(Recorded { name: name.to_string(), tokens, sequence_tokens, first: 0, file, stored: stored.clone(), float })
}

pub(super) fn elements(stored: &Stored) -> Option<u64> {
    stored.shape.iter().try_fold(1u64, |product, n| product.checked_mul(*n))
}

pub(super) fn described(stored: &Stored) -> String {
    format!("{} {:?}", stored.dtype, stored.shape)
}

fn nothing_found(file: &TensorFile, choice: &Choice<'_>, width: u64) -> Diagnostic {
    const SHOWN: usize = 8;
    let mut named = choice.tensor.map_or(String::new(), |pattern| format!(" whose name matches {}", quote(pattern)));
    if let LayerRule::Pattern(pattern) = &choice.layers {
        named += &format!(" whose layer is found by {}", quote(pattern));
    }
    let message = format!("no tensor{named} is [T, {width}] or [B, S, {width}] floats");
    let mut diagnostic = Diagnostic::new(Code::BadCheckpoint, message);
    for (name, stored) in file.tensors.iter().take(SHOWN) {
        diagnostic = diagnostic.note(format!("{} is {}", quote(name), described(stored)));
    }
    let more = file.tensors.len().saturating_sub(SHOWN);
    if more > 0 { diagnostic.note(format!("and {more} more")) } else { diagnostic }
}

pub(super) fn unusable(path: &Path, error: Unusable) -> Report {
    let diagnostic = Diagnostic::new(Code::BadCheckpoint, format!("the file cannot be used: {}", error.why));
    report(path, error.help.into_iter().fold(diagnostic, Diagnostic::help))
}

pub(super) fn bad(path: &Path, message: String) -> Report {
    report(path, Diagnostic::new(Code::BadCheckpoint, message))
}

pub(super) fn report(path: &Path, diagnostic: Diagnostic) -> Report {
    Report { source: Source { name: path.display().to_string(), text: String::new() }, diagnostics: vec![diagnostic] }
}
