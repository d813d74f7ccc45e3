//! The keys of a spec: one table that the reader, `moec schema` and the documentation all follow.
//! Rules that involve two keys are in `check`; how a value becomes a field of the model is in `resolve`.

use Fallback::{Absent, Required};
use Sign::{Any, NonNegative, Positive};
use Takes::{Boolean, Integer, Integers, Number, Stored, Text, Word, WordOrInteger};

/// A table of the spec, such as `[router]`.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    pub(super) required: bool,
    pub(super) keys: &'static [Key],
}

/// One key of a table.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) default: Fallback,
    pub(super) doc: &'static str,
}

/// The values that a key takes.
#[derive(Clone, Copy)]
pub(super) enum Takes {
    Text,
    Boolean,
    Integer(u64, u64),
    Integers(u64, u64),
    Number(Sign),
    /// A positive decimal that is kept exactly.
    Ratio,
    Word(&'static [Choice]),
    WordOrInteger(&'static [Choice], u64, u64),
    /// A number of bytes, or a text with a unit: `"256 MB"`.
    Bytes,
    /// A recipe of `[weights]`.
    Stored,
}

/// The numbers that a key takes; all of them finite and representable in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Positive,
    NonNegative,
    Any,
}

/// A word that a key takes.
pub(super) struct Choice {
    pub(super) word: &'static str,
    /// What it was called in earlier versions; specs that say so are read, with a warning.
    pub(super) old: Option<&'static str>,
    pub(super) doc: &'static str,
}

/// What an absent key means.
#[derive(Clone, Copy)]
pub(super) enum Fallback {
    /// An error.
    Required,
    /// Something that no value spells.
    Absent,
    Boolean(bool),
    Integer(u64),
    Number(f64),
    Word(&'static str),
    Integers(&'static [u64]),
}

/// The widest hidden or intermediate size.
const MAX_WIDTH: u64 = 1 << 20;
/// The most experts.
const MAX_EXPERTS: u64 = 4096;
/// The most experts of one token.
const MAX_TOP_K: u64 = 64;
/// The most token ids.
const MAX_VOCABULARY: u64 = 1 << 24;
/// The most tokens of one launch.
const MAX_TOKENS: u64 = (1 << 31) - 1;

const fn key(name: &'static str, takes: Takes, default: Fallback, doc: &'static str) -> Key {
    Key { name, takes, default, doc }
}

const fn choice(word: &'static str, doc: &'static str) -> Choice {
    Choice { word, old: None, doc }
}

/// A word that was another one in earlier versions.
const fn renamed(old: &'static str, word: &'static str, doc: &'static str) -> Choice {
    Choice { word, old: Some(old), doc }
}

/// A key of `[weights]`.
const fn stored(name: &'static str, doc: &'static str) -> Key {
    key(name, Stored, Absent, doc)
}

/// The table of this name.
pub(super) fn table(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}

const ACTIVATIONS: &[Choice] = &[
    choice("silu", "x * sigmoid(x)"),
    choice("gelu", "x * Phi(x), by erf"),
    choice("gelu_tanh", "the tanh form of gelu"),
    choice("relu", "max(x, 0)"),
    choice("relu2", "max(x, 0)^2"),
];
const CLAMP_PLACES: &[Choice] = &[choice("pre", "gate <= L, |up| <= L"), choice("post", "act(gate) <= L, |up| <= L")];

const LINT_LEVELS: &[Choice] = &[choice("warn", "a warning"), choice("allow", "nothing is said"), choice("deny", "an error")];

/// Every table, in the order in which specs are written.
#[rustfmt::skip]
pub(super) static TABLES: &[Table] = &[
    Table { name: "moe", required: true, doc: "The layer's sizes.", keys: &[
        key("name", Text, Absent, "at most 64 of A-Z a-z 0-9 . _ -; names files and symbols"),
        key("hidden", Integer(1, MAX_WIDTH), Required, "H, the width of a token's vector"),
        key("experts", Integer(1, MAX_EXPERTS), Required, "E, the experts that have weights"),
        key("routed_output_scale", Number(Positive), Fallback::Number(1.0), "factor on the summed routed output, before the shared experts are added"),
        key("output_norm", Word(&[
            choice("none", "the output as it is"),
            choice("rms", "y / sqrt(mean y^2 + eps), times output_norm of [weights]"),
        ]), Fallback::Word("none"), "normalisation of the layer's output, shared experts included"),
        key("output_norm_eps", Number(NonNegative), Absent, "epsilon of output_norm; required with it"),
    ] },
    Table { name: "router", required: true, doc: "How tokens find experts.", keys: &[
        key("mode", Word(&[
            choice("token_choice", "each token takes its top_k experts"),
            choice("expert_choice", "each expert takes its capacity of tokens, those that it scores highest; ties to the earlier token"),
            choice("soft", "every slot of an expert mixes all tokens of a sequence, every token all slots (Soft-MoE)"),
            choice("hash", "a table of token ids decides; the layer takes them as a second input, `token_ids`"),
        ]), Fallback::Word("token_choice"), "what chooses: each token its experts, or each expert its tokens; keys that another mode alone reads may stand"),
        key("top_k", Integer(1, MAX_TOP_K), Absent, "K, the experts of one token; 1 or absent where experts choose"),
        key("vocabulary", Integer(1, MAX_VOCABULARY), Absent, "V, the token ids of mode = \"hash\"; absent: as many as the stored hash_table has rows"),
        key("hash_oob", Word(&[
            choice("error", "a batch with such an id, that of padding aside, is refused before anything runs; memory that is on the device already is not looked through, and an id outside 0..V there stands for the nearest"),
            choice("drop", "the token has no picks: what experts give it is 0, shared experts and the bias of the output it has as any other; capacity, losses and statistics leave it out"),
        ]), Fallback::Word("error"), "token ids outside 0..V; entries of the table outside the experts are always refused, where weights are bound; hash only"),
        key("score", Word(&[
            choice("softmax", "exp(l) / sum exp(l)"),
            choice("sigmoid", "1 / (1 + exp(-l))"),
            choice("sqrtsoftplus", "sqrt(log(1 + exp(l)))"),
            choice("identity", "the logit itself"),
        ]), Fallback::Word("softmax"), "what turns logits into scores"),
        key("order", Word(&[
            choice("score_topk", "score over all experts, then select"),
            choice("topk_score", "select on the logits, then score over the selected ones"),
        ]), Fallback::Word("score_topk"), "which comes first"),
        key("select", Word(&[
            choice("topk", "the largest"),
            choice("sparsemixer", "one after another, each with its softmax among those near it (Phi-3.5)"),
        ]), Fallback::Word("topk"), "how the experts are selected"),
        key("jitter", Number(NonNegative), Absent, "the threshold of sparsemixer; required with it"),
        key("bias", Boolean, Fallback::Boolean(false), "the logits have an additive bias"),
        key("logit_scale", Number(Positive), Fallback::Number(1.0), "factor on the logits"),
        key("logit_softcap", Number(NonNegative), Fallback::Number(0.0), "tanh(l / c) * c on the logits; 0 is off"),
        key("input_norm", Word(&[
            choice("none", "the token as it is"),
            choice("rms", "x / sqrt(mean x^2 + eps)"),
        ]), Fallback::Word("none"), "normalisation of the router's input"),
        key("input_norm_eps", Number(NonNegative), Absent, "epsilon of input_norm"),
        key("input_scale", Number(Positive), Absent, "factor after input_norm"),
        key("correction_on", Word(&[
            choice("none", "no bias"),
            choice("score", "added to the score"),
            choice("logit", "added to the logit"),
        ]), Fallback::Word("none"), "where the selection-only bias is added"),
        key("groups", Integer(1, MAX_EXPERTS), Fallback::Integer(1), "groups of neighbouring experts; divides experts, identity_experts counted"),
        key("topk_groups", Integer(1, MAX_EXPERTS), Absent, "groups that stay selectable; required where groups > 1"),
        key("group_score", Word(&[
            choice("top2_sum", "the sum of the two best scores"),
            choice("max", "the best score"),
        ]), Fallback::Word("top2_sum"), "how a group is ranked"),
        key("group_mask", Word(&[
            choice("-inf", "never selected"),
            choice("zero", "score 0"),
        ]), Fallback::Word("-inf"), "what the experts of the other groups score"),
        key("renorm", Word(&[
            choice("none", "the scores as they are"),
            choice("sum", "divided by their sum"),
            choice("p", "divided by their p-norm"),
        ]), Fallback::Word("none"), "renormalisation of the selected weights"),
        key("renorm_p", Number(Positive), Absent, "the p of renorm = \"p\"; required with it"),
        key("renorm_eps", Number(NonNegative), Fallback::Number(0.0), "guards the division of renorm"),
        key("renorm_eps_mode", Word(&[
            choice("add", "w / (norm + eps)"),
            choice("clamp", "w / max(norm, eps)"),
        ]), Fallback::Word("add"), "how renorm_eps guards it"),
        key("scale", Number(Positive), Fallback::Number(1.0), "factor on the weights, after renorm"),
        key("joint_shared", Integer(0, MAX_TOP_K), Fallback::Integer(0), "extra router columns, after the E, that weigh the shared experts: their scores are normalised with those of the routed ones, by the sum where renorm is none; equals shared.count"),
        key("identity_experts", Integer(0, MAX_EXPERTS), Fallback::Integer(0), "extra router columns, after the E, whose expert is the identity: y += weight * x; never dropped, without weights"),
        key("apply", Word(&[
            choice("output", "the expert's output"),
            choice("input", "the expert's input"),
        ]), Fallback::Word("output"), "what the weight multiplies"),
        key("tie", Word(&[choice("lowest_index", "the lower index wins")]), Fallback::Word("lowest_index"), "equal scores"),
        key("dtype", Word(&[
            choice("f32", "single precision"),
            choice("model", "rounded to the model's type"),
        ]), Fallback::Word("f32"), "precision of logits and scores"),
        key("slots", Integer(1, MAX_EXPERTS), Fallback::Integer(1), "slots of one expert and sequence; soft only"),
        key("norm", Word(&[
            choice("l2", "x / sqrt(sum x^2 + eps)"),
            choice("rms", "x / sqrt(mean x^2 + eps), times token_gain and slot_gain where [weights] names them"),
            choice("none", "as they are"),
        ]), Absent, "normalisation of tokens and slots before their product; required with mode = \"soft\""),
        key("norm_eps", Number(NonNegative), Fallback::Number(1e-6), "epsilon of norm, beside the sum of squares or their mean (V-MoE's)"),
        key("dispatch_normed", Boolean, Fallback::Boolean(false), "slots mix the normalised tokens, not the tokens as they are"),
    ] },
    Table { name: "capacity", required: false, doc: "How many tokens an expert takes. Absent: dropless; required where experts choose.", keys: &[
        key("factor", Takes::Ratio, Absent, "C = factor * S * (K if count_k) / E"),
        key("tokens", Integer(1, MAX_TOKENS), Absent, "C, absolutely"),
        key("fraction", Takes::Ratio, Absent, "C = fraction * S"),
        key("count_k", Boolean, Fallback::Boolean(false), "whether K counts in factor"),
        key("round", Word(&[
            choice("ceil", "up"),
            choice("floor", "down"),
            choice("half_even", "to the nearest, halves to even"),
        ]), Absent, "rounding of C; required with factor and fraction"),
        key("min", Integer(0, MAX_TOKENS), Fallback::Integer(0), "C is at least this"),
        key("multiple_of", Integer(1, MAX_WIDTH), Fallback::Integer(1), "C is rounded up to a multiple of this"),
        key("group", WordOrInteger(&[
            choice("all", "the whole batch"),
            renamed("row", "sequence", "one sequence"),
        ], 1, MAX_TOKENS), Fallback::Word("all"), "the tokens that S counts: a word, or the size of a run (the last run may be shorter, with the same C)"),
        key("priority", Word(&[
            choice("choice_major", "all first choices before all second choices"),
            choice("token_major", "token by token"),
            choice("score", "each expert keeps its heaviest weights, as they multiply its rows: after renorm, scale, router_global_scale and per_expert_scale, but before what renorm_after_drop does; ties to the earlier token (drop policy probs of Megatron-LM)"),
            choice("batch_prioritized", "as choice_major, with tokens by their best score: the largest over their choices of the score among all columns, before selection, correction bias, renorm and scales; ties to the earlier token (V-MoE, Tutel)"),
        ]), Fallback::Word("choice_major"), "the order of service"),
        key("renorm_after_drop", Boolean, Fallback::Boolean(false), "renormalise over what was not dropped, by the rule of router.renorm; a token with nothing left gives 0"),
        key("dropped", Word(&[
            choice("zero", "nothing; the residual is outside the layer"),
            choice("input", "the token's input times the weight of the dropped choice, with renorm_after_drop the score, neither renormalised nor scaled"),
        ]), Fallback::Word("zero"), "what a dropped assignment contributes"),
        key("pad", Word(&[
            choice("none", "buffers hold the kept rows alone"),
            choice("to_capacity", "every expert's buffer holds its capacity; moec packs rows all the same, since no output differs"),
        ]), Fallback::Word("none"), "shape of the buffers; never changes the output"),
    ] },
    Table { name: "expert", required: true, doc: "What a routed expert computes.", keys: &[
        key("intermediate", Integer(1, MAX_WIDTH), Required, "F, the inner width"),
        key("gated", Boolean, Fallback::Boolean(true), "act(gate) * up, or act(up)"),
        key("activation", Word(ACTIVATIONS), Fallback::Word("silu"), "the activation"),
        key("alpha", Number(Positive), Absent, "x * sigmoid(alpha * x); silu only"),
        key("gate_softcap", Number(Positive), Absent, "c: tanh(x / c) * c * sigmoid(alpha * x); silu and gated only"),
        key("up_softcap", Number(Positive), Absent, "c: tanh(up / c) * c, after the clamp; gated only"),
        key("up_offset", Number(Any), Fallback::Number(0.0), "added to up, last; gated only"),
        key("clamp_limit", Number(Positive), Absent, "L; gated only"),
        key("clamp_where", Word(CLAMP_PLACES), Fallback::Word("pre"), "where the gate is clamped"),
        key("bias", Boolean, Fallback::Boolean(false), "the projections have biases"),
        key("output_scale", Number(Positive), Fallback::Number(1.0), "factor on every expert's output"),
        key("latent", Integer(0, MAX_WIDTH), Fallback::Integer(0), "width that the experts see instead of hidden; 0 is off"),
    ] },
    Table { name: "shared", required: false, doc: "Experts that every token passes through. Absent: none.", keys: &[
        key("intermediate", Integer(1, MAX_WIDTH), Required, "the inner width of one of them"),
        key("count", Integer(1, MAX_TOP_K), Fallback::Integer(1), "how many; their tensors are stored side by side"),
        key("gated", Boolean, Absent, "as in [expert], which it inherits"),
        key("activation", Word(ACTIVATIONS), Absent, "as in [expert], which it inherits"),
        key("alpha", Number(Positive), Absent, "as in [expert], which it inherits"),
        key("gate_softcap", Number(Positive), Absent, "as in [expert], which it inherits"),
        key("up_softcap", Number(Positive), Absent, "as in [expert], which it inherits"),
        key("up_offset", Number(Any), Absent, "as in [expert], which it inherits"),
        key("clamp_limit", Number(Positive), Absent, "as in [expert], which it inherits"),
        key("clamp_where", Word(CLAMP_PLACES), Absent, "as in [expert], which it inherits"),
        key("clamp", Boolean, Fallback::Boolean(true), "false: the clamp is not inherited"),
        key("bias", Boolean, Fallback::Boolean(false), "the projections have biases; not inherited"),
        key("gate", Word(&[
            choice("none", "added as it is"),
            choice("sigmoid", "times sigmoid(x . w)"),
        ]), Fallback::Word("none"), "a gate on the shared output"),
        key("combine", Word(&[
            choice("sum", "routed + shared"),
            choice("average", "(routed + shared) / 2"),
        ]), Fallback::Word("sum"), "how routed and shared outputs meet"),
    ] },
    Table { name: "weights", required: false, doc: "Where each tensor is stored. Absent: under its own key.", keys: &[
        stored("router", "[R, H]"),
        stored("router_bias", "[R]"),
        stored("correction_bias", "[R], without the joint_shared columns"),
        stored("router_input_scale", "[H]: after input_norm"),
        stored("router_global_scale", "[1]: a factor on all weights, after renorm"),
        stored("per_expert_scale", "[R], without the joint_shared columns: factors on the weights, after renorm"),
        stored("hash_table", "[V, K], integers: the experts of each token id"),
        stored("slots", "[E, P, H]: the embeddings of P slots an expert; router may name the same tensor, and nothing else, beside it"),
        stored("slot_scale", "[1]: factor on the logits of soft routing"),
        stored("token_gain", "[H]: factors on the tokens, after norm = \"rms\""),
        stored("slot_gain", "[H]: factors on the slots, after norm = \"rms\""),
        stored("gate", "[E, F, H]"),
        stored("up", "[E, F, H]"),
        stored("gate_up", "[E, 2F, H]"),
        stored("down", "[E, H, F]"),
        stored("gate_bias", "[E, F]"),
        stored("up_bias", "[E, F]"),
        stored("gate_up_bias", "[E, 2F]"),
        stored("down_bias", "[E, H]"),
        stored("latent_in", "[latent, H]"),
        stored("latent_out", "[H, latent]"),
        stored("output_bias", "[H]"),
        stored("output_norm", "[H]: factors on the output, after output_norm = \"rms\""),
        stored("shared_gate", "[S, H]"),
        stored("shared_up", "[S, H]"),
        stored("shared_gate_up", "[2S, H]"),
        stored("shared_down", "[H, S]"),
        stored("shared_gate_bias", "[S]"),
        stored("shared_up_bias", "[S]"),
        stored("shared_gate_up_bias", "[2S]"),
        stored("shared_down_bias", "[H]"),
        stored("shared_gate_proj", "[1, H]"),
    ] },
    Table { name: "tokens", required: false, doc: "The batches that the package serves.", keys: &[
        key("max", Integer(1, MAX_TOKENS), Fallback::Integer(65536), "more tokens are refused at launch"),
        key("expected", Integers(1, MAX_TOKENS), Fallback::Integers(&[1, 64, 4096]), "token counts to be fast at"),
        key("workspace", Takes::Bytes, Absent, "the most workspace of a run, such as \"256 MB\": a batch that needs more is run in parts, and nothing is observed of it; not where all tokens share a capacity, a loss or noise"),
        key("mask", Boolean, Fallback::Boolean(false), "the layer takes an input `token_mask`, i32 [T]: where it is 0 the token is padding (1 - padding_mask of Megatron-LM, attention_mask of transformers): it takes no place of an expert, no part in losses, statistics and the bias update, and its row of the output is 0. C still follows from the shape of the batch, padding included, as in Megatron-LM; losses are means over the other tokens, and over the sequences that have some"),
    ] },
    Table { name: "numerics", required: false, doc: "Precision and reproducibility.", keys: &[
        key("dtype", Word(&[
            choice("f32", "single"),
            choice("f16", "half"),
            choice("bf16", "bfloat16"),
        ]), Fallback::Word("bf16"), "type of weights and activations"),
        key("deterministic", Boolean, Fallback::Boolean(true), "the same bits every run"),
        key("batch_invariant", Boolean, Fallback::Boolean(false), "a token's bits do not depend on its batch"),
        key("tf32", Boolean, Fallback::Boolean(false), "with dtype = \"f32\": products of experts, shared experts and latent projections may round their factors to tf32 (10 bits of fraction, to the nearest, ties away from zero: 2^-11 of each factor), where tensor cores have that; sums are f32, and the router stays exact"),
    ] },
    Table { name: "training", required: false, doc: "What only training asks for.", keys: &[
        key("jitter", Number(Positive), Absent, "the router's input times a draw from 1 - jitter to 1 + jitter for each element, by the input `seed`: i32 [2]"),
        key("aux_loss", Word(&[
            choice("switch", "E sum f P, f the pairs a token that pick an expert and P its mean probability; K at balance (Switch, flaxformer)"),
            choice("mixtral", "the same (load_balancing_loss_func of transformers, one layer)"),
            choice("gshard", "E sum f P, f the share of tokens that pick an expert first; 1 at balance (GShard, DeepSpeed top-1 and top-2, Tutel)"),
            choice("deepspeed_topk", "switch / K, 1 at balance (DeepSpeed top-k)"),
            choice("megatron", "the same, f counting the top_k highest scores of all experts, without a correction bias and without groups (aux_loss of Megatron-LM)"),
            choice("megablocks", "the same (MegaBlocks, one layer)"),
            choice("deepseek_sequence", "switch / K within each sequence, averaged; 1 at balance (seq_aux of DeepSeek-V2); beside a correction bias f counts as that of megatron (DeepSeek-V3, seq_aux_loss of Megatron-LM)"),
            choice("importance", "(standard deviation / mean)^2 of the summed probabilities; 0 at balance (Shazeer et al. 2017, V-MoE)"),
        ]), Absent, "a balance loss beside the output, observed as stats.aux_loss"),
        key("aux_coef", Number(NonNegative), Absent, "its coefficient; required with aux_loss"),
        key("aux_group", Word(&[
            choice("all", "the whole batch"),
            renamed("row", "sequence", "each sequence by itself; the mean over the sequences (mesh-tensorflow, flaxformer, Hugging Face Switch)"),
        ]), Absent, "the tokens that f and P are taken over; all where absent, and always sequence with deepseek_sequence"),
        key("z_coef", Number(NonNegative), Absent, "coefficient of the router z-loss, mean logsumexp(logits)^2, observed as stats.z_loss (ST-MoE)"),
        key("bias_update_rate", Number(Positive), Absent, "the package has a kernel that moves the correction bias by this, up where an expert's load is below the mean, down where it is above"),
    ] },
    Table { name: "host", required: false, doc: "What the kernels of hosts alone are asked for; a GPU's are the same whatever it says.", keys: &[
        key("pack", Word(&[
            choice("none", "as the caller has them: nothing is copied, and a mapped checkpoint is used where it lies"),
            choice("panels", "in the order in which kernels read them: as many bytes, in memory of the layer's own; the caller's can go"),
            choice("f32", "in that order, and as f32: twice the bytes of bf16, and no conversion while the layer runs"),
        ]), Fallback::Word("none"), "how the weights of experts lie once they are bound; `moec plan` says what that costs and gives"),
    ] },
    Table { name: "lints", required: false, doc: "Warnings about the spec, which `--deny-warnings` makes errors.", keys: &[
        key("capacity_floor", Word(LINT_LEVELS), Fallback::Word("warn"), "MOE1101: the experts have fewer places together than the tokens have picks, at one of tokens.expected"),
        key("equal_weights", Word(LINT_LEVELS), Fallback::Word("warn"), "MOE1113: capacity.priority = \"score\" where every weight is 1, so that the earlier token is served"),
    ] },
];
