//! What one does with a whole program: read and print it, check it, run it.

use std::fmt;

use crate::error::Result;
use crate::exec::{Inputs, Outputs};
use crate::graph::Program;
use crate::opt::{OptOptions, OptReport};
use crate::text::{self, PrintOptions};

impl Program {
    /// Reads a program from its text, and verifies it.
    ///
    /// # Errors
    /// Text that does not parse, with its line; a program for which something does not hold.
    pub fn parse(text: &str) -> Result<Self> {
        text::parse(text)
    }

    /// The program as text that parses back.
    pub fn print(&self) -> String {
        text::print(self)
    }

    /// The program as text for a reader: without the columns of tables, constants shortened.
    pub fn print_short(&self) -> String {
        text::print_with(self, PrintOptions::SHORT)
    }

    /// Checks all that holds of a program: the list stands at the top of [`crate::graph::verify`].
    ///
    /// # Errors
    /// What does not hold, with the function and the node.
    pub fn verify(&self) -> Result<()> {
        crate::graph::verify::verify(self)
    }

    /// Optimizes the program in place.
    ///
    /// # Errors
    /// An unknown pass; a pass that broke the program (a bug of ours): the program is as it was then.
    pub fn optimize(&mut self, options: &OptOptions) -> Result<OptReport> {
        let (program, report) = crate::opt::optimize(self.clone(), options)?;
        *self = program;
        Ok(report)
    }

    /// Runs the program by the reference interpreter.
    ///
    /// # Errors
    /// Inputs that do not fit; what the program raises, with its place.
    pub fn interpret(&self, inputs: &Inputs) -> Result<Outputs> {
        crate::interp::graph::interpret(self, inputs)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.print())
    }
}
