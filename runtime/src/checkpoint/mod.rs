//! Checkpoints: which tensors there are, in which file each lies, and their bytes. One file, an index of several, a folder as
//! published models have it, or bytes in memory. What the tensors mean is not known here: see `weights`.
//!
//! Files are mapped, and of those that an index names only the ones of which a tensor is asked for. So a layer of a large model
//! costs the layer.

mod index;
mod shard;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype as FileDType, TensorView};

use self::shard::Shard;
use crate::error::Error;
use crate::package::DType;
use crate::tensor::{Mapped, Stored, Tensor, convert};

/// Named tensors, in files or in memory.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    shards: Vec<Shard<'a>>,
    /// The shard of each tensor.
    tensors: BTreeMap<String, usize>,
    /// Files of the folder that are none of the shards.
    left_out: Vec<PathBuf>,
}

/// What a header says of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The element type, as safetensors spells it: `BF16`, `F8_E4M3`.
    pub dtype: String,
    /// The shape.
    pub shape: Vec<u64>,
}

/// A conversion that took place, worth telling the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The stored tensor; with `{e}` where each expert has its own.
    pub tensor: String,
    /// Its element type in the file.
    pub from: &'static str,
    /// What it became.
    pub to: DType,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is {}, converted to {}", self.tensor, self.from, self.to.name())
    }
}

impl Checkpoint<'static> {
    /// The tensors of a checkpoint as people have it: a `.safetensors` file, an index of several
    /// (`model.safetensors.index.json`), or a folder with `model.safetensors`, with an index, or with nothing but
    /// `.safetensors` files, of which the first that is there counts.
    ///
    /// Files are mapped, not read: they must not be changed or cut short while the checkpoint is in use, or weights that
    /// [`crate::weights::assemble`] made of it, or a layer on the host that these were bound to. A program that cannot promise
    /// this reads the file itself ([`Checkpoint::read`]). Of the files that an index names none is opened before one of its
    /// tensors is asked for, so those that are not needed may be absent.
    ///
    /// # Errors
    /// [`Error::Read`] where the system refuses a file, [`Error::NotSafetensors`] where it is another format's,
    /// [`Error::Safetensors`] where its header is damaged or the file cut short, [`Error::Index`] where an index cannot be
    /// understood or names a file outside its folder, [`Error::NoTensors`] where a folder has no such file, and
    /// [`Error::TensorTwice`] where two of its files have a tensor of one name.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint<'static>, Error> {
        let path = path.as_ref();
        if path.is_dir() {
            return in_folder(path);
        }
        if path.extension().is_some_and(|extension| extension == "json") || index::is_index(path)? {
            return indexed(path);
        }
        of_files(&[path.to_path_buf()])
    }
}

impl<'a> Checkpoint<'a> {
    /// The tensors in the bytes of a safetensors file.
    ///
    /// # Errors
    /// [`Error::NotSafetensors`], [`Error::Safetensors`] where they are not one.
    pub fn read(bytes: &'a [u8]) -> Result<Checkpoint<'a>, Error> {
        let shard = Shard::of_bytes(bytes)?;
        let tensors = shard.names()?.into_iter().map(|name| (name, 0)).collect();
        Ok(Checkpoint { shards: vec![shard], tensors, left_out: Vec::new() })
    }

    /// The names, in byte order.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    /// The names that start so, in byte order.
    pub fn names_from<'c>(&'c self, start: &'c str) -> impl Iterator<Item = &'c str> {
        let from = self.tensors.range(start.to_string()..).map(|(name, _)| name.as_str());
        from.take_while(move |name| name.starts_with(start))
    }

    /// Whether there is a tensor of this name. Of an index this is what it says: its files are not opened.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// What the header says of a tensor; its data is not read.
    ///
    /// # Errors
    /// [`Error::MissingTensor`]; of an index also [`Error::MissingShard`] where the tensor's file is not there,
    /// [`Error::NotInShard`] where it is and lacks the tensor, and what [`Checkpoint::open`] has of one file.
    pub fn info(&self, name: &str) -> Result<TensorInfo, Error> {
        let view = self.view(name)?.ok_or_else(|| self.missing(name, vec![name.into()]))?;
        Ok(TensorInfo { dtype: view.dtype().to_string(), shape: shape(&view) })
    }

    /// One tensor, in `dtype`: floats become floats, integers and truths `i32`.
    ///
    /// # Errors
    /// As [`Checkpoint::info`], and [`Error::TensorDType`], [`Error::TensorRange`].
    pub fn tensor(&self, name: &str, dtype: DType) -> Result<(Tensor, Option<Note>), Error> {
        let view = self.view(name)?.ok_or_else(|| self.missing(name, vec![name.into()]))?;
        let stored = stored(name, &view, dtype)?;
        check_range(name, view.data(), stored, dtype)?;
        let bytes = convert(view.data(), stored, dtype).into_owned();
        let tensor = Tensor::new(dtype, shape(&view), bytes)?;
        Ok((tensor, note(name, stored, dtype)))
    }

    /// The files that an index names and that are not beside it.
    #[must_use]
    pub fn missing_files(&self) -> Vec<&Path> {
        self.shards.iter().filter(|shard| !shard.is_there()).map(Shard::path).collect()
    }

    /// Of a folder, the `.safetensors` files in it that no tensor is looked for in: those beside `model.safetensors`, and those
    /// that the index does not name.
    #[must_use]
    pub fn left_out(&self) -> &[PathBuf] {
        &self.left_out
    }

    /// The stored tensor; `None` where the checkpoint has none of that name.
    pub(crate) fn view(&self, name: &str) -> Result<Option<TensorView<'_>>, Error> {
        let Some(shard) = self.tensors.get(name).map(|shard| &self.shards[*shard]) else { return Ok(None) };
        if !shard.is_there() {
            let file = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let missing = self.missing_files().into_iter().map(file).collect();
            return Err(Error::MissingShard { tensor: name.into(), file: file(shard.path()), missing });
        }
        match shard.view(name)? {
            Some(view) => Ok(Some(view)),
            None => Err(Error::NotInShard { tensor: name.into(), path: shard.path().into() }),
        }
    }

    /// `length` bytes from where `start` starts, which lie in a mapped file; `None` where they do not.
    pub(crate) fn mapped(&self, start: &[u8], length: usize) -> Option<Mapped> {
        self.shards.iter().find_map(|shard| shard.mapped(start, length))
    }

    /// That none of these names is there, and which are near.
    pub(crate) fn missing(&self, buffer: &str, candidates: Vec<String>) -> Error {
        const SHOWN: usize = 3;
        let mut near: Vec<(usize, &str)> = Vec::new();
        for name in self.tensors.keys() {
            // A name that is shorter or longer by more than the bound is no near one, whatever its letters.
            let most = 2 + name.len() / 3;
            let close = candidates.iter().filter(|candidate| candidate.len().abs_diff(name.len()) <= most);
            let nearest = close.map(|candidate| strsim::levenshtein(candidate, name)).min();
            near.extend(nearest.filter(|distance| *distance <= most).map(|distance| (distance, name.as_str())));
        }
        near.sort_unstable();
        let near_matches = near.into_iter().take(SHOWN).map(|(_, name)| name.to_owned()).collect();
        Error::MissingTensor { buffer: buffer.into(), candidates, near_matches }
    }
}

fn shape(view: &TensorView<'_>) -> Vec<u64> {
    view.shape().iter().map(|n| *n as u64).collect()
}

/// Whole files. Each is opened, for its names are in it.
fn of_files(paths: &[PathBuf]) -> Result<Checkpoint<'static>, Error> {
    let mut tensors: BTreeMap<String, usize> = BTreeMap::new();
    let mut shards = Vec::new();
    for (at, path) in paths.iter().enumerate() {
        let shard = Shard::of_file(path.clone());
        for name in shard.names()? {
            if let Some(first) = tensors.insert(name.clone(), at) {
                return Err(Error::TensorTwice { tensor: name, first: paths[first].clone(), second: path.clone() });
            }
        }
        shards.push(shard);
    }
    Ok(Checkpoint { shards, tensors, left_out: Vec::new() })
}

/// The files that an index names, which lie beside it.
fn indexed(path: &Path) -> Result<Checkpoint<'static>, Error> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files: BTreeMap<String, usize> = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    let mut shards = Vec::new();
    for (name, file) in index::read(path)? {
        let shard = *files.entry(file).or_insert_with_key(|file| {
            shards.push(Shard::of_file(folder.join(file)));
            shards.len() - 1
        });
        tensors.insert(name, shard);
    }
    Ok(Checkpoint { shards, tensors, left_out: Vec::new() })
}

/// The checkpoint in a folder of a published model.
fn in_folder(folder: &Path) -> Result<Checkpoint<'static>, Error> {
    const WHOLE: &str = "model.safetensors";
    const INDEX: &str = ".safetensors.index.json";
    let refused = |error: std::io::Error| Error::Read { path: folder.into(), why: error.to_string() };
    let names = fs::read_dir(folder).map_err(refused)?.map(|entry| Ok(PathBuf::from(entry.map_err(refused)?.file_name())));
    let mut names: Vec<PathBuf> = names.collect::<Result<_, _>>()?;
    names.sort();
    let ending = |end: &str| -> Vec<PathBuf> {
        let ends = |name: &&PathBuf| name.as_os_str().as_encoded_bytes().ends_with(end.as_bytes());
        names.iter().filter(ends).map(|name| folder.join(name)).collect()
    };
    let files = ending(".safetensors");
    let beside = |checkpoint: Checkpoint<'static>| {
        let is_beside = |file: &&PathBuf| checkpoint.shards.iter().all(|shard| shard.path() != *file);
        Checkpoint { left_out: files.iter().filter(is_beside).cloned().collect(), ..checkpoint }
    };
    if names.iter().any(|name| name == Path::new(WHOLE)) {
        return Checkpoint::open(folder.join(WHOLE)).map(beside);
    }
    match (&ending(INDEX)[..], &files[..]) {
        ([index], _) => indexed(index).map(beside),
        ([_, _, ..], _) if names.iter().any(|name| name == &PathBuf::from(format!("model{INDEX}"))) => {
            indexed(&folder.join(format!("model{INDEX}"))).map(beside)
        }
        (indices @ [_, _, ..], _) => {
            let found = indices.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
            Err(Error::ManyIndices { path: folder.into(), found: found.collect() })
        }
        ([], []) => {
            let weights = |name: &&PathBuf| {
                let known = ["bin", "pt", "pth", "gguf", "ckpt", "npz", "npy", "h5", "msgpack", "pkl"];
                let extension = name.extension().and_then(|extension| extension.to_str());
                extension.is_some_and(|extension| known.contains(&extension)) || *name == Path::new("snapshots")
            };
            let found = names.iter().filter(weights).map(|name| name.to_string_lossy().into_owned()).collect();
            Err(Error::NoTensors { path: folder.into(), found })
        }
        ([], files) => of_files(files),
    }
}

/// What the tensor's elements are, where they can become `dtype`: floats become floats, integers integers.
pub(crate) fn stored(name: &str, view: &TensorView<'_>, dtype: DType) -> Result<Stored, Error> {
    let stored = match view.dtype() {
        FileDType::F64 => Some(Stored::F64),
        FileDType::F32 => Some(Stored::F32),
        FileDType::F16 => Some(Stored::F16),
        FileDType::BF16 => Some(Stored::Bf16),
        FileDType::I64 => Some(Stored::I64),
        FileDType::I32 => Some(Stored::I32),
        FileDType::I16 => Some(Stored::I16),
        FileDType::I8 => Some(Stored::I8),
        FileDType::U64 => Some(Stored::U64),
        FileDType::U32 => Some(Stored::U32),
        FileDType::U16 => Some(Stored::U16),
        FileDType::U8 => Some(Stored::U8),
        FileDType::BOOL => Some(Stored::Bool),
        // Quantised and complex ones, and what later versions of the format add.
        _ => None,
    };
    stored.filter(|stored| stored.is_integer() == (dtype == DType::I32)).ok_or_else(|| Error::TensorDType {
        tensor: name.into(),
        actual: view.dtype().to_string(),
        expected: dtype,
    })
}

/// Integers are not rounded: one that does not fit is a mistake.
pub(crate) fn check_range(name: &str, bytes: &[u8], stored: Stored, to: DType) -> Result<(), Error> {
    let outside = if to == DType::I32 { stored.first_outside_i32(bytes) } else { None };
    match outside {
        Some(value) => Err(Error::TensorRange { tensor: name.into(), value }),
        None => Ok(()),
    }
}

pub(crate) fn note(name: &str, stored: Stored, to: DType) -> Option<Note> {
    (stored != Stored::of(to)).then(|| Note { tensor: name.into(), from: stored.name(), to })
}
