//! What the blocks of a cluster do together, against results worked out by hand, and what they leave undefined.

use moec_ir::kernel::parse::parse_kernel;
use moec_ir::kernel::{Argument, Fault, Memory, Tensor, interp_kernel};

use super::kernel_interp::{check, ints, machine, run};

/// Each block adds what the others of its cluster have stored before the barrier: the second block runs before the first has ended.
#[test]
fn the_blocks_of_a_cluster_wait_for_each_other() {
    let text = "kernel @cluster(%x: *i32, %z: *mut i32, %y: *mut i32) threads 32 cluster 4 {
      let %first: i32 = block / 4 * 4
      for %turn: i32 in 0..2 {
        if thread == 0 {
          load %v: i32 = %x[block]
          store %z[block] = %v + %turn
        }
        barrier cluster
        if thread == 0 {
          var %sum: i32 = 0
          for %other: i32 in %first..%first + 4 {
            load %v.1: i32 = %z[%other]
            set %sum = %sum + %v.1
          }
          store %y[block * 2 + %turn] = %sum
        }
        barrier cluster
      }
    }";
    let x: Vec<i32> = (0..8).map(|i| 1 << i).collect();
    let expected = [15, 19, 15, 19, 15, 19, 15, 19, 240, 244, 240, 244, 240, 244, 240, 244];
    check("sm_90a", 8, vec![ints(&x), Memory::unknown(32), Memory::unknown(64)], ints(&expected), text);
    let fault = run("sm_90a", 6, &mut [ints(&x), Memory::unknown(32), Memory::unknown(64)], text).unwrap_err();
    assert_eq!(fault.message, "6 blocks are not whole clusters of 4");
}

/// Each block of a pair brings one of two lines to both, and says to both what it has read: both see each line in each turn.
const PAIR: &str = "kernel @pair(%x: map i32[1, 1, 4], %y: *mut i32) threads 32 cluster 2 {
  shared %lines: i32[64] align 128
  mbarrier %full arrivals 1 stages 1
  mbarrier %empty arrivals 2 stages 1
  let %mine: i32 = block % 2
  for %turn: i32 in 0..3 {
    if thread == 0 {
      wait %empty[0] phase %turn - 1
      arrive %full[0] bytes 32
      tile_copy %lines[%mine * 32] = %x[0, %turn * 2 + %mine, 0] on %full[0] in_all_blocks
    }
    wait %full[0] phase %turn
    if thread == 0 {
      load %a: i32 = %lines[1]
      load %b: i32 = %lines[34]
      store %y[block * 3 + %turn] = %a * 100 + %b
    }
    if thread < 2 {
      arrive %empty[0] in_block thread
    }
  }
  barrier cluster
}";

/// Runs it on a tensor of 6 lines of 4, from 0 on.
fn pair(text: &str) -> Result<Memory, Fault> {
    let kernel = parse_kernel(text).unwrap_or_else(|error| panic!("{error}"));
    let tensor = Tensor { extents: [1, 6, 4], strides: [24, 4] };
    let mut memory = [ints(&(0..24).collect::<Vec<i32>>()), Memory::unknown(6 * 4)];
    let args = [Argument::TensorMap(0, tensor), Argument::Buffer(1)];
    interp_kernel(&kernel, &machine("sm_90a"), 2, &args, &mut memory)?;
    let [_, y] = memory;
    Ok(y)
}

#[test]
fn the_blocks_of_a_cluster_reach_into_each_other() {
    // Elements 1 of line 2 t and 2 of line 2 t + 1.
    assert_eq!(pair(PAIR), Ok(ints(&[106, 914, 1722, 106, 914, 1722])));
    let of = |from: &str, to: &str| {
        assert!(PAIR.contains(from));
        pair(&PAIR.replace(from, to)).unwrap_err().message
    };
    let alone = of("in_all_blocks", "");
    assert!(alone.contains("deadlock") && alone.contains("for phase 0 of %full[0], which lacks bytes: 16"), "{alone}");
    let early = of("wait %empty[0] phase %turn - 1", "");
    assert!(early.contains("touches memory that a copy under way will write"), "{early}");
    let twice = of("thread < 2", "thread < 3");
    assert!(twice.ends_with("thread 2: there is no such block in a cluster of 2"), "{twice}");
    let ended = of("for %turn: i32 in 0..3", "for %turn: i32 in 0..3 - block");
    assert!(ended.contains("deadlock"), "{ended}");
    let one = "kernel @one() threads 32 cluster 2 {
      mbarrier %full arrivals 1 stages 1
      barrier cluster
      if block == 1 {
        arrive %full[0] in_block 0
      }
      barrier cluster
    }";
    assert_eq!(run("sm_90a", 2, &mut [], one), Ok(()));
}

#[test]
fn a_cluster_that_waits_for_ever_is_a_fault() {
    let text = "kernel @stuck() threads 64 cluster 2 {
      mbarrier %never arrivals 1 stages 1
      barrier cluster
      roles warps 0..1 {
        wait %never[0] phase 0
      } and warps 1..2 {
        barrier threads 64 id 1
      }
    }";
    let fault = run("sm_90a", 4, &mut [], text).unwrap_err();
    let one = "deadlock: role 0 (warps 0..1) waits for phase 0 of %never[0], which lacks arrivals: 1; \
               role 1 (warps 1..2) waits at barrier 1, to which 32 of 64 threads have come";
    assert_eq!(fault.message, format!("block 0: {one}; block 1: {one}"));
}
