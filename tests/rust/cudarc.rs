//! `cudarc TOKENS`: the layer `everything` on slices and a stream of cudarc, and what is wrong with some. Memory is allocated in
//! the order of `tests/c/layer.h`. What happens is in the driver's log, and headings are put there.
#![deny(warnings)]

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;

use cudarc::driver::CudaContext;
use everything::{CudaBatch, CudaWeights, Layer};

include!(concat!(env!("ROOM"), "/everything_cudarc.rs"));

fn say(line: &str) {
    let log = std::env::var_os("MOCK_LOG").and_then(|path| OpenOptions::new().append(true).create(true).open(path).ok());
    if let Some(mut log) = log {
        let _ = writeln!(log, "{line}");
    }
}

fn wrong(what: &str, result: Result<(), everything::Error>) {
    match result {
        Ok(()) => say(&format!("{what}: taken")),
        Err(error) => say(&format!("{what}: {}: {error}", error.status)),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let tokens: usize = std::env::args().nth(1).ok_or("TOKENS")?.parse()?;
    let context = CudaContext::new(0)?;
    let (stream, other) = (context.new_stream()?, context.new_stream()?);
    say("-- create");
    let layer = Layer::on_stream(&stream)?;
    let mut table = other.alloc_zeros::<f32>(16)?;
    say(&format!("-- bind for {}", layer.target()));
    let mut bound = layer.bind_on(CudaWeights { table: table.as_view_mut() }, &stream)?;
    let x = stream.alloc_zeros::<f32>(tokens * 16)?;
    let mut y = stream.alloc_zeros::<f32>(tokens * 16)?;
    let mut workspace = stream.alloc_zeros::<u8>(layer.workspace_bytes(tokens, 0)?)?;
    say(&format!("-- run at T = {tokens}"));
    bound.run(CudaBatch { x: x.as_view(), y: y.as_view_mut(), sequence_tokens: 0 }, &mut workspace, &stream)?;
    say("-- update");
    bound.update(CudaBatch { x: x.as_view(), y: y.as_view_mut(), sequence_tokens: 0 }, &mut workspace, &stream)?;

    say("-- mistakes");
    let second = CudaContext::new(1)?;
    let elsewhere = second.new_stream()?;
    let far = elsewhere.alloc_zeros::<f32>(tokens * 16)?;
    let mut short = stream.alloc_zeros::<u8>(0)?;
    let mut shorter = stream.alloc_zeros::<f32>(tokens * 16 - 1)?;
    let batch = CudaBatch { x: x.as_view(), y: shorter.as_view_mut(), sequence_tokens: 0 };
    wrong("a short y", bound.run(batch, &mut workspace, &stream));
    let batch = CudaBatch { x: x.slice(1..), y: y.as_view_mut(), sequence_tokens: 0 };
    wrong("an x of no whole tokens", bound.run(batch, &mut workspace, &stream));
    let batch = CudaBatch { x: far.as_view(), y: y.as_view_mut(), sequence_tokens: 0 };
    wrong("x of another GPU", bound.run(batch, &mut workspace, &stream));
    let batch = CudaBatch { x: x.as_view(), y: y.as_view_mut(), sequence_tokens: 0 };
    wrong("a stream of another GPU", bound.run(batch, &mut workspace, &elsewhere));
    let batch = CudaBatch { x: x.as_view(), y: y.as_view_mut(), sequence_tokens: 0 };
    wrong("no workspace", bound.run(batch, &mut short, &stream));
    let mut table = stream.alloc_zeros::<f32>(17)?;
    wrong("a long table", layer.bind_on(CudaWeights { table: table.as_view_mut() }, &stream).map(drop));
    let host = Layer::host(1).map(drop);
    wrong("a layer of the CPU", host);
    say("-- end");
    Ok(())
}
