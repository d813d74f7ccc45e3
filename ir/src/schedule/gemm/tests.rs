//! GEMM kernels of every machine through the verifier and the interpreter, against sums in f64.

use super::super::combine::Columns;
use super::super::math::Accuracy;
use super::{Gemm, Operand, Pack, group, pack, together};
use crate::graph::{Attr, Body, BodyBuilder, Node, Pointwise};
use crate::kernel::verify::verify_kernel;
use crate::kernel::{Argument, Kernel, Memory, Tensor, View, interp_kernel};
use crate::machine::{self, MACHINES};
use crate::tiling::{self, Kind, Product};
use crate::{DType, Dims, Extent, Machine};

/// A GEMM and what its body means.
struct Case {
    n: usize,
    k: usize,
    /// Rows of each expert, or of the one dense matrix.
    rows: Vec<usize>,
    grouped: bool,
    /// As many rows of each expert, and no table of them.
    even: bool,
    gather: bool,
    dtypes: [DType; 3],
    weights: usize,
    operands: Vec<Operand>,
    body: Body,
    meaning: fn(&[f64]) -> f64,
}

impl Default for Case {
    fn default() -> Case {
        Case {
            n: 33,
            k: 31,
            rows: vec![3, 0, 5, 1, 2],
            grouped: true,
            even: false,
            gather: true,
            dtypes: [DType::F32; 3],
            weights: 1,
            operands: Vec::new(),
            body: Body::identity(),
            meaning: |v| v[0],
        }
    }
}

/// Numbers in -1..1, the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    }

    fn tensor(&mut self, dtype: DType, len: usize) -> Vec<f64> {
        (0..len).map(|_| dtype.round(self.next())).collect()
    }
}

/// Bytes of numbers that are exact in `dtype`.
fn encode(dtype: DType, values: &[f64]) -> Vec<u8> {
    let half = |x: f64| {
        let (scaled, sign) = ((x.abs() * 2f64.powi(24)) as u64, u16::from(x < 0.0) << 15);
        let exponent = (63 - (scaled | 1).leading_zeros() as i32 - 10).max(0);
        let fraction = (scaled >> exponent) as u16;
        let biased = if fraction >= 1 << 10 { (exponent as u16 + 1) << 10 | (fraction & 0x3ff) } else { fraction };
        sign | biased
    };
    let one = |x: &f64| match dtype {
        DType::F32 => (*x as f32).to_le_bytes().to_vec(),
        DType::BF16 => (((*x as f32).to_bits() >> 16) as u16).to_le_bytes().to_vec(),
        DType::F16 => half(*x).to_le_bytes().to_vec(),
        DType::I32 => (*x as i32).to_le_bytes().to_vec(),
        DType::Bool | DType::I64 => Vec::new(),
    };
    values.iter().flat_map(one).collect()
}

fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let half = |h: u16| {
        let (exponent, fraction) = (i32::from(h >> 10 & 0x1f), f64::from(h & 0x3ff));
        let x = if exponent == 0 { fraction * 2f64.powi(-24) } else { (1024.0 + fraction) * 2f64.powi(exponent - 25) };
        if h >> 15 == 1 { -x } else { x }
    };
    let one = |b: &[u8]| match *b {
        [a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
        [a, b] if dtype == DType::F16 => half(u16::from_le_bytes([a, b])),
        [a, b] => f64::from(f32::from_le_bytes([0, 0, a, b])),
        _ => f64::NAN,
    };
    bytes.chunks(dtype.bytes() as usize).map(one).collect()
}

/// Every machine, and each host with weights that lie in panels.
fn machines() -> Vec<Machine> {
    let packed = |machine: &Machine| [machine::Pack::Panels, machine::Pack::F32].map(|pack| Machine { pack, ..machine.clone() });
    let hosts = MACHINES.iter().filter(|machine| !machine.has_threads());
    MACHINES.iter().cloned().chain(hosts.flat_map(packed)).collect()
}

/// Runs the kernel of every machine (each once, machines may share it) and compares every element.
fn check(case: &Case) {
    let mut done: Vec<Kernel> = Vec::new();
    let mut outer: Vec<(&str, Vec<u8>)> = Vec::new();
    for machine in &machines() {
        let mut of_machine: Vec<(Kind, Vec<u8>)> = Vec::new();
        let weights = vec![case.dtypes[1]; case.weights];
        let product = Product { rows: case.dtypes[0], n: case.n as u64, k: case.k as u64, weights: weights.clone(), tf32: false };
        for tiling in tiling::candidates(&product, machine) {
            let spec = Gemm {
                part: 0,
                n: case.n as u64,
                k: case.k as u64,
                experts: case.grouped.then_some(case.rows.len() as u64),
                gather: case.gather,
                pairs: Extent::Tokens * top_k(case),
                rows_of_expert: case.even.then_some(crate::Extent::Const(case.rows[0] as u64)),
                rows: case.dtypes[0],
                weights: weights.iter().map(|weight| tiling::stored(*weight, tiling.kind)).collect(),
                operands: case.operands.clone(),
                body: &case.body,
                out: case.dtypes[2],
                tiling,
                sorted_rows: tiling::most_rows(machine),
                accuracy: Accuracy::of(case.dtypes[2], machine),
            };
            let tiled = together("gemm", &[&spec], &[], machine);
            verify_kernel(&tiled.kernel, machine).unwrap_or_else(|found| panic!("{}: {found:?}", machine.name));
            if !done.contains(&tiled.kernel) {
                of_machine.push((tiling.kind, compare(case, &spec, &tiled, machine)));
                done.push(tiled.kernel);
            }
        }
        // However it is cut, a sum of one kind has the same terms in the same order.
        let of_kind = |kind| of_machine.iter().filter(move |(of, _)| *of == kind).map(|(_, bytes)| bytes).collect::<Vec<_>>();
        for kind in Kind::ALL {
            assert!(of_kind(kind).windows(2).all(|pair| pair[0] == pair[1]), "{} {kind:?}", machine.name);
        }
        // Packed weights are the same, and are added in the same order.
        outer.extend(of_kind(Kind::Outer).into_iter().chain(of_kind(Kind::Packed)).map(|bytes| (machine.name, bytes.clone())));
        assert_eq!(of_kind(Kind::Group).first(), of_kind(Kind::Twin).first(), "{}", machine.name);
    }
    assert!(outer.iter().all(|one| outer.iter().all(|other| one.0 != other.0 || one.1 == other.1)), "the same sums");
}

/// Picks of a token.
fn top_k(case: &Case) -> u64 {
    if case.grouped { 2 } else { 1 }
}

/// A weight in panels of elements of this type.
fn in_panels(case: &Case, bytes: Vec<u8>, out: DType, machine: &Machine) -> Vec<u8> {
    let how = Pack { experts: case.rows.len() as u64, n: case.n as u64, k: case.k as u64, weight: case.dtypes[1], out };
    let kernel = pack("pack", &how, machine);
    verify_kernel(&kernel, machine).unwrap_or_else(|found| panic!("{}: {found:?}", machine.name));
    let none = Dims { tokens: 0, sequence_tokens: 1 };
    let len = how.shape(machine).iter().map(|extent| extent.at(none).unwrap()).product::<u64>() * out.bytes();
    let mut memory = vec![Memory::from(bytes), Memory::unknown(len as usize)];
    let args = [Argument::Buffer(0), Argument::Buffer(1)];
    let blocks = how.grid(machine).at(none).unwrap();
    interp_kernel(&kernel, machine, blocks, &args, &mut memory).unwrap_or_else(|fault| panic!("{}: {fault}", machine.name));
    let [bytes, other] = [0, 0xff].map(|fill| memory[1].bytes_or(fill));
    assert_eq!(bytes, other, "all of the panels is written");
    bytes
}

/// The bytes of the result, held against sums in f64.
fn compare(case: &Case, spec: &Gemm, tiled: &super::Tiled, machine: &Machine) -> Vec<u8> {
    let (n, k) = (case.n, case.k);
    let pairs: usize = case.rows.iter().sum();
    // An odd number of pairs leaves one that was dropped.
    let tokens = pairs.div_ceil(top_k(case) as usize);
    let left = if case.gather || !case.grouped { tokens } else { pairs };
    let mut random = Random(n as u64 * 1000 + k as u64);
    let rows = random.tensor(spec.rows, left * k);
    let token_of_row: Vec<usize> = (0..pairs).map(|p| if case.gather { p * 7 % tokens } else { p }).collect();
    let expert_of_row: Vec<usize> = case.rows.iter().enumerate().flat_map(|(e, rows)| vec![e; *rows]).collect();
    let lines = case.rows.len() * n;
    let weights: Vec<Vec<f64>> = spec.weights.iter().map(|_| random.tensor(case.dtypes[1], lines * k)).collect();

    let mut memory = vec![encode(spec.rows, &rows)];
    if group::has_boxes_of_rows(spec) {
        // As below, of the rows.
        memory[0].resize((left.next_multiple_of(2) + tiling::GROUP_BOX_ROWS as usize) * k * spec.rows.bytes() as usize, 0);
    }
    let ints = |values: &[usize]| encode(DType::I32, &values.iter().map(|v| *v as f64).collect::<Vec<_>>());
    if case.gather {
        memory.push(ints(&token_of_row));
    }
    if case.grouped && !case.even {
        let mut tiles: Vec<(usize, usize)> = Vec::new();
        let mut offsets = vec![0];
        for (e, rows) in case.rows.iter().enumerate() {
            let start = offsets[e];
            tiles.extend((start..start + rows).step_by(spec.sorted_rows as usize).map(|row| (e, row)));
            offsets.push(start + rows);
        }
        let count = tiles.len();
        tiles.push((0, 0));
        memory.push(ints(&tiles.iter().map(|t| t.0).collect::<Vec<_>>()));
        memory.push(ints(&tiles.iter().map(|t| t.1).collect::<Vec<_>>()));
        memory.push(ints(&[count]));
        memory.push(ints(&offsets));
    }
    let dims = Dims { tokens: tokens as u64, sequence_tokens: tokens as u64 };
    let parts = super::parts(spec).map(|parts| Argument::Scalar(parts.at(dims).unwrap() as i64));
    let after_tables = memory.len();
    memory.extend(weights.iter().zip(&spec.weights).map(|(w, stored)| {
        let bytes = encode(case.dtypes[1], w);
        if spec.tiling.kind.pack() == machine::Pack::None { bytes } else { in_panels(case, bytes, *stored, machine) }
    }));
    let mut holes: Vec<Vec<f64>> = Vec::new();
    for operand in &spec.operands {
        let (dtype, len) = match operand {
            Operand::ExpertRow(dtype) => (*dtype, lines),
            Operand::PairWeight => (DType::F32, pairs),
            Operand::One(dtype) => (*dtype, 1),
            Operand::Row(dtype) => (*dtype, n),
            Operand::Columns(dtype, columns) => (*dtype, pairs * columns.pitch as usize),
            Operand::Full(dtype) => (*dtype, pairs * n),
        };
        let values = random.tensor(dtype, len);
        memory.push(encode(dtype, &values));
        holes.push(values);
    }
    let out = memory.len();
    let mut memory: Vec<Memory> = memory.into_iter().map(Memory::from).collect();
    // Behind the rows there is room for what a box has behind the last one.
    let behind = tiling::GROUP_BOX_ROWS as usize;
    memory.push(Memory::unknown((pairs.next_multiple_of(2) + behind) * n * spec.out.bytes() as usize));
    let mut args: Vec<Argument> = (0..memory.len()).map(Argument::Buffer).collect();
    let of_rows = |spec: &Gemm, index: usize, elements: usize| {
        let (extents, strides) = group::tensor(spec, elements as u64);
        Argument::TensorMap(index, View { buffer: 0, extents, strides }.at(dims).unwrap())
    };
    if group::has_boxes_of_rows(spec) {
        args[0] = of_rows(spec, 0, k);
    }
    if group::has_boxes_of_results(spec) {
        args[out] = of_rows(spec, out, n);
    }
    if matches!(spec.tiling.kind, Kind::Group | Kind::Twin) {
        for (i, arg) in args.iter_mut().enumerate().skip(after_tables).take(weights.len()) {
            let experts = if case.grouped { case.rows.len() } else { 1 };
            let extents = [experts, n, k].map(|extent| extent as u64);
            *arg = Argument::TensorMap(i, Tensor { extents, strides: [(n * k) as u64, k as u64] });
        }
    }
    parts.into_iter().for_each(|parts| args.insert(after_tables, parts));
    if !case.grouped {
        args.push(Argument::Scalar(tokens as i64));
    }
    if case.even {
        args.push(Argument::Scalar(case.rows[0] as i64));
    }
    // Two blocks that stay are enough to have several tiles each.
    let counts = super::counts(&[spec], machine);
    let together = u64::from(spec.tiling.kind.blocks());
    let blocks = tiled.grid.at(dims).unwrap().min(if counts.is_empty() { u64::MAX } else { 2 * together });
    for (name, count) in &counts {
        let count = count.at(dims).unwrap();
        args.push(Argument::Scalar(if *name == "block_count" { blocks } else { count } as i64));
    }
    interp_kernel(&tiled.kernel, machine, blocks, &args, &mut memory).unwrap_or_else(|fault| panic!("{}: {fault}", machine.name));

    // Every element is written, and nothing behind them.
    let (len, [bytes, other]) = (pairs * n * spec.out.bytes() as usize, [0, 0xff].map(|fill| memory[out].bytes_or(fill)));
    assert_eq!(bytes[..len], other[..len], "{}", machine.name);
    assert!(bytes[len..].iter().all(|byte| *byte == 0) && other[len..].iter().all(|byte| *byte == 0xff), "{}", machine.name);
    let bytes = &bytes[..len];
    let given = decode(spec.out, bytes);
    for p in 0..pairs {
        let (e, t) = (expert_of_row[p], token_of_row[p]);
        for c in 0..n {
            let terms = |w: &Vec<f64>| -> Vec<f64> { (0..k).map(|i| rows[t * k + i] * w[(e * n + c) * k + i]).collect() };
            let mut values: Vec<f64> = weights.iter().map(|w| terms(w).iter().sum()).collect();
            let size: f64 = weights.iter().flat_map(terms).map(f64::abs).sum();
            values.extend(spec.operands.iter().zip(&holes).map(|(operand, v)| match operand {
                Operand::ExpertRow(_) => v[e * n + c],
                Operand::PairWeight => v[p],
                Operand::Columns(_, of) => {
                    v[p * of.pitch as usize + of.first as usize + of.each.map_or(0, |each| c / each as usize)]
                }
                Operand::One(_) => v[0],
                Operand::Row(_) => v[c],
                Operand::Full(_) => v[p * n + c],
            }));
            let expected = (case.meaning)(&values);
            let out_error = match spec.out {
                DType::F16 => 2f64.powi(-10),
                DType::BF16 => 2f64.powi(-7),
                DType::Bool | DType::I32 | DType::I64 | DType::F32 => 2f64.powi(-22),
            };
            let allowed =
                out_error * expected.abs() + 4e-7 * (1.0 + size) * (1.0 + values.iter().fold(0.0, |m, v| v.abs().max(m)));
            let got = given[p * n + c];
            assert!((got - expected).abs() <= allowed, "{}: [{p}, {c}] is {got}, not {expected}", machine.name);
        }
    }
    bytes.to_vec()
}

/// `ops[1](ops[0]($0, $1), $2)` and so on.
fn chain(ops: &[Pointwise]) -> Body {
    let mut b = BodyBuilder::default();
    let mut root = b.add(Node::Hole(0));
    for (i, op) in ops.iter().enumerate() {
        let other = b.add(Node::Hole(i as u32 + 1));
        root = b.add(Node::apply(*op, &[root, other]));
    }
    b.finish(root)
}

/// `mul (silu $0) $1`.
fn silu_mul() -> Body {
    let mut b = BodyBuilder::default();
    let (gate, up) = (b.add(Node::Hole(0)), b.add(Node::Hole(1)));
    let gate = b.add(Node::apply(Pointwise::Silu, &[gate]));
    let root = b.add(Node::apply(Pointwise::Mul, &[gate, up]));
    b.finish(root)
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

#[test]
fn odd_sums() {
    for k in [1, 7, 33, 511] {
        for dtype in [DType::F32, DType::BF16] {
            check(&Case { n: 7, k, rows: vec![3, 0, 1], dtypes: [dtype, dtype, DType::F32], ..Case::default() });
        }
    }
}

/// Slices of lanes that are whole, that end within a warp, and of which some lanes have none.
#[test]
fn sums_of_lanes() {
    for (k, dtype) in
        [(4, DType::F32), (128, DType::F32), (132, DType::F32), (8, DType::BF16), (264, DType::F16), (520, DType::BF16)]
    {
        let dtypes = [dtype, dtype, DType::F32];
        check(&Case { n: 19, k, rows: vec![3, 0, 9, 1], dtypes, ..Case::default() });
        check(&Case {
            n: 16,
            k,
            rows: vec![5],
            weights: 2,
            body: silu_mul(),
            meaning: |v| silu(v[0]) * v[1],
            dtypes,
            ..Case::default()
        });
    }
}

#[test]
fn sums_in_panels() {
    check(&Case { n: 2, k: 1037, rows: vec![5], ..Case::default() });
}

#[test]
fn odd_widths() {
    for n in [1, 7, 31, 65, 130] {
        check(&Case { n, k: 7, rows: vec![2, 5], ..Case::default() });
        check(&Case { n, k: 33, rows: vec![9], weights: 2, body: silu_mul(), meaning: |v| silu(v[0]) * v[1], ..Case::default() });
    }
}

#[test]
fn as_many_rows_of_each_expert() {
    for each in [1, 3, 64, 65, 130] {
        let biased = Case { operands: vec![Operand::ExpertRow(DType::F32)], body: chain(&[Pointwise::Add]), ..Case::default() };
        check(&Case { rows: vec![each; 3], even: true, gather: false, meaning: |v| v[0] + v[1], ..biased });
    }
}

#[test]
fn rows_of_experts() {
    let rows = vec![0, 1, 2, 3, 0, 5, 13, 64, 65, 0];
    for gather in [false, true] {
        check(&Case { n: 5, k: 6, rows: rows.clone(), gather, ..Case::default() });
    }
}

#[test]
fn dense() {
    for rows in [1, 2, 33, 65] {
        check(&Case { n: 17, k: 40, rows: vec![rows], grouped: false, gather: false, ..Case::default() });
    }
}

#[test]
fn element_types() {
    use DType::{BF16, F16, F32};
    for dtypes in [[F16, F16, F16], [BF16, BF16, BF16], [BF16, F32, F16], [F32, BF16, BF16], [F16, BF16, F32]] {
        check(&Case { n: 17, k: 67, dtypes, ..Case::default() });
    }
}

/// Products of matrices: K in whole slices and not, in copies of 16, 8 and 4 bytes and in loads of 2, of one slice and of more than there
/// are stages.
#[test]
fn products_of_matrices() {
    for (k, dtype) in [
        (64, DType::BF16),
        (200, DType::F16),
        (36, DType::BF16),
        (14, DType::F16),
        (2, DType::BF16),
        (263, DType::BF16),
        (3, DType::F16),
    ] {
        let dtypes = [dtype, dtype, DType::F32];
        let has_one = |machine: &Machine| {
            let product = Product { rows: dtype, n: 70, k, weights: vec![dtype], tf32: false };
            tiling::candidates(&product, machine).iter().any(|tiling| tiling.kind == Kind::Mma)
        };
        assert!(MACHINES.iter().all(|machine| has_one(machine) == machine.has_threads()));
        check(&Case { n: 70, k: k as usize, rows: vec![3, 0, 17, 65], dtypes, ..Case::default() });
        check(&Case { n: 128, k: k as usize, rows: vec![33], grouped: false, gather: false, dtypes, ..Case::default() });
        // Fewer columns than a matrix has, and so few that no warp has some of its matrices.
        for n in [1, 9, 24] {
            check(&Case { n, k: k as usize, rows: vec![33], grouped: false, gather: false, dtypes, ..Case::default() });
        }
    }
    for k in [96, 95] {
        let gated = Case { weights: 2, body: silu_mul(), meaning: |v| silu(v[0]) * v[1], ..Case::default() };
        check(&Case { n: 73, k, dtypes: [DType::BF16; 3], even: true, rows: vec![40; 3], gather: false, ..gated });
    }
}

/// Products of four warps: K in whole stages and not, of one stage and of more than there are; each width; columns beyond the edge.
#[test]
fn products_of_groups() {
    let gathered = [(136, 64, vec![3, 0, 65], true), (9, 72, vec![129], true)];
    // Boxes that begin before the first row of an expert and end with its last.
    let by_boxes = [(70, 456, vec![17], false), (136, 72, vec![0, 5, 33, 0, 129], false)];
    for (n, k, rows, gather) in gathered.into_iter().chain(by_boxes) {
        for out in [DType::BF16, DType::F32] {
            check(&Case { n, k, rows: rows.clone(), gather, dtypes: [DType::BF16, DType::BF16, out], ..Case::default() });
        }
    }
    let gated = Case { weights: 2, body: silu_mul(), meaning: |v| silu(v[0]) * v[1], ..Case::default() };
    let even = Case { dtypes: [DType::F16; 3], even: true, gather: false, ..gated };
    for (n, rows) in [(132, vec![40; 3]), (136, vec![40; 3]), (136, vec![150; 2])] {
        check(&Case { n, k: 128, rows, body: silu_mul(), operands: Vec::new(), ..even });
    }
    // Boxes that end with the last row of all.
    check(&Case { n: 136, k: 72, rows: vec![150], grouped: false, gather: false, dtypes: [DType::BF16; 3], ..Case::default() });
    // All operands, at rows and columns beyond the edge too.
    let operands = vec![Operand::ExpertRow(DType::BF16), Operand::PairWeight, Operand::Full(DType::F32)];
    let body = chain(&[Pointwise::Add, Pointwise::Mul, Pointwise::Add]);
    let meaning = |v: &[f64]| (v[0] + v[1]) * v[2] + v[3];
    for n in [130, 136] {
        let (operands, body) = (operands.clone(), body.clone());
        check(&Case { n, k: 64, rows: vec![5, 20], operands, body, meaning, dtypes: [DType::BF16; 3], ..Case::default() });
    }
}

/// Columns that lie in a wider matrix, each for some neighbours, whole vectors of them or not.
#[test]
fn columns() {
    for (n, pitch, first, each) in
        [(32, 2, 0, Some(16)), (48, 5, 2, Some(16)), (21, 9, 6, Some(7)), (19, 19, 0, Some(1)), (24, 7, 3, None)]
    {
        let operands = vec![Operand::Columns(DType::BF16, Columns { pitch, first, each })];
        check(&Case { n, operands, body: chain(&[Pointwise::Mul]), meaning: |v| v[0] * v[1], ..Case::default() });
    }
}

#[test]
fn operands() {
    let operands = vec![
        Operand::ExpertRow(DType::BF16),
        Operand::PairWeight,
        Operand::Row(DType::F16),
        Operand::Columns(DType::F32, Columns { pitch: 1, first: 0, each: None }),
        Operand::Full(DType::F32),
        Operand::One(DType::BF16),
    ];
    let body = chain(&[Pointwise::Add, Pointwise::Mul, Pointwise::Add, Pointwise::Mul, Pointwise::Add, Pointwise::Mul]);
    let meaning = |v: &[f64]| (((v[0] + v[1]) * v[2] + v[3]) * v[4] + v[5]) * v[6];
    check(&Case { n: 19, operands: operands.clone(), body: body.clone(), meaning, ..Case::default() });
    let rows = vec![6];
    let operands = operands[2..].to_vec();
    let body = chain(&[Pointwise::Add, Pointwise::Mul, Pointwise::Add, Pointwise::Mul]);
    let meaning = |v: &[f64]| ((v[0] + v[1]) * v[2] + v[3]) * v[4];
    check(&Case { n: 32, rows, grouped: false, gather: false, operands, body, meaning, ..Case::default() });
}

#[test]
fn bodies_that_end_in_a_cast() {
    for dtype in [DType::F16, DType::BF16] {
        let body = silu_mul().then(Pointwise::Cast, &[Attr::DType(dtype)]);
        let dtypes = [dtype, dtype, dtype];
        check(&Case { n: 21, k: 64, weights: 2, dtypes, body, meaning: |v| silu(v[0]) * v[1], ..Case::default() });
    }
}

/// GPT-OSS: `(min(max(u, -7), 7) + 1) g sigmoid(1.702 g)` with `g = min($0, 7)`, at a smaller clamp.
#[test]
fn clamped_swiglu() {
    let real = |x: f64| Attr::Real(x.into());
    let mut b = BodyBuilder::default();
    let up = Body::identity()
        .then(Pointwise::AtLeast, &[real(-0.7)])
        .then(Pointwise::AtMost, &[real(0.7)])
        .then(Pointwise::Offset, &[real(1.0)]);
    let up = b.inline(&up, |_| Node::Hole(1));
    let gate = b.inline(&Body::identity().then(Pointwise::AtMost, &[real(0.7)]), Node::Hole);
    let slope = b.add(Node::Attr(real(1.702)));
    let scaled = b.add(Node::apply(Pointwise::Scale, &[gate, slope]));
    let sigmoid = b.add(Node::apply(Pointwise::Sigmoid, &[scaled]));
    let gated = b.add(Node::apply(Pointwise::Mul, &[gate, sigmoid]));
    let root = b.add(Node::apply(Pointwise::Mul, &[up, gated]));
    let meaning = |v: &[f64]| {
        let gate = v[0].min(0.7);
        (v[1].clamp(-0.7, 0.7) + 1.0) * gate / (1.0 + (-1.702 * gate).exp())
    };
    check(&Case { weights: 2, body: b.finish(root), meaning, ..Case::default() });
}

#[test]
fn unary_bodies() {
    fn gelu_tanh(x: f64) -> f64 {
        x / 2.0 * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh())
    }
    type Meaning = fn(&[f64]) -> f64;
    let cases: [(&[Pointwise], Meaning); 3] = [
        (&[Pointwise::Relu, Pointwise::Square], |v| v[0].max(0.0).powi(2)),
        (&[Pointwise::GeluTanh], |v| gelu_tanh(v[0])),
        (&[Pointwise::Sigmoid, Pointwise::Silu], |v| silu(1.0 / (1.0 + (-v[0]).exp()))),
    ];
    for (ops, meaning) in cases {
        let body = ops.iter().fold(Body::identity(), |body, op| body.then(*op, &[]));
        check(&Case { n: 18, k: 8, body, meaning, ..Case::default() });
    }
}

#[test]
fn many_weights_fit_every_machine() {
    let body = chain(&[Pointwise::Add; 11]);
    check(&Case { n: 3, k: 5, rows: vec![2, 1], weights: 12, body, meaning: |v| v.iter().sum(), ..Case::default() });
}

/// The same row in every place of a tile, and alone, has the same bits.
#[test]
fn a_row_does_not_depend_on_its_place() {
    for machine in MACHINES.iter().filter(|machine| !machine.has_threads()) {
        for (dtype, k) in [(DType::F32, 77), (DType::BF16, 77), (DType::BF16, 2085)] {
            let body = Body::identity();
            let n = 5;
            let product = Product { rows: dtype, n: n as u64, k: k as u64, weights: vec![dtype], tf32: false };
            let spec = Gemm {
                part: 0,
                n: n as u64,
                k: k as u64,
                experts: None,
                gather: false,
                pairs: Extent::Tokens,
                rows_of_expert: None,
                rows: dtype,
                weights: vec![dtype],
                operands: Vec::new(),
                body: &body,
                out: DType::F32,
                tiling: tiling::candidates(&product, machine)[0],
                sorted_rows: tiling::most_rows(machine),
                accuracy: Accuracy::of(DType::F32, machine),
            };
            let mut random = Random(3);
            let (row, weights) = (random.tensor(dtype, k), random.tensor(dtype, n * k));
            let mut results: Vec<Vec<u8>> = Vec::new();
            for rows in [1, 2, 3, 4, 7, 8, 15] {
                let tiled = together("gemm", &[&spec], &[], machine);
                let x = encode(dtype, &row).repeat(rows);
                let mut memory = vec![Memory::from(x), encode(dtype, &weights).into(), Memory::unknown(rows * n * 4)];
                let args = [Argument::Buffer(0), Argument::Buffer(1), Argument::Buffer(2), Argument::Scalar(rows as i64)];
                interp_kernel(&tiled.kernel, machine, 1, &args, &mut memory).unwrap();
                results.extend(memory[2].bytes().unwrap().chunks(n * 4).map(<[u8]>::to_vec));
            }
            assert!(results.iter().all(|result| *result == results[0]), "{}", machine.name);
        }
    }
}
