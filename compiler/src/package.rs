//! Programs and images as a package: the only mapping from the compiler's types to the manifest's.

use moec_codegen::{Image, Object};
use moec_ir::facts::Count;
use moec_ir::graph::{self, Dim, Param, Pointwise, Type};
use moec_ir::kernel::{self, Program};
use moec_ir::machine::MachineKind;
use moec_ir::{DType, Extent, Facts, Machine, Round};
use moec_runtime::Package;
use moec_runtime::package as file;
use sha2::{Digest, Sha256};

use crate::facts::{facts, facts_of};
use crate::import::{Entry, import_layer};
use crate::pipeline::Built;
use crate::spec::{HashOob, Layout, Spec, Tensor, Weight, Word};

/// One package with everything that was built. The same input gives the same bytes.
///
/// # Errors
/// The runtime's, if the manifest does not describe the images: a bug.
pub fn package(spec: &Spec, entry: Entry, spec_text: &str, built: &[Built]) -> Result<Package, moec_runtime::Error> {
    let mut manifest = file::Manifest {
        compiler: format!("moec {}", env!("CARGO_PKG_VERSION")),
        layer: entry.name(spec),
        entry: match entry {
            Entry::Layer => file::Entry::Layer,
            Entry::Experts { .. } => file::Entry::Experts,
            Entry::Router => file::Entry::Router,
        },
        spec_sha256: sha256(spec_text),
        dtype: dtype(crate::import::element(spec.numerics.dtype)),
        tf32: built.iter().any(|(_, lowered, _)| lowered.graph.graph().has(Pointwise::Tf32.into())),
        max_tokens: spec.tokens.max,
        cuts: cuts(built),
        workspace_limit: spec.tokens.workspace,
        dims: dims(&facts_of(spec, entry)),
        buffers: Vec::new(),
        weights: Vec::new(),
        images: Vec::new(),
        targets: Vec::new(),
    };
    let mut images = Vec::new();
    for (machine, lowered, objects) in built {
        let program = &lowered.program;
        let places: Vec<u32> = program.buffers.iter().map(|b| place(spec, &mut manifest.buffers, b, machine.name)).collect();
        let first = images.len() as u32;
        for object in objects {
            manifest.images.push(image(object));
            images.push(object.image.bytes().to_vec());
        }
        manifest.targets.push(target(machine, program, objects, first, &places));
    }
    let weights = manifest.buffers.iter().filter(|b| b.role == file::Role::Weight);
    manifest.weights = weights.map(|buffer| recipe(spec, entry, buffer)).collect();
    if let Some(limit) = manifest.workspace_limit {
        // What can be run at all: the shortest sequences, where batches are cut between them.
        let sequence_tokens = if manifest.cuts == file::Cuts::Sequences { 1 } else { manifest.max_tokens };
        let dims = file::Dims { tokens: manifest.max_tokens, sequence_tokens };
        manifest.targets.iter().try_for_each(|target| file::part(&manifest, target, dims, limit).map(|_| ()))?;
    }
    Package::new(manifest, images)
}

/// A package of kernels for one machine that are no layer's.
///
/// # Errors
/// The runtime's, if the manifest does not describe the images: a bug.
#[cfg(feature = "llvm")]
pub(crate) fn of_kernels(program: &Program, machine: &Machine, objects: &[Object]) -> Result<Package, moec_runtime::Error> {
    let places: Vec<u32> = (0..program.buffers.len() as u32).collect();
    let manifest = file::Manifest {
        compiler: format!("moec {}", env!("CARGO_PKG_VERSION")),
        layer: program.name.clone(),
        entry: file::Entry::Layer,
        spec_sha256: sha256(""),
        dtype: file::DType::F32,
        tf32: false,
        max_tokens: 1,
        cuts: file::Cuts::Nowhere,
        workspace_limit: None,
        dims: dims(&program.facts),
        buffers: program.buffers.iter().map(buffer_of).collect(),
        weights: Vec::new(),
        images: objects.iter().map(image).collect(),
        targets: vec![target(machine, program, objects, 0, &places)],
    };
    Package::new(manifest, objects.iter().map(|object| object.image.bytes().to_vec()).collect())
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn image(object: &Object) -> file::Image {
    file::Image::new(match object.image {
        Image::Ptx(_) => file::ImageKind::Ptx,
        Image::Cubin(_) => file::ImageKind::Cubin,
        Image::SharedObject(_) => file::ImageKind::SharedObject,
    })
}

/// A manifest of nothing but these weights of the layer, those of them that it has: what assembles them from a checkpoint.
#[must_use]
pub fn weights_alone(spec: &Spec, tensors: &[Tensor]) -> file::Manifest {
    let graph = import_layer(spec);
    let wanted = |name: &str| tensors.iter().any(|tensor| tensor.word() == name);
    let buffer = |(param, ty): &(Param, Type)| {
        let Type::Tensor { shape, dtype: element } = ty else { return None };
        let extent = |dim: &Dim| match dim {
            Dim::Const(n) => Some(extent(&Extent::Const(*n))),
            Dim::Tokens | Dim::Pairs => None,
        };
        Some(file::Buffer {
            name: param.bare().to_string(),
            role: file::Role::Weight,
            dtype: dtype(*element),
            shape: shape.iter().map(extent).collect::<Option<_>>()?,
            align: 16,
            observe: None,
            below: below(spec, param.bare()),
            mask: None,
        })
    };
    let weights = graph.params.iter().filter(|(param, _)| !param.is_input() && wanted(param.bare()));
    let buffers: Vec<file::Buffer> = weights.filter_map(buffer).collect();
    file::Manifest {
        compiler: format!("moec {}", env!("CARGO_PKG_VERSION")),
        layer: spec.name.clone(),
        entry: file::Entry::Layer,
        spec_sha256: String::new(),
        dtype: dtype(crate::import::element(spec.numerics.dtype)),
        tf32: false,
        max_tokens: spec.tokens.max,
        cuts: file::Cuts::Nowhere,
        workspace_limit: None,
        dims: dims(&facts(spec)),
        weights: buffers.iter().map(|buffer| recipe(spec, Entry::Layer, buffer)).collect(),
        buffers,
        images: Vec::new(),
        targets: Vec::new(),
    }
}

/// Where the layer's batches may be cut: one answer, whatever rewriting did to the graph of a target.
fn cuts(built: &[Built]) -> file::Cuts {
    let found = built.iter().map(|(_, lowered, _)| graph::cuts(lowered.graph.graph())).max();
    match found.unwrap_or(graph::Cuts::Nowhere) {
        graph::Cuts::Tokens => file::Cuts::Tokens,
        graph::Cuts::Sequences => file::Cuts::Sequences,
        graph::Cuts::Nowhere => file::Cuts::Nowhere,
    }
}

fn dims(facts: &Facts) -> Vec<file::Dim> {
    facts.sizes.iter().map(|(name, value)| file::Dim { name: name.clone(), value: *value }).collect()
}

/// How many there are of what a tensor numbers, where a number of nothing is refused: experts by a table, its rows by token ids.
fn below(spec: &Spec, name: &str) -> Option<u64> {
    match name {
        "hash_table" => Some(spec.candidates()),
        "token_ids" => spec.router.vocabulary.filter(|_| spec.router.hash_oob == HashOob::Error),
        _ => None,
    }
}

/// The input that says which of its numbers are those of padding, where one of nothing is refused.
fn mask(spec: &Spec, name: &str) -> Option<String> {
    let is_masked = name == "token_ids" && spec.tokens.mask && below(spec, name).is_some();
    is_masked.then(|| "token_mask".to_string())
}

/// The manifest's buffer for one of a program's, of any numbers.
fn buffer_of(buffer: &kernel::Buffer) -> file::Buffer {
    file::Buffer {
        name: buffer.name.clone(),
        role: match buffer.role {
            kernel::Role::Input => file::Role::Input,
            kernel::Role::Output => file::Role::Output,
            kernel::Role::Weight => file::Role::Weight,
            kernel::Role::Prepared => file::Role::Prepared,
            kernel::Role::Workspace => file::Role::Workspace,
        },
        dtype: dtype(buffer.dtype),
        shape: buffer.shape.iter().map(extent).collect(),
        align: 16,
        observe: buffer.observe.clone(),
        below: None,
        mask: None,
    }
}

/// The manifest's buffer for one of a layer's. Targets share what is alike, workspace too.
fn place(spec: &Spec, buffers: &mut Vec<file::Buffer>, buffer: &kernel::Buffer, machine: &str) -> u32 {
    let mut new = file::Buffer { below: below(spec, &buffer.name), mask: mask(spec, &buffer.name), ..buffer_of(buffer) };
    if let Some(known) = buffers.iter().position(|b| *b == new) {
        return known as u32;
    }
    if buffers.iter().any(|b| b.name == new.name) {
        new.name = format!("{}@{machine}", new.name);
    }
    buffers.push(new);
    buffers.len() as u32 - 1
}

fn target(machine: &Machine, program: &Program, objects: &[Object], first_image: u32, places: &[u32]) -> file::Target {
    let (kind, ptx_version, least_driver, cpu_features) = match machine.kind {
        MachineKind::Gpu { ptx, .. } => {
            let version = format!("{}.{}", ptx / 10, ptx % 10);
            (file::TargetKind::Gpu, Some(version), Some(least_cuda(ptx).to_string()), Vec::new())
        }
        MachineKind::Host { features, .. } => {
            (file::TargetKind::Host, None, None, features.iter().map(|feature| feature.name().to_string()).collect())
        }
    };
    let kernels = program
        .kernels
        .iter()
        .map(|k| {
            let info = |o: &Object| o.kernels.iter().find(|info| info.name == k.name).cloned();
            let usage = objects.iter().filter_map(info).find_map(|info| info.usage);
            let shared = objects.iter().find_map(info).map_or((0, 0), |info| (info.shared_bytes, info.dynamic_shared_bytes));
            file::Kernel {
                name: k.name.clone(),
                symbol: moec_codegen::symbol::symbol(program, machine, &k.name),
                params: k.params.iter().map(|p| file::Param { name: p.name.clone(), kind: param(p.kind) }).collect(),
                threads: k.threads,
                cluster: k.cluster,
                shared_bytes: shared.0 as u32,
                dynamic_shared_bytes: shared.1 as u32,
                registers: usage.as_ref().map(|u| u.registers),
                spill_bytes: usage.as_ref().map(|u| u.spill_stores + u.spill_loads),
            }
        })
        .collect();
    let launch = |launch: &kernel::Launch| file::Launch {
        kernel: launch.kernel as u32,
        grid: extent(&launch.grid),
        early: launch.early,
        working: launch.working.as_ref().map(|of| file::Working {
            buffer: places[of.buffer],
            each: extent(&of.each),
            follows: of.follows,
        }),
        args: launch.args.iter().zip(&program.kernels[launch.kernel].params).map(|(a, p)| arg(a, p.kind, places)).collect(),
    };
    file::Target {
        name: machine.name.to_string(),
        kind,
        images: (first_image..first_image + objects.len() as u32).collect(),
        cpu_features,
        least_driver,
        ptx_version,
        kernels,
        regimes: program
            .regimes
            .iter()
            .map(|regime| file::Regime {
                tokens_up_to: regime.tokens_up_to,
                tile_rows: regime.tile_rows,
                launches: regime.launches.iter().map(launch).collect(),
            })
            .collect(),
        prepare: program.prepare.iter().map(launch).collect(),
        update: program.update.iter().map(launch).collect(),
        statistics: statistics(program),
    }
}

/// What the program's observed buffers say of routing, if they do.
fn statistics(program: &Program) -> Option<file::Routing> {
    let statistics = program.statistics.as_ref()?;
    let slot = |count: Count| statistics.name(count).map(str::to_string);
    let slots = file::Slots {
        load: slot(Count::Load)?,
        kept: slot(Count::Kept)?,
        tokens: slot(Count::Tokens),
        experts: slot(Count::Experts),
        rows: slot(Count::Rows),
        probability: slot(Count::Probability),
        z: slot(Count::Z),
        importance: slot(Count::Importance),
        aux_loss: slot(Count::AuxLoss),
        z_loss: slot(Count::ZLoss),
    };
    let Facts { sizes: _, routing } = &program.facts;
    Some(file::Routing {
        slots,
        by_sequence: statistics.by_sequence,
        experts: statistics.experts + statistics.rowless,
        rowless: statistics.rowless,
        top_k: statistics.top_k,
        joint_shared: routing.joint_shared,
        corrected: routing.corrected,
        grouped: routing.grouped,
        rows_at_capacity: routing.rows_at_capacity.as_ref().map(extent),
        capacity_factor: routing.capacity_factor,
    })
}

/// The first CUDA release whose driver reads this PTX ISA version (times ten): PTX ISA, release notes.
fn least_cuda(ptx: u32) -> &'static str {
    match ptx {
        ..=70 => "11.0",
        71 => "11.1",
        72..=78 => "11.8",
        79..=80 => "12.0",
        81..=86 => "12.7",
        87.. => "12.8",
    }
}

fn param(kind: kernel::ParamKind) -> file::ParamKind {
    match kind {
        kernel::ParamKind::Buffer { .. } => file::ParamKind::Pointer,
        kernel::ParamKind::Scalar(DType::I64) => file::ParamKind::I64,
        kernel::ParamKind::Scalar(_) => file::ParamKind::I32,
        kernel::ParamKind::TensorMap(kernel::TensorMap { elem, tile, swizzle, write: _ }) => {
            let swizzle = match swizzle {
                kernel::Swizzle::None => file::Swizzle::None,
                kernel::Swizzle::Bytes32 => file::Swizzle::Bytes32,
                kernel::Swizzle::Bytes64 => file::Swizzle::Bytes64,
                kernel::Swizzle::Bytes128 => file::Swizzle::Bytes128,
            };
            file::ParamKind::TensorMap(file::TensorMap { dtype: dtype(elem), tile, swizzle })
        }
    }
}

fn arg(arg: &kernel::Arg, kind: kernel::ParamKind, places: &[u32]) -> file::Arg {
    match (&arg.given, kind) {
        (kernel::Given::Buffer(index), _) => file::Arg::Buffer(places[*index]),
        (kernel::Given::Scalar(e), kernel::ParamKind::Scalar(DType::I64)) => file::Arg::ScalarI64(extent(e)),
        (kernel::Given::Scalar(e), _) => file::Arg::ScalarI32(extent(e)),
        (kernel::Given::TensorMap(kernel::View { buffer, extents, strides }), _) => {
            let (extents, strides) = (extents.each_ref().map(extent), strides.each_ref().map(extent));
            file::Arg::TensorMap(file::View { buffer: places[*buffer], extents, strides })
        }
    }
}

fn dtype(dtype: DType) -> file::DType {
    match dtype {
        DType::F32 => file::DType::F32,
        DType::F16 => file::DType::F16,
        DType::BF16 => file::DType::Bf16,
        DType::I32 | DType::I64 | DType::Bool => file::DType::I32,
    }
}

fn extent(e: &Extent) -> file::Extent {
    let two = |a: &Extent, b: &Extent| (Box::new(extent(a)), Box::new(extent(b)));
    match e {
        Extent::Const(n) => file::Extent::Const(i64::try_from(*n).unwrap_or(i64::MAX)),
        Extent::Tokens => file::Extent::Tokens,
        Extent::SequenceTokens => file::Extent::SequenceTokens,
        Extent::Add(a, b) => {
            let (a, b) = two(a, b);
            file::Extent::Add(a, b)
        }
        Extent::Mul(a, b) => {
            let (a, b) = two(a, b);
            file::Extent::Mul(a, b)
        }
        Extent::Min(a, b) => {
            let (a, b) = two(a, b);
            file::Extent::Min(a, b)
        }
        Extent::Max(a, b) => {
            let (a, b) = two(a, b);
            file::Extent::Max(a, b)
        }
        Extent::Div(a, b, round) => {
            let (a, b) = two(a, b);
            let round = match round {
                Round::Floor => file::Round::Floor,
                Round::Ceil => file::Round::Ceil,
                Round::HalfEven => file::Round::HalfEven,
            };
            file::Extent::Div(a, b, round)
        }
    }
}

/// How a weight buffer comes out of a checkpoint, from the spec's `[weights]`.
fn recipe(spec: &Spec, entry: Entry, buffer: &file::Buffer) -> file::Recipe {
    let rank = buffer.shape.len() as u32;
    let tensor = Tensor::from_word(&buffer.name);
    let own = tensor.and_then(|tensor| spec.weight(tensor)).map(|weight| (weight, None));
    // Gate and up may be halves of one stored tensor, along their rows.
    let half = || {
        let (fused, index) = half_of(tensor?)?;
        let axis = rank - if is_bias(fused) { 1 } else { 2 };
        let weight = spec.weight(fused)?;
        let interleaved = weight.layout.is_interleaved();
        Some((weight, Some(file::Slice { axis, index, parts: 2, interleaved })))
    };
    match own.or_else(half) {
        Some((weight, slice)) => file::Recipe::whole(&buffer.name, sources((spec, entry), weight, rank, slice)),
        None => file::Recipe::whole(&buffer.name, vec![file::Source::plain(&buffer.name)]),
    }
}

fn sources((spec, entry): (&Spec, Entry), weight: &Weight, rank: u32, slice: Option<file::Slice>) -> Vec<file::Source> {
    let axes: Vec<u32> = match weight.layout {
        Layout::Transposed | Layout::TransposedInterleaved => {
            (0..rank.saturating_sub(2)).chain([rank - 1, rank.saturating_sub(2)]).collect()
        }
        Layout::Hep => vec![2, 0, 1],
        Layout::Plain | Layout::Interleaved => Vec::new(),
    };
    // Several shared experts may be stored one by one.
    let count = spec.shared.map_or(1, |shared| shared.count as u32);
    let stacked = side(weight.tensor).filter(|_| count > 1).map(|axis| file::Stacked { axis, parts: count });
    let source = |name: &String| {
        // Some checkpoints have rows or tensors for the identity experts too, which nothing is done with.
        // Of an entry with some of the experts the first are read.
        let left_out = spec.router.identity_experts + (spec.experts - entry.experts(spec));
        let spare = if weight.tensor.has_experts() { left_out } else { 0 };
        file::Source { flattened: weight.flattened, axes: axes.clone(), slice, spare, stacked, ..file::Source::plain(name) }
    };
    weight.names.iter().map(source).collect()
}

/// The axis along which the shared experts lie side by side.
fn side(tensor: Tensor) -> Option<u32> {
    let axes = [
        (Tensor::SharedGate, 0),
        (Tensor::SharedUp, 0),
        (Tensor::SharedGateUp, 0),
        (Tensor::SharedDown, 1),
        (Tensor::SharedGateBias, 0),
        (Tensor::SharedUpBias, 0),
        (Tensor::SharedGateUpBias, 0),
    ];
    axes.into_iter().find_map(|(stacked, axis)| (stacked == tensor).then_some(axis))
}

/// The fused tensor that may hold this one, and which half of it.
fn half_of(tensor: Tensor) -> Option<(Tensor, u32)> {
    let halves = [
        (Tensor::GateUp, Tensor::Gate, Tensor::Up),
        (Tensor::GateUpBias, Tensor::GateBias, Tensor::UpBias),
        (Tensor::SharedGateUp, Tensor::SharedGate, Tensor::SharedUp),
        (Tensor::SharedGateUpBias, Tensor::SharedGateBias, Tensor::SharedUpBias),
    ];
    halves.into_iter().find_map(|(fused, gate, up)| match tensor {
        t if t == gate => Some((fused, 0)),
        t if t == up => Some((fused, 1)),
        _ => None,
    })
}

fn is_bias(tensor: Tensor) -> bool {
    tensor.word().ends_with("_bias")
}
