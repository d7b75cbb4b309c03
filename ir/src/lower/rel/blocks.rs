//! Sums of few groups by tiles: instead of a loop that adds each row to its group's record, block kernels say which slot each
//! row falls into and sum each slot's rows, column by column as it is stored; each group's record is met once a tile.
//!
//! What holds:
//! - Keys are codes of at most [`MOST_SLOTS`] combinations. What is folded counts rows, or sums, in 64 bits, products of terms
//!   `x * factor + constant` over scanned integers; no column may be NULL, and nothing can raise.
//! - Arithmetic wraps: every value and every sum is proven to fit, so that it is right whatever happens on the way, and in rows
//!   that the filter drops.
//! - Groups appear in the order of their first rows, as by rows.
//! - A tile of which the filter leaves few rows goes by rows: the kernels look at all of them.
//! - Where all rows are of one group and nothing but products of two narrow columns is summed, slots are not written: one pass over
//!   the columns and the mask makes each sum.

use runtime::abi::{RuntimeFn, layout};
use runtime::column::PhysicalType;
use runtime::kernels::groups::MOST_SLOTS;
use runtime::tile::TILE_ROWS;

use super::super::context::Slot;
use super::PipelineLower;
use super::filter::{Place, integer_base};
use crate::entity::{ColumnId, InputId, ValueId};
use crate::error::{Error, Result};
use crate::graph::Op;
use crate::graph::rel::ScanColumn;
use crate::kernel::{self, Cmp, LoopKind, Type as K};
use crate::plan::bounds::{arithmetic_range, stats_range, type_range};
use crate::plan::{FieldKind, Fold, Sink, Source, StateId, StateKind, Step};
use crate::scalar::ScalarOp;
use crate::types::ScalarType;
use crate::value::Value;

/// A tile goes by blocks where at least one row in so many is left: the kernels' work on all rows is that of about as many by rows.
const ROWS_A_SURVIVOR: i64 = 4;

/// As [`ROWS_A_SURVIVOR`], where one pass makes each sum.
const ROWS_A_SURVIVOR_OF_ONE_GROUP: i64 = 64;

/// The most sums: those of a tile, and the list of its slots, take the place of its selection.
const MOST_SUMS: usize = (TILE_ROWS * 2 - MOST_SLOTS * layout::FOUND_SLOT_SIZE as usize) / (MOST_SLOTS * 8);

/// Products of more terms go by rows.
const MOST_TERMS: usize = 8;

/// A group that is summed by blocks.
#[derive(Clone)]
pub(super) struct Blocks {
    state: StateId,
    /// The code columns of the keys, with the numbers of their values.
    keys: Vec<(u32, usize)>,
    /// One for each accumulator.
    folds: Vec<BlockFold>,
    /// Whether one pass makes each sum.
    in_one_pass: bool,
}

#[derive(Clone)]
enum BlockFold {
    Rows,
    Sum(Vec<Term>),
}

/// `x * factor + constant`, for the elements of a column as they are stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Term {
    source: u32,
    factor: i64,
    constant: i64,
}

/// What an expression comes to.
struct Form {
    /// Bounds of its value.
    range: (i128, i128),
    /// A product of these, with factors and constants of values; a constant where there is none: that of the range.
    terms: Vec<(u32, i128, i128)>,
}

impl Form {
    fn constant(x: i128) -> Self {
        Self { range: (x, x), terms: vec![] }
    }

    fn times(mut self, by: i128) -> Option<Self> {
        self.range = arithmetic_range(ScalarOp::Mul, Some(self.range), Some((by, by)))?;
        if let Some((_, factor, constant)) = self.terms.first_mut() {
            (*factor, *constant) = (factor.checked_mul(by)?, constant.checked_mul(by)?);
        }
        Some(self)
    }

    fn plus(mut self, other: Self) -> Option<Self> {
        let range = arithmetic_range(ScalarOp::Add, Some(self.range), Some(other.range))?;
        match (self.terms.as_mut_slice(), other.terms.as_slice()) {
            (_, []) => {}
            ([], _) => return other.plus(self),
            _ => return None,
        }
        match self.terms.as_mut_slice() {
            [] => {}
            [(_, _, constant)] => *constant = constant.checked_add(other.range.0)?,
            _ => return None,
        }
        Some(Self { range, ..self })
    }

    fn product(mut self, other: Self) -> Option<Self> {
        let range = arithmetic_range(ScalarOp::Mul, Some(self.range), Some(other.range))?;
        if self.terms.is_empty() {
            return other.times(self.range.0);
        }
        if other.terms.is_empty() {
            return self.times(other.range.0);
        }
        self.terms.extend(other.terms);
        Some(Self { range, ..self })
    }
}

fn scale_of(ty: ScalarType) -> Option<u8> {
    match ty {
        ScalarType::Decimal { scale, .. } => Some(scale),
        ScalarType::I32 | ScalarType::I64 => Some(0),
        _ => None,
    }
}

impl PipelineLower<'_> {
    /// How the pipeline's groups are summed by blocks, where they can be.
    pub(super) fn block_sums(&self) -> Result<Option<Blocks>> {
        let (Source::Scan { input, columns, .. }, Sink::Group { state }) = (&self.pipeline.source, &self.pipeline.sink)
        else {
            return Ok(None);
        };
        let filters_left = |i: usize| self.filter.rest(i).is_none_or(|rest| !rest.is_empty());
        for (i, step) in self.pipeline.steps.iter().enumerate() {
            match step {
                Step::Extend { .. } => {}
                Step::Filter(_) if !filters_left(i) => {}
                Step::Filter(_) | Step::Probe { .. } | Step::Apply { .. } | Step::Also { .. } => return Ok(None),
            }
        }
        let Some(keys) = self.slot_columns(*state, *input, columns)? else { return Ok(None) };
        let StateKind::Group { accumulators, .. } = &self.plan.state(*state).kind else { return Ok(None) };
        let layout = &self.plan.state(*state).layout;
        let mut folds = vec![];
        for a in accumulators {
            let fold = match a.fold {
                _ if a.filter.is_some() => None,
                Fold::Rows => Some(BlockFold::Rows),
                Fold::Known(c) => self.form_of_column(*input, columns, c)?.map(|_| BlockFold::Rows),
                Fold::Sum(c) if layout.fields[a.first].register() == K::I64 => {
                    self.form_of_column(*input, columns, c)?.and_then(terms_of).map(BlockFold::Sum)
                }
                Fold::Sum(_) | Fold::Whole(..) => None,
            };
            let Some(fold) = fold else { return Ok(None) };
            folds.push(fold);
        }
        // Room for the sums is behind the list of slots.
        let sums = folds.iter().filter(|f| matches!(f, BlockFold::Sum(_))).count();
        let in_one_pass = keys.is_empty() && self.are_products(*input, &folds)?;
        Ok((1..=MOST_SUMS).contains(&sums).then_some(Blocks { state: *state, keys, folds, in_one_pass }))
    }

    /// Whether all that is summed are products of two columns for which there is a kernel.
    fn are_products(&self, input: InputId, folds: &[BlockFold]) -> Result<bool> {
        for fold in folds {
            match fold {
                BlockFold::Rows => {}
                BlockFold::Sum(terms) => {
                    let [a, b] = terms.as_slice() else { return Ok(false) };
                    let (a, b) = (self.r.inputs.column(input, a.source)?, self.r.inputs.column(input, b.source)?);
                    if product_sums([a.physical(), b.physical()]).is_none() {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// The keys as columns of codes, where there are few combinations.
    fn slot_columns(
        &self,
        state: StateId,
        input: InputId,
        columns: &[ScanColumn],
    ) -> Result<Option<Vec<(u32, usize)>>> {
        let (mut keys, mut slots) = (vec![], 1);
        if self.identity(state)?.len() < self.group_keys(state)?.len() {
            return Ok(None);
        }
        for (id, f) in self.group_keys(state)?.iter().zip(&self.plan.state(state).layout.fields) {
            let Some(c) = columns.iter().find(|c| c.id == *id) else { return Ok(None) };
            let column = self.r.inputs.column(input, c.source)?;
            let values = column.dictionary().map_or(usize::MAX, |d| d.len());
            let codes = FieldKind::Code { input, source: c.source };
            let is_code = f.kind == codes && column.physical() == PhysicalType::Code8 && column.validity().is_none();
            if !is_code || values.saturating_mul(slots) > MOST_SLOTS {
                return Ok(None);
            }
            slots *= values;
            keys.push((c.source, values));
        }
        Ok(Some(keys))
    }

    fn form_of_column(&self, input: InputId, columns: &[ScanColumn], id: ColumnId) -> Result<Option<Form>> {
        if let Some(c) = columns.iter().find(|c| c.id == id) {
            let column = self.r.inputs.column(input, c.source)?;
            let (None, Some(base), Some(range)) =
                (column.validity(), integer_base(&column), stats_range(column.stats()))
            else {
                return Ok(None);
            };
            return Ok(Some(Form { range, terms: vec![(c.source, 1, i128::from(base))] }));
        }
        for step in &self.pipeline.steps {
            if let Step::Extend { columns: made, region } = step
                && let Some(i) = made.iter().position(|c| *c == id)
            {
                return self.form(input, columns, self.r.p.region(*region).results[i]);
            }
        }
        Ok(None)
    }

    /// What an expression over the scan's integers comes to; none where it is no product of terms, or may raise.
    fn form(&self, input: InputId, columns: &[ScanColumn], v: ValueId) -> Result<Option<Form>> {
        let p = self.r.p;
        let (Some(node), Some(ty)) = (p.node_of(v), p.ty(v).as_scalar()) else { return Ok(None) };
        let Some(scale) = scale_of(ty.ty) else { return Ok(None) };
        let from = |v: ValueId| p.ty(v).as_scalar().and_then(|t| scale_of(t.ty));
        // An operand as an integer of the result's scale.
        let aligned = |v: ValueId| -> Result<Option<Form>> {
            let up = from(v).and_then(|from| scale.checked_sub(from)).and_then(|n| 10i128.checked_pow(n.into()));
            let (Some(up), Some(form)) = (up, self.form(input, columns, v)?) else { return Ok(None) };
            Ok(form.times(up))
        };
        let two = |f: &dyn Fn(ValueId) -> Result<Option<Form>>| -> Result<Option<(Form, Form)>> {
            Ok(f(node.operands[0])?.zip(f(node.operands[1])?))
        };
        let form = match &node.op {
            Op::Col(id) => self.form_of_column(input, columns, *id)?,
            Op::Literal(Value::I32(x), _) => Some(Form::constant(i128::from(*x))),
            Op::Literal(Value::I64(x), _) => Some(Form::constant(i128::from(*x))),
            Op::Literal(Value::Decimal(x), _) => Some(Form::constant(*x)),
            Op::Scalar(ScalarOp::Cast(_)) => aligned(node.operands[0])?,
            Op::Scalar(ScalarOp::Add) => two(&aligned)?.and_then(|(a, b)| a.plus(b)),
            Op::Scalar(ScalarOp::Sub) => two(&aligned)?.and_then(|(a, b)| a.plus(b.times(-1)?)),
            Op::Scalar(ScalarOp::Mul) => {
                let sum = from(node.operands[0]).zip(from(node.operands[1])).and_then(|(a, b)| a.checked_add(b));
                match sum == Some(scale) {
                    true => two(&|v| self.form(input, columns, v))?.and_then(|(a, b)| a.product(b)),
                    false => None,
                }
            }
            _ => None,
        };
        let fits = |f: &Form| type_range(ty.ty).is_some_and(|(low, high)| f.range.0 >= low && f.range.1 <= high);
        Ok(form.filter(fits))
    }

    /// A tile's rows of a mask, so many, added to their groups; all of the tile's where there is no mask.
    pub(super) fn add_block(
        &mut self,
        blocks: &Blocks,
        place: &Place,
        mask: Option<(kernel::Value, kernel::Value)>,
        scratch: kernel::Value,
    ) -> Result<()> {
        let mask = match mask {
            Some((mask, selected)) if blocks.in_one_pass => {
                return self.add_in_one_pass(blocks, place, [mask, selected, scratch]);
            }
            mask => mask.map(|(mask, _)| mask),
        };
        let slots = self.r.b.displace(scratch, i64::from(layout::TILE_MASK.offset));
        let words = self.r.b.displace(scratch, i64::from(layout::TILE_WORDS.offset));
        let list = self.r.b.displace(scratch, i64::from(layout::TILE_SELECTION.offset));
        let found = self.find_slots(blocks, place, mask, slots, list)?;
        let sums = self.sum_slots(blocks, place, [slots, words, list, found])?;
        let zero = self.r.b.iconst(K::I64, 0);
        let slot = self.r.b.begin_for(LoopKind::Serial, zero, found, 1, &[]);
        let entry = self.r.b.offset(list, slot.index, i64::from(layout::FOUND_SLOT_SIZE), 0);
        let first = self.r.b.load(K::I64, entry, layout::FOUND_SLOT_FIRST.offset);
        let rows = self.r.b.load(K::I64, entry, layout::FOUND_SLOT_ROWS.offset);
        let first = self.r.b.add(place.start, first);
        let mut env = self.source(first)?;
        let row = self.group_row(blocks.state, &mut env)?;
        let mut more_of = vec![];
        for (fold, sums) in blocks.folds.iter().zip(sums) {
            let more = match (fold, sums) {
                (BlockFold::Sum(terms), Some(sums)) => {
                    let at = self.r.b.offset(sums, slot.index, 8, 0);
                    let sum = self.r.b.load(K::I64, at, 0);
                    match terms.as_slice() {
                        [term] => self.sum_of_term(term, sum, rows),
                        _ => sum,
                    }
                }
                _ => rows,
            };
            more_of.push(more);
        }
        self.add_to_group(blocks.state, row, &more_of)?;
        self.r.b.end_for(&[]);
        Ok(())
    }

    /// Adds to each accumulator of a group.
    fn add_to_group(&mut self, state: StateId, row: kernel::Value, more: &[kernel::Value]) -> Result<()> {
        let state = self.plan.state(state);
        let StateKind::Group { accumulators, .. } = &state.kind else {
            return Err(Error::Bug("blocks are summed for groups".into()));
        };
        for (a, more) in accumulators.iter().zip(more) {
            let at = state.layout.fields[a.first].offset as i32;
            let old = self.r.b.load(K::I64, row, at);
            let new = self.r.b.add(old, *more);
            self.r.b.store(new, row, at);
        }
        Ok(())
    }

    /// A tile's rows of a mask, at least one, added to the group that all rows are of.
    fn add_in_one_pass(
        &mut self,
        blocks: &Blocks,
        place: &Place,
        [mask, selected, scratch]: [kernel::Value; 3],
    ) -> Result<()> {
        let sums = self.r.b.displace(scratch, i64::from(layout::TILE_SELECTION.offset));
        let mut env = self.source(place.start)?;
        let row = self.group_row(blocks.state, &mut env)?;
        let mut more = vec![];
        for fold in &blocks.folds {
            more.push(match fold {
                BlockFold::Rows => selected,
                BlockFold::Sum(terms) => self.sum_of_products(place, terms, [mask, selected, sums])?,
            });
        }
        self.add_to_group(blocks.state, row, &more)
    }

    /// The sum of `(a * f + c) * (b * g + d)`: that of the products and those of both columns say what it is.
    fn sum_of_products(
        &mut self,
        place: &Place,
        terms: &[Term],
        [mask, selected, sums]: [kernel::Value; 3],
    ) -> Result<kernel::Value> {
        let [a, b] = terms else { return Err(Error::Bug("a product has two terms".into())) };
        let (of_a, of_b) = (self.tile_elements(place, a.source)?, self.tile_elements(place, b.source)?);
        let ([a, b], [of_a, of_b]) =
            if of_a.1.bytes() <= of_b.1.bytes() { ([a, b], [of_a, of_b]) } else { ([b, a], [of_b, of_a]) };
        let function = product_sums([of_a.1, of_b.1]).ok_or_else(|| Error::Bug("products of narrow columns".into()))?;
        self.r.b.call(function, &[of_a.0, of_b.0, mask, place.rows, sums]);
        let parts = [
            (layout::PRODUCT_SUMS_PRODUCTS.offset, a.factor.wrapping_mul(b.factor)),
            (layout::PRODUCT_SUMS_FIRST.offset, a.factor.wrapping_mul(b.constant)),
            (layout::PRODUCT_SUMS_SECOND.offset, a.constant.wrapping_mul(b.factor)),
        ];
        let constant = self.r.b.iconst(K::I64, a.constant.wrapping_mul(b.constant));
        let mut sum = self.r.b.mul(selected, constant);
        for (offset, factor) in parts {
            let part = self.r.b.load(K::I64, sums, offset);
            let factor = self.r.b.iconst(K::I64, factor);
            let part = self.r.b.mul(part, factor);
            sum = self.r.b.add(sum, part);
        }
        Ok(sum)
    }

    /// The sum of a term, from that of the elements.
    fn sum_of_term(&mut self, term: &Term, sum: kernel::Value, rows: kernel::Value) -> kernel::Value {
        let (factor, constant) = (self.r.b.iconst(K::I64, term.factor), self.r.b.iconst(K::I64, term.constant));
        let scaled = self.r.b.mul(sum, factor);
        let constants = self.r.b.mul(rows, constant);
        self.r.b.add(scaled, constants)
    }

    /// Writes the rows' slots and the list of those that are there; their number.
    fn find_slots(
        &mut self,
        blocks: &Blocks,
        place: &Place,
        mask: Option<kernel::Value>,
        slots: kernel::Value,
        list: kernel::Value,
    ) -> Result<kernel::Value> {
        let null = self.r.zero(K::Ptr);
        let keys = blocks.keys.iter().map(|(source, values)| (Some(*source), *values));
        let keys: Vec<_> = if blocks.keys.is_empty() { vec![(None, 1)] } else { keys.collect() };
        for (i, (source, values)) in keys.into_iter().enumerate() {
            let codes = match source {
                Some(source) => self.tile_elements(place, source)?.0,
                None => null,
            };
            let values = self.r.b.iconst(K::I64, values as i64);
            let first = self.r.b.iconst(K::I32, i64::from(i == 0));
            self.r.b.call(RuntimeFn::SlotsAdd, &[codes, place.rows, values, slots, first]);
        }
        let found = self.r.b.call(RuntimeFn::SlotsFound, &[slots, mask.unwrap_or(null), place.rows, list]);
        found.ok_or_else(|| Error::Bug("slots_found returns a number".into()))
    }

    /// The addresses of the sums of each fold, slot by slot. Products that begin alike are made from each other.
    fn sum_slots(
        &mut self,
        blocks: &Blocks,
        place: &Place,
        [slots, words, list, found]: [kernel::Value; 4],
    ) -> Result<Vec<Option<kernel::Value>>> {
        let mut order: Vec<(&[Term], usize)> = vec![];
        for (i, fold) in blocks.folds.iter().enumerate() {
            if let BlockFold::Sum(terms) = fold {
                order.push((terms, i));
            }
        }
        order.sort();
        let mut sums = vec![None; blocks.folds.len()];
        let mut made: &[Term] = &[];
        for (n, (terms, i)) in order.into_iter().enumerate() {
            let behind = MOST_SLOTS * (layout::FOUND_SLOT_SIZE as usize + 8 * n);
            let out = self.r.b.displace(list, behind as i64);
            let (data, physical) = if let [term] = terms {
                self.tile_elements(place, term.source)?
            } else {
                let kept = if terms.starts_with(made) { made.len() } else { 0 };
                for (j, term) in terms.iter().enumerate().skip(kept) {
                    self.scale_words(place, term, words, j == 0)?;
                }
                made = terms;
                (words, PhysicalType::I64)
            };
            let function = match physical {
                PhysicalType::I8 => RuntimeFn::SlotSumsI8,
                PhysicalType::I16 => RuntimeFn::SlotSumsI16,
                PhysicalType::I32 => RuntimeFn::SlotSumsI32,
                _ => RuntimeFn::SlotSumsI64,
            };
            self.r.b.call(function, &[data, place.rows, slots, list, found, out]);
            sums[i] = Some(out);
        }
        Ok(sums)
    }

    /// Multiplies the words by a term, or sets them to it.
    fn scale_words(&mut self, place: &Place, term: &Term, words: kernel::Value, first: bool) -> Result<()> {
        let (data, physical) = self.tile_elements(place, term.source)?;
        let function = match physical {
            PhysicalType::I8 => RuntimeFn::WordsScaleI8,
            PhysicalType::I16 => RuntimeFn::WordsScaleI16,
            PhysicalType::I32 => RuntimeFn::WordsScaleI32,
            _ => RuntimeFn::WordsScaleI64,
        };
        let (factor, constant) = (self.r.b.iconst(K::I64, term.factor), self.r.b.iconst(K::I64, term.constant));
        let first = self.r.b.iconst(K::I32, i64::from(first));
        self.r.b.call(function, &[data, place.rows, factor, constant, words, first]);
        Ok(())
    }

    /// The address of a tile's first element of a column, and how it is stored.
    fn tile_elements(&mut self, place: &Place, source: u32) -> Result<(kernel::Value, PhysicalType)> {
        let column = self.r.inputs.column(place.input, source)?;
        let data = self.r.slot(Slot::ColumnData(place.input, source));
        let physical = column.physical();
        Ok((self.r.b.offset(data, place.start, physical.bytes() as i64, 0), physical))
    }

    /// 1 where so many of a tile's rows are left that it goes by blocks.
    pub(super) fn goes_by_blocks(&mut self, blocks: &Blocks, place: &Place, selected: kernel::Value) -> kernel::Value {
        let rows = if blocks.in_one_pass { ROWS_A_SURVIVOR_OF_ONE_GROUP } else { ROWS_A_SURVIVOR };
        let factor = self.r.b.iconst(K::I64, rows);
        let share = self.r.b.mul(selected, factor);
        self.r.b.compare(Cmp::Ge, share, place.rows)
    }
}

/// The kernel that sums products of elements that are stored so; the narrower ones are its first.
fn product_sums(mut stored: [PhysicalType; 2]) -> Option<RuntimeFn> {
    use PhysicalType as P;
    stored.sort_by_key(|physical| physical.bytes());
    Some(match stored {
        [P::I8, P::I8] => RuntimeFn::ProductSumsI8I8,
        [P::I8, P::I16] => RuntimeFn::ProductSumsI8I16,
        [P::I8, P::I32] => RuntimeFn::ProductSumsI8I32,
        [P::I16, P::I16] => RuntimeFn::ProductSumsI16I16,
        [P::I16, P::I32] => RuntimeFn::ProductSumsI16I32,
        [P::I32, P::I32] => RuntimeFn::ProductSumsI32I32,
        _ => return None,
    })
}

/// The terms over stored elements, in 64 bits.
fn terms_of(form: Form) -> Option<Vec<Term>> {
    let term = |(source, factor, base): (u32, i128, i128)| {
        Some(Term { source, factor: i64::try_from(factor).ok()?, constant: i64::try_from(base).ok()? })
    };
    let terms: Option<Vec<Term>> = form.terms.into_iter().map(term).collect();
    terms.filter(|t| !t.is_empty() && t.len() <= MOST_TERMS)
}
