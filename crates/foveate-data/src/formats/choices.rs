//! Options and their letters.

use std::collections::BTreeMap;

use foveate_reward::ProblemType;

use crate::example::letter;
use crate::{Example, Fault};

/// The texts of options that may carry their letters (`A. red`, `(A) red`, `A) red`, `A: red`, `A.red`); left as they
/// are unless all of them carry the letters of their places.
pub fn texts(options: Vec<String>) -> Vec<String> {
    let stripped: Option<Vec<String>> =
        options.iter().enumerate().map(|(index, option)| without_letter(option, &letter(index))).collect();
    stripped.unwrap_or(options)
}

fn without_letter(option: &str, letter: &str) -> Option<String> {
    let option = option.trim();
    let rest = match option.strip_prefix('(') {
        Some(inside) => inside.strip_prefix(letter)?.strip_prefix(')')?,
        None => option.strip_prefix(letter)?.strip_prefix(['.', ')', ':'])?,
    };
    Some(rest.trim().to_owned())
}

/// The letter of the option with this number, counted from 0.
pub(super) fn at(field: &str, index: usize, options: &[String]) -> Result<String, Fault> {
    if index < options.len() {
        Ok(letter(index))
    } else {
        Err(Fault::new(
            field,
            format!("expected a number below {}, the number of options; found {index}", options.len()),
        ))
    }
}

/// Letters that an answer names (`B`, `(B)`, `B.`, `A,C`), each of an option.
pub(super) fn named(field: &str, answer: &str, options: &[String]) -> Result<String, Fault> {
    let bare = |part: &str| part.trim().trim_matches(['(', ')', '.', ':']).trim().to_owned();
    let letters: Vec<String> = answer.split(',').map(bare).filter(|part| !part.is_empty()).collect();
    let known: Vec<String> = (0..options.len()).map(letter).collect();
    match letters.iter().find(|letter| !known.contains(letter)) {
        None if !letters.is_empty() => Ok(letters.join(",")),
        _ => Err(Fault::new(
            field,
            match known.last() {
                Some(last) => format!("expected letters of the options, A to {last}; found {answer:?}"),
                None => format!("expected options for {answer:?} to name, found none"),
            },
        )),
    }
}

/// The letters that the answer to a question with options names, or the answer of any other as it stands.
pub(super) fn letters_or_text(
    field: &str,
    answer: &str,
    problem: ProblemType,
    options: &[String],
) -> Result<String, Fault> {
    if problem == ProblemType::Grounding && foveate_reward::spans(answer).is_empty() {
        Err(Fault::new(field, format!("expected times such as \"8.4 to 12.5\", found {answer:?}")))
    } else if problem == ProblemType::MultipleChoice && !options.is_empty() {
        named(field, answer, options)
    } else {
        Ok(answer.to_owned())
    }
}

/// The letter of the option with this text.
pub(super) fn of_text(field: &str, text: &str, options: &[String]) -> Result<String, Fault> {
    let found = options.iter().position(|option| option.trim() == text.trim());
    found
        .map(letter)
        .ok_or_else(|| Fault::new(field, format!("expected the text of one of the options, found {text:?}")))
}

/// The texts of options that are written as an object by letter; empty ones at its end are not options.
pub(super) fn by_letter(field: &str, options: BTreeMap<String, String>) -> Result<Vec<String>, Fault> {
    let mut texts = Vec::new();
    for (index, (found, text)) in options.into_iter().enumerate() {
        if found != letter(index) {
            return Err(Fault::new(
                field,
                format!("expected letters from A without a gap, found {found:?} for {}", letter(index)),
            ));
        }
        texts.push(text);
    }
    while texts.last().is_some_and(|text| text.trim().is_empty()) {
        texts.pop();
    }
    Ok(texts)
}

/// A question and the options in the lines at its end. `label` takes an option's label off, given its number; a line
/// that has no label is part of the question.
pub(super) fn in_lines(text: &str, label: impl Fn(&str, usize) -> Option<&str>) -> (String, Vec<String>) {
    let lines: Vec<&str> = text.lines().collect();
    let options = |from: usize| -> Option<Vec<&str>> {
        lines[from..].iter().enumerate().map(|(index, line)| label(line, index)).collect()
    };
    let found = (1..lines.len()).find_map(|from| Some((from, options(from)?)));
    let (from, options) = found.unwrap_or((lines.len(), Vec::new()));
    (lines[..from].join("\n"), options.into_iter().map(|option| option.trim().to_owned()).collect())
}

/// Gives a question without options its answer: yes and no become its options, a number is judged as one, and anything
/// else as free text, whose score for a single word is at most 2/3, since it has no pair of words.
pub(super) fn answer_openly(example: &mut Example, answer: &str) {
    let options = ["yes", "no"];
    if let Some(index) = options.iter().position(|option| option.eq_ignore_ascii_case(answer.trim())) {
        example.options = options.map(str::to_owned).to_vec();
        example.answer = letter(index);
        return;
    }
    let is_number = answer.trim().parse::<f64>().is_ok();
    example.problem = if is_number { ProblemType::Numerical } else { ProblemType::FreeForm };
    example.answer = answer.to_owned();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn letters_are_taken_off_only_if_all_options_carry_them() {
        for options in
            [["A. x", "B. y z"], ["(A) x", "(B) y z"], ["A.x", "B.y z"], ["A) x", " B) y z "], ["A: x", "B: y z"]]
        {
            assert_eq!(texts(strings(&options)), ["x", "y z"]);
        }
        for options in [["A. x", "y"], ["B. x", "A. y"], ["Apple", "Bread"]] {
            assert_eq!(texts(strings(&options)), options);
        }
    }

    #[test]
    fn an_answer_must_be_among_the_options() {
        let options = strings(&["x", "y"]);
        assert_eq!(named("answer", "(B)", &options).unwrap(), "B");
        assert_eq!(named("answer", "A, B", &options).unwrap(), "A,B");
        for bad in ["C", "", "x", "AB"] {
            let fault = named("answer", bad, &options).unwrap_err().to_string();
            assert_eq!(fault, format!("answer: expected letters of the options, A to B; found {bad:?}"));
        }
        assert_eq!(at("answer", 1, &options).unwrap(), "B");
        assert!(at("answer", 2, &options).is_err());
        assert_eq!(of_text("answer", " y", &options).unwrap(), "B");
        assert!(of_text("answer", "z", &options).is_err());
    }

    #[test]
    fn options_by_letter_have_no_gap() {
        let of = |pairs: &[(&str, &str)]| {
            by_letter("choices", pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect())
        };
        assert_eq!(of(&[("B", "y"), ("A", "x"), ("C", "")]).unwrap(), ["x", "y"]);
        assert_eq!(of(&[("A", ""), ("B", "")]).unwrap(), [""; 0]);
        let fault = of(&[("A", "x"), ("C", "y")]).unwrap_err().to_string();
        assert_eq!(fault, "choices: expected letters from A without a gap, found \"C\" for B");
    }

    #[test]
    fn options_are_the_lettered_lines_at_the_end() {
        fn label(line: &str, index: usize) -> Option<&str> {
            line.strip_prefix(letter(index).as_str())?.strip_prefix(' ')
        }
        let found = in_lines("A man\nA red ball\nB blue\nA cup\nB tea ", label);
        assert_eq!(found, ("A man\nA red ball\nB blue".to_owned(), strings(&["cup", "tea"])));
        assert_eq!(in_lines("Why?", label), ("Why?".to_owned(), vec![]));
    }
}
