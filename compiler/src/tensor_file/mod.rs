//! Files of tensors by their headers: where each tensor lies, and its bytes from first to last. Nothing is allocated by what
//! a header claims before it was held against the length of the file.
//!
//! Safetensors, numpy's `.npy` and `.npz`. Which of them a file is, its first bytes say and not its name.

mod numpy;
mod safetensors_header;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use moec_runtime::Format;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};
use zip::ZipArchive;

/// An open file and what its headers say.
#[derive(Debug)]
pub(crate) struct TensorFile {
    file: Arc<File>,
    archive: Option<ZipArchive<Part>>,
    pub(crate) tensors: BTreeMap<String, Stored>,
}

/// A tensor in a file, row-major and little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    /// As many as the shape and the type say.
    pub(crate) bytes: u64,
    place: Place,
}

/// Where the bytes of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// From this byte of the file on.
    At(u64),
    /// In an entry of a zip archive, behind a header of so many bytes.
    Entry { index: usize, header: u64 },
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unusable {
    pub(crate) why: String,
    /// What to do next, where there is something.
    pub(crate) help: Option<String>,
}

impl From<String> for Unusable {
    fn from(why: String) -> Unusable {
        Unusable { why, help: None }
    }
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Unusable {
        error.to_string().into()
    }
}

/// Reads the headers.
pub(crate) fn open(path: &Path) -> Result<TensorFile, Unusable> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let file = Arc::new(file);
    let whole = Part { file: Arc::clone(&file), at: 0, bytes };
    let (archive, tensors) = match Format::of_file(path) {
        Some(Format::Safetensors) | None => (None, safetensors_header::read(whole)?),
        Some(Format::Npy) => {
            let stored = numpy::npy(whole)?;
            let name = path.file_stem().map_or("array".to_string(), |stem| stem.to_string_lossy().into_owned());
            (None, BTreeMap::from([(name, stored)]))
        }
        Some(Format::Npz | Format::Zip) => {
            let (archive, tensors) = numpy::npz(whole, path)?;
            (Some(archive), tensors)
        }
        Some(format @ (Format::Torch | Format::Pickle)) => return Err(numpy::pickled(path, format.name())),
        Some(
            format @ (Format::Package
            | Format::Gguf
            | Format::Hdf5
            | Format::Parquet
            | Format::Gzip
            | Format::LfsPointer
            | Format::Html),
        ) => return Err(format!("it is {}, not a safetensors, .npy or .npz file", format.name()).into()),
    };
    Ok(TensorFile { file, archive, tensors })
}

impl TensorFile {
    /// Gives a reader of the tensor's bytes to `take`.
    pub(crate) fn read<R>(&self, tensor: &Stored, take: impl FnOnce(&mut dyn Read) -> R) -> io::Result<R> {
        match tensor.place {
            Place::At(at) => Ok(take(&mut Part { file: Arc::clone(&self.file), at, bytes: at + tensor.bytes })),
            Place::Entry { index, header } => {
                let archive = self.archive.clone().ok_or_else(|| io::Error::other("the archive is not open"))?;
                let mut archive = archive;
                let mut entry = archive.by_index(index)?;
                io::copy(&mut (&mut entry).take(header), &mut io::sink())?;
                Ok(take(&mut entry))
            }
        }
    }

    /// A small tensor whole.
    pub(crate) fn bytes(&self, tensor: &Stored) -> io::Result<Vec<u8>> {
        self.read(tensor, |reader| {
            let mut bytes = Vec::new();
            reader.take(tensor.bytes).read_to_end(&mut bytes)?;
            if bytes.len() as u64 == tensor.bytes { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        })?
    }
}

/// A safetensors file of nothing but these tensors of another file; names that it does not have are left out.
pub(crate) fn extract(path: &Path, names: &[String]) -> Result<Vec<u8>, Unusable> {
    let file = open(path)?;
    let mut found: Vec<(&String, Vec<usize>, Dtype, Vec<u8>)> = Vec::new();
    for name in names {
        let Some((name, stored)) = file.tensors.get_key_value(name) else { continue };
        let shape = stored.shape.iter().map(|n| *n as usize).collect();
        found.push((name, shape, stored.dtype, file.bytes(stored)?));
    }
    let views = found.iter().map(|(name, shape, dtype, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)));
    let views: Result<BTreeMap<_, _>, SafeTensorError> = views.collect();
    let file = views.and_then(|views| safetensors::serialize(views, None));
    file.map_err(|error| error.to_string().into())
}

/// Bytes `at..bytes` of a file, with a place of its own: several may read one file.
#[derive(Clone, Debug)]
struct Part {
    file: Arc<File>,
    at: u64,
    bytes: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.saturating_sub(self.at);
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(self.at))?;
        let read = file.read(&mut buffer[..most])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Part {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
