//! What a layer says of itself beside what it computes, for people, engines and statistics. No value depends on it.

use std::fmt;

use crate::Extent;

/// The sizes of a layer by name, and how its routing is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `hidden`, `intermediate`, `experts`, ...
    pub sizes: Vec<(String, u64)>,
    /// Of a layer that routes tokens.
    pub routing: RoutingFacts,
}

/// What cannot be read off a routing, though its statistics depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingFacts {
    /// How many of a token's picks, its last ones, are shared experts that every token has.
    pub joint_shared: u64,
    /// Whether a bias has a part in the selection that it has not in the weights.
    pub corrected: bool,
    /// Whether groups of experts limit the selection.
    pub grouped: bool,
    /// An expert's capacity over the mean load, as numerator and denominator; at least 1.
    pub capacity_factor: Option<[u64; 2]>,
    /// Rows that a framework allocates which pads every expert's buffer to its capacity, where the layer is meant for such a one.
    pub rows_at_capacity: Option<Extent>,
}

/// The public names under which a run's buffers say how it was routed, and the sizes that these have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// K, shared experts beside the picks included.
    pub top_k: u64,
    /// Experts with rows.
    pub experts: u64,
    /// Experts after them without rows.
    pub rowless: u64,
    /// Whether partial sums over the tokens keep sequences apart.
    pub by_sequence: bool,
    /// What is counted, each with its public name.
    pub names: Vec<(Count, String)>,
}

macro_rules! counts {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)+) => {
        /// What a buffer of statistics has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Count { $($(#[$doc])* $variant,)+ }

        impl Count {
            /// Every one.
            pub const ALL: &'static [Count] = &[$(Count::$variant,)+];

            /// Its word in text.
            pub fn word(self) -> &'static str {
                match self { $(Count::$variant => $word,)+ }
            }
        }
    };
}

counts! {
    /// i32 `[E]`: pairs that picked each expert.
    Load = "load",
    /// i32 `[E]`: of these, pairs that are kept.
    Kept = "kept",
    /// i32 `[1]`: tokens that are no padding.
    Tokens = "tokens",
    /// i32 `[T, K]`: the experts of each token.
    Experts = "experts",
    /// i32 `[T, K]`: the grouped row of each pair.
    Rows = "rows",
    /// f32 `[.., E]`: probabilities in partial sums over the tokens.
    Probability = "probability",
    /// f32 `[..]`: z in partial sums over the tokens.
    Z = "z",
    /// f32 `[E]`: probabilities summed over all tokens.
    Importance = "importance",
    /// f32 `[1]`: the balance loss.
    AuxLoss = "aux_loss",
    /// f32 `[1]`: the z-loss.
    ZLoss = "z_loss",
}

impl Statistics {
    /// The public name of the buffer that has it.
    pub fn name(&self, count: Count) -> Option<&str> {
        self.names.iter().find(|(known, _)| *known == count).map(|(_, name)| name.as_str())
    }
}

const JOINT_SHARED: &str = "joint_shared";
const CORRECTED: &str = "corrected";
const GROUPED: &str = "grouped";
const CAPACITY_FACTOR: &str = "capacity_factor";
const ROWS_AT_CAPACITY: &str = "rows_at_capacity";
const BY_SEQUENCE: &str = "by_sequence";

/// A line of sizes and a line of what the routing is, each where there is something to say.
impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.sizes.iter().map(|(name, size)| format!("{name} {size}")).collect();
        let RoutingFacts { joint_shared, corrected, grouped, capacity_factor, rows_at_capacity } = &self.routing;
        let routing = [
            (*joint_shared > 0).then(|| format!("{JOINT_SHARED} {joint_shared}")),
            corrected.then(|| CORRECTED.to_string()),
            grouped.then(|| GROUPED.to_string()),
            capacity_factor.map(|[over, under]| format!("{CAPACITY_FACTOR} {over} / {under}")),
            rows_at_capacity.as_ref().map(|rows| format!("{ROWS_AT_CAPACITY} {rows}")),
        ];
        let routing: Vec<String> = routing.into_iter().flatten().collect();
        for (word, list) in [("sizes", sizes), ("routing", routing)].into_iter().filter(|(_, list)| !list.is_empty()) {
            writeln!(f, "  {word} {}", list.join(", "))?;
        }
        Ok(())
    }
}

/// `statistics 2 of 8 + 0, by_sequence, load "stats.load", ..`.
impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Statistics { top_k, experts, rowless, by_sequence, names } = self;
        write!(f, "  statistics {top_k} of {experts} + {rowless}")?;
        if *by_sequence {
            write!(f, ", {BY_SEQUENCE}")?;
        }
        names.iter().try_for_each(|(count, name)| write!(f, ", {} \"{name}\"", count.word()))?;
        writeln!(f)
    }
}

/// The start of a text, word by word.
struct Words<'t>(&'t str);

impl<'t> Words<'t> {
    fn word(&mut self) -> Option<&'t str> {
        let text = self.0.trim_start();
        let len = text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(text.len());
        self.0 = &text[len..];
        (len > 0).then_some(&text[..len])
    }

    /// A word in quotes.
    fn quoted(&mut self) -> Option<&'t str> {
        let name = if self.take("\"") { self.word()? } else { return None };
        self.take("\"").then_some(name)
    }

    fn number(&mut self) -> Option<u64> {
        self.word()?.parse().ok()
    }

    /// Whether the text goes on with this; a word is followed by something else.
    fn take(&mut self, token: &str) -> bool {
        let rest = self.0.trim_start().strip_prefix(token);
        let is_word = token.ends_with(|c: char| c.is_ascii_alphanumeric());
        let taken = rest.filter(|rest| !(is_word && rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')));
        self.0 = taken.unwrap_or(self.0);
        taken.is_some()
    }
}

impl Facts {
    /// Reads the printed form from the start of `text`: nothing is said where no line of facts begins there. Gives the facts and what
    /// follows them; `None` where a line is no line of facts.
    pub fn parse_prefix(text: &str) -> Option<(Facts, &str)> {
        let (mut facts, mut words) = (Facts::default(), Words(text));
        if words.take("sizes") {
            loop {
                let name = words.word()?.to_string();
                facts.sizes.push((name, words.number()?));
                if !words.take(",") {
                    break;
                }
            }
        }
        if words.take("routing") {
            loop {
                let routing = &mut facts.routing;
                match words.word()? {
                    JOINT_SHARED => routing.joint_shared = words.number()?,
                    CORRECTED => routing.corrected = true,
                    GROUPED => routing.grouped = true,
                    CAPACITY_FACTOR => {
                        let over = words.number()?;
                        routing.capacity_factor = Some([over, words.take("/").then(|| words.number())??]);
                    }
                    ROWS_AT_CAPACITY => {
                        let (rows, rest) = Extent::parse_prefix(words.0.trim_start())?;
                        (routing.rows_at_capacity, words.0) = (Some(rows), rest);
                    }
                    _ => return None,
                }
                if !words.take(",") {
                    break;
                }
            }
        }
        Some((facts, words.0))
    }
}

impl Statistics {
    /// Reads the printed form from the start of `text`. Gives the statistics, none where no line of them begins there, and what follows
    /// them; `None` where the line is no line of statistics.
    pub fn parse_prefix(text: &str) -> Option<(Option<Statistics>, &str)> {
        let mut words = Words(text);
        if !words.take("statistics") {
            return Some((None, text));
        }
        let mut statistics = Statistics { top_k: words.number()?, ..Statistics::default() };
        statistics.experts = words.take("of").then(|| words.number())??;
        statistics.rowless = words.take("+").then(|| words.number())??;
        while words.take(",") {
            if words.take(BY_SEQUENCE) {
                statistics.by_sequence = true;
                continue;
            }
            let word = words.word()?;
            let count = Count::ALL.iter().copied().find(|count| count.word() == word)?;
            statistics.names.push((count, words.quoted()?.to_string()));
        }
        Some((Some(statistics), words.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(facts: &Facts) -> Option<(Facts, String)> {
        let text = format!("{facts}}}");
        Facts::parse_prefix(&text).map(|(facts, rest)| (facts, rest.trim_start().to_string()))
    }

    #[test]
    fn facts_are_read_back() {
        let none = Facts::default();
        let routing = RoutingFacts {
            joint_shared: 2,
            corrected: true,
            grouped: true,
            capacity_factor: Some([5, 4]),
            rows_at_capacity: Some(Extent::Tokens * 3),
        };
        let all = Facts { sizes: vec![("hidden".to_string(), 64), ("top_k".to_string(), 2)], routing };
        let sizes_alone = Facts { routing: RoutingFacts::default(), ..all.clone() };
        for facts in [none, all, sizes_alone] {
            assert_eq!(both(&facts), Some((facts, "}".to_string())));
        }
        for text in ["sizes 3", "sizes hidden", "routing warm", "routing capacity_factor 5", "sizes hidden 64,"] {
            assert_eq!(Facts::parse_prefix(text), None, "{text}");
        }
    }

    #[test]
    fn statistics_are_read_back() {
        let names = Count::ALL.iter().map(|count| (*count, format!("stats.{}", count.word()))).collect();
        let all = Statistics { top_k: 2, experts: 8, rowless: 1, by_sequence: true, names };
        let text = format!("{all}  regime {{");
        assert_eq!(Statistics::parse_prefix(&text).map(|(found, rest)| (found, rest.trim())), Some((Some(all), "regime {")));
        assert_eq!(Statistics::parse_prefix("regime {"), Some((None, "regime {")));
        for text in ["statistics", "statistics 2 of 8", "statistics 2 of 8 + 0, warmth a", "statistics 2 of 8 + 0, load"] {
            assert_eq!(Statistics::parse_prefix(text), None, "{text}");
        }
    }
}
