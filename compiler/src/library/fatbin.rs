//! The images of a layer's GPUs in one file, for engines that load modules by themselves.

use moec_codegen::{Error, FatImage, Fatbinary, Form};

use super::Refused;
use super::tables::{Holds, Tables};

/// NVIDIA's fat binary.
pub(super) fn made(tables: &Tables) -> Result<Vec<u8>, Refused> {
    let mut images = Vec::new();
    for image in &tables.images {
        let form = match image.holds {
            Holds::Ptx => Form::Ptx,
            Holds::Cubin => Form::Cubin,
            Holds::Manifest | Holds::Code => continue,
        };
        images.push(FatImage { target: &image.target, form, bytes: &image.bytes });
    }
    if images.is_empty() {
        return Err(Refused::NoGpu(tables.layer.clone()));
    }
    let failed = |error: Error| Refused::Tool(error.to_string());
    Fatbinary::find().ok_or(Refused::NoFatbinary)?.join(&images).map_err(failed)
}
