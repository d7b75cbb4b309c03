//! Training loops: one program with a loop over batches inside.

use std::panic::Location;

use ir::graph::{BridgeOp, Op};
use ir::types::{Dim, ScalarType};

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
    /// Stop after an epoch whose last metric is not lower than the epoch's before by more than this share of it. In
    /// [`Scope::fit`] that is the loss, in [`Scope::fit_watching`] the loss of the held-out rows.
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
    /// The loss of the rows that were watched behind each epoch, `f64[epochs]`; none where no rows were.
    pub watched: Option<Tensor>,
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
        self.for_batches_at(Location::caller(), batches, sources, state, |_, batch, state| body(batch, state))
    }

    fn for_batches_at(
        &self,
        at: At,
        batches: Batches,
        sources: &[Tensor],
        state: &[Tensor],
        body: impl FnOnce(&[Tensor], &[Tensor], &[Tensor]) -> (Vec<Tensor>, Vec<Tensor>),
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
            let (mut next, found) = body(&params[..2], batch, state);
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
        self.fit_at(Location::caller(), fit, sources, params, loss, None)
    }

    /// As [`Scope::fit`], and behind each epoch the loss of other rows: `held_out` are tensors as `sources`, of another number of
    /// rows. An early stop follows that loss.
    #[track_caller]
    pub fn fit_watching(
        &self,
        fit: &Fit,
        sources: &[Tensor],
        held_out: &[Tensor],
        params: &[Tensor],
        loss: impl Fn(&[Tensor], &[Tensor]) -> Tensor,
    ) -> Trained {
        self.fit_at(Location::caller(), fit, sources, params, &loss, Some((held_out, &loss)))
    }

    fn fit_at(
        &self,
        at: At,
        fit: &Fit,
        sources: &[Tensor],
        params: &[Tensor],
        loss: impl FnOnce(&[Tensor], &[Tensor]) -> Tensor,
        watch: Option<(&[Tensor], Loss<'_>)>,
    ) -> Trained {
        let mut state = params.to_vec();
        state.extend(fit.optimizer.init(self, params));
        let n = params.len();
        let watch = watch.map(|(held_out, loss)| (held_out, loss, Epochs::new(self, &fit.batches, sources)));
        let (mut state, metrics) = self.for_batches_at(at, fit.batches, sources, &state, |counters, batch, state| {
            let (params, optimizer) = state.split_at(n);
            let loss = loss(batch, params);
            let grads = loss.grad(&params.iter().collect::<Vec<_>>());
            let (mut next, optimizer) = fit.optimizer.step(params, &grads, optimizer);
            let mut metrics = vec![loss];
            if let Some((held_out, loss, epochs)) = watch {
                metrics.push(epochs.at_the_end(counters, batch, || self.mean_loss(at, held_out, &next, loss)));
            }
            next.extend(optimizer);
            (next, metrics)
        });
        let optimizer = state.split_off(n);
        let mut metrics = metrics.into_iter();
        let losses = metrics.next().unwrap_or_else(|| self.nothing());
        Trained { params: state, losses, watched: metrics.next(), state: optimizer }
    }

    /// The mean loss of rows, `f64[]`, batch by batch: their layers are never stored as a whole.
    fn mean_loss(&self, at: At, rows: &[Tensor], params: &[Tensor], loss: Loss<'_>) -> Tensor {
        let batches = Batches::new(WATCHED_ROWS, 1);
        let (_, means) = self.for_batches_at(at, batches, rows, &[], |_, batch, _| (vec![], vec![loss(batch, params)]));
        means.first().map_or_else(|| self.nothing(), |mean| mean.sum(0))
    }
}

/// Rows of a batch whose loss is only watched: its layers stay in a cache, whatever the number of rows.
const WATCHED_ROWS: usize = 8192;

type Loss<'a> = &'a dyn Fn(&[Tensor], &[Tensor]) -> Tensor;

/// What a step has to know to tell that it is the last one of its epoch; made once, outside of the loop.
struct Epochs {
    /// Steps of an epoch, `i64[]`.
    steps: Tensor,
    /// Rows of an epoch that steps see, `f64[]`.
    rows: Tensor,
}

impl Epochs {
    fn new(scope: &Scope, batches: &Batches, sources: &[Tensor]) -> Self {
        let rows = sources.first().map_or(Dim::Const(0), |t| t.dim(0));
        let size = Dim::Const(batches.size.max(1));
        let seen = |steps: Dim| if batches.drop_last { steps.times(size.clone()) } else { rows.clone() };
        let last = Dim::Const(if batches.drop_last { 0 } else { batches.size.max(1) - 1 });
        let steps = rows.clone().plus(last).floor_div(size.clone());
        let seen = scope.size(&seen(steps.clone())).cast(ScalarType::F64);
        Self { steps: scope.size(&steps), rows: seen }
    }

    /// A metric whose mean over the rows of an epoch is what `value` (a float) is behind the epoch's last step: the loop weighs
    /// each step by its rows, so the last one stands for all.
    fn at_the_end(&self, counters: &[Tensor], batch: &[Tensor], value: impl FnOnce() -> Tensor) -> Tensor {
        let scope = self.steps.scope();
        let is_last = (&counters[1] + 1.0).eq(&((&counters[0] + 1.0) * &self.steps));
        let mut out = scope.cond(
            &is_last,
            || {
                let here = batch.first().map_or(Dim::Const(1), |t| t.dim(0));
                let share = &self.rows / scope.size(&here).cast(ScalarType::F64);
                vec![value().cast(ScalarType::F64) * share]
            },
            || vec![scope.zeros(ScalarType::F64, &[])],
        );
        out.pop().unwrap_or_else(|| scope.nothing())
    }
}
