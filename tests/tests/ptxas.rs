//! NVIDIA's assembler as an oracle: every kernel of every example spec, of every mode, and of the fixtures with a capacity,
//! for every GPU target, is taken without a warning, a spill or a stack frame. Where there is no ptxas each test is skipped
//! by name.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use libtest_mimic::{Arguments, Trial};
use moec::pipeline::lower;
use moec_codegen::{Image, Options, Ptxas, codegen};
use moec_ir::Machine;
use moec_ir::machine::MACHINES;
use moec_tests::scaled::modes;
use moec_tests::{Example, Fixture, examples, fixtures, skipped};

fn main() {
    let ptxas = Ptxas::find();
    let gpus = || MACHINES.into_iter().filter(Machine::is_gpu);
    let of = |example: &Example| {
        let name = format!("{}::ptxas_takes_every_kernel", example.name);
        let example = example.clone();
        let Some(ptxas) = ptxas.clone() else {
            skipped(&name, "no ptxas was found");
            return Trial::test(name, || Ok(())).with_ignored_flag(true);
        };
        Trial::test(name, move || {
            let wrong: Vec<String> = gpus().flat_map(|gpu| complaints(&example, &gpu, &ptxas)).collect();
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
        })
    };
    let mut arguments = Arguments::from_args();
    // Without ptxas there is nothing that `--include-ignored` could run.
    if ptxas.is_none() {
        arguments.include_ignored = false;
    }
    let example = |Fixture { name, spec, text, file: _ }| Example { name, text, spec };
    let sorting = fixtures().into_iter().filter(|fixture| fixture.spec.capacity.is_some()).map(example);
    let specs: Vec<Example> = examples().into_iter().chain(modes()).chain(sorting).collect();
    libtest_mimic::run(&arguments, specs.iter().map(of).collect()).exit();
}

/// What is wrong with the kernels of an example on a GPU, a line each.
fn complaints(example: &Example, gpu: &Machine, ptxas: &Ptxas) -> Vec<String> {
    let at = format!("{} on {}", example.name, gpu.name);
    let program = lower(&example.spec, gpu).unwrap_or_else(|error| panic!("{at}: {error}")).program;
    let objects = codegen(&program, gpu, &Options { ptxas: Some(ptxas.clone()) });
    let objects = match objects {
        Ok(objects) => objects,
        Err(error) => return vec![format!("{at}: {error}")],
    };
    let cubin = objects.iter().find(|object| matches!(object.image, Image::Cubin(_))).unwrap();
    assert_eq!(cubin.kernels.len(), program.kernels.len(), "{at}");
    let mut wrong: Vec<String> = cubin.warnings.iter().map(|warning| format!("{at}: {warning}")).collect();
    for kernel in &cubin.kernels {
        let Some(usage) = kernel.usage else {
            wrong.push(format!("{at}: ptxas did not mention {}", kernel.name));
            continue;
        };
        let fits = usage.registers > 0 && usage.shared_bytes <= gpu.shared_bytes;
        if !fits || usage.spill_stores + usage.spill_loads + usage.stack_bytes > 0 {
            wrong.push(format!("{at}: {}: {usage:?}", kernel.name));
        }
    }
    wrong
}
