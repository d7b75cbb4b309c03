//! The loop of a recursive query: a host loop over stages.
//!
//! What holds between two iterations:
//! - All rows so far, with their texts, are in the [`Recursion`]; the working table is a list of some of them.
//! - What the iteration before made is gone: its rows, the worker blocks with its texts, the states of its body. What the first
//!   iteration makes for all of them stays.

use std::collections::HashSet;

use runtime::buffer::RowList;
use runtime::recursion::Recursion;

use super::convert;
use super::run::{Run, StageTime, StateData};
use crate::error::{Error, Result};
use crate::plan::{Stage, StateId};

impl Run<'_> {
    /// Runs the loop at stage `i`; the number of rows that it gives.
    pub(super) fn recursion(&mut self, i: usize, times: &mut [StageTime]) -> Result<usize> {
        let plan = &self.exe.plan;
        let Stage::Loop { next, working, result, distinct, limit, once, body } = &plan.stages[i] else {
            return Err(Error::Bug("a loop that is none".into()));
        };
        let enough = limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let layout = &plan.state(*next).layout;
        let fields = layout.fields.iter().map(convert::runtime_field).collect();
        let all = Recursion::new(fields, layout.size as usize, *distinct, &self.resources.memory);
        let mut all = all.map_err(|e| self.trap(e.into()))?;
        let (first, again, end) = (i + 1, i + 1 + once, i + 1 + body);
        let refilled: HashSet<StateId> = plan.stages[again..end].iter().filter_map(Stage::state).collect();
        let mut begin = first;
        let mut kept = (0, 0);
        loop {
            let made = self.take_rows(*next)?;
            // SAFETY: the rows have the layout of `next`, and their texts live in blocks and tables of this run.
            let added = unsafe { all.add(&made, &self.resources.cancel) }.map_err(|t| self.trap(t))?;
            drop(made);
            if begin == again {
                self.kept.truncate(kept.0);
                self.texts.truncate(kept.1);
            }
            let done = added.is_empty() || all.len() >= enough;
            self.states[working.index()] = StateData::Rows(added);
            if done {
                break;
            }
            for state in &refilled {
                self.states[state.index()] = StateData::Filling(vec![]);
            }
            if begin == first {
                self.stages(first..again, times)?;
                begin = again;
                kept = (self.kept.len(), self.texts.len());
            }
            self.stages(again..end, times)?;
        }
        // The working table points into rows that move to the result.
        self.states[working.index()] = StateData::Done;
        let (rows, texts) = all.into_rows();
        let count = rows.len();
        self.arenas.push(texts);
        self.states[result.index()] = StateData::Rows(rows);
        Ok(count)
    }

    /// The rows of a sealed state, which has none then.
    fn take_rows(&mut self, state: StateId) -> Result<RowList> {
        match std::mem::replace(&mut self.states[state.index()], StateData::Done) {
            StateData::Rows(rows) => Ok(rows),
            _ => Err(Error::Bug(format!("{state} is read before it is sealed"))),
        }
    }
}
