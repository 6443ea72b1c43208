//! The penalty on tokens that stand in the prompt or in the completion so far.

use tch::{Kind, Tensor};

use crate::{
    head::Head,
    room::{Room, number},
    sample::{Draw, SamplingParams},
};

/// Which tokens each completion must not repeat lightly.
#[derive(Debug)]
pub(crate) struct Repetition {
    /// Longest completion, T: place `row * T + t` is of row `row`.
    length: Tensor, // []
    vocabulary: Tensor, // []
    penalty: Tensor,    // []
    zero: Tensor,       // []
    seen: Tensor,       // [B, V] bool
    rows: Room,         // [B]
    of_rows: Room,      // [B, V] bool, as is the next one
    negative: Room,
    divided: Room, // [B, V], as is the next one
    multiplied: Room,
}

impl Repetition {
    /// With every completion's prompt noted; `None` if nothing is penalised.
    pub(crate) fn new(draws: &[Draw<'_>], params: &SamplingParams, head: &Head) -> Option<Self> {
        if params.repetition_penalty == 1.0 {
            return None;
        }
        let (vocabulary, device) = (head.vocabulary(), draws.first()?.prompt.ids.device());
        let of_prompt = |draw: &Draw<'_>| {
            let row = Tensor::zeros([vocabulary], (Kind::Bool, device)).index_fill(0, &draw.prompt.ids, 1);
            row.unsqueeze(0).expand([draw.completions as i64, vocabulary], false)
        };
        let rows: Vec<Tensor> = draws.iter().map(of_prompt).collect();
        let (penalty, length) = (params.repetition_penalty, params.max_new_tokens as i64);
        Some(Self::of(penalty, length, Tensor::cat(&rows, 0), head.logits_kind()))
    }

    fn of(penalty: f64, length: i64, seen: Tensor, kind: Kind) -> Self {
        let device = seen.device();
        let room = |kind| move || Room::new(kind, device);
        let [logits, mask] = [kind, Kind::Bool].map(room);
        Self {
            length: number(length, Kind::Int64, device),
            vocabulary: number(seen.size()[1], Kind::Int64, device),
            penalty: number(penalty, kind, device),
            zero: number(0.0, kind, device),
            seen,
            rows: Room::new(Kind::Int64, device),
            of_rows: mask(),
            negative: mask(),
            divided: logits(),
            multiplied: logits(),
        }
    }

    /// The rows of these places, until the next call.
    fn rows(&mut self, places: &Tensor) -> Tensor {
        places.divide_out_mode(&self.rows.shaped(&places.size()), &self.length, "floor")
    }

    /// Logits `[B, V]` of these places, those of seen tokens lowered; until the next call.
    pub(crate) fn penalised(&mut self, logits: &Tensor, places: &Tensor) -> Tensor {
        let (shape, rows) = (logits.size(), self.rows(places));
        let seen = self.seen.index_select_out(&self.of_rows.shaped(&shape), 0, &rows);
        let negative = logits.lt_tensor_out(&self.negative.shaped(&shape), &self.zero);
        let divided = logits.divide_out(&self.divided.shaped(&shape), &self.penalty);
        let multiplied = logits.multiply_out(&self.multiplied.shaped(&shape), &self.penalty);
        let lowered = multiplied.where_self_out(&multiplied, &negative, &divided);
        lowered.where_self_out(&divided, &seen, logits)
    }

    /// Notes the tokens `[B]` drawn for these places.
    pub(crate) fn note(&mut self, ids: &Tensor, places: &Tensor) {
        let seen = self.rows(places).g_mul_(&self.vocabulary).g_add_(ids);
        let _ = self.seen.view([-1]).index_fill_(0, &seen, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seen_tokens_lose_whatever_the_sign_of_their_logit() {
        let seen = Tensor::from_slice(&[true, true, false, false, false, false]).view([2, 3]);
        let mut repetition = Repetition::of(2.0, 4, seen, Kind::Float);
        let logits = Tensor::from_slice(&[1.0f32, -1.0, 3.0, 1.0, -1.0, 3.0]).view([2, 3]);
        let places = Tensor::from_slice(&[2i64, 5]);
        let penalised =
            |repetition: &mut Repetition| Vec::<f32>::try_from(repetition.penalised(&logits, &places).view(-1));
        assert_eq!(penalised(&mut repetition).unwrap(), [0.5, -2.0, 3.0, 1.0, -1.0, 3.0]);
        repetition.note(&Tensor::from_slice(&[2i64, 1]), &places);
        assert_eq!(penalised(&mut repetition).unwrap(), [0.5, -2.0, 1.5, 1.0, -2.0, 3.0]);
    }
}
