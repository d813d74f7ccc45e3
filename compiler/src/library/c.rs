//! The tables as C11, and with them the launcher: one file that a C compiler takes as it is.

use std::fmt::Write;

use moec_runtime::package::Role;

use super::LAUNCHER;
use super::numbers::NONE;
use super::tables::{Cell, Holds, Row, Table, Tables};

/// What the launcher needs of the system.
const SYSTEM: &str = include_str!("../../../runtime/launcher/system.h");
const TABLES: &str = include_str!("../../../runtime/launcher/tables.h");
/// The functions for other engines.
const ENGINES: [&str; 3] = [
    include_str!("../../../runtime/launcher/kept.h"),
    include_str!("../../../runtime/launcher/tvm_ffi.h"),
    include_str!("../../../runtime/launcher/xla_ffi.h"),
];

/// The launcher of one layer.
pub(super) fn source(prefix: &str, tables: &Tables) -> String {
    let mut out = format!(
        "/* {}: {} of {}. Written by {}; the part below the tables is the same for all layers.\n * Compile it with -std=c11 and link \
         it with {prefix}.o, which has the kernels; it needs libc alone. */\n",
        tables.layer,
        tables.targets.join(", "),
        tables.facts.spec_sha256,
        tables.facts.compiler
    );
    out += SYSTEM;
    let exported = [
        ("MOEC_GET_API", format!("{prefix}_get_api"), "const moec_api *MOEC_GET_API(uint32_t wanted)"),
        (
            "MOEC_TVM_FFI",
            format!("__tvm_ffi_{prefix}"),
            "int MOEC_TVM_FFI(void *self, const void *args, int32_t count, void *result)",
        ),
        ("MOEC_XLA_FFI", format!("__xla_ffi_{prefix}"), "void *MOEC_XLA_FFI(void *call_frame)"),
    ];
    for (any, own, _) in &exported {
        let _ = writeln!(out, "#define {any} {own}");
    }
    for (_, _, function) in &exported {
        let _ = writeln!(out, "MOEC_EXPORT {function};");
    }
    out += "\n";
    out += TABLES;
    out += "\n";
    out += &declarations(tables);
    for table in &tables.tables {
        out += &array(table);
    }
    out += &root(tables);
    for part in LAUNCHER.iter().chain(&ENGINES) {
        out += "\n";
        out += part;
    }
    out
}

/// What the object has that the tables name.
fn declarations(tables: &Tables) -> String {
    let mut out = String::new();
    for image in tables.images.iter().filter(|image| image.holds != Holds::Code) {
        let _ = writeln!(out, "extern MOEC_HIDDEN const char {}[];", image.symbol);
    }
    let functions = tables.tables.iter().filter(|table| table.name == "functions").flat_map(|table| &table.rows);
    for cell in functions.flat_map(|row| &row.cells) {
        if let Cell::Symbol(Some(symbol)) = cell {
            let _ = writeln!(out, "extern MOEC_HIDDEN void {symbol}(const uint64_t *, uint64_t, uint64_t);");
        }
    }
    out
}

fn array(Table { name, c_type, rows }: &Table) -> String {
    if rows.is_empty() {
        return format!("\n#define layer_{name} NULL\n");
    }
    let mut out = format!("\nstatic const {c_type} layer_{name}[] = {{\n");
    for Row { cells, note } in rows {
        let cells: Vec<String> = cells.iter().map(|member| cell(member, c_type)).collect();
        let is_scalar = cells.len() == 1;
        let list = cells.join(", ");
        let note = if note.is_empty() { String::new() } else { format!(" /* {note} */") };
        let _ = if is_scalar { writeln!(out, "    {list},{note}") } else { writeln!(out, "    {{{list}}},{note}") };
    }
    out + "};\n"
}

/// A member of a struct of this type.
fn cell(cell: &Cell, of: &str) -> String {
    match cell {
        Cell::Number(NONE) => "NONE".to_string(),
        Cell::Number(value) => value.to_string(),
        Cell::Numbers(values) => {
            let values: Vec<String> = values.iter().map(u32::to_string).collect();
            format!("{{{}}}", values.join(", "))
        }
        Cell::Long(i64::MAX) => "INT64_MAX".to_string(),
        Cell::Long(value) => value.to_string(),
        Cell::Text(text) => literal(text),
        Cell::Symbol(Some(symbol)) => symbol.clone(),
        Cell::Symbol(None) => "NULL".to_string(),
        Cell::DType(code, bits) => format!("{{{code}, {bits}, 1}}"),
        Cell::Size => format!("sizeof({of})"),
        Cell::Table(name) => format!("layer_{name}"),
    }
}

/// A string literal; in pieces of a few thousand characters, since compilers have bounds.
fn literal(text: &str) -> String {
    let mut out = String::from("\"");
    for (index, byte) in text.bytes().enumerate() {
        if index > 0 && index % 2000 == 0 {
            out += "\"\n        \"";
        }
        match byte {
            b'"' => out += "\\\"",
            b'\\' => out += "\\\\",
            // `??` begins a trigraph.
            b'?' => out += "\\?",
            b' '..=b'~' => out.push(char::from(byte)),
            other => out += &format!("\\{other:03o}"),
        }
    }
    out + "\""
}

fn root(tables: &Tables) -> String {
    let cells: Vec<String> = tables.root.iter().map(|member| cell(member, "moec_layer")).collect();
    format!("\nstatic const moec_layer tables = {{\n    {},\n}};\n", cells.join(", "))
}

/// What a caller of this layer includes.
pub(super) fn header(prefix: &str, tables: &Tables) -> String {
    let upper = prefix.to_ascii_uppercase();
    let mut out = format!(
        "/* {}: {}. Written by {}. */\n#ifndef {upper}_H_\n#define {upper}_H_\n\n#include \"moec_abi.h\"\n\n#ifdef __cplusplus\nextern \
         \"C\" {{\n#endif\n\nconst moec_api *{prefix}_get_api(uint32_t wanted_abi_version);\n\n/* Places in moec_run_args.params: inputs, \
         outputs, then the weights where there is no binding. */\nenum {{\n",
        tables.layer,
        tables.targets.join(", "),
        tables.facts.compiler
    );
    for (index, buffer) in tables.params.iter().enumerate() {
        let role = match buffer.role {
            Role::Input => "input",
            Role::Output => "output",
            Role::Weight | Role::Prepared | Role::Workspace => "weight",
        };
        let name = moec_codegen::symbol::identifier(&buffer.name).to_ascii_uppercase();
        let _ = writeln!(out, "    {upper}_{name} = {index}, /* {role} */");
    }
    let _ = write!(out, "    {upper}_PARAMS = {}\n}};\n\n#ifdef __cplusplus\n}}\n#endif\n#endif\n", tables.params.len());
    out
}
