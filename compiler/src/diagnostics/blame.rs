//! Which keys of a spec an error of a later stage is about, the one at fault first.

use moec_ir::graph::{Op, Pointwise};
use moec_ir::schedule::{Counted, ScheduleError, op_of};
use moec_runtime::Error;

use crate::spec::{Blamed, Spec, Tensor, Word};

/// The keys whose values are too large together, or that ask for what has no kernel.
pub(super) fn of_schedule(error: &ScheduleError) -> &'static [Blamed] {
    match error {
        ScheduleError::Shared { op, .. }
        | ScheduleError::Unfused { op, .. }
        | ScheduleError::Body { inside: op, .. }
        | ScheduleError::Operand { op, .. } => of_op(*op),
        ScheduleError::Extent { what, .. } => of_count(*what),
        ScheduleError::Leaf { .. }
        | ScheduleError::Wiring { .. }
        | ScheduleError::Public { .. }
        | ScheduleError::Result { .. } => &[],
    }
}

fn of_count(what: Counted) -> &'static [Blamed] {
    match what {
        Counted::Picks => &[("router.top_k", "picks of a token"), ("router.joint_shared", "picks that are every token's")],
        Counted::Slots => &[("router.slots", "slots an expert"), ("moe.experts", "experts")],
        Counted::Dimension => &[
            ("moe.hidden", "the width of a row"),
            ("expert.intermediate", "the width of a row between two products"),
            ("router.vocabulary", "the rows of the table of token ids"),
        ],
    }
}

/// The keys that a kernel follows from which the machine cannot run. None where moec itself or a tool is at fault.
pub(super) fn of_codegen(error: &moec_codegen::Error) -> &'static [Blamed] {
    use moec_codegen::Error;
    match error {
        Error::Unsupported { kernel, .. } | Error::Shared { kernel, .. } => op_of(kernel).map_or(&[], of_op),
        Error::Malformed { .. }
        | Error::Llvm { .. }
        | Error::Link { .. }
        | Error::NoLinker { .. }
        | Error::Tool { .. }
        | Error::Io { .. } => &[],
    }
}

/// The keys that ask for an op, or say how large its rows are.
fn of_op(op: Op) -> &'static [Blamed] {
    match op {
        Op::Gemm | Op::GroupedGemm | Op::Launch | Op::Item | Op::List | Op::Combine | Op::Dispatch => WIDTHS,
        Op::Route | Op::TopK | Op::AllExperts | Op::Leading | Op::Assign | Op::Part | Op::PairWeights => ROUTER,
        Op::Given | Op::Picked => ROUTER,
        Op::SparseMixer => &[("router.select", "asks for it"), ("moe.experts", "the columns of a row of logits")],
        Op::HashPicks | Op::Within => {
            &[("router.mode", "looks experts up by token id"), ("router.vocabulary", "the rows of the table of token ids")]
        }
        Op::Joint | Op::PickWeights => {
            &[("router.joint_shared", "picks that are every token's"), ("router.top_k", "picks of a token")]
        }
        Op::GroupLimit => &[("router.groups", "groups of experts"), ("router.topk_groups", "groups that stay selectable")],
        Op::Renorm => &[("router.renorm", "asks for it"), ("router.top_k", "the picks of a token")],
        Op::RenormKept => &[("capacity.renorm_after_drop", "asks for it"), ("router.top_k", "the picks of a token")],
        Op::ExpertScale => &[
            ("weights.per_expert_scale", "a factor for each expert"),
            ("weights.router_global_scale", "a factor for all experts"),
        ],
        Op::BestScore => &[("capacity.priority", "serves tokens by their best score")],
        Op::WithoutRows | Op::IdentityInput => &[("router.identity_experts", "experts that compute nothing")],
        Op::DroppedInput => &[("capacity.dropped", "asks for it"), ("moe.hidden", "the width of a row")],
        Op::Observe | Op::Counted | Op::Losses => &[
            ("training.aux_loss", "counts every expert"),
            ("training.z_coef", "adds a loss"),
            ("moe.experts", "the experts that are counted"),
        ],
        Op::BiasUpdate => &[("training.bias_update_rate", "asks for it")],
        Op::Jitter => &[("training.jitter", "asks for it"), ("moe.hidden", "the width of a row")],
        Op::ExpertRows => &[("expert.bias", "asks for it"), ("expert.intermediate", "the width of a row between two products")],
        Op::Flatten | Op::Slots | Op::TokenSoftmax | Op::SoftDispatch | Op::SoftCombine => {
            &[("router.slots", "slots an expert"), ("moe.experts", "experts"), ("moe.hidden", "the width of a row")]
        }
        Op::Softmax => &[("router.score", "a softmax"), ("moe.experts", "the columns of a row of logits")],
        Op::RmsNorm => &[
            ("router.input_norm", "a norm of rows"),
            ("router.norm", "a norm of rows"),
            ("moe.output_norm", "a norm of rows"),
            ("moe.hidden", "the width of a row"),
        ],
        Op::Pointwise(op) => of_pointwise(op),
    }
}

const WIDTHS: &[Blamed] =
    &[("moe.hidden", "the width of a row"), ("expert.intermediate", "the width of a row between two products")];

const ROUTER: &[Blamed] = &[
    ("moe.experts", "the columns of a row of logits"),
    ("router.top_k", "the picks of a token"),
    ("router.groups", "groups of experts"),
];

fn of_pointwise(op: Pointwise) -> &'static [Blamed] {
    match op {
        Pointwise::MaskTokens => &[("tokens.mask", "asks for it"), ("moe.hidden", "the width of a row")],
        Pointwise::SqrtSoftplus => &[("router.score", "asks for it")],
        Pointwise::Silu | Pointwise::Gelu | Pointwise::GeluTanh | Pointwise::Relu | Pointwise::Square => {
            &[("expert.activation", "asks for it"), ("expert.intermediate", "the width of a row between two products")]
        }
        Pointwise::AtMost | Pointwise::AtLeast => &[("expert.clamp_limit", "asks for it")],
        Pointwise::Tanh => &[("router.logit_softcap", "a cap"), ("expert.gate_softcap", "a cap"), ("expert.up_softcap", "a cap")],
        Pointwise::Tf32 => &[("numerics.tf32", "asks for it")],
        Pointwise::Offset => &[("expert.up_offset", "asks for it")],
        Pointwise::Cast | Pointwise::Scale | Pointwise::Sigmoid | Pointwise::Add | Pointwise::Mul => WIDTHS,
    }
}

/// The entry of `[weights]` that an error of a checkpoint is about, whose names carry `prefix`, and of a shape the sizes that it
/// follows from.
pub(super) fn of_weights(error: &Error, spec: &Spec, prefix: &str) -> Vec<(String, &'static str)> {
    let Some(tensor) = stored(error).and_then(|name| tensor_of(spec, name.strip_prefix(prefix)?)) else { return Vec::new() };
    let sizes = match error {
        Error::TensorShape { .. } => sizes(tensor),
        Error::MissingExperts { .. } | Error::MoreExperts { .. } => EXPERTS,
        _ => &[],
    };
    let entry = (format!("weights.{}", tensor.word()), "says where it is stored");
    std::iter::once(entry).chain(sizes.iter().map(|(key, text)| (key.to_string(), *text))).collect()
}

/// The name of the stored tensor that is not as a spec says.
fn stored(error: &Error) -> Option<&str> {
    match error {
        Error::MissingTensor { candidates, .. } => candidates.first().map(String::as_str),
        Error::MissingExperts { name, .. } | Error::MoreExperts { name, .. } => Some(name),
        Error::TensorShape { tensor, .. } | Error::TensorDType { tensor, .. } | Error::TensorRange { tensor, .. } => Some(tensor),
        // The runtime's errors are an open list: others are of files, and not of what a spec says of them.
        _ => None,
    }
}

/// The tensor that a spec looks for under this name.
fn tensor_of(spec: &Spec, stored: &str) -> Option<Tensor> {
    let is_named = |name: &String| match name.split_once(crate::spec::EXPERT_INDEX) {
        None => name == stored,
        Some((before, after)) => {
            let number = stored.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        }
    };
    spec.weights.iter().find(|weight| weight.names.iter().any(is_named)).map(|weight| weight.tensor)
}

const HIDDEN: Blamed = ("moe.hidden", "H");
const INNER: Blamed = ("expert.intermediate", "F");
const LATENT: Blamed = ("expert.latent", "the width that experts see");
const EXPERTS: &[Blamed] = &[("moe.experts", "experts")];
const COLUMNS: &[Blamed] = &[
    ("moe.experts", "experts"),
    ("router.identity_experts", "columns of the router"),
    ("router.joint_shared", "columns of the router"),
];
const SHARED: &[Blamed] = &[("shared.intermediate", "the inner width"), ("shared.count", "side by side"), HIDDEN];

/// The keys that a tensor's shape follows from.
fn sizes(tensor: Tensor) -> &'static [Blamed] {
    match tensor {
        Tensor::Router => const { &[COLUMNS[0], COLUMNS[1], COLUMNS[2], HIDDEN] },
        Tensor::RouterBias | Tensor::CorrectionBias | Tensor::PerExpertScale => COLUMNS,
        Tensor::RouterInputScale | Tensor::TokenGain | Tensor::SlotGain | Tensor::OutputBias | Tensor::OutputNorm => &[HIDDEN],
        Tensor::RouterGlobalScale | Tensor::SlotScale => &[],
        Tensor::HashTable => &[("router.vocabulary", "token ids"), ("router.top_k", "picks of a token")],
        Tensor::Slots => &[("router.slots", "slots an expert"), ("moe.experts", "experts"), HIDDEN],
        Tensor::Gate | Tensor::Up | Tensor::GateUp | Tensor::Down => &[("moe.experts", "experts"), INNER, HIDDEN, LATENT],
        Tensor::GateBias | Tensor::UpBias | Tensor::GateUpBias => &[("moe.experts", "experts"), INNER],
        Tensor::DownBias => &[("moe.experts", "experts"), HIDDEN, LATENT],
        Tensor::LatentIn | Tensor::LatentOut => &[LATENT, HIDDEN],
        Tensor::SharedGate
        | Tensor::SharedUp
        | Tensor::SharedGateUp
        | Tensor::SharedDown
        | Tensor::SharedGateBias
        | Tensor::SharedUpBias
        | Tensor::SharedGateUpBias
        | Tensor::SharedDownBias => SHARED,
        Tensor::SharedGateProj => &[HIDDEN],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::{Diagnostic, Source};
    use crate::pipeline;

    #[test]
    fn every_key_is_one_of_the_spec() {
        let of_ops = Op::ALL.iter().flat_map(|op| of_op(*op));
        let of_tensors = Tensor::ALL.iter().flat_map(|tensor| sizes(*tensor));
        let of_counts = [Counted::Picks, Counted::Slots, Counted::Dimension].into_iter().flat_map(of_count);
        let unknown: Vec<&str> =
            of_ops.chain(of_tensors).chain(of_counts).map(|(key, _)| *key).filter(|key| !crate::spec::has_key(key)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert!(Op::ALL.iter().all(|op| !of_op(*op).is_empty()));
    }

    /// A machine that cannot run a kernel: at the keys that the kernel follows from.
    #[test]
    fn errors_of_codegen_have_places() {
        let text = "[moe]\nhidden = 8\nexperts = 4\n[router]\ntop_k = 2\n[expert]\nintermediate = 16\n".to_string();
        let source = Source { name: "late.toml".into(), text };
        let placed = |error: moec_codegen::Error| {
            let diagnostic = Diagnostic::of_spec(pipeline::Error::Codegen(error), &source);
            diagnostic.labels.into_iter().map(|label| source.text[label.span].to_string()).collect::<Vec<_>>()
        };
        let unsupported = |kernel: &str| moec_codegen::Error::Unsupported {
            kernel: kernel.to_string(),
            what: "blocks of 2048 threads".to_string(),
            machine: "sm_80",
        };
        assert_eq!(placed(unsupported("route_and_sort_router_2")), ["4", "2"]);
        assert_eq!(placed(unsupported("grouped_gemm_gate_up")), ["8", "16"]);
        let kernel = "sort_count".to_string();
        assert_eq!(placed(moec_codegen::Error::Shared { kernel, bytes: 2, limit: 1, machine: "sm_80" }), ["4", "2"]);
        assert_eq!(placed(moec_codegen::Error::NoLinker { tried: "cc".to_string() }), [] as [&str; 0]);
    }
}
