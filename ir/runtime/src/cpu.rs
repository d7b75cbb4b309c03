//! Which vector instructions the machine has, and the macro that compiles one function for each of them.

use std::sync::OnceLock;

/// The vector instructions that block kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimdLevel {
    /// What the target has at least.
    Portable,
    /// AVX2 and FMA: 256-bit registers.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 512-bit registers.
    Avx512,
}

/// The best level of this machine.
pub fn simd_level() -> SimdLevel {
    #[cfg(test)]
    if let Some(level) = tests::FORCED.get() {
        return level;
    }
    static LEVEL: OnceLock<SimdLevel> = OnceLock::new();
    *LEVEL.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> SimdLevel {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (true, true) => SimdLevel::Avx512,
        (true, false) => SimdLevel::Avx2,
        (false, _) => SimdLevel::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> SimdLevel {
    SimdLevel::Portable
}

/// Asks for the cache line at an address, which may be any: nothing is read, and nothing waits.
#[inline(always)]
pub fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees and does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Compiles a function once for each level and calls the best one. The body is the same code, and floating point is only
/// contracted where it says `mul_add`, so that every version gives the same bits.
macro_rules! multiversion {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                match $crate::cpu::simd_level() {
                    // SAFETY: this level is only given where the machine has these features.
                    $crate::cpu::SimdLevel::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::cpu::SimdLevel::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::cpu::SimdLevel::Portable => {}
                }
            }
            portable($($arg),*)
        }
    )*};
}

/// [`multiversion`] for functions with one constant parameter.
macro_rules! multiversion_const {
    ($(fn $name:ident<$n:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        fn $name<const $n: usize>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable<const $n: usize>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512<const $n: usize>($($arg: $ty),*) $(-> $ret)? {
                    portable::<$n>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<const $n: usize>($($arg: $ty),*) $(-> $ret)? {
                    portable::<$n>($($arg),*)
                }
                match $crate::cpu::simd_level() {
                    // SAFETY: this level is only given where the machine has these features.
                    $crate::cpu::SimdLevel::Avx512 => return unsafe { avx512::<$n>($($arg),*) },
                    // SAFETY: as above.
                    $crate::cpu::SimdLevel::Avx2 => return unsafe { avx2::<$n>($($arg),*) },
                    $crate::cpu::SimdLevel::Portable => {}
                }
            }
            portable::<$n>($($arg),*)
        }
    )*};
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        pub(super) static FORCED: Cell<Option<SimdLevel>> = const { Cell::new(None) };
    }

    /// Runs `check` at every level that this machine has.
    pub(crate) fn at_every_level(mut check: impl FnMut(SimdLevel)) {
        for level in [SimdLevel::Portable, SimdLevel::Avx2, SimdLevel::Avx512] {
            if level <= detect() {
                FORCED.set(Some(level));
                check(level);
            }
        }
        FORCED.set(None);
    }
}
