//! M1: features that cannot matter are not computed.
//!
//! A feature whose weights in every product that reads it are zero adds nothing to the model's answer: it leaves the model's
//! input, and the product loses its weights. What only it was computed from, down to the columns of scans, goes with the pass
//! [`super::clean`].
//!
//! What holds:
//! - Only products with constant weights read the feature, and all its weights are 0.
//! - A feature that may be NULL stays: it has to raise the error that names it.
//! - Exact in real arithmetic, but for infinities and NaN: 0 times those is NaN, and here it is not computed.

use std::collections::HashMap;
use std::sync::Arc;

use super::Context;
use super::features::{Model, Product, doubles, like};
use crate::entity::NodeId;
use crate::error::Result;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, rebuild};
use crate::graph::{Node, Program, TensorOp};
use crate::value::TensorValue;

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    let mut unused = Unused::default();
    for model in Model::all(p) {
        let groups = unused_features(p, &model);
        let many: usize = groups.iter().map(|g| g.1.iter().filter(|u| **u).count()).sum();
        if many > 0 && cx.spend() {
            let what = if many == 1 { "feature has" } else { "features have" };
            cx.note(model.node.place, format!("M1: {many} {what} weights of zero alone: the model does not read them"));
            groups
                .into_iter()
                .for_each(|(group, features, products)| unused.take(model.id, group, features, &products));
        }
    }
    if unused.models.is_empty() { Ok(p.clone()) } else { rebuild(p, &mut unused) }
}

/// For the groups of a model that have such features: which they are, and the products that read them. It always pays.
fn unused_features<'p>(p: &'p Program, model: &Model<'p>) -> Vec<(usize, Vec<bool>, Vec<Product<'p>>)> {
    let Some(table) = p.ty(model.node.operands[0]).as_table() else { return vec![] };
    let mut out = vec![];
    for (i, group) in model.groups.iter().enumerate() {
        let Some(products) = model.products(p, i) else { continue };
        let stays = |c| table.get(c).is_none_or(|t| t.nullable);
        let mut unused: Vec<bool> = group.columns.iter().map(|c| !stays(*c)).collect();
        for product in &products {
            let weights = doubles(product.weights).into_iter().enumerate();
            weights.filter(|(_, w)| *w != 0.0).for_each(|(at, _)| unused[product.feature(at)] = false);
        }
        // A tensor has a column at least.
        if unused.iter().all(|u| *u) {
            unused[0] = false;
        }
        if unused.contains(&true) {
            out.push((i, unused, products));
        }
    }
    out
}

#[derive(Default)]
struct Unused {
    /// The features that a model's groups lose.
    models: HashMap<NodeId, Vec<(usize, Vec<bool>)>>,
    /// For a contraction, which operand its weights are, and the ones that are left.
    products: HashMap<NodeId, (usize, TensorValue)>,
}

impl Unused {
    fn take(&mut self, model: NodeId, group: usize, unused: Vec<bool>, products: &[Product<'_>]) {
        for product in products {
            let all = doubles(product.weights).into_iter().enumerate();
            let left: Vec<f64> = all.filter(|(at, _)| !unused[product.feature(*at)]).map(|(_, w)| w).collect();
            let mut shape = product.weights.shape.clone();
            shape[product.axis] = unused.iter().filter(|u| !**u).count();
            self.products.insert(product.node, (product.side, like(product.weights, shape, &left)));
        }
        self.models.entry(model).or_default().push((group, unused));
    }
}

impl Rewrite for Unused {
    fn node(&mut self, cx: &mut Rebuild<'_>, id: NodeId, node: &Node) -> Result<Change> {
        if let Some((side, weights)) = self.products.get(&id) {
            let mut operands = cx.values(&node.operands)?;
            operands[*side] = cx.b.tensor(TensorOp::Const(Arc::new(weights.clone())), &[])?;
            cx.b.set_place(node.place);
            let made = cx.b.push(node.op.clone(), &operands, &[])?;
            cx.b.set_place(None);
            return Ok(Change::Values(made));
        }
        let Some(groups) = self.models.get(&id) else { return Ok(Change::Keep) };
        let op = Model::with(node, |inputs| {
            for (group, unused) in groups {
                let mut unused = unused.iter();
                inputs[*group].columns.retain(|_| !unused.next().copied().unwrap_or(false));
            }
        });
        Ok(Change::Values(cx.keep_as(self, op, node)?))
    }
}
