//! What operations compute.

use expect_test::expect;
use ir::types::ScalarType;
use ir::value::TensorValue;
use lantern::{Axes, Spec, Tensor, nn, stage, value};
use ndarray::array as a;

use crate::{assert_close, both};

fn run(specs: &[&str], inputs: &[TensorValue], f: impl FnOnce(&[Tensor]) -> Tensor) -> TensorValue {
    let f = stage("f", specs.iter().map(|s| Spec::from(*s)), f).unwrap_or_else(|e| panic!("{e}"));
    both(&f, inputs).unwrap_or_else(|e| panic!("{e}")).remove(0)
}

fn of_x(f: impl FnOnce(&Tensor) -> Tensor) -> TensorValue {
    run(&["x: f64[2, 3]"], &[value(a![[1.0, -2.0, 3.0], [0.0, 5.0, -6.0]])], |t| f(&t[0]))
}

#[test]
fn elementwise() {
    assert_eq!(of_x(|x| x.relu()), value(a![[1.0, 0.0, 3.0], [0.0, 5.0, 0.0]]));
    assert_eq!(of_x(|x| -x * 2.0 + 1.0), value(a![[-1.0, 5.0, -5.0], [1.0, -9.0, 13.0]]));
    assert_eq!(of_x(|x| 6.0 / x.maximum(1.0)), value(a![[6.0, 6.0, 2.0], [6.0, 1.2, 6.0]]));
    assert_eq!(of_x(|x| x.gt(0.0)), value(a![[true, false, true], [false, true, false]]));
    assert_eq!(of_x(|x| x.le(0.0).choose(&x.abs(), &x.sign())), value(a![[1.0, 2.0, 1.0], [0.0, 1.0, 6.0]]));
    assert_eq!(of_x(|x| x.cast(ScalarType::I32).rem(4.0)), value(a![[1, -2, 3], [0, 1, -2]]));
    assert_eq!(
        of_x(|x| x.ge(1.0).logical_and(x.lt(4.0)).logical_not()),
        value(a![[false, true, false], [true, true, true]])
    );
    assert_close("softplus", &of_x(|x| x.softplus()), &of_x(|x| (x.exp() + 1.0).log()), 1e-12);
    let gelu = a![[0.841344746068543, -0.045500263896358, 2.995950305905018], [0.0, 4.999998566741794, 0.0]];
    assert_close("gelu", &of_x(|x| x.gelu()), &value(gelu), 1e-7);
    let e = a![[1.0, (-2.0f64).exp(), 3.0], [0.0, 5.0, 0.5]];
    assert_close(
        "pow",
        &run(&["x: f64[2, 3]"], &[value(e.clone())], |t| t[0].pow(2.5)),
        &value(e.mapv(|x| x.powf(2.5))),
        1e-12,
    );
}

#[test]
fn broadcasting() {
    let row = value(a![10.0, 20.0, 30.0]);
    let column = value(a![[1.0], [2.0]]);
    let sum =
        |specs: [&str; 2], x: &TensorValue, y: &TensorValue| run(&specs, &[x.clone(), y.clone()], |t| &t[0] + &t[1]);
    let both = value(a![[11.0, 21.0, 31.0], [12.0, 22.0, 32.0]]);
    assert_eq!(sum(["x: f64[3]", "y: f64[2, 1]"], &row, &column), both);
    assert_eq!(sum(["x: f64[n, 1]", "y: f64[m]"], &column, &row), both);
    assert_eq!(sum(["x: f64[]", "y: f64[3]"], &value(1.0), &row), value(a![11.0, 21.0, 31.0]));
}

#[test]
fn reductions() {
    assert_eq!(of_x(|x| x.sum(0)), value(a![1.0, 3.0, -3.0]));
    assert_eq!(of_x(|x| x.sum_keep(-1)), value(a![[2.0], [-1.0]]));
    assert_eq!(of_x(|x| x.mean(Axes::All)), value(1.0 / 6.0));
    assert_eq!(of_x(|x| x.max(1)), value(a![3.0, 5.0]));
    assert_eq!(of_x(|x| x.min_keep(0)), value(a![[0.0, -2.0, -6.0]]));
    assert_eq!(of_x(|x| x.product(1)), value(a![-6.0, 0.0]));
    assert_eq!(of_x(|x| x.argmax(1)), value(a![2i64, 1]));
    assert_eq!(of_x(|x| x.argmin(0)), value(a![1i64, 0, 1]));
    assert_eq!(of_x(|x| x.gt(-3.0).all(1)), value(a![true, false]));
    assert_eq!(of_x(|x| x.gt(4.0).any(0)), value(a![false, true, false]));
    assert_eq!(of_x(|x| x.cumsum(1)), value(a![[1.0, -1.0, 2.0], [0.0, 5.0, -1.0]]));
    assert_eq!(of_x(|x| x.sum(x.rank() as i32 - 1).mean(0)), value(0.5));
    assert_close("softmax", &of_x(|x| x.softmax(1).sum(1)), &value(a![1.0, 1.0]), 1e-12);
    assert_close("log_softmax", &of_x(|x| x.log_softmax(1)), &of_x(|x| x.softmax(1).log()), 1e-12);
    assert_close("logsumexp", &of_x(|x| x.logsumexp(0)), &of_x(|x| x.exp().sum(0).log()), 1e-12);
    let far = run(&["x: f64[2]"], &[value(a![1000.0, -1000.0])], |t| t[0].softmax(0));
    assert_eq!(far, value(a![1.0, 0.0]));
}

#[test]
fn moves() {
    assert_eq!(of_x(|x| x.t()), value(a![[1.0, 0.0], [-2.0, 5.0], [3.0, -6.0]]));
    assert_eq!(of_x(|x| x.permute(&[-1, 0])), of_x(|x| x.t()));
    assert_eq!(of_x(|x| x.reshape([3usize, 2])), value(a![[1.0, -2.0], [3.0, 0.0], [5.0, -6.0]]));
    assert_eq!(of_x(|x| x.slice(1, 1..3)), value(a![[-2.0, 3.0], [5.0, -6.0]]));
    assert_eq!(of_x(|x| x.slice_by(1, 0usize, 2usize, 2)), value(a![[1.0, 3.0], [0.0, -6.0]]));
    assert_eq!(of_x(|x| x.flip(0).slice(0, 0..1).squeeze(0)), value(a![0.0, 5.0, -6.0]));
    assert_eq!(of_x(|x| x.slice(0, 0..1).pad(0, 1, 0)), value(a![[0.0, 0.0, 0.0], [1.0, -2.0, 3.0]]));
    let twice = of_x(|x| Tensor::concat(&[x, &x.slice(1, 0..1)], 1).unwrap());
    assert_eq!(twice, value(a![[1.0, -2.0, 3.0, 1.0], [0.0, 5.0, -6.0, 0.0]]));
    assert_eq!(of_x(|x| x.slice(1, 0..1).broadcast_to([2usize, 2])), value(a![[1.0, 1.0], [0.0, 0.0]]));
    let rows = run(&["x: f64[3, 1]", "i: i32[n]"], &[value(a![[1.0], [2.0], [3.0]]), value(a![2i32, 0])], |t| {
        t[0].gather(&t[1])
    });
    assert_eq!(rows, value(a![[3.0], [1.0]]));
    let sums = run(
        &["x: f64[3]", "i: i64[n]", "u: f64[n]"],
        &[value(a![1.0, 2.0, 3.0]), value(a![2i64, 2]), value(a![10.0, 20.0])],
        |t| t[0].scatter_add(&t[1], &t[2]),
    );
    assert_eq!(sums, value(a![1.0, 2.0, 33.0]));
}

#[test]
fn products() {
    let (x, y) = (a![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], a![[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]]);
    let both = [value(x.clone()), value(y.clone())];
    let specs = ["x: f64[2, 3]", "y: f64[3, 2]"];
    assert_eq!(run(&specs, &both, |t| t[0].matmul(&t[1])), value(x.dot(&y)));
    assert_eq!(run(&specs, &both, |t| t[0].contract("ij,jk->ki", &t[1])), value(x.dot(&y).t().to_owned()));
    assert_eq!(run(&specs, &both, |t| nn::linear(&t[0], &t[1].t(), None)), value(x.dot(&y)));
    let batches = run(&specs, &both, |t| t[0].unsqueeze(0).broadcast_to([4usize, 2, 3]).matmul(&t[1]).sum(0));
    assert_eq!(batches, value(x.dot(&y) * 4.0));
    assert_eq!(
        run(&["x: f64[3]", "y: f64[3]"], &[value(x.row(0).to_owned()), value(x.row(1).to_owned())], |t| {
            t[0].matmul(&t[1])
        }),
        value(32.0)
    );
}

#[test]
fn tensors_from_nothing() {
    let f = stage("f", ["x: f32[n]"], |t| {
        let s = t[0].scope();
        let n = [t[0].dim(0)];
        let u = s.uniform(ScalarType::F32, &[1000.into()], 2.0, 3.0, 1, 0);
        let z = s.normal(ScalarType::F64, &[4000.into()], 1, 1);
        vec![
            s.iota(ScalarType::I32, &n, 0),
            s.full(ScalarType::F64, &n, 0.5),
            s.size(&n[0].clone().times(3.into()).plus(1.into())),
            u.min(0),
            u.max(0),
            z.mean(0),
            z.square().mean(0),
            u.slice(0, 0..2).eq(s.uniform(ScalarType::F32, &[2.into()], 2.0, 3.0, 1, 0)).all(0),
            u.slice(0, 0..2).eq(s.uniform(ScalarType::F32, &[2.into()], 2.0, 3.0, 1, 7)).any(0),
        ]
    });
    let out = both(&f.unwrap(), &[value(a![1f32, 2.0, 3.0])]).unwrap();
    assert_eq!(out[0], value(a![0i32, 1, 2]));
    assert_eq!(out[1], value(a![0.5, 0.5, 0.5]));
    assert_eq!(out[2], value(10i64));
    let number = |i: usize| crate::doubles(&out[i])[0];
    assert!(number(3) >= 2.0 && number(3) < 2.01 && number(4) < 3.0 && number(4) > 2.99);
    assert!(number(5).abs() < 0.05 && (number(6) - 1.0).abs() < 0.08);
    assert_eq!((&out[7], &out[8]), (&value(true), &value(false)));
}

#[test]
fn losses_of_classes() {
    let logits = value(a![[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]);
    let loss = |y: [i64; 2]| {
        let f = stage("f", ["x: f64[n, 3]", "y: i64[n]"], |t| nn::cross_entropy(&t[0], &t[1])).unwrap();
        both(&f, &[logits.clone(), value(ndarray::arr1(&y))])
    };
    let row = |v: [f64; 3], k: usize| v.iter().map(|x| x.exp()).sum::<f64>().ln() - v[k];
    let want = (row([2.0, 0.0, 1.0], 0) + row([0.0, 3.0, 0.0], 2)) / 2.0;
    assert_close("cross entropy", &loss([0, 2]).unwrap()[0], &value(want), 1e-12);
    for wrong in [[0, 3], [-1, 0]] {
        assert!(loss(wrong).is_err(), "class {wrong:?} is out of range");
    }
}

#[test]
fn the_gradient_of_a_layer_is_two_products_and_a_sum() {
    let f = stage("layer", ["x: f32[n, 3]", "w: f32[2, 3]", "b: f32[2]"], |t| {
        let y = nn::linear(&t[0], &t[1], Some(&t[2])).relu().sum(Axes::All);
        y.grad(&[&t[1], &t[2]])
    });
    expect![[r#"
        program {
          symbol s0 "n"
          input in0 "x": f32[s0, 3]
          input in1 "w": f32[2, 3]
          input in2 "b": f32[2]
          func @layer() -> (f32[2, 3], f32[2]) {
            %0 = input in0 : f32[s0, 3]
            %1 = input in1 : f32[2, 3]
            %2 = input in2 : f32[2]
            %3 = contract<"ay,zy->az"> %0, %1 : f32[s0, 2]
            %4 = view %2 (broadcast [s0, 2] dims [1]) : f32[s0, 2]
            %5 = map %3, %4 [s0, 2] |%6: f32, %7: f32| {
              %8 = add %6, %7 : f32
              yield %8
            } : f32[s0, 2]
            %9 = map %5 [s0, 2] |%10: f32| {
              %11 = literal 0.0 : f32
              %12 = max %11, %10 : f32
              yield %12
            } : f32[s0, 2]
            %13 = reduce<sum> %9 [0, 1] : f32[]
            %14 = const<f32> [] [1.0] : f32[]
            %15 = view %14 (broadcast [s0, 2] dims []) : f32[s0, 2]
            %16 = map %5, %15 [s0, 2] |%17: f32, %18: f32| {
              %19 = literal 0.0 : f32
              %20 = gt %17, %19 : bool
              %21 = select %20, %18, %19 : f32
              yield %21
            } : f32[s0, 2]
            %22 = reduce<sum> %16 [0] : f32[2]
            %23 = contract<"az,ay->zy"> %16, %0 : f32[2, 3]
            yield %23, %22
          }
          entry @layer
          result "out0"
          result "out1"
        }
    "#]]
    .assert_eq(&f.unwrap().to_string());
}
