#!/usr/bin/env python3
"""Fills the expected values of SQL logic tests from PostgreSQL and DuckDB.

    witness.py --postgres "host=… dbname=…" FILE.slt …

Needs the packages duckdb and psycopg. Each file runs from its beginning in an empty schema of both systems. A query's
values are written where both agree; where they do not, the file stays as it is and the difference is printed. A comment
right before a record chooses:

    # duckdb      the value is DuckDB's alone (PostgreSQL lacks the construct or means something else by it)
    # postgres    the value is PostgreSQL's alone
    # own         neither: the record is left as it stands, and its file says why

`statement ok` must succeed, and `query error` and `statement error` must fail, in the systems that are asked.
"""

import argparse
import datetime
import decimal
import sys

import duckdb
import psycopg


def number(x):
    if x != x:
        return "NaN"
    if x in (float("inf"), float("-inf")):
        return "Infinity" if x > 0 else "-Infinity"
    if x == 0:
        return "0"
    mantissa, exponent = f"{x:.11e}".split("e")
    exponent = int(exponent)
    if -5 <= exponent < 15:
        text = f"{x:.{max(0, 11 - exponent)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return mantissa.rstrip("0").rstrip(".") + f"e{exponent}"


def show(v, kind):
    if v is None:
        return "NULL"
    if isinstance(v, bool):
        return "true" if v else "false"
    if kind == "I" and not isinstance(v, str):
        return str(int(v)) if v == int(v) else str(v)
    if kind == "R" and not isinstance(v, str):
        return number(float(v))
    if isinstance(v, decimal.Decimal):
        return format(v, "f")
    if isinstance(v, datetime.datetime):
        v = v.replace(tzinfo=None)
        text = v.strftime("%Y-%m-%d %H:%M:%S")
        return (text + f".{v.microsecond:06}").rstrip("0") if v.microsecond else text
    if isinstance(v, datetime.date):
        return v.isoformat()
    return str(v) if str(v) else "(empty)"


class System:
    def __init__(self, name, run):
        self.name, self.run = name, run

    def rows(self, sql):
        try:
            return self.run(sql), None
        except Exception as e:  # what it says is shown
            return None, str(e).strip().splitlines()[0]


INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", 21, 23, 20}
FLOATS = {"FLOAT", "DOUBLE", 700, 701}


def letter(code):
    """The letter of a column's type, as a system describes it."""
    code = code if isinstance(code, int) else str(code)
    return "I" if code in INTEGERS else "R" if code in FLOATS else "T"


def ordered(rows, sort):
    if sort == "rowsort":
        return sorted(rows)
    return rows


def records(lines):
    """(first line, line behind the last) of each record, comments before it included."""
    i = 0
    while i < len(lines):
        if not lines[i].strip():
            i += 1
            continue
        start = i
        while i < len(lines) and lines[i].strip():
            i += 1
        yield start, i


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--postgres", required=True)
    args.add_argument("files", nargs="+")
    args = args.parse_args()
    differences = 0
    for path in args.files:
        connection = psycopg.connect(args.postgres, autocommit=True)
        connection.execute("drop schema if exists witness cascade; create schema witness; set search_path = witness")
        connection.execute("set timezone = 'UTC'; set extra_float_digits = 1")
        duck = duckdb.connect()
        duck.execute("set timezone = 'UTC'; set integer_division = true")

        def postgres_run(sql):
            cursor = connection.execute(sql)
            if not cursor.description:
                return [], []
            return cursor.fetchall(), [letter(c.type_code) for c in cursor.description]

        def duckdb_run(sql):
            duck.execute(sql)
            return duck.fetchall(), [letter(c[1]) for c in duck.description]

        systems = {"postgres": System("postgres", postgres_run), "duckdb": System("duckdb", duckdb_run)}
        lines = open(path, encoding="utf-8").read().split("\n")
        out, last = [], 0
        for start, end in records(lines):
            out += lines[last:start]
            last = end
            record = lines[start:end]
            head = next((i for i, l in enumerate(record) if l.split()[0] in ("query", "statement")), None)
            chosen = record[head - 1].lstrip("# ").split(":")[0].strip() if head else ""
            asked = [systems[chosen]] if chosen in systems else list(systems.values())
            if head is None or chosen == "own":
                if head is not None and record[head].split()[:2] == ["statement", "ok"]:
                    for system in systems.values():
                        system.rows("\n".join(record[head + 1 :]))
                out += record
                continue
            words = record[head].split()
            if words[0] == "query" and (len(words) < 2 or words[1] in ("rowsort", "nosort")):
                words.insert(1, "")
            body = record[head + 1 :]
            split = body.index("----") if "----" in body else len(body)
            sql = "\n".join(body[:split])
            answers = {s.name: s.rows(sql) for s in asked}
            place = f"{path}:{start + head + 1}"
            if words[:2] == ["statement", "ok"]:
                for name, (_, e) in answers.items():
                    if e:
                        differences += 1
                        print(f"{place}: {name} fails: {e}")
                out += record
                continue
            if words[1:2] == ["error"]:
                for name, (_, e) in answers.items():
                    if e is None:
                        differences += 1
                        print(f"{place}: {name} does not fail: {sql}")
                out += record
                continue
            failed = [f"{name} fails: {e}" for name, (_, e) in answers.items() if e]
            if failed:
                differences += 1
                print(f"{place}: {'; '.join(failed)}: {sql}")
                out += record
                continue
            sort = next((w for w in words[2:] if w in ("rowsort", "nosort")), "nosort")
            all_rows = {name: rows for name, ((rows, _), _) in answers.items()}
            found = [types for (_, types), _ in answers.values()]
            width = len(found[0])
            kinds = []
            for i in range(width):
                here = {f[i] for f in found}
                # A type that was written by hand stands.
                given = words[1][i] if i < len(words[1]) and words[1][i] != "?" else None
                kinds.append(given or ("I" if "I" in here else "R" if "R" in here else "T"))
            shown = {
                name: ordered([" ".join(show(v, k) for v, k in zip(row, kinds)) for row in rows], sort)
                for name, rows in all_rows.items()
            }
            values = list(shown.values())
            if any(v != values[0] for v in values):
                differences += 1
                print(f"{place}: they differ: {sql}")
                for name, v in shown.items():
                    print(f"    {name}: {v}")
                out += record
                continue
            kinds = "".join(kinds) or words[1]
            rest = [w for w in words[2:]]
            out += record[:head] + [" ".join(["query", kinds, *rest])] + body[:split] + ["----"] + values[0]
        out += lines[last:]
        open(path, "w", encoding="utf-8").write("\n".join(out))
        connection.close()
    sys.exit(differences > 0)


if __name__ == "__main__":
    main()
