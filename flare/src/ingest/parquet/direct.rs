//! Columns whose pages are decoded straight into elements: flat ones of integers, dates, microseconds, decimals of up to 18
//! digits, floats, booleans, and texts that have a dictionary throughout, all of them PLAIN or by dictionary.
//!
//! What holds:
//! - A chunk is decoded if and only if its pages are what this file knows. For anything else the column is left to Arrow's reader,
//!   also where it shows in the middle of a file only.
//! - A file's statistics are believed as an assumption that decoding checks, and as nothing more.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use bytes::{Buf, Bytes, BytesMut};
use ir::types::ScalarType;
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::file::statistics::Statistics;
use runtime::column::{Assumed, Dictionary, Misfit, Part, PartDone, Share, Stored, TextSet};

use super::hybrid::Hybrid;
use super::{File, contained, is_dictionary};
use crate::ingest::Room;

/// Rows that are decoded at a time.
const BLOCK_ROWS: usize = 1024;

/// Why a chunk was not decoded here.
pub(in crate::ingest) enum Refused {
    /// The file is wrong.
    Wrong(String),
    /// A value is beyond what was assumed.
    Assumption,
    /// This takes Arrow's reader.
    Unknown,
}

impl From<Misfit> for Refused {
    fn from(misfit: Misfit) -> Self {
        match misfit {
            Misfit::Value => Self::Assumption,
            Misfit::Key => wrong("a key has no value in the dictionary"),
        }
    }
}

fn wrong(message: &str) -> Refused {
    Refused::Wrong(message.to_string())
}

/// Codes of a text column's dictionary, by row group and key.
pub(in crate::ingest) type Codes = Vec<Vec<u32>>;

/// How a column that is decoded here begins.
pub(in crate::ingest) struct Direct {
    pub(in crate::ingest) assumed: Assumed,
    /// For texts.
    pub(in crate::ingest) codes: Codes,
}

impl File {
    /// Rows of each row group; `None` where the footer contradicts itself.
    pub(in crate::ingest) fn group_rows(&self) -> Option<Vec<usize>> {
        let groups = self.metadata.metadata().row_groups();
        let rows: Option<Vec<usize>> = groups.iter().map(|group| usize::try_from(group.num_rows()).ok()).collect();
        let total = rows.as_ref()?.iter().try_fold(0usize, |sum, rows| sum.checked_add(*rows))?;
        let promised = self.metadata.metadata().file_metadata().num_rows();
        rows.filter(|_| usize::try_from(promised) == Ok(total))
    }

    /// Bytes of column `i` in a row group, uncompressed.
    pub(in crate::ingest) fn group_bytes(&self, i: usize, group: usize) -> u64 {
        let chunk = self.metadata.metadata().row_group(group).columns().get(i);
        chunk.map_or(0, |chunk| u64::try_from(chunk.uncompressed_size()).unwrap_or(0))
    }

    /// How to decode column `i` of a type; `None` where it takes Arrow's reader.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(in crate::ingest) fn direct(
        &self,
        file: &std::fs::File,
        i: usize,
        ty: ScalarType,
    ) -> Result<Option<Direct>, String> {
        if !self.is_known(i, ty) {
            return Ok(None);
        }
        let numbers = |assumed| Ok(Some(Direct { assumed, codes: vec![] }));
        match ty {
            ScalarType::F32 | ScalarType::F64 => numbers(Assumed::Floats),
            ScalarType::Bool => numbers(Assumed::Integers { min: 0, max: 1 }),
            ScalarType::Text => contained_here(|| self.texts(file, i)),
            _ => {
                let (least, greatest) = bounds(ty);
                let (min, max) = self.promised_bounds(i).unwrap_or((least, greatest));
                numbers(Assumed::Integers { min: min.clamp(least, greatest), max: max.clamp(least, greatest) })
            }
        }
    }

    /// What to assume of a column that has other values than its statistics say.
    pub(in crate::ingest) fn widest(ty: ScalarType) -> Direct {
        let (min, max) = bounds(ty);
        Direct { assumed: Assumed::Integers { min, max }, codes: vec![] }
    }

    /// Whether a column is stored in a way that is known here, as far as the footer says.
    fn is_known(&self, i: usize, ty: ScalarType) -> bool {
        let schema = self.metadata.parquet_schema();
        let Some(leaf) =
            schema.columns().get(i).filter(|_| schema.num_columns() == self.metadata.schema().fields().len())
        else {
            return false;
        };
        let read_as = self.metadata.schema().field(i).data_type();
        let stored = matches!(
            (ty, read_as, leaf.physical_type()),
            (ScalarType::Bool, DataType::Boolean, Type::BOOLEAN)
                | (ScalarType::I32, DataType::Int32, Type::INT32)
                | (ScalarType::Date, DataType::Date32, Type::INT32)
                | (ScalarType::I64, DataType::Int64, Type::INT64)
                | (ScalarType::Timestamp, DataType::Timestamp(TimeUnit::Microsecond, _), Type::INT64)
                | (
                    ScalarType::Decimal { .. },
                    DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..),
                    Type::INT32 | Type::INT64
                )
                | (ScalarType::F32, DataType::Float32, Type::FLOAT)
                | (ScalarType::F64, DataType::Float64, Type::DOUBLE)
                | (ScalarType::Text, DataType::Dictionary(..), Type::BYTE_ARRAY)
        );
        let flat = leaf.max_rep_level() == 0 && leaf.max_def_level() <= 1 && leaf.path().parts().len() == 1;
        let known = |e: Encoding| {
            matches!(e, Encoding::PLAIN | Encoding::RLE | Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY)
        };
        let chunks = || self.metadata.metadata().row_groups().iter().map(|group| group.columns().get(i));
        stored
            && flat
            && chunks().all(|chunk| chunk.is_some_and(|chunk| chunk.encodings().all(known)))
            && (ty != ScalarType::Text || is_dictionary(self.metadata.metadata(), i))
    }

    /// The bounds of an integer column by the statistics of its row groups.
    fn promised_bounds(&self, i: usize) -> Option<(i64, i64)> {
        let mut all: Option<(i64, i64)> = None;
        for group in self.metadata.metadata().row_groups() {
            let chunk = group.columns().get(i)?;
            let statistics = chunk.statistics()?;
            let bounds = match statistics {
                Statistics::Int32(s) => (s.min_opt().map(|v| i64::from(*v)), s.max_opt().map(|v| i64::from(*v))),
                Statistics::Int64(s) => (s.min_opt().copied(), s.max_opt().copied()),
                _ => return None,
            };
            all = match (bounds, all) {
                ((Some(min), Some(max)), None) => Some((min, max)),
                ((Some(min), Some(max)), Some((least, greatest))) => Some((least.min(min), greatest.max(max))),
                _ if statistics.null_count_opt() == u64::try_from(chunk.num_values()).ok() => all.or(Some((0, 0))),
                _ => return None,
            };
        }
        all.filter(|(min, max)| min <= max)
    }

    /// The chunk of column `i` in a row group, or what stands before its pages of values, in the memory of another; and its pages.
    fn chunk(
        &self,
        file: &std::fs::File,
        i: usize,
        group: usize,
        head: bool,
        memory: BytesMut,
    ) -> Result<(Bytes, Pages), Refused> {
        let metadata = self.metadata.metadata().row_group(group);
        let column = metadata.column(i);
        let (start, mut len) = column.byte_range();
        if start.checked_add(len).is_none_or(|end| end > self.stamp.0) {
            return Err(wrong("a column reaches beyond the end of the file"));
        }
        let values = u64::try_from(column.data_page_offset()).unwrap_or(0);
        if head && values > start {
            len = len.min(values - start);
        }
        let len = usize::try_from(len).map_err(|e| wrong(&e.to_string()))?;
        let mut bytes = memory;
        if bytes.len() < len {
            // What is there is not copied, and need not be zero.
            bytes.clear();
            bytes.resize(len, 0);
        }
        read_at(file, &mut bytes[..len], start).map_err(|e| wrong(&e.to_string()))?;
        let bytes = bytes.freeze();
        let pages = Pages::new(column, start, bytes.slice(..len), metadata.num_rows())?;
        Ok((bytes, pages))
    }

    /// The texts of a column's dictionaries; `None` where they are too many for one.
    fn texts(&self, file: &std::fs::File, i: usize) -> Result<Option<Direct>, Refused> {
        let mut texts = TextSet::new();
        let mut codes = vec![];
        let rows = self.group_rows().map_or(0, |rows| rows.iter().sum());
        for group in 0..self.metadata.metadata().num_row_groups() {
            let (_, mut pages) = self.chunk(file, i, group, true, BytesMut::new())?;
            let Some(Page::DictionaryPage { buf, num_values, encoding, .. }) = pages.next()? else {
                return Err(Refused::Unknown);
            };
            if !matches!(encoding, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY) {
                return Err(Refused::Unknown);
            }
            codes.push(add_texts(&mut texts, &buf, num_values as usize)?);
            if !texts.make_dictionary(rows) {
                return Ok(None);
            }
        }
        let (dictionary, new_codes): (Arc<Dictionary>, Vec<u32>) = texts.into_dictionary();
        codes.iter_mut().flatten().for_each(|code| *code = new_codes[*code as usize]);
        Ok(Some(Direct { assumed: Assumed::Codes(dictionary), codes }))
    }

    /// Decodes column `i` in a row group.
    pub(in crate::ingest) fn decode(
        &self,
        file: &std::fs::File,
        (i, group): (usize, usize),
        share: Share<'_>,
        codes: &Codes,
        room: &mut Room,
    ) -> Result<PartDone, Refused> {
        let decode = || {
            let column = self.metadata.metadata().row_group(group).column(i);
            let nullable = column.column_descr().max_def_level() == 1;
            let (bytes, mut pages) = self.chunk(file, i, group, false, std::mem::take(&mut room.chunk))?;
            let mut part = share.begin().ok_or_else(|| wrong("there is not enough memory for its rows"))?;
            let mut chunk =
                Chunk { ty: column.column_type(), nullable, has_dictionary: false, scratch: Scratch::new() };
            if chunk.ty == Type::BOOLEAN {
                part.set_dictionary(Stored::I32(&[0i32.to_le_bytes(), 1i32.to_le_bytes()]))?;
            }
            while let Some(page) = pages.next()? {
                chunk.page(&page, codes.get(group).map(Vec::as_slice), &mut part)?;
            }
            drop(pages);
            room.chunk = bytes.try_into_mut().unwrap_or_default();
            match part.left() {
                0 => Ok(part.finish()?),
                left => Err(wrong(&format!("{left} rows of a row group are missing"))),
            }
        };
        contained_refusal(decode)
    }
}

/// Fills a list from a place in a file, which other threads read as well.
#[cfg(unix)]
fn read_at(file: &std::fs::File, bytes: &mut [u8], start: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

/// Fills a list from a place in a file, which other threads read as well.
#[cfg(windows)]
fn read_at(file: &std::fs::File, mut bytes: &mut [u8], mut start: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, start)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        start += read as u64;
    }
    Ok(())
}

/// Runs a decoder; where it panics over a file, that is an error.
fn contained_refusal<T>(decode: impl FnOnce() -> Result<T, Refused>) -> Result<T, Refused> {
    match contained(|| Ok(decode())) {
        Ok(result) => result,
        Err(message) => Err(Refused::Wrong(message)),
    }
}

fn contained_here<T>(decode: impl FnOnce() -> Result<Option<T>, Refused>) -> Result<Option<T>, String> {
    match contained_refusal(decode) {
        Ok(found) => Ok(found),
        Err(Refused::Unknown | Refused::Assumption) => Ok(None),
        Err(Refused::Wrong(message)) => Err(message),
    }
}

/// What values of an integer type may be.
fn bounds(ty: ScalarType) -> (i64, i64) {
    match ty {
        ScalarType::Bool => (0, 1),
        ScalarType::I32 | ScalarType::Date => (i32::MIN.into(), i32::MAX.into()),
        ScalarType::Decimal { precision, .. } if precision <= 18 => {
            let limit = 10i64.pow(precision.into()) - 1;
            (-limit, limit)
        }
        _ => (i64::MIN, i64::MAX),
    }
}

/// Adds a dictionary page's texts; the code of each.
fn add_texts(texts: &mut TextSet, mut bytes: &[u8], count: usize) -> Result<Vec<u32>, Refused> {
    // A text has a length at least.
    if count > bytes.len() / 4 {
        return Err(wrong("a dictionary is cut short"));
    }
    let mut codes = Vec::with_capacity(count);
    for _ in 0..count {
        let cut = || wrong("a dictionary is cut short");
        let (len, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut)?;
        let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(cut)?;
        if std::str::from_utf8(text).is_err() {
            return Err(wrong("a text is not UTF-8"));
        }
        codes.push(texts.code_of(text));
        bytes = rest;
    }
    Ok(codes)
}

/// A piece of a file, by the file's offsets.
struct Piece {
    start: u64,
    bytes: Bytes,
}

impl Length for Piece {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Piece {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        let at = start.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let at = at.filter(|at| *at <= self.bytes.len());
        Ok(self.bytes.slice(at.ok_or_else(beyond)?..).reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let at = start.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let range = at.and_then(|at| Some(at..at.checked_add(length)?)).filter(|range| range.end <= self.bytes.len());
        Ok(self.bytes.slice(range.ok_or_else(beyond)?))
    }
}

fn beyond() -> ParquetError {
    ParquetError::EOF("a page reaches beyond its column".to_string())
}

/// The pages of a chunk.
struct Pages(SerializedPageReader<Piece>);

impl Pages {
    fn new(column: &ColumnChunkMetaData, start: u64, bytes: Bytes, rows: i64) -> Result<Self, Refused> {
        let rows = usize::try_from(rows).map_err(|e| wrong(&e.to_string()))?;
        let reader = SerializedPageReader::new(Arc::new(Piece { start, bytes }), column, rows, None);
        reader.map(Self).map_err(|e| wrong(&said(&e)))
    }

    fn next(&mut self) -> Result<Option<Page>, Refused> {
        self.0.get_next_page().map_err(|e| wrong(&said(&e)))
    }
}

fn said(error: &ParquetError) -> String {
    error.to_string().trim_start_matches("Parquet error: ").to_string()
}

/// Memory for a block of rows.
struct Scratch {
    keys: Box<[u32; BLOCK_ROWS]>,
    levels: Vec<u32>,
    valid: Vec<u8>,
}

impl Scratch {
    fn new() -> Self {
        Self { keys: Box::new([0; BLOCK_ROWS]), levels: vec![], valid: vec![] }
    }
}

/// A chunk while its pages are decoded.
struct Chunk {
    ty: Type,
    nullable: bool,
    has_dictionary: bool,
    scratch: Scratch,
}

impl Chunk {
    fn page(&mut self, page: &Page, codes: Option<&[u32]>, part: &mut Part<'_>) -> Result<(), Refused> {
        match page {
            Page::DictionaryPage { buf, num_values, encoding, .. } => {
                if !matches!(encoding, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY) || self.ty == Type::BOOLEAN {
                    return Err(Refused::Unknown);
                }
                self.has_dictionary = true;
                match codes {
                    Some(codes) => part.set_codes(codes),
                    None => part.set_dictionary(stored(self.ty, buf, *num_values as usize)?)?,
                }
                Ok(())
            }
            Page::DataPage { buf, num_values, encoding, def_level_encoding, .. } => {
                let (levels, values) = match self.nullable {
                    false => (&[][..], &buf[..]),
                    true if *def_level_encoding != Encoding::RLE => return Err(Refused::Unknown),
                    true => {
                        let (len, rest) = buf.split_first_chunk::<4>().ok_or_else(cut)?;
                        rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(cut)?
                    }
                };
                self.rows(*num_values as usize, levels, values, *encoding, part)
            }
            Page::DataPageV2 { buf, num_values, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => {
                if *rep_levels_byte_len != 0 || (!self.nullable && *def_levels_byte_len != 0) {
                    return Err(Refused::Unknown);
                }
                let (levels, values) = buf.split_at_checked(*def_levels_byte_len as usize).ok_or_else(cut)?;
                self.rows(*num_values as usize, levels, values, *encoding, part)
            }
        }
    }

    /// Writes the rows of a page.
    fn rows(
        &mut self,
        rows: usize,
        levels: &[u8],
        values: &[u8],
        encoding: Encoding,
        part: &mut Part<'_>,
    ) -> Result<(), Refused> {
        if rows > part.left() {
            return Err(wrong("a row group has more rows than the footer says"));
        }
        let mut values = self.values(values, encoding)?;
        let mut levels = self.nullable.then(|| Hybrid::new(levels, 1));
        let Scratch { keys, levels: numbers, valid } = &mut self.scratch;
        let mut left = rows;
        while left > 0 {
            let block = left.min(BLOCK_ROWS);
            left -= block;
            let mut known = block;
            if let Some(levels) = &mut levels {
                numbers.resize(block, 0);
                levels.read(numbers).ok_or_else(cut)?;
                known = numbers.iter().map(|&level| level as usize & 1).sum();
                if known < block {
                    valid.clear();
                    valid.extend(numbers.iter().map(|&level| level as u8 & 1));
                }
            }
            let valid = (known < block).then_some(&valid[..]);
            match &mut values {
                Values::Keys(hybrid) => {
                    hybrid.read(&mut keys[..known]).ok_or_else(cut)?;
                    part.keys(&keys[..known], valid)?;
                }
                Values::Plain(bytes) => part.values(take(self.ty, bytes, known)?, valid)?,
            }
        }
        Ok(())
    }

    /// The values of a page.
    fn values<'a>(&self, bytes: &'a [u8], encoding: Encoding) -> Result<Values<'a>, Refused> {
        Ok(match (encoding, self.ty) {
            (Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY, _) if self.has_dictionary => {
                match bytes.split_first() {
                    // Without a value there need not be a width.
                    None => Values::Keys(Hybrid::new(&[], 0)),
                    Some((&width, keys)) if width <= 32 => Values::Keys(Hybrid::new(keys, width.into())),
                    Some(_) => return Err(wrong("keys of a dictionary have more than 32 bits")),
                }
            }
            (Encoding::PLAIN, Type::BOOLEAN) => Values::Keys(Hybrid::packed(bytes, 1)),
            (Encoding::RLE, Type::BOOLEAN) => {
                let (_, values) = bytes.split_first_chunk::<4>().ok_or_else(cut)?;
                Values::Keys(Hybrid::new(values, 1))
            }
            (Encoding::PLAIN, Type::INT32 | Type::INT64 | Type::FLOAT | Type::DOUBLE) => Values::Plain(bytes),
            _ => return Err(Refused::Unknown),
        })
    }
}

/// The values of a page that are not decoded yet.
enum Values<'a> {
    Keys(Hybrid<'a>),
    Plain(&'a [u8]),
}

fn cut() -> Refused {
    wrong("a page is cut short")
}

/// The next numbers of a type.
fn take<'a>(ty: Type, bytes: &mut &'a [u8], count: usize) -> Result<Stored<'a>, Refused> {
    let width = if matches!(ty, Type::INT32 | Type::FLOAT) { 4 } else { 8 };
    let len = count.checked_mul(width).ok_or_else(cut)?;
    let (now, rest) = bytes.split_at_checked(len).ok_or_else(cut)?;
    *bytes = rest;
    Ok(match ty {
        Type::INT32 => Stored::I32(now.as_chunks().0),
        Type::INT64 => Stored::I64(now.as_chunks().0),
        Type::FLOAT => Stored::F32(now.as_chunks().0),
        Type::DOUBLE => Stored::F64(now.as_chunks().0),
        _ => return Err(Refused::Unknown),
    })
}

/// A dictionary page's numbers.
fn stored(ty: Type, mut bytes: &[u8], count: usize) -> Result<Stored<'_>, Refused> {
    take(ty, &mut bytes, count)
}
