//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) whose state can be saved and restored bit for bit, with f32
//! master weights behind bf16 parameters.

use std::collections::BTreeMap;

use tch::{Kind, Tensor, no_grad};

use crate::PolicyError;

/// Settings that stay fixed over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay; applied to matrices, not to biases and norm weights.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    master: Option<Tensor>, // f32, behind a parameter of another type
    first: Tensor,
    second: Tensor,
}

/// The optimizer of a set of named parameters.
#[derive(Debug)]
pub struct AdamW {
    slots: Vec<Slot>,
    options: AdamWOptions,
    steps: i64,
}

impl AdamW {
    /// Moments begin at 0, in f32.
    pub fn new<'a>(parameters: impl IntoIterator<Item = &'a (String, Tensor)>, options: AdamWOptions) -> Self {
        let slots = parameters.into_iter().map(|(name, parameter)| {
            let zeros = || Tensor::zeros(parameter.size(), (Kind::Float, parameter.device()));
            Slot {
                name: name.clone(),
                parameter: parameter.shallow_clone(),
                master: (parameter.kind() != Kind::Float).then(|| parameter.detach().to_kind(Kind::Float)),
                first: zeros(),
                second: zeros(),
            }
        });
        Self {
            slots: slots.collect(),
            options,
            steps: 0,
        }
    }

    /// Forgets the gradients.
    pub fn zero_grad(&self) {
        for slot in &self.slots {
            let mut gradient = slot.parameter.grad();
            if gradient.defined() {
                let _ = gradient.zero_();
            }
        }
    }

    /// Euclidean norm of all gradients together, f32.
    pub fn gradient_norm(&self) -> f64 {
        let squares = self.gradients().map(|gradient| gradient.to_kind(Kind::Float).square().sum(Kind::Float));
        let squares: Vec<_> = squares.collect();
        if squares.is_empty() {
            return 0.0;
        }
        Tensor::stack(&squares, 0).sum(Kind::Float).sqrt().double_value(&[])
    }

    fn gradients(&self) -> impl Iterator<Item = Tensor> {
        self.slots.iter().map(|slot| slot.parameter.grad()).filter(Tensor::defined)
    }

    /// One step at learning rate `lr`, gradients scaled down so that their norm is at most `clip` (0: never); returns
    /// the norm before. Gradients are forgotten afterwards.
    ///
    /// # Errors
    /// [`PolicyError::NotFinite`] if the norm is not finite; nothing was changed then.
    pub fn step(&mut self, lr: f64, clip: f64) -> Result<f64, PolicyError> {
        let norm = self.gradient_norm();
        if !norm.is_finite() {
            return Err(PolicyError::NotFinite { what: "gradient norm", value: norm });
        }
        let scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        self.steps += 1;
        let [beta1, beta2] = self.options.betas;
        let correction1 = 1.0 - beta1.powi(self.steps as i32);
        let correction2 = 1.0 - beta2.powi(self.steps as i32);
        no_grad(|| {
            for slot in &mut self.slots {
                let gradient = slot.parameter.grad();
                if !gradient.defined() {
                    continue;
                }
                let gradient = gradient.to_kind(Kind::Float) * scale;
                let _ = slot.first.lerp_(&gradient, 1.0 - beta1);
                let _ = slot.second.g_mul_scalar_(beta2).addcmul_(&gradient, &gradient);
                let denominator = slot.second.sqrt() / correction2.sqrt() + self.options.eps;
                let target = slot.master.as_mut().unwrap_or(&mut slot.parameter);
                if slot.first.dim() > 1 {
                    let _ = target.g_mul_scalar_(1.0 - lr * self.options.weight_decay);
                }
                let _ = target.g_add_(&(&slot.first / denominator * (-lr / correction1)));
                if let Some(master) = &slot.master {
                    slot.parameter.copy_(master);
                }
            }
        });
        self.zero_grad();
        Ok(norm)
    }

    /// The state as named tensors, to be saved beside the policy.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::from([("steps".to_owned(), Tensor::from_slice(&[self.steps]))]);
        for slot in &self.slots {
            state.insert(format!("first.{}", slot.name), slot.first.shallow_clone());
            state.insert(format!("second.{}", slot.name), slot.second.shallow_clone());
            if let Some(master) = &slot.master {
                state.insert(format!("master.{}", slot.name), master.shallow_clone());
            }
        }
        state
    }

    /// Takes a saved state back.
    ///
    /// # Errors
    /// [`PolicyError::Setting`] if it belongs to other parameters.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), PolicyError> {
        let get = |name: String, like: &Tensor| match state.get(&name) {
            Some(tensor) if tensor.size() == like.size() => Ok(tensor),
            found => Err(PolicyError::Setting {
                what: "optimizer state",
                expected: format!("{name} of shape {:?}", like.size()),
                found: found.map_or("nothing".into(), |tensor| format!("shape {:?}", tensor.size())),
            }),
        };
        self.steps = get("steps".into(), &Tensor::from_slice(&[0_i64]))?.int64_value(&[0]);
        for slot in &mut self.slots {
            slot.first.copy_(get(format!("first.{}", slot.name), &slot.first)?);
            slot.second.copy_(get(format!("second.{}", slot.name), &slot.second)?);
            if let Some(master) = &mut slot.master {
                master.copy_(get(format!("master.{}", slot.name), master)?);
            }
        }
        Ok(())
    }
}
