//! The order of examples: a function of seed and position, so that going back to a step costs nothing.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Which record stands at which position.
#[derive(Debug, Clone)]
pub enum Order {
    /// Epoch after epoch, each in an order of its own.
    Shuffled(Epochs),
    /// The first so many records, once, as they are.
    Once(usize),
}

impl Order {
    /// Endless epochs over `records` records in orders drawn from `seed`.
    pub fn shuffled(records: usize, seed: u64) -> Self {
        Self::Shuffled(Epochs { seed, order: (0..records).collect(), epoch: None })
    }

    /// The record at that position, counted from 0; `None` past the end, or if there are no records.
    pub fn record(&mut self, position: u64) -> Option<usize> {
        match self {
            Self::Shuffled(epochs) => epochs.record(position),
            Self::Once(records) => usize::try_from(position).ok().filter(|at| at < records),
        }
    }
}

/// The orders of all epochs, of which the latest one asked for is kept.
#[derive(Debug, Clone)]
pub struct Epochs {
    seed: u64,
    order: Vec<usize>,
    epoch: Option<u64>,
}

impl Epochs {
    /// Number of records of an epoch.
    pub fn records(&self) -> usize {
        self.order.len()
    }

    fn record(&mut self, position: u64) -> Option<usize> {
        let records = self.order.len() as u64;
        let epoch = position.checked_div(records)?;
        if self.epoch != Some(epoch) {
            self.shuffle(epoch);
        }
        self.order.get((position % records) as usize).copied()
    }

    fn shuffle(&mut self, epoch: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(epoch);
        self.order.sort_unstable();
        self.order.shuffle(&mut random);
        self.epoch = Some(epoch);
    }
}

/// How many of so many records are used if at most `limit` are to be; 0: all.
pub fn first(records: usize, limit: usize) -> usize {
    if limit == 0 { records } else { records.min(limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(order: &mut Order, range: std::ops::Range<u64>) -> Vec<usize> {
        range.filter_map(|position| order.record(position)).collect()
    }

    #[test]
    fn every_epoch_holds_each_record_once_in_an_order_of_its_own() {
        let mut order = Order::shuffled(50, 7);
        let first = positions(&mut order, 0..50);
        let second = positions(&mut order, 50..100);
        assert_ne!(first, second);
        for mut epoch in [first, second] {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..50).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_position_gives_the_same_record_whatever_was_asked_before() {
        let through = positions(&mut Order::shuffled(10, 3), 0..95);
        let mut jumped = Order::shuffled(10, 3);
        assert_eq!(positions(&mut jumped, 90..95), through[90..]);
        assert_eq!(positions(&mut jumped, 0..10), through[..10]);
        assert_ne!(positions(&mut Order::shuffled(10, 4), 0..10), through[..10]);
    }

    #[test]
    fn once_ends_and_an_empty_file_has_no_records() {
        assert_eq!(positions(&mut Order::Once(3), 0..9), [0, 1, 2]);
        assert_eq!(Order::shuffled(0, 1).record(0), None);
    }
}
