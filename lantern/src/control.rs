//! Branches, loops and functions. All of them have derivatives.

use std::panic::Location;
use std::rc::Rc;

use ir::entity::FuncId;
use ir::graph::{ControlOp, Op};
use ir::types::{Dim, TensorType, Type};

use crate::error::{Error, Fault};
use crate::grad::copy::unique_name;
use crate::stage::Scope;
use crate::tensor::Tensor;

impl Scope {
    /// What `yes` yields where `condition` (`bool[]`) is true, what `no` yields otherwise; only that one runs. Both yield tensors
    /// of the same types.
    ///
    /// ```
    /// use lantern::{grad, stage, value};
    ///
    /// // |x|³, by a branch.
    /// let f = |t: &[lantern::Tensor]| {
    ///     let x = &t[0];
    ///     x.scope().cond(&x.lt(0.0), || vec![-x.pow(3.0)], || vec![x.pow(3.0)]).remove(0)
    /// };
    /// let slope = stage("slope", ["x: f64[]"], grad(f, &[0]))?;
    /// assert_eq!(slope.run([value(-2.0)])?, [value(-12.0)]);
    /// # Ok::<(), lantern::Error>(())
    /// ```
    #[track_caller]
    pub fn cond(
        &self,
        condition: &Tensor,
        yes: impl FnOnce() -> Vec<Tensor>,
        no: impl FnOnce() -> Vec<Tensor>,
    ) -> Vec<Tensor> {
        let at = Location::caller();
        let count = std::cell::Cell::new(0);
        let yes = |_| {
            let out = yes();
            count.set(out.len());
            out
        };
        let op = Op::Control(ControlOp::If);
        let mut out = self.record_regions("cond", at, op, &[condition], 0, vec![Box::new(yes), Box::new(|_| no())]);
        out.resize(count.get(), self.nothing());
        out
    }

    /// Steps for as long as `go_on` (from the state to `bool[]`) says: `body` yields the next state, of the same types. Yields
    /// the final state. How many steps that are is known at run time only.
    ///
    /// ```
    /// use lantern::{stage, value};
    ///
    /// // Newton's method for √x, and the root's derivative, 1 / 2√x: through as many steps as it took.
    /// let f = stage("root", ["x: f64[]"], |t| {
    ///     let x = &t[0];
    ///     let far = |s: &[lantern::Tensor]| (s[0].square() - x).abs().gt(1e-12);
    ///     let root = x.scope().while_loop(&[x.clone()], far, |s| vec![(&s[0] + x / &s[0]) * 0.5]).remove(0);
    ///     let slope = root.grad(&[x]);
    ///     (root, slope)
    /// })?;
    /// let out = f.run([value(9.0)])?;
    /// let number = |i: usize| lantern::array::<f64>(&out[i]).map(|a| a[[]]);
    /// assert!((number(0)? - 3.0).abs() < 1e-9 && (number(1)? - 1.0 / 6.0).abs() < 1e-9);
    /// # Ok::<(), lantern::Error>(())
    /// ```
    #[track_caller]
    pub fn while_loop(
        &self,
        state: &[Tensor],
        go_on: impl FnOnce(&[Tensor]) -> Tensor,
        body: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
    ) -> Vec<Tensor> {
        let at = Location::caller();
        let inputs: Vec<&Tensor> = state.iter().collect();
        let go_on = Box::new(|params: Vec<Tensor>| vec![go_on(&params)]);
        let body = Box::new(|params: Vec<Tensor>| body(&params));
        let op = Op::Control(ControlOp::While);
        self.record_regions("while_loop", at, op, &inputs, state.len(), vec![go_on, body])
    }

    /// A function of tensors of these types, which may call itself: `body` gets the function and its parameters and yields
    /// tensors of the types `results`. What the body reads from outside goes in with each call.
    ///
    /// Calls nest no deeper than 4096; deeper ones are an error of the run.
    ///
    /// ```
    /// use ir::types::ScalarType::{F64, I64};
    /// use ir::types::TensorType;
    /// use lantern::{stage, value};
    ///
    /// // xⁿ by squaring, and its derivative.
    /// let f = stage("power", ["x: f64[]", "n: i64[]"], |t| {
    ///     let scope = t[0].scope();
    ///     let number = |ty| TensorType::new(ty, []);
    ///     let power = scope.func("power", &[number(F64), number(I64)], &[number(F64)], |power, t| {
    ///         let (x, n) = (&t[0], &t[1]);
    ///         let step = || {
    ///             let half = (n - n.rem(2.0)) / 2.0;
    ///             let rest = power.call(&[x.square(), half]).remove(0);
    ///             scope.cond(&n.rem(2.0).eq(1.0), || vec![&rest * x], || vec![rest.clone()])
    ///         };
    ///         scope.cond(&n.gt(0.0), step, || vec![x.ones_like()])
    ///     });
    ///     let y = power.call(t).remove(0);
    ///     let slope = y.grad(&[&t[0]]);
    ///     (y, slope)
    /// })?;
    /// assert_eq!(f.run([value(2.0), value(10i64)])?, [value(1024.0), value(5120.0)]);
    /// # Ok::<(), lantern::Error>(())
    /// ```
    #[track_caller]
    pub fn func(
        &self,
        name: &str,
        params: &[TensorType],
        results: &[TensorType],
        body: impl FnOnce(&Func, &[Tensor]) -> Vec<Tensor>,
    ) -> Func {
        let at = Location::caller();
        let types = |list: &[TensorType]| list.iter().cloned().map(Type::Tensor).collect::<Vec<_>>();
        let made = self.with_builder(|b| {
            let name = unique_name(b.program(), name);
            let id = b.declare_func(name, &types(params), &types(results));
            let given = b.begin_declared(id);
            Ok((id, given))
        });
        let func =
            |id| Func(Rc::new(Recorded { scope: self.clone(), id, params: params.to_vec(), results: results.len() }));
        let (id, given) = match made {
            Ok(made) => made,
            Err(e) => {
                self.fail(e);
                return func(None);
            }
        };
        let func = func(Some(id));
        let yields = self.record_func(id, &given, |params| body(&func, &params));
        if let Err(fault) = yields {
            self.fail(fault.at("func", at));
        }
        func
    }

    /// Steps over a number or over slices: `body` gets the index of the step (`i64[]`), the state, and slice `i` of each of `xs`
    /// (tensors `[length, …]`); it yields the next state, of the same types, and values. Yields the final state and the values
    /// of all steps, stacked to `[length, …]`.
    #[track_caller]
    pub fn scan(
        &self,
        length: impl Into<Dim>,
        state: &[Tensor],
        xs: &[Tensor],
        body: impl FnOnce(&Tensor, &[Tensor], &[Tensor]) -> (Vec<Tensor>, Vec<Tensor>),
    ) -> (Vec<Tensor>, Vec<Tensor>) {
        let at = Location::caller();
        let n = state.len();
        let op = ControlOp::For { length: length.into(), state: n, reverse: false };
        let inputs: Vec<&Tensor> = state.iter().chain(xs).collect();
        let mut values = 0;
        let body = Box::new(|params: Vec<Tensor>| {
            let (state, slices) = params[1..].split_at(n);
            let (mut next, found) = body(&params[0], state, slices);
            if next.len() != n {
                let message = format!("the body yields {} tensors of state, not {n}", next.len());
                self.fail(Fault::Invalid(message).at("scan", at));
                return vec![self.nothing()];
            }
            values = found.len();
            next.extend(found);
            next
        });
        let mut out = self.record_regions("scan", at, Op::Control(op), &inputs, n, vec![body]);
        out.resize(n + values, self.nothing());
        let values = out.split_off(n);
        (out, values)
    }
}

/// A function that was recorded by [`Scope::func`]; cheap to clone.
#[derive(Clone)]
pub struct Func(Rc<Recorded>);

struct Recorded {
    scope: Scope,
    /// `None` after an error.
    id: Option<FuncId>,
    params: Vec<TensorType>,
    results: usize,
}

impl Func {
    /// What the function yields for these tensors, which have the types of its parameters.
    #[track_caller]
    pub fn call(&self, inputs: &[Tensor]) -> Vec<Tensor> {
        let Recorded { scope, id, params, results } = &*self.0;
        let at = Location::caller();
        let Some(id) = *id else { return vec![scope.nothing(); *results] };
        if inputs.len() != params.len() {
            let message = format!("{} tensors for {} parameters", inputs.len(), params.len());
            scope.fail(Fault::Invalid(message).at("call", at));
            return vec![scope.nothing(); *results];
        }
        if let Some((t, p)) = inputs.iter().zip(params).find(|(t, p)| t.value.is_some() && t.ty != **p) {
            scope.fail(Error::Shapes { op: "call", left: Box::new(p.clone()), right: Box::new(t.ty.clone()), at });
            return vec![scope.nothing(); *results];
        }
        scope.record_call(id, at, inputs, *results)
    }
}
