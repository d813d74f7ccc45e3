//! The header of a safetensors file.

use std::collections::BTreeMap;
use std::io::Read;

use safetensors::tensor::Metadata;

use super::{Part, Place, Stored, Unusable};

/// Where each tensor lies.
pub(super) fn read(mut file: Part) -> Result<BTreeMap<String, Stored>, Unusable> {
    // As much as the format allows.
    const MOST_BYTES: u64 = 100_000_000;
    let bytes = file.bytes;
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(|_| "not a safetensors file: shorter than its header".to_string())?;
    let length = u64::from_le_bytes(start);
    if length > MOST_BYTES || length > bytes.saturating_sub(8) {
        let why = "not a safetensors file: its header is longer than the file, or than any may be";
        return Err(why.to_string().into());
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| format!("not a safetensors file: {error}"))?;
    let expected = (8 + length).saturating_add(metadata.data_len() as u64);
    if bytes != expected {
        return Err(format!("the file has {bytes} bytes, and its header says {expected}").into());
    }
    let stored = metadata.tensors().into_iter().map(|(name, info)| {
        let (first, last) = info.data_offsets;
        let place = Place::At(8 + length + first as u64);
        let shape = info.shape.iter().map(|n| *n as u64).collect();
        (name, Stored { dtype: info.dtype, shape, bytes: (last - first) as u64, place })
    });
    Ok(stored.collect())
}
