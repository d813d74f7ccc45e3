//! A Python module by which JAX calls the shared library: it registers the handler of XLA's FFI, and has a function of the layer's tensors.

use std::fmt::Write;

use moec_runtime::package::{Buffer, DType, Extent, Role, Round};

use super::Refused;
use super::tables::{Holds, Tables};

/// What is the same for all layers.
const LAYER: &str = include_str!("../../../runtime/launcher/layer_jax.py");

/// The Python Language Reference, "Keywords": what no parameter can be called.
const KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del", "elif", "else",
    "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal", "not", "or", "pass", "raise",
    "return", "try", "while", "with", "yield",
];

/// The module: to lie beside the layer's shared library.
pub(super) fn module(prefix: &str, tables: &Tables) -> Result<String, Refused> {
    let of = |wanted: &[Role]| tables.params.iter().filter(|buffer| wanted.contains(&buffer.role)).collect::<Vec<&Buffer>>();
    let (inputs, outputs) = (of(&[Role::Input]), of(&[Role::Output]));
    let weights = of(&[Role::Weight, Role::Prepared, Role::Workspace]);
    let tokens = |(index, buffer): (usize, &&Buffer)| {
        buffer.shape.iter().position(|extent| *extent == Extent::Tokens).map(|axis| (index, axis))
    };
    let first = inputs.iter().enumerate().find_map(tokens);
    let first = first.ok_or_else(|| Refused::Formula("no input whose shape says how many tokens there are".to_string()))?;
    let (targets, facts) = (tables.targets.join(", "), &tables.facts);
    let mut out = format!(
        "\"\"\"The layer {prefix} ({targets}) as a function of JAX. Written by {}; lib{prefix}.so lies beside this file.\"\"\"\n",
        facts.compiler
    );
    // Without the first line, which is about that file.
    LAYER.lines().skip(1).for_each(|line| out += &format!("{line}\n"));
    let _ = write!(
        out,
        "\n\n# The layer's name in its spec, the spec's hash, and the most tokens of a batch.\nLAYER = {}\nSPEC_SHA256 = {}\nMAX_TOKENS = {}\n",
        text(&tables.layer),
        text(&facts.spec_sha256),
        facts.max_tokens
    );
    for (name, buffers) in [("INPUTS", &inputs), ("OUTPUTS", &outputs), ("WEIGHTS", &weights)] {
        let rows = buffers.iter().map(|buffer| tensor(buffer)).collect::<Result<String, Refused>>()?;
        let _ = if rows.is_empty() { writeln!(out, "_{name} = ()") } else { write!(out, "_{name} = (\n{rows})\n") };
    }
    let _ = write!(
        out,
        "_layer = _Layer(\n    Path(__file__).resolve().with_name(\"lib{prefix}.so\"),\n    \"{prefix}\",\n    LAYER,\n    SPEC_SHA256,\n    \
         {},\n    (_INPUTS, _OUTPUTS, _WEIGHTS),\n)\n",
        tuple(platforms(tables).into_iter().map(text))
    );
    out += &function(&inputs, &outputs, &weights, first);
    Ok(out)
}

/// XLA's names of what the library has code for.
fn platforms(tables: &Tables) -> Vec<&'static str> {
    let is_host = |holds: Holds| match holds {
        Holds::Code => Some(true),
        Holds::Ptx | Holds::Cubin => Some(false),
        Holds::Manifest => None,
    };
    let has = |wanted: bool| tables.images.iter().any(|image| is_host(image.holds) == Some(wanted));
    [("cpu", true), ("CUDA", false)].into_iter().filter(|(_, of_host)| has(*of_host)).map(|(platform, _)| platform).collect()
}

/// The function: inputs by their places, weights by their names.
fn function(inputs: &[&Buffer], outputs: &[&Buffer], weights: &[&Buffer], (index, axis): (usize, usize)) -> String {
    let parameters =
        |buffers: &[&Buffer]| buffers.iter().map(|buffer| format!("    {},\n", parameter(buffer))).collect::<String>();
    let documented = |buffers: &[&Buffer]| {
        let line = |buffer: &&Buffer| format!("    {}: [{}], {}\n", parameter(buffer), shape(buffer), dtype(buffer.dtype));
        buffers.iter().map(line).collect::<String>()
    };
    let values = |buffers: &[&Buffer]| tuple(buffers.iter().map(|buffer| parameter(buffer)));
    format!(
        "\n\n@functools.partial(jax.jit, static_argnames=\"sequence_tokens\")\ndef layer(\n{}    *,\n{}    sequence_tokens=None,\n):\n    \
         \"\"\"The layer on T tokens, of S to a sequence; where S is absent the batch is one sequence.\n\n    Takes\n{}{}    Returns\n{}    \
         \"\"\"\n    return _layer.call({}, {}, sequence_tokens, ({index}, {axis}))\n",
        parameters(inputs),
        parameters(weights),
        documented(inputs),
        documented(weights),
        documented(outputs),
        values(inputs),
        values(weights),
    )
}

/// A string literal: what JSON's is in Python too.
fn text(of: &str) -> String {
    serde_json::Value::from(of).to_string()
}

fn tuple(members: impl IntoIterator<Item = String>) -> String {
    let members: Vec<String> = members.into_iter().collect();
    match &members[..] {
        [one] => format!("({one},)"),
        _ => format!("({})", members.join(", ")),
    }
}

fn parameter(buffer: &Buffer) -> String {
    let name = moec_codegen::symbol::identifier(&buffer.name);
    if KEYWORDS.contains(&name.as_str()) || name == "sequence_tokens" { format!("{name}_") } else { name }
}

/// NumPy's name.
fn dtype(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
        DType::I32 => "int32",
    }
}

/// As people write it: `T, 4096`.
fn shape(buffer: &Buffer) -> String {
    buffer.shape.iter().map(Extent::to_string).collect::<Vec<String>>().join(", ")
}

/// A row of the module's tables.
fn tensor(buffer: &Buffer) -> Result<String, Refused> {
    let extents = tuple(buffer.shape.iter().map(formula).collect::<Result<Vec<String>, Refused>>()?);
    let (name, dtype, shape) = (text(&buffer.name), dtype(buffer.dtype), shape(buffer));
    Ok(format!("    _Tensor({name}, \"{dtype}\", \"{shape}\", lambda T, S: {extents}),\n"))
}

/// An extent as an expression of Python.
fn formula(extent: &Extent) -> Result<String, Refused> {
    let two = |a: &Extent, b: &Extent| Ok::<_, Refused>((formula(a)?, formula(b)?));
    let infix = |a: &Extent, sign: &str, b: &Extent| two(a, b).map(|(a, b)| format!("({a} {sign} {b})"));
    match extent {
        Extent::Const(value) => Ok(value.to_string()),
        Extent::Tokens => Ok("T".to_string()),
        Extent::SequenceTokens => Ok("S".to_string()),
        Extent::Add(a, b) => infix(a, "+", b),
        Extent::Sub(a, b) => infix(a, "-", b),
        Extent::Mul(a, b) => infix(a, "*", b),
        Extent::Div(a, b, Round::Floor) => infix(a, "//", b),
        Extent::Div(a, b, Round::Ceil) => two(a, b).map(|(a, b)| format!("-(-{a} // {b})")),
        Extent::Div(_, _, Round::HalfEven) => Err(Refused::Formula(format!("a tensor's extent {extent}"))),
        Extent::Min(a, b) => two(a, b).map(|(a, b)| format!("min({a}, {b})")),
        Extent::Max(a, b) => two(a, b).map(|(a, b)| format!("max({a}, {b})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_those_of_python() {
        let of = |extent: &Extent| formula(extent).map_err(|refused| refused.to_string());
        let (t, s) = (|| Box::new(Extent::Tokens), || Box::new(Extent::SequenceTokens));
        let div = |round| Extent::Div(t(), Box::new(Extent::Const(64)), round);
        assert_eq!(of(&Extent::Mul(Box::new(div(Round::Ceil)), s())).as_deref(), Ok("(-(-T // 64) * S)"));
        assert_eq!(of(&Extent::Max(Box::new(div(Round::Floor)), s())).as_deref(), Ok("max((T // 64), S)"));
        assert_eq!(of(&Extent::Sub(Box::new(Extent::Add(t(), t())), s())).as_deref(), Ok("((T + T) - S)"));
        assert!(of(&div(Round::HalfEven)).is_err());
    }
}
