//! The `moec` command: arguments in, exit code out.
//! What the commands do is in `commands`, and everything worth calling from a program is in the library.

mod cli;
mod commands;
mod console;
mod doctor;
mod files;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use moec::diagnostics::Exit;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(console::report_bug));
    let cli = cli::Cli::parse();
    let exit = match commands::run(&cli, &mut io::stdout().lock()) {
        Ok(()) => Exit::Ok,
        Err(failure) => console::say(failure, &cli),
    };
    ExitCode::from(exit as u8)
}
