//! Where a target's workspace buffers lie, for one set of launch dimensions.
//!
//! Buffers that no launch of a regime uses at the same time share room: a buffer is in use from the first launch that names it
//! to the last one. What a caller may read, and what an update names, is in use to the end. Which of two buffers lies below
//! the other depends on the regime, not on the batch, so an offset is a sum of lengths or the largest of such sums, and does
//! not shrink where T grows.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::{Arg, Buffer, Dims, Launch, Manifest, Regime, Role, Target, WORKSPACE_ALIGN};
use crate::error::Error;

/// Where one workspace buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into [`Manifest::buffers`].
    pub buffer: usize,
    /// Bytes from the start of the workspace, a multiple of [`WORKSPACE_ALIGN`].
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Where a target's workspace buffers lie for one set of launch dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// The buffers that the launches of the batch's regime and of the update name, in the manifest's order. Two may
    /// overlap where no launch uses both.
    pub places: Vec<Place>,
    /// The bytes that a run needs.
    pub bytes: u64,
}

/// The workspace of `target`: a pure function of the dims. Its length does not shrink where T grows, S being the same: it
/// is at least that of every smaller regime at its largest batch.
///
/// # Errors
/// [`Error::Extent`] where a shape overflows or is negative.
pub fn workspace(manifest: &Manifest, target: &Target, dims: Dims) -> Result<Workspace, Error> {
    let smaller =
        target.regimes.iter().map_while(|regime| Some((regime, regime.tokens_up_to.filter(|most| *most < dims.tokens)?)));
    let mut bytes = 0;
    for (regime, most) in smaller {
        bytes = place(manifest, target, regime, Dims { tokens: most, ..dims })?.bytes.max(bytes);
    }
    let own = target.regime(dims.tokens).map(|regime| place(manifest, target, regime, dims)).transpose()?;
    let own = own.unwrap_or(Workspace { places: Vec::new(), bytes: 0 });
    Ok(Workspace { bytes: own.bytes.max(bytes), ..own })
}

/// A workspace buffer of a regime, and what it lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnStack {
    /// Index into [`Manifest::buffers`].
    pub buffer: usize,
    /// Those before it in the stack that are in use together with it: it begins where the last of them ends, at the next multiple
    /// of [`WORKSPACE_ALIGN`].
    pub on: Vec<usize>,
}

/// The workspace buffers of a regime from the bottom to the top, whatever the batch.
#[must_use]
pub fn stack(manifest: &Manifest, target: &Target, regime: &Regime) -> Vec<OnStack> {
    let lives = lives(manifest, target, regime);
    let order = stacked(manifest, regime, &lives);
    let below =
        |top: usize| -> Vec<usize> { (0..top).filter(|index| meet(&lives[&order[*index]], &lives[&order[top]])).collect() };
    order.iter().enumerate().map(|(top, buffer)| OnStack { buffer: *buffer, on: below(top) }).collect()
}

/// The workspace of one regime, as long as it needs for these dims: each buffer lies where its [`stack`] says.
fn place(manifest: &Manifest, target: &Target, regime: &Regime, dims: Dims) -> Result<Workspace, Error> {
    let stack = stack(manifest, target, regime);
    let mut places: Vec<Place> = Vec::with_capacity(stack.len());
    let mut length: u64 = 0;
    for OnStack { buffer, on } in stack {
        let bytes = byte_count(&manifest.buffers[buffer], dims)?;
        let below = on.iter().map(|index| &places[*index]);
        // Ends of what is placed do not overflow.
        let offset = below.map(|place| (place.offset + place.bytes).next_multiple_of(WORKSPACE_ALIGN)).max().unwrap_or(0);
        let end = offset.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(WORKSPACE_ALIGN));
        length = end.ok_or(Error::Extent { why: "the workspace overflows 64 bits" })?.max(length);
        places.push(Place { buffer, offset, bytes });
    }
    places.sort_by_key(|place| place.buffer);
    Ok(Workspace { places, bytes: length })
}

/// The buffers from the bottom to the top, as they lie at the regime's largest batch. They are laid from the longest to the
/// shortest, from the last used to the first used, or from the first used to the last used: as it needs the least room.
fn stacked(manifest: &Manifest, regime: &Regime, lives: &BTreeMap<usize, RangeInclusive<usize>>) -> Vec<usize> {
    let most = Dims::tokens(regime.tokens_up_to.unwrap_or(manifest.max_tokens));
    let bytes = |buffer: &usize| {
        let bytes = byte_count(&manifest.buffers[*buffer], most).unwrap_or(u64::MAX);
        (*buffer, bytes.checked_next_multiple_of(WORKSPACE_ALIGN).unwrap_or(u64::MAX))
    };
    let mut longest: Vec<(usize, u64)> = lives.keys().map(bytes).collect();
    longest.sort_by_key(|(_, bytes)| Reverse(*bytes));
    let mut last = longest.clone();
    last.sort_by_key(|(buffer, _)| Reverse(*lives[buffer].end()));
    let mut first = longest.clone();
    first.sort_by_key(|(buffer, _)| *lives[buffer].start());
    let laid = [longest, last, first].map(|order| laid(&order, lives));
    let shortest = laid.into_iter().min_by_key(|(_, length)| *length);
    shortest.map(|(buffers, _)| buffers).unwrap_or_default()
}

/// Each buffer, in this order, in the lowest gap between those that are in use together with it: the buffers from the bottom
/// to the top, and the length of all.
fn laid(order: &[(usize, u64)], lives: &BTreeMap<usize, RangeInclusive<usize>>) -> (Vec<usize>, u64) {
    // By offset, then by buffer; with the end.
    let mut laid: BTreeMap<(u64, usize), u64> = BTreeMap::new();
    for (buffer, bytes) in order {
        let mut at = 0u64;
        for ((start, other), end) in &laid {
            if !meet(&lives[other], &lives[buffer]) {
                continue;
            }
            if *start >= at.saturating_add(*bytes) {
                break;
            }
            at = at.max(*end);
        }
        laid.insert((at, *buffer), at.saturating_add(*bytes));
    }
    let length = laid.values().max().copied().unwrap_or(0);
    (laid.into_keys().map(|(_, buffer)| buffer).collect(), length)
}

/// Whether one launch is in both.
fn meet(a: &RangeInclusive<usize>, b: &RangeInclusive<usize>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

/// The launches during which each workspace buffer is in use, from the first one to the last one.
fn lives(manifest: &Manifest, target: &Target, regime: &Regime) -> BTreeMap<usize, RangeInclusive<usize>> {
    let mut lives: BTreeMap<usize, RangeInclusive<usize>> = BTreeMap::new();
    let mut used = |at: usize, launch: &Launch, until: usize| {
        for buffer in launch.args.iter().filter_map(Arg::buffer) {
            let Buffer { role: Role::Workspace, observe, .. } = &manifest.buffers[buffer] else { continue };
            let until = if observe.is_some() { usize::MAX } else { until };
            let life = lives.entry(buffer).or_insert(at..=until);
            *life = *life.start()..=until.max(*life.end());
        }
    };
    for (at, launch) in regime.launches.iter().enumerate() {
        used(at, launch, at);
    }
    for launch in &target.update {
        used(regime.launches.len(), launch, usize::MAX);
    }
    lives
}

/// The buffer's shape for these dims.
pub(crate) fn shape(buffer: &Buffer, dims: Dims) -> Result<Vec<u64>, Error> {
    buffer.shape.iter().map(|extent| extent.count(dims)).collect()
}

/// The buffer's bytes for these dims.
pub(crate) fn byte_count(buffer: &Buffer, dims: Dims) -> Result<u64, Error> {
    let elements = shape(buffer, dims)?.iter().try_fold(1u64, |product, extent| product.checked_mul(*extent));
    elements
        .and_then(|elements| elements.checked_mul(buffer.dtype.bytes()))
        .ok_or(Error::Extent { why: "the bytes of a buffer overflow 64 bits" })
}
