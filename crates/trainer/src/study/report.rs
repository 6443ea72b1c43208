//! A page of results: a section for each study, replaced when the study is made again.

use std::path::Path;

use anyhow::{Context, Result};

use super::Found;
use crate::cli::Study;
use crate::run::write_atomically;

/// Head of a new page.
const HEAD: &str = "# Picked frames\n\nWhat a selector trained by ReFoCUS picks on long scenes, and what its picks are worth to the \
    frozen model. Definitions: [ReFoCUS](../algorithms/refocus.md#studies).\n";

/// Puts a study's section into a page of results, in the place of an earlier one; its pictures stand beside the page.
///
/// # Errors
/// The page cannot be read or written.
pub(super) fn put(page: &Path, study: Study, found: &Found) -> Result<()> {
    let name = study.name();
    let command: Vec<String> = std::env::args().skip(1).collect();
    let mut section = format!("## {}\n\n`cargo run -p trainer -- {}`\n\n", found.title, command.join(" "));
    section.push_str(&found.text.join("\n\n"));
    section.push('\n');
    for table in &found.tables {
        section.push_str(&format!("\n{}\n", table.markdown()));
    }
    for (end, picture) in &found.pictures {
        let stem = page.file_stem().context("expected the name of a file").map(|stem| stem.to_string_lossy())?;
        let file = format!("{stem}-{name}{end}.png");
        write_atomically(&page.with_file_name(&file), &picture.png()?)?;
        section.push_str(&format!("\n![{}]({file})\n", found.title));
    }
    let old = if page.exists() { fs_err::read_to_string(page)? } else { HEAD.to_owned() };
    write_atomically(page, replaced(&old, found.title, &section).as_bytes())
}

/// The page with this section in the place of the one of that title, or at its end.
fn replaced(page: &str, title: &str, section: &str) -> String {
    let heading = format!("\n## {title}\n");
    let Some(start) = page.find(&heading).map(|at| at + 1) else {
        return format!("{}\n\n{section}", page.trim_end());
    };
    let after = page[start + heading.len() - 1..].find("\n## ").map(|at| start + heading.len() + at);
    let rest = after.map_or("", |at| &page[at..]);
    let gap = if rest.is_empty() { "" } else { "\n" };
    format!("{}{section}{gap}{rest}", &page[..start])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_the_one_before_and_leaves_the_others() {
        let page = replaced(HEAD, "One", "## One\n\nfirst\n");
        let page = replaced(&page, "Two", "## Two\n\nsecond\n");
        let page = replaced(&page, "One", "## One\n\nagain\n");
        assert!(page.starts_with("# Picked frames"));
        assert!(page.ends_with("## One\n\nagain\n\n## Two\n\nsecond\n"), "{page}");
        let page = replaced(&page, "Two", "## Two\n\nlast\n");
        assert!(page.ends_with("## One\n\nagain\n\n## Two\n\nlast\n"), "{page}");
    }
}
