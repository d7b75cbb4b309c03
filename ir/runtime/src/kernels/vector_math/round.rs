//! Rounding to decimal digits.

/// `x` rounded half away from zero to so many decimal digits: scaled by a power of ten, rounded, scaled back. A number so
/// large that it has no such digit stays; one that rounds to nothing becomes 0.
pub fn round_f64(x: f64, digits: i32) -> f64 {
    if digits == 0 || !x.is_finite() {
        return x.round();
    }
    let power = power_of_ten(digits.unsigned_abs());
    if digits > 0 {
        let scaled = x * power;
        if scaled.is_finite() { scaled.round() / power } else { x }
    } else if power.is_finite() {
        (x / power).round() * power
    } else {
        0.0
    }
}

/// [`round_f64`] in double precision, rounded.
pub fn round_f32(x: f32, digits: i32) -> f32 {
    round_f64(f64::from(x), digits) as f32
}

/// The double nearest to 10^n; infinite above 308.
fn power_of_ten(n: u32) -> f64 {
    // Up to 10^22 each power is exact, and so are the products.
    let exact = |n: u32| (0..n).fold(1.0, |power, _| power * 10.0);
    if n <= 22 { exact(n) } else { format!("1e{n}").parse().unwrap_or(f64::INFINITY) }
}
