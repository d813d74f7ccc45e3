//! Where a correct spec says what: for mistakes that later stages find.
//! What is wrong there is known elsewhere.

use std::ops::Range;

use super::tree::{Entry, Kind};
use crate::diagnostics::{Diagnostic, Source};

/// A key of a spec, `router.top_k`, that a mistake is about, and what is to be said beside it.
pub(crate) type Blamed = (&'static str, &'static str);

/// The place of what the key says; `None` where the spec leaves it to its default.
fn place(source: &Source, key: &str) -> Option<Range<usize>> {
    let (table, key) = key.split_once('.')?;
    let entries = super::entries(source).unwrap_or_default();
    let of = |entries: &[Entry], name: &str| entries.iter().find(|entry| entry.key == name).map(|entry| entry.value.clone());
    match of(&entries, table)?.kind {
        Kind::Table(keys) => of(&keys, key).map(|value| value.span),
        _ => None,
    }
}

/// Whether specs have such a key.
#[cfg(test)]
pub(crate) fn has_key(key: &str) -> bool {
    let known = key.split_once('.').and_then(|(table, key)| Some((super::keys::table(table)?, key)));
    known.is_some_and(|(table, key)| table.keys.iter().any(|known| known.name == key))
}

/// The diagnostic with the places of the keys that it is about, the one at fault first, as far as the spec has them.
pub(crate) fn located(diagnostic: Diagnostic, source: &Source, keys: &[(&str, &str)]) -> Diagnostic {
    let places = keys.iter().filter_map(|(key, text)| Some((place(source, key)?, *text)));
    places.fold(diagnostic, |diagnostic, (span, text)| diagnostic.also(span, text))
}
