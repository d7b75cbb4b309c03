//! Branches and loops.

use std::panic::Location;

use ir::graph::{ControlOp, Op};
use ir::types::Dim;

use crate::error::Fault;
use crate::stage::Scope;
use crate::tensor::Tensor;

impl Scope {
    /// What `yes` yields where `condition` (`bool[]`) is true, what `no` yields otherwise; only that one runs. Both yield tensors
    /// of the same types.
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
