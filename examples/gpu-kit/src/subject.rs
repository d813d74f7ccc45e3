//! A package of the kit on the GPU with its weights: a small case, whose tensors are in a file, or a layer of real size, whose
//! are made by counting.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use moec_runtime::device::Region;
use moec_runtime::package::{self, Buffer, DType, Dims, Manifest, Role};
use moec_runtime::{Bound, Checkpoint, DeviceKind, Error, Layer, Plan, Run, Tensor, assemble};

use crate::job::Sizes;
use crate::numbers::Numbers;

/// Bytes of a weight that are made at a time.
const CHUNK: u64 = 64 << 20;

/// What is run.
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) bound: Bound,
    pub(crate) source: Source,
}

/// Where its tensors are from.
pub(crate) enum Source {
    /// A file beside the package, and another with what the emulator made of it, if that ran.
    Case { given: Vec<u8>, emulated: Option<Vec<u8>> },
    /// Counting; the text is the layer's graph.
    Layer { weights: BTreeMap<String, Numbers>, graph: String },
}

/// Why there is none.
pub(crate) enum Missing {
    /// The machine cannot have it.
    Skipped(String),
    Failed(String),
}

impl From<Error> for Missing {
    fn from(error: Error) -> Missing {
        match error {
            Error::OutOfMemory { .. } | Error::NoImage { .. } => Missing::Skipped(error.to_string()),
            error => Missing::Failed(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Missing {
    fn from(error: std::io::Error) -> Missing {
        Missing::Failed(error.to_string())
    }
}

/// The names of the packages in a folder of the kit, in order.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let packages = entries.filter(|path| path.extension().is_some_and(|end| end == "moec"));
    let mut names: Vec<String> = packages.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect();
    names.sort();
    names
}

/// The sizes of a package's layer.
///
/// # Errors
/// What is wrong with the package.
pub(crate) fn sizes(path: &Path) -> Result<Sizes, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let package = package::read(&bytes).map_err(|error| error.to_string())?;
    let manifest = package.manifest();
    let dim = |name: &str| manifest.dims.iter().find(|dim| dim.name == name).map_or(0, |dim| dim.value);
    let top_k = dim("top_k");
    let mut sizes = Sizes {
        hidden: dim("hidden"),
        intermediate: dim("intermediate"),
        experts: dim("experts"),
        top_k,
        shared_intermediate: dim("shared_intermediate"),
        ..Sizes::default()
    };
    for buffer in weights(manifest) {
        let shape = shape(buffer, Dims::tokens(0)).map_err(|error| error.to_string())?;
        let bytes = shape.iter().product::<u64>() * buffer.dtype.bytes();
        match shape[..] {
            [_, columns, depth] => {
                sizes.token_flops += 2 * top_k * columns * depth;
                sizes.expert_bytes += bytes;
            }
            [columns, depth] if depth == sizes.hidden || columns == sizes.hidden => {
                sizes.token_flops += 2 * columns * depth;
                sizes.other_bytes += bytes;
            }
            _ => sizes.other_bytes += bytes,
        }
    }
    Ok(sizes)
}

fn weights(manifest: &Manifest) -> impl Iterator<Item = &Buffer> {
    manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight)
}

fn inputs(manifest: &Manifest) -> impl Iterator<Item = &Buffer> {
    manifest.buffers.iter().filter(|buffer| buffer.role == Role::Input)
}

fn shape(buffer: &Buffer, dims: Dims) -> Result<Vec<u64>, Error> {
    buffer.shape.iter().map(|extent| extent.eval(dims).map(|n| n.unsigned_abs())).collect()
}

/// The numbers of a buffer; of a weight such that a product of it with numbers of variance 1 has that variance too.
fn numbers(buffer: &Buffer, set: u64) -> Result<Numbers, Error> {
    let inner = buffer.shape.last().and_then(|extent| extent.as_const()).map_or(1, |extent| extent.unsigned_abs().max(1));
    let variance = if buffer.role == Role::Weight { 1.0 / inner as f64 } else { 1.0 };
    Numbers::new(&buffer.name, set, buffer.dtype, variance)
}

impl Subject {
    /// The package of that name on a device, its weights bound.
    ///
    /// # Errors
    /// Whatever is missing or wrong.
    pub(crate) fn load(kit: &Path, name: &str, device: DeviceKind) -> Result<Subject, Missing> {
        let case = kit.join("cases").join(format!("{name}.moec"));
        let is_case = case.is_file();
        let path: PathBuf = if is_case { case } else { kit.join("layers").join(format!("{name}.moec")) };
        let package = package::read(&fs::read(&path)?)?;
        let layer = Layer::load(&package, device)?;
        let (bound, source) = if is_case { of_case(&layer, kit, name)? } else { of_layer(&layer, &path)? };
        Ok(Subject { name: name.to_string(), bound, source })
    }

    /// The inputs of a batch: a case's own, or those of that `set`.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn inputs(&self, tokens: u64, set: u64) -> Result<(Vec<Tensor>, Dims), Missing> {
        let layer = self.bound.layer();
        match &self.source {
            Source::Case { given, .. } => {
                let given = Checkpoint::read(given)?;
                let tensor = |(index, buffer): (usize, &Buffer)| {
                    let name = if index == 0 { "in.hidden".to_string() } else { format!("in.{}", buffer.name) };
                    given.tensor(&name, buffer.dtype).map(|(tensor, _)| tensor)
                };
                let inputs: Vec<Tensor> = inputs(layer.manifest()).enumerate().map(tensor).collect::<Result<_, _>>()?;
                let dims = Dims::of_activations(inputs[0].shape())?;
                // Another set of tokens: those of this one, each in the place of the next.
                let turned = |tensor| turned(tensor, dims.tokens);
                let inputs = if set == 0 { inputs } else { inputs.into_iter().map(turned).collect::<Result<_, _>>()? };
                Ok((inputs, dims))
            }
            Source::Layer { .. } => {
                let dims = Dims::tokens(tokens);
                let tensor = |buffer: &Buffer| {
                    let shape = shape(buffer, dims)?;
                    let mut bytes = vec![0; (shape.iter().product::<u64>() * buffer.dtype.bytes()) as usize];
                    numbers(buffer, set)?.fill_by_all(0, &mut bytes);
                    Tensor::new(buffer.dtype, shape, bytes)
                };
                Ok((inputs(layer.manifest()).map(tensor).collect::<Result<_, _>>()?, dims))
            }
        }
    }

    /// A run of it into an output of 0xff, launched as `launch` does it.
    ///
    /// # Errors
    /// What the runtime says, or that nothing was written.
    pub(crate) fn run(
        &self,
        memory: &mut Prepared,
        launch: impl FnOnce(&Plan, &mut Prepared) -> Result<(), String>,
    ) -> Result<Run, Missing> {
        memory.poison()?;
        let plan = memory.plan.clone();
        launch(&plan, memory).map_err(Missing::Failed)?;
        self.bound.layer().sync()?;
        let run = self.bound.collect(&memory.batch, std::time::Duration::ZERO)?;
        match run.outputs.iter().find(|(_, tensor)| tensor.bytes().iter().any(|byte| *byte != 0xff)) {
            Some(_) => Ok(run),
            None => Err(Missing::Failed("the output was not written".to_string())),
        }
    }

    /// A plan and memory for these inputs.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(crate) fn prepare(&self, inputs: &[Tensor], dims: Dims) -> Result<Prepared, Missing> {
        let plan = self.bound.layer().plan(dims)?;
        let batch = self.bound.batch_for(&plan, inputs)?;
        Ok(Prepared { plan, batch })
    }
}

/// A batch that can be run again and again.
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    pub(crate) batch: moec_runtime::Batch,
}

impl Prepared {
    fn poison(&mut self) -> Result<(), Error> {
        self.batch.outputs.iter_mut().try_for_each(|output| output.fill(0xff))
    }
}

/// What an input has of each token in the place of the next token's; the same where it has nothing of tokens.
fn turned(tensor: Tensor, tokens: u64) -> Result<Tensor, Error> {
    let mut bytes = tensor.bytes().to_vec();
    let token = bytes.len() / tokens.max(1) as usize;
    if bytes.len() == token * tokens as usize {
        bytes.rotate_right(token);
    }
    Tensor::new(tensor.dtype(), tensor.shape().to_vec(), bytes)
}

fn of_case(layer: &Layer, kit: &Path, name: &str) -> Result<(Bound, Source), Missing> {
    // One file of tensors serves the case in all element types: what follows a point is the type.
    let stem = name.split('.').next().unwrap_or(name);
    let given = fs::read(kit.join("cases").join(format!("{stem}.safetensors")))?;
    let checkpoint = Checkpoint::read(&given)?;
    let bound = layer.bind(assemble(layer.manifest(), &checkpoint, "w.")?.0)?;
    let emulated = fs::read(kit.join("cases").join(format!("{name}.{}.safetensors", layer.target().name))).ok();
    Ok((bound, Source::Case { given, emulated }))
}

fn of_layer(layer: &Layer, path: &Path) -> Result<(Bound, Source), Missing> {
    let graph = fs::read_to_string(path.with_extension("graph"))?;
    let (mut regions, mut all) = (Vec::new(), BTreeMap::new());
    let mut chunk = Vec::new();
    for buffer in weights(layer.manifest()) {
        let numbers = numbers(buffer, 0)?;
        let width = buffer.dtype.bytes();
        let bytes = shape(buffer, Dims::tokens(0))?.iter().product::<u64>() * width;
        let mut region = Region::new(layer.device(), bytes)?;
        for from in (0..bytes).step_by(CHUNK as usize) {
            chunk.resize(CHUNK.min(bytes - from) as usize, 0);
            numbers.fill_by_all(from / width, &mut chunk);
            region.copy_in(from, &chunk)?;
        }
        regions.push(region);
        all.insert(buffer.name.clone(), numbers);
    }
    Ok((layer.bind_regions(regions)?, Source::Layer { weights: all, graph }))
}

/// Where two tensors of one shape differ most, in units of what each element may be off; the first place where the bits do.
pub(crate) struct Difference {
    pub(crate) worst: f64,
    pub(crate) place: String,
}

/// Compares by element: `|y - y*| <= relative |y*| + absolute rms(y*)`, where `worst` is 1 at the bound. `columns` are those of a
/// row.
pub(crate) fn difference(found: &[f64], meant: &[f64], columns: usize, relative: f64, absolute: f64) -> Difference {
    let rms = rms(meant);
    let ratio = |(y, y_meant): (&f64, &f64)| {
        let off = (y - y_meant).abs();
        // Equal infinities and NaN where NaN is meant are right; any other comparison with NaN is not.
        if y == y_meant || (y.is_nan() && y_meant.is_nan()) {
            0.0
        } else if off.is_nan() {
            f64::INFINITY
        } else {
            off / (relative * y_meant.abs() + absolute * rms)
        }
    };
    let worst = found
        .iter()
        .zip(meant)
        .map(ratio)
        .enumerate()
        .fold((0, 0.0), |worst, (i, ratio)| if ratio > worst.1 { (i, ratio) } else { worst });
    let (at, columns) = (worst.0, columns.max(1));
    let numbers =
        found.get(at).zip(meant.get(at)).map_or(String::new(), |(y, meant)| format!(": {y:.4e} here, {meant:.4e} meant"));
    Difference { worst: worst.1, place: format!("token {}, column {}{numbers}", at / columns, at % columns) }
}

/// The root mean square.
pub(crate) fn rms(numbers: &[f64]) -> f64 {
    (numbers.iter().map(|y| y * y).sum::<f64>() / numbers.len().max(1) as f64).sqrt()
}

/// The error of rows as a whole, relative to what is meant.
pub(crate) fn relative_rms(found: &[f64], meant: &[f64]) -> f64 {
    let sum = |of: &mut dyn Iterator<Item = f64>| of.map(|x| x * x).sum::<f64>();
    (sum(&mut found.iter().zip(meant).map(|(a, b)| a - b)) / sum(&mut meant.iter().copied()).max(f64::MIN_POSITIVE)).sqrt()
}

/// The unit roundoff of a type.
pub(crate) fn roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::I32 => 2f64.powi(-24),
        DType::F16 => 2f64.powi(-11),
        DType::Bf16 => 2f64.powi(-8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of three, with a root mean square of 2.
    const MEANT: [f64; 6] = [2.0, -2.0, 2.0, -2.0, 2.0, -2.0];

    fn with(at: usize, y: f64) -> Difference {
        let mut found = MEANT;
        found[at] = y;
        difference(&found, &MEANT, 3, 0.25, 0.25)
    }

    #[test]
    fn the_worst_element_is_named() {
        // Each may be off by a quarter of 2 and a quarter of 2.
        assert_eq!(difference(&MEANT, &MEANT, 3, 0.25, 0.25).worst, 0.0);
        let off = with(4, 3.5);
        assert_eq!((off.worst, &*off.place), (1.5, "token 1, column 1: 3.5000e0 here, 2.0000e0 meant"));
        assert_eq!(with(0, 1.0).worst, 1.0);
    }

    #[test]
    fn what_is_no_number_is_off() {
        assert_eq!(with(3, f64::NAN).worst, f64::INFINITY);
        assert_eq!(with(3, f64::INFINITY).worst, f64::INFINITY);
        let meant = [f64::NAN, f64::INFINITY];
        assert_eq!(difference(&meant, &meant, 2, 0.0, 0.0).worst, 0.0);
        assert_eq!(difference(&[0.0, f64::INFINITY], &meant, 2, 0.25, 0.25).worst, f64::INFINITY);
    }

    /// One of eight experts of equal weights is left out: far more than roundings give.
    #[test]
    fn rows_together_show_what_is_missing() {
        let of = |experts: usize| -> Vec<f64> {
            let term = |i: usize, expert: usize| ((i * 8 + expert) as f64 * 0.7).sin();
            (0..500).map(|i| (0..experts).map(|expert| term(i, expert)).sum()).collect()
        };
        assert!(relative_rms(&of(7), &of(8)) > 10.0 * roundoff(DType::Bf16));
        assert_eq!(relative_rms(&of(8), &of(8)), 0.0);
    }
}
