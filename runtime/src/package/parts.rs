//! A batch in parts, where its workspace would be longer than it may be: as many tokens at a time as fit.

use super::{Buffer, Cuts, Dims, Extent, Manifest, Role, Target, workspace};
use crate::error::Error;

/// Parts are cut at multiples of so many tokens, where they are longer, so that tiles are full.
const EVEN: u64 = 128;

/// The dims of the parts that a batch is run in, one after another, of which the last may be shorter: those of the batch where its
/// workspace fits in `limit` bytes.
///
/// # Errors
/// [`Error::Workspace`] where the batch may not be cut, or not finely enough; [`Error::Extent`].
pub fn part(manifest: &Manifest, target: &Target, dims: Dims, limit: u64) -> Result<Dims, Error> {
    let needed = |dims: Dims| Ok::<u64, Error>(workspace(manifest, target, dims)?.bytes);
    let whole = needed(dims)?;
    if whole <= limit {
        return Ok(dims);
    }
    let unit = unit(manifest, dims);
    let units = dims.tokens.div_ceil(unit);
    let of = |units: u64| of_part(manifest.cuts, dims, dims.tokens.min(units * unit));
    // The workspace does not shrink where T grows.
    let (mut fits, mut too_many) = (0, units);
    while fits + 1 < too_many {
        let middle = fits.midpoint(too_many);
        if needed(of(middle))? <= limit {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    if fits == 0 {
        return Err(Error::Workspace { needed: needed(of(1))?, limit, whole });
    }
    // As even as they can be.
    let even = units.div_ceil(units.div_ceil(fits));
    Ok(of(even.next_multiple_of(EVEN.div_ceil(unit)).min(fits)))
}

/// The fewest tokens of a part that others may follow: what the caller gives has to be aligned there too.
fn unit(manifest: &Manifest, dims: Dims) -> u64 {
    let align = u64::from(cut_align(manifest));
    match manifest.cuts {
        Cuts::Tokens => align.min(dims.tokens),
        // An alignment is a power of two.
        Cuts::Sequences => {
            (dims.sequence_tokens * (align >> dims.sequence_tokens.trailing_zeros().min(align.ilog2()))).min(dims.tokens)
        }
        Cuts::Nowhere => dims.tokens,
    }
}

/// To how many bytes what the caller gives of tokens is aligned, at every cut too.
#[must_use]
pub fn cut_align(manifest: &Manifest) -> u32 {
    let is_given = |buffer: &&Buffer| match buffer.role {
        Role::Input | Role::Output => buffer.shape.first() == Some(&Extent::Tokens),
        Role::Weight | Role::Prepared | Role::Workspace => false,
    };
    manifest.buffers.iter().filter(is_given).map(|buffer| buffer.align).max().unwrap_or(1)
}

/// The dims of some of the batch's tokens.
pub(crate) fn of_part(cuts: Cuts, dims: Dims, tokens: u64) -> Dims {
    match cuts {
        // No token depends on another one, in its sequence or not.
        Cuts::Tokens => Dims::tokens(tokens),
        Cuts::Sequences | Cuts::Nowhere => Dims { tokens, ..dims },
    }
}
