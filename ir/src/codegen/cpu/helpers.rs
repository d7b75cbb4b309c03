//! 128-bit operations that the code generator's instructions do not reach: the rare paths of generated code call these.

/// A number from its halves.
fn whole(lo: u64, hi: u64) -> i128 {
    ((u128::from(hi) << 64) | u128::from(lo)) as i128
}

/// Writes the two halves of a number.
///
/// # Safety
/// `out` points to two words of the caller's.
unsafe fn put(out: *mut u64, value: i128) {
    // SAFETY: promised by the caller.
    unsafe {
        out.write(value as u64);
        out.add(1).write((value >> 64) as u64);
    }
}

/// Wrapped product; returns whether it overflowed.
///
/// # Safety
/// `out` points to two words of the caller's.
unsafe extern "C" fn mul(a_lo: u64, a_hi: u64, b_lo: u64, b_hi: u64, out: *mut u64) -> u32 {
    let (value, overflow) = whole(a_lo, a_hi).overflowing_mul(whole(b_lo, b_hi));
    // SAFETY: promised by the caller.
    unsafe { put(out, value) };
    u32::from(overflow)
}

/// Quotient; 0 where there is none.
///
/// # Safety
/// `out` points to two words of the caller's.
unsafe extern "C" fn div(a_lo: u64, a_hi: u64, b_lo: u64, b_hi: u64, out: *mut u64) {
    let value = whole(a_lo, a_hi).checked_div(whole(b_lo, b_hi));
    // SAFETY: promised by the caller.
    unsafe { put(out, value.unwrap_or(0)) };
}

/// Remainder; 0 where there is none.
///
/// # Safety
/// `out` points to two words of the caller's.
unsafe extern "C" fn rem(a_lo: u64, a_hi: u64, b_lo: u64, b_hi: u64, out: *mut u64) {
    let value = whole(a_lo, a_hi).checked_rem(whole(b_lo, b_hi));
    // SAFETY: promised by the caller.
    unsafe { put(out, value.unwrap_or(0)) };
}

extern "C" fn to_f64(lo: u64, hi: u64) -> f64 {
    whole(lo, hi) as f64
}

extern "C" fn to_f32(lo: u64, hi: u64) -> f32 {
    whole(lo, hi) as f32
}

/// Saturating; NaN gives 0.
///
/// # Safety
/// `out` points to two words of the caller's.
unsafe extern "C" fn from_f64(value: f64, out: *mut u64) {
    // SAFETY: promised by the caller.
    unsafe { put(out, value as i128) };
}

/// The helpers by symbol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Helper {
    Mul,
    Div,
    Rem,
    ToF64,
    ToF32,
    FromF64,
}

impl Helper {
    pub(super) const ALL: [Helper; 6] =
        [Helper::Mul, Helper::Div, Helper::Rem, Helper::ToF64, Helper::ToF32, Helper::FromF64];

    pub(super) fn symbol(self) -> &'static str {
        match self {
            Helper::Mul => "i128_mul_checked",
            Helper::Div => "i128_div",
            Helper::Rem => "i128_rem",
            Helper::ToF64 => "i128_to_f64",
            Helper::ToF32 => "i128_to_f32",
            Helper::FromF64 => "f64_to_i128",
        }
    }

    pub(super) fn address(self) -> *const u8 {
        match self {
            Helper::Mul => mul as *const u8,
            Helper::Div => div as *const u8,
            Helper::Rem => rem as *const u8,
            Helper::ToF64 => to_f64 as *const u8,
            Helper::ToF32 => to_f32 as *const u8,
            Helper::FromF64 => from_f64 as *const u8,
        }
    }
}
