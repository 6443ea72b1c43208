//! A directory like Qwen2.5-VL's, with a byte-level tokenizer and a chat template of the same meaning.

use std::sync::Arc;

use foveate_video::{Grid, Patches};
use serde_json::json;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::*;

const SPECIAL: [&str; 7] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
];
const IMAGE: i64 = 261;
const VIDEO: i64 = 262;

/// Without white space of its own, as in the released files: line breaks are literal text.
const TEMPLATE: &str = "\
{% set images = namespace(n=0) %}{% set videos = namespace(n=0) %}\
{% for message in messages %}\
{% if loop.first and message['role'] != 'system' %}\
<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n\
{% endif %}\
<|im_start|>{{ message['role'] }}\n\
{% if message['content'] is string %}\
{{ message['content'].strip() }}<|im_end|>\n\
{% else %}\
{% for content in message['content'] %}\
{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}\
{% set images.n = images.n + 1 %}\
{% if add_vision_id %}Picture {{ images.n }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif content['type'] == 'video' or 'video' in content %}\
{% set videos.n = videos.n + 1 %}\
{% if add_vision_id %}Video {{ videos.n }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>\
{% elif 'text' in content %}\
{{ content['text'] }}\
{% else %}\
{{ raise_exception('unknown content') }}\
{% endif %}\
{% endfor %}<|im_end|>\n\
{% endif %}\
{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Byte-level tokens 0 to 255, then the special ones.
fn tokenizer_json() -> Value {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocab: serde_json::Map<_, _> =
        alphabet.iter().enumerate().map(|(id, byte)| (byte.to_string(), json!(id))).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(at, token)| {
            json!({
                "id": 256 + at, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [],
        },
    })
}

fn config_json() -> Value {
    json!({
        "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": 259, "vision_end_token_id": 260,
        "vision_config": { "spatial_merge_size": 2 },
    })
}

/// A model directory with these files.
fn directory(files: &[(&str, String)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs_err::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn files() -> Vec<(&'static str, String)> {
    vec![
        ("tokenizer.json", tokenizer_json().to_string()),
        ("tokenizer_config.json", json!({ "chat_template": TEMPLATE }).to_string()),
        ("generation_config.json", json!({ "eos_token_id": [258, 256] }).to_string()),
        ("config.json", config_json().to_string()),
    ]
}

fn processor() -> TextProcessor {
    TextProcessor::load(directory(&files()).path()).unwrap()
}

/// What loading says of a directory in which one file has this text (`None`: is missing).
fn complaint(name: &'static str, text: Option<&str>) -> String {
    let mut files = files();
    files.retain(|(known, _)| *known != name);
    files.extend(text.map(|text| (name, text.to_owned())));
    TextProcessor::load(directory(&files).path()).unwrap_err().to_string()
}

fn patches(t: usize, h: usize, w: usize) -> Arc<Patches> {
    Arc::new(Patches::new(ndarray::Array2::zeros((t * h * w, 3)), Grid { t, h, w }, 1.0))
}

fn user(content: Vec<Content>) -> Message {
    Message { role: "user".into(), content }
}

fn words(text: &str) -> Content {
    Content::Text(text.into())
}

/// The prompt's ids with every special token spelled out.
fn spelled(processor: &TextProcessor, ids: &[i64]) -> String {
    ids.iter()
        .map(|id| match id.checked_sub(256) {
            Some(at) if at >= 0 => SPECIAL[at as usize].to_owned(),
            _ => processor.decode(&[*id]).unwrap(),
        })
        .collect()
}

#[test]
fn a_video_question_gets_the_default_system_message_and_one_pad_per_merged_patch() {
    let processor = processor();
    let message = user(vec![Content::Video, words("What moves?")]);
    let prompt = processor.prompt(&[message], vec![Media::Video(patches(2, 2, 4))]).unwrap();
    assert_eq!(
        spelled(&processor, &prompt.ids),
        format!(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>{}<|vision_end|>\
             What moves?<|im_end|>\n<|im_start|>assistant\n",
            "<|video_pad|>".repeat(4)
        )
    );
    assert_eq!(prompt.media.len(), 1);
}

#[test]
fn images_and_videos_keep_their_order_and_their_own_sizes() {
    let processor = processor();
    let system = Message { role: "system".into(), content: vec![words(" Be brief. ")] };
    let message = user(vec![Content::Video, Content::Image, words("Now?"), Content::Video]);
    let media = vec![Media::Video(patches(1, 4, 4)), Media::Image(patches(1, 2, 2)), Media::Video(patches(3, 2, 2))];
    let text = spelled(&processor, &processor.prompt(&[system, message], media).unwrap().ids);
    let block = |pad: &str, count| format!("<|vision_start|>{}<|vision_end|>", pad.repeat(count));
    let (first, image, last) = (block(SPECIAL[6], 4), block(SPECIAL[5], 1), block(SPECIAL[6], 3));
    assert_eq!(
        text,
        format!(
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{first}{image}Now?{last}<|im_end|>\n\
             <|im_start|>assistant\n"
        )
    );
}

#[test]
fn a_question_without_media_is_plain_text() {
    let processor = processor();
    let prompt = processor.prompt(&[user(vec![words("Hi")])], vec![]).unwrap();
    assert!(spelled(&processor, &prompt.ids).ends_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"));
}

#[test]
fn placeholders_and_media_must_agree_in_number_and_kind() {
    let processor = processor();
    let error =
        |content: Vec<Content>, media: Vec<Media>| processor.prompt(&[user(content)], media).unwrap_err().to_string();
    assert_eq!(error(vec![Content::Video], vec![]), "the prompt has placeholders for [video], but the media are []");
    assert_eq!(
        error(vec![Content::Video], vec![Media::Image(patches(1, 2, 2))]),
        "the prompt has placeholders for [video], but the media are [image]"
    );
    assert_eq!(
        error(vec![words("x")], vec![Media::Video(patches(1, 2, 2))]),
        "the prompt has placeholders for [], but the media are [video]"
    );
}

#[test]
fn a_grid_that_cannot_be_merged_is_an_error() {
    let error = processor().prompt(&[user(vec![Content::Video])], vec![Media::Video(patches(1, 3, 2))]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a grid of 1 x 3 x 2 patches: expected at least one frame, and height and width in multiples of 2"
    );
}

#[test]
fn special_tokens_in_a_text_are_refused() {
    for token in SPECIAL {
        let message = user(vec![Content::Video, words(&format!("Is {token} here?"))]);
        let error = processor().prompt(&[message], vec![Media::Video(patches(1, 2, 2))]).unwrap_err();
        assert_eq!(error.to_string(), format!("the user text contains the special token {token}: expected plain text"));
    }
}

#[test]
fn text_survives_encoding_and_decoding_and_special_tokens_do_not() {
    let processor = processor();
    let text = "<think>Gr\u{fc}n, then\n blue.</think><answer>B</answer>";
    let mut ids = processor.encode(text).unwrap();
    assert!(ids.iter().all(|id| *id < 256));
    ids.push(processor.eos_ids()[0]);
    assert_eq!(processor.decode(&ids).unwrap(), text);
    assert_eq!(processor.encode("<|im_end|>").unwrap(), [258]);
    assert!(processor.decode(&[-1]).is_err());
}

#[test]
fn end_of_sequence_ids_come_from_generation_config_or_else_from_config() {
    assert_eq!(processor().eos_ids(), [258, 256]);
    for (key, value) in [("eos_token_id", json!(258)), ("text_config", json!({ "eos_token_id": [258] }))] {
        let mut config = config_json();
        config[key] = value;
        let mut files = files();
        files.truncate(2);
        files.push(("config.json", config.to_string()));
        assert_eq!(TextProcessor::load(directory(&files).path()).unwrap().eos_ids(), [258], "{key}");
    }
    assert!(complaint("generation_config.json", None).contains("eos_token_id"));
}

#[test]
fn a_template_file_goes_before_the_one_in_a_config() {
    let mut files = files();
    files.push(("chat_template.json", json!({ "chat_template": "json" }).to_string()));
    let text = |files: &[(&str, String)]| {
        let processor = TextProcessor::load(directory(files).path()).unwrap();
        processor.decode(&processor.prompt(&[user(vec![words("x")])], vec![]).unwrap().ids).unwrap()
    };
    assert_eq!(text(&files), "json");
    let indented = "{%- for message in messages %}\n    {%- if true %}\n        {{- message.content.upper() }}\n    \
                    {%- endif %}\n{%- endfor %}\n";
    files.push(("chat_template.jinja", indented.into()));
    assert_eq!(text(&files), "X");
    files.truncate(4);
    files[1].1 = json!({ "chat_template": [{ "name": "default", "template": "named" }] }).to_string();
    assert_eq!(text(&files), "named");
}

#[test]
fn a_template_can_refuse_a_conversation() {
    let mut files = files();
    files.push(("chat_template.jinja", "{{ raise_exception('roles must alternate') }}".into()));
    let processor = TextProcessor::load(directory(&files).path()).unwrap();
    let error = processor.prompt(&[user(vec![words("x")])], vec![]).unwrap_err();
    assert_eq!(error.to_string(), "chat template: roles must alternate (line 1)");
}

#[test]
fn missing_and_broken_files_are_named() {
    let missing = complaint("tokenizer.json", None);
    assert_eq!(missing.matches("tokenizer.json").count(), 1, "{missing}");
    assert!(complaint("tokenizer.json", Some("{}")).contains("tokenizer.json: not a tokenizer"));
    assert!(complaint("config.json", None).contains("config.json: no such file"));
    assert!(complaint("config.json", Some("{")).contains("config.json: not valid JSON"));
    assert!(complaint("config.json", Some("{}")).contains("image_token_id is missing"));
    assert!(complaint("tokenizer_config.json", Some("{}")).contains("no chat template"));
    assert!(complaint("tokenizer_config.json", Some(r#"{"chat_template": "{% if %}"}"#)).starts_with("chat template:"));
}

#[test]
fn a_token_is_spelled_even_if_it_is_special_or_part_of_a_character() {
    let processor = processor();
    let ids = processor.encode("a<|im_end|>\u{e9}").unwrap();
    let spelled: Vec<String> = ids.iter().map(|id| processor.spelling(*id).unwrap()).collect();
    // The two bytes of the last character as a byte-level file writes them.
    assert_eq!(spelled, ["a", "<|im_end|>", "\u{c3}", "\u{a9}"]);
    assert!(processor.spelling(-1).is_err() && processor.spelling(1 << 40).is_err());
}
