//! The emulator as a device: tensors with guards, dirt that is noticed, blocks by sample, content made on demand.
#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use crate::fixture;
use crate::fixture::{HIDDEN, MAX_TOKENS, manifest, w, x, y};
use moec_runtime::device::{Argument, Start};
use moec_runtime::emulator::{self, Emulator, FindingKind, Options, Place, Sample};
use moec_runtime::{Dims, Layer, Package, Region};

/// The fixture's kernels: a thread an element of the block's token. `{first}` is where `add_it` starts to read.
pub(crate) const PTX: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .entry double_it(.param .u64 x, .param .u64 tmp, .param .u32 hidden, .param .u64 tokens)
{
    .reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .f32 %f<4>;
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; ld.param.u32 %r3, [hidden];
    setp.ge.u32 %p1, %r1, %r3;
    @%p1 ret;
    mad.lo.u32 %r4, %r2, %r3, %r1;
    mul.wide.u32 %rd1, %r4, 4;
    ld.param.u64 %rd2, [x]; ld.param.u64 %rd3, [tmp];
    add.u64 %rd4, %rd2, %rd1; add.u64 %rd5, %rd3, %rd1;
    ld.global.f32 %f1, [%rd4];
    add.f32 %f2, %f1, %f1;
    st.global.f32 [%rd5], %f2;
    ret;
}
.visible .entry add_it(.param .u64 tmp, .param .u64 w, .param .u64 y, .param .u64 load, .param .u32 hidden, .param .u64 tokens)
{
    .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<12>; .reg .f32 %f<4>;
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; ld.param.u32 %r3, [hidden];
    setp.ge.u32 %p1, %r1, %r3;
    @%p1 ret;
    mad.lo.u32 %r4, %r2, %r3, %r1;
    mul.wide.u32 %rd1, %r4, 4; mul.wide.u32 %rd8, %r1, 4;
    ld.param.u64 %rd2, [tmp]; ld.param.u64 %rd3, [w]; ld.param.u64 %rd6, [y]; ld.param.u64 %rd9, [load];
    add.u64 %rd4, %rd2, %rd1; add.u64 %rd5, %rd3, %rd8; add.u64 %rd7, %rd6, %rd1;
    ld.global.f32 %f1, [%rd4 + {first}];
    ld.global.f32 %f2, [%rd5];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%rd7], %f3;
    or.b32 %r5, %r1, %r2;
    setp.ne.u32 %p2, %r5, 0;
    @%p2 ret;
    ld.param.u32 %r6, [tokens]; neg.s32 %r7, %r3;
    st.global.u32 [%rd9], %r6; st.global.u32 [%rd9 + 4], %r7;
    ret;
}
";

fn open(first: &str, sample: Sample) -> (Arc<Emulator>, Layer) {
    let package = Package::new(manifest(), vec![PTX.replace("{first}", first).into_bytes(), Vec::new()]).unwrap();
    let (opened, emulator) = emulator::open(&package, Some("sm_80"), Options::default(), sample).unwrap();
    let layer = Layer::on(&package, opened).unwrap();
    (emulator, layer)
}

#[test]
fn a_run_is_clean_and_right() {
    let (emulator, layer) = open("0", Sample::All);
    let bound = layer.bind(vec![w()]).unwrap();
    let run = bound.run(&[x(5)], Dims::tokens(5)).unwrap();
    assert_eq!(run.tensor("y").unwrap(), &y(5));
    assert_eq!(run.tensor("load").unwrap().to_i32().unwrap(), [5, -4]);
    let launches = emulator.take_launches();
    assert_eq!(launches.len(), 2);
    assert!(launches.iter().all(|launch| launch.report.clean() && launch.blocks == 5 && launch.report.counters.blocks == 5));
    assert!(emulator.take_launches().is_empty());
    // Another size in the same workspace: other tensors in the same place.
    let mut batch = bound.batch(&[x(5)], Dims::tokens(5)).unwrap();
    bound.launch(&mut batch).unwrap();
    batch.dims = Dims::tokens(4);
    bound.launch(&mut batch).unwrap();
    assert!(emulator.take_launches().iter().all(|launch| launch.report.clean()));
}

#[test]
fn a_tensor_is_left_at_its_end_although_the_workspace_goes_on() {
    // 1000 tokens leave 32 bytes of `tmp` (rounded up to 1002 rows) unwritten; 36 bytes on it ends.
    let finding = |first: &str| {
        let (emulator, layer) = open(first, Sample::All);
        let ran = layer.bind(vec![w()]).unwrap().run(&[x(MAX_TOKENS)], Dims::tokens(MAX_TOKENS));
        let launches = emulator.take_launches();
        assert!(ran.is_ok() || launches.iter().any(|launch| !launch.report.clean()));
        launches.into_iter().flat_map(|launch| launch.report.findings).map(|finding| (finding.kind, finding.message)).collect()
    };
    let unwritten: Vec<(FindingKind, String)> = finding("16");
    assert!(
        unwritten.iter().all(|(kind, _)| *kind == FindingKind::UninitialisedGlobal) && !unwritten.is_empty(),
        "{unwritten:?}"
    );
    let outside = finding("48");
    let outside = outside.iter().find(|(kind, _)| *kind == FindingKind::OutOfBounds);
    assert!(outside.is_some_and(|(_, message)| message.contains("`tmp`")), "{outside:?}");
}

#[test]
fn sampled_blocks_run_alone() {
    let (emulator, layer) = open("0", Sample::Only(vec![Place::At(1), Place::Last, Place::At(7)]));
    let bound = layer.bind(vec![w()]).unwrap();
    let run = bound.run(&[x(5)], Dims::tokens(5)).unwrap();
    let row = |tokens: u64| run.tensor("y").unwrap().to_f64()[(tokens * HIDDEN) as usize..][..HIDDEN as usize].to_vec();
    let expected = y(5).to_f64();
    assert_eq!(row(1), expected[HIDDEN as usize..][..HIDDEN as usize]);
    assert_eq!(row(4), expected[4 * HIDDEN as usize..]);
    assert_ne!(row(2), expected[2 * HIDDEN as usize..][..HIDDEN as usize]);
    let launches = emulator.take_launches();
    assert!(launches.iter().all(|launch| (launch.blocks, launch.report.counters.blocks) == (5, 2)));
}

#[test]
fn content_is_made_where_it_is_touched() {
    let (emulator, layer) = open("0", Sample::All);
    let region = |buffer: usize, bytes: u64| {
        let region = Region::new(layer.device(), bytes).unwrap();
        emulator.provide(buffer, Arc::new(|_, bytes| bytes.as_chunks_mut::<4>().0.fill(1.5f32.to_le_bytes())));
        region
    };
    let bound = layer.bind_regions(vec![region(1, HIDDEN * 4)]).unwrap();
    let mut batch = bound.batch(&[x(3)], Dims::tokens(3)).unwrap();
    batch.inputs = vec![region(0, 3 * HIDDEN * 4)];
    let elapsed = bound.launch(&mut batch).unwrap();
    let print = |batch: &moec_runtime::Batch| emulator.fingerprint(batch.outputs[0].address(), batch.outputs[0].bytes());
    let run = bound.collect(&batch, elapsed).unwrap();
    assert!(run.tensor("y").unwrap().to_f64().iter().all(|value| *value == 4.5));
    let before = print(&batch);
    bound.launch(&mut batch).unwrap();
    assert_eq!(print(&batch), before);
    batch.outputs[0].fill(0).unwrap();
    assert_ne!(print(&batch), before);
    assert_eq!(layer.bind_regions(Vec::new()).unwrap_err().code(), "RT0301");
    assert_eq!(layer.bind_regions(vec![region(1, 3)]).unwrap_err().code(), "RT0306");
}

/// What a buffer of the workspace held is gone where another one lies there.
#[test]
fn workspace_that_is_used_again_is_new() {
    let (emulator, layer) = open("0", Sample::All);
    let device = layer.device();
    let [x, workspace] = [Region::of(device, &[0; 16]).unwrap(), Region::new(device, 16).unwrap()];
    let of = |buffer: usize, region: &Region| Argument::Memory { buffer, address: region.address(), bytes: 16 };
    let findings = |from: Argument, to: Argument| {
        device
            .launch(Start { kernel: 0, blocks: 1, early: false, working: None }, &[from, to, Argument::I32(4), Argument::I64(1)])
            .unwrap();
        let launches = emulator.take_launches();
        launches.iter().flat_map(|launch| &launch.report.findings).map(|finding| finding.kind).collect::<Vec<_>>()
    };
    let y = Region::new(device, 16).unwrap();
    let (tmp, counts) = (of(2, &workspace), of(3, &workspace));
    assert_eq!(findings(of(0, &x), tmp), []);
    assert_eq!(findings(tmp, of(4, &y)), []);
    assert_eq!(findings(counts, of(4, &y)), [FindingKind::UninitialisedGlobal]);
    assert_eq!(findings(of(0, &x), counts), []);
    assert_eq!(findings(tmp, of(4, &y)), [FindingKind::UninitialisedGlobal]);
}

/// What an early launch stores to workspace before it waits is held against what launches did there with other buffers.
#[test]
fn workspace_that_is_used_again_may_still_be_in_use() {
    const WAIT: &str = "griddepcontrol.wait;";
    let ends = PTX.replace("@%p1 ret;", &format!("@%p1 {WAIT} @%p1 ret;")).replace("{first}", "0");
    let (load, store) = ("ld.global.f32 %f1, [%rd4];", "st.global.f32 [%rd5], %f2;");
    let text = |waits: bool| match waits {
        true => ends.replace(load, &format!("{WAIT} {load}")),
        false => ends.replace(store, &format!("{store} {WAIT}")),
    };
    type Step = (bool, [(usize, u64, u64); 2]);
    let found = |waits: bool, steps: &[Step]| {
        let package = Package::new(manifest(), vec![text(waits).into_bytes(), Vec::new()]).unwrap();
        let (opened, emulator) = emulator::open(&package, Some("sm_80"), Options::default(), Sample::All).unwrap();
        let layer = Layer::on(&package, opened).unwrap();
        let device = layer.device();
        let [x, y, workspace] = [[1; 32]; 3].map(|bytes| Region::of(device, &bytes).unwrap());
        for (early, given) in steps {
            let [from, to] = given.map(|(buffer, at, bytes)| {
                let region = match buffer {
                    0 => &x,
                    4 => &y,
                    _ => &workspace,
                };
                Argument::Memory { buffer, address: region.address() + at, bytes }
            });
            let start = Start { kernel: 0, blocks: 1, early: *early, working: None };
            device.launch(start, &[from, to, Argument::I32(4), Argument::I64(1)]).unwrap();
        }
        let launches = emulator.take_launches();
        let kinds = launches.iter().flat_map(|launch| &launch.report.findings).map(|finding| finding.kind);
        kinds.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    let (x, y, tmp, counts) = ((0, 0, 16), (4, 0, 16), (2, 0, 16), (3, 0, 16));
    let race = vec![FindingKind::EarlyAccess];
    for early in [false, true] {
        let cases: [(&str, &[(bool, _)], bool); 5] = [
            ("over what is written", &[(false, [x, tmp]), (early, [x, counts])], true),
            ("over what is read", &[(false, [x, tmp]), (false, [tmp, y]), (early, [x, counts])], true),
            ("over a part of it", &[(false, [x, (2, 4, 16)]), (early, [x, (3, 16, 16)])], true),
            ("as a third buffer", &[(false, [x, (2, 0, 32)]), (early, [x, (3, 16, 16)]), (early, [x, tmp])], true),
            ("beside it", &[(false, [x, (2, 0, 32)]), (early, [x, (3, 16, 16)])], false),
        ];
        for (what, steps, is_race) in cases {
            assert_eq!(found(true, steps), [], "{what}: behind the wait");
            let expected = if early && is_race { race.clone() } else { Vec::new() };
            assert_eq!(found(false, steps), expected, "{what}, early: {early}");
        }
    }
}

/// The second kernel of the fixture reads what the first one writes, and does not wait for it.
#[test]
fn an_early_launch_that_does_not_wait_is_found() {
    for early in [false, true] {
        let mut manifest = fixture::manifest();
        manifest.targets[0].regimes[1].launches[1].early = early;
        let package = Package::new(manifest, vec![PTX.replace("{first}", "0").into_bytes(), Vec::new()]).unwrap();
        let (opened, emulator) = emulator::open(&package, None, Options::default(), Sample::All).unwrap();
        let bound = Layer::on(&package, opened).unwrap().bind(vec![w()]).unwrap();
        assert_eq!(bound.run(&[x(5)], Dims::tokens(5)).unwrap().tensor("y").unwrap(), &y(5));
        let found = emulator.take_launches().into_iter().flat_map(|launch| launch.report.findings);
        let kinds: std::collections::BTreeSet<_> = found.map(|finding| finding.kind).collect();
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), if early { vec![FindingKind::EarlyAccess] } else { vec![] });
    }
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let (_, layer) = open("0", Sample::All);
    let device = layer.device();
    let region = Region::of(device, &[1, 2, 3, 4]).unwrap();
    let mut two = [0; 2];
    region.copy_out(1, &mut two).unwrap();
    assert_eq!(two, [2, 3]);
    let beyond = Argument::Memory { buffer: 0, address: region.address(), bytes: 5 };
    assert!(
        device
            .launch(
                Start { kernel: 0, blocks: 1, early: false, working: None },
                &[beyond, beyond, Argument::I32(4), Argument::I64(1)]
            )
            .is_err()
    );
    assert!(device.copy_in(region.address() + 3, &[0; 2]).is_err());
    let address = region.address();
    drop(region);
    assert!(device.copy_out(address, &mut two).is_err());
    let unknown = emulator::open(&fixture::package(&[]), Some("sm_70"), Options::default(), Sample::All);
    assert_eq!(unknown.unwrap_err().code(), "RT0403");
}
