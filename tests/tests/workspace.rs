//! Where the buffers of the workspace lie, for every example on every machine and every mode.

use std::collections::BTreeSet;
use std::iter;

use moec::import::Entry;
use moec::package::package;
use moec::pipeline::lower;
use moec_codegen::{Image, Object};
use moec_ir::Machine;
use moec_ir::machine::MACHINES;
use moec_runtime::package::{Dims, Launch, Manifest, Place, WORKSPACE_ALIGN, Workspace, workspace};
use moec_tests::scaled::modes;
use moec_tests::trials::{Case, Family};
use moec_tests::{Example, examples, machine};

/// The machines that modes are held on.
const SOME: [&str; 3] = ["sm_80", "sm_90a", "x86-64-v4"];

/// A trial for each spec.
pub(crate) fn family() -> Family {
    let case = |of: &str, example: Example, machines: Vec<Machine>| {
        let spec = example.spec.clone();
        Case::new(format!("{of}::{}", example.name), &spec, move || {
            machines.iter().for_each(|machine| check_workspace(&manifest(&example, machine)));
            Ok(())
        })
    };
    let of_examples = examples().into_iter().map(|example| case("example", example, MACHINES.to_vec()));
    let of_modes = modes().into_iter().map(|mode| case("mode", mode, SOME.map(machine).to_vec()));
    Family { name: "workspace", one_in: 1, cases: of_examples.chain(of_modes).collect() }
}

/// The layer's manifest with an image of nothing: where buffers lie does not depend on it.
fn manifest(example: &Example, machine: &Machine) -> Manifest {
    let lowered = lower(&example.spec, Entry::Layer, machine).unwrap();
    let image = if machine.is_gpu() { Image::Cubin(Vec::new()) } else { Image::SharedObject(Vec::new()) };
    let object = Object { target: machine.name.to_string(), image, kernels: Vec::new(), warnings: Vec::new() };
    package(&example.spec, Entry::Layer, &example.text, &[(machine, lowered, vec![object])]).unwrap().manifest().clone()
}

/// Two buffers that overlap are used one after the other, what a caller may read last. Buffers end at most a tenth above what the launches
/// use at the same time. The workspace is as long as this and as what smaller regimes need, and not shorter than that of a smaller batch.
fn check_workspace(manifest: &Manifest) {
    for target in &manifest.targets {
        let last: Vec<u64> = target.regimes.iter().filter_map(|regime| regime.tokens_up_to).collect();
        let bounds = iter::once(1).chain(last.iter().flat_map(|last| [*last, last + 1])).chain([manifest.max_tokens]);
        let bounds: Vec<u64> = bounds.collect();
        let between = bounds.windows(2).flat_map(|of| [of[0].midpoint(of[1]), (of[0] * of[1]).isqrt()]);
        let powers = (0..).map(|power| 1 << power).take_while(|tokens| *tokens < manifest.max_tokens);
        let batches: BTreeSet<u64> = bounds.iter().copied().chain(between).chain(powers).collect();
        let in_sequences = (1..=64).map(|sequences| Dims { tokens: 64 * sequences, sequence_tokens: 64 });
        let mut before = 0;
        for dims in in_sequences.chain(batches.into_iter().map(Dims::tokens)) {
            let Dims { tokens, sequence_tokens } = dims;
            let at = format!("{} {} at T = {tokens}, S = {sequence_tokens}", manifest.layer, target.name);
            let Workspace { places, bytes } = workspace(manifest, target, dims).unwrap();
            let launches = &target.regime(tokens).unwrap().launches;
            let uses = |place: &Place| {
                let names = |launch: &&Launch| launch.args.iter().any(|arg| arg.buffer() == Some(place.buffer));
                // A launch that follows another may be under way together with it.
                let while_under_way = |(at, launch): (usize, &Launch)| at - usize::from(launch.follows())..=at;
                let of_run = launches.iter().enumerate().filter(|(_, launch)| names(launch)).flat_map(while_under_way);
                let is_read =
                    manifest.buffers[place.buffer].observe.is_some() || target.update.iter().any(|launch| names(&launch));
                of_run.chain(is_read.then_some(usize::MAX)).collect::<Vec<_>>()
            };
            for (i, a) in places.iter().enumerate() {
                assert!(a.offset % WORKSPACE_ALIGN == 0 && a.offset + a.bytes <= bytes, "{at}");
                for b in places[..i].iter().filter(|b| a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes) {
                    let (of_a, of_b) = (uses(a), uses(b));
                    assert!(of_a.last() < of_b.first() || of_b.last() < of_a.first(), "{at}: {a:?} and {b:?}");
                }
            }
            let used_at = |at: usize| {
                let is_used = |uses: &[usize]| uses.first().is_some_and(|first| *first <= at) && uses.last() >= Some(&at);
                places.iter().filter(|place| is_used(&uses(place))).map(|place| place.bytes).sum::<u64>()
            };
            let most = (0..launches.len()).map(used_at).max().unwrap_or(0);
            let rounded = WORKSPACE_ALIGN * places.len() as u64;
            let end = places.iter().map(|place| place.offset + place.bytes).max().unwrap_or(0);
            assert!(10 * end <= 11 * most + 10 * rounded, "{at}: buffers end at {end}, at most {most} are in use at a time");
            let smaller = last.iter().rfind(|last| **last < tokens).map(|last| Dims { tokens: *last, ..dims });
            let smaller = smaller.map_or(0, |dims| workspace(manifest, target, dims).unwrap().bytes);
            assert_eq!(bytes, smaller.max(end.next_multiple_of(WORKSPACE_ALIGN)), "{at}");
            // Of batches with the same S, and of those that are one sequence.
            assert!(bytes >= before || tokens == 1, "{at}");
            before = bytes;
        }
    }
}
