//! The text view: a text as two words, and what generated code asks of it.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use crate::kernels::hash;

/// A text as two words: bytes 0..4 the length; up to 12 bytes of text follow inline, padded with zeros; longer texts have their
/// first 4 bytes there and in bytes 8..16 the address of all of them.
///
/// Invariant: the bytes behind the address live, unchanged, as long as the view is used. Whoever makes a view from an address
/// promises it; whoever copies one out of a column, an arena or a row keeps that alive.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct TextView {
    lo: u64,
    hi: u64,
}

// SAFETY: the bytes behind a view are immutable while it is used.
unsafe impl Send for TextView {}
// SAFETY: as above.
unsafe impl Sync for TextView {}

impl TextView {
    /// The longest text that needs no address.
    pub const INLINE: usize = 12;
    /// The empty text.
    pub const EMPTY: TextView = TextView { lo: 0, hi: 0 };

    /// A view of a text of at most 12 bytes.
    pub fn inline(text: &[u8]) -> Option<Self> {
        if text.len() > Self::INLINE {
            return None;
        }
        let mut bytes = [0u8; 16];
        bytes[0] = text.len() as u8;
        bytes[4..4 + text.len()].copy_from_slice(text);
        let value = u128::from_le_bytes(bytes);
        Some(Self { lo: value as u64, hi: (value >> 64) as u64 })
    }

    /// A view of `len` bytes at `start`. Texts beyond 4 GB are cut to the length's 32 bits.
    ///
    /// # Safety
    /// The bytes are readable and fulfil the invariant of [`TextView`]; they are UTF-8 where the view is used as such.
    pub unsafe fn from_raw_bytes(start: *const u8, len: usize) -> Self {
        let len = len.min(u32::MAX as usize);
        // SAFETY: promised by the caller.
        let bytes = unsafe { std::slice::from_raw_parts(start, len) };
        if let Some(view) = Self::inline(bytes) {
            return view;
        }
        let mut prefix = [0; 4];
        prefix.copy_from_slice(&bytes[..4]);
        Self { lo: len as u64 | u64::from(u32::from_le_bytes(prefix)) << 32, hi: start.expose_provenance() as u64 }
    }

    /// A view from its two words.
    ///
    /// # Safety
    /// The words come from a view whose bytes still live.
    pub unsafe fn from_words(lo: u64, hi: u64) -> Self {
        Self { lo, hi }
    }

    /// The two words: low, high.
    #[inline]
    pub fn to_words(self) -> (u64, u64) {
        (self.lo, self.hi)
    }

    /// The length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.lo as u32 as usize
    }

    /// Whether it is the empty text.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    ///
    /// # Safety
    /// The lifetime `'a` ends while the bytes behind the view still live; for inline texts, while the view stays in place.
    #[inline]
    pub unsafe fn as_bytes<'a>(&self) -> &'a [u8] {
        let len = self.len();
        let start = if len <= Self::INLINE {
            (&raw const *self).cast::<u8>().wrapping_add(4)
        } else {
            std::ptr::with_exposed_provenance(self.hi as usize)
        };
        // SAFETY: inline texts stand in the view itself; others where the maker promised.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// The text; what is not UTF-8 reads as empty.
    ///
    /// # Safety
    /// As for [`TextView::as_bytes`].
    pub unsafe fn as_str<'a>(&self) -> &'a str {
        // SAFETY: promised by the caller.
        std::str::from_utf8(unsafe { self.as_bytes() }).unwrap_or_default()
    }

    /// The first 4 bytes as a number that orders as they do.
    #[inline]
    fn prefix(self) -> u32 {
        ((self.lo >> 32) as u32).swap_bytes()
    }
}

impl PartialEq for TextView {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        if self.lo != other.lo {
            return false;
        }
        if self.hi == other.hi {
            return true;
        }
        // SAFETY: the invariant of `TextView`; the slices end with this call.
        self.len() > Self::INLINE && unsafe { self.as_bytes() == other.as_bytes() }
    }
}

impl Eq for TextView {}

impl Ord for TextView {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        // Texts shorter than 4 bytes are padded with zeros, which order before or equal to any byte; equal prefixes decide nothing.
        match self.prefix().cmp(&other.prefix()) {
            // SAFETY: the invariant of `TextView`; the slices end with this call.
            Ordering::Equal => unsafe { self.as_bytes().cmp(other.as_bytes()) },
            order => order,
        }
    }
}

impl PartialOrd for TextView {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for TextView {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(hash::text_word(self));
    }
}

impl fmt::Debug for TextView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the invariant of `TextView`.
        write!(f, "{:?}", unsafe { self.as_str() })
    }
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// Both pairs of words are views whose bytes live.
pub(crate) unsafe fn text_equal(a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64) -> i8 {
    // SAFETY: promised by the caller.
    let (a, b) = unsafe { views(a_lo, a_hi, b_lo, b_hi) };
    i8::from(a == b)
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// As for [`text_equal`].
pub(crate) unsafe fn text_compare(a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64) -> i32 {
    // SAFETY: promised by the caller.
    let (a, b) = unsafe { views(a_lo, a_hi, b_lo, b_hi) };
    a.cmp(&b) as i32
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// As for [`text_equal`].
pub(crate) unsafe fn text_hash(hash: i64, lo: i64, hi: i64) -> i64 {
    // SAFETY: promised by the caller.
    let view = unsafe { TextView::from_words(lo as u64, hi as u64) };
    hash::combine_text(hash as u64, &view) as i64
}

unsafe fn views(a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64) -> (TextView, TextView) {
    // SAFETY: promised by the callers.
    unsafe { (TextView::from_words(a_lo as u64, a_hi as u64), TextView::from_words(b_lo as u64, b_hi as u64)) }
}
