//! Tensors of a file that stand at the layer and that the spec does not use. A shared expert, a bias or a scale that no rule
//! knows is seen here: its names say that it is part of the layer.

use std::collections::{BTreeMap, BTreeSet};

use moec_runtime::Checkpoint;

use super::Block;
use super::check::tensor_name;
use crate::diagnostics::{Code, Diagnostic};
use crate::spec::Weight;

/// What the spec does not use.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// What looks like part of the layer: patterns with `*` for every number, and how many tensors each has.
    pub(super) parts: BTreeMap<String, usize>,
    /// What does not: attention, norms of the layer.
    pub(super) beside: BTreeMap<String, usize>,
    /// Parts that were allowed to go unused.
    pub(super) allowed: Vec<String>,
}

/// Words of names that belong to a MoE block wherever they stand at a layer.
const OF_BLOCKS: [&str; 8] = ["expert", "experts", "router", "moe", "shared", "share", "correction", "latent"];
/// Words that do so where a file has nothing but the block, or perhaps more.
const INSIDE: [&str; 14] =
    ["gate", "bias", "biases", "scale", "scales", "norm", "layernorm", "proj", "up", "down", "w1", "w2", "w3", "classifier"];
/// Of what stands in the block and is computed, not learnt: positions.
const BUFFERS: [&str; 2] = ["rotary", "freq"];
/// Attention has experts in few models, and gates and biases in many.
const ATTENTION: [&str; 4] = ["attn", "attention", "mamba", "conv"];

/// Every tensor of the layer that is not in `used`.
pub(super) fn sort(block: &Block, checkpoint: &Checkpoint<'_>, prefix: &str, used: &BTreeSet<&str>, allowed: &[String]) -> Rest {
    let mut rest = Rest::default();
    let layer = layer_of(prefix);
    let spare = spare(block, prefix);
    for name in checkpoint.names_from(layer).filter(|name| !used.contains(name) && !spare.contains(*name)) {
        let below_layer = &name[layer.len()..];
        let is_part = match name.strip_prefix(prefix).filter(|inner| is_in_block(block, inner)) {
            // Without a prefix the file may have more than the block.
            Some(inner) if prefix.is_empty() => has(inner, &OF_BLOCKS) || has(inner, &INSIDE),
            Some(inner) => !has(inner, &BUFFERS),
            None => has(below_layer, &OF_BLOCKS) && !has(below_layer, &ATTENTION),
        };
        if !is_part {
            *rest.beside.entry(beside(below_layer)).or_default() += 1;
        } else if allowed.iter().any(|argument| is_allowed(argument, prefix, name)) {
            rest.allowed.push(name.to_string());
        } else {
            *rest.parts.entry(pattern(layer, below_layer)).or_default() += 1;
        }
    }
    rest
}

/// Identity experts may have rows, which nothing reads, in files with one tensor an expert too.
fn spare(block: &Block, prefix: &str) -> BTreeSet<String> {
    let experts = block.sizes.experts..block.sizes.experts + block.sizes.identity;
    let names = block.stored_names().filter(|name| Weight::is_per_expert(name));
    names
        .flat_map(|name| experts.clone().map(move |expert| format!("{prefix}{}", Weight::name_of_expert(name, expert))))
        .collect()
}

impl Rest {
    /// The parts that the spec leaves out, in one message.
    pub(super) fn mistake(&self) -> Option<Diagnostic> {
        const MOST: usize = 8;
        let (first, _) = self.parts.first_key_value()?;
        let text = |(name, count): (&String, &usize)| match count {
            1 => tensor_name(name),
            count => format!("{} ({count} tensors)", tensor_name(name)),
        };
        let mut names: Vec<String> = self.parts.iter().take(MOST).map(text).collect();
        if self.parts.len() > MOST {
            names.push(format!("{} more", self.parts.len() - MOST));
        }
        let message = format!("the checkpoint has tensors of the layer that the spec does not use: {}", names.join(", "));
        Some(
            Diagnostic::new(Code::TensorUnused, message)
                .note("without them the layer may compute something else")
                .help(format!("is the config that of this checkpoint? `--allow-unread '{first}'` goes on without them")),
        )
    }
}

/// `model.layers.3.` of `model.layers.3.mlp.`; a prefix without a number is a layer of its own.
fn layer_of(prefix: &str) -> &str {
    let mut end = None;
    let mut at = 0;
    for part in prefix.split_inclusive('.') {
        at += part.len();
        if end.is_none() && part.trim_end_matches('.').parse::<u64>().is_ok() {
            end = Some(at);
        }
    }
    &prefix[..end.unwrap_or(prefix.len())]
}

/// Whether a name below the prefix is in a folder that the block has names in, or no folder at all.
fn is_in_block(block: &Block, inner: &str) -> bool {
    let folder = |name: &str| name.split('.').next().unwrap_or_default().to_string();
    // Where names start at a layer, the block is one of its folders.
    let is_at_layer = block.files.prefixes.iter().any(|prefix| prefix.ends_with("{N}."));
    !is_at_layer || block.stored_names().any(|name| folder(name) == folder(inner))
}

/// Whether a name has one of the words.
fn has(name: &str, list: &[&str]) -> bool {
    name.split(['.', '_']).any(|word| list.contains(&word))
}

/// `*` in the place of numbers below the layer, so that experts are one.
fn pattern(layer: &str, below: &str) -> String {
    let part = |part: &str| if part.parse::<u64>().is_ok() { "*".to_string() } else { part.to_string() };
    format!("{layer}{}", below.split('.').map(part).collect::<Vec<_>>().join("."))
}

/// What is beside the block: attention and norms by their folder, anything else by its name.
fn beside(below: &str) -> String {
    const NORMS: [&str; 3] = ["norm", "layernorm", "ln"];
    let folder = below.split('.').next().unwrap_or_default();
    if has(folder, &ATTENTION) || has(folder, &NORMS) { folder.to_string() } else { pattern("", below) }
}

/// Whether an argument of `--allow-unread` is the tensor's name, whole or below the prefix, or its pattern, or a folder of one.
pub(super) fn is_allowed(argument: &str, prefix: &str, name: &str) -> bool {
    let layer = layer_of(prefix);
    let pattern = pattern(layer, name.strip_prefix(layer).unwrap_or(name));
    let names = [name, name.strip_prefix(prefix).unwrap_or(name), &pattern];
    names.iter().any(|name| name.strip_prefix(argument).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}
