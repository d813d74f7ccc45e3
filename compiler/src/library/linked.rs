//! Launcher, tables and kernels as one library.

use std::io::Cursor;

use ar_archive_writer::{ArchiveKind, DEFAULT_OBJECT_READER, NewArchiveMember, write_archive_to_stream};
use moec_ir::machine::Architecture;
use object::build::elf::Builder;

use super::{Layer, Refused, data, kernels};

/// The launcher, compiled when moec was: `runtime/launcher/library.c`. Empty where there was no compiler for the architecture.
const X86_64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/launcher-x86_64.o"));
const AARCH64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/launcher-aarch64.o"));

/// What the launcher calls: libc, of which older ones have threads and the loader apart.
const LIBRARIES: [&str; 3] = ["libc.so.6", "libpthread.so.0", "libdl.so.2"];

/// An object, with its name.
pub(super) type Named = (String, Vec<u8>);

/// The objects of a library of these layers.
pub(super) fn objects(architecture: Architecture, layers: &[Layer]) -> Result<Vec<Named>, Refused> {
    let mut objects = Vec::new();
    for Layer { prefix, tables } in layers {
        objects.push((format!("{prefix}_launcher.o"), launcher(architecture, prefix)?));
        objects.push((format!("{prefix}_tables.o"), data::object(architecture, prefix, tables)?));
        objects.push((format!("{prefix}.o"), kernels::object(architecture, tables)?));
    }
    Ok(objects)
}

/// The launcher with names of the layer.
fn launcher(architecture: Architecture, prefix: &str) -> Result<Vec<u8>, Refused> {
    let launcher = match architecture {
        Architecture::X86_64 => X86_64,
        Architecture::Aarch64 => AARCH64,
    };
    if launcher.is_empty() {
        return Err(Refused::NoLauncher(architecture));
    }
    let failed = |error: object::build::Error| Refused::Linker(error.to_string());
    let mut builder = Builder::read(launcher).map_err(failed)?;
    let names = [
        ("moec_any_get_api", format!("{prefix}_get_api")),
        ("moec_any_tvm_ffi", format!("__tvm_ffi_{prefix}")),
        ("moec_any_xla_ffi", format!("__xla_ffi_{prefix}")),
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
