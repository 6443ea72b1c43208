"""Makes rouge.json: what rouge_score 0.1.2 with nltk 3.10 says of words and of pairs of sentences.

    pip install rouge-score==0.1.2 nltk==3.10.4 && python make_rouge.py

With `--words FILE` it prints the stems of the words of FILE instead, one `word stem` a line, to compare more of them.
"""

import argparse
import json
import random
import re
from pathlib import Path

from nltk.stem import porter
from rouge_score import rouge_scorer

STEMS = """
    abl adapt adopt agre allow analog angular archaeo automat bowdler ceas communic condit conform connect control
    decis depend differ digit effect electr enjoy fair fall feed fil fizz form formal gener geo happ hesit hiss hop hope
    inter irrit log mot nation oper organ philo plast predic prob rat relat replac respons revi roll run sens siz sk spy
    tan theo tri troubl val vietnam yell year youth ey syzyg toy
""".split()
SUFFIXES = """
    s ses sses ies ss ied ed eed ing ly y al ally alli ation ational tional ator alism aliti ality ance anci ate ative able
    ably e eli ement ence enci ent ently er ful fully fulness ible ic ical icate iciti icity ion ism iti ity ive iveness
    iviti ize izer ization ization logi logy ll ment ness ou ous ously ousness bli biliti ating bled izing nned
""".split()
IRREGULAR = "sky skies dying lying tying news inning innings outing outings canning cannings howe proceed exceed succeed"
TEXTS = [
    "",
    "...",
    "ball",
    "balls",
    "A red ball rolls to the left.",
    "the red balls were rolling left, quickly",
    "The man opened the door, then he generously fed the dogs.",
    "A man opens doors and then feeds his dog fairly generously",
    "He didn't do it; he couldn't have: it's 3.5 km away!",
    "it is 3 5 km away he did not do it",
    "Geology and archaeology are rationally organised sciences of 1000s of years",
    "the the the the cat",
    "the cat the",
    "\u0130stanbul caf\u00e9 \u212aelvin na\u00efve \u5927\u962a \u0661\u0662 stra\u00dfe",
    "istanbul cafe kelvin naive strasse",
    "yyyy yyyying syzygies dyed skies dying lying",
]


def stems_of(words):
    stemmer = porter.PorterStemmer()
    return {word: stemmer.stem(word) for word in words}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--words", type=Path)
    words = parser.parse_args().words
    if words:
        for word, stem in stems_of(re.findall("[a-z0-9]+", words.read_text().lower())).items():
            print(word, stem)
        return

    draw = random.Random(0)
    made = sorted({stem + suffix for stem in STEMS for suffix in SUFFIXES})
    golden = {"stems": stems_of(sorted(draw.sample(made, 700) + IRREGULAR.split()))}

    words = "a man opened doors while dogs are running generously".split()
    texts = TEXTS + [" ".join(draw.choices(words, k=k)) for k in (20, 65, 130)]
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    golden["pairs"] = []
    for gold in texts:
        for given in draw.sample(texts, 9):
            scores = scorer.score(gold, given)
            mean = sum(score.fmeasure for score in scores.values()) / 3
            golden["pairs"].append({"gold": gold, "given": given, "score": mean})
    Path(__file__).with_name("rouge.json").write_text(json.dumps(golden, indent=0) + "\n")


main()
