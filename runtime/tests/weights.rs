//! Recipes against tensors made by hand: every way a checkpoint may store a weight, and every way it may be wrong.
#![allow(clippy::unwrap_used)]

use crate::fixture;
use crate::fixture::floats;
use moec_runtime::package::{Buffer, DType, Extent, Manifest, Piece, Recipe, Role, Slice, Source, Stacked};
use moec_runtime::weights::to_safetensors;
use moec_runtime::{Checkpoint, Error, Tensor, assemble};

const E: u64 = 2;
const F: u64 = 3;
const H: u64 = 4;

/// A manifest with one weight of this shape.
fn manifest(dtype: DType, shape: &[u64], pieces: Vec<Piece>) -> Manifest {
    let mut manifest = fixture::manifest();
    manifest.buffers[1] = Buffer {
        name: "gate".into(),
        role: Role::Weight,
        dtype,
        shape: shape.iter().map(|extent| Extent::Const(*extent as i64)).collect(),
        align: 16,
        observe: None,
        below: None,
        mask: None,
    };
    manifest.weights = vec![Recipe { buffer: "gate".into(), pieces }];
    moec_runtime::package::check(&manifest).unwrap();
    manifest
}

fn whole(source: Source) -> Vec<Piece> {
    vec![Piece { into: None, sources: vec![source] }]
}

/// The weight that this manifest makes of these tensors.
fn make(manifest: &Manifest, tensors: &[(&str, &Tensor)]) -> Result<Tensor, Error> {
    let file = to_safetensors(tensors).unwrap();
    let (mut weights, notes) = assemble(manifest, &Checkpoint::read(&file).unwrap(), "")?;
    assert_eq!(notes, []);
    Ok(weights.remove(0))
}

/// `gate[e, f, h]`, a number that says where it is.
fn value(e: u64, f: u64, h: u64) -> f32 {
    (100 * e + 10 * f + h) as f32
}

fn gate() -> Tensor {
    floats(&[E, F, H], (0..E * F * H).map(|i| value(i / (F * H), i / H % F, i % H)))
}

/// A tensor of this shape, whose element at `index` is `at(index)`.
fn stored(shape: [u64; 3], at: impl Fn([u64; 3]) -> f32) -> Tensor {
    let [a, b, c] = shape;
    floats(&shape, (0..a * b * c).map(|i| at([i / (b * c), i / c % b, i % c])))
}

fn check(source: Source, tensors: &[(&str, &Tensor)]) {
    let made = make(&manifest(DType::F32, &[E, F, H], whole(source.clone())), tensors).unwrap();
    assert_eq!(made, gate(), "{source:?}");
}

fn slice(axis: u32, index: u32, interleaved: bool) -> Option<Slice> {
    Some(Slice { axis, index, parts: 2, interleaved })
}

#[test]
fn whole_tensors() {
    check(Source::plain("gate"), &[("gate", &gate())]);
    // DBRX: experts and rows folded into one axis.
    let flat = gate().reshape(vec![E * F, H]).unwrap();
    check(Source { flattened: true, ..Source::plain("w1") }, &[("w1", &flat)]);
    // Layout T: stored [experts, hidden, intermediate].
    let transposed = stored([E, H, F], |[e, h, f]| value(e, f, h));
    check(Source { axes: vec![0, 2, 1], ..Source::plain("w") }, &[("w", &transposed)]);
    // DBRX's down: both.
    let flat = transposed.reshape(vec![E * H, F]).unwrap();
    check(Source { axes: vec![0, 2, 1], flattened: true, ..Source::plain("w2") }, &[("w2", &flat)]);
    // Soft-MoE's slots: hidden first.
    let turned = stored([H, E, F], |[h, e, f]| value(e, f, h));
    check(Source { axes: vec![2, 0, 1], ..Source::plain("mu") }, &[("mu", &turned)]);
}

#[test]
fn one_tensor_an_expert() {
    let expert = |e: u64| floats(&[F, H], (0..F * H).map(|i| value(e, i / H, i % H)));
    let names = ["experts.0.w1", "experts.1.w1"];
    let (zero, one) = (expert(0), expert(1));
    check(Source::plain("experts.{e}.w1"), &[(names[0], &zero), (names[1], &one)]);
    let transposed = |e: u64| floats(&[H, F], (0..F * H).map(|i| value(e, i % F, i / F)));
    let (zero, one) = (transposed(0), transposed(1));
    check(Source { axes: vec![0, 2, 1], ..Source::plain("experts.{e}.w1") }, &[(names[0], &zero), (names[1], &one)]);
    // Fused halves, one tensor an expert.
    let fused = |e: u64| floats(&[2 * F, H], (0..2 * F * H).map(|i| if i < F * H { -1.0 } else { value(e, i / H - F, i % H) }));
    let (zero, one) = (fused(0), fused(1));
    check(Source { slice: slice(1, 1, false), ..Source::plain("experts.{e}.w1") }, &[(names[0], &zero), (names[1], &one)]);
}

#[test]
fn halves_of_fused_tensors() {
    for index in [0, 1u64] {
        let halves = stored([E, 2 * F, H], |[e, f, h]| if f / F == index { value(e, f % F, h) } else { -1.0 });
        check(Source { slice: slice(1, index as u32, false), ..Source::plain("gate_up") }, &[("gate_up", &halves)]);
        let rows = stored([E, 2 * F, H], |[e, f, h]| if f % 2 == index { value(e, f / 2, h) } else { -1.0 });
        check(Source { slice: slice(1, index as u32, true), ..Source::plain("gate_up") }, &[("gate_up", &rows)]);
        // GPT-OSS: "T interleave".
        let both = stored([E, H, 2 * F], |[e, h, f]| if f % 2 == index { value(e, f / 2, h) } else { -1.0 });
        let source = Source { axes: vec![0, 2, 1], slice: slice(1, index as u32, true), ..Source::plain("gate_up") };
        check(source, &[("gate_up", &both)]);
    }
}

#[test]
fn experts_that_are_not_read() {
    let more = stored([E + 3, F, H], |[e, f, h]| if e < E { value(e, f, h) } else { f32::NAN });
    let spare = Source { spare: 3, ..Source::plain("w") };
    check(spare.clone(), &[("w", &more)]);
    check(spare.clone(), &[("w", &gate())]);
    check(Source { flattened: true, ..spare.clone() }, &[("w", &more.clone().reshape(vec![(E + 3) * F, H]).unwrap())]);
    let halves = stored([E + 3, 2 * F, H], |[e, f, h]| if e < E && f >= F { value(e, f - F, h) } else { f32::NAN });
    check(Source { slice: slice(1, 1, false), ..spare.clone() }, &[("w", &halves)]);
    let turned = stored([E + 3, H, F], |[e, h, f]| if e < E { value(e, f, h) } else { f32::NAN });
    check(Source { axes: vec![0, 2, 1], ..spare.clone() }, &[("w", &turned)]);
    let manifest = manifest(DType::F32, &[E, F, H], whole(spare));
    let two_more = stored([E + 2, F, H], |_| 0.0);
    assert!(matches!(make(&manifest, &[("w", &two_more)]), Err(Error::TensorShape { .. })));
}

/// Parts side by side, and one behind the other.
#[test]
fn stacked_parts() {
    // A buffer [2 A, B] and one [A, 2 B] out of [2, A, B], with gate and up in each part, and transposed.
    let (a, b) = (3, 2);
    let at = |part: u64, i: u64, j: u64| value(part, i, j);
    let part = |i: u64, n: u64| (i / n, i % n);
    let rows = floats(&[2 * a, b], (0..2 * a * b).map(|i| at(part(i / b, a).0, part(i / b, a).1, i % b)));
    let columns = floats(&[a, 2 * b], (0..2 * a * b).map(|i| at(part(i % (2 * b), b).0, i / (2 * b), part(i % (2 * b), b).1)));
    let of = |axis: u32| Source { stacked: Some(Stacked { axis, parts: 2 }), ..Source::plain("s") };
    let made =
        |shape: &[u64], source: Source, tensor: &Tensor| make(&manifest(DType::F32, shape, whole(source)), &[("s", tensor)]);
    let one_by_one = stored([2, a, b], |[p, i, j]| at(p, i, j));
    assert_eq!(made(&[2 * a, b], of(0), &one_by_one).unwrap(), rows);
    assert_eq!(made(&[a, 2 * b], of(1), &one_by_one).unwrap(), columns);
    assert_eq!(made(&[2 * a, b], of(0), &rows).unwrap(), rows);
    assert_eq!(made(&[a, 2 * b], of(1), &columns).unwrap(), columns);
    let turned = stored([2, b, a], |[p, j, i]| at(p, i, j));
    assert_eq!(made(&[a, 2 * b], Source { axes: vec![1, 0], ..of(1) }, &turned).unwrap(), columns);
    let fused = stored([2, 2 * a, b], |[p, i, j]| if i < a { f32::NAN } else { at(p, i - a, j) });
    assert_eq!(made(&[2 * a, b], Source { slice: slice(0, 1, false), ..of(0) }, &fused).unwrap(), rows);
    let three = stored([3, a, b], |_| 0.0);
    assert!(matches!(made(&[2 * a, b], of(0), &three), Err(Error::TensorShape { .. })));
}

#[test]
fn a_fused_weight_out_of_two() {
    let half = |name: &str, index| Piece { into: slice(1, index, false), sources: vec![Source::plain(name)] };
    let manifest = manifest(DType::F32, &[E, 2 * F, H], vec![half("up", 1), half("gate", 0)]);
    let up = stored([E, F, H], |[e, f, h]| -value(e, f, h));
    let made = make(&manifest, &[("gate", &gate()), ("up", &up)]).unwrap();
    assert_eq!(made, stored([E, 2 * F, H], |[e, f, h]| if f < F { value(e, f, h) } else { -value(e, f - F, h) }));
}

#[test]
fn the_first_name_that_exists_wins() {
    let sources = vec![Source::plain("a"), Source::plain("b"), Source::plain("c")];
    let manifest = manifest(DType::F32, &[H], vec![Piece { into: None, sources }]);
    let (b, c) = (floats(&[H], [1.0; 4]), floats(&[1, H], [2.0; 4]));
    assert_eq!(make(&manifest, &[("c", &c), ("b", &b)]).unwrap(), b);
    // An axis of one index is no difference: Ernie stores its bias as [1, E].
    assert_eq!(make(&manifest, &[("c", &c)]).unwrap().shape(), [H]);
}

#[test]
fn conversions_are_told() {
    let manifest = manifest(DType::Bf16, &[E, F], whole(Source::plain("experts.{e}.bias")));
    let row = floats(&[F], [1.0, 1.0 + 1.0 / 256.0, 1.01]);
    let file = to_safetensors(&[("w.experts.0.bias", &row), ("w.experts.1.bias", &row)]).unwrap();
    let checkpoint = Checkpoint::read(&file).unwrap();
    let (weights, notes) = assemble(&manifest, &checkpoint, "w.").unwrap();
    assert_eq!(weights[0].to_f64()[..3], [1.0, 1.0, 1.0078125]);
    assert_eq!(notes.len(), 1, "once for all experts");
    assert_eq!(notes[0].to_string(), "`w.experts.{e}.bias` is f32, converted to bf16");
    let (x, note) = checkpoint.tensor("w.experts.0.bias", DType::F16).unwrap();
    assert_eq!((x.dtype(), note.map(|note| note.from)), (DType::F16, Some("f32")));
}

#[test]
fn errors_name_the_tensor() {
    let per_expert = manifest(DType::F32, &[E, F, H], whole(Source::plain("experts.{e}.w1.weight")));
    let expert = floats(&[F, H], [0.0; 12]);
    let missing = make(&per_expert, &[("experts.0.w1.weight", &expert)]).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "`experts.1.w1.weight` is missing (for `gate`), 0 is there; the layer has 2 experts, the checkpoint or `moe.experts` is wrong"
    );
    let turned = floats(&[H, F], [0.0; 12]);
    let shape = make(&per_expert, &[("experts.0.w1.weight", &expert), ("experts.1.w1.weight", &turned)]).unwrap_err();
    assert_eq!(
        shape,
        Error::TensorShape {
            tensor: "experts.1.w1.weight".into(),
            buffer: "gate".into(),
            expected: vec![F, H],
            actual: vec![H, F]
        }
    );
    let none = make(&manifest(DType::F32, &[H], whole(Source::plain("q"))), &[("something.else", &expert)]).unwrap_err();
    assert_eq!(none.to_string(), "no tensor for `gate`: looked for `q`");
    let integers = expert.to_dtype(DType::I32).reshape(vec![12]).unwrap();
    let dtype = make(&manifest(DType::F32, &[12], whole(Source::plain("q"))), &[("q", &integers)]).unwrap_err();
    assert_eq!(
        dtype.to_string(),
        "tensor `q` has dtype I32, which cannot become f32; floats are converted, integers are not: in PyTorch `.float()`"
    );
    let table = |entry: i64| {
        let bytes: Vec<u8> = [1, entry].into_iter().flat_map(i64::to_le_bytes).collect();
        let header = br#"{"q":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}"#;
        let file = [&(header.len() as u64).to_le_bytes()[..], header, &bytes].concat();
        let checkpoint = Checkpoint::read(&file).unwrap();
        let manifest = manifest(DType::I32, &[2], whole(Source::plain("q")));
        let (weights, _) = assemble(&manifest, &checkpoint, "")?;
        assert_eq!(checkpoint.tensor("q", DType::I32)?.0, weights[0]);
        weights[0].to_i32()
    };
    assert_eq!(table(-7).unwrap(), [1, -7]);
    let wide = table(1 << 31).unwrap_err();
    assert_eq!(wide, Error::TensorRange { tensor: "q".into(), value: 1 << 31 });
    assert!(matches!(Checkpoint::read(b"garbage"), Err(Error::Safetensors { .. })));
    assert!(matches!(Checkpoint::read(&[0xff; 64]), Err(Error::Safetensors { .. })));
}

#[test]
fn a_hostile_recipe_allocates_nothing() {
    // A weight of 2^60 bytes: what is stored is measured first.
    let manifest = manifest(DType::F32, &[1 << 29, 1 << 29], whole(Source::plain("gate.{e}")));
    let small = floats(&[1], [0.0]);
    assert!(matches!(make(&manifest, &[("gate.0", &small)]), Err(Error::MissingExperts { .. })));
}

/// Which experts have no tensor of their own, by the name that the file uses.
#[test]
fn experts_that_are_missing() {
    let of = |experts: u64, source: &str, there: &[&str]| {
        let per_expert = manifest(DType::F32, &[experts, H], whole(Source::plain(source)));
        let row = floats(&[H], [0.0; 4]);
        let tensors: Vec<(&str, &Tensor)> = there.iter().map(|name| (*name, &row)).collect();
        make(&per_expert, &tensors).map_err(|error| error.to_string().split("; ").next().unwrap().to_string())
    };
    let missing = |experts: u64, there: &[&str]| of(experts, "e.{e}.w", there).unwrap_err();
    assert_eq!(missing(4, &["e.0.w", "e.1.w"]), "`e.2.w` is missing, and 1 more of the kind (for `gate`), 0 to 1 are there");
    assert_eq!(missing(3, &["e.1.w", "e.2.w"]), "`e.0.w` is missing (for `gate`), 1 to 2 are there");
    let holes = ["e.0.w", "e.2.w", "e.4.w", "e.5.w", "e.7.w", "e.9.w"];
    let expected = "`e.1.w` is missing, and 3 more of the kind (for `gate`), 0, 2, 4 to 5, 7 and others are there";
    assert_eq!(missing(10, &holes), expected);
    // Other names that start alike are no experts.
    let others = ["e.0.w", "e.x.w", "e.01.w", "e.1.w.scale", "e.99999999999999999999.w"];
    assert_eq!(missing(2, &others), "`e.1.w` is missing (for `gate`), 0 is there");
    assert_eq!(of(2, "e.{e}.w{e}", &["e.0.w0", "e.1.w0"]).unwrap_err(), "`e.1.w1` is missing (for `gate`), 0 is there");
    assert_eq!(of(2, "e.{e}.w", &["e.x.w"]).unwrap_err(), "no tensor for `gate`: looked for `e.0.w`");
    assert!(of(2, "e.{e}.w", &["e.0.w", "e.1.w"]).is_ok());
}

/// Tensors of more experts than the layer has; those of identity experts, which are the last, are no mistake.
#[test]
fn experts_that_are_too_many() {
    let row = floats(&[H], [0.0; 4]);
    let make_of = |spare: u64, there: &[&str]| {
        let source = Source { spare, ..Source::plain("e.{e}.w") };
        let tensors: Vec<(&str, &Tensor)> = there.iter().map(|name| (*name, &row)).collect();
        make(&manifest(DType::F32, &[2, H], whole(source)), &tensors)
    };
    let said = "`e.3.w` is of an expert that the layer does not have (for `gate`), 0 to 1, 3 are there; the layer has 2 experts, \
                the checkpoint or `moe.experts` is wrong";
    assert_eq!(make_of(0, &["e.0.w", "e.1.w", "e.3.w"]).unwrap_err().to_string(), said);
    assert_eq!(make_of(1, &["e.0.w", "e.1.w", "e.3.w"]).unwrap_err().to_string(), said);
    assert!(make_of(2, &["e.0.w", "e.1.w", "e.3.w"]).is_ok());
    assert!(make_of(0, &["e.0.w", "e.1.w", "e.01.w", "e.2.w.scale"]).is_ok());
}
