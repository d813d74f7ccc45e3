//! What each command does, in terms of the library: the product to `out`, everything else to stderr or into the error.
//! Flags and their help are in `cli`.

mod about;
mod check;
mod compare;
mod compile;
mod emulate;
mod import;
mod inspect;
mod limit;
mod link;
mod manifest;
mod memory;
mod opt;
mod plan;
mod report;
mod route;
mod run;
mod text;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use moec::diagnostics::{Code, Diagnostic, MessageFormat, Report, Severity, Source, quote};
use moec::import::Entry;
use moec::spec::{self, Spec};
use moec::{hugging_face, vocabulary};
use moec_ir::Machine;
use moec_runtime::{Checkpoint, Error, Format, Package};

pub(crate) use self::limit::remembered_at;
pub(crate) use self::run::InputArgument;
use crate::cli::{Check, Cli, Command, Compile, EntryArguments, EntryWord, Import, Plan, Route, Run, SpecArguments, Target};
use crate::console::{Printable, Progress};
use crate::files::{bytes_text, is_hub_name, report_at, report_in, write};
use crate::interrupt::TemporaryFolder;
use crate::{console, doctor};

/// Why a command did not succeed.
pub(crate) enum Failure {
    /// Something to tell the user.
    Report(Report),
    /// The product could not be written.
    Output(io::Error),
}

impl From<Report> for Failure {
    fn from(report: Report) -> Failure {
        Failure::Report(report)
    }
}

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Failure {
        Failure::Report(diagnostic.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

/// Runs a command.
pub(crate) fn run(cli: &Cli, out: &mut dyn Write) -> Result<(), Failure> {
    let notes = Notes(cli);
    let _temporary = writes_temporary_files(&cli.command).then(TemporaryFolder::new);
    match &cli.command {
        Command::Compile(Compile { of: SpecArguments { preset: Some(name), .. }, .. })
        | Command::Check(Check { preset: Some(name), .. })
        | Command::Import(Import { preset: Some(name), .. })
        | Command::Plan(Plan { of: SpecArguments { preset: Some(name), .. }, .. })
        | Command::Route(Route { preset: Some(name), .. })
        | Command::Run(Run { preset: Some(name), .. })
            if name == "list" =>
        {
            about::presets(out)
        }
        Command::Compile(arguments) => compile::compile(arguments, notes, out),
        Command::Check(arguments) if arguments.emulate => emulate::emulate(arguments, notes, &mut Printable(out)),
        Command::Check(arguments) => check::check(arguments, notes, &mut Printable(out)),
        Command::Import(arguments) => import::import(arguments, notes, out),
        Command::Opt(arguments) => opt::opt(arguments, out),
        Command::Link(arguments) => link::link(arguments, notes, out),
        Command::Run(arguments) => run::run(arguments, notes, &mut Printable(out)),
        Command::Plan(arguments) => plan::plan(arguments, notes, &mut Printable(out)),
        Command::Route(arguments) => route::route(arguments, notes, &mut Printable(out)),
        Command::Inspect { file, manifest } => inspect::inspect(file, *manifest, &mut Printable(out)),
        Command::Explain { code, list: _ } => about::explain(code.as_deref(), out),
        Command::Schema { of } => about::schema(*of, out),
        Command::Targets => about::targets(out),
        Command::Doctor { no_measure } => doctor::doctor(!no_measure, out),
        Command::Completions { shell } => about::completions(*shell, out),
        Command::Man { command } => about::man(command.as_deref(), out),
    }
}

/// Whether the command links, assembles or loads, which goes by way of files.
fn writes_temporary_files(command: &Command) -> bool {
    match command {
        Command::Compile(_) | Command::Plan(_) | Command::Run(_) | Command::Doctor { no_measure: false } => true,
        Command::Check(check) => check.emulate,
        Command::Opt(_)
        | Command::Route(_)
        | Command::Import(_)
        | Command::Link(_)
        | Command::Inspect { .. }
        | Command::Explain { .. }
        | Command::Schema { .. }
        | Command::Targets
        | Command::Doctor { no_measure: true }
        | Command::Completions { .. }
        | Command::Man { .. } => false,
    }
}

/// stderr, for what does not end a command: lines about what was done, and warnings.
#[derive(Clone, Copy)]
struct Notes<'a>(&'a Cli);

impl Notes<'_> {
    fn say(self, text: &str) {
        if !self.0.quiet {
            console::note(text, self.format());
        }
    }

    /// A sign of life while something of unknown length is done.
    fn progress(self, what: &'static str) -> Progress {
        Progress::of(what, self.0)
    }

    /// A bar of `total` steps.
    fn steps(self, what: &'static str, total: usize) -> Progress {
        Progress::of_steps(what, total as u64, self.0)
    }

    /// A bar of `total` bytes.
    fn bytes(self, what: &'static str, total: u64) -> Progress {
        Progress::of_bytes(what, total, self.0)
    }

    fn format(self) -> MessageFormat {
        self.0.message_format
    }

    /// Whether `--allow` names this warning.
    fn allows(self, code: Code) -> bool {
        self.0.allow.contains(&code)
    }

    /// Shows the warnings that `--allow` does not name. They are the error where one of them is denied, by
    /// `--deny-warnings` or before.
    fn warn(self, source: &Source, warnings: Vec<Diagnostic>) -> Result<(), Report> {
        let shown = warnings.into_iter().filter(|warning| !self.allows(warning.code));
        let mut diagnostics: Vec<Diagnostic> =
            if self.0.deny_warnings { shown.map(Diagnostic::denied).collect() } else { shown.collect() };
        // The exit code is that of the first.
        diagnostics.sort_by_key(|diagnostic| diagnostic.severity == Severity::Warning);
        let is_denied = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        let report = Report { source: source.clone(), diagnostics };
        if is_denied {
            return Err(report);
        }
        console::warn(&report, self.0);
        Ok(())
    }
}

/// Whether the file starts as a package does. For one that cannot be read, the reader of specs gives the error.
fn is_package(path: &Path) -> bool {
    Format::of_file(path) == Some(Format::Package)
}

/// A machine that the emulator has kernels for.
fn gpu(target: Target) -> Result<Machine, Diagnostic> {
    let machine = machine(target)?;
    if machine.is_gpu() {
        return Ok(machine);
    }
    let diagnostic = Diagnostic::new(Code::UsageConflict, format!("{} is a CPU: the emulator executes PTX", machine.name));
    Err(diagnostic.help("`--target sm_80` and others are GPUs; `moec run` without `--device` runs on the CPU"))
}

/// The target of a package that the emulator is to run: the one asked for, else the first with PTX.
fn emulated_target(target: Option<Target>, package: &Package) -> Result<String, Diagnostic> {
    match target {
        Some(target) => Ok(gpu(target)?.name.to_string()),
        // A package for CPUs alone is refused by the emulator, which knows the words.
        None => {
            let first = package.manifest().targets.iter().find(|target| target.ptx_version.is_some());
            Ok(first.map_or("sm_90a", |target| &target.name).to_string())
        }
    }
}

/// The entry of a spec that is asked for.
fn entry(arguments: EntryArguments) -> Result<Entry, Diagnostic> {
    match (arguments.entry, arguments.local_experts) {
        (Some(EntryWord::Experts), local) => Ok(Entry::Experts { local }),
        (_, Some(_)) => Err(Diagnostic::new(Code::UsageConflict, "`--local-experts` is of the experts alone")
            .help("add `--entry experts`, or leave it out")),
        (Some(EntryWord::Router), None) => Ok(Entry::Router),
        (Some(EntryWord::Layer) | None, None) => Ok(Entry::Layer),
    }
}

/// As [`entry`], of this spec, with the warning that it leaves something out.
fn entry_of(arguments: EntryArguments, (spec, source): (&Spec, &Source), notes: Notes) -> Result<Entry, Report> {
    let entry = entry(arguments)?;
    entry.check(spec).map_err(|error| report_in(source, Diagnostic::of_spec(error.into(), source)))?;
    notes.warn(source, Diagnostic::of_entry(spec, entry, source).into_iter().collect())?;
    Ok(entry)
}

/// A package has the entry that it was compiled for.
fn check_entry(arguments: EntryArguments, package: &Package) -> Result<(), Diagnostic> {
    let own = package.manifest().entry.name();
    match arguments.entry {
        None => Ok(()),
        Some(_) => Err(Diagnostic::new(Code::UsageConflict, format!("the package's entry is `{own}`, as it was compiled"))
            .help("leave `--entry` out, or give the spec in the package's place")),
    }
}

/// A spec with a name, its own or else that of its file, and with a vocabulary, where it needs one: its own or else that of
/// the checkpoint, given by its path and what stands before its tensors' names.
/// Its warnings are shown.
fn load_spec(path: &Path, checkpoint: Option<(&Path, &str)>, notes: Notes) -> Result<(Spec, Source), Report> {
    let (mut spec, source) = spec::load(path)?;
    notes.warn(&source, spec::warnings(&source))?;
    if spec.name.is_empty() {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy()).filter(|_| path != Path::new("-")).unwrap_or_default();
        let is_legal = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        spec.name = stem.chars().filter(is_legal).take(64).collect();
    }
    if spec.name.is_empty() {
        spec.name = "layer".to_string();
    }
    match (spec.lacks_vocabulary(), checkpoint) {
        (false, _) => {}
        (true, None) => {
            let diagnostics = vec![spec::vocabulary_missing(&source)];
            return Err(Report { source, diagnostics });
        }
        (true, Some((path, prefix))) => {
            let checkpoint = Checkpoint::open(path).map_err(|error| report_at(path, error))?;
            vocabulary::complete(&mut spec, &checkpoint, prefix)
                .map_err(|error| report_weights(path, Some((&spec, &source)), prefix, &error, error.clone().into()))?;
        }
    }
    Ok((spec, source))
}

/// Opens a checkpoint, and warns of the files in its folder that are not looked into.
fn open_checkpoint(path: &Path, notes: Notes) -> Result<Checkpoint<'static>, Report> {
    let checkpoint = Checkpoint::open(path).map_err(|error| report_at(path, unopened(path, error)))?;
    let names: Vec<String> = checkpoint.left_out().iter().filter_map(|file| file.file_name()).map(quote_name).collect();
    if let Some(first) = names.first() {
        const SHOWN: usize = 4;
        let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
        let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        let warning = Diagnostic::new(Code::FilesLeftOut, format!("not read: {shown}{more}, beside the files that are"));
        let help = format!("if the weights are in {first}, name it in the folder's place");
        notes.warn(&Source { name: path.display().to_string(), text: String::new() }, vec![warning.help(help)])?;
    }
    Ok(checkpoint)
}

/// What is said of an error of the weights at `path`: at the keys of the spec that it is about, where there is one that has them.
fn report_weights(path: &Path, given: Option<(&Spec, &Source)>, prefix: &str, error: &Error, said: Diagnostic) -> Report {
    let Some((spec, source)) = given else { return report_at(path, said) };
    let said = said.at_weights(error, (spec, source), prefix);
    match said.labels.is_empty() {
        true => report_at(path, said),
        false => report_in(source, said.note(format!("the weights are in {}", quote(&path.display().to_string())))),
    }
}

fn quote_name(name: &OsStr) -> String {
    quote(&name.to_string_lossy())
}

/// Why there is no checkpoint: a hub's name of a model is answered with the command that downloads it.
fn unopened(path: &Path, error: Error) -> Diagnostic {
    let diagnostic = Diagnostic::from(error);
    match path.to_str().filter(|name| !path.exists() && is_hub_name(name)) {
        Some(name) => {
            let folder = name.rsplit('/').next().unwrap_or(name);
            let download = format!("`hf download {name} --include '*.safetensors*' --local-dir {folder}`");
            diagnostic.help(format!("a model on a hub is downloaded first: {download}, and `{folder}` is given in its place"))
        }
        None => diagnostic,
    }
}

/// The spec that a layer is read from.
fn spec_of(arguments: &SpecArguments, notes: Notes) -> Result<(Spec, Source), Report> {
    match (&arguments.preset, &arguments.spec) {
        (Some(name), _) => load_preset(name, notes),
        (None, path) => load_spec(path.as_deref().unwrap_or(Path::new("-")), None, notes),
    }
}

/// Writes each document that is asked for to its file, or prints it where that is `-`; `text` is printed where none is.
fn write_documents(
    documents: [(&Option<PathBuf>, Option<String>); 2],
    text: impl FnOnce() -> String,
    notes: Notes,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut is_printed = false;
    for (path, document) in documents {
        let (Some(path), Some(document)) = (path, document) else { continue };
        if path == Path::new("-") {
            out.write_all(document.as_bytes())?;
            is_printed = true;
        } else {
            write(path, document.as_bytes())?;
            notes.say(&format!("wrote {} ({})", path.display(), bytes_text(document.len() as u64)));
        }
    }
    if !is_printed {
        out.write_all(text().as_bytes())?;
    }
    Ok(())
}

/// A published model's spec.
fn load_preset(name: &str, notes: Notes) -> Result<(Spec, Source), Report> {
    let text = hugging_face::preset(name, None)?.spec(None);
    let source = Source { name: format!("<preset {name}>"), text };
    match spec::parse(&source) {
        Ok(spec) => {
            notes.warn(&source, spec::warnings(&source))?;
            Ok((spec, source))
        }
        Err(diagnostics) => Err(Report { source, diagnostics }),
    }
}

/// The machines of these targets, each once, in the order asked for.
fn machines(targets: &[Target]) -> Result<Vec<Machine>, Diagnostic> {
    let mut machines: Vec<Machine> = Vec::new();
    for target in targets {
        let machine = machine(*target)?;
        if !machines.contains(&machine) {
            machines.push(machine);
        }
    }
    Ok(machines)
}

fn machine(target: Target) -> Result<Machine, Diagnostic> {
    match target {
        Target::Host => moec::pipeline::this_host().ok_or_else(|| {
            Diagnostic::new(Code::NoDevice, "this CPU is not one that moec has kernels for")
                .help("x86-64 with AVX2, FMA and F16C is the least, or 64-bit Arm; `--target sm_80` and others compile for a GPU")
        }),
        Target::Sm80
        | Target::Sm86
        | Target::Sm89
        | Target::Sm90a
        | Target::Sm100a
        | Target::Sm120a
        | Target::X86V3
        | Target::X86V4
        | Target::X86V4Bf16
        | Target::Aarch64
        | Target::Aarch64Bf16 => {
            let name = target.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default();
            Machine::named(&name).ok_or_else(|| Diagnostic::new(Code::Bug, format!("there is no machine `{name}`")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_but_the_host_is_a_machine() {
        let named = Target::value_variants().iter().filter(|target| **target != Target::Host);
        let named: Vec<&str> = named.filter_map(|target| machine(*target).ok()).map(|machine| machine.name).collect();
        assert_eq!(named, moec_ir::machine::MACHINES.map(|machine| machine.name));
    }
}
