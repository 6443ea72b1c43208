//! Figures and pages: charts and heat maps as SVG, rendered to PNG with a font of their own, and HTML pages that need no
//! other file.
//!
//! A [`Picture`] is drawn once. Pages hold it as it is, sharp at any size; [`Picture::png`] gives it to papers.

mod bars;
mod colour;
mod curves;
mod heat;
mod page;
mod picture;
mod plot;
mod sheet;
mod table;

pub use bars::{BarChart, Bars};
pub use colour::{Rgb, palette, sequential};
pub use curves::{Curve, CurveChart, Stroke};
pub use heat::{Column, HeatMap, MAX_ROWS, Span};
pub use page::{Page, Section};
pub use picture::{Picture, data_uri, visible};
pub use sheet::{ContactSheet, Thumbnail};
pub use table::Table;
