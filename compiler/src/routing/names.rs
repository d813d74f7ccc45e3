//! What the names of tensors say: their order, whether a pattern means them, and of which layer they are.

/// A part of a name, so that `layer.2` comes before `layer.10`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part<'n> {
    /// By its number of digits without leading zeros, then by them: numbers of any length.
    Number(usize, &'n str),
    Text(&'n str),
}

/// A name as its parts; names that differ in leading zeros alone are told apart by the whole.
pub(super) fn natural(name: &str) -> (Vec<Part<'_>>, &str) {
    let parts = pieces(name).map(|(piece, is_number)| match is_number {
        true => {
            let digits = piece.trim_start_matches('0');
            Part::Number(digits.len(), digits)
        }
        false => Part::Text(piece),
    });
    (parts.collect(), name)
}

/// Runs of digits, and what is between them.
fn pieces(name: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let is_number = rest.chars().next()?.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != is_number).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some((piece, is_number))
    })
}

/// Whether a name is one that the pattern means; `*` stands for any text, the empty one too.
pub(super) fn is_match(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(start) else { return false };
    let parts: Vec<&str> = rest.split('*').collect();
    let (last, between) = parts.split_last().unwrap_or((&"", &[]));
    for part in between {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

/// How the layer of a tensor is found in its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LayerRule {
    /// By the words that stand before numbers: `layers.3`, `block_3`, `router_logits.3`.
    #[default]
    Words,
    /// All tensors are of one layer.
    One,
    /// By a pattern with `{N}` in the number's place, and `*` for anything.
    Pattern(String),
}

impl LayerRule {
    /// Reads `none`, or a pattern; one without `{N}` has the number where its first `*` is.
    ///
    /// # Errors
    /// The pattern has no place for a number, or several.
    pub fn parse(text: &str) -> Result<LayerRule, String> {
        if text == "none" {
            return Ok(LayerRule::One);
        }
        let pattern = if text.contains("{N}") { text.to_string() } else { text.replacen('*', "{N}", 1) };
        match pattern.matches("{N}").count() {
            1 => Ok(LayerRule::Pattern(pattern)),
            0 => Err(format!("`{text}` has no place for the layer's number: `{{N}}`, as in `layers.{{N}}.*`")),
            _ => Err(format!("`{text}` has several places for the layer's number")),
        }
    }
}

/// What a name says about its layer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LayerName {
    /// The name with `{N}` in the layer's place and `*` in that of every other number.
    pub(super) frame: String,
    /// The layer; `None`: the name says none.
    pub(super) number: Option<u64>,
}

/// Words before the number of a layer. Those of the first row are looked for first: of `block.1.layer.0` it is 1.
const LAYER_WORDS: [&[&str]; 2] =
    [&["layer", "layers", "block", "blocks", "h"], &["router_logits", "router", "routers", "gate", "gates", "mlp", "moe"]];
/// Words before the number of something else.
const OTHER_WORDS: [&str; 16] = [
    "batch",
    "batches",
    "step",
    "steps",
    "iter",
    "iteration",
    "microbatch",
    "chunk",
    "part",
    "rank",
    "epoch",
    "sample",
    "seq",
    "sequence",
    "prompt",
    "shard",
];

impl LayerName {
    /// By the words in it.
    pub(super) fn by_words(name: &str) -> LayerName {
        let pieces: Vec<(&str, bool)> = pieces(name).collect();
        let is_after =
            |words: &[&str], at: usize| at > 0 && pieces[at].1 && words.iter().any(|word| ends_in(pieces[at - 1].0, word));
        let found = LAYER_WORDS.iter().find_map(|words| (0..pieces.len()).find(|at| is_after(words, *at)));
        let number = found.and_then(|at| pieces[at].0.parse().ok());
        let frame = pieces.iter().enumerate().map(|(at, (piece, is_number))| match is_number {
            true if number.is_some() && found == Some(at) => "{N}",
            true => "*",
            false => piece,
        });
        LayerName { frame: frame.collect(), number }
    }

    /// By a pattern; `None`: the name is another.
    pub(super) fn by_pattern(pattern: &str, name: &str) -> Option<LayerName> {
        let (before, after) = pattern.split_once("{N}")?;
        // The longest number, and of several the first.
        let numbers = pieces(name).scan(0, |at, (piece, is_number)| {
            *at += piece.len();
            Some((*at - piece.len(), piece, is_number))
        });
        numbers.filter(|(_, _, is_number)| *is_number).find_map(|(at, digits, _)| {
            let is_it = is_match(before, &name[..at]) && is_match(after, &name[at + digits.len()..]);
            let number = digits.parse().ok().filter(|_| is_it)?;
            Some(LayerName { frame: pattern.to_string(), number: Some(number) })
        })
    }

    /// What the layer is called: its number where all names have one frame, else the name.
    pub(super) fn label(&self, is_alone: bool) -> String {
        match self.number {
            Some(number) if is_alone => number.to_string(),
            Some(number) => self.frame.replace("{N}", &number.to_string()),
            None => self.frame.clone(),
        }
    }
}

/// Whether the last words before a number are these: `moe_layer_` ends in `layer`, and `player` does not.
fn ends_in(text: &str, word: &str) -> bool {
    let text = text.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).to_ascii_lowercase();
    text.strip_suffix(word).is_some_and(|before| !before.ends_with(|c: char| c.is_ascii_alphanumeric()))
}

/// Whether a number in the name may be that of a layer, for all that its words say.
pub(super) fn is_numbered(name: &str) -> bool {
    let pieces: Vec<(&str, bool)> = pieces(name).collect();
    let is_other = |at: usize| at > 0 && OTHER_WORDS.iter().any(|word| ends_in(pieces[at - 1].0, word));
    (0..pieces.len()).any(|at| pieces[at].1 && !is_other(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_natural_order() {
        let mut names = ["layer.10.x", "layer.2.x", "a", "layer.02.x", "layer.2", "10", "9"];
        names.sort_by(|a, b| natural(a).cmp(&natural(b)));
        assert_eq!(names, ["9", "10", "a", "layer.2", "layer.02.x", "layer.2.x", "layer.10.x"]);
    }

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*", "", true),
            ("*gate*", "layers.3.gate.logits", true),
            ("layers.*.gate", "layers.3.gate", true),
            ("layers.*.gate", "layers.3.gate.bias", false),
            ("a*a", "a", false),
            ("a**b", "a.b", true),
        ] {
            assert_eq!(is_match(pattern, name), expected, "{pattern} {name}");
        }
    }

    /// Names as transformers, Megatron, T5X and people have them.
    #[test]
    fn layers_by_words() {
        for (name, frame, number) in [
            ("layer0.step_000", "layer{N}.step_*", Some(0)),
            ("layer_12", "layer_{N}", Some(12)),
            ("model.layers.3.mlp.gate", "model.layers.{N}.mlp.gate", Some(3)),
            ("decoder.layers.07.mlp.router", "decoder.layers.{N}.mlp.router", Some(7)),
            ("encoder.block.1.layer.2.mlp", "encoder.block.{N}.layer.*.mlp", Some(1)),
            ("transformer.h.5.ffn", "transformer.h.{N}.ffn", Some(5)),
            ("router_logits.3", "router_logits.{N}", Some(3)),
            ("router_logits_3", "router_logits_{N}", Some(3)),
            ("step_2.layers[4]", "step_*.layers[{N}]", Some(4)),
            ("Layer-4", "Layer-{N}", Some(4)),
            ("player.4", "player.*", None),
            ("batch.9", "batch.*", None),
            ("9", "*", None),
            ("logits", "logits", None),
            ("layer99999999999999999999", "layer*", None),
        ] {
            assert_eq!(LayerName::by_words(name), LayerName { frame: frame.into(), number }, "{name}");
        }
        let maybe = ["9", "logits.3", "x.step_1", "batch_4", "b.10"].map(is_numbered);
        assert_eq!(maybe, [true, true, false, false, true]);
    }

    #[test]
    fn layers_by_a_pattern() {
        let number = |pattern: &str, name: &str| match LayerRule::parse(pattern).unwrap() {
            LayerRule::Pattern(pattern) => LayerName::by_pattern(&pattern, name).and_then(|name| name.number),
            LayerRule::Words | LayerRule::One => None,
        };
        assert_eq!(number("x{N}.*", "x12.batch3"), Some(12));
        assert_eq!(number("*.{N}", "a.1.2"), Some(2));
        assert_eq!(number("logits.*", "logits.7"), Some(7));
        assert_eq!(number("b*.s*", "b3.s4"), Some(3));
        assert_eq!(number("logits.{N}", "logits.7.x"), None);
        assert_eq!(number("logits.{N}", "logits.x"), None);
        assert!(LayerRule::parse("x").is_err() && LayerRule::parse("{N}{N}").is_err());
        assert_eq!(LayerRule::parse("none"), Ok(LayerRule::One));
    }
}
