//! Questions, options and targets, all from a vocabulary of about a hundred words.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Colour, Direction, Event, GRIDS, Kind, Object, Shape};

/// What a flashing shape looks like while it flashes.
const WHITE: &str = "white";

pub(super) const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// The texts of one scene.
pub(super) struct Wording {
    pub(super) question: String,
    pub(super) options: Vec<String>,
    pub(super) answer: String,
    pub(super) target: String,
}

pub(super) fn wording(kind: Kind, objects: &[Object], rng: &mut ChaCha8Rng) -> Wording {
    let mut choices: Vec<&str> = match kind {
        Kind::Flash => objects.iter().map(|o| o.shape.word()).collect(),
        Kind::Dir => Direction::ALL.iter().map(|d| d.word()).collect(),
        Kind::Popup | Kind::Order | Kind::Multi | Kind::Stop | Kind::Swap => {
            objects.iter().map(|o| o.colour.word()).collect()
        }
    };
    choices.shuffle(rng);
    let mut actors: Vec<&Object> = objects.iter().filter(|o| o.event != Event::None).collect();
    // Two that swap do so at once: without an order of their own the target could not be predicted.
    actors.sort_by_key(|o| (o.event.window().map(|w| w.start), o.quadrant));
    let right: Vec<&str> = match kind {
        Kind::Order => actors.iter().take(1).map(|o| answer_word(kind, o)).collect(),
        _ => actors.iter().map(|o| answer_word(kind, o)).collect(),
    };
    let letters: Vec<&str> =
        choices.iter().zip(LETTERS).filter(|(choice, _)| right.contains(choice)).map(|(_, letter)| letter).collect();
    Wording {
        question: question(kind).to_owned(),
        options: options(&choices),
        answer: letters.join(","),
        target: format!(
            "<think> i see {} so {} </think> <answer> {} </answer>",
            actors.iter().map(|o| sight(o)).collect::<Vec<_>>().join(" and "),
            right.iter().map(|word| lettered(word, &choices)).collect::<Vec<_>>().join(" "),
            letters.join(" , "),
        ),
    }
}

/// "A.red", "B.blue", ...
pub(super) fn options(choices: &[&str]) -> Vec<String> {
    choices.iter().zip(LETTERS).map(|(choice, letter)| format!("{letter}.{choice}")).collect()
}

/// "cyan B": a word and the letter it has among the choices.
pub(super) fn lettered(word: &str, choices: &[&str]) -> String {
    let letter = choices.iter().zip(LETTERS).find(|(choice, _)| **choice == word).map_or("", |(_, letter)| letter);
    format!("{word} {letter}")
}

/// Words that may stand together as choices.
pub(super) fn choice_families() -> [Vec<&'static str>; 3] {
    [
        Colour::ALL.iter().map(|c| c.word()).collect(),
        Shape::ALL.iter().map(|s| s.word()).collect(),
        Direction::ALL.iter().map(|d| d.word()).collect(),
    ]
}

pub(super) fn question(kind: Kind) -> &'static str {
    match kind {
        Kind::Popup => "what colour is the shape that appears ?",
        Kind::Flash => "which shape flashes ?",
        Kind::Dir => "which way does the red shape move ?",
        Kind::Order => "what colour appears first ?",
        Kind::Multi => "which colours appear ?",
        Kind::Stop => "what colour is the shape that stops ?",
        Kind::Swap => "which two colours change places ?",
    }
}

fn answer_word(kind: Kind, object: &Object) -> &'static str {
    match (kind, object.event) {
        (Kind::Flash, _) => object.shape.word(),
        (_, Event::Moves(_, direction)) => direction.word(),
        _ => object.colour.word(),
    }
}

/// "cyan cross appear at t3": t counts temporal grids.
fn sight(object: &Object) -> String {
    let (colour, shape) = (object.colour.word(), object.shape.word());
    let at = object.event.window().map_or(0, |w| w.grids().start);
    match object.event {
        Event::None => format!("{colour} {shape}"),
        Event::Appears(_) => format!("{colour} {shape} appear at t{at}"),
        Event::Flashes(_) => format!("{WHITE} {shape} flash at t{at}"),
        Event::Moves(_, direction) => format!("{colour} {shape} move {} at t{at}", direction.word()),
        Event::Stops(_) => format!("{colour} {shape} stop at t{at}"),
        Event::Swaps(..) => format!("{colour} {shape} swap at t{at}"),
    }
}

/// Every word that questions, options and targets can hold, in a stable order, without repeats.
pub fn vocabulary() -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut add = |word: &str| {
        if !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    };
    let targets = ["<think>", "</think>", "<answer>", "</answer>", ",", "i", "see", "and", "so", "at"];
    let deeds = ["flash", "move", "stop", "swap"];
    targets.iter().chain(&deeds).for_each(|word| add(word));
    Kind::ALL.iter().flat_map(|&kind| question(kind).split(' ')).for_each(&mut add);
    LETTERS.iter().for_each(|letter| add(letter));
    (0..GRIDS).for_each(|grid| add(&format!("t{grid}")));
    for family in choice_families() {
        family.iter().for_each(|word| add(word));
        for letter in LETTERS {
            family.iter().for_each(|word| add(&format!("{letter}.{word}")));
        }
    }
    words.push(WHITE.to_owned());
    words
}
