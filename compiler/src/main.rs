//! The `moec` command: arguments in, exit code out.
//! What the commands do is in `commands`, and everything worth calling from a program is in the library.

mod cli;
mod commands;
mod console;
mod doctor;
mod files;
mod interrupt;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use moec::diagnostics::{Code, Diagnostic, Exit};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(console::report_bug));
    interrupt::watch();
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(console::say_usage(&error) as u8),
    };
    if cli.verbose {
        console::say_stages(cli.message_format);
    }
    let environment = cli::check_environment().map_err(|why| Diagnostic::new(Code::Usage, why).into());
    let done = environment.and_then(|()| commands::run(&cli, &mut io::stdout().lock()));
    // What the signal broke is no news.
    interrupt::wait_if_stopping();
    let exit = match done {
        Ok(()) => Exit::Ok,
        Err(failure) => console::say(failure, &cli),
    };
    ExitCode::from(exit as u8)
}
