//! The launches of a layer one by one: the memory before each and after it, as the kernel IR's interpreter has it, and one
//! launch of a broken kernel between the two.

use std::collections::{BTreeMap, BTreeSet};

use libtest_mimic::Failed;
use moec::emulate::{options, schedules};
use moec::import::Entry;
use moec::random;
use moec::spec::Mode;
use moec_codegen::Image;
use moec_codegen::symbol::symbol;
use moec_ir::kernel::{Arg, Argument, Given, Memory, Program, Role, interp_kernel, layout};
use moec_ir::{Dims, Machine};
use moec_runtime::package;
use moec_tests::built::built;
use moec_tests::{Example, machine};
use ptx_emulator::{Fill, Launch, Module, Mutant, launch, parse};

/// Token counts: more than one tile of rows, fewer tokens than lanes, and more pairs than a block has threads.
const TOKENS: [u64; 4] = [17, 65, FEW, 290];
/// So few that all blocks that stay are run.
const FEW: u64 = 3;
/// Five tokens for each thread that looks down a column of scores.
const CROWD: u64 = 600;
/// What an early launch begins behind.
const BEFORE: &str = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry before()\n{\n\tret;\n}\n";
/// A broken kernel may spin for ever.
const STEP_LIMIT: u64 = 1 << 24;

/// How a mutant was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Notice {
    /// A check has a finding.
    Finding,
    /// Another result than the kernel IR's interpreter.
    WrongBits,
    /// It cannot be launched.
    Refused,
}

/// One launch.
struct Step {
    kernel: usize,
    blocks: u32,
    early: bool,
    args: Vec<Argument>,
    before: Vec<Memory>,
    after: Vec<Memory>,
}

/// A layer's launches.
pub(crate) struct Steps {
    /// The PTX.
    pub(crate) text: String,
    program: Program,
    machine: Machine,
    steps: Vec<Step>,
}

impl Steps {
    /// Every launch of a random batch of each size.
    pub(crate) fn record(example: &Example, target: &str) -> Result<Steps, Failed> {
        let machine = machine(target);
        let machines = [machine.clone()];
        let built = built(&example.spec, Entry::Layer, &machines)?;
        let manifest = moec::package::package(&example.spec, Entry::Layer, &example.text, &built)?.manifest().clone();
        let (_, lowered, objects) = built.into_iter().next().ok_or("nothing was built")?;
        let ptx = objects.iter().find(|object| matches!(object.image, Image::Ptx(_))).ok_or("no PTX")?;
        let text = String::from_utf8(ptx.image.bytes().to_vec())?;
        let weights = random::weights(&manifest, 3)?;
        let named = manifest.buffers.iter().filter(|buffer| buffer.role == package::Role::Weight).zip(&weights);
        let weights: BTreeMap<&str, &[u8]> = named.map(|(buffer, tensor)| (buffer.name.as_str(), tensor.bytes())).collect();
        let input = manifest.buffers.iter().find(|buffer| buffer.role == package::Role::Input).ok_or("no input")?;
        let mut steps = Steps { text, program: lowered.program, machine, steps: Vec::new() };
        for tokens in TOKENS {
            let x = random::tokens(input.dtype, tokens, example.spec.hidden, tokens)?;
            steps.record_batch(Dims { tokens, sequence_tokens: tokens }, &weights, x.bytes())?;
        }
        if example.spec.router.mode == Mode::ExpertChoice {
            // Several tokens a thread, and scores that tie to the last digit.
            let one = random::tokens(input.dtype, 1, example.spec.hidden, 1)?;
            let dims = Dims { tokens: CROWD, sequence_tokens: CROWD };
            steps.record_batch(dims, &weights, &one.bytes().repeat(CROWD as usize))?;
        }
        Ok(steps)
    }

    /// Every regime computes a batch of any size; a kernel is recorded in the first that has it.
    fn record_batch(&mut self, dims: Dims, weights: &BTreeMap<&str, &[u8]>, input: &[u8]) -> Result<(), Failed> {
        let program = &self.program;
        let memory = |buffer: &moec_ir::kernel::Buffer| {
            let elements: u64 = buffer.shape.iter().map(|extent| extent.at(dims).unwrap_or(0)).product();
            match buffer.role {
                Role::Input => Memory::from(input.to_vec()),
                Role::Weight => Memory::from(weights[buffer.name.as_str()].to_vec()),
                Role::Output | Role::Prepared | Role::Workspace => Memory::unknown((elements * buffer.dtype.bytes()) as usize),
            }
        };
        let mut seen = BTreeSet::new();
        for regime in &program.regimes {
            let mut memory: Vec<Memory> = program.buffers.iter().map(memory).collect();
            let known = seen.clone();
            for launch in program.prepare.iter().chain(&regime.launches) {
                let blocks = launch.grid.at(dims).ok_or("a grid has no value")?;
                let arg = |arg: &Arg| match &arg.given {
                    Given::Buffer(index) => Some(Argument::Buffer(*index)),
                    Given::Scalar(extent) => Some(Argument::Scalar(i64::try_from(extent.at(dims)?).ok()?)),
                    Given::TensorMap(view) => Some(Argument::TensorMap(view.buffer, view.at(dims)?)),
                };
                let mut args: Vec<Argument> =
                    launch.args.iter().map(arg).collect::<Option<_>>().ok_or("an argument has no value")?;
                // Two blocks that stay are enough to have several tiles each, but not to ask for all parts of the next launch.
                let stay = program.kernels[launch.kernel].params.iter().position(|param| param.name == "block_count");
                let blocks = stay.filter(|_| dims.tokens != FEW).map_or(blocks, |at| {
                    args[at] = Argument::Scalar(blocks.min(2) as i64);
                    blocks.min(2)
                });
                let before = memory.clone();
                interp_kernel(&program.kernels[launch.kernel], &self.machine, blocks, &args, &mut memory)?;
                let blocks = u32::try_from(blocks)?;
                seen.insert(launch.kernel);
                if blocks > 0 && !known.contains(&launch.kernel) {
                    self.steps.push(Step {
                        kernel: launch.kernel,
                        blocks,
                        early: launch.early,
                        args,
                        before,
                        after: memory.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// How the mutant is noticed, if it is.
    pub(crate) fn notice(&self, mutant: &Mutant) -> Option<Notice> {
        let Ok(module) = parse(&mutant.text) else { return Some(Notice::Refused) };
        let steps = || self.steps.iter().filter(|step| self.program.kernels[step.kernel].name == self.kernel(mutant));
        let runs = schedules(3, 5).into_iter().flat_map(|schedule| steps().map(move |step| (step, schedule)));
        let mut wrong = None;
        for (step, schedule) in runs {
            match self.run(&module, step, schedule) {
                // A wrong result says less than what is wrong.
                Some(Notice::WrongBits) => wrong = Some(Notice::WrongBits),
                Some(notice) => return Some(notice),
                None => {}
            }
        }
        wrong
    }

    /// The name in the kernel text of the kernel that a mutant is of.
    pub(super) fn kernel<'m>(&self, mutant: &'m Mutant) -> &'m str {
        let prefix = symbol(&self.program, &self.machine, "");
        mutant.kernel.strip_prefix(&prefix).unwrap_or(&mutant.kernel)
    }

    /// Whether a layer as small as these does all that the kernel of a mutant can do. A ring of stages is not gone round with so short a
    /// K, and no persistent block has a second tile: of kernels with such a ring a broken one would look right.
    pub(super) fn exercises(&self, mutant: &Mutant) -> bool {
        let name = self.kernel(mutant);
        self.program.kernels.iter().any(|kernel| kernel.name == name && kernel.mbarriers.is_empty())
    }

    fn run(&self, module: &Module, step: &Step, schedule: (ptx_emulator::Schedule, u64)) -> Option<Notice> {
        let kernel = &self.program.kernels[step.kernel];
        let symbol = symbol(&self.program, &self.machine, &kernel.name);
        let mut memory = ptx_emulator::Memory::new();
        let options = ptx_emulator::Options { step_limit: STEP_LIMIT, max_findings: 1, ..options(self.machine.name, schedule) };
        if step.early {
            let shape = Launch { grid: [1, 1, 1], block: [32, 1, 1], shared_bytes: 0, early: false, args: Vec::new() };
            launch(&parse(BEFORE).ok()?, "before", &shape, &mut memory, &options).ok()?;
        }
        let mut args = Vec::new();
        let mut buffers = Vec::new();
        for arg in &step.args {
            args.push(match arg {
                Argument::Scalar(value) => scalar(module, &symbol, args.len(), *value),
                Argument::TensorMap(..) => unreachable!("no kernel of these takes a map"),
                Argument::Buffer(index) => {
                    let content = step.before[*index].bytes_or(0xab);
                    let is_known = step.before[*index].bytes().is_some();
                    let fill = Fill::Uninitialised(0xab);
                    let buffer = memory.alloc(&self.program.buffers[*index].name, content.len() as u64, fill).ok()?;
                    // What is known in part (rows beyond P) counts as written: whether it is read is another test's business.
                    if is_known || content.iter().any(|byte| *byte != 0xab) {
                        memory.write(buffer, 0, &content).ok()?;
                    }
                    buffers.push((buffer, *index));
                    ptx_emulator::Arg::Buffer(buffer)
                }
            });
        }
        let Some(Ok(args)) = module.entry(&symbol).map(|entry| entry.pack(&memory, &args)) else {
            return Some(Notice::Refused);
        };
        let shared_bytes = layout(kernel).dynamic_bytes(&self.machine) as u32;
        let shape = Launch { grid: [step.blocks, 1, 1], block: [kernel.threads, 1, 1], shared_bytes, early: step.early, args };
        let Ok(report) = launch(module, &symbol, &shape, &mut memory, &options) else { return Some(Notice::Refused) };
        if !report.clean() {
            return Some(Notice::Finding);
        }
        let mut is_right = |(buffer, index): &(ptx_emulator::Buffer, usize)| {
            let (zeros, ones) = (step.after[*index].bytes_or(0), step.after[*index].bytes_or(0xff));
            let emulated = memory.content(*buffer).unwrap_or_default();
            emulated.iter().zip(zeros.iter().zip(&ones)).all(|(byte, (zero, one))| zero != one || byte == zero)
        };
        if buffers.iter().all(&mut is_right) { None } else { Some(Notice::WrongBits) }
    }
}

/// A number in as many bytes as the parameter has.
fn scalar(module: &Module, kernel: &str, index: usize, value: i64) -> ptx_emulator::Arg {
    let bytes = module.entry(kernel).and_then(|entry| entry.params.get(index)).map_or(8, |param| param.bytes);
    if bytes == 4 { ptx_emulator::Arg::I32(value as i32) } else { ptx_emulator::Arg::U64(value.cast_unsigned()) }
}
