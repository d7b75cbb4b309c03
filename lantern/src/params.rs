//! Named parameters, in memory and on disk.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use ir::types::{Dim, ScalarType};
use ir::value::{TensorData, TensorValue};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use crate::error::{Error, Result};
use crate::nn;
use crate::stage::{Spec, stage};
use crate::tensor::{IntoValue, Tensor};

/// Named tensors in an order: the parameters of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params {
    list: Vec<(String, TensorValue)>,
}

/// Initial numbers of a parameter.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Init {
    /// One number.
    Full(f64),
    /// Uniform in ± this.
    Uniform(f64),
}

impl Init {
    /// Uniform in ±1/√inputs.
    pub fn uniform_for(inputs: usize) -> Self {
        Self::Uniform(1.0 / (inputs.max(1) as f64).sqrt())
    }
}

impl Params {
    /// Parameters of these names, shapes and initial numbers; a function of the seed alone.
    ///
    /// # Errors
    /// An element type that is no float.
    pub fn init(
        dtype: ScalarType,
        list: impl IntoIterator<Item = (String, Vec<usize>, Init)>,
        seed: u64,
    ) -> Result<Self> {
        if !dtype.is_float() {
            return Err(Error::Value(format!("parameters of {dtype}")));
        }
        let list: Vec<(String, Vec<usize>, Init)> = list.into_iter().collect();
        // A function needs an input to find its recording by.
        let f = stage("init", ["unused: i64[]"], |t| {
            let made = list.iter().enumerate().map(|(i, (_, shape, init))| {
                let shape: Vec<Dim> = shape.iter().map(|n| Dim::Const(*n)).collect();
                match *init {
                    Init::Full(number) => t[0].scope().full(dtype, &shape, number),
                    Init::Uniform(a) => t[0].scope().uniform(dtype, &shape, -a, a, seed, i as u64),
                }
            });
            made.collect::<Vec<Tensor>>()
        })?;
        let values = f.interpret([0i64.into_value()])?;
        Ok(Self { list: list.into_iter().map(|p| p.0).zip(values).collect() })
    }

    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The initial parameters of an [`nn::mlp`] of these widths; see [`nn::mlp_params`].
    ///
    /// # Errors
    /// Fewer than two widths; an element type that is no float.
    pub fn mlp(dtype: ScalarType, sizes: &[usize], seed: u64) -> Result<Self> {
        if sizes.len() < 2 || !dtype.is_float() {
            return Err(Error::Value(format!("a network of widths {sizes:?} over {dtype}")));
        }
        // A function needs an input to find its recording by.
        let f = stage("init", ["unused: i64[]"], |t| nn::mlp_params(t[0].scope(), dtype, sizes, seed))?;
        let values = f.interpret([0i64.into_value()])?;
        Ok(Self { list: nn::mlp_names(sizes).into_iter().zip(values).collect() })
    }

    /// With one more; one of the same name is replaced.
    pub fn with(mut self, name: impl Into<String>, value: impl IntoValue) -> Self {
        self.set(name, value);
        self
    }

    /// Sets one; a new one is the last.
    pub fn set(&mut self, name: impl Into<String>, value: impl IntoValue) {
        let (name, value) = (name.into(), value.into_value());
        match self.list.iter_mut().find(|p| p.0 == name) {
            Some(p) => p.1 = value,
            None => self.list.push((name, value)),
        }
    }

    /// One by name.
    pub fn get(&self, name: &str) -> Option<&TensorValue> {
        self.list.iter().find(|p| p.0 == name).map(|p| &p.1)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorValue)> {
        self.list.iter().map(|(n, v)| (n.as_str(), v))
    }

    /// The values, in order: inputs of a run.
    pub fn values(&self) -> impl Iterator<Item = TensorValue> {
        self.list.iter().map(|p| p.1.clone())
    }

    /// Inputs of a function, in order.
    pub fn specs(&self) -> Vec<Spec> {
        self.list.iter().map(|(n, v)| Spec::of(n, v.data.dtype(), &v.shape)).collect()
    }

    /// Inputs of a function: these, in order, then others.
    pub fn specs_and<S: Into<Spec>>(&self, others: impl IntoIterator<Item = S>) -> Vec<Spec> {
        self.specs().into_iter().chain(others.into_iter().map(Into::into)).collect()
    }

    /// Handles by name, from those of the inputs that [`Params::specs`] declares.
    pub fn named<'a>(&'a self, handles: &'a [Tensor]) -> HashMap<&'a str, &'a Tensor> {
        self.list.iter().map(|p| p.0.as_str()).zip(handles).collect()
    }

    /// Other values in the same order and of the same types: the results of a step.
    ///
    /// # Errors
    /// Another number of values, or one of another type or shape.
    pub fn update(&mut self, values: impl IntoIterator<Item = TensorValue>) -> Result<()> {
        let values: Vec<TensorValue> = values.into_iter().collect();
        if values.len() != self.list.len() {
            return Err(Error::Value(format!("{} values for {} parameters", values.len(), self.list.len())));
        }
        for ((name, old), new) in self.list.iter().zip(&values) {
            if old.shape != new.shape || old.data.dtype() != new.data.dtype() {
                let (dtype, shape) = (new.data.dtype(), &new.shape);
                return Err(Error::Value(format!("parameter \"{name}\" cannot become {dtype}{shape:?}")));
            }
        }
        self.list.iter_mut().zip(values).for_each(|(p, v)| p.1 = v);
        Ok(())
    }

    /// Reads a safetensors file; the order is that of the names.
    ///
    /// # Errors
    /// A file that cannot be read, is no safetensors file, or holds elements other than `bool`, `i32`, `i64`, `f32`, `f64`.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fail = |message: String| Error::File { path: path.display().to_string(), message };
        let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        Self::from_bytes(&bytes).map_err(|e| fail(e.to_string()))
    }

    /// Reads the bytes of a safetensors file.
    ///
    /// # Errors
    /// As [`Params::load`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| Error::Value(format!("no safetensors: {e}")))?;
        let mut names = file.names();
        names.sort_unstable();
        let mut out = Self::new();
        for name in names {
            let view = file.tensor(name).map_err(|e| Error::Value(e.to_string()))?;
            out.list.push((name.to_string(), read(name, &view)?));
        }
        Ok(out)
    }

    /// The bytes of a safetensors file.
    ///
    /// # Errors
    /// None that values of this type can cause.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let bytes: Vec<Vec<u8>> = self.list.iter().map(|p| write(&p.1.data)).collect();
        let mut views = vec![];
        for ((name, value), bytes) in self.list.iter().zip(&bytes) {
            let dtype = match value.data {
                TensorData::Bool(_) => Dtype::BOOL,
                TensorData::I32(_) => Dtype::I32,
                TensorData::I64(_) => Dtype::I64,
                TensorData::F32(_) => Dtype::F32,
                TensorData::F64(_) => Dtype::F64,
            };
            let view = TensorView::new(dtype, value.shape.clone(), bytes);
            views.push((name.as_str(), view.map_err(|e| Error::Value(e.to_string()))?));
        }
        serialize(views, None).map_err(|e| Error::Value(e.to_string()))
    }

    /// Writes a safetensors file, whole or not at all.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let fail = |message: String| Error::File { path: path.display().to_string(), message };
        let bytes = self.to_bytes()?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| fail(e.to_string()))?;
        file.write_all(&bytes).map_err(|e| fail(e.to_string()))?;
        file.as_file().sync_all().map_err(|e| fail(e.to_string()))?;
        file.persist(path).map_err(|e| fail(e.to_string()))?;
        Ok(())
    }
}

fn read(name: &str, view: &TensorView<'_>) -> Result<TensorValue> {
    macro_rules! elements {
        ($variant:ident, $ty:ty) => {
            TensorData::$variant(
                view.data()
                    .chunks_exact(size_of::<$ty>())
                    .map(|c| {
                        let mut bytes = [0; size_of::<$ty>()];
                        bytes.copy_from_slice(c);
                        <$ty>::from_le_bytes(bytes)
                    })
                    .collect(),
            )
        };
    }
    let data = match view.dtype() {
        Dtype::BOOL => TensorData::Bool(view.data().iter().map(|b| *b != 0).collect()),
        Dtype::I32 => elements!(I32, i32),
        Dtype::I64 => elements!(I64, i64),
        Dtype::F32 => elements!(F32, f32),
        Dtype::F64 => elements!(F64, f64),
        other => return Err(Error::Value(format!("tensor \"{name}\" holds {other:?}, which is not read yet"))),
    };
    TensorValue::new(view.shape().to_vec(), data)
        .ok_or_else(|| Error::Value(format!("tensor \"{name}\" has not as many elements as its shape says")))
}

fn write(data: &TensorData) -> Vec<u8> {
    match data {
        TensorData::Bool(v) => v.iter().map(|b| u8::from(*b)).collect(),
        TensorData::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        TensorData::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        TensorData::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        TensorData::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}
