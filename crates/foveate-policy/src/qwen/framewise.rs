//! Attention on a CPU that sums the weights of each frame up while they are there, in `framewise.cpp`. libtorch's
//! kernels keep their weights to themselves: with them scores are formed twice ([`super::frames::frame_mass`]).

use std::{
    f64::consts::LOG2_E,
    ffi::{c_char, c_int},
};

use tch::{Device, Kind, Tensor};

use super::{
    attention::joined,
    frames::{FrameProbe, Run},
};
use crate::{
    PolicyError,
    head::chunks,
    native::{Raw, checked, raw},
};

/// What a row sees, as the callee has it.
#[repr(C)]
struct Sight {
    first: i64,
    step: i64,
    runs: *const Run,
    count: usize,
}

unsafe extern "C" {
    fn foveate_framewise(
        q: Raw,
        k: Raw,
        v: Raw,
        sight: Sight,
        out: Raw,
        lse: Raw,
        mass: Raw,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
}

/// What rows have attended to, with frame attention.
#[derive(Debug)]
pub(super) struct Framewise {
    pub(super) out: Tensor,  // [Q, H, E]
    pub(super) lse: Tensor,  // [Q, H]
    pub(super) mass: Tensor, // [Q, F], mean over heads
}

/// Columns that rows attend to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) k: &'a Tensor, // [S, K, E]
    pub(super) v: &'a Tensor, // [S, K, E]
    /// The frames among them, in order.
    pub(super) runs: &'a [Run],
    /// Number of frames, F.
    pub(super) frames: i64,
}

/// Fewer rows than so many stay with libtorch's kernel: to form their scores twice costs next to nothing.
const MANY: i64 = 16;

/// Whether rows like q's are to be attended to in this way for the sake of this probe.
pub(super) fn pays(q: &Tensor, probe: &FrameProbe) -> bool {
    supports(q) && probe.rows.size()[0] >= MANY
}

fn supports(x: &Tensor) -> bool {
    x.device() == Device::Cpu && x.kind() == Kind::Float
}

/// Rows x heads x frames whose mass is held at a time.
const MASS_ELEMENTS: i64 = 1 << 22;

/// Attention of q `[Q, H, E]` over columns of which the first row sees the first `first`, every further row one more, and
/// none more than all; and over others before, whose output `[Q, H, E]` and log-sum-exp `[Q, H]` are given (0 and
/// -infinity of rows that have attended to nothing) and used up.
///
/// # Errors
/// [`PolicyError::Torch`] if the computation fails.
pub(super) fn framewise(
    q: &Tensor,
    columns: Columns<'_>,
    first: i64,
    before: [Tensor; 2],
) -> Result<Framewise, PolicyError> {
    let (rows, heads, _) = q.size3()?;
    let held = MASS_ELEMENTS / (heads * columns.frames).max(1);
    let (mut outs, mut lses, mut masses) = (Vec::new(), Vec::new(), Vec::new());
    for (start, count) in chunks(rows, held.max(1)) {
        let part = |x: &Tensor| x.narrow(0, start, count);
        let found = some_rows(&part(q), columns, first + start, before.each_ref().map(part))?;
        outs.push(found.out);
        lses.push(found.lse);
        masses.push(found.mass);
    }
    Ok(Framewise { out: joined(outs), lse: joined(lses), mass: joined(masses) })
}

fn some_rows(q: &Tensor, columns: Columns<'_>, first: i64, before: [Tensor; 2]) -> Result<Framewise, PolicyError> {
    let Columns { k, v, runs, frames } = columns;
    let (rows, heads, width) = q.size3()?;
    let (count, kv_heads, _) = k.size3()?;
    let shared = heads / kv_heads;
    // Rows of the query heads that share keys and values are one matrix: [Q, H, X] -> [K, Q * H/K, X].
    let together = |x: &Tensor| x.view([rows, kv_heads, shared, -1]).transpose(0, 1).flatten(1, 2).contiguous();
    let apart = |x: &Tensor| x.view([kv_heads, rows, shared, -1]).transpose(0, 1).reshape([rows, heads, -1]);
    let queries = together(&(q * (LOG2_E * (width as f64).powf(-0.5))));
    let [k, v] = [k, v].map(|x| x.transpose(0, 1));
    let [out, lse] = before.map(|x| together(&x));
    let mass = Tensor::zeros([kv_heads, rows * shared, frames], (Kind::Float, Device::Cpu));
    let sight = Sight { first, step: shared, runs: runs.as_ptr(), count: runs.len() };
    assert!([&queries, &k, &v, &out, &lse].iter().all(|x| supports(x)) && v.size() == k.size() && first > 0);
    assert!([&out, &lse].iter().all(|x| x.is_contiguous()) && out.size() == queries.size());
    let mut from = 0;
    for run in runs {
        assert!(run.first >= from && run.end <= count && (0..frames).contains(&run.frame), "{run:?}");
        from = run.end;
    }
    // SAFETY: the tensors are alive and, as asserted, f32 on the CPU, of equal width and contiguous where they must be; runs
    // are in order and within columns and frames; the message fits its size.
    checked(|message, size| unsafe {
        foveate_framewise(raw(&queries), raw(&k), raw(&v), sight, raw(&out), raw(&lse), raw(&mass), message, size)
    })?;
    // One dimension at a time: over both together libtorch takes eight times as long.
    let sum = |x: &Tensor, dim: i64| x.sum_dim_intlist([dim].as_slice(), false, Kind::Float);
    let mass = sum(&sum(&mass.view([kv_heads, rows, shared, frames]), 0), 1) / heads as f64;
    Ok(Framewise { out: apart(&out), lse: apart(&lse).squeeze_dim(-1), mass })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qwen::attention::eager;

    const FLOATS: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn difference(found: &Tensor, expected: &Tensor) -> f64 {
        assert_eq!(found.size(), expected.size());
        (found - expected).abs().max().double_value(&[])
    }

    /// Two frames, the second in two pieces, and columns of neither.
    fn runs(columns: i64) -> [Run; 3] {
        let [a, b, c] = [columns / 5, columns / 2, 3 * columns / 4];
        [(1, a, 0), (a, b, 1), (c, columns, 1)].map(|(first, end, frame)| Run { first, end, frame })
    }

    /// The same in f64 by explicit weights under a mask `[Q, S]`.
    fn explicit([q, k, v]: &[Tensor; 3], mask: &Tensor, runs: &[Run]) -> Framewise {
        let (count, _, _) = k.size3().unwrap();
        let frames = Tensor::zeros([count, 2], FLOATS);
        for run in runs {
            let _ = frames.narrow(0, run.first, run.end - run.first).select(1, run.frame).fill_(1.0);
        }
        let probe = FrameProbe {
            rows: Tensor::arange(q.size()[0], (Kind::Int64, Device::Cpu)),
            first: 0,
            columns: Tensor::arange(count, (Kind::Int64, Device::Cpu)),
            frames,
            length: None,
            runs: Vec::new(),
            before: false,
        };
        let exact = [q, k, v].map(|x| x.unsqueeze(0).to_kind(Kind::Double));
        let (out, lse, mass) = eager(&exact, &mask.to_kind(Kind::Double), Some(&probe));
        Framewise { out: out.get(0), lse: lse.get(0), mass: mass.unwrap().get(0) }
    }

    /// Of rows that have attended to nothing yet.
    fn nothing(q: &Tensor) -> [Tensor; 2] {
        [q.zeros_like(), q.select(2, 0).full_like(f64::NEG_INFINITY)]
    }

    #[test]
    fn it_is_attention_by_explicit_weights() {
        tch::manual_seed(1);
        // One block and several, of rows and of columns; rows that fill a block and do not.
        for (rows, columns) in [(1, 9), (5, 5), (64, 512), (70, 700), (300, 1100), (1000, 1100)] {
            let qkv = [(rows, 4), (columns, 2), (columns, 2)].map(|(n, heads)| Tensor::randn([n, heads, 8], FLOATS));
            let [q, k, v] = &qkv;
            let runs = runs(columns);
            // All columns seen by everybody; the last by the last row only; by the later half of the rows.
            for first in [columns, columns - rows + 1, columns - rows / 2] {
                let seen = (Tensor::arange(rows, FLOATS) + first as f64).clamp_max(columns as f64).unsqueeze(1);
                let hidden = Tensor::arange(columns, FLOATS).unsqueeze(0).ge_tensor(&seen);
                let mask = hidden.zeros_like().to_kind(Kind::Double).masked_fill(&hidden, f64::NEG_INFINITY);
                let expected = explicit(&qkv, &mask, &runs);
                let found = framewise(q, Columns { k, v, runs: &runs, frames: 2 }, first, nothing(q)).unwrap();
                assert!(difference(&found.out, &expected.out) < 2e-6, "{rows} {columns} {first}");
                assert!(difference(&found.lse, &expected.lse) < 2e-6, "{rows} {columns} {first}");
                assert!(difference(&found.mass, &expected.mass) < 1e-6, "{rows} {columns} {first}");
            }
        }
    }

    #[test]
    fn columns_may_come_in_parts() {
        tch::manual_seed(2);
        let qkv = [(40, 4), (90, 2), (90, 2)].map(|(n, heads)| Tensor::randn([n, heads, 8], FLOATS));
        let [q, k, v] = &qkv;
        // The first part has no frame.
        let part = |start: i64, count: i64| [k, v].map(|x| x.narrow(0, start, count));
        let ([early_k, early_v], [late_k, late_v]) = (part(0, 30), part(30, 60));
        let early = Columns { k: &early_k, v: &early_v, runs: &[], frames: 2 };
        let early = framewise(q, early, 30, nothing(q)).unwrap();
        assert_eq!(early.mass.abs().max().double_value(&[]), 0.0);
        let runs = [(0, 20, 0), (40, 60, 1)].map(|(first, end, frame)| Run { first, end, frame });
        let late = Columns { k: &late_k, v: &late_v, runs: &runs, frames: 2 };
        let found = framewise(q, late, 60, [early.out, early.lse]).unwrap();
        let runs = runs.map(|run| Run { first: run.first + 30, end: run.end + 30, ..run });
        let expected = explicit(&qkv, &Tensor::zeros([40, 90], FLOATS), &runs);
        assert!(difference(&found.out, &expected.out) < 2e-6);
        assert!(difference(&found.lse, &expected.lse) < 2e-6);
        assert!(difference(&found.mass, &expected.mass) < 1e-6);
    }

    #[test]
    fn scores_far_apart_neither_overflow_nor_vanish() {
        let q = Tensor::from_slice(&[300.0_f32, -300.0]).view([2, 1, 1]);
        let k = Tensor::from_slice(&[1.0_f32, -1.0, 1.0]).view([3, 1, 1]);
        let v = Tensor::from_slice(&[1.0_f32, 2.0, 4.0]).view([3, 1, 1]);
        let runs = [Run { first: 0, end: 1, frame: 0 }];
        let found = framewise(&q, Columns { k: &k, v: &v, runs: &runs, frames: 1 }, 3, nothing(&q)).unwrap();
        assert_eq!(Vec::<f32>::try_from(found.out.view(-1)).unwrap(), [2.5, 2.0]);
        assert!(difference(&found.mass.view(-1), &Tensor::from_slice(&[0.5_f32, 0.0])) < 1e-30);
        assert!(difference(&found.lse.view(-1), &Tensor::from_slice(&[300.0 + 2_f32.ln(), 300.0])) < 1e-4);
    }

    #[test]
    fn what_is_no_number_stays_none() {
        // Two blocks of columns.
        let [k, v] = [(); 2].map(|()| Tensor::randn([700, 2, 8], FLOATS));
        for bad in [f64::NAN, f64::INFINITY] {
            let q = Tensor::randn([3, 4, 8], FLOATS);
            let _ = q.get(1).fill_(bad);
            let found = framewise(&q, Columns { k: &k, v: &v, runs: &[], frames: 1 }, 700, nothing(&q)).unwrap();
            let finite = found.out.isfinite().all_dims([1, 2].as_slice(), false);
            assert_eq!(Vec::<bool>::try_from(finite).unwrap(), [true, false, true], "{bad}");
        }
    }
}
