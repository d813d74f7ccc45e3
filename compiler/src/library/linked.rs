//! Launcher, tables and kernels as one library.

use std::io::Cursor;

use ar_archive_writer::{ArchiveKind, DEFAULT_OBJECT_READER, NewArchiveMember, write_archive_to_stream};
use object::build::elf::Builder;

use super::{Layer, Refused, data, kernels};

/// The launcher, compiled when moec was: `runtime/launcher/library.c`.
const LAUNCHER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/launcher.o"));

/// What the launcher calls: libc, of which older ones have threads and the loader apart.
const LIBRARIES: [&str; 3] = ["libc.so.6", "libpthread.so.0", "libdl.so.2"];

/// An object, with its name.
pub(super) type Named = (String, Vec<u8>);

/// The objects of a library of these layers.
pub(super) fn objects(layers: &[Layer]) -> Result<Vec<Named>, Refused> {
    let mut objects = Vec::new();
    for Layer { prefix, tables } in layers {
        objects.push((format!("{prefix}_launcher.o"), launcher(prefix)?));
        objects.push((format!("{prefix}_tables.o"), data::object(prefix, tables)?));
        objects.push((format!("{prefix}.o"), kernels::object(tables)?));
    }
    Ok(objects)
}

/// The launcher with names of the layer.
fn launcher(prefix: &str) -> Result<Vec<u8>, Refused> {
    if LAUNCHER.is_empty() {
        return Err(Refused::NoLauncher);
    }
    let failed = |error: object::build::Error| Refused::Linker(error.to_string());
    let mut builder = Builder::read(LAUNCHER).map_err(failed)?;
    let names = [
        ("moec_any_get_api", format!("{prefix}_get_api")),
        ("moec_any_tvm_ffi", format!("__tvm_ffi_{prefix}")),
        ("tables", data::root(prefix)),
    ];
    for symbol in &mut builder.symbols {
        if let Some((_, name)) = names.iter().find(|(any, _)| symbol.name.as_slice() == any.as_bytes()) {
            symbol.name = name.as_bytes().to_vec().into();
        }
    }
    let mut object = Vec::new();
    builder.write(&mut object).map_err(failed)?;
    Ok(object)
}

pub(super) fn shared(name: &str, objects: &[Named]) -> Result<Vec<u8>, Refused> {
    let objects: Vec<&[u8]> = objects.iter().map(|(_, object)| object.as_slice()).collect();
    moec_codegen::link::library(name, &objects, &LIBRARIES).map_err(|error| Refused::Linker(error.to_string()))
}

pub(super) fn archive(objects: &[Named]) -> Result<Vec<u8>, Refused> {
    let member = |(name, object): &Named| NewArchiveMember::new(object.clone(), &DEFAULT_OBJECT_READER, name.clone());
    let members: Vec<_> = objects.iter().map(member).collect();
    let mut out = Cursor::new(Vec::new());
    write_archive_to_stream(&mut out, &members, ArchiveKind::Gnu, false, None)
        .map_err(|error| Refused::Linker(error.to_string()))?;
    Ok(out.into_inner())
}
