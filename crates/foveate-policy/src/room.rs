//! Memory that is made once and written again and again, so that a drawn token asks for none.

use tch::{Device, Kind, Scalar, Tensor};

use crate::head::chunks;

/// Room for a tensor that is written anew at every use. What was there before is still there until then.
#[derive(Debug)]
pub(crate) struct Room(Tensor);

impl Room {
    /// Room for nothing yet.
    pub(crate) fn new(kind: Kind, device: Device) -> Self {
        Self(Tensor::zeros([0], (kind, device)))
    }

    /// Room for at least so many numbers; what was in it is lost if it is too small.
    pub(crate) fn reserve(&mut self, count: i64) {
        if (self.0.numel() as i64) < count {
            let options = (self.0.kind(), self.0.device());
            self.0 = Tensor::new(); // gone before the larger one comes
            self.0 = Tensor::zeros([count], options);
        }
    }

    /// A tensor of this shape at its beginning.
    pub(crate) fn shaped(&mut self, shape: &[i64]) -> Tensor {
        let count = shape.iter().product();
        self.reserve(count);
        self.0.narrow(0, 0, count).view(shape)
    }

    /// The same numbers one after the other in this room's number type: `x` itself if it is so, else a copy here.
    pub(crate) fn holding(&mut self, x: &Tensor) -> Tensor {
        if x.kind() == self.0.kind() && x.is_contiguous() {
            return x.shallow_clone();
        }
        let mut copy = self.shaped(&x.size());
        if x.is_contiguous() || x.dim() != 2 {
            copy.copy_(x);
            return copy;
        }
        // A matrix that is transposed: in parts that stay in the processor's memory, and as three dimensions, because libtorch
        // would go by way of a tensor of its own.
        for (start, columns) in chunks(x.size()[1], 2048) {
            let part = |x: &Tensor| x.narrow(1, start, columns).unsqueeze(0);
            part(&copy).copy_(&part(x));
        }
        copy
    }
}

/// A number as a tensor of no dimension: libtorch would make one at every use of a plain number.
pub(crate) fn number(number: impl Into<Scalar>, kind: Kind, device: Device) -> Tensor {
    Tensor::full([0_i64; 0], number, (kind, device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_grows_only_for_what_is_larger() {
        let mut room = Room::new(Kind::Float, Device::Cpu);
        let place = |x: &Tensor| x.data_ptr();
        let first = place(&room.shaped(&[3, 4]).fill_(7.0));
        for shape in [[4, 3], [2, 2], [12, 1]] {
            let shaped = room.shaped(&shape);
            assert_eq!((place(&shaped), shaped.size().as_slice()), (first, shape.as_slice()));
            assert_eq!(shaped.min().double_value(&[]), 7.0, "what was there is still there");
        }
        assert_eq!(room.shaped(&[5, 5]).size(), [5, 5]);
    }

    #[test]
    fn numbers_are_copied_only_if_their_type_or_order_is_another() {
        let mut room = Room::new(Kind::Float, Device::Cpu);
        let x = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        assert_eq!(room.holding(&x).data_ptr(), x.data_ptr());
        let long = Tensor::arange(10_000, (Kind::Float, Device::Cpu)).view([5000, 2]);
        for other in [x.tr(), x.to_kind(Kind::Double), x.narrow(1, 0, 2), long.tr()] {
            let held = room.holding(&other);
            assert!(held.is_contiguous() && held.data_ptr() != other.data_ptr());
            assert_eq!(held, other.to_kind(Kind::Float));
        }
    }
}
