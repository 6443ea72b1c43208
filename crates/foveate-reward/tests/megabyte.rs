//! A model may write anything: every scorer takes a megabyte of it in linear time.

use std::time::{Duration, Instant};

use foveate_reward::{
    Answer, AnswerRule, Completion, FormatStyle, ProblemType, Rubric, RubricConfig, TimeBins, accuracy, format,
    soft_choice, temporal_iou,
};

const SIZE: usize = 1 << 20;

/// A quadratic scorer takes minutes for some of the texts, a linear one a fraction of a second.
const LIMIT: Duration = Duration::from_secs(5);

/// A megabyte of the same few bytes.
fn of(piece: &str) -> String {
    piece.repeat(SIZE / piece.len())
}

/// Awkward texts, as they are and inside all tags.
fn texts() -> Vec<String> {
    let pieces = [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<answer></answer>",
        "<answer>A</answer>",
        "<think></think><answer>",
        "</think> <answer>",
        "</answer> <time>",
        "<time>",
        "<time></time>",
        "1 to 2 ",
        "to",
        "to ",
        "1 to",
        "1",
        "1.",
        "1,",
        "1_",
        "\u{661}",
        " ",
        "\x1c",
        "y",
        "A,",
        "a ",
        "ration ",
        "nationally rolling ",
        "\u{5927}",
    ];
    let bare = pieces.map(of);
    let tagged = bare.clone().map(|text| format!("<think></think><answer>{text}</answer><time>{text}</time>"));
    let spaced =
        ["</think>", "</think><answer>", "</answer>"].map(|piece| "<think>".to_owned() + &of(piece) + &of(" "));
    [bare.to_vec(), tagged.to_vec(), spaced.to_vec()].concat()
}

#[test]
fn every_scorer_takes_a_megabyte_of_anything() {
    let golds = [
        Answer::new("A,C"),
        Answer::new("12.5").of(ProblemType::Numerical),
        Answer::new("no entry from nine to five").of(ProblemType::Ocr),
        Answer::new("the nations roll rationally").of(ProblemType::FreeForm),
        Answer::new("12.5").of(ProblemType::Regression),
    ]
    .map(|answer| answer.with_times(vec![[1.0, 2.5]]));
    let styles = [FormatStyle::VideoR1, FormatStyle::Appo, FormatStyle::TwGrpo, FormatStyle::Grounding];
    for text in texts() {
        let begin: String = text.chars().take(60).collect();
        let start = Instant::now();
        for style in styles {
            assert!([0.0, 1.0].contains(&format(&text, style)), "{style:?} {begin}");
        }
        for answer in &golds {
            for rule in [AnswerRule::VideoR1, AnswerRule::Appo] {
                let score = accuracy(answer, &text, rule).unwrap();
                assert!((0.0..=1.0).contains(&score), "{answer:?} {begin}");
            }
        }
        assert!(soft_choice(&golds[0], &text).is_some_and(|score| (0.0..=1.0).contains(&score)), "{begin}");
        for bins in [TimeBins::Exact, TimeBins::Seconds] {
            let score = temporal_iou(&golds[0], &text, bins).unwrap();
            assert!((0.0..=1.0).contains(&score), "{begin}");
        }
        assert!(start.elapsed() < LIMIT, "{:?} for {begin}", start.elapsed());
    }
}

#[test]
fn a_right_answer_after_a_megabyte_of_thought_is_right() {
    let text = format!("<think>{}</think><answer>B</answer>", of("hm, \u{5927}\n"));
    let rubric = Rubric::new(RubricConfig::default()).unwrap();
    assert_eq!(rubric.score(&Answer::new("B"), Completion::from(&text)).total, 1.0);
}
