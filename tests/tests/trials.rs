//! The trials: what holds for every example spec, every mode and every published block. `cargo test -p moec-tests --test trials`
//! runs the sample of the day, with a part of a name after it all trials of that name.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod determinism;
mod emulated;
mod fixtures;
mod host;
mod linked;
mod mutants;
mod parts;
mod ptxas;
mod python_loader;
mod stages;
mod workspace;

use libtest_mimic::Arguments;

fn main() {
    let mut arguments = Arguments::from_args();
    let (mutants, tally) = mutants::family();
    let (ptxas, can_assemble) = ptxas::family();
    // Without ptxas there is nothing that `--include-ignored` could run.
    arguments.include_ignored &= can_assemble;
    let families = vec![
        emulated::family(),
        ptxas,
        mutants,
        fixtures::family(),
        host::family(),
        parts::family(),
        linked::family(),
        determinism::family(),
        stages::family(),
        python_loader::family(),
        workspace::family(),
    ];
    moec_tests::trials::run(families, &arguments, || mutants::tell(&tally));
}
