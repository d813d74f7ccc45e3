//! Runs a few lines of PTX in a kernel of their own.

use ptx_emulator::{Arg, Fill, Launch, Memory, Options, Report, launch, parse};

/// `x` holds 4096 bytes 0, 1, 2, .. (modulo 251); `y` holds nothing; `smem` is 1024 bytes of dynamic shared memory.
pub(crate) struct Run {
    pub(crate) report: Report,
    pub(crate) y: Vec<u8>,
}

pub(crate) fn kernel(body: &str) -> String {
    let mut text = String::from(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
         .visible .entry k(.param .u64 x, .param .u64 y, .param .u32 n)\n{\n\
         .reg .pred %p<20>; .reg .b16 %h<40>; .reg .b32 %r<100>; .reg .f32 %f<100>; .reg .b64 %d<60>; .reg .f64 %g<20>;\n\
         .shared .align 16 .b8 tile[1024]; .local .align 16 .b8 depot[64];\n\
         ld.param.u64 %d1, [x]; ld.param.u64 %d2, [y]; ld.param.u32 %r1, [n];\n\
         mov.u32 %r2, %tid.x; mov.u32 %r3, %ctaid.x; mul.wide.u32 %d3, %r2, 4; add.s64 %d4, %d1, %d3; add.s64 %d5, %d2, %d3;\n\
         mov.u32 %r5, tile; shl.b32 %r4, %r2, 2; add.u32 %r6, %r5, %r4;\n",
    );
    text.push_str(body);
    text.push_str("\nret;\n}\n");
    text
}

pub(crate) fn run(body: &str, blocks: u32, threads: u32, options: &Options) -> Run {
    run_text(&kernel(body), blocks, threads, options)
}

pub(crate) fn run_text(text: &str, blocks: u32, threads: u32, options: &Options) -> Run {
    let module = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut memory = Memory::new();
    let x: Vec<u8> = (0..4096_u32).map(|byte| (byte % 251) as u8).collect();
    let x = memory.upload("x", &x).unwrap();
    let y = memory.alloc("y", 4096, Fill::Uninitialised(0xee)).unwrap();
    let entry = module.entry("k").unwrap();
    let args = entry.pack(&memory, &[Arg::Buffer(x), Arg::Buffer(y), Arg::U32(100)]).unwrap();
    let shape = Launch { grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 1024, early: false, args };
    let report = launch(&module, "k", &shape, &mut memory, options).unwrap();
    Run { report, y: memory.content(y).unwrap() }
}
