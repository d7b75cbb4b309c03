use super::*;
use crate::cpu::tests::at_every_level;

/// Name, function, its compiled form for one number, its block form, a reference, and the error allowed.
type Function32 = (&'static str, fn(f32) -> f32, fn(f32) -> f32, fn(&[f32], &mut [f32]), fn(f64) -> f64, f64);
type Function64 = (&'static str, fn(f64) -> f64, fn(f64) -> f64, fn(&[f64], &mut [f64]), fn(f64) -> f64, f64);

const FUNCTIONS_F32: [Function32; 11] = [
    ("exp", exp_f32, single::exp_f32, exp_block_f32, f64::exp, 1.1),
    ("expm1", expm1_f32, single::expm1_f32, expm1_block_f32, f64::exp_m1, 2.0),
    ("log", log_f32, single::log_f32, log_block_f32, f64::ln, 1.0),
    ("log1p", log1p_f32, single::log1p_f32, log1p_block_f32, f64::ln_1p, 2.0),
    ("tanh", tanh_f32, single::tanh_f32, tanh_block_f32, f64::tanh, 3.0),
    ("sigmoid", sigmoid_f32, single::sigmoid_f32, sigmoid_block_f32, sigmoid, 2.5),
    ("erf", erf_f32, single::erf_f32, erf_block_f32, erf, 3.0),
    ("softplus", softplus_f32, single::softplus_f32, softplus_block_f32, softplus, 2.5),
    ("sqrt", sqrt_f32, sqrt_f32, sqrt_block_f32, f64::sqrt, 0.5001),
    ("sin", sin_f32, single::sin_f32, sin_block_f32, f64::sin, 0.6),
    ("cos", cos_f32, single::cos_f32, cos_block_f32, f64::cos, 0.6),
];

/// The limits hold the error of the reference as well.
const FUNCTIONS_F64: [Function64; 11] = [
    ("exp", exp_f64, single::exp_f64, exp_block_f64, f64::exp, 1.0),
    ("expm1", expm1_f64, single::expm1_f64, expm1_block_f64, f64::exp_m1, 2.0),
    ("log", log_f64, single::log_f64, log_block_f64, f64::ln, 1.0),
    ("log1p", log1p_f64, single::log1p_f64, log1p_block_f64, f64::ln_1p, 2.0),
    ("tanh", tanh_f64, single::tanh_f64, tanh_block_f64, f64::tanh, 3.0),
    ("sigmoid", sigmoid_f64, single::sigmoid_f64, sigmoid_block_f64, sigmoid, 2.5),
    // The series and the fraction are off by up to eight units themselves; `known_values_of_erf` is sharper.
    ("erf", erf_f64, single::erf_f64, erf_block_f64, erf, 9.0),
    ("softplus", softplus_f64, single::softplus_f64, softplus_block_f64, softplus, 2.5),
    ("sqrt", sqrt_f64, sqrt_f64, sqrt_block_f64, f64::sqrt, 0.5),
    ("sin", sin_f64, single::sin_f64, sin_block_f64, f64::sin, 1.0),
    ("cos", cos_f64, single::cos_f64, cos_block_f64, f64::cos, 1.0),
];

fn sigmoid(x: f64) -> f64 {
    if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Below 1.5 Kummer's series, all of whose terms are positive; else the continued fraction of 1 - erf (Abramowitz and
/// Stegun 7.1.6 and 7.1.14).
fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    if x.abs() > 1.5 {
        let a = x.abs();
        let tail = (1..=100).rev().fold(0.0, |tail, k| 0.5 * f64::from(k) / (a + tail));
        return (1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + tail)).copysign(x);
    }
    let (mut term, mut sum, mut n) = (1.0, 0.0, 0.0);
    while term > sum * 1e-18 {
        sum += term;
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
    }
    2.0 / std::f64::consts::PI.sqrt() * x * (-x * x).exp() * sum
}

/// The floats of a range that does not contain zero, ascending, in blocks: their values by a function.
fn walk_f32(from: f32, to: f32, block: fn(&[f32], &mut [f32]), see: &mut dyn FnMut(f32, f32)) {
    assert!(from <= to && from.is_sign_negative() == to.is_sign_negative());
    let (first, last) = (from.to_bits(), to.to_bits());
    let count = u64::from(first.abs_diff(last)) + 1;
    let (mut x, mut y) = (vec![0.0f32; 1 << 14], vec![0.0f32; 1 << 14]);
    let mut done = 0;
    while done < count {
        let n = (count - done).min(x.len() as u64) as usize;
        for (i, x) in x[..n].iter_mut().enumerate() {
            let at = done as u32 + i as u32;
            *x = f32::from_bits(if first <= last { first + at } else { first - at });
        }
        block(&x[..n], &mut y[..n]);
        x[..n].iter().zip(&y).for_each(|(x, y)| see(*x, *y));
        done += n as u64;
    }
}

/// How many floats apart two of one sign are.
fn apart(a: f32, b: f32) -> u32 {
    a.to_bits().abs_diff(b.to_bits())
}

/// The optimizer compares what a function is computed from in place of what it gives (`opt/monotone.rs` of `ir`): it
/// counts on these, for every float between where the functions are flat.
#[test]
fn computed_functions_fall_no_further_than_told() {
    const FLAT: f32 = 1.0 / 33_554_432.0;
    /// A function, where it is flat from, and by how much it may fall.
    type Told = (fn(&[f32], &mut [f32]), f32, fn(f32) -> u32);
    let told: [Told; 3] = [
        (exp_block_f32, 104.0, |_| 0),
        (sigmoid_block_f32, 104.0, |x| u32::from(x < -0.69)),
        (tanh_block_f32, 20.0, |_| 2),
    ];
    let check = |(block, end, may_fall): Told| {
        let mut most = f32::NEG_INFINITY;
        let mut see = |x: f32, y: f32| {
            if y < most {
                assert!(apart(most, y) <= may_fall(x), "{x} gives {y}, less gave {most}");
            } else {
                most = y;
            }
        };
        walk_f32(-end, -FLAT, block, &mut see);
        walk_f32(FLAT, end, block, &mut see);
    };
    std::thread::scope(|s| told.map(|f| s.spawn(move || check(f))).map(|t| t.join().expect("it holds")));
}

/// Bit patterns over the whole range, and values where functions bend.
fn inputs_f32() -> Vec<f32> {
    let mut x: Vec<f32> = (0..=u32::MAX).step_by(20_011).map(f32::from_bits).collect();
    x.extend((-120_000..120_000).map(|i| i as f32 * 1e-3));
    x.extend((-20_000..20_000).map(|i| i as f32 * 1e-4));
    x.extend((0..20_000).map(|i| 1.0 + (i - 10_000) as f32 * f32::EPSILON));
    x.extend([0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE, 1e-45]);
    x
}

fn inputs_f64() -> Vec<f64> {
    let mut x: Vec<f64> = (0..200_000u64).map(|i| f64::from_bits(i.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    x.extend((-80_000..80_000).map(|i| f64::from(i) * 1e-2 + 1e-7));
    x.extend((-100_000..100_000).map(|i| f64::from(i) * 1.1e-4));
    x.extend((0..20_000).map(|i| 1.0 + f64::from(i - 10_000) * 1e-12));
    x.extend((1..20_000).map(|i| f64::from(i) * std::f64::consts::FRAC_PI_2));
    x.extend([0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MAX, f64::MIN_POSITIVE, 5e-324]);
    x
}

fn same_f32(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

fn same_f64(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// The distance in units of the last place of the exact value; 0 where both are NaN or the same infinity.
fn error_f32(got: f32, exact: f64) -> f64 {
    let nearest = exact as f32;
    if got == nearest || (got.is_nan() && exact.is_nan()) {
        return if nearest.is_infinite() || exact.is_nan() {
            0.0
        } else {
            (f64::from(got) - exact).abs() / ulp_f32(nearest)
        };
    }
    if nearest.is_infinite() {
        return (f64::from(got) - f64::from(f32::MAX)).abs() / ulp_f32(f32::MAX) + 1.0;
    }
    (f64::from(got) - exact).abs() / ulp_f32(nearest)
}

fn ulp_f32(x: f32) -> f64 {
    let exponent = ((x.to_bits() >> 23) & 255).max(1) as i32;
    2f64.powi(exponent - 150)
}

fn error_f64(got: f64, exact: f64) -> f64 {
    if got == exact || (got.is_nan() && exact.is_nan()) {
        return 0.0;
    }
    let exponent = ((exact.to_bits() >> 52) & 2047).max(1) as i32;
    let ulp = if exponent > 52 { 2f64.powi(exponent - 1075) } else { f64::from_bits(1u64 << (exponent - 1)) };
    (got - exact).abs() / ulp
}

#[test]
fn single_precision_is_as_accurate_as_documented() {
    let inputs = inputs_f32();
    for (name, scalar, _, _, exact, limit) in FUNCTIONS_F32 {
        let (mut worst, mut at) = (0.0, 0.0);
        for &x in &inputs {
            let expected = exact(f64::from(x));
            if matches!(name, "sigmoid" | "softplus") && expected.abs() < f64::from(f32::MIN_POSITIVE) {
                continue;
            }
            let error = error_f32(scalar(x), expected);
            if error.is_nan() || error > worst {
                (worst, at) = (error, x);
            }
        }
        println!("{name}_f32: {worst:.3} ulp at {at:e}");
        assert!(worst <= limit, "{name}_f32({at:e}) = {:e}: {worst} ulp", scalar(at));
    }
}

#[test]
fn double_precision_is_as_accurate_as_documented() {
    let inputs = inputs_f64();
    for (name, scalar, _, _, exact, limit) in FUNCTIONS_F64 {
        let (mut worst, mut at) = (0.0, 0.0);
        for &x in &inputs {
            let expected = exact(x);
            if matches!(name, "sigmoid" | "softplus") && expected.abs() < f64::MIN_POSITIVE {
                continue;
            }
            let error = error_f64(scalar(x), expected);
            if error.is_nan() || error > worst {
                (worst, at) = (error, x);
            }
        }
        println!("{name}_f64: {worst:.3} ulp at {at:e}");
        assert!(worst <= limit, "{name}_f64({at:e}) = {:e}: {worst} ulp", scalar(at));
    }
}

/// Computed with 40 digits.
const ERF: [(f64, f64); 64] = [
    (1e-300, 1.1283791670955126e-300),
    (1e-17, 1.1283791670955127e-17),
    (1e-09, 1.1283791670955127e-09),
    (0.001, 0.0011283787909692365),
    (0.012636, 0.014257440330029137),
    (0.128938, 0.14468869567299827),
    (0.152675, 0.1709460388053587),
    (0.170085, 0.19008563989127517),
    (0.174245, 0.19464259730977704),
    (0.18354, 0.20480047562741568),
    (0.563158, 0.5742153437713279),
    (0.72534, 0.6950073756533478),
    (0.806185, 0.7457627565576885),
    (1.115438, 0.8853120164000885),
    (1.299596, 0.9339237847253574),
    (1.312686, 0.9366060480059688),
    (1.33015, 0.9400438821608483),
    (1.372573, 0.9477552275741611),
    (1.385199, 0.9498833732969576),
    (1.398507, 0.952047323273673),
    (1.530414, 0.9695611395012181),
    (1.73869, 0.9860628409431852),
    (1.820211, 0.9899518263896407),
    (1.996171, 0.9952425224101754),
    (2.287225, 0.9987819724500581),
    (2.532642, 0.9996586299819085),
    (2.532699, 0.99965873531935),
    (2.596602, 0.9997594813459121),
    (2.627326, 0.9997972779806927),
    (2.672323, 0.9998426893619998),
    (2.696946, 0.9998632964214558),
    (2.757621, 0.9999037536680544),
    (2.972611, 0.9999737652994602),
    (2.974873, 0.9999741337873346),
    (3.031703, 0.9999819284817782),
    (3.248475, 0.9999956524859578),
    (3.338726, 0.999997660858329),
    (3.525484, 0.9999993828999143),
    (3.534014, 0.9999994202710702),
    (3.853766, 0.9999999496438133),
    (3.909558, 0.9999999677846763),
    (4.021833, 0.9999999871261432),
    (4.267151, 0.9999999984070506),
    (4.328906, 0.9999999990759056),
    (4.32924, 0.9999999990786419),
    (4.57368, 0.9999999999007968),
    (4.582648, 0.9999999999087884),
    (4.73234, 0.999999999978067),
    (4.980214, 0.9999999999981197),
    (5.014591, 0.9999999999986753),
    (5.025468, 0.9999999999988148),
    (5.077185, 0.999999999999304),
    (5.084602, 0.9999999999993555),
    (5.159679, 0.9999999999997055),
    (5.294874, 0.9999999999999302),
    (5.408565, 0.9999999999999797),
    (5.618644, 0.9999999999999981),
    (5.634895, 0.9999999999999984),
    (5.671624, 0.999999999999999),
    (5.9, 0.9999999999999999),
    (5.95, 1.0),
    (5.95526, 1.0),
    (6.1, 1.0),
    (30.0, 1.0),
];

#[test]
fn known_values_of_erf() {
    let mut worst: f64 = 0.0;
    for (x, y) in ERF {
        worst = worst.max(error_f64(erf_f64(x), y));
        assert_eq!(erf_f64(-x), -erf_f64(x));
    }
    println!("erf_f64: {worst:.3} ulp over the table");
    assert!(worst <= 3.0, "{worst} ulp");
}

#[test]
fn compiled_forms_are_equal_bit_for_bit_at_every_level() {
    let (x32, x64) = (inputs_f32(), inputs_f64());
    at_every_level(|level| {
        // An odd length has a tail behind the last whole vector.
        for (name, scalar, single, block, _, _) in FUNCTIONS_F32 {
            let mut out = vec![0.0; x32.len()];
            block(&x32, &mut out);
            for (&x, &out) in x32.iter().zip(&out) {
                let expected = scalar(x);
                assert!(same_f32(out, expected), "{level:?} {name}_f32({x:e}): {out:e} and {expected:e}");
                assert!(same_f32(single(x), expected), "{level:?} {name}_f32({x:e}) alone");
            }
        }
        for (name, scalar, single, block, _, _) in FUNCTIONS_F64 {
            let mut out = vec![0.0; x64.len()];
            block(&x64, &mut out);
            for (&x, &out) in x64.iter().zip(&out) {
                let expected = scalar(x);
                assert!(same_f64(out, expected), "{level:?} {name}_f64({x:e}): {out:e} and {expected:e}");
                assert!(same_f64(single(x), expected), "{level:?} {name}_f64({x:e}) alone");
            }
        }
        let mut out = vec![0.0; x32.len()];
        relu_block_f32(&x32, &mut out);
        assert!(x32.iter().zip(&out).all(|(&x, &out)| same_f32(out, relu_f32(x))));
        for (&x, &y) in x64.iter().zip(x64.iter().rev()) {
            let y = y.clamp(-300.0, 300.0);
            assert!(same_f64(single::pow_f64(x, y), pow_f64(x, y)), "{level:?} pow({x:e}, {y:e})");
            let (x32, y32) = (x as f32, y as f32);
            assert!(same_f32(single::pow_f32(x32, y32), pow_f32(x32, y32)), "{level:?} pow({x32:e}, {y32:e})");
            let digits = y as i32 / 15;
            assert!(same_f64(single::round_f64(x, digits), round_f64(x, digits)), "{level:?} round({x:e}, {digits})");
            assert!(
                same_f32(single::round_f32(x32, digits), round_f32(x32, digits)),
                "{level:?} round({x32:e}, {digits})"
            );
        }
    });
}

#[test]
fn power() {
    let specials = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        -2.0,
        3.0,
        -3.0,
        0.5,
        -0.5,
        1.5,
        -1.5,
        1e300,
        -1e300,
        1e-300,
        5e-324,
        1e15 + 1.0,
        9e15,
        f64::MAX,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    for x in specials {
        for y in specials {
            let (got, expected) = (pow_f64(x, y), x.powf(y));
            let equal = same_f64(got, expected) || error_f64(got, expected) <= 1.5;
            assert!(equal, "pow({x:e}, {y:e}) = {got:e}, not {expected:e}");
            if y == y as f32 as f64 && x == x as f32 as f64 {
                let (got, expected) = (pow_f32(x as f32, y as f32), expected as f32);
                assert!(
                    same_f32(got, expected) || error_f32(got, f64::from(expected)) <= 1.0,
                    "{x} {y} {got} {expected}"
                );
            }
        }
    }
    let (mut worst, mut at) = (0.0, (0.0, 0.0));
    for i in 1..400u32 {
        for j in 0..400u32 {
            let x = f64::from(i) * 0.037 * 1.07f64.powi(j as i32 - 200);
            let y = (f64::from(j) - 199.7) * 0.31 / x.ln().abs().max(1e-3) * 11.0;
            let error = error_f64(pow_f64(x, y), x.powf(y));
            if error.is_nan() || error > worst {
                (worst, at) = (error, (x, y));
            }
        }
    }
    println!("pow_f64: {worst:.3} ulp at {at:?}");
    assert!(worst <= 1.5, "{at:?}: {worst} ulp");
}

#[test]
fn rounds_at_decimal_digits() {
    for (x, digits, expected) in [
        (2.5, 0, 3.0),
        (-2.5, 0, -3.0),
        (1.25, 1, 1.3),
        (1234.5, -2, 1200.0),
        (-1250.0, -2, -1300.0),
        (1e300, 300, 1e300),
        (5.0, -400, 0.0),
        (0.1, 25, 0.1),
    ] {
        assert_eq!(round_f64(x, digits), expected, "{x} {digits}");
    }
    assert_eq!(round_f32(1.15, 1), 1.1);
    assert!(round_f64(f64::NAN, 2).is_nan());
}

#[test]
fn the_greatest_is_the_first_of_equals_and_nan_above_all() {
    fn greatest(first: f32, x: &[f32]) -> f32 {
        x.iter().fold(first, |most, &x| if most.is_nan() || x <= most { most } else { x })
    }
    at_every_level(|level| {
        for n in [0usize, 1, 3, 31, 32, 63, 64, 65, 127, 128, 129, 1000] {
            let plain: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
            let with = |at: usize, v: f32| {
                let mut x = plain.clone();
                x.iter_mut().skip(at).take(1).for_each(|x| *x = v);
                x
            };
            let mut cases = vec![plain.clone(), vec![f32::NEG_INFINITY; n]];
            cases.extend([0, n / 2, n.saturating_sub(1)].map(|at| with(at, f32::NAN)));
            cases.extend([0, n / 2, n.saturating_sub(1)].map(|at| with(at, f32::INFINITY)));
            let zeros = |odd: usize| (0..n).map(|i| if i % 3 == odd { 0.0 } else { -0.0 }).collect::<Vec<f32>>();
            cases.extend([zeros(0), zeros(1), zeros(2)]);
            for first in [f32::NEG_INFINITY, -0.0, 0.0, 3.0, f32::INFINITY, f32::NAN] {
                for x in &cases {
                    let expected = greatest(first, x);
                    assert!(same_f32(max_f32(first, x), expected), "{level:?} {n} {first}");
                    let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                    assert!(same_f64(max_f64(f64::from(first), &wide), f64::from(expected)), "{level:?} {n} {first}");
                }
            }
        }
    });
}

#[test]
#[should_panic(expected = "differ in length")]
fn lengths_are_checked() {
    exp_block_f32(&[1.0], &mut []);
}
