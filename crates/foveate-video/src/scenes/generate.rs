//! Drawing scenes at random.

use rand::Rng;
use rand::SeedableRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::words::{Wording, wording};
use super::{Colour, Direction, Event, GRID_FRAMES, GRIDS, Kind, Object, Scene, SceneSpec, Shape, Split, Window};

/// Furthest that an object's centre starts from its quadrant's, pixels.
pub(super) const JITTER: f64 = 3.0;
/// Fastest drift, pixels per frame.
const DRIFT: f64 = 0.2;
/// Longest event, temporal grids; a swap takes one.
const LONGEST: usize = 2;

/// Stream of one scene, or of one text-only record.
pub(super) fn stream(seed: u64, set: &str, index: usize) -> ChaCha8Rng {
    let name = format!("foveate scenes {seed} {set} {index}");
    ChaCha8Rng::from_seed(*blake3::hash(name.as_bytes()).as_bytes())
}

impl SceneSpec {
    /// The scene at `index` of the set; the same whatever the set's count.
    pub fn scene(&self, index: usize) -> Scene {
        let mut rng = stream(self.seed, self.split.word(), index);
        let kind = self.draw_kind(&mut rng);
        let objects = draw_objects(kind, &mut rng);
        let Wording { question, options, answer, target } = wording(kind, &objects, &mut rng);
        let windows = windows_of(&objects);
        Scene {
            id: id(self.split, index),
            kind,
            question,
            options,
            answer,
            target,
            spans: windows.iter().map(Window::span).collect(),
            grids: windows.iter().flat_map(Window::grids).collect(),
            objects,
            noise: rng.random(),
        }
    }

    fn draw_kind(&self, rng: &mut ChaCha8Rng) -> Kind {
        let weighted = Kind::ALL.choose_weighted(rng, |&kind| self.kinds.of(kind));
        // Weights that cannot be drawn from (all zero, negative) fall back to all kinds alike.
        weighted.copied().unwrap_or_else(|_| Kind::ALL[rng.random_range(0..Kind::ALL.len())])
    }
}

pub(super) fn id(split: Split, index: usize) -> String {
    format!("{}-{index:05}", split.word())
}

/// Windows of the objects' events in order of time; two objects that swap share one.
pub(super) fn windows_of(objects: &[Object]) -> Vec<Window> {
    let mut windows: Vec<Window> = objects.iter().filter_map(|o| o.event.window()).collect();
    windows.sort_by_key(|w| w.start);
    windows.dedup();
    windows
}

impl Event {
    /// When it happens, if anything does.
    pub fn window(&self) -> Option<Window> {
        match *self {
            Self::None => None,
            Self::Appears(window)
            | Self::Flashes(window)
            | Self::Moves(window, _)
            | Self::Stops(window)
            | Self::Swaps(window, _) => Some(window),
        }
    }
}

fn draw_objects(kind: Kind, rng: &mut ChaCha8Rng) -> Vec<Object> {
    let mut colours = Colour::ALL.to_vec();
    colours.shuffle(rng);
    if kind == Kind::Dir {
        // The question names the red shape, so it comes first.
        let red = colours.iter().position(|&c| c == Colour::Red).unwrap_or_default();
        colours.swap(0, red);
    }
    let shapes = draw_shapes(kind, rng);
    let mut quadrants = [0, 1, 2, 3];
    quadrants.shuffle(rng);
    let events = draw_events(kind, quadrants, rng);
    let around =
        |limit: f64, rng: &mut ChaCha8Rng| [rng.random_range(-limit..=limit), rng.random_range(-limit..=limit)];
    (0..4)
        .map(|i| Object {
            quadrant: quadrants[i],
            colour: colours[i],
            shape: shapes[i],
            offset: around(JITTER, rng),
            drift: around(DRIFT, rng),
            sway: (kind == Kind::Stop).then(|| draw_direction(rng)),
            event: events[i],
        })
        .collect()
}

fn draw_shapes(kind: Kind, rng: &mut ChaCha8Rng) -> Vec<Shape> {
    let mut shapes = Shape::ALL.to_vec();
    if kind == Kind::Flash {
        // The answer is a shape: all four differ.
        shapes.shuffle(rng);
        return shapes;
    }
    (0..4).map(|_| Shape::ALL[rng.random_range(0..Shape::ALL.len())]).collect()
}

fn draw_direction(rng: &mut ChaCha8Rng) -> Direction {
    Direction::ALL[rng.random_range(0..Direction::ALL.len())]
}

/// Events of the objects in these quadrants: the first ones have them.
fn draw_events(kind: Kind, quadrants: [usize; 4], rng: &mut ChaCha8Rng) -> [Event; 4] {
    let count = match kind {
        Kind::Popup | Kind::Flash | Kind::Dir | Kind::Stop | Kind::Swap => 1,
        Kind::Order => 2,
        Kind::Multi => rng.random_range(2..=3),
    };
    let mut windows = draw_windows(kind, count, rng);
    windows.shuffle(rng);
    let mut events = [Event::None; 4];
    for (event, &window) in events.iter_mut().zip(&windows) {
        *event = match kind {
            Kind::Popup | Kind::Order | Kind::Multi => Event::Appears(window),
            Kind::Flash => Event::Flashes(window),
            Kind::Dir => Event::Moves(window, draw_direction(rng)),
            Kind::Stop => Event::Stops(window),
            Kind::Swap => Event::Swaps(window, quadrants[1]),
        };
    }
    if let Event::Swaps(window, _) = events[0] {
        events[1] = Event::Swaps(window, quadrants[0]);
    }
    events
}

/// `count` windows that share no grid, in order of time; none begins in the first grid, where nothing can yet change.
fn draw_windows(kind: Kind, count: usize, rng: &mut ChaCha8Rng) -> Vec<Window> {
    let longest = if kind == Kind::Swap { 1 } else { LONGEST };
    // A shape that stops goes on before the end.
    let last = if kind == Kind::Stop { GRIDS - 1 } else { GRIDS };
    let lengths: Vec<usize> = (0..count).map(|_| rng.random_range(1..=longest)).collect();
    let free = last - 1 - lengths.iter().sum::<usize>();
    let mut cuts: Vec<usize> = (0..count).map(|_| rng.random_range(0..=free)).collect();
    cuts.sort_unstable();
    let mut used = 1;
    let mut windows = Vec::with_capacity(count);
    for (length, cut) in lengths.into_iter().zip(cuts) {
        windows.push(Window { start: (used + cut) * GRID_FRAMES, frames: length * GRID_FRAMES });
        used += length;
    }
    windows
}
