//! Reducers: `init / step / merge / finish`, one row each.
//!
//! SQL aggregates, tensor reductions, window frames and merges across threads all read the same rows. States are tuples of
//! scalars; a NULL argument leaves the state as it is (only `CountAll` has no argument).

use runtime::kernels::decimal;

use super::compare;
use crate::error::{Error, Result, Trap, TrapKind};
use crate::types::{RowType, ScalarType};
use crate::value::Value;

/// A reducer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reducer {
    /// Number of rows, `i64`. No argument.
    CountAll,
    /// Number of arguments that are not NULL, `i64`.
    Count,
    /// Sum; NULL for no argument. Integers give `i64`, decimals `decimal(38, s)`, both raise where the sum does not fit; floats
    /// keep their type and are added in `f64`, in row order.
    Sum,
    /// Mean, `f64`; NULL for no argument. Of integers and decimals the exact sum, then one division.
    Avg,
    /// Least; NULL for no argument.
    Min,
    /// Greatest; NULL for no argument. NaN is the greatest.
    Max,
    /// Product (tensors).
    Product,
    /// Sample variance, `f64`; NULL for fewer than two arguments (Welford; merge by Chan et al. 1983).
    VarSample,
    /// Population variance, `f64`.
    VarPopulation,
    /// Sample standard deviation, `f64`.
    StddevSample,
    /// Population standard deviation, `f64`.
    StddevPopulation,
    /// True if every argument is.
    BoolAnd,
    /// True if any argument is.
    BoolOr,
    /// The first argument in row order, NULLs included.
    First,
    /// The last argument in row order, NULLs included.
    Last,
    /// The value if there is one row; raises on more (scalar subqueries).
    Single,
    /// Index (`i64`) of the greatest element; the first of equals (tensors).
    ArgMax,
    /// Index (`i64`) of the least element; the first of equals (tensors).
    ArgMin,
}

impl Reducer {
    /// Every reducer.
    pub const ALL: [Self; 18] = [
        Self::CountAll,
        Self::Count,
        Self::Sum,
        Self::Avg,
        Self::Min,
        Self::Max,
        Self::Product,
        Self::VarSample,
        Self::VarPopulation,
        Self::StddevSample,
        Self::StddevPopulation,
        Self::BoolAnd,
        Self::BoolOr,
        Self::First,
        Self::Last,
        Self::Single,
        Self::ArgMax,
        Self::ArgMin,
    ];

    /// The result's type over rows of arguments of this type.
    pub fn result_type(self, arg: Option<RowType>) -> Result<RowType> {
        use ScalarType as S;
        let wrong = || {
            let of = arg.map_or("no argument".to_string(), |a| a.ty.to_string());
            Error::Type(format!("{} is not defined for {of}", self.name()))
        };
        if self == Self::CountAll {
            return if arg.is_none() { Ok(S::I64.nullable(false)) } else { Err(wrong()) };
        }
        let arg = arg.ok_or_else(wrong)?;
        let ty = match self {
            Self::CountAll | Self::Count => return Ok(S::I64.nullable(false)),
            Self::Sum | Self::Product => match arg.ty {
                S::I32 | S::I64 => S::I64,
                S::Decimal { scale, .. } if self == Self::Sum => S::Decimal { precision: 38, scale },
                S::F32 | S::F64 => arg.ty,
                _ => return Err(wrong()),
            },
            Self::Avg => match arg.ty {
                S::I32 | S::I64 | S::F32 | S::F64 | S::Decimal { .. } => S::F64,
                _ => return Err(wrong()),
            },
            Self::VarSample | Self::VarPopulation | Self::StddevSample | Self::StddevPopulation => match arg.ty {
                S::I32 | S::I64 | S::F32 | S::F64 | S::Decimal { .. } => S::F64,
                _ => return Err(wrong()),
            },
            Self::Min | Self::Max | Self::First | Self::Last | Self::Single => arg.ty,
            Self::BoolAnd | Self::BoolOr => match arg.ty {
                S::Bool => S::Bool,
                _ => return Err(wrong()),
            },
            Self::ArgMax | Self::ArgMin => S::I64,
        };
        Ok(ty.nullable(true))
    }

    /// Whether a step takes rows whose argument is NULL; the others leave their state as it is.
    pub fn sees_null(self) -> bool {
        matches!(self, Self::CountAll | Self::First | Self::Last | Self::Single | Self::ArgMax | Self::ArgMin)
    }

    /// The fields of its state as generated code keeps them in a row's record, in order:
    ///
    /// | reducer | fields |
    /// | --- | --- |
    /// | `count_all`, `count` | count |
    /// | `sum`, `avg`, `product` | value (exact: 128 bits; floats: `f64`), count of arguments |
    /// | `min`, `max` | value, whether there was one |
    /// | `bool_and`, `bool_or` | value, whether there was one |
    /// | `var_*`, `stddev_*` | count, mean, sum of the squared distances from it |
    /// | `first`, `last` | value, whether it is valid, whether there was a row |
    /// | `single` | value, whether it is valid, count of rows |
    /// | `arg_max`, `arg_min` | count of rows, index of the best, the best, whether there is one |
    ///
    /// # Errors
    /// Where the reducer is not defined for the argument.
    pub fn state_fields(self, arg: Option<RowType>) -> Result<Vec<ScalarType>> {
        use ScalarType as S;
        self.result_type(arg)?;
        let arg = arg.map_or(S::I64, |a| a.ty);
        let exact = match arg {
            S::F32 | S::F64 => S::F64,
            S::Decimal { scale, .. } => S::Decimal { precision: 38, scale },
            _ => S::Decimal { precision: 38, scale: 0 },
        };
        Ok(match self {
            Self::CountAll | Self::Count => vec![S::I64],
            Self::Sum | Self::Avg | Self::Product => vec![exact, S::I64],
            Self::Min | Self::Max => vec![arg, S::Bool],
            Self::BoolAnd | Self::BoolOr => vec![S::Bool, S::Bool],
            Self::VarSample | Self::VarPopulation | Self::StddevSample | Self::StddevPopulation => {
                vec![S::I64, S::F64, S::F64]
            }
            Self::First | Self::Last => vec![arg, S::Bool, S::Bool],
            Self::Single => vec![arg, S::Bool, S::I64],
            Self::ArgMax | Self::ArgMin => vec![S::I64, S::I64, arg, S::Bool],
        })
    }

    /// Its name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::CountAll => "count_all",
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
            Self::Product => "product",
            Self::VarSample => "var_samp",
            Self::VarPopulation => "var_pop",
            Self::StddevSample => "stddev_samp",
            Self::StddevPopulation => "stddev_pop",
            Self::BoolAnd => "bool_and",
            Self::BoolOr => "bool_or",
            Self::First => "first",
            Self::Last => "last",
            Self::Single => "single",
            Self::ArgMax => "arg_max",
            Self::ArgMin => "arg_min",
        }
    }
}

/// A reducer over arguments of one type, evaluated in plain Rust: what the interpreters and folding use.
///
/// ```
/// use ir::scalar::reduce::{Evaluator, Reducer};
/// use ir::types::ScalarType;
/// use ir::value::Value;
///
/// let sum = Evaluator::new(Reducer::Sum, Some(ScalarType::I32));
/// let mut state = sum.init();
/// for v in [Value::I32(1), Value::Null, Value::I32(2)] {
///     sum.step(&mut state, &v).unwrap();
/// }
/// assert_eq!(sum.finish(&state).unwrap(), Value::I64(3));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evaluator {
    reducer: Reducer,
    arg: Option<ScalarType>,
}

/// What a reducer keeps: a tuple of values.
pub type State = Vec<Value>;

impl Evaluator {
    /// The reducer over arguments of this type; `None` for [`Reducer::CountAll`].
    pub fn new(reducer: Reducer, arg: Option<ScalarType>) -> Self {
        Self { reducer, arg }
    }

    /// The state before the first row.
    pub fn init(&self) -> State {
        match self.reducer {
            Reducer::CountAll | Reducer::Count => vec![Value::I64(0)],
            // Whether there was an argument, then the value.
            Reducer::Sum => vec![Value::Bool(false), if self.float() { Value::F64(0.0) } else { Value::Decimal(0) }],
            Reducer::Product => vec![Value::Bool(false), if self.float() { Value::F64(1.0) } else { Value::I64(1) }],
            Reducer::Min | Reducer::Max | Reducer::First | Reducer::Last | Reducer::Single => {
                vec![Value::Bool(false), Value::Null]
            }
            Reducer::BoolAnd => vec![Value::Bool(false), Value::Bool(true)],
            Reducer::BoolOr => vec![Value::Bool(false), Value::Bool(false)],
            // How many arguments, then their sum.
            Reducer::Avg => vec![Value::I64(0), if self.float() { Value::F64(0.0) } else { Value::Decimal(0) }],
            // How many arguments, their mean, the sum of the squared distances from it.
            Reducer::VarSample | Reducer::VarPopulation | Reducer::StddevSample | Reducer::StddevPopulation => {
                vec![Value::I64(0), Value::F64(0.0), Value::F64(0.0)]
            }
            // How many rows, the index of the best, the best (NULL: none yet).
            Reducer::ArgMax | Reducer::ArgMin => vec![Value::I64(0), Value::I64(0), Value::Null],
        }
    }

    /// Takes one row in. For [`Reducer::CountAll`] the value does not matter.
    ///
    /// # Errors
    /// A product out of range; a second row of [`Reducer::Single`].
    pub fn step(&self, state: &mut [Value], value: &Value) -> Result<(), Trap> {
        use Value as V;
        if value.is_null() {
            match self.reducer {
                Reducer::CountAll | Reducer::First | Reducer::Last | Reducer::Single => {}
                Reducer::ArgMax | Reducer::ArgMin => {
                    if let V::I64(rows) = &mut state[0] {
                        *rows += 1;
                    }
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
        match (self.reducer, &mut *state) {
            (Reducer::CountAll | Reducer::Count, [V::I64(n)]) => *n += 1,
            (Reducer::Sum, [seen, sum]) => {
                *seen = V::Bool(true);
                self.add(sum, value)?;
            }
            (Reducer::Product, [seen, product]) => {
                *seen = V::Bool(true);
                self.multiply(product, value)?;
            }
            (Reducer::Min | Reducer::Max, [seen, best]) => {
                if *seen == V::Bool(false) || self.better(value, best) {
                    *best = value.clone();
                }
                *seen = V::Bool(true);
            }
            (Reducer::BoolAnd, [seen, all]) => {
                *seen = V::Bool(true);
                *all = V::Bool(*all == V::Bool(true) && *value == V::Bool(true));
            }
            (Reducer::BoolOr, [seen, any]) => {
                *seen = V::Bool(true);
                *any = V::Bool(*any == V::Bool(true) || *value == V::Bool(true));
            }
            (Reducer::First, [seen, first]) => {
                if *seen == V::Bool(false) {
                    *first = value.clone();
                }
                *seen = V::Bool(true);
            }
            (Reducer::Last, [seen, last]) => {
                *last = value.clone();
                *seen = V::Bool(true);
            }
            (Reducer::Single, [seen, single]) => {
                if *seen == V::Bool(true) {
                    return Err(TrapKind::SubqueryRows.into());
                }
                *single = value.clone();
                *seen = V::Bool(true);
            }
            (Reducer::Avg, [V::I64(n), sum]) => {
                *n += 1;
                self.add(sum, value)?;
            }
            (
                Reducer::VarSample | Reducer::VarPopulation | Reducer::StddevSample | Reducer::StddevPopulation,
                [V::I64(n), V::F64(mean), V::F64(m2)],
            ) => {
                let x = self.number(value)?;
                *n += 1;
                let delta = x - *mean;
                *mean += delta / *n as f64;
                *m2 += delta * (x - *mean);
            }
            (Reducer::ArgMax | Reducer::ArgMin, [V::I64(rows), V::I64(index), best]) => {
                if best.is_null() || self.better(value, best) {
                    *best = value.clone();
                    *index = *rows;
                }
                *rows += 1;
            }
            _ => return Err(self.broken()),
        }
        Ok(())
    }

    /// Takes in the state of the rows that follow those of `state`.
    ///
    /// # Errors
    /// As for [`Evaluator::step`].
    pub fn merge(&self, state: &mut [Value], other: &[Value]) -> Result<(), Trap> {
        use Value as V;
        match (self.reducer, &mut *state, other) {
            (Reducer::CountAll | Reducer::Count, [V::I64(n)], [V::I64(m)]) => *n += m,
            (Reducer::Sum, [seen, sum], [V::Bool(true), more]) => {
                *seen = V::Bool(true);
                add_sums(sum, more).ok_or_else(|| self.out_of_range())?;
            }
            (Reducer::Avg, [V::I64(n), sum], [V::I64(m), more]) => {
                *n += m;
                add_sums(sum, more).ok_or_else(|| self.out_of_range())?;
            }
            (Reducer::Product, [seen, product], [V::Bool(true), more]) => {
                *seen = V::Bool(true);
                match (product, more) {
                    (V::F64(a), V::F64(b)) => *a *= b,
                    (V::I64(a), V::I64(b)) => *a = a.checked_mul(*b).ok_or_else(|| self.out_of_range())?,
                    _ => return Err(self.broken()),
                }
            }
            (
                Reducer::Min
                | Reducer::Max
                | Reducer::BoolAnd
                | Reducer::BoolOr
                | Reducer::First
                | Reducer::Last
                | Reducer::Single,
                [..],
                [V::Bool(true), value],
            ) => self.step(state, value)?,
            (_, [V::Bool(_), _], [V::Bool(false), _]) => {}
            (
                Reducer::VarSample | Reducer::VarPopulation | Reducer::StddevSample | Reducer::StddevPopulation,
                [V::I64(n), V::F64(mean), V::F64(m2)],
                [V::I64(n2), V::F64(mean2), V::F64(m22)],
            ) => {
                if *n == 0 {
                    (*mean, *m2) = (*mean2, *m22);
                } else if *n2 > 0 {
                    let delta = mean2 - *mean;
                    let share = *n2 as f64 / (*n + n2) as f64;
                    *mean += delta * share;
                    *m2 = *m2 + m22 + delta * delta * (*n as f64 * share);
                }
                *n += n2;
            }
            (
                Reducer::ArgMax | Reducer::ArgMin,
                [V::I64(rows), V::I64(index), best],
                [V::I64(more), V::I64(at), value],
            ) => {
                if !value.is_null() && (best.is_null() || self.better(value, best)) {
                    *best = value.clone();
                    *index = *rows + at;
                }
                *rows += more;
            }
            _ => return Err(self.broken()),
        }
        Ok(())
    }

    /// The result.
    ///
    /// # Errors
    /// A sum that its type cannot hold.
    pub fn finish(&self, state: &[Value]) -> Result<Value, Trap> {
        use Value as V;
        Ok(match (self.reducer, state) {
            (Reducer::CountAll | Reducer::Count, [n]) => n.clone(),
            (_, [V::Bool(false), _]) => V::Null,
            (Reducer::Sum, [_, V::Decimal(sum)]) => match self.arg {
                Some(ScalarType::Decimal { .. }) => {
                    V::Decimal(decimal::fit(*sum, decimal::MAX_SCALE).ok_or_else(|| self.out_of_range())?)
                }
                _ => V::I64(i64::try_from(*sum).map_err(|_| self.out_of_range())?),
            },
            (Reducer::Sum | Reducer::Product, [_, V::F64(v)]) => match self.arg {
                Some(ScalarType::F32) => V::F32(*v as f32),
                _ => V::F64(*v),
            },
            (_, [V::Bool(true), value]) => value.clone(),
            (_, [V::I64(0), ..]) => V::Null,
            (Reducer::Avg, [V::I64(n), V::Decimal(sum)]) => {
                let scale = if let Some(ScalarType::Decimal { scale, .. }) = self.arg { scale } else { 0 };
                V::F64(decimal::to_f64(*sum, u32::from(scale)) / *n as f64)
            }
            (Reducer::Avg, [V::I64(n), V::F64(sum)]) => V::F64(sum / *n as f64),
            (Reducer::VarSample | Reducer::StddevSample, [V::I64(1), ..]) => V::Null,
            (Reducer::VarSample, [V::I64(n), _, V::F64(m2)]) => V::F64(m2 / (*n - 1) as f64),
            (Reducer::VarPopulation, [V::I64(n), _, V::F64(m2)]) => V::F64(m2 / *n as f64),
            (Reducer::StddevSample, [V::I64(n), _, V::F64(m2)]) => V::F64((m2 / (*n - 1) as f64).sqrt()),
            (Reducer::StddevPopulation, [V::I64(n), _, V::F64(m2)]) => V::F64((m2 / *n as f64).sqrt()),
            (Reducer::ArgMax | Reducer::ArgMin, [_, index, best]) => {
                if best.is_null() {
                    V::Null
                } else {
                    index.clone()
                }
            }
            _ => return Err(self.broken()),
        })
    }

    /// The result over no element, where a tensor's reduction needs one: the neutral element. `None` where there is none.
    pub fn neutral(&self) -> Option<Value> {
        use ScalarType as S;
        let float = |v: f64| match self.arg {
            Some(S::F32) => Some(Value::F32(v as f32)),
            Some(S::F64) => Some(Value::F64(v)),
            _ => None,
        };
        match (self.reducer, self.arg?) {
            (Reducer::Sum, S::I32 | S::I64) => Some(Value::I64(0)),
            (Reducer::Product, S::I32 | S::I64) => Some(Value::I64(1)),
            (Reducer::Sum, _) => float(0.0),
            (Reducer::Product, _) => float(1.0),
            (Reducer::Max, S::I32) => Some(Value::I32(i32::MIN)),
            (Reducer::Max, S::I64) => Some(Value::I64(i64::MIN)),
            (Reducer::Min, S::I32) => Some(Value::I32(i32::MAX)),
            (Reducer::Min, S::I64) => Some(Value::I64(i64::MAX)),
            (Reducer::Max, _) => float(f64::NEG_INFINITY),
            (Reducer::Min, _) => float(f64::INFINITY),
            (Reducer::BoolAnd, _) => Some(Value::Bool(true)),
            (Reducer::BoolOr, _) => Some(Value::Bool(false)),
            _ => None,
        }
    }

    fn float(&self) -> bool {
        self.arg.is_some_and(ScalarType::is_float)
    }

    fn better(&self, value: &Value, best: &Value) -> bool {
        let order = compare(value, best);
        match self.reducer {
            Reducer::Min | Reducer::ArgMin => order.is_lt(),
            _ => order.is_gt(),
        }
    }

    /// Adds an argument to a sum.
    fn add(&self, sum: &mut Value, value: &Value) -> Result<(), Trap> {
        match (sum, value) {
            (Value::F64(sum), Value::F32(v)) => *sum += f64::from(*v),
            (Value::F64(sum), Value::F64(v)) => *sum += v,
            (sum, Value::I32(v)) => return self.add(sum, &Value::Decimal(i128::from(*v))),
            (sum, Value::I64(v)) => return self.add(sum, &Value::Decimal(i128::from(*v))),
            (Value::Decimal(sum), Value::Decimal(v)) => {
                *sum = sum.checked_add(*v).ok_or_else(|| self.out_of_range())?;
            }
            _ => return Err(self.broken()),
        }
        Ok(())
    }

    fn multiply(&self, product: &mut Value, value: &Value) -> Result<(), Trap> {
        match (product, value) {
            (Value::F64(product), Value::F32(v)) => *product *= f64::from(*v),
            (Value::F64(product), Value::F64(v)) => *product *= v,
            (product, Value::I32(v)) => return self.multiply(product, &Value::I64(i64::from(*v))),
            (Value::I64(product), Value::I64(v)) => {
                *product = product.checked_mul(*v).ok_or_else(|| self.out_of_range())?;
            }
            _ => return Err(self.broken()),
        }
        Ok(())
    }

    /// An argument as a double.
    fn number(&self, value: &Value) -> Result<f64, Trap> {
        Ok(match (value, self.arg) {
            (Value::I32(v), _) => f64::from(*v),
            (Value::I64(v), _) => *v as f64,
            (Value::F32(v), _) => f64::from(*v),
            (Value::F64(v), _) => *v,
            (Value::Decimal(v), Some(ScalarType::Decimal { scale, .. })) => decimal::to_f64(*v, u32::from(scale)),
            _ => return Err(self.broken()),
        })
    }

    fn out_of_range(&self) -> Trap {
        let ty = self.reducer.result_type(self.arg.map(|a| a.nullable(true)));
        TrapKind::Overflow(ty.map_or_else(|_| self.reducer.name().into(), |t| t.ty.to_string())).into()
    }

    /// A value or a state that is not of this reducer: a fault of ours.
    fn broken(&self) -> Trap {
        TrapKind::Internal(format!("{} got a value that is not of its type", self.reducer.name())).into()
    }
}

/// `None` on overflow, and for states of different types, which no reducer has.
fn add_sums(sum: &mut Value, more: &Value) -> Option<()> {
    match (sum, more) {
        (Value::F64(a), Value::F64(b)) => *a += b,
        (Value::Decimal(a), Value::Decimal(b)) => *a = a.checked_add(*b)?,
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ScalarType as S;

    fn run(reducer: Reducer, arg: S, values: &[Value]) -> Result<Value, Trap> {
        let evaluator = Evaluator::new(reducer, (reducer != Reducer::CountAll).then_some(arg));
        let mut state = evaluator.init();
        for v in values {
            evaluator.step(&mut state, v)?;
        }
        let whole = evaluator.finish(&state)?;
        // Split at every place and merged, it is the same, but for the rounding of floats.
        for cut in 0..=values.len() {
            let mut parts = [evaluator.init(), evaluator.init()];
            for (i, v) in values.iter().enumerate() {
                evaluator.step(&mut parts[usize::from(i >= cut)], v)?;
            }
            let [mut left, right] = parts;
            evaluator.merge(&mut left, &right)?;
            let merged = evaluator.finish(&left)?;
            match (&whole, &merged) {
                (Value::F64(a), Value::F64(b)) if a.is_finite() => {
                    assert!((a - b).abs() <= 1e-12 * a.abs().max(1.0), "{reducer:?}: {a} and {b}, cut at {cut}");
                }
                _ => assert_eq!(whole, merged, "{reducer:?}, cut at {cut}"),
            }
        }
        Ok(whole)
    }

    fn ints(values: &[i64]) -> Vec<Value> {
        values.iter().map(|v| Value::I64(*v)).collect()
    }

    fn doubles(values: &[f64]) -> Vec<Value> {
        values.iter().map(|v| Value::F64(*v)).collect()
    }

    #[test]
    fn no_row_gives_null_or_zero() {
        for reducer in Reducer::ALL {
            let want = match reducer {
                Reducer::Count | Reducer::CountAll => Value::I64(0),
                _ => Value::Null,
            };
            let arg = if matches!(reducer, Reducer::BoolAnd | Reducer::BoolOr) { S::Bool } else { S::F64 };
            assert_eq!(run(reducer, arg, &[]).unwrap(), want, "{reducer:?}");
            let want = if reducer == Reducer::CountAll { Value::I64(1) } else { want };
            assert_eq!(run(reducer, arg, &[Value::Null]).unwrap(), want, "{reducer:?} of NULL");
        }
    }

    #[test]
    fn sums_are_exact_and_raise_only_at_the_end() {
        assert_eq!(run(Reducer::Sum, S::I64, &ints(&[i64::MAX, 1, -1])).unwrap(), Value::I64(i64::MAX));
        let over = run(Reducer::Sum, S::I64, &ints(&[i64::MAX, 1])).unwrap_err();
        assert_eq!(over.to_string(), "i64 out of range");
        let cents = S::Decimal { precision: 4, scale: 2 };
        let values = [Value::Decimal(1), Value::Null, Value::Decimal(-3)];
        assert_eq!(run(Reducer::Sum, cents, &values).unwrap(), Value::Decimal(-2));
        assert_eq!(run(Reducer::Avg, cents, &values).unwrap(), Value::F64(-0.01));
        assert_eq!(run(Reducer::Sum, S::F32, &[Value::F32(1.5), Value::F32(2.0)]).unwrap(), Value::F32(3.5));
        assert_eq!(run(Reducer::Product, S::I32, &[Value::I32(6), Value::I32(-7)]).unwrap(), Value::I64(-42));
        assert_eq!(run(Reducer::Avg, S::I64, &ints(&[i64::MAX, i64::MAX])).unwrap(), Value::F64(i64::MAX as f64));
    }

    #[test]
    fn extremes_and_places() {
        let values = doubles(&[2.0, f64::NAN, -1.0, f64::NAN, -1.0]);
        assert_eq!(run(Reducer::Min, S::F64, &values).unwrap(), Value::F64(-1.0));
        assert!(matches!(run(Reducer::Max, S::F64, &values).unwrap(), Value::F64(v) if v.is_nan()));
        assert_eq!(run(Reducer::ArgMin, S::F64, &values).unwrap(), Value::I64(2));
        assert_eq!(run(Reducer::ArgMax, S::F64, &values).unwrap(), Value::I64(1));
        let texts = [Value::Text("b".into()), Value::Null, Value::Text("a".into())];
        assert_eq!(run(Reducer::Min, S::Text, &texts).unwrap(), Value::Text("a".into()));
        let rows = [Value::Null, Value::I64(1), Value::I64(2)];
        assert_eq!(run(Reducer::First, S::I64, &rows).unwrap(), Value::Null);
        assert_eq!(run(Reducer::Last, S::I64, &rows).unwrap(), Value::I64(2));
        assert_eq!(run(Reducer::Count, S::I64, &rows).unwrap(), Value::I64(2));
        assert_eq!(run(Reducer::Single, S::I64, &ints(&[7])).unwrap(), Value::I64(7));
        assert_eq!(run(Reducer::Single, S::I64, &rows).unwrap_err().kind, TrapKind::SubqueryRows);
        let flags = [Value::Bool(true), Value::Bool(false), Value::Null];
        assert_eq!(run(Reducer::BoolAnd, S::Bool, &flags).unwrap(), Value::Bool(false));
        assert_eq!(run(Reducer::BoolOr, S::Bool, &flags).unwrap(), Value::Bool(true));
    }

    #[test]
    fn states_have_fields_wherever_a_result_is_defined() {
        for reducer in Reducer::ALL {
            for ty in [S::Bool, S::I32, S::F32, S::Decimal { precision: 5, scale: 2 }, S::Date, S::Text] {
                let arg = (reducer != Reducer::CountAll).then_some(ty.nullable(true));
                assert_eq!(reducer.state_fields(arg).is_ok(), reducer.result_type(arg).is_ok(), "{reducer:?} of {ty}");
                let keeps = reducer.state_fields(arg).unwrap_or_default();
                // What takes NULL in keeps whether its value is valid, or which row it is.
                assert!(!reducer.sees_null() || reducer == Reducer::CountAll || keeps.is_empty() || keeps.len() > 2);
            }
        }
    }

    #[test]
    fn variances() {
        let values = doubles(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(run(Reducer::VarPopulation, S::F64, &values).unwrap(), Value::F64(4.0));
        assert_eq!(run(Reducer::StddevPopulation, S::F64, &values).unwrap(), Value::F64(2.0));
        assert_eq!(run(Reducer::VarSample, S::F64, &values).unwrap(), Value::F64(32.0 / 7.0));
        assert_eq!(run(Reducer::StddevSample, S::F64, &values[..1]).unwrap(), Value::Null);
    }
}
