#!/usr/bin/env python
"""The data and scikit-learn's coefficients for Lantern's tests of linear and logistic regression:
  python sklearn_golden.py --out ../../../lantern/tests/data
x and y are the data sets as scikit-learn ships them, rounded to f32. Coefficients (f64) are of the standardized columns
(x - mean) / std, the standard deviation with n below; the logistic regression has the default L2 penalty, C = 1."""
import argparse, os
import numpy as np
import sklearn
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.preprocessing import StandardScaler
from dump import save

ap = argparse.ArgumentParser()
ap.add_argument("--out", required=True)
out = ap.parse_args().out
os.makedirs(out, exist_ok=True)
for name, load, model in [("diabetes", load_diabetes, LinearRegression()),
                          ("breast_cancer", load_breast_cancer, LogisticRegression(tol=1e-12, max_iter=100000))]:
    x, y = load(return_X_y=True)
    x, y = x.astype(np.float32), y.astype(np.float32)
    z = StandardScaler().fit_transform(x.astype(np.float64))
    model.fit(z, y.astype(np.float64))
    coef = np.atleast_2d(model.coef_).astype(np.float64)
    intercept = np.atleast_1d(model.intercept_).astype(np.float64)
    gram = np.linalg.eigvalsh(z.T @ z / len(z))
    n = save(os.path.join(out, name + ".safetensors"), dict(x=x, y=y[:, None], coef=coef, intercept=intercept),
             {"source": f"sklearn {sklearn.__version__} {load.__name__}"})
    print(f"{name}: {x.shape}, {n} bytes, eigenvalues of the columns' correlation {gram[0]:.2g} to {gram[-1]:.3g}")
