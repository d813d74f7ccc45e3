//! Canonical weights assembled out of a checkpoint by a manifest's recipes. Which name, axis order or part is meant is
//! written in the recipe; nothing is guessed from shapes.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use safetensors::tensor::{Dtype as FileDType, TensorView};

use crate::checkpoint::{Checkpoint, Note, check_range, note, stored};
use crate::error::Error;
use crate::package::{Buffer, DType, Manifest, Piece, Role, Slice, Source, Stacked};
use crate::tensor::{Bytes, Mapped, Stored, Tensor, convert, elements};

/// The weights of a package, in the manifest's order, out of a checkpoint whose names carry `prefix`.
///
/// Nothing but what the recipes name is read. A weight that a mapped file has as the layer needs it, in its dtype and its
/// order, is not copied: it is that part of the file, which stays mapped.
///
/// # Errors
/// [`Error::MissingTensor`], [`Error::MissingExperts`] where some experts have a tensor and others do not,
/// [`Error::MoreExperts`] where some have one that the layer does not have,
/// [`Error::TensorShape`], [`Error::TensorDType`], [`Error::TensorRange`], each naming the stored tensor; what
/// [`Checkpoint::info`] has of a file.
pub fn assemble(manifest: &Manifest, checkpoint: &Checkpoint<'_>, prefix: &str) -> Result<(Vec<Tensor>, Vec<Note>), Error> {
    let mut notes: Vec<Note> = Vec::new();
    let mut weights = Vec::new();
    for buffer in manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight) {
        let recipe = manifest.weights.iter().find(|recipe| recipe.buffer == buffer.name);
        let pieces = recipe.map_or(&[][..], |recipe| &recipe.pieces);
        let shape: Vec<u64> = buffer.shape.iter().map(|extent| extent.as_const().unwrap_or(0).unsigned_abs()).collect();
        // Every stored tensor is found and measured before the buffer is allocated: together they are as large as it is.
        let found = pieces.iter().map(|piece| find(buffer, &shape, piece, checkpoint, prefix));
        let found: Vec<Found<'_>> = found.collect::<Result<_, _>>()?;
        let bytes = elements(&shape).and_then(|n| usize::try_from(n.checked_mul(buffer.dtype.bytes())?).ok());
        let bytes = bytes.ok_or(Error::Extent { why: "a weight overflows" })?;
        if let Some(part) = in_place(&found, buffer.dtype, bytes, checkpoint) {
            weights.push(Tensor::of(buffer.dtype, shape, Bytes::Mapped(part))?);
            continue;
        }
        let mut bytes = vec![0; bytes];
        for found in &found {
            for part in &found.parts {
                check_range(&part.name, part.view.data(), part.stored, buffer.dtype)?;
                let from = convert(part.view.data(), part.stored, buffer.dtype);
                copy_strided(&mut bytes, &part.into, &from, &found.from, &found.extents, buffer.dtype.bytes() as usize);
                if let Some(note) = note(&format!("{prefix}{}", found.name), part.stored, buffer.dtype)
                    && !notes.contains(&note)
                {
                    notes.push(note);
                }
            }
        }
        weights.push(Tensor::new(buffer.dtype, shape, bytes)?);
    }
    Ok((weights, notes))
}

/// The part of a mapped file that has the buffer's `bytes` as they are: nothing converted, dense, each part behind the last.
fn in_place(found: &[Found<'_>], dtype: DType, bytes: usize, checkpoint: &Checkpoint<'_>) -> Option<Mapped> {
    let element_bytes = dtype.bytes() as usize;
    let parts = || found.iter().flat_map(|found| found.parts.iter().map(move |part| (found, part)));
    let data = |(found, part): (&Found<'_>, &Part<'_>)| part.view.data().as_ptr().addr() + found.from.base * element_bytes;
    let first = parts().next()?;
    let mut done = 0;
    for (found, part) in parts() {
        let is_next = part.into.base * element_bytes == done && data((found, part)) == data(first) + done;
        let is_dense = found.from.is_dense(&found.extents) && part.into.is_dense(&found.extents);
        if part.stored != Stored::of(dtype) || !is_next || !is_dense {
            return None;
        }
        done += found.extents.iter().product::<usize>() * element_bytes;
    }
    let start = first.1.view.data().get(first.0.from.base * element_bytes..)?;
    if done == bytes { checkpoint.mapped(start, bytes) } else { None }
}

/// Elements of a piece inside a larger tensor: where the first is, and how far apart neighbours are along each axis.
#[derive(Clone, Debug)]
struct Strided {
    base: usize,
    strides: Vec<usize>,
}

/// A piece's source, found: the extents to copy (without the experts' axis where each expert has its own tensor).
struct Found<'a> {
    name: String,
    extents: Vec<usize>,
    from: Strided,
    parts: Vec<Part<'a>>,
}

struct Part<'a> {
    name: String,
    view: TensorView<'a>,
    stored: Stored,
    into: Strided,
}

fn find<'a>(
    buffer: &Buffer,
    shape: &[u64],
    piece: &Piece,
    checkpoint: &'a Checkpoint<'_>,
    prefix: &str,
) -> Result<Found<'a>, Error> {
    let Some(source) = piece.sources.iter().find(|source| is_stored(source, checkpoint, prefix)) else {
        let candidates = piece.sources.iter().map(|source| expanded(source, prefix, 0)).collect();
        return Err(checkpoint.missing(&buffer.name, candidates));
    };
    // The piece, as a part of the buffer.
    let mut extents = shape.to_vec();
    if let Some(slice) = piece.into {
        extents[slice.axis as usize] /= u64::from(slice.parts);
    }
    let mut into = strided(&order(&[], shape.len()), shape);
    into.narrow(piece.into, &extents);
    if is_per_expert(source) {
        check_experts(buffer, source, extents[0], checkpoint, prefix)?;
    }
    let tensor = |expert: u64| {
        let name = expanded(source, prefix, expert);
        match checkpoint.view(&name)? {
            Some(view) => Ok((view.shape().iter().map(|n| *n as u64).collect::<Vec<u64>>(), name, view)),
            None => Err(checkpoint.missing(&buffer.name, vec![name])),
        }
    };
    let mut ways = ways(source, &extents, &into)?;
    let (first, ..) = tensor(0)?;
    let Way { expected, extents, from, into, experts } =
        ways.swap_remove(ways.iter().position(|way| is_same_shape(&first, &way.expected)).unwrap_or(0));
    let mut parts = Vec::new();
    for expert in 0..experts.unwrap_or(1) {
        let (actual, name, view) = tensor(expert)?;
        if !is_same_shape(&actual, &expected) {
            return Err(Error::TensorShape { tensor: name, buffer: buffer.name.clone(), expected, actual });
        }
        let skip = usize::from(experts.is_some());
        let base = into.base + expert as usize * into.strides.first().copied().unwrap_or(0);
        let stored = stored(&name, &view, buffer.dtype)?;
        parts.push(Part { name, view, stored, into: Strided { base, strides: into.strides[skip..].to_vec() } });
    }
    let extents = extents.iter().map(|n| *n as usize).collect();
    Ok(Found { name: source.name.clone(), extents, from, parts })
}

fn is_per_expert(source: &Source) -> bool {
    source.name.contains("{e}")
}

/// The stored tensor's name, that of one expert where each has its own.
fn expanded(source: &Source, prefix: &str, expert: u64) -> String {
    format!("{prefix}{}", source.name.replace("{e}", &expert.to_string()))
}

/// Whether the checkpoint has a tensor of this source: of any expert, where each has its own.
fn is_stored(source: &Source, checkpoint: &Checkpoint<'_>, prefix: &str) -> bool {
    checkpoint.has(&expanded(source, prefix, 0)) || (is_per_expert(source) && !experts_of(source, checkpoint, prefix).is_empty())
}

/// The experts that have a tensor of this source.
fn experts_of(source: &Source, checkpoint: &Checkpoint<'_>, prefix: &str) -> BTreeSet<u64> {
    let start = format!("{prefix}{}", source.name.split("{e}").next().unwrap_or_default());
    let expert = |name: &str| {
        let rest = &name[start.len()..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let expert = rest[..digits].parse().ok()?;
        (expanded(source, prefix, expert) == name).then_some(expert)
    };
    checkpoint.names_from(&start).filter_map(expert).collect()
}

/// That each of so many experts has its tensor, and no other but the spare ones.
fn check_experts(buffer: &Buffer, source: &Source, experts: u64, checkpoint: &Checkpoint<'_>, prefix: &str) -> Result<(), Error> {
    let there = experts_of(source, checkpoint, prefix);
    let buffer = buffer.name.clone();
    if let Some(first) = (0..experts).find(|expert| !checkpoint.has(&expanded(source, prefix, *expert))) {
        let missing = experts - there.range(..experts).count() as u64;
        let name = expanded(source, prefix, first);
        return Err(Error::MissingExperts { buffer, name, others: missing - 1, experts, there: runs(&there) });
    }
    match there.range(experts.saturating_add(source.spare)..).next() {
        Some(more) => Err(Error::MoreExperts { buffer, name: expanded(source, prefix, *more), experts, there: runs(&there) }),
        None => Ok(()),
    }
}

/// Numbers as runs of neighbours, first and last.
fn runs(numbers: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            Some(_) | None => runs.push((*number, *number)),
        }
    }
    runs
}

/// Axes of one index change nothing: `[1, E]` is stored as `[E]` is.
fn is_same_shape(a: &[u64], b: &[u64]) -> bool {
    a.iter().filter(|n| **n != 1).eq(b.iter().filter(|n| **n != 1))
}

/// One of the ways in which a source may be stored.
struct Way {
    /// The stored shape: that of each expert's tensor where there is one an expert.
    expected: Vec<u64>,
    /// What is copied.
    extents: Vec<u64>,
    from: Strided,
    into: Strided,
    /// How many tensors there are, where there is one an expert, whose axis is then in `into` alone.
    experts: Option<u64>,
}

/// The ways in which a source of these extents, which go into a buffer so, may be stored; the usual one first.
fn ways(source: &Source, extents: &[u64], into: &Strided) -> Result<Vec<Way>, Error> {
    let mut ways = vec![way(source, extents, into, 0)?];
    if source.spare > 0 && !is_per_expert(source) {
        ways.push(way(source, extents, into, source.spare)?);
    }
    if let Some(Stacked { axis, parts }) = source.stacked
        && extents[axis as usize].is_multiple_of(u64::from(parts))
    {
        let (axis, parts) = (axis as usize, u64::from(parts));
        let mut one = extents.to_vec();
        one[axis] /= parts;
        let Way { expected, extents, mut from, mut into, .. } = way(source, &one, into, 0)?;
        into.strides.insert(0, into.strides[axis] * one[axis] as usize);
        from.strides.insert(0, expected.iter().product::<u64>() as usize);
        let first = |shape: Vec<u64>| [vec![parts], shape].concat();
        ways.push(Way { expected: first(expected), extents: first(extents), from, into, experts: None });
    }
    Ok(ways)
}

/// The way without parts, with so many spare experts.
fn way(source: &Source, extents: &[u64], into: &Strided, spare: u64) -> Result<Way, Error> {
    const OVERFLOWS: Error = Error::Extent { why: "a stored tensor overflows" };
    let mut whole = extents.to_vec();
    if let Some(slice) = source.slice {
        let extent = &mut whole[slice.axis as usize];
        *extent = extent.checked_mul(u64::from(slice.parts)).ok_or(OVERFLOWS)?;
    }
    if let Some(extent) = whole.first_mut() {
        *extent = extent.checked_add(spare).ok_or(OVERFLOWS)?;
    }
    let per_expert = source.name.contains("{e}");
    let axes = order(&source.axes, whole.len());
    let skip = usize::from(per_expert);
    let mut expected: Vec<u64> = axes[skip..].iter().map(|axis| whole[*axis]).collect();
    if source.flattened {
        let first = expected.remove(0);
        expected[0] = expected[0].checked_mul(first).ok_or(OVERFLOWS)?;
    }
    if elements(&whole).and_then(|n| usize::try_from(n).ok()).is_none() {
        return Err(OVERFLOWS);
    }
    let mut from = strided(&axes, &whole);
    from.narrow(source.slice, extents);
    from.strides.drain(..skip);
    let experts = per_expert.then(|| extents[0]);
    Ok(Way { expected, extents: extents[skip..].to_vec(), from, into: into.clone(), experts })
}

fn order(axes: &[u32], rank: usize) -> Vec<usize> {
    if axes.is_empty() { (0..rank).collect() } else { axes.iter().map(|axis| *axis as usize).collect() }
}

/// Strides by canonical axis of a dense tensor of canonical shape `whole` whose axes are stored in the order `axes`.
fn strided(axes: &[usize], whole: &[u64]) -> Strided {
    let mut strides = vec![0; whole.len()];
    let mut stride = 1;
    for axis in axes.iter().rev() {
        strides[*axis] = stride;
        stride *= whole[*axis] as usize;
    }
    Strided { base: 0, strides }
}

impl Strided {
    /// Whether elements of these extents follow each other without gaps, the last axis fastest.
    fn is_dense(&self, extents: &[usize]) -> bool {
        let mut dense = 1;
        self.strides.iter().zip(extents).rev().all(|(stride, extent)| {
            let fits = *extent == 1 || *stride == dense;
            dense *= extent;
            fits
        })
    }

    /// Only the part that `slice` says, which has `extents`.
    fn narrow(&mut self, slice: Option<Slice>, extents: &[u64]) {
        let Some(Slice { axis, index, parts, interleaved }) = slice else { return };
        let (axis, index, parts) = (axis as usize, index as usize, parts as usize);
        if interleaved {
            self.base += index * self.strides[axis];
            self.strides[axis] *= parts;
        } else {
            self.base += index * extents[axis] as usize * self.strides[axis];
        }
    }
}

/// `into[i] = from[i]` for every index `i` below `extents`; the runs along the last axis at once where both are dense.
fn copy_strided(into: &mut [u8], to: &Strided, from: &[u8], at: &Strided, extents: &[usize], element_bytes: usize) {
    let Some((&last, outer)) = extents.split_last() else {
        into[to.base * element_bytes..][..element_bytes].copy_from_slice(&from[at.base * element_bytes..][..element_bytes]);
        return;
    };
    let (to_step, from_step) = (to.strides[outer.len()], at.strides[outer.len()]);
    let mut index = vec![0; outer.len()];
    loop {
        let offset = |strided: &Strided| strided.base + index.iter().zip(&strided.strides).map(|(i, s)| i * s).sum::<usize>();
        let (mut target, mut origin) = (offset(to), offset(at));
        if to_step == 1 && from_step == 1 {
            let bytes = last * element_bytes;
            into[target * element_bytes..][..bytes].copy_from_slice(&from[origin * element_bytes..][..bytes]);
        } else {
            for _ in 0..last {
                let element = &from[origin * element_bytes..][..element_bytes];
                into[target * element_bytes..][..element_bytes].copy_from_slice(element);
                target += to_step;
                origin += from_step;
            }
        }
        // The next index, last axis first, as an odometer counts.
        let Some(axis) = (0..outer.len()).rev().find(|axis| index[*axis] + 1 < outer[*axis]) else { return };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}

fn unwritten(why: impl ToString) -> Error {
    Error::Safetensors { path: PathBuf::new(), why: why.to_string() }
}

/// The safetensors file of these named tensors.
///
/// # Errors
/// [`Error::Safetensors`] where two have one name or a shape does not fit this machine.
pub fn to_safetensors(tensors: &[(&str, &Tensor)]) -> Result<Vec<u8>, Error> {
    let mut views: HashMap<&str, TensorView<'_>> = HashMap::new();
    for (name, tensor) in tensors {
        let dtype = match tensor.dtype() {
            DType::F32 => FileDType::F32,
            DType::F16 => FileDType::F16,
            DType::Bf16 => FileDType::BF16,
            DType::I32 => FileDType::I32,
        };
        let shape = tensor.shape().iter().map(|extent| *extent as usize).collect();
        let view = TensorView::new(dtype, shape, tensor.bytes());
        let view = view.map_err(unwritten)?;
        if views.insert(name, view).is_some() {
            return Err(unwritten(format!("two tensors are named `{name}`")));
        }
    }
    // The crate sorts by dtype and name, so the map's order does not reach the file.
    safetensors::serialize(views, None).map_err(unwritten)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::{Cuts, Extent, Recipe};

    /// Recipes of a `[2, 3, 4]` weight, and whether a file has it as it is: values and places both.
    #[test]
    fn a_weight_of_a_file_is_taken_as_it_lies() {
        let tensor = |dtype, shape: &[u64], first: u8| {
            let elements: u64 = shape.iter().product();
            let values: Vec<f32> = (0..elements).map(|i| i as f32 + f32::from(first)).collect();
            Tensor::from_f32(dtype, shape.to_vec(), &values).unwrap()
        };
        let f32 = |shape: &[u64], first| tensor(DType::F32, shape, first);
        // The file has them in the order of their names.
        let tensors = [
            ("apart.0", f32(&[3, 4], 0)),
            ("apart.0x", f32(&[1], 0)),
            ("apart.1", f32(&[3, 4], 12)),
            ("fused", f32(&[2, 6, 4], 0)),
            ("half", tensor(DType::F16, &[2, 3, 4], 0)),
            ("joined.0", f32(&[3, 4], 0)),
            ("joined.1", f32(&[3, 4], 12)),
            ("rows", f32(&[6, 4], 0)),
            ("spare", f32(&[4, 3, 4], 0)),
            ("swapped.0", f32(&[3, 4], 0)),
            ("swapped.1", f32(&[3, 4], 12)),
            ("turned", f32(&[2, 4, 3], 0)),
            ("whole", f32(&[2, 3, 4], 0)),
        ];
        let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let bytes = to_safetensors(&named).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let slice = |axis, index, interleaved| Some(Slice { axis, index, parts: 2, interleaved });
        let plain = |name: &str| Source::plain(name);
        let whole = |source| vec![Piece { into: None, sources: vec![source] }];
        let halves = |first: &str, second: &str| {
            let piece = |index, name: &str| Piece { into: slice(0, index, false), sources: vec![plain(name)] };
            vec![piece(0, first), piece(1, second)]
        };
        let buffer = Buffer {
            name: "w".into(),
            role: Role::Weight,
            dtype: DType::F32,
            shape: [2, 3, 4].map(Extent::Const).to_vec(),
            align: 16,
            observe: None,
            below: None,
            mask: None,
        };
        for (what, pieces, in_place) in [
            ("whole", whole(plain("whole")), true),
            ("folded", whole(Source { flattened: true, ..plain("rows") }), true),
            ("with spare experts", whole(Source { spare: 2, ..plain("spare") }), true),
            ("the second half of the experts", whole(Source { slice: slice(0, 1, false), ..plain("spare") }), true),
            ("one an expert, side by side", whole(plain("joined.{e}")), true),
            ("one an expert, apart", whole(plain("apart.{e}")), false),
            ("two pieces in order", halves("swapped.0", "swapped.1"), true),
            ("two pieces in another order", halves("swapped.1", "swapped.0"), false),
            ("every other expert", whole(Source { slice: slice(0, 0, true), ..plain("spare") }), false),
            ("half of the rows", whole(Source { slice: slice(1, 0, false), ..plain("fused") }), false),
            ("transposed", whole(Source { axes: vec![0, 2, 1], ..plain("turned") }), false),
            ("another type", whole(plain("half")), false),
        ] {
            let mut manifest = Manifest {
                compiler: String::new(),
                layer: String::new(),
                entry: crate::package::Entry::Layer,
                spec_sha256: String::new(),
                dtype: DType::F32,
                tf32: false,
                max_tokens: 1,
                cuts: Cuts::Nowhere,
                workspace_limit: None,
                dims: Vec::new(),
                buffers: vec![buffer.clone()],
                weights: Vec::new(),
                images: Vec::new(),
                targets: Vec::new(),
            };
            manifest.weights.push(Recipe { buffer: "w".into(), pieces });
            let (copied, notes) = assemble(&manifest, &Checkpoint::read(&bytes).unwrap(), "").unwrap();
            let (found, same) = assemble(&manifest, &Checkpoint::open(&path).unwrap(), "").unwrap();
            assert_eq!((&found, same), (&copied, notes), "{what}");
            assert!(copied[0].mapped().is_none(), "{what}: bytes of the caller may go before the tensor");
            assert_eq!(found[0].mapped().is_some(), in_place, "{what}");
        }
    }
}
