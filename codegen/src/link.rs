//! A host object to a shared object. Loading it is the runtime's affair.
//!
//! LLVM's object of a program is code and constants that refer to each other by their distance, and nothing else: no data that
//! is written, and no symbol of another object. So the shared object is these at places of their own, and a table by which the
//! loader finds the kernels; there is nothing left to relocate. It is written here: no tool is needed, and the same object gives
//! the same bytes on every machine.
//!
//! ```text
//! read            headers, .hash, .dynsym, .dynstr, .rodata
//! read, execute   .text
//! read, write     .dynamic: the loader puts addresses there
//! ```
//!
//! An address is an offset in the file; each of the three begins a page. `MOEC_CC` names a C compiler driver to link with instead.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use object::elf;
use object::read::elf::{ElfFile64, ElfSection64};
use object::write::StringId;
use object::write::elf::{FileHeader, ProgramHeader, SectionHeader, Sym, Writer};
use object::{
    Architecture, Endianness, LittleEndian, Object, ObjectKind, ObjectSection, ObjectSymbol, RelocationKind, RelocationTarget,
    SectionFlags, SectionIndex, SectionKind, SymbolFlags,
};

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
        None => link(&soname, object).map_err(|why| Error::Link { program: program.to_string(), why }),
    }
}

/// A file name of letters, digits, `-`, `_` and `.`.
fn soname(program: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    format!("{}.so", program.chars().map(kept).collect::<String>())
}

/// The alignment of what has rights of its own: a page of x86-64.
const PAGE: u64 = 4096;

/// Sections of one kind, one after another.
struct Part<'o> {
    name: &'static [u8],
    flags: u32,
    sections: Vec<(SectionIndex, usize, &'o [u8])>,
    bytes: usize,
    align: usize,
    /// Where it lies.
    at: usize,
}

impl<'o> Part<'o> {
    fn new(name: &'static [u8], flags: u32, align: u64) -> Part<'o> {
        Part { name, flags, sections: Vec::new(), bytes: 0, align: align as usize, at: 0 }
    }

    fn push(&mut self, section: &ElfSection64<'o, '_, LittleEndian>) -> object::Result<()> {
        let align = section.align().max(1) as usize;
        let start = self.bytes.next_multiple_of(align);
        let data = section.data()?;
        self.sections.push((section.index(), start, data));
        (self.bytes, self.align) = (start + data.len(), self.align.max(align));
        Ok(())
    }

    fn reserve(&mut self, writer: &mut Writer<'_>) {
        self.at = writer.reserve(self.bytes, self.align);
    }

    fn addresses(&self) -> impl Iterator<Item = (SectionIndex, u64)> {
        self.sections.iter().map(|(index, start, _)| (*index, (self.at + start) as u64))
    }

    /// Its bytes, with the distances that the object left open.
    fn relocated(&self, file: &ElfFile64<'o, LittleEndian>, addresses: &HashMap<SectionIndex, u64>) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; self.bytes];
        for (index, start, data) in &self.sections {
            bytes[*start..start + data.len()].copy_from_slice(data);
            let section = file.section_by_index(*index).map_err(text)?;
            for (offset, relocation) in section.relocations() {
                let RelocationTarget::Symbol(symbol) = relocation.target() else {
                    return Err(format!("a relocation of {:?}", relocation.target()));
                };
                let symbol = file.symbol_by_index(symbol).map_err(text)?;
                let target = symbol.section_index().and_then(|index| addresses.get(&index));
                let name = symbol.name().unwrap_or_default();
                let target = target.ok_or_else(|| format!("a reference to `{name}`, which it does not have"))? + symbol.address();
                let kind = relocation.kind();
                if !matches!(kind, RelocationKind::Relative | RelocationKind::PltRelative) || relocation.size() != 32 {
                    return Err(format!("a relocation of kind {kind:?} and {} bits", relocation.size()));
                }
                let place = start + offset as usize;
                let distance = target.wrapping_add_signed(relocation.addend()).wrapping_sub((self.at + place) as u64);
                let distance = i32::try_from(distance.cast_signed()).map_err(|_| format!("`{name}` too far away"))?;
                let field = bytes.get_mut(place..place + 4).ok_or("a relocation outside of its section")?;
                field.copy_from_slice(&distance.to_le_bytes());
            }
        }
        Ok(bytes)
    }

    fn header(&self, name: StringId) -> SectionHeader {
        SectionHeader {
            name: Some(name),
            sh_type: elf::SHT_PROGBITS,
            sh_flags: u64::from(self.flags),
            sh_addr: self.at as u64,
            sh_offset: self.at as u64,
            sh_size: self.bytes as u64,
            sh_link: 0,
            sh_info: 0,
            sh_addralign: self.align as u64,
            sh_entsize: 0,
        }
    }
}

/// A kernel's function, as the loader finds it.
struct Export<'o> {
    name: &'o [u8],
    section: SectionIndex,
    offset: u64,
    bytes: u64,
    info: u8,
}

fn text(error: object::Error) -> String {
    error.to_string()
}

/// What the object has that is loaded: constants, and code.
fn parts<'o>(file: &ElfFile64<'o, LittleEndian>) -> Result<[Part<'o>; 2], String> {
    let mut constants = Part::new(b".rodata", elf::SHF_ALLOC, 1);
    let mut code = Part::new(b".text", elf::SHF_ALLOC | elf::SHF_EXECINSTR, PAGE);
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
        if sh_flags & u64::from(elf::SHF_ALLOC) == 0 || section.size() == 0 {
            continue;
        }
        let part = match section.kind() {
            SectionKind::Text => &mut code,
            SectionKind::ReadOnlyData | SectionKind::ReadOnlyString => &mut constants,
            kind => return Err(format!("a section `{}` of kind {kind:?}", section.name().unwrap_or_default())),
        };
        part.push(&section).map_err(text)?;
    }
    Ok([constants, code])
}

fn exports<'o>(file: &ElfFile64<'o, LittleEndian>) -> Result<Vec<Export<'o>>, String> {
    let mut exports = Vec::new();
    for symbol in file.symbols() {
        let name = symbol.name_bytes().map_err(text)?;
        if symbol.is_undefined() {
            return Err(format!("no symbol `{}`, which it refers to", String::from_utf8_lossy(name)));
        }
        if let (true, Some(section), SymbolFlags::Elf { st_info, .. }) =
            (symbol.is_global(), symbol.section_index(), symbol.flags())
        {
            exports.push(Export { name, section, offset: symbol.address(), bytes: symbol.size(), info: st_info });
        }
    }
    Ok(exports)
}

/// The shared object, or what the object has that this cannot link.
fn link(soname: &str, object: &[u8]) -> Result<Vec<u8>, String> {
    let file = ElfFile64::<LittleEndian>::parse(object).map_err(text)?;
    if file.architecture() != Architecture::X86_64 || file.kind() != ObjectKind::Relocatable {
        return Err("another architecture, or is linked already".to_string());
    }
    let [mut constants, mut code] = parts(&file)?;
    let exports = exports(&file)?;

    let mut out = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut out);
    writer.reserve_file_header();
    writer.reserve_program_headers(5);
    writer.reserve_null_section_index();
    writer.reserve_hash_section_index();
    writer.reserve_dynsym_section_index();
    writer.reserve_dynstr_section_index();
    let names = [constants.name, code.name].map(|name| writer.add_section_name(name));
    let [_, of_code] = [writer.reserve_section_index(), writer.reserve_section_index()];
    writer.reserve_dynamic_section_index();
    writer.reserve_shstrtab_section_index();
    writer.reserve_null_dynamic_symbol_index();
    let symbols: Vec<StringId> = exports
        .iter()
        .map(|export| {
            writer.reserve_dynamic_symbol_index();
            writer.add_dynamic_string(export.name)
        })
        .collect();
    let soname = writer.add_dynamic_string(soname.as_bytes());
    let count = writer.dynamic_symbol_count();
    let hash = writer.reserve_hash(count, count);
    let dynsym = writer.reserve_dynsym();
    let dynstr = writer.reserve_dynstr();
    constants.reserve(&mut writer);
    let read_end = writer.reserved_len();
    code.reserve(&mut writer);
    writer.reserve_until(writer.reserved_len().next_multiple_of(PAGE as usize));
    let tags = [elf::DT_HASH, elf::DT_STRTAB, elf::DT_SYMTAB, elf::DT_STRSZ, elf::DT_SYMENT];
    let values = [hash, dynstr, dynsym, writer.dynstr_len(), size_of::<elf::Sym64<LittleEndian>>()];
    let dynamic = writer.reserve_dynamic(tags.len() + 2);
    let dynamic_bytes = writer.reserved_len() - dynamic;
    writer.reserve_shstrtab();
    writer.reserve_section_headers();

    let addresses: HashMap<SectionIndex, u64> = constants.addresses().chain(code.addresses()).collect();
    let [constant_bytes, code_bytes] = [&constants, &code].map(|part| part.relocated(&file, &addresses));
    let written = |error: object::write::Error| error.to_string();
    let header = FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_DYN,
        e_machine: elf::EM_X86_64,
        e_entry: 0,
        e_flags: 0,
    };
    writer.write_file_header(&header).map_err(written)?;
    writer.write_align_program_headers();
    let (read, execute, write) = (elf::PF_R, elf::PF_R | elf::PF_X, elf::PF_R | elf::PF_W);
    for (p_type, p_flags, start, bytes, p_align) in [
        (elf::PT_LOAD, read, 0, read_end, PAGE),
        (elf::PT_LOAD, execute, code.at, code.bytes, PAGE),
        (elf::PT_LOAD, write, dynamic, dynamic_bytes, PAGE),
        (elf::PT_DYNAMIC, write, dynamic, dynamic_bytes, 8),
        // No stack of code.
        (elf::PT_GNU_STACK, write, 0, 0, 16),
    ] {
        let [p_offset, p_vaddr, p_paddr] = [start as u64; 3];
        let [p_filesz, p_memsz] = [bytes as u64; 2];
        writer.write_program_header(&ProgramHeader { p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align });
    }
    writer.write_hash(count, count, |index| index.checked_sub(1).map(|index| elf::hash(exports[index as usize].name)));
    writer.write_null_dynamic_symbol();
    for (export, name) in exports.iter().zip(symbols) {
        let place = code.addresses().find(|(section, _)| *section == export.section);
        let (_, address) = place.ok_or("a kernel that is not code")?;
        writer.write_dynamic_symbol(&Sym {
            name: Some(name),
            section: Some(of_code),
            st_info: export.info,
            st_other: elf::STV_DEFAULT,
            st_shndx: 0,
            st_value: address + export.offset,
            st_size: export.bytes,
        });
    }
    writer.write_dynstr();
    for (part, bytes) in [(&constants, constant_bytes?), (&code, code_bytes?)] {
        writer.pad_until(part.at);
        writer.write(&bytes);
    }
    writer.pad_until(dynamic);
    writer.write_dynamic_string(elf::DT_SONAME, soname).map_err(written)?;
    for (tag, value) in tags.into_iter().zip(values) {
        writer.write_dynamic(tag, value as u64).map_err(written)?;
    }
    writer.write_dynamic(elf::DT_NULL, 0).map_err(written)?;
    writer.write_shstrtab();
    writer.write_null_section_header();
    writer.write_hash_section_header(hash as u64);
    writer.write_dynsym_section_header(dynsym as u64, 1);
    writer.write_dynstr_section_header(dynstr as u64);
    for (part, name) in [&constants, &code].into_iter().zip(names) {
        writer.write_section_header(&part.header(name));
    }
    writer.write_dynamic_section_header(dynamic as u64);
    writer.write_shstrtab_section_header();
    drop(writer);
    Ok(out)
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
    use object::write::{self, Symbol, SymbolSection};
    use object::{BinaryFormat, RelocationEncoding, RelocationFlags, SymbolKind, SymbolScope};

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
        let linked = link("layer.so", &object).expect("linked");
        let file = ElfFile64::<LittleEndian>::parse(&*linked).expect("a shared object");
        assert_eq!(file.kind(), ObjectKind::Dynamic);
        let found: Vec<_> = file.dynamic_symbols().map(|symbol| (symbol.name(), symbol.address(), symbol.size())).collect();
        let code = file.section_by_name(".text").expect("code");
        assert_eq!(found, [(Ok("f"), code.address(), 16)]);
        assert_eq!(code.address() % PAGE, 0);
        let constants = file.section_by_name(".rodata").expect("constants");
        assert_eq!((constants.data(), constants.address() % 64), (Ok(&[7; 20][..]), 0));
        // The field at 4 holds the distance from its end, which is at 8.
        let field = code.data().expect("bytes")[4..8].try_into().expect("four bytes");
        assert_eq!(code.address() as i64 + 8 + i64::from(i32::from_le_bytes(field)), constants.address() as i64);
        assert_eq!(file.dynamic_relocations().map_or(0, Iterator::count), 0);
        assert_eq!(link("layer.so", &object).expect("linked"), linked);
    }

    #[test]
    fn what_no_kernel_has_is_refused() {
        let refused = |edit: &dyn Fn(&mut write::Object<'_>, write::SectionId)| link("a.so", &object(edit)).expect_err("refused");
        let undefined = refused(&|object, code| {
            let other = object.add_symbol(symbol("memcpy", SymbolSection::Undefined));
            reference(object, code, other, RelocationKind::PltRelative, 32);
        });
        assert_eq!(undefined, "no symbol `memcpy`, which it refers to");
        let written = refused(&|object, _| {
            let data = object.section_id(write::StandardSection::Data);
            object.append_section_data(data, &[0; 4], 4);
        });
        assert_eq!(written, "a section `.data` of kind Data");
        let absolute = refused(&|object, code| {
            let own = object.section_symbol(code);
            reference(object, code, own, RelocationKind::Absolute, 64);
        });
        assert_eq!(absolute, "a relocation of kind Absolute and 64 bits");
        assert!(link("a.so", b"no object").is_err());
        let linked = link("a.so", &object(|_, _| ())).expect("linked");
        assert_eq!(link("a.so", &linked), Err("another architecture, or is linked already".to_string()));
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
