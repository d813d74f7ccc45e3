//! The public names of what comes out: they begin with the program's name, so that kernels of several layers can be linked into
//! one program. A host's have the machine's name too, since the kernels of several hosts may be in one library.

use moec_ir::Machine;
use moec_ir::kernel::Program;
use moec_ir::machine::MachineKind;

/// The symbol of a kernel: `mixtral_8x7b_combine` in PTX, `mixtral_8x7b_x86_64_v4_combine` on a host.
#[must_use]
pub fn symbol(program: &Program, machine: &Machine, kernel: &str) -> String {
    format!("{}_{kernel}", prefix(program, machine))
}

/// A name as an identifier of C and of PTX: what is no ASCII letter and no digit becomes `_`, and `_` is put in front of a digit.
#[must_use]
pub fn identifier(name: &str) -> String {
    let legal = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    let front = name.starts_with(|c: char| c.is_ascii_digit()).then_some('_');
    front.into_iter().chain(legal).collect()
}

pub(crate) fn prefix(program: &Program, machine: &Machine) -> String {
    let layer = identifier(&program.name);
    match machine.kind {
        MachineKind::Gpu { .. } => layer,
        MachineKind::Host { .. } => format!("{layer}_{}", identifier(machine.name)),
    }
}
