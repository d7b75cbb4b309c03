//! Loading: columns of several tables at once, by several threads.
//!
//! What holds:
//! - Tasks are chunks, a row group of a column each, where a column is decoded by chunks, else whole columns. What takes long
//!   begins first, so that no thread is left alone with it.
//! - A column that cannot be decoded by chunks as it was assumed goes again: without assumptions, then as a whole.

use std::cmp::Reverse;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use runtime::column::{Column, PartDone, Parts, Share};

use crate::error::{Error, Result};
use crate::ingest::parquet::{self, Codes, Direct, Refused};
use crate::ingest::{Room, Source, Table, column_kind};

/// A column that is wanted and not there yet.
#[derive(Clone, Copy)]
struct Missing<'a> {
    table: &'a Table,
    column: usize,
    /// How it is read.
    try_as: Attempt,
}

#[derive(Clone, Copy, PartialEq)]
enum Attempt {
    /// By chunks, in the bounds that the file promises.
    Promised,
    /// By chunks, whatever its values are.
    Wide,
    /// By a reader of whole columns.
    Whole,
}

/// Loads columns of several tables.
pub(crate) fn load_all(wanted: &[(&Table, &[usize])], threads: usize) -> Result<()> {
    let mut missing: Vec<Missing<'_>> = vec![];
    for (table, columns) in wanted {
        for &column in columns.iter().filter(|i| table.loaded[**i].get().is_none()) {
            if !missing.iter().any(|m| std::ptr::eq(m.table, *table) && m.column == column) {
                missing.push(Missing { table, column, try_as: Attempt::Promised });
            }
        }
    }
    while !missing.is_empty() {
        missing = load_once(missing, threads)?;
    }
    Ok(())
}

/// A column that is decoded by chunks.
struct InParts<'a> {
    missing: Missing<'a>,
    parquet: &'a parquet::File,
    file: File,
    codes: Codes,
    rows: Vec<usize>,
    parts: Parts,
}

/// What becomes of it.
#[derive(Default)]
struct Outcome {
    done: Vec<Option<PartDone>>,
    again: Option<Attempt>,
}

/// Loads columns as they are to be tried; those that are to be tried otherwise.
fn load_once<'a>(missing: Vec<Missing<'a>>, threads: usize) -> Result<Vec<Missing<'a>>> {
    let begun: Vec<Mutex<Option<InParts<'_>>>> = missing.iter().map(|_| Mutex::new(None)).collect();
    in_parallel(missing.len(), threads, |i| {
        *lock(&begun[i]) = begin(missing[i])?;
        Ok(())
    })?;
    let mut whole = vec![];
    let mut in_parts = vec![];
    for (missing, begun) in missing.into_iter().zip(begun) {
        match begun.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(begun) => in_parts.push(begun),
            None => whole.push(missing),
        }
    }
    let outcomes = decode(&mut in_parts, &whole, threads)?;
    let finished: Vec<_> = in_parts.into_iter().zip(outcomes).map(|pair| Mutex::new(Some(pair))).collect();
    let again = Mutex::new(vec![]);
    in_parallel(finished.len(), threads, |i| {
        let Some((column, outcome)) = lock(&finished[i]).take() else { return Ok(()) };
        match outcome.again {
            Some(try_as) => lock(&again).push(Missing { try_as, ..column.missing }),
            None => finish(column, outcome)?,
        }
        Ok(())
    })?;
    Ok(again.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins a column that is decoded by chunks; `None` where it is not.
fn begin(missing: Missing<'_>) -> Result<Option<InParts<'_>>> {
    let Missing { table, column, try_as } = missing;
    let (Source::Parquet(parquet), Attempt::Promised | Attempt::Wide) = (&table.source, try_as) else {
        return Ok(None);
    };
    let def = &table.columns[column];
    let ty = def.ty.ty;
    let file = parquet.reopen(&table.origin)?;
    let wrong = |message: String| Error::input_column(&table.origin, &def.name, message);
    let Some(rows) = parquet.group_rows() else { return Ok(None) };
    let direct = match try_as {
        Attempt::Wide => Some(parquet::File::widest(ty)),
        _ => parquet.direct(&file, column, ty).map_err(wrong)?,
    };
    let Some(Direct { assumed, codes }) = direct else { return Ok(None) };
    let parts = Parts::new(column_kind(ty), table.rows, assumed);
    let parts = parts.ok_or_else(|| wrong(format!("there is not enough memory for {} rows", table.rows)))?;
    Ok(Some(InParts { missing, parquet, file, codes, rows, parts }))
}

/// Decodes chunks, and loads whole columns beside them.
fn decode(in_parts: &mut [InParts<'_>], whole: &[Missing<'_>], threads: usize) -> Result<Vec<Outcome>> {
    enum Task<'a> {
        Whole(Missing<'a>),
        Chunk(usize, usize),
    }
    let mut tasks: Vec<(u64, Task<'_>)> =
        whole.iter().map(|missing| (missing.table.bytes_to_decode(missing.column), Task::Whole(*missing))).collect();
    for (c, column) in in_parts.iter().enumerate() {
        let bytes = |group| column.parquet.group_bytes(column.missing.column, group);
        tasks.extend((0..column.rows.len()).map(|group| (bytes(group), Task::Chunk(c, group))));
    }
    tasks.sort_by_key(|(bytes, _)| Reverse(*bytes));
    let mut outcomes = vec![];
    let mut columns = vec![];
    for column in in_parts {
        let InParts { missing, parquet, file, codes, rows, parts } = column;
        let shares: Vec<Mutex<Option<Share<'_>>>> =
            parts.shares(rows).into_iter().map(|share| Mutex::new(Some(share))).collect();
        let done = shares.iter().map(|_| None).collect();
        outcomes.push(Mutex::new(Outcome { done, again: None }));
        columns.push((*missing, *parquet, &*file, &*codes, shares));
    }
    in_parallel_with(tasks.len(), threads, Room::default, |room, i| match tasks[i].1 {
        Task::Whole(Missing { table, column, .. }) => table.load_one(column, room).map(|_| ()),
        Task::Chunk(c, group) => {
            let (Missing { table, column, try_as }, parquet, file, codes, shares) = &columns[c];
            if lock(&outcomes[c]).again.is_some() {
                return Ok(());
            }
            let Some(share) = lock(&shares[group]).take() else { return Ok(()) };
            let decoded = parquet.decode(file, (*column, group), share, codes, room);
            let mut outcome = lock(&outcomes[c]);
            match decoded {
                Ok(part) => outcome.done[group] = Some(part),
                Err(Refused::Assumption) if *try_as == Attempt::Promised => {
                    outcome.again = outcome.again.or(Some(Attempt::Wide));
                }
                Err(Refused::Assumption | Refused::Unknown) => outcome.again = Some(Attempt::Whole),
                Err(Refused::Wrong(message)) => {
                    return Err(Error::input_column(&table.origin, &table.columns[*column].name, message));
                }
            }
            Ok(())
        }
    })?;
    Ok(outcomes.into_iter().map(|o| o.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
}

/// Puts a column in its place.
fn finish(column: InParts<'_>, outcome: Outcome) -> Result<()> {
    let Missing { table, column: i, .. } = column.missing;
    let done: Option<Vec<PartDone>> = outcome.done.into_iter().collect();
    let finished: Option<Column> = done.and_then(|done| column.parts.finish(done));
    let Some(finished) = finished else {
        return Err(Error::Bug(format!("a part of column {} is missing", table.columns[i].name)));
    };
    table.keep(i, finished);
    Ok(())
}

/// Runs tasks `0..n`, as many at a time as there are threads; the first error in task order.
pub(crate) fn in_parallel(n: usize, threads: usize, task: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    in_parallel_with(n, threads, || (), |(), i| task(i))
}

/// As [`in_parallel`]; each thread has something of its own for its tasks.
fn in_parallel_with<T>(
    n: usize,
    threads: usize,
    own: impl Fn() -> T + Sync,
    task: impl Fn(&mut T, usize) -> Result<()> + Sync,
) -> Result<()> {
    if n <= 1 || threads <= 1 {
        let mut own = own();
        return (0..n).try_for_each(|i| task(&mut own, i));
    }
    let next = AtomicUsize::new(0);
    let first: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let work = || {
        let mut own = own();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= n {
                break;
            }
            if let Err(e) = task(&mut own, i) {
                let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                if first.as_ref().is_none_or(|(j, _)| i < *j) {
                    *first = Some((i, e));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(n) {
            scope.spawn(work);
        }
        work();
    });
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, e)) => Err(e),
        None => Ok(()),
    }
}
