//! Calls, tapes and sums.

use std::sync::Arc;

use runtime::pool::Reservation;
use runtime::tape::{Tape, TapeError};
use runtime::trap::{DEFAULT_DEPTH_LIMIT, Trap, TrapCode};

use super::super::control::Effect;
use super::super::{Val, library, zeros};
use super::{Frame, Machine, Result};
use crate::stack::StackRoom;
use crate::types::TensorType;
use crate::value::TensorData;

/// What calls may use of the stack of a task's thread.
pub(super) const TASK_STACK: usize = 512 << 10;
/// The stack of a run that calls functions: address space, of which only what is used is touched.
const CALL_STACK: usize = 256 << 20;

/// A sum under way.
pub(super) struct Sum {
    data: TensorData,
    /// Rows, by which `acc_rows` counts.
    rows: usize,
    bytes: usize,
    counted: Option<Reservation>,
}

fn internal(message: impl Into<String>) -> Trap {
    Trap::with_detail(TrapCode::Internal, message)
}

impl Machine {
    /// Runs the program; where it calls functions, on a stack of its own.
    pub(in super::super) fn run_entry(&mut self) -> Result<()> {
        if self.functions.is_empty() {
            return self.run_here();
        }
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("calls".into()).stack_size(CALL_STACK);
            let run = thread.spawn_scoped(scope, || {
                self.stack = StackRoom::here(CALL_STACK - (CALL_STACK >> 4));
                self.run_blocks()
            });
            let run = run.map_err(|e| internal(format!("no thread for a run with calls: {e}")))?;
            run.join().unwrap_or_else(|_| Err(TrapCode::Panic.into()))
        })
    }

    /// Runs the program on this thread's stack.
    pub(in super::super) fn run_here(&mut self) -> Result<()> {
        self.stack = StackRoom::here(TASK_STACK);
        self.run_blocks()
    }

    fn run_blocks(&mut self) -> Result<()> {
        let code = Arc::clone(&self.code);
        self.run(&code.block)
    }

    /// Runs a function over values of the caller, into others of the caller's.
    pub(super) fn call(&mut self, function: usize, arguments: &[Val], results: &[Val]) -> Result<()> {
        if self.depth >= DEFAULT_DEPTH_LIMIT || self.stack.is_used() {
            return Err(TrapCode::RecursionDepth.into());
        }
        self.cancel.check()?;
        let code = Arc::clone(&self.functions[function]);
        let mut frame = self.frames[function].pop().unwrap_or_else(|| Frame::new(&code));
        let (params, outs) = (&code.block.params, &code.block.results);
        for (inner, outer) in params.iter().zip(arguments).chain(outs.iter().zip(results)) {
            frame.addresses[inner.0 as usize] = self.addresses[outer.0 as usize];
        }
        let caller = std::mem::replace(&mut self.code, Arc::clone(&code));
        self.exchange(&mut frame);
        self.depth += 1;
        let done = self.run(&code.block);
        self.depth -= 1;
        self.exchange(&mut frame);
        self.code = caller;
        self.frames[function].push(frame);
        done
    }

    fn exchange(&mut self, frame: &mut Frame) {
        std::mem::swap(&mut self.addresses, &mut frame.addresses);
        std::mem::swap(&mut self.arenas, &mut frame.arenas);
        std::mem::swap(&mut self.handles, &mut frame.handles);
        std::mem::swap(&mut self.parts, &mut frame.parts);
    }

    pub(super) fn effect(&mut self, effect: &Effect) -> Result<()> {
        match effect {
            Effect::TapeNew { handle, out } => {
                let id = match self.handles[*handle] {
                    Some(id) => id,
                    None => {
                        self.tapes.push(Tape::new(Arc::clone(&self.memory)));
                        *self.handles[*handle].insert(self.tapes.len() - 1)
                    }
                };
                self.tapes[id].clear();
                self.set_id(*out, id)
            }
            Effect::Push { tape, tag, values, out } => {
                let id = self.id(*tape)?;
                let mut found = self.take_tape(id)?;
                let bytes: Result<Vec<&[u8]>> = values.iter().map(|v| self.raw(*v)).collect();
                let pushed = bytes.and_then(|bytes| Ok(found.push(*tag, bytes)?));
                self.tapes[id] = found;
                pushed?;
                self.set_id(*out, id)
            }
            Effect::Pop { tape, tag, out, values } => {
                let id = self.id(*tape)?;
                let mut found = self.take_tape(id)?;
                let places: Result<Vec<&mut [u8]>> = values.iter().map(|v| self.raw_mut(*v)).collect();
                let popped = places.and_then(|mut places| {
                    let wrong = |e: TapeError| Trap::with_detail(TrapCode::InvalidArgument, e.to_string());
                    found.pop(*tag, &mut places).map_err(wrong)
                });
                self.tapes[id] = found;
                popped?;
                self.set_id(*out, id)
            }
            Effect::AccNew { handle, ty, out } => {
                let id = match self.handles[*handle] {
                    Some(id) => id,
                    None => {
                        self.sums.push(Sum { data: TensorData::Bool(vec![]), rows: 0, bytes: 0, counted: None });
                        *self.handles[*handle].insert(self.sums.len() - 1)
                    }
                };
                self.begin_sum(id, ty)?;
                self.set_id(*out, id)
            }
            Effect::AccAdd { acc, value, out } => {
                let id = self.id(*acc)?;
                let mut sum = self.take_sum(id)?;
                let added = self.add(&mut sum.data, *value);
                self.sums[id] = sum;
                added?;
                self.set_id(*out, id)
            }
            Effect::AccRows { acc, indices, updates, out } => {
                let id = self.id(*acc)?;
                let mut sum = self.take_sum(id)?;
                let added = self.add_rows(&mut sum, *indices, *updates);
                self.sums[id] = sum;
                added?;
                self.set_id(*out, id)
            }
            Effect::AccRead { acc, out } => {
                let sum = self.take_sum(self.id(*acc)?)?;
                let read = self.read(&sum.data, *out);
                let id = self.id(*acc)?;
                self.sums[id] = sum;
                read
            }
        }
    }

    fn id(&self, v: Val) -> Result<usize> {
        Ok(self.slice::<i64>(v)?[0] as usize)
    }

    fn set_id(&self, v: Val, id: usize) -> Result<()> {
        self.slice_mut::<i64>(v)?[0] = id as i64;
        Ok(())
    }

    fn take_tape(&mut self, id: usize) -> Result<Tape> {
        let tape = self.tapes.get_mut(id).ok_or_else(|| internal("a tape that does not exist"))?;
        Ok(std::mem::replace(tape, Tape::new(Arc::clone(&self.memory))))
    }

    fn take_sum(&mut self, id: usize) -> Result<Sum> {
        let sum = self.sums.get_mut(id).ok_or_else(|| internal("a sum that does not exist"))?;
        Ok(std::mem::replace(sum, Sum { data: TensorData::Bool(vec![]), rows: 0, bytes: 0, counted: None }))
    }

    /// A sum at zero.
    fn begin_sum(&mut self, id: usize, ty: &TensorType) -> Result<()> {
        let (count, bytes) = (self.count(&ty.shape)?, self.bytes(ty)?);
        let rows = ty.shape.first().map_or(Ok(1), |d| self.size(d))?;
        let sum = &mut self.sums[id];
        sum.rows = rows;
        match &mut sum.data {
            TensorData::F32(v) if v.len() == count => v.fill(0.0),
            TensorData::F64(v) if v.len() == count => v.fill(0.0),
            _ => {
                sum.counted = None;
                if bytes > sum.bytes {
                    sum.data = TensorData::Bool(vec![]);
                }
                sum.counted = Some(self.memory.reserve(bytes)?);
                sum.bytes = bytes;
                sum.data = zeros(ty.dtype, count).map_err(|e| internal(e.to_string()))?;
            }
        }
        Ok(())
    }

    fn add(&self, sum: &mut TensorData, value: Val) -> Result<()> {
        fn floats<T: Copy + std::ops::AddAssign>(sum: &mut [T], value: &[T]) -> Result<()> {
            if sum.len() != value.len() {
                return Err(internal("an addition of another size than the sum's"));
            }
            sum.iter_mut().zip(value).for_each(|(s, x)| *s += *x);
            Ok(())
        }
        fn whole<T: Copy>(sum: &mut [T], value: &[T], plus: impl Fn(T, T) -> Option<T>) -> Result<()> {
            if sum.len() != value.len() {
                return Err(internal("an addition of another size than the sum's"));
            }
            sum.iter_mut().zip(value).try_for_each(|(s, x)| {
                *s = plus(*s, *x).ok_or(TrapCode::Overflow)?;
                Ok(())
            })
        }
        match sum {
            TensorData::F32(v) => floats(v, self.slice(value)?),
            TensorData::F64(v) => floats(v, self.slice(value)?),
            TensorData::I32(v) => whole(v, self.slice(value)?, i32::checked_add),
            TensorData::I64(v) => whole(v, self.slice(value)?, i64::checked_add),
            TensorData::Bool(_) => Err(internal("a sum that is used twice")),
        }
    }

    fn add_rows(&self, sum: &mut Sum, indices: Val, updates: Val) -> Result<()> {
        let at = self.indices(indices)?;
        let rows = sum.rows;
        let width = sum.data.len().checked_div(rows).unwrap_or(0);
        match &mut sum.data {
            TensorData::F32(v) => library::scatter_add(v, rows, width, &at, self.slice(updates)?, |a, b| Some(a + b)),
            TensorData::F64(v) => library::scatter_add(v, rows, width, &at, self.slice(updates)?, |a, b| Some(a + b)),
            TensorData::I32(v) => library::scatter_add(v, rows, width, &at, self.slice(updates)?, i32::checked_add),
            TensorData::I64(v) => library::scatter_add(v, rows, width, &at, self.slice(updates)?, i64::checked_add),
            TensorData::Bool(_) => Err(internal("a sum that is used twice")),
        }
    }

    fn read(&self, sum: &TensorData, out: Val) -> Result<()> {
        fn copy<T: Copy>(to: &mut [T], from: &[T]) -> Result<()> {
            if to.len() != from.len() {
                return Err(internal("a sum of another size than its type"));
            }
            to.copy_from_slice(from);
            Ok(())
        }
        match sum {
            TensorData::F32(v) => copy(self.slice_mut(out)?, v),
            TensorData::F64(v) => copy(self.slice_mut(out)?, v),
            TensorData::I32(v) => copy(self.slice_mut(out)?, v),
            TensorData::I64(v) => copy(self.slice_mut(out)?, v),
            TensorData::Bool(_) => Err(internal("a sum that is used twice")),
        }
    }
}
