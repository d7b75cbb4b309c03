//! Rows that become one number.

/// The functions, which are the same text in both precisions.
macro_rules! rows {
    ($t:ident, $lanes:literal, $max:ident) => {
        multiversion! {
            /// The greatest of `first` and the elements; NaN is greater than every number, and of equals the first is meant, which
            /// the sign of a zero shows.
            pub(crate) fn $max(first: $t, x: &[$t]) -> $t {
                // A NaN is kept apart: the lanes are compared as numbers.
                let (mut lanes, mut odd) = ([first; $lanes], [0.0; $lanes]);
                let chunks = x.chunks_exact($lanes);
                let rest = chunks.remainder();
                for chunk in chunks {
                    for ((lane, odd), &x) in lanes.iter_mut().zip(&mut odd).zip(chunk) {
                        *lane = if x > *lane { x } else { *lane };
                        *odd = if x.is_nan() { x } else { *odd };
                    }
                }
                for ((lane, odd), &x) in lanes.iter_mut().zip(&mut odd).zip(rest) {
                    *lane = if x > *lane { x } else { *lane };
                    *odd = if x.is_nan() { x } else { *odd };
                }
                let most = lanes.into_iter().fold(first, |most, x| if x > most { x } else { most });
                if first.is_nan() || odd.iter().any(|x: &$t| x.is_nan()) {
                    <$t>::NAN
                } else if most == 0.0 && first != 0.0 {
                    x.iter().copied().find(|x| *x == 0.0).unwrap_or(most)
                } else {
                    most
                }
            }
        }
    };
}

rows!(f32, 64, max_f32);
rows!(f64, 32, max_f64);
