#!/usr/bin/env python3
"""Run Flern and its peers in turn, at the same number of threads, and write the tables to ../results.

  compare.py tpch --sf 1 --mode memory --threads 4 --engines duckdb,hyper [--queries 1-22] [--data DIR]
  compare.py pipeline --pipeline p2 --model mlp --copies 20 --format parquet --threads 3 --engines polars+ort,duckdb+torch
  compare.py ml --model transformer --mode train --batch 32 --threads 3 --engines torch,torch-compile,jax
  compare.py ml --model treelstm --mode train --threads 1 --engines flern-recursion,torch,torch-batched
  compare.py gemm --threads 1                    the matrix products of the models beside the machine's peak
  compare.py all --threads 1,4 --minutes 25 [--only pipeline,ml,tpch,gemm] [--dry-run]
                                                 every comparison of PLAN below, in its order, while there is time
  options of all: [--rounds 3] [--repeats 2] [--runs 5] [--budget 12] [--python PY] [--work DIR] [--name NAME] [--no-flern]

A round runs each engine once, in a process of its own, one after another, so that a slow spell of the machine does not
meet one engine alone; the next round begins with another engine. A round in which other work kept more than 0.1 CPUs busy
is run again, --repeats times at most; what counts are the --rounds quietest, and those still disturbed are marked.
The result of an engine is the median over the rounds of what it reports as its median (TPC-H, models) or best (pipelines),
with the smallest and the largest beside it. Where a ratio is wanted, a comparison passes if ours / theirs, in one round, is at
most 1.05 times that in two rounds of three; theirs is that of the fastest peer in the round.
Below the machine's number of CPUs, each process is held to the same ones. ../results/NAME.md and .json get: the table,
the machine, the commit, the versions, and how busy other work kept the machine.
On AMD processors PyTorch runs with ml/mkl_amd.c (gcc builds it into the work folder), without which MKL is slow there.
PY is a Python with the engines (see tpch/README.md, pipelines/README.md, ml/README.md). Data is made by `bench-data`.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OTHER_WORK = 0.1
SLACK = 1.05
MODELS = ("transformer", "bert4", "mlp9", "mlp128", "treelstm")


def comparison(what, engines, seconds, wanted=(), threads=None, **options):
    """One entry of PLAN: peers; about how many seconds a round takes, with 1 thread and with 4; what is wanted: a row of the
    table, a ratio, and the peers that count (none: all); the numbers of threads, if not those that were asked for."""
    return dict(what=what, engines=engines, seconds=seconds, wanted=wanted, threads=threads, options=options)


STEP = "median step, ms"
BEST = "best repetition, ms"
PLAN = [
    comparison("pipeline", "polars+jax,polars+torch,duckdb+torch,pandas+torch", (0, 95), [(BEST, 1 / 4, ["pandas+torch"]), (BEST, 1 / 1.5, [])],
               threads="all", pipeline="p1", model="mlp", copies=20, runs=1),
    comparison("pipeline", "polars+ort,duckdb+ort,pandas+torch", (0, 75), [(BEST, 1 / 20, ["pandas+torch"]), (BEST, 1 / 3, [])],
               threads="all", pipeline="p2", model="mlp", copies=20, runs=2),
    comparison("pipeline", "polars+ort,duckdb+ort,polars+torch", (0, 25), [(BEST, 1 / 2, [])], threads="all", pipeline="p3", model="mlp"),
    comparison("pipeline", "polars+ort,duckdb+ort,polars+torch", (0, 25), [(BEST, 1 / 2, [])], threads="all", pipeline="p3", model="logreg"),
    comparison("pipeline", "polars+jax,polars+torch,duckdb+torch", (0, 60), [(BEST, 1 / 2, [])], threads="all", pipeline="p4", model="mlp", runs=2),
    comparison("ml", "torch,torch-compile,jax", (25, 25), [(STEP, 1, [])], model="mlp9", mode="train"),
    comparison("ml", "torch,torch-compile,jax", (30, 27), [(STEP, 1, [])], model="mlp128", mode="train"),
    comparison("ml", "torch,torch-compile,jax", (75, 50), [(STEP, 1.2, [])], model="transformer", mode="train"),
    comparison("ml", "torch,torch-compile,jax,onnxruntime", (70, 50), [(STEP, 1.2, [])], model="transformer", mode="infer"),
    comparison("ml", "torch,torch-compile,jax,onnxruntime", (45, 40), [(STEP, 1.2, [])], model="bert4", mode="infer", batch=1),
    comparison("ml", "torch,torch-compile,jax,onnxruntime", (60, 45), [(STEP, 1.2, [])], model="bert4", mode="infer", batch=8),
    comparison("ml", "flern-recursion,torch,torch-batched", (35, 0), threads="1", model="treelstm", mode="train"),
    comparison("ml", "flern-recursion,torch,torch-batched", (25, 0), threads="1", model="treelstm", mode="infer"),
    comparison("tpch", "duckdb,hyper,polars", (75, 50),
               [(q, 1 / 2, []) for q in ("q01", "q06")] + [(q, 1, []) for q in ("q03", "q09", "q13", "q18")] + [("geometric mean", 1, [])], runs=3),
    comparison("gemm", "", (45, 0), threads="1"),
]


def cargo(*args):
    return ["cargo", *args]


def data(a):
    """The folder of the input files; both sides read the same. Models make their batches themselves."""
    if a.what in ("ml", "gemm"):
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


def ours(engine):
    """Flern, or Flern with something switched off."""
    return engine.startswith("flern")


def bench_of(a):
    """The benchmark of ours."""
    if a.what == "ml":
        return "mlp" if a.model.startswith("mlp") else "treelstm" if a.model == "treelstm" else "transformer"
    return {"tpch": "tpch", "pipeline": "pipelines", "gemm": "gemm"}[a.what]


def bench(a, *args):
    return cargo("bench", "-q", "-p", "bench", "--bench", bench_of(a), "--", *args)


def model_command(a, engine, out):
    common = ["--threads", str(a.threads), "--mode", a.mode, "--json", out]
    if a.model == "treelstm":
        return bench(a, *common) if ours(engine) else [a.python, os.path.join(HERE, "ml", "treelstm.py"), "--engine", engine] + common
    common += ["--model", a.model, "--budget", "%g" % a.budget] + (["--batch", str(a.batch)] if a.batch else [])
    return bench(a, *common) if ours(engine) else [a.python, os.path.join(HERE, "ml", "models.py"), "--engine", engine] + common


def environment(a, engine):
    """Freed memory is kept, so that no engine pays for page faults that its caller could avoid."""
    off = dict(IR_OFF="levels") if engine == "flern-recursion" else {}
    if ours(engine) and a.what != "ml":
        return None
    e = dict(os.environ, MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="68719476736", **off)
    if engine.startswith("torch") or engine.partition("+")[2].startswith("torch"):
        library = mkl_on_amd(a)
        if library:
            e["LD_PRELOAD"] = library
    return e


def command(a, engine, folder, out):
    if a.what == "ml":
        return model_command(a, engine, out)
    common = ["--threads", str(a.threads), "--json", out]
    if a.what == "gemm":
        return bench(a, *common)
    if ours(engine):
        common += ["--data", folder]
        if a.what == "tpch":
            return bench(a, *common, "--sf", "%g" % a.sf, "--mode", a.mode, "--runs", str(a.runs), "--queries", a.queries)
        return bench(a, *common, "--pipeline", a.pipeline, "--model", a.model, "--format", a.format, "--reps", str(a.runs))
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
    """What one process reports, or its error; and how many CPUs other work kept busy meanwhile."""
    out = os.path.join(a.work, "%d-%s.json" % (number, engine.replace("+", "-")))
    if os.path.exists(out):
        os.remove(out)
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
                             ("steps", "steps", 1), ("trees a second", "trees_per_s", 1), ("first loss", "loss_first", 1), ("mean loss", "loss_mean", 1), ("peak memory, GB", "peak_rss_mb", 1e3)):
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
    return dict(ml=model_rows, gemm=product_rows, tpch=tpch_rows, pipeline=pipeline_rows)[a.what](runs)


def verdicts(a, runs):
    """For each ratio that is wanted: ours / the fastest peer's in each round, and whether it passes."""
    out = []
    for row, ratio, peers in a.wanted:
        peers = [e for e in peers or runs if not ours(e) and e in runs]
        got = []
        for i in range(len(runs.get("flern", []))):
            cells = rows_of(a, {e: [runs[e][i]] for e in ["flern", *peers]}).get(row, {})
            mine, theirs = cells.get("flern") or {}, [c["median"] for c in (cells.get(e) or {} for e in peers) if "median" in c]
            if "median" in mine and theirs:
                got.append(mine["median"] / min(theirs))
        good = sum(x <= SLACK * ratio for x in got)
        out.append(dict(row=row, wanted=ratio, peers=peers, ratios=got, passes=good >= 2 and 3 * good >= 2 * len(got)))
    return out


def verdict_lines(found):
    return ["- %s: ours / the fastest of %s, by round: %s; wanted %s: %s." % (
        v["row"], ", ".join(v["peers"]), ", ".join("%.3f" % x for x in v["ratios"]) or "none", number(v["wanted"]),
        "passes" if v["passes"] else "missed") for v in found]


def subject_of(a, folder):
    if a.what == "tpch":
        return "TPC-H, SF %g, %s" % (a.sf, a.mode)
    if a.what == "gemm":
        return "Matrix products"
    if a.what == "ml":
        return "Model %s, %s%s" % (a.model, a.mode, ", batches of %d" % a.batch if a.batch else "")
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


def rounds_of(a, engines, folder):
    """{engine: results of the rounds that count}. Disturbed rounds are run again."""
    done = []
    quiet = lambda r: all(x.get("other_cpus", 0) <= OTHER_WORK for x in r.values())
    while len(done) < a.rounds or (sum(map(quiet, done)) < a.rounds and len(done) < a.rounds + a.repeats):
        i = len(done)
        done.append({})
        for j in range(len(engines)):
            e = engines[(i + j) % len(engines)]
            r = done[i][e] = run(a, e, folder, i)
            print("round %d, %s: %s" % (i + 1, e, r.get("error") or "other work kept %.2f CPUs busy" % r["other_cpus"]), flush=True)
    disturbance = lambda r: 0 if quiet(r) else max(x.get("other_cpus", 0) for x in r.values())
    counted = sorted(sorted(range(len(done)), key=lambda i: disturbance(done[i]))[: a.rounds])
    return {e: [done[i][e] for i in counted] for e in engines}


def compare(a):
    """One comparison: runs, writes the table, prints it. Whether every run ended well."""
    engines = ([] if a.no_flern else ["flern"]) + [e for e in a.engines.split(",") if e]
    folder = data(a)
    if not a.no_flern:
        subprocess.run(cargo("bench", "-q", "-p", "bench", "--bench", bench_of(a), "--no-run"), cwd=ROOT, check=True)
    start = time.time()
    runs = rounds_of(a, engines, folder)
    subject = subject_of(a, folder)
    name = a.name or subject.lower().replace(",", "").replace(" ", "-") + "-t%d" % a.threads
    rows, found = rows_of(a, runs), verdicts(a, runs)
    mine = next((r for r in runs.get("flern", []) if "commit" in r), {})
    versions = {e: rs[-1].get("info", {}).get("version", "") for e, rs in runs.items()}
    versions = ", ".join("%s %s" % v for v in versions.items() if v[1])
    disturbed = ["%s in round %d (%.2f)" % (e, i + 1, r["other_cpus"]) for e, rs in runs.items() for i, r in enumerate(rs)
                 if r.get("other_cpus", 0) > OTHER_WORK]
    text = ["# %s, %d thread%s" % (subject, a.threads, "" if a.threads == 1 else "s"), "",
            "%s, %d CPUs; commit %s; %s; %d rounds%s, engines in turn.%s" % (
                cpu(), os.cpu_count(), mine.get("commit") or "(without Flern)", time.strftime("%Y-%m-%d"), a.rounds,
                "" if a.what in ("ml", "gemm") else " of %d repetitions" % a.runs, " Versions: " + versions + "." if versions else ""),
            "Times in ms unless said; median over the rounds (smallest–largest).", "", table(rows, engines), ""]
    if found:
        text += verdict_lines(found) + [""]
    if disturbed:
        text += ["Disturbed by other work, to be repeated: " + "; ".join(disturbed) + ".", ""]
    results = os.path.join(HERE, "..", "results")
    os.makedirs(results, exist_ok=True)
    with open(os.path.join(results, name + ".md"), "w") as f:
        f.write("\n".join(text))
    with open(os.path.join(results, name + ".json"), "w") as f:
        json.dump(dict(subject=subject, threads=a.threads, rounds=a.rounds, runs=a.runs, cpu=cpu(), cpus=os.cpu_count(),
                       commit=mine.get("commit"), date=time.strftime("%Y-%m-%d"), rows=rows, wanted=found,
                       other_cpus={e: [r.get("other_cpus") for r in rs] for e, rs in runs.items()}), f, indent=1)
        f.write("\n")
    print("\n".join(text))
    print("took %.0f s" % (time.time() - start), flush=True)
    return not any(r.get("error") or r.get("status") for rs in runs.values() for r in rs)


def planned(a, counts):
    """The arguments and the estimated seconds of each comparison of PLAN, at each number of threads."""
    for c in PLAN:
        if a.only and c["what"] not in a.only.split(","):
            continue
        for threads in {None: counts, "all": counts[-1:], "1": [n for n in counts if n == 1]}[c["threads"]]:
            b = argparse.Namespace(**{**vars(a), "budget": min(a.budget, 4), **c["options"]})
            b.what, b.engines, b.threads, b.wanted, b.name = c["what"], c["engines"], threads, c["wanted"], None
            b.mode = c["options"].get("mode", "memory")
            yield b, c["seconds"][threads > 1] * a.rounds


def compare_all(a, counts):
    """Every comparison of PLAN while there is time: what is not started is told at the end."""
    start, left, fine = time.time(), [], True
    for b, seconds in planned(a, counts):
        name = "%s, %d thread%s" % (subject_of(b, "tpch-sf1" if b.pipeline in ("p3", "p4") else "flights_k%d" % b.copies),
                                    b.threads, "" if b.threads == 1 else "s")
        print("%s: about %.1f minutes, at minute %.1f" % (name, seconds / 60, (time.time() - start) / 60), flush=True)
        if a.dry_run:
            start -= seconds
        elif time.time() - start + seconds > a.minutes * 60:
            left.append(name)
        else:
            fine &= compare(b)
    print("%.1f minutes in all" % ((time.time() - start) / 60))
    if left:
        print("not run, for want of time: " + "; ".join(left))
    return fine and not left


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["tpch", "pipeline", "ml", "gemm", "all"])
    ap.add_argument("--sf", type=float, default=1)
    ap.add_argument("--mode", choices=["memory", "parquet", "train", "infer"], help="default: memory; of models: train")
    ap.add_argument("--batch", type=int, help="rows of a model's batch (default: the configuration's)")
    ap.add_argument("--queries", default="1-22")
    ap.add_argument("--pipeline", choices=["p1", "p2", "p3", "p4"], default="p2")
    ap.add_argument("--model", default="mlp")
    ap.add_argument("--copies", type=int, default=1)
    ap.add_argument("--format", choices=["parquet", "csv"], default="parquet")
    ap.add_argument("--data", help="folder of the input, from the workspace root (default: made)")
    ap.add_argument("--threads", default=str(os.cpu_count()), help="one number, or several, separated by commas")
    ap.add_argument("--engines", default="", help="peers, separated by commas; for pipelines as stack+ml")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--repeats", type=int, default=2, help="disturbed rounds that are run again, at most")
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--budget", type=float, default=12, help="seconds of timed steps of a model; of all: at most 4")
    ap.add_argument("--minutes", type=float, default=25, help="of all: no comparison begins that would end later")
    ap.add_argument("--only", default="", help="of all: only these kinds, separated by commas")
    ap.add_argument("--dry-run", action="store_true", help="of all: tell what would run, and how long")
    ap.add_argument("--python", default=sys.executable)
    ap.add_argument("--work", help="folder for the files of each run (default: a temporary one)")
    ap.add_argument("--name", help="of the files in ../results")
    ap.add_argument("--no-flern", action="store_true", help="peers alone")
    a = ap.parse_args()
    if a.what != "all":
        a.mode = a.mode or ("train" if a.what == "ml" else "memory")
        if a.what == "ml" and a.model not in MODELS:
            ap.error("--model %s has no benchmark of ours" % a.model)
        if (a.mode in ("train", "infer")) != (a.what == "ml"):
            ap.error("--mode %s is not one of %s" % (a.mode, a.what))
    a.wanted = []
    a.work = os.path.abspath(a.work) if a.work else tempfile.mkdtemp(prefix="compare-")
    os.makedirs(a.work, exist_ok=True)
    return a


def main():
    a = arguments()
    counts = [int(n) for n in a.threads.split(",")]
    if a.what == "all":
        return 0 if compare_all(a, counts) else 1
    fine = [compare(argparse.Namespace(**{**vars(a), "threads": n})) for n in counts]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
