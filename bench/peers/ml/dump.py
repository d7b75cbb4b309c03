#!/usr/bin/env python
"""Golden values. For each small configuration write <OUT>/<model>.safetensors with
  param/<name>        parameters (f32, layouts of model_defs.py)
  batch/<name>        one batch (f32 or i64)
  out                 forward output in training mode      loss   [1]
  grad/<name>         d loss / d parameter
  step1/<name>        the parameters after one optimiser step (only with --step, doubles the size)
Gradients and outputs are computed in f64 by torch from the f32 numbers and rounded to f32.
  python dump.py --out DIR [--models mlp_s,...] [--full M1,M2] [--step]
--full writes params and batch only of a timed configuration (large; keep it out of the repository)."""
import argparse, json, os, struct, sys
import numpy as np
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import model_defs as D


def save(path, tensors, meta=None):
    """minimal safetensors writer (no dependency)"""
    T = {np.dtype("float32"): "F32", np.dtype("int64"): "I64", np.dtype("float64"): "F64", np.dtype("int32"): "I32",
         np.dtype("int16"): "I16", np.dtype("uint8"): "U8", np.dtype("int8"): "I8"}
    hdr, off, blobs = {}, 0, []
    if meta:
        hdr["__metadata__"] = {k: str(v) for k, v in meta.items()}
    for n, v in tensors.items():
        v = np.asarray(v, order="C")
        b = v.tobytes()
        hdr[n] = dict(dtype=T[v.dtype], shape=list(v.shape), data_offsets=[off, off + len(b)])
        off += len(b); blobs.append(b)
    h = json.dumps(hdr, separators=(",", ":")).encode()
    h += b" " * (-len(h) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h + b"".join(blobs))
    return os.path.getsize(path)


def load(path):
    T = {"F32": np.float32, "I64": np.int64, "F64": np.float64, "I32": np.int32, "I16": np.int16, "U8": np.uint8, "I8": np.int8}
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        h = json.loads(f.read(n)); data = f.read()
    return {k: np.frombuffer(data[v["data_offsets"][0]:v["data_offsets"][1]], T[v["dtype"]]).reshape(v["shape"])
            for k, v in h.items() if k != "__metadata__"}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", required=True)
    ap.add_argument("--models", default=",".join(k for k in D.CONFIGS if k.endswith("_s")) + ",treelstm_s")
    ap.add_argument("--full"); ap.add_argument("--step", action="store_true")
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    if a.full:
        for m in a.full.split(","):
            c = D.CONFIGS[m]
            t = {"param/" + k: v for k, v in D.make_params(c).items()}
            t.update({"batch/" + k: v for k, v in D.make_batch(c).items()})
            print(m, save(os.path.join(a.out, m + ".safetensors"), t, c))
        return
    import torch
    f64 = lambda v: torch.from_numpy(v.copy()).double() if v.dtype == np.float32 else torch.from_numpy(v.copy())
    f32 = lambda t: t.detach().numpy().astype(np.float32)
    for m in a.models.split(","):
        t = {}
        if m == "treelstm_s":
            import treelstm as TL
            P = TL.make_params(hid=12, emb=10, vocab=30)
            tree = TL.prep(torch, TL.make_trees(1, seed=7, lo=8, hi=8, vocab=30)[0])
            p, rec, bat = TL.build(torch, {k: v.astype(np.float64) for k, v in P.items()}, frozen_emb=False)
            l, _ = rec(tree)
            l.backward()
            gr = {k: v.grad.clone() for k, v in p.items()}
            for v in p.values():
                v.grad = None
            l2, lg = bat(tree)
            l2.backward()
            assert abs(l.item() - l2.item()) < 1e-12
            assert all((gr[k] - v.grad).abs().max() < 1e-12 for k, v in p.items())
            out = torch.empty_like(lg); out[tree["order"]] = lg
            t = {"param/" + k: v for k, v in P.items()}
            t.update({"tree/word": tree["word"], "tree/left": np.array(tree["left"]), "tree/right": np.array(tree["right"]),
                      "tree/label": tree["label"], "out": f32(out), "loss": np.array([l.item()], np.float32)})
            t.update({"grad/" + k: f32(v) for k, v in gr.items()})
            c = dict(kind="treelstm", hid=12, emb=10, vocab=30, cls=5)
        else:
            c = D.CONFIGS[m]
            O = D.torch_ops(torch.float64)
            P, B = D.make_params(c), D.make_batch(c)
            p = {k: f64(v).requires_grad_() for k, v in P.items()}
            b = {k: f64(v) for k, v in B.items()}
            out = D.forward(O, c, p, b, True)
            l = D.loss(O, c, out, b)
            l.backward()
            t = {"param/" + k: v for k, v in P.items()}
            t.update({"batch/" + k: v for k, v in B.items()})
            t.update({"out": f32(out), "loss": np.array([float(l.detach())], np.float32)})
            t.update({"grad/" + k: f32(v.grad) for k, v in p.items()})
            if a.step:
                ps = list(p.values())
                o = {"sgd": lambda: torch.optim.SGD(ps, c["lr"]), "nesterov": lambda: torch.optim.SGD(ps, c["lr"], momentum=c.get("mom", .9), nesterov=True),
                     "adam": lambda: torch.optim.Adam(ps, c["lr"]), "adagrad": lambda: torch.optim.Adagrad(ps, c["lr"])}[c["opt"]]()
                o.step()
                t.update({"step1/" + k: f32(v) for k, v in p.items()})
        n = save(os.path.join(a.out, m + ".safetensors"), t, c)
        print(f"{m:16s} {n:8d} bytes  loss {float(t['loss'][0]):.7f}")


if __name__ == "__main__":
    main()
