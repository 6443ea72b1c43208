//! What a frozen vision tower made of media that were seen before.

use quick_cache::{Weighter, unsync::Cache};
use tch::Tensor;

/// Fingerprints of patches whose features are computed together. Rows of a product are rounded differently in another
/// company: only what was computed in the same is the same to the bit, whatever was asked for before.
type Company = [[u8; 32]];

/// Features by the fingerprints of their patches, up to a number of bytes; those of little use are forgotten first.
#[derive(Debug)]
pub(crate) struct FeatureCache(Cache<Box<Company>, Tensor, Bytes>);

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Box<Company>, Tensor> for Bytes {
    fn weight(&self, _: &Box<Company>, features: &Tensor) -> u64 {
        (features.numel() * features.kind().elt_size_in_bytes()) as u64
    }
}

impl FeatureCache {
    /// Keeps at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self(Cache::with_weighter(1024, limit as u64, Bytes))
    }

    /// The kept features, or those that `compute` gives.
    pub(crate) fn get_or(&mut self, fingerprints: &Company, compute: impl FnOnce() -> Tensor) -> Tensor {
        if let Some(features) = self.0.get(fingerprints) {
            return features.shallow_clone();
        }
        let features = compute();
        self.0.insert(fingerprints.into(), features.shallow_clone());
        features
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
            let found = cache.get_or(&[[name; 32]], || {
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
    fn the_same_patches_in_another_company_are_others() {
        let mut cache = FeatureCache::new(1024);
        for (name, company) in [(0, vec![1, 2]), (1, vec![1]), (2, vec![2, 1]), (3, vec![1, 2, 3])] {
            let company: Vec<_> = company.into_iter().map(|name| [name; 32]).collect();
            assert_eq!(cache.get_or(&company, || features(name)), features(name));
        }
        assert_eq!(cache.get_or(&[[1; 32], [2; 32]], || features(9)), features(0));
    }

    #[test]
    fn what_is_larger_than_the_cache_is_not_kept() {
        let mut cache = FeatureCache::new(8);
        for _ in 0..2 {
            let _ = cache.get_or(&[[0; 32]], || features(0));
        }
        assert!(cache.0.is_empty());
    }
}
