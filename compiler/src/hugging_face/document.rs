//! A spec as text: tables, keys and values in the order in which specs are written.
//! Which keys there are is not known here; the spec's reader checks every one.

/// The tables, in the order of a spec.
const ORDER: [&str; 7] = ["moe", "router", "capacity", "expert", "shared", "weights", "numerics"];

/// A spec that is being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    table: &'static str,
    key: &'static str,
    value: String,
}

impl Document {
    /// Adds a key whose value is already spelt as TOML.
    fn add(&mut self, table: &'static str, key: &'static str, value: String) {
        self.lines.push(Line { table, key, value });
    }

    pub(super) fn integer(&mut self, table: &'static str, key: &'static str, value: u64) {
        self.add(table, key, value.to_string());
    }

    pub(super) fn flag(&mut self, table: &'static str, key: &'static str, value: bool) {
        self.add(table, key, value.to_string());
    }

    pub(super) fn number(&mut self, table: &'static str, key: &'static str, value: f64) {
        // The shortest decimal that reads back as the same number; it has a point or an exponent.
        self.add(table, key, format!("{value:?}"));
    }

    /// A number, unless it is the one that leaving the key out means.
    pub(super) fn number_unless(&mut self, default: f64, table: &'static str, key: &'static str, value: f64) {
        if value != default {
            self.number(table, key, value);
        }
    }

    pub(super) fn text(&mut self, table: &'static str, key: &'static str, value: &str) {
        self.add(table, key, quoted(value));
    }

    /// The value of a key as it is spelt, a text without its quotes.
    pub(super) fn value(&self, table: &str, key: &str) -> Option<&str> {
        let line = self.lines.iter().find(|line| line.table == table && line.key == key)?;
        Some(line.value.trim_matches('"'))
    }

    /// An entry of `[weights]`.
    pub(super) fn stored(&mut self, key: &'static str, names: &[String], layout: &str, experts: Option<u64>) {
        let names = match names {
            [name] => quoted(name),
            names => format!("[{}]", names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")),
        };
        let value = match (layout, experts) {
            ("", None) => names,
            (layout, experts) => {
                let layout = if layout.is_empty() { String::new() } else { format!(", layout = {}", quoted(layout)) };
                let experts = experts.map_or(String::new(), |experts| format!(", experts = {experts}"));
                format!("{{ name = {names}{layout}{experts} }}")
            }
        };
        self.add("weights", key, value);
    }

    /// The text, after these comments.
    pub(super) fn to_toml(&self, comments: &[String]) -> String {
        let mut text: String = comments.iter().flat_map(|comment| wrapped(comment)).map(|line| line + "\n").collect();
        for table in ORDER {
            let lines: Vec<&Line> = self.lines.iter().filter(|line| line.table == table).collect();
            if lines.is_empty() {
                continue;
            }
            let gap = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}[{table}]\n"));
            lines.iter().for_each(|line| text.push_str(&format!("{} = {}\n", line.key, line.value)));
        }
        text
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_string()).to_string()
}

/// A comment in lines of at most 110 characters. Control characters cannot end it early: they are escaped.
fn wrapped(comment: &str) -> Vec<String> {
    const WIDEST: usize = 110;
    let safe: String = comment.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let mut lines = vec!["#".to_string()];
    for word in safe.split(' ') {
        let last = lines.len() - 1;
        if lines[last].len() > 1 && lines[last].len() + word.len() >= WIDEST {
            lines.push("#".to_string());
        }
        let last = lines.len() - 1;
        lines[last].push(' ');
        lines[last].push_str(word);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_a_spec() {
        let mut document = Document::default();
        document.text("moe", "name", "a\"b");
        document.number("router", "renorm_eps", 1e-20);
        document.stored("down", &["a".into(), "b".into()], "T", Some(8));
        let text = document.to_toml(&["one\n[two]".into()]);
        assert!(text.starts_with("# one?[two]\n\n[moe]\nname = 'a\"b'\n"), "{text}");
        assert!(text.contains("renorm_eps = 1e-20\n"), "{text}");
        assert!(text.ends_with("down = { name = [\"a\", \"b\"], layout = \"T\", experts = 8 }\n"), "{text}");
    }
}
