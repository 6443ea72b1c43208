//! Tables that are both a CSV file and part of a page.

use anyhow::Result;
use maud::{Markup, html};

/// A table of texts and numbers.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// What it holds.
    pub caption: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Rows that a page shows at once, and at all; the file has them all.
const OPEN: usize = 12;
const SHOWN: usize = 200;

impl Table {
    /// A table without rows.
    pub fn new(caption: &str, header: &[&str]) -> Self {
        let header = header.iter().map(|name| (*name).to_owned()).collect();
        Self { caption: caption.to_owned(), header, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Its rows.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// The table as the bytes of a CSV file (RFC 4180, with a header).
    ///
    /// # Errors
    /// A row has more or fewer fields than the header.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&self.header)?;
        for row in &self.rows {
            writer.write_record(row)?;
        }
        Ok(writer.into_inner()?)
    }

    /// The table in Markdown, the first column flush left, the others flush right; no line end after it.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
        let escaped = |cells: &[String]| line(cells.iter().map(|cell| cell.replace('|', "\\|")).collect());
        let rule = (0..self.header.len()).map(|column| if column == 0 { "---" } else { "---:" }.to_owned());
        let head = [escaped(&self.header), line(rule.collect())];
        head.into_iter().chain(self.rows.iter().map(|cells| escaped(cells))).collect::<Vec<_>>().join("\n")
    }

    /// The table as lines of text, columns aligned.
    pub fn text(&self) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| lines().filter_map(|line| line.get(column)).map(|f| f.chars().count()).max();
        let widths: Vec<usize> = (0..self.header.len()).map(|column| width(column).unwrap_or(0)).collect();
        let line = |fields: &Vec<String>| {
            let padded = fields.iter().zip(&widths).map(|(field, width)| format!("{field:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        lines().map(line).collect()
    }

    /// The table as HTML, folded up if it is long.
    pub fn html(&self) -> Markup {
        html! {
            @if self.rows.len() <= OPEN {
                (self.body())
            } @else {
                details {
                    summary { (self.caption) " (" (self.rows.len()) " rows)" }
                    (self.body())
                    @if self.rows.len() > SHOWN { p.note { "The first " (SHOWN) " rows; the file has them all." } }
                }
            }
        }
    }

    fn body(&self) -> Markup {
        html! {
            div.wide {
                table.data {
                    @if self.rows.len() <= OPEN { caption { (self.caption) } }
                    thead { tr { @for name in &self.header { th { (name) } } } }
                    tbody { @for row in self.rows.iter().take(SHOWN) { tr { @for field in row { td { (field) } } } } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_with_commas_and_quotes_come_back_from_the_file() {
        let mut table = Table::new("words", &["word", "count"]);
        table.push(vec!["a,\"b\"".into(), "3".into()]);
        let csv = table.csv().unwrap();
        let row = csv::Reader::from_reader(csv.as_slice()).records().next().unwrap().unwrap();
        assert_eq!(row, vec!["a,\"b\"", "3"]);
    }

    #[test]
    fn columns_of_the_text_are_aligned() {
        let mut table = Table::new("t", &["word", "n"]);
        table.push(vec!["a".into(), "10".into()]);
        table.push(vec!["longer".into(), "2".into()]);
        assert_eq!(table.text(), "word    n\na       10\nlonger  2\n");
    }

    #[test]
    fn a_page_folds_a_long_table_and_shows_its_head() {
        let mut table = Table::new("<t>", &["n"]);
        (0..SHOWN + 5).for_each(|index| table.push(vec![format!("<{index}>")]));
        let html = table.html().into_string();
        assert_eq!(html.matches("<td>&lt;").count(), SHOWN);
        assert!(html.contains("(205 rows)") && html.contains("&lt;t&gt;"), "{html}");
    }
}
