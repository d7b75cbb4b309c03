//! Dense matrix multiplication, `C = epilogue(alpha A B + beta C)`, in f32 and f64.
//!
//! What holds:
//! - A is m × k, B is k × n, C is m × n; each has a row and a column stride, in elements, so that a transpose is a swap of
//!   strides. Zero-sized dimensions are allowed; with k = 0 the product is zero;
//! - where `beta` is 0, C is not read;
//! - an element of C is one chain of fused multiply-adds in the order of k, cut every [`k_block`] steps; its bits depend on
//!   neither the instruction set, nor the split of the rows over workers, nor on packing. The one exception is a product with
//!   a vector (m = 1 or n = 1) whose matrix is contiguous along k, which has its own fixed order;
//! - nothing here spawns. A caller with workers runs the product on them ([`gemm_on`]; by pointers
//!   [`gemm_raw_on`]), or gives each of them a range of rows ([`gemm_rows`]).
//!
//! The structure is that of Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008): B is packed into
//! panels as wide as the micro-kernel's tile, block by block, unless its rows are contiguous and those of A are few;
//! A is read in place by broadcasts, or packed where its columns are strided and it is read more than once.

mod attention;
mod attention_grad;
mod blocked;
mod kernel;
mod pack;
mod peak;
mod split;
mod vector;

pub use attention::{Attended, Attention, Term, attend, query_block};
pub use attention_grad::{AttentionGrad, Target, attend_grad};
use blocked::Blocked;
pub use blocked::k_block;
pub use pack::PackedB;
pub use peak::fused_chains;
pub use split::{SPLIT_PRODUCTS, gemm_on, gemm_raw_on};
use std::ffi::c_void;
use std::ops::Range;

/// f32 or f64.
pub trait Element: kernel::Kernel {}

impl Element for f32 {}
impl Element for f64 {}

/// A matrix that is read: element (i, j) is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> MatRef<'a, T> {
    /// A matrix over `data`.
    ///
    /// # Panics
    /// If its last element is outside of `data`.
    pub fn new(data: &'a [T], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        check_extent(data.len(), rows, columns, row_stride, column_stride);
        MatRef { data, rows, columns, row_stride, column_stride }
    }

    /// A contiguous matrix, row after row.
    pub fn row_major(data: &'a [T], rows: usize, columns: usize) -> Self {
        Self::new(data, rows, columns, columns, 1)
    }

    /// The same elements with rows and columns swapped.
    pub fn transposed(self) -> Self {
        MatRef {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

impl<T: Copy> MatRef<'_, T> {
    fn at(self, [row, column]: [usize; 2]) -> T {
        self.data[row * self.row_stride + column * self.column_stride]
    }
}

/// A matrix that is written: element (i, j) is `data[i * row_stride + j * column_stride]`. Where two elements share a place,
/// what is stored there is one of the two.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// A matrix over `data`.
    ///
    /// # Panics
    /// If its last element is outside of `data`.
    pub fn new(data: &'a mut [T], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        check_extent(data.len(), rows, columns, row_stride, column_stride);
        MatMut { data, rows, columns, row_stride, column_stride }
    }

    /// A contiguous matrix, row after row.
    pub fn row_major(data: &'a mut [T], rows: usize, columns: usize) -> Self {
        Self::new(data, rows, columns, columns, 1)
    }
}

fn check_extent(len: usize, rows: usize, columns: usize, row_stride: usize, column_stride: usize) {
    if rows == 0 || columns == 0 {
        return;
    }
    let last =
        (rows - 1).checked_mul(row_stride).and_then(|at| at.checked_add((columns - 1).checked_mul(column_stride)?));
    assert!(
        last.is_some_and(|last| last < len),
        "a {rows} x {columns} matrix with strides {row_stride} and {column_stride} does not fit into {len} elements"
    );
}

/// The right operand: as it lies in memory, or packed beforehand.
#[derive(Clone, Copy, Debug)]
pub enum Rhs<'a, T> {
    Plain(MatRef<'a, T>),
    Packed(&'a PackedB<T>),
}

/// What is done to each element of C after the last step of its sum, while it is in the first-level cache.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a, T> {
    None,
    /// The larger of the value and 0; NaN stays, and -0 becomes 0.
    Relu,
    /// Adds `bias[column]`.
    Bias(&'a [T]),
    /// Adds `bias[column]`, then [`Epilogue::Relu`].
    BiasRelu(&'a [T]),
    /// 0 where this matrix, of C's shape, has an element that is at most 0: the derivative of [`Epilogue::Relu`], by its result.
    Gate(MatRef<'a, T>),
    /// Calls a function for each finished block of C.
    Call(Callback),
}

impl<'a, T> Epilogue<'a, T> {
    /// What is added, whether negative values become 0, and by what the values are gated.
    fn parts(self) -> (Option<&'a [T]>, bool, Option<MatRef<'a, T>>) {
        match self {
            Epilogue::None | Epilogue::Call(_) => (None, false, None),
            Epilogue::Relu => (None, true, None),
            Epilogue::Bias(bias) => (Some(bias), false, None),
            Epilogue::BiasRelu(bias) => (Some(bias), true, None),
            Epilogue::Gate(gate) => (None, false, Some(gate)),
        }
    }
}

/// A function that is called once for each block of C when its elements are final, in an unspecified order of blocks.
#[derive(Clone, Copy, Debug)]
pub struct Callback {
    function: BlockFunction,
    context: *mut c_void,
}

/// Takes `(context, first row, rows, first column, columns)`; rows count from the start of the whole matrix.
pub type BlockFunction = unsafe extern "C" fn(*mut c_void, usize, usize, usize, usize);

impl Callback {
    /// # Safety
    /// As long as the callback is used, `function` may be called with `context` and any block of the C that it is used for,
    /// while the product holds C.
    pub unsafe fn new(function: BlockFunction, context: *mut c_void) -> Callback {
        Callback { function, context }
    }

    fn call(self, rows: Range<usize>, columns: Range<usize>) {
        // SAFETY: what `new` asked for.
        unsafe { (self.function)(self.context, rows.start, rows.len(), columns.start, columns.len()) }
    }
}

/// `C = epilogue(alpha A B + beta C)`.
///
/// # Panics
/// If the shapes of A, B and C do not fit together, or a bias is not as long as a row of C.
pub fn gemm<T: Element>(alpha: T, a: MatRef<T>, b: Rhs<T>, beta: T, c: MatMut<T>, epilogue: Epilogue<T>) {
    let rows = 0..a.rows;
    gemm_rows(rows, alpha, a, b, beta, c, epilogue);
}

/// The rows `rows` of [`gemm`]: A is the whole matrix, `c` holds only these rows of C. The result has the same bits as the
/// whole product's.
///
/// # Panics
/// If the shapes do not fit together, or a bias is not as long as a row of C.
pub fn gemm_rows<T: Element>(
    rows: Range<usize>,
    alpha: T,
    a: MatRef<T>,
    b: Rhs<T>,
    beta: T,
    c: MatMut<T>,
    epilogue: Epilogue<T>,
) {
    let problem = checked(&rows, alpha, a, b, beta, c, epilogue);
    // SAFETY: the constructors of the matrices checked that all elements lie in their slices, and the shapes fit together.
    unsafe { gemm_raw(&problem, rows) }
}

/// The problem by pointers, once the shapes fit together; it is valid as long as the slices are lent.
fn checked<'a, T: Element>(
    rows: &Range<usize>,
    alpha: T,
    a: MatRef<T>,
    b: Rhs<'a, T>,
    beta: T,
    c: MatMut<T>,
    epilogue: Epilogue<'a, T>,
) -> Problem<'a, T> {
    let (k, n) = match b {
        Rhs::Plain(b) => (b.rows, b.columns),
        Rhs::Packed(b) => (b.k(), b.n()),
    };
    assert!(rows.start <= rows.end && rows.end <= a.rows, "rows {rows:?} of {}", a.rows);
    assert_eq!(a.columns, k, "the inner dimensions of A and B differ");
    assert_eq!((c.rows, c.columns), (rows.len(), n), "the shape of C");
    if let Epilogue::Bias(bias) | Epilogue::BiasRelu(bias) = epilogue {
        assert_eq!(bias.len(), n, "the length of the bias");
    }
    if let Epilogue::Gate(gate) = epilogue {
        assert_eq!((gate.rows, gate.columns), (a.rows, n), "the shape of the gate");
    }
    Problem {
        m: a.rows,
        n,
        k,
        alpha,
        a: a.data.as_ptr(),
        a_strides: [a.row_stride, a.column_stride],
        b: match b {
            Rhs::Plain(b) => RawRhs::Plain { data: b.data.as_ptr(), strides: [b.row_stride, b.column_stride] },
            Rhs::Packed(b) => RawRhs::Packed(b),
        },
        beta,
        // The pointer to row 0 is only offset to rows of the range, which `c` holds.
        c: c.data.as_mut_ptr().wrapping_sub(rows.start.wrapping_mul(c.row_stride)),
        c_strides: [c.row_stride, c.column_stride],
        epilogue,
    }
}

/// A product by pointers, for callers that hold no slices: see [`gemm`] for its meaning.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a, T> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: T,
    /// m × k.
    pub a: *const T,
    /// Row and column stride, in elements.
    pub a_strides: [usize; 2],
    /// k × n.
    pub b: RawRhs<'a, T>,
    pub beta: T,
    /// m × n.
    pub c: *mut T,
    /// Row and column stride, in elements.
    pub c_strides: [usize; 2],
    pub epilogue: Epilogue<'a, T>,
}

/// The right operand of a [`Problem`].
#[derive(Clone, Copy, Debug)]
pub enum RawRhs<'a, T> {
    Plain { data: *const T, strides: [usize; 2] },
    Packed(&'a PackedB<T>),
}

/// The rows `rows` of the product.
///
/// # Safety
/// Every element of A (of the rows), B and C (of the rows) is at a valid address by its strides; C's may be written, are
/// aliased by neither A, B, the bias nor the gate, and nobody else accesses them meanwhile. A packed B is k × n, a bias has n elements
/// and a gate m × n.
pub unsafe fn gemm_raw<T: Element>(problem: &Problem<T>, rows: Range<usize>) {
    let p = *problem;
    if rows.is_empty() || p.n == 0 {
        return;
    }
    // SAFETY: the caller's promise; each branch accesses elements of the rows only.
    unsafe {
        match p.b {
            RawRhs::Packed(b) if b.is_vector() => {
                vector::matrix_vector(&p, b.as_vector(), 1, rows);
            }
            RawRhs::Packed(_) => Blocked::new(p, rows, 0..p.n, false).run(),
            RawRhs::Plain { data, strides } if p.n == 1 && vector::is_suited(p.a_strides) => {
                vector::matrix_vector(&p, data, strides[0], rows);
            }
            RawRhs::Plain { data, strides } => {
                let flipped = Problem {
                    m: p.n,
                    n: p.m,
                    a: data,
                    a_strides: [strides[1], strides[0]],
                    b: RawRhs::Plain { data: p.a, strides: [p.a_strides[1], p.a_strides[0]] },
                    c_strides: [p.c_strides[1], p.c_strides[0]],
                    ..p
                };
                if p.m == 1 && vector::is_suited(flipped.a_strides) {
                    vector::vector_matrix(&flipped, p.a, p.a_strides[1]);
                } else if p.c_strides[0] == 1 && p.c_strides[1] != 1 && p.m > 1 {
                    Blocked::new(flipped, 0..p.n, rows, true).run();
                } else {
                    Blocked::new(p, rows, 0..p.n, false).run();
                }
            }
        }
    }
}

/// Stores one element: `gated(relu(value + beta C + bias))`.
///
/// # Safety
/// `c` may be written, and read where beta is not 0.
#[inline(always)]
unsafe fn finish<T: Element>(value: T, beta: T, c: *mut T, bias: Option<T>, relu: bool, gate: Option<T>) {
    let value = if beta == T::ZERO {
        value
    } else {
        // SAFETY: the caller's promise.
        beta.fused(unsafe { *c }, value)
    };
    let value = bias.map_or(value, |bias| value + bias);
    let value = if relu && value <= T::ZERO { T::ZERO } else { value };
    let value = if gate.is_some_and(|gate| gate <= T::ZERO) { T::ZERO } else { value };
    // SAFETY: the caller's promise.
    unsafe { *c = value };
}

#[cfg(test)]
mod tests;
