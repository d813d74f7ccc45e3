//! A program through LLVM: a module is written, verified, optimised and emitted. What is written in it is `lower`'s.

use std::sync::Once;

use inkwell::OptimizationLevel;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{CodeModel, FileType, InitializationConfig, RelocMode, TargetMachine, TargetTriple};
use moec_ir::Machine;
use moec_ir::kernel::Program;

use crate::Error;
use crate::llvm::{Ir, Session};
use crate::lower;
use crate::symbol;
use crate::target::Target;

/// What LLVM is to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File {
    /// Text for an assembler.
    Assembly,
    /// A relocatable object.
    Object,
}

/// The optimised program as `file`.
pub(crate) fn emit(program: &Program, machine: &Machine, target: &dyn Target, file: File) -> Result<Vec<u8>, Error> {
    let session = Session::new();
    let refused = |message| refusal(program, machine, message);
    let llvm = target_machine(target).map_err(refused)?;
    let ir = write(&session, program, machine, target, &llvm)?;
    compile(&session, &ir, target, &llvm, file).map_err(refused)
}

/// The program as LLVM text, not optimised.
pub(crate) fn text(program: &Program, machine: &Machine, target: &dyn Target) -> Result<String, Error> {
    let session = Session::new();
    let llvm = target_machine(target).map_err(|message| refusal(program, machine, message))?;
    Ok(write(&session, program, machine, target, &llvm)?.module.print_to_string().to_string())
}

fn write<'c>(
    session: &'c Session,
    program: &Program,
    machine: &Machine,
    target: &dyn Target,
    llvm: &TargetMachine,
) -> Result<Ir<'c>, Error> {
    let ir = session.module(&program.name, symbol::prefix(program, machine));
    ir.module.set_triple(&llvm.get_triple());
    ir.module.set_data_layout(&llvm.get_target_data().get_data_layout());
    for (i, kernel) in program.kernels.iter().enumerate() {
        lower::kernel(&ir, target, machine, kernel, &program.alone(i))?;
    }
    ir.module.verify().map_err(|e| refusal(program, machine, e.to_string()))?;
    Ok(ir)
}

/// LLVM's message, with the kernel that it names if it names one.
fn refusal(program: &Program, machine: &Machine, message: String) -> Error {
    let named = program.kernels.iter().find(|k| message.contains(&symbol::symbol(program, machine, &k.name)));
    Error::Llvm { kernel: named.map_or(&program.name, |k| &k.name).clone(), machine: machine.name, message }
}

/// Optimises the module and writes it as `file`.
fn compile(session: &Session, ir: &Ir<'_>, target: &dyn Target, llvm: &TargetMachine, file: File) -> Result<Vec<u8>, String> {
    let kind = match file {
        File::Assembly => FileType::Assembly,
        File::Object => FileType::Object,
    };
    let options = PassBuilderOptions::create();
    options.set_loop_unrolling(false);
    ir.module.run_passes(target.passes(), llvm, options).map_err(|e| e.to_string())?;
    let buffer = llvm.write_to_memory_buffer(&ir.module, kind).map_err(|e| e.to_string())?;
    let errors = session.take_errors();
    if errors.is_empty() { Ok(buffer.as_slice().to_vec()) } else { Err(errors.join("; ")) }
}

fn target_machine(target: &dyn Target) -> Result<TargetMachine, String> {
    static TARGETS: Once = Once::new();
    TARGETS.call_once(|| {
        let config = InitializationConfig { asm_parser: false, disassembler: false, ..InitializationConfig::default() };
        inkwell::targets::Target::initialize_nvptx(&config);
        inkwell::targets::Target::initialize_x86(&config);
        inkwell::targets::Target::initialize_aarch64(&config);
    });
    let triple = TargetTriple::create(target.triple());
    let (level, reloc, model) = (OptimizationLevel::Aggressive, RelocMode::PIC, CodeModel::Default);
    inkwell::targets::Target::from_triple(&triple)
        .map_err(|e| e.to_string())?
        .create_target_machine(&triple, target.cpu(), &target.features(), level, reloc, model)
        .ok_or_else(|| format!("no target machine for {}", target.triple()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target;

    /// Left to itself LLVM prints such an error and calls exit(1).
    #[test]
    fn an_error_inside_llvm_is_a_value() {
        let target = target::of(&Machine::named("x86-64-v3").expect("a machine"));
        let llvm = target_machine(&*target).expect("a target machine");
        let session = Session::new();
        let ir = session.module("test", "test".to_string());
        let function = ir.function("broken", &[]);
        ir.at(ir.block(function, "entry"));
        let ty = ir.context.void_type().fn_type(&[ir.int(32).into()], false);
        let asm = ir.context.create_inline_asm(ty, "nop".to_string(), "{nosuch}".to_string(), true, false, None, false);
        let builder = ir.context.create_builder();
        builder.position_at_end(ir.current());
        builder.build_indirect_call(ty, asm, &[ir.constant(ir.int(32), 1).into()], "").expect("a call");
        ir.ret();
        let error = compile(&session, &ir, &*target, &llvm, File::Object).expect_err("there is no such register");
        assert!(error.contains("nosuch"), "{error}");
    }
}
