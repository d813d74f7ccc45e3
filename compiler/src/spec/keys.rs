//! The keys of a spec: one table that the reader, `moec schema` and the documentation all follow.
//! Rules that involve two keys are in `check`; how a value becomes a field of the model is in `resolve`.

use Fallback::{Absent, Required};
use Sign::{Any, NonNegative, Positive};
use Support::Now;
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
    pub(super) support: Support,
    pub(super) doc: &'static str,
}

/// Whether the pipeline carries a key or a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    Now,
    /// Refused by name. A key is let through where it repeats its default, since nothing is lost then.
    #[expect(dead_code, reason = "every key is carried; the next one begins here")]
    Later,
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
    pub(super) support: Support,
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

/// The widest hidden or ffn dimension.
const MAX_WIDTH: u64 = 1 << 20;
/// The most experts.
const MAX_EXPERTS: u64 = 4096;
/// The most experts of one token.
const MAX_TOP_K: u64 = 64;
/// The most token ids.
const MAX_VOCABULARY: u64 = 1 << 24;
/// The most tokens of one launch.
const MAX_TOKENS: u64 = (1 << 31) - 1;

const fn key(name: &'static str, takes: Takes, default: Fallback, support: Support, doc: &'static str) -> Key {
    Key { name, takes, default, support, doc }
}

const fn choice(word: &'static str, support: Support, doc: &'static str) -> Choice {
    Choice { word, support, doc }
}

/// A key of `[weights]`.
const fn stored(name: &'static str, support: Support, doc: &'static str) -> Key {
    key(name, Stored, Absent, support, doc)
}

/// The table of this name.
pub(super) fn table(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}

const ACTIVATIONS: &[Choice] = &[
    choice("silu", Now, "x * sigmoid(x)"),
    choice("gelu", Now, "x * Phi(x), by erf"),
    choice("gelu_tanh", Now, "the tanh form of gelu"),
    choice("relu", Now, "max(x, 0)"),
    choice("relu2", Now, "max(x, 0)^2"),
];
const CLAMP_PLACES: &[Choice] = &[choice("pre", Now, "gate <= L, |up| <= L"), choice("post", Now, "act(gate) <= L, |up| <= L")];

/// Every table, in the order in which specs are written.
#[rustfmt::skip]
pub(super) static TABLES: &[Table] = &[
    Table { name: "moe", required: true, doc: "The layer's sizes.", keys: &[
        key("name", Text, Absent, Now, "at most 64 of A-Z a-z 0-9 . _ -; names files and symbols"),
        key("hidden", Integer(1, MAX_WIDTH), Required, Now, "H, the width of a token's vector"),
        key("experts", Integer(1, MAX_EXPERTS), Required, Now, "E, the experts that have weights"),
        key("routed_output_scale", Number(Positive), Fallback::Number(1.0), Now, "factor on the summed routed output, before the shared experts are added"),
    ] },
    Table { name: "router", required: true, doc: "How tokens find experts.", keys: &[
        key("mode", Word(&[
            choice("token_choice", Now, "each token takes its top_k experts"),
            choice("expert_choice", Now, "each expert takes its capacity of tokens, those that it scores highest; ties to the earlier token"),
            choice("soft", Now, "every slot of an expert mixes all tokens of a sequence, every token all slots (Soft-MoE)"),
            choice("hash", Now, "a table of token ids decides; the layer takes them as a second input, `token_ids`"),
        ]), Fallback::Word("token_choice"), Now, "who chooses whom; keys that another mode alone reads may stand"),
        key("top_k", Integer(1, MAX_TOP_K), Absent, Now, "K, the experts of one token; 1 or absent where experts choose"),
        key("vocabulary", Integer(1, MAX_VOCABULARY), Absent, Now, "V, the token ids of mode = \"hash\"; absent: as many as the stored hash_table has rows"),
        key("score", Word(&[
            choice("softmax", Now, "exp(l) / sum exp(l)"),
            choice("sigmoid", Now, "1 / (1 + exp(-l))"),
            choice("sqrtsoftplus", Now, "sqrt(log(1 + exp(l)))"),
            choice("identity", Now, "the logit itself"),
        ]), Fallback::Word("softmax"), Now, "what turns logits into scores"),
        key("order", Word(&[
            choice("score_topk", Now, "score over all experts, then select"),
            choice("topk_score", Now, "select on the logits, then score over the selected ones"),
        ]), Fallback::Word("score_topk"), Now, "which comes first"),
        key("select", Word(&[
            choice("topk", Now, "the largest"),
            choice("sparsemixer", Now, "one after another, each with its softmax among those near it (Phi-3.5)"),
        ]), Fallback::Word("topk"), Now, "how the experts are selected"),
        key("jitter", Number(NonNegative), Absent, Now, "the threshold of sparsemixer; required with it"),
        key("bias", Boolean, Fallback::Boolean(false), Now, "the logits have an additive bias"),
        key("logit_scale", Number(Positive), Fallback::Number(1.0), Now, "factor on the logits"),
        key("logit_softcap", Number(NonNegative), Fallback::Number(0.0), Now, "tanh(l / c) * c on the logits; 0 is off"),
        key("input_norm", Word(&[
            choice("none", Now, "the token as it is"),
            choice("rms", Now, "x / sqrt(mean x^2 + eps)"),
        ]), Fallback::Word("none"), Now, "normalisation of the router's input"),
        key("input_norm_eps", Number(NonNegative), Absent, Now, "epsilon of input_norm"),
        key("input_scale", Number(Positive), Absent, Now, "factor after input_norm"),
        key("correction_on", Word(&[
            choice("none", Now, "no bias"),
            choice("score", Now, "added to the score"),
            choice("logit", Now, "added to the logit"),
        ]), Fallback::Word("none"), Now, "where the selection-only bias is added"),
        key("groups", Integer(1, MAX_EXPERTS), Fallback::Integer(1), Now, "groups of neighbouring experts; divides experts, identity_experts counted"),
        key("topk_groups", Integer(1, MAX_EXPERTS), Absent, Now, "groups that stay selectable; required where groups > 1"),
        key("group_score", Word(&[
            choice("top2_sum", Now, "the sum of the two best scores"),
            choice("max", Now, "the best score"),
        ]), Fallback::Word("top2_sum"), Now, "how a group is ranked"),
        key("group_mask", Word(&[
            choice("-inf", Now, "never selected"),
            choice("zero", Now, "score 0"),
        ]), Fallback::Word("-inf"), Now, "what the experts of the other groups score"),
        key("renorm", Word(&[
            choice("none", Now, "the scores as they are"),
            choice("sum", Now, "divided by their sum"),
            choice("p", Now, "divided by their p-norm"),
        ]), Fallback::Word("none"), Now, "renormalisation of the selected weights"),
        key("renorm_p", Number(Positive), Absent, Now, "the p of renorm = \"p\"; required with it"),
        key("renorm_eps", Number(NonNegative), Fallback::Number(0.0), Now, "guards the division of renorm"),
        key("renorm_eps_mode", Word(&[
            choice("add", Now, "w / (norm + eps)"),
            choice("clamp", Now, "w / max(norm, eps)"),
        ]), Fallback::Word("add"), Now, "how renorm_eps guards it"),
        key("scale", Number(Positive), Fallback::Number(1.0), Now, "factor on the weights, after renorm"),
        key("joint_shared", Integer(0, MAX_TOP_K), Fallback::Integer(0), Now, "extra router columns, after the E, that weigh the shared experts: their scores are normalised with those of the routed ones, by the sum where renorm is none; equals shared.count"),
        key("identity_experts", Integer(0, MAX_EXPERTS), Fallback::Integer(0), Now, "extra router columns, after the E, whose expert is the identity: y += weight * x; never dropped, without weights"),
        key("apply", Word(&[
            choice("output", Now, "the expert's output"),
            choice("input", Now, "the expert's input"),
        ]), Fallback::Word("output"), Now, "what the weight multiplies"),
        key("tie", Word(&[choice("lowest_index", Now, "the lower index wins")]), Fallback::Word("lowest_index"), Now, "equal scores"),
        key("dtype", Word(&[
            choice("f32", Now, "single precision"),
            choice("model", Now, "rounded to the model's type"),
        ]), Fallback::Word("f32"), Now, "precision of logits and scores"),
        key("slots", Integer(1, MAX_EXPERTS), Fallback::Integer(1), Now, "slots of one expert and sequence; soft only"),
        key("norm", Word(&[
            choice("l2", Now, "x / sqrt(sum x^2 + eps)"),
            choice("rms", Now, "x / sqrt(mean x^2 + eps), times token_gain and slot_gain where [weights] names them"),
            choice("none", Now, "as they are"),
        ]), Absent, Now, "normalisation of tokens and slots before their product; required with mode = \"soft\""),
        key("norm_eps", Number(NonNegative), Fallback::Number(1e-6), Now, "epsilon of norm, beside the sum of squares or their mean (V-MoE's)"),
        key("dispatch_normed", Boolean, Fallback::Boolean(false), Now, "slots mix the normalised tokens, not the tokens as they are"),
    ] },
    Table { name: "capacity", required: false, doc: "How many tokens an expert takes. Absent: dropless; required where experts choose.", keys: &[
        key("factor", Takes::Ratio, Absent, Now, "C = factor * S * (K if count_k) / E"),
        key("tokens", Integer(1, MAX_TOKENS), Absent, Now, "C, absolutely"),
        key("fraction", Takes::Ratio, Absent, Now, "C = fraction * S"),
        key("count_k", Boolean, Fallback::Boolean(false), Now, "whether K counts in factor"),
        key("round", Word(&[
            choice("ceil", Now, "up"),
            choice("floor", Now, "down"),
            choice("half_even", Now, "to the nearest, halves to even"),
        ]), Absent, Now, "rounding of C; required with factor and fraction"),
        key("min", Integer(0, MAX_TOKENS), Fallback::Integer(0), Now, "C is at least this"),
        key("multiple_of", Integer(1, MAX_WIDTH), Fallback::Integer(1), Now, "C is rounded up to a multiple of this"),
        key("group", WordOrInteger(&[
            choice("all", Now, "the whole batch"),
            choice("row", Now, "one sequence"),
        ], 1, MAX_TOKENS), Fallback::Word("all"), Now, "the tokens that S counts: a word, or the size of a run (the last run may be shorter, with the same C)"),
        key("priority", Word(&[
            choice("choice_major", Now, "all first choices before all second choices"),
            choice("token_major", Now, "token by token"),
            choice("score", Now, "each expert keeps its heaviest weights; ties to the earlier token"),
            choice("batch_prioritized", Now, "as choice_major, with tokens by the weight of their first choice; ties to the earlier token"),
        ]), Fallback::Word("choice_major"), Now, "who is served first"),
        key("renorm_after_drop", Boolean, Fallback::Boolean(false), Now, "renormalise over what was not dropped, by the rule of router.renorm; a token with nothing left gives 0"),
        key("dropped", Word(&[
            choice("zero", Now, "nothing; the residual is outside the layer"),
            choice("input", Now, "the token's input times the weight of the dropped choice, with renorm_after_drop the score, neither renormalised nor scaled"),
        ]), Fallback::Word("zero"), Now, "what a dropped assignment contributes"),
        key("pad", Word(&[
            choice("none", Now, "buffers hold what is there"),
            choice("to_capacity", Now, "every expert's buffer holds its capacity; moec packs rows all the same, since no output differs"),
        ]), Fallback::Word("none"), Now, "shape of the buffers; never changes the output"),
    ] },
    Table { name: "expert", required: true, doc: "What a routed expert computes.", keys: &[
        key("intermediate", Integer(1, MAX_WIDTH), Required, Now, "F, the inner width"),
        key("gated", Boolean, Fallback::Boolean(true), Now, "act(gate) * up, or act(up)"),
        key("activation", Word(ACTIVATIONS), Fallback::Word("silu"), Now, "the activation"),
        key("alpha", Number(Positive), Absent, Now, "x * sigmoid(alpha * x); silu only"),
        key("up_offset", Number(Any), Fallback::Number(0.0), Now, "added to up; gated only"),
        key("clamp_limit", Number(Positive), Absent, Now, "L; gated only"),
        key("clamp_where", Word(CLAMP_PLACES), Fallback::Word("pre"), Now, "where the gate is clamped"),
        key("bias", Boolean, Fallback::Boolean(false), Now, "the projections have biases"),
        key("output_scale", Number(Positive), Fallback::Number(1.0), Now, "factor on every expert's output"),
        key("latent", Integer(0, MAX_WIDTH), Fallback::Integer(0), Now, "width that the experts see instead of hidden; 0 is off"),
    ] },
    Table { name: "shared", required: false, doc: "Experts that every token passes through. Absent: none.", keys: &[
        key("intermediate", Integer(1, MAX_WIDTH), Required, Now, "the inner width of one of them"),
        key("count", Integer(1, MAX_TOP_K), Fallback::Integer(1), Now, "how many; their tensors are stored side by side"),
        key("gated", Boolean, Absent, Now, "as in [expert], which it inherits"),
        key("activation", Word(ACTIVATIONS), Absent, Now, "as in [expert], which it inherits"),
        key("alpha", Number(Positive), Absent, Now, "as in [expert], which it inherits"),
        key("up_offset", Number(Any), Absent, Now, "as in [expert], which it inherits"),
        key("clamp_limit", Number(Positive), Absent, Now, "as in [expert], which it inherits"),
        key("clamp_where", Word(CLAMP_PLACES), Absent, Now, "as in [expert], which it inherits"),
        key("clamp", Boolean, Fallback::Boolean(true), Now, "false: the clamp is not inherited"),
        key("bias", Boolean, Fallback::Boolean(false), Now, "the projections have biases; not inherited"),
        key("gate", Word(&[
            choice("none", Now, "added as it is"),
            choice("sigmoid", Now, "times sigmoid(x . w)"),
        ]), Fallback::Word("none"), Now, "a gate on the shared output"),
        key("combine", Word(&[
            choice("sum", Now, "routed + shared"),
            choice("average", Now, "(routed + shared) / 2"),
        ]), Fallback::Word("sum"), Now, "how routed and shared outputs meet"),
    ] },
    Table { name: "weights", required: false, doc: "Where each tensor is stored. Absent: under its own key.", keys: &[
        stored("router", Now, "[R, H]"),
        stored("router_bias", Now, "[R]"),
        stored("correction_bias", Now, "[R], without the joint_shared columns"),
        stored("router_input_scale", Now, "[H]: after input_norm"),
        stored("router_global_scale", Now, "[1]: a factor on all weights, after renorm"),
        stored("per_expert_scale", Now, "[R]: factors on the weights, after renorm"),
        stored("hash_table", Now, "[V, K], integers: the experts of each token id"),
        stored("slots", Now, "[E, P, H]: the embeddings of P slots an expert; router may name the same tensor, and nothing else, beside it"),
        stored("slot_scale", Now, "[1]: factor on the logits of soft routing"),
        stored("token_gain", Now, "[H]: factors on the tokens, after norm = \"rms\""),
        stored("slot_gain", Now, "[H]: factors on the slots, after norm = \"rms\""),
        stored("gate", Now, "[E, F, H]"),
        stored("up", Now, "[E, F, H]"),
        stored("gate_up", Now, "[E, 2F, H]"),
        stored("down", Now, "[E, H, F]"),
        stored("gate_bias", Now, "[E, F]"),
        stored("up_bias", Now, "[E, F]"),
        stored("gate_up_bias", Now, "[E, 2F]"),
        stored("down_bias", Now, "[E, H]"),
        stored("latent_in", Now, "[latent, H]"),
        stored("latent_out", Now, "[H, latent]"),
        stored("output_bias", Now, "[H]"),
        stored("shared_gate", Now, "[S, H]"),
        stored("shared_up", Now, "[S, H]"),
        stored("shared_gate_up", Now, "[2S, H]"),
        stored("shared_down", Now, "[H, S]"),
        stored("shared_gate_bias", Now, "[S]"),
        stored("shared_up_bias", Now, "[S]"),
        stored("shared_gate_up_bias", Now, "[2S]"),
        stored("shared_down_bias", Now, "[H]"),
        stored("shared_gate_proj", Now, "[1, H]"),
    ] },
    Table { name: "tokens", required: false, doc: "The batches that the package serves.", keys: &[
        key("max", Integer(1, MAX_TOKENS), Fallback::Integer(65536), Now, "more tokens are refused at launch"),
        key("expected", Integers(1, MAX_TOKENS), Fallback::Integers(&[1, 64, 4096]), Now, "token counts to be fast at"),
    ] },
    Table { name: "numerics", required: false, doc: "Precision and reproducibility.", keys: &[
        key("dtype", Word(&[
            choice("f32", Now, "single"),
            choice("f16", Now, "half"),
            choice("bf16", Now, "bfloat16"),
        ]), Fallback::Word("bf16"), Now, "type of weights and activations"),
        key("deterministic", Boolean, Fallback::Boolean(true), Now, "the same bits every run"),
        key("batch_invariant", Boolean, Fallback::Boolean(false), Now, "a token's bits do not depend on its batch"),
    ] },
    Table { name: "training", required: false, doc: "What only training asks for.", keys: &[
        key("jitter", Number(Positive), Absent, Now, "the router's input times a draw from 1 - jitter to 1 + jitter for each element, by the input `seed`: i32 [2]"),
        key("aux_loss", Word(&[
            choice("switch", Now, "E sum f P, f the pairs a token that pick an expert and P its mean probability; K at balance (Switch, flaxformer)"),
            choice("mixtral", Now, "the same (load_balancing_loss_func of transformers, one layer)"),
            choice("gshard", Now, "E sum f P, f the share of tokens that pick an expert first; 1 at balance (GShard, DeepSpeed top-1 and top-2, Tutel)"),
            choice("deepspeed_topk", Now, "switch / K, 1 at balance (DeepSpeed top-k)"),
            choice("megatron", Now, "the same (aux_loss of Megatron-LM)"),
            choice("megablocks", Now, "the same (MegaBlocks, one layer)"),
            choice("deepseek_sequence", Now, "megatron within each sequence, averaged; 1 at balance (seq_aux of DeepSeek-V2)"),
            choice("importance", Now, "(standard deviation / mean)^2 of the summed probabilities; 0 at balance (Shazeer et al. 2017, V-MoE)"),
        ]), Absent, Now, "a balance loss beside the output, observed as stats.aux_loss"),
        key("aux_coef", Number(NonNegative), Absent, Now, "its coefficient; required with aux_loss"),
        key("z_coef", Number(NonNegative), Absent, Now, "coefficient of the router z-loss, mean logsumexp(logits)^2, observed as stats.z_loss (ST-MoE)"),
        key("bias_update_rate", Number(Positive), Absent, Now, "the package has a kernel that moves the correction bias by this, up where an expert's load is below the mean, down where it is above"),
    ] },
];
