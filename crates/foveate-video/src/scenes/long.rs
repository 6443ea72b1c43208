//! Long scenes: two short events in many frames, and a question about each.
//!
//! One shape turns white for a few frames and another appears for a few, at different times. Either question can be
//! answered from one frame of its event, and from no other frame: among the three options none is the answer for being
//! seen, or for not being seen, elsewhere. So a guess is right one time in three.

use image::RgbImage;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::generate::{JITTER, id, stream};
use super::render::render;
use super::words::{self, LETTERS, options};
use super::{Colour, Event, Kind, Object, SceneRecord, Shape, Split, Window};

/// Objects that are there all the time.
const STANDING: usize = 3;
/// Fewest and most frames of an event.
const EVENT: [usize; 2] = [2, 4];
/// Fewest frames of a long scene: both events and what lies between them.
pub const FEWEST: usize = 2 * EVENT[1];

/// A set of long scenes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LongSpec {
    /// Seed of the whole data set; splits differ on their own.
    pub seed: u64,
    /// Number of scenes; each has two questions.
    pub count: usize,
    /// Which set.
    pub split: Split,
    /// Fewest and most frames of a scene, at least [`FEWEST`].
    pub frames: [usize; 2],
    /// Where the event begins that is asked about, as a share of the room there is for it from 0 to 1: then there is but
    /// this event and one question. At random if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<f64>,
}

/// A long scene with its questions.
#[derive(Debug, Clone, PartialEq)]
pub struct LongScene {
    /// "train-00017".
    pub id: String,
    /// Three that stand and one that appears.
    pub objects: Vec<Object>,
    /// Number of frames.
    pub frames: usize,
    /// What is asked, one of each kind.
    pub questions: Vec<Question>,
    /// Seed of the background noise.
    pub(super) noise: u64,
}

/// A question about one event of a long scene.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// [`Kind::Flash`] or [`Kind::Popup`].
    pub kind: Kind,
    /// Three options, each a single word such as "A.red".
    pub options: Vec<String>,
    /// The right letter.
    pub answer: String,
    /// When the event happens.
    pub window: Window,
}

impl LongSpec {
    /// The scene at `index` of the set; the same whatever the set's count.
    pub fn scene(&self, index: usize) -> LongScene {
        let mut rng = stream(self.seed, &format!("long {}", self.split.word()), index);
        let [fewest, most] = self.frames.map(|frames| frames.max(FEWEST));
        let frames = rng.random_range(fewest..=most.max(fewest));
        let mut colours = Colour::ALL.to_vec();
        colours.shuffle(&mut rng);
        let mut shapes = Shape::ALL.to_vec();
        shapes.shuffle(&mut rng);
        let mut quadrants = [0, 1, 2, 3];
        quadrants.shuffle(&mut rng);
        let mut kinds = [Kind::Flash, Kind::Popup];
        kinds.shuffle(&mut rng);
        let windows = self.windows(frames, &mut rng);
        let window = |kind| if kinds[0] == kind { windows[0] } else { windows[1] };
        let events =
            [Event::Flashes(window(Kind::Flash)), Event::None, Event::None, Event::Appears(window(Kind::Popup))];
        let objects = events.into_iter().enumerate().map(|(i, event)| Object {
            quadrant: quadrants[i],
            colour: colours[i],
            shape: shapes[i],
            offset: [0, 1].map(|_| rng.random_range(-JITTER..=JITTER)),
            drift: [0.0; 2],
            sway: None,
            event,
        });
        let objects: Vec<Object> = objects.collect();
        let asked = if self.depth.is_some() { 1 } else { 2 };
        let questions = kinds[..asked].iter().map(|&kind| {
            let (choices, right) = match kind {
                // Colours that no standing shape has, shapes that stand.
                Kind::Popup => {
                    (colours[STANDING..].iter().map(|c| c.word()).collect(), objects[STANDING].colour.word())
                }
                _ => (objects[..STANDING].iter().map(|o| o.shape.word()).collect(), objects[0].shape.word()),
            };
            question(kind, choices, right, window(kind), &mut rng)
        });
        let questions = questions.collect();
        LongScene { id: id(self.split, index), objects, frames, questions, noise: rng.random() }
    }

    /// When two events happen, at different times: first that of the first question.
    fn windows(&self, frames: usize, rng: &mut ChaCha8Rng) -> [Window; 2] {
        let mut window = |depth: Option<f64>| {
            let length = rng.random_range(EVENT[0]..=EVENT[1]);
            let start = match depth {
                Some(depth) => (depth.clamp(0.0, 1.0) * (frames - length) as f64).round() as usize,
                None => rng.random_range(0..=frames - length),
            };
            Window { start, frames: length }
        };
        let first = window(self.depth);
        let apart =
            |other: &Window| other.start + other.frames <= first.start || first.start + first.frames <= other.start;
        loop {
            // There is room for it: a video has at least `FEWEST` frames.
            let other = window(None);
            if apart(&other) {
                return [first, other];
            }
        }
    }
}

fn question(kind: Kind, mut choices: Vec<&str>, right: &str, window: Window, rng: &mut ChaCha8Rng) -> Question {
    choices.shuffle(rng);
    let letter = choices.iter().zip(LETTERS).find(|(choice, _)| **choice == right).map_or("", |(_, letter)| letter);
    Question { kind, options: options(&choices), answer: letter.to_owned(), window }
}

impl LongScene {
    /// Its frames, of [`SIDE`](super::SIDE) x [`SIDE`](super::SIDE) pixels.
    pub fn images(&self) -> Vec<RgbImage> {
        render(&self.objects, self.frames, self.noise)
    }

    /// Its questions as records; video, source and split are to be filled in.
    pub fn records(&self) -> Vec<SceneRecord> {
        let record = |question: &Question| SceneRecord {
            id: format!("{}-{}", self.id, question.kind.word()),
            question: words::question(question.kind).to_owned(),
            options: question.options.clone(),
            answer: question.answer.clone(),
            target: question.answer.clone(),
            kind: question.kind.word().to_owned(),
            spans: vec![question.window.span()],
            ..SceneRecord::default()
        };
        self.questions.iter().map(record).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(depth: Option<f64>) -> LongSpec {
        LongSpec { seed: 3, count: 200, split: Split::Train, frames: [16, 64], depth }
    }

    #[test]
    fn events_are_short_and_apart_and_their_answers_among_the_options() {
        let mut right = [0; 3];
        for index in 0..200 {
            let scene = spec(None).scene(index);
            let [a, b] = [scene.questions[0].window, scene.questions[1].window];
            assert!([a, b].iter().all(|w| (2..=4).contains(&w.frames) && w.start + w.frames <= scene.frames));
            assert!(a.start + a.frames <= b.start || b.start + b.frames <= a.start);
            for question in &scene.questions {
                assert_eq!(question.options.len(), 3);
                right[LETTERS.iter().position(|letter| *letter == question.answer).unwrap()] += 1;
            }
        }
        assert!(right.iter().all(|count| (100..170).contains(count)), "{right:?}");
    }

    /// What a question's answer looks like in a frame: that no frame but the event's gives it away.
    #[test]
    fn no_frame_but_the_events_shows_the_answer() {
        for index in 0..50 {
            let scene = spec(None).scene(index);
            let [flashes, appears] = [&scene.objects[0], &scene.objects[STANDING]];
            let standing: Vec<_> = scene.objects[..STANDING].iter().map(|o| o.colour.word()).collect();
            for question in &scene.questions {
                let words: Vec<_> = question.options.iter().map(|option| &option[2..]).collect();
                match question.kind {
                    Kind::Popup => {
                        assert!(words.iter().all(|word| !standing.contains(word)));
                        assert!(words.contains(&appears.colour.word()));
                    }
                    _ => assert!(words.contains(&flashes.shape.word()) && !words.contains(&appears.shape.word())),
                }
            }
        }
    }

    #[test]
    fn a_depth_puts_the_event_there_and_asks_for_it_alone() {
        for (depth, index) in [(0.0, 1), (0.5, 2), (1.0, 3)] {
            let scene = spec(Some(depth)).scene(index);
            let [question] = scene.questions.as_slice() else { panic!("{:?}", scene.questions) };
            let room = (scene.frames - question.window.frames) as f64;
            assert_eq!(question.window.start, (depth * room).round() as usize);
        }
    }

    #[test]
    fn a_scene_has_as_many_frames_as_it_says_and_they_differ_where_something_happens() {
        let scene = spec(None).scene(0);
        let frames = scene.images();
        assert_eq!(frames.len(), scene.frames);
        let white = |image: &RgbImage| image.pixels().filter(|pixel| pixel.0 == [255; 3]).count();
        for (index, image) in frames.iter().enumerate() {
            let inside = scene.questions.iter().any(|question| question.window.contains(index));
            assert_eq!(white(image) > 50, inside, "frame {index}");
        }
    }
}
