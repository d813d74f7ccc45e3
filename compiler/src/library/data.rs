//! The tables as an object: the bytes that a C compiler would make of `c`, and the addresses that the loader fills in.

use moec_ir::machine::Architecture;
use object::write::{Object, Relocation, SectionId, Symbol, SymbolId, SymbolSection};
use object::{RelocationFlags, SectionKind, SymbolFlags, SymbolKind, SymbolScope, elf};

use super::Refused;
use super::elf::{empty, written};
use super::tables::{Cell, Table, Tables};

/// The symbol of the tables in the launcher: `moec_layer`.
pub(super) fn root(prefix: &str) -> String {
    format!("{prefix}_layer")
}

/// The object with the tables of one layer.
pub(super) fn object(architecture: Architecture, prefix: &str, tables: &Tables) -> Result<Vec<u8>, Refused> {
    let mut writer = Writer::new(architecture);
    for table in &tables.tables {
        writer.table(table)?;
    }
    let layer = Struct::of(&tables.root);
    let at = writer.put(&layer)?;
    writer.symbol(&root(prefix), SymbolSection::Section(writer.data), at, layer.bytes);
    written(writer.out).map_err(|error| refused(&error))
}

fn refused(error: &object::write::Error) -> Refused {
    Refused::Image { target: "the tables".to_string(), why: error.to_string() }
}

/// Members, each with its offset.
struct Struct<'t> {
    cells: Vec<(u64, &'t Cell)>,
    bytes: u64,
    align: u64,
}

impl Struct<'_> {
    fn of(cells: &[Cell]) -> Struct<'_> {
        let (mut end, mut most) = (0u64, 1);
        let mut placed = Vec::new();
        for cell in cells {
            let (bytes, align) = layout(cell);
            let offset = end.next_multiple_of(align);
            placed.push((offset, cell));
            (end, most) = (offset + bytes, most.max(align));
        }
        Struct { cells: placed, bytes: end.next_multiple_of(most), align: most }
    }
}

/// Bytes and alignment: System V ABI, AMD64 supplement, section 3.1, and the same for Arm: Procedure Call Standard, section 5.1.
fn layout(cell: &Cell) -> (u64, u64) {
    match cell {
        Cell::Number(_) => (4, 4),
        Cell::Numbers(values) => (4 * values.len() as u64, 4),
        Cell::DType(..) => (4, 2),
        Cell::Long(_) | Cell::Text(_) | Cell::Symbol(_) | Cell::Size | Cell::Table(_) => (8, 8),
    }
}

struct Writer {
    out: Object<'static>,
    /// The type of the relocation to an address.
    r_type: u32,
    data: SectionId,
    data_symbol: SymbolId,
    strings: SectionId,
    strings_symbol: SymbolId,
    /// Where each table begins that has rows.
    tables: Vec<(&'static str, u64)>,
}

impl Writer {
    fn new(architecture: Architecture) -> Writer {
        let mut out = empty(architecture);
        let r_type = match architecture {
            Architecture::X86_64 => elf::R_X86_64_64,
            Architecture::Aarch64 => elf::R_AARCH64_ABS64,
        };
        let data = out.add_section(Vec::new(), b".data.rel.ro".to_vec(), SectionKind::ReadOnlyDataWithRel);
        let strings = out.add_section(Vec::new(), b".rodata".to_vec(), SectionKind::ReadOnlyData);
        let (data_symbol, strings_symbol) = (out.section_symbol(data), out.section_symbol(strings));
        Writer { out, r_type, data, data_symbol, strings, strings_symbol, tables: Vec::new() }
    }

    fn table(&mut self, table: &Table) -> Result<(), Refused> {
        let mut first = None;
        for row in &table.rows {
            let at = self.put(&Struct::of(&row.cells))?;
            first.get_or_insert(at);
        }
        self.tables.extend(first.map(|first| (table.name, first)));
        Ok(())
    }

    /// Where the struct begins. Rows of one table follow each other: each is as long as its alignment asks for.
    fn put(&mut self, of: &Struct<'_>) -> Result<u64, Refused> {
        let mut bytes = vec![0; of.bytes as usize];
        let mut open = Vec::new();
        for (offset, cell) in &of.cells {
            let at = *offset as usize;
            match cell {
                Cell::Number(value) => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                Cell::Numbers(values) => {
                    let all: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    bytes[at..at + all.len()].copy_from_slice(&all);
                }
                Cell::Long(value) => bytes[at..at + 8].copy_from_slice(&value.to_le_bytes()),
                Cell::Size => bytes[at..at + 8].copy_from_slice(&of.bytes.to_le_bytes()),
                Cell::DType(code, bits) => bytes[at..at + 4].copy_from_slice(&[*code, *bits, 1, 0]),
                Cell::Text(text) => {
                    let text = [text.as_bytes(), &[0]].concat();
                    let addend = self.out.append_section_data(self.strings, &text, 1);
                    open.push((*offset, self.strings_symbol, addend));
                }
                Cell::Table(name) => {
                    let known = self.tables.iter().find(|(known, _)| known == name);
                    open.extend(known.map(|(_, place)| (*offset, self.data_symbol, *place)));
                }
                Cell::Symbol(Some(name)) => {
                    let symbol = self.undefined(name);
                    open.push((*offset, symbol, 0));
                }
                Cell::Symbol(None) => {}
            }
        }
        // A table of words follows one of long words at once, and other way round.
        let at = self.out.append_section_data(self.data, &bytes, of.align);
        for (offset, symbol, addend) in open {
            let flags = RelocationFlags::Elf { r_type: self.r_type };
            let addend = i64::try_from(addend).unwrap_or(i64::MAX);
            let relocation = Relocation { offset: at + offset, symbol, addend, flags };
            self.out.add_relocation(self.data, relocation).map_err(|error| refused(&error))?;
        }
        Ok(at)
    }

    fn undefined(&mut self, name: &str) -> SymbolId {
        self.out.symbol_id(name.as_bytes()).unwrap_or_else(|| self.symbol(name, SymbolSection::Undefined, 0, 0))
    }

    fn symbol(&mut self, name: &str, section: SymbolSection, value: u64, size: u64) -> SymbolId {
        let (name, flags) = (name.as_bytes().to_vec(), SymbolFlags::None);
        let (kind, scope) = (SymbolKind::Data, SymbolScope::Linkage);
        self.out.add_symbol(Symbol { name, value, size, kind, scope, weak: false, section, flags })
    }
}
