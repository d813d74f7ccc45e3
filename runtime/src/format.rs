//! What a file is by its first bytes, so that one given in another's place is called by its name. Nothing is parsed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A kind of file that its first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A package that `moec compile` wrote.
    Package,
    /// Tensors: a length, then a header in JSON.
    Safetensors,
    /// llama.cpp's file, and what it had before.
    Gguf,
    /// `torch.save` since PyTorch 1.6: a zip with a pickle in it.
    Torch,
    /// A Python pickle, as `torch.save` wrote before.
    Pickle,
    /// One array of numpy.
    Npy,
    /// Arrays of numpy, in a zip.
    Npz,
    /// Any other zip.
    Zip,
    /// HDF5, as Keras writes it.
    Hdf5,
    /// Columns of a table, as data sets have them.
    Parquet,
    /// Packed by gzip.
    Gzip,
    /// What Git LFS leaves in the place of a file that was not fetched.
    LfsPointer,
    /// A web page, as a download that failed leaves it.
    Html,
}

/// As many bytes of a file as [`Format::of`] looks at.
pub const FORMAT_BYTES: usize = 512;

impl Format {
    /// The format of a file that starts so; `None` where nothing here tells it, as with text.
    #[must_use]
    pub fn of(start: &[u8]) -> Option<Format> {
        let starts = |magics: &[&[u8]]| magics.iter().any(|magic| start.starts_with(magic));
        let text = start.trim_ascii_start();
        let is_tag = |tag: &str| text.get(..tag.len()).is_some_and(|found| found.eq_ignore_ascii_case(tag.as_bytes()));
        Some(match () {
            // First, since the length that it starts with may be any bytes.
            () if is_safetensors(start) => Format::Safetensors,
            () if starts(&[b"moec.pkg"]) => Format::Package,
            () if starts(&[b"GGUF", b"FUGG", b"lmgg", b"fmgg", b"tjgg"]) => Format::Gguf,
            () if starts(&[b"PK\x03\x04", b"PK\x05\x06"]) => zip(start),
            // Protocols 2 to 5.
            () if start.len() > 1 && start[0] == 0x80 && (2..=5).contains(&start[1]) => Format::Pickle,
            () if starts(&[b"\x93NUMPY"]) => Format::Npy,
            () if starts(&[b"\x89HDF\r\n\x1a\n"]) => Format::Hdf5,
            () if starts(&[b"PAR1"]) => Format::Parquet,
            () if starts(&[b"\x1f\x8b"]) => Format::Gzip,
            () if starts(&[b"version https://git-lfs.github.com/"]) => Format::LfsPointer,
            () if is_tag("<!doctype html") || is_tag("<html") => Format::Html,
            () => return None,
        })
    }

    /// The format of the file at `path`; `None` also where it cannot be read, which is left to those that need it.
    #[must_use]
    pub fn of_file(path: &Path) -> Option<Format> {
        let mut start = Vec::new();
        File::open(path).and_then(|file| file.take(FORMAT_BYTES as u64).read_to_end(&mut start)).ok()?;
        Format::of(&start)
    }

    /// What it is called: `a GGUF file`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Package => "a moec package",
            Format::Safetensors => "a safetensors file",
            Format::Gguf => "a GGUF file",
            Format::Torch => "a file of `torch.save`",
            Format::Pickle => "a Python pickle",
            Format::Npy => "an array of numpy (.npy)",
            Format::Npz => "arrays of numpy (.npz)",
            Format::Zip => "a zip archive",
            Format::Hdf5 => "an HDF5 file",
            Format::Parquet => "a Parquet file",
            Format::Gzip => "packed by gzip",
            Format::LfsPointer => "a pointer of Git LFS in the place of the file",
            Format::Html => "a web page",
        }
    }

    /// What to do where tensors were wanted.
    #[must_use]
    pub fn to_tensors(self) -> &'static str {
        match self {
            Format::Package => "a package holds kernels and no weights: give the model's safetensors files",
            Format::Safetensors => "its header is damaged: fetch it again",
            Format::Gguf => "give the model's safetensors files, from which it was made",
            Format::Torch | Format::Pickle => {
                "convert it in Python, if you trust it: `safetensors.torch.save_file(torch.load(FILE, weights_only=True), \
                 \"model.safetensors\")`"
            }
            Format::Npy => {
                "convert it in Python: `safetensors.numpy.save_file({\"NAME\": numpy.load(FILE)}, \"model.safetensors\")`"
            }
            Format::Npz => "convert it in Python: `safetensors.numpy.save_file(dict(numpy.load(FILE)), \"model.safetensors\")`",
            Format::Zip | Format::Gzip => "unpack it, and give the safetensors file that is in it",
            Format::Hdf5 => "convert it to safetensors, in Python with `h5py` and `safetensors.numpy.save_file`",
            Format::Parquet => "convert it to safetensors, in Python with `pyarrow.parquet` and `safetensors.numpy.save_file`",
            Format::LfsPointer => "fetch the file itself: `git lfs pull`, or `hf download REPOSITORY`",
            Format::Html => "the download failed: fetch the file again, and log in where the model asks for it",
        }
    }
}

/// By the name of the first member: `torch.save` puts its pickle first, numpy has nothing but arrays.
fn zip(start: &[u8]) -> Format {
    let length = start.get(26..28).map_or(0, |length| usize::from(u16::from_le_bytes([length[0], length[1]])));
    let name = start.get(30..).map_or(&[][..], |rest| &rest[..length.min(rest.len())]);
    match () {
        () if name.ends_with(b".npy") => Format::Npz,
        () if name.ends_with(b"/data.pkl") || name.ends_with(b"/.format_version") || name.ends_with(b"/version") => Format::Torch,
        () => Format::Zip,
    }
}

/// The length of a header that may be, and then JSON.
fn is_safetensors(start: &[u8]) -> bool {
    // As much as the format allows.
    const MOST_BYTES: u64 = 100_000_000;
    let Some((length, rest)) = start.split_first_chunk::<8>() else { return false };
    u64::from_le_bytes(*length) <= MOST_BYTES && rest.starts_with(b"{")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A zip's first local header, with this name.
    fn zip_of(name: &str) -> Vec<u8> {
        let length = (name.len() as u16).to_le_bytes();
        [b"PK\x03\x04", &[0; 22][..], &length, &[0; 2], name.as_bytes(), b"data"].concat()
    }

    /// The first bytes as the programs named write them.
    #[test]
    fn first_bytes() {
        for (start, expected) in [
            (&b"moec.pkg\x02\0\0\0"[..], Some(Format::Package)),
            (b"\x10\0\0\0\0\0\0\0{\"a\": 1}        ", Some(Format::Safetensors)),
            // Headers whose lengths begin as a pickle and as gzip do.
            (b"\x80\x04\0\0\0\0\0\0{\"a\":", Some(Format::Safetensors)),
            (b"\x1f\x8b\x08\0\0\0\0\0{\"a\":", Some(Format::Safetensors)),
            (b"GGUF\x03\0\0\0", Some(Format::Gguf)),
            (b"tjgg\x03\0\0\0", Some(Format::Gguf)),
            (&zip_of("archive/data.pkl"), Some(Format::Torch)),
            (&zip_of("pytorch_model/data.pkl"), Some(Format::Torch)),
            (&zip_of("logits.npy"), Some(Format::Npz)),
            (&zip_of("word/document.xml"), Some(Format::Zip)),
            (b"PK\x05\x06", Some(Format::Zip)),
            (b"PK\x03\x04", Some(Format::Zip)),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", Some(Format::Pickle)),
            (b"\x80\x04\x95", Some(Format::Pickle)),
            (b"\x93NUMPY\x01\0", Some(Format::Npy)),
            (b"\x89HDF\r\n\x1a\n\0", Some(Format::Hdf5)),
            (b"PAR1\x15\x04", Some(Format::Parquet)),
            (b"\x1f\x8b\x08", Some(Format::Gzip)),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:", Some(Format::LfsPointer)),
            (b"\n<!DOCTYPE HTML>", Some(Format::Html)),
            (b"<html lang=\"en\">", Some(Format::Html)),
            (b"{\"weight_map\": {}}", None),
            (b"[moe]\nhidden = 64\n", None),
            (b"", None),
            (b"\x80", None),
            (&[0xff; 64], None),
        ] {
            assert_eq!(Format::of(start), expected, "{start:?}");
        }
    }
}
