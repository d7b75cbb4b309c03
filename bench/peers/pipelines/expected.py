#!/usr/bin/env python3
"""Expected values of the pipelines, computed with DuckDB and numpy, and the weights that training starts from.

  expected.py --data NAME=DIR … --out ../../expected       e.g. flights_k1=DIR tpch-sf1=DIR (folders of bench-data)

OUT/pipelines.json gets, per "PIPELINE/MODEL/NAME", the fields that pipeline.py checks: rows, feat_sum, and
  p2, p3  groups, agg_n, agg_sum, mean_p; `margin`, how near the nearest row comes to the threshold of agg_n
  p1, p4  train_rows, and test_auc, test_acc or test_r2 of a run of the same training in numpy: weights of
          OUT/init_<sizes>.safetensors, the batches of pipeline.py. Other row orders give other batches, so these
          agree to about two digits, and are there to tell a model that learns from one that does not.
Existing entries of other data sets are kept. numpy computes in f32 as the peers do; with --f64 the predictions are
computed in f64 and the entries compared instead of written, to see that no value hangs on rounding.
"""
import argparse, json, os, sys
import duckdb
import numpy as np
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "ml"))
import dump, gbt_onnx, model_defs

FLIGHTS = ["f_dep_sin", "f_dep_cos", "f_distance", "f_temp", "f_wind", "f_visib", "f_plane_age", "f_prev_delay", "f_dest_lat", "f_dest_alt"]
P3 = ["f_quantity", "f_extendedprice", "f_discount", "f_tax", "f_linenumber", "f_ship_days", "f_commit_days", "f_totalprice",
      "f_priority", "f_c_acctbal", "f_s_acctbal", "f_same_nation"]
P4 = ["f_quantity", "f_discount", "f_tax", "f_linenumber", "f_ship_days", "f_commit_days", "f_totalprice", "f_priority",
      "f_size", "f_retailprice", "f_month", "f_year"]
B = 1024


def features(folder, sql, columns, tables):
    c = duckdb.connect()
    for t in tables:
        c.execute("create view %s as select * from read_parquet('%s')" % (t, os.path.join(folder, t + ".parquet")))
    with open(os.path.join(HERE, sql)) as f:
        cols = c.execute(f.read()).fetchnumpy()
    cols = {k: np.asarray(v.filled(0)) if np.ma.isMaskedArray(v) else v for k, v in cols.items()}
    n = len(cols[columns[0]])
    onehot = "carrier_id" in cols
    X = np.zeros((n, len(columns) + (19 if onehot else 0)), np.float32)
    for j, f in enumerate(columns):
        X[:, j] = cols[f]
    if onehot:
        r = np.arange(n)
        X[r, 10 + cols["carrier_id"]] = 1
        X[r, 26 + cols["origin_id"]] = 1
    return c, cols, X


def base(X):
    return dict(rows=len(X), feat_sum=round(float(X.sum(dtype=np.float64)), 1))


def forward(W, X, dtype):
    W = {k: v.astype(dtype) for k, v in W.items()}
    out = []
    for i in range(0, len(X), 65536):
        h, j = X[i:i + 65536].astype(dtype), 0
        while "l%d.w" % j in W:
            h = h @ W["l%d.w" % j].T + W["l%d.b" % j]
            j += 1
            if "l%d.w" % j in W:
                h = np.maximum(h, 0)
        out.append(h[:, 0])
    return np.concatenate(out)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def infer(z, c, cols, agg, keys):
    import pyarrow as pa
    p = sigmoid(z).astype(np.float32)
    preds = pa.table({"p": p, **{k: cols[k] for k in keys}})   # noqa: read by the query
    with open(os.path.join(HERE, agg)) as f:
        r = c.execute(f.read()).fetchall()
    n, s = (2, 4) if "carrier_id" in keys else (1, 3)
    out = dict(groups=len(r), agg_n=sum(x[n] for x in r), agg_sum=round(float(sum(x[s] for x in r)), 3),
               mean_p=round(float(p.mean(dtype=np.float64)), 6))
    if "carrier_id" in keys:
        out["margin"] = float("%.2g" % np.abs(p.astype(np.float64) - 0.5).min())
    return out


def train(W, X, y, epochs, regression):
    """Adam 1e-3 with torch's constants, batches of 1024, the last partial one dropped."""
    W = {k: v.copy() for k, v in W.items()}
    L = len(W) // 2
    m = {k: np.zeros_like(v) for k, v in W.items()}
    v2 = {k: np.zeros_like(v) for k, v in W.items()}
    r, t = np.random.default_rng(7), 0
    for _ in range(epochs):
        pm = r.permutation(len(y))
        for i in range(len(y) // B):
            b = pm[i * B:(i + 1) * B]
            hs = [X[b]]
            for j in range(L):
                h = hs[-1] @ W["l%d.w" % j].T + W["l%d.b" % j]
                hs.append(np.maximum(h, 0) if j < L - 1 else h)
            z = hs[-1][:, 0]
            d = (2 * (z - y[b]) if regression else sigmoid(z) - y[b]).astype(np.float32)[:, None] / np.float32(B)
            t += 1
            for j in reversed(range(L)):
                g = {"l%d.w" % j: d.T @ hs[j], "l%d.b" % j: d.sum(0)}
                if j:
                    d = (d @ W["l%d.w" % j]) * (hs[j] > 0)
                for k, gk in g.items():
                    m[k] += np.float32(.1) * (gk - m[k])
                    v2[k] += np.float32(.001) * (gk * gk - v2[k])
                    W[k] -= np.float32(1e-3 / (1 - .9 ** t)) * m[k] / (np.sqrt(v2[k]) / np.float32((1 - .999 ** t) ** .5) + np.float32(1e-8))
    return W


def auc(p, y):
    o = np.argsort(p, kind="stable")
    rk = np.empty(len(p))
    rk[o] = np.arange(1, len(p) + 1)
    n1 = float(y.sum())
    n0 = len(y) - n1
    return float((rk[y > 0].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def trained(W, X, y, split, epochs, regression):
    te = split == 0
    z, yt = forward(train(W, X[~te], y[~te], epochs, regression), X[te], np.float32), y[te]
    out = dict(train_rows=int((~te).sum()))
    if regression:
        return out | dict(test_r2=round(float(1 - ((z - yt) ** 2).mean() / yt.var()), 5))
    return out | dict(test_auc=round(auc(z, yt), 5), test_acc=round(float(((z > 0) == (yt > 0.5)).mean()), 5))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", nargs="+", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--f64", action="store_true")
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    init = {}
    for sizes in ([29, 64, 64, 1], [29, 1], [12, 64, 64, 1], [12, 1]):
        W = model_defs.make_params(dict(kind="mlp", sizes=sizes), 2024)
        init[tuple(sizes)] = W
        if not a.f64:
            dump.save(os.path.join(a.out, "init_%s.safetensors" % "-".join(map(str, sizes))), W)
    given = lambda name: dump.load(os.path.join(HERE, "models", name + ".safetensors"))
    dtype = np.float64 if a.f64 else np.float32
    out = {}
    for item in a.data:
        name, _, folder = item.partition("=")
        if name.startswith("flights"):
            c, cols, X = features(folder, "flights_features.sql", FLIGHTS, ["flights", "weather", "planes", "airports", "airlines"])
            out["p2/mlp/" + name] = base(X) | infer(forward(given("p1_mlp"), X, dtype), c, cols, "flights_agg.sql", ["carrier_id", "month", "label"])
            if not a.f64:
                for model, sizes in (("mlp", (29, 64, 64, 1)), ("logreg", (29, 1))):
                    out["p1/%s/%s" % (model, name)] = base(X) | trained(init[sizes], X, cols["label"], cols["split"], 3, False)
        else:
            c, cols, X = features(folder, "tpch_infer_features.sql", P3, ["lineitem", "orders", "customer", "supplier", "nation"])
            for model in ("mlp", "logreg", "gbt"):
                if model == "gbt":
                    z = np.concatenate([gbt_onnx.predict_packed(given("p3_gbt"), X[i:i + 65536]) for i in range(0, len(X), 65536)])
                else:
                    z = forward(given("p3_" + model), X, dtype)
                out["p3/%s/%s" % (model, name)] = base(X) | infer(z, c, cols, "tpch_infer_agg.sql", ["nationkey", "revenue"])
            if not a.f64:
                c, cols, X = features(folder, "tpch_train_features.sql", P4, ["lineitem", "orders", "part"])
                for model in ("mlp", "logreg", "mlpreg", "linreg"):
                    reg = model in ("mlpreg", "linreg")
                    sizes = (12, 64, 64, 1) if model in ("mlp", "mlpreg") else (12, 1)
                    out["p4/%s/%s" % (model, name)] = base(X) | trained(init[sizes], X, cols["y_reg" if reg else "y_cls"], cols["split"], 1, reg)
        print(json.dumps({k: v for k, v in out.items() if k.endswith(name)}, indent=1), flush=True)
    path = os.path.join(a.out, "pipelines.json")
    old = json.load(open(path)) if os.path.exists(path) else {}
    if a.f64:
        for k, v in out.items():
            print(k, {f: "%.1e" % (abs(x - old[k][f]) / max(abs(old[k][f]), 1e-30)) for f, x in v.items() if f != "margin"})
        return
    with open(path, "w") as f:
        json.dump(dict(sorted((old | out).items())), f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
