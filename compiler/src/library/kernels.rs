//! What the tables refer to, as a relocatable object: images of GPUs as bytes, code of hosts as code. Its symbols are hidden: a
//! library that it becomes part of exports none of them.

use moec_ir::machine::Architecture;
use object::read::elf::ElfFile64;
use object::write::{Object, Symbol, SymbolSection};
use object::{
    LittleEndian, Object as _, ObjectSection, ObjectSymbol, SectionFlags, SectionKind, SymbolFlags, SymbolKind, SymbolScope, elf,
};

use super::Refused;
use super::elf::{empty, written};
use super::tables::{Holds, Linked, Tables};

/// Of images: what vectors of constants need.
const ALIGN: u64 = 64;

/// Of code with its constants. Code of Arm finds them by distances in pages of 4 KiB, and by their places in these.
fn code_align(architecture: Architecture) -> u64 {
    match architecture {
        Architecture::X86_64 => ALIGN,
        Architecture::Aarch64 => 4096,
    }
}

/// The object that the launcher of these tables is linked with.
pub(super) fn object(architecture: Architecture, tables: &Tables) -> Result<Vec<u8>, Refused> {
    let mut out = empty(architecture);
    for image in &tables.images {
        match image.holds {
            Holds::Manifest | Holds::Ptx => add_bytes(&mut out, image, &[0]),
            Holds::Cubin => add_bytes(&mut out, image, &[]),
            Holds::Code => {
                let align = code_align(architecture);
                add_code(&mut out, image, align).map_err(|why| Refused::Image { target: image.target.clone(), why })?;
            }
        }
    }
    written(out).map_err(|error| Refused::Image { target: "the object".to_string(), why: error.to_string() })
}

/// What CPU the code of an image is for.
pub(super) fn architecture(image: &Linked) -> Result<Architecture, Refused> {
    let of = |file: ElfFile64<'_, LittleEndian>| match file.architecture() {
        object::Architecture::X86_64 => Ok(Architecture::X86_64),
        object::Architecture::Aarch64 => Ok(Architecture::Aarch64),
        other => Err(format!("it is for {other:?}")),
    };
    let file = ElfFile64::<LittleEndian>::parse(&*image.bytes).map_err(|error| error.to_string());
    file.and_then(of).map_err(|why| Refused::Image { target: image.target.clone(), why })
}

fn add_bytes(out: &mut Object<'_>, image: &Linked, end: &[u8]) {
    let section = out.add_section(Vec::new(), format!(".rodata.{}", image.symbol).into_bytes(), SectionKind::ReadOnlyData);
    let bytes = [&image.bytes, end].concat();
    let size = bytes.len() as u64;
    let value = out.append_section_data(section, &bytes, ALIGN);
    add_symbol(out, &image.symbol, SymbolKind::Data, value, size, SymbolSection::Section(section));
}

/// A host image has nothing that is relocated and nothing that is written: its constants and its code may lie anywhere, as long as
/// they lie as far from each other as they do there, and as aligned.
fn add_code(out: &mut Object<'_>, image: &Linked, align: u64) -> Result<(), String> {
    let text = |error: object::Error| error.to_string();
    let file = ElfFile64::<LittleEndian>::parse(&*image.bytes).map_err(text)?;
    let (mut begin, mut end) = (u64::MAX, 0);
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
        let name = section.name().unwrap_or_default();
        let is_kept = match name {
            ".text" | ".rodata" => true,
            ".hash" | ".gnu.hash" | ".dynsym" | ".dynstr" | ".dynamic" | ".eh_frame" | ".eh_frame_hdr" => false,
            // Of Arm, linkers add a table of addresses: code that used it would have relocations.
            ".got" | ".got.plt" => false,
            _ if sh_flags & u64::from(elf::SHF_ALLOC) == 0 => false,
            // What linkers add that holds no code and no constants.
            _ if matches!(section.kind(), SectionKind::Note | SectionKind::UninitializedData) => false,
            other => return Err(format!("it has a section `{other}`")),
        };
        if is_kept {
            begin = begin.min(section.address());
            end = end.max(section.address() + section.size());
        }
    }
    let begin = begin / align * align;
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(begin)).unwrap_or_default()];
    for section in file.sections().filter(|section| matches!(section.name(), Ok(".text" | ".rodata"))) {
        let data = section.data().map_err(text)?;
        let at = usize::try_from(section.address() - begin).map_err(|error| error.to_string())?;
        bytes.get_mut(at..at + data.len()).ok_or("a section without its bytes")?.copy_from_slice(data);
    }
    let section = out.add_section(Vec::new(), format!(".text.{}", image.symbol).into_bytes(), SectionKind::Text);
    let start = out.append_section_data(section, &bytes, align);
    for symbol in file.dynamic_symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let name = symbol.name().map_err(text)?;
        let value = start + symbol.address().checked_sub(begin).ok_or("a symbol outside of its code")?;
        add_symbol(out, name, SymbolKind::Text, value, symbol.size(), SymbolSection::Section(section));
    }
    Ok(())
}

fn add_symbol(out: &mut Object<'_>, name: &str, kind: SymbolKind, value: u64, size: u64, section: SymbolSection) {
    let (name, flags) = (name.as_bytes().to_vec(), SymbolFlags::None);
    out.add_symbol(Symbol { name, value, size, kind, scope: SymbolScope::Linkage, weak: false, section, flags });
}
