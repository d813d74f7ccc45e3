//! The tests of this crate, a module a file: one program, which is linked once and spreads its tests over all cores.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_specs;
mod caps_and_norms;
mod cli;
mod cli_compare;
mod cli_compile;
mod cli_entries;
mod cli_fatbin;
mod cli_files;
mod cli_import;
mod cli_inspect;
mod cli_interrupt;
mod cli_limits;
mod cli_link;
mod cli_opt;
mod cli_pages;
mod cli_plan;
mod cli_route;
mod cli_route_traces;
mod cli_run;
mod command;
mod emulate;
mod engines;
mod hostile;
mod hugging_face;
mod import_accounts;
mod import_check;
mod import_fields;
mod import_layers;
mod ties;
