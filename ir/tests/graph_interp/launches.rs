//! Several values by one launch, and each of them.

use moec_ir::graph::{Op, Value};

use super::{Given, eval, tensor};

/// Twice and three times the row, as values and as parts.
const LAUNCH: [&str; 2] = [
    "%a = gemm %x, [@w] : ? %b = gemm %x, [@v] : ? %l = launch %a, %b : ?",
    "%a = gemm %x, [@w], beside(tile(64 by 64)) : ? %b = gemm %x, [@v], beside(dot(4 by 16)) : ? %l = launch %a, %b : ?",
];
const LAUNCHED: Given = &[("%x", &[1, 1], &[5.0]), ("@w", &[1, 1], &[2.0]), ("@v", &[1, 1], &[3.0])];

pub(super) fn launch() {
    for lines in LAUNCH {
        let y = eval(Op::Launch, &format!("{lines} %y = item %l, 1 : ?"), LAUNCHED);
        let Value::List(values) = y else { panic!("not a list: {y:?}") };
        let numbers: Vec<f64> = values.into_iter().flat_map(|value| tensor(value).data.to_vec()).collect();
        assert_eq!(numbers, [10.0, 15.0]);
    }
}

pub(super) fn item() {
    for (i, number) in [10.0, 15.0].into_iter().enumerate() {
        let y = tensor(eval(Op::Item, &format!("{} %y = item %l, {i} : ?", LAUNCH[1]), LAUNCHED));
        assert_eq!(y.data.to_vec(), [number]);
    }
}
