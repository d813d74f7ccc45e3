//! A Rust module over the C ABI: a struct with a field for each tensor, and functions that check slices against the layer's shapes.
//! It needs the standard library alone.

use std::fmt::Write;

use moec_runtime::package::{Buffer, DType, Extent, Role};

use super::Refused;
use super::tables::Tables;

/// What is the same for all layers.
const LAYER: &str = include_str!("../../../runtime/launcher/layer.rs");

/// The Rust Reference, "Keywords": what no module can be called.
const KEYWORDS: [&str; 52] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else", "enum",
    "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod", "move", "mut",
    "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "unsafe", "unsized", "use", "virtual", "where", "while", "yield", "Self",
];

/// The module: to be included in a crate that is linked with the layer's library.
pub(super) fn module(prefix: &str, tables: &Tables) -> Result<String, Refused> {
    let is_weight = |buffer: &&Buffer| match buffer.role {
        Role::Input | Role::Output => false,
        Role::Weight | Role::Prepared | Role::Workspace => true,
    };
    let (weights, batch): (Vec<&Buffer>, Vec<&Buffer>) = tables.params.iter().partition(is_weight);
    let params = tables.params.iter().map(param).collect::<Result<Vec<String>, Refused>>()?;
    let rank = tables.params.iter().map(|buffer| buffer.shape.len()).max().unwrap_or(0);
    let first = tables.params.iter().position(|buffer| buffer.role == Role::Input && buffer.shape.contains(&Extent::Tokens));
    let first = first.ok_or_else(|| Refused::Formula("no input whose shape says how many tokens there are".to_string()))?;
    let mut inner = format!(
        "/// The layer's name in its spec.\npub const LAYER: &str = {:?};\n/// SHA-256 of the spec.\npub const SPEC_SHA256: &str = \
         {:?};\n/// The most tokens of a batch.\npub const MAX_TOKENS: usize = {};\n\nconst BATCH: usize = {};\nconst WEIGHTS: usize \
         = {};\nconst RANK: usize = {rank};\nconst PARAMS: [Param; BATCH + WEIGHTS] = [\n{}];\n\nunsafe extern \"C\" {{\n    \
         #[link_name = \"{prefix}_get_api\"]\n    fn get_api(wanted: u32) -> *const Api;\n}}\n\n",
        tables.layer,
        tables.facts.spec_sha256,
        tables.facts.max_tokens,
        batch.len(),
        weights.len(),
        params.concat(),
    );
    inner += &slices(&batch, first);
    inner += &slices_of_weights(&weights);
    inner += &addresses(&batch, &weights);
    LAYER.lines().filter(|line| !line.starts_with("//!")).for_each(|line| inner += &format!("{line}\n"));
    let name = if KEYWORDS.contains(&prefix) { format!("{prefix}_") } else { prefix.to_string() };
    let mut out = format!(
        "// {}: {}. Written by {}. Include this file in a crate, and link that with lib{prefix}.a or lib{prefix}.so.\n\n/// The layer \
         `{}`, by the C ABI of moec.\n#[allow(clippy::all, clippy::pedantic, dead_code, unreachable_pub, unsafe_code)]\npub mod {name} \
         {{\n",
        tables.layer,
        tables.targets.join(", "),
        tables.facts.compiler,
        tables.layer
    );
    for line in inner.lines() {
        let _ = if line.is_empty() { writeln!(out) } else { writeln!(out, "    {line}") };
    }
    Ok(out + "}\n")
}

/// An entry of `PARAMS`.
fn param(buffer: &Buffer) -> Result<String, Refused> {
    let extent = |extent: &Extent| match extent {
        Extent::Const(value) => Ok(value.to_string()),
        Extent::Tokens => Ok("T".to_string()),
        Extent::SequenceTokens
        | Extent::Add(..)
        | Extent::Sub(..)
        | Extent::Mul(..)
        | Extent::Div(..)
        | Extent::Min(..)
        | Extent::Max(..) => Err(Refused::Formula(format!("a tensor `{}` with an extent {extent}", buffer.name))),
    };
    let shape = buffer.shape.iter().map(extent).collect::<Result<Vec<String>, Refused>>()?;
    let dtype = match buffer.dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::Bf16 => "BF16",
        DType::I32 => "I32",
    };
    Ok(format!("    Param {{ name: {:?}, dtype: {dtype}, shape: &[{}] }},\n", buffer.name, shape.join(", ")))
}

/// The type of an element; types that Rust has not are their bits.
fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::F16 | DType::Bf16 => "u16",
        DType::I32 => "i32",
    }
}

/// A line of documentation: `[T, 4096]`, bf16.
fn documented(buffer: &Buffer) -> String {
    let shape: Vec<String> = buffer.shape.iter().map(Extent::to_string).collect();
    let bits = if element(buffer.dtype) == "u16" { ", as bits" } else { "" };
    let dtype = match buffer.dtype {
        DType::F32 => "f32",
        DType::F16 => "f16",
        DType::Bf16 => "bf16",
        DType::I32 => "i32",
    };
    format!("    /// `[{}]`, {dtype}{bits}.\n", shape.join(", "))
}

fn field(buffer: &Buffer) -> String {
    moec_codegen::symbol::identifier(&buffer.name)
}

/// `views` of a struct, each made by the call that `of` gives.
fn views(parameters: &str, count: &str, buffers: &[&Buffer], of: impl Fn(&Buffer) -> String) -> String {
    let all: Vec<String> = buffers.iter().map(|buffer| of(buffer)).collect();
    format!("    fn views({parameters}) -> [View; {count}] {{\n        [{}]\n    }}\n", all.join(", "))
}

fn slices(batch: &[&Buffer], first: usize) -> String {
    let mut out =
        String::from("/// Inputs and outputs of a run in host memory, row-major without gaps.\npub struct Batch<'a> {\n");
    for buffer in batch {
        let kind = if buffer.role == Role::Output { "&'a mut" } else { "&'a" };
        let _ = writeln!(out, "{}    pub {}: {kind} [{}],", documented(buffer), field(buffer), element(buffer.dtype));
    }
    out += "    /// S, which divides T; 0: the batch is one sequence.\n    pub sequence_tokens: usize,\n}\n\nimpl Batch<'_> {\n";
    out += &views("&mut self", "BATCH", batch, |buffer| {
        let call = if buffer.role == Role::Output { "written" } else { "read" };
        format!("View::{call}(self.{})", field(buffer))
    });
    let length = batch.get(first).map_or(String::new(), |buffer| field(buffer));
    out + &format!(
        "\n    fn tokens(&self) -> Result<usize, Error> {{\n        tokens_of(&PARAMS[{first}], self.{length}.len())\n    }}\n}}\n\n"
    )
}

fn slices_of_weights(weights: &[&Buffer]) -> String {
    let mut out = String::from(
        "/// Weights in host memory, row-major without gaps.\n#[derive(Clone, Copy, Debug)]\npub struct Weights<'a> {\n",
    );
    for buffer in weights {
        let _ = writeln!(out, "{}    pub {}: &'a [{}],", documented(buffer), field(buffer), element(buffer.dtype));
    }
    out += "}\n\nimpl Weights<'_> {\n";
    out += &views("&self", "WEIGHTS", weights, |buffer| format!("View::read(self.{})", field(buffer)));
    out + "}\n\n"
}

fn addresses(batch: &[&Buffer], weights: &[&Buffer]) -> String {
    let mut out = String::new();
    for (name, count, what, buffers) in
        [("DeviceBatch", "BATCH", "Inputs and outputs", batch), ("DeviceWeights", "WEIGHTS", "Weights", weights)]
    {
        let _ = writeln!(out, "/// {what} on a GPU, by address.\n#[derive(Clone, Copy, Debug)]\npub struct {name} {{");
        for buffer in buffers {
            let _ = writeln!(out, "{}    pub {}: u64,", documented(buffer), field(buffer));
        }
        if count == "BATCH" {
            out += "    /// T.\n    pub tokens: usize,\n    /// S, which divides T; 0: the batch is one sequence.\n    pub \
                    sequence_tokens: usize,\n";
        }
        let _ = writeln!(out, "}}\n\nimpl {name} {{");
        out += &views("&self", count, buffers, |buffer| format!("View::at(self.{})", field(buffer)));
        out += "}\n\n";
    }
    out
}
