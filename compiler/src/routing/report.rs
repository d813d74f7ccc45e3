//! The report as data: what `moec route --json` writes, and what its text and its page show. Keys are a promise: one may be
//! added, none changes its meaning while `version` stays. The comments are what `moec schema route` says of them, and the
//! names are those of the text's columns.

use schemars::JsonSchema;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::left_out::LeftOutFacts;
use super::sweep::Band;

/// The version of the form of reports.
pub(super) const VERSION: u32 = 2;

/// Routing health of the layers of a trace, each by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Reports {
    /// One at least.
    pub layers: Vec<Report>,
}

impl serde::Serialize for Reports {
    /// A report where the trace has one layer, else `{"version", "layers"}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let [report] = &self.layers[..] {
            return report.serialize(serializer);
        }
        let mut object = serializer.serialize_struct("Layers", 2)?;
        object.serialize_field("version", &VERSION)?;
        object.serialize_field("layers", &self.layers)?;
        object.end()
    }
}

/// What `moec route --json` writes.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "the schema is made of it; what is written is `Reports`")]
pub(super) enum Written {
    /// Of a trace with one layer.
    One(Box<Report>),
    /// Of a trace with several layers.
    Several(Layers),
}

/// Routing health of each layer of a trace.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "the schema is made of it; what is written is `Reports`")]
pub(super) struct Layers {
    /// Version of this form: 2.
    version: u32,
    /// By the numbers in the names of their tensors.
    layers: Vec<Report>,
}

/// Routing health of one spec on one layer of a trace. Rates are shares from 0 to 1; a pair is one (token, expert) assignment.
/// Rows that are left out are in none of the numbers but those of `trace.left_out` and `trace.rows`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Report {
    /// Version of this form: 2.
    pub version: u32,
    /// The name in the spec.
    pub layer: String,
    /// What the spec says about routing.
    pub router: Router,
    /// What was read.
    pub trace: TraceFacts,
    /// What the spec's own capacity does.
    pub drop: Drop,
    /// The least capacity factor, in hundredths, that drops at most what was asked for, weighed against dropless routing; null
    /// where nothing was routed.
    pub recommendation: Option<Recommendation>,
    /// Pairs of each expert.
    pub load: Spread<u64>,
    /// Router probabilities of each expert, summed over the tokens: of a sigmoid or sqrtsoftplus score its share of the
    /// token's sum.
    pub probability: Spread<f64>,
    /// Capacity factors, ascending.
    pub sweep: Vec<Point>,
    /// Routing modes on the same logits.
    pub modes: Vec<Mode>,
    /// Neighbouring batches, in order.
    pub over_batches: Vec<Stretch>,
    /// Experts on several devices, where `--ranks` asks for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
}

/// Experts on several devices, equally many on each. Loads are pairs of a device over the mean of all, in the whole trace.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Placement {
    /// Devices.
    pub ranks: usize,
    /// Experts of each.
    pub experts_per_rank: usize,
    /// The busiest device's load where experts lie in their order.
    pub busiest_in_order: f64,
    /// The same where they lie as `expert_of_place` says.
    pub busiest: f64,
    /// What no placement is below: one device has the largest expert, and the least others beside it.
    pub least_busiest: f64,
    /// Pairs of each device as placed.
    pub pairs_per_rank: Vec<u64>,
    /// The expert at each place: the first `experts_per_rank` places are those of rank 0.
    pub expert_of_place: Vec<usize>,
}

/// What the spec says about routing.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Router {
    /// `router.mode`.
    pub mode: &'static str,
    /// The experts that are routed to, E.
    pub experts: u64,
    /// K; where experts choose, that of the tokens that choose beside them.
    pub top_k: u64,
    /// `router.score`.
    pub score: &'static str,
    /// `capacity.priority`; of a dropless layer the one that it was swept with.
    pub priority: &'static str,
    /// `capacity.group`.
    pub group: String,
    /// `capacity.factor`, where the spec has one.
    pub factor: Option<f64>,
    /// The factor at which an expert has room for the mean load: K where `count_k` is false, else 1.
    pub even_factor: u64,
    /// The spec has no capacity: nothing is dropped.
    pub is_dropless: bool,
    /// How C follows from a factor.
    pub formula: String,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct TraceFacts {
    /// `logits` or `hidden`.
    pub source: &'static str,
    /// The layer whose tensors these are, where their names say.
    pub layer: Option<String>,
    /// Files read.
    pub files: usize,
    /// Tensors that counted.
    pub tensors: usize,
    /// Tensors of the files that no layer has: of another shape or type.
    pub skipped_tensors: usize,
    /// Rows of the tensors, tokens or not.
    pub rows: u64,
    /// Rows that are no tokens.
    pub left_out: LeftOutFacts,
    /// Batches; capacities never cross one.
    pub batches: u64,
    /// Stretches of tokens that share one capacity.
    pub spans: u64,
    /// T, of all batches.
    pub tokens: u64,
    /// T K, but for the picks of identity experts, which need no room.
    pub pairs: u64,
    /// Tokens of the longest batch.
    pub longest_batch: u64,
    /// The most tokens that experts choose from at once. A longer span is cut into pieces where experts choose, and in the
    /// modes `expert_choice` and `soft`; each has the C of its own length.
    pub most_choice_tokens: u64,
    /// Spans that were cut so.
    pub cut_spans: u64,
    /// Tokens whose picks the graph's interpreter decided, as f32 is not sure of them: experts too close to each other, logits
    /// that are not finite or in f64.
    pub interpreted_tokens: u64,
}

/// What the spec's own capacity does.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Drop {
    /// The least and the largest C of a span; none: dropless, or there is no token.
    pub capacity: Option<(u64, u64)>,
    /// Pairs that no expert has room for; where experts choose, tokens that none chose.
    pub dropped: u64,
    /// As a share of all.
    pub rate: f64,
    /// Pairs that any router would lose at this capacity: of each span `S K - C E`, where that is above 0. Where experts
    /// choose, tokens: `S - C E`.
    pub least: u64,
    /// As a share of all.
    pub least_rate: f64,
    /// Tokens that lose every pick.
    pub dropped_tokens: u64,
    /// As a share of all.
    pub token_rate: f64,
    /// How much `rate - least_rate` matters.
    pub band: Band,
    /// What drops.
    pub cause: Cause,
    /// What to do about it.
    pub advice: String,
}

/// What drops, where 1 % or more is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Less than 1 % is dropped.
    Nothing,
    /// The capacity: an even router would drop as much.
    Capacity,
    /// The router: an even one would drop nothing.
    Router,
    /// Both.
    Both,
}

/// What to take: a capacity factor, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Take {
    /// The factor.
    Factor,
    /// Dropless routing: it drops nothing, and pads no more than the factor.
    Dropless,
}

/// A capacity factor that is enough, and whether dropless routing is better.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Recommendation {
    /// The share of pairs that may be dropped.
    pub target: f64,
    /// The factor, in the spec's own formula.
    pub factor: f64,
    /// The least and the largest C of a span.
    pub capacity: Option<(u64, u64)>,
    /// What it drops.
    pub rate: f64,
    /// Empty rows of buffers that hold C rows an expert, as a share of all.
    pub waste: f64,
    /// Rows with padding, over those of dropless routing without.
    pub padded_cost: f64,
    /// The same of dropless routing, whose rows are padded to tiles.
    pub dropless_padded_cost: f64,
    /// What costs less.
    pub take: Take,
    /// The hottest experts, at most three, that stand in the way of a lower factor.
    pub balance: Vec<usize>,
    /// The recommendation in words.
    pub text: String,
}

/// An expert with much or little.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ExpertShare {
    /// Its index.
    pub expert: usize,
    /// Its part of what all have.
    pub share: f64,
    /// Over the mean.
    pub of_mean: f64,
}

/// How something is spread over the experts.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Spread<T> {
    /// Of an expert if all had the same: T K / E pairs, or T / E of probability.
    pub mean: f64,
    /// What the capacity factor allows an expert: `hot_above * mean`.
    pub limit: f64,
    /// Mean squared distance from the mean.
    pub variance: f64,
    /// Standard deviation over mean.
    pub spread: f64,
    /// The largest.
    pub largest: f64,
    /// Entropy as a share of that of the even distribution: 1 is even, 0 is all on one.
    pub entropy_share: f64,
    /// How much of the mean makes an expert hot: what the spec's capacity has room for, where that is the mean at least, else
    /// 1.25.
    pub hot_above: f64,
    /// Experts above it, the hottest first.
    pub hot: Vec<ExpertShare>,
    /// Experts below a tenth of the mean, but not dead, the coldest first.
    pub cold: Vec<ExpertShare>,
    /// Experts with nothing at all.
    pub dead: Vec<usize>,
    /// By expert.
    pub per_expert: Vec<T>,
}

/// One capacity factor.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Point {
    /// In the spec's own formula.
    pub factor: f64,
    /// The least and the largest C of a span.
    pub capacity: Option<(u64, u64)>,
    /// Dropped pairs, as a share of all.
    pub drop_rate: f64,
    /// Of these, what any router would drop: `1 - C E / (S K)`, where that is above 0.
    pub least_drop_rate: f64,
    /// Tokens that lose every pick, as a share of all.
    pub token_drop_rate: f64,
    /// Empty rows of buffers that hold C rows an expert, as a share of all.
    pub waste: f64,
    /// It is the spec's.
    pub is_spec: bool,
    /// It is the recommended one.
    pub is_recommended: bool,
}

/// One way to route the same tokens.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Mode {
    /// `dropless`, `capacity`, `expert_choice` or `soft`.
    pub kind: &'static str,
    /// The capacity factor of `capacity`, where one was meant.
    pub factor: Option<f64>,
    /// It is what the spec says.
    pub is_spec: bool,
    /// The least and the largest C of a span.
    pub capacity: Option<(u64, u64)>,
    /// Dropped pairs as a share of all; none where tokens do not pick.
    pub drop_rate: Option<f64>,
    /// Of these, what any router would drop.
    pub least_drop_rate: Option<f64>,
    /// How much the rest matters.
    pub band: Option<Band>,
    /// Tokens that no expert computes, as a share of all.
    pub token_drop_rate: f64,
    /// Of the rows in the buffers, those that are padding: to C, or to a GPU's tiles where there is no C.
    pub waste: f64,
    /// Rows of the busiest expert over the mean, batch by batch: how long the others wait for it.
    pub busiest: f64,
    /// Rows that experts compute.
    pub rows: u64,
    /// As a share of those of dropless routing.
    pub cost: f64,
    /// The same with padding.
    pub padded_cost: f64,
    /// Of `soft`: multiply-adds that mix tokens into slots and back, as a share of the experts' own; none where their width is
    /// not known.
    pub mixing: Option<f64>,
}

/// Neighbouring batches.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Stretch {
    /// The first of them, counted from 0.
    pub first: u64,
    /// The tensor of the first of them.
    pub tensor: String,
    /// The tensor of the last of them.
    pub last_tensor: String,
    /// How many.
    pub batches: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Pairs that the spec's capacity drops, as a share of theirs.
    pub drop_rate: f64,
    /// Loads over their mean: the least, the lowest tenth, the median, the highest tenth, the largest.
    pub quantiles: [f64; 5],
    /// The expert with the largest load.
    pub hottest: usize,
    /// Loads over their mean of the experts that have the most in the whole trace, at most three, hottest first.
    pub leaders: Vec<f64>,
}
