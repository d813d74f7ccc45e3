//! Layers small enough to be executed instruction by instruction: the example specs scaled down, and routing modes that no
//! example has. What is done with them is the tests' business.

use moec::diagnostics::Source;
use moec::spec::{HashOob, Spec};

use crate::{Example, examples};

/// H of a scaled layer: more than one slice of the GPU's tiles along k (32), and not a whole number of them.
const HIDDEN: u64 = 40;
/// F of a scaled layer: three slices, and two columns of tiles (64), neither filled.
const FFN: u64 = 72;
/// E of a scaled layer at most, but for groups.
const EXPERTS: u64 = 16;
/// Experts of a group in a scaled layer.
const GROUP: u64 = 4;

/// Every example spec, scaled down: H = 40, F = 72 (that of the shared experts too), E at most 16 or four a group. What
/// routes, activates, drops and adds stays as it is.
#[must_use]
pub fn scaled_examples() -> Vec<Example> {
    let scaled = |example: Example| Example { spec: scaled(&example.spec), ..example };
    examples().into_iter().map(scaled).collect()
}

fn scaled(spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    spec.hidden = HIDDEN;
    spec.expert.intermediate = FFN;
    let most = spec.router.groups.map_or(EXPERTS, |groups| groups.count * GROUP);
    spec.experts = spec.experts.min(most);
    if let Some(shared) = &mut spec.shared {
        shared.intermediate = FFN;
        shared.count = 1;
    }
    spec.tokens.max = 4096;
    spec.tokens.expected = vec![1, 64];
    spec
}

/// Routing, activation and capacity modes, each with the keys that select it; in all three element types in turn.
const MODES: &[(&str, &str, &str, &str)] = &[
    (
        "soft",
        "mode = \"soft\"\ntop_k = 1\nnorm = \"l2\"\nnorm_eps = 1e-6\nslots = 3",
        "",
        "[weights]\nslots = { name = \"mu\", layout = \"HEP\" }\nslot_scale = \"scale\"",
    ),
    (
        "soft_with_gains",
        "mode = \"soft\"\ntop_k = 1\nnorm = \"rms\"\nnorm_eps = 1e-6\ndispatch_normed = true",
        "latent = 20\nbias = true\noutput_scale = 0.5",
        "[shared]\nintermediate = 24\n[weights]\nslots = \"slots\"\ntoken_gain = \"token_gain\"\nslot_gain = \"slot_gain\"\noutput_bias = \"output_bias\"",
    ),
    // More slots than a tile has rows.
    ("soft_unnormed", "mode = \"soft\"\ntop_k = 1\nnorm = \"none\"\nslots = 11", "activation = \"gelu\"\ngated = false", ""),
    ("sparsemixer", "select = \"sparsemixer\"\njitter = 0.3", "", ""),
    (
        "normed_input",
        "input_norm = \"rms\"\ninput_norm_eps = 1e-5\ninput_scale = 0.5\nrenorm = \"sum\"",
        "",
        "[weights]\nrouter_input_scale = \"router_input_scale\"\nper_expert_scale = \"per_expert_scale\"",
    ),
    ("norm_p", "renorm = \"p\"\nrenorm_p = 3.0\nrenorm_eps = 1e-3", "", ""),
    ("sqrtsoftplus_capped", "score = \"sqrtsoftplus\"\nlogit_softcap = 2.0\nrenorm = \"sum\"", "", ""),
    ("topk_score_sigmoid", "order = \"topk_score\"\nscore = \"sigmoid\"\nbias = true", "", ""),
    ("norm_eps_add", "renorm = \"sum\"\nrenorm_eps = 1e-3", "", ""),
    ("norm_eps_clamp", "renorm = \"sum\"\nrenorm_eps = 1.5\nrenorm_eps_mode = \"clamp\"\nscale = 0.5", "", ""),
    ("correction", "score = \"sigmoid\"\ncorrection_on = \"score\"\nrenorm = \"sum\"", "", ""),
    (
        "groups",
        "score = \"sigmoid\"\ncorrection_on = \"score\"\ngroups = 4\ntopk_groups = 2\ngroup_score = \"top2_sum\"\ngroup_mask = \"-inf\"\nrenorm = \"sum\"",
        "",
        "",
    ),
    ("gelu_with_bias", "", "activation = \"gelu\"\nbias = true", ""),
    ("gelu_tanh", "", "activation = \"gelu_tanh\"", ""),
    ("plain_relu", "", "activation = \"relu\"\ngated = false", ""),
    ("relu_squared", "", "activation = \"relu2\"\ngated = false\nbias = true", ""),
    ("clamped_before", "", "clamp_limit = 0.5\nclamp_where = \"pre\"\nalpha = 1.702\nup_offset = 1.0", ""),
    ("clamped_after", "", "clamp_limit = 0.25\nclamp_where = \"post\"", ""),
    ("gated_shared", "", "", "[shared]\nintermediate = 24\ngate = \"sigmoid\""),
    (
        "capacity_all_choices",
        "",
        "",
        "[capacity]\nfactor = 0.75\ncount_k = true\nround = \"ceil\"\ngroup = \"all\"\npriority = \"choice_major\"\ndropped = \"zero\"",
    ),
    (
        "capacity_all_tokens",
        "",
        "",
        "[capacity]\nfactor = 0.75\ncount_k = true\nround = \"half_even\"\ngroup = \"all\"\npriority = \"token_major\"\ndropped = \"zero\"",
    ),
    (
        "capacity_sequence_choices",
        "",
        "",
        "[capacity]\nfactor = 1.0\ncount_k = false\nround = \"floor\"\ngroup = \"sequence\"\npriority = \"choice_major\"\ndropped = \"zero\"",
    ),
    (
        "capacity_sequence_tokens",
        "",
        "",
        "[capacity]\ntokens = 3\ngroup = \"sequence\"\npriority = \"token_major\"\ndropped = \"zero\"",
    ),
    ("groups_by_their_best", "groups = 3\ntopk_groups = 2\ngroup_score = \"max\"\ngroup_mask = \"zero\"", "", ""),
    ("identity_of_scaled_logits", "score = \"identity\"\nlogit_scale = 0.5\nbias = true", "", ""),
    ("correction_of_logits", "correction_on = \"logit\"\norder = \"topk_score\"", "", ""),
    ("weighted_input", "apply = \"input\"\nscore = \"sigmoid\"", "", ""),
    ("logits_of_the_type", "dtype = \"model\"", "", ""),
    ("latent", "", "latent = 20\noutput_scale = 0.5", ""),
    ("loss_of_load", "renorm = \"sum\"", "", "[training]\naux_loss = \"megatron\"\naux_coef = 0.01\nz_coef = 1e-3"),
    (
        "loss_of_first_picks",
        "score = \"sigmoid\"",
        "",
        "[capacity]\nfactor = 0.75\ncount_k = false\nround = \"ceil\"\n[training]\naux_loss = \"gshard\"\naux_coef = 0.5",
    ),
    ("loss_of_sequences", "", "", "[training]\naux_loss = \"deepseek_sequence\"\naux_coef = 1.0\nz_coef = 0.1"),
    ("loss_of_importance", "order = \"topk_score\"", "", "[training]\naux_loss = \"importance\"\naux_coef = 2.0"),
    (
        "dropped_by_weight",
        "renorm = \"sum\"\nrenorm_eps = 1e-7\nscale = 2.5",
        "",
        "[capacity]\nfactor = 0.5\ncount_k = true\nround = \"ceil\"\npriority = \"score\"\nrenorm_after_drop = true\ndropped = \"input\"",
    ),
    (
        "dropped_and_scaled",
        "renorm = \"p\"\nrenorm_p = 2.0\nscore = \"sigmoid\"",
        "",
        "[capacity]\ntokens = 4\npriority = \"choice_major\"\nrenorm_after_drop = true\n[weights]\nper_expert_scale = \"per_expert_scale\"",
    ),
    (
        "dropped_by_best_weight",
        "score = \"sigmoid\"",
        "output_scale = 0.8",
        "[capacity]\ntokens = 3\ngroup = 7\npriority = \"batch_prioritized\"\ndropped = \"input\"\npad = \"to_capacity\"",
    ),
    (
        "expert_choice",
        "mode = \"expert_choice\"\ntop_k = 1",
        "activation = \"relu\"\ngated = false",
        "[capacity]\nfactor = 1.0\nround = \"half_even\"\nmin = 4\ngroup = \"sequence\"",
    ),
    (
        "expert_choice_of_runs",
        "mode = \"expert_choice\"\nscore = \"sigmoid\"\nbias = true\nscale = 2.5\napply = \"input\"",
        "",
        "[capacity]\nfactor = 2.0\ncount_k = false\nround = \"ceil\"\nmultiple_of = 4\ngroup = 9\npriority = \"score\"\n\
         [weights]\nper_expert_scale = \"per_expert_scale\"",
    ),
    (
        "expert_choice_of_the_batch",
        "mode = \"expert_choice\"\ntop_k = 1\nscore = \"identity\"\nlogit_softcap = 2.0",
        "",
        "[capacity]\nfraction = 0.25\nround = \"floor\"\n[shared]\nintermediate = 24",
    ),
    (
        "expert_choice_with_room",
        "mode = \"expert_choice\"\nscore = \"sqrtsoftplus\"\ndtype = \"model\"",
        "",
        "[capacity]\nfraction = 1.0\nround = \"ceil\"",
    ),
    ("identity", "correction_on = \"score\"\nidentity_experts = 4\nscale = 6.0", "", ""),
    (
        "identity_among_groups_and_drops",
        "score = \"sigmoid\"\nidentity_experts = 4\ngroups = 4\ntopk_groups = 3\nrenorm = \"sum\"",
        "latent = 20",
        "[capacity]\nfactor = 0.5\ncount_k = false\nround = \"ceil\"\ngroup = \"sequence\"\npriority = \"score\"\ndropped = \"input\"",
    ),
    (
        "joint",
        "score = \"sigmoid\"\ncorrection_on = \"score\"\njoint_shared = 2\nscale = 2.0",
        "",
        "[shared]\nintermediate = 12\ncount = 2\n[weights]\nrouter_global_scale = \"router_global_scale\"",
    ),
    (
        "joint_among_groups_and_drops",
        "joint_shared = 3\ngroups = 4\ntopk_groups = 3\nrenorm = \"sum\"\nrenorm_eps = 0.125",
        "",
        "[shared]\nintermediate = 16\ncount = 3\ngate = \"sigmoid\"\n[capacity]\ntokens = 3\npriority = \"score\"\ndropped = \"input\"",
    ),
    ("hash", "mode = \"hash\"\nvocabulary = 11\nscore = \"sqrtsoftplus\"\nrenorm = \"sum\"\nscale = 1.5", "", ""),
    (
        "padding_by_position",
        "score = \"sigmoid\"\ncorrection_on = \"score\"\nrenorm = \"sum\"",
        "",
        "[shared]\nintermediate = 24\n[capacity]\nfactor = 0.75\ncount_k = true\nround = \"ceil\"\ngroup = \"sequence\"\n\
         [weights]\noutput_bias = \"output_bias\"\n\
         [training]\naux_loss = \"megatron\"\naux_coef = 0.5\nz_coef = 0.25\nbias_update_rate = 0.125\n[tokens]\nmask = true",
    ),
    (
        "padding_by_weight",
        "renorm = \"sum\"\nscale = 2.5",
        "",
        "[capacity]\nfactor = 0.5\ncount_k = true\nround = \"ceil\"\ngroup = 7\npriority = \"score\"\nrenorm_after_drop = true\n\
         dropped = \"input\"\n[training]\naux_loss = \"gshard\"\naux_coef = 1.0\n[tokens]\nmask = true",
    ),
    (
        "padding_beside_joint_experts",
        "score = \"sigmoid\"\njoint_shared = 2",
        "",
        "[shared]\nintermediate = 12\ncount = 2\n[tokens]\nmask = true",
    ),
    (
        "padding_beside_identity",
        "score = \"sigmoid\"\nidentity_experts = 4\ngroups = 4\ntopk_groups = 3",
        "latent = 20",
        "[capacity]\ntokens = 3\npriority = \"token_major\"\ndropped = \"input\"\n[tokens]\nmask = true",
    ),
    (
        "padding_of_choosing_experts",
        "mode = \"expert_choice\"\ntop_k = 1",
        "",
        "[shared]\nintermediate = 24\n[capacity]\nfactor = 1.0\nround = \"half_even\"\ngroup = \"sequence\"\n[tokens]\nmask = true",
    ),
    (
        "padding_of_token_ids",
        "mode = \"hash\"\nvocabulary = 11\nrenorm = \"sum\"",
        "",
        "[training]\naux_loss = \"deepseek_sequence\"\naux_coef = 1.0\n[tokens]\nmask = true",
    ),
    (
        "padding_of_slots",
        "mode = \"soft\"\ntop_k = 1\nnorm = \"l2\"\nnorm_eps = 1e-6\nslots = 3",
        "bias = true",
        "[shared]\nintermediate = 24\n[weights]\noutput_bias = \"output_bias\"\n[tokens]\nmask = true",
    ),
    (
        "padding_of_normed_slots",
        "mode = \"soft\"\ntop_k = 1\nnorm = \"rms\"\nnorm_eps = 1e-6\ndispatch_normed = true",
        "latent = 20",
        "[tokens]\nmask = true",
    ),
    (
        "ids_outside_dropped",
        "mode = \"hash\"\nvocabulary = 11\nhash_oob = \"drop\"\nscore = \"sqrtsoftplus\"\nrenorm = \"sum\"\nscale = 1.5",
        "",
        "[shared]\nintermediate = 24\n[capacity]\nfactor = 0.75\ncount_k = true\nround = \"ceil\"\nrenorm_after_drop = true\n\
         dropped = \"input\"\n[training]\naux_loss = \"switch\"\naux_coef = 1.0\nz_coef = 0.25",
    ),
    (
        "padding_beside_ids_outside",
        "mode = \"hash\"\nvocabulary = 11\nhash_oob = \"drop\"\nidentity_experts = 2",
        "",
        "[shared]\nintermediate = 24\n[capacity]\ntokens = 3\npriority = \"batch_prioritized\"\ngroup = \"sequence\"\n[tokens]\nmask = true",
    ),
];

/// Layers whose lines begin at no multiple of 4 bytes: H and F are odd, in elements of 16 bits.
///
/// # Panics
/// Where one is not a correct spec.
#[must_use]
pub fn of_odd_widths() -> Vec<Example> {
    let of = |dtype: &str| {
        let name = format!("odd_widths_{dtype}");
        let text = format!(
            "[moe]\nname = \"{name}\"\nhidden = 511\nexperts = 7\n[router]\nmode = \"token_choice\"\ntop_k = 2\nscore = \"softmax\"\n\
             order = \"score_topk\"\nrenorm = \"sum\"\n[expert]\nintermediate = 703\nactivation = \"silu\"\ngated = true\n\
             [tokens]\nmax = 4096\n[numerics]\ndtype = \"{dtype}\"\n"
        );
        parsed(name, text)
    };
    ["bf16", "f16"].map(of).into()
}

/// A layer in f32 whose products may round their factors to tf32: those of experts with biases and weighted rows, and of a shared expert.
///
/// # Panics
/// Where it is not a correct spec.
#[must_use]
pub fn of_tf32() -> Example {
    let text = "[moe]\nname = \"tf32\"\nhidden = 136\nexperts = 5\n[router]\nmode = \"token_choice\"\ntop_k = 2\nscore = \"softmax\"\n\
        order = \"score_topk\"\nrenorm = \"sum\"\n[expert]\nintermediate = 199\nactivation = \"silu\"\ngated = true\nbias = true\n\
        [shared]\nintermediate = 100\n[tokens]\nmax = 4096\n[numerics]\ndtype = \"f32\"\ntf32 = true\n";
    parsed("tf32".to_string(), text.to_string())
}

fn parsed(name: String, text: String) -> Example {
    let source = Source { name: name.clone(), text };
    let spec = moec::spec::parse(&source).unwrap_or_else(|wrong| panic!("{name}: {wrong:?}\n{}", source.text));
    Example { name, text: source.text, spec }
}

/// Whether every token counts in the statistics of the layer's routing: none may be padding, or have an id of no experts.
#[must_use]
pub fn counts_all_tokens(spec: &Spec) -> bool {
    !spec.tokens.mask && spec.router.hash_oob == HashOob::Error
}

/// A small layer for each mode, H and F neither round nor alike, E not a power of two where there are no groups.
///
/// # Panics
/// Where one is not a correct spec.
#[must_use]
pub fn modes() -> Vec<Example> {
    let dtypes = ["f32", "bf16", "f16"];
    let mode = |(i, (name, router, expert, tables)): (usize, &(&str, &str, &str, &str))| {
        let dtype = dtypes[i % dtypes.len()];
        let keys = |given: &str, defaults: &[(&str, &str)]| {
            let missing = defaults.iter().filter(|(key, _)| !given.lines().any(|line| line.starts_with(&format!("{key} ="))));
            let missing: String = missing.map(|(key, value)| format!("{key} = {value}\n")).collect();
            format!("{given}\n{missing}")
        };
        let choice: &[_] = if router.starts_with("mode = \"expert_choice") { &[] } else { &[("top_k", "3")] };
        let router = keys(router, choice);
        let router = keys(
            &router,
            &[("mode", "\"token_choice\""), ("score", "\"softmax\""), ("order", "\"score_topk\""), ("renorm", "\"none\"")],
        );
        let expert = keys(expert, &[("activation", "\"silu\""), ("gated", "true")]);
        let experts = if router.contains("groups") { 12 } else { 7 };
        // Last, where a mode has keys of it.
        let tokens = if tables.contains("[tokens]") { "" } else { "[tokens]\n" };
        let text = format!(
            "[moe]\nname = \"{name}\"\nhidden = 36\nexperts = {experts}\n[router]\n{router}\
             [expert]\nintermediate = 28\n{expert}{tables}\n{tokens}max = 4096\n[numerics]\ndtype = \"{dtype}\"\n"
        );
        parsed(name.to_string(), text)
    };
    MODES.iter().enumerate().map(mode).collect()
}
