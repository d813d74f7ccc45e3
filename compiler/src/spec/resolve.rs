//! From the tables of a spec to the typed model: defaults, inheritance, and the list of weight tensors.
//! Nothing is reported here but missing and unknown tables; `section` and `check` find what is wrong.

use std::ops::Range;

use super::capacity::{Capacity, CapacityGroup, CapacitySize};
use super::keys::{self, TABLES};
use super::model::{
    Activation, AuxGroup, Clamp, Expert, Gating, Groups, Host, InputNorm, Mode, Norm, Numerics, Renorm, Router, Shared, Soft,
    Spec, Tokens, Training, Word,
};
use super::section::{Meant, Section, unknown_key};
use super::tree::{Entry, Kind};
use super::weights::{Layout, Tensor, Weight};
use crate::diagnostics::{Code, Diagnostic, nearest};

/// The tables of one spec.
pub(super) struct Sections {
    pub(super) moe: Section,
    pub(super) router: Section,
    /// False where [router] is missing or no table, which is reported once.
    pub(super) has_router: bool,
    pub(super) capacity: Option<Section>,
    pub(super) expert: Section,
    pub(super) shared: Option<Section>,
    pub(super) weights: Section,
    pub(super) training: Section,
    pub(super) tokens: Section,
    pub(super) numerics: Section,
    pub(super) host: Section,
    pub(super) lints: Section,
}

impl Sections {
    /// Every table that the spec has.
    pub(super) fn all(&self) -> impl Iterator<Item = &Section> {
        let Sections { moe, router, capacity, expert, shared, weights, training, tokens, numerics, host, lints, has_router: _ } =
            self;
        [moe, router, expert, weights, training, tokens, numerics, host, lints].into_iter().chain(capacity).chain(shared)
    }
}

/// Reads every table.
pub(super) fn sections(entries: &[Entry], wrong: &mut Vec<Diagnostic>) -> Sections {
    if entries.is_empty() {
        wrong.push(
            Diagnostic::new(Code::EmptySpec, "the spec is empty")
                .at(0..0, "expected [moe], [router] and [expert]")
                .help("`moec schema` lists every key, and examples/specs has specs to start from"),
        );
    }
    let mut read: Vec<Section> = Vec::new();
    let mut named: Vec<&str> = Vec::new();
    for entry in entries {
        // A misspelt table is not reported as missing too.
        named.extend(nearest(&entry.key, TABLES.iter().map(|table| table.name)));
        let Some(table) = keys::table(&entry.key) else {
            wrong.push(unknown_table(entry));
            continue;
        };
        match &entry.value.kind {
            Kind::Table(fields) => read.push(Section::read(table, entry.key_span.clone(), fields, wrong)),
            kind => {
                let message = format!("{} is a table, not {}", table.name, kind.type_name());
                wrong.push(
                    Diagnostic::new(Code::WrongType, message)
                        .at(entry.key_span.clone(), "expected a table")
                        .help(format!("[{}]", table.name)),
                );
            }
        }
    }
    for table in TABLES.iter().filter(|table| table.required && !entries.is_empty()) {
        if !named.contains(&table.name) {
            wrong.push(
                Diagnostic::new(Code::MissingTable, format!("the spec lacks [{}]", table.name))
                    .at(0..0, "")
                    .help(format!("[{}]: {}", table.name, table.doc)),
            );
        }
    }
    let mut take = |name: &str| read.iter().position(|section| section.table.name == name).map(|at| read.swap_remove(at));
    let router = take("router");
    Sections {
        has_router: router.is_some(),
        moe: take("moe").unwrap_or_else(|| absent("moe")),
        router: router.unwrap_or_else(|| absent("router")),
        capacity: take("capacity"),
        expert: take("expert").unwrap_or_else(|| absent("expert")),
        shared: take("shared"),
        weights: take("weights").unwrap_or_else(|| absent("weights")),
        training: take("training").unwrap_or_else(|| absent("training")),
        tokens: take("tokens").unwrap_or_else(|| absent("tokens")),
        numerics: take("numerics").unwrap_or_else(|| absent("numerics")),
        host: take("host").unwrap_or_else(|| absent("host")),
        lints: take("lints").unwrap_or_else(|| absent("lints")),
    }
}

/// A table that the spec does not have.
fn absent(name: &str) -> Section {
    // The fallback is never taken: the names above are rows of the table. It spares a panic path.
    Section::absent(keys::table(name).unwrap_or(&TABLES[0]))
}

fn unknown_table(entry: &Entry) -> Diagnostic {
    let names = TABLES.iter().map(|table| table.name);
    let meant = match entry.value.kind {
        Kind::Table(_) => Meant::by_spelling(&entry.key, names.clone()),
        _ => Meant::by(&entry.key, "", names.clone()),
    };
    unknown_key(&entry.key, entry.key_span.clone(), "", meant, names)
}

/// The model of a spec without mistakes.
pub(super) fn spec(sections: &Sections) -> Result<Spec, Diagnostic> {
    build(sections).ok_or_else(|| Diagnostic::new(Code::Bug, "a spec without mistakes cannot be resolved"))
}

fn build(sections: &Sections) -> Option<Spec> {
    let Sections { moe, expert, numerics, .. } = sections;
    Some(Spec {
        name: moe.text("name")?,
        hidden: moe.integer("hidden")?,
        experts: moe.integer("experts")?,
        routed_output_scale: moe.number("routed_output_scale")?,
        output_norm: moe.number("output_norm_eps").filter(|_| moe.word("output_norm") != Some("none")),
        router: router(&sections.router)?,
        capacity: match &sections.capacity {
            Some(section) if !is_soft(sections) => Some(capacity(section)?),
            Some(_) | None => None,
        },
        expert: Expert {
            intermediate: expert.integer("intermediate")?,
            activation: gating(expert, expert)?,
            bias: expert.boolean("bias")?,
            output_scale: expert.number("output_scale")?,
            latent: expert.integer("latent").filter(|latent| *latent > 0),
        },
        shared: match &sections.shared {
            Some(section) => Some(shared(section, expert)?),
            None => None,
        },
        weights: weights(sections),
        unread: unread(sections),
        training: Training {
            jitter: sections.training.number("jitter"),
            bias_update_rate: sections.training.number("bias_update_rate"),
            aux_loss: word(&sections.training, "aux_loss").zip(sections.training.number("aux_coef")),
            aux_group: aux_group(&sections.training),
            z_coef: sections.training.number("z_coef"),
        },
        tokens: tokens(&sections.tokens)?,
        numerics: Numerics {
            dtype: word(numerics, "dtype")?,
            deterministic: numerics.boolean("deterministic")?,
            batch_invariant: numerics.boolean("batch_invariant")?,
            tf32: numerics.boolean("tf32")?,
        },
        host: Host { pack: word(&sections.host, "pack")? },
    })
}

/// The keys of [router] that one mode alone reads. They may stand beside another, so that a mode is one line's change.
pub(super) const MODE_KEYS: [(&str, &str); 6] = [
    ("slots", "soft"),
    ("norm", "soft"),
    ("norm_eps", "soft"),
    ("dispatch_normed", "soft"),
    ("vocabulary", "hash"),
    ("hash_oob", "hash"),
];

fn is_soft(sections: &Sections) -> bool {
    sections.router.word("mode") == Some("soft")
}

/// What is given and read by another mode.
fn unread(sections: &Sections) -> Vec<String> {
    let router = &sections.router;
    let of_others = MODE_KEYS.iter().filter(|(key, mode)| router.given(key).is_some() && router.word("mode") != Some(mode));
    let capacity = sections.capacity.as_ref().filter(|_| is_soft(sections));
    of_others.map(|(key, _)| format!("router.{key}")).chain(capacity.map(|_| "[capacity]".to_string())).collect()
}

/// The variant whose word the key holds.
fn word<T: Word>(section: &Section, key: &str) -> Option<T> {
    let word = section.word(key)?;
    T::ALL.iter().copied().find(|variant| variant.word() == word)
}

/// The tokens of one balance loss; DeepSeek's is of sequences.
fn aux_group(training: &Section) -> AuxGroup {
    match training.word("aux_loss") {
        Some("deepseek_sequence") => AuxGroup::Sequence,
        Some(_) | None => word(training, "aux_group").unwrap_or_default(),
    }
}

fn router(router: &Section) -> Option<Router> {
    let mode = match router.word("mode")? {
        "expert_choice" => Mode::ExpertChoice,
        "soft" => Mode::Soft(Soft {
            slots: router.integer("slots")?,
            norm: word(router, "norm")?,
            norm_eps: router.number("norm_eps")?,
            dispatch_normed: router.boolean("dispatch_normed")?,
        }),
        "hash" => Mode::Hash,
        _ => Mode::TokenChoice,
    };
    let count = router.integer("groups")?;
    let groups = match count {
        1 => None,
        _ => Some(Groups {
            count,
            top: router.integer("topk_groups")?,
            score: word(router, "group_score")?,
            mask: word(router, "group_mask")?,
        }),
    };
    let norm = match router.word("renorm")? {
        "none" => None,
        "p" => Some(Norm::P(router.number("renorm_p")?)),
        _ => Some(Norm::Sum),
    };
    let renorm = match norm {
        Some(norm) => Some(Renorm { norm, eps: router.number("renorm_eps")?, eps_mode: word(router, "renorm_eps_mode")? }),
        None => None,
    };
    let input_norm =
        InputNorm { eps: router.number("input_norm_eps").unwrap_or(0.0), scale: router.number("input_scale").unwrap_or(1.0) };
    Some(Router {
        mode,
        top_k: router.integer("top_k").unwrap_or(1),
        vocabulary: router.integer("vocabulary"),
        hash_oob: word(router, "hash_oob")?,
        score: word(router, "score")?,
        order: word(router, "order")?,
        select: word(router, "select")?,
        jitter: router.number("jitter").unwrap_or(0.0),
        bias: router.boolean("bias")?,
        logit_scale: router.number("logit_scale")?,
        logit_softcap: router.number("logit_softcap").filter(|cap| *cap > 0.0),
        input_norm: (router.word("input_norm")? != "none").then_some(input_norm),
        correction: word(router, "correction_on"),
        groups,
        renorm,
        scale: router.number("scale")?,
        joint_shared: router.integer("joint_shared")?,
        identity_experts: router.integer("identity_experts")?,
        apply: word(router, "apply")?,
        dtype: word(router, "dtype")?,
    })
}

fn capacity(section: &Section) -> Option<Capacity> {
    let size = if let Some(tokens) = section.integer("tokens") {
        CapacitySize::Tokens(tokens)
    } else if let Some(factor) = section.ratio("factor") {
        CapacitySize::Factor { factor, count_k: section.boolean("count_k")?, round: word(section, "round")? }
    } else {
        CapacitySize::Fraction { fraction: section.ratio("fraction")?, round: word(section, "round")? }
    };
    let group = match (section.integer("group"), section.word("group")) {
        (Some(tokens), _) => CapacityGroup::Tokens(tokens),
        (None, Some("sequence")) => CapacityGroup::Sequence,
        (None, _) => CapacityGroup::All,
    };
    Some(Capacity {
        size,
        min: section.integer("min")?,
        multiple_of: section.integer("multiple_of")?,
        group,
        priority: word(section, "priority")?,
        renorm_after_drop: section.boolean("renorm_after_drop")?,
        dropped: word(section, "dropped")?,
        pad: word(section, "pad")?,
    })
}

/// The inner keys of `section`, each inherited where it is not given and still means something.
fn gating(section: &Section, inherited: &Section) -> Option<Gating> {
    let holder = |key: &str| if section.given(key).is_some() { section } else { inherited };
    let gated = holder("gated").boolean("gated")?;
    let activation = word(holder("activation"), "activation")?;
    let limit = holder("clamp_limit").number("clamp_limit").filter(|_| gated);
    let limit = limit.filter(|_| section.boolean("clamp") != Some(false));
    let clamp = match limit {
        Some(limit) => Some(Clamp { limit, place: word(holder("clamp_where"), "clamp_where")? }),
        None => None,
    };
    let alpha = holder("alpha").number("alpha").filter(|_| activation == Activation::Silu);
    let up_offset = holder("up_offset").number("up_offset").filter(|_| gated).unwrap_or(0.0);
    let gate_softcap = holder("gate_softcap").number("gate_softcap").filter(|_| gated && activation == Activation::Silu);
    let up_softcap = holder("up_softcap").number("up_softcap").filter(|_| gated);
    Some(Gating { gated, activation, alpha: alpha.unwrap_or(1.0), gate_softcap, up_softcap, up_offset, clamp })
}

fn shared(section: &Section, expert: &Section) -> Option<Shared> {
    let count = section.integer("count")?;
    Some(Shared {
        intermediate: section.integer("intermediate")?.checked_mul(count)?,
        count,
        activation: gating(section, expert)?,
        bias: section.boolean("bias")?,
        gate: word(section, "gate")?,
        combine: word(section, "combine")?,
    })
}

/// The expected counts ascend; the default ones stay within `max`.
fn tokens(section: &Section) -> Option<Tokens> {
    let max = section.integer("max")?;
    let mut expected: Vec<u64> = section.integers("expected")?.into_iter().map(|(count, _)| count.min(max)).collect();
    expected.sort_unstable();
    expected.dedup();
    Some(Tokens { max, expected, workspace: section.bytes("workspace"), mask: section.boolean("mask")? })
}

/// Every tensor of the layer with its recipe, in `Tensor` order.
fn weights(sections: &Sections) -> Vec<Weight> {
    let present = Tensor::ALL.iter().copied().filter(|tensor| why_absent(*tensor, sections).is_none());
    present
        .map(|tensor| match sections.weights.given(tensor.word()).and_then(|field| field.recipe()) {
            Some(recipe) => {
                Weight { tensor, names: recipe.names.clone(), layout: recipe.layout, flattened: recipe.experts.is_some() }
            }
            None => Weight { tensor, names: vec![tensor.word().to_string()], layout: Layout::Plain, flattened: false },
        })
        .collect()
}

/// Why the layer does not have this tensor, and the key that says so; `None` where it has it.
pub(super) fn why_absent(tensor: Tensor, spec: &Sections) -> Option<(String, Option<Range<usize>>)> {
    let key = |section: &Section, key: &str| section.given(key).map(|field| field.span.clone());
    let unless = |holds: bool, why: &str, section: &Section, name: &str| (!holds).then(|| (why.to_string(), key(section, name)));
    let (router, expert) = (&spec.router, &spec.expert);
    let is_soft = router.word("mode") == Some("soft");
    let has_bias = expert.boolean("bias") != Some(false);
    let is_gated = expert.boolean("gated") != Some(false);
    match tensor {
        Tensor::Router if is_soft => unless(false, "router.mode is \"soft\": slots take the router's place", router, "mode"),
        Tensor::PerExpertScale if is_soft => unless(false, "router.mode is \"soft\": nothing is picked", router, "mode"),
        Tensor::Slots | Tensor::SlotScale | Tensor::TokenGain | Tensor::SlotGain if !is_soft => {
            unless(false, "router.mode is not \"soft\"", router, "mode")
        }
        Tensor::TokenGain | Tensor::SlotGain if router.word("norm") != Some("rms") => {
            unless(false, "router.norm is not \"rms\"", router, "norm")
        }
        Tensor::Router | Tensor::Down | Tensor::Slots => None,
        Tensor::RouterBias => unless(router.boolean("bias") != Some(false), "router.bias is false", router, "bias"),
        Tensor::CorrectionBias => {
            let is_corrected = router.word("correction_on") != Some("none");
            unless(is_corrected, "router.correction_on is \"none\"", router, "correction_on")
        }
        Tensor::Gate | Tensor::GateUp | Tensor::GateBias | Tensor::GateUpBias if !is_gated => {
            unless(false, "expert.gated is false", expert, "gated")
        }
        Tensor::GateBias | Tensor::UpBias | Tensor::GateUpBias | Tensor::DownBias if !has_bias => {
            unless(false, "expert.bias is false", expert, "bias")
        }
        Tensor::DownBias => None,
        Tensor::Gate | Tensor::Up | Tensor::GateUp => {
            let is_fused = is_gated && spec.weights.given("gate_up").is_some();
            other_storage(tensor, Tensor::GateUp, is_fused, spec)
        }
        Tensor::GateBias | Tensor::UpBias | Tensor::GateUpBias => {
            let is_fused = is_gated && is_bias_fused(spec, ["gate_up", "gate_up_bias", "gate_bias", "up_bias"]);
            other_storage(tensor, Tensor::GateUpBias, is_fused, spec)
        }
        Tensor::SharedGate
        | Tensor::SharedUp
        | Tensor::SharedGateUp
        | Tensor::SharedDown
        | Tensor::SharedGateBias
        | Tensor::SharedUpBias
        | Tensor::SharedGateUpBias
        | Tensor::SharedDownBias
        | Tensor::SharedGateProj => match &spec.shared {
            Some(shared) => why_absent_shared(tensor, shared, spec),
            None => Some(("there is no [shared] table".to_string(), None)),
        },
        Tensor::HashTable => unless(router.word("mode") == Some("hash"), "router.mode is another", router, "mode"),
        Tensor::LatentIn | Tensor::LatentOut => {
            unless(expert.integer("latent").is_some_and(|width| width > 0), "expert.latent is off", expert, "latent")
        }
        Tensor::RouterInputScale if router.word("input_norm") == Some("none") => {
            unless(false, "router.input_norm is \"none\"", router, "input_norm")
        }
        Tensor::OutputNorm => {
            unless(spec.moe.word("output_norm") == Some("rms"), "moe.output_norm is \"none\"", &spec.moe, "output_norm")
        }
        // No key says so: a layer has one where the checkpoint has.
        Tensor::OutputBias
        | Tensor::RouterInputScale
        | Tensor::RouterGlobalScale
        | Tensor::PerExpertScale
        | Tensor::SlotScale
        | Tensor::TokenGain
        | Tensor::SlotGain => spec.weights.given(tensor.word()).is_none().then(|| ("[weights] names none".to_string(), None)),
    }
}

fn why_absent_shared(tensor: Tensor, shared: &Section, spec: &Sections) -> Option<(String, Option<Range<usize>>)> {
    let holder = if shared.given("gated").is_some() { shared } else { &spec.expert };
    let is_gated = holder.boolean("gated") != Some(false);
    let because =
        |why: &str, section: &Section, name: &str| Some((why.to_string(), section.given(name).map(|field| field.span.clone())));
    let is_of_gate =
        matches!(tensor, Tensor::SharedGate | Tensor::SharedGateUp | Tensor::SharedGateBias | Tensor::SharedGateUpBias);
    let is_bias =
        matches!(tensor, Tensor::SharedGateBias | Tensor::SharedUpBias | Tensor::SharedGateUpBias | Tensor::SharedDownBias);
    if is_of_gate && !is_gated {
        return because("the shared experts are not gated", holder, "gated");
    }
    if is_bias && shared.boolean("bias") == Some(false) {
        return because("shared.bias is false", shared, "bias");
    }
    if tensor == Tensor::SharedGateProj && shared.word("gate") == Some("none") {
        return because("shared.gate is \"none\"", shared, "gate");
    }
    if tensor == Tensor::SharedDown || tensor == Tensor::SharedDownBias || tensor == Tensor::SharedGateProj {
        return None;
    }
    if is_bias {
        let names = ["shared_gate_up", "shared_gate_up_bias", "shared_gate_bias", "shared_up_bias"];
        return other_storage(tensor, Tensor::SharedGateUpBias, is_gated && is_bias_fused(spec, names), spec);
    }
    let is_fused = is_gated && spec.weights.given("shared_gate_up").is_some();
    other_storage(tensor, Tensor::SharedGateUp, is_fused, spec)
}

/// Biases are stored as the weights are, unless `[weights]` names them another way.
fn is_bias_fused(spec: &Sections, [fused, fused_bias, gate_bias, up_bias]: [&str; 4]) -> bool {
    let given = |name: &str| spec.weights.given(name).is_some();
    given(fused_bias) || (given(fused) && !given(gate_bias) && !given(up_bias))
}

/// Gate and up are one tensor or two. One that `[weights]` names is never absent for this reason: `check` reports both.
fn other_storage(tensor: Tensor, fused: Tensor, is_fused: bool, spec: &Sections) -> Option<(String, Option<Range<usize>>)> {
    let is_stored = (tensor == fused) == is_fused || spec.weights.given(tensor.word()).is_some();
    (!is_stored).then(|| ("gate and up are stored the other way".to_string(), None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::keys::Takes;
    use crate::spec::model::SoftNorm;
    use crate::spec::{
        Apply, AuxGroup, AuxLoss, ClampPlace, Correction, DType, Dropped, EpsMode, GroupMask, GroupScore, Order, Pack, Pad,
        Priority, Round, RouterDType, Score, Select, SharedCombine, SharedGate,
    };

    /// The words that the key tables list are those that the model knows, and none besides `also`.
    fn same_words<T: Word>(table: &str, key: &str, also: &[&str]) {
        let key = keys::table(table).unwrap().keys.iter().find(|row| row.name == key).unwrap();
        let Takes::Word(choices) = key.takes else { panic!("{} takes no word", key.name) };
        let mut listed: Vec<&str> = choices.iter().map(|choice| choice.word).collect();
        let mut known: Vec<&str> = T::ALL.iter().map(|word| word.word()).chain(also.iter().copied()).collect();
        listed.sort_unstable();
        known.sort_unstable();
        assert_eq!(listed, known, "{table}.{}", key.name);
    }

    #[test]
    fn key_tables_and_model_agree() {
        same_words::<Score>("router", "score", &[]);
        same_words::<Order>("router", "order", &[]);
        same_words::<Select>("router", "select", &[]);
        same_words::<Correction>("router", "correction_on", &["none"]);
        same_words::<GroupScore>("router", "group_score", &[]);
        same_words::<GroupMask>("router", "group_mask", &[]);
        same_words::<EpsMode>("router", "renorm_eps_mode", &[]);
        same_words::<Apply>("router", "apply", &[]);
        same_words::<RouterDType>("router", "dtype", &[]);
        same_words::<SoftNorm>("router", "norm", &[]);
        same_words::<Round>("capacity", "round", &[]);
        same_words::<Priority>("capacity", "priority", &[]);
        same_words::<Dropped>("capacity", "dropped", &[]);
        same_words::<Pad>("capacity", "pad", &[]);
        same_words::<Activation>("expert", "activation", &[]);
        same_words::<ClampPlace>("expert", "clamp_where", &[]);
        same_words::<SharedGate>("shared", "gate", &[]);
        same_words::<SharedCombine>("shared", "combine", &[]);
        same_words::<DType>("numerics", "dtype", &[]);
        same_words::<Pack>("host", "pack", &[]);
        same_words::<AuxLoss>("training", "aux_loss", &[]);
        same_words::<AuxGroup>("training", "aux_group", &[]);
        let tensors: Vec<&str> = keys::table("weights").unwrap().keys.iter().map(|key| key.name).collect();
        assert_eq!(tensors, Tensor::ALL.iter().map(|tensor| tensor.word()).collect::<Vec<_>>());
    }
}
