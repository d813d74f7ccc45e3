//! A Rust module over the C ABI: a struct with a field for each tensor, and functions that check slices against the layer's shapes.
//! It needs the standard library alone, and cudarc where it is made for that.

use std::fmt::Write;

use moec_runtime::package::{Buffer, DType, Extent, Role};

use super::Refused;
use super::tables::Tables;

/// What is the same for all layers.
const LAYER: &str = include_str!("../../../runtime/launcher/layer.rs");
const LAYER_CUDARC: &str = include_str!("../../../runtime/launcher/layer_cudarc.rs");

/// Whether the module also has streams and slices of cudarc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cudarc {
    With,
    Without,
}

/// The Rust Reference, "Keywords": what no module can be called.
const KEYWORDS: [&str; 52] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else", "enum",
    "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod", "move", "mut",
    "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "unsafe", "unsized", "use", "virtual", "where", "while", "yield", "Self",
];

/// The module: to be included in a crate that is linked with the layer's library.
pub(super) fn module(prefix: &str, tables: &Tables, cudarc: Cudarc) -> Result<String, Refused> {
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
    let batch = Fields { name: "Batch", buffers: &batch, updated: &tables.facts.updated };
    let weights = Fields { name: "Weights", buffers: &weights, updated: &tables.facts.updated };
    let mut fixed = vec![LAYER];
    inner += &slices(&batch, first);
    inner += &slices_of_weights(&weights);
    inner += &addresses(&batch);
    inner += &addresses(&weights);
    if cudarc == Cudarc::With {
        inner += &cuda_slices(&batch, first);
        inner += &cuda_slices_of_weights(&weights);
        fixed.push(LAYER_CUDARC);
    }
    let lines = fixed.iter().flat_map(|part| part.lines()).filter(|line| !line.starts_with("//!"));
    lines.for_each(|line| inner += &format!("{line}\n"));
    let name = if KEYWORDS.contains(&prefix) { format!("{prefix}_") } else { prefix.to_string() };
    let needs = if cudarc == Cudarc::With { " The crate depends on cudarc 0.19, with its feature `driver`." } else { "" };
    let mut out = format!(
        "// {}: {}. Written by {}. Include this file in a crate, and link that with lib{prefix}.a or lib{prefix}.so.{needs}\n\n/// The layer \
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

/// The tensors of a struct.
struct Fields<'a> {
    name: &'static str,
    buffers: &'a [&'a Buffer],
    /// Names of the weights that an update writes.
    updated: &'a [String],
}

impl Fields<'_> {
    fn is_written(&self, buffer: &Buffer) -> bool {
        buffer.role == Role::Output || self.updated.contains(&buffer.name)
    }

    /// Whether there are fields through which is written, so that the struct is not to be copied.
    fn is_exclusive(&self) -> bool {
        self.buffers.iter().any(|buffer| self.is_written(buffer))
    }

    /// A field for each tensor, of the type that `of` gives.
    fn members(&self, of: impl Fn(&Buffer) -> String) -> String {
        let mut out = String::new();
        for buffer in self.buffers {
            let note = if buffer.role != Role::Output && self.is_written(buffer) { " `update` writes it." } else { "" };
            let documented = documented(buffer);
            let _ = writeln!(out, "{}{note}\n    pub {}: {},", documented.trim_end(), field(buffer), of(buffer));
        }
        out
    }

    /// A list of what `of` gives.
    fn list(&self, of: impl Fn(&Buffer) -> String) -> String {
        let all: Vec<String> = self.buffers.iter().map(|buffer| of(buffer)).collect();
        format!("[{}]", all.join(", "))
    }

    fn count(&self) -> String {
        self.name.to_uppercase()
    }
}

const SEQUENCE: &str = "    /// S, which divides T; 0: the batch is one sequence.\n    pub sequence_tokens: usize,\n";

/// The function that says how many tokens there are.
fn tokens(batch: &Fields<'_>, first: usize) -> String {
    let length = batch.buffers.get(first).map_or(String::new(), |buffer| field(buffer));
    format!(
        "    fn tokens(&self) -> Result<usize, Error> {{\n        tokens_of(&PARAMS[{first}], self.{length}.len())\n    }}\n}}\n\n"
    )
}

/// A function that gives the tensors, written where `is_written`.
fn views(fields: &Fields<'_>, signature: &str, is_written: bool) -> String {
    let list = fields.list(|buffer| {
        let call = if is_written && fields.is_written(buffer) { "written" } else { "read" };
        format!("View::{call}(self.{})", field(buffer))
    });
    format!("    fn {signature} -> [View; {}] {{\n        {list}\n    }}\n\n", fields.count())
}

/// The type of a slice in host memory.
fn slice(fields: &Fields<'_>, buffer: &Buffer) -> String {
    let kind = if fields.is_written(buffer) { "&'a mut" } else { "&'a" };
    format!("{kind} [{}]", element(buffer.dtype))
}

fn slices(batch: &Fields<'_>, first: usize) -> String {
    let members = batch.members(|buffer| slice(batch, buffer));
    let views = views(batch, "views(&mut self)", true);
    format!(
        "/// Inputs and outputs of a run in host memory, row-major without gaps.\npub struct Batch<'a> {{\n{members}{SEQUENCE}}}\n\nimpl \
         Batch<'_> {{\n{views}{}",
        tokens(batch, first)
    )
}

fn slices_of_weights(weights: &Fields<'_>) -> String {
    let derived = if weights.is_exclusive() { "Debug" } else { "Clone, Copy, Debug" };
    let members = weights.members(|buffer| slice(weights, buffer));
    let views = views(weights, "views(&self)", false) + views(weights, "views_mut(&mut self)", true).trim_end();
    format!(
        "/// Weights in host memory, row-major without gaps.\n#[derive({derived})]\npub struct Weights<'a> {{\n{members}}}\n\nimpl \
         Weights<'_> {{\n{views}\n}}\n\n"
    )
}

fn addresses(fields: &Fields<'_>) -> String {
    let (what, more) = match fields.name {
        "Batch" => ("Inputs and outputs", format!("    /// T.\n    pub tokens: usize,\n{SEQUENCE}")),
        _ => ("Weights", String::new()),
    };
    let (name, members) = (fields.name, fields.members(|_| "u64".to_string()));
    let list = fields.list(|buffer| format!("View::at(self.{})", field(buffer)));
    format!(
        "/// {what} on a GPU, by address.\n#[derive(Clone, Copy, Debug)]\npub struct Device{name} {{\n{members}{more}}}\n\nimpl \
         Device{name} {{\n    fn views(&self) -> [View; {}] {{\n        {list}\n    }}\n}}\n\n",
        fields.count()
    )
}

/// The type of a slice on a GPU.
fn cuda_slice(fields: &Fields<'_>, buffer: &Buffer) -> String {
    let kind = if fields.is_written(buffer) { "CudaViewMut" } else { "CudaView" };
    format!("{kind}<'a, {}>", element(buffer.dtype))
}

/// A function that gives the tensors of a GPU, to be written where `is_written`. `params` is where they stand.
fn cuda_views(fields: &Fields<'_>, (name, this): (&str, &str), params: &str, is_written: bool) -> String {
    let count = fields.count();
    let lengths = fields.list(|buffer| {
        let name = field(buffer);
        format!("(self.{name}.len(), self.{name}.stream().context())")
    });
    let slices = fields.list(|buffer| {
        let call = if is_written && fields.is_written(buffer) { "device_ptr_mut" } else { "device_ptr" };
        format!("self.{}.{call}(stream)", field(buffer))
    });
    format!(
        "    fn {name}<'s>(&'s {this}, stream: &'s CudaStream) -> Result<CudaViews<'s, {count}>, Error> {{\n        let lengths = \
         cuda_lengths(&PARAMS[{params}], {lengths}, stream)?;\n        Ok(cuda_views(lengths, {slices}))\n    }}\n\n"
    )
}

fn cuda_slices(batch: &Fields<'_>, first: usize) -> String {
    let members = batch.members(|buffer| cuda_slice(batch, buffer));
    let views = cuda_views(batch, ("views", "mut self"), "..BATCH", true);
    format!(
        "/// Inputs and outputs of a run on a GPU, row-major without gaps.\npub struct CudaBatch<'a> {{\n{members}{SEQUENCE}}}\n\nimpl \
         CudaBatch<'_> {{\n{views}{}",
        tokens(batch, first)
    )
}

fn cuda_slices_of_weights(weights: &Fields<'_>) -> String {
    let members = weights.members(|buffer| cuda_slice(weights, buffer));
    let views = cuda_views(weights, ("views", "self"), "BATCH..", false)
        + cuda_views(weights, ("views_mut", "mut self"), "BATCH..", true).trim_end();
    format!(
        "/// Weights on a GPU, row-major without gaps.\n#[derive(Debug)]\npub struct CudaWeights<'a> {{\n{members}}}\n\nimpl \
         CudaWeights<'_> {{\n{views}\n}}\n\n"
    )
}
