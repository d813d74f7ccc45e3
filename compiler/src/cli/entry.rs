//! `--entry`: which part of a layer a command is about.

use clap::{Args, ValueEnum};

use super::bounded::LOCAL_EXPERTS;

/// Which part of a layer is compiled.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct EntryArguments {
    /// The part of the layer that is compiled; all of it where absent. A package has its own.
    #[arg(long, value_enum, value_name = "ENTRY")]
    pub(crate) entry: Option<EntryWord>,
    /// Of `--entry experts`: so many of the experts have their weights here, and an input says which; all where absent.
    #[arg(long, value_name = "N", requires = "entry", value_parser = |text: &str| LOCAL_EXPERTS.read::<u64>(text))]
    pub(crate) local_experts: Option<u64>,
}

/// A part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EntryWord {
    /// All of it, its router included.
    Layer,
    /// Its routed experts, after a routing that the caller has: ids and weights of picks come in.
    Experts,
    /// Its router alone: ids and weights of picks come out.
    Router,
}
