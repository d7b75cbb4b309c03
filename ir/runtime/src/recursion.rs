//! All rows of a recursive query: what each iteration adds to.
//!
//! What holds:
//! - Rows are copied in, their texts too, so that what an iteration was made in can be freed before the next one.
//! - They stand in the order in which they came, at addresses that never change: an iteration's new rows are read where they
//!   stand.
//! - Of a set, rows carry their hash in bytes 0..8; equal rows (NULL equals NULL, NaN itself) come in once.

use std::sync::Arc;

use crate::buffer::{Field, FieldKind, RowBuffer, RowList, TextArena, hash_keys};
use crate::column::TextView;
use crate::group_table::GroupTable;
use crate::pool::{MemoryLimitError, QueryMemory};
use crate::scheduler::MORSEL_ROWS;
use crate::trap::{CancelToken, Trap};

enum Rows {
    All(RowBuffer),
    Distinct(GroupTable),
}

/// Rows that only grow.
pub struct Recursion {
    rows: Rows,
    fields: Vec<Field>,
    texts: TextArena,
    row_size: usize,
}

impl Recursion {
    /// No rows yet, of these fields and `row_size` bytes; if `distinct`, only rows that are not there are added, and their first
    /// 8 bytes are the hash's.
    ///
    /// # Errors
    /// [`MemoryLimitError`].
    pub fn new(
        fields: Vec<Field>,
        row_size: usize,
        distinct: bool,
        memory: &Arc<QueryMemory>,
    ) -> Result<Self, MemoryLimitError> {
        let rows = match distinct {
            true => Rows::Distinct(GroupTable::new(row_size, memory)?),
            false => Rows::All(RowBuffer::new(row_size, memory)),
        };
        Ok(Self { rows, fields, texts: TextArena::new(memory), row_size })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        match &self.rows {
            Rows::All(rows) => rows.len(),
            Rows::Distinct(table) => table.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds rows, and gives a list of those that were added. They belong to `self`: the list is read while `self` lives.
    ///
    /// # Errors
    /// The memory limit; cancellation.
    ///
    /// # Safety
    /// `from` holds rows of these fields and this size, texts alive.
    pub unsafe fn add(&mut self, from: &RowList, cancel: &CancelToken) -> Result<RowList, Trap> {
        let mut added = Vec::with_capacity(from.len());
        for rows in from.rows().chunks(MORSEL_ROWS) {
            cancel.check()?;
            for &row in rows {
                // SAFETY: promised by the caller.
                added.extend(unsafe { self.add_row(row) }?);
            }
        }
        Ok(RowList::from_parts(added, vec![], self.row_size))
    }

    /// # Safety
    /// As for [`Recursion::add`].
    unsafe fn add_row(&mut self, row: *const u8) -> Result<Option<*mut u8>, MemoryLimitError> {
        // SAFETY: promised by the caller; both rows have `row_size` bytes, and the new one is this object's own.
        unsafe {
            let (copy, hash) = match &mut self.rows {
                Rows::All(rows) => (rows.append()?, None),
                Rows::Distinct(table) => {
                    let hash = hash_keys(&self.fields, row);
                    if table.find(&self.fields, hash, row).is_some() {
                        return Ok(None);
                    }
                    (table.insert(hash)?, Some(hash))
                }
            };
            copy.copy_from_nonoverlapping(row, self.row_size);
            if let Some(hash) = hash {
                copy.cast::<u64>().write(hash);
            }
            for field in self.fields.iter().filter(|f| f.kind == FieldKind::Text) {
                if !field.is_null(copy) {
                    let text = copy.add(field.offset as usize).cast::<TextView>();
                    let kept = self.texts.copy((*text).as_bytes())?;
                    text.write(kept);
                }
            }
            Ok(Some(copy))
        }
    }

    /// All rows in order, and what holds their texts.
    pub fn into_rows(self) -> (RowList, TextArena) {
        let rows = match self.rows {
            Rows::All(rows) => RowList::new(vec![rows]),
            Rows::Distinct(table) => table.into_rows(),
        };
        (rows, self.texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of a hash, a nullable integer and a text.
    const FIELDS: [Field; 2] = [
        Field { offset: 8, kind: FieldKind::I64, valid: Some(32) },
        Field { offset: 16, kind: FieldKind::Text, valid: None },
    ];
    const SIZE: usize = 48;

    fn rows(values: &[(Option<i64>, &str)], memory: &Arc<QueryMemory>, texts: &mut TextArena) -> RowList {
        let mut buffer = RowBuffer::new(SIZE, memory);
        for (number, text) in values {
            let row = buffer.push().expect("no limit");
            let text = texts.copy(text.as_bytes()).expect("no limit");
            // SAFETY: a fresh row of 48 bytes, fields aligned.
            unsafe {
                row.add(8).cast::<i64>().write(number.unwrap_or(7));
                row.add(16).cast::<TextView>().write(text);
                row.add(32).write(number.is_some().into());
            }
        }
        RowList::new(vec![buffer])
    }

    fn read(list: &RowList) -> Vec<(Option<i64>, String)> {
        let one = |row: &*mut u8| {
            // SAFETY: rows as made above, whose texts are alive.
            unsafe {
                let number = (row.add(32).read() == 1).then(|| row.add(8).cast::<i64>().read());
                let text = String::from_utf8_lossy((*row.add(16).cast::<TextView>()).as_bytes()).into_owned();
                (number, text)
            }
        };
        list.rows().iter().map(one).collect()
    }

    #[test]
    fn rows_are_kept_with_their_texts_and_a_set_keeps_them_once() {
        let memory = QueryMemory::unlimited();
        let long = "a text of more than twelve bytes";
        let first = [(Some(1), long), (None, long), (None, long)];
        let second = [(Some(1), long), (Some(2), long)];
        for (distinct, added) in [(false, [3, 2]), (true, [2, 1])] {
            let mut all = Recursion::new(FIELDS.to_vec(), SIZE, distinct, &memory).expect("no limit");
            for (values, added) in [(&first[..], added[0]), (&second[..], added[1])] {
                let mut texts = TextArena::new(&memory);
                let from = rows(values, &memory, &mut texts);
                // SAFETY: rows of these fields, whose texts are alive.
                let list = unsafe { all.add(&from, &CancelToken::new()) }.expect("no limit");
                assert_eq!(list.len(), added);
                drop((from, texts));
                assert!(read(&list).iter().all(|(_, text)| text == long));
            }
            let (list, _texts) = all.into_rows();
            let mut expected: Vec<_> = first.iter().chain(&second).map(|(n, t)| (*n, t.to_string())).collect();
            if distinct {
                let mut seen = vec![];
                expected.retain(|row| {
                    let new = !seen.contains(row);
                    seen.push(row.clone());
                    new
                });
            }
            assert_eq!(read(&list), expected);
        }
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_full_pool_and_a_cancellation_are_errors() {
        let memory = QueryMemory::unlimited();
        let mut texts = TextArena::new(&memory);
        let from = rows(&[(Some(1), "x"); 4000], &memory, &mut texts);
        let small = QueryMemory::new(&crate::pool::MemoryPool::new(crate::pool::SMALLEST_BLOCK * 2), usize::MAX);
        let mut all = Recursion::new(FIELDS.to_vec(), SIZE, false, &small).expect("nothing is allocated");
        // SAFETY: rows of these fields, whose texts are alive.
        assert!(unsafe { all.add(&from, &CancelToken::new()) }.is_err());
        let cancel = CancelToken::new();
        cancel.cancel();
        let mut all = Recursion::new(FIELDS.to_vec(), SIZE, true, &memory).expect("no limit");
        // SAFETY: as above.
        assert!(unsafe { all.add(&from, &cancel) }.is_err());
        assert!(all.is_empty());
    }
}
