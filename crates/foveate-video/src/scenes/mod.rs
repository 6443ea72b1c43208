//! Synthetic scenes: coloured shapes in four quadrants, a short event, and a question about it.
//!
//! A scene is 16 frames, that is 8 temporal grids of two frames. Events fill whole grids, and what happens in a grid
//! is visible in that grid alone, since Qwen2.5-VL's vision tower never looks across grids: a shape that appears
//! wears a white ring, one that flashes is white, one that moves stands elsewhere in the grid's second frame, one that
//! stops does not while all others do, and two that swap stand in each other's place in the second frame. The event's
//! span is recorded: it is the truth for "crucial frames".
//!
//! [`LongScene`]s have 64 to 512 frames and two such events of 2 to 4 frames, each readable in any one of them.
//!
//! All randomness comes from a stream per (seed, split, index), so splits never share a scene and a scene does not
//! depend on how many others are made.

mod cells;
#[cfg(feature = "decode")]
mod encode;
mod generate;
mod long;
mod motion;
mod render;
mod words;
mod write;

use serde::{Deserialize, Serialize};

pub use cells::{Cell, State};
pub use long::{FEWEST, LongScene, LongSpec, Question};
pub use words::vocabulary;
pub use write::{SceneRecord, Written, write_lookup};
#[cfg(feature = "decode")]
pub use write::{write, write_long};

/// Frames of a scene.
pub const FRAMES: usize = 16;
/// Frames of one temporal grid.
pub const GRID_FRAMES: usize = 2;
/// Temporal grids of a scene.
pub const GRIDS: usize = FRAMES / GRID_FRAMES;
/// Frames per second of a scene's file.
pub const FPS: usize = 8;
/// Side of a rendered frame, pixels.
pub const SIDE: u32 = 128;

macro_rules! names {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $name {
            /// All of them, in a stable order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in questions, options, targets and files.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

names! {
    /// Colour of a shape.
    Colour {
        /// Red.
        Red = "red",
        /// Green.
        Green = "green",
        /// Blue.
        Blue = "blue",
        /// Yellow.
        Yellow = "yellow",
        /// Cyan.
        Cyan = "cyan",
        /// Magenta.
        Magenta = "magenta",
    }
}

names! {
    /// Outline of a shape.
    Shape {
        /// A disc.
        Circle = "circle",
        /// A square.
        Square = "square",
        /// A triangle standing on its base.
        Triangle = "triangle",
        /// An upright cross.
        Cross = "cross",
    }
}

names! {
    /// Way in which a shape moves.
    Direction {
        /// To smaller x.
        Left = "left",
        /// To larger x.
        Right = "right",
        /// To smaller y.
        Up = "up",
        /// To larger y.
        Down = "down",
    }
}

names! {
    /// What is asked.
    Kind {
        /// What colour is the shape that appears.
        Popup = "popup",
        /// Which shape turns white for a moment.
        Flash = "flash",
        /// Which way does the red shape move.
        Dir = "dir",
        /// What colour appears first.
        Order = "order",
        /// Which colours appear: always two or three right answers.
        Multi = "multi",
        /// What colour is the shape that stops, among shapes that all move to and fro.
        Stop = "stop",
        /// Which two colours change places: always two right answers.
        Swap = "swap",
    }
}

names! {
    /// Which set a scene belongs to; sets never share a scene.
    Split {
        /// Questions for reinforcement learning.
        Train = "train",
        /// Held-out questions.
        Test = "test",
        /// Questions with targets for the cold start.
        Sft = "sft",
    }
}

/// How often each kind is asked, relative to the others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KindWeights {
    /// Weight of [`Kind::Popup`].
    pub popup: f64,
    /// Weight of [`Kind::Flash`].
    pub flash: f64,
    /// Weight of [`Kind::Dir`].
    pub dir: f64,
    /// Weight of [`Kind::Order`].
    pub order: f64,
    /// Weight of [`Kind::Multi`].
    pub multi: f64,
    /// Weight of [`Kind::Stop`].
    pub stop: f64,
    /// Weight of [`Kind::Swap`].
    pub swap: f64,
}

impl KindWeights {
    /// Weights of the cold start: kinds that are slow to learn come more often.
    pub const COLD_START: Self =
        Self { popup: 0.24, flash: 0.34, dir: 1.45, order: 0.24, multi: 0.48, stop: 0.9, swap: 2.8 };

    /// The weight of one kind.
    pub fn of(&self, kind: Kind) -> f64 {
        match kind {
            Kind::Popup => self.popup,
            Kind::Flash => self.flash,
            Kind::Dir => self.dir,
            Kind::Order => self.order,
            Kind::Multi => self.multi,
            Kind::Stop => self.stop,
            Kind::Swap => self.swap,
        }
    }
}

impl Default for KindWeights {
    /// All kinds alike.
    fn default() -> Self {
        Self { popup: 1.0, flash: 1.0, dir: 1.0, order: 1.0, multi: 1.0, stop: 1.0, swap: 1.0 }
    }
}

/// A set of scenes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SceneSpec {
    /// Seed of the whole data set; splits differ on their own.
    pub seed: u64,
    /// Number of scenes.
    pub count: usize,
    /// Which set.
    pub split: Split,
    /// How often each kind comes.
    pub kinds: KindWeights,
}

/// Frames `start..start + frames` of an event; both are multiples of [`GRID_FRAMES`] but in a [`LongScene`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First frame.
    pub start: usize,
    /// Number of frames, 2 to 4.
    pub frames: usize,
}

impl Window {
    /// Whether a frame lies inside.
    pub fn contains(&self, frame: usize) -> bool {
        (self.start..self.start + self.frames).contains(&frame)
    }

    /// Temporal grids that the window fills.
    pub fn grids(&self) -> std::ops::Range<usize> {
        self.start / GRID_FRAMES..(self.start + self.frames) / GRID_FRAMES
    }

    /// Start and end, seconds.
    pub fn span(&self) -> [f64; 2] {
        [self.start as f64 / FPS as f64, (self.start + self.frames) as f64 / FPS as f64]
    }
}

/// What an object does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing; it is there all the time.
    None,
    /// Is there, with a ring, during the window only.
    Appears(Window),
    /// Is white during the window.
    Flashes(Window),
    /// Moves across its quadrant during the window.
    Moves(Window, Direction),
    /// Stands still during the window, and moves to and fro before and after.
    Stops(Window),
    /// Stands in this other quadrant from the window's second frame on.
    Swaps(Window, usize),
}

/// One coloured shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// Quadrant in the first frame: 0 top left, 1 top right, 2 bottom left, 3 bottom right.
    pub quadrant: usize,
    /// Its colour.
    pub colour: Colour,
    /// Its outline.
    pub shape: Shape,
    /// Centre in the first frame relative to the quadrant's, pixels (x, y).
    pub offset: [f64; 2],
    /// Slow drift, pixels per frame (x, y).
    pub drift: [f64; 2],
    /// Way in which it sets out, if it moves to and fro all the time: there in one temporal grid, back in the next.
    pub sway: Option<Direction>,
    /// What it does.
    pub event: Event,
}

/// One scene with its question.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// "train-00017".
    pub id: String,
    /// What is asked.
    pub kind: Kind,
    /// At most one per quadrant.
    pub objects: Vec<Object>,
    /// The question, words separated by single spaces.
    pub question: String,
    /// Four options, each a single word such as "A.red".
    pub options: Vec<String>,
    /// The right letters in order, such as "B" or "A,C".
    pub answer: String,
    /// Completion that the cold start is taught.
    pub target: String,
    /// When the event happens, seconds, in order of time.
    pub spans: Vec<[f64; 2]>,
    /// Temporal grids of the event, ascending.
    pub grids: Vec<usize>,
    /// Seed of the background noise.
    noise: u64,
}
