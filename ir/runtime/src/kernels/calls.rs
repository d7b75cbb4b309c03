//! The functions behind the rows of [`crate::abi`] for texts, dates, decimals, blocks of floats and products of matrices: they
//! turn words and addresses into slices, call the safe function, and turn what it says into a status.
//!
//! What holds:
//! - two words are a text whose bytes live until the call ends, or longer where the result is a part of it;
//! - an address `out` is that of a value of the type in the row's doc, that only this call writes; it need not be aligned;
//! - `worker` is null or a live worker block that only this task uses. Functions that make new texts need one.

use super::filter::mode;
use super::like::LikePattern;
use super::{date, decimal, elements, elements_mut, text, vector_math};
use crate::column::TextView;
use crate::gemm::{self, Element, Epilogue, PackedB, Problem, RawRhs};
use crate::trap::{Trap, TrapCode, Worker, raise};
use date::DatePart;
use std::cell::RefCell;
use std::fmt::Display;
use text::{ParseError, RegexPattern};

/// A text that came in as two words.
struct Text(TextView);

impl Text {
    /// # Safety
    /// The words are a text whose bytes outlive it and all of its parts that are used.
    unsafe fn new(lo: i64, hi: i64) -> Text {
        // SAFETY: promised by the caller.
        Text(unsafe { TextView::from_words(lo as u64, hi as u64) })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes live, as `new` asked for, or stand in the view itself, which the result borrows.
        unsafe { self.0.as_bytes() }
    }

    /// The view of a part of this text.
    fn part(&self, part: &[u8]) -> TextView {
        // SAFETY: a part of more than 12 bytes is not in the view itself, so that it lives as long as this text's bytes.
        unsafe { TextView::from_raw_bytes(part.as_ptr(), part.len()) }
    }
}

/// # Safety
/// `out` is the address of a value of this type (not necessarily aligned) that only the caller uses.
unsafe fn put<T>(out: *mut u8, value: T) {
    // SAFETY: promised by the caller.
    unsafe { out.cast::<T>().write_unaligned(value) };
}

/// # Safety
/// As for [`put`], with two words.
unsafe fn put_text(out: *mut u8, text: TextView) {
    let (lo, hi) = text.to_words();
    // SAFETY: promised by the caller.
    unsafe { put(out, [lo, hi]) };
}

/// # Safety
/// As for [`put`] and [`raise`].
unsafe fn put_or_raise<T>(worker: *mut u8, out: *mut u8, result: Result<T, Trap>) -> i32 {
    // SAFETY: promised by the caller.
    unsafe {
        match result {
            Ok(value) => {
                put(out, value);
                0
            }
            Err(trap) => raise(worker, trap),
        }
    }
}

/// Makes a new text of the worker's.
///
/// # Safety
/// `worker` is a live worker block that only this task uses; `out` as for [`put_text`].
unsafe fn put_new_text(worker: *mut u8, out: *mut u8, bytes: &[u8]) -> i32 {
    // SAFETY: promised by the caller; the scratch of a live worker lives.
    unsafe {
        let scratch = &mut *(*worker.cast::<Worker>()).scratch;
        match scratch.texts.copy(bytes) {
            Ok(view) => {
                put_text(out, view);
                0
            }
            Err(error) => raise(worker, Trap::from(error)),
        }
    }
}

fn overflow() -> Trap {
    Trap::new(TrapCode::Overflow)
}

/// A result that this type cannot hold.
fn beyond(ty: impl Display) -> Trap {
    Trap::with_detail(TrapCode::Overflow, ty.to_string())
}

/// A decimal type's name.
fn decimal_type(precision: i32, scale: i32) -> String {
    format!("decimal({precision},{scale})")
}

fn words(lo: i64, hi: i64) -> i128 {
    i128::from(hi) << 64 | i128::from(lo as u64)
}

macro_rules! calls {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)+) => {$(
        $(#[$meta])*
        /// See the table in [`crate::abi`].
        ///
        /// # Safety
        /// The arguments are what the head of this file says.
        #[allow(clippy::too_many_arguments, reason = "the words of the values are the arguments")]
        pub(crate) unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: promised by the caller.
            unsafe { $body }
        }
    )+};
}

calls! {
    fn text_length(lo: i64, hi: i64) -> i64 {
        text::length(Text::new(lo, hi).bytes()) as i64
    }

    fn text_lower(worker: *mut u8, lo: i64, hi: i64, out: *mut u8) -> i32 {
        with_buffer(|buffer| {
            text::lower(Text::new(lo, hi).bytes(), buffer);
            put_new_text(worker, out, buffer)
        })
    }

    fn text_upper(worker: *mut u8, lo: i64, hi: i64, out: *mut u8) -> i32 {
        with_buffer(|buffer| {
            text::upper(Text::new(lo, hi).bytes(), buffer);
            put_new_text(worker, out, buffer)
        })
    }

    fn text_trim(lo: i64, hi: i64, out: *mut u8) {
        let text = Text::new(lo, hi);
        put_text(out, text.part(text::trim(text.bytes())));
    }

    fn text_trim_start(lo: i64, hi: i64, out: *mut u8) {
        let text = Text::new(lo, hi);
        put_text(out, text.part(text::trim_start(text.bytes())));
    }

    fn text_trim_end(lo: i64, hi: i64, out: *mut u8) {
        let text = Text::new(lo, hi);
        put_text(out, text.part(text::trim_end(text.bytes())));
    }

    fn text_substring(worker: *mut u8, lo: i64, hi: i64, start: i64, length: i64, out: *mut u8) -> i32 {
        let text = Text::new(lo, hi);
        match text::substring(text.bytes(), start, Some(length)) {
            Some(part) => {
                put_text(out, text.part(part));
                0
            }
            None => raise(worker, Trap::with_detail(TrapCode::InvalidArgument, "negative substring length not allowed")),
        }
    }

    fn text_concat(worker: *mut u8, a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64, out: *mut u8) -> i32 {
        let (a, b) = (Text::new(a_lo, a_hi), Text::new(b_lo, b_hi));
        with_buffer(|buffer| {
            buffer.extend_from_slice(a.bytes());
            buffer.extend_from_slice(b.bytes());
            put_new_text(worker, out, buffer)
        })
    }

    fn text_replace(
        worker: *mut u8, lo: i64, hi: i64, from_lo: i64, from_hi: i64, to_lo: i64, to_hi: i64, out: *mut u8
    ) -> i32 {
        let (from, to) = (Text::new(from_lo, from_hi), Text::new(to_lo, to_hi));
        with_buffer(|buffer| {
            text::replace(Text::new(lo, hi).bytes(), from.bytes(), to.bytes(), buffer);
            put_new_text(worker, out, buffer)
        })
    }

    fn text_starts_with(a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64) -> i8 {
        i8::from(text::starts_with(Text::new(a_lo, a_hi).bytes(), Text::new(b_lo, b_hi).bytes()))
    }

    fn text_contains(a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64) -> i8 {
        i8::from(text::contains(Text::new(a_lo, a_hi).bytes(), Text::new(b_lo, b_hi).bytes()))
    }

    fn text_position(a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64) -> i64 {
        text::position(Text::new(a_lo, a_hi).bytes(), Text::new(b_lo, b_hi).bytes())
    }

    fn text_like(a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64) -> i8 {
        i8::from(like(&Text::new(a_lo, a_hi), &Text::new(b_lo, b_hi), false))
    }

    fn text_ilike(a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64) -> i8 {
        i8::from(like(&Text::new(a_lo, a_hi), &Text::new(b_lo, b_hi), true))
    }

    /// `pattern` is the address of a live [`LikePattern`].
    fn like_match(pattern: *mut u8, lo: i64, hi: i64) -> i8 {
        i8::from((*pattern.cast::<LikePattern>()).matches(Text::new(lo, hi).bytes()))
    }

    /// `pattern` is the address of a live [`LikePattern`]; `views` and `mask` hold `rows` elements.
    fn filter_like(pattern: *mut u8, views: *mut u8, rows: i64, mask: *mut u8, mode: i32) {
        let pattern = &*pattern.cast_const().cast::<LikePattern>();
        let views = elements::<TextView>(views, rows);
        let wanted = mode & mode::NEGATE == 0;
        if let (Some(needle), 0) = (pattern.needle(), mode & (mode::AND | mode::OR)) {
            let mask = elements_mut::<u8>(mask, rows);
            let mut from = 0;
            while from < views.len() {
                let (texts, bytes) = run_of_texts(&views[from..]);
                let each = views[from..from + texts].iter().map(|view| view.as_bytes());
                let tell = |i, fits| mask[from + i] = u8::from(fits == wanted);
                pattern.matches_each(needle, each, bytes, tell);
                from += texts;
            }
            return;
        }
        for (view, kept) in views.iter().zip(elements_mut::<u8>(mask, rows)) {
            let test = || u8::from(pattern.matches(view.as_bytes()) == wanted);
            match mode & (mode::AND | mode::OR) {
                mode::AND if *kept != 0 => *kept = test(),
                mode::OR if *kept == 0 => *kept = test(),
                mode::AND | mode::OR => {}
                _ => *kept = test(),
            }
        }
    }

    fn text_regex_match(worker: *mut u8, a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64, out: *mut u8) -> i32 {
        let found = regex(&Text::new(a_lo, a_hi), &Text::new(b_lo, b_hi));
        put_or_raise(worker, out, found.map(u8::from))
    }

    /// `pattern` is the address of a live [`RegexPattern`].
    fn regex_match(pattern: *mut u8, lo: i64, hi: i64) -> i8 {
        i8::from((*pattern.cast::<RegexPattern>()).matches(Text::new(lo, hi).bytes()))
    }

    fn text_to_bool(worker: *mut u8, lo: i64, hi: i64, out: *mut u8) -> i32 {
        read(worker, lo, hi, out, "bool", |text| text::parse_bool(text).map(u8::from))
    }

    fn text_to_i32(worker: *mut u8, lo: i64, hi: i64, out: *mut u8) -> i32 {
        read(worker, lo, hi, out, "i32", text::parse_i32)
    }

    fn text_to_i64(worker: *mut u8, lo: i64, hi: i64, out: *mut u8) -> i32 {
        read(worker, lo, hi, out, "i64", text::parse_i64)
    }

    fn text_to_f32(worker: *mut u8, lo: i64, hi: i64, out: *mut u8) -> i32 {
        read(worker, lo, hi, out, "f32", text::parse_f32)
    }

    fn text_to_f64(worker: *mut u8, lo: i64, hi: i64, out: *mut u8) -> i32 {
        read(worker, lo, hi, out, "f64", text::parse_f64)
    }

    fn text_to_date(worker: *mut u8, lo: i64, hi: i64, out: *mut u8) -> i32 {
        read(worker, lo, hi, out, "date", text::parse_date)
    }

    fn text_to_timestamp(worker: *mut u8, lo: i64, hi: i64, out: *mut u8) -> i32 {
        read(worker, lo, hi, out, "timestamp", text::parse_timestamp)
    }

    fn text_to_decimal(worker: *mut u8, lo: i64, hi: i64, scale: i32, precision: i32, out: *mut u8) -> i32 {
        read(worker, lo, hi, out, format_args!("decimal({precision},{scale})"), |text| text::parse_decimal(text, scale as u32, precision as u32))
    }

    fn bool_to_text(worker: *mut u8, value: i8, out: *mut u8) -> i32 {
        print(worker, out, |buffer| text::print_bool(value != 0, buffer))
    }

    fn i64_to_text(worker: *mut u8, value: i64, out: *mut u8) -> i32 {
        print(worker, out, |buffer| text::print_i64(value, buffer))
    }

    fn f32_to_text(worker: *mut u8, value: f32, out: *mut u8) -> i32 {
        print(worker, out, |buffer| text::print_f32(value, buffer))
    }

    fn f64_to_text(worker: *mut u8, value: f64, out: *mut u8) -> i32 {
        print(worker, out, |buffer| text::print_f64(value, buffer))
    }

    fn date_to_text(worker: *mut u8, value: i32, out: *mut u8) -> i32 {
        print(worker, out, |buffer| date::print_date(value, buffer))
    }

    fn timestamp_to_text(worker: *mut u8, value: i64, out: *mut u8) -> i32 {
        print(worker, out, |buffer| date::print_timestamp(value, buffer))
    }

    fn decimal_to_text(worker: *mut u8, lo: i64, hi: i64, scale: i32, out: *mut u8) -> i32 {
        print(worker, out, |buffer| decimal::print(words(lo, hi), scale as u32, buffer))
    }

    fn date_trunc(worker: *mut u8, part: i32, days: i32, out: *mut u8) -> i32 {
        put_or_raise(worker, out, date::trunc_date(date_part(part), days).ok_or_else(|| beyond("date")))
    }

    fn timestamp_trunc(worker: *mut u8, part: i32, micros: i64, out: *mut u8) -> i32 {
        put_or_raise(worker, out, date::trunc_timestamp(date_part(part), micros).ok_or_else(|| beyond("timestamp")))
    }

    fn date_add_months(worker: *mut u8, days: i32, months: i32, out: *mut u8) -> i32 {
        put_or_raise(worker, out, date::add_months(days, i64::from(months)).ok_or_else(|| beyond("date")))
    }

    fn timestamp_add_months(worker: *mut u8, micros: i64, months: i32, out: *mut u8) -> i32 {
        put_or_raise(worker, out, date::timestamp_add_months(micros, i64::from(months)).ok_or_else(|| beyond("timestamp")))
    }

    fn date_diff(worker: *mut u8, part: i32, a: i32, b: i32, out: *mut u8) -> i32 {
        put_or_raise(worker, out, date::diff_date(date_part(part), a, b).ok_or_else(overflow))
    }

    fn timestamp_diff(worker: *mut u8, part: i32, a: i64, b: i64, out: *mut u8) -> i32 {
        put_or_raise(worker, out, date::diff_timestamp(date_part(part), a, b).ok_or_else(overflow))
    }

    fn date_to_timestamp(worker: *mut u8, days: i32, out: *mut u8) -> i32 {
        put_or_raise(worker, out, date::date_to_timestamp(days).ok_or_else(|| beyond("timestamp")))
    }

    fn decimal_mul(
        worker: *mut u8, a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64, precision: i32, out: *mut u8
    ) -> i32 {
        let product = decimal::mul(words(a_lo, a_hi), words(b_lo, b_hi), precision as u32);
        put_or_raise(worker, out, product.ok_or_else(overflow))
    }

    fn decimal_div(worker: *mut u8, a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64, out: *mut u8) -> i32 {
        let (a, b) = (words(a_lo, a_hi), words(b_lo, b_hi));
        put_or_raise(worker, out, decimal::div_int(a, b).ok_or_else(|| divided_by(b)))
    }

    fn decimal_rem(worker: *mut u8, a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64, out: *mut u8) -> i32 {
        let (a, b) = (words(a_lo, a_hi), words(b_lo, b_hi));
        put_or_raise(worker, out, decimal::rem(a, b).ok_or_else(|| divided_by(b)))
    }

    fn decimal_rescale(worker: *mut u8, lo: i64, hi: i64, from: i32, to: i32, precision: i32, out: *mut u8) -> i32 {
        let value = decimal::rescale(words(lo, hi), from as u32, to as u32, precision as u32);
        put_or_raise(worker, out, value.ok_or_else(|| beyond(decimal_type(precision, to))))
    }

    fn decimal_round(
        worker: *mut u8, lo: i64, hi: i64, scale: i32, digits: i32, precision: i32, out: *mut u8
    ) -> i32 {
        let value = decimal::round(words(lo, hi), scale as u32, digits);
        put_or_raise(worker, out, value.and_then(|value| decimal::fit(value, precision as u32)).ok_or_else(|| beyond(decimal_type(precision, scale))))
    }

    fn decimal_floor(lo: i64, hi: i64, scale: i32, out: *mut u8) {
        put(out, decimal::floor(words(lo, hi), scale as u32));
    }

    fn decimal_ceil(lo: i64, hi: i64, scale: i32, out: *mut u8) {
        put(out, decimal::ceil(words(lo, hi), scale as u32));
    }

    fn decimal_trunc(lo: i64, hi: i64, scale: i32, out: *mut u8) {
        put(out, decimal::trunc(words(lo, hi), scale as u32));
    }

    fn decimal_to_i64(worker: *mut u8, lo: i64, hi: i64, scale: i32, out: *mut u8) -> i32 {
        put_or_raise(worker, out, decimal::to_i64(words(lo, hi), scale as u32).ok_or_else(|| beyond("i64")))
    }

    fn f64_to_decimal(worker: *mut u8, value: f64, scale: i32, precision: i32, out: *mut u8) -> i32 {
        put_or_raise(worker, out, decimal::from_f64(value, scale as u32, precision as u32).ok_or_else(|| beyond(decimal_type(precision, scale))))
    }

    fn f32_to_decimal(worker: *mut u8, value: f32, scale: i32, precision: i32, out: *mut u8) -> i32 {
        put_or_raise(worker, out, decimal::from_f32(value, scale as u32, precision as u32).ok_or_else(|| beyond(decimal_type(precision, scale))))
    }

    fn gemm_f32(
        m: i64, n: i64, k: i64, alpha: f32, a: *mut u8, a_row: i64, a_column: i64, b: *mut u8, b_row: i64, b_column: i64,
        beta: f32, c: *mut u8, c_row: i64, c_column: i64, bias: *mut u8, relu: i8
    ) {
        let b = RawRhs::Plain { data: b.cast_const().cast(), strides: [b_row as usize, b_column as usize] };
        product([m, n, k], alpha, a, [a_row, a_column], b, beta, c, [c_row, c_column], bias, relu)
    }

    fn gemm_f64(
        m: i64, n: i64, k: i64, alpha: f64, a: *mut u8, a_row: i64, a_column: i64, b: *mut u8, b_row: i64, b_column: i64,
        beta: f64, c: *mut u8, c_row: i64, c_column: i64, bias: *mut u8, relu: i8
    ) {
        let b = RawRhs::Plain { data: b.cast_const().cast(), strides: [b_row as usize, b_column as usize] };
        product([m, n, k], alpha, a, [a_row, a_column], b, beta, c, [c_row, c_column], bias, relu)
    }

    /// `b` is the address of a live [`PackedB<f32>`].
    fn gemm_packed_f32(
        m: i64, alpha: f32, a: *mut u8, a_row: i64, a_column: i64, b: *mut u8, beta: f32, c: *mut u8, c_row: i64,
        c_column: i64, bias: *mut u8, relu: i8
    ) {
        let b = &*b.cast_const().cast::<PackedB<f32>>();
        let shape = [m, b.n() as i64, b.k() as i64];
        product(shape, alpha, a, [a_row, a_column], RawRhs::Packed(b), beta, c, [c_row, c_column], bias, relu)
    }

    /// `b` is the address of a live [`PackedB<f64>`].
    fn gemm_packed_f64(
        m: i64, alpha: f64, a: *mut u8, a_row: i64, a_column: i64, b: *mut u8, beta: f64, c: *mut u8, c_row: i64,
        c_column: i64, bias: *mut u8, relu: i8
    ) {
        let b = &*b.cast_const().cast::<PackedB<f64>>();
        let shape = [m, b.n() as i64, b.k() as i64];
        product(shape, alpha, a, [a_row, a_column], RawRhs::Packed(b), beta, c, [c_row, c_column], bias, relu)
    }
}

/// See the table in [`crate::abi`].
pub(crate) fn date_extract(part: i32, days: i32) -> i64 {
    date::extract_date(date_part(part), days)
}

/// See the table in [`crate::abi`].
pub(crate) fn timestamp_extract(part: i32, micros: i64) -> i64 {
    date::extract_timestamp(date_part(part), micros)
}

/// See the table in [`crate::abi`].
pub(crate) fn timestamp_to_date(micros: i64) -> i32 {
    date::timestamp_to_date(micros)
}

/// See the table in [`crate::abi`].
pub(crate) fn decimal_to_f64(lo: i64, hi: i64, scale: i32) -> f64 {
    decimal::to_f64(words(lo, hi), scale as u32)
}

/// See the table in [`crate::abi`].
pub(crate) fn decimal_to_f32(lo: i64, hi: i64, scale: i32) -> f32 {
    decimal::to_f32(words(lo, hi), scale as u32)
}

/// Block functions: `out` may be `x` itself, so that a piece is copied before it is written.
macro_rules! blocks {
    ($($name:ident($t:ident);)+) => {
        calls! {$(
            fn $name(x: *mut u8, out: *mut u8, n: i64) {
                in_pieces(x.cast::<$t>(), out.cast::<$t>(), n, vector_math::$name)
            }
        )+}
    };
}

blocks! {
    exp_block_f32(f32);
    exp_block_f64(f64);
    expm1_block_f32(f32);
    expm1_block_f64(f64);
    log_block_f32(f32);
    log_block_f64(f64);
    log1p_block_f32(f32);
    log1p_block_f64(f64);
    tanh_block_f32(f32);
    tanh_block_f64(f64);
    sigmoid_block_f32(f32);
    sigmoid_block_f64(f64);
    erf_block_f32(f32);
    erf_block_f64(f64);
    softplus_block_f32(f32);
    softplus_block_f64(f64);
    sin_block_f32(f32);
    sin_block_f64(f64);
    cos_block_f32(f32);
    cos_block_f64(f64);
    sqrt_block_f32(f32);
    sqrt_block_f64(f64);
    relu_block_f32(f32);
    relu_block_f64(f64);
}

/// Reductions of a block into one element, which `x` does not overlap.
macro_rules! folds {
    ($($name:ident($t:ident) => $function:ident;)+) => {
        calls! {$(
            fn $name(x: *mut u8, out: *mut u8, n: i64) {
                let (x, out, n) = (x.cast_const().cast::<$t>(), out.cast::<$t>(), usize::try_from(n).unwrap_or(0));
                if n > 0 {
                    *out = vector_math::$function(*out, std::slice::from_raw_parts(x, n));
                }
            }
        )+}
    };
}

folds! {
    max_fold_f32(f32) => max_f32;
    max_fold_f64(f64) => max_f64;
}

/// Elements that are copied at a time where a block function works in place.
const PIECE: usize = 512;

/// # Safety
/// `x` and `out` hold `n` elements each; they are the same or do not overlap.
unsafe fn in_pieces<T: Element>(x: *const T, out: *mut T, n: i64, function: fn(&[T], &mut [T])) {
    let n = usize::try_from(n).unwrap_or(0);
    if n == 0 {
        return;
    }
    // SAFETY: promised by the caller; where both are the same, `x` is copied and not borrowed.
    unsafe {
        let out = std::slice::from_raw_parts_mut(out, n);
        if x != out.as_ptr() {
            return function(std::slice::from_raw_parts(x, n), out);
        }
        let mut piece = [T::ZERO; PIECE];
        for out in out.chunks_mut(PIECE) {
            let piece = &mut piece[..out.len()];
            piece.copy_from_slice(out);
            function(piece, out);
        }
    }
}

/// # Safety
/// As for `gemm_raw`, with sizes and strides that are not negative; `bias` is null or has n elements.
#[allow(clippy::too_many_arguments, reason = "the words of the operands are the arguments")]
unsafe fn product<T: Element>(
    [m, n, k]: [i64; 3],
    alpha: T,
    a: *mut u8,
    a_strides: [i64; 2],
    b: RawRhs<T>,
    beta: T,
    c: *mut u8,
    c_strides: [i64; 2],
    bias: *mut u8,
    relu: i8,
) {
    // SAFETY: promised by the caller.
    unsafe {
        let bias = (!bias.is_null()).then(|| std::slice::from_raw_parts(bias.cast_const().cast::<T>(), n as usize));
        let problem = Problem {
            m: m as usize,
            n: n as usize,
            k: k as usize,
            alpha,
            a: a.cast_const().cast(),
            a_strides: a_strides.map(|stride| stride as usize),
            b,
            beta,
            c: c.cast(),
            c_strides: c_strides.map(|stride| stride as usize),
            epilogue: match (bias, relu != 0) {
                (None, false) => Epilogue::None,
                (None, true) => Epilogue::Relu,
                (Some(bias), false) => Epilogue::Bias(bias),
                (Some(bias), true) => Epilogue::BiasRelu(bias),
            },
        };
        gemm::gemm_raw(&problem, 0..m as usize);
    }
}

fn divided_by(divisor: i128) -> Trap {
    if divisor == 0 { Trap::new(TrapCode::DivisionByZero) } else { overflow() }
}

/// An unknown code is a bug in who made the call: the shim reports the panic.
fn date_part(code: i32) -> DatePart {
    match u8::try_from(code).ok().and_then(DatePart::from_code) {
        Some(part) => part,
        None => panic!("{code} is no part of a date"),
    }
}

/// How many texts of a column stand ahead of the first long one that does not lie right behind the long one before it, and the
/// bytes of the long ones among them.
///
/// # Safety
/// The views are of a column, which outlives the bytes.
unsafe fn run_of_texts<'a>(views: &[TextView]) -> (usize, &'a [u8]) {
    let mut run: Option<(u64, u64)> = None;
    let mut texts = 0;
    for view in views {
        if view.len() > TextView::INLINE {
            let address = view.to_words().1;
            let (begin, end) = run.unwrap_or((address, address));
            if address != end {
                break;
            }
            run = Some((begin, end + view.len() as u64));
        }
        texts += 1;
    }
    let Some((begin, end)) = run else { return (texts, &[]) };
    let start = std::ptr::with_exposed_provenance(begin as usize);
    // SAFETY: texts of a column without a gap between them are in one allocation, for its heap leaves a byte free behind each.
    (texts, unsafe { std::slice::from_raw_parts(start, (end - begin) as usize) })
}

/// Reads a text. The detail of what is no such value: the type, a byte 0, the text in quotes; of what is too large: the type.
///
/// # Safety
/// As for [`put_or_raise`]; the words are a text.
unsafe fn read<T>(
    worker: *mut u8,
    lo: i64,
    hi: i64,
    out: *mut u8,
    to: impl Display,
    parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
) -> i32 {
    // SAFETY: promised by the caller.
    unsafe {
        let text = Text::new(lo, hi);
        let result = parse(text.bytes()).map_err(|error| {
            let (code, detail) = match error {
                ParseError::Syntax => (TrapCode::InvalidCast, Some(text.bytes())),
                ParseError::OutOfRange => (TrapCode::Overflow, None),
            };
            match detail {
                _ if worker.is_null() => Trap::new(code),
                Some(text) => Trap::with_detail(code, format!("{to}\0'{}'", String::from_utf8_lossy(text))),
                None => Trap::with_detail(code, to.to_string()),
            }
        });
        put_or_raise(worker, out, result)
    }
}

/// # Safety
/// As for [`put_new_text`].
unsafe fn print(worker: *mut u8, out: *mut u8, print: impl FnOnce(&mut String)) -> i32 {
    with_buffer(|buffer| {
        let mut text = String::from_utf8(std::mem::take(buffer)).unwrap_or_default();
        print(&mut text);
        *buffer = text.into_bytes();
        // SAFETY: promised by the caller.
        unsafe { put_new_text(worker, out, buffer) }
    })
}

/// Lends this thread's buffer, empty.
fn with_buffer<R>(run: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        run(buffer)
    })
}

/// Patterns come as values, but seldom change from row to row: the last one is kept.
fn like(text: &Text, pattern: &Text, ignore_case: bool) -> bool {
    type Kept = RefCell<Option<(Vec<u8>, bool, LikePattern)>>;
    thread_local! {
        static LAST: Kept = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| {
        if let Some((kept, kept_case, compiled)) = last
            && kept == pattern.bytes()
            && *kept_case == ignore_case
        {
            return compiled.matches(text.bytes());
        }
        let compiled = LikePattern::new(pattern.bytes(), Some('\\'), ignore_case);
        let result = compiled.matches(text.bytes());
        *last = Some((pattern.bytes().to_vec(), ignore_case, compiled));
        result
    })
}

fn regex(text: &Text, pattern: &Text) -> Result<bool, Trap> {
    thread_local! {
        static LAST: RefCell<Option<(Vec<u8>, RegexPattern)>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| {
        if let Some((kept, compiled)) = last
            && kept == pattern.bytes()
        {
            return Ok(compiled.matches(text.bytes()));
        }
        let invalid = |words: String| {
            Trap::with_detail(TrapCode::InvalidArgument, format!("invalid regular expression: {words}"))
        };
        let source = std::str::from_utf8(pattern.bytes()).map_err(|error| invalid(error.to_string()))?;
        let compiled = RegexPattern::new(source).map_err(invalid)?;
        let result = compiled.matches(text.bytes());
        *last = Some((pattern.bytes().to_vec(), compiled));
        Ok(result)
    })
}

#[cfg(test)]
mod tests {
    use crate::abi::{AbiValue, RuntimeFn, call};
    use crate::column::{Column, TextView};
    use crate::gemm::{MatRef, PackedB};
    use crate::kernels::filter::mode;
    use crate::kernels::like::LikePattern;
    use crate::kernels::text::RegexPattern;
    use crate::pool::QueryMemory;
    use crate::trap::{CancelToken, Trap, TrapCode, WorkerBlock};
    use proptest::prelude::*;

    fn block() -> WorkerBlock {
        WorkerBlock::new(&[], &CancelToken::new(), &QueryMemory::unlimited())
    }

    fn text(text: &'static str) -> [AbiValue; 2] {
        // SAFETY: a static text lives.
        let (lo, hi) = unsafe { TextView::from_raw_bytes(text.as_ptr(), text.len()) }.to_words();
        [AbiValue::I64(lo as i64), AbiValue::I64(hi as i64)]
    }

    fn ptr<T>(to: &mut T) -> AbiValue {
        AbiValue::Ptr((&raw mut *to).cast())
    }

    /// Calls a function that needs no worker and gives its result back.
    fn run(function: RuntimeFn, args: &[&[AbiValue]]) -> AbiValue {
        // SAFETY: the tests pass live memory of the right types.
        unsafe { call(function, &args.concat()) }.expect("the arguments fit")
    }

    /// Calls a function that takes the worker first and a place for the result last.
    fn made<T: Default>(function: RuntimeFn, args: &[&[AbiValue]]) -> Result<T, Trap> {
        let mut block = block();
        let mut out = T::default();
        let all = [&[AbiValue::Ptr(block.as_mut_ptr().cast())], args.concat().as_slice(), &[ptr(&mut out)]].concat();
        // SAFETY: as above.
        match unsafe { call(function, &all) }.expect("the arguments fit") {
            AbiValue::I32(status) => block.check(status).map(|()| out),
            other => panic!("{other:?} is no status"),
        }
    }

    fn made_text(function: RuntimeFn, args: &[&[AbiValue]]) -> Result<String, Trap> {
        let mut block = block();
        let mut out = [0u64; 2];
        let all = [&[AbiValue::Ptr(block.as_mut_ptr().cast())], args.concat().as_slice(), &[ptr(&mut out)]].concat();
        // SAFETY: as above; the block, and the text in it, lives until the end of this function.
        unsafe {
            match call(function, &all).expect("the arguments fit") {
                AbiValue::I32(status) => block.check(status)?,
                other => panic!("{other:?} is no status"),
            }
            Ok(TextView::from_words(out[0], out[1]).as_str().to_string())
        }
    }

    fn words(value: i128) -> [AbiValue; 2] {
        [AbiValue::I64(value as i64), AbiValue::I64((value >> 64) as i64)]
    }

    #[test]
    fn texts() {
        let long = text("A rather long text, beyond twelve bytes");
        let upper = made_text(RuntimeFn::TextUpper, &[&long]);
        assert_eq!(upper.as_deref(), Ok("A RATHER LONG TEXT, BEYOND TWELVE BYTES"));
        assert_eq!(made_text(RuntimeFn::TextLower, &[&text("ABC")]).as_deref(), Ok("abc"));
        assert_eq!(made_text(RuntimeFn::TextConcat, &[&text("abc"), &text("d")]).as_deref(), Ok("abcd"));
        let replaced = made_text(RuntimeFn::TextReplace, &[&long, &text("long"), &text("short")]);
        assert_eq!(replaced.as_deref(), Ok("A rather short text, beyond twelve bytes"));
        for (start, length, expected) in [(3, 6, "rather"), (3, 16, "rather long text"), (-5, 7, "A"), (99, 1, "")] {
            let part = made_text(RuntimeFn::TextSubstring, &[&long, &[AbiValue::I64(start), AbiValue::I64(length)]]);
            assert_eq!(part.as_deref(), Ok(expected));
        }
        let negative = made_text(RuntimeFn::TextSubstring, &[&long, &[AbiValue::I64(1), AbiValue::I64(-1)]]);
        assert_eq!(negative.map_err(|trap| trap.code), Err(TrapCode::InvalidArgument));
        let mut out = [0u64; 2];
        assert_eq!(run(RuntimeFn::TextTrim, &[&text("  something to be trimmed "), &[ptr(&mut out)]]), AbiValue::Unit);
        // SAFETY: the view is of the static text.
        assert_eq!(unsafe { TextView::from_words(out[0], out[1]).as_str() }, "something to be trimmed");
        assert_eq!(run(RuntimeFn::TextLength, &[&text("日本語")]), AbiValue::I64(3));
        assert_eq!(run(RuntimeFn::TextPosition, &[&long, &text("long")]), AbiValue::I64(10));
        assert_eq!(run(RuntimeFn::TextContains, &[&long, &text("xyz")]), AbiValue::I8(0));
        assert_eq!(run(RuntimeFn::TextStartsWith, &[&long, &text("A ")]), AbiValue::I8(1));
    }

    #[test]
    fn patterns() {
        let long = text("A rather long text, beyond twelve bytes");
        for (pattern, like, ilike) in [("%LONG%", 0, 1), ("A%s", 1, 1), ("A%S", 0, 1), ("%x", 0, 0)] {
            assert_eq!(run(RuntimeFn::TextLike, &[&long, &text(pattern)]), AbiValue::I8(like));
            assert_eq!(run(RuntimeFn::TextIlike, &[&long, &text(pattern)]), AbiValue::I8(ilike));
            let mut compiled = LikePattern::new(pattern.as_bytes(), Some('\\'), false);
            assert_eq!(run(RuntimeFn::LikeMatch, &[&[ptr(&mut compiled)], &long]), AbiValue::I8(like));
            // SAFETY: static texts live.
            let mut views =
                ["A rather long text", "AS"].map(|t| unsafe { TextView::from_raw_bytes(t.as_ptr(), t.len()) });
            let expected =
                views.map(|view| u8::from(compiled.matches(format!("{view:?}").trim_matches('"').as_bytes())));
            for (mode, before) in [(0, [1, 0]), (4, [0, 1]), (1, [1, 0]), (2, [1, 0]), (5, [1, 1]), (6, [0, 1])] {
                let mut mask = before;
                let args = [ptr(&mut compiled), ptr(&mut views), AbiValue::I64(2), ptr(&mut mask), AbiValue::I32(mode)];
                run(RuntimeFn::FilterLike, &[&args]);
                for row in 0..2 {
                    let test = expected[row] ^ u8::from(mode & 4 != 0);
                    let after = [test, before[row] & test, before[row] | test][(mode & 3) as usize];
                    assert_eq!(mask[row], after, "{pattern} mode {mode} row {row}");
                }
            }
        }
        for (pattern, expected) in [("t[aeiou]xt", 1), ("^long", 0)] {
            assert_eq!(made::<u8>(RuntimeFn::TextRegexMatch, &[&long, &text(pattern)]), Ok(expected));
            let mut compiled = RegexPattern::new(pattern).expect("a pattern");
            let found = run(RuntimeFn::RegexMatch, &[&[ptr(&mut compiled)], &long]);
            assert_eq!(found, AbiValue::I8(expected as i8));
        }
        let trap = made::<u8>(RuntimeFn::TextRegexMatch, &[&long, &text("(")]).expect_err("no pattern");
        assert_eq!(trap.code, TrapCode::InvalidArgument);
        assert!(trap.detail.is_some_and(|detail| detail.contains("invalid regular expression")));
    }

    #[test]
    fn conversions() {
        assert_eq!(made::<i64>(RuntimeFn::TextToI64, &[&text(" -42 ")]), Ok(-42));
        assert_eq!(made::<i32>(RuntimeFn::TextToDate, &[&text("1970-01-02")]), Ok(1));
        assert_eq!(made::<f64>(RuntimeFn::TextToF64, &[&text("1e3")]), Ok(1000.0));
        assert_eq!(made::<u8>(RuntimeFn::TextToBool, &[&text("yes")]), Ok(1));
        let decimal = [&text("12.345")[..], &[AbiValue::I32(2), AbiValue::I32(5)]];
        assert_eq!(made::<i128>(RuntimeFn::TextToDecimal, &decimal), Ok(1235));
        let trap = made::<i64>(RuntimeFn::TextToI64, &[&text("forty-two")]).expect_err("no number");
        assert_eq!((trap.code, trap.detail.as_deref()), (TrapCode::InvalidCast, Some("i64\0'forty-two'")));
        let mut out = 0i32;
        let null = AbiValue::Ptr(std::ptr::null_mut());
        let status = run(RuntimeFn::TextToI32, &[&[null], &text("x"), &[ptr(&mut out)]]);
        assert_eq!(status, AbiValue::I32(TrapCode::InvalidCast.status()));

        assert_eq!(made_text(RuntimeFn::F64ToText, &[&[AbiValue::F64(0.1)]]).as_deref(), Ok("0.1"));
        assert_eq!(made_text(RuntimeFn::F32ToText, &[&[AbiValue::F32(1e10)]]).as_deref(), Ok("1e+10"));
        assert_eq!(made_text(RuntimeFn::I64ToText, &[&[AbiValue::I64(-7)]]).as_deref(), Ok("-7"));
        assert_eq!(made_text(RuntimeFn::BoolToText, &[&[AbiValue::I8(1)]]).as_deref(), Ok("true"));
        assert_eq!(made_text(RuntimeFn::DateToText, &[&[AbiValue::I32(1)]]).as_deref(), Ok("1970-01-02"));
        let decimal = made_text(RuntimeFn::DecimalToText, &[&words(-1235), &[AbiValue::I32(2)]]);
        assert_eq!(decimal.as_deref(), Ok("-12.35"));
        let time = made_text(RuntimeFn::TimestampToText, &[&[AbiValue::I64(-1)]]);
        assert_eq!(time.as_deref(), Ok("1969-12-31 23:59:59.999999"));
    }

    #[test]
    fn dates() {
        let year = AbiValue::I32(crate::kernels::date::DatePart::Year as i32);
        assert_eq!(run(RuntimeFn::DateExtract, &[&[year, AbiValue::I32(0)]]), AbiValue::I64(1970));
        assert_eq!(run(RuntimeFn::TimestampExtract, &[&[year, AbiValue::I64(-1)]]), AbiValue::I64(1969));
        assert_eq!(run(RuntimeFn::TimestampToDate, &[&[AbiValue::I64(-1)]]), AbiValue::I32(-1));
        assert_eq!(made::<i32>(RuntimeFn::DateTrunc, &[&[year, AbiValue::I32(40)]]), Ok(0));
        assert_eq!(made::<i32>(RuntimeFn::DateAddMonths, &[&[AbiValue::I32(30), AbiValue::I32(1)]]), Ok(58));
        assert_eq!(made::<i64>(RuntimeFn::DateDiff, &[&[year, AbiValue::I32(0), AbiValue::I32(-1)]]), Ok(-1));
        let far = made::<i64>(RuntimeFn::DateToTimestamp, &[&[AbiValue::I32(i32::MAX)]]);
        assert_eq!(far.map_err(|trap| trap.code), Err(TrapCode::Overflow));
        assert_eq!(made::<i64>(RuntimeFn::DateToTimestamp, &[&[AbiValue::I32(1)]]), Ok(86_400_000_000));
    }

    #[test]
    fn decimals() {
        let two = AbiValue::I32(2);
        let both = |a, b| [words(a), words(b)].concat();
        assert_eq!(made::<i128>(RuntimeFn::DecimalMul, &[&both(-(1 << 70), 3), &[AbiValue::I32(38)]]), Ok(-3 << 70));
        let large = made::<i128>(RuntimeFn::DecimalMul, &[&both(1 << 70, 1 << 70), &[AbiValue::I32(38)]]);
        assert_eq!(large.map_err(|trap| trap.code), Err(TrapCode::Overflow));
        assert_eq!(made::<i128>(RuntimeFn::DecimalRem, &[&both(-7, 4)]), Ok(-3));
        let zero = made::<i128>(RuntimeFn::DecimalDiv, &[&both(1, 0)]);
        assert_eq!(zero.map_err(|trap| trap.code), Err(TrapCode::DivisionByZero));
        let rescale = [AbiValue::I32(3), two, AbiValue::I32(10)];
        assert_eq!(made::<i128>(RuntimeFn::DecimalRescale, &[&words(-1235), &rescale]), Ok(-124));
        let round = [AbiValue::I32(3), AbiValue::I32(1), AbiValue::I32(10)];
        assert_eq!(made::<i128>(RuntimeFn::DecimalRound, &[&words(-1250), &round]), Ok(-1300));
        let mut out = 0i128;
        run(RuntimeFn::DecimalFloor, &[&words(-125), &[two, ptr(&mut out)]]);
        assert_eq!(out, -2);
        assert_eq!(run(RuntimeFn::DecimalToF64, &[&words(-125), &[two]]), AbiValue::F64(-1.25));
        assert_eq!(made::<i64>(RuntimeFn::DecimalToI64, &[&words(-150), &[two]]), Ok(-2));
        let from = [AbiValue::F64(1.005), two, AbiValue::I32(10)];
        assert_eq!(made::<i128>(RuntimeFn::F64ToDecimal, &[&from]), Ok(101));
    }

    #[test]
    fn floats_and_blocks() {
        assert_eq!(run(RuntimeFn::ExpF64, &[&[AbiValue::F64(0.0)]]), AbiValue::F64(1.0));
        assert_eq!(run(RuntimeFn::PowF32, &[&[AbiValue::F32(2.0), AbiValue::F32(10.0)]]), AbiValue::F32(1024.0));
        assert_eq!(run(RuntimeFn::RemF64, &[&[AbiValue::F64(-7.5), AbiValue::F64(2.0)]]), AbiValue::F64(-1.5));
        let x: Vec<f32> = (0..1500).map(|i| i as f32 * 0.01 - 7.0).collect();
        let (mut apart, mut same) = (vec![0.0f32; x.len()], x.clone());
        let n = AbiValue::I64(x.len() as i64);
        let from = AbiValue::Ptr(x.as_ptr().cast_mut().cast());
        run(RuntimeFn::TanhBlockF32, &[&[from, AbiValue::Ptr(apart.as_mut_ptr().cast()), n]]);
        let in_place = AbiValue::Ptr(same.as_mut_ptr().cast());
        run(RuntimeFn::TanhBlockF32, &[&[in_place, in_place, n]]);
        assert_eq!(apart, same);
        assert_eq!(apart[700], crate::kernels::vector_math::tanh_f32(x[700]));
    }

    #[test]
    fn products() {
        let (a, b, bias) = ([1.0f32, 2.0, 3.0, 4.0], [5.0f32, 6.0, 7.0, 8.0], [-20.0f32, 0.5]);
        let address = |x: &[f32]| AbiValue::Ptr(x.as_ptr().cast_mut().cast());
        let integer = AbiValue::I64;
        let mut c = [1.0f32; 4];
        let a_part = [AbiValue::F32(1.0), address(&a), integer(2), integer(1)];
        let c_part = [
            AbiValue::F32(1.0),
            AbiValue::Ptr(c.as_mut_ptr().cast()),
            integer(2),
            integer(1),
            address(&bias),
            AbiValue::I8(1),
        ];
        let shape = [integer(2); 3];
        run(RuntimeFn::GemmF32, &[&shape, &a_part, &[address(&b), integer(2), integer(1)], &c_part]);
        assert_eq!(c, [0.0, 23.5, 24.0, 51.5]);
        c = [1.0; 4];
        let mut packed = PackedB::new(MatRef::row_major(&b, 2, 2));
        run(RuntimeFn::GemmPackedF32, &[&shape[..1], &a_part, &[ptr(&mut packed)], &c_part]);
        assert_eq!(c, [0.0, 23.5, 24.0, 51.5]);
    }

    proptest! {
        #[test]
        fn a_column_is_tested_as_its_texts_are(
            texts in proptest::collection::vec("[ab ]{0,3}|[abc ]{10,40}", 17..80),
            pattern in prop::sample::select(vec!["%ab%", "%a%ba%", "a%bb%", "%aab%c", "%b_a%ab%", "%", "ab%", "%a"]),
        ) {
            // Distinct texts, so that no dictionary is made of them.
            let texts: Vec<String> = texts.iter().enumerate().map(|(i, t)| format!("{t}{i}")).collect();
            let column = Column::from_text(texts.iter().map(|t| Some(t.as_str())));
            prop_assert!(column.dictionary().is_none());
            let compiled = LikePattern::new(pattern.as_bytes(), None, false);
            for how in [mode::SET, mode::SET | mode::NEGATE, mode::AND, mode::OR | mode::NEGATE] {
                let before: Vec<u8> = (0..texts.len()).map(|i| u8::from(i % 3 == 0)).collect();
                let mut mask = before.clone();
                let args = [
                    AbiValue::Ptr((&raw const compiled).cast_mut().cast()),
                    AbiValue::Ptr(column.data_ptr().cast_mut().cast()),
                    AbiValue::I64(texts.len() as i64),
                    AbiValue::Ptr(mask.as_mut_ptr()),
                    AbiValue::I32(how),
                ];
                // SAFETY: pattern, column and mask live, and have so many rows.
                unsafe { call(RuntimeFn::FilterLike, &args) }.expect("the arguments fit");
                for (i, text) in texts.iter().enumerate() {
                    let test = u8::from(compiled.matches(text.as_bytes()) == (how & mode::NEGATE == 0));
                    let expected = match how & !mode::NEGATE {
                        mode::AND => before[i] & test,
                        mode::OR => before[i] | test,
                        _ => test,
                    };
                    prop_assert_eq!(mask[i], expected, "{} LIKE {}", text, pattern);
                }
            }
        }
    }
}
