//! Attention as a whole: its derivative is one operation, which computes the weights again by tiles (Dao et al.,
//! "FlashAttention" 2022) where the products and the softmax would each keep all of them.

use ir::entity::{NodeId, ValueId};
use ir::graph::attend::AttendSpec;
use ir::graph::tensor::{ContractSpec, Move};
use ir::graph::{Builder, Node, Op, TensorOp};
use ir::scalar::ScalarOp;
use ir::scalar::reduce::Reducer;
use ir::types::{Dim, ScalarType, TensorType};

use super::{Reverse, missing, nodes_before, varied};
use crate::error::Result;
use crate::stage::filled;

/// Finds the attentions on which the seeds depend, in what was recorded.
pub(super) fn recognize(b: &mut Builder, seeds: &[(ValueId, ValueId)], wrt: &[ValueId]) {
    let outs: Vec<ValueId> = seeds.iter().map(|s| s.0).collect();
    let nodes = nodes_before(b.program(), &outs);
    let varied = varied(b.program(), &nodes, wrt.iter().copied().collect());
    let reads_varied = |n: &&NodeId| b.program().node(**n).operands.iter().any(|v| varied.contains(v));
    let nodes: Vec<NodeId> = nodes.iter().filter(reads_varied).copied().collect();
    ir::opt::attention::recognize(b.program_mut(), &nodes, |v| !varied.contains(&v));
}

/// Hands adjoints to queries, keys and values; `d` is the result's.
pub(super) fn reverse(r: &mut Reverse<'_>, spec: &AttendSpec, node: &Node, d: ValueId) -> Result<()> {
    if node.operands[3..].iter().any(|v| r.is_varied(*v)) || !spec.has_gradient() {
        return Err(missing(
            format!("attend {spec}"),
            "with respect to what changes the scores, or of heads that share keys",
        ));
    }
    let operands = [&node.operands[..], &[d]].concat();
    let found = r.b.push(Op::Tensor(TensorOp::AttendGrad(Box::new(spec.clone()))), &operands, &[])?;
    for (v, d) in node.operands.iter().zip(found) {
        r.add(*v, d)?;
    }
    Ok(())
}

/// The derivative of the derivative: that of the operations that it stands for.
pub(super) fn reverse_grad(
    r: &mut Reverse<'_>,
    spec: &AttendSpec,
    node: &Node,
    outs: &[Option<ValueId>],
) -> Result<()> {
    let first = r.b.program().nodes.len();
    let results = Written::new(r.b, spec, &node.operands)?.adjoints(r.b)?;
    let program = r.b.program();
    let nodes: Vec<NodeId> = nodes_before(program, &results).into_iter().filter(|n| n.index() >= first).collect();
    r.level.varied = varied(program, &nodes, std::mem::take(&mut r.level.varied));
    for (v, d) in results.iter().zip(outs) {
        if let Some(d) = d {
            r.add(*v, *d)?;
        }
    }
    r.run(&nodes)
}

/// The derivative written as products, a softmax and sums.
struct Written<'a> {
    spec: &'a AttendSpec,
    operands: &'a [ValueId],
    /// Of scores and weights.
    labels: Vec<u8>,
    ty: TensorType,
}

impl<'a> Written<'a> {
    fn new(b: &Builder, spec: &'a AttendSpec, operands: &'a [ValueId]) -> Result<Self> {
        let bug = || ir::Error::Bug(format!("attend {spec}"));
        let roles = spec.roles().ok_or_else(bug)?;
        let mut labels: Vec<u8> = spec.out.iter().copied().filter(|l| *l != roles.column).collect();
        labels.push(roles.key);
        let size = |l: &u8| {
            spec.operands().zip(operands).find_map(|(labels, v)| {
                let dim = labels.iter().position(|x| x == l)?;
                Some(b.ty(*v).as_tensor()?.shape[dim].clone())
            })
        };
        let shape: Vec<Dim> = labels.iter().map(size).collect::<Option<_>>().ok_or_else(bug)?;
        let dtype = b.ty(operands[0]).as_tensor().ok_or_else(bug)?.dtype;
        Ok(Self { spec, operands, labels, ty: TensorType { dtype, shape } })
    }

    /// Of queries, keys and values.
    fn adjoints(&self, b: &mut Builder) -> Result<[ValueId; 3]> {
        let (q, k, v, d) =
            (self.operands[0], self.operands[1], self.operands[2], self.operands[self.operands.len() - 1]);
        let (spec, scores) = (self.spec, &self.labels);
        let weights = self.weights(b, q, k)?;
        let of_weights = product(b, (&spec.out, d), (&spec.v, v), scores)?;
        let weighted = self.map(b, ScalarOp::Mul, &[weights, of_weights])?;
        let mean = self.over_keys(b, Reducer::Sum, weighted)?;
        let apart = self.map(b, ScalarOp::Sub, &[of_weights, mean])?;
        let slopes = self.map(b, ScalarOp::Mul, &[weights, apart])?;
        let mut slopes = self.scaled(b, slopes)?;
        for (labels, term) in self.terms(b, ScalarType::Bool) {
            slopes = self.hidden(b, &labels, term, slopes, 0.0)?;
        }
        Ok([
            product(b, (scores, slopes), (&spec.k, k), &spec.q)?,
            product(b, (scores, slopes), (&spec.q, q), &spec.k)?,
            product(b, (scores, weights), (&spec.out, d), &spec.v)?,
        ])
    }

    fn weights(&self, b: &mut Builder, q: ValueId, k: ValueId) -> Result<ValueId> {
        let products = product(b, (&self.spec.q, q), (&self.spec.k, k), &self.labels)?;
        let mut scores = self.scaled(b, products)?;
        for (labels, term) in self.spec.terms.iter().zip(&self.operands[3..]) {
            let is_bias = b.ty(*term).as_tensor().is_some_and(|t| t.dtype == self.ty.dtype);
            scores = if is_bias {
                let bias = self.spread(b, labels, *term)?;
                self.map(b, ScalarOp::Add, &[scores, bias])?
            } else {
                self.hidden(b, labels, *term, scores, self.spec.fill)?
            };
        }
        let greatest = self.over_keys(b, Reducer::Max, scores)?;
        // The softmax does not depend on the shift.
        let greatest = b.tensor(TensorOp::View(vec![]), &[greatest])?;
        let below = self.map(b, ScalarOp::Sub, &[scores, greatest])?;
        let exp = self.map(b, ScalarOp::Exp, &[below])?;
        let total = self.over_keys(b, Reducer::Sum, exp)?;
        self.map(b, ScalarOp::Div, &[exp, total])
    }

    fn terms(&self, b: &Builder, dtype: ScalarType) -> Vec<(Vec<u8>, ValueId)> {
        let is_wanted = |v: &ValueId| b.ty(*v).as_tensor().is_some_and(|t| t.dtype == dtype);
        let terms = self.spec.terms.iter().cloned().zip(self.operands[3..].iter().copied());
        terms.filter(|(_, v)| is_wanted(v)).collect()
    }

    fn map(&self, b: &mut Builder, op: ScalarOp, operands: &[ValueId]) -> Result<ValueId> {
        Ok(b.map(operands, |b, v| Ok(vec![b.scalar(op, v)?]))?[0])
    }

    fn scaled(&self, b: &mut Builder, v: ValueId) -> Result<ValueId> {
        let scale = filled(b, &self.ty, self.spec.scale)?;
        self.map(b, ScalarOp::Mul, &[v, scale])
    }

    /// A number where a truth value is false.
    fn hidden(&self, b: &mut Builder, labels: &[u8], term: ValueId, v: ValueId, number: f64) -> Result<ValueId> {
        let seen = self.spread(b, labels, term)?;
        let number = filled(b, &self.ty, number)?;
        self.map(b, ScalarOp::Select, &[seen, v, number])
    }

    /// Reduced over the keys, and repeated along them.
    fn over_keys(&self, b: &mut Builder, reducer: Reducer, v: ValueId) -> Result<ValueId> {
        let key = self.labels.len() - 1;
        let out = b.tensor(TensorOp::Reduce { reducer, axes: vec![key] }, &[v])?;
        let repeat = Move::Broadcast { shape: self.ty.shape.clone(), dims: (0..key).collect() };
        Ok(b.tensor(TensorOp::View(vec![repeat]), &[out])?)
    }

    /// A tensor of some of the scores' labels in their shape.
    fn spread(&self, b: &mut Builder, labels: &[u8], v: ValueId) -> Result<ValueId> {
        let place = |l: &u8| self.labels.iter().position(|x| x == l).unwrap_or(0);
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.sort_by_key(|i| place(&labels[*i]));
        let dims = order.iter().map(|i| place(&labels[*i])).collect();
        let moves = vec![Move::Permute(order), Move::Broadcast { shape: self.ty.shape.clone(), dims }];
        Ok(b.tensor(TensorOp::View(moves), &[v])?)
    }
}

fn product(b: &mut Builder, x: (&[u8], ValueId), y: (&[u8], ValueId), out: &[u8]) -> Result<ValueId> {
    let spec = ContractSpec { a: x.0.to_vec(), b: y.0.to_vec(), out: out.to_vec() };
    Ok(b.tensor(TensorOp::Contract(spec), &[x.1, y.1])?)
}
