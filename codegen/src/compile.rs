//! From a program to its objects: what LLVM writes, linked or assembled.

use moec_ir::Machine;
use moec_ir::kernel::{Kernel, Program, layout};

use crate::{Error, Image, KernelInfo, Object, Options, emit, symbol, target};

/// Compiles a program that `moec_ir`'s verifier accepts for `machine`: PTX (and a cubin, with
/// [`Options::ptxas`]) for a GPU, a shared object for a host. The same program gives the same bytes.
///
/// # Errors
/// [`Error::Malformed`] where the verifier would refuse a kernel, [`Error::Unsupported`] and [`Error::Shared`] where the machine
/// lacks what it needs, [`Error::Llvm`], [`Error::Link`]; of the tools [`Error::NoLinker`], [`Error::Tool`] and [`Error::Io`].
pub fn codegen(program: &Program, machine: &Machine, options: &Options) -> Result<Vec<Object>, Error> {
    let target = target::of(machine);
    let image = target.image(&program.name, emit::emit(program, machine, &*target, target.file())?)?;
    let kernels = program.kernels.iter().map(|kernel| info(program, kernel, machine)).collect();
    let object = Object { target: machine.name.to_string(), image, kernels, warnings: Vec::new() };
    let cubin = match (&object.image, &options.ptxas) {
        (Image::Ptx(_), Some(ptxas)) => Some(ptxas.assemble(&object)?),
        (Image::Ptx(_) | Image::Cubin(_) | Image::SharedObject(_), _) => None,
    };
    Ok(std::iter::once(object).chain(cubin).collect())
}

/// LLVM's text for the program before its optimiser runs: what this crate says, and not what LLVM makes of it.
///
/// # Errors
/// [`Error::Malformed`], [`Error::Unsupported`], [`Error::Shared`], as [`codegen`].
pub fn llvm_text(program: &Program, machine: &Machine) -> Result<String, Error> {
    emit::text(program, machine, &*target::of(machine))
}

/// The machine's assembly: PTX for a GPU.
///
/// # Errors
/// [`Error::Malformed`], [`Error::Unsupported`], [`Error::Shared`], [`Error::Llvm`], as [`codegen`].
pub fn assembly(program: &Program, machine: &Machine) -> Result<String, Error> {
    let bytes = emit::emit(program, machine, &*target::of(machine), emit::File::Assembly)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The version of LLVM in use.
pub fn llvm_version() -> String {
    let (major, minor, patch) = inkwell::support::get_llvm_version();
    format!("{major}.{minor}.{patch}")
}

fn info(program: &Program, kernel: &Kernel, machine: &Machine) -> KernelInfo {
    let layout = layout(kernel);
    let dynamic = layout.dynamic_bytes(machine);
    let shared_bytes = if dynamic > 0 { 0 } else { layout.bytes };
    let symbol = symbol::symbol(program, machine, &kernel.name);
    KernelInfo { name: kernel.name.clone(), symbol, shared_bytes, dynamic_shared_bytes: dynamic, usage: None }
}
