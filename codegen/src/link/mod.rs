//! Objects to a shared object. Loading it is the runtime's affair.
//!
//! LLVM's object of a program is code and constants that refer to each other by their distance, and nothing else: no data that
//! is written, and no symbol of another object. A library that can be linked by any program has C code in front of them, whose
//! addresses and whose calls of libc the loader fills in. Both are linked here: no tool is needed, and the same objects give the
//! same bytes on every machine. `inputs` reads objects, `shared` writes what a loader takes.
//!
//! `MOEC_CC` names a C compiler driver to link kernels with instead.

mod inputs;
mod shared;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::Error;

/// Links an x86-64 ELF object into a shared object that needs nothing: no libc, no start files, no path in it. Its SONAME is
/// made of the program's name.
///
/// # Errors
/// [`Error::Link`] where the object has what no kernel has. With `MOEC_CC` also [`Error::NoLinker`] where the driver is not
/// there, [`Error::Tool`] with what it prints where it refuses the object, [`Error::Io`] where a temporary file cannot be
/// written or read.
pub fn shared_object(program: &str, object: &[u8]) -> Result<Vec<u8>, Error> {
    let soname = soname(program);
    match driver() {
        Some(driver) => link_with(&driver, &soname, object),
        None => shared::write(&soname, &[object], &[]).map_err(|why| Error::Link { program: program.to_string(), why }),
    }
}

/// Links x86-64 ELF objects into a shared object that uses these libraries (`libc.so.6`). It exports what is visible in the objects;
/// what none of them has is left to the loader.
///
/// # Errors
/// [`Error::Link`] where an object has what this cannot link, or two have a symbol of one name.
pub fn library(soname: &str, objects: &[&[u8]], libraries: &[&str]) -> Result<Vec<u8>, Error> {
    shared::write(soname, objects, libraries).map_err(|why| Error::Link { program: soname.to_string(), why })
}

/// A file name of letters, digits, `-`, `_` and `.`.
fn soname(program: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    format!("{}.so", program.chars().map(kept).collect::<String>())
}

/// The C compiler driver that `MOEC_CC` names, and where it is: `None`, it is not on `PATH`.
pub fn driver_in_use() -> Option<(OsString, Option<PathBuf>)> {
    let driver = driver()?;
    let program = words(&driver).0.and_then(|program| which::which(program).ok());
    Some((driver, program))
}

fn driver() -> Option<OsString> {
    std::env::var_os("MOEC_CC").filter(|value| value.to_str().is_none_or(|value| !value.trim().is_empty()))
}

/// The program and its arguments, which may follow its name. What is not text has no spaces to part it at.
fn words(driver: &OsString) -> (Option<OsString>, Vec<OsString>) {
    let mut words: Vec<OsString> = match driver.to_str() {
        Some(text) => text.split_whitespace().map(OsString::from).collect(),
        None => vec![driver.clone()],
    };
    let program = (!words.is_empty()).then(|| words.remove(0));
    (program, words)
}

fn link_with(driver: &OsString, soname: &str, object: &[u8]) -> Result<Vec<u8>, Error> {
    let shown = driver.to_string_lossy();
    let io = |what| move |source| Error::Io { what, source };
    let dir = tempfile::tempdir().map_err(io("creating a folder to link in"))?;
    fs::write(dir.path().join("kernels.o"), object).map_err(io("writing an object to link"))?;
    let (program, arguments) = words(driver);
    // By its whole path: the working directory of the driver is not ours.
    let program = program.and_then(|program| which::which(program).ok());
    let Some(program) = program else { return Err(Error::NoLinker { tried: shown.into_owned() }) };
    tracing::debug!(driver = %shown, soname, bytes = object.len(), "linking");
    // Relative names and a working directory: the driver's arguments are the same on every machine.
    let output = Command::new(program)
        .args(arguments)
        .args(["-shared", "-nostdlib", "-Wl,--build-id=none", &format!("-Wl,-soname,{soname}"), "-Wl,-z,defs"])
        .args(["-Wl,-z,noexecstack", "-o", "kernels.so", "kernels.o"])
        .current_dir(dir.path())
        .output();
    let output = output.map_err(io("running the C compiler driver"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_string();
        return Err(Error::Tool { tool: shown.into_owned(), message });
    }
    fs::read(dir.path().join("kernels.so")).map_err(io("reading the linked object"))
}

#[cfg(test)]
mod tests {
    use object::read::elf::ElfFile64;
    use object::write::{self, Symbol, SymbolSection};
    use object::{
        Architecture, BinaryFormat, LittleEndian, Object as _, ObjectKind, ObjectSection, ObjectSymbol, RelocationEncoding,
        RelocationFlags, RelocationKind, SymbolFlags, SymbolKind, SymbolScope,
    };

    use super::*;

    /// An object of a function `f`, and what `edit` adds.
    fn object(edit: impl Fn(&mut write::Object<'_>, write::SectionId)) -> Vec<u8> {
        let mut object = write::Object::new(BinaryFormat::Elf, Architecture::X86_64, object::Endianness::Little);
        let code = object.section_id(write::StandardSection::Text);
        object.append_section_data(code, &[0x90; 16], 16);
        object.add_symbol(symbol("f", SymbolSection::Section(code)));
        edit(&mut object, code);
        object.write().expect("an object")
    }

    fn symbol(name: &str, section: SymbolSection) -> Symbol {
        Symbol {
            name: name.into(),
            value: 0,
            size: 16,
            kind: SymbolKind::Text,
            scope: SymbolScope::Dynamic,
            weak: false,
            section,
            flags: SymbolFlags::None,
        }
    }

    fn reference(object: &mut write::Object<'_>, from: write::SectionId, to: write::SymbolId, kind: RelocationKind, size: u8) {
        let flags = RelocationFlags::Generic { kind, encoding: RelocationEncoding::Generic, size };
        object.add_relocation(from, write::Relocation { offset: 4, symbol: to, addend: -4, flags }).expect("a relocation");
    }

    /// The fields that a loader reads are those of the platform's documents: read back by another reader.
    #[test]
    fn a_loader_finds_functions_and_constants() {
        let object = object(|object, code| {
            let constants = object.section_id(write::StandardSection::ReadOnlyData);
            object.append_section_data(constants, &[7; 20], 64);
            let constants = object.section_symbol(constants);
            reference(object, code, constants, RelocationKind::Relative, 32);
        });
        let linked = shared::write("layer.so", &[&object], &[]).expect("linked");
        let file = ElfFile64::<LittleEndian>::parse(&*linked).expect("a shared object");
        assert_eq!(file.kind(), ObjectKind::Dynamic);
        let found: Vec<_> = file.dynamic_symbols().map(|symbol| (symbol.name(), symbol.address(), symbol.size())).collect();
        let code = file.section_by_name(".text").expect("code");
        assert_eq!(found, [(Ok("f"), code.address(), 16)]);
        assert_eq!(code.address() % 4096, 0);
        let constants = file.section_by_name(".rodata").expect("constants");
        assert_eq!((constants.data(), constants.address() % 64), (Ok(&[7; 20][..]), 0));
        // The field at 4 holds the distance from its end, which is at 8.
        let field = code.data().expect("bytes")[4..8].try_into().expect("four bytes");
        assert_eq!(code.address() as i64 + 8 + i64::from(i32::from_le_bytes(field)), constants.address() as i64);
        assert_eq!(file.dynamic_relocations().map_or(0, Iterator::count), 0);
        assert_eq!(shared::write("layer.so", &[&object], &[]).expect("linked"), linked);
    }

    #[test]
    fn what_no_kernel_has_is_refused() {
        let refused = |edit: &dyn Fn(&mut write::Object<'_>, write::SectionId)| {
            shared::write("a.so", &[&object(edit)], &[]).expect_err("refused")
        };
        let undefined = refused(&|object, code| {
            let other = object.add_symbol(symbol("memcpy", SymbolSection::Undefined));
            reference(object, code, other, RelocationKind::PltRelative, 32);
        });
        assert_eq!(undefined, "the distance to `memcpy`, which is in no object");
        let short = refused(&|object, code| {
            let own = object.section_symbol(code);
            reference(object, code, own, RelocationKind::Absolute, 32);
        });
        assert_eq!(short, "a relocation of type 10 to ``");
        let twice = shared::write("a.so", &[&object(|_, _| ()), &object(|_, _| ())], &[]);
        assert_eq!(twice, Err("two symbols `f`".to_string()));
        assert!(shared::write("a.so", &[b"no object"], &[]).is_err());
        let linked = shared::write("a.so", &[&object(|_, _| ())], &[]).expect("linked");
        assert_eq!(shared::write("a.so", &[&linked], &[]), Err("another architecture, or is linked already".to_string()));
    }

    #[test]
    fn an_absent_driver_is_the_environments_fault() {
        for driver in ["moec-no-such-driver -m64", "  "] {
            let error = link_with(&driver.into(), "p.so", b"").expect_err("there is no such driver");
            assert!(matches!(error, Error::NoLinker { .. }) && error.is_environment(), "{error}");
        }
    }

    #[test]
    fn a_driver_that_fails_is_quoted() {
        let error = link_with(&"cc".into(), "p.so", b"not an object").expect_err("not an object");
        assert!(matches!(&error, Error::Tool { message, .. } if !message.is_empty()), "{error}");
    }
}
