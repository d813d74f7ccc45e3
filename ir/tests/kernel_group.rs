//! What copies of boxes and products of four warps do, against results worked out by hand, and what they leave undefined.

use moec_ir::Machine;
use moec_ir::kernel::parse::parse_kernel;
use moec_ir::kernel::{Argument, Fault, Memory, Tensor, interp_kernel};

fn run(text: &str, args: &[Argument], memory: &mut [Memory]) -> Result<(), Fault> {
    let kernel = parse_kernel(text).unwrap_or_else(|error| panic!("{error}"));
    interp_kernel(&kernel, &Machine::named("sm_90a").unwrap(), 1, args, memory)
}

fn ints(xs: &[i32]) -> Memory {
    Memory::from(xs.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

fn boxed(corner: &str, between: &str) -> Result<Memory, String> {
    let text = format!(
        "kernel @box(%x: map i32[1, 2, 8] swizzle 32, %y: *mut i32) threads 32 {{
           shared %tile: i32[64] align 256
           mbarrier %full arrivals 33 stages 1
           if thread == 0 {{
             arrive %full[0] bytes 64
             tile_copy %tile[0] = %x[{corner}] on %full[0]
           }}
           {between}
           arrive %full[0]
           wait %full[0] phase 0
           if thread < 16 {{
             load %v: i32 = %tile[thread]
             store %y[thread] = %v
           }}
         }}"
    );
    let mut memory = [ints(&(0..40).collect::<Vec<i32>>()), ints(&[0; 16])];
    let args = [Argument::TensorMap(0, Tensor { extents: [1, 3, 10], strides: [0, 12] }), Argument::Buffer(1)];
    run(&text, &args, &mut memory).map(|()| memory[1].clone()).map_err(|fault| fault.message)
}

/// Rows of 12 elements, of which 10 are the tensor's: row 2 of it begins with 24, and there is no row 3. Lines of 128 bytes do not
/// end in the first 4 rows of a box, so that its parts stay where they are.
#[test]
fn a_box_is_filled_up_with_zeros() {
    let expected = [27, 28, 29, 30, 31, 32, 33, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(boxed("0, 2, 3", ""), Ok(ints(&expected)));
    assert_eq!(boxed("0, -1, -4", ""), Ok(ints(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3])));
}

#[test]
fn what_a_box_leaves_undefined_is_a_fault() {
    let fault = |between: &str| boxed("0, 0, 0", between).unwrap_err();
    let early = "block 0: thread 0, element 0: touches memory that a copy under way will write: it is not waited for";
    assert_eq!(fault("load %early: i32 = %tile[thread]"), early);
    let again = "if thread == 0 { tile_copy %tile[thread] = %x[0, 0, 0] on %full[0] }";
    assert_eq!(
        fault(again),
        "block 0: thread 0, to element 0: touches memory that a copy under way will write: it is not waited for"
    );
    let off = "if thread == 1 { tile_copy %tile[thread * 8] = %x[0, 0, 0] on %full[0] }";
    assert_eq!(fault(off), "block 0: thread 1, to element 8: byte 32 is not at a multiple of 256");
    let beyond = "if thread == 2 { tile_copy %tile[thread * 64] = %x[0, 0, 0] on %full[0] }";
    assert_eq!(fault(beyond), "block 0: thread 2, to element 128: outside an array of 64 elements");
}

#[test]
fn a_tensor_lies_inside_its_memory() {
    let text = "kernel @k(%x: map i32[1, 2, 8]) threads 32 { }";
    let fault = |tensor: Tensor| run(text, &[Argument::TensorMap(0, tensor)], &mut [ints(&[0; 40])]).unwrap_err().message;
    let beyond = Tensor { extents: [1, 4, 10], strides: [0, 12] };
    assert_eq!(fault(beyond), "%x: the last element of the tensor is 45, and the buffer has 40");
    assert_eq!(
        run(text, &[Argument::Buffer(0)], &mut [ints(&[0])]).unwrap_err().message,
        "the arguments do not fit the parameters"
    );
}

/// Sums of a product of a matrix that has `r` at (r, 0) and 1 at (r, 1), 64 rows, by one that has column c + 1 at k = 0 and 100 at 1:
/// `r (c + 1) + 100`.
fn product(middle: &str, after: &str) -> Result<Memory, String> {
    let text = format!(
        "kernel @product(%y: *mut f32) threads 128 {{
           shared %a: bf16[1024] align 128
           shared %b: bf16[256] align 128
           registers %sums: f32[4]
           registers %more: f32[8]
           store %sums[0] = splat(0.0, 4)
           store %more[0] = splat(0.0, 8)
           for %i: i32 in thread..1024 step 128 {{
             let %row: f32 = f32(%i / 8 % 64)
             store %a[%i] = bf16(select((%i < 512) & (%i % 8 < 2), select(%i % 8 == 0, %row, 1.0), 0.0))
           }}
           let %column: f32 = f32(thread / 8 % 8 + 1)
           store %b[thread] = bf16(select((thread < 64) & (thread % 8 < 2), select(thread % 8 == 0, %column, 100.0), 0.0))
           {middle}
           group_mma m64n8k16 %sums[0] += %a[0] lines 64 * %b[0] lines 8
           {after}
           load %v: f32x4 = %sums[0]
           let %at: i32 = (thread / 32 * 16 + thread % 32 / 4) * 8 + thread % 4 * 2
           store %y[%at] = lane(%v, 0)
           store %y[%at + 1] = lane(%v, 1)
           store %y[%at + 64] = lane(%v, 2)
           store %y[%at + 65] = lane(%v, 3)
         }}"
    );
    let mut memory = [Memory::unknown(2048)];
    run(&text, &[Argument::Buffer(0)], &mut memory).map(|()| memory[0].clone()).map_err(|fault| fault.message)
}

#[test]
fn four_warps_multiply() {
    let sums: Vec<u8> = (0..512).flat_map(|i| ((i / 8 * (i % 8 + 1) + 100) as f32).to_le_bytes()).collect();
    assert_eq!(product("fence", "wait products 0"), Ok(Memory::from(sums.clone())));
    // The second product is under way with the first, and waits with it; the sums are doubled.
    let twice = "group_mma m64n8k16 %sums[0] += %a[0] lines 64 * %b[0] lines 8";
    let doubled: Vec<u8> = (0..512).flat_map(|i| ((i / 8 * (i % 8 + 1) + 100) as f32 * 2.0).to_le_bytes()).collect();
    assert_eq!(product("fence", &format!("{twice} wait products 1 wait products 0")), Ok(Memory::from(doubled)));
}

#[test]
fn what_products_leave_undefined_is_a_fault() {
    let fault = |middle: &str, after: &str| product(middle, after).unwrap_err();
    let warps = "block 0: the warps from thread 0 on: ";
    assert_eq!(fault("", "wait products 0"), format!("{warps}byte 0 of a factor was stored, with no fence since"));
    let early = "block 0: thread 0, element 0: touches sums of a product under way: it is not waited for";
    assert_eq!(fault("fence", ""), early);
    assert_eq!(fault("fence", "wait products 1"), early);
    let change = "block 0: thread 0, element 0: changes what a product or a store under way reads: it is not waited for";
    assert_eq!(fault("fence", "store %b[thread] = bf16(0.0)"), change);
    let second = "group_mma m64n8k16 %more[0] += %a[0] lines 64 * %b[0] lines 8";
    let third = second.replace("%more[0]", "%more[2]");
    assert_eq!(
        fault("fence", &format!("{second} {third}")),
        format!("{warps}some of the sums are those of another product under way")
    );
    // The sums are known again, the last product is not.
    assert_eq!(fault("fence", &format!("{second} wait products 1")), "block 0: a product or a store under way is not waited for");
    let off = second.replace("%b[0]", "%b[block * 8 + 8]");
    assert_eq!(fault("fence", &off), format!("{warps}the factor from element 8 on: byte 16 is not at a multiple of 128"));
    let beyond = second.replace("%more[0]", "%sums[0]").replace("%a[0]", "%a[block * 64 + 64]");
    assert_eq!(fault("fence", &beyond), format!("{warps}the factor from element 64 on: outside an array of 1024 elements"));
}

/// Lane 4 r + c / 2 has the elements of row r in columns c and c + 1, or of column r in rows c and c + 1: PTX ISA 9.7.14.5.16.
#[test]
fn matrices_are_stored_by_fragments() {
    for (transposed, place) in
        [("", |i: usize| (i / 8, i % 8)), (" transposed", |i: usize| (i % 8, i / 8))] as [(&str, fn(usize) -> (usize, usize)); 2]
    {
        let text = format!(
            "kernel @stores(%y: *mut f32) threads 32 {{
               shared %t: bf16[128]
               let %x: f32 = f32(thread)
               store_matrix %t[thread % 16 * 8] = (bf16(splat(%x, 2)), bf16(splat(%x + 64.0, 2))){transposed}
               for %i: i32 in thread..128 step 32 {{
                 load %v: bf16 = %t[%i]
                 store %y[%i] = f32(%v)
               }}
             }}"
        );
        let mut memory = [Memory::unknown(512)];
        run(&text, &[Argument::Buffer(0)], &mut memory).unwrap();
        let expected = (0..128).flat_map(|i| {
            let (row, column) = place(i % 64);
            ((4 * row + column / 2 + i / 64 * 64) as f32).to_le_bytes()
        });
        assert_eq!(memory[0], Memory::from(expected.collect::<Vec<u8>>()), "{transposed}");
    }
}

/// The one arrival more that the phase needs, and the wait for it.
const WAIT: &str = "if thread == 0 { arrive %full[0] } wait %full[0] phase 0";

/// Copies of threads that a phase waits for.
fn bound(wait: &str, fence: &str) -> Result<Memory, String> {
    let text = format!(
        "kernel @bound(%x: *bf16, %y: *mut f32) threads 128 {{
           shared %a: bf16[1024] align 128
           shared %b: bf16[128] align 128
           registers %sums: f32[4]
           mbarrier %full arrivals 129 stages 1
           store %sums[0] = splat(0.0, 4)
           copy %a[thread * 8] = %x[thread * 8] bytes 16
           if thread < 16 {{
             copy %b[thread * 8] = %x[thread * 8] bytes 16
           }}
           arrive %full[0] copied
           {wait}
           {fence}
           group_mma m64n8k16 %sums[0] += %a[0] lines 64 * %b[0] lines 8
           wait products 0
           load %v: f32 = %sums[0]
           store %y[thread] = %v
         }}"
    );
    let x: Vec<u8> = (0..1024).flat_map(|_| [0x80, 0x3f]).collect();
    let mut memory = [Memory::from(x), Memory::unknown(512)];
    run(&text, &[Argument::Buffer(0), Argument::Buffer(1)], &mut memory)
        .map(|()| memory[1].clone())
        .map_err(|fault| fault.message)
}

/// All elements are one, so that each sum is 16.
#[test]
fn a_phase_waits_for_the_copies_of_threads() {
    let sixteen: Vec<u8> = (0..128).flat_map(|_| 16f32.to_le_bytes()).collect();
    assert_eq!(bound(WAIT, "fence"), Ok(Memory::from(sixteen)));
    let warps = "block 0: the warps from thread 0 on: ";
    assert_eq!(bound(WAIT, ""), Err(format!("{warps}byte 0 of a factor was stored, with no fence since")));
    // They belong to the phase: groups have none of them.
    let early = format!("{warps}touches memory that a copy under way will write: it is not waited for");
    assert_eq!(bound("wait groups 0", "fence"), Err(early));
}
