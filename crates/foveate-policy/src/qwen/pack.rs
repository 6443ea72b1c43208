//! Where the rows of a packed pass lie. Groups stand one behind the other; of each group first the P rows of its
//! prompt, then the rows of its completions, without padding. A completion of n tokens has n - 1 rows: its last token
//! predicts nothing.

use tch::{Device, Kind, Tensor};

/// The rows of a packed pass.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) groups: Vec<GroupRows>,
    /// The row that predicts each token, of all groups, `[R]`.
    pub(crate) predicting: Tensor,
}

/// The rows of one group.
#[derive(Debug)]
pub(crate) struct GroupRows {
    /// The first one's place in the pack.
    pub(crate) start: i64,
    pub(crate) prompt: i64,
    /// The row, within the group, that predicts each token.
    pub(crate) predicting: Vec<i64>,
    pub(crate) own: Option<OwnRows>,
}

/// The rows of a group's completions, and their places when padded to the longest.
#[derive(Debug)]
pub(crate) struct OwnRows {
    pub(crate) rows: i64,
    pub(crate) completions: i64,
    pub(crate) longest: i64,
    /// Place of each row among completions x longest, `[rows]`; `None` where all are equally long.
    places: Option<Tensor>,
}

impl Pack {
    /// `groups`: length of the prompt and of each completion, in tokens.
    pub(crate) fn new(groups: &[(i64, Vec<i64>)], device: Device) -> Self {
        let mut start = 0;
        let groups = groups.iter().map(|(prompt, lengths)| {
            let mut predicting = Vec::new();
            let mut own = *prompt;
            for length in lengths.iter().filter(|length| **length > 0) {
                predicting.push(prompt - 1);
                predicting.extend(own..own + length - 1);
                own += length - 1;
            }
            let group = GroupRows { start, prompt: *prompt, predicting, own: OwnRows::new(lengths, device) };
            start += own;
            group
        });
        Self::of(groups.collect(), device)
    }

    /// One sequence whose rows `predicting` are asked for.
    pub(crate) fn of_prompt(prompt: i64, predicting: Vec<i64>, device: Device) -> Self {
        Self::of(vec![GroupRows { start: 0, prompt, predicting, own: None }], device)
    }

    fn of(groups: Vec<GroupRows>, device: Device) -> Self {
        let rows = groups.iter().flat_map(|group| group.predicting.iter().map(|row| group.start + row));
        let predicting = Tensor::from_slice(&rows.collect::<Vec<_>>()).to_device(device);
        Self { groups, predicting }
    }
}

impl GroupRows {
    /// All rows of the group.
    pub(crate) fn rows(&self) -> i64 {
        self.prompt + self.own.as_ref().map_or(0, |own| own.rows)
    }

    /// The group's part of `x` `[N, ..]`.
    pub(crate) fn of(&self, x: &Tensor) -> Tensor {
        x.narrow(0, self.start, self.rows())
    }
}

impl OwnRows {
    fn new(lengths: &[i64], device: Device) -> Option<Self> {
        let lengths: Vec<i64> = lengths.iter().map(|length| (length - 1).max(0)).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest == 0 {
            return None;
        }
        let places = lengths.iter().any(|length| *length != longest).then(|| {
            let rows = (0..).zip(&lengths).flat_map(|(row, length)| row * longest..row * longest + length);
            Tensor::from_slice(&rows.collect::<Vec<i64>>()).to_device(device)
        });
        Some(Self { rows: lengths.iter().sum(), completions: lengths.len() as i64, longest, places })
    }

    /// Rows `[rows, A, B]` -> `[completions, longest, A, B]`, 0 in the padding.
    pub(crate) fn pad(&self, x: &Tensor) -> Tensor {
        let (_, a, b) = x.size3().unwrap_or_default();
        let shape = [self.completions, self.longest, a, b];
        match &self.places {
            None => x.view(shape),
            Some(places) => {
                let padded = Tensor::zeros([self.completions * self.longest, a, b], (x.kind(), x.device()));
                padded.index_copy(0, places, x).view(shape)
            }
        }
    }

    /// `[completions, longest, A, B]` -> rows `[rows, A, B]`.
    pub(crate) fn unpad(&self, x: &Tensor) -> Tensor {
        let x = x.flatten(0, 1);
        match &self.places {
            None => x,
            Some(places) => x.index_select(0, places),
        }
    }

    /// 0 where row t of a completion sees column c (the whole prompt, then itself up to t), -inf elsewhere:
    /// `[longest, prompt + longest]`.
    pub(crate) fn mask(&self, prompt: i64, kind: Kind, device: Device) -> Tensor {
        let shape = [self.longest, prompt + self.longest];
        Tensor::full(shape, f64::NEG_INFINITY, (kind, device)).triu(prompt + 1)
    }
}
