//! Attention over named indices: what it means, which index plays which part.

use std::fmt;

use crate::error::{Error, Result};
use crate::types::{Dim, ScalarType, TensorType};

/// Attention: sums of values, weighted by how well their keys fit the queries. Operands are the queries, the keys, the values,
/// then any number of terms; their dimensions carry labels, as in a contraction. Prints as `qd,kd,kv,qk->qv`.
///
/// A score is `scale` times the product of query and key, summed over their inner label. The terms change it in order: numbers
/// are added, and where a truth value is false the score becomes `fill`. The weights of a query are the softmax of its scores over
/// the keys: e^(score - greatest score), divided by their sum. A result is the sum of the weights times the values, over the keys.
///
/// So a query that sees no key (all its scores are `-inf`) has NaN for a result, and without keys the result is 0.
#[derive(Clone, PartialEq, Debug)]
pub struct AttendSpec {
    /// Labels of the queries' dimensions.
    pub q: Vec<u8>,
    /// Labels of the keys' dimensions.
    pub k: Vec<u8>,
    /// Labels of the values' dimensions.
    pub v: Vec<u8>,
    /// Labels of the terms' dimensions.
    pub terms: Vec<Vec<u8>>,
    /// Labels of the result's dimensions.
    pub out: Vec<u8>,
    /// Factor of the products.
    pub scale: f64,
    /// The score where a truth value is false.
    pub fill: f64,
}

/// The labels that are not loops around all operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttendRoles {
    /// Summed in the scores: of queries and keys.
    pub inner: u8,
    /// Of keys and values: the softmax runs over it.
    pub key: u8,
    /// Of values and result.
    pub column: u8,
}

impl AttendSpec {
    /// Reads `"qd,kd,kv,qk->qv"`.
    pub fn parse(text: &str, scale: f64, fill: f64) -> Option<Self> {
        let (inputs, out) = text.split_once("->")?;
        let labels = |s: &str| s.bytes().all(|c| c.is_ascii_alphabetic()).then(|| s.bytes().collect::<Vec<u8>>());
        let mut inputs = inputs.split(',').map(labels);
        let (q, k, v) = (inputs.next()??, inputs.next()??, inputs.next()??);
        let terms = inputs.collect::<Option<Vec<_>>>()?;
        Some(Self { q, k, v, terms, out: labels(out)?, scale, fill })
    }

    /// The labels' parts, if this is attention: exactly one label is summed in the scores, one is the key and one the column; all
    /// others are those of query or key and of the result. No operand has a label twice, and terms have the scores' labels.
    pub fn roles(&self) -> Option<AttendRoles> {
        let twice = |labels: &[u8]| labels.iter().enumerate().any(|(i, l)| labels[..i].contains(l));
        if self.operands().any(twice) || twice(&self.out) {
            return None;
        }
        let mut found: [Vec<u8>; 3] = Default::default();
        let mut all: Vec<u8> = self.operands().flatten().chain(&self.out).copied().collect();
        all.sort_unstable();
        all.dedup();
        for l in all {
            let [q, k, v, out] = [&self.q, &self.k, &self.v, &self.out].map(|labels| labels.contains(&l));
            match (q, k, v, out) {
                (true, true, false, false) => found[0].push(l),
                (false, true, true, false) => found[1].push(l),
                (false, false, true, true) => found[2].push(l),
                (true, _, _, true) | (_, true, _, true) => {}
                _ => return None,
            }
        }
        let [[inner], [key], [column]] = [&found[0][..], &found[1], &found[2]] else { return None };
        let roles = AttendRoles { inner: *inner, key: *key, column: *column };
        let scored = |l: &u8| *l != roles.inner && *l != roles.column;
        self.terms.iter().flatten().all(scored).then_some(roles)
    }

    /// The label of the result whose places are the rows of matrix products: one of the queries' that keys and values lack, and
    /// that terms have where one has. The others are loops around the products.
    pub fn row(&self) -> Option<u8> {
        let is_row = |l: &&u8| self.out.contains(l) && !self.k.contains(l) && !self.v.contains(l);
        let is_masked = |l: &&u8| self.terms.iter().any(|t| t.contains(l));
        let rows = || self.q.iter().rev().filter(is_row);
        rows().find(is_masked).or_else(|| rows().next()).copied()
    }

    /// Whether the derivative is one of heads: every index of the result but the query's row and the column is one of queries, keys
    /// and values alike, and no other index is theirs.
    ///
    /// The adjoints are those of queries, keys and values, of their types. With P the weights, d the result's adjoint and V the
    /// values: the adjoint of the weights is dP = d Vᵀ, that of the products dS = scale P (dP - the sum of P dP over the keys), and 0
    /// where a term replaced the score. Queries get dS times the keys, keys dS times the queries, values P times d.
    pub fn has_gradient(&self) -> bool {
        let Some(roles) = self.roles() else { return false };
        let row = self.row();
        let is_around = |l: &u8| *l != roles.column && Some(*l) != row;
        let everywhere = |l: &u8| [&self.q, &self.k, &self.v].iter().all(|labels| labels.contains(l));
        self.out.iter().filter(|l| is_around(l)).all(everywhere)
    }

    /// Labels of each operand.
    pub fn operands(&self) -> impl Iterator<Item = &[u8]> {
        [&self.q, &self.k, &self.v].into_iter().chain(&self.terms).map(Vec::as_slice)
    }

    /// The types of the three adjoints for operands of these types, the result's adjoint being the last.
    pub(super) fn infer_gradient(&self, operands: &[&TensorType]) -> Result<Vec<TensorType>> {
        let Some((adjoint, of)) = operands.split_last() else {
            return Err(Error::Type(format!("attend_grad {self} of nothing")));
        };
        let result = self.infer(of)?;
        if !self.has_gradient() || **adjoint != result {
            return Err(Error::Type(format!("attend_grad {self} does not fit the adjoint {adjoint} of {result}")));
        }
        Ok(of[..3].iter().map(|t| (*t).clone()).collect())
    }

    /// The result's type for operands of these types.
    pub(super) fn infer(&self, operands: &[&TensorType]) -> Result<TensorType> {
        let wrong = || {
            let types: Vec<String> = operands.iter().map(ToString::to_string).collect();
            Error::Type(format!("attend {self} does not fit {}", types.join(", ")))
        };
        if self.roles().is_none() || operands.len() != 3 + self.terms.len() {
            return Err(wrong());
        }
        let dtype = operands[0].dtype;
        let mut sizes: Vec<(u8, &Dim)> = vec![];
        for (i, (labels, t)) in self.operands().zip(operands).enumerate() {
            let term = i >= 3 && t.dtype == ScalarType::Bool;
            if labels.len() != t.rank() || !dtype.is_float() || t.dtype != dtype && !term {
                return Err(wrong());
            }
            for (l, d) in labels.iter().zip(&t.shape) {
                match sizes.iter().find(|s| s.0 == *l) {
                    Some((_, s)) if *s != d => {
                        let l = *l as char;
                        return Err(Error::Type(format!("attend {self}: {l} is {s} in one operand, {d} in another")));
                    }
                    Some(_) => {}
                    None => sizes.push((*l, d)),
                }
            }
        }
        let size = |l: &u8| sizes.iter().find(|s| s.0 == *l).map(|s| s.1.clone());
        let shape = self.out.iter().map(size).collect::<Option<Vec<Dim>>>().ok_or_else(wrong)?;
        Ok(TensorType { dtype, shape })
    }
}

impl fmt::Display for AttendSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inputs: Vec<_> = self.operands().map(String::from_utf8_lossy).collect();
        write!(f, "{}->{}", inputs.join(","), String::from_utf8_lossy(&self.out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(text: &str) -> Option<[char; 3]> {
        let spec = AttendSpec::parse(text, 1.0, 0.0)?;
        assert_eq!(spec.to_string(), text);
        spec.roles().map(|r| [r.inner as char, r.key as char, r.column as char])
    }

    #[test]
    fn labels_say_which_index_is_which() {
        assert_eq!(roles("qd,kd,kv->qv"), Some(['d', 'k', 'v']));
        assert_eq!(roles("bqhd,bkhd,bkhe,qk->bhqe"), Some(['d', 'k', 'e']));
        // Keys and values of one head for all.
        assert_eq!(roles("bqhd,bkd,bke->bqhe"), Some(['d', 'k', 'e']));
        // Two summed labels, no key, no column, a batch that is summed over, a label twice, a term over the inner label.
        for text in
            ["qdc,kdc,kv->qv", "qd,d,v->qv", "qd,kd,k->q", "bqd,bkd,bkv->qv", "qdd,kd,kv->qv", "qd,kd,kv,qd->qv"]
        {
            assert_eq!(roles(text), None, "{text}");
        }
    }

    #[test]
    fn derivatives_are_of_heads_that_share_nothing() {
        let has = |text: &str| AttendSpec::parse(text, 1.0, 0.0).is_some_and(|s| s.has_gradient());
        assert!(has("qd,kd,kv->qv") && has("bqhd,bkhd,bkhe,qk->bhqe") && has("bd,bkd,bke->be"));
        // Keys and values of one head for all; keys of all batches.
        assert!(!has("bqhd,bkd,bke->bqhe") && !has("bqd,kd,bke->bqe"));
    }

    #[test]
    fn rows_are_what_keys_and_values_lack() {
        let row = |text: &str| AttendSpec::parse(text, 1.0, 0.0).and_then(|s| s.row()).map(char::from);
        assert_eq!(row("bqhd,bkhd,bkhe->bhqe"), Some('q'));
        assert_eq!(row("bhd,bkhd,bkhe->bhe"), None);
        assert_eq!(row("bqhd,bkd,bke,qk->bqhe"), Some('q'));
    }
}
