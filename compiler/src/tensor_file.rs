//! A safetensors file by its header: where each tensor lies. Nothing is allocated by what the header claims before it was
//! held against the length of the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::tensor::{Metadata, SafeTensorError, TensorInfo, TensorView};

/// An open file and what its header says.
#[derive(Debug)]
pub(crate) struct TensorFile {
    pub(crate) file: File,
    /// Where the data begins: offsets of tensors count from here.
    pub(crate) data: u64,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
}

/// Reads the header.
pub(crate) fn open(path: &Path) -> Result<TensorFile, String> {
    // As much as the format allows.
    const MOST_BYTES: u64 = 100_000_000;
    let text = |error: io::Error| error.to_string();
    let mut file = File::open(path).map_err(text)?;
    let bytes = file.metadata().map_err(text)?.len();
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(|_| "not a safetensors file: shorter than its header".to_string())?;
    let length = u64::from_le_bytes(start);
    if length > MOST_BYTES || length > bytes.saturating_sub(8) {
        return Err("not a safetensors file: its header is longer than the file, or than any may be".to_string());
    }
    let mut header = Vec::new();
    (&mut file).take(length).read_to_end(&mut header).map_err(text)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| format!("not a safetensors file: {error}"))?;
    let expected = (8 + length).saturating_add(metadata.data_len() as u64);
    if bytes != expected {
        return Err(format!("the file has {bytes} bytes, and its header speaks of {expected}"));
    }
    let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
    Ok(TensorFile { file, data: 8 + length, tensors })
}

/// A file of nothing but these tensors of another one; names that it does not have are left out.
pub(crate) fn extract(path: &Path, names: &[String]) -> Result<Vec<u8>, String> {
    let TensorFile { mut file, data, tensors } = open(path)?;
    let mut found: Vec<(&String, TensorInfo, Vec<u8>)> = Vec::new();
    for name in names {
        let Some((name, info)) = tensors.get_key_value(name) else { continue };
        let (first, last) = info.data_offsets;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(data + first as u64)).map_err(|error| error.to_string())?;
        (&mut file).take((last - first) as u64).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        found.push((name, info.clone(), bytes));
    }
    let views = found.iter().map(|(name, info, bytes)| Ok((name, TensorView::new(info.dtype, info.shape.clone(), bytes)?)));
    let views: Result<BTreeMap<_, _>, SafeTensorError> = views.collect();
    views.and_then(|views| safetensors::serialize(views, None)).map_err(|error| error.to_string())
}
