//! One check for fuzzers and tests alike: whatever the text, nothing panics, hangs or eats the machine.

use crate::findings::report::Report;
use crate::launch::{Launch, LaunchError, launch};
use crate::options::{Limits, Options, Schedule};
use crate::state::memory::{Fill, Memory};
use crate::text::module::ParseError;
use crate::text::mutate::sync_points;
use crate::text::parse::parse;

/// What became of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is not UTF-8.
    NotText,
    /// It is not a module.
    Refused(ParseError),
    /// Its kernels ran, as far as they could be launched.
    Ran(Vec<Result<Report, LaunchError>>),
}

/// Parses arbitrary bytes and runs whatever kernels they hold, with little memory, few steps and odd shapes.
pub fn check(bytes: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Outcome::NotText;
    };
    let module = match parse(text) {
        Ok(module) => module,
        Err(error) => return Outcome::Refused(error),
    };
    if let Err(error) = sync_points(text) {
        return Outcome::Refused(error);
    }
    let mut memory = Memory::new();
    let content: Vec<u8> = (0..4096_u32).map(|byte| byte as u8).collect();
    let buffers = [memory.upload("x", &content), memory.alloc("y", 1 << 40, Fill::Uninitialised(0xee))];
    let pointers: Vec<u64> = buffers.into_iter().flatten().filter_map(|buffer| memory.address(buffer).ok()).collect();
    let mut results = Vec::new();
    for (index, entry) in module.entries.iter().take(4).enumerate() {
        // Pointers where 8 bytes fit, small numbers elsewhere.
        let mut args = vec![0; entry.param_bytes];
        for (number, param) in entry.params.iter().enumerate() {
            let value = if param.bytes == 8 { pointers[number % pointers.len()] } else { 3 };
            let bytes = value.to_le_bytes();
            let count = param.bytes.min(8);
            args[param.offset..param.offset + count].copy_from_slice(&bytes[..count]);
        }
        let shape = Launch {
            grid: [2, 1, 1],
            block: [entry.max_threads.unwrap_or(40).clamp(1, 40), 1, 1],
            shared_bytes: 1024,
            early: false,
            args,
        };
        let limits = Limits { resident_blocks: 2, state_bytes: 64 << 20, ..Limits::default() };
        let schedule = Schedule::ALL[index % Schedule::ALL.len()];
        let options = Options { schedule, seed: 1, deterministic: true, limits, step_limit: 4000, ..Options::default() };
        results.push(launch(&module, &entry.name, &shape, &mut memory, &options));
    }
    Outcome::Ran(results)
}
