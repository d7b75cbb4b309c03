//! Typed indices into arenas.
//!
//! Every entity of a graph is named by a newtype over `u32` and owned by one arena; analyses live in side tables that are
//! indexed by the same ids.

/// Declares a newtype over `u32` that names an entity.
macro_rules! entity {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);
        impl $name {
            /// The position in the arena.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(self, f)
            }
        }
    };
}

entity!(
    /// An SSA value of a graph.
    ValueId, "%"
);
entity!(
    /// An operation of a graph.
    NodeId, "n"
);
entity!(
    /// A region: a body with parameters, nodes in order and results.
    RegionId, "r"
);
entity!(
    /// A function of a program.
    FuncId, "@f"
);
entity!(
    /// A column; unique in a program from the moment of import. Names are print hints only.
    ColumnId, "c"
);
entity!(
    /// A symbolic dimension, known only when the program runs.
    SymId, "s"
);
entity!(
    /// An input of a program: a table, a tensor or a scalar parameter.
    InputId, "in"
);
entity!(
    /// A place in the source text, for errors at run time.
    PlaceId, "p"
);
