//! HTML pages that need no other file and run no script.

use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = "
body { font: 15px/1.5 system-ui, 'DejaVu Sans', Verdana, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto;
  padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { max-width: 60rem; margin: .4rem 0; } .note { color: #6b6b6b; font-size: .87rem; }
.missing { border-left: 3px solid #d55e00; padding-left: .7rem; }
.wide { overflow-x: auto; } .side { display: flex; flex-wrap: wrap; gap: 1.2rem 2.5rem; align-items: flex-start; }
h3 { font-size: .95rem; margin: .6rem 0 .3rem; } summary { cursor: pointer; color: #6b6b6b; font-size: .87rem; } figure { display: inline-block; margin: .6rem 1rem .6rem 0; vertical-align: top; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.data { margin: .8rem 0; font-size: .87rem; } table.data caption { text-align: left; color: #6b6b6b; padding: .2rem 0; }
table.data th { text-align: left; border-bottom: 1px solid #999; padding: .15rem .8rem .15rem 0; }
table.data td { border-bottom: 1px solid #eee; padding: .12rem .8rem .12rem 0; }
table.map { font-size: .82rem; line-height: 1.25; } table.map th { font-weight: normal; text-align: right;
  padding: 0 .6rem; white-space: pre; } table.map thead th { text-align: center; color: #6b6b6b; padding: 0 1px; }
table.map td { min-width: 2.2rem; height: 1.15rem; padding: 0; border: 1px solid #fff; }
table.map .event { border-left: 2px solid #d55e00; border-right: 2px solid #d55e00; }
table.map thead .event { color: #d55e00; }
table.map img { width: 56px; height: 56px; display: block; margin: 0 auto; image-rendering: auto; }
.bar { display: block; background: #0072b2; margin: 0 12%; }
table.compare { font-size: .87rem; line-height: 1.7; } table.compare th { text-align: right; font-weight: normal;
  padding-right: .8rem; white-space: nowrap; vertical-align: top; color: #6b6b6b; }
table.compare .advantage { padding-right: .8rem; vertical-align: top; color: #6b6b6b; }
.tokens span { padding: .08rem .15rem; border-radius: 2px; } .tokens .key { border-bottom: 2px solid #222; }
";

/// A part of a page under a heading of its own.
#[derive(Debug, Clone)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// What stands under it.
    pub body: Markup,
}

/// A page.
#[derive(Debug, Clone)]
pub struct Page {
    /// Heading of the page.
    pub title: String,
    /// What stands before the first section.
    pub opening: Markup,
    /// The sections.
    pub sections: Vec<Section>,
}

impl Page {
    /// The page as the text of an HTML file.
    pub fn html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { (self.title) }
                    (self.opening)
                    @for section in &self.sections {
                        h2 { (section.title) }
                        (section.body)
                    }
                }
            }
        };
        page.into_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_needs_nothing_from_elsewhere_and_escapes_text() {
        let section = Section { title: "a < b".into(), body: html! { p { ("<script>") } } };
        let page = Page { title: "t & u".into(), opening: html! {}, sections: vec![section] };
        let html = page.html();
        assert!(html.contains("<h2>a &lt; b</h2>") && html.contains("&lt;script&gt;") && html.contains("t &amp; u"));
        assert!(!html.contains("http") && !html.contains("<script"), "{html}");
    }
}
