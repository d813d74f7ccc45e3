//! The package file `layer.moec`: its container, read and written. The manifest's types are in `manifest` and `recipe`, its
//! formulas in `extent`, what makes a manifest sound in `check`, where workspace buffers lie in `layout`. Nothing here loads or
//! runs anything. `runtime/PACKAGE.md` says the same to readers who write a loader in another language.
//!
//! ```text
//! offset  bytes
//!      0      8  magic "moec.pkg"
//!      8      4  format version, little-endian
//!     12      8  manifest length in bytes, little-endian, at most 16 MiB
//!     20     32  SHA-256 of the manifest
//!     52      .  manifest, JSON
//!      .      .  images, back to back, in the manifest's order, to the end of the file
//! ```
//!
//! No size in a file is used before it has been checked against the bytes that are there, and nothing is allocated from
//! one. The hashes are integrity, not safety: a package holds code, so load it only from those you would run a program of.

mod check;
mod extent;
mod layout;
mod manifest;
mod parts;
mod recipe;
#[cfg(feature = "schema")]
mod schema;

use sha2::{Digest, Sha256};

use crate::error::Error;

pub use check::check;
pub use extent::{Dims, Extent, Round};
pub use layout::{OnStack, Place, Workspace, stack, workspace};
pub(crate) use layout::{byte_count, shape};
pub use manifest::{
    Arg, Buffer, Cuts, DType, Dim, Entry, Image, ImageKind, Kernel, Launch, Manifest, Param, ParamKind, Regime, Role, Routing,
    Slots, Swizzle, Target, TargetKind, TensorMap, View, Working,
};
pub(crate) use parts::of_part;
pub use parts::{cut_align, part};
pub use recipe::{Piece, Recipe, Slice, Source, Stacked};
#[cfg(feature = "schema")]
pub use schema::json_schema;

/// The version of the container and the manifest that this crate reads and writes.
pub const FORMAT_VERSION: u32 = 3;
/// The most bytes a manifest may have.
pub const MANIFEST_MAX_BYTES: u64 = 16 << 20;
/// The alignment in bytes of a workspace and of every buffer in it.
pub const WORKSPACE_ALIGN: u64 = 256;

/// The most parameters that a kernel may have: a launch lists its arguments on the stack.
pub const PARAMS_MAX: usize = 64;

const MAGIC: &[u8; 8] = b"moec.pkg";
const HEADER_BYTES: usize = 8 + 4 + 8 + 32;

/// A package whose manifest is sound and whose images are those that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    manifest: Manifest,
    images: Vec<Vec<u8>>,
}

impl Package {
    /// A package of these images; their places and hashes are written into the manifest.
    ///
    /// # Errors
    /// [`Error::Manifest`] where the manifest is not sound (see [`check`]) or does not list as many images.
    pub fn new(mut manifest: Manifest, images: Vec<Vec<u8>>) -> Result<Package, Error> {
        if manifest.images.len() != images.len() {
            return Err(Error::manifest(format!("{} images are listed, {} given", manifest.images.len(), images.len())));
        }
        let mut offset = 0;
        for (image, bytes) in manifest.images.iter_mut().zip(&images) {
            image.offset = offset;
            image.length = bytes.len() as u64;
            image.sha256 = hex(&Sha256::digest(bytes));
            offset += image.length;
        }
        check(&manifest)?;
        check::check_images(&manifest, &images)?;
        Ok(Package { manifest, images })
    }

    /// What the package says about itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The images, in the manifest's order.
    #[must_use]
    pub fn images(&self) -> &[Vec<u8>] {
        &self.images
    }

    /// The bytes of the file. The same package always gives the same bytes.
    ///
    /// # Errors
    /// [`Error::Manifest`] where the manifest is longer than [`MANIFEST_MAX_BYTES`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let json = serde_json::to_vec(&self.manifest).map_err(|error| Error::manifest(error.to_string()))?;
        if json.len() as u64 > MANIFEST_MAX_BYTES {
            return Err(Error::manifest(format!("{} bytes long, at most {MANIFEST_MAX_BYTES}", json.len())));
        }
        let mut file = Vec::with_capacity(HEADER_BYTES + json.len() + self.images.iter().map(Vec::len).sum::<usize>());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        file.extend_from_slice(&(json.len() as u64).to_le_bytes());
        file.extend_from_slice(&Sha256::digest(&json));
        file.extend_from_slice(&json);
        self.images.iter().for_each(|image| file.extend_from_slice(image));
        Ok(file)
    }
}

/// The file of a package with this manifest and these images: [`Package::new`], then [`Package::to_bytes`].
///
/// # Errors
/// As those two.
pub fn write(manifest: &Manifest, images: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    Package::new(manifest.clone(), images.to_vec())?.to_bytes()
}

/// The package in these bytes.
///
/// # Errors
/// [`Error::NotAPackage`], [`Error::FormatVersion`], [`Error::Damaged`] where lengths or hashes do not agree with the
/// bytes, [`Error::Manifest`] where the manifest cannot be understood or is not sound.
pub fn read(file: &[u8]) -> Result<Package, Error> {
    let rest = file.strip_prefix(MAGIC).ok_or(Error::NotAPackage)?;
    let (version, rest) = take::<4>(rest)?;
    let version = u32::from_le_bytes(version);
    if version != FORMAT_VERSION {
        return Err(Error::FormatVersion { found: version, known: FORMAT_VERSION });
    }
    let (length, rest) = take::<8>(rest)?;
    let length = u64::from_le_bytes(length);
    if length > MANIFEST_MAX_BYTES {
        return Err(Error::damaged(format!("a manifest of {length} bytes, at most {MANIFEST_MAX_BYTES}")));
    }
    let (sha256, rest) = take::<32>(rest)?;
    // At most 16 MiB, so it fits a usize.
    let Some((json, images)) = rest.split_at_checked(length as usize) else {
        return Err(Error::damaged(format!("a manifest of {length} bytes, {} bytes left", rest.len())));
    };
    if Sha256::digest(json)[..] != sha256 {
        return Err(Error::damaged("the manifest does not have its hash"));
    }
    let manifest: Manifest = serde_json::from_slice(json).map_err(|error| Error::manifest(error.to_string()))?;
    check(&manifest)?;
    let images = split_images(&manifest.images, images)?;
    check::check_images(&manifest, &images)?;
    Ok(Package { manifest, images })
}

/// The images, once it is sure that they cover `bytes` exactly and have their hashes.
fn split_images(images: &[Image], bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut rest = bytes;
    let mut parts = Vec::new();
    for (index, image) in images.iter().enumerate() {
        if image.offset != (bytes.len() - rest.len()) as u64 {
            return Err(Error::damaged(format!("image {index} starts at {}: a gap or an overlap", image.offset)));
        }
        let length = usize::try_from(image.length).unwrap_or(usize::MAX);
        let Some((part, after)) = rest.split_at_checked(length) else {
            return Err(Error::damaged(format!("image {index} has {} bytes, {} bytes left", image.length, rest.len())));
        };
        if hex(&Sha256::digest(part)) != image.sha256 {
            return Err(Error::damaged(format!("image {index} does not have its hash")));
        }
        parts.push(part);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(Error::damaged(format!("{} bytes after the last image", rest.len())));
    }
    Ok(parts.into_iter().map(<[u8]>::to_vec).collect())
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Error> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or_else(|| Error::damaged("the file ends in its header"))?;
    Ok((*head, rest))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
