//! Recurrent layers and trees.

use std::panic::Location;

use ir::types::TensorType;

use super::linear;
use crate::error::Fault;
use crate::stage::Scope;
use crate::tensor::Tensor;

/// Cuts the last dimension into `n` equal parts.
#[track_caller]
pub(super) fn chunk(x: &Tensor, n: usize) -> Vec<Tensor> {
    let at = Location::caller();
    let size = x.dim(-1).as_const().filter(|size| size % n == 0);
    let Some(size) = size else {
        if x.value().is_some() {
            let message = format!("the last dimension of {} has not {n} equal parts", x.ty());
            x.scope().fail(Fault::Invalid(message).at("chunk", at));
        }
        return vec![x.scope().nothing(); n];
    };
    (0..n).map(|i| x.slice(-1, i * size / n..(i + 1) * size / n)).collect()
}

/// One step of a long short-term memory (Hochreiter and Schmidhuber 1997). `gates`, `[…, 4 hidden]`, are the sums of its four
/// gates i, f, g, o before their functions; `c`, `[…, hidden]`, is the cell's state. Yields h and c after the step.
#[track_caller]
pub fn lstm_cell(gates: &Tensor, c: &Tensor) -> (Tensor, Tensor) {
    let parts = chunk(gates, 4);
    let c = parts[1].sigmoid() * c + parts[0].sigmoid() * parts[2].tanh();
    let h = parts[3].sigmoid() * c.tanh();
    (h, c)
}

/// The weights of an [`lstm`].
#[derive(Clone, Copy)]
pub struct Lstm<'a> {
    /// Of the input, `[4 hidden, in]`; gates i, f, g, o, as in PyTorch.
    pub input: &'a Tensor,
    /// Of the state, `[4 hidden, hidden]`.
    pub state: &'a Tensor,
    /// Bias of the input, `[4 hidden]`.
    pub input_bias: &'a Tensor,
    /// Bias of the state, `[4 hidden]`.
    pub state_bias: &'a Tensor,
}

/// A long short-term memory over the first dimension of `xs`, `[steps, batch, in]`, from a state `h`, `c` of
/// `[batch, hidden]` each. Yields h after each step, `[steps, batch, hidden]`, and the last h and c.
///
/// ```
/// use lantern::{nn, stage, value};
/// use ndarray::{Array, array};
///
/// let specs = ["xs: f64[3, 1, 2]", "wi: f64[8, 2]", "wh: f64[8, 2]", "bi: f64[8]", "bh: f64[8]"];
/// let f = stage("lstm", specs, |t| {
///     let w = nn::Lstm { input: &t[1], state: &t[2], input_bias: &t[3], state_bias: &t[4] };
///     let zeros = t[0].slice(0, 0..1).squeeze(0).zeros_like();
///     nn::lstm(&t[0], (&zeros, &zeros), w).0
/// })?;
/// let zeros = |n: usize| value(Array::<f64, _>::zeros(n));
/// let weights = || value(Array::<f64, _>::zeros((8, 2)));
/// // With zero weights every gate is half open and nothing comes in.
/// let out = f.run([value(Array::<f64, _>::ones((3, 1, 2))), weights(), weights(), zeros(8), zeros(8)])?;
/// assert_eq!(out, [value(Array::<f64, _>::zeros((3, 1, 2)))]);
/// # Ok::<(), lantern::Error>(())
/// ```
#[track_caller]
pub fn lstm(xs: &Tensor, (h, c): (&Tensor, &Tensor), w: Lstm<'_>) -> (Tensor, Tensor, Tensor) {
    // The input's share for all steps at once: one large product in place of many small ones.
    let gates = linear(xs, w.input, Some(&(w.input_bias + w.state_bias)));
    let scope = xs.scope();
    let (mut state, mut rows) = scope.scan(xs.dim(0), &[h.clone(), c.clone()], &[gates], |_, s, x| {
        let (h, c) = lstm_cell(&(&x[0] + linear(&s[0], w.state, None)), &s[1]);
        (vec![h.clone(), c], vec![h])
    });
    let c = state.pop().unwrap_or_else(|| scope.nothing());
    let h = state.pop().unwrap_or_else(|| scope.nothing());
    (rows.pop().unwrap_or_else(|| scope.nothing()), h, c)
}

/// A binary tree: the children of each node by number, -1 for those of a leaf.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    /// The left child of each node, `[nodes]` of `i64`.
    pub left: &'a Tensor,
    /// The right child of each node.
    pub right: &'a Tensor,
}

impl Tree<'_> {
    /// What the recursion from the leaves gives at node `root` (`i64[]`): tensors of the types `results`. `leaf` gets the
    /// number of a leaf; `inner` the number of another node, and what was given for its children. Trees are no deeper than
    /// calls nest.
    #[track_caller]
    pub fn fold(
        &self,
        root: &Tensor,
        results: &[TensorType],
        leaf: impl FnOnce(&Tensor) -> Vec<Tensor>,
        inner: impl FnOnce(&Tensor, &[Tensor], &[Tensor]) -> Vec<Tensor>,
    ) -> Vec<Tensor> {
        let scope: &Scope = root.scope();
        let node = scope.func("node", &[root.ty().clone()], results, |node, params| {
            let n = &params[0];
            let left = self.left.gather(n);
            let both = || {
                let (l, r) = (node.call(std::slice::from_ref(&left)), node.call(&[self.right.gather(n)]));
                inner(n, &l, &r)
            };
            scope.cond(&left.lt(0.0), || leaf(n), both)
        });
        node.call(std::slice::from_ref(root))
    }
}

/// The weights of a binary [`tree_lstm`].
#[derive(Clone, Copy)]
pub struct TreeLstm<'a> {
    /// Of a leaf's input, `[3 hidden, in]`; gates i, o, u.
    pub leaf: &'a Tensor,
    /// Bias of a leaf, `[3 hidden]`.
    pub leaf_bias: &'a Tensor,
    /// Of the children's h, left then right, `[5 hidden, 2 hidden]`; gates i, o, u and what to forget of the left and of the
    /// right child.
    pub inner: &'a Tensor,
    /// Bias of an inner node, `[5 hidden]`.
    pub inner_bias: &'a Tensor,
    /// Of the output, `[classes, hidden]`.
    pub output: &'a Tensor,
    /// Bias of the output, `[classes]`.
    pub output_bias: &'a Tensor,
}

/// A binary tree-LSTM (Tai et al. 2015, the N-ary kind) by recursion over a tree: `leaves` gives the input of a leaf, `[in]`,
/// by the leaf's number; `root` is the number of the root, `i64[]`. Yields the outputs of all nodes, `[nodes, classes]`.
#[track_caller]
pub fn tree_lstm(tree: Tree<'_>, root: &Tensor, leaves: impl FnOnce(&Tensor) -> Tensor, w: TreeLstm<'_>) -> Tensor {
    let scope = root.scope();
    let dtype = w.output.dtype();
    let (classes, hidden) = (w.output.dim(0), w.output.dim(1));
    let state = TensorType::new(dtype, [hidden]);
    let outputs = TensorType::new(dtype, [tree.left.dim(0), classes]);
    // The outputs below a node, in their rows.
    let with = |below: Tensor, n: &Tensor, h: &Tensor| {
        let row = linear(h, w.output, Some(w.output_bias));
        below.scatter_add(&n.unsqueeze(0), &row.unsqueeze(0))
    };
    let leaf = |n: &Tensor| {
        let g = chunk(&linear(&leaves(n), w.leaf, Some(w.leaf_bias)), 3);
        let c = g[0].sigmoid() * g[2].tanh();
        let h = g[1].sigmoid() * c.tanh();
        let out = with(scope.zeros(dtype, &outputs.shape), n, &h);
        vec![h, c, out]
    };
    let inner = |n: &Tensor, l: &[Tensor], r: &[Tensor]| {
        let children = Tensor::concat(&[&l[0], &r[0]], 0).unwrap_or_else(|| scope.nothing());
        let g = chunk(&linear(&children, w.inner, Some(w.inner_bias)), 5);
        let c = g[0].sigmoid() * g[2].tanh() + g[3].sigmoid() * &l[1] + g[4].sigmoid() * &r[1];
        let h = g[1].sigmoid() * c.tanh();
        let out = with(&l[2] + &r[2], n, &h);
        vec![h, c, out]
    };
    tree.fold(root, &[state.clone(), state, outputs.clone()], leaf, inner).pop().unwrap_or_else(|| scope.nothing())
}
