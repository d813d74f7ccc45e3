//! `moec plan`: what a layer launches for some batches and what the cost model says of it. The figures and how they look are in the
//! library's `plan`.

use std::io::Write;
use std::path::PathBuf;

use moec::diagnostics::{Code, Diagnostic};
use moec::pipeline::{self, Lowered};
use moec::plan::{self, plan as plan_of};
use moec::spec::{Host, Pack, Spec, Word};
use moec_codegen::{Object, Options, Ptxas};
use moec_ir::Machine;
use moec_runtime::Error;

use super::{Failure, Notes, entry_of, machines, spec_of, write_documents};
use crate::cli::Plan;
use crate::files::report_in;

/// Plans a layer, and prints or writes the plan.
pub(super) fn plan(arguments: &Plan, notes: Notes, out: &mut dyn Write) -> Result<(), Failure> {
    let machines = machines(&arguments.targets)?;
    check_outputs(arguments, &machines)?;
    let (spec, source) = spec_of(&arguments.of, notes)?;
    let entry = entry_of(arguments.entry, (&spec, &source), notes)?;
    let tokens = token_counts(arguments, &spec);
    if let Some(most) = tokens.iter().find(|tokens| **tokens > spec.tokens.max) {
        let error = Error::TokensAboveMax { tokens: *most, max: spec.tokens.max };
        return Err(report_in(&source, Diagnostic::of_run(error, &source)).into());
    }
    let ptxas = if machines.iter().any(Machine::is_gpu) { Ptxas::find() } else { None };
    if ptxas.is_none() && machines.iter().any(Machine::is_gpu) {
        notes.say("note: ptxas was not found, so that the plan has no registers");
    }
    let failed = |error: pipeline::Error| report_in(&source, Diagnostic::of_spec(error, &source));
    let mut lowered: Vec<(&Machine, Lowered, Vec<Object>)> = Vec::new();
    let progress = notes.steps("planning", machines.len());
    for machine in &machines {
        let of_machine = match &ptxas {
            // Only an assembler knows registers, and it takes compiled kernels.
            Some(_) if machine.is_gpu() => {
                let options = Options { ptxas: ptxas.clone() };
                let built = pipeline::build(&spec, entry, std::slice::from_ref(machine), &options).map_err(failed)?;
                built.into_iter().map(|(_, lowered, objects)| (machine, lowered, objects)).collect()
            }
            Some(_) | None => vec![(machine, pipeline::lower(&spec, entry, machine).map_err(failed)?, Vec::new())],
        };
        lowered.extend(of_machine);
        progress.step();
    }
    drop(progress);
    let lowered: Vec<(&Machine, &Lowered, &[Object])> =
        lowered.iter().map(|(machine, lowered, objects)| (*machine, lowered, objects.as_slice())).collect();
    let mut plan = plan_of(&entry.name(&spec), &lowered, &tokens).map_err(|error| failed(error.into()))?;
    for (target, machine) in plan.targets.iter_mut().zip(&machines).filter(|(_, machine)| !machine.is_gpu()) {
        let lower = |pack: &Pack| {
            let spec = Spec { host: Host { pack: *pack }, ..spec.clone() };
            pipeline::lower(&spec, entry, machine).map(|lowered| (*pack, lowered)).map_err(failed)
        };
        let packs = Pack::ALL.iter().map(lower).collect::<Result<Vec<_>, _>>()?;
        target.packs = plan::packing(machine, spec.host.pack, &packs, &tokens);
    }
    let json = || {
        let text = serde_json::to_string_pretty(&plan).map(|text| text + "\n");
        text.map_err(|error| Diagnostic::new(Code::Bug, format!("the plan has no JSON: {error}")))
    };
    let svg = || plan.targets.first().map_or(String::new(), |target| plan::roofline(&plan.layer, target));
    let documents = [
        (&arguments.json, arguments.json.is_some().then(json).transpose()?),
        (&arguments.svg, arguments.svg.is_some().then(svg)),
    ];
    write_documents(documents, || plan::text(&plan), notes, out)
}

/// Those asked for, each once, or those that the spec expects.
fn token_counts(arguments: &Plan, spec: &Spec) -> Vec<u64> {
    let asked = arguments.tokens.as_ref().map_or(&spec.tokens.expected, |tokens| &tokens.0);
    let mut counts: Vec<u64> = Vec::new();
    for tokens in asked {
        if !counts.contains(tokens) {
            counts.push(*tokens);
        }
    }
    counts
}

/// What can be said of the files to write before there is anything to write.
fn check_outputs(arguments: &Plan, machines: &[Machine]) -> Result<(), Diagnostic> {
    let dash = Some(PathBuf::from("-"));
    if arguments.json == dash && arguments.svg == dash {
        let diagnostic = Diagnostic::new(Code::UsageConflict, "standard output is either the JSON or the picture");
        return Err(diagnostic.help("name a file for one of them"));
    }
    if arguments.svg.is_some() && machines.len() > 1 {
        let diagnostic = Diagnostic::new(Code::UsageConflict, format!("{} targets do not go into one picture", machines.len()));
        return Err(diagnostic.help("name one by `--target`"));
    }
    Ok(())
}
