//! Filters of scans by tiles: conditions on columns as they are stored become byte masks, and the loop over rows sees only the
//! rows that are left.
//!
//! What holds:
//! - A [`Test`] looks at one column of the scan (two where they are compared), cannot raise, and is false where its condition is
//!   false or NULL. What is no such condition stays a condition of the row loop, which runs for fewer rows than without.
//! - Constants are moved into the column's encoding when the code is made; those of parameters when it runs.
//! - Masks are 0 or 1 for each of the tile's rows; level 0 is the filter's, the others are scratch of `OR`.

use runtime::abi::{RuntimeFn, layout};
use runtime::column::{Column, ColumnKind, Encoding, PhysicalType};
use runtime::kernels::filter::{comparison, mode};
use runtime::tile::TILE_ROWS;

use super::super::context::Slot;
use super::super::row::DICTIONARY_MAP_LIMIT;
use super::{PipelineLower, ZoneTest};
use crate::entity::{ColumnId, InputId, ValueId};
use crate::error::{Error, Result};
use crate::graph::Op;
use crate::graph::rel::ScanColumn;
use crate::kernel::{self, CheckedOp, Cmp, Type as K};
use crate::plan::bounds::stats_range;
use crate::plan::split::conjuncts;
use crate::plan::{Source, Step, register_type};
use crate::scalar::ScalarOp;
use crate::types::ScalarType;
use crate::value::Value;

/// A condition on the scan's columns.
#[derive(Clone, PartialEq, Debug)]
enum Test {
    /// `low <= x <= high`, in values; `negate`: outside.
    Range {
        source: u32,
        low: i128,
        high: i128,
        negate: bool,
    },
    /// Comparison with a parameter.
    Param {
        source: u32,
        op: ScalarOp,
        param: InputId,
        nullable: bool,
    },
    /// A range of floats; see `kernels::filter::mode`.
    Floats {
        source: u32,
        low: f64,
        high: f64,
        mode: i32,
    },
    /// What the expression gives for the dictionary's values.
    Lookup {
        source: u32,
        value: ValueId,
        negate: bool,
    },
    /// A pattern over texts.
    Like {
        source: u32,
        pattern: std::sync::Arc<str>,
        negate: bool,
    },
    /// `a + delta` compared with `b`, elements as they are stored.
    Compare {
        a: u32,
        b: u32,
        delta: i64,
        comparison: i32,
        negate: bool,
    },
    /// Whether the column is (not) NULL.
    Known {
        source: u32,
        wanted: bool,
    },
    All(Vec<Test>),
    Any(Vec<Test>),
}

/// The filter of a scan, and what is left for its rows.
#[derive(Default)]
pub(super) struct TileFilter {
    tests: Vec<Test>,
    /// For each step before the first one that is neither filter nor extend, the conditions that are not tests.
    rest: Vec<Option<Vec<ValueId>>>,
}

impl TileFilter {
    pub(super) fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// The conditions of filter `step` that are left for the loop over rows, where it is one of those that the tests come from.
    pub(super) fn rest(&self, step: usize) -> Option<&[ValueId]> {
        self.rest.get(step)?.as_deref()
    }

    /// The masks that it needs.
    pub(super) fn levels(&self) -> usize {
        1 + self.tests.iter().map(Test::scratch).max().unwrap_or(0)
    }

    /// The ranges that blocks of rows can be skipped by.
    pub(super) fn zones(&self, input: InputId) -> Vec<ZoneTest> {
        let zone = |t: &Test| match t {
            Test::Range { source, low, high, negate: false } => {
                Some(ZoneTest { input, source: *source, low: *low, high: *high })
            }
            _ => None,
        };
        self.tests.iter().filter_map(zone).collect()
    }
}

impl Test {
    /// Masks that it needs beside the one it writes to.
    fn scratch(&self) -> usize {
        match self {
            Test::All(tests) => tests.iter().map(Test::scratch).max().unwrap_or(0),
            // Its own mask, and one for alternatives that are not a single kernel.
            Test::Any(tests) => 2 + tests.iter().map(Test::scratch).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// What it costs a row, roughly: cheap tests come first, and patterns look only at the rows that are left.
    fn cost(&self) -> u32 {
        match self {
            Test::Range { .. } | Test::Param { .. } | Test::Floats { .. } | Test::Known { .. } => 1,
            Test::Lookup { .. } => 2,
            Test::Compare { .. } => 3,
            Test::Like { .. } => 1000,
            Test::All(tests) | Test::Any(tests) => tests.iter().map(Test::cost).sum(),
        }
    }
}

fn negated(op: ScalarOp) -> Option<ScalarOp> {
    Some(match op {
        ScalarOp::Eq => ScalarOp::Ne,
        ScalarOp::Ne => ScalarOp::Eq,
        ScalarOp::Lt => ScalarOp::Ge,
        ScalarOp::Ge => ScalarOp::Lt,
        ScalarOp::Gt => ScalarOp::Le,
        ScalarOp::Le => ScalarOp::Gt,
        _ => return None,
    })
}

/// The comparison with its operands exchanged.
fn mirrored(op: ScalarOp) -> ScalarOp {
    match op {
        ScalarOp::Lt => ScalarOp::Gt,
        ScalarOp::Gt => ScalarOp::Lt,
        ScalarOp::Le => ScalarOp::Ge,
        ScalarOp::Ge => ScalarOp::Le,
        other => other,
    }
}

/// A column of the scan.
#[derive(Clone, Copy)]
struct Scanned {
    source: u32,
    ty: ScalarType,
}

/// The base that is added to elements, where they are integers of at most 64 bits.
pub(super) fn integer_base(column: &Column) -> Option<i64> {
    match column.physical() {
        PhysicalType::I8 | PhysicalType::I16 | PhysicalType::I32 | PhysicalType::I64 => Some(match column.encoding() {
            Encoding::Narrowed { base } => base,
            Encoding::Plain | Encoding::Dictionary => 0,
        }),
        _ => None,
    }
}

impl PipelineLower<'_> {
    /// The tests among the conditions of the filters that stand first.
    pub(super) fn tile_filter(&mut self) -> Result<TileFilter> {
        let mut filter = TileFilter::default();
        let Source::Scan { input, columns, .. } = &self.pipeline.source else { return Ok(filter) };
        for step in &self.pipeline.steps {
            match step {
                Step::Extend { .. } => filter.rest.push(None),
                Step::Filter(region) => {
                    let mut parts = vec![];
                    conjuncts(self.r.p, self.r.p.region(*region).results[0], &mut parts);
                    let mut rest = vec![];
                    for v in parts {
                        match self.test(*input, columns, v, false)? {
                            Some(Test::All(tests)) => filter.tests.extend(tests),
                            Some(test) => filter.tests.push(test),
                            None => rest.push(v),
                        }
                    }
                    filter.rest.push(Some(rest));
                }
                Step::Probe { .. } | Step::Apply { .. } | Step::Also { .. } => break,
            }
        }
        filter.tests = merged(std::mem::take(&mut filter.tests));
        filter.tests.sort_by_key(Test::cost);
        Ok(filter)
    }

    /// The test that is true where the value is true (`negate`: false).
    fn test(&mut self, input: InputId, columns: &[ScanColumn], v: ValueId, negate: bool) -> Result<Option<Test>> {
        let p = self.r.p;
        let Some(node) = p.node_of(v) else { return Ok(None) };
        if let Some(id) = self.r.only_dictionary_column(v)
            && let Some(c) = scanned(columns, p, id)
            && self.r.inputs.column(input, c.source)?.dictionary().is_some_and(|d| d.len() <= DICTIONARY_MAP_LIMIT)
        {
            return Ok(Some(Test::Lookup { source: c.source, value: v, negate }));
        }
        let column = |v: ValueId| match p.node_of(v)?.op {
            Op::Col(id) => scanned(columns, p, id),
            _ => None,
        };
        let Op::Scalar(op) = &node.op else {
            let Some(c) = column(v).filter(|c| c.ty == ScalarType::Bool) else { return Ok(None) };
            let wanted = i128::from(!negate);
            return Ok(Some(Test::Range { source: c.source, low: wanted, high: wanted, negate: false }));
        };
        Ok(match op {
            ScalarOp::Not => return self.test(input, columns, node.operands[0], !negate),
            ScalarOp::And | ScalarOp::Or => {
                let (a, b) = (node.operands[0], node.operands[1]);
                let (Some(a), Some(b)) = (self.test(input, columns, a, negate)?, self.test(input, columns, b, negate)?)
                else {
                    return Ok(None);
                };
                let all = (*op == ScalarOp::And) != negate;
                let mut tests = vec![];
                for t in [a, b] {
                    match t {
                        Test::All(inner) if all => tests.extend(inner),
                        Test::Any(inner) if !all => tests.extend(inner),
                        t => tests.push(t),
                    }
                }
                Some(if all { Test::All(merged(tests)) } else { Test::Any(tests) })
            }
            ScalarOp::IsNull | ScalarOp::IsNotNull => {
                let wanted = (*op == ScalarOp::IsNotNull) != negate;
                match column(node.operands[0]) {
                    Some(c) if self.r.inputs.column(input, c.source)?.validity().is_some() => {
                        Some(Test::Known { source: c.source, wanted })
                    }
                    _ => None,
                }
            }
            ScalarOp::Like => {
                let pattern = p.node_of(node.operands[1]).map(|n| &n.op);
                match (column(node.operands[0]), pattern) {
                    (Some(c), Some(Op::Literal(Value::Text(pattern), _)))
                        if self.r.inputs.column(input, c.source)?.physical() == PhysicalType::Text =>
                    {
                        Some(Test::Like { source: c.source, pattern: pattern.clone(), negate })
                    }
                    _ => None,
                }
            }
            _ => {
                let Some(op) = (if negate { negated(*op) } else { negated(*op).map(|_| *op) }) else {
                    return Ok(None);
                };
                let (a, b) = (node.operands[0], node.operands[1]);
                match (column(a), column(b)) {
                    (Some(a), Some(b)) => self.compare_test(input, op, a, b)?,
                    (Some(c), None) => self.constant_test(input, op, c, b)?,
                    (None, Some(c)) => self.constant_test(input, mirrored(op), c, a)?,
                    (None, None) => None,
                }
            }
        })
    }

    fn compare_test(&mut self, input: InputId, op: ScalarOp, a: Scanned, b: Scanned) -> Result<Option<Test>> {
        if !comparable(a.ty, b.ty) {
            return Ok(None);
        }
        let (x, y) = (self.r.inputs.column(input, a.source)?, self.r.inputs.column(input, b.source)?);
        let (Some(base_a), Some(base_b)) = (integer_base(&x), integer_base(&y)) else { return Ok(None) };
        let (swap, comparison, negate) = match op {
            ScalarOp::Lt => (false, comparison::LESS, false),
            ScalarOp::Le => (false, comparison::LESS_EQUAL, false),
            ScalarOp::Gt => (true, comparison::LESS, false),
            ScalarOp::Ge => (true, comparison::LESS_EQUAL, false),
            ScalarOp::Eq => (false, comparison::EQUAL, false),
            _ => (false, comparison::EQUAL, true),
        };
        let (a, b, base_a, base_b) =
            if swap { (b.source, a.source, base_b, base_a) } else { (a.source, b.source, base_a, base_b) };
        // The kernel adds the difference to 64-bit elements: where that could wrap, rows are compared.
        let Some(delta) = base_a.checked_sub(base_b).filter(|d| d.unsigned_abs() < 1 << 62) else { return Ok(None) };
        let wide = |c: &Column| c.physical() == PhysicalType::I64;
        if delta != 0 && (wide(&x) || wide(&y)) {
            return Ok(None);
        }
        Ok(Some(Test::Compare { a, b, delta, comparison, negate }))
    }

    fn constant_test(&mut self, input: InputId, op: ScalarOp, c: Scanned, v: ValueId) -> Result<Option<Test>> {
        let p = self.r.p;
        let column = self.r.inputs.column(input, c.source)?;
        let (Some(node), Some(ty)) = (p.node_of(v), p.ty(v).as_scalar()) else { return Ok(None) };
        if !comparable(c.ty, ty.ty) {
            return Ok(None);
        }
        let source = c.source;
        if let Op::Input(param) = &node.op {
            // What is wider is compared by rows.
            let narrow = |ty| matches!(register_type(ty), K::I8 | K::I32 | K::I64);
            let fits = narrow(c.ty) && register_type(c.ty) == register_type(ty.ty) && integer_base(&column).is_some();
            return Ok(fits.then_some(Test::Param { source, op, param: *param, nullable: ty.nullable }));
        }
        let Op::Literal(value, _) = &node.op else { return Ok(None) };
        let integer = match value {
            Value::Bool(x) => i128::from(*x),
            Value::I32(x) | Value::Date(x) => i128::from(*x),
            Value::I64(x) | Value::Timestamp(x) => i128::from(*x),
            Value::Decimal(x) => *x,
            Value::F32(x) => return Ok(float_test(source, op, &column, f64::from(*x))),
            Value::F64(x) => return Ok(float_test(source, op, &column, *x)),
            Value::Null | Value::Text(_) => return Ok(None),
        };
        if integer_base(&column).is_none() {
            return Ok(None);
        }
        let (least, greatest) = (i128::MIN, i128::MAX);
        let (low, high, negate) = match op {
            ScalarOp::Eq => (integer, integer, false),
            ScalarOp::Ne => (integer, integer, true),
            ScalarOp::Le => (least, integer, false),
            ScalarOp::Lt => (least, integer - 1, false),
            ScalarOp::Ge => (integer, greatest, false),
            ScalarOp::Gt => (integer + 1, greatest, false),
            _ => return Ok(None),
        };
        Ok(Some(Test::Range { source, low, high, negate }))
    }

    /// The loop over tiles, and in each over the rows that the filter lets through.
    pub(super) fn tiles(&mut self) -> Result<()> {
        let Source::Scan { input, .. } = &self.pipeline.source else {
            return Err(Error::Bug("tiles belong to a scan".into()));
        };
        let (begin, end) = (self.r.b.param(2), self.r.b.param(3));
        let base = self.state_pointer(self.masks);
        let levels = self.filter.levels();
        let level = |s: &mut Self, level: usize| s.r.b.displace(base, level as i64 * i64::from(layout::TILE_SIZE));
        let tiles: Vec<kernel::Value> = (0..=levels).map(|i| level(self, i)).collect();
        let mask = |s: &mut Self, i: usize| s.r.b.displace(tiles[i], i64::from(layout::TILE_MASK.offset));
        let masks: Vec<kernel::Value> = (0..levels).map(|i| mask(self, i)).collect();
        let selection = self.r.b.displace(base, i64::from(layout::TILE_SELECTION.offset));
        let tile = self.r.b.begin_for(kernel::LoopKind::Serial, begin, end, TILE_ROWS as i64, &[]);
        let start = tile.index;
        let left = self.r.b.sub(end, start);
        let most = self.r.b.iconst(K::I64, TILE_ROWS as i64);
        let rows = self.r.b.smin(left, most);
        let place = Place { input: *input, start, rows };
        for (i, test) in self.filter.tests.clone().iter().enumerate() {
            let mode = if i == 0 { mode::SET } else { mode::AND };
            self.emit_test(test, &place, &masks, mode)?;
        }
        match self.blocks.clone() {
            None => self.selected_rows(&place, masks[0], selection)?,
            Some(blocks) if self.filter.is_empty() => self.add_block(&blocks, &place, None, tiles[levels])?,
            Some(blocks) => {
                let selected = self.r.b.call(RuntimeFn::MaskCount, &[masks[0], rows]);
                let selected = selected.ok_or_else(|| Error::Bug("mask_count returns a count".into()))?;
                let many = self.goes_by_blocks(&blocks, &place, selected);
                self.r.b.begin_if(many, &[]);
                self.add_block(&blocks, &place, Some((masks[0], selected)), tiles[levels])?;
                self.r.b.begin_else(&[]);
                self.selected_rows(&place, masks[0], selection)?;
                self.r.b.end_if(&[]);
            }
        }
        self.r.b.end_for(&[]);
        Ok(())
    }

    /// The loop over a tile's rows of a mask.
    fn selected_rows(&mut self, place: &Place, mask: kernel::Value, selection: kernel::Value) -> Result<()> {
        let selected = self.r.b.call(RuntimeFn::MaskToSelection, &[mask, place.rows, selection]);
        let selected = selected.ok_or_else(|| Error::Bug("mask_to_selection returns a count".into()))?;
        let zero = self.r.b.iconst(K::I64, 0);
        let row = self.r.b.begin_for(kernel::LoopKind::Serial, zero, selected, 1, &[]);
        let at = self.r.b.offset(selection, row.index, 2, 0);
        let index = self.r.b.load(K::I16, at, 0);
        let index = self.r.b.zext(index, K::I64);
        let index = self.r.b.add(place.start, index);
        let env = self.source(index)?;
        self.step(0, env)?;
        self.r.b.end_for(&[]);
        Ok(())
    }

    /// Writes a test to the first mask (`SET`), or restricts it by the test (`AND`).
    fn emit_test(&mut self, test: &Test, place: &Place, masks: &[kernel::Value], how: i32) -> Result<()> {
        match test {
            Test::All(tests) => {
                for (i, t) in tests.iter().enumerate() {
                    self.emit_test(t, place, masks, if i == 0 { how } else { mode::AND })?;
                }
            }
            Test::Any(tests) => {
                // The alternatives come together in the second mask; the third is for those of more than one kernel.
                let own = &masks[1..];
                for (i, t) in tests.iter().enumerate() {
                    if i == 0 {
                        self.emit_test(t, place, own, mode::SET)?;
                    } else if self.is_one_kernel(t, place)? {
                        self.emit_kernel(t, place, own[0], mode::OR)?;
                    } else {
                        self.emit_test(t, place, &own[1..], mode::SET)?;
                        self.r.b.call(RuntimeFn::MaskOr, &[own[0], own[1], place.rows]);
                    }
                }
                if how == mode::SET {
                    // Bytes of a mask are 0 or 1.
                    let one = self.r.b.iconst(K::I64, 1);
                    let how = self.r.b.iconst(K::I32, i64::from(how));
                    self.r.b.call(RuntimeFn::FilterRangeI8, &[own[0], place.rows, one, one, masks[0], how]);
                } else {
                    self.r.b.call(RuntimeFn::MaskAnd, &[masks[0], own[0], place.rows]);
                }
            }
            _ => {
                self.emit_kernel(test, place, masks[0], how)?;
                for source in test.sources() {
                    if self.r.inputs.column(place.input, source)?.validity().is_some()
                        && !matches!(test, Test::Known { .. })
                    {
                        let valid = self.r.slot(Slot::ColumnValid(place.input, source));
                        let valid = self.r.b.offset(valid, place.start, 1, 0);
                        self.r.b.call(RuntimeFn::MaskAnd, &[masks[0], valid, place.rows]);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a test is one call that can be ORed into a mask.
    fn is_one_kernel(&self, test: &Test, place: &Place) -> Result<bool> {
        if matches!(test, Test::All(_) | Test::Any(_)) {
            return Ok(false);
        }
        for source in test.sources() {
            if self.r.inputs.column(place.input, source)?.validity().is_some() && !matches!(test, Test::Known { .. }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The kernel of a test on one or two columns; NULLs are not looked at.
    fn emit_kernel(&mut self, test: &Test, place: &Place, mask: kernel::Value, how: i32) -> Result<()> {
        let Place { input, start, rows } = *place;
        let flag = |negate: bool| if negate { mode::NEGATE } else { 0 };
        match test {
            Test::Range { source, low, high, negate } => {
                let column = self.r.inputs.column(input, *source)?;
                let (low, high) = stored_range(&column, *low, *high);
                let (low, high) = (self.r.b.iconst(K::I64, low), self.r.b.iconst(K::I64, high));
                self.range_kernel(&column, *source, place, low, high, mask, how | flag(*negate))?;
            }
            Test::Param { source, op, param, nullable } => {
                let column = self.r.inputs.column(input, *source)?;
                let (low, high, negate) = self.param_range(&column, *op, *param, *nullable)?;
                self.range_kernel(&column, *source, place, low, high, mask, how | flag(negate))?;
            }
            Test::Floats { source, low, high, mode } => {
                let column = self.r.inputs.column(input, *source)?;
                let (function, ty) = match column.physical() {
                    PhysicalType::F32 => (RuntimeFn::FilterRangeF32, K::F32),
                    _ => (RuntimeFn::FilterRangeF64, K::F64),
                };
                let data = self.elements(&column, *source, place);
                let (low, high) = (self.r.b.fconst(ty, *low), self.r.b.fconst(ty, *high));
                let mode = self.r.b.iconst(K::I32, i64::from(how | mode));
                self.r.b.call(function, &[data, rows, low, high, mask, mode]);
            }
            Test::Lookup { source, value, negate } => {
                let column = self.r.inputs.column(input, *source)?;
                let values = column.dictionary().map_or(0, |d| d.len());
                let function = match column.physical() {
                    PhysicalType::Code8 => RuntimeFn::FilterLookupU8,
                    PhysicalType::Code16 => RuntimeFn::FilterLookupU16,
                    _ => RuntimeFn::FilterLookupU32,
                };
                let data = self.elements(&column, *source, place);
                let table = self.r.slot(Slot::DictionaryMap(input, *source, *value));
                let values = self.r.b.iconst(K::I64, values as i64);
                let mode = self.r.b.iconst(K::I32, i64::from(how | flag(*negate)));
                self.r.b.call(function, &[data, rows, table, values, mask, mode]);
            }
            Test::Like { source, pattern, negate } => {
                let column = self.r.inputs.column(input, *source)?;
                let data = self.elements(&column, *source, place);
                let pattern = self.r.slot(Slot::Like(pattern.clone()));
                let mode = self.r.b.iconst(K::I32, i64::from(how | flag(*negate)));
                self.r.b.call(RuntimeFn::FilterLike, &[pattern, data, rows, mask, mode]);
            }
            Test::Compare { a, b, delta, comparison, negate } => {
                let (x, y) = (self.r.inputs.column(input, *a)?, self.r.inputs.column(input, *b)?);
                let (left, right) = (self.elements(&x, *a, place), self.elements(&y, *b, place));
                let bytes = |s: &mut Self, c: &Column| s.r.b.iconst(K::I32, c.physical().bytes() as i64);
                let (left_bytes, right_bytes) = (bytes(self, &x), bytes(self, &y));
                let delta = self.r.b.iconst(K::I64, *delta);
                let comparison = self.r.b.iconst(K::I32, i64::from(*comparison));
                let mode = self.r.b.iconst(K::I32, i64::from(how | flag(*negate)));
                let args = [left, left_bytes, right, right_bytes, rows, delta, comparison, mask, mode];
                self.r.b.call(RuntimeFn::FilterCompare, &args);
            }
            Test::Known { source, wanted } => {
                let valid = self.r.slot(Slot::ColumnValid(input, *source));
                let valid = self.r.b.offset(valid, start, 1, 0);
                let wanted = self.r.b.iconst(K::I64, i64::from(*wanted));
                let mode = self.r.b.iconst(K::I32, i64::from(how));
                self.r.b.call(RuntimeFn::FilterRangeI8, &[valid, rows, wanted, wanted, mask, mode]);
            }
            Test::All(_) | Test::Any(_) => return Err(Error::Bug("a conjunction is more than one kernel".into())),
        }
        Ok(())
    }

    /// The address of the tile's first element.
    fn elements(&mut self, column: &Column, source: u32, place: &Place) -> kernel::Value {
        let data = self.r.slot(Slot::ColumnData(place.input, source));
        self.r.b.offset(data, place.start, column.physical().bytes() as i64, 0)
    }

    #[allow(clippy::too_many_arguments, reason = "a kernel's arguments")]
    fn range_kernel(
        &mut self,
        column: &Column,
        source: u32,
        place: &Place,
        low: kernel::Value,
        high: kernel::Value,
        mask: kernel::Value,
        how: i32,
    ) -> Result<()> {
        let function = match column.physical() {
            PhysicalType::I8 => RuntimeFn::FilterRangeI8,
            PhysicalType::I16 => RuntimeFn::FilterRangeI16,
            PhysicalType::I32 => RuntimeFn::FilterRangeI32,
            PhysicalType::I64 => RuntimeFn::FilterRangeI64,
            other => return Err(Error::Bug(format!("a range over {other:?}"))),
        };
        let data = self.elements(column, source, place);
        let how = self.r.b.iconst(K::I32, i64::from(how));
        self.r.b.call(function, &[data, place.rows, low, high, mask, how]);
        Ok(())
    }

    /// The ends of the range of elements that compare so with a parameter, and whether the range is to be negated.
    fn param_range(
        &mut self,
        column: &Column,
        op: ScalarOp,
        param: InputId,
        nullable: bool,
    ) -> Result<(kernel::Value, kernel::Value, bool)> {
        let base = integer_base(column).ok_or_else(|| Error::Bug("a range is over integers".into()))?;
        let register = match column.kind() {
            ColumnKind::Bool => K::I8,
            ColumnKind::I32 | ColumnKind::Date => K::I32,
            _ => K::I64,
        };
        let at = self.r.slot(Slot::Param(param));
        let value = self.r.b.load_readonly(register, at, 0);
        let value = if register == K::I64 { value } else { self.r.b.sext(value, K::I64) };
        let (least, greatest) = (self.r.b.iconst(K::I64, i64::MIN), self.r.b.iconst(K::I64, i64::MAX));
        // A value beyond the elements' reach stays beyond it.
        let base = self.r.b.iconst(K::I64, base);
        let (difference, wrapped) = self.r.b.checked(CheckedOp::Sub, value, base);
        let negative = self.r.b.icmp_imm(Cmp::Lt, value, 0);
        let end = self.r.b.select(negative, least, greatest);
        let x = self.r.b.select(wrapped, end, difference);
        let (low, high, negate) = match op {
            ScalarOp::Eq => (x, x, false),
            ScalarOp::Ne => (x, x, true),
            ScalarOp::Le => (least, x, false),
            ScalarOp::Gt => (least, x, true),
            ScalarOp::Ge => (x, greatest, false),
            _ => (x, greatest, true),
        };
        if !nullable {
            return Ok((low, high, negate));
        }
        // Comparison with NULL is never true: an empty range, or the negation of an endless one.
        let known = self.r.b.load_readonly(K::I8, at, 16);
        let (no_low, no_high) = if negate { (least, greatest) } else { (greatest, least) };
        Ok((self.r.b.select(known, low, no_low), self.r.b.select(known, high, no_high), negate))
    }
}

/// Where a tile is.
pub(super) struct Place {
    pub(super) input: InputId,
    /// Its first row.
    pub(super) start: kernel::Value,
    /// Its number of rows.
    pub(super) rows: kernel::Value,
}

impl Test {
    fn sources(&self) -> Vec<u32> {
        match self {
            Test::Range { source, .. }
            | Test::Param { source, .. }
            | Test::Floats { source, .. }
            | Test::Lookup { source, .. }
            | Test::Like { source, .. }
            | Test::Known { source, .. } => vec![*source],
            Test::Compare { a, b, .. } => vec![*a, *b],
            Test::All(tests) | Test::Any(tests) => tests.iter().flat_map(Test::sources).collect(),
        }
    }
}

/// Whether values of the types compare as their numbers do.
fn comparable(a: ScalarType, b: ScalarType) -> bool {
    match (a, b) {
        (ScalarType::Decimal { scale: a, .. }, ScalarType::Decimal { scale: b, .. }) => a == b,
        _ => a == b,
    }
}

fn scanned(columns: &[ScanColumn], p: &crate::graph::Program, id: ColumnId) -> Option<Scanned> {
    columns.iter().find(|c| c.id == id).map(|c| Scanned { source: c.source, ty: p.columns[id.index()].ty })
}

/// Ranges of one column that all must hold become one.
fn merged(tests: Vec<Test>) -> Vec<Test> {
    let mut out: Vec<Test> = vec![];
    for test in tests {
        if let Test::Range { source, low, high, negate: false } = test {
            let same = out.iter_mut().find_map(|t| match t {
                Test::Range { source: s, low, high, negate: false } if *s == source => Some((low, high)),
                _ => None,
            });
            if let Some((l, h)) = same {
                *l = low.max(*l);
                *h = high.min(*h);
                continue;
            }
        }
        out.push(test);
    }
    out
}

/// A range of values as a range of elements.
fn stored_range(column: &Column, low: i128, high: i128) -> (i64, i64) {
    let base = i128::from(integer_base(column).unwrap_or(0));
    if low > high || stats_range(column.stats()).is_some_and(|(min, max)| low > max || high < min) {
        return (1, 0);
    }
    let stored = |x: i128| x.saturating_sub(base).clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
    (stored(low), stored(high))
}

/// NaN is the greatest float and equals itself.
fn float_test(source: u32, op: ScalarOp, column: &Column, x: f64) -> Option<Test> {
    if !matches!(column.physical(), PhysicalType::F32 | PhysicalType::F64) || x.is_nan() {
        return None;
    }
    let (low, high, mode) = match op {
        ScalarOp::Eq => (x, x, 0),
        ScalarOp::Ne => (x, x, mode::NEGATE),
        ScalarOp::Le => (f64::NEG_INFINITY, x, 0),
        ScalarOp::Lt => (f64::NEG_INFINITY, x, mode::HIGH_OPEN),
        ScalarOp::Ge => (x, f64::INFINITY, mode::NAN_IN),
        ScalarOp::Gt => (x, f64::INFINITY, mode::LOW_OPEN | mode::NAN_IN),
        _ => return None,
    };
    Some(Test::Floats { source, low, high, mode })
}
