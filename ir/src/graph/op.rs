//! The closed set of ops, and the egg language made of them; nothing else.

use std::fmt;
use std::str::FromStr;

use egg::{FromOp, FromOpError, Id, Language};

use super::Attr;
#[cfg(doc)]
use super::Observation;

/// What an op is to every room.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    arity: Option<usize>,
    list: Option<usize>,
    class: Class,
}

/// What kind of function an op is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// It maps each row by itself.
    ByRow,
    /// A product by weights.
    Product,
    /// It reads or makes values as a whole.
    Whole,
}

/// The arity of an op with any number of operands.
const ANY: usize = usize::MAX;

const fn by_row(name: &'static str, arity: usize) -> Row {
    Row { name, arity: if arity == ANY { None } else { Some(arity) }, list: None, class: Class::ByRow }
}

const fn product(name: &'static str, arity: usize) -> Row {
    Row { class: Class::Product, ..by_row(name, arity) }
}

const fn whole(name: &'static str, arity: usize) -> Row {
    Row { class: Class::Whole, ..by_row(name, arity) }
}

impl Row {
    /// It has a body, and this operand lists what the body's later holes stand for.
    const fn list(self, operand: usize) -> Row {
        Row { list: Some(operand), ..self }
    }
}

/// Makes the enums, the lists of their ops and the rows: an op that stands in the table is in none of them forgotten.
macro_rules! table {
    (
        $(#[$of_ops:meta])* pub enum Op { $($(#[$of_op:meta])* $op:ident = $row:expr,)* }
        $(#[$of_pointwise:meta])* pub enum Pointwise { $($(#[$of_part:meta])* $part:ident = $part_row:expr,)* }
    ) => {
        $(#[$of_ops])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Op {
            $($(#[$of_op])* $op,)*
            /// One of those that compute number by number.
            Pointwise(Pointwise),
        }

        $(#[$of_pointwise])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Pointwise { $($(#[$of_part])* $part,)* }

        impl Op {
            /// Every op, in declaration order.
            pub const ALL: &'static [Op] = &[$(Op::$op,)* $(Op::Pointwise(Pointwise::$part),)*];

            const fn row(self) -> Row {
                match self {
                    $(Op::$op => $row,)*
                    $(Op::Pointwise(Pointwise::$part) => $part_row,)*
                }
            }
        }
    };
}

table! {
/// One function from values to a value. Shapes: T tokens, P rows of a grouping (kept (token, expert) pairs, or slots), H hidden,
/// F intermediate, E experts, K picks a token. A sequence is S tokens, the last one may be shorter. All arithmetic is f32; `cast` is the
/// only rounding to storage types.
pub enum Op {
    /// `(a, b, ...)`: several values as one operand.
    List = whole("list", ANY),
    /// `gemm x ws vs body`: `$i[m, n] = sum_k x[m, k] * ws[i][n, k]` for each weight, then the body over
    /// `$0.. (products), $len(ws).. (vs)`.
    Gemm = product("gemm", 4).list(2),
    /// `grouped_gemm rows routing ws vs body`: `$i[p, n] = sum_k rows[p, k] * ws[i][expert_of_pair[p], n, k]`, then the
    /// body. `rows` has P rows, or T rows which are gathered: `rows[token_of_pair[p], k]`. Slots in the place of a routing
    /// have the expert of each row too; their rows are P.
    GroupedGemm = product("grouped_gemm", 5).list(3),
    /// `route x ws vs body assignment` = `assign (gemm x ws vs body) assignment`.
    Route = whole("route", 5).list(2),
    /// `top_k scores keys k`: the `k` experts with the largest keys of each row, largest first, ties to the lower index,
    /// with their scores as weights. A NaN key counts as minus infinity.
    TopK = by_row("top_k", 3),
    /// `all_experts scores`: every expert of each row, in index order, with its score as weight. Under a capacity by weight
    /// each expert then keeps the tokens that it scores highest: expert choice.
    AllExperts = by_row("all_experts", 1),
    /// `sparse_mixer x jitter k`: the `k` largest of each row, one after another; of those left, `i` with the largest
    /// `M` weighs `1 / sum exp(x[e] - M)` over the `e` with `(M - x[e]) / max(|x[e]|, M) <= 2 jitter`. Ties, NaN and
    /// infinities as in `top_k` and `softmax`.
    SparseMixer = by_row("sparse_mixer", 3),
    /// `hash_picks scores table ids`: the experts `table[ids[t], ..]` of each token, as the row has them, with their scores as
    /// weights. An expert may come twice, and counts twice. An id beyond the table and an entry beyond the experts stand for
    /// the nearest there is: nothing is read out of bounds.
    HashPicks = by_row("hash_picks", 3),
    /// `given ids weights maps n`: a routing that a caller has made: pair `t * K + j` is of expert `ids[t, j]` under `weights[t, j]`, or
    /// of expert `map[ids[t, j]]` where `maps` lists a map, i32 `[I]`. An id outside `0..n`, or outside `0..I` of the map, and a number of the map
    /// outside `0..n`, are no expert: such a pick is no pair, and nothing is read out of bounds. An expert may come twice, and
    /// counts twice. Nothing is dropped.
    Given = whole("given", 4),
    /// `leading x n`: the first `n` columns.
    Leading = by_row("leading", 2),
    /// `joint picks scores n`: the picks, and after them each of the last `n` columns of the scores, as experts `E..E + n`
    /// that every token has and that get no rows.
    Joint = by_row("joint", 3),
    /// `group_limit keys groups`: experts in equal groups; those outside each row's best groups are masked.
    GroupLimit = by_row("group_limit", 2),
    /// `renorm picks rule`: weights divided by their sum or p-norm.
    Renorm = by_row("renorm", 2),
    /// `expert_scale picks s`: each weight times `s` of its expert, or all times a single number; of a routing, those of the
    /// dropped stay.
    ExpertScale = by_row("expert_scale", 2),
    /// `observe logits scores picks span`: the same picks, with the [`Observation`] of each token: its probabilities and its z. Kernels
    /// add these up over some tokens at once, never over those of two spans.
    Observe = by_row("observe", 4),
    /// `counted picks others` = `picks`, in the place of which `losses` counts `others`: those that tokens would pick without
    /// the selection bias (DeepSeek-V3, arXiv 2412.19437, equation 18).
    Counted = by_row("counted", 2),
    /// `best_score picks scores n`: the same picks, with the number by which `batch_prioritized` orders tokens: the largest
    /// of the scores at the experts of the token's first `n` picks, a NaN as minus infinity. Scores are a row over all
    /// experts, those without rows too; no weight has a part in it.
    BestScore = by_row("best_score", 3),
    /// `without_rows picks n`: the same picks, of which those of the last `n` experts get no rows: no weights are theirs.
    WithoutRows = by_row("without_rows", 2),
    /// `within ids n`, or `within ids n mask`: a mask for `mask_tokens`, i32 `[T]`: 1 where `0 <= ids[t] < n` and `mask`, of
    /// the same kind, if there is one, is not 0; else 0.
    Within = whole("within", ANY),
    /// `assign picks assignment`: which pairs are kept. A pick without an expert is no pair, and takes no room. Grouped rows are by expert; in which order those of one expert come
    /// no op tells, and kernels have the order that is cheapest (by priority, or by token).
    Assign = whole("assign", 2),
    /// `losses routing rule`, where the picks are observed: the probabilities of each expert summed over the tokens, f32 `[E]`, then
    /// the losses of the rule, each f32 `[1]`, the balance first. Their formulas are in [`Observation::losses`].
    Losses = whole("losses", 2),
    /// `picked picks c`, of picks or of a routing: the expert of each pick, i32 `[T, K]`, and its weight times `c`, f32 `[T, K]`. A
    /// pick that is of no expert, or was dropped, has the expert -1 and the weight 0; an expert without rows drops none.
    Picked = whole("picked", 2),
    /// `part routing what`: a [part](super::Part) of a routing as a tensor.
    Part = whole("part", 2),
    /// `bias_update bias routing rate`: `y[e] = bias[e] + rate * sign(sum_i load[i] - N load[e])` over the N experts that have a bias, with
    /// sign(0) = 0 (Wang et al. 2024, arXiv 2408.15664).
    BiasUpdate = whole("bias_update", 3),
    /// `renorm_kept routing rule`: weights of each token's kept picks divided by their sum or p-norm; those of the dropped stay.
    RenormKept = whole("renorm_kept", 2),
    /// `dispatch x routing`: `y[p, n] = x[token_of_pair[p], n]`.
    Dispatch = whole("dispatch", 2),
    /// `expert_rows b routing`: `y[p, n] = b[expert_of_pair[p], n]`; also of slots.
    ExpertRows = whole("expert_rows", 2),
    /// `pair_weights routing`: `y[p, 0]` = weight of pair p.
    PairWeights = whole("pair_weights", 1),
    /// `pick_weights routing first`: `y[t, i]` = weight of pick `first + i` of t, kept or not.
    PickWeights = whole("pick_weights", 2),
    /// `dropped_input x routing`: `y[t, n] = sum_j x[t, n] * weight(t, j)` over the dropped picks of t (none: 0). A pick of
    /// an expert without rows is not dropped.
    DroppedInput = whole("dropped_input", 2),
    /// `identity_input x routing`: `y[t, n] = sum_j x[t, n] * weight(t, j)` over the picks of t whose experts have no rows
    /// (none: 0): these give their input back (LongCat-Flash).
    IdentityInput = whole("identity_input", 2),
    /// `combine rows routing vs body`: `$0[t, n] = sum_j rows[pair(t, j), n]` over the kept picks of t in pick order
    /// (none: 0), then the body over `$0, $1.. (vs)`.
    Combine = whole("combine", 4).list(2),
    /// `flatten w`: `[A, B, N]` as `[A B, N]`.
    Flatten = whole("flatten", 1),
    /// `slots experts n`: rows that no token decides, n for each expert and sequence. Slot `i < E n` is one of expert `i / n`;
    /// its row of sequence s of R is `(i / n * R + s) * n + i % n`.
    Slots = whole("slots", 2),
    /// `token_softmax x`: as `softmax`, over the tokens of each sequence, each column by itself. With a second operand, a
    /// mask as that of `mask_tokens`, over those that are no padding; padding weighs 0.
    TokenSoftmax = whole("token_softmax", ANY),
    /// `soft_dispatch x weights slots vs body`: `$0[row(i, s), h] = sum_t weights[t, i] * x[t, h]` over the tokens t of sequence s,
    /// then the body over `$0, $1.. (vs)` (Puigcerver et al. 2023, equation 1).
    SoftDispatch = whole("soft_dispatch", 5).list(3),
    /// `soft_combine rows weights slots vs body`: `$0[t, h] = sum_i weights[t, i] * rows[row(i, s), h]` over the slots i, s the
    /// sequence of t, then the body over `$0, $1.. (vs)` (Puigcerver et al. 2023, equation 3).
    SoftCombine = whole("soft_combine", 5).list(3),
    /// `launch a b ..` = `(a, b, ..)`. Those that are parts of it (products whose way is [`Attr::Beside`]) are computed by one launch, side by
    /// side.
    Launch = whole("launch", ANY),
    /// `item list i`: the `i`-th of several values.
    Item = whole("item", 2),
    /// `rms_norm x eps vs body`: `$0[m, n] = x[m, n] / sqrt(mean_n x[m, n]^2 + eps)`, then the body over `$0, $1.. (vs)`.
    RmsNorm = whole("rms_norm", 4).list(2),
    /// `jitter x seed eps`: `y[t, n] = x[t, n] * (1 + eps (2 u - 1))`, a draw of `u` in [0, 1) for each element: the upper
    /// 24 bits of word `n % 4` of [`philox`](super::philox::philox) for the counter `(n / 4, t, 0, 0)` under the key `seed`.
    Jitter = whole("jitter", 3),
    /// `exp(x[e] - max x) / sum`, over each row, or over the weights of each token's picks. A NaN counts as the lowest
    /// finite number and infinities as the extreme finite ones, so that every row sums to one.
    Softmax = by_row("softmax", 1),
}

/// An op that computes each number from the number, or row, in the same place of its operands.
pub enum Pointwise {
    /// `mask_tokens x mask`: where a token's number in `mask`, i32 `[T]`, is 0, it is padding: of rows `[T, N]` its row is
    /// zeros, whatever it was; of picks it has no expert and its weights are 0.
    MaskTokens = by_row("mask_tokens", 2),
    /// `x` rounded to an element type and kept in it.
    Cast = by_row("cast", 2),
    /// `x`, of which each product of f32 in it may be of factors rounded to tf32 (8 bits of exponent, 10 of fraction; to the nearest, ties away
    /// from zero): [`Body::rounds_factors`](super::Body::rounds_factors). So each product is within `2^-10` of itself.
    Tf32 = by_row("tf32", 1),
    /// `x * c`.
    Scale = by_row("scale", 2),
    /// `x + c`.
    Offset = by_row("offset", 2),
    /// `min(x, c)`.
    AtMost = by_row("at_most", 2),
    /// `max(x, c)`.
    AtLeast = by_row("at_least", 2),
    /// `1 / (1 + exp(-x))`.
    Sigmoid = by_row("sigmoid", 1),
    /// The hyperbolic tangent.
    Tanh = by_row("tanh", 1),
    /// `sqrt(log(1 + exp(x)))`.
    SqrtSoftplus = by_row("sqrt_softplus", 1),
    /// `x / (1 + exp(-x))`.
    Silu = by_row("silu", 1),
    /// `x / 2 * (1 + erf(x / sqrt 2))`.
    Gelu = by_row("gelu", 1),
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    GeluTanh = by_row("gelu_tanh", 1),
    /// `max(x, 0)`.
    Relu = by_row("relu", 1),
    /// `x * x`.
    Square = by_row("square", 1),
    /// `a + b`; `b` may be a row `[N]`, one number `[1]`, or columns `[M, n]`, each for `N / n` neighbours.
    Add = by_row("add", 2),
    /// `a * b`; `b` may be a row `[N]`, one number `[1]`, or columns `[M, n]`, each for `N / n` neighbours.
    Mul = by_row("mul", 2),
}
}

impl From<Pointwise> for Op {
    fn from(op: Pointwise) -> Op {
        Op::Pointwise(op)
    }
}

impl Pointwise {
    /// Its name in text, in rules and in diagnostics.
    pub fn name(self) -> &'static str {
        Op::Pointwise(self).name()
    }
}

impl Op {
    /// Its name in text, in rules and in diagnostics.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The op of that name.
    pub fn named(name: &str) -> Option<Op> {
        Op::ALL.iter().copied().find(|op| op.name() == name)
    }

    /// Number of operands; `None`: any. An op may have one more, the [way](super::Attr::is_way_of) in which it is computed.
    pub fn arity(self) -> Option<usize> {
        self.row().arity
    }

    /// Whether it maps each row by itself: only such ops stand in a body.
    pub fn is_by_row(self) -> bool {
        self.row().class == Class::ByRow
    }

    /// Whether a tiling may stand after its operands, or that it stands beside others in a launch.
    pub fn is_product(self) -> bool {
        self.row().class == Class::Product
    }

    /// For ops with a body: which operand lists the values that the body's later holes stand for.
    pub fn operand_list(self) -> Option<usize> {
        self.row().list
    }

    /// For ops with a body: which operand it is.
    pub fn body(self) -> Option<usize> {
        self.operand_list().map(|list| list + 1)
    }
}

/// A parameter of the layer, with its sigil: `%x` is an input, `@router` a weight.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Param(pub String);

impl Param {
    /// Whether it is an input rather than a weight.
    pub fn is_input(&self) -> bool {
        self.0.starts_with('%')
    }

    /// The name without its sigil.
    pub fn bare(&self) -> &str {
        self.0.trim_start_matches(['%', '@'])
    }
}

/// A node of a graph: the egg language.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// A parameter of the layer.
    Param(Param),
    /// `$i`: an operand of the fused op whose body this is. Never outside a [`Body`](super::Body).
    Hole(u32),
    /// A constant that says how an op works.
    Attr(Attr),
    /// An op and its operands.
    Apply(Op, Box<[Id]>),
}

impl Node {
    /// An op applied to operands.
    pub fn apply(op: impl Into<Op>, operands: &[Id]) -> Node {
        Node::Apply(op.into(), operands.into())
    }

    /// The operands.
    pub fn operands(&self) -> &[Id] {
        self.children()
    }
}

impl Language for Node {
    /// Leaves carry their value, so that a pattern's leaf matches only itself.
    type Discriminant = (u8, Option<Op>);

    fn discriminant(&self) -> Self::Discriminant {
        match self {
            Node::Param(_) => (0, None),
            Node::Hole(_) => (1, None),
            Node::Attr(_) => (2, None),
            Node::Apply(op, _) => (3, Some(*op)),
        }
    }

    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Node::Apply(a, xs), Node::Apply(b, ys)) => a == b && xs.len() == ys.len(),
            (a, b) => a == b,
        }
    }

    fn children(&self) -> &[Id] {
        match self {
            Node::Param(_) | Node::Hole(_) | Node::Attr(_) => &[],
            Node::Apply(_, operands) => operands,
        }
    }

    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            Node::Param(_) | Node::Hole(_) | Node::Attr(_) => &mut [],
            Node::Apply(_, operands) => operands,
        }
    }
}

/// The operator alone, as egg prints it.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Param(p) => f.write_str(&p.0),
            Node::Hole(i) => write!(f, "${i}"),
            Node::Attr(attr) => write!(f, "{attr}"),
            Node::Apply(op, _) => f.write_str(op.name()),
        }
    }
}

/// How egg reads the patterns of the rules.
impl FromOp for Node {
    type Error = FromOpError;

    fn from_op(op: &str, children: Vec<Id>) -> Result<Self, FromOpError> {
        if let Some(known) = Op::named(op)
            && known.arity().is_none_or(|n| n == children.len())
        {
            return Ok(Node::Apply(known, children.into()));
        }
        let leaf = || {
            if op.starts_with(['%', '@']) {
                return Some(Node::Param(Param(op.to_string())));
            }
            if let Some(index) = op.strip_prefix('$') {
                return index.parse().ok().map(Node::Hole);
            }
            Attr::from_str(op).ok().map(Node::Attr)
        };
        match leaf() {
            Some(node) if children.is_empty() => Ok(node),
            Some(_) | None => Err(FromOpError::new(op, children)),
        }
    }
}
