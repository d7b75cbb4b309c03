//! The plan level: where data stops.
//!
//! A plan is a list of stages in dependency order. A [`Pipeline`] streams rows from a source through steps into a sink without
//! storing them; everything that must be complete before it can be read is a [`State`].
//!
//! What holds:
//! - A stage reads only states that stages before it have filled.
//! - A state is filled by one sink or more (of pipelines that run one after the other), then sealed by at most one
//!   [`Stage::Seal`], then only read; in each iteration of a [`Stage::Loop`] so. The rows that a loop begins with are sealed
//!   before it.
//! - Steps and sinks name nodes and values of the graph; their meaning is the node's. What a plan adds is keys and residuals of
//!   joins, layouts of rows, and the choice of what is materialized.
//! - The columns that a step can read are those of the source and of the steps before it.

pub mod border;
pub(crate) mod bounds;
pub mod split;

use std::fmt;

use crate::entity::{ColumnId, InputId, NodeId, RegionId, ValueId};
use crate::graph::rel::{ScanColumn, SortKey};
use crate::kernel;
use crate::scalar::reduce::Reducer;
use crate::types::{RowType, ScalarType};

/// A state of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StateId(pub u32);

impl StateId {
    /// The position in the plan's list.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is stored for a column of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldKind {
    /// The value in its register type.
    Value,
    /// The dictionary code (`i32`) of a column of an input: decoded where the text is needed.
    Code {
        /// The input.
        input: InputId,
        /// The column's position in the input.
        source: u32,
    },
}

/// A column in a row record.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Field {
    /// The column; none for a reducer's state and for keys that are no column.
    pub column: Option<ColumnId>,
    /// What is stored.
    pub kind: FieldKind,
    /// The type of the value.
    pub ty: RowType,
    /// The type in memory: an integer that is narrower than the register where bounds prove that it fits. It is read with its sign.
    pub stored: kernel::Type,
    /// Bounds that every value obeys that is not NULL, where they are proven.
    pub(crate) bounds: bounds::Range,
    /// Bytes from the start of the record.
    pub offset: u32,
    /// Where the valid flag (one byte) stands, if the column is nullable.
    pub valid: Option<u32>,
}

impl Field {
    /// A field in the full width of its register, not placed yet.
    pub(crate) fn new(column: Option<ColumnId>, kind: FieldKind, ty: RowType) -> Self {
        let mut field = Self { column, kind, ty, stored: kernel::Type::I8, bounds: None, offset: 0, valid: None };
        field.stored = field.register();
        field
    }

    /// The register type of what is stored.
    pub fn register(&self) -> kernel::Type {
        match self.kind {
            FieldKind::Value => register_type(self.ty.ty),
            FieldKind::Code { .. } => kernel::Type::I32,
        }
    }
}

/// A record of fixed width. Bytes 0 to 8 hold the hash of the keys, where there are keys (in an index their word).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Layout {
    /// The columns.
    pub fields: Vec<Field>,
    /// Bytes of a record, a multiple of 8, and of 16 where a field has 16.
    pub size: u32,
}

/// The register type of a scalar. Decimals of at most 18 digits fit 64 bits.
pub fn register_type(ty: ScalarType) -> kernel::Type {
    match ty {
        ScalarType::Bool => kernel::Type::I8,
        ScalarType::I32 | ScalarType::Date => kernel::Type::I32,
        ScalarType::I64 | ScalarType::Timestamp => kernel::Type::I64,
        ScalarType::F32 => kernel::Type::F32,
        ScalarType::F64 => kernel::Type::F64,
        ScalarType::Decimal { precision, .. } if precision <= 18 => kernel::Type::I64,
        ScalarType::Decimal { .. } | ScalarType::Text => kernel::Type::I128,
    }
}

/// Places fields one after the other, widest first, so that none straddles its alignment.
#[derive(Default)]
pub struct LayoutBuilder {
    fields: Vec<Field>,
    with_hash: bool,
}

impl LayoutBuilder {
    /// A builder; `with_hash` keeps bytes 0 to 8 for the hash.
    pub fn new(with_hash: bool) -> Self {
        Self { fields: vec![], with_hash }
    }

    /// Adds a field; its position in the list is kept.
    pub fn add(&mut self, column: Option<ColumnId>, kind: FieldKind, ty: RowType) {
        self.fields.push(Field::new(column, kind, ty));
    }

    /// Adds a field for values (or codes) of these bounds, in as few bytes as they need.
    pub(crate) fn add_narrow(&mut self, column: Option<ColumnId>, kind: FieldKind, ty: RowType, bounds: bounds::Range) {
        let mut field = Field::new(column, kind, ty);
        field.bounds = bounds;
        let fits = |t: &kernel::Type| {
            let half = 1i128 << (8 * t.bytes() - 1);
            t.bytes() < field.stored.bytes() && bounds.is_some_and(|(low, high)| low >= -half && high < half)
        };
        if !field.stored.is_float() && ty.ty != ScalarType::Bool {
            let narrow = [kernel::Type::I8, kernel::Type::I16, kernel::Type::I32, kernel::Type::I64];
            field.stored = narrow.into_iter().find(fits).unwrap_or(field.stored);
        }
        self.fields.push(field);
    }

    /// The layout.
    pub fn finish(mut self) -> Layout {
        let mut at: u32 = if self.with_hash { 8 } else { 0 };
        // After the hash one 8-byte field fits before the first 16-byte one.
        for width in [16u32, 8, 4, 2, 1] {
            for f in &mut self.fields {
                let w = f.stored.bytes();
                if w == width {
                    at = at.next_multiple_of(width);
                    f.offset = at;
                    at += width;
                }
            }
        }
        for f in &mut self.fields {
            if f.ty.nullable {
                f.valid = Some(at);
                at += 1;
            }
        }
        let alignment = if self.fields.iter().any(|f| f.stored.bytes() == 16) { 16 } else { 8 };
        Layout { fields: self.fields, size: at.next_multiple_of(alignment).max(alignment) }
    }
}

/// Digits of the decimals that a sum is kept as where it is proven to fit 64 bits.
pub const I64_DIGITS: u8 = 18;

/// How a row changes a group's record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fold {
    /// Counts rows.
    Rows,
    /// Counts rows in which the column is not NULL.
    Known(ColumnId),
    /// Adds the column's values that are not NULL: floats in `f64`, all else exactly, in 64 bits where the plan proves that every
    /// partial sum fits.
    Sum(ColumnId),
    /// A reducer's whole state.
    Whole(Reducer, Option<ColumnId>),
}

/// Something that is folded over the rows of a group.
#[derive(Clone, PartialEq, Debug)]
pub struct Accumulator {
    /// How.
    pub fold: Fold,
    /// Only rows for which this boolean column is true.
    pub filter: Option<ColumnId>,
    /// Its first field, by position in the layout.
    pub first: usize,
    /// The number of its fields.
    pub count: usize,
}

impl Accumulator {
    /// Its fields, by position in the layout.
    pub fn fields(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.count
    }
}

/// Integer keys as one word of 64 bits, so that equal words are equal keys: `((k0 - min0) * size1 + (k1 - min1)) * size2 + …`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyWord {
    /// For each key the bounds of the rows that are stored. A single key may have none: it is the word.
    pub parts: Vec<Option<KeyBounds>>,
    /// For each key the column of an input whose dictionary's codes stand for it, where it is a text: of the rows that are stored.
    /// Codes of another dictionary are translated.
    pub codes: Vec<Option<(InputId, u32)>>,
    /// The number of words, where the table is an index over them. Otherwise it is a hash table.
    pub words: Option<u64>,
}

/// The values that a key can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyBounds {
    /// The least.
    pub min: i64,
    /// How many there are from the least to the greatest.
    pub size: u64,
}

/// What a state holds.
#[derive(Clone, PartialEq, Debug)]
pub enum StateKind {
    /// Rows in order.
    Rows,
    /// Rows by key.
    Join {
        /// For each key whether NULL equals NULL.
        null_equal: Vec<bool>,
        /// How the keys make one word. Without it the first fields of the layout are the keys; with it rows have no fields for
        /// keys, and rows with a NULL key are not stored.
        word: Option<KeyWord>,
    },
    /// The keys alone: which words there are.
    Set {
        /// How the keys make a word; the table is an index.
        word: KeyWord,
    },
    /// One row a group: the keys, then the fields of the reducers' states.
    Group {
        /// The group node.
        node: NodeId,
        /// The keys, by position, that tell groups apart: they decide the others, which are stored with a group's first row.
        identity: Vec<usize>,
        /// What is folded into a group's record, each into fields of its own.
        accumulators: Vec<Accumulator>,
        /// For each aggregate the fields of its state, by position in the layout, in the order of [`Reducer::state_fields`].
        states: Vec<Vec<usize>>,
    },
    /// Tensors made from rows by a `to_tensor` node.
    Tensors {
        /// The node.
        node: NodeId,
    },
}

/// A state.
#[derive(Clone, PartialEq, Debug)]
pub struct State {
    /// What it holds.
    pub kind: StateKind,
    /// How a row is laid out.
    pub layout: Layout,
}

/// Where a pipeline's rows come from.
#[derive(Clone, PartialEq, Debug)]
pub enum Source {
    /// Columns of an input.
    Scan {
        /// The input.
        input: InputId,
        /// The columns that are read.
        columns: Vec<ScanColumn>,
        /// A state with a row for each row of the input, in its order: more columns of the same rows.
        beside: Option<StateId>,
    },
    /// The rows of a state.
    State(StateId),
    /// Tensors as columns, of a `to_table` node.
    Tensors(NodeId),
}

/// How a probe meets its table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeKind {
    /// For each partner the pair.
    Inner,
    /// For each partner the pair; without one the row with NULLs.
    Left,
    /// The row if it has a partner.
    Semi,
    /// The row if it has none.
    Anti,
    /// The row, with a column that says whether it has one.
    Mark(ColumnId),
    /// The row, with its partner or NULLs; two partners raise.
    Single,
}

/// A step of a pipeline.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Keep rows for which the region yields true.
    Filter(RegionId),
    /// Add columns.
    Extend {
        /// The columns.
        columns: Vec<ColumnId>,
        /// Yields them.
        region: RegionId,
    },
    /// Meet the rows of a join state.
    Probe {
        /// The state.
        table: StateId,
        /// How.
        kind: ProbeKind,
        /// Values of the predicate region over this side, one a key of the state. Empty: every row is a candidate.
        keys: Vec<ValueId>,
        /// Values of the predicate region that must be true as well.
        residual: Vec<ValueId>,
        /// Whether NULL results of the predicate matter (a nullable mark).
        null_aware: bool,
    },
    /// Run a model over a tile of rows: an `apply` node.
    Apply {
        /// The node.
        node: NodeId,
        /// The columns that later steps read, saved in the tile.
        saved: Layout,
    },
    /// Append the rows for which the region yields true to a state; all rows go on.
    Also {
        /// Yields whether a row is stored.
        filter: RegionId,
        /// A `Rows` state.
        state: StateId,
        /// For each field of its layout the column.
        columns: Vec<ColumnId>,
    },
}

/// Where a pipeline's rows go.
#[derive(Clone, PartialEq, Debug)]
pub enum Sink {
    /// Appended to a `Rows` or `Tensors` state.
    Append {
        /// The state.
        state: StateId,
        /// For each field of the layout the value: a column of the pipeline, or NULL.
        columns: Vec<Option<ColumnId>>,
    },
    /// Appended to a `Join` or `Set` state: keys are values of the predicate region, then columns.
    Build {
        /// The state.
        state: StateId,
        /// Values of the predicate region over this side.
        keys: Vec<ValueId>,
        /// Columns for the fields after the keys.
        columns: Vec<ColumnId>,
    },
    /// Folded into a `Group` state.
    Group {
        /// The state.
        state: StateId,
    },
}

/// Rows from a source through steps to a sink, in one function.
#[derive(Clone, PartialEq, Debug)]
pub struct Pipeline {
    /// Where rows come from.
    pub source: Source,
    /// What happens to each.
    pub steps: Vec<Step>,
    /// Where they go.
    pub sink: Sink,
}

/// What completes a state.
#[derive(Clone, PartialEq, Debug)]
pub enum Seal {
    /// Rows of all ranges in order.
    Collect,
    /// The literal rows of a `values` node.
    Values(NodeId),
    /// Rows of all ranges in order, sorted; then `limit` of them.
    Sort {
        /// The ordering.
        keys: Vec<SortKey>,
        /// Rows kept.
        limit: Option<u64>,
    },
    /// Rows `offset .. offset + count`.
    Limit {
        /// Rows left out.
        offset: u64,
        /// Rows kept.
        count: Option<u64>,
    },
    /// The columns of a `window` node are computed into their fields.
    Window {
        /// The node.
        node: NodeId,
        /// Whether the rows stay in the order in which they came; otherwise they end up in that of the window.
        in_place: bool,
    },
    /// A hash table over the rows.
    Join,
    /// The ranges' groups are merged.
    Group,
    /// The ranges' rows become tensors.
    Tensors,
}

/// A stage.
#[derive(Clone, PartialEq, Debug)]
pub enum Stage {
    /// Rows through generated code.
    Pipeline(Pipeline),
    /// A library step that completes a state.
    Seal {
        /// The state.
        state: StateId,
        /// How.
        seal: Seal,
    },
    /// The iterations of a recursion: as long as the rows of `next` add to `result`, the added ones become those of `working`,
    /// and the `body` stages behind this one fill `next` again. Each iteration fills the states of the body anew.
    Loop {
        /// Filled before the loop, and by its body.
        next: StateId,
        /// The rows that the last iteration added. Rows are laid out as in `next`.
        working: StateId,
        /// All rows. Rows are laid out as in `next`.
        result: StateId,
        /// Only rows that are not in `result` are added.
        distinct: bool,
        /// No iteration begins with so many rows.
        limit: Option<u64>,
        /// How many stages of the body run in the first iteration only: what they make does not depend on the rows.
        once: usize,
        /// The number of stages of the body, those among them.
        body: usize,
    },
    /// Tensor nodes, in order.
    Tensor {
        /// The nodes.
        nodes: Vec<NodeId>,
        /// Values they read that other stages (or inputs) make.
        inputs: Vec<ValueId>,
        /// Values that others read.
        outputs: Vec<ValueId>,
    },
}

impl Stage {
    /// The states that it reads and writes.
    fn states(&self) -> Vec<StateId> {
        match self {
            Stage::Pipeline(pipeline) => {
                let (Sink::Append { state: sink, .. } | Sink::Build { state: sink, .. } | Sink::Group { state: sink }) =
                    &pipeline.sink;
                let source = match &pipeline.source {
                    Source::State(state) => Some(*state),
                    Source::Scan { beside, .. } => *beside,
                    Source::Tensors(_) => None,
                };
                let of_steps = pipeline.steps.iter().filter_map(|step| match step {
                    Step::Probe { table: state, .. } | Step::Also { state, .. } => Some(*state),
                    Step::Filter(_) | Step::Extend { .. } | Step::Apply { .. } => None,
                });
                source.into_iter().chain(of_steps).chain([*sink]).collect()
            }
            Stage::Seal { state, .. } => vec![*state],
            Stage::Loop { next, working, result, .. } => vec![*next, *working, *result],
            Stage::Tensor { .. } => vec![],
        }
    }
}

/// A result of a plan.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// The rows of a state; the columns in order.
    Rows {
        /// The state.
        state: StateId,
        /// The columns.
        columns: Vec<ColumnId>,
    },
    /// Columns of an input as they are: nothing runs for them.
    Columns {
        /// The input, a table.
        input: InputId,
        /// By column: its number in the input, and its id.
        columns: Vec<(u32, ColumnId)>,
    },
    /// A tensor.
    Tensor(ValueId),
}

/// Up to this limit a sink keeps the best rows only; beyond, all are stored and sorted.
const MOST_TOP_ROWS: usize = 16 << 10;

/// A plan.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// Stages in order.
    pub stages: Vec<Stage>,
    /// States.
    pub states: Vec<State>,
    /// Results, in the order of the program's.
    pub outputs: Vec<Output>,
    /// Rows of the tiles that models run over.
    pub tile_rows: usize,
    /// What was done at the border of query and model, for EXPLAIN.
    pub notes: Vec<String>,
}

impl Plan {
    /// A state.
    pub fn state(&self, id: StateId) -> &State {
        &self.states[id.index()]
    }

    /// The order and the limit of a state of which only the first rows in an order are kept, where they are few: its sinks may drop the others.
    pub fn top_rows(&self, id: StateId) -> Option<(&[SortKey], usize)> {
        self.stages.iter().find_map(|stage| match stage {
            Stage::Seal { state, seal: Seal::Sort { keys, limit: Some(n) } } if *state == id => {
                usize::try_from(*n).ok().filter(|n| *n <= MOST_TOP_ROWS).map(|n| (&keys[..], n))
            }
            _ => None,
        })
    }

    /// The states that each stage is the last to read or write: nobody needs them after it. Those of results are in none.
    pub fn last_uses(&self) -> Vec<Vec<StateId>> {
        let mut last: Vec<Option<usize>> = vec![None; self.states.len()];
        // What a loop reads it may read again in its next iteration.
        let (mut owner, mut end) = (0, 0);
        for (i, stage) in self.stages.iter().enumerate() {
            if i >= end {
                owner = i;
                end = if let Stage::Loop { body, .. } = stage { i + 1 + body } else { i + 1 };
            }
            for state in stage.states() {
                last[state.index()] = Some(owner);
            }
        }
        for output in &self.outputs {
            if let Output::Rows { state, .. } = output {
                last[state.index()] = None;
            }
        }
        let mut uses = vec![vec![]; self.stages.len()];
        for (state, last) in last.into_iter().enumerate() {
            if let Some(last) = last {
                uses[last].push(StateId(state as u32));
            }
        }
        uses
    }

    /// How many rows of a state are read, in the order in which they come, where no more of them are.
    pub fn first_rows(&self, id: StateId) -> Option<usize> {
        self.stages.iter().find_map(|stage| match stage {
            Stage::Seal { state, seal } if *state == id => match seal {
                Seal::Limit { offset, count: Some(count) } => usize::try_from(offset.saturating_add(*count)).ok(),
                _ => Some(usize::MAX),
            },
            _ => None,
        })
    }
}

impl Stage {
    /// The state that the stage fills or completes.
    pub fn state(&self) -> Option<StateId> {
        match self {
            Self::Pipeline(Pipeline { sink, .. }) => Some(match sink {
                Sink::Append { state, .. } | Sink::Build { state, .. } | Sink::Group { state } => *state,
            }),
            Self::Seal { state, .. } => Some(*state),
            Self::Loop { result, .. } => Some(*result),
            Self::Tensor { .. } => None,
        }
    }
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state{}", self.0)
    }
}

fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scan { input, columns, beside } => {
                write!(f, "scan {input} ({})", list(columns.iter().map(|c| c.id)))?;
                beside.map_or(Ok(()), |state| write!(f, " beside {state}"))
            }
            Self::State(s) => write!(f, "rows of {s}"),
            Self::Tensors(n) => write!(f, "tensors {n}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(r) => write!(f, "filter {r}"),
            Self::Extend { columns, region } => write!(f, "extend {region} ({})", list(columns)),
            Self::Probe { table, kind, keys, residual, .. } => {
                let kind = match kind {
                    ProbeKind::Inner => "inner".to_string(),
                    ProbeKind::Left => "left".to_string(),
                    ProbeKind::Semi => "semi".to_string(),
                    ProbeKind::Anti => "anti".to_string(),
                    ProbeKind::Mark(c) => format!("mark {c}"),
                    ProbeKind::Single => "single".to_string(),
                };
                write!(f, "probe {table} {kind} keys ({})", list(keys))?;
                if !residual.is_empty() {
                    write!(f, " and ({})", list(residual))?;
                }
                Ok(())
            }
            Self::Apply { node, .. } => write!(f, "apply {node} by tiles"),
            Self::Also { filter, state, columns } => write!(f, "also where {filter} into {state} ({})", list(columns)),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pipeline(p) => {
                writeln!(f, "pipeline")?;
                writeln!(f, "    {}", p.source)?;
                for s in &p.steps {
                    writeln!(f, "    {s}")?;
                }
                match &p.sink {
                    Sink::Append { state, columns } => {
                        let columns = columns.iter().map(|c| c.map_or("NULL".to_string(), |c| c.to_string()));
                        write!(f, "    into {state} ({})", list(columns))
                    }
                    Sink::Build { state, keys, columns } => {
                        write!(f, "    build {state} keys ({}) columns ({})", list(keys), list(columns))
                    }
                    Sink::Group { state } => write!(f, "    group into {state}"),
                }
            }
            Self::Seal { state, seal } => match seal {
                Seal::Collect => write!(f, "collect {state}"),
                Seal::Values(n) => write!(f, "values {n} into {state}"),
                Seal::Sort { keys, limit } => {
                    let keys = keys.iter().map(|k| format!("{}{}", k.column, if k.descending { " desc" } else { "" }));
                    write!(f, "sort {state} by {}", list(keys))?;
                    limit.map_or(Ok(()), |n| write!(f, " limit {n}"))
                }
                Seal::Limit { offset, count } => {
                    write!(f, "limit {state} offset {offset}")?;
                    count.map_or(Ok(()), |n| write!(f, " count {n}"))
                }
                Seal::Window { node, in_place: false } => write!(f, "window {node} over {state}"),
                Seal::Window { node, in_place: true } => write!(f, "window {node} over {state} in place"),
                Seal::Join => write!(f, "hash {state}"),
                Seal::Group => write!(f, "merge {state}"),
                Seal::Tensors => write!(f, "tensors of {state}"),
            },
            Self::Loop { next, working, result, distinct, limit, once, body } => {
                let kept = if *distinct { "distinct " } else { "" };
                write!(
                    f,
                    "loop over the {body} stages behind it, the first {once} of them once: {kept}rows of {next} into {result} and {working}"
                )?;
                limit.map_or(Ok(()), |n| write!(f, " until {n}"))
            }
            Self::Tensor { nodes, inputs, outputs } => {
                write!(f, "tensor ({}) -> ({}): {} nodes", list(inputs), list(outputs), nodes.len())
            }
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, s) in self.states.iter().enumerate() {
            let kind = match &s.kind {
                StateKind::Rows => "rows".to_string(),
                StateKind::Join { null_equal, word: None } => format!("join table, {} keys", null_equal.len()),
                StateKind::Join { word: Some(KeyWord { parts, words: None, .. }), .. } => {
                    format!("join table, {} keys as a word", parts.len())
                }
                StateKind::Join { word: Some(KeyWord { parts, words: Some(n), .. }), .. } => {
                    format!("join table, {} keys as an index over {n} words", parts.len())
                }
                StateKind::Set { word } => {
                    format!("set of {} keys over {} words", word.parts.len(), word.words.unwrap_or(0))
                }
                StateKind::Group { node, identity, .. } => format!("groups of {node} by {} keys", identity.len()),
                StateKind::Tensors { node } => format!("tensors of {node}"),
            };
            writeln!(f, "state{i}: {kind}, {} bytes a row", s.layout.size)?;
        }
        for (i, s) in self.stages.iter().enumerate() {
            writeln!(f, "stage {i}: {s}")?;
        }
        for o in &self.outputs {
            match o {
                Output::Rows { state, columns } => writeln!(f, "result: rows of {state} ({})", list(columns))?,
                Output::Columns { input, columns } => {
                    writeln!(f, "result: columns of {input} ({})", list(columns.iter().map(|c| c.1)))?;
                }
                Output::Tensor(v) => writeln!(f, "result: {v}")?,
            }
        }
        self.notes.iter().try_for_each(|n| writeln!(f, "-- {n}"))
    }
}
