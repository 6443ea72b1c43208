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
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 }
    }
}

#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    wide: Option<Wide>, // behind a parameter that is not f32
    first: Tensor,
    second: Tensor,
}

/// What a parameter of a narrower type cannot hold, in f32.
#[derive(Debug)]
struct Wide {
    master: Tensor,
    gradient: Tensor, // sum of what `AdamW::accumulate` took
}

impl Slot {
    /// The gradient in f32. One that is absent is zero: which of the two a parameter has depends on the backward passes
    /// since the program started, and a resumed run must not differ from an undisturbed one.
    fn gradient(&self) -> Tensor {
        let latest = self.parameter.grad();
        match &self.wide {
            None if latest.defined() => latest,
            None => self.first.zeros_like(),
            Some(wide) if latest.defined() => &wide.gradient + latest.to_kind(Kind::Float),
            Some(wide) => wide.gradient.shallow_clone(),
        }
    }

    /// The saved tensors by name.
    fn state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let master = self.wide.as_ref().map(|wide| &wide.master);
        let parts = [("first", Some(&self.first)), ("second", Some(&self.second)), ("master", master)];
        parts.into_iter().filter_map(|(part, tensor)| Some((format!("{part}.{}", self.name), tensor?)))
    }
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
                wide: (parameter.kind() != Kind::Float)
                    .then(|| Wide { master: parameter.detach().to_kind(Kind::Float), gradient: zeros() }),
                first: zeros(),
                second: zeros(),
            }
        });
        Self { slots: slots.collect(), options, steps: 0 }
    }

    /// Forgets the gradients.
    pub fn zero_grad(&self) {
        for slot in &self.slots {
            let mut gradient = slot.parameter.grad();
            if gradient.defined() {
                let _ = gradient.zero_();
            }
            if let Some(wide) = &slot.wide {
                let _ = wide.gradient.shallow_clone().zero_();
            }
        }
    }

    /// Moves the gradients of parameters that are not f32 into sums that are, so that adding up many backward passes
    /// loses nothing; to be called after each of them. Gradients of f32 parameters stay where they are.
    pub fn accumulate(&self) {
        for slot in &self.slots {
            let mut latest = slot.parameter.grad();
            if let Some(wide) = &slot.wide
                && latest.defined()
            {
                let _ = wide.gradient.shallow_clone().g_add_(&latest.to_kind(Kind::Float));
                let _ = latest.zero_();
            }
        }
    }

    /// Euclidean norm of all gradients together, f32.
    pub fn gradient_norm(&self) -> f64 {
        let squares: Vec<_> = self.slots.iter().map(|slot| slot.gradient().square().sum(Kind::Float)).collect();
        if squares.is_empty() {
            return 0.0;
        }
        Tensor::stack(&squares, 0).sum(Kind::Float).sqrt().double_value(&[])
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
                let gradient = slot.gradient() * scale;
                let _ = slot.first.lerp_(&gradient, 1.0 - beta1);
                let _ = slot.second.lerp_(&gradient.square(), 1.0 - beta2);
                let denominator = slot.second.sqrt() / correction2.sqrt() + self.options.eps;
                let target = slot.wide.as_mut().map_or(&mut slot.parameter, |wide| &mut wide.master);
                if slot.first.dim() > 1 {
                    let _ = target.g_mul_scalar_(1.0 - lr * self.options.weight_decay);
                }
                let _ = target.g_add_(&(&slot.first / denominator * (-lr / correction1)));
                if let Some(wide) = &slot.wide {
                    slot.parameter.copy_(&wide.master);
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
            state.extend(slot.state().map(|(name, tensor)| (name, tensor.shallow_clone())));
        }
        state
    }

    /// Takes a saved state back.
    ///
    /// # Errors
    /// [`PolicyError::Setting`] if it belongs to other parameters; nothing was changed then.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), PolicyError> {
        let get = |name: &str, like: &Tensor| match state.get(name) {
            Some(tensor) if tensor.size() == like.size() => Ok(tensor),
            found => Err(PolicyError::Setting {
                what: "optimizer state",
                expected: format!("{name} of shape {:?}", like.size()),
                found: found.map_or("nothing".into(), |tensor| format!("shape {:?}", tensor.size())),
            }),
        };
        let steps = get("steps", &Tensor::from_slice(&[0_i64]))?.int64_value(&[0]);
        let tensors = self.slots.iter().flat_map(Slot::state);
        let copies: Vec<_> =
            tensors.map(|(name, to)| Ok((to.shallow_clone(), get(&name, to)?))).collect::<Result<_, PolicyError>>()?;
        copies.into_iter().for_each(|(mut to, from)| to.copy_(from));
        self.steps = steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
