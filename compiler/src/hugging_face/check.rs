//! A checkpoint's header against a block: every tensor that the spec names is there, with the shape that it must have.
//! The data is never read. `safetensors` files have names and shapes; an index has names, and shapes where the files that it
//! names lie beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Block;
use super::stored::Stored;
use crate::diagnostics::{Code, Diagnostic, nearest, quote};
use crate::spec::{Layout, Tensor, Weight, Word};
use crate::tensor_file;

/// The numbers that shapes are made of.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub(super) hidden: u64,
    pub(super) experts: u64,
    pub(super) ffn: u64,
    pub(super) top_k: u64,
    pub(super) vocabulary: u64,
    pub(super) latent: Option<u64>,
    pub(super) identity: u64,
    pub(super) joint: u64,
    pub(super) shared: u64,
    pub(super) shared_count: u64,
}

/// Stands for a size that the config does not say.
const ANY: u64 = 0;

impl Sizes {
    pub(super) fn new(hidden: u64, experts: u64) -> Sizes {
        Sizes {
            hidden,
            experts,
            ffn: 1,
            top_k: 1,
            vocabulary: ANY,
            latent: None,
            identity: 0,
            joint: 0,
            shared: 1,
            shared_count: 1,
        }
    }

    /// The canonical shape.
    fn shape(&self, tensor: Tensor) -> Vec<u64> {
        let Sizes { hidden, experts, ffn, shared, .. } = *self;
        let width = self.latent.unwrap_or(hidden);
        let routed = experts + self.identity;
        match tensor {
            Tensor::Router => vec![routed + self.joint, hidden],
            Tensor::RouterBias | Tensor::CorrectionBias => vec![routed],
            Tensor::RouterInputScale | Tensor::OutputBias | Tensor::OutputNorm | Tensor::TokenGain | Tensor::SlotGain => {
                vec![hidden]
            }
            Tensor::RouterGlobalScale | Tensor::SlotScale => vec![1],
            Tensor::PerExpertScale => vec![routed],
            Tensor::HashTable => vec![self.vocabulary, self.top_k],
            Tensor::Slots => vec![ANY, ANY, ANY],
            Tensor::Gate | Tensor::Up => vec![experts, ffn, width],
            Tensor::GateUp => vec![experts, 2 * ffn, width],
            Tensor::Down => vec![experts, width, ffn],
            Tensor::GateBias | Tensor::UpBias => vec![experts, ffn],
            Tensor::GateUpBias => vec![experts, 2 * ffn],
            Tensor::DownBias => vec![experts, width],
            Tensor::LatentIn => vec![width, hidden],
            Tensor::LatentOut => vec![hidden, width],
            Tensor::SharedGate | Tensor::SharedUp => vec![shared, hidden],
            Tensor::SharedGateUp => vec![2 * shared, hidden],
            Tensor::SharedDown => vec![hidden, shared],
            Tensor::SharedGateBias | Tensor::SharedUpBias => vec![shared],
            Tensor::SharedGateUpBias => vec![2 * shared],
            Tensor::SharedDownBias => vec![hidden],
            Tensor::SharedGateProj => vec![1, hidden],
        }
    }

    /// The shapes that the stored tensor may have, the expected one first.
    fn stored_shapes(&self, stored: &Stored, name: &str) -> Vec<Vec<u64>> {
        let mut shape = self.shape(stored.tensor);
        if stored.layout.is_transposed() && shape.len() >= 2 {
            let last = shape.len() - 1;
            shape.swap(last - 1, last);
        }
        if Weight::is_per_expert(name) {
            shape.remove(0);
        } else if stored.flattened {
            let experts = shape.remove(0);
            shape[0] *= experts;
        }
        let mut shapes = vec![shape.clone()];
        if self.identity > 0 && stored.tensor.has_experts() && !Weight::is_per_expert(name) {
            // Identity experts may have rows that nothing reads.
            shapes.push([&[self.experts + self.identity], &shape[1..]].concat());
        }
        // Several shared experts may be stored one by one instead of side by side.
        let (count, one) = (self.shared_count, self.shared / self.shared_count.max(1));
        if count > 1 && matches!(stored.tensor, Tensor::SharedGate | Tensor::SharedUp) {
            shapes.push(vec![count, one, self.hidden]);
        }
        if count > 1 && stored.tensor == Tensor::SharedDown {
            shapes.push(vec![count, self.hidden, one]);
        }
        shapes
    }
}

/// The names in a checkpoint, and the shapes as far as they are known.
#[derive(Clone, Debug)]
pub struct Header {
    /// The folder of the files that an index names.
    folder: PathBuf,
    tensors: BTreeMap<String, Known>,
}

#[derive(Clone, Debug)]
enum Known {
    Shape(Vec<u64>),
    /// The file that has it.
    In(String),
}

/// What the check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Which way of storing the experts the file has; an argument of [`Block::spec`].
    pub storage: usize,
    /// What stands before every name in the file.
    pub prefix: String,
    /// Tensors of the file that the spec names.
    pub tensors: usize,
    /// Those of them whose shape was compared.
    pub shapes: usize,
}

/// Reads the header of a `.safetensors` file or of a `.safetensors.index.json`; nothing else of them.
pub fn read_header(path: &Path) -> Result<Header, Diagnostic> {
    let name = path.display().to_string();
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let tensors = if name.ends_with(".json") { index(path) } else { safetensors_header(path) };
    let tensors = tensors.map_err(|why| Diagnostic::new(Code::BadCheckpoint, format!("cannot use {}: {why}", quote(&name))))?;
    Ok(Header { folder, tensors })
}

/// `{"weight_map": {"name": "file"}}`.
fn index(path: &Path) -> Result<BTreeMap<String, Known>, String> {
    const MOST_BYTES: u64 = 64 << 20;
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err("an index of more than 64 MiB".to_string());
    }
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| format!("not an index of safetensors files: {error}"))?;
    Ok(index.weight_map.into_iter().map(|(name, file)| (name, Known::In(file))).collect())
}

fn safetensors_header(path: &Path) -> Result<BTreeMap<String, Known>, String> {
    let file = tensor_file::open(path).map_err(|error| error.why)?;
    Ok(file.tensors.into_iter().map(|(name, stored)| (name, Known::Shape(stored.shape))).collect())
}

/// Holds the block against the file. `prefix` is what stands before every name; where it is not given it is found.
pub fn check(block: &Block, header: &Header, prefix: Option<&str>) -> Result<Checked, Vec<Diagnostic>> {
    let prefix = match prefix {
        Some(prefix) => prefix.to_string(),
        None => find_prefix(block, header).map_err(|diagnostic| vec![diagnostic])?,
    };
    let absent = |storage: usize| block.stored(storage).filter(|stored| choose(stored, block, header, &prefix).is_none()).count();
    let storage = (0..block.storages()).min_by_key(|storage| absent(*storage)).unwrap_or(0);
    let names = block.stored(storage).flat_map(|stored| stored.names);
    let named: BTreeSet<String> = names.flat_map(|name| expanded(name, block.sizes.experts)).collect();
    let mut wrong = Vec::new();
    let mut found = Vec::new();
    for stored in block.stored(storage) {
        match choose(stored, block, header, &prefix) {
            Some(name) => found.extend(expanded(name, block.sizes.experts).map(|full| (stored, name, format!("{prefix}{full}")))),
            None => wrong.push(missing(stored, block, header, &prefix, &named)),
        }
    }
    let shapes = shapes_of(header, found.iter().map(|(_, _, full)| full.as_str()), &mut wrong);
    let mut compared = 0;
    // Of experts whose shapes are wrong alike, the first is worth reading.
    let mut reported = BTreeSet::new();
    for (stored, name, full) in &found {
        let Some(actual) = shapes.get(full.as_str()) else { continue };
        compared += 1;
        let expected = block.sizes.stored_shapes(stored, name);
        if !expected.iter().any(|expected| is_same_shape(expected, actual)) && reported.insert((stored.tensor, actual.clone())) {
            let message = format!("the tensor {} has the shape {actual:?}, not {}", quote(full), text_of(&expected[0]));
            let diagnostic = Diagnostic::new(Code::TensorShape, message);
            let layout =
                if stored.layout == Layout::Plain { String::new() } else { format!(" stored \"{}\"", stored.layout.word()) };
            wrong.push(diagnostic.note(format!("it is weights.{} of the spec{layout}", stored.tensor.word())));
        }
    }
    if wrong.is_empty() { Ok(Checked { storage, prefix, tensors: found.len(), shapes: compared }) } else { Err(wrong) }
}

/// Axes of one index change nothing: `[1, E]` is stored as `[E]` is.
fn is_same_shape(expected: &[u64], actual: &[u64]) -> bool {
    let longer = |shape: &[u64]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
    let (expected, actual) = (longer(expected), longer(actual));
    expected.len() == actual.len() && expected.iter().zip(&actual).all(|(e, a)| *e == ANY || e == a)
}

fn text_of(shape: &[u64]) -> String {
    let sizes: Vec<String> = shape.iter().map(|n| if *n == ANY { "_".to_string() } else { n.to_string() }).collect();
    format!("[{}]", sizes.join(", "))
}

/// The name of one tensor, or of every expert's.
fn expanded(name: &'static str, experts: u64) -> impl Iterator<Item = String> {
    let count = if Weight::is_per_expert(name) { experts } else { 1 };
    (0..count).map(move |expert| Weight::name_of_expert(name, expert))
}

/// The first of the tensor's names that the file has; one tensor an expert counts where it has all of them.
fn choose(stored: &Stored, block: &Block, header: &Header, prefix: &str) -> Option<&'static str> {
    let has = |name: &&&'static str| {
        expanded(name, block.sizes.experts).all(|name| header.tensors.contains_key(&format!("{prefix}{name}")))
    };
    stored.names.iter().find(has).copied()
}

/// `named` are the names that the spec has a use for, present or not: none of them is what a missing one was meant to be.
fn missing(stored: &Stored, block: &Block, header: &Header, prefix: &str, named: &BTreeSet<String>) -> Diagnostic {
    let first = stored.names.first().copied().unwrap_or_default();
    let absent: Vec<String> = expanded(first, block.sizes.experts)
        .map(|name| format!("{prefix}{name}"))
        .filter(|name| !header.tensors.contains_key(name))
        .collect();
    let lacked = absent.first().cloned().unwrap_or_default();
    let others = if absent.len() > 1 { format!(", nor {} others like it", absent.len() - 1) } else { String::new() };
    let diagnostic = Diagnostic::new(Code::TensorMissing, format!("the checkpoint has no tensor {}{others}", quote(&lacked)))
        .note(format!("it is weights.{} of the spec", stored.tensor.word()));
    const MOST: usize = 4096;
    const LONGEST: usize = 128;
    let beside = header.tensors.range(prefix.to_string()..).map(|(name, _)| name.as_str());
    let beside = beside.map_while(|name| name.strip_prefix(prefix)).take(MOST);
    let beside = beside.filter(|name| name.len() <= LONGEST && !named.contains(*name));
    let diagnostic = match nearest(lacked.strip_prefix(prefix).unwrap_or(&lacked), beside) {
        Some(near) => diagnostic.help(format!("did you mean {}?", quote(&format!("{prefix}{near}")))),
        None => diagnostic,
    };
    match &stored.names[1..] {
        [] => diagnostic,
        others => diagnostic.note(format!("nor has it {}", others.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", "))),
    }
}

/// What stands before the router's name: `w.`, `model.layers.3.mlp.`, nothing.
fn find_prefix(block: &Block, header: &Header) -> Result<String, Diagnostic> {
    let before = |name: &str| {
        let rests = block.model.router.iter().filter_map(|router| name.strip_suffix(router));
        rests.filter(|rest| rest.is_empty() || rest.ends_with('.')).map(str::to_string).next()
    };
    let found: BTreeSet<String> = header.tensors.keys().filter_map(|name| before(name)).collect();
    // A checkpoint of another layer alone is not this one's.
    let is_of_other = |prefix: &str| {
        let numbers = prefix.split('.').filter_map(|part| part.parse::<u64>().ok());
        block.layer.is_some_and(|layer| numbers.into_iter().any(|number| number != layer))
    };
    let of_layer = |layer: u64| {
        let end = block.prefix_of(layer);
        let mut ends = found.iter().filter(move |prefix| prefix.ends_with(&end));
        ends.next().filter(|_| ends.next().is_none()).cloned()
    };
    match (found.len(), block.layer, block.first_layer) {
        (0, _, _) => {
            let name = block.model.router.first().copied().unwrap_or_default();
            let message = format!("the checkpoint has no tensor whose name ends in {}, the router", quote(name));
            Err(Diagnostic::new(Code::TensorMissing, message).help("is it the checkpoint of this config?"))
        }
        (_, Some(layer), _) if of_layer(layer).is_some() => Ok(of_layer(layer).unwrap_or_default()),
        (1, _, _) if !found.iter().any(|prefix| is_of_other(prefix)) => Ok(found.into_iter().next().unwrap_or_default()),
        (_, None, Some(first)) if of_layer(first).is_some() => Ok(of_layer(first).unwrap_or_default()),
        (count, _, _) => {
            let some: Vec<String> = found.iter().take(3).map(|prefix| quote(prefix)).collect();
            let message = format!("the checkpoint has {count} routers, and none is where the published model has this layer's");
            Err(Diagnostic::new(Code::TensorMissing, message)
                .help(format!("`--tensor-prefix` says what stands before the names, such as {}", some.join(", "))))
        }
    }
}

/// The shapes of these tensors: those of the header, and those of the files beside an index.
fn shapes_of<'a>(
    header: &Header,
    names: impl Iterator<Item = &'a str>,
    wrong: &mut Vec<Diagnostic>,
) -> BTreeMap<&'a str, Vec<u64>> {
    let mut shards: BTreeMap<&str, Option<BTreeMap<String, Known>>> = BTreeMap::new();
    let mut shapes = BTreeMap::new();
    for name in names {
        match header.tensors.get(name) {
            Some(Known::Shape(shape)) => {
                shapes.insert(name, shape.clone());
            }
            Some(Known::In(file)) => {
                let shard = shards.entry(file).or_insert_with(|| read_shard(header, file, wrong));
                match shard.as_ref().map(|shard| shard.get(name)) {
                    Some(Some(Known::Shape(shape))) => {
                        shapes.insert(name, shape.clone());
                    }
                    Some(Some(Known::In(_)) | None) => {
                        let message = format!("the index says that {} is in {}, and it is not", quote(name), quote(file));
                        wrong.push(Diagnostic::new(Code::TensorMissing, message));
                    }
                    None => {}
                }
            }
            None => {}
        }
    }
    shapes
}

/// The header of a file that the index names, where it lies beside the index. A name that leaves the folder is not followed.
fn read_shard(header: &Header, file: &str, wrong: &mut Vec<Diagnostic>) -> Option<BTreeMap<String, Known>> {
    let path = header.folder.join(file);
    let is_beside = !file.is_empty() && Path::new(file).file_name().is_some_and(|name| name == file);
    if !is_beside || !path.is_file() {
        return None;
    }
    match safetensors_header(&path) {
        Ok(tensors) => Some(tensors),
        Err(why) => {
            wrong.push(Diagnostic::new(Code::BadCheckpoint, format!("cannot use {}: {why}", quote(&path.display().to_string()))));
            None
        }
    }
}
