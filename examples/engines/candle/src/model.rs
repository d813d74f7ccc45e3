//! Mixtral with a block of one's own: candle-transformers keeps the parts of its model private.

use std::sync::Arc;

use candle_core::{Module, Result, Tensor};
use candle_nn::rotary_emb::rope;
use candle_nn::{Embedding, Linear, RmsNorm, VarBuilder, embedding, linear_no_bias, ops, rms_norm};
use candle_transformers::utils::repeat_kv;

use crate::block::Layer;
use crate::moe::Moe;

/// As in config.json.
#[derive(Clone, Copy)]
pub struct Config {
    pub vocabulary: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub eps: f64,
    pub theta: f32,
    pub max_tokens: usize,
}

/// Attention of grouped queries with rotary positions, which keeps keys and values of what came before.
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    config: Config,
    cache: Option<(Tensor, Tensor)>,
}

impl Attention {
    fn new(config: Config, vb: VarBuilder) -> Result<Attention> {
        let (hidden, kv) = (config.hidden, config.hidden / config.heads * config.kv_heads);
        Ok(Attention {
            q: linear_no_bias(hidden, hidden, vb.pp("q_proj"))?,
            k: linear_no_bias(hidden, kv, vb.pp("k_proj"))?,
            v: linear_no_bias(hidden, kv, vb.pp("v_proj"))?,
            o: linear_no_bias(hidden, hidden, vb.pp("o_proj"))?,
            config,
            cache: None,
        })
    }

    /// `xs` is `[1, S, hidden]`; `cos` and `sin` are of its positions.
    fn forward(&mut self, xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let Config { hidden, heads, kv_heads, .. } = self.config;
        let (_, length, _) = xs.dims3()?;
        let split = |of: &Linear, heads: usize| of.forward(xs)?.reshape((1, length, heads, ()))?.transpose(1, 2)?.contiguous();
        let q = rope(&split(&self.q, heads)?, cos, sin)?;
        let (mut k, mut v) = (rope(&split(&self.k, kv_heads)?, cos, sin)?, split(&self.v, kv_heads)?);
        if let Some((before_k, before_v)) = &self.cache {
            (k, v) = (Tensor::cat(&[before_k, &k], 2)?, Tensor::cat(&[before_v, &v], 2)?);
        }
        self.cache = Some((k.clone(), v.clone()));
        let (k, v) = (repeat_kv(k, heads / kv_heads)?, repeat_kv(v, heads / kv_heads)?);
        let scores = (q.matmul(&k.t()?)? / ((hidden / heads) as f64).sqrt())?;
        let before = k.dim(2)? - length;
        let sees =
            (0..length).flat_map(|i| (0..before + length).map(move |j| if j <= before + i { 0.0 } else { f32::NEG_INFINITY }));
        let mask = Tensor::from_vec(sees.collect::<Vec<f32>>(), (length, before + length), xs.device())?;
        let weights = ops::softmax_last_dim(&scores.broadcast_add(&mask)?)?;
        self.o.forward(&weights.matmul(&v)?.transpose(1, 2)?.reshape((1, length, hidden))?)
    }
}

struct Decoder {
    attention: Attention,
    moe: Moe,
    before_attention: RmsNorm,
    before_moe: RmsNorm,
}

/// The model.
pub struct Model {
    tokens: Embedding,
    decoders: Vec<Decoder>,
    norm: RmsNorm,
    head: Linear,
    cos: Tensor,
    sin: Tensor,
}

impl Model {
    /// The names of tensors are those of Mixtral's checkpoints.
    pub fn new(config: Config, layer: &Arc<Layer>, vb: VarBuilder) -> Result<Model> {
        let Config { vocabulary, hidden, heads, eps, theta, max_tokens, .. } = config;
        let model = vb.pp("model");
        let decoder = |index: usize| {
            let vb = model.pp("layers").pp(index);
            Ok(Decoder {
                attention: Attention::new(config, vb.pp("self_attn"))?,
                moe: Moe::new(layer.clone(), max_tokens, vb.pp("block_sparse_moe"))?,
                before_attention: rms_norm(hidden, eps, vb.pp("input_layernorm"))?,
                before_moe: rms_norm(hidden, eps, vb.pp("post_attention_layernorm"))?,
            })
        };
        let dim = hidden / heads;
        let frequencies: Vec<f32> = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f32 / dim as f32)).collect();
        let positions: Vec<f32> = (0..max_tokens).map(|position| position as f32).collect();
        let angles = Tensor::from_vec(positions, (max_tokens, 1), vb.device())?.matmul(&Tensor::from_vec(
            frequencies,
            (1, dim / 2),
            vb.device(),
        )?)?;
        Ok(Model {
            tokens: embedding(vocabulary, hidden, model.pp("embed_tokens"))?,
            decoders: (0..config.layers).map(decoder).collect::<Result<Vec<Decoder>>>()?,
            norm: rms_norm(hidden, eps, model.pp("norm"))?,
            head: linear_no_bias(hidden, vocabulary, vb.pp("lm_head"))?,
            cos: angles.cos()?,
            sin: angles.sin()?,
        })
    }

    /// Logits of the last of these tokens, `[1, S]`, which stand behind `before` others.
    pub fn forward(&mut self, tokens: &Tensor, before: usize) -> Result<Tensor> {
        let length = tokens.dim(1)?;
        let (cos, sin) = (self.cos.narrow(0, before, length)?, self.sin.narrow(0, before, length)?);
        let mut xs = self.tokens.forward(tokens)?;
        for decoder in &mut self.decoders {
            xs = (&xs + decoder.attention.forward(&decoder.before_attention.forward(&xs)?, &cos, &sin)?)?;
            xs = (&xs + decoder.moe.forward(&decoder.before_moe.forward(&xs)?)?)?;
        }
        self.head.forward(&self.norm.forward(&xs.narrow(1, length - 1, 1)?)?)
    }
}
