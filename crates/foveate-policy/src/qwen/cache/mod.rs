//! Keys and values during generation, and the attention of one new token per row over them.
//!
//! Rows form a rectangle, [`Cache::groups`] x [`Cache::rows`]. A group's prompt is kept once and read once per token
//! for all rows of the group. Own tokens lie in columns that all groups share: a group that joined at column s has
//! nothing before it. Of some rows of the rectangle no more tokens are drawn; the others go on.
//!
//! Shapes in comments: N groups, C rows of each, B rows that go on, N * C at most, K key-value heads, R = H/K query heads
//! of each, E head dim, P longest prompt, T columns, F most frames, L layers whose attention is seen.

use tch::{Device, Kind, Tensor};

mod attend;

use attend::AttendRooms;

use super::{frames::FrameProbe, has_wide_products, rope::Rope};
use crate::room::Room;

/// Sizes that stay the same for a whole rollout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Layers of the decoder.
    pub(crate) layers: usize,
    /// Query heads, H.
    pub(crate) heads: i64,
    /// Key-value heads, K.
    pub(crate) kv_heads: i64,
    /// Head dim, E.
    pub(crate) width: i64,
    /// Hidden size, D.
    pub(crate) hidden: i64,
    /// Columns, T: own tokens that a row can have.
    pub(crate) columns: i64,
    /// Last layers whose frame attention is seen, L.
    pub(crate) seen_layers: usize,
    /// Frames of the prompt that has the most, F.
    pub(crate) frames: i64,
    /// Number type of keys and values.
    pub(crate) kind: Kind,
    /// Where they are.
    pub(crate) device: Device,
}

impl Sizes {
    /// Query heads that share keys and values, R.
    fn repeat(&self) -> i64 {
        self.heads / self.kv_heads
    }

    /// Among the layers whose attention is seen, the place of this one.
    fn seen(&self, layer: usize) -> Option<i64> {
        (layer + self.seen_layers).checked_sub(self.layers).filter(|_| self.frames > 0).map(|place| place as i64)
    }

    /// Whether products of keys and values can have f32 results without wider copies of them.
    fn has_wide_products(&self) -> bool {
        has_wide_products(self.device, self.kind)
    }

    /// Marks beside each value of a layer: the frames', if values are in f32, as weights and their sums are to be.
    fn marks_beside(&self, layer: usize) -> i64 {
        self.seen(layer).filter(|_| self.kind == Kind::Float).map_or(0, |_| self.frames)
    }

    /// Marks that stand apart from the values, for all layers.
    fn marks_apart(&self) -> i64 {
        if self.seen_layers == 0 || self.kind == Kind::Float { 0 } else { self.frames }
    }
}

/// A group in the rectangle.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// The group this one was in the rectangle before, and the row there that each of its rows was; `None` if it joins.
    pub(crate) from: Option<(i64, Vec<i64>)>,
    /// Tokens of its prompt.
    pub(crate) prompt: i64,
    /// Its first column.
    pub(crate) start: i64,
}

/// Keys and values of the rows that are decoded together.
#[derive(Debug)]
pub(crate) struct Cache {
    sizes: Sizes,
    groups: i64,
    rows: i64,
    used: i64,
    going: Option<Going>, // `None` if all rows go on
    layers: Vec<Layer>,
    prompt_bias: Tensor, // [N * K, 1, P]: -inf behind a shorter prompt
    own_bias: Tensor,    // [N * K * C, 1, T]: -inf before a group's first column
    rotations: Tensor,   // [T, N, 1, 1, E/2] complex
    head_mean: Tensor,   // [C, K * C * R] f32: the product with it is a row's mean over heads
    marks: Tensor,       // [N, P, F or 0] f32: 1 where a prompt's row is of a frame, if values do not go on with it
    rooms: AttendRooms,
}

/// Which rows of the rectangle go on.
#[derive(Debug)]
struct Going {
    rows: Tensor, // [B]
    from: Tensor, // [N * C], the place among these that stands for each row of the rectangle
}

impl Going {
    /// Of numbers that all rows of the rectangle have along `dim`, those of the rows that go on, in this room.
    fn of(&self, x: &Tensor, dim: i64, room: &mut Room) -> Tensor {
        let mut shape = x.size();
        shape[dim as usize] = self.rows.numel() as i64;
        x.index_select_out(&room.shaped(&shape), dim, &self.rows)
    }
}

#[derive(Debug)]
struct Layer {
    /// What the following are views of. Whoever comes later is written over those who were there before.
    room: [Room; 3],
    /// Keys `[N * K, P, E]` and values `[N * K, P, E + F]`. In layers whose frame attention is seen, each prompt row's
    /// value, if in f32, goes on with a 1 for its frame: summing values up then sums the weights on each frame up as well.
    prompt: [Tensor; 2],
    own: Tensor, // keys and values, [2, N, K, C, T, E]
}

impl Cache {
    /// A cache without groups.
    pub(crate) fn empty(sizes: Sizes) -> Self {
        let none = || Tensor::zeros([0], (Kind::Float, sizes.device));
        Self {
            sizes,
            groups: 0,
            rows: 0,
            used: 0,
            going: None,
            layers: Vec::new(),
            prompt_bias: none(),
            own_bias: none(),
            rotations: none(),
            head_mean: none(),
            marks: none(),
            rooms: AttendRooms::new(&sizes),
        }
    }

    /// Columns that hold tokens.
    pub(crate) fn used(&self) -> i64 {
        self.used
    }

    /// The cache of the rectangle of `members` with `rows` rows each: what stays is copied, `dropped` columns before
    /// everybody's first are left out, and room is made for those who join, whose prompts [`Cache::fill`] then writes.
    /// Those who stay come first. `rope` holds the rotations of every column of every member, `[T * N, E]`.
    pub(crate) fn regrouped(self, members: &[Member], rows: i64, dropped: i64, rope: &Rope) -> Self {
        let (sizes, groups) = (self.sizes, members.len() as i64);
        let used = self.used - dropped;
        let move_ = Move::new(&sizes, members, rows, self.rows);
        let prompt = members.iter().map(|member| member.prompt).max().unwrap_or(0);
        let shape = [groups, rows, prompt];
        let mut rooms = self.rooms;
        rooms.reserve(&sizes, shape);
        let layers = if self.layers.is_empty() {
            let room = || [(); 3].map(|()| Room::new(sizes.kind, sizes.device));
            (0..sizes.layers).map(|index| Layer::within(room(), &sizes, sizes.marks_beside(index), shape)).collect()
        } else {
            // Layer by layer, so that only one is held twice.
            self.layers.into_iter().map(|layer| layer.moved(&sizes, &move_, shape, [dropped, used])).collect()
        };
        let marks = Tensor::zeros([groups, prompt, sizes.marks_apart()], (Kind::Float, sizes.device));
        if move_.staying > 0 {
            let kept = prompt.min(self.marks.size()[1]);
            let old = self.marks.narrow(1, 0, kept).index_select(0, &move_.groups);
            marks.narrow(0, 0, move_.staying).narrow(1, 0, kept).copy_(&old);
        }
        Self {
            sizes,
            groups,
            rows,
            used,
            going: None,
            layers,
            marks,
            prompt_bias: bias(&sizes, members, prompt, |member, column| column >= member.prompt)
                .repeat_interleave_self_int(sizes.kv_heads, 0, None),
            own_bias: bias(&sizes, members, sizes.columns, |member, column| column < member.start)
                .repeat_interleave_self_int(sizes.kv_heads * rows, 0, None),
            rotations: rope.rotations().view([sizes.columns, groups, 1, 1, sizes.width / 2]),
            head_mean: (Tensor::eye(rows, (Kind::Float, sizes.device)) / sizes.heads as f64)
                .repeat_interleave_self_int(sizes.repeat(), 1, None)
                .repeat([1, sizes.kv_heads]),
            rooms,
        }
    }

    /// Writes the prompt of group `group`: its rotated keys and its values by layer, each `[P, K, E]`, and which of its
    /// rows belong to which frame.
    pub(crate) fn fill(&self, group: i64, keys_values: &[[Tensor; 2]], probe: Option<&FrameProbe>) {
        let (heads, width) = (self.sizes.kv_heads, self.sizes.width);
        for (layer, [keys, values]) in self.layers.iter().zip(keys_values) {
            let prompt = keys.size()[0];
            let of_group = |store: &Tensor| store.narrow(0, group * heads, heads).narrow(1, 0, prompt);
            let [mut key_store, value_store] = layer.prompt.each_ref().map(of_group);
            key_store.copy_(&paired(keys, 2).transpose(0, 1));
            value_store.narrow(2, 0, width).copy_(&values.transpose(0, 1));
            let _ = value_store.narrow(2, width, value_store.size()[2] - width).zero_();
            if let Some(probe) = probe.filter(|_| value_store.size()[2] > width) {
                let (columns, frames) = probe.frames.size2().unwrap_or_default();
                let ones = probe.frames.to_kind(self.sizes.kind).expand([heads, columns, frames], false);
                let _ = value_store.narrow(2, width, frames).index_copy_(1, &probe.columns, &ones);
            }
        }
        if let Some(probe) = probe.filter(|_| self.sizes.marks_apart() > 0) {
            let frames = probe.frames.size()[1];
            let _ = self.marks.get(group).narrow(1, 0, frames).index_copy_(0, &probe.columns, &probe.frames);
        }
    }

    /// From now on tokens come of these rows of the rectangle only, ascending; of all, after [`Cache::regrouped`].
    pub(crate) fn go_on(&mut self, rows: &[usize]) {
        let all = (self.groups * self.rows) as usize;
        let on_device = |index: Vec<i64>| Tensor::from_slice(&index).to_device(self.sizes.device);
        self.going = (rows.len() < all).then(|| {
            let mut from = vec![0; all];
            // The first of a group stands for those of it that do not go on, so that its frame attention is made of its own
            // numbers. Nobody sees a group of which none goes on.
            for (place, row) in rows.iter().enumerate().rev() {
                let group = row - row % self.rows as usize;
                from[group..group + self.rows as usize].fill(place as i64);
            }
            rows.iter().enumerate().for_each(|(place, row)| from[*row] = place as i64);
            Going { rows: on_device(rows.iter().map(|row| *row as i64).collect()), from: on_device(from) }
        });
    }

    /// The newest token has gone through all layers.
    pub(crate) fn advance(&mut self) {
        self.used += 1;
    }
}

impl Layer {
    /// `groups` with `rows` each behind prompts of `prompt` tokens, and `frames` marks beside each value, in this room or, if
    /// it is too small, in one of their own. What was in it before stays there until it is written over: nobody sees it.
    fn within(mut room: [Room; 3], sizes: &Sizes, frames: i64, [groups, rows, prompt]: [i64; 3]) -> Self {
        let prompts = groups * sizes.kv_heads;
        let [keys, values, own] = &mut room;
        Self {
            prompt: [
                keys.shaped(&[prompts, prompt, sizes.width]),
                values.shaped(&[prompts, prompt, sizes.width + frames]),
            ],
            own: own.shaped(&[2, groups, sizes.kv_heads, rows, sizes.columns, sizes.width]),
            room,
        }
    }

    /// Those who stay, moved to the beginning.
    fn moved(self, sizes: &Sizes, move_: &Move, shape: [i64; 3], [dropped, used]: [i64; 2]) -> Self {
        let Self { room, prompt, own } = self;
        let frames = prompt[1].size()[2] - sizes.width;
        let [_, rows, longest] = shape;
        // Copies, since old and new places overlap.
        let kept = own.view([2, -1, sizes.columns, sizes.width]).narrow(2, dropped, used).index_select(1, &move_.own);
        let kept = kept.view([2, move_.staying, sizes.kv_heads, rows, used, sizes.width]);
        let kept_prompts = prompt.map(|x| x.narrow(1, 0, longest.min(x.size()[1])).index_select(0, &move_.prompts));
        drop(own); // a view of the room, which goes if it is too small
        let new = Self::within(room, sizes, frames, shape);
        new.own.narrow(1, 0, move_.staying).narrow(4, 0, used).copy_(&kept);
        for (new, kept) in new.prompt.iter().zip(&kept_prompts) {
            new.narrow(0, 0, move_.staying * sizes.kv_heads).narrow(1, 0, kept.size()[1]).copy_(kept);
        }
        new
    }
}

/// Where those who stay were.
struct Move {
    staying: i64,
    groups: Tensor,  // [staying]
    prompts: Tensor, // [staying * K]
    own: Tensor,     // [staying * K * C]
}

impl Move {
    fn new(sizes: &Sizes, members: &[Member], rows: i64, rows_before: i64) -> Self {
        let (mut groups, mut prompts, mut own) = (Vec::new(), Vec::new(), Vec::new());
        for (group, picked) in members.iter().filter_map(|member| member.from.as_ref()) {
            groups.push(*group);
            for head in 0..sizes.kv_heads {
                prompts.push(group * sizes.kv_heads + head);
                own.extend(picked.iter().map(|row| (group * sizes.kv_heads + head) * rows_before + row));
            }
        }
        debug_assert_eq!(own.len() as i64, prompts.len() as i64 * rows);
        let on_device = |index: &[i64]| Tensor::from_slice(index).to_device(sizes.device);
        Self {
            staying: groups.len() as i64,
            groups: on_device(&groups),
            prompts: on_device(&prompts),
            own: on_device(&own),
        }
    }
}

/// -inf where `hidden` says so, `[N, 1, columns]`.
fn bias(sizes: &Sizes, members: &[Member], columns: i64, hidden: impl Fn(&Member, i64) -> bool) -> Tensor {
    let values = members.iter().flat_map(|member| {
        let hidden = &hidden;
        (0..columns).map(move |column| if hidden(member, column) { f32::NEG_INFINITY } else { 0.0 })
    });
    let values: Vec<f32> = values.collect();
    Tensor::from_slice(&values).view([-1, 1, columns]).to_kind(sizes.kind).to_device(sizes.device)
}

/// Puts the two numbers of the last dimension that rotate together, one from each half of a head, side by side, so that
/// a rotation is one product of complex numbers. `dim` is the head's dimension. Scores do not notice if queries and keys
/// are both so ordered.
pub(crate) fn paired(x: &Tensor, dim: usize) -> Tensor {
    let mut shape = x.size();
    let width = shape[dim];
    shape.splice(dim..=dim, [2, width / 2]);
    x.view(shape.as_slice()).transpose(dim as i64, dim as i64 + 1).reshape(x.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOATS: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// A token of every row attends to its columns alike; the frame attention then seen, `[B, F]`.
    fn seen_by_a_token(cache: &mut Cache) -> Vec<f32> {
        let Sizes { heads, kv_heads, width, .. } = cache.sizes;
        let rows = cache.groups * cache.rows;
        let zeros = Tensor::zeros([rows, (heads + 2 * kv_heads) * width], FLOATS).to_kind(cache.sizes.kind);
        let _ = cache.attend(0, &zeros);
        cache.advance();
        cache.seen().unwrap().view(-1).try_into().unwrap()
    }

    #[test]
    fn frame_attention_is_summed_in_f32_whatever_the_type_of_values() {
        for kind in [Kind::BFloat16, Kind::Float, Kind::Double] {
            let sizes = Sizes {
                layers: 1,
                heads: 2,
                kv_heads: 1,
                width: 8,
                hidden: 16,
                columns: 4,
                seen_layers: 1,
                frames: 2,
                kind,
                device: Device::Cpu,
            };
            let nowhere = Tensor::zeros([4 * 2], FLOATS); // of every column and group
            let rope = Rope::vision(8, &nowhere, &nowhere);
            // A prompt whose first row is of no frame; three rows of the first, the rest of the second.
            let fill = |cache: &Cache, group: i64, prompt: i64| {
                let keys_values = [(); 2].map(|()| Tensor::zeros([prompt, 1, 8], FLOATS).to_kind(kind));
                let columns = Tensor::arange_start(1, prompt, (Kind::Int64, Device::Cpu));
                let frames = columns.gt(3).to_kind(Kind::Int64).one_hot(2).to_kind(Kind::Float);
                let rows = Tensor::from_slice(&[prompt - 1]);
                let probe = FrameProbe {
                    rows,
                    first: prompt - 1,
                    columns,
                    frames,
                    length: None,
                    runs: Vec::new(),
                    before: false,
                };
                cache.fill(group, &[keys_values], Some(&probe));
            };
            let check = |found: Vec<f32>, expected: &[f32]| {
                assert_eq!(found.len(), expected.len());
                let off =
                    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
                assert!(off < 1e-6, "{kind:?}: {found:?}, not {expected:?}");
            };
            let new = |prompt| Member { from: None, prompt, start: 0 };
            let mut cache = Cache::empty(sizes).regrouped(&[new(29), new(64)], 1, 0, &rope);
            fill(&cache, 0, 29);
            fill(&cache, 1, 64);
            // Their prompts' rows and one of their own.
            check(seen_by_a_token(&mut cache), &[3.0 / 30.0, 25.0 / 30.0, 3.0 / 65.0, 60.0 / 65.0]);
            // The second goes on beside one that joins behind its first column.
            let members = [
                Member { from: Some((1, vec![0])), prompt: 64, start: 0 },
                Member { from: None, prompt: 19, start: 1 },
            ];
            let mut cache = cache.regrouped(&members, 1, 0, &rope);
            fill(&cache, 1, 19);
            check(seen_by_a_token(&mut cache), &[3.0 / 66.0, 60.0 / 66.0, 3.0 / 20.0, 15.0 / 20.0]);
        }
    }
}
