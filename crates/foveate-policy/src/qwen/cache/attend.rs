//! Attention of one new token per row over the cache.

use tch::{Kind, Tensor};

use super::{Cache, Sizes};
use crate::room::{Room, number};

/// What attention of a token is formed in, layer after layer.
#[derive(Debug)]
pub(super) struct AttendRooms {
    scale: Tensor,    // [], of the scores
    going: Room,      // [B, (H + 2K) * E] f32, where not all rows go on
    projected: Room,  // [N, C, H + 2K, E] f32
    queries: Room,    // [N * K, C * R, E]
    on_prompt: Room,  // [N * K, C * R, P], scores where products of this type have no wider results
    on_own: Room,     // [N * K * C, R, columns used], likewise
    scores: Room,     // [N * K, C * R, P + columns used] f32
    weights: Room,    // the same
    typed: Room,      // the same in the number type of values, if that is another
    summed: Room,     // [N * K, C * R, E]
    marked: Room,     // [L, N * K, C * R, E + F], of layers whose frame attention is seen, in f32
    attended: Room,   // [N * K * C, R, E]
    by_row: Room,     // [N * C, H * E]
    of_going: Room,   // [B, H * E], where not all rows go on
    marks: Room,      // [L, N, K * C * R, F] f32, of the same layers where values are of another type
    seen: Room,       // [L, N * C, F] f32
    seen_going: Room, // [L, B, F] f32, where not all rows go on
}

impl AttendRooms {
    pub(super) fn new(sizes: &Sizes) -> Self {
        let room = |kind| Room::new(kind, sizes.device);
        let [typed, wide] = [sizes.kind, Kind::Float].map(|kind| move || room(kind));
        Self {
            scale: number((sizes.width as f64).powf(-0.5), Kind::Float, sizes.device),
            going: wide(),
            projected: wide(),
            queries: typed(),
            on_prompt: typed(),
            on_own: typed(),
            scores: wide(),
            weights: wide(),
            typed: typed(),
            summed: typed(),
            marked: wide(),
            attended: typed(),
            by_row: typed(),
            of_going: typed(),
            marks: wide(),
            seen: wide(),
            seen_going: wide(),
        }
    }

    /// Makes room for every token of a rectangle of so many groups and rows, behind prompts of this length, where it grows
    /// from token to token.
    pub(super) fn reserve(&mut self, sizes: &Sizes, [groups, rows, prompt]: [i64; 3]) {
        let heads = groups * rows * sizes.heads;
        let joined = heads * (prompt + sizes.columns);
        self.on_own.reserve(if sizes.has_wide_products() { 0 } else { heads * sizes.columns });
        self.scores.reserve(joined);
        self.weights.reserve(joined);
        if sizes.kind != Kind::Float {
            self.typed.reserve(joined);
        }
    }
}

impl Cache {
    /// Attention of one new token per row: its projections `[B, (H + 2K) * E]`, with the halves that rotate together
    /// interleaved (see [`super::paired`]), give `[B, H * E]`, good until the next call. Its own keys and values go into
    /// column [`Cache::used`].
    pub(crate) fn attend(&mut self, index: usize, projected: &Tensor) -> Tensor {
        let Sizes { heads, kv_heads, width, .. } = self.sizes;
        let (groups, rows, repeat, used) = (self.groups, self.rows, self.sizes.repeat(), self.used + 1);
        let (layer, rooms) = (&self.layers[index], &mut self.rooms);

        let turned = rooms.projected.shaped(&[groups, rows, heads + 2 * kv_heads, width]);
        // As three dimensions: a matrix would be transposed by way of a copy.
        let by_row = [groups * rows, heads + 2 * kv_heads, width];
        let of_rows = projected.view([-1, by_row[1], width]);
        match &self.going {
            None => turned.view(by_row).copy_(&of_rows),
            Some(going) => {
                let mut of_going = rooms.going.shaped(&of_rows.size());
                of_going.copy_(&of_rows);
                let _ = of_going.index_select_out(&turned.view(by_row), 0, &going.from);
            }
        }
        let rotated = turned.narrow(2, 0, heads + kv_heads).view([groups, rows, heads + kv_heads, width / 2, 2]);
        let _ = rotated.view_as_complex().multiply_(&self.rotations.get(self.used));

        let own = turned.narrow(2, heads, 2 * kv_heads).view([groups, rows, 2, kv_heads, width]);
        layer.own.select(4, self.used).copy_(&own.permute([2, 0, 3, 1, 4]));
        let [own_keys, own_values] =
            [0, 1].map(|which| layer.own.get(which).narrow(3, 0, used).view([groups * kv_heads * rows, used, width]));
        let q = turned.narrow(2, 0, heads).view([groups, rows, kv_heads, repeat, width]).transpose(1, 2);
        let by_head = rooms.queries.shaped(&[groups, kv_heads, rows, repeat, width]);
        let q = q.multiply_out(&by_head, &rooms.scale).view([groups * kv_heads, rows * repeat, width]);

        // One softmax over both parts.
        let [prompt_keys, prompt_values] = &layer.prompt;
        let prompt = prompt_keys.size()[1];
        let both = [groups * kv_heads, rows * repeat, prompt + used];
        let [scores, weights] = [&mut rooms.scores, &mut rooms.weights].map(|room| room.shaped(&both));
        let (own_q, own_bias) = (q.view([-1, repeat, width]), self.own_bias.narrow(2, 0, used));
        let keys = [prompt_keys, &own_keys].map(|keys| keys.transpose(1, 2));
        if self.sizes.has_wide_products() {
            let on_own = scores.view([-1, repeat, prompt + used]).narrow(2, prompt, used);
            let parts = [(&q, scores.narrow(2, 0, prompt), &self.prompt_bias), (&own_q, on_own, &own_bias)];
            for ((queries, mut part, bias), keys) in parts.into_iter().zip(&keys) {
                let _ = queries.bmm_dtype_out(&part, keys, Kind::Float);
                let _ = part.g_add_(bias);
            }
        } else {
            let on_prompt = rooms.on_prompt.shaped(&[both[0], both[1], prompt]);
            let _ = self.prompt_bias.baddbmm_out(&on_prompt, &q, &keys[0]);
            let on_own = rooms.on_own.shaped(&[groups * kv_heads * rows, repeat, used]);
            let _ = own_bias.baddbmm_out(&on_own, &own_q, &keys[1]);
            let _ = Tensor::cat_out(&scores, &[on_prompt, on_own.view([both[0], both[1], used])], -1);
        }
        let _ = scores.softmax_int_out(&weights, -1, Kind::Float);

        let (seen, seen_layers) = (self.sizes.seen(index), self.sizes.seen_layers as i64);
        if let Some(seen) = seen.filter(|_| self.sizes.marks_apart() > 0) {
            let by_group = [groups, kv_heads * rows * repeat];
            let marks = rooms.marks.shaped(&[seen_layers, by_group[0], by_group[1], self.sizes.frames]).get(seen);
            let weights = weights.view([by_group[0], by_group[1], prompt + used]).narrow(2, 0, prompt);
            let _ = weights.bmm_out(&marks, &self.marks);
        }
        let summed = match (seen, self.sizes.marks_beside(index)) {
            (Some(seen), marks @ 1..) => rooms.marked.shaped(&[seen_layers, both[0], both[1], width + marks]).get(seen),
            _ => rooms.summed.shaped(&[both[0], both[1], width]),
        };
        let weights = rooms.typed.holding(&weights);
        let _ = weights.narrow(2, 0, prompt).bmm_out(&summed, prompt_values);
        let summed = summed.narrow(2, 0, width).view([-1, repeat, width]);
        let on_own = weights.narrow(2, prompt, used).view([-1, repeat, used]);
        let attended = rooms.attended.shaped(&[groups * kv_heads * rows, repeat, width]);
        let _ = summed.baddbmm_out(&attended, &on_own, &own_values);

        let mut by_row = rooms.by_row.shaped(&[groups, rows, kv_heads, repeat, width]);
        by_row.copy_(&attended.view([groups, kv_heads, rows, repeat, width]).transpose(1, 2));
        let by_row = by_row.view([groups * rows, heads * width]);
        match &self.going {
            None => by_row,
            Some(going) => going.of(&by_row, 0, &mut rooms.of_going),
        }
    }

    /// Frame attention of the token that has last gone through all layers, mean over heads, `[L, B, F]` f32, good
    /// until the next one goes; `None` if it is not seen. If it is no number for one row, it is none for the group.
    pub(crate) fn seen(&mut self) -> Option<Tensor> {
        let Sizes { kv_heads, width, frames, .. } = self.sizes;
        let (layers, groups, rows, repeat) =
            (self.sizes.seen_layers as i64, self.groups, self.rows, self.sizes.repeat());
        if layers * frames == 0 {
            return None;
        }
        let by_head = |width: i64| [layers * groups, kv_heads * rows * repeat, width];
        let marks = if self.sizes.marks_apart() > 0 {
            self.rooms.marks.shaped(&by_head(frames))
        } else {
            self.rooms.marked.shaped(&by_head(width + frames)).narrow(2, width, frames)
        };
        let seen = self.rooms.seen.shaped(&[layers * groups, rows, frames]);
        let _ = self.head_mean.expand([layers * groups, -1, -1], false).bmm_out(&seen, &marks);
        let seen = seen.view([layers, groups * rows, frames]);
        Some(match &self.going {
            None => seen,
            Some(going) => going.of(&seen, 1, &mut self.rooms.seen_going),
        })
    }
}
