//! Branches, loops and functions: their values and their gradients, interpreted and compiled.

use ir::types::ScalarType::{F64, I64};
use ir::types::TensorType;
use ir::value::TensorValue;
use lantern::{Scope, Tensor, nn, stage, value};
use std::slice;

use crate::both;
use crate::gradients::{check, indices, numbers, weigh};

fn ty(shape: &[usize]) -> TensorType {
    TensorType::new(F64, shape.iter().map(|n| (*n).into()))
}

fn number() -> TensorType {
    TensorType::new(I64, [])
}

fn zero(scope: &Scope) -> Tensor {
    scope.zeros(I64, &[])
}

/// Steps `body` for as long as the count, the last of its state, is below `n`.
fn repeat(n: f64, state: &[Tensor], body: impl FnOnce(&[Tensor]) -> Vec<Tensor>) -> Vec<Tensor> {
    let scope = state[0].scope();
    let mut all = state.to_vec();
    all.push(zero(scope));
    let last = all.len() - 1;
    let mut out = scope.while_loop(
        &all,
        |s| s[last].lt(n),
        |s| {
            let mut next = body(&s[..last]);
            next.push(&s[last] + 1.0);
            next
        },
    );
    out.pop();
    out
}

#[test]
fn a_while_of_a_number_of_steps() {
    for n in [0.0, 1.0, 5.0] {
        check(&["x: f64[3]", "w: f64[3, 3]"], &[numbers(&[3], 1), numbers(&[3, 3], 2)], |t| {
            repeat(n, &t[..1], |s| vec![(t[1].matmul(&s[0])).sin()]).remove(0)
        });
    }
}

#[test]
fn a_while_whose_number_of_steps_depends_on_its_state() {
    check(&["x: f64[2]", "w: f64[2]"], &[numbers(&[2], 3), numbers(&[2], 4)], |t| {
        let scope = t[0].scope();
        // The second tensor of state has an adjoint although it does not before the first step.
        let state = [t[0].clone(), scope.zeros(F64, &[2usize.into()])];
        let out = scope.while_loop(
            &state,
            |s| s[0].square().sum(0).lt(40.0),
            |s| vec![&s[0] * 1.7 + &t[1] * 0.3, &s[1] * 0.5 + &s[0] * &t[1]],
        );
        &out[0] + out[1].square()
    });
}

#[test]
fn a_while_in_a_while_and_a_scan_in_a_while() {
    check(&["x: f64[2]", "w: f64[2, 2]"], &[numbers(&[2], 5), numbers(&[2, 2], 6)], |t| {
        let w = &t[1];
        repeat(3.0, &t[..1], |outer| {
            let y = outer[0].tanh();
            let inner = repeat(2.0, outer, |s| vec![(w.matmul(&s[0]) + &y).sin()]);
            let (state, rows) = t[0].scope().scan(2usize, &inner, std::slice::from_ref(w), |_, s, row| {
                let next = &s[0] * &row[0] + &y;
                (vec![next.cos()], vec![&row[0] * s[0].sum(0)])
            });
            vec![&state[0] + rows[0].sum(0)]
        })
        .remove(0)
    });
}

#[test]
fn a_while_in_a_scan() {
    check(&["x: f64[2]", "ys: f64[3, 2]"], &[numbers(&[2], 7), numbers(&[3, 2], 8)], |t| {
        let (state, seen) = t[0].scope().scan(3usize, &t[..1], &t[1..], |_, s, y| {
            let out = repeat(2.0, s, |s| vec![(&s[0] * &y[0]).sin() + &t[0]]);
            (out.clone(), vec![out[0].exp()])
        });
        &state[0] + seen[0].sum(0)
    });
}

#[test]
fn a_branch_in_a_while_in_a_branch() {
    for x in [0.7, -0.7] {
        check(&["x: f64[]", "y: f64[3]"], &[value(x), numbers(&[3], 9)], |t| {
            let scope = t[0].scope();
            let loops = || {
                repeat(4.0, &t[1..], |s| {
                    let yes = || vec![&s[0] * &t[0]];
                    scope.cond(&s[0].sum(0).gt(0.31), yes, || vec![(&s[0] + &t[0]).sin(), s[0].exp()][..1].to_vec())
                })
            };
            scope.cond(&t[0].gt(0.0), loops, || vec![&t[1] * &t[0]]).remove(0)
        });
    }
}

#[test]
fn recursion_over_a_number() {
    check(&["x: f64[3]", "w: f64[3, 3]"], &[numbers(&[3], 10), numbers(&[3, 3], 11)], |t| {
        let scope = t[0].scope();
        let f = scope.func("f", &[ty(&[3]), number()], &[ty(&[3])], |f, a| {
            let deeper = || {
                let y = t[1].matmul(&a[0]).sin();
                // Before the call that reads it: the calls differ in what they capture.
                f.call(&[&y + &t[0], &a[1] - 1.0])
            };
            scope.cond(&a[1].gt(0.0), deeper, || vec![a[0].exp()])
        });
        let n = zero(scope) + 4.0;
        f.call(&[t[0].clone(), n]).remove(0)
    });
}

/// Fibonacci's recursion, over vectors.
#[test]
fn recursion_that_calls_itself_twice() {
    check(&["x: f64[2]", "y: f64[2]"], &[numbers(&[2], 12), numbers(&[2], 13)], |t| {
        let scope = t[0].scope();
        let f = scope.func("fib", &[number()], &[ty(&[2])], |f, a| {
            let deeper = || {
                let one = f.call(&[&a[0] - 1.0]).remove(0);
                let two = f.call(&[&a[0] - 2.0]).remove(0);
                vec![(&one * &t[0] + &two).tanh()]
            };
            scope.cond(&a[0].gt(0.0), deeper, || vec![t[1].clone()])
        });
        f.call(&[zero(scope) + 5.0]).remove(0)
    });
}

#[test]
fn recursion_in_a_loop_in_recursion() {
    check(&["x: f64[2]"], &[numbers(&[2], 14)], |t| {
        let scope = t[0].scope();
        let f = scope.func("f", &[ty(&[2]), number()], &[ty(&[2])], |f, a| {
            let deeper = || {
                let (state, _) = scope.scan(2usize, &a[..1], &[], |_, s, _| {
                    let y = f.call(&[s[0].sin(), &a[1] - 1.0]).remove(0);
                    (vec![y * &t[0] + &s[0]], vec![])
                });
                repeat(2.0, &state, |s| {
                    let y = f.call(&[s[0].cos(), &a[1] - 2.0]).remove(0);
                    vec![y + &a[0]]
                })
            };
            scope.cond(&a[1].gt(0.0), deeper, || vec![a[0].square()])
        });
        f.call(&[t[0].clone(), zero(scope) + 3.0]).remove(0)
    });
}

#[test]
fn an_argument_given_twice_and_results_that_are_not_used() {
    check(&["x: f64[2]", "y: f64[2]"], &[numbers(&[2], 15), numbers(&[2], 16)], |t| {
        let scope = t[0].scope();
        let f = scope.func("f", &[ty(&[2]), ty(&[2])], &[ty(&[2]), ty(&[2])], |f, a| {
            let big = a[0].square().sum(0).gt(30.0);
            scope.cond(&big, || vec![&a[0] * &a[1], a[1].clone()], || f.call(&[&a[0] * 2.0, a[1].sin()]))
        });
        let once = f.call(&[t[0].clone(), t[0].clone()]);
        let again = f.call(&[t[1].clone(), once[0].clone()]);
        &again[1] + &f.call(t)[0]
    });
}

#[test]
fn two_gradients_of_one_forward_pass() {
    let specs = ["x: f64[2]", "w: f64[2]"];
    let inputs = [numbers(&[2], 17), numbers(&[2], 18)];
    let f = |t: &[Tensor]| {
        let scope = t[0].scope();
        let state = repeat(3.0, &t[..1], |s| vec![(&s[0] * &t[1]).sin()]);
        let half = scope.func("half", &[ty(&[2])], &[ty(&[2])], |half, a| {
            let again = || half.call(&[&a[0] * 0.5 * &t[1]]);
            scope.cond(&a[0].square().sum(0).gt(0.01), again, || vec![a[0].clone()])
        });
        weigh(&half.call(&state)[0])
    };
    let apart = stage("apart", specs, |t| {
        let y = f(t);
        [y.grad(&[&t[0]]).remove(0), y.grad(&[&t[1]]).remove(0), y.grad(&[&t[0]]).remove(0)]
    });
    let together = stage("together", specs, |t| f(t).grad(&[&t[0], &t[1]]));
    let apart = both(&apart.unwrap(), &inputs).unwrap();
    let together = both(&together.unwrap(), &inputs).unwrap();
    assert_eq!(apart[..2], together[..]);
    assert_eq!(apart[0], apart[2]);
}

#[test]
fn a_derivative_of_a_derivative_through_a_while_is_refused() {
    let e = stage("f", ["x: f64[2]"], |t| {
        let y = repeat(2.0, t, |s| vec![s[0].sin()]).remove(0).sum(0);
        y.grad(&[&t[0]]).remove(0).sum(0).grad(&[&t[0]])
    });
    let want = "no derivative of a derivative: of an if, a while or a call: derivatives of those are first ones only";
    assert_eq!(e.unwrap_err().to_string(), want);
}

#[test]
fn a_missing_rule_inside_of_a_loop_is_an_error_that_names_it() {
    let e = stage("f", ["x: f64[4]"], |t| {
        let y = repeat(2.0, t, |s| {
            let scope = t[0].scope();
            let batches = lantern::Batches::new(2, 1);
            let sum = scope.zeros(F64, &[]);
            let (state, _) = scope.for_batches(batches, s, &[sum], |x, s| (vec![&s[0] + x[0].sum(0)], vec![]));
            vec![&s[0] * &state[0]]
        });
        y[0].sum(0).grad(&[&t[0]])
    });
    let want = "no derivative of for_batches: a training loop is not differentiated; use scan";
    assert_eq!(e.unwrap_err().to_string(), want);
}

fn depth(n: i64) -> (lantern::Function, Vec<TensorValue>) {
    let f = stage("deep", ["n: i64[]", "x: f64[2]"], |t| {
        let scope = t[0].scope();
        let f = scope.func("f", &[number(), ty(&[2])], &[ty(&[2])], |f, a| {
            let deeper = || f.call(&[&a[0] - 1.0, a[1].sin()]);
            scope.cond(&a[0].gt(0.0), deeper, || vec![a[1].clone()])
        });
        f.call(t)[0].sum(0).grad(&[&t[1]])
    });
    (f.unwrap(), vec![value(n), value(ndarray::array![0.1, 0.2])])
}

#[test]
fn deep_recursion_runs_and_deeper_is_an_error() {
    let (f, inputs) = depth(4000);
    both(&f, &inputs).unwrap();
    for n in [5000, i64::MAX] {
        let (f, inputs) = depth(n);
        let want = "recursion deeper than 4096 levels";
        assert_eq!(f.interpret(inputs.clone()).unwrap_err().to_string(), want);
        assert_eq!(f.run(inputs).unwrap_err().to_string(), want);
    }
}

#[test]
fn the_tape_counts_against_the_memory_limit() {
    let f = stage("long", ["x: f64[1000]", "n: i64[]"], |t| {
        let scope = t[0].scope();
        let state = [t[0].clone(), zero(scope)];
        let out = scope.while_loop(&state, |s| s[1].lt(&t[1]), |s| vec![s[0].sin(), &s[1] + 1.0]);
        out[0].sum(0).grad(&[&t[0]])
    });
    let f = f.unwrap();
    let pool = std::sync::Arc::new(runtime::scheduler::WorkerPool::new(1));
    let run = |n: i64| {
        let resources = ir::exec::run::Resources::new(pool.clone(), Some(4 << 20));
        f.run_on([numbers(&[1000], 20), value(n)], &resources)
    };
    run(100).unwrap();
    let error = run(1_000_000).unwrap_err().to_string();
    assert!(error.starts_with("the query needs more memory than the limit of 4194304 bytes: "), "{error}");
}

#[test]
fn functions_of_functions_with_recursion() {
    let tower = stage("tower", ["x: f64[n]", "k: i64[]"], |t| {
        let scope = t[0].scope();
        let f = scope.func("f", &[t[0].ty().clone(), number()], &[t[0].ty().clone()], |f, a| {
            scope.cond(&a[1].gt(0.0), || f.call(&[a[0].sin(), &a[1] - 1.0]), || vec![a[0].clone()])
        });
        f.call(t)
    });
    let tower = tower.unwrap();
    check(&["x: f64[3]", "k: i64[]"], &[numbers(&[3], 21), value(3i64)], |t| {
        let once = tower.call(t[0].scope(), t).remove(0);
        tower.call(t[0].scope(), &[once, t[1].clone()]).remove(0)
    });
}

#[test]
fn wrong_functions_are_errors_that_say_where() {
    let fails = |f: &dyn Fn(&Scope, &[Tensor]) -> Tensor| {
        stage("f", ["x: f64[2]"], |t| f(t[0].scope(), t)).unwrap_err().to_string()
    };
    let e = fails(&|s, t| s.func("f", &[ty(&[2])], &[ty(&[3])], |_, a| a.to_vec()).call(t).remove(0));
    assert!(e.contains("func at ") && e.contains("@f yields (f64[2]), it declares (f64[3])"), "{e}");
    let e = fails(&|s, _| s.func("f", &[ty(&[2])], &[ty(&[2])], |_, a| a.to_vec()).call(&[]).remove(0));
    assert!(e.contains("call at ") && e.contains("0 tensors for 1 parameters"), "{e}");
    let e = fails(&|s, t| {
        s.func("f", &[ty(&[2])], &[ty(&[2])], |f, a| s.func("g", &[ty(&[2])], &[ty(&[2])], |_, b| f.call(b)).call(a))
            .call(t)
            .remove(0)
    });
    assert!(e.contains("a function is called by one inside of it"), "{e}");
    let e = fails(&|s, t| s.while_loop(t, |s| s[0].clone(), |s| s.to_vec()).remove(0));
    assert!(e.contains("while_loop at ") && e.contains("while yields bool[]"), "{e}");
}

#[test]
fn functions_inside_of_functions_read_from_outside() {
    check(&["x: f64[2]", "w: f64[2]"], &[numbers(&[2], 22), numbers(&[2], 23)], |t| {
        let scope = t[0].scope();
        let outer = scope.func("outer", &[ty(&[2])], &[ty(&[2])], |_, a| {
            let inner = scope.func("inner", &[ty(&[2])], &[ty(&[2])], |inner, b| {
                let again = || inner.call(&[(&b[0] * &a[0]).sin() * &t[1] * 3.0]);
                scope.cond(&b[0].sum(0).lt(0.5), again, || vec![&b[0] * &t[1]])
            });
            inner.call(&[&a[0] + 1.5])
        });
        let y = outer.call(&t[..1]).remove(0);
        nn::mse(&y, &t[1]) + weigh(&outer.call(&[y])[0])
    });
}

#[test]
fn rows_of_a_table_by_recursion_add_up_in_place() {
    // A tree by child indices: a leaf is its row, an inner node a product of its children.
    let tree = |t: &[Tensor]| {
        let scope = t[0].scope();
        let node = scope.func("node", &[number()], &[ty(&[2])], |node, a| {
            let (left, right) = (t[1].gather(&a[0]), t[2].gather(&a[0]));
            let inner = || {
                let (l, r) =
                    (node.call(slice::from_ref(&left)).remove(0), node.call(slice::from_ref(&right)).remove(0));
                vec![(l * r).sin()]
            };
            scope.cond(&left.lt(0.0), || vec![t[0].gather(&t[3].gather(&a[0]))], inner)
        });
        node.call(&[zero(scope) + 4.0]).remove(0)
    };
    let inputs =
        [numbers(&[3, 2], 24), indices(&[-1, -1, -1, 0, 3]), indices(&[-1, -1, -1, 1, 2]), indices(&[2, 0, 2, 0, 0])];
    let specs = ["table: f64[3, 2]", "left: i64[n]", "right: i64[n]", "row: i64[n]"];
    check(&specs, &inputs, tree);

    // A tree that comes round to itself, and one with a child that is no node.
    let f = stage("tree", specs, |t| tree(t).sum(0).grad(&[&t[0]])).unwrap();
    for (left, want) in [(4, "recursion deeper than 4096 levels"), (9, "index 9 is outside of a tensor of 5 rows")] {
        let mut wrong = inputs.clone();
        wrong[1] = indices(&[-1, -1, -1, 0, left]);
        for e in [f.interpret(wrong.clone()), f.run(wrong)] {
            let e = e.unwrap_err().to_string();
            assert!(e.contains(want), "{e}");
        }
    }
}
