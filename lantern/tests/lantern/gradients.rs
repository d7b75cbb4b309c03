//! Every operation against finite differences, in `f64`.

use std::slice::from_ref;

use ir::types::ScalarType;
use ir::value::TensorValue;
use lantern::{Axes, Scope, Spec, Tensor, check_gradients, nn, value};
use ndarray::{Array, ArrayD, IxDyn};

use crate::both;

/// Numbers without ties or kinks nearby, in about ±1.7.
pub(crate) fn numbers(shape: &[usize], seed: u64) -> TensorValue {
    let n: usize = shape.iter().product();
    let number = |i: usize| {
        let k = (i as u64 * 2 + 1)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(seed.wrapping_mul(0xD1B5_4A32_D192_ED03));
        let k = (k ^ (k >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let unit = (k >> 11) as f64 / (1u64 << 53) as f64;
        let v = unit * 3.2 - 1.6;
        if v.abs() < 0.05 { v + 0.1 } else { v }
    };
    value(ArrayD::from_shape_vec(IxDyn(shape), (0..n).map(number).collect::<Vec<f64>>()).unwrap())
}

fn positive(shape: &[usize], seed: u64) -> TensorValue {
    let v: ArrayD<f64> = lantern::array(&numbers(shape, seed)).unwrap();
    value(v.mapv(|x| x.abs() + 0.2))
}

pub(crate) fn indices(v: &[i64]) -> TensorValue {
    value(Array::from(v.to_vec()))
}

/// Weights each element differently before the sum, so that no error cancels.
pub(crate) fn weigh(y: &Tensor) -> Tensor {
    let sizes: Vec<usize> = y.shape().iter().map(|d| d.as_const().unwrap_or(1)).collect();
    if y.shape().iter().any(|d| d.as_const().is_none()) {
        // A symbolic size: weights by position along the first axis.
        let i = y.scope().iota(ScalarType::F64, y.shape(), 0);
        return (y * (i + 1.0).sin()).sum(Axes::All);
    }
    (y * y.scope().constant(numbers(&sizes, 99))).sum(Axes::All)
}

#[track_caller]
pub(crate) fn check(specs: &[&str], inputs: &[TensorValue], f: impl Fn(&[Tensor]) -> Tensor) {
    let specs: Vec<Spec> = specs.iter().map(|s| (*s).into()).collect();
    if let Err(e) = check_gradients(&specs, |t| weigh(&f(t)), inputs, 1e-6) {
        panic!("{e}");
    }
    // The same, compiled.
    let wrt: Vec<usize> = (0..inputs.len()).filter(|i| inputs[*i].data.dtype() == ScalarType::F64).collect();
    let backward = lantern::stage("backward", &specs, lantern::value_and_grad(|t| weigh(&f(t)), &wrt)).unwrap();
    both(&backward, inputs).unwrap_or_else(|e| panic!("{e}\n{backward}"));
}

#[test]
fn elementwise() {
    let x = || [numbers(&[2, 3], 1)];
    type F = fn(&Tensor) -> Tensor;
    let on_all: [F; 24] = [
        |x| x.exp(),
        |x| x.sin(),
        |x| x.cos(),
        |x| x.tanh(),
        |x| x.sigmoid(),
        |x| x.erf(),
        |x| x.abs(),
        |x| x.relu(),
        |x| x.gelu(),
        |x| x.softplus(),
        |x| x.square(),
        |x| -x,
        |x| x + 2.0,
        |x| 2.0 - x,
        |x| x * 3.0,
        |x| 3.0 / x,
        |x| x.maximum(0.1),
        |x| x.minimum(0.1),
        |x| x.pow(3.0),
        |x| x.softmax(-1),
        |x| x.log_softmax(0),
        |x| x.logsumexp(1),
        |x| x.cast(ScalarType::F32).cast(ScalarType::F64) * 0.0 + x,
        |x| x.gt(0.0).choose(&(x * 2.0), &x.square()),
    ];
    for f in on_all {
        check(&["x: f64[2, 3]"], &x(), |t| f(&t[0]));
    }
    let on_positive: [F; 4] = [|x| x.log(), |x| x.log1p(), |x| x.sqrt(), |x| x.pow(-1.5)];
    for f in on_positive {
        check(&["x: f64[2, 3]"], &[positive(&[2, 3], 3)], |t| f(&t[0]));
    }
}

#[test]
fn elementwise_of_two_with_broadcasting() {
    type F = fn(&Tensor, &Tensor) -> Tensor;
    let fs: [F; 7] = [
        |x, y| x + y,
        |x, y| x - y,
        |x, y| x * y,
        |x, y| x / y,
        |x, y| x.maximum(y),
        |x, y| x.minimum(y),
        |x, y| x.pow(y),
    ];
    for f in fs {
        for (a, b, sa, sb) in [
            ("x: f64[2, 3]", "y: f64[2, 3]", vec![2, 3], vec![2, 3]),
            ("x: f64[2, 3]", "y: f64[3]", vec![2, 3], vec![3]),
            ("x: f64[2, 1]", "y: f64[1, 3]", vec![2, 1], vec![1, 3]),
            ("x: f64[]", "y: f64[2, 3]", vec![], vec![2, 3]),
        ] {
            check(&[a, b], &[positive(&sa, 5), positive(&sb, 6)], |t| f(&t[0], &t[1]));
        }
    }
}

#[test]
fn reductions() {
    type F = fn(&Tensor) -> Tensor;
    let fs: [F; 14] = [
        |x| x.sum(Axes::All),
        |x| x.sum(1),
        |x| x.sum_keep([0, 2]),
        |x| x.mean(Axes::All),
        |x| x.mean_keep(-1),
        |x| x.max(1),
        |x| x.max_keep([0, 1]),
        |x| x.min(Axes::All),
        |x| x.min(-1),
        |x| x.product(0),
        |x| x.product([0, 2]),
        |x| x.product(Axes::All),
        |x| x.cumsum(1),
        |x| x.cumsum(-1),
    ];
    for f in fs {
        check(&["x: f64[2, 3, 4]"], &[numbers(&[2, 3, 4], 7)], |t| f(&t[0]));
    }
    // A product with a zero in it.
    let x = value(ndarray::array![[1.5, 0.0, -2.0], [0.0, 0.0, 3.0]]);
    check(&["x: f64[2, 3]"], &[x], |t| t[0].product(1));
}

#[test]
fn equal_greatest_elements_share_the_derivative() {
    let f = lantern::stage("f", ["x: f64[4]"], lantern::grad(|t| t[0].max(0), &[0])).unwrap();
    let d = f.interpret([value(ndarray::array![2.0, 1.0, 2.0, 0.0])]).unwrap();
    assert_eq!(d[0], value(ndarray::array![0.5, 0.0, 0.5, 0.0]));
}

#[test]
fn products() {
    for (spec, a, b) in [
        ("ij,jk->ik", vec![2, 3], vec![3, 4]),
        ("ij,kj->ik", vec![2, 3], vec![4, 3]),
        ("bij,bjk->bik", vec![2, 2, 3], vec![2, 3, 2]),
        ("i,j->ij", vec![2], vec![3]),
        ("ij,ij->", vec![2, 3], vec![2, 3]),
        ("ijk,j->k", vec![2, 3, 4], vec![3]),
        ("ij,k->k", vec![2, 3], vec![4]),
        ("ij,ij->ji", vec![2, 3], vec![2, 3]),
    ] {
        let ty = |n: &str, s: &[usize]| Spec::of(n, ScalarType::F64, s);
        let specs = [ty("a", &a), ty("b", &b)];
        let inputs = [numbers(&a, 11), numbers(&b, 12)];
        check_gradients(&specs, |t| weigh(&t[0].contract(spec, &t[1])), &inputs, 1e-6)
            .unwrap_or_else(|e| panic!("{spec}: {e}"));
    }
    for (a, b) in [
        (vec![2, 3], vec![3, 4]),
        (vec![3], vec![3, 4]),
        (vec![2, 3], vec![3]),
        (vec![3], vec![3]),
        (vec![5, 2, 3], vec![3, 4]),
        (vec![2, 3], vec![5, 3, 4]),
        (vec![5, 1, 2, 3], vec![4, 3, 2]),
    ] {
        let ty = |n: &str, s: &[usize]| Spec::of(n, ScalarType::F64, s);
        let specs = [ty("a", &a), ty("b", &b)];
        let inputs = [numbers(&a, 13), numbers(&b, 14)];
        check_gradients(&specs, |t| weigh(&t[0].matmul(&t[1])), &inputs, 1e-6)
            .unwrap_or_else(|e| panic!("{a:?} x {b:?}: {e}"));
    }
}

#[test]
fn moves() {
    type F = fn(&Tensor) -> Tensor;
    let fs: [F; 14] = [
        |x| x.permute(&[2, 0, 1]),
        |x| x.t(),
        |x| x.reshape([4usize, 6]),
        |x| x.unsqueeze(0).broadcast_to([3usize, 2, 3, 4]),
        |x| x.unsqueeze(-1).squeeze(-1),
        |x| x.slice(1, 1..3),
        |x| x.slice(2, 0..1),
        |x| x.slice_by(2, 1usize, 2usize, 2),
        |x| x.slice_by(2, 0usize, 2usize, 3),
        |x| x.slice_by(1, 0usize, 2usize, 2),
        |x| x.pad(1, 1, 2),
        |x| x.flip(2),
        |x| x.slice(1, 1..1).sum_keep(1) + x,
        |x| Tensor::concat(&[x, &x.square(), x], 1).unwrap(),
    ];
    for f in fs {
        check(&["x: f64[2, 3, 4]"], &[numbers(&[2, 3, 4], 21)], |t| f(&t[0]));
    }
}

#[test]
fn rows_by_index() {
    let i = || indices(&[2, 0, 2, 1]);
    check(&["x: f64[3, 2]", "i: i64[4]"], &[numbers(&[3, 2], 31), i()], |t| t[0].gather(&t[1]));
    check(&["x: f64[3]", "i: i64[4]"], &[numbers(&[3], 32), i()], |t| nn::embedding(&t[0], &t[1].reshape([2usize, 2])));
    check(&["x: f64[3, 2]", "i: i64[4]", "u: f64[4, 2]"], &[numbers(&[3, 2], 33), i(), numbers(&[4, 2], 34)], |t| {
        t[0].scatter_add(&t[1], &t[2])
    });
}

#[test]
fn symbolic_sizes() {
    check(&["x: f64[n, 3]"], &[numbers(&[4, 3], 41)], |t| t[0].mean(0));
    check(&["x: f64[n, 3]"], &[numbers(&[4, 3], 41)], |t| t[0].mean(Axes::All));
    check(&["x: f64[n, 3]", "y: f64[m, 3]"], &[numbers(&[2, 3], 42), numbers(&[3, 3], 43)], |t| {
        let both = Tensor::concat(&[&t[0], &t[1].square()], 0).unwrap();
        // The second part again, by a slice whose start is symbolic.
        let second = both.slice_by(0, t[0].dim(0), t[1].dim(0), 1);
        weigh(&both) + weigh(&second.tanh())
    });
    check(&["x: f64[n, 3]"], &[numbers(&[5, 3], 44)], |t| t[0].slice_by(0, 1usize, 2usize, 2));
    check(&["x: f64[n]"], &[numbers(&[4], 45)], |t| t[0].product(0));
}

#[test]
fn layers_and_losses() {
    check(
        &["x: f64[n, 3]", "w: f64[2, 3]", "b: f64[2]"],
        &[numbers(&[4, 3], 51), numbers(&[2, 3], 52), numbers(&[2], 53)],
        |t| nn::linear(&t[0], &t[1], Some(&t[2])),
    );
    check(
        &["x: f64[2, 4]", "g: f64[4]", "b: f64[4]"],
        &[numbers(&[2, 4], 54), numbers(&[4], 55), numbers(&[4], 56)],
        |t| nn::layer_norm(&t[0], &t[1], &t[2], 1e-5),
    );
    let two = || [numbers(&[4, 2], 57), numbers(&[4, 2], 58)];
    check(&["x: f64[n, 2]", "y: f64[n, 2]"], &two(), |t| nn::mse(&t[0], &t[1]));
    check(&["x: f64[n, 2]", "y: f64[n, 2]"], &two(), |t| nn::mae(&t[0], &t[1]));
    check(&["x: f64[n, 2]", "y: f64[n, 2]"], &two(), |t| nn::binary_cross_entropy(&t[0], &t[1]));
    check(&["x: f64[n, 3]", "y: i64[n]"], &[numbers(&[4, 3], 59), indices(&[0, 2, 1, 1])], |t| {
        nn::cross_entropy(&t[0], &t[1])
    });
}

#[test]
fn losses_stay_finite_and_smooth() {
    let f = lantern::stage(
        "f",
        ["x: f64[n]", "y: f64[n]"],
        lantern::value_and_grad(|t| nn::binary_cross_entropy(&t[0], &t[1]), &[0]),
    )
    .unwrap();
    let out = f.interpret([value(ndarray::array![0.0, 800.0, -800.0]), value(ndarray::array![1.0, 0.0, 1.0])]).unwrap();
    let loss = crate::doubles(&out[0])[0];
    assert!((loss - (2f64.ln() + 1600.0) / 3.0).abs() < 1e-9, "{loss}");
    let grad = crate::doubles(&out[1]);
    for (g, want) in grad.iter().zip([-0.5 / 3.0, 1.0 / 3.0, -1.0 / 3.0]) {
        assert!((g - want).abs() < 1e-12, "{grad:?}");
    }
}

/// An Elman cell: h' = tanh(x wxᵀ + h whᵀ + b).
fn rnn(scope: &Scope, xs: &Tensor, h: &Tensor, wx: &Tensor, wh: &Tensor, b: &Tensor) -> (Tensor, Tensor) {
    let (state, ys) = scope.scan(xs.dim(0), from_ref(h), from_ref(xs), |_, state, x| {
        let h = (nn::linear(&x[0], wx, Some(b)) + nn::linear(&state[0], wh, None)).tanh();
        (vec![h.clone()], vec![h])
    });
    (state[0].clone(), ys[0].clone())
}

#[test]
fn scan_of_a_recurrent_cell() {
    let specs = ["xs: f64[4, 2, 3]", "h: f64[2, 5]", "wx: f64[5, 3]", "wh: f64[5, 5]", "b: f64[5]"];
    let inputs =
        [numbers(&[4, 2, 3], 61), numbers(&[2, 5], 62), numbers(&[5, 3], 63), numbers(&[5, 5], 64), numbers(&[5], 65)];
    check(&specs, &inputs, |t| {
        let (last, all) = rnn(t[0].scope(), &t[0], &t[1], &t[2], &t[3], &t[4]);
        weigh(&last) + weigh(&all)
    });
    check(&specs, &inputs, |t| rnn(t[0].scope(), &t[0], &t[1], &t[2], &t[3], &t[4]).0);
}

#[test]
fn scan_uses_its_index_and_whole_numbers_as_state() {
    check(&["x: f64[3]", "y: f64[4, 3]"], &[numbers(&[3], 66), numbers(&[4, 3], 67)], |t| {
        let scope = t[0].scope();
        let count = scope.zeros(ScalarType::I64, &[]);
        let (state, ys) = scope.scan(4usize, &[t[0].clone(), count], &[t[1].clone()], |i, s, y| {
            let i = i.cast(ScalarType::F64);
            let k = s[1].cast(ScalarType::F64);
            let next = (&s[0] * &y[0] * (i + 1.0)).sin() + k;
            (vec![next, &s[1] + 1.0], vec![s[0].exp(), y[0].square()])
        });
        weigh(&state[0]) + weigh(&ys[0]) + weigh(&ys[1])
    });
}

#[test]
fn scan_in_a_scan() {
    check(
        &["x: f64[2]", "w: f64[2, 2]", "ys: f64[3, 2]"],
        &[numbers(&[2], 68), numbers(&[2, 2], 69), numbers(&[3, 2], 70)],
        |t| {
            let scope = t[0].scope().clone();
            let w = &t[1];
            let (state, stacked) = scope.scan(3usize, &[t[0].clone()], &[t[2].clone()], |_, outer, y| {
                let factor = w.exp();
                let (state, seen) = scope.scan(2usize, outer, from_ref(w), |_, s, row| {
                    let next = (factor.matmul(&s[0]) + &y[0]).tanh() * row[0].sigmoid();
                    (vec![next.clone()], vec![next.sum(0)])
                });
                (state, vec![seen[0].clone()])
            });
            weigh(&state[0]) + weigh(&stacked[0])
        },
    );
}

#[test]
fn derivatives_of_derivatives() {
    check(&["x: f64[3]", "w: f64[3]"], &[numbers(&[3], 71), numbers(&[3], 72)], |t| {
        let y = ((&t[0] * &t[1]).tanh() * t[0].exp()).sum(0);
        y.grad(&[&t[0]]).remove(0).square()
    });
    check(&["x: f64[2]", "w: f64[2]"], &[numbers(&[2], 73), numbers(&[2], 74)], |t| {
        let (state, _) =
            t[0].scope().scan(3usize, &[t[0].clone()], &[], |_, s, _| (vec![(&s[0] * &t[1]).sin()], vec![]));
        state[0].sum(0).grad(&[&t[0], &t[1]]).remove(1).square()
    });
}

#[test]
fn functions_of_other_functions() {
    let cell = lantern::stage("cell", ["x: f64[n, 2]", "w: f64[2, 2]"], |t| t[0].matmul(&t[1]).tanh()).unwrap();
    check(&["x: f64[3, 2]", "w: f64[2, 2]"], &[numbers(&[3, 2], 75), numbers(&[2, 2], 76)], |t| {
        let once = cell.call(t[0].scope(), t).remove(0);
        cell.call(t[0].scope(), &[once, t[1].clone()]).remove(0)
    });
}

#[test]
fn what_is_detached_is_constant() {
    let f = lantern::stage("f", ["x: f64[]"], lantern::grad(|t| &t[0] * t[0].detach(), &[0])).unwrap();
    assert_eq!(f.interpret([value(3.0)]).unwrap()[0], value(3.0));
}

#[test]
fn a_missing_rule_is_an_error() {
    let e = lantern::stage("f", ["x: f64[n]"], |t| {
        let scope = t[0].scope().clone();
        let w = t[0].sum(0);
        let (state, _) =
            scope.for_batches(lantern::Batches::new(2, 1), t, &[w], |x, s| (vec![&s[0] * x[0].sum(0)], vec![]));
        state[0].grad(&[&t[0]])
    })
    .unwrap_err();
    assert_eq!(e.to_string(), "no derivative of for_batches: a training loop is not differentiated; use scan");
    let e = lantern::stage("f", ["x: i64[]", "y: f64[]"], |t| t[1].grad(&[&t[0]])).unwrap_err();
    assert_eq!(e.to_string(), "no derivative of grad: with respect to i64[]");
}

#[test]
fn tensors_of_no_influence_have_a_zero_gradient() {
    let f = lantern::stage("f", ["x: f64[2]", "y: f64[3]"], |t| t[0].sum(0).grad(&[&t[1]])).unwrap();
    let zero = f.interpret([value(ndarray::array![1.0, 2.0]), value(ndarray::array![1.0, 2.0, 3.0])]).unwrap();
    assert_eq!(zero[0], value(ndarray::array![0.0, 0.0, 0.0]));
}

#[test]
fn vjp_weighs_each_result() {
    let f = lantern::stage(
        "f",
        ["x: f64[2]", "dy: f64[2]", "dz: f64[]"],
        lantern::vjp(|t| vec![t[0].square(), t[0].sum(0)], 1),
    )
    .unwrap();
    let out = f.interpret([value(ndarray::array![3.0, 5.0]), value(ndarray::array![1.0, 10.0]), value(100.0)]).unwrap();
    assert_eq!(out[2], value(ndarray::array![106.0, 200.0]));
    assert_eq!(out.len(), 3);
}

#[test]
fn branches() {
    for x0 in [0.7, -0.7] {
        let inputs = [value(x0), numbers(&[3], 81), numbers(&[3], 82)];
        check(&["x: f64[]", "y: f64[3]", "z: f64[3]"], &inputs, |t| {
            let scope = t[0].scope();
            let yes = || vec![(&t[0] * &t[1]).exp(), t[2].clone()];
            let no = || {
                let (state, _) = scope.scan(2usize, &t[1..2], &[], |_, s, _| (vec![s[0].sin()], vec![]));
                vec![state[0].clone(), &t[1] * &t[2]]
            };
            let out = scope.cond(&t[0].gt(0.0), yes, no);
            weigh(&out[0]) + weigh(&out[1])
        });
    }
}

#[test]
fn branches_in_a_loop() {
    check(&["x: f64[3]", "y: f64[4, 3]"], &[numbers(&[3], 83), numbers(&[4, 3], 84)], |t| {
        let scope = t[0].scope();
        let (state, _) = scope.scan(4usize, &t[..1], &t[1..], |i, s, y| {
            let doubled = s[0].tanh();
            let out = scope.cond(&i.rem(2.0).eq(0.0), || vec![&doubled * &y[0]], || vec![&s[0] + y[0].square()]);
            (out, vec![])
        });
        state[0].clone()
    });
}

#[test]
fn calls_of_functions() {
    let specs: Vec<Spec> = ["x: f64[3]", "y: f64[3]"].map(Into::into).into();
    let call = |t: &[Tensor]| {
        let scope = t[0].scope();
        let ty = ir::types::Type::Tensor(t[0].ty().clone());
        let made = scope.with_builder(|b| {
            use ir::graph::{ControlOp, Op};
            use ir::scalar::ScalarOp;
            let p = b.begin_func(&[ty.clone(), ty]);
            let z = b.map(&p, |b, v| Ok(vec![b.scalar(ScalarOp::Mul, v)?]))?;
            let s = b.map(&z, |b, v| Ok(vec![b.scalar(ScalarOp::Sin, v)?]))?;
            let f = b.end_func("f", &[s[0], p[0]]);
            let (x, y) = (t[0].value().unwrap(), t[1].value().unwrap());
            let once = b.push(Op::Control(ControlOp::Call(f)), &[x, y], &[])?;
            // An argument that depends on another one, and one that is given twice.
            let twice = b.push(Op::Control(ControlOp::Call(f)), &[once[0], x], &[])?;
            let same = b.push(Op::Control(ControlOp::Call(f)), &[y, y], &[])?;
            Ok([once[1], twice[0], twice[1], same[0], same[1]])
        });
        let values: Vec<Tensor> = made.unwrap().into_iter().map(|v| scope.tensor(v)).collect();
        values.iter().enumerate().fold(scope.zeros(ScalarType::F64, &[]), |sum, (i, v)| sum + weigh(v) * (i + 1) as f64)
    };
    check_gradients(&specs, call, &[numbers(&[3], 85), numbers(&[3], 86)], 1e-6).unwrap();
}

#[test]
fn the_check_finds_a_wrong_gradient() {
    let e = check_gradients(&["x: f64[2]".into()], |t| (&t[0] * t[0].detach()).sum(0), &[numbers(&[2], 87)], 1e-6);
    let e = e.unwrap_err().to_string();
    assert!(e.starts_with("\"x\", element 0: gradient "), "{e}");
}
