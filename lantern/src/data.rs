//! Training loops: one program with a loop over batches inside.

use std::panic::Location;

use ir::graph::{BridgeOp, Op};

use crate::error::{At, Fault};
use crate::optim::Optimizer;
use crate::stage::Scope;
use crate::tensor::Tensor;

/// How rows are cut into batches, and how often.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Batches {
    /// Rows of a batch, at least 1.
    pub size: usize,
    /// Passes over the rows, at least 1.
    pub epochs: usize,
    /// Seed of the shuffle, anew in each epoch; no shuffle without.
    pub shuffle: Option<u64>,
    /// Leave out a last batch that is not full.
    pub drop_last: bool,
    /// Stop after an epoch whose first metric is not lower than the epoch's before by more than this share of it.
    pub early_stop: Option<f64>,
}

impl Batches {
    /// Batches of so many rows, in order, the last one kept; no early stop.
    pub fn new(size: usize, epochs: usize) -> Self {
        Self { size, epochs, shuffle: None, drop_last: false, early_stop: None }
    }

    /// Shuffled by a seed.
    pub fn shuffled(self, seed: u64) -> Self {
        Self { shuffle: Some(seed), ..self }
    }
}

/// What is trained, and how.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fit {
    /// The batches.
    pub batches: Batches,
    /// The optimizer.
    pub optimizer: Optimizer,
}

/// What a training loop yields.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The parameters after the last step.
    pub params: Vec<Tensor>,
    /// The loss of each epoch, `[epochs]`: the mean over its steps, weighted by rows, each before the parameters follow it.
    pub losses: Tensor,
    /// The optimizer's state after the last step.
    pub state: Vec<Tensor>,
}

impl Scope {
    /// A loop over batches of `sources` (tensors `[rows, …]` of one number of rows) that carries `state`. `body` gets a batch of
    /// each source, with a symbolic number of rows, and the state; it yields the new state, of the same types, and metrics: single
    /// floats. Yields the final state, and for each metric its mean over each epoch, `[epochs]`.
    #[track_caller]
    pub fn for_batches(
        &self,
        batches: Batches,
        sources: &[Tensor],
        state: &[Tensor],
        body: impl FnOnce(&[Tensor], &[Tensor]) -> (Vec<Tensor>, Vec<Tensor>),
    ) -> (Vec<Tensor>, Vec<Tensor>) {
        self.for_batches_at(Location::caller(), batches, sources, state, body)
    }

    fn for_batches_at(
        &self,
        at: At,
        batches: Batches,
        sources: &[Tensor],
        state: &[Tensor],
        body: impl FnOnce(&[Tensor], &[Tensor]) -> (Vec<Tensor>, Vec<Tensor>),
    ) -> (Vec<Tensor>, Vec<Tensor>) {
        let Batches { size, epochs, shuffle, drop_last, early_stop } = batches;
        if size == 0 || epochs == 0 || sources.is_empty() {
            let message = format!("{} sources, batches of {size} rows, {epochs} epochs", sources.len());
            self.fail(Fault::Invalid(message).at("for_batches", at));
        }
        let symbol = self.with_builder(|b| Ok(b.program_mut().new_symbol("batch")));
        let batch = match symbol {
            Ok(batch) => batch,
            Err(e) => {
                self.fail(e);
                return (vec![self.nothing(); state.len()], vec![]);
            }
        };
        let n = sources.len();
        let op = BridgeOp::ForBatches { batch, sources: n, size, epochs, shuffle, drop_last, early_stop };
        let inputs: Vec<&Tensor> = sources.iter().chain(state).collect();
        let mut metrics = 0;
        let body = Box::new(|params: Vec<Tensor>| {
            let (batch, state) = params[2..].split_at(n);
            let (mut next, found) = body(batch, state);
            if next.len() != state.len() {
                let message = format!("the body yields {} tensors of state, not {}", next.len(), state.len());
                self.fail(Fault::Invalid(message).at("for_batches", at));
                return vec![self.nothing()];
            }
            metrics = found.len();
            next.extend(found);
            next
        });
        let mut out = self.record_regions("for_batches", at, Op::Bridge(op), &inputs, state.len(), vec![body]);
        out.resize(state.len() + metrics, self.nothing());
        let metrics = out.split_off(state.len());
        (out, metrics)
    }

    /// Trains: `loss` gets a batch of each source and the parameters, and yields one float, which is made small.
    ///
    /// ```
    /// use lantern::{nn, stage, value, Batches, Fit, Optimizer};
    /// use ndarray::array;
    ///
    /// let fit = Fit { batches: Batches::new(2, 200), optimizer: Optimizer::sgd(0.1) };
    /// let f = stage("fit", ["x: f64[n, 1]", "y: f64[n, 1]", "w: f64[1, 1]", "b: f64[1]"], |t| {
    ///     let trained = t[0].scope().fit(&fit, &t[..2], &t[2..], |batch, params| {
    ///         nn::mse(&nn::linear(&batch[0], &params[0], Some(&params[1])), &batch[1])
    ///     });
    ///     trained.params
    /// })?;
    /// let data = [value(array![[0.0], [1.0], [2.0], [3.0]]), value(array![[1.0], [3.0], [5.0], [7.0]])];
    /// let out = f.interpret(data.into_iter().chain([value(array![[0.0]]), value(array![0.0])]))?;
    /// let w = lantern::array::<f64>(&out[0])?;
    /// assert!((w[[0, 0]] - 2.0).abs() < 1e-3);
    /// # Ok::<(), lantern::Error>(())
    /// ```
    #[track_caller]
    pub fn fit(
        &self,
        fit: &Fit,
        sources: &[Tensor],
        params: &[Tensor],
        loss: impl FnOnce(&[Tensor], &[Tensor]) -> Tensor,
    ) -> Trained {
        let at = Location::caller();
        let mut state = params.to_vec();
        state.extend(fit.optimizer.init(self, params));
        let n = params.len();
        let (mut state, metrics) = self.for_batches_at(at, fit.batches, sources, &state, |batch, state| {
            let (params, optimizer) = state.split_at(n);
            let loss = loss(batch, params);
            let grads = loss.grad(&params.iter().collect::<Vec<_>>());
            let (mut next, optimizer) = fit.optimizer.step(params, &grads, optimizer);
            next.extend(optimizer);
            (next, vec![loss])
        });
        let optimizer = state.split_off(n);
        let losses = metrics.into_iter().next().unwrap_or_else(|| self.nothing());
        Trained { params: state, losses, state: optimizer }
    }
}
