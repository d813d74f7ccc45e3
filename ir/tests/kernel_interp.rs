//! What kernels compute, against results worked out by hand.

use moec_ir::Machine;
use moec_ir::kernel::parse::parse_kernel;
use moec_ir::kernel::{Argument, Fault, Memory, interp_kernel};

pub(super) fn machine(name: &str) -> Machine {
    Machine::named(name).unwrap_or_else(|| panic!("no machine {name}"))
}

pub(super) fn floats(xs: &[f32]) -> Memory {
    Memory::from(xs.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

pub(super) fn ints(xs: &[i32]) -> Memory {
    Memory::from(xs.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

fn longs(xs: &[i64]) -> Memory {
    Memory::from(xs.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

/// Runs a kernel whose parameters are the memories, in order.
pub(super) fn run(name: &str, blocks: u64, memory: &mut [Memory], text: &str) -> Result<(), Fault> {
    let kernel = parse_kernel(text).unwrap_or_else(|error| panic!("{error}"));
    let args: Vec<Argument> = (0..memory.len()).map(Argument::Buffer).collect();
    interp_kernel(&kernel, &machine(name), blocks, &args, memory)
}

/// Runs it and compares the last memory.
pub(super) fn check(name: &str, blocks: u64, mut memory: Vec<Memory>, expected: Memory, text: &str) {
    run(name, blocks, &mut memory, text).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(memory.pop(), Some(expected));
}

#[test]
fn vectors_add() {
    let (a, b): (Vec<f32>, Vec<f32>) = (0..70).map(|i| (i as f32, i as f32 / 4.0)).unzip();
    let sums: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    check(
        "sm_80",
        3,
        vec![floats(&a), floats(&b), floats(&[0.0; 70])],
        floats(&sums),
        "kernel @add(%a: *f32, %b: *f32, %y: *mut f32) threads 32 {
           let %i: i32 = block * 32 + thread
           if %i < 70 {
             load %a.1: f32 = %a[%i]
             load %b.1: f32 = %b[%i]
             store %y[%i] = %a.1 + %b.1
           }
         }",
    );
}

#[test]
fn a_block_sums_by_halves() {
    let x: Vec<f32> = (0..128).map(|i| i as f32).collect();
    check(
        "sm_90a",
        2,
        vec![floats(&x), Memory::unknown(8)],
        floats(&[2016.0, 6112.0]),
        "kernel @sum(%x: *f32, %y: *mut f32) threads 64 {
           shared %tile: f32[64]
           load %mine: f32 = %x[block * 64 + thread]
           store %tile[thread] = %mine
           var %half: i32 = 32
           for %step: i32 in 0..6 {
             barrier block
             if thread < %half {
               load %a: f32 = %tile[thread]
               load %b: f32 = %tile[thread + %half]
               store %tile[thread] = %a + %b
             }
             set %half = %half >> 1
           }
           if thread == 0 {
             load %sum: f32 = %tile[0]
             store %y[block] = %sum
           }
         }",
    );
}

#[test]
fn a_warp_finds_its_greatest_and_the_first_place_of_it() {
    let mut x: Vec<f32> = (0..64).map(|i| (i * 37 % 32) as f32).collect();
    x[9] = 50.0;
    x[21] = 50.0;
    let second = 32 + (32..64).position(|i| i * 37 % 32 == 31).unwrap() as i32;
    check(
        "sm_80",
        1,
        vec![floats(&x), Memory::unknown(8)],
        ints(&[9, second]),
        "kernel @argmax(%x: *f32, %y: *mut i32) threads 64 {
           load %mine: f32 = %x[thread]
           var %best: f32 = %mine
           var %place: i32 = thread
           var %mask: i32 = 16
           shuffle %o: f32 = %best mask 16
           shuffle %p: i32 = %place mask 16
           if (%o > %best) | (%o == %best) & (%p < %place) { set %best = %o  set %place = %p }
           shuffle %o.1: f32 = %best mask 8
           shuffle %p.1: i32 = %place mask 8
           if (%o.1 > %best) | (%o.1 == %best) & (%p.1 < %place) { set %best = %o.1  set %place = %p.1 }
           shuffle %o.2: f32 = %best mask 4
           shuffle %p.2: i32 = %place mask 4
           if (%o.2 > %best) | (%o.2 == %best) & (%p.2 < %place) { set %best = %o.2  set %place = %p.2 }
           shuffle %o.3: f32 = %best mask 2
           shuffle %p.3: i32 = %place mask 2
           if (%o.3 > %best) | (%o.3 == %best) & (%p.3 < %place) { set %best = %o.3  set %place = %p.3 }
           shuffle %o.4: f32 = %best mask 1
           shuffle %p.4: i32 = %place mask 1
           if (%o.4 > %best) | (%o.4 == %best) & (%p.4 < %place) { set %best = %o.4  set %place = %p.4 }
           if thread % 32 == 0 { store %y[thread / 32] = %place }
         }",
    );
}

#[test]
fn atomics_count_and_give_what_was_before() {
    check(
        "sm_80",
        3,
        vec![ints(&[0, 0, 0]), ints(&[0; 96])],
        ints(&(0..96).collect::<Vec<i32>>()),
        "kernel @count(%n: *mut i32, %y: *mut i32) threads 32 {
           atomic %n[thread % 2 + 1] += block
           atomic %ticket: i32 = %n[0] += 1
           store %y[%ticket] = block * 32 + thread
         }",
    );
    let mut memory = [ints(&[0, 0, 0])];
    let text = "kernel @count(%n: *mut i32) threads 32 {
      atomic %n[thread % 2 + 1] += block
      atomic %n[0] += 1
    }";
    run("sm_80", 3, &mut memory, text).unwrap();
    assert_eq!(memory[0], ints(&[96, 48, 48]));
}

#[test]
fn votes_are_each_warps_own() {
    check(
        "sm_80",
        1,
        vec![Memory::unknown(24)],
        ints(&[0x5555_5555, 1, 0, 3, 1, 0]),
        "kernel @vote(%y: *mut i32) threads 64 {
           let %even: bool = select(thread < 32, thread % 2 == 0, thread < 34)
           vote %b: i32 = ballot %even
           vote %any: bool = any %even
           vote %all: bool = all %even
           if thread % 32 == 7 {
             let %at: i32 = thread / 32 * 3
             store %y[%at] = %b
             store %y[%at + 1] = i32(%any)
             store %y[%at + 2] = i32(%all)
           }
         }",
    );
}

#[test]
fn a_redux_is_of_each_warp() {
    check(
        "sm_80",
        1,
        vec![Memory::unknown(16)],
        // Of (thread - 40) squared, negative where it is odd: 0 to 31, then 32 to 63.
        ints(&[1600, -1521, 484, -529]),
        "kernel @redux(%y: *mut i32) threads 64 {
           let %square: i32 = (thread - 40) * (thread - 40)
           let %x: i32 = select(thread % 2 == 0, %square, 0 - %square)
           redux %greatest: i32 = max %x
           redux %least: i32 = min %x
           if thread % 32 == 7 {
             let %at: i32 = thread / 32 * 2
             store %y[%at] = %greatest
             store %y[%at + 1] = %least
           }
         }",
    );
}

/// Each thread goes round as often as its own bounds say; the bounds are evaluated once.
#[test]
fn loops_of_different_lengths() {
    check(
        "sm_80",
        1,
        vec![Memory::unknown(128)],
        ints(&(0..32).map(|t| (t..20).step_by(3).sum::<i32>()).collect::<Vec<i32>>()),
        "kernel @loops(%y: *mut i32) threads 32 {
           var %sum: i32 = 0
           var %end: i32 = 20
           for %i: i32 in thread..%end step 3 {
             set %sum = %sum + %i
             set %end = 0
           }
           store %y[thread] = %sum
         }",
    );
}

#[test]
fn a_loop_ends_at_the_largest_number() {
    check(
        "x86-64-v3",
        1,
        vec![ints(&[0])],
        ints(&[2]),
        "kernel @end(%y: *mut i32) threads 1 {
           for %i: i32 in 2147483640..2147483647 step 6 { atomic %y[0] += 1 }
         }",
    );
}

#[test]
fn vectors_on_the_host() {
    let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
    check(
        "x86-64-v4",
        2,
        vec![floats(&x), floats(&[0.0; 8])],
        floats(&[10.0, 9.0, 22.0, 7.0, 122.0, 17.0, 86.0, 15.0]),
        "kernel @vectors(%x: *f32, %y: *mut f32) threads 1 {
           load %v: f32x8 = %x[block * 8]
           let %w: f32x8 = select(%v > splat(f32(block) * 8.0 + 2.0, 8), %v, splat(3.0, 8))
           let %most: f32 = greatest(select(%v == splat(15.0, 8), splat(9.0, 8), %v))
           store %y[block * 4] = select(block == 0, 10.0, sum(%v) + 30.0)
           store %y[block * 4 + 1] = lane(fma(%v, splat(1.0, 8), splat(2.0, 8)), 7)
           store %y[block * 4 + 2] = select(block == 0, sum(%w) - 12.0, sum(%v) - 6.0)
           store %y[block * 4 + 3] = lane(%v, 7) + select(%most == 14.0, 0.0, 0.0)
         }",
    );
}

/// A matrix of two rows [1 2 3 4] and [5 6 7 8], by columns; of four rows it is as it was.
#[test]
fn a_matrix_of_lanes_is_transposed() {
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    check(
        "x86-64-v4",
        1,
        vec![floats(&x), floats(&[0.0; 16])],
        floats(&[1.0, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
        "kernel @matrix(%x: *f32, %y: *mut f32) threads 1 {
           load %low: f32x4 = %x[0]
           load %high: f32x4 = %x[4]
           let %all: f32x8 = transpose(concat(%low, %high), 2)
           store %y[0] = %all
           store %y[8] = transpose(%all, 4)
         }",
    );
}

/// 1 is 3f800000, and 1 + 1 / 128 is 3f810000: of bf16 the upper half.
#[test]
fn lanes_of_sixteen_bits_are_halves() {
    check(
        "x86-64-v4",
        1,
        vec![floats(&[1.0, 1.0078125]), ints(&[0; 4])],
        ints(&[0x3f81_3f80, 0x3f81, 0x3f80_0000, 0x3f81_0000]),
        "kernel @halves(%x: *f32, %y: *mut i32) threads 1 {
           load %v: f32x2 = %x[0]
           let %pair: i32 = bits_i32(bf16(%v))
           store %y[0] = %pair
           store %y[1] = %pair >>> 16
           store %y[2] = bits_i32(f32(bits_bf16(%pair)))
         }",
    );
}

/// The halves are added first: ((x0 + x2) + (x1 + x3)), not from the left.
#[test]
fn a_sum_of_lanes_is_a_tree() {
    check(
        "x86-64-v4",
        1,
        vec![floats(&[1e8, 1.0, -1e8, 1.0]), Memory::unknown(4)],
        floats(&[2.0]),
        "kernel @tree(%x: *f32, %y: *mut f32) threads 1 {
           load %v: f32x4 = %x[0] align 16
           store %y[0] = sum(%v)
         }",
    );
}

#[test]
fn casts_at_their_edges() {
    let x = [f32::NAN, f32::INFINITY, -f32::INFINITY, -2.9, 3e9, -1e30, 65520.0, 1e-8];
    let text = "kernel @casts(%x: *f32, %i: *mut i32, %l: *mut i64, %h: *mut f16, %b: *mut bf16) threads 1 {
      load %v: f32 = %x[block]
      store %i[block] = i32(%v)
      store %l[block] = i64(%v)
      store %h[block] = f16(%v)
      store %b[block] = bf16(%v)
    }";
    let mut memory = [floats(&x), Memory::unknown(32), Memory::unknown(64), Memory::unknown(16), Memory::unknown(16)];
    run("x86-64-v3", 8, &mut memory, text).unwrap();
    assert_eq!(memory[1], ints(&[0, i32::MAX, i32::MIN, -2, i32::MAX, i32::MIN, 65520, 0]));
    let wide = [0, i64::MAX, i64::MIN, -2, 3_000_000_000, i64::MIN, 65520, 0];
    assert_eq!(memory[2], longs(&wide));
    let halves = |bits: [u16; 8]| Memory::from(bits.iter().flat_map(|b| b.to_le_bytes()).collect::<Vec<u8>>());
    assert_eq!(memory[3], halves([0x7e00, 0x7c00, 0xfc00, 0xc1cd, 0x7c00, 0xfc00, 0x7c00, 0]));
    assert_eq!(memory[4], halves([0x7fc0, 0x7f80, 0xff80, 0xc03a, 0x4f33, 0xf14a, 0x4780, 0x322c]));
}

#[test]
fn integers_wrap() {
    check(
        "x86-64-v3",
        1,
        vec![Memory::unknown(32)],
        ints(&[i32::MIN, i32::MAX, -2, 1, -1, -1, 0x0fff_ffff, 0]),
        "kernel @wrap(%y: *mut i32) threads 1 {
           store %y[0] = 2147483647 + 1 + block
           store %y[1] = -2147483648 - 1 + block
           store %y[2] = (2147483647 + block) * 2
           store %y[3] = i32(4294967297i64 + i64(block))
           store %y[4] = (-7 + block) / 4
           store %y[5] = (-16 + block) >> 10
           store %y[6] = (-16 + block) >>> 4
           store %y[7] = (1 + block) << 31 << 1
         }",
    );
}

#[test]
fn what_is_undefined_is_a_fault() {
    let fault = |body: &str| {
        let text = format!("kernel @fault(%x: *f32, %y: *mut f32) threads 32 {{ shared %tile: f32[8] {body} }}");
        let fault = run("sm_80", 1, &mut [floats(&[0.0; 32]), Memory::unknown(128)], &text).unwrap_err();
        fault.to_string()
    };
    for (body, expected) in [
        (
            "load %a: f32 = %x[thread + 1]",
            "block 0: thread 31, element 32: outside an array of 32 elements\n  in `load %a: f32 = %x[thread + 1]`",
        ),
        (
            "if thread == 3 { store %y[thread - 4] = 1.0 }",
            "block 0: thread 3, element -1: outside an array of 32 elements\n  in `store %y[thread - 4] = 1.0`",
        ),
        (
            "load %a: f32x4 = %x[29 + thread]",
            "block 0: thread 0, element 29: outside an array of 32 elements\n  in `load %a: f32x4 = %x[29 + thread]`",
        ),
        (
            "load %a: f32x2 = %x[thread] align 8",
            "block 0: thread 1, element 1: byte 4 is not at a multiple of 8\n  in `load %a: f32x2 = %x[thread] align 8`",
        ),
        (
            "load %a: f32 = %tile[0]",
            "block 0: thread 0, element 0: reads memory that is not written\n  in `load %a: f32 = %tile[0]`",
        ),
        ("load %a: f32 = %y[0]", "block 0: thread 0, element 0: reads memory that is not written\n  in `load %a: f32 = %y[0]`"),
        ("let %a: i32 = 1 / (thread - 3)", "block 0: division by zero\n  in `let %a: i32 = 1 / (thread - 3)`"),
        ("let %a: i32 = (-2147483648 + block) / (-1 + block)", "block 0: the quotient overflows\n  in"),
        ("let %a: i32 = 1 << thread + 1", "block 0: a shift by more bits than there are\n  in `let %a: i32 = 1 << thread + 1`"),
        ("for %i: i32 in 0..3 step block { }", "block 0: the step is not positive\n  in `for %i: i32 in 0..3 step block {`"),
        ("let %a: i32 = 1.0", "f32 for a local of type i32\n  in `let %a: i32 = 1.0`"),
    ] {
        let found = fault(body);
        assert!(found.starts_with(expected), "{body}: {found}");
    }
}

/// Two blocks of a role each, which go on from where they waited.
#[test]
fn roles_hand_over_to_each_other() {
    check(
        "sm_90a",
        1,
        vec![ints(&[5, 6, 7]), Memory::unknown(128)],
        ints(&(0..32).map(|t| 567 + t).collect::<Vec<i32>>()),
        "kernel @hand(%x: *i32, %y: *mut i32) threads 64 {
           shared %slot: i32[1]
           mbarrier %full arrivals 1 stages 1
           mbarrier %empty arrivals 32 stages 1
           roles warps 0..1 {
             if thread == 3 {
               for %i: i32 in 0..3 {
                 wait %empty[0] phase %i - 1
                 load %v: i32 = %x[%i]
                 store %slot[0] = %v
                 arrive %full[0]
               }
             }
           } and warps 1..2 {
             var %sum: i32 = 0
             for %j: i32 in 0..3 {
               wait %full[0] phase %j
               load %w: i32 = %slot[0]
               set %sum = %sum * 10 + %w
               arrive %empty[0]
             }
             store %y[thread - 32] = %sum + thread - 32
           }
         }",
    );
}

/// A deadlock says which role waits for what, and what that lacks.
#[test]
fn a_deadlock_is_a_fault() {
    let fault = |roles: &str| {
        let text = format!(
            "kernel @dead() threads 96 {{
               mbarrier %full arrivals 32 stages 2
               mbarrier %empty arrivals 64 stages 2
               {roles}
             }}"
        );
        run("sm_90a", 1, &mut [], &text).unwrap_err().to_string()
    };
    // The consumer waits for the stage that the producer does not fill.
    assert_eq!(
        fault(
            "roles warps 0..1 {
               for %i: i32 in 0..2 { arrive %full[0]  wait %empty[0] phase %i }
             } and warps 1..3 {
               if thread == 32 { arrive %full[1] bytes 16 }
               wait %full[1] phase 0
               arrive %empty[0]
             }"
        ),
        "block 0: deadlock: role 0 (warps 0..1) waits for phase 0 of %empty[0], which lacks arrivals: 64; \
         role 1 (warps 1..3) waits for phase 0 of %full[1], which lacks arrivals: 31, bytes: 16\n  in `wait %empty[0] phase %i`"
    );
    // Only one of two roles comes to the barrier, and the other has come to its end.
    assert_eq!(
        fault("roles warps 0..1 { } and warps 1..2 { barrier threads 64 id 5 }"),
        "block 0: deadlock: role 1 (warps 1..2) waits at barrier 5, to which 32 of 64 threads have come\n  in `barrier threads 64 id 5`"
    );
    // Threads in lock step cannot wait for each other.
    assert_eq!(
        fault("if thread < 32 { wait %full[1] phase 0 } else { arrive %full[1] }"),
        "block 0: deadlock: the block waits for phase 0 of %full[1], which lacks arrivals: 32\n  in `wait %full[1] phase 0`"
    );
}

/// Threads that arrive are counted and go on.
#[test]
fn threads_arrive_and_go_on() {
    let go = |arrives: &str| {
        let text = format!(
            "kernel @arrive(%y: *mut i32) threads 64 {{
               shared %slot: i32[1]
               roles warps 0..1 {{
                 barrier threads 64 id 2
                 load %v: i32 = %slot[0]
                 store %y[thread] = %v
               }} and warps 1..2 {{
                 if thread == 40 {{ store %slot[0] = 9 }}
                 {arrives}
                 store %y[thread] = 4
               }}
             }}"
        );
        let mut memory = [Memory::unknown(256)];
        run("sm_80", 1, &mut memory, &text).map(|()| memory[0].clone()).map_err(|fault| fault.message)
    };
    assert_eq!(go("barrier_arrive threads 64 id 2"), Ok(ints(&[[9; 32], [4; 32]].concat())));
    let dead = "block 0: deadlock: role 0 (warps 0..1) waits at barrier 2, to which 32 of 64 threads have come";
    assert_eq!(go(""), Err(dead.to_string()));
    // The second arrival belongs to the next meeting, which is not completed and not waited for.
    assert!(go("barrier_arrive threads 64 id 2 barrier_arrive threads 64 id 2").is_ok());
}

#[test]
fn what_an_mbarrier_leaves_undefined_is_a_fault() {
    let fault = |body: &str| {
        let text = format!("kernel @fault() threads 32 {{ mbarrier %b arrivals 32 stages 2 {body} }}");
        run("sm_90a", 1, &mut [], &text).unwrap_err().message
    };
    for (body, expected) in [
        ("arrive %b[thread / 11]", "block 0: thread 22: there is no stage 2 of 2"),
        ("wait %b[block - 1] phase 0", "block 0: thread 0: there is no stage -1 of 2"),
        ("wait %b[1] phase 1", "block 0: waits for phase 1 of stage 1 before phase 0 is over"),
        ("arrive %b[0] arrive %b[0] wait %b[0] phase 0", "block 0: waits for phase 0 of stage 0 after phase 1 is over"),
        ("arrive %b[0] bytes 1 arrive %b[0]", "block 0: thread 0: phase 0 has had its 32 arrivals"),
        ("arrive %b[0] bytes thread - 1", "block 0: thread 0: -1 bytes more to expect, beyond 0 to 1048575 together"),
        ("arrive %b[0] bytes 1000000", "block 0: thread 1: 1000000 bytes more to expect, beyond 0 to 1048575 together"),
    ] {
        assert_eq!(fault(body), expected, "{body}");
    }
}

/// What a bulk copy brings is there when its phase is over, and not before.
#[test]
fn bulk_copies_are_there_when_their_phase_is_over() {
    let kernel = |before: &str, between: &str| {
        format!(
            "kernel @bulk(%x: *i32, %y: *mut i32) threads 32 {{
               shared %tile: i32[32]
               mbarrier %full arrivals 33 stages 1
               store %tile[thread] = -1
               {before}
               if thread == 0 {{ bulk_copy %tile[4] = %x[8] bytes 64 on %full[0] }}
               {between}
               arrive %full[0]
               wait %full[0] phase 0
               load %v: i32 = %tile[thread]
               store %y[thread] = %v
             }}"
        )
    };
    let go = |before: &str, between: &str| {
        let mut memory = [ints(&(0..32).collect::<Vec<i32>>()), Memory::unknown(128)];
        run("sm_90a", 1, &mut memory, &kernel(before, between)).map(|()| memory[1].clone()).map_err(|fault| fault.message)
    };
    let expected: Vec<i32> = (0..32).map(|i| if (4..20).contains(&i) { i + 4 } else { -1 }).collect();
    let expect = "if thread == 0 { arrive %full[0] bytes 64 }";
    assert_eq!(go(expect, ""), Ok(ints(&expected)));
    // The bytes may come first.
    assert_eq!(go("", expect), Ok(ints(&expected)));
    let early = go(expect, "load %early: i32 = %tile[7]").unwrap_err();
    assert_eq!(early, "block 0: thread 0, element 7: touches memory that a copy under way will write: it is not waited for");
    let unexpected = go("if thread == 0 { arrive %full[0] }", "").unwrap_err();
    assert_eq!(unexpected, "block 0: deadlock: the block waits for phase 0 of %full[0], which lacks bytes: -64");
    let outside = |copy: &str| go(expect, &format!("if thread == 0 {{ {copy} on %full[0] }}")).unwrap_err();
    assert_eq!(
        outside("bulk_copy %tile[4] = %x[block + 20] bytes 64"),
        "block 0: thread 0, from element 20: outside an array of 32 elements"
    );
    assert_eq!(
        outside("bulk_copy %tile[block + 6] = %x[0] bytes 64"),
        "block 0: thread 0, to element 6: byte 24 is not at a multiple of 16"
    );
}

fn halves(xs: impl IntoIterator<Item = f32>) -> Memory {
    Memory::from(xs.into_iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect::<Vec<u8>>())
}

/// Two warps, each a product of its own: rows by copies, small whole numbers, so that every sum is exact.
#[test]
fn warps_multiply_matrices() {
    let a = |w: usize, row: usize, k: usize| ((w + row * 3 + k * 5) % 7) as f32 - 3.0;
    let b = |w: usize, column: usize, k: usize| ((2 * w + column * 2 + k) % 5) as f32 - 2.0;
    let rows = (0..2).flat_map(|w| (0..16).flat_map(move |row| (0..16).map(move |k| a(w, row, k))));
    let columns = (0..2).flat_map(|w| (0..8).flat_map(move |column| (0..16).map(move |k| b(w, column, k))));
    let sum = |w: usize, row: usize, column: usize| (0..16).map(|k| a(w, row, k) * b(w, column, k)).sum::<f32>() + 0.5;
    let sums: Vec<f32> =
        (0..2).flat_map(|w| (0..16).flat_map(move |row| (0..8).map(move |column| sum(w, row, column)))).collect();
    check(
        "sm_80",
        1,
        vec![halves(rows), halves(columns), Memory::unknown(4 * 256)],
        floats(&sums),
        "kernel @product(%a: *bf16, %b: *bf16, %y: *mut f32) threads 64 {
           shared %rows: bf16[512]
           shared %columns: bf16[256]
           registers %sums: f32[4]
           let %lane: i32 = thread % 32
           let %warp: i32 = thread / 32
           copy %rows[thread * 8] = %a[thread * 8] bytes 16
           commit
           copy %columns[thread * 4] = %b[thread * 4] bytes 8
           commit
           store %sums[0] = splat(0.5, 4)
           wait groups 0
           barrier block
           load_matrix %a0: bf16x2, %a1: bf16x2, %a2: bf16x2, %a3: bf16x2 = %rows[%warp * 256 + %lane % 16 * 16 + %lane / 16 * 8]
           load_matrix %b0: bf16x2, %b1: bf16x2 = %columns[%warp * 128 + %lane % 8 * 16 + %lane / 8 % 2 * 8]
           mma m16n8k16 %sums[0] += (%a0, %a1, %a2, %a3) * (%b0, %b1)
           load %upper: f32x2 = %sums[0]
           load %lower: f32x2 = %sums[2]
           store %y[%warp * 128 + %lane / 4 * 8 + %lane % 4 * 2] = %upper
           store %y[%warp * 128 + %lane / 4 * 8 + %lane % 4 * 2 + 64] = %lower
         }",
    );
}

/// Factors in f32: a lane has one number where it has two of 16 bits. They are rounded to 10 bits of fraction, ties away from zero; what is
/// not rounded is cut off.
#[test]
fn warps_multiply_tf32() {
    // Small whole numbers and, in the left factor, what is rounded: a tie and what is just below one.
    let a = |row: usize, k: usize| ((row * 3 + k * 5) % 7) as f32 - 3.0;
    let b = |k: usize, column: usize| ((column * 2 + k) % 5) as f32 - 2.0;
    let tie = 1.0 + 2f32.powi(-11);
    let below = 1.0 + 2f32.powi(-11) - 2f32.powi(-20);
    let given = |row: usize, k: usize| match (row, k) {
        (0, 0) => tie,
        (1, 7) => -tie,
        (9, 4) => below,
        (row, k) => a(row, k),
    };
    let meant = |row: usize, k: usize| match (row, k) {
        (0, 0) => 1.0 + 2f32.powi(-10),
        (1, 7) => -1.0 - 2f32.powi(-10),
        (9, 4) => 1.0,
        (row, k) => a(row, k),
    };
    // The right factor is not rounded: its low bits are not looked at.
    let cut = |k: usize, column: usize| if (k, column) == (3, 2) { 1.0 + 2f32.powi(-10) - 2f32.powi(-23) } else { b(k, column) };
    let seen = |k: usize, column: usize| if (k, column) == (3, 2) { 1.0 } else { b(k, column) };
    let rows: Vec<f32> = (0..16).flat_map(|row| (0..8).map(move |k| given(row, k))).collect();
    let columns: Vec<f32> = (0..8).flat_map(|column| (0..8).map(move |k| cut(k, column))).collect();
    let sum = |row: usize, column: usize| (0..8).map(|k| meant(row, k) * seen(k, column)).sum::<f32>() + 0.5;
    let sums: Vec<f32> = (0..16).flat_map(|row| (0..8).map(move |column| sum(row, column))).collect();
    check(
        "sm_80",
        1,
        vec![floats(&rows), floats(&columns), Memory::unknown(4 * 128)],
        floats(&sums),
        "kernel @product(%a: *f32, %b: *f32, %y: *mut f32) threads 32 {
           shared %rows: f32[128]
           shared %columns: f32[64]
           registers %sums: f32[4]
           copy %rows[thread * 4] = %a[thread * 4] bytes 16
           copy %columns[thread * 2] = %b[thread * 2] bytes 8
           commit
           store %sums[0] = splat(0.5, 4)
           wait groups 0
           barrier block
           load_matrix %a0: f32, %a1: f32, %a2: f32, %a3: f32 = %rows[thread % 16 * 8 + thread / 16 * 4]
           load_matrix %b0: f32, %b1: f32 = %columns[thread % 8 * 8 + thread / 8 % 2 * 4]
           mma m16n8k8 %sums[0] += (round_tf32(%a0), round_tf32(%a1), round_tf32(%a2), round_tf32(%a3)) * (%b0, %b1)
           load %upper: f32x2 = %sums[0]
           load %lower: f32x2 = %sums[2]
           store %y[thread / 4 * 8 + thread % 4 * 2] = %upper
           store %y[thread / 4 * 8 + thread % 4 * 2 + 64] = %lower
         }",
    );
}

/// The shallow product, and a right factor whose rows lie in memory: transposed on the way.
#[test]
fn a_transposed_factor() {
    let a = |row: usize, k: usize| (row as f32 - 8.0) * 0.25 + k as f32;
    let b = |k: usize, column: usize| k as f32 * 0.5 - column as f32;
    let rows = (0..16).flat_map(|row| (0..8).map(move |k| a(row, k)));
    let right = (0..8).flat_map(|k| (0..8).map(move |column| b(k, column)));
    let sum = |row: usize, column: usize| (0..8).map(|k| a(row, k) * b(k, column)).sum::<f32>();
    let sums: Vec<f32> = (0..16).flat_map(|row| (0..8).map(move |column| sum(row, column))).collect();
    check(
        "sm_90a",
        1,
        vec![halves(rows), halves(right), Memory::unknown(4 * 128)],
        floats(&sums),
        "kernel @product(%a: *bf16, %b: *bf16, %y: *mut f32) threads 32 {
           shared %rows: bf16[128]
           shared %right: bf16[64]
           registers %sums: f32[4]
           copy %rows[thread * 4] = %a[thread * 4] bytes 8
           copy %right[thread * 2] = %b[thread * 2] bytes 4
           commit
           wait groups 0
           store %sums[0] = splat(0.0, 4)
           load_matrix %a0: bf16x2, %a1: bf16x2 = %rows[thread % 16 * 8]
           load_matrix %b0: bf16x2 = %right[thread % 8 * 8] transposed
           mma m16n8k8 %sums[0] += (%a0, %a1) * (%b0)
           load %all: f32x4 = %sums[0]
           store %y[thread / 4 * 8 + thread % 4 * 2] = lane(%all, 0)
           store %y[thread / 4 * 8 + thread % 4 * 2 + 1] = lane(%all, 1)
           store %y[thread / 4 * 8 + thread % 4 * 2 + 64] = lane(%all, 2)
           store %y[thread / 4 * 8 + thread % 4 * 2 + 65] = lane(%all, 3)
         }",
    );
}

#[test]
fn copies_arrive_when_they_are_waited_for() {
    let kernel = |middle: &str| {
        format!(
            "kernel @copies(%x: *f32, %y: *mut f32) threads 32 {{
               shared %tile: f32[64]
               copy %tile[thread] = %x[thread] bytes 4
               commit
               copy %tile[thread + 32] = %x[thread + 32] bytes 4 live thread < 3
               commit
               {middle}
             }}"
        )
    };
    let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let load = "load %a: f32 = %tile[thread] store %y[thread] = %a load %b: f32 = %tile[thread + 32] store %y[thread + 32] = %b";
    let arrived: Vec<f32> = (0..64).map(|i| if i < 35 { i as f32 } else { 0.0 }).collect();
    check("sm_80", 1, vec![floats(&x), floats(&[9.0; 64])], floats(&arrived), &kernel(&format!("wait groups 0 {load}")));
    let fault = |middle: &str| {
        let mut memory = [floats(&x), floats(&[9.0; 64])];
        run("sm_80", 1, &mut memory, &kernel(middle)).unwrap_err().message
    };
    let expected = "touches memory that a copy under way will write: it is not waited for";
    // Of the first group all have arrived, of the second none.
    assert!(fault(&format!("wait groups 1 {load}")).ends_with(&format!("thread 0, element 32: {expected}")));
    assert!(fault(load).ends_with(&format!("thread 0, element 0: {expected}")));
    // One thread waits, the others do not.
    assert!(
        fault(&format!("if thread < 32 / 2 {{ wait groups 0 }} {load}")).ends_with(&format!("thread 16, element 16: {expected}"))
    );
    assert!(fault("store %tile[thread] = 1.0").ends_with(expected));
    assert!(fault("copy %tile[thread] = %x[0] bytes 4").ends_with(expected));
    // A group that is not made is not waited for.
    assert!(fault(&format!("wait groups 0 copy %tile[thread] = %x[0] bytes 4 wait groups 0 {load}")).ends_with(expected));
    assert!(fault("wait groups 0 copy %tile[thread] = %x[thread + 60] bytes 4").contains("from element 64: outside"));
    assert!(fault("wait groups 0 copy %tile[thread * 4 + 1] = %x[0] bytes 16").contains("to element 1: byte 4 is not"));
}

#[test]
fn what_is_not_there_is_not_multiplied() {
    let fault = |body: &str| {
        let text = format!("kernel @k(%y: *mut f32) threads 32 {{ shared %t: bf16[256] registers %s: f32[4] {body} }}");
        run("sm_80", 1, &mut [floats(&[0.0; 4])], &text).unwrap_err().message
    };
    let unwritten = "reads memory that is not written";
    assert!(fault("load %a: f32 = %s[2]").ends_with(unwritten));
    assert!(fault("load_matrix %a: bf16x2 = %t[thread * 8]").ends_with(unwritten));
    assert!(fault("load_matrix %a: bf16x2 = %t[thread * 4]").contains("byte 8 is not at a multiple of 16"));
    assert!(fault("load_matrix %a: bf16x2 = %t[thread * 64]").contains("outside an array of 256 elements"));
    let zero = "let %z: bf16x2 = bf16(splat(0.0, 2))";
    assert!(fault(&format!("{zero} mma m16n8k8 %s[0] += (%z, %z) * (%z)")).ends_with(unwritten));
}
