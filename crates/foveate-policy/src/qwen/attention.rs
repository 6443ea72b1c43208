//! Scaled dot-product attention over a packed pass. Prompt rows see their prompt causally; the rows of a completion see
//! the whole prompt, whose keys and values are shared and copied for nobody, and themselves causally.
//!
//! The two parts that a completion's row sees are computed apart and joined by their log-sum-exp, as blocks are inside
//! the fused kernels. Results are constants: [`super::backward`] gives their gradients.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{
    frames::{FrameProbe, frame_mass, held_elements},
    framewise::{self, Columns, framewise},
    pack::{GroupRows, OwnRows, Pack},
    wide, wide_kind,
};
use crate::PolicyError;

/// How attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionMode {
    /// Fused kernels, without any S x S matrix: frame attention is summed up on the way (f32 on a CPU) or comes from their
    /// log-sum-exp.
    #[default]
    Fused,
    /// All weights formed explicitly: the oracle for the fused one.
    Eager,
}

/// What attention gives for a packed pass; constants.
#[derive(Debug)]
pub(crate) struct Attended {
    pub(crate) out: Tensor, // [N, H, E]
    pub(crate) lse: Tensor, // [N, H] f32, log-sum-exp of each row's scaled scores
    /// Frame attention of each group's probed rows, `[R, F]`, mean over heads; `None` where there was no probe.
    pub(crate) frames: Vec<Option<Tensor>>,
}

/// Attention of one layer. `q`: `[N, H, E]`, `k`, `v`: `[N, K, E]`; a probe for each group, or none at all.
///
/// # Errors
/// [`PolicyError::Torch`] if the computation fails.
pub(crate) fn attend(
    mode: AttentionMode,
    pack: &Pack,
    qkv: [&Tensor; 3],
    probes: &[Option<FrameProbe>],
) -> Result<Attended, PolicyError> {
    let qkv = qkv.map(Tensor::detach);
    let (mut outs, mut lses, mut frames) = (Vec::new(), Vec::new(), Vec::new());
    for (index, group) in pack.groups.iter().enumerate() {
        let [q, k, v] = [0, 1, 2].map(|i| group.of(&qkv[i]));
        let probe = probes.get(index).and_then(Option::as_ref);
        let (out, lse, mass) = match (mode, probe) {
            (AttentionMode::Fused, Some(probe)) if framewise::pays(&q, probe) => {
                let (out, lse, mass) = framewise_group(group, [&q, &k, &v], probe)?;
                (out, lse, Some(mass))
            }
            (AttentionMode::Fused, _) => {
                let (out, lse) = fused_group(group, [&q, &k, &v]);
                let mass = probe.map(|probe| frame_mass([&q, &k, &lse], probe, held_elements(q.device())));
                (out, lse, mass)
            }
            (AttentionMode::Eager, _) => eager_group(group, [&q, &k, &v], probe),
        };
        outs.push(out);
        lses.push(lse);
        frames.push(mass);
    }
    Ok(Attended { out: joined(outs), lse: joined(lses), frames })
}

/// Rows of all parts one behind the other; a single part is not copied.
pub(crate) fn joined(mut parts: Vec<Tensor>) -> Tensor {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(&parts, 0),
    }
}

/// Out `[rows, H, E]` and log-sum-exp `[rows, H]` of a group's rows.
fn fused_group(group: &GroupRows, [q, k, v]: [&Tensor; 3]) -> (Tensor, Tensor) {
    let [keys, values] = [k, v].map(|x| x.narrow(0, 0, group.prompt));
    let (out, lse) = fused(&q.narrow(0, 0, group.prompt), [&keys, &values], Sees::Causally);
    let Some(own) = &group.own else { return (out, lse) };
    let [q, k, v] = [q, k, v].map(|x| x.narrow(0, group.prompt, own.rows));
    let to_prompt = fused(&q, [&keys, &values], Sees::All);
    let to_own = fused_own(own, [&q, &k, &v]);
    let (own_out, own_lse) = merged(to_prompt, to_own);
    (Tensor::cat(&[out, own_out], 0), Tensor::cat(&[lse, own_lse], 0))
}

/// The same, and the frame attention `[R, F]` of the probed rows.
///
/// # Errors
/// [`PolicyError::Torch`] if the computation fails.
fn framewise_group(
    group: &GroupRows,
    [q, k, v]: [&Tensor; 3],
    probe: &FrameProbe,
) -> Result<(Tensor, Tensor, Tensor), PolicyError> {
    let [keys, values] = [k, v].map(|x| x.narrow(0, 0, group.prompt));
    // Rows before the first that is asked for have no need of it.
    let plain = probe.first.min(group.prompt);
    let early = (plain > 0).then(|| {
        let [q, k, v] = [q, k, v].map(|x| x.narrow(0, 0, plain));
        fused(&q, [&k, &v], Sees::Causally)
    });
    let late = q.narrow(0, plain, group.rows() - plain);
    let prompt_rows = late.narrow(0, 0, group.prompt - plain);
    let mut outs = vec![prompt_rows.zeros_like()]; // of what they have seen before: nothing
    let mut lses = vec![prompt_rows.select(2, 0).full_like(f64::NEG_INFINITY)];
    if let Some(own) = &group.own {
        let [q, k, v] = [q, k, v].map(|x| x.narrow(0, group.prompt, own.rows));
        let (out, lse) = fused_own(own, [&q, &k, &v]);
        outs.push(out);
        lses.push(lse);
    }
    let columns = Columns { k: &keys, v: &values, runs: &probe.runs, frames: probe.frames.size()[1] };
    let seen = framewise(&late, columns, plain + 1, [joined(outs), joined(lses)])?;
    let mass = seen.mass.index_select(0, &(&probe.rows - plain));
    Ok(match early {
        Some((out, lse)) => (Tensor::cat(&[out, seen.out], 0), Tensor::cat(&[lse, seen.lse], 0), mass),
        None => (seen.out, seen.lse, mass),
    })
}

/// Attention over two sets of columns from the attention over each.
fn merged((a, a_lse): (Tensor, Tensor), (b, b_lse): (Tensor, Tensor)) -> (Tensor, Tensor) {
    let lse = a_lse.logaddexp(&b_lse);
    // The share of b; a has the rest.
    let share = (b_lse - &lse).exp().unsqueeze(-1);
    (wide(&a).lerp_tensor(&wide(&b), &share).to_kind(a.kind()), lse)
}

/// Which columns a row sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sees {
    All,
    Causally,
}

/// One sequence: q `[Q, H, E]`, keys and values `[S, K, E]` -> out `[Q, H, E]`, log-sum-exp `[Q, H]`. Query heads that
/// share keys and values are a batch that reads them from one place.
fn fused(q: &Tensor, [k, v]: [&Tensor; 2], sees: Sees) -> (Tensor, Tensor) {
    let (rows, heads, width) = q.size3().unwrap_or_default();
    let shared = heads / k.size()[1];
    let q = q.view([rows, -1, shared, width]).permute([2, 1, 0, 3]); // [H/K, K, Q, E]
    let [k, v] = [k, v].map(|x| x.transpose(0, 1).unsqueeze(0).expand([shared, -1, -1, -1], false));
    let (out, lse) = kernel([&q, &k, &v], sees);
    (out.permute([2, 1, 0, 3]).reshape([rows, heads, width]), lse.permute([2, 1, 0]).reshape([rows, heads]))
}

/// Every completion of a group over itself: out `[rows, H, E]`, log-sum-exp `[rows, H]`.
fn fused_own(own: &OwnRows, [q, k, v]: [&Tensor; 3]) -> (Tensor, Tensor) {
    let shared = q.size()[1] / k.size()[1];
    let [q, k, v] = [(q, 1), (k, shared), (v, shared)].map(|(x, shared)| repeated(&own.pad(x), shared).transpose(1, 2));
    let (out, lse) = kernel([&q, &k, &v], Sees::Causally);
    (own.unpad(&out.transpose(1, 2)), own.unpad(&lse.transpose(1, 2).unsqueeze(-1)).squeeze_dim(-1))
}

/// `[B, S, K, E]` -> `[B, S, K * shared, E]`, each head's copies side by side.
pub(super) fn repeated(x: &Tensor, shared: i64) -> Tensor {
    if shared > 1 { x.repeat_interleave_self_int(shared, 2, None) } else { x.shallow_clone() }
}

/// Output and log-sum-exp `[B, H, Q]` f32 of libtorch's fused kernels on `[B, H, S, E]`.
fn kernel([q, k, v]: [&Tensor; 3], sees: Sees) -> (Tensor, Tensor) {
    let causal = sees == Sees::Causally;
    if q.device().is_cuda() {
        let (out, lse, _, _) = Tensor::internal_scaled_dot_product_efficient_attention::<&Tensor>(
            q,
            k,
            v,
            None,
            true,
            0.0,
            causal,
            None::<f64>,
        );
        // Its log-sum-exp is padded to a multiple of 32 rows.
        return (out, lse.narrow(2, 0, q.size()[2]));
    }
    Tensor::internal_scaled_dot_product_flash_attention_for_cpu::<&Tensor>(q, k, v, 0.0, causal, None, None::<f64>)
}

/// The same by explicit weights, and the frame attention `[R, F]` of the probed rows.
fn eager_group(
    group: &GroupRows,
    [q, k, v]: [&Tensor; 3],
    probe: Option<&FrameProbe>,
) -> (Tensor, Tensor, Option<Tensor>) {
    let prompt = [q, k, v].map(|x| x.narrow(0, 0, group.prompt).unsqueeze(0));
    let causal = Tensor::full([group.prompt; 2], f64::NEG_INFINITY, (wide_kind(q.kind()), q.device())).triu(1);
    let (mut out, mut lse, mut mass) = eager(&prompt, &causal, probe);
    if let Some(own) = &group.own {
        let behind = |x: &Tensor, prompt: &Tensor| {
            let own = own.pad(&x.narrow(0, group.prompt, own.rows));
            Tensor::cat(&[prompt.expand([own.size()[0], -1, -1, -1], false), own], 1)
        };
        let queries = own.pad(&q.narrow(0, group.prompt, own.rows));
        let rows = [queries, behind(k, &prompt[1]), behind(v, &prompt[2])];
        let (own_out, own_lse, own_mass) =
            eager(&rows, &own.mask(group.prompt, wide_kind(q.kind()), q.device()), probe);
        let unpadded = |x: Tensor| own.unpad(&x.unsqueeze(-1)).squeeze_dim(-1);
        out = Tensor::cat(&[out.flatten(0, 1), own.unpad(&own_out)], 0);
        lse = Tensor::cat(&[lse.flatten(0, 1), unpadded(own_lse)], 0);
        mass = mass.zip(own_mass).map(|(prompt, own)| Tensor::cat(&[prompt.flatten(0, 1), unpadded(own)], 0));
    } else {
        (out, lse, mass) = (out.flatten(0, 1), lse.flatten(0, 1), mass.map(|mass| mass.flatten(0, 1)));
    }
    (out, lse, mass.zip(probe).map(|(mass, probe)| mass.index_select(0, &probe.rows)))
}

/// q `[B, Q, H, E]`, keys and values `[B, S, K, E]`, mask `[Q, S]` -> out `[B, Q, H, E]`, log-sum-exp `[B, Q, H]`, and
/// the frame attention `[B, Q, F]` of all rows. Scores and softmax are in f32, as in the fused kernels.
pub(super) fn eager(
    [q, k, v]: &[Tensor; 3],
    mask: &Tensor,
    probe: Option<&FrameProbe>,
) -> (Tensor, Tensor, Option<Tensor>) {
    let shared = q.size()[2] / k.size()[2];
    let scale = (q.size()[3] as f64).powf(-0.5);
    let by_head = |x: &Tensor, shared: i64| wide(&repeated(x, shared).transpose(1, 2));
    let scores = by_head(q, 1).matmul(&by_head(k, shared).transpose(-2, -1)) * scale + mask;
    let lse = scores.logsumexp([-1].as_slice(), false).transpose(1, 2);
    let weights = scores.softmax(-1, scores.kind());
    let out = weights.to_kind(v.kind()).matmul(&repeated(v, shared).transpose(1, 2)).transpose(1, 2);
    let mass = probe.map(|probe| {
        let mass = weights.mean_dim(1, false, weights.kind()).index_select(-1, &probe.columns);
        mass.matmul(&probe.frames.to_kind(mass.kind()))
    });
    (out, lse, mass)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::qwen::frames::Run;

    /// A group and which of its rows are asked for; its video tokens are `video`, each with its frame.
    struct Case {
        prompt: i64,
        lengths: Vec<i64>,
        heads: [i64; 2],
        video: Vec<(i64, i64)>,
        rows: Option<Vec<i64>>,
    }

    fn probe(case: &Case, group: &GroupRows) -> FrameProbe {
        let rows = case.rows.clone().unwrap_or_else(|| group.predicting.clone());
        let (columns, frame_of): (Vec<_>, Vec<_>) = case.video.iter().copied().unzip();
        let frames = frame_of.iter().max().unwrap() + 1;
        let first = *rows.iter().min().unwrap();
        FrameProbe {
            first,
            rows: Tensor::from_slice(&rows),
            columns: Tensor::from_slice(&columns),
            frames: Tensor::from_slice(&frame_of).one_hot(frames).to_kind(Kind::Float),
            length: FrameProbe::length(&frame_of, frames),
            runs: Run::all(&columns, &frame_of),
            before: first < *columns.last().unwrap(),
        }
    }

    fn assert_close(found: &[&Tensor; 3], expected: &[&Tensor; 3], what: &str) {
        for ((found, expected), name) in found.iter().zip(expected).zip(["out", "lse", "mass"]) {
            assert_eq!(found.size(), expected.size(), "{name} {what}");
            let difference = (*found - *expected).abs().max().double_value(&[]);
            assert!(difference < 3e-6, "{name} {what}: {difference}");
        }
    }

    #[test]
    fn frame_attention_is_that_of_explicit_weights_whichever_way() {
        tch::manual_seed(6);
        let all = |start: i64, count: i64, length: i64| (start..).zip((0..count).map(move |token| token / length));
        let case = |prompt, lengths: &[i64], heads, video: Vec<(i64, i64)>, rows: Option<Vec<i64>>| Case {
            prompt,
            lengths: lengths.to_vec(),
            heads,
            video,
            rows,
        };
        // Two videos with something else between them, the second with frames of its own.
        let two: Vec<_> = all(3, 12, 4).chain(all(20, 10, 5).map(|(row, frame)| (row, frame + 3))).collect();
        let cases = [
            ("ragged completions", case(30, &[9, 1, 14, 3], [4, 2], all(2, 24, 6).collect(), None)),
            ("one key-value head", case(30, &[9, 9], [4, 1], all(2, 24, 6).collect(), None)),
            ("a key-value head for every head", case(30, &[9, 9], [2, 2], all(2, 24, 6).collect(), None)),
            ("completions of one token", case(30, &[1; 20], [4, 2], all(2, 24, 6).collect(), None)),
            ("two videos", case(34, &[10, 10], [4, 2], two.clone(), None)),
            ("rows inside the videos", case(34, &[5], [4, 2], two.clone(), Some((10..35).collect()))),
            ("all rows, backwards", case(34, &[5], [4, 2], two, Some((0..38).rev().collect()))),
            ("many blocks", case(1100, &[60, 45], [4, 2], all(5, 1090, 109).collect(), None)),
        ];
        for (what, case) in &cases {
            let pack = Pack::new(&[(case.prompt, case.lengths.clone())], Device::Cpu);
            let group = &pack.groups[0];
            let [heads, kv_heads] = case.heads;
            let [q, k, v] = [heads, kv_heads, kv_heads]
                .map(|heads| Tensor::randn([group.rows(), heads, 8], (Kind::Float, Device::Cpu)));
            let probe = probe(case, group);
            assert!(framewise::pays(&q, &probe), "{what}");
            let (out, lse, mass) = eager_group(group, [&q, &k, &v], Some(&probe));
            let expected = [&out, &lse, &mass.unwrap()];
            let (out, lse, mass) = framewise_group(group, [&q, &k, &v], &probe).unwrap();
            assert_close(&[&out, &lse, &mass], &expected, what);
            let (out, lse) = fused_group(group, [&q, &k, &v]);
            // All rows at once, a few and one at a time.
            for held in [i64::MAX, 5 * heads * probe.columns.size()[0], 1] {
                let mass = frame_mass([&q, &k, &lse], &probe, held);
                assert_close(&[&out, &lse, &mass], &expected, what);
            }
        }
    }
}
