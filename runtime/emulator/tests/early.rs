//! Launches that begin before those before them have ended.

use ptx_emulator::{Arg, Fill, FindingKind, Launch, Memory, Options, Schedule, launch, parse};

/// A kernel that copies an element of `a` a thread, doubled, to `y` and one that does more to it.
fn text(second: &str) -> String {
    let head = |name: &str| {
        format!(
            ".visible .entry {name}(.param .u64 a, .param .u64 b, .param .u64 y)\n{{\n.reg .b32 %r<20>; .reg .b64 %d<20>;\n\
             .reg .pred %p<4>; .shared .align 16 .b8 tile[256]; .shared .align 8 .b8 bar[8];\n\
             ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b]; ld.param.u64 %d3, [y];\n\
             mov.u32 %r1, %tid.x; mul.wide.u32 %d4, %r1, 4; add.s64 %d5, %d1, %d4; add.s64 %d6, %d2, %d4; add.s64 %d7, %d3, %d4;\n"
        )
    };
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n{}ld.global.u32 %r2, [%d5]; griddepcontrol.launch_dependents;\n\
         add.u32 %r3, %r2, %r2; st.global.u32 [%d7], %r3; ret;\n}}\n{}{second}\nret;\n}}\n",
        head("first"),
        head("second")
    )
}

/// What is found in the second launch, which is given what the first one read, what it wrote, and other memory; and what it leaves there.
fn run(second: &str, early: bool, schedule: Schedule) -> (Vec<FindingKind>, Vec<u8>) {
    let module = parse(&text(second)).unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::new();
    let x = memory.upload("x", &[1; 128]).unwrap();
    let between = memory.alloc("between", 128, Fill::Uninitialised(0xee)).unwrap();
    let y = memory.upload("y", &[3; 128]).unwrap();
    let options = Options { schedule, seed: 5, ..Options::default() };
    let mut go = |name: &str, buffers: [_; 3], early: bool| {
        let args = module.entry(name).unwrap().pack(&memory, &buffers.map(Arg::Buffer)).unwrap();
        let shape = Launch { grid: [1, 1, 1], block: [32, 1, 1], shared_bytes: 0, early, args };
        launch(&module, name, &shape, &mut memory, &options).unwrap().findings
    };
    assert_eq!(go("first", [x, x, between], early), [], "nothing comes before it");
    let mut kinds: Vec<FindingKind> = go("second", [x, between, y], early).iter().map(|finding| finding.kind).collect();
    kinds.dedup();
    (kinds, memory.content(y).unwrap())
}

const WAIT: &str = "griddepcontrol.wait;";

#[test]
fn what_launches_before_do_is_waited_for() {
    let read = "ld.global.u32 %r3, [%d6];";
    let write = "st.global.u32 [%d7], %r3;";
    let cases = [
        ("behind the wait", format!("ld.global.u32 %r2, [%d5]; {WAIT} {read} {write}"), false),
        ("before the wait", format!("{read} {WAIT} {write}"), true),
        ("without a wait", format!("{read} {write}"), true),
        ("by some threads", format!("setp.lt.u32 %p1, %r1, 16; @%p1 {WAIT} {read} @!%p1 {WAIT} {write}"), true),
        ("a store over what it writes", format!("mov.u32 %r3, 1; st.global.u32 [%d6], %r3; {WAIT} {write}"), true),
        ("a store over what it reads", format!("mov.u32 %r3, 1; st.global.u32 [%d5], %r3; {WAIT} {write}"), true),
        ("a store elsewhere", format!("mov.u32 %r3, 1; {write} {WAIT}"), false),
        ("an end without a wait", format!("mov.u32 %r3, 1; {write}"), true),
        (
            "a copy that is started before",
            format!(
                "mov.u32 %r5, tile; setp.eq.u32 %p1, %r1, 0; @%p1 cp.async.ca.shared.global [%r5], [%d2], 4;\n{WAIT}\n\
                 cp.async.wait_all; {read} {write}"
            ),
            true,
        ),
        (
            "a bulk copy that is started before",
            format!(
                "setp.eq.u32 %p1, %r1, 0; mov.u32 %r5, bar; mov.u32 %r6, tile;\n@%p1 mbarrier.init.shared.b64 [%r5], 1; fence.mbarrier_init.release.cluster; bar.sync 0;\n\
                 @%p1 mbarrier.arrive.expect_tx.shared.b64 %d10, [%r5], 64;\n\
                 @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r6], [%d2], 64, [%r5];\n{WAIT}\n\
                 L: mbarrier.try_wait.parity.shared.b64 %p2, [%r5], 0; @!%p2 bra L;\n{read} {write}"
            ),
            true,
        ),
    ];
    for (what, second, found) in cases {
        for schedule in Schedule::ALL {
            let (in_order, expected) = run(&second, false, schedule);
            assert_eq!(in_order, [], "{what}, {}: one after another", schedule.name());
            let (early, y) = run(&second, true, schedule);
            let kinds = if found { vec![FindingKind::EarlyAccess] } else { Vec::new() };
            assert_eq!(early, kinds, "{what}, {}", schedule.name());
            assert_eq!(y, expected, "{what}");
        }
    }
}

/// What ended before the launch before this one began is no concern: that has waited for it.
#[test]
fn a_launch_that_is_not_early_begins_anew() {
    let module = parse(&text(&format!("ld.global.u32 %r3, [%d6]; {WAIT} st.global.u32 [%d7], %r3;"))).unwrap();
    let mut memory = Memory::new();
    let [x, between, other, y] = ["x", "between", "other", "y"].map(|name| memory.upload(name, &[1; 128]).unwrap());
    let mut go = |name: &str, buffers: [_; 3], early: bool| {
        let args = module.entry(name).unwrap().pack(&memory, &buffers.map(Arg::Buffer)).unwrap();
        let shape = Launch { grid: [1, 1, 1], block: [32, 1, 1], shared_bytes: 0, early, args };
        launch(&module, name, &shape, &mut memory, &Options::default()).unwrap().findings.len()
    };
    assert_eq!(go("first", [x, x, between], false), 0);
    assert_eq!(go("first", [x, x, other], false), 0);
    assert_eq!(go("second", [x, between, y], true), 0, "written before the last launch began");
    assert_eq!(go("second", [x, other, y], true), 1, "two launches before this one, both of which may still run");
    assert_eq!(go("second", [x, y, between], true), 1);
}
