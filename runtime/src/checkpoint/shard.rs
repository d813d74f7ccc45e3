//! One safetensors file: mapped when it is first needed, its header held against its length. No data is read here.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;
use safetensors::tensor::{Metadata, SafeTensorError, SafeTensors, TensorView};

use crate::error::Error;
use crate::format::Format;
use crate::tensor::Mapped;

/// A file, or bytes that the caller has.
#[derive(Debug)]
pub(super) struct Shard<'a> {
    /// Empty where there is no file.
    path: PathBuf,
    opened: OnceLock<Result<Opened<'a>, Error>>,
}

#[derive(Debug)]
struct Opened<'a> {
    bytes: Bytes<'a>,
    /// Where the tensors begin, which offsets count from.
    data: usize,
    metadata: Metadata,
}

#[derive(Debug)]
enum Bytes<'a> {
    Given(&'a [u8]),
    Mapped(Arc<Mmap>),
    /// Of what cannot be mapped: a pipe.
    Read(Vec<u8>),
}

impl Bytes<'_> {
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Given(bytes) => bytes,
            Bytes::Mapped(map) => map,
            Bytes::Read(bytes) => bytes,
        }
    }
}

impl<'a> Shard<'a> {
    /// Not opened yet.
    pub(super) fn of_file(path: PathBuf) -> Shard<'a> {
        Shard { path, opened: OnceLock::new() }
    }

    pub(super) fn of_bytes(bytes: &'a [u8]) -> Result<Shard<'a>, Error> {
        let opened = Opened::of(Bytes::Given(bytes), Path::new(""))?;
        Ok(Shard { path: PathBuf::new(), opened: OnceLock::from(Ok(opened)) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is anything to open.
    pub(super) fn is_there(&self) -> bool {
        self.opened.get().is_some() || self.path.exists()
    }

    pub(super) fn names(&self) -> Result<Vec<String>, Error> {
        Ok(self.opened()?.metadata.offset_keys())
    }

    pub(super) fn view(&self, name: &str) -> Result<Option<TensorView<'_>>, Error> {
        let Opened { bytes, data, metadata } = self.opened()?;
        let Some(info) = metadata.info(name) else { return Ok(None) };
        let (first, last) = info.data_offsets;
        let view = TensorView::new(info.dtype, info.shape.clone(), &bytes.get()[data + first..data + last]);
        view.map(Some).map_err(|error| Error::Safetensors { path: self.path.clone(), why: error.to_string() })
    }

    /// `length` bytes from where `start` starts, if this file is mapped and has them.
    pub(super) fn mapped(&self, start: &[u8], length: usize) -> Option<Mapped> {
        let Some(Ok(Opened { bytes: Bytes::Mapped(map), .. })) = self.opened.get() else { return None };
        let first = start.as_ptr().addr().checked_sub(map.as_ptr().addr())?;
        Mapped::of(map, first..first.checked_add(length)?)
    }

    fn opened(&self) -> Result<&Opened<'a>, Error> {
        let opened = self.opened.get_or_init(|| Opened::of(map(&self.path)?, &self.path));
        opened.as_ref().map_err(Clone::clone)
    }
}

impl<'a> Opened<'a> {
    fn of(bytes: Bytes<'a>, path: &Path) -> Result<Opened<'a>, Error> {
        match SafeTensors::read_metadata(bytes.get()) {
            Ok((header, metadata)) => Ok(Opened { data: size_of::<u64>() + header, metadata, bytes }),
            Err(error) => Err(match Format::of(bytes.get()) {
                Some(found) if found != Format::Safetensors => Error::NotSafetensors { path: path.into(), found },
                Some(_) | None => Error::Safetensors { path: path.into(), why: why(bytes.get(), &error) },
            }),
        }
    }
}

/// What is wrong, with the lengths where it is a length.
fn why(bytes: &[u8], error: &SafeTensorError) -> String {
    let length = bytes.len();
    let header = bytes.first_chunk::<8>().map_or(0, |header| u64::from_le_bytes(*header));
    match error {
        SafeTensorError::HeaderTooSmall => format!("it has {length} bytes, fewer than any header"),
        SafeTensorError::InvalidHeaderLength => {
            format!("its header has {header} bytes, and the file {length}: it is cut short, or another format's")
        }
        SafeTensorError::HeaderTooLarge => "it does not start as one: the length of its header is none".to_string(),
        SafeTensorError::MetadataIncompleteBuffer => {
            let text = usize::try_from(header).ok().and_then(|header| bytes.get(8..8 + header)).unwrap_or_default();
            let told = serde_json::from_slice(text).map_or(0, |metadata: Metadata| metadata.data_len() as u64);
            let told = 8u64.saturating_add(header).saturating_add(told);
            format!("the file has {length} bytes, and its header says {told}: it is cut short, or more was put behind it")
        }
        error => error.to_string(),
    }
}

/// The bytes of a file, in memory as far as they are looked at.
#[allow(unsafe_code, reason = "a map shares its bytes with every process that may write the file")]
fn map(path: &Path) -> Result<Bytes<'static>, Error> {
    let refused = |error: std::io::Error| Error::Read { path: path.into(), why: error.to_string() };
    let mut file = File::open(path).map_err(refused)?;
    if !fs::metadata(path).map_err(refused)?.is_file() {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(refused)?;
        return Ok(Bytes::Read(bytes));
    }
    // SAFETY: the file must not be changed while it is mapped, which `Checkpoint::open` requires of its caller. Numbers are
    // taken from the bytes and nothing else: no reference, no length and no offset is read from them after the header,
    // which is copied.
    unsafe { Mmap::map(&file) }.map(Arc::new).map(Bytes::Mapped).map_err(refused)
}
