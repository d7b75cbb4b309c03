//! Operations on texts: comparisons, and calls of the runtime's functions.

use runtime::abi::RuntimeFn;

use crate::error::{Error, Result};
use crate::kernel::{self, Cmp, Type as K};
use crate::lower::context::Slot;
use crate::lower::row::{Cell, RowLower};
use crate::plan::bounds::Range;
use crate::scalar::ScalarOp;
use crate::types::ScalarType;

impl RowLower<'_> {
    /// An operation on texts that the runtime has a function for; none for another.
    pub(super) fn text(
        &mut self,
        op: ScalarOp,
        args: &[Cell],
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Result<Option<(kernel::Value, Range)>> {
        use RuntimeFn as F;
        use ScalarOp as O;
        let pure = match op {
            O::Like => F::TextLike,
            O::ILike => F::TextIlike,
            O::StartsWith => F::TextStartsWith,
            O::Contains => F::TextContains,
            O::Position => F::TextPosition,
            O::Length => F::TextLength,
            O::Substring => return self.substring(args),
            O::Trim => return Ok(self.text_part(F::TextTrim, args)),
            O::TrimStart => return Ok(self.text_part(F::TextTrimStart, args)),
            O::TrimEnd => return Ok(self.text_part(F::TextTrimEnd, args)),
            O::Lower | O::Upper | O::Concat | O::Replace => {
                let function = match op {
                    O::Lower => F::TextLower,
                    O::Upper => F::TextUpper,
                    O::Concat => F::TextConcat,
                    _ => F::TextReplace,
                };
                let words = self.text_words(args);
                return Ok(self.guarded_call(function, &words, K::I128, valid, location).map(|v| (v, None)));
            }
            _ => return Ok(None),
        };
        let words = self.text_words(args);
        Ok(Some((self.pure_call(pure, &words)?, None)))
    }

    /// Texts as the runtime takes them: two words each.
    pub(super) fn text_words(&mut self, args: &[Cell]) -> Vec<kernel::Value> {
        args.iter().flat_map(|c| [self.b.lo64(c.value), self.b.hi64(c.value)]).collect()
    }

    /// A view of a part of a text.
    fn text_part(&mut self, function: RuntimeFn, args: &[Cell]) -> Option<(kernel::Value, Range)> {
        let area = self.area?;
        let words = self.text_words(args);
        self.b.call(function, &[words[0], words[1], area]);
        Some((self.b.load(K::I128, area, 0), None))
    }

    /// LIKE with a pattern that is known, compiled once.
    pub(in crate::lower) fn like(&mut self, text: &Cell, pattern: &std::sync::Arc<str>) -> Result<Cell> {
        let compiled = self.slot(Slot::Like(pattern.clone()));
        let words = self.text_words(std::slice::from_ref(text));
        let value = self.pure_call(RuntimeFn::LikeMatch, &[compiled, words[0], words[1]])?;
        Ok(Cell { value, valid: text.valid, ty: ScalarType::Bool, range: Some((0, 1)) })
    }

    /// A part of a text: a view of the same bytes. A length that is no constant may be negative, which raises with the row's own words.
    fn substring(&mut self, args: &[Cell]) -> Result<Option<(kernel::Value, Range)>> {
        let constant = self.b.constant_bits(args[2].value).is_some_and(|n| n as u64 as i64 >= 0);
        if !constant {
            return Ok(None);
        }
        let words = self.text_words(&args[..1]);
        let call = [words[0], words[1], args[1].value, args[2].value];
        // A part of a harmless text is harmless: no branch for NULL.
        Ok(self.guarded_call(RuntimeFn::TextSubstring, &call, K::I128, None, 0).map(|v| (v, None)))
    }

    /// Compares texts by bytes.
    pub(super) fn compare_text(&mut self, op: ScalarOp, x: kernel::Value, y: kernel::Value) -> Result<kernel::Value> {
        let (xl, xh, yl, yh) = (self.b.lo64(x), self.b.hi64(x), self.b.lo64(y), self.b.hi64(y));
        let missing = || Error::Bug("a comparison has a result".into());
        if matches!(op, ScalarOp::Eq | ScalarOp::Ne) {
            // Length and first bytes differ in most pairs.
            let heads = self.b.icmp(Cmp::Eq, xl, yl);
            self.b.begin_if(heads, &[K::I8]);
            let same = self.b.call(RuntimeFn::TextEqual, &[xl, xh, yl, yh]).ok_or_else(missing)?;
            self.b.begin_else(&[same]);
            let no = self.b.bool_const(false);
            let same = self.b.end_if(&[no])[0];
            return Ok(if op == ScalarOp::Eq { same } else { self.b.bool_not(same) });
        }
        let order = self.b.call(RuntimeFn::TextCompare, &[xl, xh, yl, yh]).ok_or_else(missing)?;
        let cmp = match op {
            ScalarOp::Lt => Cmp::Lt,
            ScalarOp::Le => Cmp::Le,
            ScalarOp::Gt => Cmp::Gt,
            _ => Cmp::Ge,
        };
        Ok(self.b.icmp_imm(cmp, order, 0))
    }
}
