//! One layer of a config as a spec: the model type's rules applied to its fields, table by table.
//! Nothing is guessed silently: what the config does not say is in `Config::assumed`.

use super::check::Sizes;
use super::config::{Config, Found, missing, needs_layer, wrong};
use super::document::Document;
use super::rules::{Activation, Capacity, Feature, Renorm, RouterBias, Scale, Selection, Shared, TopK};
use super::stored::{self, Stored};
use crate::diagnostics::{Code, Diagnostic, nearest, quote};
use crate::spec::{Kind, Tensor};

/// What is in the spec before its tensor names, and the tensors that it needs besides the routed experts'.
pub(super) struct Parts {
    pub(super) document: Document,
    pub(super) sizes: Sizes,
    pub(super) stored: Vec<Stored>,
}

/// As many as a spec may have.
const MOST_EXPERTS: u64 = 4096;

const HIDDEN: &[&str] = &["d_model", "hidden_size"];
const EXPERTS: &[&str] = &["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"];
const TOP_K: &[&str] =
    &["num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts", "experts_per_token"];
const SCALE: &[&str] =
    &["routed_scaling_factor", "route_scale", "router_scaling_factor", "moe_router_scaling_factor", "moe_routed_scaling_factor"];
const ACTIVATION: &[&str] =
    &["hidden_act", "hidden_activation", "activation_function", "dense_act_fn", "mlp_hidden_act", "ffn_act_fn"];
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
    let mut parts = Parts { document, sizes: Sizes::new(hidden, experts), stored: Vec::new() };
    parts.sizes.ffn = config.required(config.model.ffn, "the inner width of an expert")?;
    router(config, &mut parts)?;
    capacity(config, &mut parts.document)?;
    expert(config, &mut parts)?;
    shared(config, &mut parts)?;
    parts.stored.extend(config.model.also);
    precision(config, &mut parts.document)?;
    if let Some(entry) = config.entry("quantization_config") {
        let method = match &entry.value.kind {
            Kind::Table(entries) => entries.iter().find(|entry| entry.key == "quant_method").map(|entry| &entry.value.kind),
            Kind::Text(_) | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::List(_) | Kind::Other(_) => None,
        };
        let method = if let Some(Kind::Text(method)) = method { quote(method) } else { "quantised".to_string() };
        config.assumed.push(format!("the checkpoint is {method}: the tensor names are those of an unquantised copy of it"));
    }
    Ok(parts)
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
        let jitter = config.number(&["router_jitter_noise"])?.unwrap_or(0.0);
        document.text("router", "select", "sparsemixer");
        document.number("router", "jitter", jitter);
    }
    let biased = match model.router_bias {
        RouterBias::Never => false,
        RouterBias::Always => true,
        RouterBias::If(field) => config.flag(&[field])?.unwrap_or(false),
    };
    if biased {
        document.flag("router", "bias", true);
        let names: stored::Names = &["router.bias", "router.classifier.bias"];
        parts.stored.push(stored::plain(Tensor::RouterBias, names));
    }
    if has(Feature::Softcap)
        && let Some(cap) = config.number(&["moe_router_logit_softcapping"])?
    {
        document.number_unless(0.0, "router", "logit_softcap", cap);
    }
    if has(Feature::RouterNorm) {
        document.text("router", "input_norm", "rms");
        document.number("router", "input_norm_eps", config.number(&["rms_norm_eps"])?.unwrap_or(0.0));
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
        Scale::Weights => document.number_unless(1.0, "router", "scale", config.number(SCALE)?.unwrap_or(1.0)),
        Scale::Output => document.number_unless(1.0, "moe", "routed_output_scale", config.number(SCALE)?.unwrap_or(1.0)),
    }
    if has(Feature::Identity)
        && let Some(identity) = config.integer(&["zero_expert_num"])?.filter(|n| *n > 0)
    {
        document.integer("router", "identity_experts", identity);
        parts.sizes.identity = identity;
    }
    if has(Feature::InputScaled) {
        document.text("router", "apply", "input");
    }
    if hashed {
        if let Some(vocabulary) = config.integer(&["vocab_size"])? {
            document.integer("router", "vocabulary", vocabulary);
            parts.sizes.vocabulary = vocabulary;
        }
        parts.stored.extend(stored::HASH_TABLE);
    }
    Ok(())
}

fn score(config: &mut Config<'_>) -> Result<&'static str, Diagnostic> {
    let Some((word, place)) = config.word(config.model.score_fields)? else { return Ok(config.model.score) };
    SCORES.into_iter().find(|score| *score == word).ok_or_else(|| {
        let diagnostic = Diagnostic::new(Code::UnknownWord, format!("the score is {}, which no spec has", quote(word)));
        diagnostic.at(place, format!("expected one of {}", SCORES.join(", ")))
    })
}

/// Bias and groups.
fn selection(config: &mut Config<'_>, parts: &mut Parts) -> Result<(), Diagnostic> {
    let corrected = |parts: &mut Parts, names, on| {
        parts.document.text("router", "correction_on", on);
        parts.stored.push(stored::plain(Tensor::CorrectionBias, names));
    };
    let names = config.model.correction;
    match config.model.selection {
        Selection::Plain => {}
        Selection::Biased => corrected(parts, names, "score"),
        Selection::BiasedIf(flag) => {
            if config.flag(&[flag, "moe_use_aux_free"])?.unwrap_or(false) {
                corrected(parts, names, "score");
            }
        }
        Selection::LogitBiased => corrected(parts, names, "logit"),
        Selection::Grouped => groups(config, parts, "top2_sum", "zero")?,
        Selection::Method(default) => match config.word(&["topk_method"])? {
            Some(("greedy", _)) => {}
            Some(("group_limited_greedy", _)) => groups(config, parts, "max", "zero")?,
            Some(("noaux_tc", _)) => {
                corrected(parts, names, "score");
                groups(config, parts, "top2_sum", "-inf")?;
            }
            Some((word, place)) => {
                let message = format!("`topk_method` is {}, which is not known", quote(word));
                let near = nearest(word, ["greedy", "group_limited_greedy", "noaux_tc"]);
                let label = near.map_or("unknown".to_string(), |near| format!("did you mean \"{near}\"?"));
                return Err(Diagnostic::new(Code::UnknownWord, message).at(place, label));
            }
            None if default == "noaux_tc" => {
                corrected(parts, names, "score");
                groups(config, parts, "top2_sum", "-inf")?;
            }
            None => config.assumed.push(format!("topk_method = \"{default}\": not in the config")),
        },
    }
    Ok(())
}

fn groups(config: &mut Config<'_>, parts: &mut Parts, score: &str, mask: &str) -> Result<(), Diagnostic> {
    let names = ["n_group", "num_expert_group"];
    let Some(groups) = config.integer(&names)?.filter(|groups| *groups > 1) else { return Ok(()) };
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
        Renorm::SumIf(flags, eps) => match !is_normal && config.flag(flags)?.unwrap_or(false) {
            true => sum(document, eps),
            false => document.text("router", "renorm", "none"),
        },
        Renorm::SumClamped(least) => {
            let least = config.number(&["moe_norm_min"])?.unwrap_or(least);
            document.text("router", "renorm", "sum");
            document.number("router", "renorm_eps", least);
            document.text("router", "renorm_eps_mode", "clamp");
        }
        Renorm::P(field) => match config.number(&[field])? {
            Some(p) => {
                document.text("router", "renorm", "p");
                document.number("router", "renorm_p", p);
            }
            None => document.text("router", "renorm", "none"),
        },
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
            document.text(table, "group", "row");
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
                    document.number(table, "fraction", fraction);
                    document.text(table, "round", "ceil");
                }
                None => match config.integer(&["expert_capacity"])?.filter(|tokens| *tokens > 0) {
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
            let prioritized = config.flag(&["batch_prioritized_routing"])?.unwrap_or(false);
            let before = config.flag(&["normalize_router_prob_before_dropping"])?.unwrap_or(false);
            document.text(table, "group", "all");
            document.text(table, "priority", if prioritized { "batch_prioritized" } else { "choice_major" });
            document.flag(table, "renorm_after_drop", !before);
            document.text(table, "dropped", "zero");
        }
    }
    Ok(())
}

fn expert(config: &mut Config<'_>, parts: &mut Parts) -> Result<(), Diagnostic> {
    let model = config.model;
    let document = &mut parts.document;
    document.integer("expert", "intermediate", parts.sizes.ffn);
    document.flag("expert", "gated", model.gated);
    match model.activation {
        Activation::Field => {
            let (word, alpha) = activation(config)?;
            document.text("expert", "activation", word);
            if let Some(alpha) = alpha {
                document.number("expert", "alpha", alpha);
            }
        }
        Activation::Fixed(word) => document.text("expert", "activation", word),
        Activation::GptOss => {
            document.text("expert", "activation", "silu");
            document.number_unless(1.0, "expert", "alpha", config.number(&["swiglu_alpha"])?.unwrap_or(1.0));
            if let Some(limit) = config.number(&["swiglu_limit"])? {
                document.number("expert", "clamp_limit", limit);
                document.text("expert", "clamp_where", "pre");
            }
            document.number("expert", "up_offset", 1.0);
        }
        Activation::Clamped => {
            document.text("expert", "activation", "silu");
            if let Some(limit) = config.number(&["swiglu_limit"])? {
                document.number("expert", "clamp_limit", limit);
                document.text("expert", "clamp_where", "pre");
            }
        }
        Activation::ClampedAfter => {
            document.text("expert", "activation", "silu");
            if let Some(limit) = limit(config, "swiglu_limits")? {
                document.number("expert", "clamp_limit", limit);
                document.text("expert", "clamp_where", "post");
            }
        }
    }
    if model.bias {
        document.flag("expert", "bias", true);
    }
    if let Capacity::Nllb = model.capacity {
        let kept = 1.0 - config.number(&["moe_token_dropout"])?.unwrap_or(0.0);
        document.number_unless(1.0, "expert", "output_scale", kept);
    }
    if model.features.contains(&Feature::Latent)
        && let Some(latent) = config.integer(&["moe_latent_size"])?.filter(|latent| *latent > 0)
    {
        document.integer("expert", "latent", latent);
        parts.sizes.latent = Some(latent);
        parts.stored.extend(stored::LATENT);
    }
    Ok(())
}

/// A clamp of a list with one a layer; 0 is none.
fn limit(config: &mut Config<'_>, field: &str) -> Result<Option<f64>, Diagnostic> {
    Ok(config.number(&[field])?.filter(|limit| *limit > 0.0))
}

/// The spec's word for the activation that the config names, and the alpha of a sigmoid that is not silu's.
fn activation(config: &mut Config<'_>) -> Result<(&'static str, Option<f64>), Diagnostic> {
    let Some((word, place)) = config.word(ACTIVATION)? else { return Err(missing(ACTIVATION, "the activation")) };
    const WORDS: [(&str, &str); 10] = [
        ("silu", "silu"),
        ("swish", "silu"),
        ("gelu", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("gelu_tanh", "gelu_tanh"),
        ("gelu_fast", "gelu_tanh"),
        ("relu", "relu"),
        ("relu2", "relu2"),
        ("relu_squared", "relu2"),
    ];
    if word == "quick_gelu" {
        return Ok(("silu", Some(1.702)));
    }
    WORDS.into_iter().find(|(published, _)| *published == word).map(|(_, word)| (word, None)).ok_or_else(|| {
        let message = format!("the activation {} is none that a spec has", quote(word));
        let list: Vec<&str> = WORDS.iter().map(|(published, _)| *published).collect();
        Diagnostic::new(Code::UnknownWord, message).at(place, "unknown").help(format!("known: {}", list.join(", ")))
    })
}

fn shared(config: &mut Config<'_>, parts: &mut Parts) -> Result<(), Diagnostic> {
    let ffn = parts.sizes.ffn;
    let (width, count) = match config.model.shared {
        Shared::None => (None, 1),
        Shared::One => (Some(ffn), 1),
        Shared::Width(names) | Shared::Gated(names) => (config.integer(names)?, 1),
        Shared::Count(names) => {
            let count = config.integer(names)?.unwrap_or(0);
            (Some(ffn.checked_mul(count).ok_or_else(|| Diagnostic::new(Code::OutOfRange, "too many shared experts"))?), 1)
        }
        Shared::Joint(names) => (Some(ffn), config.integer(names)?.unwrap_or(0)),
    };
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
        Shared::None | Shared::One | Shared::Width(_) | Shared::Count(_) => {}
    }
    if config.model.features.contains(&Feature::Combination)
        && let Some((word, place)) = config.word(&["shared_expert_combination_strategy"])?
    {
        match word {
            "sum" => {}
            "average" => document.text("shared", "combine", "average"),
            word => {
                let message = format!("`shared_expert_combination_strategy` is {}", quote(word));
                return Err(Diagnostic::new(Code::UnknownWord, message).at(place, "expected \"sum\" or \"average\""));
            }
        }
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
    parts.stored.extend(config.model.shared_stored);
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

fn not_expressible(config: &Config<'_>, field: &str, why: &str) -> Diagnostic {
    let message = format!("{} is set, which the importer does not carry", quote(field));
    match config.entry(field) {
        Some(entry) => wrong(Code::NotExpressible, entry, message, why),
        None => Diagnostic::new(Code::NotExpressible, message),
    }
}
