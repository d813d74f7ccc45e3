//! Generates by Mixtral at toy size, with candle-transformers' MoE block and with one that moec compiled: the tokens are the same.

mod model;
mod moe;

include!(concat!(env!("OUT_DIR"), "/block.rs"));

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::mixtral;
use model::{Config, Model};

const NEW_TOKENS: usize = 16;
const PROMPTS: [[u32; 4]; 4] = [[3, 14, 15, 92], [27, 18, 28, 1], [1, 41, 42, 13], [57, 72, 15, 66]];
const CONFIG: Config =
    Config { vocabulary: 128, hidden: 64, layers: 3, heads: 4, kv_heads: 2, eps: 1e-5, theta: 1e6, max_tokens: 64 };

/// Pseudo-random weights of the whole model, by the names of Mixtral's checkpoints.
fn weights(device: &Device) -> candle_core::Result<HashMap<String, Tensor>> {
    let Config { vocabulary, hidden, layers, heads, kv_heads, .. } = CONFIG;
    let kv = hidden / heads * kv_heads;
    let mut shapes = vec![
        ("model.embed_tokens".to_string(), vec![vocabulary, hidden]),
        ("model.norm".to_string(), vec![hidden]),
        ("lm_head".to_string(), vec![vocabulary, hidden]),
    ];
    for layer in 0..layers {
        let mut add = |name: &str, shape: &[usize]| shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        add("input_layernorm", &[hidden]);
        add("post_attention_layernorm", &[hidden]);
        for (name, rows) in [("q_proj", hidden), ("k_proj", kv), ("v_proj", kv), ("o_proj", hidden)] {
            add(&format!("self_attn.{name}"), &[rows, hidden]);
        }
        add("block_sparse_moe.gate", &[8, hidden]);
        for expert in 0..8 {
            for (name, shape) in [("w1", [96, hidden]), ("w2", [hidden, 96]), ("w3", [96, hidden])] {
                add(&format!("block_sparse_moe.experts.{expert}.{name}"), &shape);
            }
        }
    }
    // Knuth's MMIX, of which the high bits are used.
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    };
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let scale = if shape.len() == 1 { 1.0 } else { 3.0 / (*shape.last().unwrap_or(&1) as f32).sqrt() };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random() * scale).collect();
        Ok((format!("{name}.weight"), Tensor::from_vec(values, shape, device)?))
    };
    shapes.into_iter().map(tensor).collect()
}

/// What a model adds greedily to a prompt, and the logits of each step.
fn generate(
    prompt: &[u32],
    mut forward: impl FnMut(&Tensor, usize) -> candle_core::Result<Tensor>,
) -> candle_core::Result<(Vec<u32>, Vec<f32>)> {
    let (mut tokens, mut logits, mut before) = (prompt.to_vec(), Vec::new(), 0);
    for _ in 0..NEW_TOKENS {
        let input = Tensor::new(&tokens[before..], &Device::Cpu)?.unsqueeze(0)?;
        let step = forward(&input, before)?.flatten_all()?;
        before = tokens.len();
        tokens.push(step.argmax(0)?.to_scalar::<u32>()?);
        logits.extend(step.to_vec1::<f32>()?);
    }
    Ok((tokens.split_off(prompt.len()), logits))
}

fn main() -> Result<(), Box<dyn Error>> {
    let vb = VarBuilder::from_tensors(weights(&Device::Cpu)?, DType::F32, &Device::Cpu);
    let config: mixtral::Config = serde_json::from_value(serde_json::json!({
        "vocab_size": CONFIG.vocabulary, "hidden_size": CONFIG.hidden, "intermediate_size": 96, "num_hidden_layers": CONFIG.layers,
        "num_attention_heads": CONFIG.heads, "num_key_value_heads": CONFIG.kv_heads, "hidden_act": "silu",
        "max_position_embeddings": CONFIG.max_tokens, "rms_norm_eps": CONFIG.eps, "rope_theta": CONFIG.theta, "sliding_window": 4096,
        "num_experts_per_tok": 2, "num_local_experts": 8, "use_flash_attn": false
    }))?;
    let layer = Arc::new(block::Layer::host(0)?);
    for prompt in PROMPTS {
        // A model keeps what came before, so that each prompt has one of its own.
        let mut theirs = mixtral::Model::new(&config, vb.clone())?;
        let mut ours = Model::new(CONFIG, &layer, vb.clone())?;
        let (expected, expected_logits) = generate(&prompt, |tokens, before| theirs.forward(tokens, before))?;
        let (tokens, logits) = generate(&prompt, |tokens, before| ours.forward(tokens, before))?;
        println!("candle-transformers: {expected:?}\nwith moec:           {tokens:?}");
        let largest = expected_logits.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
        let pairs = || logits.iter().zip(&expected_logits);
        let error = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("largest difference of logits {:.1e} of the largest logit, on {}", error / largest, layer.target());
        let is_near = pairs().all(|(a, b)| (a - b).abs() <= 1e-4 * largest);
        if tokens != expected || !is_near || logits.len() != expected_logits.len() {
            return Err("the models differ".into());
        }
    }
    Ok(())
}
