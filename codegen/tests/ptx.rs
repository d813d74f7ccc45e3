//! Kernels compiled to PTX: what the text says, and that NVIDIA's assembler takes it where it is found.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use crate::small_kernels::*;
use crate::three_ways::read;
use crate::three_ways_group::product;
use crate::three_ways_tiles::boxes;
use moec_codegen::{Image, Options, Ptxas, codegen};
use moec_ir::kernel::{Kernel, Swizzle};
use moec_ir::{DType, Machine, MatrixShape};

/// A kernel of each kind of effect.
fn kernels() -> Vec<Kernel> {
    let effects = [vector_add(4, 128), block_sum(256), warp_argmax(), histogram(128)];
    let values = [float_ops(), conversions(), fused(), gemm_tile(), asks_for_memory()];
    effects.into_iter().chain(values).chain(matrix_products()).collect()
}

/// Every type of element and every shape.
fn matrix_products() -> impl Iterator<Item = Kernel> {
    let shapes = |elem| MatrixShape::ALL.map(|shape| matrix_product(elem, shape));
    let of_f32 = matrix_product(DType::F32, MatrixShape::M16N8K8);
    [DType::BF16, DType::F16].into_iter().flat_map(shapes).chain([of_f32])
}

fn ptx(kernel: Kernel, gpu: &moec_ir::Machine) -> String {
    let objects = codegen(&program(vec![kernel]), gpu, &Options::default()).unwrap();
    match &objects[..] {
        [object] => match &object.image {
            Image::Ptx(text) => text.clone(),
            other => panic!("PTX, not {other:?}"),
        },
        others => panic!("one object, not {others:?}"),
    }
}

/// How many lines contain each of these.
fn counts<const N: usize>(text: &str, words: [&str; N]) -> [usize; N] {
    words.map(|word| text.lines().filter(|line| line.contains(word)).count())
}

#[test]
fn the_head_of_the_text() {
    let versions = ["7.0", "7.1", "7.8", "8.0", "8.6", "8.7"];
    for (gpu, version) in gpus().iter().zip(versions) {
        let text = ptx(block_sum(256), gpu);
        let head = [&format!(".version {version}\n"), &format!(".target {}\n", gpu.name), ".address_size 64", ".maxntid 256\n"];
        assert!(head.iter().all(|h| text.contains(*h)), "{}: {text}", gpu.name);
        assert!(!text.contains('\0'));
        let want = [1, 2, 1, 1];
        assert_eq!(counts(&text, [".visible .entry test_block_sum(", ".ptr .global", ".shared .align 16", "[1024]"]), want);
    }
}

#[test]
fn arithmetic_is_rounded_as_written() {
    for gpu in gpus() {
        let text = ptx(float_ops(), &gpu);
        assert_eq!(
            counts(&text, ["mul.rn.f32", "add.rn.f32", "sub.rn.f32", "div.rn.f32", "sqrt.rn.f32"]),
            [2, 1, 1, 1, 1],
            "{text}"
        );
        assert_eq!(counts(&text, ["ftz", "approx", "fma", "mad.f32", "mad.rn", "contract"]), [0; 6], "{text}");
        let fused = ptx(fused(), &gpu);
        assert_eq!(counts(&fused, ["fma.rn.f32", "mul.rn.f32", "add.rn.f32", "ftz"]), [1, 0, 0, 0], "{fused}");
    }
}

#[test]
fn a_tile_stays_in_registers() {
    for gpu in gpus() {
        let text = ptx(gemm_tile(), &gpu);
        let words = ["fma.rn.f32", "ld.shared.v", "st.shared.v", "ld.global.nc.v", "st.global.v", ".local", ".func"];
        let [fma, rest @ ..] = counts(&text, words);
        // Where two lanes fit in one instruction there are half as many.
        assert!(fma == 16 * 16 || fma == 16 * 8, "{}: {fma}", gpu.name);
        assert_eq!(rest, [32, 1, 2, 4, 0, 0], "{}: {text}", gpu.name);
    }
}

#[test]
fn lanes_and_threads_talk() {
    for gpu in gpus() {
        let text = ptx(warp_argmax(), &gpu);
        let words = ["shfl.sync.bfly.b32", "vote.sync.any", "vote.sync.all", "vote.sync.ballot", "bar.warp.sync"];
        assert_eq!(counts(&text, words), [10, 1, 1, 1, 1], "{text}");
        assert_eq!(counts(&text, ["redux.sync.max.s32", "redux.sync.min.s32"]), [1, 1], "{text}");
        // Eight halvings and the end; the input is only read.
        let text = ptx(block_sum(256), &gpu);
        let barriers = counts(&text, ["bar.sync", "barrier.sync"]).iter().sum::<usize>();
        assert_eq!((barriers, counts(&text, ["ld.global.nc", "st.global"])), (9, [1, 1]), "{text}");
        let text = ptx(histogram(128), &gpu);
        // Without a scope they are those of the GPU, PTX ISA 9.7.13.5.
        let atomics = counts(&text, ["atom.global.add.u32", "atom.shared.add.u32", ".sys"]);
        assert_eq!(atomics, [1, 1, 0], "{text}");
    }
}

/// Some threads meet, and some come to a barrier and go on; registers are given to four warps at a time.
#[test]
fn some_threads_of_a_block_meet() {
    let text = |registers: [&str; 2]| {
        let [few, many] = registers;
        format!(
            "kernel @some(%y: *mut i32) threads 256 {{
               roles warps 0..4{few} {{
                 barrier threads 128 id 1
                 barrier_arrive threads 256 id 2
               }} and warps 4..8{many} {{
                 barrier threads 256 id 2
               }}
               store %y[thread] = 1
             }}"
        )
    };
    for gpu in gpus() {
        let registers = if gpu.role_registers { [" registers 24", " registers 240"] } else { [""; 2] };
        let text = ptx(read(&text(registers)), &gpu);
        let words = ["bar.sync \t1, 128;", "bar.sync \t2, 256;", "bar.arrive \t2, 256;", "setmaxnreg.dec.sync.aligned.u32"];
        assert_eq!(counts(&text, words), [1, 1, 1, 2 * usize::from(gpu.role_registers)], "{}: {text}", gpu.name);
    }
}

#[test]
fn matrices_are_multiplied_by_whole_warps() {
    for gpu in gpus() {
        for (kernel, copies) in
            matrix_products().zip([["cp.async.ca", "cp.async.ca"], ["cp.async.ca", "cp.async.cg"]].into_iter().cycle())
        {
            let text = ptx(kernel.clone(), &gpu);
            assert_eq!(copies.map(|copy| text.contains(copy)), [true; 2], "{text}");
            let words =
                ["shared.global [", "cp.async.commit_group", "cp.async.wait_group", "ldmatrix.sync.aligned", "mma.sync.aligned"];
            assert_eq!(counts(&text, words), [2, 2, 2, 2, 1], "{text}");
            let of_tf32 = 4 * usize::from(kernel.name.contains("f32"));
            let words = ["cvt.rna.tf32.f32", "m16n8k8.row.col.f32.tf32.tf32.f32"];
            assert_eq!(counts(&text, words), [of_tf32, of_tf32 / 4], "{text}");
            // Before the first branch that only some lanes take.
            assert!(text.find("mma.sync").unwrap() < text.find("bra").or(text.find("st.global")).unwrap(), "{text}");
        }
        let text = ptx(asks_for_memory(), &gpu);
        assert_eq!(counts(&text, [".extern .shared .align 128 .b8 test_asks_dynamic[]", ".shared"])[0], 1, "{text}");
    }
}

/// A map is copied from where it lies among the parameters, and its box by one instruction.
#[test]
fn boxes_are_copied_by_maps() {
    for gpu in gpus().into_iter().filter(|gpu| gpu.tensor_maps) {
        let text = ptx(read(&boxes(Swizzle::Bytes128, 128)), &gpu);
        let words = [
            ".param .align 64 .b8 test_boxes_param_0[128]",
            "cp.async.bulk.tensor.3d.shared::",
            "cvta.param",
            ".local",
            "ld.param.b8",
        ];
        assert_eq!(counts(&text, words), [1, 1, 1, 0, 0], "{text}");
        assert_eq!(text.contains("shared::cluster.global"), gpu.name == "sm_90a", "{text}");
    }
}

/// The instructions of a product stand together, and its sums stay in registers.
#[test]
fn four_warps_multiply_at_once() {
    for gpu in gpus().into_iter().filter(Machine::has_groups) {
        let text = ptx(read(&product(24, 80, Swizzle::Bytes64, [false, true])), &gpu);
        let words =
            ["wgmma.fence", "m64n24k16.f32.bf16.bf16", "p, 1, 1, 0, 1;", "wgmma.commit_group", "wgmma.wait_group", ".local"];
        assert_eq!(counts(&text, words), [1, 5, 5, 1, 1, 0], "{text}");
        let between = text.split_once("wgmma.fence").unwrap().1.split_once("wgmma.commit_group").unwrap().0;
        assert_eq!(between.matches(';').count(), 6, "{between}");
    }
}

#[test]
fn wide_accesses_are_wide() {
    for gpu in gpus() {
        let text = ptx(conversions(), &gpu);
        let words =
            ["ld.global.nc.v4.b32", "st.global.v4.b32", "cvt.f32.f16", "cvt.rn.f16x2.f32", "cvt.rn.bf16x2.f32", "cvt.rzi"];
        assert_eq!(counts(&text, words), [2, 2, 8, 4, 4, 1], "{text}");
        assert_eq!(counts(&text, ["cvt.f32.bf16"]), [0], "{text}");
    }
}

#[test]
fn the_same_bytes_from_any_thread() {
    let machines = gpus().into_iter().chain(hosts());
    for machine in machines {
        let kernels = || if machine.is_gpu() { kernels() } else { vec![vector_add(16, 1), gemm_row(32), histogram(1)] };
        let compile = || codegen(&program(kernels()), &machine, &Options::default()).unwrap();
        let alone = compile();
        let together: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(compile)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(together.iter().all(|t| *t == alone), "{}", machine.name);
    }
}

#[test]
fn ptxas_takes_it() {
    let Some(ptxas) = Ptxas::find() else { return skipped("ptxas_takes_it", "no ptxas was found") };
    assert!(ptxas.version().unwrap().starts_with(|c: char| c.is_ascii_digit()));
    let options = Options { ptxas: Some(ptxas) };
    for gpu in gpus() {
        verified(&program(kernels()), &gpu);
        let objects = codegen(&program(kernels()), &gpu, &options).unwrap();
        let [text, cubin] = &objects[..] else { panic!("PTX and a cubin") };
        assert!(matches!((&text.image, &cubin.image), (Image::Ptx(_), Image::Cubin(b)) if b.starts_with(b"\x7fELF")));
        assert_eq!(cubin.warnings, [""; 0], "{}", gpu.name);
        assert_eq!(cubin.kernels.len(), kernels().len());
        for (kernel, source) in cubin.kernels.iter().zip(kernels()) {
            let usage = kernel.usage.unwrap();
            // One block has the 65536 registers of a processor to itself.
            assert!(usage.registers > 0 && usage.registers * source.threads <= 65536, "{kernel:?}");
            assert_eq!((usage.spill_stores, usage.spill_loads, usage.stack_bytes), (0, 0, 0), "{kernel:?}");
            assert!(u64::from(usage.shared_bytes) >= kernel.shared_bytes, "{kernel:?}");
        }
        assert_eq!(codegen(&program(kernels()), &gpu, &options).unwrap(), objects, "{}", gpu.name);
    }
}

#[test]
fn ptxas_is_quoted_when_it_refuses() {
    let Some(ptxas) = Ptxas::find() else { return skipped("ptxas_is_quoted_when_it_refuses", "no ptxas was found") };
    let broken = moec_codegen::Object {
        target: "sm_80".to_string(),
        image: Image::Ptx(".version 7.0\n.target sm_80\nnonsense\n".to_string()),
        kernels: Vec::new(),
        warnings: Vec::new(),
    };
    let error = ptxas.assemble(&broken).unwrap_err();
    assert!(error.to_string().contains("nonsense") && !error.is_environment(), "{error}");
}
