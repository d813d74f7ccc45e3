//! Published configs under short names. Where each one's values come from is in its `_source`.

use super::{Block, import};
use crate::diagnostics::{Code, Diagnostic, Report, Source, nearest, quote};

macro_rules! presets {
    ($($name:literal,)+) => {
        &[$(($name, include_str!(concat!("../../presets/", $name, ".json"))),)+]
    };
}

const PRESETS: &[(&str, &str)] = presets![
    "dbrx",
    "deepseek-v2",
    "deepseek-v2-lite",
    "deepseek-v3",
    "ernie-4.5-21b-a3b",
    "glm-4.5",
    "glm-4.5-air",
    "gpt-oss-120b",
    "gpt-oss-20b",
    "granite-3.1-3b-a800m",
    "jamba-v0.1",
    "kimi-k2",
    "llama4-maverick",
    "llama4-scout",
    "mixtral-8x22b",
    "mixtral-8x7b",
    "olmoe-1b-7b",
    "phi-3.5-moe",
    "qwen1.5-moe-a2.7b",
    "qwen3-235b-a22b",
    "qwen3-30b-a3b",
    "qwen3-next-80b-a3b",
    "switch-base-8",
];

/// The names, in order.
pub fn presets() -> impl Iterator<Item = &'static str> + Clone {
    PRESETS.iter().map(|(name, _)| *name)
}

/// A layer of the preset.
///
/// # Errors
/// There is no such preset, with the nearest name; or [`import`] refuses `layer`.
pub fn preset(name: &str, layer: Option<u64>) -> Result<Block, Report> {
    let Some((name, text)) = PRESETS.iter().find(|(preset, _)| *preset == name) else {
        let diagnostic = Diagnostic::new(Code::UnknownPreset, format!("there is no preset {}", quote(name)));
        let all = "`--preset list` prints all of them";
        return Err(Report::from(match nearest(name, presets()) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`? {all}")),
            None => diagnostic.help(all),
        }));
    };
    let source = Source { name: format!("{name}.json"), text: (*text).to_string() };
    match import(&source, layer) {
        Ok(block) => Ok(block),
        Err(diagnostic) => Err(Report { source, diagnostics: vec![diagnostic] }),
    }
}
