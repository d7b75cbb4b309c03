//! Training loops and optimizers.

use ir::value::TensorValue;
use lantern::nn::{self, Activation};
use lantern::{Batches, Fit, Optimizer, Params, array, stage, value};
use ndarray::{Array2, array as a};

use crate::{assert_close, both, doubles};

/// A step of each optimizer on p = 1, 2 with gradients 0.5, -1 and then 0.25, 1; values of torch.optim.
#[test]
fn optimizers_step_as_those_of_pytorch() {
    let two_steps = |optimizer: Optimizer| -> Vec<f64> {
        let f = stage("two", ["p: f64[2]", "g: f64[2]", "h: f64[2]"], |t| {
            let state = optimizer.init(t[0].scope(), &t[..1]);
            let (p, state) = optimizer.step(&t[..1], &t[1..2], &state);
            let (p, _) = optimizer.step(&p, &t[2..3], &state);
            p
        })
        .unwrap();
        let out = both(&f, &[value(a![1.0, 2.0]), value(a![0.5, -1.0]), value(a![0.25, 1.0])]).unwrap();
        doubles(&out[0])
    };
    let close = |got: Vec<f64>, want: [f64; 2]| {
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12), "{got:?}, expected {want:?}");
    };
    close(two_steps(Optimizer::sgd(0.1)), [0.925, 2.0]);
    // v = 0.5, then 0.9 · 0.5 + 0.25.
    close(two_steps(Optimizer::momentum(0.1, 0.9)), [1.0 - 0.05 - 0.07, 2.0 + 0.1 - 0.01]);
    close(two_steps(Optimizer::nesterov(0.1, 0.9)), [1.0 - 0.095 - 0.088, 2.0 + 0.19 - 0.109]);
    close(
        two_steps(Optimizer::adagrad(0.1)),
        [
            1.0 - 0.1 * (1.0 - 2e-10) - 0.1 * 0.25 / (0.3125f64.sqrt() + 1e-10),
            2.0 + 0.1 * (1.0 - 1e-10) - 0.1 / (2f64.sqrt() + 1e-10),
        ],
    );
    let adam = |p: f64, g: f64, h: f64| {
        let (m, v) = (0.1 * g, 0.001 * g * g);
        let p = p - 0.1 * (m / 0.1) / ((v / 0.001).sqrt() + 1e-8);
        let (m, v) = (0.9 * m + 0.1 * h, 0.999 * v + 0.001 * h * h);
        p - 0.1 * (m / (1.0 - 0.81)) / ((v / (1.0 - 0.999 * 0.999)).sqrt() + 1e-8)
    };
    close(two_steps(Optimizer::adam(0.1)), [adam(1.0, 0.5, 0.25), adam(2.0, -1.0, 1.0)]);
}

fn data(rows: usize) -> [TensorValue; 2] {
    let x = Array2::from_shape_fn((rows, 2), |(i, j)| ((i * 7 + j * 3) % 11) as f32 / 5.0 - 1.0);
    let y = Array2::from_shape_fn((rows, 1), |(i, _)| f32::from(x[[i, 0]] * x[[i, 1]] > 0.0));
    [value(x), value(y)]
}

/// Twenty steps in a loop of batches are twenty steps one by one.
#[test]
fn a_loop_over_batches_is_its_steps() {
    let params = Params::mlp(ir::types::ScalarType::F32, &[2, 8, 1], 7).unwrap();
    let adam = Optimizer::adam(0.01);
    let loss = |batch: &[lantern::Tensor], params: &[lantern::Tensor]| {
        nn::binary_cross_entropy(&nn::mlp(&batch[0], params, Activation::Tanh), &batch[1])
    };
    let mut specs: Vec<lantern::Spec> = vec!["x: f32[n, 2]".into(), "y: f32[n, 1]".into()];
    specs.extend(params.specs());
    let fit = Fit { batches: Batches::new(4, 4), optimizer: adam };
    let f = stage("fit", &specs, |t| {
        let trained = t[0].scope().fit(&fit, &t[..2], &t[2..], loss);
        (trained.params, trained.losses)
    })
    .unwrap();
    let rows = data(18);
    let inputs: Vec<TensorValue> = rows.iter().cloned().chain(params.values()).collect();
    let looped = both(&f, &inputs).unwrap();

    let n = params.len();
    let init = stage("init", params.specs(), |t| adam.init(t[0].scope(), t)).unwrap();
    let mut state: Vec<TensorValue> = params.values().collect();
    state.extend(init.interpret(params.values()).unwrap());
    specs.extend(
        state[n..].iter().enumerate().map(|(i, v)| lantern::Spec::of(format!("s{i}"), v.data.dtype(), &v.shape)),
    );
    let step = stage("step", &specs, |t| {
        let loss = loss(&t[..2], &t[2..2 + n]);
        let grads = loss.grad(&t[2..2 + n].iter().collect::<Vec<_>>());
        (adam.step(&t[2..2 + n], &grads, &t[2 + n..]), loss)
    })
    .unwrap();
    let mut losses = vec![];
    for _ in 0..4 {
        let mut sum = 0.0;
        for start in (0..18).step_by(4) {
            let end = (start + 4).min(18);
            let batch = rows.iter().map(|v| {
                let v = array::<f32>(v).unwrap();
                value(&v.slice_axis(ndarray::Axis(0), (start..end).into()))
            });
            state = step.interpret(batch.chain(state)).unwrap();
            let loss = state.pop().unwrap();
            sum += doubles(&loss)[0] * (end - start) as f64;
        }
        losses.push(sum / 18.0);
    }
    for (i, (got, want)) in looped.iter().zip(&state[..n]).enumerate() {
        assert_close(&format!("parameter {i}"), got, want, 1e-6);
    }
    for (got, want) in doubles(&looped[n]).iter().zip(&losses) {
        assert!((got - want).abs() < 1e-6, "{got}, expected {want}");
    }
    assert!(losses[3] < losses[0], "{losses:?}");
}

/// Rows that are watched are not trained on: their loss behind an epoch is that of the parameters which the epoch left.
#[test]
fn the_loss_of_watched_rows_is_taken_behind_each_epoch() {
    let loss = |batch: &[lantern::Tensor], p: &[lantern::Tensor]| {
        nn::mse(&nn::linear(&batch[0], &p[0], Some(&p[1])), &batch[1])
    };
    let x = value(ndarray::array![[0.0], [1.0], [2.0], [3.0], [4.0]]);
    let y = value(ndarray::array![[1.0], [3.0], [5.0], [7.0], [9.0]]);
    let held = [value(ndarray::array![[10.0], [20.0]]), value(ndarray::array![[-21.0], [-41.0]])];
    let specs = ["x: f64[n, 1]", "y: f64[n, 1]", "hx: f64[m, 1]", "hy: f64[m, 1]", "w: f64[1, 1]", "b: f64[1]"];
    let run = |epochs: usize, early_stop: Option<f64>, drop_last: bool| {
        let batches = Batches { early_stop, drop_last, ..Batches::new(2, epochs) };
        let fit = Fit { batches, optimizer: Optimizer::sgd(0.01) };
        let f = stage("fit", specs, |t| {
            let trained = t[0].scope().fit_watching(&fit, &t[..2], &t[2..4], &t[4..], loss);
            let after = loss(&t[2..4], &trained.params);
            (trained.params, (trained.losses, trained.watched.unwrap()), after)
        })
        .unwrap();
        let weights = [value(ndarray::array![[0.0]]), value(ndarray::array![0.0])];
        let inputs: Vec<TensorValue> = [x.clone(), y.clone()].into_iter().chain(held.clone()).chain(weights).collect();
        both(&f, &inputs).unwrap()
    };
    for drop_last in [false, true] {
        let out = run(3, None, drop_last);
        let watched = doubles(&out[3]);
        assert_eq!(watched.len(), 3);
        assert!((watched[2] - doubles(&out[4])[0]).abs() < 1e-9 * watched[2], "{watched:?}, {:?}", out[4]);
        let shorter = doubles(&run(2, None, drop_last)[4])[0];
        assert!((watched[1] - shorter).abs() < 1e-9 * shorter, "{watched:?}, {shorter}");
    }
    // The loss of the rows that are trained on falls all the time, that of the watched ones rises from the start.
    let out = run(5, Some(0.01), false);
    assert!(doubles(&out[2])[1] < doubles(&out[2])[0]);
    assert!(doubles(&out[3])[1] > doubles(&out[3])[0] && doubles(&out[3])[2..].iter().all(|l| l.is_nan()), "{out:?}");
}

#[test]
fn a_function_reads_its_own_text() {
    let f = stage("f", ["x: f32[n, 2]", "w: f32[2]"], |t| (&t[0] * &t[1]).sum(1)).unwrap();
    let again = lantern::Function::parse(&f.to_string()).unwrap();
    let inputs = [value(ndarray::array![[1f32, 2.0], [3.0, 4.0]]), value(ndarray::array![10f32, 100.0])];
    assert_eq!(both(&f, &inputs).unwrap(), both(&again, &inputs).unwrap());
    assert_eq!(again.inputs().collect::<Vec<_>>(), ["x", "w"]);
    assert!(lantern::Function::parse("func nothing").is_err());
}

#[test]
fn errors_name_the_operation_the_shapes_and_the_place() {
    let e = stage("f", ["x: f32[2, 3]", "y: f32[2, 4]"], |t| &t[0] + &t[1]).unwrap_err().to_string();
    assert!(e.starts_with("+ at ") && e.ends_with(": f32[2, 3] and f32[2, 4] do not fit"), "{e}");
    assert!(e.contains("training.rs:"), "{e}");
    let e = stage("f", ["x: f32[2, 3]", "y: f32[2, 4]"], |t| t[0].matmul(&t[1]).exp()).unwrap_err().to_string();
    assert!(e.starts_with("matmul at ") && e.ends_with(": f32[2, 3] and f32[2, 4] do not fit"), "{e}");
    let e = stage("f", ["x: f32[2]"], |t| t[0].sum(1)).unwrap_err().to_string();
    assert!(e.ends_with("f32[2] has no axis 1"), "{e}");
    let e = stage("f", ["x: f32[2"], |t| t[0].clone()).unwrap_err().to_string();
    assert_eq!(e, "input \"x: f32[2\": a ] is missing");
    let e = stage("f", ["x: f32[n]", "y: f64[n]"], |t| &t[0] * &t[1]).unwrap_err().to_string();
    assert!(e.contains("f32[s0] and f64[s0] have different elements"), "{e}");
    let e = stage("f", ["x: f32[n, 1]", "y: f32[n]"], |t| nn::mse(&t[0], &t[1])).unwrap_err().to_string();
    assert!(e.starts_with("mse at "), "{e}");
    // A value of a loop's body does not leave it.
    let e = stage("f", ["x: f32[]"], |t| {
        let mut kept = None;
        t[0].scope().scan(2usize, t, &[], |_, s, _| {
            kept = Some(s[0].exp());
            (s.to_vec(), vec![])
        });
        kept.unwrap() + 1.0
    })
    .unwrap_err()
    .to_string();
    assert!(e.contains("outside of the loop"), "{e}");
    let f = stage("f", ["x: f32[n, 2]"], |t| t[0].exp()).unwrap();
    assert!(f.interpret([value(a![[1f32]])]).unwrap_err().to_string().contains("input \"x\""));
    assert!(f.interpret([]).unwrap_err().to_string().contains("0 arrays for 1 inputs"));
}

#[test]
fn programs_print_and_read_back() {
    let f = stage("f", ["x: f32[n, 2]", "w: f32[1, 2]"], |t| {
        let loss = nn::linear(&t[0], &t[1], None).softmax(0).mean(lantern::Axes::All);
        loss.grad(&[&t[1]])
    })
    .unwrap();
    let text = f.to_string();
    let read = ir::text::parse(&text).unwrap();
    assert_eq!(ir::text::print(&read), text);
}

#[test]
fn parameters_come_back_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.safetensors");
    let params = Params::mlp(ir::types::ScalarType::F32, &[3, 2], 1)
        .unwrap()
        .with("steps", 3i64)
        .with("mask", value(a![true, false]));
    params.save(&path).unwrap();
    let back = Params::load(&path).unwrap();
    assert_eq!(back.len(), params.len());
    for (name, v) in params.iter() {
        assert_eq!(back.get(name), Some(v), "{name}");
    }
    std::fs::write(&path, b"not it").unwrap();
    let e = Params::load(&path).unwrap_err().to_string();
    assert!(e.contains("p.safetensors: no safetensors"), "{e}");
    let a = 1.0 / 3f64.sqrt();
    assert!(doubles(params.get("l0.w").unwrap()).iter().all(|w| w.abs() <= a));
    assert_ne!(params.get("l0.w"), Params::mlp(ir::types::ScalarType::F32, &[3, 2], 2).unwrap().get("l0.w"));
}
