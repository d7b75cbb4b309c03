use super::*;
use crate::scheduler::MORSEL_ROWS;
use proptest::prelude::*;

fn validity<T>(values: &[Option<T>]) -> Validity {
    Some(values.iter().map(|v| v.is_some().into()).collect())
}

fn lanes<T: Copy + Default>(values: &[Option<T>]) -> Vec<T> {
    values.iter().map(|v| v.unwrap_or_default()).collect()
}

proptest! {
    #[test]
    fn views_behave_as_their_texts(
        texts in prop::collection::vec("[ab\u{0}é]{0,20}", 0..12),
    ) {
        let mut heap = TextHeap::default();
        let views: Vec<TextView> = texts.iter().map(|t| heap.store(t.as_bytes())).collect();
        for (a, x) in views.iter().zip(&texts) {
            // SAFETY: the heap lives.
            prop_assert_eq!(unsafe { a.as_str() }, x);
            for (b, y) in views.iter().zip(&texts) {
                prop_assert_eq!(a == b, x == y);
                prop_assert_eq!(a.cmp(b), x.as_bytes().cmp(y.as_bytes()));
                prop_assert!(x != y || hash::text_word(a) == hash::text_word(b));
                let ((al, ah), (bl, bh)) = (a.to_words(), b.to_words());
                let words = (al as i64, ah as i64, bl as i64, bh as i64);
                // SAFETY: the heap lives.
                unsafe {
                    prop_assert_eq!(text_equal(words.0, words.1, words.2, words.3) != 0, x == y);
                    let order = text_compare(words.0, words.1, words.2, words.3);
                    prop_assert_eq!(order, x.as_bytes().cmp(y.as_bytes()) as i32);
                }
            }
        }
    }

    #[test]
    fn integers_come_back(
        values in prop::collection::vec(
            prop::option::weighted(0.8, prop_oneof![
                -100i64..100, 1_000_000i64..1_000_100, Just(i64::MIN), Just(i64::MAX), any::<i64>()]),
            0..50),
    ) {
        for values in [&values[..], &values[..values.len().min(2)]] {
            let column = Column::from_i64(ColumnKind::I64, &lanes(values), validity(values));
            let plain = column.to_plain();
            prop_assert_eq!(plain.encoding(), Encoding::Plain);
            for (i, &value) in values.iter().enumerate() {
                prop_assert_eq!(column.get_i64(i), value);
                prop_assert_eq!(plain.get_i64(i), value);
            }
            let int = |v: Option<i64>| v.map(|v| Bound::Int(v.into()));
            let stats = column.stats();
            prop_assert_eq!(&stats.min, &int(values.iter().flatten().copied().min()));
            prop_assert_eq!(&stats.max, &int(values.iter().flatten().copied().max()));
            prop_assert_eq!(stats.nulls, values.iter().filter(|v| v.is_none()).count());
            prop_assert_eq!(column.validity().is_some(), stats.nulls > 0);
            let distinct: std::collections::HashSet<_> = values.iter().flatten().collect();
            // An estimate: two of 2^12 registers may be shared by chance.
            prop_assert!(stats.distinct.abs_diff(distinct.len() as u64) <= 2 + distinct.len() as u64 / 8);
        }
    }

    #[test]
    fn texts_come_back(
        values in prop::collection::vec(prop::option::weighted(0.8, "[a-c]{0,15}"), 0..120),
    ) {
        let column = Column::from_text(values.iter().map(Option::as_deref));
        let plain = column.to_plain();
        for (i, value) in values.iter().enumerate() {
            prop_assert_eq!(column.get_text(i), value.as_deref());
            prop_assert_eq!(plain.get_text(i), value.as_deref());
        }
        let distinct: std::collections::BTreeSet<_> = values.iter().flatten().collect();
        let text = |v: Option<&&String>| v.map(|v| Bound::Text(v.as_str().into()));
        prop_assert_eq!(&column.stats().min, &text(distinct.first()));
        prop_assert_eq!(&column.stats().max, &text(distinct.last()));
        prop_assert_eq!(column.stats().distinct, distinct.len() as u64);
        if let Some(dictionary) = column.dictionary() {
            prop_assert!(dictionary.views().is_sorted());
            prop_assert_eq!(dictionary.find("zz"), Err(dictionary.len()));
            for code in 0..dictionary.len() {
                prop_assert_eq!(dictionary.find(dictionary.get(code)), Ok(code));
            }
        }
    }
}

#[test]
fn the_narrowest_width_is_chosen() {
    let width = |values: &[i64]| {
        let column = Column::from_i64(ColumnKind::I64, values, None);
        (column.physical(), column.encoding())
    };
    let narrowed = |base| Encoding::Narrowed { base };
    assert_eq!(width(&[]), (PhysicalType::I8, narrowed(0)));
    assert_eq!(width(&[-128, 127]), (PhysicalType::I8, narrowed(0)));
    assert_eq!(width(&[1000, 1255]), (PhysicalType::I8, narrowed(1128)));
    assert_eq!(width(&[1000, 1256]), (PhysicalType::I16, narrowed(0)));
    assert_eq!(width(&[0, 1 << 31]), (PhysicalType::I32, narrowed(1 << 31)));
    assert_eq!(width(&[0, 1 << 32]), (PhysicalType::I64, Encoding::Plain));
    assert_eq!(width(&[i64::MAX - 1, i64::MAX]), (PhysicalType::I64, Encoding::Plain));
    let dates = Column::from_i32(ColumnKind::Date, &[8035, 10_591], None);
    assert_eq!(dates.physical(), PhysicalType::I16);
    let small = Column::from_i32(ColumnKind::I32, &[i32::MIN, i32::MAX], None);
    assert_eq!(small.encoding(), Encoding::Plain);
    assert_eq!(small.get_i64(0), Some(i64::from(i32::MIN)));
}

#[test]
fn decimals_beyond_64_bits_stay_wide_and_others_do_not() {
    let kind = ColumnKind::Decimal { precision: 38, scale: 2 };
    let big = 10i128.pow(30);
    let wide = Column::from_i128(kind, &[big, -big, 5], Some(vec![1, 1, 0]));
    assert_eq!(wide.physical(), PhysicalType::I128);
    assert_eq!(wide.get_i128(1), Some(-big));
    assert_eq!(wide.get_i128(2), None);
    let narrow = Column::from_i128(kind, &[1 << 40, 5], None);
    assert_eq!(narrow.physical(), PhysicalType::I64);
    assert_eq!(narrow.encoding(), Encoding::Narrowed { base: 0 });
    assert_eq!(narrow.get_i128(0), Some(1 << 40));
    assert_eq!(narrow.to_plain().physical(), PhysicalType::I128);
}

#[test]
fn floats_and_booleans_come_back_and_nan_is_the_greatest() {
    let values = [1.5, f64::NAN, -0.0, f64::INFINITY];
    let column = Column::from_f64(&values, Some(vec![1, 1, 1, 0]));
    assert_eq!(column.get_f64(0), Some(1.5));
    assert_eq!(column.get_f64(3), None);
    assert_eq!(column.stats().min, Some(Bound::Float(-0.0)));
    assert!(matches!(column.stats().max, Some(Bound::Float(v)) if v.is_nan()));
    assert_eq!(column.stats().distinct, 3);
    let column = Column::from_f32(&[0.25, 7.0], None);
    assert_eq!(column.get_f64(1), Some(7.0));
    let column = Column::from_bool(&[true, false], Some(vec![1, 0]));
    assert_eq!((column.get_bool(0), column.get_bool(1)), (Some(true), None));
    assert_eq!(column.physical(), PhysicalType::I8);
}

#[test]
fn many_distinct_texts_end_a_dictionary_and_estimates_are_close() {
    let texts: Vec<String> = (0..200_000).map(|i| format!("text number {i}")).collect();
    let column = Column::from_text(texts.iter().map(|t| Some(t.as_str())));
    assert_eq!(column.physical(), PhysicalType::Text);
    assert!(column.stats().distinct.abs_diff(200_000) < 10_000);
    assert_eq!(column.get_text(123_456), Some("text number 123456"));
    assert_eq!(column.zones().len(), 4);
    let few = Column::from_text(texts.iter().map(|t| Some(&t[..13])));
    assert_eq!(few.physical(), PhysicalType::Code8);
    let middling = Column::from_text((0..200_000).map(|i| Some(texts[i % 1000].as_str())));
    assert_eq!(middling.physical(), PhysicalType::Code16);
    assert_eq!(middling.get_text(150_999), Some("text number 999"));
}

#[test]
fn zones_cover_their_rows() {
    let values: Vec<i64> = (0..150_000).collect();
    let column = Column::from_i64(ColumnKind::I64, &values, None);
    let zones = column.zones();
    assert_eq!(zones.len(), 3);
    assert_eq!(zones[1].min, Some(Bound::Int(MORSEL_ROWS as i128)));
    assert_eq!(zones[2].max, Some(Bound::Int(149_999)));
    assert_eq!(column.stats().distinct, 150_000);
    assert!(column.stats().distinct_exact);
    let spread: Vec<i64> = values.iter().map(|v| v * 1_000_003).collect();
    let distinct = Column::from_i64(ColumnKind::I64, &spread, None).stats().distinct;
    assert!(distinct.abs_diff(150_000) < 7_500, "{distinct}");
}

#[test]
fn keys_become_the_columns_of_their_texts() {
    let texts: Vec<String> = (0..100_000).map(|i| format!("text {i}")).collect();
    let values: Vec<Option<&str>> = texts.iter().map(|t| Some(t.as_str())).chain([None]).collect();
    // Few texts; and so many that the dictionary is given up in the middle, in the middle of a call, too.
    for (distinct, cut) in [(7, 1000), (100_000, 150_000), (100_000, 10)] {
        let keys: Vec<Option<usize>> = (0..200_000)
            .map(|i| if i % 11 == 0 { None } else { Some(if i % 13 == 0 { 100_000 } else { i * 7 % distinct }) })
            .collect();
        let mut builder = TextBuilder::new();
        for part in keys.chunks(cut) {
            builder.push_keys(&values, part.iter().copied());
        }
        let made = builder.finish();
        let expected = Column::from_text(keys.iter().map(|key| values[(*key)?]));
        assert_eq!((made.encoding(), made.stats()), (expected.encoding(), expected.stats()));
        assert_eq!(made.zones(), expected.zones());
        assert!((0..keys.len()).all(|row| made.get_text(row) == expected.get_text(row)));
    }
}

#[test]
fn codes_become_columns() {
    let texts: Vec<String> = (0..40).map(|i| format!("a text of more than 12 bytes, {i:02}")).collect();
    let of = |rows: usize| Column::from_text((0..rows).map(|i| Some(texts[i % 40].as_str())));
    let whole = of(4000);
    let dictionary = whole.dictionary().expect("few values");
    let check = |codes: &[u32], nulls: bool| {
        let valid: Option<Vec<u8>> = nulls.then(|| (0..codes.len()).map(|i| u8::from(i % 3 != 0)).collect());
        let expected = codes
            .iter()
            .enumerate()
            .map(|(i, code)| valid.as_ref().is_none_or(|v| v[i] != 0).then(|| dictionary.get(*code as usize)));
        let expected = Column::from_text(expected);
        let made = Column::from_codes(dictionary, codes, valid);
        assert_eq!(made.encoding(), expected.encoding());
        assert_eq!(made.physical(), expected.physical());
        assert_eq!(made.stats(), expected.stats());
        assert_eq!(made.zones(), expected.zones());
        assert_eq!(made.dictionary().map(|d| d.len()), expected.dictionary().map(|d| d.len()));
        for row in 0..codes.len() {
            assert_eq!(made.get_text(row), expected.get_text(row), "row {row}");
        }
        made
    };
    // All values: the dictionary itself. Some of them: one of its own. One for each row: views.
    let all = check(&(0..400).map(|i| i % 40).collect::<Vec<u32>>(), false);
    assert!(Arc::ptr_eq(all.dictionary().expect("few values"), dictionary));
    check(&(0..400).map(|i| 7 + 2 * (i % 5)).collect::<Vec<u32>>(), true);
    check(&(0..40).collect::<Vec<u32>>(), true);
    check(&[3], true);
    check(&[], false);
    drop(whole);
    assert_eq!(all.get_text(41), Some(texts[1].as_str()));
}

#[test]
fn rows_become_columns() {
    let memory = crate::pool::QueryMemory::unlimited();
    let mut rows = crate::buffer::RowBuffer::new(32, &memory);
    let texts = ["short", "a text that is not inline", ""];
    for (i, text) in texts.iter().enumerate() {
        let row = rows.push().expect("no limit");
        // SAFETY: a fresh row of 32 bytes; the texts are static.
        unsafe {
            *row.cast::<TextView>() = TextView::from_raw_bytes(text.as_ptr(), text.len());
            *row.add(16).cast::<i64>() = i as i64;
            *row.add(24) = u8::from(i != 1);
        }
    }
    let rows: Vec<*mut u8> = rows.rows().collect();
    // SAFETY: the rows are as above.
    let (text, number) = unsafe {
        (
            Column::from_rows(ColumnKind::Text, &rows, Field::new(0, FieldKind::Text)),
            Column::from_rows(ColumnKind::I64, &rows, Field::nullable(16, FieldKind::I64, 24)),
        )
    };
    assert_eq!(text.get_text(1), Some(texts[1]));
    assert_eq!([number.get_i64(0), number.get_i64(1), number.get_i64(2)], [Some(0), None, Some(2)]);
}
