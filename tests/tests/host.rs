//! Kernels of hosts on batches whose tokens want the same experts: the bits of a run do not depend on the threads, nor, where
//! `numerics.batch_invariant` asks for it, on the batch.

use std::slice::from_ref;

use libtest_mimic::Failed;
use moec::diagnostics::Source;
use moec::import::Entry;
use moec::pipeline::this_host;
use moec::random;
use moec::reference::output;
use moec::spec::{Pack, Word};
use moec_ir::Machine;
use moec_ir::machine::MACHINES;
use moec_runtime::package::{DType, Dims};
use moec_runtime::{Bound, DeviceKind, Layer, Tensor};
use moec_tests::Example;
use moec_tests::built::compiled;
use moec_tests::trials::{Case, Family};

/// Tokens of the largest batch: tiles of all heights, some experts with several.
const TOGETHER: u64 = 300;

/// Smaller batches of its first tokens.
const FEWER: [u64; 7] = [1, 2, 3, 7, 16, 65, 128];

/// Of five tokens four want the experts of one of these.
const WANTED: u64 = 3;

pub(crate) fn family() -> Family {
    let dtypes = ["bf16", "f16", "f32"];
    let of_pack =
        |pack: Pack| dtypes.into_iter().flat_map(move |dtype| levels().into_iter().map(move |level| (pack, dtype, level)));
    let cases = Pack::ALL.iter().flat_map(|pack| of_pack(*pack)).map(|(pack, dtype, level)| case(pack, dtype, level)).collect();
    Family { name: "host", one_in: 2, cases }
}

/// The levels of hosts that this CPU has.
fn levels() -> Vec<Machine> {
    let best = this_host().expect("an x86-64 CPU of level v3");
    let at = MACHINES.iter().position(|machine| machine.name == best.name).expect("a machine");
    MACHINES[..=at].iter().filter(|machine| machine.architecture() == best.architecture()).cloned().collect()
}

fn case(pack: Pack, dtype: &'static str, level: Machine) -> Case {
    let name = format!("alone::{dtype}::{}::{}", level.name, pack.word());
    let (example, kind) = (example(pack, dtype), level.name);
    Case::new(name, &example.spec.clone(), move || check(&example, &level)).of_kind(kind)
}

/// A layer whose sums have a part that is not whole, and whose last tile of columns is not whole either.
fn example(pack: Pack, dtype: &str) -> Example {
    let text = format!(
        "[moe]\nname = \"layer\"\nhidden = 330\nexperts = 12\n[router]\nmode = \"token_choice\"\ntop_k = 3\n\
         [expert]\nintermediate = 280\n[shared]\nintermediate = 96\n[tokens]\nmax = 512\n\
         [numerics]\ndtype = \"{dtype}\"\nbatch_invariant = true\n[host]\npack = \"{}\"\n",
        pack.word()
    );
    let source = Source { name: "layer".to_string(), text };
    let spec = moec::spec::parse(&source).unwrap_or_else(|wrong| panic!("{wrong:?}"));
    Example { name: "layer".to_string(), text: source.text, spec }
}

fn check(example: &Example, level: &Machine) -> Result<(), Failed> {
    let package = compiled(&example.spec, Entry::Layer, &example.text, from_ref(level))?;
    let bound = |threads| -> Result<Bound, Failed> {
        let layer = Layer::load(&package, DeviceKind::Host { threads: Some(threads) })?;
        Ok(layer.bind(random::weights(package.manifest(), 5)?)?)
    };
    let (alone, x) = (bound(1)?, skewed(package.manifest().dtype, example.spec.hidden)?);
    // What is packed is not kept beside its panels.
    let released = alone.weight("gate").err().map(|error| error.code());
    if released != (example.spec.host.pack != Pack::None).then_some("RT0319") || alone.weight("router").is_err() {
        return Err(format!("gate: {released:?}").into());
    }
    let together = rows(&alone, &x, TOGETHER)?;
    for threads in [2, 8] {
        if rows(&bound(threads)?, &x, TOGETHER)? != together {
            return Err(format!("{threads} threads give other bits than one").into());
        }
    }
    for tokens in FEWER {
        if rows(&alone, &x, tokens)?[..] != together[..tokens as usize] {
            return Err(format!("the first {tokens} tokens have other bits than among {TOGETHER}").into());
        }
    }
    Ok(())
}

/// Tokens of which most are copies of a few, so that their experts are.
fn skewed(dtype: DType, hidden: u64) -> Result<Tensor, Failed> {
    let tokens = random::tokens(dtype, TOGETHER, hidden, 7)?;
    let row = |token: u64| if token.is_multiple_of(5) { token } else { token % WANTED };
    let bytes = tokens.bytes().len() / TOGETHER as usize;
    let of_token = |token: u64| &tokens.bytes()[row(token) as usize * bytes..][..bytes];
    Ok(Tensor::new(dtype, tokens.shape().to_vec(), (0..TOGETHER).flat_map(of_token).copied().collect())?)
}

/// The output for the first tokens of these, the bytes of a row each.
fn rows(layer: &Bound, x: &Tensor, tokens: u64) -> Result<Vec<Vec<u8>>, Failed> {
    let of_row = x.bytes().len() / TOGETHER as usize;
    let shape = vec![tokens, x.shape()[1]];
    let first = Tensor::new(x.dtype(), shape, x.bytes()[..tokens as usize * of_row].to_vec())?;
    let run = layer.run(&[first], Dims::tokens(tokens))?;
    let output = output(&run).ok_or("no output")?;
    Ok(output.bytes().chunks(output.bytes().len() / tokens as usize).map(<[u8]>::to_vec).collect())
}
