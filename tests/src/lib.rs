//! What the tests of the whole project share: where files are, the example specs, and how a test says that it skips.
//! No test is here.

pub mod built;
pub mod c_abi;
pub mod scaled;
pub mod trials;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use moec::diagnostics::Source;
use moec::spec::Spec;
use moec::vocabulary;
use moec_ir::Machine;
use moec_runtime::package::{Manifest, Role};
use moec_runtime::{Checkpoint, Tensor};

/// The repository.
///
/// # Panics
/// Where this crate is not in it.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in a folder of the repository")
}

/// A spec of `examples/specs`.
#[derive(Clone, Debug)]
pub struct Example {
    /// The file's name without `.toml`.
    pub name: String,
    /// Its text.
    pub text: String,
    /// What it says.
    pub spec: Spec,
}

/// Every spec of `examples/specs`, by name.
///
/// # Panics
/// Where one is wrong.
#[must_use]
pub fn examples() -> Vec<Example> {
    let files = files_under(&root().join("examples/specs"));
    files.iter().filter(|path| path.extension().is_some_and(|e| e == "toml")).map(example).collect()
}

fn example(path: &PathBuf) -> Example {
    let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
    let text = fs::read_to_string(path).expect("a spec is a text");
    let source = Source { name: name.clone(), text };
    let spec = moec::spec::parse(&source).unwrap_or_else(|wrong| panic!("{name} is wrong: {wrong:?}"));
    Example { name, text: source.text, spec }
}

/// A published block: its spec, and a file with weights (`w.*`), tokens (`in.hidden`), for some their ids (`in.token_ids`),
/// and what it made of them (`out.hidden`).
#[derive(Clone, Debug)]
pub struct Fixture {
    /// The file's name without its ending.
    pub name: String,
    /// What the spec says.
    pub spec: Spec,
    /// The spec's text.
    pub text: String,
    /// The safetensors file.
    pub file: PathBuf,
}

/// Every block of `fixtures/huggingface` and `fixtures/other`, by name in each.
///
/// # Panics
/// Where a spec is wrong.
#[must_use]
pub fn fixtures() -> Vec<Fixture> {
    let files = ["huggingface", "other"].map(|from| files_under(&root().join("tests/fixtures").join(from))).concat();
    let fixture = |path: &PathBuf| {
        let Example { name, text, mut spec } = example(path);
        let file = path.with_extension("safetensors");
        let bytes = fs::read(&file).expect("the fixture");
        let checkpoint = Checkpoint::read(&bytes).expect("safetensors");
        vocabulary::complete(&mut spec, &checkpoint, "w.").expect("a table");
        Fixture { name, spec, text, file }
    };
    files.iter().filter(|path| path.extension().is_some_and(|e| e == "toml")).map(fixture).collect()
}

/// The inputs of a package, in its order, out of a published block.
///
/// # Panics
/// Where the block lacks one.
#[must_use]
pub fn inputs(manifest: &Manifest, block: &Checkpoint<'_>) -> Vec<Tensor> {
    let inputs = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Input);
    let name = |buffer: &str| if buffer == "x" { "in.hidden".to_string() } else { format!("in.{buffer}") };
    inputs.map(|buffer| block.tensor(&name(&buffer.name), buffer.dtype).expect("an input").0).collect()
}

/// The machine of that name.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn machine(name: &str) -> Machine {
    Machine::named(name).unwrap_or_else(|| panic!("there is no machine {name}"))
}

/// Says on stderr that a test does not test: past the test harness, which hides what a passing test prints.
pub fn skipped(what: &str, why: &str) {
    // Where stderr is closed the message is lost.
    let _ = writeln!(std::io::stderr(), "skipped: {what}: {why}");
}

/// Every file under a folder, by path. Folders whose name starts with a dot and build folders are passed over.
///
/// # Panics
/// Where a folder cannot be read.
#[must_use]
pub fn files_under(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.expect("a folder that can be listed").path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Cargo builds beside its manifest; elsewhere it is a room like others.
        let is_build = name == "target" && folder.join("Cargo.toml").is_file();
        if path.is_file() {
            files.push(path);
        } else if path.is_dir() && !name.starts_with('.') && !is_build {
            files.extend(files_under(&path));
        }
    }
    files.sort();
    files
}
