//! The synthetic scenes: what the tiny model is taught and tested on must be there to see.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use foveate_video::scenes::{
    Colour, Event, FRAMES, GRIDS, Kind, KindWeights, SIDE, Scene, SceneRecord, SceneSpec, Split, State, vocabulary,
    write, write_lookup,
};
use foveate_video::{DecodeOptions, ImageProcessor, PixelBudget, Sampling};

fn spec(split: Split, count: usize) -> SceneSpec {
    SceneSpec { seed: 5, count, split, kinds: KindWeights::default() }
}

fn scenes(split: Split, count: usize) -> Vec<Scene> {
    (0..count).map(|index| spec(split, count).scene(index)).collect()
}

/// Scenes of one kind.
fn only(kind: Kind, count: usize) -> Vec<Scene> {
    let weights = Kind::ALL.iter().map(|&other| (other.word().to_owned(), f64::from(other == kind).into())).collect();
    let kinds = serde_json::from_value(serde_json::Value::Object(weights)).unwrap();
    let spec = SceneSpec { kinds, ..spec(Split::Train, count) };
    (0..count).map(|index| spec.scene(index)).collect()
}

/// The tiny model's preprocessing: patch 8, merge 2, 32 x 32 pixels.
fn tiny() -> ImageProcessor {
    ImageProcessor {
        patch_size: 8,
        merge_size: 2,
        temporal_patch_size: 2,
        image_mean: [0.5; 3],
        image_std: [0.5; 3],
        min_pixels: 1024,
        max_pixels: 1024,
    }
}

fn records(path: &Path) -> Vec<SceneRecord> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn answers_are_right_and_targets_say_them() {
    for scene in scenes(Split::Train, 500) {
        let letters: Vec<&str> = scene.answer.split(',').collect();
        let chosen: BTreeSet<&str> = letters
            .iter()
            .map(|letter| scene.options.iter().find(|o| o.starts_with(letter)).unwrap().split_once('.').unwrap().1)
            .collect();
        let mut acting: Vec<_> = scene.objects.iter().filter(|o| o.event != Event::None).collect();
        acting.sort_by_key(|o| o.event.window().unwrap().start);
        let truth: BTreeSet<&str> = match scene.kind {
            Kind::Flash => [acting[0].shape.word()].into(),
            Kind::Order => [acting[0].colour.word()].into(),
            Kind::Popup | Kind::Multi | Kind::Stop | Kind::Swap => acting.iter().map(|o| o.colour.word()).collect(),
            Kind::Dir => match acting[0].event {
                Event::Moves(_, direction) => [direction.word()].into(),
                other => panic!("{other:?}"),
            },
        };
        assert_eq!(chosen, truth, "{scene:?}");
        let several = match scene.kind {
            Kind::Multi => 2..=3,
            Kind::Swap => 2..=2,
            _ => 1..=1,
        };
        assert!(several.contains(&letters.len()), "{scene:?}");
        assert!(scene.target.ends_with(&format!("<answer> {} </answer>", scene.answer.replace(',', " , "))));
        assert_eq!(scene.options.iter().collect::<BTreeSet<_>>().len(), 4);
    }
}

#[test]
fn every_word_is_in_the_vocabulary() {
    let words = vocabulary();
    let known: BTreeSet<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(known.len(), words.len());
    assert!(words.len() < 130, "{}", words.len());
    for scene in scenes(Split::Sft, 500) {
        for word in scene.question.split(' ').chain(scene.target.split(' ')).chain(scene.options.iter().map(|o| &**o)) {
            assert!(known.contains(word), "{word}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    for record in records(&write_lookup(dir.path(), 1, 100).unwrap()) {
        assert_eq!(record.video, None);
        for word in record.question.split(' ').chain(record.target.split(' ')) {
            assert!(known.contains(word), "{word}");
        }
    }
}

#[test]
fn letters_and_kinds_are_balanced() {
    let scenes = scenes(Split::Test, 2000);
    let (mut letters, mut pairs): (BTreeMap<&str, usize>, BTreeMap<&str, usize>) = Default::default();
    let mut kinds: BTreeMap<Kind, usize> = BTreeMap::new();
    for scene in &scenes {
        *kinds.entry(scene.kind).or_default() += 1;
        let answers = if scene.kind == Kind::Swap { &mut pairs } else { &mut letters };
        if scene.kind != Kind::Multi {
            *answers.entry(&scene.answer).or_default() += 1;
        }
    }
    assert!(kinds.len() == 7 && kinds.values().all(|n| (230..340).contains(n)), "{kinds:?}");
    assert!(letters.len() == 4 && letters.values().all(|n| (300..415).contains(n)), "{letters:?}");
    assert!(pairs.len() == 6 && pairs.values().all(|n| (30..70).contains(n)), "{pairs:?}");
}

#[test]
fn weights_steer_the_kinds() {
    assert!(only(Kind::Flash, 20).iter().all(|scene| scene.kind == Kind::Flash));
}

#[test]
fn splits_share_no_scene_and_counts_do_not_matter() {
    let [train, test, sft] = [Split::Train, Split::Test, Split::Sft].map(|s| scenes(s, 200));
    let pictures =
        |scenes: &[Scene]| -> BTreeSet<Vec<u8>> { scenes.iter().map(|s| s.frames()[0].as_raw().clone()).collect() };
    let [train_set, test_set, sft_set] = [&train, &test, &sft].map(|s| pictures(s));
    assert!(train_set.is_disjoint(&test_set) && train_set.is_disjoint(&sft_set) && test_set.is_disjoint(&sft_set));
    assert_eq!(spec(Split::Train, 7).scene(6), train[6]);
    let other_seed = SceneSpec { seed: 6, ..spec(Split::Train, 200) };
    assert_ne!(other_seed.scene(0).frames(), train[0].frames());
}

#[test]
fn events_fill_whole_grids_and_cells_show_them() {
    for scene in scenes(Split::Train, 300) {
        assert_eq!(scene.frames().len(), FRAMES);
        let cells = scene.cells();
        assert_eq!(cells.len(), GRIDS);
        for (grid, quadrants) in cells.iter().enumerate() {
            let calm = |state| match scene.kind {
                Kind::Stop => state != State::Still,
                _ => matches!(state, State::Empty | State::Still),
            };
            assert!(quadrants.iter().all(|c| c.event != calm(c.state)), "grid {grid} of {scene:?}");
            let happening = quadrants.iter().any(|c| c.event);
            assert_eq!(happening, scene.grids.contains(&grid), "grid {grid} of {scene:?}");
        }
        for span in &scene.spans {
            let frames = span.map(|t| t * 8.0);
            assert!(frames.iter().all(|f| f % 2.0 == 0.0) && (2.0..=4.0).contains(&(frames[1] - frames[0])));
        }
        assert!(!scene.grids.is_empty() && !scene.grids.contains(&0));
    }
}

#[test]
fn a_moving_shape_moves_within_every_grid_of_its_window() {
    for scene in only(Kind::Dir, 20) {
        let frames = scene.frames();
        for grid in 0..GRIDS {
            let changed = frames[2 * grid]
                .as_raw()
                .iter()
                .zip(frames[2 * grid + 1].as_raw())
                .filter(|(a, b)| a.abs_diff(**b) > 100);
            let moves = changed.count() > 300;
            assert_eq!(moves, scene.grids.contains(&grid), "grid {grid} of {}", scene.id);
        }
    }
}

/// Pixels of a quadrant that clearly differ between two frames.
fn changed(first: &image::RgbImage, second: &image::RgbImage, quadrant: u32) -> usize {
    let side = SIDE / 2;
    let corner = (quadrant % 2 * side, quadrant / 2 * side);
    let differs = |i: &u32| {
        let (x, y) = (corner.0 + i % side, corner.1 + i / side);
        (0..3).any(|c| first.get_pixel(x, y).0[c].abs_diff(second.get_pixel(x, y).0[c]) > 100)
    };
    (0..side * side).filter(differs).count()
}

#[test]
fn a_shape_that_stops_stands_still_in_its_window_only_and_the_others_never() {
    for scene in only(Kind::Stop, 30) {
        let frames = scene.frames();
        assert!(!scene.grids.contains(&(GRIDS - 1)), "it goes on before the end");
        for grid in 0..GRIDS {
            for object in &scene.objects {
                let moved = changed(&frames[2 * grid], &frames[2 * grid + 1], object.quadrant as u32) > 150;
                let stands = object.event != Event::None && scene.grids.contains(&grid);
                assert_eq!(moved, !stands, "{object:?} in grid {grid} of {}", scene.id);
            }
        }
    }
}

#[test]
fn two_shapes_change_places_within_one_grid_and_stay_there() {
    let shows = |frame: &image::RgbImage, quadrant: usize, colour: Colour| {
        let rgb = image::Rgb(colour.rgb());
        let (x, y) = (quadrant as u32 % 2 * SIDE / 2, quadrant as u32 / 2 * SIDE / 2);
        (0..SIDE * SIDE / 4).any(|i| frame.get_pixel(x + i % (SIDE / 2), y + i / (SIDE / 2)) == &rgb)
    };
    for scene in only(Kind::Swap, 30) {
        let (frames, start) = (scene.frames(), 2 * scene.grids[0]);
        assert_eq!((scene.grids.len(), scene.spans.len()), (1, 1));
        for (index, frame) in frames.iter().enumerate() {
            for object in &scene.objects {
                let place = match object.event {
                    Event::Swaps(_, other) if index > start => other,
                    _ => object.quadrant,
                };
                assert!(shows(frame, place, object.colour), "{object:?} in frame {index} of {}", scene.id);
            }
        }
    }
}

#[test]
fn written_scenes_decode_and_colours_survive() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(Split::Test, 24);
    let written = write(dir.path(), &spec, &|_| {}).unwrap();
    let budget = PixelBudget { min_pixels: 1024, max_pixels: 1024, total_pixels: None };
    for (record, index) in records(&written.records).iter().zip(0..) {
        let scene = spec.scene(index);
        assert_eq!((&record.id, &record.question, &record.answer), (&scene.id, &scene.question, &scene.answer));
        let path = dir.path().join(record.video.as_ref().unwrap());
        let frames = tiny()
            .decode_video(&path, &Sampling::Uniform { frames: FRAMES }, &budget, &DecodeOptions::default())
            .unwrap();
        assert_eq!((frames.total_frames, frames.duration), (FRAMES, 2.0));
        assert_eq!(frames.images[0].dimensions(), (32, 32));
        for (grid, cells) in scene.cells().iter().enumerate() {
            for (quadrant, cell) in cells.iter().enumerate() {
                let Some(colour) = cell.colour else { continue };
                let nearest = closest(&frames.images[2 * grid], quadrant as u32, colour.rgb());
                assert!(nearest < 60.0, "{} grid {grid} quadrant {quadrant}: {colour:?} is off by {nearest}", scene.id);
            }
        }
    }
}

/// Distance of the mean of the 12 pixels of a quadrant nearest to a colour.
fn closest(image: &image::RgbImage, quadrant: u32, colour: [u8; 3]) -> f64 {
    let distance = |rgb: [f64; 3]| (0..3).map(|c| (rgb[c] - f64::from(colour[c])).powi(2)).sum::<f64>().sqrt();
    let corner = (quadrant % 2 * 16, quadrant / 2 * 16);
    let mut pixels: Vec<[f64; 3]> =
        (0..256).map(|i| image.get_pixel(corner.0 + i % 16, corner.1 + i / 16).0.map(f64::from)).collect();
    pixels.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
    let mean = [0, 1, 2].map(|c| pixels[..12].iter().map(|p| p[c]).sum::<f64>() / 12.0);
    distance(mean)
}

#[test]
fn writing_again_reuses_and_another_spec_makes_anew() {
    let dir = tempfile::tempdir().unwrap();
    let first = write(dir.path(), &spec(Split::Train, 3), &|_| {}).unwrap();
    assert!(!first.reused);
    let video = dir.path().join("videos/train-00001.mp4");
    let bytes = std::fs::read(&video).unwrap();
    assert!(write(dir.path(), &spec(Split::Train, 3), &|_| {}).unwrap().reused);
    assert!(!write(dir.path(), &spec(Split::Test, 2), &|_| {}).unwrap().reused);
    assert!(write(dir.path(), &spec(Split::Train, 3), &|_| {}).unwrap().reused);

    std::fs::remove_file(&video).unwrap();
    assert!(!write(dir.path(), &spec(Split::Train, 3), &|_| {}).unwrap().reused);
    assert_eq!(std::fs::read(&video).unwrap(), bytes, "the same scene gives the same bytes");

    let changed = SceneSpec { seed: 6, ..spec(Split::Train, 2) };
    assert!(!write(dir.path(), &changed, &|_| {}).unwrap().reused);
    assert_ne!(std::fs::read(&video).unwrap(), bytes);
    assert!(!dir.path().join("videos/train-00002.mp4").exists());
}

#[test]
fn what_a_killed_process_left_is_removed_and_a_complete_set_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let litter = ["videos/.tmp-1-2-train-00000.mp4", ".tmp-1-3-train.jsonl", ".tmp-1-4-scenes.json"];
    let others = ["videos/.tmp-1-5-test-00000.mp4", ".tmp-1-6-lookup.jsonl"];
    std::fs::create_dir(dir.path().join("videos")).unwrap();
    let leave = |name: &&str| drop(std::fs::File::create(dir.path().join(name)).unwrap());
    litter.iter().chain(&others).for_each(leave);
    write(dir.path(), &spec(Split::Train, 2), &|_| {}).unwrap();
    assert!(litter.iter().all(|name| !dir.path().join(name).exists()));
    assert!(others.iter().all(|name| dir.path().join(name).exists()), "another split may be interrupted, too");

    litter.iter().for_each(leave);
    assert!(write(dir.path(), &spec(Split::Train, 2), &|_| panic!("nothing is to be made")).unwrap().reused);
    assert!(litter.iter().all(|name| dir.path().join(name).exists()));
}

#[test]
fn of_two_that_write_the_same_set_one_makes_it_and_the_other_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (made, spec) = (std::sync::atomic::AtomicUsize::new(0), spec(Split::Sft, 6));
    let count = |_| {
        made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    };
    let results = std::thread::scope(|scope| {
        [0; 2].map(|_| scope.spawn(|| write(dir.path(), &spec, &count).unwrap())).map(|thread| thread.join().unwrap())
    });
    assert_eq!(made.into_inner(), 6);
    assert_ne!(results[0].reused, results[1].reused);
}

#[test]
fn cells_are_written_beside_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let written = write(dir.path(), &spec(Split::Sft, 2), &|_| {}).unwrap();
    let line = std::fs::read_to_string(&written.cells).unwrap();
    let first: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(first["id"], "sft-00000");
    let cells: Vec<[foveate_video::scenes::Cell; 4]> = serde_json::from_value(first["cells"].clone()).unwrap();
    assert_eq!(cells, spec(Split::Sft, 2).scene(0).cells());
}
