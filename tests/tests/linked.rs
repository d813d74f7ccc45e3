//! Libraries through the C ABI do what the runtime does with the same package: the same launches and the same workspace at every
//! batch size, and on this CPU the same bits.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::process::Command;
use std::slice::from_ref;

use moec::import::{Entry, import};
use moec::library::{Kind, Library};
use moec::pipeline::this_host;
use moec::random;
use moec::reference::difference;
use moec::spec::Spec;
use moec_runtime::package::{self, Buffer, Cuts, DType, Dims, Manifest, Role, Target};
use moec_runtime::{Bound, Checkpoint, DeviceKind, Error, Layer, Package, Stream, Tensor, weights};
use moec_tests::built::compiled;
use moec_tests::c_abi::{Aligned, Given, Launch, Linked};
use moec_tests::scaled::{counts_all_tokens, modes};
use moec_tests::trials::{Case, Family};
use moec_tests::{Example, Fixture, examples, fixtures, inputs, machine};

/// A trial for each example and each published block.
pub(crate) fn family() -> Family {
    let of_example = |example: Example| {
        let spec = example.spec.clone();
        Case::new(format!("formulas::{}", example.name), &spec, move || {
            same_formulas(&example);
            Ok(())
        })
    };
    let of_block = |fixture: Fixture| {
        let spec = fixture.spec.clone();
        Case::new(format!("blocks::{}", fixture.name), &spec, move || {
            same_bits(&fixture.name, &fixture.spec, Entry::Layer, &fixture.text, |manifest| block(manifest, &fixture));
            Ok(())
        })
    };
    let of_mode = |mode: Example| {
        let spec = mode.spec.clone();
        Case::new(format!("modes::{}", mode.name), &spec, move || {
            let dims = if counts_all_tokens(&mode.spec) { Dims::tokens(96) } else { Dims { tokens: 96, sequence_tokens: 48 } };
            let draw =
                |manifest: &Manifest| (random::weights(manifest, 3).unwrap(), random::inputs(manifest, dims, 7).unwrap(), dims);
            for entry in [Entry::Layer, Entry::Router, Entry::Experts { local: None }, Entry::Experts { local: Some(3) }] {
                // Not every mode picks experts for a token.
                if import(&mode.spec, entry).is_ok() {
                    same_bits(&format!("{}, {entry:?}", mode.name), &mode.spec, entry, &mode.text, draw);
                    module_is_python(&mode, entry);
                }
            }
            Ok(())
        })
    };
    let together = Case::new("layers".to_string(), &modes()[0].spec, || {
        layers_together();
        Ok(())
    });
    let modes = modes().into_iter().map(of_mode).chain([together]);
    let cases = examples().into_iter().map(of_example).chain(fixtures().into_iter().map(of_block)).chain(modes).collect();
    Family { name: "linked", one_in: 8, cases }
}

fn linked(package: &Package) -> Linked {
    let library = Library::new(from_ref(package)).unwrap();
    Linked::load(library.prefixes().next().unwrap(), &library.files(Kind::Shared, None).unwrap()[0].bytes)
}

/// The module for JAX, where there is Python.
fn module_is_python(mode: &Example, entry: Entry) {
    let host = this_host().expect("an x86-64 CPU of level v3");
    let package = compiled(&mode.spec, entry, &mode.text, from_ref(&host)).unwrap();
    let files = Library::new(&[package]).unwrap().files(Kind::Jax, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(&files[0].name), &files[0].bytes).unwrap();
    let mut python = Command::new("python3");
    let Ok(output) = python.args(["-m", "py_compile", &files[0].name]).current_dir(&folder).output() else { return };
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{}, {entry:?}: {told}", mode.name);
}

/// One library has several layers, each with a table of its own.
fn layers_together() {
    let host = this_host().expect("an x86-64 CPU of level v3");
    let compiled = |mode: &Example, entry| compiled(&mode.spec, entry, &mode.text, from_ref(&host)).unwrap();
    let modes: Vec<Example> = modes().into_iter().filter(|mode| import(&mode.spec, Entry::Router).is_ok()).collect();
    let entries = [Entry::Router, Entry::Experts { local: None }, Entry::Layer];
    let packages: Vec<Package> =
        entries.iter().map(|entry| compiled(&modes[0], *entry)).chain([compiled(&modes[1], Entry::Layer)]).collect();
    let library = Library::new(&packages).unwrap();
    let bytes = &library.files(Kind::Shared, Some("libmoe.so")).unwrap()[0].bytes;
    assert_eq!(library.prefixes().count(), packages.len());
    for (package, prefix) in packages.iter().zip(library.prefixes()) {
        let (together, alone) = (Linked::load(prefix, bytes), linked(package));
        assert_eq!((together.names(), together.params()), (alone.names(), alone.params()));
        let dims = Dims::tokens(64);
        let plan = together.plan(host.name, dims).unwrap();
        assert!(!plan.is_empty() && plan.iter().all(|launch| launch.kernel.starts_with(prefix)), "{prefix}: {plan:?}");
        assert_eq!(Ok(plan), alone.plan(host.name, dims));
        let [weights, x] =
            [random::weights(package.manifest(), 3), random::inputs(package.manifest(), dims, 7)].map(Result::unwrap);
        let results = [&together, &alone].map(|linked| {
            let of = |role: Role| package.manifest().buffers.iter().filter(move |buffer| buffer.role == role);
            let shape = |buffer: &Buffer| -> Vec<u64> { buffer.shape.iter().map(|extent| extent.count(dims).unwrap()).collect() };
            let mut given: Vec<Given> =
                x.iter().zip(of(Role::Input)).map(|(tensor, buffer)| Given::of(tensor, &shape(buffer))).collect();
            let inputs = given.len();
            given.extend(of(Role::Output).map(|buffer| Given::new(buffer.dtype, &shape(buffer))));
            let outputs = inputs..given.len();
            given.extend(weights.iter().zip(of(Role::Weight)).map(|(tensor, buffer)| Given::of(tensor, &shape(buffer))));
            let mut workspace = Aligned::new(linked.workspace_bytes(Some(host.name), dims).unwrap(), 0x44);
            linked.create(1).unwrap().run(&mut given.iter_mut().collect::<Vec<_>>(), &mut workspace, 0, false).unwrap();
            given[outputs].iter().map(|output| output.bytes().to_vec()).collect::<Vec<_>>()
        });
        assert_eq!(results[0], results[1], "{prefix}");
    }
}

/// Launches, workspace and observed buffers of GPUs and hosts, which are formulas of T and S.
fn same_formulas(Example { name, text, spec }: &Example) {
    let machines = ["sm_90a", "x86-64-v3"].map(machine);
    let package = compiled(spec, Entry::Layer, text, &machines).unwrap();
    let manifest = package.manifest();
    let linked = linked(&package);
    assert_eq!(linked.names(), (name.clone(), manifest.targets.iter().map(|target| target.name.clone()).collect()));
    let roles = [Role::Input, Role::Output, Role::Weight];
    let buffers = roles.iter().flat_map(|role| manifest.buffers.iter().filter(move |buffer| buffer.role == *role));
    let names: Vec<String> = buffers.map(|buffer| buffer.name.clone()).collect();
    assert_eq!(linked.params().into_iter().map(|(name, ..)| name).collect::<Vec<_>>(), names);

    let most = manifest.max_tokens;
    let bounds = manifest.targets.iter().flat_map(|target| &target.regimes).filter_map(|regime| regime.tokens_up_to);
    let near = bounds.flat_map(|bound| [bound.saturating_sub(1), bound, bound + 1]);
    let batches = [1, 2, 3, 7, 16, 17, 64, 300, 1000, 4096, 65536, most].into_iter().chain(near);
    let mut some = 0;
    for tokens in batches.filter(|tokens| (1..=most).contains(tokens)) {
        for sequences in [1, 2, 3, tokens] {
            if !tokens.is_multiple_of(sequences) {
                continue;
            }
            let dims = Dims { tokens, sequence_tokens: tokens / sequences };
            let all: Vec<usize> = manifest.targets.iter().map(|target| same_at(&linked, &package, target, dims)).collect();
            assert_eq!(linked.workspace_bytes(None, dims).unwrap(), all.into_iter().max().unwrap(), "{name}: {dims:?}");
            some += 1;
        }
    }
    assert!(some > 20, "{name}: {some} batches");
    under_a_limit(&package);
    let beyond = linked.workspace_bytes(None, Dims::tokens(most + 1)).unwrap_err();
    assert!(beyond.contains(&format!("T = {}, at most {most}", most + 1)), "{beyond}");
    let uneven = linked.workspace_bytes(None, Dims { tokens: 7, sequence_tokens: 2 }).unwrap_err();
    assert!(uneven.contains("does not divide"), "{uneven}");
    assert_eq!(linked.workspace_bytes(None, Dims::tokens(0)), Ok(0));
    for target in &manifest.targets {
        assert_eq!(linked.plan(&target.name, Dims::tokens(0)), Ok(Vec::new()));
        let one: package::Manifest = serde_json::from_str(&linked.manifest(&target.name)).unwrap();
        assert_eq!((one.targets, one.buffers), (vec![target.clone()], manifest.buffers.clone()));
    }
}

/// Parts and workspace where the spec bounds it: those of the runtime, and a workspace that serves all smaller batches.
fn under_a_limit(package: &Package) {
    let mut manifest = package.manifest().clone();
    let target = &package.manifest().targets[0];
    let limit = package::workspace(&manifest, target, Dims::tokens(1000.min(manifest.max_tokens))).unwrap().bytes;
    manifest.workspace_limit = Some(limit);
    let bounded = Package::new(manifest.clone(), package.images().to_vec()).unwrap();
    let linked = linked(&bounded);
    let prepared = linked.prepared_bytes(&target.name).unwrap();
    let mut before = 0;
    for tokens in (1..2200).step_by(37).chain([4000, 4096, 10_000, 60_000]).filter(|tokens| *tokens <= manifest.max_tokens) {
        let dims = Dims::tokens(tokens);
        let Ok(part) = package::part(&manifest, target, dims, limit) else {
            assert!(
                linked.workspace_bytes(Some(&target.name), dims).is_err() && linked.plan(&target.name, dims).is_err(),
                "T = {tokens}"
            );
            continue;
        };
        let bytes = linked.workspace_bytes(Some(&target.name), dims).unwrap();
        assert!(bytes >= before && bytes as u64 <= limit + prepared as u64, "T = {tokens}: {bytes} after {before}");
        before = bytes;
        let launches = |tokens: u64| {
            let dims = if part == dims { dims } else { Dims::tokens(tokens) };
            let of_regime = target.regime(tokens).unwrap().launches.iter();
            of_regime.filter(|launch| launch.grid.count(dims).unwrap() > 0).count() as u64
        };
        let (times, last) = (tokens / part.tokens, tokens % part.tokens);
        let expected = times * launches(part.tokens) + if last > 0 { launches(last) } else { 0 };
        let found = linked.launches(&target.name, dims).unwrap();
        assert_eq!(u64::from(found), expected, "T = {tokens} in parts of {}", part.tokens);
    }
}

/// Holds one target's launches and workspace for one batch; the bytes of workspace, prepared memory included.
fn same_at(linked: &Linked, package: &Package, target: &Target, dims: Dims) -> usize {
    let manifest = package.manifest();
    let name = &target.name;
    let launches = target.regime(dims.tokens).unwrap().launches.iter().map(|launch| {
        let kernel = &target.kernels[launch.kernel as usize];
        Launch {
            kernel: kernel.symbol.clone(),
            grid: launch.grid.count(dims).unwrap(),
            threads: kernel.threads,
            cluster: kernel.cluster,
            dynamic_shared_bytes: kernel.dynamic_shared_bytes,
            is_early: launch.early,
        }
    });
    let launches: Vec<Launch> = launches.filter(|launch| launch.grid > 0).collect();
    assert_eq!(linked.plan(name, dims), Ok(launches), "{name}: {dims:?}");
    let layout = package::workspace(manifest, target, dims).unwrap();
    let prepared = linked.prepared_bytes(name).unwrap();
    assert_eq!(linked.workspace_bytes(Some(name), dims), Ok(layout.bytes as usize + prepared), "{name}: {dims:?}");
    for place in &layout.places {
        if let Some(observed) = &manifest.buffers[place.buffer].observe {
            let found = linked.observed(name, dims, observed);
            assert_eq!(found, Ok((place.offset as usize, place.bytes as usize)), "{name}: {dims:?}: {observed}");
        }
    }
    layout.bytes as usize + prepared
}

/// Weights and inputs of a published block.
fn block(manifest: &Manifest, fixture: &Fixture) -> (Vec<Tensor>, Vec<Tensor>, Dims) {
    let bytes = std::fs::read(&fixture.file).unwrap();
    let checkpoint = Checkpoint::read(&bytes).unwrap();
    let (tensors, _) = weights::assemble(manifest, &checkpoint, "w.").unwrap();
    let x = inputs(manifest, &checkpoint);
    let dims = Dims::of_activations(x[0].shape()).unwrap();
    (tensors, x, dims)
}

/// A layer by the runtime and by its library: outputs, what is observed, and weights after an update.
fn same_bits(name: &str, spec: &Spec, entry: Entry, text: &str, draw: impl Fn(&Manifest) -> (Vec<Tensor>, Vec<Tensor>, Dims)) {
    let host = this_host().expect("an x86-64 CPU of level v3");
    let package = compiled(spec, entry, text, from_ref(&host)).unwrap();
    let manifest = package.manifest();
    let (tensors, x, dims) = draw(manifest);
    let layer = Layer::load(&package, DeviceKind::Host { threads: Some(2) }).unwrap();
    let bound = layer.bind(tensors.clone()).unwrap();
    let mut batch = bound.batch(&x, dims).unwrap();
    let elapsed = bound.launch(&mut batch).unwrap();
    let run = bound.collect(&batch, elapsed).unwrap();
    let updates = !package.manifest().targets[0].update.is_empty();
    let updated: Vec<Tensor> = if updates {
        bound.update(&mut batch).unwrap();
        manifest.buffers.iter().filter(|b| b.role == Role::Weight).map(|b| bound.weight(&b.name).unwrap()).collect()
    } else {
        tensors.clone()
    };

    let linked = linked(&package);
    let shape = |buffer: &Buffer| -> Vec<u64> { buffer.shape.iter().map(|extent| extent.count(dims).unwrap()).collect() };
    let of_role = |role: Role| manifest.buffers.iter().filter(move |buffer| buffer.role == role);
    let given = |tensors: &[Tensor], role: Role| -> Vec<Given> {
        tensors.iter().zip(of_role(role)).map(|(tensor, buffer)| Given::of(tensor, &shape(buffer))).collect()
    };
    let limit = package::workspace(manifest, &manifest.targets[0], Dims { tokens: dims.tokens / 2, ..dims }).unwrap().bytes;
    let in_parts = in_parts(name, &bound, &x, dims, limit);
    // A batch that is long enough is cut, unless half of it needs as much workspace.
    let is_longer = package::workspace(manifest, &manifest.targets[0], dims).unwrap().bytes > limit;
    let is_cut = is_longer
        && match manifest.cuts {
            Cuts::Tokens => dims.tokens >= 2 * u64::from(package::cut_align(manifest)),
            Cuts::Sequences => {
                let align = package::cut_align(manifest);
                let step = u64::from(align >> dims.sequence_tokens.trailing_zeros().min(align.ilog2()));
                dims.tokens >= 2 * dims.sequence_tokens * step
            }
            Cuts::Nowhere => false,
        };
    assert!(in_parts.is_ok() || !is_cut, "{name}: {in_parts:?}");
    assert!(in_parts.is_err() || !is_longer || manifest.cuts != Cuts::Nowhere, "{name}");
    for threads in [1, 2] {
        for is_bound in [true, false] {
            let at = format!("{name}: {threads} threads, bound {is_bound}");
            let mut handle = linked.create(threads).unwrap();
            assert_eq!(handle.target(), host.name);
            let mut bound_weights = given(&tensors, Role::Weight);
            let mut loose_weights = given(&tensors, Role::Weight);
            let mut prepared = Aligned::new(linked.prepared_bytes(host.name).unwrap(), 0x5a);
            if is_bound {
                handle.bind(&mut bound_weights, &mut prepared).unwrap();
            }
            let mut inputs = given(&x, Role::Input);
            let mut outputs: Vec<Given> = of_role(Role::Output).map(|buffer| Given::new(buffer.dtype, &shape(buffer))).collect();
            let workspace = linked.workspace_bytes(Some(host.name), dims).unwrap();
            let mut workspace = Aligned::new(workspace, 0x33);
            let mut params: Vec<&mut Given> = inputs.iter_mut().chain(&mut outputs).collect();
            if !is_bound {
                params.extend(&mut loose_weights);
            }
            handle.run(&mut params, &mut workspace, dims.sequence_tokens, false).unwrap_or_else(|error| panic!("{at}: {error}"));
            if updates {
                handle
                    .run(&mut params, &mut workspace, dims.sequence_tokens, true)
                    .unwrap_or_else(|error| panic!("{at}: {error}"));
            }
            drop(params);
            let after = if is_bound { &bound_weights } else { &loose_weights };
            for ((buffer, expected), found) in of_role(Role::Weight).zip(&updated).zip(after) {
                assert!(expected.bytes() == found.bytes(), "{at}: {} after the update", buffer.name);
            }
            for (buffer, output) in of_role(Role::Output).zip(&outputs) {
                assert!(run.tensor(&buffer.name).unwrap().bytes() == output.bytes(), "{at}: {}", buffer.name);
            }
            let mut short = Aligned::new(limit as usize + if is_bound { 0 } else { prepared.bytes().len() }, 0x77);
            let mut params: Vec<&mut Given> = inputs.iter_mut().chain(&mut outputs).collect();
            if !is_bound {
                params.extend(&mut loose_weights);
            }
            let short = handle.run(&mut params, &mut short, dims.sequence_tokens, false);
            drop(params);
            match &in_parts {
                Ok(expected) => {
                    short.unwrap_or_else(|error| panic!("{at}: {error}"));
                    for (output, expected) in outputs.iter().zip(expected) {
                        assert!(output.bytes() == expected.bytes(), "{at}: in parts");
                    }
                }
                Err(_) => assert!(short.unwrap_err().contains("the workspace has"), "{at}"),
            }
            for observed in manifest.buffers.iter().filter_map(|buffer| buffer.observe.as_ref()) {
                let (offset, length) = linked.observed(host.name, dims, observed).unwrap();
                let found = &workspace.bytes()[offset..offset + length];
                assert!(run.tensor(observed).unwrap().bytes() == found, "{at}: {observed}");
            }
        }
    }
}

/// The outputs of a run with too little workspace for the whole batch: those of the whole, but for rounding.
fn in_parts(name: &str, bound: &Bound, x: &[Tensor], dims: Dims, limit: u64) -> Result<Vec<Tensor>, Error> {
    let layer = bound.layer();
    let whole = bound.run(x, dims)?;
    let plan = layer.plan_within(dims, limit)?;
    let is_longer = package::workspace(layer.manifest(), layer.target(), dims)?.bytes > limit;
    assert!((plan.parts() > 1) == is_longer && plan.workspace().0 <= limit, "{name}: {} parts", plan.parts());
    let mut batch = bound.batch_for(&plan, x)?;
    plan.run(bound, &mut batch.memory(), Stream::DEFAULT)?;
    layer.sync()?;
    let run = bound.collect(&batch, std::time::Duration::ZERO)?;
    assert!(run.observed.is_empty() || !is_longer, "{name}");
    let bound_of = match layer.manifest().dtype {
        DType::F32 => 2e-5,
        DType::F16 => 4e-3,
        DType::Bf16 => 3e-2,
        DType::I32 => 0.0,
    };
    for ((name, part), (_, whole)) in run.outputs.iter().zip(&whole.outputs) {
        let error = difference(&part.to_f64(), &whole.to_f64()).of_largest;
        assert!(error <= bound_of, "{name}: {error:.1e} in parts");
    }
    Ok(run.outputs.into_iter().map(|(_, tensor)| tensor).collect())
}
