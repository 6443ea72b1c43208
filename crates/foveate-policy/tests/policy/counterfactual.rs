//! Prompts with an altered video.

use std::sync::Arc;

use foveate_algo::Layers;
use foveate_policy::{
    Alteration, Completions, Encoded, GroupForward, LoadOptions, Media, Prompt, Segment, Shown, Trainable, Vlm,
};
use foveate_video::Patches;
use tch::{Device, Kind};

use crate::common::{Part, assert_close, difference, prompt, random, words};

fn frozen(seed: i64) -> Vlm {
    random(&LoadOptions { trainable: Trainable::Nothing, ..LoadOptions::default() }, seed)
}

/// An image and two videos of 3 and 2 frames, frames of one size within each.
fn shown(seed: usize) -> Prompt {
    let parts = [
        Part::Text(2),
        Part::Image { h: 1, w: 2 },
        Part::Video { t: 3, h: 2, w: 1, seconds: 0.7 },
        Part::Text(3),
        Part::Video { t: 2, h: 1, w: 1, seconds: 0.4 },
        Part::Text(2),
    ];
    prompt(&parts, seed)
}

/// The same with other pixels in some frames, counted over both videos.
fn repainted(original: &Prompt, frames: &[usize]) -> Prompt {
    let mut first = 0;
    let repaint = |medium: &Media| {
        let Media::Video(patches) = medium else { return medium.clone() };
        let (grid, mut pixels) = (patches.grid, patches.pixels.clone());
        for (row, mut pixels) in pixels.rows_mut().into_iter().enumerate() {
            if frames.contains(&(first + row / (grid.h * grid.w))) {
                pixels.mapv_inplace(|value| 0.5 - value);
            }
        }
        first += grid.t;
        Media::Video(Arc::new(Patches::new(pixels, grid, patches.second_per_grid)))
    };
    Prompt { ids: original.ids.clone(), media: original.media.iter().map(repaint).collect() }
}

fn forward(model: &Vlm, prompt: &Encoded) -> GroupForward {
    let completions = Completions::new(&words(&[4, 6], 1), Device::Cpu);
    model.forward(&[Segment { prompt, completions: &completions }], Some(Layers::All)).unwrap().remove(0)
}

#[test]
fn what_stands_in_zeroed_or_hidden_frames_does_not_matter_and_what_stands_elsewhere_does() {
    let model = frozen(1);
    for alter in [Alteration::Zeroed, Alteration::Hidden] {
        for frames in [vec![1], (0..5).collect(), vec![4, 2]] {
            let altered = |sequence: &Prompt| {
                let encoded = model.encode(sequence).unwrap();
                forward(&model, &model.altered(&encoded, &alter(Shown::Frames(frames.clone()))).unwrap()).hidden
            };
            let original = shown(1);
            let plain = forward(&model, &model.encode(&original).unwrap()).hidden;
            let found = altered(&original);
            assert!(difference(&found, &plain) > 1e-3, "the alteration is seen");
            assert_close("same", &altered(&repainted(&original, &frames)), &found, 1e-6);
            let others: Vec<_> = (0..5).filter(|frame| !frames.contains(frame)).collect();
            if !others.is_empty() {
                assert!(difference(&altered(&repainted(&original, &others)), &found) > 1e-3, "{frames:?}");
            }
        }
    }
}

#[test]
fn hidden_frames_get_no_attention_and_leave_the_positions_of_all_others() {
    let model = frozen(2);
    let encoded = model.encode(&shown(2)).unwrap();
    let hidden = model.altered(&encoded, &Alteration::Hidden(Shown::Frames(vec![0, 3]))).unwrap();
    assert_eq!((hidden.tokens(), hidden.video_tokens()), (encoded.tokens() - 3, encoded.video_tokens() - 3));
    assert_eq!((hidden.frames(), hidden.videos()), (5, [3, 2].as_slice()));
    // An image of 2 tokens behind 2 words and the mark before it, then a mark at each end of a picture.
    let gone = [7, 8, 18];
    let kept: Vec<i64> = (0..encoded.tokens() as i64).filter(|row| !gone.contains(row)).collect();
    assert_eq!(*hidden.positions(), encoded.positions().index_select(1, &tch::Tensor::from_slice(&kept)));
    let mass = forward(&model, &hidden).frame_attention.unwrap().sum_dim_intlist(
        [0_i64, 1, 2].as_slice(),
        false,
        Kind::Double,
    );
    let seen: Vec<bool> = (0..5).map(|frame| mass.double_value(&[frame]) > 0.0).collect();
    assert_eq!(seen, [false, true, true, false, true]);
}

#[test]
fn all_that_is_shown_can_be_zeroed_or_hidden_images_included() {
    let model = frozen(6);
    let shows = |seed| prompt(&[Part::Text(2), Part::Image { h: 1, w: 2 }, Part::Text(3)], seed);
    for alter in [Alteration::Zeroed, Alteration::Hidden] {
        let [one, other] = [1, 2].map(|seed| {
            let sequence = Prompt { ids: shows(1).ids, media: shows(seed).media };
            let encoded = model.encode(&sequence).unwrap();
            forward(&model, &model.altered(&encoded, &alter(Shown::All)).unwrap()).hidden
        });
        assert_close("hidden states", &one, &other, 1e-6);
        let plain = forward(&model, &model.encode(&shows(1)).unwrap()).hidden;
        assert!(difference(&one, &plain) > 1e-3);
    }
}

#[test]
fn reordered_frames_are_those_of_a_reordered_video() {
    for trainable in [Trainable::Nothing, Trainable::All] {
        let model = random(&LoadOptions { trainable, ..LoadOptions::default() }, 3);
        let original = shown(3);
        let order = [2, 0, 1, 4, 3];
        let mut first = 0;
        let moved = |medium: &Media| {
            let Media::Video(patches) = medium else { return medium.clone() };
            let frame = patches.grid.h * patches.grid.w;
            let rows = order[first..first + patches.grid.t].iter();
            let rows: Vec<_> = rows.flat_map(|shown| (shown - first) * frame..(shown - first + 1) * frame).collect();
            first += patches.grid.t;
            let pixels = patches.pixels.select(ndarray::Axis(0), &rows);
            Media::Video(Arc::new(Patches::new(pixels, patches.grid, patches.second_per_grid)))
        };
        let video = Prompt { ids: original.ids.clone(), media: original.media.iter().map(moved).collect() };
        let expected = tch::no_grad(|| forward(&model, &model.encode(&video).unwrap()).hidden);
        let encoded = model.encode(&original).unwrap();
        let altered = model.altered(&encoded, &Alteration::Reordered(order.to_vec())).unwrap();
        let found = tch::no_grad(|| forward(&model, &altered).hidden);
        assert_close("hidden states", &found, &expected, 1e-5);
    }
}

#[test]
fn another_prompts_videos_take_the_place_of_ones_own_in_turn() {
    let model = frozen(4);
    let part = |t| Part::Video { t, h: 1, w: 2, seconds: 0.3 };
    let image = Part::Image { h: 1, w: 1 };
    let own = prompt(&[Part::Text(1), part(2), image.clone(), part(1), Part::Text(2)], 5);
    let other = prompt(&[part(4), Part::Text(7)], 6);
    let mut expected = prompt(&[Part::Text(1), part(4), image, part(4), Part::Text(2)], 5);
    expected.media = vec![other.media[0].clone(), own.media[1].clone(), other.media[0].clone()];
    let found = model.with_videos_of(&own, &other).unwrap();
    let expected = model.encode(&expected).unwrap();
    assert_eq!(found.positions(), expected.positions());
    assert_close("hidden states", &forward(&model, &found).hidden, &forward(&model, &expected).hidden, 1e-6);
    let error = model.with_videos_of(&own, &prompt(&[Part::Text(3)], 1)).unwrap_err().to_string();
    assert!(error.contains("the other prompt has no video"), "{error}");
}

#[test]
fn frames_that_do_not_exist_and_orders_that_are_none_are_errors() {
    let model = frozen(5);
    let encoded = model.encode(&shown(5)).unwrap();
    let error = |alteration| model.altered(&encoded, &alteration).unwrap_err().to_string();
    assert!(error(Alteration::Zeroed(Shown::Frames(vec![0, 5]))).contains("frame 5 of a prompt with 5"));
    assert!(error(Alteration::Reordered(vec![0, 1, 1, 3, 4])).contains("expected an order of 5 frames"));
    assert!(error(Alteration::Reordered(vec![3, 1, 2, 0, 4])).contains("frame 3 has another size than frame 0"));
}
