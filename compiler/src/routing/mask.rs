//! Which rows of a trace are tokens and which are padding: tensors beside the logits, 1 for a token and 0 for padding. One after
//! another they have an element for each row of a layer, in any shape: `[T]` and `[B, S]` are the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;

use super::names::{is_match, natural};
use super::trace::{Layer, bad, described, elements, report, unusable};
use crate::diagnostics::{Code, Diagnostic, Report, quote};
use crate::tensor_file::{self, TensorFile};

/// For each row of a layer whether it is a token.
#[derive(Debug)]
pub(super) struct Mask {
    pub(super) is_token: Vec<bool>,
}

/// Where the mask is.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Tensors of the trace by their file, which are not logits then.
    pub(super) in_trace: BTreeSet<(usize, String)>,
    /// A file of its own, and the tensors of it.
    beside: Option<(PathBuf, TensorFile, Vec<String>)>,
}

/// Finds the tensors that `mask` names in the trace, or else in the file that it names.
pub(super) fn find(mask: &str, files: &[(PathBuf, TensorFile)]) -> Result<Found, Report> {
    let in_trace: BTreeSet<(usize, String)> = (0..files.len())
        .flat_map(|at| files[at].1.tensors.keys().map(move |name| (at, name.clone())))
        .filter(|(_, name)| is_match(mask, name))
        .collect();
    if !in_trace.is_empty() {
        return Ok(Found { in_trace, beside: None });
    }
    let (path, pattern) = match mask.rsplit_once(':') {
        // A file whose own name has a colon is meant whole.
        Some((path, tensor)) if !path.is_empty() && !tensor.is_empty() && !Path::new(mask).exists() => (path, Some(tensor)),
        Some(_) | None => (mask, None),
    };
    if pattern.is_none() && !Path::new(path).exists() {
        let trace = files.first().map_or(Path::new(""), |(path, _)| path);
        let diagnostic =
            Diagnostic::new(Code::BadCheckpoint, format!("there is no tensor and no file {} to mask with", quote(mask)));
        let help = "`--mask` takes the name of a tensor in the trace, FILE, or FILE:TENSOR";
        return Err(report(trace, diagnostic.help(help)));
    }
    let path = PathBuf::from(path);
    let file = tensor_file::open(&path).map_err(|error| unusable(&path, error))?;
    let mut names: Vec<String> =
        file.tensors.keys().filter(|name| pattern.is_none_or(|pattern| is_match(pattern, name))).cloned().collect();
    names.sort_by(|a, b| natural(a).cmp(&natural(b)));
    match (names.len(), pattern) {
        (0, _) => Err(bad(&path, format!("no tensor is called {}", quote(pattern.unwrap_or(""))))),
        (2.., None) => {
            let message = format!("which of {} tensors is the mask is not certain", names.len());
            let help = format!("`--mask {}:{}` names one", path.display(), names[0]);
            Err(report(&path, Diagnostic::new(Code::BadCheckpoint, message).help(help)))
        }
        (_, _) => Ok(Found { in_trace, beside: Some((path, file, names)) }),
    }
}

impl Found {
    /// Reads the mask, and holds it against the layers.
    pub(super) fn read(&self, files: &[(PathBuf, TensorFile)], layers: &[Layer]) -> Result<Option<Mask>, Report> {
        let mut tensors: Vec<(&Path, &TensorFile, &str)> = Vec::new();
        let mut inside: Vec<&(usize, String)> = self.in_trace.iter().collect();
        inside.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| natural(&a.1).cmp(&natural(&b.1))));
        tensors.extend(inside.into_iter().map(|(at, name)| (files[*at].0.as_path(), &files[*at].1, name.as_str())));
        if let Some((path, file, names)) = &self.beside {
            tensors.extend(names.iter().map(|name| (path.as_path(), file, name.as_str())));
        }
        let Some((path, _, first)) = tensors.first().copied() else { return Ok(None) };
        let mut is_token = Vec::new();
        let mut ends = Vec::new();
        for (path, file, name) in &tensors {
            read(path, file, name, &mut is_token)?;
            ends.push(is_token.len() as u64);
        }
        for layer in layers {
            let refused = |message: String, help: &str| {
                let diagnostic = Diagnostic::new(Code::BadCheckpoint, message).help(help);
                Err(report(path, diagnostic))
            };
            let called = layer.name.as_ref().map_or(String::new(), |name| format!(" of layer {}", quote(name)));
            if layer.rows() != is_token.len() as u64 {
                let message =
                    format!("the mask {} has {} elements, the trace{called} {} rows", quote(first), is_token.len(), layer.rows());
                let help = "a mask has an element for each row, [T] or [B, S]; of several batches a mask each, \
                            as `--mask 'mask.*'`";
                return refused(message, help);
            }
            let mut row = 0;
            let tensor_ends: Vec<u64> = layer
                .tensors
                .iter()
                .map(|tensor| {
                    row += tensor.tokens;
                    row
                })
                .collect();
            if ends.len() > 1 && ends.iter().any(|end| !tensor_ends.contains(end)) {
                let message =
                    format!("the masks end between the batches{called}: at {ends:?} rows, and these at {tensor_ends:?}");
                return refused(message, "masks belong to batches in the order of the numbers in their names");
            }
        }
        Ok(Some(Mask { is_token }))
    }
}

/// Appends the elements of one mask.
fn read(path: &Path, file: &TensorFile, name: &str, is_token: &mut Vec<bool>) -> Result<(), Report> {
    let refused = |message: String, help: &str| {
        let diagnostic = Diagnostic::new(Code::BadCheckpoint, message).help(help);
        Err(report(path, diagnostic))
    };
    let Some(stored) = file.tensors.get(name) else { return Ok(()) };
    let one: &[u8] = match stored.dtype {
        Dtype::BOOL | Dtype::U8 | Dtype::I8 => &[1],
        Dtype::U16 | Dtype::I16 => &[1, 0],
        Dtype::U32 | Dtype::I32 => &[1, 0, 0, 0],
        Dtype::U64 | Dtype::I64 => &[1, 0, 0, 0, 0, 0, 0, 0],
        Dtype::BF16 => &[0x80, 0x3f],
        Dtype::F16 => &[0, 0x3c],
        Dtype::F32 => &[0, 0, 0x80, 0x3f],
        Dtype::F64 => &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
        _ => {
            let message = format!("the mask {} is {}", quote(name), described(stored));
            return refused(message, "a mask is of booleans, integers or floats that are 0 or 1");
        }
    };
    if elements(stored).and_then(|elements| elements.checked_mul(one.len() as u64)) != Some(stored.bytes) {
        return Err(bad(path, format!("the mask {} is {}", quote(name), described(stored))));
    }
    let bytes = file.bytes(stored);
    let bytes = bytes.map_err(|error| bad(path, format!("the mask {} cannot be read: {error}", quote(name))))?;
    for (at, element) in bytes.chunks_exact(one.len()).enumerate() {
        let is_one = element == one;
        if !is_one && element.iter().any(|byte| *byte != 0) {
            let message = format!("element {at} of the mask {} is neither 0 nor 1", quote(name));
            let help = "1 is a token and 0 is padding, as in the attention_mask of a tokenizer; a mask that is added to the scores \
                        of attention is another";
            return refused(message, help);
        }
        is_token.push(is_one);
    }
    Ok(())
}
