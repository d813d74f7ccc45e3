//! The tables of `runtime/launcher/tables.h`, made of packages. Rows are cells, so that they can be written as C and as bytes; the
//! order of cells is that of the members there.

use std::collections::BTreeSet;

use moec_runtime::Package;
use moec_runtime::package::{
    self, Arg, Buffer, Cuts, DType, Extent, ImageKind, Launch, Manifest, ParamKind, Role, Round, Swizzle, Target, TargetKind,
    TensorMap,
};

use super::Refused;
use super::formulas::{Formulas, Op};
use super::numbers::{
    ABI_VERSION, ARG_I32, ARG_I64, ARG_PARAM, ARG_PREPARED, ARG_WORKSPACE, CUT_NOWHERE, CUT_SEQUENCES, CUT_TOKENS, IMAGE_CUBIN,
    IMAGE_PTX, MAX_MAPS, MAX_PARAMS, MAX_VALUES, MOEC_CPU, MOEC_CUDA_GPU, MOEC_INPUT, MOEC_OUTPUT, MOEC_WEIGHT, NONE, OP_ADD,
    OP_ALIGN, OP_CEIL, OP_CONST, OP_FLOOR, OP_HALF_EVEN, OP_MAX, OP_MIN, OP_MUL,
};
use super::places::{Lies, Memory, prepared, stacked};

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
    /// `size_t`: the bytes of the struct that this is the first member of.
    Size,
    /// The address of the first element of a table of this name; null where it has none.
    Table(&'static str),
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
    /// Each of them names none but those before it.
    pub(super) tables: Vec<Table>,
    /// `moec_layer`, which names them all.
    pub(super) root: Vec<Cell>,
    /// The tensors of a caller, in order.
    pub(super) params: Vec<Buffer>,
    /// Names of targets.
    pub(super) targets: Vec<String>,
    pub(super) facts: Facts,
    pub(super) images: Vec<Linked>,
}

/// What all targets have in common.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) compiler: String,
    pub(super) spec_sha256: String,
    pub(super) max_tokens: u64,
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
        if params.len() > MAX_PARAMS as usize {
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
        let names: Vec<String> = targets(&manifests).map(|(_, target)| target.name.clone()).collect();
        let [inputs, outputs, weights] = callers.map(|buffers| buffers.len());
        let info = [
            Cell::Size,
            Cell::Number(ABI_VERSION),
            number(params.len()),
            Cell::Text(first.layer.clone()),
            Cell::Text(first.compiler.clone()),
            Cell::Text(first.spec_sha256.clone()),
            Cell::Table("params"),
            number(inputs),
            number(outputs),
            number(weights),
            number(names.len()),
            Cell::Table("names"),
            long(first.max_tokens),
        ];
        let Builder { values, ops, kernels, functions, args, maps, steps, observed, regimes, images, linked, .. } = builder;
        let tables = vec![
            table("params", "moec_param", infos),
            table("names", "char *const", names.iter().map(|name| row([Cell::Text(name.clone())])).collect()),
            table("info", "moec_info", vec![row(info)]),
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
        let cuts = match first.cuts {
            Cuts::Tokens => CUT_TOKENS,
            Cuts::Sequences => CUT_SEQUENCES,
            Cuts::Nowhere => CUT_NOWHERE,
        };
        // `params` and `names` are of the info.
        let mut root: Vec<Cell> = tables[2..].iter().map(|table| Cell::Table(table.name)).collect();
        root.extend([number(common.len()), Cell::Number(cuts), Cell::Number(package::cut_align(first))]);
        root.push(long(first.workspace_limit.unwrap_or(u64::MAX)));
        Ok(Tables {
            layer: first.layer.clone(),
            tables,
            root,
            params: params.into_iter().cloned().collect(),
            targets: names,
            facts: Facts {
                compiler: first.compiler.clone(),
                spec_sha256: first.spec_sha256.clone(),
                max_tokens: first.max_tokens,
                updated: updated(&manifests),
            },
            images: linked,
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

/// The most there is stands for more.
fn long(value: u64) -> Cell {
    Cell::Long(i64::try_from(value).unwrap_or(i64::MAX))
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
        Role::Input => MOEC_INPUT,
        Role::Output => MOEC_OUTPUT,
        Role::Weight | Role::Prepared | Role::Workspace => MOEC_WEIGHT,
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
                Op::Const(value) => (OP_CONST, self.constant(value), 0),
                Op::Add(a, b) => (OP_ADD, a, b),
                Op::Mul(a, b) => (OP_MUL, a, b),
                Op::Div(a, b, Round::Floor) => (OP_FLOOR, a, b),
                Op::Div(a, b, Round::Ceil) => (OP_CEIL, a, b),
                Op::Div(a, b, Round::HalfEven) => (OP_HALF_EVEN, a, b),
                Op::Min(a, b) => (OP_MIN, a, b),
                Op::Max(a, b) => (OP_MAX, a, b),
                Op::Align(a) => (OP_ALIGN, a, 0),
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
                TargetKind::Host => MOEC_CPU,
                TargetKind::Gpu => MOEC_CUDA_GPU,
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
                ImageKind::Cubin => ("cubin", Holds::Cubin, Some(IMAGE_CUBIN)),
                ImageKind::Ptx => ("ptx", Holds::Ptx, Some(IMAGE_PTX)),
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
        if formulas.len() + 2 > MAX_VALUES as usize {
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
                    Arg::ScalarI32(extent) => (ARG_I32, formulas.extent(extent, None)?, NONE),
                    Arg::ScalarI64(extent) => (ARG_I64, formulas.extent(extent, None)?, NONE),
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
            if maps > MAX_MAPS {
                return Err(Refused::Formula(format!("{maps} tensor maps in one launch")));
            }
            let (counted, each, follows) = match &launch.working {
                Some(working) => {
                    let counted = launch.args.iter().position(|arg| *arg == Arg::Buffer(working.buffer));
                    (counted.map_or(NONE, |argument| argument as u32), formulas.extent(&working.each, None)?, working.follows)
                }
                None => (NONE, 0, false),
            };
            let args = [args as u32, launch.args.len() as u32];
            let cells = [launch.kernel, grid, u32::from(launch.early), args[0], args[1], counted, each, u32::from(follows)];
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
                Ok((ARG_PARAM, index as u32))
            }
            Role::Prepared => {
                let (_, offset) = of.prepared.iter().find(|(index, _)| *index == buffer).ok_or_else(missing)?;
                Ok((ARG_PREPARED, formulas.constant(*offset)?))
            }
            Role::Workspace => {
                let place = of.workspace.iter().find(|place| place.buffer == buffer).ok_or_else(missing)?;
                Ok((ARG_WORKSPACE, place.offset))
            }
        }
    }
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
