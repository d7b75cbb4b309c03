//! Building columns of texts.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use super::bytes::AlignedBytes;
use super::stats::{Bound, DistinctSketch, Nulls, Zone, zones_of_text};
use super::{Column, ColumnKind, Dictionary, PhysicalType, TextView};
use crate::kernels::hash;

/// Bytes of texts at stable addresses.
#[derive(Default)]
pub(super) struct TextHeap {
    chunks: Vec<Vec<u8>>,
}

impl TextHeap {
    const FIRST_CHUNK: usize = 4 << 10;
    const LARGEST_CHUNK: usize = 4 << 20;

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.iter().map(Vec::capacity).sum()
    }

    pub(super) fn store(&mut self, text: &[u8]) -> TextView {
        if let Some(view) = TextView::inline(text) {
            return view;
        }
        // A byte stays free behind the last text of a chunk: texts without a gap between them are in one chunk.
        let fits = |chunk: &Vec<u8>| chunk.capacity() - chunk.len() > text.len();
        if !self.chunks.last().is_some_and(fits) {
            let next =
                self.chunks.last().map_or(Self::FIRST_CHUNK, |chunk| (chunk.capacity() * 2).min(Self::LARGEST_CHUNK));
            self.chunks.push(Vec::with_capacity(next.max(text.len() + 1)));
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        let start = chunk.len();
        // Within the capacity: the bytes of earlier texts do not move.
        chunk.extend_from_slice(text);
        // SAFETY: the bytes live and stay as long as the heap, which the column keeps.
        unsafe { TextView::from_raw_bytes(chunk.as_ptr().add(start), text.len()) }
    }
}

/// Builds a text column row by row and chooses its encoding: a dictionary while the distinct values are few, plain views otherwise.
#[derive(Default)]
pub struct TextBuilder {
    /// The rows' codes while a dictionary is tried, into `texts`.
    codes: Vec<u32>,
    /// The rows' views once it was given up.
    views: Vec<TextView>,
    plain: bool,
    nulls: Vec<u8>,
    has_nulls: bool,
    texts: TextSet,
}

/// Distinct texts, each with a code: how many were there when it came.
pub struct TextSet {
    heap: TextHeap,
    distinct: Vec<TextView>,
    /// Open addressing over `distinct`: index + 1, 0 for an empty slot.
    slots: Vec<u32>,
    hasher: RandomState,
    /// The last codes of short texts, by a quick hash: most rows repeat one of few texts.
    recent: Box<[(TextView, u32); RECENT]>,
}

const RECENT: usize = 256;

/// A dictionary has at most this many values,
const DICTIONARY_LIMIT: usize = 64 << 10;
/// and at most one for this many rows (but columns of few rows may have any).
const DICTIONARY_ROWS: usize = 4;
const DICTIONARY_ALWAYS: usize = 16;
/// A file's dictionary is there already. One of so few texts is kept whatever the rows: keys of small tables are then codes, which
/// joins look up without a hash.
const DICTIONARY_OF_FILE: usize = 4 << 10;

impl TextBuilder {
    /// A builder of an empty column.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a row.
    pub fn push(&mut self, value: Option<&str>) {
        self.nulls.push(value.is_some().into());
        self.has_nulls |= value.is_none();
        let text = value.unwrap_or_default().as_bytes();
        if self.plain {
            self.views.push(self.texts.heap.store(text));
            return;
        }
        let code = match value {
            // No value of the dictionary: the column may have none but NULLs.
            None => u32::MAX,
            Some(_) => self.texts.code_of(text),
        };
        self.codes.push(code);
        if self.texts.len() > DICTIONARY_LIMIT {
            self.give_up_dictionary();
        }
    }

    /// Appends rows that are given as keys of `values`: a text is searched once, not for each of its rows.
    ///
    /// # Panics
    /// A key that is no index of `values`.
    pub fn push_keys(&mut self, values: &[Option<&str>], keys: impl Iterator<Item = Option<usize>>) {
        const UNKNOWN: u32 = u32::MAX;
        let mut codes = vec![UNKNOWN; values.len()];
        for key in keys {
            let value = key.and_then(|key| Some((key, values[key]?)));
            match value {
                Some((key, _)) if codes[key] != UNKNOWN && !self.plain => {
                    self.nulls.push(1);
                    self.codes.push(codes[key]);
                }
                Some((key, text)) => {
                    self.push(Some(text));
                    if let Some(code) = self.codes.last() {
                        codes[key] = *code;
                    }
                }
                None => self.push(None),
            }
        }
    }

    fn give_up_dictionary(&mut self) {
        let view = |code: &u32| self.texts.distinct.get(*code as usize).copied();
        self.views = self.codes.iter().map(|c| view(c).unwrap_or(TextView::EMPTY)).collect();
        self.codes = Vec::new();
        self.texts.slots = Vec::new();
        self.plain = true;
    }

    /// The column.
    pub fn finish(mut self) -> Column {
        let rows = self.nulls.len();
        let few = few_distinct(self.texts.len(), rows);
        let known = self.texts.len() as u64;
        let exact = !self.plain;
        if !self.plain && !few {
            self.give_up_dictionary();
        }
        let nulls = std::mem::take(&mut self.nulls);
        let validity = Nulls::new(self.has_nulls.then_some(nulls), rows);
        let zones = zones_of_text(&validity);
        if !self.plain {
            return self.finish_dictionary(validity, zones);
        }
        let distinct = if exact {
            known
        } else {
            let mut sketch = DistinctSketch::new();
            for (_, view) in validity.values(&self.views) {
                sketch.add(hash::text_word(view));
            }
            sketch.estimate()
        };
        let min = validity.values(&self.views).map(|(_, view)| *view).min();
        let max = validity.values(&self.views).map(|(_, view)| *view).max();
        let data = AlignedBytes::from_iter(rows, self.views.iter().copied());
        let mut column =
            Column::assemble(ColumnKind::Text, PhysicalType::Text, data, validity, zones, (distinct, exact));
        column.stats.min = min.map(text_bound);
        column.stats.max = max.map(text_bound);
        column.heap = Some(Arc::new(self.texts.heap));
        column
    }

    fn finish_dictionary(self, validity: Nulls, zones: Vec<Zone>) -> Column {
        let distinct = self.texts.len();
        let (dictionary, new_codes) = self.texts.into_dictionary();
        let rows = self.codes.len();
        let codes = self.codes.iter().map(|&old| new_codes.get(old as usize).copied().unwrap_or(0));
        let (physical, data) = narrow_codes(dictionary.len(), rows, codes);
        let mut column = Column::coded(physical, data, validity, zones, distinct, dictionary);
        column.set_bounds_of_codes();
        column
    }
}

impl Default for TextSet {
    fn default() -> Self {
        Self::new()
    }
}

impl TextSet {
    /// No texts.
    pub fn new() -> Self {
        Self {
            heap: TextHeap::default(),
            distinct: Vec::new(),
            slots: vec![0; 64],
            hasher: RandomState::new(),
            recent: Box::new([(TextView::EMPTY, u32::MAX); RECENT]),
        }
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.distinct.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.distinct.is_empty()
    }

    /// Whether a column of so many rows has a dictionary when these are the texts of its file's dictionary.
    pub fn make_dictionary(&self, rows: usize) -> bool {
        self.len() <= DICTIONARY_OF_FILE || (self.len() <= DICTIONARY_LIMIT && few_distinct(self.len(), rows))
    }

    /// A dictionary of the texts, and the code in it by the code here. It has a text even where there is none here.
    pub fn into_dictionary(self) -> (Arc<Dictionary>, Vec<u32>) {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        order.sort_unstable_by_key(|&code| self.distinct[code as usize]);
        let mut views: Vec<TextView> = order.iter().map(|&c| self.distinct[c as usize]).collect();
        let mut new_codes = vec![0u32; self.len()];
        for (new, &old) in order.iter().enumerate() {
            new_codes[old as usize] = new as u32;
        }
        if views.is_empty() {
            views.push(TextView::EMPTY);
        }
        (Arc::new(Dictionary::new(&views, Arc::new(self.heap))), new_codes)
    }

    /// The code of a text, which is added where it is new.
    pub fn code_of(&mut self, text: &[u8]) -> u32 {
        let Some(view) = TextView::inline(text) else {
            return self.search(text);
        };
        let place = (hash::text_word(&view) >> 56) as usize % RECENT;
        let (known, code) = self.recent[place];
        if known == view && code != u32::MAX {
            return code;
        }
        let code = self.search(text);
        self.recent[place] = (view, code);
        code
    }

    fn search(&mut self, text: &[u8]) -> u32 {
        // Keyed, since texts come from files: nobody can choose them to collide.
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one(text) as usize & mask;
        while self.slots[slot] != 0 {
            let code = self.slots[slot] - 1;
            // SAFETY: the view's bytes stand in the heap, or in the view itself, which does not move during the comparison.
            if unsafe { self.distinct[code as usize].as_bytes() } == text {
                return code;
            }
            slot = (slot + 1) & mask;
        }
        let code = self.distinct.len() as u32;
        self.distinct.push(self.heap.store(text));
        self.slots[slot] = code + 1;
        if self.distinct.len() * 2 > self.slots.len() {
            self.grow_slots();
        }
        code
    }

    fn grow_slots(&mut self) {
        let mask = self.slots.len() * 4 - 1;
        let mut slots = vec![0; mask + 1];
        for (code, view) in self.distinct.iter().enumerate() {
            // SAFETY: as in `code_of`.
            let mut slot = self.hasher.hash_one(unsafe { view.as_bytes() }) as usize & mask;
            while slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            slots[slot] = code as u32 + 1;
        }
        self.slots = slots;
    }
}

/// Whether a dictionary pays for so many distinct texts.
pub(super) fn few_distinct(distinct: usize, rows: usize) -> bool {
    distinct <= (rows / DICTIONARY_ROWS).max(DICTIONARY_ALWAYS)
}

/// Codes of a dictionary of `values` texts, as narrow as they may be.
pub(super) fn narrow_codes(
    values: usize,
    rows: usize,
    codes: impl Iterator<Item = u32>,
) -> (PhysicalType, AlignedBytes) {
    match values {
        ..=0x100 => (PhysicalType::Code8, AlignedBytes::from_iter(rows, codes.map(|c| c as u8))),
        0x101..=0x1_0000 => (PhysicalType::Code16, AlignedBytes::from_iter(rows, codes.map(|c| c as u16))),
        _ => (PhysicalType::Code32, AlignedBytes::from_iter(rows, codes)),
    }
}

pub(super) fn text_bound(view: TextView) -> Bound {
    // SAFETY: called by builders, which hold the bytes.
    Bound::Text(unsafe { view.as_str() }.into())
}
