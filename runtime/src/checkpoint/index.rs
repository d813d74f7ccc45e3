//! The index of a sharded checkpoint, `{"weight_map": {"name": "file"}}`: which file has which tensor. No file that it names is
//! opened here, and none outside its folder is accepted.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::error::Error;
use crate::format::FORMAT_BYTES;

/// Those of the largest models have 10 MB.
const MOST_BYTES: u64 = 64 << 20;

/// Editors on Windows put it before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WeightMap, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the file of each tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut files = BTreeMap::new();
                while let Some((name, file)) = map.next_entry::<String, String>()? {
                    // The last of two would count, and which of them was meant would be a guess.
                    if let Some(first) = files.insert(name.clone(), file.clone())
                        && first != file
                    {
                        return Err(A::Error::custom(format!("`{name}` is in `{first}` and in `{file}`")));
                    }
                }
                Ok(WeightMap(files))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// Whether the file starts as JSON does, which no safetensors file can.
pub(super) fn is_index(path: &Path) -> Result<bool, Error> {
    // A pipe can be read once.
    if !path.is_file() {
        return Ok(false);
    }
    let start = read_at_most(path, FORMAT_BYTES as u64)?;
    Ok(start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&start).trim_ascii_start().starts_with(b"{"))
}

/// The file of each tensor.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    let wrong = |why: String| Error::Index { path: path.into(), why };
    let bytes = read_at_most(path, MOST_BYTES + 1)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(wrong(format!("it has more than {} MiB", MOST_BYTES >> 20)));
    }
    let json = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let index: Index = serde_json::from_slice(json).map_err(|error| wrong(why(json, &error)))?;
    let WeightMap(files) = index.weight_map;
    match files.iter().find(|(_, file)| !is_below(file)) {
        Some((name, file)) => Err(wrong(format!("it puts `{name}` into `{file}`, which is no file of its folder"))),
        None => Ok(files),
    }
}

/// Whether a path stays in the folder that it starts from. Links in it may lead elsewhere: caches are made of them.
fn is_below(file: &str) -> bool {
    let mut parts = Path::new(file).components().peekable();
    !file.contains('\0') && parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn read_at_most(path: &Path, bytes: u64) -> Result<Vec<u8>, Error> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes).read_to_end(&mut start));
    read.map_err(|error| Error::Read { path: path.into(), why: error.to_string() })?;
    Ok(start)
}

/// The parser's words, or better ones for what Python writes and JSON does not have.
fn why(json: &[u8], error: &serde_json::Error) -> String {
    let line = json.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let rest = line.get(error.column().saturating_sub(1)..).unwrap_or_default();
    match ["NaN", "Infinity"].into_iter().find(|word| rest.starts_with(word.as_bytes())) {
        Some(word) => format!("{word} is not JSON, at line {} column {}", error.line(), error.column()),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_below_the_folder() {
        for file in ["model-00001-of-00002.safetensors", "a/b.safetensors", "a b", "..a"] {
            assert!(is_below(file), "{file}");
        }
        for file in ["", "/etc/passwd", "../x", "a/../../x", "..", ".", "./x", "x\0"] {
            assert!(!is_below(file), "{file:?}");
        }
    }

    #[test]
    fn words_of_python() {
        let said = |text: &str| {
            let error = serde_json::from_str::<Index>(text).err().unwrap();
            why(text.as_bytes(), &error)
        };
        assert_eq!(said("{\"metadata\": {\n  \"total\": NaN}}"), "NaN is not JSON, at line 2 column 12");
        assert_eq!(said("{\"weight_map\": -Infinity}"), "Infinity is not JSON, at line 1 column 17");
        assert_eq!(said("{\"weight_map\": Infinity}"), "Infinity is not JSON, at line 1 column 16");
        let twice = said("{\"weight_map\": {\"a\": \"x\", \"a\": \"y\"}}");
        assert!(twice.starts_with("`a` is in `x` and in `y`"), "{twice}");
        assert!(said("{}").starts_with("missing field `weight_map`"));
    }
}
