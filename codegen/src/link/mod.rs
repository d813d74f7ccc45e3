//! Objects to a shared object. Loading it is the runtime's affair.
//!
//! LLVM's object of a program is code and constants that refer to each other by their distance, and nothing else: no data that
//! is written, and no symbol of another object. A library that can be linked by any program has C code in front of them, whose
//! addresses and whose calls of libc the loader fills in. Both are linked here: no tool is needed, and the same objects give the
//! same bytes on every machine. `inputs` reads objects, `relocation` knows what they leave open, `shared` writes what a loader takes.
//!
//! `MOEC_CC` names a C compiler driver to link kernels with instead.

mod inputs;
mod relocation;
mod shared;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::Error;

/// Links an ELF object into a shared object that needs nothing: no libc, no start files, no path in it. Its SONAME is
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

/// Links ELF objects of one architecture into a shared object that uses these libraries (`libc.so.6`). It exports what is visible in the objects;
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
    use object::read::elf::{ElfFile64, ProgramHeader};
    use object::write::{self, Symbol, SymbolSection};
    use object::{
        Architecture, BinaryFormat, LittleEndian, Object as _, ObjectKind, ObjectSection, ObjectSymbol, RelocationEncoding,
        RelocationFlags, RelocationKind, SectionKind, SymbolFlags, SymbolKind, SymbolScope, elf,
    };

    use super::*;

    /// An object of a function `f`, and what `edit` adds.
    fn object(edit: impl Fn(&mut write::Object<'_>, write::SectionId)) -> Vec<u8> {
        object_of(Architecture::X86_64, edit)
    }

    fn object_of(architecture: Architecture, edit: impl Fn(&mut write::Object<'_>, write::SectionId)) -> Vec<u8> {
        let mut object = write::Object::new(BinaryFormat::Elf, architecture, object::Endianness::Little);
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
        assert_eq!(shared::write("a.so", &[&linked], &[]), Err("code that is linked already".to_string()));
        let of = |architecture| object_of(architecture, |_, _| ());
        let other = shared::write("a.so", &[&of(Architecture::Riscv64)], &[]);
        assert_eq!(other, Err("code for Riscv64".to_string()));
        let mixed = shared::write("a.so", &[&of(Architecture::X86_64), &of(Architecture::Aarch64)], &[]);
        assert_eq!(mixed, Err("code of several architectures".to_string()));
    }

    fn of_arm(object: &mut write::Object<'_>, from: write::SectionId, offset: u64, to: write::SymbolId, r_type: u32) {
        let flags = RelocationFlags::Elf { r_type };
        object.add_relocation(from, write::Relocation { offset, symbol: to, addend: 0, flags }).expect("a relocation");
    }

    /// Code that finds a constant, a word that is written, and a variable of its thread, as LLVM and GCC write it for Arm.
    fn arm() -> Vec<u8> {
        const CODE: [u32; 10] = [
            0x9000_0000, // adrp x0, constants
            0x3dc0_0000, // ldr q0, [x0, constants]
            0x9000_0001, // adrp x1, the word with the address of `outside`
            0xf940_0021, // ldr x1, [x1, that word]
            0x9000_0000, // adrp x0, the two words of the variable
            0xf940_0002, // ldr x2, [x0, the first of them]
            0x9100_0000, // add x0, x0, them
            0xd63f_0040, // blr x2
            0x9400_0000, // bl f
            0xd65f_03c0, // ret
        ];
        object_of(Architecture::Aarch64, |object, code| {
            let bytes: Vec<u8> = CODE.iter().flat_map(|word| word.to_le_bytes()).collect();
            let at = object.append_section_data(code, &bytes, 4);
            let constants = object.section_id(write::StandardSection::ReadOnlyData);
            object.append_section_data(constants, &[7; 48], 16);
            let constants = object.section_symbol(constants);
            let thread = object.section_id(write::StandardSection::UninitializedTls);
            object.append_section_bss(thread, 64, 16);
            let thread = object.section_symbol(thread);
            let filled = object.add_section(Vec::new(), b".data.rel.ro".to_vec(), SectionKind::ReadOnlyDataWithRel);
            object.append_section_data(filled, &[0; 8], 8);
            let outside = object.add_symbol(symbol("outside", SymbolSection::Undefined));
            let f = object.symbol_id(b"f").expect("it has one");
            for (number, to, r_type) in [
                (0, constants, elf::R_AARCH64_ADR_PREL_PG_HI21),
                (1, constants, elf::R_AARCH64_LDST128_ABS_LO12_NC),
                (2, outside, elf::R_AARCH64_ADR_GOT_PAGE),
                (3, outside, elf::R_AARCH64_LD64_GOT_LO12_NC),
                (4, thread, elf::R_AARCH64_TLSDESC_ADR_PAGE21),
                (5, thread, elf::R_AARCH64_TLSDESC_LD64_LO12),
                (6, thread, elf::R_AARCH64_TLSDESC_ADD_LO12),
                (7, thread, elf::R_AARCH64_TLSDESC_CALL),
                (8, f, elf::R_AARCH64_CALL26),
            ] {
                of_arm(object, code, at + 4 * number, to, r_type);
            }
            of_arm(object, filled, 0, f, elf::R_AARCH64_ABS64);
        })
    }

    /// Pages of Arm may have 64 KiB: parts with other rights have none in common, and bytes lie at the same place of a page as in the file.
    #[test]
    fn parts_of_arm_share_no_page() {
        let linked = shared::write("layer.so", &[&arm()], &["libc.so.6"]).expect("linked");
        let file = ElfFile64::<LittleEndian>::parse(&*linked).expect("a shared object");
        assert_eq!((file.architecture(), file.kind()), (Architecture::Aarch64, ObjectKind::Dynamic));
        let (endian, page) = (LittleEndian, 0x10000);
        let loads: Vec<_> = file.elf_program_headers().iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD).collect();
        let rights: Vec<u32> = loads.iter().map(|segment| segment.p_flags(endian)).collect();
        assert_eq!(rights, [elf::PF_R | elf::PF_X, elf::PF_R | elf::PF_W]);
        let pages = |at: u64, bytes: u64| [at / page, (at + bytes).div_ceil(page)];
        let pages: Vec<_> = loads.iter().map(|load| pages(load.p_vaddr(endian), load.p_memsz(endian))).collect();
        assert!(pages[0][1] <= pages[1][0], "{pages:?}");
        for load in loads {
            assert_eq!((load.p_align(endian), load.p_vaddr(endian) % page), (page, load.p_offset(endian) % page));
        }
        assert!(linked.len() < page as usize, "{} bytes", linked.len());
    }

    #[test]
    fn code_of_arm_finds_what_it_refers_to() {
        let linked = shared::write("layer.so", &[&arm()], &["libc.so.6"]).expect("linked");
        let file = ElfFile64::<LittleEndian>::parse(&*linked).expect("a shared object");
        let section = |name: &str| file.section_by_name(name).unwrap_or_else(|| panic!("no {name}"));
        let (code, got) = (section(".text"), section(".got").address());
        let words: Vec<u32> = code.data().expect("bytes")[16..]
            .chunks(4)
            .map(|word| word.try_into().expect("four"))
            .map(u32::from_le_bytes)
            .collect();
        // What `adrp` gives at the place with this number, and the offset of a load or an `add`.
        let page = |number: usize| {
            let (from, word) = (code.address() + 16 + 4 * number as u64, words[number]);
            let pages = i64::from((word >> 5 & 0x7_ffff) << 2 | word >> 29 & 3) << 43 >> 43;
            (from >> 12).wrapping_add_signed(pages) << 12
        };
        let offset = |number: usize, bytes: u64| u64::from(words[number] >> 10 & 0xfff) * bytes;
        assert_eq!(page(0) + offset(1, 16), section(".rodata").address());
        let of_outside = page(2) + offset(3, 8);
        let of_variable = page(4) + offset(5, 8);
        assert_eq!(page(4) + offset(6, 1), of_variable);
        assert_eq!((of_outside, of_variable), (got, got + 8));
        // A call of `f`, which is 12 instructions before it; what marks a call changes nothing.
        assert_eq!((words[7], words[8]), (0xd63f_0040, 0x97ff_fff4));
        let loaded = |place: u64, r_type: u32| {
            let found = file.dynamic_relocations().into_iter().flatten().find(|(at, _)| *at == place);
            let (_, relocation) = found.unwrap_or_else(|| panic!("nothing at {place:#x}"));
            assert_eq!(relocation.flags(), RelocationFlags::Elf { r_type });
            relocation.addend()
        };
        assert_eq!(loaded(of_outside, elf::R_AARCH64_ABS64), 0);
        assert_eq!(loaded(of_variable, elf::R_AARCH64_TLSDESC), 0);
        assert_eq!(loaded(section(".data.rel.ro").address(), elf::R_AARCH64_RELATIVE), code.address() as i64);
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
