//! Where an object is in each frame, and which way it goes.

use super::{Direction, Event, GRID_FRAMES, Object, SIDE};

/// Way of a moving shape through its window, pixels.
const WAY: f64 = 24.0;
/// Way of a swaying shape from one side to the other, pixels.
const SWAY: f64 = 16.0;

impl Object {
    /// Centre in a frame, pixels (x, y).
    pub(super) fn centre(&self, frame: usize) -> [f64; 2] {
        let half = f64::from(SIDE) / 4.0;
        let quadrant = self.quadrant_at(frame);
        let corner = [quadrant % 2, quadrant / 2].map(|i| i as f64 * 2.0 * half);
        let shift = self.shift(frame);
        std::array::from_fn(|axis| {
            corner[axis] + half + self.offset[axis] + self.drift[axis] * frame as f64 + shift[axis]
        })
    }

    /// Way moved so far, centred on the quadrant: half of it lies before the start and half beyond.
    fn shift(&self, frame: usize) -> [f64; 2] {
        if let Event::Moves(window, direction) = self.event {
            // The first frame of the window stands where the shape stood before, so every grid inside shows motion.
            let steps = (window.frames - 1) as f64;
            let done = (frame as f64 - window.start as f64).clamp(0.0, steps) / steps;
            return direction.by(WAY * (done - 0.5));
        }
        let Some(direction) = self.sway else { return [0.0; 2] };
        // There within one grid, back within the next; it does not move from a grid's last frame to the next one's first.
        let there = matches!(self.sways(frame) % (2 * GRID_FRAMES), 1 | 2);
        direction.by(if there { SWAY / 2.0 } else { -SWAY / 2.0 })
    }

    /// Quadrant in which it stands in a frame.
    pub(super) fn quadrant_at(&self, frame: usize) -> usize {
        match self.event {
            Event::Swaps(window, other) if frame > window.start => other,
            _ => self.quadrant,
        }
    }

    /// Way in which it moves within the temporal grid of a frame, if it does.
    pub(super) fn heading(&self, frame: usize) -> Option<Direction> {
        match (self.event, self.sway) {
            (Event::Moves(window, direction), _) => window.contains(frame).then_some(direction),
            (Event::Stops(window), _) if window.contains(frame) => None,
            (_, sway) => {
                let there = (self.sways(frame) / GRID_FRAMES).is_multiple_of(2);
                sway.map(|way| if there { way } else { way.opposite() })
            }
        }
    }

    /// Frames before `frame` in which it was free to sway.
    fn sways(&self, frame: usize) -> usize {
        match self.event {
            Event::Stops(window) => frame - frame.saturating_sub(window.start).min(window.frames),
            _ => frame,
        }
    }
}

impl Direction {
    /// So many pixels in this direction (x, y).
    fn by(self, way: f64) -> [f64; 2] {
        match self {
            Self::Left => [-way, 0.0],
            Self::Right => [way, 0.0],
            Self::Up => [0.0, -way],
            Self::Down => [0.0, way],
        }
    }

    fn opposite(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}
