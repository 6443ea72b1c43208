//! The state-space recurrence of Mamba-2 (Dao and Gu 2024, arXiv 2405.21060): in chunks for many positions at once, and
//! one position at a time.
//!
//! ```text
//! state_t = exp(a_t) state_{t-1} + x_t B_t^T          y_t = state_t C_t
//! ```
//!
//! Shapes in comments: B rows, S positions, H heads, P head dim, G groups that share B and C among H / G heads, N state
//! size, Q positions of a chunk, K chunks.

use tch::{Kind, Tensor};

/// What a scan runs over, of each position.
#[derive(Debug)]
pub(super) struct Inputs {
    /// Inputs times their time steps, `[B, S, H, P]`.
    pub(super) x: Tensor,
    /// Logarithms of the decays, at most 0: `[B, S, H]`.
    pub(super) a: Tensor,
    /// What is written to the state, `[B, S, G, N]`.
    pub(super) b: Tensor,
    /// What is read from it, `[B, S, G, N]`.
    pub(super) c: Tensor,
}

/// The whole sequence: `y` `[B, S, H, P]` and the state after it `[B, H, P, N]`, from the state before it.
///
/// Within a chunk positions see each other as in attention (the paper's section 6, listing 1); from chunk to chunk only
/// the state goes on. Time and memory are linear in S.
pub(super) fn scan(inputs: &Inputs, before: &Tensor, chunk: i64) -> (Tensor, Tensor) {
    let (rows, length, heads, width) = inputs.x.size4().unwrap_or_default();
    let (groups, size) = (inputs.b.size()[2], inputs.b.size()[3]);
    let chunk = chunk.min(length);
    let chunks = (length + chunk - 1) / chunk;
    let shared = heads / groups;
    // Positions that fill the last chunk up write nothing and let nothing decay.
    let cut = |x: &Tensor| {
        let mut shape = x.size();
        shape[1] = chunks * chunk - length;
        let filled = match shape[1] {
            0 => x.shallow_clone(),
            _ => Tensor::cat(&[x, &Tensor::zeros(shape.as_slice(), (x.kind(), x.device()))], 1),
        };
        shape.splice(0..2, [rows, chunks, chunk]);
        filled.reshape(shape.as_slice())
    };
    let x = cut(&inputs.x).view([rows, chunks, chunk, groups, shared, width]).permute([0, 1, 3, 4, 2, 5]); // [B,K,G,R,Q,P]
    let a = cut(&inputs.a).view([rows, chunks, chunk, groups, shared]).permute([0, 1, 3, 4, 2]); // [B,K,G,R,Q]
    let b = cut(&inputs.b).permute([0, 1, 3, 2, 4]).unsqueeze(3); // [B,K,G,1,Q,N]
    let c = cut(&inputs.c).permute([0, 1, 3, 2, 4]).unsqueeze(3);

    let total = a.cumsum(-1, a.kind()); // decay from the chunk's start through each position
    let later = Tensor::ones([chunk, chunk], (Kind::Bool, a.device())).triu(1);
    let decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(&later, f64::NEG_INFINITY).exp(); // [B,K,G,R,Q,Q]
    let within = (c.matmul(&b.transpose(-2, -1)) * decay).matmul(&x); // [B,K,G,R,Q,P]

    let last = total.narrow(-1, chunk - 1, 1); // [B,K,G,R,1]
    let kept = &x * (&last - &total).exp().unsqueeze(-1);
    let written = kept.transpose(-2, -1).matmul(&b); // [B,K,G,R,P,N]
    let through = last.exp().unsqueeze(-1); // [B,K,G,R,1,1]
    let mut state = before.view([rows, groups, shared, width, size]);
    let mut states = Vec::with_capacity(chunks as usize);
    for index in 0..chunks {
        let next = &state * through.select(1, index) + written.select(1, index);
        states.push(std::mem::replace(&mut state, next));
    }
    let states = Tensor::stack(&states, 1); // before each chunk, [B,K,G,R,P,N]
    let across = c.matmul(&states.transpose(-2, -1)) * total.exp().unsqueeze(-1);
    let y = (within + across).permute([0, 1, 4, 2, 3, 5]).reshape([rows, chunks * chunk, heads, width]);
    (y.narrow(1, 0, length), state.reshape([rows, heads, width, size]))
}

/// One position: `y` `[B, 1, H, P]` and the state after it.
pub(super) fn step(inputs: &Inputs, before: &Tensor) -> (Tensor, Tensor) {
    let (_, _, heads, _) = inputs.x.size4().unwrap_or_default();
    let shared = heads / inputs.b.size()[2];
    let per_head = |x: &Tensor| x.squeeze_dim(1).repeat_interleave_self_int(shared, 1, None); // [B, H, N]
    let written = inputs.x.squeeze_dim(1).unsqueeze(-1) * per_head(&inputs.b).unsqueeze(-2);
    let state = before * inputs.a.squeeze_dim(1).exp().unsqueeze(-1).unsqueeze(-1) + written; // [B, H, P, N]
    let y = state.matmul(&per_head(&inputs.c).unsqueeze(-1)).squeeze_dim(-1);
    (y.unsqueeze(1), state)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::Device;

    use super::*;

    const F64: (Kind, Device) = (Kind::Double, Device::Cpu);

    fn inputs(rows: i64, length: i64, heads: i64, groups: i64) -> (Inputs, Tensor) {
        let inputs = Inputs {
            x: made(&[rows, length, heads, 3], 0.1),
            a: -made(&[rows, length, heads], 0.7).abs() * 2.0,
            b: made(&[rows, length, groups, 5], 1.3),
            c: made(&[rows, length, groups, 5], 2.1),
        };
        (inputs, made(&[rows, heads, 3, 5], 3.7))
    }

    /// Numbers that look like any, the same each time.
    fn made(shape: &[i64], phase: f64) -> Tensor {
        let count: i64 = shape.iter().product();
        ((Tensor::arange(count, F64) * 7.31 + phase).sin() * 1.5).view(shape)
    }

    /// The definition, number by number.
    fn recurrence(inputs: &Inputs, before: &Tensor) -> (Tensor, Tensor) {
        let (rows, length, heads, width) = inputs.x.size4().unwrap();
        let (groups, size) = (inputs.b.size()[2], inputs.b.size()[3]);
        let (state, y) = (before.copy(), inputs.x.zeros_like());
        let at = |x: &Tensor, index: &[i64]| x.double_value(index);
        for (row, t, head, p) in places(rows, length, heads, width) {
            let group = head / (heads / groups);
            let decay = at(&inputs.a, &[row, t, head]).exp();
            let mut out = 0.0;
            for n in 0..size {
                let written = at(&inputs.x, &[row, t, head, p]) * at(&inputs.b, &[row, t, group, n]);
                let value = decay * at(&state, &[row, head, p, n]) + written;
                let _ = state.get(row).get(head).get(p).get(n).fill_(value);
                out += value * at(&inputs.c, &[row, t, group, n]);
            }
            let _ = y.get(row).get(t).get(head).get(p).fill_(out);
        }
        (y, state)
    }

    fn places(rows: i64, length: i64, heads: i64, width: i64) -> impl Iterator<Item = (i64, i64, i64, i64)> {
        let flat = 0..rows * length * heads * width;
        flat.map(move |i| (i / (length * heads * width), i / (heads * width) % length, i / width % heads, i % width))
    }

    fn close(a: &Tensor, b: &Tensor) -> bool {
        a.size() == b.size() && (a - b).abs().max().double_value(&[]) < 1e-10
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_chunked_scan_is_the_step_form_is_the_recurrence(
            rows in 1..3_i64, length in 1..14_i64, shared in 1..3_i64, groups in 1..3_i64, chunk in 1..17_i64,
        ) {
            let (inputs, before) = inputs(rows, length, shared * groups, groups);
            let (expected, last) = recurrence(&inputs, &before);
            let (y, state) = scan(&inputs, &before, chunk);
            prop_assert!(close(&y, &expected) && close(&state, &last));

            let part = |start, length| Inputs {
                x: inputs.x.narrow(1, start, length),
                a: inputs.a.narrow(1, start, length),
                b: inputs.b.narrow(1, start, length),
                c: inputs.c.narrow(1, start, length),
            };
            let mut state = before.shallow_clone();
            for t in 0..length {
                let (y, next) = step(&part(t, 1), &state);
                prop_assert!(close(&y, &expected.narrow(1, t, 1)));
                state = next;
            }
            prop_assert!(close(&state, &last));

            // A sequence may be scanned in two parts.
            let first = length / 2;
            if first > 0 {
                let (one, between) = scan(&part(0, first), &before, chunk);
                let (other, state) = scan(&part(first, length - first), &between, chunk);
                prop_assert!(close(&Tensor::cat(&[one, other], 1), &expected) && close(&state, &last));
            }
        }
    }
}
