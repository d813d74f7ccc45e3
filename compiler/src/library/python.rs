//! A Python file of a layer: what `runtime/python/moec/` has for all of them, and the names of this one. It needs PyTorch, and the shared
//! library in its folder.

use super::tables::Tables;

const LIBRARY: &str = include_str!("../../../runtime/python/moec/library.py");
const TORCH: &str = include_str!("../../../runtime/python/moec/torch.py");

/// The file, to lie beside `lib<prefix>.so`.
pub(super) fn module(prefix: &str, tables: &Tables) -> String {
    let (layer, sha) = (&tables.layer, &tables.facts.spec_sha256);
    let targets = tables.targets.join(", ");
    let mut out = format!(
        "\"\"\"The layer `{layer}` ({targets}) in PyTorch: the operators of `torch.ops.moec`, and the module `MoELayer`.\n\nWritten by {}. \
         It loads lib{prefix}.so of its folder, and needs nothing of moec. A file of one's own may import it.\"\"\"\n",
        tables.facts.compiler
    );
    out += without_docstring(LIBRARY);
    // The one import of the other part.
    for line in without_docstring(TORCH).lines().filter(|line| !line.starts_with("from .library import")) {
        out += line;
        out.push('\n');
    }
    out += &format!(
        "\n\nfrom pathlib import Path as _Path\n\nlayer = load(_Path(__file__).with_name(\"lib{prefix}.so\"), {prefix:?}, {sha:?})\nMoELayer.layer = \
         layer\n"
    );
    out
}

/// What follows the text at the top of a module.
fn without_docstring(module: &str) -> &str {
    module.strip_prefix("\"\"\"").and_then(|rest| rest.split_once("\"\"\"\n")).map_or(module, |(_, rest)| rest)
}
