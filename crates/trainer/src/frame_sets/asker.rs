//! How a model is asked a question about a set of frames (ReFoCUS, arXiv 2506.01274, B.4).

use std::path::Path;

use anyhow::Result;
use foveate_data::{Prompts, letter};
use foveate_policy::{Content, Media, Prompt, TextProcessor};

use super::Framed;
use crate::config::{ScorerTable, prompts};
use crate::data::conversation;
use crate::error::UserContext;

/// Makes prompts whose next token is an option's letter.
#[derive(Debug)]
pub struct FrameAsker {
    text: TextProcessor,
    prompts: Prompts,
    table: ScorerTable,
    /// What the answer begins with, tokenized.
    prefix: Vec<i64>,
}

impl FrameAsker {
    /// For the tokens of a model's directory.
    ///
    /// # Errors
    /// A user error: the tokenizer cannot be read, or the letters are no single tokens.
    pub fn new(dir: &Path, table: &ScorerTable) -> Result<Self> {
        let prompts = prompts("scorer.prompt", &table.prompt)?;
        let text = TextProcessor::load(dir).user()?;
        let prefix = text.encode(&table.answer_prefix).user()?;
        let asker = Self { text, prompts, table: table.clone(), prefix };
        asker.letters(2).user()?;
        Ok(asker)
    }

    /// The question about a set of frames, shown in their order in time, up to where the letter comes.
    ///
    /// # Errors
    /// The prompt's template does not fit the example.
    pub fn prompt(&self, framed: &Framed, set: &[usize]) -> Result<Prompt> {
        let mut set = set.to_vec();
        set.sort_unstable();
        let frames: Vec<Media> = set.iter().map(|frame| framed.frames[*frame].clone()).collect();
        let times: Vec<f64> = set.iter().map(|frame| framed.times[*frame]).collect();
        let shown = foveate_data::Seen { duration: framed.duration, times: &times };
        let turn = self.prompts.fill(&framed.example, shown)?;
        let mut content = Vec::new();
        let (label, end) = (&self.table.frame_label, if self.table.frame_label.is_empty() { "" } else { "\n" });
        for number in 1..=frames.len() {
            let before = if number == 1 { "" } else { end };
            let label = format!("{before}{}", label.replace("{n}", &number.to_string()));
            content.extend((!label.is_empty()).then_some(Content::Text(label)));
            content.push(Content::Image);
        }
        content.push(Content::Text(format!("{end}{}", turn.user)));
        let messages = conversation(turn.system, content);
        let Prompt { mut ids, media } = self.text.prompt(&messages, frames)?;
        ids.extend(&self.prefix);
        Ok(Prompt { ids, media })
    }

    /// Tokens of the letters as they follow what the answer begins with.
    ///
    /// # Errors
    /// A letter is no single token there.
    pub fn letters(&self, options: usize) -> Result<Vec<i64>> {
        let token = |option: usize| {
            let text = format!("{} {}", self.table.answer_prefix, letter(option)).trim_start().to_owned();
            let ids = self.text.encode(&text)?;
            match ids.strip_prefix(self.prefix.as_slice()) {
                Some([token]) => Ok(*token),
                _ => anyhow::bail!(
                    "scorer.answer_prefix {:?}: expected the letter {} to be one token behind it",
                    self.table.answer_prefix,
                    letter(option)
                ),
            }
        };
        (0..options).map(token).collect()
    }
}

#[cfg(test)]
mod tests {
    use foveate_data::Example;
    use foveate_video::{ImageProcessor, Patches};
    use image::RgbImage;

    use super::*;
    use crate::data::Apart;
    use crate::run::write_atomically;

    /// A question about three frames of 32 x 32 pixels, of which the embedded model makes a token each.
    fn framed(model: &Path) -> Framed {
        let processor = ImageProcessor::from_dir(model).unwrap();
        let frame = |shade| processor.frame(&RgbImage::from_pixel(32, 32, image::Rgb([shade; 3]))).unwrap();
        let frames: Vec<Patches> = [0, 100, 200].map(frame).to_vec();
        let apart = Apart { frames, indices: vec![0, 5, 9], times: vec![0.0, 0.5, 0.9], duration: 1.0 };
        let options = vec!["red".to_owned(), "blue".to_owned()];
        let example = Example { question: "which".into(), options, answer: "B".into(), ..Example::default() };
        Framed::new(example, 0, apart)
    }

    #[test]
    fn frames_are_labelled_by_their_place_in_the_set_and_stand_in_their_order_in_time() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tiny-vlm");
        // Words that the embedded model has tokens for.
        let folder = tempfile::tempdir().unwrap();
        let prompt = folder.path().join("asked.toml");
        write_atomically(
            &prompt,
            b"system = \"circle\"\nuser = \"{{ question }}{% for option in options %} {{ option.text }}{% endfor %}\"",
        )
        .unwrap();
        let prompt = prompt.display().to_string();
        let table = ScorerTable { path: None, prompt, frame_label: "t{n} ".into(), answer_prefix: "<answer>".into() };
        let asker = FrameAsker::new(&model, &table).unwrap();
        let prompt = asker.prompt(&framed(&model), &[2, 0]).unwrap();
        let text: Vec<String> = prompt.ids.iter().map(|id| asker.text.spelling(*id).unwrap()).collect();
        let pads = "<|image_pad|> ".repeat(prompt.media[0].patches().grid.patches() / 4);
        let frame = |label: &str| format!("{label} <|vision_start|> {pads}<|vision_end|>");
        let expected = format!(
            "<|im_start|> system circle <|im_end|> <|im_start|> user {} {} which red blue <|im_end|> <|im_start|> assistant <answer>",
            frame("t1"),
            frame("t2")
        );
        assert_eq!(text.join(" "), expected);
        let shades: Vec<f32> = prompt.media.iter().map(|media| media.patches().pixels[[0, 0]]).collect();
        assert!(shades[0] < shades[1], "{shades:?}");
        assert_eq!(asker.letters(2).unwrap().len(), 2);
    }
}
