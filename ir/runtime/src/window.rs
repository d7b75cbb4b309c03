//! Window functions over sorted rows.
//!
//! What holds:
//! - Rows come sorted by partition keys, then by order keys, and with the places where a partition begins: a run of rows with equal
//!   partition keys. Peers are rows of a partition with equal order keys.
//! - Each function writes its field in every row and reads only other fields; partitions are independent, so groups of them are
//!   tasks of the pool.
//! - Frames of `ROWS` count rows, frames of `GROUPS` peers; frames of `RANGE` reach as far as their order key says, or to the ends
//!   of the current row's peers. An empty frame gives NULL, and 0 for counts.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::buffer::{Field, FieldKind, TextArena};
use crate::column::TextView;
use crate::cpu::prefetch_line;
use crate::pool::QueryMemory;
use crate::scheduler::WorkerPool;
use crate::sort::{SortKey, compare_rows};
use crate::trap::{CancelToken, Trap, TrapCode};

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Func {
    /// 1, 2, 3 …
    RowNumber,
    /// Rank with gaps.
    Rank,
    /// Rank without gaps.
    DenseRank,
    /// (rank - 1) / (rows - 1), 0 for a single row.
    PercentRank,
    /// Share of rows up to and with the peers.
    CumeDist,
    /// Bucket 1..=n, the first ones larger.
    Ntile(i64),
    /// The argument so many rows before; negative: after.
    Lag(i64),
    /// The argument in the n-th row of the frame, from 1.
    NthValue(i64),
    /// The argument in the last row of the frame.
    LastValue,
    /// The texts of the frame, with `default` between them.
    Concat,
    /// A reducer over the frame.
    Reduce(Reduce),
}

/// A reducer over a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Rows.
    CountAll,
    /// Arguments that are not NULL.
    Count,
    /// Sum: I64 for integers (raises on overflow), 128 bits for decimals, floats in their type.
    Sum,
    /// Mean, F64.
    Avg,
    /// Least.
    Min,
    /// Greatest.
    Max,
    /// Sample variance, F64 (Welford).
    VarSample,
    /// Population variance, F64.
    VarPopulation,
    /// Sample standard deviation, F64.
    StddevSample,
    /// Population standard deviation, F64.
    StddevPopulation,
    /// Whether all are true.
    BoolAnd,
    /// Whether one is true.
    BoolOr,
}

/// One end of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The partition's end.
    Unbounded,
    /// The current row, or its peers.
    CurrentRow,
    /// Units before (negative) or after the current row.
    Offset(i64),
}

/// What the ends of a frame count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Rows.
    Rows,
    /// The order key, an integer: an end with an offset lies as far from the current row's. NULLs have each other.
    Range,
    /// Groups of peers.
    Groups,
}

/// A frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the ends count.
    pub unit: Unit,
    /// First row.
    pub start: Bound,
    /// Last row.
    pub end: Bound,
}

/// One function with its fields.
#[derive(Clone, Copy, Debug)]
pub struct WindowSpec {
    /// The function.
    pub func: Func,
    /// The argument.
    pub arg: Option<Field>,
    /// Digits behind the point of a decimal argument.
    pub scale: u32,
    /// What `Lag` gives outside of the partition, or what stands between texts: low word, high word, whether not NULL.
    pub default: (u64, u64, bool),
    /// The frame.
    pub frame: Frame,
    /// Where the result goes.
    pub out: Field,
}

struct Rows<'a>(&'a [*mut u8]);

// SAFETY: tasks get disjoint partitions, and rows are distinct records.
unsafe impl Sync for Rows<'_> {}

/// Rows a task looks at, at least: partitions are packed up to it.
const TASK_ROWS: usize = 32 << 10;

/// How many rows ahead memory is asked for: rows that stayed where they were lie anywhere.
const AHEAD: usize = 32;

/// Asks for the memory of a row's field that is looked at soon.
fn ask_ahead(rows: &[*mut u8], i: usize, field: &Field) {
    if let Some(&row) = rows.get(i + AHEAD) {
        prefetch_line(row.wrapping_add(field.offset as usize));
    }
}

/// Evaluates the functions over all partitions. The arenas that come back hold the texts that results are views of.
///
/// # Errors
/// [`TrapCode::MemoryLimit`] for texts beyond the limit;
/// [`TrapCode::Overflow`] of a sum, [`TrapCode::Cancelled`]; [`TrapCode::Internal`] for a range frame with an offset over a key
/// that is no integer.
///
/// # Safety
/// The rows are distinct live records that have all fields, sorted by the keys, partitions beginning at `starts`; nobody else uses
/// them; texts are alive.
///
/// # Panics
/// Where `starts` are not ascending places of rows, the first among them.
pub unsafe fn evaluate(
    rows: &[*mut u8],
    starts: &[usize],
    order: &[SortKey],
    specs: &[WindowSpec],
    memory: &Arc<QueryMemory>,
    pool: &WorkerPool,
    cancel: &CancelToken,
) -> Result<Vec<TextArena>, Trap> {
    // SAFETY: promised by the caller.
    let same = |keys: &[SortKey], a: *mut u8, b: *mut u8| unsafe { compare_rows(keys, a, b) } == Ordering::Equal;
    let shared = Rows(rows);
    assert_eq!(starts.first(), (!rows.is_empty()).then_some(&0), "the first row begins a partition");
    let mut tasks: Vec<(usize, usize)> = vec![];
    let mut first = 0;
    for i in 0..starts.len() {
        let end = starts.get(i + 1).copied().unwrap_or(rows.len());
        if end - starts[first] >= TASK_ROWS || i + 1 == starts.len() {
            tasks.push((first, i + 1));
            first = i + 1;
        }
    }
    let with_peers = specs.iter().any(WindowSpec::sees_peers);
    pool.map(tasks.len(), |task, _| {
        let shared = &shared;
        cancel.check()?;
        let (from, to) = tasks[task];
        let mut peers = Peers::default();
        let mut texts = TextArena::new(memory);
        for p in from..to {
            let end = starts.get(p + 1).copied().unwrap_or(shared.0.len());
            let part = &shared.0[starts[p]..end];
            if with_peers {
                peers.find(part, |a, b| same(order, a, b));
            }
            for spec in specs {
                // SAFETY: promised by the caller; this task alone has the partition.
                unsafe {
                    match spec.func {
                        Func::Concat => concat(part, &peers, order, spec, &mut texts)?,
                        Func::Lag(offset) => lag(part, offset, spec)?,
                        _ => function(part, &peers, order, spec)?,
                    }
                }
            }
        }
        Ok(texts)
    })
}

/// [`Func::Concat`]. Rows that follow one another and have one frame share one text.
///
/// # Safety
/// As for [`evaluate`].
unsafe fn concat(
    part: &[*mut u8],
    peers: &Peers,
    order: &[SortKey],
    spec: &WindowSpec,
    texts: &mut TextArena,
) -> Result<(), Trap> {
    // SAFETY: promised by the caller.
    let keys = unsafe { Keys::of(part, order, &spec.frame)? };
    let Some(arg) = spec.arg else {
        return Err(Trap::with_detail(TrapCode::Internal, "a window function without argument"));
    };
    let mut last = None;
    for (i, &row) in part.iter().enumerate() {
        let frame = frame_of(&spec.frame, i, part.len(), peers, &keys);
        let words = match last {
            Some((same, words)) if same == frame => words,
            _ => {
                // SAFETY: promised by the caller.
                let joined = unsafe { joined(&part[frame.0..frame.1], &arg, spec.default) }?;
                joined.map(|text| texts.copy(&text)).transpose()?.map(TextView::to_words)
            }
        };
        last = Some((frame, words));
        let (lo, hi) = words.unwrap_or_default();
        // SAFETY: promised by the caller.
        unsafe { write(row, &spec.out, lo, hi, words.is_some()) };
    }
    Ok(())
}

/// The texts of the rows that are not NULL, with the separator between them; `None` if there is none.
///
/// # Safety
/// The rows have the field, a text; it and the separator are alive.
unsafe fn joined(rows: &[*mut u8], arg: &Field, separator: (u64, u64, bool)) -> Result<Option<Vec<u8>>, Trap> {
    // SAFETY: promised by the caller.
    let separator = unsafe { TextView::from_words(separator.0, separator.1) };
    let mut out: Option<Vec<u8>> = None;
    for &row in rows {
        // SAFETY: promised by the caller.
        let text = unsafe {
            if arg.is_null(row) {
                continue;
            }
            let at = row.add(arg.offset as usize).cast::<u64>();
            TextView::from_words(at.read_unaligned(), at.add(1).read_unaligned())
        };
        // SAFETY: promised by the caller.
        let (between, text) = unsafe { (separator.as_bytes(), text.as_bytes()) };
        let out = match &mut out {
            Some(out) => {
                out.extend_from_slice(between);
                out
            }
            None => out.insert(vec![]),
        };
        out.extend_from_slice(text);
        if out.len() > u32::MAX as usize {
            return Err(Trap::with_detail(TrapCode::Overflow, "a text beyond 4 GB"));
        }
    }
    Ok(out)
}

/// [`Func::Lag`].
///
/// # Safety
/// As for [`evaluate`].
unsafe fn lag(part: &[*mut u8], offset: i64, spec: &WindowSpec) -> Result<(), Trap> {
    let Some(arg) = &spec.arg else {
        return Err(Trap::with_detail(TrapCode::Internal, "a window function without argument"));
    };
    // SAFETY: promised by the caller; both fields are of one kind.
    unsafe {
        match spec.out.kind.bytes() {
            1 => lag_of::<1>(part, offset, arg, spec),
            2 => lag_of::<2>(part, offset, arg, spec),
            4 => lag_of::<4>(part, offset, arg, spec),
            8 => lag_of::<8>(part, offset, arg, spec),
            _ => lag_of::<16>(part, offset, arg, spec),
        }
    }
    Ok(())
}

/// # Safety
/// As for [`evaluate`]; the fields have `BYTES` bytes.
unsafe fn lag_of<const BYTES: usize>(part: &[*mut u8], offset: i64, arg: &Field, spec: &WindowSpec) {
    let (default_low, default_high, default_valid) = spec.default;
    for (i, &row) in part.iter().enumerate() {
        ask_ahead(part, i, arg);
        ask_ahead(part, i, &spec.out);
        let from = (i as i64).checked_sub(offset).and_then(|j| part.get(usize::try_from(j).ok()?));
        // SAFETY: promised by the caller.
        unsafe {
            let Some(&from) = from else {
                write(row, &spec.out, default_low, default_high, default_valid);
                continue;
            };
            let value = from.add(arg.offset as usize).cast::<[u8; BYTES]>().read();
            row.add(spec.out.offset as usize).cast::<[u8; BYTES]>().write(value);
            if let Some(at) = spec.out.valid {
                *row.add(at as usize) = u8::from(!arg.is_null(from));
            }
        }
    }
}

impl WindowSpec {
    /// Whether the function, or its frame, asks which rows are equal in the order.
    fn sees_peers(&self) -> bool {
        match self.func {
            Func::Rank | Func::DenseRank | Func::PercentRank | Func::CumeDist => true,
            Func::RowNumber | Func::Ntile(_) | Func::Lag(_) => false,
            Func::NthValue(_) | Func::LastValue | Func::Concat | Func::Reduce(_) => {
                let bounded = |b| b != Bound::Unbounded;
                self.frame.unit != Unit::Rows && (bounded(self.frame.start) || bounded(self.frame.end))
            }
        }
    }
}

/// The peers in a partition: rows that are equal in the order. Nothing where no function sees them.
#[derive(Default)]
struct Peers {
    /// For each row the first row of its peers and the row after the last.
    bounds: Vec<(u32, u32)>,
    /// For each row the number of its group of peers, from 0.
    group: Vec<u32>,
    /// Where each group begins, and the end.
    starts: Vec<u32>,
}

impl Peers {
    fn find(&mut self, part: &[*mut u8], same: impl Fn(*mut u8, *mut u8) -> bool) {
        self.bounds.clear();
        self.group.clear();
        self.starts.clear();
        let mut start = 0;
        for i in 1..=part.len() {
            if i == part.len() || !same(part[i - 1], part[i]) {
                self.bounds.resize(i, (start, i as u32));
                self.group.resize(i, self.starts.len() as u32);
                self.starts.push(start);
                start = i as u32;
            }
        }
        self.starts.push(part.len() as u32);
    }

    /// The first row of a row's peers and the row after the last; the row alone where nobody asked.
    fn of(&self, i: usize) -> (u32, u32) {
        self.bounds.get(i).copied().unwrap_or((i as u32, i as u32 + 1))
    }
}

/// The order key of a partition's rows, negated where the order descends: it grows from `first` to `end`, outside are NULLs.
#[derive(Default)]
struct Keys {
    values: Vec<i128>,
    first: usize,
    end: usize,
}

impl Keys {
    /// The keys that a frame asks for; none where it counts rows.
    ///
    /// # Safety
    /// The rows have the keys' fields.
    unsafe fn of(part: &[*mut u8], order: &[SortKey], frame: &Frame) -> Result<Self, Trap> {
        let by_key = |b| frame.unit == Unit::Range && matches!(b, Bound::Offset(_));
        if by_key(frame.start) || by_key(frame.end) {
            // SAFETY: promised by the caller.
            return unsafe { Self::new(part, order) };
        }
        Ok(Self::default())
    }

    /// # Safety
    /// The rows have the field.
    unsafe fn new(part: &[*mut u8], order: &[SortKey]) -> Result<Self, Trap> {
        let [key] = order else {
            return Err(Trap::with_detail(TrapCode::Internal, "a range frame with an offset has one order key"));
        };
        let mut keys = Self { values: vec![0; part.len()], first: 0, end: part.len() };
        for (i, row) in part.iter().enumerate() {
            // SAFETY: promised by the caller.
            let value = unsafe {
                if key.field.is_null(*row) {
                    if i == keys.first {
                        keys.first += 1;
                    } else {
                        keys.end = keys.end.min(i);
                    }
                    continue;
                }
                let at = row.add(key.field.offset as usize);
                match key.field.kind {
                    FieldKind::I8 => i128::from(*at.cast::<i8>()),
                    FieldKind::I16 => i128::from(*at.cast::<i16>()),
                    FieldKind::I32 => i128::from(*at.cast::<i32>()),
                    FieldKind::I64 => i128::from(*at.cast::<i64>()),
                    FieldKind::I128 | FieldKind::F32 | FieldKind::F64 | FieldKind::Text => {
                        return Err(Trap::with_detail(
                            TrapCode::Internal,
                            "a range frame over a key that is no integer",
                        ));
                    }
                }
            };
            keys.values[i] = if key.descending { -value } else { value };
        }
        keys.end = keys.end.max(keys.first);
        Ok(keys)
    }

    /// The first row whose key is at least `offset` behind that of row `i` (or the row after the last one up to it).
    fn reach(&self, i: usize, offset: i64, is_start: bool, peers: &Peers) -> i64 {
        if !(self.first..self.end).contains(&i) {
            let (a, b) = peers.bounds[i];
            return i64::from(if is_start { a } else { b });
        }
        let to = self.values[i] + i128::from(offset);
        let known = &self.values[self.first..self.end];
        let at = known.partition_point(|k| if is_start { *k < to } else { *k <= to });
        (self.first + at) as i64
    }
}

fn frame_of(frame: &Frame, i: usize, n: usize, peers: &Peers, keys: &Keys) -> (usize, usize) {
    let at = |b: Bound, is_start: bool| -> i64 {
        match b {
            Bound::Unbounded => {
                if is_start {
                    0
                } else {
                    n as i64
                }
            }
            Bound::CurrentRow if frame.unit != Unit::Rows => {
                let (a, b) = peers.bounds[i];
                i64::from(if is_start { a } else { b })
            }
            Bound::CurrentRow => i as i64 + i64::from(!is_start),
            Bound::Offset(k) if frame.unit == Unit::Range => keys.reach(i, k, is_start, peers),
            Bound::Offset(k) if frame.unit == Unit::Groups => {
                let last = peers.starts.len() as i64 - 1;
                let group = i64::from(peers.group[i]).saturating_add(k).saturating_add(i64::from(!is_start));
                i64::from(peers.starts[group.clamp(0, last) as usize])
            }
            Bound::Offset(k) => (i as i64).saturating_add(k).saturating_add(i64::from(!is_start)),
        }
    };
    let start = at(frame.start, true).clamp(0, n as i64) as usize;
    let end = at(frame.end, false).clamp(0, n as i64) as usize;
    (start, end.max(start))
}

unsafe fn write(row: *mut u8, out: &Field, lo: u64, hi: u64, valid: bool) {
    let words = [lo.to_le(), hi.to_le()];
    // SAFETY: promised by the caller: the row has the field.
    unsafe {
        std::ptr::copy_nonoverlapping(words.as_ptr().cast(), row.add(out.offset as usize), out.kind.bytes());
        if let Some(at) = out.valid {
            *row.add(at as usize) = u8::from(valid);
        }
    }
}

unsafe fn copy(to: *mut u8, out: &Field, from: *mut u8, arg: &Field) {
    // SAFETY: promised by the caller: both rows have the fields, of one kind.
    unsafe {
        let valid = !arg.is_null(from);
        std::ptr::copy_nonoverlapping(from.add(arg.offset as usize), to.add(out.offset as usize), out.kind.bytes());
        if let Some(at) = out.valid {
            *to.add(at as usize) = u8::from(valid);
        }
    }
}

/// # Safety
/// As for [`evaluate`].
unsafe fn function(part: &[*mut u8], peers: &Peers, order: &[SortKey], spec: &WindowSpec) -> Result<(), Trap> {
    let n = part.len();
    // SAFETY: promised by the caller.
    let keys = unsafe { Keys::of(part, order, &spec.frame)? };
    let argument =
        || spec.arg.ok_or_else(|| Trap::with_detail(TrapCode::Internal, "a window function without argument"));
    let mut dense = 0u64;
    let running = match spec.func {
        Func::Reduce(_) => {
            // From the partition's start to somewhere at or behind the last end: one pass, each row added once.
            spec.frame.start == Bound::Unbounded
        }
        _ => false,
    };
    let mut sum = Accumulator::default();
    let mut added = 0;
    for (i, &row) in part.iter().enumerate() {
        ask_ahead(part, i, spec.arg.as_ref().unwrap_or(&spec.out));
        ask_ahead(part, i, &spec.out);
        let (first_peer, after_peers) = peers.of(i);
        if i == first_peer as usize {
            dense += 1;
        }
        // SAFETY: promised by the caller.
        unsafe {
            match spec.func {
                Func::RowNumber => write(row, &spec.out, i as u64 + 1, 0, true),
                Func::Rank => write(row, &spec.out, u64::from(first_peer) + 1, 0, true),
                Func::DenseRank => write(row, &spec.out, dense, 0, true),
                Func::PercentRank => {
                    let v = if n < 2 { 0.0 } else { f64::from(first_peer) / (n - 1) as f64 };
                    write(row, &spec.out, v.to_bits(), 0, true);
                }
                Func::CumeDist => {
                    let v = f64::from(after_peers) / n as f64;
                    write(row, &spec.out, v.to_bits(), 0, true);
                }
                Func::Ntile(k) => {
                    let k = k.max(1) as usize;
                    let (size, larger) = (n / k, n % k);
                    let head = larger * (size + 1);
                    let bucket = if i < head { i / (size + 1) } else { larger + (i - head) / size.max(1) };
                    write(row, &spec.out, bucket as u64 + 1, 0, true);
                }
                Func::NthValue(_) | Func::LastValue => {
                    let arg = argument()?;
                    let (start, end) = frame_of(&spec.frame, i, n, peers, &keys);
                    let at = match spec.func {
                        Func::NthValue(k) if k >= 1 => start.checked_add(k as usize - 1).filter(|j| *j < end),
                        Func::LastValue => end.checked_sub(1).filter(|j| *j >= start),
                        _ => None,
                    };
                    match at {
                        Some(j) => copy(row, &spec.out, part[j], &arg),
                        None => write(row, &spec.out, 0, 0, false),
                    }
                }
                Func::Concat | Func::Lag(_) => {
                    return Err(Trap::with_detail(
                        TrapCode::Internal,
                        "texts are joined, and rows before looked up, elsewhere",
                    ));
                }
                Func::Reduce(reduce) => {
                    let (start, end) = frame_of(&spec.frame, i, n, peers, &keys);
                    if !running || end < added {
                        sum = Accumulator::default();
                        added = start;
                    }
                    for &other in &part[added..end.max(added)] {
                        sum.add(reduce, other, spec.arg.as_ref(), spec.scale);
                    }
                    added = end.max(added);
                    sum.write(reduce, row, spec)?;
                }
            }
        }
    }
    Ok(())
}

#[derive(Default)]
struct Accumulator {
    rows: u64,
    count: u64,
    whole: i128,
    float: f64,
    single: f32,
    best: Option<*mut u8>,
    mean: f64,
    /// The sum of the squared distances from the mean.
    squares: f64,
    trues: u64,
}

impl Accumulator {
    /// # Safety
    /// The row has the field.
    unsafe fn add(&mut self, reduce: Reduce, row: *mut u8, arg: Option<&Field>, scale: u32) {
        self.rows += 1;
        let Some(arg) = arg else { return };
        // SAFETY: promised by the caller.
        unsafe {
            if arg.is_null(row) {
                return;
            }
            self.count += 1;
            match reduce {
                Reduce::CountAll | Reduce::Count => {}
                Reduce::BoolAnd | Reduce::BoolOr => {
                    self.trues += u64::from(*row.add(arg.offset as usize) != 0);
                }
                Reduce::VarSample | Reduce::VarPopulation | Reduce::StddevSample | Reduce::StddevPopulation => {
                    let at = row.add(arg.offset as usize);
                    // A decimal of few digits is kept as a narrow integer.
                    let exact = |whole: i128| crate::kernels::decimal::to_f64(whole, scale);
                    let x = match arg.kind {
                        FieldKind::I8 => exact((*at.cast::<i8>()).into()),
                        FieldKind::I16 => exact((*at.cast::<i16>()).into()),
                        FieldKind::I32 => exact((*at.cast::<i32>()).into()),
                        FieldKind::I64 => exact((*at.cast::<i64>()).into()),
                        FieldKind::I128 | FieldKind::Text => exact(*at.cast::<i128>()),
                        FieldKind::F32 => f64::from(*at.cast::<f32>()),
                        FieldKind::F64 => *at.cast::<f64>(),
                    };
                    let delta = x - self.mean;
                    self.mean += delta / self.count as f64;
                    self.squares += delta * (x - self.mean);
                }
                Reduce::Min | Reduce::Max => {
                    let order = if reduce == Reduce::Min { Ordering::Less } else { Ordering::Greater };
                    if self.best.is_none_or(|b| arg.compare_values(row, b) == order) {
                        self.best = Some(row);
                    }
                }
                Reduce::Sum | Reduce::Avg => {
                    let at = row.add(arg.offset as usize);
                    match arg.kind {
                        FieldKind::I8 => self.whole += i128::from(*at.cast::<i8>()),
                        FieldKind::I16 => self.whole += i128::from(*at.cast::<i16>()),
                        FieldKind::I32 => self.whole += i128::from(*at.cast::<i32>()),
                        FieldKind::I64 => self.whole += i128::from(*at.cast::<i64>()),
                        FieldKind::I128 | FieldKind::Text => self.whole += *at.cast::<i128>(),
                        FieldKind::F32 => {
                            self.single += *at.cast::<f32>();
                            self.float += f64::from(*at.cast::<f32>());
                        }
                        FieldKind::F64 => self.float += *at.cast::<f64>(),
                    }
                }
            }
        }
    }

    /// # Safety
    /// The row has the fields.
    unsafe fn write(&self, reduce: Reduce, row: *mut u8, spec: &WindowSpec) -> Result<(), Trap> {
        let out = &spec.out;
        let some = self.count > 0;
        // SAFETY: promised by the caller.
        unsafe {
            match (reduce, out.kind) {
                (Reduce::CountAll, _) => write(row, out, self.rows, 0, true),
                (Reduce::Count, _) => write(row, out, self.count, 0, true),
                (Reduce::Min | Reduce::Max, _) => match (self.best, &spec.arg) {
                    (Some(best), Some(arg)) => copy(row, out, best, arg),
                    _ => write(row, out, 0, 0, false),
                },
                (Reduce::BoolAnd, _) => write(row, out, u64::from(self.trues == self.count), 0, some),
                (Reduce::BoolOr, _) => write(row, out, u64::from(self.trues > 0), 0, some),
                (Reduce::VarSample | Reduce::VarPopulation | Reduce::StddevSample | Reduce::StddevPopulation, _) => {
                    let sample = matches!(reduce, Reduce::VarSample | Reduce::StddevSample);
                    let among = self.count.saturating_sub(u64::from(sample));
                    let variance = if among > 0 { self.squares / among as f64 } else { 0.0 };
                    let root = matches!(reduce, Reduce::StddevSample | Reduce::StddevPopulation);
                    let v = if root { variance.sqrt() } else { variance };
                    write(row, out, v.to_bits(), 0, among > 0);
                }
                (Reduce::Sum, FieldKind::F32) => write(row, out, u64::from(self.single.to_bits()), 0, some),
                (Reduce::Sum, FieldKind::F64) => write(row, out, self.float.to_bits(), 0, some),
                (Reduce::Sum, FieldKind::I64) => {
                    let v = i64::try_from(self.whole).map_err(|_| Trap::with_detail(TrapCode::Overflow, "sum"))?;
                    write(row, out, v as u64, 0, some);
                }
                (Reduce::Sum, _) => write(row, out, self.whole as u64, (self.whole >> 64) as u64, some),
                (Reduce::Avg, _) => {
                    let is_float = spec.arg.is_some_and(|a| matches!(a.kind, FieldKind::F32 | FieldKind::F64));
                    let total =
                        if is_float { self.float } else { crate::kernels::decimal::to_f64(self.whole, spec.scale) };
                    let v = if some { total / self.count as f64 } else { 0.0 };
                    write(row, out, v.to_bits(), 0, some);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::RowBuffer;
    use crate::pool::QueryMemory;

    fn key(offset: u32) -> SortKey {
        let field = Field::new(offset, FieldKind::I64);
        SortKey { field, descending: false, nulls_first: false, bounds: None }
    }

    /// Where other keys begin.
    fn starts(keys: impl Iterator<Item = i64>) -> Vec<usize> {
        let mut before = None;
        keys.enumerate().filter(|(_, key)| before.replace(*key) != Some(*key)).map(|(i, _)| i).collect()
    }

    /// Rows of (key i64 at 0, value i64 at 8, result i64 at 16, result valid at 24).
    fn run(rows: &[(i64, i64)], func: Func, frame: Frame) -> Vec<Option<i64>> {
        let memory = QueryMemory::unlimited();
        let mut buffer = RowBuffer::new(32, &memory);
        let mut list = vec![];
        for &(key, value) in rows {
            let at = buffer.push().expect("memory");
            // SAFETY: a record has 32 bytes.
            unsafe {
                *at.cast::<i64>() = key;
                *at.add(8).cast::<i64>() = value;
            }
            list.push(at);
        }
        let order = [key(8)];
        let starts = starts(rows.iter().map(|row| row.0));
        let spec = WindowSpec {
            func,
            arg: Some(Field::new(8, FieldKind::I64)),
            scale: 0,
            default: (0, 0, false),
            frame,
            out: Field::nullable(16, FieldKind::I64, 24),
        };
        let pool = WorkerPool::new(1);
        // SAFETY: the records have the fields and are sorted by the tests.
        unsafe {
            evaluate(&list, &starts, &order, &[spec], &memory, &pool, &CancelToken::new()).expect("evaluates");
            list.iter().map(|r| (*r.add(24) != 0).then(|| *r.add(16).cast::<i64>())).collect()
        }
    }

    const ALL: Frame = Frame { unit: Unit::Range, start: Bound::Unbounded, end: Bound::Unbounded };
    const RUNNING: Frame = Frame { unit: Unit::Range, start: Bound::Unbounded, end: Bound::CurrentRow };

    #[test]
    fn ranks_and_lags_stay_in_their_partition() {
        let rows = [(1, 5), (1, 5), (1, 7), (2, 1)];
        let some = |v: &[i64]| v.iter().map(|x| Some(*x)).collect::<Vec<_>>();
        assert_eq!(run(&rows, Func::RowNumber, ALL), some(&[1, 2, 3, 1]));
        assert_eq!(run(&rows, Func::Rank, ALL), some(&[1, 1, 3, 1]));
        assert_eq!(run(&rows, Func::DenseRank, ALL), some(&[1, 1, 2, 1]));
        assert_eq!(run(&rows, Func::Lag(1), ALL), [None, Some(5), Some(5), None]);
        assert_eq!(run(&rows, Func::Lag(-1), ALL), [Some(5), Some(7), None, None]);
        assert_eq!(run(&rows, Func::Ntile(2), ALL), some(&[1, 1, 2, 1]));
    }

    /// The texts of rows (key i64 at 0, view of a text at 8, whether it is not NULL at 24; the result at 32, valid at 48).
    fn joined_texts(rows: &[(i64, Option<&str>)], frame: Frame) -> Vec<Option<String>> {
        let memory = QueryMemory::unlimited();
        let mut buffer = RowBuffer::new(56, &memory);
        let mut arena = TextArena::new(&memory);
        let mut list = vec![];
        for &(key, text) in rows {
            let at = buffer.push().expect("memory");
            let (lo, hi) = arena.copy(text.unwrap_or_default().as_bytes()).expect("memory").to_words();
            // SAFETY: a record has 56 bytes.
            unsafe {
                *at.cast::<i64>() = key;
                *at.add(8).cast::<[u64; 2]>() = [lo, hi];
                *at.add(24) = u8::from(text.is_some());
            }
            list.push(at);
        }
        let starts = starts(rows.iter().map(|row| row.0));
        let separator = arena.copy(b", and then ").expect("memory").to_words();
        let spec = WindowSpec {
            func: Func::Concat,
            arg: Some(Field::nullable(8, FieldKind::Text, 24)),
            scale: 0,
            default: (separator.0, separator.1, true),
            frame,
            out: Field::nullable(32, FieldKind::Text, 48),
        };
        let pool = WorkerPool::new(1);
        // SAFETY: the records have the fields and are sorted by the tests; the texts live as long as the arenas.
        unsafe {
            let cancel = CancelToken::new();
            let _texts = evaluate(&list, &starts, &[], &[spec], &memory, &pool, &cancel).expect("evaluates");
            let text = |r: &*mut u8| {
                let [lo, hi] = *r.add(32).cast::<[u64; 2]>();
                (*r.add(48) != 0).then(|| TextView::from_words(lo, hi).as_str().to_string())
            };
            list.iter().map(text).collect()
        }
    }

    #[test]
    fn texts_are_joined_over_their_frames() {
        let rows = [(1, Some("a")), (1, None), (1, Some("bcd")), (2, None), (3, Some(""))];
        let some = |t: &str| Some(t.to_string());
        let all = some("a, and then bcd");
        assert_eq!(joined_texts(&rows, ALL), [all.clone(), all.clone(), all, None, some("")]);
        let two = Frame { unit: Unit::Rows, start: Bound::Offset(-1), end: Bound::CurrentRow };
        assert_eq!(joined_texts(&rows, two), [some("a"), some("a"), some("bcd"), None, some("")]);
    }

    #[test]
    fn reducers_follow_their_frames() {
        let rows = [(1, 5), (1, 5), (1, 7), (2, 1)];
        let some = |v: &[i64]| v.iter().map(|x| Some(*x)).collect::<Vec<_>>();
        assert_eq!(run(&rows, Func::Reduce(Reduce::Sum), ALL), some(&[17, 17, 17, 1]));
        assert_eq!(run(&rows, Func::Reduce(Reduce::Sum), RUNNING), some(&[10, 10, 17, 1]));
        let rows_frame = Frame { unit: Unit::Rows, start: Bound::Offset(-1), end: Bound::CurrentRow };
        assert_eq!(run(&rows, Func::Reduce(Reduce::Sum), rows_frame), some(&[5, 10, 12, 1]));
        assert_eq!(run(&rows, Func::Reduce(Reduce::Max), RUNNING), some(&[5, 5, 7, 1]));
        let ahead = Frame { unit: Unit::Rows, start: Bound::Offset(1), end: Bound::Offset(2) };
        assert_eq!(run(&rows, Func::Reduce(Reduce::Sum), ahead), [Some(12), Some(7), None, None]);
        assert_eq!(run(&rows, Func::LastValue, RUNNING), some(&[5, 5, 7, 1]));
        let near = Frame { unit: Unit::Range, start: Bound::Offset(-2), end: Bound::Offset(1) };
        assert_eq!(run(&rows, Func::Reduce(Reduce::Sum), near), some(&[10, 10, 17, 1]));
        let beyond = Frame { unit: Unit::Range, start: Bound::Offset(1), end: Bound::Offset(2) };
        assert_eq!(run(&rows, Func::Reduce(Reduce::Sum), beyond), [Some(7), Some(7), None, None]);
        let group_before = Frame { unit: Unit::Groups, start: Bound::Offset(-1), end: Bound::Offset(-1) };
        assert_eq!(run(&rows, Func::Reduce(Reduce::Sum), group_before), [None, None, Some(10), None]);
        let two_groups = Frame { unit: Unit::Groups, start: Bound::CurrentRow, end: Bound::Offset(1) };
        assert_eq!(run(&rows, Func::Reduce(Reduce::CountAll), two_groups), some(&[3, 3, 1, 1]));
    }
}
