//! What a frozen vision tower made of media that were seen before.

use quick_cache::{Weighter, unsync::Cache};
use tch::Tensor;

/// Features by the fingerprint of their patches, up to a number of bytes; those of little use are forgotten first.
#[derive(Debug)]
pub(crate) struct FeatureCache(Cache<[u8; 32], Tensor, Bytes>);

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<[u8; 32], Tensor> for Bytes {
    fn weight(&self, _: &[u8; 32], features: &Tensor) -> u64 {
        (features.numel() * features.kind().elt_size_in_bytes()) as u64
    }
}

impl FeatureCache {
    /// Keeps at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self(Cache::with_weighter(1024, limit as u64, Bytes))
    }

    /// The kept features, or those that `compute` gives.
    pub(crate) fn get_or(&mut self, fingerprint: [u8; 32], compute: impl FnOnce() -> Tensor) -> Tensor {
        if let Some(features) = self.0.get(&fingerprint) {
            return features.shallow_clone();
        }
        let features = compute();
        self.0.insert(fingerprint, features.shallow_clone());
        features
    }

    /// The same of many: `compute` is given the places of those that are not kept, and gives theirs in this order.
    pub(crate) fn get_all(
        &mut self,
        fingerprints: &[[u8; 32]],
        compute: impl FnOnce(&[usize]) -> Vec<Tensor>,
    ) -> Vec<Tensor> {
        let kept = |fingerprint| self.0.get(fingerprint).map(Tensor::shallow_clone);
        let mut found: Vec<Option<Tensor>> = fingerprints.iter().map(kept).collect();
        let missing: Vec<usize> = (0..found.len()).filter(|place| found[*place].is_none()).collect();
        if !missing.is_empty() {
            for (place, features) in missing.iter().zip(compute(&missing)) {
                self.0.insert(fingerprints[*place], features.shallow_clone());
                found[*place] = Some(features);
            }
        }
        found.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn features(name: u8) -> Tensor {
        Tensor::full([3], i64::from(name), (Kind::Float, Device::Cpu))
    }

    #[test]
    fn what_is_kept_is_not_computed_again_and_takes_no_more_than_the_limit() {
        let mut cache = FeatureCache::new(24); // two of 12 bytes
        let mut computed = 0;
        for name in [1, 2, 1, 2, 1, 3, 1, 4, 5, 6] {
            let found = cache.get_or([name; 32], || {
                computed += 1;
                features(name)
            });
            assert_eq!(found, features(name));
            assert!(cache.0.weight() <= 24);
        }
        assert_eq!(cache.0.weight(), 24);
        assert!((6..10).contains(&computed), "{computed}");
    }

    #[test]
    fn of_many_those_are_computed_that_are_not_kept() {
        let mut cache = FeatureCache::new(1024);
        let _ = cache.get_or([2; 32], || features(2));
        let names = [1, 2, 3].map(|name| [name; 32]);
        let found = cache.get_all(&names, |missing| {
            assert_eq!(missing, [0, 2]);
            missing.iter().map(|place| features(names[*place][0])).collect()
        });
        assert_eq!(found, [features(1), features(2), features(3)]);
        assert_eq!(cache.get_all(&names, |_| panic!("all are kept")).len(), 3);
    }

    #[test]
    fn what_is_larger_than_the_cache_is_not_kept() {
        let mut cache = FeatureCache::new(8);
        for _ in 0..2 {
            let _ = cache.get_or([0; 32], || features(0));
        }
        assert!(cache.0.is_empty());
    }
}
