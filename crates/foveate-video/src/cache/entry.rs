//! A cache entry: frames as a sealed safetensors file.

use image::RgbImage;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::Frames;

/// The file's bytes: the frames, all of one size, sealed.
pub(super) fn serialise(frames: &Frames) -> Result<Vec<u8>, String> {
    let first = frames.images.first().ok_or("expected at least one frame, found none")?;
    if frames.images.iter().any(|i| i.dimensions() != first.dimensions()) {
        return Err("expected frames of one size".to_owned());
    }
    let count = frames.images.len();
    let pixels: Vec<u8> = frames.images.iter().flat_map(|i| i.as_raw()).copied().collect();
    let indices: Vec<u8> = frames.indices.iter().flat_map(|&i| (i as i64).to_le_bytes()).collect();
    let times: Vec<u8> = frames.times.iter().flat_map(|t| t.to_le_bytes()).collect();
    let video: Vec<u8> = [frames.total_frames as f64, frames.duration].iter().flat_map(|x| x.to_le_bytes()).collect();
    let shape = vec![count, first.height() as usize, first.width() as usize, 3];
    let view = |dtype, shape, data| TensorView::new(dtype, shape, data).map_err(|e| e.to_string());
    let tensors = [
        ("frames", view(Dtype::U8, shape, &pixels)?),
        ("indices", view(Dtype::I64, vec![count], &indices)?),
        ("times", view(Dtype::F64, vec![count], &times)?),
        ("video", view(Dtype::F64, vec![2], &video)?),
        ("seal", view(Dtype::U8, vec![32], &[0; 32])?),
    ];
    let mut bytes = safetensors::serialize(tensors, None).map_err(|e| e.to_string())?;
    let at = seal_in(&bytes, &SafeTensors::deserialize(&bytes).map_err(|e| e.to_string())?)?;
    let seal = blake3::hash(&bytes);
    bytes[at].copy_from_slice(seal.as_bytes());
    Ok(bytes)
}

/// Where the seal stands: BLAKE3 of the whole file with the seal itself as zeros.
fn seal_in(bytes: &[u8], file: &SafeTensors<'_>) -> Result<std::ops::Range<usize>, String> {
    let seal = file.tensor("seal").map_err(|e| e.to_string())?.data();
    let start = seal.as_ptr() as usize - bytes.as_ptr() as usize;
    if seal.len() == 32 { Ok(start..start + 32) } else { Err("`seal`: expected 32 bytes".to_owned()) }
}

/// The frames in a file's bytes, if they are as they were written.
pub(super) fn parse(bytes: &[u8]) -> Result<Frames, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let at = seal_in(bytes, &file)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..at.start]).update(&[0; 32]).update(&bytes[at.end..]);
    if hasher.finalize().as_bytes() != &bytes[at] {
        return Err("the file is damaged: its contents do not have their hash".to_owned());
    }
    let tensor = |name, dtype| {
        let tensor = file.tensor(name).map_err(|e| e.to_string())?;
        if tensor.dtype() == dtype {
            Ok(tensor)
        } else {
            Err(format!("`{name}`: expected {dtype:?}, found {:?}", tensor.dtype()))
        }
    };
    let frames = tensor("frames", Dtype::U8)?;
    let &[count, height, width, 3] = frames.shape() else {
        return Err(format!("`frames`: expected [N, H, W, 3], found {:?}", frames.shape()));
    };
    let size = height * width * 3;
    if size == 0 {
        return Err("`frames`: expected pictures, found an empty size".to_owned());
    }
    let images: Vec<RgbImage> = frames
        .data()
        .chunks_exact(size)
        .filter_map(|raw| RgbImage::from_raw(width as u32, height as u32, raw.to_vec()))
        .collect();
    let indices =
        words(tensor("indices", Dtype::I64)?.data()).map(|w| i64::from_le_bytes(w) as usize).collect::<Vec<_>>();
    let times: Vec<f64> = words(tensor("times", Dtype::F64)?.data()).map(f64::from_le_bytes).collect();
    let video: Vec<f64> = words(tensor("video", Dtype::F64)?.data()).map(f64::from_le_bytes).collect();
    match &video[..] {
        &[total, duration] if [images.len(), indices.len(), times.len()] == [count; 3] => {
            Ok(Frames { images, indices, times, total_frames: total as usize, duration })
        }
        _ => Err(format!("expected {count} frames, indices and times, and the facts of the video")),
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 8]> + '_ {
    bytes.as_chunks::<8>().0.iter().copied()
}
