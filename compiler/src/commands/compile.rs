//! `moec compile`: a spec in, the stages that were asked for out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::Path;

use moec::diagnostics::{Code, Diagnostic, Source};
use moec::import::{Entry, import};
use moec::library::{ABI_HEADER, Kind, Library, Refused};
use moec::package::package;
use moec::pipeline::{self, Built};
use moec::spec::Spec;
use moec_codegen::{Fatbinary, Image, Options, Ptxas};
use moec_ir::graph;
use moec_ir::{Machine, kernel, rewrite};
use moec_runtime::Package;

use super::{Failure, Notes, entry_of, machines, spec_of};
use crate::cli::{Compile, Emit};
use crate::files::{bytes_text, report_in, write, write_or_print};

/// Compiles a spec and writes the stages.
pub(super) fn compile(arguments: &Compile, notes: Notes, out: &mut dyn Write) -> Result<(), Failure> {
    let (spec, source) = spec_of(&arguments.of, notes)?;
    let entry = entry_of(arguments.entry, (&spec, &source), notes)?;
    if !spec.unread.is_empty() {
        notes.say(&format!("note: this router.mode does not read {}", spec.unread.join(", ")));
    }
    let machines = machines(&arguments.targets)?;
    let mut kinds: Vec<Emit> = Vec::new();
    for kind in &arguments.emit {
        if !kinds.contains(kind) {
            kinds.push(*kind);
        }
    }
    check_request(arguments, &kinds, &machines)?;
    let failed = |diagnostic: Diagnostic| report_in(&source, diagnostic);
    if arguments.why {
        machines.iter().try_for_each(|machine| explain(&spec, entry, machine, notes)).map_err(failed)?;
    }
    let (files, warnings) =
        stages((&spec, entry), &source, (&kinds, arguments.output.as_deref()), &machines, notes).map_err(failed)?;
    // They are not about a place in the spec.
    notes.warn(&Source { name: source.name.clone(), text: String::new() }, warnings)?;

    write_files(arguments.output.as_deref(), arguments.out_dir.as_deref(), files, notes, out)
}

/// Writes one file where `-o` says, or each under its name into a folder.
pub(super) fn write_files(
    output: Option<&Path>,
    out_dir: Option<&Path>,
    mut files: Vec<File>,
    notes: Notes,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match (output, &files[..]) {
        (Some(path), [file]) => {
            write_or_print(path, &file.bytes, file.is_text, out)?;
            if path != Path::new("-") {
                notes.say(&format!("wrote {} ({})", path.display(), bytes_text(file.bytes.len() as u64)));
            }
            return Ok(());
        }
        (Some(_), files) => return Err(too_many_for_one(files.len()).into()),
        (None, _) => {}
    }
    // What a header includes lies beside it.
    if files.iter().any(|file| file.name.ends_with(".c") || file.name.ends_with(".h")) {
        files.push(File { name: "moec_abi.h".to_string(), bytes: ABI_HEADER.as_bytes().to_vec(), is_text: true });
    }
    if let Some(folder) = out_dir {
        fs::create_dir_all(folder)
            .map_err(|error| Diagnostic::new(Code::OutputFailed, format!("cannot create `{}`: {error}", folder.display())))?;
    }
    for file in files {
        let path = out_dir.unwrap_or(Path::new("")).join(&file.name);
        write(&path, &file.bytes)?;
        notes.say(&format!("wrote {} ({})", path.display(), bytes_text(file.bytes.len() as u64)));
    }
    Ok(())
}

/// What can be said before anything is compiled: is there one file for `-o`, and has each kind a target?
fn check_request(arguments: &Compile, kinds: &[Emit], machines: &[Machine]) -> Result<(), Diagnostic> {
    for kind in kinds {
        let wanting = match kind {
            Emit::Ptx | Emit::Cubin | Emit::Library(Kind::Fatbin) => machines.iter().all(|machine| !machine.is_gpu()),
            Emit::SharedObject => machines.iter().all(Machine::is_gpu),
            Emit::Package | Emit::Graph | Emit::Rewritten | Emit::Kernel | Emit::Llvm | Emit::Manifest | Emit::Library(_) => {
                false
            }
        };
        if wanting {
            let (what, target) = if *kind == Emit::SharedObject {
                ("a GPU has no object", "host")
            } else {
                ("a CPU has neither PTX nor a cubin", "sm_90a")
            };
            return Err(Diagnostic::new(Code::UsageConflict, what).help(format!("add `--target {target}`")));
        }
    }
    let files = kinds.iter().map(|kind| machines.iter().filter(|machine| is_written(*kind, machine)).count());
    let files: usize = kinds.iter().zip(files).map(|(kind, files)| if is_per_target(*kind) { files } else { 1 }).sum();
    if arguments.output.is_some() && files > 1 { Err(too_many_for_one(files)) } else { Ok(()) }
}

fn too_many_for_one(files: usize) -> Diagnostic {
    Diagnostic::new(Code::UsageConflict, format!("{files} files do not go into one `-o`"))
        .help("name a folder by `--out-dir`, or ask for one kind and one target")
}

fn is_per_target(kind: Emit) -> bool {
    match kind {
        Emit::Package | Emit::Graph | Emit::Manifest | Emit::Library(_) => false,
        Emit::Rewritten | Emit::Kernel | Emit::Llvm | Emit::Ptx | Emit::Cubin | Emit::SharedObject => true,
    }
}

/// Whether a machine has something of this kind.
fn is_written(kind: Emit, machine: &Machine) -> bool {
    match kind {
        Emit::Ptx | Emit::Cubin => machine.is_gpu(),
        Emit::SharedObject => !machine.is_gpu(),
        Emit::Package | Emit::Graph | Emit::Rewritten | Emit::Kernel | Emit::Llvm | Emit::Manifest | Emit::Library(_) => true,
    }
}

/// Whether it takes LLVM's optimiser to make it.
fn is_built(kind: Emit) -> bool {
    match kind {
        Emit::Ptx | Emit::Cubin | Emit::SharedObject | Emit::Package | Emit::Manifest | Emit::Library(_) => true,
        Emit::Graph | Emit::Rewritten | Emit::Kernel | Emit::Llvm => false,
    }
}

/// Whether it has what ptxas makes, where that is found.
fn wants_cubin(kind: Emit) -> bool {
    match kind {
        Emit::Cubin | Emit::Package | Emit::Manifest | Emit::Library(_) => true,
        Emit::Graph | Emit::Rewritten | Emit::Kernel | Emit::Llvm | Emit::Ptx | Emit::SharedObject => false,
    }
}

/// What a file of the layer is called, of a target where the kind differs by target.
fn file_name(layer: &str, kind: Emit, target: Option<&Machine>) -> String {
    let extension = match kind {
        Emit::Package => "moec",
        Emit::Graph => "graph",
        Emit::Rewritten => "rewritten.graph",
        Emit::Kernel => "kernel",
        Emit::Llvm => "ll",
        Emit::Ptx => "ptx",
        Emit::Cubin => "cubin",
        Emit::SharedObject => "so",
        Emit::Manifest => "manifest.json",
        Emit::Library(kind) => return kind.file_name(&moec_codegen::symbol::identifier(layer)),
    };
    let target = target.map_or(String::new(), |machine| format!(".{}", machine.name));
    format!("{layer}{target}.{extension}")
}

/// One file to write.
pub(super) struct File {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) is_text: bool,
}

/// Every file that was asked for, by kind and then by target, and what ptxas warned of. What only early stages need is not
/// compiled.
fn stages(
    (spec, entry): (&Spec, Entry),
    source: &Source,
    (kinds, output): (&[Emit], Option<&Path>),
    machines: &[Machine],
    notes: Notes,
) -> Result<(Vec<File>, Vec<Diagnostic>), Diagnostic> {
    let of_spec = |error| Diagnostic::of_spec(error, source);
    let mut built: Vec<Built> = Vec::new();
    let mut lowered = BTreeMap::new();
    if kinds.iter().any(|kind| is_built(*kind)) {
        let wants_cubin = kinds.iter().any(|kind| wants_cubin(*kind));
        let has_gpu = machines.iter().any(Machine::is_gpu);
        let ptxas = (wants_cubin && has_gpu).then(Ptxas::find).flatten();
        if ptxas.is_none() && kinds.contains(&Emit::Cubin) {
            return Err(Diagnostic::new(Code::ToolMissing, "there is no ptxas, so there is no cubin")
                .help("name one by MOEC_PTXAS, or emit `ptx`; `moec doctor` says where moec looks"));
        }
        // It takes minutes until there is what it would join.
        if kinds.contains(&Emit::Library(Kind::Fatbin)) && Fatbinary::find().is_none() {
            return Err(Refused::NoFatbinary.into());
        }
        if wants_cubin && has_gpu && ptxas.is_none() {
            notes.say("note: ptxas was not found, so the package holds PTX only: the driver compiles it when it is loaded");
        }
        let progress = notes.steps("compiling", machines.len());
        built = pipeline::build_with(spec, entry, machines, &Options { ptxas }, &|| progress.step()).map_err(of_spec)?;
        drop(progress);
        built.iter().for_each(|built| say_images(built, notes));
    } else if kinds.iter().any(|kind| is_per_target(*kind)) {
        for machine in machines {
            lowered.insert(machine.name, pipeline::lower(spec, entry, machine).map_err(of_spec)?);
        }
    }
    let mut files = Vec::new();
    for kind in kinds {
        let mut add = |target: Option<&Machine>, bytes: Vec<u8>| {
            let name = file_name(&entry.name(spec), *kind, target);
            let is_text = match kind {
                Emit::Package | Emit::Cubin | Emit::SharedObject => false,
                Emit::Graph | Emit::Rewritten | Emit::Kernel | Emit::Llvm | Emit::Ptx | Emit::Manifest => true,
                Emit::Library(kind) => kind.is_text(),
            };
            files.push(File { name, bytes, is_text });
        };
        match kind {
            Emit::Graph => add(None, graph::print(&import(spec, entry).map_err(pipeline::Error::Entry)?).into_bytes()),
            Emit::Package => {
                add(None, packed((spec, entry), source, &built).map_err(of_spec)?.to_bytes().map_err(pipeline::Error::Package)?)
            }
            Emit::Manifest => {
                let manifest = packed((spec, entry), source, &built).map_err(of_spec)?;
                let json = serde_json::to_string_pretty(manifest.manifest()).unwrap_or_default();
                add(None, (json + "\n").into_bytes());
            }
            Emit::Library(linked) => {
                let library = Library::new(&[packed((spec, entry), source, &built).map_err(of_spec)?])?;
                let name = output.and_then(Path::file_name).and_then(OsStr::to_str).filter(|name| *name != "-");
                library.files(*linked, name)?.into_iter().for_each(|file| add(None, file.bytes));
            }
            Emit::Rewritten | Emit::Kernel | Emit::Llvm | Emit::Ptx | Emit::Cubin | Emit::SharedObject => {
                for (index, machine) in machines.iter().enumerate().filter(|(_, machine)| is_written(*kind, machine)) {
                    let of_machine = built.get(index).map(|(_, lowered, _)| lowered).or_else(|| lowered.get(machine.name));
                    let images = built.get(index).map_or(&[][..], |(_, _, objects)| objects);
                    if let Some(bytes) = stage(*kind, machine, of_machine, images)? {
                        add(Some(machine), bytes);
                    }
                }
            }
        }
    }
    let of_machine = |(machine, _, objects): &Built| {
        let warned = objects.iter().flat_map(|object| &object.warnings);
        warned.map(|text| Diagnostic::new(Code::AssemblerWarned, format!("{}: {text}", machine.name))).collect::<Vec<_>>()
    };
    Ok((files, built.iter().flat_map(of_machine).collect()))
}

fn packed((spec, entry): (&Spec, Entry), source: &Source, built: &[Built]) -> Result<Package, pipeline::Error> {
    package(spec, entry, &source.text, built).map_err(pipeline::Error::Package)
}

/// One machine's stage of one kind.
fn stage(
    kind: Emit,
    machine: &Machine,
    lowered: Option<&pipeline::Lowered>,
    objects: &[moec_codegen::Object],
) -> Result<Option<Vec<u8>>, Diagnostic> {
    let image = |is_it: fn(&Image) -> bool| objects.iter().find(|o| is_it(&o.image)).map(|o| o.image.bytes().to_vec());
    Ok(match kind {
        Emit::Rewritten => lowered.map(|lowered| lowered.rewritten.to_string().into_bytes()),
        Emit::Kernel => lowered.map(|lowered| kernel::print(&lowered.program).into_bytes()),
        Emit::Llvm => {
            lowered.map(|lowered| moec_codegen::llvm_text(&lowered.program, machine)).transpose()?.map(String::into_bytes)
        }
        Emit::Ptx => image(|image| matches!(image, Image::Ptx(_))),
        Emit::Cubin => image(|image| matches!(image, Image::Cubin(_))),
        Emit::SharedObject => image(|image| matches!(image, Image::SharedObject(_))),
        Emit::Package | Emit::Graph | Emit::Manifest | Emit::Library(_) => None,
    })
}

/// One line a machine: its images, and what ptxas said of the kernels.
fn say_images((machine, lowered, objects): &Built, notes: Notes) {
    let images: Vec<String> = objects
        .iter()
        .map(|object| {
            let kind = match &object.image {
                Image::Ptx(_) => "PTX",
                Image::Cubin(_) => "cubin",
                Image::SharedObject(_) => "object",
            };
            format!("{kind} {}", bytes_text(object.image.bytes().len() as u64))
        })
        .collect();
    let kernels = objects.first().map_or(0, |object| object.kernels.len());
    let usages: Vec<_> = objects.iter().flat_map(|object| &object.kernels).filter_map(|kernel| kernel.usage).collect();
    let occupied = usages.iter().map(|usage| usage.registers).max().map_or(String::new(), |registers| {
        let spills: u32 = usages.iter().map(|usage| usage.spill_stores + usage.spill_loads).sum();
        let spills = if spills == 0 { "no spills".to_string() } else { format!("{spills} bytes of spills") };
        format!("; at most {registers} registers, {spills}")
    });
    let ranges = match lowered.program.regimes.len() {
        0 | 1 => String::new(),
        regimes => format!(" for {regimes} ranges of T"),
    };
    notes.say(&format!("{}: {kernels} kernels{ranges}, {}{occupied}", machine.name, images.join(", ")));
}

/// `--why`: the rules that the rewritten graphs could not do without, and what each saves; then for each range of T the ways in
/// which its ops can be computed, the chosen one first, and what each of them costs.
fn explain(spec: &Spec, entry: Entry, machine: &Machine, notes: Notes) -> Result<(), Diagnostic> {
    let graph = import(spec, entry).map_err(pipeline::Error::Entry)?;
    let graph = graph::verify(graph).map_err(pipeline::Error::Graph)?;
    let batches = pipeline::batches(spec);
    let rewritten = rewrite::rewrite(&graph, machine, &batches);
    let tokens: Vec<String> = batches.expected.iter().map(u64::to_string).collect();
    let rounds = rewritten.matched.iter().map(|(round, _)| *round).max().unwrap_or(0);
    let end = if rewritten.saturated { "nothing more to find" } else { "stopped at a limit" };
    notes.say(&format!(
        "{} for {}: {} -> {}, modelled, the sum for T = {}",
        entry.name(spec),
        machine.name,
        time_text(rewritten.before),
        time_text(rewritten.after),
        tokens.join(", ")
    ));
    notes.say(&format!("{} rules matched in {rounds} rounds, {end}", rewritten.matched.len()));
    notes.say("  round  saves        rule");
    for reason in rewrite::why(&graph, &rewritten, machine, &batches) {
        let saves = time_text(reason.without.saturating_sub(rewritten.after));
        notes.say(&format!("  {:>5}  {saves:<11}  {}", reason.round, reason.rule));
    }
    let mut below = 0;
    for regime in &rewritten.regimes {
        let last = regime.tokens_up_to.unwrap_or(batches.most).max(below + 1);
        let tokens = batches.expected.iter().copied().rfind(|tokens| (below + 1..=last).contains(tokens)).unwrap_or(last);
        let time = time_text(rewrite::graph_cost(&regime.graph, machine, &[tokens]));
        notes.say(&format!("T = {} to {last}: {time} at T = {tokens}, where each op's ways cost", below + 1));
        for choice in rewrite::choices(&regime.graph, machine, tokens) {
            let ways: Vec<String> = choice.ways.iter().map(|(way, cost)| format!("{way} {}", time_text(*cost))).collect();
            notes.say(&format!("  {}: {}", choice.op, ways.join(", ")));
        }
        below = last;
    }
    Ok(())
}

/// Picoseconds for people.
fn time_text(picoseconds: u64) -> String {
    let units = [("s", 1e12), ("ms", 1e9), ("us", 1e6), ("ns", 1e3)];
    match units.into_iter().find(|(_, unit)| picoseconds as f64 >= *unit) {
        Some((name, unit)) => format!("{:.2} {name}", picoseconds as f64 / unit),
        None => format!("{picoseconds} ps"),
    }
}
