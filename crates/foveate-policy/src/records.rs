//! What generation leaves behind: a place for every token that any completion may get, written as tokens are drawn.

use tch::{Device, Kind, Tensor};

use crate::{
    batch::Layout,
    generate::Rollout,
    qwen::cache::Sizes,
    sample::{Draw, Drawn, Observe},
};

/// Places are numbered row by row: `completion * T + t`, completions of all groups in order, T the longest allowed.
#[derive(Debug)]
pub(crate) struct Records {
    layout: Layout,
    length: usize, // T
    seen_layers: i64,
    ids: Tensor,                     // [places]
    logprobs: Tensor,                // [places]
    entropy: Option<Tensor>,         // [places]
    hidden: Option<Tensor>,          // [places, D]
    frame_attention: Option<Tensor>, // [L, places, F]
    observe: Observe,
}

impl Records {
    pub(crate) fn new(sizes: &Sizes, layout: Layout, length: usize, observe: Observe) -> Self {
        let places = (layout.completions() * length) as i64;
        let zeros = |shape: &[i64], kind| Tensor::zeros(shape, (kind, sizes.device));
        let layers = sizes.seen_layers as i64;
        Self {
            layout,
            length,
            seen_layers: layers,
            ids: zeros(&[places], Kind::Int64),
            logprobs: zeros(&[places], Kind::Float),
            entropy: observe.entropy.then(|| zeros(&[places], Kind::Float)),
            hidden: observe.hidden.then(|| zeros(&[places, sizes.hidden], sizes.kind)),
            frame_attention: (layers > 0).then(|| zeros(&[layers, places, sizes.frames], Kind::Float)),
            observe,
        }
    }

    /// Writes what was seen of B tokens, whose places `[B]` these are: also hidden states `[B, D]` and frame attention
    /// `[L, B, F]`.
    pub(crate) fn put(&mut self, places: &Tensor, drawn: &Drawn, hidden: &Tensor, frame_attention: Option<&Tensor>) {
        let _ = self.ids.index_copy_(0, places, &drawn.ids);
        let _ = self.logprobs.index_copy_(0, places, &drawn.logprobs);
        if let (Some(all), Some(entropy)) = (&mut self.entropy, &drawn.entropy) {
            let _ = all.index_copy_(0, places, entropy);
        }
        if let Some(all) = &mut self.hidden {
            let _ = all.index_copy_(0, places, hidden);
        }
        if let (Some(all), Some(frames)) = (&mut self.frame_attention, frame_attention) {
            let _ = all.index_copy_(1, places, frames);
        }
    }

    /// The completions of every group, each cut after the first id of `end`.
    pub(crate) fn rollouts(&self, draws: &[Draw<'_>], end: &[i64]) -> Vec<Rollout> {
        let ids: Vec<i64> = on_host(&self.ids);
        let logprobs: Vec<f32> = on_host(&self.logprobs);
        let one = |(group, draw): (usize, &Draw<'_>)| {
            let rows = self.layout.of(group).map(|completion| completion * self.length);
            let ended: Vec<_> = rows
                .clone()
                .map(|first| ids[first..][..self.length].iter().position(|id| end.contains(id)).map(|last| last + 1))
                .collect();
            let lengths: Vec<usize> = ended.iter().map(|length| length.unwrap_or(self.length)).collect();
            let spans: Vec<_> = rows.zip(&lengths).map(|(first, length)| first..first + length).collect();
            Rollout {
                ids: spans.iter().map(|span| ids[span.clone()].to_vec()).collect(),
                logprobs: spans.iter().map(|span| logprobs[span.clone()].to_vec()).collect(),
                truncated: ended.iter().map(Option::is_none).collect(),
                frame_attention: self.observe.frame_layers.map(|_| self.frames_of(group, &lengths, draw.prompt.frames)),
                hidden: self.hidden.as_ref().map(|x| self.cut(&x.unsqueeze(0), group, &lengths).squeeze_dim(0)),
                entropy: self
                    .entropy
                    .as_ref()
                    .map(|x| self.cut(&x.view([1, -1, 1]), group, &lengths).squeeze_dim(0).squeeze_dim(-1)),
            }
        };
        draws.iter().enumerate().map(one).collect()
    }

    fn frames_of(&self, group: usize, lengths: &[usize], frames: i64) -> Tensor {
        match &self.frame_attention {
            Some(x) if x.size()[2] > 0 => self.cut(&x.narrow(2, 0, frames), group, lengths),
            _ => {
                let longest = lengths.iter().copied().max().unwrap_or(0) as i64;
                let shape = [self.seen_layers, lengths.len() as i64, longest, 0];
                Tensor::zeros(shape, (Kind::Float, self.ids.device()))
            }
        }
    }

    /// A group's part of `[L, places, X]`: `[L, G, T, X]`, T its longest completion, 0 past an end.
    fn cut(&self, x: &Tensor, group: usize, lengths: &[usize]) -> Tensor {
        let (count, length) = (lengths.len() as i64, self.length as i64);
        let longest = lengths.iter().copied().max().unwrap_or(0) as i64;
        let own = x.narrow(1, self.layout.of(group).start as i64 * length, count * length);
        let own = own.unflatten(1, [count, length]).narrow(2, 0, longest);
        let lengths: Vec<i64> = lengths.iter().map(|length| *length as i64).collect();
        let lengths = Tensor::from_slice(&lengths).to_device(x.device()).unsqueeze(1);
        let past = Tensor::arange(longest, (Kind::Int64, x.device())).ge_tensor(&lengths);
        own.masked_fill(&past.unsqueeze(-1), 0.0)
    }
}

fn on_host<T: tch::kind::Element + Copy>(tensor: &Tensor) -> Vec<T> {
    let mut values = vec![T::ZERO; tensor.numel()];
    tensor.to_device(Device::Cpu).copy_data(&mut values, tensor.numel());
    values
}
