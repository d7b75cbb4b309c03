//! Attention, the Transformer of encoder and decoder, and an encoder alone.

use std::collections::HashMap;
use std::panic::Location;

use ir::types::{Dim, ScalarType};
use ndarray::Array2;

use super::{Activation, layer_norm, linear};
use crate::error::Fault;
use crate::params::Init;
use crate::tensor::{Tensor, value};

/// Attention of `heads` heads (Vaswani et al. 2017): softmax(q kᵀ / √width) v for each head. `q` is `[batch, n, d]`, `k` and
/// `v` are `[batch, m, d]`; the result is `[batch, n, d]`. With `causal`, row i of `q` sees rows up to i of `k` only.
#[track_caller]
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Tensor {
    let scope = q.scope();
    let width = q.dim(-1).as_const().filter(|d| heads > 0 && d % heads == 0);
    let (Some(d), 3) = (width, q.rank()) else {
        if q.value().is_some() {
            let message = format!("{} does not fall into {heads} heads", q.ty());
            scope.fail(Fault::Invalid(message).at("attention", Location::caller()));
        }
        return scope.nothing();
    };
    let width = d / heads;
    // [batch, rows, d] to [batch, heads, rows, width].
    let split = |t: &Tensor| {
        let shape = [t.dim(0), t.dim(1), Dim::Const(heads), Dim::Const(width)];
        t.reshape(shape).permute(&[0, 2, 1, 3])
    };
    let scores = split(q).contract("bhqd,bhkd->bhqk", &split(k)) * (1.0 / (width as f64).sqrt());
    let seen = if causal {
        let shape = [q.dim(1), k.dim(1)];
        let (row, column) = (scope.iota(ScalarType::I64, &shape, 0), scope.iota(ScalarType::I64, &shape, 1));
        column.le(&row).choose(&scores, &scope.full(q.dtype(), &[], f64::NEG_INFINITY))
    } else {
        scores
    };
    let out = seen.softmax(-1).contract("bhqk,bhkd->bhqd", &split(v));
    out.permute(&[0, 2, 1, 3]).reshape([q.dim(0), q.dim(1), Dim::Const(d)])
}

/// Sines and cosines of positions, `[rows, d]` (Vaswani et al. 2017, section 3.5).
fn positions(rows: usize, d: usize) -> Array2<f64> {
    Array2::from_shape_fn((rows, d), |(row, i)| {
        let angle = row as f64 * ((i / 2 * 2) as f64 * (-(10000f64.ln()) / d as f64)).exp();
        if i % 2 == 0 { angle.sin() } else { angle.cos() }
    })
}

/// Name, shape and initial numbers of a parameter.
type Param = (String, Vec<usize>, Init);

fn norm_params(out: &mut Vec<Param>, name: &str, width: usize) {
    out.push((format!("{name}.g"), vec![width], Init::Full(1.0)));
    out.push((format!("{name}.b"), vec![width], Init::Full(0.0)));
}

fn linear_params(out: &mut Vec<Param>, name: &str, inputs: usize, outputs: usize) {
    out.push((format!("{name}.w"), vec![outputs, inputs], Init::uniform_for(inputs)));
    out.push((format!("{name}.b"), vec![outputs], Init::uniform_for(inputs)));
}

fn attention_params(out: &mut Vec<Param>, name: &str, width: usize) {
    ["q", "k", "v", "o"].iter().for_each(|k| linear_params(out, &format!("{name}.{k}"), width, width));
}

/// A Transformer of encoder and decoder with norms before the layers, one more behind each stack, and one table for the words
/// of both sides and for the output.
///
/// Its parameters go by name: `emb` `[words, width]`; for each layer of the encoder `e0.n1.g`, `e0.n1.b` (norm), `e0.sa.q.w`,
/// `e0.sa.q.b`, … `k`, `v`, `o` (attention), `e0.n2`, `e0.f1`, `e0.f2`; `e.n`; for the decoder `d0.n1`, `d0.sa`, `d0.n2`,
/// `d0.ca` (attention to the encoder), `d0.n3`, `d0.f1`, `d0.f2`; `d.n`. Weights are `[out, in]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transformer {
    /// Words.
    pub words: usize,
    /// Width of the rows.
    pub width: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Layers of the encoder.
    pub encoders: usize,
    /// Layers of the decoder.
    pub decoders: usize,
    /// Width between the two linear layers.
    pub inner: usize,
}

/// Added to the variance in norms.
const EPSILON: f64 = 1e-5;

impl Transformer {
    /// Names, shapes and initial numbers of the parameters: uniform in ±1/√in, the table in ±1/√width, norms 1 and 0.
    pub fn params(&self) -> Vec<Param> {
        let (d, f) = (self.width, self.inner);
        let mut out = vec![("emb".to_string(), vec![self.words, d], Init::uniform_for(d))];
        for (side, layers) in [("e", self.encoders), ("d", self.decoders)] {
            let attentions = if side == "e" { &["sa"][..] } else { &["sa", "ca"] };
            for i in 0..layers {
                for (n, a) in attentions.iter().enumerate() {
                    norm_params(&mut out, &format!("{side}{i}.n{}", n + 1), d);
                    attention_params(&mut out, &format!("{side}{i}.{a}"), d);
                }
                norm_params(&mut out, &format!("{side}{i}.n{}", attentions.len() + 1), d);
                linear_params(&mut out, &format!("{side}{i}.f1"), d, f);
                linear_params(&mut out, &format!("{side}{i}.f2"), f, d);
            }
            norm_params(&mut out, &format!("{side}.n"), d);
        }
        out
    }

    /// The logits of the next word at each place of `target`, `[batch, rows, words]`, for the words `source` and `target`,
    /// `[batch, rows]` of `i64`, of sizes that are known.
    #[track_caller]
    pub fn logits(&self, params: &HashMap<&str, &Tensor>, source: &Tensor, target: &Tensor) -> Tensor {
        let net = Net { heads: self.heads, params, scope: source.scope(), at: Location::caller() };
        let mut x = net.embed(source, self.width);
        for i in 0..self.encoders {
            let h = net.norm(&x, &format!("e{i}.n1"));
            x = x + net.attend(&h, &h, &format!("e{i}.sa"), false);
            x = &x + net.feed(&net.norm(&x, &format!("e{i}.n2")), &format!("e{i}"), Activation::Relu);
        }
        let memory = net.norm(&x, "e.n");
        let mut x = net.embed(target, self.width);
        for i in 0..self.decoders {
            let h = net.norm(&x, &format!("d{i}.n1"));
            x = x + net.attend(&h, &h, &format!("d{i}.sa"), true);
            x = &x + net.attend(&net.norm(&x, &format!("d{i}.n2")), &memory, &format!("d{i}.ca"), false);
            x = &x + net.feed(&net.norm(&x, &format!("d{i}.n3")), &format!("d{i}"), Activation::Relu);
        }
        linear(&net.norm(&x, "d.n"), &net.param("emb"), None)
    }
}

/// Layers of a Transformer's encoder with norms behind them, as in BERT (Devlin et al. 2018), over rows that are embedded
/// already: attention and GELU layers, each added to its input and normed.
///
/// Its parameters go by name, for each layer: `e0.sa.q.w`, `e0.sa.q.b`, … `k`, `v`, `o` (attention), `e0.n1.g`, `e0.n1.b`
/// (norm), `e0.f1`, `e0.f2`, `e0.n2`. Weights are `[out, in]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoder {
    /// Width of the rows.
    pub width: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Width between the two linear layers.
    pub inner: usize,
}

impl Encoder {
    /// Names, shapes and initial numbers of the parameters: uniform in ±1/√in, norms 1 and 0.
    pub fn params(&self) -> Vec<Param> {
        let (d, f) = (self.width, self.inner);
        let mut out = vec![];
        for i in 0..self.layers {
            attention_params(&mut out, &format!("e{i}.sa"), d);
            norm_params(&mut out, &format!("e{i}.n1"), d);
            linear_params(&mut out, &format!("e{i}.f1"), d, f);
            linear_params(&mut out, &format!("e{i}.f2"), f, d);
            norm_params(&mut out, &format!("e{i}.n2"), d);
        }
        out
    }

    /// The rows behind the last layer, `[batch, rows, width]` as `x`.
    #[track_caller]
    pub fn rows(&self, params: &HashMap<&str, &Tensor>, x: &Tensor) -> Tensor {
        let net = Net { heads: self.heads, params, scope: x.scope(), at: Location::caller() };
        (0..self.layers).fold(x.clone(), |x, i| {
            let x = net.norm(&(&x + net.attend(&x, &x, &format!("e{i}.sa"), false)), &format!("e{i}.n1"));
            net.norm(&(&x + net.feed(&x, &format!("e{i}"), Activation::Gelu)), &format!("e{i}.n2"))
        })
    }
}

struct Net<'a> {
    heads: usize,
    params: &'a HashMap<&'a str, &'a Tensor>,
    scope: &'a crate::stage::Scope,
    at: crate::At,
}

impl Net<'_> {
    fn param(&self, name: &str) -> Tensor {
        self.params.get(name).map_or_else(
            || {
                let message = format!("there is no parameter \"{name}\"");
                self.scope.fail(Fault::Invalid(message).at("transformer", self.at));
                self.scope.nothing()
            },
            |t| (*t).clone(),
        )
    }

    fn linear(&self, x: &Tensor, name: &str) -> Tensor {
        linear(x, &self.param(&format!("{name}.w")), Some(&self.param(&format!("{name}.b"))))
    }

    fn norm(&self, x: &Tensor, name: &str) -> Tensor {
        layer_norm(x, &self.param(&format!("{name}.g")), &self.param(&format!("{name}.b")), EPSILON)
    }

    fn attend(&self, x: &Tensor, memory: &Tensor, name: &str, causal: bool) -> Tensor {
        let [q, k, v] = [(x, "q"), (memory, "k"), (memory, "v")].map(|(x, k)| self.linear(x, &format!("{name}.{k}")));
        self.linear(&attention(&q, &k, &v, self.heads, causal), &format!("{name}.o"))
    }

    fn feed(&self, x: &Tensor, layer: &str, activation: Activation) -> Tensor {
        self.linear(&activation.of(&self.linear(x, &format!("{layer}.f1"))), &format!("{layer}.f2"))
    }

    fn embed(&self, words: &Tensor, width: usize) -> Tensor {
        let table = self.param("emb");
        let Some(rows) = words.dim(1).as_const() else {
            let message = format!("{} has rows of unknown length", words.ty());
            self.scope.fail(Fault::Invalid(message).at("transformer", self.at));
            return self.scope.nothing();
        };
        let places = self.scope.constant(value(positions(rows, width))).cast(table.dtype());
        super::embedding(&table, words) * (width as f64).sqrt() + places
    }
}
