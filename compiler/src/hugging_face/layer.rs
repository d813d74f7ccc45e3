//! One layer of a config as a spec: the model type's rules applied to its fields, table by table.
//! Nothing is guessed silently: what the config does not say is in `Config::assumed`.

use super::config::{Config, Found, missing, needs_layer, wrong};
use super::document::Document;
use super::fields::QUANTISATION;
use super::rules::{Activation, Capacity, Feature, Renorm, RouterBias, Scale, Selection, Shared, TopK};
use super::sizes::Sizes;
use super::stored::{self, Stored};
use crate::diagnostics::{Code, Diagnostic, nearest, quote};
use crate::spec::{Kind, Tensor};

/// What is in the spec before its tensor names, and the tensors that it needs besides those of experts and the router.
pub(super) struct Parts {
    pub(super) document: Document,
    pub(super) sizes: Sizes,
    pub(super) stored: Vec<Stored>,
    /// Whether the layer has shared experts.
    pub(super) shared: bool,
}

/// As many as a spec may have.
const MOST_EXPERTS: u64 = 4096;

const HIDDEN: &[&str] = &["d_model", "hidden_size"];
pub(super) const EXPERTS: &[&str] = &["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"];
pub(super) const TOP_K: &[&str] =
    &["num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts", "experts_per_token"];
const SCORES: [&str; 4] = ["softmax", "sigmoid", "sqrtsoftplus", "identity"];

/// The config's layer as a spec.
pub(super) fn parts(config: &mut Config<'_>, name: &str) -> Result<Parts, Diagnostic> {
    for field in ["mlp_bias", "use_bias"] {
        if config.flag(&[field])? == Some(true) {
            return Err(not_expressible(
                config,
                field,
                "biases of the projections are imported for no model that has this field",
            ));
        }
    }
    let mut document = Document::default();
    let hidden = config.required(HIDDEN, "the width of a token's vector")?;
    let experts = config.required(EXPERTS, "how many experts there are")?;
    if experts > MOST_EXPERTS {
        let message = format!("{experts} experts, and {MOST_EXPERTS} are the most");
        return Err(Diagnostic::new(Code::OutOfRange, message));
    }
    document.text("moe", "name", name);
    document.integer("moe", "hidden", hidden);
    document.integer("moe", "experts", experts);
    let mut parts = Parts { document, sizes: Sizes::new(hidden, experts), stored: Vec::new(), shared: false };
    parts.sizes.intermediate = inner_width(config)?;
    for (field, why) in config.model.ignored {
        if let Some(entry) = config.entry(field)
            && entry.value.kind != Kind::Bool(false)
        {
            config.assumed.push(format!("{field} is left out: {why}"));
        }
    }
    router(config, &mut parts)?;
    capacity(config, &mut parts.document)?;
    expert(config, &mut parts)?;
    shared(config, &mut parts)?;
    parts.stored.extend(config.model.also);
    precision(config, &mut parts.document)?;
    output_norm(config, &mut parts)?;
    quantisation(config);
    Ok(parts)
}

/// Says that the layer's weights are not those of a quantised checkpoint.
fn quantisation(config: &mut Config<'_>) {
    let Some(entry) = QUANTISATION.iter().find_map(|field| config.entry(field)) else { return };
    let method = match &entry.value.kind {
        Kind::Table(entries) => entries.iter().find(|entry| entry.key == "quant_method").map(|entry| &entry.value.kind),
        Kind::Text(_) | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::List(_) | Kind::Other(_) => None,
    };
    let method = if let Some(Kind::Text(method)) = method { quote(method) } else { "quantised".to_string() };
    config.assumed.push(format!("the checkpoint is {method}: the tensor names are those of an unquantised copy of it"));
}

/// F. Where two fields may say it, the first that is there does.
fn inner_width(config: &mut Config<'_>) -> Result<u64, Diagnostic> {
    let names = config.model.intermediate;
    let there = names.iter().position(|name| config.entry(name).is_some()).unwrap_or(0);
    if there > 0 {
        config.assumed.push(format!("{} is the experts' width: {} is not in the config", names[there], names[0]));
    } else if names.len() > 1 && names.iter().any(|name| config.entry(name).is_some()) && config.find(names).is_err() {
        config.assumed.push(format!("{} is the experts' width, not {}, which differs", names[0], names[1]));
    }
    config.required(&names[there..=there], "the inner width of an expert")
}

fn output_norm(config: &mut Config<'_>, parts: &mut Parts) -> Result<(), Diagnostic> {
    if config.model.features.contains(&Feature::OutputNorm) {
        parts.document.text("moe", "output_norm", "rms");
        parts.document.number("moe", "output_norm_eps", config.number_or(&["rms_norm_eps"], 1e-6)?);
        parts.stored.extend(stored::OUTPUT_NORM);
    }
    Ok(())
}

fn router(config: &mut Config<'_>, parts: &mut Parts) -> Result<(), Diagnostic> {
    let model = config.model;
    let has = |feature: Feature| model.features.contains(&feature);
    let document = &mut parts.document;
    let hashed = if has(Feature::HashLayers) { is_hash_layer(config)? } else { false };
    document.text("router", "mode", if hashed { "hash" } else { "token_choice" });
    let top_k = match model.top_k {
        TopK::Field => config.required(TOP_K, "how many experts a token has")?,
        TopK::Fixed(top_k) => top_k,
    };
    parts.sizes.top_k = top_k;
    document.integer("router", "top_k", top_k);
    let score = score(config)?;
    document.text("router", "score", score);
    document.text("router", "order", model.order);
    if has(Feature::SparseMixer) {
        let jitter = config.number_or(&["router_jitter_noise"], 0.0)?;
        document.text("router", "select", "sparsemixer");
        document.number("router", "jitter", jitter);
    }
    let biased = match model.router_bias {
        RouterBias::Never => false,
        RouterBias::Always => true,
        RouterBias::If(field) => config.flag_or(&[field], false)?,
    };
    if biased {
        document.flag("router", "bias", true);
        let names: stored::Names = &["router.bias", "router.classifier.bias"];
        parts.stored.push(stored::plain(Tensor::RouterBias, names));
    }
    if has(Feature::Softcap) {
        let cap = config.number_or(&["moe_router_logit_softcapping"], 0.0)?;
        document.number_unless(0.0, "router", "logit_softcap", cap);
    }
    if has(Feature::RouterNorm) {
        if !config.flag_or(&["enable_moe_block"], true)? {
            return Err(not_expressible(config, "enable_moe_block", "no layer of this model is a MoE layer"));
        }
        document.text("router", "input_norm", "rms");
        document.number("router", "input_norm_eps", config.number_or(&["rms_norm_eps"], 1e-6)?);
        document.number("router", "input_scale", (parts.sizes.hidden as f64).powf(-0.5));
        config.assumed.push("the routed experts' input and the router's are one tensor: this model norms them apart".to_string());
    }
    if !hashed {
        selection(config, parts)?;
    }
    renorm(config, &mut parts.document, score)?;
    let document = &mut parts.document;
    match model.scale {
        Scale::None => {}
        Scale::Weights(names) => document.number_unless(1.0, "router", "scale", config.number_or(names, 1.0)?),
        Scale::Output(names) => document.number_unless(1.0, "moe", "routed_output_scale", config.number_or(names, 1.0)?),
    }
    if has(Feature::Identity) {
        let identity = config.integer_or(&["zero_expert_num"], 0)?;
        if identity > 0 {
            document.integer("router", "identity_experts", identity);
        }
        parts.sizes.identity = identity;
    }
    if has(Feature::InputScaled) {
        document.text("router", "apply", "input");
    }
    if hashed {
        match config.integer(&["vocab_size"])? {
            Some(vocabulary) => {
                document.integer("router", "vocabulary", vocabulary);
                parts.sizes.vocabulary = vocabulary;
            }
            None => config.assumed.push("as many token ids as the hash table has rows: the config has no vocab_size".to_string()),
        }
        parts.stored.extend(stored::HASH_TABLE);
    }
    Ok(())
}

fn score(config: &mut Config<'_>) -> Result<&'static str, Diagnostic> {
    let (word, place) = config.word_or(config.model.score_fields, config.model.score)?;
    if word == "noaux_tc" {
        let said = format!("the score is {}: `noaux_tc` in its field is how experts are selected", quote(config.model.score));
        config.assumed.push(said);
        return Ok(config.model.score);
    }
    SCORES.into_iter().find(|score| *score == word).ok_or_else(|| {
        let diagnostic = Diagnostic::new(Code::UnknownWord, format!("the score is {}, which no spec has", quote(word)));
        diagnostic.at(place, format!("expected one of {}", SCORES.join(", ")))
    })
}

/// Bias and groups.
fn selection(config: &mut Config<'_>, parts: &mut Parts) -> Result<(), Diagnostic> {
    let (model, names) = (config.model, config.files.correction);
    // Without a flag that could turn it off there is a bias.
    let mut is_corrected = true;
    for flag in model.corrected_if {
        is_corrected &= config.flag_or(&[flag], true)?;
    }
    let corrected = |parts: &mut Parts, on| {
        if is_corrected {
            parts.document.text("router", "correction_on", on);
            parts.stored.push(stored::plain(Tensor::CorrectionBias, names));
        }
    };
    match model.selection {
        Selection::Plain => {}
        Selection::Biased => corrected(parts, "score"),
        Selection::LogitBiased => corrected(parts, "logit"),
        Selection::Grouped { mask, corrected: has_bias } => {
            if has_bias {
                corrected(parts, "score");
            }
            groups(config, parts, "top2_sum", mask)?;
        }
        Selection::Method(default) => match config.word_or(&["topk_method"], default)? {
            ("greedy", _) => {}
            ("group_limited_greedy", _) => groups(config, parts, "max", "zero")?,
            ("noaux_tc", _) => {
                corrected(parts, "score");
                groups(config, parts, "top2_sum", "-inf")?;
            }
            (word, place) => {
                let message = format!("`topk_method` is {}, which is not known", quote(word));
                let near = nearest(word, ["greedy", "group_limited_greedy", "noaux_tc"]);
                let label = near.map_or("unknown".to_string(), |near| format!("did you mean \"{near}\"?"));
                return Err(Diagnostic::new(Code::UnknownWord, message).at(place, label));
            }
        },
    }
    Ok(())
}

fn groups(config: &mut Config<'_>, parts: &mut Parts, score: &str, mask: &str) -> Result<(), Diagnostic> {
    let groups = config.integer_or(&["n_group", "num_expert_group"], 1)?;
    if groups <= 1 {
        if let Some(top) = config.integer(&["topk_group"])?.filter(|top| *top > 1) {
            config.assumed.push(format!("topk_group = {top} is left out: there is one group"));
        }
        return Ok(());
    }
    let top = config.required(&["topk_group"], "how many groups stay selectable")?;
    let document = &mut parts.document;
    document.integer("router", "groups", groups);
    document.integer("router", "topk_groups", top);
    document.text("router", "group_score", score);
    document.text("router", "group_mask", mask);
    Ok(())
}

fn renorm(config: &mut Config<'_>, document: &mut Document, score: &str) -> Result<(), Diagnostic> {
    let sum = |document: &mut Document, eps: f64| {
        document.text("router", "renorm", "sum");
        document.number_unless(0.0, "router", "renorm_eps", eps);
    };
    // A softmax over the selected experts has the sum 1 already.
    let is_normal = config.model.order == "topk_score" && score == "softmax";
    match config.model.renorm {
        Renorm::Never => document.text("router", "renorm", "none"),
        Renorm::Ignored => {
            document.text("router", "renorm", "none");
            if matches!(config.find(&["norm_topk_prob"])?, Found::Value(_, value) if value.kind == Kind::Bool(true)) {
                config.assumed.push(
                    "norm_topk_prob is true, and left out: transformers ignores it for this model type, and the model's own \
                     code renormalises instead of scaling"
                        .to_string(),
                );
            }
        }
        Renorm::Sum(eps) => sum(document, eps),
        Renorm::SumIf(flags, eps) => match !is_normal && config.flag_or(flags, false)? {
            true => sum(document, eps),
            false => document.text("router", "renorm", "none"),
        },
        Renorm::SumClamped(fields, least) => {
            let least = config.number_or(fields, least)?;
            document.text("router", "renorm", "sum");
            document.number("router", "renorm_eps", least);
            document.text("router", "renorm_eps_mode", "clamp");
        }
        Renorm::P(field) => match config.number(&[field])? {
            Some(p) => {
                document.text("router", "renorm", "p");
                document.number("router", "renorm_p", p);
            }
            None => {
                // Null is the field's word for it.
                config.assumed.push(format!("weights that are not renormalised: {field} is null"));
                document.text("router", "renorm", "none");
            }
        },
    }
    if (document.value("router", "renorm"), document.value("router", "top_k")) == (Some("sum"), Some("1")) {
        let why = "top_k is 1, and the one weight is divided by itself, as transformers does for any top_k";
        config.assumed.push(format!("every weight is 1 before the scale: {why}"));
    }
    Ok(())
}

/// Whether the layer looks its experts up by token id.
fn is_hash_layer(config: &mut Config<'_>) -> Result<bool, Diagnostic> {
    if let Some(entry) = config.entry("mlp_layer_types")
        && let Kind::List(values) = &entry.value.kind
    {
        let is_hash = |kind: &Kind| *kind == Kind::Text("hash_moe".to_string());
        return match config.layer {
            Some(layer) => Ok(values.get(layer as usize).is_some_and(|value| is_hash(&value.kind))),
            None if values.iter().all(|value| !is_hash(&value.kind)) => Ok(false),
            None if values.iter().all(|value| is_hash(&value.kind)) => Ok(true),
            None => Err(needs_layer(entry)),
        };
    }
    let (Some(count), Some(entry)) = (config.integer(&["num_hash_layers"])?, config.entry("num_hash_layers")) else {
        let fields = "neither mlp_layer_types nor num_hash_layers is in the config";
        config.assumed.push(format!("no layer looks its experts up by token id: {fields}"));
        return Ok(false);
    };
    match config.layer {
        _ if count == 0 => Ok(false),
        Some(layer) => Ok(layer < count),
        None => Err(needs_layer(entry)),
    }
}

fn capacity(config: &mut Config<'_>, document: &mut Document) -> Result<(), Diagnostic> {
    let table = "capacity";
    match config.model.capacity {
        Capacity::None => {}
        Capacity::Switch => {
            document.integer(table, "tokens", config.required(&["expert_capacity"], "the capacity of an expert")?);
            document.text(table, "group", "sequence");
            document.text(table, "priority", "choice_major");
            document.text(table, "dropped", "zero");
        }
        Capacity::Nllb => {
            if let Some((policy, place)) = config.word(&["second_expert_policy"])?.filter(|(policy, _)| *policy != "all") {
                let message = format!("`second_expert_policy` is {}, and a spec has no random routing", quote(policy));
                return Err(Diagnostic::new(Code::NotExpressible, message).at(place, "expected \"all\""));
            }
            match config.number(&["moe_eval_capacity_token_fraction"])?.filter(|fraction| *fraction > 0.0) {
                Some(fraction) => {
                    // The fraction is what serves; the other is the capacity of training.
                    config.entry("expert_capacity");
                    document.number(table, "fraction", fraction);
                    document.text(table, "round", "ceil");
                }
                None => match capacity_of_training(config)? {
                    Some(tokens) => document.integer(table, "tokens", tokens),
                    None => {
                        // 2 * ceil(T / E): twice T / E, rounded up and then up to an even number.
                        document.number(table, "factor", 2.0);
                        document.flag(table, "count_k", false);
                        document.text(table, "round", "ceil");
                        document.integer(table, "multiple_of", 2);
                    }
                },
            }
            let prioritized = config.flag_or(&["batch_prioritized_routing"], false)?;
            let before = config.flag_or(&["normalize_router_prob_before_dropping"], false)?;
            document.text(table, "group", "all");
            document.text(table, "priority", if prioritized { "batch_prioritized" } else { "choice_major" });
            document.flag(table, "renorm_after_drop", !before);
            document.text(table, "dropped", "zero");
        }
    }
    Ok(())
}

/// The capacity of NLLB where no fraction is given.
fn capacity_of_training(config: &mut Config<'_>) -> Result<Option<u64>, Diagnostic> {
    let tokens = config.integer(&["expert_capacity"])?.filter(|tokens| *tokens > 0);
    let taken = tokens.map_or("2 * ceil(T / E)".to_string(), |tokens| format!("expert_capacity = {tokens}"));
    config.assumed.push(format!("the capacity is {taken}: moe_eval_capacity_token_fraction is null or 0"));
    Ok(tokens)
}

fn expert(config: &mut Config<'_>, parts: &mut Parts) -> Result<(), Diagnostic> {
    let model = config.model;
    let document = &mut parts.document;
    document.integer("expert", "intermediate", parts.sizes.intermediate);
    document.flag("expert", "gated", model.gated);
    match model.activation {
        Activation::Field(fields) => {
            let (word, alpha) = activation(config, fields)?;
            document.text("expert", "activation", word);
            if let Some(alpha) = alpha {
                document.number("expert", "alpha", alpha);
            }
        }
        Activation::Fixed(word) => document.text("expert", "activation", word),
        Activation::SharedField(_) => document.text("expert", "activation", "silu"),
        Activation::Softcapped => {
            document.text("expert", "activation", "silu");
            for (key, field, cap) in [("gate_softcap", "mlp_gate_softcap", 4.0), ("up_softcap", "mlp_up_softcap", 25.0)] {
                document.number("expert", key, config.number_or(&[field], cap)?);
            }
        }
        Activation::GptOss => {
            document.text("expert", "activation", "silu");
            document.number_unless(1.0, "expert", "alpha", config.number_or(&["swiglu_alpha"], 1.702)?);
            clamp(config, document, "swiglu_limit", "pre")?;
            document.number("expert", "up_offset", 1.0);
        }
        Activation::Clamped | Activation::ClampedAlone => {
            document.text("expert", "activation", "silu");
            clamp(config, document, "swiglu_limit", "pre")?;
        }
        Activation::ClampedAfter => {
            document.text("expert", "activation", "silu");
            clamp(config, document, "swiglu_limits", "post")?;
        }
    }
    if model.bias {
        document.flag("expert", "bias", true);
    }
    if let Capacity::Nllb = model.capacity {
        let kept = 1.0 - config.number_or(&["moe_token_dropout"], 0.0)?;
        document.number_unless(1.0, "expert", "output_scale", kept);
    }
    if model.features.contains(&Feature::Latent) {
        let latent = config.integer_or(&["moe_latent_size"], 0)?;
        if latent > 0 {
            document.integer("expert", "latent", latent);
            parts.sizes.latent = Some(latent);
            parts.stored.extend(stored::LATENT);
        }
    }
    Ok(())
}

/// A limit of gate and up. The published code of the clamp after the activation takes 0 and null as none; that of the clamp
/// before it always clamps.
fn limit(config: &mut Config<'_>, field: &str) -> Result<Option<f64>, Diagnostic> {
    let may_be_off = matches!(config.model.activation, Activation::ClampedAfter);
    let limit = match may_be_off {
        true => config.number_or(&[field], 0.0)?,
        false => config.number(&[field])?.ok_or_else(|| missing(&[field], "the limit of gate and up"))?,
    };
    if limit > 0.0 || (may_be_off && limit == 0.0) {
        return Ok(Some(limit).filter(|limit| *limit > 0.0));
    }
    let diagnostic = Diagnostic::new(Code::OutOfRange, format!("{} is {limit:?}, and a limit is above 0", quote(field)));
    Err(match config.entry(field) {
        Some(entry) => diagnostic.at(entry.value.span.clone(), "a limit of gate and up"),
        None => diagnostic,
    })
}

fn clamp(config: &mut Config<'_>, document: &mut Document, field: &str, place: &str) -> Result<(), Diagnostic> {
    if let Some(limit) = limit(config, field)? {
        document.number("expert", "clamp_limit", limit);
        document.text("expert", "clamp_where", place);
    }
    Ok(())
}

/// The spec's word for the activation that the config names, and the alpha of a sigmoid that is not silu's.
fn activation(config: &mut Config<'_>, fields: &[&str]) -> Result<(&'static str, Option<f64>), Diagnostic> {
    let Some((word, place)) = config.word(fields)? else { return Err(missing(fields, "the activation")) };
    known_activation(word).ok_or_else(|| {
        let message = format!("the activation {} is none that a spec has", quote(word));
        let list: Vec<&str> = ACTIVATIONS.iter().map(|(published, _)| *published).collect();
        Diagnostic::new(Code::UnknownWord, message).at(place, "unknown").help(format!("known: {}", list.join(", ")))
    })
}

/// Activations as configs name them, and as specs do.
const ACTIVATIONS: [(&str, &str); 12] = [
    ("silu", "silu"),
    ("swish", "silu"),
    ("gelu", "gelu"),
    ("gelu_python", "gelu"),
    ("gelu_new", "gelu_tanh"),
    ("gelu_pytorch_tanh", "gelu_tanh"),
    ("gelu_tanh", "gelu_tanh"),
    ("gelu_fast", "gelu_tanh"),
    ("gelu_accurate", "gelu_tanh"),
    ("relu", "relu"),
    ("relu2", "relu2"),
    ("relu_squared", "relu2"),
];

/// The spec's word for a published activation, and the alpha of a sigmoid that is not silu's.
pub(super) fn known_activation(word: &str) -> Option<(&'static str, Option<f64>)> {
    if word == "quick_gelu" {
        return Some(("silu", Some(1.702)));
    }
    ACTIVATIONS.into_iter().find(|(published, _)| *published == word).map(|(_, word)| (word, None))
}

fn shared(config: &mut Config<'_>, parts: &mut Parts) -> Result<(), Diagnostic> {
    let intermediate = parts.sizes.intermediate;
    let (width, count) = match config.model.shared {
        Shared::None => (None, 1),
        Shared::One => (Some(intermediate), 1),
        Shared::Wide { count, width } => {
            let (count, width) = (config.integer_or(count, 0)?, config.integer_or(width, 0)?);
            (Some(width.checked_mul(count).ok_or_else(|| Diagnostic::new(Code::OutOfRange, "too many shared experts"))?), 1)
        }
        Shared::Width(names) => (Some(config.integer_or(names, 0)?), 1),
        Shared::Gated(names) => (Some(config.required(names, "the width of the shared expert")?), 1),
        Shared::Count(names) => {
            let count = config.integer_or(names, 0)?;
            (
                Some(
                    intermediate
                        .checked_mul(count)
                        .ok_or_else(|| Diagnostic::new(Code::OutOfRange, "too many shared experts"))?,
                ),
                1,
            )
        }
        Shared::Joint(names) => (Some(intermediate), config.integer_or(names, 0)?),
    };
    if config.model.features.contains(&Feature::Combination) {
        // Of no matter where there is nothing to combine.
        config.entry("shared_expert_combination_strategy");
    }
    let Some(width) = width.filter(|width| *width > 0 && count > 0) else { return Ok(()) };
    let document = &mut parts.document;
    document.integer("shared", "intermediate", width);
    match config.model.shared {
        Shared::Joint(_) => {
            document.integer("shared", "count", count);
            document.integer("router", "joint_shared", count);
            parts.sizes.joint = count;
        }
        Shared::Gated(_) => document.text("shared", "gate", "sigmoid"),
        Shared::None | Shared::One | Shared::Width(_) | Shared::Wide { .. } | Shared::Count(_) => {}
    }
    if config.model.features.contains(&Feature::Combination) {
        let (word, place) = config.word_or(&["shared_expert_combination_strategy"], "average")?;
        match word {
            "sum" => {}
            "average" => document.text("shared", "combine", "average"),
            word => {
                let message = format!("`shared_expert_combination_strategy` is {}", quote(word));
                return Err(Diagnostic::new(Code::UnknownWord, message).at(place, "expected \"sum\" or \"average\""));
            }
        }
    }
    if let Activation::SharedField(fields) = config.model.activation {
        let (word, alpha) = activation(config, fields)?;
        if (word, alpha) != ("silu", None) {
            document.text("shared", "activation", word);
            document.number_unless(1.0, "shared", "alpha", alpha.unwrap_or(1.0));
        }
    }
    if let Activation::ClampedAlone = config.model.activation
        && limit(config, "swiglu_limit")?.is_some()
    {
        document.flag("shared", "clamp", false);
    }
    if let Activation::ClampedAfter = config.model.activation {
        let routed = limit(config, "swiglu_limits")?;
        match limit(config, "swiglu_limits_shared")? {
            Some(limit) if routed != Some(limit) => {
                document.number("shared", "clamp_limit", limit);
                document.text("shared", "clamp_where", "post");
            }
            None if routed.is_some() => document.flag("shared", "clamp", false),
            Some(_) | None => {}
        }
    }
    parts.sizes.shared = width * count;
    parts.sizes.shared_count = count;
    parts.shared = true;
    Ok(())
}

/// The type of weights and activations, where the config says it.
fn precision(config: &mut Config<'_>, document: &mut Document) -> Result<(), Diagnostic> {
    let word = match config.find(&["torch_dtype", "dtype"])? {
        Found::Value(_, value) => {
            if let Kind::Text(word) = &value.kind {
                Some(word.trim_start_matches("torch."))
            } else {
                None
            }
        }
        Found::Null | Found::Absent => None,
    };
    match word {
        Some("float32") => document.text("numerics", "dtype", "f32"),
        Some("float16") => document.text("numerics", "dtype", "f16"),
        Some("bfloat16") => document.text("numerics", "dtype", "bf16"),
        Some(other) => config.assumed.push(format!("weights and activations in bf16: the config says {}", quote(other))),
        None => config.assumed.push("weights and activations in bf16: the config does not say".to_string()),
    }
    Ok(())
}

fn not_expressible(config: &mut Config<'_>, field: &str, why: &str) -> Diagnostic {
    let message = format!("{} is set, which the importer does not carry", quote(field));
    match config.entry(field) {
        Some(entry) => wrong(Code::NotExpressible, entry, message, why),
        None => Diagnostic::new(Code::NotExpressible, message),
    }
}
