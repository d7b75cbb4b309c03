//! Exact decimals: an `i128` that counts units of 10^-scale.
//!
//! What holds:
//! - a value of `Decimal(precision, scale)` lies strictly between -10^precision and 10^precision, and precision <= 38, so that
//!   two values of one scale can be added in an `i128` without a check of the machine's overflow;
//! - every operation is exact, or rounds once, half away from zero, or returns `None` (overflow, or division by zero);
//! - a scale is at most [`MAX_SCALE`].

use std::cmp::Ordering;

/// The largest precision and scale.
pub const MAX_SCALE: u32 = 38;

/// 10^0 to 10^38.
pub const POWERS_OF_TEN: [i128; 39] = {
    let mut powers = [1i128; 39];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// 10^exponent; `None` above 38.
#[inline]
pub fn power_of_ten(exponent: u32) -> Option<i128> {
    POWERS_OF_TEN.get(exponent as usize).copied()
}

/// The value, if it has at most `precision` digits.
#[inline]
pub fn fit(value: i128, precision: u32) -> Option<i128> {
    let limit = power_of_ten(precision)?;
    (value > -limit && value < limit).then_some(value)
}

/// The sum of two values of one scale, if it has at most `precision` digits.
#[inline]
pub fn add(a: i128, b: i128, precision: u32) -> Option<i128> {
    fit(a.checked_add(b)?, precision)
}

/// The difference of two values of one scale, if it has at most `precision` digits.
#[inline]
pub fn sub(a: i128, b: i128, precision: u32) -> Option<i128> {
    fit(a.checked_sub(b)?, precision)
}

/// The product (its scale is the sum of the scales), if it has at most `precision` digits.
#[inline]
pub fn mul(a: i128, b: i128, precision: u32) -> Option<i128> {
    fit(a.checked_mul(b)?, precision)
}

/// Quotient towards zero; `None` for a zero divisor.
#[inline]
pub fn div_int(a: i128, b: i128) -> Option<i128> {
    a.checked_div(b)
}

/// Remainder with the sign of `a`, of two values of one scale; `None` for a zero divisor.
#[inline]
pub fn rem(a: i128, b: i128) -> Option<i128> {
    if b == -1 { Some(0) } else { a.checked_rem(b) }
}

/// `value / divisor` rounded half away from zero; `divisor` > 0.
#[inline]
fn div_half_away(value: i128, divisor: i128) -> i128 {
    let (quotient, rest) = (value / divisor, value % divisor);
    // |rest| >= divisor - |rest| says |rest| >= divisor / 2 without overflow.
    let up = rest.unsigned_abs() >= divisor.unsigned_abs() - rest.unsigned_abs();
    quotient + if up { value.signum() } else { 0 }
}

/// The value at another scale: exact upwards, rounded half away from zero downwards; `None` where the result has more than
/// `precision` digits.
#[inline]
pub fn rescale(value: i128, from: u32, to: u32, precision: u32) -> Option<i128> {
    let scaled = if to >= from {
        value.checked_mul(power_of_ten(to - from)?)?
    } else {
        match power_of_ten(from - to) {
            Some(divisor) => div_half_away(value, divisor),
            None => 0,
        }
    };
    fit(scaled, precision)
}

/// `round(value, digits)` at the value's own scale: 1.25 to one digit is 1.30. Negative digits round before the point. `None`
/// only where the result leaves the `i128`.
pub fn round(value: i128, scale: u32, digits: i32) -> Option<i128> {
    let drop = i64::from(scale) - i64::from(digits);
    if drop <= 0 {
        return Some(value);
    }
    match u32::try_from(drop).ok().and_then(power_of_ten) {
        Some(unit) => div_half_away(value, unit).checked_mul(unit),
        None => Some(0),
    }
}

/// The largest whole number that is not above the value, at scale 0.
pub fn floor(value: i128, scale: u32) -> i128 {
    power_of_ten(scale).map_or(value.signum().min(0), |unit| value.div_euclid(unit))
}

/// The smallest whole number that is not below the value, at scale 0.
pub fn ceil(value: i128, scale: u32) -> i128 {
    match power_of_ten(scale) {
        Some(unit) => value.div_euclid(unit) + i128::from(value.rem_euclid(unit) != 0),
        None => value.signum().max(0),
    }
}

/// The whole number towards zero, at scale 0.
pub fn trunc(value: i128, scale: u32) -> i128 {
    power_of_ten(scale).map_or(0, |unit| value / unit)
}

/// The order of two values of any scales, exact even where rescaling would overflow.
#[inline]
pub fn compare(a: i128, a_scale: u32, b: i128, b_scale: u32) -> Ordering {
    if a_scale == b_scale {
        return a.cmp(&b);
    }
    if a_scale > b_scale {
        return compare(b, b_scale, a, a_scale).reverse();
    }
    let widened = power_of_ten(b_scale - a_scale).and_then(|factor| a.checked_mul(factor));
    match widened {
        Some(a) => a.cmp(&b),
        // |a| is too large for the finer scale, and `b` is not.
        None => a.cmp(&0),
    }
}

/// Whether an `f64` holds the integer exactly, by its magnitude.
fn is_small(value: i128) -> bool {
    value.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS
}

/// The nearest `f64`.
#[inline]
pub fn to_f64(value: i128, scale: u32) -> f64 {
    if is_small(value) && scale <= 22 {
        // Both operands are exact (10^22 is the largest exact power), so the quotient is rounded once.
        return value as f64 / POWERS_OF_TEN[scale as usize] as f64;
    }
    if scale <= 18 { wide_to_f64(value, scale) } else { to_float_through_text(value, scale) }
}

/// The nearest `f64` of a value other than 0; `scale` is at most 18.
fn wide_to_f64(value: i128, scale: u32) -> f64 {
    let magnitude = value.unsigned_abs();
    let shift = magnitude.leading_zeros();
    // 127 bits and more, divided by fewer than 60, leave more than the 54 bits that rounding looks at; that more follows is
    // told by the last one.
    let (dividend, divisor) = (magnitude << shift, POWERS_OF_TEN[scale as usize] as u128);
    let quotient = (dividend / divisor) | u128::from(dividend % divisor != 0);
    let power_of_two = f64::from_bits(u64::from(1023 - shift) << 52);
    let nearest = quotient as f64 * power_of_two;
    if value < 0 { -nearest } else { nearest }
}

/// The nearest `f32`.
#[inline]
pub fn to_f32(value: i128, scale: u32) -> f32 {
    if value.unsigned_abs() <= 1 << f32::MANTISSA_DIGITS && scale <= 10 {
        return value as f32 / POWERS_OF_TEN[scale as usize] as f32;
    }
    to_float_through_text(value, scale)
}

#[cold]
fn to_float_through_text<F: std::str::FromStr>(value: i128, scale: u32) -> F {
    let mut text = value.to_string();
    text.push_str("e-");
    text.push_str(&scale.to_string());
    match text.parse() {
        Ok(float) => float,
        Err(_) => unreachable!("digits and an exponent are a number"),
    }
}

/// `a / b` as a double: each operand is rounded to `f64`, then the quotient. `None` for a zero divisor.
#[inline]
pub fn div_f64(a: i128, a_scale: u32, b: i128, b_scale: u32) -> Option<f64> {
    if b == 0 {
        return None;
    }
    if a_scale == b_scale && is_small(a) && is_small(b) {
        return Some(a as f64 / b as f64);
    }
    Some(to_f64(a, a_scale) / to_f64(b, b_scale))
}

/// The decimal nearest to a double, read to 15 significant digits as PostgreSQL's cast does (so that 1.005 becomes 1.01 at
/// scale 2); `None` for NaN, infinities and values with more than `precision` digits.
pub fn from_f64(value: f64, scale: u32, precision: u32) -> Option<i128> {
    if let Some(nearest) = scaled_float(value, scale, 0.5e-14) {
        return fit(nearest, precision);
    }
    value.is_finite().then_some(())?;
    parse(&format!("{value:.14e}"), scale, precision).ok()
}

/// [`from_f64`] for a single, read to six significant digits.
pub fn from_f32(value: f32, scale: u32, precision: u32) -> Option<i128> {
    if let Some(nearest) = scaled_float(f64::from(value), scale, 0.5e-5) {
        return fit(nearest, precision);
    }
    value.is_finite().then_some(())?;
    parse(&format!("{value:.5e}"), scale, precision).ok()
}

/// The whole number nearest to `value * 10^scale`, where every number within this relative error of `value` has the same; so
/// the digits of the text need not be made.
fn scaled_float(value: f64, scale: u32, error: f64) -> Option<i128> {
    // 10^22 is the largest exact power. The product is rounded once, which the slack covers by far.
    let power = if scale <= 22 { POWERS_OF_TEN[scale as usize] as f64 } else { return None };
    let scaled = value.abs() * power;
    let whole = scaled.trunc();
    let rest = scaled - whole;
    let slack = scaled * (error * 1.1);
    // Not so for a NaN, an infinity, or a number whose slack reaches the next half.
    ((rest - 0.5).abs() > slack && slack < 0.5).then(|| {
        let nearest = whole as i128 + i128::from(rest > 0.5);
        if value < 0.0 { -nearest } else { nearest }
    })
}

/// An integer as a decimal.
#[inline]
pub fn from_i64(value: i64, scale: u32, precision: u32) -> Option<i128> {
    rescale(i128::from(value), 0, scale, precision)
}

/// The nearest integer, half away from zero; `None` where it is no `i64`.
#[inline]
pub fn to_i64(value: i128, scale: u32) -> Option<i64> {
    i64::try_from(rescale(value, scale, 0, MAX_SCALE)?).ok()
}

/// Why a text is not a decimal of the asked type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseDecimalError {
    /// The text is no number.
    Syntax,
    /// The number has more digits before the point than the type.
    Overflow,
}

/// Reads `[+-]digits[.digits][e[+-]digits]` with white space around; digits beyond the scale are rounded half away from zero.
pub fn parse(text: &str, scale: u32, precision: u32) -> Result<i128, ParseDecimalError> {
    let bytes = text.trim().as_bytes();
    let (negative, bytes) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, bytes),
    };
    let mantissa_len = bytes.iter().position(|b| matches!(b, b'e' | b'E')).unwrap_or(bytes.len());
    let (mantissa, exponent) = bytes.split_at(mantissa_len);
    let exponent = if exponent.is_empty() { 0 } else { parse_exponent(&exponent[1..])? };
    let point = mantissa.iter().position(|&b| b == b'.').unwrap_or(mantissa.len());
    let fraction = mantissa.get(point + 1..).unwrap_or(&[]);
    let digits = || mantissa[..point].iter().chain(fraction);
    if digits().next().is_none() || !digits().all(u8::is_ascii_digit) {
        return Err(ParseDecimalError::Syntax);
    }
    // How many of the digits lie at or before the last place of the scale.
    let kept = point as i64 + exponent + i64::from(scale);
    let mut value = 0i128;
    let mut seen = 0i64;
    let mut round_up = false;
    for &digit in digits() {
        let digit = i128::from(digit - b'0');
        if seen < kept {
            let next = value.checked_mul(10).and_then(|v| v.checked_add(digit));
            value = next.ok_or(ParseDecimalError::Overflow)?;
        } else if seen == kept {
            round_up = digit >= 5;
        }
        seen += 1;
    }
    if seen < kept && value != 0 {
        let missing = u32::try_from(kept - seen).ok().and_then(power_of_ten);
        value = missing.and_then(|factor| value.checked_mul(factor)).ok_or(ParseDecimalError::Overflow)?;
    }
    let value = fit(value + i128::from(round_up), precision).ok_or(ParseDecimalError::Overflow)?;
    Ok(if negative { -value } else { value })
}

/// An exponent; beyond six digits it only has to be seen as large.
fn parse_exponent(bytes: &[u8]) -> Result<i64, ParseDecimalError> {
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, bytes),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(ParseDecimalError::Syntax);
    }
    let value = digits.iter().fold(0i64, |n, d| (n * 10 + i64::from(d - b'0')).min(1_000_000_000_000));
    Ok(if negative { -value } else { value })
}

/// Appends the value with exactly `scale` digits after the point: `-12.30`.
pub fn print(value: i128, scale: u32, out: &mut String) {
    let digits = value.unsigned_abs().to_string();
    if value < 0 {
        out.push('-');
    }
    let scale = scale as usize;
    if scale == 0 {
        out.push_str(&digits);
        return;
    }
    if digits.len() > scale {
        out.push_str(&digits[..digits.len() - scale]);
        out.push('.');
        out.push_str(&digits[digits.len() - scale..]);
    } else {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', scale - digits.len()));
        out.push_str(&digits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(value: i128, scale: u32) -> String {
        let mut out = String::new();
        print(value, scale, &mut out);
        out
    }

    #[test]
    fn arithmetic_is_exact_or_none() {
        let max = POWERS_OF_TEN[38] - 1;
        assert_eq!(add(max, 1, 38), None);
        assert_eq!(add(max - 1, 1, 38), Some(max));
        assert_eq!(sub(-max, 1, 38), None);
        assert_eq!(add(i128::MAX, 1, 38), None);
        assert_eq!(mul(1 << 100, 1 << 100, 38), None);
        assert_eq!(mul(-150, 4, 3), Some(-600));
        assert_eq!(mul(-150, 40, 3), None);
        assert_eq!(div_int(-7, 2), Some(-3));
        assert_eq!(div_int(1, 0), None);
        assert_eq!(rem(-7, 2), Some(-1));
        assert_eq!(rem(7, 0), None);
        assert_eq!(rem(i128::MIN, -1), Some(0));
    }

    #[test]
    fn rescales_half_away_from_zero() {
        for (value, from, to, expected) in [
            (125, 2, 1, Some(13)),
            (-125, 2, 1, Some(-13)),
            (124, 2, 1, Some(12)),
            (149, 2, 0, Some(1)),
            (150, 2, 0, Some(2)),
            (-150, 2, 0, Some(-2)),
            (15, 1, 4, Some(15_000)),
            (POWERS_OF_TEN[37], 0, 2, None),
            (5, 1, 0, Some(1)),
            (4, 38, 0, Some(0)),
            (POWERS_OF_TEN[38] - 1, 38, 0, Some(1)),
        ] {
            assert_eq!(rescale(value, from, to, 38), expected, "{value} {from} {to}");
        }
        assert_eq!(rescale(999, 2, 1, 2), None, "9.99 rounds to 10.0, which has three digits");
        assert_eq!(round(1_250, 3, 1), Some(1_300));
        assert_eq!(round(1_250, 3, 5), Some(1_250));
        assert_eq!(round(1_551, 1, -2), Some(2_000));
        assert_eq!(round(1_551, 1, -90), Some(0));
        assert_eq!((floor(-125, 2), ceil(-125, 2)), (-2, -1));
        assert_eq!((floor(125, 2), ceil(125, 2)), (1, 2));
        assert_eq!((floor(100, 2), ceil(100, 2)), (1, 1));
        assert_eq!((trunc(-199, 2), trunc(199, 2)), (-1, 1));
    }

    #[test]
    fn compares_across_scales() {
        assert_eq!(compare(15, 1, 150, 2), Ordering::Equal);
        assert_eq!(compare(15, 1, 151, 2), Ordering::Less);
        assert_eq!(compare(151, 2, 15, 1), Ordering::Greater);
        assert_eq!(compare(POWERS_OF_TEN[38] - 1, 0, i128::MAX, 38), Ordering::Greater);
        assert_eq!(compare(1 - POWERS_OF_TEN[38], 0, i128::MIN, 38), Ordering::Less);
        assert_eq!(compare(0, 0, 1, 38), Ordering::Less);
    }

    #[test]
    fn converts_to_and_from_floats() {
        assert_eq!(to_f64(12_345, 2), 123.45);
        assert_eq!(to_f64(1, 22), 1e-22);
        assert_eq!(to_f64(123_456_789_012_345_678_901_234_567_890, 10), 12_345_678_901_234_567_890.123_456_789);
        assert_eq!(to_f64(1, 38), 1e-38);
        assert_eq!(to_f32(33_554_433, 1), 3_355_443.3);
        assert_eq!(from_f64(1.005, 2, 38), Some(101));
        assert_eq!(from_f64(-2.5, 0, 38), Some(-3));
        assert_eq!(from_f64(f64::NAN, 2, 38), None);
        assert_eq!(from_f64(f64::INFINITY, 2, 38), None);
        assert_eq!(from_f64(1e39, 0, 38), None);
        assert_eq!(from_f64(999.995, 2, 5), None);
        assert_eq!(from_f64(1e-300, 2, 5), Some(0));
        assert_eq!(from_f32(0.1, 8, 38), Some(10_000_000));
        assert_eq!(div_f64(1, 0, 0, 0), None);
        assert_eq!(div_f64(100, 2, 3, 0), Some(1.0 / 3.0));
        assert_eq!(from_i64(-5, 2, 3), Some(-500));
        assert_eq!(from_i64(-5, 2, 2), None);
        assert_eq!(to_i64(-250, 2), Some(-3));
        assert_eq!(to_i64(i128::MAX / 10, 0), None);
    }

    #[test]
    fn parses_and_prints() {
        for (text, scale, value) in [
            ("12.3", 2, 1_230),
            (" -0.005 ", 2, -1),
            ("+.5", 0, 1),
            ("5.", 1, 50),
            ("1e3", 2, 100_000),
            ("1.25E-1", 2, 13),
            ("0e999999999999999999", 2, 0),
            ("1e-999999999999999999", 2, 0),
            ("00000000000000000000000000000000000000000000000001", 0, 1),
            ("0.04", 1, 0),
            ("4.9", 0, 5),
            ("0.5", 0, 1),
            ("0.05", 0, 0),
        ] {
            assert_eq!(parse(text, scale, 38), Ok(value), "{text}");
        }
        for bad in ["", " ", "-", ".", "1.2.3", "1e", "1e+", "x", "1 2", "--1", "NaN", "1e5e5", "e5"] {
            assert_eq!(parse(bad, 2, 38), Err(ParseDecimalError::Syntax), "{bad}");
        }
        for large in ["1e38", "1e99999", "999.995", "1000"] {
            assert_eq!(parse(large, 2, 5), Err(ParseDecimalError::Overflow), "{large}");
        }
        assert_eq!(shown(-1_230, 2), "-12.30");
        assert_eq!(shown(5, 3), "0.005");
        assert_eq!(shown(-5, 3), "-0.005");
        assert_eq!(shown(500, 3), "0.500");
        assert_eq!(shown(0, 0), "0");
        assert_eq!(shown(1 - POWERS_OF_TEN[38], 38), format!("-0.{}", "9".repeat(38)));
    }

    proptest! {
        #[test]
        fn wide_to_f64_is_the_nearest(value in any::<i128>(), scale in 0..=38u32, shift in 0..=127u32) {
            let value = value >> shift;
            let expected: f64 = shown(value, scale).parse().unwrap();
            prop_assert_eq!(to_f64(value, scale), expected);
        }

        #[test]
        fn floats_become_the_decimals_of_their_texts(
            bits in any::<u64>(), units in -10_000_000_000i64..10_000_000_000, places in 0..12u32, scale in 0..=38u32
        ) {
            // Any float, and those next to a half.
            let near = units as f64 / POWERS_OF_TEN[places as usize] as f64;
            for value in [f64::from_bits(bits), near, near.next_up(), near.next_down()] {
                let text = |digits: usize| parse(&format!("{value:.digits$e}"), scale, 38).ok();
                prop_assert_eq!(from_f64(value, scale, 38), text(14), "{}", value);
                let single = value as f32;
                let text = parse(&format!("{single:.5e}"), scale, 38).ok();
                prop_assert_eq!(from_f32(single, scale, 38), text, "{}", single);
            }
        }

        #[test]
        fn printing_and_parsing_are_inverse(value in -POWERS_OF_TEN[38] + 1..POWERS_OF_TEN[38], scale in 0..=38u32) {
            prop_assert_eq!(parse(&shown(value, scale), scale, 38), Ok(value));
        }

        #[test]
        fn to_f64_is_the_nearest(value in any::<i64>(), scale in 0..=38u32) {
            let expected: f64 = shown(i128::from(value), scale).parse().unwrap();
            prop_assert_eq!(to_f64(i128::from(value), scale), expected);
        }
    }
}
