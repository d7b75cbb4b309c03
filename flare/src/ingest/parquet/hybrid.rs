//! Parquet's hybrid of runs and packed bits: keys of dictionaries, definition levels.
//!
//! The encoding is that of "Run Length Encoding / Bit-Packing Hybrid" in apache/parquet-format `Encodings.md`: each run begins
//! with a varint; its lowest bit says whether groups of eight packed numbers follow, or one number that repeats.

use runtime::kernels::unpack::unpack;

/// Numbers of a hybrid encoding, from first to last.
pub(super) struct Hybrid<'a> {
    rest: &'a [u8],
    width: usize,
    run: Run<'a>,
}

#[derive(Clone, Copy)]
enum Run<'a> {
    /// One number, so many times.
    Repeated(u32, usize),
    /// Groups of eight numbers, whole ones.
    Packed(&'a [u8]),
    /// What is left of a group, from the place on.
    Group([u32; 8], usize, &'a [u8]),
}

impl<'a> Hybrid<'a> {
    /// Numbers of `width` bits, at most 32.
    pub(super) fn new(bytes: &'a [u8], width: usize) -> Self {
        Self { rest: bytes, width, run: Run::Repeated(0, 0) }
    }

    /// Packed numbers without a run's head, as booleans are stored.
    pub(super) fn packed(bytes: &'a [u8], width: usize) -> Self {
        Self { rest: &[], width, run: Run::Packed(bytes) }
    }

    /// The next numbers; `None` where there are fewer.
    pub(super) fn read(&mut self, mut out: &mut [u32]) -> Option<()> {
        while !out.is_empty() {
            let done = match &mut self.run {
                Run::Repeated(number, left) => {
                    let count = out.len().min(*left);
                    out[..count].fill(*number);
                    *left -= count;
                    count
                }
                Run::Packed(groups) => {
                    let whole = (out.len() / 8).min(groups.len() / self.width);
                    let (now, later) = groups.split_at(whole * self.width);
                    unpack(now, self.width, &mut out[..whole * 8]);
                    *groups = later;
                    whole * 8
                }
                Run::Group(numbers, at, _) => {
                    let count = out.len().min(8 - *at);
                    out[..count].copy_from_slice(&numbers[*at..*at + count]);
                    *at += count;
                    count
                }
            };
            out = &mut out[done..];
            if done == 0 {
                self.go_on()?;
            }
        }
        Some(())
    }

    /// The next run, or the next group where fewer than eight numbers of it are wanted.
    fn go_on(&mut self) -> Option<()> {
        if let Run::Packed(groups) | Run::Group(_, _, groups) = self.run
            && !groups.is_empty()
        {
            self.run = match self.run {
                Run::Group(..) => Run::Packed(groups),
                _ => {
                    // The last group of a file may be cut where its numbers end.
                    let mut group = [0u8; 32];
                    let len = groups.len().min(self.width);
                    group[..len].copy_from_slice(&groups[..len]);
                    let mut numbers = [0; 8];
                    unpack(&group[..self.width], self.width, &mut numbers);
                    Run::Group(numbers, 0, &groups[len..])
                }
            };
            return Some(());
        }
        let head = self.varint()?;
        let count = usize::try_from(head >> 1).ok().filter(|count| *count > 0)?;
        self.run = if head & 1 == 1 && self.width > 0 {
            let bytes = count.checked_mul(self.width)?.min(self.rest.len());
            let (groups, rest) = self.rest.split_at(bytes);
            self.rest = rest;
            Run::Packed(Some(groups).filter(|groups| !groups.is_empty())?)
        } else if head & 1 == 1 {
            Run::Repeated(0, count.checked_mul(8)?)
        } else {
            let (number, rest) = self.rest.split_at_checked(self.width.div_ceil(8))?;
            self.rest = rest;
            let mut bytes = [0; 4];
            bytes[..number.len()].copy_from_slice(number);
            Run::Repeated(u32::from_le_bytes(bytes), count)
        };
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_groups_in_pieces_of_any_size() {
        // 10 times 5, two groups of 0..8, 3 times 7; three bits a number.
        let group = [0b1000_1000, 0b1100_0110, 0b1111_1010];
        let bytes = [&[20, 5], &[5][..], &group, &group, &[6, 7]].concat();
        let mut expected = vec![5; 10];
        expected.extend((0..16).map(|i| i % 8));
        expected.extend([7; 3]);
        for piece in 1..=expected.len() {
            let mut hybrid = Hybrid::new(&bytes, 3);
            let mut read = vec![9; expected.len()];
            for out in read.chunks_mut(piece) {
                hybrid.read(out).unwrap();
            }
            assert_eq!(read, expected, "by {piece}");
            assert_eq!(hybrid.read(&mut [0]), None);
        }
        assert_eq!(Hybrid::packed(&group, 3).read(&mut [0; 8]), Some(()));
    }

    #[test]
    fn what_is_cut_or_empty_ends() {
        for bytes in [&[][..], &[20], &[0], &[1], &[3], &[0x80], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(Hybrid::new(bytes, 3).read(&mut [0; 9]), None, "{bytes:?}");
        }
        // A group that is cut short still has its first numbers.
        let mut out = [9; 2];
        assert_eq!(Hybrid::new(&[3, 0b1000_1000], 3).read(&mut out), Some(()));
        assert_eq!(out, [0, 1]);
        // Keys of no bits are all 0, by run or by group.
        let mut out = [9; 20];
        assert_eq!(Hybrid::new(&[8, 5], 0).read(&mut out), Some(()));
        assert_eq!(out, [0; 20]);
    }
}
