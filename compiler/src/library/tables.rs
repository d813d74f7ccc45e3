//! The tables of `runtime/launcher/tables.h`, made of packages. Rows are cells, so that they can be written as C and as bytes; the
//! order of cells is that of the members there.

use std::collections::BTreeSet;

use moec_runtime::Package;
use moec_runtime::package::{
    self, Arg, Buffer, Cuts, DType, Extent, ImageKind, Launch, Manifest, ParamKind, Regime, Role, Round, Swizzle, Target,
    TargetKind, TensorMap,
};

use super::Refused;
use super::formulas::{Formulas, Op, Value};

/// No number: `NONE`.
pub(super) const NONE: u32 = u32::MAX;
/// As the launcher has them.
const VALUES_MAX: usize = 2048;
const MAPS_MAX: usize = 8;
const PARAMS_MAX: usize = 64;

/// One member of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// `uint32_t`.
    Number(u32),
    /// An array of them.
    Numbers(Vec<u32>),
    /// `int64_t`.
    Long(i64),
    /// `const char *`.
    Text(String),
    /// The address of a symbol; null.
    Symbol(Option<String>),
    /// `moec_dtype`.
    DType(u8, u8),
}

/// A constant array of the launcher.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Of an element.
    pub(super) c_type: &'static str,
    pub(super) rows: Vec<Row>,
}

/// An element, and what it is to people.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) cells: Vec<Cell>,
    pub(super) note: String,
}

/// What the tables refer to by its symbol.
#[derive(Clone, Debug)]
pub(super) struct Linked {
    pub(super) symbol: String,
    pub(super) target: String,
    pub(super) holds: Holds,
    pub(super) bytes: Vec<u8>,
}

/// What bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// A target's manifest, to which a NUL is added.
    Manifest,
    /// PTX, to which a NUL is added.
    Ptx,
    /// An image that the driver loads as it is.
    Cubin,
    /// A shared object of the host, whose kernels have symbols of their own.
    Code,
}

/// All that differs between two layers.
#[derive(Clone, Debug)]
pub struct Tables {
    pub(super) layer: String,
    pub(super) tables: Vec<Table>,
    /// The tensors of a caller, in order.
    pub(super) params: Vec<Buffer>,
    /// Names of targets.
    pub(super) targets: Vec<String>,
    pub(super) facts: Facts,
    pub(super) images: Vec<Linked>,
    /// Operations of all regimes.
    pub(super) common_ops: usize,
}

/// Of `moec_info`.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) compiler: String,
    pub(super) spec_sha256: String,
    pub(super) max_tokens: u64,
    pub(super) counts: [usize; 3],
    pub(super) cuts: u32,
    /// Alignment of the tensors of tokens.
    pub(super) cut_align: u32,
    pub(super) workspace_limit: u64,
    /// Names of the weights that an update is given, of any target.
    pub(super) updated: Vec<String>,
}

/// The tables while they grow.
struct Builder {
    prefix: String,
    formulas: Formulas,
    constants: Vec<i64>,
    values: Vec<Row>,
    ops: Vec<Row>,
    kernels: Vec<Row>,
    functions: Vec<Row>,
    args: Vec<Row>,
    maps: Vec<Row>,
    steps: Vec<Row>,
    observed: Vec<Row>,
    regimes: Vec<Row>,
    images: Vec<Row>,
    linked: Vec<Linked>,
    /// Names of the caller's tensors.
    params: Vec<String>,
}

impl Tables {
    /// Of one layer, which the packages hold for different targets.
    pub(super) fn new(packages: &[Package]) -> Result<Tables, Refused> {
        let manifests: Vec<&Manifest> = packages.iter().map(Package::manifest).collect();
        let Some(first) = manifests.first() else { return Err(Refused::Clash("there is no package to link".to_string())) };
        check_same(&manifests)?;
        let roles = [Role::Input, Role::Output, Role::Weight];
        let callers = roles.map(|role| first.buffers.iter().filter(|buffer| buffer.role == role).collect::<Vec<_>>());
        let params: Vec<&Buffer> = callers.iter().flatten().copied().collect();
        if params.len() > PARAMS_MAX {
            return Err(Refused::Formula(format!("{} tensors", params.len())));
        }
        let mut builder = Builder::new(first, params.iter().map(|buffer| buffer.name.clone()).collect());
        let infos = params.iter().map(|buffer| info_row(buffer)).collect();
        let shapes = params.iter().map(|buffer| builder.shape(buffer)).collect::<Result<Vec<Row>, Refused>>()?;
        // What no regime is needed for comes first, so that all regimes know it.
        for (manifest, target) in targets(&manifests) {
            builder.constants_of(manifest, target)?;
        }
        let common = builder.formulas.clone();
        builder.write_ops(&common, 0);
        let mut rows = Vec::new();
        for (package, target) in packages.iter().flat_map(|p| p.manifest().targets.iter().map(move |target| (p, target))) {
            rows.push(builder.target(package, target, &common)?);
        }
        let constants = builder.constants.iter().map(|value| row([Cell::Long(*value)])).collect();
        let table = |name, c_type, rows| Table { name, c_type, rows };
        let Builder { values, ops, kernels, functions, args, maps, steps, observed, regimes, images, linked, .. } = builder;
        let tables = vec![
            table("params", "moec_param", infos),
            table("constants", "int64_t", constants),
            table("values", "uint32_t", values),
            table("ops", "moec_op", ops),
            table("shapes", "moec_shape", shapes),
            table("kernels", "moec_kernel", kernels),
            table("functions", "moec_function", functions),
            table("args", "moec_arg", args),
            table("maps", "moec_map", maps),
            table("steps", "moec_step", steps),
            table("observed", "moec_observed", observed),
            table("regimes", "moec_regime", regimes),
            table("images", "moec_image", images),
            table("targets", "moec_target", rows),
        ];
        Ok(Tables {
            layer: first.layer.clone(),
            tables,
            params: params.into_iter().cloned().collect(),
            targets: targets(&manifests).map(|(_, target)| target.name.clone()).collect(),
            facts: Facts {
                compiler: first.compiler.clone(),
                spec_sha256: first.spec_sha256.clone(),
                max_tokens: first.max_tokens,
                counts: callers.map(|buffers| buffers.len()),
                cuts: match first.cuts {
                    Cuts::Tokens => 0,
                    Cuts::Sequences => 1,
                    Cuts::Nowhere => 2,
                },
                cut_align: package::cut_align(first),
                workspace_limit: first.workspace_limit.unwrap_or(u64::MAX),
                updated: updated(&manifests),
            },
            images: linked,
            common_ops: common.len(),
        })
    }
}

fn targets<'m>(manifests: &'m [&'m Manifest]) -> impl Iterator<Item = (&'m Manifest, &'m Target)> {
    manifests.iter().flat_map(|manifest| manifest.targets.iter().map(move |target| (*manifest, target)))
}

/// Names of the weights that an update is given, of any target: nothing else may write them.
fn updated(manifests: &[&Manifest]) -> Vec<String> {
    let weights = targets(manifests).flat_map(|(manifest, target)| {
        let named = target.update.iter().flat_map(|launch| &launch.args).filter_map(Arg::buffer);
        named.map(|index| &manifest.buffers[index]).filter(|buffer| buffer.role == Role::Weight)
    });
    weights.map(|buffer| buffer.name.clone()).collect::<BTreeSet<String>>().into_iter().collect()
}

/// That the packages are of one layer, each for other targets.
fn check_same(manifests: &[&Manifest]) -> Result<(), Refused> {
    let clash = |what: String| Err(Refused::Clash(what));
    let (first, others) = manifests.split_first().ok_or_else(|| Refused::Clash("there is no package".to_string()))?;
    for other in others {
        if other.layer != first.layer {
            return clash(format!("`{}` and `{}` are two layers", first.layer, other.layer));
        }
        if (&other.compiler, &other.spec_sha256) != (&first.compiler, &first.spec_sha256) {
            return clash(format!("two packages are called `{}` and come of different specs or compilers", first.layer));
        }
        if call(first) != call(other) {
            return clash(format!("two packages are called `{}` and take different tensors or batches", first.layer));
        }
    }
    let names: Vec<&String> = targets(manifests).map(|(_, target)| &target.name).collect();
    match names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
        Some((_, name)) => clash(format!("two packages of `{}` are for {name}", first.layer)),
        None => Ok(()),
    }
}

/// What a caller sees of a package, whatever its targets.
fn call(manifest: &Manifest) -> impl PartialEq {
    let is_callers = |buffer: &&Buffer| match buffer.role {
        Role::Input | Role::Output | Role::Weight => true,
        Role::Prepared | Role::Workspace => false,
    };
    let buffers: Vec<&Buffer> = manifest.buffers.iter().filter(is_callers).collect();
    (manifest.entry, manifest.max_tokens, manifest.cuts, manifest.workspace_limit, &manifest.dims, buffers)
}

fn row<const N: usize>(cells: [Cell; N]) -> Row {
    Row { cells: cells.into(), note: String::new() }
}

fn number(value: usize) -> Cell {
    Cell::Number(u32::try_from(value).unwrap_or(NONE))
}

/// DLPack's code and bits.
fn dlpack(dtype: DType) -> (u8, u8) {
    match dtype {
        DType::F32 => (2, 32),
        DType::F16 => (2, 16),
        DType::Bf16 => (4, 16),
        DType::I32 => (0, 32),
    }
}

/// `moec_param`.
fn info_row(buffer: &Buffer) -> Row {
    let role = match buffer.role {
        Role::Input => 0,
        Role::Output => 1,
        Role::Weight | Role::Prepared | Role::Workspace => 2,
    };
    let shape: Vec<String> = buffer.shape.iter().map(Extent::to_string).collect();
    let (code, bits) = dlpack(buffer.dtype);
    row([
        Cell::Text(buffer.name.clone()),
        Cell::Text(shape.join(",")),
        Cell::DType(code, bits),
        Cell::Number(role),
        number(buffer.shape.len()),
        Cell::Number(buffer.align),
        Cell::Number(0),
    ])
}

impl Builder {
    fn new(manifest: &Manifest, params: Vec<String>) -> Builder {
        Builder {
            prefix: moec_codegen::symbol::identifier(&manifest.layer),
            formulas: Formulas::new(manifest.max_tokens),
            constants: Vec::new(),
            values: Vec::new(),
            ops: Vec::new(),
            kernels: Vec::new(),
            functions: Vec::new(),
            args: Vec::new(),
            maps: Vec::new(),
            steps: Vec::new(),
            observed: Vec::new(),
            regimes: Vec::new(),
            images: Vec::new(),
            linked: Vec::new(),
            params,
        }
    }

    /// The number of a constant.
    fn constant(&mut self, value: i64) -> u32 {
        let known = self.constants.iter().position(|known| *known == value);
        known.unwrap_or_else(|| {
            self.constants.push(value);
            self.constants.len() - 1
        }) as u32
    }

    /// `moec_shape`.
    fn shape(&mut self, buffer: &Buffer) -> Result<Row, Refused> {
        let first = self.values.len();
        for extent in &buffer.shape {
            let value = self.formulas.extent(extent, None)?;
            self.values.push(Row { cells: vec![Cell::Number(value)], note: format!("{extent} of {}", buffer.name) });
        }
        let tokens = buffer.shape.iter().position(|extent| *extent == Extent::Tokens);
        Ok(row([number(first), tokens.map_or(Cell::Number(NONE), number)]))
    }

    /// The values of what is prepared: there is no batch then.
    fn constants_of(&mut self, manifest: &Manifest, target: &Target) -> Result<(), Refused> {
        for launch in &target.prepare {
            self.formulas.extent(&launch.grid, None)?;
            for formula in launch.args.iter().flat_map(Arg::formulas) {
                self.formulas.extent(formula, None)?;
            }
        }
        let (places, _) = prepared(manifest, target)?;
        places.iter().try_for_each(|(_, offset)| self.formulas.constant(*offset).map(|_| ()))
    }

    /// `moec_op`, from one number on.
    fn write_ops(&mut self, formulas: &Formulas, from: usize) -> (usize, usize) {
        let first = self.ops.len();
        for op in formulas.ops(from) {
            let (kind, a, b) = match *op {
                Op::Const(value) => (0, self.constant(value), 0),
                Op::Add(a, b) => (1, a, b),
                Op::Mul(a, b) => (2, a, b),
                Op::Div(a, b, Round::Floor) => (3, a, b),
                Op::Div(a, b, Round::Ceil) => (4, a, b),
                Op::Div(a, b, Round::HalfEven) => (5, a, b),
                Op::Min(a, b) => (6, a, b),
                Op::Max(a, b) => (7, a, b),
                Op::Align(a) => (8, a, 0),
            };
            self.ops.push(row([kind, a, b].map(Cell::Number)));
        }
        (first, self.ops.len() - first)
    }

    /// `moec_target`.
    fn target(&mut self, package: &Package, target: &Target, common: &Formulas) -> Result<Row, Refused> {
        let manifest = package.manifest();
        let kernels = self.kernels.len();
        for kernel in &target.kernels {
            self.kernels.push(row([
                Cell::Text(kernel.symbol.clone()),
                Cell::Number(kernel.threads),
                Cell::Number(kernel.cluster),
                Cell::Number(kernel.dynamic_shared_bytes),
            ]));
            let symbol = (target.kind == TargetKind::Host).then(|| kernel.symbol.clone());
            self.functions.push(row([Cell::Symbol(symbol)]));
        }
        let images = self.images(package, target);
        let (places, prepared_bytes) = prepared(manifest, target)?;
        let regimes = self.regimes.len();
        for index in 0..target.regimes.len() {
            self.regime(manifest, target, index, common)?;
        }
        let mut formulas = common.clone();
        let of = Memory { manifest, target, workspace: &[], prepared: &places };
        let prepare = self.steps(&of, &target.prepare, &mut formulas)?;
        if formulas.len() > common.len() {
            return Err(Refused::Formula("a preparation that depends on the batch".to_string()));
        }
        let (arch, specific) = architecture(&target.name);
        let mut one = manifest.clone();
        one.targets.retain(|other| other.name == target.name);
        let symbol = format!("{}_{}_manifest", self.prefix, moec_codegen::symbol::identifier(&target.name));
        let bytes = serde_json::to_vec(&one).unwrap_or_default();
        self.linked.push(Linked { symbol: symbol.clone(), target: target.name.clone(), holds: Holds::Manifest, bytes });
        let features: String = target.cpu_features.iter().map(|feature| format!("{feature} ")).collect();
        let prepared_bytes = i64::try_from(prepared_bytes).unwrap_or(i64::MAX);
        Ok(row([
            Cell::Text(target.name.clone()),
            Cell::Symbol(Some(symbol)),
            Cell::Text(features),
            Cell::Number(match target.kind {
                TargetKind::Host => 1,
                TargetKind::Gpu => 2,
            }),
            Cell::Number(arch),
            Cell::Number(specific),
            Cell::Number(target.least_driver.as_deref().map_or(0, driver_number)),
            number(kernels),
            number(target.kernels.len()),
            number(images),
            number(self.images.len() - images),
            number(regimes),
            number(target.regimes.len()),
            number(prepare),
            number(target.prepare.len()),
            Cell::Number(self.constant(prepared_bytes)),
        ]))
    }

    /// The target's images: those of a GPU are loaded by the launcher, that of a host is linked. `moec_image`.
    fn images(&mut self, package: &Package, target: &Target) -> usize {
        let first = self.images.len();
        for index in &target.images {
            let kind = package.manifest().images[*index as usize].kind;
            let bytes = &package.images()[*index as usize];
            let name = moec_codegen::symbol::identifier(&target.name);
            let (word, holds, number) = match kind {
                ImageKind::Cubin => ("cubin", Holds::Cubin, Some(0)),
                ImageKind::Ptx => ("ptx", Holds::Ptx, Some(1)),
                ImageKind::SharedObject => ("code", Holds::Code, None),
            };
            let symbol = format!("{}_{name}_{word}", self.prefix);
            if let Some(number) = number {
                self.images.push(row([Cell::Symbol(Some(symbol.clone())), Cell::Number(number)]));
            }
            self.linked.push(Linked { symbol, target: target.name.clone(), holds, bytes: bytes.clone() });
        }
        first
    }

    /// `moec_regime`.
    fn regime(&mut self, manifest: &Manifest, target: &Target, index: usize, common: &Formulas) -> Result<(), Refused> {
        let regime = &target.regimes[index];
        let mut formulas = common.clone();
        let (workspace, mut length) = stacked(manifest, target, regime, &mut formulas, None)?;
        for smaller in &target.regimes[..index] {
            let (_, other) = stacked(manifest, target, smaller, &mut formulas, smaller.tokens_up_to)?;
            length = formulas.value(Op::Max(length, other))?;
        }
        let (prepared, _) = prepared(manifest, target)?;
        let of = Memory { manifest, target, workspace: &workspace, prepared: &prepared };
        let steps = self.steps(&of, &regime.launches, &mut formulas)?;
        let updates = self.steps(&of, &target.update, &mut formulas)?;
        let observed = self.observed.len();
        for Lies { buffer, offset, bytes } in &workspace {
            if let Some(name) = &manifest.buffers[*buffer].observe {
                self.observed.push(row([Cell::Text(name.clone()), Cell::Number(*offset), Cell::Number(*bytes)]));
            }
        }
        if formulas.len() + 2 > VALUES_MAX {
            return Err(Refused::Formula(format!("{} operations in one regime", formulas.len())));
        }
        let (ops, num_ops) = self.write_ops(&formulas, common.len());
        let most = regime.tokens_up_to.map_or(i64::MAX, |most| i64::try_from(most).unwrap_or(i64::MAX));
        let most_number = self.constant(most);
        let note =
            if most == i64::MAX { format!("{}: all others", target.name) } else { format!("{}: T up to {most}", target.name) };
        let cells = vec![
            Cell::Number(most_number),
            number(ops),
            number(num_ops),
            Cell::Number(length),
            number(steps),
            number(regime.launches.len()),
            number(updates),
            number(target.update.len()),
            number(observed),
            number(self.observed.len() - observed),
        ];
        self.regimes.push(Row { cells, note });
        Ok(())
    }

    /// `moec_step`.
    fn steps(&mut self, of: &Memory<'_>, launches: &[Launch], formulas: &mut Formulas) -> Result<usize, Refused> {
        let first = self.steps.len();
        for launch in launches {
            let kernel = &of.target.kernels[launch.kernel as usize];
            let grid = formulas.extent(&launch.grid, None)?;
            let args = self.args.len();
            let mut maps = 0;
            for (arg, param) in launch.args.iter().zip(&kernel.params) {
                let note = param.name.clone();
                let (kind, value, map) = match arg {
                    Arg::Buffer(buffer) => {
                        let (kind, value) = self.memory(of, *buffer as usize, formulas)?;
                        (kind, value, NONE)
                    }
                    Arg::ScalarI32(extent) => (3, formulas.extent(extent, None)?, NONE),
                    Arg::ScalarI64(extent) => (4, formulas.extent(extent, None)?, NONE),
                    Arg::TensorMap(view) => {
                        maps += 1;
                        let (kind, value) = self.memory(of, view.buffer as usize, formulas)?;
                        let extents = view.extents.iter().map(|e| formulas.extent(e, None)).collect::<Result<Vec<_>, _>>()?;
                        let strides = view.strides.iter().map(|e| formulas.extent(e, None)).collect::<Result<Vec<_>, _>>()?;
                        let ParamKind::TensorMap(map) = param.kind else {
                            return Err(Refused::Formula("a map where the kernel takes none".to_string()));
                        };
                        self.maps.push(map_row(map, extents, strides));
                        (kind, value, self.maps.len() as u32 - 1)
                    }
                };
                self.args.push(Row { cells: [kind, value, map].map(Cell::Number).into(), note });
            }
            if maps > MAPS_MAX {
                return Err(Refused::Formula(format!("{maps} tensor maps in one launch")));
            }
            let cells = [launch.kernel, grid, u32::from(launch.early), args as u32, launch.args.len() as u32];
            self.steps.push(Row { cells: cells.map(Cell::Number).into(), note: kernel.name.clone() });
        }
        Ok(first)
    }

    /// Where a launch finds a buffer: the kind of its memory, and which, or the offset.
    fn memory(&self, of: &Memory<'_>, buffer: usize, formulas: &mut Formulas) -> Result<(u32, u32), Refused> {
        let described = &of.manifest.buffers[buffer];
        let missing = || Refused::Formula(format!("no place for `{}`", described.name));
        match described.role {
            Role::Input | Role::Output | Role::Weight => {
                let index = self.params.iter().position(|name| *name == described.name).ok_or_else(missing)?;
                Ok((0, index as u32))
            }
            Role::Prepared => {
                let (_, offset) = of.prepared.iter().find(|(index, _)| *index == buffer).ok_or_else(missing)?;
                Ok((1, formulas.constant(*offset)?))
            }
            Role::Workspace => {
                let place = of.workspace.iter().find(|place| place.buffer == buffer).ok_or_else(missing)?;
                Ok((2, place.offset))
            }
        }
    }
}

/// Where a buffer of the workspace lies.
struct Lies {
    buffer: usize,
    offset: Value,
    bytes: Value,
}

/// Where the buffers of a launch lie.
#[derive(Clone, Copy)]
struct Memory<'m> {
    manifest: &'m Manifest,
    target: &'m Target,
    workspace: &'m [Lies],
    /// The buffer and its offset.
    prepared: &'m [(usize, u64)],
}

/// Offsets and lengths of a regime's workspace, and its length: what [`package::workspace`] computes for one batch.
fn stacked(
    manifest: &Manifest,
    target: &Target,
    regime: &Regime,
    formulas: &mut Formulas,
    tokens: Option<u64>,
) -> Result<(Vec<Lies>, Value), Refused> {
    let mut places = Vec::new();
    let mut ends: Vec<Value> = Vec::new();
    let nothing = formulas.constant(0)?;
    let mut length = nothing;
    for package::OnStack { buffer, on } in package::stack(manifest, target, regime) {
        let described = &manifest.buffers[buffer];
        let bytes = formulas.bytes(described.dtype.bytes(), &described.shape, tokens)?;
        let mut offset = nothing;
        for below in &on {
            offset = formulas.value(Op::Max(offset, ends[*below]))?;
        }
        let end = formulas.value(Op::Add(offset, bytes))?;
        let end = formulas.value(Op::Align(end))?;
        length = formulas.value(Op::Max(length, end))?;
        ends.push(end);
        places.push(Lies { buffer, offset, bytes });
    }
    Ok((places, length))
}

/// The offsets of what is prepared, and its length.
fn prepared(manifest: &Manifest, target: &Target) -> Result<(Vec<(usize, u64)>, u64), Refused> {
    let named = |index: usize| target.launches().flat_map(|launch| &launch.args).any(|arg| arg.buffer() == Some(index));
    let (mut places, mut length) = (Vec::new(), 0u64);
    for (index, buffer) in manifest.buffers.iter().enumerate() {
        if buffer.role != Role::Prepared || !named(index) {
            continue;
        }
        places.push((index, length));
        let elements = buffer
            .shape
            .iter()
            .try_fold(buffer.dtype.bytes(), |product, extent| product.checked_mul(u64::try_from(extent.as_const()?).ok()?));
        let end = elements.and_then(|bytes| length.checked_add(bytes)?.checked_next_multiple_of(package::WORKSPACE_ALIGN));
        length = end.ok_or_else(|| Refused::Formula(format!("no length of `{}`", buffer.name)))?;
    }
    Ok((places, length))
}

/// `moec_map`: CUDA driver API, `CUtensorMapDataType` and `CUtensorMapSwizzle`.
fn map_row(map: TensorMap, extents: Vec<u32>, strides: Vec<u32>) -> Row {
    let dtype = match map.dtype {
        DType::I32 => 3,
        DType::F16 => 6,
        DType::F32 => 7,
        DType::Bf16 => 9,
    };
    let swizzle = match map.swizzle {
        Swizzle::None => 0,
        Swizzle::Bytes32 => 1,
        Swizzle::Bytes64 => 2,
        Swizzle::Bytes128 => 3,
    };
    row([
        Cell::Number(dtype),
        Cell::Number(map.dtype.bytes() as u32),
        Cell::Number(swizzle),
        Cell::Numbers(map.tile.into()),
        Cell::Numbers(extents),
        Cell::Numbers(strides),
    ])
}

/// `sm_90a` is 90 and `a`.
fn architecture(target: &str) -> (u32, u32) {
    let Some(rest) = target.strip_prefix("sm_") else { return (0, 0) };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    (rest[..digits].parse().unwrap_or(0), rest[digits..].chars().next().map_or(0, u32::from))
}

/// `12.7` is 12070.
fn driver_number(version: &str) -> u32 {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    major.parse::<u32>().unwrap_or(0) * 1000 + minor.parse::<u32>().unwrap_or(0) * 10
}
