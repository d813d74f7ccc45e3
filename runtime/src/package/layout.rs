//! Where a target's workspace buffers lie, for one set of launch dimensions.
//!
//! Buffers that no launch of a regime uses at the same time share room: a buffer is in use from the first launch that names it
//! to the last one. What a caller may read, and what an update names, is in use to the end. Which of two buffers lies below
//! the other depends on the regime, not on the batch, so an offset is a sum of lengths or the largest of such sums, and does
//! not shrink where T grows. Of some orders that one is taken which suits small and large batches of the regime.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::iter;

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
    let order = stacked(&lives, &batches(manifest, target, regime).map(|tokens| lengths(manifest, &lives, tokens)));
    let below = |top: usize| -> Vec<usize> { (0..top).filter(|index| lives[order[*index]].meets(&lives[order[top]])).collect() };
    order.iter().enumerate().map(|(top, life)| OnStack { buffer: lives[*life].buffer, on: below(top) }).collect()
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

/// The launches during which a workspace buffer is in use.
struct Life {
    /// Index into [`Manifest::buffers`].
    buffer: usize,
    first: usize,
    last: usize,
}

impl Life {
    /// Whether one launch is in both.
    fn meets(&self, other: &Life) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Those of a regime's workspace buffers, in the manifest's order.
fn lives(manifest: &Manifest, target: &Target, regime: &Regime) -> Vec<Life> {
    let mut lives: BTreeMap<usize, Life> = BTreeMap::new();
    let mut used = |at: usize, launch: &Launch, until: usize| {
        for buffer in launch.args.iter().filter_map(Arg::buffer) {
            let Buffer { role: Role::Workspace, observe, .. } = &manifest.buffers[buffer] else { continue };
            let until = if observe.is_some() { usize::MAX } else { until };
            let life = lives.entry(buffer).or_insert(Life { buffer, first: at, last: until });
            life.last = life.last.max(until);
        }
    };
    for (at, launch) in regime.launches.iter().enumerate() {
        // What follows another is in use with it.
        used(at.saturating_sub(usize::from(launch.follows())), launch, at);
    }
    for launch in &target.update {
        used(regime.launches.len(), launch, usize::MAX);
    }
    lives.into_values().collect()
}

/// The batches that an order of a regime's buffers is chosen for: the largest one, the smallest one, and one as many times larger than
/// this as it is smaller than that.
fn batches(manifest: &Manifest, target: &Target, regime: &Regime) -> [u64; 3] {
    let largest = regime.tokens_up_to.unwrap_or(manifest.max_tokens);
    let before = target.regimes.iter().filter_map(|regime| regime.tokens_up_to).filter(|most| *most < largest).max();
    let smallest = before.map_or(1, |most| most + 1).min(largest);
    [largest, largest.saturating_mul(smallest).isqrt(), smallest]
}

/// The length of each buffer at a batch, in the order of the lives.
fn lengths(manifest: &Manifest, lives: &[Life], tokens: u64) -> Vec<u64> {
    let bytes = |life: &Life| byte_count(&manifest.buffers[life.buffer], Dims::tokens(tokens)).unwrap_or(u64::MAX);
    lives.iter().map(|life| bytes(life).checked_next_multiple_of(WORKSPACE_ALIGN).unwrap_or(u64::MAX)).collect()
}

/// The lives from the bottom to the top. Of the orders in which they lie where they are laid at one of the batches, the first of those
/// whose length is least above what is in use at one time, at the batch where it is most above it.
fn stacked(lives: &[Life], batches: &[Vec<u64>]) -> Vec<usize> {
    let needed: Vec<u64> = batches.iter().map(|lengths| most_at_a_time(lives, lengths)).collect();
    let (mut least, mut best) = (u128::MAX, Vec::new());
    for order in batches.iter().flat_map(|lengths| layouts(lives, lengths)) {
        let thousandths = |(lengths, needed): (&Vec<u64>, &u64)| {
            1000 * u128::from(length(&order, lives, lengths)) / u128::from((*needed).max(1))
        };
        let most = batches.iter().zip(&needed).map(thousandths).max().unwrap_or(0);
        if most < least {
            (least, best) = (most, order);
        }
        // No other one is shorter than what is needed.
        if least <= 1000 {
            break;
        }
    }
    best
}

/// The most bytes that one launch may use: no layout is shorter.
fn most_at_a_time(lives: &[Life], lengths: &[u64]) -> u64 {
    let in_use = |at: usize| {
        let used = lives.iter().zip(lengths).filter(|(life, _)| (life.first..=life.last).contains(&at));
        used.fold(0, |bytes: u64, (_, length)| bytes.saturating_add(*length))
    };
    lives.iter().map(|life| in_use(life.first)).max().unwrap_or(0)
}

/// How often buffers are laid at one batch.
const LAYOUTS: usize = 4;

/// Some orders from the bottom to the top. The buffers are laid from the last used to the first used, and the longest first; then again with
/// the one that ended highest before all others, and so on.
fn layouts(lives: &[Life], lengths: &[u64]) -> impl Iterator<Item = Vec<usize>> {
    let mut first: Vec<usize> = (0..lives.len()).collect();
    first.sort_by_key(|life| (Reverse(lives[*life].last), Reverse(lengths[*life])));
    let mut next = Some(first);
    let laid_once = move || {
        let mut order = next.take()?;
        let laid = laid(&order, lives, lengths);
        let highest = laid.iter().max_by_key(|(offset, life)| (offset.saturating_add(lengths[*life]), Reverse(*life)));
        let at = highest.and_then(|(_, highest)| order.iter().position(|life| life == highest)).filter(|at| *at > 0);
        next = at.map(|at| {
            order[..=at].rotate_right(1);
            order
        });
        Some(laid.into_iter().map(|(_, life)| life).collect())
    };
    iter::from_fn(laid_once).take(LAYOUTS)
}

/// Each life, in this order, in the lowest gap between those that it meets: their offsets, from the bottom to the top.
fn laid(order: &[usize], lives: &[Life], lengths: &[u64]) -> Vec<(u64, usize)> {
    let mut laid: Vec<(u64, usize)> = Vec::with_capacity(order.len());
    for life in order {
        let mut at = 0u64;
        for (start, other) in laid.iter().filter(|(_, other)| lives[*other].meets(&lives[*life])) {
            if *start >= at.saturating_add(lengths[*life]) {
                break;
            }
            at = at.max(start.saturating_add(lengths[*other]));
        }
        let place = (at, *life);
        laid.insert(laid.partition_point(|other| *other < place), place);
    }
    laid
}

/// How long the workspace is with the lives in this order, and these lengths.
fn length(order: &[usize], lives: &[Life], lengths: &[u64]) -> u64 {
    let mut ends: Vec<u64> = Vec::with_capacity(order.len());
    for life in order {
        let below = order.iter().zip(&ends).filter(|(other, _)| lives[**other].meets(&lives[*life]));
        let offset = below.map(|(_, end)| *end).max().unwrap_or(0);
        ends.push(offset.saturating_add(lengths[*life]));
    }
    ends.into_iter().max().unwrap_or(0)
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
