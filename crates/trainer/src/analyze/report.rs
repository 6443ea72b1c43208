//! Writing what was found.

use std::path::Path;

use anyhow::Result;
use maud::{Markup, html};

use super::Analysis;
use crate::error::UserContext;
use crate::figures::{Page, Section};
use crate::recorded::RecordedRun;
use crate::run::write_atomically;

/// Writes every table as CSV, every picture as PNG, and a page of all.
///
/// # Errors
/// A file cannot be written.
pub(super) fn write(run: &RecordedRun, analyses: &[Analysis], output: &Path) -> Result<()> {
    fs_err::create_dir_all(output).user()?;
    for analysis in analyses {
        for (name, table) in &analysis.tables {
            write_atomically(&output.join(format!("{name}.csv")), &table.csv()?)?;
        }
        for (name, picture) in &analysis.pictures {
            write_atomically(&output.join(format!("{name}.png")), &picture.png()?)?;
        }
        if let Some(missing) = &analysis.missing {
            println!("{}: {missing}", analysis.title);
        }
    }
    let config = run.config();
    let page = Page {
        title: format!("Analysis of {}", run.path().display()),
        opening: html! {
            p.note { (config.name()) ", model " (config.model.path.as_deref().unwrap_or(Path::new("?")).display()) }
        },
        sections: analyses.iter().map(|one| Section { title: one.title.clone(), body: body(one) }).collect(),
    };
    let index = output.join("index.html");
    write_atomically(&index, page.html().as_bytes())?;
    println!("{}", index.display());
    Ok(())
}

fn body(analysis: &Analysis) -> Markup {
    html! {
        @for paragraph in &analysis.text { p { (paragraph) } }
        @if let Some(missing) = &analysis.missing { p.missing { (missing) } }
        @for (_, picture) in &analysis.pictures { figure { (picture.svg()) } }
        @for (name, table) in &analysis.tables {
            (table.html())
            p.note { (name) ".csv" }
        }
    }
}
