//! What a frozen vision tower made of media that were seen before.

use lru::LruCache;
use tch::Tensor;

/// Features by the fingerprint of their patches, up to a number of bytes; those unused for longest are forgotten first.
#[derive(Debug)]
pub(crate) struct FeatureCache {
    kept: LruCache<[u8; 32], Tensor>,
    bytes: usize,
    limit: usize,
}

impl FeatureCache {
    /// Keeps at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { kept: LruCache::unbounded(), bytes: 0, limit }
    }

    /// The kept features, or those that `compute` gives.
    pub(crate) fn get_or(&mut self, fingerprint: [u8; 32], compute: impl FnOnce() -> Tensor) -> Tensor {
        if let Some(features) = self.kept.get(&fingerprint) {
            return features.shallow_clone();
        }
        let features = compute();
        if size(&features) <= self.limit {
            self.bytes += size(&features);
            self.kept.put(fingerprint, features.shallow_clone());
        }
        while self.bytes > self.limit
            && let Some((_, oldest)) = self.kept.pop_lru()
        {
            self.bytes -= size(&oldest);
        }
        features
    }
}

fn size(features: &Tensor) -> usize {
    features.numel() * features.kind().elt_size_in_bytes()
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn what_was_unused_for_longest_is_forgotten_first() {
        let mut cache = FeatureCache::new(24); // two of 12 bytes
        let mut computed = Vec::new();
        let mut ask = |name: u8| {
            let features = cache.get_or([name; 32], || {
                computed.push(name);
                Tensor::full([3], i64::from(name), (Kind::Float, Device::Cpu))
            });
            assert_eq!(features.double_value(&[0]), f64::from(name));
            cache.bytes
        };
        let held = [1, 2, 1, 3, 1, 2].map(&mut ask);
        assert_eq!(held, [12, 24, 24, 24, 24, 24]);
        assert_eq!(computed, [1, 2, 3, 2]);
    }

    #[test]
    fn what_is_larger_than_the_cache_is_not_kept() {
        let mut cache = FeatureCache::new(8);
        for _ in 0..2 {
            let _ = cache.get_or([0; 32], || Tensor::zeros([3], (Kind::Float, Device::Cpu)));
        }
        assert_eq!((cache.bytes, cache.kept.len()), (0, 0));
    }
}
