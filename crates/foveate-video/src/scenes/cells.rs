//! What each quadrant shows in each temporal grid.

use serde::{Deserialize, Serialize};

use super::{Colour, Direction, Event, GRID_FRAMES, GRIDS, Object, Scene, Shape};

/// State of a quadrant in one temporal grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing there.
    Empty,
    /// A shape that merely drifts, or has stopped.
    Still,
    /// A shape with a ring around it.
    Ring,
    /// A white shape.
    Flash,
    /// Moves to the left.
    Left,
    /// Moves to the right.
    Right,
    /// Moves up.
    Up,
    /// Moves down.
    Down,
    /// Gives its place to another shape, whose place it takes.
    Swap,
}

impl From<Direction> for State {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Left => Self::Left,
            Direction::Right => Self::Right,
            Direction::Up => Self::Up,
            Direction::Down => Self::Down,
        }
    }
}

/// What one quadrant shows in one temporal grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Visible colour; none where nothing is, or where the shape is white.
    pub colour: Option<Colour>,
    /// Visible shape, if any.
    pub shape: Option<Shape>,
    /// What it does.
    pub state: State,
    /// Whether this is part of the event. For a shape that stops, the other quadrants tell.
    pub event: bool,
}

impl Cell {
    const EMPTY: Self = Self { colour: None, shape: None, state: State::Empty, event: false };
}

impl Scene {
    /// What each quadrant shows in each temporal grid, `[GRIDS][4]`.
    pub fn cells(&self) -> Vec<[Cell; 4]> {
        (0..GRIDS).map(|grid| self.cells_of(grid)).collect()
    }

    fn cells_of(&self, grid: usize) -> [Cell; 4] {
        let mut cells = [Cell::EMPTY; 4];
        for object in &self.objects {
            let frame = grid * GRID_FRAMES;
            cells[object.quadrant_at(frame)] = object.cell(frame);
        }
        cells
    }
}

impl Object {
    fn cell(&self, frame: usize) -> Cell {
        let event = self.event.window().is_some_and(|window| window.contains(frame));
        let seen = |state| Cell { colour: Some(self.colour), shape: Some(self.shape), state, event };
        match self.event {
            Event::Appears(_) if event => seen(State::Ring),
            Event::Appears(_) => Cell::EMPTY,
            Event::Flashes(_) if event => Cell { colour: None, ..seen(State::Flash) },
            Event::Swaps(..) if event => seen(State::Swap),
            _ => seen(self.heading(frame).map_or(State::Still, State::from)),
        }
    }
}
