//! The page: tokens as rows, frames as columns, numbers under the pointer.

use anyhow::Result;
use maud::{Markup, PreEscaped, html};

use super::{Completion, Looked};
use crate::figures::{Page, Rgb, Section, Span, data_uri};

impl Looked {
    pub(super) fn page(&self) -> Result<Page> {
        let span = self.span();
        let opening = html! {
            (self.thumbnails()?)
            p.note { (self.source) }
            p {
                @for (index, line) in self.question.iter().enumerate() {
                    @if index == 0 { b { (line) } } @else { span style="margin-left:1.2rem" { (line) } }
                }
            }
            @if let Some(answer) = &self.answer { p { "Answer: " b { (answer) } } }
            figure { (self.frame_chart().svg()) }
            p.note {
                "Rows are tokens, columns frames (steps of the temporal grid, by their first picture). A cell holds the \
                 attention mass of the position that predicts the token on the frame's video tokens, averaged over heads \
                 and the observed layers; the number is shown under the pointer. White is " (number(span.low))
                " or less, the darkest blue " (number(span.high)) " or more, on one scale for all completions."
                @if self.frames.iter().any(|frame| frame.event) {
                    " Orange lines enclose the frames of the true event."
                }
                " A token is tinted by its attention to all frames together."
            }
        };
        let sections = self.sides().into_iter().map(|(title, of_side)| Section {
            title: title.into(),
            body: html! { div.side { @for completion in of_side { div { (self.map(completion, span)) } } } },
        });
        let sections = sections.collect();
        Ok(Page { title: "Attention of response tokens over frames".into(), opening, sections })
    }

    /// The completions, right ones before wrong ones, each under a heading.
    fn sides(&self) -> Vec<(&'static str, Vec<&Completion>)> {
        let headings = [(Some(true), "Right completions"), (Some(false), "Wrong completions"), (None, "Completions")];
        let of = |side| self.completions.iter().filter(|one| one.right() == side).collect::<Vec<_>>();
        let sides = headings.into_iter().map(|(side, title)| (title, of(side)));
        sides.filter(|(_, completions)| !completions.is_empty()).collect()
    }

    /// The frames' pictures, each held once.
    fn thumbnails(&self) -> Result<Markup> {
        let mut style =
            String::from(".thumb{width:56px;height:56px;background:center/contain no-repeat;margin:0 auto}");
        for (index, frame) in self.frames.iter().enumerate() {
            if let Some(picture) = &frame.picture {
                style += &format!(".thumb-{index}{{background-image:url({})}}", data_uri(picture)?);
            }
        }
        Ok(html! { style { (PreEscaped(style)) } })
    }

    fn map(&self, completion: &Completion, span: Span) -> Markup {
        let mean = completion.mean();
        let highest = mean.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let marks = |index: usize| if self.frames[index].event { "event" } else { "" };
        html! {
            h3 { (completion.heading()) }
            div.wide {
                table.map {
                    thead {
                        tr {
                            th {}
                            @for (index, frame) in self.frames.iter().enumerate() {
                                th class=(marks(index)) {
                                    @if frame.picture.is_some() { div class={ "thumb thumb-" (index) } {} }
                                    (frame.label(index))
                                }
                            }
                        }
                        tr {
                            th { "mean" }
                            @for (index, mean) in mean.iter().enumerate() {
                                th class=(marks(index)) style="vertical-align:bottom;height:34px"
                                    title={ "mean over tokens: " (number(f64::from(*mean))) } {
                                    span.bar style={ "height:" (format!("{:.1}", 32.0 * mean / highest)) "px" } {}
                                }
                            }
                        }
                    }
                    tbody {
                        @for (token, row) in completion.tokens.iter().zip(completion.attention.rows()) {
                            tr {
                                th style=(tint(f64::from(row.sum()), self.most(completion))) { (token) }
                                @for (index, value) in row.iter().enumerate() {
                                    td class=(marks(index)) style={ "background:" (span.colour(f64::from(*value))) }
                                        title={ (token) ", " (self.frames[index].label(index)) ": " (number(f64::from(*value))) } {}
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// The most attention that a token of a completion has to all frames together.
    fn most(&self, completion: &Completion) -> f64 {
        completion.attention.rows().into_iter().map(|row| f64::from(row.sum())).fold(f64::MIN_POSITIVE, f64::max)
    }
}

fn number(value: f64) -> String {
    format!("{value:.4}")
}

/// A background for text: as strong as `value` is of `most`, and never too dark to read on.
fn tint(value: f64, most: f64) -> String {
    let [r, g, b] = Rgb::EVENT.0;
    format!("background:rgba({r},{g},{b},{:.2})", (0.45 * value / most).clamp(0.0, 0.45))
}
