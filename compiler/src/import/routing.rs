//! From tokens to the picks of each token and their weights.

use egg::Id;
use moec_ir::DType;
use moec_ir::graph::{self, Attr, Dim, Eps, Op, Pointwise, Type};

use super::{CORRECTION_BIAS, Layer};
use crate::spec::{
    Correction, EpsMode, GroupMask, GroupScore, HashOob, Mode, Norm, Order, Priority, Renorm, RouterDType, Score, Select, Spec,
    Tensor,
};

impl Layer<'_> {
    /// From `x` `[T, H]` to the logits `[T, R]`: the router's products, with its bias.
    pub(super) fn logits(&mut self, x: Id) -> Id {
        let columns = self.spec.columns();
        let x = self.router_input(x);
        let w = self.weight(Tensor::Router, &[columns, self.spec.hidden]);
        let mut logits = self.g.gemm(x, w);
        if self.spec.router.bias {
            let bias = self.weight(Tensor::RouterBias, &[columns]);
            logits = self.g.apply(Pointwise::Add, &[logits, bias]);
        }
        logits
    }

    /// The logits `[T, R]` as scores are made of them: rounded, scaled and capped.
    pub(super) fn scaled(&mut self, mut logits: Id) -> Id {
        let router = &self.spec.router;
        if router.dtype == RouterDType::Model {
            let rounded = self.cast(logits);
            logits = self.g.apply_attr(Pointwise::Cast, &[rounded], Attr::DType(DType::F32));
        }
        logits = self.constant(Pointwise::Scale, logits, router.logit_scale);
        match router.logit_softcap {
            Some(cap) => self.softcapped(logits, cap),
            None => logits,
        }
    }

    /// From these to the picks of each token.
    pub(super) fn picks(&mut self, logits: Id) -> Id {
        let router = &self.spec.router;
        let scores = match router.order {
            Order::ScoreTopK => self.score(logits),
            Order::TopKScore => logits,
        };
        if router.mode == Mode::ExpertChoice {
            // A positive factor changes no choice.
            let scores = self.constant(Pointwise::Scale, scores, router.scale);
            let picks = self.g.apply(Op::AllExperts, &[scores]);
            return self.masked(picks);
        }
        let (joint, all_logits) = (scores, logits);
        let [scores, logits] = [scores, logits].map(|of| self.competing(of));
        let mut keys = scores;
        if let Some(correction) = router.correction {
            let bias = self.correction_bias();
            let corrected = match correction {
                Correction::Score => scores,
                Correction::Logit => logits,
            };
            keys = self.g.apply(Pointwise::Add, &[corrected, bias]);
        }
        if let Some(groups) = router.groups {
            let groups = graph::Groups {
                groups: groups.count,
                keep: groups.top,
                score: match groups.score {
                    GroupScore::Top2Sum => graph::GroupScore::Top2Sum,
                    GroupScore::Max => graph::GroupScore::Max,
                },
                mask: match groups.mask {
                    GroupMask::NegativeInfinity => graph::GroupMask::NegInf,
                    GroupMask::Zero => graph::GroupMask::Zero,
                },
            };
            keys = self.g.apply_attr(Op::GroupLimit, &[keys], Attr::Groups(groups));
        }
        let mut picks = match (router.mode, router.select) {
            (Mode::Hash, _) => self.hash_picks(scores),
            (_, Select::TopK) => self.g.apply_attr(Op::TopK, &[scores, keys], Attr::Num(router.top_k)),
            (_, Select::SparseMixer) => {
                let jitter = self.g.add(graph::Node::Attr(Attr::Real(router.jitter.into())));
                self.g.apply_attr(Op::SparseMixer, &[logits, jitter], Attr::Num(router.top_k))
            }
        };
        if router.joint_shared > 0 {
            picks = self.g.apply_attr(Op::Joint, &[picks, joint], Attr::Num(router.joint_shared));
        }
        if router.order == Order::TopKScore {
            picks = self.score(picks);
        }
        if router.identity_experts > 0 {
            picks = self.g.apply_attr(Op::WithoutRows, &[picks], Attr::Num(router.identity_experts));
        }
        picks = self.ranked(all_logits, picks);
        if renorms_kept(self.spec) {
            return self.observed(logits, picks); // Renormalised when it is known what is kept, and only then scaled.
        }
        // Joint weights are shares of their sum, whether or not a key says so.
        let share = Renorm { norm: Norm::Sum, eps: 0.0, eps_mode: EpsMode::Add };
        if let Some(renorm) = router.renorm.or((router.joint_shared > 0).then_some(share)) {
            picks = self.g.apply_attr(Op::Renorm, &[picks], Attr::Renorm(renorm_rule(renorm)));
        }
        picks = self.constant(Pointwise::Scale, picks, router.scale);
        picks = self.expert_scale(picks);
        self.observed(logits, picks)
    }

    /// The picks, with what decides which token is served first where that is its best score: of the columns of all experts,
    /// shared ones too, as it is before any selection, renormalisation or scale. So a softmax over the selected logits alone
    /// serves tokens as the same layer does that is written as a softmax over all, renormalised.
    fn ranked(&mut self, logits: Id, picks: Id) -> Id {
        let Some(Priority::BatchPrioritized) = self.spec.capacity.map(|capacity| capacity.priority) else { return picks };
        let scores = self.score(logits);
        // The joint picks are every token's, and no claim to an expert.
        self.g.apply_attr(Op::BestScore, &[picks, scores], Attr::Num(self.spec.router.top_k))
    }

    /// The weights of picks or of a routing times what the checkpoint has for all experts and for each, if it has that.
    fn expert_scale(&mut self, mut weights: Id) -> Id {
        for (tensor, len) in [(Tensor::RouterGlobalScale, 1), (Tensor::PerExpertScale, self.spec.candidates())] {
            if self.spec.weight(tensor).is_some() {
                let scale = self.weight(tensor, &[len]);
                weights = self.g.apply(Op::ExpertScale, &[weights, scale]);
            }
        }
        weights
    }

    /// Of a row of the router the columns of the experts that compete.
    fn competing(&mut self, row: Id) -> Id {
        match self.spec.router.joint_shared {
            0 => row,
            _ => self.g.apply_attr(Op::Leading, &[row], Attr::Num(self.spec.candidates())),
        }
    }

    /// The experts that the table has for each token's id.
    fn hash_picks(&mut self, scores: Id) -> Id {
        // Without a vocabulary the table has no rows, which no graph may have.
        let vocabulary = self.spec.router.vocabulary.unwrap_or(0);
        let shape = [vocabulary, self.spec.router.top_k].map(Dim::Const);
        let table = self.g.param("@hash_table", Type::tensor(&shape, DType::I32));
        let ids = self.g.param("%token_ids", Type::tensor(&[Dim::Tokens], DType::I32));
        if self.spec.router.hash_oob == HashOob::Drop {
            let vocabulary = self.g.add(graph::Node::Attr(Attr::Num(vocabulary)));
            let of_tokens: Vec<Id> = [ids, vocabulary].into_iter().chain(self.mask).collect();
            self.picking = Some(self.g.apply(Op::Within, &of_tokens));
        }
        self.g.apply(Op::HashPicks, &[scores, table, ids])
    }

    /// Logits, of all experts or of the picked ones, to scores.
    pub(super) fn score(&mut self, logits: Id) -> Id {
        match self.spec.router.score {
            Score::Softmax => self.g.apply(Op::Softmax, &[logits]),
            Score::Sigmoid => self.g.apply(Pointwise::Sigmoid, &[logits]),
            Score::Identity => logits,
            Score::SqrtSoftplus => self.g.apply(Pointwise::SqrtSoftplus, &[logits]),
        }
    }

    /// What the router sees of `x`.
    fn router_input(&mut self, x: Id) -> Id {
        let seen = self.normed(x);
        let Some(jitter) = self.spec.training.jitter else { return seen };
        let seed = self.g.param("%seed", Type::tensor(&[Dim::Const(2)], DType::I32));
        self.g.apply_attr(Op::Jitter, &[seen, seed], Attr::Real(jitter.into()))
    }

    fn normed(&mut self, x: Id) -> Id {
        let Some(norm) = self.spec.router.input_norm else { return x };
        let mut y = self.g.rms_norm(x, norm.eps);
        y = self.constant(Pointwise::Scale, y, norm.scale);
        if self.spec.weight(Tensor::RouterInputScale).is_some() {
            let scale = self.weight(Tensor::RouterInputScale, &[self.spec.hidden]);
            y = self.g.apply(Pointwise::Mul, &[y, scale]);
        }
        self.cast(y)
    }

    /// The pairs under the weights that are made of those that were kept, where there are such.
    pub(super) fn weighted(&mut self, routing: Id) -> Id {
        match self.spec.router.renorm {
            Some(renorm) if renorms_kept(self.spec) => {
                let kept = self.g.apply_attr(Op::RenormKept, &[routing], Attr::Renorm(renorm_rule(renorm)));
                self.expert_scale(kept)
            }
            // By the scores alone it is chosen: an expert's factor may be negative.
            Some(_) | None if self.spec.router.mode == Mode::ExpertChoice => self.expert_scale(routing),
            Some(_) | None => routing,
        }
    }

    /// The weights of the shared experts, `[T, n]`, where they are normalised together with the routed ones.
    pub(super) fn joint_weights(&mut self, routing: Id) -> Option<Id> {
        let router = &self.spec.router;
        (router.joint_shared > 0).then(|| self.g.apply_attr(Op::PickWeights, &[routing], Attr::Num(router.top_k)))
    }

    /// f32 whatever the layer's type: checkpoints keep it so, and a rounded bias picks other experts.
    pub(super) fn correction_bias(&mut self) -> Id {
        self.g.param(CORRECTION_BIAS, Type::tensor(&[Dim::Const(self.spec.candidates())], DType::F32))
    }
}

/// Whether weights are renormalised over what was kept, not over all picks.
pub(super) fn renorms_kept(spec: &Spec) -> bool {
    spec.router.renorm.is_some() && spec.capacity.is_some_and(|capacity| capacity.renorm_after_drop)
}

fn renorm_rule(Renorm { norm, eps, eps_mode }: Renorm) -> graph::Renorm {
    let norm = match norm {
        Norm::Sum => graph::Norm::Sum,
        Norm::P(p) => graph::Norm::P(p.into()),
    };
    let mode = match eps_mode {
        EpsMode::Add => Eps::Add,
        EpsMode::Clamp => Eps::Clamp,
    };
    graph::Renorm { norm, mode, eps: eps.into() }
}
