//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) by libtorch's fused kernel, with state that can be saved and
//! restored bit for bit.

mod fused;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use self::fused::Lists;
use crate::PolicyError;

/// Values whose gradients are brought into f32 at a time.
const BUCKET: usize = 1 << 26;

/// What is kept in f32 behind weights of a narrower type, in bytes per trained bf16 weight, the weight and its gradient
/// included. Behind f32 weights all are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Master weights, moments and the sum of gradients over a step's passes: 20.
    #[default]
    Float32,
    /// Master weights and moments; gradients add up in the weights' type: 16.
    Master,
    /// Nothing: 8. Steps smaller than the spacing of the weights' type are lost.
    Weights,
}

/// Settings that stay fixed over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay; applied to matrices, not to biases and norm weights.
    pub weight_decay: f64,
    /// What is wider than the weights.
    pub precision: Precision,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, precision: Precision::Float32 }
    }
}

#[derive(Debug)]
struct Slot {
    name: String,
    scale: f64, // of the learning rate
    parameter: Tensor,
    master: Option<Tensor>,
    sum: Option<Tensor>, // of the gradients that `AdamW::accumulate` took
    first: Tensor,
    second: Tensor,
}

impl Slot {
    fn new(name: &str, parameter: &Tensor, precision: Precision) -> Self {
        let narrow = parameter.kind() != Kind::Float;
        let wide = |wanted: bool| (narrow && wanted).then_some(Kind::Float);
        let zeros = |kind: Kind| Tensor::zeros(parameter.size(), (kind, parameter.device()));
        let master = wide(precision != Precision::Weights);
        let moments = master.unwrap_or(parameter.kind());
        Self {
            name: name.to_owned(),
            scale: 1.0,
            parameter: parameter.shallow_clone(),
            master: master.map(|kind| parameter.detach().to_kind(kind)),
            sum: wide(precision == Precision::Float32).map(zeros),
            first: zeros(moments),
            second: zeros(moments),
        }
    }

    /// The gradient, once accumulated. One that is absent is zero: which of the two a parameter has depends on the
    /// backward passes since the program started, and a resumed run must not differ from an undisturbed one.
    fn gradient(&self) -> Tensor {
        match &self.sum {
            Some(sum) => sum.shallow_clone(),
            None if self.parameter.grad().defined() => self.parameter.grad(),
            None => self.parameter.zeros_like().detach(),
        }
    }

    /// What a step changes.
    fn target(&self) -> &Tensor {
        self.master.as_ref().unwrap_or(&self.parameter)
    }

    /// The saved tensors by name.
    fn state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let parts = [("first", Some(&self.first)), ("second", Some(&self.second)), ("master", self.master.as_ref())];
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
    /// Moments begin at 0.
    pub fn new<'a>(parameters: impl IntoIterator<Item = &'a (String, Tensor)>, options: AdamWOptions) -> Self {
        let slots = parameters.into_iter().map(|(name, parameter)| Slot::new(name, parameter, options.precision));
        Self { slots: slots.collect(), options, steps: 0 }
    }

    /// The same with a learning rate of its own for each parameter: `scale`, given its name, times the step's.
    pub fn scaled(mut self, scale: impl Fn(&str) -> f64) -> Self {
        self.slots.iter_mut().for_each(|slot| slot.scale = scale(&slot.name));
        self
    }

    /// Forgets the gradients.
    pub fn zero_grad(&self) {
        for slot in &self.slots {
            let latest = slot.parameter.grad();
            let sum = slot.sum.as_ref().map(Tensor::shallow_clone);
            for mut gradient in latest.defined().then_some(latest).into_iter().chain(sum) {
                let _ = gradient.zero_();
            }
        }
    }

    /// Moves gradients into sums in f32 where [`Precision::Float32`] keeps such, so that adding up many backward passes
    /// loses nothing; to be called after each of them.
    pub fn accumulate(&self) {
        for slot in &self.slots {
            let mut latest = slot.parameter.grad();
            if let Some(sum) = &slot.sum
                && latest.defined()
            {
                let _ = sum.shallow_clone().g_add_(&latest);
                let _ = latest.zero_();
            }
        }
    }

    /// Euclidean norm of all gradients together, f32.
    ///
    /// # Errors
    /// [`PolicyError::Torch`] if libtorch refuses.
    pub fn gradient_norm(&self) -> Result<f64, PolicyError> {
        self.accumulate();
        let gradients: Vec<_> = self.slots.iter().map(Slot::gradient).collect();
        fused::norm(&gradients.iter().collect::<Vec<_>>())
    }

    /// One step at learning rate `lr`, gradients scaled down so that their norm is at most `clip` (0: never); returns
    /// the norm before. Gradients are forgotten afterwards.
    ///
    /// # Errors
    /// [`PolicyError::NotFinite`] if the norm is not finite; nothing was changed then.
    pub fn step(&mut self, lr: f64, clip: f64) -> Result<f64, PolicyError> {
        let norm = self.gradient_norm()?;
        if !norm.is_finite() {
            return Err(PolicyError::NotFinite { what: "gradient norm", value: norm });
        }
        let divisor = if clip > 0.0 && norm > clip { norm / clip } else { 1.0 };
        self.steps += 1;
        let [beta1, beta2] = self.options.betas;
        for ((scale, decays), slots) in self.alike() {
            let weight_decay = if decays { self.options.weight_decay } else { 0.0 };
            let options = fused::Options { lr: lr * scale, beta1, beta2, weight_decay, eps: self.options.eps };
            for bucket in buckets(&slots) {
                self.step_bucket(bucket, divisor, options)?;
            }
        }
        self.zero_grad();
        Ok(norm)
    }

    /// Slots with the same scale of the learning rate, matrices, which decay, and others apart.
    fn alike(&self) -> Vec<((f64, bool), Vec<&Slot>)> {
        let mut groups: Vec<((f64, bool), Vec<&Slot>)> = Vec::new();
        for slot in &self.slots {
            let key = (slot.scale, slot.first.dim() > 1);
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, slots)) => slots.push(slot),
                None => groups.push((key, vec![slot])),
            }
        }
        groups
    }

    fn step_bucket(&self, slots: &[&Slot], divisor: f64, options: fused::Options) -> Result<(), PolicyError> {
        let Some(first) = slots.first() else { return Ok(()) };
        let scalar = |value: f64| Tensor::full([], value, (Kind::Float, first.first.device()));
        let (count, divisor) = (scalar(self.steps as f64), scalar(divisor));
        // Of the type that the step is taken in; where that is the gradient's own nothing is copied.
        let gradients: Vec<_> = slots.iter().map(|slot| slot.gradient().to_kind(slot.first.kind())).collect();
        let lists = Lists {
            parameters: slots.iter().map(|slot| slot.target()).collect(),
            gradients: gradients.iter().collect(),
            first: slots.iter().map(|slot| &slot.first).collect(),
            second: slots.iter().map(|slot| &slot.second).collect(),
            steps: slots.iter().map(|_| &count).collect(),
        };
        fused::step(&lists, &divisor, options)?;
        no_grad(|| {
            for slot in slots {
                if let Some(master) = &slot.master {
                    slot.parameter.shallow_clone().copy_(master);
                }
            }
        });
        Ok(())
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

/// Neighbours of one type and of at most [`BUCKET`] values together, or single ones.
fn buckets<'a>(slots: &'a [&'a Slot]) -> impl Iterator<Item = &'a [&'a Slot]> {
    let mut rest = slots;
    std::iter::from_fn(move || {
        let mut values = 0;
        let fits = |slot: &&&Slot| {
            values += slot.first.numel();
            values <= BUCKET && slot.first.kind() == rest[0].first.kind()
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (bucket, after) = rest.split_at(count);
        rest = after;
        (!bucket.is_empty()).then_some(bucket)
    })
}

#[cfg(test)]
mod tests;
