#!/usr/bin/env python3
"""Writes the answers of the demonstration's ETL, computed by DuckDB: summary.csv and rows.csv beside this file.

    pip install duckdb==2.0.0 ; python make.py

The statements are those of flern/src/bin/flern/demo.sql up to the table `features`; nothing is rewritten."""
import csv
import os

import duckdb

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..", "..")
# A sample that is spread over carriers and months.
ROWS = "SELECT * FROM features WHERE (flight * 7 + day * 31 + month) % 1009 = 0 ORDER BY month, day, carrier, flight, origin, dep_hour"


def main():
    with open(os.path.join(ROOT, "flern/src/bin/flern/demo.sql")) as script:
        statements = script.read().split(";\n")
    os.chdir(os.path.join(ROOT, "flern/data"))
    db = duckdb.connect()
    for statement in statements:
        db.execute(statement)
        if "CREATE TABLE features" in statement:
            break
    columns = db.execute("DESCRIBE features").fetchall()
    with open(os.path.join(HERE, "summary.csv"), "w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["column", "type", "rows", "nulls", "distinct", "sum"])
        for name, kind, *_ in columns:
            # Text counts by its characters, a boolean as 0 or 1; doubles are added exactly, as decimals of 18 places.
            value = {"VARCHAR": f"length({name})", "BOOLEAN": f"{name}::INT", "DOUBLE": f"{name}::DECIMAL(30, 12)"}.get(kind, name)
            row = db.execute(f"SELECT count(*), count(*) - count({name}), count(DISTINCT {name}), sum({value}) FROM features").fetchone()
            writer.writerow([name, kind, *row])
    with open(os.path.join(HERE, "rows.csv"), "w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([name for name, *_ in columns])
        for row in db.execute(ROWS).fetchall():
            writer.writerow(["" if value is None else str(value).lower() if isinstance(value, bool) else value for value in row])


if __name__ == "__main__":
    main()
