//! Rotary positions: the text decoder's three-axis mRoPE and the vision tower's two-axis rotary embedding.

use tch::{Device, Kind, Tensor};

use crate::{
    PolicyError,
    config::{ModelConfig, TextConfig},
    input::{Media, Prompt},
};

/// Cosines and sines that rotate queries and keys: each `[N, E]`.
#[derive(Debug)]
pub(crate) struct Rope {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    fn from_angles(angles: &Tensor /* [N, E/2] */, kind: Kind) -> Self {
        let both = Tensor::cat(&[angles, angles], -1);
        Self { cos: both.cos().to_kind(kind), sin: both.sin().to_kind(kind) }
    }

    /// mRoPE of the text decoder. `positions`: `[3, N]` (t, h, w) integers; each frequency follows the axis whose
    /// section of `mrope_section` it lies in.
    pub(crate) fn text(config: &TextConfig, positions: &Tensor, kind: Kind) -> Self {
        let frequencies = inverse_frequencies(config.head_dim(), config.rope_theta, positions.device());
        let mut start = 0;
        let parts = config.mrope_section.iter().enumerate().map(|(axis, width)| {
            let section = frequencies.narrow(0, start, *width);
            start += width;
            positions.get(axis as i64).to_kind(Kind::Float).unsqueeze(-1) * section
        });
        Self::from_angles(&Tensor::cat(&parts.collect::<Vec<_>>(), -1), kind)
    }

    /// Rotary embedding of the vision tower. `rows`, `columns`: `[N]` patch coordinates.
    pub(crate) fn vision(head_dim: i64, rows: &Tensor, columns: &Tensor) -> Self {
        // theta 10000 is a constant of the architecture that config.json leaves out.
        let frequencies = inverse_frequencies(head_dim / 2, 10_000.0, rows.device());
        let angles = [rows, columns].map(|axis| axis.to_kind(Kind::Float).unsqueeze(-1) * &frequencies);
        Self::from_angles(&Tensor::cat(&angles, -1), Kind::Float)
    }

    /// The rotations as complex numbers `[N, E/2]`, for heads whose numbers that rotate together lie side by side.
    pub(crate) fn rotations(&self) -> Tensor {
        let half = self.cos.size()[1] / 2;
        let [cos, sin] = [&self.cos, &self.sin].map(|x| x.narrow(1, 0, half).to_kind(Kind::Float));
        Tensor::complex(&cos, &sin)
    }

    /// Rotates `x`: `[N, heads, E]`.
    pub(crate) fn rotate(&self, x: &Tensor) -> Tensor {
        let kind = x.kind();
        let wider = if kind == Kind::Double { kind } else { self.cos.kind() };
        let [x, cos, sin] = [x, &self.cos, &self.sin].map(|x| x.to_kind(wider));
        let half = x.size()[2] / 2;
        let turned = Tensor::cat(&[-x.narrow(-1, half, half), x.narrow(-1, 0, half)], -1);
        let rotated = x * cos.unsqueeze(1) + turned * sin.unsqueeze(1);
        rotated.to_kind(kind)
    }
}

/// A medium's last temporal position must not be farther than this from its first: sums of such positions cannot
/// overflow, and no model reaches as far.
const FARTHEST: f32 = (1_u32 << 31) as f32;

fn inverse_frequencies(dim: i64, theta: f64, device: Device) -> Tensor {
    let exponents = Tensor::arange_start_step(0, dim, 2, (Kind::Float, device)) / dim as f64;
    Tensor::from(theta as f32).to_device(device).pow(&exponents).reciprocal()
}

/// Positions of a prompt's tokens on the three axes, `[3][P]`, and the position of the token after it.
///
/// Rule of the released checkpoints: text counts up on all axes; a picture's merged patches get
/// t = int((t * second_per_grid) * tokens_per_second) in f32, h and w from the grid, all offset by the position that
/// text had reached; text goes on at the largest position + 1.
///
/// # Errors
/// [`PolicyError::Prompt`] where pads and media do not fit each other.
pub(crate) fn positions(config: &ModelConfig, prompt: &Prompt) -> Result<([Vec<i64>; 3], i64), PolicyError> {
    let mut axes: [Vec<i64>; 3] = Default::default();
    let mut next = 0;
    let mut media = prompt.media.iter();
    let mut token = 0;
    while token < prompt.ids.len() {
        let id = prompt.ids[token];
        if id != config.video_token_id && id != config.image_token_id {
            axes.iter_mut().for_each(|axis| axis.push(next));
            next += 1;
            token += 1;
            continue;
        }
        let medium = media.next().ok_or_else(|| {
            PolicyError::Prompt(format!(
                "token {token} is a media pad, but all {} media are used up",
                prompt.media.len()
            ))
        })?;
        let (t, h, w) = merged_grid(config, medium);
        let count = t * h * w;
        let matches = |pad: i64| prompt.ids[token..].iter().take(count).filter(|id| **id == pad).count();
        let found = matches(medium.pad_token(config));
        if found != count {
            return Err(PolicyError::Prompt(format!(
                "{} at token {token}: expected {count} pads for its {t}x{h}x{w} merged grid, found {found}",
                medium.name()
            )));
        }
        let seconds = medium.patches().second_per_grid;
        let last = (t.saturating_sub(1) as f32 * seconds) * config.vision.tokens_per_second;
        if !(0.0..=FARTHEST).contains(&last) || !(0.0..=FARTHEST).contains(&seconds) {
            return Err(PolicyError::Prompt(format!(
                "{} at token {token}: expected seconds per grid that put its {t} grids within {FARTHEST} positions, \
                 found {seconds}",
                medium.name()
            )));
        }
        let mut largest = next;
        for index in 0..count {
            let along_time = ((index / (h * w)) as f32 * seconds) * config.vision.tokens_per_second;
            let offsets = [along_time as i64, (index / w % h) as i64, (index % w) as i64];
            for (axis, offset) in axes.iter_mut().zip(offsets) {
                axis.push(next + offset);
                largest = largest.max(next + offset);
            }
        }
        next = largest + 1;
        token += count;
    }
    match media.count() {
        0 => Ok((axes, next)),
        left => Err(PolicyError::Prompt(format!("{left} media have no pads in the prompt"))),
    }
}

/// Grid of a picture in merged patches: frames, rows, columns.
pub(crate) fn merged_grid(config: &ModelConfig, media: &Media) -> (usize, usize, usize) {
    let grid = &media.patches().grid;
    let merge = config.vision.spatial_merge_size as usize;
    (grid.t, grid.h / merge, grid.w / merge)
}
