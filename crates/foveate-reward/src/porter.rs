//! The stem of an English word: the original Porter algorithm (Porter 1980, Program 14.3) with NLTK's extensions.
//!
//! This is what the package `rouge_score` stems with. Snowball's English stemmer is another algorithm ("fairly",
//! "generous"), and the one published port of NLTK's takes time quadratic in a run of `y`, which a model may write.

/// The stem of a word of lower-case ASCII letters and digits, as `nltk.stem.PorterStemmer` gives it by default.
pub(crate) fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let steps = [plural, past, final_y, double_suffix, simple_suffix, bare_suffix, final_e, final_double_l];
    steps.iter().fold(word.to_owned(), |word, step| step(word))
}

/// Words that the rules would get wrong (NLTK).
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// A suffix and what takes its place.
type Rule = (&'static str, &'static str);

/// Replaces the first suffix of the list that the word has, if the condition holds for what stands before it.
fn replace(word: String, rules: &[Rule], holds: impl Fn(&str) -> bool) -> String {
    let found = rules.iter().find_map(|(suffix, new)| Some((word.strip_suffix(suffix)?, *new)));
    match found {
        Some((stem, new)) if holds(stem) => format!("{stem}{new}"),
        _ => word,
    }
}

/// Which letters are vowels: `y` is one after a consonant.
fn vowels(word: &str) -> Vec<bool> {
    let letters = word.bytes().scan(false, |after_consonant, letter| {
        let vowel = matches!(letter, b'a' | b'e' | b'i' | b'o' | b'u') || (letter == b'y' && *after_consonant);
        *after_consonant = !vowel;
        Some(vowel)
    });
    letters.collect()
}

/// Porter's measure: how often a consonant follows a vowel.
fn measure(stem: &str) -> usize {
    vowels(stem).windows(2).filter(|pair| pair[0] && !pair[1]).count()
}

fn has_vowel(stem: &str) -> bool {
    vowels(stem).contains(&true)
}

fn ends_with_consonant(stem: &str) -> bool {
    vowels(stem).last() == Some(&false)
}

fn ends_with_double_consonant(word: &str) -> bool {
    matches!(word.as_bytes(), [.., a, b] if a == b) && ends_with_consonant(word)
}

/// Consonant, vowel, consonant other than w, x, y; or, of two letters, vowel and consonant (NLTK).
fn is_short(stem: &str) -> bool {
    match vowels(stem).as_slice() {
        [true, false] => true,
        [.., false, true, false] => !stem.ends_with(['w', 'x', 'y']),
        _ => false,
    }
}

/// Step 1a.
fn plural(word: String) -> String {
    if word.len() == 4 && word.ends_with("ies") {
        return replace(word, &[("s", "")], |_| true);
    }
    replace(word, &[("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")], |_| true)
}

/// Step 1b.
fn past(word: String) -> String {
    if word.ends_with("ied") {
        return replace(word.clone(), &[if word.len() == 4 { ("ied", "ie") } else { ("ied", "i") }], |_| true);
    }
    if word.ends_with("eed") {
        return replace(word, &[("eed", "ee")], |stem| measure(stem) > 0);
    }
    match word.strip_suffix("ed").or_else(|| word.strip_suffix("ing")) {
        Some(stem) if has_vowel(stem) => mend(stem.to_owned()),
        _ => word,
    }
}

/// The second half of step 1b: the end that a word had before `ed` or `ing`.
fn mend(mut stem: String) -> String {
    let lost_e = ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end));
    if !lost_e && ends_with_double_consonant(&stem) {
        if !stem.ends_with(['l', 's', 'z']) {
            stem.pop();
        }
    } else if lost_e || (measure(&stem) == 1 && is_short(&stem)) {
        stem.push('e');
    }
    stem
}

/// Step 1c.
fn final_y(word: String) -> String {
    replace(word, &[("y", "i")], |stem| stem.len() > 1 && ends_with_consonant(stem))
}

/// Step 2. NLTK takes `alli` first and goes on with what is left.
fn double_suffix(word: String) -> String {
    const RULES: [Rule; 20] = [
        ("ational", "ate"),
        ("tional", "tion"),
        ("enci", "ence"),
        ("anci", "ance"),
        ("izer", "ize"),
        ("bli", "ble"),
        ("entli", "ent"),
        ("eli", "e"),
        ("ousli", "ous"),
        ("ization", "ize"),
        ("ation", "ate"),
        ("ator", "ate"),
        ("alism", "al"),
        ("iveness", "ive"),
        ("fulness", "ful"),
        ("ousness", "ous"),
        ("aliti", "al"),
        ("iviti", "ive"),
        ("biliti", "ble"),
        ("fulli", "ful"),
    ];
    let word = replace(word, &[("alli", "al")], |stem| measure(stem) > 0);
    if word.ends_with("logi") {
        return replace(word, &[("ogi", "og")], |stem| measure(stem) > 0);
    }
    replace(word, &RULES, |stem| measure(stem) > 0)
}

/// Step 3.
fn simple_suffix(word: String) -> String {
    const RULES: [Rule; 7] =
        [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];
    replace(word, &RULES, |stem| measure(stem) > 0)
}

/// Step 4.
fn bare_suffix(word: String) -> String {
    const RULES: [Rule; 18] = [
        ("al", ""),
        ("ance", ""),
        ("ence", ""),
        ("er", ""),
        ("ic", ""),
        ("able", ""),
        ("ible", ""),
        ("ant", ""),
        ("ement", ""),
        ("ment", ""),
        ("ent", ""),
        ("ou", ""),
        ("ism", ""),
        ("ate", ""),
        ("iti", ""),
        ("ous", ""),
        ("ive", ""),
        ("ize", ""),
    ];
    if word.ends_with("ion") {
        return replace(word, &[("ion", "")], |stem| measure(stem) > 1 && stem.ends_with(['s', 't']));
    }
    replace(word, &RULES, |stem| measure(stem) > 1)
}

/// Step 5a.
fn final_e(word: String) -> String {
    replace(word, &[("e", "")], |stem| measure(stem) > 1 || (measure(stem) == 1 && !is_short(stem)))
}

/// Step 5b: the measure is that of the word without its last letter.
fn final_double_l(word: String) -> String {
    if word.ends_with("ll") {
        return replace(word, &[("l", "")], |stem| measure(stem) > 1);
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_the_stems_of_porter_and_not_of_snowball() {
        for (word, expected) in [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("dies", "die"),
            ("spied", "spi"),
            ("agreed", "agre"),
            ("hopping", "hop"),
            ("falling", "fall"),
            ("filing", "file"),
            ("enjoy", "enjoy"),
            ("generously", "gener"),
            ("fairly", "fairli"),
            ("rationally", "ration"),
            ("archaeology", "archaeolog"),
            ("geology", "geolog"),
            ("adoption", "adopt"),
            ("controll", "control"),
            ("skies", "sky"),
            ("proceed", "proceed"),
            ("succeed", "succeed"),
            ("2000s", "2000"),
            ("a11ed", "a1"),
            ("by", "by"),
        ] {
            assert_eq!(stem(word), expected, "{word}");
        }
    }

    #[test]
    fn a_run_of_y_of_a_megabyte_takes_no_time() {
        let word = "y".repeat(1 << 20) + "ing";
        let start = std::time::Instant::now();
        assert!(stem(&word).len() >= 1 << 19);
        assert!(start.elapsed().as_secs() < 5);
    }
}
