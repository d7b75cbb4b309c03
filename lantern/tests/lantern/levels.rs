//! Recursions over child indices: level by level as by recursion.

use ir::graph::{ControlOp, Op};
use ir::types::{ScalarType::F64, TensorType};
use ir::value::TensorValue;
use lantern::{Function, Tensor, nn, stage, value};
use ndarray::Array1;

use crate::both;

/// A tree as its children, -1 for a leaf's; the root is its last node.
type Children = (Vec<i64>, Vec<i64>);

/// Tanh of a product, up a tree, and the derivatives.
fn fold(levels: bool) -> Function {
    let specs = ["x: f64[n, 2]", "w: f64[2, 4]", "left: i64[n]", "right: i64[n]"];
    let f = stage("fold", specs, |t| {
        let (x, w, tree) = (&t[0], &t[1], nn::Tree { left: &t[2], right: &t[3] });
        let scope = x.scope();
        scope.compute_levels(levels);
        let root = scope.size(&x.dim(0)) - 1.0;
        let inner = |n: &Tensor, l: &[Tensor], r: &[Tensor]| {
            let both = Tensor::concat(&[&l[0], &r[0]], 0).expect("two parts");
            vec![(nn::linear(&both, w, None) + x.gather(n)).tanh()]
        };
        let y = tree.fold(&root, &[TensorType::new(F64, [2.into()])], |n| vec![x.gather(n)], inner).remove(0);
        let slopes = y.sum(0).grad(&[x, w]);
        (y, slopes)
    });
    f.expect("it stages")
}

fn inputs((left, right): &Children) -> Vec<TensorValue> {
    let n = left.len();
    let x = ndarray::Array2::from_shape_fn((n, 2), |(i, j)| ((3 * i + 5 * j) % 11) as f64 / 11.0 - 0.4);
    let w = ndarray::Array2::from_shape_fn((2, 4), |(i, j)| 0.3 - 0.1 * (i + j) as f64);
    vec![value(x), value(w), value(Array1::from(left.clone())), value(Array1::from(right.clone()))]
}

/// Joins open nodes by `choose`, which says the first of two neighbours.
fn tree(leaves: usize, mut choose: impl FnMut(usize) -> usize) -> Children {
    let (mut left, mut right) = (vec![-1; leaves], vec![-1; leaves]);
    let mut open: Vec<usize> = (0..leaves).collect();
    while open.len() > 1 {
        let i = choose(open.len() - 1);
        left.push(open[i] as i64);
        right.push(open.remove(i + 1) as i64);
        open[i] = left.len() - 1;
    }
    (left, right)
}

fn same(what: &str, tree: &Children, by_levels: &Function, by_recursion: &Function) {
    let inputs = inputs(tree);
    let (a, b) = (both(by_levels, &inputs).expect(what), both(by_recursion, &inputs).expect(what));
    for (a, b) in a.iter().zip(&b) {
        crate::assert_close(what, a, b, 1e-9);
    }
}

#[test]
fn levels_give_what_recursion_gives() {
    let (by_levels, by_recursion) = (fold(true), fold(false));
    let recursive = |f: &Function| {
        let p = f.program();
        let is_call = |op: &Op, id: usize| matches!(op, Op::Control(ControlOp::Call(g)) if g.index() == id);
        let calls_itself = |id: usize| {
            let mut found = false;
            let body = p.funcs[id].body;
            ir::graph::rewrite::walk(p, body, &mut |_, n| found |= is_call(&n.op, id));
            found
        };
        let mut called = false;
        let entry = p.entry.expect("an entry").index();
        ir::graph::rewrite::walk(p, p.funcs[entry].body, &mut |_, n| {
            called |= (0..p.funcs.len()).any(|id| is_call(&n.op, id) && calls_itself(id));
        });
        called
    };
    assert!(!recursive(&by_levels) && recursive(&by_recursion));
    let mut seed = 7usize;
    let mut random = |n: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    };
    same("one node", &tree(1, |_| 0), &by_levels, &by_recursion);
    same("a chain", &tree(200, |_| 0), &by_levels, &by_recursion);
    same("a balanced tree", &tree(64, |n| (64 - n) % n.max(1)), &by_levels, &by_recursion);
    for leaves in [2, 3, 8, 9, 17, 40] {
        same("a random tree", &tree(leaves, &mut random), &by_levels, &by_recursion);
    }
}

#[test]
fn trees_that_are_none_end_in_the_same_errors() {
    for f in [fold(true), fold(false)] {
        let depth = inputs(&(vec![-1, 2, 1], vec![-1, 0, 0]));
        let outside = inputs(&(vec![-1, -1, 0], vec![-1, -1, 3]));
        let ways = [f.interpret(depth.clone()), f.run(depth)];
        for error in ways.map(|out| out.expect_err("a circle").to_string()) {
            assert!(error.contains("recursion deeper"), "{error}");
        }
        let ways = [f.interpret(outside.clone()), f.run(outside)];
        for error in ways.map(|out| out.expect_err("a child that is no node").to_string()) {
            assert!(error.contains("index 3 is outside of a tensor of 3 rows"), "{error}");
        }
    }
}
