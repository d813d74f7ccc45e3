//! Recorded tensors, read in chunks of rows: safetensors files larger than memory take no more of it than a small one.
//! What the rows mean is not known here: logits `[T, E]`, or hidden states `[T, H]`.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype as FileDtype, TensorInfo};

use crate::diagnostics::{Code, Diagnostic, Report, Source, quote};
use crate::tensor_file::{self, TensorFile};

/// Lanes that rows are padded to, so that no loop over experts has a rest.
pub(super) const LANES: usize = 16;

/// Files and, in order, the tensors of them that count.
#[derive(Debug)]
pub struct Trace {
    files: Vec<(PathBuf, TensorFile)>,
    /// In the order of the files, and in each by name, numbers in a name by their value.
    pub tensors: Vec<Recorded>,
    /// Elements of a row.
    pub width: u64,
    /// Tensors of the files that were left out: another shape, or integers.
    pub skipped: usize,
}

/// One tensor: rows of one width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub tokens: u64,
    /// S of `[B, S, width]`; `None`: the tensor is `[T, width]`.
    pub row_tokens: Option<u64>,
    /// Bytes that it has in the file.
    pub bytes: u64,
    width: u64,
    file: usize,
    offset: u64,
    float: Float,
}

/// How elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Float {
    F64,
    F32,
    F16,
    Bf16,
}

impl Float {
    fn of(dtype: FileDtype) -> Option<Float> {
        match dtype {
            FileDtype::F64 => Some(Float::F64),
            FileDtype::F32 => Some(Float::F32),
            FileDtype::F16 => Some(Float::F16),
            FileDtype::BF16 => Some(Float::Bf16),
            _ => None,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Float::F64 => 8,
            Float::F32 => 4,
            Float::F16 | Float::Bf16 => 2,
        }
    }
}

/// Rows in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    /// How many.
    pub(super) count: usize,
    /// Elements of a row.
    pub(super) width: usize,
    /// Row after row in f32, each padded with minus infinity to [`Rows::stride`].
    pub(super) values: Vec<f32>,
    /// Row after row as they were stored, unpadded, where f32 does not hold every one of them.
    pub(super) wide: Vec<f64>,
}

impl Rows {
    /// Where the next row begins in `values`.
    pub(super) fn stride(&self) -> usize {
        stride(self.width)
    }

    /// One row, padded.
    pub(super) fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.stride()..][..self.stride()]
    }

    /// One row as it was stored.
    pub(super) fn exact(&self, index: usize) -> Vec<f64> {
        match self.wide.is_empty() {
            true => self.row(index)[..self.width].iter().map(|x| f64::from(*x)).collect(),
            false => self.wide[index * self.width..][..self.width].to_vec(),
        }
    }

    /// Rows of these values.
    #[cfg(test)]
    pub(super) fn of(width: usize, values: &[f64]) -> Rows {
        let mut rows = Rows { count: values.len() / width.max(1), width, ..Rows::default() };
        rows.values = vec![f32::NEG_INFINITY; rows.count * rows.stride()];
        for (padded, row) in rows.values.chunks_exact_mut(stride(width)).zip(values.chunks_exact(width)) {
            padded.iter_mut().zip(row).for_each(|(y, x)| *y = *x as f32);
        }
        rows.keep_wide(values.iter().copied());
        rows
    }

    fn keep_wide(&mut self, values: impl Iterator<Item = f64> + Clone) {
        self.wide.clear();
        let is_exact = |x: f64| f64::from(x as f32) == x || x.is_nan();
        if !values.clone().all(is_exact) {
            self.wide.extend(values);
        }
    }

    fn decode(&mut self, bytes: &[u8], float: Float) {
        let (width, stride) = (self.width, self.stride());
        self.count = bytes.len() / (width * float.bytes());
        self.values.resize(self.count * stride, f32::NEG_INFINITY);
        self.wide.clear();
        let rows = self.values.chunks_exact_mut(stride).zip(bytes.chunks_exact(width * float.bytes()));
        match float {
            Float::F32 => rows.for_each(|(y, x)| {
                y.iter_mut().zip(x.as_chunks::<4>().0).for_each(|(y, x)| *y = f32::from_le_bytes(*x));
            }),
            Float::Bf16 => rows.for_each(|(y, x)| {
                let wide = |x: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(x)) << 16);
                y.iter_mut().zip(x.as_chunks::<2>().0).for_each(|(y, x)| *y = wide(*x));
            }),
            Float::F16 => {
                let mut halves = vec![f16::ZERO; width];
                rows.for_each(|(y, x)| {
                    halves.iter_mut().zip(x.as_chunks::<2>().0).for_each(|(y, x)| *y = f16::from_le_bytes(*x));
                    halves.convert_to_f32_slice(&mut y[..width]);
                });
            }
            Float::F64 => {
                rows.for_each(|(y, x)| {
                    y.iter_mut().zip(x.as_chunks::<8>().0).for_each(|(y, x)| *y = f64::from_le_bytes(*x) as f32);
                });
                self.keep_wide(bytes.as_chunks::<8>().0.iter().map(|x| f64::from_le_bytes(*x)));
            }
        }
    }
}

/// The padded width.
pub(super) fn stride(width: usize) -> usize {
    width.next_multiple_of(LANES)
}

impl Trace {
    /// Opens the files and finds the float tensors `[T, width]` and `[B, S, width]` whose names match the pattern, in which
    /// `*` stands for anything. Only headers are read.
    ///
    /// # Errors
    /// About the file at fault: it is no safetensors file, nothing in it has the width, or a tensor that the pattern names
    /// has another shape.
    pub fn open(paths: &[PathBuf], pattern: Option<&str>, width: u64) -> Result<Trace, Report> {
        let mut trace = Trace { files: Vec::new(), tensors: Vec::new(), width, skipped: 0 };
        for path in paths {
            let file = tensor_file::open(path).map_err(|why| bad(path, format!("the file cannot be used: {why}")))?;
            let mut found = Vec::new();
            let named = file.tensors.iter().filter(|(name, _)| pattern.is_none_or(|pattern| is_match(pattern, name)));
            for (name, info) in named {
                match recorded(name, info, width, trace.files.len(), file.data) {
                    Some(tensor) => found.push(tensor),
                    None if pattern.is_some_and(|pattern| !pattern.contains('*')) => {
                        let message = format!("tensor {} is {}", quote(name), described(info));
                        let help = format!("expected floats [T, {width}] or [B, S, {width}]");
                        return Err(report(path, Diagnostic::new(Code::BadCheckpoint, message).help(help)));
                    }
                    None => trace.skipped += 1,
                }
            }
            if found.is_empty() {
                return Err(report(path, nothing_found(&file, pattern, width)));
            }
            found.sort_by(|a, b| natural(&a.name).cmp(&natural(&b.name)));
            trace.tensors.extend(found);
            trace.files.push((path.clone(), file));
        }
        Ok(trace)
    }

    /// A tensor `[width]` of one of the files, or one of that many elements, by the first of the names that is there.
    ///
    /// # Errors
    /// It has another number of elements, or cannot be read.
    pub fn vector(&self, names: &[String], width: u64) -> Result<Option<Vec<f32>>, Report> {
        for (at, (path, file)) in self.files.iter().enumerate() {
            let Some((name, info)) = names.iter().find_map(|name| file.tensors.get_key_value(name)) else { continue };
            let elements = info.shape.iter().product::<usize>() as u64;
            let float = Float::of(info.dtype).filter(|_| elements == width);
            let Some(float) = float else {
                let message = format!("tensor {} is {}, expected floats [{width}]", quote(name), described(info));
                return Err(bad(path, message));
            };
            let offset = file.data + info.data_offsets.0 as u64;
            let bytes = (info.data_offsets.1 - info.data_offsets.0) as u64;
            let tensor = Recorded { name: name.clone(), tokens: 1, row_tokens: None, bytes, width, file: at, offset, float };
            let mut rows = Rows::default();
            self.read(&tensor, 0, 1, &mut Vec::new(), &mut rows)?;
            return Ok(Some(rows.values[..width as usize].to_vec()));
        }
        Ok(None)
    }

    /// Bytes of all tensors that count.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// How many files there are.
    pub(super) fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Rows that one read should ask for: what stays in the cache while it is worked on.
    pub(super) fn chunk_rows(&self) -> u64 {
        const CHUNK_BYTES: u64 = 1 << 18;
        (CHUNK_BYTES / (4 * self.width)).max(1)
    }

    /// Reads `count` rows of a tensor from row `first` on; `bytes` is scratch.
    ///
    /// # Errors
    /// The file cannot be read: it may have shrunk since it was opened.
    pub(super) fn read(
        &self,
        tensor: &Recorded,
        first: u64,
        count: u64,
        bytes: &mut Vec<u8>,
        rows: &mut Rows,
    ) -> Result<(), Report> {
        let (path, file) = &self.files[tensor.file];
        let row_bytes = tensor.width * tensor.float.bytes() as u64;
        bytes.resize((count * row_bytes) as usize, 0);
        let mut reader = &file.file;
        let place = SeekFrom::Start(tensor.offset + first * row_bytes);
        reader.seek(place).and_then(|_| reader.read_exact(bytes)).map_err(|error| {
            bad(path, format!("tensor {}: rows from {first} on cannot be read: {error}", quote(&tensor.name)))
        })?;
        rows.width = tensor.width as usize;
        rows.decode(bytes, tensor.float);
        Ok(())
    }
}

fn recorded(name: &str, info: &TensorInfo, width: u64, file: usize, data: u64) -> Option<Recorded> {
    let float = Float::of(info.dtype)?;
    let shape: Vec<u64> = info.shape.iter().map(|n| *n as u64).collect();
    let (tokens, row_tokens) = match shape[..] {
        [tokens, last] if last == width => (tokens, None),
        // A batch of empty rows is an empty batch.
        [rows, row_tokens, last] if last == width => (rows.checked_mul(row_tokens)?, Some(row_tokens)),
        _ => return None,
    };
    let bytes = (info.data_offsets.1 - info.data_offsets.0) as u64;
    let offset = data + info.data_offsets.0 as u64;
    Some(Recorded { name: name.to_string(), tokens, row_tokens, bytes, width, file, offset, float })
}

fn described(info: &TensorInfo) -> String {
    format!("{} {:?}", info.dtype, info.shape)
}

fn nothing_found(file: &TensorFile, pattern: Option<&str>, width: u64) -> Diagnostic {
    const SHOWN: usize = 8;
    let named = pattern.map_or(String::new(), |pattern| format!(" whose name matches {}", quote(pattern)));
    let message = format!("no tensor{named} is [T, {width}] or [B, S, {width}] floats");
    let mut diagnostic = Diagnostic::new(Code::BadCheckpoint, message);
    for (name, info) in file.tensors.iter().take(SHOWN) {
        diagnostic = diagnostic.note(format!("{} is {}", quote(name), described(info)));
    }
    let more = file.tensors.len().saturating_sub(SHOWN);
    if more > 0 { diagnostic.note(format!("and {more} more")) } else { diagnostic }
}

fn bad(path: &Path, message: String) -> Report {
    report(path, Diagnostic::new(Code::BadCheckpoint, message))
}

fn report(path: &Path, diagnostic: Diagnostic) -> Report {
    Report { source: Source { name: path.display().to_string(), text: String::new() }, diagnostics: vec![diagnostic] }
}

/// Whether a name is one that the pattern means; `*` stands for any text, the empty one too.
fn is_match(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(start) else { return false };
    let parts: Vec<&str> = rest.split('*').collect();
    let (last, between) = parts.split_last().unwrap_or((&"", &[]));
    for part in between {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

/// A part of a name, so that `layer.2` comes before `layer.10`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part<'n> {
    /// By its number of digits without leading zeros, then by them: numbers of any length.
    Number(usize, &'n str),
    Text(&'n str),
}

/// A name as its parts; names that differ in leading zeros alone are told apart by the whole.
fn natural(name: &str) -> (Vec<Part<'_>>, &str) {
    let mut parts = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let is_number = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != is_number).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        let digits = part.trim_start_matches('0');
        parts.push(if is_number { Part::Number(digits.len(), digits) } else { Part::Text(part) });
        rest = after;
    }
    (parts, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_natural_order() {
        let mut names = ["layer.10.x", "layer.2.x", "a", "layer.02.x", "layer.2", "10", "9"];
        names.sort_by(|a, b| natural(a).cmp(&natural(b)));
        assert_eq!(names, ["9", "10", "a", "layer.2", "layer.02.x", "layer.2.x", "layer.10.x"]);
    }

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*", "", true),
            ("*gate*", "layers.3.gate.logits", true),
            ("layers.*.gate", "layers.3.gate", true),
            ("layers.*.gate", "layers.3.gate.bias", false),
            ("a*a", "a", false),
            ("a**b", "a.b", true),
        ] {
            assert_eq!(is_match(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn every_float_is_read_exactly() {
        let mut rows = Rows { width: 3, ..Rows::default() };
        let values = [1.5f32, -2.0, f32::INFINITY];
        let check = |rows: &Rows| {
            assert_eq!((rows.count, &rows.row(0)[..3]), (1, &values[..]));
            assert!(rows.row(0)[3..].iter().all(|x| *x == f32::NEG_INFINITY) && rows.wide.is_empty());
        };
        rows.decode(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), Float::F32);
        check(&rows);
        rows.decode(&values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect::<Vec<u8>>(), Float::F16);
        check(&rows);
        rows.decode(&values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect::<Vec<u8>>(), Float::Bf16);
        check(&rows);
        rows.decode(&values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect::<Vec<u8>>(), Float::F64);
        check(&rows);
        let wide = [1.0f64 + 1e-12, 1.0, -1e300];
        rows.decode(&wide.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(), Float::F64);
        assert_eq!((rows.exact(0), rows.row(0)[0]), (wide.to_vec(), 1.0));
    }
}
