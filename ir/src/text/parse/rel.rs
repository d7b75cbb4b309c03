//! Operations on tables.

use super::Parser;
use crate::entity::{ColumnId, ValueId};
use crate::error::Result;
use crate::graph::RelOp;
use crate::graph::rel::{
    Aggregate, Frame, FrameBound, FrameUnit, JoinKind, ScanColumn, SortKey, WindowColumn, WindowFunc,
};
use crate::text::names;
use crate::types::{Column, ScalarType};

impl Parser {
    /// The operation on tables of this name, with its operands; `None` where there is none.
    pub(super) fn relational(&mut self, name: &str) -> Result<Option<(RelOp, Vec<ValueId>)>> {
        let leaf = match name {
            "scan" => self.scan()?,
            "values" => {
                let columns = self.table_type()?.columns;
                let types: Vec<ScalarType> = columns.iter().map(|c| c.ty.ty).collect();
                RelOp::Values { columns, rows: self.rows(&types)? }
            }
            "join" => {
                let kind = self.variant(Self::join_kind)?;
                return Ok(Some((RelOp::Join { kind }, self.operands()?)));
            }
            "dependent_join" => {
                let kind = self.variant(Self::join_kind)?;
                return Ok(Some((RelOp::DependentJoin { kind }, self.operands()?)));
            }
            "recurse" => return self.recurse().map(Some),
            "extend" | "project" | "filter" | "group" | "sort" | "limit" | "union" | "window" => {
                let operands = self.operands()?;
                return Ok(Some((self.relational_attributes(name)?, operands)));
            }
            _ => return Ok(None),
        };
        Ok(Some((leaf, vec![])))
    }

    fn scan(&mut self) -> Result<RelOp> {
        let input = self.input()?;
        let columns = self.list('(', ')', |p| {
            let source = p.number("the number of an input's column")?;
            p.arrow()?;
            Ok(ScanColumn { source, id: p.column()? })
        })?;
        Ok(RelOp::Scan { input, columns })
    }

    fn recurse(&mut self) -> Result<(RelOp, Vec<ValueId>)> {
        let distinct = self.variant(Self::recursion)?;
        let operands = self.operands()?;
        let base = self.columns()?;
        let pairs = self.list('(', ')', Self::carried_column)?;
        let (working, columns) = pairs.into_iter().unzip();
        let limit = self.row_limit()?;
        Ok((RelOp::Recurse { base, working, columns, distinct, limit }, operands))
    }

    /// Whether a recursion keeps equal rows once.
    fn recursion(&mut self) -> Result<bool> {
        let distinct = self.eat_word("distinct");
        if !distinct {
            self.keyword("all")?;
        }
        Ok(distinct)
    }

    /// `c3 -> c5: i64?`
    fn carried_column(&mut self) -> Result<(ColumnId, Column)> {
        let working = self.column()?;
        self.arrow()?;
        let id = self.column()?;
        self.punct(':')?;
        Ok((working, Column { id, ty: self.row_type()? }))
    }

    /// What stands behind the operands.
    fn relational_attributes(&mut self, name: &str) -> Result<RelOp> {
        Ok(match name {
            "extend" => RelOp::Extend { columns: self.columns()? },
            "project" => RelOp::Project { columns: self.columns()? },
            "filter" => RelOp::Filter,
            "group" => {
                let keys = self.columns()?;
                RelOp::Group { keys, aggregates: self.list('(', ')', Self::aggregate)? }
            }
            "sort" => {
                let keys = self.sort_keys()?;
                RelOp::Sort { keys, limit: self.row_limit()? }
            }
            "limit" => {
                self.keyword("offset")?;
                let offset = self.number("a number of rows")?;
                let count = if self.eat_word("count") { Some(self.number("a number of rows")?) } else { None };
                RelOp::Limit { offset, count }
            }
            "union" => {
                let inputs = self.list('(', ')', Self::columns)?;
                self.arrow()?;
                RelOp::Union { inputs, columns: self.columns()? }
            }
            _ => {
                self.keyword("partition")?;
                let partition = self.columns()?;
                self.keyword("order")?;
                let order = self.sort_keys()?;
                RelOp::Window { partition, order, columns: self.list('(', ')', Self::window_column)? }
            }
        })
    }

    fn row_limit(&mut self) -> Result<Option<u64>> {
        if self.eat_word("limit") { self.number("a number of rows").map(Some) } else { Ok(None) }
    }

    fn join_kind(&mut self) -> Result<JoinKind> {
        let line = self.line();
        Ok(match self.word()?.as_str() {
            "inner" => JoinKind::Inner,
            "left" => JoinKind::Left,
            "right" => JoinKind::Right,
            "full" => JoinKind::Full,
            "semi" => JoinKind::Semi,
            "anti" => JoinKind::Anti,
            "mark" => JoinKind::Mark(self.column()?),
            "single" => JoinKind::Single,
            other => return self.fail_at(line, format!("there is no join of kind `{other}`")),
        })
    }

    fn sort_keys(&mut self) -> Result<Vec<SortKey>> {
        self.list('(', ')', |p| {
            let column = p.column()?;
            let descending = p.eat_word("desc");
            if !descending {
                p.keyword("asc")?;
            }
            Ok(SortKey { column, descending, nulls_first: p.eat_word("nulls_first") })
        })
    }

    fn aggregate(&mut self) -> Result<Aggregate> {
        let out = self.column()?;
        self.punct('=')?;
        let reducer = self.reducer()?;
        self.punct('(')?;
        let distinct = self.eat_word("distinct");
        let arg = if self.is(')') { None } else { Some(self.column()?) };
        self.punct(')')?;
        let filter = if self.eat_word("where") { Some(self.column()?) } else { None };
        Ok(Aggregate { reducer, arg, distinct, filter, out })
    }

    fn window_column(&mut self) -> Result<WindowColumn> {
        let out = self.column()?;
        self.punct('=')?;
        let line = self.line();
        let name = self.word()?;
        self.punct('(')?;
        let arg = if self.is_column() { Some(self.column()?) } else { None };
        if arg.is_some() {
            self.eat(',');
        }
        let func = self.window_func(line, &name, arg)?;
        self.punct(')')?;
        Ok(WindowColumn { func, arg, frame: self.frame()?, out })
    }

    fn window_func(&mut self, line: usize, name: &str, arg: Option<ColumnId>) -> Result<WindowFunc> {
        Ok(match name {
            "row_number" => WindowFunc::RowNumber,
            "rank" => WindowFunc::Rank,
            "dense_rank" => WindowFunc::DenseRank,
            "percent_rank" => WindowFunc::PercentRank,
            "cume_dist" => WindowFunc::CumeDist,
            "ntile" => WindowFunc::Ntile(self.number("a number of buckets")?),
            "lag" => {
                let offset = self.number("a number of rows")?;
                self.punct(',')?;
                let ty = arg.map_or(ScalarType::I64, |id| self.b.program().columns[id.index()].ty);
                WindowFunc::Lag { offset, default: self.scalar(ty)? }
            }
            "nth_value" => WindowFunc::NthValue(self.number("the number of a row")?),
            "last_value" => WindowFunc::LastValue,
            "concat" => WindowFunc::Concat { separator: self.text()?.into() },
            other => match names::reducer(other) {
                Some(r) => WindowFunc::Reduce(r),
                None => return self.fail_at(line, format!("there is no window function `{other}`")),
            },
        })
    }

    fn frame(&mut self) -> Result<Frame> {
        let unit = if self.eat_word("range") {
            FrameUnit::Range
        } else if self.eat_word("groups") {
            FrameUnit::Groups
        } else {
            self.keyword("rows")?;
            FrameUnit::Rows
        };
        let start = self.frame_bound()?;
        self.keyword("to")?;
        Ok(Frame { unit, start, end: self.frame_bound()? })
    }

    fn frame_bound(&mut self) -> Result<FrameBound> {
        if self.eat_word("unbounded") {
            return Ok(FrameBound::Unbounded);
        }
        if self.eat_word("current") {
            return Ok(FrameBound::CurrentRow);
        }
        Ok(FrameBound::Offset(self.number("the end of a frame")?))
    }
}
