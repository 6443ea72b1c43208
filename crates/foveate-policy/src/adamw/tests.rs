use tch::Device;

use super::*;

const OPTIONS: AdamWOptions =
    AdamWOptions { betas: [0.8, 0.95], eps: 1e-6, weight_decay: 0.1, precision: Precision::Float32 };

fn parameters(kind: Kind) -> Vec<(String, Tensor)> {
    let matrix = Tensor::from_slice(&[0.5_f32, -1.0, 2.0, 0.25, -0.125, 1.5]).view([2, 3]);
    let bias = Tensor::from_slice(&[0.75_f32, -0.5]);
    let named = [("matrix", matrix), ("bias", bias)];
    named.map(|(name, tensor)| (name.to_owned(), tensor.to_kind(kind).set_requires_grad(true))).into()
}

/// A gradient that differs by step and place, left on the parameter by a backward pass.
fn give_gradient(parameter: &Tensor, step: i64) -> Vec<f64> {
    let count = parameter.numel() as i64;
    let at = Tensor::arange(count, (Kind::Float, Device::Cpu));
    let gradient = ((at * 1.7 + step as f64).sin() * (step + 1) as f64).view_as(parameter).to_kind(parameter.kind());
    (parameter * &gradient).sum(Kind::Float).backward();
    values(&parameter.grad())
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

/// Algorithm 2 of the paper with decoupled decay, in f64, on plain numbers.
#[derive(Default)]
struct Reference {
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Reference {
    fn step(&mut self, weights: &mut [f64], gradient: &[f64], [step, lr, decay]: [f64; 3]) {
        self.first.resize(weights.len(), 0.0);
        self.second.resize(weights.len(), 0.0);
        let [beta1, beta2] = OPTIONS.betas;
        for (i, weight) in weights.iter_mut().enumerate() {
            self.first[i] = beta1 * self.first[i] + (1.0 - beta1) * gradient[i];
            self.second[i] = beta2 * self.second[i] + (1.0 - beta2) * gradient[i] * gradient[i];
            let (m, v) = (self.first[i] / (1.0 - beta1.powf(step)), self.second[i] / (1.0 - beta2.powf(step)));
            *weight -= lr * (m / (v.sqrt() + OPTIONS.eps) + decay * *weight);
        }
    }
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{found:?}, expected {expected:?}");
    }
}

#[test]
fn steps_follow_the_formula_and_only_matrices_decay() {
    let parameters = parameters(Kind::Float);
    let mut optimizer = AdamW::new(&parameters, OPTIONS);
    let mut weights: Vec<_> = parameters.iter().map(|(_, tensor)| values(tensor)).collect();
    let mut references = [Reference::default(), Reference::default()];
    for step in 0..7 {
        let lr = 0.05 / (step + 1) as f64;
        let gradients: Vec<_> = parameters.iter().map(|(_, tensor)| give_gradient(tensor, step)).collect();
        let expected_norm = gradients.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let norm = optimizer.step(lr, 0.0).unwrap();
        assert!((norm - expected_norm).abs() < 1e-5 * expected_norm);
        for (index, decay) in [(0, OPTIONS.weight_decay), (1, 0.0)] {
            references[index].step(&mut weights[index], &gradients[index], [(step + 1) as f64, lr, decay]);
            assert_close(&values(&parameters[index].1), &weights[index], 2e-6);
        }
        assert_eq!(optimizer.gradient_norm().unwrap(), 0.0, "gradients are forgotten after a step");
    }
}

#[test]
fn a_gradient_that_is_absent_is_zero_so_that_resuming_changes_nothing() {
    let (whole, resumed) = (parameters(Kind::Float), parameters(Kind::Float));
    let mut optimizer = AdamW::new(&whole, OPTIONS);
    whole.iter().for_each(|(_, tensor)| drop(give_gradient(tensor, 1)));
    optimizer.step(0.1, 1.0).unwrap();
    let mut other = AdamW::new(&resumed, OPTIONS);
    other.restore(&optimizer.state()).unwrap();
    no_grad(|| resumed.iter().zip(&whole).for_each(|((_, a), (_, b))| a.shallow_clone().copy_(b)));
    let before = values(&whole[0].1);
    assert_eq!([optimizer.step(0.1, 1.0).unwrap(), other.step(0.1, 1.0).unwrap()], [0.0; 2]);
    assert_ne!(values(&whole[0].1), before, "the first moment goes on");
    for ((_, a), (_, b)) in whole.iter().zip(&resumed) {
        assert_eq!(values(a), values(b));
    }
}

#[test]
fn the_first_step_is_as_long_as_the_learning_rate() {
    let parameters = parameters(Kind::Float);
    let mut optimizer = AdamW::new(&parameters, AdamWOptions { weight_decay: 0.0, ..AdamWOptions::default() });
    let before = values(&parameters[0].1);
    let gradient = give_gradient(&parameters[0].1, 3);
    optimizer.step(0.01, 0.0).unwrap();
    let expected: Vec<_> = before.iter().zip(&gradient).map(|(w, g)| w - 0.01 * g.signum()).collect();
    assert_close(&values(&parameters[0].1), &expected, 1e-6);
}

#[test]
fn long_gradients_are_clipped_and_short_ones_are_not() {
    let scaled = |clip: f64| {
        let parameters = parameters(Kind::Float);
        let mut optimizer = AdamW::new(&parameters, OPTIONS);
        parameters.iter().for_each(|(_, tensor)| drop(give_gradient(tensor, 1)));
        let norm = optimizer.step(0.1, clip).unwrap();
        (norm, values(&optimizer.state()["first.matrix"]))
    };
    let (norm, plain) = scaled(0.0);
    let (same_norm, clipped) = scaled(norm / 4.0);
    assert_eq!(norm, same_norm);
    assert_close(&clipped, &plain.iter().map(|x| x / 4.0).collect::<Vec<_>>(), 1e-6);
    assert_eq!(scaled(norm * 1.01).1, plain);
}

#[test]
fn a_restored_state_continues_bit_for_bit() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let step = |parameters: &[(String, Tensor)], optimizer: &mut AdamW, step: i64| {
            parameters.iter().for_each(|(_, tensor)| drop(give_gradient(tensor, step)));
            optimizer.step(0.03, 1.0).unwrap();
        };
        let (straight, resumed) = (parameters(kind), parameters(kind));
        let mut optimizer = AdamW::new(&straight, OPTIONS);
        (0..3).for_each(|i| step(&straight, &mut optimizer, i));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimizer.safetensors");
        let state = optimizer.state();
        crate::write_safetensors(&path, state.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
        for ((_, to), (_, from)) in resumed.iter().zip(&straight) {
            no_grad(|| to.shallow_clone().copy_(from));
        }
        let mut restored = AdamW::new(&resumed, OPTIONS);
        restored.restore(&crate::read_safetensors(&path).unwrap()).unwrap();

        (3..6).for_each(|i| step(&straight, &mut optimizer, i));
        (3..6).for_each(|i| step(&resumed, &mut restored, i));
        for ((name, a), (_, b)) in straight.iter().zip(&resumed) {
            assert_eq!(a, b, "{name} {kind:?}");
        }
    }
}

#[test]
fn bf16_parameters_move_by_steps_smaller_than_their_spacing() {
    let parameters = parameters(Kind::BFloat16);
    let mut optimizer = AdamW::new(&parameters, AdamWOptions::default());
    for _ in 0..100 {
        let (_, bias) = &parameters[1];
        bias.sum(Kind::Float).backward();
        optimizer.step(1e-4, 0.0).unwrap();
    }
    assert_close(&values(&parameters[1].1), &[0.74, -0.51], 2e-3);
}

#[test]
fn many_backward_passes_add_up_in_f32_behind_bf16_parameters() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let parameters = parameters(kind);
        let mut optimizer = AdamW::new(&parameters, OPTIONS);
        let matrix = &parameters[0].1;
        let (mut sum, mut before) = (vec![0.0; matrix.numel()], vec![0.0; matrix.numel()]);
        for part in 0..40 {
            let found = give_gradient(matrix, part % 7);
            // f32 gradients stay on the parameter, so what a pass added is what has changed.
            sum.iter_mut().zip(found.iter().zip(&before)).for_each(|(sum, (now, then))| *sum += now - then);
            optimizer.accumulate();
            before = values(&matrix.grad());
        }
        let norm = sum.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!((optimizer.gradient_norm().unwrap() - norm).abs() < 1e-5 * norm, "{kind:?}");
        optimizer.step(0.1, 0.0).unwrap();
        let expected: Vec<_> = sum.iter().map(|g| g * (1.0 - OPTIONS.betas[0])).collect();
        assert_close(&values(&optimizer.state()["first.matrix"]), &expected, 1e-5 * norm);
        assert_eq!(optimizer.gradient_norm().unwrap(), 0.0);
    }
}

#[test]
fn precision_says_what_is_wider_than_the_weights() {
    let moved = |precision| {
        let parameters = parameters(Kind::BFloat16);
        let mut optimizer = AdamW::new(&parameters, AdamWOptions { precision, ..AdamWOptions::default() });
        for _ in 0..20 {
            parameters[1].1.sum(Kind::Float).backward();
            optimizer.step(2e-3, 0.0).unwrap();
        }
        let state = optimizer.state();
        let kinds = ["first.bias", "master.bias"].map(|name| state.get(name).map(Tensor::kind));
        (values(&parameters[1].1), kinds)
    };
    let float = Some(Kind::Float);
    for precision in [Precision::Float32, Precision::Master] {
        let (bias, kinds) = moved(precision);
        assert_eq!(kinds, [float, float]);
        assert_close(&bias, &[0.71, -0.54], 2e-3);
    }
    let (bias, kinds) = moved(Precision::Weights);
    assert_eq!(kinds, [Some(Kind::BFloat16), None]);
    assert!(bias[0] < 0.75 && bias[1] < -0.5, "{bias:?}");
}

#[test]
fn buckets_hold_every_slot_once() {
    let large = Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand([BUCKET as i64 / 2 + 1], false);
    let small = Tensor::zeros([3], (Kind::Float, Device::Cpu));
    let slot = |tensor: &Tensor| Slot {
        name: String::new(),
        scale: 1.0,
        parameter: tensor.shallow_clone(),
        master: None,
        sum: None,
        first: tensor.shallow_clone(),
        second: tensor.shallow_clone(),
    };
    let slots = [&large, &large, &small, &large].map(slot);
    let slots: Vec<_> = slots.iter().collect();
    assert_eq!(buckets(&slots).map(<[_]>::len).collect::<Vec<_>>(), [1, 2, 1]);
    assert_eq!(buckets(&[]).count(), 0);
}

#[test]
fn a_parameter_may_have_a_learning_rate_of_its_own() {
    let [one, other] = [parameters(Kind::Float), parameters(Kind::Float)];
    let step = |parameters: &[(String, Tensor)], optimizer: AdamW, lr| {
        let mut optimizer = optimizer;
        for turn in 0..2 {
            parameters.iter().for_each(|(_, tensor)| drop(give_gradient(tensor, turn)));
            optimizer.step(lr, 0.0).unwrap();
        }
    };
    let scaled = AdamW::new(&one, OPTIONS).scaled(|name| if name == "matrix" { 10.0 } else { 1.0 });
    step(&one, scaled, 0.01);
    step(&other, AdamW::new(&other, OPTIONS), 0.1);
    for ((name, found), (_, expected)) in one.iter().zip(&other) {
        assert_eq!(values(found) == values(expected), name == "matrix", "{name}");
    }
}

#[test]
fn a_gradient_that_is_not_a_number_changes_nothing() {
    let parameters = parameters(Kind::Float);
    let mut optimizer = AdamW::new(&parameters, OPTIONS);
    parameters.iter().for_each(|(_, tensor)| drop(give_gradient(tensor, 0)));
    optimizer.step(0.1, 1.0).unwrap();
    let before: Vec<_> = parameters.iter().map(|(_, tensor)| values(tensor)).collect();
    for bad in [f64::NAN, f64::INFINITY] {
        optimizer.zero_grad();
        parameters.iter().for_each(|(_, tensor)| drop(give_gradient(tensor, 1)));
        (&parameters[1].1 * bad).sum(Kind::Float).backward();
        let state = optimizer.state()["first.matrix"].copy();
        let error = optimizer.step(0.1, 1.0).unwrap_err();
        assert!(error.to_string().contains("gradient norm is not finite"), "{error}");
        assert_eq!(optimizer.state()["first.matrix"], state);
        assert_eq!(parameters.iter().map(|(_, tensor)| values(tensor)).collect::<Vec<_>>(), before);
    }
}

#[test]
fn the_state_of_other_parameters_is_refused_by_name() {
    let mut optimizer = AdamW::new(&parameters(Kind::Float), OPTIONS);
    let mut state = optimizer.state();
    state.insert("second.bias".into(), Tensor::zeros([3], (Kind::Float, Device::Cpu)));
    state.insert("first.matrix".into(), Tensor::ones([2, 3], (Kind::Float, Device::Cpu)));
    let error = optimizer.restore(&state).unwrap_err().to_string();
    assert_eq!(values(&optimizer.state()["first.matrix"]), [0.0; 6], "nothing of a refused state is taken");
    assert!(error.contains("second.bias of shape [2]") && error.contains("shape [3]"), "{error}");
    state.remove("second.bias");
    assert!(optimizer.restore(&state).unwrap_err().to_string().contains("found nothing"));
}
