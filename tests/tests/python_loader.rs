//! `examples/python-loader`, which was written from `runtime/PACKAGE.md` alone: it gives the bits of the runtime and the numbers of
//! the interpreter, puts weights together and lays out the workspace as the runtime does, and says what is wrong.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::slice::from_ref;

use libtest_mimic::Failed;
use moec::diagnostics::Source;
use moec::emulate::agreement;
use moec::import::{Entry, import};
use moec::package::package;
use moec::pipeline::{lower, this_host};
use moec::random;
use moec::reference::{bound, reference};
use moec::spec::parse;
use moec_codegen::{Image, Object};
use moec_runtime::package::{
    self as file, Arg, Buffer, Cuts, DType, Dims, Extent, ImageKind, Kernel, Launch, Manifest, Param, ParamKind, Place, Regime,
    Role, Round, Target, TargetKind, WORKSPACE_ALIGN, workspace,
};
use moec_runtime::{Checkpoint, DeviceKind, Layer, Package, Run, Tensor, assemble};
use moec_tests::built::compiled;
use moec_tests::scaled::modes;
use moec_tests::trials::{Case, Family};
use moec_tests::{Example, Fixture, examples, fixtures, inputs, machine, root, skipped};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Three sequences.
const DIMS: Dims = Dims { tokens: 39, sequence_tokens: 13 };

/// What a trial does.
type Trial = fn() -> Result<(), Failed>;

/// A package's bytes, tensors, more arguments, and what the loader says.
type Refusal = (Vec<u8>, Vec<(String, Tensor)>, &'static [&'static str], String);

/// A trial for each mode and each published block.
pub(crate) fn family() -> Family {
    let has_python = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !has_python {
        skipped("python_loader", "there is no python3");
    }
    let of_modes = modes().into_iter().map(|mode| {
        let spec = mode.spec.clone();
        Case::new(mode.name.clone(), &spec, move || random_layer(&mode))
    });
    let of_blocks = fixtures().into_iter().map(|block| {
        let spec = block.spec.clone();
        Case::new(block.name.clone(), &spec, move || published(&block))
    });
    let of_examples = examples().into_iter().map(|example| {
        let spec = example.spec.clone();
        Case::new(format!("places_of_{}", example.name), &spec, move || places_of_example(&example)).of_kind("places")
    });
    let others: [(&str, Trial); 4] = [
        ("places_of_random_launches", places_of_random_launches),
        ("recipes", recipes),
        ("targets", targets),
        ("refusals", refusals),
    ];
    let others = others.into_iter().map(|(name, check)| Case::of_kernels(name, check).of_kind(name));
    let cases = of_modes.chain(of_blocks).chain(of_examples).chain(others);
    let cases = cases.map(|case| if has_python { case } else { case.ignored() }).collect();
    Family { name: "python_loader", one_in: 16, cases }
}

/// A package and a file of tensors, for the script to run.
struct Files {
    folder: TempDir,
}

impl Files {
    fn of(package: &Package, tensors: &[(String, Tensor)]) -> Files {
        let files = Files { folder: tempfile::tempdir().unwrap() };
        fs::write(files.package(), package.to_bytes().unwrap()).unwrap();
        fs::write(files.tensors(), safetensors(tensors)).unwrap();
        files
    }

    fn package(&self) -> PathBuf {
        self.folder.path().join("layer.moec")
    }

    fn tensors(&self) -> PathBuf {
        self.folder.path().join("layer.safetensors")
    }
}

fn safetensors(tensors: &[(String, Tensor)]) -> Vec<u8> {
    let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    moec_runtime::weights::to_safetensors(&named).unwrap()
}

fn python(code: &[&str], arguments: &[&str]) -> Output {
    let folder = root().join("examples/python-loader");
    let mut command = Command::new("python3");
    command.args(code).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONPATH", folder);
    command.output().unwrap()
}

/// What the script prints of a batch.
fn run(package: &Path, tensors: &Path, more: &[&str]) -> Result<String, Failed> {
    let script = root().join("examples/python-loader/run.py");
    let files = [package, tensors].map(|path| path.to_string_lossy().into_owned());
    let output = python(&[&script.to_string_lossy()], &[&[files[0].as_str(), &files[1], "--threads", "3"], more].concat());
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Holds what the script prints to the runtime's run; the error of `y` that it finds.
fn hold(printed: &str, manifest: &Manifest, run: &Run) -> Result<f64, Failed> {
    let (of_errors, lines): (Vec<&str>, Vec<&str>) = printed.lines().partition(|line| line.trim_start().starts_with("error "));
    let tensors = run.outputs.iter().chain(&run.observed).map(|(name, tensor)| {
        let sha256: String = Sha256::digest(tensor.bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name:<18} {} {:?}, SHA-256 {sha256}", tensor.dtype().name(), tensor.shape())
    });
    let head = format!("{} on {}, {} tokens", manifest.layer, manifest.targets[0].name, run.dims.tokens);
    let expected: Vec<String> = [head].into_iter().chain(tensors).collect();
    if lines != expected {
        return Err(format!("printed was\n{printed}\nthe runtime has\n{}", expected.join("\n")).into());
    }
    let error = of_errors.first().and_then(|line| line.split_whitespace().nth(1)).ok_or("no error is printed")?;
    Ok(error.parse()?)
}

/// A layer on random tokens: as the runtime runs it, and near what the interpreter says.
fn random_layer(example: &Example) -> Result<(), Failed> {
    let package = compiled(&example.spec, Entry::Layer, &example.text, from_ref(&this_host().unwrap()))?;
    let tensors = stored(package.manifest());
    batch(example, &package, tensors)?;
    places(&package)
}

/// Random weights as the first sources of the recipes name them, in whole tensors.
fn stored(manifest: &Manifest) -> Vec<(String, Tensor)> {
    let weights = random::weights(manifest, 5).unwrap();
    let buffers = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight);
    let stored = buffers.zip(weights).map(|(buffer, weight)| {
        let recipe = manifest.weights.iter().find(|recipe| recipe.buffer == buffer.name).unwrap();
        let source = &recipe.pieces[0].sources[0];
        assert!(!source.flattened && source.slice.is_none() && !source.name.contains("{e}"), "{source:?}");
        let axes = source.axes.iter().map(|axis| weight.shape()[*axis as usize]);
        let shape = if source.axes.is_empty() { weight.shape().to_vec() } else { axes.collect() };
        (source.name.clone(), Tensor::new(buffer.dtype, shape, weight.bytes().to_vec()).unwrap())
    });
    stored.collect()
}

/// A batch of random tokens on weights out of these tensors.
fn batch(example: &Example, package: &Package, mut tensors: Vec<(String, Tensor)>) -> Result<(), Failed> {
    let manifest = package.manifest();
    let bytes = safetensors(&tensors);
    let (weights, _) = assemble(manifest, &Checkpoint::read(&bytes)?, "")?;
    let inputs = random::inputs(manifest, DIMS, 7)?;
    let layer = Layer::load(package, DeviceKind::Host { threads: None })?;
    let ours = layer.bind(weights.clone())?.run(&inputs, DIMS)?;

    let names = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Input).map(|buffer| buffer.name.clone());
    tensors.extend(names.zip(inputs.clone()));
    let x = tensors.iter_mut().find(|(name, _)| name == "x").unwrap();
    let shape = vec![DIMS.tokens / DIMS.sequence_tokens, DIMS.sequence_tokens, example.spec.hidden];
    x.1 = Tensor::new(x.1.dtype(), shape, x.1.bytes().to_vec())?;
    let reference = reference(import(&example.spec, Entry::Layer)?, manifest, &weights, &inputs, DIMS)?;
    let values: Vec<f32> = reference.output.iter().map(|value| *value as f32).collect();
    tensors.push(("expected".to_string(), Tensor::from_f32(DType::F32, vec![values.len() as u64], &values)?));

    let files = Files::of(package, &tensors);
    let error = hold(&run(&files.package(), &files.tensors(), &["y=expected"])?, manifest, &ours)?;
    let agreement = agreement(manifest, &ours, &reference);
    if error > bound(manifest.dtype) || agreement.tokens_apart.is_some_and(|tokens| tokens > 0) {
        return Err(format!("{error:.1e} from the interpreter, {agreement:?}").into());
    }
    Ok(())
}

/// A published block: its weights, its tokens, and its outputs.
fn published(Fixture { name, spec, text, file }: &Fixture) -> Result<(), Failed> {
    let package = compiled(spec, Entry::Layer, text, from_ref(&this_host().unwrap()))?;
    let manifest = package.manifest();
    let bytes = fs::read(file)?;
    let checkpoint = Checkpoint::read(&bytes)?;
    let (weights, converted) = assemble(manifest, &checkpoint, "w.")?;
    let inputs = inputs(manifest, &checkpoint);
    let dims = Dims::of_activations(inputs[0].shape())?;
    let ours = Layer::load(&package, DeviceKind::Host { threads: None })?.bind(weights)?.run(&inputs, dims)?;
    let files = Files::of(&package, &[]);
    let printed = run(&files.package(), file, &["--prefix", "w.", "x=in.hidden", "token_ids=in.token_ids", "y=out.hidden"]);
    // The script converts nothing.
    if !converted.is_empty() {
        let said = printed.err().and_then(|failed| failed.message().map(str::to_string)).unwrap_or_default();
        return if said.contains("is i64") { Ok(()) } else { Err(format!("{name}: {said}").into()) };
    }
    let error = hold(&printed?, manifest, &ours)?;
    if error <= bound(manifest.dtype) { Ok(()) } else { Err(format!("{error:.1e} from the published block").into()) }
}

/// Prints where buffers lie at each T and S.
const PLACES: &str = "
import json, sys, package
manifest, _ = package.read(sys.argv[1])
for T, S in json.loads(sys.argv[2]):
    places, size = package.workspace(manifest, manifest['targets'][0], T, S)
    print(json.dumps([sorted(map(list, places.items())), size]))
";

/// The workspace of every regime is laid out as the runtime does it.
fn places(package: &Package) -> Result<(), Failed> {
    let (manifest, target) = (package.manifest(), &package.manifest().targets[0]);
    let bounds = target.regimes.iter().filter_map(|regime| regime.tokens_up_to).flat_map(|most| [most, most + 1]);
    let batches = bounds.chain([1, 17, 64, manifest.max_tokens]).map(Dims::tokens).chain([DIMS]);
    let batches: Vec<Dims> = batches.filter(|dims| dims.tokens <= manifest.max_tokens).collect();
    let files = Files::of(package, &[]);
    let asked = serde_json::to_string(&batches.iter().map(|dims| (dims.tokens, dims.sequence_tokens)).collect::<Vec<_>>())?;
    let output = python(&["-c", PLACES], &[&files.package().to_string_lossy(), &asked]);
    let printed = String::from_utf8(output.stdout)?;
    let expected = batches.iter().map(|dims| {
        let places = workspace(manifest, target, *dims).unwrap().places;
        let end = |place: &Place| (place.offset + place.bytes).next_multiple_of(WORKSPACE_ALIGN);
        let length = places.iter().map(end).max().unwrap_or(0);
        let places: Vec<_> = places.iter().map(|place| (place.buffer, place.offset)).collect();
        serde_json::to_value((places, length)).unwrap()
    });
    let found: Vec<serde_json::Value> = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let expected: Vec<serde_json::Value> = expected.collect();
    if found == expected {
        Ok(())
    } else {
        Err(format!("{found:?}\nthe runtime has\n{expected:?}\n{}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// A layer of real size, of whose image the places know nothing.
fn places_of_example(example: &Example) -> Result<(), Failed> {
    let machine = machine("x86-64-v4");
    let lowered = lower(&example.spec, Entry::Layer, &machine).map_err(|error| error.to_string())?;
    let (target, image) = (machine.name.to_string(), Image::SharedObject(vec![0]));
    let object = Object { target, image, kernels: Vec::new(), warnings: Vec::new() };
    places(&package(&example.spec, Entry::Layer, &example.text, &[(&machine, lowered, vec![object])])?)
}

/// Launches that name buffers at random: there each of the three orders is the shortest now and then, and updates name what they like.
fn places_of_random_launches() -> Result<(), Failed> {
    let mut state = 1u64;
    let mut below = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    (0..40).try_for_each(|_| {
        let workspace = 3 + below(8);
        let buffer = |index: u64| {
            let (name, role) = match index {
                0 => ("x".to_string(), Role::Input),
                1 => ("y".to_string(), Role::Output),
                _ => (format!("b{index}"), Role::Workspace),
            };
            let extents = [
                Extent::Const(1 + below(500) as i64),
                Extent::Tokens,
                Extent::Tokens.div(1 + below(9) as i64, Round::Ceil),
                Extent::Tokens.div(Extent::SequenceTokens.max(1), Round::Floor) * 7,
            ];
            let shape = vec![extents[below(4) as usize].clone(), Extent::Const(1 + below(60) as i64)];
            let observe = (role == Role::Workspace && below(8) == 0).then(|| name.clone());
            Buffer { name, role, dtype: DType::F32, shape, align: 16, observe, below: None, mask: None }
        };
        let buffers: Vec<Buffer> = (0..2 + workspace).map(buffer).collect();
        let pointer = |index: usize| Param { name: format!("p{index}"), kind: ParamKind::Pointer };
        let kernel = |params: usize| Kernel {
            name: format!("k{params}"),
            symbol: format!("k{params}"),
            params: (0..params).map(pointer).collect(),
            threads: 1,
            cluster: 1,
            shared_bytes: 0,
            dynamic_shared_bytes: 0,
            registers: None,
            spill_bytes: None,
        };
        let mut launches = |most: u64| -> Vec<Launch> {
            let mut launch = || {
                let args: Vec<Arg> = (0..below(4)).map(|_| Arg::Buffer(below(2 + workspace) as u32)).collect();
                Launch { kernel: args.len() as u32, grid: Extent::Tokens, early: false, working: None, args }
            };
            (0..most).map(|_| launch()).collect()
        };
        let regimes =
            [Some(5), Some(70), None].map(|tokens_up_to| Regime { tokens_up_to, tile_rows: None, launches: launches(9) });
        let target = Target {
            name: "x86-64-v3".to_string(),
            kind: TargetKind::Host,
            images: vec![0],
            cpu_features: Vec::new(),
            least_driver: None,
            ptx_version: None,
            kernels: (0..4).map(kernel).collect(),
            prepare: Vec::new(),
            regimes: regimes.to_vec(),
            update: launches(1),
            statistics: None,
        };
        let manifest = Manifest {
            compiler: String::new(),
            layer: "random".to_string(),
            entry: file::Entry::Layer,
            spec_sha256: "0".repeat(64),
            dtype: DType::F32,
            tf32: false,
            max_tokens: 1000,
            cuts: Cuts::Nowhere,
            workspace_limit: None,
            dims: Vec::new(),
            buffers,
            weights: Vec::new(),
            images: vec![file::Image::new(ImageKind::SharedObject)],
            targets: vec![target],
        };
        places(&Package::new(manifest, vec![vec![0]])?)
    })
}

/// Names and shapes of stored tensors.
type Shapes = &'static [(&'static str, &'static [u64])];

/// Ways to store weights, each with the shapes of its tensors: what no published block has.
const STORED: [(&str, Shapes); 3] = [
    (
        "gate_up = { name = \"e.{e}.gate_up\", layout = \"interleave\" }\ndown = { name = \"down\", layout = \"T\" }",
        &[
            ("e.0.gate_up", &[24, 20]),
            ("e.1.gate_up", &[24, 20]),
            ("e.2.gate_up", &[24, 20]),
            ("e.3.gate_up", &[24, 20]),
            ("down", &[6, 12, 20]),
            ("shared_gate", &[2, 8, 20]),
            ("shared_up", &[2, 8, 20]),
            ("shared_down", &[2, 20, 8]),
        ],
    ),
    (
        "gate_up = { name = \"gate_up\", layout = \"T interleave\" }\ndown = { name = \"e.{e}.down\", layout = \"T\" }\n\
         shared_gate_up = \"shared\"",
        &[
            ("gate_up", &[4, 20, 24]),
            ("e.0.down", &[12, 20]),
            ("e.1.down", &[12, 20]),
            ("e.2.down", &[12, 20]),
            ("e.3.down", &[12, 20]),
            ("e.4.down", &[12, 20]),
            ("shared", &[2, 16, 20]),
            ("shared_down", &[20, 16]),
        ],
    ),
    (
        "gate = [\"absent\", \"g\"]\nup = { name = \"u\", experts = 4 }\nshared_down = { name = \"sd\", layout = \"T\" }",
        &[
            ("g", &[4, 12, 20]),
            ("u", &[48, 20]),
            ("down", &[6, 20, 12]),
            ("shared_gate", &[16, 20]),
            ("shared_up", &[2, 8, 20]),
            ("sd", &[2, 8, 20]),
        ],
    ),
];

/// Weights are those that the runtime puts together.
fn recipes() -> Result<(), Failed> {
    for (keys, shapes) in STORED {
        let text = format!(
            "[moe]\nname = \"stored\"\nhidden = 20\nexperts = 4\n[router]\ntop_k = 2\nidentity_experts = 2\n[expert]\nintermediate = 12\n\
             [shared]\nintermediate = 8\ncount = 2\n[weights]\n{keys}\n[numerics]\ndtype = \"f32\"\n"
        );
        let spec = parse(&Source { name: "stored".to_string(), text: text.clone() }).map_err(|wrong| format!("{wrong:?}"))?;
        let package = compiled(&spec, Entry::Layer, &text, from_ref(&this_host().unwrap()))?;
        let tensor = |(at, (name, shape)): (usize, &(&str, &[u64]))| {
            let values = random::tokens(DType::F32, 1, shape.iter().product(), at as u64).unwrap().to_f64();
            let values: Vec<f32> = values.into_iter().map(|value| value as f32 / 4.0).collect();
            (name.to_string(), Tensor::from_f32(DType::F32, shape.to_vec(), &values).unwrap())
        };
        let router = [("router", &[6, 20][..])];
        let tensors = shapes.iter().chain(&router).enumerate().map(tensor).collect();
        let example = Example { name: "stored".to_string(), text, spec };
        batch(&example, &package, tensors).map_err(|failed| format!("{keys}: {failed:?}"))?;
    }
    Ok(())
}

/// What a 64-bit Arm CPU says of itself, among more.
const FEATURES: &str = "Features\t: fp asimd evtstrm crc32 atomics";

/// What an x86-64 CPU of level v4 says of itself, among more.
const FLAGS: &str = "flags\t\t: fpu sse4_2 movbe popcnt f16c abm avx2 bmi1 bmi2 fma avx512f avx512bw avx512cd avx512dq avx512vl";

/// Prints the target for a CPU.
const CHOICE: &str = "
import sys, package
manifest, _ = package.read(sys.argv[1])
print(package.choose(manifest['targets'], sys.argv[2])['name'])
";

fn tiny(machines: &[&str]) -> Package {
    let tiny = examples().into_iter().find(|example| example.name == "tiny").unwrap();
    let machines: Vec<_> = machines.iter().map(|name| machine(name)).collect();
    compiled(&tiny.spec, Entry::Layer, &tiny.text, &machines).unwrap()
}

/// The target with the most features that the CPU has; without one it says what is missing.
fn targets() -> Result<(), Failed> {
    let files = Files::of(&tiny(&["x86-64-v3", "aarch64", "sm_80", "x86-64-v4", "x86-64-v4-bf16", "aarch64-bf16"]), &[]);
    let cpuinfo = files.folder.path().join("cpuinfo");
    for (flags, expected) in [
        (format!("{FLAGS} avx512_bf16"), "x86-64-v4-bf16"),
        (FLAGS.to_string(), "x86-64-v4"),
        (FLAGS.replace(" avx512cd", ""), "x86-64-v3"),
        (format!("{FEATURES} i8mm bf16"), "aarch64-bf16"),
        (FEATURES.to_string(), "aarch64"),
        (FLAGS.replace(" abm", "").replace(" fma", ""), "error: this CPU lacks fma, lzcnt, which the target x86-64-v3 needs"),
    ] {
        fs::write(&cpuinfo, format!("processor\t: 0\n{flags}\nprocessor\t: 1\n"))?;
        let output = python(&["-c", CHOICE], &[&files.package().to_string_lossy(), &cpuinfo.to_string_lossy()]);
        let said = String::from_utf8([output.stdout, output.stderr].concat())?;
        if said.trim() != expected {
            return Err(format!("{said}, not {expected}").into());
        }
    }
    Ok(())
}

/// Each message, and that nothing is run.
fn refusals() -> Result<(), Failed> {
    let package = tiny(&["x86-64-v3"]);
    let manifest = package.manifest();
    let file = package.to_bytes()?;
    let sound: Vec<(String, Tensor)> =
        stored(manifest).into_iter().chain([("x".to_string(), random::tokens(DType::F32, 5, 64, 1)?)]).collect();
    let with = |name: &str, tensor: Option<Tensor>| -> Vec<(String, Tensor)> {
        let others = sound.iter().filter(|(own, _)| own != name).cloned();
        others.chain(tensor.map(|tensor| (name.to_string(), tensor))).collect()
    };
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut file = file.clone();
        edit(&mut file);
        file
    };
    let tokens = |tokens: u64, hidden: u64| random::tokens(DType::F32, tokens, hidden, 1).unwrap();
    let last = file.len() - 1;
    let most = manifest.max_tokens + 1;
    let cases: Vec<Refusal> = vec![
        (edited(&|file| file[0] = b'M'), sound.clone(), &[], "is not a package of moec".into()),
        (edited(&|file| file.truncate(8)), sound.clone(), &[], "has format version 0, this loader reads".into()),
        (edited(&|file| file[8] = 99), sound.clone(), &[], "has format version 99, this loader reads".into()),
        (edited(&|file| file[60] ^= 1), sound.clone(), &[], "is damaged: the manifest does not have its hash".into()),
        (edited(&|file| file[13] = 1), sound.clone(), &[], "is damaged: the manifest does not have its hash".into()),
        (edited(&|file| file[last] ^= 1), sound.clone(), &[], "is damaged: image 0 does not have its hash".into()),
        (edited(&|file| file.truncate(last)), sound.clone(), &[], "is damaged: image 0 does not have its hash".into()),
        (edited(&|file| file.push(0)), sound.clone(), &[], "is damaged: 1 bytes after the last image".into()),
        (
            tiny(&["sm_80", "sm_90a"]).to_bytes()?,
            sound.clone(),
            &[],
            "the package has no target for a CPU, only sm_80, sm_90a".into(),
        ),
        (file.clone(), with("x", Some(tokens(5, 63))), &[], "x is f32 [5, 63], the input `x` is f32 [5, 64]".into()),
        (
            file.clone(),
            with("x", Some(Tensor::new(DType::F16, vec![5, 64], vec![0; 640])?)),
            &[],
            "x is f16 [5, 64], the input `x` is f32 [5, 64]".into(),
        ),
        (file.clone(), with("x", None), &[], "there is no tensor x for the input `x`".into()),
        (file.clone(), sound.clone(), &["x=in.x"], "there is no tensor in.x for the input `x`".into()),
        (
            file.clone(),
            with("x", Some(tokens(most, 64))),
            &[],
            format!("{most} tokens, the layer takes up to {}", manifest.max_tokens),
        ),
        (file.clone(), with("gate", None), &[], "there is no tensor gate for the weight `gate`".into()),
        (file.clone(), sound.clone(), &["--prefix", "w."], "there is no tensor w.router for the weight `router`".into()),
        (
            file.clone(),
            with("router", Some(tokens(8, 63))),
            &[],
            "router is f32 [8, 63], the weight `router` is f32 [8, 64]".into(),
        ),
        (file.clone(), sound.clone(), &["y=router"], "router has 512 elements, `y` has 320".into()),
        (file.clone(), sound.clone(), &["y=z"], "there is no tensor z for the output `y`".into()),
    ];
    for (file, tensors, more, expected) in cases {
        let files = Files::of(&package, &tensors);
        fs::write(files.package(), file)?;
        match run(&files.package(), &files.tensors(), more) {
            Ok(printed) => return Err(format!("not refused: {expected}\n{printed}").into()),
            Err(failed) => {
                let said = failed.message().unwrap_or_default();
                if !(said.starts_with("error: ") && said.contains(&expected) && said.lines().count() == 1) {
                    return Err(format!("{said}\nshould say: {expected}").into());
                }
            }
        }
    }
    // No tokens are no error.
    let files = Files::of(&package, &with("x", Some(Tensor::new(DType::F32, vec![0, 64], Vec::new())?)));
    let printed = run(&files.package(), &files.tensors(), &[])?;
    assert!(printed.lines().count() == 2 && printed.contains("y                  f32 [0, 64]"), "{printed}");
    Ok(())
}
