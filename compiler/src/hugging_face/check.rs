//! A checkpoint's header against a block: every tensor that the spec names is there, with a type, a shape and a layout that
//! the loader takes, and the layer has no tensor that the spec leaves out. The data is never read.

use std::collections::{BTreeMap, BTreeSet};

use moec_runtime::{Checkpoint, Error, TensorInfo};

use super::sizes::{is_same_shape, shape_text};
use super::stored::Stored;
use super::{Block, unused};
use crate::diagnostics::{Code, Diagnostic, nearest, quote};
use crate::spec::{Layout, Tensor, Weight, Word};

/// What the check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Where the file has each tensor of the layer; one name each.
    pub(super) chosen: Vec<Stored>,
    /// What stands before every name in the file.
    pub prefix: String,
    /// Tensors of the file that the spec names.
    pub tensors: usize,
    /// Those of them whose type and shape were compared.
    pub compared: usize,
    /// Files that an index names and that are not beside it, and how many of the tensors they have.
    pub absent: BTreeMap<String, usize>,
    /// Tensors at the layer that are none of its MoE part's, as patterns and how many there are.
    pub beside: BTreeMap<String, usize>,
    /// Tensors that look like part of it, and that the caller allowed to go unused.
    pub allowed: Vec<String>,
}

impl Checked {
    /// Whether this argument of `--allow-unread` names a tensor that goes unused.
    pub fn is_allowed_by(&self, argument: &str) -> bool {
        self.allowed.iter().any(|name| unused::is_allowed(argument, &self.prefix, name))
    }
}

/// Holds the block against the file. `prefix` is what stands before every name; where it is not given it is found. Tensors
/// that look like part of the layer and that the spec does not use are mistakes, unless `allowed` names them: whole, or below
/// the prefix, or a folder of theirs.
///
/// # Errors
/// Every mistake: [`Code::TensorMissing`], [`Code::TensorShape`], [`Code::TensorDType`], [`Code::TensorUnused`].
pub fn check(
    block: &Block,
    checkpoint: &Checkpoint<'_>,
    prefix: Option<&str>,
    allowed: &[String],
) -> Result<Checked, Vec<Diagnostic>> {
    let prefix = match prefix {
        Some(prefix) => prefix.to_string(),
        None => find_prefix(block, checkpoint).map_err(|diagnostic| vec![diagnostic])?,
    };
    let file = File { block, checkpoint, prefix: &prefix };
    let storages: Vec<&[Stored]> = block.slots.iter().map(|ways| file.storage(ways)).collect();
    let named: BTreeSet<String> = block.stored_names().flat_map(|name| file.expanded(name)).collect();
    let mut wrong = Vec::new();
    let mut chosen = Vec::new();
    for stored in storages.into_iter().flatten() {
        match file.choose(stored) {
            Some(names) => chosen.push(Stored { names, ..*stored }),
            None => wrong.push(file.missing(stored, &named)),
        }
    }
    let names = |stored: &Stored| stored.names.iter().flat_map(|name| file.expanded(name)).map(|name| format!("{prefix}{name}"));
    let found: Vec<(&Stored, String)> = chosen.iter().flat_map(|stored| names(stored).map(move |full| (stored, full))).collect();
    let Held { infos, absent } = look_up(checkpoint, found.iter().map(|(_, full)| full.as_str()), &mut wrong);
    wrong.extend(file.misfits(&found, &infos));
    let used: BTreeSet<&str> = found.iter().map(|(_, full)| full.as_str()).collect();
    let rest = unused::sort(block, checkpoint, &prefix, &used, allowed);
    wrong.extend(rest.mistake());
    let unused::Rest { beside, allowed, .. } = rest;
    let (tensors, compared) = (found.len(), infos.len());
    match wrong.is_empty() {
        true => Ok(Checked { chosen, prefix, tensors, compared, absent, beside, allowed }),
        false => Err(wrong),
    }
}

/// A tensor's name in a message, whole where [`quote`] would cut it.
pub(super) fn tensor_name(name: &str) -> String {
    const LONGEST: usize = 256;
    format!("`{}`", name.chars().take(LONGEST).flat_map(char::escape_debug).collect::<String>())
}

/// A block, a file, and what stands before the block's names in it.
struct File<'a, 'c> {
    block: &'a Block,
    checkpoint: &'a Checkpoint<'c>,
    prefix: &'a str,
}

impl File<'_, '_> {
    /// The name of one tensor, or of every expert's.
    fn expanded(&self, name: &'static str) -> impl Iterator<Item = String> + use<> {
        let count = if Weight::is_per_expert(name) { self.block.sizes.experts } else { 1 };
        (0..count).map(move |expert| Weight::name_of_expert(name, expert))
    }

    fn has(&self, name: &str) -> bool {
        self.checkpoint.has(&format!("{}{name}", self.prefix))
    }

    /// The part of these tensors that is absent, 0 to 1: one an expert may be there in part.
    fn absence(&self, name: &'static str) -> f64 {
        let (absent, all) =
            self.expanded(name).fold((0, 0), |(absent, all), name| (absent + u32::from(!self.has(&name)), all + 1));
        f64::from(absent) / f64::from(all.max(1))
    }

    /// The way of storing that fits the file best: by names, then by shapes.
    fn storage<'b>(&self, ways: &'b [Vec<Stored>]) -> &'b [Stored] {
        let absent = |way: &[Stored]| {
            let least = |stored: &Stored| stored.names.iter().map(|name| self.absence(name)).fold(1.0, f64::min);
            way.iter().map(least).sum::<f64>()
        };
        let fits = |way: &[Stored]| {
            let wrong = way.iter().filter_map(|stored| {
                let name = self.choose(stored)?.first().copied()?;
                let first = format!("{}{}", self.prefix, self.expanded(name).next()?);
                let info = self.checkpoint.info(&first).ok()?;
                let expected = self.block.sizes.stored_shapes(stored, name);
                Some(usize::from(!expected.iter().any(|expected| is_same_shape(expected, &info.shape))))
            });
            wrong.sum::<usize>()
        };
        let best =
            ways.iter().map(Vec::as_slice).min_by(|a, b| absent(a).total_cmp(&absent(b)).then_with(|| fits(a).cmp(&fits(b))));
        best.unwrap_or_default()
    }

    /// The first of the tensor's names that the file has, alone; one tensor an expert counts where it has all of them.
    fn choose(&self, stored: &Stored) -> Option<&'static [&'static str]> {
        let has_all = |name: &&&'static str| self.expanded(name).all(|name| self.has(&name));
        stored.names.iter().find(has_all).map(std::slice::from_ref)
    }

    /// `named` are the names that the spec has a use for, present or not: none of them is what a missing one was meant to be.
    fn missing(&self, stored: &Stored, named: &BTreeSet<String>) -> Diagnostic {
        let prefix = self.prefix;
        // Of several names, the one that the file has most of.
        let mut names = stored.names.to_vec();
        names.sort_by(|a, b| self.absence(a).total_cmp(&self.absence(b)));
        let first = names.first().copied().unwrap_or_default();
        let (here, absent): (Vec<u64>, Vec<u64>) = (0..if Weight::is_per_expert(first) { self.block.sizes.experts } else { 1 })
            .partition(|expert| self.has(&Weight::name_of_expert(first, *expert)));
        let lacked = Weight::name_of_expert(first, absent.first().copied().unwrap_or(0));
        let mut message = format!("the checkpoint has no tensor {}", tensor_name(&format!("{prefix}{lacked}")));
        if absent.len() > 1 {
            message.push_str(&format!(", nor {} others like it", absent.len() - 1));
        }
        if !here.is_empty() {
            message.push_str(&format!(": of {} experts it has {}", here.len() + absent.len(), runs(&here)));
        }
        let diagnostic =
            Diagnostic::new(Code::TensorMissing, message).note(format!("it is weights.{} of the spec", stored.tensor.word()));
        const MOST: usize = 4096;
        const LONGEST: usize = 128;
        let beside = self.checkpoint.names_from(prefix).filter_map(|name| name.strip_prefix(prefix)).take(MOST);
        let beside = beside.filter(|name| name.len() <= LONGEST && !named.contains(*name));
        let diagnostic = match nearest(&lacked, beside) {
            Some(near) => diagnostic.help(format!("did you mean {}?", tensor_name(&format!("{prefix}{near}")))),
            None if !here.is_empty() => diagnostic.help("is a part of the checkpoint missing, or is it of another model?"),
            None => diagnostic,
        };
        match names.get(1..).unwrap_or_default() {
            [] => diagnostic,
            others => {
                diagnostic.note(format!("nor has it {}", others.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")))
            }
        }
    }

    /// Tensors of a type or a shape that the loader does not take. Of experts that are wrong alike, the first is worth reading.
    fn misfits(&self, found: &[(&Stored, String)], infos: &BTreeMap<String, TensorInfo>) -> Vec<Diagnostic> {
        let mut reported: BTreeSet<(Tensor, String)> = BTreeSet::new();
        let mut wrong = Vec::new();
        for (stored, full) in found {
            let (Some(TensorInfo { dtype, shape }), Some(name)) = (infos.get(full), stored.names.first()) else { continue };
            let of_spec = || {
                let layout =
                    if stored.layout == Layout::Plain { String::new() } else { format!(" stored \"{}\"", stored.layout.word()) };
                format!("it is weights.{} of the spec{layout}", stored.tensor.word())
            };
            if !is_loaded(stored.tensor, dtype) && reported.insert((stored.tensor, dtype.clone())) {
                let message = format!("the tensor {} has the type {dtype}, which cannot be loaded", tensor_name(full));
                let diagnostic = Diagnostic::new(Code::TensorDType, message).note(of_spec());
                wrong.push(match is_integer(stored.tensor) {
                    true => diagnostic.help("expected I64 or I32"),
                    false => diagnostic
                        .help("expected BF16, F16, F32 or F64; quantised weights are loaded from a copy in one of these"),
                });
            }
            let expected = self.block.sizes.stored_shapes(stored, name);
            if !expected.iter().any(|expected| is_same_shape(expected, shape))
                && reported.insert((stored.tensor, format!("{shape:?}")))
            {
                let expected = expected.first().map(|shape| shape_text(shape)).unwrap_or_default();
                let message = format!("the tensor {} has the shape {shape:?}, not {expected}", tensor_name(full));
                wrong.push(Diagnostic::new(Code::TensorShape, message).note(of_spec()));
            }
        }
        wrong
    }
}

/// 0 to 7, 9: runs of neighbours.
fn runs(numbers: &[u64]) -> String {
    const MOST: usize = 6;
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text =
        runs.iter().take(MOST).map(|(first, last)| if first == last { first.to_string() } else { format!("{first} to {last}") });
    let more = if runs.len() > MOST { ", ..." } else { "" };
    text.collect::<Vec<_>>().join(", ") + more
}

fn is_integer(tensor: Tensor) -> bool {
    tensor == Tensor::HashTable
}

/// Whether the loader takes elements of this type for this tensor: floats become floats, integers integers.
fn is_loaded(tensor: Tensor, dtype: &str) -> bool {
    match dtype {
        "F64" | "F32" | "F16" | "BF16" => !is_integer(tensor),
        "I64" | "I32" => is_integer(tensor),
        // The format's list of types is open; the loader takes these six.
        _ => false,
    }
}

/// What the files of a checkpoint say of tensors.
#[derive(Default)]
struct Held {
    infos: BTreeMap<String, TensorInfo>,
    /// The files of an index that are not there, and how many of the tensors they have.
    absent: BTreeMap<String, usize>,
}

/// Types and shapes of these tensors. A damaged file, and one without a tensor that the index places in it, are in `wrong`.
fn look_up<'a>(checkpoint: &Checkpoint<'_>, names: impl Iterator<Item = &'a str>, wrong: &mut Vec<Diagnostic>) -> Held {
    let mut held = Held::default();
    for name in names {
        match checkpoint.info(name) {
            Ok(info) => drop(held.infos.insert(name.to_string(), info)),
            Err(Error::MissingShard { file, .. }) => *held.absent.entry(file).or_default() += 1,
            Err(error @ Error::NotInShard { .. }) => {
                wrong.push(Diagnostic { code: Code::TensorMissing, ..Diagnostic::from(error) });
            }
            // Every tensor of a damaged file says the same.
            Err(error) => {
                let diagnostic = Diagnostic::from(error);
                if !wrong.contains(&diagnostic) {
                    wrong.push(diagnostic);
                }
            }
        }
    }
    held
}

/// What stands before the router's name: `w.`, `model.layers.3.mlp.`, nothing.
fn find_prefix(block: &Block, checkpoint: &Checkpoint<'_>) -> Result<String, Diagnostic> {
    let before = |name: &str| {
        let rests = block.files.router.iter().filter_map(|router| name.strip_suffix(router));
        rests.filter(|rest| rest.is_empty() || rest.ends_with('.')).map(str::to_string).next()
    };
    let found: BTreeSet<String> = checkpoint.names().into_iter().filter_map(before).collect();
    // The layer of a prefix is its last number: `model.layers.3.mlp.`, `encoder.block.3.layer.1.mlp.` has the one of its block.
    let is_of = |prefix: &str, layer: u64| block.prefixes_of(layer).any(|end| prefix.ends_with(&end));
    let numbers = |prefix: &str| prefix.split('.').filter_map(|part| part.parse::<u64>().ok()).collect::<Vec<_>>();
    let of_layer = |layer: u64| {
        let mut exact = found.iter().filter(|prefix| is_of(prefix, layer));
        let mut alike = found.iter().filter(|prefix| numbers(prefix) == [layer]);
        let one = |prefixes: &mut dyn Iterator<Item = &String>| prefixes.next().filter(|_| prefixes.next().is_none()).cloned();
        one(&mut exact).or_else(|| one(&mut alike))
    };
    // A checkpoint of another layer alone is not this one's.
    let is_of_other = |prefix: &str| block.layer.is_some_and(|layer| numbers(prefix).into_iter().any(|number| number != layer));
    match (found.len(), block.layer, block.first_layer) {
        (0, _, _) => {
            let name = block.files.router.first().copied().unwrap_or_default();
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
