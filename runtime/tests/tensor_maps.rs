//! Tensor maps of a manifest, as the emulator's device is given them, and what a plan refuses of them.
#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used)]

use crate::fixture::{HIDDEN, manifest, target, w, x, y};
use moec_runtime::emulator::{self, Options, Sample};
use moec_runtime::package::{Arg, DType, Extent, Manifest, ParamKind, Swizzle, TargetKind, TensorMap, View, read};
use moec_runtime::{Dims, Layer, Package};

/// The fixture's layer, whose first kernel has thread 0 bring the block's row by a tensor map.
const PTX: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry double_it(.param .align 64 .b8 x[128], .param .u64 tmp, .param .u32 hidden, .param .u64 tokens)
{
    .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .f32 %f<4>;
    .shared .align 128 .b8 row[16];
    .shared .align 8 .b8 full[8];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, row; mov.u32 %r4, full; mov.u32 %r5, 0;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra begun;
    mbarrier.init.shared::cta.b64 [%r4], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 %rd1, [%r4], 16;
    mov.b64 %rd2, x;
    cvta.param.u64 %rd3, %rd2;
    cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r3], [%rd3, {%r5, %r2, %r5}], [%r4];
begun:
    bar.sync 0;
full_wait:
    mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r4], 0;
    @!%p2 bra full_wait;
    setp.ge.u32 %p3, %r1, 4;
    @%p3 ret;
    shl.b32 %r6, %r1, 2;
    add.u32 %r7, %r3, %r6;
    ld.shared.f32 %f1, [%r7];
    add.f32 %f2, %f1, %f1;
    mad.lo.u32 %r6, %r2, 4, %r1;
    mul.wide.u32 %rd4, %r6, 4;
    ld.param.u64 %rd5, [tmp];
    add.u64 %rd6, %rd5, %rd4;
    st.global.f32 [%rd6], %f2;
    ret;
}
";

/// The rows of `x` as a tensor.
fn view() -> View {
    let width = Extent::Const(HIDDEN as i64);
    View { buffer: 0, extents: [Extent::Const(1), Extent::Tokens, width.clone()], strides: [Extent::Const(0), width] }
}

fn with(view: View) -> Manifest {
    let mut manifest = manifest();
    let mut gpu = target("sm_90a", TargetKind::Gpu, 0);
    let tile = [1, 1, HIDDEN as u32];
    gpu.kernels[0].params[0].kind = ParamKind::TensorMap(TensorMap { dtype: DType::F32, tile, swizzle: Swizzle::None });
    gpu.regimes.iter_mut().for_each(|regime| regime.launches[0].args[0] = Arg::TensorMap(view.clone()));
    manifest.targets[0] = gpu;
    manifest
}

fn images() -> Vec<Vec<u8>> {
    let (_, add_it) = crate::emulator::PTX.split_once(".visible .entry add_it").unwrap();
    vec![format!("{PTX}.visible .entry add_it{}", add_it.replace("{first}", "0")).into_bytes(), Vec::new()]
}

fn open(view: View) -> (std::sync::Arc<emulator::Emulator>, Layer) {
    let package = Package::new(with(view), images()).unwrap();
    let again = read(&package.to_bytes().unwrap()).unwrap();
    assert_eq!(again.manifest(), package.manifest());
    let (opened, emulator) = emulator::open(&package, None, Options::default(), Sample::All).unwrap();
    (emulator, Layer::on(&package, opened).unwrap())
}

#[test]
fn rows_come_by_a_tensor_map() {
    let (emulator, layer) = open(view());
    let run = layer.bind(vec![w()]).unwrap().run(&[x(5)], Dims::tokens(5)).unwrap();
    let launches = emulator.take_launches();
    assert!(launches.iter().all(|launch| launch.report.clean()), "{launches:?}");
    assert_eq!(run.tensor("y").unwrap(), &y(5));
}

/// What the driver would refuse, or what leaves the buffer, is an error before the first launch.
#[test]
fn a_plan_refuses_a_tensor_that_is_none() {
    let error = |view: View| open(view).1.plan(Dims::tokens(5)).unwrap_err();
    let why = |change: fn(&mut View)| {
        let mut changed = view();
        change(&mut changed);
        let error = error(changed);
        assert_eq!(error.code(), "RT0311");
        error.to_string()
    };
    assert!(why(|view| view.extents[0] = Extent::Const(0)).contains("an extent of argument 0 is 0"));
    assert!(why(|view| view.strides[1] = Extent::Const(2)).contains("a stride in bytes of argument 0 is 8"));
    assert!(why(|view| view.strides[0] = Extent::Const(1 << 38)).contains("a stride in bytes of argument 0 is 1099511627776"));
    // Two outer indices of 5 rows of 16 bytes, a row apart: one row too many.
    let beyond = |view: &mut View| (view.extents[0], view.strides[0]) = (Extent::Const(2), Extent::Const(4));
    assert!(why(beyond).contains("the last byte of argument 0 is 96"));
}

#[test]
fn manifests_are_held_to_the_drivers_rules() {
    let check = |expected: &str, change: fn(&mut Manifest)| {
        let mut manifest = with(view());
        change(&mut manifest);
        let error = Package::new(manifest, images()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    fn map(of: &mut Manifest) -> &mut TensorMap {
        match &mut of.targets[0].kernels[0].params[0].kind {
            ParamKind::TensorMap(map) => map,
            other => panic!("{other:?}"),
        }
    }
    check("kernel `double_it`: boxes of [1, 257, 4]", |m| map(m).tile[1] = 257);
    check("kernel `double_it`: rows of a box have 8 bytes", |m| map(m).tile[2] = 2);
    check("kernel `double_it`: rows of a box have 16 bytes", |m| map(m).swizzle = Swizzle::Bytes32);
    check("argument 0 of a launch of `double_it`", |m| map(m).dtype = DType::I32);
    check("argument 0 of a launch of `double_it`", |m| m.targets[0].kernels[0].params[0].kind = ParamKind::Pointer);
    check("argument 1 of a launch of `double_it`", |m| {
        m.targets[0].regimes[0].launches[0].args[1] = Arg::TensorMap(view());
    });
    check("kernel `double_it` of the host takes a tensor map", |m| {
        m.targets[1].kernels[0].params[0] = m.targets[0].kernels[0].params[0].clone();
    });
}
