//! What a checkpoint says of its tensors before any data is read: names, element types and shapes. A `.safetensors` file has
//! them; an index has names, and the rest stands in the files that it names, where they lie beside it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use moec_runtime::Format;
use safetensors::Dtype;

use crate::diagnostics::{Code, Diagnostic, quote};
use crate::tensor_file;

/// The names in a checkpoint, and the rest as far as it is known.
#[derive(Clone, Debug)]
pub struct Header {
    /// The folder of the files that an index names.
    folder: PathBuf,
    pub(super) tensors: BTreeMap<String, Known>,
}

#[derive(Clone, Debug)]
pub(super) enum Known {
    Tensor(Held),
    /// The file that has it.
    In(String),
}

/// A tensor as its file's header has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
}

/// What the files beside an index add to it.
#[derive(Debug, Default)]
pub(super) struct Shards {
    /// By tensor.
    pub(super) held: BTreeMap<String, Held>,
    /// The files that are not there, and how many of the tensors they have.
    pub(super) absent: BTreeMap<String, usize>,
}

/// Reads the header of a `.safetensors` file or of a `.safetensors.index.json`; nothing else of them. Of a folder, its index
/// or its one file is read.
///
/// # Errors
/// [`Code::BadCheckpoint`] where it is none of these.
pub fn read_header(path: &Path) -> Result<Header, Diagnostic> {
    let failed = |path: &Path, why: String| {
        Diagnostic::new(Code::BadCheckpoint, format!("cannot use {}: {why}", quote(&path.display().to_string())))
    };
    let path = match path.is_dir() {
        true => &in_folder(path).map_err(|why| failed(path, why))?,
        false => path,
    };
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let is_index = path.extension().is_some_and(|extension| extension == "json");
    let tensors = if is_index { index(path) } else { tensors_of(path) };
    Ok(Header { folder, tensors: tensors.map_err(|why| failed(path, why))? })
}

/// The checkpoint in a folder: the index, or the one `.safetensors` file.
fn in_folder(folder: &Path) -> Result<PathBuf, String> {
    const MOST_FILES: usize = 65_536;
    let entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
    let mut files: Vec<PathBuf> = entries.take(MOST_FILES).filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let ends_in = |end: &'static str| {
        let has = move |path: &&PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(end.as_bytes()));
        files.iter().filter(has).collect::<Vec<_>>()
    };
    match (ends_in(".safetensors.index.json").as_slice(), ends_in(".safetensors").as_slice()) {
        ([one], _) | ([], [one]) => Ok((*one).clone()),
        ([], []) => Err("a folder without a .safetensors file or its index".to_string()),
        ([], many) => Err(format!("a folder of {} .safetensors files without their index", many.len())),
        (many, _) => Err(format!("a folder of {} indices: name one of them", many.len())),
    }
}

/// `{"weight_map": {"name": "file"}}`.
fn index(path: &Path) -> Result<BTreeMap<String, Known>, String> {
    const MOST_BYTES: u64 = 64 << 20;
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err("an index of more than 64 MiB".to_string());
    }
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let index: Index = serde_json::from_slice(text).map_err(|error| format!("not an index of safetensors files: {error}"))?;
    Ok(index.weight_map.into_iter().map(|(name, file)| (name, Known::In(file))).collect())
}

fn tensors_of(path: &Path) -> Result<BTreeMap<String, Known>, String> {
    // Traces are read from files of numpy too, weights are not.
    if let Some(other) = Format::of_file(path).filter(|format| *format != Format::Safetensors) {
        return Err(format!("it is {}; {}", other.name(), other.to_tensors()));
    }
    let file = tensor_file::open(path).map_err(|error| error.why)?;
    let known = |stored: tensor_file::Stored| Known::Tensor(Held { dtype: stored.dtype, shape: stored.shape });
    Ok(file.tensors.into_iter().map(|(name, stored)| (name, known(stored))).collect())
}

impl Header {
    /// Types and shapes of these tensors, out of the files that have them. A name that the index places in a file that does
    /// not have it, and a damaged file, are in `wrong`.
    pub(super) fn look_up<'a>(&self, names: impl Iterator<Item = &'a str>, wrong: &mut Vec<Diagnostic>) -> Shards {
        let mut files: BTreeMap<&str, Option<BTreeMap<String, Known>>> = BTreeMap::new();
        let mut found = Shards::default();
        for name in names {
            let file = match self.tensors.get(name) {
                Some(Known::Tensor(held)) => {
                    found.held.insert(name.to_string(), held.clone());
                    continue;
                }
                Some(Known::In(file)) => file,
                None => continue,
            };
            if !self.is_beside(file) {
                *found.absent.entry(file.clone()).or_default() += 1;
                continue;
            }
            match files.entry(file).or_insert_with(|| self.read_shard(file, wrong)).as_ref().map(|shard| shard.get(name)) {
                Some(Some(Known::Tensor(held))) => drop(found.held.insert(name.to_string(), held.clone())),
                Some(Some(Known::In(_)) | None) => {
                    let message = format!("the index says that {} is in {}, and it is not", quote(name), quote(file));
                    wrong.push(Diagnostic::new(Code::TensorMissing, message));
                }
                None => {}
            }
        }
        found
    }

    /// Whether the file lies beside the index. A name that leaves the folder is not followed.
    fn is_beside(&self, file: &str) -> bool {
        let is_plain = !file.is_empty() && Path::new(file).file_name().is_some_and(|name| name == file);
        is_plain && self.folder.join(file).is_file()
    }

    fn read_shard(&self, file: &str, wrong: &mut Vec<Diagnostic>) -> Option<BTreeMap<String, Known>> {
        let path = self.folder.join(file);
        match tensors_of(&path) {
            Ok(tensors) => Some(tensors),
            Err(why) => {
                let name = quote(&path.display().to_string());
                wrong.push(Diagnostic::new(Code::BadCheckpoint, format!("cannot use {name}: {why}")));
                None
            }
        }
    }
}
