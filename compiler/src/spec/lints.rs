//! What a correct spec says that is probably not meant. A lint has a code, and a key of `[lints]` that silences or denies it.

use super::capacity::{Capacity, CapacityGroup, CapacitySize, Priority};
use super::model::{EpsMode, Mode, Norm, Order, Renorm, Score, Spec};
use super::resolve::Sections;
use super::section::{Field, Section};
use crate::diagnostics::{Code, Diagnostic};

/// The keys of `[lints]` and the warnings that they govern.
const LINTS: [(&str, Code); 2] = [("capacity_floor", Code::CapacityFloor), ("equal_weights", Code::EqualWeights)];

/// The warnings of a spec without mistakes, those that it denies as errors, and none that it allows.
pub(super) fn lint(sections: &Sections, spec: &Spec) -> Vec<Diagnostic> {
    let lints = |section| [capacity_floor(section, spec), equal_weights(section, sections, spec)];
    let old = sections.all().flat_map(Section::fields).filter_map(old_word);
    let found = sections.capacity.iter().flat_map(lints).flatten().chain(old);
    let governed = found.filter_map(|diagnostic| match level(sections, diagnostic.code) {
        Some("allow") => None,
        Some("deny") => Some(diagnostic.denied()),
        Some(_) | None => Some(diagnostic),
    });
    governed.collect()
}

/// What `[lints]` says of a warning that it governs.
pub(super) fn level(sections: &Sections, code: Code) -> Option<&str> {
    let (key, _) = LINTS.into_iter().find(|(_, governed)| *governed == code)?;
    sections.lints.word(key)
}

/// A word of an earlier version.
fn old_word(field: &Field) -> Option<Diagnostic> {
    let (old, word) = field.old_word()?;
    let key = field.key.name;
    let diagnostic = Diagnostic::new(Code::OldWord, format!("{key} = \"{old}\" is an old word for \"{word}\""));
    Some(
        diagnostic
            .at(field.span.clone(), format!("now \"{word}\""))
            .replaced_by(format!("\"{word}\""))
            .help(format!("write {key} = \"{word}\"")),
    )
}

/// The experts have fewer places than the tokens have picks, at one of the token counts that the spec expects.
fn capacity_floor(section: &Section, spec: &Spec) -> Option<Diagnostic> {
    // How long sequences are is not known here: they may well be short enough for an absolute number of tokens.
    let is_known =
        |capacity: &&Capacity| !matches!((capacity.group, capacity.size), (CapacityGroup::Sequence, CapacitySize::Tokens(_)));
    let capacity = spec.capacity.as_ref().filter(is_known)?;
    let dropping: Vec<(u64, Floor)> =
        spec.tokens.expected.iter().filter_map(|tokens| Some((*tokens, floor(spec, capacity, *tokens, *tokens)?))).collect();
    let (_, worst) = dropping.iter().max_by(|(_, a), (_, b)| a.drop.total_cmp(&b.drop))?;
    let key = ["factor", "tokens", "fraction"].into_iter().find_map(|key| section.given(key))?;
    let message = format!("every router drops at least {} of its picks here", percent(worst.drop));
    let label = format!("C = {}, but S K / E = {}", worst.capacity, decimal(worst.needed));
    let lists = dropping.iter().map(|(tokens, floor)| {
        format!("T = {tokens}: C = {} of {} needed, {} dropped", floor.capacity, decimal(floor.needed), percent(floor.drop))
    });
    let diagnostic = Diagnostic::new(Code::CapacityFloor, message).at(key.span.clone(), label);
    let uncounted = match capacity.size {
        CapacitySize::Factor { count_k: false, .. } => section.given("count_k").filter(|_| spec.router.top_k > 1),
        CapacitySize::Factor { count_k: true, .. } | CapacitySize::Tokens(_) | CapacitySize::Fraction { .. } => None,
    };
    let (diagnostic, larger) = match uncounted {
        Some(field) => {
            let larger = format!("count_k = true, or a factor of {} or more", spec.router.top_k);
            (diagnostic.also(field.span.clone(), "leaves top_k out of C"), larger)
        }
        None => (diagnostic, "a larger capacity, round = \"ceil\" or min".to_string()),
    };
    let help = format!("{larger}; [lints] capacity_floor = \"allow\" where it is meant");
    Some(lists.fold(diagnostic, Diagnostic::note).help(help))
}

/// Experts rank tokens by weights that are one number for all of them.
fn equal_weights(section: &Section, sections: &Sections, spec: &Spec) -> Option<Diagnostic> {
    let capacity = spec.capacity.as_ref()?;
    let picks_one = matches!(spec.router.mode, Mode::TokenChoice | Mode::Hash) && spec.picks() == 1;
    if capacity.priority != Priority::Score || !picks_one {
        return None;
    }
    let (key, why) = match (spec.router.order, spec.router.score, spec.router.renorm) {
        (Order::TopKScore, Score::Softmax, _) => ("order", "a softmax over one logit is 1"),
        // Weights are ranked before they are renormalised.
        (_, _, Some(_)) if capacity.renorm_after_drop => return None,
        (_, _, Some(renorm)) if is_lost(renorm, spec) => ("renorm", "a weight by itself is 1"),
        (_, _, Some(_) | None) => return None,
    };
    let (priority, decided) = (section.given("priority")?, sections.router.given(key)?);
    let diagnostic = Diagnostic::new(Code::EqualWeights, "priority = \"score\" ranks weights that are all equal here")
        .at(priority.span.clone(), "so the earlier token is served, whatever its score")
        .also(decided.span.clone(), why)
        .help(
            "priority = \"batch_prioritized\" ranks tokens by their scores before renormalisation; [lints] equal_weights = \
             \"allow\" where the earlier token is meant",
        );
    Some(diagnostic)
}

/// Whether the weight of a token's only pick, divided by its own norm, is 1 in f32: its epsilon is lost beside the least that the
/// best of all scores of a softmax may be.
fn is_lost(renorm: Renorm, spec: &Spec) -> bool {
    let (least, eps) = (1.0 / spec.candidates() as f32, renorm.eps as f32);
    match (renorm.eps_mode, renorm.norm) {
        // A logit may be negative, and then keeps its sign or is left as it is.
        (EpsMode::Clamp, _) | (_, Norm::P(_)) if spec.router.score == Score::Identity => false,
        (EpsMode::Add, _) => least + eps == least,
        (EpsMode::Clamp, _) => eps <= least,
    }
}

/// What the most even router drops at one size of a batch.
struct Floor {
    capacity: u64,
    /// S K / E: the places an expert that such a router asks for.
    needed: f64,
    /// Dropped of all picks, above 0 and at most 1.
    drop: f64,
}

/// The share of its picks that every router drops of a batch of `tokens` tokens in sequences of `sequence_tokens`; 0.0 where a
/// router could place them all.
pub fn drop_floor(spec: &Spec, tokens: u64, sequence_tokens: u64) -> f64 {
    let floor = spec.capacity.as_ref().and_then(|capacity| floor(spec, capacity, tokens, sequence_tokens));
    floor.map_or(0.0, |floor| floor.drop)
}

/// The least that any router drops, where that is not 0.
fn floor(spec: &Spec, capacity: &Capacity, tokens: u64, sequence_tokens: u64) -> Option<Floor> {
    // Tokens pick; identity experts, which have no capacity, could take every pick.
    let picks = matches!(spec.router.mode, Mode::TokenChoice | Mode::Hash) && spec.router.identity_experts == 0;
    // A run that the batch does not fill has the C of a whole one.
    let (of, filled) = match capacity.group {
        CapacityGroup::All => (tokens, tokens),
        CapacityGroup::Sequence => (sequence_tokens, sequence_tokens),
        CapacityGroup::Tokens(run) => (run, tokens.min(run)),
    };
    let per_expert = capacity.tokens_per_expert(of, spec.router.top_k, spec.experts);
    let drop = least_drop(per_expert, filled, spec.router.top_k, spec.experts);
    let needed = filled as f64 * spec.router.top_k as f64 / spec.experts as f64;
    (picks && drop > 0.0).then_some(Floor { capacity: per_expert, needed, drop })
}

/// The share of picks that no router can place: `max(0, 1 - C E / (S K))`, with at most S tokens in an expert.
pub fn least_drop(capacity: u64, tokens: u64, top_k: u64, experts: u64) -> f64 {
    let (places, picks) = (u128::from(capacity.min(tokens)) * u128::from(experts), u128::from(tokens) * u128::from(top_k));
    if picks == 0 || places >= picks { 0.0 } else { (picks - places) as f64 / picks as f64 }
}

/// `84.4 %`.
fn percent(share: f64) -> String {
    format!("{} %", decimal((share * 1000.0).round() / 10.0))
}

/// Two decimals, and none where they are zeros.
fn decimal(number: f64) -> String {
    format!("{number:.2}").trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::keys;

    #[test]
    fn the_table_of_keys_has_every_lint() {
        let keys: Vec<&str> = keys::table("lints").unwrap().keys.iter().map(|key| key.name).collect();
        assert_eq!(keys, LINTS.map(|(key, _)| key));
    }

    #[test]
    fn least_drop_by_hand() {
        // 128 tokens of 8 picks are 1024; 64 experts of 3 are 192, so 832 are dropped.
        assert_eq!(least_drop(3, 128, 8, 64), 0.8125);
        assert_eq!(least_drop(16, 128, 8, 64), 0.0);
        assert_eq!(least_drop(0, 1, 1, 8), 1.0);
        // 2 tokens have 4 picks; 1 expert could hold 100, but each token picks it once.
        assert_eq!(least_drop(100, 2, 2, 1), 0.5);
        assert_eq!(least_drop(0, 0, 2, 8), 0.0);
    }
}
