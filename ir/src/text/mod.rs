//! Programs as text: a printer, and a parser that reads it back.
//!
//! What holds: `parse(print(p))` is `p` up to numbering, and prints the same. Values are numbered in the order of the text;
//! columns, symbols, inputs and places keep their ids.
//!
//! ```text
//! program {
//!   input in0 "flights": table("year": i32, "tailnum": text?)
//!   column c0 "year": i32
//!   column c1 "tailnum": text
//!   func @main() -> (table(c0: i32)) {
//!     %0 = scan in0 (0 -> c0, 1 -> c1) : table(c0: i32, c1: text?)
//!     %1 = filter %0 {
//!       %2 = col c1 : text?
//!       %3 = literal "N14228" : text
//!       %4 = eq %2, %3 : bool?
//!       yield %4
//!     } : table(c0: i32, c1: text?)
//!     %5 = project %1 (c0) : table(c0: i32)
//!     yield %5
//!   }
//!   entry @main
//!   result "year"
//! }
//! ```
//!
//! Each operation is written as
//!
//! ```text
//! results = name<variant> operands attributes |parameters| { region } … : types at place
//! ```
//!
//! The types of results may be left out (except after `iota` and `random`, which they belong to); where they stand they are
//! checked. `;` begins a comment that ends with the line.

mod lexer;
mod names;
mod parse;
mod print;

pub use print::{PrintOptions, print, print_node, print_outputs, print_with};

pub use parse::{parse, parse_inputs};
pub(crate) use print::used_columns;
