#!/usr/bin/env python3
"""Run Flern and its peers in turn, at the same number of threads, and write the table to ../results.

  compare.py tpch --sf 1 --mode memory --threads 4 --engines duckdb,hyper [--queries 1-22] [--data DIR]
  compare.py pipeline --pipeline p2 --model mlp --copies 20 --format parquet --threads 3 --engines polars+ort,duckdb+torch
  compare.py ml --model transformer --mode train --batch 32 --threads 3 --engines torch,torch-compile,jax
  compare.py ml --model gemm --threads 3                    the matrix products of the models beside the machine's peak
  options of all: [--rounds 3] [--runs 5] [--python PY] [--work DIR] [--name NAME] [--no-flern]

A round runs each engine once, in a process of its own, one after another, so that a slow spell of the machine does not
meet one engine alone; the next round begins with another engine. The result of an engine is the median over the
rounds of what it reports as its median (TPC-H, models) or best (pipelines), with the smallest and the largest beside it.
Below the machine's number of CPUs, each process is held to the same ones. ../results/NAME.md and .json get: the table,
the machine, the commit, the versions, and how busy other work kept the machine; a run with more than 0.1 CPUs of
other work is marked, and is to be repeated.
On AMD processors PyTorch runs with ml/mkl_amd.c (gcc builds it into the work folder), without which MKL is slow there.
PY is a Python with the engines (see tpch/README.md, pipelines/README.md, ml/README.md). Data is made by `bench-data`.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OTHER_WORK = 0.1


def cargo(*args):
    return ["cargo", *args]


def data(a):
    """The folder of the input files; both sides read the same. Models make their batches themselves."""
    if a.what == "ml":
        return ""
    if a.data:
        return os.path.join(ROOT, a.data)
    what = ["tpch", "--sf", "%g" % a.sf] if a.what == "tpch" or a.pipeline in ("p3", "p4") else ["flights", "--copies", str(a.copies)]
    if a.what == "pipeline":
        what += ["--format", a.format]
    r = subprocess.run(cargo("run", "--release", "-q", "-p", "bench", "--bin", "bench-data", "--", *what), cwd=ROOT,
                       check=True, stdout=subprocess.PIPE, text=True)
    return r.stdout.strip()


def cpu():
    with open("/proc/cpuinfo") as f:
        return next((l.split(":", 1)[1].strip() for l in f if l.startswith("model name")), "")


def mkl_on_amd(a):
    """The library that makes MKL take its fast path on AMD; none elsewhere."""
    if "AMD" not in cpu():
        return None
    library = os.path.join(a.work, "libmklamd.so")
    if not os.path.exists(library):
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, os.path.join(HERE, "ml", "mkl_amd.c")], check=True)
    return library


def model_bench(a):
    """The benchmark that has the model."""
    return {"gemm": "gemm", "transformer": "transformer", "bert4": "transformer"}.get(a.model, "mlp")


def model_command(a, engine, out):
    common = ["--threads", str(a.threads), "--json", out]
    if a.model == "gemm":
        return cargo("bench", "-q", "-p", "bench", "--bench", "gemm", "--") + common
    common += ["--model", a.model, "--mode", a.mode] + (["--batch", str(a.batch)] if a.batch else [])
    if engine == "flern":
        return cargo("bench", "-q", "-p", "bench", "--bench", model_bench(a), "--") + common
    return [a.python, os.path.join(HERE, "ml", "models.py"), "--engine", engine] + common


def environment(a, engine):
    """Freed memory is kept, so that no engine pays for page faults that its caller could avoid."""
    if engine == "flern" and a.what != "ml":
        return None
    e = dict(os.environ, MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="68719476736")
    if a.what == "ml" and engine.startswith("torch"):
        library = mkl_on_amd(a)
        if library:
            e["LD_PRELOAD"] = library
    return e


def command(a, engine, folder, out):
    if a.what == "ml":
        return model_command(a, engine, out)
    if engine == "flern":
        bench = cargo("bench", "-q", "-p", "bench", "--bench", "tpch" if a.what == "tpch" else "pipelines", "--")
        common = ["--data", folder, "--threads", str(a.threads), "--json", out]
        if a.what == "tpch":
            return bench + common + ["--sf", "%g" % a.sf, "--mode", a.mode, "--runs", str(a.runs), "--queries", a.queries]
        return bench + common + ["--pipeline", a.pipeline, "--model", a.model, "--format", a.format, "--reps", str(a.runs)]
    if a.what == "tpch":
        c = [a.python, os.path.join(HERE, "tpch", "peers.py"), "--sf-dir", folder, "--engine", engine, "--mode", a.mode,
             "--threads", str(a.threads), "--runs", str(a.runs), "--queries", a.queries, "--json", out, "--work-dir", a.work]
        answers = os.path.join(HERE, "tpch", "answers", "sf%g" % a.sf)
        return c + (["--answers", answers] if os.path.isdir(answers) else [])
    stack, _, ml = engine.partition("+")
    return [a.python, os.path.join(HERE, "pipelines", "pipeline.py"), "--pipeline", a.pipeline, "--stack", stack,
            "--ml", ml or "torch", "--model", a.model, "--format", a.format, "--data", folder, "--threads", str(a.threads),
            "--reps", str(a.runs), "--json", out]


def busy():
    """CPU seconds that the whole machine has spent."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:9]]
    return (sum(v) - v[3] - v[4]) / os.sysconf("SC_CLK_TCK")


def run(a, engine, folder, number):
    out = os.path.join(a.work, "%d-%s.json" % (number, engine.replace("+", "-")))
    cpus = sorted(os.sched_getaffinity(0))[: a.threads]
    b0, t0 = busy(), time.time()
    before = os.times()
    p = subprocess.run(command(a, engine, folder, out), cwd=ROOT, env=environment(a, engine), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    wall, after = time.time() - t0, os.times()
    own = after.children_user + after.children_system - before.children_user - before.children_system
    if p.returncode or not os.path.exists(out):
        print(p.stdout[-3000:])
    if not os.path.exists(out):
        return dict(error="ended with status %d" % p.returncode)
    with open(out) as f:
        r = json.load(f)
    r["status"] = p.returncode
    r["other_cpus"] = round(max(0.0, busy() - b0 - own) / wall, 3)
    return r


def over_rounds(values):
    v = [x for x in values if x is not None]
    return dict(median=statistics.median(v), min=min(v), max=max(v)) if v else None


def tpch_rows(runs):
    """{query: {engine: {median, min, max} or the error}}, and the sum and the geometric mean of the medians."""
    queries = sorted({int(q) for rs in runs.values() for r in rs for q in r.get("queries", {})})
    rows = {}
    for q in queries:
        rows["q%02d" % q] = {}
        for e, rs in runs.items():
            got = [r.get("queries", {}).get(str(q), {}) for r in rs]
            wrong = [g["answer"] for g in got if not g.get("answer", "equal").startswith(("equal", "no "))]
            cell = over_rounds(g.get("median_ms") for g in got)
            rows["q%02d" % q][e] = dict(error="wrong") if wrong else cell or dict(error="error")
    done = [e for e in runs if all("median" in rows[q][e] for q in rows)]
    for name, f in (("sum", sum), ("geometric mean", statistics.geometric_mean)):
        rows[name] = {e: dict(median=f([rows["q%02d" % q][e]["median"] for q in queries])) for e in done}
    for name, key in (("load, s", "load_s"), ("peak memory, GB", "peak_rss")):
        rows[name] = {e: over_rounds((r[key] / (1e9 if key == "peak_rss" else 1)) if r.get(key) else None for r in rs) for e, rs in runs.items()}
    for name, key, over in (("planning and compilation, first runs, sum, ms", "compile_ms", sum),
                            ("planning and look-up, later runs, largest, ms", "lookup_ms", max)):
        cells = {e: over_rounds(over(found) if found else None for found in
                                ([q[key] for q in r.get("queries", {}).values() if key in q] for r in rs)) for e, rs in runs.items()}
        rows[name] = {e: c for e, c in cells.items() if c}
    return rows


def pipeline_rows(runs):
    rows = {}
    for name, get in (("best repetition, ms", lambda r: r.get("total_ms")), ("first repetition, ms", lambda r: r.get("first_total_ms")),
                      ("peak memory, GB", lambda r: r["peak_rss_mb"] / 1e3 if "peak_rss_mb" in r else None)):
        rows[name] = {e: over_rounds(get(r) for r in rs) or dict(error="error") for e, rs in runs.items()}
    for phase in sorted({p for rs in runs.values() for r in rs for p in r.get("phases", {})}):
        rows["  " + phase + ", ms"] = {e: over_rounds(r.get("phases", {}).get(phase) for r in rs) for e, rs in runs.items()}
    for key in ("rows", "feat_sum", "agg_n", "agg_sum", "mean_p", "test_auc", "test_acc", "test_r2"):
        if any(key in r for rs in runs.values() for r in rs):
            rows[key] = {e: over_rounds(r.get(key) for r in rs) for e, rs in runs.items()}
    return rows


def model_rows(runs):
    rows = {}
    for name, key, scale in (("median step, ms", "median_ms", 1), ("best step, ms", "min_ms", 1), ("first step, ms", "first_step_ms", 1),
                             ("steps", "steps", 1), ("first loss", "loss_first", 1), ("peak memory, GB", "peak_rss_mb", 1e3)):
        if any(r.get(key) is not None for rs in runs.values() for r in rs):
            rows[name] = {e: over_rounds(r[key] / scale if r.get(key) is not None else None for r in rs) or
                          (dict(error="error") if any("error" in r for r in rs) else None) for e, rs in runs.items()}
    flops = next((r["flops"] for r in runs.get("flern", []) if r.get("flops")), None)
    if flops:
        rows["GFLOP/s"] = {e: dict(median=flops / c["median"] / 1e6) for e, c in rows["median step, ms"].items() if c and "median" in c}
    return rows


def product_rows(runs):
    """Shares of the machine's peak, in percent, of each product of the models."""
    rows = {"peak, GFLOP/s": {e: over_rounds(r.get("peak_gflops") for r in rs) for e, rs in runs.items()}}
    for e, rs in runs.items():
        for r in rs:
            for p in r.get("products", []):
                name = "%s %s, %s (%d x %d x %d), %% of peak" % (p["model"], p["layer"], p["product"], p["m"], p["n"], p["k"])
                rows.setdefault(name, {}).setdefault(e, []).append(100 * p["share_of_peak"])
    return {name: {e: over_rounds(c) if isinstance(c, list) else c for e, c in cells.items()} for name, cells in rows.items()}


def rows_of(a, runs):
    if a.what == "ml":
        return product_rows(runs) if a.model == "gemm" else model_rows(runs)
    return tpch_rows(runs) if a.what == "tpch" else pipeline_rows(runs)


def subject_of(a, folder):
    if a.what == "tpch":
        return "TPC-H, SF %g, %s" % (a.sf, a.mode)
    if a.what == "ml":
        batch = ", batches of %d" % a.batch if a.batch else ""
        return "Matrix products" if a.model == "gemm" else "Model %s, %s%s" % (a.model, a.mode, batch)
    return "Pipeline %s, %s, %s, %s" % (a.pipeline, a.model, os.path.basename(folder), a.format)


def number(x):
    return "%.4g" % x if abs(x) < 1000 else "%.0f" % x


def cell(c, best):
    if not c:
        return ""
    if "error" in c:
        return c["error"]
    text = number(c["median"]) + (" (%s–%s)" % (number(c["min"]), number(c["max"])) if c.get("min", 0) != c.get("max", 0) else "")
    return "**%s**" % text if best else text


def table(rows, engines):
    lines = ["| | " + " | ".join(engines) + " |", "|---" * (len(engines) + 1) + "|"]
    for name, cells in rows.items():
        medians = [c["median"] for c in cells.values() if c and "median" in c]
        timed = name.startswith("q") or name.endswith("ms") and name != "first step, ms" or name in ("sum", "geometric mean")
        best = min(medians) if timed and len(medians) > 1 else None
        lines.append("| %s | %s |" % (name.strip(), " | ".join(
            cell(cells.get(e), best is not None and (cells.get(e) or {}).get("median") == best) for e in engines)))
    return "\n".join(lines)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["tpch", "pipeline", "ml"])
    ap.add_argument("--sf", type=float, default=1)
    ap.add_argument("--mode", choices=["memory", "parquet", "train", "infer"], help="default: memory; of models: train")
    ap.add_argument("--batch", type=int, help="rows of a model's batch (default: the configuration's)")
    ap.add_argument("--queries", default="1-22")
    ap.add_argument("--pipeline", choices=["p1", "p2", "p3", "p4"], default="p2")
    ap.add_argument("--model", default="mlp")
    ap.add_argument("--copies", type=int, default=1)
    ap.add_argument("--format", choices=["parquet", "csv"], default="parquet")
    ap.add_argument("--data", help="folder of the input, from the workspace root (default: made)")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--engines", default="", help="peers, separated by commas; for pipelines as stack+ml")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--python", default=sys.executable)
    ap.add_argument("--work", help="folder for the files of each run (default: a temporary one)")
    ap.add_argument("--name", help="of the files in ../results")
    ap.add_argument("--no-flern", action="store_true", help="peers alone")
    a = ap.parse_args()
    a.mode = a.mode or ("train" if a.what == "ml" else "memory")
    if a.what == "ml" and a.model not in ("transformer", "bert4", "mlp9", "mlp128", "gemm"):
        ap.error("--model %s has no benchmark of ours" % a.model)
    if (a.mode in ("train", "infer")) != (a.what == "ml"):
        ap.error("--mode %s is not one of %s" % (a.mode, a.what))
    a.work = os.path.abspath(a.work) if a.work else tempfile.mkdtemp(prefix="compare-")
    os.makedirs(a.work, exist_ok=True)
    engines = ([] if a.no_flern else ["flern"]) + [e for e in a.engines.split(",") if e]
    folder = data(a)
    if not a.no_flern:
        bench = {"tpch": "tpch", "pipeline": "pipelines"}.get(a.what) or model_bench(a)
        subprocess.run(cargo("bench", "-q", "-p", "bench", "--bench", bench, "--no-run"), cwd=ROOT, check=True)
    runs = {e: [] for e in engines}
    for i in range(a.rounds):
        for j in range(len(engines)):
            e = engines[(i + j) % len(engines)]
            r = run(a, e, folder, i)
            runs[e].append(r)
            print("round %d, %s: %s" % (i + 1, e, r.get("error") or "other work kept %.2f CPUs busy" % r["other_cpus"]), flush=True)

    subject = subject_of(a, folder)
    name = a.name or subject.lower().replace(",", "").replace(" ", "-") + "-t%d" % a.threads
    rows = rows_of(a, runs)
    ours = next((r for r in runs.get("flern", []) if "commit" in r), {})
    versions = {e: rs[-1].get("info", {}).get("version", "") for e, rs in runs.items()}
    versions = ", ".join("%s %s" % v for v in versions.items() if v[1])
    disturbed = ["%s in round %d (%.2f)" % (e, i + 1, r["other_cpus"]) for e, rs in runs.items() for i, r in enumerate(rs)
                 if r.get("other_cpus", 0) > OTHER_WORK]
    text = ["# %s, %d thread%s" % (subject, a.threads, "" if a.threads == 1 else "s"), "",
            "%s, %d CPUs; commit %s; %s; %d rounds%s, engines in turn.%s" % (
                cpu(), os.cpu_count(), ours.get("commit") or "(without Flern)", time.strftime("%Y-%m-%d"), a.rounds,
                "" if a.what == "ml" else " of %d repetitions" % a.runs, " Versions: " + versions + "." if versions else ""),
            "Times in ms unless said; median over the rounds (smallest–largest).", "", table(rows, engines), ""]
    if disturbed:
        text += ["Disturbed by other work, to be repeated: " + "; ".join(disturbed) + ".", ""]
    results = os.path.join(HERE, "..", "results")
    os.makedirs(results, exist_ok=True)
    with open(os.path.join(results, name + ".md"), "w") as f:
        f.write("\n".join(text))
    with open(os.path.join(results, name + ".json"), "w") as f:
        json.dump(dict(subject=subject, threads=a.threads, rounds=a.rounds, runs=a.runs, cpu=cpu(), cpus=os.cpu_count(),
                       commit=ours.get("commit"), date=time.strftime("%Y-%m-%d"), rows=rows,
                       other_cpus={e: [r.get("other_cpus") for r in rs] for e, rs in runs.items()}), f, indent=1)
        f.write("\n")
    print("\n".join(text))
    return 1 if any(r.get("error") or r.get("status") for rs in runs.values() for r in rs) else 0


if __name__ == "__main__":
    sys.exit(main())
