//! The file in which limits are remembered: a list of machines, so that a folder that several share has all of them.
//! A file that cannot be read, or of another version, is none: what was in it is measured again.

use serde::{Deserialize, Serialize};

use super::{Limits, Share};

/// Of the file's form, and of how is measured: figures of other versions do not compare.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    machines: Vec<Limits>,
}

fn machines(text: &str) -> Vec<Limits> {
    let file: Option<File> = serde_json::from_str(text).ok();
    file.filter(|file| file.version == VERSION).map(|file| file.machines).unwrap_or_default()
}

/// What the file's text has of a CPU for a run by so many threads, and which of its figures those are.
#[must_use]
pub fn find(text: &str, cpu: &str, threads: usize) -> Option<(Limits, Share)> {
    let of_cpu: Vec<Limits> = machines(text).into_iter().filter(|limits| limits.cpu == cpu).collect();
    let all = of_cpu.iter().find(|limits| limits.threads == threads).map(|limits| (limits.clone(), Share::All));
    let one = || of_cpu.first().filter(|_| threads == 1).map(|limits| (limits.clone(), Share::One));
    all.or_else(one)
}

/// The file's text with these limits in it; those that it had of the same CPU and number of threads are gone.
#[must_use]
pub fn remember(text: &str, limits: &Limits) -> String {
    let is_other = |other: &Limits| (&other.cpu, other.threads) != (&limits.cpu, limits.threads);
    let machines = machines(text).into_iter().filter(is_other).chain([limits.clone()]).collect();
    let text = serde_json::to_string_pretty(&File { version: VERSION, machines });
    text.unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::{Products, Rates};
    use super::*;

    fn limits(cpu: &str, threads: usize, all: u64) -> Limits {
        let rates = Rates { one: 10, all };
        let products = Products { target: "x86-64-v3".into(), dtype: "f32".into(), flops: rates };
        Limits { cpu: cpu.into(), threads, cache_bytes: 1 << 20, read: rates, products: vec![products] }
    }

    #[test]
    fn what_is_remembered_is_found() {
        let (a, b, c) = (limits("a", 2, 20), limits("b", 2, 30), limits("a", 4, 40));
        let text = [&a, &b, &c].iter().fold(String::new(), |text, limits| remember(&text, limits));
        for limits in [&a, &b, &c] {
            assert_eq!(find(&text, &limits.cpu, limits.threads), Some((limits.clone(), Share::All)));
        }
        assert_eq!(find(&text, "a", 1), Some((a, Share::One)), "whichever was measured with others has one thread too");
        assert_eq!((find(&text, "a", 3), find(&text, "c", 2)), (None, None));
        // Measured again, only that is replaced.
        let again = limits("b", 2, 35);
        let text = remember(&text, &again);
        assert_eq!((find(&text, "b", 2), text.matches("\"cpu\"").count()), (Some((again, Share::All)), 3));
    }

    #[test]
    fn a_broken_file_is_none() {
        let text = remember("", &limits("a", 2, 20));
        let other_version = text.replace("\"version\": 1", "\"version\": 2");
        let other_form = text.replace("\"cpu\"", "\"processor\"");
        let negative = text.replace("10", "-10");
        for broken in ["", "null", "[]", "not JSON", &text[..text.len() / 2], &other_version, &other_form, &negative] {
            assert_eq!(find(broken, "a", 2), None, "{broken}");
            // It is written anew.
            assert_eq!(remember(broken, &limits("a", 2, 20)), text, "{broken}");
        }
    }
}
