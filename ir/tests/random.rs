//! Random relational programs: what is printed parses back, every pass and all of them together keep the results, and compiled
//! code computes what the interpreter does.
//!
//! A program is written from a list of numbers, each a choice; where the list ends the choice is 0, the simplest. So a
//! list that is cut is a program that is cut, and a failure shrinks by itself. `PROPTEST_CASES=5000` looks longer.

use std::cell::Cell;
use std::sync::Arc;

use ir::Program;
use ir::entity::{ColumnId, ValueId};
use ir::exec::run::{CompileOptions, Executable, Resources};
use ir::exec::{Inputs, Outputs, column_value, table_of_values};
use ir::graph::build::Builder;
use ir::graph::rel::{Aggregate, JoinKind, RelOp, ScanColumn, SortKey};
use ir::graph::{InputColumn, InputKind};
use ir::opt::{OptOptions, PASSES};
use ir::scalar::{ScalarOp, reduce::Reducer, table::each};
use ir::types::{RowType, ScalarType, TableType};
use ir::value::Value;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use runtime::column::Table;
use runtime::scheduler::WorkerPool;

const TYPES: [ScalarType; 8] = [
    ScalarType::I32,
    ScalarType::I64,
    ScalarType::Text,
    ScalarType::F64,
    ScalarType::Decimal { precision: 9, scale: 2 },
    ScalarType::Bool,
    ScalarType::Date,
    ScalarType::Timestamp,
];

const REDUCERS: [Reducer; 7] =
    [Reducer::CountAll, Reducer::Count, Reducer::Sum, Reducer::Min, Reducer::Max, Reducer::BoolOr, Reducer::BoolAnd];

/// The choices that are left.
struct Choices<'a>(std::slice::Iter<'a, u16>);

impl Choices<'_> {
    /// Below `n`.
    fn below(&mut self, n: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % n
    }

    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn value(&mut self, ty: ScalarType, nullable: bool) -> Value {
        if nullable && self.below(4) == 3 {
            return Value::Null;
        }
        // Small values meet each other; large ones overflow.
        let x = match self.below(24) {
            22 => i64::from(i32::MAX) - self.below(2) as i64,
            23 => i64::from(i32::MIN) + self.below(2) as i64,
            x => x as i64 % 8 - 2,
        };
        match ty {
            ScalarType::Bool => Value::Bool(x % 2 != 0),
            ScalarType::I32 => Value::I32(x as i32),
            ScalarType::Date => Value::Date((x % 1000) as i32),
            ScalarType::I64 => Value::I64(x),
            ScalarType::Timestamp => Value::Timestamp(x % 1000 * 86_400_000_000 / 3),
            ScalarType::F32 => Value::F32(x as f32 / 4.0),
            ScalarType::F64 => Value::F64(x as f64 / 4.0),
            ScalarType::Decimal { .. } => Value::Decimal(i128::from(x % 1_000_000)),
            ScalarType::Text => {
                Value::Text(["", "a", "b", "ab", "%b_", "a longer text than fits"][x as usize % 6].into())
            }
        }
    }
}

struct Writer<'a> {
    choices: Choices<'a>,
    b: Builder,
    tables: Vec<(String, Table)>,
}

impl Writer<'_> {
    /// A new table of the input, scanned.
    fn scan(&mut self) -> ValueId {
        let rows = [0, 1, 2, 3, 5, 9, 20][6 - self.choices.below(7)];
        let types: Vec<RowType> = (0..1 + self.choices.below(3))
            .map(|_| RowType { ty: self.choices.one_of(&TYPES), nullable: self.choices.below(3) == 2 })
            .collect();
        let names: Vec<String> = (0..types.len()).map(|i| format!("x{i}")).collect();
        let values: Vec<Vec<Value>> =
            types.iter().map(|t| (0..rows).map(|_| self.choices.value(t.ty, t.nullable)).collect()).collect();
        let list: Vec<(&str, ScalarType, &[Value])> =
            names.iter().zip(&types).zip(&values).map(|((n, t), v)| (&n[..], t.ty, &v[..])).collect();
        let name = format!("t{}", self.tables.len());
        self.tables.push((name.clone(), table_of_values(&list, rows).expect("a table")));
        let columns = names.into_iter().zip(&types).map(|(name, ty)| InputColumn { name, ty: *ty }).collect();
        let input = self.b.program_mut().new_input(name, InputKind::Table(columns));
        let columns = (0..types.len() as u32)
            .map(|source| ScanColumn { source, id: self.column(types[source as usize].ty) })
            .collect();
        self.rel(RelOp::Scan { input, columns }, &[])
    }

    fn column(&mut self, ty: ScalarType) -> ColumnId {
        self.b.program_mut().new_column("x", ty)
    }

    fn rel(&mut self, op: RelOp, operands: &[ValueId]) -> ValueId {
        self.b.rel(op, operands, &[]).expect("types fit")
    }

    fn columns(&self, table: ValueId) -> TableType {
        self.b.ty(table).as_table().expect("a table").clone()
    }

    /// A value of the row that has these columns.
    fn expression(&mut self, columns: &[(ColumnId, RowType)], depth: usize) -> ValueId {
        let leaf = depth == 0 || self.choices.below(3) == 0;
        if leaf && !columns.is_empty() && self.choices.below(4) != 3 {
            let column = self.choices.one_of(columns).0;
            return self.b.col(column).expect("a column of the row");
        }
        if leaf {
            let ty = self.choices.one_of(&TYPES);
            let value = self.choices.value(ty, true);
            return self.b.literal(value, ty).expect("a literal");
        }
        let operands: Vec<ValueId> =
            (0..1 + self.choices.below(3)).map(|_| self.expression(columns, depth - 1)).collect();
        self.operation(&operands)
    }

    /// Some operation that is defined for these operands or the first of them; the first itself where none is.
    fn operation(&mut self, operands: &[ValueId]) -> ValueId {
        let first = self.choices.below(each().len());
        for operands in [operands, &operands[..1]] {
            for i in 0..each().len() {
                let op = each()[(first + i) % each().len()];
                let op = if let ScalarOp::Cast(_) = op { ScalarOp::Cast(self.choices.one_of(&TYPES)) } else { op };
                if let Ok(v) = self.b.scalar(op, operands) {
                    return v;
                }
            }
        }
        operands[0]
    }

    fn is(&self, v: ValueId, ty: ScalarType) -> bool {
        self.b.ty(v).as_scalar().is_some_and(|t| t.ty == ty)
    }

    /// A condition: comparisons of expressions, joined.
    fn condition(&mut self, columns: &[(ColumnId, RowType)]) -> ValueId {
        let mut all: Option<ValueId> = None;
        for _ in 0..1 + self.choices.below(3) {
            let (depth, other) = (self.choices.below(3), self.choices.below(2));
            let a = self.expression(columns, depth);
            let condition = if self.is(a, ScalarType::Bool) {
                a
            } else {
                let b = self.expression(columns, other);
                let op = self.choices.one_of(&[ScalarOp::Lt, ScalarOp::Eq, ScalarOp::Ge, ScalarOp::IsNotDistinct]);
                match self.b.scalar(op, &[a, b]) {
                    Ok(v) => v,
                    Err(_) => self.b.scalar(ScalarOp::IsNotNull, &[a]).expect("defined for all"),
                }
            };
            all = Some(match all {
                None => condition,
                Some(before) => {
                    let op = self.choices.one_of(&[ScalarOp::And, ScalarOp::And, ScalarOp::Or]);
                    self.b.scalar(op, &[before, condition]).expect("two conditions")
                }
            });
        }
        all.expect("one at least")
    }

    fn table(&mut self, depth: usize) -> ValueId {
        if depth == 0 {
            return self.scan();
        }
        match self.choices.below(9) {
            0 => self.scan(),
            1 | 2 => self.filter(depth),
            3 => self.extend(depth),
            4 | 5 => self.join(depth),
            6 => self.group(depth),
            7 => self.limit(depth),
            _ => self.union(depth),
        }
    }

    fn row(&self, tables: &[ValueId]) -> Vec<(ColumnId, RowType)> {
        tables.iter().flat_map(|t| self.columns(*t).columns).map(|c| (c.id, c.ty)).collect()
    }

    /// A row region over tables, written by `body`.
    fn region<const N: usize>(
        &mut self,
        tables: [ValueId; N],
        body: impl FnOnce(&mut Self, &[(ColumnId, RowType)]) -> Vec<ValueId>,
    ) -> ir::entity::RegionId {
        let types = tables.iter().map(|t| self.columns(*t)).collect();
        let row = self.row(&tables);
        self.b.begin_region(&[], types);
        let results = body(self, &row);
        self.b.end_region(&results)
    }

    fn filter(&mut self, depth: usize) -> ValueId {
        let table = self.table(depth - 1);
        let region = self.region([table], |w, row| vec![w.condition(row)]);
        self.b.rel(RelOp::Filter, &[table], &[region]).expect("types fit")
    }

    fn extend(&mut self, depth: usize) -> ValueId {
        let table = self.table(depth - 1);
        let mut types = vec![];
        let region = self.region([table], |w, row| {
            let values: Vec<ValueId> = (0..1 + w.choices.below(2)).map(|_| w.expression(row, 3)).collect();
            types = values.iter().map(|v| w.b.ty(*v).as_scalar().expect("a scalar").ty).collect();
            values
        });
        let columns = types.into_iter().map(|ty| self.column(ty)).collect();
        self.b.rel(RelOp::Extend { columns }, &[table], &[region]).expect("types fit")
    }

    fn join(&mut self, depth: usize) -> ValueId {
        let (left, right) = (self.table(depth - 1), self.table(depth - 1));
        let mark = self.column(ScalarType::Bool);
        let kinds = [
            JoinKind::Inner,
            JoinKind::Left,
            JoinKind::Semi,
            JoinKind::Anti,
            JoinKind::Full,
            JoinKind::Right,
            JoinKind::Mark(mark),
        ];
        let kind = self.choices.one_of(&kinds);
        let (l, r) = (self.row(&[left]), self.row(&[right]));
        let region = self.region([left, right], |w, row| {
            let keys = l.iter().flat_map(|a| r.iter().map(move |b| (a, b))).filter(|(a, b)| a.1.ty == b.1.ty);
            let keys: Vec<(ColumnId, ColumnId)> = keys.map(|(a, b)| (a.0, b.0)).collect();
            let key = if keys.is_empty() { None } else { Some(w.choices.one_of(&keys)) };
            let equal = key.map(|(a, b)| {
                let (a, b) = (w.b.col(a).expect("left"), w.b.col(b).expect("right"));
                w.b.scalar(ScalarOp::Eq, &[a, b]).expect("of one type")
            });
            let rest = (equal.is_none() || w.choices.below(3) == 2).then(|| w.condition(row));
            vec![match (equal, rest) {
                (Some(a), Some(b)) => w.b.scalar(ScalarOp::And, &[a, b]).expect("two conditions"),
                (a, b) => a.or(b).expect("one of them"),
            }]
        });
        self.b.rel(RelOp::Join { kind }, &[left, right], &[region]).expect("types fit")
    }

    fn group(&mut self, depth: usize) -> ValueId {
        let table = self.table(depth - 1);
        let row = self.row(&[table]);
        let mut keys: Vec<ColumnId> = (0..self.choices.below(3)).map(|_| self.choices.one_of(&row).0).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut aggregates = vec![];
        for _ in 0..1 + self.choices.below(3) {
            let reducer = self.choices.one_of(&REDUCERS);
            let (arg, ty) = self.choices.one_of(&row);
            // The sum of floats depends on the order of the rows, which no operation but a sort promises.
            if reducer == Reducer::Sum && ty.ty.is_float() {
                continue;
            }
            let distinct = self.choices.below(4) == 3;
            let arg = (reducer != Reducer::CountAll).then_some(arg);
            if let Ok(result) = reducer.result_type(arg.map(|_| ty)) {
                let out = self.column(result.ty);
                aggregates.push(Aggregate { reducer, arg, distinct: distinct && arg.is_some(), filter: None, out });
            }
        }
        if keys.is_empty() && aggregates.is_empty() {
            return table;
        }
        self.rel(RelOp::Group { keys, aggregates }, &[table])
    }

    /// The first rows in the order of all columns: which they are does not depend on how equal rows are ordered.
    fn limit(&mut self, depth: usize) -> ValueId {
        let table = self.table(depth - 1);
        let mut keys = vec![];
        for (column, _) in self.row(&[table]) {
            let (descending, nulls_first) = (self.choices.below(2) == 1, self.choices.below(2) == 1);
            keys.push(SortKey { column, descending, nulls_first });
        }
        let (offset, count) = (self.choices.below(4) as u64, self.choices.below(5) as u64);
        if self.choices.below(2) == 1 {
            return self.rel(RelOp::Sort { keys, limit: Some(count) }, &[table]);
        }
        let sorted = self.rel(RelOp::Sort { keys, limit: None }, &[table]);
        self.rel(RelOp::Limit { offset, count: Some(count) }, &[sorted])
    }

    /// A table with itself behind it, or with one over the same rows.
    fn union(&mut self, depth: usize) -> ValueId {
        let first = self.table(depth - 1);
        let row = self.row(&[first]);
        let region = self.region([first], |w, row| vec![w.condition(row)]);
        let second = self.b.rel(RelOp::Filter, &[first], &[region]).expect("types fit");
        let old: Vec<ColumnId> = row.iter().map(|c| c.0).collect();
        let columns = row.iter().map(|c| self.column(c.1.ty)).collect();
        self.rel(RelOp::Union { inputs: vec![old.clone(), old], columns }, &[first, second])
    }
}

/// A program and what it is run on.
fn write(choices: &[u16]) -> (Program, Inputs) {
    let mut w = Writer { choices: Choices(choices.iter()), b: Builder::new(), tables: vec![] };
    w.b.begin_func(&[]);
    let depth = 1 + w.choices.below(4);
    let result = w.table(depth);
    let names = (0..w.row(&[result]).len()).map(|i| format!("y{i}")).collect();
    let main = w.b.end_func("main", &[result]);
    w.b.program_mut().entry = Some(main);
    w.b.program_mut().result_names = vec![names];
    let mut inputs = Inputs::new();
    for (name, table) in w.tables {
        inputs = inputs.table(&name, Arc::new(table));
    }
    (w.b.finish(), inputs)
}

/// The rows as texts, sorted: only a sort promises an order.
fn rows(outputs: &Outputs) -> Vec<String> {
    let table = outputs.table(0).expect("a table");
    let cell = |c: &(String, Arc<runtime::column::Column>), r| match column_value(&c.1, r) {
        Value::F64(x) => format!("{x:.9e}"),
        other => format!("{other:?}"),
    };
    let mut rows: Vec<String> =
        (0..table.rows()).map(|r| table.columns().iter().map(|c| cell(c, r)).collect::<Vec<_>>().join(" ")).collect();
    rows.sort_unstable();
    rows
}

fn compiled(program: &Program, inputs: &Inputs, threads: usize, morsel: usize) -> ir::Result<Vec<String>> {
    let exe = Executable::compile(Arc::new(program.clone()), inputs, &CompileOptions::default())?;
    let mut resources = Resources::new(Arc::new(WorkerPool::new(threads)), None);
    resources.morsel_rows = morsel;
    Ok(rows(&exe.run(inputs, &resources)?))
}

fn optimized(program: &Program, inputs: &Inputs, only: Option<&str>) -> Program {
    let options = OptOptions {
        only: only.map(|name| vec![name.to_string()]),
        verify: true,
        statistics: inputs.statistics(),
        ..OptOptions::default()
    };
    let mut after = program.clone();
    after.optimize(&options).unwrap_or_else(|e| panic!("{only:?}: {e}\n{}", program.print()));
    after
}

/// Whether the program has a result. One that raises may come to raise nothing when what is not needed is not computed; it is
/// not looked at further.
fn check(choices: &[u16]) -> bool {
    let (program, inputs) = write(choices);
    let text = program.print();
    program.verify().unwrap_or_else(|e| panic!("{e}\n{text}"));
    let parsed = Program::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(parsed.print(), text, "printed, parsed, and printed");
    let Ok(expected) = program.interpret(&inputs).map(|o| rows(&o)) else { return false };
    let mut names: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
    names.dedup();
    for name in names {
        let after = optimized(&program, &inputs, Some(name));
        let found = after.interpret(&inputs).map(|o| rows(&o));
        let found = found.unwrap_or_else(|e| panic!("{name}: {e}\n{text}\nafter\n{}", after.print()));
        assert_eq!(found, expected, "{name}\n{text}\nafter\n{}", after.print());
    }
    // Code takes no aggregates over distinct values.
    let (plain, after) = (optimized(&program, &inputs, Some("aggregate")), optimized(&program, &inputs, None));
    for (what, program, threads, morsel) in
        [("all but as written", &plain, 1, 1 << 16), ("optimized", &after, 1, 1 << 16), ("in morsels", &after, 3, 2)]
    {
        let found = compiled(program, &inputs, threads, morsel);
        let found = found.unwrap_or_else(|e| panic!("{what}: {e}\n{}", program.print()));
        assert_eq!(found, expected, "{what}\n{}", program.print());
    }
    true
}

#[test]
fn programs_keep_their_results() {
    let config = ProptestConfig {
        cases: 200,
        rng_seed: RngSeed::Fixed(23),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let (all, ran) = (Cell::new(0), Cell::new(0));
    let choices = prop::collection::vec(any::<u16>(), 0..160);
    let result = TestRunner::new(config).run(&choices, |choices| {
        all.set(all.get() + 1);
        ran.set(ran.get() + usize::from(check(&choices)));
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    assert!(ran.get() * 3 > all.get() * 2, "{} of {} programs have a result", ran.get(), all.get());
}
