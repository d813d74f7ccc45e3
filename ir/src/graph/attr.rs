//! Constants that say how an op works. They are leaves of the graph, so that rules can bind them.

use std::fmt;
use std::str::FromStr;

use super::{Body, Op};
use crate::{DType, Extent, Round, Sorting, Tiling};

/// A constant operand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attr {
    /// A count.
    Num(u64),
    /// A real number.
    Real(Real),
    /// An element type.
    DType(DType),
    /// How experts are grouped.
    Groups(Groups),
    /// How weights are normalised.
    Renorm(Renorm),
    /// Which pairs are kept.
    Assignment(Assignment),
    /// What routing costs in training.
    Losses(Losses),
    /// Tokens whose sums are kept apart from those of others.
    Span(Span),
    /// A part of a routing.
    Part(Part),
    /// What a fused op does with its products.
    Body(Body),
    /// How a product is cut into tiles. It changes no value.
    Tiling(Tiling),
    /// As [`Attr::Tiling`], of a product that is computed beside others by one [`Op::Launch`]: its value is a list of one until then.
    Beside(Tiling),
    /// How the pairs of a route, or of what is given, are sorted. It changes no value.
    Sorting(Sorting),
}

impl Attr {
    /// Whether it says in which way `op` is computed: it may follow its operands then, and changes no number.
    pub fn is_way_of(&self, op: Op) -> bool {
        match self {
            Attr::Tiling(_) | Attr::Beside(_) => op.is_product(),
            Attr::Sorting(_) => matches!(op, Op::Route | Op::Given),
            Attr::Num(_) | Attr::Real(_) | Attr::DType(_) | Attr::Groups(_) | Attr::Renorm(_) => false,
            Attr::Assignment(_) | Attr::Losses(_) | Attr::Span(_) | Attr::Part(_) | Attr::Body(_) => false,
        }
    }
}

/// A finite f64 with equality and order of its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Real(u64);

impl Real {
    /// The number.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl From<f64> for Real {
    /// Minus zero becomes zero.
    fn from(x: f64) -> Real {
        Real((x + 0.0).to_bits())
    }
}

/// Group-limited selection (DeepSeek-V2 and V3): experts in `groups` equal groups, of which the best `keep` stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Groups {
    /// Number of groups; divides the number of experts.
    pub groups: u64,
    /// Groups that stay.
    pub keep: u64,
    /// What a group is worth.
    pub score: GroupScore,
    /// What the keys of the other groups become.
    pub mask: GroupMask,
}

/// What a group is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupScore {
    /// The sum of its two largest keys (DeepSeek-V3).
    Top2Sum,
    /// Its largest key (DeepSeek-V2).
    Max,
}

/// What the keys of a masked group become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupMask {
    /// Never picked while another expert is left.
    NegInf,
    /// 0, as older implementations do.
    Zero,
}

/// `w / (norm w + eps)`, or `w / max(norm w, eps)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Renorm {
    /// What the weights are divided by.
    pub norm: Norm,
    /// How `eps` guards the norm.
    pub mode: Eps,
    /// The guard.
    pub eps: Real,
}

/// What weights are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Norm {
    /// `sum w`.
    Sum,
    /// `(sum |w|^p)^(1/p)` with p above 0 (DBRX).
    P(Real),
}

impl Norm {
    /// Whether it is the sum of weights of which none is negative.
    pub fn sums_positive(self) -> bool {
        match self {
            Norm::Sum => true,
            Norm::P(p) => p.get() == 1.0,
        }
    }
}

/// How a guard joins the norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Eps {
    /// Added.
    Add,
    /// A lower bound.
    Clamp,
}

/// Which pairs are kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Assignment {
    /// All.
    Dropless,
    /// As many as each expert has room for.
    Capacity(Capacity),
}

impl Assignment {
    /// At most so many pairs are kept, where each of T tokens picks `top_k` of `experts`.
    pub fn most_pairs(&self, top_k: u64, experts: u64) -> Extent {
        let picked = Extent::Tokens * top_k;
        match self {
            Assignment::Dropless => picked,
            Assignment::Capacity(c) => {
                let (above, below) = c.per_expert.least_share(&c.span.whole());
                if above.saturating_mul(experts.into()) >= below.saturating_mul(top_k.into()) {
                    return picked; // There is room for as many.
                }
                // No more than there are tokens, so that the product does not overflow; a table may have more picks than experts.
                let repeats = if top_k > experts { top_k } else { 1 };
                let of_expert = c.per_expert.clone().min(c.span.tokens() * repeats);
                picked.min(c.span.count() * (of_expert * experts))
            }
        }
    }
}

/// A bound on the pairs that an expert takes from each span of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capacity {
    /// Pairs an expert takes from one span.
    pub per_expert: Extent,
    /// The tokens that share the capacity.
    pub span: Span,
    /// The order of service.
    pub priority: Priority,
}

/// The tokens that share one capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Span {
    /// The whole batch.
    All,
    /// Each sequence by itself.
    Sequence,
    /// Runs of so many tokens, of which the last may be shorter; at least 1.
    Tokens(u64),
}

impl Span {
    /// Whether it is a sequence.
    pub fn is_sequence(self) -> bool {
        self == Span::Sequence
    }

    /// Tokens of a span of which none is missing.
    pub(crate) fn whole(self) -> Extent {
        match self {
            Span::All => Extent::Tokens,
            Span::Sequence => Extent::SequenceTokens,
            Span::Tokens(n) => Extent::Const(n),
        }
    }

    /// Tokens of a span, at least 1; the last span may be shorter.
    pub fn tokens(self) -> Extent {
        match self {
            Span::All => Extent::Tokens,
            Span::Sequence => Extent::SequenceTokens.max(Extent::Const(1)),
            Span::Tokens(n) => Extent::Tokens.min(Extent::Const(n)).max(Extent::Const(1)),
        }
    }

    /// Number of spans.
    pub fn count(self) -> Extent {
        match self {
            Span::All => Extent::Const(1),
            Span::Sequence | Span::Tokens(_) => Extent::Tokens.div(self.tokens(), Round::Ceil),
        }
    }
}

/// A part of a routing that is a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// i32 `[T, K]`: the expert of each pick; -1: the token is padding.
    Experts,
    /// i32 `[T, K]`: the grouped row of each pair; -1: dropped, or its expert has none. Which row it is among those of its expert, no
    /// op tells.
    Rows,
    /// i32 `[E]`, experts without rows too: the pairs that picked each.
    Load,
    /// i32 `[E]`, experts without rows too: the pairs that each keeps.
    Kept,
    /// i32 `[1]`: tokens that are no padding, where some may be.
    Tokens,
    /// i32 `[T, K]`: the experts of `counted`.
    Counted,
    /// f32 `[E]`: what `observe` sums of the probabilities.
    Probability,
    /// f32 `[1]`: what `observe` sums of z.
    Z,
}

impl Part {
    /// Every part, with its word in text.
    pub const ALL: [(&'static str, Part); 8] = [
        ("experts", Part::Experts),
        ("rows", Part::Rows),
        ("load", Part::Load),
        ("kept", Part::Kept),
        ("tokens", Part::Tokens),
        ("counted", Part::Counted),
        ("probability", Part::Probability),
        ("z", Part::Z),
    ];

    /// Its word in text.
    pub fn word(self) -> &'static str {
        match self {
            Part::Experts => "experts",
            Part::Rows => "rows",
            Part::Load => "load",
            Part::Kept => "kept",
            Part::Tokens => "tokens",
            Part::Counted => "counted",
            Part::Probability => "probability",
            Part::Z => "z",
        }
    }
}

/// The order in which pairs are kept until an expert is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Every token's first pick, then every token's second, ... (GShard, Switch).
    ChoiceMajor,
    /// Every pick of the first token, then of the second, ...
    TokenMajor,
    /// As `ChoiceMajor`, with the tokens of a span by their `best_score`, largest first; ties to the earlier token (batch
    /// prioritized routing of V-MoE, arXiv 2106.05974, section 4.1, which orders by the scores before any renormalisation).
    BatchPrioritized,
    /// The pairs of a span by the weights that the picks have when they are assigned, heaviest first; ties to the earlier
    /// pair (`moe_token_drop_policy = probs` of Megatron-LM, which ranks renormalised and scaled probabilities).
    Score,
}

/// What routing costs in training, each loss with its factor. The formulas are at `Observation::losses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Losses {
    /// How uneven the experts' use is.
    pub balance: Option<(Balance, Real)>,
    /// How large the logits are: the mean of `logsumexp(logits)^2`.
    pub z: Option<Real>,
}

/// What the probabilities of the experts are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Balance {
    /// The pairs that picked each expert (Switch).
    Load,
    /// The tokens that picked it first (GShard).
    First,
    /// The pairs that picked it, within each sequence (DeepSeek-V2, flaxformer).
    Sequences,
    /// The tokens that picked it first, within each sequence (mesh-tensorflow).
    SequencesFirst,
    /// Their own mean: the squared coefficient of variation (Shazeer et al. 2017).
    Importance,
}

impl Balance {
    /// Whether each sequence has a loss of its own, of which the mean is taken.
    pub fn is_by_sequence(self) -> bool {
        match self {
            Balance::Sequences | Balance::SequencesFirst => true,
            Balance::Load | Balance::First | Balance::Importance => false,
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Span::All => f.write_str("all"),
            Span::Sequence => f.write_str("sequence"),
            Span::Tokens(n) => write!(f, "{n}"),
        }
    }
}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.get())
    }
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attr::Num(n) => write!(f, "{n}"),
            Attr::Real(x) => write!(f, "{x}"),
            Attr::DType(d) => write!(f, "{d}"),
            Attr::Groups(g) => {
                let score = match g.score {
                    GroupScore::Top2Sum => "top2_sum",
                    GroupScore::Max => "max",
                };
                let mask = match g.mask {
                    GroupMask::NegInf => "-inf",
                    GroupMask::Zero => "zero",
                };
                write!(f, "groups({}, keep {}, {score}, {mask})", g.groups, g.keep)
            }
            Attr::Renorm(r) => {
                let mode = match r.mode {
                    Eps::Add => "add",
                    Eps::Clamp => "clamp",
                };
                match r.norm {
                    Norm::Sum => write!(f, "sum({mode} {})", r.eps),
                    Norm::P(p) => write!(f, "norm({p}, {mode} {})", r.eps),
                }
            }
            Attr::Assignment(Assignment::Dropless) => f.write_str("dropless"),
            Attr::Assignment(Assignment::Capacity(c)) => {
                let priority = match c.priority {
                    Priority::ChoiceMajor => "choice_major",
                    Priority::TokenMajor => "token_major",
                    Priority::BatchPrioritized => "batch_prioritized",
                    Priority::Score => "score",
                };
                write!(f, "capacity({}, {}, {priority})", c.per_expert, c.span)
            }
            Attr::Losses(losses) => {
                let balance = losses.balance.map(|(balance, factor)| {
                    let name = match balance {
                        Balance::Load => "load",
                        Balance::First => "first",
                        Balance::Sequences => "sequences",
                        Balance::SequencesFirst => "sequences_first",
                        Balance::Importance => "importance",
                    };
                    format!("{name} {factor}")
                });
                let z = losses.z.map(|factor| format!("z {factor}"));
                let list: Vec<String> = balance.into_iter().chain(z).collect();
                write!(f, "training({})", list.join(", "))
            }
            Attr::Span(span) => write!(f, "span({span})"),
            Attr::Part(part) => f.write_str(part.word()),
            Attr::Body(body) => write!(f, "{body}"),
            Attr::Tiling(tiling) => write!(f, "{tiling}"),
            Attr::Beside(tiling) => write!(f, "beside({tiling})"),
            Attr::Sorting(sorting) => write!(f, "{sorting}"),
        }
    }
}

/// The attributes that a pattern of a rule may spell: numbers, element types, `dropless`, parts of a routing.
impl FromStr for Attr {
    type Err = String;

    fn from_str(s: &str) -> Result<Attr, String> {
        if s == "dropless" {
            return Ok(Attr::Assignment(Assignment::Dropless));
        }
        if let Some((_, part)) = Part::ALL.into_iter().find(|(word, _)| *word == s) {
            return Ok(Attr::Part(part));
        }
        if let Ok(n) = s.parse::<u64>() {
            return Ok(Attr::Num(n));
        }
        if let Ok(d) = s.parse::<DType>() {
            return Ok(Attr::DType(d));
        }
        match s.parse::<f64>() {
            Ok(x) if x.is_finite() && s.contains(['.', 'e']) => Ok(Attr::Real(x.into())),
            Ok(_) | Err(_) => Err(format!("`{s}` is not an attribute")),
        }
    }
}
