//! The tables as an object: the bytes that a C compiler would make of `c`, and the addresses that the loader fills in.

use object::write::{Object, Relocation, SectionId, Symbol, SymbolId, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind, SymbolScope, elf};

use super::Refused;
use super::tables::{Cell, Table, Tables};

/// The symbol of the tables in the launcher: `moec_layer`.
pub(super) fn root(prefix: &str) -> String {
    format!("{prefix}_layer")
}

/// The object with the tables of one layer.
pub(super) fn object(prefix: &str, tables: &Tables) -> Result<Vec<u8>, Refused> {
    let mut writer = Writer::new();
    let mut places = Vec::new();
    for table in &tables.tables {
        places.push((table.name, writer.table(table)?));
    }
    let place = |name: &str| places.iter().find(|(known, _)| *known == name).map(|(_, at)| *at);
    let names = Struct::of(tables.targets.iter().map(|target| Field::Text(target.clone())).collect());
    let names = writer.put(&names)?;
    let [inputs, outputs, weights] = tables.facts.counts.map(|count| count as u32);
    let info = vec![
        // Its own size, below.
        Field::Long(0),
        Field::Number(ABI_VERSION),
        Field::Number(inputs + outputs + weights),
        Field::Text(tables.layer.clone()),
        Field::Text(tables.facts.compiler.clone()),
        Field::Text(tables.facts.spec_sha256.clone()),
        Field::Place(place("params").flatten()),
        Field::Number(inputs),
        Field::Number(outputs),
        Field::Number(weights),
        Field::Number(tables.targets.len() as u32),
        Field::Place(Some(names)),
        Field::Long(i64::try_from(tables.facts.max_tokens).unwrap_or(i64::MAX)),
    ];
    let mut info = Struct::of(info);
    info.fields[0].1 = Field::Long(info.bytes.cast_signed());
    let info = writer.put(&info)?;
    let mut layer = vec![Field::Place(Some(info))];
    // `params` is of the info.
    layer.extend(places.iter().filter(|(name, _)| *name != "params").map(|(_, at)| Field::Place(*at)));
    layer.extend([tables.common_ops as u32, tables.facts.cuts, tables.facts.cut_align].map(Field::Number));
    layer.push(Field::Long(i64::try_from(tables.facts.workspace_limit).unwrap_or(i64::MAX)));
    let layer = Struct::of(layer);
    let at = writer.put(&layer)?;
    writer.symbol(&root(prefix), SymbolSection::Section(writer.data), at, layer.bytes);
    // Without this section linkers make the stack executable.
    writer.out.add_section(Vec::new(), b".note.GNU-stack".to_vec(), SectionKind::Note);
    writer.out.write().map_err(|error| refused(&error))
}

/// `MOEC_ABI_VERSION`.
const ABI_VERSION: u32 = 1 << 16;

fn refused(error: &object::write::Error) -> Refused {
    Refused::Image { target: "the tables".to_string(), why: error.to_string() }
}

/// A member of a struct.
enum Field {
    Number(u32),
    Numbers(Vec<u32>),
    Long(i64),
    Text(String),
    Symbol(Option<String>),
    DType(u8, u8),
    /// What was put there before; null.
    Place(Option<u64>),
}

impl Field {
    fn of(cell: &Cell) -> Field {
        match cell {
            Cell::Number(value) => Field::Number(*value),
            Cell::Numbers(values) => Field::Numbers(values.clone()),
            Cell::Long(value) => Field::Long(*value),
            Cell::Text(text) => Field::Text(text.clone()),
            Cell::Symbol(symbol) => Field::Symbol(symbol.clone()),
            Cell::DType(code, bits) => Field::DType(*code, *bits),
        }
    }

    /// Bytes and alignment: System V ABI, AMD64 supplement, section 3.1.
    fn layout(&self) -> (u64, u64) {
        match self {
            Field::Number(_) => (4, 4),
            Field::Numbers(values) => (4 * values.len() as u64, 4),
            Field::DType(..) => (4, 2),
            Field::Long(_) | Field::Text(_) | Field::Symbol(_) | Field::Place(_) => (8, 8),
        }
    }
}

/// Members, each with its offset.
struct Struct {
    fields: Vec<(u64, Field)>,
    bytes: u64,
}

impl Struct {
    fn of(fields: Vec<Field>) -> Struct {
        let (mut end, mut most) = (0u64, 1);
        let mut placed = Vec::new();
        for field in fields {
            let (bytes, align) = field.layout();
            let offset = end.next_multiple_of(align);
            placed.push((offset, field));
            (end, most) = (offset + bytes, most.max(align));
        }
        Struct { fields: placed, bytes: end.next_multiple_of(most) }
    }
}

struct Writer {
    out: Object<'static>,
    data: SectionId,
    data_symbol: SymbolId,
    strings: SectionId,
    strings_symbol: SymbolId,
}

impl Writer {
    fn new() -> Writer {
        let mut out = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        let data = out.add_section(Vec::new(), b".data.rel.ro".to_vec(), SectionKind::ReadOnlyDataWithRel);
        let strings = out.add_section(Vec::new(), b".rodata".to_vec(), SectionKind::ReadOnlyData);
        let (data_symbol, strings_symbol) = (out.section_symbol(data), out.section_symbol(strings));
        Writer { out, data, data_symbol, strings, strings_symbol }
    }

    /// Where the table begins; none where it is empty.
    fn table(&mut self, table: &Table) -> Result<Option<u64>, Refused> {
        let mut first = None;
        for row in &table.rows {
            let at = self.put(&Struct::of(row.cells.iter().map(Field::of).collect()))?;
            first.get_or_insert(at);
        }
        Ok(first)
    }

    /// Where the struct begins. Rows of one table follow each other: each is as long as its alignment asks for.
    fn put(&mut self, of: &Struct) -> Result<u64, Refused> {
        let mut bytes = vec![0; of.bytes as usize];
        let mut open = Vec::new();
        for (offset, field) in &of.fields {
            let at = *offset as usize;
            match field {
                Field::Number(value) => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                Field::Numbers(values) => {
                    let all: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    bytes[at..at + all.len()].copy_from_slice(&all);
                }
                Field::Long(value) => bytes[at..at + 8].copy_from_slice(&value.to_le_bytes()),
                Field::DType(code, bits) => bytes[at..at + 4].copy_from_slice(&[*code, *bits, 1, 0]),
                Field::Text(text) => {
                    let text = [text.as_bytes(), &[0]].concat();
                    let addend = self.out.append_section_data(self.strings, &text, 1);
                    open.push((*offset, self.strings_symbol, addend));
                }
                Field::Place(Some(place)) => open.push((*offset, self.data_symbol, *place)),
                Field::Symbol(Some(name)) => {
                    let symbol = self.undefined(name);
                    open.push((*offset, symbol, 0));
                }
                Field::Place(None) | Field::Symbol(None) => {}
            }
        }
        // A table of words follows one of long words at once, and other way round.
        let align = of.fields.iter().map(|(_, field)| field.layout().1).max().unwrap_or(1);
        let at = self.out.append_section_data(self.data, &bytes, align);
        for (offset, symbol, addend) in open {
            let flags = RelocationFlags::Elf { r_type: elf::R_X86_64_64 };
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
