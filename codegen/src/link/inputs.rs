//! Relocatable objects: their sections by what rights they need, their symbols, and what they leave open.

use std::collections::HashMap;

use moec_ir::machine::Architecture;
use object::elf;
use object::read::elf::ElfFile64;
use object::{
    LittleEndian, Object, ObjectKind, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SectionFlags, SectionIndex,
    SectionKind, SymbolFlags, SymbolIndex,
};

use super::relocation::{self, Field, Kind};

/// What a section needs of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rights {
    /// Read.
    Constants,
    /// Read and executed.
    Code,
    /// Of each thread.
    Thread,
    /// Written by the loader, then read.
    Relocated,
    /// Read and written.
    Data,
}

/// A section.
pub(super) struct Section<'o> {
    pub(super) object: usize,
    pub(super) index: SectionIndex,
    pub(super) rights: Rights,
    pub(super) align: u64,
    pub(super) size: u64,
    /// Empty: zeros.
    pub(super) data: &'o [u8],
    pub(super) relocations: Vec<Relocation>,
}

/// A place in a section that depends on where a symbol lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relocation {
    pub(super) offset: u64,
    pub(super) kind: Kind,
    pub(super) field: Field,
    pub(super) to: Target,
    pub(super) addend: i64,
}

/// What a relocation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Target {
    /// A place in a section: its number in the list of sections, and an offset.
    Place(usize, u64),
    /// A symbol of no object, by its number.
    Import(usize),
}

/// A symbol that the loader finds here, or for which it looks elsewhere.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) place: Option<Target>,
    pub(super) bytes: u64,
    pub(super) info: u8,
}

/// All objects together.
pub(super) struct Inputs<'o> {
    pub(super) architecture: Architecture,
    pub(super) sections: Vec<Section<'o>>,
    pub(super) exports: Vec<Named>,
    pub(super) imports: Vec<Named>,
}

type File<'o> = ElfFile64<'o, LittleEndian>;

fn text(error: object::Error) -> String {
    error.to_string()
}

impl<'o> Inputs<'o> {
    pub(super) fn read(objects: &[&'o [u8]]) -> Result<Inputs<'o>, String> {
        let files = objects.iter().map(|object| parse(object)).collect::<Result<Vec<_>, _>>()?;
        let architecture = files.first().map(architecture).transpose()?.unwrap_or(Architecture::X86_64);
        if files.iter().any(|file| self::architecture(file) != Ok(architecture)) {
            return Err("code of several architectures".to_string());
        }
        let mut inputs = Inputs { architecture, sections: Vec::new(), exports: Vec::new(), imports: Vec::new() };
        let mut numbers = HashMap::new();
        for (object, file) in files.iter().enumerate() {
            for section in file.sections() {
                let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
                let name = section.name().unwrap_or_default();
                // How a stack is unwound: nothing unwinds through these libraries.
                let is_loaded = sh_flags & u64::from(elf::SHF_ALLOC) != 0 && section.size() > 0 && name != ".eh_frame";
                if is_loaded && section.kind() != SectionKind::Note {
                    numbers.insert((object, section.index()), inputs.sections.len());
                    inputs.sections.push(Section {
                        object,
                        index: section.index(),
                        rights: rights(name, section.kind())?,
                        align: section.align().max(1),
                        size: section.size(),
                        data: section.data().map_err(text)?,
                        relocations: Vec::new(),
                    });
                }
            }
        }
        let globals = inputs.globals(&files, &numbers)?;
        for section in &mut inputs.sections {
            let file = &files[section.object];
            let of = file.section_by_index(section.index).map_err(text)?;
            for (offset, relocation) in of.relocations() {
                let RelocationTarget::Symbol(symbol) = relocation.target() else {
                    return Err(format!("a relocation of {:?}", relocation.target()));
                };
                let RelocationFlags::Elf { r_type } = relocation.flags() else { continue };
                if relocation::is_mark(architecture, r_type) {
                    continue;
                }
                let name = file.symbol_by_index(symbol).and_then(|symbol| symbol.name()).unwrap_or_default();
                let to = resolve(file, section.object, symbol, &numbers, &globals)?;
                let known = relocation::of(architecture, r_type);
                let (kind, field) = known.ok_or_else(|| format!("a relocation of type {r_type} to `{name}`"))?;
                let reaches = match (kind, to) {
                    (Kind::Place | Kind::InThread | Kind::Variable, Target::Import(_)) => false,
                    (Kind::Place | Kind::InThread | Kind::Variable, Target::Place(..)) => true,
                    (Kind::Address | Kind::Word | Kind::Thread, Target::Place(..) | Target::Import(_)) => true,
                };
                let is_filled = matches!(section.rights, Rights::Relocated | Rights::Data | Rights::Thread);
                if kind == Kind::Address && !is_filled {
                    return Err(format!("the address of `{name}` where the loader may not write"));
                }
                if !reaches {
                    return Err(format!("the distance to `{name}`, which is in no object"));
                }
                section.relocations.push(Relocation { offset, kind, field, to, addend: relocation.addend() });
            }
        }
        inputs.imports.iter_mut().for_each(|import| import.place = None);
        Ok(inputs)
    }

    /// Each global symbol by its name; fills in exports and imports.
    fn globals(
        &mut self,
        files: &[File<'o>],
        numbers: &HashMap<(usize, SectionIndex), usize>,
    ) -> Result<HashMap<String, Target>, String> {
        let mut globals = HashMap::new();
        for (object, file) in files.iter().enumerate() {
            for symbol in file.symbols().filter(|symbol| symbol.is_global() && !symbol.is_undefined()) {
                let name = symbol.name().map_err(text)?.to_string();
                let section = symbol.section_index().and_then(|index| numbers.get(&(object, index)));
                let section = *section.ok_or_else(|| format!("`{name}` outside of what is loaded"))?;
                let place = Target::Place(section, symbol.address());
                if globals.insert(name.clone(), place).is_some() {
                    return Err(format!("two symbols `{name}`"));
                }
                if let SymbolFlags::Elf { st_info, st_other } = symbol.flags()
                    && st_other & 3 == elf::STV_DEFAULT
                {
                    self.exports.push(Named { name, place: Some(place), bytes: symbol.size(), info: st_info });
                }
            }
        }
        for symbol in files.iter().flat_map(|file| file.symbols()).filter(|symbol| symbol.is_undefined()) {
            let name = symbol.name().map_err(text)?.to_string();
            // Compilers name the table of addresses, which no relocation needs by its name.
            if name.is_empty() || name == "_GLOBAL_OFFSET_TABLE_" || globals.contains_key(&name) {
                continue;
            }
            let SymbolFlags::Elf { st_info, .. } = symbol.flags() else { continue };
            globals.insert(name.clone(), Target::Import(self.imports.len()));
            self.imports.push(Named { name, place: None, bytes: 0, info: st_info });
        }
        Ok(globals)
    }
}

fn parse(object: &[u8]) -> Result<File<'_>, String> {
    let file = File::parse(object).map_err(text)?;
    if file.kind() == ObjectKind::Relocatable {
        architecture(&file).map(|_| file)
    } else {
        Err("code that is linked already".to_string())
    }
}

fn architecture(file: &File<'_>) -> Result<Architecture, String> {
    match file.architecture() {
        object::Architecture::X86_64 => Ok(Architecture::X86_64),
        object::Architecture::Aarch64 => Ok(Architecture::Aarch64),
        other => Err(format!("code for {other:?}")),
    }
}

fn rights(name: &str, kind: SectionKind) -> Result<Rights, String> {
    match kind {
        SectionKind::Text => Ok(Rights::Code),
        SectionKind::ReadOnlyData | SectionKind::ReadOnlyString => Ok(Rights::Constants),
        SectionKind::Tls | SectionKind::UninitializedTls => Ok(Rights::Thread),
        SectionKind::ReadOnlyDataWithRel => Ok(Rights::Relocated),
        SectionKind::Data | SectionKind::UninitializedData if name.starts_with(".data.rel.ro") => Ok(Rights::Relocated),
        SectionKind::Data | SectionKind::UninitializedData => Ok(Rights::Data),
        other => Err(format!("a section `{name}` of kind {other:?}")),
    }
}

fn resolve(
    file: &File<'_>,
    object: usize,
    symbol: SymbolIndex,
    numbers: &HashMap<(usize, SectionIndex), usize>,
    globals: &HashMap<String, Target>,
) -> Result<Target, String> {
    let symbol = file.symbol_by_index(symbol).map_err(text)?;
    let name = symbol.name().unwrap_or_default();
    if let Some(target) = (symbol.is_global() || symbol.is_undefined()).then(|| globals.get(name)).flatten() {
        return Ok(*target);
    }
    let section = symbol.section_index().and_then(|index| numbers.get(&(object, index)));
    let section = section.ok_or_else(|| format!("a reference to `{name}`, which it does not have"))?;
    Ok(Target::Place(*section, symbol.address()))
}
