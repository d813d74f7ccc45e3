//! What the keys of a spec say about each other, and limits over several of them.
//! What is wrong with one key alone has been reported by `section`; a key that is wrong is left out here.

use std::ops::Range;

use super::recipe::Recipe;
use super::resolve::{self, Sections};
use super::section::{Field, Section};
use super::weights::Tensor;
use crate::diagnostics::{Code, Diagnostic};

/// Reports every disagreement.
pub(super) fn check(spec: &Sections, wrong: &mut Vec<Diagnostic>) {
    output_norm(&spec.moe, wrong);
    top_k(spec, wrong);
    groups(spec, wrong);
    renorm(&spec.router, wrong);
    order(&spec.router, wrong);
    sparsemixer(&spec.router, wrong);
    soft(spec, wrong);
    soft_invariance(spec, wrong);
    tf32_of_f32(spec, wrong);
    expert_choice(spec, wrong);
    hash(&spec.router, wrong);
    joint(spec, wrong);
    if let Some(capacity) = &spec.capacity {
        capacity_size(capacity, wrong);
        choices_counted(spec, capacity, wrong);
        places_of_others(spec, capacity, wrong);
        if capacity.boolean("renorm_after_drop") == Some(true) {
            needs(capacity, "renorm_after_drop", spec.router.word("renorm") != Some("none"), "renorm", &spec.router, wrong);
            renorm_of_kept(spec, capacity, wrong);
        }
    }
    gating(&spec.expert, &spec.expert, wrong);
    if let Some(shared) = &spec.shared {
        gating(shared, &spec.expert, wrong);
    }
    let corrects = spec.router.word("correction_on") != Some("none");
    needs(&spec.training, "bias_update_rate", corrects, "correction_on", &spec.router, wrong);
    tokens(&spec.tokens, wrong);
    training(spec, wrong);
    weights(spec, wrong);
    limits(spec, wrong);
}

fn output_norm(moe: &Section, wrong: &mut Vec<Diagnostic>) {
    let normalises = moe.word("output_norm") != Some("none");
    needs(moe, "output_norm_eps", normalises, "output_norm", moe, wrong);
    if normalises {
        moe.require("output_norm_eps", wrong);
    }
}

/// A loss has a coefficient, and is made of what tokens choose.
fn training(spec: &Sections, wrong: &mut Vec<Diagnostic>) {
    let training = &spec.training;
    needs(training, "aux_coef", training.given("aux_loss").is_some(), "aux_loss", training, wrong);
    if training.given("aux_loss").is_some() {
        training.require("aux_coef", wrong);
    }
    let losses = ["aux_loss", "z_coef"].into_iter().filter_map(|key| training.given(key));
    if spec.has_router && matches!(spec.router.word("mode"), Some("expert_choice" | "soft")) {
        wrong.extend(losses.map(|field| {
            let message = format!("training.{} is made of what tokens choose, and here they do not", field.key.name);
            Diagnostic::new(Code::Contradiction, message)
                .at(field.key_span.clone(), "a loss of token choice")
                .also(place(&spec.router, "mode"), "another mode")
        }));
    }
    for key in ["identity_experts", "joint_shared"] {
        let Some(field) = spec.router.given(key).filter(|_| spec.router.integer(key) != Some(0)) else { continue };
        wrong.extend(["aux_loss", "z_coef"].into_iter().filter_map(|loss| training.given(loss)).map(|loss| {
            let message = format!("training.{} with {key} is not supported yet", loss.key.name);
            Diagnostic::new(Code::NotSupportedYet, message)
                .at(loss.key_span.clone(), "a loss of experts with weights")
                .also(field.span.clone(), "others beside them")
        }));
    }
    aux_group(training, wrong);
}

/// Some losses have but one group.
fn aux_group(training: &Section, wrong: &mut Vec<Diagnostic>) {
    needs(training, "aux_group", training.given("aux_loss").is_some(), "aux_loss", training, wrong);
    let (Some(group), Some(loss)) = (training.given("aux_group"), training.given("aux_loss")) else { return };
    match (training.word("aux_loss"), training.word("aux_group")) {
        (Some("deepseek_sequence"), Some("all")) => wrong.push(
            Diagnostic::new(Code::Contradiction, "deepseek_sequence is a loss of sequences, and aux_group = \"all\" is not")
                .at(group.span.clone(), "the whole batch")
                .also(loss.span.clone(), "each sequence")
                .help("aux_loss = \"megatron\" is the same loss of the whole batch"),
        ),
        (Some("importance"), Some("sequence")) => wrong.push(
            Diagnostic::new(Code::NotSupportedYet, "importance of each sequence is not supported yet")
                .at(group.span.clone(), "each sequence")
                .also(loss.span.clone(), "of the whole batch")
                .help("aux_group = \"all\""),
        ),
        (_, _) => {}
    }
}

/// Picks without rows take no part in what is renormalised after the drop, but should: not carried yet.
fn renorm_of_kept(spec: &Sections, capacity: &Section, wrong: &mut Vec<Diagnostic>) {
    for key in ["identity_experts", "joint_shared"] {
        if let Some(field) = spec.router.given(key).filter(|_| spec.router.integer(key) != Some(0)) {
            let message = format!("renorm_after_drop with {key} is not supported yet");
            let diagnostic =
                Diagnostic::new(Code::NotSupportedYet, message).at(place(capacity, "renorm_after_drop"), "after the drop");
            wrong.push(diagnostic.also(field.span.clone(), "with this"));
        }
    }
}

/// Where a key's value is, or the table's name where the key is absent.
fn place(section: &Section, key: &str) -> Range<usize> {
    section.given(key).map_or(section.header.clone(), |field| field.span.clone())
}

fn top_k(spec: &Sections, wrong: &mut Vec<Diagnostic>) {
    let router = &spec.router;
    let tokens_choose = matches!(router.word("mode"), Some("token_choice" | "hash"));
    if tokens_choose && spec.has_router {
        router.require("top_k", wrong);
    }
    let (Some(top_k), Some((experts, kinds))) = (router.integer("top_k"), candidates(spec)) else { return };
    if top_k > experts {
        wrong.push(
            Diagnostic::new(Code::TopKAboveExperts, format!("top_k ({top_k}) exceeds {kinds} ({experts})"))
                .at(place(router, "top_k"), format!("{top_k} distinct experts"))
                .also(place(&spec.moe, "experts"), format!("of {experts}"))
                .help(format!("top_k is at most {experts}")),
        );
    }
}

/// The experts that compete for a token, and the keys that count them.
fn candidates(spec: &Sections) -> Option<(u64, &'static str)> {
    let (experts, identity) = (spec.moe.integer("experts")?, spec.router.integer("identity_experts")?);
    Some((experts + identity, if identity > 0 { "experts + identity_experts" } else { "experts" }))
}

fn groups(spec: &Sections, wrong: &mut Vec<Diagnostic>) {
    let router = &spec.router;
    for key in ["topk_groups", "group_score", "group_mask"] {
        needs(router, key, router.given("groups").is_some(), "groups", router, wrong);
    }
    let (Some(groups), Some((experts, kinds))) = (router.integer("groups"), candidates(spec)) else { return };
    if router.given("groups").is_none() || (groups == 1 && router.given("topk_groups").is_none()) {
        return;
    }
    if !experts.is_multiple_of(groups) {
        let near: Vec<String> = (2..=experts).filter(|n| experts.is_multiple_of(*n)).take(6).map(|n| n.to_string()).collect();
        wrong.push(
            Diagnostic::new(Code::GroupsDoNotDivide, format!("groups ({groups}) does not divide {kinds} ({experts})"))
                .at(place(router, "groups"), format!("{groups} equal groups"))
                .also(place(&spec.moe, "experts"), format!("of {experts} experts"))
                .help(format!("these do: 1, {}", near.join(", "))),
        );
        return;
    }
    let Some(topk_groups) = router.integer("topk_groups") else {
        if router.given("topk_groups").is_none() {
            wrong.push(
                Diagnostic::new(Code::MissingKey, "[router] has groups but lacks `topk_groups`")
                    .at(place(router, "groups"), "groups are asked for here")
                    .help("topk_groups: how many groups stay selectable"),
            );
        }
        return;
    };
    if topk_groups > groups {
        wrong.push(
            Diagnostic::new(Code::TooManyTopGroups, format!("topk_groups ({topk_groups}) exceeds groups ({groups})"))
                .at(place(router, "topk_groups"), format!("{topk_groups} groups"))
                .also(place(router, "groups"), format!("of {groups}")),
        );
        return;
    }
    let group_experts = experts / groups;
    let selectable = topk_groups * group_experts;
    if let Some(top_k) = router.integer("top_k").filter(|top_k| *top_k > selectable && *top_k <= experts) {
        let message = format!("top_k ({top_k}) exceeds the {selectable} experts of the selected groups");
        wrong.push(
            Diagnostic::new(Code::TopKAboveSelectable, message)
                .at(place(router, "top_k"), format!("{top_k} experts"))
                .also(place(router, "topk_groups"), format!("{topk_groups} groups of {group_experts}")),
        );
    }
    if groups > 1 && group_experts < 2 && router.word("group_score") == Some("top2_sum") {
        wrong.push(
            Diagnostic::new(Code::GroupTooSmall, "a group of one expert has no two best scores")
                .at(place(router, "groups"), format!("{groups} groups"))
                .also(place(&spec.moe, "experts"), format!("of {experts} experts")),
        );
    }
}

fn renorm(router: &Section, wrong: &mut Vec<Diagnostic>) {
    let renorms = router.word("renorm") != Some("none");
    for key in ["renorm_eps", "renorm_eps_mode"] {
        needs(router, key, renorms, "renorm", router, wrong);
    }
    let normalises = router.word("input_norm") != Some("none");
    for key in ["input_norm_eps", "input_scale"] {
        needs(router, key, normalises, "input_norm", router, wrong);
    }
    let by_norm = router.word("renorm") == Some("p");
    needs(router, "renorm_p", by_norm, "renorm = \"p\"", router, wrong);
    if by_norm {
        router.require("renorm_p", wrong);
    }
}

/// Scores that do not exist before the selection cannot take part in it.
fn order(router: &Section, wrong: &mut Vec<Diagnostic>) {
    if router.word("order") != Some("topk_score") {
        return;
    }
    let has_groups = router.integer("groups").is_some_and(|groups| groups > 1);
    for (key, asks) in [("correction_on", router.word("correction_on") == Some("score")), ("groups", has_groups)] {
        if asks {
            wrong.push(
                Diagnostic::new(Code::Contradiction, format!("router.{key} ranks scores, which order = \"topk_score\" has not"))
                    .at(place(router, key), "needs the scores of all experts")
                    .also(place(router, "order"), "scores only the selected experts")
                    .help("order = \"score_topk\""),
            );
        }
    }
}

/// It makes experts and weights of the logits in one: there are no scores, and nothing to correct or limit.
fn sparsemixer(router: &Section, wrong: &mut Vec<Diagnostic>) {
    let mixes = router.word("select") == Some("sparsemixer");
    needs(router, "jitter", mixes, "select = \"sparsemixer\"", router, wrong);
    if !mixes {
        return;
    }
    router.require("jitter", wrong);
    let has_groups = router.integer("groups").is_some_and(|groups| groups > 1);
    let asks = |key: &str, usual: &str| router.word(key).is_some_and(|word| word != usual);
    for (key, asks, usual) in [
        ("score", asks("score", "softmax"), "score = \"softmax\""),
        ("order", asks("order", "score_topk"), "order = \"score_topk\""),
        ("correction_on", asks("correction_on", "none"), "correction_on = \"none\""),
        ("groups", has_groups, "groups = 1"),
    ] {
        if asks {
            wrong.push(
                Diagnostic::new(
                    Code::Contradiction,
                    format!("router.{key} changes what select = \"sparsemixer\" makes of the logits"),
                )
                .at(place(router, key), "not a part of it")
                .also(place(router, "select"), "selects and weighs the logits themselves")
                .help(usual),
            );
        }
    }
}

/// Keys of others beside soft routing: all tokens go to all slots.
fn soft(spec: &Sections, wrong: &mut Vec<Diagnostic>) {
    let router = &spec.router;
    if router.word("mode") != Some("soft") {
        return;
    }
    router.require("norm", wrong);
    if router.word("norm") == Some("none") {
        needs(router, "norm_eps", false, "norm", router, wrong);
        needs(router, "dispatch_normed", router.boolean("dispatch_normed") == Some(false), "norm", router, wrong);
    }
    for field in router.fields() {
        let key = field.key.name;
        // `top_k = 1` stands: other formats, which have no mode, need the key.
        let says_nothing = field.repeats_default() || (key == "top_k" && router.integer("top_k") == Some(1));
        if says_nothing || resolve::MODE_KEYS.iter().any(|(own, _)| *own == key) || key == "mode" {
            continue;
        }
        wrong.push(no_part_in_soft(spec, router, field, "says how tokens pick experts"));
    }
    if let Some(jitter) = spec.training.given("jitter") {
        wrong.push(no_part_in_soft(spec, &spec.training, jitter, "changes which experts tokens pick"));
    }
}

fn no_part_in_soft(spec: &Sections, section: &Section, field: &Field, what: &str) -> Diagnostic {
    let (table, key) = (section.table.name, field.key.name);
    Diagnostic::new(Code::Contradiction, format!("{table}.{key} has no part in mode = \"soft\""))
        .at(field.key_span.clone(), what)
        .also(place(&spec.router, "mode"), "all tokens go to all slots")
        .help(format!("leave `{key}` out"))
}

/// Other tokens of a sequence change what a token's slots hold.
fn soft_invariance(spec: &Sections, wrong: &mut Vec<Diagnostic>) {
    if spec.router.word("mode") == Some("soft") && spec.numerics.boolean("batch_invariant") == Some(true) {
        wrong.push(
            Diagnostic::new(Code::Contradiction, "batch_invariant and mode = \"soft\" contradict")
                .at(place(&spec.numerics, "batch_invariant"), "a token's bits do not depend on the others")
                .also(place(&spec.router, "mode"), "a token's outputs are made of all tokens of its sequence"),
        );
    }
}

/// Factors of 16 bits are exact in tf32, or have other exponents.
fn tf32_of_f32(spec: &Sections, wrong: &mut Vec<Diagnostic>) {
    let numerics = &spec.numerics;
    let Some(dtype) = numerics.word("dtype").filter(|dtype| *dtype != "f32") else { return };
    if numerics.boolean("tf32") == Some(true) {
        wrong.push(
            Diagnostic::new(Code::Contradiction, format!("tf32 and dtype = \"{dtype}\" contradict"))
                .at(place(numerics, "tf32"), "rounds factors in f32")
                .also(place(numerics, "dtype"), format!("factors are {dtype}"))
                .help("leave `tf32` out, or say dtype = \"f32\""),
        );
    }
}

/// Each expert takes its capacity of the tokens: a token picks nothing, drops nothing and has no set of its own.
fn expert_choice(spec: &Sections, wrong: &mut Vec<Diagnostic>) {
    let router = &spec.router;
    if router.word("mode") != Some("expert_choice") {
        return;
    }
    let mode = || place(router, "mode");
    if spec.capacity.is_none() {
        wrong.push(
            Diagnostic::new(Code::MissingCapacity, "mode = \"expert_choice\" needs [capacity]")
                .at(mode(), "how many tokens does an expert take?")
                .help("[capacity] with factor = 1.0 (times tokens / experts) and its round, or with tokens = 64 (absolute)"),
        );
    }
    let word = |section: &Section, key: &str, usual: &str| section.word(key).is_some_and(|word| word != usual);
    let above = |key: &str, usual: u64| router.integer(key).is_some_and(|n| n > usual);
    let mut contradicts = |section: &Section, key: &str, asks: bool, why: &str, usual: &str| {
        let Some(field) = section.given(key).filter(|_| asks) else { return };
        let message = format!("{}.{key} and mode = \"expert_choice\" contradict", section.table.name);
        wrong.push(
            Diagnostic::new(Code::Contradiction, message)
                .at(field.span.clone(), why)
                .also(mode(), "each expert takes the tokens that it scores highest")
                .help(usual),
        );
    };
    for (key, asks, why, usual) in [
        ("top_k", above("top_k", 1), "a token has as many experts as choose it", "no top_k"),
        ("order", word(router, "order", "score_topk"), "nothing is picked before the scores", "order = \"score_topk\""),
        ("select", word(router, "select", "topk"), "tokens do not select", "select = \"topk\""),
        ("correction_on", word(router, "correction_on", "none"), "corrects what tokens pick", "correction_on = \"none\""),
        ("groups", above("groups", 1), "limits what tokens pick", "groups = 1"),
        ("renorm", word(router, "renorm", "none"), "normalises the picks of a token", "renorm = \"none\""),
        ("joint_shared", above("joint_shared", 0), "normalises the picks of a token", "joint_shared = 0"),
        ("identity_experts", above("identity_experts", 0), "experts without a capacity", "identity_experts = 0"),
    ] {
        contradicts(router, key, asks, why, usual);
    }
    if let Some(capacity) = &spec.capacity {
        for (key, asks, why, usual) in [
            ("count_k", capacity.boolean("count_k") == Some(true), "there is no K", "count_k = false"),
            ("priority", word(capacity, "priority", "score"), "an expert always takes its highest scores first", "no priority"),
            ("dropped", word(capacity, "dropped", "zero"), "nothing is picked and then dropped", "dropped = \"zero\""),
        ] {
            contradicts(capacity, key, asks, why, usual);
        }
    }
}

/// Whether a token finds its expert full depends on the other tokens of the batch.
fn places_of_others(spec: &Sections, capacity: &Section, wrong: &mut Vec<Diagnostic>) {
    if spec.numerics.boolean("batch_invariant") == Some(true) {
        wrong.push(
            Diagnostic::new(Code::Contradiction, "batch_invariant and [capacity] contradict")
                .at(place(&spec.numerics, "batch_invariant"), "a token's bits do not depend on the others")
                .also(capacity.header.clone(), "the others of its group take places of its experts")
                .help("leave one of the two out"),
        );
    }
}

/// The table selects: nothing else can.
fn hash(router: &Section, wrong: &mut Vec<Diagnostic>) {
    if router.word("mode") != Some("hash") {
        return;
    }
    let has_groups = router.integer("groups").is_some_and(|groups| groups > 1);
    let asks = |key: &str, usual: &str| router.word(key).is_some_and(|word| word != usual);
    for (key, asks, usual) in [
        ("select", asks("select", "topk"), "no `select`"),
        ("correction_on", asks("correction_on", "none"), "correction_on = \"none\""),
        ("groups", has_groups, "groups = 1"),
    ] {
        if asks {
            wrong.push(
                Diagnostic::new(Code::Contradiction, format!("router.{key} selects experts, and so does mode = \"hash\""))
                    .at(place(router, key), "by the scores")
                    .also(place(router, "mode"), "by the token's id")
                    .help(usual),
            );
        }
    }
}

/// Each joint column weighs one shared expert, and only that.
fn joint(spec: &Sections, wrong: &mut Vec<Diagnostic>) {
    let router = &spec.router;
    let (Some(joint), Some(n)) = (router.given("joint_shared"), router.integer("joint_shared").filter(|n| *n > 0)) else {
        return;
    };
    let shared = spec.shared.as_ref();
    match shared.map(|shared| (shared, shared.integer("count"))) {
        None => wrong.push(
            Diagnostic::new(Code::NeedsOther, "router.joint_shared weighs shared experts, and the layer has none")
                .at(joint.key_span.clone(), "needs [shared]")
                .help(format!("give a table [shared] with `count = {n}` too, or leave `joint_shared` out")),
        ),
        Some((shared, Some(count))) if count != n => wrong.push(
            Diagnostic::new(Code::Contradiction, format!("router.joint_shared ({n}) is not shared.count ({count})"))
                .at(joint.span.clone(), format!("{n} columns"))
                .also(place(shared, "count"), format!("for {count} shared experts"))
                .help(format!("shared.count = {n}")),
        ),
        Some((_, Some(_) | None)) => {}
    }
    let bias = shared.and_then(|shared| shared.given("bias")).filter(|_| shared.and_then(|s| s.boolean("bias")) == Some(true));
    let identity = router.given("identity_experts").filter(|_| router.integer("identity_experts") != Some(0));
    let mixer = router.given("select").filter(|_| router.word("select") == Some("sparsemixer"));
    let input = router.given("apply").filter(|_| router.word("apply") == Some("input"));
    // Shares of a sum with picks that do not exist.
    let drop =
        router.given("hash_oob").filter(|_| router.word("mode") == Some("hash") && router.word("hash_oob") == Some("drop"));
    for (field, what) in [
        (drop, "hash_oob = \"drop\""),
        (identity, "identity_experts"),
        (mixer, "select = \"sparsemixer\""),
        (input, "apply = \"input\""),
        (bias, "biases of the shared experts"),
        (spec.weights.given("per_expert_scale"), "per_expert_scale"),
    ] {
        if let Some(field) = field {
            let diagnostic = Diagnostic::new(Code::NotSupportedYet, format!("joint_shared with {what} is not supported yet"));
            wrong.push(
                diagnostic
                    .at(joint.span.clone(), "shared experts with weights of their own")
                    .also(field.span.clone(), "with this")
                    .help(format!("leave out joint_shared, or {what}")),
            );
        }
    }
}

/// Whether `[weights]` names one stored tensor as the router and as the slots, which soft routing has in its place.
fn is_another_name_of_slots(tensor: Tensor, recipe: &Recipe, spec: &Sections) -> bool {
    let slots = spec.weights.given("slots").and_then(|field| field.recipe());
    tensor == Tensor::Router && spec.router.word("mode") == Some("soft") && slots.is_some_and(|slots| slots.names == recipe.names)
}

fn capacity_size(capacity: &Section, wrong: &mut Vec<Diagnostic>) {
    let sizes: Vec<&Field> = ["factor", "tokens", "fraction"].into_iter().filter_map(|key| capacity.given(key)).collect();
    match sizes.as_slice() {
        [] => wrong.push(
            Diagnostic::new(Code::MissingCapacity, "[capacity] does not say how large it is")
                .at(capacity.header.clone(), "in this table")
                .help("factor = 1.25 (times tokens / experts), or tokens = 64 (absolute); without [capacity] nothing drops"),
        ),
        [size] if size.key.name != "tokens" && capacity.given("round").is_none() => wrong.push(
            Diagnostic::new(Code::MissingRound, format!("capacity.{} needs `round`", size.key.name))
                .at(size.key_span.clone(), "rarely gives whole tokens")
                .help("round = \"ceil\", \"floor\" or \"half_even\"")
                .note("implementations differ, and which tokens drop depends on it: see `moec explain MOE0308`"),
        ),
        [_] => {}
        [first, rest @ ..] => wrong.extend(rest.iter().map(|other| {
            let message = format!("capacity.{} and capacity.{} contradict", first.key.name, other.key.name);
            Diagnostic::new(Code::Contradiction, message)
                .at(other.key_span.clone(), "a second size")
                .also(first.key_span.clone(), "the first")
                .help("keep one of them")
        })),
    }
    needs(capacity, "count_k", capacity.given("factor").is_some(), "factor", capacity, wrong);
}

/// Whether K counts in a factor is what libraries disagree about; with K = 1 they agree.
fn choices_counted(spec: &Sections, capacity: &Section, wrong: &mut Vec<Diagnostic>) {
    let tokens_choose = matches!(spec.router.word("mode"), Some("token_choice" | "hash"));
    let Some(top_k) = spec.router.integer("top_k").filter(|top_k| *top_k > 1 && tokens_choose) else { return };
    let Some(factor) = capacity.given("factor").filter(|_| capacity.given("count_k").is_none()) else { return };
    wrong.push(
        Diagnostic::new(Code::MissingCountK, format!("capacity.factor with top_k = {top_k} needs `count_k`"))
            .at(factor.key_span.clone(), "of the tokens, or of their picks?")
            .also(place(&spec.router, "top_k"), format!("{top_k} picks a token"))
            .help("count_k = true: C = factor * S * K / E (Megatron, Tutel, V-MoE); count_k = false: C = factor * S / E (mesh-tensorflow, flaxformer)"),
    );
}

/// The inner keys of `[expert]`, or of `[shared]`, which inherits from it.
fn gating(section: &Section, inherited: &Section, wrong: &mut Vec<Diagnostic>) {
    let holder = |key: &str| if section.given(key).is_some() { section } else { inherited };
    let gated = holder("gated").boolean("gated") != Some(false);
    for key in ["up_offset", "clamp_limit", "gate_softcap", "up_softcap"] {
        needs(section, key, gated, "gated", holder("gated"), wrong);
    }
    let is_silu = holder("activation").word("activation").is_none_or(|word| word == "silu");
    for (key, formula) in [("alpha", "x * sigmoid(alpha * x)"), ("gate_softcap", "tanh(x / c) * c * sigmoid(x)")] {
        let Some(field) = section.given(key).filter(|_| !is_silu) else { continue };
        wrong.push(
            Diagnostic::new(Code::Contradiction, format!("{key} is a part of silu, and the activation is another"))
                .at(field.key_span.clone(), formula)
                .also(place(holder("activation"), "activation"), "another activation")
                .help(format!("activation = \"silu\", or no {key}")),
        );
    }
    let clamps = holder("clamp_limit").given("clamp_limit").is_some();
    needs(section, "clamp_where", clamps, "clamp_limit", section, wrong);
    if section.boolean("clamp") == Some(false)
        && let (Some(off), Some(limit)) = (section.given("clamp"), section.given("clamp_limit"))
    {
        wrong.push(
            Diagnostic::new(Code::Contradiction, "clamp = false and clamp_limit contradict")
                .at(off.span.clone(), "no clamp")
                .also(limit.span.clone(), "a clamp"),
        );
    }
}

fn tokens(tokens: &Section, wrong: &mut Vec<Diagnostic>) {
    let (Some(_), Some(max), Some(expected)) = (tokens.given("expected"), tokens.integer("max"), tokens.integers("expected"))
    else {
        return;
    };
    for (count, span) in expected.into_iter().filter(|(count, _)| *count > max) {
        wrong.push(
            Diagnostic::new(Code::ExpectedAboveMax, format!("{count} tokens are expected, and {max} are the most"))
                .at(span, "more than max")
                .also(place(tokens, "max"), format!("tokens.max is {max}")),
        );
    }
}

/// A key that changes nothing because another key turns it off.
fn needs(section: &Section, key: &str, is_asked: bool, other: &str, holder: &Section, wrong: &mut Vec<Diagnostic>) {
    let Some(field) = section.given(key).filter(|_| !is_asked) else { return };
    let table = section.table.name;
    let diagnostic = Diagnostic::new(Code::NeedsOther, format!("{table}.{key} changes nothing without {other}"))
        .at(field.key_span.clone(), format!("needs {other}"));
    wrong.push(match holder.given(other) {
        Some(other_field) => diagnostic.also(other_field.span.clone(), "which is off here"),
        None => diagnostic.help(format!("give `{other}` too, or leave `{key}` out")),
    });
}

fn weights(spec: &Sections, wrong: &mut Vec<Diagnostic>) {
    let weights = &spec.weights;
    for field in weights.fields() {
        let (Some(tensor), Some(recipe)) = (Tensor::from_word(field.key.name), field.recipe()) else { continue };
        if is_another_name_of_slots(tensor, recipe, spec) {
            continue;
        }
        if let Some((why, place)) = resolve::why_absent(tensor, spec) {
            let message = format!("weights.{} is given, but the layer has no such tensor", field.key.name);
            let diagnostic = Diagnostic::new(Code::WeightNotInLayer, message).at(field.key_span.clone(), why);
            wrong.push(match place {
                Some(span) => diagnostic.also(span, "because of this"),
                None => diagnostic,
            });
            continue;
        }
        if let (Some((experts, span)), Some(layer)) = (&recipe.experts, spec.moe.integer("experts"))
            && *experts != layer
        {
            let message = format!("weights.{} has {experts} experts, and the layer {layer}", field.key.name);
            wrong.push(
                Diagnostic::new(Code::ExpertsDisagree, message)
                    .at(span.clone(), "here")
                    .also(place(&spec.moe, "experts"), "and here"),
            );
        }
    }
    for (fused, parts) in [
        ("gate_up", ["gate", "up"]),
        ("gate_up_bias", ["gate_bias", "up_bias"]),
        ("shared_gate_up", ["shared_gate", "shared_up"]),
        ("shared_gate_up_bias", ["shared_gate_bias", "shared_up_bias"]),
    ] {
        let Some(fused) = weights.given(fused) else { continue };
        for part in parts.into_iter().filter_map(|part| weights.given(part)) {
            let message = format!("weights.{} and weights.{} contradict", fused.key.name, part.key.name);
            wrong.push(
                Diagnostic::new(Code::WeightTwice, message)
                    .at(part.key_span.clone(), "stored alone")
                    .also(fused.key_span.clone(), "stored together")
                    .help("keep the one that the checkpoint has"),
            );
        }
    }
}

/// Products of legal sizes that no kernel could index or no machine hold.
fn limits(spec: &Sections, wrong: &mut Vec<Diagnostic>) {
    const MOST_WEIGHTS: u64 = 1 << 40;
    // Kernels number pairs in i32, with room to round up.
    const MOST_PAIRS: u64 = moec_ir::schedule::MOST_PAIRS - 1;
    const MOST_ACTIVATIONS: u64 = 1 << 46;
    const WIDEST_SHARED: u64 = 1 << 20;
    let (hidden, experts, intermediate) =
        (spec.moe.integer("hidden"), spec.moe.integer("experts"), spec.expert.integer("intermediate"));
    let max = spec.tokens.integer("max");
    let slots = spec.router.integer("slots").filter(|_| spec.router.word("mode") == Some("soft"));
    // What a token is paired with: the experts that it picks, all of them until they have chosen, or all slots.
    let (of_token, of, key, pairs_of, each) = match (spec.router.word("mode"), slots) {
        (_, Some(slots)) => {
            let all = experts.map(|experts| experts.saturating_mul(slots));
            (all, &spec.router, "slots", "(token, slot) pairs", "slots an expert")
        }
        (Some("expert_choice"), None) => (experts, &spec.moe, "experts", "(token, expert) pairs", "experts a token"),
        (_, None) => {
            let joint = spec.router.integer("joint_shared").unwrap_or(0);
            let picks = spec.router.integer("top_k").map(|top_k| top_k.saturating_add(joint));
            (picks, &spec.router, "top_k", "(token, expert) pairs", "experts a token")
        }
    };
    let mut limit = |what: &str, size: u64, most: u64, first: Range<usize>, others: Vec<(Range<usize>, &str)>| {
        if size > most {
            let message = format!("{what}: {size} exceeds the limit of {most}");
            let diagnostic = Diagnostic::new(Code::LimitExceeded, message).at(first, "too large together");
            wrong.push(others.into_iter().fold(diagnostic, |diagnostic, (span, text)| diagnostic.also(span, text)));
        }
    };
    if let (Some(hidden), Some(experts), Some(intermediate)) = (hidden, experts, intermediate) {
        let others = vec![(place(&spec.moe, "hidden"), "hidden"), (place(&spec.expert, "intermediate"), "intermediate")];
        let elements = hidden.saturating_mul(experts).saturating_mul(2 * intermediate);
        limit("elements of gate and up", elements, MOST_WEIGHTS, place(&spec.moe, "experts"), others);
    }
    if let (Some(hidden), Some(slots), Some(experts)) = (hidden, slots, experts) {
        let others = vec![(place(&spec.moe, "hidden"), "hidden"), (place(&spec.moe, "experts"), "experts")];
        let elements = hidden.saturating_mul(experts).saturating_mul(slots);
        limit("elements of the slots", elements, MOST_WEIGHTS, place(&spec.router, "slots"), others);
    }
    if let (Some(of_token), Some(max)) = (of_token, max) {
        let others = vec![(place(of, key), each)];
        let first = if spec.tokens.given("max").is_some() { place(&spec.tokens, "max") } else { place(of, key) };
        let pairs = of_token.saturating_mul(max);
        limit(pairs_of, pairs, MOST_PAIRS, first.clone(), others);
        if let (Some(hidden), Some(intermediate), true) = (hidden, intermediate, pairs <= MOST_PAIRS) {
            let others = vec![(place(&spec.moe, "hidden"), "hidden"), (place(&spec.expert, "intermediate"), "intermediate")];
            limit(
                "elements of one activation",
                pairs.saturating_mul(hidden.max(2 * intermediate)),
                MOST_ACTIVATIONS,
                first,
                others,
            );
        }
    }
    if let Some(shared) = &spec.shared
        && let (Some(count), Some(intermediate)) = (shared.integer("count"), shared.integer("intermediate"))
    {
        let others = vec![(place(shared, "count"), "times this")];
        limit("width of the shared experts", count * intermediate, WIDEST_SHARED, place(shared, "intermediate"), others);
    }
}
