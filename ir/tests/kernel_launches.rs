//! What launches of a program see of each other, against results worked out by hand.

use std::collections::BTreeMap;

use moec_ir::Dims;
use moec_ir::kernel::parse::parse_kernel;
use moec_ir::kernel::{Argument, interp, interp_early, interp_kernel, parse};

use super::kernel_interp::{floats, machine};

const TWO_KERNELS: &str = r#"
program @twice {
  buffer %x: input f32[T]
  buffer %w: weight f32[2]
  buffer %s: workspace f32[T, 2] observe "scaled"
  buffer %y: output f32[T]
  regime up_to 2 {
    launch @small(%x, %y, %n = (T * 10)) grid T
  }
  regime {
    launch @scale(%x, %w, %s) grid T
    launch @fold(%s, %y) grid T
  }
}
kernel @small(%x: *f32, %y: *mut f32, %n: i64) threads 1 {
  load %v: f32 = %x[block]
  store %y[block] = %v + f32(%n)
}
kernel @scale(%x: *f32, %w: *f32, %s: *mut f32) threads 1 {
  load %v: f32 = %x[block]
  load %w.1: f32x2 = %w[0]
  store %s[block * 2] = splat(%v, 2) * %w.1
}
kernel @fold(%s: *f32, %y: *mut f32) threads 1 {
  load %v: f32x2 = %s[block * 2]
  store %y[block] = sum(%v)
}
"#;

#[test]
fn a_program_runs_the_regime_of_its_size() {
    let program = parse(TWO_KERNELS).unwrap();
    let bytes = |xs: &[f32]| xs.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let go = |x: &[f32], w: &[f32]| {
        let given = BTreeMap::from([("x".to_string(), bytes(x)), ("w".to_string(), bytes(w))]);
        let tokens = x.len() as u64;
        interp(&program, &machine("x86-64-v3"), Dims { tokens, sequence_tokens: tokens }, &given)
    };
    let small = go(&[1.0, 2.0], &[3.0, 4.0]).unwrap();
    assert_eq!(small["y"], floats(&[21.0, 22.0]));
    assert_eq!(small["s"].bytes(), None);
    assert_eq!(small["s"].bytes_or(7), [7; 16]);
    let large = go(&[1.0, 2.0, 3.0], &[3.0, 4.0]).unwrap();
    assert_eq!(large["y"], floats(&[7.0, 14.0, 21.0]));
    assert_eq!(large["s"], floats(&[3.0, 4.0, 6.0, 8.0, 9.0, 12.0]));
    assert_eq!(go(&[], &[3.0, 4.0]).unwrap()["y"], floats(&[]));
    let fault = go(&[1.0], &[3.0]).unwrap_err();
    assert_eq!(fault.to_string(), "4 bytes are given, it has 8\n  in `buffer %w: weight f32[2]`");
}

/// Launches one after another are one of the orders that an early launch may have.
#[test]
fn an_early_launch_sees_those_before_it_once_it_has_waited() {
    let text = "program @p {
      buffer %x: input f32[T]
      buffer %a: workspace f32[T]
      buffer %y: output f32[T]
      regime {
        launch @twice(%x, %y = %a) grid T
        launch @add(%x, %z = %a, %y) grid T early
      }
    }
    kernel @twice(%x: *f32, %y: *mut f32) threads 32 {
      load %v: f32 = %x[block]
      allow_next
      store %y[block] = %v + %v
    }
    kernel @add(%x: *f32, %z: *f32, %y: *mut f32) threads 32 {
      load %v: f32 = %x[block]
      wait launches
      load %u: f32 = %z[block]
      store %y[block] = %u + %v
    }";
    let x: Vec<f32> = (0..5).map(|i| i as f32).collect();
    let given = BTreeMap::from([("x".to_string(), floats(&x).bytes().unwrap().to_vec())]);
    let dims = Dims { tokens: 5, sequence_tokens: 5 };
    let made = interp(&parse(text).unwrap(), &machine("sm_90a"), dims, &given).unwrap_or_else(|fault| panic!("{fault}"));
    let expected: Vec<f32> = x.iter().map(|x| 3.0 * x).collect();
    assert_eq!(made["y"], floats(&expected));
}

/// Of four blocks so many store as `stores` says, and so many have work as the launch says for each of two that are counted.
#[test]
fn a_block_without_work_has_no_effect() {
    let run = |count: &str, each: &str, stores: u32| {
        let text = format!(
            "program @p {{
               buffer %n: workspace i32[1]
               buffer %y: workspace i32[4]
               regime {{
                 launch @count(%n) grid 1
                 launch @some(%n, %y) grid 4 working %n * {each}
               }}
             }}
             kernel @count(%n: *mut i32) threads 1 {{
               {count}
             }}
             kernel @some(%n: *i32, %y: *mut i32) threads 1 {{
               if block < {stores} {{
                 store %y[block] = block
               }}
             }}"
        );
        let dims = Dims { tokens: 1, sequence_tokens: 1 };
        interp(&parse(&text).unwrap(), &machine("x86-64-v3"), dims, &BTreeMap::new()).map_err(|fault| fault.message)
    };
    let two = "store %n[0] = 2";
    for (each, stores) in [("1", 2), ("T", 1), ("2", 4), ("2", 0), ("100", 4)] {
        assert!(run(two, each, stores).is_ok(), "{each}, {stores}");
    }
    let low = run(two, "1", 3).unwrap_err();
    assert_eq!(low, "block 2: thread 0, element 2: writes, though the block has no work");
    assert_eq!(run("store %n[0] = -1", "1", 0).unwrap_err(), "the number of blocks with work has no value");
    assert_eq!(run("", "1", 0).unwrap_err(), "blocks with work: reads memory that is not written");
}

/// Three parts, of two blocks that each write an element and of one that adds two of them.
#[test]
fn a_launch_that_follows_needs_no_more_than_its_part() {
    let run = |first: &str, more: &str, machine_name: &str| {
        let text = format!(
            "program @p {{
               buffer %n: workspace i32[1]
               buffer %x: workspace i32[8]
               buffer %y: workspace i32[4]
               regime {{
                 launch @count(%n) grid 1
                 launch @write(%n, %x) grid 8 working %n * 2
                 launch @add(%n, %x, %y) grid 4 working %n * 1 follows
                 {more}
               }}
             }}
             kernel @count(%n: *mut i32) threads 1 {{
               store %n[0] = 3
             }}
             kernel @write(%n: *i32, %x: *mut i32) threads 1 {{
               if block < 6 {{
                 store %x[block] = block
               }}
             }}
             kernel @add(%n: *i32, %x: *i32, %y: *mut i32) threads 1 {{
               if block < 3 {{
                 load %a: i32 = %x[{first}]
                 load %b: i32 = %x[block * 2 + 1]
                 store %y[block] = %a + %b
               }}
             }}"
        );
        let dims = Dims { tokens: 1, sequence_tokens: 1 };
        let made = interp(&parse(&text).unwrap(), &machine(machine_name), dims, &BTreeMap::new());
        made.map(|_| ()).map_err(|fault| fault.message)
    };
    assert!(run("block * 2", "", "x86-64-v3").is_ok());
    assert!(run("0", "", "x86-64-v3").is_ok(), "parts before are over");
    let later = run("(block * 2 + 2) % 6", "", "x86-64-v3").unwrap_err();
    assert_eq!(later, "block 0: thread 0, element 2: reads memory that is not written");
    let refused = [
        ("", "sm_90a", "sm_90a begins a launch before the one before it has ended where it is early"),
        ("launch @write(%n, %x) grid 8 working %n * 2 follows", "x86-64-v3", "it follows a launch that follows another"),
        (
            "launch @write(%n, %x) grid 8 launch @add(%n, %x, %y) grid 4 working %n * 1 follows",
            "x86-64-v3",
            "it follows a launch that has no work by the same buffer",
        ),
        (
            "launch @add(%n, %x, %y) grid 4 working %n * 1 launch @write(%n, %x) grid 8 working %n * 2 follows",
            "x86-64-v3",
            "it writes %x, which the launch that it follows is given",
        ),
    ];
    for (more, machine, why) in refused {
        assert_eq!(run("block * 2", more, machine).unwrap_err(), why);
    }
}

#[test]
fn what_a_launch_before_writes_is_read_behind_the_wait() {
    let kernel = |before: &str, after: &str| {
        let text = format!(
            "kernel @k(%x: *f32, %z: *f32, %y: *mut f32) threads 32 {{
               {before}
               wait launches
               {after}
             }}"
        );
        let memory = || vec![floats(&[1.0]), floats(&[2.0]), floats(&[0.0])];
        let args: Vec<Argument> = (0..3).map(Argument::Buffer).collect();
        let kernel = parse_kernel(&text).unwrap_or_else(|error| panic!("{error}"));
        let mut ordinary = memory();
        interp_kernel(&kernel, &machine("sm_90a"), 1, &args, &mut ordinary).unwrap_or_else(|fault| panic!("{fault}"));
        let mut early = memory();
        interp_early(&kernel, &machine("sm_90a"), 1, &[1, 2], &args, &mut early).map(|()| assert_eq!(ordinary, early))
    };
    let load = |from: &str| format!("load %v: f32 = %{from}[0]");
    assert_eq!(kernel(&load("x"), "store %y[0] = %v"), Ok(()));
    assert_eq!(kernel("", &load("z")), Ok(()));
    for (from, why) in
        [("z", "touches what a launch before this one writes: it is not waited for"), ("y", "it is not waited for")]
    {
        let fault = kernel(&load(from), "store %y[0] = %v").unwrap_err();
        assert!(fault.message.contains(why) && fault.text == format!("load %v: f32 = %{from}[0]"), "{fault}");
    }
}
