//! TPC-H tables as Arrow record batches, for any scale factor, equal on every machine.

use arrow::array::RecordBatch;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RecordBatchIterator, RegionArrow,
    SupplierArrow,
};

/// One of the eight tables of TPC-H.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Region,
    Nation,
    Supplier,
    Part,
    PartSupp,
    Customer,
    Orders,
    LineItem,
}

impl Table {
    /// All tables, the small ones first.
    pub const ALL: [Table; 8] = [
        Table::Region,
        Table::Nation,
        Table::Supplier,
        Table::Part,
        Table::PartSupp,
        Table::Customer,
        Table::Orders,
        Table::LineItem,
    ];

    /// The name in the queries, and of the file without its ending.
    pub fn name(self) -> &'static str {
        match self {
            Table::Region => "region",
            Table::Nation => "nation",
            Table::Supplier => "supplier",
            Table::Part => "part",
            Table::PartSupp => "partsupp",
            Table::Customer => "customer",
            Table::Orders => "orders",
            Table::LineItem => "lineitem",
        }
    }

    /// The table at a scale factor (1 is 6 million lines), in batches of at most `batch` rows.
    /// Text is `Utf8View`, money is `Decimal128(15, 2)`, dates are `Date32`, keys are `Int64`.
    pub fn generate(self, scale_factor: f64, batch: usize) -> Box<dyn RecordBatchIterator> {
        let sf = scale_factor;
        match self {
            Table::Region => Box::new(RegionArrow::new(RegionGenerator::new(sf, 1, 1)).with_batch_size(batch)),
            Table::Nation => Box::new(NationArrow::new(NationGenerator::new(sf, 1, 1)).with_batch_size(batch)),
            Table::Supplier => Box::new(SupplierArrow::new(SupplierGenerator::new(sf, 1, 1)).with_batch_size(batch)),
            Table::Part => Box::new(PartArrow::new(PartGenerator::new(sf, 1, 1)).with_batch_size(batch)),
            Table::PartSupp => Box::new(PartSuppArrow::new(PartSuppGenerator::new(sf, 1, 1)).with_batch_size(batch)),
            Table::Customer => Box::new(CustomerArrow::new(CustomerGenerator::new(sf, 1, 1)).with_batch_size(batch)),
            Table::Orders => Box::new(OrderArrow::new(OrderGenerator::new(sf, 1, 1)).with_batch_size(batch)),
            Table::LineItem => Box::new(LineItemArrow::new(LineItemGenerator::new(sf, 1, 1)).with_batch_size(batch)),
        }
    }

    /// All batches of the table, of the generator's own size.
    pub fn batches(self, scale_factor: f64) -> Vec<RecordBatch> {
        self.generate(scale_factor, tpchgen_arrow::DEFAULT_BATCH_SIZE).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_the_rows_of_the_specification() {
        // TPC-H 4.2.5: rows at SF 1 are a hundred times these, lineitem's about.
        for (table, rows) in [
            (Table::Region, 5),
            (Table::Nation, 25),
            (Table::Supplier, 100),
            (Table::Part, 2_000),
            (Table::PartSupp, 8_000),
            (Table::Customer, 1_500),
            (Table::Orders, 15_000),
            (Table::LineItem, 60_175),
        ] {
            let batches = table.batches(0.01);
            assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows, "{}", table.name());
        }
    }
}
