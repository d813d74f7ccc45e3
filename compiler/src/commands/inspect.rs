//! `moec inspect`: what is in a file that moec wrote. A package's side is in `manifest`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use moec::diagnostics::{Code, Diagnostic, Report, Source};
use moec_ir::graph::{Graph, Node, Regime};
use moec_ir::kernel::Program;
use moec_runtime::package;

use super::text::{self, Text};
use super::{Failure, is_package, manifest};
use crate::files::{bytes_text, read, report_at};

/// Says what is in the file; of a package, with `as_manifest`, its manifest.
pub(super) fn inspect(path: &Path, as_manifest: bool, out: &mut dyn Write) -> Result<(), Failure> {
    // Nothing else is read whole before it is known to be a text of sane length.
    if path != Path::new("-") && is_package(path) {
        let bytes = read(path)?;
        let package = package::read(&bytes).map_err(|error| report_at(path, error))?;
        if as_manifest {
            let json = serde_json::to_string_pretty(package.manifest()).map_err(io::Error::other)?;
            writeln!(out, "{json}")?;
        } else {
            manifest::print(&package, bytes.len() as u64, out)?;
        }
        return Ok(());
    }
    if as_manifest {
        let diagnostic = Diagnostic::new(Code::UsageConflict, "only a package has a manifest");
        return Err(report_at(path, diagnostic).into());
    }
    let source = text::read(path)?;
    match text::parse(&source) {
        Some(Ok(Text::Graph(regimes))) => regimes.iter().try_for_each(|regime| print_graph(regime, out))?,
        Some(Ok(Text::Program(program))) => print_program(&program, out)?,
        Some(Err(diagnostic)) => return Err(Report { source, diagnostics: vec![diagnostic] }.into()),
        None if source.text.lines().any(|line| line.trim_start().starts_with(".version")) => print_ptx(&source, out)?,
        None => {
            let diagnostic = Diagnostic::new(Code::UnknownFile, "neither a package, nor a graph, nor kernels, nor PTX")
                .help("a spec is checked by `moec check`");
            return Err(report_at(path, diagnostic).into());
        }
    }
    Ok(())
}

fn print_graph(regime: &Regime<Graph>, out: &mut dyn Write) -> io::Result<()> {
    let graph = &regime.graph;
    let bound = regime.tokens_up_to.map_or(String::new(), |most| format!(", T <= {most}"));
    let inputs = graph.params.iter().filter(|(param, _)| param.is_input()).count();
    writeln!(out, "graph {}: {inputs} inputs, {} weights{bound}", graph.name, graph.params.len() - inputs)?;
    let ops = graph.nodes.as_ref().iter().filter_map(|node| match node {
        Node::Apply(op, _) if *op != moec_ir::graph::Op::List => Some(op.name()),
        Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => None,
    });
    print_counts(counts(ops), out)
}

fn print_program(program: &Program, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "program {}: {} buffers, {} kernels", program.name, program.buffers.len(), program.kernels.len())?;
    if !program.prepare.is_empty() {
        writeln!(out, "  prepare: {} launches", program.prepare.len())?;
    }
    for regime in &program.regimes {
        let bound = regime.tokens_up_to.map_or("any T".to_string(), |most| format!("T <= {most}"));
        writeln!(out, "  {bound}: {} launches", regime.launches.len())?;
    }
    if !program.update.is_empty() {
        writeln!(out, "  update: {} launches", program.update.len())?;
    }
    let width = program.kernels.iter().map(|kernel| kernel.name.len()).max().unwrap_or(0);
    for kernel in &program.kernels {
        let shared: u64 = kernel.shared.iter().map(|(_, array)| u64::from(array.len) * array.elem.bytes()).sum();
        writeln!(
            out,
            "  {:<width$}  {} params, {} threads, {} shared, {} expressions",
            kernel.name,
            kernel.params.len(),
            kernel.threads,
            bytes_text(shared),
            kernel.exprs.len()
        )?;
    }
    Ok(())
}

/// Directives, entries with their parameters, and how often each instruction stands there.
fn print_ptx(source: &Source, out: &mut dyn Write) -> io::Result<()> {
    let directive = |name: &str| source.text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap_or("?").trim();
    writeln!(out, "PTX {} for {}", directive(".version"), directive(".target"))?;
    let text = without_comments(&source.text);
    for entry in text.split(".entry").skip(1) {
        let name = entry.trim_start().split(|c: char| c.is_whitespace() || c == '(' || c == '{').next().unwrap_or("");
        let head = entry.split('{').next().unwrap_or("");
        let body = entry.split_once('{').map_or("", |(_, body)| body);
        let opcodes: Vec<&str> = body.split(';').filter_map(opcode).collect();
        writeln!(out, "  {name}: {} params, {} instructions", head.matches(".param").count(), opcodes.len())?;
    }
    print_counts(counts(text.split(';').filter_map(opcode)), out)
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// The instruction of a statement up to its second dot (`ld.global`, `mma.sync`); none where it is a directive.
fn opcode(statement: &str) -> Option<&str> {
    let code = statement.rsplit(['{', '}']).next()?;
    // A label stands on a line of its own before the statement.
    let code = code.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.ends_with(':'))?;
    let code = if code.starts_with('@') { code.split_once(char::is_whitespace)?.1.trim_start() } else { code };
    let word = code.split_whitespace().next()?;
    let is_instruction = word.starts_with(|c: char| c.is_ascii_lowercase());
    let end = word.match_indices('.').nth(1).map_or(word.len(), |(at, _)| at);
    is_instruction.then_some(&word[..end])
}

fn counts<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    let mut counts: Vec<_> = counts.into_iter().collect();
    // Stable: equals stay in the order of their names.
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

fn print_counts(counts: Vec<(&str, usize)>, out: &mut dyn Write) -> io::Result<()> {
    counts.into_iter().try_for_each(|(name, count)| writeln!(out, "  {count:>6} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes() {
        assert_eq!(opcode("\n\tld.global.v4.f32 {%f1, %f2}, [%rd1]"), None, "the braces cut it: see the next");
        assert_eq!(opcode("\n$L_1:\n\t@%p1 bra $L_2"), Some("bra"));
        assert_eq!(opcode("\n\t.reg .b32 %r<4>"), None);
        assert_eq!(opcode("{\n mma.sync.aligned.m16n8k16"), Some("mma.sync"));
    }
}
