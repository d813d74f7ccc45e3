//! `moec opt`: passes over a graph or kernels, from text to text.

use std::io::Write;

use clap::ValueEnum;
use moec::diagnostics::{Code, Diagnostic, Report, Source};
use moec_ir::graph::{self, Graph, Regime, Typed};
use moec_ir::kernel::{self, Program};
use moec_ir::rewrite::{Batches, rewrite};
use moec_ir::schedule::schedule_regimes;

use super::text::{Text, graph_report, parse_or_refuse, program_report, read};
use super::{Failure, machine};
use crate::cli::{Opt, Pass};

/// Runs the passes and prints what is left.
pub(super) fn opt(arguments: &Opt, out: &mut dyn Write) -> Result<(), Failure> {
    const MOST_PASSES: usize = 64;
    if arguments.pipeline.len() > MOST_PASSES {
        let message = format!("a pipeline of {} passes, at most {MOST_PASSES} are run", arguments.pipeline.len());
        return Err(Diagnostic::new(Code::Usage, message).help("a pass that finds nothing more to do changes nothing").into());
    }
    let (text, source) = parse_or_refuse(read(&arguments.file)?)?;
    let mut text = text;
    for pass in &arguments.pipeline {
        text = apply(*pass, text, arguments, &source)?;
    }
    let printed = match &text {
        Text::Graph(regimes) => graph::print_regimes(regimes.iter().map(as_ref)),
        Text::Program(program) => kernel::print(program),
    };
    out.write_all(printed.as_bytes())?;
    Ok(())
}

fn apply(pass: Pass, text: Text, arguments: &Opt, source: &Source) -> Result<Text, Report> {
    let machine = || machine(arguments.target).map_err(Report::from);
    match (pass, text) {
        (Pass::Verify, Text::Graph(regimes)) => Ok(Text::Graph(typed(regimes, source)?.iter().map(graph_of).collect())),
        (Pass::Verify, Text::Program(program)) => Ok(Text::Program(Box::new(verified(*program, &machine()?, source)?))),
        (Pass::Rewrite, Text::Graph(regimes)) => {
            // The graphs of a layer are equal: any of them will do.
            let graph = typed(regimes, source)?.swap_remove(0).graph;
            let (expected, most, together) = (arguments.tokens.0.clone(), arguments.max_tokens, arguments.batch_invariant);
            let rewritten = rewrite(&graph, &machine()?, &Batches { expected, most, together });
            Ok(Text::Graph(rewritten.regimes.iter().map(graph_of).collect()))
        }
        (Pass::Schedule, Text::Graph(regimes)) => {
            let program = schedule_regimes(&typed(regimes, source)?, &machine()?);
            let failed = |diagnostic| Report { source: source.clone(), diagnostics: vec![diagnostic] };
            program.map(|program| Text::Program(Box::new(program))).map_err(|error| failed(Diagnostic::from(error)))
        }
        (Pass::Rewrite | Pass::Schedule, Text::Program(_)) => {
            let name = pass.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default();
            let diagnostic =
                Diagnostic::new(Code::UsageConflict, format!("the pass `{name}` takes a graph, and these are kernels"));
            Err(diagnostic.help("kernels can be verified, and come from graphs by `schedule`").into())
        }
    }
}

fn typed(regimes: Vec<Regime<Graph>>, source: &Source) -> Result<Vec<Regime<Typed>>, Report> {
    let typed = |regime: Regime<Graph>| {
        // `verify` keeps the graph, and what is wrong with it is shown on it.
        let graph = graph::verify(regime.graph.clone()).map_err(|violations| graph_report(&regime.graph, &violations, source))?;
        Ok(Regime { tokens_up_to: regime.tokens_up_to, graph })
    };
    regimes.into_iter().map(typed).collect()
}

fn graph_of(regime: &Regime<Typed>) -> Regime<Graph> {
    Regime { tokens_up_to: regime.tokens_up_to, graph: regime.graph.graph().clone() }
}

fn as_ref(regime: &Regime<Graph>) -> Regime<&Graph> {
    Regime { tokens_up_to: regime.tokens_up_to, graph: &regime.graph }
}

fn verified(program: Program, machine: &moec_ir::Machine, source: &Source) -> Result<Program, Report> {
    match kernel::verify(&program, machine) {
        Ok(()) => Ok(program),
        Err(violations) => Err(program_report(&program, &violations, source)),
    }
}
