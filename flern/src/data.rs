//! The real data that the demonstration, the tests and the examples run on: flights from New York City in 2013 (CC0).
//!
//! Where they come from and what they hold is in `flern/data/README.md`.

use std::io;
use std::path::{Path, PathBuf};

/// A file of the data set, embedded in the library.
#[derive(Debug, Clone, Copy)]
pub struct File {
    /// The table's name; the file is called so, with `.parquet` behind it.
    pub table: &'static str,
    pub parquet: &'static [u8],
}

macro_rules! parquet {
    ($($table:literal),*) => {
        [$(File {
            table: $table,
            parquet: include_bytes!(concat!("../data/nycflights13/", $table, ".parquet")),
        }),*]
    };
}

/// The five tables.
pub const NYCFLIGHTS13: [File; 5] = parquet!["flights", "weather", "planes", "airports", "airlines"];

/// Writes the files into the folder `nycflights13` of `folder` and returns that one.
///
/// # Errors
/// What the file system says.
pub fn write_nycflights13(folder: &Path) -> io::Result<PathBuf> {
    let folder = folder.join("nycflights13");
    std::fs::create_dir_all(&folder)?;
    for file in NYCFLIGHTS13 {
        std::fs::write(folder.join(format!("{}.parquet", file.table)), file.parquet)?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_files_are_parquet() {
        for file in NYCFLIGHTS13 {
            assert!(file.parquet.starts_with(b"PAR1") && file.parquet.ends_with(b"PAR1"));
        }
    }
}
