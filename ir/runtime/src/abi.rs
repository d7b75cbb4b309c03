//! The boundary to generated code: the one table of functions that it may call, and the one table of layouts that it may use.
//!
//! What holds:
//! - A function is one row of `runtime_functions!`: signature, effect, how it fails, doc, and the Rust function behind it. Ids, names,
//!   signatures, symbol addresses, shims, the interpreter's dispatch and the docs list come from the row.
//! - Shims are `extern "C"` and let no panic out: a panic is kept for the thread ([`take_panic`]) and the shim returns its failure
//!   value (status [`TrapCode::Panic`], null, or zero). Whoever runs generated code looks for a kept panic afterwards.
//! - Values of 128 bits and texts cross as two I64 (low, high); results of that width go through an out pointer.
//! - A function that can fail takes the worker block first and leaves the trap's code and detail there. The caller adds the location.
//! - Offsets of shared structures are taken from the structures ([`layout`]) and written nowhere a second time.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::scheduler::panic_message;
use crate::trap::TrapCode;

/// The type of a value that crosses the boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AbiType {
    /// One byte; booleans are 0 or 1.
    I8,
    /// Two bytes.
    I16,
    /// Four bytes.
    I32,
    /// Eight bytes.
    I64,
    /// Four bytes.
    F32,
    /// Eight bytes.
    F64,
    /// An address.
    Ptr,
}

/// A value that crosses the boundary, for the interpreter's calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AbiValue {
    /// No result.
    Unit,
    /// One byte.
    I8(i8),
    /// Two bytes.
    I16(i16),
    /// Four bytes.
    I32(i32),
    /// Eight bytes.
    I64(i64),
    /// Four bytes.
    F32(f32),
    /// Eight bytes.
    F64(f64),
    /// An address.
    Ptr(*mut u8),
}

/// What a function may do besides returning a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: the result depends on the arguments and on memory that does not change during a run. Calls may be merged or dropped.
    Pure,
    /// It writes memory, or reads memory that others write: calls stay, in order.
    Writes,
}

/// How a function reports failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It does not fail.
    Never,
    /// It returns an I32 status, 0 for success; the worker block holds the trap.
    Status,
    /// It returns null; the worker block holds the trap.
    Null,
}

/// A function's parameters, with names for people, and its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Names and types.
    pub params: &'static [(&'static str, AbiType)],
    /// The type of the result, if there is one.
    pub result: Option<AbiType>,
}

/// A generated pipeline: shared slots, worker block, first row, end row; returns a status.
pub type PipelineFn = unsafe extern "C" fn(ctx: *const u64, worker: *mut u64, begin: i64, end: i64) -> i32;

/// A generated merge of rows of a state, with the same machine signature as a pipeline's: shared slots, worker block, address
/// of [`crate::group_table::MergePair`]s, their number; returns a status.
pub type MergeFn = PipelineFn;

/// A call of the interpreter that does not fit the table: a bug in who made it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("call of {function}: argument {index} does not fit the signature")]
pub struct CallError {
    /// The function's name.
    pub function: &'static str,
    /// The first argument that is missing, superfluous or of another type.
    pub index: usize,
}

trait Abi: Sized {
    /// What a shim returns after a panic.
    const FAILED: Self;
    fn from_value(value: AbiValue) -> Option<Self>;
    fn into_value(self) -> AbiValue;
}

macro_rules! abi_repr {
    ($($variant:ident, $rust:ty, $failed:expr;)+) => {
        $(impl Abi for $rust {
            const FAILED: Self = $failed;
            fn from_value(value: AbiValue) -> Option<Self> {
                match value {
                    AbiValue::$variant(value) => Some(value),
                    _ => None,
                }
            }
            fn into_value(self) -> AbiValue {
                AbiValue::$variant(self)
            }
        })+
    };
}

abi_repr! {
    I8, i8, 0;
    I16, i16, 0;
    I32, i32, TrapCode::Panic as i32;
    I64, i64, 0;
    F32, f32, 0.0;
    F64, f64, 0.0;
    Ptr, *mut u8, std::ptr::null_mut();
}

impl Abi for () {
    const FAILED: Self = ();
    fn from_value(value: AbiValue) -> Option<Self> {
        (value == AbiValue::Unit).then_some(())
    }
    fn into_value(self) -> AbiValue {
        AbiValue::Unit
    }
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The words of a panic that a shim caught on this thread since the last call.
pub fn take_panic() -> Option<String> {
    PANIC.with_borrow_mut(Option::take)
}

fn guard<R: Abi>(body: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(payload) => {
            let message = panic_message(payload.as_ref());
            PANIC.with_borrow_mut(|slot| *slot = Some(message));
            R::FAILED
        }
    }
}

macro_rules! rust_type {
    (I8) => { i8 };
    (I16) => { i16 };
    (I32) => { i32 };
    (I64) => { i64 };
    (F32) => { f32 };
    (F64) => { f64 };
    (Ptr) => { *mut u8 };
    (Unit) => { () };
}

macro_rules! result_type {
    (Unit) => {
        None
    };
    ($ty:ident) => {
        Some(AbiType::$ty)
    };
}

macro_rules! runtime_functions {
    ($(
        $(#[doc = $doc:literal])+
        $id:ident = $name:ident($($arg:ident: $ty:ident),* $(,)?) -> $ret:ident, $effect:ident, $failure:ident => $target:path;
    )+) => {
        /// A function that generated code may call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum RuntimeFn {
            $($(#[doc = $doc])+ $id,)+
        }

        impl RuntimeFn {
            /// Every function, in the order of the table.
            pub const ALL: &[RuntimeFn] = &[$(RuntimeFn::$id),+];

            /// The symbol's name.
            pub fn name(self) -> &'static str {
                match self {
                    $(RuntimeFn::$id => stringify!($name),)+
                }
            }

            /// Parameters and result.
            pub fn signature(self) -> Signature {
                match self {
                    $(RuntimeFn::$id => Signature {
                        params: &[$((stringify!($arg), AbiType::$ty)),*],
                        result: result_type!($ret),
                    },)+
                }
            }

            /// What it may do besides returning a value.
            pub fn effect(self) -> Effect {
                match self {
                    $(RuntimeFn::$id => Effect::$effect,)+
                }
            }

            /// How it reports failure.
            pub fn failure(self) -> Failure {
                match self {
                    $(RuntimeFn::$id => Failure::$failure,)+
                }
            }

            /// What it does.
            pub fn doc(self) -> &'static str {
                match self {
                    $(RuntimeFn::$id => concat!($($doc, "\n"),+).trim_ascii(),)+
                }
            }

            /// The address of its shim, which has the C calling convention.
            pub fn address(self) -> *const u8 {
                match self {
                    $(RuntimeFn::$id => shims::$name as *const u8,)+
                }
            }
        }

        mod shims {
            use super::guard;

            $(
                /// # Safety
                /// What the function behind it asks for.
                pub(super) unsafe extern "C" fn $name($($arg: rust_type!($ty)),*) -> rust_type!($ret) {
                    // SAFETY: promised by the caller.
                    #[allow(unused_unsafe, reason = "some functions behind the table are safe")]
                    guard(|| unsafe { $target($($arg),*) })
                }
            )+
        }

        /// Calls a function with checked argument types, through the same shim as generated code.
        ///
        /// # Errors
        /// [`CallError`] where the arguments do not fit the signature.
        ///
        /// # Safety
        /// The arguments are what the function asks for: live and large enough memory behind every address.
        pub unsafe fn call(function: RuntimeFn, args: &[AbiValue]) -> Result<AbiValue, CallError> {
            let arity = function.signature().params.len();
            if args.len() != arity {
                let index = args.len().min(arity);
                return Err(CallError { function: function.name(), index });
            }
            match function {
                $(RuntimeFn::$id => {
                    let mut next = 0;
                    $(let $arg = take::<rust_type!($ty)>(function, args, &mut next)?;)*
                    let _ = next;
                    // SAFETY: promised by the caller.
                    Ok(Abi::into_value(unsafe { shims::$name($($arg),*) }))
                })+
            }
        }
    };
}

fn take<T: Abi>(function: RuntimeFn, args: &[AbiValue], next: &mut usize) -> Result<T, CallError> {
    let index = *next;
    *next += 1;
    let value = args.get(index).and_then(|&value| T::from_value(value));
    value.ok_or(CallError { function: function.name(), index })
}

impl RuntimeFn {
    /// The function of a symbol.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|f| f.name() == name)
    }
}

runtime_functions! {
    // States.

    /// Makes room for at least one more row when `cur == end`, and returns where it goes. The caller writes the row there and sets `cur` behind it.
    RowBufferGrow = row_buffer_grow(worker: Ptr, buffer: Ptr) -> Ptr, Writes, Null => crate::buffer::row_buffer_grow;
    /// Adds a group that the table does not have yet and returns its row: the hash in bytes 0..8, all else zero. May move the table's entries, never its rows.
    GroupTableInsert = group_table_insert(worker: Ptr, table: Ptr, hash: I64) -> Ptr, Writes, Null => crate::group_table::group_table_insert;
    /// Adds the group of a code whose slot in `direct` is null, and returns its row as `group_table_insert` does.
    GroupTableInsertDirect = group_table_insert_direct(worker: Ptr, table: Ptr, code: I64, hash: I64) -> Ptr, Writes, Null => crate::group_table::group_table_insert_direct;
    /// Makes room for at least one more row of a top-k state when `cur == end`, as `row_buffer_grow` does; may drop rows that the limit cannot keep, so addresses of earlier rows end here.
    TopKGrow = top_k_grow(worker: Ptr, state: Ptr) -> Ptr, Writes, Null => crate::sort::top_k_grow;

    // Text views.

    /// Whether two texts are equal (1 or 0). Where lengths or prefixes differ inline code need not call.
    TextEqual = text_equal(a_lo: I64, a_hi: I64, b_lo: I64, b_hi: I64) -> I8, Pure, Never => crate::column::text_equal;
    /// Orders two texts by their bytes: -1, 0 or 1.
    TextCompare = text_compare(a_lo: I64, a_hi: I64, b_lo: I64, b_hi: I64) -> I32, Pure, Never => crate::column::text_compare;
    /// Folds a text into a hash.
    TextHash = text_hash(hash: I64, lo: I64, hi: I64) -> I64, Pure, Never => crate::column::text_hash;
    /// Room for the bytes of a new text, alive as long as the worker block.
    TextAllocate = text_allocate(worker: Ptr, bytes: I64) -> Ptr, Writes, Null => crate::buffer::text_allocate;

    // Filters over columns; see `kernels::filter` for ranges and modes.

    /// Tests `low <= x <= high` for each i8 element, into a byte mask.
    FilterRangeI8 = filter_range_i8(data: Ptr, rows: I64, low: I64, high: I64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_range_i8;
    /// Tests `low <= x <= high` for each i16 element, into a byte mask.
    FilterRangeI16 = filter_range_i16(data: Ptr, rows: I64, low: I64, high: I64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_range_i16;
    /// Tests `low <= x <= high` for each i32 element, into a byte mask.
    FilterRangeI32 = filter_range_i32(data: Ptr, rows: I64, low: I64, high: I64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_range_i32;
    /// Tests `low <= x <= high` for each i64 element, into a byte mask.
    FilterRangeI64 = filter_range_i64(data: Ptr, rows: I64, low: I64, high: I64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_range_i64;
    /// Tests `low <= x <= high` for each u8 element, into a byte mask.
    FilterRangeU8 = filter_range_u8(data: Ptr, rows: I64, low: I64, high: I64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_range_u8;
    /// Tests `low <= x <= high` for each u16 element, into a byte mask.
    FilterRangeU16 = filter_range_u16(data: Ptr, rows: I64, low: I64, high: I64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_range_u16;
    /// Tests `low <= x <= high` for each u32 element, into a byte mask.
    FilterRangeU32 = filter_range_u32(data: Ptr, rows: I64, low: I64, high: I64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_range_u32;
    /// Tests a range for each f32 element, into a byte mask; the mode says which ends are open and whether NaN is in.
    FilterRangeF32 = filter_range_f32(data: Ptr, rows: I64, low: F32, high: F32, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_range_f32;
    /// Tests a range for each f64 element, into a byte mask; the mode says which ends are open and whether NaN is in.
    FilterRangeF64 = filter_range_f64(data: Ptr, rows: I64, low: F64, high: F64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_range_f64;
    /// Tests `table[code]` for each u8 code, into a byte mask; `values` is the table's length.
    FilterLookupU8 = filter_lookup_u8(codes: Ptr, rows: I64, table: Ptr, values: I64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_lookup_u8;
    /// Tests `table[code]` for each u16 code, into a byte mask; `values` is the table's length.
    FilterLookupU16 = filter_lookup_u16(codes: Ptr, rows: I64, table: Ptr, values: I64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_lookup_u16;
    /// Tests `table[code]` for each u32 code, into a byte mask; `values` is the table's length.
    FilterLookupU32 = filter_lookup_u32(codes: Ptr, rows: I64, table: Ptr, values: I64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_lookup_u32;
    /// Compares two integer columns, `a + delta` with `b`, into a byte mask; elements have 1, 2, 4 or 8 bytes, `delta` is the difference of the bases. The comparison is one of `kernels::filter::comparison`.
    FilterCompare = filter_compare(a: Ptr, a_bytes: I32, b: Ptr, b_bytes: I32, rows: I64, delta: I64, comparison: I32, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::filter::filter_compare;

    // Masks.

    /// `target &= other`, byte by byte.
    MaskAnd = mask_and(target: Ptr, other: Ptr, rows: I64) -> Unit, Writes, Never => crate::kernels::mask::mask_and;
    /// `target &= !other`: with validity bytes, keeps the rows that are NULL.
    MaskAndNot = mask_and_not(target: Ptr, other: Ptr, rows: I64) -> Unit, Writes, Never => crate::kernels::mask::mask_and_not;
    /// `target |= other`, byte by byte.
    MaskOr = mask_or(target: Ptr, other: Ptr, rows: I64) -> Unit, Writes, Never => crate::kernels::mask::mask_or;
    /// `target = !target`, byte by byte.
    MaskNot = mask_not(target: Ptr, rows: I64) -> Unit, Writes, Never => crate::kernels::mask::mask_not;
    /// The number of rows whose byte is 1.
    MaskCount = mask_count(mask: Ptr, rows: I64) -> I64, Writes, Never => crate::kernels::mask::mask_count;
    /// Writes the indices (u16, ascending) of the rows whose byte is 1, and returns their number; at most 65,536 rows.
    MaskToSelection = mask_to_selection(mask: Ptr, rows: I64, selection: Ptr) -> I64, Writes, Never => crate::kernels::mask::mask_to_selection;

    // Hashes of key columns, folded column by column into one u64 a row. `first` other than 0 begins with 0 instead of what `hashes` holds; `valid` may be null.

    /// Folds `base + x` of each i8 element into the rows' hashes.
    HashI8 = hash_i8(data: Ptr, rows: I64, valid: Ptr, hashes: Ptr, first: I32, base: I64) -> Unit, Writes, Never => crate::kernels::hash::hash_i8;
    /// Folds `base + x` of each i16 element into the rows' hashes.
    HashI16 = hash_i16(data: Ptr, rows: I64, valid: Ptr, hashes: Ptr, first: I32, base: I64) -> Unit, Writes, Never => crate::kernels::hash::hash_i16;
    /// Folds `base + x` of each i32 element into the rows' hashes.
    HashI32 = hash_i32(data: Ptr, rows: I64, valid: Ptr, hashes: Ptr, first: I32, base: I64) -> Unit, Writes, Never => crate::kernels::hash::hash_i32;
    /// Folds `base + x` of each i64 element into the rows' hashes.
    HashI64 = hash_i64(data: Ptr, rows: I64, valid: Ptr, hashes: Ptr, first: I32, base: I64) -> Unit, Writes, Never => crate::kernels::hash::hash_i64;
    /// Folds each f32 element into the rows' hashes.
    HashF32 = hash_f32(data: Ptr, rows: I64, valid: Ptr, hashes: Ptr, first: I32) -> Unit, Writes, Never => crate::kernels::hash::hash_f32;
    /// Folds each f64 element into the rows' hashes.
    HashF64 = hash_f64(data: Ptr, rows: I64, valid: Ptr, hashes: Ptr, first: I32) -> Unit, Writes, Never => crate::kernels::hash::hash_f64;
    /// Folds each i128 element into the rows' hashes.
    HashI128 = hash_i128(data: Ptr, rows: I64, valid: Ptr, hashes: Ptr, first: I32) -> Unit, Writes, Never => crate::kernels::hash::hash_i128;
    /// Folds each text view into the rows' hashes.
    HashText = hash_text(data: Ptr, rows: I64, valid: Ptr, hashes: Ptr, first: I32) -> Unit, Writes, Never => crate::kernels::hash::hash_text;
    /// Folds the value of each u8 dictionary code into the rows' hashes; `words` are the dictionary's hash words, `values` their number.
    HashCodesU8 = hash_codes_u8(codes: Ptr, rows: I64, valid: Ptr, hashes: Ptr, first: I32, words: Ptr, values: I64) -> Unit, Writes, Never => crate::kernels::hash::hash_codes_u8;
    /// Folds the value of each u16 dictionary code into the rows' hashes; `words` are the dictionary's hash words, `values` their number.
    HashCodesU16 = hash_codes_u16(codes: Ptr, rows: I64, valid: Ptr, hashes: Ptr, first: I32, words: Ptr, values: I64) -> Unit, Writes, Never => crate::kernels::hash::hash_codes_u16;
    /// Folds the value of each u32 dictionary code into the rows' hashes; `words` are the dictionary's hash words, `values` their number.
    HashCodesU32 = hash_codes_u32(codes: Ptr, rows: I64, valid: Ptr, hashes: Ptr, first: I32, words: Ptr, values: I64) -> Unit, Writes, Never => crate::kernels::hash::hash_codes_u32;
    /// Asks for the home slots of hashes in a join table, where the table is too large for a core's cache. Goes ahead of the probes of a block of rows.
    JoinTablePrefetch = join_table_prefetch(table: Ptr, hashes: Ptr, rows: I64) -> Unit, Writes, Never => crate::kernels::hash::join_table_prefetch;
    /// Asks for the home slots of hashes in a group table, as `join_table_prefetch` does.
    GroupTablePrefetch = group_table_prefetch(table: Ptr, hashes: Ptr, rows: I64) -> Unit, Writes, Never => crate::kernels::hash::group_table_prefetch;
    /// Tests hashes against a Bloom filter, into a byte mask; the mode is 0 (set) or 1 (and).
    BloomTest = bloom_test(filter: Ptr, hashes: Ptr, rows: I64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::bloom::bloom_test;

    // Sums of few groups by tiles; see `kernels::groups`.

    /// `slots = slots * values + codes`, byte by byte, for u8 codes; null adds nothing. `first` other than 0 begins with 0 instead of what `slots` holds.
    SlotsAdd = slots_add(codes: Ptr, rows: I64, values: I64, slots: Ptr, first: I32) -> Unit, Writes, Never => crate::kernels::groups::slots_add;
    /// Leaves out the rows whose byte of the mask (null: none) is 0, writes the slots that rows fall into to `list`, by their first rows, and returns their number.
    SlotsFound = slots_found(slots: Ptr, mask: Ptr, rows: I64, list: Ptr) -> I64, Writes, Never => crate::kernels::groups::slots_found;
    /// The sum of the i8 elements of each slot of the list, into i64; it wraps.
    SlotSumsI8 = slot_sums_i8(data: Ptr, rows: I64, slots: Ptr, list: Ptr, found: I64, sums: Ptr) -> Unit, Writes, Never => crate::kernels::groups::slot_sums_i8;
    /// The sum of the i16 elements of each slot of the list, into i64; it wraps.
    SlotSumsI16 = slot_sums_i16(data: Ptr, rows: I64, slots: Ptr, list: Ptr, found: I64, sums: Ptr) -> Unit, Writes, Never => crate::kernels::groups::slot_sums_i16;
    /// The sum of the i32 elements of each slot of the list, into i64; it wraps.
    SlotSumsI32 = slot_sums_i32(data: Ptr, rows: I64, slots: Ptr, list: Ptr, found: I64, sums: Ptr) -> Unit, Writes, Never => crate::kernels::groups::slot_sums_i32;
    /// The sum of the i64 elements of each slot of the list, into i64; it wraps.
    SlotSumsI64 = slot_sums_i64(data: Ptr, rows: I64, slots: Ptr, list: Ptr, found: I64, sums: Ptr) -> Unit, Writes, Never => crate::kernels::groups::slot_sums_i64;
    /// `words *= x * factor + constant` for each i8 element, in i64; it wraps. `first` other than 0 sets instead.
    WordsScaleI8 = words_scale_i8(data: Ptr, rows: I64, factor: I64, constant: I64, words: Ptr, first: I32) -> Unit, Writes, Never => crate::kernels::groups::words_scale_i8;
    /// `words *= x * factor + constant` for each i16 element, in i64; it wraps. `first` other than 0 sets instead.
    WordsScaleI16 = words_scale_i16(data: Ptr, rows: I64, factor: I64, constant: I64, words: Ptr, first: I32) -> Unit, Writes, Never => crate::kernels::groups::words_scale_i16;
    /// `words *= x * factor + constant` for each i32 element, in i64; it wraps. `first` other than 0 sets instead.
    WordsScaleI32 = words_scale_i32(data: Ptr, rows: I64, factor: I64, constant: I64, words: Ptr, first: I32) -> Unit, Writes, Never => crate::kernels::groups::words_scale_i32;
    /// `words *= x * factor + constant` for each i64 element, in i64; it wraps. `first` other than 0 sets instead.
    WordsScaleI64 = words_scale_i64(data: Ptr, rows: I64, factor: I64, constant: I64, words: Ptr, first: I32) -> Unit, Writes, Never => crate::kernels::groups::words_scale_i64;
    /// Of the rows whose byte of the mask is 1: the sum of the products of i8 and i8 elements, and the sum of each, three i64; they wrap.
    ProductSumsI8I8 = product_sums_i8_i8(a: Ptr, b: Ptr, mask: Ptr, rows: I64, sums: Ptr) -> Unit, Writes, Never => crate::kernels::groups::product_sums_i8_i8;
    /// Of the rows whose byte of the mask is 1: the sum of the products of i8 and i16 elements, and the sum of each, three i64; they wrap.
    ProductSumsI8I16 = product_sums_i8_i16(a: Ptr, b: Ptr, mask: Ptr, rows: I64, sums: Ptr) -> Unit, Writes, Never => crate::kernels::groups::product_sums_i8_i16;
    /// Of the rows whose byte of the mask is 1: the sum of the products of i8 and i32 elements, and the sum of each, three i64; they wrap.
    ProductSumsI8I32 = product_sums_i8_i32(a: Ptr, b: Ptr, mask: Ptr, rows: I64, sums: Ptr) -> Unit, Writes, Never => crate::kernels::groups::product_sums_i8_i32;
    /// Of the rows whose byte of the mask is 1: the sum of the products of i16 and i16 elements, and the sum of each, three i64; they wrap.
    ProductSumsI16I16 = product_sums_i16_i16(a: Ptr, b: Ptr, mask: Ptr, rows: I64, sums: Ptr) -> Unit, Writes, Never => crate::kernels::groups::product_sums_i16_i16;
    /// Of the rows whose byte of the mask is 1: the sum of the products of i16 and i32 elements, and the sum of each, three i64; they wrap.
    ProductSumsI16I32 = product_sums_i16_i32(a: Ptr, b: Ptr, mask: Ptr, rows: I64, sums: Ptr) -> Unit, Writes, Never => crate::kernels::groups::product_sums_i16_i32;
    /// Of the rows whose byte of the mask is 1: the sum of the products of i32 and i32 elements, and the sum of each, three i64; they wrap.
    ProductSumsI32I32 = product_sums_i32_i32(a: Ptr, b: Ptr, mask: Ptr, rows: I64, sums: Ptr) -> Unit, Writes, Never => crate::kernels::groups::product_sums_i32_i32;

    // Calls back.

    /// Evaluates an operation that is not emitted: `data` begins with the address of a function of these three arguments.
    HostCall = host_call(worker: Ptr, data: Ptr, area: Ptr) -> I32, Writes, Status => crate::abi::host_call;
    /// Runs a model over a full tile: slot 2 of the tile's block holds the address of a function, slot 3 its first argument.
    TileRun = tile_run(worker: Ptr, tile: Ptr) -> I32, Writes, Status => crate::abi::tile_run;

    // Texts; see `kernels::text`. A text result goes to `out`: low word, high word.

    /// The number of characters.
    TextLength = text_length(lo: I64, hi: I64) -> I64, Pure, Never => crate::kernels::calls::text_length;
    /// The text in lower case.
    TextLower = text_lower(worker: Ptr, lo: I64, hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_lower;
    /// The text in upper case.
    TextUpper = text_upper(worker: Ptr, lo: I64, hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_upper;
    /// The text without blanks at both ends: a view of the same bytes.
    TextTrim = text_trim(lo: I64, hi: I64, out: Ptr) -> Unit, Writes, Never => crate::kernels::calls::text_trim;
    /// The text without blanks at its start: a view of the same bytes.
    TextTrimStart = text_trim_start(lo: I64, hi: I64, out: Ptr) -> Unit, Writes, Never => crate::kernels::calls::text_trim_start;
    /// The text without blanks at its end: a view of the same bytes.
    TextTrimEnd = text_trim_end(lo: I64, hi: I64, out: Ptr) -> Unit, Writes, Never => crate::kernels::calls::text_trim_end;
    /// The characters at positions `start` to `start + length - 1`, counted from 1: a view of the same bytes. A negative length raises.
    TextSubstring = text_substring(worker: Ptr, lo: I64, hi: I64, start: I64, length: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_substring;
    /// Both texts, one after the other.
    TextConcat = text_concat(worker: Ptr, a_lo: I64, a_hi: I64, b_lo: I64, b_hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_concat;
    /// The text with every occurrence of one text replaced by another.
    TextReplace = text_replace(worker: Ptr, lo: I64, hi: I64, from_lo: I64, from_hi: I64, to_lo: I64, to_hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_replace;
    /// Whether the text begins with the other (1 or 0).
    TextStartsWith = text_starts_with(a_lo: I64, a_hi: I64, b_lo: I64, b_hi: I64) -> I8, Pure, Never => crate::kernels::calls::text_starts_with;
    /// Whether the other occurs in the text (1 or 0).
    TextContains = text_contains(a_lo: I64, a_hi: I64, b_lo: I64, b_hi: I64) -> I8, Pure, Never => crate::kernels::calls::text_contains;
    /// The position of the other in the text, from 1; 0 where it does not occur.
    TextPosition = text_position(a_lo: I64, a_hi: I64, b_lo: I64, b_hi: I64) -> I64, Pure, Never => crate::kernels::calls::text_position;
    /// Whether the text fits a LIKE pattern that is a value; `\\` escapes. A constant pattern is compiled once: `like_match`.
    TextLike = text_like(a_lo: I64, a_hi: I64, b_lo: I64, b_hi: I64) -> I8, Pure, Never => crate::kernels::calls::text_like;
    /// `text_like` without regard to case.
    TextIlike = text_ilike(a_lo: I64, a_hi: I64, b_lo: I64, b_hi: I64) -> I8, Pure, Never => crate::kernels::calls::text_ilike;
    /// Whether the text fits a compiled `kernels::like::LikePattern`.
    LikeMatch = like_match(pattern: Ptr, lo: I64, hi: I64) -> I8, Pure, Never => crate::kernels::calls::like_match;
    /// Tests text views of a column against a compiled `kernels::like::LikePattern`, into a byte mask; see `kernels::filter` for modes. With `and`, rows that the mask has dropped are not looked at.
    FilterLike = filter_like(pattern: Ptr, views: Ptr, rows: I64, mask: Ptr, mode: I32) -> Unit, Writes, Never => crate::kernels::calls::filter_like;
    /// Whether a regular expression that is a value matches somewhere in the text; 1 or 0 into the byte at `out`. A constant one is compiled once: `regex_match`.
    TextRegexMatch = text_regex_match(worker: Ptr, a_lo: I64, a_hi: I64, b_lo: I64, b_hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_regex_match;
    /// Whether a compiled `kernels::text::RegexPattern` matches somewhere in the text.
    RegexMatch = regex_match(pattern: Ptr, lo: I64, hi: I64) -> I8, Pure, Never => crate::kernels::calls::regex_match;

    // Texts to values (into the value at `out`) and values to texts. A null worker records no detail: the status alone tells, as `try_cast` needs.

    /// Reads a bool.
    TextToBool = text_to_bool(worker: Ptr, lo: I64, hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_to_bool;
    /// Reads a i32.
    TextToI32 = text_to_i32(worker: Ptr, lo: I64, hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_to_i32;
    /// Reads a i64.
    TextToI64 = text_to_i64(worker: Ptr, lo: I64, hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_to_i64;
    /// Reads a f32.
    TextToF32 = text_to_f32(worker: Ptr, lo: I64, hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_to_f32;
    /// Reads a f64.
    TextToF64 = text_to_f64(worker: Ptr, lo: I64, hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_to_f64;
    /// Reads a date.
    TextToDate = text_to_date(worker: Ptr, lo: I64, hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_to_date;
    /// Reads a timestamp.
    TextToTimestamp = text_to_timestamp(worker: Ptr, lo: I64, hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_to_timestamp;
    /// Reads a decimal, rounded half away from zero; two words to `out`.
    TextToDecimal = text_to_decimal(worker: Ptr, lo: I64, hi: I64, scale: I32, precision: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::text_to_decimal;
    /// Prints a bool.
    BoolToText = bool_to_text(worker: Ptr, value: I8, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::bool_to_text;
    /// Prints a i64.
    I64ToText = i64_to_text(worker: Ptr, value: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::i64_to_text;
    /// Prints a f32.
    F32ToText = f32_to_text(worker: Ptr, value: F32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::f32_to_text;
    /// Prints a f64.
    F64ToText = f64_to_text(worker: Ptr, value: F64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::f64_to_text;
    /// Prints a date.
    DateToText = date_to_text(worker: Ptr, value: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::date_to_text;
    /// Prints a timestamp.
    TimestampToText = timestamp_to_text(worker: Ptr, value: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::timestamp_to_text;
    /// Prints a decimal with exactly `scale` digits behind the point.
    DecimalToText = decimal_to_text(worker: Ptr, lo: I64, hi: I64, scale: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::decimal_to_text;

    // Dates and timestamps; `part` is the code of a `kernels::date::DatePart`.

    /// One part of a date.
    DateExtract = date_extract(part: I32, days: I32) -> I64, Pure, Never => crate::kernels::calls::date_extract;
    /// One part of a timestamp.
    TimestampExtract = timestamp_extract(part: I32, micros: I64) -> I64, Pure, Never => crate::kernels::calls::timestamp_extract;
    /// The first day of the part that a date is in, into the I32 at `out`.
    DateTrunc = date_trunc(worker: Ptr, part: I32, days: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::date_trunc;
    /// The start of the part that a timestamp is in, into the I64 at `out`.
    TimestampTrunc = timestamp_trunc(worker: Ptr, part: I32, micros: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::timestamp_trunc;
    /// A date some months later, clamped to the end of its month, into the I32 at `out`.
    DateAddMonths = date_add_months(worker: Ptr, days: I32, months: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::date_add_months;
    /// A timestamp some months later, into the I64 at `out`.
    TimestampAddMonths = timestamp_add_months(worker: Ptr, micros: I64, months: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::timestamp_add_months;
    /// The boundaries of the part crossed from one date to another, into the I64 at `out`.
    DateDiff = date_diff(worker: Ptr, part: I32, a: I32, b: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::date_diff;
    /// The boundaries of the part crossed from one timestamp to another, into the I64 at `out`.
    TimestampDiff = timestamp_diff(worker: Ptr, part: I32, a: I64, b: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::timestamp_diff;
    /// The day that a timestamp falls on.
    TimestampToDate = timestamp_to_date(micros: I64) -> I32, Pure, Never => crate::kernels::calls::timestamp_to_date;
    /// Midnight at the start of a day, into the I64 at `out`.
    DateToTimestamp = date_to_timestamp(worker: Ptr, days: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::date_to_timestamp;

    // Decimals: 128-bit numbers of units of 10^-scale, as two words; results of that width go to `out`. What has more digits than the precision raises.

    /// The product.
    DecimalMul = decimal_mul(worker: Ptr, a_lo: I64, a_hi: I64, b_lo: I64, b_hi: I64, precision: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::decimal_mul;
    /// The quotient towards zero.
    DecimalDiv = decimal_div(worker: Ptr, a_lo: I64, a_hi: I64, b_lo: I64, b_hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::decimal_div;
    /// The remainder with the sign of the dividend.
    DecimalRem = decimal_rem(worker: Ptr, a_lo: I64, a_hi: I64, b_lo: I64, b_hi: I64, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::decimal_rem;
    /// The value at another scale, rounded half away from zero.
    DecimalRescale = decimal_rescale(worker: Ptr, lo: I64, hi: I64, from: I32, to: I32, precision: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::decimal_rescale;
    /// The value rounded half away from zero to so many digits, at its own scale.
    DecimalRound = decimal_round(worker: Ptr, lo: I64, hi: I64, scale: I32, digits: I32, precision: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::decimal_round;
    /// The largest whole number not above, at scale 0.
    DecimalFloor = decimal_floor(lo: I64, hi: I64, scale: I32, out: Ptr) -> Unit, Writes, Never => crate::kernels::calls::decimal_floor;
    /// The smallest whole number not below, at scale 0.
    DecimalCeil = decimal_ceil(lo: I64, hi: I64, scale: I32, out: Ptr) -> Unit, Writes, Never => crate::kernels::calls::decimal_ceil;
    /// The whole number towards zero, at scale 0.
    DecimalTrunc = decimal_trunc(lo: I64, hi: I64, scale: I32, out: Ptr) -> Unit, Writes, Never => crate::kernels::calls::decimal_trunc;
    /// The nearest f64.
    DecimalToF64 = decimal_to_f64(lo: I64, hi: I64, scale: I32) -> F64, Pure, Never => crate::kernels::calls::decimal_to_f64;
    /// The nearest f32.
    DecimalToF32 = decimal_to_f32(lo: I64, hi: I64, scale: I32) -> F32, Pure, Never => crate::kernels::calls::decimal_to_f32;
    /// The nearest integer, halves away from zero, into the I64 at `out`.
    DecimalToI64 = decimal_to_i64(worker: Ptr, lo: I64, hi: I64, scale: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::decimal_to_i64;
    /// The nearest decimal of an f64, read to 15 digits.
    F64ToDecimal = f64_to_decimal(worker: Ptr, value: F64, scale: I32, precision: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::f64_to_decimal;
    /// The nearest decimal of an f32, read to six digits.
    F32ToDecimal = f32_to_decimal(worker: Ptr, value: F32, scale: I32, precision: I32, out: Ptr) -> I32, Writes, Status => crate::kernels::calls::f32_to_decimal;

    // Functions of floats; see `kernels::vector_math`, whose constants let code emit the same bits inline.

    /// e^x, for an f32.
    ExpF32 = exp_f32(x: F32) -> F32, Pure, Never => crate::kernels::vector_math::single::exp_f32;
    /// e^x, for an f64.
    ExpF64 = exp_f64(x: F64) -> F64, Pure, Never => crate::kernels::vector_math::single::exp_f64;
    /// e^x - 1, for an f32.
    Expm1F32 = expm1_f32(x: F32) -> F32, Pure, Never => crate::kernels::vector_math::single::expm1_f32;
    /// e^x - 1, for an f64.
    Expm1F64 = expm1_f64(x: F64) -> F64, Pure, Never => crate::kernels::vector_math::single::expm1_f64;
    /// The natural logarithm of an f32.
    LogF32 = log_f32(x: F32) -> F32, Pure, Never => crate::kernels::vector_math::single::log_f32;
    /// The natural logarithm of an f64.
    LogF64 = log_f64(x: F64) -> F64, Pure, Never => crate::kernels::vector_math::single::log_f64;
    /// log(1 + x), for an f32.
    Log1pF32 = log1p_f32(x: F32) -> F32, Pure, Never => crate::kernels::vector_math::single::log1p_f32;
    /// log(1 + x), for an f64.
    Log1pF64 = log1p_f64(x: F64) -> F64, Pure, Never => crate::kernels::vector_math::single::log1p_f64;
    /// The hyperbolic tangent of an f32.
    TanhF32 = tanh_f32(x: F32) -> F32, Pure, Never => crate::kernels::vector_math::single::tanh_f32;
    /// The hyperbolic tangent of an f64.
    TanhF64 = tanh_f64(x: F64) -> F64, Pure, Never => crate::kernels::vector_math::single::tanh_f64;
    /// 1 / (1 + e^-x), for an f32.
    SigmoidF32 = sigmoid_f32(x: F32) -> F32, Pure, Never => crate::kernels::vector_math::single::sigmoid_f32;
    /// 1 / (1 + e^-x), for an f64.
    SigmoidF64 = sigmoid_f64(x: F64) -> F64, Pure, Never => crate::kernels::vector_math::single::sigmoid_f64;
    /// The error function of an f32.
    ErfF32 = erf_f32(x: F32) -> F32, Pure, Never => crate::kernels::vector_math::single::erf_f32;
    /// The error function of an f64.
    ErfF64 = erf_f64(x: F64) -> F64, Pure, Never => crate::kernels::vector_math::single::erf_f64;
    /// log(1 + e^x), for an f32.
    SoftplusF32 = softplus_f32(x: F32) -> F32, Pure, Never => crate::kernels::vector_math::single::softplus_f32;
    /// log(1 + e^x), for an f64.
    SoftplusF64 = softplus_f64(x: F64) -> F64, Pure, Never => crate::kernels::vector_math::single::softplus_f64;
    /// The sine of an f32.
    SinF32 = sin_f32(x: F32) -> F32, Pure, Never => crate::kernels::vector_math::single::sin_f32;
    /// The sine of an f64.
    SinF64 = sin_f64(x: F64) -> F64, Pure, Never => crate::kernels::vector_math::single::sin_f64;
    /// The cosine of an f32.
    CosF32 = cos_f32(x: F32) -> F32, Pure, Never => crate::kernels::vector_math::single::cos_f32;
    /// The cosine of an f64.
    CosF64 = cos_f64(x: F64) -> F64, Pure, Never => crate::kernels::vector_math::single::cos_f64;
    /// The tangent of an f32.
    TanF32 = tan_f32(x: F32) -> F32, Pure, Never => f32::tan;
    /// The tangent of an f64.
    TanF64 = tan_f64(x: F64) -> F64, Pure, Never => f64::tan;
    /// The inverse sine of an f32.
    AsinF32 = asin_f32(x: F32) -> F32, Pure, Never => f32::asin;
    /// The inverse sine of an f64.
    AsinF64 = asin_f64(x: F64) -> F64, Pure, Never => f64::asin;
    /// The inverse cosine of an f32.
    AcosF32 = acos_f32(x: F32) -> F32, Pure, Never => f32::acos;
    /// The inverse cosine of an f64.
    AcosF64 = acos_f64(x: F64) -> F64, Pure, Never => f64::acos;
    /// The inverse tangent of an f32.
    AtanF32 = atan_f32(x: F32) -> F32, Pure, Never => f32::atan;
    /// The inverse tangent of an f64.
    AtanF64 = atan_f64(x: F64) -> F64, Pure, Never => f64::atan;
    /// The angle of the point (x, y), for f32.
    Atan2F32 = atan2_f32(y: F32, x: F32) -> F32, Pure, Never => f32::atan2;
    /// The angle of the point (x, y), for f64.
    Atan2F64 = atan2_f64(y: F64, x: F64) -> F64, Pure, Never => f64::atan2;
    /// x^y, for f32.
    PowF32 = pow_f32(x: F32, y: F32) -> F32, Pure, Never => crate::kernels::vector_math::single::pow_f32;
    /// x^y, for f64.
    PowF64 = pow_f64(x: F64, y: F64) -> F64, Pure, Never => crate::kernels::vector_math::single::pow_f64;
    /// The remainder of x / y with the sign of x, for f32.
    RemF32 = rem_f32(x: F32, y: F32) -> F32, Pure, Never => std::ops::Rem::rem;
    /// The remainder of x / y with the sign of x, for f64.
    RemF64 = rem_f64(x: F64, y: F64) -> F64, Pure, Never => std::ops::Rem::rem;
    /// x rounded half away from zero at a decimal digit, for f32.
    RoundF32 = round_f32(x: F32, digits: I32) -> F32, Pure, Never => crate::kernels::vector_math::single::round_f32;
    /// x rounded half away from zero at a decimal digit, for f64.
    RoundF64 = round_f64(x: F64, digits: I32) -> F64, Pure, Never => crate::kernels::vector_math::single::round_f64;

    /// `out[0]` becomes the greatest of itself and `n` f32; NaN is the greatest, and of equals the first is kept.
    MaxFoldF32 = max_fold_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::max_fold_f32;
    /// The same for f64.
    MaxFoldF64 = max_fold_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::max_fold_f64;

    // The same for blocks: `out[i] = f(x[i])` for `n` elements; `out` may be `x`, and overlaps it in no other way.

    /// exp of each f32.
    ExpBlockF32 = exp_block_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::exp_block_f32;
    /// exp of each f64.
    ExpBlockF64 = exp_block_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::exp_block_f64;
    /// expm1 of each f32.
    Expm1BlockF32 = expm1_block_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::expm1_block_f32;
    /// expm1 of each f64.
    Expm1BlockF64 = expm1_block_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::expm1_block_f64;
    /// log of each f32.
    LogBlockF32 = log_block_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::log_block_f32;
    /// log of each f64.
    LogBlockF64 = log_block_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::log_block_f64;
    /// log1p of each f32.
    Log1pBlockF32 = log1p_block_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::log1p_block_f32;
    /// log1p of each f64.
    Log1pBlockF64 = log1p_block_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::log1p_block_f64;
    /// tanh of each f32.
    TanhBlockF32 = tanh_block_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::tanh_block_f32;
    /// tanh of each f64.
    TanhBlockF64 = tanh_block_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::tanh_block_f64;
    /// sigmoid of each f32.
    SigmoidBlockF32 = sigmoid_block_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::sigmoid_block_f32;
    /// sigmoid of each f64.
    SigmoidBlockF64 = sigmoid_block_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::sigmoid_block_f64;
    /// erf of each f32.
    ErfBlockF32 = erf_block_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::erf_block_f32;
    /// erf of each f64.
    ErfBlockF64 = erf_block_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::erf_block_f64;
    /// softplus of each f32.
    SoftplusBlockF32 = softplus_block_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::softplus_block_f32;
    /// softplus of each f64.
    SoftplusBlockF64 = softplus_block_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::softplus_block_f64;
    /// sin of each f32.
    SinBlockF32 = sin_block_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::sin_block_f32;
    /// sin of each f64.
    SinBlockF64 = sin_block_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::sin_block_f64;
    /// cos of each f32.
    CosBlockF32 = cos_block_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::cos_block_f32;
    /// cos of each f64.
    CosBlockF64 = cos_block_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::cos_block_f64;
    /// sqrt of each f32.
    SqrtBlockF32 = sqrt_block_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::sqrt_block_f32;
    /// sqrt of each f64.
    SqrtBlockF64 = sqrt_block_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::sqrt_block_f64;
    /// relu of each f32.
    ReluBlockF32 = relu_block_f32(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::relu_block_f32;
    /// relu of each f64.
    ReluBlockF64 = relu_block_f64(x: Ptr, out: Ptr, n: I64) -> Unit, Writes, Never => crate::kernels::calls::relu_block_f64;

    // Dense products; see `gemm`. Strides count elements; `bias` may be null; `relu` is 0 or 1.

    /// `C = relu(alpha A B + beta C + bias)` with A of m x k, B of k x n.
    GemmF32 = gemm_f32(m: I64, n: I64, k: I64, alpha: F32, a: Ptr, a_row: I64, a_column: I64, b: Ptr, b_row: I64, b_column: I64, beta: F32, c: Ptr, c_row: I64, c_column: I64, bias: Ptr, relu: I8) -> Unit, Writes, Never => crate::kernels::calls::gemm_f32;
    /// `gemm_f32` with a `gemm::PackedB<f32>` that gives k and n.
    GemmPackedF32 = gemm_packed_f32(m: I64, alpha: F32, a: Ptr, a_row: I64, a_column: I64, b: Ptr, beta: F32, c: Ptr, c_row: I64, c_column: I64, bias: Ptr, relu: I8) -> Unit, Writes, Never => crate::kernels::calls::gemm_packed_f32;
    /// `C = relu(alpha A B + beta C + bias)` with A of m x k, B of k x n.
    GemmF64 = gemm_f64(m: I64, n: I64, k: I64, alpha: F64, a: Ptr, a_row: I64, a_column: I64, b: Ptr, b_row: I64, b_column: I64, beta: F64, c: Ptr, c_row: I64, c_column: I64, bias: Ptr, relu: I8) -> Unit, Writes, Never => crate::kernels::calls::gemm_f64;
    /// `gemm_f64` with a `gemm::PackedB<f64>` that gives k and n.
    GemmPackedF64 = gemm_packed_f64(m: I64, alpha: F64, a: Ptr, a_row: I64, a_column: I64, b: Ptr, beta: F64, c: Ptr, c_row: I64, c_column: I64, bias: Ptr, relu: I8) -> Unit, Writes, Never => crate::kernels::calls::gemm_packed_f64;
}

/// # Safety
/// `data` begins with the address of such a function, and the arguments are what it asks for.
pub(crate) unsafe fn host_call(worker: *mut u8, data: *mut u8, area: *mut u8) -> i32 {
    type Call = unsafe extern "C" fn(*mut u8, *const u8, *mut u8) -> i32;
    // SAFETY: promised by the caller.
    unsafe { (*data.cast::<Call>())(worker, data, area) }
}

/// # Safety
/// `tile` is a tile's block, and its function's arguments are alive.
pub(crate) unsafe fn tile_run(worker: *mut u8, tile: *mut u8) -> i32 {
    type Call = unsafe extern "C" fn(*mut u8, *mut u8, *mut u8) -> i32;
    // SAFETY: promised by the caller: slots 2 and 3 hold a function and its first argument.
    unsafe { (*tile.add(16).cast::<Call>())(*tile.add(24).cast::<*mut u8>(), tile, worker) }
}

/// A field of a shared structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLayout {
    /// The structure's path, a dot, the field.
    pub name: &'static str,
    /// Bytes from the structure's address.
    pub offset: i32,
    /// The type of a load or a store.
    pub ty: AbiType,
    /// What it holds.
    pub doc: &'static str,
}

macro_rules! layouts {
    (
        fields { $($(#[doc = $doc:literal])+ $id:ident = $structure:path, $field:ident: $ty:ident;)+ }
        sizes { $($(#[doc = $size_doc:literal])+ $size:ident = $sized:path;)+ }
    ) => {
        /// Where the fields are that generated code reads and writes.
        pub mod layout {
            use super::{AbiType, FieldLayout};

            $(
                $(#[doc = $doc])+
                pub const $id: FieldLayout = FieldLayout {
                    name: concat!(stringify!($structure), ".", stringify!($field)),
                    offset: std::mem::offset_of!($structure, $field) as i32,
                    ty: AbiType::$ty,
                    doc: concat!($($doc),+),
                };
            )+

            /// Every field, in the order of the table.
            pub const ALL: &[FieldLayout] = &[$($id),+];

            $(
                $(#[doc = $size_doc])+
                pub const $size: i32 = std::mem::size_of::<$sized>() as i32;
            )+
        }
    };
}

layouts! {
    fields {
        /// The address of an I32 that is not 0 when the task should stop.
        WORKER_INTERRUPT = crate::trap::Worker, interrupt: Ptr;
        /// The code of the trap that stopped the task, 0 for none.
        WORKER_TRAP_CODE = crate::trap::Worker, trap_code: I64;
        /// The id of the trap site.
        WORKER_TRAP_LOCATION = crate::trap::Worker, trap_location: I64;
        /// The task's scratch; opaque.
        WORKER_SCRATCH = crate::trap::Worker, scratch: Ptr;
        /// The depth of recursive calls now.
        WORKER_DEPTH = crate::trap::Worker, depth: I64;
        /// The depth that must not be exceeded.
        WORKER_DEPTH_LIMIT = crate::trap::Worker, depth_limit: I64;

        /// Where the next row goes.
        ROW_BUFFER_CUR = crate::buffer::RowBuffer, cur: Ptr;
        /// The end of the room.
        ROW_BUFFER_END = crate::buffer::RowBuffer, end: Ptr;

        /// The slots.
        GROUP_TABLE_ENTRIES = crate::group_table::GroupTable, entries: Ptr;
        /// The home slot of a hash is `hash >> shift` (unsigned).
        GROUP_TABLE_SHIFT = crate::group_table::GroupTable, shift: I64;
        /// The next slot is `(slot + 1) & mask`.
        GROUP_TABLE_MASK = crate::group_table::GroupTable, mask: I64;
        /// The number of groups.
        GROUP_TABLE_LEN = crate::group_table::GroupTable, len: I64;
        /// The number of groups at which the table grows.
        GROUP_TABLE_LIMIT = crate::group_table::GroupTable, limit: I64;
        /// In a direct table: where the address of the row of code 0 would be; others follow by their codes.
        GROUP_TABLE_DIRECT = crate::group_table::GroupTable, direct: Ptr;
        /// A slot's hash.
        GROUP_ENTRY_HASH = crate::group_table::GroupEntry, hash: I64;
        /// A slot's row, null where it is empty.
        GROUP_ENTRY_ROW = crate::group_table::GroupEntry, row: Ptr;

        /// The slots.
        JOIN_TABLE_ENTRIES = crate::join_table::JoinTable, entries: Ptr;
        /// The home slot of a hash is `hash >> shift` (unsigned).
        JOIN_TABLE_SHIFT = crate::join_table::JoinTable, shift: I64;
        /// The next slot is `(slot + 1) & mask`.
        JOIN_TABLE_MASK = crate::join_table::JoinTable, mask: I64;
        /// The rows' array.
        JOIN_TABLE_ROWS = crate::join_table::JoinTable, rows: Ptr;
        /// Bytes a row.
        JOIN_TABLE_ROW_SIZE = crate::join_table::JoinTable, row_size: I64;
        /// The blocks of an index, null where the table is none.
        JOIN_TABLE_BLOCKS = crate::join_table::JoinTable, blocks: Ptr;
        /// Where the rows of each rank of an index begin, null where the rank is the row.
        JOIN_TABLE_STARTS = crate::join_table::JoinTable, starts: Ptr;
        /// The number of rows that can match.
        JOIN_TABLE_LEN = crate::join_table::JoinTable, len: I64;
        /// The number of rows with a NULL key, which stand behind the others.
        JOIN_TABLE_NULL_ROWS = crate::join_table::JoinTable, null_rows: I64;
        /// A slot's hash.
        JOIN_ENTRY_HASH = crate::join_table::JoinEntry, hash: I64;
        /// The index of the first row of a slot's key.
        JOIN_ENTRY_START = crate::join_table::JoinEntry, start: I32;
        /// The number of rows of a slot's key, 0 for an empty slot.
        JOIN_ENTRY_COUNT = crate::join_table::JoinEntry, count: I32;
        /// The bits of 64 words of an index.
        INDEX_BLOCK_BITS = crate::join_table::IndexBlock, bits: I64;
        /// The number of words before them.
        INDEX_BLOCK_RANK = crate::join_table::IndexBlock, rank: I64;
        /// The mask: one byte a row.
        TILE_MASK = crate::tile::Tile, mask: I8;
        /// The selection: u16 indices.
        TILE_SELECTION = crate::tile::Tile, selection: I16;
        /// One word a row.
        TILE_WORDS = crate::tile::Tile, words: I64;
        /// The number of rows.
        TILE_ROWS = crate::tile::Tile, rows: I64;
        /// The number of indices in the selection.
        TILE_SELECTED = crate::tile::Tile, selected: I64;
        /// The first row of a slot in its tile.
        FOUND_SLOT_FIRST = crate::kernels::groups::FoundSlot, first: I64;
        /// The number of a slot's rows in its tile.
        FOUND_SLOT_ROWS = crate::kernels::groups::FoundSlot, rows: I64;
        /// The sum of products.
        PRODUCT_SUMS_PRODUCTS = crate::kernels::groups::ProductSums, products: I64;
        /// The sum of the first column.
        PRODUCT_SUMS_FIRST = crate::kernels::groups::ProductSums, first: I64;
        /// The sum of the second column.
        PRODUCT_SUMS_SECOND = crate::kernels::groups::ProductSums, second: I64;

    }
    sizes {
        /// Bytes of a worker block before its first state.
        WORKER_HEAD_SIZE = crate::trap::Worker;
        /// Bytes of a group table's slot.
        GROUP_ENTRY_SIZE = crate::group_table::GroupEntry;
        /// Bytes of a join table's slot.
        JOIN_ENTRY_SIZE = crate::join_table::JoinEntry;
        /// Bytes of a tile.
        TILE_SIZE = crate::tile::Tile;
        /// Bytes of an entry of a list of slots.
        FOUND_SLOT_SIZE = crate::kernels::groups::FoundSlot;
        /// Bytes of a block of an index.
        INDEX_BLOCK_SIZE = crate::join_table::IndexBlock;
    }
}

// The numbers that docs and people know.
const _: () = {
    assert!(layout::WORKER_TRAP_CODE.offset == 8);
    assert!(layout::WORKER_SCRATCH.offset == 24);
    assert!(layout::WORKER_HEAD_SIZE == 64);
    assert!(layout::ROW_BUFFER_CUR.offset == 0);
    assert!(layout::GROUP_ENTRY_SIZE == 16);
    assert!(layout::JOIN_ENTRY_SIZE == 16);
    assert!(layout::INDEX_BLOCK_SIZE == 16);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::RowBuffer;
    use crate::pool::{MemoryPool, QueryMemory, SMALLEST_BLOCK};
    use crate::trap::{CancelToken, WorkerBlock};

    #[test]
    fn rows_of_the_table_are_consistent() {
        let mut names = std::collections::HashSet::new();
        for &function in RuntimeFn::ALL {
            assert!(names.insert(function.name()));
            assert_eq!(RuntimeFn::from_name(function.name()), Some(function));
            assert!(!function.doc().is_empty() && !function.address().is_null());
            let signature = function.signature();
            let worker_first = signature.params.first() == Some(&("worker", AbiType::Ptr));
            match function.failure() {
                Failure::Never => {}
                Failure::Status => {
                    assert!(worker_first && signature.result == Some(AbiType::I32));
                }
                Failure::Null => {
                    assert!(worker_first && signature.result == Some(AbiType::Ptr));
                }
            }
        }
        let mut fields = std::collections::HashSet::new();
        assert!(layout::ALL.iter().all(|field| fields.insert(field.name)));
    }

    #[test]
    fn calls_are_checked_and_failures_reach_the_worker_block() {
        let pool = MemoryPool::new(SMALLEST_BLOCK);
        let memory = QueryMemory::new(&pool, usize::MAX);
        let mut buffer = RowBuffer::new(SMALLEST_BLOCK, &memory);
        let mut block = WorkerBlock::new(&[], &CancelToken::new(), &memory);
        let args = [AbiValue::Ptr(block.as_mut_ptr().cast()), AbiValue::Ptr(buffer.as_mut_ptr())];
        // SAFETY: block and buffer live, and only this test uses them.
        unsafe {
            let Ok(AbiValue::Ptr(row)) = call(RuntimeFn::RowBufferGrow, &args) else {
                panic!("an address");
            };
            assert!(!row.is_null());
            assert_eq!(block.check(0), Ok(()));
            buffer.cur = buffer.end;
            assert_eq!(call(RuntimeFn::RowBufferGrow, &args), Ok(AbiValue::Ptr(std::ptr::null_mut())));
            let trap = block.check(TrapCode::MemoryLimit.status()).expect_err("full");
            assert_eq!(trap.code, TrapCode::MemoryLimit);
            assert!(trap.detail.is_some());
            let error = call(RuntimeFn::RowBufferGrow, &[AbiValue::I64(1), args[1]]);
            assert_eq!(error.map_err(|e| e.index), Err(0));
            assert!(call(RuntimeFn::RowBufferGrow, &args[..1]).is_err());
            assert!(call(RuntimeFn::RowBufferGrow, &[args[0], args[1], args[1]]).is_err());
        }
    }

    #[test]
    fn a_panic_stays_behind_the_shim() {
        let status: i32 = guard(|| panic!("inside of the runtime"));
        assert_eq!(TrapCode::from_status(status), Some(TrapCode::Panic));
        let memory = QueryMemory::unlimited();
        let mut block = WorkerBlock::new(&[], &CancelToken::new(), &memory);
        let trap = block.check(status).expect_err("a kept panic");
        assert_eq!(trap.code, TrapCode::Panic);
        assert_eq!(trap.detail.as_deref(), Some("inside of the runtime"));
        assert_eq!(take_panic(), None);
    }
}
