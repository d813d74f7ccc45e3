//! The typed spec: what a layer is once every key is read, every default applied and every choice closed.
//! It has no text, no spans and no checks; `parse` is the only way the rest of the compiler obtains one.
//!
//! The model covers the whole schema; what does not go together, `parse` has refused.

use super::capacity::Capacity;
use super::weights::{Tensor, Weight};

/// One MoE layer, as the spec describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Name of the layer: at most 64 of `A-Z a-z 0-9 . _ -`, possibly empty. It becomes file and symbol names.
    pub name: String,
    /// H, the width of a token's vector.
    pub hidden: u64,
    /// E, the experts that have weights.
    pub experts: u64,
    /// Factor on the summed routed output, before the shared experts are added.
    pub routed_output_scale: f64,
    /// Epsilon of the RMS norm of the layer's output, where it has one.
    pub output_norm: Option<f64>,
    /// How tokens find experts.
    pub router: Router,
    /// How many tokens an expert takes; `None` is dropless.
    pub capacity: Option<Capacity>,
    /// The routed experts.
    pub expert: Expert,
    /// The always-on experts, if any.
    pub shared: Option<Shared>,
    /// Where each weight tensor of the layer is stored: exactly the tensors that this layer has, in `Tensor` order.
    pub weights: Vec<Weight>,
    /// What the spec says to another `router.mode` than its own: `router.slots`, `[capacity]`.
    pub unread: Vec<String>,
    /// What only training needs.
    pub training: Training,
    /// The token counts that the package must serve.
    pub tokens: Tokens,
    /// Precision and reproducibility.
    pub numerics: Numerics,
    /// What the kernels of hosts alone are asked for.
    pub host: Host,
}

impl Spec {
    /// Where this tensor is stored; `None` where the layer does not have it.
    pub fn weight(&self, tensor: Tensor) -> Option<&Weight> {
        self.weights.iter().find(|weight| weight.tensor == tensor)
    }

    /// The experts that compete for a token: those with weights, and those that are the identity.
    pub fn candidates(&self) -> u64 {
        self.experts + self.router.identity_experts
    }

    /// R, the columns of the router: the experts that compete, then the shared ones that it weighs.
    pub fn columns(&self) -> u64 {
        self.candidates() + self.router.joint_shared
    }

    /// The experts in a token's row of the routing: K, shared ones that the router weighs counted; or all where
    /// experts choose.
    pub fn picks(&self) -> u64 {
        match self.router.mode {
            Mode::TokenChoice | Mode::Soft(_) | Mode::Hash => self.router.top_k + self.router.joint_shared,
            Mode::ExpertChoice => self.experts,
        }
    }

    /// Whether only a checkpoint can say how many token ids there are.
    pub fn lacks_vocabulary(&self) -> bool {
        self.router.mode == Mode::Hash && self.router.vocabulary.is_none()
    }
}

/// `[training]`: what a package has for training alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Training {
    /// Half the width of the noise on the router's input: each element times a draw from `1 - jitter` to `1 + jitter`, by
    /// the input `seed` (i32 `[2]`).
    pub jitter: Option<f64>,
    /// What the correction bias moves by for an expert above or below the mean load, where the caller launches the update.
    pub bias_update_rate: Option<f64>,
    /// The balance loss and its coefficient.
    pub aux_loss: Option<(AuxLoss, f64)>,
    /// The tokens that one balance loss is made of.
    pub aux_group: AuxGroup,
    /// The coefficient of the router z-loss.
    pub z_coef: Option<f64>,
}

/// `[router]`: from a token's vector to its experts and their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// What chooses: each token its experts, or each expert its tokens.
    pub mode: Mode,
    /// K, the experts of one token; 1, and nothing, where experts choose.
    pub top_k: u64,
    /// V, the rows of the table of `Hash`; `None`: as many as are stored.
    pub vocabulary: Option<u64>,
    /// What becomes of a token whose id is outside the vocabulary.
    pub hash_oob: HashOob,
    /// What turns logits into scores.
    pub score: Score,
    /// Whether the score is taken over all experts or over the selected ones.
    pub order: Order,
    /// How the `top_k` are selected.
    pub select: Select,
    /// Half the distance, relative to the larger, beyond which `SparseMixer` drops an expert; 0.0 for `TopK`.
    pub jitter: f64,
    /// The logits have an additive bias (tensor `router_bias`).
    pub bias: bool,
    /// Factor on the logits.
    pub logit_scale: f64,
    /// `c` of `tanh(l / c) * c` on the logits, after `logit_scale`.
    pub logit_softcap: Option<f64>,
    /// Normalisation of the router's input (tensor `router_input_scale`, where the checkpoint has one).
    pub input_norm: Option<InputNorm>,
    /// A per-expert bias that acts on the selection only, never on the weights (tensor `correction_bias`).
    pub correction: Option<Correction>,
    /// Group-limited selection; `None` when there is one group.
    pub groups: Option<Groups>,
    /// Renormalisation of the selected weights.
    pub renorm: Option<Renorm>,
    /// Factor on the selected weights, after renormalisation.
    pub scale: f64,
    /// Router columns `E..E+n`, one for each shared expert, whose scores are normalised together with those of the picks.
    pub joint_shared: u64,
    /// Router columns `E..E+n` whose expert is the identity.
    pub identity_experts: u64,
    /// Where the weight acts.
    pub apply: Apply,
    /// Precision of the logits.
    pub dtype: RouterDType,
}

/// `router.mode`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Each token takes its `top_k` experts.
    TokenChoice,
    /// Each expert takes its `capacity` of the tokens, those that it scores highest.
    ExpertChoice,
    /// Every slot mixes all tokens of a sequence, every token all slots.
    Soft(Soft),
    /// A table of token ids decides (tensor `hash_table`, `[V, K]`, and input `token_ids`, `[T]`).
    Hash,
}

/// The keys of `mode = "soft"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Soft {
    /// Slots per expert.
    pub slots: u64,
    /// Normalisation of tokens and slots before their product.
    pub norm: SoftNorm,
    /// Epsilon of that normalisation.
    pub norm_eps: f64,
    /// The normalised tokens, not the raw ones, are mixed into the slots.
    pub dispatch_normed: bool,
}

/// Normalisation of the router's input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputNorm {
    /// Epsilon of the root mean square.
    pub eps: f64,
    /// Factor after the norm.
    pub scale: f64,
}

/// Group-limited selection: only experts of the best groups can be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Number of groups, 2 or more; it divides `experts`, and a group is a run of neighbouring experts.
    pub count: u64,
    /// Groups that stay.
    pub top: u64,
    /// How a group is ranked.
    pub score: GroupScore,
    /// What the experts of the other groups score.
    pub mask: GroupMask,
}

/// Renormalisation of the selected weights: `w / (norm(w) + eps)` or `w / max(norm(w), eps)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Renorm {
    /// The norm that is divided by.
    pub norm: Norm,
    /// Guards the division; 0.0 is no guard.
    pub eps: f64,
    /// How `eps` guards it.
    pub eps_mode: EpsMode,
}

/// The norm of [`Renorm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// The plain sum.
    Sum,
    /// `(sum |w|^p)^(1/p)`.
    P(f64),
}

/// `[expert]`: what one routed expert computes.
///
/// Gated: `down( act(gate x) * (up x + up_offset) )`; plain: `down( act(up x) )`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expert {
    /// F, the inner width.
    pub intermediate: u64,
    /// Gate, up, activation and clamp.
    pub activation: Gating,
    /// The expert's projections have biases.
    pub bias: bool,
    /// Factor on every expert's output.
    pub output_scale: f64,
    /// Width that the experts see instead of `hidden`: tokens are projected before the dispatch and after the combine.
    pub latent: Option<u64>,
}

/// The inner nonlinearity of a routed or shared expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gating {
    /// Whether there is a gate projection beside the up projection.
    pub gated: bool,
    /// The activation: of the gate where there is one, else of up.
    pub activation: Activation,
    /// `silu(g) = g * sigmoid(alpha * g)`: 1.0 unless the spec gives it, and then the activation is `Silu`.
    pub alpha: f64,
    /// `softcap(g) * sigmoid(alpha * g)` in silu's place, of this cap; `None` unless `gated` and the activation is `Silu`.
    pub gate_softcap: Option<f64>,
    /// A cap of up, `tanh(u / c) * c`, after the clamp; `None` unless `gated`.
    pub up_softcap: Option<f64>,
    /// Added to up before the product; 0.0 unless `gated`.
    pub up_offset: f64,
    /// Bounds on gate and up; `None` unless `gated`.
    pub clamp: Option<Clamp>,
}

/// `|up| <= limit` always; `gate <= limit` before the activation (`Pre`) or `act(gate) <= limit` after it (`Post`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamp {
    /// The bound.
    pub limit: f64,
    /// Where the gate is bounded.
    pub place: ClampPlace,
}

/// `[shared]`: the experts that every token passes through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shared {
    /// Inner width of all the shared experts together: `count * intermediate`. Their tensors are stored side by side.
    pub intermediate: u64,
    /// How many experts that width is.
    pub count: u64,
    /// Gate, up, activation and clamp.
    pub activation: Gating,
    /// The projections have biases.
    pub bias: bool,
    /// A gate on the shared output.
    pub gate: SharedGate,
    /// How routed and shared outputs meet.
    pub combine: SharedCombine,
}

/// `[tokens]`: the batches that the package serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// More tokens than this are refused at launch.
    pub max: u64,
    /// Token counts for which the cost model optimises: ascending, distinct, each in `1..=max`.
    pub expected: Vec<u64>,
    /// The most bytes of workspace that a run takes; a batch that needs more is run in parts.
    pub workspace: Option<u64>,
    /// The layer takes an input `token_mask`, i32 `[T]`: where it is 0, the token is padding.
    pub mask: bool,
}

/// `[numerics]`: precision and reproducibility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numerics {
    /// Type of weights and activations.
    pub dtype: DType,
    /// The same bits every run.
    pub deterministic: bool,
    /// A token's bits do not depend on the other tokens of the batch.
    pub batch_invariant: bool,
    /// Products of experts in f32 may round their factors to tf32.
    pub tf32: bool,
}

/// `[host]`: what the kernels of hosts alone are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// How weights lie once they are bound.
    pub pack: Pack,
}

/// A closed set of spec words: one enum variant a word.
pub trait Word: Copy + PartialEq + 'static {
    /// Every variant, in the order of the key table.
    const ALL: &'static [Self];
    /// The word that the spec writes.
    fn word(self) -> &'static str;
}

/// Declares a fieldless enum together with the words that specs write for it, so that the two cannot drift apart.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $crate::spec::model::Word for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
            fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}
pub(super) use words;

words! {
    /// `router.score`.
    Score {
        /// `exp(l) / sum exp(l)`.
        Softmax = "softmax",
        /// `1 / (1 + exp(-l))`.
        Sigmoid = "sigmoid",
        /// `sqrt(log(1 + exp(l)))`.
        SqrtSoftplus = "sqrtsoftplus",
        /// The logit itself.
        Identity = "identity",
    }
}
words! {
    /// `router.hash_oob`.
    HashOob {
        /// The batch is refused.
        Error = "error",
        /// The token has no picks.
        Drop = "drop",
    }
}
words! {
    /// `router.order`.
    Order {
        /// Score over all experts, then select.
        ScoreTopK = "score_topk",
        /// Select on the logits, then score over the selected ones.
        TopKScore = "topk_score",
    }
}
words! {
    /// `router.select`.
    Select {
        /// The largest, ties to the lowest index.
        TopK = "topk",
        /// One after another, each with its softmax among those near it (Phi-3.5).
        SparseMixer = "sparsemixer",
    }
}
words! {
    /// `router.correction_on`, where it is not `none`.
    Correction {
        /// The bias is added to the score.
        Score = "score",
        /// The bias is added to the logit.
        Logit = "logit",
    }
}
words! {
    /// `router.group_score`.
    GroupScore {
        /// The sum of the group's two best (corrected) scores.
        Top2Sum = "top2_sum",
        /// The group's best (corrected) score.
        Max = "max",
    }
}
words! {
    /// `router.group_mask`.
    GroupMask {
        /// An expert outside the groups is never selected.
        NegativeInfinity = "-inf",
        /// An expert outside the groups scores 0.
        Zero = "zero",
    }
}
words! {
    /// `router.renorm_eps_mode`.
    EpsMode {
        /// `w / (norm + eps)`.
        Add = "add",
        /// `w / max(norm, eps)`.
        Clamp = "clamp",
    }
}
words! {
    /// `router.apply`.
    Apply {
        /// The weight multiplies the expert's output.
        Output = "output",
        /// The weight multiplies the expert's input.
        Input = "input",
    }
}
words! {
    /// `router.dtype`.
    RouterDType {
        /// Logits and scores in f32.
        F32 = "f32",
        /// Logits rounded to the model's type.
        Model = "model",
    }
}
words! {
    /// `router.norm` of soft routing.
    SoftNorm {
        /// Unit length.
        L2 = "l2",
        /// Unit root mean square.
        Rms = "rms",
        /// None.
        None = "none",
    }
}
words! {
    /// `expert.activation`.
    Activation {
        /// `x * sigmoid(alpha * x)`.
        Silu = "silu",
        /// `x * Phi(x)`, by erf.
        Gelu = "gelu",
        /// The tanh form of gelu.
        GeluTanh = "gelu_tanh",
        /// `max(x, 0)`.
        Relu = "relu",
        /// `max(x, 0)^2`.
        Relu2 = "relu2",
    }
}
words! {
    /// `expert.clamp_where`.
    ClampPlace {
        /// Before the activation.
        Pre = "pre",
        /// After it.
        Post = "post",
    }
}
words! {
    /// `shared.gate`.
    SharedGate {
        /// The shared output is added as it is.
        None = "none",
        /// It is multiplied by `sigmoid(x . w)` (tensor `shared_gate_proj`, `[1, H]`).
        Sigmoid = "sigmoid",
    }
}
words! {
    /// `shared.combine`.
    SharedCombine {
        /// `routed + shared`.
        Sum = "sum",
        /// `(routed + shared) / 2`.
        Average = "average",
    }
}
words! {
    /// `training.aux_loss`.
    AuxLoss {
        /// `E sum f P` over all picks.
        Switch = "switch",
        /// The same.
        Mixtral = "mixtral",
        /// `E sum f P` over first picks.
        Gshard = "gshard",
        /// `E sum f P / K`.
        DeepspeedTopk = "deepspeed_topk",
        /// The same.
        Megatron = "megatron",
        /// The same.
        Megablocks = "megablocks",
        /// The same within each sequence, averaged.
        DeepseekSequence = "deepseek_sequence",
        /// The squared coefficient of variation of the summed probabilities.
        Importance = "importance",
    }
}
words! {
    /// `training.aux_group`.
    #[derive(Default)]
    AuxGroup {
        /// The whole batch.
        #[default]
        All = "all",
        /// Each sequence; the mean over them.
        Sequence = "sequence",
    }
}
words! {
    /// `host.pack`.
    Pack {
        /// As the caller has them.
        None = "none",
        /// In panels of columns.
        Panels = "panels",
        /// In such panels, as f32.
        F32 = "f32",
    }
}
words! {
    /// `numerics.dtype`.
    DType {
        /// IEEE single.
        F32 = "f32",
        /// IEEE half.
        F16 = "f16",
        /// bfloat16.
        Bf16 = "bf16",
    }
}
