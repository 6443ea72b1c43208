//! The rows that decode together: who is in, who leaves, who joins.
//!
//! Keys and values lie in a rectangle of seats with as many rows each. Completions that have ended leave in between tokens:
//! once they are an eighth of the rows, no more tokens are drawn of them; their place in attention goes, with their keys and
//! values, when a plan says that it is worth moving the others'. Waiting groups join by such a plan. What happens depends
//! on tokens alone, never on time.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::{
    qwen::{
        cache::{Cache, Member, Sizes},
        rope::Rope,
    },
    room::Room,
    sample::Draw,
};

/// Tokens between two looks at who has ended. A look at a GPU's memory waits for all that was asked of the GPU.
pub(crate) fn look_every(device: Device) -> i64 {
    if device.is_cuda() { 16 } else { 1 }
}

/// Which completions, counted over all groups, are whose.
#[derive(Debug)]
pub(crate) struct Layout {
    firsts: Vec<usize>, // of each group, and the number of all
    widest: usize,
}

impl Layout {
    pub(crate) fn new(draws: &[Draw<'_>]) -> Self {
        let mut firsts = vec![0];
        firsts.extend(draws.iter().scan(0, |sum, draw| {
            *sum += draw.completions;
            Some(*sum)
        }));
        Self { firsts, widest: draws.iter().map(|draw| draw.completions).max().unwrap_or(0) }
    }

    /// A group's completions.
    pub(crate) fn of(&self, group: usize) -> Range<usize> {
        self.firsts[group]..self.firsts[group + 1]
    }

    /// Number of groups.
    pub(crate) fn groups(&self) -> usize {
        self.firsts.len() - 1
    }

    /// Number of all completions.
    pub(crate) fn completions(&self) -> usize {
        self.firsts[self.groups()]
    }
}

/// What bounds a batch.
#[derive(Debug)]
pub(crate) struct Limits {
    /// The rollout's groups.
    pub(crate) layout: Layout,
    /// Tokens of a completion.
    pub(crate) length: usize,
    /// Rows that decode together, a single group's aside; 0 for all.
    pub(crate) rows: usize,
    /// Tokens between two looks at who has ended.
    pub(crate) look_every: i64,
}

/// A group's place in the rectangle of rows.
#[derive(Debug, Clone)]
struct Seat {
    group: usize,
    /// The completion, counted over all groups, of each of its first rows; the others only fill the rectangle.
    rows: Vec<usize>,
    /// Its first column.
    start: i64,
}

/// A group that joins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Join {
    /// The group.
    pub(crate) group: usize,
    /// Its place among the groups of the batch.
    pub(crate) seat: i64,
}

/// What the rectangle becomes.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Groups that stay, each with its old place and the rows there that have not ended.
    staying: Vec<(usize, Vec<usize>)>,
    joining: Range<usize>,
    rows: usize,
}

impl Plan {
    /// Who joins; after [`Batch::regrouped`], they want their prompts filled in and their first tokens drawn.
    pub(crate) fn joins(&self) -> Vec<Join> {
        let seats = self.staying.len() as i64..;
        self.joining.clone().zip(seats).map(|(group, seat)| Join { group, seat }).collect()
    }
}

/// Rows that decode together: of B rows tokens are drawn.
#[derive(Debug)]
pub(crate) struct Batch {
    sizes: Sizes,
    limits: Limits,
    seats: Vec<Seat>,
    rows: usize,               // of each seat
    going: Vec<usize>,         // [B], which rows of the rectangle these are, ascending
    waiting: usize,            // the first group that has not joined yet
    looked: i64,               // columns at the last look
    pub(crate) tokens: Tensor, // [B], not yet in the cache
    ended: Tensor,             // [B] bool
    ends_now: Room,            // [B] bool
    places: Tensor,            // [T, B], the record that the token after column t goes to
    pub(crate) cache: Cache,
}

impl Batch {
    /// A batch that nobody has joined.
    pub(crate) fn new(sizes: Sizes, limits: Limits) -> Self {
        let none = |kind| Tensor::zeros([0], (kind, sizes.device));
        Self {
            sizes,
            limits,
            seats: Vec::new(),
            rows: 0,
            going: Vec::new(),
            waiting: 0,
            looked: 0,
            tokens: none(Kind::Int64),
            ended: none(Kind::Bool),
            ends_now: Room::new(Kind::Bool, sizes.device),
            places: none(Kind::Int64),
            cache: Cache::empty(sizes),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// What the rectangle is to become before the next token; `None` if it stays as it is, with fewer rows drawn of it
    /// where many have ended.
    pub(crate) fn plan(&mut self) -> Option<Plan> {
        let used = self.cache.used();
        let full = used >= self.limits.length as i64 - 1;
        if !full && !self.is_empty() && used - self.looked < self.limits.look_every {
            return None;
        }
        self.looked = used;
        let staying = self.staying();
        let mut rows = staying.iter().map(|(_, rows)| rows.len()).max().unwrap_or(0);
        let mut seats = staying.len();
        let mut next = self.waiting;
        while next < self.limits.layout.groups() && self.has_room(seats + 1) {
            rows = rows.max(self.limits.layout.of(next).len());
            (seats, next) = (seats + 1, next + 1);
        }
        if seats == 0 {
            self.seats.clear();
            return None;
        }
        // Moving the others costs about a token's time: worth it where a quarter of the rows becomes free.
        let shrinks = 4 * seats * rows <= 3 * self.seats.len() * self.rows;
        if full || next > self.waiting || shrinks {
            return Some(Plan { staying, joining: self.waiting..next, rows });
        }
        self.leave(&staying);
        None
    }

    /// Only these rows of each seat go on, where it is an eighth fewer.
    fn leave(&mut self, staying: &[(usize, Vec<usize>)]) {
        let going: Vec<usize> =
            staying.iter().flat_map(|(seat, rows)| rows.iter().map(|row| *seat * self.rows + row)).collect();
        if 8 * going.len() > 7 * self.going.len() {
            return;
        }
        let kept = self.kept(&going);
        self.tokens = self.tokens.index_select(0, &kept);
        self.ended = self.ended.index_select(0, &kept);
        self.places = self.places.index_select(1, &kept);
        self.cache.go_on(&going);
        self.going = going;
    }

    /// Of the rows that tokens were drawn of, those of these places in the rectangle.
    fn kept(&self, rectangle: &[usize]) -> Tensor {
        let kept = rectangle.iter().filter_map(|row| self.going.binary_search(row).ok()).map(|row| row as i64);
        Tensor::from_slice(&kept.collect::<Vec<_>>()).to_device(self.sizes.device)
    }

    fn has_room(&self, seats: usize) -> bool {
        seats == 1 || self.limits.rows == 0 || seats * self.limits.layout.widest <= self.limits.rows
    }

    /// Seats and rows of the completions that go on.
    fn staying(&self) -> Vec<(usize, Vec<usize>)> {
        let mut ended = vec![false; self.going.len()];
        self.ended.to_device(Device::Cpu).copy_data(&mut ended, self.going.len());
        let mut staying: Vec<(usize, Vec<usize>)> = Vec::new();
        for (row, _) in self.going.iter().zip(ended).filter(|(_, ended)| !ended) {
            let (seat, row) = (row / self.rows, row % self.rows);
            let length = self.cache.used() - self.seats[seat].start + 1;
            match staying.last_mut() {
                _ if length >= self.limits.length as i64 => {}
                Some((last, rows)) if *last == seat => rows.push(row),
                _ => staying.push((seat, vec![row])),
            }
        }
        staying
    }

    /// The batch that `plan` describes, its joining groups still without prompts and tokens.
    pub(crate) fn regrouped(self, plan: &Plan, draws: &[Draw<'_>], rope: impl Fn(&Tensor) -> Rope) -> Self {
        let used = self.cache.used();
        let dropped = plan.staying.iter().map(|(seat, _)| self.seats[*seat].start).min().unwrap_or(used);
        let (mut seats, mut members, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for (index, rows) in &plan.staying {
            let seat = &self.seats[*index];
            let picked = (0..plan.rows).map(|row| *rows.get(row).unwrap_or(&rows[0]) as i64);
            kept.extend(rows.iter().map(|row| *index * self.rows + row));
            let start = seat.start - dropped;
            members.push(Member {
                from: Some((*index as i64, picked.collect())),
                prompt: draws[seat.group].prompt.tokens() as i64,
                start,
            });
            seats.push(Seat { group: seat.group, rows: rows.iter().map(|row| seat.rows[*row]).collect(), start });
        }
        for group in plan.joining.clone() {
            let start = used - dropped;
            members.push(Member { from: None, prompt: draws[group].prompt.tokens() as i64, start });
            seats.push(Seat { group, rows: self.limits.layout.of(group).collect(), start });
        }
        let kept = self.kept(&kept);
        let rope = rope(&self.positions(&seats, draws));
        let of_seat = |(index, seat): (usize, &Seat)| index * plan.rows..index * plan.rows + seat.rows.len();
        let going: Vec<usize> = seats.iter().enumerate().flat_map(of_seat).collect();
        let places = self.all_places(&seats);
        let mut cache = self.cache.regrouped(&members, plan.rows as i64, dropped, &rope);
        cache.go_on(&going);
        Self {
            tokens: self.tokens.index_select(0, &kept),
            ended: self.ended.index_select(0, &kept),
            places,
            cache,
            looked: used - dropped,
            waiting: plan.joining.end,
            rows: plan.rows,
            going,
            seats,
            ..self
        }
    }

    /// Positions of every column of every seat on the three axes, `[3, T * N]`.
    fn positions(&self, seats: &[Seat], draws: &[Draw<'_>]) -> Tensor {
        let of =
            |column: i64| seats.iter().map(move |seat| draws[seat.group].prompt.next_position + column - seat.start);
        let positions: Vec<i64> = (0..self.sizes.columns).flat_map(of).collect();
        let count = positions.len() as i64;
        Tensor::from_slice(&positions).to_device(self.sizes.device).unsqueeze(0).expand([3, count], false)
    }

    fn all_places(&self, seats: &[Seat]) -> Tensor {
        let first = seats.iter().flat_map(|seat| seat.rows.iter().map(|row| self.place(*row) + 1 - seat.start));
        let first = Tensor::from_slice(&first.collect::<Vec<_>>()).to_device(self.sizes.device);
        first.unsqueeze(0) + Tensor::arange(self.sizes.columns, (Kind::Int64, self.sizes.device)).unsqueeze(1)
    }

    /// Where a completion's records begin.
    fn place(&self, completion: usize) -> i64 {
        (completion * self.limits.length) as i64
    }

    /// Where the records of the tokens go that the newest column predicts, `[B]`.
    pub(crate) fn places(&self) -> Tensor {
        self.places.get(self.cache.used() - 1)
    }

    /// Where the records of the first tokens of those who join go.
    pub(crate) fn first_places(&self, joins: &[Join]) -> Tensor {
        let places = joins.iter().flat_map(|join| self.limits.layout.of(join.group)).map(|row| self.place(row));
        Tensor::from_slice(&places.collect::<Vec<_>>()).to_device(self.sizes.device)
    }

    /// Gives those who join their first tokens.
    pub(crate) fn join(&mut self, tokens: &Tensor, ends: &Tensor) {
        self.ended = Tensor::cat(&[&self.ended, &ends.index_select(0, tokens)], 0);
        self.tokens = Tensor::cat(&[&self.tokens, tokens], 0);
    }

    /// The next token of every row.
    pub(crate) fn push(&mut self, tokens: &Tensor, ends: &Tensor) {
        let now = ends.index_select_out(&self.ends_now.shaped(&tokens.size()), 0, tokens);
        let _ = self.ended.logical_or_(&now);
        self.tokens.copy_(tokens);
    }
}
