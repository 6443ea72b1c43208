//! Painting a scene's frames.

use image::{Rgb, RgbImage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Colour, Event, FRAMES, Object, SIDE, Scene, Shape};

const RADIUS: f64 = 17.0;
/// Inner and outer radius of the ring around a shape that appears.
const RING: [f64; 2] = [24.0, 27.5];
const WHITE: Rgb<u8> = Rgb([255, 255, 255]);
/// Side of a square of background noise.
const NOISE_SIDE: u32 = 8;
/// One in so many squares changes from frame to frame: the ground flickers, yet files stay small.
const NOISE_RENEWAL: u32 = 8;

impl Colour {
    /// The colour as painted.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [230, 40, 40],
            Self::Green => [40, 200, 60],
            Self::Blue => [50, 80, 240],
            Self::Yellow => [235, 220, 40],
            Self::Cyan => [40, 215, 225],
            Self::Magenta => [225, 50, 215],
        }
    }
}

impl Scene {
    /// The scene's [`FRAMES`] frames of [`SIDE`] x [`SIDE`] pixels.
    pub fn frames(&self) -> Vec<RgbImage> {
        render(&self.objects, FRAMES, self.noise)
    }
}

/// So many frames of objects on flickering ground.
pub(super) fn render(objects: &[Object], frames: usize, noise: u64) -> Vec<RgbImage> {
    let mut rng = ChaCha8Rng::seed_from_u64(noise);
    let mut ground = RgbImage::new(SIDE, SIDE);
    (0..frames)
        .map(|frame| {
            renew(&mut ground, if frame == 0 { 1 } else { NOISE_RENEWAL }, &mut rng);
            let mut image = ground.clone();
            objects.iter().for_each(|object| paint(&mut image, object, frame));
            image
        })
        .collect()
}

/// Draws one in `every` squares of dark noise anew.
fn renew(ground: &mut RgbImage, every: u32, rng: &mut ChaCha8Rng) {
    for y in (0..SIDE).step_by(NOISE_SIDE as usize) {
        for x in (0..SIDE).step_by(NOISE_SIDE as usize) {
            if !rng.random_ratio(1, every) {
                continue;
            }
            let level = rng.random_range(8..40u8);
            for inner in 0..NOISE_SIDE * NOISE_SIDE {
                ground.put_pixel(x + inner % NOISE_SIDE, y + inner / NOISE_SIDE, Rgb([level, level, level + 6]));
            }
        }
    }
}

fn paint(image: &mut RgbImage, object: &Object, frame: usize) {
    let inside = object.event.window().is_some_and(|w| w.contains(frame));
    let (colour, ring) = match object.event {
        Event::Appears(_) if !inside => return,
        Event::Appears(_) => (Rgb(object.colour.rgb()), true),
        Event::Flashes(_) if inside => (WHITE, false),
        _ => (Rgb(object.colour.rgb()), false),
    };
    let [x, y] = object.centre(frame);
    let reach = RING[1] + 1.0;
    let range = |c: f64| (c - reach).max(0.0) as u32..((c + reach).max(0.0) as u32 + 1).min(SIDE);
    for py in range(y) {
        for px in range(x) {
            let (dx, dy) = (f64::from(px) + 0.5 - x, f64::from(py) + 0.5 - y);
            let distance = dx.hypot(dy);
            if object.shape.covers(dx, dy) {
                image.put_pixel(px, py, colour);
            } else if ring && (RING[0]..=RING[1]).contains(&distance) {
                image.put_pixel(px, py, WHITE);
            }
        }
    }
}

impl Shape {
    fn covers(self, dx: f64, dy: f64) -> bool {
        match self {
            Self::Circle => dx.hypot(dy) <= RADIUS,
            Self::Square => dx.abs().max(dy.abs()) <= 0.85 * RADIUS,
            Self::Triangle => {
                let down = (dy + RADIUS) / (1.8 * RADIUS); // 0 at the tip, 1 at the base
                (0.0..=1.0).contains(&down) && dx.abs() <= down * RADIUS
            }
            Self::Cross => {
                let (near, far) = (dx.abs().min(dy.abs()), dx.abs().max(dy.abs()));
                near <= 0.35 * RADIUS && far <= RADIUS
            }
        }
    }
}
