//! Keys of integers, one field of many rows at a time: what kind a field is of is asked once for all of them.

use super::{SortKey, Span};
use crate::buffer::{Field, FieldKind};

/// Rows that are read for one field after another: they stay in a core's first cache.
pub(super) const BLOCK_ROWS: usize = 512;

/// Whether a field holds an integer of at most 64 bits.
pub(super) fn is_integer(kind: FieldKind) -> bool {
    matches!(kind, FieldKind::I8 | FieldKind::I16 | FieldKind::I32 | FieldKind::I64)
}

/// All integers of a kind; none for other kinds.
pub(super) fn whole_span(kind: FieldKind) -> Option<Span> {
    let (min, max) = match kind {
        FieldKind::I8 => (i8::MIN.into(), i8::MAX.into()),
        FieldKind::I16 => (i16::MIN.into(), i16::MAX.into()),
        FieldKind::I32 => (i32::MIN.into(), i32::MAX.into()),
        FieldKind::I64 => (i64::MIN, i64::MAX),
        FieldKind::I128 | FieldKind::F32 | FieldKind::F64 | FieldKind::Text => return None,
    };
    Some(Span { min, max })
}

/// The least and the greatest value of a field; none where all are NULL, and for what is no integer.
///
/// # Safety
/// All rows have the field.
pub(super) unsafe fn span(field: Field, rows: &[*mut u8]) -> Option<Span> {
    let (mut min, mut max) = (i64::MAX, i64::MIN);
    // SAFETY: promised by the caller.
    unsafe {
        each_value(field, rows, |_, value| {
            if let Some(value) = value {
                (min, max) = (min.min(value), max.max(value));
            }
        });
    }
    (min <= max).then_some(Span { min, max })
}

/// The normalized keys of rows, in one word each: what [`super::Normalizer::key`] has in its upper half.
///
/// # Safety
/// All rows have the keys' fields, which are integers in these spans; the keys take at most 64 bits.
pub(super) unsafe fn words(keys: &[SortKey], spans: &[Span], rows: &[*mut u8], words: &mut [u64]) {
    assert_eq!(rows.len(), words.len(), "a word for each row");
    words.fill(0);
    let mut left = 64;
    for (key, span) in keys.iter().zip(spans) {
        let flag = key.field.valid.map(|_| {
            left -= 1;
            left
        });
        left -= span.bits();
        let turned = if key.descending { u64::MAX >> (64 - span.bits()) } else { 0 };
        // SAFETY: promised by the caller.
        unsafe {
            each_value(key.field, rows, |i, value| {
                let stands = flag.map_or(0, |at| u64::from(value.is_some() == key.nulls_first) << at);
                let above = value.map_or(0, |v| (v.wrapping_sub(span.min).cast_unsigned() ^ turned) << left);
                words[i] |= stands | above;
            });
        }
    }
}

/// Calls `f` with the number of each row and its value, `None` for NULL; not at all for what is no integer.
///
/// # Safety
/// All rows have the field.
unsafe fn each_value(field: Field, rows: &[*mut u8], f: impl FnMut(usize, Option<i64>)) {
    /// # Safety
    /// All rows have the field, of this type.
    unsafe fn of<T: Copy + Into<i64>>(field: Field, rows: &[*mut u8], mut f: impl FnMut(usize, Option<i64>)) {
        for (i, &row) in rows.iter().enumerate() {
            // SAFETY: promised by the caller.
            let value = unsafe { (!field.is_null(row)).then(|| *row.add(field.offset as usize).cast::<T>()) };
            f(i, value.map(Into::into));
        }
    }
    // SAFETY: promised by the caller.
    unsafe {
        match field.kind {
            FieldKind::I8 => of::<i8>(field, rows, f),
            FieldKind::I16 => of::<i16>(field, rows, f),
            FieldKind::I32 => of::<i32>(field, rows, f),
            FieldKind::I64 => of::<i64>(field, rows, f),
            FieldKind::I128 | FieldKind::F32 | FieldKind::F64 | FieldKind::Text => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Normalizer;
    use super::*;

    /// A row: an integer of each kind, and a byte that says whether there is one.
    #[repr(C)]
    struct Row {
        long: i64,
        int: i32,
        short: i16,
        byte: i8,
        valid: u8,
    }

    fn key(offset: u32, kind: FieldKind, nullable: bool, descending: bool, nulls_first: bool) -> SortKey {
        let valid = nullable.then_some(15);
        SortKey { field: Field { valid, ..Field::new(offset, kind) }, descending, nulls_first, bounds: None }
    }

    #[test]
    fn words_are_the_keys_of_single_rows() {
        let mut rows: Vec<Row> = (0..1500i64)
            .map(|i| {
                let n = (i * 7919) % 1009;
                Row {
                    long: n - 500,
                    int: (n * 3) as i32,
                    short: n as i16 - 77,
                    byte: n as i8,
                    valid: u8::from(n % 5 > 0),
                }
            })
            .collect();
        let rows: Vec<*mut u8> = rows.iter_mut().map(|row| (&raw mut *row).cast()).collect();
        for flags in 0..8 {
            let [nullable, descending, nulls_first] = [1, 2, 4].map(|bit| flags & bit != 0);
            let keys = [
                key(14, FieldKind::I8, nullable, descending, nulls_first),
                key(0, FieldKind::I64, nullable, !descending, nulls_first),
                key(12, FieldKind::I16, false, descending, nulls_first),
                key(8, FieldKind::I32, nullable, descending, !nulls_first),
            ];
            // SAFETY: the rows have the keys' fields.
            let spans = keys.map(|key| unsafe { span(key.field, &rows) });
            let normalizer = Normalizer::with_spans(&keys, spans.to_vec());
            let spans = normalizer.integer_spans().expect("integers of few bits");
            let mut found = vec![0; rows.len()];
            // SAFETY: as above; the spans are those of the rows.
            let expected: Vec<u64> = rows.iter().map(|&row| (unsafe { normalizer.key(row) } >> 64) as u64).collect();
            // SAFETY: as above.
            unsafe { words(&keys, &spans, &rows, &mut found) };
            assert_eq!(found, expected, "{flags}");
        }
    }

    #[test]
    fn without_spans_a_kind_has_its_whole_width() {
        for kind in [FieldKind::I8, FieldKind::I16, FieldKind::I32, FieldKind::I64] {
            let keys = [key(0, kind, false, false, false)];
            let mut numbers = [i64::MIN, -1, 0, 1, i64::MAX, 0x80, 0x8000, 0x8000_0000];
            let rows: Vec<*mut u8> = numbers.iter_mut().map(|n| (&raw mut *n).cast()).collect();
            let normalizer = Normalizer::new(&keys);
            let spans = normalizer.integer_spans().expect("one integer");
            let mut found = [0; 8];
            // SAFETY: the rows have the field, and every integer of the kind is in the span.
            unsafe { words(&keys, &spans, &rows, &mut found) };
            for (word, row) in found.iter().zip(&rows) {
                // SAFETY: as above.
                assert_eq!(u128::from(*word) << 64, unsafe { normalizer.key(*row) }, "{kind:?}");
            }
        }
        assert_eq!(Normalizer::new(&[key(0, FieldKind::F64, false, false, false)]).integer_spans(), None);
    }
}
