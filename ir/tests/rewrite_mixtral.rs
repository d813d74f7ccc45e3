//! The whole way of one layer through the rewriting.
use moec_ir::Machine;
use moec_ir::graph::{parse, print, verify};
use moec_ir::rewrite::{rewrite, why};

const MIXTRAL: &str = "\
layer @mixtral(%x: tensor<T x 64 x bf16>, @router: tensor<8 x 64 x bf16>, @gate: tensor<8 x 128 x 64 x bf16>, @up: tensor<8 x 128 x 64 x bf16>, @down: tensor<8 x 64 x 128 x bf16>) -> tensor<T x 64 x bf16> {
  %0 = gemm %x, [@router] : tensor<T x 8 x f32>
  %1 = softmax %0 : tensor<T x 8 x f32>
  %2 = top_k %1, %1, 2 : picks<T x 2 of 8>
  %3 = renorm %2, sum(add 0.0) : picks<T x 2 of 8>
  %4 = scale %3, 1.0 : picks<T x 2 of 8>
  %5 = assign %4, dropless : routing<T x 2 of 8>
  %6 = dispatch %x, %5 : tensor<P x 64 x bf16>
  %7 = grouped_gemm %6, %5, [@gate] : tensor<P x 128 x f32>
  %8 = silu %7 : tensor<P x 128 x f32>
  %9 = grouped_gemm %6, %5, [@up] : tensor<P x 128 x f32>
  %10 = mul %8, %9 : tensor<P x 128 x f32>
  %11 = cast %10, bf16 : tensor<P x 128 x bf16>
  %12 = grouped_gemm %11, %5, [@down] : tensor<P x 64 x f32>
  %13 = pair_weights %5 : tensor<P x 1 x f32>
  %14 = mul %12, %13 : tensor<P x 64 x f32>
  %15 = cast %14, bf16 : tensor<P x 64 x bf16>
  %16 = combine %15, %5 : tensor<T x 64 x f32>
  %17 = cast %16, bf16 : tensor<T x 64 x bf16>
  return %17
}
";

#[test]
fn fuses() {
    let graph = parse(MIXTRAL).unwrap();
    assert_eq!(print(&graph), MIXTRAL);
    let typed = verify(graph).unwrap();
    let (machine, tokens) = (Machine::named("sm_90a").unwrap(), [1, 64, 4096]);
    let r = rewrite(&typed, &machine, &tokens);
    println!("{}\n{} -> {} {}", print(r.graph.graph()), r.before, r.after, r.saturated);
    for reason in why(&typed, &r, &machine, &tokens) {
        println!("{reason:?}");
    }
    let text = print(r.graph.graph());
    assert_eq!(print(&parse(&text).unwrap()), text);
}
