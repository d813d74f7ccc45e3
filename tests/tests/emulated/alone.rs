//! `numerics.batch_invariant`: the bits of a token are those that it has alone, whatever else is in the batch and wherever it stands.

use libtest_mimic::Failed;
use moec::emulate::{emulate, options, schedules};
use moec::import::Entry;
use moec::random;
use moec::reference::output;
use moec::spec::Mode;
use moec_runtime::Tensor;
use moec_runtime::package::Dims;
use moec_tests::Example;
use moec_tests::scaled::scaled_examples;
use moec_tests::trials::Case;

use super::chain::{Compiled, compile, compile_in};
use super::{LAST, batches};

/// Some rows of a tile of 64, and one of the next.
const TOGETHER: u64 = 65;
/// Those that run alone: the first, one in the middle of a tile, the last.
const ALONE: [u64; 3] = [0, 37, 64];

/// The model's choice for the layer, and products in each way that adds by matrices.
const WAYS: [Option<&str>; 5] =
    [None, Some("mma(16 by 64)"), Some("group(128 by 128)"), Some("twin(256 by 128)"), Some("stream(16 by 16)")];

pub(super) fn cases() -> Vec<Case> {
    let is_invariant = |example: &Example| {
        example.spec.capacity.is_none() && !matches!(example.spec.router.mode, Mode::Soft(_) | Mode::ExpertChoice)
    };
    let examples = scaled_examples().into_iter().filter(is_invariant);
    examples.flat_map(|example| WAYS.into_iter().filter_map(move |way| case(&example, way))).collect()
}

fn case(example: &Example, way: Option<&'static str>) -> Option<Case> {
    if way.is_some() && !super::PRODUCTS.contains(&example.name.as_str()) {
        return None;
    }
    let mut example = example.clone();
    example.spec.numerics.batch_invariant = true;
    let name = format!("alone::{}::{}", example.name, way.unwrap_or("as chosen").replace(['(', ')', ' '], "_"));
    let spec = example.spec.clone();
    Some(Case::new(name, &spec, move || check(&example, way)).of_kind("a token alone"))
}

fn check(example: &Example, way: Option<&str>) -> Result<(), Failed> {
    let compiled = match way {
        None => compile(&example.spec, Entry::Layer, &example.text, LAST),
        Some(way) => compile_in(way, &example.spec, Entry::Layer, &example.text, LAST)?,
    };
    if compiled.regimes() != 1 {
        return Err("more than one graph".into());
    }
    let weights = random::weights(compiled.manifest(), 3)?;
    let inputs = batches::random_inputs(example, TOGETHER);
    let together = rows(&compiled, &weights, &inputs, TOGETHER)?;
    for token in ALONE {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| row(input, token)).collect::<Result<_, _>>()?;
        if rows(&compiled, &weights, &inputs, 1)?[0] != together[token as usize] {
            return Err(format!("token {token} has other bits alone").into());
        }
    }
    Ok(())
}

/// The bytes of the output, a row a token.
fn rows(compiled: &Compiled, weights: &[Tensor], inputs: &[Tensor], tokens: u64) -> Result<Vec<Vec<u8>>, Failed> {
    let schedule = schedules(1, 11).into_iter().next().ok_or("no schedule")?;
    let (package, target) = (compiled.package(), LAST);
    let emulation = emulate(package, target, options(target, schedule), weights, inputs, Dims::tokens(tokens), 0xff)?;
    if let Some(finding) = emulation.findings().next() {
        return Err(format!("T = {tokens}: {finding}").into());
    }
    let run = emulation.run.ok_or("a launch did not end, and there is no finding")?;
    let output = output(&run).ok_or("no output")?;
    Ok(output.bytes().chunks(output.bytes().len() / tokens as usize).map(<[u8]>::to_vec).collect())
}

/// A token's row of an input.
fn row(input: &Tensor, token: u64) -> Result<Tensor, Failed> {
    let mut shape = input.shape().to_vec();
    let bytes = input.bytes().len() / shape[0] as usize;
    shape[0] = 1;
    Ok(Tensor::new(input.dtype(), shape, input.bytes()[token as usize * bytes..][..bytes].to_vec())?)
}
