//! B7: the scaling of features goes into the weights of the model's first product.
//!
//! A feature `a x + b` that only products with constant weights read is written as `x`: `W (a x + b) = (W a) x + W b`. The
//! weights are multiplied and the sum `W b` goes into the bias, once, here; no row pays for a subtraction and a division.
//!
//! What holds:
//! - In numbers of `u` = 2^-24 (2^-53 in double precision) and for a feature `f = a x + b`, a product changes by at most
//!   `3 u |W| (|f| + |b|)`, and each sum of them by what its order makes. A shift is folded where `|b|` is at most
//!   [`MAX_SHIFT`], so a feature near its mean is as good as moved by 3e-6. One further from zero than that (years, air
//!   pressures: `|mean|` is many times the deviation) would cancel what the raw column and the bias hold in common: its shift
//!   stays in the row, and its factor alone is folded, which costs no digits.
//! - A factor is within [`FACTORS`]: a raw column leaves the range of single precision only where the feature is beyond 1e18.
//!   No weight becomes infinite or loses digits below the normal numbers.
//! - A NULL raises the same error as before: the raw column has the feature's name.
//! - Training keeps its scaled features: steps of gradients are not the same in other units.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::Context;
use super::algebra::readers;
use super::features::{Definitions, Model, Product, constant, dims, doubles, extend_by, like, same_results, way};
use crate::entity::{ColumnId, NodeId, RegionId, ValueId};
use crate::error::Result;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, rebuild, walk};
use crate::graph::tensor::Move;
use crate::graph::{Node, Op, Program, RelOp, TensorOp};
use crate::scalar::ScalarOp;
use crate::types::{Dim, ScalarType};
use crate::value::{TensorValue, Value};

/// The largest shift that is folded, in units of the scaled feature.
const MAX_SHIFT: f64 = 16.0;
/// The magnitudes of factors that are folded: 2^-64 to 2^64.
const FACTORS: RangeInclusive<f64> = 1.0 / 18_446_744_073_709_551_616.0..=18_446_744_073_709_551_616.0;

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    let models = Model::all(p);
    if models.is_empty() {
        return Ok(p.clone());
    }
    let mut scale = Scale::default();
    let definitions = Definitions::of(p);
    let readers = readers(p);
    for model in models {
        let folds = folds(p, &definitions, &readers, &model);
        if pays(&folds) && cx.spend() {
            cx.note(model.node.place, note(&model, &folds));
            folds.into_iter().for_each(|(group, fold)| scale.take(p, &model, group, fold));
        }
    }
    if scale.models.is_empty() {
        return Ok(p.clone());
    }
    let new = rebuild(p, &mut scale)?;
    Ok(if same_results(p, &new) { new } else { p.clone() })
}

/// A feature as `factor * value + shift`.
#[derive(Clone, Copy, Debug)]
struct Affine {
    factor: f64,
    shift: f64,
    /// A value in the region of the `extend`.
    value: ValueId,
    /// How many operations a row it saves.
    saved: usize,
}

/// The features of a group that are written without their scaling, and the products that read them.
struct Fold<'p> {
    features: Vec<Option<Feature>>,
    products: Vec<Product<'p>>,
}

/// A feature that is written without its scaling.
struct Feature {
    /// What computes it.
    extend: NodeId,
    affine: Affine,
    /// The projections between there and the model.
    way: Vec<NodeId>,
}

/// Legal: what the head of this file says. The groups of a model that have a feature to fold.
fn folds<'p>(
    p: &'p Program,
    definitions: &Definitions,
    readers: &HashMap<ValueId, usize>,
    model: &Model<'p>,
) -> Vec<(usize, Fold<'p>)> {
    let mut out = vec![];
    for (i, group) in model.groups.iter().enumerate() {
        if !group.dtype.is_float() || group.flat {
            continue;
        }
        let Some(products) = model.products(p, i) else { continue };
        let feature = |(j, column): (usize, &ColumnId)| {
            let (extend, value) = definitions.get(*column)?;
            let fits = |a: &Affine| products.iter().all(|product| weights_fit(product, j, a.factor));
            let found = affine(p, value, group.dtype).into_iter().rev().find(fits)?;
            let way = way(p, extend, model.node.operands[0], readers)?;
            Some(Feature { extend, affine: found, way })
        };
        let features: Vec<_> = group.columns.iter().enumerate().map(feature).collect();
        if features.iter().any(Option::is_some) {
            out.push((i, Fold { features, products }));
        }
    }
    out
}

/// Profit: a row computes less, and nothing more is computed for it.
fn pays(folds: &[(usize, Fold<'_>)]) -> bool {
    saved(folds) > 0
}

fn saved(folds: &[(usize, Fold<'_>)]) -> usize {
    folds.iter().flat_map(|(_, f)| f.features.iter().flatten()).map(|f| f.affine.saved).sum()
}

fn note(model: &Model<'_>, folds: &[(usize, Fold<'_>)]) -> String {
    let all: usize = folds.iter().map(|(group, _)| &model.groups[*group]).map(|g| g.columns.len()).sum();
    let folded = folds.iter().flat_map(|(_, f)| f.features.iter().flatten()).count();
    let operations = saved(folds);
    let s = if operations == 1 { "" } else { "s" };
    format!("B7: weights scale {folded} of {all} features: {operations} operation{s} a row less")
}

/// The ways to take a scaled feature apart, from the outermost operation inwards; a shift that is too large ends none, since
/// one behind it may take it back.
fn affine(p: &Program, feature: ValueId, dtype: ScalarType) -> Vec<Affine> {
    let mut at = Affine { factor: 1.0, shift: 0.0, value: feature, saved: 0 };
    let mut found = vec![];
    while let Some(next) = step(p, &at, dtype) {
        at = next;
        if at.saved > 0 && at.shift.abs() <= MAX_SHIFT && FACTORS.contains(&at.factor.abs()) {
            found.push(at);
        }
    }
    found
}

/// One operation further inwards: a factor, a shift, or a cast that keeps the digits that the model reads.
fn step(p: &Program, at: &Affine, dtype: ScalarType) -> Option<Affine> {
    let node = p.node_of(at.value)?;
    let Op::Scalar(op) = node.op else { return None };
    let ty = |v: ValueId| p.ty(v).as_scalar().map(|t| t.ty);
    if !ty(at.value)?.is_float() {
        return None;
    }
    let number = |v: ValueId| match p.node_of(v).map(|n| &n.op) {
        Some(Op::Literal(Value::F64(x), _)) => Some(*x),
        Some(Op::Literal(Value::F32(x), _)) => Some(f64::from(*x)),
        _ => None,
    };
    let (a, b) = (at.factor, at.shift);
    let to = |factor: f64, shift: f64, value: ValueId, saved: usize| Affine {
        factor,
        shift,
        value,
        saved: at.saved + saved,
    };
    match (op, node.operands.as_slice()) {
        (ScalarOp::Cast(into), [x]) => {
            let exact = ty(*x)?.is_float() || matches!(ty(*x)?, ScalarType::I32 | ScalarType::I64);
            let kept = into == ScalarType::F64 || dtype == ScalarType::F32;
            (exact && kept).then(|| to(a, b, *x, 0))
        }
        (ScalarOp::Neg, [x]) => Some(to(-a, b, *x, 1)),
        (ScalarOp::Sub, [x, c]) if number(*c).is_some() => Some(to(a, b - a * number(*c)?, *x, 1)),
        (ScalarOp::Sub, [c, x]) => Some(to(-a, b + a * number(*c)?, *x, 1)),
        (ScalarOp::Add, [x, c] | [c, x]) if number(*c).is_some() => Some(to(a, b + a * number(*c)?, *x, 1)),
        (ScalarOp::Mul, [x, c] | [c, x]) if number(*c).is_some() => Some(to(a * number(*c)?, b, *x, 1)),
        (ScalarOp::Div, [x, c]) => Some(to(a / number(*c)?, b, *x, 1)),
        _ => None,
    }
}

/// Whether no weight of a feature loses digits or leaves the range of its type when it is multiplied.
fn weights_fit(product: &Product<'_>, feature: usize, factor: f64) -> bool {
    let single = product.weights.data.dtype() == ScalarType::F32;
    let (least, most) =
        if single { (f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX)) } else { (f64::MIN_POSITIVE, f64::MAX) };
    let mine = doubles(product.weights).into_iter().enumerate().filter(|(at, _)| product.feature(*at) == feature);
    mine.map(|(_, w)| (w * factor).abs()).all(|w| w == 0.0 || (least..=most).contains(&w))
}

/// What is made of a contraction.
struct Scaled {
    /// Which operand the weights are.
    side: usize,
    weights: TensorValue,
    /// What is added behind it, if no bias takes it.
    shift: Option<TensorValue>,
}

/// For each feature of a group the value that it is written as now, if that is another.
type Written = Vec<Option<ValueId>>;

#[derive(Default)]
struct Scale {
    /// For each group of a model, the values that its features are written as.
    models: HashMap<NodeId, Vec<(usize, Written)>>,
    /// What an `extend` yields more: the value and the column that it is called by in errors.
    raw: HashMap<NodeId, Vec<(ValueId, ColumnId)>>,
    /// The values that a projection has to let pass.
    passing: HashMap<NodeId, Vec<ValueId>>,
    /// The new columns by the values.
    columns: HashMap<ValueId, ColumnId>,
    products: HashMap<NodeId, Scaled>,
    /// Maps that add a bias: which operand it is, and the new one.
    biases: HashMap<NodeId, (usize, TensorValue)>,
}

impl Scale {
    fn take(&mut self, p: &Program, model: &Model<'_>, group: usize, fold: Fold<'_>) {
        let names = &model.groups[group].columns;
        for (found, name) in fold.features.iter().zip(names) {
            let Some(feature) = found else { continue };
            let value = feature.affine.value;
            let raw = self.raw.entry(feature.extend).or_default();
            if raw.iter().all(|(v, _)| *v != value) {
                raw.push((value, *name));
            }
            for project in &feature.way {
                let passing = self.passing.entry(*project).or_default();
                if !passing.contains(&value) {
                    passing.push(value);
                }
            }
        }
        let written = fold.features.iter().map(|f| f.as_ref().map(|f| f.affine.value)).collect();
        self.models.entry(model.id).or_default().push((group, written));
        for product in &fold.products {
            self.product(p, model.region, product, &fold.features);
        }
    }

    fn product(&mut self, p: &Program, region: RegionId, product: &Product<'_>, features: &[Option<Feature>]) {
        let shape = product.row_shape();
        let mut weights = doubles(product.weights);
        let mut shift = vec![0.0; shape.iter().product()];
        for (at, w) in weights.iter_mut().enumerate() {
            if let Some(Feature { affine, .. }) = &features[product.feature(at)] {
                shift[product.output(at)] += *w * affine.shift;
                *w *= affine.factor;
            }
        }
        let weights = like(product.weights, product.weights.shape.clone(), &weights);
        let mut scaled = Scaled { side: product.side, weights, shift: None };
        if shift.iter().any(|x| *x != 0.0) {
            match biases(p, region, product.node) {
                Some(found) => self.biases.extend(found.into_iter().map(|(map, operand, bias)| {
                    let sum: Vec<f64> = doubles(bias).iter().zip(&shift).map(|(b, s)| b + s).collect();
                    (map, (operand, like(bias, shape.clone(), &sum)))
                })),
                None => scaled.shift = Some(like(product.weights, shape, &shift)),
            }
        }
        self.products.insert(product.node, scaled);
    }
}

/// The maps that read a product, if all they do to it is to add a constant bias: each with which operand that is, and its value.
fn biases(p: &Program, region: RegionId, product: NodeId) -> Option<Vec<(NodeId, usize, &TensorValue)>> {
    let result = p.node(product).results[0];
    let mut readers = vec![];
    walk(p, region, &mut |id, node| readers.extend(node.operands.iter().filter(|v| **v == result).map(|_| id)));
    if p.region(region).results.contains(&result) {
        return None;
    }
    readers.into_iter().map(|map| bias(p, result, map)).collect()
}

fn bias(p: &Program, result: ValueId, map: NodeId) -> Option<(NodeId, usize, &TensorValue)> {
    let node = p.node(map);
    if !matches!(node.op, Op::Tensor(TensorOp::Map { .. })) {
        return None;
    }
    let body = p.region(node.regions[0]);
    let mine = body.params[node.operands.iter().position(|v| *v == result)?];
    // In the body, what reads a parameter.
    let reads = |param: ValueId| {
        let mut found = vec![];
        walk(p, node.regions[0], &mut |_, n| found.extend(n.operands.iter().filter(|v| **v == param).map(|_| n)));
        let captured = body.results.contains(&param);
        (found.len() == 1 && !captured).then(|| found[0])
    };
    let add = reads(mine).filter(|n| matches!(n.op, Op::Scalar(ScalarOp::Add)))?;
    let other = *add.operands.iter().find(|v| **v != mine)?;
    let operand = body.params.iter().position(|v| *v == other)?;
    reads(other)?;
    let view = p.node_of(node.operands[operand])?;
    let Op::Tensor(TensorOp::View(moves)) = &view.op else { return None };
    let bias = constant(p, view.operands[0])?;
    let rank = p.ty(result).as_tensor()?.rank();
    let behind_rows: Vec<usize> = (1..rank).collect();
    let spread = matches!(moves.as_slice(), [Move::Broadcast { dims, .. }] if *dims == behind_rows);
    let whole = p.ty(result).as_tensor()?.shape[1..] == dims(&bias.shape)[..];
    (spread && whole).then_some((map, operand, bias))
}

impl Rewrite for Scale {
    fn node(&mut self, cx: &mut Rebuild<'_>, id: NodeId, node: &Node) -> Result<Change> {
        if let Some(raw) = self.raw.get(&id).cloned() {
            let named = |(v, feature): &(ValueId, ColumnId)| (*v, cx.old.columns[feature.index()].name.clone());
            let values: Vec<(ValueId, String)> = raw.iter().map(named).collect();
            let (table, columns) = extend_by(cx, self, node, &values)?;
            self.columns.extend(values.iter().map(|(v, _)| *v).zip(columns));
            return Ok(Change::Values(vec![table]));
        }
        if let (Some(passing), Op::Rel(RelOp::Project { columns })) = (self.passing.get(&id), &node.op) {
            let new = passing.iter().filter_map(|v| self.columns.get(v));
            let columns = columns.iter().chain(new).copied().collect();
            return Ok(Change::Values(cx.keep_as(self, Op::Rel(RelOp::Project { columns }), node)?));
        }
        if let Some(groups) = self.models.get(&id) {
            let op = Model::with(node, |inputs| {
                for (group, written) in groups {
                    for (column, raw) in inputs[*group].columns.iter_mut().zip(written) {
                        if let Some(new) = raw.and_then(|v| self.columns.get(&v)) {
                            *column = *new;
                        }
                    }
                }
            });
            return Ok(Change::Values(cx.keep_as(self, op, node)?));
        }
        if let Some(scaled) = self.products.get(&id) {
            return product(cx, node, scaled);
        }
        if let Some((operand, bias)) = self.biases.get(&id).cloned() {
            let mut operands = cx.values(&node.operands)?;
            let shape = cx.ty(operands[operand]).as_tensor().map(|t| t.shape.clone()).unwrap_or_default();
            operands[operand] = spread(cx, bias, shape)?;
            return Ok(Change::Values(cx.keep_over(self, node.op.clone(), &operands, node)?));
        }
        Ok(Change::Keep)
    }
}

fn product(cx: &mut Rebuild<'_>, node: &Node, scaled: &Scaled) -> Result<Change> {
    let mut operands = cx.values(&node.operands)?;
    operands[scaled.side] = cx.b.tensor(TensorOp::Const(Arc::new(scaled.weights.clone())), &[])?;
    cx.b.set_place(node.place);
    let mut made = cx.b.push1(node.op.clone(), &operands, &[])?;
    cx.b.set_place(None);
    if let Some(shift) = &scaled.shift {
        let shape = cx.ty(made).as_tensor().map(|t| t.shape.clone()).unwrap_or_default();
        let shift = spread(cx, shift.clone(), shape)?;
        made = cx.b.map(&[made, shift], |b, v| Ok(vec![b.scalar(ScalarOp::Add, v)?]))?[0];
    }
    Ok(Change::Values(vec![made]))
}

/// A constant, repeated for each row.
fn spread(cx: &mut Rebuild<'_>, row: TensorValue, shape: Vec<Dim>) -> Result<ValueId> {
    let constant = cx.b.tensor(TensorOp::Const(Arc::new(row)), &[])?;
    let dims = (1..shape.len()).collect();
    cx.b.tensor(TensorOp::View(vec![Move::Broadcast { shape, dims }]), &[constant])
}
