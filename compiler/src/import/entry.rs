//! Entries: which part of a layer a package computes, for engines that do the rest.

use thiserror::Error;

use crate::spec::{Blamed, Dropped, Mode, Spec, Tensor};

/// A part of a layer that is compiled by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entry {
    /// All of it: `%x` to `y`.
    #[default]
    Layer,
    /// Its routed experts, after a routing that the caller has: `%x`, `%topk_ids` and `%topk_weights` to `y`.
    Experts {
        /// So many of the experts are here, and `%expert_map` says which; `None`: all.
        local: Option<u64>,
    },
    /// Its router alone: `%x` to `topk_ids` and `topk_weights`.
    Router,
}

/// Why a layer has no such entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Its routing gives tokens no picks, which the entry takes or gives.
    #[error("`--entry {entry}` needs picks of each token, which router.mode = \"{mode}\" does not make")]
    NoPicks {
        /// The entry's word.
        entry: &'static str,
        /// The mode's word.
        mode: &'static str,
    },
    /// No expert is here, or more than there are.
    #[error("`--local-experts {local}` is none of 1 to the {experts} experts of the layer")]
    Local {
        /// What was asked for.
        local: u64,
        /// What there is.
        experts: u64,
    },
}

impl EntryError {
    /// The keys that it is about.
    pub(crate) fn keys(self) -> &'static [Blamed] {
        match self {
            EntryError::NoPicks { .. } => &[("router.mode", "no token has picks of its own")],
            EntryError::Local { .. } => &[("moe.experts", "the experts of all devices")],
        }
    }

    /// What to do about it.
    pub(crate) fn help(self) -> &'static str {
        match self {
            EntryError::NoPicks { .. } => {
                "`--entry layer` compiles every mode; `experts` and `router` are for router.mode = \"token_choice\" and \"hash\""
            }
            EntryError::Local { .. } => "say how many experts one device has; leave `--local-experts` out where it has all",
        }
    }
}

impl Entry {
    /// The word of the command line and of manifests.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Entry::Layer => "layer",
            Entry::Experts { .. } => "experts",
            Entry::Router => "router",
        }
    }

    /// What the package is called: entries of one layer have different names, so that a program can have them all.
    #[must_use]
    pub fn name(self, spec: &Spec) -> String {
        match self {
            Entry::Layer => spec.name.clone(),
            Entry::Experts { .. } | Entry::Router => format!("{}-{}", spec.name, self.word()),
        }
    }

    /// Whether the layer has it.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn check(self, spec: &Spec) -> Result<(), EntryError> {
        let without_picks = match spec.router.mode {
            Mode::TokenChoice | Mode::Hash => None,
            Mode::ExpertChoice => Some("expert_choice"),
            Mode::Soft(_) => Some("soft"),
        };
        match (self, without_picks) {
            (Entry::Layer, _) => Ok(()),
            (Entry::Experts { .. } | Entry::Router, Some(mode)) => Err(EntryError::NoPicks { entry: self.word(), mode }),
            (Entry::Experts { local: Some(local) }, None) if !(1..=spec.experts).contains(&local) => {
                Err(EntryError::Local { local, experts: spec.experts })
            }
            (Entry::Experts { .. } | Entry::Router, None) => Ok(()),
        }
    }

    /// How many experts have their weights here.
    pub(crate) fn experts(self, spec: &Spec) -> u64 {
        match self {
            Entry::Experts { local: Some(local) } => local,
            Entry::Experts { local: None } | Entry::Layer | Entry::Router => spec.experts,
        }
    }

    /// The columns of its `%x`: what the experts see is narrower than the layer's tokens where they work on a projection of these.
    pub(crate) fn width(self, spec: &Spec) -> u64 {
        match self {
            Entry::Experts { .. } => spec.expert.latent.unwrap_or(spec.hidden),
            Entry::Layer | Entry::Router => spec.hidden,
        }
    }

    /// What the layer does with the tokens and with the sum of the routed experts that the entry leaves to its caller, by the keys
    /// that ask for it.
    pub(crate) fn left_out(self, spec: &Spec) -> Vec<Blamed> {
        let drops_to_input = spec.capacity.is_some_and(|capacity| capacity.dropped == Dropped::Input);
        let parts: [(bool, Blamed); 7] = [
            (spec.shared.is_some(), ("shared.intermediate", "shared experts")),
            (spec.expert.latent.is_some(), ("expert.latent", "the projections around the experts")),
            (spec.router.identity_experts > 0, ("router.identity_experts", "identity experts")),
            (drops_to_input, ("capacity.dropped", "the input of dropped pairs")),
            (spec.weight(Tensor::OutputBias).is_some(), ("weights.output_bias", "the bias of the sum")),
            (spec.routed_output_scale != 1.0, ("moe.routed_output_scale", "the scale of the sum")),
            (spec.output_norm.is_some(), ("moe.output_norm", "the norm of the output")),
        ];
        match self {
            Entry::Experts { .. } => parts.into_iter().filter(|(has, _)| *has).map(|(_, part)| part).collect(),
            Entry::Layer | Entry::Router => Vec::new(),
        }
    }
}
