//! Model directories: what loads, what is saved, and what a damaged one says.

use std::{collections::BTreeMap, fs, path::Path};

use foveate_policy::{LoadOptions, ModelConfig, PolicyError, Trainable, Vlm, read_safetensors, write_safetensors};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::common::{Golden, VOCABULARY, config, copy_of, random_with, write};

fn options(kind: Kind) -> LoadOptions {
    LoadOptions { kind, trainable: Trainable::Nothing, ..LoadOptions::default() }
}

fn load(dir: &Path) -> Result<Vlm, PolicyError> {
    Vlm::load(dir, &options(Kind::Float))
}

fn error(dir: &Path) -> String {
    load(dir).unwrap_err().to_string()
}

fn store(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    write_safetensors(path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
}

fn assert_same_tensors(found: &Vlm, expected: &Vlm) {
    assert_eq!(found.tensors().len(), expected.tensors().len());
    for ((name, a), (other, b)) in found.tensors().iter().zip(expected.tensors()) {
        assert!(name == other && a.kind() == b.kind() && a == b, "{name} {other}");
    }
}

/// Checks what `config.json` must give, however it is changed.
fn read_config(value: &Value) -> Result<ModelConfig, String> {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("config.json"), value.to_string());
    ModelConfig::from_dir(folder.path()).map_err(|error| error.to_string())
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A nested configuration in the released layout: the decoder's fields at the top.
fn flat(nested: &Value) -> Value {
    let mut flat = nested.clone();
    let text = flat.as_object_mut().unwrap().remove("text_config").unwrap();
    for (name, value) in text.as_object().unwrap().clone() {
        match name.as_str() {
            "model_type" => {}
            "rope_parameters" => {
                flat["rope_theta"] = value["rope_theta"].clone();
                flat["rope_scaling"] = json!({ "type": "mrope", "mrope_section": value["mrope_section"] });
            }
            _ => flat[&name] = value,
        }
    }
    flat
}

#[test]
fn every_wrong_tensor_is_named_in_one_error() {
    let folder = copy_of("untied");
    let path = folder.path().join("model.safetensors");
    let mut tensors = read_safetensors(&path).unwrap();
    drop(tensors.remove("model.norm.weight").unwrap());
    tensors.insert("lm_head.weight".into(), Tensor::zeros([512, 63], (Kind::Float, Device::Cpu)));
    tensors.insert("model.layers.9.extra".into(), Tensor::zeros([1], (Kind::Float, Device::Cpu)));
    store(&path, &tensors);
    let Err(PolicyError::Weights { differences, .. }) = load(folder.path()) else { panic!("it loads") };
    assert_eq!(differences.len(), 3, "{differences:?}");
    let message = error(folder.path());
    for part in [
        "3 tensors do not match",
        "model.norm.weight is missing",
        "lm_head.weight: expected shape [512, 64], found [512, 63]",
        "model.layers.9.extra is unexpected",
        folder.path().to_str().unwrap(),
    ] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
}

#[test]
fn files_that_are_missing_or_cut_off_are_named() {
    let folder = copy_of("untied");
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for kept in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        write(&path, &bytes[..kept]);
        let message = error(folder.path());
        assert!(message.contains("model.safetensors"), "{kept} bytes: {message}");
    }
    // A header that claims more than there is.
    write(&path, [0xff; 64]);
    assert!(error(folder.path()).contains("not a readable safetensors file"));
    fs::remove_file(&path).unwrap();
    assert!(error(folder.path()).contains("model.safetensors"));
    fs::remove_file(folder.path().join("config.json")).unwrap();
    assert!(error(folder.path()).contains("config.json"));
}

#[test]
fn a_missing_config_field_is_named_in_both_layouts() {
    let nested = json_file(&Golden::read("untied").dir.join("config.json"));
    let text = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "initializer_range",
    ];
    let vision = [
        "depth",
        "hidden_size",
        "intermediate_size",
        "num_heads",
        "out_hidden_size",
        "patch_size",
        "temporal_patch_size",
        "spatial_merge_size",
        "window_size",
        "fullatt_block_indexes",
        "tokens_per_second",
    ];
    let without = |from: &Value, section: Option<&str>, name: &str| {
        let mut value = from.clone();
        let section = section.map_or("".into(), |section| format!("/{section}"));
        value.pointer_mut(&section).unwrap().as_object_mut().unwrap().remove(name).unwrap();
        read_config(&value).unwrap_err()
    };
    for (layout, section) in [(&nested, Some("text_config")), (&flat(&nested), None)] {
        for name in text {
            let message = without(layout, section, name);
            assert!(message.contains(&format!("{name} (")) && message.contains("missing field"), "{message}");
        }
        for name in vision {
            let message = without(layout, Some("vision_config"), name);
            assert!(message.contains(&format!("missing field vision_config.{name}")), "{message}");
        }
        for name in ["image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"] {
            assert!(without(layout, None, name).contains(&format!("missing field {name}")));
        }
    }
    assert!(without(&nested, Some("text_config/rope_parameters"), "mrope_section").contains("mrope_section"));
    assert!(without(&flat(&nested), None, "rope_theta").contains("rope_theta"));
    assert!(without(&flat(&nested), None, "rope_scaling").contains("rope_scaling"));
}

#[test]
fn values_that_make_no_model_are_refused_by_name() {
    let refused = |pointer: &str, value: Value| {
        let mut config = config();
        *config.pointer_mut(pointer).unwrap() = value;
        read_config(&config).unwrap_err()
    };
    assert!(refused("/model_type", json!("qwen2_vl")).contains("expected \"qwen2_5_vl\", found \"qwen2_vl\""));
    assert!(refused("/hidden_size", json!("32")).contains("hidden_size: expected a whole number, found \"32\""));
    assert!(refused("/hidden_size", json!(0)).contains("hidden_size"));
    assert!(refused("/vocab_size", json!(-1)).contains("vocab_size"));
    assert!(refused("/num_key_value_heads", json!(3)).contains("multiple of num_key_value_heads"));
    assert!(refused("/rope_scaling/mrope_section", json!([1, 1, 1])).contains("mrope_section"));
    assert!(refused("/vision_config/out_hidden_size", json!(31)).contains("out_hidden_size"));
    for (pointer, values) in [
        ("/intermediate_size", vec![json!(0), json!(i64::MAX)]),
        ("/hidden_size", vec![json!(20)]), // heads of 5
        ("/image_token_id", vec![json!(VOCABULARY), json!(-1)]),
        ("/vision_end_token_id", vec![json!(VOCABULARY)]),
        ("/rope_scaling/mrope_section", vec![json!([-1, 2, 3]), json!([i64::MAX, i64::MAX, 6])]),
        ("/vision_config/depth", vec![json!(0)]),
        ("/vision_config/intermediate_size", vec![json!(0)]),
        ("/vision_config/patch_size", vec![json!(i64::MAX)]),
        ("/vision_config/window_size", vec![json!(7), json!(0), json!(-16)]),
        ("/vision_config/tokens_per_second", vec![json!(1e300), json!(-2)]),
        ("/rope_theta", vec![json!(0)]),
    ] {
        for value in values {
            let message = refused(pointer, value);
            assert!(message.contains(pointer.rsplit('/').next().unwrap()), "{message}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("config.json"), "{");
    assert!(ModelConfig::from_dir(folder.path()).unwrap_err().to_string().contains("config.json"));
}

#[test]
fn the_flat_and_the_nested_layout_are_one_configuration() {
    for name in ["untied", "tied", "image-and-video"] {
        let nested = json_file(&Golden::read(name).dir.join("config.json"));
        let both = [read_config(&nested).unwrap(), read_config(&flat(&nested)).unwrap()];
        assert_eq!(both[0], both[1]);
        assert_eq!(both[0].text.tie_word_embeddings, name == "tied");
    }
}

#[test]
fn shards_load_as_one_checkpoint_and_a_missing_one_is_named() {
    let folder = copy_of("untied");
    let whole = load(folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = read_safetensors(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let shard = |index: usize| format!("model-0000{}-of-00003.safetensors", index % 3 + 1);
    let mut shards: BTreeMap<String, BTreeMap<String, Tensor>> = BTreeMap::new();
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        shards.entry(shard(index)).or_default().insert(name.clone(), tensor.shallow_clone());
    }
    shards.iter().for_each(|(name, tensors)| store(&folder.path().join(name), tensors));
    let map: BTreeMap<_, _> = tensors.keys().enumerate().map(|(index, name)| (name, shard(index))).collect();
    let index = folder.path().join("model.safetensors.index.json");
    write(&index, json!({ "metadata": {}, "weight_map": map }).to_string());
    assert_same_tensors(&load(folder.path()).unwrap(), &whole);

    // Its index would hide what is saved beside it.
    let refused = whole.save(folder.path()).unwrap_err().to_string();
    assert!(refused.contains("model.safetensors.index.json"), "{refused}");
    let saved = tempfile::tempdir().unwrap();
    load(folder.path()).unwrap().save(saved.path()).unwrap();
    assert!(!saved.path().join("model.safetensors.index.json").exists());
    assert_same_tensors(&load(saved.path()).unwrap(), &whole);

    fs::remove_file(folder.path().join(shard(1))).unwrap();
    assert!(error(folder.path()).contains("model-00002-of-00003.safetensors"));
    write(&index, json!({ "weight_map": { "a": "../model.safetensors" } }).to_string());
    assert!(error(folder.path()).contains("expected plain file names"));
    write(&index, "{}");
    assert!(error(folder.path()).contains("missing field weight_map"));
}

#[test]
fn the_names_of_later_libraries_load_and_the_released_ones_are_saved() {
    let folder = copy_of("untied");
    let released = load(folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let later = |name: String| match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None if name.starts_with("visual.") => format!("model.{name}"),
        None => name,
    };
    let tensors = read_safetensors(&path).unwrap().into_iter().map(|(name, tensor)| (later(name), tensor)).collect();
    store(&path, &tensors);
    assert!(tensors.contains_key("model.visual.patch_embed.proj.weight"));
    let model = load(folder.path()).unwrap();
    assert_same_tensors(&model, &released);
    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path()).unwrap();
    let names = read_safetensors(&saved.path().join("model.safetensors")).unwrap();
    assert!(names.contains_key("visual.patch_embed.proj.weight") && names.contains_key("model.norm.weight"));
}

#[test]
fn a_model_survives_saving_bit_for_bit_with_all_its_companions() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let folder = copy_of("released-config");
        let companions = [
            "tokenizer.json",
            "tokenizer_config.json",
            "preprocessor_config.json",
            "vocab.json",
            "merges.txt",
            "chat_template.jinja",
        ];
        companions.iter().for_each(|name| write(&folder.path().join(name), format!("as {name} was")));
        let model = Vlm::load(folder.path(), &options(kind)).unwrap();
        let saved = tempfile::tempdir().unwrap();
        model.save(saved.path()).unwrap();
        assert_same_tensors(&Vlm::load(saved.path(), &options(kind)).unwrap(), &model);
        for name in companions.into_iter().chain(["config.json", "generation_config.json"]) {
            assert_eq!(fs::read(saved.path().join(name)).unwrap(), fs::read(folder.path().join(name)).unwrap());
        }
        let files = fs::read_dir(saved.path()).unwrap().count();
        assert_eq!(files, companions.len() + 3, "nothing else is left there");
        // Over itself, too.
        model.save(folder.path()).unwrap();
        assert_same_tensors(&Vlm::load(folder.path(), &options(kind)).unwrap(), &model);
    }
}

#[test]
fn only_the_files_that_belong_to_a_model_are_saved_with_it() {
    let folder = copy_of("untied");
    for name in ["notes.txt", "trainer_state.json"] {
        write(&folder.path().join(name), "mine");
    }
    let saved = tempfile::tempdir().unwrap();
    let target = saved.path().join("new/folder");
    load(folder.path()).unwrap().save(&target).unwrap();
    let names = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<_> = names.filter(|name| !name.ends_with("config.json")).collect();
    assert_eq!(names, ["model.safetensors"]);
}

#[test]
fn an_error_chain_names_the_file_and_the_cause_once() {
    let chain = |error: PolicyError| {
        let mut text = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        text
    };
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    write(&blocked, "");
    // Reading what is not there, and writing below what is no folder.
    let path = blocked.join("model.safetensors");
    let tensor = Tensor::zeros([1], (Kind::Float, Device::Cpu));
    let (read, write) = (load(folder.path()).unwrap_err(), write_safetensors(&path, [("x", &tensor)]).unwrap_err());
    for (error, path, cause) in [(read, folder.path().join("config.json"), "No such file"), (write, path, "(os error")]
    {
        let text = chain(error);
        assert_eq!(text.matches(path.to_str().unwrap()).count(), 1, "{text}");
        assert_eq!(text.matches(cause).count(), 1, "{text}");
        assert!(text.starts_with("cannot access") && !text.contains("partial"), "{text}");
    }
}

#[test]
fn a_tied_model_is_saved_without_a_head_and_loads_with_a_copy_of_it() {
    let folder = copy_of("tied");
    let model = load(folder.path()).unwrap();
    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path()).unwrap();
    let path = saved.path().join("model.safetensors");
    let mut tensors = read_safetensors(&path).unwrap();
    assert!(!tensors.contains_key("lm_head.weight"));
    let embedding = tensors["model.embed_tokens.weight"].shallow_clone();
    tensors.insert("lm_head.weight".into(), embedding);
    store(&path, &tensors);
    assert_same_tensors(&load(saved.path()).unwrap(), &model);
}

#[test]
fn the_same_seed_gives_the_same_random_model() {
    let random = |seed| random_with(&config(), &options(Kind::Float), seed);
    assert_same_tensors(&random(4), &random(4));
    assert_ne!(random(4).tensors()[0].1, random(5).tensors()[0].1);
}
