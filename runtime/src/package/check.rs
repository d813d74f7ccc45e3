//! What makes a manifest sound. After [`check`], every index is in range, every
//! argument has its parameter's type and every weight has a recipe; launches need not look again.

use std::collections::BTreeSet;

use super::extent::{Dims, Extent};
use super::manifest::{
    Arg, Buffer, DType, ImageKind, Kernel, Launch, Manifest, ParamKind, Role, Routing, Slots, Target, TargetKind, Working,
};
use super::recipe::{Recipe, Slice, Source, Stacked};
use super::{PARAMS_MAX, WORKSPACE_ALIGN, byte_count};
use crate::error::Error;

/// The most operations deep that a formula may be: JSON is read to a depth of 128, and each operation takes two.
const EXTENT_DEPTH_MAX: usize = 32;
/// The most experts whose numbers are allocated for: more than any spec has.
const EXPERTS_MAX: u64 = 1 << 20;
/// The most that a size or a number of tokens may be: kernels count them in 32 bits, and products of two fit 64.
const SIZE_MAX: u64 = i32::MAX as u64;
/// The most regimes of a target, and the most workspace buffers of a regime: far more than any layer has. Where buffers lie takes time
/// that grows with the square of their number.
const REGIMES_MAX: usize = 16;
const WORKSPACE_BUFFERS_MAX: usize = 512;
/// The most threads of a block on any GPU.
const THREADS_MAX: u32 = 1024;
/// The most blocks of a cluster on every GPU that has clusters.
const CLUSTER_MAX: u32 = 8;

macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(Error::manifest(format!($($why)+)));
        }
    };
}

/// Holds a manifest to its rules.
///
/// # Errors
/// [`Error::Manifest`] with the first rule that is broken, and where.
pub fn check(manifest: &Manifest) -> Result<(), Error> {
    ensure!(is_sha256(&manifest.spec_sha256), "`spec_sha256` is not 64 lower-case hexadecimal digits");
    ensure!(unique(manifest.dims.iter().map(|dim| &dim.name)), "two dims have one name");
    for dim in &manifest.dims {
        ensure!(dim.value <= SIZE_MAX, "dim `{}` is {}, at most {SIZE_MAX}", dim.name, dim.value);
    }
    ensure!(manifest.max_tokens <= SIZE_MAX, "`max_tokens` is {}, at most {SIZE_MAX}", manifest.max_tokens);
    ensure!(unique(manifest.buffers.iter().map(|buffer| &buffer.name)), "two buffers have one name");
    ensure!(manifest.buffers.iter().any(|buffer| buffer.role == Role::Input), "no buffer is an input");
    ensure!(manifest.buffers.iter().any(|buffer| buffer.role == Role::Output), "no buffer is an output");
    manifest.buffers.iter().try_for_each(check_buffer)?;
    manifest.buffers.iter().try_for_each(|buffer| check_mask(manifest, buffer))?;
    check_recipes(manifest)?;
    ensure!(unique(manifest.targets.iter().map(|target| &target.name)), "two targets have one name");
    manifest.targets.iter().try_for_each(|target| check_target(manifest, target))
}

fn check_buffer(buffer: &Buffer) -> Result<(), Error> {
    let name = &buffer.name;
    ensure!(!name.is_empty(), "a buffer has no name");
    ensure!(
        buffer.align.is_power_of_two() && u64::from(buffer.align) <= WORKSPACE_ALIGN,
        "buffer `{name}`: alignment {} is not a power of two up to {WORKSPACE_ALIGN}",
        buffer.align
    );
    ensure!(buffer.shape.iter().all(is_shallow), "buffer `{name}`: a formula is too deep");
    match buffer.role {
        Role::Weight | Role::Prepared => {
            for extent in &buffer.shape {
                ensure!(extent.as_const().is_some_and(|n| n > 0), "weight `{name}`: an extent is not a positive number");
            }
            byte_count(buffer, Dims::tokens(0))?;
        }
        Role::Input | Role::Output | Role::Workspace => {}
    }
    let numbers = buffer.dtype == DType::I32 && matches!(buffer.role, Role::Input | Role::Weight);
    ensure!(
        buffer.below.is_none_or(|below| numbers && (1..=1 << 31).contains(&below)),
        "buffer `{name}` has a bound, but no numbers that a caller gives"
    );
    ensure!(buffer.observe.is_none() || buffer.role == Role::Workspace, "buffer `{name}` is observed but not workspace");
    Ok(())
}

/// A mask is an input with a number for each row of the input that it is the mask of.
fn check_mask(manifest: &Manifest, buffer: &Buffer) -> Result<(), Error> {
    let Some(mask) = &buffer.mask else { return Ok(()) };
    let bounded = buffer.role == Role::Input && buffer.below.is_some();
    let is_mask = |other: &Buffer| {
        other.name == *mask && other.role == Role::Input && other.dtype == DType::I32 && other.shape == [Extent::Tokens]
    };
    ensure!(
        bounded && buffer.shape.first() == Some(&Extent::Tokens) && manifest.buffers.iter().any(is_mask),
        "buffer `{}` has the mask `{mask}`, which is no mask of its numbers",
        buffer.name
    );
    Ok(())
}

fn check_recipes(manifest: &Manifest) -> Result<(), Error> {
    ensure!(unique(manifest.weights.iter().map(|recipe| &recipe.buffer)), "two recipes are for one weight");
    for buffer in manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight) {
        let recipe = manifest.weights.iter().find(|recipe| recipe.buffer == buffer.name);
        let Some(recipe) = recipe else { return Err(Error::manifest(format!("weight `{}` has no recipe", buffer.name))) };
        check_recipe(recipe, buffer)?;
    }
    let weights = manifest.buffers.iter().filter(|buffer| buffer.role == Role::Weight).count();
    ensure!(manifest.weights.len() == weights, "a recipe names no weight buffer");
    Ok(())
}

fn check_recipe(recipe: &Recipe, buffer: &Buffer) -> Result<(), Error> {
    let (name, rank) = (&buffer.name, buffer.shape.len());
    // Pieces that cover a buffer: the whole once, or each of the n parts along one axis once, cut in one way.
    let mut parts: Vec<Option<Slice>> = recipe.pieces.iter().map(|piece| piece.into).collect();
    parts.sort_by_key(|part| part.map(|slice| slice.index));
    let covers = match parts.first() {
        Some(None) => parts.len() == 1,
        Some(Some(first)) => {
            parts.len() == first.parts as usize
                && parts.iter().zip(0..).all(|(part, index)| *part == Some(Slice { index, ..*first }))
        }
        None => false,
    };
    ensure!(covers, "the recipe of `{name}` does not cover it once");
    for piece in &recipe.pieces {
        if let Some(slice) = piece.into {
            check_slice(slice, name, rank)?;
            let extent = buffer.shape[slice.axis as usize].as_const().unwrap_or(0);
            ensure!(extent % i64::from(slice.parts) == 0, "`{name}`: {} parts do not divide an axis of {extent}", slice.parts);
        }
        ensure!(!piece.sources.is_empty(), "the recipe of `{name}` has a piece without a source");
        piece.sources.iter().try_for_each(|source| check_source(source, name, rank))?;
    }
    Ok(())
}

fn check_source(source: &Source, name: &str, rank: usize) -> Result<(), Error> {
    let per_expert = source.name.contains("{e}");
    let mut axes = source.axes.clone();
    axes.sort_unstable();
    ensure!(
        axes.is_empty() || (axes.len() == rank && axes.iter().zip(0..).all(|(axis, index)| *axis == index)),
        "the recipe of `{name}`: axes {:?} are not an order of {rank} axes",
        source.axes
    );
    ensure!(
        !per_expert || (rank > 0 && source.axes.first().is_none_or(|first| *first == 0)),
        "the recipe of `{name}`: with one tensor an expert, the experts' axis comes first"
    );
    ensure!(
        !source.flattened || rank >= 2 + usize::from(per_expert),
        "the recipe of `{name}`: too few axes to fold two into one"
    );
    ensure!(
        source.spare == 0 || source.axes.first().is_none_or(|first| *first == 0),
        "the recipe of `{name}`: spare experts behind an axis that is not the first"
    );
    if let Some(Stacked { axis, parts }) = source.stacked {
        ensure!(
            (axis as usize) < rank && parts >= 2 && !per_expert && !source.flattened && source.spare == 0,
            "the recipe of `{name}`: {parts} parts of axis {axis} cannot be stacked"
        );
    }
    source.slice.map_or(Ok(()), |slice| {
        check_slice(slice, name, rank)?;
        ensure!(!per_expert || slice.axis != 0, "the recipe of `{name}`: a slice of the experts' axis, one tensor an expert");
        ensure!(source.spare == 0 || slice.axis != 0, "the recipe of `{name}`: a slice of an axis with spare experts");
        Ok(())
    })
}

fn check_slice(slice: Slice, name: &str, rank: usize) -> Result<(), Error> {
    let Slice { axis, index, parts, interleaved: _ } = slice;
    ensure!(
        (axis as usize) < rank && index < parts,
        "the recipe of `{name}`: part {index} of {parts} along axis {axis} is not there"
    );
    Ok(())
}

fn check_target(manifest: &Manifest, target: &Target) -> Result<(), Error> {
    let name = &target.name;
    ensure!(!target.images.is_empty(), "target `{name}` has no image");
    for &index in &target.images {
        let Some(image) = manifest.images.get(index as usize) else {
            return Err(Error::manifest(format!("target `{name}` names image {index}, which is not there")));
        };
        let fits = match (target.kind, image.kind) {
            (TargetKind::Gpu, ImageKind::Ptx | ImageKind::Cubin) | (TargetKind::Host, ImageKind::SharedObject) => true,
            (TargetKind::Gpu, ImageKind::SharedObject) | (TargetKind::Host, ImageKind::Ptx | ImageKind::Cubin) => false,
        };
        ensure!(fits, "target `{name}`: image {index} is for another kind of machine");
    }
    ensure!(unique(target.kernels.iter().map(|kernel| &kernel.symbol)), "target `{name}`: two kernels have one symbol");
    for kernel in &target.kernels {
        ensure!(is_symbol(&kernel.symbol), "target `{name}`: `{}` is not a symbol", kernel.symbol);
        ensure!((1..=THREADS_MAX).contains(&kernel.threads), "kernel `{}`: {} threads a block", kernel.symbol, kernel.threads);
        let most = if target.kind == TargetKind::Gpu { CLUSTER_MAX } else { 1 };
        let sound = kernel.cluster.is_power_of_two() && kernel.cluster <= most;
        ensure!(sound, "kernel `{}`: clusters of {} blocks", kernel.symbol, kernel.cluster);
        let params = kernel.params.len();
        ensure!(params <= PARAMS_MAX, "kernel `{}` takes {params} parameters, at most {PARAMS_MAX}", kernel.symbol);
        kernel.params.iter().try_for_each(|param| check_param(target, kernel, &param.kind))?;
    }
    let limits: Vec<Option<u64>> = target.regimes.iter().map(|regime| regime.tokens_up_to).collect();
    let Some((None, bounded)) = limits.split_last() else {
        return Err(Error::manifest(format!("target `{name}`: the last regime is not open-ended")));
    };
    // `None` sorts below every bound, so an early open end breaks the order too.
    let ascending = bounded.first().is_none_or(Option::is_some) && bounded.windows(2).all(|pair| pair[0] < pair[1]);
    ensure!(ascending, "target `{name}`: the regimes' bounds do not ascend");
    ensure!(limits.len() <= REGIMES_MAX, "target `{name}` has {} regimes, at most {REGIMES_MAX}", limits.len());
    ensure!(target.regimes.iter().all(|regime| regime.tile_rows != Some(0)), "target `{name}`: tiles without rows");
    target.launches().try_for_each(|launch| check_launch(manifest, target, launch))?;
    target.prepare.iter().try_for_each(|launch| check_preparation(manifest, target, launch))?;
    let named_by = |launches: &[Launch]| -> BTreeSet<usize> {
        launches.iter().flat_map(|launch| &launch.args).filter_map(Arg::buffer).collect()
    };
    let prepared = named_by(&target.prepare);
    let is_prepared = |index: &usize| manifest.buffers[*index].role != Role::Prepared || prepared.contains(index);
    for launches in target.regimes.iter().map(|regime| &regime.launches).chain([&target.update]) {
        let named = named_by(launches);
        let workspace = named.iter().filter(|index| manifest.buffers[**index].role == Role::Workspace).count();
        ensure!(
            workspace <= WORKSPACE_BUFFERS_MAX,
            "target `{name}`: {workspace} workspace buffers, at most {WORKSPACE_BUFFERS_MAX}"
        );
        if let Some(index) = named.into_iter().find(|index| !is_prepared(index)) {
            return Err(Error::manifest(format!("target `{name}`: nothing prepares `{}`", manifest.buffers[index].name)));
        }
    }
    let sequences = target.regimes.iter().map(|regime| &regime.launches).chain([&target.prepare, &target.update]);
    for launches in sequences {
        let early = launches.first().is_some_and(|launch| launch.early);
        ensure!(!early, "target `{name}`: the first launch of a sequence is early");
        let counted = |launch: &Launch| launch.working.as_ref().map(|working| working.buffer);
        for (at, launch) in launches.iter().enumerate().filter(|(_, launch)| launch.follows()) {
            let before = at.checked_sub(1).map(|before| &launches[before]);
            let fits = before.is_some_and(|before| counted(before) == counted(launch) && !before.follows());
            ensure!(
                fits,
                "target `{name}`: launch {at} of a sequence follows one that has no work by the same buffer, or follows another"
            );
        }
    }
    let early = target.kind == TargetKind::Host && target.launches().any(|launch| launch.early);
    ensure!(!early, "target `{name}`: an early launch on the host");
    let observed: Vec<&Buffer> =
        named(target).into_iter().map(|index| &manifest.buffers[index]).filter(|buffer| buffer.observe.is_some()).collect();
    ensure!(
        unique(observed.iter().filter_map(|buffer| buffer.observe.as_ref())),
        "target `{name}`: two buffers are observed under one name"
    );
    target.statistics.as_ref().map_or(Ok(()), |routing| check_routing(name, routing, &observed))
}

/// What the driver asks of a tensor map (`cuTensorMapEncodeTiled`), as far as it stands in the manifest.
fn check_param(target: &Target, kernel: &Kernel, param: &ParamKind) -> Result<(), Error> {
    let ParamKind::TensorMap(map) = param else { return Ok(()) };
    let symbol = &kernel.symbol;
    ensure!(target.kind == TargetKind::Gpu, "kernel `{symbol}` of the host takes a tensor map");
    ensure!(map.tile.iter().all(|extent| (1..=256).contains(extent)), "kernel `{symbol}`: boxes of {:?}", map.tile);
    let row = u64::from(map.tile[2]) * map.dtype.bytes();
    ensure!(
        row % 16 == 0 && map.swizzle.row_bytes().is_none_or(|bytes| row == bytes),
        "kernel `{symbol}`: rows of a box have {row} bytes"
    );
    Ok(())
}

/// Holds the slots to the types that readers of statistics rely on.
fn check_routing(target: &str, routing: &Routing, observed: &[&Buffer]) -> Result<(), Error> {
    let Slots { load, kept, tokens, experts, rows, probability, z, importance, aux_loss, z_loss } = &routing.slots;
    let of_pairs = [experts, rows].map(|slot| (slot.as_ref(), DType::I32, 2, routing.top_k));
    let of_experts = [load, kept].map(|slot| (Some(slot), DType::I32, 1, routing.experts));
    let slots = of_pairs.into_iter().chain(of_experts).chain([
        (tokens.as_ref(), DType::I32, 1, 1),
        (probability.as_ref(), DType::F32, 2, routing.experts),
        (importance.as_ref(), DType::F32, 1, routing.experts),
        (aux_loss.as_ref(), DType::F32, 1, 1),
        (z_loss.as_ref(), DType::F32, 1, 1),
    ]);
    let columns = |buffer: &Buffer| buffer.shape.last().and_then(Extent::as_const).and_then(|n| u64::try_from(n).ok());
    for (slot, dtype, rank, wanted) in slots {
        let Some(slot) = slot else { continue };
        let buffer = observed.iter().find(|buffer| buffer.observe.as_ref() == Some(slot));
        ensure!(
            buffer.is_some_and(|b| b.dtype == dtype && b.shape.len() == rank && columns(b) == Some(wanted)),
            "target `{target}`: no {} of {rank} dimensions, the last of {wanted}, is observed as `{slot}`",
            dtype.name()
        );
    }
    if let Some(z) = z {
        let buffer = observed.iter().find(|buffer| buffer.observe.as_ref() == Some(z));
        ensure!(
            buffer.is_some_and(|b| b.dtype == DType::F32 && b.shape.len() == 1),
            "target `{target}`: no f32 of 1 dimension is observed as `{z}`"
        );
    }
    let Routing {
        experts,
        rowless,
        top_k,
        joint_shared,
        rows_at_capacity,
        capacity_factor,
        slots: _,
        by_sequence: _,
        corrected: _,
        grouped: _,
    } = routing;
    ensure!(
        (1..=EXPERTS_MAX).contains(experts) && (1..=EXPERTS_MAX).contains(top_k),
        "target `{target}`: {top_k} of {experts} experts"
    );
    ensure!(rowless < experts, "target `{target}`: no expert has rows");
    ensure!(joint_shared <= rowless && joint_shared < top_k, "target `{target}`: {joint_shared} shared experts beside no pick");
    ensure!(capacity_factor.is_none_or(|factor| !factor.contains(&0)), "target `{target}`: a capacity factor of 0");
    ensure!(rows_at_capacity.as_ref().is_none_or(is_shallow), "target `{target}`: a formula is too deep");
    Ok(())
}

fn check_launch(manifest: &Manifest, target: &Target, launch: &Launch) -> Result<(), Error> {
    let Some(kernel) = target.kernels.get(launch.kernel as usize) else {
        return Err(Error::manifest(format!("target `{}` launches kernel {}, which is not there", target.name, launch.kernel)));
    };
    let symbol = &kernel.symbol;
    ensure!(launch.formulas().all(is_shallow), "a launch of `{symbol}`: a formula is too deep");
    ensure!(
        launch.args.len() == kernel.params.len(),
        "kernel `{symbol}` takes {} arguments, a launch gives {}",
        kernel.params.len(),
        launch.args.len()
    );
    for (index, (arg, param)) in launch.args.iter().zip(&kernel.params).enumerate() {
        let fits = match (arg, &param.kind) {
            (Arg::Buffer(buffer), ParamKind::Pointer) => (*buffer as usize) < manifest.buffers.len(),
            (Arg::ScalarI32(_), ParamKind::I32) | (Arg::ScalarI64(_), ParamKind::I64) => true,
            (Arg::TensorMap(view), ParamKind::TensorMap(map)) => {
                manifest.buffers.get(view.buffer as usize).is_some_and(|buffer| buffer.dtype == map.dtype)
            }
            (Arg::Buffer(_), ParamKind::I32 | ParamKind::I64 | ParamKind::TensorMap(_))
            | (Arg::ScalarI32(_), ParamKind::Pointer | ParamKind::I64 | ParamKind::TensorMap(_))
            | (Arg::ScalarI64(_), ParamKind::Pointer | ParamKind::I32 | ParamKind::TensorMap(_))
            | (Arg::TensorMap(_), ParamKind::Pointer | ParamKind::I32 | ParamKind::I64) => false,
        };
        ensure!(fits, "argument {index} of a launch of `{symbol}` is not the {:?} that it takes", param.kind);
    }
    launch.working.as_ref().map_or(Ok(()), |working| check_working(manifest, symbol, launch, working))
}

/// How many blocks have work is read without a further look: it is a number that is there.
fn check_working(manifest: &Manifest, symbol: &str, launch: &Launch, working: &Working) -> Result<(), Error> {
    let given = launch.args.contains(&Arg::Buffer(working.buffer));
    ensure!(given, "a launch of `{symbol}` has blocks with work by buffer {}, which it is not given", working.buffer);
    let Buffer { name, dtype, shape, .. } = &manifest.buffers[working.buffer as usize];
    let is_there = shape.iter().all(|extent| extent.as_const().is_some_and(|n| n > 0));
    ensure!(*dtype == DType::I32 && is_there, "a launch of `{symbol}` has blocks with work by `{name}`, which is no i32 number");
    Ok(())
}

/// What is launched when weights are bound has nothing else, and depends on no batch.
fn check_preparation(manifest: &Manifest, target: &Target, launch: &Launch) -> Result<(), Error> {
    let symbol = &target.kernels[launch.kernel as usize].symbol;
    let mut given = launch.args.iter().filter_map(Arg::buffer).map(|index| manifest.buffers[index].role);
    ensure!(
        given.all(|role| matches!(role, Role::Weight | Role::Prepared)),
        "the preparation by `{symbol}` is given what is not there when weights are bound"
    );
    ensure!(!launch.formulas().any(Extent::depends_on_batch), "the preparation by `{symbol}` depends on the batch");
    Ok(())
}

/// Holds the images' contents to the manifest, as far as a reader of bytes can: PTX is text that declares the kernels with
/// as many parameters. A cubin or a shared object is checked when it is loaded.
pub(super) fn check_images(manifest: &Manifest, images: &[Vec<u8>]) -> Result<(), Error> {
    for target in &manifest.targets {
        for &index in &target.images {
            match manifest.images[index as usize].kind {
                ImageKind::Ptx => check_ptx(target, &images[index as usize])?,
                ImageKind::Cubin | ImageKind::SharedObject => {}
            }
        }
    }
    Ok(())
}

fn check_ptx(target: &Target, image: &[u8]) -> Result<(), Error> {
    let name = &target.name;
    let Ok(text) = std::str::from_utf8(image) else {
        return Err(Error::manifest(format!("target `{name}`: the PTX is not UTF-8")));
    };
    ensure!(!text.contains('\0'), "target `{name}`: the PTX contains NUL");
    let declared = text.lines().find_map(|line| line.trim().strip_prefix(".target")).unwrap_or("");
    ensure!(declared.split(',').any(|word| word.trim() == name), "target `{name}`: the PTX is for `{}`", declared.trim());
    for Kernel { symbol, params, .. } in &target.kernels {
        let found = ptx_params(text, symbol);
        ensure!(found.is_some(), "target `{name}`: the PTX has no entry `{symbol}`");
        ensure!(
            found == Some(params.len()),
            "target `{name}`: `{symbol}` takes {} parameters, in the PTX {}",
            params.len(),
            found.unwrap_or(0)
        );
    }
    Ok(())
}

/// How many parameters the PTX entry `symbol` declares.
fn ptx_params(text: &str, symbol: &str) -> Option<usize> {
    text.split(".entry").skip(1).find_map(|entry| {
        let rest = entry.trim_start().strip_prefix(symbol)?.trim_start();
        // The parameter list is optional in PTX: an entry without one goes straight to its body or a directive.
        match rest.strip_prefix('(') {
            Some(list) => Some(list.split(')').next()?.matches(".param").count()),
            None => rest.starts_with(['{', '.']).then_some(0),
        }
    })
}

/// The buffers that a target's launches name.
fn named(target: &Target) -> BTreeSet<usize> {
    target.launches().flat_map(|launch| &launch.args).filter_map(Arg::buffer).collect()
}

fn is_shallow(extent: &Extent) -> bool {
    extent.depth() <= EXTENT_DEPTH_MAX
}

fn unique<'a>(mut names: impl Iterator<Item = &'a String>) -> bool {
    let mut seen = BTreeSet::new();
    names.all(|name| seen.insert(name))
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_symbol(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$')
        && text.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}
