//! The command line as types: commands, flags and their help.
//! What a command does is in `commands`.

mod bounded;
mod entry;

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::builder::PossibleValue;
use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use moec::diagnostics::{Code, MessageFormat, Severity};
use moec::library::Kind;
use moec::routing::LayerRule;
use moec::spec::Ratio;
use moec_runtime::emulator::Sample;

use self::bounded::{BATCH, LAYER, RANKS, REPEAT, SCHEDULES, THREADS, TOKENS, TOP_K, batches, sample};
pub(crate) use self::bounded::{TokenCounts, check_environment};
pub(crate) use self::entry::{EntryArguments, EntryWord};
use crate::commands::InputArgument;

/// The version, the commit where it is known, and LLVM's version: what a report of a bug has to say.
pub(crate) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("MOEC_COMMIT").map_or(String::new(), |commit| format!("{commit}, "));
    format!("{} ({commit}LLVM {})", env!("CARGO_PKG_VERSION"), moec_codegen::llvm_version())
});

/// An ahead-of-time compiler for Mixture-of-Experts layers.
///
/// A spec goes in, a package of kernels comes out: PTX for NVIDIA GPUs, an object for the host CPU, a manifest.
///
/// Exit codes: 0 ok, 1 the input is wrong, 2 usage, 3 the environment lacks something, 4 a verification failed,
/// 101 a bug in moec, 130 Ctrl-C.
#[derive(Debug, Parser)]
#[command(
    name = "moec",
    version = VERSION.as_str(),
    arg_required_else_help = true,
    after_help = "Examples:
  moec import --preset mixtral-8x7b -o mixtral.toml
  moec compile mixtral.toml --target sm_90a,host -o mixtral.moec
  moec plan mixtral.toml --target sm_90a --tokens 1,64
  moec run mixtral.moec --tokens 16
`moec help COMMAND` has examples of each command."
)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Cli {
    /// How diagnostics are written to stderr.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) message_format: MessageFormat,
    /// When diagnostics are coloured; NO_COLOR and CLICOLOR_FORCE count where this says auto.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: ColorChoice,
    /// Say no notes and draw no progress; warnings and errors are said all the same.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Also say what the stages do: rules matched, kernels made, programs run.
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Warnings end the command as errors do.
    #[arg(long, global = true)]
    pub(crate) deny_warnings: bool,
    /// A warning that is not shown, by its code; may be given several times.
    #[arg(long, global = true, value_name = "CODE", value_parser = warning)]
    pub(crate) allow: Vec<Code>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The code of a warning: `MOE1101`.
fn warning(text: &str) -> Result<Code, String> {
    let code = Code::from_id(text).ok_or_else(|| format!("`{text}` is no code; `moec explain --list` prints all"))?;
    match code.severity() {
        Severity::Warning => Ok(code),
        Severity::Error => Err(format!("{} is an error, which cannot be allowed", code.id())),
    }
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub(crate) enum Command {
    /// Compile a spec into a package.
    #[command(after_help = "Examples:
  moec compile layer.toml --target sm_90a,host -o layer.moec
  moec compile layer.toml --target sm_90a --emit kernel,ptx --out-dir stages
  moec compile layer.toml --target sm_90a --emit rewritten --why -o -
  moec compile layer.toml --target sm_90a --entry experts --local-experts 8 -o experts.moec")]
    Compile(Compile),
    /// Say what a layer launches at some batch sizes, and what the cost model says of each kernel, beside the least for routing by chance.
    #[command(after_help = "Examples:
  moec plan layer.toml --target sm_90a
  moec plan layer.toml --target sm_90a,host --tokens 1,16,128,4096
  moec plan --preset qwen3-30b-a3b --target sm_90a --json plan.json --svg roofline.svg")]
    Plan(Plan),
    /// Make a library of packages, which any program runs through the C ABI, without moec.
    #[command(after_help = "Examples:
  moec link layer.moec -o liblayer.so
  moec link layer-sm_90a.moec layer-host.moec -o liblayer.a
  moec link router.moec experts.moec -o libmoe.so
  moec link layer.moec --emit c,header,obj --out-dir source
  moec link layer.moec --emit cdylib,jax --out-dir for-jax")]
    Link(Link),
    /// Check specs without compiling them, or run their PTX on the emulator with every check on.
    #[command(after_help = "Examples:
  moec check layer.toml
  moec check layer.toml --emulate --tokens 1,17,64
  moec check layer.moec --emulate --blocks 0,last --profile")]
    Check(Check),
    /// Run passes over a graph or kernel text.
    #[command(after_help = "Examples:
  moec compile layer.toml --emit graph -o layer.graph
  moec opt layer.graph --pipeline rewrite,schedule --target sm_90a")]
    Opt(Opt),
    /// Run a layer: compile it if it is a spec, load weights and tokens, print what happened.
    #[command(after_help = "Examples:
  moec run layer.toml --tokens 24 --reference
  moec run --preset olmoe-1b-7b --tokens 16
  moec run layer.moec --weights model.safetensors --tensor-prefix model.layers.0.mlp. --input x.safetensors:hidden")]
    Run(Run),
    /// Routing health of recorded logits: drops and waste by capacity factor and mode, hot and cold experts.
    #[command(after_help = "Examples:
  moec route layer.toml --logits trace.safetensors
  moec route layer.toml --logits trace.safetensors --html page.html --json report.json
  moec route layer.toml --hidden states.safetensors --weights model.safetensors")]
    Route(Route),
    /// Turn a Hugging Face config into a spec; say what was assumed, and what a checkpoint lacks.
    #[command(after_help = "Examples:
  moec import config.json --layer 3 -o layer.toml
  moec import config.json --layer 3 --check model.safetensors.index.json -o layer.toml
  moec import --preset list")]
    Import(Import),
    /// Say what is in a package or another file that moec wrote.
    #[command(after_help = "Examples:
  moec inspect layer.moec
  moec inspect layer.moec --manifest")]
    Inspect {
        /// A package, graph or kernel text, or PTX.
        file: PathBuf,
        /// Print a package's manifest as JSON.
        #[arg(long)]
        manifest: bool,
    },
    /// Explain a diagnostic code.
    #[command(after_help = "Examples:
  moec explain MOE0308
  moec explain --list")]
    Explain {
        /// A code such as MOE0101, or RT0203 of the runtime.
        #[arg(required_unless_present = "list")]
        code: Option<String>,
        /// Print every code.
        #[arg(long, conflicts_with = "code")]
        list: bool,
    },
    /// Print the JSON Schema of a spec, of a report, or of a package's manifest.
    #[command(after_help = "Examples:
  moec schema > moec.schema.json
  moec schema route
  moec schema plan
  moec schema manifest")]
    Schema {
        /// What it is the schema of.
        #[arg(value_enum, default_value_t = SchemaOf::Spec)]
        of: SchemaOf,
    },
    /// List the targets.
    #[command(after_help = "Example:
  moec targets")]
    Targets,
    /// Say what moec finds on this machine, and how fast it is.
    ///
    /// Memory is read, and products are made in registers, by one thread and by all: the fastest of seven tries. What was measured is
    /// remembered in `moec/limits.json` in XDG_CACHE_HOME, else in ~/.cache; `moec run` says how near a layer comes to it.
    #[command(after_help = "Examples:
  moec doctor
  moec doctor --no-measure")]
    Doctor {
        /// Measure and remember nothing.
        #[arg(long)]
        no_measure: bool,
    },
    /// Print a completion script for a shell.
    #[command(after_help = "Examples:
  moec completions bash > ~/.local/share/bash-completion/completions/moec
  moec completions fish > ~/.config/fish/completions/moec.fish")]
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print a man page, of moec or of one command.
    #[command(after_help = "Examples:
  moec man > moec.1
  moec man run | man -l -")]
    Man {
        /// The command whose page it is.
        command: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Specs to check; `-` is standard input. With --emulate also packages.
    #[arg(required_unless_present = "preset", value_name = "SPEC")]
    pub(crate) layers: Vec<PathBuf>,
    /// A published model in the specs' place; `list` prints the names.
    #[arg(long, value_name = "NAME", conflicts_with = "layers")]
    pub(crate) preset: Option<String>,
    #[command(flatten)]
    pub(crate) entry: EntryArguments,
    /// Compile, and execute the PTX on the CPU: out-of-bounds, uninitialised reads, races, deadlocks, and the result
    /// against the f64 interpreter.
    #[arg(long)]
    pub(crate) emulate: bool,
    /// The GPU to compile for; sm_90a where absent, or the first that a package has PTX for.
    #[arg(long, value_enum, value_name = "TARGET", requires = "emulate")]
    pub(crate) target: Option<Target>,
    /// Seed of random weights, tokens and schedules.
    #[arg(long, default_value_t = 0, requires = "emulate")]
    pub(crate) seed: u64,
    /// Schedules to run under; all must give the same bits.
    #[arg(long, value_name = "N", default_value_t = 3, requires = "emulate", value_parser = |text: &str| SCHEDULES.read::<u32>(text))]
    pub(crate) schedules: u32,
    /// Blocks of each kernel to run, such as `0,7,last`, on random content that is made where it is touched; `all` runs
    /// every one and compares the result. Layers of real size run `0,last` where this is absent.
    #[arg(long, value_name = "BLOCKS", requires = "emulate", value_parser = sample)]
    pub(crate) blocks: Option<Sample>,
    /// Token counts of the batches.
    #[arg(long, value_name = "T,...", default_value = "1,17,64", requires = "emulate")]
    pub(crate) tokens: TokenCounts,
    /// Print what each kernel did: instructions, bytes, sectors, bank conflicts. Counts, never times.
    #[arg(long, requires = "emulate")]
    pub(crate) profile: bool,
}

/// What a layer is read from.
#[derive(Debug, Args)]
pub(crate) struct SpecArguments {
    /// The spec; `-` is standard input.
    #[arg(required_unless_present = "preset")]
    pub(crate) spec: Option<PathBuf>,
    /// A published model in the spec's place; `list` prints the names.
    #[arg(long, value_name = "NAME", conflicts_with = "spec")]
    pub(crate) preset: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Compile {
    #[command(flatten)]
    pub(crate) of: SpecArguments,
    #[command(flatten)]
    pub(crate) entry: EntryArguments,
    /// Machines to compile for.
    #[arg(
        long = "target",
        value_enum,
        value_delimiter = ',',
        value_name = "TARGET,...",
        env = "MOEC_TARGET",
        default_value = "host"
    )]
    pub(crate) targets: Vec<Target>,
    /// What to write; several go into --out-dir.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND,...", default_value = "package")]
    pub(crate) emit: Vec<Emit>,
    /// The file to write; `-` is standard output. Where absent, files are named after the layer.
    #[arg(short, long, value_name = "FILE", conflicts_with = "out_dir")]
    pub(crate) output: Option<PathBuf>,
    /// The folder to write to; the current one where absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) out_dir: Option<PathBuf>,
    /// Print the chain of rewrites, and the cost before and after.
    #[arg(long)]
    pub(crate) why: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) of: SpecArguments,
    #[command(flatten)]
    pub(crate) entry: EntryArguments,
    /// Machines to plan for, a table each.
    #[arg(
        long = "target",
        value_enum,
        value_delimiter = ',',
        value_name = "TARGET,...",
        env = "MOEC_TARGET",
        default_value = "host"
    )]
    pub(crate) targets: Vec<Target>,
    /// Token counts of the batches; those of `tokens.expected` where absent.
    #[arg(long, value_name = "T,...", value_parser = batches)]
    pub(crate) tokens: Option<TokenCounts>,
    /// Where to write the plan as JSON; `-` prints it in the place of the tables.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where to write the roofline of one target as SVG: a dot an op and token count; `-` prints it in the place of the tables.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Link {
    /// Packages. Those of one name are one layer for different targets.
    #[arg(required = true, value_name = "PACKAGE")]
    pub(crate) packages: Vec<PathBuf>,
    /// What to write; several go into --out-dir.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND,...")]
    pub(crate) emit: Vec<Kind>,
    /// The file to write; `-` is standard output. Its suffix says what it is where --emit is absent: .so, .a, .o, .c, .h, .rs or
    /// .fatbin.
    #[arg(short, long, value_name = "FILE", conflicts_with = "out_dir")]
    pub(crate) output: Option<PathBuf>,
    /// The folder to write to; the current one where absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) out_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The model's config.json, or the folder that has it; `-` is standard input.
    #[arg(required_unless_present = "preset")]
    pub(crate) config: Option<PathBuf>,
    /// A published model in the config's place; `list` prints the names.
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub(crate) preset: Option<String>,
    /// The layer, counted from 0: tensor names are then whole. Without it they are those below the layer's prefix.
    #[arg(long, value_name = "N", value_parser = |text: &str| LAYER.read::<u64>(text))]
    pub(crate) layer: Option<u64>,
    /// A field of the config that concerns the layer and that no rule reads, or with --check a tensor of the layer that the
    /// spec does not use: go on without it. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_unread: Vec<String>,
    /// A checkpoint that must have every tensor that the spec names, and no other of the layer: a .safetensors file, the
    /// index of several, or their folder. Only headers are read.
    #[arg(long, value_name = "FILE")]
    pub(crate) check: Option<PathBuf>,
    /// What stands before every tensor name in the checkpoint; found where absent.
    #[arg(long, value_name = "PREFIX", requires = "check")]
    pub(crate) tensor_prefix: Option<String>,
    /// The spec to write; `-` is standard output.
    #[arg(short, long, value_name = "SPEC", default_value = "-")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Opt {
    /// Graph or kernel text; `-` is standard input.
    pub(crate) file: PathBuf,
    /// Passes to run, in order.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PASS,...", required = true)]
    pub(crate) pipeline: Vec<Pass>,
    /// The machine to rewrite for and to schedule for.
    #[arg(long, value_enum, value_name = "TARGET", default_value = "host")]
    pub(crate) target: Target,
    /// Token counts that the rewritten graphs are to be fast at.
    #[arg(long, value_name = "T,...", default_value = "1,64,4096")]
    pub(crate) tokens: TokenCounts,
    /// The largest batch that is served.
    #[arg(long, value_name = "T", default_value = "65536", value_parser = |text: &str| TOKENS.read::<u64>(text))]
    pub(crate) max_tokens: u64,
    /// One graph for all batch sizes, as `numerics.batch_invariant` asks for.
    #[arg(long)]
    pub(crate) batch_invariant: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A spec, or a package that `moec compile` wrote; `-` is a spec on standard input.
    #[arg(required_unless_present = "preset")]
    pub(crate) layer: Option<PathBuf>,
    /// A published model in the layer's place; `list` prints the names.
    #[arg(long, value_name = "NAME", conflicts_with = "layer")]
    pub(crate) preset: Option<String>,
    #[command(flatten)]
    pub(crate) entry: EntryArguments,
    /// Weights: a .safetensors file, the index of several, or a folder with either; seeded random ones where absent.
    #[arg(long, value_name = "PATH")]
    pub(crate) weights: Option<PathBuf>,
    /// What stands before every tensor name in the weights file.
    #[arg(long, value_name = "PREFIX", requires = "weights")]
    pub(crate) tensor_prefix: Option<String>,
    /// Tokens (safetensors), `[T, H]` or `[B, S, H]`; seeded random ones where absent.
    #[arg(long, value_name = "FILE[:TENSOR]")]
    pub(crate) input: Option<InputArgument>,
    /// Where to write the output, as the tensor `out.hidden`, and of a router `topk_ids` and `topk_weights`.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The device to run on.
    #[arg(long, value_enum, default_value_t = Device::Host)]
    pub(crate) device: Device,
    /// The GPU whose PTX the emulator runs; sm_90a where absent, or the first that a package has PTX for.
    #[arg(long, value_enum, value_name = "TARGET")]
    pub(crate) target: Option<Target>,
    /// Also run the f64 interpreter, and print the error.
    #[arg(long)]
    pub(crate) reference: bool,
    /// Random tokens to run on where there is no --input.
    #[arg(long, value_name = "T", conflicts_with = "input", value_parser = |text: &str| TOKENS.read::<u64>(text))]
    pub(crate) tokens: Option<u64>,
    /// Seed of random weights and tokens.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Threads of the host device; one a CPU where absent.
    #[arg(long, value_name = "N", value_parser = |text: &str| THREADS.read::<usize>(text))]
    pub(crate) threads: Option<usize>,
    /// Also print statistics of the routing: padding, hot and cold experts, probabilities, losses. As `json` they are all
    /// that is printed.
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    pub(crate) stats: Option<StatsFormat>,
    /// Runs to take the median time of, after one to warm up.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = |text: &str| REPEAT.read::<u32>(text))]
    pub(crate) repeat: u32,
}

impl Run {
    /// What the layer is called where something is wrong with it.
    pub(crate) fn path(&self) -> PathBuf {
        let preset = || format!("<preset {}>", self.preset.as_deref().unwrap_or_default()).into();
        self.layer.clone().unwrap_or_else(preset)
    }
}

/// How `moec run` prints statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatsFormat {
    /// Lines of the report.
    Text,
    /// One JSON object.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Route {
    /// The spec; `-` is standard input. Without it, --top-k and --capacity-factor say how logits are routed.
    #[arg(required_unless_present_any = ["preset", "top_k"])]
    pub(crate) spec: Option<PathBuf>,
    /// A published model in the spec's place; `list` prints the names.
    #[arg(long, value_name = "NAME", conflicts_with = "spec")]
    pub(crate) preset: Option<String>,
    /// Recorded router logits (safetensors, .npy or .npz): every float tensor `[T, E]` or `[B, S, E]` is a batch of its layer, in
    /// the order of the files and of the numbers in its name. The router's bias is in them, its scale and cap are not.
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "hidden", conflicts_with = "hidden")]
    pub(crate) logits: Vec<PathBuf>,
    /// Hidden states in the place of logits, `[T, H]` or `[B, S, H]`: what the layer sees.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "weights")]
    pub(crate) hidden: Vec<PathBuf>,
    /// Only tensors of this name; `*` stands for anything.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) tensor: Option<String>,
    /// Where the layer's number is in the names of tensors, such as `layers.{N}.*`; `none` takes all for batches of one layer.
    /// Words such as `layer`, `block` and `router_logits` before a number say it where this is absent.
    #[arg(long, value_name = "PATTERN", value_parser = LayerRule::parse)]
    pub(crate) layer_pattern: Option<LayerRule>,
    /// Only these layers of the trace.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = |text: &str| LAYER.read::<u64>(text))]
    pub(crate) layer: Vec<u64>,
    /// Which rows are tokens (1) and which padding (0): tensors of the trace by their name, FILE, or FILE:TENSOR. One after
    /// another they have an element for each row of a layer, in any shape, such as `[T]` or `[B, S]`.
    #[arg(long, value_name = "TENSOR")]
    pub(crate) mask: Option<String>,
    /// Rows to count that are left out otherwise: those with NaN or infinities, and those that are all zero, as padding is.
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    pub(crate) keep: Vec<KeptRows>,
    /// Weights: a file, an index or a folder as `moec run` takes them, of which only the router's are read. The correction
    /// bias may also be in the trace.
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// What stands before every tensor name in the weights file; `{N}` stands for the layer's number.
    #[arg(long, value_name = "PREFIX", requires = "weights")]
    pub(crate) tensor_prefix: Option<String>,
    /// Route without the correction bias that the spec has.
    #[arg(long)]
    pub(crate) no_correction: bool,
    /// Cut longer tensors into batches of this many tokens; `tokens.max` of the spec where absent, without a spec nowhere.
    #[arg(long, value_name = "TOKENS", value_parser = |text: &str| BATCH.read::<u64>(text))]
    pub(crate) batch: Option<u64>,
    /// The share of (token, expert) pairs that the recommended capacity factor may drop.
    #[arg(long, value_name = "SHARE", default_value = "0.01", value_parser = share)]
    pub(crate) target_drop: Ratio,
    /// Without a spec: the experts that a token picks. Where the spec's experts choose: the picks of the tokens that choose beside
    /// them; as many as a token has in the mean where absent.
    #[arg(long, value_name = "K", value_parser = |text: &str| TOP_K.read::<u64>(text))]
    pub(crate) top_k: Option<u64>,
    /// Without a spec: C = ceil(FACTOR S K / E); dropless where absent.
    #[arg(long, value_name = "FACTOR", conflicts_with_all = ["spec", "preset"], value_parser = factor)]
    pub(crate) capacity_factor: Option<Ratio>,
    /// Without a spec: the function from logits to scores.
    #[arg(long, value_name = "SCORE", conflicts_with_all = ["spec", "preset"], default_value = "softmax",
        value_parser = ["softmax", "sigmoid", "sqrtsoftplus", "identity"])]
    pub(crate) score: String,
    /// Without a spec: what the picked scores are divided by. It matters where --priority is by weight.
    #[arg(long, value_name = "RENORM", conflicts_with_all = ["spec", "preset"], default_value = "none",
        value_parser = ["none", "sum"])]
    pub(crate) renorm: String,
    /// Without a spec: which pairs a full expert keeps.
    #[arg(long, value_name = "PRIORITY", conflicts_with_all = ["spec", "preset"], default_value = "choice_major",
        value_parser = ["choice_major", "token_major", "score", "batch_prioritized"])]
    pub(crate) priority: String,
    /// Devices that the experts are to lie on, equally many on each: which experts go together, so that none has much more to do.
    #[arg(long, value_name = "N", value_parser = |text: &str| RANKS.read::<usize>(text))]
    pub(crate) ranks: Option<usize>,
    /// Where to write the report as JSON; `-` prints it in the place of the text.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where to write the report as a page with plots, one file; `-` prints it in the place of the text.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// Rows that `moec route` leaves out unless it is told to keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeptRows {
    /// With NaN or infinities: routed as the layer routes them.
    NonFinite,
    /// All zero.
    Zero,
}

/// What `moec schema` prints the JSON Schema of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaOf {
    /// A spec.
    Spec,
    /// The report of `moec route --json`, whose names are those of its text.
    Route,
    /// The plan of `moec plan --json`.
    Plan,
    /// The manifest of a package, as `moec inspect --manifest` prints it.
    Manifest,
}

/// A decimal above 0.
fn factor(text: &str) -> Result<Ratio, String> {
    let ratio = Ratio::from_decimal(text).filter(|ratio| ratio.numerator > 0);
    ratio.ok_or_else(|| format!("`{text}` is no decimal above 0, such as 1.25"))
}

/// A decimal from 0 to 1.
fn share(text: &str) -> Result<Ratio, String> {
    let ratio = Ratio::from_decimal(text).filter(|ratio| ratio.numerator <= ratio.denominator);
    ratio.ok_or_else(|| format!("`{text}` is no decimal from 0 to 1, such as 0.01"))
}

/// A pass of `moec opt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pass {
    /// Check the graph, or the kernels for the target.
    Verify,
    /// Graph to graph: the cheapest equal one.
    Rewrite,
    /// Graph to kernels.
    Schedule,
}

/// A machine to compile for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// A100.
    #[value(name = "sm_80")]
    Sm80,
    /// RTX 30, A40.
    #[value(name = "sm_86")]
    Sm86,
    /// RTX 40, L4, L40.
    #[value(name = "sm_89")]
    Sm89,
    /// H100, H200.
    #[value(name = "sm_90a")]
    Sm90a,
    /// B200.
    #[value(name = "sm_100a")]
    Sm100a,
    /// RTX 50.
    #[value(name = "sm_120a")]
    Sm120a,
    /// The CPU that moec runs on.
    #[value(name = "host")]
    Host,
    /// Any CPU with AVX2 and FMA.
    #[value(name = "x86-64-v3")]
    X86V3,
    /// Any CPU with AVX-512.
    #[value(name = "x86-64-v4")]
    X86V4,
    /// Any CPU with AVX-512 and its bf16 dot products.
    #[value(name = "x86-64-v4-bf16")]
    X86V4Bf16,
    /// Any 64-bit Arm CPU.
    #[value(name = "aarch64")]
    Aarch64,
    /// Any 64-bit Arm CPU with bf16 dot products.
    #[value(name = "aarch64-bf16")]
    Aarch64Bf16,
}

/// A stage to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emit {
    Package,
    Graph,
    Rewritten,
    Kernel,
    Llvm,
    Ptx,
    Cubin,
    SharedObject,
    Manifest,
    /// What is linked of the package.
    Library(Kind),
}

impl ValueEnum for Emit {
    fn value_variants<'a>() -> &'a [Emit] {
        const STAGES: [Emit; 9] = [
            Emit::Package,
            Emit::Graph,
            Emit::Rewritten,
            Emit::Kernel,
            Emit::Llvm,
            Emit::Ptx,
            Emit::Cubin,
            Emit::SharedObject,
            Emit::Manifest,
        ];
        static ALL: LazyLock<Vec<Emit>> = LazyLock::new(|| {
            let libraries = Kind::value_variants().iter().map(|kind| Emit::Library(*kind));
            STAGES.into_iter().chain(libraries).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Emit::Package => ("package", "The package, one file"),
            Emit::Graph => ("graph", "What the layer means"),
            Emit::Rewritten => ("rewritten", "The graph after rewriting"),
            Emit::Kernel => ("kernel", "The kernels"),
            Emit::Llvm => ("llvm", "LLVM IR"),
            Emit::Ptx => ("ptx", "PTX"),
            Emit::Cubin => ("cubin", "SASS, where ptxas is found"),
            Emit::SharedObject => ("shared-object", "The host's kernels alone, as a shared object"),
            Emit::Manifest => ("manifest", "The package's manifest"),
            Emit::Library(kind) => return kind.to_possible_value(),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

/// Where `moec run` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// This CPU.
    Host,
    /// An NVIDIA GPU.
    Cuda,
    /// The PTX itself, executed and checked on this CPU.
    Emulator,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command has an example, and every example is a command line.
    #[test]
    fn examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(|help| help.to_string()).unwrap_or_default();
            let lines: Vec<&str> = help.lines().skip(1).collect();
            assert!(!lines.is_empty(), "{}", command.get_name());
            assert!(lines.iter().any(|line| line.contains(&format!("moec {}", command.get_name()))), "{}", command.get_name());
            for line in lines {
                let words = line.split(['>', '|']).next().unwrap_or_default().split_whitespace();
                assert!(Cli::try_parse_from(words).is_ok(), "{line}");
            }
        }
    }

    /// A command's own options are listed before those of every command.
    #[test]
    fn own_options_come_first() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = command.render_help().to_string();
            let own = help.find("\nOptions:").unwrap_or_else(|| panic!("{help}"));
            let global = help.find("\nGlobal options:").unwrap_or_else(|| panic!("{help}"));
            assert!(own < global, "{help}");
        }
    }
}
