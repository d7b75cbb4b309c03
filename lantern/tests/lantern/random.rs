//! Random programs: their gradients are finite differences.

use ir::types::ScalarType::I64;
use ir::types::TensorType;
use ir::value::TensorValue;
use lantern::{Spec, Tensor, check_gradients, value};
use ndarray::Array2;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::both;

/// An operation over what was computed before; `[2, 3]` all.
#[derive(Clone, Copy, Debug)]
struct Step {
    op: u8,
    x: usize,
    y: usize,
}

fn apply(step: Step, known: &[Tensor]) -> Tensor {
    let (x, y) = (&known[step.x % known.len()], &known[step.y % known.len()]);
    match step.op {
        0 => x + y,
        1 => x - y * 0.5,
        2 => (x * y).tanh(),
        3 => x.sigmoid() * y,
        4 => x.softmax(1) + y,
        5 => x - y.mean_keep(0),
        6 => x.matmul(&y.t()).tanh().matmul(y),
        7 => x.flip(1) * y.sin(),
        8 => Tensor::concat(&[&x.slice(1, 1..3), &y.slice(1, 0..1)], 1).unwrap_or_else(|| x.clone()),
        9 => x.gelu().max_keep(1) + y,
        10 => x.reshape([3usize, 2]).t() * y,
        11 => {
            let (state, ys) = x.scope().scan(2usize, std::slice::from_ref(x), std::slice::from_ref(y), |_, s, row| {
                let next = (&s[0] * &row[0] + y).sin();
                (vec![next], vec![&row[0] * s[0].sum(0)])
            });
            &state[0] + &ys[0]
        }
        12 => {
            let out = x.scope().cond(&x.sum([0, 1]).gt(y.sum([0, 1]) * 0.37 + 0.113), || vec![x * y], || vec![x.cos()]);
            out[0].clone()
        }
        _ => x.detach() * 0.0 + x.cumsum(0) * y.softplus(),
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..14, 0usize..8, 0usize..8).prop_map(|(op, x, y)| Step { op, x, y });
    prop::collection::vec(step, 1..7)
}

fn inputs() -> impl Strategy<Value = Vec<TensorValue>> {
    let one = prop::collection::vec(-1.3f64..1.3, 6)
        .prop_map(|v| value(Array2::from_shape_vec((2, 3), v).unwrap_or_default()));
    prop::collection::vec(one, 2)
}

proptest! {
    // One seed: the suite must not fail by chance. PROPTEST_RNG_SEED and PROPTEST_CASES draw others.
    #![proptest_config(ProptestConfig { cases: 60, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]
    #[test]
    fn gradients_are_finite_differences(steps in steps(), inputs in inputs()) {
        let specs: Vec<Spec> = ["x: f64[2, 3]", "y: f64[2, 3]"].map(Into::into).into();
        let f = |t: &[Tensor]| {
            let mut known = t.to_vec();
            for step in &steps {
                let next = apply(*step, &known);
                known.push(next);
            }
            let last = &known[known.len() - 1];
            (last * (last.scope().constant(ndarray::array![[0.3, -1.1, 0.7], [0.9, 0.4, -0.6]]))).sum([0, 1])
        };
        if let Err(e) = check_gradients(&specs, f, &inputs, 1e-5) {
            // A kink between the points of the difference (a maximum, a condition) is not a fault: it is gone at other points.
            prop_assert!(e.to_string().contains("finite difference"), "{e}");
            let moved: Vec<TensorValue> = inputs
                .iter()
                .map(|v| value(lantern::array::<f64>(v).unwrap_or_default().mapv(|x| x * 0.97 + 0.01)))
                .collect();
            if let Err(e) = check_gradients(&specs, f, &moved, 1e-5) {
                prop_assert!(false, "{e}");
            }
        }
    }
}

/// A form of control over smaller programs.
#[derive(Clone, Debug)]
enum Form {
    Step(Step),
    Cond(usize, Vec<Form>, Vec<Form>),
    /// Of a number of steps.
    While(u8, Vec<Form>),
    /// Until the state has grown or shrunk.
    Until(Vec<Form>),
    Scan(Vec<Form>, bool),
    /// A function that calls itself so often, its body before and after the call.
    Recurse(u8, Vec<Form>, Vec<Form>),
}

/// What the forms yield last; every value is `[2, 3]` and small.
fn run(forms: &[Form], known: &[Tensor]) -> Tensor {
    let mut known = known.to_vec();
    for form in forms {
        let next = form.run(&known);
        known.push(next);
    }
    known[known.len() - 1].clone()
}

impl Form {
    fn run(&self, known: &[Tensor]) -> Tensor {
        let last = &known[known.len() - 1];
        let scope = last.scope();
        let with = |t: &Tensor| known.iter().cloned().chain([t.clone()]).collect::<Vec<_>>();
        match self {
            Self::Step(step) if step.op == 11 || step.op == 12 => last * 0.5,
            Self::Step(step) => apply(*step, known).tanh(),
            Self::Cond(x, yes, no) => {
                let sum = known[x % known.len()].sum([0, 1]);
                scope.cond(&sum.gt(0.217), || vec![run(yes, known)], || vec![run(no, known)]).remove(0)
            }
            Self::While(n, body) => {
                let count = scope.zeros(I64, &[]);
                let step = |s: &[Tensor]| vec![run(body, &with(&s[0])), &s[1] + 1.0];
                scope.while_loop(&[last.clone(), count], |s| s[1].lt(f64::from(*n)), step).remove(0)
            }
            Self::Until(body) => {
                let grown = |s: &[Tensor]| s[1].square().sum([0, 1]).lt(9.0);
                let step = |s: &[Tensor]| vec![run(body, &with(&s[0])), &s[1] * 1.6 + &s[0] * 0.1 + 0.3];
                let state = scope.while_loop(&[last.clone(), last.clone()], grown, step);
                (&state[0] + &state[1]).sin()
            }
            Self::Scan(body, stack) => {
                let rows = std::slice::from_ref(&known[0]);
                let (state, ys) = scope.scan(2usize, std::slice::from_ref(last), rows, |_, s, row| {
                    let next = run(body, &with(&(&s[0] + &row[0])));
                    (vec![next.clone()], vec![next.sum(0)])
                });
                if *stack { (&state[0] + &ys[0]).sin() } else { state[0].clone() }
            }
            Self::Recurse(n, before, after) => {
                let number = TensorType::new(I64, []);
                let types = [last.ty().clone(), number];
                let f = scope.func("f", &types, &types[..1], |f, a| {
                    let deeper = || {
                        let found = f.call(&[run(before, &with(&a[0])), &a[1] - 1.0]).remove(0);
                        vec![run(after, &[with(&a[0]), vec![found]].concat())]
                    };
                    scope.cond(&a[1].gt(0.0), deeper, || vec![a[0].cos()])
                });
                f.call(&[last.clone(), scope.zeros(I64, &[]) + f64::from(*n)]).remove(0)
            }
        }
    }
}

fn forms() -> impl Strategy<Value = Vec<Form>> {
    let step = (0u8..14, 0usize..8, 0usize..8).prop_map(|(op, x, y)| Form::Step(Step { op, x, y }));
    let form = step.prop_recursive(3, 12, 2, |inner| {
        let body = || prop::collection::vec(inner.clone(), 1..3);
        prop_oneof![
            inner.clone(),
            (0usize..8, body(), body()).prop_map(|(x, yes, no)| Form::Cond(x, yes, no)),
            (0u8..4, body()).prop_map(|(n, b)| Form::While(n, b)),
            body().prop_map(Form::Until),
            (body(), any::<bool>()).prop_map(|(b, s)| Form::Scan(b, s)),
            (0u8..4, body(), body()).prop_map(|(n, b, a)| Form::Recurse(n, b, a)),
        ]
    });
    prop::collection::vec(form, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, rng_seed: RngSeed::Fixed(2), ..ProptestConfig::default() })]
    #[test]
    fn gradients_of_nested_control_are_finite_differences(forms in forms(), inputs in inputs()) {
        let specs: Vec<Spec> = ["x: f64[2, 3]", "y: f64[2, 3]"].map(Into::into).into();
        let f = |t: &[Tensor]| {
            let last = run(&forms, t);
            (&last * (last.scope().constant(ndarray::array![[0.3, -1.1, 0.7], [0.9, 0.4, -0.6]]))).sum([0, 1])
        };
        if let Err(e) = check_gradients(&specs, f, &inputs, 1e-5) {
            prop_assert!(e.to_string().contains("finite difference"), "{e}");
            let moved: Vec<TensorValue> = inputs
                .iter()
                .map(|v| value(lantern::array::<f64>(v).unwrap_or_default().mapv(|x| x * 0.97 + 0.01)))
                .collect();
            if let Err(e) = check_gradients(&specs, f, &moved, 1e-5) {
                prop_assert!(false, "{e}");
            }
        }
        let backward = lantern::stage("backward", &specs, lantern::value_and_grad(f, &[0, 1]));
        let backward = backward.map_err(|e| TestCaseError::fail(e.to_string()))?;
        if let Err(e) = both(&backward, &inputs) {
            prop_assert!(false, "{e}\n{backward}");
        }
    }
}
