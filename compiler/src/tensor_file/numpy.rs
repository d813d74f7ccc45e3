//! numpy's `.npy` files, and `.npz` archives of them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use moec_runtime::Format;
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};
use safetensors::tensor::Dtype;
use zip::ZipArchive;

use super::{Part, Place, Stored, Unusable};
use crate::diagnostics::quote;

/// The one array of a `.npy` file.
pub(super) fn npy(mut file: Part) -> Result<Stored, Unusable> {
    let bytes = file.bytes;
    let stored = header(&mut file, bytes)?;
    Ok(Stored { place: Place::At(bytes - stored.bytes), ..stored })
}

/// The arrays of a `.npz` file by their names without `.npy`.
pub(super) fn npz(file: Part, path: &Path) -> Result<(ZipArchive<Part>, BTreeMap<String, Stored>), Unusable> {
    let wrong = |error: zip::result::ZipError| format!("the zip archive is damaged: {error}");
    let mut archive = ZipArchive::new(file).map_err(wrong)?;
    if archive.file_names().any(|name| name.is_ok_and(|name| name.ends_with("data.pkl"))) {
        return Err(pickled(path, Format::Torch.name()));
    }
    let mut tensors = BTreeMap::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(wrong)?;
        let name = entry.name().map_err(wrong)?.into_owned();
        let Some(name) = name.strip_suffix(".npy").map(str::to_string) else { continue };
        let bytes = entry.size();
        let stored = header(&mut entry, bytes).map_err(|error| {
            let why = format!("array {}: {}", quote(&name), error.why);
            Unusable { why, ..error }
        })?;
        let place = Place::Entry { index, header: bytes - stored.bytes };
        tensors.insert(name, Stored { place, ..stored });
    }
    match tensors.is_empty() {
        true => Err("the zip archive has no .npy arrays".to_string().into()),
        false => Ok((archive, tensors)),
    }
}

/// A pickle is a program: it is not executed here.
pub(super) fn pickled(path: &Path, what: &str) -> Unusable {
    let name = path.file_name().map_or("logits.pt".into(), |name| name.to_string_lossy());
    let to = Path::new(&*name).with_extension("safetensors");
    let help = format!(
        "three lines of Python convert it:\n  \
         import torch; from safetensors.torch import save_file; x = torch.load({name:?}, map_location=\"cpu\")\n  \
         x = x.items() if isinstance(x, dict) else enumerate([x] if torch.is_tensor(x) else x)\n  \
         save_file({{f\"layer.{{n}}\": t.clone().contiguous() for n, t in x if torch.is_tensor(t)}}, {:?})",
        to.display().to_string(),
    );
    Unusable { why: format!("it is {what}, which only Python can read"), help: Some(help) }
}

/// The header of an array that is all of `bytes` bytes, and leaves `reader` behind it. Its place is not known yet.
fn header(reader: &mut dyn Read, bytes: u64) -> Result<Stored, Unusable> {
    // As many as numpy itself reads without being asked twice.
    const MOST_BYTES: usize = 10_000;
    let damaged = |why: &str| Unusable::from(format!("not a .npy file: {why}"));
    let mut text = vec![0; 10];
    reader.read_exact(&mut text).map_err(|_| damaged("shorter than its header"))?;
    // Version 1 has a length of two bytes, later ones of four.
    if text[6] > 1 {
        text.resize(12, 0);
        reader.read_exact(&mut text[10..]).map_err(|_| damaged("shorter than its header"))?;
    }
    let length = text[8..].iter().rev().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
    if length > MOST_BYTES || (text.len() + length) as u64 > bytes {
        return Err(damaged("its header is longer than the file, or than any may be"));
    }
    let start = text.len();
    text.resize(start + length, 0);
    reader.read_exact(&mut text[start..]).map_err(|_| damaged("shorter than its header"))?;
    if !is_simple(&text[start..]) {
        return Err(damaged("its header is no description of an array"));
    }
    let header = NpyHeader::from_reader(&text[..]).map_err(|error: io::Error| damaged(&error.to_string()))?;
    let dtype = dtype(&header.dtype())?;
    if header.order() == Order::Fortran && header.shape().len() > 1 {
        let help = "`numpy.save(path, numpy.ascontiguousarray(x))` writes it row by row";
        return Err(Unusable { why: "the array is stored column by column".to_string(), help: Some(help.to_string()) });
    }
    let expected = header.shape().iter().try_fold(dtype.bitsize() as u64 / 8, |bytes, n| bytes.checked_mul(*n));
    match expected.map(|expected| (expected, expected.checked_add(text.len() as u64))) {
        Some((expected, Some(all))) if all == bytes => {
            Ok(Stored { dtype, shape: header.shape().to_vec(), bytes: expected, place: Place::At(0) })
        }
        _ => Err(format!("the file has {bytes} bytes, and its header says another number: {:?}", header.shape()).into()),
    }
}

/// Whether the text is one that a parser of Python's literals can be given: without depth, and with a shape that can be
/// multiplied out.
fn is_simple(text: &[u8]) -> bool {
    const MOST_BRACKETS: usize = 32;
    let mut product = Some(1u64);
    for digits in text.split(|byte| !byte.is_ascii_digit()).filter(|digits| !digits.is_empty()) {
        let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok());
        product = product.and_then(|product| product.checked_mul(number?.max(1)));
    }
    product.is_some() && text.iter().filter(|byte| matches!(byte, b'(' | b'[' | b'{')).count() <= MOST_BRACKETS
}

/// The element type by its name in safetensors.
fn dtype(dtype: &DType) -> Result<Dtype, Unusable> {
    let refused = |help: &str| {
        let why = format!("its elements are {}, which is not supported", dtype.descr());
        Err(Unusable { why, help: Some(help.to_string()) })
    };
    let DType::Plain(plain) = dtype else { return refused("save the fields as arrays of their own") };
    if plain.endianness() == Endianness::Big {
        return refused("`x.astype(x.dtype.newbyteorder(\"<\"))` makes it little-endian");
    }
    match (plain.type_char(), plain.size_field()) {
        (TypeChar::Float, 8) => Ok(Dtype::F64),
        (TypeChar::Float, 4) => Ok(Dtype::F32),
        (TypeChar::Float, 2) => Ok(Dtype::F16),
        (TypeChar::Bool, 1) => Ok(Dtype::BOOL),
        (TypeChar::Int, 1) => Ok(Dtype::I8),
        (TypeChar::Int, 2) => Ok(Dtype::I16),
        (TypeChar::Int, 4) => Ok(Dtype::I32),
        (TypeChar::Int, 8) => Ok(Dtype::I64),
        (TypeChar::Uint, 1) => Ok(Dtype::U8),
        (TypeChar::Uint, 2) => Ok(Dtype::U16),
        (TypeChar::Uint, 4) => Ok(Dtype::U32),
        (TypeChar::Uint, 8) => Ok(Dtype::U64),
        _ => refused("`x.astype(\"float32\")` is exact for bfloat16 and float16"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(header: &str, bytes: usize) -> Vec<u8> {
        let mut file = b"\x93NUMPY".to_vec();
        file.extend([1, 0]);
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.bytes());
        file.extend(vec![0; bytes]);
        file
    }

    fn read(header: &str, bytes: usize) -> Result<Stored, Unusable> {
        let file = array(header, bytes);
        super::header(&mut &file[..], file.len() as u64)
    }

    /// The headers are as numpy 2 writes them.
    #[test]
    fn headers_of_numpy() {
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }                         \n";
        let stored = read(text, 48).unwrap();
        assert_eq!((stored.dtype, &stored.shape[..], stored.bytes), (Dtype::F32, &[3, 4][..], 48));
        assert_eq!(read(&text.replace("<f4", "|b1"), 12).unwrap().dtype, Dtype::BOOL);
        assert_eq!(read(&text.replace("<f4", "<f2"), 24).unwrap().dtype, Dtype::F16);
        assert_eq!(read(&text.replace("(3, 4)", "()"), 4).unwrap().shape, [0u64; 0]);
        assert_eq!(read(&text.replace("(3, 4)", "(0, 4)"), 0).unwrap().bytes, 0);
    }

    #[test]
    fn headers_that_are_refused() {
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }";
        for (text, said) in [
            (text.replace("False", "True"), "column by column"),
            (text.replace("<f4", ">f4"), "not supported"),
            (text.replace("<f4", "<V2"), "not supported"),
            (text.replace("<f4", "|O"), "not supported"),
            (text.replace("(3, 4)", "(3, 5)"), "another number"),
            (text.replace("(3, 4)", "(4294967296, 4294967296, 16)"), "no description"),
            (text.replace("(3, 4)", "(9223372036854775808, 1)"), "no description"),
            ("(".repeat(9000), "no description"),
            ("{".to_string(), "not a .npy file"),
            (String::new(), "not a .npy file"),
        ] {
            let error = read(&text, 48).unwrap_err();
            assert!(error.why.contains(said), "{text:.80}: {error:?}");
        }
    }
}
