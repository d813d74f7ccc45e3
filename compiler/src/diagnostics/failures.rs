//! The errors of the other rooms as diagnostics: the code of each, and what to do about it.
//! Those of a layer that was a spec point at the keys that they are about; for others a caller that knows the file puts it into the
//! report.

use moec_ir::schedule::ScheduleError;
use moec_runtime::{ErrorCode, ErrorGroup};

use super::{Code, Diagnostic, Source, blame};
use crate::import::Entry;
use crate::library::Refused;
use crate::pipeline;
use crate::reference::ReferenceError;
use crate::spec::{self, Blamed, Spec};

/// What to send with a bug.
const SEND: &str = "please send the spec, the command line and this message";

impl From<pipeline::Error> for Diagnostic {
    fn from(error: pipeline::Error) -> Diagnostic {
        match error {
            pipeline::Error::Vocabulary => Diagnostic::new(Code::MissingKey, error.to_string()),
            pipeline::Error::Entry(error) => Diagnostic::new(Code::NoEntry, error.to_string()).help(error.help()),
            pipeline::Error::Graph(violations) => {
                let diagnostic = bug("the spec became a graph that is not well typed");
                violations.into_iter().fold(diagnostic, |diagnostic, violation| diagnostic.note(violation.message))
            }
            pipeline::Error::Schedule(error) => error.into(),
            pipeline::Error::Kernel { machine, text } => {
                bug(&format!("the kernels for {machine} break a rule")).note(text.trim_end().to_string())
            }
            pipeline::Error::Codegen(error) => error.into(),
            pipeline::Error::Package(error) if error.kind() == ErrorCode::Workspace => {
                Diagnostic::new(Code::LimitExceeded, error.message()).help("allow more, or leave the key out")
            }
            pipeline::Error::Package(error) => bug("the package does not describe its images").note(error.to_string()),
        }
    }
}

impl Diagnostic {
    /// Why the spec in `source` has no package, at the keys that this is about.
    pub fn of_spec(error: pipeline::Error, source: &Source) -> Diagnostic {
        let keys = match &error {
            pipeline::Error::Vocabulary => return spec::vocabulary_missing(source),
            pipeline::Error::Entry(error) => error.keys(),
            pipeline::Error::Schedule(error) => blame::of_schedule(error),
            pipeline::Error::Codegen(error) => blame::of_codegen(error),
            // Bugs: no key is at fault.
            pipeline::Error::Package(error) if error.kind() == ErrorCode::Workspace => {
                &[("tokens.workspace", "the most that there may be")]
            }
            pipeline::Error::Graph(_) | pipeline::Error::Kernel { .. } | pipeline::Error::Package(_) => &[],
        };
        spec::located(error.into(), source, keys)
    }

    /// What is said of an error of the layer's weights in a checkpoint, whose names carry `prefix`, at the keys of the spec in
    /// `source` that it is about.
    #[must_use]
    pub fn at_weights(self, error: &moec_runtime::Error, (spec, source): (&Spec, &Source), prefix: &str) -> Diagnostic {
        let keys = blame::of_weights(error, spec, prefix);
        let keys: Vec<(&str, &str)> = keys.iter().map(|(key, text)| (key.as_str(), *text)).collect();
        spec::located(self, source, &keys)
    }

    /// The warning that an entry leaves parts of the layer in `source` to its caller, at the keys that ask for these.
    #[must_use]
    pub fn of_entry(spec: &Spec, entry: Entry, source: &Source) -> Option<Diagnostic> {
        let keys = entry.left_out(spec);
        let parts: Vec<&str> = keys.iter().map(|(_, part)| *part).collect();
        let message = format!("`--entry {}` leaves to its caller: {}", entry.word(), parts.join(", "));
        let diagnostic = || {
            let help = "compute them beside the call, and say so by `--allow MOE1115`, or compile `--entry layer`";
            Diagnostic::new(Code::LeftToCaller, message).help(help)
        };
        (!keys.is_empty()).then(|| spec::located(diagnostic(), source, &keys))
    }

    /// An error of a run of the layer that the spec in `source` describes, at the keys that it is about.
    pub fn of_run(error: moec_runtime::Error, source: &Source) -> Diagnostic {
        let keys: &[Blamed] = match error.kind() {
            ErrorCode::TokensAboveMax => &[("tokens.max", "the most that the layer is compiled for")],
            _ => &[],
        };
        spec::located(error.into(), source, keys)
    }
}

impl From<ScheduleError> for Diagnostic {
    fn from(error: ScheduleError) -> Diagnostic {
        let help = match &error {
            ScheduleError::Wiring { .. } | ScheduleError::Leaf { .. } => return bug(&error.to_string()),
            ScheduleError::Extent { .. } => "make `tokens.max` or the layer smaller",
            ScheduleError::Shared { .. } => "compile for a machine whose blocks share more, or make the layer smaller",
            ScheduleError::Unfused { .. } | ScheduleError::Body { .. } | ScheduleError::Operand { .. } => {
                "run the pass `rewrite` first; if it was run, this combination of keys is not supported yet"
            }
            ScheduleError::Public { .. } => "take the graphs of a layer from one run of the pass `rewrite`",
            ScheduleError::Result { .. } => "end the layer with a `combine` or a `gemm`",
        };
        Diagnostic::new(Code::NoKernels, error.to_string()).help(help)
    }
}

impl From<moec_codegen::Error> for Diagnostic {
    fn from(error: moec_codegen::Error) -> Diagnostic {
        use moec_codegen::Error;
        let message = error.to_string();
        match error {
            Error::Malformed { .. } | Error::Llvm { .. } | Error::Link { .. } => bug(&message),
            Error::Unsupported { .. } | Error::Shared { .. } => {
                Diagnostic::new(Code::NoKernels, message).help("compile for another machine; `moec targets` lists them")
            }
            Error::NoLinker { .. } => {
                Diagnostic::new(Code::ToolMissing, message).help("unset MOEC_CC: host objects need no C compiler to be linked")
            }
            Error::Tool { .. } | Error::Io { .. } => Diagnostic::new(Code::ToolFailed, message)
                .help("`moec doctor` shows the tools in use; `MOEC_PTXAS=` (set to nothing) compiles without ptxas"),
        }
    }
}

impl From<Refused> for Diagnostic {
    fn from(error: Refused) -> Diagnostic {
        let message = error.to_string();
        match error {
            Refused::Clash(_) => Diagnostic::new(Code::CannotLink, message).help(
                "give layers different names; packages of one name are one layer, compiled from one spec for different targets",
            ),
            Refused::Mixed(..) => Diagnostic::new(Code::CannotLink, message)
                .help("link a library for each kind of CPU: `--target` and packages may name several of one kind, and GPUs"),
            Refused::Nameless => Diagnostic::new(Code::UsageConflict, message).help("name it by `-o libmoe.so`"),
            Refused::Linker(_) => bug(&message),
            Refused::NoLauncher(_) => Diagnostic::new(Code::ToolMissing, message)
                .help("emit `c,header,obj`, and link them with a C compiler for the machine"),
            Refused::NoGpu(_) => Diagnostic::new(Code::UsageConflict, message).help("add `--target sm_90a` to what compiles it"),
            Refused::NoFatbinary => Diagnostic::new(Code::ToolMissing, message).help(
                "name one by MOEC_FATBINARY (it is beside ptxas in CUDA's toolkit; `make setup` unpacks it), or emit `ptx,cubin`",
            ),
            Refused::Tool(_) => Diagnostic::new(Code::ToolFailed, message).help("`moec doctor` shows the tools in use"),
            Refused::Formula(_) | Refused::Image { .. } => Diagnostic::new(Code::CannotLink, message)
                .help("compile the spec again with this moec; if it says so of its own package, that is a bug"),
        }
    }
}

/// The code that an error of the runtime is reported under: one for each of its groups.
pub fn of_runtime(code: ErrorCode) -> Code {
    match code.group() {
        ErrorGroup::Package => Code::BadPackage,
        ErrorGroup::Weights => Code::BadCheckpoint,
        ErrorGroup::Arguments => Code::BadBatch,
        ErrorGroup::Environment => Code::NoDevice,
        ErrorGroup::Device => Code::DeviceFailed,
    }
}

impl From<moec_runtime::Error> for Diagnostic {
    fn from(error: moec_runtime::Error) -> Diagnostic {
        let diagnostic = Diagnostic::new(of_runtime(error.kind()), error.message());
        let diagnostic = match error.help() {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        };
        diagnostic.note(format!("the runtime's code is {}", error.code()))
    }
}

impl From<ReferenceError> for Diagnostic {
    fn from(error: ReferenceError) -> Diagnostic {
        bug(&error.to_string())
    }
}

fn bug(message: &str) -> Diagnostic {
    Diagnostic::new(Code::Bug, message).help(SEND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_runtimes_blame() {
        for code in ErrorCode::ALL {
            assert_eq!(of_runtime(*code).exit() as u8, code.group().blame().exit_code(), "{}", code.id());
        }
    }

    /// Also where the reason, which comes from the system, has a semicolon.
    #[test]
    fn message_and_help_are_the_runtimes() {
        use moec_runtime::Error;
        let why = || "refused; twice".to_string();
        for (error, message, help) in [
            (
                Error::TokensAboveMax { tokens: 2, max: 1 },
                "2 tokens, the package serves at most 1",
                Some("split the batch, or compile with a larger `[tokens] max`"),
            ),
            (Error::Read { path: "w".into(), why: why() }, "cannot read `w`: refused; twice", None),
            (Error::NoDriver { why: why() }, "no NVIDIA driver: refused; twice", Some("install one, or use the host device")),
        ] {
            let diagnostic = Diagnostic::from(error);
            assert_eq!((diagnostic.message.as_str(), diagnostic.help.as_deref()), (message, help));
        }
    }
}
